// Where something can be reached, as people write it: `10.0.0.7:8080`, `[::1]:8080`, `model-3.internal:8080` or
// `unix:/run/model.sock`. Flags, snapshots and answers all read and write this one form.

package enum Endpoint: Hashable, Sendable {
  /// The address's bytes, the first in the highest bits.
  case ipv4(UInt32, port: UInt16)
  case ipv6(high: UInt64, low: UInt64, port: UInt16)
  /// A name that still has to be resolved.
  case name(String, port: UInt16)
  case unix(path: String)

  /// sockaddr_un holds 108 bytes with the closing zero.
  package static let unixPathBytesMax = 107
  /// RFC 1035 2.3.4.
  package static let nameBytesMax = 253

  package var port: UInt16? {
    switch self {
    case .ipv4(_, let port), .ipv6(_, _, let port), .name(_, let port): port
    case .unix: nil
    }
  }

  /// 127.0.0.0/8, ::1 or 127.0.0.0/8 mapped into IPv6. Unix sockets and names are not.
  package var isLoopback: Bool {
    switch self {
    case .ipv4(let address, _): address >> 24 == 127
    case .ipv6(let high, let low, _): high == 0 && (low == 1 || low >> 24 == 0xFFFF7F)
    case .name, .unix: false
    }
  }

  /// The host alone, IPv6 without brackets; the path of a Unix socket.
  package var host: String {
    switch self {
    case .ipv4(let address, _): formatIPv4(address)
    case .ipv6(let high, let low, _): formatIPv6(high: high, low: low)
    case .name(let name, _): name
    case .unix(let path): path
    }
  }
}

