// What the proxy says of a request's time and size, against a request whose every part was arranged: it waits in the
// queue, then for its connection, then for the answer, then for the rest of it, each for a time that the test knows.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Measures {
    private static let histograms = ["connect", "first_byte", "duration", "inter_chunk_gap"]

    /// Moments of the arranged request, as bounds: what the proxy measures lies between two of them.
    private struct Moments {
      var sent = 0.0
      var isQueued = 0.0
      var leavesQueue = 0.0
      var isDispatched = 0.0
      var takesConnection = 0.0
      var isConnected = 0.0
      var answers = 0.0
      var headCame = 0.0
      var goesOn = 0.0
      var ended = 0.0

      var queue: ClosedRange<Double> { leavesQueue - isQueued...isDispatched - sent }
      var connect: ClosedRange<Double> { takesConnection - isDispatched...isConnected - leavesQueue }
      /// Of the log and the metric alike: from the request's arrival.
      var firstByte: ClosedRange<Double> { answers - isQueued...headCame - sent }
      var gap: ClosedRange<Double> { goesOn - headCame...ended - answers }
      var duration: ClosedRange<Double> { goesOn - isQueued...ended - sent }
    }

    @Test func everyFigureIsWhatWasArranged() throws {
      let folder = try TemporaryFolder()
      let log = folder.file("access.log")
      let listener = try Listener(.unix(folder.file("replica")), backlog: 0)
      defer { listener.stop() }
      let proxy = try ProxyProcess(
        replicas: ["\(listener.address);max_in_flight=1"], flags: ["--access-log", log, "--request-id", "off"])
      let id = "\(listener.address)"
      try check(proxy) {
        let silence = 0.25
        var moment = Moments()
        // Another request has the replica.
        let holder = try proxy.connect()
        try holder.send(requestText("GET", "/holder"))
        let held = try #require(listener.accept())
        let heldHead = try #require(try held.read(until: "\r\n\r\n"))
        try listener.fill()

        let wire = try proxy.connect()
        moment.sent = monotonic()
        try wire.send(requestText("POST", "/arranged", body: "12345"))
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 1 })
        moment.isQueued = monotonic()
        #expect(wire.isSilent(for: silence))
        moment.leavesQueue = monotonic()
        try held.send(responseText("done", fields: ["Connection: close"]))
        #expect(try holder.readResponse().status == 200)
        #expect(eventually { try proxy.metric("skyproxy_queue_waiting") == 0 })
        moment.isDispatched = monotonic()
        #expect(eventually { try proxy.metric("skyproxy_exchanges_open") == 1 })
        let before = try Page(proxy)

        #expect(wire.isSilent(for: silence))
        moment.takesConnection = monotonic()
        // Those that filled the backlog come first, and say nothing.
        var replica: Wire?
        var head: [UInt8]?
        while head == nil {
          let next = try #require(listener.accept())
          head = try? next.read(until: "\r\n\r\n", deadline: 0.05)
          replica = next
        }
        moment.isConnected = monotonic()
        let origin = try #require(replica)
        let toReplica = heldHead.count + (try #require(head)).count + 5
        #expect(try origin.read(count: 5, deadline: patience) == Array("12345".utf8))
        #expect(wire.isSilent(for: silence))
        moment.answers = monotonic()
        let first = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
        let rest = "3\r\ntwo\r\n0\r\n\r\n"
        try origin.send(first)
        #expect(try wire.readResponseHead().status == 201)
        #expect(try wire.readChunk() == Array("one".utf8))
        moment.headCame = monotonic()
        #expect(wire.isSilent(for: silence))
        moment.goesOn = monotonic()
        try origin.send(rest)
        #expect(try wire.readChunk() == Array("two".utf8))
        #expect(try wire.readChunk() == [])
        #expect(eventually { try proxy.metric("skyproxy_exchanges_open") == 0 })
        moment.ended = monotonic()

        // The access log.
        var line: [String: Any] = [:]
        #expect(
          eventually {
            for text in try Places.text(log).split(separator: "\n") {
              let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
              if object?["target"] as? String == "/arranged" { line = object ?? [:] }
            }
            return !line.isEmpty
          })
        func expect(_ name: String, _ milliseconds: Any?, _ range: ClosedRange<Double>) {
          let seconds = (milliseconds as? Double ?? -1) / 1000
          #expect(isWithin(seconds, range), "\(name): \(seconds) s, arranged: \(range)")
        }
        expect("queue_ms", line["queue_ms"], moment.queue)
        expect("connect_ms", line["connect_ms"], moment.connect)
        expect("first_byte_ms", line["first_byte_ms"], moment.firstByte)
        expect("duration_ms", line["duration_ms"], moment.duration)
        #expect(line["method"] as? String == "POST" && line["status"] as? Int == 201)
        #expect(line["outcome"] as? String == "completed" && line["attempts"] as? Int == 1)
        #expect(line["bytes_in"] as? Int == 5 && line["replica"] as? String == id)

        // The metrics: this request once, and nothing else.
        let after = try Page(proxy)
        let label = "{replica=\"\(id)\""
        for (name, range) in zip(
          Self.histograms, [moment.connect, moment.firstByte, moment.duration, moment.gap])
        {
          let family = "skyproxy_\(name)_seconds"
          #expect(after.grew("\(family)_count\(label)}", since: before) == 1, "\(name)")
          let sum = after.grew("\(family)_sum\(label)}", since: before)
          #expect(isWithin(sum, range), "\(family): \(sum) s, arranged: \(range)")
          // It is in every bucket whose bound is not below it, and in no other.
          for (bound, grew) in after.buckets(family, label, since: before) {
            #expect(grew == (sum <= bound ? 1 : 0), "\(family) of \(sum) s, le=\(bound)")
          }
        }
        let counts = [
          "skyproxy_requests_total\(label),code=\"2xx\"}": 1, "skyproxy_requests_total\(label),code=\"5xx\"}": 0,
          // Counted when it was given to the replica, before the first page.
          "skyproxy_attempts_total\(label)}": 0, "skyproxy_connects_total\(label)}": 0,
          "skyproxy_retries_total\(label)}": 0,
          "skyproxy_failures_total\(label),side=\"replica\",stage=\"connect\"}": 0, "skyproxy_arrivals_total": 0,
          "skyproxy_bytes_total\(label),direction=\"from_replica\"}": first.utf8.count + rest.utf8.count,
          "skyproxy_exchanges_finished_total": 1, "skyproxy_own_server_error_answers_total": 0,
          "skyproxy_queue_timeouts_total": 0, "skyproxy_client_aborts_total": 0, "skyproxy_streams_truncated_total": 0,
        ]
        for (name, grew) in counts { #expect(after.grew(name, since: before) == Double(grew), "\(name)") }
        // Both requests, from the start on.
        for (name, value) in [
          ("skyproxy_arrivals_total", 2.0), ("skyproxy_attempts_total\(label)}", 2), ("skyproxy_in_flight\(label)}", 0),
          ("skyproxy_connects_total\(label)}", 2),
          ("skyproxy_bytes_total\(label),direction=\"to_replica\"}", Double(toReplica)), ("skyproxy_exchange_drift", 0),
        ] {
          #expect(after[name] == value, "\(name)")
        }
      }
    }

    /// The proxy's clock and this one tick alike, but a value is written with three or nine digits.
    private func isWithin(_ seconds: Double, _ range: ClosedRange<Double>) -> Bool {
      seconds >= range.lowerBound - 0.001 && seconds <= range.upperBound + 0.001
    }

    /// The numbers of /metrics, by name and labels.
    private struct Page {
      private var values: [String: Double] = [:]

      init(_ proxy: ProxyProcess) throws {
        for line in try proxy.askAdmin("GET", "/metrics").text.split(separator: "\n") where !line.hasPrefix("#") {
          guard let space = line.lastIndex(of: " ") else { continue }
          values[String(line[..<space])] = Double(line[line.index(after: space)...])
        }
      }

      subscript(name: String) -> Double? { values[name] }

      /// What is not there before the first request counts as 0; what is not there after it is not a number.
      func grew(_ name: String, since before: Page) -> Double { (values[name] ?? .nan) - (before.values[name] ?? 0) }

      func buckets(_ family: String, _ label: String, since before: Page) -> [(bound: Double, grew: Double)] {
        let start = "\(family)_bucket\(label),le=\""
        return values.keys.filter { $0.hasPrefix(start) }.map { name in
          let bound = name.dropFirst(start.count).dropLast(2)
          return (bound == "+Inf" ? .infinity : Double(bound) ?? .nan, grew(name, since: before))
        }
      }
    }
  }
}
