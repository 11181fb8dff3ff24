// Programs that are started here: proxies, the shims of local replicas, the controller itself, small tools.
//
// A child gets its three standard descriptors and no others, no blocked or ignored signal, and nothing of this process
// but what is said. Its end is seen through a descriptor: no signal handler, no thread per child, and none is left a
// zombie, whether or not anyone waits for it.

import CPlatform
import Foundation
import Synchronization

package struct SubprocessError: Error, Hashable, Sendable, CustomStringConvertible {
  package var description: String
}

package final class ChildProcess: Sendable {
  package enum Exit: Hashable, Codable, Sendable, CustomStringConvertible {
    case code(Int32)
    case signal(Int32)

    package var description: String {
      switch self {
      case .code(let code): "exit code \(code)"
      case .signal(let number): "signal \(number) (\(String(cString: strsignal(number))))"
      }
    }
  }

  /// Where a child's output and errors go.
  package enum Output: Hashable, Sendable {
    case nowhere
    /// Appended to; made with mode 0600.
    case file(String)
    /// Where this process's own go.
    case inherited
  }

  package let identity: ProcessIdentity
  package var pid: Int32 { identity.pid }

  private struct Ending {
    var exit: Exit?
    var waiting: [CheckedContinuation<Exit, Never>] = []
  }

  /// Readable at the process's end; below 0: a thread waits instead.
  private let handle: Int32
  private let ending = Mutex(Ending())

  /// - Parameters:
  ///   - path: with a slash; see `findProgram`.
  ///   - environment: all of it; nil: this process's own.
  ///   - detached: in a session of its own: signals meant for this terminal do not reach it, and it may outlive us.
  package static func spawn(
    _ path: String, _ arguments: [String], environment: [String: String]? = nil, folder: String? = nil,
    output: Output = .nowhere, detached: Bool = false
  ) throws(SubprocessError) -> ChildProcess {
    let (descriptor, file) =
      switch output {
      case .nowhere: (sky_open("/dev/null", O_WRONLY | O_CLOEXEC, 0), "/dev/null")
      case .file(let file): (sky_open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o600), file)
      case .inherited: (Int32(-1), "")
      }
    if descriptor < 0, output != .inherited {
      throw SubprocessError(
        description: "cannot start \(path): its output \(file): \(String(cString: strerror(errno)))")
    }
    defer { if descriptor >= 0 { close(descriptor) } }
    return try spawn(
      path, arguments, environment: environment, folder: folder, output: descriptor, errors: descriptor,
      detached: detached)
  }

  /// Descriptors below 0: this process's own.
  private static func spawn(
    _ path: String, _ arguments: [String], environment: [String: String]?, folder: String?, output: Int32,
    errors: Int32, detached: Bool
  ) throws(SubprocessError) -> ChildProcess {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    if output >= 0 { posix_spawn_file_actions_adddup2(&actions, output, 1) }
    if errors >= 0 { posix_spawn_file_actions_adddup2(&actions, errors, 2) }
    // Whatever a library has opened without closing it in children.
    posix_spawn_file_actions_addclosefrom_np(&actions, 3)
    if let folder { posix_spawn_file_actions_addchdir_np(&actions, folder) }

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, sky_spawn_flags(detached ? 1 : 0))

    let variables = (environment ?? ProcessInfo.processInfo.environment).map { "\($0)=\($1)" }
    var pid = pid_t()
    let problem = withTexts([path] + arguments) { argv in
      withTexts(variables) { posix_spawn(&pid, path, &actions, &attributes, argv, $0) }
    }
    if problem != 0 {
      var isFolder = ObjCBool(false)
      if let folder, !FileManager.default.fileExists(atPath: folder, isDirectory: &isFolder) || !isFolder.boolValue {
        throw SubprocessError(description: "cannot start \(path): there is no folder \(folder)")
      }
      throw SubprocessError(description: "cannot start \(path): \(String(cString: strerror(problem)))")
    }
    // It is this one's number until it is waited for, which happens here alone.
    guard let identity = ProcessIdentity.current(pid) else {
      let reason = String(cString: strerror(errno))
      kill(pid, SIGKILL)
      var status: Int32 = 0
      while waitpid(pid, &status, 0) < 0, errno == EINTR {}
      throw SubprocessError(description: "cannot start \(path): /proc does not show it: \(reason)")
    }
    return ChildProcess(identity)
  }

  private init(_ identity: ProcessIdentity) {
    self.identity = identity
    handle = sky_pidfd_open(identity.pid)
    // Holds the child until its end.
    if handle >= 0 {
      Readiness.shared.whenReadable(handle) { [self] outcome in
        if case .ready = outcome, reap(WNOHANG) { return }
        reapOnThread()
      }
    } else {
      reapOnThread()
    }
  }

  deinit {
    if handle >= 0 {
      Readiness.shared.forget(handle)
      close(handle)
    }
  }

  private func reapOnThread() {
    Thread { [self] in
      // Not reaped yet, so that `signal` never hits another process.
      var facts = siginfo_t()
      while waitid(P_PID, id_t(pid), &facts, WEXITED | WNOWAIT) != 0, errno == EINTR {}
      reap(0)
    }.start()
  }

  /// false: it has not ended yet.
  @discardableResult
  private func reap(_ options: Int32) -> Bool {
    let (exit, waiting) = ending.withLock { ending -> (Exit?, [CheckedContinuation<Exit, Never>]) in
      if ending.exit != nil { return (ending.exit, []) }
      var status: Int32 = 0
      var answer = waitpid(pid, &status, options)
      while answer < 0, errno == EINTR { answer = waitpid(pid, &status, options) }
      if answer == 0 { return (nil, []) }
      // Someone else has waited for it: how it ended is lost.
      if answer < 0 { status = 0xFF00 }
      ending.exit = status & 0x7F == 0 ? .code(status >> 8 & 0xFF) : .signal(status & 0x7F)
      defer { ending.waiting = [] }
      return (ending.exit, ending.waiting)
    }
    guard let exit else { return false }
    for one in waiting { one.resume(returning: exit) }
    return true
  }

  /// nil: it runs.
  package var exit: Exit? { ending.withLock { $0.exit } }

  /// Waits for its end, even in a cancelled task.
  package func wait() async -> Exit {
    await withCheckedContinuation { continuation in
      let exit = ending.withLock { ending -> Exit? in
        if ending.exit == nil { ending.waiting.append(continuation) }
        return ending.exit
      }
      if let exit { continuation.resume(returning: exit) }
    }
  }

  /// nil: it still runs after `seconds`, or this task was cancelled.
  package func wait(seconds: Double) async -> Exit? {
    if let exit { return exit }
    return await identity.waitForEnd(seconds) ? await wait() : nil
  }

  /// Does nothing once it has ended. `group`: to all processes of its group, which a detached child leads.
  package func signal(_ number: Int32, group: Bool = false) {
    ending.withLock { ending in
      if ending.exit == nil { _ = kill(group ? -pid : pid, number) }
    }
  }
}

