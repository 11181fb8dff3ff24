// Messages as bytes, whole and cut anywhere, and what the reader makes of them.

import SimKit
import TestSupport
import Testing

@testable import ControlCore

@Suite struct PlatformReaderTests {
  /// Bytes and, line by line, what comes of them when the connection ends after them.
  private static let replies: [(String, String)] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1|200|OK|Content-Length=2\nbody \"hi\", end"),
    ("HTTP/1.1 204 \r\nContent-Length: 7\r\n\r\n", "HTTP/1.1|204||Content-Length=7\nbody \"\", end"),
    ("HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1|304|Not Modified\nbody \"\", end"),
    ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "HTTP/1.0|200|OK\nbody \"until the end\", end"),
    ("HTTP/1.1 200\r\n\r\n", "HTTP/1.1|200|\nbody \"\", end"),
    ("\r\nHTTP/1.1 500 A b  c\nX:1\nx: 2 \n\nz", "HTTP/1.1|500|A b  c|X=1|x=2\nbody \"z\", end"),
    (
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
      "HTTP/1.1|200|OK|Content-Length=1\nbody \"x\", end"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nbody \"abc0123456789\", end"
    ),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
      "HTTP/1.1|200|OK|Content-Length=9|Transfer-Encoding=Chunked\nbody \"\", end"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab", "HTTP/1.1|200|OK|Transfer-Encoding=gzip\nbody \"ab\", end"
    ),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\nContent-Length: 1\r\n\r\nx",
      "HTTP/1.1|200|OK|Content-Length=1, 1|Content-Length=1\nbody \"x\", end"
    ),
    // Cut.
    ("", "closed: the connection was closed without an answer"),
    ("HTTP/1.1 200 OK\r\nContent-Le", "closed: the connection was closed amid the head"),
    ("HTTP/1.1 100 Continue\r\n\r\n", "closed: the connection was closed without an answer"),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
      "HTTP/1.1|200|OK|Content-Length=5\nbody \"hi\"\nclosed: the connection was closed amid the body"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nbody \"abc\"\nclosed: the connection was closed amid the body"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nclosed: the connection was closed amid the body"
    ),
    // Wrong.
    ("HTTP/1.1 20 OK\r\n\r\n", "protocol: \"HTTP/1.1 20 OK\" is no HTTP/1.1 status line"),
    ("HTTP/1.1 +20 OK\r\n\r\n", "protocol: \"HTTP/1.1 +20 OK\" is no HTTP/1.1 status line"),
    ("HTTP/1.9 200 OK\r\n\r\n", "protocol: \"HTTP/1.9 200 OK\" is no HTTP/1.1 status line"),
    ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "protocol: \"no colon\" is no header field"),
    ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "protocol: \" folded\" is no header field"),
    ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "protocol: \"A : b\" is no header field"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "protocol: Content-Length is \"-1\", not a number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "protocol: Content-Length is \"\", not a number"),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
      "protocol: Content-Length is \"99999999999999999999\", not a number"
    ),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
      "protocol: Content-Length is said twice, 1 and 2"
    ),
    (
      "HTTP/1.1 101 Switching\r\n\r\n",
      "protocol: the answer switches to another protocol (101), which nobody asked for"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nprotocol: \"-1\" is no size of a chunk"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nprotocol: \"1000000000000000\" is no size of a chunk"
    ),
    (
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
      "HTTP/1.1|200|OK|Transfer-Encoding=chunked\nbody \"a\"\nprotocol: a chunk is longer than its size says"
    ),
  ]

  private static let requests: [(String, String)] = [
    ("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET|/a?b=c|HTTP/1.1|Host=x\nbody \"\", end"),
    ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "POST|/|HTTP/1.1|Content-Length=3\nbody \"abc\", end"),
    (
      "PUT / HTTP/1.0\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n",
      "PUT|/|HTTP/1.0|Transfer-Encoding=chunked\nbody \"x\", end"
    ),
    ("GET /\r\n\r\n", "protocol: \"GET /\" is no HTTP/1.1 request line"),
    ("GET / HTTP/2\r\n\r\n", "protocol: \"GET / HTTP/2\" is no HTTP/1.1 request line"),
    ("G(T / HTTP/1.1\r\n\r\n", "protocol: \"G(T / HTTP/1.1\" is no HTTP/1.1 request line"),
    (
      "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
      "protocol: Transfer-Encoding \"gzip, chunked\" is not known"
    ),
    (
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
      "protocol: both Transfer-Encoding and Content-Length are given"
    ),
  ]

  /// Whole, byte by byte, and in two pieces cut at every place.
  private func check(_ kind: HttpReader.Kind, _ text: String, _ expected: String) {
    let bytes = Array(text.utf8)
    #expect(HttpReader.outcome(kind, [bytes[...]]) == expected, "\(text.debugDescription)")
    #expect(
      HttpReader.outcome(kind, bytes.indices.map { bytes[$0...$0] }) == expected,
      "byte by byte: \(text.debugDescription)")
    for cut in 0...bytes.count {
      #expect(
        HttpReader.outcome(kind, [bytes[..<cut], bytes[cut...]]) == expected, "cut at \(cut): \(text.debugDescription)")
    }
  }

  @Test func repliesAreRead() { for (text, expected) in Self.replies { check(.reply(method: "GET"), text, expected) } }

  @Test func requestsAreRead() { for (text, expected) in Self.requests { check(.request, text, expected) } }

  @Test func theAnswerToHeadHasNoBody() {
    check(
      .reply(method: "HEAD"), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
      "HTTP/1.1|200|OK|Content-Length=9\nbody \"\", end")
  }

  /// What speaks something else is refused at its first bytes: it may never send a line's end.
  @Test func otherProtocolsAreNoticedAtOnce() throws {
    let cases = [
      ("SSH-2.0-OpenSSH_9.6", "the answer is not HTTP/1.1: \"SSH-2.0-OpenSSH_9.6\""),
      ("HTTQ", "the answer is not HTTP/1.1: \"HTTQ\""),
      ("HTTP/2.0 200", "the answer is not HTTP/1.1: \"HTTP/2.0 200\""),
      ("\u{15}\u{3}\u{1}\u{0}", "the answer is not HTTP but TLS: this port wants https"),
      ("a\u{0}b\nc", "the answer is not HTTP/1.1: \"a\\x00b\\nc\""),
    ]
    for (text, expected) in cases {
      var reader = HttpReader(.reply(method: "GET"))
      reader.feed(text.utf8)
      let error = #expect(throws: HttpError.self) { _ = try reader.next() }
      #expect(error == HttpError(.protocol, expected))
    }
  }

  @Test func linesAndHeadsHaveALimit() {
    let long = String(repeating: "x", count: HttpReader.headBytesMax)
    for text in [
      "HTTP/1.1 200 OK\r\nA: \(long)", "HTTP/1.1 200 OK\r\nA: \(long)\r\n\r\n",
      "HTTP/1.1 200 OK\r\n" + String(repeating: "A: b\r\n", count: 20_000),
    ] {
      let outcome = HttpReader.outcome(.reply(method: "GET"), [Array(text.utf8)[...]])
      #expect(outcome == "tooLarge: the head is longer than 65536 bytes")
    }
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + String(repeating: "x", count: 5000)
    #expect(
      HttpReader.outcome(.reply(method: "GET"), [Array(chunk.utf8)[...]]).hasSuffix(
        "tooLarge: the line of a chunk's size is longer than 4096 bytes"))
  }

  @Test func pipelinedRequestsFollowEachOther() throws {
    let text = "GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\n\r\n"
    var reader = HttpReader(.request)
    reader.feed(text.utf8)
    var targets: [String] = []
    var body: [UInt8] = []
    while targets.count < 3 || !reader.isIdle {
      switch try reader.next() {
      case .head(let head): targets.append(head.second)
      case .body(let piece): body += piece
      case .end: reader = reader.following()
      case nil:
        Issue.record("a message is incomplete")
        return
      }
    }
    #expect(targets == ["/1", "/2", "/3"])
    #expect(String(decoding: body, as: UTF8.self) == "hi")
  }

  /// Whatever the bytes, the reader answers, and a cut changes nothing.
  @Test func mutatedMessagesNeverTrapAndCutsChangeNothing() {
    var chance = Chance()
    for _ in 0..<3000 {
      let isReply = chance.below(3) > 0
      let text =
        isReply ? Self.replies[chance.below(Self.replies.count)].0 : Self.requests[chance.below(Self.requests.count)].0
      let bytes = chance.mutated(Array(text.utf8))
      let kind: HttpReader.Kind = isReply ? .reply(method: "GET") : .request
      let whole = HttpReader.outcome(kind, [bytes[...]])
      let cut = chance.below(bytes.count + 1)
      // How much of a refused text is shown depends on how much had come.
      if whole.contains("is not HTTP/1.1:") || whole.contains("TLS") { continue }
      #expect(
        HttpReader.outcome(kind, [bytes[..<cut], bytes[cut...]]) == whole, "\(bytes) cut at \(cut); \(chance.replay())")
    }
  }
}
