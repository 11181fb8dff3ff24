// run.log: what setup and run write, taken from a pipe by a thread of its own, so that a full disk or a slow one never
// stops the replica, and the file cannot grow without end.
//
//   setup, run and all they start ──▶ pipe ──▶ RunLog ──▶ run.log ── full ──▶ run.log.1 (the one before is dropped)

import CPlatform
import Foundation
import Synchronization

final class RunLog: @unchecked Sendable {
  /// One file's size; two are kept at most.
  static let bytesMax = 64 << 20

  /// Where the commands write. Closed by `finish`.
  let input: Int32
  private let output: Int32
  private let path: String
  private let bytesMax: Int
  private let isDone = DispatchSemaphore(value: 0)
  private let tail = Mutex(LogTail())

  init(_ path: String, bytesMax: Int = RunLog.bytesMax) throws(PrivateFile.Failure) {
    var ends: [Int32] = [-1, -1]
    guard sky_pipe(&ends) == 0 else { throw PrivateFile.Failure("cannot make a pipe: \(errorText(errno))") }
    (output, input) = (ends[0], ends[1])
    self.path = path
    self.bytesMax = bytesMax
    let thread = Thread { [self] in pump() }
    thread.name = "run.log"
    thread.start()
  }

  /// Once all writers are gone: waits until everything is in the file, `seconds` at most.
  func finish(seconds: Double = 5) {
    close(input)
    _ = isDone.wait(timeout: .now() + seconds)
  }

  /// Another command begins: what was written until now is not its.
  func forgetTail() { tail.withLock { $0.removeAll() } }

  /// The last line of the command that has ended; see LogTail. What it left behind in the background may write on, so
  /// there is an end to waiting for the pipe to be empty.
  func lastLine(hiding secrets: [String], script: String) -> String? {
    let end = ContinuousClock.now + .seconds(1)
    while true {
      let taken: LogTail? = tail.withLock { tail in isWaiting(0) && ContinuousClock.now < end ? nil : tail }
      if let taken { return taken.lastLine(hiding: secrets, script: script) }
      usleep(1000)
    }
  }

  /// Whether there is something in the pipe that was not read.
  private func isWaiting(_ milliseconds: Int32) -> Bool {
    var watched = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
    return poll(&watched, 1, milliseconds) > 0 && watched.revents & Int16(POLLIN) != 0
  }

  private func open() -> Int32 { sky_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600) }

  private func pump() {
    var file: Int32 = -1
    var size = 0
    var block = [UInt8](repeating: 0, count: 65_536)
    var lost = 0
    while true {
      _ = isWaiting(-1)
      // What was taken from the pipe is in the tail before anybody looks there.
      let count = tail.withLock { tail in
        let count = read(output, &block, block.count)
        if count > 0 { tail.add(block[..<count]) }
        return count
      }
      if count < 0, errno == EINTR { continue }
      if count <= 0 { break }
      if file < 0 {
        file = open()
        var facts = stat()
        size = file >= 0 && fstat(file, &facts) == 0 ? Int(facts.st_size) : 0
      }
      if lost > 0 {
        let note = Array("\n[\(lost) bytes are missing here: they could not be written]\n".utf8)
        if write(file, note, note.count) == note.count { lost = 0 }
      }
      var at = 0
      while at < count {
        let wrote = block.withUnsafeBytes { write(file, $0.baseAddress! + at, count - at) }
        if wrote < 0, errno == EINTR { continue }
        guard wrote > 0 else {
          lost += count - at
          break
        }
        at += wrote
      }
      size += at
      if size >= bytesMax {
        rename(path, path + ".1")
        close(file)
        // At once: there is always a run.log to read once something was written.
        file = open()
        size = 0
      }
    }
    if file >= 0 { close(file) }
    close(output)
    isDone.signal()
  }
}
