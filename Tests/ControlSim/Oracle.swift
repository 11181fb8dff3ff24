// What must hold at any moment of a run, what was promised, and whether everything is as it should be.

import ControlCore
import Foundation
import SimKit

final class Oracle: @unchecked Sendable {
  /// What users were told of a service.
  private struct Promise {
    var isDown = false
    var version = 1
    var task: TaskSpec?
    var ended: Set<Int> = []
  }

  private unowned let run: Simulation
  let names: [String]
  private var promises: [String: Promise] = [:]
  /// Commands under way, whose end nobody knows yet.
  private var open: [String: Int] = [:]
  /// Of commands that a dead controller may have done.
  private var uncertain: Set<String> = []
  private var nextID: [String: (createdAt: Double, next: Int)] = [:]
  private var statuses: [String: [Int: String]] = [:]
  /// The highest target since the service was as it should be.
  private var peak: [String: Int] = [:]
  /// Services that are told to go whatever is left of them.
  private var purged: Set<String> = []
  /// Replicas of which that is said.
  private var purgedReplicas: [String: Set<Int>] = [:]
  /// Serving replicas that were promised, once there were as many.
  private var floors: [String: Int] = [:]

  init(_ run: Simulation) {
    self.run = run
    let count = run.profile.services
    names = Array(["web", "llm", "api"].prefix(count.lowerBound + run.chance.below(count.count)))
    if run.profile.hasStuckService { run.world.place(names[0]).isStuck = true }
  }

  // MARK: Promises

  func begin(_ what: String, _ name: String) { open[name, default: 0] += 1 }

  func end(_ what: String, _ name: String) { open[name, default: 1] -= 1 }

  func controllerDied() {
    // What they asked may have been done without their having been told.
    for (name, count) in open where count > 0 { uncertain.insert(name) }
    open = [:]
    statuses = [:]
  }

  func promiseUp(_ name: String) { promises[name] = Promise() }

  func promiseVersion(_ name: String, _ version: Int, _ task: TaskSpec?) {
    guard let promise = promises[name], version > promise.version || promise.task == nil else { return }
    promises[name]!.version = max(version, promise.version)
    promises[name]!.task = task
  }

  func promiseDown(_ name: String) { promises[name]?.isDown = true }

  func promiseEnd(_ name: String, _ id: Int) { promises[name]?.ended.insert(id) }

  func checkPrompt(_ what: String, since: Double) {
    if run.scheduler.now != since { run.problem("\(what) took \(run.scheduler.now - since) s") }
  }

  /// `isFresh`: just read from disk after a crash.
  func checkPromises(_ state: ControlState, isFresh: Bool) {
    for name in names {
      guard let promise = promises[name] else { continue }
      let isOpen = open[name, default: 0] > 0 || uncertain.contains(name)
      guard let service = state.services[name] else {
        if !promise.isDown, !isOpen { run.problem("\(name) was promised and is not there") }
        if promise.isDown { promises[name] = nil }
        continue
      }
      if promise.isDown {
        if service.service.desired != .down, !isOpen { run.problem("\(name) was to go and runs") }
        continue
      }
      if service.service.desired != .running {
        if !isOpen { run.problem("\(name) was to run and goes") }
        continue
      }
      if service.service.latestVersion < promise.version, !isOpen {
        run.problem("\(name) has version \(service.service.latestVersion) where \(promise.version) was promised")
      }
      if service.service.latestVersion == promise.version, let task = promise.task, service.latest?.task != task {
        run.problem("\(name) version \(promise.version) is not the file that was given")
      }
      for id in promise.ended.sorted() {
        if let record = service.replicas[id], record.down == nil {
          run.problem("\(name) replica \(id) was to go and stays")
        }
      }
    }
    if isFresh { settleUncertain(state) }
  }

  /// What has become of commands whose end nobody was told is what is on disk now.
  private func settleUncertain(_ state: ControlState) {
    for name in uncertain {
      guard let service = state.services[name] else {
        promises[name] = nil
        continue
      }
      var promise = promises[name] ?? Promise()
      promise.isDown = service.service.desired == .down
      promise.version = service.service.latestVersion
      promise.task = service.latest?.task
      promise.ended = promise.ended.filter { service.replicas[$0]?.down != nil }
      promises[name] = promise
    }
    uncertain = []
  }

  // MARK: At every moment

  func check() {
    guard run.controller != nil else { return }
    let state = run.state
    checkPromises(state, isFresh: false)
    for name in names {
      forgetPurged(name, state.services[name]?.replicas ?? [:])
      guard let service = state.services[name] else {
        // What is left of one that was purged is removed by hand.
        if purged.remove(name) != nil { run.world.removeAll(name) }
        nextID[name] = nil
        peak[name] = nil
        floors[name] = nil
        statuses[name] = nil
        continue
      }
      if service.service.purge { purged.insert(name) }
      traceStatuses(name, service)
      checkIDs(name, service)
      checkSurge(name, service)
      checkProbes(name, service)
      if run.profile.keepsPromise { checkFloor(name, service) }
    }
  }

