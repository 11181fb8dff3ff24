// A home of services that is gone after the test: its own SKY_HOME, HOME and ports, the built programs, and a controller
// that is started, killed and asked over its socket.

import ControlCore
import Foundation
import TestSupport

typealias Program = TestSupport.ChildProcess

final class ServeHome: @unchecked Sendable {
  let folder: TemporaryFolder
  let home: String
  let environment: [String: String]
  private(set) var controller: Program?
  private var earlier: [Program] = []

  /// - Parameter config: what `~/.sky/config.yaml` holds beside the ports.
  init(config: String = "", environment more: [String: String] = [:]) throws {
    folder = try TemporaryFolder()
    home = folder.file("s")
    let user = folder.file("home")
    try FileManager.default.createDirectory(atPath: user, withIntermediateDirectories: true)
    _ = try folder.write(Self.server, to: "server.py")
    // Tests of several packages may run side by side: each has ports of its own, as far as chance goes.
    let first = Int.random(in: 20_000...32_000)
    let file = try folder.write("local:\n  ports: \(first)-\(first + 60)\n" + config, to: "config.yaml")
    environment = [
      "SKY_HOME": home, "HOME": user, "SKYPILOT_CONFIG": file,
    ].merging(more) { $1 }
    try startController()
  }

  deinit { end() }

  // MARK: The controller

  func startController() throws {
    if let controller { earlier.append(controller) }
    controller = try Program(Places.program("sky-controller"), [], environment: environment)
    let answers = eventually { try self.ask("GET", "/v1/health", as: HealthReply.self).pid > 0 }
    guard answers else {
      throw TestFailure("the controller does not answer: \(logs)")
    }
  }

  func killController() {
    controller?.kill()
    _ = controller?.waitForExit()
  }

  /// Ends whatever is left; afterwards nothing of this home runs.
  func end() {
    controller?.end()
    // Some start others until they are gone.
    _ = eventually {
      for pid in processes { kill(pid, SIGKILL) }
      return processes.isEmpty
    }
  }

  // MARK: What there is of it

  /// Every process that has to do with this home.
  var processes: [pid_t] {
    let mark = Array(folder.path.utf8)
    return Self.allProcesses.filter { pid in
      guard pid != getpid() else { return false }
      // A process that has ended has neither.
      return ["cmdline", "environ"].contains { Self.bytes("/proc/\(pid)/\($0)").position(of: mark) != nil }
    }
  }

  private static var allProcesses: [pid_t] {
    ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).compactMap { pid_t($0) }
  }

  private static func bytes(_ path: String) -> [UInt8] {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return [] }
    defer { close(fd) }
    var all: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while case let count = read(fd, &chunk, chunk.count), count > 0 { all += chunk[..<count] }
    return all
  }

  static func names(_ folder: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []).sorted()
  }

  /// What the process is called with, for messages.
  static func commandLine(_ pid: pid_t) -> String {
    String(decoding: bytes("/proc/\(pid)/cmdline").map { $0 == 0 ? 0x20 : $0 }, as: UTF8.self)
  }

  func proxyProcess(_ service: String) -> pid_t? {
    let mark = Array("\(home)/services/\(service)/proxy.sock".utf8)
    return Self.allProcesses.first { pid in
      let line = Self.bytes("/proc/\(pid)/cmdline")
      return line.position(of: mark) != nil && line.position(of: Array("sky-proxy".utf8)) != nil
    }
  }

  /// Processes that serve as a replica of this id: the user's own commands.
  func replicaProcesses(_ id: Int) -> [pid_t] {
    let mark = Array("SKYPILOT_SERVE_REPLICA_ID=\(id)\0".utf8)
    return processes.filter {
      Self.bytes("/proc/\($0)/environ").position(of: mark) != nil
        && Self.bytes("/proc/\($0)/cmdline").position(of: Array("server.py".utf8)) != nil
    }
  }

  /// What the commands of the replica see as CUDA_VISIBLE_DEVICES.
  func gpus(of id: Int) -> String {
    let name = Array("CUDA_VISIBLE_DEVICES=".utf8)
    for pid in replicaProcesses(id) {
      let variables = Self.bytes("/proc/\(pid)/environ").split(separator: 0)
      if let it = variables.first(where: { $0.starts(with: name) }) {
        return String(decoding: it.dropFirst(name.count), as: UTF8.self)
      }
    }
    return "none"
  }

  /// The logs of everything, for messages of tests that failed.
  var logs: String {
    var text = "controller said: \(controller.map { $0.standardError + $0.standardOutput } ?? "")\n"
    let walk = FileManager.default.enumerator(atPath: home)
    while let name = walk?.nextObject() as? String {
      guard name.hasSuffix(".log"), !name.contains("/home/") else { continue }
      let lines = (try? String(contentsOfFile: home + "/" + name, encoding: .utf8))?.split(separator: "\n") ?? []
      text += "--- \(name)\n" + lines.suffix(60).joined(separator: "\n") + "\n"
    }
    return text
  }
}

