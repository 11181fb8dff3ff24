// Trailer sections of chunked messages (RFC 9112 7.1.2). Called by the Pump when `ChunkedDecoder` has met one: it is
// collected until it is whole, checked like a head's fields, and written anew with only those fields that are harmless
// behind a body (RFC 9110 6.5.1).

/// Reads the section at the start of `bytes[..<count]`, up to and with the blank line. `sectionBytes`: its length.
/// `limits`: `headBytes` bounds the section, `fields` its lines. `inResponse`: as for `nextField`.
package func parseTrailers(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, limits: HeadLimits, inResponse: Bool = false,
  fields: inout FieldTable, sectionBytes: inout Int
) -> HeadVerdict {
  let end = min(count, limits.headBytes)
  fields.count = 0
  sectionBytes = 0
  var at = 0
  while true {
    switch nextField(bytes, end, at: &at, limit: limits.fields, inResponse: inResponse, fields: &fields) {
    case .partial: return count >= limits.headBytes ? .refused(.headTooLarge) : .partial
    case .refused(let refusal): return .refused(refusal)
    case .field: continue
    case .end:
      sectionBytes = at
      return .complete
    }
  }
}

/// Writes the trailer fields that may go on, then the final CRLF of the body. Never more than the section's own bytes,
/// or 2. Returns the bytes written; nil if they do not fit.
package func writeTrailers(
  _ fields: FieldTable, _ bytes: UnsafePointer<UInt8>, into out: UnsafeMutablePointer<UInt8>, capacity: Int
) -> Int? {
  var output = HeadOutput(out, capacity: capacity)
  var index = 0
  while index < fields.count {
    let field = fields[index]
    index &+= 1
    guard isTrailerAllowed(bytes, field) else { continue }
    output.put(bytes + field.name, field.nameLength)
    // Without a blank, so that a line never grows.
    output.put(Ascii.colon)
    output.put(bytes + field.value, field.valueLength)
    output.putLineEnd()
  }
  output.putLineEnd()
  return output.full ? nil : output.count
}

/// Not in a trailer section: what frames or routes the message, modifies the request, authenticates, controls the
/// response or says how to read the content (RFC 9110 6.5.1), and what is for one hop (7.6.1). A recipient may merge
/// trailers into the head, and they come after everyone has made their checks.
func isTrailerAllowed(_ bytes: UnsafePointer<UInt8>, _ field: Field) -> Bool {
  guard field.kind == .other else { return false }
  let name = bytes + field.name
  let count = field.nameLength
  // "-encoding", "-type", "-range" and the rest of the content's description; preconditions.
  if count >= 8, equalsIgnoringCase(name, 8, "content-") { return equalsIgnoringCase(name, count, "content-digest") }
  if count >= 3, equalsIgnoringCase(name, 3, "if-") { return false }
  switch count {
  case 3: return !equalsIgnoringCase(name, count, "age")
  case 4: return !equalsIgnoringCase(name, count, "date") && !equalsIgnoringCase(name, count, "vary")
  case 5: return !equalsIgnoringCase(name, count, "range")
  case 6:
    return !equalsIgnoringCase(name, count, "cookie") && !equalsIgnoringCase(name, count, "pragma")
      && !equalsIgnoringCase(name, count, "status")
  case 7: return !equalsIgnoringCase(name, count, "expires") && !equalsIgnoringCase(name, count, "warning")
  case 8: return !equalsIgnoringCase(name, count, "location")
  case 10: return !equalsIgnoringCase(name, count, "set-cookie")
  case 11: return !equalsIgnoringCase(name, count, "retry-after")
  case 13: return !equalsIgnoringCase(name, count, "authorization") && !equalsIgnoringCase(name, count, "cache-control")
  case 16: return !equalsIgnoringCase(name, count, "www-authenticate")
  case 18: return !equalsIgnoringCase(name, count, "proxy-authenticate")
  default: return true
  }
}
