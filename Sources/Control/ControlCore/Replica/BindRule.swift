// Where a replica's sockets really go, as pure rules: every replica believes that this machine is its own.
//
//   asked                                     given
//   bind   0.0.0.0, ::, 127.0.0.1, ::1 or     the replica's address, same port (v4-mapped on IPv6 sockets)
//          the machine's own address : port
//   bind   127.0.0.1 : 0                      the replica's address, a port the kernel chooses
//   bind   another address of these : 0       as asked: such a port is the process's alone anyway, and a socket bound
//                                             to 127.x.y.z could not reach the world afterwards
//   connect, sendto  any of these : port      the replica's address, if this replica has bound that port
//   anything else                             as asked
//
// One socket on 0.0.0.0 and another on :: (IPv6 only) with the same port are usual, and so are 127.0.0.1 and ::1; both
// would come to the replica's address, so the later one is put on a second seat where nobody calls: its clients arrive
// at the first one, which belongs to the same server.

/// An address of a socket, without its port.
enum HostAddress: Hashable, Sendable {
  case v4(UInt32)
  case v6(high: UInt64, low: UInt64)

  /// ::ffff:a.b.c.d as what it stands for.
  var unmapped: HostAddress {
    if case .v6(0, let low) = self, low >> 32 == 0xFFFF { return .v4(UInt32(truncatingIfNeeded: low)) }
    return self
  }

  var isWildcard: Bool { self == .v4(0) || self == .v6(high: 0, low: 0) }

  /// 127.0.0.0/16 holds what programs call localhost; the rest of 127.0.0.0/8 is given to replicas.
  var isLocalhost: Bool {
    switch self {
    case .v4(let address): address >> 16 == 0x7F00
    case .v6(let high, let low): high == 0 && low == 1
    }
  }
}

enum TransportKind: Hashable, Sendable {
  case tcp
  case udp
}

/// What a socket is asked to listen to.
struct ListenPlace: Hashable, Sendable {
  var host: HostAddress
  /// An IPv6 socket that takes no IPv4.
  var isOnlyV6: Bool

  /// Whether the kernel would let both have the same port.
  func isApart(from other: ListenPlace) -> Bool {
    !Self.overlap(v4Part, other.v4Part) && !Self.overlap(v6Part, other.v6Part)
  }

  private enum Part {
    case nothing
    case everything
    case one(HostAddress)
  }

  private var v4Part: Part {
    switch host {
    case .v4(0): .everything
    case .v4: .one(host)
    case .v6(0, 0): isOnlyV6 ? .nothing : .everything
    case .v6: .nothing
    }
  }

  private var v6Part: Part {
    switch host {
    case .v4: .nothing
    case .v6(0, 0): .everything
    case .v6: .one(host)
    }
  }

  private static func overlap(_ a: Part, _ b: Part) -> Bool {
    switch (a, b) {
    case (.nothing, _), (_, .nothing): false
    case (.everything, _), (_, .everything): true
    case (.one(let a), .one(let b)): a == b
    }
  }
}

/// The ports of one replica, and its address.
struct PortBook: Sendable {
  enum BindPlan: Hashable, Sendable {
    case asAsked
    /// On the replica's address.
    case own
    /// Another socket of this replica was there first, if it is still there.
    case secondSeat
  }

  /// In 127.64.0.0/10.
  let address: UInt32
  private var tcp: [UInt16: ListenPlace] = [:]
  private var udp: [UInt16: ListenPlace] = [:]

  init(address: UInt32) { self.address = address }

  /// Where second sockets of IPv4 go: 127.128.0.0/9 belongs to nobody else.
  var secondAddress: UInt32 { address | 0x0080_0000 }
  /// Where second sockets of IPv6 go: a unique local address that no interface has.
  var secondAddressV6: HostAddress { .v6(high: 0xFD73_6B79_0000_0000, low: UInt64(address)) }

  /// - Parameter isOfMachine: whether an interface has this address.
  func planBind(_ kind: TransportKind, _ place: ListenPlace, port: UInt16, isOfMachine: (HostAddress) -> Bool)
    -> BindPlan
  {
    let host = place.host
    if port == 0 { return host == .v4(0x7F00_0001) ? .own : .asAsked }
    guard host.isWildcard || host.isLocalhost || host == .v4(address) || isOfMachine(host) else { return .asAsked }
    guard let first = holder(kind, port), place.isApart(from: first) else { return .own }
    return .secondSeat
  }

  /// Whether a connection to there has to go to the replica's own address.
  func redirects(_ kinds: [TransportKind], _ host: HostAddress, port: UInt16, isOfMachine: (HostAddress) -> Bool)
    -> Bool
  {
    guard kinds.contains(where: { holder($0, port) != nil }) else { return false }
    return host.isWildcard || host.isLocalhost || isOfMachine(host)
  }

  mutating func didBind(_ kind: TransportKind, _ place: ListenPlace, port: UInt16) {
    switch kind {
    case .tcp: tcp[port] = place
    case .udp: udp[port] = place
    }
  }

  private func holder(_ kind: TransportKind, _ port: UInt16) -> ListenPlace? {
    switch kind {
    case .tcp: tcp[port]
    case .udp: udp[port]
    }
  }
}
