// Many services in one controller, for figures: how long a pass and `status` take, and what a week does to memory.

import ControlCore
import Foundation
import SimKit

package final class Fleet: @unchecked Sendable {
  private static let epoch = 1_700_000_000.0

  package let services: Int
  package let replicas: Int
  /// Probes, polls and reports come so many times more seldom than they do: what stays in memory is a matter of how many
  /// replicas there are and of what happens to them, not of how often they are asked.
  private let slowness: Double
  private let scheduler = Scheduler.only
  private let world: World
  private let paths: Paths
  private var controller: Controller!
  private var chance = Chance(seed: 1)
  private var graves: [Any] = []
  private let names: [String]

  package init(services: Int, replicas: Int, slowness: Double = 1, folder: String) {
    self.services = services
    self.replicas = replicas
    self.slowness = slowness
    scheduler.reset(nil)
    world = World(chance: Chance(seed: 2))
    paths = Paths(home: folder, configFile: folder + "/none")
    names = (0..<services).map { "service-\($0)" }
    world.stepSeconds = slowness
    world.problem = { print($0) }
    world.clock = { [unowned self] in Self.epoch + scheduler.now }
    world.state = { [unowned self] in state }
    world.step()
  }

  package var state: ControlState { controller.assumeIsolated { $0.state } }
  package var now: Double { Self.epoch + scheduler.now }
  package var jobs: Int { scheduler.count }

  package func start() throws(StoreError) {
    var limits = Controller.Limits(servicesMax: services)
    limits.launchesMax = 4 * services
    limits.pollSeconds = slowness
    let controller = Controller(
      store: try Store(folder: paths.state),
      parts: Controller.Parts(
        paths: paths, infra: SimInfra(world: world), proxies: SimLinks(world: world), probes: SimProbes(world: world),
        clock: SimClock(epoch: Self.epoch), limits: limits, log: .silent, threads: scheduler.threads))
    self.controller = controller
    Task.detached {
      await controller.begin()
      await controller.run()
    }
  }

  /// As by SIGKILL, and started again.
  package func restart() throws(StoreError) {
    scheduler.drop()
    graves.append(controller!)
    for place in world.places.values {
      if let link = place.proxy.link { graves.append(link) }
      place.proxy.link?.letGo()
      place.launching = [:]
    }
    try? FileManager.default.removeItem(atPath: paths.state + "/lock")
    try start()
  }

  private func task(_ command: Int) -> TaskSpec {
    People.task(
      "replica_policy: {min_replicas: \(replicas), max_replicas: \(replicas + 2), target_qps_per_replica: 1}",
      "serve \(command)", probeSeconds: 10 * slowness)
  }

  private func ask(_ body: @escaping @Sendable (Controller) async throws -> Void) {
    let controller = controller!
    Task.detached {
      do { try await body(controller) } catch { print("refused: \(error)") }
    }
  }

  package func up() {
    for name in names {
      let task = task(0)
      ask { _ = try await $0.up(name, task) }
    }
  }

  package func update(_ index: Int, _ command: Int, _ mode: UpdateMode) {
    let name = names[index]
    let task = task(command)
    ask { _ = try await $0.update(name, task, mode) }
  }

  package var ready: Int {
    state.services.values.reduce(0) { $0 + $1.readyAndTotal.ready }
  }

  /// Simulated seconds.
  package func run(for duration: Double) {
    let end = scheduler.now + duration
    repeat { runJobs() } while scheduler.advance(until: end)
  }

  package func runJobs() { while scheduler.runJob() {} }

  // MARK: Figures, in real seconds

  /// One look at each service; the slowest of them, and all together.
  package func pass() -> (slowest: Double, all: Double) {
    runJobs()
    var slowest = 0.0
    var all = 0.0
    for name in names {
      let begun = Scheduler.realSeconds
      controller.assumeIsolated { $0.wake(name) }
      runJobs()
      let took = Scheduler.realSeconds - begun
      slowest = max(slowest, took)
      all += took
    }
    return (slowest, all)
  }

  /// The longest the controller was at one thing during `body`.
  package func longestStep(_ body: () throws -> Void) rethrows -> Double {
    scheduler.longest = 0
    try body()
    defer { scheduler.longest = nil }
    return scheduler.longest ?? 0
  }

  /// What `sky serve status` is answered.
  package func status() -> StatusReply { controller.assumeIsolated { $0.status([]) } }

  // MARK: A week

  /// Machines and proxies fail now and then, often enough that a day fills every history; people ask and update.
  package func beginLife() {
    world.faults.killed = 1e-5
    world.faults.takenAway = 1e-6
    world.faults.proxyDies = 1e-6
    world.faults.pollFails = 1e-3
    world.faults.launchFails = 0.01
    world.faults.stopFails = 0.01
    for name in names { world.place(name).load = chance.pick([0, 0.1, 1]) }
  }

  package func someUpdate(_ command: Int) {
    update(chance.below(services), command, command.isMultiple(of: 2) ? .rolling : .blueGreen)
  }
}
