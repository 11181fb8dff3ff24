// An IPv4 or IPv6 socket address as the kernel has it in memory, read from another process or made for a call.

import Glibc

struct SocketName: Hashable, Sendable {
  /// sockaddr_in6, the longer of the two.
  static let bytesMax = 28

  var host: HostAddress
  var port: UInt16
  /// Of an IPv6 link-local address.
  var scope: UInt32 = 0

  init(_ host: HostAddress, port: UInt16) {
    self.host = host
    self.port = port
  }

  /// nil: another family, or too short.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= 16 else { return nil }
    let family = Int32(bytes.loadUnaligned(as: UInt16.self))
    let port = UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    switch family {
    case AF_INET:
      self.init(.v4(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))), port: port)
    case AF_INET6:
      guard bytes.count >= 24 else { return nil }
      let high = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      let low = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
      self.init(.v6(high: high, low: low), port: port)
      if bytes.count >= 28 { scope = bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self) }
    default: return nil
    }
  }

  var isV6: Bool { if case .v6 = host { true } else { false } }

  /// For a socket of IPv6, which reaches IPv4 by mapped addresses.
  var mapped: SocketName {
    guard case .v4(let address) = host else { return self }
    return SocketName(.v6(high: 0, low: 0xFFFF << 32 | UInt64(address)), port: port)
  }

  func withAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    switch host {
    case .v4(let address):
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_port = port.bigEndian
      name.sin_addr.s_addr = address.bigEndian
      return withUnsafeBytes(of: &name) {
        body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
      }
    case .v6(let high, let low):
      var name = sockaddr_in6()
      name.sin6_family = sa_family_t(AF_INET6)
      name.sin6_port = port.bigEndian
      name.sin6_scope_id = scope
      withUnsafeMutableBytes(of: &name.sin6_addr) {
        $0.storeBytes(of: high.bigEndian, as: UInt64.self)
        $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
      }
      return withUnsafeBytes(of: &name) {
        body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
      }
    }
  }

  /// What a socket is bound to; nil: it is none of IPv4 or IPv6.
  static func own(of socket: Int32) -> SocketName? {
    var room = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
    return withUnsafeMutableBytes(of: &room) { bytes in
      var length = socklen_t(bytesMax)
      let name = bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self)
      guard getsockname(socket, name, &length) == 0 else { return nil }
      return SocketName(UnsafeRawBufferPointer(rebasing: bytes[..<Int(min(length, socklen_t(bytesMax)))]))
    }
  }
}

/// The addresses of this machine's interfaces, looked up again when an unknown one comes and the last look is old.
struct MachineAddresses {
  /// Seconds; an interface that gets its address later is noticed then.
  private static let trust = 2.0

  private var all: Set<HostAddress> = []
  private var lookedAt = -1000.0

  mutating func contains(_ host: HostAddress) -> Bool {
    if all.contains(host) { return true }
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    let now = Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    guard now - lookedAt > Self.trust else { return false }
    lookedAt = now
    look()
    return all.contains(host)
  }

  private mutating func look() {
    var first: UnsafeMutablePointer<ifaddrs>?
    guard getifaddrs(&first) == 0 else { return }
    defer { freeifaddrs(first) }
    all = []
    var next = first
    while let entry = next {
      next = entry.pointee.ifa_next
      guard let name = entry.pointee.ifa_addr else { continue }
      let length = Int32(name.pointee.sa_family) == AF_INET6 ? 28 : 16
      if let it = SocketName(UnsafeRawBufferPointer(start: name, count: length)) { all.insert(it.host) }
    }
  }
}
