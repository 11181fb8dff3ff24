// The replicas as all workers see them: who may be picked, what each carries now, where it is. One board per process,
// shared by every worker without locks; the admin thread alone writes membership.
//
// Each replica has an index that stays its own from the snapshot that brings it until it has left and its last
// exchange has ended. The pick scans dense arrays (gates, counts), sixteen replicas a step; where there are many, it
// first asks in which sixteen the least one can be.

import Synchronization

/// What keeps a replica from being picked; no bit set = it may be.
package struct Gate {
  /// No replica has this index.
  package static let absent: UInt32 = 1 << 31
  /// Gets no new exchanges, finishes the ones it has.
  package static let draining: UInt32 = 1 << 30
  /// Failed too often; one canary at a time finds out whether it is back.
  package static let ejected: UInt32 = 1 << 29
}

/// A count owed to a replica: released exactly once by whatever ends the exchange (DESIGN rule 6).
package struct Lease: BitwiseCopyable {
  package var replica: UInt32
  package var generation: UInt32
  /// It finds out whether an ejected replica is back, and until that is known, or the lease given back, no other does.
  package var isCanary = false
  package static var none: Lease {
    @inline(__always) get { Lease(replica: noSlot, generation: 0) }
  }
  @inline(__always)
  package var isHeld: Bool { replica != noSlot }
}

/// Health of one replica as the traffic itself shows it. Written by workers, all fields atomic.
package struct ReplicaHealth: ~Copyable {
  /// Failures before a response head since the last success.
  package let consecutiveFailures = Atomic<UInt32>(0)
  /// Ejections in a row: the back-off doubles with each.
  package let ejections = Atomic<UInt32>(0)
  /// How it last failed to take a connection: 0 it took one, 1 refused, 2 did not answer in time.
  package let unreachable = Atomic<UInt32>(0)
  /// 1 while a canary is out.
  package let canary = Atomic<UInt32>(0)
  /// Nanoseconds of the monotonic clock: no canary before this.
  package let retryAt = Atomic<UInt64>(0)
  /// When it last failed, same clock.
  package let failedAt = Atomic<UInt64>(0)
}

/// Which replica an index stands for. Written, with its address, before the gate opens; unchanged until it is free.
package struct ReplicaPlace: BitwiseCopyable {
  /// Changes each time the index is given to another replica; leases and parked connections carry it.
  package var generation: UInt32
}

/// Limits of ejection, from the configuration.
package struct EjectionRule: BitwiseCopyable {
  /// Consecutive failures that eject; refused connections do so at once. 0 = nothing does.
  package var after: UInt32
  package var minNs: UInt64
  package var maxNs: UInt64
  package init(after: UInt32 = 3, minNs: UInt64 = 250_000_000, maxNs: UInt64 = 8_000_000_000) {
    self.after = after
    self.minNs = minNs
    self.maxNs = maxNs
  }
}

