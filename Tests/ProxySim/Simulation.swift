// One run: a world drawn from a seed, a worker in it, the clients' and replicas' lives, and after every turn the
// invariants that must hold whatever happens.

import ProxyCore
import SimKit
import Synchronization

/// What requests must fit, and what they may not.
struct SimLimits {
  static let headBytes = 8192
  static let targetBytes = 4096
  /// 0 = no limit.
  var bodyMax: Int
}

package struct SimResult {
  package var failure: String?
  package var requests = 0
  package var answered = 0
  package var local = 0
  package var turns = 0
  /// Simulated nanoseconds.
  package var time: UInt64 = 0
  package var spilledBytes: UInt64 = 0
  package var shed: UInt64 = 0
  package var tail: [String] = []
}

/// Plays one seed.
package func simulate(seed: UInt64, profile: Profile, verbose: Bool = false) -> SimResult {
  var simulation = Simulation(seed: seed, profile: profile, verbose: verbose)
  return simulation.run()
}

/// One of the workers, with what is its own.
private final class SimWorker {
  var worker: Worker<SimIO>
  let counters: CounterSet
  let control: UnsafeMutablePointer<WorkerControl>
  /// When a quarter of its buffers was last free.
  var shortSince: (time: UInt64, turn: Int) = (0, 0)

  init(_ world: World, _ index: Int, _ config: EngineConfig, _ board: LoadBoard) {
    counters = CounterSet(replicas: board.capacity)
    control = mapZeroed(1)
    worker = Worker(
      io: SimIO(world, worker: index), config: config, board: board, counters: counters, control: control, log: nil)
    worker.listen(on: World.listener)
  }
}

// Not seen outside: programs that kept one would be built for the worker's present layout, which is no interface.
private struct Simulation: ~Copyable {
  /// Turns after which a run is taken for one that spins.
  private static let turnsMax = 400_000
  /// Longer than any chain of deadlines a request can meet.
  private static let clientBound = 900 * Nanoseconds.second

  private let profile: Profile
  private let world: World
  private let board: LoadBoard
  private let config: EngineConfig
  private var workers: [SimWorker] = []
  private var chance: Chance
  private var clients: [SimClient] = []
  /// Replica of each index of the board, and the highest limit it has had.
  private var members: [SimReplica?]
  private var limitHigh: [UInt32]
  private var nextChange = UInt64.max
  private var changesLeft = 0
  private var drainsAt = UInt64.max
  private var draining = false
  private var deadlines: DeadlineOracle

  init(seed: UInt64, profile: Profile, verbose: Bool) {
    self.profile = profile
    chance = Chance(seed: mix(seed) ^ 0x51)
    let count =
      profile.workers.upperBound == 1 ? 1 : chance.within(profile.workers.lowerBound, profile.workers.upperBound)
    world = World(seed: mix(seed), profile: profile, workers: count)
    world.trace.verbose = verbose
    CrashReport.watch(world, seed: seed, profile: profile)
    board = LoadBoard(capacity: 16)
    board.setPolicy(chance.hit(0.3) ? .roundRobin : .leastLoad)
    members = Array(repeating: nil, count: board.capacity)
    limitHigh = Array(repeating: 0, count: board.capacity)
    config = Simulation.drawConfig(profile, world.bufferBytes, &chance)
    let plan = MemoryPlan(config: config, buffers: world.bufferCount, bufferBytes: world.bufferBytes)
    world.completionRoom = plan.completions
    world.tunnelNs = config.tunnelTimeoutNs
    deadlines = DeadlineOracle(config, profile)
    for index in 0..<count { workers.append(SimWorker(world, index, config, board)) }
    for place in 0..<chance.within(profile.replicas.lowerBound, profile.replicas.upperBound) { admit(place) }
    let limits = SimLimits(bodyMax: Int(config.bodyBytesMax))
    for number in 0..<chance.within(profile.clients.lowerBound, profile.clients.upperBound) {
      let client = SimClient(number: number, world: world, chance: chance.fork(), limits: limits)
      clients.append(client)
      client.start(world, after: chance.delay(profile.arrivalNs), bound: Simulation.clientBound)
    }
    if chance.hit(profile.membership * 5) {
      nextChange = world.now
      changesLeft = chance.within(1, 30)
    }
    if chance.hit(profile.drains) { drainsAt = world.now + chance.delay(profile.arrivalNs * 4) }
  }

