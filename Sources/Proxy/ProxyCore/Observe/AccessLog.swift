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
    precondition(
      MemoryLayout<Header>.size <= LogRing.idAt && LogRing.targetAt + LogRing.targetBytesMax <= LogRing.slotBytes)
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
      entry: entry,
      idCount: UInt8(truncatingIfNeeded: LogRing.copy(id, idCount, LogRing.idBytesMax, slot + LogRing.idAt)),
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

// MARK: - Lines

/// Turns records into lines.
struct LogLines {
  let format: ProxyConfig.AccessLogFormat
  let showsQuery: Bool
  /// Added to a time of the monotonic clock it gives the time since 1970.
  var wallOffset: UInt64
  var names: ReplicaNames.Table
  private var clock = WallClockText()

  init(
    format: ProxyConfig.AccessLogFormat, showsQuery: Bool, wallOffset: UInt64,
    names: ReplicaNames.Table = ReplicaNames.Table()
  ) {
    self.format = format
    self.showsQuery = showsQuery
    self.wallOffset = wallOffset
    self.names = names
  }

  /// Appends one line with its newline.
  mutating func write(_ record: LogRecord, to out: inout [UInt8]) {
    switch format {
    case .json: writeJson(record, to: &out)
    case .text: writeText(record, to: &out)
    }
  }

  private mutating func writeJson(_ record: LogRecord, to out: inout [UInt8]) {
    let entry = record.entry
    out.put("{\"ts\":\"")
    clock.write(entry.startedAt &+ wallOffset, to: &out)
    out.put("\",\"id\":")
    quote(record.id, to: &out)
    out.put(",\"client\":")
    withUnsafeBytes(of: entry.peerText) {
      quote(UnsafeRawBufferPointer(rebasing: $0.prefix(Int(entry.peerCount))), to: &out)
    }
    out.put(",\"method\":")
    quote(record.method, to: &out)
    out.put(",\"target\":\"")
    escape(shownTarget(record), asJson: true, to: &out)
    if isCut(record) { out.put("…") }
    out.put("\",\"status\":")
    out.put(decimal: UInt64(entry.status))
    out.put(",\"replica\":")
    var name = names[entry.replica, entry.replicaGeneration] ?? ""
    name.withUTF8 { quote(UnsafeRawBufferPointer($0), to: &out) }
    out.put(",\"attempts\":")
    out.put(decimal: UInt64(entry.attempts))
    out.put(",\"bytes_in\":")
    out.put(decimal: entry.bytesIn)
    out.put(",\"bytes_out\":")
    out.put(decimal: entry.bytesOut)
    out.put(",\"queue_ms\":")
    out.put(milliseconds: entry.queueNs)
    out.put(",\"connect_ms\":")
    if entry.connectNs == 0 { out.put("null") } else { out.put(milliseconds: entry.connectNs) }
    out.put(",\"first_byte_ms\":")
    if entry.firstByteNs == 0 { out.put("null") } else { out.put(milliseconds: entry.firstByteNs) }
    out.put(",\"duration_ms\":")
    out.put(milliseconds: entry.durationNs)
    out.put(",\"outcome\":\"")
    out.put(entry.outcome.word)
    out.put("\"}\n")
  }

  /// `2026-01-31T12:00:00.123Z id=… client=… method=POST target="/v1/chat" status=200 …`; `-` = there is none.
  private mutating func writeText(_ record: LogRecord, to out: inout [UInt8]) {
    let entry = record.entry
    clock.write(entry.startedAt &+ wallOffset, to: &out)
    out.put(" id=")
    escape(record.id, asJson: false, to: &out, bare: true)
    out.put(" client=")
    withUnsafeBytes(of: entry.peerText) {
      escape(UnsafeRawBufferPointer(rebasing: $0.prefix(Int(entry.peerCount))), asJson: false, to: &out, bare: true)
    }
    out.put(" method=")
    escape(record.method, asJson: false, to: &out, bare: true)
    out.put(" target=\"")
    escape(shownTarget(record), asJson: false, to: &out)
    if isCut(record) { out.put("…") }
    out.put("\" status=")
    out.put(decimal: UInt64(entry.status))
    out.put(" replica=")
    var name = names[entry.replica, entry.replicaGeneration] ?? ""
    name.withUTF8 { escape(UnsafeRawBufferPointer($0), asJson: false, to: &out, bare: true) }
    out.put(" attempts=")
    out.put(decimal: UInt64(entry.attempts))
    out.put(" bytes_in=")
    out.put(decimal: entry.bytesIn)
    out.put(" bytes_out=")
    out.put(decimal: entry.bytesOut)
    out.put(" queue_ms=")
    out.put(milliseconds: entry.queueNs)
    out.put(" connect_ms=")
    if entry.connectNs == 0 { out.put("-") } else { out.put(milliseconds: entry.connectNs) }
    out.put(" first_byte_ms=")
    if entry.firstByteNs == 0 { out.put("-") } else { out.put(milliseconds: entry.firstByteNs) }
    out.put(" duration_ms=")
    out.put(milliseconds: entry.durationNs)
    out.put(" outcome=")
    out.put(entry.outcome.word)
    out.put("\n")
  }

