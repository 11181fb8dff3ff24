// From --replica to replica entries: addresses as they are, names looked up at start and again every interval, on a
// thread of its own because getaddrinfo(3) waits as long as it likes. What it finds goes to the admin thread.

import Glibc
import ProxyWire
import Synchronization

/// One --replica.
package struct ResolverSource: Equatable, Sendable {
  package var endpoint: Endpoint
  package var weight: Double
  package var maxInFlight: Int

  package init(endpoint: Endpoint, weight: Double = 1, maxInFlight: Int = 0) {
    self.endpoint = endpoint
    self.weight = weight
    self.maxInFlight = maxInFlight
  }

  package init(_ option: ReplicaOption) {
    self.init(endpoint: option.endpoint, weight: option.weight, maxInFlight: option.maxInFlight ?? 0)
  }
}

package struct LookupError: Error, Equatable {
  package var reason: String
  package init(reason: String) { self.reason = reason }
}

/// What names stand for, from one look-up to the next. A name of one address is one replica of that name; a name of
/// several is `name#1`, `name#2`, … An address keeps its number as long as it stays, so that it keeps its counts.
package struct ResolvedReplicas {
  package typealias Lookup = (_ name: String, _ port: UInt16) -> Result<[Endpoint], LookupError>

  fileprivate struct Found {
    /// By number; nil = the address that had it is gone.
    var addresses: [Endpoint?] = []
    /// Has had several, and keeps its numbers.
    var isNumbered = false
    var problem: String?
  }

  private let sources: [ResolverSource]
  private var found: [Found]

  package init(_ sources: [ResolverSource]) {
    self.sources = sources
    found = Array(repeating: Found(), count: sources.count)
  }

  package var hasNames: Bool {
    sources.contains { if case .name = $0.endpoint { true } else { false } }
  }

  /// Looks every name up. A failing one keeps the addresses it had; problems that are new are reported.
  package mutating func refresh(_ lookup: Lookup, report: (String) -> Void) {
    for (at, source) in sources.enumerated() {
      guard case .name(let name, let port) = source.endpoint else { continue }
      switch lookup(name, port) {
      case .success(let addresses) where !addresses.isEmpty:
        found[at].take(addresses)
        found[at].problem = nil
      case .success: fail(at, "it has no addresses", report)
      case .failure(let error): fail(at, error.reason, report)
      }
    }
  }

  private mutating func fail(_ at: Int, _ problem: String, _ report: (String) -> Void) {
    guard found[at].problem != problem else { return }
    found[at].problem = problem
    let kept = found[at].addresses.contains { $0 != nil }
    report(
      "cannot look up the replica \(sources[at].endpoint): \(problem); "
        + (kept ? "going on with the addresses it had" : "it gets no requests until this succeeds"))
  }

  package var entries: [ReplicaEntry] {
    var result: [ReplicaEntry] = []
    for (source, found) in zip(sources, found) {
      let text = source.endpoint.description
      func add(_ id: String, _ address: Endpoint) {
        result.append(
          ReplicaEntry(
            id: id, generation: 1, address: address, weight: source.weight, maxInFlight: source.maxInFlight))
      }
      guard case .name = source.endpoint else {
        add(text, source.endpoint)
        continue
      }
      for (number, address) in found.addresses.enumerated() {
        if let address { add(found.isNumbered ? "\(text)#\(number + 1)" : text, address) }
      }
    }
    return result
  }
}

extension ResolvedReplicas.Found {
  fileprivate mutating func take(_ fresh: [Endpoint]) {
    for number in addresses.indices {
      if let address = addresses[number], !fresh.contains(address) { addresses[number] = nil }
    }
    for address in fresh where !addresses.contains(address) {
      if let number = addresses.firstIndex(of: nil) {
        addresses[number] = address
      } else {
        addresses.append(address)
      }
    }
    if addresses.count > 1 { isNumbered = true }
  }
}

/// Looks names up again and again.
package final class Resolver: @unchecked Sendable {
  private let intervalNs: UInt64
  private let lookup: @Sendable (String, UInt16) -> Result<[Endpoint], LookupError>
  private let waker = WakeHandle()
  private let stopping = Atomic<Bool>(false)
  private var replicas: ResolvedReplicas

  /// Looks all names up once, which may take seconds; `entries` are what was found.
  /// - Parameter intervalNs: 0 = only now.
  package init(
    _ sources: [ResolverSource], intervalNs: UInt64,
    lookup: @escaping @Sendable (String, UInt16) -> Result<[Endpoint], LookupError> = systemLookup
  ) {
    self.intervalNs = intervalNs
    self.lookup = lookup
    replicas = ResolvedReplicas(sources)
    replicas.refresh(lookup, report: say)
    entries = replicas.entries
  }

  /// As of the start.
  package let entries: [ReplicaEntry]

  /// False: there was no room for a thread or its descriptor. Does nothing where no name has to be looked up again.
  /// - Parameter deliver: called on the resolver's thread when something has changed.
  package func start(_ deliver: @escaping @Sendable ([ReplicaEntry]) -> Void) -> Bool {
    guard replicas.hasNames, intervalNs > 0 else { return true }
    // Never joined: it may be inside a look-up that takes longer than anyone wants to wait.
    guard waker.fd >= 0, let thread = ControlThread.start("sky-resolver", { [self] in run(deliver) }) else {
      return false
    }
    thread.detach()
    return true
  }

  package func stop() {
    stopping.store(true, ordering: .releasing)
    waker.wake()
  }

  private func run(_ deliver: ([ReplicaEntry]) -> Void) {
    var known = entries
    while true {
      var watched = pollfd(fd: waker.fd, events: Int16(POLLIN), revents: 0)
      let due = monotonicNanoseconds() + intervalNs
      while !stopping.load(ordering: .acquiring), monotonicNanoseconds() < due {
        _ = poll(&watched, 1, Int32(clamping: (due - min(due, monotonicNanoseconds())) / 1_000_000 + 1))
      }
      if stopping.load(ordering: .acquiring) { return }
      replicas.refresh(lookup, report: say)
      if stopping.load(ordering: .acquiring) { return }
      if replicas.entries != known {
        known = replicas.entries
        deliver(known)
      }
    }
  }
}

/// The addresses of a name as the system knows them, in a stable order, each once.
package func systemLookup(_ name: String, _ port: UInt16) -> Result<[Endpoint], LookupError> {
  var hints = addrinfo()
  hints.ai_socktype = SocketType.stream
  hints.ai_flags = AI_ADDRCONFIG  // no IPv6 addresses on a machine without IPv6
  var list: UnsafeMutablePointer<addrinfo>?
  let failure = getaddrinfo(name, nil, &hints, &list)
  guard failure == 0 else {
    return .failure(LookupError(reason: gai_strerror(failure).map { String(cString: $0) } ?? "error \(failure)"))
  }
  defer { freeaddrinfo(list) }
  var result: [Endpoint] = []
  var next = list
  while let info = next?.pointee {
    next = info.ai_next
    guard let address = info.ai_addr else { continue }
    let bytes = UnsafeRawPointer(address)
    let endpoint: Endpoint
    switch info.ai_family {
    case AF_INET:
      endpoint = .ipv4(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)), port: port)
    case AF_INET6:
      endpoint = .ipv6(
        high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
        low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)), port: port)
    default: continue
    }
    if !result.contains(endpoint) { result.append(endpoint) }
  }
  return .success(result.sorted { $0.description < $1.description })
}
