// What `sky serve status` shows, from what the controller reports. Columns, words and blanks are SkyServe's, so that
// scripts written for it read these tables, too; a last column REASON appears when there is a reason to show.

import ControlCore

package enum StatusTables {
  /// Replicas of all services together that are shown without -v.
  static let replicasMax = 10
  /// Characters of a detail that are shown beside the status.
  private static let detailMax = 40

  /// Both tables with their headings; without a line feed at the end.
  package static func text(
    _ services: [ServiceStatusReport], verbose: Bool, now: Double, on terminal: Terminal
  ) -> String {
    var out = terminal.paint("Services", .heading) + "\n"
    if services.isEmpty { return out + "No existing services." }
    out += serviceTable(services, verbose: verbose, now: now, on: terminal)
    out += "\n" + terminal.paint("Service Replicas", .heading) + "\n"
    let count = services.reduce(0) { $0 + $1.replicaInfo.count }
    if count == 0 { return out + "No existing replicas." }
    let shown = shown(services, atMost: verbose ? count : replicasMax)
    out += replicaTable(shown, verbose: verbose, now: now, on: terminal)
    if shown.count < count { out += "... (use -v to show all replicas)" } else { out.removeLast() }
    return out
  }

  /// Where not all have room: those that live before those that have failed, the newest of these first, and of each
  /// service one by turns. In the order of services and ids.
  private static func shown(
    _ services: [ServiceStatusReport], atMost most: Int
  ) -> [(service: String, report: ReplicaStatusReport)] {
    let live = services.map { $0.replicaInfo.filter { !$0.status.isFailed } }
    let failed = services.map { Array($0.replicaInfo.filter(\.status.isFailed).reversed()) }
    var chosen = services.map { _ in Set<Int>() }
    var left = most
    for queues in [live, failed] {
      for turn in 0..<(queues.map(\.count).max() ?? 0) {
        for (service, queue) in queues.enumerated() where turn < queue.count && left > 0 {
          chosen[service].insert(queue[turn].replicaId)
          left -= 1
        }
      }
    }
    return zip(services, chosen).flatMap { service, ids in
      service.replicaInfo.filter { ids.contains($0.replicaId) }.map { (service.name, $0) }
    }
  }

  package static func serviceTable(
    _ services: [ServiceStatusReport], verbose: Bool, now: Double, on terminal: Terminal
  ) -> String {
    var table = TextTable([
      .init("NAME"), .init("VERSION", dispensable: 3), .init("UPTIME", dispensable: 2), .init("STATUS"),
      .init("REPLICAS"), .init("ENDPOINT"),
    ])
    if verbose {
      table.columns += [
        .init("AUTOSCALING_POLICY", dispensable: 4), .init("LOAD_BALANCING_POLICY", dispensable: 6),
        .init("REQUESTED_RESOURCES", dispensable: 5),
      ]
    }
    for service in services {
      let ready = service.replicaInfo.count { $0.status == .ready }
      let total = service.replicaInfo.count { !$0.status.isFailed }
      let versions = service.activeVersions.map(String.init).joined(separator: ",")
      var row = [
        Cell(service.name), Cell(versions.isEmpty ? "-" : versions),
        Cell(Durations.absolute(from: service.uptimeSince, to: now)),
        Cell(service.status.rawValue, service.status.style), Cell("\(ready)/\(total)"), Cell(service.endpoint ?? "-"),
      ]
      if verbose {
        row += [Cell(service.policy), Cell(service.loadBalancingPolicy), Cell(service.requestedResourcesStr)]
      }
      table.rows.append(row)
    }
    // Also of a READY one: a new version may fail while the old one serves.
    addReasons(services.map(\.reason), to: &table, always: verbose)
    return table.render(on: terminal)
  }

  package static func replicaTable(
    _ replicas: [(service: String, report: ReplicaStatusReport)], verbose: Bool, now: Double, on terminal: Terminal
  ) -> String {
    var table = TextTable([
      .init("SERVICE_NAME"), .init("ID"), .init("VERSION", dispensable: 2), .init("ENDPOINT", dispensable: 1),
      .init("LAUNCHED", dispensable: 3), .init("INFRA", dispensable: 5), .init("RESOURCES", dispensable: 4),
      .init("STATUS"),
    ])
    for (service, replica) in replicas {
      // What is longer is in the column REASON.
      let detail = replica.statusDetail.map(oneLine).flatMap { $0.count <= detailMax ? " (\($0))" : nil } ?? ""
      let resources = verbose ? replica.resourcesStrFull ?? replica.resourcesStr : replica.resourcesStr
      table.rows.append([
        Cell(service), Cell(String(replica.replicaId)), Cell(String(replica.version)), Cell(replica.endpoint ?? "-"),
        Cell(Durations.ago(replica.launchedAt, now: now)), Cell(replica.infra ?? "-"), Cell(resources ?? "-"),
        Cell(replica.status.rawValue + detail, replica.status.style),
      ])
    }
    addReasons(
      replicas.map { $0.report.status == .ready ? nil : $0.report.reason }, to: &table, always: verbose)
    return table.render(on: terminal)
  }

  private static func addReasons(_ reasons: [String?], to table: inout TextTable, always: Bool) {
    let texts = reasons.map { $0.map(oneLine).flatMap { $0.isEmpty ? nil : $0 } ?? "-" }
    if always || texts.contains(where: { $0 != "-" }) { table.notes = ("REASON", texts) }
  }

  /// A log's last line may hold anything; a table's cell must not.
  static func oneLine(_ text: String) -> String {
    var out = ""
    for character in text {
      if character.isWhitespace {
        if !out.hasSuffix(" ") { out.append(" ") }
      } else if character.unicodeScalars.allSatisfy({ $0.properties.generalCategory != .control }) {
        out.append(character)
      }
    }
    return String(out.drop { $0 == " " })
  }
}

