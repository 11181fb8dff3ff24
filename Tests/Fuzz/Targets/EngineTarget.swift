// A worker whose kernel, clients and replicas are the input: each byte chooses which operation in flight ends, how, and
// with which bytes, within what a kernel may do. Then everybody leaves, and everything must come home.

import Glibc

@testable import ProxyCore

/// What workers have mapped since the last input, to be taken back. Noted by sky-fuzz alone, whose one thread makes
/// thousands of them in a second; in the test process other tests have workers too.
nonisolated(unsafe) var mappings: [(UnsafeMutableRawPointer, Int)] = []

func fuzzEngine(_ input: UnsafeRawBufferPointer) {
  runEngine(input)
  for (start, count) in mappings { munmap(start, count) }
  mappings.removeAll(keepingCapacity: true)
}

private func runEngine(_ input: UnsafeRawBufferPointer) {
  var feed = Feed(input)
  let bufferBytes = [64, 256, 1024, 4096][feed.below(4)]
  var config = EngineConfig()
  config.maxConnections = 2 + feed.below(6)
  config.queueSize = 1 + feed.below(4)
  config.headBytesMax = 4096
  config.targetBytesMax = 1024
  config.fieldsMax = 32
  config.bodyBytesMax = feed.byte() & 1 == 0 ? 0 : 50
  config.streamWindow = UInt32(2 * bufferBytes)
  config.spillBytes = feed.byte() & 1 == 0 ? 0 : 2 * BlockPool.spillBytes
  config.halfCloseAnswers = feed.byte() & 1 == 0
  config.poolSize = 2
  let second: UInt64 = 1_000_000_000
  config.responseTimeoutNs = 20 * second
  config.streamTimeoutNs = 10 * second
  config.tunnelTimeoutNs = 30 * second
  let board = LoadBoard(capacity: 4)
  board.setPolicy(feed.byte() & 1 == 0 ? .leastLoad : .roundRobin)
  let limit = UInt32(feed.below(3))
  for place in 0..<2 {
    board.admit(
      place, at: .ipv4(10, 9, 0, UInt8(place), port: 80), weight: 1, maxInFlight: limit, draining: false)
  }
  let kernel = FuzzKernel(feed, buffers: 3 + feed.below(12), bufferBytes: bufferBytes)
  let control: UnsafeMutablePointer<WorkerControl> = mapZeroed(1)
  var worker = Worker(
    io: FuzzIO(kernel), config: config, board: board, counters: CounterSet(replicas: 4), control: control, log: nil)
  worker.listen(on: FuzzKernel.listener)
  while !kernel.feed.isEmpty {
    worker.turn()
    checkCounts(board)
  }
  // Everybody has left; whatever waits for a deadline meets it.
  var turns = 0
  while worker.leaks != WorkerLeaks(connections: 0, exchanges: 0, segments: 0, blocks: 0, buffersOut: 0) {
    worker.turn()
    checkCounts(board)
    turns += 1
    check(turns < 2_000, "not everything comes home: \(worker.leaks)")
  }
  let shared = board.shared
  check(
    shared.pointee.exchanges.load(ordering: .relaxed) == 0 && shared.pointee.queued.load(ordering: .relaxed) == 0
      && shared.pointee.connections.load(ordering: .relaxed) == 0, "something is still counted")
  kernel.free()
}

private func checkCounts(_ board: LoadBoard) {
  var inFlight: UInt32 = 0
  for place in 0..<board.count { inFlight += board.inFlight[place].load(ordering: .relaxed) }
  let queued = board.shared.pointee.queued.load(ordering: .relaxed)
  let exchanges = board.shared.pointee.exchanges.load(ordering: .relaxed)
  check(UInt32(exchanges) == inFlight + UInt32(queued), "exchanges that are open are neither leased nor queued")
}

