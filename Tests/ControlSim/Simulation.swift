// One run: services come, change, suffer and go; the controller dies and comes back; then all is calm, and everything
// has to be as it was asked to be.
//
//   rounds of trouble and commands ─▶ calm: settles ─▶ down: nothing is left
//        ✂ killed between any two steps, started again on the same folder

import ControlCore
import Foundation
import SimKit

package struct SimResult {
  package var failure: String?
  /// The last events before it.
  package var tail: [String] = []
  package var simulatedSeconds = 0.0
  package var jobs = 0
  package var commands = 0
  package var crashes = 0
  package var requests = 0
}

package final class Simulation: @unchecked Sendable {
  /// Seconds since 1970 when a run begins.
  private static let epoch = 1_700_000_000.0
  /// Seconds after which calm must have settled everything. Where launches hung they are given up after an hour, and the
  /// next ones wait for ten minutes at most; where nothing but one service did, the others must not notice.
  var settleSeconds: Double { profile.trouble == 0 ? 600 : 3 * 3600 }
  /// When the controller that lives began.
  private(set) var startedAt = 0.0
  private static let traceMax = 400

  let profile: Profile
  let scheduler = Scheduler.only
  let world: World
  var chance: Chance
  let folder: String
  let verbose: Bool
  private(set) var failure: String?
  private var trace: [String] = []
  /// The one that lives.
  var controller: Controller?
  /// Seconds since 1970 at the run's beginning, as the one that lives believes.
  private var clock = SimClock(epoch: epoch)
  /// What the wall clock says, and what it would say had nobody set it.
  private var skew = 0.0
  /// What dead controllers held: if it were released, things of theirs would end that just stop.
  private var graves: [Any] = []
  var oracle: Oracle!
  var crashAt = Double.infinity
  /// Jobs until the controller dies.
  private var jobsLeft: Int?
  var commandAt = Double.infinity
  var result = SimResult()

  init(seed: UInt64, profile: Profile, folder: String, verbose: Bool) {
    self.profile = profile
    self.folder = folder
    self.verbose = verbose
    chance = Chance(seed: seed)
    scheduler.reset(chance.fork())
    world = World(chance: chance.fork())
    oracle = Oracle(self)
    world.trace = { [unowned self] in note($0) }
    world.problem = { [unowned self] in problem($0) }
    world.state = { [unowned self] in state }
    world.clock = { [unowned self] in clock.now }
    world.step()
  }

  /// Runs one seed in a folder of its own below `base`.
  package static func run(seed: UInt64, profile: Profile, base: String, verbose: Bool = false) -> SimResult {
    let folder = base + "/\(profile.name)-\(seed)"
    let run = Simulation(seed: seed, profile: profile, folder: folder, verbose: verbose)
    run.live()
    run.kill()
    try? FileManager.default.removeItem(atPath: folder)
    run.result.failure = run.failure
    run.result.tail = run.trace
    run.result.simulatedSeconds = run.scheduler.now
    run.result.jobs = run.scheduler.count
    run.result.requests = run.world.requests
    return run.result
  }

  func note(_ text: String) {
    let line = "  \(seconds(scheduler.now)) \(text)"
    if verbose { print(line) }
    trace.append(line)
    if trace.count > 2 * Self.traceMax { trace.removeFirst(trace.count - Self.traceMax) }
  }

  func problem(_ text: String) {
    if failure == nil { failure = "at \(seconds(scheduler.now)): \(text)" }
  }

  // MARK: The controller's lives

  var paths: Paths { Paths(home: folder, configFile: folder + "/none") }

  /// What is known to be written.
  var state: ControlState { controller?.assumeIsolated { $0.state } ?? ControlState() }

  func start() {
    let store: Store
    do { store = try Store(folder: paths.state) } catch { return problem("the store does not open: \(error)") }
    oracle.checkPromises(store.state, isFresh: true)
    clock = SimClock(epoch: max(Self.epoch + skew, store.state.newestTime - scheduler.now))
    var limits = Controller.Limits(servicesMax: 8)
    limits.launchesMax = 1 + chance.below(6)
    let controller = Controller(
      store: store,
      parts: Controller.Parts(
        paths: paths, infra: SimInfra(world: world), proxies: SimLinks(world: world), probes: SimProbes(world: world),
        clock: clock, limits: limits, log: .silent, threads: scheduler.threads))
    self.controller = controller
    startedAt = scheduler.now
    note("controller starts")
    Task.detached {
      await controller.begin()
      await controller.run()
    }
    if let mean = profile.crashSeconds { crashAt = scheduler.now + chance.delay(0...2 * mean) }
  }

  /// As by SIGKILL: what it has written stays, nothing else.
  func kill() {
    guard let controller else { return }
    scheduler.drop()
    graves.append(controller)
    for place in world.places.values {
      if let link = place.proxy.link { graves.append(link) }
      place.proxy.link?.letGo()
      place.launching = [:]
    }
    // Its lock is this process's, which lives.
    try? FileManager.default.removeItem(atPath: paths.state + "/lock")
    self.controller = nil
    crashAt = .infinity
    jobsLeft = nil
    oracle.controllerDied()
  }

  private func crash() {
    note("controller is killed")
    result.crashes += 1
    kill()
    if profile.setsClock { skew += chance.within(-7200...3600) }
    run(for: chance.hit(0.7) ? chance.within(0...2) : chance.delay(0...120))
    if failure == nil { start() }
  }

  // MARK: Time goes by

  /// Seconds.
  func run(for duration: Double) {
    let end = scheduler.now + duration
    var lastTime = scheduler.now
    var lastCount = scheduler.count
    while failure == nil {
      if scheduler.now >= crashAt {
        crashAt = .infinity
        jobsLeft = chance.below(60)
      }
      if let left = jobsLeft {
        if left <= 0 {
          crash()
          continue
        }
        jobsLeft = left - 1
      }
      if scheduler.runJob() {
        if scheduler.now != lastTime { (lastTime, lastCount) = (scheduler.now, scheduler.count) }
        if scheduler.count - lastCount > 200_000 { problem("it runs in circles") }
        continue
      }
      oracle.check()
      if scheduler.now >= commandAt, controller != nil {
        command()
        continue
      }
      guard scheduler.advance(until: min(end, max(crashAt, scheduler.now))) || scheduler.now < end else { break }
    }
  }

  private func command() {
    commandAt = scheduler.now + chance.delay(0...2 * profile.commandSeconds)
    People(self).ask()
  }
}
