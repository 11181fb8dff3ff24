// A thread of the origin: its ring, its replicas (listening addresses), their connections and deadlines.

import BenchKit
import Glibc
import ProxyCore

struct OriginWorker: ~Copyable {
  private static let inputMax = 16 << 20
  private static let slowReadTurnNs: UInt64 = 20_000_000

  private var io: UringIO
  private let replicas: UnsafeMutablePointer<Replica>
  private let replicaCount: Int
  private let clients: UnsafeMutablePointer<Client>
  private let capacity: Int
  private var highWater: UInt32 = 0
  private var free: UInt32 = .max
  /// Slots of clients first, those of replicas after them.
  private var deadlines: DeadlineHeap
  private let pattern: BodyPattern
  private let model: ModelOptions

  init(listeners: [OriginListener], capacity: Int, model: ModelOptions, pattern: BodyPattern) {
    io = openRing()
    self.capacity = capacity
    self.model = model
    self.pattern = pattern
    clients = mapZeroed(capacity)
    replicaCount = listeners.count
    replicas = .allocate(capacity: listeners.count)
    deadlines = DeadlineHeap(capacity: capacity + listeners.count)
    for (index, listener) in listeners.enumerated() {
      var replica = Replica()
      replica.fd = listener.fd
      replica.address = listener.address
      (replicas + index).initialize(to: replica)
    }
  }

  mutating func run() {
    for index in 0..<replicaCount { accept(UInt32(index)) }
    while true {
      io.submitAndWait(until: deadlines.next)
      while let completion = io.next() { take(completion) }
      while let slot = deadlines.expired(now: io.now) {
        if Int(slot) >= capacity { reopen(slot - UInt32(capacity)) } else { deadline(slot) }
      }
    }
  }

  // MARK: completions

  private mutating func take(_ completion: Completion) {
    let slot = completion.token.slot
    switch completion.token.operation {
    case .accept: accepted(slot, completion)
    case .receive: received(slot, completion)
    case .send:
      let client = clients + Int(slot)
      guard client.pointee.generation == completion.token.generation else { return }
      client.pointee.operations -= 1
      client.pointee.isSending = false
      if completion.result < 0 { end(slot) } else { sentOut(slot) }
      settle(slot)
    case .close:
      let client = clients + Int(slot)
      client.pointee.generation = (client.pointee.generation &+ 1) & 0xFF_FFFF
      client.pointee.nextFree = free
      free = slot
      replicas[Int(client.pointee.replica)].connections -= 1
    case .cancel:
      guard slot < UInt32(capacity) else { return }
      clients[Int(slot)].operations -= 1
      settle(slot)
    case .wake, .connect, .watch, .shutdown: break
    }
  }

  private func token(_ operation: Operation, _ slot: UInt32) -> Token {
    Token(operation, slot: slot, generation: clients[Int(slot)].generation)
  }

  // MARK: connections

  private mutating func accept(_ replica: UInt32) {
    io.accept(
      on: replicas[Int(replica)].fd, token: Token(.accept, slot: replica, generation: replicas[Int(replica)].generation)
    )
  }

  private mutating func accepted(_ index: UInt32, _ completion: Completion) {
    let replica = replicas + Int(index)
    let isCurrent = replica.pointee.generation == completion.token.generation
    if completion.result >= 0 {
      guard isCurrent, let slot = claim() else {
        Glibc.close(completion.result)
        return
      }
      let client = clients + Int(slot)
      client.pointee.fd = completion.result
      client.pointee.replica = index
      replica.pointee.connections += 1
      replica.pointee.accepted += 1
      receive(slot, limit: 0, pollFirst: false)
    }
    if isCurrent && !completion.more && !replica.pointee.isShut { accept(index) }
  }

  private mutating func claim() -> UInt32? {
    let slot: UInt32
    if free != .max {
      slot = free
      free = clients[Int(slot)].nextFree
    } else if Int(highWater) < capacity {
      slot = highWater
      highWater += 1
    } else {
      return nil
    }
    let client = clients + Int(slot)
    client.pointee.operations = 0
    client.pointee.phase = .head
    client.pointee.isSending = false
    client.pointee.isReceiving = false
    client.pointee.isDead = false
    client.pointee.resets = false
    client.pointee.holdsSlot = false
    client.pointee.inputCount = 0
    return slot
  }

