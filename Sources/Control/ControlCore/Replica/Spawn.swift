// Starting a program in a session of its own, with or without the filter: the Swift side of sky_start. Used by the shim
// for the user's commands and for cp, and by LocalInfra for the shim itself.

import CPlatform
import Foundation

struct Spawn {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// The listener shows the program's calls to whoever serves it.
  struct Filter {
    var listener: Int32
    /// The kernel demanded that the program can gain no privileges (sudo does not work in it).
    var hasNoNewPrivileges: Bool
  }

  var program: String
  var arguments: [String]
  var environment: [String: String]
  var folder = "/"
  /// Above 2, as are all descriptors of a program that was started with those three open.
  var input: Int32
  var output: Int32

  func start() throws(Failure) -> pid_t { try launch(isFiltered: false, probe: 0).pid }

  func startFiltered() throws(Failure) -> (pid: pid_t, filter: Filter) {
    let it = try launch(isFiltered: true, probe: 0)
    guard let filter = it.filter else { preconditionFailure("a filtered start gives a filter or fails") }
    return (it.pid, filter)
  }

  /// Why a bind under the filter does not come to `address`, tried by a child; nil: it does.
  static func problemOfFilter(address: UInt32) -> String? {
    let null = sky_open("/dev/null", O_RDWR | O_CLOEXEC, 0)
    defer { close(null) }
    let probe = Spawn(program: "", arguments: [], environment: [:], input: null, output: null)
    do throws(Failure) {
      _ = try probe.launch(isFiltered: true, probe: address.bigEndian)
      return nil
    } catch {
      return error.description
    }
  }

  private func launch(isFiltered: Bool, probe: UInt32) throws(Failure) -> (pid: pid_t, filter: Filter?) {
    var reports: [Int32] = [-1, -1]
    var go: [Int32] = [-1, -1]
    guard sky_pipe(&reports) == 0 else { throw Failure(description: "cannot make a pipe: \(errorText(errno))") }
    guard sky_pipe(&go) == 0 else {
      let code = errno
      close(reports[0])
      close(reports[1])
      throw Failure(description: "cannot make a pipe: \(errorText(code))")
    }
    defer {
      close(reports[0])
      close(go[1])
    }
    let child = withTexts([program] + arguments) { arguments in
      withTexts(environment.map { "\($0)=\($1)" }) { environment in
        folder.withCString { folder in
          program.withCString { program in
            var command = sky_command(
              path: program, arguments: arguments, environment: environment, folder: folder, input: input,
              output: output, error: output, is_filtered: isFiltered ? 1 : 0, probed_address: probe,
              report: (reports[0], reports[1]), go: (go[0], go[1]))
            return sky_start(&command)
          }
        }
      }
    }
    let forkError = errno
    close(reports[1])
    close(go[0])
    guard child > 0 else { throw Failure(description: "cannot start a process: \(errorText(forkError))") }

    /// It has ended or is about to.
    func giveUp(_ why: String) -> Failure {
      kill(child, SIGKILL)
      while waitpid(child, nil, 0) < 0, errno == EINTR {}
      return Failure(description: why)
    }

    var filter: Filter?
    if isFiltered {
      guard let report = read(reports[0]), report.stage == Int32(sky_stage_filter.rawValue) else {
        throw giveUp("the new process ended at once")
      }
      guard report.error == 0 else {
        throw giveUp("seccomp with user notification: \(errorText(report.error))")
      }
      let pidfd = sky_pidfd_open(child)
      let listener = pidfd < 0 ? -1 : sky_pidfd_getfd(pidfd, report.listener)
      let code = errno
      if pidfd >= 0 { close(pidfd) }
      guard listener >= 0 else { throw giveUp("pidfd_getfd: \(errorText(code))") }
      _ = fcntl(listener, F_SETFD, FD_CLOEXEC)
      filter = Filter(listener: listener, hasNoNewPrivileges: report.has_no_new_privs != 0)
      if probe != 0 {
        let switchboard = Switchboard(address: UInt32(bigEndian: probe))
        Thread.detachNewThread { switchboard.serve(listener) }
      }
      var byte: UInt8 = 1
      guard write(go[1], &byte, 1) == 1 else {
        if probe == 0 { close(listener) }
        throw giveUp("the new process ended at once")
      }
    }
    // Nothing more: the program runs.
    let last = read(reports[0])
    if probe != 0 {
      let code = last?.error ?? ECHILD
      let failure = giveUp("a bind under the filter: \(errorText(code))")
      if code != 0 { throw failure }
      return (child, filter)
    }
    if let last {
      if let filter { close(filter.listener) }
      let what = last.stage == Int32(sky_stage_folder.rawValue) ? "cannot enter \(folder)" : "cannot run \(program)"
      throw giveUp("\(what): \(errorText(last.error))")
    }
    return (child, filter)
  }

  private func read(_ fd: Int32) -> sky_command_report? {
    var report = sky_command_report()
    while true {
      let count = Glibc.read(fd, &report, MemoryLayout<sky_command_report>.size)
      if count < 0, errno == EINTR { continue }
      return count == MemoryLayout<sky_command_report>.size ? report : nil
    }
  }
}
