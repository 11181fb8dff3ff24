// One line per request. The worker puts a fixed record into a ring of its own and goes on; a thread of the log's own
// turns records into text and writes them. A full ring costs a line (counted), never a wait.
//
//   worker ──append──▶ LogRing ─┐
//   worker ──append──▶ LogRing ─┴─▶ AccessLog thread, every 50 ms ──▶ file or standard output
//
// Header fields are never logged; what follows the ? of a target only when asked for, as it may hold secrets.

import Glibc
import ProxyWire
import Synchronization

/// How an exchange ended, as seen by who reads the log.
package enum LogOutcome: UInt8, BitwiseCopyable, CaseIterable {
  /// The response went out whole, whatever its status.
  case completed
  case clientLeft
  /// The response broke off: the client saw a cut.
  case truncated
  /// The request was not fit to be sent on: malformed, or beyond a limit.
  case refused
  /// No replica could take it.
  case shed
  case timedOut
  /// Every replica tried failed it.
  case failed
  /// An upgraded connection, logged when it ends.
  case tunnel

  var word: StaticString {
    switch self {
    case .completed: "completed"
    case .clientLeft: "client_left"
    case .truncated: "truncated"
    case .refused: "refused"
    case .shed: "shed"
    case .timedOut: "timed_out"
    case .failed: "failed"
    case .tunnel: "tunnel"
    }
  }
}

/// What is logged of one exchange, texts apart. Times are nanoseconds.
package struct LogEntry: BitwiseCopyable {
  /// When the request head was complete, on the clock of `RingIO.now`.
  package var startedAt: UInt64 = 0
  package var bytesIn: UInt64 = 0
  package var bytesOut: UInt64 = 0
  /// Waiting for a replica; 0 = it did not have to.
  package var queueNs: UInt64 = 0
  /// 0 = no connection was made: a kept one was used, or none.
  package var connectNs: UInt64 = 0
  /// From `startedAt` to the first byte of the response; 0 = there was none.
  package var firstByteNs: UInt64 = 0
  package var durationNs: UInt64 = 0
  /// Index of the replica that answered, or was tried last; `noSlot` = none.
  package var replica: UInt32 = noSlot
  package var replicaGeneration: UInt32 = 0
  /// 0 = no status was sent.
  package var status: UInt16 = 0
  package var attempts: UInt8 = 0
  package var outcome = LogOutcome.completed
  /// The client's address as `Connection` keeps it.
  package var peerCount: UInt8 = 0
  package var peerText: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0)

  package init() {}

  package init(startedAt: UInt64, replica lease: Lease, status: UInt16, outcome: LogOutcome) {
    self.startedAt = startedAt
    replica = lease.replica
    replicaGeneration = lease.generation
    self.status = status
    self.outcome = outcome
  }
}

