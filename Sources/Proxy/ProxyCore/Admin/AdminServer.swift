// The admin API: one thread that polls its sockets, owns the membership and reads everybody's counters. The workers
// neither wait for it nor know it: lists go in through the load board, counts are read where they lie.
//
//   PUT /v1/replicas   the list of replicas          GET /v1/reports       counts and events as they come
//   GET /v1/replicas   what became of it             GET /v1/connections   what every socket does
//   GET, PUT /v1/settings  deadlines and TLS         POST /v1/drain        finish and end
//   GET /metrics, GET /healthz

import Glibc
import ProxyWire
import Synchronization

/// What the admin API asks of the rest of the process. Called on its thread; must not wait.
package struct AdminActions: Sendable {
  /// Take no new work, finish what there is, end.
  package var drain: @Sendable () -> Void
  package var isDraining: @Sendable () -> Bool
  /// Access log lines that could not be written.
  package var logLinesLost: @Sendable () -> UInt64
  /// A snapshot has named another policy. Called only where the membership lets policies change.
  package var choosePolicy: @Sendable (PolicyName) -> Void
  package var settings: @Sendable () -> ProxySettings
  /// Makes a change, all of it or nothing, and gives what is in force then.
  package var changeSettings: @Sendable (ProxySettings) throws(SettingsRefusal) -> ProxySettings
  /// What the TLS threads have counted, and when the certificate expires (seconds since 1970; nil without one).
  package var tls: @Sendable () -> (counters: TlsCounters, expiresAt: Int64?)
  /// Whether names of --replica lead to replicas by more than one way, and what to do when some of these refuse.
  package var hasOtherWays: @Sendable () -> Bool
  package var tryOtherWays: @Sendable (_ ids: [String]) -> Void

  package init(
    drain: @escaping @Sendable () -> Void = {}, isDraining: @escaping @Sendable () -> Bool = { false },
    logLinesLost: @escaping @Sendable () -> UInt64 = { 0 },
    choosePolicy: @escaping @Sendable (PolicyName) -> Void = { _ in },
    settings: @escaping @Sendable () -> ProxySettings = { ProxySettings() },
    changeSettings: @escaping @Sendable (ProxySettings) throws(SettingsRefusal) -> ProxySettings = {
      change throws(SettingsRefusal) in change
    },
    tls: @escaping @Sendable () -> (counters: TlsCounters, expiresAt: Int64?) = { (TlsCounters(), nil) },
    hasOtherWays: @escaping @Sendable () -> Bool = { false },
    tryOtherWays: @escaping @Sendable ([String]) -> Void = { _ in }
  ) {
    self.drain = drain
    self.isDraining = isDraining
    self.logLinesLost = logLinesLost
    self.choosePolicy = choosePolicy
    self.settings = settings
    self.changeSettings = changeSettings
    self.tls = tls
    self.hasOtherWays = hasOtherWays
    self.tryOtherWays = tryOtherWays
  }
}

