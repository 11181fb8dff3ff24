// Request heads: request line and fields, read in place from the client's bytes. Called by Downstream each time bytes
// arrive, always from the start of the head: nothing is remembered between calls, so a head that comes in pieces gets
// the verdict it would have got in one. What cannot become valid any more is refused at once, not waited for.
//
//   leading CRLFs (≤ 4) → method SP → target SP → version CRLF → field lines → blank line → checks of the whole
//
// The result is offsets into those bytes; `writeRequestHead` makes the head for the replica from them.

package enum Method: UInt8, BitwiseCopyable {
  case get, head, post, put, delete, options, trace, patch, connect, other

  /// RFC 9110 9.2.1.
  package var isSafe: Bool {
    switch self {
    case .get, .head, .options, .trace: true
    case .post, .put, .delete, .patch, .connect, .other: false
    }
  }
  /// RFC 9110 9.2.2. An unknown method may do anything.
  package var isIdempotent: Bool {
    switch self {
    case .get, .head, .options, .trace, .put, .delete: true
    case .post, .patch, .connect, .other: false
    }
  }
}

/// One request head. Offsets and counts are bytes from the start of what was parsed.
package struct RequestHead: BitwiseCopyable {
  /// Bytes of the whole head, leading empty lines and the blank line included: the body starts here.
  package var headBytes = 0
  package var methodStart = 0
  package var methodCount = 0
  /// What to forward as the target: of an absolute-form one only path and query, as they came.
  package var targetStart = 0
  package var targetCount = 0
  /// The authority of an absolute-form target, userinfo left out; it takes the place of Host (RFC 9112 3.2.2). 0: none.
  package var authorityStart = 0
  package var authorityCount = 0
  /// The value of the Host field; 0 bytes when `hasHost` is false.
  package var hostStart = 0
  package var hostCount = 0
  /// The value of the first X-Request-Id that has one, the only one that goes on; 0 bytes: none.
  package var requestIdStart = 0
  package var requestIdCount = 0
  /// 0 unless `framing` is `.length`.
  package var contentLength: UInt64 = 0
  /// The first field line, and the blank line.
  var fieldsStart = 0
  var fieldsEnd = 0
  /// Index of the last X-Forwarded-For that goes on, -1: none.
  var lastForwardedFor = -1
  package var method = Method.other
  package var framing = BodyFraming.none
  /// An absolute-form target without a path: "/" goes before `target` ("http://h?x" → "/?x").
  package var targetNeedsSlash = false
  /// An absolute-form target of OPTIONS with neither path nor query: forwarded as "*" (RFC 9112 3.2.4).
  package var targetIsServer = false
  package var isHTTP10 = false
  /// The request line does not say HTTP/1.1, so the forwarded one cannot be a copy.
  var versionDiffers = false
  /// The client wants its connection kept: version and Connection options together (RFC 9112 9.3).
  package var keepAlive = false
  /// The client waits for 100 Continue before it sends the content (RFC 9110 10.1.1).
  package var expectContinue = false
  /// A GET without content whose Connection and Upgrade fields ask for a protocol that we pass on (RFC 9110 7.8).
  package var wantsUpgrade = false
  /// The client keeps trailers: TE lists "trailers" (RFC 9110 10.1.4).
  package var acceptsTrailers = false
  package var hasHost = false
  /// Max-Forwards of an OPTIONS or TRACE has come down to 0: we are the final recipient (RFC 9110 7.6.2).
  package var maxForwardsZero = false
  /// The kinds of field that go on or that the writer must replace.
  package var kinds = FieldKinds()

  @inline(__always) package init() {}
}

/// Longer methods than this are answered 501; the longest registered one has 17 characters.
private let methodBytesMax = 32
/// Empty lines tolerated before the request line: some clients send one after a body (RFC 9112 2.2).
private let emptyLinesMax = 4

