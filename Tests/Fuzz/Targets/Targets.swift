// What is fuzzed: a name, and a function that takes any bytes and comes back, or dies where something is wrong. The same
// functions replay what was once found (ReplayTests.swift) and are driven by libFuzzer (Entry.swift, `make fuzz`).

import ProxyWire
import TestSupport

@testable import ProxyCore

enum FuzzTarget: String, CaseIterable {
  case request, response, chunked, admin, tls, engine

  func run(_ input: UnsafeRawBufferPointer) {
    switch self {
    case .request: fuzzRequest(input)
    case .response: fuzzResponse(input)
    case .chunked: fuzzChunked(input)
    case .admin: fuzzAdmin(input)
    case .tls: fuzzTls(input)
    case .engine: fuzzEngine(input)
    }
  }
}

/// The input, taken from its front.
struct Feed {
  private let input: UnsafeRawBufferPointer
  private var at = 0

  init(_ input: UnsafeRawBufferPointer) { self.input = input }

  var isEmpty: Bool { at >= input.count }
  /// 0 when there is none left.
  mutating func byte() -> UInt8 {
    guard at < input.count else { return 0 }
    at += 1
    return input[at - 1]
  }
  /// 0..<bound.
  mutating func below(_ bound: Int) -> Int { Int(byte()) % max(1, bound) }
  mutating func bytes(_ count: Int) -> [UInt8] {
    let taken = min(count, input.count - at)
    defer { at += taken }
    return Array(input[at..<at + taken])
  }
}

/// `body` gets memory of exactly these bytes, so that the address sanitizer sees one read too far.
func withCopy<R>(_ input: UnsafeRawBufferPointer, _ body: (UnsafeMutablePointer<UInt8>) -> R) -> R {
  let copy = UnsafeMutablePointer<UInt8>.allocate(capacity: max(1, input.count))
  defer { copy.deallocate() }
  for (index, byte) in input.enumerated() { copy[index] = byte }
  return body(copy)
}

func check(_ condition: Bool, _ text: @autoclosure () -> String) {
  if !condition { fatalError(text()) }
}

private func rest(_ input: UnsafeRawBufferPointer, from: Int) -> UnsafeRawBufferPointer {
  UnsafeRawBufferPointer(rebasing: input[min(from, input.count)...])
}

// MARK: - Messages

/// A head that is taken whole is partial at every prefix, and what the rewriter makes of it is a head with the same
/// meaning.
private func fuzzRequest(_ input: UnsafeRawBufferPointer) {
  var fields = FieldTable.allocate(capacity: 64)
  defer { fields.deallocate() }
  withCopy(input) { bytes in
    var head = RequestHead()
    let verdict = parseRequestHead(bytes, input.count, limits: HeadLimits(), fields: &fields, head: &head)
    guard verdict == .complete else { return }
    let count = head.headBytes
    checkPrefixes(input, count) { part, partCount in
      var again = RequestHead()
      return parseRequestHead(part, partCount, limits: HeadLimits(), fields: &fields, head: &again)
    }
    _ = parseRequestHead(bytes, input.count, limits: HeadLimits(), fields: &fields, head: &head)
    let room = UnsafeMutablePointer<UInt8>.allocate(capacity: count + requestHeadGrowthMax)
    defer { room.deallocate() }
    let via: StaticString = "fuzz"
    let context = ForwardContext(
      clientAddress: via.utf8Start, clientAddressCount: 4, isTLS: false, requestIdHigh: 1, requestIdLow: 2,
      forwarded: .append, viaName: via.utf8Start, viaNameCount: 4, fallbackHost: via.utf8Start, fallbackHostCount: 4)
    guard
      let written = writeRequestHead(
        head, fields, bytes, context, into: room, capacity: count + requestHeadGrowthMax)
    else { fatalError("a head that was taken could not be rewritten") }
    var again = RequestHead()
    let second = parseRequestHead(room, written.count, limits: HeadLimits(), fields: &fields, head: &again)
    check(second == .complete && again.headBytes == written.count, "what was rewritten is no head")
    check(
      again.framing == head.framing && again.contentLength == head.contentLength && again.method == head.method
        && again.hasHost, "a rewritten head means something else")
  }
}