  private static func drawConfig(_ profile: Profile, _ bufferBytes: Int, _ chance: inout Chance) -> EngineConfig {
    var config = EngineConfig()
    let slots = chance.within(profile.slots.lowerBound, profile.slots.upperBound)
    config.maxConnections = slots == 0 ? profile.clients.upperBound + 4 : slots
    config.queueSize = chance.within(profile.queueSize.lowerBound, profile.queueSize.upperBound)
    config.headBytesMax = SimLimits.headBytes
    config.targetBytesMax = SimLimits.targetBytes
    config.bodyBytesMax = UInt64(chance.pick(profile.bodyLimit))
    let second = Nanoseconds.second
    config.queueTimeoutNs = (profile.isCalm ? 60 : 3) * second
    config.headTimeoutNs = (profile.isCalm ? 10 : 2) * second
    // Longer than a reader stops: it has all its answers and reads none.
    config.idleTimeoutNs = (profile.isCalm ? 100 : 6) * second
    config.connectTimeoutNs = 1500 * Nanoseconds.millisecond
    config.responseTimeoutNs = (profile.isCalm ? 60 : 8) * second
    config.streamTimeoutNs = (profile.isCalm ? 60 : 5) * second
    config.tunnelTimeoutNs = 10 * second
    config.lingerNs = profile.isCalm ? 100 * second : 300 * Nanoseconds.millisecond
    config.poolIdleNs = chance.pick([3 * second, 200 * Nanoseconds.millisecond, 5 * Nanoseconds.millisecond])
    config.poolSize = chance.pick([1, 2, 64])
    // A replica that answers errors means it here, and is well.
    if profile.blamesNobody { config.ejection.afterErrors = 0 }
    config.halfCloseGraceNs = chance.pick([0, 10 * Nanoseconds.millisecond])
    config.halfCloseAnswers = chance.hit(0.2)
    config.maxAttempts = chance.within(1, 4)
    config.forwarded = chance.hit(0.5) ? .append : .replace
    config.streamWindow = UInt32(max(2 * bufferBytes, chance.pick([4096, 16_384, 65_536])))
    config.retryPercent = UInt32(chance.pick([0, 20, 100]))
    config.spillBytes = chance.pick(profile.spillBytes)
    return config
  }

  // MARK: membership

  private mutating func admit(_ place: Int) {
    let replica = SimReplica(index: world.allReplicas.count, place: place, chance: chance.fork())
    world.allReplicas.append(replica)
    world.replicas[replica.address.storage.0] = replica
    members[place] = replica
    let limit = UInt32(chance.pick(profile.maxInFlight))
    limitHigh[place] = limit == 0 ? .max : limit
    for worker in workers { worker.counters.reset(place) }
    world.log("admit: index, replica, limit", place, replica.index, Int(limit))
    board.admit(
      place, at: replica.address, weight: chance.pick([1, 1, 2, 0.5]), maxInFlight: limit, draining: false)
  }

  /// As the admin thread would, between two turns.
  private mutating func changeMembership() {
    guard world.now >= nextChange, changesLeft > 0 else { return }
    changesLeft -= 1
    nextChange = world.now + chance.delay(200 * Nanoseconds.millisecond)
    let place = chance.below(6)
    guard let replica = members[place] else {
      if board.isFree(place) { admit(place) }
      return
    }
    switch chance.below(6) {
    case 0:
      let limit = UInt32(chance.pick(profile.maxInFlight))
      limitHigh[place] = max(limitHigh[place], limit == 0 ? .max : limit)
      board.adjust(place, weight: chance.pick([1, 2, 0.25]), maxInFlight: limit)
    case 1, 2:
      let drains = replica.leftTurn == .max
      world.log(drains ? "draining: index" : "not draining: index", place)
      board.setDraining(place, drains)
      replica.leftTurn = drains ? world.turn : .max
    default:
      world.log("remove: index", place)
      board.remove(place)
      replica.leftTurn = min(replica.leftTurn, world.turn)
      members[place] = nil
      // Another replica takes the index at once, if it may.
      if chance.hit(0.5) && board.isFree(place) { admit(place) }
    }
  }

  // MARK: running

  mutating func run() -> SimResult {
    while world.failure == nil && !clients.allSatisfy(\.isDone) {
      step()
      if world.isIdle && world.failure == nil && !clients.allSatisfy(\.isDone) {
        world.fail("nothing will ever happen again, yet clients wait")
      }
    }
    // Everybody has left: whatever was in use must come home.
    let end = world.now + 60 * Nanoseconds.second
    while world.failure == nil && !(isHome && (!draining || areFinished)) && world.now < end && !world.isIdle {
      step()
    }
    if world.failure == nil { checkEnd() }
    for link in world.links { link.peer = nil }
    var result = SimResult(failure: world.failure)
    result.requests = world.requests.count
    for request in world.requests {
      switch request.outcome {
      case .answered: result.answered += 1
      case .local: result.local += 1
      case .open, .closed: break
      }
    }
    result.turns = world.turn
    result.time = world.now
    for worker in workers {
      result.spilledBytes += worker.counters.worker.pointee.spilledBytes
      result.shed += worker.counters.worker.pointee.slowClientsShed
    }
    if world.failure != nil { result.tail = world.trace.tail(200) }
    CrashReport.unwatch()
    return result
  }

