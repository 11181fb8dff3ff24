// A thread of the load generator: its ring and its share of the connections. One slice loads one target: connections
// are opened, used for the warm-up and the measured time, and closed again.
//
//   closed ─connect→ ready ─send→ busy ─answer→ ready … ─end of slice→ closing → closed

import BenchKit
import Glibc
import ProxyCore

private enum State: UInt8, BitwiseCopyable { case closed, connecting, ready, busy, closing }

private struct Connection: BitwiseCopyable {
  var fd: Int32
  var generation: UInt32
  var operations: Int32
  var state: State
  var isReceiving: Bool
  var isSending: Bool
  /// Asks for much and never reads.
  var isSlow: Bool
  /// A request is waiting for the connection to be made.
  var hasWork: Bool
  /// Leaves after this many events; -1: stays.
  var leavesAfter: Int32
  /// When the request was to start.
  var scheduled: UInt64
  var lastEvent: UInt64
  var expectedEvents: Int
  var bodySeen: Int
  var reader: ResponseReader
  var checker: EventChecker
  var scratch: UnsafeMutablePointer<UInt8>?
}

/// When a slice starts, begins to count and ends; and what it loads.
struct Slice: Sendable {
  var target: LoadTarget
  var begin: UInt64
  var measureFrom: UInt64
  var end: UInt64
}

struct LoadWorker: ~Copyable {
  /// Connections being made at once: below any listener's backlog.
  private static let openingMax = 256
  private static let scratchBytes = 1024

  private var io: UringIO
  private let options: LoadOptions
  private let index: Int
  private let share: Int
  private let slowShare: Int
  private let connections: UnsafeMutablePointer<Connection>
  private let addresses: UnsafeMutablePointer<SocketAddress>
  private var nextAddress = 0
  private let request: UnsafeMutablePointer<UInt8>
  private let requestBytes: Int
  private let slowRequest: UnsafeMutablePointer<UInt8>
  private let slowRequestBytes: Int
  private let pattern: BodyPattern
  private let promptEnd: UnsafeMutablePointer<UInt8>

  // One slice's.
  private var tally = Tally()
  private var measuring = false
  private var ending = false
  private var endAt: UInt64 = 0
  private var opening = 0
  private var toOpen = 0
  private var open = 0
  private var firstEvents = 0
  private let ready: UnsafeMutablePointer<UInt32>
  private var readyCount = 0
  private var due: UInt64 = .max
  private var base: UInt64 = 0
  private var arrival = 0
  private var finishedRows = 0
  /// Connections that failed wait here a little before they are made again.
  private let retry: UnsafeMutablePointer<UInt32>
  private var retryCount = 0
  private var retryAt: UInt64 = .max
  private var staggerNs: UInt64 = 0

  init(options: LoadOptions, index: Int, pattern: BodyPattern) {
    self.options = options
    self.index = index
    self.pattern = pattern
    io = openRing()
    share = options.connections / options.threads + (index < options.connections % options.threads ? 1 : 0)
    slowShare = options.slowReaders / options.threads + (index < options.slowReaders % options.threads ? 1 : 0)
    connections = mapZeroed(share + slowShare)
    ready = mapZeroed(share + slowShare)
    retry = mapZeroed(share + slowShare)
    addresses = mapZeroed(options.spread)
    let head = options.head(target: options.target, bodyBytes: options.bodyBytes)
    let bodyBytes = options.mode == .closed || options.mode == .open ? options.bodyBytes : 0
    request = .allocate(capacity: head.utf8.count + bodyBytes)
    var out = ByteOut(request, capacity: head.utf8.count + bodyBytes)
    out.put(head)
    while out.count < head.utf8.count + bodyBytes {
      out.put(pattern.bytes, min(pattern.count, head.utf8.count + bodyBytes - out.count))
    }
    requestBytes = out.count
    let slow = options.head(target: "/?size=\(options.slowBytes)", bodyBytes: 0)
    slowRequest = .allocate(capacity: slow.utf8.count)
    var slowOut = ByteOut(slowRequest, capacity: slow.utf8.count)
    slowOut.put(slow)
    slowRequestBytes = slowOut.count
    promptEnd = .allocate(capacity: 2)
    promptEnd[0] = 34
    promptEnd[1] = 125
  }

  // MARK: a slice

