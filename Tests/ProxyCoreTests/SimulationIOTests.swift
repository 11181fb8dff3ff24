// The simulated ring itself: it moves bytes as sockets do, and misuse of each kind is found.

import Glibc
import ProxyCore
import ProxySim
import Testing

@Suite struct SimulationIOTests {
  /// A worker's life in small: an accepted client that has said "hello".
  private struct Bench: ~Copyable {
    let world: World
    var io: SimIO
    var fd: Int32 = -1
    private(set) var seen: [Completion] = []
    let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 1 << 20)

    init(seed: UInt64 = 1, profile: String = "calm", saying text: String = "hello") {
      self.init(seed: seed, profile: Profile.named(profile)!, saying: text)
    }

    init(seed: UInt64 = 1, profile: Profile, saying text: String) {
      world = World(seed: seed, profile: profile)
      io = SimIO(world)
      room.initialize(repeating: 0x61, count: 1 << 20)
      io.accept(on: World.listener, token: Token(.accept, slot: 0, generation: 0))
      world.dial(saying: text)
      fd = wait(for: .accept)?.result ?? -1
    }

    deinit { room.deallocate() }

    /// Turns until a completion of the operation comes; nil when nothing more happens.
    mutating func wait(for operation: ProxyCore.Operation) -> Completion? {
      for _ in 0..<10_000 {
        io.submitAndWait(until: .max)
        var found: Completion?
        while let completion = io.next() {
          seen.append(completion)
          if completion.token.operation == operation && found == nil { found = completion }
          // An accept that has ended is armed again, as the engine does.
          if completion.token.operation == .accept && !completion.more {
            io.accept(on: World.listener, token: Token(.accept, slot: 0, generation: 0))
          }
        }
        if let found { return found }
        if world.isIdle { return nil }
      }
      return nil
    }

