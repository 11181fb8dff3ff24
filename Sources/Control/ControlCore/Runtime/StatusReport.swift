// What `sky serve status` says of a service, made from its records and from what is known now. Pure.

import ProxyWire

enum StatusReport {
  static func of(
    _ state: ServiceState, _ facts: ServiceFacts?, endpoint: String, launchesMax: Int, journalProblem: String? = nil,
    now: Double
  ) -> ServiceStatusReport {
    let spec = state.latest?.service ?? state.scaler.spec
    let pending = facts?.arrivals.reduce(0) { $0 + $1.count } ?? 0
    var inFlight: [Int: Int] = [:]
    if case .reporting(_, let counts) = facts?.proxy { inFlight = counts }
    var report = ServiceStatusReport(
      name: state.service.name, version: state.service.latestVersion, activeVersions: state.service.activeVersions,
      status: state.status, createdAt: state.service.createdAt, tlsEncrypted: spec.tls != nil, policy: spec.policyText,
      loadBalancingPolicy: spec.effectivePolicy.rawValue,
      requestedResourcesStr: state.latest.map { $0.task.resources.requestedText(numNodes: $0.task.numNodes) } ?? "-",
      targetNumReplicas: state.service.desired == .down ? 0 : state.scaler.finalTarget,
      requestRate: state.scaler.rate.perSecond(now: now) + Double(pending) / Double(RequestRate.windowSeconds),
      replicaInfo: state.replicas.values.sorted { $0.id < $1.id }.map { record in
        var it = ReplicaStatusReport(
          replicaId: record.id, version: record.version, status: record.status, isSpot: record.isSpot)
        it.statusDetail = record.status == .provisioning ? record.detail : nil
        it.reason = reason(record, state, facts, inFlight[record.id] ?? 0, launchesMax, now)
        it.endpoint = record.address.map { "http://\($0)" }
        it.launchedAt = record.launchedAt
        let nodes = state.versions[record.version]?.task.numNodes ?? 1
        if let chosen = record.chosen {
          it.infra = chosen.infra.shown
          it.resourcesStr = chosen.shown(numNodes: nodes, isFull: false)
          it.resourcesStrFull = chosen.shown(numNodes: nodes, isFull: true)
        }
        it.inFlight = record.status == .ready || record.status == .shuttingDown ? inFlight[record.id] ?? 0 : nil
        return it
      })
    report.uptimeSince = state.service.firstReadyAt
    report.endpoint = endpoint
    // Ready replicas serve nobody behind an endpoint that cannot be opened.
    if report.status == .ready, facts?.proxyAbsence != nil { report.status = .failed }
    let reasons = [journalProblem, reason(state, report, facts, now)].compactMap { $0 }
    report.reason = reasons.isEmpty ? nil : reasons.joined(separator: "; ")
    return report
  }

  // MARK: Why a replica is not READY

  private static func reason(
    _ record: ReplicaRecord, _ state: ServiceState, _ facts: ServiceFacts?, _ inFlight: Int, _ launchesMax: Int,
    _ now: Double
  ) -> String? {
    let probe = facts?.probes[record.id]
    let besideProbe = facts?.infra[record.id]?.besideProbe ?? ""
    switch record.status {
    case .ready: return nil
    case .pending: return "waits for its turn: \(launchesMax) launches run at once"
    case .provisioning: return record.detail ?? "is being launched"
    case .starting:
      let grace = (state.versions[record.version]?.service ?? state.scaler.spec).probe.initialDelay
      var isSettingUp = false
      if case .up(let machine)? = facts?.infra[record.id] { isSettingUp = machine.job == .settingUp }
      guard let since = record.firstNotReadyAt else {
        return isSettingUp ? "setup runs" : "has not been probed yet"
      }
      // Nobody listens before `run` begins.
      let detail = isSettingUp ? "setup runs; " : probe.flatMap { $0.ok ? nil : "probe: \($0.detail)\(besideProbe); " } ?? ""
      return "\(detail)not ready for \(seconds(now - since)) of at most \(grace) s"
    case .notReady:
      let detail = probe.flatMap { $0.ok ? nil : $0.detail } ?? "failed"
      let threshold = Int(clamping: state.scaler.spec.failureThreshold)
      let since = record.failingSince.map { " for \(seconds(now - $0)) of at most \(threshold) s" }
      return "probe: \(detail)\(besideProbe)\(since ?? "")"
    case .shuttingDown:
      let cause = record.stopReason(latest: state.service.latestVersion)
      if record.down == .scheduled, let deadline = record.drainDeadline, deadline > now {
        let requests = "\(inFlight) request\(inFlight == 1 ? "" : "s") in flight"
        return "\(cause); finishes \(requests), for \(seconds(deadline - now)) at most"
      }
      return cause + (stopping(record, facts, now) ?? "")
    case .preempted: return record.reason.map { $0 + (stopping(record, facts, now) ?? "") }
    case .failed, .failedInitialDelay, .failedProbing, .failedProvision, .failedCleanup, .unknown: return record.reason
    }
  }

