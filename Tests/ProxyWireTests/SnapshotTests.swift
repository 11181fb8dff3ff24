// Snapshots as JSON: what is taken, and what each refusal says.

import Testing

@testable import ProxyWire

@Suite struct SnapshotTests {
  static let sample = ReplicaSnapshot(
    version: .max, policy: .instanceAwareLeastLoad,
    replicas: [
      ReplicaEntry(id: "7", generation: 1, address: .ipv4(0x0A00_0007, port: 8080)),
      ReplicaEntry(
        id: "a/b:\"c\"", generation: .max, address: .ipv6(high: 0, low: 1, port: 1), weight: 0.1, maxInFlight: 9,
        state: .draining),
      ReplicaEntry(id: "x", generation: 0, address: .unix(path: "/run/é;x.sock"), weight: 1000, drainDeadline: 0.25),
      ReplicaEntry(id: "y", generation: 0, address: .name("model-3.internal", port: 65535), drainDeadline: 0),
    ])

  @Test func comesBackTheSame() throws {
    #expect(try ReplicaSnapshot.decode(Self.sample.encode()) == Self.sample)
    let empty = ReplicaSnapshot(version: 3, allowEmpty: true, replicas: [])
    #expect(try ReplicaSnapshot.decode(empty.encode()) == empty)
  }

