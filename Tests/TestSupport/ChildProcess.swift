// Programs that tests start. Each is ended by its process id, and dies with the test process however that ends.

import Foundation

package final class ChildProcess: @unchecked Sendable {
  package enum Exit: Equatable, Sendable {
    case code(Int32)
    case signal(Int32)
  }

  package let pid: pid_t
  private let lock = NSCondition()
  private var output: [UInt8] = []
  private var errors: [UInt8] = []
  /// Of output and errors.
  private var openStreams = 2
  private var exit: Exit?

  /// - Parameter environment: added to this process's own.
  package init(_ program: String, _ arguments: [String], environment: [String: String] = [:], folder: String? = nil)
    throws
  {
    let resolved = program.contains("/") ? program : Places.tool(program)
    guard var path = resolved else { throw TestFailure("\(program) is not installed") }
    var arguments = arguments
    if let folder {
      arguments = ["-c", "cd \"$0\" && exec \"$@\"", folder, path] + arguments
      path = "/bin/sh"
    }
    let outputPipe = try makePipe()
    let errorPipe = try makePipe()
    let null = open("/dev/null", O_RDONLY | O_CLOEXEC)
    defer {
      close(null)
      close(outputPipe.write)
      close(errorPipe.write)
    }

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, null, 0)
    posix_spawn_file_actions_adddup2(&actions, outputPipe.write, 1)
    posix_spawn_file_actions_adddup2(&actions, errorPipe.write, 2)

    // The child starts with no signal blocked or ignored, whatever the test runner does with its own.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

    let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    var child = pid_t()
    let code = withTexts([path] + arguments) { argv in
      withTexts(variables.map { "\($0)=\($1)" }) { variables in
        Descriptors.lock.withLock { posix_spawn(&child, path, &actions, &attributes, argv, variables) }
      }
    }
    guard code == 0 else { throw TestFailure("cannot start \(path): \(String(cString: strerror(code)))") }
    pid = child
    DeathGuard.shared.watch(child)
    thread("output") { [self] in pump(outputPipe.read) { self.output += $0 } }
    thread("errors") { [self] in pump(errorPipe.read) { self.errors += $0 } }
    thread("wait") { [self] in awaitEnd() }
  }

  private func pump(_ fd: Int32, _ keep: (ArraySlice<UInt8>) -> Void) {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = read(fd, &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      lock.lock()
      keep(buffer[..<count])
      lock.broadcast()
      lock.unlock()
    }
    close(fd)
    lock.lock()
    openStreams -= 1
    lock.broadcast()
    lock.unlock()
  }

  private func awaitEnd() {
    var facts = siginfo_t()
    while waitid(P_PID, id_t(pid), &facts, WEXITED | WNOWAIT) != 0, errno == EINTR {}
    // Before it is reaped: afterwards the number may be another process's.
    lock.lock()
    DeathGuard.shared.forget(pid)
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0, errno == EINTR {}
    exit = status & 0x7F == 0 ? .code(status >> 8 & 0xFF) : .signal(status & 0x7F)
    lock.broadcast()
    lock.unlock()
  }

  private func wait(_ deadline: Double, until condition: () -> Bool) -> Bool {
    let end = Date(timeIntervalSinceNow: deadline)
    lock.lock()
    defer { lock.unlock() }
    while !condition() {
      if !lock.wait(until: end) { return condition() }
    }
    return true
  }

  package var standardOutput: String { locked { String(decoding: output, as: UTF8.self) } }
  package var standardError: String { locked { String(decoding: errors, as: UTF8.self) } }
  package var isRunning: Bool { locked { exit == nil } }

  private func locked<Value>(_ body: () -> Value) -> Value {
    lock.lock()
    defer { lock.unlock() }
    return body()
  }

  /// The first line on standard error (or output) that `matches`; throws when the process ends without one.
  package func line(_ deadline: Double = patience, onOutput: Bool = false, where matches: (String) -> Bool) throws
    -> String
  {
    var found: String?
    func look() -> Bool {
      let bytes = onOutput ? output : errors
      // Only whole lines.
      guard let last = bytes.lastIndex(of: UInt8(ascii: "\n")) else { return false }
      let lines = String(decoding: bytes[..<last], as: UTF8.self).split(separator: "\n").map(String.init)
      found = lines.first(where: matches)
      return found != nil
    }
    let isThere = wait(deadline) { look() || (exit != nil && openStreams == 0) }
    if isThere, locked({ look() }), let found { return found }
    throw TestFailure("no such line from process \(pid) (\(exitText)): \(standardError)\(standardOutput)")
  }

  private var exitText: String { locked { exit.map { "\($0)" } ?? "running" } }

  /// Does nothing once the process has been reaped.
  package func signal(_ number: Int32) {
    lock.lock()
    if exit == nil { Glibc.kill(pid, number) }
    lock.unlock()
  }

  package func kill() { signal(SIGKILL) }

  /// How it ended, when its output has been read to the end; nil: it runs on.
  package func waitForExit(_ deadline: Double = patience) -> Exit? {
    _ = wait(deadline) { exit != nil && openStreams == 0 }
    return locked { exit }
  }

  /// Kills it and waits until it is gone.
  package func end() {
    kill()
    _ = wait(patience) { exit != nil }
  }
}

