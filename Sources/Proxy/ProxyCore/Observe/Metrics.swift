// GET /metrics: all counts of the process as Prometheus reads them (text format 0.0.4). Called by the admin thread; the
// workers know nothing of it: their counters are plain words that are added up here.
//
// A new count of the process is one row of `processRows`, one of a replica one row of `replicaRows`.

import ProxyWire

/// What the page says beside the counters.
package struct MetricsFacts: Sendable {
  /// Monotonic nanoseconds.
  package var startedAt: UInt64
  package var now: UInt64
  package var buildVersion: String
  /// Access log lines that could not be written.
  package var logLinesLost: UInt64
  package var isDraining: Bool
  package var tls: TlsCounters
  /// Seconds since 1970; nil without TLS.
  package var certificateExpiresAt: Int64?

  package init(
    startedAt: UInt64, now: UInt64, buildVersion: String = ProxyVersion.text, logLinesLost: UInt64 = 0,
    isDraining: Bool = false, tls: TlsCounters = TlsCounters(), certificateExpiresAt: Int64? = nil
  ) {
    self.startedAt = startedAt
    self.now = now
    self.buildVersion = buildVersion
    self.logLinesLost = logLinesLost
    self.isDraining = isDraining
    self.tls = tls
    self.certificateExpiresAt = certificateExpiresAt
  }
}

package struct MetricsPage {
  fileprivate enum Kind: String, Sendable { case counter, gauge, histogram }

  fileprivate struct ProcessRow: Sendable {
    let name: StaticString
    let kind: Kind
    let help: StaticString
    let value: @Sendable (MetricsPage) -> UInt64
  }

  private struct ReplicaRow: Sendable {
    let name: StaticString
    let kind: Kind
    let help: StaticString
    /// Further labels, as in `,code="2xx"`, and their values.
    let values: [(labels: StaticString, of: @Sendable (Line) -> UInt64)]
  }

  private struct HistogramRow: Sendable {
    let name: StaticString
    let help: StaticString
    let kind: CounterSet.Kind
  }

  /// One replica of the page.
  private struct Line {
    /// `{replica="…"`, still open.
    var label: [UInt8]
    var index: Int
    var inFlight: UInt64
    var state: Member.State
    var counts: ReplicaCounters
  }

  private let board: LoadBoard
  private let counters: [CounterSet]
  fileprivate let facts: MetricsFacts
  fileprivate let workers: WorkerCounters
  private var lines: [Line] = []
  /// Of every place, those that are leaving included.
  private var inFlight: Int64 = 0

  package static func render(_ membership: Membership, _ facts: MetricsFacts) -> [UInt8] {
    MetricsPage(membership, facts).text()
  }

  private init(_ membership: Membership, _ facts: MetricsFacts) {
    board = membership.board
    counters = membership.counters
    self.facts = facts
    workers = sumWords(counters.map(\.worker))
    for place in 0..<board.count { inFlight += Int64(board.inFlight[place].load(ordering: .relaxed)) }
    lines.reserveCapacity(membership.members.count)
    for member in membership.members {
      // Its id may be on the list again, with another place; a series can be there only once.
      if member.leftAt != nil { continue }
      var label: [UInt8] = []
      label.put("{replica=\"")
      label.put(labelValue: member.entry.id)
      label.put("\"")
      lines.append(
        Line(
          label: label, index: member.index, inFlight: UInt64(membership.inFlight(member)),
          state: membership.state(of: member), counts: membership.total(member)))
    }
  }

  private func text() -> [UInt8] {
    var out: [UInt8] = []
    out.reserveCapacity(16_384 + lines.count * 2048)
    for row in MetricsPage.replicaRows { write(row, to: &out) }
    for row in MetricsPage.histogramRows { write(row, to: &out) }
    for row in MetricsPage.processRows {
      MetricsPage.begin(row.name, row.kind, row.help, to: &out)
      out.put(row.name)
      out.put(" ")
      out.put(decimal: row.value(self))
      out.put("\n")
    }
    // The three with a shape of their own.
    let drift: StaticString = "skyproxy_exchange_drift"
    MetricsPage.begin(
      drift, .gauge, "Open exchanges with a replica less the sum of in_flight; other than 0 for long is a bug.",
      to: &out)
    out.put(drift)
    let waiting = Int64(board.shared.pointee.queued.load(ordering: .relaxed))
    out.put(string: " \(board.shared.pointee.exchanges.load(ordering: .relaxed) - waiting - inFlight)\n")
    let uptime: StaticString = "skyproxy_uptime_seconds"
    MetricsPage.begin(uptime, .gauge, "Time since the start.", to: &out)
    out.put(uptime)
    out.put(" ")
    out.put(seconds: facts.now - min(facts.now, facts.startedAt))
    out.put("\n")
    let build: StaticString = "skyproxy_build_info"
    MetricsPage.begin(build, .gauge, "Always 1; the version is a label.", to: &out)
    out.put(build)
    out.put("{version=\"")
    out.put(labelValue: facts.buildVersion)
    out.put("\"} 1\n")
    return out
  }

  private static func begin(_ name: StaticString, _ kind: Kind, _ help: StaticString, to out: inout [UInt8]) {
    out.put("# HELP ")
    out.put(name)
    out.put(" ")
    out.put(help)
    out.put("\n# TYPE ")
    out.put(name)
    out.put(" ")
    out.put(string: kind.rawValue)
    out.put("\n")
  }

  private func write(_ row: ReplicaRow, to out: inout [UInt8]) {
    MetricsPage.begin(row.name, row.kind, row.help, to: &out)
    for line in lines {
      for (labels, value) in row.values {
        out.put(row.name)
        out.append(contentsOf: line.label)
        out.put(labels)
        out.put("} ")
        out.put(decimal: value(line))
        out.put("\n")
      }
    }
  }
}

