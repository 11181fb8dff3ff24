// What one slice has counted. Each thread has its own; they are added up when the slice is over.

import ProxyCore

package struct Counts: BitwiseCopyable {
  package var requests: UInt64 = 0
  package var errors: UInt64 = 0
  /// Answered, but not with 2xx.
  package var refused: UInt64 = 0
  package var aborted: UInt64 = 0
  package var events: UInt64 = 0
  package var lost: UInt64 = 0
  package var reordered: UInt64 = 0
  package var corrupted: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0
  /// Due in the slice, but not begun or not answered when it ended (open loop).
  package var unfinished: UInt64 = 0
  /// Streams or slow readers open at the end.
  package var held: UInt64 = 0

  package init() {}

  package mutating func add(_ other: Counts) {
    requests += other.requests
    errors += other.errors
    refused += other.refused
    aborted += other.aborted
    events += other.events
    lost += other.lost
    reordered += other.reordered
    corrupted += other.corrupted
    bytesIn += other.bytesIn
    bytesOut += other.bytesOut
    unfinished += other.unfinished
    held += other.held
  }

  package var json: String {
    "\"requests\":\(requests),\"errors\":\(errors),\"refused\":\(refused),\"aborted\":\(aborted),\"events\":\(events)"
      + ",\"lost\":\(lost),\"reordered\":\(reordered),\"corrupted\":\(corrupted),\"bytes_in\":\(bytesIn)"
      + ",\"bytes_out\":\(bytesOut),\"unfinished\":\(unfinished),\"held\":\(held)"
  }
}

package struct Tally: @unchecked Sendable {
  package let counts: UnsafeMutablePointer<Counts>
  /// From the (scheduled) start to the end of the answer.
  package let latency = LatencyHistogram()
  /// To the first event.
  package let first = LatencyHistogram()
  /// Between the events of a stream.
  package let gap = LatencyHistogram()
  /// From the origin's writing an event to its arrival.
  package let event = LatencyHistogram()

  package init() {
    counts = .allocate(capacity: 1)
    counts.initialize(to: Counts())
  }

  package func deallocate() {
    counts.deallocate()
    for histogram in [latency, first, gap, event] { histogram.deallocate() }
  }

  package func merge(_ other: Tally) {
    counts.pointee.add(other.counts.pointee)
    latency.merge(other.latency)
    first.merge(other.first)
    gap.merge(other.gap)
    event.merge(other.event)
  }
}
