// Snapshots on their way to the load board: all or nothing, places given again only when they are free.

import Glibc
import ProxyWire
import Testing

@testable import ProxyCore

@Suite struct MembershipTests {
  private struct Fixture {
    let board: LoadBoard
    let counters: CounterSet
    let membership: Membership

    init(places: Int = 16, replicasMax: Int = 16, defaultMaxInFlight: Int = 0, drainDeadlineNs: UInt64 = 0) {
      board = LoadBoard(capacity: places)
      counters = CounterSet(replicas: board.capacity)
      membership = Membership(
        board: board, counters: [counters], replicasMax: replicasMax, defaultMaxInFlight: defaultMaxInFlight,
        drainDeadlineNs: drainDeadlineNs)
    }

    /// `a@0 ready`, in the order of the list.
    var shown: [String] {
      membership.members.map {
        "\($0.entry.id).\($0.entry.generation)@\($0.index) \(membership.state(of: $0).rawValue)"
      }
    }
  }

  private static let second: UInt64 = 1_000_000_000

  /// One list after another on one board; each step is a second and a half after the one before.
  @Test(
    arguments: [
      ("first", [[entry("a"), entry("b")]], ["a.1@0 ready", "b.1@1 ready"]),
      ("order is the list's", [[entry("a"), entry("b")], [entry("b"), entry("a")]], ["b.1@1 ready", "a.1@0 ready"]),
      ("drain", [[entry("a")], [entry("a", .draining)]], ["a.1@0 draining"]),
      ("drain taken back", [[entry("a", .draining)], [entry("a")]], ["a.1@0 ready"]),
      ("new and draining", [[entry("a", .draining)]], ["a.1@0 draining"]),
      ("gone", [[entry("a"), entry("b")], [entry("b")]], ["b.1@1 ready", "a.1@0 leaving"]),
      ("gone and settled", [[entry("a"), entry("b")], [entry("b")], [entry("b")]], ["b.1@1 ready"]),
      ("new generation", [[entry("a")], [entry("a", generation: 2)]], ["a.2@1 ready", "a.1@0 leaving"]),
      ("new address", [[entry("a")], [entry("a", port: 9)]], ["a.1@1 ready", "a.1@0 leaving"]),
      (
        "a place is given again", [[entry("a"), entry("b")], [entry("b")], [entry("b"), entry("c")]],
        ["b.1@1 ready", "c.1@0 ready"]
      ),
      ("weight in place", [[entry("a")], [entry("a", weight: 4)]], ["a.1@0 ready"]),
      ("empty on purpose", [[entry("a")], []], ["a.1@0 leaving"]),
    ] as [(String, [[ReplicaEntry]], [String])])
  func transitions(_ name: String, _ lists: [[ReplicaEntry]], _ expected: [String]) throws {
    let fixture = Fixture()
    for (step, list) in lists.enumerated() {
      let now = UInt64(step) * 3 * Self.second / 2
      let applied = try fixture.membership.apply(snapshot(UInt64(step + 1), list), now: now)
      #expect(applied.version == UInt64(step + 1))
      #expect(applied.replicas == list.count)
    }
    #expect(fixture.shown == expected)
    #expect(fixture.board.shared.pointee.version.load(ordering: .relaxed) == UInt64(lists.count))
  }

  @Test func weightsAndLimitsReachTheBoard() throws {
    let fixture = Fixture(defaultMaxInFlight: 9)
    _ = try fixture.membership.apply(snapshot(1, [entry("a", weight: 2), entry("b", maxInFlight: 4)]), now: 0)
    #expect(fixture.board.scales[0] == 0.5)
    #expect(fixture.board.limits[0] == 9)
    #expect(fixture.board.limits[1] == 4)
    #expect(fixture.board.addresses[0].endpoint == .ipv4(0x0A00_0001, port: 8000))
    _ = try fixture.membership.apply(
      snapshot(2, [entry("a", weight: 0.5, maxInFlight: .max), entry("b", maxInFlight: 4)]), now: 0)
    #expect(fixture.board.scales[0] == 2)
    #expect(fixture.board.limits[0] == .max)
  }

