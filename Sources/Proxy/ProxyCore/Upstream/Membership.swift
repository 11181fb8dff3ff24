// Which replica has which place on the load board. Replica lists come in (from the controller, or from --replica and
// its resolver), places on the board are given and taken; everything that prints a replica's id asks here.
//
//              new in a list                    not in the next list            in flight 0, and settled
//   (no place) ─────────────▶ ready ⇄ draining ──────────────────────▶ leaving ─────────────────────────▶ (no place)
//
// Used by the admin thread alone, and by main before that thread starts. The one part others read is `names`.

import ProxyWire
import Synchronization

/// Why a replica list was not taken. Nothing has changed then.
package enum SnapshotRefusal: Error, Equatable {
  /// An older list, delayed on its way.
  case older(version: UInt64, applied: UInt64)
  /// The same version with another content: its sender counts wrongly.
  case differs(version: UInt64)
  case emptyUnasked
  /// What is wrong with which entry.
  case entry(index: Int, field: String, reason: String)
  case tooMany(count: Int, limit: Int)
  /// Places are still held by replicas that have left the list.
  case noRoom(wanted: Int, free: Int, leaving: Int)
  case policyFixed(wanted: PolicyName, running: PolicyName)

  /// HTTP status of the answer. 507 Insufficient Storage (RFC 4918 11.5): the request is right, the room is not there.
  package var status: Int {
    switch self {
    case .older, .differs: 409
    case .emptyUnasked, .entry, .policyFixed: 400
    case .tooMany, .noRoom: 507
    }
  }
}

extension SnapshotRefusal: CustomStringConvertible {
  package var description: String {
    switch self {
    case .older(let version, let applied):
      "version \(version) is older than \(applied), which is applied; send the current list with a higher version"
    case .differs(let version):
      "version \(version) is applied with another content; give the changed list a higher version"
    case .emptyUnasked:
      "replicas: the list is empty, which would stop all traffic; add \"allow_empty\": true if it is meant"
    case .entry(let index, let field, let reason): "replicas[\(index)].\(field): \(reason)"
    case .tooMany(let count, let limit):
      "replicas: \(count) replicas are more than \(limit); start with a larger --max-replicas"
    case .noRoom(let wanted, let free, let leaving):
      "replicas: \(wanted) new replicas, room for \(free), as \(leaving) that left are still finishing requests; "
        + "send the list again when they have, or start with a larger --max-replicas"
    case .policyFixed(let wanted, let running):
      "policy: \(quoted(wanted.rawValue)) cannot replace \(quoted(running.rawValue)) while running; "
        + "start with --policy \(wanted.rawValue)"
    }
  }
}

/// What a list changed.
package struct AppliedSnapshot: Equatable, Sendable {
  package var version: UInt64
  package var replicas = 0
  package var added = 0
  package var removed = 0
  /// Board indices of those that began to drain.
  package var drained: [Int] = []
}

/// One replica on the board.
package struct Member: Sendable {
  package typealias State = ReplicaStatus.Status

  package var entry: ReplicaEntry
  /// Its place on the board, and the board's generation of that place.
  package var index: Int
  package var boardGeneration: UInt32
  /// When it left the list, nanoseconds; nil while it is on it.
  package var leftAt: UInt64?
  /// Since when it gets nothing new because it drains or has left, nanoseconds; nil while it may be picked. Its own
  /// drain deadline counts from here, so that leaving the list does not prolong a drain.
  package var drainsSince: UInt64?
}

