// The link to a running sky-proxy: found or started, watched, told what to serve from, ended.
//
//              nobody answers, nobody lives                      the report stream ends
//          ┌──────────────────────────────── look ◀──────────────────────────────────────┐
//          ▼                                  │  answers GET /v1/replicas                │
//       absent ── start: spawn ──▶ silent ────┴────────────────▶ reporting ──────────────┘
//          ▲                                                      │   reports in, snapshots and settings out
//          └───────────────────── SIGTERM, SIGKILL ◀──────────────┘ stop
//
// The proxy has a session of its own and outlives the controller; who comes next finds it by its socket, and its
// process by what is written beside it. One task lives through the drawing, a second one pushes while it reports;
// both read what is wanted from one locked value, which the link's verbs change.

import Foundation
import ProxyWire
import Synchronization

/// Starts and finds the proxies of all services.
package struct ProxyHandles: ProxyLinks {
  let paths: Paths
  /// Where they listen.
  let host: String
  /// sky-proxy.
  let program: String
  let clock: any ControlClock
  let log: Log

  package init(paths: Paths, host: String, program: String, clock: any ControlClock, log: Log) {
    self.paths = paths
    self.host = host
    self.program = program
    self.clock = clock
    self.log = log
  }

  package func link(service: String, port: Int, wish: ProxyWish) -> any ProxyLink {
    ProxyHandle(self, service: service, port: port, wish: wish)
  }

  /// Asked of the program itself, which reads them as it will when it starts.
  package func refusal(of tls: ProxyWish.Tls) async -> String? { await Self.refusal(of: tls, program: program) }

  static func refusal(of tls: ProxyWish.Tls, program: String) async -> String? {
    do throws(SubprocessError) {
      let check = try await ChildProcess.run(
        program, ["--print-plan", "--tls-cert", tls.cert, "--tls-key", tls.key], environment: ProxyProcess.environment,
        seconds: 10)
      if check.exit == .code(0) { return nil }
      return String((check.text.split(separator: "\n").last ?? "it does not say why").trimmingPrefix("sky-proxy: --"))
    } catch {
      return error.description
    }
  }

  package func end(service: String) async -> String? {
    let process = ProxyProcess(paths, service, log)
    // Where one listens that is found by its socket is not known, and matters no more.
    guard let identity = process.find(listen: ""), !(await process.end(identity)) else { return nil }
    return "its load balancer, process \(identity.process.pid), does not end, not even by SIGKILL"
  }
}

final class ProxyHandle: ProxyLink, Sendable {
  private static let reportMs = 1000
  /// Seconds without a report after which it counts as silent.
  private static let silenceMax = 10.0
  private static let answerSeconds = 5.0
  /// Seconds between looks at one that starts.
  private static let startLook = 0.01
  /// Seconds one may live without listening on its socket: it has not come up, and will not.
  private static let deafMax = 10.0
  /// Seconds before it is started again after it ended, growing while that does not help.
  private static let againFirst = 0.05
  private static let againMax = 5.0
  /// Seconds before it is told again what it did not take.
  private static let pushAgain = 1.0

  private struct Wanted {
    /// Nil: not said yet; one that is there is watched all the same.
    var runs: Bool?
    var wish: ProxyWish
    var snapshot: ReplicaSnapshot?
  }

  /// What the proxy that runs has said. Its version never goes back.
  private struct Seen {
    var version: UInt64 = 0
    var inFlight: [Int: Int] = [:]
    /// The newest version the stream of reports has come to.
    var streamVersion: UInt64 = 0
  }

  let news: AsyncStream<ProxyNews>
  private let tell: AsyncStream<ProxyNews>.Continuation
  private let handles: ProxyHandles
  private let service: String
  /// Where it is to listen: `127.0.0.1:30001`.
  private let listen: String
  private let process: ProxyProcess
  private let wanted: Mutex<Wanted>
  private let seen = Mutex(Seen())
  private let change = Alarm()
  private let push = Alarm()
  private let life = Mutex<Task<Void, Never>?>(nil)