  /// The machine of a replica that was purged and is gone is removed by hand.
  private func forgetPurged(_ name: String, _ replicas: [Int: ReplicaRecord]) {
    for id in purgedReplicas[name] ?? [] where replicas[id] == nil {
      let place = run.world.place(name)
      if let machine = place.machines[id] { run.world.remove(place, machine) }
    }
    purgedReplicas[name] = Set(replicas.filter(\.value.purged).keys)
  }

  private func traceStatuses(_ name: String, _ service: ServiceState) {
    var now: [Int: String] = [:]
    for (id, record) in service.replicas {
      now[id] =
        record.status.rawValue + (record.cause.map { " \($0.rawValue)" } ?? "")
        + (record.reason.map { ": \($0)" } ?? "")
    }
    let before = statuses[name] ?? [:]
    if now == before { return }
    for id in Set(now.keys).union(before.keys).sorted() where now[id] != before[id] {
      run.note("\(name) replica \(id) \(now[id] ?? "gone")\(service.replicas[id].map { " v\($0.version)" } ?? "")")
    }
    statuses[name] = now
  }

  private func checkIDs(_ name: String, _ service: ServiceState) {
    let next = service.service.nextReplicaID
    if let known = nextID[name], known.createdAt == service.service.createdAt, next < known.next {
      run.problem("\(name): ids go back from \(known.next) to \(next)")
    }
    for id in service.replicas.keys where id >= next { run.problem("\(name): id \(id) was not given out") }
    nextID[name] = (service.service.createdAt, next)
  }

  private func checkSurge(_ name: String, _ service: ServiceState) {
    let target = service.scaler.finalTarget
    let most = max(peak[name] ?? 0, target)
    peak[name] = isSettled(name, service) ? target : most
    // As many new ones as are wanted at once, beside the old ones.
    let alive = service.replicas.values.count { !$0.status.isTerminal }
    if alive > 2 * most { run.problem("\(name) has \(alive) replicas for a target of \(most)") }
    if run.profile.trouble > 0 { return }
    for id in run.world.place(name).machines.keys.sorted() where service.replicas[id] == nil {
      run.problem("\(name) has a machine \(id) that nobody knows of")
    }
  }

  /// Each replica that serves is probed in its turn, whatever else goes on.
  private func checkProbes(_ name: String, _ service: ServiceState) {
    let place = run.world.place(name)
    if place.isStuck { return }
    // The interval, a probe that times out, and a moment.
    let most = 17.0
    for (id, record) in service.replicas where record.status == .ready {
      guard let machine = place.machines[id], machine.isUp, machine.address.description == record.address else {
        continue
      }
      let silence = run.scheduler.now - max(machine.askedAt, run.startedAt, machine.upAt)
      if silence > most { run.problem("\(name) replica \(id) has not been probed for \(Int(silence)) s") }
    }
  }

  /// Replicas that take requests and answer them.
  private func checkFloor(_ name: String, _ service: ServiceState) {
    guard service.service.desired == .running else {
      floors[name] = nil
      return
    }
    let place = run.world.place(name)
    let serving = place.proxy.entries.count { id, entry in
      entry.takes && place.machines[id]?.serves(run.scheduler.now) == true
    }
    // What the versions promise that there may be replicas of.
    let promised = service.versions.values.map(\.service.policy.minReplicas).min() ?? 0
    // It holds from the moment it was first kept.
    let floor = min(promised, max(floors[name] ?? 0, min(serving, promised)))
    floors[name] = floor
    if serving < floor { run.problem("\(name) has \(serving) replicas serving where \(floor) are promised") }
  }

  // MARK: At rest

  /// Everything is as it was asked to be, and nothing else is there.
  func isSettled(_ name: String, _ service: ServiceState) -> Bool {
    if service.service.desired != .running { return false }
    let place = run.world.place(name)
    let alive = service.replicas.values.filter { !$0.status.isTerminal }
    let ready = alive.filter { $0.status == .ready && $0.version == service.service.latestVersion }
    let wanted = service.scaler.finalTarget
    guard ready.count == wanted, alive.count == wanted, place.proxy.runs else { return false }
    // What could not be stopped is left to people.
    let left = Set(service.replicas.values.lazy.filter { $0.down == .failed }.map(\.id))
    let ids = Set(alive.map(\.id))
    guard Set(place.machines.keys).subtracting(left) == ids else { return false }
    guard alive.allSatisfy({ place.machines[$0.id]!.serves(run.scheduler.now) }) else { return false }
    let takers = Set(place.proxy.entries.filter(\.value.takes).keys)
    return takers == ids && place.proxy.entries.count == ids.count
      && place.proxy.version == service.service.published.version
  }

  func describe(_ name: String) -> String {
    guard let service = run.state.services[name] else { return "\(name) is not there" }
    let replicas = service.replicas.values.sorted { $0.id < $1.id }.map { record in
      "\(record.id):v\(record.version):\(record.status.rawValue)" + (record.cause.map { ":\($0.rawValue)" } ?? "")
    }
    let place = run.world.place(name)
    return "\(name) \(service.status.rawValue) v\(service.service.latestVersion) target \(service.scaler.finalTarget) "
      + "[\(replicas.joined(separator: " "))] machines \(place.machines.keys.sorted()) proxy "
      + "\(place.proxy.runs ? "list \(place.proxy.version) of \(service.service.published.version)" : "off") "
      + "\(place.proxy.entries.filter(\.value.takes).keys.sorted())"
  }
}
