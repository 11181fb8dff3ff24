// The commands around `sky serve`: sky status, check, gpus list, api. Each in the form that serving on this machine
// needs.

import ControlCore
import Foundation

enum SkyStatus {
  static let command = Command(
    "status", "Show the serve controller and the services.",
    flags: [.verbose, .refresh, .showServices, .output], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let controller = try await session.services()
    var health: HealthReply?
    var services: [ServiceStatusReport] = []
    if let controller {
      health = try await controller.health()
      services = try await controller.status([]).services
    }
    if call.text(.output) == "json" {
      let row: PlainValue? = health.map {
        .map([
          .init("name", .string(controllerName)), .init("status", .string("UP")), .init("pid", .int(Int($0.pid))),
          .init("launched_at", .time($0.startedAt)), .init("version", .string($0.version)),
          .init("reason", .text($0.problem)),
        ])
      }
      terminal.print(
        PlainValue.map([
          .init("clusters", .list(row.map { [$0] } ?? [])),
          .init("services", StatusTables.json(services, user: session.environment["USER"])),
        ]).pretty())
      return
    }
    terminal.print(terminal.paint("Clusters", .heading))
    if let health {
      var table = TextTable([
        .init("NAME"), .init("INFRA", dispensable: 1), .init("STATUS"), .init("PID", dispensable: 2), .init("LAUNCHED"),
      ])
      table.rows = [
        [
          Cell(controllerName), Cell("Local (this machine)"), Cell("UP", .green), Cell(String(health.pid)),
          Cell(Durations.ago(health.startedAt, now: session.now())),
        ]
      ]
      if let problem = health.problem { table.notes = ("REASON", [problem]) }
      terminal.print(table.render(on: terminal), terminator: "")
    } else {
      terminal.print("No existing clusters.")
    }
    if !call.isOn(.showServices, default: true) { return }
    terminal.print()
    terminal.print(terminal.paint("Services", .heading))
    if services.isEmpty {
      terminal.print(controller == nil ? "No live services." : "No existing services.")
    } else {
      terminal.print(
        StatusTables.serviceTable(services, verbose: call.isOn(.verbose), now: session.now(), on: terminal),
        terminator: "")
      terminal.print("\n* To see detailed service status: \(terminal.paint("sky serve status -v", .bright))")
    }
  }

  private static let controllerName = "sky-serve-controller"
}

// MARK: - sky check

enum Check {
  static let command = Command(
    "check", "Check which infrastructure can run replicas.",
    text: ["Without INFRA, all that is built in.", "Example:", "  sky check -v"],
    arguments: [Argument("INFRA", .any, completion: .words(["local"]))], flags: [.verbose, .output], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let asked = call.all("INFRA").map { $0.lowercased() }
    for name in asked where name != Infra.local && !Infra.clouds.contains(name) && name != "k8s" {
      throw Stop.usage("'\(name)' is no infrastructure. There are: local, \(Infra.clouds.joined(separator: ", ")).")
    }
    let names = asked.isEmpty ? ["local"] : asked
    let machine = names.contains("local") ? try await session.describeMachine() : nil
    if call.text(.output) == "json" {
      terminal.print(
        PlainValue.map(
          names.map {
            .init($0, .map([.init("enabled", .bool($0 == "local")), .init("compute", .bool($0 == "local"))]))
          }
        ).pretty())
      return
    }
    terminal.print("Checking infra to enable for SkyServe.")
    for name in names {
      guard name == "local", let machine else {
        terminal.print("  \(Infra.displayName(name)): \(terminal.paint("disabled", .red))")
        terminal.print("    Reason: replicas run on this machine only; it is called `local`.")
        continue
      }
      terminal.print("  Local: \(terminal.paint("enabled", .green)) [compute]")
      guard call.isOn(.verbose) else { continue }
      terminal.print("    CPUs: \(machine.cpus), memory: \(gigabytes(machine.memory)) GB")
      let gpus = machine.gpus.map { "\($0.name):\($0.total)" }.joined(separator: ", ")
      terminal.print("    GPUs: \(gpus.isEmpty ? "none" : gpus)")
      terminal.print("    Ports of replicas: \(machine.addressing)")
      terminal.print("    Services at most: \(machine.servicesMax)")
    }
    terminal.print()
    terminal.print(
      names.contains("local")
        ? "🎉 Enabled infra: Local" : "No infra is enabled of those asked for. Enabled: Local.")
  }

  static func gigabytes(_ amount: Double) -> String {
    let tenths = (amount * 10).rounded() / 10
    return Int(exactly: tenths).map(String.init) ?? String(tenths)
  }
}

// MARK: - sky gpus list

enum Gpus {
  static let list = Command(
    "list", "Show the accelerators of this machine.", text: text, arguments: arguments, flags: flags, action: run)
  static let showGpus = Command(
    "show-gpus", "Show the accelerators of this machine (now `sky gpus list`).", text: text, arguments: arguments,
    flags: flags, action: run)