  init(_ handles: ProxyHandles, service: String, port: Int, wish: ProxyWish) {
    self.handles = handles
    self.service = service
    listen = "\(handles.host.contains(":") ? "[\(handles.host)]" : handles.host):\(port)"
    process = ProxyProcess(handles.paths, service, handles.log)
    wanted = Mutex(Wanted(wish: wish))
    (news, tell) = AsyncStream.makeStream()
    let task = Task.detached { await self.live() }
    life.withLock { $0 = task }
  }

  // MARK: What is wanted

  func want(_ wish: ProxyWish) { set { $0.wish = wish } }
  func start() { set { $0.runs = true } }
  func stop() { set { $0.runs = false } }

  func publish(_ snapshot: ReplicaSnapshot) {
    set { if snapshot.version >= $0.snapshot?.version ?? 0 { $0.snapshot = snapshot } }
  }

  func close() {
    life.withLock { $0 }?.cancel()
    tell.finish()
  }

  private func set(_ body: (inout Wanted) -> Void) {
    let isNew = wanted.withLock { wanted in
      let before = wanted
      body(&wanted)
      return before.runs != wanted.runs || before.wish != wanted.wish || before.snapshot != wanted.snapshot
    }
    guard isNew else { return }
    change.ring()
    push.ring()
  }

  private func note(_ level: Log.Level, _ text: String) {
    handles.log.note(level, "service=\(service) proxy \(text)")
  }
}

// MARK: - The life of it

extension ProxyHandle {
  private func live() async {
    var again = Self.againFirst
    var startAt = 0.0
    var deafSince: Double?
    var reason: String?
    var endings = 0
    if let identity = process.identity, identity.listen != listen {
      // Left over from another service of this name, or the configuration says another address now.
      _ = await process.end(identity)
    }
    while !Task.isCancelled {
      let now = handles.clock.now
      switch await look() {
      case .answers:
        deafSince = nil
        endings = 0
        reason = nil
        let since = now
        await serve()
        if handles.clock.now - since > Self.againMax { again = Self.againFirst }
      case .busy:
        tell.yield(.silent)
        if wanted.withLock({ $0.runs }) == false {
          endings += 1
          await end(attempt: endings)
        } else {
          await change.wait(until: now + Self.pushAgain, handles.clock)
        }
      case .deaf(let identity):
        tell.yield(.silent)
        let since = deafSince ?? now
        deafSince = since
        let isUnwanted = wanted.withLock { $0.runs } == false
        if isUnwanted {
          endings += 1
          await end(attempt: endings)
        } else if now - since > Self.deafMax {
          note(.warning, "process \(identity.process.pid) does not listen on its socket: killed")
          _ = await process.end(identity)
        } else {
          try? await handles.clock.sleep(until: now + Self.startLook)
        }
      case .absent:
        deafSince = nil
        endings = 0
        tell.yield(.absent(reason: reason))
        guard wanted.withLock({ $0.runs }) == true else {
          await change.wait(until: nil, handles.clock)
          continue
        }
        if now < startAt {
          await change.wait(until: startAt, handles.clock)
          continue
        }
        startAt = now + again
        again = min(again * 2, Self.againMax)
        reason = await spawn()
        if let reason { note(.error, "did not start: \(reason)") }
      }
    }
  }

  private enum Found {
    case answers
    /// Somebody listens on the socket, and does not answer.
    case busy
    /// The process is there and does not listen.
    case deaf(ProxyProcess.Identity)
    case absent
  }

  /// Whether there is one, and what it has.
  private func look() async -> Found {
    do throws(HttpError) {
      try await refresh(isNew: true)
      process.find(listen: listen)
      return .answers
    } catch {
      if Task.isCancelled { return .busy }
      guard error.kind == .connect else { return .busy }
      if let identity = process.identity { return .deaf(identity) }
      return .absent
    }
  }

