// The only owner of what changes: the store, and what is known of every service now.
//
//   commands (ApiServer) ─ check ─ Store.append ─┐
//   infra polls · operations · probes · proxies ─┴▶ facts, WorkQueue.add(name)
//
//   for each name the queue yields:   gather Observed ─▶ Reconciler.plan ─▶ Store.append ─▶ publish ─▶ actions
//                                                                               probes · wake-at ◀──┘
//
// Whatever wakes a service only stores a fact: the plan is made from all facts as they are, so a start after a crash is
// nothing special, only a first plan with few facts. Everything that waits (infra, probes, proxies, copying files) is
// in a task of its own; nothing in here does. What comes from the store is kept twice: as it is on disk, and as it is
// with the arrivals since.

import Foundation
import ProxyWire

package actor Controller {
  /// What it is made of; tests bring their own.
  package struct Parts: Sendable {
    package var paths: Paths
    package var infra: any InfraProvider
    package var proxies: any ProxyLinks
    package var probes: any ProbeTransport
    package var clock: any ControlClock
    package var limits: Limits
    package var log: Log
    package var threads: ControlThreads

    package init(
      paths: Paths, infra: any InfraProvider, proxies: any ProxyLinks, probes: any ProbeTransport,
      clock: any ControlClock, limits: Limits, log: Log, threads: ControlThreads = .ofTheMachine()
    ) {
      self.paths = paths
      self.infra = infra
      self.proxies = proxies
      self.probes = probes
      self.clock = clock
      self.limits = limits
      self.log = log
      self.threads = threads
    }
  }

  package struct Limits: Sendable {
    package var servicesMax: Int
    /// Launches under way at once, of all services together.
    package var launchesMax: Int
    /// Where proxies listen, and what their ports are chosen from.
    package var host: String
    package var ports: ClosedRange<Int>
    /// Seconds between looks at the replicas of a service.
    package var pollSeconds = 1.0
    /// Seconds that the logs of replicas that are gone are kept; nil: as long as there are not too many.
    package var replicaLogSeconds: Double?

    /// SkyServe's: four launches for each service there may be.
    package init(servicesMax: Int, host: String = "127.0.0.1", ports: ClosedRange<Int> = 30001...65535) {
      self.servicesMax = servicesMax
      launchesMax = 4 * servicesMax
      self.host = host
      self.ports = ports
    }
  }

  /// Seconds until a plan that could not be written is made again.
  private static let storeRetrySeconds = 1.0
  /// Seconds between looks at how long a proxy's log is.
  private static let logLookSeconds = 60.0

  let parts: Parts
  private let store: Store
  private let executor: Executor
  /// The store's, with the arrivals since.
  package private(set) var state: ControlState
  private(set) var facts: [String: ServiceFacts] = [:]
  private var queue = WorkQueue()
  private let alarm = Alarm()
  /// Names that a command is working on, with the ports it has chosen: one command at a time for each.
  var claimed: [String: Int?] = [:]
  /// Folders of services that are gone.
  private var removals: [String: Task<Void, Never>] = [:]
  /// When there was a service last.
  private var busyAt: Double
  /// It takes no commands any more.
  private(set) var isRetired = false
  /// Listens to what the infra tells by itself.
  private var listening: Task<Void, Never>?

  package nonisolated var unownedExecutor: UnownedSerialExecutor {
    parts.threads.controller.asUnownedSerialExecutor()
  }

  package init(store: sending Store, parts: Parts) {
    self.store = store
    self.parts = parts
    state = store.state
    executor = Executor(infra: parts.infra, clock: parts.clock, threads: parts.threads.blocking)
    busyAt = parts.clock.now
  }

  /// Before any command comes: what was left lying about is cleaned up, what is there is watched from now on.
  package func begin() {
    sweep()
    listening = Task { for await name in parts.infra.endings { facts[name]?.pollAlarm.ring() } }
    for name in state.services.keys.sorted() {
      open(name)
      wake(name)
    }
  }

  /// Until the task is cancelled; then everything that runs goes on running, without this controller.
  package func run() async {
    while !Task.isCancelled {
      while let name = queue.take(now: now) {
        reconcile(name)
        // Commands and facts come in between.
        await Task.yield()
      }
      await alarm.wait(until: queue.earliest, parts.clock)
    }
    listening?.cancel()
    for service in facts.values { service.end() }
    facts = [:]
  }

  /// Returns when there has been no service for so many seconds; from then on none is taken. False: called off.
  package func retires(after seconds: Double) async -> Bool {
    while !Task.isCancelled {
      if !state.services.isEmpty || !claimed.isEmpty || !removals.isEmpty { busyAt = now }
      if now - busyAt >= seconds {
        isRetired = true
        return true
      }
      try? await parts.clock.sleep(until: now + min(1, seconds))
    }
    return false
  }

  var now: Double { parts.clock.now }

  func note(_ name: String, _ event: String) { note(.info, name, event) }

  func note(_ level: Log.Level, _ name: String, _ event: String) {
    parts.log.note(level, "service=\(name) \(event)")
  }

  package func wake(_ name: String, at time: Double? = nil) {
    let time = time ?? now
    guard state.services[name] != nil else { return }
    let isSooner = time < queue.earliest ?? .infinity
    queue.add(name, notBefore: time)
    if isSooner { alarm.ring() }
  }

  // MARK: What is written

  /// On disk when it returns.
  func append(_ mutations: [Mutation], durable: Bool = true) throws(StoreError) {
    try store.append(mutations, durable: durable)
    for mutation in mutations { state.apply(mutation) }
  }
}

