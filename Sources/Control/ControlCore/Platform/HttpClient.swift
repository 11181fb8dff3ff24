// HTTP/1.1 to replicas, proxies and the controller: one exchange, one connection. Called by the Prober, ProxyHandle and
// ApiClient.
//
// Nothing is followed (a redirect is an answer like any other), kept or retried here. A task that waits holds no
// thread; cancelling it closes the connection.

import Foundation
import ProxyWire

package enum HttpClient {
  /// - Parameters:
  ///   - timeout: seconds for all of it: name, connection, request, reply.
  ///   - bodyMax: bytes; a longer body is the error `.tooLarge`. nil: the body is of no interest, and the connection is
  ///     closed as soon as the head is there.
  package static func send(
    _ request: HttpRequest, to endpoint: Endpoint, timeout seconds: Double, bodyMax: Int? = 1 << 20
  ) async throws(HttpError) -> HttpReply {
    let timeout = Timeout(seconds)
    let exchange = try await Exchange(request, to: endpoint, until: timeout)
    var reply = try await exchange.head(until: timeout)
    guard let bodyMax else { return reply }
    if let length = reply.field("content-length").flatMap({ Int($0) }), length > bodyMax, request.method != "HEAD" {
      throw tooLarge(bodyMax)
    }
    while let piece = try await exchange.piece(until: timeout) {
      guard reply.body.count + piece.count <= bodyMax else { throw tooLarge(bodyMax) }
      reply.body.append(contentsOf: piece)
    }
    return reply
  }

  /// The head (its body is empty), then the body as it comes, without its chunks. Nothing is read ahead of who
  /// consumes it: a slow one slows down the sender. The connection is closed with the last reference to `body`.
  /// - Parameters:
  ///   - connectTimeout: seconds until the head is there.
  ///   - silence: seconds the body may pause before that is an error; nil: for ever.
  package static func stream(
    _ request: HttpRequest, to endpoint: Endpoint, connectTimeout: Double, silence: Double?
  ) async throws(HttpError) -> (reply: HttpReply, body: AsyncThrowingStream<[UInt8], any Error>) {
    let timeout = Timeout(connectTimeout)
    let exchange = try await Exchange(request, to: endpoint, until: timeout)
    let reply = try await exchange.head(until: timeout)
    let body = AsyncThrowingStream<[UInt8], any Error> {
      try await exchange.piece(until: silence.map { Timeout($0) } ?? .never)
    }
    return (reply, body)
  }

  private static func tooLarge(_ most: Int) -> HttpError {
    HttpError(.tooLarge, "the body is longer than \(most) bytes")
  }
}

/// A request that has been sent and its answer being read. Used by one task at a time.
private final class Exchange: @unchecked Sendable {
  private let socket: Socket
  private var reader: HttpReader
  private var sendFailure: HttpError?
  private var hasEnded = false

  init(_ request: HttpRequest, to endpoint: Endpoint, until timeout: Timeout) async throws(HttpError) {
    let bytes = try request.bytes(host: endpoint.hostField, keepsOpen: false)
    socket = try await Socket.connect(to: endpoint, until: timeout)
    reader = HttpReader(.reply(method: request.method))
    do { try await socket.send(bytes, until: timeout) } catch {
      guard error.kind == .closed else { throw error }
      // Whoever refuses a request may answer before it has read all of it.
      sendFailure = error
    }
  }

  func head(until timeout: Timeout) async throws(HttpError) -> HttpReply {
    guard case .head(let head) = try await next(until: timeout), let status = Int(head.second) else {
      preconditionFailure("a message begins with its head")
    }
    return HttpReply(status: status, fields: head.fields)
  }

  /// nil: the body has ended.
  func piece(until timeout: Timeout) async throws(HttpError) -> [UInt8]? {
    switch try await next(until: timeout) {
    case .body(let piece): return piece
    case .end: return nil
    case .head: preconditionFailure("a message has one head")
    }
  }

  private func next(until timeout: Timeout) async throws(HttpError) -> HttpReader.Event {
    if hasEnded { return .end }
    while true {
      if let event = try reader.next() {
        hasEnded = event == .end
        return event
      }
      let piece: [UInt8]
      do { piece = try await socket.receive(until: timeout) } catch { throw sendFailure ?? error }
      if !piece.isEmpty {
        reader.feed(piece)
      } else if let event = try reader.close() {
        hasEnded = event == .end
        return event
      }
    }
  }
}

extension Endpoint {
  /// As the Host field wants it (RFC 9110 7.2).
  fileprivate var hostField: String {
    switch self {
    case .ipv4, .ipv6, .name: description
    case .unix: "localhost"
    }
  }
}
