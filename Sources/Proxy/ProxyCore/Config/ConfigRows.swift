// The table of flags. A new flag is one row here and one value in ProxyConfig.

import ProxyWire

extension ConfigRow {
  private static let us = ConfigUnits.microsecond
  private static let ms = ConfigUnits.millisecond
  private static let s = ConfigUnits.second
  private static let h = ConfigUnits.hour

  static let all: [ConfigRow] = [
    // MARK: Listening
    ConfigRow(
      .listening, "listen", .listener(\.listen), "127.0.0.1:8080",
      """
      Where clients connect: ADDR:PORT, :PORT for every IPv4 address, [::]:PORT for every address, unix:PATH. Port 0 \
      lets the kernel choose.
      """),
    ConfigRow(
      .listening, "admin", .admin(\.admin), nil,
      """
      Where the admin API listens: unix:PATH gives full control to this user, 127.0.0.1:PORT (loopback only) is \
      read-only. Without it there is none.
      """),
    ConfigRow(
      .listening, "admin-host", .hostNames(\.adminHosts), nil,
      """
      A further name that clients of --admin 127.0.0.1:PORT may call it by in Host, besides localhost and loopback \
      addresses: whatever else they ask for gets 421, as it may be a web page with a name of its own for this machine.
      """),
    ConfigRow(
      .listening, "workers", .count(\.workers, 0...256, zero: "one per core"), "0",
      "Threads, each with its own ring and its share of the connections."),
    ConfigRow(
      .listening, "tls-cert", file(\.tlsCert), nil,
      """
      A certificate with its chain (PEM): every address of --listen speaks TLS, and TLS alone. SIGHUP reads it again; \
      PUT /v1/settings changes it while the proxy serves.
      """),
    ConfigRow(
      .listening, "tls-key", file(\.tlsKey), nil,
      "The certificate's private key (PEM, without a passphrase)."),
    ConfigRow(
      .listening, "tls-threads", .count(\.tlsThreads, 0...256, zero: "as many as workers"), "0",
      "Threads that speak TLS for the workers. They start with the first certificate."),

    // MARK: Replicas and routing
    ConfigRow(
      .routing, "replica", .replica(\.replicas), nil,
      """
      A server to send requests to: HOST:PORT or unix:PATH, then options as in 10.0.0.7:8080;weight=2;max_in_flight=8. \
      A name is resolved at start and every resolve-interval. A controller's list replaces these.
      """),
    ConfigRow(
      .routing, "policy", .choice(\.policy), "least_load",
      """
      How a replica is chosen: the one with the fewest requests in flight for its weight, each in turn, or by load \
      relative to what each kind of instance can take.
      """),
    ConfigRow(
      .routing, "max-in-flight", .count(\.maxInFlight, 0...ReplicaEntry.maxInFlightMax, zero: "no limit"), "0",
      "Requests one replica may have at once, where its own max_in_flight does not say otherwise."),
    ConfigRow(
      .routing, "queue-size", .count(\.queueSize, 0...1_000_000, zero: "refuse at once"), "1024",
      "Requests of the whole process that may wait for a replica below its limit. Further ones get 503."),
    ConfigRow(
      .routing, "resolve-interval", .duration(\.resolveIntervalNs, s...24 * h, zero: "only at start"), "30s",
      "How often the names of replicas are looked up again."),
    ConfigRow(
      .routing, "max-replicas", .count(\.maxReplicas, 1...65_536), "16384",
      "Room for replicas, taken at start."),
    ConfigRow(
      .routing, "pool-size", .count(\.poolSize, 0...65_536, zero: "keep none"), "256",
      "Idle connections that each worker keeps to one replica."),

    // MARK: Limits
    ConfigRow(
      .limits, "max-connections", .count(\.maxConnections, 1...65_536), "10000",
      "Client connections of the whole process. Further ones are turned away."),
    ConfigRow(
      .limits, "max-head-bytes", .size(\.maxHeadBytes, 1 << 10...64 << 10), "64k",
      "The longest request or response head. A longer request head gets 431."),
    ConfigRow(
      .limits, "max-target-bytes", .size(\.maxTargetBytes, 64...64 << 10), "16k",
      "The longest request target (path and query). A longer one gets 414."),
    ConfigRow(
      .limits, "max-fields", .count(\.maxFields, 16...1024), "256",
      "Header fields in one head. A request with more gets 431."),
    ConfigRow(
      .limits, "max-body-bytes", .size(\.maxBodyBytes, 1...1 << 40, zero: "no limit"), "0",
      "The longest request body. A longer one gets 413."),

    // MARK: Deadlines
    ConfigRow(
      .deadlines, "queue-timeout", .timeout(.queue), "30s",
      "How long a request waits in the queue before it gets 503."),
    ConfigRow(
      .deadlines, "head-timeout", .timeout(.head), "10s",
      "From a request's first byte to the end of its head; then 408."),
    ConfigRow(
      .deadlines, "idle-timeout", .timeout(.idle), "75s",
      "How long a client connection is kept open between requests."),
    ConfigRow(
      .deadlines, "connect-timeout", .timeout(.connect), "5s",
      "How long a connection to a replica may take to come about; then another replica is tried."),
    ConfigRow(
      .deadlines, "response-timeout", .timeout(.response), "1h",
      "From the end of the request to the response head; then 504."),
    ConfigRow(
      .deadlines, "stream-timeout", .timeout(.stream), "10m",
      "The longest silence between the bytes of a body, in either direction."),
    ConfigRow(
      .deadlines, "tunnel-timeout", .timeout(.tunnel), "1h",
      "The longest silence in an upgraded connection (WebSocket)."),
    ConfigRow(
      .deadlines, "drain-timeout", .timeout(.drain), "30s",
      "How long open requests may go on after SIGTERM."),
    ConfigRow(
      .deadlines, "drain-deadline", .duration(\.drainDeadlineNs, ms...24 * h, zero: "no deadline"), "2m",
      """
      How long a replica that a controller's list leaves out may keep its open requests; then they are ended. A \
      replica's own drain_deadline (seconds) takes the place of this, and counts from when it began to drain.
      """),
    ConfigRow(
      .deadlines, "pool-idle-timeout", .timeout(.poolIdle), "3s",
      """
      How long an idle connection to a replica is kept. Stay below the replica's own limit: uvicorn closes after 5 s, \
      and a request sent at that moment may be lost.
      """),
    ConfigRow(
      .deadlines, "linger-timeout", .duration(\.lingerTimeoutNs, 10 * ms...ConfigUnits.minute, zero: "close at once"),
      "5s",
      """
      The longest silence while a connection that was answered for the last time is read on, so that its client sees \
      the answer before the connection goes.
      """),
    ConfigRow(
      .deadlines, "linger-total", .duration(\.lingerTotalNs, 10 * ms...h, zero: "close at once"), "30s",
      "How long such a connection is read on at most, however much its client sends."),
    ConfigRow(
      .deadlines, "tcp-keepalive", .duration(\.tcpKeepaliveNs, s...h, zero: "no probes"), "30s",
      """
      A connection to a client or replica on which nothing has come for so long is probed, so that a peer that has \
      vanished is noticed and middleboxes do not forget it.
      """),
    ConfigRow(
      .deadlines, "tcp-user-timeout", .duration(\.tcpUserTimeoutNs, s...h, zero: "the kernel's"), "60s",
      "How long what was sent to a client or replica, probes too, may stay unacknowledged before its connection is given up."
    ),
    ConfigRow(
      .deadlines, "half-close-grace", .duration(\.halfCloseGraceNs, us...ConfigUnits.minute, zero: "none"), "10ms",
      "A client that closes its sending side this soon after its request has said all it wants and is answered."),
    ConfigRow(
      .deadlines, "client-half-close", .choice(\.clientHalfClose), "leave",
      """
      What it means when a client closes its sending side later than that: that it has left, so that its request is \
      given up and the model stops, or that it waits for the answer.
      """),

    // MARK: Retries and ejection
    ConfigRow(
      .retries, "max-attempts", .count(\.maxAttempts, 1...5), "3",
      "How many replicas one request may be sent to. It is sent again only where that cannot execute it twice."),
    ConfigRow(
      .retries, "retry-budget", .count(\.retryBudgetPercent, 0...100, zero: "never re-send", unit: "percent"), "20",
      "How many of the requests may be re-sends, so that a failing service is not flooded."),
    ConfigRow(
      .retries, "retry-burst", .count(\.retryBurst, 0...1_000_000, zero: "none"), "1000",
      "Re-sends saved up at most while all goes well."),
    ConfigRow(
      .retries, "eject-after", .count(\.ejectAfter, 0...1000, zero: "never"), "3",
      """
      Failures in a row, before a response head, that take a replica out of the choice for a while. A refused \
      connection does so at once.
      """),
    ConfigRow(
      .retries, "eject-5xx", .count(\.eject5xx, 0...1000, zero: "never"), "5",
      """
      Answers of 500, 502, 503 or 504 in a row that take a replica out of the choice for a while, as long as another \
      replica does well. The client gets the answer as it is.
      """),
    ConfigRow(
      .retries, "eject-min", .duration(\.ejectMinNs, ms...h), "250ms",
      "How long the first ejection lasts; each further one doubles."),
    ConfigRow(
      .retries, "eject-max", .duration(\.ejectMaxNs, ms...h), "8s",
      "The longest ejection."),

    // MARK: Memory
    ConfigRow(
      .memory, "buffers", .count(\.buffers, 64...32_768, .powerOfTwo), "1024",
      "Receive buffers that each worker lends to the kernel."),
    ConfigRow(
      .memory, "buffer-size", .size(\.bufferSize, 4 << 10...256 << 10, .multiple(of: 4 << 10)), "64k",
      "The size of one such buffer."),
    ConfigRow(
      .memory, "stream-window", .size(\.streamWindow, 16 << 10...64 << 20), "512k",
      "How far a sender may be ahead of a slow reader in one stream before it is made to wait."),
    ConfigRow(
      .memory, "spill-memory", .size(\.spillMemory, 1 << 20...64 << 30, zero: "none"), "128m",
      """
      What each worker may hold for stalled readers besides its buffers, so that others always find one. When it is \
      full, those that have stalled longest are closed.
      """),
    ConfigRow(
      .memory, "send-buffer", .size(\.sendBuffer, 4 << 10...16 << 20, zero: "the kernel grows it"), "0",
      """
      The kernel's send buffer of each client connection, which counts toward no limit here: unbounded it grows to \
      megabytes for a client that is sent much and reads little.
      """),
    ConfigRow(
      .memory, "batch-wait", .duration(\.batchWaitNs, us...10 * ms, zero: "take every completion at once"), "0",
      "A worker under load waits up to this long to take several completions in one turn: more throughput, more delay."
    ),

    // MARK: Headers
    ConfigRow(
      .headers, "forwarded", .choice(\.forwarded), "replace",
      """
      What a client says about where a request comes from (X-Forwarded-..., X-Real-IP, Forwarded) is dropped and \
      X-Forwarded-For, -Proto and -Host are set (replace), or is believed and extended, which is right behind a proxy \
      of your own only (append), or passed as it is (off).
      """),
    ConfigRow(
      .headers, "via",
      .text(
        \.viaName, placeholder: "NAME", range: "a token of at most 64 characters, empty or off = no Via",
        takesEmpty: true, samples: ["edge-1", "", "off"], read: readViaName, show: { $0 }), "sky-proxy",
      "The name this proxy adds to the Via field."),
    ConfigRow(
      .headers, "request-id", .onOff(\.requestId), "on",
      "Gives every request without X-Request-Id one, in the request that goes on and in the access log."),

    // MARK: Observability
    ConfigRow(
      .observability, "access-log",
      .text(
        \.accessLog, placeholder: "PLACE", range: "off, - (standard output) or PATH",
        samples: ["off", "-", "/var/log/sky-proxy.log"], read: readAccessLogPlace, show: showAccessLogPlace), "off",
      "Where one line per request goes."),
    ConfigRow(
      .observability, "access-log-format", .choice(\.accessLogFormat), "json",
      "One JSON object per line, or key=value text."),
    ConfigRow(
      .observability, "access-log-query", .onOff(\.accessLogQuery), "off",
      "Whether the access log shows what follows the ? of a target, which may hold secrets."),
    ConfigRow(
      .observability, "report-interval", .duration(\.reportIntervalNs, 10 * ms...h), "1s",
      "How often GET /v1/reports on the admin API sends a line of counters."),

    // MARK: Other
    ConfigRow(
      .other, "config",
      file(\.configFile), nil,
      """
      Reads flags from a file of lines such as max-connections = 500; # begins a comment, repeatable flags may stand \
      on several lines.
      """, sources: [.arguments, .environment]),
    ConfigRow(
      .other, "print-plan", .toggle(\.printPlan), "off",
      "Prints what would be allocated and listened on, then exits."),
    ConfigRow(.other, "help", .answer, nil, "Prints this text.", sources: [.arguments]),
    ConfigRow(.other, "version", .answer, nil, "Prints the version.", sources: [.arguments]),
  ]

