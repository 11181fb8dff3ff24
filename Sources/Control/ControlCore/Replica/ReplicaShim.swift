// The process that keeps one local replica: `sky-controller replica FOLDER`. It makes the replica's home, starts setup
// and run, gives the replica its own ports (Switchboard), takes its output (RunLog), and writes down what becomes of it
// (state.json). It needs no controller: it goes on while that is dead, and a new one finds it by its folder.
//
//   guard ── shim ──┬── bash setup.sh ── …        guard and shim are one program split in two, each a subreaper: what
//                   ├── bash run.sh ── …          a command leaves in the background stays below the shim, and what a
//                   └── (daemons they left)       killed shim leaves comes to the guard, which ends it
//
// SIGTERM: everything below gets SIGTERM, after the grace SIGKILL, then the shim records it and ends. A finished run
// leaves the shim there as long as something of it serves in the background.

import CPlatform
import Foundation

public enum ReplicaShim {
  /// - Parameter arguments: `FOLDER`, or `--check`, which tells whether the filter can be used here.
  /// - Returns: the exit status.
  public static func main(_ arguments: [String]) -> Int32 {
    guard let argument = arguments.first, arguments.count == 1 else {
      print("sky-controller replica FOLDER keeps the replica of that folder; it is started by the controller")
      return 2
    }
    if argument == "--check" {
      guard let problem = Spawn.problemOfFilter(address: AddressClaim.checkAddress) else { return 0 }
      print(problem)
      return 1
    }
    let folder = ReplicaFolder(argument)
    // Before anything else: only a process with one thread can be split.
    // Held by guard and shim until both are gone.
    guard let lock = folder.takeLock() else { return 0 }
    guard sky_split_off_guard() == 0 else {
      FileHandle.standardError.write(Data("cannot start a process: \(errorText(errno))\n".utf8))
      return 1
    }
    withExtendedLifetime(lock) {
      let shim = Shim(folder)
      shim.live()
    }
    return 0
  }
}

