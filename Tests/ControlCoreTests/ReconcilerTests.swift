// The reconciler's rules one by one, on a world without chance.

import ProxyWire
import Testing

@testable import ControlCore

/// One service and the facts about it; every verb plans once and remembers.
private struct Scene {
  var control = ControlState()
  var seen = Observed(now: 1000)
  var last: Plan!
  var published: ReplicaSnapshot?

  init(_ service: String = "replicas: 2", command: String = "x") throws {
    for mutation in try Commands.up(
      control, name: "web", task: try Self.task(service, command), port: 30001, now: 1000)
    { control.apply(mutation) }
    seen.proxy = .reporting(version: 0, inFlight: [:])
    plan()
  }

  static func task(_ service: String, _ command: String = "x") throws -> TaskSpec {
    try StoreTests.task(
      "service:\n  readiness_probe: {path: /, initial_delay_seconds: 100}\n  \(service)\n"
        + "resources: {ports: 80}\nrun: \(command)")
  }

  var state: ServiceState { control.services["web"]! }
  func status(_ id: Int) -> ReplicaStatus? { state.replicas[id]?.status }
  var statuses: [String] { state.replicas.keys.sorted().map { "\($0):\(state.replicas[$0]!.status.rawValue)" } }

  /// Of the service, as its status says it.
  var reason: String? { StatusReport.of(state, nil, endpoint: "", launchesMax: 4, now: seen.now).reason }

  mutating func plan(after seconds: Double = 0) {
    seen.now += seconds
    last = Reconciler.plan(state, seen)
    for mutation in last.mutations { control.apply(mutation) }
    // The executor has the orders at once.
    for action in last.actions {
      switch action {
      case .launch(let order): seen.operations[order.id] = .launching(detail: nil)
      case .stop(let id, _, _):
        seen.operations[id] = .stopping
        seen.infra[id] = nil
      case .startProxy, .stopProxy, .forget: break
      }
    }
    if let snapshot = last.publish {
      published = snapshot
      if case .reporting(_, let inFlight) = seen.proxy {
        seen.proxy = .reporting(version: snapshot.version, inFlight: inFlight)
      }
    }
  }

  mutating func up(_ ids: Int..., job: Machine.Job = .running) {
    for id in ids {
      seen.operations[id] = nil
      seen.infra[id] = .up(Machine(address: .ipv4(0x0A00_0000 + UInt32(id), port: 80), job: job))
    }
    plan()
  }

  mutating func gone(_ ids: Int...) {
    for id in ids {
      seen.operations[id] = nil
      seen.infra[id] = .absent
    }
    plan()
  }

  mutating func probe(_ ok: Bool, _ ids: Int..., after seconds: Double = 10) {
    seen.now += seconds
    for id in ids { seen.probes[id] = ProbeFact(at: seen.now, ok: ok, detail: "status 503") }
    plan()
  }

  mutating func update(_ service: String, command: String = "x", mode: UpdateMode = .rolling) throws {
    for mutation in try Commands.update(
      control, name: "web", task: try Self.task(service, command), mode: mode, now: seen.now)
    { control.apply(mutation) }
    plan()
  }

  /// A service with its replicas ready.
  static func ready(_ service: String = "replicas: 2") throws -> Scene {
    var scene = try Scene(service)
    scene.up(1, 2)
    scene.probe(true, 1, 2)
    return scene
  }

  var taking: [String] { published?.replicas.filter { $0.state == .ready }.map(\.id) ?? [] }
  var draining: [String] { published?.replicas.filter { $0.state == .draining }.map(\.id) ?? [] }
}