extension Endpoint: CustomStringConvertible {
  package var description: String {
    switch self {
    case .ipv4(let address, let port): "\(formatIPv4(address)):\(port)"
    case .ipv6(let high, let low, let port): "[\(formatIPv6(high: high, low: low))]:\(port)"
    case .name(let name, let port): "\(name):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}

/// What is wrong with an address and what to write instead.
package struct EndpointError: Error, Equatable, Sendable, CustomStringConvertible {
  package var reason: String
  package var description: String { reason }
}

extension Endpoint {
  package static let forms = "write 10.0.0.7:8080, [::1]:8080 or unix:/path"

  /// - Parameter ports: which ports make sense here; 0 does for a listener that lets the kernel choose.
  package static func parse(_ text: String, ports: ClosedRange<Int> = 1...65535) throws(EndpointError) -> Endpoint {
    let bytes = Array(text.utf8)
    if text.utf8.starts(with: "unix:".utf8) { return try parseUnix(text, bytes) }
    if bytes.starts(with: "http://".utf8) || bytes.starts(with: "https://".utf8) {
      throw EndpointError(reason: "\(quoted(text)) is a URL, only its host and port are wanted; \(forms)")
    }
    if bytes.first == UInt8(ascii: "[") {
      guard let close = bytes.firstIndex(of: UInt8(ascii: "]")) else {
        throw EndpointError(reason: "\(quoted(text)) has no closing ']'; write [::1]:8080")
      }
      guard let address = parseIPv6(bytes[1..<close]) else {
        if bytes[1..<close].contains(UInt8(ascii: "%")) {
          throw EndpointError(reason: "\(quoted(text)) names a zone, which is not supported; use a global address")
        }
        throw EndpointError(reason: "\(quoted(text)) holds no IPv6 address between its brackets; write [::1]:8080")
      }
      guard close + 1 < bytes.count, bytes[close + 1] == UInt8(ascii: ":") else {
        throw EndpointError(reason: "\(quoted(text)) has no port; write [::1]:8080")
      }
      let port = try parsePort(bytes[(close + 2)...], of: text, ports)
      return .ipv6(high: address.high, low: address.low, port: port)
    }
    guard let colon = bytes.lastIndex(of: UInt8(ascii: ":")) else {
      throw EndpointError(reason: "\(quoted(text)) is not host:port; \(forms)")
    }
    let host = bytes[..<colon]
    if host.contains(UInt8(ascii: ":")) {
      let isAddress = parseIPv6(bytes[...]) != nil || parseIPv6(host) != nil
      let what = isAddress ? "is an IPv6 address without brackets; write [::1]:8080" : "is not host:port; \(forms)"
      throw EndpointError(reason: "\(quoted(text)) \(what)")
    }
    if host.isEmpty { throw EndpointError(reason: "\(quoted(text)) has no host; \(forms)") }
    let port = try parsePort(bytes[(colon + 1)...], of: text, ports)
    if let address = parseIPv4(host) { return .ipv4(address, port: port) }
    guard isName(host) else {
      throw EndpointError(reason: "\(quoted(text)) is not host:port; \(forms)")
    }
    return .name(String(decoding: host, as: UTF8.self), port: port)
  }

  private static func parseUnix(_ text: String, _ bytes: [UInt8]) throws(EndpointError) -> Endpoint {
    let path = bytes[5...]
    if path.isEmpty { throw EndpointError(reason: "\(quoted(text)) has no path; write unix:/path") }
    if path.contains(0) { throw EndpointError(reason: "\(quoted(text)) has a zero byte in its path") }
    if path.count > unixPathBytesMax {
      throw EndpointError(
        reason: "\(quoted(text)) is too long: the path of a Unix socket has at most \(unixPathBytesMax) bytes")
    }
    return .unix(path: String(decoding: path, as: UTF8.self))
  }

  private static func parsePort(_ digits: ArraySlice<UInt8>, of text: String, _ ports: ClosedRange<Int>)
    throws(EndpointError) -> UInt16
  {
    if digits.isEmpty { throw EndpointError(reason: "\(quoted(text)) has no port after its ':'; \(forms)") }
    var port = 0
    for byte in digits {
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else {
        let shown = quoted(String(decoding: digits, as: UTF8.self))
        throw EndpointError(reason: "\(quoted(text)) has the port \(shown), which is not a number; \(forms)")
      }
      port = min(port * 10 + Int(digit), 1_000_000)
    }
    guard ports.contains(port), let result = UInt16(exactly: port) else {
      throw EndpointError(
        reason:
          "\(quoted(text)) has a port outside \(ports.lowerBound)...\(min(ports.upperBound, 65535)); choose another")
    }
    return result
  }

  /// Letters, digits, `-` and `_` between dots. A last label of digits would be a mistyped IPv4 address.
  private static func isName(_ host: ArraySlice<UInt8>) -> Bool {
    if host.count > nameBytesMax { return false }
    var labels = host.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    if labels.count > 1, labels.last?.isEmpty == true { labels.removeLast() }  // the root's dot
    for label in labels {
      if label.isEmpty || label.count > 63 { return false }
      if label.first == UInt8(ascii: "-") || label.last == UInt8(ascii: "-") { return false }
      for byte in label {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
          continue
        default: return false
        }
      }
    }
    guard let last = labels.last else { return false }
    return !last.allSatisfy { $0 &- UInt8(ascii: "0") < 10 }
  }
}

// MARK: - Addresses as text

/// Four decimal numbers without leading zeros (which other readers take for octal).
package func parseIPv4(_ text: ArraySlice<UInt8>) -> UInt32? {
  let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
  guard parts.count == 4 else { return nil }
  var result: UInt32 = 0
  for part in parts {
    guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
    var value: UInt32 = 0
    for byte in part {
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else { return nil }
      value = value * 10 + UInt32(digit)
    }
    guard value < 256 else { return nil }
    result = result << 8 | value
  }
  return result
}

package func formatIPv4(_ address: UInt32) -> String {
  "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255)"
}

/// RFC 4291 2.2: eight groups, `::` once for one or more zero groups, the last two groups may be an IPv4 address.
package func parseIPv6(_ text: ArraySlice<UInt8>) -> (high: UInt64, low: UInt64)? {
  let colon = UInt8(ascii: ":")
  var groups: [UInt16] = []
  var gap: Int?
  var at = text.startIndex
  if text.starts(with: [colon, colon]) {
    gap = 0
    at += 2
  }
  while at < text.endIndex {
    if groups.count == 8 { return nil }
    var value: UInt16 = 0
    var next = at
    while next < text.endIndex, next - at < 4, let digit = hexValue(text[next]) {
      value = value << 4 | UInt16(digit)
      next += 1
    }
    if next < text.endIndex, text[next] == UInt8(ascii: ".") {
      guard let tail = parseIPv4(text[at...]) else { return nil }
      groups.append(UInt16(tail >> 16))
      groups.append(UInt16(truncatingIfNeeded: tail))
      break
    }
    if next == at { return nil }
    groups.append(value)
    at = next
    if at == text.endIndex { break }
    guard text[at] == colon else { return nil }
    at += 1
    if at == text.endIndex { return nil }
    if text[at] == colon {
      if gap != nil { return nil }
      gap = groups.count
      at += 1
    }
  }
  if let gap {
    guard groups.count < 8 else { return nil }
    groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
  }
  guard groups.count == 8 else { return nil }
  let high = groups[..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
  let low = groups[4...].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
  return (high, low)
}

/// RFC 5952: lower case, no leading zeros, `::` for the longest run of two or more zero groups, mapped IPv4 in dots.
package func formatIPv6(high: UInt64, low: UInt64) -> String {
  if high == 0, low >> 32 == 0xFFFF { return "::ffff:" + formatIPv4(UInt32(truncatingIfNeeded: low)) }
  let groups = (0..<8).map { UInt16(truncatingIfNeeded: ($0 < 4 ? high : low) >> UInt64((3 - $0 % 4) * 16)) }
  var longest = 0..<0
  var i = 0
  while i < 8 {
    var end = i
    while end < 8, groups[end] == 0 { end += 1 }
    if end - i > max(longest.count, 1) { longest = i..<end }
    i = max(end, i + 1)
  }
  let text = { (part: ArraySlice<UInt16>) in part.map { String($0, radix: 16) }.joined(separator: ":") }
  if longest.isEmpty { return text(groups[...]) }
  return text(groups[..<longest.lowerBound]) + "::" + text(groups[longest.upperBound...])
}