private final class Shim {
  /// Somebody wants the replica's end.
  struct Stopped: Error {}
  struct Failed: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
  }

  private enum Exit {
    case code(Int32)
    case signal(Int32)
  }

  private let folder: ReplicaFolder
  private var order: ReplicaOrder
  private var state: ReplicaState
  private var signals: Int32 = -1
  private var isStopping = false
  /// What has been reaped of the processes that somebody asks for.
  private var exits: [pid_t: Exit] = [:]
  private var hasChildren = false
  /// Those that run setup and run.
  private var shells: Set<pid_t> = []
  private var environment: [String: String]
  private var claim: AddressClaim?
  private var switchboard: Switchboard?
  private var runLog: RunLog?

  init(_ folder: ReplicaFolder) {
    self.folder = folder
    guard let order = folder.readOrder() else {
      FileHandle.standardError.write(Data("\(folder.order) cannot be read\n".utf8))
      exit(1)
    }
    self.order = order
    environment = ProcessInfo.processInfo.environment
    let (own, parent) = (getpid(), getppid())
    state = ReplicaState(
      guardPid: parent, guardStart: ProcessIdentity.startTicks(of: parent) ?? 0, shimPid: own,
      shimStart: ProcessIdentity.startTicks(of: own) ?? 0, phase: .preparing(detail: "starting"), port: order.port,
      startedAt: Date().timeIntervalSince1970)
  }

  func live() {
    signal(SIGPIPE, SIG_IGN)
    var set = sigset_t()
    sigemptyset(&set)
    for number in [SIGTERM, SIGINT, SIGHUP, SIGCHLD] { sigaddset(&set, number) }
    signals = sky_signalfd(&set)
    sky_become_subreaper()
    save()
    do {
      try prepare()
      try work()
      // What the commands left in the background may be the very server.
      while !isStopping, hasChildren { turn(-1) }
    } catch is Stopped {
      note("stopping")
    } catch {
      note("\(error)")
      fail("\(error)")
    }
    end()
  }

  /// Something of ours has failed, not of the user's.
  private func fail(_ reason: String) {
    switch state.phase {
    case .preparing: state.phase = .notStarted(reason: reason)
    case .settingUp, .running: state.phase = .failed(reason: reason)
    case .succeeded, .failed, .notStarted, .stopped: return
    }
    save()
  }

  // MARK: Before the user's commands

  private func prepare() throws {
    let what = order.setup == nil ? "run" : "setup and run"
    note("replica \(order.id) of \(order.service), version \(order.version): \(what) on this machine")
    try chooseAddress()
    try makeHome()
    for (stage, text) in [(ReplicaStage.setup, order.setup), (.run, order.run)] {
      if let text { try PrivateFile.write(Data(text.utf8), to: folder.script(stage)) }
    }
    runLog = try RunLog(folder.runLog)
    fillEnvironment()
  }

  private func chooseAddress() throws {
    preparing("choosing an address")
    let reason: String
    switch order.addressing {
    case .ports: reason = "SKY_LOCAL_ADDRESSING=ports"
    case .automatic:
      guard let claim = AddressClaim.address(for: folder.path) else {
        throw Failed("no free address in 127.64.0.0/10 was found for this replica")
      }
      let problem = Spawn.problemOfFilter(address: claim.address)
      guard let problem else {
        guard claim.canListen(on: order.port) else {
          throw Failed(
            "port \(order.port) is taken on every address of this machine by another program; end it, or choose "
              + "another port in 'resources: ports' and in the command that listens")
        }
        self.claim = claim
        switchboard = Switchboard(address: claim.address)
        state.address = claim.text
        state.addressing = .ownAddress
        note("it has the address \(claim.text) to itself, with all ports")
        return
      }
      reason = problem
    }
    guard let claim = AddressClaim.port(for: folder.path), let port = claim.port else {
      throw Failed("no free port in \(AddressClaim.ports) was found for this replica")
    }
    self.claim = claim
    state.address = claim.text
    state.port = port
    state.addressing = .ownPort(reason: reason)
    note(
      "it cannot have an address of its own (\(reason)): it has to listen on the port in "
        + "SKYPILOT_SERVE_REPLICA_PORT, which is \(port), instead of \(order.port)")
  }

  private func makeHome() throws {
    let userHome = environment["HOME"] ?? NSHomeDirectory()
    let home = PrivateHome(path: folder.home, userHome: userHome, stateFolder: order.stateFolder)
    try home.make()
    if let workdir = order.workdir {
      preparing("copying the workdir")
      try copy(workdir, folder.workdir)
    } else {
      mkdir(folder.workdir, 0o700)
    }
    for mount in order.mounts {
      preparing("copying ~/\(mount.destination)")
      try copy(mount.source, try home.place(mount.destination))
    }
  }

  /// With modes, times and links; by reference where the file system can.
  private func copy(_ source: String, _ destination: String) throws {
    let log = sky_open(folder.launchLog, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    let null = sky_open("/dev/null", O_RDONLY | O_CLOEXEC, 0)
    defer {
      close(log)
      close(null)
    }
    let tool = Spawn(
      program: "/bin/cp", arguments: ["-aHT", "--reflink=auto", "--", source, destination], environment: environment,
      input: null, output: log)
    guard case .code(0) = try wait(for: tool.start()) else { throw Failed("cannot copy \(source) to \(destination)") }
  }

  private func fillEnvironment() {
    for variable in order.variables { environment[variable.name] = variable.value }
    environment["HOME"] = folder.home
    environment["PYTHONUNBUFFERED"] = "1"
    environment["SKYPILOT_REPLICA_MARK"] = order.mark
    environment["SKYPILOT_SERVE_REPLICA_ID"] = String(order.id)
    environment["SKYPILOT_SERVE_REPLICA_PORT"] = String(state.port)
    environment["SKYPILOT_NUM_NODES"] = "1"
    environment["SKYPILOT_USER"] = NSUserName()
    let form = DateFormatter()
    form.locale = Locale(identifier: "en_US_POSIX")
    form.dateFormat = "yyyy-MM-dd-HH-mm-ss-SSS"
    let start = form.string(from: Date(timeIntervalSince1970: state.startedAt))
    environment["SKYPILOT_TASK_ID"] = "sky-\(start)_\(order.service)-\(order.id)_\(order.version)"
    environment["SKYPILOT_CLUSTER_INFO"] =
      "{\"cluster_name\": \"\(order.service)-\(order.id)\", \"cloud\": \"Local\", \"region\": \"local\", \"zone\": null}"
    if !order.gpus.isEmpty {
      // Numbers as nvidia-smi counts them.
      environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
      environment["CUDA_VISIBLE_DEVICES"] = order.gpus.map { String($0.index) }.joined(separator: ",")
    } else if order.hidesOtherGpus {
      environment["CUDA_VISIBLE_DEVICES"] = ""
    }
  }

  private func environment(for stage: ReplicaStage) -> [String: String] {
    let prefix = stage == .setup ? "SKYPILOT_SETUP_" : "SKYPILOT_"
    var result = environment
    result[prefix + "NODE_RANK"] = "0"
    result[prefix + "NODE_IPS"] = state.address
    result[prefix + "NUM_GPUS_PER_NODE"] = String(order.gpusPerNode)
    return result
  }

  // MARK: The user's commands

  private func work() throws {
    if order.setup != nil {
      let turn = try awaitSetupTurn()
      defer { close(turn) }
      state.phase = .settingUp
      state.setUpAt = Date().timeIntervalSince1970
      save()
      note("setup begins")
      // Not under the filter, which may take sudo away: setup installs, run listens.
      if try !finish(.setup, wait(for: start(.setup, isFiltered: false))) { return }
    }
    state.phase = .running
    state.runAt = Date().timeIntervalSince1970
    save()
    note("run begins")
    let ended = order.run == nil ? .code(0) : try wait(for: start(.run, isFiltered: switchboard != nil))
    _ = try finish(.run, ended)
  }

  /// Replicas of one service install the same things in the same places (conda environments, ~/.local): one after the
  /// other. The lock is the descriptor's.
  private func awaitSetupTurn() throws -> Int32 {
    let fd = sky_open(order.setupLock, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    if fd < 0 { throw Failed("cannot open \(order.setupLock): \(errorText(errno))") }
    var hasSaid = false
    while flock(fd, LOCK_EX | LOCK_NB) != 0 {
      if !hasSaid { note("waits for the setup of another replica of this service") }
      hasSaid = true
      preparing("waiting for another replica's setup")
      turn(100)
      if isStopping {
        close(fd)
        throw Stopped()
      }
    }
    return fd
  }

  /// What every command begins with: conda as an interactive shell would have it, where there is one.
  private static let prelude = """
    for sky_base in "${CONDA_EXE%/bin/conda}" "$(dirname "$(dirname "$(command -v conda || true)")")" \
      ~/miniconda3 ~/anaconda3 ~/miniforge3 /opt/conda; do
      if [ -f "$sky_base/etc/profile.d/conda.sh" ]; then . "$sky_base/etc/profile.d/conda.sh"; break; fi
    done 2>/dev/null
    unset sky_base
    . "$0"
    """

  private func start(_ stage: ReplicaStage, isFiltered: Bool) throws -> pid_t {
    guard let runLog else { preconditionFailure("the log is there before the commands are") }
    runLog.forgetTail()
    let null = sky_open("/dev/null", O_RDONLY | O_CLOEXEC, 0)
    defer { close(null) }
    let bash = ChildProcess.findProgram("bash", environment: environment)
    guard let bash else { throw Failed("bash is not installed, and setup and run are written for it") }
    let command = Spawn(
      program: bash, arguments: ["-c", Self.prelude, folder.script(stage)], environment: environment(for: stage),
      folder: folder.workdir, input: null, output: runLog.input)
    hasChildren = true
    guard isFiltered, let switchboard else {
      let pid = try command.start()
      shells.insert(pid)
      return pid
    }
    let (pid, filter) = try command.startFiltered()
    shells.insert(pid)
    if filter.hasNoNewPrivileges, order.run?.contains("sudo") == true {
      note("sudo cannot work in run: its processes gain no privileges; use it in setup")
    }
    let thread = Thread { switchboard.serve(filter.listener) }
    thread.name = "switchboard"
    thread.start()
    return pid
  }

  /// Writes down how a stage ended; whether it ended well.
  private func finish(_ stage: ReplicaStage, _ exit: Exit) throws -> Bool {
    let line = runLog?.lastLine(
      hiding: order.variables.filter(\.isSecret).map(\.value), script: folder.script(stage))
    let reason: String?
    switch exit {
    case .code(0):
      state.exitStatus = 0
      reason = nil
    case .code(let code):
      state.exitStatus = code
      reason = "\(stage.rawValue) exited with \(code)" + (line.map { ": \($0)" } ?? "")
    case .signal(let number):
      state.exitStatus = 128 + number
      // What it had no time to say is not in its last line.
      reason = "\(stage.rawValue) was killed by signal \(number)" + (line.map { "; its last line: \($0)" } ?? "")
    }
    note(reason ?? "\(stage.rawValue) ended")
    if stage == .run || reason != nil {
      state.phase = reason.map { .failed(reason: $0) } ?? .succeeded
      state.endedAt = Date().timeIntervalSince1970
      save()
    }
    return reason == nil
  }

  // MARK: Waiting

  private func wait(for pid: pid_t) throws -> Exit {
    hasChildren = true
    while true {
      if let exit = exits.removeValue(forKey: pid) { return exit }
      if isStopping { throw Stopped() }
      turn(-1)
    }
  }

  /// Waits for a signal, for `milliseconds` at most (-1: for ever), and reaps what has ended.
  private func turn(_ milliseconds: Int32) {
    var watched = pollfd(fd: signals, events: Int16(POLLIN), revents: 0)
    _ = poll(&watched, 1, milliseconds)
    while true {
      let number = sky_next_signal(signals)
      if number == 0 { break }
      if number != SIGCHLD { isStopping = true }
    }
    reap()
  }

  private func reap() {
    while true {
      var status: Int32 = 0
      let pid = waitpid(-1, &status, WNOHANG | 0x4000_0000 /* __WALL */)
      if pid < 0, errno == EINTR { continue }
      if pid <= 0 {
        hasChildren = pid == 0
        return
      }
      exits[pid] = status & 0x7F == 0 ? .code(status >> 8 & 0xFF) : .signal(status & 0x7F)
      // Only a command just started is ever asked for, so what orphans left behind need not pile up.
      if exits.count > 1024 { exits.removeAll() }
    }
  }

  // MARK: The end

  private func end() {
    reap()
    if hasChildren {
      let deadline = Date().timeIntervalSince1970 + order.grace
      var asked: Set<pid_t> = []
      while hasChildren {
        askToEnd(&asked)
        let left = deadline - Date().timeIntervalSince1970
        if left <= 0 { break }
        turn(Int32(clamping: min(left * 1000 + 1, 1000)))
      }
      if hasChildren {
        note("not all had ended \(Int(clamping: order.grace)) s after SIGTERM; killing them")
        sky_end_descendants()
      }
    }
    runLog?.finish()
    if isStopping {
      switch state.phase {
      case .preparing, .settingUp, .running: state.phase = .stopped
      case .succeeded, .failed, .notStarted, .stopped: break
      }
    }
    if state.endedAt == nil { state.endedAt = Date().timeIntervalSince1970 }
    save()
    note("ended")
  }

  /// SIGTERM to the user's shells, to what they started, and to what has lost its parent. What lies deeper is left to
  /// its parent, which knows how to end it (a server with workers), until that has gone; and what a shell starts when
  /// it has been asked is what it has to do before its end (`trap 'curl …/deregister; exit' TERM`).
  private func askToEnd(_ asked: inout Set<pid_t>) {
    let children = ProcessTable.children()
    let near = children[getpid()] ?? []
    let started = asked.isEmpty ? near.filter(shells.contains).flatMap { children[$0] ?? [] } : []
    for pid in near + started where asked.insert(pid).inserted {
      kill(pid, SIGTERM)
    }
  }

  // MARK: Writing down

  private func preparing(_ detail: String) {
    if state.phase == .preparing(detail: detail) { return }
    state.phase = .preparing(detail: detail)
    save()
  }

  private func save() {
    do { try folder.write(state) } catch { note("\(error)") }
  }

  /// A line of launch.log.
  private func note(_ text: String) {
    let fd = sky_open(folder.launchLog, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard fd >= 0 else { return }
    defer { close(fd) }
    let line = "\(Date().formatted(.iso8601)) \(text)\n"
    _ = line.withCString { write(fd, $0, strlen($0)) }
  }
}