  private mutating func receive(_ slot: UInt32, limit: UInt32, pollFirst: Bool) {
    let client = clients + Int(slot)
    client.pointee.isReceiving = true
    client.pointee.operations += 1
    io.receive(client.pointee.fd, limit: limit, pollFirst: pollFirst, token: token(.receive, slot))
  }

  /// Stops everything on a connection; `settle` closes it once the kernel holds nothing of it.
  private mutating func end(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard !client.pointee.isDead else { return }
    client.pointee.isDead = true
    deadlines.clear(slot)
    if client.pointee.phase == .queued { unqueue(slot) }
    if client.pointee.phase != .head { replicas[Int(client.pointee.replica)].aborted += 1 }
    releaseSlot(slot)
    if client.pointee.isReceiving {
      client.pointee.operations += 1
      io.cancel(token(.receive, slot), token: token(.cancel, slot))
    }
    if client.pointee.isSending {
      client.pointee.operations += 1
      io.cancel(token(.send, slot), token: token(.cancel, slot))
    }
  }

  private mutating func settle(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard client.pointee.isDead, client.pointee.operations == 0 else { return }
    client.pointee.operations = .max  // closing: nothing settles it again
    if client.pointee.resets { io.resetOnClose(client.pointee.fd) }
    io.close(client.pointee.fd, token: token(.close, slot))
  }

  // MARK: requests

  private mutating func received(_ slot: UInt32, _ completion: Completion) {
    let client = clients + Int(slot)
    guard client.pointee.generation == completion.token.generation else {
      if completion.buffer != .none { io.giveBack(completion.buffer) }
      return
    }
    if !completion.more {
      client.pointee.isReceiving = false
      client.pointee.operations -= 1
    }
    if completion.result > 0 {
      let bytes = UnsafePointer(io.bytes(of: completion.buffer).assumingMemoryBound(to: UInt8.self))
      if !client.pointee.isDead { consume(slot, bytes, Int(completion.result)) }
      io.giveBack(completion.buffer)
      if !client.pointee.isReceiving && !client.pointee.isDead && !readsSlowly(slot) {
        receive(slot, limit: 0, pollFirst: false)
      }
    } else if completion.result == -ENOBUFS {
      if !client.pointee.isDead { receive(slot, limit: 0, pollFirst: true) }
    } else if completion.result == -ECANCELED && !client.pointee.isDead && readsSlowly(slot) {
      // The fast receive has ended; deadlines arm the slow ones.
    } else {
      end(slot)
    }
    settle(slot)
  }

  private func readsSlowly(_ slot: UInt32) -> Bool {
    clients[Int(slot)].phase == .body && clients[Int(slot)].spec.readRate > 0
  }

  /// Takes bytes in the order they came; those that cannot be used yet are kept.
  private mutating func consume(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int) {
    let client = clients + Int(slot)
    if client.pointee.phase == .body && !keepsBody(client.pointee) {
      var at = 0
      guard readBody(slot, bytes, count, at: &at) else { return }
      if at < count { keep(slot, bytes + at, count - at) }
      return
    }
    if client.pointee.phase == .head && client.pointee.inputCount == 0 {
      var at = 0
      while at < count, client.pointee.phase == .head, !client.pointee.isDead {
        guard let end = endOfHead(bytes + at, count - at) else { break }
        let head = bytes + at
        at += end
        begin(slot, head, end)
        if client.pointee.phase == .body && !keepsBody(client.pointee) {
          guard readBody(slot, bytes, count, at: &at) else { return }
        }
      }
      if at < count && !client.pointee.isDead { keep(slot, bytes + at, count - at) }
      if keepsBody(client.pointee) { useKept(slot) }
      return
    }
    keep(slot, bytes, count)
    useKept(slot)
  }