extension ServiceStatus {
  var style: Style {
    switch self {
    case .controllerInit, .replicaInit: .blue
    case .ready: .green
    case .shuttingDown: .yellow
    case .controllerFailed, .failed, .failedCleanup: .red
    case .noReplica: .magenta
    }
  }
}

extension ReplicaStatus {
  var style: Style {
    switch self {
    case .pending, .notReady: .yellow
    case .provisioning: .blue
    case .starting: .cyan
    case .ready: .green
    case .shuttingDown, .preempted: .magenta
    case .failed, .failedInitialDelay, .failedProbing, .failedProvision, .failedCleanup, .unknown: .red
    }
  }
}

// MARK: - JSON

extension StatusTables {
  /// Records with the keys of SkyServe's own; what has no meaning here is null.
  package static func json(_ services: [ServiceStatusReport], user: String?) -> PlainValue {
    .list(
      services.map { service in
        .map([
          .init("name", .string(service.name)),
          .init("version", .int(service.version)),
          .init("active_versions", .list(service.activeVersions.map(PlainValue.int))),
          .init("status", .string(service.status.rawValue)),
          .init("reason", .text(service.reason)),
          .init("uptime", .time(service.uptimeSince)),
          .init("created_at", .time(service.createdAt)),
          .init("policy", .string(service.policy)),
          .init("load_balancing_policy", .string(service.loadBalancingPolicy)),
          .init("requested_resources_str", .string(service.requestedResourcesStr)),
          .init("controller_job_id", .null),
          .init("controller_port", .null),
          .init("load_balancer_port", port(service.endpoint)),
          .init("endpoint", .text(service.endpoint)),
          .init("tls_encrypted", .bool(service.tlsEncrypted)),
          .init("target_num_replicas", .int(service.targetNumReplicas)),
          .init("request_rate", .double(service.requestRate)),
          .init("hash", .null),
          .init("entrypoint", .null),
          .init("user_hash", .null),
          .init("user_name", .text(user)),
          .init("replica_info", .list(service.replicaInfo.map { json($0, of: service.name) })),
        ])
      })
  }

  private static func json(_ replica: ReplicaStatusReport, of service: String) -> PlainValue {
    .map([
      .init("replica_id", .int(replica.replicaId)),
      .init("name", .string("\(service)-\(replica.replicaId)")),
      .init("status", .string(replica.status.rawValue)),
      .init("status_detail", .text(replica.statusDetail)),
      .init("reason", .text(replica.reason)),
      .init("version", .int(replica.version)),
      .init("endpoint", .text(replica.endpoint)),
      .init("is_spot", .bool(replica.isSpot)),
      .init("launched_at", .time(replica.launchedAt)),
      .init("cloud", .text(replica.infra?.split(separator: " ").first.map(String.init))),
      .init("region", .null),
      .init("infra", .text(replica.infra)),
      .init("resources_str", .text(replica.resourcesStr)),
      .init("resources_str_full", .text(replica.resourcesStrFull)),
      .init("handle", .null),
      .init("in_flight", replica.inFlight.map(PlainValue.int) ?? .null),
    ])
  }

  private static func port(_ endpoint: String?) -> PlainValue {
    guard let text = endpoint?.split(separator: ":").last, let port = Int(text.prefix { $0.isNumber }) else {
      return .null
    }
    return .int(port)
  }
}

extension PlainValue {
  static func text(_ text: String?) -> PlainValue { text.map(PlainValue.string) ?? .null }

  /// Seconds since 1970; whole ones where they are.
  static func time(_ time: Double?) -> PlainValue {
    time.map { time in Int(exactly: time).map(PlainValue.int) ?? .double(time) } ?? .null
  }
}