  private static let text = [
    "Found with nvidia-smi, or declared in the `local` section of ~/.sky/config.yaml. ACCELERATOR is a name or "
      + "NAME:COUNT.",
    "Examples:", "  sky gpus list\n  sky gpus list A100:2",
  ]
  private static let arguments = [Argument("ACCELERATOR", .optional)]
  private static let flags: [Flag] = [.allGpus, .output]

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let machine = try await session.describeMachine()
    var gpus = machine.gpus
    if let asked = call.all("ACCELERATOR").first {
      let parts = asked.split(separator: ":").map(String.init)
      let count = parts.count > 1 ? Int(parts[1]) : 1
      guard let name = parts.first, parts.count <= 2, let count, count > 0 else {
        throw Stop.usage("Invalid accelerator name: '\(asked)'. Write NAME or NAME:COUNT.")
      }
      gpus = gpus.filter { $0.name.lowercased() == name.lowercased() && $0.total >= count }
      if gpus.isEmpty {
        let there = machine.gpus.map { "\($0.name):\($0.total)" }.joined(separator: ", ")
        throw Stop.failure(
          "There is no \(asked) on this machine. There is: \(there.isEmpty ? "no accelerator" : there).")
      }
    }
    if call.text(.output) == "json" {
      terminal.print(
        PlainValue.list(
          gpus.map {
            .map([
              .init("name", .string($0.name)), .init("total", .int($0.total)), .init("free", .int($0.free)),
              .init("memory_gb", $0.memory.map(PlainValue.double) ?? .null),
            ])
          }
        ).pretty())
      return
    }
    terminal.print(terminal.paint("Local GPUs", .heading))
    if gpus.isEmpty {
      terminal.print(
        "No GPUs found on this machine. nvidia-smi names them where it is installed; others can be declared in "
          + "~/.sky/config.yaml (local: {gpus: {A100: 2}}).")
    } else {
      var table = TextTable([
        .init("GPU"), .init("MEMORY(GB)", dispensable: 1), .init("REQUESTABLE_QTY_PER_NODE", dispensable: 2),
        .init("UTILIZATION"),
      ])
      for gpu in gpus {
        table.rows.append([
          Cell(gpu.name), Cell(gpu.memory.map(Check.gigabytes) ?? "-"), Cell(requestable(gpu.total)),
          Cell("\(gpu.free) of \(gpu.total) free"),
        ])
      }
      terminal.print(table.render(on: terminal), terminator: "")
    }
    if call.isOn(.allGpus) {
      terminal.print("\nNames that service files may use: " + Accelerator.names.joined(separator: ", "))
    }
  }

  private static func requestable(_ total: Int) -> String {
    total > 8 ? "1 to \(total)" : (1...max(1, total)).map(String.init).joined(separator: ", ")
  }
}

// MARK: - sky api

enum ApiCommands {
  static let status = Command("status", "Show whether the controller runs.", flags: [.output]) { call, session in
    let terminal = session.terminal
    let health = try await session.door.open(.never)?.health()
    if call.text(.output) == "json" {
      terminal.print(
        PlainValue.map([
          .init("running", .bool(health != nil)), .init("pid", health.map { .int(Int($0.pid)) } ?? .null),
          .init("version", .text(health?.version)), .init("started_at", .time(health?.startedAt)),
          .init("services", health.map { .int($0.services) } ?? .null), .init("problem", .text(health?.problem)),
          .init("socket", .string(session.paths.controllerSocket)), .init("log", .string(session.paths.controllerLog)),
        ]).pretty())
      return
    }
    guard let health else {
      terminal.print("The controller is not running. `sky serve up` starts it.")
      return
    }
    terminal.print(
      """
      The controller is running.
        PID:      \(health.pid)
        Version:  \(health.version)
        Started:  \(Durations.ago(health.startedAt, now: session.now()))
        Services: \(health.services)
        Socket:   \(session.paths.controllerSocket)
        Log:      \(session.paths.controllerLog)
      """)
    if let problem = health.problem { terminal.note(problem) }
  }

  static let start = Command("start", "Start the controller, if it does not run.") { _, session in
    guard let health = try await session.door.open(.always)?.health() else {
      throw Stop.failure("No controller answers.")
    }
    session.terminal.print("\(session.terminal.paint("✓", .green)) The controller is running (pid \(health.pid)).")
  }

  static let stop = Command(
    "stop", "Stop the controller.",
    text: [
      "Load balancers and replicas go on serving without it, but nobody replaces what fails. The next command that needs "
        + "the controller starts it again and it takes over what runs."
    ], flags: [.yes]
  ) { call, session in
    let terminal = session.terminal
    guard let controller = try await session.door.open(.never) else {
      terminal.print("The controller is not running.")
      return
    }
    let health = try await controller.health()
    if health.services > 0, !call.isOn(.yes) {
      try terminal.confirm("\(health.services) service(s) will run without their controller. Proceed?")
    }
    guard kill(health.pid, SIGTERM) == 0 else {
      throw Stop.failure("Cannot stop process \(health.pid): \(String(cString: strerror(errno)))")
    }
    // Its last act is to close its socket.
    for _ in 0..<500 {
      guard let other = try? await session.door.open(.never), let now = try? await other.health(), now.pid == health.pid
      else {
        terminal.print("\(terminal.paint("✓", .green)) The controller has stopped.")
        return
      }
      try await Task.sleep(for: .milliseconds(20))
    }
    throw Stop.failure("The controller (pid \(health.pid)) is still stopping; see \(session.paths.controllerLog).")
  }
}
