// One worker: one thread, one ring, its own slots and buffers. A turn waits for completions, handles all of them, and
// only then decides: picks come after every count of the turn has been given back and every closed connection has left
// the pool, so that neither is seen too late.
//
// The rooms are extensions in the other files of this folder:
//   Sockets     queues, sends, receives, closing: what both sides share
//   Listener    accepting and shedding
//   Downstream  request heads, leaving clients, local replies
//   Admission   from a head to an exchange
//   Placing     picking, queueing, connecting
//   Ending      faults, retries, answers, cuts: the one place where exchanges end
//   Upstream    response heads and bodies
//   Pump        request bodies and back-pressure
//   Watch       clients that leave while nothing is received from them
//   Spill       lent buffers taken back from stalled peers
//   Deadlines   what each connection owes, and what it means when that passes

import Synchronization

/// A turn that comes so much later than a deadline asked for was held up from outside.
private let lateNs: UInt64 = 100_000_000
/// So long after a late turn no deadline is judged: what is ready by then came in time, and is to be seen first. One
/// look may bring only part of it, since receives and accepts have to be armed again.
private let graceNs: UInt64 = 20_000_000

/// What is still in use; all zero (and no buffer out) when every connection has ended.
package struct WorkerLeaks: BitwiseCopyable, Equatable {
  package var connections: Int
  package var exchanges: Int
  package var segments: Int
  package var blocks: Int
  package var buffersOut: Int
}

