// Rules that are clearer as tables than as cases: which octets may stand where, addresses, limits, framing of sizes.
import ProxyCore
import Testing

private let token = Set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8)

private func parseRequest(_ text: [UInt8], limits: HeadLimits = HeadLimits()) -> (
  verdict: HeadVerdict, head: RequestHead
) {
  var fields = FieldTable.allocate(capacity: 256)
  defer { fields.deallocate() }
  var head = RequestHead()
  let memory = GuardedBytes(text)
  let verdict = parseRequestHead(memory.base, memory.count, limits: limits, fields: &fields, head: &head)
  return (verdict, head)
}

@Suite struct HttpRuleTests {
  /// Each octet at each place in runs of several lengths, so that it meets the block scan and the scan of the rest.
  @Test func `octets of methods, targets, names and values`() {
    for octet in UInt8.min...UInt8.max {
      for length in [0, 1, 7, 15, 16, 17, 31, 32, 40] {
        let run = [UInt8](repeating: UInt8(ascii: "a"), count: length) + [octet] + Array("zz".utf8)
        let value = Array("GET / HTTP/1.1\r\nHost: a\r\nX: ".utf8) + run + Array("\r\n\r\n".utf8)
        let isText = octet == 9 || (octet >= 0x20 && octet != 0x7F)
        #expect((parseRequest(value).verdict == .complete) == isText, "value \(octet) after \(length)")
        let name = Array("GET / HTTP/1.1\r\nHost: a\r\nX".utf8) + run + Array(": 1\r\n\r\n".utf8)
        let isName = token.contains(octet) || octet == UInt8(ascii: ":")
        #expect((parseRequest(name).verdict == .complete) == isName, "name \(octet) after \(length)")
        let target = Array("GET /".utf8) + run + Array(" HTTP/1.1\r\nHost: a\r\n\r\n".utf8)
        #expect((parseRequest(target).verdict == .complete) == (octet > 0x20 && octet != 0x7F), "target \(octet)")
        if length + 3 <= 32 {
          let method = run + Array(" / HTTP/1.1\r\nHost: a\r\n\r\n".utf8)
          #expect((parseRequest(method).verdict == .complete) == token.contains(octet), "method \(octet)")
        }
        let host = Array("GET / HTTP/1.1\r\nHost: a".utf8) + run.dropLast(2) + Array("0\r\n\r\n".utf8)
        let isHost = Set("-._~!$&'()*+;=:".utf8).contains(octet) || (token.contains(octet) && isAlphanumeric(octet))
        #expect((parseRequest(host).verdict == .complete) == isHost, "host \(octet) after \(length)")
      }
    }
  }

  @Test(arguments: [
    "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "::1.2.3.4",
    "1:2:3:4:5:6:1.2.3.4", "fe80::ABCD:0001", "::ffff:255.255.255.255", "v1.x", "vF.a:b~",
  ])
  func `addresses in brackets`(_ address: String) {
    #expect(parseRequest(Array("GET / HTTP/1.1\r\nHost: [\(address)]\r\n\r\n".utf8)).verdict == .complete)
    #expect(parseRequest(Array("GET / HTTP/1.1\r\nHost: [\(address)]:1\r\n\r\n".utf8)).verdict == .complete)
  }

  @Test(arguments: [
    "", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "1::2::3",
    "12345::", ":1", "1:", "1:2:3:4:5:6:7:", "g::", "::1.2.3", "::1.2.3.256", "::1.2.3.04", "::1.2.3.4.5", "1.2.3.4",
    "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3.4:1", "::1.2.3.", "v.x", "v1.", "vG.x", "v1x", "::1]", "[::1",
  ])
  func `no addresses`(_ address: String) {
    let verdict = parseRequest(Array("GET / HTTP/1.1\r\nHost: [\(address)]\r\n\r\n".utf8)).verdict
    #expect(verdict == .refused(.hostInvalid))
  }

  @Test func `limits of a head`() {
    let limits = HeadLimits(headBytes: 256, targetBytes: 32, fields: 3)
    func text(_ string: String) -> [UInt8] { Array(string.utf8) }
    let slash31 = "/" + String(repeating: "a", count: 31)
    #expect(parseRequest(text("GET \(slash31) HTTP/1.1\r\nHost: a\r\n\r\n"), limits: limits).verdict == .complete)
    #expect(parseRequest(text("GET \(slash31)a"), limits: limits).verdict == .refused(.targetTooLong))
    #expect(parseRequest(text("GET \(slash31)"), limits: limits).verdict == .partial)
    #expect(Refusal.targetTooLong.status == 414)
    let three = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n"
    #expect(parseRequest(text(three + "\r\n"), limits: limits).verdict == .complete)
    #expect(parseRequest(text(three + "C: 3\r\n"), limits: limits).verdict == .refused(.fieldsTooMany))
    #expect(Refusal.fieldsTooMany.status == 431)
    let start = "GET / HTTP/1.1\r\nHost: a\r\nA: "
    let fitting = start + String(repeating: "v", count: 256 - 4 - start.utf8.count)
    #expect(parseRequest(text(fitting + "\r\n\r\n"), limits: limits).verdict == .complete)
    #expect(parseRequest(text(fitting + "\r\n\r"), limits: limits).verdict == .partial)
    #expect(parseRequest(text(fitting + "v\r\n\r\n"), limits: limits).verdict == .refused(.headTooLarge))
    #expect(Refusal.headTooLarge.status == 431)
    let wide = HeadLimits(headBytes: 64, targetBytes: 1000, fields: 3)
    let endless = "GET /" + String(repeating: "a", count: 59)
    #expect(parseRequest(text(endless), limits: wide).verdict == .refused(.targetTooLong))
  }