package struct LoadBoard: BitwiseCopyable, @unchecked Sendable {
  package let capacity: Int
  // Dense arrays, padded to a multiple of 16 entries for the scan.
  package let inFlight: UnsafeMutablePointer<Atomic<UInt32>>
  package let gates: UnsafeMutablePointer<Atomic<UInt32>>
  /// 256 ÷ weight, at least 1: in-flight × scale orders replicas by in-flight ÷ weight.
  package let scales: UnsafeMutablePointer<UInt32>
  /// Exchanges a replica may have at once; UInt32.max = no limit.
  package let limits: UnsafeMutablePointer<UInt32>
  package let places: UnsafeMutablePointer<ReplicaPlace>
  package let addresses: UnsafeMutablePointer<SocketAddress>
  package let health: UnsafeMutablePointer<ReplicaHealth>
  /// For each sixteen replicas a key that none of theirs is below, in the upper half; the lower half counts how often
  /// one of theirs may have fallen, so that who raises it cannot miss that.
  package let bounds: UnsafeMutablePointer<Atomic<UInt64>>
  /// Per worker: since when its oldest request waits for any replica, nanoseconds of the monotonic clock; 0: none does.
  package let waitingSince: UnsafeMutablePointer<Atomic<UInt64>>
  package let shared: UnsafeMutablePointer<BoardShared>
  /// Workers that may share a board.
  package static let workersMax = 256

  package init(capacity requested: Int) {
    capacity = (max(1, requested) + 15) & ~15
    inFlight = mapZeroed(capacity)
    gates = mapZeroed(capacity)
    scales = mapZeroed(capacity)
    limits = mapZeroed(capacity)
    places = mapZeroed(capacity)
    addresses = mapZeroed(capacity)
    health = mapZeroed(capacity)
    bounds = mapZeroed(capacity >> 4)
    waitingSince = mapZeroed(LoadBoard.workersMax)
    shared = mapZeroed(1)
    for index in 0..<capacity {
      gates[index].store(Gate.absent, ordering: .relaxed)
      scales[index] = 256
      limits[index] = .max
    }
  }

  /// Indices below this may be in use; the scan stops here.
  @inline(__always)
  package var count: Int { Int(shared.pointee.count.load(ordering: .acquiring)) }

  /// A worker's place in `waitingSince`, its own for good.
  package func joinWorkers() -> Int {
    let place = Int(shared.pointee.workers.wrappingAdd(1, ordering: .relaxed).oldValue)
    precondition(place < LoadBoard.workersMax, "more workers than LoadBoard.workersMax")
    return place
  }

  /// Whether a request waits in another worker than `place` that came before `time`.
  package func isOlderWaiting(than time: UInt64, besides place: Int) -> Bool {
    let workers = Int(shared.pointee.workers.load(ordering: .relaxed))
    var worker = 0
    while worker < workers {
      let since = waitingSince[worker].load(ordering: .relaxed)
      if since != 0 && since < time && worker != place { return true }
      worker += 1
    }
    return false
  }
}

/// Counts of the whole process.
package struct BoardShared: ~Copyable {
  package let count = Atomic<UInt32>(0)
  /// Goes up with each replica that may be picked from now on, before whoever saw to that takes others out.
  package let openings = Atomic<UInt32>(0)
  /// Replicas whose ejected bit is set: 0 spares the pick a look for canaries.
  package let ejectedReplicas = Atomic<UInt32>(0)
  /// Where the next look for a replica begins: one past the last pick of any worker, so that ties and turns go round
  /// for whoever asks, whichever worker has its connection.
  package let cursor = Atomic<UInt32>(0)
  /// Client connections open now, over all workers.
  package let connections = Atomic<UInt32>(0)
  /// Exchanges open now, counted apart from the leases so that the two can be compared.
  package let exchanges = Atomic<Int64>(0)
  /// Requests waiting for a replica.
  package let queued = Atomic<UInt32>(0)
  /// Workers on this board.
  package let workers = Atomic<UInt32>(0)
  /// The policy in force, a `Policy` raw value; a snapshot may change it.
  package let policy = Atomic<UInt32>(0)
  /// 1 once the process finishes its work to end.
  package let draining = Atomic<UInt32>(0)
  /// Version of the snapshot in force.
  package let version = Atomic<UInt64>(0)
  /// Bumped when something happened that GET /v1/reports should tell at once.
  package let news = Atomic<UInt64>(0)
  /// Wakes who tells it; `tellNews` bumps the one and rings the other.
  package let bell = NewsBell()
}

// MARK: - Picking

package enum Picked: BitwiseCopyable {
  /// The exchange is counted on it already.
  case replica(Lease)
  /// Replicas could serve but each has all the exchanges it may have: wait.
  case full
  /// Every ready replica has been ejected: they refuse.
  case ejected
  /// No replica is ready at all.
  case empty
}

/// The replicas an exchange has failed on.
package struct Tried: BitwiseCopyable {
  private var a = noSlot
  private var b = noSlot
  private var c = noSlot
  private var d = noSlot
  package init() {}
  @inline(__always)
  package var isEmpty: Bool { a == noSlot }
  @inline(__always)
  package func contains(_ replica: UInt32) -> Bool { a == replica || b == replica || c == replica || d == replica }
  package mutating func add(_ replica: UInt32) {
    d = c
    c = b
    b = a
    a = replica
  }
}

