// The controller as `sky` sees it: one call per route of ApiMessages. Started here when none answers.
//
//   call ─▶ does one answer? ─ yes ───────────────────────────────────────────────────────────▶ exchange ─▶ reply
//              └─ nobody there ─▶ lock ─▶ still nobody ─▶ start sky-controller ─▶ until it answers ──┘
//
// Errors carry the controller's own words.

import Foundation
import ProxyWire

package struct ApiError: Error, Hashable, Sendable, CustomStringConvertible {
  package enum Kind: Hashable, Sendable {
    /// The controller's answer, with its status.
    case refused(Int)
    /// Nobody listens on its socket.
    case notRunning
    /// It did not come up, or what came up is of another version.
    case cannotStart
    /// It was reached, and the exchange broke off.
    case connection
    case cancelled
  }

  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

package struct ApiClient: Sendable {
  /// How sky-controller ends when another one holds the state: perhaps one that is just ending.
  package static let exitCodeBusy: Int32 = 75  // EX_TEMPFAIL
  /// Seconds for a controller to come up: it reads its journal first.
  package static let startSeconds = 60.0

  package let paths: Paths
  /// A call that finds no controller starts one.
  package let startsController: Bool
  private let environment: [String: String]
  /// nil: the one beside the running program, or in PATH.
  private let program: String?
  /// Hears of it when an answer is long in coming.
  private let slow: SlowAnswer?

  package init(
    paths: Paths, startsController: Bool, environment: [String: String] = ProcessInfo.processInfo.environment,
    program: String? = nil, slow: SlowAnswer? = nil
  ) {
    self.paths = paths
    self.startsController = startsController
    self.environment = environment
    self.program = program
    self.slow = slow
  }

  // MARK: Routes

  package func health() async throws(ApiError) -> HealthReply { try await get("/v1/health") }

  package func local() async throws(ApiError) -> LocalReply { try await get("/v1/local") }

  package func estimate(_ request: EstimateRequest) async throws(ApiError) -> EstimateReply {
    try await post("/v1/estimate", request)
  }

  package func up(_ request: UpRequest) async throws(ApiError) -> UpReply {
    try await post("/v1/services", request, seconds: Self.copySeconds)
  }

  /// Names may be globs; none: all services.
  package func status(_ names: [String] = []) async throws(ApiError) -> StatusReply {
    let query = names.map { "name=\(Self.escaped($0))" }.joined(separator: "&")
    return try await get("/v1/services" + (query.isEmpty ? "" : "?" + query))
  }

  package func update(_ name: String, _ request: UpdateRequest) async throws(ApiError) -> UpdateReply {
    try await post("/v1/services/\(Self.escaped(name))/update", request, seconds: Self.copySeconds)
  }

  package func rollback(_ name: String) async throws(ApiError) -> UpdateReply {
    try await call(HttpRequest("POST", "/v1/services/\(Self.escaped(name))/rollback"), Self.callSeconds)
  }

  package func history(_ name: String) async throws(ApiError) -> HistoryReply {
    try await get("/v1/services/\(Self.escaped(name))/history")
  }

  package func down(_ request: DownRequest) async throws(ApiError) -> DownReply {
    try await post("/v1/down", request)
  }

  package func terminate(
    _ name: String, replica id: Int, _ request: TerminateRequest
  ) async throws(ApiError) -> MessageReply {
    try await post("/v1/services/\(Self.escaped(name))/replicas/\(id)/terminate", request)
  }

  /// The log's bytes as they come; ends when the log does. Cancelling the task that reads it closes the connection.
  package func logs(
    _ name: String, _ target: LogTarget, follow: Bool, tail: Int? = nil
  ) async throws(ApiError) -> AsyncThrowingStream<[UInt8], any Error> {
    var query: String
    switch target {
    case .controller: query = "target=controller"
    case .loadBalancer: query = "target=load_balancer"
    case .replica(let id): query = "target=replica&replica=\(id)"
    }
    if follow { query += "&follow=1" }
    if let tail { query += "&tail=\(tail)" }
    let request = HttpRequest("GET", "/v1/services/\(Self.escaped(name))/logs?\(query)")
    let (reply, body) = try await reaching(isShort: true) {
      () async throws(HttpError) -> (HttpReply, AsyncThrowingStream<[UInt8], any Error>) in
      let (reply, body) = try await HttpClient.stream(
        request, to: endpoint, connectTimeout: Self.callSeconds, silence: nil)
      return (reply, body)
    }
    if reply.status == 200 { return body }
    var refusal = reply
    do {
      for try await piece in body where refusal.body.count < 1 << 16 { refusal.body.append(contentsOf: piece) }
    } catch {
      throw ApiError(.connection, "the connection to the controller broke: \(error)")
    }
    throw Self.refusal(refusal)
  }

  // MARK: Calls

  /// Seconds for an answer that takes no copying: more means that something hangs.
  private static let callSeconds = 60.0
  /// Seconds for an answer that comes when a workdir has been copied.
  private static let copySeconds = 3600.0
  private static let replyBytesMax = 256 << 20

  private var endpoint: Endpoint { .unix(path: paths.controllerSocket) }

  private func get<Reply: Decodable>(_ target: String) async throws(ApiError) -> Reply {
    try await call(HttpRequest("GET", target), Self.callSeconds)
  }

  private func post<Reply: Decodable>(
    _ target: String, _ message: some Encodable, seconds: Double = Self.callSeconds
  ) async throws(ApiError) -> Reply {
    let json = [HttpField("Content-Type", "application/json")]
    return try await call(HttpRequest("POST", target, fields: json, body: ApiCodec.encode(message)), seconds)
  }

  private func call<Reply: Decodable>(_ request: HttpRequest, _ seconds: Double) async throws(ApiError) -> Reply {
    let reply = try await reaching(isShort: seconds <= Self.callSeconds) { () async throws(HttpError) -> HttpReply in
      try await HttpClient.send(request, to: endpoint, timeout: seconds, bodyMax: Self.replyBytesMax)
    }
    guard (200..<300).contains(reply.status) else { throw Self.refusal(reply) }
    do { return try ApiCodec.decode(Reply.self, from: reply.body) } catch {
      throw ApiError(
        .connection, "the controller's answer to \(request.method) \(request.target) makes no sense: \(error)")
    }
  }

  /// Runs an exchange with a controller of this version, which is started if need be. `isShort`: an answer that takes
  /// seconds is worth a word.
  private func reaching<Value>(
    isShort: Bool, _ exchange: () async throws(HttpError) -> Value
  ) async throws(ApiError) -> Value {
    if startsController {
      try await start()
    } else if try await !answersSoon() {
      throw ApiError(.notRunning, "the controller is not running")
    }
    do throws(HttpError) {
      guard isShort, let slow else { return try await exchange() }
      return try await slow.watch(paths.controllerSocket, exchange)
    } catch { throw Self.failure(error) }
  }

  private static func failure(_ error: HttpError) -> ApiError {
    switch error.kind {
    case .connect: ApiError(.notRunning, "the controller is not running: \(error)")
    case .cancelled: ApiError(.cancelled, "cancelled")
    case .timeout: ApiError(.connection, "the controller does not answer: \(error)")
    case .protocol, .closed, .tooLarge: ApiError(.connection, "the connection to the controller broke: \(error)")
    }
  }

  private static func refusal(_ reply: HttpReply) -> ApiError {
    let words = try? ApiCodec.decode(ErrorReply.self, from: reply.body).error
    return ApiError(.refused(reply.status), words ?? "the controller answered with status \(reply.status)")
  }

  /// As one part of a target.
  static func escaped(_ text: String) -> String {
    var out = ""
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
        UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
        UInt8(ascii: "~"):
        out.unicodeScalars.append(Unicode.Scalar(byte))
      default: out += (byte < 16 ? "%0" : "%") + String(byte, radix: 16, uppercase: true)
      }
    }
    return out
  }

  // MARK: Starting

  /// Returns when a controller of this version answers; does nothing more when one does already.
  package func start() async throws(ApiError) {
    guard let slow else { return try await startOne() }
    try await slow.watch(paths.controllerSocket) { () async throws(ApiError) in try await startOne() }
  }

  private func startOne() async throws(ApiError) {
    if try await answers() { return }
    do throws(PrivateFile.Failure) { try paths.makeHome() } catch {
      throw ApiError(.cannotStart, error.description)
    }
    let end = ContinuousClock.now + .seconds(Self.startSeconds)
    // Two commands at once start one controller; the kernel opens the lock when its holder is gone.
    let file: StoreFile
    do { file = try StoreFile(paths.home + "/controller.start", create: true) } catch {
      throw ApiError(.cannotStart, "\(error.description). \(Paths.homeCure)")
    }
    while !file.lock() {
      if try await answers() { return }
      try await pause(until: end, "another command has been starting it")
    }
    while try await !answers() {
      guard let program = program ?? ChildProcess.findSibling("sky-controller", environment: environment) else {
        throw ApiError(
          .cannotStart, "the program sky-controller is neither beside sky nor in a folder of PATH. Install it there.")
      }
      let logged = Self.size(of: paths.controllerLog)
      let child: ChildProcess
      do {
        child = try ChildProcess.spawn(
          program, [], environment: environment.merging(["SKY_HOME": paths.home]) { $1 }, folder: "/",
          output: .file(paths.controllerLog), detached: true)
      } catch { throw ApiError(.cannotStart, error.description) }
      while try await !answers() {
        if let exit = child.exit {
          if exit == .code(Self.exitCodeBusy) { break }  // and try again
          throw ApiError(
            .cannotStart,
            "the controller ended with \(exit). It said:\n\(Self.tail(of: paths.controllerLog, from: logged))")
        }
        try await pause(until: end, "it said:\n\(Self.tail(of: paths.controllerLog, from: logged))")
      }
      try await pause(until: end, "another one holds its state, and does not answer")
    }
  }

  private func answersSoon() async throws(ApiError) -> Bool {
    guard let slow else { return try await answers() }
    return try await slow.watch(paths.controllerSocket) { () async throws(ApiError) in try await answers() }
  }

  /// Throws when what answers cannot be talked to.
  private func answers() async throws(ApiError) -> Bool {
    let reply: HttpReply
    do {
      reply = try await HttpClient.send(HttpRequest("GET", "/v1/health"), to: endpoint, timeout: Self.callSeconds)
    } catch {
      switch error.kind {
      case .connect where access(paths.controllerSocket, W_OK) != 0 && errno == EACCES:
        throw ApiError(
          .cannotStart,
          "\(paths.controllerSocket) belongs to another user: permission denied. Set SKY_HOME to a folder of yours.")
      case .connect, .closed: return false  // none yet, or one that is just ending
      case .timeout, .protocol, .tooLarge, .cancelled: throw Self.failure(error)
      }
    }
    guard reply.status == 200 else { throw Self.refusal(reply) }
    guard let health = try? ApiCodec.decode(HealthReply.self, from: reply.body) else {
      throw ApiError(.cannotStart, "what listens on \(paths.controllerSocket) is not a controller")
    }
    guard health.version == ControlVersion.text else {
      throw ApiError(
        .cannotStart,
        "the controller that runs is version \(health.version), and this sky is version \(ControlVersion.text). Stop "
          + "it with `kill \(health.pid)`: services go on, and the next command starts the new one.")
    }
    return true
  }

  private func pause(until end: ContinuousClock.Instant, _ why: String) async throws(ApiError) {
    if ContinuousClock.now >= end {
      throw ApiError(.cannotStart, "the controller did not come up within \(Int(Self.startSeconds)) s: \(why)")
    }
    do { try await Task.sleep(for: .milliseconds(10)) } catch { throw ApiError(.cancelled, "cancelled") }
  }

  private static func size(of path: String) -> Int {
    var facts = stat()
    return stat(path, &facts) == 0 ? Int(facts.st_size) : 0
  }

  /// The last lines of what was logged from there on.
  private static func tail(of path: String, from start: Int) -> String {
    let bytes = (try? StoreFile.read(path)) ?? []
    let new = bytes.count > start ? bytes[start...] : bytes[...]
    let lines = String(decoding: new.suffix(8192), as: UTF8.self).split(separator: "\n").suffix(20)
    return lines.isEmpty ? "(nothing)" : lines.joined(separator: "\n")
  }
}
