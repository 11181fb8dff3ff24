// sky serve up: a new service.
//
//   read, check ─ echo ─ what a replica would run on ─ ask ─ hand over ─ name, endpoint, what to do next

import ControlCore

enum Up {
  static let command = Command(
    "up", "Launch a service.",
    text: [
      "SERVICE_YAML is a task with a `service` section. The command returns as soon as the controller has taken the "
        + "service on; its replicas are launched from then on, and `sky serve status` shows how far they are.",
      "Example:", "  sky serve up service.yaml\n  sky serve up service.yaml -n llm --env MODEL=qwen -y",
    ],
    arguments: [Argument(ServiceFile.argument, completion: .serviceFiles)],
    flags: [.serviceName] + Flag.taskOptions + [.gitUrl, .gitRef], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let file = try ServiceFile.read(call, session)
    let task = try file.complete(session)
    for warning in file.warnings { terminal.note(warning.description) }
    let name = call.text(.serviceName) ?? generatedName(session.random())
    do throws(SpecError) { try ServiceName.check(name) } catch { throw Stop.failure(error.message) }

    try await Plan.show(task, heading: "Each replica", call, session)
    if !call.isOn(.yes) { try terminal.confirm("Launching a new service '\(name)'. Proceed?") }

    terminal.print(terminal.paint("Launching controller for '\(name)'...", .yellow))
    let reply = try await terminal.waiting("Waiting for the service to register") {
      guard let controller = try await session.door.open(.always) else { throw Stop.failure("No controller answers.") }
      return try await send(UpRequest(name: name, task: try TaskText(task)), controller)
    }
    terminal.print(welcome(reply, terminal))
  }

  private static func send(_ request: UpRequest, _ controller: any ControllerCalls) async throws -> UpReply {
    do throws(ApiError) { return try await controller.up(request) } catch {
      if !error.isBroken { throw error }
      throw Stop.failure(
        "Failed to register service '\(request.name)' on the SkyServe controller. Reason:\n\(error.description)")
    }
  }

  /// `sky-service-` and four hexadecimal digits.
  static func generatedName(_ random: UInt32) -> String {
    let digits = String(random & 0xFFFF, radix: 16)
    return "sky-service-" + String(repeating: "0", count: 4 - digits.count) + digits
  }

  static func welcome(_ reply: UpReply, _ terminal: Terminal) -> String {
    let name = reply.name
    let commands = [
      ("To check service status:", "sky serve status \(name) [--endpoint]"),
      ("To teardown the service:", "sky serve down \(name)"),
      ("To see replica logs:", "sky serve logs \(name) [REPLICA_ID]"),
      ("To see load balancer logs:", "sky serve logs --load-balancer \(name)"),
      ("To see controller logs:", "sky serve logs --controller \(name)"),
      ("To monitor the status:", "watch -n10 sky serve status \(name)"),
      ("To send a test request:", "curl \(reply.endpoint)"),
    ]
    var out = terminal.paint("Service name: ", .cyan) + terminal.paint(name, .bright) + "\n"
    out += terminal.paint("Endpoint URL: ", .cyan) + terminal.paint(reply.endpoint, .bright) + "\n"
    out += "📋 Useful Commands\n"
    for (index, (label, command)) in commands.enumerated() {
      let branch = index == commands.count - 1 ? "└── " : "├── "
      out += terminal.paint(branch, .dim) + label + "\t" + terminal.paint(command, .bright) + "\n"
    }
    return out + "\n" + terminal.paint("✓", .green) + " Service is spinning up and replicas will be ready shortly."
  }
}

/// What `up` and `update` show before they ask.
enum Plan {
  static func show(
    _ task: TaskSpec, heading: String, _ call: Call, _ session: Session
  ) async throws {
    let terminal = session.terminal
    terminal.print(terminal.paint("Service spec:", .cyan))
    terminal.print(task.hidingSecrets(task.service?.echo ?? ""))
    let reply: EstimateReply
    do { reply = try await session.estimate(task) } catch let error as ApiError {
      throw ApiError(error.kind, TaskOptions.naming(error.description, call))
    } catch Stop.failure(let message) {
      throw Stop.failure(TaskOptions.naming(message, call))
    }
    terminal.print(terminal.paint("\(heading) will use the following resources (estimated):", .cyan))
    terminal.print(ResourceTable.text(reply.offers, numNodes: task.numNodes, on: terminal), terminator: "")
    for note in reply.notes { terminal.note(note) }
  }
}
