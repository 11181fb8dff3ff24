// A client that stops reading holds a bounded number of bytes, and nobody else notices.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct SlowReaders {
    private static let block = (0..<65_536).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8) }
    private static let blocks = 1024  // 64 MiB

    private func hugeOrigin(_ sent: Shared<Int>) throws -> Origin {
      try Origin { visit in
        while let request = try visit.request() {
          if request.target == "/small" {
            try visit.send(responseText("small"))
            continue
          }
          try visit.send("HTTP/1.1 200 OK\r\nContent-Length: \(Self.blocks * Self.block.count)\r\n\r\n")
          for _ in 0..<Self.blocks {
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

    @Test func aStoppedClientHoldsLittle() throws {
      let sent = Shared(0)
      try withProxy([try hugeOrigin(sent)]) { proxy in
        let wire = try proxy.connect(receiveBuffer: 65_536)
        try wire.send(requestText("GET", "/huge"))
        // Nothing has moved for a second: everything that can be held is held.
        var last = -1
        let isStalled = eventually(15) {
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
          #expect(seconds < 1, "another client waited \(seconds) s")
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

    @Test func manyStoppedClientsDoNotStopTheOthers() throws {
      let sent = Shared(0)
      try withProxy([try hugeOrigin(sent)]) { proxy in
        let wires = try (0..<40).map { _ in
          let wire = try proxy.connect(receiveBuffer: 16_384)
          try wire.send(requestText("GET", "/huge"))
          return wire
        }
        #expect(eventually { try proxy.inFlight() == 40 })
        let hammer = Hammer(proxy.address, clients: 4, request: requestText("GET", "/small")) { $0.text == "small" }
        #expect(eventually { hammer.answered >= 300 })
        hammer.stop()
        #expect(hammer.problems == [])
        #expect(hammer.slowest < 2, "another client waited \(hammer.slowest) s")
        for wire in wires { wire.reset() }
        #expect(eventually(2) { try proxy.inFlight() == 0 })
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
      try withProxy([try hugeOrigin(sent)], "--stream-timeout", "700ms") { proxy in
        let wire = try proxy.connect(receiveBuffer: 16_384)
        try wire.send(requestText("GET", "/huge"))
        #expect(eventually { try proxy.inFlight() == 1 })
        #expect(eventually(10) { try proxy.inFlight() == 0 && proxy.metric("skyproxy_client_stalls_total") == 1 })
        wire.close()
      }
    }
  }
}
