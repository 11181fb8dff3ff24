// Response heads: status line and fields, read in place from the replica's bytes; as strict as requests, because what
// two readers take for different messages here ends up as someone else's answer. (Only blanks before a colon are taken,
// and left out of what goes on, as RFC 9112 5.1 asks.) Called by Upstream each time bytes arrive, always from the start
// of the head. Whatever is refused becomes a 502.

/// One response head. Offsets and counts are bytes from the start of what was parsed.
package struct ResponseHead: BitwiseCopyable {
  /// Bytes of the whole head, the blank line included: the content starts here.
  package var headBytes = 0
  /// The Content-Length field's value when there is one, also where it does not frame (HEAD, 304). 0 otherwise.
  package var contentLength: UInt64 = 0
  /// The first field line, and the blank line.
  var fieldsStart = 0
  var fieldsEnd = 0
  /// The reason phrase; 0 bytes: none.
  var reasonStart = 0
  var reasonCount = 0
  /// Seconds the replica says it keeps an idle connection (Keep-Alive: timeout=…); `.max`: it does not say.
  package var keepAliveSeconds = UInt32.max
  package var status: UInt16 = 0
  package var framing = BodyFraming.none
  package var isHTTP10 = false
  /// The replica keeps its connection after this message: version and Connection options together (RFC 9112 9.3), and
  /// the message has an end of its own.
  package var keepAlive = false
  /// 1xx except 101: the final response is still to come (RFC 9110 15.2).
  package var isInterim = false
  /// 101: the connection is a tunnel from the end of this head on.
  package var isSwitching = false
  /// Content announced where there is none (1xx, 204, 304, the answer to HEAD): some servers send it all the same, and
  /// the next request's answer would begin with it, so the connection must not be reused.
  package var hasForbiddenLength = false
  package var kinds = FieldKinds()

  @inline(__always) package init() {}
}

/// Reads the head at the start of `bytes[..<count]`. `requestWasHead`: the answer has no content whatever it says.
/// `upgradeOffered`: the request went out with an Upgrade field. Never reads `bytes[count]` or beyond.
package func parseResponseHead(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, limits: HeadLimits, requestWasHead: Bool, upgradeOffered: Bool,
  fields: inout FieldTable, head: inout ResponseHead
) -> HeadVerdict {
  let end = min(count, limits.headBytes)
  fields.count = 0
  head = ResponseHead()
  var at = 0
  switch parseStatusLine(bytes, end, at: &at, head: &head) {
  case .complete: break
  case .partial: return count >= limits.headBytes ? .refused(.headTooLarge) : .partial
  case .refused(let refusal): return .refused(refusal)
  }
  head.fieldsStart = at

  var framing = FramingFields()
  var connection = ConnectionOptions()
  reading: while true {
    switch nextField(bytes, end, at: &at, limit: limits.fields, inResponse: true, fields: &fields) {
    case .partial: return count >= limits.headBytes ? .refused(.headTooLarge) : .partial
    case .refused(let refusal): return .refused(refusal)
    case .end:
      head.fieldsEnd = at &- 2
      break reading
    case .field(let kind):
      let field = fields[fields.count &- 1]
      head.kinds.insert(kind)
      switch kind {
      case .contentLength:
        if let refusal = framing.addLength(bytes, field) { return .refused(refusal) }
      case .transferEncoding:
        if let refusal = framing.addCoding(bytes, field) { return .refused(refusal) }
      case .connection:
        connection.add(bytes, field)
        guard connection.nominations <= ConnectionOptions.nominationsMax else {
          return .refused(.connectionOptionsTooMany)
        }
      case .keepAlive: head.keepAliveSeconds = keepAliveTimeout(bytes, field)
      default: break
      }
    }
  }
  head.headBytes = at

  if let refusal = framing.refusal(isHTTP10: head.isHTTP10) { return .refused(refusal) }
  head.contentLength = framing.length
  let announcesContent = framing.length > 0 || framing.coding == .chunked
  switch head.status {
  case 101:
    guard upgradeOffered else { return .refused(.switchingUnasked) }
    guard !framing.hasLength, framing.coding == .absent, !head.isHTTP10, hasForwardableProtocol(bytes, fields) else {
      return .refused(.switchingInvalid)
    }
    head.isSwitching = true
  case 100...199:
    head.isInterim = true
    head.hasForbiddenLength = announcesContent
  case 204, 304:
    head.hasForbiddenLength = announcesContent
  default:
    if requestWasHead {
      head.hasForbiddenLength = announcesContent
    } else if framing.hasLength {
      head.framing = .length
    } else {
      head.framing = framing.coding == .chunked ? .chunked : .untilClose
    }
  }
  head.keepAlive =
    !connection.close && (!head.isHTTP10 || connection.keepAlive) && head.framing != .untilClose
    && !head.hasForbiddenLength && !head.isSwitching
  if connection.nominations > 0 { connection.nominate(bytes, fields) }
  return .complete
}

