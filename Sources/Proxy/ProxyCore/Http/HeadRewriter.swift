// From the head that came to the head that goes on. Runs of untouched lines are copied as they are, in one piece: name
// case, blanks, order and duplicates stay. Hop-by-hop fields stop here (RFC 9110 7.6.1), framing is stated once and in
// its plainest form, and the forwarding fields are added at the end. Called by Exchange, with heads that were parsed
// from the same bytes.

package enum ForwardedMode: UInt8, BitwiseCopyable {
  /// The client is a proxy that is trusted: our view of its address joins X-Forwarded-For, and X-Forwarded-Proto and
  /// -Host are put where it does not say them.
  case append
  /// What the client says about forwarding (X-Forwarded-…, X-Real-IP, Forwarded) is dropped, and ours put.
  case replace
  /// Nothing is added, and what the client says goes on.
  case off
}

/// What the writer adds to a request head. The pointers must stay valid during the call only.
package struct ForwardContext: BitwiseCopyable {
  /// The client's address as text, without a port: 10.0.0.1, ::1. At most 64 bytes.
  package var clientAddress: UnsafePointer<UInt8>
  package var clientAddressCount: Int
  /// Our name in Via. At most 128 bytes; 0: no Via line.
  package var viaName: UnsafePointer<UInt8>
  package var viaNameCount: Int
  /// Host for HTTP/1.0 requests that have none. At most 512 bytes.
  package var fallbackHost: UnsafePointer<UInt8>
  package var fallbackHostCount: Int
  /// A random number: the X-Request-Id, as 32 hexadecimal digits, of a request that has none.
  package var requestIdHigh: UInt64
  package var requestIdLow: UInt64
  package var addsRequestId: Bool
  package var forwarded: ForwardedMode
  /// The client's side is encrypted: X-Forwarded-Proto is https.
  package var isTLS: Bool

  @inline(__always)
  package init(
    clientAddress: UnsafePointer<UInt8>, clientAddressCount: Int, isTLS: Bool, requestIdHigh: UInt64,
    requestIdLow: UInt64, addsRequestId: Bool = true, forwarded: ForwardedMode, viaName: UnsafePointer<UInt8>,
    viaNameCount: Int,
    fallbackHost: UnsafePointer<UInt8>, fallbackHostCount: Int
  ) {
    self.clientAddress = clientAddress
    self.clientAddressCount = clientAddressCount
    self.isTLS = isTLS
    self.requestIdHigh = requestIdHigh
    self.requestIdLow = requestIdLow
    self.addsRequestId = addsRequestId
    self.forwarded = forwarded
    self.viaName = viaName
    self.viaNameCount = viaNameCount
    self.fallbackHost = fallbackHost
    self.fallbackHostCount = fallbackHostCount
  }
}

/// A written request head: its length, and where in it the parts are that the access log names. Bytes.
package struct ForwardedHead: BitwiseCopyable {
  package var count = 0
  package var methodStart = 0
  package var methodCount = 0
  package var targetStart = 0
  package var targetCount = 0
  package var requestIdStart = 0
  package var requestIdCount = 0

  @inline(__always) package init() {}
}

/// `writeRequestHead` makes a head longer by at most this many bytes, its context within the bounds given there:
/// our fields' names and fixed text (< 300), address twice, Via name, a fallback Host or a copy of a Host of at most
/// `forwardedHostMax` bytes, one line that a list of Upgrade fields becomes.
package let requestHeadGrowthMax = 1536
/// As above: a Connection line, a space after the status code.
package let responseHeadGrowthMax = 128
/// A longer Host is not repeated in X-Forwarded-Host; DNS names end at 253 characters.
private let forwardedHostMax = 512