  private func quote(_ text: UnsafeRawBufferPointer, to out: inout [UInt8]) {
    if text.isEmpty { return out.put("null") }
    out.put("\"")
    escape(text, asJson: true, to: &out)
    out.put("\"")
  }

  private func shownTarget(_ record: LogRecord) -> UnsafeRawBufferPointer {
    guard !showsQuery, let query = record.target.firstIndex(of: UInt8(ascii: "?")) else { return record.target }
    return UnsafeRawBufferPointer(rebasing: record.target[..<query])
  }

  private func isCut(_ record: LogRecord) -> Bool {
    record.isTargetCut && (showsQuery || !record.target.contains(UInt8(ascii: "?")))
  }

  /// UTF-8 passes; controls, and bytes that are not UTF-8, are written as \u00HH (JSON) or \xHH, and what ends a line
  /// or turns it around in UTF-8 as \uHHHH. `bare`: not between quotes, so nothing becomes `-`.
  private func escape(
    _ text: UnsafeRawBufferPointer, asJson: Bool, to out: inout [UInt8], bare: Bool = false
  ) {
    if bare, text.isEmpty { return out.put("-") }
    var at = 0
    while at != text.count {
      // Nearly always the whole text.
      let first = at
      while at != text.count, isPlain(text[at]) { at += 1 }
      out.append(contentsOf: text[first..<at])
      if at == text.count { return }
      let byte = text[at]
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"):
        out.append(UInt8(ascii: "\\"))
        out.append(byte)
        at += 1
      case 0x20:
        // Outside quotes a space would begin the next key.
        if !bare { out.append(byte) } else { out.put("\\x20") }
        at += 1
      default:
        let scalar = byte < 0x80 ? nil : printableScalar(text[at...])
        if let scalar, isLayoutControl(scalar) {
          out.put("\\u")
          out.put(hex: UInt8(scalar.value >> 8))
          out.put(hex: UInt8(truncatingIfNeeded: scalar.value))
          at += UTF8.width(scalar)
        } else if let scalar {
          out.append(contentsOf: text[at..<at + UTF8.width(scalar)])
          at += UTF8.width(scalar)
        } else {
          // Also the bytes of a sequence that was cut off at the end of its room.
          if asJson { out.put(byte < 0x80 ? "\\u00" : "\\\\x") } else { out.put("\\x") }
          out.put(hex: byte)
          at += 1
        }
      }
    }
  }

  /// Printable ASCII without space, quote and backslash.
  @inline(__always)
  private func isPlain(_ byte: UInt8) -> Bool {
    byte > 0x20 && byte < 0x7F && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\")
  }

  /// The character whose valid UTF-8 sequence `text` begins with. U+0080...U+009F are controls, which terminals obey:
  /// nil, as for what is not UTF-8.
  private func printableScalar(_ text: some Collection<UInt8>) -> Unicode.Scalar? {
    var decoder = UTF8()
    var bytes = text.prefix(4).makeIterator()
    guard case .scalarValue(let scalar) = decoder.decode(&bytes), scalar.value >= 0xA0 else { return nil }
    return scalar
  }

  /// What makes two lines of one for some readers (U+2028, U+2029), or has a terminal show the rest of the line in
  /// another order (the Bidi_Control characters).
  private func isLayoutControl(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x061C, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069: true
    default: false
    }
  }
}

/// `2026-01-31T12:00:00.123Z`. Lines come in nearly the order of time, so the text of the last second is kept.
struct WallClockText {
  private var second: UInt64 = .max
  private var text: [UInt8] = []

