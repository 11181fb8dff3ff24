// What people ask for, one method per command. Each returns when what was asked is on disk: from then on it happens,
// whatever becomes of this process. Called by the ApiServer.
//
//   check ─▶ claim the name ─▶ stage files ─▶ check again ─▶ append ─▶ wake ─▶ reply
//                                   ✂ a crash here leaves a folder without a record, which the next start removes

import Foundation
import ProxyWire

extension Controller {
  // MARK: up

  package func up(_ name: String, _ task: TaskSpec) async throws(CommandError) -> UpReply {
    _ = try Commands.up(state, name: name, task: task, port: 0, now: now)
    try refuseMissingSecrets(task)
    let others = Set(state.services.keys).union(claimed.keys).subtracting([name])
    if others.count >= parts.limits.servicesMax {
      throw CommandError(
        .conflict,
        "Max number of services reached: \(others.count)/\(parts.limits.servicesMax) services are running. To spin up "
          + "more services, please tear down some existing ones. (The limit is min(4 x vCPUs, memory in GiB); "
          + "`serve.controller.max_services` in ~/.sky/config.yaml sets another.)")
    }
    if parts.paths.proxySocket(name).utf8.count > Endpoint.unixPathBytesMax {
      throw CommandError(
        .invalid,
        "\(parts.paths.proxySocket(name)) is too long for the path of a socket (\(Endpoint.unixPathBytesMax) bytes). "
          + "Choose a shorter service name, or a shorter SKY_HOME.")
    }
    try refuseImpossible(task)
    try claim(name)
    defer { claimed[name] = nil }
    try await awaitRemoval(name)
    let port = try choosePort()
    claimed[name] = port
    do throws(CommandError) {
      try await stage(task, parts.paths.version(name, 1))
      try append(try Commands.up(state, name: name, task: task, port: port, now: now))
    } catch {
      Folder.remove(parts.paths.service(name))
      throw error
    }
    note(name, "up version=1 port=\(port)")
    open(name)
    wake(name)
    return UpReply(name: name, endpoint: endpoint(state.services[name]!))
  }

  /// The first that no service has and nobody listens on.
  private func choosePort() throws(CommandError) -> Int {
    let taken = Set(state.services.values.map(\.service.port)).union(claimed.values.compactMap { $0 })
    for port in parts.limits.ports where !taken.contains(port) && FreePort.isFree(port, host: parts.limits.host) {
      return port
    }
    let ports = parts.limits.ports
    throw CommandError(
      .conflict,
      "No port is free on \(parts.limits.host) from \(ports.lowerBound) to \(ports.upperBound). Tear down a service, or "
        + "widen `local.ports` in ~/.sky/config.yaml.")
  }

  // MARK: update, rollback

  package func update(_ name: String, _ task: TaskSpec, _ mode: UpdateMode) async throws(CommandError) -> UpdateReply {
    _ = try Commands.update(state, name: name, task: task, mode: mode, now: now)
    try refuseMissingSecrets(task)
    try refuseImpossible(task)
    try claim(name)
    defer { claimed[name] = nil }
    let old = state.services[name]!
    let number = old.service.latestVersion + 1
    let folder = parts.paths.version(name, number)
    try await stage(task, folder)
    do throws(CommandError) {
      try append(try Commands.update(state, name: name, task: task, mode: mode, now: now))
    } catch {
      Folder.remove(folder)
      throw error
    }
    note(name, "update version=\(number) mode=\(mode.rawValue)")
    wake(name)
    return reply(name, since: old)
  }

  package func rollback(_ name: String) async throws(CommandError) -> UpdateReply {
    // The version it goes back to is named by what the command would write.
    let mutations = try Commands.rollback(state, name: name, now: now)
    guard let good = mutations.lazy.compactMap({ $0.rollbackOf }).first else {
      preconditionFailure("a rollback makes a version that says what it is of")
    }
    try claim(name)
    defer { claimed[name] = nil }
    let old = state.services[name]!
    let number = old.service.latestVersion + 1
    let folder = parts.paths.version(name, number)
    let original = parts.paths.version(name, good)
    let failure = await Task.detached(executorPreference: parts.threads.blocking) { () -> CommandError? in
      Folder.remove(folder)
      do { try Folder.duplicate(original, as: folder) } catch {
        return CommandError(.failed, "The files of version \(good) cannot be taken over: \(error.localizedDescription)")
      }
      return nil
    }.value
    do throws(CommandError) {
      if let failure { throw failure }
      try append(try Commands.rollback(state, name: name, now: now))
    } catch {
      Folder.remove(folder)
      throw error
    }
    note(name, "rollback version=\(number) of=\(good)")
    wake(name)
    return reply(name, since: old)
  }