/// Writes the head to send to the replica. Nil if it does not fit.
package func writeRequestHead(
  _ head: RequestHead, _ fields: FieldTable, _ bytes: UnsafePointer<UInt8>, _ context: ForwardContext,
  into out: UnsafeMutablePointer<UInt8>, capacity: Int
) -> ForwardedHead? {
  var output = HeadOutput(out, capacity: capacity)
  var result = ForwardedHead()
  result.methodCount = head.methodCount
  // Source offset from which lines wait to be copied.
  var run = head.methodStart
  if head.versionDiffers || head.authorityCount > 0 {
    output.put(bytes + head.methodStart, head.methodCount &+ 1)
    result.targetStart = output.count
    if head.targetIsServer { output.put(Ascii.asterisk) }
    if head.targetNeedsSlash { output.put(Ascii.slash) }
    output.put(bytes + head.targetStart, head.targetCount)
    result.targetCount = output.count &- result.targetStart
    output.put(" HTTP/1.1\r\n")
    if !head.hasHost {
      output.put("Host: ")
      if head.authorityCount > 0 {
        output.put(bytes + head.authorityStart, head.authorityCount)
      } else {
        output.put(context.fallbackHost, context.fallbackHostCount)
      }
      output.putLineEnd()
    }
    run = head.fieldsStart
  } else {
    result.targetStart = head.targetStart &- head.methodStart
    result.targetCount = head.targetCount
  }

  let hasContent = head.framing == .chunked || head.contentLength > 0
  var index = 0
  while index < fields.count {
    let field = fields[index]
    let kind = field.kind
    if field.isPlain {
      index &+= 1
      continue
    }
    let next = fields.lineEnd(index, head.fieldsEnd)
    var keeps = !field.isNominated
    if keeps {
      switch kind.rule.request {
      case .passes: break
      case .stops: keeps = false
      case .claim: keeps = context.forwarded != .replace
      case .stopsWhereForwarding: keeps = context.forwarded == .off
      case .judged:
        switch kind {
        case .host: keeps = head.authorityCount == 0
        case .contentLength, .transferEncoding: keeps = isPlainFraming(bytes, field)
        case .expect:
          if head.isHTTP10 {
            keeps = false
          } else if !hasContent {
            keeps = !equalsIgnoringCase(bytes + field.value, field.valueLength, "100-continue")
          }
        case .maxForwards: keeps = head.method != .options && head.method != .trace
        case .xForwardedFor:
          switch context.forwarded {
          case .append: keeps = index != head.lastForwardedFor
          case .replace: keeps = false
          case .off: break
          }
        case .xRequestId:
          // One line, whose value the log shows; one without a value would stand in the way of ours.
          keeps = field.value == head.requestIdStart && head.requestIdCount > 0
          if keeps {
            result.requestIdStart = output.count &+ field.value &- run
            result.requestIdCount = field.valueLength
          }
        default: preconditionFailure("a field's rule has a judge that is missing")
        }
      }
    }
    index &+= 1
    if keeps { continue }

    output.put(bytes + run, field.name &- run)
    run = next
    if field.isNominated { continue }
    switch kind {
    case .host:
      putName(&output, bytes, field)
      output.put(bytes + head.authorityStart, head.authorityCount)
      output.putLineEnd()
    case .contentLength:
      putName(&output, bytes, field)
      output.putDecimal(head.contentLength)
      output.putLineEnd()
    case .transferEncoding:
      output.put("Transfer-Encoding: chunked\r\n")
    case .maxForwards:
      putName(&output, bytes, field)
      if let hops = parseDecimal(bytes + field.value, field.valueLength) {
        output.putDecimal(hops == 0 ? 0 : hops &- 1)
      } else {
        output.put(bytes + field.value, field.valueLength)
      }
      output.putLineEnd()
    case .xForwardedFor:
      if context.forwarded == .append {
        putName(&output, bytes, field)
        if field.valueLength > 0 {
          output.put(bytes + field.value, field.valueLength)
          output.put(", ")
        }
        output.put(context.clientAddress, context.clientAddressCount)
        output.putLineEnd()
      }
    default: break
    }
  }
  output.put(bytes + run, head.fieldsEnd &- run)

  putForwarding(&output, head, bytes, context)
  if context.viaNameCount > 0 {
    output.put(head.isHTTP10 ? "Via: 1.0 " : "Via: 1.1 ")
    output.put(context.viaName, context.viaNameCount)
    output.putLineEnd()
  }
  if head.requestIdCount == 0 && context.addsRequestId {
    output.put("X-Request-Id: ")
    result.requestIdStart = output.count
    result.requestIdCount = 32
    output.putHex(context.requestIdHigh)
    output.putHex(context.requestIdLow)
    output.putLineEnd()
  }
  if head.acceptsTrailers || head.wantsUpgrade {
    output.put(
      head.wantsUpgrade
        ? (head.acceptsTrailers ? "Connection: Upgrade, TE\r\n" : "Connection: Upgrade\r\n") : "Connection: TE\r\n")
    if head.acceptsTrailers { output.put("TE: trailers\r\n") }
    if head.wantsUpgrade { putUpgrade(&output, fields, bytes) }
  }
  output.putLineEnd()
  result.count = output.count
  return output.full ? nil : result
}

