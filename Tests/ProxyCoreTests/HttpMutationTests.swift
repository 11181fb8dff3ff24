// Corpus inputs, mutated at random: nothing crashes or reads beyond its bytes, and whatever passes is written as
// something the proxy itself would take, with the same meaning.
import Glibc
import ProxyCore
import SimKit
import TestSupport
import Testing

@Suite struct HttpMutationTests {
  @Test func `mutated heads and bodies`() {
    var chance = Chance()
    print(chance.replay())
    var fields = FieldTable.allocate(capacity: 64)
    defer { fields.deallocate() }
    let inputs = HttpCase.all.map(\.input)
    for round in 0..<30_000 {
      let input = chance.mutated(chance.pick(inputs), pieces: pieces, others: inputs)
      if input.count > 4000 { continue }
      let origin: Comment = "\(chance.replay()), round \(round): \(escaped(input))"
      let memory = GuardedBytes(input)
      checkRequest(memory, &fields, origin, &chance)
      checkResponse(memory, &fields, origin, &chance)
      checkChunked(input, origin, &chance)
      var sectionBytes = 0
      if parseTrailers(
        memory.base, memory.count, limits: HeadLimits(), inResponse: Bool.random(using: &chance), fields: &fields,
        sectionBytes: &sectionBytes) == .complete
      {
        let output = GuardedBytes(count: max(sectionBytes, 2))
        #expect(writeTrailers(fields, memory.base, into: output.base, capacity: output.count) != nil, origin)
      }
    }
  }
}

private let pieces: [[UInt8]] = [
  "\r\n", "\r\n\r\n", "\r", "\n", "\0", " ", "\t", ":", ",", ";", "\"", "\\", "=", "%", "/", "*", "0", "f", "chunked",
  "Connection: ", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: a\r\n", "HTTP/1.0", "HTTP/1.1",
  "http://", "@", "[", "]", "TE: trailers\r\n", "Upgrade: websocket\r\nConnection: upgrade\r\n", "close", "x-a",
  " :", "_", "X_Forwarded-For: 1\r\n", "X-Request-Id: 7\r\n", "X-Forwarded-For: 1\r\n", "Expect: 100-continue\r\n",
  "5\r\nhello\r\n", "0\r\n",
].map { Array($0.utf8) }

private func checkRequest(
  _ memory: GuardedBytes, _ fields: inout FieldTable, _ origin: Comment, _ chance: inout Chance
) {
  var head = RequestHead()
  guard parseRequestHead(memory.base, memory.count, limits: HeadLimits(), fields: &fields, head: &head) == .complete
  else { return }
  let settings = ["append", "replace", "off"].randomElement(using: &chance)!
  withContext([settings, Bool.random(using: &chance) ? "via" : ""]) { context in
    let output = GuardedBytes(count: head.headBytes + requestHeadGrowthMax)
    guard
      let written = writeRequestHead(head, fields, memory.base, context, into: output.base, capacity: output.count)
    else {
      Issue.record(origin)
      return
    }
    let end = GuardedBytes(bytes(output.base, written.count))
    var again = RequestHead()
    let verdict = parseRequestHead(end.base, end.count, limits: HeadLimits(), fields: &fields, head: &again)
    #expect(verdict == .complete, origin)
    #expect(again.headBytes == written.count, origin)
    #expect(again.method == head.method, origin)
    #expect(again.framing == head.framing, origin)
    #expect(again.contentLength == head.contentLength, origin)
    #expect(again.wantsUpgrade == head.wantsUpgrade, origin)
    #expect(again.acceptsTrailers == head.acceptsTrailers, origin)
    #expect(again.keepAlive && !again.isHTTP10 && again.hasHost && again.authorityCount == 0, origin)
    #expect(again.requestIdCount > 0, origin)
    let names = (0..<fields.count).map { fields[$0] }.map {
      String(decoding: bytes(end.base + Int($0.nameStart), Int($0.nameCount)), as: UTF8.self).lowercased()
    }
    #expect(names.count { $0.replacing("_", with: "-") == "x-request-id" } == 1, origin)
    if settings != "off" {
      #expect(!names.contains { $0.contains("_") && $0.replacing("_", with: "-").hasPrefix("x-forwarded-") }, origin)
      #expect(names.contains("x-forwarded-for") && names.contains("x-forwarded-proto"), origin)
    }
    #expect(again.expectContinue == head.expectContinue, origin)
    #expect(again.hostCount > 0, origin)
  }
}