  /// `sample` is called when counting begins and when it ends, so that the CPU time read then covers what is counted.
  mutating func run(_ slice: Slice, into tally: Tally, sample: (_ isEnd: Bool) -> Void, holding: (Int) -> Void) {
    self.tally = tally
    measuring = false
    ending = false
    opening = 0
    readyCount = 0
    retryCount = 0
    retryAt = .max
    firstEvents = 0
    finishedRows = 0
    arrival = index
    endAt = slice.end
    for step in 0..<options.spread {
      addresses[step] = slice.target.address
      addresses[step].withBytes { $0[7] = $0[7] &+ UInt8(step) }
    }
    io.submitAndWait(until: 0)
    base = max(slice.begin, io.now)
    toOpen = 0
    for slot in 0..<share + slowShare {
      connections[slot].isSlow = slot >= share
      connections[slot].state = .closed
    }
    if options.isChurn && options.mode == .open {
      for slot in 0..<share { makeReady(UInt32(slot)) }
      toOpen = share
    }
    staggerNs = options.mode == .sse ? UInt64(options.staggerMs * 1e6) / UInt64(max(1, share)) : 0
    due = options.mode == .open ? base + gap() : options.mode == .trace ? base + traceTime() : .max
    var sampled = false
    while true {
      if !sampled && io.now >= slice.measureFrom {
        sampled = true
        measuring = true
        sample(false)
      }
      if io.now >= endAt || isComplete { break }
      openSome()
      startDue()
      var wake = min(endAt, due)
      if !sampled { wake = min(wake, slice.measureFrom) }
      wake = min(wake, retryAt)
      if toOpen < share + slowShare && staggerNs > 0 { wake = min(wake, base + UInt64(toOpen) * staggerNs) }
      io.submitAndWait(until: wake)
      while let completion = io.next() { take(completion) }
    }
    if options.mode == .hold { usleep(1_000_000) }
    sample(true)
    holding(held)
    measuring = false
    countUnfinished()
    closeAll()
  }

  /// Hold: every stream has begun. Trace: every arrival has been answered.
  private var isComplete: Bool {
    switch options.mode {
    case .hold: firstEvents >= share
    case .trace: finishedRows >= (options.trace.count - index + options.threads - 1) / options.threads
    case .closed, .open, .sse: false
    }
  }

  private func gapMean() -> Double { 1e9 * Double(options.threads) / options.rate }

  private mutating func gap() -> UInt64 {
    guard options.isPoisson else { return UInt64(gapMean()) }
    let uniform = (Double(io.random() >> 11) + 0.5) / 9_007_199_254_740_992  // (0, 1)
    return UInt64(-log(uniform) * gapMean())
  }

  private func traceTime() -> UInt64 { arrival < options.trace.count ? options.trace[arrival].atNs : .max - base }

  private mutating func openSome() {
    if retryCount > 0 && io.now >= retryAt {
      while retryCount > 0 && opening < LoadWorker.openingMax {
        retryCount -= 1
        connect(retry[retryCount])
      }
      retryAt = retryCount > 0 ? io.now + 10_000_000 : .max
    }
    while toOpen < share + slowShare && opening < LoadWorker.openingMax {
      if staggerNs > 0 && io.now < base + UInt64(toOpen) * staggerNs { return }
      connect(UInt32(toOpen))
      toOpen += 1
    }
  }

  /// Begins every request whose time has come, as long as connections are free.
  private mutating func startDue() {
    while due <= io.now && readyCount > 0 {
      readyCount -= 1
      let slot = ready[readyCount]
      connections[Int(slot)].scheduled = due
      if connections[Int(slot)].state == .closed {
        connections[Int(slot)].hasWork = true
        connect(slot)
      } else {
        send(slot)
      }
      if options.mode == .trace {
        arrival += options.threads
        due = arrival < options.trace.count ? base + traceTime() : .max
      } else {
        due += gap()
      }
    }
  }

  /// Open loop: what was due and is not answered counts with the time it has waited so far.
  private mutating func countUnfinished() {
    guard options.mode == .open else { return }
    for slot in 0..<share where connections[slot].state == .busy || connections[slot].hasWork {
      tally.counts.pointee.unfinished += 1
      tally.latency.record(io.now - min(io.now, connections[slot].scheduled))
    }
    var limit = 10_000_000
    while due < io.now && limit > 0 {
      tally.counts.pointee.unfinished += 1
      tally.latency.record(io.now - due)
      due += max(1, gap())
      limit -= 1
    }
  }