  private func reply(_ name: String, since old: ServiceState) -> UpdateReply {
    let new = state.services[name]!
    let number = new.service.latestVersion
    let kept = new.replicas.values.contains { $0.version == number }
    var notes: [String] = []
    if (old.latest?.service.tls == nil) != (new.latest?.service.tls == nil) {
      notes.append("The endpoint is now \(endpoint(new)).")
    }
    return UpdateReply(name: name, version: number, replicasKept: kept, notes: notes)
  }

  // MARK: down

  /// `names` may hold `*` and `?`. What is going already is passed over in silence.
  package func down(_ names: [String], all: Bool, purge: Bool) throws(CommandError) -> DownReply {
    var reply = DownReply(names: [], skipped: [])
    var mutations: [Mutation] = []
    for name in names where state.services[name] == nil && !name.contains(where: { "*?".contains($0) }) {
      reply.skipped.append(Commands.missing(name, state).description)
    }
    for name in state.services.keys.sorted() where all || names.contains(where: { Glob.matches($0, name) }) {
      if state.services[name]!.service.desired == .down, !purge, state.services[name]!.status != .failedCleanup {
        continue
      }
      do throws(CommandError) {
        mutations += try Commands.down(state, name: name, purge: purge)
        reply.names.append(name)
      } catch {
        reply.skipped.append(error.description)
      }
    }
    try append(mutations)
    for name in reply.names {
      note(name, "down\(purge ? " purge" : "")")
      wake(name)
    }
    return reply
  }

  package func terminate(_ name: String, _ id: Int, purge: Bool) throws(CommandError) -> MessageReply {
    let mutations = try Commands.terminateReplica(state, name: name, id: id, purge: purge, now: now)
    try append(mutations)
    note(name, "replica=\(id) asked to go\(purge ? ", purge" : "")")
    wake(name)
    let isPurged = mutations.contains(.dropReplica(service: name, id: id))
    return MessageReply(
      message: "Replica \(id) of service '\(name)' is \(isPurged ? "purged" : "scheduled to be terminated"). Please use "
        + "sky serve status \(name) to check the latest status.")
  }
}

// MARK: - Shared

extension Controller {
  /// Files are copied and ports chosen while others run: nobody else may do that for the same name.
  private func claim(_ name: String) throws(CommandError) {
    if isRetired {
      throw CommandError(.conflict, "The controller has just ended, as it had nothing to do. Try again.")
    }
    if claimed[name] != nil {
      throw CommandError(.conflict, "Service '\(name)' is being changed by another command. Try again in a moment.")
    }
    claimed.updateValue(nil, forKey: name)
  }

  private func append(_ mutations: [Mutation]) throws(CommandError) {
    do throws(StoreError) { try append(mutations, durable: true) } catch {
      throw CommandError(.failed, "It could not be written down, so nothing was done: \(error.description)")
    }
  }

  private func refuseMissingSecrets(_ task: TaskSpec) throws(CommandError) {
    if let name = task.missingSecrets.first {
      throw CommandError(
        .invalid, "Secret variable '\(name)' is None. Please set a value for it in task YAML or with --secret flag.")
    }
  }

  private func refuseImpossible(_ task: TaskSpec) throws(CommandError) {
    do throws(InfraError) { _ = try parts.infra.offers(for: task) } catch {
      // What does not fit now may fit later; replicas wait for it.
      if error.kind != .noCapacity { throw CommandError(.invalid, error.description) }
    }
  }

