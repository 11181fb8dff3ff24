// What can be changed while the proxy serves, besides its replicas: PUT /v1/settings takes any part of it, GET
// /v1/settings and the answer to PUT show all that is in force.
//
// Decoding a change is strict (a field that is not known is a mistake of the sender), decoding an answer is tolerant.

package struct ProxySettings: Equatable, Sendable {
  /// Whether the listening addresses speak TLS, and with which certificate.
  package enum Tls: Equatable, Sendable {
    case off
    /// PEM files: the certificate with its chain, and its private key. A change names them by absolute paths.
    case on(cert: String, key: String)
  }

  /// nil = leave it as it is.
  package var tls: Tls?
  /// Milliseconds; those that are missing are left as they are.
  package var timeoutsMs: [Timeout: UInt64]

  package init(tls: Tls? = nil, timeoutsMs: [Timeout: UInt64] = [:]) {
    self.tls = tls
    self.timeoutsMs = timeoutsMs
  }

  /// A change from the controller.
  package static func decode(_ bytes: [UInt8]) throws(JsonError) -> ProxySettings {
    try decode(bytes, isAnswer: false)
  }

  /// What a proxy, perhaps a newer one, says is in force.
  package static func decodeAnswer(_ bytes: [UInt8]) throws(JsonError) -> ProxySettings {
    try decode(bytes, isAnswer: true)
  }

  private static func decode(_ bytes: [UInt8], isAnswer: Bool) throws(JsonError) -> ProxySettings {
    let document = try Json.parse(bytes)
    do throws(FieldProblem) {
      return try ProxySettings(document, isAnswer: isAnswer)
    } catch {
      throw error.error(in: bytes)
    }
  }

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    write(to: &writer)
    return writer.take()
  }

  package func write(to writer: inout JsonWriter) {
    writer.beginObject()
    if let tls {
      writer.key("tls")
      switch tls {
      case .off: writer.null()
      case .on(let cert, let key):
        writer.beginObject()
        writer.member("cert", cert)
        writer.member("key", key)
        writer.endObject()
      }
    }
    for timeout in Timeout.allCases {
      if let ms = timeoutsMs[timeout] { writer.member(timeout.rawValue, ms) }
    }
    writer.endObject()
  }

  /// `other` where it says something, this elsewhere.
  package func changed(by other: ProxySettings) -> ProxySettings {
    ProxySettings(tls: other.tls ?? tls, timeoutsMs: timeoutsMs.merging(other.timeoutsMs) { $1 })
  }
}

extension ProxySettings {
  /// How long the proxy waits for something; the flag of the same name (`--stream-timeout`) says what it is at start
  /// and what it means.
  package enum Timeout: String, CaseIterable, Sendable {
    case queue = "queue_timeout_ms"
    case head = "head_timeout_ms"
    case idle = "idle_timeout_ms"
    case connect = "connect_timeout_ms"
    case response = "response_timeout_ms"
    case stream = "stream_timeout_ms"
    case tunnel = "tunnel_timeout_ms"
    case drain = "drain_timeout_ms"
    case poolIdle = "pool_idle_timeout_ms"

    /// Milliseconds, without the 0 that `zero` allows.
    package var range: ClosedRange<UInt64> {
      let (minute, hour, day): (UInt64, UInt64, UInt64) = (60_000, 3_600_000, 86_400_000)
      return switch self {
      case .queue: 1...hour
      case .head: 10...hour
      case .idle: 10...day
      case .connect: 1...10 * minute
      case .response, .stream, .tunnel, .drain: 1...day
      case .poolIdle: 1...hour
      }
    }

    /// What 0 means; nil: it is not allowed.
    package var zero: String? {
      switch self {
      case .queue, .connect: nil
      case .head, .idle, .response, .stream, .tunnel: "no deadline"
      case .drain: "cut them at once"
      case .poolIdle: "keep none"
      }
    }
  }
}

// MARK: - Decoding

extension ProxySettings {
  private static let fields = ["tls"] + Timeout.allCases.map(\.rawValue)
  private static let tlsShape = "{\"cert\": \"/path/cert.pem\", \"key\": \"/path/key.pem\"}, or null for none"

  private init(_ document: JsonValue, isAnswer: Bool) throws(FieldProblem) {
    self.init()
    for member in try document.members("", "an object such as {\"stream_timeout_ms\": 600000}") {
      if member.key == "tls" {
        do throws(FieldProblem) { tls = try Self.readTls(member.value, isAnswer: isAnswer) } catch {
          throw error.inside("tls")
        }
      } else if let timeout = Timeout(rawValue: member.key) {
        let ms = try member.value.unsigned(member.key)
        guard isAnswer || timeout.range.contains(ms) || (ms == 0 && timeout.zero != nil) else {
          let (low, high) = (timeout.range.lowerBound, timeout.range.upperBound)
          throw FieldProblem(
            member.key, member.value,
            "\(ms) is outside \(low)...\(high) milliseconds\(timeout.zero.map { "; 0 means: \($0)" } ?? "")")
        }
        timeoutsMs[timeout] = ms
      } else if !isAnswer {
        throw unknownField(member, among: Self.fields)
      }
    }
  }

  private static func readTls(_ value: JsonValue, isAnswer: Bool) throws(FieldProblem) -> Tls {
    if case .null = value.content { return .off }
    var files: [String: String] = [:]
    for member in try value.members("", tlsShape) {
      guard member.key == "cert" || member.key == "key" else {
        if isAnswer { continue }
        throw unknownField(member, among: ["cert", "key"])
      }
      let path = try member.value.text(member.key)
      guard isAnswer || path.utf8.first == UInt8(ascii: "/"), !path.utf8.contains(0) else {
        throw FieldProblem(member.key, member.value, "\(quoted(path)) is not an absolute path; write \(tlsShape)")
      }
      files[member.key] = path
    }
    guard let cert = files["cert"] else {
      throw missingField("cert", in: value, example: "\"cert\": \"/path/cert.pem\"")
    }
    guard let key = files["key"] else { throw missingField("key", in: value, example: "\"key\": \"/path/key.pem\"") }
    return .on(cert: cert, key: key)
  }
}