/// Writes the head to send to the client. `close`: announce the connection's end; not said in interim responses.
/// Nil if it does not fit. A chunked response to a client of HTTP/1.0 goes without its Transfer-Encoding: the caller
/// removes the coding from the content.
package func writeResponseHead(
  _ head: ResponseHead, _ fields: FieldTable, _ bytes: UnsafePointer<UInt8>, clientIsHTTP10: Bool, close: Bool,
  into out: UnsafeMutablePointer<UInt8>, capacity: Int
) -> Int? {
  var output = HeadOutput(out, capacity: capacity)
  // Source offset from which lines wait to be copied.
  var run = 0
  if head.isHTTP10 || head.reasonCount == 0 {
    output.put("HTTP/1.1 ")
    output.put(bytes + 9, 3)
    output.put(Ascii.space)
    output.put(bytes + head.reasonStart, head.reasonCount)
    output.putLineEnd()
    run = head.fieldsStart
  }
  let bodiless = head.isInterim || head.isSwitching || head.status == 204
  let dropsChunked = clientIsHTTP10 && head.framing == .chunked
  // 426 has to say which protocol it wants (RFC 9110 15.5.22).
  let keepsUpgrade = head.isSwitching || head.status == 426
  var hasUpgrade = false
  var index = 0
  while index < fields.count {
    let field = fields[index]
    let kind = field.kind
    if field.isPlain {
      index &+= 1
      continue
    }
    let next = fields.lineEnd(index, head.fieldsEnd)
    index &+= 1
    var keeps = !field.isNominated
    var rewrites = field.isSpaced
    if keeps {
      switch kind.rule.response {
      case .passes, .claim, .stopsWhereForwarding: keeps = !field.isSpaced
      case .stops: (keeps, rewrites) = (false, false)
      case .judged:
        switch kind {
        case .upgrade:
          hasUpgrade = keepsUpgrade
          keeps = keepsUpgrade && !field.isSpaced
          rewrites = keepsUpgrade
        case .contentLength:
          rewrites = !bodiless
          keeps = rewrites && isPlainFraming(bytes, field)
        case .transferEncoding:
          rewrites = head.framing == .chunked && !dropsChunked
          keeps = rewrites && isPlainFraming(bytes, field)
        case .trailer:
          keeps = !dropsChunked && !field.isSpaced
          rewrites = !dropsChunked
        default: preconditionFailure("a field's rule has a judge that is missing")
        }
      }
    }
    if keeps { continue }
    output.put(bytes + run, field.name &- run)
    run = next
    guard rewrites, !field.isNominated else { continue }
    switch kind {
    case .contentLength:
      putName(&output, bytes, field)
      output.putDecimal(head.contentLength)
      output.putLineEnd()
    case .transferEncoding:
      output.put("Transfer-Encoding: chunked\r\n")
    default:
      // Not a byte longer: a blank goes from before the colon.
      putName(&output, bytes, field)
      output.put(bytes + field.value, field.valueLength)
      output.putLineEnd()
    }
  }
  output.put(bytes + run, head.fieldsEnd &- run)
  if !head.isInterim {
    if head.isSwitching {
      output.put("Connection: Upgrade\r\n")
    } else if close {
      output.put(hasUpgrade ? "Connection: close, Upgrade\r\n" : "Connection: close\r\n")
    } else if clientIsHTTP10 {
      output.put(hasUpgrade ? "Connection: keep-alive, Upgrade\r\n" : "Connection: keep-alive\r\n")
    } else if hasUpgrade {
      output.put("Connection: Upgrade\r\n")
    }
  }
  output.putLineEnd()
  return output.full ? nil : output.count
}