  @Test func versions() throws {
    let fixture = Fixture()
    #expect(try fixture.membership.apply(snapshot(7, [entry("a")]), now: 0).added == 1)
    #expect(try fixture.membership.apply(snapshot(7, [entry("a")]), now: 0).added == 0)
    #expect(throws: SnapshotRefusal.older(version: 6, applied: 7)) {
      try fixture.membership.apply(snapshot(6, [entry("b")]), now: 0)
    }
    #expect(throws: SnapshotRefusal.differs(version: 7)) {
      try fixture.membership.apply(snapshot(7, [entry("b")]), now: 0)
    }
    #expect(throws: SnapshotRefusal.emptyUnasked) {
      try fixture.membership.apply(ReplicaSnapshot(version: 8, replicas: []), now: 0)
    }
    #expect(fixture.shown == ["a.1@0 ready"])
    #expect(fixture.membership.version == 7)
  }

  @Test func aRefusedListTouchesNothing() throws {
    let fixture = Fixture()
    _ = try fixture.membership.apply(snapshot(1, [entry("a")]), now: 0)
    let name = ReplicaEntry(id: "n", generation: 1, address: .name("model", port: 80))
    let refused: [(ReplicaSnapshot, Int)] = [
      (snapshot(2, [entry("b"), name]), 400), (snapshot(2, [entry("b"), entry("b")]), 400),
      (snapshot(2, (0..<17).map { entry("r\($0)") }), 507),
      (ReplicaSnapshot(version: 2, policy: .roundRobin, replicas: [entry("b")]), 400),
    ]
    for (list, status) in refused {
      do {
        _ = try fixture.membership.apply(list, now: 0)
        Issue.record("taken: \(list)")
      } catch { #expect(error.status == status, "\(error)") }
      #expect(fixture.shown == ["a.1@0 ready"])
      #expect(fixture.board.isFree(1))
    }
  }

  @Test func aPlaceIsKeptUntilTheLastExchangeEnds() throws {
    let fixture = Fixture()  // 16 places
    let full = (0..<16).map { entry("r\($0)") }
    _ = try fixture.membership.apply(snapshot(1, full), now: 0)
    guard
      case .replica(var lease) = fixture.board.pick(Ask(isHarmless: true, now: 0))
    else { throw TestFailure("nothing to pick") }
    let busy = lease.replica
    _ = try fixture.membership.apply(snapshot(2, Array(full.dropFirst(1))), now: 0)
    let next = Array(full.dropFirst(1)) + [entry("new")]
    // Busy, then free but not settled, then free.
    for now in [2 * Self.second, 2 * Self.second] {
      #expect(throws: SnapshotRefusal.noRoom(wanted: 1, free: 0, leaving: 1)) {
        try fixture.membership.apply(snapshot(3, next), now: now)
      }
    }
    #expect(fixture.membership.listed.count == 16)
    fixture.board.release(&lease)
    #expect(fixture.membership.listed.count == 15)
    fixture.counters.replicas[Int(busy)].exchanges = 5
    fixture.counters.histogram(.duration, of: Int(busy)).record(5_000_000)
    #expect(throws: SnapshotRefusal.self) { try fixture.membership.apply(snapshot(3, next), now: Self.second / 2) }
    _ = try fixture.membership.apply(snapshot(3, next), now: 2 * Self.second)
    #expect(fixture.membership.member("new")?.index == Int(busy))
    #expect(fixture.counters.replicas[Int(busy)].exchanges == 0)
    #expect(fixture.counters.histogram(.duration, of: Int(busy)).sum.pointee == 0)
    // What the log wrote of the former owner still has its name.
    let table = fixture.membership.names.table
    #expect(table[busy, 1] == "r0")
    #expect(table[busy, 2] == "new")
    #expect(table[busy, 3] == nil)
    #expect(table[noSlot, 0] == nil)
  }

  @Test func allAreReplacedAtOnce() throws {
    let fixture = Fixture(places: 32, replicasMax: 16)
    let old = (0..<16).map { entry("old\($0)") }
    let new = (0..<16).map { entry("new\($0)") }
    _ = try fixture.membership.apply(snapshot(1, old), now: 0)
    let applied = try fixture.membership.apply(snapshot(2, new), now: 0)
    #expect(applied.added == 16)
    #expect(applied.removed == 16)
    #expect(fixture.membership.members.filter { $0.leftAt != nil }.count == 16)
  }

  /// A pick beside lists that each bring the only replica that serves: it may see the old one go, never nobody.
  @Test(arguments: [("places wander", 40), ("through many places", 1000)])
  func thereIsAlwaysOneToPick(_ name: String, _ listsPerSettling: Int) throws {
    let fixture = Fixture(places: 2048)
    func list(_ round: Int) -> [ReplicaEntry] {
      // By turns one replaces the other, and one begins to drain as the other is taken back.
      [entry("a", generation: UInt64(1 + round / 3), round % 3 == 1 ? .draining : .ready)]
        + (round % 3 == 0 ? [] : [entry("b", generation: UInt64(1 + round / 3), round % 3 == 1 ? .ready : .draining)])
    }
    _ = try fixture.membership.apply(snapshot(1, list(0)), now: 0)
    let picker = try Picker(fixture.board, isHarmless: true, now: 0)
    var round = 0
    while picker.picks < 200_000 || round < 3_000 {
      round += 1
      let now = UInt64(round / listsPerSettling) * 2 * Self.second
      _ = try fixture.membership.apply(snapshot(UInt64(round + 1), list(round)), now: now)
    }
    picker.end()
    #expect(picker.misses == 0, "of \(picker.picks) picks, \(round) lists")
  }

  @Test func manyReplicasTakeMilliseconds() throws {
    let fixture = Fixture(places: 20_480, replicasMax: 10_240)
    let list = (0..<10_000).map { entry("replica-\($0)-of-many") }
    let began = monotonicNanoseconds()
    _ = try fixture.membership.apply(snapshot(1, list), now: 0)
    let first = monotonicNanoseconds()
    _ = try fixture.membership.apply(
      snapshot(
        2,
        list.map {
          var e = $0
          e.weight = 2
          return e
        }), now: 0)
    let second = monotonicNanoseconds()
    // Unoptimised and beside other tests; a square of ten thousand would take minutes.
    #expect(first - began < 30 * Self.second)
    #expect(second - first < 30 * Self.second)
    print("10,000 replicas: first list \((first - began) / 1000) µs, the next \((second - first) / 1000) µs")
  }

  @Test func standaloneListsEndWithTheFirstSnapshot() throws {
    let fixture = Fixture()
    #expect(try fixture.membership.apply(standalone: [entry("a")], now: 0)?.added == 1)
    #expect(fixture.membership.version == nil)
    #expect(try fixture.membership.apply(standalone: [entry("a"), entry("b")], now: 0)?.added == 1)
    // A replica both know is the same one.
    #expect(try fixture.membership.apply(snapshot(0, [entry("a")]), now: 0).added == 0)
    #expect(try fixture.membership.apply(standalone: [entry("c")], now: 0) == nil)
    #expect(fixture.shown == ["a.1@0 ready", "b.1@1 leaving"])
  }
}

