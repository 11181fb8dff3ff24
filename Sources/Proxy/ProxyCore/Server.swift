// The process around the workers: limits raised, sockets bound, one thread per worker, signals, the end. Everything
// here runs once or rarely and is ordinary Swift; the workers never come back into it.

import Glibc
import ProxyWire
import Synchronization

/// A start that failed: what, where, and what to do about it.
package struct ServerError: Error {
  package let message: String
}

package final class Server {
  private let config: ProxyConfig
  private let board: LoadBoard
  private var threads: [WorkerThread] = []
  private var listenSockets: [[Int32]] = []
  private var socketFiles: [SocketFile] = []
  private let drainWish = DrainWish()

  package init(_ config: ProxyConfig) {
    self.config = config
    // Replacing every replica at once needs room for both sets until the old ones have finished.
    board = LoadBoard(capacity: 2 * config.maxReplicas)
  }

  /// Serves until a signal ends it. Returns the exit status.
  package func run() throws(ServerError) -> Int32 {
    let workers = config.workers == 0 ? max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) : config.workers
    let engine = EngineConfig(config)
    let tlsThreads = min(workers, config.tlsThreads == 0 ? workers : config.tlsThreads)
    let descriptors = raiseDescriptorLimit(workers: workers, tls: config.tlsCert != nil)
    let plan = MemoryPlan(config: engine, buffers: config.buffers, bufferBytes: config.bufferSize)
    if config.printPlan {
      if let cert = config.tlsCert, let key = config.tlsKey {
        do throws(TlsRefusal) { _ = try TlsContext(cert: cert, key: key) } catch {
          throw ServerError(message: "--tls-\(error.file.rawValue) \(error.text)")
        }
      }
      print(plan.text(workers: workers, tlsThreads: tlsThreads, descriptors: descriptors), terminator: "")
      for address in config.listen { print("would listen on \(address)") }
      for address in config.admin { print("admin API on \(address)") }
      return 0
    }
    let features: RingFeatures
    do { features = try RingProbe.run() } catch { throw ServerError(message: error.advice) }
    blockSignals()
    board.setPolicy(Policy(config.policy))
    for address in config.listen { try bind(address, workers: workers) }
    var options = RingOptions()
    options.completions = UInt32(plan.completions)
    options.buffers = config.buffers
    options.bufferBytes = config.bufferSize
    options.keepaliveSeconds = engine.keepaliveSeconds
    options.batchWaitUs = UInt32(config.batchWaitNs / 1000)
    for index in 0..<workers {
      threads.append(
        WorkerThread(
          options: options, features: features, engine: engine, board: board,
          listeners: listenSockets.map { $0[index] }))
    }
    let membership = Membership(
      board: board, counters: threads.map(\.counters), replicasMax: config.maxReplicas,
      defaultMaxInFlight: config.maxInFlight, drainDeadlineNs: config.drainDeadlineNs, policy: config.policy,
      canChangePolicy: true)
    membership.onCut { [threads] in for thread in threads { thread.wake() } }
    let log = try openLog(membership)
    let tls = TlsFront(
      workers: threads.map(\.forTls), threads: tlsThreads, clients: config.maxConnections, board: board,
      makeRoom: { [self] in if config.tlsCert == nil { _ = raiseDescriptorLimit(workers: workers, tls: true) } })
    let settings = LiveSettings(config, engine: engine, tls: tls) { [threads] engine in
      for thread in threads { thread.take(engine) }
    }
    if let cert = config.tlsCert, let key = config.tlsKey {
      do throws(TlsRefusal) { try settings.beginTls(cert: cert, key: key) } catch {
        throw ServerError(message: "--tls-\(error.file.rawValue) \(error.text)")
      }
    }
    // Before anybody is accepted: whoever waits in a backlog meanwhile is served, not told that there is no replica.
    let resolver = try resolveReplicas(membership)
    for thread in threads { try thread.start() }
    let admin = try startAdmin(membership, log, settings, tls, resolver)
    _ = resolver?.start { [weak admin] entries in admin?.offer(standalone: entries) }
    say("ready workers=\(workers) replicas=\(config.replicas.count) \(features.summary)")
    let status = waitForEnd(log, settings, tls)
    admin.stop()
    log?.stop()
    return status
  }

  // MARK: start

  private func openLog(_ membership: Membership) throws(ServerError) -> AccessLog? {
    do throws(AccessLogError) {
      let log = try AccessLog(
        to: config.accessLog, format: config.accessLogFormat, showsQuery: config.accessLogQuery,
        rings: threads.compactMap(\.log), names: membership.names)
      try log?.start()
      return log
    } catch {
      throw ServerError(message: error.description)
    }
  }

  /// Puts the list of --replica in force.
  private func resolveReplicas(_ membership: Membership) throws(ServerError) -> Resolver? {
    if config.replicas.isEmpty { return nil }
    let resolver = Resolver(config.replicas.map { ResolverSource($0) }, intervalNs: config.resolveIntervalNs)
    do throws(SnapshotRefusal) {
      _ = try membership.apply(standalone: resolver.entries, now: monotonicNanoseconds())
    } catch {
      throw ServerError(message: "--replica: \(error.description)")
    }
    return resolver
  }

  /// The admin thread runs even without an address: it also takes what the resolver finds.
  private func startAdmin(
    _ membership: Membership, _ log: AccessLog?, _ settings: LiveSettings, _ tls: TlsFront, _ resolver: Resolver?
  ) throws(ServerError) -> AdminServer {
    let process = getpid()
    let board = board
    let actions = AdminActions(
      drain: { [drainWish] in
        drainWish.isThere.store(true, ordering: .releasing)
        kill(process, SIGUSR2)
      }, isDraining: { board.shared.pointee.draining.load(ordering: .relaxed) != 0 },
      logLinesLost: { log?.linesLost ?? 0 }, choosePolicy: { board.setPolicy(Policy($0)) },
      settings: { settings.inForce },
      changeSettings: { change throws(SettingsRefusal) in try settings.change(change) },
      tls: { (tls.counters, settings.certificateExpiresAt) },
      hasOtherWays: { resolver?.hasOtherWays ?? false }, tryOtherWays: { resolver?.tryOtherWays(for: $0) })
    let admin = AdminServer(
      endpoints: config.admin, membership: membership, workers: threads.map(\.view),
      hosts: config.adminHosts, reportIntervalNs: config.reportIntervalNs, actions: actions)
    do throws(AdminError) { try admin.start() } catch { throw ServerError(message: error.description) }
    for endpoint in admin.listening { say("admin address=\(endpoint)") }
    return admin
  }

  /// A listening socket per worker (SO_REUSEPORT), so that the kernel spreads connections without a lock between them.
  private func bind(_ endpoint: Endpoint, workers: Int) throws(ServerError) {
    guard var address = SocketAddress(endpoint) else {
      throw ServerError(message: "--listen \(endpoint): give an address, not a name: 127.0.0.1:8080, :8080, [::]:8080")
    }
    var sockets: [Int32] = []
    try awaitFree(endpoint, address)
    let keepaliveSeconds = EngineConfig(config).keepaliveSeconds
    for _ in 0..<workers {
      if address.family == AF_UNIX, let first = sockets.first {
        sockets.append(first)
        continue
      }
      let fd = openListener(&address, keepaliveSeconds: keepaliveSeconds)
      if fd < 0 { throw cannotListen(endpoint, -fd) }
      if config.sendBuffer > 0 {
        // Accepted sockets inherit it. The kernel doubles the value for its own bookkeeping (man 7 socket).
        var bytes = Int32(config.sendBuffer)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
      }
      sockets.append(fd)
    }
    listenSockets.append(sockets)
    if case .unix(let path) = endpoint, let file = SocketFile(path) { socketFiles.append(file) }
    say("listening address=\(address.text)")
  }

  /// Throws when somebody else listens there: workers share a port among themselves, and would share another process's
  /// clients unnoticed. A proxy that was killed keeps its sockets for a moment after its end, while the kernel takes
  /// its ring down; so its successor asks again for up to a second.
  private func awaitFree(_ endpoint: Endpoint, _ address: SocketAddress) throws(ServerError) {
    let deadline = monotonicNanoseconds() + 1_000_000_000
    while true {
      let problem = occupant(endpoint, address)
      guard let problem else { return }
      if monotonicNanoseconds() >= deadline { throw problem }
      usleep(20_000)
    }
  }

  private func occupant(_ endpoint: Endpoint, _ address: SocketAddress) -> ServerError? {
    if case .unix(let path) = endpoint {
      do throws(SocketInTheWay) {
        try SocketFile.clearWay(path, flag: "--listen")
        return nil
      } catch {
        return ServerError(message: error.description)
      }
    }
    guard address.port != 0 else { return nil }
    var trial = address
    // Bound and never listened on: nobody is to come to it.
    let fd = openListener(&trial, backlog: -1, shared: false)
    if fd < 0 { return cannotListen(endpoint, -fd) }
    close(fd)
    return nil
  }

  private func cannotListen(_ endpoint: Endpoint, _ code: Int32) -> ServerError {
    ServerError(
      message: "--listen \(endpoint): \(errorText(code)); \(endpoint.cure(code))")
  }

  /// New connections are refused from now on, also those that wait in a backlog: whoever follows on the port gets them.
  private func stopListening() {
    // The files first: from the shutdown on a successor may put its own there.
    for file in socketFiles { file.remove() }
    for fd in listenSockets.joined() { shutdown(fd, Int32(SHUT_RDWR)) }
  }

  /// A client has a socket and its replica's, with TLS also both ends of a pair.
  private func raiseDescriptorLimit(workers: Int, tls: Bool) -> Int {
    let perClient = tls ? 4 : 2
    let wanted = perClient * config.maxConnections + 256 + 16 * workers
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    if limit.rlim_cur < UInt(wanted) {
      var raised = rlimit(rlim_cur: UInt(wanted), rlim_max: max(limit.rlim_max, UInt(wanted)))
      if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) != 0 {
        raised = rlimit(rlim_cur: min(limit.rlim_max, UInt(wanted)), rlim_max: limit.rlim_max)
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised)
      }
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    if limit.rlim_cur < UInt(wanted) {
      let clients = (Int(limit.rlim_cur) - 256) / perClient
      let beyond = tls ? "clients are closed" : "clients get 503"
      let note =
        clients > 0
        ? "the hard limit (ulimit -Hn) allows about \(clients) streaming clients; beyond, \(beyond)"
        : "the hard limit (ulimit -Hn) is less than the proxy itself may need: raise it"
      say("descriptors limit=\(limit.rlim_cur) wanted=\(wanted) note=\"\(note)\"")
    }
    return Int(clamping: limit.rlim_cur)
  }

  // MARK: end

  /// Signals are waited for, never handled: SIGUSR2 is a worker or a TLS thread saying that it has finished, or the
  /// admin thread that it was asked to drain.
  private static let signals = [SIGTERM, SIGINT, SIGHUP, SIGUSR2]

  private func signalSet() -> sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in Server.signals { sigaddset(&set, signal) }
    return set
  }

  private func blockSignals() {
    var set = signalSet()
    pthread_sigmask(SIG_BLOCK, &set, nil)
    signal(SIGPIPE, SIG_IGN)
  }

  /// SIGTERM, SIGINT or POST /v1/drain: stop accepting, finish what is in flight up to --drain-timeout. A second signal
  /// ends at once; a drain that was asked for is no signal, so a stop hook and the SIGTERM after it do not add up.
  private func waitForEnd(_ log: AccessLog?, _ settings: LiveSettings, _ tls: TlsFront) -> Int32 {
    var set = signalSet()
    var deadline: UInt64 = .max
    var isSignalled = false
    while true {
      let now = monotonicNanoseconds()
      var left = deadline == .max ? 3600 * 1_000_000_000 : deadline > now ? deadline - now : 0
      // A TLS thread may hand a client to a worker that has just ended, and says nothing of it.
      if deadline != .max && threads.allSatisfy({ $0.isFinished }) { left = min(left, 20_000_000) }
      var timeout = timespec(tv_sec: Int(left / 1_000_000_000), tv_nsec: Int(left % 1_000_000_000))
      switch sigtimedwait(&set, nil, &timeout) {
      case SIGTERM, SIGINT:
        if isSignalled {
          say("second signal: ending at once")
          return 1
        }
        isSignalled = true
      case SIGHUP:
        log?.requestReopen()
        settings.rereadCertificate()
      default: break
      }
      if deadline == .max {
        if !isSignalled && !drainWish.isThere.load(ordering: .acquiring) { continue }
        let timeout = settings.drainTimeoutNs
        // `now` is from before the wait for this signal.
        deadline = monotonicNanoseconds() + timeout
        board.shared.pointee.draining.store(1, ordering: .relaxed)
        for thread in threads { thread.command(1) }
        tls.drain()
        stopListening()
        // Last: whoever reads it finds that nobody listens any more.
        say("draining timeout_s=\(timeout / 1_000_000_000)")
      }
      if threads.allSatisfy({ $0.isFinished }) {
        tls.letGoArrivals()
        if tls.isEmpty {
          say("stopped")
          return 0
        }
      }
      if monotonicNanoseconds() >= deadline {
        // A response may be complete here and still on its way to its client.
        let exchanges = board.shared.pointee.exchanges.load(ordering: .relaxed)
        let clients = board.shared.pointee.connections.load(ordering: .relaxed)
        let isClean = exchanges <= 0 && clients == 0
        say(isClean ? "stopped" : "drain timed out exchanges_cut=\(exchanges) connections_cut=\(clients)")
        return 0
      }
    }
  }
}