  private mutating func closeAll() {
    ending = true
    for slot in 0..<share + slowShare { end(UInt32(slot), resets: false) }
    let limit = io.now + 5_000_000_000
    while open > 0 && io.now < limit {
      io.submitAndWait(until: limit)
      while let completion = io.next() { take(completion) }
    }
    precondition(open == 0, "connections could not be closed within five seconds")
  }

  // MARK: connections

  private func token(_ operation: Operation, _ slot: UInt32) -> Token {
    Token(operation, slot: slot, generation: connections[Int(slot)].generation)
  }

  private mutating func connect(_ slot: UInt32) {
    let connection = connections + Int(slot)
    let address = addresses + nextAddress
    nextAddress = nextAddress + 1 == options.spread ? 0 : nextAddress + 1
    let fd = io.openSocket(for: address)
    guard fd >= 0 else {
      tally.counts.pointee.errors += 1
      again(slot)
      return
    }
    if connection.pointee.isSlow { setReceiveBuffer(fd, 4096) }
    opening += 1
    open += 1
    connection.pointee.fd = fd
    connection.pointee.generation = (connection.pointee.generation + 1) & 0xFF_FFFF
    connection.pointee.state = .connecting
    connection.pointee.operations = 1
    connection.pointee.isReceiving = false
    connection.pointee.isSending = false
    connection.pointee.reader.restart()
    connection.pointee.checker.restart()
    io.connect(fd, to: address, token: token(.connect, slot))
  }

  private mutating func again(_ slot: UInt32) {
    guard !ending else { return }
    retry[retryCount] = slot
    retryCount += 1
    if retryAt == .max { retryAt = io.now + 10_000_000 }
  }

  private mutating func makeReady(_ slot: UInt32) {
    ready[readyCount] = slot
    readyCount += 1
  }

  private mutating func end(_ slot: UInt32, resets: Bool) {
    let connection = connections + Int(slot)
    switch connection.pointee.state {
    case .closed, .closing: return
    case .connecting: opening -= 1
    case .ready, .busy: break
    }
    let wasConnecting = connection.pointee.state == .connecting
    connection.pointee.state = .closing
    if resets { io.resetOnClose(connection.pointee.fd) }
    if wasConnecting && connection.pointee.operations > 0 { cancel(.connect, slot) }
    if connection.pointee.isReceiving {
      // Ends the receive and tells the other side at once; a reset is left to the close.
      if resets {
        cancel(.receive, slot)
      } else {
        connection.pointee.operations += 1
        io.shutdown(connection.pointee.fd, .both, token: token(.shutdown, slot))
      }
    }
    if connection.pointee.isSending { cancel(.send, slot) }
    settle(slot)
  }

  private mutating func cancel(_ operation: Operation, _ slot: UInt32) {
    connections[Int(slot)].operations += 1
    io.cancel(token(operation, slot), token: token(.cancel, slot))
  }

  private mutating func settle(_ slot: UInt32) {
    let connection = connections + Int(slot)
    guard connection.pointee.state == .closing, connection.pointee.operations == 0 else { return }
    connection.pointee.operations = -1
    io.close(connection.pointee.fd, token: token(.close, slot))
  }

  // MARK: completions

  private mutating func take(_ completion: Completion) {
    let slot = completion.token.slot
    let connection = connections + Int(slot)
    precondition(connection.pointee.generation == completion.token.generation, "a completion of an earlier connection")
    switch completion.token.operation {
    case .connect:
      connection.pointee.operations -= 1
      connected(slot, completion.result)
    case .receive:
      if !completion.more {
        connection.pointee.isReceiving = false
        connection.pointee.operations -= 1
      }
      received(slot, completion)
    case .send:
      connection.pointee.isSending = false
      connection.pointee.operations -= 1
      if connection.pointee.state == .busy {
        if completion.result < 0 {
          failed(slot)
        } else if connection.pointee.leavesAfter == 0 && !connection.pointee.isSlow {
          leave(slot)
        }
      }
    case .shutdown, .cancel:
      connection.pointee.operations -= 1
    case .close:
      open -= 1
      connection.pointee.state = .closed
      if ending || connection.pointee.isSlow {
        return
      } else if options.mode == .open && options.isChurn {
        makeReady(slot)
      } else if connection.pointee.hasWork {
        connection.pointee.hasWork = false
        again(slot)
      } else {
        connect(slot)
      }
      return
    case .accept, .wake, .watch: preconditionFailure("the load generator queued no such operation")
    }
    settle(slot)
  }

