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
    let inResponse = one.settings.contains("response")
    let verdict = parseTrailers(
      input.base, input.count, limits: HeadLimits(), inResponse: inResponse, fields: &fields,
      sectionBytes: &sectionBytes)
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
      parseTrailers(
        start, count, limits: HeadLimits(), inResponse: inResponse, fields: &fields, sectionBytes: &sectionBytes)
    }
  }

  @Test(arguments: HttpCase.of("chunked")) func chunked(_ one: HttpCase) {
    let own = Array(one.input.dropLast(one.rest.count))
    let isTrailers = own.suffix(2) == [0x0D, 0x0A] && own.suffix(4) != [0x0D, 0x0A, 0x0D, 0x0A] && !one.isPartial
    var splits = (0...one.input.count).map { [$0] }
    splits.append(Array(0...one.input.count))
    let ways = BodyWay.allCases.filter {
      one.settings.isEmpty || one.settings.contains($0.isVerbatim ? "verbatim" : "taken")
    }
    for split in splits {
      for way in ways {
        let fed = feed(one.input, split, way)
        if let refusal = one.refusal {
          #expect(fed.verdict == .malformed(refusal), "split at \(split), \(way)")
          continue
        }
        #expect(fed.verdict == (one.isPartial ? .more : isTrailers ? .trailers : .done), "split at \(split), \(way)")
        #expect(fed.payload == one.output.count, "split at \(split), \(way)")
        #expect(escaped(fed.taken) == escaped(own), "split at \(split), \(way)")
        switch way {
        case .feed: #expect(escaped(fed.written) == escaped(own), "split at \(split)")
        case .decode: #expect(escaped(fed.written) == escaped(one.output), "split at \(split)")
        case .reframe:
          let data = canonicalData(fed.written, isTorn: split.count > 1 || split[0] != 0)
          #expect(data.map(escaped) == escaped(one.output), "split at \(split): \(escaped(fed.written))")
        }
      }
    }
  }
}

private enum BodyWay: CaseIterable {
  case feed, reframe, decode
  var isVerbatim: Bool { self == .feed }
}

/// The data of a chunked body, or of the part of it that is there, in which sizes are lower-case or upper-case digits
/// without leading zeros and nothing else. Nil: it is not written so. `isTorn`: one leading zero may stand.
private func canonicalData(_ body: [UInt8], isTorn: Bool) -> [UInt8]? {
  var data: [UInt8] = []
  var rest = body[...]
  while !rest.isEmpty {
    guard let end = rest.firstIndex(of: 0x0D) else { return rest.count <= 9 ? data : nil }
    let text = String(decoding: rest[..<end], as: UTF8.self)
    guard let size = Int(text, radix: 16), size < 1 << 31 else { return nil }
    let plain = String(size, radix: 16)
    guard text.lowercased() == plain || (isTorn && text.lowercased() == "0" + plain) else { return nil }
    rest = rest[end...].dropFirst()
    guard rest.isEmpty || rest.first == 0x0A else { return nil }
    rest = rest.dropFirst()
    if size == 0 { return rest.isEmpty || Array(rest) == [0x0D, 0x0A] ? data : nil }
    data += rest.prefix(size)
    rest = rest.dropFirst(size)
    guard rest.starts(with: [0x0D, 0x0A].prefix(rest.count)) else { return nil }
    rest = rest.dropFirst(2)
  }
  return data
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

/// Feeds `input` in pieces that end at `splits` and at its end, until the body does. `taken`: what was consumed;
/// `written`: what goes on.
private func feed(_ input: [UInt8], _ splits: [Int], _ way: BodyWay) -> (
  taken: [UInt8], written: [UInt8], payload: Int, verdict: ChunkedDecoder.Verdict
) {
  var decoder = ChunkedDecoder()
  var taken: [UInt8] = []
  var written: [UInt8] = []
  var payload = 0
  var start = 0
  for end in splits + [input.count] {
    let piece = Array(input[start..<end])
    let memory = GuardedBytes(piece)
    let consumed: Int
    let data: Int
    let verdict: ChunkedDecoder.Verdict
    switch way {
    case .feed:
      (consumed, data, verdict) = decoder.feed(memory.base, piece.count)
      written += bytes(memory.base, consumed)
    case .reframe:
      let step = decoder.reframe(memory.base, piece.count)
      (consumed, data, verdict) = (step.consumed, step.payload, step.verdict)
      #expect(step.kept <= step.consumed)
      written += bytes(memory.base, step.kept)
    case .decode:
      (consumed, data, verdict) = decoder.decode(memory.base, piece.count)
      written += bytes(memory.base, data)
    }
    taken += piece[..<consumed]
    payload += data
    switch verdict {
    case .more:
      #expect(consumed == piece.count)
      start = end
    case .trailers, .done, .malformed: return (taken, written, payload, verdict)
    }
  }
  return (taken, written, payload, .more)
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