  private mutating func step() {
    world.toldGone.removeAll(keepingCapacity: true)
    nextWorker().worker.turn()
    if world.failure == nil { checkTurn() }
    changeMembership()
    if world.now >= drainsAt && !draining {
      draining = true
      world.log("drain")
      for worker in workers { worker.control.pointee.command.store(1, ordering: .releasing) }
      world.wakeWorkers()
    }
    if draining && world.listening && areFinished { world.stopListening() }
  }

  /// Whose turn it is: one of those that have something to do, or any, who then waits until something happens.
  private mutating func nextWorker() -> SimWorker {
    if workers.count == 1 { return workers[0] }
    let due = world.rings.filter { $0.isDue(world.now) }
    return workers[chance.pick(due.isEmpty ? world.rings : due).index]
  }

  private var areFinished: Bool { workers.allSatisfy { $0.worker.isFinished } }

  private var leaks: WorkerLeaks {
    var sum = workers[0].worker.leaks
    for worker in workers.dropFirst() {
      let leaks = worker.worker.leaks
      sum.connections += leaks.connections
      sum.exchanges += leaks.exchanges
      sum.segments += leaks.segments
      sum.blocks += leaks.blocks
      sum.buffersOut += leaks.buffersOut
    }
    return sum
  }

  private var isHome: Bool {
    let leaks = leaks
    return leaks.connections == 0 && leaks.exchanges == 0 && leaks.segments == 0 && leaks.blocks == 0
      && leaks.buffersOut == 0 && world.inFlight <= 2 * workers.count && !world.hasUntaken
  }

  // MARK: invariants

  private mutating func checkTurn() {
    if world.turn > Simulation.turnsMax * workers.count { world.fail("too many turns: the worker spins") }
    let exchanges = Int(board.shared.pointee.exchanges.load(ordering: .relaxed))
    let queued = Int(board.shared.pointee.queued.load(ordering: .relaxed))
    var inFlight = 0
    for place in 0..<board.count {
      let load = board.inFlight[place].load(ordering: .relaxed)
      inFlight += Int(load)
      if load > limitHigh[place] {
        world.fail("replica index \(place) has \(load) exchanges, its limit is \(limitHigh[place])")
      }
      if load == 0 && board.health[place].canary.load(ordering: .relaxed) != 0 {
        world.fail("replica index \(place) has a canary out and nothing in flight")
      }
    }
    if exchanges != inFlight + queued {
      world.fail("\(exchanges) exchanges are open, but \(inFlight) leases are out and \(queued) wait")
    }
    let parked = workers.reduce(0) { $0 + Int($1.counters.worker.pointee.upstreamsParked) }
    if world.openUpstreams > parked + inFlight {
      world.fail("\(world.openUpstreams) replica connections for \(inFlight) exchanges and \(parked) parked ones")
    }
    var live = 0
    for client in clients where client.link.fd >= 0 && !client.link.proxyClosed && client.link.goneTurn < 0 {
      live += 1
      checkHeld(client.link)
      checkHoard(client.link)
      checkDead(client.link)
    }
    for (ring, worker) in zip(world.rings, workers) { checkBuffers(ring, worker) }
    if exchanges > live { world.fail("\(exchanges) exchanges are open for \(live) clients that are still there") }
    for link in world.toldGone { checkGone(link) }
    deadlines.check(world)
    checkBlame()
  }

  /// Buffers are not for storing bytes: while they are short, none stays out for long.
  private func checkBuffers(_ ring: SimRing, _ worker: SimWorker) {
    if ring.freeBuffers.count >= world.bufferCount / 4 { worker.shortSince = (world.now, world.turn) }
    let turns = 100 * workers.count
    if let lent = world.oldestLent(ring, besides: turns), world.turn > worker.shortSince.turn + turns {
      let since = max(lent, worker.shortSince.time)
      if world.now > since + 2 * Nanoseconds.second {
        world.fail("a buffer has been lent out for \((world.now - since) / 1_000_000) ms while others wait for one")
      }
    }
  }

  /// A client that takes nothing: what the proxy has taken for it since is a window at most, however many requests
  /// that answers.
  private func checkHoard(_ link: Link) {
    guard profile.boundsHoards, !link.stopped else { return }
    let most = Int(config.streamWindow) * 3 / 2 + 4 * world.bufferBytes + 32_768
    if link.takenSinceAccepted > most {
      world.fail(
        "\(link.takenSinceAccepted) bytes were taken for link \(link.id), which takes none, a window is "
          + "\(config.streamWindow)")
    }
  }

