// sky serve update: another file for a running service.

import ControlCore

enum Update {
  static let command = Command(
    "update", "Update a running service.",
    text: [
      "The service goes on answering while its replicas are replaced. Where only the `service` section differs, running "
        + "replicas are kept. Load balancing policy, TLS files and timeouts change in place.",
      "Example:",
      "  sky serve update web new.yaml\n  sky serve update web new.yaml --mode blue_green -y",
    ],
    arguments: [
      Argument("SERVICE_NAME", completion: .services), Argument(ServiceFile.argument, completion: .serviceFiles),
    ],
    flags: [.mode] + Flag.taskOptions, action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let name = call.argument("SERVICE_NAME")
    let file = try ServiceFile.read(call, session)
    let task = try file.complete(session)
    for warning in file.warnings { terminal.note(warning.description) }
    let controller = try await running(name, task.service ?? ServiceSpec(), session)
    try await Plan.show(task, heading: "New replica", call, session)
    if !call.isOn(.yes) { try terminal.confirm("Updating service '\(name)'. Proceed?") }
    let mode = call.text(.mode) == "blue_green" ? UpdateMode.blueGreen : .rolling
    let request = UpdateRequest(task: try TaskText(task), mode: mode)
    let reply = try await terminal.waiting("Waiting for the update to be recorded") {
      try await send(request, name, controller)
    }
    terminal.print(farewell(reply, "updated service '\(name)' to version \(reply.version)", terminal))
  }

  private static func send(
    _ request: UpdateRequest, _ name: String, _ controller: any ControllerCalls
  ) async throws -> UpdateReply {
    do throws(ApiError) { return try await controller.update(name, request) } catch {
      if error.isBroken { throw Stop.failure("Server error during service update: \(error.description)") }
      if error.kind == .refused(400) { throw Stop.failure("Client error during service update: \(error.description)") }
      throw error
    }
  }

  /// Whom to ask for it: the service is there, takes updates, and the user has been told what will change in place.
  private static func running(
    _ name: String, _ new: ServiceSpec, _ session: Session
  ) async throws -> any ControllerCalls {
    let terminal = session.terminal
    guard let controller = try await session.services() else {
      throw Stop.failure(
        "Service does not exist. To spin up a new service, use \(terminal.paint("sky serve up", .bright, on: .errors))")
    }
    let found = try await controller.status([name])
    guard let current = found.services.first(where: { $0.name == name }) else {
      throw Stop.failure(
        "Cannot find service '\(name)'.\(didYouMean(found.similar[name])) To spin up a service, use sky serve up")
    }
    if current.status == .controllerInit {
      throw Stop.failure("Service '\(name)' is still initializing its controller. Please try again later.")
    }
    if current.status == .controllerFailed {
      throw Stop.failure("Service '\(name)' has a failed controller. Please clean up the service and try again.")
    }
    for note in changesInPlace(current, new) { terminal.note(note) }
    return controller
  }

  /// What the original could not change without a new service.
  static func changesInPlace(_ current: ServiceStatusReport, _ new: ServiceSpec) -> [String] {
    var notes: [String] = []
    let policy = new.effectivePolicy.rawValue
    if policy != current.loadBalancingPolicy {
      notes.append(
        "Current load balancing policy '\(current.loadBalancingPolicy)' is different from the new policy '\(policy)'. "
          + "It is changed in place; no request is interrupted.")
    }
    switch (current.tlsEncrypted, new.tls != nil) {
    case (true, true):
      notes.append("TLS keyfile and certfile are read anew in place: new connections get the new certificate.")
    case (false, true): notes.append("TLS is switched on in place: the endpoint answers https from then on.")
    case (true, false): notes.append("TLS is switched off in place: the endpoint answers http from then on.")
    case (false, false): break
    }
    return notes
  }

  static func farewell(_ reply: UpdateReply, _ deed: String, _ terminal: Terminal) -> String {
    let name = reply.name
    var lines = [
      terminal.paint("Service '\(name)' update scheduled.", .green),
      "Please use \(terminal.paint("sky serve status \(name)", .bright)) to check the latest status.",
      "\(terminal.paint("✓", .green)) Successfully \(deed).",
    ]
    lines += reply.notes
    if reply.replicasKept {
      lines.append("Running replicas are kept: only the service section differs.")
    } else {
      lines.append("Replicas are updating, use `sky serve logs \(name) <replica_id>` to check their status.")
    }
    return lines.joined(separator: "\n")
  }
}