/// Everything that is not atomic or behind a lock is set before `start`, and the admin thread's own until `stop` has
/// joined it.
package final class AdminServer: @unchecked Sendable {
  /// No descriptors were left for a client: it waits this long.
  private static let starvedNs: UInt64 = 100_000_000
  private static let resolvedAgainNs: UInt64 = 5_000_000_000
  private static let connectionsShown = 1000

  private let endpoints: [Endpoint]
  /// Names that clients of a TCP port may call it by.
  private let hosts: Set<String>
  private let limits: AdminLimits
  private let board: LoadBoard
  private let membership: Membership
  private let workers: [WorkerView]
  private let actions: AdminActions
  private let reportIntervalNs: UInt64
  private let startedAt = monotonicNanoseconds()
  private let stopping = Atomic<Bool>(false)
  /// What the resolver found last, until the thread takes it.
  private let resolved = Mutex<[ReplicaEntry]?>(nil)
  /// What was found and not taken (places are still held) is taken then.
  private var resolvedAgainAt = UInt64.max

  private let waker = WakeHandle()
  /// Where the board's bell is heard; -1 before `start`.
  private var bellEnd: Int32 = -1
  private var thread: ControlThread?
  private var listeners: [AdminListener] = []
  // The thread's own.
  private var connections: [AdminConnection] = []
  private var fields: FieldTable
  private let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
  private var events: ReportEvents
  private var told: ToldArrivals
  /// Events are looked for: somebody wants to know.
  private var isLooking = false
  private var acceptAt: UInt64 = 0

  /// - Parameters:
  ///   - endpoints: unix:PATH (full control) and loopback addresses (read-only); may be none.
  ///   - membership: the admin thread's own from `start` on; its board and counters are the ones that are shown.
  ///   - workers: their slot tables, for GET /v1/connections.
  ///   - hosts: what clients of a port may call it, besides localhost and loopback addresses; see `HostName.folded`.
  package init(
    endpoints: [Endpoint], membership: Membership, workers: [WorkerView], hosts: [String] = [],
    reportIntervalNs: UInt64 = 1_000_000_000, limits: AdminLimits = AdminLimits(),
    actions: AdminActions = AdminActions()
  ) {
    self.endpoints = endpoints
    self.hosts = Set(hosts)
    self.limits = limits
    fields = FieldTable.allocate(capacity: limits.fields)
    self.membership = membership
    board = membership.board
    self.workers = workers
    self.reportIntervalNs = reportIntervalNs
    self.actions = actions
    events = ReportEvents(membership)
    told = ToldArrivals(now: startedAt)
  }

  deinit {
    fields.deallocate()
    scratch.deallocate()
    close(waker.fd)
    if bellEnd >= 0 { close(bellEnd) }
  }

  /// Where it listens, with the ports the kernel chose.
  package var listening: [Endpoint] { listeners.map(\.endpoint) }

  /// Returns when every endpoint is listened on.
  package func start() throws(AdminError) {
    do throws(AdminError) {
      guard waker.fd >= 0, hangBell() else {
        throw AdminError("no descriptors are left; raise the limit (ulimit -n)")
      }
      for endpoint in endpoints { listeners.append(try AdminListener.open(endpoint)) }
      thread = ControlThread.start("sky-admin") { [self] in run() }
      if thread == nil { throw AdminError("no room for the admin thread; raise the limit (ulimit -u)") }
    } catch {
      closeListeners()
      throw error
    }
  }

  private func hangBell() -> Bool {
    var ends: (Int32, Int32) = (-1, -1)
    let type = SocketType.stream | SocketType.closeOnExec | SocketType.nonBlocking
    let made = withUnsafeMutableBytes(of: &ends) {
      socketpair(AF_UNIX, type, 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    guard made == 0 else { return false }
    bellEnd = ends.0
    board.shared.pointee.bell.connect(ends.1)
    return true
  }

  /// Ends the thread and closes everything, also answers under way.
  package func stop() {
    guard let thread else { return }
    stopping.store(true, ordering: .releasing)
    waker.wake()
    thread.join()
    self.thread = nil
    closeListeners()
  }

  /// From any thread: replicas as --replica and the look-ups of names give them.
  package func offer(standalone entries: [ReplicaEntry]) {
    resolved.withLock { $0 = entries }
    waker.wake()
  }

  private func closeListeners() {
    for listener in listeners { listener.close() }
    listeners = []
  }
}

// MARK: - The thread

extension AdminServer {
  private func run() {
    var watched: [pollfd] = []
    while !stopping.load(ordering: .acquiring) {
      watched.removeAll(keepingCapacity: true)
      watched.append(pollfd(fd: waker.fd, events: Int16(POLLIN), revents: 0))
      watched.append(pollfd(fd: bellEnd, events: Int16(POLLIN), revents: 0))
      let before = monotonicNanoseconds()
      for listener in listeners {
        // A negative descriptor is passed over (man 2 poll).
        watched.append(pollfd(fd: before < acceptAt ? -1 : listener.fd, events: Int16(POLLIN), revents: 0))
      }
      for connection in connections {
        watched.append(pollfd(fd: connection.fd, events: connection.interest, revents: 0))
      }
      _ = poll(&watched, nfds_t(watched.count), timeout(before))

      let now = monotonicNanoseconds()
      if watched[0].revents != 0 {
        waker.clear()
        takeResolved(now)
      }
      if watched[1].revents != 0 { while recv(bellEnd, scratch.baseAddress, scratch.count, 0) > 0 {} }
      if now >= resolvedAgainAt { takeResolved(now) }
      let known = connections
      for (connection, polled) in zip(known, watched[(2 + listeners.count)...]) where polled.revents != 0 {
        serve(connection, now)
      }
      for (listener, polled) in zip(listeners, watched[2...]) where polled.revents != 0 { accept(from: listener, now) }
      report(now)
      for connection in connections where now >= connection.deadline {
        connection.expire(now: now)
        if connection.state != .closed, !connection.flush(now: now) { connection.close() }
      }
      connections.removeAll { $0.state == .closed }
    }
    for connection in connections { connection.close() }
    connections = []
  }

  /// Milliseconds until something is due; -1: nothing is.
  private func timeout(_ now: UInt64) -> Int32 {
    var next = min(isLooking ? events.lookAt : .max, resolvedAgainAt)
    if now < acceptAt { next = min(next, acceptAt) }
    for connection in connections {
      next = min(next, connection.deadline, connection.subscription?.nextAt ?? .max)
    }
    if next == .max { return -1 }
    // Rounded up: waking early would be waking twice.
    return next <= now ? 0 : Int32(clamping: (next - now + 999_999) / 1_000_000)
  }

  private func accept(from listener: AdminListener, _ now: UInt64) {
    while let client = listener.accept() {
      if client.isStarved {
        acceptAt = now + AdminServer.starvedNs
        return
      }
      let connection = AdminConnection(client.fd, listener.access, limits, now: now)
      if !listener.admits(client.fd) {
        connection.reply(
          .error(403, "this socket serves the user the proxy runs as, and root; ask as one of them"), closes: true,
          now: now)
      } else if connections.count >= limits.connections {
        connection.reply(
          .error(503, "all \(limits.connections) admin connections are in use; close some"), closes: true,
          now: now)
      }
      connections.append(connection)
      serve(connection, now)
      // Those that are refused are told so and lingered on, but not without end.
      if connections.count >= 2 * limits.connections {
        connection.close()
        connections.removeLast()
      }
    }
  }

  private func serve(_ connection: AdminConnection, _ now: UInt64) {
    var isThere =
      connection.state != .closed && connection.flush(now: now) && connection.receive(through: scratch, now: now)
    while isThere, let request = connection.nextRequest(&fields, now: now) {
      answer(request, connection, now)
      isThere = connection.flush(now: now)
    }
    if !isThere || !connection.flush(now: now) || connection.isDone { connection.close() }
  }

  private func takeResolved(_ now: UInt64) {
    let entries = resolved.withLock { waiting in
      defer { waiting = nil }
      return waiting
    }
    resolvedAgainAt = .max
    guard let entries else { return }
    report(now)
    do throws(SnapshotRefusal) {
      _ = try membership.apply(standalone: entries, now: now)
      report(now)
    } catch {
      say("the replicas found by looking names up are not taken yet: \(error)")
      // Unless others have been found meanwhile.
      resolved.withLock { $0 = $0 ?? entries }
      resolvedAgainAt = now + AdminServer.resolvedAgainNs
    }
  }
}

// MARK: - Reports

extension AdminServer {
  /// Events and intervals that are due, to every subscriber.
  private func report(_ now: UInt64) {
    let subscribers = connections.filter { $0.subscription != nil && $0.state == .streaming }
    // A controller's list has addresses, and what becomes of them is the controller's concern.
    let ownNames = membership.version == nil && actions.hasOtherWays()
    guard !subscribers.isEmpty || ownNames else {
      if isLooking { board.shared.pointee.bell.disarm() }
      isLooking = false
      return
    }
    beginLooking()
    var found = events.look(now: now)
    if events.lookAt == .max {
      // From here on news wakes us; what came just before is there to be seen.
      board.shared.pointee.bell.arm()
      found += events.look(now: now)
    }
    if ownNames {
      let refusing = found.compactMap { if case .refused(let id, _, _) = $0 { id } else { nil } }
      if !refusing.isEmpty { actions.tryOtherWays(refusing) }
    }
    let lines = found.flatMap { $0.encode() }
    for subscriber in subscribers {
      var isUp = lines.isEmpty || subscriber.stream(lines, now: now)
      if isUp, let due = subscriber.subscription?.nextAt, now >= due,
        let line = subscriber.subscription?.interval(membership, &told, now: now)
      {
        isUp = subscriber.stream(line.encode(), now: now)
      }
      if !isUp {
        say("a reader of /v1/reports was dropped: more than \(limits.backlogBytes) bytes behind")
        subscriber.close()
      } else if !subscriber.flush(now: now) {
        subscriber.close()
      }
    }
  }

  private func beginLooking() {
    if !isLooking { events.begin() }
    isLooking = true
  }

  private func subscribe(_ intervalNs: UInt64, _ request: AdminRequest, _ connection: AdminConnection, _ now: UInt64) {
    beginLooking()
    connection.beginStream(isHTTP10: request.isHTTP10, now: now)
    var subscription = ReportSubscription(intervalNs: intervalNs, membership, told, now: now)
    var lines = subscription.interval(membership, &told, now: now).encode()
    for report in events.standing() { lines += report.encode() }
    connection.subscription = subscription
    _ = connection.stream(lines, now: now)
  }
}

// MARK: - Answers

extension AdminServer {
  private enum Answer {
    case reply(AdminReply)
    /// An endless one: lines of counts at an interval, and of events.
    case reports(intervalNs: UInt64)
  }

  private struct Route {
    let path: String
    let method: String
    let answer: (AdminServer, AdminRequest, UInt64) throws(AdminError) -> Answer
  }

  private static var routes: [Route] {
    [
      Route(path: "/v1/replicas", method: "GET") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return .reply(server.replicas())
      },
      Route(path: "/v1/replicas", method: "PUT") { server, request, now throws(AdminError) in
        try request.refuseParameters()
        return .reply(server.apply(request.body, now))
      },
      Route(path: "/v1/reports", method: "GET") { server, request, _ throws(AdminError) in
        let given = try request.number(
          "interval_ms", in: 10...3_600_000, missing: Int(server.reportIntervalNs / 1_000_000))
        return .reports(intervalNs: UInt64(given) * 1_000_000)
      },
      Route(path: "/v1/connections", method: "GET") { server, request, now throws(AdminError) in
        let limit = try request.number("limit", in: 0...1_000_000, missing: AdminServer.connectionsShown)
        let names = server.membership.names.table
        return .reply(
          AdminReply(200, Introspection.connections(of: server.workers, names: names, now: now, limit: limit)))
      },
      Route(path: "/v1/settings", method: "GET") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return .reply(.json(200, server.actions.settings().encode()))
      },
      Route(path: "/v1/settings", method: "PUT") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return .reply(server.change(request.body))
      },
      Route(path: "/v1/drain", method: "POST") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        server.actions.drain()
        return .reply(.json(202, HealthAnswer.draining.encode()))
      },
      Route(path: "/metrics", method: "GET") { server, _, now throws(AdminError) in
        .reply(AdminReply(200, type: "text/plain; version=0.0.4; charset=utf-8", server.metrics(now)))
      },
      Route(path: "/healthz", method: "GET") { server, _, _ throws(AdminError) in
        server.actions.isDraining()
          ? .reply(.json(503, HealthAnswer.draining.encode())) : .reply(.json(200, HealthAnswer.ok.encode()))
      },
    ]
  }

  private func answer(_ request: AdminRequest, _ connection: AdminConnection, _ now: UInt64) {
    let answer: Answer
    do throws(AdminError) { answer = try chosenAnswer(request, connection.access, now) } catch {
      answer = .reply(.error(400, error.description))
    }
    switch answer {
    case .reply(let reply):
      connection.reply(reply, closes: !request.keepAlive, isHead: request.method == "HEAD", now: now)
    case .reports(let intervalNs): subscribe(intervalNs, request, connection, now)
    }
  }

  private func chosenAnswer(
    _ request: AdminRequest, _ access: AdminAccess, _ now: UInt64
  ) throws(AdminError) -> Answer {
    if let refusal = refusal(of: request, access) { return .reply(refusal) }
    let routes = AdminServer.routes
    let there = routes.filter { $0.path == request.path }
    if there.isEmpty {
      let paths = routes.map(\.path)
      let known = paths.indices.filter { paths.firstIndex(of: paths[$0]) == $0 }.map { paths[$0] }
      return .reply(
        .error(
          404,
          "there is no \(quoted(request.path))\(didYouMean(request.path, among: known)); there are "
            + known.joined(separator: ", ")))
    }
    guard let route = there.first(where: { $0.method == request.method }) else {
      let allowed = there.map(\.method).joined(separator: ", ")
      return .reply(
        .error(405, "\(request.path) takes \(allowed), not \(quoted(request.method))", fields: "Allow: \(allowed)\r\n"))
    }
    return try route.answer(self, request, now)
  }

  /// What a client may not have, whatever it asks for.
  private func refusal(of request: AdminRequest, _ access: AdminAccess) -> AdminReply? {
    let onlyLooks = request.method == "GET" || request.method == "HEAD"
    if access == .readOnly {
      // A web page can give this machine a name of its own (DNS rebinding) and then read what it asks for; but the
      // browser says that name. RFC 9110 15.5.20: 421.
      guard HostName.isLoopback(request.host) || hosts.contains(request.host) else {
        let name = request.host.isEmpty ? "a request without Host" : quoted(request.host)
        return .error(
          421, "this port answers to localhost, loopback addresses and the names of --admin-host, not to \(name)")
      }
      guard request.method == "GET" else {
        return .error(403, "this listener is read-only: it takes GET alone; use the unix: socket of --admin")
      }
    }
    // No page can reach a Unix socket; it may reach whatever somebody has put before one.
    if !onlyLooks, request.isOfPage {
      return .error(403, "this is a web page's request (Origin, Sec-Fetch-Site), and pages may change nothing here")
    }
    return nil
  }

  private func apply(_ body: [UInt8], _ now: UInt64) -> AdminReply {
    let snapshot: ReplicaSnapshot
    do throws(JsonError) { snapshot = try ReplicaSnapshot.decode(body) } catch {
      return .error(400, error.description)
    }
    // First what was before this list: it may forget replicas whose last event is not told yet.
    report(now)
    let policy = membership.policy
    do throws(SnapshotRefusal) {
      let applied = try membership.apply(snapshot, now: now)
      if membership.policy != policy { actions.choosePolicy(membership.policy) }
      report(now)
      return .json(
        200,
        AppliedAnswer(
          version: applied.version, replicas: applied.replicas, added: applied.added, removed: applied.removed
        ).encode())
    } catch {
      return .error(error.status, error.description, version: error.status == 409 ? membership.version : nil)
    }
  }

  private func change(_ body: [UInt8]) -> AdminReply {
    let change: ProxySettings
    do throws(JsonError) { change = try ProxySettings.decode(body) } catch { return .error(400, error.description) }
    do throws(SettingsRefusal) { return .json(200, try actions.changeSettings(change).encode()) } catch {
      return .error(400, error.text)
    }
  }

  private func replicas() -> AdminReply {
    let list = ReplicaList(
      version: membership.version ?? 0, policy: membership.policy,
      replicas: membership.listed.map { member in
        let counts = membership.total(member)
        return ReplicaStatus(
          entry: member.entry, status: membership.state(of: member), inFlight: Int(membership.inFlight(member)),
          counters: ProxyWire.ReplicaCounters(counts), failures: StageFailures(counts))
      })
    return .json(200, list.encode())
  }

  private func metrics(_ now: UInt64) -> [UInt8] {
    let tls = actions.tls()
    return MetricsPage.render(
      membership,
      MetricsFacts(
        startedAt: startedAt, now: now, logLinesLost: actions.logLinesLost(), isDraining: actions.isDraining(),
        tls: tls.counters, certificateExpiresAt: tls.expiresAt))
  }
}