  mutating func write(_ ns: UInt64, to out: inout [UInt8]) {
    let now = ns / 1_000_000_000
    if now != second {
      second = now
      var time = time_t(now)
      var parts = tm()
      gmtime_r(&time, &parts)
      text.removeAll(keepingCapacity: true)
      text.put(decimal: UInt64(parts.tm_year + 1900), width: 4)
      for (mark, part) in [
        ("-", parts.tm_mon + 1), ("-", parts.tm_mday), ("T", parts.tm_hour), (":", parts.tm_min), (":", parts.tm_sec),
      ] {
        text.append(contentsOf: mark.utf8)
        text.put(decimal: UInt64(part), width: 2)
      }
    }
    out.append(contentsOf: text)
    out.put(".")
    out.put(decimal: ns / 1_000_000 % 1000, width: 3)
    out.put("Z")
  }
}

// MARK: - The thread

package struct AccessLogError: Error, CustomStringConvertible {
  package let description: String
}

/// Writes the lines. `start`, any number of `requestReopen`, `stop`; `stop` returns when every record that was appended
/// before it has been written, or after 2 s if the place does not take them.
package final class AccessLog: @unchecked Sendable {
  /// How long a record waits for its writing.
  private static let periodMs: Int32 = 50
  /// Bytes gathered for one write.
  private static let batchBytes = 1 << 20
  private static let stopNs: UInt64 = 2_000_000_000

  private let rings: [LogRing]
  private let names: ReplicaNames
  private let path: String?
  private let waker = WakeHandle()
  private let stopping = Atomic<Bool>(false)
  private let reopening = Atomic<Bool>(false)
  private let lost = Atomic<UInt64>(0)
  private var thread: ControlThread?
  // The thread's own from here on.
  private var lines: LogLines
  private var file: Int32
  /// A pipe or terminal may stop taking bytes: it gets only as many at once as it is sure to take.
  private var mayBlock = false
  private var saidFailure = false

  /// Opens the place; throws when it cannot be written to.
  package init?(
    to place: ProxyConfig.AccessLogPlace, format: ProxyConfig.AccessLogFormat, showsQuery: Bool, rings: [LogRing],
    names: ReplicaNames
  ) throws(AccessLogError) {
    switch place {
    case .off: return nil
    case .standardOutput:
      path = nil
      file = STDOUT_FILENO
    case .file(let path):
      self.path = path
      file = AccessLog.openLog(path)
      guard file >= 0 else {
        throw AccessLogError(
          description: "cannot write the access log \(quoted(path)): \(errorText(errno)); "
            + "check --access-log and the folder's permissions")
      }
    }
    self.rings = rings
    self.names = names
    guard waker.fd >= 0 else {
      throw AccessLogError(description: "no descriptors are left for the access log; raise the limit (ulimit -n)")
    }
    lines = LogLines(format: format, showsQuery: showsQuery, wallOffset: wallNanoseconds() &- monotonicNanoseconds())
    inspectFile()
  }

  /// Lines that could not be written. (Records that found their ring full are counted by the workers.)
  package var linesLost: UInt64 { lost.load(ordering: .relaxed) }

  package func start() throws(AccessLogError) {
    thread = ControlThread.start("sky-access-log") { [self] in run() }
    if thread == nil {
      throw AccessLogError(description: "no room for the access log's thread; raise the limit (ulimit -u)")
    }
  }

  /// The file has been moved away: go on in a new one of the same name. Safe to call from a signal handler's thread.
  package func requestReopen() {
    reopening.store(true, ordering: .releasing)
    waker.wake()
  }

  package func stop() {
    stopping.store(true, ordering: .releasing)
    waker.wake()
    thread?.join()
    thread = nil
    if path != nil, file >= 0 { close(file) }
    file = -1
    close(waker.fd)
  }

  private func run() {
    var out: [UInt8] = []
    out.reserveCapacity(AccessLog.batchBytes + 4096)
    while true {
      var watched = pollfd(fd: waker.fd, events: Int16(POLLIN), revents: 0)
      if poll(&watched, 1, AccessLog.periodMs) > 0 { waker.clear() }
      // Before the drain: what was appended before `stop` was called is then seen by it.
      let isLast = stopping.load(ordering: .acquiring)
      if reopening.exchange(false, ordering: .acquiringAndReleasing) { reopen() }
      drain(&out, until: isLast ? monotonicNanoseconds() + AccessLog.stopNs : .max)
      if isLast { return }
    }
  }

  private func drain(_ out: inout [UInt8], until deadline: UInt64) {
    let ends = rings.map(\.end)
    // After `ends`: whoever served one of these exchanges is in the table by now.
    lines.names = names.table
    lines.wallOffset = wallNanoseconds() &- monotonicNanoseconds()
    for (ring, end) in zip(rings, ends) {
      var held: UInt64 = 0
      while true {
        let taken = ring.take(upTo: end, limit: 64) { lines.write($0, to: &out) }
        held += UInt64(taken)
        if taken == 0 || out.count >= AccessLog.batchBytes {
          if !flush(&out, until: deadline) { lost.wrappingAdd(held, ordering: .relaxed) }
          held = 0
        }
        if taken == 0 { break }
      }
    }
  }

  /// False: at least a part of the batch is lost.
  private func flush(_ out: inout [UInt8], until deadline: UInt64) -> Bool {
    defer { out.removeAll(keepingCapacity: true) }
    var at = 0
    while at < out.count {
      var room = out.count - at
      if mayBlock {
        guard waitUntilWritable(deadline) else { return complainOnce("does not take the lines") }
        room = min(room, 4096)  // PIPE_BUF: what a pipe that is ready takes without blocking (man 7 pipe)
      }
      let written = out.withUnsafeBytes { write(file, $0.baseAddress! + at, room) }
      if written > 0 {
        at += written
      } else if errno != EINTR && errno != EAGAIN {
        return complainOnce("cannot be written: \(errorText(errno)); lines are lost until it can")
      }
    }
    saidFailure = saidFailure && out.isEmpty
    return true
  }

  private func waitUntilWritable(_ deadline: UInt64) -> Bool {
    var watched = pollfd(fd: file, events: Int16(POLLOUT), revents: 0)
    while poll(&watched, 1, AccessLog.periodMs) <= 0 {
      let limit = stopping.load(ordering: .acquiring) && deadline == .max ? monotonicNanoseconds() : deadline
      if monotonicNanoseconds() >= limit { return false }
    }
    return true
  }

  private func complainOnce(_ problem: String) -> Bool {
    if !saidFailure { say("the access log \(path ?? "on standard output") \(problem)") }
    saidFailure = true
    return false
  }

  private func reopen() {
    guard let path else { return }
    let fresh = AccessLog.openLog(path)
    guard fresh >= 0 else {
      say("cannot reopen the access log \(quoted(path)): \(errorText(errno)); going on in the old file")
      return
    }
    close(file)
    file = fresh
    inspectFile()
  }

  private static func openLog(_ path: String) -> Int32 {
    open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0o640)
  }

  private func inspectFile() {
    var facts = stat()
    mayBlock = fstat(file, &facts) == 0 && facts.st_mode & S_IFMT != S_IFREG
  }
}