private func checkResponse(
  _ memory: GuardedBytes, _ fields: inout FieldTable, _ origin: Comment, _ chance: inout Chance
) {
  let requestWasHead = Bool.random(using: &chance)
  let upgradeOffered = Bool.random(using: &chance)
  var head = ResponseHead()
  func parse(_ memory: GuardedBytes) -> HeadVerdict {
    parseResponseHead(
      memory.base, memory.count, limits: HeadLimits(), requestWasHead: requestWasHead, upgradeOffered: upgradeOffered,
      fields: &fields, head: &head)
  }
  guard parse(memory) == .complete else { return }
  let first = head
  let close = Bool.random(using: &chance)
  let output = GuardedBytes(count: head.headBytes + responseHeadGrowthMax)
  guard
    let written = writeResponseHead(
      head, fields, memory.base, clientIsHTTP10: false, close: close, into: output.base, capacity: output.count)
  else {
    Issue.record(origin)
    return
  }
  #expect(parse(GuardedBytes(bytes(output.base, written))) == .complete, origin)
  #expect(head.headBytes == written, origin)
  #expect(head.status == first.status, origin)
  #expect(head.framing == first.framing, origin)
  // What announces the length of content that does not come (HEAD, 304) goes on.
  let announces = (requestWasHead && head.status >= 200 && head.status != 204) || head.status == 304
  #expect(!head.hasForbiddenLength || (announces && first.hasForbiddenLength), origin)
  if head.framing == .length { #expect(head.contentLength == first.contentLength, origin) }
  if !head.isInterim, !head.isSwitching, !head.hasForbiddenLength, head.framing != .untilClose {
    #expect(head.keepAlive == !close, origin)
  }
}

/// One feed and a torn one agree about everything.
private func checkChunked(_ input: [UInt8], _ origin: Comment, _ chance: inout Chance) {
  let memory = GuardedBytes(input)
  var whole = ChunkedDecoder()
  let once = whole.feed(memory.base, input.count)
  let split = Int.random(in: 0...input.count, using: &chance)
  var torn = ChunkedDecoder()
  let first = torn.feed(memory.base, split)
  var consumed = first.consumed
  var payload = first.payload
  var verdict = first.verdict
  if verdict == .more {
    let second = torn.feed(memory.base + split, input.count - split)
    consumed += second.consumed
    payload += second.payload
    verdict = second.verdict
  }
  #expect(consumed == once.consumed && payload == once.payload && verdict == once.verdict, origin)
  // What goes on in canonical form has the same data for a strict reader; `feed` takes no more than the others do.
  let copy = GuardedBytes(input)
  var decoder = ChunkedDecoder()
  let decoded = decoder.decode(memory.base, input.count)
  var reframer = ChunkedDecoder()
  let reframed = reframer.reframe(copy.base, input.count)
  #expect(reframed.consumed == decoded.consumed && reframed.payload == decoded.payload, origin)
  #expect(reframed.verdict == decoded.verdict, origin)
  if case .malformed = once.verdict {} else { #expect(decoded == once, origin) }
  if case .malformed = reframed.verdict { return }
  var strict = ChunkedDecoder()
  let kept = GuardedBytes(bytes(copy.base, reframed.kept))
  let again = strict.decode(kept.base, reframed.kept)
  #expect(again.consumed == reframed.kept && again.payload == reframed.payload, origin)
  #expect(again.verdict == reframed.verdict || (again.verdict == .more && reframed.verdict == .trailers), origin)
  #expect(bytes(kept.base, again.payload) == bytes(memory.base, decoded.payload), origin)
}