  /// All of it or nothing.
  private func stage(_ task: TaskSpec, _ folder: String) async throws(CommandError) {
    let infra = parts.infra
    let proxies = parts.proxies
    let work = Task.detached(executorPreference: parts.threads.blocking) { () async -> CommandError? in
      Folder.remove(folder)
      do {
        try PrivateFile.makeFolder(folder)
        try await infra.stage(task, into: folder)
        if let tls = task.service?.tls {
          try StagedTls.copy(tls, into: folder)
          // What the proxy would not take now it would not take when it starts again, either.
          if let refusal = await proxies.refusal(of: StagedTls.wish(folder)) {
            throw CommandError(.invalid, StagedTls.words(tls, refusal))
          }
        }
        return nil
      } catch let error as InfraError {
        return CommandError(error.kind == .failed ? .failed : .invalid, error.description)
      } catch let error as CommandError {
        return error
      } catch {
        return CommandError(.failed, "\(folder) cannot be made: \(error.localizedDescription)")
      }
    }
    let failure = await withTaskCancellationHandler { await work.value } onCancel: { work.cancel() }
    if let failure {
      Folder.remove(folder)
      throw failure
    }
  }
}

extension Mutation {
  fileprivate var rollbackOf: Int? { if case .version(_, let version) = self { version.rollbackOf } else { nil } }
}

// MARK: - What is there

extension Controller {
  package func health(startedAt: Double) -> HealthReply {
    HealthReply(
      version: ControlVersion.text, pid: ProcessInfo.processInfo.processIdentifier, startedAt: startedAt,
      services: state.services.count, problem: journalProblem)
  }

  /// Waits until every proxy serves from the list it should, as far as that is a matter of moments.
  package func awaitProxies(atMost seconds: Double) async {
    let end = now + seconds
    while now < end, state.services.contains(where: { isBehind($0.value) }) {
      do { try await parts.clock.sleep(until: now + 0.005) } catch { return }
    }
  }

  /// Not those that have been so for long: somebody is at that already.
  private func isBehind(_ service: ServiceState) -> Bool {
    guard service.service.desired == .running, let facts = facts[service.service.name], facts.proxyAbsence == nil,
      facts.proxyRefusal == nil, let since = facts.behindSince
    else { return false }
    return now - since < Self.behindSeconds
  }

  private static var behindSeconds: Double { 2 }

  package func status(_ names: [String]) -> StatusReply {
    let all = state.services.keys.sorted()
    let chosen = names.isEmpty ? all : all.filter { name in names.contains { Glob.matches($0, name) } }
    let missing = names.filter { pattern in !all.contains { Glob.matches(pattern, $0) } }
    let similar = missing.compactMap { name in closestMatch(name, among: all).map { (name, $0) } }
    let journalProblem = journalProblem
    return StatusReply(
      services: chosen.map { name in
        StatusReport.of(
          state.services[name]!, facts[name], endpoint: endpoint(state.services[name]!),
          launchesMax: parts.limits.launchesMax, journalProblem: journalProblem, now: now)
      },
      missing: missing, similar: Dictionary(similar) { first, _ in first })
  }

  package func history(_ name: String) throws(CommandError) -> HistoryReply {
    guard let service = state.services[name] else { throw Commands.missing(name, state) }
    return HistoryReply(
      name: name,
      versions: service.versions.values.sorted { $0.number < $1.number }.map { version in
        HistoryReply.Version(
          version: version.number, createdAt: version.createdAt, mode: version.mode, wasReady: version.wasReady,
          isActive: service.service.activeVersions.contains(version.number), rollbackOf: version.rollbackOf,
          policy: version.service.policyText,
          requestedResources: version.task.resources.requestedText(numNodes: version.task.numNodes),
          yaml: version.task.canonical.yaml)
      })
  }

  package func estimate(_ task: TaskSpec) throws(CommandError) -> EstimateReply {
    do throws(InfraError) {
      return EstimateReply(offers: try parts.infra.offers(for: task), notes: parts.infra.notes(for: task))
    } catch {
      throw CommandError(.invalid, error.description)
    }
  }

  private func endpoint(_ service: ServiceState) -> String {
    let scheme = service.latest?.service.tls == nil ? "http" : "https"
    // Where it listens on every address, this one always answers.
    let host = ["0.0.0.0", "::"].contains(parts.limits.host) ? "127.0.0.1" : parts.limits.host
    return "\(scheme)://\(host.contains(":") ? "[\(host)]" : host):\(service.service.port)"
  }
}