// MARK: - Text

extension [UInt8] {
  @inline(__always)
  mutating func put(_ text: StaticString) {
    append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  mutating func put(string text: String) { append(contentsOf: text.utf8) }

  /// At least `width` digits.
  mutating func put(decimal value: UInt64, width: Int = 1) {
    var digits = 1
    var rest = value
    while rest >= 10 {
      rest /= 10
      digits += 1
    }
    append(contentsOf: repeatElement(UInt8(ascii: "0"), count: Swift.max(digits, width)))
    var at = count - 1
    rest = value
    while rest > 0 {
      self[at] += UInt8(rest % 10)
      rest /= 10
      at -= 1
    }
  }

  /// Nanoseconds as milliseconds with three decimals.
  mutating func put(milliseconds ns: UInt64) {
    put(decimal: ns / 1_000_000)
    put(".")
    put(decimal: ns / 1000 % 1000, width: 3)
  }

  /// Nanoseconds as seconds with nine decimals.
  mutating func put(seconds ns: UInt64) {
    put(decimal: ns / 1_000_000_000)
    put(".")
    put(decimal: ns % 1_000_000_000, width: 9)
  }

  mutating func put(hex byte: UInt8) {
    for digit in [byte >> 4, byte & 15] {
      append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
    }
  }
}