/// What the peers like to say; most random bytes are refused at the first.
private let sayings: [[UInt8]] = [
  "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n",
  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "\r\n", "hello",
  "5\r\nhello\r\n", "0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "30\r\n", "x-padding-without-an-end-",
  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n",
  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 204 No\r\n\r\n",
  "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n",
  "HTTP/1.1 101 Up\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
  "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
  "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n",
].map { Array($0.utf8) }

final class FuzzKernel {
  static let listener: Int32 = 3
  private static let firstFd: Int32 = 10

  struct Op {
    var token: Token
    var fd: Int32
    var total = 0
    var limit = 0
    var moved = 0
    var target: Token?
    /// What a watch has told.
    var told: Int32 = 0
    var how = ShutdownHow.both
  }

  struct Socket {
    var isOpen = true
    /// The peer has sent its FIN; it has been received.
    var finCame = false
    var finTaken = false
    var isBroken = false
    var isShutRead = false
    var isShutWrite = false
    /// Bytes of a saying that did not fit.
    var left: [UInt8] = []
  }

  var feed: Feed
  var now: UInt64 = 1_000_000_000_000
  private var queued: [Op] = []
  private var inFlight: [Op] = []
  private var posted: [Completion] = []
  private var taken = 0
  private var sockets: [Socket] = []
  let bufferBytes: Int
  let bufferCount: Int
  private let memory: UnsafeMutableRawPointer
  private var freeBuffers: [Int32]

  init(_ feed: Feed, buffers: Int, bufferBytes: Int) {
    self.feed = feed
    self.bufferBytes = bufferBytes
    bufferCount = buffers
    memory = .allocate(byteCount: buffers * bufferBytes, alignment: 64)
    freeBuffers = Array(0..<Int32(buffers))
  }

  func free() { memory.deallocate() }

  // MARK: turns

  func submitAndWait(until deadline: UInt64) {
    posted.removeAll(keepingCapacity: true)
    taken = 0
    inFlight += queued
    queued = []
    now += 1_000
    if feed.isEmpty {
      leave(deadline)
      return
    }
    var most = 1 + feed.below(4)
    while most > 0 && !feed.isEmpty {
      most -= 1
      let choice = feed.byte()
      if choice >= 0xF0 {
        now += 1 << UInt64(20 + choice & 15)
        return
      }
      if !inFlight.isEmpty { end(Int(choice) % inFlight.count) }
    }
    if posted.isEmpty && deadline != .max && feed.byte() & 3 == 0 { now = max(now, deadline) }
  }

  func next() -> Completion? {
    guard taken < posted.count else { return nil }
    taken += 1
    return posted[taken - 1]
  }

  private func post(_ place: Int, _ result: Int32, buffer: BufferID = .none, more: Bool = false) {
    posted.append(Completion(token: inFlight[place].token, result: result, buffer: buffer, more: more))
    if !more { inFlight.remove(at: place) }
  }

  /// All peers go: whatever can end does, and time passes.
  private func leave(_ deadline: UInt64) {
    var place = 0
    while place < inFlight.count {
      let before = inFlight.count
      switch inFlight[place].token.operation {
      case .accept, .wake: break
      case .connect: post(place, -111)
      case .receive:
        let socket = inFlight[place].fd - FuzzKernel.firstFd
        sockets[Int(socket)].left = []
        sockets[Int(socket)].finCame = true
        end(place)
      case .send:
        inFlight[place].moved = inFlight[place].total
        post(place, Int32(inFlight[place].total))
      case .watch:
        sockets[Int(inFlight[place].fd - FuzzKernel.firstFd)].finCame = true
        end(place)
      case .shutdown, .close, .cancel: end(place)
      }
      if inFlight.count == before { place += 1 }
    }
    now += 100_000_000
    if posted.isEmpty && deadline != .max { now = max(now, deadline) }
  }

  // MARK: how operations end