  /// One attempt after the other, as long as something is there.
  private func end(attempt: Int) async {
    guard let identity = process.find(listen: listen) else {
      tell.yield(.ending("nobody listens on \(process.socket), so which process it is cannot be told: end it by hand"))
      try? await handles.clock.sleep(until: handles.clock.now + Self.pushAgain)
      return
    }
    let pid = identity.process.pid
    tell.yield(
      .ending(
        attempt == 1
          ? "process \(pid) gets SIGTERM, and SIGKILL after \(Int(ProxyProcess.endSeconds)) s"
          : "process \(pid) has not ended, not even by SIGKILL (attempt \(attempt))"))
    _ = await process.end(identity)
  }

  /// Asks for the list in force and what is in flight on it, both of the same moment.
  private func refresh(isNew: Bool) async throws(HttpError) {
    let reply = try await HttpClient.send(
      HttpRequest("GET", "/v1/replicas"), to: process.socket, timeout: Self.answerSeconds, bodyMax: 64 << 20)
    guard reply.status == 200, let list = try? ReplicaList.decode(Array(reply.body)) else {
      throw HttpError(.protocol, "status \(reply.status)")
    }
    var inFlight: [Int: Int] = [:]
    for replica in list.replicas where replica.inFlight > 0 {
      if let id = Int(replica.entry.id) { inFlight[id] = replica.inFlight }
    }
    let counts = inFlight
    seen.withLock { seen in
      if isNew { seen = Seen() }
      guard list.version >= seen.version else { return }
      seen.version = list.version
      seen.inFlight = counts
    }
    tellSeen()
  }

  private func tellSeen() {
    let (version, inFlight) = seen.withLock { ($0.version, $0.inFlight) }
    tell.yield(.reporting(version: version, inFlight: inFlight))
  }

  /// Nil: it is there and answers. Otherwise why it ended.
  private func spawn() async -> String? {
    tell.yield(.silent)
    let (wish, snapshot) = wanted.withLock { ($0.wish, $0.snapshot) }
    let child: ChildProcess
    do {
      child = try process.spawn(handles.program, arguments(wish, snapshot), listen: listen)
    } catch {
      return "\(handles.program): \(error)"
    }
    note(.info, "started process=\(child.pid) listen=\(listen)")
    let deadline = handles.clock.now + Self.deafMax
    while !Task.isCancelled, handles.clock.now < deadline {
      if process.isListening { return nil }
      if let exit = child.exit { return process.lastWords ?? "it ended at once: \(exit)" }
      try? await handles.clock.sleep(until: handles.clock.now + Self.startLook)
    }
    return nil
  }

  private func arguments(_ wish: ProxyWish, _ snapshot: ReplicaSnapshot?) -> [String] {
    var list = [
      "--listen", listen, "--admin", process.socket.description, "--policy", wish.policy.rawValue,
      "--access-log", "-", "--access-log-format", "text",
    ]
    for (timeout, ms) in wish.timeouts { list += [timeout.flag, ms == 0 ? "off" : "\(ms)ms"] }
    if let tls = wish.tls { list += ["--tls-cert", tls.cert, "--tls-key", tls.key] }
    // Whom it served from before it ended, until it is told: nobody needs to be turned away in between.
    for replica in snapshot?.replicas ?? [] where replica.state == .ready {
      list += ["--replica", "\(replica.address);weight=\(replica.weight)"]
    }
    return list
  }
}

// MARK: - While it reports

extension ProxyHandle {
  /// Until its stream of reports ends, which is when it does.
  private func serve() async {
    let pushing = Task.detached { await self.pushWhatIsWanted() }
    defer { pushing.cancel() }
    do {
      let (reply, body) = try await HttpClient.stream(
        HttpRequest("GET", "/v1/reports?interval_ms=\(Self.reportMs)"), to: process.socket,
        connectTimeout: Self.answerSeconds, silence: Self.silenceMax)
      guard reply.status == 200 else { throw HttpError(.protocol, "status \(reply.status)") }
      var reader = ReportReader()
      for try await bytes in body {
        for report in try reader.feed(bytes) { take(report) }
      }
    } catch {
      if !Task.isCancelled, wanted.withLock({ $0.runs }) != false { note(.warning, "reports ended: \(error)") }
    }
  }