/// What a program said and how it ended.
package struct Outcome: Sendable {
  package let exit: ChildProcess.Exit?
  package let output: String
  package let errors: String
}

/// Runs a program to its end; kills it at the deadline (`exit` is nil then).
package func run(
  _ program: String, _ arguments: [String], environment: [String: String] = [:], folder: String? = nil,
  deadline: Double = 60
) throws -> Outcome {
  let child = try ChildProcess(program, arguments, environment: environment, folder: folder)
  let exit = child.waitForExit(deadline)
  if exit == nil { child.end() }
  return Outcome(exit: exit, output: child.standardOutput, errors: child.standardError)
}

/// A small process that holds the list of children and kills them when this process is gone: its end is seen as the end
/// of a pipe. (PR_SET_PDEATHSIG goes by the thread that started a child, and threads come and go.)
private final class DeathGuard: Sendable {
  static let shared = DeathGuard()
  private let pipe: Int32

  private static let script = """
    trap '' INT TERM HUP
    live=' '
    while read -r verb pid; do
      case $verb in
        +) live="$live$pid " ;;
        -) case $live in *" $pid "*) live="${live%% "$pid" *} ${live#* "$pid" }" ;; esac ;;
      esac
    done
    for pid in $live; do kill -9 "$pid"; done 2>/dev/null
    """

  private init() {
    guard let (read, write) = try? makePipe() else { preconditionFailure("no pipe for the death guard") }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_adddup2(&actions, read, 0)
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    var child = pid_t()
    let code = withTexts(["sh", "-c", DeathGuard.script]) { argv in
      withTexts([]) { none in Descriptors.lock.withLock { posix_spawn(&child, "/bin/sh", &actions, nil, argv, none) } }
    }
    precondition(code == 0, "the death guard did not start")
    posix_spawn_file_actions_destroy(&actions)
    close(read)
    pipe = write
  }

  func watch(_ pid: pid_t) { say("+ \(pid)\n") }
  func forget(_ pid: pid_t) { say("- \(pid)\n") }

  /// One write, so that lines of several threads stay whole.
  private func say(_ line: String) { _ = line.withCString { write(pipe, $0, strlen($0)) } }
}

/// Descriptors that a program started by another thread must not inherit: it would keep connections open that a test has
/// closed. accept4 and pipe2 are not to be had here, so making such a descriptor and starting a program exclude each
/// other.
enum Descriptors {
  static let lock = NSLock()

  static func makePrivate(_ make: () -> Int32) -> Int32 {
    lock.withLock {
      let fd = make()
      if fd >= 0 { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
      return fd
    }
  }
}

private func makePipe() throws -> (read: Int32, write: Int32) {
  var ends: [Int32] = [0, 0]
  let code = Descriptors.lock.withLock {
    let code = pipe(&ends)
    for end in ends where code == 0 { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return code
  }
  guard code == 0 else { throw TestFailure("pipe: \(errno)") }
  return (ends[0], ends[1])
}

/// Null-terminated texts as execve wants them.
private func withTexts<Result>(
  _ texts: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
  var pointers: [UnsafeMutablePointer<CChar>?] = texts.map { strdup($0) } + [nil]
  defer { for pointer in pointers { free(pointer) } }
  return pointers.withUnsafeMutableBufferPointer { body($0.baseAddress!) }
}