/// Until when a replica that drains or leaves may keep its exchanges.
@Suite struct CutTests {
  private static let second: UInt64 = 1_000_000_000

  /// One list after another, a second apart, under --drain-deadline 100s; when replica a is cut, in seconds from the
  /// first list (0: never).
  @Test(
    arguments: [
      ("ready", [[entry("a")]], 0),
      ("new and draining", [[entry("a", .draining)]], 0),
      ("draining", [[entry("a")], [entry("a", .draining)]], 0),
      ("draining by its own deadline", [[entry("a")], [entry("a", .draining, drainDeadline: 7)]], 8),
      ("draining goes on", [[entry("a")]] + Array(repeating: [entry("a", .draining, drainDeadline: 7)], count: 3), 8),
      ("drain taken back", [[entry("a", .draining, drainDeadline: 7)], [entry("a", drainDeadline: 7)]], 0),
      ("draining again", [[entry("a", .draining)], [entry("a")], [entry("a", .draining, drainDeadline: 7)]], 9),
      ("gone", [[entry("a")], []], 101),
      ("gone after a drain", [[entry("a")], [entry("a", .draining)], []], 102),
      ("gone after a drain of its own", [[entry("a")], [entry("a", .draining, drainDeadline: 7)], []], 8),
      ("gone for longer", [[entry("a")], [], [entry("b")]], 101),
      ("its own deadline", [[entry("a", drainDeadline: 7)], []], 8),
      ("its own fraction", [[entry("a", .draining, drainDeadline: 0.5)]], 0.5),
      ("its own: none", [[entry("a", drainDeadline: 0)], []], 0),
      ("sooner", [[entry("a", .draining)], [entry("a", .draining, drainDeadline: 3)]], 3),
      ("later", [[entry("a", .draining, drainDeadline: 3)], [entry("a", .draining, drainDeadline: 9)]], 9),
      ("gone by another address", [[entry("a")], [entry("a", port: 9)]], 101),
      ("another generation", [[entry("a", drainDeadline: 5)], [entry("a", generation: 2)]], 6),
    ] as [(String, [[ReplicaEntry]], Double)])
  func whenAReplicaIsCut(_ name: String, _ lists: [[ReplicaEntry]], _ expected: Double) throws {
    let board = LoadBoard(capacity: 16)
    let membership = Membership(
      board: board, counters: [CounterSet(replicas: board.capacity)], replicasMax: 16,
      drainDeadlineNs: 100 * Self.second)
    let start: UInt64 = 5 * Self.second
    var held = Lease.none
    for (step, list) in lists.enumerated() {
      _ = try membership.apply(snapshot(UInt64(step + 1), list), now: start + UInt64(step) * Self.second)
      if !held.isHeld, case .replica(let lease) = board.pick(Ask(isHarmless: true, now: 0)) { held = lease }
    }
    if !held.isHeld { held = board.lease(0) }
    #expect(held.replica == 0)
    let time = expected == 0 ? 0 : start + UInt64(expected * 1e9)
    #expect(board.cutAt[0].load(ordering: .relaxed) == time)
    #expect(board.nextCut(after: 0) == (time == 0 ? .max : time))
    if time != 0 { #expect(!board.isCut(held, now: time - 1)) }
    #expect(board.isCut(held, now: time == 0 ? .max : time) == (time != 0))
  }

  /// An address that a lookup finds no more may be the answer of a server that names others each time.
  @Test func aNameThatLeadsElsewhereCutsNothing() throws {
    let board = LoadBoard(capacity: 16)
    let membership = Membership(
      board: board, counters: [CounterSet(replicas: board.capacity)], replicasMax: 16, drainDeadlineNs: Self.second)
    _ = try membership.apply(standalone: [entry("a"), entry("b")], now: 0)
    _ = try membership.apply(standalone: [entry("b")], now: Self.second)
    #expect(board.nextCut(after: 0) == .max)
    // What a controller leaves out is to end.
    _ = try membership.apply(snapshot(1, [entry("c")]), now: 2 * Self.second)
    #expect(board.cutAt[0].load(ordering: .relaxed) == 0)
    #expect(board.cutAt[1].load(ordering: .relaxed) == 3 * Self.second)
  }

  @Test func anotherReplicaInThePlaceIsNotCut() throws {
    let board = LoadBoard(capacity: 16)
    let membership = Membership(
      board: board, counters: [CounterSet(replicas: board.capacity)], replicasMax: 16, drainDeadlineNs: Self.second)
    _ = try membership.apply(snapshot(1, [entry("a"), entry("b")]), now: 0)
    _ = try membership.apply(snapshot(2, [entry("b")]), now: 1)
    #expect(board.cutAt[0].load(ordering: .relaxed) != 0)
    _ = try membership.apply(snapshot(3, [entry("b"), entry("c")]), now: 10 * Self.second)
    #expect(membership.member("c")?.index == 0)
    #expect(board.cutAt[0].load(ordering: .relaxed) == 0)
    #expect(board.nextCut(after: 0) == .max)
  }

  @Test func workersAreWokenForNewCutsOnly() throws {
    let board = LoadBoard(capacity: 16)
    let membership = Membership(
      board: board, counters: [CounterSet(replicas: board.capacity)], replicasMax: 16, drainDeadlineNs: Self.second)
    let wakes = AdminHarness.Shared(0)
    let draining = entry("b", .draining, drainDeadline: 7)
    membership.onCut { wakes.set(wakes.get() + 1) }
    let lists: [([ReplicaEntry], Int)] = [
      ([entry("a"), entry("b")], 0), ([entry("a"), entry("b", .draining)], 0), ([entry("a"), draining], 1),
      ([entry("a"), draining], 1), ([entry("a"), entry("b")], 1), ([], 2),
    ]
    for (step, (list, expected)) in lists.enumerated() {
      _ = try membership.apply(snapshot(UInt64(step + 1), list), now: UInt64(step))
      #expect(wakes.get() == expected, "list \(step)")
    }
  }

  /// A worker looks through its exchanges once for each moment, and sleeps until the next.
  @Test func aWorkerLooksOnceForEachCut() {
    let board = LoadBoard(capacity: 16)
    for index in 0..<3 {
      board.admit(index, at: .ipv4(10, 0, 0, 1, port: 80), weight: 1, maxInFlight: 0, draining: false)
    }
    var watch = CutWatch()
    func isDue(_ now: UInt64) -> Bool { watch.isDue(board, now: now) }
    #expect(!isDue(1) && watch.next == .max)
    board.setCut(0, at: 100)
    board.setCut(1, at: 200)
    #expect(!isDue(99) && watch.next == 100)
    #expect(isDue(100) && watch.next == 200)
    #expect(!isDue(150))
    // Sooner than the one it waits for.
    board.setCut(2, at: 160)
    #expect(isDue(155), "the first is looked at again: which of them is new is not known")
    #expect(watch.next == 160)
    // Two in one.
    #expect(isDue(300) && watch.next == .max)
    #expect(!isDue(400))
    // Taken back before it came.
    board.setCut(0, at: 500)
    board.setCut(1, at: 0)
    board.setCut(2, at: 0)
    #expect(!isDue(450) && watch.next == 500)
    board.setCut(0, at: 0)
    #expect(!isDue(600) && watch.next == .max)
    // Another worker has a watch of its own.
    board.setCut(1, at: 700)
    var other = CutWatch()
    let isDueForTheOther = other.isDue(board, now: 700)
    #expect(isDue(700) && isDueForTheOther)
  }
}

/// A listening socket; closed at the end.
private final class Listening {
  private var fd: Int32
  let endpoint: Endpoint