// Safe to share: touched by main before the admin thread starts, and by the admin thread alone from then on. Other
// threads read `names`, which has a lock of its own.
package final class Membership: @unchecked Sendable {
  /// A worker that chose a replica just before it left confirms or undoes that within this time, so only then may its
  /// place be given to another.
  package static let settleNs: UInt64 = 1_000_000_000

  package let board: LoadBoard
  package let counters: [CounterSet]
  /// Ids for other threads.
  package let names: ReplicaNames
  package let replicasMax: Int
  /// The version in force; nil before the first snapshot. Lists from --replica have none.
  package private(set) var version: UInt64?
  package private(set) var policy: PolicyName
  /// In the order of the list, then those that are leaving.
  package private(set) var members: [Member] = []

  /// Positions in `members` of those on the list.
  private var positions: [String: Int] = [:]
  /// The snapshot in force, to tell a repetition from a contradiction.
  private var last: ReplicaSnapshot?
  private let canChangePolicy: Bool
  /// Called when a moment is set at which exchanges have to end: a worker that sleeps would not hear of it.
  private var wakeWorkers: () -> Void = {}

  /// - Parameters:
  ///   - counters: of every worker; a place's counts start again when it is given to another replica.
  ///   - replicasMax: replicas on a list. The board should have twice as many places: replacing all of them at once
  ///     needs both sets until the old ones have finished.
  ///   - defaultMaxInFlight: of a replica whose entry says 0; 0 = no limit.
  ///   - drainDeadlineNs: from when a snapshot leaves a replica out whose entry named none; 0 = no deadline.
  package init(
    board: LoadBoard, counters: [CounterSet], replicasMax: Int, defaultMaxInFlight: Int = 0,
    drainDeadlineNs: UInt64 = 0, policy: PolicyName = .leastLoad, canChangePolicy: Bool = false
  ) {
    precondition(counters.allSatisfy { $0.capacity >= board.capacity }, "counters for every place of the board")
    self.board = board
    self.counters = counters
    self.replicasMax = min(replicasMax, board.capacity)
    self.defaultMaxInFlight = defaultMaxInFlight
    self.drainDeadlineNs = drainDeadlineNs
    self.policy = policy
    self.canChangePolicy = canChangePolicy
    names = ReplicaNames(capacity: board.capacity)
  }

  private let defaultMaxInFlight: Int
  private let drainDeadlineNs: UInt64

  /// Before the first list.
  package func onCut(_ wakeWorkers: @escaping () -> Void) { self.wakeWorkers = wakeWorkers }

  /// Puts a snapshot in force, all of it or nothing.
  package func apply(_ snapshot: ReplicaSnapshot, now: UInt64) throws(SnapshotRefusal) -> AppliedSnapshot {
    if let version {
      if snapshot.version < version { throw .older(version: snapshot.version, applied: version) }
      if snapshot.version == version, let last {
        guard last.replicas == snapshot.replicas, last.policy == snapshot.policy else {
          throw .differs(version: version)
        }
        return AppliedSnapshot(version: version, replicas: snapshot.replicas.count)
      }
    }
    if snapshot.replicas.isEmpty, !snapshot.allowEmpty { throw .emptyUnasked }
    if let wanted = snapshot.policy, wanted != policy, !canChangePolicy {
      throw .policyFixed(wanted: wanted, running: policy)
    }
    var result = try replace(with: snapshot.replicas, drainDeadlineNs: drainDeadlineNs, now)
    version = snapshot.version
    last = snapshot
    policy = snapshot.policy ?? policy
    result.version = snapshot.version
    board.shared.pointee.version.store(snapshot.version, ordering: .releasing)
    board.shared.pointee.tellNews()
    return result
  }

  /// Puts the list of --replica in force. Nil: a snapshot has replaced that list for good.
  package func apply(standalone entries: [ReplicaEntry], now: UInt64) throws(SnapshotRefusal) -> AppliedSnapshot? {
    guard version == nil else { return nil }
    // No drain deadline: that a name leads elsewhere now does not say that the replica is to end.
    let result = try replace(with: entries, drainDeadlineNs: 0, now)
    board.shared.pointee.tellNews()
    return result
  }

  /// Forgets those that left and have finished.
  package func sweep(now: UInt64) {
    members.removeAll { member in
      guard let leftAt = member.leftAt else { return false }
      guard isSettled(member.index, leftAt, now) else { return false }
      board.setCut(member.index, at: 0)
      return true
    }
  }

  /// `members` less those that left and have nothing in flight any more.
  package var listed: [Member] { members.filter { $0.leftAt == nil || !board.isFree($0.index) } }

  package func member(_ id: String) -> Member? { positions[id].map { members[$0] } }

  package func state(of member: Member) -> Member.State {
    if member.leftAt != nil { return .leaving }
    let gate = board.gates[member.index].load(ordering: .relaxed)
    if gate & Gate.draining != 0 { return .draining }
    return gate & Gate.ejected != 0 ? .ejected : .ready
  }

  package func inFlight(_ member: Member) -> UInt32 { board.inFlight[member.index].load(ordering: .acquiring) }

  /// What all workers counted of a replica.
  package func total(_ member: Member) -> ReplicaCounters {
    sumWords(counters.map { $0.replicas + member.index })
  }
}

