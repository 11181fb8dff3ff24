// The program `sky-controller`: one per user (per SKY_HOME), started by the first `sky serve up`.
//
//   folders, lock, store ─▶ infra ─▶ Controller ─▶ controller.sock ─▶ … ─▶ SIGTERM, or nothing to do for some time
//
// When it ends, proxies and replicas go on: whoever starts it again finds them.

import Foundation
import Synchronization

package enum ControllerProgram {
  /// Seconds: whoever has started it has something to say.
  private static let leastIdleSeconds = 2.0
  /// Seconds between looks at whether its files are still its own.
  private static let lookSeconds = 1.0
  /// Seconds that answers under way may take after it was asked to end.
  private static let lingerSeconds = 5.0

  static let help = """
    usage: sky-controller [--help | --version]

    Keeps the services that `sky serve up` has been given: launches and probes their replicas, scales and updates them,
    and runs the load balancer of each. `sky` starts it when it is needed; it ends by itself when there has been no
    service for some time (serve.controller.autostop in ~/.sky/config.yaml; 10 minutes), and on SIGTERM. Load
    balancers and replicas go on without it; started again, it finds them.

      SKY_HOME          where everything lies (~/.skyserve): controller.sock, controller.log, state, services
      SKYPILOT_CONFIG   another configuration than ~/.sky/config.yaml
      SKYPILOT_SERVE_OVERRIDE_CONCURRENT_LAUNCHES
                        launches under way at once (4 x the number of services there may be)

    """

  /// Returns the exit status.
  package static func main(_ arguments: [String]) async -> Int32 {
    switch arguments.first {
    case nil: break
    case "--help", "-h":
      print(help, terminator: "")
      return 0
    case "--version":
      print("sky-controller \(ControlVersion.text)")
      return 0
    case let word?:
      complain("there is no '\(word)'; see sky-controller --help")
      return 2
    }
    do { return try await run(ProcessInfo.processInfo.environment) } catch {
      complain("\(error)")
      // Perhaps it is just ending: whoever starts us then tries again.
      if let error = error as? StoreError, error.kind == .busy { return ApiClient.exitCodeBusy }
      return 1
    }
  }

  /// Every probe is a connection, and all of them may be under way at once.
  private static func raiseDescriptorLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = min(limit.rlim_max, 65_536)
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  private static func complain(_ text: String) {
    FileHandle.standardError.write(Data("sky-controller: \(text)\n".utf8))
  }

  /// Whoever removes SKY_HOME, or moves it, leaves a controller that nobody can reach, beside the next one, which has
  /// what runs from then on. So it ends at once, as by SIGKILL, and leaves all as it is. Another controller that starts
  /// replaces neither file while this one has it: it needs the lock first, and takes no socket that is listened on.
  private static func endWhenLost(
    _ lock: FileMark, _ server: HttpServer, _ clock: HostClock, _ log: Log
  ) async -> String? {
    while true {
      do { try await clock.sleep(until: clock.now + lookSeconds) } catch { return nil }
      guard let path = lock.isLost ? lock.path : server.isLost ? server.path : nil else { continue }
      let reason = "\(path) was removed or replaced: nobody can reach this controller any more, so it ends"
      log.note(.error, reason)
      complain(reason)
      _exit(1)
    }
  }

  private static func run(_ environment: [String: String]) async throws -> Int32 {
    umask(0o077)
    let signals = try EndSignals()
    let paths = Paths(environment: environment)
    try paths.makeHome()
    let store = try Store(folder: paths.state)
    let lock = store.lockMark
    let log = try Log(path: paths.controllerLog)
    let clock = HostClock(notBefore: store.state.newestTime)
    let config = try UserConfig(path: paths.configFile)
    guard let proxy = ChildProcess.findSibling("sky-proxy") else {
      throw CommandError(.failed, "sky-proxy is neither beside sky-controller nor in PATH. Install it there.")
    }
    let infra = try LocalInfra(config: config, environment: environment)
    var limits = Controller.Limits(
      servicesMax: infra.servicesMax, host: config.local.host, ports: config.local.ports)
    limits.replicaLogSeconds = config.taskLogsHours.map { Double($0) * 3600 }
    if let given = environment["SKYPILOT_SERVE_OVERRIDE_CONCURRENT_LAUNCHES"].flatMap({ Int($0) }), given > 0 {
      limits.launchesMax = given
    }
    let parts = Controller.Parts(
      paths: paths, infra: infra,
      proxies: ProxyHandles(paths: paths, host: limits.host, program: proxy, clock: clock, log: log),
      probes: HttpProbe(), clock: clock, limits: limits, log: log)
    let controller = Controller(store: store, parts: parts)
    let api = ApiServer(controller: controller, startedAt: clock.now) { await infra.describe() }
    let server = try HttpServer(socketPath: paths.controllerSocket) { await api.answer($0, $1) }
    log.note(.info, "started version=\(ControlVersion.text) pid=\(getpid()) services_max=\(limits.servicesMax)")
    await controller.begin()
    let running = Task { await controller.run() }
    let serving = Task { await server.run() }
    raiseDescriptorLimit()
    let reason = await withTaskGroup(of: String?.self) { group in
      group.addTask { await signals.next() }
      group.addTask { await endWhenLost(lock, server, clock, log) }
      if let seconds = config.autostopSeconds.map({ max($0, leastIdleSeconds) }) {
        group.addTask { await controller.retires(after: seconds) ? "there was no service for \(Int(clamping: seconds)) s" : nil }
      }
      let reason = await group.next() ?? nil
      group.cancelAll()
      return reason ?? "?"
    }
    log.note(.info, "ends: \(reason)")
    // Whatever is still being answered is told to stop; what does not is left.
    Task.detached {
      try? await clock.sleep(until: clock.now + lingerSeconds)
      exit(0)
    }
    server.stop()
    await serving.value
    running.cancel()
    await running.value
    return 0
  }
}

extension Log {
  func note(_ level: Level, _ line: String) {
    switch level {
    case .debug: debug(line)
    case .info: info(line)
    case .warning: warning(line)
    case .error: error(line)
    }
  }
}
