// From --replica to replica entries: addresses as they are, names looked up at start and again every interval, on a
// thread of its own because getaddrinfo(3) waits as long as it likes. What it finds goes to the admin thread; that one
// says when a replica has refused.
//
// A name's addresses of one family are servers of their own. Those of the other family are other ways to the same
// servers (RFC 8305): one family is in use, as long as it works.

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
  /// Which of some addresses take a connection now.
  package typealias Reach = (_ endpoints: [Endpoint]) -> Set<Endpoint>

  fileprivate struct Found {
    /// All that the name stood for when it was last looked up.
    var ways: [Endpoint] = []
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

  /// Some name has addresses of both families.
  package var hasOtherWays: Bool { found.contains { $0.isDual } }

  /// Looks every name up. A failing one keeps the addresses it had; problems that are new are reported.
  package mutating func refresh(_ lookup: Lookup, reach: Reach, report: (String) -> Void) {
    var undecided: [Int] = []
    for (at, source) in sources.enumerated() {
      guard case .name(let name, let port) = source.endpoint else { continue }
      switch lookup(name, port) {
      case .success(let addresses) where !addresses.isEmpty:
        found[at].ways = addresses
        found[at].problem = nil
        if found[at].isDual, found[at].inUse == nil { undecided.append(at) } else { found[at].take(found[at].inUse) }
      case .success: fail(at, "it has no addresses", report)
      case .failure(let error): fail(at, error.reason, report)
      }
    }
    choose(undecided, reach, report)
  }

  /// Replicas with these ids have refused: where the other family of their name answers and the one in use does not,
  /// that one is in use from now on.
  package mutating func reconsider(refused ids: Set<String>, reach: Reach, report: (String) -> Void) {
    let doubted = sources.indices.filter { at in
      let text = sources[at].endpoint.description
      return found[at].isDual && ids.contains { $0 == text || $0.hasPrefix(text + "#") }
    }
    choose(doubted, reach, report)
  }

  /// Takes the family that answers: of two the one in use, and IPv4 where none is, as more model servers listen there
  /// alone.
  private mutating func choose(_ places: [Int], _ reach: Reach, _ report: (String) -> Void) {
    if places.isEmpty { return }
    let answering = reach(places.flatMap { found[$0].ways })
    for at in places {
      let before = found[at].inUse
      let order: [AddressFamily] = before == .ipv6 ? [.ipv6, .ipv4] : [.ipv4, .ipv6]
      let family =
        order.first { family in found[at].ways.contains { $0.family == family && answering.contains($0) } } ?? order[0]
      found[at].take(family)
      if before != nil, family != before {
        report(
          "the replica \(sources[at].endpoint) answers over \(family.rawValue) alone: it is asked there from now on")
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

private enum AddressFamily: String {
  case ipv4 = "IPv4"
  case ipv6 = "IPv6"
}

extension Endpoint {
  fileprivate var family: AddressFamily? {
    switch self {
    case .ipv4: .ipv4
    case .ipv6: .ipv6
    case .name, .unix: nil
    }
  }
}

extension ResolvedReplicas.Found {
  fileprivate var isDual: Bool {
    ways.contains { $0.family == .ipv4 } && ways.contains { $0.family == .ipv6 }
  }

  fileprivate var inUse: AddressFamily? { addresses.lazy.compactMap { $0?.family }.first }

  /// Uses the addresses of a family; all of them where the name has but one family.
  fileprivate mutating func take(_ family: AddressFamily?) {
    let fresh = isDual ? ways.filter { $0.family == family } : ways
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

/// Looks names up again and again. `replicas` is the resolver's thread's own from `start` on.
package final class Resolver: @unchecked Sendable {
  package typealias Lookup = @Sendable (String, UInt16) -> Result<[Endpoint], LookupError>
  package typealias Reach = @Sendable ([Endpoint]) -> Set<Endpoint>

  /// Other ways to replicas that refuse are tried once in this time, however often they do.
  private static let tryNs: UInt64 = 1_000_000_000

  private let intervalNs: UInt64
  private let lookup: Lookup
  private let reach: Reach
  private let waker = WakeHandle()
  private let stopping = Atomic<Bool>(false)
  private let refused = Mutex<Set<String>>([])
  private let isDual: Atomic<Bool>
  private var replicas: ResolvedReplicas

  /// Looks all names up once, which may take seconds; `entries` are what was found.
  /// - Parameter intervalNs: 0 = only now.
  package init(
    _ sources: [ResolverSource], intervalNs: UInt64, lookup: @escaping Lookup = systemLookup,
    reach: @escaping Reach = systemReach
  ) {
    self.intervalNs = intervalNs
    self.lookup = lookup
    self.reach = reach
    replicas = ResolvedReplicas(sources)
    replicas.refresh(lookup, reach: reach, report: say)
    entries = replicas.entries
    isDual = Atomic(replicas.hasOtherWays)
  }

  /// As of the start.
  package let entries: [ReplicaEntry]

  /// Some name leads to its replicas by more than one way, so that it is worth while to say which of them refuse.
  package var hasOtherWays: Bool { isDual.load(ordering: .relaxed) }

  /// From any thread: replicas that have refused a connection, or let it wait too long.
  package func tryOtherWays(for ids: [String]) {
    refused.withLock { $0.formUnion(ids) }
    waker.wake()
  }

  /// False: there was no room for a thread or its descriptor. Does nothing where no name has to be looked at again.
  /// - Parameter deliver: called on the resolver's thread when something has changed.
  package func start(_ deliver: @escaping @Sendable ([ReplicaEntry]) -> Void) -> Bool {
    guard replicas.hasNames, intervalNs > 0 || hasOtherWays else { return true }
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
    var doubted: Set<String> = []
    var lookAt = intervalNs > 0 ? monotonicNanoseconds() + intervalNs : .max
    var tryAt = UInt64.max
    var triedAt: UInt64?
    while true {
      wait(until: min(lookAt, tryAt))
      if stopping.load(ordering: .acquiring) { return }
      let now = monotonicNanoseconds()
      doubted.formUnion(
        refused.withLock { ids in
          defer { ids = [] }
          return ids
        })
      if !doubted.isEmpty, tryAt == .max { tryAt = max(now, triedAt.map { $0 + Resolver.tryNs } ?? 0) }
      if now >= lookAt {
        replicas.refresh(lookup, reach: reach, report: say)
        lookAt = monotonicNanoseconds() + intervalNs
      }
      if now >= tryAt {
        replicas.reconsider(refused: doubted, reach: reach, report: say)
        (doubted, tryAt, triedAt) = ([], .max, now)
      }
      if stopping.load(ordering: .acquiring) { return }
      isDual.store(replicas.hasOtherWays, ordering: .relaxed)
      if replicas.entries != known {
        known = replicas.entries
        deliver(known)
      }
    }
  }

  private func wait(until due: UInt64) {
    var watched = pollfd(fd: waker.fd, events: Int16(POLLIN), revents: 0)
    let now = monotonicNanoseconds()
    let left = due == .max ? -1 : Int32(clamping: (due - min(due, now) + 999_999) / 1_000_000)
    if poll(&watched, 1, left) > 0 { waker.clear() }
  }
}

/// The addresses of a name as the system knows them, in a stable order, each once. Those of IPv6 also on a machine that
/// has only its loopback address (AI_ADDRCONFIG would leave that out): trying shows which of them lead anywhere.
package func systemLookup(_ name: String, _ port: UInt16) -> Result<[Endpoint], LookupError> {
  var hints = addrinfo()
  hints.ai_socktype = SocketType.stream
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

/// Those of `endpoints` that take a connection, as far as it shows within half a second.
package func systemReach(_ endpoints: [Endpoint]) -> Set<Endpoint> {
  let deadline = monotonicNanoseconds() + 500_000_000
  var answering: Set<Endpoint> = []
  var waiting: [(endpoint: Endpoint, fd: Int32)] = []
  for endpoint in endpoints {
    guard var address = SocketAddress(endpoint) else { continue }
    let fd = socket(address.family, SocketType.stream | SocketType.nonBlocking | SocketType.closeOnExec, 0)
    if fd < 0 { continue }
    let length = socklen_t(address.length)
    let failed = address.withBytes { connect(fd, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) } != 0
    if failed, errno == EINPROGRESS {
      waiting.append((endpoint, fd))
    } else {
      if !failed { answering.insert(endpoint) }
      close(fd)
    }
  }
  while !waiting.isEmpty {
    let now = monotonicNanoseconds()
    var watched = waiting.map { pollfd(fd: $0.fd, events: Int16(POLLOUT), revents: 0) }
    guard now < deadline,
      poll(&watched, nfds_t(watched.count), Int32((deadline - now + 999_999) / 1_000_000)) >= 0 || errno == EINTR
    else { break }
    for ((endpoint, fd), polled) in zip(waiting, watched) where polled.revents != 0 {
      var problem: Int32 = 0
      var size = socklen_t(MemoryLayout<Int32>.size)
      if getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) == 0, problem == 0 { answering.insert(endpoint) }
      close(fd)
    }
    waiting = zip(waiting, watched).filter { $1.revents == 0 }.map(\.0)
  }
  for (_, fd) in waiting { close(fd) }
  return answering
}
