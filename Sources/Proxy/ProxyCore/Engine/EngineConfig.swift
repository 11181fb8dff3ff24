// What the engine needs of the configuration, in its own units: nanoseconds and bytes. Plain values, copied into each
// worker at start.

package struct EngineConfig: BitwiseCopyable {
  /// Client connections of the whole process; beyond them a connection is answered 503 and closed.
  package var maxConnections = 10_000
  /// Requests of the whole process waiting for a replica below its limit; beyond them: 503.
  package var queueSize = 1024
  package var queueTimeoutNs: UInt64 = 30_000_000_000
  /// Bytes of a head; must leave room in the largest block for what rewriting adds.
  package var headBytesMax = 65_536
  package var targetBytesMax = 16_384
  package var fieldsMax = 256
  /// Bytes of a request body; 0 = no limit. Beyond: 413.
  package var bodyBytesMax: UInt64 = 0
  package var headTimeoutNs: UInt64 = 10_000_000_000
  package var idleTimeoutNs: UInt64 = 75_000_000_000
  package var connectTimeoutNs: UInt64 = 5_000_000_000
  /// To the response head; prefill of a long prompt is slow.
  package var responseTimeoutNs: UInt64 = 3_600_000_000_000
  /// Silence between body bytes, either way.
  package var streamTimeoutNs: UInt64 = 600_000_000_000
  package var tunnelTimeoutNs: UInt64 = 3_600_000_000_000
  /// A client that was answered `Connection: close` is read on from (RFC 9112 9.6) until it closes, or has been silent
  /// for so long, and in all at most for `lingerTotalNs`.
  package var lingerNs: UInt64 = 5_000_000_000
  package var lingerTotalNs: UInt64 = 30_000_000_000
  /// Idle time before the kernel probes a peer, either side; 0 = never (man 7 tcp, TCP_KEEPIDLE).
  package var tcpKeepaliveNs: UInt64 = 30_000_000_000
  /// How long bytes may stay unacknowledged before the peer counts as vanished; 0 = until the kernel gives up.
  package var tcpUserTimeoutNs: UInt64 = 60_000_000_000
  package var poolIdleNs: UInt64 = 3_000_000_000
  /// Idle connections kept per replica and worker.
  package var poolSize = 256
  /// A FIN this soon after the end of a request is a half-close, not a leaving client.
  package var halfCloseGraceNs: UInt64 = 10_000_000
  /// A later FIN is a half-close too: answer it.
  package var halfCloseAnswers = false
  /// Attempts of one request, the first included.
  package var maxAttempts = 3
  /// Re-sends allowed per hundred requests, and how many may come at once.
  package var retryPercent: UInt32 = 20
  package var retryBurst: UInt32 = 1000
  package var ejection = EjectionRule()
  /// Bytes one stream may be ahead of a slow reader.
  package var streamWindow: UInt32 = 524_288
  /// Private memory of one worker for what stalled peers have not taken; 0 = none.
  package var spillBytes = 134_217_728
  package var forwarded = ForwardedMode.append
  /// The name in Via (count 0: none), and the Host of HTTP/1.0 requests that have none. They live as long as the
  /// process.
  package var viaName: UnsafePointer<UInt8>
  package var viaCount: Int
  package var fallbackHost: UnsafePointer<UInt8>
  package var fallbackHostCount: Int
  package var addRequestId = true
  /// Heads are kept until the exchange ends because the access log wants method, target and id.
  package var logs = false

  /// `tcpKeepaliveNs` in whole seconds, rounded up, as the kernel takes it.
  package var keepaliveSeconds: UInt32 { UInt32((tcpKeepaliveNs + 999_999_999) / 1_000_000_000) }

  package init() {
    let via: StaticString = "sky-proxy"
    viaName = via.utf8Start
    viaCount = via.utf8CodeUnitCount
    let host: StaticString = "localhost"
    fallbackHost = host.utf8Start
    fallbackHostCount = host.utf8CodeUnitCount
  }
}
