// sky serve validate: reads and checks a service file and starts nothing. Needs no controller.

import ControlCore
import Yaml

enum Validate {
  static let command = Command(
    "validate", "Check a service YAML without launching anything.",
    text: [
      "Prints the service spec, or `FILE:LINE:COLUMN: what is wrong`. `-` reads the standard input.",
      "Exit code 0: the file is right. Why `sky serve up` would not take it here all the same (a folder that is missing, a "
        + "secret to be given, more GPUs than there are) is told on standard error. 1: the file is not right.",
      "JSON has the section as it will be used, values of probe headers included, and in `up` why `sky serve up` would "
        + "refuse it here.",
      "Examples:",
      "  sky serve validate service.yaml\n  sky serve validate service.yaml -o json | jq .service",
    ],
    arguments: [Argument(ServiceFile.argument, completion: .serviceFiles)],
    flags: Flag.taskOptions.filter { $0 != .yes && $0 != .async } + [.output], action: run)

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let isJson = call.text(.output) == "json"
    let name = call.argument(ServiceFile.argument)
    let file: ServiceFile
    do throws(ServiceFile.Problem) { file = try ServiceFile.parse(call, session) } catch {
      switch error {
      case .stop(let stop): throw stop
      case .spec(let error):
        if isJson {
          terminal.print(
            PlainValue.map([.init("file", .string(name)), .init("parse", .string(verdict(error))), place(error)])
              .pretty())
        }
        throw Stop.file(error.description)
      }
    }
    // What the controller would say, and, where it says it better, what `sky serve up` says first. A pool is no
    // service, and yet a file that can be read.
    let refusal = Self.problem { () throws(SpecError) in try file.task.checkService() }
    let advice = file.task.service?.pool == nil ? Self.problem(file.check) : nil
    let problem = advice ?? refusal.map(file.placed)
    let answer = (refusal ?? advice).map(verdict) ?? "ok"
    let stop = problem == nil ? await Self.stop(file, call, session) : nil

    if isJson { terminal.print(json(file, answer, problem, stop).pretty()) }
    if let problem { throw Stop.file(problem.description) }
    if !isJson { terminal.print(file.task.hidingSecrets(file.task.service?.echo ?? ""), terminator: "") }
    for warning in file.warnings { terminal.note(warning.description) }
    if let stop { terminal.note("`sky serve up` would not take it here:\n\(stop)") }
  }

  /// Why `sky serve up` would stop, in its words and its order.
  private static func stop(_ file: ServiceFile, _ call: Call, _ session: Session) async -> String? {
    do throws(SpecError) {
      try file.check()
      try file.checkSecrets()
    } catch {
      return error.description
    }
    let (task, missing) = file.resolved(session)
    if !missing.isEmpty { return missing.map(\.description).joined(separator: "\n") }
    var said: String?
    do { _ = try session.machine().offers(for: task) } catch { said = TaskOptions.naming("\(error)", call) }
    if said == nil, let tls = task.service?.tls {
      said = await StagedTls.refusal(of: tls, environment: session.environment)
    }
    return said.map(file.task.hidingSecrets)
  }

  private static func problem(_ check: () throws(SpecError) -> Void) -> SpecError? {
    do throws(SpecError) { try check() } catch { return error }
    return nil
  }

  /// `ValueError: what is wrong`, as recorded answers of SkyServe's parser have it.
  private static func verdict(_ error: SpecError) -> String { "\(error.kind.rawValue): \(error.message)" }

  private static func place(_ error: SpecError) -> PlainValue.Member {
    .init(
      "error",
      .map([
        .init("line", .int(Int(error.mark.line))), .init("column", .int(Int(error.mark.column))),
        .init("message", .string(error.message)), .init("cure", error.cure.isEmpty ? .null : .string(error.cure)),
      ]))
  }

  private static func json(
    _ file: ServiceFile, _ answer: String, _ problem: SpecError?, _ stop: String?
  ) -> PlainValue {
    let task = file.task
    var all: [PlainValue.Member] = [.init("file", .string(file.name)), .init("parse", .string("ok"))]
    if let name = task.name { all.append(.init("name", .string(name))) }
    if let service = task.service {
      all.append(.init("service", service.canonical))
      all.append(.init("service_repr", .string(service.echo)))
    }
    let resources = task.resources.canonical
    all += [
      .init("resources_kind", .string(task.resources.kindName)), .init("n_resources", .int(resources.count)),
      .init("resources", .list(resources.map { .string($0.sorted.json(.python)) })),
      .init("num_nodes", .int(task.numNodes)),
      .init("envs", .map(task.envs.map { .init($0.name, .string($0.value)) })),
      .init("secrets", task.namedSecrets),
      .init("null_envs", .list(file.namesWithoutValue("envs").map(PlainValue.string))),
      .init("null_secrets", .list(file.namesWithoutValue("secrets").map(PlainValue.string))),
      .init("validate", .string(answer)), .init("up", stop.map(PlainValue.string) ?? .null),
    ]
    if let problem { all.append(place(problem)) }
    return .map(all)
  }
}

enum YamlToJson {
  static let command = Command(
    "yaml-to-json", "Read YAML from the standard input, print each document as a line of JSON.", isHidden: true
  ) { _, session in
    // More than any file people write.
    guard let bytes = Terminal.readInput(limit: 64 << 20) else { throw Stop.failure("Cannot read the standard input.") }
    do throws(YamlError) { session.terminal.write(try yamlToJson(bytes)) } catch { throw Stop.file(error.description) }
  }
}