  @Test func `too many connection options`() {
    func verdict(_ count: Int) -> HeadVerdict {
      let options = (0..<count).map { "x\($0)" }.joined(separator: ",")
      return parseRequest(Array("GET / HTTP/1.1\r\nHost: a\r\nConnection: \(options)\r\n\r\n".utf8)).verdict
    }
    #expect(verdict(64) == .complete)
    #expect(verdict(65) == .refused(.connectionOptionsTooMany))
  }

  @Test func `methods by what they promise`() {
    for (name, isSafe, isIdempotent) in [
      ("GET", true, true), ("HEAD", true, true), ("OPTIONS", true, true), ("TRACE", true, true), ("PUT", false, true),
      ("DELETE", false, true), ("POST", false, false), ("PATCH", false, false), ("BREW", false, false),
    ] {
      let parsed = parseRequest(Array("\(name) / HTTP/1.1\r\nHost: a\r\n\r\n".utf8))
      #expect(parsed.verdict == .complete)
      #expect(parsed.head.method.isSafe == isSafe)
      #expect(parsed.head.method.isIdempotent == isIdempotent)
    }
  }

  @Test func `every refusal has a status and a reason of its own`() {
    var reasons: Set<String> = []
    for refusal in Refusal.allCases {
      #expect([400, 414, 431, 501, 502, 505].contains(refusal.status), "\(refusal)")
      let reason = "\(refusal.reason)"
      #expect(reason.contains("RFC"), "\(refusal)")
      #expect(!reason.contains { "\"\\".contains($0) }, "it goes into JSON as it is: \(refusal)")
      #expect(reason.utf8.count < 120, "a local reply has room for it: \(refusal)")
      #expect(reasons.insert(reason).inserted, "\(refusal)")
    }
  }

  @Test func `chunk lines have an end`() {
    for (length, isFine) in [(4096, true), (4097, false)] {
      // Size, ";", name, CRLF.
      let line = "1;" + String(repeating: "a", count: length - 4) + "\r\n"
      let text = Array((line + "x\r\n0\r\n\r\n").utf8)
      for split in [1, 2000, 4095, text.count] {
        var decoder = ChunkedDecoder()
        let memory = GuardedBytes(text)
        var fed = decoder.feed(memory.base, split)
        if fed.verdict == .more { fed = decoder.feed(memory.base + split, text.count - split) }
        #expect((fed.verdict == .done) == isFine, "\(length), \(split)")
        if !isFine { #expect(fed.verdict == .malformed(.chunkLineTooLong)) }
      }
    }
  }

  @Test func `extensions have an end`() {
    // A size padded with blanks is no extension, however many chunks there are; 64 bytes behind one byte of data are.
    for (line, decodes) in [
      ("00001  ", true), ("1 ;abcdefghijk", true), ("1;" + String(repeating: "a", count: 64), false),
    ] {
      var decoder = ChunkedDecoder()
      let piece = Array((line + "\r\nx\r\n").utf8)
      var verdict = ChunkedDecoder.Verdict.more
      for _ in 0..<20_000 {
        let memory = GuardedBytes(piece)
        verdict = decoder.reframe(memory.base, piece.count).verdict
        guard verdict == .more else { break }
      }
      #expect(verdict == (decodes ? .more : .malformed(.chunkExtensionsTooLong)), "\(line)")
    }
    // A chunk that carries something may say something about it.
    var decoder = ChunkedDecoder()
    let data = String(repeating: "d", count: 0x100)
    let piece = Array(("100;chunk-signature=" + String(repeating: "a", count: 64) + "\r\n\(data)\r\n").utf8)
    for _ in 0..<20_000 {
      let memory = GuardedBytes(piece)
      #expect(decoder.feed(memory.base, piece.count).verdict == .more)
    }
  }

  @Test func `large chunks are passed over`() {
    let data = [UInt8](repeating: 7, count: 1 << 20)
    let text = Array("100000\r\n".utf8) + data + Array("\r\n0\r\n\r\n".utf8)
    var decoder = ChunkedDecoder()
    var payload = 0
    var start = 0
    while start < text.count {
      let end = min(start + 65_536, text.count)
      let memory = GuardedBytes(Array(text[start..<end]))
      let fed = decoder.feed(memory.base, end - start)
      payload += fed.payload
      start += fed.consumed
    }
    #expect(payload == 1 << 20)
    #expect(decoder.isPastLastChunk)
  }
}

private func isAlphanumeric(_ octet: UInt8) -> Bool {
  (0x30...0x39).contains(octet) || (0x41...0x5A).contains(octet) || (0x61...0x7A).contains(octet)
}
