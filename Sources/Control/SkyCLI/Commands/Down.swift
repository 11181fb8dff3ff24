// sky serve down: the end of services, or of one replica.

import ControlCore

enum Down {
  static let command = Command(
    "down", "Teardown service(s).",
    text: [
      "Replicas finish the requests they have, then they are stopped; the command does not wait for that. "
        + "SERVICE_NAMES may hold `*` and `?`.",
      "Examples:",
      "  sky serve down web\n  sky serve down 'test-*'\n  sky serve down --all\n  sky serve down web --replica-id 1",
    ],
    arguments: [Argument("SERVICE_NAMES", .any, completion: .services)],
    flags: [.all, .purge, .replicaID, .async, .yes], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let names = call.all("SERVICE_NAMES")
    let all = call.isOn(.all)
    let purge = call.isOn(.purge)
    if names.isEmpty != all {
      let given = (names.isEmpty ? "" : "SERVICE_NAMES=" + names.joined(separator: ",")) + (all ? " --all" : "")
      throw Stop.usage("Can only specify one of SERVICE_NAMES or --all. Provided '\(given)'.")
    }
    if let id = call.whole(.replicaID) {
      if all { throw Stop.usage("The --replica-id option cannot be used with the --all option.") }
      guard names.count == 1 else {
        throw Stop.usage(
          "The --replica-id option can only be used with a single service name. Got: \(names.joined(separator: ", ")).")
      }
      try await terminate(id, of: names[0], purge: purge, call, session)
      return
    }
    guard let controller = try await session.services() else {
      terminal.print("No service to terminate.")
      return
    }
    if !call.isOn(.yes) {
      try terminal.confirm(
        all
          ? "Terminating all services. Proceed?"
          : "Terminating service(s) \(names.map { "'\($0)'" }.joined(separator: ", ")). Proceed?")
    }
    let reply = try await controller.down(DownRequest(names: names, all: all, purge: purge))
    for sentence in reply.skipped { terminal.print(sentence) }
    let quoted = reply.names.map { "'\($0)'" }.joined(separator: ", ")
    switch reply.names.count {
    case 0: if reply.skipped.isEmpty { terminal.print("No service to terminate.") }
    case 1: terminal.print("Service \(quoted) is scheduled to be terminated.")
    default: terminal.print("Services \(quoted) are scheduled to be terminated.")
    }
  }

  private static func terminate(
    _ id: Int, of name: String, purge: Bool, _ call: Call, _ session: Session
  ) async throws {
    let terminal = session.terminal
    let controller = try await session.controller(of: name)
    if !call.isOn(.yes) { try terminal.confirm("Terminating replica ID \(id) in '\(name)'. Proceed?") }
    do throws(ApiError) {
      terminal.print(try await controller.terminate(name, replica: id, TerminateRequest(purge: purge)).message)
    } catch {
      if !error.isConflict { throw error }
      throw Stop.failure("Failed to terminate replica \(id) in \(name). Reason:\n\(error.description)")
    }
  }
}
