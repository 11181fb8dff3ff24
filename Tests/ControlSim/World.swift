// What the controller does not own: machines that start slowly, hang, fail, vanish; a proxy per service with requests
// under way; people's load. It goes on while the controller is dead, and checks whatever it is told to do.
//
//   SimInfra ─▶ machines ◀─ SimProbes            SimLink ─▶ proxy ─▶ requests ─▶ machines

import ControlCore
import ProxyWire
import SimKit

/// Chances of what goes wrong; each per call, where nothing else is said.
package struct Faults {
  var launchFails = 0.0
  /// Never returns, and lets go when it is called off, or not even then.
  var launchHangs = 0.0
  /// Launches that are under way come to nothing when the controller dies.
  var launchDies = 0.0
  var stopFails = 0.0
  var stopHangs = 0.0
  var pollFails = 0.0
  var pollHangs = 0.0
  var stageFails = 0.0
  var proxyStartFails = 0.0
  /// Per second: of each machine that its command ends, that it stops answering, that somebody takes it away.
  var killed = 0.0
  var hangs = 0.0
  var takenAway = 0.0
  /// Per second: of each proxy that it ends, that it says and takes nothing for a while.
  var proxyDies = 0.0
  var proxySilent = 0.0
  /// Seconds that things take.
  var launchSeconds = 0.1...5.0
  var startSeconds = 0.1...10.0
  var stopSeconds = 0.01...3.0

  package static let none = Faults()
}

final class SimMachine {
  let id: Int
  /// Tells one from an earlier one of the same id.
  let serial: Int
  let version: Int
  let address: Endpoint
  var upAt = Double.infinity
  /// From then on it answers 200.
  var readyAt = Double.infinity
  var hangs = false
  /// When it was probed last.
  var askedAt = 0.0
  var job = Machine.Job.running
  /// Somebody has asked to take it down.
  var isStopping = false

  init(id: Int, serial: Int, version: Int) {
    self.id = id
    self.serial = serial
    self.version = version
    address = .ipv4(0x7F00_0000 + UInt32(truncatingIfNeeded: serial), port: 8080)
  }

  var isUp: Bool { upAt.isFinite }

  func serves(_ now: Double) -> Bool { isUp && job == .running && !hangs && readyAt <= now }
}

final class SimProxy {
  struct Entry {
    var takes: Bool
    var generation: UInt64
  }

  var runs = false
  var isStarting = false
  /// Which process it is.
  var process = 0
  var version: UInt64 = 0
  var entries: [Int: Entry] = [:]
  var inFlight: [Int: Int] = [:]
  var silentUntil = 0.0
  /// Since the last report.
  var arrivals = 0
  /// The link of the controller that lives.
  var link: SimLink?
}

/// A service's name, and all there is under it.
final class SimPlace {
  let name: String
  var machines: [Int: SimMachine] = [:]
  let proxy = SimProxy()
  /// Ids that were stopped since the service was created.
  var stopped: Set<Int> = []
  /// Launch calls of the controller that lives, by id.
  var launching: [Int: Int] = [:]
  private var launchCalls = 0
  /// Requests per second.
  var load = 0.0
  /// Nothing that its infra and its replicas are asked ever returns.
  var isStuck = false

  init(name: String) { self.name = name }

  /// A service of that name begins; calls for an earlier one may hang for ever.
  func begin() {
    stopped = []
    launching = [:]
  }

  func beginLaunch(_ id: Int) -> Int {
    launchCalls += 1
    launching[id] = launchCalls
    return launchCalls
  }

  func endLaunch(_ id: Int, _ call: Int) { if launching[id] == call { launching[id] = nil } }
}