  private func end(_ place: Int) {
    let op = inFlight[place]
    switch op.token.operation {
    case .accept:
      sockets.append(Socket())
      post(place, FuzzKernel.firstFd + Int32(sockets.count - 1), more: true)
    case .wake: post(place, 8)
    case .connect: post(place, [0, 0, 0, -111, -110, -99][feed.below(6)])
    case .receive: endReceive(place, Int(op.fd - FuzzKernel.firstFd))
    case .send: endSend(place, Int(op.fd - FuzzKernel.firstFd))
    case .watch: endWatch(place, Int(op.fd - FuzzKernel.firstFd))
    case .shutdown:
      let socket = Int(op.fd - FuzzKernel.firstFd)
      sockets[socket].isShutWrite = true
      if op.how == .both { sockets[socket].isShutRead = true }
      post(place, 0)
    case .close: post(place, 0)
    case .cancel:
      // Its target ends with it, or soon, or has ended.
      post(place, inFlight.contains { $0.token == op.target } ? 0 : -2)
      guard let target = inFlight.firstIndex(where: { $0.token == op.target }) else { return }
      let hasSent = inFlight[target].token.operation == .send && inFlight[target].moved > 0
      post(target, hasSent ? Int32(inFlight[target].moved) : -125)
    }
  }

  private func endReceive(_ place: Int, _ socket: Int) {
    if sockets[socket].isBroken && !sockets[socket].finTaken {
      sockets[socket].finTaken = true
      post(place, -104)
      return
    }
    if sockets[socket].isShutRead || sockets[socket].finTaken {
      post(place, 0)
      return
    }
    if sockets[socket].left.isEmpty {
      if sockets[socket].finCame {
        sockets[socket].finTaken = true
        post(place, 0)
        return
      }
      let what = feed.byte()
      switch what {
      case 0xFF: sockets[socket].isBroken = true
      case 0xFE: sockets[socket].finCame = true
      case 0xE0...0xFD: sockets[socket].left = feed.bytes(Int(what & 31) + 1)
      default: sockets[socket].left = sayings[Int(what) % sayings.count]
      }
      guard !sockets[socket].left.isEmpty else { return }
    }
    guard let buffer = freeBuffers.popLast() else {
      post(place, -105)
      return
    }
    let piece = feed.byte()
    let count = min(sockets[socket].left.count, bufferBytes, piece & 1 == 0 ? .max : Int(piece >> 1) + 1)
    for index in 0..<count {
      memory.storeBytes(
        of: sockets[socket].left[index], toByteOffset: Int(buffer) * bufferBytes + index, as: UInt8.self)
    }
    sockets[socket].left.removeFirst(count)
    inFlight[place].moved += count
    post(place, Int32(count), buffer: BufferID(buffer), more: inFlight[place].moved < inFlight[place].limit)
  }

  private func endSend(_ place: Int, _ socket: Int) {
    let op = inFlight[place]
    if sockets[socket].isBroken || sockets[socket].isShutWrite {
      post(place, op.moved > 0 ? Int32(op.moved) : -32)
      return
    }
    switch feed.byte() {
    case 0xFF:
      sockets[socket].isBroken = true
      post(place, op.moved > 0 ? Int32(op.moved) : -104)
    case 0xC0...0xFE: inFlight[place].moved = op.moved + (op.total - op.moved) / 2
    default: post(place, Int32(op.total))
    }
  }

  /// As poll(2) under io_uring: the FIN is told whatever was asked.
  private func endWatch(_ place: Int, _ socket: Int) {
    var found: Int32 = 0
    if sockets[socket].isBroken { found |= PeerEnd.broken | PeerEnd.both }
    if sockets[socket].finCame || sockets[socket].isShutRead { found |= PeerEnd.fin }
    if found & PeerEnd.fin != 0 && sockets[socket].isShutWrite { found |= PeerEnd.both }
    guard found & ~inFlight[place].told != 0 else { return }
    inFlight[place].told |= found
    post(place, found, more: true)
  }

  // MARK: what the engine asks for

