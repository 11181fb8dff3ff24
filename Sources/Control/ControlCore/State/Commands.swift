// What people ask of a service, as changes to its records. Each checks, and either refuses with SkyServe's words or
// gives the mutations to append; the next plan does the rest.
//
// Called by the Controller for the API server. Pure: nothing is read or written but the values given.

/// A refusal, in words for whoever asked.
package struct CommandError: Error, Sendable, Hashable, CustomStringConvertible {
  package enum Kind: Sendable, Hashable { case notFound, conflict, invalid, failed }

  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

package enum Commands {
  package static func up(
    _ state: ControlState, name: String, task: TaskSpec, port: Int, now: Double
  ) throws(CommandError) -> [Mutation] {
    if let there = state.services[name] {
      if there.service.desired == .down, there.status.isFailed {
        throw CommandError(
          .conflict,
          "The service '\(name)' could not be terminated (\(there.status.rawValue)). See to what is left of it, then run: "
            + "sky serve down \(name) --purge")
      }
      if there.service.desired == .down {
        throw CommandError(
          .conflict,
          "The service '\(name)' is still being terminated (\(there.status.rawValue)). Wait until sky serve status "
            + "\(name) shows it no more, or specify a different name.")
      }
      throw CommandError(
        .conflict,
        "The service '\(name)' is already running. Please specify a different name for your service. To update an "
          + "existing service, run: sky serve update \(name) <new-service-yaml>")
    }
    let spec = try checked(name, task)
    let version = VersionRecord(number: 1, task: task, mode: .rolling, createdAt: now)
    return [
      .service(ServiceRecord(name: name, port: port, createdAt: now), scaler: Autoscaler(version: 1, spec: spec)),
      .version(service: name, version),
    ]
  }

  /// Replicas that already are what the new version asks for only change their version.
  package static func update(
    _ state: ControlState, name: String, task: TaskSpec, mode: UpdateMode, now: Double
  ) throws(CommandError) -> [Mutation] {
    let spec = try checked(name, task)
    return try change(state, name, task, spec, mode, now: now) { old in old.task.difference(to: task) == .serviceOnly }
  }

  /// Back to the newest earlier version that was ready, under a new number. Its replicas that still run are kept.
  package static func rollback(_ state: ControlState, name: String, now: Double) throws(CommandError) -> [Mutation] {
    let it = try running(state, name)
    let earlier = it.versions.values.filter { $0.wasReady && $0.number < it.service.latestVersion }
    guard let good = earlier.max(by: { $0.number < $1.number }) else {
      throw CommandError(
        .conflict, "Service '\(name)' has no earlier version that was ready. Update it with another file instead.")
    }
    return try change(state, name, good.task, good.service, .rolling, now: now, rollbackOf: good.number) { old in
      old.number == good.number || old.rollbackOf == good.number || old.task.difference(to: good.task) == .serviceOnly
    }
  }

  package static func down(_ state: ControlState, name: String, purge: Bool) throws(CommandError) -> [Mutation] {
    guard var it = state.services[name]?.service else { throw missing(name, state) }
    if let status = state.services[name]?.status, status.isFailed, !purge {
      throw CommandError(
        .conflict,
        "Service '\(name)' is in failed status (ServiceStatus.\(status.rawValue)). Skipping its termination as it could "
          + "lead to a resource leak. (Use `sky serve down \(name) --purge` to forcefully terminate the service.)")
    }
    it.desired = .down
    it.purge = it.purge || purge
    return [.service(it, scaler: nil)]
  }

  package static func terminateReplica(
    _ state: ControlState, name: String, id: Int, purge: Bool, now: Double
  ) throws(CommandError) -> [Mutation] {
    guard let it = state.services[name] else { throw missing(name, state) }
    guard var record = it.replicas[id] else {
      throw CommandError(.notFound, "Replica \(id) for service \(name) does not exist.")
    }
    let status = record.status
    if status.isFailed, record.down == .succeeded || record.down == .failed {
      if !purge {
        throw CommandError(
          .conflict,
          "Replica \(id) of service '\(name)' is in failed status (\(status.rawValue)). Skipping its termination as it "
            + "could lead to a resource leak. (Use `sky serve down '\(name)' --replica-id \(id) --purge` to forcefully "
            + "terminate the replica.)")
      }
      return [.dropReplica(service: name, id: id)]
    }
    if record.down != nil {
      throw CommandError(
        .conflict,
        "Replica \(id) of service '\(name)' is already in the process of terminating. Skip terminating now.")
    }
    record.cause = .asked
    record.down = .scheduled
    record.downAt = now
    record.purged = purge
    if record.launch == .running { record.launch = .interrupted }
    if it.service.published.entries.contains(where: { $0.id == id }) {
      record.drainDeadline = now + Reconciler.Limits.drainSeconds
    }
    return [.replica(service: name, record)]
  }
}

// MARK: - Shared

extension Commands {
  static func missing(_ name: String, _ state: ControlState) -> CommandError {
    CommandError(.notFound, "Service '\(name)' does not exist.\(similar(name, state))")
  }

  private static func similar(_ name: String, _ state: ControlState) -> String {
    didYouMean(closestMatch(name, among: state.services.keys.sorted()))
  }

  private static func running(_ state: ControlState, _ name: String) throws(CommandError) -> ServiceState {
    guard let it = state.services[name] else {
      throw CommandError(
        .notFound, "Cannot find service '\(name)'.\(similar(name, state)) To spin up a service, use sky serve up")
    }
    if it.status.refusesUpdates {
      throw CommandError(
        .conflict, "Service '\(name)' is \(it.status.rawValue) and cannot be updated.")
    }
    return it
  }

  private static func checked(_ name: String, _ task: TaskSpec) throws(CommandError) -> ServiceSpec {
    do throws(SpecError) {
      try ServiceName.check(name)
      try task.checkService()
    } catch {
      throw CommandError(.invalid, error.description)
    }
    guard let spec = task.service, spec.pool == nil else {
      throw CommandError(.invalid, "Pool section in the YAML file. To fix, add a valid `service` field.")
    }
    return spec
  }

  private static func change(
    _ state: ControlState, _ name: String, _ task: TaskSpec, _ spec: ServiceSpec, _ mode: UpdateMode, now: Double,
    rollbackOf: Int? = nil, keeps: (VersionRecord) -> Bool
  ) throws(CommandError) -> [Mutation] {
    let old = try running(state, name)
    var new = old
    let number = old.service.latestVersion + 1
    var version = VersionRecord(number: number, task: task, mode: mode, createdAt: now)
    version.rollbackOf = rollbackOf
    let kept = Set(old.versions.values.filter(keeps).map(\.number))
    for (id, replica) in old.replicas where kept.contains(replica.version) && !replica.status.isTerminal {
      new.replicas[id]!.version = number
      if replica.readyNow { version.wasReady = true }
      // What serves goes on serving under its new number.
      if replica.status == .ready, old.service.activeVersions.contains(replica.version),
        !new.service.activeVersions.contains(number)
      {
        new.service.activeVersions.append(number)
      }
    }
    new.service.latestVersion = number
    // A new file is a new chance.
    new.service.failuresInARow = 0
    new.service.launchNotBefore = nil
    new.versions[number] = version
    new.scaler.update(version: number, spec: spec, mode: mode, now: now)
    return new.mutations(since: old, withScaler: true)
  }
}