// MARK: - Parts

/// Whether a framing field can go on as it stands: one space after the colon, no blanks behind, the length in canonical
/// decimal, the coding in lower case. Anything else is legal, but some recipient may see it otherwise.
@inline(__always)
private func isPlainFraming(_ bytes: UnsafePointer<UInt8>, _ field: Field) -> Bool {
  let end = field.value &+ field.valueLength
  guard field.value == field.name &+ field.nameLength &+ 2, bytes[field.value &- 1] == Ascii.space,
    bytes[end] == Ascii.carriageReturn
  else { return false }
  if field.kind == .contentLength { return bytes[field.value] != Ascii.zero || field.valueLength == 1 }
  return bytes[field.value] == 0x63 && word(bytes, end &- 8) == word((" chunked" as StaticString).utf8Start, 0)
}

/// The field's name as it came, colon, space.
@inline(__always)
private func putName(_ output: inout HeadOutput, _ bytes: UnsafePointer<UInt8>, _ field: Field) {
  output.put(bytes + field.name, field.nameLength)
  output.put(": ")
}

@inline(__always)
private func putForwarding(
  _ output: inout HeadOutput, _ head: RequestHead, _ bytes: UnsafePointer<UInt8>, _ context: ForwardContext
) {
  switch context.forwarded {
  case .off: return
  case .append, .replace: break
  }
  let replaces = context.forwarded == .replace
  if replaces || head.lastForwardedFor < 0 {
    output.put("X-Forwarded-For: ")
    output.put(context.clientAddress, context.clientAddressCount)
    output.putLineEnd()
  }
  if replaces || !head.kinds.contains(.xForwardedProto) {
    output.put(context.isTLS ? "X-Forwarded-Proto: https\r\n" : "X-Forwarded-Proto: http\r\n")
  }
  if replaces || !head.kinds.contains(.xForwardedHost) {
    let isAbsolute = head.authorityCount > 0
    let count = isAbsolute ? head.authorityCount : head.hostCount
    if count > 0, count <= forwardedHostMax {
      output.put("X-Forwarded-Host: ")
      output.put(bytes + (isAbsolute ? head.authorityStart : head.hostStart), count)
      output.putLineEnd()
    }
  }
}

/// One Upgrade line with the protocols that we pass on, in their order.
private func putUpgrade(_ output: inout HeadOutput, _ fields: FieldTable, _ bytes: UnsafePointer<UInt8>) {
  output.put("Upgrade: ")
  var isFirst = true
  var index = 0
  while index < fields.count {
    let field = fields[index]
    index &+= 1
    guard field.kind == .upgrade else { continue }
    var list = ListWalk(field.value, field.valueLength)
    while list.next(bytes) {
      guard isForwardableProtocol(bytes + list.start, list.count) else { continue }
      // No blank: a list that came without them must not grow with its length.
      if !isFirst { output.put(Ascii.comma) }
      isFirst = false
      output.put(bytes + list.start, list.count)
    }
  }
  output.putLineEnd()
}
