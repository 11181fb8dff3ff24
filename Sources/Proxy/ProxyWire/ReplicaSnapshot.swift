// The list of replicas as the controller sends it (PUT /v1/replicas) and as the proxy shows it (GET /v1/replicas).
//
// Always the whole list with a version, never a change to it: sending one twice, or losing one and sending the next,
// does no harm. Decoding a snapshot is strict (a field that is not known is a mistake of the sender), decoding an
// answer is tolerant (an older controller reads a newer proxy).

package enum PolicyName: String, CaseIterable, Sendable {
  case leastLoad = "least_load"
  case roundRobin = "round_robin"
  case instanceAwareLeastLoad = "instance_aware_least_load"
}

/// One replica as the controller describes it.
package struct ReplicaEntry: Equatable, Sendable {
  package enum State: String, CaseIterable, Sendable { case ready, draining }

  /// 1...128 printable ASCII characters without spaces, unique in the list.
  package var id: String
  /// Changes when the replica behind the same id is another one: counters and ejections start afresh.
  package var generation: UInt64
  package var address: Endpoint
  /// The share of requests relative to the others, 0.01...1000.
  package var weight: Double
  /// Requests the replica may have at once, at most 1,000,000; 0 = no limit.
  package var maxInFlight: Int
  package var state: State
  /// Seconds that the replica may keep its exchanges from when it drains or is left out of the list; then they are
  /// ended. 0 = as long as they take. nil = as long as they take while it is on the list, and then what
  /// --drain-deadline says.
  package var drainDeadline: Double?

  package static let drainDeadlines = 0.001...86_400.0
  package static let idBytes = 1...128
  package static let weights = 0.01...1000.0
  package static let maxInFlightMax = 1_000_000

  package init(
    id: String, generation: UInt64, address: Endpoint, weight: Double = 1, maxInFlight: Int = 0, state: State = .ready,
    drainDeadline: Double? = nil
  ) {
    self.id = id
    self.generation = generation
    self.address = address
    self.weight = weight
    self.maxInFlight = maxInFlight
    self.state = state
    self.drainDeadline = drainDeadline
  }
}

package struct ReplicaSnapshot: Equatable, Sendable {
  package var version: UInt64
  /// An empty list stops the service's traffic, so it is taken only from a sender that says it means it.
  package var allowEmpty: Bool
  /// nil = leave the policy as it is.
  package var policy: PolicyName?
  package var replicas: [ReplicaEntry]

  package init(version: UInt64, allowEmpty: Bool = false, policy: PolicyName? = nil, replicas: [ReplicaEntry]) {
    self.version = version
    self.allowEmpty = allowEmpty
    self.policy = policy
    self.replicas = replicas
  }

  package static func decode(_ bytes: [UInt8], replicasMax: Int = .max) throws(JsonError) -> ReplicaSnapshot {
    let document = try Json.parse(bytes)
    do throws(FieldProblem) {
      return try ReplicaSnapshot(document, replicasMax: replicasMax)
    } catch {
      throw error.error(in: bytes)
    }
  }

  package func encode() -> [UInt8] {
    var writer = JsonWriter()
    writer.beginObject()
    writer.member("version", version)
    if allowEmpty { writer.member("allow_empty", true) }
    if let policy { writer.member("policy", policy.rawValue) }
    writer.key("replicas")
    writer.beginArray()
    for replica in replicas {
      writer.beginObject()
      replica.write(to: &writer)
      writer.endObject()
    }
    writer.endArray()
    writer.endObject()
    return writer.take()
  }
}

// MARK: - Decoding

extension ReplicaSnapshot {
  private static let fields = ["version", "allow_empty", "policy", "replicas"]

  fileprivate init(_ document: JsonValue, replicasMax: Int) throws(FieldProblem) {
    var version: UInt64?
    var list: JsonValue?
    self.init(version: 0, replicas: [])
    for member in try document.members("", "an object such as {\"version\": 1, \"replicas\": [...]}") {
      switch member.key {
      case "version": version = try member.value.unsigned("version")
      case "allow_empty": allowEmpty = try member.value.flag("allow_empty")
      case "policy": policy = try member.value.word("policy", PolicyName.self)
      case "replicas": list = member.value
      default: throw unknownField(member, among: Self.fields)
      }
    }
    guard let version else { throw missingField("version", in: document, example: "\"version\": 1") }
    guard let list else { throw missingField("replicas", in: document, example: "\"replicas\": [...]") }
    self.version = version
    let elements = try list.elements("replicas")
    if elements.isEmpty, !allowEmpty {
      throw FieldProblem(
        "replicas", list, "the list is empty, which would stop all traffic; add \"allow_empty\": true if it is meant")
    }
    if elements.count > replicasMax {
      throw FieldProblem(
        "replicas", list, "\(elements.count) replicas are more than \(replicasMax); start with a larger --max-replicas")
    }
    replicas.reserveCapacity(elements.count)
    var places: [String: Int] = [:]
    places.reserveCapacity(elements.count)
    for (index, element) in elements.enumerated() {
      do throws(FieldProblem) {
        let entry = try ReplicaEntry(element)
        if let first = places.updateValue(index, forKey: entry.id) {
          let place = element["id"] ?? element
          throw FieldProblem("id", place, "\(quoted(entry.id)) is already replicas[\(first)]; every id is used once")
        }
        replicas.append(entry)
      } catch {
        throw error.inside("replicas[\(index)]")
      }
    }
  }
}

