// A simulated world for the reconciler: machines that start slowly, hang, fail, vanish; a proxy with requests under way;
// a controller that dies between any two of its steps. Time is a number, chance has a seed.
//
//   Fleet.step ─ the world moves ─ facts ─ Reconciler.plan ─┬─ store ─┬─ publish ─┬─ action ─┬─ action …
//                                                           ✂         ✂           ✂          ✂   the controller may die
//
// It checks after every step what must always hold, and says at which step of which seed it did not.

import ProxyWire
import SimKit

@testable import ControlCore

struct Fleet {
  struct Trouble {
    /// Chances per step, in parts of 1000.
    var crash = 0
    var preempt = 0
    var kill = 0
    var hang = 0
    var launchFails = 0
    var stopFails = 0
    var proxyDies = 0
    var unreachable = 0
    static let none = Trouble()
  }

  enum Body { case partial, up }

  struct SimMachine {
    var body = Body.partial
    var version = 0
    var job = Machine.Job.running
    var readyAt = 0.0
    var hangs = false
    var isSpot = false
  }

  struct Operation {
    var stop: Bool
    var endsAt: Double
    var fails: Bool
    var attempt: Int
  }

  var chance: Chance
  var now = 1_000_000.0
  var trouble = Trouble.none
  /// What the store has.
  var control = ControlState()
  let name = "web"

  // The controller's memory, lost when it dies.
  var memory: ServiceState?
  var facts: [Int: InfraFact] = [:]
  var operations: [Int: Operation] = [:]
  var failures: [Int: OperationFact] = [:]
  var probes: [Int: ProbeFact] = [:]
  var orders: [ProbeOrder] = []
  var proxyHeard = false

  // The world.
  var machines: [Int: SimMachine] = [:]
  var proxyRuns = false
  var proxyVersion: UInt64 = 0
  var proxyEntries: [Int: Bool] = [:]  // true: takes requests
  var inFlight: [Int: Int] = [:]
  var load = 0.0
  var pendingArrivals = 0
  /// Versions whose command exits at once.
  var brokenVersions: Set<Int> = []
  /// Seconds from launch to the first good probe.
  var startSeconds = 30.0
  var launchSlots = Int.max

  // What happened.
  var launches: [Int: Int] = [:]
  var problems: [String] = []
  var steps = 0
  var targetMax = 0
  var forgotten = false

  init(chance: Chance) { self.chance = chance }

  var state: ServiceState? { memory ?? control.services[name] }

  mutating func roll(_ parts: Int) -> Bool { parts > 0 && chance.below(1000) < parts }

  mutating func problem(_ text: String) { problems.append("step \(steps) t=\(Int(now - 1_000_000)): \(text)") }

  // MARK: Commands

  mutating func ask(_ mutations: [Mutation]) {
    for mutation in mutations { control.apply(mutation) }
    // The journal has the scaler as of the last look; the memory has the arrivals since.
    memory = control.services[name]
  }

  // MARK: The world

  mutating func moveWorld(_ seconds: Double) {
    now += seconds
    for id in operations.keys.sorted() where operations[id]!.endsAt <= now {
      let operation = operations.removeValue(forKey: id)!
      facts[id] = nil
      if operation.stop {
        if operation.fails {
          failures[id] = .stopFailed(attempt: operation.attempt, reason: "the cloud says no")
        } else {
          machines[id] = nil
          inFlight[id] = nil
        }
      } else if operation.fails {
        failures[id] = .launchFailed(reason: "no capacity")
        if chance.below(2) == 0 { machines[id] = nil }
      } else if machines[id] != nil {
        machines[id]!.body = .up
        machines[id]!.readyAt = now + startSeconds * Double(1 + chance.below(3)) / 2
        machines[id]!.hangs = roll(trouble.hang)
        if brokenVersions.contains(machines[id]!.version) { machines[id]!.job = .failed(reason: "exit 1") }
      }
    }
    for id in machines.keys.sorted() where operations[id] == nil {
      if roll(trouble.preempt) {
        machines[id] = nil
        inFlight[id] = nil
      } else if roll(trouble.kill), machines[id]!.body == .up {
        machines[id]!.job = .failed(reason: "killed")
        inFlight[id] = nil
      } else if roll(trouble.hang) {
        machines[id]!.hangs = true
      }
    }
    if proxyRuns, roll(trouble.proxyDies) {
      proxyRuns = false
      inFlight = [:]
    }
    if proxyRuns {
      pendingArrivals += Int(load * seconds)
      for id in proxyEntries.keys.sorted() {
        let takes = proxyEntries[id]!
        let current = inFlight[id] ?? 0
        inFlight[id] = max(0, current - chance.below(3) + (takes && machines[id] != nil ? chance.below(3) : 0))
      }
    } else {
      proxyEntries = [:]
      proxyVersion = 0
    }
    if !proxyRuns || chance.below(4) == 0 { proxyHeard = proxyRuns || proxyHeard }
    for id in machines.keys.sorted() where operations[id] == nil && chance.below(2) == 0 {
      if roll(trouble.unreachable) {
        facts[id] = .unreachable
      } else {
        poll(id)
      }
    }
    for id in (state?.replicas ?? [:]).keys.sorted() where machines[id] == nil && operations[id] == nil {
      if chance.below(2) == 0 { facts[id] = .absent }
    }
    for order in orders where machines[order.id] != nil || facts[order.id] != nil {
      let machine = machines[order.id]
      let isRunning = machine.map { $0.body == .up && $0.job == .running && !$0.hangs && $0.readyAt <= now } ?? false
      if chance.below(2) == 0 { probes[order.id] = ProbeFact(at: now, ok: isRunning, detail: "refused") }
    }
  }