package enum Policy: UInt8, BitwiseCopyable {
  /// Least in-flight ÷ weight; ties go round.
  case leastLoad
  /// The next one each time.
  case roundRobin
}

extension LoadBoard {
  /// Keys at or above this are not pickable: the gate bits lie there.
  @inline(__always)
  private static var shut: UInt32 { Gate.ejected }

  /// Chooses a replica and takes one exchange on it. Exact: the count is taken in the same step as the choice is
  /// confirmed, so a limit is never exceeded by racing workers. `isHarmless`: should the replica fail, the request is
  /// sent to another and nothing is lost but a moment.
  @inline(__always)
  package func pick(tried: Tried, isHarmless: Bool, now: UInt64, rule: EjectionRule) -> Picked {
    while true {
      let openings = shared.pointee.openings.load(ordering: .acquiring)
      let picked = pickOnce(tried, isHarmless, now, rule)
      if case .replica = picked { return picked }
      // A look takes time: it may have passed one replica before that was opened, and another after that was shut. Then
      // there is one to be found.
      if shared.pointee.openings.load(ordering: .relaxed) == openings { return picked }
    }
  }

  @inline(__always)
  private func pickOnce(_ tried: Tried, _ isHarmless: Bool, _ now: UInt64, _ rule: EjectionRule) -> Picked {
    let count = self.count
    let policy: Policy = shared.pointee.policy.load(ordering: .relaxed) == 0 ? .leastLoad : .roundRobin
    if shared.pointee.ejectedReplicas.load(ordering: .relaxed) != 0,
      let canary = canary(tried, now, count, isHarmless ? .harmless : .risky)
    {
      return .replica(canary)
    }
    if tried.isEmpty && policy == .leastLoad {
      var attempts = 0
      while attempts < 4 {
        let cursor = Int(shared.pointee.cursor.load(ordering: .relaxed))
        let (best, key) = count > LoadBoard.scannedMost ? search(count, from: cursor) : scan(count, from: cursor)
        guard key < LoadBoard.shut else { break }
        if take(best) {
          shared.pointee.cursor.store(best &+ 1, ordering: .relaxed)
          return .replica(lease(best))
        }
        attempts += 1
      }
    }
    return pickSlowly(policy, tried, now, count)
  }

  /// The rare cases: round robin, a retry that must avoid the tried replicas, nobody below its limit.
  private func pickSlowly(
    _ policy: Policy, _ tried: Tried, _ now: UInt64, _ count: Int, racesLeft: Int = 16
  ) -> Picked {
    var sawFull = false
    var sawEjected = false
    var best = noSlot
    var bestKey = UInt32.max
    var step = 0
    let cursor = shared.pointee.cursor.load(ordering: .relaxed)
    let start = count == 0 ? 0 : Int(cursor) % count
    while step < count {
      let index = start + step < count ? start + step : start + step - count
      step += 1
      let gate = gates[index].load(ordering: .acquiring)
      if gate != 0 {
        if gate == Gate.ejected { sawEjected = true }
        continue
      }
      if tried.contains(UInt32(index)) { continue }
      let load = inFlight[index].load(ordering: .relaxed)
      if load >= limits[index] {
        sawFull = true
        continue
      }
      let key = policy == .roundRobin ? 0 : min(load, 8191) &* scales[index]
      if key < bestKey {
        bestKey = key
        best = UInt32(index)
        if policy == .roundRobin { break }
      }
    }
    if best != noSlot {
      let (isOurTurn, _) = shared.pointee.cursor.compareExchange(
        expected: cursor, desired: best &+ 1, ordering: .relaxed)
      // Another worker may have had this turn, or the last place that was free.
      let isRaceLost = policy == .roundRobin && !isOurTurn
      if (!isRaceLost || racesLeft == 0) && take(best) { return .replica(lease(best)) }
      return racesLeft > 0 ? pickSlowly(policy, tried, now, count, racesLeft: racesLeft - 1) : .full
    }
    if sawFull { return .full }
    if sawEjected {
      if let canary = canary(tried, now, count, .lastResort) { return .replica(canary) }
      // Nobody is well. Those that at least take connections are better than an answer of our own, and for a request
      // that has failed already so are those that refuse quickly.
      let bearable: UInt32 = tried.isEmpty ? 0 : 1
      step = 0
      while step < count {
        let index = start + step < count ? start + step : start + step - count
        step += 1
        guard gates[index].load(ordering: .acquiring) == Gate.ejected, !tried.contains(UInt32(index)),
          health[index].unreachable.load(ordering: .relaxed) <= bearable,
          take(UInt32(index), despite: Gate.ejected)
        else { continue }
        shared.pointee.cursor.store(UInt32(index) &+ 1, ordering: .relaxed)
        return .replica(lease(UInt32(index)))
      }
      return .ejected
    }
    return .empty
  }