    mutating func receive(_ generation: UInt32 = 1) {
      io.receive(fd, limit: 65_536, pollFirst: false, token: Token(.receive, slot: 1, generation: generation))
    }
    mutating func send(_ count: Int, _ generation: UInt32 = 1) {
      io.send(fd, room, count, token: Token(.send, slot: 1, generation: generation))
    }
    mutating func close() { io.close(fd, token: Token(.close, slot: 1, generation: 1)) }
  }

  private func expectFound(_ text: String, _ bench: borrowing Bench) {
    #expect(bench.world.failure?.contains(text) == true, "\(bench.world.failure ?? "nothing was found")")
  }

  // MARK: what must work

  @Test func bytesArriveInOrder() {
    let text = String((0..<3_000).map { Character(UnicodeScalar(UInt8(97 + $0 % 26))) })
    for seed in 1...20 as ClosedRange<UInt64> {
      var bench = Bench(seed: seed, profile: "choppy", saying: text)
      var got = ""
      var armed = false
      // Sockets may be smaller than the text: what fitted when it was said must come.
      while got.count < 3_000 {
        if !armed { bench.receive() }
        armed = true
        let before = bench.seen.count
        guard bench.wait(for: .receive) != nil else { break }
        for completion in bench.seen[before...] where completion.token.operation == .receive {
          armed = completion.more
          guard completion.result > 0 else { continue }
          let bytes = UnsafeRawBufferPointer(
            start: bench.io.bytes(of: completion.buffer), count: Int(completion.result))
          got += String(decoding: bytes, as: UTF8.self)
          bench.io.giveBack(completion.buffer)
        }
      }
      #expect(!got.isEmpty && text.hasPrefix(got))
      #expect(bench.world.failure == nil)
      #expect(bench.io.buffersFree == bench.io.bufferCount)
    }
  }

  @Test func buffersRunOut() {
    var bench = Bench(profile: "calm")
    var last: Int32 = 0
    for _ in 0...bench.io.bufferCount {
      bench.world.dial(saying: "x")
      guard let fd = bench.wait(for: .accept)?.result else { break }
      bench.io.receive(fd, limit: 1, pollFirst: false, token: Token(.receive, slot: UInt32(fd), generation: 1))
      last = bench.wait(for: .receive)?.result ?? 0
    }
    #expect(last == -ENOBUFS)
    #expect(bench.io.buffersFree == 0)
  }

  @Test func resetIsReportedOnce() {
    var bench = Bench(saying: "")
    bench.receive()
    bench.world.hangUp()
    #expect(bench.wait(for: .receive)?.result == -ECONNRESET)
    bench.receive(2)
    #expect(bench.wait(for: .receive)?.result == 0)
    bench.send(3)
    #expect(bench.wait(for: .send)?.result == -EPIPE)
    #expect(bench.world.failure == nil)
  }

  @Test func cancelEndsItsTarget() {
    for seed in 1...30 as ClosedRange<UInt64> {
      var bench = Bench(seed: seed, saying: "")
      bench.receive()
      bench.io.submitAndWait(until: bench.io.now)
      while bench.io.next() != nil {}
      bench.io.cancel(Token(.receive, slot: 1, generation: 1), token: Token(.cancel, slot: 1, generation: 1))
      while !(bench.seen.contains { $0.token.operation == .cancel }
        && bench.seen.contains { $0.token.operation == .receive }),
        bench.wait(for: .receive) != nil || !bench.world.isIdle
      {}
      #expect(bench.seen.last { $0.token.operation == .receive }?.result == -ECANCELED)
      let cancel = bench.seen.last { $0.token.operation == .cancel }?.result
      #expect(cancel == 0 || cancel == -EALREADY)
    }
  }

  /// As seen of Linux 6.18: each change is told with all that is so then, and only a cancel ends it.
  @Test func watchesOfManyShotsTellEachChange() {
    var profile = Profile.named("calm")!
    profile.endEarly = 0
    var bench = Bench(profile: profile, saying: "")
    bench.io.watch(bench.fd, token: Token(.watch, slot: 1, generation: 1))
    bench.world.endHalf()
    #expect(bench.wait(for: .watch)?.result == 0x2000)
    bench.world.hangUp()
    #expect(bench.wait(for: .watch)?.result == 0x2018)
    #expect(bench.wait(for: .watch) == nil)
    bench.io.cancel(Token(.watch, slot: 1, generation: 1), token: Token(.cancel, slot: 1, generation: 1))
    #expect(bench.wait(for: .watch)?.result == -ECANCELED)
    #expect(bench.seen.filter { $0.token.operation == .watch }.map(\.more) == [true, true, false])
  }

  /// Nothing comes from a peer that has vanished, until nobody has answered the kernel's probes.
  @Test func vanishedPeersAreFoundByProbes() {
    var bench = Bench(saying: "")
    bench.receive()
    let before = bench.io.now
    bench.world.vanish()
    #expect(bench.wait(for: .receive)?.result == -ETIMEDOUT)
    #expect(bench.io.now - before >= 3_000_000_000)
  }

  // MARK: what must be found

  /// A receive that finds no buffer and is armed again at once.
  @Test func findsSpinning() {
    var bench = Bench()
    while bench.io.buffersFree > 0 {
      bench.world.dial(saying: "x")
      guard let fd = bench.wait(for: .accept)?.result else { break }
      bench.io.receive(fd, limit: 1, pollFirst: false, token: Token(.receive, slot: UInt32(fd), generation: 1))
      _ = bench.wait(for: .receive)
    }
    for generation in 1...4_000 as ClosedRange<UInt32> where bench.world.failure == nil {
      bench.receive(generation)
      _ = bench.wait(for: .receive)
    }
    expectFound("the worker spins", bench)
  }

  @Test func findsUseOfClosedDescriptors() {
    var bench = Bench()
    bench.close()
    bench.send(5)
    expectFound("which is not open", bench)
  }

  @Test func findsSecondClose() {
    var bench = Bench()
    bench.close()
    bench.close()
    expectFound("which is not open", bench)
  }

  @Test func findsCloseWithOperationsInFlight() {
    var bench = Bench()
    bench.receive()
    bench.close()
    expectFound("operations in flight", bench)
  }

  @Test func findsSecondSend() {
    var bench = Bench()
    bench.send(5)
    bench.send(5, 2)
    expectFound("a second send", bench)
  }

  @Test func findsSecondReceive() {
    var bench = Bench()
    bench.receive()
    bench.receive(2)
    expectFound("a second receive", bench)
  }

  @Test func findsReusedTokens() {
    var bench = Bench()
    bench.world.dial(saying: "")
    let other = bench.wait(for: .accept)?.result ?? -1
    bench.receive()
    bench.io.receive(other, limit: 1, pollFirst: false, token: Token(.receive, slot: 1, generation: 1))
    expectFound("in flight already", bench)
  }

  @Test func findsTokensOfAnotherOperation() {
    var bench = Bench()
    bench.io.send(bench.fd, bench.room, 1, token: Token(.receive, slot: 1, generation: 1))
    expectFound("a token that says", bench)
  }

  @Test func findsBytesThatChangeWhileSent() {
    var bench = Bench()
    bench.send(700_000)
    bench.room[5] = 0x7A
    _ = bench.wait(for: .send)
    bench.world.hangUp()
    _ = bench.wait(for: .send)
    expectFound("bytes changed", bench)
  }

  @Test func findsEmptySlices() {
    var bench = Bench()
    bench.send(0)
    expectFound("an empty slice", bench)
  }

  @Test func findsBuffersGivenBackTwice() {
    var bench = Bench()
    bench.receive()
    let buffer = bench.wait(for: .receive)?.buffer ?? .none
    bench.io.giveBack(buffer)
    #expect(bench.world.failure == nil)
    bench.io.giveBack(buffer)
    expectFound("given back without being lent", bench)
  }

  @Test func findsUseOfBuffersGivenBack() {
    var bench = Bench()
    bench.receive()
    let buffer = bench.wait(for: .receive)?.buffer ?? .none
    let bytes = bench.io.bytes(of: buffer)
    #expect(bytes.load(as: UInt8.self) == 0x68)
    bench.io.giveBack(buffer)
    // Who kept the address reads rubbish, who asks again is told.
    #expect(bytes.load(as: UInt8.self) == 0xDD)
    _ = bench.io.bytes(of: buffer)
    expectFound("without being lent", bench)
  }

  @Test func findsSendsAfterShutdown() {
    var bench = Bench()
    bench.io.shutdown(bench.fd, .write, token: Token(.shutdown, slot: 1, generation: 1))
    _ = bench.wait(for: .shutdown)
    bench.send(3)
    expectFound("send after shutdown", bench)
  }

  @Test func findsConnectsToNowhere() {
    var bench = Bench()
    var address = SocketAddress()
    let fd = bench.io.openSocket(for: &address)
    withUnsafePointer(to: address) { bench.io.connect(fd, to: $0, token: Token(.connect, slot: 2, generation: 1)) }
    expectFound("connect to no address", bench)
  }

  @Test func findsTooManyOperations() {
    var bench = Bench()
    bench.world.completionRoom = 2
    bench.receive()
    bench.send(3)
    expectFound("more operations in flight", bench)
  }
}
