// A machine for one test: its own SKY_HOME, a home of its user, an infra over both. At its end nothing may be left of any
// replica: no process, no file but logs.

import Foundation
import ProxyWire
import TestSupport
import Testing

@testable import ControlCore

/// One test at a time: they start many processes, and there may be two cores.
@Suite(.serialized)
enum LocalReplicas {}

final class LocalWorld: Sendable {
  let folder: TemporaryFolder
  let paths: Paths
  let environment: [String: String]
  let infra: LocalInfra
  /// In the environment of every process that this world starts.
  let token = UUID().uuidString

  var userHome: String { folder.file("user") }

  init(
    machine: LocalMachine = LocalMachine(cpus: 4, memory: 16, gpus: []), grace: Double = 3,
    variables: [String: String] = [:], shim: ((TemporaryFolder) throws -> String)? = nil
  ) throws {
    folder = try TemporaryFolder()
    paths = Paths(home: folder.file("sky"), configFile: folder.file("none.yaml"))
    try FileManager.default.createDirectory(atPath: folder.file("user"), withIntermediateDirectories: true)
    try FileManager.default.createDirectory(atPath: paths.services, withIntermediateDirectories: true)
    var environment = ProcessInfo.processInfo.environment
    environment["HOME"] = folder.file("user")
    environment["SKY_TEST_TOKEN"] = token
    environment["SKY_LOCAL_ADDRESSING"] = nil
    environment.merge(variables) { $1 }
    self.environment = environment
    infra = try LocalInfra(
      paths: paths, machine: machine, environment: environment,
      shim: shim?(folder) ?? Places.program("sky-controller"), grace: grace)
  }

  /// The same folders seen by a controller that has just started.
  func restarted(machine: LocalMachine = LocalMachine(cpus: 4, memory: 16, gpus: [])) throws -> LocalInfra {
    try LocalInfra(
      paths: paths, machine: machine, environment: environment, shim: Places.program("sky-controller"), grace: 3)
  }

  func request(_ task: TaskSpec, _ id: Int = 1, port: Int = 8080, service: String = "web") -> LaunchRequest {
    LaunchRequest(
      service: service, order: LaunchOrder(id: id, version: 1, spot: false), task: task, port: port,
      stagedFolder: paths.version(service, 1), replicaFolder: paths.replica(service, id))
  }

  func launch(_ task: TaskSpec, _ id: Int = 1, port: Int = 8080) async throws {
    try await infra.stage(task, into: paths.version("web", 1))
    try await infra.launch(request(task, id, port: port)) { _ in }
  }

  /// Replicas 1 and 2.
  func launchBoth(_ task: TaskSpec) async throws {
    async let one: Void = launch(task, 1)
    async let two: Void = launch(task, 2)
    _ = try await (one, two)
  }

  func stop(_ id: Int = 1) async throws {
    try await infra.stop(service: "web", id: id, replicaFolder: paths.replica("web", id))
  }

  func facts() async throws -> [Int: InfraFact] {
    try await infra.poll(service: "web", replicasFolder: paths.replicas("web"))
  }

  func state(_ id: Int = 1) -> ReplicaState? { ReplicaFolder(paths.replica("web", id)).readState() }

  func machine(_ id: Int = 1) async throws -> Machine {
    guard case .up(let machine)? = try await facts()[id] else {
      throw TestFailure("replica \(id) is not up: \(try await facts()), \(launchLog(id))")
    }
    return machine
  }

  func runLog(_ id: Int = 1) -> String { (try? Places.text(paths.runLog("web", id))) ?? "" }
  func launchLog(_ id: Int = 1) -> String { (try? Places.text(paths.launchLog("web", id))) ?? "" }

  /// The body of an answer with status 200.
  func get(_ path: String = "/", of id: Int = 1, port: Int? = nil) async throws -> String {
    let address = try await machine(id).address
    return try LocalWorld.get(path, at: address.host, port ?? Int(address.port ?? 0))
  }

  static func get(_ path: String, at host: String, _ port: Int) throws -> String {
    let wire = try Wire(to: .ipv4(host, UInt16(port)))
    defer { wire.close() }
    try wire.send("GET \(path) HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n")
    let response = try wire.readResponse()
    guard response.status == 200 else { throw TestFailure("status \(response.status): \(response.text)") }
    return response.text
  }

  /// Processes that began in this world and are still there.
  var processes: [pid_t] {
    let wanted = Array("SKY_TEST_TOKEN=\(token)".utf8)
    let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return all.compactMap { pid_t($0) }.filter { pid in
      // Zombies have no environment any more.
      guard let bytes = FileManager.default.contents(atPath: "/proc/\(pid)/environ") else { return false }
      return bytes.split(separator: 0).contains { $0.elementsEqual(wanted) }
    }
  }
}

/// Waits as `eventually` does, in a task.
func comes(_ deadline: Double = patience, _ condition: () async throws -> Bool) async -> Bool {
  let end = monotonic() + deadline
  while true {
    if (try? await condition()) == true { return true }
    if monotonic() >= end { return false }
    try? await Task.sleep(for: .milliseconds(5))
  }
}

/// Runs `body` in a world of its own, then stops every replica and looks for what was left.
func inWorld(
  machine: LocalMachine = LocalMachine(cpus: 4, memory: 16, gpus: []), grace: Double = 3,
  variables: [String: String] = [:], shim: ((TemporaryFolder) throws -> String)? = nil,
  location: SourceLocation = #_sourceLocation,
  _ body: (LocalWorld) async throws -> Void
) async throws {
  let world = try LocalWorld(machine: machine, grace: grace, variables: variables, shim: shim)
  var problem: (any Error)?
  do { try await body(world) } catch { problem = error }
  let files = FileManager.default
  for name in (try? files.contentsOfDirectory(atPath: world.paths.replicas("web"))) ?? [] {
    guard let id = Int(name) else { continue }
    if problem != nil { print("replica \(id):\n\(world.launchLog(id))\(world.runLog(id))") }
    try await world.stop(id)
    let left = try files.contentsOfDirectory(atPath: world.paths.replica("web", id)).sorted()
    #expect(
      left.allSatisfy { ["launch.log", "run.log", "run.log.1"].contains($0) }, "\(left)", sourceLocation: location)
  }
  let left = world.processes
  #expect(left == [], "processes are left", sourceLocation: location)
  for pid in left { kill(pid, SIGKILL) }
  #expect(try await world.facts() == [:], sourceLocation: location)
  if let problem { throw problem }
}

func task(setup: String? = nil, run: String?) -> TaskSpec {
  var task = TaskSpec()
  task.setup = setup
  task.run = run
  return task
}