/// POST /v1/drain has come.
private final class DrainWish: Sendable {
  let isThere = Atomic<Bool>(false)
}

/// One line on standard error: `key=value`, for people and machines.
package func say(_ line: String) {
  var text = "sky-proxy: " + line + "\n"
  text.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
}

/// A worker and the thread it lives on.
private final class WorkerThread: @unchecked Sendable {
  private let options: RingOptions
  private let features: RingFeatures
  private let engine: EngineConfig
  private let board: LoadBoard
  private let listeners: [Int32]
  let counters: CounterSet
  let log: LogRing?
  private let seen = Mutex<WorkerView?>(nil)
  private let control: UnsafeMutablePointer<WorkerControl> = mapZeroed(1)
  private let handle = WakeHandle()
  private let done = Atomic<Bool>(false)
  private let failure = Mutex<RingError?>(nil)
  private let started = Atomic<Bool>(false)

  init(
    options: RingOptions, features: RingFeatures, engine: EngineConfig, board: LoadBoard, listeners: [Int32]
  ) {
    self.options = options
    self.features = features
    self.engine = engine
    self.board = board
    self.listeners = listeners
    counters = CounterSet(replicas: board.capacity)
    log = engine.logs ? LogRing() : nil
  }

  var forTls: TlsWorker { TlsWorker(control: control, wake: handle) }

