// Compile-time gates over the engine: nobody calls these. An allocation, a reference count or a lock anywhere below one
// turn of a worker is a compile error, because the whole call tree is checked with a ring that does nothing. C calls
// are refused by the check, so the real ring is measured at run time instead (Benchmarks/alloc-gate). Only in release
// builds: debug ones compile one file at a time.

#if !DEBUG

  /// A ring that does nothing, so that everything above it can be checked.
  struct NullIO: RingIO, ~Copyable {
    var now: UInt64 = 0
    private let buffer: UnsafeMutableRawPointer
    private var pending: Completion?

    init(buffer: UnsafeMutableRawPointer) { self.buffer = buffer }

    mutating func random() -> UInt64 { now }
    mutating func submitAndWait(until deadline: UInt64) { now = deadline }
    mutating func next() -> Completion? {
      let completion = pending
      pending = nil
      return completion
    }
    mutating func accept(on listener: Int32, token: Token) { complete(token, listener) }
    mutating func receive(_ fd: Int32, limit: UInt32, pollFirst: Bool, token: Token) { complete(token, fd) }
    mutating func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int, token: Token) { complete(token, fd) }
    mutating func send(_ fd: Int32, gathering slices: UnsafePointer<IOSlice>, _ count: Int, token: Token) {
      complete(token, fd)
    }
    mutating func watch(_ fd: Int32, token: Token) { complete(token, fd) }
    mutating func connect(_ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token) { complete(token, fd) }
    mutating func shutdown(_ fd: Int32, _ how: ShutdownHow, token: Token) { complete(token, fd) }
    mutating func close(_ fd: Int32, token: Token) { complete(token, fd) }
    mutating func cancel(_ target: Token, token: Token) { complete(token, 0) }
    mutating func armWake(token: Token) { complete(token, 0) }
    mutating func openSocket(for address: UnsafePointer<SocketAddress>) -> Int32 { 3 }
    mutating func delayAcks(_ fd: Int32, _ isOn: Bool) {}
    mutating func resetOnClose(_ fd: Int32) {}
    mutating func unread(on fd: Int32) -> Unread { Unread(bytes: Int(fd), silenceNs: now) }
    mutating func unacknowledgedNs(on fd: Int32) -> UInt64 { now }
    mutating func peerAddress(of fd: Int32) -> SocketAddress { SocketAddress() }
    var bufferSize: Int { 65536 }
    var bufferCount: Int { 64 }
    var buffersFree: Int { 64 }
    var buffersNext: Int { 64 }
    func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer { self.buffer }
    mutating func giveBack(_ buffer: BufferID) {}

    private mutating func complete(_ token: Token, _ result: Int32) {
      pending = Completion(token: token, result: result)
    }
  }

  @_noAllocation @_noLocks
  func gateTurn(_ worker: inout Worker<NullIO>) { worker.turn() }

#endif
