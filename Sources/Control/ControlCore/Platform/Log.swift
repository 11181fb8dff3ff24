// The controller's log: one line per event, the time first, then what happened, then what belongs to it, ids first.
//
//   2026-11-25T21:33:12.123Z info replica launched service=web replica=3 seconds=1.2
//
// Values that are not plain words are quoted, so that a line stays a line. Secrets, header values and bodies are never
// given to it.

import CPlatform
import Foundation
import Synchronization

package final class Log: Sendable {
  package enum Level: String, CaseIterable, Comparable, Sendable {
    case debug, info, warning, error

    package static func < (a: Level, b: Level) -> Bool {
      allCases.firstIndex(of: a)! < allCases.firstIndex(of: b)!
    }
  }

  package typealias Fields = KeyValuePairs<String, any CustomStringConvertible>

  private struct File {
    var descriptor: Int32
    var bytes: Int
  }

  private let path: String?
  private let bytesMax: Int
  private let level: Level
  private let file: Mutex<File>

  /// Appends to a file (mode 0600). When it has `bytesMax` bytes it becomes `<path>.1`, and an earlier one is gone.
  package init(path: String, bytesMax: Int = 64 << 20, level: Level = .info) throws(SubprocessError) {
    let descriptor = Self.open(path)
    guard descriptor >= 0 else {
      throw SubprocessError(description: "cannot write the log \(path): \(String(cString: strerror(errno)))")
    }
    self.path = path
    self.bytesMax = bytesMax
    self.level = level
    file = Mutex(File(descriptor: descriptor, bytes: Self.size(descriptor)))
  }

  /// To an open descriptor, which stays the caller's; below 0: nowhere.
  package init(descriptor: Int32, level: Level = .info) {
    path = nil
    bytesMax = .max
    self.level = level
    file = Mutex(File(descriptor: descriptor, bytes: 0))
  }

  package static let silent = Log(descriptor: -1)

  deinit { if path != nil { file.withLock { _ = close($0.descriptor) } } }

  package func debug(_ event: String, _ fields: Fields = [:]) { write(.debug, event, fields) }
  package func info(_ event: String, _ fields: Fields = [:]) { write(.info, event, fields) }
  package func warning(_ event: String, _ fields: Fields = [:]) { write(.warning, event, fields) }
  package func error(_ event: String, _ fields: Fields = [:]) { write(.error, event, fields) }

  private func write(_ level: Level, _ event: String, _ fields: Fields) {
    if level < self.level { return }
    let line = Array(Self.line(at: .now, level, event, fields).utf8)
    file.withLock { file in
      if file.descriptor < 0 { return }
      // One write: lines of other processes that append here stay whole, too.
      let count = line.withUnsafeBytes { Glibc.write(file.descriptor, $0.baseAddress, $0.count) }
      file.bytes += max(count, 0)
      if let path, file.bytes >= bytesMax { rotate(&file, path) }
    }
  }

  private func rotate(_ file: inout File, _ path: String) {
    guard rename(path, path + ".1") == 0 else { return }
    let fresh = Self.open(path)
    if fresh < 0 { return }  // goes on in the old file
    close(file.descriptor)
    file = File(descriptor: fresh, bytes: 0)
  }

  private static func open(_ path: String) -> Int32 { sky_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o600) }

  private static func size(_ descriptor: Int32) -> Int {
    var facts = stat()
    return fstat(descriptor, &facts) == 0 ? Int(facts.st_size) : 0
  }

  // MARK: Lines

  static func line(at time: Date, _ level: Level, _ event: String, _ fields: Fields) -> String {
    var line = "\(stamp(time)) \(level.rawValue) \(escaped(event))"
    for (key, value) in fields {
      let text = value.description
      let isPlain =
        !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x22 && $0 != 0x3D && $0 != 0x5C }
      line += isPlain ? " \(key)=\(text)" : " \(key)=\"\(escaped(text))\""
    }
    return line + "\n"
  }

  private static func escaped(_ text: String) -> String {
    if text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F && $0 != "\"" && $0 != "\\" }) {
      return text
    }
    var out = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      case "\r": out += "\\r"
      case "\t": out += "\\t"
      default:
        if scalar.value < 0x20 || scalar.value == 0x7F {
          out += "\\u{\(String(scalar.value, radix: 16))}"
        } else {
          out.unicodeScalars.append(scalar)
        }
      }
    }
    return out
  }

  /// UTC, to the millisecond.
  private static func stamp(_ time: Date) -> String {
    let milliseconds = Int64(clamping: (time.timeIntervalSince1970 * 1000).rounded(.down))
    var seconds = time_t(milliseconds / 1000)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func digits(_ value: some BinaryInteger, _ count: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(count - text.count, 0)) + text
    }
    let date = "\(parts.tm_year + 1900)-\(digits(parts.tm_mon + 1, 2))-\(digits(parts.tm_mday, 2))"
    let clock = "\(digits(parts.tm_hour, 2)):\(digits(parts.tm_min, 2)):\(digits(parts.tm_sec, 2))"
    return "\(date)T\(clock).\(digits(milliseconds % 1000, 3))Z"
  }
}
