// HTTP/1.1 on a Unix socket for this machine's own user: what `sky` talks to. Used by ApiServer.
//
//   accept ─▶ peer checked ─▶ head ─▶ body ─▶ handle(request, answer) ─▶ next request ─▶ … ─▶ closed
//                               │       │              │ client gone: the task is cancelled
//                               └───────┴─ too slow: closed; malformed: 400, closed; too large: 413, closed
//
// A connection is a task, and a task that waits holds no thread: a thousand silent clients cost a thousand table
// entries until their time is up.

import CPlatform
import Foundation
import ProxyWire
import Synchronization

package final class HttpServer: Sendable {
  package struct Limits: Sendable {
    /// Bytes; 413 beyond.
    package var bodyMax = 16 << 20
    /// More are answered 503 and closed.
    package var connectionsMax = 512
    /// Seconds for a request to arrive, from its first byte to its last.
    package var requestSeconds = 30.0
    /// Seconds that a connection may be idle before its first request and between two.
    package var idleSeconds = 60.0
    /// Seconds that a client may leave an answer unread; someone reads a log in a pager.
    package var unreadSeconds = 3600.0

    package init() {}
  }

  package typealias Handle = @Sendable (HttpRequest, HttpAnswer) async -> Void

  private let listener: Socket
  package let path: String
  /// The socket's file, not to remove another's later.
  private let file: FileMark?
  private let limits: Limits
  private let handle: Handle
  private let open = Atomic(0)
  private let stopping = Mutex(Stopping())

  private struct Stopping {
    var isStopped = false
    var task: Task<Void, Never>?
  }

  /// Listens: from here on clients may connect, and are served when `run` runs. A socket file that nobody listens on
  /// is replaced; anything else at this path is an error.
  package init(
    socketPath: String, limits: Limits = Limits(), handle: @escaping Handle
  ) throws(HttpError) {
    guard socketPath.utf8.count <= Endpoint.unixPathBytesMax else {
      throw HttpError(
        .connect,
        "the path of the socket \(socketPath) is longer than \(Endpoint.unixPathBytesMax) bytes; set SKY_HOME to a "
          + "folder with a shorter path")
    }
    path = socketPath
    self.limits = limits
    self.handle = handle
    let fd = sky_stream_socket(AF_UNIX)
    guard fd >= 0 else { throw Self.failure("make a socket for", socketPath) }
    listener = Socket(adopting: fd)
    // The file takes its rights from the descriptor, less the umask: it is never there with others.
    fchmod(fd, 0o600)
    let address = SocketAddress(unix: socketPath)
    if address.withPointer({ bind(fd, $0, $1) }) != 0 {
      guard errno == EADDRINUSE else { throw Self.failure("listen on", socketPath) }
      try Self.removeStale(socketPath, address)
      guard address.withPointer({ bind(fd, $0, $1) }) == 0 else { throw Self.failure("listen on", socketPath) }
    }
    guard listen(fd, 512) == 0 else { throw Self.failure("listen on", socketPath) }
    file = FileMark(socketPath)
  }

  /// Nobody can connect any more: what has the socket's name, if anything, is not this server's.
  package var isLost: Bool { file?.isLost ?? true }

  private static func removeStale(_ path: String, _ address: SocketAddress) throws(HttpError) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return }
    guard facts.st_mode & S_IFMT == S_IFSOCK else {
      throw HttpError(.connect, "cannot listen on \(path): it is not a socket; move it away")
    }
    let probe = sky_stream_socket(AF_UNIX)
    guard probe >= 0 else { throw failure("try", path) }
    defer { close(probe) }
    let isRefused = address.withPointer { connect(probe, $0, $1) } != 0 && errno == ECONNREFUSED
    guard isRefused else {
      throw HttpError(.connect, "cannot listen on \(path): another program listens there")
    }
    unlink(path)
  }

  private static func failure(_ verb: String, _ path: String) -> HttpError {
    HttpError(.connect, "cannot \(verb) \(path): \(String(cString: strerror(errno)))")
  }

  /// Serves until `stop`, or until the calling task is cancelled; returns when the last handler has returned.
  package func run() async {
    let serving = Task { await serve() }
    let isStopped = stopping.withLock { stopping in
      stopping.task = serving
      return stopping.isStopped
    }
    if isStopped { serving.cancel() }
    await withTaskCancellationHandler {
      await serving.value
    } onCancel: {
      serving.cancel()
    }
    if let file, !file.isLost { unlink(file.path) }
  }

  /// Takes no more connections and cancels what is being answered.
  package func stop() {
    let task = stopping.withLock { stopping in
      stopping.isStopped = true
      return stopping.task
    }
    task?.cancel()
  }

  // MARK: Connections

  private func serve() async {
    await withDiscardingTaskGroup { group in
      while !Task.isCancelled {
        let fd = sky_accept(listener.fd)
        if fd >= 0 {
          let socket = Socket(adopting: fd)
          let count = open.add(1, ordering: .relaxed).newValue
          group.addTask { [self] in
            await talk(over: socket, isOneTooMany: count > limits.connectionsMax)
            open.subtract(1, ordering: .relaxed)
          }
          continue
        }
        switch errno {
        case EAGAIN:
          if case .cancelled = await Readiness.shared.wait(listener.fd, for: .read) { break }
        case EMFILE, ENFILE, ENOMEM, ENOBUFS:
          // The next connection stays in the queue until there is room again.
          try? await Task.sleep(for: .milliseconds(100))
        default: continue  // that connection is gone already
        }
      }
      group.cancelAll()
    }
  }

  private func talk(over socket: Socket, isOneTooMany: Bool) async {
    let user = sky_peer_user(socket.fd)
    if user != Int(geteuid()), user != 0 {
      return await refuse(socket, 403, "this socket is for the user who runs the controller")
    }
    if isOneTooMany {
      return await refuse(socket, 503, "more than \(limits.connectionsMax) connections; try again later")
    }
    var reader = HttpReader(.request)
    while true {
      let request: HttpRequest?
      do { request = try await receive(&reader, from: socket) } catch {
        switch error.kind {
        case .tooLarge:
          await refuse(socket, error.description.hasPrefix("the head") ? 431 : 413, error.description)
        case .protocol: await refuse(socket, 400, error.description)
        case .connect, .timeout, .closed, .cancelled: break
        }
        return
      }
      guard let request else { return }
      let answer = HttpAnswer(socket, to: request, unreadSeconds: limits.unreadSeconds)
      let stays = await withTaskGroup(of: Bool.self) { group in
        group.addTask { [self] in
          await handle(request, answer)
          return true
        }
        group.addTask {
          await socket.untilHangUp()
          return false
        }
        let stays = await group.next() ?? false
        group.cancelAll()
        return stays
      }
      guard stays, !Task.isCancelled, await answer.finish() else { return }
      reader = reader.following()
    }
  }

  /// nil: the client has nothing more to ask.
  private func receive(_ reader: inout HttpReader, from socket: Socket) async throws(HttpError) -> HttpRequest? {
    var timeout = Timeout(limits.idleSeconds)
    var hasBegun = false
    var request: HttpRequest?
    while true {
      if let event = try reader.next() {
        switch event {
        case .head(let head):
          request = HttpRequest(head.first, head.second, fields: head.fields)
          if head.third == "HTTP/1.0", head.fields.value(of: "connection") == nil {
            request!.fields.append(HttpField("Connection", "close"))
          }
          if let length = request!.field("content-length").flatMap({ Int($0) }), length > limits.bodyMax {
            throw tooLarge
          }
          if request!.field("expect")?.lowercased() == "100-continue" {
            try await socket.send(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8), until: timeout)
          }
        case .body(let piece):
          guard request!.body.count + piece.count <= limits.bodyMax else { throw tooLarge }
          request!.body.append(contentsOf: piece)
        case .end:
          return request
        }
        continue
      }
      if !reader.isIdle, !hasBegun {
        hasBegun = true
        timeout = Timeout(limits.requestSeconds)
      }
      let piece = try await socket.receive(until: timeout)
      if piece.isEmpty {
        if reader.isIdle { return nil }
        _ = try reader.close()
      }
      reader.feed(piece)
    }
  }

  private var tooLarge: HttpError { HttpError(.tooLarge, "the body is longer than \(limits.bodyMax) bytes") }

  private func refuse(_ socket: Socket, _ status: Int, _ reason: String) async {
    let reply = HttpReply(
      status: status, fields: [HttpField("Content-Type", "application/json")],
      body: ApiCodec.encode(ErrorReply(error: reason)))
    guard let head = try? headBytes(of: reply, .whole, keepsOpen: false) else { return }
    try? await socket.send(head + reply.body, until: Timeout(limits.requestSeconds))
  }
}