// MARK: - From one list to the next

extension Membership {
  private struct Change {
    /// Entries that have a place, and where in `members`.
    var kept: [(entry: Int, position: Int)] = []
    var new: [Int] = []
    var addresses: [SocketAddress] = []
    /// Places for `new`.
    var places: [Int] = []
  }

  /// - Parameter drainDeadlineNs: of replicas left out whose entry named none; 0 = no deadline.
  private func replace(
    with entries: [ReplicaEntry], drainDeadlineNs: UInt64, _ now: UInt64
  ) throws(SnapshotRefusal) -> AppliedSnapshot {
    sweep(now: now)
    let change = try plan(entries, now)
    let result = carryOut(change, entries, now)
    setCuts(drainDeadlineNs, now)
    return result
  }

  /// Everything that can go wrong goes wrong here.
  private func plan(_ entries: [ReplicaEntry], _ now: UInt64) throws(SnapshotRefusal) -> Change {
    if entries.count > replicasMax { throw .tooMany(count: entries.count, limit: replicasMax) }
    var change = Change()
    var seen: [String: Int] = [:]
    seen.reserveCapacity(entries.count)
    for (index, entry) in entries.enumerated() {
      if let first = seen.updateValue(index, forKey: entry.id) {
        throw .entry(
          index: index, field: "id", reason: "\(quoted(entry.id)) is already replicas[\(first)]; every id is used once")
      }
      if let position = positions[entry.id], members[position].entry.generation == entry.generation,
        members[position].entry.address == entry.address
      {
        change.kept.append((index, position))
        continue
      }
      guard let address = SocketAddress(entry.address) else {
        let shown = quoted(entry.address.description)
        let reason =
          if case .name = entry.address {
            "\(shown) is a name; send its address (names are looked up only where --replica gives them)"
          } else {
            "\(shown) fits no socket address; \(Endpoint.forms)"
          }
        throw .entry(index: index, field: "address", reason: reason)
      }
      change.new.append(index)
      change.addresses.append(address)
    }
    if !change.new.isEmpty {
      var isTaken = [Bool](repeating: false, count: board.capacity)
      var leaving = 0
      for member in members {
        isTaken[member.index] = true
        if member.leftAt != nil { leaving += 1 }
      }
      // The lowest places first: the pick scans up to the highest that was ever used.
      for place in 0..<board.capacity where change.places.count < change.new.count {
        if !isTaken[place], board.isFree(place) { change.places.append(place) }
      }
      if change.places.count < change.new.count {
        throw .noRoom(wanted: change.new.count, free: change.places.count, leaving: leaving)
      }
    }
    return change
  }

