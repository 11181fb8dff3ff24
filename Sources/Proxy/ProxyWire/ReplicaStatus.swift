// The proxy's answers about its replicas: to PUT /v1/replicas, GET /v1/replicas and to what it refuses. Also the
// counters that answers and reports share. Decoding is tolerant: fields that are not known are stepped over.

/// What one replica did since its generation was applied; never goes down within a generation.
package struct ReplicaCounters: Equatable, Sendable, BitwiseCopyable {
  /// Leases taken: every request that was given to the replica, re-sends included.
  package var requests: UInt64 = 0
  /// Final response heads received, by class.
  package var responses2xx: UInt64 = 0
  package var responses3xx: UInt64 = 0
  package var responses4xx: UInt64 = 0
  package var responses5xx: UInt64 = 0
  /// Ended by the replica before a response head: refused, reset, timed out, malformed.
  package var failures: UInt64 = 0
  /// The part of `failures` where not even a connection came about.
  package var connectFailures: UInt64 = 0
  /// Ended by the replica within the response body.
  package var broken: UInt64 = 0
  /// Given up because the client left.
  package var clientGone: UInt64 = 0
  /// Connections begun, failed ones included; the other requests went over one that was kept.
  package var connects: UInt64 = 0
  /// Bytes of messages, heads included.
  package var bytesSent: UInt64 = 0
  package var bytesReceived: UInt64 = 0

  package init() {}

  func write(to writer: inout JsonWriter) {
    writer.member("requests", requests)
    writer.member("responses_2xx", responses2xx)
    writer.member("responses_3xx", responses3xx)
    writer.member("responses_4xx", responses4xx)
    writer.member("responses_5xx", responses5xx)
    writer.member("failures", failures)
    writer.member("connect_failures", connectFailures)
    writer.member("broken", broken)
    writer.member("client_gone", clientGone)
    writer.member("connects", connects)
    writer.member("bytes_sent", bytesSent)
    writer.member("bytes_received", bytesReceived)
  }

  /// False: not a counter.
  mutating func take(_ member: JsonMember) throws(FieldProblem) -> Bool {
    let value = member.value
    switch member.key {
    case "requests": requests = try value.unsigned("requests")
    case "responses_2xx": responses2xx = try value.unsigned("responses_2xx")
    case "responses_3xx": responses3xx = try value.unsigned("responses_3xx")
    case "responses_4xx": responses4xx = try value.unsigned("responses_4xx")
    case "responses_5xx": responses5xx = try value.unsigned("responses_5xx")
    case "failures": failures = try value.unsigned("failures")
    case "connect_failures": connectFailures = try value.unsigned("connect_failures")
    case "broken": broken = try value.unsigned("broken")
    case "client_gone": clientGone = try value.unsigned("client_gone")
    case "connects": connects = try value.unsigned("connects")
    case "bytes_sent": bytesSent = try value.unsigned("bytes_sent")
    case "bytes_received": bytesReceived = try value.unsigned("bytes_received")
    default: return false
    }
    return true
  }
}

/// The requests that failed on a replica's side, by how far they had come.
package struct StageFailures: Equatable, Sendable, BitwiseCopyable {
  package var connect: UInt64 = 0
  package var send: UInt64 = 0
  package var head: UInt64 = 0
  package var malformed: UInt64 = 0
  package var body: UInt64 = 0

  package init() {}

  func write(to writer: inout JsonWriter) {
    writer.beginObject()
    writer.member("connect", connect)
    writer.member("send", send)
    writer.member("head", head)
    writer.member("malformed", malformed)
    writer.member("body", body)
    writer.endObject()
  }

  init(_ object: JsonValue) throws(FieldProblem) {
    for member in try object.members("", "an object") {
      let value = member.value
      switch member.key {
      case "connect": connect = try value.unsigned("connect")
      case "send": send = try value.unsigned("send")
      case "head": head = try value.unsigned("head")
      case "malformed": malformed = try value.unsigned("malformed")
      case "body": body = try value.unsigned("body")
      default: continue
      }
    }
  }
}

/// One replica as the proxy sees it.
package struct ReplicaStatus: Equatable, Sendable {
  /// What becomes of requests now: `entry.state` is only what the list wants.
  package enum Status: String, CaseIterable, Sendable {
    case ready
    case draining
    /// Gets no requests for a while because it failed.
    case ejected
    /// No longer on the list, and still at work on what it has.
    case leaving
  }

  package var entry: ReplicaEntry
  package var status: Status
  package var inFlight: Int
  package var counters: ReplicaCounters
  package var failures: StageFailures

  package init(
    entry: ReplicaEntry, status: Status, inFlight: Int, counters: ReplicaCounters = .init(),
    failures: StageFailures = .init()
  ) {
    self.entry = entry
    self.status = status
    self.inFlight = inFlight
    self.counters = counters
    self.failures = failures
  }
}