  /// Completions are read whole, since their fields decide the answer.
  private func keepsBody(_ client: Client) -> Bool {
    client.phase == .body && (client.kind == .completion || client.kind == .chat)
  }

  private mutating func keep(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int) {
    let client = clients + Int(slot)
    let wanted = client.pointee.inputCount + count
    guard wanted <= OriginWorker.inputMax else {
      end(slot)
      return
    }
    if wanted > client.pointee.inputRoom {
      let room = max(4096, wanted * 2)
      client.pointee.input = realloc(client.pointee.input, room)!.assumingMemoryBound(to: UInt8.self)
      client.pointee.inputRoom = room
    }
    memcpy(client.pointee.input! + client.pointee.inputCount, bytes, count)
    client.pointee.inputCount = wanted
  }

  /// Goes on with kept bytes for as long as they can be used.
  private mutating func useKept(_ slot: UInt32) {
    let client = clients + Int(slot)
    while client.pointee.inputCount > 0 && !client.pointee.isDead {
      let input = UnsafePointer(client.pointee.input!)
      var at = 0
      if client.pointee.phase == .head {
        guard let end = endOfHead(input, client.pointee.inputCount) else { return }
        at = end
        begin(slot, input, end)
      } else if keepsBody(client.pointee) {
        guard let length = wholeBody(client.pointee) else { return }
        startCompletion(slot, input, length)
        at = length
      } else if client.pointee.phase == .body {
        guard readBody(slot, input, client.pointee.inputCount, at: &at) || at > 0 else { return }
      } else {
        return
      }
      let rest = client.pointee.inputCount - at
      if rest > 0 && at > 0 { memmove(client.pointee.input!, client.pointee.input! + at, rest) }
      client.pointee.inputCount = rest
    }
  }

  /// Bytes of a completion's body with its framing, once all of it is there.
  private func wholeBody(_ client: Client) -> Int? {
    if !client.requestChunked { return client.inputCount >= client.requestLeft ? client.requestLeft : nil }
    var chunks = ChunkReader()
    var at = 0
    while true {
      switch chunks.next(client.input!, client.inputCount, at: &at) {
      case .data(let here): at += here
      case .done: return at
      case .needMore: return nil
      case .bad: return client.inputCount
      }
    }
  }

  /// Drops body bytes; true when the body has ended.
  private mutating func readBody(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int) -> Bool {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    if client.pointee.requestChunked {
      while true {
        switch client.pointee.requestChunks.next(bytes, count, at: &at) {
        case .data(let here):
          at += here
          replica.pointee.bodyBytes += UInt64(here)
        case .needMore: return false
        case .bad:
          end(slot)
          return false
        case .done:
          begun(slot)
          return true
        }
      }
    }
    let here = min(client.pointee.requestLeft, count - at)
    at += here
    client.pointee.requestLeft -= here
    replica.pointee.bodyBytes += UInt64(here)
    guard client.pointee.requestLeft == 0 else { return false }
    begun(slot)
    return true
  }

