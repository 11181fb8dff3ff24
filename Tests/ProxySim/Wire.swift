// HTTP/1.1 as the peers speak it: a plain reader and a few writers, written apart from the proxy's own parsers so that
// both cannot be wrong in the same way.

import SimKit

struct Head {
  /// The start line's three parts; the third may be empty.
  var first = ""
  var second = ""
  var third = ""
  /// Names in lower case.
  var fields: [(name: String, value: String)] = []

  func all(_ name: String) -> [String] { fields.filter { $0.name == name }.map(\.value) }
  func first(_ name: String) -> String? { fields.first { $0.name == name }?.value }
  func has(_ name: String, token: String) -> Bool {
    all(name).contains { value in
      value.split(separator: ",").contains { trim($0).lowercased() == token }
    }
  }
}

private func trim(_ text: Substring) -> Substring {
  var text = text
  while text.first == " " || text.first == "\t" { text.removeFirst() }
  while text.last == " " || text.last == "\t" { text.removeLast() }
  return text
}

enum Framing: Equatable {
  case none
  case length(Int)
  case chunked
  /// Until the end of the stream.
  case open
}

struct MessageReader {
  enum Event {
    case needMore
    case head(Head)
    /// Content at these offsets of the input.
    case body(Range<Int>)
    case end
    case bad(String)
  }
  private enum State {
    case head, body, chunkSize, chunkData, chunkEnd, trailers, open, finished
  }
  private var state = State.head
  private var line: [UInt8] = []
  private var head = Head()
  private var sawStart = false
  private var left = 0
  /// Bytes of the present message read so far.
  private(set) var consumed = 0
  /// Fields of the trailer section.
  private(set) var trailers: [String] = []

  var isBetweenMessages: Bool { state == .head && consumed == 0 }
  var isOpenBody: Bool { state == .open }

  /// After `.head`: how the message goes on.
  mutating func expect(_ framing: Framing) {
    switch framing {
    case .none: state = .finished
    case .length(let count):
      left = count
      state = count == 0 ? .finished : .body
    case .chunked: state = .chunkSize
    case .open: state = .open
    }
  }

  /// Reads on from `at`; call again until `.needMore`.
  mutating func step(_ bytes: UnsafeBufferPointer<UInt8>, _ at: inout Int) -> Event {
    while true {
      switch state {
      case .finished:
        state = .head
        sawStart = false
        head = Head()
        consumed = 0
        trailers = []
        return .end
      case .body, .chunkData, .open:
        guard at < bytes.count else { return .needMore }
        let count = state == .open ? bytes.count - at : min(left, bytes.count - at)
        let range = at..<at + count
        at += count
        consumed += count
        if state != .open {
          left -= count
          if left == 0 { state = state == .body ? .finished : .chunkEnd }
        }
        return .body(range)
      case .head, .chunkSize, .chunkEnd, .trailers:
        guard let text = readLine(bytes, &at) else {
          return line.count > 200_000 ? .bad("an endless line") : .needMore
        }
        guard let text = text.text else { return .bad("a bare LF or CR") }
        if let event = take(text) { return event }
      }
    }
  }

  private mutating func take(_ text: String) -> Event? {
    switch state {
    case .head:
      if !sawStart {
        sawStart = true
        let parts = text.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count >= 2 else { return .bad("start line '\(text)'") }
        head.first = String(parts[0])
        head.second = String(parts[1])
        head.third = parts.count > 2 ? String(parts[2]) : ""
        return nil
      }
      if text.isEmpty { return .head(head) }
      guard let colon = text.firstIndex(of: ":") else { return .bad("field line '\(text)'") }
      head.fields.append((text[..<colon].lowercased(), String(trim(text[text.index(after: colon)...]))))
      return nil
    case .chunkSize:
      let digits = text.prefix { $0 != ";" }
      guard let size = Int(trim(digits), radix: 16), size >= 0 else { return .bad("chunk size '\(text)'") }
      left = size
      state = size == 0 ? .trailers : .chunkData
      return nil
    case .chunkEnd:
      guard text.isEmpty else { return .bad("no line end behind a chunk: '\(text)'") }
      state = .chunkSize
      return nil
    case .trailers:
      if text.isEmpty {
        state = .finished
        return nil
      }
      trailers.append(text)
      return nil
    case .body, .chunkData, .open, .finished: return nil
    }
  }

  /// A line without its CRLF, once it is whole. `text` nil: it did not end in CRLF.
  private mutating func readLine(_ bytes: UnsafeBufferPointer<UInt8>, _ at: inout Int) -> (text: String?, Void)? {
    let start = at
    while at < bytes.count {
      let byte = bytes[at]
      at += 1
      if byte == 0x0A {
        line.append(contentsOf: bytes[start..<at])
        consumed += at - start
        defer { line.removeAll(keepingCapacity: true) }
        guard line.count >= 2, line[line.count - 2] == 0x0D else { return (nil, ()) }
        return (String(decoding: line.dropLast(2), as: UTF8.self), ())
      }
    }
    line.append(contentsOf: bytes[start..<at])
    consumed += at - start
    return nil
  }
}

/// Bytes to send, and where among them something happens.
struct Output {
  private(set) var bytes: [UInt8] = []
  /// Sent already.
  var sent = 0

  var left: Int { bytes.count - sent }
  mutating func put(_ text: String) { bytes.append(contentsOf: text.utf8) }
  mutating func put(_ piece: [UInt8]) { bytes.append(contentsOf: piece) }
  mutating func clip(_ count: Int) { if count < bytes.count { bytes.removeLast(bytes.count - count) } }
}

/// The content named by `key`.
func content(_ key: UInt64, _ range: Range<Int>) -> [UInt8] {
  [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
    for position in range { buffer[position - range.lowerBound] = pattern(key, position) }
    count = range.count
  }
}

/// A chunked body in chunks of random sizes, some with extensions, some with a trailer section.
func chunked(_ key: UInt64, _ total: Int, largest: Int, trailers: Bool, _ chance: inout Chance) -> [UInt8] {
  var out: [UInt8] = []
  out.reserveCapacity(total + total / 8 + 64)
  var at = 0
  while at < total {
    let size = min(total - at, chance.size(largest))
    out.append(contentsOf: String(size, radix: 16, uppercase: chance.hit(0.3)).utf8)
    if chance.hit(0.05) { out.append(contentsOf: ";name=\"value\"".utf8) }
    out.append(contentsOf: "\r\n".utf8)
    for position in at..<at + size { out.append(pattern(key, position)) }
    out.append(contentsOf: "\r\n".utf8)
    at += size
  }
  out.append(contentsOf: "0\r\n".utf8)
  if trailers { out.append(contentsOf: "X-Sim-Trailer: end\r\nContent-Length: 9\r\n".utf8) }
  out.append(contentsOf: "\r\n".utf8)
  return out
}
