// The simulated kernel and network: time, sockets, operations and their completions, all drawn from one seed. It also
// watches the engine as a user of the interface: what a real kernel would punish late and obscurely fails here at once.

import ProxyCore
import SimKit

package final class World {
  package let profile: Profile
  package internal(set) var now: UInt64 = 1_000 * Nanoseconds.second
  /// Chance of the kernel and network; peers have their own.
  var chance: Chance
  var calendar = Calendar<UInt64, Event>()
  var trace = Trace()
  /// The first thing found wrong.
  package internal(set) var failure: String?

  // Sockets.
  var links: [Link] = []
  private var linkOfFd: [Int] = []
  private static let firstFd: Int32 = 100
  package static let listener: Int32 = 7
  /// The listening socket still takes connections.
  var listening = true
  /// Who answers at an address.
  var replicas: [UInt64: SimReplica] = [:]
  var allReplicas: [SimReplica] = []
  /// Replica links that the engine has not begun to end.
  var openUpstreams = 0

  // Operations.
  struct Op {
    var kind = Operation.wake
    var serial = 0
    var token = Token(raw: 0)
    var link = -1
    var limit = 0
    var moved = 0
    var total = 0
    var first = IOSlice(base: nil, count: 0)
    var slices: [IOSlice] = []
    var checksum: UInt64 = 0
    var addressWord: UInt64 = 0
    var target = Token(raw: 0)
    var ring = 0
    var how = ShutdownHow.both
    /// Its last completion is decided: posted, or on the calendar.
    var ended = false
    var free = true
    /// With the kernel; before that it is only queued.
    var started = false
    var result: Int32 = 0
  }
  private(set) var ops: [Op] = []
  private var freeOps: [Int] = []
  /// One for each worker.
  private(set) var rings: [SimRing] = []
  /// Entries of the completion queue.
  package var completionRoom = 4096
  package private(set) var turn = 0
  /// Nothing is on the calendar and the engine has no deadline.
  package private(set) var isIdle = false

  // Lent buffers.
  let bufferBytes: Int
  let bufferCount: Int
  var lentNow: Int { rings.reduce(0) { $0 + bufferCount - $1.freeBuffers.count } }

  // Peers and the oracle.
  var peers: [Peer] = []
  var peerWakes: [UInt64] = []
  var requests: [RequestRecord] = []
  /// Client links that were told of an end in this turn.
  var toldGone: [Link] = []
  /// The longest silence in a tunnel.
  var tunnelNs: UInt64 = 0
  /// Time for which the worker was stopped, all in all.
  var pausedNs: UInt64 = 0

  package init(seed: UInt64, profile: Profile, workers: Int = 1) {
    self.profile = profile
    chance = Chance(seed: seed)
    bufferCount = chance.within(profile.buffers.lowerBound, profile.buffers.upperBound)
    bufferBytes = chance.pick(profile.bufferBytes)
    for index in 0..<workers { rings.append(SimRing(index, buffers: bufferCount, bytes: bufferBytes)) }
  }

  /// Notes the first thing found wrong; the run stops at the end of the turn.
  func fail(_ text: @autoclosure () -> String) {
    guard failure == nil else { return }
    failure = text()
    log("FAILURE", turn)
  }

  func log(_ text: StaticString, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0) { trace.add(now, text, a, b, c) }

  func schedule(_ kind: EventKind, _ a: Int, _ b: Int = 0, after delay: UInt64) {
    calendar.add(Event(kind: kind, a: a, b: b), at: now + delay)
  }

  // MARK: turns

  func submitAndWait(_ ring: SimRing, until deadline: UInt64) {
    precondition(ring.pulled == ring.visible, "the engine waits with completions untaken")
    turn += 1
    ring.effort.endTurn(self)
    // Those of the wait before have been taken; new ones may have come while other workers ran.
    ring.posted.removeFirst(ring.pulled)
    ring.posted.insert(contentsOf: ring.heldBack, at: 0)
    ring.heldBack.removeAll(keepingCapacity: true)
    ring.pulled = 0
    ring.deadline = deadline
    isIdle = false
    now += 200 + UInt64(chance.below(1_500))
    for op in ring.submissions {
      switch ops[op].kind {
      case .shutdown, .close:
        // The kernel hands these to a thread of its own (IORING_OP_SHUTDOWN always).
        if chance.hit(profile.late) {
          schedule(.perform, op, ops[op].serial, after: chance.delay(profile.lateNs))
        } else {
          perform(op)
        }
      case .accept, .wake, .connect, .receive, .send, .watch, .cancel: perform(op)
      }
    }
    ring.submissions.removeAll(keepingCapacity: true)
    if chance.hit(profile.leaps) {
      now += chance.delay(profile.leapNs)
      log("leap", Int(now))
    }
    runDue()
    wait(ring, until: deadline)
    // More may come in before the worker runs.
    if !ring.posted.isEmpty && chance.hit(0.4) {
      let end = now + chance.delay(100 * Nanoseconds.microsecond)
      while let at = calendar.next, at <= end {
        now = max(now, at)
        handle(calendar.pop())
      }
    }
    if profile.shuffles { shuffle(ring) }
    if chance.hit(profile.pauses) { interrupt(ring) }
    ring.visible = ring.posted.count
  }

  private func wait(_ ring: SimRing, until deadline: UInt64) {
    while ring.posted.isEmpty {
      var others = UInt64.max
      for other in rings where other !== ring { others = min(others, other.isDue(now) ? now : other.deadline) }
      if let at = calendar.next, at <= min(deadline, others) {
        now = max(now, at)
        handle(calendar.pop())
        continue
      }
      if others <= deadline && others != .max {
        // Another worker's turn comes first: this wait is cut short, as by a signal.
        ring.effort.interrupted()
      } else if deadline == .max {
        isIdle = true
      } else {
        now = max(now, deadline) + UInt64(chance.below(20_000))
        runDue()
      }
      return
    }
  }

  /// The process was stopped while it waited, and its wait ends without completions (EINTR): the time is much later,
  /// and what has come meanwhile is there to be taken by the next wait.
  private func interrupt(_ ring: SimRing) {
    let paused = chance.delay(profile.pauseNs)
    let end = now + paused
    // Its peers and its kernel go on.
    while let at = calendar.next, at <= end {
      now = max(now, at)
      handle(calendar.pop())
    }
    now = end
    pausedNs += paused
    log("stopped and continued: ms", Int(paused / Nanoseconds.millisecond))
    swap(&ring.posted, &ring.heldBack)
    isIdle = false
    ring.effort.interrupted()
  }

  private func runDue() {
    while let at = calendar.next, at <= now { handle(calendar.pop()) }
  }

  /// Completions of different operations in any order, those of one in theirs.
  private func shuffle(_ ring: SimRing) {
    guard ring.posted.count > 1 else { return }
    for _ in 0..<chance.below(min(ring.posted.count, 8)) {
      for index in 1..<ring.posted.count
      where ring.posted[index].op != ring.posted[index - 1].op && chance.hit(0.5) {
        ring.posted.swapAt(index, index - 1)
      }
    }
  }

  func next(_ ring: SimRing) -> Completion? {
    guard ring.pulled < ring.visible else { return nil }
    let (op, completion) = ring.posted[ring.pulled]
    ring.pulled += 1
    deliver(op, completion)
    return completion
  }

  /// Something has happened that its worker has not been told yet.
  var hasUntaken: Bool { rings.contains { $0.pulled < $0.posted.count || !$0.heldBack.isEmpty } }

  /// Operations that the kernel holds.
  var inFlight: Int { rings.reduce(0) { $0 + $1.inFlight } }

  private func handle(_ event: Event) {
    switch event.kind {
    case .arriveAtProxy: arriveAtProxy(links[event.a], event.b)
    case .arriveAtPeer: arriveAtPeer(links[event.a], event.b)
    case .resetToProxy: resetToProxy(links[event.a])
    case .resetToPeer: resetToPeer(links[event.a])
    case .probesFail: resetToProxy(links[event.a], error: 110)
    case .receiveStep:
      links[event.a].receiveStep = false
      tryReceive(links[event.a])
    case .sendStep:
      links[event.a].sendStep = false
      trySend(links[event.a])
    case .finish: if isCurrent(event) { post(event.a, ops[event.a].result) }
    case .connectEnds: if isCurrent(event), !ops[event.a].ended { connectEnds(event.a) }
    case .cancelLate: if isCurrent(event), !ops[event.a].ended { endCancelled(event.a) }
    case .perform: if isCurrent(event) { perform(event.a) }
    case .wakePeer:
      if peerWakes[event.a] <= now { peerWakes[event.a] = .max }
      peers[event.a].wake(self)
    case .acceptStep:
      rings[event.a].acceptStep = false
      tryAccept(rings[event.a])
    case .wakeWorker: tryWake(rings[event.a])
    case .wakeLinkPeer: links[event.a].peer?.wake(self)
    }
  }

  private func isCurrent(_ event: Event) -> Bool { ops[event.a].serial == event.b && !ops[event.a].free }

  // MARK: operations

  private func queue(_ ring: SimRing, _ kind: Operation, _ token: Token, link: Link?) -> Int {
    let index: Int
    if let free = freeOps.popLast() {
      index = free
    } else {
      index = ops.count
      ops.append(Op())
    }
    let serial = ops[index].serial + 1
    ops[index] = Op()
    ops[index].serial = serial
    ops[index].kind = kind
    ops[index].token = token
    ops[index].link = link?.id ?? -1
    ops[index].free = false
    ops[index].ring = ring.index
    ring.inFlight += 1
    if ring.inFlight > completionRoom {
      fail("more operations in flight than the completion queue holds: \(ring.inFlight)")
    }
    // Operations without a slot, and those that are only counted, need no name of their own.
    if token.slot != noSlot && kind != .shutdown {
      if ring.byToken[token.raw] != nil { fail("token of \(kind) is in flight already: slot \(token.slot)") }
      ring.byToken[token.raw] = index
    }
    if token.operation != kind { fail("\(kind) was queued with a token that says \(token.operation)") }
    link?.operations += 1
    ring.submissions.append(index)
    ring.effort.queued(kind)
    return index
  }

  private func openLink(_ ring: SimRing, _ fd: Int32, _ verb: StaticString) -> Link? {
    let index = Int(fd) - Int(World.firstFd)
    guard index >= 0, index < linkOfFd.count, !links[linkOfFd[index]].proxyClosed else {
      fail("\(verb) on descriptor \(fd), which is not open")
      return nil
    }
    let link = links[linkOfFd[index]]
    if link.ring != ring.index { fail("\(verb) on descriptor \(fd), which is another worker's") }
    return link
  }

  func accept(_ ring: SimRing, on listener: Int32, token: Token) {
    if listener != World.listener { fail("accept on descriptor \(listener), which does not listen") }
    if ring.acceptOp >= 0 { fail("a second accept was armed") }
    log("accept armed")
    ring.acceptOp = queue(ring, .accept, token, link: nil)
  }

  func receive(_ ring: SimRing, _ fd: Int32, limit: UInt32, token: Token) {
    guard let link = openLink(ring, fd, "receive") else { return }
    log("receive: link, limit", link.id, Int(limit))
    if link.receiveOp >= 0 || link.receiveQueued { fail("a second receive was armed on link \(link.id)") }
    if !link.connected { fail("receive before connect on link \(link.id)") }
    link.receiveQueued = true
    let op = queue(ring, .receive, token, link: link)
    ops[op].limit = max(1, Int(limit))
  }

  func send(_ ring: SimRing, _ fd: Int32, _ slices: UnsafePointer<IOSlice>, _ count: Int, token: Token) {
    guard let link = openLink(ring, fd, "send") else { return }
    if link.sendOp >= 0 || link.sendQueued { fail("a second send while one is in flight on link \(link.id)") }
    if !link.connected { fail("send before connect on link \(link.id)") }
    if link.proxyShutWrite { fail("send after shutdown on link \(link.id)") }
    link.sendQueued = true
    let op = queue(ring, .send, token, link: link)
    if count < 1 || count > gatherMax { fail("a send of \(count) slices") }
    var total = 0
    for index in 0..<count {
      if slices[index].count <= 0 || slices[index].base == nil { fail("a send with an empty slice") }
      total += slices[index].count
    }
    ops[op].first = slices[0]
    if count > 1 { ops[op].slices = Array(UnsafeBufferPointer(start: slices, count: count)) }
    ops[op].total = total
    ops[op].checksum = checksum(op)
    log("send: link, bytes, slices", link.id, total, count)
    if link.side == .replica { offer(link, slices[0]) }
  }

  private func checksum(_ op: Int) -> UInt64 {
    guard !ops[op].slices.isEmpty else { return hash(ops[op].first, 1) }
    var value: UInt64 = 1
    for slice in ops[op].slices { value = hash(slice, value) }
    return value
  }

  func watch(_ ring: SimRing, _ fd: Int32, token: Token) {
    guard let link = openLink(ring, fd, "watch") else { return }
    log("watch: link", link.id)
    if link.watchOp >= 0 || link.watchQueued { fail("a second watch was armed on link \(link.id)") }
    link.watchQueued = true
    _ = queue(ring, .watch, token, link: link)
  }

  func unread(_ ring: SimRing, on fd: Int32) -> Unread {
    guard let link = openLink(ring, fd, "unread") else { return Unread(bytes: 0, silenceNs: 0) }
    return Unread(bytes: link.toProxy.available, silenceNs: now - link.cameAt)
  }

  func connect(_ ring: SimRing, _ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token) {
    guard let link = openLink(ring, fd, "connect") else { return }
    if link.connectOp >= 0 || link.connected { fail("a second connect on link \(link.id)") }
    if address.pointee.length == 0 || address.pointee.family != 2 { fail("connect to no address") }
    log("connect: link, port", link.id, Int(address.pointee.port))
    let op = queue(ring, .connect, token, link: link)
    ops[op].addressWord = address.pointee.storage.0
    link.connectOp = op
    link.beganAt = now
  }

  func shutdown(_ ring: SimRing, _ fd: Int32, _ how: ShutdownHow, token: Token) {
    guard let link = openLink(ring, fd, "shutdown") else { return }
    log(how == .both ? "shutdown both: link" : "shutdown write: link", link.id)
    if how == .write && !link.ending {
      link.ending = true
      link.endingAt = now
    }
    let op = queue(ring, .shutdown, token, link: link)
    ops[op].how = how
    if how == .both { markStopped(link) }
    if how == .write && link.sendOp >= 0 { fail("shutdown for writing with a send in flight on link \(link.id)") }
  }

  func close(_ ring: SimRing, _ fd: Int32, token: Token) {
    guard let link = openLink(ring, fd, "close") else { return }
    log("close: link", link.id)
    if link.operations > 0 { fail("close with \(link.operations) operations in flight on link \(link.id)") }
    markStopped(link)
    link.proxyClosed = true
    _ = queue(ring, .close, token, link: link)
  }

  func cancel(_ ring: SimRing, _ target: Token, token: Token) {
    log("cancel: operation, slot", Int(target.operation.rawValue), Int(target.slot))
    if let op = ring.byToken[target.raw], ops[op].link >= 0 { markStopped(links[ops[op].link]) }
    let op = queue(ring, .cancel, token, link: nil)
    ops[op].target = target
  }

  func armWake(_ ring: SimRing, token: Token) {
    if ring.wakeOp >= 0 { fail("a second wake was armed") }
    ring.wakeOp = queue(ring, .wake, token, link: nil)
  }

  private func markStopped(_ link: Link) {
    guard !link.stopped else { return }
    link.stopped = true
    link.stoppedAt = now
    if link.side == .replica { openUpstreams -= 1 }
    tellStopped(link)
  }

  func openSocket(_ ring: SimRing) -> Int32 {
    if chance.hit(profile.socketErrors) {
      log("socket: EMFILE")
      return -24
    }
    let link = newLink(.replica)
    openUpstreams += 1
    link.ring = ring.index
    giveFd(link)
    return link.fd
  }

  func resetOnClose(_ ring: SimRing, _ fd: Int32) {
    guard let link = openLink(ring, fd, "resetOnClose") else { return }
    link.resetOnClose = true
  }

  func peerAddress(_ ring: SimRing, of fd: Int32) -> SocketAddress {
    _ = openLink(ring, fd, "peerAddress")
    return .ipv4(10, 1, UInt8(truncatingIfNeeded: fd >> 8), UInt8(truncatingIfNeeded: fd), port: 40_000)
  }

  private func giveFd(_ link: Link) {
    link.fd = World.firstFd + Int32(linkOfFd.count)
    linkOfFd.append(link.id)
  }

  func newLink(_ side: LinkSide) -> Link {
    let latency = chance.delay(profile.latencyNs)
    let link = Link(
      id: links.count, side: side,
      toProxy: Pipe(
        sendRoom: chance.pick(profile.socketBuffers), receiveRoom: chance.pick(profile.socketBuffers),
        latency: latency),
      toPeer: Pipe(
        sendRoom: chance.pick(profile.socketBuffers), receiveRoom: chance.pick(profile.socketBuffers), latency: latency)
    )
    links.append(link)
    return link
  }

  // MARK: performing

  private func perform(_ op: Int) {
    ops[op].started = true
    let link = ops[op].link >= 0 ? links[ops[op].link] : nil
    switch ops[op].kind {
    case .accept: tryAccept(rings[ops[op].ring])
    case .wake: tryWake(rings[ops[op].ring])
    case .connect: startConnect(op, link!)
    case .receive:
      link!.receiveQueued = false
      link!.receiveOp = op
      tryReceive(link!)
    case .send:
      link!.sendQueued = false
      link!.sendOp = op
      trySend(link!)
    case .watch:
      link!.watchQueued = false
      link!.watchOp = op
      tryWatch(link!)
    case .shutdown: performShutdown(op, link!)
    case .close: performClose(op, link!)
    case .cancel: performCancel(op)
    }
  }

  /// Decides the last completion of an operation.
  private func finish(_ op: Int, _ result: Int32) {
    ops[op].ended = true
    ops[op].result = result
    if chance.hit(profile.late) {
      schedule(.finish, op, ops[op].serial, after: chance.delay(profile.lateNs))
    } else {
      post(op, result)
    }
  }

  private func post(_ op: Int, _ result: Int32, buffer: BufferID = .none, more: Bool = false) {
    if !more { ops[op].ended = true }
    rings[ops[op].ring].posted.append(
      (op, Completion(token: ops[op].token, result: result, buffer: buffer, more: more)))
  }

  /// A completion is handed to the engine: the operation's memory is the engine's again.
  private func deliver(_ op: Int, _ completion: Completion) {
    let link = ops[op].link >= 0 ? links[ops[op].link] : nil
    let ring = rings[ops[op].ring]
    ring.effort.told(ops[op].kind, completion)
    switch ops[op].kind {
    case .receive:
      log("received: link, result, more", link!.id, Int(completion.result), completion.more ? 1 : 0)
      tellReceive(link!, completion.result)
    case .send:
      log("sent: link, result", link!.id, Int(completion.result))
      if checksum(op) != ops[op].checksum { fail("bytes changed while being sent on link \(link!.id)") }
      tellSend(link!, Int(completion.result), ops[op].total)
    case .watch:
      log("watched: link, result", link!.id, Int(completion.result))
      tellWatch(link!, completion.result)
    case .connect:
      log("connected: link, result", link!.id, Int(completion.result))
    case .accept: log("accepted: result, more", Int(completion.result), completion.more ? 1 : 0)
    case .cancel: log("cancelled: result", Int(completion.result))
    case .wake, .shutdown, .close: break
    }
    guard !completion.more else { return }
    link?.operations -= 1
    if ring.byToken[ops[op].token.raw] == op { ring.byToken[ops[op].token.raw] = nil }
    ops[op].free = true
    ops[op].slices = []
    freeOps.append(op)
    ring.inFlight -= 1
  }

  // MARK: accepting

  /// A client without a script: connects and says `text`; for tests of this interface.
  package func dial(saying text: String) {
    let dialer = Dialer(newLink(.client), Array(text.utf8))
    wake(add(dialer), at: now)
  }

  /// The last such client resets its connection.
  package func hangUp() { peerAbort(links[links.count - 1]) }
  /// It sends its FIN and stays.
  package func endHalf() { peerFinish(links[links.count - 1]) }
  /// It is gone without a word.
  package func vanish() { peerVanish(links[links.count - 1]) }

  /// A client's connection has reached the listener.
  func arrive(_ link: Link) {
    link.connected = true
    guard listening else {
      resetToPeer(link)
      return
    }
    // SO_REUSEPORT: one of the workers' sockets, and no other.
    let ring = rings.count == 1 ? rings[0] : chance.pick(rings)
    ring.backlog.append(link)
    tryAccept(ring)
  }

  private func tryAccept(_ ring: SimRing) {
    while ring.acceptOp >= 0, !ops[ring.acceptOp].ended, !ring.backlog.isEmpty, !ring.acceptStep {
      if chance.hit(profile.acceptErrors) {
        post(ring.acceptOp, -24)
        ring.acceptOp = -1
        return
      }
      let link = ring.backlog.removeFirst()
      link.ring = ring.index
      giveFd(link)
      link.beganAt = now
      log("accept: link, fd", link.id, Int(link.fd))
      let more = !chance.hit(profile.endEarly)
      post(ring.acceptOp, link.fd, more: more)
      if !more { ring.acceptOp = -1 }
      if chance.hit(0.3) {
        ring.acceptStep = true
        schedule(.acceptStep, ring.index, after: chance.delay(profile.lateNs))
      }
    }
  }

  /// The process has closed its listening sockets.
  func stopListening() {
    listening = false
    for ring in rings {
      for link in ring.backlog { resetToPeer(link) }
      ring.backlog = []
    }
  }

  // MARK: waking

  func wakeWorkers() {
    for ring in rings {
      ring.wakeWanted = true
      schedule(.wakeWorker, ring.index, after: chance.delay(100 * Nanoseconds.microsecond))
    }
  }

  private func tryWake(_ ring: SimRing) {
    guard ring.wakeWanted, ring.wakeOp >= 0 else { return }
    ring.wakeWanted = false
    post(ring.wakeOp, 8)
    ring.wakeOp = -1
  }

  // MARK: connecting

  private func startConnect(_ op: Int, _ link: Link) {
    link.toPeer.latency = chance.delay(profile.latencyNs)
    var wait = 2 * link.toPeer.latency
    if chance.hit(profile.slowConnects) { wait += chance.delay(20 * Nanoseconds.second) }
    if chance.hit(profile.localConnectErrors) {
      // EADDRNOTAVAIL: no port of ours is left. The replica has no part in it.
      ops[op].addressWord = 0
      schedule(.finish, op, ops[op].serial, after: 1)
      ops[op].ended = true
      ops[op].result = -99
      link.connectOp = -1
      return
    }
    schedule(.connectEnds, op, ops[op].serial, after: wait)
  }

  private func connectEnds(_ op: Int) {
    let link = links[ops[op].link]
    guard let replica = replicas[ops[op].addressWord], replica.takes(self) else {
      log("refused: link", link.id)
      // ECONNREFUSED, EHOSTUNREACH or ETIMEDOUT.
      finish(op, chance.pick([-111, -111, -113, -110]))
      return
    }
    link.connected = true
    link.connectOp = -1
    link.replicaIndex = replica.index
    replica.accept(link, self)
    finish(op, 0)
    if chance.hit(profile.resetsAfterConnect) { peerAbort(link) }
  }

  // MARK: receiving

  func tryReceive(_ link: Link) {
    while link.receiveOp >= 0, !link.receiveStep {
      let op = link.receiveOp
      let available = link.toProxy.available
      if available == 0 || (link.proxyShutRead && chance.hit(0.3)) {
        if link.proxyError != 0 && !link.proxyShutRead {
          // Reported once; who asks later sees an end (tcp_recvmsg, sock_error).
          let error = link.proxyError
          link.proxyError = 0
          endReceive(link, -error)
        } else if link.toProxy.atEnd || link.proxyShutRead || link.proxyDead {
          endReceive(link, 0)
        }
        return
      }
      guard let buffer = takeBuffer(rings[link.ring]) else {
        endReceive(link, -105)
        return
      }
      var count = min(available, bufferBytes)
      if chance.hit(profile.shortReceives) { count = chance.size(count) }
      link.toProxy.withAvailable {
        (rings[link.ring].memory + Int(buffer) * bufferBytes).copyMemory(from: $0.baseAddress!, byteCount: count)
      }
      link.toProxy.take(count)
      ops[op].moved += count
      let ends = ops[op].moved >= ops[op].limit || chance.hit(profile.endEarly)
      if ends { link.receiveOp = -1 }
      post(op, Int32(count), buffer: BufferID(buffer), more: !ends)
      // The window has opened.
      schedule(.wakeLinkPeer, link.id, after: link.toProxy.latency)
      if !ends && chance.hit(0.5) {
        link.receiveStep = true
        schedule(.receiveStep, link.id, after: chance.delay(50 * Nanoseconds.microsecond))
      }
    }
  }

  private func endReceive(_ link: Link, _ result: Int32) {
    let op = link.receiveOp
    link.receiveOp = -1
    post(op, result)
  }

  // MARK: watching

  /// A poll of many shots, poll(2): each change of the state is told, with all that is so then, until it is cancelled.
  func tryWatch(_ link: Link) {
    guard link.watchOp >= 0 else { return }
    let op = link.watchOp
    var found: Int32 = 0
    if link.proxyError != 0 { found |= PeerEnd.broken }
    if link.proxyDead || (link.proxyShutWrite && (link.toProxy.finArrived || link.proxyShutRead)) {
      found |= PeerEnd.both
    }
    if link.proxyDead || link.toProxy.finArrived || link.proxyShutRead { found |= PeerEnd.fin }
    guard found & ~link.watchTold != 0 else { return }
    link.watchTold |= found
    // The kernel ends it early where the completion queue was full.
    let more = !chance.hit(profile.endEarly * 0.2)
    if !more {
      link.watchOp = -1
      link.watchTold = 0
    }
    post(op, found, more: more)
  }

  // MARK: sending

  func trySend(_ link: Link) {
    while link.sendOp >= 0, !link.sendStep {
      let op = link.sendOp
      if link.proxyError != 0 || link.proxyDead || link.proxyShutWrite {
        let error: Int32 = link.proxyError != 0 ? link.proxyError : 32
        link.proxyError = 0
        endSend(link, -error)
        return
      }
      if chance.hit(profile.sendErrors) {
        log("network failed: link", link.id)
        resetToProxy(link)
        schedule(.resetToPeer, link.id, after: link.toPeer.latency)
        continue
      }
      let room = link.toPeer.room
      guard room > 0 else { return }
      var count = min(room, ops[op].total - ops[op].moved)
      if chance.hit(profile.shortSends) { count = chance.size(count) }
      copy(op, count, to: link)
      ops[op].moved += count
      link.acceptedFromProxy += count
      link.lastAccepted = now
      tellAccepted(link, count)
      scheduleArrival(link, toProxy: false)
      if ops[op].moved == ops[op].total {
        link.sendOp = -1
        finish(op, Int32(ops[op].total))
        return
      }
      if chance.hit(0.5) {
        link.sendStep = true
        schedule(.sendStep, link.id, after: chance.delay(50 * Nanoseconds.microsecond))
      }
    }
  }

  /// The send ends before all is gone: with what was accepted, if anything was.
  private func endSend(_ link: Link, _ error: Int32) {
    let op = link.sendOp
    link.sendOp = -1
    finish(op, ops[op].moved > 0 ? Int32(ops[op].moved) : error)
  }

  private func copy(_ op: Int, _ count: Int, to link: Link) {
    var skip = ops[op].moved
    var left = count
    if ops[op].slices.isEmpty {
      link.toPeer.accept(UnsafeRawBufferPointer(start: ops[op].first.base! + skip, count: left))
      return
    }
    for slice in ops[op].slices where left > 0 {
      if skip >= slice.count {
        skip -= slice.count
        continue
      }
      let part = min(left, slice.count - skip)
      link.toPeer.accept(UnsafeRawBufferPointer(start: slice.base! + skip, count: part))
      left -= part
      skip = 0
    }
  }

  // MARK: the network

  func scheduleArrival(_ link: Link, toProxy: Bool) {
    let mark = toProxy ? link.toProxy.accepted : link.toPeer.accepted
    let latency = toProxy ? link.toProxy.latency : link.toPeer.latency
    var at = now + latency + chance.delay(latency / 4 + 1)
    at = max(at, toProxy ? link.toProxy.lastArrival : link.toPeer.lastArrival)
    if toProxy { link.toProxy.lastArrival = at } else { link.toPeer.lastArrival = at }
    calendar.add(Event(kind: toProxy ? .arriveAtProxy : .arriveAtPeer, a: link.id, b: mark), at: at)
  }

  private func arriveAtProxy(_ link: Link, _ mark: Int) {
    guard !link.toProxy.dead, !link.vanished else { return }
    if link.proxyClosed {
      if mark > link.toProxy.arrived {
        link.toProxy.dead = true
        schedule(.resetToPeer, link.id, after: link.toPeer.latency)
      }
      return
    }
    if mark > link.toProxy.arrived { link.cameAt = now }
    link.toProxy.arrive(mark)
    if link.toProxy.finQueued && mark == link.toProxy.accepted { link.toProxy.finArrived = true }
    tryReceive(link)
    tryWatch(link)
    // What was delivered leaves room at the sender.
    if link.toProxy.room > 0 { link.peer?.wake(self) }
  }

  private func arriveAtPeer(_ link: Link, _ mark: Int) {
    guard !link.toPeer.dead, !link.vanished else { return }
    if link.peerClosed {
      if mark > link.toPeer.arrived {
        link.toPeer.dead = true
        schedule(.resetToProxy, link.id, after: link.toProxy.latency)
      }
      return
    }
    link.toPeer.arrive(mark)
    if link.toPeer.finQueued && mark == link.toPeer.accepted { link.toPeer.finArrived = true }
    trySend(link)
    link.peer?.wake(self)
  }

  /// The peer has taken bytes: the proxy's send may go on.
  func peerTook(_ link: Link, _ count: Int) {
    link.toPeer.take(count)
    if link.sendOp >= 0 && !link.sendStep {
      link.sendStep = true
      schedule(.sendStep, link.id, after: link.toPeer.latency)
    }
  }

  func resetToProxy(_ link: Link, error: Int32 = 104) {
    guard !link.proxyClosed, !link.proxyDead else { return }
    log("break reaches proxy: link, error", link.id, Int(error))
    link.proxyError = error
    link.proxyDead = true
    link.deadSince = (now, turn)
    link.toPeer.dead = true
    if chance.hit(0.5) { link.toProxy.discardUnread() } else { link.toProxy.dead = true }
    link.toProxy.finArrived = false
    tryWatch(link)
    tryReceive(link)
    trySend(link)
  }

  func resetToPeer(_ link: Link) {
    guard !link.peerClosed, !link.peerReset else { return }
    log("reset reaches peer: link", link.id)
    link.peerReset = true
    link.toProxy.dead = true
    if chance.hit(0.5) { link.toPeer.discardUnread() } else { link.toPeer.dead = true }
    link.peer?.wake(self)
  }

  // MARK: ending

  private func performShutdown(_ op: Int, _ link: Link) {
    if link.proxyDead && chance.hit(0.5) {
      finish(op, -107)
      return
    }
    if !link.proxyShutWrite {
      link.proxyShutWrite = true
      if !link.toPeer.finQueued && link.connected {
        link.toPeer.finQueued = true
        scheduleArrival(link, toProxy: false)
      }
    }
    if ops[op].how == .both { link.proxyShutRead = true }
    finish(op, 0)
    tryWatch(link)
    tryReceive(link)
    trySend(link)
  }

  private func performClose(_ op: Int, _ link: Link) {
    if link.connected && !link.proxyDead {
      if link.resetOnClose || link.toProxy.available > 0 {
        log("proxy resets: link", link.id)
        link.toProxy.discardUnread()
        schedule(.resetToPeer, link.id, after: link.toPeer.latency)
      } else if !link.toPeer.finQueued {
        link.toPeer.finQueued = true
        scheduleArrival(link, toProxy: false)
      }
    }
    finish(op, 0)
  }

  private func performCancel(_ op: Int) {
    guard let target = rings[ops[op].ring].byToken[ops[op].target.raw], ops[target].started, !ops[target].ended else {
      finish(op, chance.hit(0.2) ? -114 : -2)
      return
    }
    if chance.hit(profile.cancelRaces) {
      // Found at work: it ends soon, one way or the other.
      finish(op, -114)
      schedule(.cancelLate, target, ops[target].serial, after: chance.delay(profile.lateNs))
      return
    }
    endCancelled(target)
    finish(op, 0)
  }

  /// The target of a cancel ends: cancelled, or as it would have.
  private func endCancelled(_ op: Int) {
    let link = ops[op].link >= 0 ? links[ops[op].link] : nil
    switch ops[op].kind {
    case .receive:
      if let link, chance.hit(0.3), link.toProxy.available > 0, let buffer = takeBuffer(rings[link.ring]) {
        let count = chance.size(min(link.toProxy.available, bufferBytes))
        link.toProxy.withAvailable {
          (rings[link.ring].memory + Int(buffer) * bufferBytes).copyMemory(from: $0.baseAddress!, byteCount: count)
        }
        link.toProxy.take(count)
        let last = chance.hit(0.5)
        post(op, Int32(count), buffer: BufferID(buffer), more: !last)
        if last {
          link.receiveOp = -1
          return
        }
      }
      link?.receiveOp = -1
      post(op, -125)
    case .send: endSend(link!, -125)
    case .watch:
      link!.watchOp = -1
      link!.watchTold = 0
      post(op, -125)
    case .connect:
      if chance.hit(profile.cancelRaces) { connectEnds(op) } else { finish(op, -125) }
    case .accept:
      rings[ops[op].ring].acceptOp = -1
      post(op, -125)
    case .wake, .shutdown, .close, .cancel: fail("cancel of a \(ops[op].kind)")
    }
  }

  // MARK: lent buffers

  private func takeBuffer(_ ring: SimRing) -> Int32? {
    guard !ring.freeBuffers.isEmpty, !chance.hit(profile.noBuffers) else { return nil }
    let place = chance.hit(0.2) ? chance.below(ring.freeBuffers.count) : ring.freeBuffers.count - 1
    ring.freeBuffers.swapAt(place, ring.freeBuffers.count - 1)
    let buffer = ring.freeBuffers.removeLast()
    ring.lent[Int(buffer)] = true
    ring.lentAt[Int(buffer)] = (now, turn)
    return buffer
  }

  func bytes(_ ring: SimRing, of buffer: BufferID) -> UnsafeMutableRawPointer {
    if buffer.raw < 0 || Int(buffer.raw) >= bufferCount || !ring.lent[Int(buffer.raw)] {
      fail("buffer \(buffer.raw) was used without being lent")
      return ring.memory
    }
    return ring.memory + Int(buffer.raw) * bufferBytes
  }

  func giveBack(_ ring: SimRing, _ buffer: BufferID) {
    guard buffer.raw >= 0, Int(buffer.raw) < bufferCount, ring.lent[Int(buffer.raw)] else {
      fail("buffer \(buffer.raw) was given back without being lent")
      return
    }
    ring.lent[Int(buffer.raw)] = false
    // Whoever still reads it will read this.
    (ring.memory + Int(buffer.raw) * bufferBytes).initializeMemory(
      as: UInt8.self, repeating: 0xDD, count: bufferBytes)
    ring.freeBuffers.append(buffer.raw)
  }

  /// Since when the buffer that was lent first is out; those of the last `turns` turns do not count.
  func oldestLent(_ ring: SimRing, besides turns: Int) -> UInt64? {
    var oldest: UInt64?
    for buffer in 0..<bufferCount where ring.lent[buffer] && ring.lentAt[buffer].turn + turns < turn {
      oldest = min(oldest ?? .max, ring.lentAt[buffer].time)
    }
    return oldest
  }

  // MARK: peers

  func add(_ peer: Peer) -> Int {
    peers.append(peer)
    peerWakes.append(.max)
    return peers.count - 1
  }

  /// Wakes a peer at a time, unless it will be woken earlier anyway.
  func wake(_ peer: Int, at: UInt64) {
    guard at < peerWakes[peer] else { return }
    peerWakes[peer] = at
    calendar.add(Event(kind: .wakePeer, a: peer, b: 0), at: max(at, now))
  }
}

private final class Dialer: Peer {
  private unowned let link: Link
  private let text: [UInt8]
  private var called = false

  init(_ link: Link, _ text: [UInt8]) {
    self.link = link
    self.text = text
  }

  override func wake(_ world: World) {
    guard !called else { return }
    called = true
    world.arrive(link)
    _ = text.withUnsafeBytes { world.peerWrite(link, $0) }
  }
}

/// FNV-1a over words, enough to see that bytes have changed.
private func hash(_ slice: IOSlice, _ start: UInt64) -> UInt64 {
  var value = start ^ 0xCBF2_9CE4_8422_2325
  guard let base = slice.base else { return value }
  var index = 0
  while index + 8 <= slice.count {
    value = (value ^ base.loadUnaligned(fromByteOffset: index, as: UInt64.self)) &* 0x100_0000_01B3
    value ^= value >> 29
    index += 8
  }
  while index < slice.count {
    value = (value ^ UInt64(base.load(fromByteOffset: index, as: UInt8.self))) &* 0x100_0000_01B3
    index += 1
  }
  return value
}
