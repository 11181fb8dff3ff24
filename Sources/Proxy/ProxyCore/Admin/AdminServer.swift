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

  package init(
    drain: @escaping @Sendable () -> Void = {}, isDraining: @escaping @Sendable () -> Bool = { false },
    logLinesLost: @escaping @Sendable () -> UInt64 = { 0 },
    choosePolicy: @escaping @Sendable (PolicyName) -> Void = { _ in },
    settings: @escaping @Sendable () -> ProxySettings = { ProxySettings() },
    changeSettings: @escaping @Sendable (ProxySettings) throws(SettingsRefusal) -> ProxySettings = {
      change throws(SettingsRefusal) in change
    },
    tls: @escaping @Sendable () -> (counters: TlsCounters, expiresAt: Int64?) = { (TlsCounters(), nil) }
  ) {
    self.drain = drain
    self.isDraining = isDraining
    self.logLinesLost = logLinesLost
    self.choosePolicy = choosePolicy
    self.settings = settings
    self.changeSettings = changeSettings
    self.tls = tls
  }
}

package final class AdminServer: @unchecked Sendable {
  package static let connectionsMax = 64
  /// How often subscribers' events are looked for: well within the 20 ms they may take.
  private static let lookNs: UInt64 = 10_000_000
  /// No descriptors were left for a client: it waits this long.
  private static let starvedNs: UInt64 = 100_000_000
  private static let resolvedAgainNs: UInt64 = 5_000_000_000
  private static let connectionsShown = 1000

  private let endpoints: [Endpoint]
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
  private var thread: ControlThread?
  private var listeners: [AdminListener] = []
  // The thread's own.
  private var connections: [AdminConnection] = []
  private var fields = FieldTable.allocate(capacity: AdminRequestReader.fieldsMax)
  private let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
  private var events: ReportEvents
  private var told: ToldArrivals
  private var nextLook = UInt64.max
  private var acceptAt: UInt64 = 0

  /// - Parameters:
  ///   - endpoints: unix:PATH (full control) and loopback addresses (read-only); may be none.
  ///   - membership: the admin thread's own from `start` on; its board and counters are the ones that are shown.
  ///   - workers: their slot tables, for GET /v1/connections.
  package init(
    endpoints: [Endpoint], membership: Membership, workers: [WorkerView], reportIntervalNs: UInt64 = 1_000_000_000,
    actions: AdminActions = AdminActions()
  ) {
    self.endpoints = endpoints
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
  }

  /// Where it listens, with the ports the kernel chose.
  package var listening: [Endpoint] { listeners.map(\.endpoint) }

  /// Returns when every endpoint is listened on.
  package func start() throws(AdminError) {
    do throws(AdminError) {
      if waker.fd < 0 { throw AdminError("no descriptors are left; raise the limit (ulimit -n)") }
      for endpoint in endpoints { listeners.append(try AdminListener.open(endpoint)) }
      thread = ControlThread.start("sky-admin") { [self] in run() }
      if thread == nil { throw AdminError("no room for the admin thread; raise the limit (ulimit -u)") }
    } catch {
      closeListeners()
      throw error
    }
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
      if now >= resolvedAgainAt { takeResolved(now) }
      let known = connections
      for (connection, polled) in zip(known, watched[(1 + listeners.count)...]) where polled.revents != 0 {
        serve(connection, now)
      }
      for (listener, polled) in zip(listeners, watched[1...]) where polled.revents != 0 { accept(from: listener, now) }
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
    var next = min(nextLook, resolvedAgainAt)
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
      let connection = AdminConnection(client.fd, listener.access, now: now)
      if !listener.admits(client.fd) {
        connection.reply(
          .error(403, "this socket serves the user the proxy runs as, and root; ask as one of them"), closes: true,
          now: now)
      } else if connections.count >= AdminServer.connectionsMax {
        connection.reply(
          .error(503, "all \(AdminServer.connectionsMax) admin connections are in use; close some"), closes: true,
          now: now)
      }
      connections.append(connection)
      serve(connection, now)
      // Those that are refused are told so and lingered on, but not without end.
      if connections.count >= 2 * AdminServer.connectionsMax {
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
    guard nextLook != .max else { return }
    let subscribers = connections.filter { $0.subscription != nil && $0.state == .streaming }
    if subscribers.isEmpty {
      nextLook = .max
      return
    }
    let found = events.look(now: now)
    let lines = found.flatMap { $0.encode() }
    for subscriber in subscribers {
      var isUp = lines.isEmpty || subscriber.stream(lines, now: now)
      if isUp, let due = subscriber.subscription?.nextAt, now >= due,
        let line = subscriber.subscription?.interval(membership, &told, now: now)
      {
        isUp = subscriber.stream(line.encode(), now: now)
      }
      if !isUp {
        say("a reader of /v1/reports was dropped: more than \(AdminConnection.backlogMax) bytes behind")
        subscriber.close()
      } else if !subscriber.flush(now: now) {
        subscriber.close()
      }
    }
    nextLook = now + AdminServer.lookNs
  }

  private func subscribe(_ request: AdminRequest, _ connection: AdminConnection, _ now: UInt64) throws(AdminError) {
    let given = try request.number(
      "interval_ms", in: 10...3_600_000, missing: Int(reportIntervalNs / 1_000_000))
    if nextLook == .max {
      events.begin()
      nextLook = now + AdminServer.lookNs
    }
    connection.beginStream(isHTTP10: request.isHTTP10, now: now)
    var subscription = ReportSubscription(intervalNs: UInt64(given) * 1_000_000, membership, told, now: now)
    var lines = subscription.interval(membership, &told, now: now).encode()
    for report in events.standing() { lines += report.encode() }
    connection.subscription = subscription
    _ = connection.stream(lines, now: now)
  }
}

// MARK: - Answers

extension AdminServer {
  private struct Route {
    let path: String
    let method: String
    let answer: (AdminServer, AdminRequest, UInt64) throws(AdminError) -> AdminReply
  }

  /// GET /v1/reports stands apart: its answer does not end.
  private static var routes: [Route] {
    [
      Route(path: "/v1/replicas", method: "GET") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return server.replicas()
      },
      Route(path: "/v1/replicas", method: "PUT") { server, request, now throws(AdminError) in
        try request.refuseParameters()
        return server.apply(request.body, now)
      },
      Route(path: "/v1/reports", method: "GET") { _, _, _ throws(AdminError) in
        preconditionFailure("reports are streamed")
      },
      Route(path: "/v1/connections", method: "GET") { server, request, now throws(AdminError) in
        let limit = try request.number("limit", in: 0...1_000_000, missing: AdminServer.connectionsShown)
        return AdminReply(
          200,
          Introspection.connections(of: server.workers, names: server.membership.names.table, now: now, limit: limit))
      },
      Route(path: "/v1/settings", method: "GET") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return AdminServer.reply(server.actions.settings())
      },
      Route(path: "/v1/settings", method: "PUT") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        return server.change(request.body)
      },
      Route(path: "/v1/drain", method: "POST") { server, request, _ throws(AdminError) in
        try request.refuseParameters()
        server.actions.drain()
        return AdminReply(202, Array("{\"status\":\"draining\"}\n".utf8))
      },
      Route(path: "/metrics", method: "GET") { server, _, now throws(AdminError) in
        AdminReply(200, type: "text/plain; version=0.0.4; charset=utf-8", server.metrics(now))
      },
      Route(path: "/healthz", method: "GET") { server, _, _ throws(AdminError) in
        server.actions.isDraining()
          ? AdminReply(503, Array("{\"status\":\"draining\"}\n".utf8))
          : AdminReply(200, Array("{\"status\":\"ok\"}\n".utf8))
      },
    ]
  }

  private func answer(_ request: AdminRequest, _ connection: AdminConnection, _ now: UInt64) {
    do throws(AdminError) {
      if isForReports(request), connection.access == .full || request.method == "GET" {
        return try subscribe(request, connection, now)
      }
      connection.reply(
        try reply(request, connection.access, now), closes: !request.keepAlive, isHead: request.method == "HEAD",
        now: now)
    } catch {
      connection.reply(.error(400, error.description), closes: !request.keepAlive, now: now)
    }
  }

  private func isForReports(_ request: AdminRequest) -> Bool {
    request.path == "/v1/reports" && request.method == "GET"
  }

  private func reply(_ request: AdminRequest, _ access: AdminAccess, _ now: UInt64) throws(AdminError) -> AdminReply {
    if access == .readOnly, request.method != "GET" {
      return .error(403, "this listener is read-only: it takes GET alone; use the unix: socket of --admin")
    }
    let routes = AdminServer.routes
    let there = routes.filter { $0.path == request.path }
    if there.isEmpty {
      let paths = routes.map(\.path)
      let known = paths.indices.filter { paths.firstIndex(of: paths[$0]) == $0 }.map { paths[$0] }
      return .error(
        404,
        "there is no \(quoted(request.path))\(didYouMean(request.path, among: known)); there are "
          + known.joined(separator: ", "))
    }
    guard let route = there.first(where: { $0.method == request.method }) else {
      let allowed = there.map(\.method).joined(separator: ", ")
      return .error(
        405, "\(request.path) takes \(allowed), not \(quoted(request.method))", fields: "Allow: \(allowed)\r\n")
    }
    return try route.answer(self, request, now)
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
      var writer = JsonWriter()
      writer.beginObject()
      writer.member("version", applied.version)
      writer.member("applied", applied.version)
      writer.member("replicas", applied.replicas)
      writer.member("added", applied.added)
      writer.member("removed", applied.removed)
      writer.endObject()
      writer.newline()
      return AdminReply(200, writer.take())
    } catch {
      return .error(error.status, error.description, version: error.status == 409 ? membership.version : nil)
    }
  }

  private func change(_ body: [UInt8]) -> AdminReply {
    let change: ProxySettings
    do throws(JsonError) { change = try ProxySettings.decode(body) } catch { return .error(400, error.description) }
    do throws(SettingsRefusal) { return AdminServer.reply(try actions.changeSettings(change)) } catch {
      return .error(400, error.text)
    }
  }

  private static func reply(_ settings: ProxySettings) -> AdminReply {
    AdminReply(200, settings.encode() + [UInt8(ascii: "\n")])
  }

  /// What `ReplicaList` reads, and more for people: the present status, and failures by stage.
  private func replicas() -> AdminReply {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("version", membership.version ?? 0)
    writer.member("policy", membership.policy.rawValue)
    writer.key("replicas")
    writer.beginArray()
    for member in membership.listed {
      let state = membership.state(of: member)
      let counts = membership.total(member)
      let wire = ProxyWire.ReplicaCounters(counts)
      writer.beginObject()
      writer.member("id", member.entry.id)
      writer.member("generation", member.entry.generation)
      writer.member("address", member.entry.address.description)
      if let whole = Int(exactly: member.entry.weight) {
        writer.member("weight", whole)
      } else {
        writer.member("weight", member.entry.weight)
      }
      writer.member("max_in_flight", member.entry.maxInFlight)
      writer.member("state", member.entry.state.rawValue)
      if let deadline = member.entry.drainDeadline { writer.member("drain_deadline", deadline) }
      writer.member("status", state.rawValue)
      writer.member("in_flight", membership.inFlight(member))
      writer.member("ejected", state == .ejected)
      writer.member("requests", wire.requests)
      writer.member("responses_2xx", wire.responses2xx)
      writer.member("responses_3xx", wire.responses3xx)
      writer.member("responses_4xx", wire.responses4xx)
      writer.member("responses_5xx", wire.responses5xx)
      writer.member("failures", wire.failures)
      writer.member("connect_failures", wire.connectFailures)
      writer.member("broken", wire.broken)
      writer.member("client_gone", wire.clientGone)
      writer.member("connects", wire.connects)
      writer.member("bytes_sent", wire.bytesSent)
      writer.member("bytes_received", wire.bytesReceived)
      writer.key("failures_by_stage")
      writer.beginObject()
      writer.member("connect", counts.failConnect)
      writer.member("send", counts.failSend)
      writer.member("head", counts.failHead)
      writer.member("malformed", counts.failMalformed)
      writer.member("body", counts.failBody)
      writer.endObject()
      writer.endObject()
    }
    writer.endArray()
    writer.endObject()
    writer.newline()
    return AdminReply(200, writer.take())
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