  mutating func poll(_ id: Int) {
    guard let machine = machines[id] else { return facts[id] = .absent }
    switch machine.body {
    case .partial: facts[id] = .partial(detail: "waits for a machine")
    case .up:
      facts[id] = .up(
        Machine(address: .ipv4(0x7F00_0000 + UInt32(id), port: 8080), job: machine.job))
    }
  }

  func observed() -> Observed {
    var result = Observed(now: now)
    result.infra = facts
    result.operations = failures
    for (id, operation) in operations {
      result.operations[id] = operation.stop ? .stopping : .launching(detail: nil)
    }
    result.probes = probes
    result.proxy =
      !proxyRuns ? .absent : proxyHeard ? .reporting(version: proxyVersion, inFlight: inFlight.filter { $0.value > 0 }) : .silent
    if pendingArrivals > 0 { result.arrivals = [Arrivals(at: now, count: pendingArrivals)] }
    result.launchSlots = launchSlots - operations.values.count { !$0.stop }
    result.strangers = machines.keys.filter { state?.replicas[$0] == nil }.sorted()
    return result
  }

  // MARK: The controller

  mutating func crash() {
    memory = nil
    facts = [:]
    failures = [:]
    probes = [:]
    orders = []
    proxyHeard = false
    pendingArrivals = 0
    // What was under way stops half done, or has just been done.
    for id in operations.keys.sorted() {
      let operation = operations.removeValue(forKey: id)!
      if operation.stop {
        if chance.below(2) == 0 { machines[id] = nil }
      } else if chance.below(3) == 0 {
        machines[id] = nil
      } else if chance.below(2) == 0, machines[id] != nil {
        machines[id]!.body = .up
        machines[id]!.readyAt = now + startSeconds
        if brokenVersions.contains(machines[id]!.version) { machines[id]!.job = .failed(reason: "exit 1") }
      }
    }
  }

  mutating func step(_ seconds: Double = 5) {
    steps += 1
    moveWorld(seconds)
    guard let before = state else { return }
    let seen = observed()
    let plan = Reconciler.plan(before, seen)
    check(before, plan, seen)
    pendingArrivals = 0
    if roll(trouble.crash) { return crash() }
    for mutation in plan.mutations { control.apply(mutation) }
    memory = control.services[name] == nil ? nil : plan.state
    if var stored = control.services[name] {
      // The store has everything but the arrivals since the last look.
      stored.scaler = plan.state.scaler
      if stored != plan.state { problem("the mutations do not lead to the planned state") }
    }
    orders = plan.probes
    if roll(trouble.crash) { return crash() }
    if let snapshot = plan.publish, proxyRuns { take(snapshot) }
    for action in plan.actions {
      if roll(trouble.crash) { return crash() }
      carryOut(action, plan.state)
    }
  }

  mutating func take(_ snapshot: ReplicaSnapshot) {
    if snapshot.version < proxyVersion { return problem("snapshot \(snapshot.version) is older than \(proxyVersion)") }
    if snapshot.replicas.isEmpty, !snapshot.allowEmpty { return problem("an empty snapshot by accident") }
    proxyVersion = snapshot.version
    proxyEntries = [:]
    for entry in snapshot.replicas { proxyEntries[Int(entry.id)!] = entry.state == .ready }
    inFlight = inFlight.filter { proxyEntries[$0.key] != nil }
  }

  mutating func carryOut(_ action: Action, _ state: ServiceState) {
    switch action {
    case .launch(let order):
      if operations[order.id] != nil { return problem("launch of \(order.id) while it is worked on") }
      if machines[order.id]?.body == .up { return problem("second launch of \(order.id)") }
      launches[order.id, default: 0] += 1
      machines[order.id] = machines[order.id] ?? SimMachine(version: order.version, isSpot: order.spot)
      failures[order.id] = nil
      facts[order.id] = nil
      operations[order.id] = Operation(
        stop: false, endsAt: now + Double(5 + chance.below(60)), fails: roll(trouble.launchFails), attempt: 0)
    case .stop(let id, let attempt, _):
      checkStop(id, state)
      if operations[id]?.stop == true { return problem("second stop of \(id)") }
      failures[id] = nil
      facts[id] = nil
      operations[id] = Operation(
        stop: true, endsAt: now + Double(1 + chance.below(20)), fails: roll(trouble.stopFails), attempt: attempt)
    case .startProxy:
      proxyRuns = true
      proxyHeard = true
    case .stopProxy:
      proxyRuns = false
      inFlight = [:]
    case .forget: forgotten = true
    }
  }