// MARK: - Replicas

extension MetricsPage {
  private static let replicaRows: [ReplicaRow] = [
    ReplicaRow(
      name: "skyproxy_requests_total", kind: .counter, help: "Final responses of a replica by class of status.",
      values: [
        (",code=\"1xx\"", { $0.counts.status1 }), (",code=\"2xx\"", { $0.counts.status2 }),
        (",code=\"3xx\"", { $0.counts.status3 }), (",code=\"4xx\"", { $0.counts.status4 }),
        (",code=\"5xx\"", { $0.counts.status5 }),
      ]),
    ReplicaRow(
      name: "skyproxy_attempts_total", kind: .counter, help: "Requests given to a replica, re-sends included.",
      values: [("", { $0.counts.exchanges })]),
    ReplicaRow(
      name: "skyproxy_in_flight", kind: .gauge, help: "Requests a replica has now.", values: [("", { $0.inFlight })]),
    ReplicaRow(
      name: "skyproxy_replica_state", kind: .gauge, help: "1 for the state a replica is in.",
      values: [
        (",state=\"ready\"", { $0.state == .ready ? 1 : 0 }),
        (",state=\"draining\"", { $0.state == .draining ? 1 : 0 }),
        (",state=\"ejected\"", { $0.state == .ejected ? 1 : 0 }),
      ]),
    ReplicaRow(
      name: "skyproxy_failures_total", kind: .counter,
      help: "Requests that failed, by whose fault it was and how far they had come.",
      values: [
        (",side=\"replica\",stage=\"connect\"", { $0.counts.failConnect }),
        (",side=\"replica\",stage=\"send\"", { $0.counts.failSend }),
        (",side=\"replica\",stage=\"head\"", { $0.counts.failHead }),
        (",side=\"replica\",stage=\"malformed\"", { $0.counts.failMalformed }),
        (",side=\"replica\",stage=\"body\"", { $0.counts.failBody }),
        (",side=\"client\",stage=\"left\"", { $0.counts.clientsLeft }),
      ]),
    ReplicaRow(
      name: "skyproxy_replica_timeouts_total", kind: .counter, help: "Deadlines a replica let pass.",
      values: [("", { $0.counts.timeouts })]),
    ReplicaRow(
      name: "skyproxy_retries_total", kind: .counter, help: "Requests moved from this replica to another.",
      values: [("", { $0.counts.retriedAway })]),
    ReplicaRow(
      name: "skyproxy_connects_total", kind: .counter, help: "Connections begun to a replica, failed ones included.",
      values: [("", { $0.counts.connects })]),
    ReplicaRow(
      name: "skyproxy_bytes_total", kind: .counter, help: "Bytes of messages, heads included.",
      values: [
        (",direction=\"to_replica\"", { $0.counts.bytesToReplica }),
        (",direction=\"from_replica\"", { $0.counts.bytesFromReplica }),
      ]),
  ]