  /// A head is here.
  private mutating func begin(_ slot: UInt32, _ head: UnsafePointer<UInt8>, _ end: Int) {
    let client = clients + Int(slot)
    var spec = AnswerSpec()
    client.pointee.requestLeft = 0
    client.pointee.requestChunked = false
    client.pointee.kind = .plain
    client.pointee.headSent = false
    client.pointee.lastPiece = false
    client.pointee.sent = 0
    var targetStart = 0
    while targetStart < end && head[targetStart] != 32 { targetStart += 1 }
    targetStart += 1
    var targetEnd = targetStart
    while targetEnd < end && head[targetEnd] > 32 { targetEnd += 1 }
    let target = head + targetStart
    let targetCount = targetEnd - targetStart
    var understood = spec.read(target: target, targetCount)
    var continues = false
    var fields = FieldWalk(head, end)
    while fields.next() {
      let name = head + fields.nameStart
      let value = head + fields.valueStart
      switch fields.nameCount {
      case 14 where sameName(name, 14, "content-length"):
        client.pointee.requestLeft = decimal(value, fields.valueCount) ?? 0
      case 17 where sameName(name, 17, "transfer-encoding"): client.pointee.requestChunked = true
      case 10 where sameName(name, 10, "connection"): if holds(value, fields.valueCount, "close") { spec.closes = true }
      case 6 where sameName(name, 6, "expect"): continues = true
      default:
        if fields.nameCount > 6, sameName(name, 6, "x-sky-") {
          if !spec.set(name + 6, fields.nameCount - 6, value, fields.valueCount) { understood = false }
        }
      }
    }
    client.pointee.requestChunks = ChunkReader()
    client.pointee.spec = spec
    client.pointee.closesAfter = spec.closes || spec.framing == .close
    replicas[Int(client.pointee.replica)].requests += 1
    if spec.events > 0 { client.pointee.kind = .events }
    guard understood else {
      local(slot, 400, "{\"error\":\"a key or value of the request is not known; see sky-origin --help\"}")
      return
    }
    if targetCount > 4, target[1] == 118, target[2] == 49 {
      if starts(target, targetCount, "/v1/completions") { client.pointee.kind = .completion }
      if starts(target, targetCount, "/v1/chat/completions") { client.pointee.kind = .chat }
      if starts(target, targetCount, "/v1/models") {
        local(slot, 200, ModelReplies.models)
        return
      }
    } else if starts(target, targetCount, "/sky/stats") {
      local(slot, 200, stats(replicas[Int(client.pointee.replica)]))
      return
    } else if starts(target, targetCount, "/sky/refuse") {
      refuse(client.pointee.replica, except: slot)
      local(slot, 200, "{}", closes: true)
      return
    } else if starts(target, targetCount, "/health") {
      local(slot, 200, "{}")
      return
    }
    if continues {
      let text: StaticString = "HTTP/1.1 100 Continue\r\n\r\n"
      // Small and first on this connection's turn: it always fits the socket.
      _ = Glibc.send(client.pointee.fd, text.utf8Start, text.utf8CodeUnitCount, Int32(MSG_NOSIGNAL))
    }
    if client.pointee.requestChunked || client.pointee.requestLeft > 0 {
      client.pointee.phase = .body
      if spec.readRate > 0 {
        setReceiveBuffer(client.pointee.fd, 16384)
        client.pointee.operations += 1
        io.cancel(token(.receive, slot), token: token(.cancel, slot))
        deadlines.set(slot, at: io.now + OriginWorker.slowReadTurnNs)
      }
    } else if client.pointee.kind == .completion || client.pointee.kind == .chat {
      startCompletion(slot, head, 0)
    } else {
      begun(slot)
    }
  }

  private func starts(_ target: UnsafePointer<UInt8>, _ count: Int, _ path: StaticString) -> Bool {
    count >= path.utf8CodeUnitCount && memcmp(target, path.utf8Start, path.utf8CodeUnitCount) == 0
  }

  // MARK: answers

  /// The whole request is here.
  private mutating func begun(_ slot: UInt32) {
    let client = clients + Int(slot)
    if readsSlowly(slot) && !client.pointee.isReceiving { receive(slot, limit: 0, pollFirst: true) }
    deadlines.clear(slot)
    if client.pointee.spec.hang == .head {
      client.pointee.phase = .hung
    } else if client.pointee.spec.delayNs > 0 {
      client.pointee.phase = .wait
      deadlines.set(slot, at: io.now + client.pointee.spec.delayNs)
    } else {
      answer(slot)
    }
  }

  private mutating func deadline(_ slot: UInt32) {
    let client = clients + Int(slot)
    switch client.pointee.phase {
    case .wait:
      answer(slot)
      settle(slot)
    case .streaming: stream(slot)
    case .body:
      // Slow reading: a turn's share, then wait again.
      let share = max(1, client.pointee.spec.readRate / 50)
      if !client.pointee.isReceiving { receive(slot, limit: UInt32(min(share, 1 << 20)), pollFirst: false) }
      deadlines.set(slot, at: io.now + OriginWorker.slowReadTurnNs)
    case .head, .queued, .sending, .hung: break
    }
  }