  /// What could not be stopped is left to people; they see FAILED_CLEANUP and remove it.
  mutating func cleanUpByHand() {
    for (id, record) in state?.replicas ?? [:] where record.down == .failed { machines[id] = nil }
  }

  // MARK: What must always hold

  private mutating func checkStop(_ id: Int, _ state: ServiceState) {
    guard let record = state.replicas[id], let cause = record.cause, record.stopAttempts <= 1,
      cause == .scaleDown || cause == .outdated, proxyRuns, let deadline = record.drainDeadline, now < deadline
    else { return }
    if proxyEntries[id] == true { problem("\(id) is stopped while the proxy sends it requests") }
    // Requests that came after the report it was decided on cannot be: it takes none.
    if proxyEntries[id] != nil, inFlight[id] ?? 0 > 0 { problem("\(id) is stopped with requests under way") }
  }

  private mutating func check(_ before: ServiceState, _ plan: Plan, _ seen: Observed) {
    let after = plan.state
    targetMax = max(targetMax, after.scaler.finalTarget, before.scaler.finalTarget)
    let alive = after.replicas.values.count { !$0.status.isTerminal }
    let factor = after.versions.values.contains { $0.service.usesOndemandFallback } ? 4 : 2
    if alive > factor * targetMax { problem("\(alive) replicas for a target of \(targetMax): \(Self.text(before)) -> \(Self.text(after))") }
    // Our own decisions never take more than is promised.
    let given = after.replicas.values.filter { record in
      // Still ready when it was chosen: what failed in the same moment was not ours to keep.
      // One of a version that takes no requests yet is nobody's loss.
      record.down != nil && record.readyNow && before.replicas[record.id]?.status == .ready
        && before.service.activeVersions.contains(record.version)
        && (record.cause == .scaleDown || record.cause == .outdated)
    }.count
    if given > 0, after.service.desired == .running {
      let ready = after.replicas.values.count { $0.status == .ready }
      let promised = min(after.scaler.spec.policy.minReplicas, ready + given)
      if ready < promised { problem("\(ready) ready where \(promised) are promised: \(Self.text(before)) -> \(Self.text(after))") }
    }
    if after.service.nextReplicaID < before.service.nextReplicaID { problem("ids go back") }
    for id in after.replicas.keys where id >= after.service.nextReplicaID { problem("id \(id) was not given out") }
    for id in after.replicas.keys where before.replicas[id] == nil && id < before.service.nextReplicaID {
      problem("id \(id) is given out again")
    }
    // The same facts twice change nothing more.
    var twice = seen
    twice.arrivals = []
    let again = Reconciler.plan(after, twice)
    if again.state.replicas != after.replicas, control.services[name] != nil { checkRepeat(after, again.state) }
  }

  /// A second look may only go on from what the first one decided.
  private mutating func checkRepeat(_ first: ServiceState, _ second: ServiceState) {
    if second.service.nextReplicaID > first.service.nextReplicaID { problem("a second look launches more") }
  }

  static func text(_ state: ServiceState) -> String {
    let replicas = state.replicas.values.sorted { $0.id < $1.id }.map { record in
      "\(record.id):v\(record.version):\(record.status.rawValue)" + (record.cause.map { ":\($0.rawValue)" } ?? "")
    }
    return "target \(state.scaler.finalTarget) v\(state.scaler.version) \(state.scaler.mode.rawValue) active "
      + "\(state.service.activeVersions) [\(replicas.joined(separator: " "))]"
  }

  /// Everything is as it should be, and nothing else is there.
  var isSettled: Bool {
    guard let state, let latest = state.latest else { return false }
    let live = state.replicas.values.filter { !$0.status.isTerminal }
    let ready = live.filter { $0.status == .ready && $0.version == latest.number }
    let wanted = state.scaler.finalTarget
    guard ready.count == wanted, live.count == wanted, proxyRuns, operations.isEmpty else { return false }
    let kept = state.replicas.values.filter { $0.down == .failed }.map(\.id)
    guard Set(machines.keys) == Set(live.map(\.id)).union(kept).intersection(machines.keys), machines.count >= wanted
    else { return false }
    return Set(proxyEntries.filter(\.value).keys) == Set(ready.map(\.id)) && proxyVersion == state.service.published.version
  }
}
