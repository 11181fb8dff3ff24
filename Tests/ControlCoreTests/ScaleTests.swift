// The autoscaler beyond the recorded scenarios.

import Testing
import Yaml

@testable import ControlCore

@Suite struct ScaleTests {
  private func scaler(_ policy: String, version: Int = 1) throws -> Autoscaler {
    Autoscaler(version: version, spec: try service(policy))
  }

  private func service(_ policy: String) throws -> ServiceSpec {
    let aware = policy.contains("replica: {") ? "load_balancing_policy: instance_aware_least_load, " : ""
    return try ServiceSpec(decoding: try parseYaml("{\(aware)replica_policy: {\(policy)}}", name: "t"))
  }

  private func ready(_ ids: ClosedRange<Int>, version: Int = 1, spot: Bool = false) -> [ScalingReplica] {
    ids.map { ScalingReplica(id: $0, version: version, status: .ready, isSpot: spot) }
  }

  private let web = "min_replicas: 0, max_replicas: 4, target_qps_per_replica: 1"

  @Test func theWindowMoves() {
    var rate = RequestRate()
    rate.add(30, at: 100.9)
    rate.add(30, at: 130)
    rate.add(5, at: 99)  // a late report
    #expect(rate.count(now: 130) == 65 && rate.perSecond(now: 160.5) == 1)
    #expect(rate.count(now: 161) == 30 && rate.count(now: 191) == 0)
    for second in 0..<100_000 { rate.add(1, at: 1000 + Double(second)) }
    #expect(rate.count(now: 100_999) == 61)
  }

  @Test func toZeroAndBack() throws {
    var scaler = try scaler(web)
    #expect(scaler.finalTarget == 0 && scaler.decisions([], activeVersions: []) == [])
    scaler.tick([], now: 0)
    #expect(scaler.nextTick(now: 1) == 5)
    // Whoever comes is noticed at once and not only at the next look.
    scaler.observe(arrivals: 1, at: 0.5)
    #expect(scaler.nextTick(now: 0.5) == 1)
    scaler.tick([], now: 1)
    #expect(scaler.target == 1 && scaler.decisions([], activeVersions: []) == [.launch(spot: nil)])
    #expect(scaler.nextTick(now: 2) == 21)
    var now = 100.0
    for _ in 0..<59 {
      scaler.tick(ready(1...1), now: now)
      now += 20
    }
    #expect(scaler.target == 1)
    scaler.tick(ready(1...1), now: now)
    #expect(scaler.target == 0 && scaler.decisions(ready(1...1), activeVersions: [1]) == [.terminate(id: 1)])
  }

  @Test func oneContraryLookStartsAgain() throws {
    var scaler = try scaler("min_replicas: 1, max_replicas: 4, target_qps_per_replica: 1, upscale_delay_seconds: 60")
    for now in [0.0, 20] {
      scaler.observe(arrivals: 180, at: now)
      scaler.tick(ready(1...1), now: now)
    }
    #expect(scaler.hysteresis.up == 2)
    scaler.tick(ready(1...1), now: 200)
    #expect(scaler.hysteresis.up == 0 && scaler.target == 1)
  }

  /// Any policy to any other: no error, and a busy service does not shrink.
  @Test func updatesKeepTheTarget() throws {
    let policies = [
      web, "min_replicas: 2", "min_replicas: 1, max_replicas: 3, target_qps_per_replica: {A100: 2}",
      "min_replicas: 1, max_replicas: 4, target_qps_per_replica: 1, dynamic_ondemand_fallback: true",
    ]
    for from in policies {
      for to in policies {
        var scaler = try scaler(from)
        scaler.update(version: 2, spec: try service(to), mode: .rolling, now: 0)
        scaler.update(version: 1, spec: try service(from), mode: .rolling, now: 0)
        #expect(scaler.version == 2)
        scaler.tick([], now: 0)
        _ = scaler.decisions([], activeVersions: [])
      }
    }
    var busy = try scaler(web)
    busy.observe(arrivals: 180, at: 0)
    busy.tick([], now: 0)
    #expect(busy.target == 3)
    busy.update(version: 2, spec: try service(web), mode: .rolling, now: 500)
    #expect(busy.target == 3)
    // More load than the new version's replicas carry: no delay for that.
    busy.observe(arrivals: 120, at: 500)
    busy.update(
      version: 3, spec: try service("min_replicas: 0, max_replicas: 9, target_qps_per_replica: 0.25"), mode: .rolling,
      now: 500)
    #expect(busy.target == 8)
    busy.update(version: 4, spec: try service("min_replicas: 2"), mode: .rolling, now: 500)
    #expect(busy.target == 2)
  }

  @Test func spareOnesComeOnTop() throws {
    let scaler = try scaler("min_replicas: 2, max_replicas: 2, num_overprovision: 1")
    #expect(scaler.finalTarget == 3 && scaler.decisions(ready(1...2), activeVersions: [1]) == [.launch(spot: nil)])
  }