// MARK: - One pass over one service

extension Controller {
  private func reconcile(_ name: String) {
    guard let before = state.services[name], facts[name] != nil else { return }
    let observed = facts[name]!.observed(now: now, before, launchSlots: launchSlots(name))
    let plan = Reconciler.plan(before, observed)
    do throws(StoreError) {
      try append(plan.mutations, durable: plan.isDurable)
      if !plan.mutations.isEmpty, facts[name]!.journalProblem != nil {
        facts[name]!.journalProblem = nil
        note(name, "the journal can be written again")
      }
    } catch {
      let problem = Self.journalProblem(error, parts.paths.state)
      // Once, not with every try: a full disk is not to be filled by its own complaints.
      if facts[name]!.journalProblem != problem { note(.error, name, "waits for what happens next: \(problem)") }
      facts[name]!.journalProblem = problem
      wake(name, at: now + Self.storeRetrySeconds)
      return
    }
    facts[name]!.took(arrivals: observed.arrivals.count)
    if state.services[name] != nil { state.services[name] = plan.state }
    facts[name]!.compareProxy(with: plan.state.service.published, now: now)
    for event in plan.events { note(name, event) }
    let link = facts[name]!.link
    if let wish = wish(plan.state) { link.want(wish) }
    let published = plan.state.service.published
    // Also what a proxy that was found has already: should it end, the next one starts with it.
    if plan.publish != nil || facts[name]!.given != published.version {
      facts[name]!.given = published.version
      link.publish(plan.publish ?? published.snapshot)
    }
    for action in plan.actions { carryOut(action, name, plan.state) }
    removeFiles(name, of: plan.mutations)
    guard facts[name] != nil else { return }
    order(plan.probes, name)
    if let time = plan.wakeAt { wake(name, at: max(time, now + 0.001)) }
  }

  static func journalProblem(_ error: StoreError, _ folder: String) -> String {
    "the controller cannot write its journal (\(error))"
      + (error.kind == .full ? ": free some space on the file system of \(folder)" : "")
  }

  /// Why nothing goes on, whichever service has met it; nil: it does.
  var journalProblem: String? { facts.values.lazy.compactMap(\.journalProblem).min() }

  /// How many more launches a service may begin now. One is always its own: launches of another that hang must not keep
  /// it from serving.
  private func launchSlots(_ name: String) -> Int {
    let running = facts.values.reduce(0) { $0 + $1.operations.launches }
    return max(facts[name]!.operations.launches == 0 ? 1 : 0, parts.limits.launchesMax - running)
  }

  private func carryOut(_ action: Action, _ name: String, _ planned: ServiceState) {
    switch action {
    case .launch(let order): launch(order, name, planned)
    case .stop(let id, let attempt, _): stop(id, attempt, name)
    case .startProxy: facts[name]!.link.start()
    case .stopProxy:
      facts[name]!.proxyEndingSince = facts[name]!.proxyEndingSince ?? now
      facts[name]!.link.stop()
    case .forget: forget(name)
    }
  }

