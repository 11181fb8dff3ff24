// HttpServer, seen from raw sockets.

import Foundation
import ProxyWire
import TestSupport
import Testing

@testable import ControlCore

@Suite struct PlatformServerTests {
  /// A running server that is stopped at the end of `body`.
  private func serving(
    limits: HttpServer.Limits = HttpServer.Limits(), _ handle: @escaping HttpServer.Handle,
    _ body: (String) async throws -> Void
  ) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("s")
    let server = try HttpServer(socketPath: path, limits: limits, handle: handle)
    let running = Task { await server.run() }
    let result: Result<Void, any Error>
    do { result = .success(try await body(path)) } catch { result = .failure(error) }
    server.stop()
    await running.value
    #expect(!Places.exists(path), "the socket's file is left behind")
    try result.get()
  }

  /// Tells what was asked.
  private static let echo: HttpServer.Handle = { request, answer in
    await answer.send(
      HttpReply(
        status: 200, fields: [HttpField("X-Method", request.method)],
        body: Data("\(request.target) ".utf8) + request.body))
  }

  private func wire(_ path: String, _ body: @escaping @Sendable (Wire) throws -> Void) async throws {
    try await blocking {
      let wire = try Wire(to: .unix(path))
      try body(wire)
    }
  }

  private static func reply(_ method: String, _ body: String, closes: Bool = false) -> String {
    "HTTP/1.1 200 OK\r\nX-Method: \(method)\r\nContent-Length: \(body.utf8.count)\r\n\(closes ? "Connection: close\r\n" : "")\r\n\(body)"
  }

  @Test func requestsOnOneConnectionAreAnsweredInOrder() async throws {
    try await serving(Self.echo) { path in
      try await wire(path) { wire in
        try wire.send(
          "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        let all = String(decoding: try wire.readToEnd(), as: UTF8.self)
        #expect(all == Self.reply("GET", "/1 ") + Self.reply("POST", "/2 hi") + Self.reply("GET", "/3 ", closes: true))
      }
      // In pieces of one byte, chunked, and after a pause between two requests.
      try await wire(path) { wire in
        for byte in "PUT /4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".utf8 {
          try wire.send([byte])
        }
        let expected = Self.reply("PUT", "/4 abc")
        #expect(try wire.read(count: expected.utf8.count).map { String(decoding: $0, as: UTF8.self) } == expected)
        try wire.send("HEAD /5 HTTP/1.0\r\n\r\n")
        let head = String(decoding: try wire.readToEnd(), as: UTF8.self)
        #expect(head == "HTTP/1.1 200 OK\r\nX-Method: HEAD\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
      }
    }
  }

  @Test func aClientThatAsksFirstIsToldToGoOn() async throws {
    try await serving(Self.echo) { path in
      try await wire(path) { wire in
        try wire.send("POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        #expect(try wire.text(until: "\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n")
        try wire.send("hi")
        #expect(try wire.text(until: "hi").hasPrefix("HTTP/1.1 200 OK"))
      }
    }
  }

  @Test func aClientThatOnlySendsNoMoreGetsItsAnswer() async throws {
    try await serving({ request, answer in
      try? await Task.sleep(for: .milliseconds(20))
      await Self.echo(request, answer)
    }) { path in
      try await wire(path) { wire in
        try wire.send("GET /x HTTP/1.1\r\n\r\n")
        wire.halfClose()
        #expect(String(decoding: try wire.readToEnd(), as: UTF8.self) == Self.reply("GET", "/x "))
      }
    }
  }

  @Test func badRequestsAreRefusedInWords() async throws {
    var limits = HttpServer.Limits()
    limits.bodyMax = 10
    let called = Shared(0)
    try await serving(
      limits: limits,
      { request, answer in
        called.with { $0 += 1 }
        await Self.echo(request, answer)
      }
    ) { path in
      let cases = [
        ("GET /\r\n\r\n", 400, "\\\"GET /\\\" is no HTTP/1.1 request line"),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "Content-Length is \\\"x\\\", not a number"),
        ("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n", 413, "the body is longer than 10 bytes"),
        (
          "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nabcdefghijk\r\n0\r\n\r\n", 413,
          "the body is longer than 10 bytes"
        ),
        ("GET / HTTP/1.1\r\nA: \(String(repeating: "x", count: 70_000))", 431, "the head is longer than 65536 bytes"),
      ]
      for (text, status, words) in cases {
        try await wire(path) { wire in
          try wire.send(text)
          let all = String(decoding: try wire.readToEnd(), as: UTF8.self)
          #expect(all.hasPrefix("HTTP/1.1 \(status) "), "\(all)")
          #expect(all.hasSuffix("\r\n\r\n{\"error\":\"\(words)\"}"), "\(all)")
        }
      }
    }
    #expect(called.value == 0)
  }

  @Test func aHandlerThatSaysNothingGivesA500() async throws {
    try await serving({ _, _ in }) { path in
      let reply = try await HttpClient.send(HttpRequest("GET", "/"), to: .unix(path: path), timeout: patience)
      #expect(reply.status == 500)
      #expect(
        try ApiCodec.decode(ErrorReply.self, from: reply.body).error == "the controller has no answer to this request")
    }
  }

  @Test func piecesArriveAsTheyAreWritten() async throws {
    let next = Shared(0)
    try await serving({ request, answer in
      await answer.begin(status: 200, fields: [HttpField("Content-Type", "text/plain")])
      for number in 1...3 {
        while next.value < number { try? await Task.sleep(for: .milliseconds(1)) }
        do { try await answer.write(Array("piece \(number)".utf8)) } catch { return }
      }
      if request.target == "/whole" { await answer.end() }
    }) { path in
      for (target, isWhole) in [("/whole", true), ("/broken", false)] {
        next.with { $0 = 0 }
        let (reply, body) = try await HttpClient.stream(
          HttpRequest("GET", target), to: .unix(path: path), connectTimeout: patience, silence: nil)
        #expect(reply.field("transfer-encoding") == "chunked")
        var pieces = body.makeAsyncIterator()
        for number in 1...3 {
          next.with { $0 = number }
          #expect(try await pieces.next() == Array("piece \(number)".utf8))
        }
        if isWhole {
          #expect(try await pieces.next() == nil)
        } else {
          await #expect(throws: HttpError.self) { _ = try await pieces.next() }
        }
      }
    }
  }

  @Test func aClientThatLeavesCancelsItsHandler() async throws {
    let begun = Event()
    let cancelled = Event()
    let refused = Event()
    try await serving({ _, answer in
      await answer.begin(status: 200)
      begun.happen()
      try? await Task.sleep(for: .seconds(1000))
      if Task.isCancelled { cancelled.happen() }
      do { while true { try await answer.write([UInt8](repeating: 0, count: 1 << 20)) } } catch { refused.happen() }
    }) { path in
      try await wire(path) { wire in
        try wire.send("GET / HTTP/1.1\r\n\r\n")
        _ = try wire.text(until: "\r\n\r\n")
        #expect(begun.wait())
        #expect(!cancelled.hasHappened)
        wire.close()
        #expect(cancelled.wait())
        #expect(refused.wait())
      }
    }
  }

  @Test func silentAndSlowClientsAreDropped() async throws {
    var limits = HttpServer.Limits()
    limits.idleSeconds = 1
    limits.requestSeconds = 1
    limits.unreadSeconds = 0.2
    let gaveUp = Event()
    try await serving(
      limits: limits,
      { _, answer in
        await answer.begin(status: 200)
        do { while true { try await answer.write([UInt8](repeating: 0, count: 1 << 20)) } } catch { gaveUp.happen() }
      }
    ) { path in
      try await wire(path) { #expect($0.awaitEnd() == .closed) }
      try await wire(path) { wire in
        // Bytes now and then do not make a request live longer.
        try? wire.send("GET / HTTP/1.1\r\n")
        #expect(eventually { (try? wire.send("A: b\r\n")) == nil })
      }
      try await wire(path) { wire in
        try wire.send("GET / HTTP/1.1\r\n\r\n")
        #expect(gaveUp.wait())
      }
    }
  }

  @Test func tooManyConnectionsAreToldSo() async throws {
    var limits = HttpServer.Limits()
    limits.connectionsMax = 2
    try await serving(limits: limits, Self.echo) { path in
      try await blocking {
        let held = try (0..<2).map { _ in try Wire(to: .unix(path)) }
        for wire in held {
          try wire.send("GET /x HTTP/1.1\r\n\r\n")
          _ = try wire.text(until: "/x ")
        }
        let extra = try Wire(to: .unix(path))
        #expect(String(decoding: try extra.readToEnd(), as: UTF8.self).contains("503 Service Unavailable"))
        held[0].close()
        #expect(
          eventually {
            let wire = try Wire(to: .unix(path))
            try wire.send("GET /y HTTP/1.1\r\n\r\n")
            return try wire.text(until: "\r\n").contains("200")
          })
      }
    }
  }

  @Test func onlyAnAbandonedSocketFileIsReplaced() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("s")
    // Left behind by a program that was killed.
    do {
      let fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
      #expect(Address.unix(path).bound(fd))
      close(fd)
    }
    #expect(Places.exists(path))
    let server = try HttpServer(socketPath: path, handle: Self.echo)
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    // One that is listened on stays.
    let second = #expect(throws: HttpError.self) { _ = try HttpServer(socketPath: path, handle: Self.echo) }
    #expect(second?.description == "cannot listen on \(path): another program listens there")
    // Another's socket is not removed by the one that had the name before.
    unlink(path)
    let successor = try HttpServer(socketPath: path, handle: Self.echo)
    server.stop()
    await server.run()
    #expect(Places.exists(path))
    successor.stop()
    await successor.run()
    #expect(!Places.exists(path))
    // Something else at that place stays.
    _ = try folder.write("precious", to: "s")
    let third = #expect(throws: HttpError.self) { _ = try HttpServer(socketPath: path, handle: Self.echo) }
    #expect(third?.description == "cannot listen on \(path): it is not a socket; move it away")
    #expect(try Places.text(path) == "precious")
    let long = "/tmp/" + String(repeating: "x", count: 120)
    let fourth = #expect(throws: HttpError.self) { _ = try HttpServer(socketPath: long, handle: Self.echo) }
    #expect(fourth?.description.contains("set SKY_HOME") == true)
  }

  /// A thousand idle clients and one that asks.
  @Test func idleClientsCostNothing() async throws {
    var limits = HttpServer.Limits()
    limits.connectionsMax = 2000
    try await serving(limits: limits, Self.echo) { path in
      let idle = try await blocking { try (0..<1000).map { _ in try Wire(to: .unix(path)) } }
      let reply = try await HttpClient.send(HttpRequest("GET", "/x"), to: .unix(path: path), timeout: patience)
      #expect(reply.status == 200)
      let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count
      #expect(threads < 500)
      for wire in idle { wire.close() }
    }
  }
}

extension Address {
  fileprivate func bound(_ fd: Int32) -> Bool {
    guard case .unix(let path) = self else { return false }
    return SocketAddress(unix: path).withPointer { bind(fd, $0, $1) } == 0
  }
}