  /// Whether any replica is in force that is not on its way out: decides what a client is told.
  package var hasReplicas: Bool {
    var index = 0
    let count = self.count
    while index < count {
      if gates[index].load(ordering: .relaxed) & (Gate.absent | Gate.draining) == 0 { return true }
      index += 1
    }
    return false
  }

  /// The index with the least key, scanning sixteen at a time and starting at `from` so that ties go round.
  @inline(__always)
  private func scan(_ count: Int, from: Int) -> (UInt32, UInt32) {
    let blocks = (count + 15) >> 4
    guard blocks > 0 else { return (noSlot, .max) }
    let start = from < count ? from : 0
    let firstBlock = start >> 4
    let firstLane = UInt32(start & 15)
    let shutAll = SIMD16<UInt32>(repeating: .max)
    let first = SIMD16<UInt32>(repeating: firstLane)
    let lanes = SIMD16<UInt32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    var bestIndex = noSlot
    var bestKey = UInt32.max
    var visit = 0
    var block = firstBlock
    while visit <= blocks {
      var keys = keys(of: block)
      if visit == 0 { keys.replace(with: shutAll, where: lanes .< first) }
      if visit == blocks { keys.replace(with: shutAll, where: lanes .>= first) }
      let least = keys.min()
      if least < bestKey {
        bestKey = least
        var lane = 0
        while keys[lane] != least { lane += 1 }
        bestIndex = UInt32(block << 4 + lane)
        if least == 0 { break }
      }
      visit += 1
      block = block + 1 == blocks ? 0 : block + 1
    }
    return (bestIndex, bestKey)
  }

  /// The keys of sixteen replicas: in-flight × scale, with the gate's bits above them all.
  @inline(__always)
  private func keys(of block: Int) -> SIMD16<UInt32> {
    // Vectors on both sides of every comparison: with a scalar on one side Swift 6.3 falls back to generic code.
    let most = SIMD16<UInt32>(repeating: 8191)
    // Plain vector loads of words that others change atomically: an aligned 32-bit word does not tear, and the choice
    // is confirmed by take().
    let loads = UnsafeRawPointer(inFlight + block << 4).load(as: SIMD16<UInt32>.self)
    let shut = UnsafeRawPointer(gates + block << 4).load(as: SIMD16<UInt32>.self)
    let caps = UnsafeRawPointer(limits + block << 4).load(as: SIMD16<UInt32>.self)
    let scale = UnsafeRawPointer(scales + block << 4).load(as: SIMD16<UInt32>.self)
    var keys = (loads.replacing(with: most, where: loads .> most) &* scale) | shut
    keys.replace(with: SIMD16<UInt32>(repeating: .max), where: loads .>= caps)
    return keys
  }

  /// Up to so many replicas are looked at one and all; asking the bounds first costs more.
  private static let scannedMost = 64