  private func output(_ slot: UInt32, _ room: Int) -> ByteOut {
    let client = clients + Int(slot)
    if client.pointee.outputRoom < room {
      client.pointee.output = realloc(client.pointee.output, room)!.assumingMemoryBound(to: UInt8.self)
      client.pointee.outputRoom = room
    }
    return ByteOut(client.pointee.output!, capacity: client.pointee.outputRoom)
  }

  private mutating func answer(_ slot: UInt32) {
    let client = clients + Int(slot)
    switch client.pointee.kind {
    case .plain: answerPlain(slot)
    case .events: answerEvents(slot)
    case .completion, .chat: firstToken(slot)
    }
  }

  private func putHead(_ out: inout ByteOut, _ client: Client, type: StaticString, length: Int) {
    out.put("HTTP/1.1 ")
    out.putDecimal(client.spec.status)
    out.put(
      client.spec.status == 200
        ? " OK\r\nServer: sky-origin\r\nContent-Type: " : " Other\r\nServer: sky-origin\r\nContent-Type: ")
    out.put(type)
    if client.spec.status == 204 || client.spec.status == 304 {
      // No body, so no framing either.
    } else if length >= 0 {
      out.put("\r\nContent-Length: ")
      out.putDecimal(length)
    } else if !client.closesAfter || client.spec.framing == .chunked
      || client.kind != .plain && client.spec.framing != .close
    {
      out.put("\r\nTransfer-Encoding: chunked")
    }
    if client.closesAfter { out.put("\r\nConnection: close") }
    out.put("\r\n\r\n")
  }

  private mutating func answerPlain(_ slot: UInt32) {
    let client = clients + Int(slot)
    client.pointee.phase = .sending
    if client.pointee.spec.status == 204 || client.pointee.spec.status == 304 { client.pointee.spec.size = 0 }
    sendPlain(slot)
  }

  /// Sends the head, if that is still to do, and the next piece of the body with it.
  private mutating func sendPlain(_ slot: UInt32) {
    let client = clients + Int(slot)
    let spec = client.pointee.spec
    var out = output(slot, 1024)
    let isChunked = spec.framing == .chunked
    if !client.pointee.headSent {
      client.pointee.headSent = true
      putHead(&out, client.pointee, type: "application/octet-stream", length: spec.framing == .length ? spec.size : -1)
      if spec.hang == .body {
        client.pointee.phase = .hung
        send(slot, out.base, out.count)
        return
      }
    }
    let most = spec.cut >= 0 ? min(spec.cut, spec.size) : spec.size
    let slices = UnsafeMutablePointer<IOSlice>.allocate(capacity: gatherMax)
    defer { slices.deallocate() }
    var used = 0
    if out.count > 0 {
      slices[0] = IOSlice(base: out.base, count: out.count)
      used = 1
    }
    if isChunked {
      while used + 3 <= gatherMax && client.pointee.sent < most && out.count < 900 {
        let here = min(spec.chunkBytes, spec.size - client.pointee.sent)
        let now = min(here, most - client.pointee.sent, pattern.count - client.pointee.sent % pattern.count)
        let mark = out.count
        out.putHex(now < most - client.pointee.sent || most == spec.size ? now : here)
        out.put("\r\n")
        slices[used] = IOSlice(base: out.base + mark, count: out.count - mark)
        slices[used + 1] = IOSlice(base: pattern.bytes + client.pointee.sent % pattern.count, count: now)
        client.pointee.sent += now
        let tail = out.count
        if client.pointee.sent < most || most == spec.size { out.put("\r\n") }
        if client.pointee.sent == spec.size { out.put("0\r\n\r\n") }
        slices[used + 2] = IOSlice(base: out.base + tail, count: out.count - tail)
        used += 3
      }
      if spec.size == 0 {
        out.put("0\r\n\r\n")
        slices[0] = IOSlice(base: out.base, count: out.count)
      }
    } else if client.pointee.sent < most {
      let place = client.pointee.sent % pattern.count
      let now = min(most - client.pointee.sent, pattern.count - place)
      if used == 1 && now <= 512 {
        out.put(pattern.bytes + place, now)
        slices[0] = IOSlice(base: out.base, count: out.count)
      } else {
        slices[used] = IOSlice(base: pattern.bytes + place, count: now)
        used += 1
      }
      client.pointee.sent += now
    }
    client.pointee.lastPiece = client.pointee.sent >= most
    client.pointee.isSending = true
    client.pointee.operations += 1
    if used == 1 {
      io.send(client.pointee.fd, slices[0].base!, slices[0].count, token: token(.send, slot))
    } else {
      io.send(client.pointee.fd, gathering: slices, used, token: token(.send, slot))
    }
  }