extension ReplicaEntry {
  static let fields = ["id", "generation", "address", "weight", "max_in_flight", "state", "drain_deadline"]

  fileprivate init(_ object: JsonValue) throws(FieldProblem) {
    var partial = Partial()
    for member in try object.members("", "an object such as {\"id\": \"7\", \"address\": \"10.0.0.7:8080\", ...}") {
      if try !partial.take(member) { throw unknownField(member, among: Self.fields) }
    }
    self = try partial.entry(object)
  }

  /// The fields as they are met, in any order.
  struct Partial {
    var id: String?
    var generation: UInt64?
    var address: Endpoint?
    var weight = 1.0
    var maxInFlight = 0
    var state = State.ready
    var drainDeadline: Double?

    /// False: not a field of a replica.
    mutating func take(_ member: JsonMember) throws(FieldProblem) -> Bool {
      let value = member.value
      switch member.key {
      case "id":
        let text = try value.text("id")
        guard ReplicaEntry.idBytes.contains(text.utf8.count), text.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else {
          throw FieldProblem(
            "id", value, "\(quoted(text)) is not an id; write 1...128 printable ASCII characters without spaces")
        }
        id = text
      case "generation": generation = try value.unsigned("generation")
      case "address":
        let text = try value.text("address")
        let endpoint: Endpoint
        do throws(EndpointError) { endpoint = try Endpoint.parse(text) } catch {
          throw FieldProblem("address", value, error.reason)
        }
        if case .unix(let path) = endpoint, path.utf8.first != UInt8(ascii: "/") {
          throw FieldProblem("address", value, "\(quoted(text)) is not an absolute path; write unix:/path")
        }
        address = endpoint
      case "weight":
        weight = try value.double("weight")
        guard ReplicaEntry.weights.contains(weight) else {
          throw FieldProblem("weight", value, "\(weight) is outside 0.01...1000; 1 is an ordinary share")
        }
      case "max_in_flight":
        maxInFlight = try value.count("max_in_flight")
        guard maxInFlight <= ReplicaEntry.maxInFlightMax else {
          throw FieldProblem(
            "max_in_flight", value,
            "\(maxInFlight) is outside 0...\(ReplicaEntry.maxInFlightMax); 0 means that there is no limit")
        }
      case "state": state = try value.word("state", State.self)
      case "drain_deadline":
        let seconds = try value.double("drain_deadline")
        guard ReplicaEntry.drainDeadlines.contains(seconds) || seconds == 0 else {
          throw FieldProblem(
            "drain_deadline", value, "\(seconds) is outside 0.001...86400 seconds; 0 means that there is no deadline")
        }
        drainDeadline = seconds
      default: return false
      }
      return true
    }

    func entry(_ object: JsonValue) throws(FieldProblem) -> ReplicaEntry {
      guard let id else { throw missingField("id", in: object, example: "\"id\": \"7\"") }
      guard let generation else { throw missingField("generation", in: object, example: "\"generation\": 1") }
      guard let address else { throw missingField("address", in: object, example: "\"address\": \"10.0.0.7:8080\"") }
      return ReplicaEntry(
        id: id, generation: generation, address: address, weight: weight, maxInFlight: maxInFlight, state: state,
        drainDeadline: drainDeadline)
    }
  }

  /// The members, for an object the caller opened.
  func write(to writer: inout JsonWriter) {
    writer.member("id", id)
    writer.member("generation", generation)
    writer.member("address", address.description)
    // 2, not 2.0: people read it too.
    if let whole = Int(exactly: weight) { writer.member("weight", whole) } else { writer.member("weight", weight) }
    writer.member("max_in_flight", maxInFlight)
    writer.member("state", state.rawValue)
    if let drainDeadline { writer.member("drain_deadline", drainDeadline) }
  }
}