/// How one request is answered: once with `send`, or with `begin`, pieces and `end`. Used by one task at a time; when
/// nothing is said at all, the client gets a 500.
package struct HttpAnswer: Sendable {
  private let state: State

  fileprivate init(_ socket: Socket, to request: HttpRequest, unreadSeconds: Double) {
    state = State(socket, to: request, unreadSeconds: unreadSeconds)
  }

  /// The whole answer. A client that has left does not get it, and that is no error.
  package func send(_ reply: HttpReply) async { await state.send(reply) }

  /// The head of an answer whose body follows in pieces.
  package func begin(status: Int, fields: [HttpField] = []) async {
    await state.begin(HttpReply(status: status, fields: fields))
  }

  /// Returns when the connection has taken it; throws when the client has left or reads no more.
  package func write(_ bytes: [UInt8]) async throws(HttpError) { try await state.write(bytes) }

  /// The body is complete. Without it the client sees that it is not.
  package func end() async { await state.end() }

  /// Says what was left unsaid; true: the connection may take another request.
  fileprivate func finish() async -> Bool { await state.finish() }

  //   .nothing ──send──▶ .complete ◀──end── .pieces ◀──begin── .nothing
  private enum Progress { case nothing, pieces, complete, broken }

  private actor State {
    private let socket: Socket
    private let keepsOpen: Bool
    private let hasBody: Bool
    private let unreadSeconds: Double
    private var progress = Progress.nothing

    init(_ socket: Socket, to request: HttpRequest, unreadSeconds: Double) {
      self.socket = socket
      let options = (request.field("connection") ?? "").lowercased()
      keepsOpen = !options.contains("close")
      hasBody = request.method != "HEAD"
      self.unreadSeconds = unreadSeconds
    }

    func send(_ reply: HttpReply) async {
      if progress == .broken { return }
      precondition(progress == .nothing, "a request is answered once")
      do {
        let head = try headBytes(of: reply, .whole, keepsOpen: keepsOpen)
        progress = .complete
        try await put(hasBody ? head + reply.body : head)
      } catch { progress = .broken }
    }

    func begin(_ reply: HttpReply) async {
      precondition(progress == .nothing, "a request is answered once")
      do {
        let head = try headBytes(of: reply, .chunked, keepsOpen: keepsOpen)
        progress = .pieces
        try await put(head)
      } catch { progress = .broken }
    }

    func write(_ bytes: [UInt8]) async throws(HttpError) {
      if progress == .broken { throw HttpError(.closed, "the connection was closed") }
      precondition(progress == .pieces, "pieces come between begin and end")
      if bytes.isEmpty || !hasBody { return }
      let size = Array("\(String(bytes.count, radix: 16))\r\n".utf8)
      try await put(size + bytes + [13, 10])
    }

    func end() async {
      guard progress == .pieces else { return }
      progress = .complete
      if hasBody { try? await put(Array("0\r\n\r\n".utf8)) }
    }

    func finish() async -> Bool {
      if progress == .nothing {
        let problem = ErrorReply(error: "the controller has no answer to this request")
        await send(
          HttpReply(
            status: 500, fields: [HttpField("Content-Type", "application/json")], body: ApiCodec.encode(problem)))
      }
      return progress == .complete && keepsOpen
    }

    private func put(_ bytes: [UInt8]) async throws(HttpError) {
      do { try await socket.send(bytes, until: Timeout(unreadSeconds)) } catch {
        progress = .broken
        throw error
      }
    }
  }
}