  private mutating func send(_ slot: UInt32, _ bytes: UnsafePointer<UInt8>, _ count: Int) {
    let client = clients + Int(slot)
    client.pointee.isSending = true
    client.pointee.operations += 1
    io.send(client.pointee.fd, bytes, count, token: token(.send, slot))
  }

  /// A short answer of the origin's own.
  private mutating func local(_ slot: UInt32, _ status: Int, _ body: String, closes: Bool = false) {
    let client = clients + Int(slot)
    let count = body.utf8.count
    var out = output(slot, 512 + count)
    client.pointee.kind = .plain
    client.pointee.spec.status = status
    client.pointee.spec.cut = -1
    if closes { client.pointee.closesAfter = true }
    // A body that will not be read makes the connection useless.
    if client.pointee.requestLeft > 0 || client.pointee.requestChunked { client.pointee.closesAfter = true }
    putHead(&out, client.pointee, type: "application/json", length: count)
    out.put(body)
    client.pointee.phase = .sending
    client.pointee.lastPiece = true
    send(slot, out.base, out.count)
  }

  private mutating func sentOut(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard !client.pointee.isDead else { return }
    switch client.pointee.phase {
    case .sending:
      guard client.pointee.lastPiece else {
        sendPlain(slot)
        return
      }
      finished(slot)
    case .streaming:
      if client.pointee.lastPiece {
        finished(slot)
      } else if client.pointee.due <= io.now {
        stream(slot)
      } else {
        deadlines.set(slot, at: client.pointee.due)
      }
    case .head, .body, .wait, .queued, .hung: break
    }
  }

  /// The answer has been sent, or cut where it was to be cut.
  private mutating func finished(_ slot: UInt32) {
    let client = clients + Int(slot)
    releaseSlot(slot)
    let spec = client.pointee.spec
    let isCut =
      spec.cut >= 0 && client.pointee.sent >= spec.cut && (client.pointee.kind != .plain || spec.cut < spec.size)
    client.pointee.phase = .head
    if isCut || client.pointee.closesAfter {
      client.pointee.resets = isCut && spec.resets
      end(slot)
      return
    }
    if client.pointee.inputCount > 0 { useKept(slot) }
  }

  // MARK: events

  private mutating func answerEvents(_ slot: UInt32) {
    let client = clients + Int(slot)
    client.pointee.phase = .streaming
    client.pointee.due = io.now + client.pointee.spec.firstNs
    stream(slot)
  }

