// What a worker counts. Each worker has its own, written by it alone; readers (metrics, reports) add them up. Aligned
// words written by one thread do not tear, so plain stores are enough and the hot path pays one add.

/// Counts of one replica on one worker. Plain 64-bit words in the order `Metrics` names them.
package struct ReplicaCounters: BitwiseCopyable {
  package var exchanges: UInt64
  /// Final responses by status class 1xx (101 only) ... 5xx.
  package var status1: UInt64
  package var status2: UInt64
  package var status3: UInt64
  package var status4: UInt64
  package var status5: UInt64
  /// By `FaultStage`, and those whose answer broke a clause of HTTP.
  package var failConnect: UInt64
  package var failSend: UInt64
  package var failHead: UInt64
  package var failMalformed: UInt64
  package var failBody: UInt64
  package var timeouts: UInt64
  /// Exchanges moved away from this replica to another.
  package var retriedAway: UInt64
  /// Clients that left while this replica worked for them.
  package var clientsLeft: UInt64
  package var connects: UInt64
  package var bytesToReplica: UInt64
  package var bytesFromReplica: UInt64

  @inline(__always)
  package mutating func count(status: UInt16) {
    switch status / 100 {
    case 1: status1 &+= 1
    case 2: status2 &+= 1
    case 3: status3 &+= 1
    case 4: status4 &+= 1
    default: status5 &+= 1
    }
  }

  @inline(__always)
  package mutating func count(_ fault: Fault) {
    if fault.kind == .timeout { timeouts &+= 1 }
    if fault.kind == .malformed {
      failMalformed &+= 1
      return
    }
    switch fault.stage {
    case .connect: failConnect &+= 1
    case .send: failSend &+= 1
    case .head, .queue: failHead &+= 1
    case .body, .tunnel: failBody &+= 1
    }
  }
}

/// Counts of a whole worker.
package struct WorkerCounters: BitwiseCopyable {
  package var turns: UInt64
  /// Turns in which nothing was received, sent, begun or ended.
  package var idleTurns: UInt64
  /// Steps of any exchange or connection: what tells an idle turn.
  package var progress: UInt64
  package var completions: UInt64
  package var accepted: UInt64
  package var shedConnections: UInt64
  /// Accepts the kernel refused for want of descriptors or memory.
  package var failedAccepts: UInt64
  /// Request heads completed: the arrivals the autoscaler sees.
  package var arrivals: UInt64
  package var exchangesFinished: UInt64
  /// Answers of our own, by status class.
  package var ownAnswers4: UInt64
  package var ownAnswers5: UInt64
  package var refusedHeads: UInt64
  package var headTimeouts: UInt64
  package var noReplica: UInt64
  package var queueTimeouts: UInt64
  package var queueOverflows: UInt64
  package var retries: UInt64
  package var retriesDenied: UInt64
  package var streamsTruncated: UInt64
  package var clientAborts: UInt64
  package var clientStalls: UInt64
  /// Clients that waited for nothing and were let go for a newcomer.
  package var idleClosed: UInt64
  /// Peers that no longer acknowledged anything.
  package var peersVanished: UInt64
  /// Requests, or connections, that ended because the proxy was short of memory, descriptors or ports.
  package var ownShortages: UInt64
  package var buffersExhausted: UInt64
  package var slowClientsShed: UInt64
  /// Bytes moved out of lent buffers for stalled peers.
  package var spilledBytes: UInt64
  package var tunnels: UInt64
  package var logDropped: UInt64
  /// Gauges, set once a turn.
  package var connectionsOpen: UInt64
  package var upstreamsOpen: UInt64
  package var upstreamsParked: UInt64
  package var buffersFree: UInt64
  package var blocksUsed: UInt64
  package var spillBlocksUsed: UInt64
}

/// The counters of one worker: its own, and per replica index counts and four histograms.
package struct CounterSet: BitwiseCopyable {
  package let worker: UnsafeMutablePointer<WorkerCounters>
  package let replicas: UnsafeMutablePointer<ReplicaCounters>
  private let histograms: UnsafeMutablePointer<UInt32>
  private let sums: UnsafeMutablePointer<UInt64>
  package let capacity: Int

  package init(replicas capacity: Int) {
    self.capacity = capacity
    worker = mapZeroed(1)
    replicas = mapZeroed(capacity)
    histograms = mapZeroed(capacity * 4 * Histogram.buckets)
    sums = mapZeroed(capacity * 4)
  }

  package enum Kind: Int { case connect, firstByte, duration, gap }

  @inline(__always)
  package func histogram(_ kind: Kind, of replica: Int) -> Histogram {
    let place = replica * 4 + kind.rawValue
    return Histogram(counts: histograms + place * Histogram.buckets, sum: sums + place)
  }

  /// A replica index is given to another replica: its counts start again.
  package func reset(_ replica: Int) {
    (replicas + replica).withMemoryRebound(to: UInt64.self, capacity: MemoryLayout<ReplicaCounters>.size / 8) {
      for word in 0..<MemoryLayout<ReplicaCounters>.size / 8 { $0[word] = 0 }
    }
    for place in 0..<4 * Histogram.buckets { histograms[replica * 4 * Histogram.buckets + place] = 0 }
    for place in 0..<4 { sums[replica * 4 + place] = 0 }
  }
}
