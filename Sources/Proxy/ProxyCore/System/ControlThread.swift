// The threads beside the workers: starting and joining one, and being woken in poll(2). Called by AccessLog, the admin
// API, Resolver and TLS; never by a worker.

import Glibc

/// A thread that runs one function. It takes no signals: those belong to the main thread.
/// The handle is a plain word, joined or detached by whoever started it.
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
