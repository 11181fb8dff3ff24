// sky serve history and rollback: the versions a service has had, and the way back.

import ControlCore

enum History {
  static let command = Command(
    "history", "Show the versions of a service.",
    text: [
      "Versions are kept while replicas of them are left, and the last one that was ready, for `sky serve rollback`.",
      "Examples:", "  sky serve history web\n  sky serve history web --yaml 2",
    ],
    arguments: [Argument("SERVICE_NAME", completion: .services)], flags: [.show, .output], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let name = call.argument("SERVICE_NAME")
    let controller = try await session.controller(of: name)
    let reply = try await controller.history(name)
    if let number = call.whole(.show) {
      guard let version = reply.versions.first(where: { $0.version == number }) else {
        let known = reply.versions.map { String($0.version) }.joined(separator: ", ")
        throw Stop.failure("Service '\(name)' has no version \(number). There are: \(known).")
      }
      terminal.print(version.yaml, terminator: version.yaml.hasSuffix("\n") ? "" : "\n")
    } else if call.text(.output) == "json" {
      terminal.print(json(reply).pretty())
    } else {
      terminal.print(table(reply, now: session.now(), on: terminal), terminator: "")
    }
  }

  package static func table(_ reply: HistoryReply, now: Double, on terminal: Terminal) -> String {
    var table = TextTable([
      .init("VERSION"), .init("CREATED"), .init("MODE", dispensable: 2), .init("WAS_READY"), .init("ACTIVE"),
      .init("POLICY", dispensable: 1), .init("RESOURCES", dispensable: 3), .init("NOTE"),
    ])
    for it in reply.versions {
      table.rows.append([
        Cell(String(it.version)), Cell(Durations.ago(it.createdAt, now: now)),
        Cell(mode(it) ?? "-"),
        Cell(it.wasReady ? "yes" : "no", it.wasReady ? .green : nil),
        Cell(it.isActive ? "yes" : "no", it.isActive ? .green : nil), Cell(it.policy), Cell(it.requestedResources),
        Cell(it.rollbackOf.map { "rollback of \($0)" } ?? "-"),
      ])
    }
    return table.render(on: terminal)
  }

  /// The first version came about by no update.
  private static func mode(_ it: HistoryReply.Version) -> String? { it.version == 1 ? nil : it.mode.rawValue }

  private static func json(_ reply: HistoryReply) -> PlainValue {
    .map([
      .init("name", .string(reply.name)),
      .init(
        "versions",
        .list(
          reply.versions.map { it in
            .map([
              .init("version", .int(it.version)), .init("created_at", .time(it.createdAt)),
              .init("mode", mode(it).map(PlainValue.string) ?? .null), .init("was_ready", .bool(it.wasReady)),
              .init("is_active", .bool(it.isActive)), .init("rollback_of", it.rollbackOf.map(PlainValue.int) ?? .null),
              .init("policy", .string(it.policy)), .init("requested_resources_str", .string(it.requestedResources)),
              .init("yaml", .string(it.yaml)),
            ])
          })),
    ])
  }
}

enum Rollback {
  static let command = Command(
    "rollback", "Return to the last version that was ready.",
    text: [
      "The earlier file becomes a new version; replicas of it that still run are kept.",
      "Example:", "  sky serve rollback web",
    ],
    arguments: [Argument("SERVICE_NAME", completion: .services)], flags: [.async, .yes], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let name = call.argument("SERVICE_NAME")
    let controller = try await session.controller(of: name)
    let versions = try await controller.history(name).versions
    let latest = versions.map(\.version).max() ?? 0
    // The controller decides; this is what it will say.
    guard let good = versions.filter({ $0.wasReady && $0.version < latest }).map(\.version).max() else {
      throw Stop.failure(
        "Service '\(name)' has no earlier version that was ready. Update it with another file instead.")
    }
    if !call.isOn(.yes) { try terminal.confirm("Rolling back service '\(name)' to version \(good). Proceed?") }
    let reply = try await controller.rollback(name)
    terminal.print(
      Update.farewell(reply, "rolled back service '\(name)' to version \(good), as version \(reply.version)", terminal))
  }
}