  /// As `scan`, for many replicas: looks only at the sixteen with the least bound. A bound that is too low, since
  /// replicas have been taken, is raised, and the next least is tried: about two looks a pick.
  private func search(_ count: Int, from: Int) -> (UInt32, UInt32) {
    let blocks = (count + 15) >> 4
    var start = from < count ? from : 0
    var looks = 0
    var wentOn = false
    while looks < 64 {
      looks += 1
      let firstBlock = start >> 4
      let firstLane = start & 15
      // The first in the round, so that ties go round.
      var best = firstBlock
      var word = bounds[firstBlock].load(ordering: .acquiring)
      lookLower(from: firstBlock + 1, to: blocks, &best, &word)
      lookLower(from: 0, to: firstBlock, &best, &word)
      let keys = keys(of: best)
      let least = keys.min()
      if UInt64(least) > word >> 32 {
        let raised = UInt64(least) << 32 | word & 0xFFFF_FFFF
        _ = bounds[best].weakCompareExchange(expected: word, desired: raised, ordering: .acquiringAndReleasing)
        continue
      }
      var lane = best == firstBlock ? firstLane : 0
      while lane < 16 && keys[lane] != least { lane += 1 }
      if lane == 16 {
        // Only before the place where the round began: whoever else is as good has its turn first.
        if !wentOn {
          wentOn = true
          start = firstBlock + 1 < blocks ? (firstBlock + 1) << 4 : 0
          continue
        }
        lane = 0
        while keys[lane] != least { lane += 1 }
      }
      return (UInt32(best << 4 + lane), least)
    }
    return scan(count, from: from)
  }

  /// Finds the least bound that is below the best so far. A pick from 1,000 replicas takes 49 ns with two such runs, 70
  /// with one that wraps round.
  @inline(__always)
  private func lookLower(from: Int, to: Int, _ best: inout Int, _ word: inout UInt64) {
    var block = from
    while block < to {
      let other = bounds[block].load(ordering: .acquiring)
      if other >> 32 < word >> 32 { (best, word) = (block, other) }
      block += 1
    }
  }

  /// A replica's key may have fallen, to no less than `key`.
  @inline(__always)
  private func lowered(_ index: Int, to key: UInt32) {
    let bound = bounds + index >> 4
    var word = bound.pointee.load(ordering: .relaxed)
    while true {
      let next = min(word >> 32, UInt64(key)) << 32 | (word &+ 1) & 0xFFFF_FFFF
      let (done, seen) = bound.pointee.weakCompareExchange(
        expected: word, desired: next, ordering: .acquiringAndReleasing)
      if done { return }
      word = seen
    }
  }

  /// Takes one exchange off a replica's count; returns what it was.
  @inline(__always)
  @discardableResult
  private func uncount(_ index: Int) -> UInt32 {
    let before = inFlight[index].wrappingSubtract(1, ordering: .acquiringAndReleasing).oldValue
    lowered(index, to: min(before &- 1, 8191) &* scales[index])
    return before
  }

  /// Counts one exchange on a replica unless that would exceed its limit or its gate has shut meanwhile. `despite`: a
  /// bit of the gate that does not matter.
  @inline(__always)
  private func take(_ index: UInt32, despite: UInt32 = 0) -> Bool {
    let before = inFlight[Int(index)].wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue
    if before < limits[Int(index)] && gates[Int(index)].load(ordering: .acquiring) & ~despite == 0 { return true }
    // A report may have told of it: what is there now is news.
    tellEmpty(Int(index), uncount(Int(index)))
    return false
  }

  /// A draining replica that has just finished is news for whoever waits to stop it.
  @inline(__always)
  private func tellEmpty(_ index: Int, _ before: UInt32) {
    if before == 1 && gates[index].load(ordering: .relaxed) & (Gate.draining | Gate.absent) != 0 {
      shared.pointee.tellNews()
    }
  }

  @inline(__always)
  package func lease(_ replica: UInt32) -> Lease {
    Lease(replica: replica, generation: places[Int(replica)].generation)
  }

  /// Gives the count back and leaves the lease empty, so that a second release does nothing.
  @inline(__always)
  package func release(_ lease: inout Lease) {
    guard lease.isHeld else { return }
    // Whatever has become of the exchange (its client left, its body was refused): another canary may go.
    if lease.isCanary { health[Int(lease.replica)].canary.store(0, ordering: .relaxed) }
    let before = uncount(Int(lease.replica))
    precondition(before > 0, "a lease was released twice")
    tellEmpty(Int(lease.replica), before)
    lease = .none
  }
}