  private static let histogramRows: [HistogramRow] = [
    HistogramRow(name: "skyproxy_connect_seconds", help: "Time to connect to a replica.", kind: .connect),
    HistogramRow(
      name: "skyproxy_first_byte_seconds", help: "Time from the request's arrival to the response's first byte.",
      kind: .firstByte),
    HistogramRow(
      name: "skyproxy_duration_seconds", help: "Time from the request's arrival to its end.", kind: .duration),
    HistogramRow(
      name: "skyproxy_inter_chunk_gap_seconds", help: "Silence between two pieces of a response.", kind: .gap),
  ]

  /// Where the fine buckets are folded: each bound is 1.024 µs times a power of two and so the exact end of one.
  private static let bounds: [(le: [UInt8], buckets: Int)] = [
    6, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 27,
  ]
  .map { power in
    let bound = UInt64(1024) << UInt64(power)
    let buckets = (0..<Histogram.buckets).first { Histogram.upperBound($0) == bound }
    guard let buckets else { preconditionFailure("no bucket ends at 2^\(power) × 1.024 µs") }
    var le: [UInt8] = []
    le.put(seconds: bound)
    return (le, buckets + 1)
  }

  private func write(_ row: HistogramRow, to out: inout [UInt8]) {
    MetricsPage.begin(row.name, .histogram, row.help, to: &out)
    for line in lines where line.counts.exchanges > 0 {
      let parts = counters.map { $0.histogram(row.kind, of: line.index) }
      var count: UInt64 = 0
      var bucket = 0
      for (le, end) in MetricsPage.bounds {
        while bucket < end {
          for part in parts { count &+= UInt64(part.counts[bucket]) }
          bucket += 1
        }
        sample(row.name, "_bucket", line, le: le, count, to: &out)
      }
      while bucket < Histogram.buckets {
        for part in parts { count &+= UInt64(part.counts[bucket]) }
        bucket += 1
      }
      sample(row.name, "_bucket", line, le: Array("+Inf".utf8), count, to: &out)
      out.put(row.name)
      out.put("_sum")
      out.append(contentsOf: line.label)
      out.put("} ")
      out.put(seconds: parts.reduce(0) { $0 &+ $1.sum.pointee })
      out.put("\n")
      sample(row.name, "_count", line, le: nil, count, to: &out)
    }
  }

  private func sample(
    _ name: StaticString, _ suffix: StaticString, _ line: Line, le: [UInt8]?, _ value: UInt64, to out: inout [UInt8]
  ) {
    out.put(name)
    out.put(suffix)
    out.append(contentsOf: line.label)
    if let le {
      out.put(",le=\"")
      out.append(contentsOf: le)
      out.put("\"")
    }
    out.put("} ")
    out.put(decimal: value)
    out.put("\n")
  }
}

// MARK: - The process

extension MetricsPage {
  fileprivate var shared: UnsafeMutablePointer<BoardShared> { board.shared }

