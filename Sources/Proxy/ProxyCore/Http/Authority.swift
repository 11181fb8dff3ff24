// Who a request is for: uri-host [ ":" port ] (RFC 9110 7.2, RFC 3986 3.2), as found in Host and in absolute-form
// targets. Checked byte by byte, because a name that two servers read differently is a way around either of them.

/// The end of the host in a valid, non-empty authority of `count` bytes (its port, if any, follows at +1), or nil.
@inline(__always)
func authorityHostEnd(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int? {
  guard count > 0 else { return nil }
  var index = 0
  if bytes[0] == Ascii.openBracket {
    guard let end = literalEnd(bytes, count) else { return nil }
    index = end
  } else {
    index = skipPlainName(bytes, 0, count)
    while index < count {
      let byte = bytes[index]
      if AsciiSet.registeredName.contains(byte) {
        index &+= 1
      } else if byte == Ascii.percent {
        guard index &+ 2 < count, hexValue(bytes[index &+ 1]) < 16, hexValue(bytes[index &+ 2]) < 16 else { return nil }
        index &+= 3
      } else {
        break
      }
    }
    // http and https URIs need a host (RFC 9110 4.2.1).
    guard index > 0 else { return nil }
  }
  if index == count { return index }
  guard bytes[index] == Ascii.colon else { return nil }
  var port = index &+ 1
  while port < count {
    guard isDigit(bytes[port]) else { return nil }
    port &+= 1
  }
  return index
}

/// Index behind the "]" of an IP-literal that starts at 0.
@inline(never)
private func literalEnd(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int? {
  var end = 1
  while end < count, bytes[end] != Ascii.closeBracket { end &+= 1 }
  guard end < count, end > 1 else { return nil }
  let isFuture = bytes[1] | 0x20 == 0x76  // "v"
  guard isFuture ? isFutureAddress(bytes + 2, end &- 2) : isIPv6Address(bytes + 1, end &- 1) else { return nil }
  return end &+ 1
}

/// 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ), what follows the "v" of IPvFuture.
private func isFutureAddress(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  var index = 0
  while index < count, hexValue(bytes[index]) < 16 { index &+= 1 }
  guard index > 0, index &+ 1 < count, bytes[index] == Ascii.dot else { return false }
  index &+= 1
  while index < count {
    guard AsciiSet.userInfo.contains(bytes[index]) else { return false }
    index &+= 1
  }
  return true
}

/// IPv6address: eight groups of 1...4 digits, or fewer with one "::" for at least one group; the last two may be
/// written as an IPv4 address.
private func isIPv6Address(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  var index = 0
  var groups = 0
  var elided = false
  if count >= 2, bytes[0] == Ascii.colon {
    guard bytes[1] == Ascii.colon else { return false }
    elided = true
    index = 2
  }
  while index < count {
    let start = index
    while index < count, hexValue(bytes[index]) < 16 { index &+= 1 }
    if index < count, bytes[index] == Ascii.dot {
      groups &+= 2
      return isIPv4Address(bytes + start, count &- start) && (elided ? groups <= 7 : groups == 8)
    }
    guard index > start, index &- start <= 4 else { return false }
    groups &+= 1
    if index == count { break }
    guard bytes[index] == Ascii.colon else { return false }
    index &+= 1
    guard index < count else { return false }
    if bytes[index] == Ascii.colon {
      guard !elided else { return false }
      elided = true
      index &+= 1
    }
  }
  return elided ? groups <= 7 : groups == 8
}

/// Four dec-octets, 0...255, without leading zeros.
private func isIPv4Address(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  var index = 0
  var octets = 0
  while octets < 4 {
    if octets > 0 {
      guard index < count, bytes[index] == Ascii.dot else { return false }
      index &+= 1
    }
    let start = index
    var value = 0
    while index < count, index &- start < 3, isDigit(bytes[index]) {
      value = value &* 10 &+ Int(bytes[index] &- Ascii.zero)
      index &+= 1
    }
    guard index > start, value <= 255, bytes[start] != Ascii.zero || index &- start == 1 else { return false }
    octets &+= 1
  }
  return index == count
}

/// Whether two valid authorities name the same place for a scheme whose default port is `defaultPort`: the host without
/// regard to case, the port with an absent or empty one meaning the default (RFC 9110 4.2.3).
@inline(never)
func authoritiesMatch(
  _ one: UnsafePointer<UInt8>, _ oneCount: Int, _ other: UnsafePointer<UInt8>, _ otherCount: Int, defaultPort: UInt64
) -> Bool {
  guard let oneEnd = authorityHostEnd(one, oneCount), let otherEnd = authorityHostEnd(other, otherCount) else {
    return false
  }
  return equalsIgnoringCase(one, oneEnd, other, otherEnd)
    && port(one, oneEnd, oneCount, defaultPort) == port(other, otherEnd, otherCount, defaultPort)
}

private func port(_ bytes: UnsafePointer<UInt8>, _ hostEnd: Int, _ count: Int, _ defaultPort: UInt64) -> UInt64 {
  guard hostEnd &+ 1 < count else { return defaultPort }
  // Out of all range stays out of all range: such a port equals no default.
  return parseDecimal(bytes + (hostEnd &+ 1), count &- hostEnd &- 1) ?? .max
}

/// userinfo = *( unreserved / pct-encoded / sub-delims / ":" ) (RFC 3986 3.2.1).
func isUserInfo(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  var index = 0
  while index < count {
    if bytes[index] == Ascii.percent {
      guard index &+ 2 < count, hexValue(bytes[index &+ 1]) < 16, hexValue(bytes[index &+ 2]) < 16 else { return false }
      index &+= 3
    } else {
      guard AsciiSet.userInfo.contains(bytes[index]) else { return false }
      index &+= 1
    }
  }
  return true
}
