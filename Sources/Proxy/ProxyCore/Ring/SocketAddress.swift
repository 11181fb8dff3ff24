// An IPv4, IPv6 or Unix-domain socket address as plain bytes, so that it can live in slots and tables.

import Glibc

/// Room for any address we use: sockaddr_un is the longest with 110 bytes (man 7 unix).
package struct SocketAddress: BitwiseCopyable {
  package typealias Words = (
    UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
  )
  /// The bytes of the sockaddr, in the kernel's layout.
  package var storage: Words = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  /// Bytes of `storage` in use; 0 = no address.
  package var length: UInt32 = 0

  package init() {}

  /// AF_INET, AF_INET6 or AF_UNIX.
  package var family: Int32 { Int32(UInt16(truncatingIfNeeded: storage.0)) }

  package static func ipv4(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, port: UInt16) -> SocketAddress {
    var result = SocketAddress()
    result.withBytes { bytes in
      bytes.storeBytes(of: UInt16(AF_INET), toByteOffset: 0, as: UInt16.self)
      bytes.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
      bytes[4] = a
      bytes[5] = b
      bytes[6] = c
      bytes[7] = d
    }
    result.length = 16
    return result
  }

  /// The port of an internet address, or 0.
  package var port: UInt16 {
    family == AF_UNIX ? 0 : UInt16(bigEndian: UInt16(truncatingIfNeeded: storage.0 >> 16))
  }

  @inline(__always)
  package mutating func withBytes<R>(_ body: (UnsafeMutableRawBufferPointer) -> R) -> R {
    withUnsafeMutableBytes(of: &storage, body)
  }
}