/// Reads the head at the start of `bytes[..<count]`. `.complete`: `head` and `fields` describe it. At
/// `limits.headBytes` without an end it is refused. Never reads `bytes[count]` or beyond.
package func parseRequestHead(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, limits: HeadLimits, fields: inout FieldTable, head: inout RequestHead
) -> HeadVerdict {
  let end = min(count, limits.headBytes)
  fields.count = 0
  head = RequestHead()
  var at = 0
  switch parseRequestLine(bytes, end, limits: limits, at: &at, head: &head) {
  case .complete: break
  case .partial: return count >= limits.headBytes ? .refused(.targetTooLong) : .partial
  case .refused(let refusal): return .refused(refusal)
  }
  head.fieldsStart = at

  var framing = FramingFields()
  var connection = ConnectionOptions()
  var expectsContinue = false
  reading: while true {
    switch nextField(bytes, end, at: &at, limit: limits.fields, inResponse: false, fields: &fields) {
    case .partial: return count >= limits.headBytes ? .refused(.headTooLarge) : .partial
    case .refused(let refusal): return .refused(refusal)
    case .end:
      head.fieldsEnd = at &- 2
      break reading
    case .field(let kind):
      let field = fields[fields.count &- 1]
      head.kinds.insert(kind)
      switch kind {
      case .host:
        guard !head.hasHost else { return .refused(.hostRepeated) }
        guard authorityHostEnd(bytes + field.value, field.valueLength) != nil else { return .refused(.hostInvalid) }
        head.hasHost = true
        head.hostStart = field.value
        head.hostCount = field.valueLength
      case .contentLength:
        if let refusal = framing.addLength(bytes, field) { return .refused(refusal) }
      case .transferEncoding:
        if let refusal = framing.addCoding(bytes, field) { return .refused(refusal) }
      case .connection:
        connection.add(bytes, field)
        guard connection.nominations <= ConnectionOptions.nominationsMax else {
          return .refused(.connectionOptionsTooMany)
        }
      case .te:
        if listContains(bytes, field, "trailers") { head.acceptsTrailers = true }
      case .expect:
        if listContains(bytes, field, "100-continue") { expectsContinue = true }
      case .maxForwards:
        if head.method == .options || head.method == .trace,
          parseDecimal(bytes + field.value, field.valueLength) == 0
        {
          head.maxForwardsZero = true
        }
      case .xForwardedFor: head.lastForwardedFor = fields.count &- 1
      case .xRequestId:
        if head.requestIdCount == 0 {
          head.requestIdStart = field.value
          head.requestIdCount = field.valueLength
        }
      default: break
      }
    }
  }
  head.headBytes = at

  if let refusal = framing.refusal(isHTTP10: head.isHTTP10) { return .refused(refusal) }
  if framing.hasLength {
    head.framing = .length
    head.contentLength = framing.length
  } else if framing.coding == .chunked {
    head.framing = .chunked
  }
  if !head.hasHost {
    if !head.isHTTP10 { return .refused(.hostMissing) }
  } else if head.authorityCount > 0 {
    let isSecure = bytes[head.methodStart &+ head.methodCount &+ 5] | 0x20 == 0x73  // "http" "s"
    guard
      authoritiesMatch(
        bytes + head.authorityStart, head.authorityCount, bytes + head.hostStart, head.hostCount,
        defaultPort: isSecure ? 443 : 80)
    else { return .refused(.authorityMismatch) }
  }

  let hasContent = head.framing == .chunked || head.contentLength > 0
  head.keepAlive = !connection.close && (!head.isHTTP10 || connection.keepAlive)
  if head.isHTTP10 { head.acceptsTrailers = false }
  head.wantsUpgrade =
    connection.upgrade && head.kinds.contains(.upgrade) && head.method == .get && !head.isHTTP10 && !hasContent
    && hasForwardableProtocol(bytes, fields)
  head.expectContinue = expectsContinue && hasContent && !head.isHTTP10
  if connection.nominations > 0 {
    connection.nominate(bytes, fields)
    forgetNominated(fields, &head)
  }
  return .complete
}

/// After nomination: what the head says about fields that will not go on is taken back.
@inline(never)
private func forgetNominated(_ fields: FieldTable, _ head: inout RequestHead) {
  head.kinds = FieldKinds()
  head.lastForwardedFor = -1
  head.requestIdCount = 0
  var index = 0
  while index < fields.count {
    let field = fields[index]
    if !field.isNominated {
      head.kinds.insert(field.kind)
      if field.kind == .xForwardedFor { head.lastForwardedFor = index }
      if field.kind == .xRequestId, head.requestIdCount == 0 {
        head.requestIdStart = field.value
        head.requestIdCount = field.valueLength
      }
    }
    index &+= 1
  }
  if !head.kinds.contains(.expect) { head.expectContinue = false }
}

/// Whether one of the value's list elements is `option`, whatever its case.
@inline(never)
func listContains(_ bytes: UnsafePointer<UInt8>, _ field: Field, _ option: StaticString) -> Bool {
  var list = ListWalk(field.value, field.valueLength)
  while list.next(bytes) {
    if equalsIgnoringCase(bytes + list.start, list.count, option) { return true }
  }
  return false
}

// MARK: - Request line

