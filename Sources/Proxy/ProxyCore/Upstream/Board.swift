// The replicas as all workers see them: which may be picked, what each carries now, where it is. One board per process,
// shared by every worker without locks; the admin thread alone writes membership.
//
//   Board.swift      the arrays, the part of a pick that all policies share, leases, the search, membership
//   Policy/          which replica is chosen: one file per policy
//   Ejection.swift   which replicas are left out because they fail, and how it is found out that they are back
//   Cuts.swift       until when a replica that leaves may keep its exchanges
//
// Each replica has an index that stays its own from the snapshot that brings it until it has left and its last
// exchange has ended. The search scans dense arrays (gates, counts), sixteen replicas a step; where there are many, it
// first asks in which sixteen the least loaded one can be.

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

/// The one exchange that a pick has counted on a replica. Whatever ends that exchange releases the lease, exactly once.
package struct Lease: BitwiseCopyable {
  package var replica: UInt32
  package var generation: UInt32
  /// The exchange finds out whether an ejected replica is back. No other canary goes to that replica until this one is
  /// answered, has failed or is released.
  package var isCanary = false
  package static var none: Lease {
    @inline(__always) get { Lease(replica: noSlot, generation: 0) }
  }
  @inline(__always)
  package var isHeld: Bool { replica != noSlot }
}

/// Which replica an index stands for. Written, with its address, before the gate opens; unchanged until it is free.
package struct ReplicaPlace: BitwiseCopyable {
  /// Changes each time the index is given to another replica; leases and parked connections carry it.
  package var generation: UInt32
}