  /// How the newest version wants the proxy.
  private func wish(_ service: ServiceState) -> ProxyWish? {
    guard let spec = service.latest?.service else { return nil }
    let folder = parts.paths.version(service.service.name, service.service.latestVersion)
    let tls = spec.tls.map { _ in StagedTls.wish(folder) }
    return ProxyWish(policy: spec.effectivePolicy, streamTimeout: spec.streamTimeout.value, tls: tls)
  }

  // MARK: Operations

  private func launch(_ order: LaunchOrder, _ name: String, _ planned: ServiceState) {
    // Under way already: an order that is given again goes on with it.
    guard facts[name]!.operations.kind(order.id) == nil else { return }
    guard let version = planned.versions[order.version], let port = version.task.servicePort else {
      preconditionFailure("a replica's version stays as long as the replica, and was checked to have a port")
    }
    let request = LaunchRequest(
      service: name, order: order, task: version.task, port: port,
      stagedFolder: parts.paths.version(name, order.version), replicaFolder: parts.paths.replica(name, order.id))
    let ticket = facts[name]!.operations.begin(.launch, order.id)
    facts[name]!.forgetFacts(order.id)
    let task = Task.detached(executorPreference: parts.threads.blocking) { [executor] in
      let failure = await executor.launch(request) { detail, isWaiting in
        Task { await self.progressed(name, ticket, detail, isWaiting) }
      }
      await self.ended(name, ticket, failure)
    }
    facts[name]!.operations.attach(task, to: ticket)
  }

  private func stop(_ id: Int, _ attempt: Int, _ name: String) {
    guard facts[name]!.operations.kind(id) != .stop else { return }
    let launch = facts[name]!.operations.task(id)
    let ticket = facts[name]!.operations.begin(.stop, id)
    facts[name]!.forgetFacts(id)
    let folder = parts.paths.replica(name, id)
    let task = Task.detached(executorPreference: parts.threads.blocking) { [executor] in
      let failure = await executor.stop(
        service: name, id: id, attempt: attempt, folder: folder, callingOff: launch)
      await self.ended(name, ticket, failure)
    }
    facts[name]!.operations.attach(task, to: ticket)
  }

  private func progressed(_ name: String, _ ticket: Operations.Ticket, _ detail: String, _ isWaiting: Bool) {
    guard facts[name]?.operations.progress(ticket, detail, isWaiting: isWaiting) == true else { return }
    wake(name)
    if isWaiting { wakeWaiting() }
  }

  private func ended(_ name: String, _ ticket: Operations.Ticket, _ failure: OperationFact?) {
    guard facts[name]?.operations.end(ticket, failure: failure) == true else { return }
    facts[name]!.forgetFacts(ticket.id)
    // What has become of it.
    facts[name]!.pollAlarm.ring()
    wake(name)
    wakeWaiting()
  }

  /// A launch has made room for others.
  private func wakeWaiting() {
    for (name, service) in state.services
    where service.replicas.values.contains(where: { $0.launch == .scheduled && $0.down == nil }) {
      wake(name)
    }
  }

  // MARK: Probes

  private func order(_ orders: [ProbeOrder], _ name: String) {
    var kept: [Int: ReplicaProber] = [:]
    for order in orders {
      if let prober = facts[name]!.probers.removeValue(forKey: order.id), prober.order == order {
        kept[order.id] = prober
      } else {
        kept[order.id] = ReplicaProber(order, parts.probes, parts.clock) { fact in
          await self.probed(name, order, fact)
        }
      }
    }
    for prober in facts[name]!.probers.values { prober.end() }
    facts[name]!.probers = kept
  }

  private func probed(_ name: String, _ order: ProbeOrder, _ fact: ProbeFact) {
    // One that was called off meanwhile speaks of what the replica was.
    guard facts[name]?.probers[order.id]?.order == order else { return }
    facts[name]!.probes[order.id] = fact
    if !fact.ok || state.services[name]?.replicas[order.id]?.readyNow != true { wake(name) }
  }
}

// MARK: - A service comes into view and leaves it

