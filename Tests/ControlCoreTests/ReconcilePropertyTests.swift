// The reconciler in a world that breaks: whatever happens, it gets there, and never does what must not be done.
//
// A failure prints the seed and the step; SKY_SEED=… replays it.

import Foundation
import SimKit
import TestSupport
import Testing

@testable import ControlCore

@Suite struct ReconcilePropertyTests {
  /// Lives per test run; SKY_RUNS for a longer search.
  static let runs = ProcessInfo.processInfo.environment["SKY_RUNS"].flatMap { Int($0) } ?? 60

  private static let policies = [
    "replicas: 3", "replicas: 1", "replica_policy: {min_replicas: 2, max_replicas: 2, num_overprovision: 1}",
    "replica_policy: {min_replicas: 0, max_replicas: 4, target_qps_per_replica: 2, upscale_delay_seconds: 20, "
      + "downscale_delay_seconds: 40}",
    "replica_policy: {min_replicas: 2, max_replicas: 5, target_qps_per_replica: 2, upscale_delay_seconds: 0, "
      + "downscale_delay_seconds: 0}",
  ]
  private static let fallback = [
    "replica_policy: {min_replicas: 3, base_ondemand_fallback_replicas: 1}",
    "replica_policy: {min_replicas: 2, dynamic_ondemand_fallback: true}",
  ]

  private func task(_ policy: String, _ command: Int, spot: Bool) throws -> TaskSpec {
    try StoreTests.task(
      """
      service:
        readiness_probe: {path: /, initial_delay_seconds: 200, consecutive_failure_threshold_timeout: 60}
        \(policy)
      resources: {ports: 8080, use_spot: \(spot)}
      run: serve \(command)
      """)
  }

  private func settle(_ fleet: inout Fleet, _ limit: Int = 1500) -> Bool {
    fleet.trouble = .none
    var quiet = 0
    for _ in 0..<limit {
      fleet.step()
      quiet = fleet.isSettled ? quiet + 1 : 0
      if quiet > 5 { return true }
    }
    return false
  }

  @Test func alwaysGetsThere() throws {
    var first = Chance()
    for run in 0..<Self.runs {
      let seed = run == 0 ? first.seed : first.next()
      var fleet = Fleet(chance: Chance(seed: seed))
      try life(&fleet)
      if !fleet.problems.isEmpty {
        let replay = fleet.chance.replay()
        #expect(Bool(false), "\(fleet.problems.prefix(5).joined(separator: "\n"))\n\(replay)")
        return
      }
    }
  }

  /// A service's whole life: up, trouble, updates in between, calm, down.
  private func life(_ fleet: inout Fleet) throws {
    let spot = fleet.chance.below(4) == 0
    let policies = spot ? Self.fallback : Self.policies
    func policy(_ fleet: inout Fleet) -> String { policies[fleet.chance.below(policies.count)] }
    fleet.ask(
      try Commands.up(
        fleet.control, name: fleet.name, task: try task(policy(&fleet), 0, spot: spot), port: 30001, now: fleet.now))
    fleet.launchSlots = 1 + fleet.chance.below(4)
    for round in 1...(2 + fleet.chance.below(3)) {
      fleet.trouble = Fleet.Trouble(
        crash: fleet.chance.below(120), preempt: fleet.chance.below(10), kill: fleet.chance.below(8),
        hang: fleet.chance.below(8), launchFails: fleet.chance.below(200), stopFails: fleet.chance.below(300),
        proxyDies: fleet.chance.below(20), unreachable: fleet.chance.below(300))
      fleet.load = Double(fleet.chance.below(12))
      for _ in 0..<(20 + fleet.chance.below(150)) { fleet.step(Double(1 + fleet.chance.below(15))) }
      let mode: UpdateMode = fleet.chance.below(2) == 0 ? .rolling : .blueGreen
      let command = fleet.chance.below(3) == 0 ? 0 : round  // sometimes only the service changes
      if fleet.chance.below(4) == 0 { fleet.brokenVersions.insert(fleet.state!.service.latestVersion + 1) }
      fleet.ask(
        try Commands.update(
          fleet.control, name: fleet.name, task: try task(policy(&fleet), command, spot: spot), mode: mode,
          now: fleet.now))
    }
    // In the trouble the version may have failed before it ever served: then it is frozen, and another update helps.
    if !settle(&fleet) {
      fleet.ask(
        try Commands.update(
          fleet.control, name: fleet.name, task: try task(policy(&fleet), 99, spot: spot), mode: .rolling, now: fleet.now))
      if !settle(&fleet) {
        let left = fleet.state?.replicas.values.sorted { $0.id < $1.id }.map { "\($0.id):v\($0.version):\($0.status.rawValue)" }
        fleet.problem("does not settle: \(left ?? []) target \(fleet.state?.scaler.finalTarget ?? -1)")
        return
      }
    }
    fleet.trouble.crash = fleet.chance.below(100)
    fleet.ask(try Commands.down(fleet.control, name: fleet.name, purge: false))
    for _ in 0..<300 where fleet.control.services[fleet.name] != nil {
      fleet.cleanUpByHand()
      fleet.step()
    }
    if fleet.control.services[fleet.name] != nil { fleet.problem("does not go away: \(fleet.state!.status)") }
    if !fleet.machines.isEmpty || fleet.proxyRuns { fleet.problem("leaks \(fleet.machines.keys.sorted())") }
  }

  @Test func aHundredServicesOfTwentyReplicasArePlannedAtOnce() throws {
    let task = try task("replicas: 20", 0, spot: false)
    var states: [ServiceState] = []
    for index in 0..<100 {
      var fleet = Fleet(chance: Chance(seed: UInt64(index)))
      fleet.ask(try Commands.up(fleet.control, name: fleet.name, task: task, port: 30001, now: fleet.now))
      if index == 0 {
        #expect(settle(&fleet))
        states = Array(repeating: fleet.state!, count: 100)
      }
    }
    var seen = Observed(now: 2_000_000)
    for id in 1...20 { seen.probes[id] = ProbeFact(at: 2_000_000, ok: true) }
    seen.proxy = .reporting(version: states[0].service.published.version, inFlight: [:])
    let clock = ContinuousClock()
    let times = (0..<5).map { _ in
      clock.measure { for state in states { _ = Reconciler.plan(state, seen) } }
    }
    let best = times.min()!
    #if DEBUG
      #expect(best < .milliseconds(500), "\(best)")
    #else
      #expect(best < .milliseconds(50), "\(best)")
    #endif
    print("100 services of 20 replicas: \(best)")
  }
}