package final class World: @unchecked Sendable {
  let scheduler = Scheduler.only
  var chance: Chance
  var faults = Faults.none
  var places: [String: SimPlace] = [:]
  private var machineCount = 0
  private var requestCarry = 0.0
  /// What the controller that lives has written, and its time.
  var state: () -> ControlState = { ControlState() }
  var clock: () -> Double = { 0 }
  var trace: (String) -> Void = { _ in }
  var problem: (String) -> Void = { _ in }
  private(set) var requests = 0
  private(set) var failed = 0
  /// Seconds between looks at what breaks and who asks, and between a proxy's reports.
  var stepSeconds = 1.0

  init(chance: Chance) { self.chance = chance }

  func place(_ name: String) -> SimPlace {
    if let place = places[name] { return place }
    let place = SimPlace(name: name)
    places[name] = place
    return place
  }

  var now: Double { scheduler.now }

  // MARK: Machines

  func addMachine(_ place: SimPlace, _ order: LaunchOrder) -> SimMachine {
    machineCount += 1
    let machine = SimMachine(id: order.id, serial: machineCount, version: order.version)
    place.machines[order.id] = machine
    return machine
  }

  /// Its command begins.
  func bringUp(_ place: SimPlace, _ machine: SimMachine, _ task: TaskSpec) {
    guard place.machines[machine.id] === machine, !machine.isUp else { return }
    machine.upAt = now
    machine.readyAt = now + chance.delay(faults.startSeconds)
    if task.run?.contains("broken") == true { machine.job = .failed(reason: "exit 1") }
    trace("\(place.name) machine \(machine.id) is up")
  }

  func remove(_ place: SimPlace, _ machine: SimMachine) {
    guard place.machines[machine.id] === machine else { return }
    place.machines[machine.id] = nil
    cutRequests(place, machine.id)
  }

  func removeAll(_ name: String) {
    for machine in place(name).machines.values { remove(place(name), machine) }
  }

  func cutRequests(_ place: SimPlace, _ id: Int) {
    guard let count = place.proxy.inFlight[id], count > 0 else { return }
    failed += count
    place.proxy.inFlight[id] = nil
    place.proxy.link?.report()
  }

  // MARK: Every second or so

  func step() {
    for name in places.keys.sorted() {
      let place = places[name]!
      trouble(place)
      load(place)
    }
    scheduler.after(stepSeconds) { [self] in step() }
  }

  private func trouble(_ place: SimPlace) {
    for id in place.machines.keys.sorted() {
      let machine = place.machines[id]!
      guard machine.isUp else { continue }
      if chance.hit(faults.killed * stepSeconds), machine.job == .running {
        trace("\(place.name) machine \(id) is killed")
        machine.job = .failed(reason: "killed")
        cutRequests(place, id)
      } else if chance.hit(faults.hangs * stepSeconds), !machine.hangs {
        trace("\(place.name) machine \(id) hangs")
        machine.hangs = true
      } else if chance.hit(faults.takenAway * stepSeconds) {
        trace("\(place.name) machine \(id) is taken away")
        remove(place, machine)
      }
    }
    let proxy = place.proxy
    if proxy.runs, chance.hit(faults.proxyDies * stepSeconds) {
      trace("\(place.name) proxy dies")
      endProxy(place)
      scheduler.after(0.01) { proxy.link?.look() }
    } else if proxy.runs, chance.hit(faults.proxySilent * stepSeconds) {
      proxy.silentUntil = now + chance.within(1...30)
      trace("\(place.name) proxy is silent until \(seconds(proxy.silentUntil))")
      proxy.link?.look()
    }
  }

  private func load(_ place: SimPlace) {
    let proxy = place.proxy
    guard proxy.runs, place.load > 0 else { return }
    requestCarry += place.load * stepSeconds
    while requestCarry >= 1 {
      requestCarry -= 1
      requests += 1
      proxy.arrivals += 1
      let takers = proxy.entries.filter(\.value.takes).keys.sorted()
      guard !takers.isEmpty else { continue }
      let id = chance.pick(takers)
      guard let machine = place.machines[id], machine.serves(now) else {
        failed += 1
        proxy.link?.suspect(id)
        continue
      }
      proxy.inFlight[id, default: 0] += 1
      let process = proxy.process
      let length = chance.hit(0.02) ? chance.within(60...300) : chance.delay(0.01...20)
      scheduler.after(length) { [self] in endRequest(place, process, machine) }
    }
  }

  private func endRequest(_ place: SimPlace, _ process: Int, _ machine: SimMachine) {
    let proxy = place.proxy
    guard proxy.process == process, place.machines[machine.id] === machine, machine.job == .running,
      let count = proxy.inFlight[machine.id], count > 0
    else { return }
    proxy.inFlight[machine.id] = count > 1 ? count - 1 : nil
    if count == 1, proxy.entries[machine.id]?.takes != true { proxy.link?.report() }
  }

  // MARK: Proxies

  func startProxy(_ place: SimPlace, entries: [Int: SimProxy.Entry]) {
    let proxy = place.proxy
    proxy.isStarting = true
    scheduler.after(chance.delay(0.02...1)) { [self] in
      proxy.isStarting = false
      proxy.runs = true
      proxy.process += 1
      proxy.version = 0
      proxy.entries = entries
      proxy.inFlight = [:]
      proxy.silentUntil = 0
      trace("\(place.name) proxy runs")
      proxy.link?.look()
    }
  }

  func endProxy(_ place: SimPlace) {
    let proxy = place.proxy
    proxy.runs = false
    proxy.entries = [:]
    proxy.inFlight = [:]
    proxy.version = 0
  }

  func apply(_ place: SimPlace, _ snapshot: ReplicaSnapshot) {
    let proxy = place.proxy
    if snapshot.version <= proxy.version { return }
    if snapshot.replicas.isEmpty, !snapshot.allowEmpty { problem("\(place.name): an empty list by accident") }
    proxy.version = snapshot.version
    var entries: [Int: SimProxy.Entry] = [:]
    for entry in snapshot.replicas {
      entries[Int(entry.id)!] = SimProxy.Entry(takes: entry.state == .ready, generation: entry.generation)
    }
    proxy.entries = entries
    let takes = entries.filter(\.value.takes).keys.sorted()
    let drains = entries.filter { !$0.value.takes }.keys.sorted()
    trace("\(place.name) proxy has list \(snapshot.version): \(takes) drains \(drains)")
  }

  // MARK: What must not be asked

  /// Before a replica is stopped that nobody has lost yet, its requests have to be through.
  func checkStop(_ place: SimPlace, _ id: Int) {
    guard let service = state().services[place.name], let record = service.replicas[id],
      let cause = record.cause, !cause.isFailure, cause != .preempted, record.stopAttempts <= 1, place.proxy.runs,
      let deadline = record.drainDeadline, clock() < deadline, place.machines[id] != nil
    else { return }
    if place.proxy.entries[id]?.takes == true {
      problem("\(place.name) replica \(id) is stopped while the proxy sends it requests")
    }
    if place.proxy.inFlight[id] ?? 0 > 0 { problem("\(place.name) replica \(id) is stopped with requests under way") }
  }

  func checkLaunch(_ place: SimPlace, _ request: LaunchRequest) {
    let id = request.order.id
    guard let record = state().services[place.name]?.replicas[id] else {
      return problem("\(place.name) replica \(id) is launched without a record")
    }
    if record.launch == .scheduled { problem("\(place.name) replica \(id) is launched before it is written down") }
    if place.launching[id] != nil { problem("\(place.name) replica \(id) is launched twice at once") }
    if place.stopped.contains(id), record.down == nil {
      problem("\(place.name) replica \(id) is launched after it was stopped")
    }
    // A poll from just before it came up may say otherwise; then the infra has nothing to do.
    if let machine = place.machines[id], machine.upAt < now - 2, record.down == nil {
      problem("\(place.name) replica \(id) is launched again")
    }
  }
}

/// `1234.567`, for traces.
func seconds(_ time: Double) -> String {
  let thousandths = Int((time * 1000).rounded())
  let rest = String(thousandths % 1000)
  return "\(thousandths / 1000).\(String(repeating: "0", count: 3 - rest.count))\(rest)"
}