/// A ring of records between one worker, which appends, and the log's thread, which takes. Neither waits.
package struct LogRing: BitwiseCopyable, @unchecked Sendable {
  package static let idBytesMax = 64
  package static let methodBytesMax = 32
  package static let targetBytesMax = 256

  /// One record: the entry, then id, method and target, each at a fixed place.
  private static let slotBytes = 512
  private static let idAt = 160
  private static let methodAt = idAt + idBytesMax
  private static let targetAt = methodAt + methodBytesMax

  fileprivate struct Header: BitwiseCopyable {
    var entry: LogEntry
    var idCount: UInt8
    var methodCount: UInt8
    var isTargetCut: Bool
    var targetCount: UInt16
  }

  private let slots: UnsafeMutableRawPointer
  private let mask: UInt64
  /// Records ever appended and ever taken, on cache lines apart: each has one writer.
  private let appended: UnsafeMutablePointer<Atomic<UInt64>>
  private let taken: UnsafeMutablePointer<Atomic<UInt64>>

  /// - Parameter capacity: records, rounded up to a power of two. 8192 hold 50 ms of 160,000 requests a second.
  package init(capacity: Int = 8192) {
    precondition(MemoryLayout<Header>.size <= LogRing.idAt && LogRing.targetAt + LogRing.targetBytesMax <= LogRing.slotBytes)
    var count = 1
    while count < capacity { count *= 2 }
    mask = UInt64(count - 1)
    slots = UnsafeMutableRawPointer(mapZeroed(count * LogRing.slotBytes, of: UInt8.self))
    appended = mapZeroed(16)
    taken = appended + 8
  }

  /// False: the ring is full and the record is lost; the caller counts it. Texts longer than their room are cut.
  @_noAllocation @_noLocks
  @inline(__always)
  package func append(
    _ entry: LogEntry, id: UnsafePointer<UInt8>?, idCount: Int, method: UnsafePointer<UInt8>?, methodCount: Int,
    target: UnsafePointer<UInt8>?, targetCount: Int
  ) -> Bool {
    let at = appended.pointee.load(ordering: .relaxed)
    guard at &- taken.pointee.load(ordering: .acquiring) <= mask else { return false }
    let slot = slots + Int(truncatingIfNeeded: at & mask) &* LogRing.slotBytes
    let header = Header(
      entry: entry, idCount: UInt8(truncatingIfNeeded: LogRing.copy(id, idCount, LogRing.idBytesMax, slot + LogRing.idAt)),
      methodCount: UInt8(
        truncatingIfNeeded: LogRing.copy(method, methodCount, LogRing.methodBytesMax, slot + LogRing.methodAt)),
      isTargetCut: targetCount > LogRing.targetBytesMax,
      targetCount: UInt16(
        truncatingIfNeeded: LogRing.copy(target, targetCount, LogRing.targetBytesMax, slot + LogRing.targetAt)))
    slot.storeBytes(of: header, as: Header.self)
    appended.pointee.store(at &+ 1, ordering: .releasing)
    return true
  }

  @inline(__always)
  private static func copy(
    _ text: UnsafePointer<UInt8>?, _ count: Int, _ room: Int, _ destination: UnsafeMutableRawPointer
  ) -> Int {
    guard let text, count > 0 else { return 0 }
    let copied = min(count, room)
    destination.copyMemory(from: text, byteCount: copied)
    return copied
  }
}

// MARK: - The reader's side

/// A record where it lies in the ring; valid until the ring is told that it was taken.
struct LogRecord {
  let entry: LogEntry
  let id: UnsafeRawBufferPointer
  let method: UnsafeRawBufferPointer
  let target: UnsafeRawBufferPointer
  /// The target was longer than the ring keeps.
  let isTargetCut: Bool
}

extension LogRing {
  /// Records waiting to be taken.
  package var count: Int { Int(end &- taken.pointee.load(ordering: .relaxed)) }

  /// Records ever appended: those before it can be read.
  var end: UInt64 { appended.pointee.load(ordering: .acquiring) }

  /// Hands over what was appended before `end`, at most `limit` records. The reader's thread only.
  func take(upTo end: UInt64, limit: Int, _ body: (LogRecord) -> Void) -> Int {
    var at = taken.pointee.load(ordering: .relaxed)
    let first = at
    while at != end, Int(at &- first) < limit {
      let slot = UnsafeRawPointer(slots + Int(at & mask) * LogRing.slotBytes)
      let header = slot.loadUnaligned(as: Header.self)
      body(
        LogRecord(
          entry: header.entry,
          id: UnsafeRawBufferPointer(start: slot + LogRing.idAt, count: Int(header.idCount)),
          method: UnsafeRawBufferPointer(start: slot + LogRing.methodAt, count: Int(header.methodCount)),
          target: UnsafeRawBufferPointer(start: slot + LogRing.targetAt, count: Int(header.targetCount)),
          isTargetCut: header.isTargetCut))
      at &+= 1
    }
    taken.pointee.store(at, ordering: .releasing)
    return Int(at &- first)
  }
}
