// A client that stops reading holds a bounded number of bytes, and nobody else notices.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct SlowReaders {
    private static let block = (0..<65_536).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8) }
    private static let blocks = 1024  // 64 MiB

    /// Answers /small with a word, /huge with 64 MiB, anything else with 1 MiB.
    private func bigOrigin(_ sent: Shared<Int> = Shared(0)) throws -> Origin {
      try Origin { visit in
        while let request = try visit.request() {
          if request.target == "/small" {
            try visit.send(responseText("small"))
            continue
          }
          let blocks = request.target == "/huge" ? Self.blocks : 16
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: \(blocks * Self.block.count)\r\n\r\n")
          for _ in 0..<blocks {
            var left = Self.block[...]
            while !left.isEmpty {
              // The script ends when the proxy does.
              guard let count = try? visit.wire.sendSome(Array(left), stall: 1) else { return }
              sent.with { $0 += count }
              left = left.dropFirst(count)
            }
          }
        }
      }
    }

    /// One response of 1 MiB, whole and unchanged.
    private func readMega(_ wire: Wire) throws -> Bool {
      guard try wire.readResponseHead().status == 200 else { return false }
      for _ in 0..<16 where try wire.read(count: Self.block.count) != Self.block { return false }
      return true
    }

    /// Clients that ask for `target` and read nothing.
    private func stoppedClients(_ count: Int, _ target: String, of proxy: ProxyProcess) throws -> [Wire] {
      try (0..<count).map { _ in
        let wire = try proxy.connect(receiveBuffer: 4096)
        try wire.send(requestText("GET", target))
        return wire
      }
    }

    /// What --print-plan promises for one worker with these flags, and what the process has now, in MiB.
    private func plannedMemory(_ flags: [String] = []) throws -> Double {
      let plan = try run(Places.program("sky-proxy"), ["--print-plan", "--workers", "1"] + flags).output
      let line = plan.split(separator: "\n").first { $0.hasPrefix("  total ") }
      guard let word = line?.split(separator: " ").dropFirst().first, let planned = Double(word) else {
        throw TestFailure("no total in: \(plan)")
      }
      return planned
    }

    private func residentMemory(_ proxy: ProxyProcess) throws -> Double {
      let status = try String(contentsOfFile: "/proc/\(proxy.child.pid)/status", encoding: .utf8)
      let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
      guard let word = line?.split(separator: " ").dropFirst().first, let kib = Double(word) else {
        throw TestFailure("no VmHWM in: \(status)")
      }
      return kib / 1024
    }

    @Test func aStoppedClientHoldsLittle() throws {
      let sent = Shared(0)
      try withProxy([try bigOrigin(sent)]) { proxy in
        let wire = try proxy.connect(receiveBuffer: 65_536)
        try wire.send(requestText("GET", "/huge"))
        // Nothing has moved for a second: everything that can be held is held.
        var last = -1
        let isStalled = eventually {
          let now = sent.value
          defer { last = now }
          usleep(500_000)
          return now > 0 && now == last
        }
        #expect(isStalled)
        // The stream window and what the kernel holds in four socket buffers.
        #expect(sent.value < 16 << 20, "\(sent.value) bytes were taken for a client that does not read")
        for _ in 0..<50 {
          let (seconds, response) = try timed { try proxy.ask("GET", "/small") }
          #expect(response.text == "small")
          #expect(seconds < 5, "another client waited \(seconds) s")
        }
        // It goes on where it stopped, and nothing is missing.
        _ = try wire.readResponseHead()
        for index in 0..<Self.blocks {
          guard try wire.read(count: Self.block.count) == Self.block else {
            Issue.record("block \(index) is not what was sent")
            return
          }
        }
      }
    }

    /// More stopped readers than there are lent buffers: what waits for them spills, everybody else is served as ever,
    /// nobody is closed, memory stays within the plan, and who reads again misses nothing.
    @Test func aThousandStoppedClientsDoNotStopTheOthers() throws {
      let flags = ["--send-buffer", "16k"]
      try withProxy([try bigOrigin()], "--send-buffer", "16k") { proxy in
        let free = try proxy.metric("skyproxy_buffers_free")
        let stopped = try stoppedClients(1000, "/mega", of: proxy)
        #expect(eventually { try proxy.inFlight() == 1000 })
        let hammer = Hammer(proxy.address, clients: 4, request: requestText("GET", "/small")) { $0.text == "small" }
        let readers = try (0..<4).map { _ in try proxy.connect() }
        for round in 0..<10 {
          for reader in readers { try reader.send(requestText("GET", "/mega")) }
          for reader in readers { #expect(try readMega(reader), "round \(round)") }
        }
        #expect(eventually { hammer.answered >= 500 })
        hammer.stop()
        #expect(hammer.problems == [])
        #expect(try proxy.metric("skyproxy_slow_clients_shed_total") == 0)
        #expect(try proxy.metric("skyproxy_spilled_bytes_total") > 0)
        #expect(eventually { try proxy.metric("skyproxy_buffers_free") >= free / 4 })
        #expect(try residentMemory(proxy) < plannedMemory(flags))
        for wire in stopped[..<50] { #expect(try readMega(wire)) }
        for wire in stopped { wire.reset() }
        #expect(eventually { try proxy.inFlight() == 0 })
        #expect(eventually { try proxy.metric("skyproxy_spill_bytes_used") == 0 })
      }
    }

    /// With less spill memory than they need, or none, those that stopped first are closed and the others served.
    @Test(arguments: ["1m", "off"])
    func stoppedClientsAreClosedWhenMemoryIsUsedUp(spill: String) throws {
      try withProxy(
        [try bigOrigin()], "--buffers", "64", "--send-buffer", "16k", "--spill-memory", spill
      ) { proxy in
        let stopped = try stoppedClients(200, "/mega", of: proxy)
        let hammer = Hammer(proxy.address, clients: 4, request: requestText("GET", "/small")) { $0.text == "small" }
        #expect(eventually { try proxy.metric("skyproxy_slow_clients_shed_total") >= 50 })
        let before = hammer.answered
        #expect(eventually { hammer.answered >= before + 300 })
        hammer.stop()
        #expect(hammer.problems == [])
        #expect(try proxy.metric("skyproxy_spill_bytes_used") <= 1_048_576)
        // The closed ones see a reset, not an end that could be taken for a whole answer.
        #expect(stopped.contains { $0.awaitEnd(0.2) == .reset })
        for wire in stopped { wire.reset() }
        #expect(eventually { try proxy.inFlight() == 0 })
      }
    }

    /// Uploads to a replica that does not read hold as little as downloads to clients that do not.
    @Test func aReplicaThatStopsReadingDoesNotStopTheOthers() throws {
      let over = Event()
      let origin = try Origin(receiveBuffer: 4096) { visit in
        while let request = try visit.head() {
          if request.method == "PUT" {
            over.wait(60)
            return
          }
          try visit.send(responseText("here"))
        }
      }
      try withProxy([origin], "--buffers", "64") { proxy in
        let body = Array(repeating: UInt8(ascii: "x"), count: 8 << 20)
        let uploads = try (0..<48).map { _ in
          let wire = try proxy.connect(sendBuffer: 65_536)
          try wire.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n")
          #expect(try wire.sendSome(body, stall: 0.01) < body.count)
          return wire
        }
        // A busy proxy has not taken all that it will yet.
        #expect(
          eventually {
            for wire in uploads { _ = try wire.sendSome(body, stall: 0) }
            return try proxy.metric("skyproxy_spilled_bytes_total") > 0
          })
        let hammer = Hammer(proxy.address, clients: 4) { $0.text == "here" }
        #expect(eventually { hammer.answered >= 300 })
        hammer.stop()
        #expect(hammer.problems == [])
        for wire in uploads { wire.reset() }
        over.happen()
        #expect(eventually { try proxy.inFlight() == 0 })
      }
    }

    /// A reader that takes a little now and then is slow, not stalled, however long one piece takes to go.
    @Test func aSlowReaderIsNotStalled() throws {
      try withProxy([try bigOrigin()], "--stream-timeout", "2s", "--send-buffer", "16k") { proxy in
        let wire = try proxy.connect(receiveBuffer: 4096)
        try wire.send(requestText("GET", "/mega"))
        _ = try wire.readResponseHead()
        var left = 16 * Self.block.count
        let start = monotonic()
        while monotonic() - start < 5 {
          let piece = try wire.read(count: 8192)
          left -= piece?.count ?? 0
          #expect(piece != nil, "closed after \(monotonic() - start) s")
          if piece == nil { return }
          _ = always(for: 0.2) { true }
        }
        #expect(try wire.read(count: left) != nil)
        #expect(try proxy.metric("skyproxy_client_stalls_total") == 0)
      }
    }

    /// The other direction: a replica that does not read stops the client, not the proxy.
    @Test func aReplicaThatDoesNotReadStopsTheUpload() throws {
      let go = Event()
      let origin = try Origin { visit in
        guard var request = try visit.head() else { return }
        go.wait()
        try visit.wire.readBody(of: &request)
        try visit.send(responseText("\(request.body.count)"))
        _ = try visit.request()
      }
      try withProxy([origin]) { proxy in
        let wire = try proxy.connect()
        let total = Self.blocks * Self.block.count
        try wire.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \(total)\r\n\r\n")
        var sent = 0
        for _ in 0..<Self.blocks {
          let count = try wire.sendSome(Self.block, stall: 1)
          sent += count
          if count < Self.block.count { break }
        }
        #expect(sent < 16 << 20, "\(sent) bytes were taken for a replica that does not read")
        go.happen()
        let whole = Array(repeating: Self.block, count: 16).flatMap { $0 }
        while sent < total {
          let piece = min(whole.count, total - sent)
          try wire.send(Array(whole[..<piece]))
          sent += piece
        }
        #expect(try wire.readResponse().text == "\(total)")
      }
    }

    /// One that neither reads nor goes away is given up when the stream deadline has passed.
    @Test func aStalledClientIsGivenUp() throws {
      let sent = Shared(0)
      try withProxy([try bigOrigin(sent)], "--stream-timeout", "700ms") { proxy in
        let wire = try proxy.connect(receiveBuffer: 16_384)
        try wire.send(requestText("GET", "/huge"))
        #expect(eventually { try proxy.inFlight() == 0 && proxy.metric("skyproxy_client_stalls_total") == 1 })
        wire.close()
      }
    }
  }
}
