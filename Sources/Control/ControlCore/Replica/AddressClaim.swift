// A loopback address, or a port, that no other replica on this machine has, whoever started it: claimed by binding an
// abstract Unix socket of its name. Such names live where loopback addresses live, in the network namespace, and are
// free again when the process that claimed them ends, however it ends.

import CPlatform
import Foundation

final class AddressClaim {
  /// In host order: 0x7F480309 is 127.72.3.9.
  let address: UInt32
  /// Only where the replica is given a port.
  let port: Int?
  private let socket: Int32

  private init(address: UInt32, port: Int?, socket: Int32) {
    self.address = address
    self.port = port
    self.socket = socket
  }

  deinit { close(socket) }

  var text: String { [24, 16, 8, 0].map { String(address >> $0 & 255) }.joined(separator: ".") }

  /// For trying out the filter; no replica gets it.
  static let checkAddress: UInt32 = 0x7F40_0001
  /// For replicas that have no address of their own; below the ports that the kernel gives to clients.
  static let ports = 20_000...29_999
  /// Of each search; after that, this machine is full.
  private static let tries = 4096

  /// In 127.64.0.0/10, without the ends of each 256. The first choice follows from the name, so that a replica mostly
  /// has the same address when it is started again.
  static func address(for name: String) -> AddressClaim? {
    for number in numbers(name) {
      let address = 0x7F40_0000 | UInt32(number >> 16 & 0x3FFF) << 8 | UInt32(number % 254 + 1)
      if address == checkAddress { continue }
      if let socket = claim("sky-replica-address/\(address)") {
        return AddressClaim(address: address, port: nil, socket: socket)
      }
    }
    return nil
  }

  /// A port of 127.0.0.1 that nobody listens on now.
  static func port(for name: String) -> AddressClaim? {
    for number in numbers(name) {
      let port = ports.lowerBound + Int(number % UInt32(ports.count))
      guard let socket = claim("sky-replica-port/\(port)") else { continue }
      let claim = AddressClaim(address: 0x7F00_0001, port: port, socket: socket)
      if claim.canListen(on: port) { return claim }
    }
    return nil
  }

  /// False: a program that listens on all addresses has this port, so that no replica can have it.
  func canListen(on port: Int) -> Bool {
    let probe = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard probe >= 0 else { return true }
    defer { close(probe) }
    var one: Int32 = 1
    setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &one, 4)
    let name = SocketName(.v4(address), port: UInt16(port))
    return name.withAddress { bind(probe, $0, $1) } == 0 || errno != EADDRINUSE
  }

  /// FNV-1a of the name, then steps from there.
  private static func numbers(_ name: String) -> some Sequence<UInt32> {
    var hash: UInt32 = 2_166_136_261
    for byte in name.utf8 { hash = (hash ^ UInt32(byte)) &* 16_777_619 }
    return (0..<UInt32(tries)).lazy.map { (hash &+ $0 &* 0x9E37_79B1) & 0x7FFF_FFFF }
  }

  private static func claim(_ name: String) -> Int32? {
    let socket = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { return nil }
    var place = sockaddr_un()
    place.sun_family = sa_family_t(AF_UNIX)
    // The zero before the name makes it abstract.
    withUnsafeMutableBytes(of: &place.sun_path) { $0[1...].copyBytes(from: Array(name.utf8)) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
    let result = withUnsafeBytes(of: &place) {
      bind(socket, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length)
    }
    if result == 0 { return socket }
    close(socket)
    return nil
  }
}
