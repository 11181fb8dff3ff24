// Where a worker meets the thread that speaks TLS for its clients (Tls/TlsThread). Accepted sockets go there; what
// comes back, when the handshake is done, is one end of a socket pair that carries the plain bytes, and to the engine
// that is a client like any other. Words in shared memory, each written by one side; nobody waits for the other.
//
//   accept ──▶ accepted ──▶ TLS thread: handshake, records ──▶ arrivals ──▶ a slot of the worker
//                              (holds the client's socket)                  (holds the plain end)

import Synchronization

/// Plain values from one thread to another, first in first out.
package struct HandRing<Element: BitwiseCopyable>: ~Copyable {
  private let taken = AtomicWord(0)
  private let put = AtomicWord(0)
  private let elements: UnsafeMutablePointer<Element>
  private let mask: UInt32

  /// How many there is room for when at least `count` are wanted.
  package static func room(atLeast count: Int) -> Int {
    var capacity = 64
    while capacity < count { capacity *= 2 }
    return capacity
  }

  package init(atLeast count: Int) {
    let capacity = HandRing.room(atLeast: count)
    mask = UInt32(capacity - 1)
    elements = mapZeroed(capacity)
  }

  /// From the giving thread. False: it is full.
  package borrowing func put(_ element: Element) -> Bool {
    let end = put.load(ordering: .relaxed)
    guard end &- taken.load(ordering: .acquiring) <= mask else { return false }
    elements[Int(end & mask)] = element
    // In one order with what is done about a bell, so that nothing is overlooked.
    put.store(end &+ 1, ordering: .sequentiallyConsistent)
    return true
  }

  /// From the taking thread.
  package borrowing func take() -> Element? {
    let start = taken.load(ordering: .relaxed)
    guard start != put.load(ordering: .sequentiallyConsistent) else { return nil }
    let element = elements[Int(start & mask)]
    taken.store(start &+ 1, ordering: .releasing)
    return element
  }
}

/// How workers wake a TLS thread: a byte into a socket, at most one at a time.
package struct TlsBell: ~Copyable {
  /// 1 from the byte's sending until the thread has woken; it looks at its rings only then.
  package let isRung = AtomicWord(0)
  package let fd: Int32
  /// The byte.
  package let byte: UnsafeMutablePointer<UInt8>

  package init(fd: Int32) {
    self.fd = fd
    byte = mapZeroed(1)
  }
}

/// One client of a TLS thread: what its two sides say to each other beside the bytes.
package struct TlsSeat: ~Copyable {
  /// Times the seat was given, in the upper half; `TlsMark` bits below.
  package let word = AtomicWord(0)

  /// Sets a mark while the seat is still the client's that `name` means.
  package borrowing func mark(_ name: TlsName, _ mark: TlsMark) {
    var word = word.load(ordering: .relaxed)
    while word >> 16 == name.generation {
      let outcome = self.word.compareExchange(
        expected: word, desired: word | mark.rawValue, ordering: .acquiringAndReleasing)
      if outcome.exchanged { return }
      word = outcome.original
    }
  }

  /// The marks of the client that `name` means, nil when it is gone.
  package borrowing func marks(_ name: TlsName) -> UInt32? {
    let word = word.load(ordering: .acquiring)
    return word >> 16 == name.generation ? word & 0xFFFF : nil
  }
}

/// What one side says of a connection before it ends its end of the pair.
package enum TlsMark: UInt32, BitwiseCopyable {
  /// Worker: the response broke off. The client must see that: no close_notify.
  case cut = 1
  /// Worker: and its framing would not show it, or it takes nothing: RST.
  case reset = 2
  /// TLS thread: the client's connection has broken off; this is no half-close.
  case clientGone = 4
}

/// Names a seat and the time it was given, so that a name kept too long means nobody.
package struct TlsName: BitwiseCopyable, Equatable {
  package let raw: UInt32
  @inline(__always)
  package init(raw: UInt32) { self.raw = raw }
  package init(seat: Int, generation: UInt32) { raw = UInt32(seat) | generation << 16 }
  @inline(__always)
  package var seat: Int { Int(raw & 0xFFFF) }
  @inline(__always)
  package var generation: UInt32 { raw >> 16 }
}

