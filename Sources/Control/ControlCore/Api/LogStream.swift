// The text of a log as `sky serve logs` shows it: files one after the other with lines between them, the last lines
// of it alone, and what is written later, for as long as whatever writes is there. What was put aside of a file when it
// had grown long (`run.log.1`) comes before it, as if it had stayed one.
//
// Made by the Controller (which knows what there is), sent by the ApiServer.

import Foundation

struct LogStream: Sendable {
  enum Piece: Sendable {
    case line(String)
    /// `isOver`: nothing will be written to it any more.
    case file(String, isOver: @Sendable () async -> Bool)
  }

  /// Seconds between looks at a file that may grow.
  static let lookSeconds = 0.1
  private static let chunkBytes = 1 << 16

  var pieces: [Piece]
  /// Which lines of the files are shown, each without its line feed; nil: all.
  var shows: (@Sendable (_ line: ArraySlice<UInt8>) -> Bool)?

  /// - Parameter tail: the last so many lines; nil: all.
  func send(
    follow: Bool, tail: Int?, _ write: (_ bytes: [UInt8]) async throws -> Void
  ) async throws {
    let begin = tail.map { lastLines($0) } ?? Begin(piece: 0)
    for (index, piece) in pieces.enumerated() where index >= begin.piece {
      switch piece {
      case .line(let text): try await write(Array((text + "\n").utf8))
      case .file(let path, let isOver):
        let isFirst = index == begin.piece
        try await send(
          path, isFirst ? begin.log : nil, from: isFirst ? begin.offset : 0, follow: follow, isOver, write)
      }
    }
  }

  private func send(
    _ path: String, _ opened: WholeLog?, from start: Int, follow: Bool, _ isOver: () async -> Bool,
    _ write: (_ bytes: [UInt8]) async throws -> Void
  ) async throws {
    var log = opened
    var offset = start
    var begun: [UInt8] = []
    func sendRest() async throws {
      while let bytes = log?.read(at: offset, Self.chunkBytes), !bytes.isEmpty {
        offset += bytes.count
        let shown = chosen(bytes, &begun)
        if !shown.isEmpty { try await write(shown) }
      }
    }
    while true {
      // Asked first: what was written before the end is read after it.
      let ends = follow ? await isOver() : true
      if log == nil { log = WholeLog(path, isLast: ends) }
      try await sendRest()
      if follow, let open = log {
        if open.isReplaced, let next = WholeLog.next(after: open) {
          // Nothing more comes to what was put aside, but something may have come since it was read.
          try await sendRest()
          (log, offset) = next
          continue
        }
        if open.size < offset, let fresh = WholeLog(path, isLast: ends) {
          // It was cut, and begins again; what was put aside of it has been read.
          (log, offset, begun) = (fresh, fresh.asideSize, [])
          continue
        }
      }
      if ends {
        if let shows, !begun.isEmpty, shows(begun[...]) { try await write(begun) }
        return
      }
      try await Task.sleep(nanoseconds: UInt64(Self.lookSeconds * 1e9))
    }
  }

  /// Whole lines that are shown; `begun`: the beginning of one that has not come to its end.
  private func chosen(_ bytes: [UInt8], _ begun: inout [UInt8]) -> [UInt8] {
    guard let shows else { return bytes }
    var out: [UInt8] = []
    begun += bytes
    var rest = begun[...]
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      if shows(rest[..<end]) { out += rest[...end] }
      rest = rest[(end + 1)...]
    }
    begun = Array(rest)
    return out
  }

  private struct Begin {
    var piece: Int
    var offset = 0
    /// What was looked through: it may have been put aside since.
    var log: WholeLog?
  }

  /// Where the last `count` lines begin.
  private func lastLines(_ count: Int) -> Begin {
    var left = count
    for (index, piece) in pieces.enumerated().reversed() {
      switch piece {
      case .line:
        if left == 0 { return Begin(piece: index + 1) }
        left -= 1
      case .file(let path, _):
        guard let log = WholeLog(path, isLast: true) else { continue }
        let (offset, found) = log.lastLines(left, shows)
        if found == left { return Begin(piece: index, offset: offset, log: log) }
        left -= found
      }
    }
    return Begin(piece: 0)
  }
}

