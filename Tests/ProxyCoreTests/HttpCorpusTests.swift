// The cases of Tests/Corpus/http, each also at every place where the bytes may be torn apart.
import ProxyCore
import Testing

@Suite struct HttpCorpusTests {
  @Test func `every document has cases`() {
    #expect(HttpCase.of("request").count > 100)
    #expect(HttpCase.of("response").count > 30)
    #expect(HttpCase.of("chunked").count > 30)
    #expect(HttpCase.of("trailers").count > 5)
    for one in HttpCase.all { #expect(["request", "response", "chunked", "trailers"].contains(one.kind), "\(one)") }
  }

  @Test(arguments: HttpCase.of("request")) func request(_ one: HttpCase) {
    var fields = FieldTable.allocate(capacity: 256)
    defer { fields.deallocate() }
    let input = GuardedBytes(one.input)
    var head = RequestHead()
    let verdict = parseRequestHead(input.base, input.count, limits: HeadLimits(), fields: &fields, head: &head)
    expectVerdict(one, verdict)
    if verdict == .complete {
      #expect(head.headBytes == input.count)
      for fact in one.facts { #expect(requestFact(head, input.base, fact.name) == fact.value, "\(fact.name)") }
      withContext(one.settings) { context in
        let written = one.output.count
        let output = GuardedBytes(count: written)
        guard let forwarded = writeRequestHead(head, fields, input.base, context, into: output.base, capacity: written)
        else {
          Issue.record("longer than \(escaped(one.output))")
          return
        }
        #expect(escaped(bytes(output.base, forwarded.count)) == escaped(one.output))
        #expect(forwarded.count <= input.count + requestHeadGrowthMax)
        let method = bytes(output.base + forwarded.methodStart, forwarded.methodCount)
        let target = bytes(output.base + forwarded.targetStart, forwarded.targetCount)
        let line = bytes(output.base, written).prefix { $0 != 0x0D }.split(separator: 0x20).map(Array.init)
        #expect([method, target] == Array(line.prefix(2)))
        let id = bytes(output.base + forwarded.requestIdStart, forwarded.requestIdCount)
        let added = Array("00000000000000010000000000000002".utf8)
        #expect(id == (head.requestIdCount == 0 ? added : bytes(input.base + head.requestIdStart, head.requestIdCount)))
        for capacity in 0..<written {
          let short = GuardedBytes(count: capacity)
          #expect(writeRequestHead(head, fields, input.base, context, into: short.base, capacity: capacity) == nil)
        }
      }
    }
    expectEveryPrefix(one) { start, count in
      parseRequestHead(start, count, limits: HeadLimits(), fields: &fields, head: &head)
    }
  }

  @Test(arguments: HttpCase.of("response")) func response(_ one: HttpCase) {
    var fields = FieldTable.allocate(capacity: 256)
    defer { fields.deallocate() }
    let input = GuardedBytes(one.input)
    var head = ResponseHead()
    func parse(_ start: UnsafePointer<UInt8>, _ count: Int) -> HeadVerdict {
      parseResponseHead(
        start, count, limits: HeadLimits(), requestWasHead: one.settings.contains("head"),
        upgradeOffered: one.settings.contains("upgrade"), fields: &fields, head: &head)
    }
    let verdict = parse(input.base, input.count)
    expectVerdict(one, verdict)
    if verdict == .complete {
      #expect(head.headBytes == input.count)
      for fact in one.facts { #expect(responseFact(head, fact.name) == fact.value, "\(fact.name)") }
      for capacity in 0...one.output.count {
        let output = GuardedBytes(count: capacity)
        let written = writeResponseHead(
          head, fields, input.base, clientIsHTTP10: one.settings.contains("http10"),
          close: one.settings.contains("close"), into: output.base, capacity: capacity)
        #expect((written == nil) == (capacity < one.output.count))
        if let written { #expect(escaped(bytes(output.base, written)) == escaped(one.output)) }
      }
      #expect(one.output.count <= input.count + responseHeadGrowthMax)
    }
    expectEveryPrefix(one, parse)
  }

  @Test(arguments: HttpCase.of("trailers")) func trailers(_ one: HttpCase) {
    var fields = FieldTable.allocate(capacity: 256)
    defer { fields.deallocate() }
    let input = GuardedBytes(one.input)
    var sectionBytes = 0
    let verdict = parseTrailers(
      input.base, input.count, limits: HeadLimits(), fields: &fields, sectionBytes: &sectionBytes)
    expectVerdict(one, verdict)
    if verdict == .complete {
      #expect(sectionBytes == input.count)
      for capacity in 0...one.output.count {
        let output = GuardedBytes(count: capacity)
        let written = writeTrailers(fields, input.base, into: output.base, capacity: capacity)
        #expect((written == nil) == (capacity < one.output.count))
        if let written { #expect(escaped(bytes(output.base, written)) == escaped(one.output)) }
      }
    }
    expectEveryPrefix(one) { start, count in
      parseTrailers(start, count, limits: HeadLimits(), fields: &fields, sectionBytes: &sectionBytes)
    }
  }

  @Test(arguments: HttpCase.of("chunked")) func chunked(_ one: HttpCase) {
    let own = Array(one.input.dropLast(one.rest.count))
    let isTrailers = own.suffix(2) == [0x0D, 0x0A] && own.suffix(4) != [0x0D, 0x0A, 0x0D, 0x0A] && !one.isPartial
    var splits = (0...one.input.count).map { [$0] }
    splits.append(Array(0...one.input.count))
    for split in splits {
      for decodes in [false, true] {
        let fed = feed(one.input, split, decodes: decodes)
        if let refusal = one.refusal {
          #expect(fed.verdict == .malformed(refusal), "split at \(split), decodes \(decodes)")
        } else {
          #expect(fed.verdict == (one.isPartial ? .more : isTrailers ? .trailers : .done), "split at \(split)")
          #expect(escaped(fed.forwarded) == escaped(own), "split at \(split)")
          #expect(fed.payload == one.output.count, "split at \(split)")
          if decodes { #expect(escaped(fed.decoded) == escaped(one.output), "split at \(split)") }
        }
      }
    }
  }
}

private func expectVerdict(_ one: HttpCase, _ verdict: HeadVerdict) {
  if let refusal = one.refusal {
    #expect(verdict == .refused(refusal))
  } else {
    #expect(verdict == (one.isPartial ? .partial : .complete))
  }
}

/// A prefix is not complete, and refused only where the whole is, by the same rule. What follows changes nothing.
private func expectEveryPrefix(_ one: HttpCase, _ parse: (UnsafePointer<UInt8>, Int) -> HeadVerdict) {
  let memory = GuardedBytes(count: one.input.count + 64)
  for count in 0..<one.input.count {
    let verdict = parse(memory.tail(one.input, count), count)
    let isFine = verdict == .partial || (one.refusal != nil && verdict == .refused(one.refusal!))
    #expect(isFine, "\(verdict) after \(count) bytes: \(escaped(Array(one.input[..<count])))")
  }
  guard !one.isPartial else { return }
  let whole = parse(memory.tail(one.input, one.input.count), one.input.count)
  for follower in ["\0", "GET / HTTP/1.1\r\n", String(repeating: "\r\n", count: 32)] {
    let longer = one.input + Array(follower.utf8)
    #expect(parse(memory.tail(longer, longer.count), longer.count) == whole)
  }
}

/// Feeds `input` in pieces that end at `splits` and at its end, until the body does.
private func feed(_ input: [UInt8], _ splits: [Int], decodes: Bool) -> (
  forwarded: [UInt8], decoded: [UInt8], payload: Int, verdict: ChunkedDecoder.Verdict
) {
  var decoder = ChunkedDecoder()
  var forwarded: [UInt8] = []
  var decoded: [UInt8] = []
  var payload = 0
  var start = 0
  for end in splits + [input.count] {
    let piece = Array(input[start..<end])
    let memory = GuardedBytes(piece)
    let fed = decodes ? decoder.decode(memory.base, piece.count) : decoder.feed(memory.base, piece.count)
    forwarded += piece[..<fed.consumed]
    if decodes { decoded += bytes(memory.base, fed.payload) }
    payload += fed.payload
    switch fed.verdict {
    case .more:
      #expect(fed.consumed == piece.count)
      start = end
    case .trailers, .done, .malformed: return (forwarded, decoded, payload, fed.verdict)
    }
  }
  return (forwarded, decoded, payload, .more)
}

private func requestFact(_ head: RequestHead, _ base: UnsafePointer<UInt8>, _ name: String) -> String {
  switch name {
  case "method": "\(head.method)"
  case "framing": "\(head.framing)"
  case "contentLength": "\(head.contentLength)"
  case "keepAlive": "\(head.keepAlive)"
  case "isHTTP10": "\(head.isHTTP10)"
  case "hasHost": "\(head.hasHost)"
  case "expectContinue": "\(head.expectContinue)"
  case "wantsUpgrade": "\(head.wantsUpgrade)"
  case "acceptsTrailers": "\(head.acceptsTrailers)"
  case "targetNeedsSlash": "\(head.targetNeedsSlash)"
  case "maxForwardsZero": "\(head.maxForwardsZero)"
  case "requestId": escaped(bytes(base + head.requestIdStart, head.requestIdCount))
  default: "no such fact"
  }
}

private func responseFact(_ head: ResponseHead, _ name: String) -> String {
  switch name {
  case "status": "\(head.status)"
  case "framing": "\(head.framing)"
  case "contentLength": "\(head.contentLength)"
  case "keepAlive": "\(head.keepAlive)"
  case "keepAliveSeconds": "\(head.keepAliveSeconds)"
  case "isHTTP10": "\(head.isHTTP10)"
  case "isInterim": "\(head.isInterim)"
  case "isSwitching": "\(head.isSwitching)"
  case "hasForbiddenLength": "\(head.hasForbiddenLength)"
  default: "no such fact"
  }
}
