// The text of a log as `sky serve logs` shows it: files one after the other with lines between them, the last lines
// of it alone, and what is written later, for as long as whatever writes is there.
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
    var begin: (piece: Int, offset: Int) = (0, 0)
    if let tail { begin = lastLines(tail) }
    for (index, piece) in pieces.enumerated() where index >= begin.piece {
      switch piece {
      case .line(let text): try await write(Array((text + "\n").utf8))
      case .file(let path, let isOver):
        let offset = index == begin.piece ? begin.offset : 0
        try await send(path, from: offset, follow: follow, isOver, write)
      }
    }
  }

  private func send(
    _ path: String, from start: Int, follow: Bool, _ isOver: () async -> Bool,
    _ write: (_ bytes: [UInt8]) async throws -> Void
  ) async throws {
    var file = LogFile(path)
    var offset = start
    var begun: [UInt8] = []
    while true {
      // Asked first: what was written before the end is read after it.
      let ends = follow ? await isOver() : true
      if file == nil { file = LogFile(path) }
      while let bytes = file?.read(at: offset, Self.chunkBytes), !bytes.isEmpty {
        offset += bytes.count
        let shown = chosen(bytes, &begun)
        if !shown.isEmpty { try await write(shown) }
      }
      if ends {
        if let shows, !begun.isEmpty, shows(begun[...]) { try await write(begun) }
        return
      }
      // A log that was put aside, or cut, begins again.
      if let open = file, open.isReplaced || open.size < offset {
        file = nil
        offset = 0
        begun = []
        continue
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

  /// Where the last `count` lines begin.
  private func lastLines(_ count: Int) -> (piece: Int, offset: Int) {
    var left = count
    for (index, piece) in pieces.enumerated().reversed() {
      switch piece {
      case .line:
        if left == 0 { return (index + 1, 0) }
        left -= 1
      case .file(let path, _):
        guard let file = LogFile(path) else { continue }
        let (offset, found) = file.lastLines(left, shows)
        if found == left { return (index, offset) }
        left -= found
      }
    }
    return (0, 0)
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

  func read(at offset: Int, _ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      filled = max(0, pread(descriptor, buffer.baseAddress!, count, off_t(offset)))
    }
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
