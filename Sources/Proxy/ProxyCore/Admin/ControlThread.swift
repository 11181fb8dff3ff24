// What the threads beside the workers share: starting and joining one, being woken in poll(2), and the time of day.
// Called by AccessLog, AdminServer and Resolver; never by a worker.

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

extension WakeHandle {
  /// After poll(2) has found it readable. Woken twice before that is woken once.
  func clear() {
    var count: UInt64 = 0
    _ = read(fd, &count, 8)
  }
}

/// For `top -H` and debuggers, which show the first 15 bytes. Failing to is no matter.
private func nameThisThread(_ name: String) {
  let file = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
  guard file >= 0 else { return }
  _ = write(file, name, name.utf8.count)
  close(file)
}

/// Nanoseconds since 1970.
func wallNanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_REALTIME, &time)
  return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// As socket(2) takes them. The C enumeration is not used: two C modules bring it, and files that import only one of
/// them may not see it.
enum SocketType {
  static let stream: Int32 = 1
  static let nonBlocking: Int32 = 0o4000
  static let closeOnExec: Int32 = 0o2_000_000
}

/// `No such file or directory`.
func errorText(_ code: Int32) -> String {
  var text = [CChar](repeating: 0, count: 256)
  guard strerror_r(code, &text, text.count) == 0 else { return "error \(code)" }
  return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