/// request-line = method SP request-target SP HTTP-version CRLF (RFC 9112 3), empty lines before it skipped.
@inline(__always)
private func parseRequestLine(
  _ bytes: UnsafePointer<UInt8>, _ end: Int, limits: HeadLimits, at: inout Int, head: inout RequestHead
) -> HeadVerdict {
  if at < end, bytes[at] <= Ascii.carriageReturn {
    switch skipEmptyLines(bytes, end, at: &at) {
    case .complete: break
    case .partial: return .partial
    case .refused(let refusal): return .refused(refusal)
    }
  }
  let methodStart = at
  guard let methodEnd = endOfMethod(bytes, end, methodStart, &head.method) else {
    // Every byte there is belongs to a method that has not ended, or one of them to no method.
    let stop = endOfToken(bytes, methodStart, min(end, methodStart &+ methodBytesMax &+ 1))
    if stop &- methodStart > methodBytesMax { return .refused(.methodTooLong) }
    return stop == end ? .partial : .refused(.methodInvalid)
  }
  head.methodStart = methodStart
  head.methodCount = methodEnd &- methodStart
  if head.method == .connect { return .refused(.connectUnsupported) }

  let targetStart = methodEnd &+ 1
  let targetLimit = min(end, targetStart &+ limits.targetBytes &+ 1)
  let targetEnd = endOfTarget(bytes, targetStart, targetLimit)
  if targetStart < end {
    switch bytes[targetStart] {
    case Ascii.slash: break
    case Ascii.asterisk where head.method == .options: break
    case 0x48, 0x68: break  // "H", "h": judged when all of it is here
    case 0...0x20: return .refused(.targetMissing)
    default:
      // Bytes that make no target, but may never become a request either (what follows an upgrade that was declined):
      // judged when the line has ended.
      return containsLineEnd(bytes + targetStart, end &- targetStart) ? .refused(.targetInvalid) : .partial
    }
  }
  if targetEnd == targetLimit {
    return targetEnd &- targetStart > limits.targetBytes ? .refused(.targetTooLong) : .partial
  }
  if bytes[targetEnd] != Ascii.space {
    return .refused(bytes[targetEnd] == Ascii.carriageReturn ? .versionMissing : .targetInvalid)
  }
  head.targetStart = targetStart
  head.targetCount = targetEnd &- targetStart
  if bytes[targetStart] != Ascii.slash, let refusal = judgeTarget(bytes, &head) { return .refused(refusal) }

  let versionStart = targetEnd &+ 1
  // "HTTP/1.1" CR LF and "HTTP/1.0" CR LF; anything else, and what is not all here yet, the slow way.
  if end &- versionStart >= 10, bytes[versionStart &+ 8] == Ascii.carriageReturn,
    bytes[versionStart &+ 9] == Ascii.lineFeed
  {
    let version = word(bytes, versionStart)
    if version == word(("HTTP/1.1" as StaticString).utf8Start, 0) {
      at = versionStart &+ 10
      return .complete
    }
    if version == word(("HTTP/1.0" as StaticString).utf8Start, 0) {
      head.isHTTP10 = true
      head.versionDiffers = true
      at = versionStart &+ 10
      return .complete
    }
  }
  head.versionDiffers = true
  return judgeVersion(bytes, end, versionStart, at: &at)
}

@inline(never)
private func skipEmptyLines(_ bytes: UnsafePointer<UInt8>, _ end: Int, at: inout Int) -> HeadVerdict {
  var lines = 0
  while at < end, bytes[at] == Ascii.carriageReturn || bytes[at] == Ascii.lineFeed {
    if bytes[at] == Ascii.lineFeed { return .refused(.bareLineFeed) }
    if lines == emptyLinesMax { return .refused(.emptyLinesTooMany) }
    guard at &+ 1 < end else { return .partial }
    guard bytes[at &+ 1] == Ascii.lineFeed else { return .refused(.bareCarriageReturn) }
    lines &+= 1
    at &+= 2
  }
  return .complete
}

/// The end of the method at `start`, which is one or more tchars before a SP; nil if that is not (yet) so.
@inline(__always)
private func endOfMethod(
  _ bytes: UnsafePointer<UInt8>, _ end: Int, _ start: Int, _ method: inout Method
) -> Int? {
  if end &- start >= 8 {
    // The two that make up nearly all traffic, in one load.
    let first = word(bytes, start)
    if first & 0xFFFF_FFFF == word(("GET     " as StaticString).utf8Start, 0) & 0xFFFF_FFFF {
      method = .get
      return start &+ 3
    }
    if first & 0xFF_FFFF_FFFF == word(("POST    " as StaticString).utf8Start, 0) & 0xFF_FFFF_FFFF {
      method = .post
      return start &+ 4
    }
  }
  return endOfRareMethod(bytes, end, start, &method)
}

