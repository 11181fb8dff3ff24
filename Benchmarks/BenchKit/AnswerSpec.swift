// What a request asks of the origin: `?size=1048576&framing=chunked` or fields `X-Sky-Size: 1048576`. Each key is one
// row of the table, which the help prints.

import Glibc

package enum AnswerFraming: UInt8, BitwiseCopyable { case length, chunked, close }
package enum HangAt: UInt8, BitwiseCopyable {
  case never
  /// Nothing is answered.
  case head
  /// The head is, then nothing.
  case body
}

package struct AnswerSpec: BitwiseCopyable, Equatable {
  package var status = 200
  package var size = 128
  package var delayNs: UInt64 = 0
  package var framing = AnswerFraming.length
  package var chunkBytes = 16384
  /// More than 0: server-sent events instead of a body of `size`.
  package var events = 0
  package var eventBytes = 120
  package var intervalNs: UInt64 = 0
  package var firstNs: UInt64 = 0
  /// Body bytes, or events, after which the connection is cut; -1: never.
  package var cut = -1
  /// Cut with a reset instead of an end.
  package var resets = false
  package var hang = HangAt.never
  /// Bytes of the request body read per second; 0: as fast as they come.
  package var readRate = 0
  package var closes = false
  /// How long /sky/refuse lasts.
  package var forMs = 1000

  package init() {}

  package static let sizeMax = 1 << 34
  package static let eventBytesMax = 65536

  package static let keys: [(name: StaticString, doc: StaticString)] = [
    ("size", "bytes of the body (128)"),
    ("status", "status code (200)"),
    ("delay_ms", "wait before the head (0)"),
    ("framing", "length, chunked or close (length; events: chunked)"),
    ("chunk", "bytes per chunk (16384)"),
    ("events", "send so many numbered server-sent events instead of a body"),
    ("event_bytes", "bytes of one event, 58 to 65536 (120)"),
    ("interval_ms", "time between events (0: all at once)"),
    ("first_ms", "time from head to first event (0)"),
    ("cut", "close after so many body bytes, or events"),
    ("cut_how", "fin or rst (fin)"),
    ("hang", "head: never answer; body: nothing after the head"),
    ("read_bps", "read the request body at so many bytes per second"),
    ("close", "1: close the connection after the answer"),
    ("for_ms", "with /sky/refuse: how long the port refuses connections (1000)"),
  ]

  /// Sets one key; false when the name or the value is not known.
  package mutating func set(_ name: UnsafePointer<UInt8>, _ nameCount: Int, _ value: UnsafePointer<UInt8>, _ count: Int)
    -> Bool
  {
    guard let key = AnswerSpec.keys.firstIndex(where: { AnswerSpec.matches($0.name, name, nameCount) }) else {
      return false
    }
    switch key {
    case 0: return AnswerSpec.whole(value, count, 0...AnswerSpec.sizeMax) { size = $0 }
    case 1: return AnswerSpec.whole(value, count, 200...599) { status = $0 }
    case 2: return AnswerSpec.milliseconds(value, count) { delayNs = $0 }
    case 3:
      if sameName(value, count, "length") {
        framing = .length
      } else if sameName(value, count, "chunked") {
        framing = .chunked
      } else if sameName(value, count, "close") {
        framing = .close
      } else {
        return false
      }
      return true
    case 4: return AnswerSpec.whole(value, count, 1...1 << 24) { chunkBytes = $0 }
    case 5: return AnswerSpec.whole(value, count, 0...99_999_999) { events = $0 }
    case 6: return AnswerSpec.whole(value, count, EventFormat.bytesMin...AnswerSpec.eventBytesMax) { eventBytes = $0 }
    case 7: return AnswerSpec.milliseconds(value, count) { intervalNs = $0 }
    case 8: return AnswerSpec.milliseconds(value, count) { firstNs = $0 }
    case 9: return AnswerSpec.whole(value, count, 0...AnswerSpec.sizeMax) { cut = $0 }
    case 10:
      resets = sameName(value, count, "rst")
      return resets || sameName(value, count, "fin")
    case 11:
      hang = sameName(value, count, "head") ? .head : sameName(value, count, "body") ? .body : .never
      return hang != .never
    case 12: return AnswerSpec.whole(value, count, 1...1 << 40) { readRate = $0 }
    case 13: return AnswerSpec.whole(value, count, 0...1) { closes = $0 == 1 }
    case 14: return AnswerSpec.whole(value, count, 0...3_600_000) { forMs = $0 }
    default: preconditionFailure("a key of the table without a meaning")
    }
  }

  /// Reads `?a=1&b=2` at the end of a target. False: something in it is not understood.
  package mutating func read(target: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    guard let mark = memchr(target, 63, count) else { return true }
    var at = UnsafePointer(mark.assumingMemoryBound(to: UInt8.self)) - target + 1
    while at < count {
      var end = at
      var equals = -1
      while end < count && target[end] != 38 {
        if target[end] == 61 && equals < 0 { equals = end }
        end += 1
      }
      if end > at {
        guard equals > at, set(target + at, equals - at, target + equals + 1, end - equals - 1) else { return false }
      }
      at = end + 1
    }
    return true
  }

  /// Names are the same in queries (`first_ms`) and fields (`X-Sky-First-Ms`).
  private static func matches(_ key: StaticString, _ name: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    guard key.utf8CodeUnitCount == count else { return false }
    for index in 0..<count {
      let byte = name[index]
      let folded = byte == 45 ? 95 : byte &- 65 < 26 ? byte | 32 : byte
      if folded != key.utf8Start[index] { return false }
    }
    return true
  }

  private static func whole(
    _ value: UnsafePointer<UInt8>, _ count: Int, _ range: ClosedRange<Int>, _ use: (Int) -> Void
  ) -> Bool {
    guard let number = decimal(value, count), range.contains(number) else { return false }
    use(number)
    return true
  }

  /// Milliseconds with up to six decimals, below a day, as nanoseconds.
  private static func milliseconds(_ value: UnsafePointer<UInt8>, _ count: Int, _ use: (UInt64) -> Void) -> Bool {
    var dot = 0
    while dot < count && value[dot] != 46 { dot += 1 }
    guard let whole = decimal(value, dot), whole <= 86_400_000 else { return false }
    var result = UInt64(whole) * 1_000_000
    if dot < count {
      let decimals = count - dot - 1
      guard decimals <= 6, let part = decimal(value + dot + 1, decimals) else { return false }
      var scale: UInt64 = 1_000_000
      for _ in 0..<decimals { scale /= 10 }
      result += UInt64(part) * scale
    }
    use(result)
    return true
  }
}

/// Body bytes are a pattern by position, so that a byte out of place shows.
package struct BodyPattern: @unchecked Sendable {
  package static let period = 64
  package let bytes: UnsafeMutablePointer<UInt8>
  package let count: Int

  package init(count: Int = 4 << 20) {
    self.count = count & ~(BodyPattern.period - 1)
    bytes = .allocate(capacity: self.count)
    let letters: StaticString = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    for index in 0..<self.count { bytes[index] = letters.utf8Start[index & 63] }
  }

  /// Whether these are the pattern's bytes from `offset` on.
  package func matches(_ other: UnsafePointer<UInt8>, _ length: Int, at offset: Int) -> Bool {
    var done = 0
    while done < length {
      let here = (offset + done) & (BodyPattern.period - 1)
      let run = min(length - done, count - here)
      if memcmp(other + done, bytes + here, run) != 0 { return false }
      done += run
    }
    return true
  }
}