  private static let processRows: [ProcessRow] = [
    ProcessRow(
      name: "skyproxy_exchanges_open", kind: .gauge, help: "Exchanges open now, those waiting for a replica included.",
      value: { UInt64(clamping: $0.shared.pointee.exchanges.load(ordering: .relaxed)) }),
    ProcessRow(
      name: "skyproxy_arrivals_total", kind: .counter, help: "Requests whose head has come whole.",
      value: { $0.workers.arrivals }),
    ProcessRow(
      name: "skyproxy_exchanges_finished_total", kind: .counter, help: "Requests that have ended, however.",
      value: { $0.workers.exchangesFinished }),
    ProcessRow(
      name: "skyproxy_retries_sent_total", kind: .counter, help: "Requests sent again.", value: { $0.workers.retries }),
    ProcessRow(
      name: "skyproxy_retries_denied_total", kind: .counter, help: "Re-sends the retry budget did not allow.",
      value: { $0.workers.retriesDenied }),
    ProcessRow(
      name: "skyproxy_streams_truncated_total", kind: .counter, help: "Responses that broke off after their head.",
      value: { $0.workers.streamsTruncated }),
    ProcessRow(
      name: "skyproxy_client_aborts_total", kind: .counter, help: "Clients that left before their response ended.",
      value: { $0.workers.clientAborts }),
    ProcessRow(
      name: "skyproxy_client_stalls_total", kind: .counter,
      help: "Clients given up because they stopped reading or sending.",
      value: { $0.workers.clientStalls }),
    ProcessRow(
      name: "skyproxy_idle_clients_closed_total", kind: .counter,
      help: "Clients that waited for nothing and were let go for a newcomer.", value: { $0.workers.idleClosed }),
    ProcessRow(
      name: "skyproxy_peers_vanished_total", kind: .counter,
      help: "Clients and replicas that no longer acknowledged what they were sent.",
      value: { $0.workers.peersVanished }),
    ProcessRow(
      name: "skyproxy_own_shortages_total", kind: .counter,
      help: "Requests ended because the proxy was short of memory, descriptors or ports.",
      value: { $0.workers.ownShortages }),
    ProcessRow(
      name: "skyproxy_requests_refused_total", kind: .counter, help: "Request heads refused as malformed or too large.",
      value: { $0.workers.refusedHeads }),
    ProcessRow(
      name: "skyproxy_head_timeouts_total", kind: .counter, help: "Request heads that did not come in time.",
      value: { $0.workers.headTimeouts }),
    ProcessRow(
      name: "skyproxy_own_client_error_answers_total", kind: .counter,
      help: "Requests the proxy answered itself for a fault of the client's.", value: { $0.workers.ownAnswers4 }),
    ProcessRow(
      name: "skyproxy_own_server_error_answers_total", kind: .counter,
      help: "Requests the proxy answered itself for want of a replica's answer.", value: { $0.workers.ownAnswers5 }),
    ProcessRow(
      name: "skyproxy_no_replica_total", kind: .counter, help: "Requests answered 503 as no replica was ready.",
      value: { $0.workers.noReplica }),
    ProcessRow(
      name: "skyproxy_queue_waiting", kind: .gauge, help: "Requests that wait for a replica now.",
      value: { UInt64($0.shared.pointee.queued.load(ordering: .relaxed)) }),
    ProcessRow(
      name: "skyproxy_queue_timeouts_total", kind: .counter, help: "Requests answered 503 after waiting too long.",
      value: { $0.workers.queueTimeouts }),
    ProcessRow(
      name: "skyproxy_queue_overflows_total", kind: .counter, help: "Requests answered 503 as the queue was full.",
      value: { $0.workers.queueOverflows }),
    ProcessRow(
      name: "skyproxy_connections_accepted_total", kind: .counter, help: "Client connections.",
      value: { $0.workers.accepted }),
    ProcessRow(
      name: "skyproxy_connections_shed_total", kind: .counter, help: "Client connections refused at the limit.",
      value: { $0.workers.shedConnections }),
    ProcessRow(
      name: "skyproxy_accepts_failed_total", kind: .counter,
      help: "Tries to accept a client that failed for want of descriptors (ulimit -n) or memory.",
      value: { $0.workers.failedAccepts }),
    ProcessRow(
      name: "skyproxy_slow_clients_shed_total", kind: .counter,
      help: "Stalled clients closed because the memory they held was needed.", value: { $0.workers.slowClientsShed }),
    ProcessRow(
      name: "skyproxy_spilled_bytes_total", kind: .counter,
      help: "Bytes for stalled peers moved from receive buffers to spill memory.", value: { $0.workers.spilledBytes }),
    ProcessRow(
      name: "skyproxy_spill_bytes_used", kind: .gauge, help: "Spill memory in use now.",
      value: { $0.workers.spillBlocksUsed * UInt64(BlockPool.spillBytes) }),
    ProcessRow(
      name: "skyproxy_tunnels_total", kind: .counter, help: "Upgraded connections.", value: { $0.workers.tunnels }),
    ProcessRow(
      name: "skyproxy_connections_open", kind: .gauge, help: "Client connections open now.",
      value: { $0.workers.connectionsOpen }),
    ProcessRow(
      name: "skyproxy_tls_connections_open", kind: .gauge,
      help: "Client connections that speak TLS, those in their handshake included.", value: { $0.facts.tls.open }),
    ProcessRow(
      name: "skyproxy_tls_handshakes_total", kind: .counter, help: "Handshakes done.",
      value: { $0.facts.tls.handshakes }),
    ProcessRow(
      name: "skyproxy_tls_resumed_total", kind: .counter, help: "The part of them that a ticket made short.",
      value: { $0.facts.tls.resumed }),
    ProcessRow(
      name: "skyproxy_tls_not_tls_total", kind: .counter,
      help: "Clients that spoke something else where TLS is spoken.",
      value: { $0.facts.tls.notTls }),
    ProcessRow(
      name: "skyproxy_tls_refused_total", kind: .counter, help: "Handshakes that one side refused.",
      value: { $0.facts.tls.refused }),
    ProcessRow(
      name: "skyproxy_tls_timeouts_total", kind: .counter, help: "Handshakes that were not done in time.",
      value: { $0.facts.tls.timeouts }),
    ProcessRow(
      name: "skyproxy_tls_left_total", kind: .counter, help: "Clients that left before their handshake was done.",
      value: { $0.facts.tls.left }),
    ProcessRow(
      name: "skyproxy_tls_starved_total", kind: .counter,
      help: "Clients closed after their handshake for want of descriptors, or as the worker took none.",
      value: { $0.facts.tls.starved }),
    ProcessRow(
      name: "skyproxy_tls_certificate_expires_seconds", kind: .gauge,
      help: "When the certificate expires, in seconds since 1970; 0 without one.",
      value: { UInt64(clamping: $0.facts.certificateExpiresAt ?? 0) }),
    ProcessRow(
      name: "skyproxy_upstreams_open", kind: .gauge, help: "Connections to replicas open now.",
      value: { $0.workers.upstreamsOpen }),
    ProcessRow(
      name: "skyproxy_upstreams_parked", kind: .gauge, help: "Connections to replicas kept idle now.",
      value: { $0.workers.upstreamsParked }),
    ProcessRow(
      name: "skyproxy_buffers_free", kind: .gauge, help: "Receive buffers not lent out now.",
      value: { $0.workers.buffersFree }),
    ProcessRow(
      name: "skyproxy_buffers_exhausted_total", kind: .counter,
      help: "Receives that found no buffer while less than half of them were free.",
      value: { $0.workers.buffersExhausted }),
    ProcessRow(
      name: "skyproxy_blocks_used", kind: .gauge, help: "Memory blocks in use now.", value: { $0.workers.blocksUsed }),
    ProcessRow(
      name: "skyproxy_turns_total", kind: .counter, help: "Turns of all workers.", value: { $0.workers.turns }),
    ProcessRow(
      name: "skyproxy_idle_turns_total", kind: .counter,
      help: "Turns in which nothing was received, sent, begun or ended.", value: { $0.workers.idleTurns }),
    ProcessRow(
      name: "skyproxy_completions_total", kind: .counter, help: "Completions taken from the rings.",
      value: { $0.workers.completions }),
    ProcessRow(
      name: "skyproxy_log_dropped_total", kind: .counter, help: "Access log lines lost.",
      value: { $0.workers.logDropped &+ $0.facts.logLinesLost }),
    ProcessRow(
      name: "skyproxy_workers", kind: .gauge, help: "Worker threads.", value: { UInt64($0.counters.count) }),
    ProcessRow(
      name: "skyproxy_replicas_ejected", kind: .gauge, help: "Replicas out of the choice because they failed.",
      value: { UInt64($0.shared.pointee.ejectedReplicas.load(ordering: .relaxed)) }),
    ProcessRow(
      name: "skyproxy_snapshot_version", kind: .gauge, help: "Version of the replica list in force.",
      value: { $0.shared.pointee.version.load(ordering: .relaxed) }),
    ProcessRow(
      name: "skyproxy_draining", kind: .gauge, help: "1 while the proxy finishes its last requests.",
      value: { $0.facts.isDraining ? 1 : 0 }),
  ]
}

