// Bytes in, messages out: the part of HTTP/1.1 (RFC 9112) that the control plane reads. Pure; HttpClient feeds it what
// replicas and proxies answer, HttpServer what programs ask.
//
//   .head ──▶ .length ─────────────────────────────▶ .done
//      ├────▶ .chunkSize ─▶ .chunk ─▶ .chunkEnd ──┐    ▲
//      │          ▲ └─ 0 ─▶ .trailers ────────────┼────┤
//      │          └───────────────────────────────┘    │
//      └────▶ .untilClose ─────────────────────────────┘
//
// Lines may end in a bare LF. Whatever is wrong is an error with words, never a guess.

import Foundation

struct HttpReader {
  enum Kind {
    case request
    /// To a request with this method: the answer to HEAD has no body.
    case reply(method: String)
  }

  enum Event: Equatable {
    /// The three words of the first line (the third may be empty) and the fields.
    case head(Head)
    case body([UInt8])
    case end
  }

  struct Head: Equatable {
    var first: String
    var second: String
    var third: String
    var fields: [HttpField]
  }

  /// First line, fields and line ends together, and the same again for trailers.
  static let headBytesMax = 65_536
  /// The line of a chunk's size, extensions included.
  static let chunkLineBytesMax = 4_096

  private enum State: Equatable {
    case head
    case length(Int)
    case chunkSize
    case chunk(Int)
    case chunkEnd, trailers, untilClose, done
  }

  private let kind: Kind
  private var state = State.head
  private var bytes: [UInt8] = []
  /// Everything before it has been used.
  private var at = 0
  /// No line ends between `at` and here.
  private var scanned = 0
  /// The lines of a head so far, and their bytes.
  private var lines: [String] = []
  private var lineBytes = 0
  /// An interim reply (1xx) is being read; the final one follows.
  private var isInterim = false

  init(_ kind: Kind) { self.kind = kind }

  /// Nothing of a message has come yet.
  var isIdle: Bool { state == .head && at == bytes.count && lines.isEmpty }
  /// The head is whole.
  var hasHead: Bool { state != .head }

  mutating func feed(_ new: some Sequence<UInt8>) {
    if at > 0 {
      bytes.removeFirst(at)
      scanned -= at
      at = 0
    }
    bytes.append(contentsOf: new)
  }

  /// The reader of the next message on this connection, which begins in what has been fed already.
  func following() -> HttpReader {
    var next = HttpReader(kind)
    next.feed(bytes[at...])
    return next
  }

  /// nil: more bytes are needed.
  mutating func next() throws(HttpError) -> Event? {
    while true {
      switch state {
      case .head:
        guard try readHead() else { return nil }
        let head = try parsedHead()
        lines = []
        lineBytes = 0
        if let event = try begin(head) { return event }
      case .length(0):
        state = .done
        return .end
      case .length(let left):
        guard let piece = take(left) else { return nil }
        state = .length(left - piece.count)
        return .body(piece)
      case .chunkSize:
        guard let line = try readLine(max: Self.chunkLineBytesMax, "the line of a chunk's size") else { return nil }
        let size = try chunkSize(line)
        state = size == 0 ? .trailers : .chunk(size)
      case .chunk(0):
        state = .chunkEnd
      case .chunk(let left):
        guard let piece = take(left) else { return nil }
        state = .chunk(left - piece.count)
        return .body(piece)
      case .chunkEnd:
        guard let line = try readLine(max: 2, "the end of a chunk") else { return nil }
        guard line.isEmpty else { throw HttpError(.protocol, "a chunk is longer than its size says") }
        state = .chunkSize
      case .trailers:
        guard try readHead() else { return nil }
        lines = []
        state = .done
        return .end
      case .untilClose:
        guard at < bytes.count, let piece = take(bytes.count - at) else { return nil }
        return .body(piece)
      case .done:
        return nil
      }
    }
  }

  /// The other side has closed: where that is how a body ends, it ends; elsewhere something is missing.
  mutating func close() throws(HttpError) -> Event? {
    switch state {
    case .untilClose:
      state = .done
      return .end
    case .done: return nil
    case .head:
      throw HttpError(
        .closed, isIdle ? "the connection was closed without an answer" : "the connection was closed amid the head")
    case .length, .chunkSize, .chunk, .chunkEnd, .trailers:
      throw HttpError(.closed, "the connection was closed amid the body")
    }
  }

  // MARK: Lines

  private mutating func take(_ most: Int) -> [UInt8]? {
    let count = min(most, bytes.count - at)
    if count == 0 { return nil }
    let piece = Array(bytes[at..<(at + count)])
    at += count
    scanned = at
    return piece
  }

  /// A line without its end; nil: it is not whole yet.
  private mutating func readLine(max: Int, _ what: String, said limit: Int? = nil) throws(HttpError) -> String? {
    let end = bytes[scanned...].firstIndex(of: UInt8(ascii: "\n"))
    if (end ?? bytes.count) - at > max { throw HttpError(.tooLarge, "\(what) is longer than \(limit ?? max) bytes") }
    guard let end else {
      scanned = bytes.count
      return nil
    }
    let hasReturn = end > at && bytes[end - 1] == UInt8(ascii: "\r")
    let line = String(decoding: bytes[at..<(hasReturn ? end - 1 : end)], as: UTF8.self)
    at = end + 1
    scanned = at
    return line
  }