@Suite struct ReconcilerTests {
  @Test func aServiceComesUp() throws {
    var scene = try Scene()
    #expect(scene.statuses == ["1:PROVISIONING", "2:PROVISIONING"] && scene.state.status == .replicaInit)
    #expect(
      scene.last.actions == [
        .launch(LaunchOrder(id: 1, version: 1, spot: false)), .launch(LaunchOrder(id: 2, version: 1, spot: false)),
      ])
    scene.plan(after: 100)
    #expect(scene.last.actions.isEmpty && scene.last.mutations.count <= 1)
    scene.up(1)
    #expect(scene.statuses == ["1:STARTING", "2:PROVISIONING"])
    #expect(scene.last.probes.map(\.id) == [1] && scene.last.probes[0].address == "10.0.0.1:80")
    scene.probe(true, 1)
    #expect(scene.status(1) == .ready && scene.state.status == .ready && scene.taking == ["1"])
    #expect(scene.state.service.firstReadyAt == scene.seen.now && scene.state.versions[1]!.wasReady)
    // The same facts again: nothing to do.
    scene.plan()
    #expect(scene.last.actions.isEmpty && scene.last.mutations.isEmpty && scene.last.publish == nil)
  }

  @Test func launchesWaitTheirTurn() throws {
    var scene = try Scene("replicas: 3")
    scene = try Scene("replicas: 3")
    var fresh = ServiceState(service: scene.state.service, scaler: scene.state.scaler)
    fresh.versions = scene.state.versions
    var seen = Observed(now: 1000)
    seen.launchSlots = 2
    let plan = Reconciler.plan(fresh, seen)
    #expect(plan.state.replicas.values.map(\.status).count { $0 == .pending } == 1 && plan.actions.count == 2)
  }

  @Test func graceCountsFromTheFirstFailedProbe() throws {
    var scene = try Scene("replicas: 1")
    scene.plan(after: 5000)  // a slow cloud
    scene.up(1)
    scene.probe(false, 1)
    scene.probe(false, 1, after: 100)
    #expect(scene.status(1) == .starting)
    scene.probe(false, 1, after: 0.5)
    #expect(scene.status(1) == .shuttingDown && scene.last.actions == [.stop(id: 1, attempt: 1, keepLogs: true)])
    scene.gone(1)
    #expect(scene.statuses == ["1:FAILED_INITIAL_DELAY"] && scene.state.status == .failed)
    // The version never worked: no other is tried.
    scene.plan(after: 10000)
    #expect(scene.last.actions.isEmpty)
    // Another file is another chance; the failed one stays to be looked at.
    try scene.update("replicas: 1", command: "better")
    #expect(scene.statuses == ["1:FAILED_INITIAL_DELAY", "2:PROVISIONING"])
  }

  @Test func aReadyReplicaMayFailForAWhile() throws {
    var scene = try Scene.ready()
    scene.probe(false, 1)
    #expect(scene.status(1) == .notReady && scene.taking == ["2"] && scene.draining == ["1"])
    scene.probe(true, 1)
    #expect(scene.status(1) == .ready && scene.taking == ["1", "2"])
    scene.probe(false, 1)
    scene.probe(false, 1, after: 179)
    #expect(scene.status(1) == .notReady)
    scene.probe(false, 1, after: 1)
    // Once over the threshold it goes without waiting, and another comes.
    #expect(scene.statuses == ["1:SHUTTING_DOWN", "2:READY", "3:PROVISIONING"])
    #expect(scene.last.actions.contains(.stop(id: 1, attempt: 1, keepLogs: true)) && scene.draining == [])
    scene.gone(1)
    #expect(scene.status(1) == .failedProbing && scene.state.status == .ready)
  }

  @Test func aCommandThatEndsBadlyIsAFailureAlsoWhenProbesPass() throws {
    var scene = try Scene.ready()
    scene.up(1, job: .failed(reason: "exit 1"))
    #expect(scene.statuses == ["1:SHUTTING_DOWN", "2:READY", "3:PROVISIONING"])
    scene.up(2, job: .succeeded)
    #expect(scene.status(2) == .ready)
    scene.gone(1)
    #expect(scene.status(1) == .failed && scene.state.replicas[1]!.reason == "exit 1")
  }

  @Test func aCommandThatEndedWellIsNamedWhereNobodyAnswers() throws {
    var scene = try Scene("replicas: 1")
    scene.up(1, job: .succeeded)
    scene.probe(false, 1)
    scene.probe(false, 1, after: 101)
    #expect(scene.state.replicas[1]!.reason == "not ready within 100 s: status 503, and run has ended with 0")
  }

  /// Such as an earlier controller took: it must not end this one, least of all at every start.
  @Test(arguments: [-1e30, 1e30]) func numbersBeyondAllBoundsAreLivedWith(_ number: Double) throws {
    var scene = try Scene("replicas: 2")
    scene.control.services["web"]!.versions[1]!.task.service!.probe.initialDelay = .fraction(number)
    var spec = scene.state.scaler.spec
    spec.probe.failureThreshold = .fraction(number)
    scene.control.services["web"]!.scaler = Autoscaler(version: 1, spec: spec)
    scene.up(1, 2)
    scene.probe(true, 2)
    for _ in 0..<2 { scene.probe(false, 1, 2) }
    let report = StatusReport.of(scene.state, nil, endpoint: "", launchesMax: 1, now: scene.seen.now)
    let reasons = report.replicaInfo.compactMap(\.reason)
    if number < 0 {
      #expect(scene.state.replicas[1]!.reason?.hasPrefix("not ready within -9223372036854775808 s: ") == true)
      #expect(scene.state.replicas[2]!.reason?.hasPrefix("probes failed for 0 s: ") == true)
    } else {
      #expect(scene.status(1) == .starting && scene.status(2) == .notReady)
      #expect(reasons.contains { $0.hasSuffix("of at most 9223372036854775807 s") }, "\(reasons)")
    }
  }

  @Test func spareReplicasBeyondAllBoundsAreLivedWith() {
    var spec = ServiceSpec()
    (spec.policy.minReplicas, spec.policy.numOverprovision) = (2, .max)
    #expect(Autoscaler(version: 1, spec: spec).finalTarget == 10_002)
    spec.policy.minReplicas = .max
    #expect(Autoscaler(version: 1, spec: spec).finalTarget == 20_000)
  }

  @Test func aVanishedMachineIsReplaced() throws {
    var scene = try Scene.ready()
    scene.gone(1)
    #expect(scene.statuses == ["1:PREEMPTED", "2:READY", "3:PROVISIONING"] && scene.taking == ["2"])
    scene.gone(1)
    #expect(scene.statuses == ["2:READY", "3:PROVISIONING"])
    // Not being able to ask says nothing.
    scene.seen.infra[2] = .unreachable
    scene.plan()
    #expect(scene.status(2) == .ready)
  }

  @Test func whatServedWellIsReplacedWithoutDelay() throws {
    var scene = try Scene.ready()
    scene.plan(after: 3600)
    scene.up(1, 2, job: .failed(reason: "out of memory"))
    #expect(scene.statuses == ["1:SHUTTING_DOWN", "2:SHUTTING_DOWN", "3:PROVISIONING", "4:PROVISIONING"])
    // What fails within a minute is waited for, from the second time on.
    scene.gone(1, 2)
    scene.up(3, 4)
    scene.probe(true, 3, 4)
    scene.up(3, 4, job: .failed(reason: "out of memory"))
    #expect(scene.state.replicas.count == 4, "\(scene.statuses)")
  }

  @Test func launchFailuresSlowDown() throws {
    var scene = try Scene("replicas: 1")
    var waits: [Double] = []
    for id in 1...5 {
      scene.seen.operations[id] = .launchFailed(reason: "no capacity")
      scene.plan()
      #expect(scene.status(id) == .shuttingDown)
      scene.gone(id)
      #expect(scene.status(id) == .failedProvision)
      let failedAt = scene.seen.now
      while scene.status(id + 1) == nil {
        let wake = try #require(scene.last.wakeAt)
        scene.plan(after: max(wake - scene.seen.now, 0.1))
      }
      waits.append(scene.seen.now - failedAt)
    }
    #expect(waits[0] == 0 && waits[1] >= 10 && waits[2] >= 20 && waits[3] >= 40 && waits[3] < 61, "\(waits)")
    for id in 6...30 {
      scene.seen.operations[id] = .launchFailed(reason: "no capacity")
      scene.plan()
      scene.gone(id)
      scene.plan(after: 600)
    }
    #expect(scene.state.replicas.count <= 11)
  }

  /// Ready for a moment and gone, again and again.
  @Test func whatDoesNotStayReadyIsNotLaunchedEverySecond() throws {
    var scene = try Scene("replicas: 1")
    var waits: [Double] = []
    for id in 1...5 {
      scene.up(id)
      scene.probe(true, id, after: 1)
      #expect(scene.status(id) == .ready)
      scene.up(id, job: .failed(reason: "exit 4"))
      scene.gone(id)
      let failedAt = scene.seen.now
      while scene.status(id + 1) == nil {
        let wake = try #require(scene.last.wakeAt)
        scene.plan(after: max(wake - scene.seen.now, 0.1))
      }
      waits.append(scene.seen.now - failedAt)
    }
    #expect(waits[0] == 0 && waits.dropFirst().allSatisfy { $0 >= 10 && $0 < 11 }, "\(waits)")
    // One that stays makes good for the others.
    scene.up(6)
    scene.probe(true, 6, after: 1)
    scene.probe(true, 6, after: 50)
    #expect(scene.state.service.failuresInARow == 1)
    scene.probe(true, 6, after: 10)
    #expect(scene.state.service.failuresInARow == 0)
  }

  /// What has failed before is not what there is to say while its mended successor is on its way.
  @Test func failuresOfEarlierVersionsAreHistory() throws {
    var scene = try Scene("replicas: 1", command: "bad")
    scene.up(1, job: .failed(reason: "exit 127"))
    scene.gone(1)
    #expect(scene.state.status == .failed)
    try scene.update("replicas: 1", command: "good")
    #expect(scene.statuses == ["1:FAILED", "2:PROVISIONING"] && scene.state.status == .replicaInit)
    #expect(scene.reason == "replica 2 PROVISIONING: is being launched")
    scene.up(2)
    scene.probe(true, 2)
    #expect(scene.statuses == ["1:FAILED", "2:READY"] && scene.state.status == .ready)
    // Its own failure counts, and what replaces it is named first.
    scene.up(2, job: .failed(reason: "exit 9"))
    scene.gone(2)
    #expect(scene.statuses == ["1:FAILED", "2:FAILED", "3:PROVISIONING"] && scene.state.status == .failed)
    #expect(scene.reason == "replica 3 PROVISIONING: is being launched; replica 2 FAILED: exit 9")
    scene.up(3)
    scene.probe(true, 3)
    try scene.update("replicas: 1", command: "better")
    scene.up(4)
    scene.probe(true, 4)
    scene.plan(after: 200)
    scene.gone(3)
    #expect(scene.statuses == ["2:FAILED", "4:READY"])
  }

  @Test func noneIsWhatWasAskedFor() throws {
    let scene = try Scene("replicas: 0")
    #expect(scene.state.status == .noReplica)
    #expect(scene.reason == "the service file asks for 0 replicas")
  }

  @Test func aDrainIsAcknowledged() throws {
    var scene = try Scene.ready()
    let before = scene.published!.version
    scene.seen.proxy = .reporting(version: before, inFlight: [2: 3])
    try scene.update("replicas: 1")
    // The newest goes; told, but not yet taken in.
    #expect(scene.status(2) == .shuttingDown && scene.draining == ["2"] && scene.last.actions.isEmpty)
    scene.seen.proxy = .reporting(version: before, inFlight: [:])
    scene.plan()
    #expect(scene.last.actions.isEmpty)
    scene.seen.proxy = .reporting(version: scene.published!.version, inFlight: [2: 1])
    scene.plan(after: 60)
    #expect(scene.last.actions.isEmpty && scene.last.wakeAt! <= 1000 + 10 + 120)
    scene.seen.proxy = .reporting(version: scene.published!.version, inFlight: [:])
    scene.plan()
    #expect(scene.last.actions == [.stop(id: 2, attempt: 1, keepLogs: false)] && scene.draining == [])
    scene.gone(2)
    #expect(scene.statuses == ["1:READY"])
  }

  @Test func aDrainHasAnEnd() throws {
    var scene = try Scene.ready()
    scene.seen.proxy = .reporting(version: scene.published!.version, inFlight: [2: 3])
    try scene.update("replicas: 1")
    scene.plan(after: 119)
    #expect(scene.last.actions.isEmpty)
    scene.plan(after: 1)
    #expect(scene.last.actions == [.stop(id: 2, attempt: 1, keepLogs: false)])
  }

  @Test func rollingGoesOneForOne() throws {
    var scene = try Scene.ready()
    try scene.update("replicas: 2", command: "y")
    #expect(scene.statuses == ["1:READY", "2:READY", "3:PROVISIONING", "4:PROVISIONING"])
    scene.up(3, 4)
    scene.probe(true, 3)
    #expect(scene.statuses == ["1:READY", "2:SHUTTING_DOWN", "3:READY", "4:STARTING"])
    #expect(scene.state.service.activeVersions == [1, 2] && scene.taking == ["1", "3"])
    scene.probe(true, 4)
    scene.plan()
    #expect(scene.status(1) == .shuttingDown && scene.taking == ["3", "4"])
    scene.gone(1)
    scene.gone(1, 2)
    scene.plan()
    // The version before stays known, to go back to.
    #expect(scene.statuses == ["3:READY", "4:READY"] && scene.state.versions.keys.sorted() == [1, 2])
  }

  @Test func blueGreenSwitchesAtOnce() throws {
    var scene = try Scene.ready()
    try scene.update("replicas: 2", command: "y", mode: .blueGreen)
    scene.up(3, 4)
    scene.probe(true, 3)
    #expect(scene.taking == ["1", "2"] && scene.state.replicas.count == 4)
    scene.probe(true, 4)
    #expect(scene.taking == ["3", "4"] && scene.draining == ["1", "2"] && scene.status(1) == .shuttingDown)
  }

  @Test func onlyTheServiceChanged() throws {
    var scene = try Scene.ready()
    try scene.update("replicas: 3")
    #expect(scene.statuses == ["1:READY", "2:READY", "3:PROVISIONING"])
    #expect(scene.state.replicas.values.allSatisfy { $0.version == 2 } && scene.state.service.activeVersions == [2])
  }

  @Test func aBadVersionLeavesTheGoodOneServing() throws {
    var scene = try Scene.ready()
    try scene.update("replicas: 2", command: "bad")
    scene.up(3, 4, job: .failed(reason: "exit 1"))
    scene.gone(3, 4)
    #expect(scene.statuses == ["1:READY", "2:READY", "3:FAILED", "4:FAILED"] && scene.taking == ["1", "2"])
    // And what is lost of the good one is replaced by the good one.
    scene.gone(1)
    scene.plan(after: 60)
    #expect(scene.status(5) == .provisioning && scene.state.replicas[5]?.version == 1)
    scene.gone(1)
    scene.up(5)
    scene.probe(true, 5)
    for mutation in try Commands.rollback(scene.control, name: "web", now: scene.seen.now) {
      scene.control.apply(mutation)
    }
    scene.plan()
    #expect(scene.state.service.latestVersion == 3 && scene.state.versions[3]?.rollbackOf == 1)
    #expect(scene.state.replicas[2]?.version == 3 && scene.state.replicas[5]?.version == 3)
    #expect(scene.last.actions.isEmpty && scene.taking == ["2", "5"])
  }

  @Test func afterARestartNothingIsDoneTwice() throws {
    var scene = try Scene("replicas: 1")
    scene.seen.operations = [:]
    scene.plan()
    #expect(scene.last.actions.isEmpty)  // nobody has asked the infra yet
    scene.seen.infra[1] = .partial(detail: "waits")
    scene.plan()
    #expect(scene.last.actions == [.launch(LaunchOrder(id: 1, version: 1, spot: false))])
    scene.up(1)
    #expect(scene.status(1) == .starting && scene.last.actions.isEmpty)
    // A new proxy hears everything again; one that was told more than we remember is outbid.
    scene.probe(true, 1)
    scene.seen.proxy = .reporting(version: 0, inFlight: [:])
    scene.plan()
    #expect(scene.last.publish?.replicas.map(\.id) == ["1"])
    scene.seen.proxy = .reporting(version: 77, inFlight: [:])
    scene.plan()
    #expect(scene.last.publish?.version == 78)
    scene.seen.strangers = [9]
    scene.plan()
    #expect(scene.last.actions == [.stop(id: 9, attempt: 1, keepLogs: false)])
  }

  /// A machine that an earlier service of the name has left is not taken for the new replica of its number.
  @Test func aStrangersNumberIsNotGivenOut() throws {
    var scene = try Scene.ready("replicas: 2")
    scene.seen.strangers = [3]
    scene.seen.infra[1] = .absent
    scene.plan()
    #expect(scene.last.actions.contains(.stop(id: 3, attempt: 1, keepLogs: false)))
    #expect(scene.state.replicas.keys.max() == 4, "\(scene.statuses)")
  }

  @Test func aStopThatFailsIsTriedAgainAndThenLeftToPeople() throws {
    var scene = try Scene.ready("replicas: 2")
    for mutation in try Commands.down(scene.control, name: "web", purge: false) { scene.control.apply(mutation) }
    scene.plan()
    // Requests under way are finished first.
    #expect(scene.last.actions.isEmpty && scene.draining == ["1", "2"] && scene.state.status == .shuttingDown)
    scene.plan()
    #expect(scene.last.actions.count == 2)
    scene.gone(2)
    for attempt in 1...3 {
      scene.seen.operations[1] = .stopFailed(attempt: attempt, reason: "denied")
      scene.plan()
      if attempt < 3 {
        scene.plan(after: 10)
        #expect(scene.last.actions.contains(.stop(id: 1, attempt: attempt + 1, keepLogs: false)))
      }
    }
    #expect(scene.status(1) == .failedCleanup && scene.state.status == .failedCleanup)
    #expect(throws: CommandError.self) { try Commands.down(scene.control, name: "web", purge: false) }
    let again = #expect(throws: CommandError.self) {
      try Commands.up(scene.control, name: "web", task: try Scene.task("replicas: 1"), port: 1, now: 0)
    }
    #expect(again?.description.hasSuffix("run: sky serve down web --purge") == true)
    for mutation in try Commands.down(scene.control, name: "web", purge: true) { scene.control.apply(mutation) }
    scene.plan()
    #expect(scene.state.replicas.isEmpty && scene.last.actions == [.stopProxy])
    scene.seen.proxy = .absent
    scene.plan()
    #expect(scene.control.services.isEmpty && scene.last.actions == [.forget])
  }

  @Test func fromZeroWithTheFirstRequest() throws {
    var scene = try Scene("replica_policy: {min_replicas: 0, max_replicas: 2, target_qps_per_replica: 1}")
    #expect(scene.state.replicas.isEmpty && scene.state.status == .noReplica)
    scene.seen.now += 3
    scene.seen.arrivals = [Arrivals(at: scene.seen.now, count: 1)]
    scene.plan()
    #expect(scene.statuses == ["1:PROVISIONING"])
    #expect(scene.last.events.first == "scale target=1 was=0 requests_per_second=0.02")
  }

  @Test func theLogTellsWhyReplicasGo() throws {
    var scene = try Scene.ready()
    try scene.update("replicas: 1")
    #expect(scene.last.events.contains { $0.hasSuffix("version=2 READY -> SHUTTING_DOWN scaled down") })
    try scene.update("replicas: 1", command: "better")
    scene.up(3)
    scene.probe(true, 3)
    #expect(scene.last.events.contains { $0.hasSuffix("version=2 READY -> SHUTTING_DOWN replaced by version 3") })
    for mutation in try Commands.down(scene.control, name: "web", purge: false) { scene.control.apply(mutation) }
    scene.plan()
    #expect(scene.last.events.contains { $0.hasSuffix("READY -> SHUTTING_DOWN the service is terminated") })
  }

  @Test func commandsRefuseInTheOriginalsWords() throws {
    let scene = try Scene.ready()
    func said(_ body: () throws(CommandError) -> [Mutation]) -> String {
      do throws(CommandError) { _ = try body() } catch { return error.description }
      return ""
    }
    let task = try Scene.task("replicas: 1")
    #expect(
      said { () throws(CommandError) in try Commands.up(scene.control, name: "web", task: task, port: 1, now: 0) }
        .hasPrefix("The service 'web' is already running. Please specify a different name for your service."))
    var ending = scene.control
    for mutation in try Commands.down(ending, name: "web", purge: false) { ending.apply(mutation) }
    #expect(
      said { () throws(CommandError) in try Commands.up(ending, name: "web", task: task, port: 1, now: 0) }
        .hasPrefix("The service 'web' is still being terminated (SHUTTING_DOWN). Wait"))
    #expect(
      said { () throws(CommandError) in
        try Commands.update(scene.control, name: "none", task: task, mode: .rolling, now: 0)
      } == "Cannot find service 'none'. To spin up a service, use sky serve up")
    #expect(
      said { () throws(CommandError) in
        try Commands.terminateReplica(scene.control, name: "web", id: 9, purge: false, now: 0)
      } == "Replica 9 for service web does not exist.")
    var going = scene.control
    for mutation in try Commands.terminateReplica(going, name: "web", id: 1, purge: false, now: 0) {
      going.apply(mutation)
    }
    #expect(
      said { () throws(CommandError) in try Commands.terminateReplica(going, name: "web", id: 1, purge: false, now: 0) }
        == "Replica 1 of service 'web' is already in the process of terminating. Skip terminating now.")
    #expect(
      said { () throws(CommandError) in try Commands.rollback(scene.control, name: "web", now: 0) }
        .hasPrefix("Service 'web' has no earlier version that was ready."))
  }
}