  private func take(_ report: Report) {
    switch report {
    case .interval(let it):
      process.writeAgain()
      if it.arrivals > 0 {
        // Its clock is the wall's; ours is not.
        let at = Double(it.timeMs) / 1000 - HostClock.wall + handles.clock.now
        tell.yield(.arrivals(Arrivals(at: at, count: Int(clamping: it.arrivals))))
      }
      var inFlight: [Int: Int] = [:]
      for replica in it.replicas where replica.inFlight > 0 {
        if let id = Int(replica.id) { inFlight[id] = replica.inFlight }
      }
      let counts = inFlight
      let isNew = seen.withLock { seen in
        seen.streamVersion = max(seen.streamVersion, it.version)
        // Of before the last push, which has told more.
        guard it.version >= seen.version else { return false }
        seen.version = it.version
        seen.inFlight = counts
        return true
      }
      if isNew { tellSeen() }
    case .applied(let version):
      seen.withLock { $0.streamVersion = max($0.streamVersion, version) }
    case .draining(let name, _, let inFlight):
      guard let id = Int(name) else { return }
      let isNew = seen.withLock { seen in
        guard seen.streamVersion >= seen.version else { return false }
        seen.inFlight[id] = inFlight > 0 ? inFlight : nil
        return true
      }
      if isNew { tellSeen() }
    case .refused(let name, _, _), .ejected(let name, _, _):
      if let id = Int(name) { tell.yield(.suspicion(replica: id)) }
    case .restored, .unknown: break
    }
  }

  /// Settings first: a proxy that was found may have others than its service wants by now. One it does not take keeps
  /// no list of replicas from it.
  private func pushWhatIsWanted() async {
    var endings = 0
    var settled: ProxyWish?
    var told: String?
    while !Task.isCancelled {
      let wanted = wanted.withLock { $0 }
      if wanted.runs == false {
        endings += 1
        await end(attempt: endings)
        continue
      }
      var problem: String?
      if wanted.wish != settled {
        do throws(HttpError) {
          try await put("/v1/settings", wanted.wish.settings.encode())
          settled = wanted.wish
        } catch { problem = error.description }
      }
      if let snapshot = wanted.snapshot, snapshot.version > seen.withLock({ $0.version }) {
        do throws(HttpError) {
          try await put("/v1/replicas", snapshot.encode())
          try await refresh(isNew: false)
        } catch { problem = error.description }
      }
      if Task.isCancelled { return }
      if problem != told {
        if let problem { note(.error, "does not take what it is told: \(problem)") }
        tell.yield(.refusal(problem))
        told = problem
      }
      await push.wait(until: problem == nil ? nil : handles.clock.now + Self.pushAgain, handles.clock)
    }
  }

  private func put(_ path: String, _ body: [UInt8]) async throws(HttpError) {
    let reply = try await HttpClient.send(
      HttpRequest("PUT", path, body: Data(body)), to: process.socket, timeout: Self.answerSeconds, bodyMax: 1 << 20)
    if reply.status == 200 { return }
    let words = (try? ErrorAnswer.decode(Array(reply.body)))?.error ?? "status \(reply.status)"
    throw HttpError(.protocol, "\(path): \(words)")
  }
}

extension ProxyWish {
  /// The original's timeout bounds every wait of a request. Only silence within a body is bounded by it here: a model
  /// may well think longer than that before it says its first word, and connecting to a replica takes no such time.
  var timeouts: [(ProxySettings.Timeout, UInt64)] {
    if streamTimeout <= 0 { return [(.stream, 0)] }
    let range = ProxySettings.Timeout.stream.range
    let ms = min(max(streamTimeout * 1000, Double(range.lowerBound)), Double(range.upperBound))
    return [(.stream, UInt64(clamping: ms))]
  }

  var settings: ProxySettings {
    ProxySettings(
      tls: tls.map { .on(cert: $0.cert, key: $0.key) } ?? .off,
      timeoutsMs: Dictionary(uniqueKeysWithValues: timeouts))
  }
}

extension ProxySettings.Timeout {
  /// `--stream-timeout`
  fileprivate var flag: String { "--" + rawValue.dropLast("_ms".count).replacing("_", with: "-") }
}