package struct Worker<IO: RingIO & ~Copyable>: ~Copyable {
  package var io: IO
  /// As at start, but for the deadlines, which change when somebody says so.
  var config: EngineConfig
  let board: LoadBoard
  let counters: CounterSet
  let control: UnsafeMutablePointer<WorkerControl>
  let log: LogRing?
  let headLimits: HeadLimits

  var connections: SlotTable<Connection>
  /// The client address text of each slot, `peerTextStride` bytes apart.
  let peerTexts: UnsafeMutablePointer<UInt8>
  var exchanges: SlotTable<Exchange>
  var segments: SlotTable<Segment>
  var blocks: BlockPool
  /// Owners of each lent buffer: a buffer is given back when the last is done with its piece.
  let bufferRefs: UnsafeMutablePointer<UInt8>
  var wheel: TimerWheel
  /// Scratch of the head parsers.
  var fields: FieldTable
  /// Scratch of gathered sends.
  let slices: UnsafeMutablePointer<IOSlice>
  /// Connections with something to send at the end of this turn.
  let due: UnsafeMutablePointer<UInt32>
  var dueCount = 0

  /// Connections with a fault to be settled at the end of this turn, linked through their slots.
  var faultyHead = noSlot
  var faultyTail = noSlot

  /// Exchanges to dispatch at the end of this turn, and those waiting for a replica below its limit.
  var ready = ExchangeList()
  var waiting = ExchangeList()
  /// One of the waiting would take any replica: what comes new has its place behind it.
  var someoneWaits = false
  /// Our place in the board's `waitingSince`, and what stands there.
  let place: Int
  var waitingSince: UInt64 = 0
  /// Connections whose receive ended for want of a buffer, oldest first.
  var starvedHead = noSlot
  var starvedTail = noSlot
  /// Where the next look for stalled peers begins, and when it may (Spill).
  var relieveFrom: UInt32 = 0
  var relieveAt: UInt64 = 0
  /// No deadline is judged before this time.
  var graceUntil: UInt64 = 0
  /// When exchanges of replicas that leave have to end.
  var cuts = CutWatch()
  /// Where the next look for an idle client begins (Listener).
  var idleHand: UInt32 = 0
  /// Scratch of choosing whom to close.
  let longestStalled: UnsafeMutablePointer<StalledClient>
  /// Parked connections per replica index: first slot + 1 (0 = none), and how many.
  let idleHeads: UnsafeMutablePointer<UInt32>
  let idleCounts: UnsafeMutablePointer<UInt16>
  /// How long a parked connection to a replica may be taken again, learned from those the replica closed.
  let idleLimits: UnsafeMutablePointer<IdleLimit>
  /// Whether streams of a replica bear acknowledgements in pairs.
  let ackTrials: UnsafeMutablePointer<AckTrial>
  var parked = 0
  var upstreams = 0
  var downstreams = 0
  var budget: RetryBudget

  var listeners: InlineArray<8, Int32> = .init(repeating: -1)
  var listening = 0
  /// Bit per listener whose accept is armed.
  var accepting: UInt8 = 0
  /// An accept failed for want of descriptors, or could not be cancelled: looked at again at this time; 0 = none.
  var acceptAgainAt: UInt64 = 0
  var draining = false
  var stopped = false

  package init(
    io: consuming IO, config: EngineConfig, board: LoadBoard, counters: CounterSet,
    control: UnsafeMutablePointer<WorkerControl>, log: LogRing?
  ) {
    let plan = MemoryPlan(config: config, buffers: io.bufferCount, bufferBytes: io.bufferSize)
    self.config = config
    self.board = board
    place = board.joinWorkers()
    self.counters = counters
    self.control = control
    self.log = log
    headLimits = HeadLimits(
      headBytes: config.headBytesMax, targetBytes: config.targetBytesMax, fields: config.fieldsMax)
    connections = SlotTable(capacity: plan.connections)
    peerTexts = mapZeroed(plan.connections * peerTextStride)
    exchanges = SlotTable(capacity: plan.exchanges)
    segments = SlotTable(capacity: plan.segments)
    blocks = BlockPool(
      tiny: plan.tinyBlocks, small: plan.smallBlocks, medium: plan.mediumBlocks, large: plan.largeBlocks,
      largeBytes: plan.largeBlockBytes, spill: plan.spillBlocks)
    bufferRefs = mapZeroed(io.bufferCount)
    wheel = TimerWheel(capacity: plan.connections, now: io.now)
    fields = FieldTable.allocate(capacity: config.fieldsMax)
    slices = mapZeroed(gatherMax)
    due = mapZeroed(plan.connections)
    longestStalled = mapZeroed(longestStalledMax)
    idleHeads = mapZeroed(board.capacity)
    idleCounts = mapZeroed(board.capacity)
    idleLimits = mapZeroed(board.capacity)
    ackTrials = mapZeroed(board.capacity)
    budget = RetryBudget(percent: config.retryPercent, burst: config.retryBurst)
    self.io = io
    self.io.armWake(token: Token(.wake, slot: 0, generation: 0))
  }

  /// Draining (or stopped) and nothing is left to finish.
  package var isFinished: Bool { stopped || (draining && connections.used == 0 && accepting == 0) }

  package var leaks: WorkerLeaks {
    WorkerLeaks(
      connections: connections.used, exchanges: exchanges.used, segments: segments.used, blocks: blocks.used,
      buffersOut: io.bufferCount - io.buffersFree)
  }

  /// One turn: wait, handle every completion, decide, keep time, send.
  package mutating func turn() {
    let before = counters.worker.pointee.progress
    let due = nextWake
    io.submitAndWait(until: due)
    counters.worker.pointee.turns &+= 1
    handleCompletions()
    settleAndPlace()
    // The process was stopped, or its machine paused.
    if io.now > due && io.now - due > lateNs { graceUntil = io.now + graceNs }
    if io.now >= graceUntil {
      while let slot = wheel.expired(now: io.now) { alarm(slot) }
    }
    if cuts.isDue(board, now: io.now) { cutWithdrawn() }
    // A deadline may have ended an exchange or begun a retry.
    if faultyHead != noSlot || ready.head != noSlot { settleAndPlace() }
    sendDue()
    if counters.worker.pointee.progress == before { counters.worker.pointee.idleTurns &+= 1 }
    if waiting.head != noSlot || waitingSince != 0 { tellWaiting() }
    if isShort { relieve() }
    if starvedHead != noSlot { feedStarved() }
    if acceptAgainAt != 0 && io.now >= acceptAgainAt { acceptAgain() }
    setGauges()
    ringForNews()
  }

  @inline(__always)
  private mutating func handleCompletions() {
    while let completion = io.next() {
      counters.worker.pointee.completions &+= 1
      handle(completion)
    }
  }

  /// The decisions of a turn: what failed is settled, those that wait and those that have just come are given replicas.
  @inline(__always)
  private mutating func settleAndPlace() {
    if faultyHead != noSlot { settleFaults() }
    // Those that wait were here before those that have just come.
    if waiting.head != noSlot { serveWaiting() }
    dispatchReady()
    // An answer of our own may not have found room.
    if faultyHead != noSlot { settleFaults() }
  }

  /// After the last turn: what that one queued (the close of a client it refused) goes to the kernel, too.
  package mutating func finish() { io.submitAndWait(until: io.now) }

  private var nextWake: UInt64 {
    var at = max(wheel.nextWake, graceUntil)
    // Another worker's release is not announced: look again in a millisecond.
    if waiting.head != noSlot { at = min(at, io.now + 1_000_000) }
    if isShort { at = min(at, max(relieveAt, io.now + 1_000_000)) }
    if acceptAgainAt != 0 { at = min(at, acceptAgainAt) }
    at = min(at, cuts.next)
    return at
  }

  private mutating func setGauges() {
    counters.worker.pointee.connectionsOpen = UInt64(downstreams)
    counters.worker.pointee.upstreamsOpen = UInt64(upstreams)
    counters.worker.pointee.upstreamsParked = UInt64(parked)
    counters.worker.pointee.buffersFree = UInt64(io.buffersFree)
    counters.worker.pointee.blocksUsed = UInt64(blocks.used)
    counters.worker.pointee.spillBlocksUsed = UInt64(blocks.spillUsed)
  }

  @inline(__always)
  private mutating func handle(_ completion: Completion) {
    let token = completion.token
    switch token.operation {
    case .accept: accepted(completion)
    case .wake: woken()
    case .connect, .receive, .send, .watch, .shutdown, .close, .cancel:
      // Closing a descriptor that never had a slot.
      guard token.slot != noSlot else { return }
      let connection = connections[token.slot]
      guard connection.pointee.generation == token.generation, connection.pointee.state != .free else {
        preconditionFailure("a completion for a slot that was freed before the kernel let go of it")
      }
      switch token.operation {
      case .receive: received(token.slot, completion)
      case .send: sent(token.slot, completion.result)
      case .connect: connected(token.slot, completion.result)
      case .watch: watched(token.slot, completion)
      case .close: closed(token.slot)
      case .cancel: cancelEnded(token.slot)
      case .shutdown: operationEnded(token.slot)
      case .accept, .wake: break
      }
    }
  }

  /// Another thread has set a command or other deadlines, or brings clients.
  private mutating func woken() {
    control.pointee.timeouts.copy(to: &config)
    takeArrivals()
    switch control.pointee.command.load(ordering: .acquiring) {
    case 1: drain()
    case 2: stopped = true
    default: break
    }
    io.armWake(token: Token(.wake, slot: 0, generation: 0))
  }
}

/// Exchanges in order, linked through their slots.
struct ExchangeList: BitwiseCopyable {
  private(set) var head = noSlot
  private var tail = noSlot
  private(set) var count = 0
  @inline(__always)
  init() {}

  @inline(__always)
  mutating func append(_ index: UInt32, in slots: UnsafeMutablePointer<Exchange>) {
    slots[Int(index)].next = noSlot
    slots[Int(index)].prev = tail
    if tail == noSlot { head = index } else { slots[Int(tail)].next = index }
    tail = index
    count += 1
  }

  @inline(__always)
  mutating func remove(_ index: UInt32, in slots: UnsafeMutablePointer<Exchange>) {
    let next = slots[Int(index)].next
    let prev = slots[Int(index)].prev
    if prev == noSlot { head = next } else { slots[Int(prev)].next = next }
    if next == noSlot { tail = prev } else { slots[Int(next)].prev = prev }
    count -= 1
  }
}
