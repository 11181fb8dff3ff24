// What is being done with the replicas of one service, and which facts about them are older than that.
//
//            begin(.launch)                end
//   (idle) ────────────────▶ launching ──────────▶ (idle, perhaps with a failure to tell)
//      └──── begin(.stop) ──▶ stopping ──────────▶
//                                ▲ launching, too: the launch is called off first
//
// Every begin and every end makes a replica's facts stale: whoever goes to find facts out takes `marks` along and
// offers what was found with them; what is about a replica that was touched since is not used.
//
// A plain table; the Controller owns one per service.

struct Operations {
  enum Kind: Hashable { case launch, stop }

  /// Names one operation, so that the end of an earlier one is not taken for it.
  struct Ticket: Hashable {
    let id: Int
    fileprivate let number: Int
  }

  private struct Running {
    var kind: Kind
    var number: Int
    var detail: String?
    /// Waits for room rather than doing anything.
    var isWaiting = false
    var task: Task<Void, Never>?
  }

  private var running: [Int: Running] = [:]
  private var failures: [Int: OperationFact] = [:]
  /// Begins and ends so far, and for each replica the last of them.
  private var count = 0
  private var touched: [Int: Int] = [:]

  // MARK: What goes on

  var facts: [Int: OperationFact] {
    var facts = failures
    for (id, operation) in running {
      switch operation.kind {
      case .launch: facts[id] = .launching(detail: operation.detail)
      case .stop: facts[id] = .stopping
      }
    }
    return facts
  }

  func kind(_ id: Int) -> Kind? { running[id]?.kind }
  /// Launches that do something; those that wait for room hold nobody up.
  var launches: Int { running.values.count { $0.kind == .launch && !$0.isWaiting } }
  var isEmpty: Bool { running.isEmpty }
  var tasks: [Task<Void, Never>] { running.values.compactMap(\.task) }
  func task(_ id: Int) -> Task<Void, Never>? { running[id]?.task }

  // MARK: Changes

  /// What ran on the replica before is superseded: its end counts no more.
  mutating func begin(_ kind: Kind, _ id: Int) -> Ticket {
    touch(id)
    failures[id] = nil
    running[id] = Running(kind: kind, number: count)
    return Ticket(id: id, number: count)
  }

  mutating func attach(_ task: Task<Void, Never>, to ticket: Ticket) {
    if running[ticket.id]?.number == ticket.number { running[ticket.id]!.task = task }
  }

  /// False: nothing new.
  mutating func progress(_ ticket: Ticket, _ detail: String, isWaiting: Bool) -> Bool {
    guard let operation = running[ticket.id], operation.number == ticket.number,
      operation.detail != detail || operation.isWaiting != isWaiting
    else { return false }
    running[ticket.id]!.detail = detail
    running[ticket.id]!.isWaiting = isWaiting
    return true
  }

  /// False: it had been superseded.
  mutating func end(_ ticket: Ticket, failure: OperationFact?) -> Bool {
    guard running[ticket.id]?.number == ticket.number else { return false }
    running[ticket.id] = nil
    failures[ticket.id] = failure
    touch(ticket.id)
    return true
  }

  /// Keeps no more than is needed of replicas that are not in `known`; what was found out since `marks` is the oldest
  /// that may still be offered.
  mutating func tidy(known: some Collection<Int>, marks: Marks) {
    let known = Set(known)
    failures = failures.filter { known.contains($0.key) }
    touched = touched.filter { known.contains($0.key) || running[$0.key] != nil || $0.value > marks.count }
  }

  private mutating func touch(_ id: Int) {
    count += 1
    touched[id] = count
  }

  // MARK: The age of facts

  struct Marks { fileprivate let count: Int }

  var marks: Marks { Marks(count: count) }

  /// Whether what was found out from `marks` on still says how the replica is.
  func isFresh(_ id: Int, since marks: Marks) -> Bool {
    running[id] == nil && touched[id, default: 0] <= marks.count
  }
}