/// status-line = HTTP-version SP status-code SP [ reason-phrase ] CRLF (RFC 9112 4). Some servers leave out the second
/// SP when they have no reason; no other freedom is given.
@inline(__always)
private func parseStatusLine(
  _ bytes: UnsafePointer<UInt8>, _ end: Int, at: inout Int, head: inout ResponseHead
) -> HeadVerdict {
  let prefix = ("HTTP/1." as StaticString).utf8Start
  var index = 0
  while index < 7 {
    guard index < end else { return .partial }
    guard bytes[index] == prefix[index] else {
      return .refused(index < 5 ? .notHTTP : .responseVersionUnsupported)
    }
    index &+= 1
  }
  guard end > 7 else { return .partial }
  guard bytes[7] | 1 == 0x31 else { return .refused(.responseVersionUnsupported) }
  head.isHTTP10 = bytes[7] == 0x30
  guard end > 8 else { return .partial }
  guard bytes[8] == Ascii.space else { return .refused(.statusLineInvalid) }
  var status: UInt16 = 0
  index = 9
  while index < 12 {
    guard index < end else { return .partial }
    guard isDigit(bytes[index]) else { return .refused(.statusLineInvalid) }
    status = status &* 10 &+ UInt16(bytes[index] &- Ascii.zero)
    index &+= 1
  }
  guard status >= 100, status <= 599 else { return .refused(.statusInvalid) }
  head.status = status
  guard end > 12 else { return .partial }
  guard bytes[12] == Ascii.space || bytes[12] == Ascii.carriageReturn else { return .refused(.statusLineInvalid) }
  let stop = endOfText(bytes, 12, end)
  guard stop < end else { return .partial }
  guard bytes[stop] == Ascii.carriageReturn else {
    return .refused(bytes[stop] == Ascii.lineFeed ? .bareLineFeed : .valueInvalid)
  }
  guard stop &+ 1 < end else { return .partial }
  guard bytes[stop &+ 1] == Ascii.lineFeed else { return .refused(.bareCarriageReturn) }
  if stop > 13 {
    head.reasonStart = 13
    head.reasonCount = stop &- 13
  }
  at = stop &+ 2
  return .complete
}

/// timeout=N of a Keep-Alive field (RFC 2068 19.7.1.1, as servers still send it), seconds; `.max` if there is none.
@inline(never)
private func keepAliveTimeout(_ bytes: UnsafePointer<UInt8>, _ field: Field) -> UInt32 {
  var list = ListWalk(field.value, field.valueLength)
  while list.next(bytes) {
    guard list.count > 8, equalsIgnoringCase(bytes + list.start, 8, "timeout=") else { continue }
    guard let seconds = parseDecimal(bytes + (list.start &+ 8), list.count &- 8) else { continue }
    return UInt32(clamping: seconds)
  }
  return .max
}