extension Controller {
  /// From now on it is watched.
  func open(_ name: String) {
    guard facts[name] == nil, let service = state.services[name], let wish = wish(service) else { return }
    let link = parts.proxies.link(service: name, port: service.service.port, wish: wish)
    facts[name] = ServiceFacts(link: link)
    facts[name]!.compareProxy(with: service.service.published, now: now)
    facts[name]!.tasks = [
      Task { for await news in link.news { self.heard(name, news) } },
      Task { await self.poll(name) },
    ]
  }

  private func heard(_ name: String, _ news: ProxyNews) {
    guard facts[name] != nil, let service = state.services[name] else { return }
    defer { facts[name]!.compareProxy(with: service.service.published, now: now) }
    switch news {
    case .absent(let reason):
      facts[name]!.proxyAbsence = reason
      facts[name]!.proxyRefusal = nil
      guard facts[name]!.proxy != .absent else { return }
      facts[name]!.proxy = .absent
      // The reason, if there is one, has just been written.
      if reason == nil { note(name, "proxy is not running") }
      wake(name)
    case .silent:
      facts[name]!.proxy = .silent
    case .reporting(let version, let inFlight):
      let fact = ProxyFact.reporting(version: version, inFlight: inFlight)
      guard facts[name]!.proxy != fact else { return }
      let wasReporting = if case .reporting = facts[name]!.proxy { true } else { false }
      if !wasReporting { (facts[name]!.proxyAbsence, facts[name]!.proxyRefusal) = (nil, nil) }
      facts[name]!.proxy = fact
      // Counts change all the time; somebody waits for them only where a replica drains.
      if !wasReporting || version != service.service.published.version
        || service.service.published.entries.contains(where: { $0.drainingSince != nil })
      {
        wake(name)
      }
    case .refusal(let problem):
      facts[name]!.proxyRefusal = problem
    case .ending(let what):
      if what != facts[name]!.proxyEnding { note(name, "proxy is to end: \(what)") }
      facts[name]!.proxyEnding = what
    case .arrivals(let arrivals):
      facts[name]!.add(arrivals)
      // Whoever asks while nothing runs is waiting; and who wants to scale up within seconds is told within seconds.
      let spec = service.scaler.spec
      let isInHaste = spec.policy.targetQps != nil && spec.upscaleDelay < Autoscaler.tickSeconds
      if service.scaler.finalTarget == 0 || isInHaste { wake(name) }
    case .suspicion(let id):
      facts[name]!.probers[id]?.askNow()
      facts[name]!.pollAlarm.ring()
    }
  }

  private func poll(_ name: String) async {
    let log = parts.paths.proxyLog(name)
    var logLookAt = now
    var limit = Executor.pollSeconds
    while !Task.isCancelled {
      if now >= logLookAt {
        logLookAt = now + Self.logLookSeconds
        Task.detached(executorPreference: parts.threads.blocking) { Folder.rotateLog(log) }
      }
      guard let alarm = facts[name]?.pollAlarm, let marks = facts[name]?.operations.marks else { return }
      let found = await executor.poll(
        service: name, replicasFolder: parts.paths.replicas(name), seconds: limit)
      guard !Task.isCancelled, facts[name] != nil, let service = state.services[name] else { return }
      let before = facts[name]!
      switch found {
      case .success(let found):
        facts[name]!.infraProblem = nil
        facts[name]!.absorb(found, since: marks, known: service.replicas.keys)
        limit = Executor.pollSeconds
      case .failure, nil:
        var problem = "there was no answer within \(Int(clamping: limit)) s"
        if case .failure(let error) = found { problem = error.description }
        facts[name]!.infraProblem = problem
        if before.infraProblem == nil { note(.warning, name, "the infra cannot be asked: \(problem)") }
        limit = found == nil ? min(limit * 2, Executor.pollSecondsMax) : Executor.pollSeconds
        for id in service.replicas.keys where facts[name]!.operations.isFresh(id, since: marks) {
          facts[name]!.infra[id] = .unreachable
        }
      }
      if facts[name]!.infra != before.infra || facts[name]!.strangers != before.strangers { wake(name) }
      await alarm.wait(until: now + parts.limits.pollSeconds, parts.clock)
    }
  }

  /// Everything of it is gone; so is its record.
  private func forget(_ name: String) {
    facts.removeValue(forKey: name)?.end()
    queue.remove(name)
    note(name, "is gone")
    remove(name)
  }

  // MARK: Files