  @Test func aFixedShareOnDemand() throws {
    let scaler = try scaler("min_replicas: 3, base_ondemand_fallback_replicas: 1")
    #expect(
      scaler.decisions([], activeVersions: []) == [.launch(spot: true), .launch(spot: true), .launch(spot: false)])
    // More base replicas than replicas: no negative number of spot ones.
    let odd = try self.scaler("min_replicas: 1, base_ondemand_fallback_replicas: 2")
    #expect(odd.decisions([], activeVersions: []) == [.launch(spot: false)])
  }

  /// SkyServe counts replicas that failed long ago and asks for more than the maximum ever needs.
  @Test func deadReplicasDoNotCount() throws {
    var scaler = try scaler(
      "min_replicas: 1, max_replicas: 9, target_qps_per_replica: {A100: 1}, upscale_delay_seconds: 0")
    var replicas = ready(1...1)
    replicas += (2...6).map { ScalingReplica(id: $0, version: 1, status: .failedProbing) }
    scaler.observe(arrivals: 90, at: 0)
    scaler.tick(replicas, now: 0)
    #expect(scaler.target == 2)
  }

  @Test func acceleratorsAreLookedUp() throws {
    let scaler = try scaler("min_replicas: 1, max_replicas: 9, target_qps_per_replica: {\"A100:8\": 9, A100: 2, L4: 1, \"T4:2\": 4}")
    func qps(_ name: String, _ count: Int) -> Double {
      var replica = ready(1...1)[0]
      replica.accelerator = Accelerator(name: name, count: Quantity(count))
      return scaler.qps(of: replica)
    }
    #expect(qps("A100", 8) == 9 && qps("a100", 1) == 2 && qps("L4", 4) == 1 && qps("T4", 1) == 4 && qps("X", 1) == 1)
  }

  @Test func blueGreenWaitsForItsOwnMinimum() {
    let replicas = ready(1...3) + ready(4...4, version: 2)
    func active(_ mode: UpdateMode, _ replicas: [ScalingReplica], before: [Int] = []) -> [Int] {
      Rollout.activeVersions(replicas, latest: 2, mode: mode, before: before) { $0 == 2 ? 2 : 4 }
    }
    #expect(active(.rolling, replicas) == [1, 2] && active(.blueGreen, replicas) == [1])
    #expect(active(.blueGreen, replicas + ready(5...5, version: 2)) == [2])
    #expect(active(.blueGreen, []) == [] && active(.blueGreen, ready(4...4, version: 2)) == [2])
    // A rolling update was under way when a blue-green one came: both versions go on serving.
    let mixed = ready(1...1) + ready(2...2, version: 2) + ready(3...3, version: 3)
    #expect(
      Rollout.activeVersions(mixed, latest: 3, mode: .blueGreen, before: [1, 2]) { _ in 2 } == [1, 2])
    #expect(
      Rollout.outdated(replicas, latest: 2, mode: .blueGreen, wanted: 2, activeVersions: [1]).isEmpty)
    #expect(Rollout.outdated(replicas, latest: 2, mode: .rolling, wanted: 2, activeVersions: [1, 2]).map(\.id) == [3, 2])
    // Nobody asks: there is nothing for the new version to take over.
    #expect(Rollout.outdated(ready(1...2), latest: 2, mode: .blueGreen, wanted: 0, activeVersions: [1]).count == 2)
    // The latest version serves with replicas it took over from the one before: it goes on with them.
    #expect(
      Rollout.activeVersions(ready(1...1, version: 2), latest: 2, mode: .blueGreen, before: [2]) { _ in 2 } == [2])
  }

  /// Updates one after the other while nothing serves: what is older waits only for as many as are wanted.
  @Test func blueGreenHoldsTheSurgeWhenNobodyServes() {
    let replicas = [
      ScalingReplica(id: 4, version: 5, status: .notReady), ScalingReplica(id: 7, version: 6, status: .provisioning),
      ScalingReplica(id: 11, version: 8, status: .starting), ScalingReplica(id: 12, version: 8, status: .provisioning),
      ScalingReplica(id: 13, version: 8, status: .provisioning),
    ]
    func outdated(_ wanted: Int) -> [Int] {
      Rollout.outdated(replicas, latest: 9, mode: .blueGreen, wanted: wanted, activeVersions: []).map(\.id)
    }
    #expect(outdated(4) == [7] && outdated(3) == [7, 13] && outdated(1) == [7, 13, 12, 11])
  }

  @Test func serviceStatusFollowsTheTable() {
    #expect(ServiceStatus.of([.failed, .ready]) == .ready)
    #expect(ServiceStatus.of([.starting, .failedProbing]) == .failed)
    #expect(ServiceStatus.of([]) == .noReplica)
    #expect(ServiceStatus.of([.shuttingDown]) == .replicaInit)
  }
}