/// The answer to GET /v1/replicas.
package struct ReplicaList: Equatable, Sendable {
  /// The applied snapshot's version; 0 before the first.
  package var version: UInt64
  package var policy: PolicyName
  package var replicas: [ReplicaStatus]

  package init(version: UInt64, policy: PolicyName, replicas: [ReplicaStatus]) {
    self.version = version
    self.policy = policy
    self.replicas = replicas
  }

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("version", version)
    writer.member("policy", policy.rawValue)
    writer.key("replicas")
    writer.beginArray()
    for replica in replicas {
      writer.beginObject()
      replica.entry.write(to: &writer)
      writer.member("status", replica.status.rawValue)
      writer.member("in_flight", replica.inFlight)
      writer.member("ejected", replica.status == .ejected)
      replica.counters.write(to: &writer)
      writer.key("failures_by_stage")
      replica.failures.write(to: &writer)
      writer.endObject()
    }
    writer.endArray()
    writer.endObject()
    return writer.take()
  }

  package static func decode(_ bytes: [UInt8]) throws(JsonError) -> ReplicaList {
    let document = try Json.parse(bytes)
    do throws(FieldProblem) {
      return try ReplicaList(document)
    } catch {
      throw error.error(in: bytes)
    }
  }

  private init(_ document: JsonValue) throws(FieldProblem) {
    self.init(version: 0, policy: .leastLoad, replicas: [])
    for member in try document.members("", "an object") {
      switch member.key {
      case "version": version = try member.value.unsigned("version")
      case "policy": policy = try member.value.word("policy", PolicyName.self)
      case "replicas":
        for (index, element) in try member.value.elements("replicas").enumerated() {
          do throws(FieldProblem) { replicas.append(try ReplicaStatus(element)) } catch {
            throw error.inside("replicas[\(index)]")
          }
        }
      default: continue
      }
    }
  }
}

extension ReplicaStatus {
  fileprivate init(_ object: JsonValue) throws(FieldProblem) {
    var partial = ReplicaEntry.Partial()
    var status: Status?
    var isEjected = false
    var inFlight = 0
    var counters = ReplicaCounters()
    var failures = StageFailures()
    for member in try object.members("", "an object") {
      switch member.key {
      // A word that is not known is a newer proxy's.
      case "status": status = Status(rawValue: try member.value.text("status"))
      case "in_flight": inFlight = try member.value.count("in_flight")
      case "ejected": isEjected = try member.value.flag("ejected")
      case "failures_by_stage":
        do throws(FieldProblem) { failures = try StageFailures(member.value) } catch {
          throw error.inside("failures_by_stage")
        }
      default: if try !partial.take(member) { _ = try counters.take(member) }
      }
    }
    let entry = try partial.entry(object)
    self.init(
      entry: entry, status: status ?? (isEjected ? .ejected : entry.state == .draining ? .draining : .ready),
      inFlight: inFlight, counters: counters, failures: failures)
  }
}

/// The answer to a snapshot that was taken: `{"version": 7, "applied": 7, "replicas": 12, "added": 2, "removed": 1}`.
package struct AppliedAnswer: Equatable, Sendable {
  /// The version now applied.
  package var version: UInt64
  package var replicas: Int
  /// What the snapshot changed: 0 where it was in force already.
  package var added: Int
  package var removed: Int

  package init(version: UInt64, replicas: Int, added: Int = 0, removed: Int = 0) {
    self.version = version
    self.replicas = replicas
    self.added = added
    self.removed = removed
  }

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("version", version)
    writer.member("applied", version)
    writer.member("replicas", replicas)
    writer.member("added", added)
    writer.member("removed", removed)
    writer.endObject()
    return writer.take()
  }

  package static func decode(_ bytes: [UInt8]) throws(JsonError) -> AppliedAnswer {
    let document = try Json.parse(bytes)
    do throws(FieldProblem) {
      guard let version = document["version"] else {
        throw missingField("version", in: document, example: "\"version\": 1")
      }
      return AppliedAnswer(
        version: try version.unsigned("version"), replicas: try document["replicas"]?.count("replicas") ?? 0,
        added: try document["added"]?.count("added") ?? 0, removed: try document["removed"]?.count("removed") ?? 0)
    } catch {
      throw error.error(in: bytes)
    }
  }
}

/// The answer to GET /healthz and POST /v1/drain: `{"status": "ok"}`.
package enum HealthAnswer: String, Sendable {
  case ok
  /// No new work is taken.
  case draining

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("status", rawValue)
    writer.endObject()
    return writer.take()
  }
}

/// The body of every answer of the admin API that is not 2xx: `{"error": "…"}`, for an old snapshot also the version
/// that is applied: `{"error": "…", "version": 9}`.
package struct ErrorAnswer: Equatable, Sendable {
  package var error: String
  package var version: UInt64?

  package init(error: String, version: UInt64? = nil) {
    self.error = error
    self.version = version
  }

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("error", error)
    if let version { writer.member("version", version) }
    writer.endObject()
    return writer.take()
  }

  package static func decode(_ bytes: [UInt8]) throws(JsonError) -> ErrorAnswer {
    let document = try Json.parse(bytes)
    do throws(FieldProblem) {
      guard let error = document["error"] else {
        throw missingField("error", in: document, example: "\"error\": \"what is wrong\"")
      }
      return ErrorAnswer(error: try error.text("error"), version: try document["version"]?.unsigned("version"))
    } catch {
      throw error.error(in: bytes)
    }
  }
}