// MARK: - Ejection

extension LoadBoard {
  private enum CanaryKind {
    /// Fails its client when the replica is not back: the back-off is waited out.
    case risky
    /// Costs nothing, so ten tries a second are fine where they fail at once.
    case harmless
    /// All ready replicas are ejected: ten tries a second to each are better than waiting.
    case lastResort
  }

  /// An ejected replica that may be tried again and has no canary out: the caller's exchange becomes the canary.
  private func canary(_ tried: Tried, _ now: UInt64, _ count: Int, _ kind: CanaryKind) -> Lease? {
    var index = 0
    while index < count {
      let candidate = index
      index += 1
      guard gates[candidate].load(ordering: .relaxed) == Gate.ejected, !tried.contains(UInt32(candidate)) else {
        continue
      }
      let isEarly =
        switch kind {
        case .risky: false
        case .harmless: health[candidate].unreachable.load(ordering: .relaxed) < 2
        case .lastResort: true
        }
      let due =
        isEarly
        ? health[candidate].failedAt.load(ordering: .relaxed) &+ 100_000_000
        : health[candidate].retryAt.load(ordering: .relaxed)
      guard now >= due else { continue }
      guard health[candidate].canary.compareExchange(expected: 0, desired: 1, ordering: .relaxed).exchanged else {
        continue
      }
      // Draining may have begun meanwhile: nothing new may go there once it has been said to be empty.
      if take(UInt32(candidate), despite: Gate.ejected) {
        var lease = lease(UInt32(candidate))
        lease.isCanary = true
        return lease
      }
      health[candidate].canary.store(0, ordering: .relaxed)
    }
    return nil
  }

  /// The replica took a connection; whether it answers is another question.
  @inline(__always)
  package func reached(_ lease: Lease) {
    let health = health + Int(lease.replica)
    if health.pointee.unreachable.load(ordering: .relaxed) != 0 {
      health.pointee.unreachable.store(0, ordering: .relaxed)
    }
  }

  /// The replica began to answer: it is well.
  @inline(__always)
  package func succeeded(_ lease: inout Lease) {
    let health = health + Int(lease.replica)
    if lease.isCanary {
      lease.isCanary = false
      health.pointee.canary.store(0, ordering: .relaxed)
    }
    if health.pointee.consecutiveFailures.load(ordering: .relaxed) != 0 {
      health.pointee.consecutiveFailures.store(0, ordering: .relaxed)
    }
    if gates[Int(lease.replica)].load(ordering: .relaxed) & Gate.ejected != 0 { restore(Int(lease.replica)) }
  }

  /// The replica failed before the head of a response. `refused`: it did not even take the connection; `timedOut`: it
  /// said nothing at all.
  package func failed(_ lease: Lease, refused: Bool, timedOut: Bool = false, now: UInt64, rule: EjectionRule) {
    let index = Int(lease.replica)
    let health = health + index
    let failures = health.pointee.consecutiveFailures.wrappingAdd(1, ordering: .relaxed).newValue
    health.pointee.failedAt.store(now, ordering: .relaxed)
    health.pointee.unreachable.store(!refused ? 0 : timedOut ? 2 : 1, ordering: .relaxed)
    let gate = gates[index].load(ordering: .relaxed)
    if gate & Gate.ejected != 0 {
      // Only the canary's own failure lengthens the back-off, not stragglers sent before the ejection.
      guard lease.isCanary else { return }
      // Canaries sent early do not lengthen it either.
      if now >= health.pointee.retryAt.load(ordering: .relaxed) { backOff(index, now, rule) }
    } else if gate == 0 && rule.after > 0 && (refused || (failures >= rule.after && others(than: index))) {
      // Before the bit is set: from then on others look for when it may be tried.
      health.pointee.retryAt.store(now &+ rule.minNs, ordering: .relaxed)
      if gates[index].compareExchange(expected: 0, desired: Gate.ejected, ordering: .acquiringAndReleasing).exchanged {
        shared.pointee.ejectedReplicas.wrappingAdd(1, ordering: .relaxed)
        backOff(index, now, rule)
      }
    }
    shared.pointee.tellNews()
  }

