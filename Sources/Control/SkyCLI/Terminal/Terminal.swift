// The one place that writes to the user and reads answers. Commands get a Terminal and nothing else, so that tests
// can play one.
//
// Colours and cutting to the width are for people at a terminal: what goes into a pipe or a file has neither.

import Foundation
import Synchronization

package enum Style: Sendable {
  case cyan, blue, green, yellow, red, magenta
  case bright, dim
  /// Headings: cyan and bright.
  case heading

  fileprivate var code: String {
    switch self {
    case .red: "\u{1B}[31m"
    case .green: "\u{1B}[32m"
    case .yellow: "\u{1B}[33m"
    case .blue: "\u{1B}[34m"
    case .magenta: "\u{1B}[35m"
    case .cyan: "\u{1B}[36m"
    case .bright: "\u{1B}[1m"
    case .dim: "\u{1B}[2m"
    case .heading: "\u{1B}[36m\u{1B}[1m"
    }
  }
}

package final class Terminal: Sendable {
  package enum Stream: Sendable { case output, errors }

  package enum Answer: Sendable, Hashable {
    case line(String)
    /// No more input.
    case end
  }

  /// A person reads the output here: it may be overwritten.
  package let isInteractive: Bool
  /// Columns of the screen; nil: unlimited.
  package let width: Int?
  package let hasColors: Bool
  private let errorsHaveColors: Bool
  private let writing: @Sendable (Stream, [UInt8]) -> Void
  private let asking: @Sendable (_ question: String) -> Answer
  /// The line that says what is being waited for, while it stands there.
  private let waitsFor = Mutex<String?>(nil)

  package init(
    isInteractive: Bool = false, width: Int? = nil, hasColors: Bool = false, errorsHaveColors: Bool = false,
    writing: @escaping @Sendable (Stream, [UInt8]) -> Void,
    asking: @escaping @Sendable (_ question: String) -> Answer
  ) {
    self.isInteractive = isInteractive
    self.width = width
    self.hasColors = hasColors
    self.errorsHaveColors = errorsHaveColors
    self.writing = writing
    self.asking = asking
  }

  // MARK: - Writing

  package func print(_ text: String = "", terminator: String = "\n") {
    writing(.output, Array((text + terminator).utf8))
  }

  package func write(_ bytes: [UInt8]) { writing(.output, bytes) }

  /// What is not the answer itself: notes and warnings, so that the output can be read by programs.
  package func note(_ text: String) {
    // Not beside what is being waited for; that is written again.
    let waiting = waitsFor.withLock { $0 }
    if waiting != nil { print("\r\u{1B}[K", terminator: "") }
    writing(.errors, Array((paint(text, .yellow, on: .errors) + "\n").utf8))
    if let waiting { print(waiting, terminator: "") }
  }

  package func error(_ text: String) { writing(.errors, Array((paint(text, .red, on: .errors) + "\n").utf8)) }

  package func plainError(_ text: String) { writing(.errors, Array((text + "\n").utf8)) }

  package func paint(_ text: String, _ style: Style, on stream: Stream = .output) -> String {
    let colored = stream == .output ? hasColors : errorsHaveColors
    return colored ? style.code + text + "\u{1B}[0m" : text
  }

  /// Says what is being waited for while `body` runs; gone afterwards. Nothing where nobody watches.
  package func waiting<Value: Sendable>(
    _ text: String, for body: () async throws -> Value
  ) async rethrows -> Value {
    guard isInteractive, hasColors else { return try await body() }
    let line = paint("⠿ ", .cyan) + text
    print(line, terminator: "")
    waitsFor.withLock { $0 = line }
    defer {
      waitsFor.withLock { $0 = nil }
      print("\r\u{1B}[K", terminator: "")
    }
    return try await body()
  }

  // MARK: - Asking

  /// Returns when the answer is yes, which is also what Enter means. "No" and the end of the input abort.
  package func confirm(_ question: String) throws(Stop) {
    while true {
      switch asking(question + " [Y/n]: ") {
      case .end:
        print()
        throw .aborted
      case .line(let line):
        switch line.trimmingCharacters(in: .whitespaces).lowercased() {
        case "", "y", "yes": return
        case "n", "no": throw .aborted
        default: print("Error: invalid input")
        }
      }
    }
  }

  /// All of the standard input.
  package static func readInput(limit: Int) -> [UInt8]? {
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = read(0, &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      if count < 0 || all.count + count > limit { return nil }
      if count == 0 { return all }
      all += buffer[..<count]
    }
  }
}

// MARK: - The real one

extension Terminal {
  /// Of this process: standard input, output and error.
  package static func standard(environment: [String: String]) -> Terminal {
    let onTerminal = isatty(1) == 1
    let mayColor = environment["NO_COLOR", default: ""].isEmpty && !["", "dumb"].contains(environment["TERM"] ?? "")
    return Terminal(
      isInteractive: onTerminal, width: onTerminal ? screenWidth() : watchedWidth(environment),
      hasColors: onTerminal && mayColor, errorsHaveColors: isatty(2) == 1 && mayColor,
      writing: { stream, bytes in writeAll(stream == .output ? 1 : 2, bytes) }, asking: ask)
  }

  private static func screenWidth() -> Int? {
    var size = winsize()
    guard ioctl(1, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return nil }
    return Int(size.ws_col)
  }

  /// `watch` reads from a pipe and says in COLUMNS how wide its screen is; from anybody else the variable means
  /// nothing, since shells export it by accident.
  private static func watchedWidth(_ environment: [String: String]) -> Int? {
    guard let columns = environment["COLUMNS"].flatMap({ Int($0) }), columns > 0 else { return nil }
    // Perhaps a shell in between.
    var pid = getppid()
    for _ in 0..<2 {
      guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
        let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")")
      else { return nil }
      if text[text.index(after: open)..<close] == "watch" { return columns }
      let fields = text[close...].split(separator: " ")
      guard fields.count > 2, let parent = pid_t(fields[2]) else { return nil }
      pid = parent
    }
    return nil
  }

  private static func writeAll(_ fd: Int32, _ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(fd, $0.baseAddress, $0.count) }
      if count > 0 {
        rest = rest.dropFirst(count)
      } else if errno == EAGAIN {
        var ready = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        poll(&ready, 1, -1)
      } else if errno != EINTR {
        // The reader has left (`sky serve status | head -1`): nobody is there to be told anything.
        exit(errno == EPIPE ? 128 + SIGPIPE : 1)
      }
    }
  }

  /// The question, and one line. Ctrl-C ends the program here as everywhere, but says so: any thread may get the
  /// signal, so its handler does it all.
  private static func ask(_ question: String) -> Answer {
    var old = sigaction()
    var new = sigaction()
    new.__sigaction_handler.sa_handler = { _ in
      let farewell: StaticString = "\nAborted!\n"
      _ = Glibc.write(2, farewell.utf8Start, farewell.utf8CodeUnitCount)
      _exit(1)
    }
    sigemptyset(&new.sa_mask)
    sigaction(SIGINT, &new, &old)
    defer { sigaction(SIGINT, &old, nil) }
    writeAll(1, Array(question.utf8))
    var line: [UInt8] = []
    while line.count < 4096 {
      var byte: UInt8 = 0
      let count = read(0, &byte, 1)
      if count < 0, errno == EINTR { continue }
      if count <= 0 { return line.isEmpty ? .end : .line(String(decoding: line, as: UTF8.self)) }
      if byte == UInt8(ascii: "\n") { break }
      line.append(byte)
    }
    return .line(String(decoding: line, as: UTF8.self))
  }
}