/// What was put aside of a log, and what has its name now, as one text.
private struct WholeLog {
  /// How often it is opened anew where it is put aside in that very moment.
  private static let openings = 10

  private let path: String
  private let aside: LogFile?
  /// Nothing more comes to it.
  let asideSize: Int
  private let newest: LogFile?

  /// nil: it is not there. `isLast`: nor will it be, so what was put aside is all there is.
  init?(_ path: String, isLast: Bool) {
    var (newest, aside): (LogFile?, LogFile?)
    for _ in 0..<Self.openings {
      (newest, aside) = (LogFile(path), LogFile(path + ".1"))
      if newest?.isReplaced != true, newest != nil || !isLast { break }
    }
    if newest == nil, aside == nil || !isLast { return nil }
    self.path = path
    self.newest = newest
    self.aside = aside
    asideSize = aside?.size ?? 0
  }

  /// What comes after one that was read to its end and put aside, and where its unread part begins; nil: it is not
  /// there yet.
  static func next(after old: WholeLog) -> (WholeLog, offset: Int)? {
    guard let log = WholeLog(old.path, isLast: false) else { return nil }
    guard let read = old.newest, let aside = log.aside, read.isSame(as: aside) else { return (log, 0) }
    return (log, log.asideSize)
  }

  var size: Int { asideSize + (newest?.size ?? 0) }

  /// Another file has its name by now.
  var isReplaced: Bool { newest?.isReplaced == true }

  /// Fewer only where it ends.
  func read(at offset: Int, _ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    if let aside, offset < asideSize { bytes = aside.read(at: offset, min(count, asideSize - offset)) }
    guard bytes.count < count, let newest else { return bytes }
    return bytes + newest.read(at: max(0, offset - asideSize), count - bytes.count)
  }

  /// Where the last `count` lines that `shows` takes begin, and how many there are if there are fewer.
  func lastLines(_ count: Int, _ shows: ((ArraySlice<UInt8>) -> Bool)? = nil) -> (offset: Int, found: Int) {
    let end = size
    if count == 0 || end == 0 { return (end, 0) }
    let chunk = 1 << 16
    var found = 0
    var at = end
    /// From `at` on: the end of the line that the next newline begins. The newline that ends the file begins none.
    var tail: [UInt8] = []
    var isLast = true
    func isTaken(_ line: ArraySlice<UInt8>) -> Bool { shows?(line) ?? true }
    while at > 0 {
      let start = max(0, at - chunk)
      var bytes = read(at: start, at - start)
      if bytes.isEmpty { break }
      if isLast, bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
      isLast = false
      bytes += tail
      var lineEnd = bytes.count
      for index in bytes.indices.reversed() where bytes[index] == UInt8(ascii: "\n") {
        if isTaken(bytes[(index + 1)..<lineEnd]) { found += 1 }
        if found == count { return (start + index + 1, found) }
        lineEnd = index
      }
      tail = shows == nil ? [] : Array(bytes[..<lineEnd])
      at = start
    }
    return (0, isTaken(tail[...]) ? found + 1 : found)
  }
}

/// A file that others write.
final class LogFile {
  private let descriptor: Int32
  private let path: String

  init?(_ path: String) {
    descriptor = open(path, O_RDONLY | O_CLOEXEC)
    self.path = path
    if descriptor < 0 { return nil }
  }

  deinit { close(descriptor) }

  var size: Int {
    var facts = stat()
    return fstat(descriptor, &facts) == 0 ? Int(facts.st_size) : 0
  }

  /// Another file has its name by now.
  var isReplaced: Bool {
    var (mine, there) = (stat(), stat())
    guard fstat(descriptor, &mine) == 0, stat(path, &there) == 0 else { return false }
    return mine.st_ino != there.st_ino || mine.st_dev != there.st_dev
  }

  /// Whatever either is called by now.
  func isSame(as other: LogFile) -> Bool {
    var (mine, its) = (stat(), stat())
    guard fstat(descriptor, &mine) == 0, fstat(other.descriptor, &its) == 0 else { return false }
    return mine.st_ino == its.st_ino && mine.st_dev == its.st_dev
  }

  func read(at offset: Int, _ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      filled = max(0, pread(descriptor, buffer.baseAddress!, count, off_t(offset)))
    }
  }
}