  init(_ wanted: Endpoint) throws {
    var address = try #require(SocketAddress(wanted))
    fd = socket(address.family, SocketType.stream, 0)
    var yes: Int32 = 1
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    var length = socklen_t(address.length)
    let fd = fd
    let result = address.withBytes { bytes in
      let address = bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self)
      return bind(fd, address, length) == 0 && listen(fd, 16) == 0 && getsockname(fd, address, &length) == 0
    }
    guard result else { throw TestFailure("cannot listen on \(wanted): \(errno)") }
    endpoint = try #require(address.endpoint)
  }

  func close() {
    if fd >= 0 { Glibc.close(fd) }
    fd = -1
  }

  deinit { close() }
}

@Suite struct MembershipResolverTests {
  private static let v4 = Endpoint.ipv4(0x0A00_0001, port: 80)
  private static let other = Endpoint.ipv4(0x0A00_0002, port: 80)
  private static let v6 = Endpoint.ipv6(high: 0, low: 1, port: 80)

  @Test func namesBecomeReplicas() {
    var replicas = ResolvedReplicas([
      ResolverSource(endpoint: .ipv4(0x7F00_0001, port: 8000), weight: 2),
      ResolverSource(endpoint: .name("model", port: 80), maxInFlight: 3),
    ])
    var said: [String] = []
    func look(_ result: Result<[Endpoint], LookupError>) -> [String] {
      replicas.refresh({ _, _ in result }, reach: { _ in [] }, report: { said.append($0) })
      return replicas.entries.map { "\($0.id)=\($0.address)" }
    }
    #expect(replicas.hasNames)
    let fixed = "127.0.0.1:8000=127.0.0.1:8000"
    #expect(look(.failure(LookupError(reason: "no such name"))) == [fixed])
    #expect(said == ["cannot look up the replica model:80: no such name; it gets no requests until this succeeds"])
    #expect(look(.success([Self.v4])) == [fixed, "model:80=10.0.0.1:80"])
    // From now on numbered, and numbers stay.
    #expect(
      look(.success([Self.other, Self.v4])) == [fixed, "model:80#1=10.0.0.1:80", "model:80#2=10.0.0.2:80"])
    #expect(look(.success([Self.other])) == [fixed, "model:80#2=10.0.0.2:80"])
    #expect(look(.success([Self.v4, Self.other])) == [fixed, "model:80#1=10.0.0.1:80", "model:80#2=10.0.0.2:80"])
    // The last good set stays; the same trouble is told once.
    for _ in 0..<3 { #expect(look(.success([])).count == 3) }
    #expect(said.count == 2)
    #expect(said[1].contains("going on with the addresses it had"))
    #expect(replicas.entries[0].weight == 2)
    #expect(replicas.entries[1].maxInFlight == 3)
  }