  private mutating func connected(_ slot: UInt32, _ result: Int32) {
    let connection = connections + Int(slot)
    guard connection.pointee.state == .connecting else { return }
    guard result == 0 else {
      tally.counts.pointee.errors += 1
      connection.pointee.hasWork = true  // after the close: wait, then again
      end(slot, resets: false)
      return
    }
    opening -= 1
    if connection.pointee.isSlow {
      connection.pointee.state = .busy
      connection.pointee.isSending = true
      connection.pointee.operations += 1
      io.send(connection.pointee.fd, slowRequest, slowRequestBytes, token: token(.send, slot))
      return
    }
    connection.pointee.state = .ready
    receive(slot)
    if connection.pointee.hasWork && options.mode == .open {
      connection.pointee.hasWork = false
      send(slot)
    } else {
      connection.pointee.hasWork = false
      startNext(slot)
    }
  }

  private mutating func receive(_ slot: UInt32) {
    let connection = connections + Int(slot)
    connection.pointee.isReceiving = true
    connection.pointee.operations += 1
    io.receive(connection.pointee.fd, limit: 0, pollFirst: true, token: token(.receive, slot))
  }

  /// A connection is free: the next request now, or when one is due.
  private mutating func startNext(_ slot: UInt32) {
    switch options.mode {
    case .closed, .sse, .hold:
      connections[Int(slot)].scheduled = io.now
      send(slot)
    case .open, .trace: makeReady(slot)
    }
  }

  private mutating func send(_ slot: UInt32) {
    let connection = connections + Int(slot)
    connection.pointee.state = .busy
    connection.pointee.bodySeen = 0
    connection.pointee.lastEvent = 0
    connection.pointee.leavesAfter = -1
    connection.pointee.expectedEvents = options.mode == .sse ? options.events : 0
    connection.pointee.reader.restart()
    if options.isStreaming { connection.pointee.checker.restart() }
    if options.abortPercent > 0, Double(io.random() >> 11) / 9_007_199_254_740_992 * 100 < options.abortPercent {
      connection.pointee.leavesAfter = Int32(options.abortAfter)
    }
    connection.pointee.isSending = true
    connection.pointee.operations += 1
    if options.mode == .trace {
      sendPrompt(slot)
    } else {
      io.send(connection.pointee.fd, request, requestBytes, token: token(.send, slot))
      if measuring { tally.counts.pointee.bytesOut += UInt64(requestBytes) }
    }
  }

  private mutating func sendPrompt(_ slot: UInt32) {
    let connection = connections + Int(slot)
    let row = options.trace[arrival]
    connection.pointee.expectedEvents = row.outputEvents
    if connection.pointee.scratch == nil { connection.pointee.scratch = .allocate(capacity: LoadWorker.scratchBytes) }
    let opening = "{\"model\":\"sky\",\"stream\":true,\"max_tokens\":\(row.outputEvents),\"prompt\":\""
    let prompt = min(row.promptBytes, pattern.count)
    var out = ByteOut(connection.pointee.scratch!, capacity: LoadWorker.scratchBytes)
    out.put(options.head(target: options.target, bodyBytes: opening.utf8.count + prompt + 2))
    out.put(opening)
    withUnsafeTemporaryAllocation(of: IOSlice.self, capacity: 3) { slices in
      slices[0] = IOSlice(base: out.base, count: out.count)
      slices[1] = IOSlice(base: pattern.bytes, count: prompt)
      slices[2] = IOSlice(base: promptEnd, count: 2)
      io.send(connection.pointee.fd, gathering: slices.baseAddress!, 3, token: token(.send, slot))
    }
    tally.counts.pointee.bytesOut += UInt64(out.count + prompt + 2)
  }

  // MARK: answers

  private mutating func received(_ slot: UInt32, _ completion: Completion) {
    let connection = connections + Int(slot)
    if completion.result > 0 {
      let bytes = UnsafePointer(io.bytes(of: completion.buffer).assumingMemoryBound(to: UInt8.self))
      switch connection.pointee.state {
      case .busy:
        if measuring { tally.counts.pointee.bytesIn += UInt64(completion.result) }
        read(slot, bytes, Int(completion.result))
      case .ready:  // bytes that nobody asked for
        tally.counts.pointee.errors += 1
        end(slot, resets: true)
      case .closing, .closed, .connecting: break
      }
      io.giveBack(completion.buffer)
      if !completion.more && (connection.pointee.state == .busy || connection.pointee.state == .ready) { receive(slot) }
      return
    }
    if completion.result == -ENOBUFS {
      if connection.pointee.state == .busy || connection.pointee.state == .ready { receive(slot) }
      return
    }
    switch connection.pointee.state {
    case .busy:
      if completion.result == 0 && connection.pointee.reader.endsWithConnection { answered(slot) } else { failed(slot) }
    case .ready:
      // The server ended an idle connection, which it may.
      if options.mode == .open || options.mode == .trace { forget(slot) }
      end(slot, resets: false)
    case .closing, .closed, .connecting: break
    }
  }