  /// Where its slots are; there once `start` has returned.
  var view: WorkerView {
    guard let view = seen.withLock({ $0 }) else { preconditionFailure("a worker was looked at before its start") }
    return view
  }

  var isFinished: Bool { done.load(ordering: .acquiring) }

  func start() throws(ServerError) {
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { context in
        Unmanaged<WorkerThread>.fromOpaque(context!).takeRetainedValue().body()
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    guard code == 0 else { throw ServerError(message: "cannot start a thread: \(errorText(code))") }
    // The ring is made on its own thread; wait until that has worked or not.
    while !started.load(ordering: .acquiring) { usleep(200) }
    if let error = failure.withLock({ $0 }) { throw ServerError(message: error.advice) }
  }

  /// Takes other deadlines over.
  func take(_ config: EngineConfig) {
    control.pointee.timeouts.set(config)
    handle.wake()
  }

  /// For what it looks at once a turn.
  func wake() { handle.wake() }

  /// 1 = drain, 2 = stop.
  func command(_ value: UInt32) {
    control.pointee.command.store(value, ordering: .releasing)
    handle.wake()
  }

  private func body() {
    do {
      let io = try UringIO(options, features: features, wakeFd: handle.fd)
      var worker = Worker(io: io, config: engine, board: board, counters: counters, control: control, log: log)
      for fd in listeners { worker.listen(on: fd) }
      let view = worker.view
      seen.withLock { $0 = view }
      started.store(true, ordering: .releasing)
      while !worker.isFinished { worker.turn() }
      worker.finish()
    } catch {
      failure.withLock { $0 = error }
      started.store(true, ordering: .releasing)
    }
    done.store(true, ordering: .releasing)
    kill(getpid(), SIGUSR2)
  }
}

extension Policy {
  /// Both least-load policies are one: in-flight ÷ weight, the weights being what the instances can carry.
  init(_ name: PolicyName) {
    switch name {
    case .leastLoad, .instanceAwareLeastLoad: self = .leastLoad
    case .roundRobin: self = .roundRobin
    }
  }
}

extension EngineConfig {
  /// The engine's part of the configuration.
  package init(_ config: ProxyConfig) {
    self.init()
    maxConnections = config.maxConnections
    queueSize = config.queueSize
    headBytesMax = config.maxHeadBytes
    targetBytesMax = config.maxTargetBytes
    fieldsMax = config.maxFields
    bodyBytesMax = UInt64(config.maxBodyBytes)
    for timeout in ProxySettings.Timeout.allCases { set(timeout, ns: config[keyPath: timeout.flag]) }
    poolSize = config.poolSize
    halfCloseGraceNs = config.halfCloseGraceNs
    lingerNs = config.lingerTimeoutNs
    lingerTotalNs = config.lingerTotalNs
    tcpKeepaliveNs = config.tcpKeepaliveNs
    tcpUserTimeoutNs = config.tcpUserTimeoutNs
    halfCloseAnswers = config.clientHalfClose == .answer
    maxAttempts = config.maxAttempts
    retryPercent = UInt32(config.retryBudgetPercent)
    retryBurst = UInt32(config.retryBurst)
    ejection = EjectionRule(
      after: UInt32(config.ejectAfter), afterErrors: UInt32(config.eject5xx), minNs: config.ejectMinNs,
      maxNs: config.ejectMaxNs)
    streamWindow = UInt32(config.streamWindow)
    spillBytes = config.spillMemory
    forwarded =
      switch config.forwarded {
      case .append: .append
      case .replace: .replace
      case .off: .off
      }
    let name = Array(config.viaName.utf8)
    let kept: UnsafeMutablePointer<UInt8> = mapZeroed(name.count + 1)
    for (index, byte) in name.enumerated() { kept[index] = byte }
    viaName = UnsafePointer(kept)
    viaCount = name.count
    addRequestId = config.requestId
    logs = config.accessLog != .off
  }
}

extension MemoryPlan {
  /// What --print-plan says.
  package func text(workers: Int, tlsThreads: Int, descriptors: Int) -> String {
    func line(_ name: String, _ bytes: Int, _ note: String) -> String {
      let mib = Double(bytes * 10 / 1_048_576) / 10
      return "  " + name + String(repeating: " ", count: max(1, 14 - name.count)) + "\(mib) MiB" + "  " + note + "\n"
    }
    return "memory one worker may use at most (address space is taken at once, memory as it is touched):\n"
      + line("slots", slotBytes, "\(connections) connections, \(exchanges) exchanges, \(segments) segments")
      + line(
        "blocks", blockBytes,
        "\(tinyBlocks) of \(BlockPool.tinyBytes), \(smallBlocks) of \(BlockPool.smallBytes), "
          + "\(mediumBlocks) of \(BlockPool.mediumBytes), \(largeBlocks) of \(largeBlockBytes) bytes"
      ) + line("buffers", bufferPoolBytes, "\(buffers) lent buffers of \(bufferBytes) bytes")
      + line(
        "spill", spillPoolBytes,
        "\(spillBlocks) blocks of \(BlockPool.spillBytes) bytes for what stalled peers have not taken")
      + line("ring", completions * 16, "\(completions) completions")
      + line("total", totalBytes, "× \(workers) workers = \(totalBytes * workers / 1_048_576) MiB")
      + "and the whole process, once a certificate is set:\n"
      + line(
        "tls", exchanges * TlsFront.clientBytesMax,
        "\(exchanges) clients of \(TlsFront.clientBytesMax) bytes, \(tlsThreads) threads")
      + "file descriptors: \(descriptors)\n"
  }
}