// Safe to share: the pointers never change and what they point to lives as long as the process; workers write atomics
// only, and the plain arrays (places, addresses, scales, limits) are written by the admin thread alone, where an old
// value does no harm or the gate is shut.
package struct LoadBoard: BitwiseCopyable, @unchecked Sendable {
  package let capacity: Int
  // Dense arrays, padded to a multiple of 16 entries for the scan.
  package let inFlight: UnsafeMutablePointer<Atomic<UInt32>>
  package let gates: UnsafeMutablePointer<Atomic<UInt32>>
  /// 1 ÷ weight.
  package let scales: UnsafeMutablePointer<Float>
  /// Exchanges a replica may have at once; UInt32.max = no limit.
  package let limits: UnsafeMutablePointer<UInt32>
  package let places: UnsafeMutablePointer<ReplicaPlace>
  package let addresses: UnsafeMutablePointer<SocketAddress>
  package let health: UnsafeMutablePointer<ReplicaHealth>
  /// Until when a draining or leaving replica may keep its exchanges: see Cuts.swift.
  package let cutAt: UnsafeMutablePointer<Atomic<UInt64>>
  /// For each sixteen replicas a key that none of theirs is below, in the upper half; the lower half counts how often
  /// one of theirs may have fallen, so that a worker that raises the bound cannot miss that.
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
    cutAt = mapZeroed(capacity)
    bounds = mapZeroed(capacity >> 4)
    waitingSince = mapZeroed(LoadBoard.workersMax)
    shared = mapZeroed(1)
    for index in 0..<capacity {
      gates[index].store(Gate.absent, ordering: .relaxed)
      scales[index] = 1
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

  /// Whether any replica takes new exchanges as a matter of course.
  package var hasOpen: Bool {
    var index = 0
    let count = self.count
    while index < count {
      if gates[index].load(ordering: .relaxed) == 0 { return true }
      index += 1
    }
    return false
  }
}

/// Counts of the whole process. Zero bytes are its first value: `mapZeroed` makes it.
package struct BoardShared: ~Copyable {
  package let count = Atomic<UInt32>(0)
  /// Counts the replicas that have become pickable. Raised before whoever opened a replica shuts another: see `pick`.
  package let openings = Atomic<UInt32>(0)
  /// Replicas whose ejected bit is set: 0 spares the pick a look for canaries.
  package let ejectedReplicas = Atomic<UInt32>(0)
  /// Where the next look for a replica begins: one past the last pick of any worker, so that ties and turns go round
  /// whichever worker a client's connection belongs to.
  package let cursor = Atomic<UInt32>(0)
  /// Until then no replica counts as doing well, nanoseconds of the monotonic clock: see `isAnotherWell`.
  package let nobodyWellUntil = Atomic<UInt64>(0)
  /// Client connections open now, over all workers.
  package let connections = Atomic<UInt32>(0)
  /// Exchanges open now, counted apart from the leases so that the two can be compared.
  package let exchanges = Atomic<Int64>(0)
  /// Requests waiting for a replica.
  package let queued = Atomic<UInt32>(0)
  /// Workers on this board.
  package let workers = Atomic<UInt32>(0)
  /// The policy in force; a snapshot may change it.
  package let policy = Atomic<Policy>(.leastLoad)
  /// 1 once the process finishes its work to end.
  package let draining = Atomic<UInt32>(0)
  /// Counts the changes of `cutAt`.
  package let cutChanges = Atomic<UInt32>(0)
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
  /// Every ready replica has been ejected, and none of them can be tried now.
  case ejected
  /// No replica is ready at all.
  case empty
}

extension LoadBoard {
  /// The key of a replica that may not be picked.
  @inline(__always)
  static var shut: UInt32 { .max }
  /// How often a pick chooses anew because other workers took the place or shut the gate of the replica it had chosen.
  /// After that the request waits in the queue, which is looked at again within a millisecond.
  private static let racesMax = 16

  /// Chooses a replica and takes one exchange on it. Exact: the count is taken in the same step as the choice is
  /// confirmed, so a limit is never exceeded by racing workers.
  @inline(__always)
  package func pick(_ ask: Ask) -> Picked {
    while true {
      let openings = shared.pointee.openings.load(ordering: .acquiring)
      let picked = pickOnce(ask)
      if case .replica = picked { return picked }
      // The look is not one moment: it may have passed replica A before A was opened, and come to replica B after B was
      // shut. Then there was one to be found all the time, and the look is repeated.
      if shared.pointee.openings.load(ordering: .relaxed) == openings { return picked }
    }
  }

  @inline(__always)
  private func pickOnce(_ ask: Ask) -> Picked {
    let count = self.count
    if shared.pointee.ejectedReplicas.load(ordering: .relaxed) != 0,
      let canary = canary(ask, count, ask.isHarmless ? .harmless : .risky)
    {
      return .replica(canary)
    }
    let policy = shared.pointee.policy.load(ordering: .relaxed)
    var races = 0
    while races < LoadBoard.racesMax {
      let choice =
        switch policy {
        case .leastLoad: LeastLoad.choose(ask, self, count)
        case .roundRobin: RoundRobin.choose(ask, self, count)
        }
      switch choice {
      case .replica(let index):
        if take(index) {
          // After the count, not before: a locked instruction waits for the stores before it.
          shared.pointee.cursor.store(index &+ 1, ordering: .relaxed)
          return .replica(lease(index))
        }
      case .turn(let index): if take(index) { return .replica(lease(index)) }
      case .full: return .full
      case .nobody: return lastResort(ask, count)
      }
      races += 1
    }
    return .full
  }

  /// One replica as a policy sees it that looks at one after the other.
  enum Standing: BitwiseCopyable {
    /// It may be picked; the lower its key, the less it has to do for its weight.
    case open(key: UInt32)
    /// It has all the exchanges it may have.
    case full
    /// It is shut, or the request has failed on it.
    case out
  }

  @inline(__always)
  func standing(of index: Int, _ ask: Ask) -> Standing {
    if gates[index].load(ordering: .acquiring) != 0 || ask.tried.contains(UInt32(index)) { return .out }
    let load = inFlight[index].load(ordering: .relaxed)
    if load >= limits[index] { return .full }
    return .open(key: key(load, index))
  }

  /// Orders replicas by in-flight ÷ weight: the bits of that as a number, which for numbers that are not negative are
  /// in the order of the numbers themselves.
  @inline(__always)
  private func key(_ load: UInt32, _ index: Int) -> UInt32 { (Float(load) * scales[index]).bitPattern }

  /// The index with the least key, scanning sixteen at a time and starting at `from` so that ties go round.
  @inline(__always)
  func scan(_ count: Int, from: Int) -> (UInt32, UInt32) {
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

  /// The keys of sixteen replicas, as `key`; `shut` for those that may not be picked.
  @inline(__always)
  private func keys(of block: Int) -> SIMD16<UInt32> {
    // Vectors on both sides of every operation: with a scalar on one side Swift 6.3 falls back to generic code.
    // Plain vector loads of words that others change atomically: an aligned 32-bit word does not tear, and the choice
    // is confirmed by take().
    let loads = UnsafeRawPointer(inFlight + block << 4).load(as: SIMD16<UInt32>.self)
    let gate = UnsafeRawPointer(gates + block << 4).load(as: SIMD16<UInt32>.self)
    let caps = UnsafeRawPointer(limits + block << 4).load(as: SIMD16<UInt32>.self)
    let scale = UnsafeRawPointer(scales + block << 4).load(as: SIMD16<Float>.self)
    // A number below 2^23 in the low bits of 2^23 as a Float adds it: the quick way to a vector of Floats.
    let base = SIMD16<Float>(repeating: 8_388_608)
    let sums = unsafeBitCast(loads | SIMD16<UInt32>(repeating: 0x4B00_0000), to: SIMD16<Float>.self)
    var keys = unsafeBitCast((sums - base) * scale, to: SIMD16<UInt32>.self)
    let isShut = (loads .>= caps) .| (gate .!= SIMD16<UInt32>())
    keys.replace(with: SIMD16<UInt32>(repeating: LoadBoard.shut), where: isShut)
    return keys
  }

  /// Up to so many replicas are looked at one and all; asking the bounds first costs more.
  static let scannedMax = 64

  /// After so many looks, each of which found a bound too low or lost a race, all replicas are scanned.
  private static let looksMax = 64

  /// As `scan`, for many replicas: looks only at the sixteen with the least bound. A bound that is too low, since
  /// replicas have been taken, is raised, and the next least is tried: about two looks a pick.
  func search(_ count: Int, from: Int) -> (UInt32, UInt32) {
    let blocks = (count + 15) >> 4
    var start = from < count ? from : 0
    var looks = 0
    var wentOn = false
    while looks < LoadBoard.looksMax {
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
  func lowered(_ index: Int, to key: UInt32) {
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
    lowered(index, to: key(before &- 1, index))
    return before
  }

  /// Counts one exchange on a replica unless that would exceed its limit or its gate has shut meanwhile. `despite`: a
  /// bit of the gate that does not matter.
  @inline(__always)
  func take(_ index: UInt32, despite: UInt32 = 0) -> Bool {
    let before = inFlight[Int(index)].wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue
    if before < limits[Int(index)] && gates[Int(index)].load(ordering: .acquiring) & ~despite == 0 { return true }
    // A report may have told of this count; that it has gone is news as well.
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

// MARK: - Membership (the admin thread only)

extension LoadBoard {
  package func setPolicy(_ policy: Policy) {
    shared.pointee.policy.store(policy, ordering: .relaxed)
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
    health[index].reset()
    cutAt[index].store(0, ordering: .relaxed)
    adjust(index, weight: weight, maxInFlight: maxInFlight)
    gates[index].store(draining ? Gate.draining : 0, ordering: .releasing)
    lowered(index, to: 0)
    if index >= count { shared.pointee.count.store(UInt32(index + 1), ordering: .releasing) }
    opened()
  }

  /// Called by whoever has opened a replica, before it shuts another: see `pick`.
  func opened() { shared.pointee.openings.wrappingAdd(1, ordering: .acquiringAndReleasing) }

  /// Changes weight and limit in place; the exchanges it has are untouched. `maxInFlight` 0 = no limit.
  package func adjust(_ index: Int, weight: Double, maxInFlight: UInt32) {
    scales[index] = Float(1 / weight)
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
