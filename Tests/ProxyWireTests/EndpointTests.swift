// Addresses as text, judged against the C library.

import Glibc
import SimKit
import TestSupport
import Testing

@testable import ProxyWire

@Suite struct EndpointTests {
  @Test(arguments: [
    ("10.0.0.7:8080", "10.0.0.7:8080"), ("0.0.0.0:1", "0.0.0.0:1"), ("255.255.255.255:65535", "255.255.255.255:65535"),
    ("[::1]:8080", "[::1]:8080"), ("[::]:80", "[::]:80"), ("[2001:DB8:0:0:1:0:0:1]:80", "[2001:db8::1:0:0:1]:80"),
    ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"), ("[1:2:3:4:5:6:7::]:80", "[1:2:3:4:5:6:7:0]:80"),
    ("model-3.internal:80", "model-3.internal:80"), ("localhost:80", "localhost:80"), ("a_b:80", "a_b:80"),
    ("model.internal.:80", "model.internal.:80"), ("1x:80", "1x:80"), ("10.0.0.7:00080", "10.0.0.7:80"),
    ("unix:/run/model.sock", "unix:/run/model.sock"), ("unix:rel;a=b:c", "unix:rel;a=b:c"),
  ])
  func reads(_ text: String, _ canonical: String) throws {
    let endpoint = try Endpoint.parse(text)
    #expect(endpoint.description == canonical)
    #expect(try Endpoint.parse(canonical) == endpoint)
  }

  @Test(arguments: [
    ("foo", "'foo' is not host:port; write 10.0.0.7:8080, [::1]:8080 or unix:/path"), ("", "'' is not host:port"),
    (":80", "has no host"), ("a:", "has no port"), ("a:b", "the port 'b', which is not a number"),
    ("a:0", "port outside 1...65535"), ("a:65536", "outside"), ("a:99999999999999999999", "outside"),
    ("a:-1", "not a number"), ("a:80-90", "not a number"), ("::1:8080", "without brackets"),
    ("::1", "without brackets"),
    ("[::1]", "has no port"), ("[::1:80", "no closing ']'"), ("[::g]:80", "no IPv6 address"),
    ("[fe80::1%eth0]:80", "names a zone"), ("[1.2.3.4]:80", "no IPv6 address"), ("[::1]80", "has no port"),
    ("256.0.0.1:80", "is not host:port"), ("1.2.3:80", "is not host:port"), ("010.0.0.1:80", "is not host:port"),
    ("123:80", "is not host:port"), ("a..b:80", "is not host:port"), ("-a:80", "is not host:port"),
    ("a b:80", "is not host:port"), ("é:80", "is not host:port"), ("http://a:80", "is a URL"), ("unix:", "has no path"),
    ("unix:/a\0b", "zero byte"), ("unix:/" + String(repeating: "x", count: 107), "at most 107 bytes"),
    (String(repeating: "x", count: 64) + ":80", "is not host:port"), ("a:b:80", "is not host:port"),
  ])
  func refuses(_ text: String, _ reason: String) {
    do {
      let endpoint = try Endpoint.parse(text)
      Issue.record("\(text) was read as \(endpoint)")
    } catch {
      #expect(error.reason.contains(reason), "\(error)")
    }
  }

  @Test func zeroIsAPortForListeners() throws {
    #expect(try Endpoint.parse("127.0.0.1:0", ports: 0...65535) == .ipv4(0x7F00_0001, port: 0))
  }

  @Test(arguments: [
    ("127.0.0.1:80", true), ("127.9.9.9:80", true), ("[::1]:80", true), ("[::ffff:127.0.0.1]:80", true),
    ("0.0.0.0:80", false), ("10.0.0.1:80", false), ("[::]:80", false), ("[::2]:80", false), ("[::7f00:1]:80", false),
    ("localhost:80", false), ("unix:/x", false),
  ])
  func knowsLoopback(_ text: String, _ expected: Bool) throws {
    #expect(try Endpoint.parse(text).isLoopback == expected)
  }

  private func kernelIPv6(_ text: String) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: 16)
    return inet_pton(AF_INET6, text, &bytes) == 1 ? bytes : nil
  }

  private func octets(_ address: (high: UInt64, low: UInt64)) -> [UInt8] {
    [address.high, address.low].flatMap { half in withUnsafeBytes(of: half.bigEndian) { Array($0) } }
  }

  /// The C library is the judge of what an address is and how it is written.
  @Test func agreesWithTheLibrary() {
    var chance = Chance()
    let letters = Array("0123456789abcdefF:::..1".utf8)
    for round in 0..<50_000 {
      let text: [UInt8]
      if round % 2 == 0 {
        text = (0..<chance.below(24)).map { _ in letters[chance.below(letters.count)] }
      } else {
        // Near to an address: mostly zero groups, so that every shape of `::` comes up.
        let (high, low) = (chance.sparse(), chance.sparse())
        let mine = formatIPv6(high: high, low: low)
        text = chance.below(3) == 0 ? chance.mutated(Array(mine.utf8)) : Array(mine.utf8)
        var bytes = octets((high, low))
        var buffer = [CChar](repeating: 0, count: 64)
        inet_ntop(AF_INET6, &bytes, &buffer, 64)
        let theirs = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // The library also writes ::a.b.c.d, which RFC 5952 leaves to prefixes known to embed IPv4.
        if high != 0 || low >> 32 != 0 { #expect(mine == theirs, "\(chance.replay())") }
      }
      if text.contains(0) { continue }
      let shown = String(decoding: text, as: UTF8.self)
      if shown.utf8.count != text.count { continue }
      let mine = parseIPv6(text[...]).map(octets)
      #expect(mine == kernelIPv6(shown), "\(quoted(shown)), \(chance.replay())")
      var address: UInt32 = 0
      let theirs = inet_pton(AF_INET, shown, &address) == 1 ? UInt32(bigEndian: address) : nil
      #expect(parseIPv4(text[...]) == theirs, "\(quoted(shown)), \(chance.replay())")
    }
  }

  @Test func anyBytesAreStood() {
    var chance = Chance()
    for text in ["10.0.0.7:8080", "[2001:db8::1]:80", "unix:/run/x", "model.internal:443"] {
      for _ in 0..<5_000 {
        let mutated = String(decoding: chance.mutated(Array(text.utf8)), as: UTF8.self)
        guard let endpoint = try? Endpoint.parse(mutated) else { continue }
        #expect((try? Endpoint.parse(endpoint.description)) == endpoint, "\(chance.replay())")
      }
    }
  }
}

extension Chance {
  /// Four 16-bit groups, about half of them zero.
  fileprivate mutating func sparse() -> UInt64 {
    var result: UInt64 = 0
    for _ in 0..<4 { result = result << 16 | (below(2) == 0 ? 0 : next() & (below(2) == 0 ? 0xF : 0xFFFF)) }
    return result
  }
}