// MARK: - Small tools

extension ChildProcess {
  package struct Finished: Sendable {
    package let exit: Exit
    package let output: [UInt8]
    /// Its errors went to `output`, too, in the order they came.
    package var text: String { String(decoding: output, as: UTF8.self) }
  }

  /// Runs a small program to its end and keeps what it says; after `seconds`, or when this task is cancelled, or when
  /// it says more than `outputMax` bytes, it is killed with all of its group, and that is an error.
  package static func run(
    _ path: String, _ arguments: [String], environment: [String: String]? = nil, folder: String? = nil,
    seconds: Double, outputMax: Int = 1 << 20
  ) async throws(SubprocessError) -> Finished {
    let timeout = Timeout(seconds)
    var ends: [Int32] = [-1, -1]
    guard sky_socketpair(&ends) == 0 else {
      throw SubprocessError(description: "cannot start \(path): \(String(cString: strerror(errno)))")
    }
    let ours = Socket(adopting: ends[0])
    let child: ChildProcess
    do {
      defer { close(ends[1]) }
      child = try spawn(
        path, arguments, environment: environment, folder: folder, output: ends[1], errors: ends[1], detached: true)
    }
    var output: [UInt8] = []
    do throws(HttpError) {
      while true {
        let piece = try await ours.receive(until: timeout)
        if piece.isEmpty { break }
        output += piece
        if output.count > outputMax { throw HttpError(.tooLarge, "said more than \(outputMax) bytes") }
      }
    } catch {
      child.signal(SIGKILL, group: true)
      _ = await child.wait()
      throw SubprocessError(description: "\(path) \(error)")
    }
    guard let exit = await child.wait(seconds: seconds) else {
      child.signal(SIGKILL, group: true)
      _ = await child.wait()
      throw SubprocessError(description: "\(path) \(timeout.error)")
    }
    return Finished(exit: exit, output: output)
  }

  /// The program of this name in the folders of `PATH`; a name with a slash is its own path.
  package static func findProgram(
    _ name: String, environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String? {
    if name.contains("/") { return access(name, X_OK) == 0 ? name : nil }
    let folders = (environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin").split(separator: ":")
    return folders.map { "\($0)/\(name)" }.first { path in
      var facts = stat()
      return access(path, X_OK) == 0 && stat(path, &facts) == 0 && facts.st_mode & S_IFMT == S_IFREG
    }
  }

  /// Beside the program that runs, then in the folders of `PATH`.
  package static func findSibling(
    _ name: String, environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String? {
    if let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"),
      let slash = own.lastIndex(of: "/"), let found = findProgram(own[...slash] + name)
    {
      return found
    }
    return findProgram(name, environment: environment)
  }
}

/// Null-terminated texts as execve wants them.
func withTexts<Result>(
  _ texts: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
  var pointers: [UnsafeMutablePointer<CChar>?] = texts.map { strdup($0) } + [nil]
  defer { for pointer in pointers { free(pointer) } }
  return pointers.withUnsafeMutableBufferPointer { body($0.baseAddress!) }
}
