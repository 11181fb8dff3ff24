// The production `RingIO`: one io_uring per worker thread. Why this shape is the cheapest (flags, buffers, multishot
// receive) is measured in Benchmarks; what the kernel here offers is probed at start, in `RingProbe`.

import CLiburing

package struct RingOptions: BitwiseCopyable {
  /// Submission queue entries; a full queue is submitted early, nothing is lost.
  package var submissions: UInt32 = 4096
  /// Completion queue entries, power of two; see MemoryPlan: at least the operations that can be in flight.
  package var completions: UInt32 = 16384
  package var buffers = 1024
  package var bufferBytes = 65536
  /// Longest the kernel may gather completions before it wakes a busy worker; 0 = wake at once.
  package var batchWaitUs: UInt32 = 0
  /// Idle seconds before the kernel probes a replica; 0 = never.
  package var keepaliveSeconds: UInt32 = 0
  package init() {}
}

package enum RingError: Error {
  /// io_uring_setup failed with this errno.
  case setup(Int32)
  /// The buffer ring could not be registered (Linux older than 5.19).
  case buffers
  /// A needed feature is missing; the text says which and since when it exists.
  case missing(String)
}

package struct UringIO: RingIO, ~Copyable {
  package private(set) var now: UInt64
  private let ring: UnsafeMutablePointer<io_uring>
  private var buffers: BufferRing
  private let gathers: UnsafeMutablePointer<Gather>
  private let gatherMask: Int
  private var gatherNext = 0
  private let addresses: UnsafeMutablePointer<SocketAddress>
  private var addressNext = 0
  private var head: UInt32 = 0
  private var tail: UInt32 = 0
  private var randomState: UInt64
  private let wakeFd: Int32
  private let wakeWord: UnsafeMutablePointer<UInt64>
  private let limitsReceives: Bool
  private let keepaliveSeconds: UInt32
  private var batch: BatchWait

  /// msghdr and slices of a gathered send, alive until the entry is submitted.
  private struct Gather {
    var slices: InlineArray<16, iovec> = .init(repeating: iovec())  // first: its address is the gather's
    var message = msghdr()
  }

  /// Must run on the thread that will use it (IORING_SETUP_SINGLE_ISSUER). `wakeFd`: an eventfd others write to.
  package init(_ options: RingOptions, features: RingFeatures, wakeFd: Int32) throws(RingError) {
    ring = .allocate(capacity: 1)
    var reported: UInt32 = 0
    let code = sky_queue_init(options.submissions, options.completions, features.setupFlags, ring, &reported)
    guard code == 0 else { throw .setup(-code) }
    _ = io_uring_register_ring_fd(ring)
    guard let buffers = BufferRing(ring: ring, count: options.buffers, size: options.bufferBytes) else {
      throw .buffers
    }
    self.buffers = buffers
    limitsReceives = features.receiveLimit
    keepaliveSeconds = options.keepaliveSeconds
    gatherMask = Int(options.submissions) - 1
    gathers = mapZeroed(Int(options.submissions))
    addresses = mapZeroed(Int(options.submissions))
    self.wakeFd = wakeFd
    wakeWord = mapZeroed(1)
    var seed: UInt64 = 0
    if getrandom(&seed, 8, 0) != 8 { seed = sky_monotonic_ns() }
    randomState = seed | 1
    now = sky_monotonic_ns()
    batch = BatchWait(waitUs: features.minWait ? options.batchWaitUs : 0)
  }

  // MARK: turns

  package mutating func submitAndWait(until deadline: UInt64) {
    buffers.topUp()
    let (events, wait) = batch.next()
    // Gathering needs a final timeout to hang on; ten seconds without completions change nothing.
    let latest = wait == 0 || deadline != .max ? deadline : now + 10_000_000_000
    let timeout = latest == .max ? UInt64.max : (latest > now ? latest - now : 0)
    let result = sky_submit_and_wait(ring, events, timeout, wait)
    if result < 0 { UringIO.check(result) }
    now = sky_monotonic_ns()
    head = sky_cq_head(ring)
    tail = sky_cq_tail(ring)
    batch.observe(completions: tail &- head, now: now)
  }

  /// ETIME, EINTR, EAGAIN and EBUSY mean: look at the completion queue and go on (man 2 io_uring_enter). Anything else,
  /// such as EBADR (completions were dropped), means that operations are lost: going on would hang or spin.
  @inline(never)
  private static func check(_ result: Int32) {
    switch -result {
    case ETIME, EINTR, EAGAIN, EBUSY: break
    default: fatalError("io_uring_enter failed with errno \(-result)")
    }
  }

  @inline(__always)
  package mutating func next() -> Completion? {
    guard head != tail else { return nil }
    let entry = sky_cqe(ring, head)
    let flags = entry!.pointee.flags
    var completion = Completion(
      token: Token(raw: entry!.pointee.user_data), result: entry!.pointee.res,
      more: flags & (1 << 1) != 0)  // IORING_CQE_F_MORE
    if flags & 1 != 0 {  // IORING_CQE_F_BUFFER
      completion.buffer = BufferID(Int32(flags >> 16))
      buffers.lend(completion.result)
    }
    head &+= 1
    sky_cq_advance(ring, head)
    return completion
  }

  /// xorshift64*: fast, and nothing here needs secrecy.
  @inline(__always)
  package mutating func random() -> UInt64 {
    randomState ^= randomState >> 12
    randomState ^= randomState << 25
    randomState ^= randomState >> 27
    return randomState &* 2_685_821_657_736_338_717
  }

  // MARK: operations

  @inline(__always)
  private mutating func entry() -> UnsafeMutablePointer<io_uring_sqe> {
    guard let entry = sky_sqe(ring) else { preconditionFailure("io_uring takes no more submissions") }
    return entry
  }

  package mutating func accept(on listener: Int32, token: Token) { sky_prep_accept(entry(), listener, token.raw) }

  @inline(__always)
  package mutating func receive(_ fd: Int32, limit: UInt32, pollFirst: Bool, token: Token) {
    sky_prep_recv(entry(), fd, limitsReceives ? 1 : 0, pollFirst ? 1 : 0, limitsReceives ? limit : 0, token.raw)
  }

  @inline(__always)
  package mutating func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int, token: Token) {
    sky_prep_send(entry(), fd, bytes, UInt32(count), token.raw)
  }

  package mutating func send(_ fd: Int32, gathering slices: UnsafePointer<IOSlice>, _ count: Int, token: Token) {
    precondition(count >= 1 && count <= gatherMax, "a gathered send of more slices than gatherMax")
    // At most one gather per submission entry is unsubmitted, so a ring of as many never overwrites a live one.
    let gather = gathers + (gatherNext & gatherMask)
    gatherNext &+= 1
    let room = UnsafeMutableRawPointer(gather)
    room.copyMemory(from: slices, byteCount: count * MemoryLayout<IOSlice>.stride)
    gather.pointee.message.msg_iov = room.assumingMemoryBound(to: iovec.self)
    gather.pointee.message.msg_iovlen = count
    sky_prep_sendmsg(entry(), fd, &gather.pointee.message, token.raw)
  }

  package mutating func watch(_ fd: Int32, token: Token) {
    // io_uring adds POLLERR, POLLHUP and POLLRDHUP to every poll. A poll that is not multishot completes at once, again
    // and again, on a socket whose peer has sent its FIN; a multishot one is edge triggered.
    sky_prep_poll_multishot(entry(), fd, UInt32(PeerEnd.fin), token.raw)
  }

  package mutating func connect(_ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token) {
    // As with gathers: one for each entry that can be unsubmitted.
    let kept = addresses + (addressNext & gatherMask)
    addressNext &+= 1
    kept.pointee = address.pointee
    sky_prep_connect(entry(), fd, UnsafeRawPointer(kept), kept.pointee.length, token.raw)
  }

  package mutating func shutdown(_ fd: Int32, _ how: ShutdownHow, token: Token) {
    sky_prep_shutdown(entry(), fd, how.rawValue, token.raw)
  }

  package mutating func close(_ fd: Int32, token: Token) { sky_prep_close(entry(), fd, token.raw) }

  package mutating func cancel(_ target: Token, token: Token) { sky_prep_cancel(entry(), target.raw, token.raw) }

  package mutating func armWake(token: Token) { sky_prep_read(entry(), wakeFd, wakeWord, 8, token.raw) }

  // MARK: sockets

  package mutating func openSocket(for address: UnsafePointer<SocketAddress>) -> Int32 {
    sky_socket(address.pointee.family, keepaliveSeconds)
  }

  package mutating func delayAcks(_ fd: Int32, _ isOn: Bool) { sky_quick_acks(fd, isOn ? 0 : 1) }

  package mutating func resetOnClose(_ fd: Int32) { sky_reset_on_close(fd) }

  package mutating func unread(on fd: Int32) -> Unread {
    var silence: UInt64 = 0
    let bytes = sky_unread(fd, &silence)
    return Unread(bytes: Int(bytes), silenceNs: silence)
  }

  package mutating func unacknowledgedNs(on fd: Int32) -> UInt64 { UInt64(sky_unacknowledged_ms(fd)) &* 1_000_000 }

  package mutating func peerAddress(of fd: Int32) -> SocketAddress {
    var address = SocketAddress()
    var length = UInt32(MemoryLayout<SocketAddress.Words>.size)
    let code = withUnsafeMutableBytes(of: &address.storage) { sky_peer_address(fd, $0.baseAddress, &length) }
    address.length = code == 0 ? length : 0
    return address
  }

  // MARK: lent buffers

  package var bufferSize: Int { buffers.size }
  package var bufferCount: Int { buffers.count }
  package var buffersFree: Int { buffers.free }
  package var buffersNext: Int { min(buffers.free, buffers.target) }
  @inline(__always)
  package func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer { buffers.bytes(of: buffer) }
  @inline(__always)
  package mutating func giveBack(_ buffer: BufferID) { buffers.giveBack(buffer) }
}

/// The throughput mode: when completions come fast, let the kernel gather them for up to `waitUs` so that one wake-up
/// serves many. Off when few come, so a lone stream is never delayed.
private struct BatchWait {
  let waitUs: UInt32
  /// Completions per microsecond, smoothed over about half a millisecond.
  private var rate = 0.0
  private var last: UInt64 = 0

  init(waitUs: UInt32) { self.waitUs = waitUs }

  @inline(__always)
  func next() -> (events: UInt32, waitUs: UInt32) {
    guard waitUs != 0 else { return (1, 0) }
    let expected = rate * Double(waitUs)
    guard expected >= 6 else { return (1, 0) }
    return (UInt32(min(64, max(2, expected * 0.6))), waitUs)
  }

  @inline(__always)
  mutating func observe(completions: UInt32, now: UInt64) {
    guard waitUs != 0 else { return }
    let elapsed = Double(now &- last) / 1000 + 1
    last = now
    rate += (Double(completions) / elapsed - rate) * (elapsed / (elapsed + 500))
  }
}
