// The controller's side of the API: takes a request apart, asks the Controller, writes the answer. Everything that
// decides is in the Controller; here are only routes and words for what was asked wrongly.

import Foundation
import ProxyWire

package struct ApiServer: Sendable {
  let controller: Controller
  let startedAt: Double
  /// What this machine has: `sky check`, `sky show-gpus`.
  let local: @Sendable () async -> LocalReply

  package init(controller: Controller, startedAt: Double, local: @escaping @Sendable () async -> LocalReply) {
    self.controller = controller
    self.startedAt = startedAt
    self.local = local
  }

  package func answer(_ request: HttpRequest, _ answer: HttpAnswer) async {
    do {
      let asked = try Asked(request)
      if asked.method == "GET", let values = asked.match("v1/services/*/logs") {
        return try await streamLogs(values[0], asked, answer)
      }
      let (status, body) = try await reply(asked)
      await answer.send(.json(status, body))
    } catch {
      if error is CancellationError { return }  // Whoever asked has left.
      let (status, text) = Self.refusal(error)
      await answer.send(.json(status, ApiCodec.encode(ErrorReply(error: text))))
    }
  }

  private static func refusal(_ error: any Error) -> (Int, String) {
    switch error {
    case let error as CommandError:
      switch error.kind {
      case .notFound: (404, error.description)
      case .conflict: (409, error.description)
      case .invalid: (400, error.description)
      case .failed: (500, error.description)
      }
    case let error as RouteError: (error.status, error.message)
    default: (500, "\(error)")
    }
  }

  // MARK: Routes

  private struct Route: Sendable {
    let method: String
    /// `*` stands for one part, which the answer gets.
    let path: String
    let answer: @Sendable (ApiServer, Asked, [String]) async throws -> Data

    init(
      _ method: String, _ path: String,
      _ answer: @escaping @Sendable (ApiServer, Asked, [String]) async throws -> any Encodable
    ) {
      self.method = method
      self.path = path
      self.answer = { ApiCodec.encode(try await answer($0, $1, $2)) }
    }
  }

  private static let routes = [
    Route("GET", "v1/health") { it, _, _ in await it.controller.health(startedAt: it.startedAt) },
    Route("GET", "v1/local") { it, _, _ in await it.local() },
    Route("GET", "v1/services") { it, asked, _ in
      // Whoever reads READY may ask the endpoint in the same moment.
      await it.controller.awaitProxies(atMost: 0.2)
      return await it.controller.status(asked.values("name"))
    },
    Route("POST", "v1/services") { it, asked, _ in
      let request = try asked.body(UpRequest.self)
      let reply = try await it.controller.up(request.name, try asked.task(request.task))
      await it.controller.awaitProxies(atMost: 1)
      return reply
    },
    Route("POST", "v1/estimate") { it, asked, _ in
      try await it.controller.estimate(try asked.task(try asked.body(EstimateRequest.self).task))
    },
    Route("POST", "v1/services/*/update") { it, asked, part in
      let request = try asked.body(UpdateRequest.self)
      return try await it.controller.update(part[0], try asked.task(request.task), request.mode)
    },
    Route("POST", "v1/services/*/rollback") { it, _, part in try await it.controller.rollback(part[0]) },
    Route("GET", "v1/services/*/history") { it, _, part in try await it.controller.history(part[0]) },
    Route("POST", "v1/services/*/replicas/*/terminate") { it, asked, part in
      let request = try asked.body(TerminateRequest.self)
      return try await it.controller.terminate(
        part[0], try asked.number(part[1], "the replica's id"), purge: request.purge)
    },
    Route("POST", "v1/down") { it, asked, _ in
      let request = try asked.body(DownRequest.self)
      if request.all == !request.names.isEmpty { throw RouteError(400, "Give either names or \"all\": true.") }
      return try await it.controller.down(request.names, all: request.all, purge: request.purge)
    },
  ]

  private func reply(_ asked: Asked) async throws -> (Int, Data) {
    let there = Self.routes.filter { asked.match($0.path) != nil }
    if there.isEmpty { throw RouteError(404, "There is no /\(asked.path.joined(separator: "/")).") }
    guard let route = there.first(where: { $0.method == asked.method }) else {
      throw RouteError(405, "It takes \(there.map(\.method).joined(separator: " and ")), not \(asked.method).")
    }
    let body = try await route.answer(self, asked, asked.match(route.path) ?? [])
    return (route.method == "POST" && route.path == "v1/services" ? 201 : 200, body)
  }

  private func streamLogs(_ name: String, _ asked: Asked, _ answer: HttpAnswer) async throws {
    let target: LogTarget
    switch asked.values("target").first {
    case "controller": target = .controller
    case "load_balancer": target = .loadBalancer
    case "replica": target = .replica(try asked.number(asked.values("replica").first ?? "", "replica"))
    case let other:
      throw RouteError(400, "target is '\(other ?? "")'; write target=controller, load_balancer or replica.")
    }
    let tail = try asked.values("tail").first.map { try asked.number($0, "tail") }
    let stream = try await controller.logs(name, target)
    await answer.begin(status: 200, fields: [HttpField("Content-Type", "text/plain; charset=utf-8")])
    do {
      try await stream.send(follow: asked.values("follow").first == "1", tail: tail) { try await answer.write($0) }
      await answer.end()
    } catch {
      // Whoever asked has left.
    }
  }
}

