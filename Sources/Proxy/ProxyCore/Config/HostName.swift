// The host of a Host field or of --admin-host in one spelling, so that two can be compared. A cold room: it reads what
// the head parser has found well-formed, once per request of the admin API.

import ProxyWire

enum HostName {
  /// `LocalHost.:80` and `localhost` are `localhost`, `[0::1]:80` is `::1`, `127.0.0.1:80` is `127.0.0.1`: lower case,
  /// without port and root dot, IPv6 addresses as RFC 5952 writes them. Empty where there is no host.
  static func folded(_ authority: String) -> String {
    let bytes = Array(authority.utf8)
    if bytes.first == UInt8(ascii: "[") {
      let end = bytes.firstIndex(of: UInt8(ascii: "]")) ?? bytes.endIndex
      let literal = bytes[1..<end]
      if let address = parseIPv6(literal) { return formatIPv6(high: address.high, low: address.low) }
      return String(decoding: literal.map(lower), as: UTF8.self)
    }
    var host = bytes[..<(bytes.firstIndex(of: UInt8(ascii: ":")) ?? bytes.endIndex)]
    if host.last == UInt8(ascii: ".") { host.removeLast() }
    return String(decoding: host.map(lower), as: UTF8.self)
  }

  /// Whether it means this machine wherever it is looked up: `localhost` (RFC 6761 6.3) or a loopback address. Takes
  /// what `folded` gives.
  static func isLoopback(_ host: String) -> Bool {
    if host == "localhost" { return true }
    let bytes = Array(host.utf8)[...]
    if let address = parseIPv4(bytes) { return Endpoint.ipv4(address, port: 1).isLoopback }
    if let address = parseIPv6(bytes) { return Endpoint.ipv6(high: address.high, low: address.low, port: 1).isLoopback }
    return false
  }

  private static func lower(_ byte: UInt8) -> UInt8 {
    (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
  }
}