  /// Takes a connection off the list of free ones.
  private mutating func forget(_ slot: UInt32) {
    for index in 0..<readyCount where ready[index] == slot {
      readyCount -= 1
      ready[index] = ready[readyCount]
      return
    }
  }

  private mutating func read(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int) {
    let connection = connections + Int(slot)
    var at = 0
    while connection.pointee.state == .busy {
      switch connection.pointee.reader.next(bytes, count, at: &at) {
      case .needMore: return
      case .head:
        if connection.pointee.reader.status >= 300 && measuring { tally.counts.pointee.refused += 1 }
      case .body(let here):
        let start = bytes + (at - here)
        if options.isStreaming && connection.pointee.reader.status < 300 {
          readEvents(slot, start, here)
        } else if options.verifies && connection.pointee.reader.status < 300 {
          if !pattern.matches(start, here, at: connection.pointee.bodySeen) { tally.counts.pointee.corrupted += 1 }
        }
        connection.pointee.bodySeen += here
      case .done: answered(slot)
      case .bad: failed(slot)
      }
      if connection.pointee.state == .ready && at < count {
        tally.counts.pointee.errors += 1
        end(slot, resets: true)
      }
    }
  }

  private mutating func readEvents(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int) {
    let connection = connections + Int(slot)
    var at = 0
    while let event = connection.pointee.checker.next(bytes, count, at: &at) {
      guard case .numbered(let sentNs) = event else { continue }
      if connection.pointee.lastEvent == 0 {
        firstEvents += 1
        if measuring { tally.first.record(io.now - min(io.now, connection.pointee.scheduled)) }
      } else if measuring {
        tally.gap.record(io.now - connection.pointee.lastEvent)
      }
      connection.pointee.lastEvent = io.now
      if measuring {
        tally.counts.pointee.events += 1
        tally.event.record(io.now - min(io.now, sentNs))
      }
      if connection.pointee.leavesAfter > 0
        && connection.pointee.checker.numbered >= UInt32(connection.pointee.leavesAfter)
      {
        leave(slot)
        return
      }
    }
  }

  private mutating func countEvents(_ slot: UInt32, ended: Bool) {
    guard options.isStreaming else { return }
    let checker = connections[Int(slot)].checker
    tally.counts.pointee.lost += UInt64(checker.lost)
    tally.counts.pointee.reordered += UInt64(checker.reordered)
    tally.counts.pointee.corrupted += UInt64(checker.corrupted)
    if ended && connections[Int(slot)].reader.status < 300 {
      let missing = connections[Int(slot)].expectedEvents - Int(checker.expected)
      if missing > 0 { tally.counts.pointee.lost += UInt64(missing) }
      if checker.isInsideEvent || (options.mode == .trace && !checker.sawDone) { tally.counts.pointee.corrupted += 1 }
    }
  }

  private mutating func answered(_ slot: UInt32) {
    let connection = connections + Int(slot)
    countEvents(slot, ended: true)
    finishedRows += 1
    if measuring {
      tally.counts.pointee.requests += 1
      tally.latency.record(io.now - min(io.now, connection.pointee.scheduled))
    }
    connection.pointee.state = .ready
    if options.isChurn || connection.pointee.reader.closes {
      end(slot, resets: false)
    } else {
      startNext(slot)
    }
  }

  /// The answer was cut, or is none.
  private mutating func failed(_ slot: UInt32) {
    tally.counts.pointee.errors += 1
    finishedRows += 1
    countEvents(slot, ended: true)
    end(slot, resets: false)
  }

  private mutating func leave(_ slot: UInt32) {
    countEvents(slot, ended: false)
    finishedRows += 1
    if measuring { tally.counts.pointee.aborted += 1 }
    end(slot, resets: true)
  }

  /// Streams that have begun, and slow readers that have asked.
  private var held: Int {
    var count = 0
    for slot in 0..<share + slowShare where connections[slot].state == .busy {
      if connections[slot].isSlow || connections[slot].lastEvent != 0 { count += 1 }
    }
    return count
  }
}
