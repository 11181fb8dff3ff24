// Numbered server-sent events: the origin writes them, the load generator checks that each arrives once, in order and
// unchanged, and how long it took. Both run on one machine, so the time in an event is of the same monotonic clock.
//
//   data: {"n":"00000017","t":"00000001234567890123","p":"rrrr…"}⏎⏎
//
// The padding's letter follows from the number. Events that carry more (OpenAI chunks) have others in place of p.

import Glibc

package enum EventFormat {
  private static let opening: StaticString = "data: {\"n\":\""
  private static let time: StaticString = "\",\"t\":\""
  private static let padding: StaticString = "\",\"p\":\""
  static let closing: StaticString = "\"}\n\n"
  static let numberAt = 12
  static let timeAt = 27
  static let afterTime = 47
  static let padAt = 54
  /// Without any padding.
  package static let bytesMin = 58

  static func letter(_ number: UInt32) -> UInt8 { 97 + UInt8(number % 26) }

  /// `data: {"n":"…","t":"…`: what every event begins with; the string of t is still open.
  package static func begin(_ out: inout ByteOut, number: UInt32, now: UInt64) {
    out.put(opening)
    out.putDigits(UInt64(number), 8)
    out.put(time)
    out.putDigits(now, 20)
  }

  /// One event of `bytes` bytes.
  package static func write(_ out: inout ByteOut, number: UInt32, bytes: Int, now: UInt64) {
    begin(&out, number: number, now: now)
    out.put(padding)
    out.put(repeating: letter(number), bytes - bytesMin)
    out.put(closing)
  }

  static func hasPadding(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    count >= bytesMin && memcmp(bytes + afterTime, padding.utf8Start, 7) == 0
  }

  static func opens(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    count > afterTime && memcmp(bytes, opening.utf8Start, numberAt) == 0 && memcmp(bytes + 20, time.utf8Start, 7) == 0
  }
}

/// What one event of a stream was.
package enum EventSeen: BitwiseCopyable {
  /// Its origin wrote it at this time.
  case numbered(sentNs: UInt64)
  /// `data: [DONE]`, a comment or another event without a number.
  case plain
  /// Not what the origin writes.
  case corrupted
}

/// Follows one stream. Feed it the body, piece by piece.
package struct EventChecker: BitwiseCopyable {
  /// The number the next event must have: as many have come or been missed.
  package private(set) var expected: UInt32 = 0
  package private(set) var numbered: UInt32 = 0
  package private(set) var lost: UInt32 = 0
  /// Came again, or after a later one.
  package private(set) var reordered: UInt32 = 0
  package private(set) var corrupted: UInt32 = 0
  /// The stream said that it is over.
  package private(set) var sawDone = false
  private static let carryMax = 65536
  private var carry: UnsafeMutablePointer<UInt8>?
  private var carried = 0

  package init() {}

  /// Ready for another stream; the memory is kept.
  package mutating func restart() {
    let kept = carry
    self = EventChecker()
    carry = kept
  }

  package mutating func deallocate() {
    carry?.deallocate()
    carry = nil
  }

  /// Bytes of an event that has not ended yet.
  package var isInsideEvent: Bool { carried > 0 }

  /// The next whole event in `bytes[at..<count]`; nil when the rest, which is kept, holds none.
  package mutating func next(_ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int) -> EventSeen? {
    if carried > 0 {
      while at < count {
        guard carried < EventChecker.carryMax else {
          carried = 0
          corrupted += 1
          return .corrupted
        }
        let byte = bytes[at]
        at += 1
        carry![carried] = byte
        carried += 1
        if byte == 10 && carried >= 2 && carry![carried - 2] == 10 {
          let length = carried
          carried = 0
          return judge(UnsafePointer(carry!), length)
        }
      }
      return nil
    }
    var from = at
    while from < count, let found = memchr(bytes + from, 10, count - from) {
      let line = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) - bytes
      if line + 1 < count && bytes[line + 1] == 10 {
        let start = at
        at = line + 2
        return judge(bytes + start, at - start)
      }
      from = line + 1
    }
    let rest = count - at
    if rest > 0 {
      guard rest <= EventChecker.carryMax else {
        at = count
        corrupted += 1
        return .corrupted
      }
      if carry == nil { carry = .allocate(capacity: EventChecker.carryMax) }
      memcpy(carry!, bytes + at, rest)
      carried = rest
      at = count
    }
    return nil
  }

  private mutating func judge(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> EventSeen {
    guard EventFormat.opens(bytes, count) else {
      if bytes[0] == 58 { return .plain }  // ":" begins a comment
      if count == 14 && memcmp(bytes, ("data: [DONE]\n\n" as StaticString).utf8Start, 14) == 0 {
        sawDone = true
        return .plain
      }
      corrupted += 1
      return .corrupted
    }
    guard let number = decimal(bytes + EventFormat.numberAt, 8),
      let high = decimal(bytes + EventFormat.timeAt, 10), let low = decimal(bytes + EventFormat.timeAt + 10, 10)
    else {
      corrupted += 1
      return .corrupted
    }
    if EventFormat.hasPadding(bytes, count) {
      let letter = EventFormat.letter(UInt32(number))
      var index = EventFormat.padAt
      while index < count - 4 && bytes[index] == letter { index += 1 }
      if index != count - 4 || memcmp(bytes + index, EventFormat.closing.utf8Start, 4) != 0 {
        corrupted += 1
        return .corrupted
      }
    }
    numbered += 1
    if number < expected {
      reordered += 1
    } else {
      lost += UInt32(number) - expected
      expected = UInt32(number) + 1
    }
    return .numbered(sentNs: UInt64(high) * 10_000_000_000 + UInt64(low))
  }
}