/// Sums of counters, which are words of 64 bits and nothing else (Counters.swift).
func sumWords<Counts: BitwiseCopyable>(_ parts: [UnsafeMutablePointer<Counts>]) -> Counts {
  // Not withUnsafeTemporaryAllocation: Swift 6.3.1 with -O takes its generic closure for one that has thrown.
  let sum = UnsafeMutablePointer<Counts>.allocate(capacity: 1)
  defer { sum.deallocate() }
  let words = MemoryLayout<Counts>.size / 8
  let sums = UnsafeMutableRawPointer(sum).bindMemory(to: UInt64.self, capacity: words)
  sums.update(repeating: 0, count: words)
  for part in parts {
    let counts = UnsafeRawPointer(part).assumingMemoryBound(to: UInt64.self)
    for word in 0..<words { sums[word] &+= counts[word] }
  }
  return UnsafeRawPointer(sum).load(as: Counts.self)
}

extension [UInt8] {
  /// A label's value: backslash, quote and newline are escaped (text format 0.0.4).
  fileprivate mutating func put(labelValue text: String) {
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\\"), UInt8(ascii: "\""):
        append(UInt8(ascii: "\\"))
        append(byte)
      case UInt8(ascii: "\n"): put("\\n")
      default: append(byte)
      }
    }
  }
}
