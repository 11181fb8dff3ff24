// From text to the bytes the kernel wants, and back. Beside the ring, not in it: addresses are read at start and when
// replicas change, and printed in logs; the ring only carries their bytes.

import Glibc
import ProxyWire

extension SocketAddress {
  /// nil for a name, which has to be resolved first, and for a path that no sockaddr_un can hold.
  package init?(_ endpoint: Endpoint) {
    switch endpoint {
    case .name: return nil
    case .ipv4(let address, let port):
      self = .ipv4(
        UInt8(address >> 24), UInt8(address >> 16 & 255), UInt8(address >> 8 & 255), UInt8(address & 255), port: port)
    case .ipv6(let high, let low, let port): self = .ipv6(high: high, low: low, port: port)
    case .unix(let path):
      guard let address = SocketAddress(unixPath: path) else { return nil }
      self = address
    }
  }

  package static func ipv6(high: UInt64, low: UInt64, port: UInt16, scope: UInt32 = 0) -> SocketAddress {
    var result = SocketAddress()
    result.withBytes { bytes in
      bytes.storeBytes(of: UInt16(AF_INET6), toByteOffset: 0, as: UInt16.self)
      bytes.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
      bytes.storeBytes(of: high.bigEndian, toByteOffset: 8, as: UInt64.self)
      bytes.storeBytes(of: low.bigEndian, toByteOffset: 16, as: UInt64.self)
      bytes.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
    }
    result.length = 28  // sizeof(sockaddr_in6)
    return result
  }

  package init?(unixPath path: String) {
    let count = path.utf8.count
    guard (1...Endpoint.unixPathBytesMax).contains(count), !path.utf8.contains(0) else { return nil }
    self.init()
    withBytes { bytes in
      bytes.storeBytes(of: UInt16(AF_UNIX), toByteOffset: 0, as: UInt16.self)
      for (i, byte) in path.utf8.enumerated() { bytes[2 + i] = byte }
    }
    length = UInt32(2 + count + 1)  // with the path's closing zero
  }

  /// nil for an empty address, an unnamed Unix socket (every client of one is unnamed) and an unknown family.
  package var endpoint: Endpoint? {
    var copy = self
    let length = Int(length)
    return copy.withBytes { bytes -> Endpoint? in
      switch family {
      case AF_INET where length >= 16:
        return .ipv4(UInt32(bigEndian: bytes.load(fromByteOffset: 4, as: UInt32.self)), port: port)
      case AF_INET6 where length >= 28:
        return .ipv6(
          high: UInt64(bigEndian: bytes.load(fromByteOffset: 8, as: UInt64.self)),
          low: UInt64(bigEndian: bytes.load(fromByteOffset: 16, as: UInt64.self)), port: port)
      case AF_UNIX where length > 2 && bytes[2] != 0:
        let path = bytes[2..<min(length, bytes.count)].prefix { $0 != 0 }
        return .unix(path: String(decoding: path, as: UTF8.self))
      default: return nil
      }
    }
  }

  /// `10.0.0.7:8080`, `[::1]:8080`, `unix:/path`; `unix:` for an unnamed Unix socket, `-` for no address.
  package var text: String { endpoint?.description ?? (family == AF_UNIX ? "unix:" : "-") }
}

extension Endpoint {
  /// What to do about it when it cannot be listened on, with this errno.
  func cure(_ code: Int32) -> String {
    if case .unix = self {
      return switch code {
      case ENOENT, ENOTDIR: "create its folder first"
      case EACCES, EPERM, EROFS: "check the folder's permissions"
      default: "choose another path"
      }
    }
    return switch code {
    case EADDRINUSE: "another process listens there: stop it or choose another port"
    case EADDRNOTAVAIL: "this machine does not have the address: choose one of `ip addr`, or :PORT for all of them"
    case EACCES, EPERM: "a port below 1024 needs the right to it (CAP_NET_BIND_SERVICE): choose a higher one"
    default: "choose another address"
    }
  }
}