// MARK: - The API

extension ServeHome {
  private var socket: Address { .unix(home + "/controller.sock") }

  func raw(_ method: String, _ path: String, _ body: Data? = nil, deadline: Double = patience) throws -> Response {
    let wire = try Wire(to: socket)
    defer { wire.close() }
    let text = body.map { String(decoding: $0, as: UTF8.self) }
    try wire.send(requestText(method, path, body: text, host: "controller"))
    return try wire.readResponse(deadline: deadline)
  }

  func ask<Value: Decodable>(
    _ method: String, _ path: String, _ body: (any Encodable)? = nil, as type: Value.Type
  ) throws -> Value {
    let response = try raw(method, path, body.map { ApiCodec.encode($0) })
    guard (200..<300).contains(response.status) else { throw TestFailure("\(response.status) \(response.text)") }
    return try ApiCodec.decode(type, from: Data(response.body))
  }

  /// Says why it was refused.
  func refusal(_ method: String, _ path: String, _ body: (any Encodable)? = nil) throws -> (status: Int, text: String) {
    let response = try raw(method, path, body.map { ApiCodec.encode($0) })
    guard response.status >= 400 else { throw TestFailure("not refused: \(response.status) \(response.text)") }
    return (response.status, try ApiCodec.decode(ErrorReply.self, from: Data(response.body)).error)
  }

  @discardableResult
  func up(_ name: String, _ yaml: String) throws -> UpReply {
    try ask("POST", "/v1/services", UpRequest(name: name, task: try task(yaml)), as: UpReply.self)
  }

  @discardableResult
  func update(_ name: String, _ yaml: String, _ mode: UpdateMode = .rolling) throws -> UpdateReply {
    try ask(
      "POST", "/v1/services/\(name)/update", UpdateRequest(task: try task(yaml), mode: mode), as: UpdateReply.self)
  }

  @discardableResult
  func rollback(_ name: String) throws -> UpdateReply {
    try ask("POST", "/v1/services/\(name)/rollback", as: UpdateReply.self)
  }

  @discardableResult
  func down(_ names: String..., purge: Bool = false) throws -> DownReply {
    try ask(
      "POST", "/v1/down", DownRequest(names: names, all: names.isEmpty, purge: purge), as: DownReply.self)
  }

  func task(_ yaml: String) throws -> TaskText {
    try TaskText(TaskSpec(yaml: Array(yaml.utf8), name: "service.yaml"))
  }

  func services() throws -> [ServiceStatusReport] { try ask("GET", "/v1/services", as: StatusReply.self).services }

  func service(_ name: String) throws -> ServiceStatusReport {
    guard let it = try services().first(where: { $0.name == name }) else { throw TestFailure("no service \(name)") }
    return it
  }

  func replicas(_ name: String, _ status: ReplicaStatus? = nil) throws -> [ReplicaStatusReport] {
    try service(name).replicaInfo.filter { status == nil || $0.status == status }
  }

  func address(_ name: String) throws -> Address {
    let endpoint = try service(name).endpoint ?? ""
    guard let address = Address(endpoint.replacing("http://", with: "").replacing("https://", with: "")) else {
      throw TestFailure("no endpoint: \(endpoint)")
    }
    return address
  }

  /// One request to the service.
  func fetch(_ name: String, _ target: String = "/") throws -> Response {
    let wire = try Wire(to: try address(name))
    defer { wire.close() }
    try wire.send(requestText("GET", target, fields: ["Connection: close"]))
    return try wire.readResponse()
  }