  /// A name with an A and an AAAA record is one server, whichever of them answers. Each step: what the look-up says, or
  /// who refuses; who answers; what is asked from then on.
  @Test func aNameOfBothFamiliesIsOneServer() {
    enum Event {
      case found([Endpoint])
      case refused(String)
    }
    let (a, b) = (Self.v4, Self.other)
    let (c, d) = (Self.v6, Endpoint.ipv6(high: 0, low: 2, port: 80))
    let cases: [(name: String, steps: [(Event, answers: [Endpoint], asked: [String])])] = [
      ("both answer", [(.found([a, c]), [a, c], ["model:80=10.0.0.1:80"])]),
      ("one answers", [(.found([a, c]), [c], ["model:80=[::1]:80"])]),
      ("nobody yet", [(.found([a, c]), [], ["model:80=10.0.0.1:80"])]),
      (
        "it starts later, over the other",
        [
          (.found([a, c]), [], ["model:80=10.0.0.1:80"]), (.refused("model:80"), [], ["model:80=10.0.0.1:80"]),
          (.refused("model:80"), [c], ["model:80=[::1]:80"]),
        ]
      ),
      (
        "what works is kept",
        [
          (.found([a, c]), [c], ["model:80=[::1]:80"]), (.found([a, c]), [a, c], ["model:80=[::1]:80"]),
          (.found([c, a]), [a], ["model:80=[::1]:80"]), (.refused("model:80"), [a, c], ["model:80=[::1]:80"]),
          (.refused("model:80"), [a], ["model:80=10.0.0.1:80"]),
        ]
      ),
      (
        "somebody else refuses",
        [(.found([a, c]), [a], ["model:80=10.0.0.1:80"]), (.refused("model:8"), [c], ["model:80=10.0.0.1:80"])]
      ),
      (
        "a record comes",
        [(.found([a]), [], ["model:80=10.0.0.1:80"]), (.found([a, c]), [c], ["model:80=10.0.0.1:80"])]
      ),
      ("a record goes", [(.found([a, c]), [a], ["model:80=10.0.0.1:80"]), (.found([c]), [], ["model:80=[::1]:80"])]),
      (
        "several servers, each with both",
        [
          (.found([a, b, c, d]), [a, b, c, d], ["model:80#1=10.0.0.1:80", "model:80#2=10.0.0.2:80"]),
          // One of them is down, whichever way it is asked.
          (.refused("model:80#2"), [a, c], ["model:80#1=10.0.0.1:80", "model:80#2=10.0.0.2:80"]),
          (.refused("model:80#1"), [c, d], ["model:80#1=[::1]:80", "model:80#2=[::2]:80"]),
        ]
      ),
    ]
    for (name, steps) in cases {
      var replicas = ResolvedReplicas([ResolverSource(endpoint: .name("model", port: 80), maxInFlight: 1)])
      for (at, step) in steps.enumerated() {
        let reach: ResolvedReplicas.Reach = { Set(step.answers).intersection($0) }
        switch step.0 {
        case .found(let addresses): replicas.refresh({ _, _ in .success(addresses) }, reach: reach, report: { _ in })
        case .refused(let id): replicas.reconsider(refused: [id], reach: reach, report: { _ in })
        }
        #expect(replicas.entries.map { "\($0.id)=\($0.address)" } == step.asked, "\(name), step \(at)")
      }
    }
  }