  /// Sends every event that is due, the head before the first.
  private mutating func stream(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard !client.pointee.isSending else { return }  // sentOut looks again
    if client.pointee.kind != .events {
      streamTokens(slot)
      return
    }
    let spec = client.pointee.spec
    let perEvent = spec.eventBytes + 16
    // Spaced events go out one by one even when they are late, so that what a relay has to do per event stays the same.
    let atOnce = spec.intervalNs == 0 ? 16 : 1
    var out = output(slot, 512 + perEvent * atOnce)
    var written = 0
    if !client.pointee.headSent {
      client.pointee.headSent = true
      putHead(&out, client.pointee, type: "text/event-stream\r\nCache-Control: no-cache", length: -1)
      if spec.hang == .body {
        client.pointee.phase = .hung
        send(slot, out.base, out.count)
        return
      }
    }
    let most = spec.cut >= 0 ? min(spec.cut, spec.events) : spec.events
    let isChunked = spec.framing != .close
    while client.pointee.sent < most && client.pointee.due <= io.now && written < atOnce {
      written += 1
      if isChunked {
        out.putHex(spec.eventBytes)
        out.put("\r\n")
      }
      EventFormat.write(&out, number: UInt32(client.pointee.sent), bytes: spec.eventBytes, now: io.now)
      if isChunked { out.put("\r\n") }
      client.pointee.sent += 1
      client.pointee.due += spec.intervalNs
      replicas[Int(client.pointee.replica)].events += 1
    }
    client.pointee.lastPiece = client.pointee.sent >= most
    if client.pointee.lastPiece && isChunked && most == spec.events { out.put("0\r\n\r\n") }
    if out.count > 0 {
      send(slot, out.base, out.count)
    } else if client.pointee.lastPiece {
      finished(slot)
      settle(slot)
    } else {
      deadlines.set(slot, at: client.pointee.due)
    }
  }

  // MARK: the model

  private mutating func startCompletion(_ slot: UInt32, _ body: UnsafePointer<UInt8>, _ count: Int) {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    replica.pointee.bodyBytes += UInt64(count)
    client.pointee.promptBytes = count
    client.pointee.wantsStream = ModelReplies.flag(body, count, "\"stream\"")
    client.pointee.tokens = ModelReplies.number(body, count, "\"max_tokens\"") ?? model.tokens
    client.pointee.requestLeft = 0
    client.pointee.requestChunked = false
    if model.slots > 0 && replica.pointee.atWork >= model.slots {
      guard replica.pointee.queued < model.queue else {
        local(slot, 503, "{\"error\":{\"message\":\"the queue is full\",\"type\":\"overloaded\"}}")
        return
      }
      enqueue(slot)
      return
    }
    prefill(slot)
  }

  private mutating func prefill(_ slot: UInt32) {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    client.pointee.holdsSlot = true
    replica.pointee.atWork += 1
    replica.pointee.atWorkMost = max(replica.pointee.atWorkMost, replica.pointee.atWork)
    let ms = model.prefillMs + model.prefillMsPerKb * Double(client.pointee.promptBytes) / 1024
    var wait = UInt64(ms * 1e6)
    if !client.pointee.wantsStream { wait += gap(replica.pointee) * UInt64(client.pointee.tokens) }
    client.pointee.phase = .wait
    if wait == 0 { answer(slot) } else { deadlines.set(slot, at: io.now + wait) }
  }

  private func gap(_ replica: Replica) -> UInt64 {
    UInt64(model.tokenMs * 1e6 + model.tokenSlopeUs * 1e3 * Double(max(0, replica.atWork - 1)))
  }

  private mutating func firstToken(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard client.pointee.wantsStream else {
      let text = ModelReplies.whole(
        isChat: client.pointee.kind == .chat, tokens: client.pointee.tokens, promptBytes: client.pointee.promptBytes)
      local(slot, 200, text)
      return
    }
    client.pointee.phase = .streaming
    client.pointee.due = io.now
    streamTokens(slot)
  }

  private mutating func streamTokens(_ slot: UInt32) {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    let isChat = client.pointee.kind == .chat
    var out = output(slot, 4096)
    if !client.pointee.headSent {
      client.pointee.headSent = true
      putHead(&out, client.pointee, type: "text/event-stream\r\nCache-Control: no-cache", length: -1)
    }
    let cut = client.pointee.spec.cut
    let most = cut >= 0 ? min(cut, client.pointee.tokens) : client.pointee.tokens
    while client.pointee.sent < most && client.pointee.due <= io.now && out.capacity - out.count >= 1024 {
      let isLast = client.pointee.sent + 1 == client.pointee.tokens
      ModelReplies.putToken(&out, isChat: isChat, number: client.pointee.sent, isLast: isLast, now: io.now)
      client.pointee.sent += 1
      client.pointee.due += gap(replica.pointee)
      replica.pointee.events += 1
    }
    client.pointee.lastPiece = client.pointee.sent >= most
    if client.pointee.lastPiece && most == client.pointee.tokens { out.put("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n") }
    if out.count > 0 {
      send(slot, out.base, out.count)
    } else if client.pointee.lastPiece {
      finished(slot)
      settle(slot)
    } else {
      deadlines.set(slot, at: client.pointee.due)
    }
  }

