// sky serve status: how services and their replicas are.

import ControlCore

enum Status {
  static let command = Command(
    "status", "Show statuses of services.",
    text: [
      "Without SERVICE_NAMES, of all. Names may hold `*` and `?`.",
      "A service is",
      """
        CONTROLLER_INIT    until the controller has looked at it once
        REPLICA_INIT       while replicas are on their way and none is ready
        READY              when at least one replica is ready
        NO_REPLICA         when it has none, as one that is scaled to zero
        FAILED             when replicas failed and none is ready, or the endpoint cannot be opened
        SHUTTING_DOWN      after sky serve down
        FAILED_CLEANUP     when something of it could not be taken down
        CONTROLLER_FAILED  when its controller is gone
      """,
      "A replica is PENDING, PROVISIONING, STARTING, READY, NOT_READY, SHUTTING_DOWN, PREEMPTED, or FAILED and why. "
        + "The column REASON says what keeps one from being READY.",
      "Examples:",
      "  sky serve status\n  sky serve status web -v\n  curl $(sky serve status web --endpoint)\n"
        + "  watch -n10 sky serve status",
    ],
    arguments: [Argument("SERVICE_NAMES", .any, completion: .services)],
    flags: [.verbose, .endpoint, .output], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let names = call.all("SERVICE_NAMES")
    let isJson = call.text(.output) == "json"
    guard let controller = try await session.services() else {
      if call.isOn(.endpoint) { throw notOne(0) }
      if isJson {
        terminal.print("[]")
        for name in names { terminal.note("Service '\(name)' not found.") }
      } else {
        terminal.print(terminal.paint("Services", .heading))
        terminal.print("No live services. (See: \(terminal.paint("sky serve -h", .bright)))")
      }
      return
    }
    let reply: StatusReply
    do throws(ApiError) { reply = try await controller.status(names) } catch {
      if error.kind != .connection { throw error }
      throw Stop.failure(
        "Failed to fetch service statuses due to connection issues. Please try again later. Details: [\(error.description)]"
      )
    }
    if call.isOn(.endpoint) {
      if reply.services.count != 1 { throw notOne(reply.services.count) }
      terminal.print(reply.services[0].endpoint ?? "-")
      return
    }
    if isJson {
      terminal.print(StatusTables.json(reply.services, user: session.environment["USER"]).pretty())
      for sentence in missing(reply) { terminal.note(sentence) }
      return
    }
    var text = StatusTables.text(reply.services, verbose: call.isOn(.verbose), now: session.now(), on: terminal)
    if !reply.missing.isEmpty { text += "\n\n" + missing(reply).joined(separator: "\n") }
    terminal.print(text)
  }

  private static func missing(_ reply: StatusReply) -> [String] {
    reply.missing.map { "Service '\($0)' not found.\(didYouMean(reply.similar[$0]))" }
  }

  private static func notOne(_ count: Int) -> Stop {
    .usage(
      "\(count == 0 ? "No" : String(count)) service\(count > 1 ? "s" : "") found. Please specify an existing service to "
        + "show its endpoint. Usage: sky serve status --endpoint <service-name>")
  }
}