private func fuzzResponse(_ input: UnsafeRawBufferPointer) {
  guard let first = input.first else { return }
  let input = rest(input, from: 1)
  var fields = FieldTable.allocate(capacity: 64)
  defer { fields.deallocate() }
  withCopy(input) { bytes in
    func parse(_ part: UnsafePointer<UInt8>, _ count: Int, _ head: inout ResponseHead) -> HeadVerdict {
      parseResponseHead(
        part, count, limits: HeadLimits(), requestWasHead: first & 1 != 0, upgradeOffered: first & 2 != 0,
        fields: &fields, head: &head)
    }
    var head = ResponseHead()
    guard parse(bytes, input.count, &head) == .complete else { return }
    checkPrefixes(input, head.headBytes) { part, partCount in
      var again = ResponseHead()
      return parse(part, partCount, &again)
    }
  }
}

private func checkPrefixes(
  _ input: UnsafeRawBufferPointer, _ count: Int, _ parse: (UnsafePointer<UInt8>, Int) -> HeadVerdict
) {
  check(count <= input.count, "a head is longer than its bytes")
  // All of a short one, the ends of a long one.
  for end in 0..<count where end < 64 || end + 64 > count {
    withCopy(UnsafeRawBufferPointer(rebasing: input[..<end])) { part in
      check(parse(part, end) == .partial, "the first \(end) of \(count) bytes of a good head are not just partial")
    }
  }
}

/// In pieces a body is what it is at once. The first byte says how it is cut.
private func fuzzChunked(_ input: UnsafeRawBufferPointer) {
  guard let first = input.first else { return }
  let input = rest(input, from: 1)
  let whole = chunkedResult(input, pieces: max(1, input.count))
  let parts = chunkedResult(input, pieces: Int(first % 16) + 1)
  check(whole.consumed == parts.consumed && whole.payload == parts.payload, "a body in pieces is another body")
  check("\(whole.verdict)" == "\(parts.verdict)", "\(whole.verdict) at once is \(parts.verdict) in pieces")
  // Taken out of its chunks it is as long as it was counted.
  let decoded: (consumed: Int, payload: Int) = withCopy(input) { bytes in
    var decoder = ChunkedDecoder()
    let (consumed, payload, _) = decoder.decode(bytes, input.count)
    return (consumed, payload)
  }
  if case .malformed = whole.verdict { return }
  check(decoded.consumed == whole.consumed && decoded.payload == whole.payload, "decoding counts something else")
}

private func chunkedResult(
  _ input: UnsafeRawBufferPointer, pieces: Int
) -> (consumed: Int, payload: Int, verdict: ChunkedDecoder.Verdict) {
  var decoder = ChunkedDecoder()
  var result = (consumed: 0, payload: 0, verdict: ChunkedDecoder.Verdict.more)
  while result.consumed < input.count {
    let part = UnsafeRawBufferPointer(rebasing: input[result.consumed..<min(input.count, result.consumed + pieces)])
    let step = withCopy(part) { decoder.feed($0, part.count) }
    result.payload += step.payload
    result.verdict = step.verdict
    guard case .more = step.verdict else {
      if case .malformed = step.verdict { return (0, 0, step.verdict) }
      result.consumed += step.consumed
      return result
    }
    check(step.consumed == part.count, "a decoder that wants more has left something")
    result.consumed += part.count
  }
  return result
}

// MARK: - The admin API

/// The bytes as requests of a connection, cut anywhere; and as each document the API takes.
private func fuzzAdmin(_ input: UnsafeRawBufferPointer) {
  let document = Array(input)
  if let snapshot = try? ReplicaSnapshot.decode(document) {
    let again = try? ReplicaSnapshot.decode(snapshot.encode())
    check(again == snapshot, "a list of replicas is not read as it was written")
  }
  _ = try? ProxySettings.decode(document)
  _ = try? Json.parse(document)
  guard let first = input.first else { return }
  var fields = FieldTable.allocate(capacity: AdminLimits().fields)
  defer { fields.deallocate() }
  var reader = AdminRequestReader(first & 1 == 0 ? .full : .readOnly, AdminLimits())
  var at = 1
  let piece = Int(first >> 1) + 1
  while at < input.count {
    reader.feed(UnsafeRawBufferPointer(rebasing: input[at..<min(input.count, at + piece)]))
    at += piece
    reading: while true {
      _ = reader.takeContinue()
      switch reader.next(&fields) {
      case .needsMore: break reading
      case .request(let request): _ = try? request.number("x", in: 0...9, missing: 0)
      case .refused: return
      }
    }
  }
}