/// A client whose handshake is done.
package struct TlsArrival: BitwiseCopyable {
  package let name: TlsName
  /// The worker's end of the pair.
  package let plain: Int32
  package let address: SocketAddress
  package init(name: TlsName, plain: Int32, address: SocketAddress) {
    self.name = name
    self.plain = plain
    self.address = address
  }
}

package struct TlsPort: ~Copyable {
  /// 1 = new clients speak TLS.
  package let isOn = AtomicWord(0)
  /// Descriptors, worker to TLS thread.
  package let accepted: HandRing<Int32>
  /// TLS thread to worker.
  package let arrivals: HandRing<TlsArrival>
  package let seats: UnsafeMutablePointer<TlsSeat>
  package let bell: UnsafeMutablePointer<TlsBell>

  package init(clients: Int, seats: UnsafeMutablePointer<TlsSeat>, bell: UnsafeMutablePointer<TlsBell>) {
    accepted = HandRing(atLeast: clients)
    arrivals = HandRing(atLeast: clients)
    self.seats = seats
    self.bell = bell
  }
}

extension Worker where IO: ~Copyable {
  /// A client has been accepted; with it, `open` connections are. True: TLS is on, and the client is no longer ours.
  mutating func handToTls(_ fd: Int32, open: UInt32) -> Bool {
    guard let port = control.pointee.tls.load(ordering: .acquiring),
      port.pointee.isOn.load(ordering: .acquiring) != 0
    else { return false }
    // A client beyond the limit gets no answer: the handshake it would take is what there is no room for.
    guard !draining, Int(open) <= config.maxConnections, port.pointee.accepted.put(fd) else {
      board.shared.pointee.connections.wrappingSubtract(1, ordering: .relaxed)
      counters.worker.pointee.shedConnections &+= 1
      io.close(fd, token: Token(.close, slot: noSlot, generation: 0))
      return true
    }
    counters.worker.pointee.accepted &+= 1
    let bell = port.pointee.bell
    if bell.pointee.isRung.exchange(1, ordering: .sequentiallyConsistent) == 0 {
      io.send(bell.pointee.fd, bell.pointee.byte, 1, token: Token(.send, slot: noSlot, generation: 0))
    }
    return true
  }

  /// Clients whose handshake is done. The TLS thread keeps them in its count until it closes their socket.
  mutating func takeArrivals() {
    guard let port = control.pointee.tls.load(ordering: .acquiring) else { return }
    while let arrival = port.pointee.arrivals.take() {
      guard !draining, let slot = claimConnection(fd: arrival.plain, side: .downstream, state: .readingHead) else {
        counters.worker.pointee.shedConnections &+= 1
        io.close(arrival.plain, token: Token(.close, slot: noSlot, generation: 0))
        continue
      }
      let connection = connections[slot]
      connection.pointee.flags.insert(.tls)
      connection.pointee.tlsName = arrival.name
      connection.pointee.peerCount = UInt8(
        writeAddressText(arrival.address, into: peerTexts + Int(slot) * peerTextStride))
      armReceive(slot, pollFirst: false)
      arm(slot, .idle, after: min(config.idleTimeoutNs, config.headTimeoutNs))
    }
  }

  /// Says how the client's stream is about to end; nothing to say where no TLS thread listens.
  mutating func markTls(_ slot: UInt32, _ mark: TlsMark) {
    let connection = connections[slot]
    guard connection.pointee.flags.contains(.tls),
      let port = control.pointee.tls.load(ordering: .acquiring)
    else { return }
    let name = connection.pointee.tlsName
    port.pointee.seats[name.seat].mark(name, mark)
  }

  /// The plain end has ended: because the client broke off, which a socket pair cannot tell from a half-close.
  mutating func tlsClientIsGone(_ slot: UInt32) -> Bool {
    let connection = connections[slot]
    guard connection.pointee.flags.contains(.tls),
      let port = control.pointee.tls.load(ordering: .acquiring)
    else { return false }
    let name = connection.pointee.tlsName
    guard let marks = port.pointee.seats[name.seat].marks(name) else { return true }
    return marks & TlsMark.clientGone.rawValue != 0
  }
}