  /// How the services are, for messages.
  var picture: String {
    guard let services = try? services() else { return "no answer" }
    return services.map { service in
      "\(service.name) v\(service.version) \(service.status.rawValue) active \(service.activeVersions) target "
        + "\(service.targetNumReplicas) \(service.reason ?? ""): "
        + service.replicaInfo.map {
          "\($0.replicaId):v\($0.version):\($0.status.rawValue)\($0.reason.map { " (\($0))" } ?? "")"
        }.joined(separator: ", ")
    }.joined(separator: "\n")
  }

  /// Waits; throws with everything there is to see when it does not come.
  func await(_ what: String, _ deadline: Double = patience, _ condition: () throws -> Bool) throws {
    if eventually(deadline, condition) { return }
    throw TestFailure("not \(what) within \(deadline) s: \(picture)\n\(logs)")
  }

  /// As many are ready as should be, all of the newest version, and no other is there or on its way.
  /// - Parameter reachable: the load balancer knows, too, which it is told a moment later.
  func awaitSettled(_ name: String, _ count: Int, _ deadline: Double = patience, reachable: Bool = true) throws {
    try self.await("settled at \(count)", deadline) {
      let it = try service(name)
      let live = it.replicaInfo.filter { !$0.status.isTerminal || $0.status == .shuttingDown }
      return live.count == count && live.allSatisfy { $0.status == .ready && $0.version == it.version }
        && it.activeVersions == (count == 0 ? [] : [it.version])
    }
    if count == 0 || !reachable { return }
    try self.await("reachable", deadline) {
      try self.reachable(name) == Set(replicas(name, .ready).map { String($0.replicaId) })
    }
  }

  /// The replicas that the load balancer of a service sends requests to.
  func reachable(_ name: String) throws -> Set<String> {
    let wire = try Wire(to: .unix(home + "/services/\(name)/proxy.sock"))
    defer { wire.close() }
    try wire.send(requestText("GET", "/v1/replicas", host: "admin"))
    let list = try wire.readResponse().json?["replicas"] as? [[String: Any]] ?? []
    return Set(list.filter { $0["state"] as? String == "ready" }.compactMap { $0["id"] as? String })
  }

  /// What a replica has written.
  func log(_ name: String, _ id: Int) throws -> String {
    try raw("GET", "/v1/services/\(name)/logs?target=replica&replica=\(id)").text
  }
}

// MARK: - What is served

extension ServeHome {
  /// A replica that says its version and id. `/slow?0.5` takes half a second, `/stream?5` says a line every 0.1 s.
  private static let server = """
    import http.server, os, sys, time
    port = int(os.environ.get("SKYPILOT_SERVE_REPLICA_PORT", "8080"))
    name = "v%s r%s" % (os.environ.get("VERSION", "1"), os.environ["SKYPILOT_SERVE_REPLICA_ID"])
    time.sleep(float(os.environ.get("START_SECONDS", "0")))
    probed = False
    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      def log_message(self, *arguments): pass
      def do_GET(self):
        global probed
        path, _, query = self.path.partition("?")
        if path == "/health" and os.path.exists(os.environ.get("SICK", "/nonexistent")):
          self.send_error(503)
          return
        if path == "/slow": time.sleep(float(query))
        body = name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if path == "/health" and not probed:
          probed = True
          print("probed %.6f" % time.time(), flush=True)
    class Server(http.server.ThreadingHTTPServer):
      request_queue_size = 256
      daemon_threads = True
    print("serving", name, flush=True)
    Server(("0.0.0.0", port), Handler).serve_forever()
    """

  /// A service file around it. `service` is what stands under `service:`.
  func yaml(
    _ service: String, version: Int = 1, envs: [String: String] = [:], run: String? = nil, resources: String = ""
  ) -> String {
    let lines = service.split(separator: "\n").map { "  " + $0 }.joined(separator: "\n")
    let variables = envs.map { "  \($0.key): '\($0.value)'" }.sorted().joined(separator: "\n")
    return """
      service:
      \(lines)
      resources:
        ports: 8080
      \(resources)
      envs:
        VERSION: '\(version)'
      \(variables)
      run: |
        \(run ?? "exec python3 -S -u \(folder.file("server.py"))")
      """
  }
}