  /// What the proxy itself was short of is never counted as a replica's failure nor held against it.
  private func checkBlame() {
    guard profile.blamesNobody else { return }
    for place in 0..<board.count {
      for worker in workers {
        let counts = worker.counters.replicas[place]
        let failed =
          counts.failConnect + counts.failSend + counts.failHead + counts.failMalformed + counts.failBody
          + counts.timeouts
        if failed != 0 {
          world.fail(
            "replica index \(place) is counted as failed (connect \(counts.failConnect), send \(counts.failSend), "
              + "head \(counts.failHead), malformed \(counts.failMalformed), body \(counts.failBody)), but has not")
        }
      }
      let health = UnsafePointer(board.health) + place
      if health.pointee.consecutiveFailures.load(ordering: .relaxed) != 0
        || health.pointee.ejections.load(ordering: .relaxed) != 0
      {
        world.fail("something is held against replica index \(place), which has done nothing wrong")
      }
    }
  }

  /// Back-pressure: what the proxy has taken for, or from, one client and not yet passed on.
  private func checkHeld(_ link: Link) {
    guard !link.stopped else { return }
    let slack = 4 * world.bufferBytes + 32_768
    // A receive of one more window is begun while half a window waits.
    let window = Int(config.streamWindow) * 3 / 2 + slack
    let down = link.takenForClient - link.acceptedFromProxy
    if down > window, isStreaming(link) {
      world.fail("\(down) bytes of answers are held for link \(link.id), a window is \(config.streamWindow)")
    }
    let up = link.takenByProxy - link.givenForClient
    if up > window, isStreaming(link), !link.discards {
      world.fail("\(up) bytes of requests are held for link \(link.id), a window is \(config.streamWindow)")
    }
  }

  /// Neither end of the client's present request has been given up, and all that was taken is still wanted.
  private func isStreaming(_ link: Link) -> Bool {
    guard !link.ending, let client = link.peer as? SimClient else { return false }
    return client.script.allSatisfy { request in
      !request.isHTTP10 && request.flaw == .none && request.attempts.count <= 1
        && request.attempts.allSatisfy { !world.links[$0.link].stopped || request.outcome == .answered }
    }
  }

  /// A reset that has reached the socket does not stay unnoticed, whether anything is received from it or not.
  private func checkDead(_ link: Link) {
    guard link.proxyDead, let request = served(link), let attempt = request.attempts.last else { return }
    if world.turn > max(link.deadSince.turn, attempt.turn) + 3 * workers.count,
      world.now > max(link.deadSince.time, attempt.offeredAt) + 5 * Nanoseconds.millisecond + profile.lateNs
    {
      world.fail("link \(link.id)'s client is long gone, but the replica of request \(request.id) still works for it")
    }
  }

  /// The client has left, so its replica connection ends in the same turn.
  private func checkGone(_ link: Link) {
    guard let request = served(link), let attempt = request.attempts.last else { return }
    if link.goneTurn == world.turn {
      world.fail("link \(link.id)'s client has gone, but the replica of request \(request.id) still works for it")
    } else if link.toldEnd, !config.halfCloseAnswers, request.isSent,
      world.now > max(link.lastTaken, link.cameAt, attempt.offeredAt) + config.halfCloseGraceNs + 1_000_000
    {
      world.fail("link \(link.id)'s client has closed, but the replica of request \(request.id) still works for it")
    }
  }

  /// The client's request that a replica works on.
  private func served(_ link: Link) -> RequestRecord? {
    guard let client = link.peer as? SimClient, !link.ending else { return nil }
    return client.script.first { request in
      guard let attempt = request.attempts.last else { return false }
      let upstream = world.links[attempt.link]
      guard upstream.offered === request, !request.isPoisoned, !request.upgrades, !upstream.stopped,
        !upstream.proxyClosed
      else { return false }
      return request.plans.isEmpty || upstream.toProxy.read < min(upstream.toProxy.accepted, upstream.unaskedFrom)
    }
  }

  private func checkEnd() {
    if !isHome { world.fail("not everything came home: \(leaks), \(world.inFlight) operations in flight") }
    if world.lentNow != 0 { world.fail("\(world.lentNow) buffers are still lent") }
    for place in 0..<board.count where board.inFlight[place].load(ordering: .relaxed) != 0 {
      world.fail("replica index \(place) still has exchanges")
    }
    if board.shared.pointee.exchanges.load(ordering: .relaxed) != 0 { world.fail("exchanges are still open") }
    if board.shared.pointee.queued.load(ordering: .relaxed) != 0 { world.fail("exchanges still wait") }
    if board.shared.pointee.connections.load(ordering: .relaxed) != 0 { world.fail("connections are still counted") }
    if draining && !areFinished { world.fail("draining does not end") }
    for link in world.links where link.fd >= 0 && !link.proxyClosed {
      world.fail("descriptor of link \(link.id) leaks")
    }
  }
}