  /// A path; not looked at here.
  private static func file(_ place: ConfigKind.Place<String?>) -> ConfigKind {
    .text(
      place, placeholder: "FILE", samples: [],
      read: { text throws(ConfigProblem) in
        if text.isEmpty { throw ConfigProblem("needs the path of a file") }
        return text
      }, show: { $0 })
  }

  // RFC 9110 7.6.3: received-by is a pseudonym, a token.
  @Sendable private static func readViaName(_ text: String) throws(ConfigProblem) -> String {
    if text == "off" { return "" }
    let isToken = text.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        true
      default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
      }
    }
    guard isToken, text.utf8.count <= 64 else {
      throw ConfigProblem("\(quoted(text)) is not a name for Via; write at most 64 letters, digits, '-', '_' or '.'")
    }
    return text
  }

  @Sendable private static func readAccessLogPlace(_ text: String) throws(ConfigProblem) -> ProxyConfig.AccessLogPlace {
    switch text {
    case "off": return .off
    case "-": return .standardOutput
    case "": throw ConfigProblem("needs a place; write off, - (standard output) or a path")
    case "on": throw ConfigProblem("'on' names no place; write - (standard output) or a path (./on for a file 'on')")
    default: return .file(path: text)
    }
  }

  @Sendable private static func showAccessLogPlace(_ place: ProxyConfig.AccessLogPlace) -> String? {
    switch place {
    case .off: "off"
    case .standardOutput: "-"
    case .file(let path): path
    }
  }
}