  private func remove(_ name: String) {
    let folder = parts.paths.service(name)
    removals[name] = Task {
      _ = await Task.detached(executorPreference: parts.threads.blocking) { Folder.remove(folder) }.value
      self.removals[name] = nil
    }
  }

  /// Waits until nothing of an earlier service of that name is left. Throws what is in the way.
  func awaitRemoval(_ name: String) async throws(CommandError) {
    await removals[name]?.value
    let services = parts.paths.services
    let isLeft = await Task.detached(executorPreference: parts.threads.blocking) {
      Folder.names(services).contains(name)
    }.value
    guard isLeft, let reason = await clear(name) else { return }
    throw CommandError(
      .conflict,
      "Of an earlier service named '\(name)' something may still run: \(reason). Choose another name, or see to that "
        + "and try again.")
  }

  /// The files of versions and replicas whose records are gone. A few replicas' logs are kept to look at.
  private func removeFiles(_ name: String, of mutations: [Mutation]) {
    guard let service = state.services[name] else { return }
    var folders: [String] = []
    var isOneGone = false
    for mutation in mutations {
      switch mutation {
      case .dropVersion(_, let number): folders.append(parts.paths.version(name, number))
      case .dropReplica: isOneGone = true
      case .service, .version, .replica, .dropService: break
      }
    }
    if folders.isEmpty, !isOneGone { return }
    let replicas = parts.paths.replicas(name)
    // What a service before it has left is known by its folder.
    let known = Set(service.replicas.keys).union(facts[name]?.strangers ?? [])
    let next = service.service.nextReplicaID
    let seconds = parts.limits.replicaLogSeconds
    Task.detached(executorPreference: parts.threads.blocking) {
      for folder in folders { Folder.remove(folder) }
      Folder.prune(replicas, keep: known, below: next, seconds: seconds)
    }
  }

  /// Ends whatever runs of a service that has no record. The folder goes last, since an infra may know by it what there
  /// is. Says what is in the way: then it stays, until a service is to have that name, or the next start.
  private func clear(_ name: String) async -> String? {
    let paths = parts.paths
    let proxies = parts.proxies
    let proxyProblem = await Task.detached(executorPreference: parts.threads.blocking) {
      await proxies.end(service: name)
    }.value
    let found = await executor.poll(
      service: name, replicasFolder: paths.replicas(name), seconds: Executor.pollSeconds)
    var problem = proxyProblem
    switch found {
    case .success(let machines):
      for id in machines.keys.sorted() {
        let failure = await executor.stop(
          service: name, id: id, attempt: 1, folder: paths.replica(name, id), callingOff: nil)
        if case .stopFailed(_, let reason) = failure {
          problem = problem ?? "replica \(id) does not stop: \(reason)"
        }
      }
    case .failure(let error): problem = problem ?? "what there is of it cannot be told: \(error.description)"
    case nil: problem = problem ?? "the infra did not say within \(Int(Executor.pollSeconds)) s what there is of it"
    }
    if problem != nil { return problem }
    _ = await Task.detached(executorPreference: parts.threads.blocking) { Folder.remove(paths.service(name)) }.value
    return nil
  }

  /// What a crash has left: folders of services, versions and replicas that no record knows. Machines without a
  /// record are found by the polls.
  private func sweep() {
    let paths = parts.paths
    for name in Folder.names(paths.services) where state.services[name] == nil {
      note(.warning, name, "has files but no record: cleaning up")
      removals[name] = Task {
        if let reason = await self.clear(name) { self.note(.warning, name, "is not cleaned up: \(reason)") }
        self.removals[name] = nil
      }
    }
    for (name, service) in state.services {
      let versions = Set(service.versions.keys.map(String.init))
      let known = Set(service.replicas.keys)
      let next = service.service.nextReplicaID
      let folder = paths.versions(name)
      // Named now: commands that come later make folders of their own.
      let orphans = Folder.names(folder).filter { !versions.contains($0) }
      let replicas = paths.replicas(name)
      let seconds = parts.limits.replicaLogSeconds
      Task.detached(executorPreference: parts.threads.blocking) {
        for orphan in orphans { Folder.remove(folder + "/" + orphan) }
        Folder.prune(replicas, keep: known, below: next, seconds: seconds)
      }
    }
  }
}