  func queue(_ op: Op) {
    if op.fd >= FuzzKernel.firstFd {
      check(sockets[Int(op.fd - FuzzKernel.firstFd)].isOpen, "\(op.token.operation) on a descriptor that is closed")
    }
    if op.token.operation == .close { sockets[Int(op.fd - FuzzKernel.firstFd)].isOpen = false }
    queued.append(op)
  }

  func openSocket() -> Int32 {
    if feed.byte() == 0xFF { return -24 }
    sockets.append(Socket())
    return FuzzKernel.firstFd + Int32(sockets.count - 1)
  }

  func unread(_ fd: Int32) -> Int { sockets[Int(fd - FuzzKernel.firstFd)].left.count }

  var buffersFree: Int { freeBuffers.count }
  func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer { memory + Int(buffer.raw) * bufferBytes }
  func giveBack(_ buffer: BufferID) {
    check(!freeBuffers.contains(buffer.raw), "a buffer is given back twice")
    freeBuffers.append(buffer.raw)
  }
}

struct FuzzIO: RingIO, ~Copyable {
  private let kernel: FuzzKernel
  private var counter: UInt64 = 0

  init(_ kernel: FuzzKernel) { self.kernel = kernel }

  var now: UInt64 { kernel.now }
  mutating func random() -> UInt64 {
    counter &+= 0x9E37_79B9_7F4A_7C15
    return counter
  }
  mutating func submitAndWait(until deadline: UInt64) { kernel.submitAndWait(until: deadline) }
  mutating func next() -> Completion? { kernel.next() }
  mutating func accept(on listener: Int32, token: Token) { kernel.queue(.init(token: token, fd: -1)) }
  mutating func receive(_ fd: Int32, limit: UInt32, pollFirst: Bool, token: Token) {
    kernel.queue(.init(token: token, fd: fd, limit: max(1, Int(limit))))
  }
  mutating func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int, token: Token) {
    kernel.queue(.init(token: token, fd: fd, total: count))
  }
  mutating func send(_ fd: Int32, gathering slices: UnsafePointer<IOSlice>, _ count: Int, token: Token) {
    var total = 0
    for index in 0..<count { total += slices[index].count }
    kernel.queue(.init(token: token, fd: fd, total: total))
  }
  mutating func watch(_ fd: Int32, token: Token) { kernel.queue(.init(token: token, fd: fd)) }
  mutating func connect(_ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token) {
    kernel.queue(.init(token: token, fd: fd))
  }
  mutating func shutdown(_ fd: Int32, _ how: ShutdownHow, token: Token) {
    kernel.queue(.init(token: token, fd: fd, how: how))
  }
  mutating func close(_ fd: Int32, token: Token) { kernel.queue(.init(token: token, fd: fd)) }
  mutating func cancel(_ target: Token, token: Token) { kernel.queue(.init(token: token, fd: -1, target: target)) }
  mutating func armWake(token: Token) { kernel.queue(.init(token: token, fd: -1)) }
  mutating func openSocket(for address: UnsafePointer<SocketAddress>) -> Int32 { kernel.openSocket() }
  mutating func delayAcks(_ fd: Int32, _ isOn: Bool) {}
  mutating func resetOnClose(_ fd: Int32) {}
  mutating func unread(on fd: Int32) -> Unread { Unread(bytes: kernel.unread(fd), silenceNs: 0) }
  mutating func unacknowledgedNs(on fd: Int32) -> UInt64 { 0 }
  mutating func peerAddress(of fd: Int32) -> SocketAddress { .ipv4(10, 1, 0, 1, port: 40_000) }
  var bufferSize: Int { kernel.bufferBytes }
  var bufferCount: Int { kernel.bufferCount }
  var buffersFree: Int { kernel.buffersFree }
  var buffersNext: Int { kernel.buffersFree }
  func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer { kernel.bytes(of: buffer) }
  mutating func giveBack(_ buffer: BufferID) { kernel.giveBack(buffer) }
}