  /// What is done to end it; one that goes as it should says no more than why.
  private static func stopping(_ record: ReplicaRecord, _ facts: ServiceFacts?, _ now: Double) -> String? {
    guard record.down == .running else { return nil }
    let asked = record.downAt.map { "it was to go \(seconds(now - $0)) ago" } ?? "it was to go long ago"
    if let notBefore = record.stopNotBefore {
      var failure = "something of it was left"
      if case .stopFailed(_, let reason)? = facts?.operations.facts[record.id] { failure = reason }
      return "; stopping it failed: \(failure); tried again in \(seconds(notBefore - now)) "
        + "(after attempt \(record.stopAttempts); \(asked))"
    }
    if record.stopAttempts > 1 { return "; is being stopped (attempt \(record.stopAttempts); \(asked))" }
    guard let downAt = record.downAt, now - downAt >= slowStopSeconds else { return nil }
    return "; is being stopped (\(asked))"
  }

  /// Seconds after which it is said how long a stop takes.
  private static var slowStopSeconds: Double { 5 }

  // MARK: Why a service is not READY, or not as it should be

  private static func reason(
    _ state: ServiceState, _ report: ServiceStatusReport, _ facts: ServiceFacts?, _ now: Double
  ) -> String? {
    var parts: [String] = []
    if state.service.desired == .running, let problem = facts?.proxyAbsence ?? facts?.proxyRefusal {
      parts.append("load balancer: \(problem)")
    }
    if let problem = facts?.infraProblem { parts.append("replicas cannot be looked at: \(problem)") }
    let failed = state.replicas.values.filter { $0.status.isFailed }.max { $0.id < $1.id }
    let isFrozen = state.service.desired == .running && state.scaler.isFrozen(state.replicas.values.map(\.scaling))
    if isFrozen, let hopeless = state.replicas.values.filter({ $0.isHopeless }).max(by: { $0.id < $1.id }) {
      let good = state.versions.values.contains { $0.wasReady && $0.number < state.service.latestVersion }
      parts.append(
        "version \(state.service.latestVersion) fails before it is ready (replica \(hopeless.id): "
          + "\(hopeless.reason ?? hopeless.status.rawValue)) and is not tried again; update with a corrected file"
          + (good ? ", or: sky serve rollback \(state.service.name)" : ""))
    }
    switch state.status {
    case .ready: break
    case .controllerInit: parts.append("has just been taken on")
    case .replicaInit:
      let next = report.replicaInfo.first { !$0.status.isTerminal } ?? report.replicaInfo.first
      if let next { parts.append("replica \(next.replicaId) \(next.status.rawValue): \(next.reason ?? "on its way")") }
    case .failed:
      // What is on its way first: that is what there is to wait for.
      if let next = report.replicaInfo.last(where: { !$0.status.isTerminal }) {
        parts.append("replica \(next.replicaId) \(next.status.rawValue): \(next.reason ?? "on its way")")
      }
      if !isFrozen, let failed {
        parts.append("replica \(failed.id) \(failed.status.rawValue): \(failed.reason ?? "no reason is known")")
      }
    case .noReplica:
      let isAutoscaled = state.scaler.spec.policy.targetQps != nil
      parts.append(
        state.scaler.finalTarget > 0
          ? "no replica is there yet"
          : isAutoscaled
            ? "scaled to zero; the next request starts a replica" : "the service file asks for 0 replicas")
    case .shuttingDown:
      if state.replicas.isEmpty {
        // All that is left.
        let since = facts?.proxyEndingSince.map { " \(seconds(now - $0)) ago" } ?? ""
        parts.append("the load balancer was to end\(since)\(facts?.proxyEnding.map { ": \($0)" } ?? "")")
      } else {
        parts.append("\(state.replicas.count) replica\(state.replicas.count == 1 ? "" : "s") to stop")
      }
    case .failedCleanup:
      parts.append(
        "replica \(failed?.id ?? 0) could not be stopped: \(failed?.reason ?? "no reason is known"); see to it, then: "
          + "sky serve down \(state.service.name) --purge")
    case .controllerFailed: break
    }
    if state.service.desired == .running, let notBefore = state.service.launchNotBefore, notBefore > now, !isFrozen,
      state.readyAndTotal.total < state.scaler.finalTarget
    {
      parts.append("\(state.service.failuresInARow) failures in a row: the next launch waits \(seconds(notBefore - now))")
    }
    return parts.isEmpty ? nil : parts.joined(separator: "; ")
  }

  private static func seconds(_ time: Double) -> String { "\(Int(clamping: max(0, time).rounded())) s" }
}

// MARK: - The columns INFRA and RESOURCES

extension Infra {
  /// `AWS (us-east-1a)`, `Local (this machine)`.
  package var shown: String {
    guard let cloud, cloud != "local" else { return "Local (this machine)" }
    let place = zone ?? region
    return Infra.displayName(cloud) + (place.map { " (\($0))" } ?? "")
  }
}

extension ResourceSpec {
  /// `1x[spot](gpus=L4:1, cpus=4, mem=16, ...)`, or all there is to say.
  package func shown(numNodes: Int, isFull: Bool) -> String {
    var parts: [String] = []
    if let accelerator { parts.append("gpus=\(accelerator)") }
    if let cpus { parts.append("cpus=\(cpus)") }
    if let memory { parts.append("mem=\(memory)") }
    if isFull {
      if let instanceType { parts.append(instanceType) }
      if let diskSize { parts.append("disk=\(diskSize)") }
      if let ports { parts.append("ports=\(ports.map(\.description).joined(separator: "+"))") }
    } else {
      parts.append("...")
    }
    return "\(numNodes)x\(isSpot ? "[spot]" : "")(\(parts.joined(separator: ", ")))"
  }
}
