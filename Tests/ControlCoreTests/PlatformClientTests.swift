// HttpClient against scripted servers on loopback and Unix sockets.

import Foundation
import ProxyWire
import TestSupport
import Testing

@testable import ControlCore

@Suite struct PlatformClientTests {
  private func send(
    _ request: HttpRequest = HttpRequest("GET", "/"), timeout: Double = patience, bodyMax: Int? = 1 << 20,
    to script: @escaping Origin.Script
  ) async throws -> Result<HttpReply, HttpError> {
    let origin = try Origin(script: script)
    defer { origin.stop() }
    do throws(HttpError) {
      return .success(try await HttpClient.send(request, to: origin.endpoint, timeout: timeout, bodyMax: bodyMax))
    } catch { return .failure(error) }
  }

  @Test func aRequestArrivesAsItWasMeantAndItsAnswerComesBack() async throws {
    let seen = Shared<[UInt8]?>(nil)
    let request = HttpRequest(
      "POST", "/a b?ü", fields: [HttpField("X-One", "1"), HttpField("Content-Length", "99")], body: Data("body".utf8))
    let reply = try await send(request) { visit in
      let bytes = try visit.wire.read(until: "body")
      seen.with { $0 = bytes }
      try visit.send("HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-Two: 2\r\n\r\nhello")
    }.get()
    let text = String(decoding: try #require(seen.value), as: UTF8.self)
    let host = try #require(text.split(separator: "\r\n").first { $0.hasPrefix("Host: ") })
    #expect(
      text == "POST /a%20b?%C3%BC HTTP/1.1\r\n\(host)\r\nX-One: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    )
    #expect(host.hasPrefix("Host: 127.0.0.1:"))
    #expect(reply.status == 201)
    #expect(reply.field("x-TWO") == "2")
    #expect(reply.body == Data("hello".utf8))
  }

  @Test func bodiesOfEveryFramingArriveWhateverThePieces() async throws {
    let cases = [
      "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\n\r\nabcdef",
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nabcdef",
    ]
    for text in cases {
      for step in [1, 7, text.utf8.count] {
        let reply = try await send { visit in
          _ = try visit.head()
          let bytes = Array(text.utf8)
          for start in stride(from: 0, to: bytes.count, by: step) {
            try visit.wire.send(Array(bytes[start..<min(start + step, bytes.count)]))
          }
        }.get()
        #expect(reply.status == 200)
        #expect(reply.body == Data("abcdef".utf8), "\(text.debugDescription) in pieces of \(step)")
      }
    }
  }

  private struct Failing: Sendable {
    var said: String
    var script: Origin.Script
    var timeout = patience
    var kind: HttpError.Kind
    var words: String
  }

  @Test func whatGoesWrongIsSaidInWords() async throws {
    let cases = [
      Failing(
        said: "cut", script: { try $0.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") }, kind: .closed,
        words: "the connection was closed amid the body"),
      Failing(
        said: "nothing",
        script: { visit in
          // A FIN, and no reset for what may still be on its way.
          visit.wire.halfClose()
          while try visit.wire.receive() {}
        }, kind: .closed,
        words: "the connection was closed without an answer"),
      Failing(
        said: "reset",
        script: { $0.wire.reset() }, kind: .closed, words: "connection reset by peer"),
      Failing(
        said: "garbage", script: { try $0.send("220 smtp.example ESMTP\r\n") }, kind: .protocol,
        words: "the answer is not HTTP/1.1: \"220 smtp.example ESMTP\\r\\n\""),
      Failing(
        said: "silent", script: { while try $0.wire.receive() {} }, timeout: 0.1, kind: .timeout,
        words: "timed out after 0.1 s"),
      Failing(
        said: "slow",
        script: { visit in
          // A byte now and then does not make it live longer.
          try visit.send("HTTP/1.1 200 OK\r\nA: ")
          while true {
            try visit.send("x")
            usleep(10_000)
          }
        }, timeout: 0.2, kind: .timeout, words: "timed out after 0.2 s"),
      Failing(
        said: "dripping",
        script: { visit in
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n")
          while true {
            try visit.send("x")
            usleep(10_000)
          }
        }, timeout: 0.2, kind: .timeout, words: "timed out after 0.2 s"),
      Failing(
        said: "announced too large", script: { try $0.send("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n") },
        kind: .tooLarge, words: "the body is longer than 100 bytes"),
      Failing(
        said: "too large", script: { try $0.send("HTTP/1.1 200 OK\r\n\r\n" + String(repeating: "x", count: 101)) },
        kind: .tooLarge, words: "the body is longer than 100 bytes"),
    ]
    for one in cases {
      let result = try await send(
        timeout: one.timeout, bodyMax: 100,
        to: { visit in
          _ = try visit.head()
          try one.script(visit)
        })
      guard case .failure(let error) = result else {
        Issue.record("\(one.said): \(result)")
        continue
      }
      #expect(error == HttpError(one.kind, one.words), "\(one.said)")
    }
  }

  @Test func aBodyThatNobodyWantsIsNotWaitedFor() async throws {
    let gone = Event()
    let reply = try await send(bodyMax: nil) { visit in
      try visit.send("HTTP/1.1 503 No\r\nContent-Length: 99999\r\n\r\nsome of it")
      if visit.wire.awaitEnd() != nil { gone.happen() }
    }.get()
    #expect(reply.status == 503)
    #expect(reply.body.isEmpty)
    #expect(try await blocking { gone.wait() }, "the connection stays open")
  }

  @Test func anEarlyRefusalIsReadThoughTheRequestWasNotTaken() async throws {
    let request = HttpRequest("POST", "/", body: Data(repeating: 0, count: 8 << 20))
    let folder = try TemporaryFolder()
    let listener = try Listener(.unix(folder.file("s")))
    defer { listener.stop() }
    thread("refuses") {
      guard let wire = listener.accept() else { return }
      _ = try? wire.read(until: "\r\n\r\n")
      try? wire.send("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
      wire.close()
    }
    let reply = try await HttpClient.send(request, to: .unix(path: folder.file("s")), timeout: patience)
    #expect(reply.status == 413)
  }

  @Test func nobodyThereIsSaidAtOnce() async throws {
    let listener = try Listener()
    let endpoint = try Endpoint.parse(listener.address.description)
    listener.stop()
    func failure(_ endpoint: Endpoint, _ seconds: Double = patience) async -> HttpError? {
      do throws(HttpError) {
        _ = try await HttpClient.send(HttpRequest("GET", "/"), to: endpoint, timeout: seconds)
        return nil
      } catch { return error }
    }
    #expect(await failure(endpoint) == HttpError(.connect, "connection refused"))
    #expect(await failure(.unix(path: "/nowhere/at/all")) == HttpError(.connect, "no such socket"))
    #expect(await failure(.unix(path: "/" + String(repeating: "x", count: 107)))?.kind == .connect)
    let hanging = try Listener(backlog: 0)
    defer { hanging.stop() }
    try await blocking { try hanging.fill() }
    #expect(
      await failure(try Endpoint.parse(hanging.address.description), 0.1)
        == HttpError(.timeout, "timed out after 0.1 s"))
    let folder = try TemporaryFolder()
    let full = try Listener(.unix(folder.file("s")), backlog: 0)
    defer { full.stop() }
    var waiting: [Socket] = []
    var last: HttpError?
    while last == nil, waiting.count < 10 {
      do throws(HttpError) {
        waiting.append(try await Socket.connect(to: .unix(path: folder.file("s")), until: Timeout(0.1)))
      } catch { last = error }
    }
    #expect(last == HttpError(.timeout, "timed out after 0.1 s"))
  }

  @Test func namesAreLookedUp() async throws {
    let origin = try Origin.answering { _ in responseText("found") }
    defer { origin.stop() }
    let reply = try await HttpClient.send(
      HttpRequest("GET", "/"), to: .name("localhost", port: origin.address.port), timeout: patience)
    #expect(reply.body == Data("found".utf8))
  }

  @Test func requestsThatCouldSmuggleAreNotSent() async throws {
    let cases = [
      HttpRequest("GET", "/", fields: [HttpField("A", "b\r\nC: d")]),
      HttpRequest("GET", "/", fields: [HttpField("A:", "b")]),
      HttpRequest("GET", "/", fields: [HttpField("", "b")]), HttpRequest("GE T", "/"), HttpRequest("", "/"),
    ]
    for request in cases {
      let error = await #expect(throws: HttpError.self) {
        _ = try await HttpClient.send(request, to: .unix(path: "/nowhere"), timeout: patience)
      }
      #expect(error?.kind == .protocol, "\(request)")
    }
    #expect(
      try HttpRequest("GET", "/\r\nX: y").bytes(host: "h", keepsOpen: true)
        == Array("GET /%0D%0AX:%20y HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
  }

  @Test func cancellingClosesTheConnection() async throws {
    let arrived = Event()
    let gone = Event()
    let origin = try Origin { visit in
      _ = try visit.head()
      arrived.happen()
      if visit.wire.awaitEnd() != nil { gone.happen() }
    }
    defer { origin.stop() }
    let asking = Task { try await HttpClient.send(HttpRequest("GET", "/"), to: origin.endpoint, timeout: 1000) }
    #expect(try await blocking { arrived.wait() })
    asking.cancel()
    let error = await #expect(throws: HttpError.self) { _ = try await asking.value }
    #expect(error?.kind == .cancelled)
    #expect(try await blocking { gone.wait() })
    // A task that is cancelled already does not wait either.
    let late = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      return try await HttpClient.send(HttpRequest("GET", "/"), to: origin.endpoint, timeout: 1000)
    }
    await #expect(throws: HttpError.self) { _ = try await late.value }
  }

  @Test func aStreamComesPieceByPieceAndEndsWithItsReader() async throws {
    let next = Shared(0)
    let gone = Event()
    let origin = try Origin { visit in
      _ = try visit.head()
      try visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
      for line in 1...3 {
        guard eventually(patience, { next.value >= line }) else { return }
        try visit.send("2\r\n\(line)\n\r\n")
      }
      if visit.wire.awaitEnd() != nil { gone.happen() }
    }
    defer { origin.stop() }
    var stream: AsyncThrowingStream<[UInt8], any Error>?
    do {
      let (reply, body) = try await HttpClient.stream(
        HttpRequest("GET", "/"), to: origin.endpoint, connectTimeout: patience, silence: nil)
      #expect(reply.status == 200)
      stream = body
    }
    do {
      var pieces = stream!.makeAsyncIterator()
      for line in 1...3 {
        next.with { $0 = line }
        #expect(try await pieces.next() == Array("\(line)\n".utf8))
      }
    }
    #expect(!gone.hasHappened)
    stream = nil
    #expect(try await blocking { gone.wait() }, "the connection outlives its stream")
  }

  @Test func aStreamMayPauseButNotForEver() async throws {
    let origin = try Origin { visit in
      _ = try visit.head()
      try visit.send("HTTP/1.1 200 OK\r\n\r\nhello")
      _ = visit.wire.awaitEnd()
    }
    defer { origin.stop() }
    let (_, body) = try await HttpClient.stream(
      HttpRequest("GET", "/"), to: origin.endpoint, connectTimeout: patience, silence: 0.1)
    var pieces: [UInt8] = []
    let error = await #expect(throws: HttpError.self) { for try await piece in body { pieces += piece } }
    #expect(error == HttpError(.timeout, "timed out after 0.1 s"))
    #expect(String(decoding: pieces, as: UTF8.self) == "hello")
  }

  /// Two thousand probes of a service that hangs, at once, and one of a service that does not.
  @Test func hangingPeersCostNoThreads() async throws {
    let count = 2000
    // Nobody takes these connections; the kernel does.
    let silent = try (0..<4).map { _ in try Listener(backlog: 1024) }
    defer { for one in silent { one.stop() } }
    let living = try Origin.answering { _ in responseText("here") }
    defer { living.stop() }
    let endpoints = try silent.map { try Endpoint.parse($0.address.description) }
    await withTaskGroup(of: Bool.self) { group in
      for number in 0..<count {
        group.addTask {
          do throws(HttpError) {
            _ = try await HttpClient.send(
              HttpRequest("GET", "/"), to: endpoints[number % endpoints.count], timeout: 1000)
            return false
          } catch { return error.kind == .cancelled }
        }
      }
      let reply = try? await HttpClient.send(HttpRequest("GET", "/"), to: living.endpoint, timeout: patience)
      #expect(reply?.body == Data("here".utf8))
      let threads = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count) ?? 0
      #expect(threads < 500, "\(threads) threads for \(count) requests that hang")
      group.cancelAll()
      var cancelled = 0
      for await isCancelled in group where isCancelled { cancelled += 1 }
      #expect(cancelled == count)
    }
  }
}