  private func backOff(_ index: Int, _ now: UInt64, _ rule: EjectionRule) {
    let round = min(health[index].ejections.wrappingAdd(1, ordering: .relaxed).oldValue, 20)
    health[index].retryAt.store(now &+ min(rule.maxNs, rule.minNs << UInt64(round)), ordering: .relaxed)
  }

  /// Whether another replica could take the traffic: the last one standing is not ejected for answering badly.
  private func others(than index: Int) -> Bool {
    var other = 0
    let count = self.count
    while other < count {
      if other != index && gates[other].load(ordering: .relaxed) == 0 { return true }
      other += 1
    }
    return false
  }

  private func restore(_ index: Int) {
    let before = gates[index].bitwiseAnd(~Gate.ejected, ordering: .acquiringAndReleasing).oldValue
    guard before & Gate.ejected != 0 else { return }
    lowered(index, to: 0)
    opened()
    health[index].canary.store(0, ordering: .relaxed)
    health[index].ejections.store(0, ordering: .relaxed)
    shared.pointee.ejectedReplicas.wrappingSubtract(1, ordering: .relaxed)
    shared.pointee.tellNews()
  }
}

// MARK: - Membership (the admin thread only)

extension LoadBoard {
  package func setPolicy(_ policy: Policy) {
    shared.pointee.policy.store(UInt32(policy.rawValue), ordering: .relaxed)
  }

  /// Fills a free index (`isFree`) with a replica and opens it.
  package func admit(
    _ index: Int, at address: SocketAddress, weight: Double, maxInFlight: UInt32, draining: Bool
  ) {
    // Not isFree: a racing pick that is about to be undone may show as one in flight for a moment.
    precondition(
      gates[index].load(ordering: .acquiring) & Gate.absent != 0, "a replica index was given away while in use")
    addresses[index] = address
    places[index].generation &+= 1
    health[index].consecutiveFailures.store(0, ordering: .relaxed)
    health[index].ejections.store(0, ordering: .relaxed)
    health[index].canary.store(0, ordering: .relaxed)
    health[index].unreachable.store(0, ordering: .relaxed)
    adjust(index, weight: weight, maxInFlight: maxInFlight)
    gates[index].store(draining ? Gate.draining : 0, ordering: .releasing)
    lowered(index, to: 0)
    if index >= count { shared.pointee.count.store(UInt32(index + 1), ordering: .releasing) }
    opened()
  }

  /// To be said before whoever opened one shuts another: see `pick`.
  private func opened() { shared.pointee.openings.wrappingAdd(1, ordering: .acquiringAndReleasing) }

  /// Changes weight and limit in place; the exchanges it has are untouched. `maxInFlight` 0 = no limit.
  package func adjust(_ index: Int, weight: Double, maxInFlight: UInt32) {
    scales[index] = UInt32(min(65535, max(1, (256 / weight).rounded())))
    limits[index] = maxInFlight == 0 ? .max : maxInFlight
    lowered(index, to: 0)
  }

  package func setDraining(_ index: Int, _ draining: Bool) {
    if draining {
      gates[index].bitwiseOr(Gate.draining, ordering: .acquiringAndReleasing)
    } else {
      gates[index].bitwiseAnd(~Gate.draining, ordering: .acquiringAndReleasing)
      lowered(index, to: 0)
      opened()
    }
  }

  /// The replica has left: nothing new goes to it; the index is free once its last exchange has ended.
  package func remove(_ index: Int) {
    let before = gates[index].exchange(Gate.absent, ordering: .acquiringAndReleasing)
    if before & Gate.ejected != 0 { shared.pointee.ejectedReplicas.wrappingSubtract(1, ordering: .relaxed) }
  }

  package func isFree(_ index: Int) -> Bool {
    gates[index].load(ordering: .acquiring) & Gate.absent != 0 && inFlight[index].load(ordering: .acquiring) == 0
  }
}