/// What was asked, where it is no question for the Controller.
private struct RouteError: Error {
  let status: Int
  let message: String

  init(_ status: Int, _ message: String) {
    self.status = status
    self.message = message
  }
}

/// A request taken apart.
private struct Asked {
  let method: String
  /// Decoded.
  let path: [String]
  private let parameters: [(name: String, value: String)]
  private let data: Data

  init(_ request: HttpRequest) throws(RouteError) {
    method = request.method
    data = request.body
    let parts = request.target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    path = try Asked.all(parts[0].split(separator: "/"))
    var found: [(String, String)] = []
    for pair in parts.count > 1 ? parts[1].split(separator: "&") : [] {
      let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let decoded = try Asked.all(sides)
      found.append((decoded[0], decoded.count > 1 ? decoded[1] : ""))
    }
    parameters = found
  }

  private static func all(_ parts: [Substring]) throws(RouteError) -> [String] {
    var result: [String] = []
    for part in parts {
      guard let text = String(part).removingPercentEncoding else { throw RouteError(400, "'\(part)' is not an URL's part.") }
      result.append(text)
    }
    return result
  }

  /// What stands for the `*` of a pattern; nil: it is another path.
  func match(_ pattern: String) -> [String]? {
    let pattern = pattern.split(separator: "/")
    guard pattern.count == path.count, zip(pattern, path).allSatisfy({ $0 == "*" || $0 == $1 }) else { return nil }
    return zip(pattern, path).filter { $0.0 == "*" }.map(\.1)
  }

  func values(_ name: String) -> [String] { parameters.filter { $0.name == name }.map(\.value) }

  func number(_ text: String, _ what: String) throws(RouteError) -> Int {
    guard let number = Int(text), number >= 0 else { throw RouteError(400, "\(what) is '\(text)'; write a number.") }
    return number
  }

  func body<Value: Decodable>(_ type: Value.Type) throws(RouteError) -> Value {
    do { return try ApiCodec.decode(type, from: data) } catch {
      throw RouteError(400, "The body is no \(type) as JSON: \(error)")
    }
  }

  func task(_ text: TaskText) throws(RouteError) -> TaskSpec {
    do { return try text.task() } catch { throw RouteError(400, "The task cannot be read: \(error)") }
  }
}

extension HttpReply {
  fileprivate static func json(_ status: Int, _ body: Data) -> HttpReply {
    HttpReply(
      status: status, fields: [HttpField("Content-Type", "application/json")], body: body)
  }
}