  @Test func hasDefaults() throws {
    let text = #"{"replicas":[{"address":"10.0.0.7:8080","generation":2,"id":"7"}],"version":1}"#
    let snapshot = try ReplicaSnapshot.decode(Array(text.utf8))
    #expect(
      snapshot
        == ReplicaSnapshot(
          version: 1, replicas: [ReplicaEntry(id: "7", generation: 2, address: .ipv4(0x0A00_0007, port: 8080))]))
  }

  private static func list(_ replica: String) -> String { "{\"version\":1,\"replicas\":[\(good),\(replica)]}" }
  private static let good = #"{"id":"0","generation":1,"address":"10.0.0.1:1"}"#

  private static let wrong: [(text: String, error: String)] = [
    ("{", "line 1, column 2: the text ends inside an object"),
    ("[]", "line 1, column 1: expected an object such as {\"version\": 1, \"replicas\": [...]}, found a list"),
    ("{}", "the field 'version' is missing; add \"version\": 1"),
    (#"{"version":1}"#, "the field 'replicas' is missing"),
    (
      #"{"version":1,"replicas":[]}"#,
      #"replicas: the list is empty, which would stop all traffic; add "allow_empty": true if it is meant"#
    ),
    (#"{"version":1,"allow_empty":false,"replicas":[]}"#, "replicas: the list is empty"),
    (#"{"version":1,"allow_empty":1,"replicas":[]}"#, "allow_empty: expected true or false, found a whole number"),
    (#"{"version":-1,"replicas":[]}"#, "version: -1 is below 0"),
    (#"{"version":1.5,"replicas":[]}"#, "version: 1.5 is not a whole number"),
    (#"{"version":"1","replicas":[]}"#, "version: expected a whole number, found a string"),
    (#"{"version":1,"replicas":{}}"#, "replicas: expected a list, found an object; write [...]"),
    (#"{"version":1,"replica":[]}"#, "line 1, column 14: unknown field 'replica', did you mean 'replicas'?"),
    (
      #"{"version":1,"zzz":[]}"#,
      "line 1, column 14: unknown field 'zzz'; the fields are version, allow_empty, policy, replicas"
    ),
    (
      #"{"version":1,"policy":"least_laod","replicas":[]}"#,
      "policy: 'least_laod' is not one of least_load, round_robin, instance_aware_least_load, did you mean 'least_load'?"
    ),
    (list("7"), "replicas[1]: expected an object"),
    (list("{}"), "replicas[1]: the field 'id' is missing; add \"id\": \"7\""),
    (list(#"{"id":"7","generation":1}"#), "replicas[1]: the field 'address' is missing"),
    (list(#"{"id":"7","address":"a:1"}"#), "replicas[1]: the field 'generation' is missing"),
    (
      list(#"{"id":"7","generation":1,"address":"foo"}"#),
      "replicas[1].address: 'foo' is not host:port; write 10.0.0.7:8080, [::1]:8080 or unix:/path"
    ),
    (list(#"{"id":"7","generation":1,"address":"unix:x"}"#), "replicas[1].address: 'unix:x' is not an absolute path"),
    (list(#"{"id":"7","wieght":1}"#), "replicas[1]: unknown field 'wieght', did you mean 'weight'?"),
    (list(#"{"id":7}"#), "replicas[1].id: expected a string, found a whole number"),
    (list(#"{"id":""}"#), "replicas[1].id: '' is not an id"),
    (list(#"{"id":"a b"}"#), "replicas[1].id: 'a b' is not an id"),
    (list(#"{"id":"é"}"#), "replicas[1].id: 'é' is not an id"),
    (list("{\"id\":\"\(String(repeating: "x", count: 129))\"}"), "is not an id"),
    (
      list(#"{"id":"0","generation":1,"address":"10.0.0.1:1"}"#),
      "replicas[1].id: '0' is already replicas[0]; every id is used once"
    ),
    (list(#"{"weight":0}"#), "replicas[1].weight: 0.0 is outside 0.01...1000"),
    (list(#"{"weight":1000.1}"#), "replicas[1].weight: 1000.1 is outside"),
    (list(#"{"weight":"1"}"#), "replicas[1].weight: expected a number, found a string"),
    (list(#"{"max_in_flight":-1}"#), "replicas[1].max_in_flight: -1 is below 0"),
    (list(#"{"max_in_flight":1000001}"#), "replicas[1].max_in_flight: 1000001 is outside 0...1000000"),
    (list(#"{"max_in_flight":18446744073709551615}"#), "replicas[1].max_in_flight: 18446744073709551615 is too large"),
    (list(#"{"drain_deadline":-1}"#), "replicas[1].drain_deadline: -1.0 is outside 0.001...86400 seconds"),
    (list(#"{"drain_deadline":86401}"#), "replicas[1].drain_deadline: 86401.0 is outside"),
    (list(#"{"drain_deadline":"2m"}"#), "replicas[1].drain_deadline: expected a number, found a string"),
    (list(#"{"drain_dedline":1}"#), "replicas[1]: unknown field 'drain_dedline', did you mean 'drain_deadline'?"),
    (list(#"{"state":"Ready"}"#), "replicas[1].state: 'Ready' is not one of ready, draining, did you mean 'ready'?"),
  ]

  @Test(arguments: wrong) func namesWhatIsWrong(_ row: (text: String, error: String)) {
    do {
      _ = try ReplicaSnapshot.decode(Array(row.text.utf8))
      Issue.record("\(row.text) was read")
    } catch {
      #expect(error.description.contains(row.error), "\(error)")
    }
  }

  @Test func keepsThePlaceOfWhatIsWrong() {
    let text = "{\"version\": 1,\n \"replicas\": [\n  {\"id\": \"a\", \"weight\": 0}]}"
    do {
      _ = try ReplicaSnapshot.decode(Array(text.utf8))
      Issue.record("was read")
    } catch {
      #expect(error.path == "replicas[0].weight")
      #expect(error.line == 3)
      #expect(error.column == 25)
    }
  }

  @Test func refusesMoreThanThereIsRoomFor() {
    #expect(throws: JsonError.self) { try ReplicaSnapshot.decode(Self.sample.encode(), replicasMax: 3) }
  }

  /// Far above what it takes (a debug build included), far below what anything quadratic would.
  @Test(.timeLimit(.minutes(1))) func tenThousandReplicas() throws {
    let snapshot = ReplicaSnapshot(
      version: 1,
      replicas: (0..<10_000).map { index in
        ReplicaEntry(
          id: "replica-\(index)-" + String(repeating: "x", count: 24), generation: UInt64(index),
          address: .ipv4(0x0A00_0000 + UInt32(index), port: 8080), weight: 1.25, maxInFlight: 100)
      })
    let bytes = snapshot.encode()
    var decoded: ReplicaSnapshot?
    let taken = try ContinuousClock().measure { decoded = try ReplicaSnapshot.decode(bytes) }
    #expect(decoded == snapshot)
    #expect(taken < .seconds(10))
    print("decoded \(bytes.count) bytes of snapshot in \(taken)")
  }

  @Test func listComesBackTheSame() throws {
    var counters = ReplicaCounters()
    counters.requests = .max
    counters.responses5xx = 3
    var failures = StageFailures()
    failures.malformed = 2
    failures.body = .max
    for status in ReplicaStatus.Status.allCases {
      let list = ReplicaList(
        version: 4, policy: .roundRobin,
        replicas: Self.sample.replicas.map {
          ReplicaStatus(entry: $0, status: status, inFlight: 12, counters: counters, failures: failures)
        })
      #expect(try ReplicaList.decode(list.encode()) == list)
    }
  }

  @Test func listReadsWhatANewerProxyAdds() throws {
    let text = """
      {"version":4,"new":{},"policy":"least_load","replicas":
      [{"id":"a","generation":1,"address":"a:1","status":"resting","in_flight":2,"ejected":true,"novel":[1],
      "failures_by_stage":{"connect":3,"novel":4}}]}
      """
    let list = try ReplicaList.decode(Array(text.utf8))
    #expect(list.replicas.map(\.inFlight) == [2])
    #expect(list.replicas.map(\.status) == [.ejected])
    #expect(list.replicas.map(\.failures.connect) == [3])
  }

  /// One that does not say what becomes of a replica now.
  @Test func listReadsWhatAnOlderProxyLeavesOut() throws {
    for (fields, status) in [
      ("", ReplicaStatus.Status.ready), (",\"ejected\":true", .ejected), (",\"state\":\"draining\"", .draining),
    ] {
      let text = "{\"version\":4,\"replicas\":[{\"id\":\"a\",\"generation\":1,\"address\":\"a:1\"\(fields)}]}"
      #expect(try ReplicaList.decode(Array(text.utf8)).replicas.map(\.status) == [status])
    }
  }

  @Test func answersComeBackTheSame() throws {
    let applied = AppliedAnswer(version: 9, replicas: 3, added: 2, removed: 1)
    #expect(try AppliedAnswer.decode(applied.encode()) == applied)
    for answer in [ErrorAnswer(error: "a \"b\"\n"), ErrorAnswer(error: "old", version: 9)] {
      #expect(try ErrorAnswer.decode(answer.encode()) == answer)
    }
    #expect(throws: JsonError.self) { try AppliedAnswer.decode(Array("{}".utf8)) }
    #expect(throws: JsonError.self) { try ErrorAnswer.decode(Array("[]".utf8)) }
  }
}