  /// Real sockets: the server is on one loopback address of a name that has both, and moves to the other.
  @Test func aServerIsFoundWhereItListens() throws {
    let old = try Listening(.ipv4(0x7F00_0001, port: 0))
    let port = try #require(old.endpoint.port)
    let ways: [Endpoint] = [.ipv4(0x7F00_0001, port: port), .ipv6(high: 0, low: 1, port: port)]
    #expect(systemReach(ways) == [ways[0]])
    let delivered = AdminHarness.Shared<[ReplicaEntry]>([])
    let resolver = Resolver(
      [ResolverSource(endpoint: .name("model", port: port))], intervalNs: 0, lookup: { _, _ in .success(ways) })
    defer { resolver.stop() }
    #expect(resolver.entries.map(\.address) == [ways[0]])
    let harness = try AdminHarness(resolver: resolver)
    harness.server.offer(standalone: resolver.entries)
    let isStarted = resolver.start { [server = harness.server] in
      delivered.set($0)
      server.offer(standalone: $0)
    }
    #expect(isStarted)
    let client = try harness.client()
    try eventually("the first list") { (try? client.replicas().replicas.count) == 1 }

    let new = try Listening(ways[1])
    old.close()
    // Its refusal is all that anybody hears of it: no subscriber is there, and names are looked up at start only.
    harness.turn {
      harness.board.failed(
        Lease(replica: 0, generation: 1), refused: true, now: monotonicNanoseconds(), rule: EjectionRule())
      harness.counters[0].replicas[0].failConnect += 1
    }
    try eventually("the other family") { delivered.get().map(\.address) == [ways[1]] }
    try eventually("one replica, well again") {
      (try? client.replicas().replicas.map { "\($0.entry.address) \($0.status.rawValue)" }) == ["[::1]:\(port) ready"]
    }
    new.close()
  }

  @Test func theSystemKnowsLocalhost() throws {
    let found = try systemLookup("localhost", 81).get()
    #expect(found.contains(.ipv4(0x7F00_0001, port: 81)) || found.contains(.ipv6(high: 0, low: 1, port: 81)))
    guard case .failure = systemLookup("no-such-name.invalid", 80) else { throw TestFailure("found") }
  }

  @Test func itLooksAgain() throws {
    let answers = AdminHarness.Shared<[Endpoint]>([Self.v4])
    let delivered = AdminHarness.Shared<[String]>([])
    let resolver = Resolver(
      [ResolverSource(endpoint: .name("model", port: 80))], intervalNs: 1_000_000,
      lookup: { _, _ in .success(answers.get()) })
    #expect(resolver.entries.map(\.id) == ["model:80"])
    #expect(resolver.start { delivered.set($0.map(\.id)) })
    answers.set([Self.v4, Self.other])
    try eventually("the second address") { delivered.get() == ["model:80#1", "model:80#2"] }
    resolver.stop()
  }
}
