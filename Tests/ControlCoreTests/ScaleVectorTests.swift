// Every recorded scenario of SkyServe's autoscalers, step by step.
//
// `deviations` lists the steps where we answer otherwise on purpose; the numbers are the reference's list of defects.

import Foundation
import Testing
import Yaml

@testable import ControlCore

@Suite struct ScaleVectorTests {
  private struct Deviation {
    var decisions: [ScaleDecision]
    var target: Int?
  }

  /// Scenario and step (from 0).
  private static let deviations: [String: Deviation] = [
    // 10: the original forgets the status when it chooses among accelerators and stops a ready replica before one
    // that is still starting.
    "instance_aware.2": Deviation(decisions: [.terminate(id: 2), .terminate(id: 1)]),
    // 3: restarted at version 3, the original believes in version 1 and launches everything again, each tick. Our
    // version comes from the record.
    "recovery_bug_version3_but_autoscaler_thinks_1.0": Deviation(decisions: []),
  ]

  @Test func scenarios() throws {
    let vectors = try Vectors.all("autoscaler-vectors.json")
    #expect(vectors.count >= 10)
    for vector in vectors { try scenario(vector) }
  }

  private func scenario(_ vector: PlainValue) throws {
    let name = vector["name"]?.text ?? "?"
    let restored = name.hasPrefix("recovery_bug") ? 3 : 1
    var scaler = Autoscaler(version: restored, spec: try service(vector["service"]))
    var now = 1_000_000.0
    for (index, step) in (vector["steps"]?.items ?? []).enumerated() {
      let input = try #require(step["step"])
      if let update = input["update"] {
        scaler.update(
          version: update["version"]?.whole ?? 0, spec: try service(update["service"]),
          mode: update["mode"]?.text.flatMap(UpdateMode.init) ?? .rolling, now: now)
      }
      let replicas = (input["replicas"]?.items ?? []).map(Self.replica)
      let active = input["active_versions"]?.items.compactMap(\.whole) ?? []
      // Each step has the requests it says and no others.
      now += 1000
      for _ in 0..<(input["ticks"]?.whole ?? 1) {
        if let count = input["requests_in_window"]?.whole, scaler.rate.count(now: now) < count {
          scaler.observe(arrivals: count - scaler.rate.count(now: now), at: now)
        }
        scaler.tick(replicas, now: now)
      }
      let decisions = scaler.decisions(replicas, activeVersions: active)
      let deviation = Self.deviations["\(name).\(index)"]
      let expected = deviation?.decisions ?? (step["decisions_last_tick"]?.items ?? []).map(Self.decision)
      #expect(decisions == expected, "\(name) step \(index)")
      let after = step["after"]
      #expect(scaler.target == deviation?.target ?? after?["target_num_replicas"]?.whole, "\(name) step \(index)")
      #expect(scaler.finalTarget == after?["final_target"]?.whole, "\(name) step \(index)")
      #expect(scaler.hysteresis.up == after?["up_counter"]?.whole, "\(name) step \(index)")
      #expect(scaler.hysteresis.down == after?["down_counter"]?.whole, "\(name) step \(index)")
      let interval = scaler.finalTarget == 0 ? Autoscaler.tickSecondsAtZero : Autoscaler.tickSeconds
      #expect(interval == after?["decision_interval"]?.number, "\(name) step \(index)")
      // What is stored goes on as if nothing had happened.
      scaler = try JSONDecoder().decode(Autoscaler.self, from: JSONEncoder().encode(scaler))
    }
  }

  private func service(_ value: PlainValue?) throws -> ServiceSpec {
    try ServiceSpec(decoding: try parseYaml(try #require(value).json(), name: "vector"))
  }

  private static func replica(_ value: PlainValue) -> ScalingReplica {
    let list = value.items
    let status = ReplicaStatus(rawValue: (list.isEmpty ? value["status"]?.text : list[1].text) ?? "")!
    return ScalingReplica(
      id: list.first?.whole ?? value["i"]?.whole ?? 0,
      version: list.count > 2 ? list[2].whole ?? 1 : value["version"]?.whole ?? 1, status: status,
      isSpot: value["spot"] == .bool(true),
      accelerator: value["gpu"]?.text.map { Accelerator(name: $0, count: Quantity(1)) },
      isHopeless: status == .failedInitialDelay || status == .failed)
  }

  private static func decision(_ value: PlainValue) -> ScaleDecision {
    if value["op"]?.text == "scale_down" { return .terminate(id: value["target"]?.whole ?? -1) }
    guard case .bool(let spot) = value["target"]?["use_spot"] else { return .launch(spot: nil) }
    return .launch(spot: spot)
  }
}