  private mutating func enqueue(_ slot: UInt32) {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    client.pointee.phase = .queued
    client.pointee.queueNext = .max
    client.pointee.queuePrevious = replica.pointee.queueTail
    if replica.pointee.queueTail != .max { clients[Int(replica.pointee.queueTail)].queueNext = slot }
    replica.pointee.queueTail = slot
    if replica.pointee.queueHead == .max { replica.pointee.queueHead = slot }
    replica.pointee.queued += 1
    replica.pointee.queuedMost = max(replica.pointee.queuedMost, replica.pointee.queued)
  }

  private func unqueue(_ slot: UInt32) {
    let client = clients + Int(slot)
    let replica = replicas + Int(client.pointee.replica)
    let (next, previous) = (client.pointee.queueNext, client.pointee.queuePrevious)
    if previous == .max { replica.pointee.queueHead = next } else { clients[Int(previous)].queueNext = next }
    if next == .max { replica.pointee.queueTail = previous } else { clients[Int(next)].queuePrevious = previous }
    replica.pointee.queued -= 1
  }

  private mutating func releaseSlot(_ slot: UInt32) {
    let client = clients + Int(slot)
    guard client.pointee.holdsSlot else { return }
    client.pointee.holdsSlot = false
    let replica = replicas + Int(client.pointee.replica)
    replica.pointee.atWork -= 1
    let head = replica.pointee.queueHead
    guard head != .max, replica.pointee.atWork < model.slots else { return }
    unqueue(head)
    prefill(head)
  }

  // MARK: refusing

  /// Closes the listening socket, so that connections are refused, and cuts the connections the replica has.
  private mutating func refuse(_ index: UInt32, except asker: UInt32) {
    let replica = replicas + Int(index)
    guard !replica.pointee.isShut else { return }
    replica.pointee.isShut = true
    io.cancel(
      Token(.accept, slot: index, generation: replica.pointee.generation),
      token: Token(.cancel, slot: UInt32(capacity) + index, generation: 0))
    replica.pointee.generation = (replica.pointee.generation + 1) & 0xFF_FFFF
    // The accept holds the socket until its cancellation: shutdown makes it refuse at once.
    Glibc.shutdown(replica.pointee.fd, Int32(SHUT_RDWR))
    Glibc.close(replica.pointee.fd)
    for slot in 0..<highWater where slot != asker {
      let client = clients + Int(slot)
      guard client.pointee.replica == index, !client.pointee.isDead, client.pointee.operations != .max else { continue }
      client.pointee.resets = true
      end(slot)
      settle(slot)
    }
    deadlines.set(UInt32(capacity) + index, at: io.now + UInt64(clients[Int(asker)].spec.forMs) * 1_000_000)
  }

  private mutating func reopen(_ index: UInt32) {
    let replica = replicas + Int(index)
    let fd = openListener(&replica.pointee.address)
    guard fd >= 0 else {
      deadlines.set(UInt32(capacity) + index, at: io.now + 10_000_000)
      return
    }
    replica.pointee.fd = fd
    replica.pointee.isShut = false
    accept(index)
  }

  private func stats(_ r: Replica) -> String {
    "{\"connections\":\(r.connections),\"accepted\":\(r.accepted),\"requests\":\(r.requests),\"events\":\(r.events)"
      + ",\"body_bytes\":\(r.bodyBytes),\"aborted\":\(r.aborted)"
      + ",\"at_work\":\(r.atWork),\"at_work_max\":\(r.atWorkMost)"
      + ",\"queued\":\(r.queued),\"queued_max\":\(r.queuedMost)}"
  }
}
