// What users ask for in a run, by chance; what they were promised goes to the Oracle.

import ControlCore
import ProxyWire
import SimKit

struct People {
  let run: Simulation

  init(_ run: Simulation) { self.run = run }

  private static let policies = [
    "replicas: 1", "replicas: 2", "replicas: 3", "replicas: 5",
    "replica_policy: {min_replicas: 2, max_replicas: 2, num_overprovision: 1}",
    "replica_policy: {min_replicas: 1, max_replicas: 4, target_qps_per_replica: 1, upscale_delay_seconds: 20, "
      + "downscale_delay_seconds: 40}",
    "replica_policy: {min_replicas: 0, max_replicas: 3, target_qps_per_replica: 1, upscale_delay_seconds: 0, "
      + "downscale_delay_seconds: 60}",
  ]

  static func task(_ policy: String, _ command: String, probeSeconds: Double = 10) -> TaskSpec {
    let text = """
      service:
        readiness_probe:
          path: /
          initial_delay_seconds: 200
          timeout_seconds: 5
          endpoint_probe_interval_seconds: \(probeSeconds)
          consecutive_failure_threshold_timeout: 60
        \(policy)
      resources: {ports: 8080}
      run: \(command)
      """
    do { return try TaskSpec(yaml: Array(text.utf8), name: "service.yaml") } catch {
      preconditionFailure("the simulation's own file is right: \(error)")
    }
  }

  private func someTask(mayBreak: Bool) -> TaskSpec {
    let command = mayBreak && run.chance.hit(0.2) ? "broken" : "serve \(run.chance.below(3))"
    return Self.task(run.chance.pick(Self.policies), command)
  }

  func ask() {
    let name = run.chance.pick(run.oracle.names)
    guard let service = run.state.services[name] else { return up(name, someTask(mayBreak: true)) }
    switch run.chance.below(16) {
    case 0..<5: update(name, someTask(mayBreak: true), run.chance.hit(0.5) ? .rolling : .blueGreen)
    case 5..<7:
      // Only the number changes.
      let old = service.latest?.task.run ?? "serve 0"
      update(name, Self.task(run.chance.pick(Self.policies), old), run.chance.hit(0.5) ? .rolling : .blueGreen)
    case 7..<9: rollback(name)
    case 9..<11:
      guard !run.profile.keepsPromise, let id = service.replicas.keys.sorted().randomElement(using: &run.chance) else {
        return status()
      }
      terminate(name, id, purge: run.chance.hit(0.3))
    case 11..<12: down(name, purge: run.chance.hit(0.3))
    case 12..<14: run.world.place(name).load = run.chance.pick([0, 0.2, 1, 3])
    default: status()
    }
  }

  // MARK: Commands

  /// Runs it as a task; `done` is called with what came of it, unless the controller dies first.
  private func ask<Reply: Sendable>(
    _ name: String, _ what: String, _ body: @escaping @Sendable (Controller) async throws -> Reply,
    done: @escaping (Reply) -> Void = { (_: Reply) in }
  ) {
    guard let controller = run.controller else { return }
    run.result.commands += 1
    run.note("\(name) asked: \(what)")
    run.oracle.begin(what, name)
    let finish = Unchecked(done)
    let run = run
    Task.detached {
      do {
        let reply = try await body(controller)
        run.note("\(name) done: \(what)")
        finish.value(reply)
      } catch {
        run.note("\(name) refused: \(what): \(error)")
      }
      run.oracle.end(what, name)
    }
  }

  func up(_ name: String, _ task: TaskSpec) {
    run.world.place(name).begin()
    let oracle = run.oracle!
    ask(name, "up \(task.service!.policyText) \(task.run ?? "")") {
      try await $0.up(name, task)
    } done: { _ in
      oracle.promiseUp(name)
    }
  }

  func update(_ name: String, _ task: TaskSpec, _ mode: UpdateMode) {
    let oracle = run.oracle!
    ask(name, "update \(mode.rawValue) \(task.service!.policyText) \(task.run ?? "")") {
      try await $0.update(name, task, mode)
    } done: {
      oracle.promiseVersion(name, $0.version, task)
    }
  }

  private func rollback(_ name: String) {
    let oracle = run.oracle!
    ask(name, "rollback") {
      try await $0.rollback(name)
    } done: {
      oracle.promiseVersion(name, $0.version, nil)
    }
  }

  private func terminate(_ name: String, _ id: Int, purge: Bool) {
    let oracle = run.oracle!
    let run = run
    ask(name, "terminate \(id)\(purge ? " purge" : "")") {
      try await $0.terminate(name, id, purge: purge)
    } done: { _ in
      oracle.promiseEnd(name, id)
      // Of a service that goes nobody will look for what is left.
      if purge, run.state.services[name]?.service.desired != .running {
        let place = run.world.place(name)
        if let machine = place.machines[id] { run.world.remove(place, machine) }
      }
    }
  }

  func down(_ name: String, purge: Bool) {
    let oracle = run.oracle!
    let before = run.scheduler.now
    ask(name, "down\(purge ? " purge" : "")") {
      try await $0.down([name], all: false, purge: purge)
    } done: { reply in
      oracle.checkPrompt("down", since: before)
      if reply.names.contains(name) { oracle.promiseDown(name) }
    }
  }

  private func status() {
    let oracle = run.oracle!
    let before = run.scheduler.now
    ask("all", "status") {
      await $0.status([])
    } done: { _ in
      oracle.checkPrompt("status", since: before)
    }
  }
}

/// All of a run is on one thread.
struct Unchecked<Value>: @unchecked Sendable {
  let value: Value

  init(_ value: Value) { self.value = value }
}