  /// Nothing here can fail. New replicas open before old ones shut, so that there is always one to choose.
  private func carryOut(_ change: Change, _ entries: [ReplicaEntry], _ now: UInt64) -> AppliedSnapshot {
    var result = AppliedSnapshot(version: version ?? 0, replicas: entries.count)
    var next = [Member?](repeating: nil, count: entries.count)
    var isKept = [Bool](repeating: false, count: members.count)

    // Before the first exchange of a new replica can end and be logged.
    names.add(zip(change.new, change.places).map { ($1, board.places[$1].generation &+ 1, entries[$0].id) })
    for ((index, place), address) in zip(zip(change.new, change.places), change.addresses) {
      let entry = entries[index]
      // The counts of a place that nobody has had are zero, and their memory is not there yet.
      if board.places[place].generation != 0 { for set in counters { set.reset(place) } }
      board.admit(
        place, at: address, weight: entry.weight, maxInFlight: limit(entry), draining: entry.state == .draining)
      next[index] = Member(
        entry: entry, index: place, boardGeneration: board.places[place].generation,
        drainsSince: entry.state == .draining ? now : nil)
      if entry.state == .draining { result.drained.append(place) }
    }
    result.added = change.new.count

    var drained: [Int] = []
    for (index, position) in change.kept {
      var member = members[position]
      let entry = entries[index]
      isKept[position] = true
      if member.entry.weight != entry.weight || member.entry.maxInFlight != entry.maxInFlight {
        board.adjust(member.index, weight: entry.weight, maxInFlight: limit(entry))
      }
      if member.entry.state != entry.state {
        if entry.state == .draining {
          drained.append(member.index)
          member.drainsSince = now
        } else {
          board.setDraining(member.index, false)
          member.drainsSince = nil
        }
      }
      member.entry = entry
      next[index] = member
    }
    for place in drained { board.setDraining(place, true) }
    result.drained += drained

    var leaving: [Member] = []
    for (position, member) in members.enumerated() where !isKept[position] {
      var member = member
      if member.leftAt == nil {
        board.remove(member.index)
        member.leftAt = now
        member.drainsSince = member.drainsSince ?? now
        result.removed += 1
      }
      leaving.append(member)
    }

    members = next.map { member in
      guard let member else { preconditionFailure("an entry was neither kept nor new") }
      return member
    }
    positions.removeAll(keepingCapacity: true)
    for (position, member) in members.enumerated() { positions[member.entry.id] = position }
    members.append(contentsOf: leaving)
    return result
  }

  /// After the gates are shut, so that nothing new comes to a replica that is cut. Replicas that left with an earlier
  /// list keep what that list meant for them.
  private func setCuts(_ drainDeadlineNs: UInt64, _ now: UInt64) {
    var isSet = false
    for member in members where member.leftAt == nil || member.leftAt == now {
      let time = cut(member, drainDeadlineNs)
      if board.setCut(member.index, at: time) && time != 0 { isSet = true }
    }
    if isSet { wakeWorkers() }
  }

  /// When the exchanges of a replica end; 0: in their own time. One that drains is still its sender's business: it may
  /// be one that is busy for a while and comes back, so it is cut only where its entry says when.
  private func cut(_ member: Member, _ drainDeadlineNs: UInt64) -> UInt64 {
    let deadline = member.entry.drainDeadline.map { UInt64(($0 * 1e9).rounded()) }
    let since = deadline == nil ? member.leftAt : member.drainsSince
    let deadlineNs = deadline ?? drainDeadlineNs
    guard let since, deadlineNs != 0 else { return 0 }
    return since &+ deadlineNs
  }

  private func limit(_ entry: ReplicaEntry) -> UInt32 {
    UInt32(clamping: entry.maxInFlight == 0 ? defaultMaxInFlight : entry.maxInFlight)
  }

  private func isSettled(_ index: Int, _ leftAt: UInt64, _ now: UInt64) -> Bool {
    board.isFree(index) && now >= leftAt &+ Membership.settleNs
  }
}

// MARK: - Names for other threads

/// The ids of replicas by board place and generation, for threads that meet places in records. A place's former owner
/// is remembered too: what it did may be written down after the place was given away.
package final class ReplicaNames: Sendable {
  package struct Table: Sendable {
    fileprivate struct Name {
      var generation: UInt32 = 0
      var id = ""
      var formerGeneration: UInt32 = 0
      var formerId = ""
    }
    fileprivate var names: [Name] = []

    package init() {}

    package subscript(replica: UInt32, generation: UInt32) -> String? {
      guard Int(replica) < names.count else { return nil }
      let name = names[Int(replica)]
      if name.generation == generation, generation != 0 { return name.id }
      return name.formerGeneration == generation && generation != 0 ? name.formerId : nil
    }
  }

  private let current: Mutex<Table>

  package init(capacity: Int) {
    var table = Table()
    table.names = Array(repeating: Table.Name(), count: capacity)
    current = Mutex(table)
  }

  /// As of now; stays as it is while it is read.
  package var table: Table { current.withLock { $0 } }

  func add(_ names: [(place: Int, generation: UInt32, id: String)]) {
    if names.isEmpty { return }
    current.withLock { table in
      for (place, generation, id) in names {
        let former = table.names[place]
        table.names[place] = Table.Name(
          generation: generation, id: id, formerGeneration: former.generation, formerId: former.id)
      }
    }
  }
}