@inline(never)
private func endOfRareMethod(
  _ bytes: UnsafePointer<UInt8>, _ end: Int, _ start: Int, _ method: inout Method
) -> Int? {
  let stop = endOfToken(bytes, start, min(end, start &+ methodBytesMax &+ 1))
  let count = stop &- start
  guard stop < end, count > 0, count <= methodBytesMax, bytes[stop] == Ascii.space else { return nil }
  method = knownMethod(bytes + start, count)
  return stop
}

/// Methods are case-sensitive (RFC 9110 9.1): "get" is an unknown one.
private func knownMethod(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Method {
  if equals(bytes, count, "GET") { return .get }
  if equals(bytes, count, "HEAD") { return .head }
  if equals(bytes, count, "POST") { return .post }
  if equals(bytes, count, "PUT") { return .put }
  if equals(bytes, count, "DELETE") { return .delete }
  if equals(bytes, count, "OPTIONS") { return .options }
  if equals(bytes, count, "TRACE") { return .trace }
  if equals(bytes, count, "PATCH") { return .patch }
  if equals(bytes, count, "CONNECT") { return .connect }
  return .other
}

@inline(__always)
private func equals(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ literal: StaticString) -> Bool {
  guard count == literal.utf8CodeUnitCount else { return false }
  var index = 0
  while index < count {
    if bytes[index] != literal.utf8Start[index] { return false }
    index &+= 1
  }
  return true
}

/// A target that is not in origin-form: "*", or absolute-form, which is taken apart (RFC 9112 3.2.2, 3.2.4).
@inline(never)
private func judgeTarget(_ bytes: UnsafePointer<UInt8>, _ head: inout RequestHead) -> Refusal? {
  let start = head.targetStart
  let end = start &+ head.targetCount
  if bytes[start] == Ascii.asterisk { return head.targetCount == 1 ? nil : .targetInvalid }

  var authority = start
  if head.targetCount >= 7, equalsIgnoringCase(bytes + start, 7, "http://") {
    authority &+= 7
  } else if head.targetCount >= 8, equalsIgnoringCase(bytes + start, 8, "https://") {
    authority &+= 8
  } else {
    return .targetInvalid
  }
  var path = authority
  while path < end, bytes[path] != Ascii.slash, bytes[path] != Ascii.question {
    if bytes[path] == Ascii.at {
      // A second "@" is then part of the host, and refused there.
      guard head.authorityStart == 0, isUserInfo(bytes + authority, path &- authority) else { return .authorityInvalid }
      authority = path &+ 1
      head.authorityStart = authority
    }
    path &+= 1
  }
  guard authorityHostEnd(bytes + authority, path &- authority) != nil else { return .authorityInvalid }
  head.authorityStart = authority
  head.authorityCount = path &- authority
  head.targetStart = path
  head.targetCount = end &- path
  head.targetIsServer = path == end && head.method == .options
  head.targetNeedsSlash = !head.targetIsServer && (path == end || bytes[path] != Ascii.slash)
  return nil
}

/// HTTP-version = "HTTP" "/" DIGIT "." DIGIT (RFC 9112 2.3), case-sensitive; what is not 1.1 or 1.0 CRLF, or not whole.
/// A higher minor version is read, and forwarded, as 1.1 (RFC 9110 2.5).
@inline(never)
private func judgeVersion(_ bytes: UnsafePointer<UInt8>, _ end: Int, _ start: Int, at: inout Int) -> HeadVerdict {
  let prefix = ("HTTP/" as StaticString).utf8Start
  var index = 0
  while index < 5 {
    guard start &+ index < end else { return .partial }
    guard bytes[start &+ index] == prefix[index] else { return .refused(.versionInvalid) }
    index &+= 1
  }
  guard start &+ 5 < end else { return .partial }
  guard isDigit(bytes[start &+ 5]) else { return .refused(.versionInvalid) }
  guard start &+ 6 < end else { return .partial }
  guard bytes[start &+ 6] == Ascii.dot else { return .refused(.versionInvalid) }
  guard start &+ 7 < end else { return .partial }
  guard isDigit(bytes[start &+ 7]) else { return .refused(.versionInvalid) }
  guard start &+ 8 < end else { return .partial }
  if bytes[start &+ 8] == Ascii.lineFeed { return .refused(.bareLineFeed) }
  guard bytes[start &+ 8] == Ascii.carriageReturn else { return .refused(.versionInvalid) }
  guard bytes[start &+ 5] == 0x31 else { return .refused(.versionUnsupported) }
  guard start &+ 9 < end else { return .partial }
  guard bytes[start &+ 9] == Ascii.lineFeed else { return .refused(.bareCarriageReturn) }
  at = start &+ 10
  return .complete
}
