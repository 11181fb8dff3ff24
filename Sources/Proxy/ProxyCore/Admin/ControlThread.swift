// What the threads beside the workers share: starting and joining one, waking one that sits in poll(2), the clock, and
// a line on stderr. Called by AccessLog, AdminServer and Resolver; never by a worker.

import Glibc

/// A thread that runs one function. It takes no signals: those belong to the main thread.
struct ControlThread: @unchecked Sendable {
  private let thread: pthread_t

  /// Nil when the system has no room for another thread.
  static func start(_ name: String, _ body: @escaping @Sendable () -> Void) -> ControlThread? {
    final class Start: Sendable {
      let name: String
      let body: @Sendable () -> Void
      init(_ name: String, _ body: @escaping @Sendable () -> Void) {
        self.name = name
        self.body = body
      }
    }
    // The new thread inherits the mask, so it is set around its birth: no signal can slip in between.
    var every = sigset_t()
    var before = sigset_t()
    sigfillset(&every)
    pthread_sigmask(SIG_BLOCK, &every, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    let start = Unmanaged.passRetained(Start(name, body))
    var thread = pthread_t()
    let failure = pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
        nameThisThread(start.name)
        start.body()
        return nil
      }, start.toOpaque())
    guard failure == 0 else {
      start.release()
      return nil
    }
    return ControlThread(thread: thread)
  }

  func join() { pthread_join(thread, nil) }
  /// Nobody will join it: for a thread that may be stuck in a call without a deadline.
  func detach() { pthread_detach(thread) }
}

/// A pipe that makes poll(2) return. Waking twice before the other side looks is waking once.
struct Waker: Sendable {
  let readEnd: Int32
  private let writeEnd: Int32

  /// Nil when no descriptors are left.
  init?() {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return nil }
    readEnd = ends[0]
    writeEnd = ends[1]
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
  }

  func wake() {
    var byte: UInt8 = 1
    // A full pipe has its wake already.
    _ = write(writeEnd, &byte, 1)
  }

  func clear() {
    var bytes = (UInt64(0), UInt64(0))
    while withUnsafeMutableBytes(of: &bytes, { read(readEnd, $0.baseAddress, $0.count) }) > 0 {}
  }

  func closeBoth() {
    close(readEnd)
    close(writeEnd)
  }
}

/// For `top -H` and debuggers, which show the first 15 bytes. Failing to is no matter.
private func nameThisThread(_ name: String) {
  let file = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
  guard file >= 0 else { return }
  _ = write(file, name, name.utf8.count)
  close(file)
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of `RingIO.now`.
func monotonicNow() -> UInt64 { clockNow(CLOCK_MONOTONIC) }
/// Nanoseconds since 1970.
func wallNow() -> UInt64 { clockNow(CLOCK_REALTIME) }

private func clockNow(_ clock: clockid_t) -> UInt64 {
  var time = timespec()
  clock_gettime(clock, &time)
  return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// One line to the operator, in one write so that lines of several threads do not mix.
func complain(_ line: String) {
  let bytes = Array("sky-proxy: \(line)\n".utf8)
  _ = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

/// `No such file or directory`.
func errorText(_ code: Int32) -> String {
  var text = [CChar](repeating: 0, count: 256)
  guard strerror_r(code, &text, text.count) == 0 else { return "error \(code)" }
  return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
