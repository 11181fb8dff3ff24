// Reads responses from a connection as a client does: status, framing, body bytes, end. Strict about framing, so that a
// proxy that breaks it is noticed; fields other than those of framing are not looked at.

import Glibc

/// The framing of a chunked body, and nothing else.
package struct ChunkReader: BitwiseCopyable {
  package enum Step: BitwiseCopyable {
    /// This many bytes from `at` on are content; `at` is not moved past them.
    case data(Int)
    case needMore, done, bad
  }
  private enum State: UInt8, BitwiseCopyable { case size, skipLine, data, dataEnd, trailer }
  private var state = State.size
  private var digits: UInt8 = 0
  private var left = 0
  private var lineBytes = 0

  package init() {}

  package mutating func next(_ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int) -> Step {
    while at < count {
      switch state {
      case .size:
        let byte = bytes[at]
        let value: Int
        switch byte {
        case 48...57: value = Int(byte) - 48
        case 65...70: value = Int(byte) - 55
        case 97...102: value = Int(byte) - 87
        default: value = -1
        }
        if value >= 0 {
          digits += 1
          guard digits < 15 else { return .bad }
          left = left << 4 | value
          at += 1
        } else {
          guard digits > 0, byte == 13 || byte == 59 || byte == 32 else { return .bad }
          state = .skipLine
        }
      case .skipLine:
        let byte = bytes[at]
        at += 1
        if byte == 10 {
          digits = 0
          lineBytes = 0
          state = left == 0 ? .trailer : .data
        }
      case .data:
        let here = min(left, count - at)
        left -= here
        if left == 0 { state = .dataEnd }
        return .data(here)
      case .dataEnd:
        let byte = bytes[at]
        at += 1
        if byte == 10 {
          state = .size
        } else if byte != 13 {
          return .bad
        }
      case .trailer:
        let byte = bytes[at]
        at += 1
        if byte == 10 {
          if lineBytes == 0 {
            self = ChunkReader()
            return .done
          }
          lineBytes = 0
        } else if byte != 13 {
          lineBytes += 1
        }
      }
    }
    return .needMore
  }
}

package struct ResponseReader: BitwiseCopyable {
  package enum Step: BitwiseCopyable {
    /// The head is here: see `status`.
    case head
    /// This many bytes of the body, from `at` on (before the call moved it).
    case body(Int)
    case needMore
    /// The response has ended; the connection may carry another one unless `closes`.
    case done
    /// Not HTTP, or framing that cannot be followed.
    case bad
  }
  private enum State: UInt8, BitwiseCopyable { case head, length, chunked, untilClose, ended }

  private static let carryMax = 16384
  package private(set) var status = 0
  package private(set) var closes = false
  /// The answer names a length; else it is chunked or ends with the connection.
  package private(set) var contentLength = -1
  private var state = State.head
  private var left = 0
  private var chunks = ChunkReader()
  private var carry: UnsafeMutablePointer<UInt8>?
  private var carried = 0

  package init() {}

  package mutating func restart() {
    let kept = carry
    self = ResponseReader()
    carry = kept
  }

  package mutating func deallocate() {
    carry?.deallocate()
    carry = nil
  }

  /// No byte of the response has come.
  package var isFresh: Bool { state == .head && carried == 0 }
  /// The end of the connection is the end of the body.
  package var endsWithConnection: Bool { state == .untilClose }

  package mutating func next(_ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int) -> Step {
    switch state {
    case .head:
      guard at < count else { return .needMore }
      return readHead(bytes, count, at: &at)
    case .length:
      if left == 0 {
        state = .ended
        return .done
      }
      guard at < count else { return .needMore }
      let here = min(left, count - at)
      left -= here
      at += here
      return .body(here)
    case .chunked:
      switch chunks.next(bytes, count, at: &at) {
      case .data(let here):
        at += here
        return .body(here)
      case .needMore: return .needMore
      case .bad: return .bad
      case .done:
        state = .ended
        return .done
      }
    case .untilClose:
      guard at < count else { return .needMore }
      let here = count - at
      at = count
      return .body(here)
    case .ended:
      return at < count ? .bad : .needMore
    }
  }

  private mutating func readHead(_ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int) -> Step {
    if carried == 0 {
      if let end = endOfHead(bytes + at, count - at) {
        let start = at
        at += end
        return judge(bytes + start, end, more: bytes, count, &at)
      }
    }
    let rest = count - at
    if carry == nil { carry = .allocate(capacity: ResponseReader.carryMax) }
    let take = min(rest, ResponseReader.carryMax - carried)
    guard take > 0 else { return .bad }
    memcpy(carry! + carried, bytes + at, take)
    let before = carried
    carried += take
    guard let end = endOfHead(UnsafePointer(carry!), carried) else {
      guard take == rest else { return .bad }
      at = count
      return .needMore
    }
    at += end - before
    carried = 0
    return judge(UnsafePointer(carry!), end, more: bytes, count, &at)
  }

  private mutating func judge(
    _ head: UnsafePointer<UInt8>, _ end: Int, more bytes: UnsafePointer<UInt8>, _ count: Int, _ at: inout Int
  ) -> Step {
    guard end >= 16, memcmp(head, ("HTTP/1." as StaticString).utf8Start, 7) == 0, let status = decimal(head + 9, 3)
    else {
      return .bad
    }
    var length = -1
    var isChunked = false
    closes = head[7] == 48
    var fields = FieldWalk(head, end)
    while fields.next() {
      let name = head + fields.nameStart
      let value = head + fields.valueStart
      switch fields.nameCount {
      case 14 where sameName(name, 14, "content-length"):
        guard let number = decimal(value, fields.valueCount), length == -1 || length == number else { return .bad }
        length = number
      case 17 where sameName(name, 17, "transfer-encoding"):
        guard sameName(value, fields.valueCount, "chunked") else { return .bad }
        isChunked = true
      case 10 where sameName(name, 10, "connection"):
        if holds(value, fields.valueCount, "close") { closes = true }
      default: break
      }
    }
    if status < 200 && status != 101 {
      closes = false
      return next(bytes, count, at: &at)  // an interim head: the final one follows
    }
    guard !(isChunked && length >= 0) else { return .bad }
    self.status = status
    contentLength = length
    if status == 204 || status == 304 {
      state = .length
      left = 0
    } else if isChunked {
      state = .chunked
    } else if length >= 0 {
      state = .length
      left = length
    } else {
      state = .untilClose
      closes = true
    }
    return .head
  }
}
