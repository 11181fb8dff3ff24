// Replicas as processes of this machine, the default: no cloud, no daemon, no root. Each has a shim
// (Replica/ReplicaShim) that keeps it and outlives the controller; what there is of a replica is told by its folder and
// nothing else (Replica/ReplicaFolder).
//
//   stage   LocalStage: copies of workdir and file mounts, once per version
//   launch  LocalFit: a candidate, GPUs ─▶ replica.json ─▶ `sky-controller replica FOLDER` ─▶ until setup or run begins
//   poll    state.json and the folder's lock; LocalWatch tells when to look
//   stop    SIGTERM to the shim, SIGKILL after the grace, whatever carries the replica's mark after that
//
// Starting and ending a shim take turns (LocalTurn), within this process and across a restart of it: a stop finds a
// replica whole or not at all, and what comes to launch it after that was called off.

import CPlatform
import Foundation
import ProxyWire
import Synchronization

package final class LocalInfra: InfraProvider {
  package let name = "local"
  package static let displayName = "Local (this machine)"

  /// Seconds that commands have between SIGTERM and SIGKILL when nothing else is said.
  package static let graceDefault = 10.0

  package let machine: LocalMachine
  private let environment: [String: String]
  private let stateFolder: String
  private let userHome: String
  private let shim: String
  private let grace: Double
  private let addressing: ReplicaOrder.Addressing
  private let ledger: Mutex<LocalGpuLedger>
  private let watch = LocalWatch()
  /// Services that this machine is good for: min(4 x vCPUs, memory in GiB), unless the user says otherwise.
  package let servicesMax: Int
  private let addressingCheck = Mutex<String?>(nil)

  /// This machine as it is and as the user's configuration limits it.
  package convenience init(config: UserConfig, environment: [String: String]) throws(InfraError) {
    try self.init(
      paths: Paths(environment: environment),
      machine: LocalMachine.find(environment: environment).limited(by: config.local), environment: environment,
      shim: ChildProcess.findSibling("sky-controller", environment: environment) ?? "sky-controller",
      servicesMax: config.servicesMax)
  }

  /// - Parameters:
  ///   - environment: what the replicas' commands see; `SKY_LOCAL_ADDRESSING=ports` gives every replica a port of its
  ///     own instead of an address.
  ///   - shim: the program `sky-controller`.
  package init(
    paths: Paths, machine: LocalMachine, environment: [String: String], shim: String,
    grace: Double = LocalInfra.graceDefault, servicesMax: Int? = nil
  ) throws(InfraError) {
    self.machine = machine
    self.environment = environment
    self.shim = shim
    self.grace = grace
    self.servicesMax = servicesMax ?? max(1, min(4 * machine.cpus, Int(clamping: machine.memory)))
    stateFolder = paths.home
    userHome = environment["HOME"] ?? NSHomeDirectory()
    switch environment["SKY_LOCAL_ADDRESSING"] ?? "" {
    case "", "addresses": addressing = .automatic
    case "ports": addressing = .ports
    case let other:
      throw InfraError(
        .impossible, "SKY_LOCAL_ADDRESSING is '\(other)'. Set it to 'addresses' or 'ports', or leave it out.")
    }
    var ledger = LocalGpuLedger(gpus: machine.gpus)
    for folder in Self.replicaFolders(under: paths.services) {
      if let order = folder.readOrder() { ledger.hold(order.gpus, by: folder.path) }
    }
    self.ledger = Mutex(ledger)
  }

  /// What `sky check` and `sky show-gpus` say of this machine.
  package func describe() async -> LocalReply {
    var load = 0.0
    getloadavg(&load, 1)
    let free = ledger.withLock { ledger in
      machine.gpus.reduce(into: [String: Int]()) { $0[$1.name] = ledger.free($1.name) }
    }
    var gpus: [LocalReply.Gpu] = []
    for gpu in machine.gpus where !gpus.contains(where: { $0.name == gpu.name }) {
      let total = machine.gpus.count { $0.name == gpu.name }
      gpus.append(LocalReply.Gpu(name: gpu.name, total: total, free: free[gpu.name] ?? 0, memory: gpu.memory))
    }
    return LocalReply(
      cpus: machine.cpus, cpusFree: max(0, Double(machine.cpus) - load), memory: machine.memory,
      memoryFree: min(machine.memory, LocalMachine.memoryInfo("MemAvailable") ?? 0), gpus: gpus,
      addressing: await describeAddressing(), servicesMax: servicesMax)
  }

  private func describeAddressing() async -> String {
    if let known = addressingCheck.withLock({ $0 }) { return known }
    var reason = "SKY_LOCAL_ADDRESSING=ports"
    if addressing == .automatic {
      guard
        let check = try? await ChildProcess.run(shim, ["replica", "--check"], environment: environment, seconds: 10)
      else { return "unknown: \(shim) replica --check does not run" }
      reason = check.exit == .code(0) ? "" : check.text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
    let text =
      reason.isEmpty
      ? "each replica has a loopback address of its own"
      : "each replica has to listen on the port in SKYPILOT_SERVE_REPLICA_PORT (\(reason))"
    addressingCheck.withLock { $0 = text }
    return text
  }

  private static func replicaFolders(under services: String) -> [ReplicaFolder] {
    names(in: services).flatMap { service in
      let replicas = services + "/" + service + "/replicas"
      return names(in: replicas).map { ReplicaFolder(replicas + "/" + $0) }
    }
  }

  private static func names(in folder: String) -> [String] {
    (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
  }

  // MARK: Offers

  package func offers(for task: TaskSpec) throws(InfraError) -> [Offer] {
    try LocalStage.check(task, userHome: userHome)
    let chosen = try LocalFit(machine: machine).candidates(of: task)[0]
    return [
      Offer(
        infra: Self.displayName, instance: "-", cpus: chosen.cpus.map(LocalFit.plain) ?? String(machine.cpus),
        memory: chosen.memory.map(LocalFit.plain) ?? LocalFit.shown(machine.memory.rounded()),
        gpus: chosen.accelerator?.description ?? "-", hourlyCost: 0, isChosen: true)
    ]
  }

  /// What a user should know before saying yes.
  package func notes(for task: TaskSpec) -> [String] {
    task.resources.all.contains(where: \.isSpot)
      ? ["There are no spot instances on this machine: replicas with 'use_spot: true' just run, and are not preempted."]
      : []
  }

  package func stage(_ task: TaskSpec, into folder: String) async throws(InfraError) {
    try LocalStage.check(task, userHome: userHome)
    try await LocalStage(task: task, folder: folder, environment: environment).run()
  }

  // MARK: Launch

  package func launch(_ request: LaunchRequest, progress: @escaping @Sendable (String) -> Void) async throws(InfraError)
  {
    let folder = ReplicaFolder(request.replicaFolder)
    if try await begin(request, folder) { try await awaitCommands(folder, progress) }
  }

  /// Returns when a shim keeps the replica; false: it has ended by itself, which is for `poll` to tell and not to be
  /// done again.
  private func begin(_ request: LaunchRequest, _ folder: ReplicaFolder) async throws(InfraError) -> Bool {
    do throws(PrivateFile.Failure) { try PrivateFile.makeFolder(folder.path) } catch {
      throw InfraError(.failed, error.description)
    }
    let turn = try await LocalTurn.take(folder)
    defer { turn.end() }
    if folder.isKept { return true }
    if let state = folder.readState(), Self.isFinished(state.phase) { return false }
    await endLeftovers(folder)
    // Whoever stops a replica calls its launch off first, and may have had the turn before this one.
    if Task.isCancelled { throw LocalTurn.givenUp }
    try prepare(request, folder)
    try await start(folder, mark: folder.readOrder()?.mark ?? "")
    return true
  }

  private func prepare(_ request: LaunchRequest, _ folder: ReplicaFolder) throws(InfraError) {
    let task = request.task
    let candidates = try LocalFit(machine: machine).candidates(of: task)
    let (chosen, gpus) = try ledger.withLock {
      ledger throws(InfraError) -> (ResourceSpec, [ReplicaOrder.GpuShare]) in
      // What an earlier launch was given that came to nothing.
      ledger.release(folder.path)
      for spec in candidates {
        guard let wanted = spec.accelerator else { return (spec, []) }
        if let shares = ledger.choose(wanted.name, count: wanted.count.value) {
          ledger.hold(shares, by: folder.path)
          return (spec, shares)
        }
      }
      let wanted = candidates.compactMap(\.accelerator)
      let there = Set(wanted.map(\.name)).sorted()
        .map { "\(ledger.free($0)) of \(ledger.count($0)) \($0)" }.joined(separator: ", ")
      throw InfraError(
        .noCapacity,
        "\(wanted.map(\.description).joined(separator: " or ")) was asked; \(there) of this machine are free, the others "
          + "belong to other replicas. Stop some (sky serve down), or ask for fewer replicas.")
    }
    let staged = LocalStage.content(of: request.stagedFolder)
    let order = ReplicaOrder(
      service: request.service, id: request.order.id, version: request.order.version, mark: UUID().uuidString,
      port: request.port, setup: task.setup, run: task.run,
      variables: task.environment.map { ReplicaOrder.Variable($0.name, $0.value, isSecret: $0.isSecret) }, gpus: gpus,
      gpusPerNode: task.gpusPerNode(of: chosen), hidesOtherGpus: !machine.gpus.isEmpty,
      workdir: task.workdir == nil ? nil : staged.workdir,
      mounts: task.fileMounts.enumerated().compactMap { index, mount in
        PrivateHome.relative(mount.destination, userHome: userHome)
          .map { ReplicaOrder.Mount(source: staged.mount(index), destination: $0) }
      },
      setupLock: (request.replicaFolder as NSString).deletingLastPathComponent + "/setup.lock",
      stateFolder: stateFolder, addressing: addressing, grace: grace, chosen: chosen)
    do {
      unlink(folder.state)
      try folder.write(order)
    } catch {
      ledger.withLock { $0.release(folder.path) }
      throw InfraError(.failed, "\(error)")
    }
  }

  /// Returns when the shim keeps the replica, or has done so.
  private func start(_ folder: ReplicaFolder, mark: String) async throws(InfraError) {
    var environment = environment
    environment["SKYPILOT_REPLICA_MARK"] = mark
    let keeper: ChildProcess
    do throws(SubprocessError) {
      keeper = try ChildProcess.spawn(
        shim, ["replica", folder.path], environment: environment, folder: "/", output: .file(folder.launchLog),
        detached: true)
    } catch {
      throw InfraError(.failed, error.description)
    }
    while true {
      // Asked first: one that has ended by now may have kept it for its short life.
      let hasEnded = keeper.exit != nil
      if folder.isKept || folder.readState() != nil { return }
      if hasEnded { throw keeperEnded(folder) }
      await Self.pause()
    }
  }

  /// Until setup or run has begun, or it is clear that they never will.
  private func awaitCommands(_ folder: ReplicaFolder, _ progress: (String) -> Void) async throws(InfraError) {
    var shown = ""
    var shownAt = ContinuousClock.now
    var states = StateReader()
    while true {
      // Asked before the state is read: one that ends in between has written its last word.
      let isKept = folder.isKept
      switch states.read(folder)?.phase {
      case .settingUp, .running, .succeeded, .failed: return
      case .notStarted(let reason): throw InfraError(.failed, reason)
      case .stopped: throw InfraError(.failed, "it was stopped while it was launched")
      case .preparing(let detail):
        if !isKept { throw keeperEnded(folder) }
        // What waits for the setups of others has nothing new to say for hours, and is well.
        if detail != shown || shownAt.duration(to: .now) > .seconds(60) {
          progress(detail)
          shownAt = .now
        }
        shown = detail
      case nil: if !isKept { throw keeperEnded(folder) }
      }
      await Self.pause()
      if Task.isCancelled { throw LocalTurn.givenUp }
    }
  }

  private func keeperEnded(_ folder: ReplicaFolder) -> InfraError {
    InfraError(.failed, "the replica's keeper (\(shim) replica) has ended; see \(folder.launchLog)")
  }

  /// Also in a task that was cancelled.
  private static func pause() async {
    await withCheckedContinuation { continuation in
      DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(10)) { continuation.resume() }
    }
  }

  private static func isFinished(_ phase: ReplicaState.Phase) -> Bool {
    switch phase {
    case .succeeded, .failed: true
    case .preparing, .settingUp, .running, .notStarted, .stopped: false
    }
  }

  // MARK: Poll

  package var endings: AsyncStream<String> { watch.endings }

  package func poll(service: String, replicasFolder: String) async throws(InfraError) -> [Int: InfraFact] {
    var facts: [Int: InfraFact] = [:]
    var seen = watch.seen(replicasFolder)
    var next: [Int: LocalWatch.Seen] = [:]
    for name in Self.names(in: replicasFolder) {
      guard let id = Int(name) else { continue }
      let folder = ReplicaFolder(replicasFolder + "/" + name)
      // Asked before the state is read: one that ends in between has written its last word.
      let isKept = folder.isKept
      var known = seen.removeValue(forKey: id) ?? LocalWatch.Seen()
      let state = known.look(folder)
      next[id] = known
      guard let state else {
        if isKept || access(folder.order, F_OK) == 0 { facts[id] = .partial(detail: isKept ? "starting" : nil) }
        continue
      }
      if isKept { watch.watch(state, service: service, folder: folder.path) }
      if let fact = Self.fact(state, isKept: isKept, chosen: known.chosen) {
        facts[id] = fact
        continue
      }
      // Its files are there still, and its GPUs are not free.
      facts[id] = .partial(detail: nil)
      // Not what somebody is starting just now.
      guard !isKept, let turn = LocalTurn.ifFree(folder) else { continue }
      if !folder.isKept { await endLeftovers(folder) }
      turn.end()
    }
    watch.keep(next, of: replicasFolder)
    return facts
  }

  /// nil: nothing of it runs any more.
  private static func fact(_ state: ReplicaState, isKept: Bool, chosen: ResourceSpec?) -> InfraFact? {
    let job: Machine.Job
    switch state.phase {
    case .preparing(let detail): return isKept ? .partial(detail: detail) : nil
    case .notStarted, .stopped: return nil
    case .settingUp where isKept: job = .settingUp
    case .running where isKept: job = .running
    case .settingUp, .running: return nil
    case .succeeded: job = .succeeded
    case .failed(let reason): job = .failed(reason: reason)
    }
    guard let text = state.address, let address = parseIPv4(Array(text.utf8)[...]),
      let port = UInt16(exactly: state.port)
    else { return nil }
    return .up(Machine(address: .ipv4(address, port: port), job: job, chosen: chosen))
  }

  // MARK: Stop

  package func stop(service: String, id: Int, replicaFolder: String) async throws(InfraError) {
    // A task of its own, so that what was begun is finished although the one who asked has gone.
    let ending = Task.detached { [self] () async -> Result<Void, InfraError> in
      do throws(InfraError) { return .success(try await end(ReplicaFolder(replicaFolder), id)) } catch {
        return .failure(error)
      }
    }
    try await ending.value.get()
  }

  private func end(_ folder: ReplicaFolder, _ id: Int) async throws(InfraError) {
    if access(folder.path, F_OK) != 0 {
      ledger.withLock { $0.release(folder.path) }
      return
    }
    let turn = try await LocalTurn.take(folder)
    defer { turn.end() }
    await endKeeper(folder)
    await endLeftovers(folder)
    // A shim that a killed controller has just started comes too late from here on.
    guard let lock = folder.takeLock() else {
      throw InfraError(.failed, "processes of replica \(id) do not end, not even by SIGKILL; see \(folder.launchLog)")
    }
    defer { close(lock) }
    try await clear(folder)
    ledger.withLock { $0.release(folder.path) }
  }

  private func endKeeper(_ folder: ReplicaFolder) async {
    let grace = folder.readOrder()?.grace ?? grace
    // A shim that has just begun has no state yet.
    var asked: ReplicaState?
    var end = ContinuousClock.now + .seconds(5)
    while folder.isKept, ContinuousClock.now < end {
      if asked == nil, let state = folder.readState() {
        Self.signal(state.guardPid, state.guardStart, SIGTERM)
        asked = state
        end = .now + .seconds(grace + 5)
      }
      await Self.pause()
    }
    guard let asked, folder.isKept else { return }
    Self.signal(asked.shimPid, asked.shimStart, SIGKILL)
    if !(await waitUntilUnkept(folder, seconds: 5)) { Self.signal(asked.guardPid, asked.guardStart, SIGKILL) }
  }

  /// Everything but the logs.
  private func clear(_ folder: ReplicaFolder) async throws(InfraError) {
    let files = FileManager.default
    if files.fileExists(atPath: folder.home), (try? files.removeItem(atPath: folder.home)) == nil {
      // Commands may have made folders that even their owner cannot change.
      _ = try? await ChildProcess.run("/bin/chmod", ["-R", "u+rwX", folder.home], seconds: 60)
      do { try files.removeItem(atPath: folder.home) } catch {
        throw InfraError(.failed, "cannot remove \(folder.home): \(error.localizedDescription). Remove it by hand.")
      }
    }
    // The order last but one: without it the GPUs are free. The state at the very last: it says what is still here.
    // Whoever waits for a lock that is gone looks for a new one.
    let rest = [
      folder.script(.setup), folder.script(.run), folder.order + ".new", folder.state + ".new", folder.lock,
      folder.turnLock,
    ]
    for file in rest + [folder.order, folder.state] where unlink(file) != 0 && errno != ENOENT {
      throw InfraError(.failed, "cannot remove \(file): \(errorText(errno))")
    }
  }

  private static func signal(_ pid: Int32, _ start: UInt64, _ number: Int32) {
    let handle = sky_pidfd_open(pid)
    guard handle >= 0 else { return }
    defer { close(handle) }
    if ProcessIdentity.startTicks(of: pid) == start { _ = sky_pidfd_signal(handle, number) }
  }

  private func waitUntilUnkept(_ folder: ReplicaFolder, seconds: Double) async -> Bool {
    let end = ContinuousClock.now + .seconds(seconds)
    while folder.isKept {
      if ContinuousClock.now > end { return false }
      await Self.pause()
    }
    return true
  }

  /// Kills what carries the replica's mark, until nothing does. Where shim and guard were both killed, the user's
  /// processes have stayed behind.
  private func endLeftovers(_ folder: ReplicaFolder) async {
    guard let mark = folder.readOrder()?.mark else { return }
    for _ in 0..<100 {
      let left = ProcessTable.having("SKYPILOT_REPLICA_MARK", mark)
      if left.isEmpty { return }
      for pid in left { kill(pid, SIGKILL) }
      await Self.pause()
    }
  }
}