  /// Collects lines up to the empty one.
  private mutating func readHead() throws(HttpError) -> Bool {
    try refuseOtherProtocols()
    while true {
      let before = at
      guard let line = try readLine(max: Self.headBytesMax - lineBytes, "the head", said: Self.headBytesMax) else {
        return false
      }
      lineBytes += at - before
      if !line.isEmpty {
        lines.append(line)
      } else if !lines.isEmpty || state == .trailers {
        return true
      }
      // An empty line before the first is a leftover of the message before (RFC 9112 2.2).
    }
  }

  /// Says so as soon as it shows that the other side speaks something else, which may never send a line's end.
  private func refuseOtherProtocols() throws(HttpError) {
    guard case .reply = kind, state == .head, lines.isEmpty, !isInterim else { return }
    let start = bytes[at...].drop { $0 == UInt8(ascii: "\r") || $0 == UInt8(ascii: "\n") }
    for (byte, wanted) in zip(start, "HTTP/1.".utf8) where byte != wanted {
      let isTls = (start.first == 0x15 || start.first == 0x16) && start.dropFirst().first ?? 3 == 3
      let shown = quotedForPeople(String(decoding: start.prefix(60), as: UTF8.self))
      throw HttpError(
        .protocol,
        isTls ? "the answer is not HTTP but TLS: this port wants https" : "the answer is not HTTP/1.1: \(shown)")
    }
  }

  // MARK: Heads

  private func parsedHead() throws(HttpError) -> Head {
    let words = lines[0].split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false).map(String.init)
    var head = Head(
      first: words[0], second: words.count > 1 ? words[1] : "", third: words.count > 2 ? words[2] : "", fields: [])
    switch kind {
    case .request:
      guard words.count == 3, !head.first.isEmpty, head.first.utf8.allSatisfy(isTokenByte), !head.second.isEmpty,
        head.third == "HTTP/1.1" || head.third == "HTTP/1.0"
      else { throw HttpError(.protocol, "\(quotedForPeople(lines[0])) is no HTTP/1.1 request line") }
    case .reply:
      guard words.count > 1, head.first == "HTTP/1.1" || head.first == "HTTP/1.0", head.second.utf8.count == 3,
        let status = Int(head.second), (100...999).contains(status)
      else { throw HttpError(.protocol, "\(quotedForPeople(lines[0])) is no HTTP/1.1 status line") }
    }
    for line in lines.dropFirst() {
      guard let colon = line.utf8.firstIndex(of: UInt8(ascii: ":")), colon != line.startIndex,
        line[..<colon].utf8.allSatisfy(isTokenByte)
      else { throw HttpError(.protocol, "\(quotedForPeople(line)) is no header field") }
      let value = line[line.utf8.index(after: colon)...].trimmingCharacters(in: .whitespaces)
      guard !value.utf8.contains(0) else {
        throw HttpError(.protocol, "the header field \(line[..<colon]) has a zero byte in its value")
      }
      head.fields.append(HttpField(String(line[..<colon]), value))
    }
    return head
  }

  /// Decides how the body's end is known (RFC 9112 6.3). nil: an interim reply, the final one follows.
  private mutating func begin(_ head: Head) throws(HttpError) -> Event? {
    let codings = head.fields.filter { $0.name.lowercased() == "transfer-encoding" }
      .flatMap { $0.value.lowercased().split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) } }
    var length: Int?
    for field in head.fields where field.name.lowercased() == "content-length" {
      // A list of equal numbers is what merging proxies make of repeated fields.
      for part in field.value.split(separator: ",", omittingEmptySubsequences: false) {
        let digits = part.trimmingCharacters(in: .whitespaces)
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(digits) else {
          throw HttpError(.protocol, "Content-Length is \(quotedForPeople(field.value)), not a number")
        }
        guard length == nil || length == number else {
          throw HttpError(.protocol, "Content-Length is said twice, \(length!) and \(number)")
        }
        length = number
      }
    }
    switch kind {
    case .request:
      if !codings.isEmpty {
        guard codings == ["chunked"] else {
          throw HttpError(
            .protocol, "Transfer-Encoding \(quotedForPeople(codings.joined(separator: ", "))) is not known")
        }
        guard length == nil else {
          throw HttpError(.protocol, "both Transfer-Encoding and Content-Length are given")
        }
        state = .chunkSize
      } else {
        state = .length(length ?? 0)
      }
    case .reply(let method):
      let status = Int(head.second)!
      if status == 101 {
        throw HttpError(.protocol, "the answer switches to another protocol (101), which nobody asked for")
      }
      if status < 200 {
        isInterim = true
        return nil
      }
      if method == "HEAD" || status == 204 || status == 304 {
        state = .length(0)
      } else if let last = codings.last {
        state = last == "chunked" ? .chunkSize : .untilClose
      } else if let length {
        state = .length(length)
      } else {
        state = .untilClose
      }
    }
    return .head(head)
  }

  private func chunkSize(_ line: String) throws(HttpError) -> Int {
    let digits = line.prefix { $0 != ";" }.trimmingCharacters(in: .whitespaces)
    guard (1...15).contains(digits.utf8.count), digits.utf8.allSatisfy({ Character(.init($0)).isHexDigit }),
      let size = Int(digits, radix: 16)
    else { throw HttpError(.protocol, "\(quotedForPeople(line)) is no size of a chunk") }
    return size
  }
}
