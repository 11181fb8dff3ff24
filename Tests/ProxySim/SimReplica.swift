// A replica, and each of its connections: reads requests strictly, checks them against what the client meant, and
// answers in one of the many ways replicas have.

import ProxyCore
import SimKit

final class SimReplica {
  let index: Int
  let address: SocketAddress
  /// Its index on the load board.
  let place: Int
  var chance: Chance
  /// Refuses connections until then.
  var downUntil: UInt64 = 0
  /// The turn after which it was draining or had left; `.max` while it may get requests.
  var leftTurn = Int.max

  init(index: Int, place: Int, chance: Chance) {
    self.index = index
    self.place = place
    self.chance = chance
    address = .ipv4(10, 9, UInt8(index >> 8), UInt8(index & 255), port: 8000)
  }

  /// Whether it takes a connection now.
  func takes(_ world: World) -> Bool {
    if world.now < downUntil || chance.hit(world.profile.refused) { return false }
    if chance.hit(world.profile.outages * 0.05) { downUntil = world.now + chance.delay(5 * Nanoseconds.second) }
    return true
  }

  func accept(_ link: Link, _ world: World) { _ = ReplicaConnection(link, self, world) }
}

final class ReplicaConnection: Peer {
  private unowned let link: Link
  private unowned let replica: SimReplica
  private var index = -1
  private var chance: Chance
  private var reader = MessageReader()
  private var done = false
  private var reads = true
  private var request: RequestRecord?
  private var received = 0
  private var served = 0
  /// The answer to the present request is planned.
  private var responding = false
  private var requestDone = false

  private var output = Output()
  private var writeAt: UInt64 = 0
  private var pace = Pace.eager
  private var diesAt = Int.max
  private var diesByReset = false
  private var vanishesAt = Int.max
  private var closesAfter = false
  /// Something it does when idle, and when.
  private var idleAt = UInt64.max
  private var idleSpeaks = false

  private var tunnel = false
  private var tunnelSent = 0
  private var tunnelSeen = 0
  private var tunnelPlan = 0
  /// When it says the next thing.
  private var tunnelAt: UInt64 = 0
  private var finished = false

  init(_ link: Link, _ replica: SimReplica, _ world: World) {
    self.link = link
    self.replica = replica
    chance = replica.chance.fork()
    super.init()
    link.peer = self
    index = world.add(self)
    rest(world)
  }

  override func wake(_ world: World) {
    guard !done else { return }
    if link.peerClosed {
      done = true
      return
    }
    read(world)
    if !done { write(world) }
    if !done && world.now >= idleAt { idle(world) }
  }

  private func close(_ world: World, reset: Bool) {
    guard !done else { return }
    done = true
    if let request, !(requestDone && responding && output.left == 0) { request.trouble = true }
    if reset { world.peerAbort(link) } else { world.peerClose(link) }
  }

  // MARK: idling

  /// Between requests: it may close, or say something nobody asked for.
  private func rest(_ world: World) {
    idleAt = .max
    idleSpeaks = chance.hit(world.profile.unsolicited)
    if idleSpeaks || chance.hit(world.profile.idleCloses) {
      idleAt = world.now + chance.delay(3 * Nanoseconds.second)
      world.wake(index, at: idleAt)
    }
  }

  private func idle(_ world: World) {
    idleAt = .max
    guard !responding, request == nil, reader.isBetweenMessages else { return }
    if idleSpeaks {
      world.log("replica speaks unasked: link", link.id)
      link.unaskedFrom = min(link.unaskedFrom, link.toProxy.accepted)
      // A request may be on its way already: nobody can tell what follows from its answer.
      link.offered?.isPoisoned = true
      link.offered?.trouble = true
      let text = Array("HTTP/1.1 200 OK\r\nX-Sim: 999999.0\r\nContent-Length: 3\r\n\r\nbad".utf8)
      _ = text.withUnsafeBytes { world.peerWrite(link, $0) }
    } else {
      close(world, reset: chance.hit(0.3))
    }
  }

  // MARK: reading

  private func read(_ world: World) {
    while !done {
      if link.toPeer.available == 0 {
        if link.peerReset {
          done = true
          request?.trouble = true
          link.peerClosed = true
        } else if link.peerAtEnd {
          ended(world)
        }
        return
      }
      guard reads else { return }
      let count = chance.hit(0.8) ? link.toPeer.available : chance.size(link.toPeer.available)
      let bytes = link.toPeer.withAvailable { Array($0[0..<count]) }
      world.peerTook(link, count)
      bytes.withUnsafeBufferPointer { take($0, world) }
    }
  }

  private func ended(_ world: World) {
    if tunnel {
      // The client's side has ended; ours goes on.
      if finished { close(world, reset: false) }
      return
    }
    close(world, reset: chance.hit(0.2))
  }

  private func take(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    var at = 0
    while !done && world.failure == nil {
      if tunnel {
        takeTunnel(UnsafeBufferPointer(rebasing: bytes[at...]), world)
        return
      }
      // Behind bytes nobody asked for the proxy may believe that an answer is over.
      if requestDone && at < bytes.count && reader.isBetweenMessages && link.unaskedFrom == .max {
        world.fail("the proxy sent more before the answer on link \(link.id)")
        return
      }
      switch reader.step(bytes, &at) {
      case .needMore: return
      case .head(let head): takeHead(head, world)
      case .body(let range): takeBody(UnsafeBufferPointer(rebasing: bytes[range]), world)
      case .end: takeEnd(world)
      case .bad(let text): world.fail("a replica was sent what is not HTTP: \(text)")
      }
    }
  }

  private func takeHead(_ head: Head, _ world: World) {
    idleAt = .max
    let id = head.second.dropFirst(3).prefix { $0 >= "0" && $0 <= "9" }
    guard head.second.hasPrefix("/r/"), let id = Int(id), id < world.requests.count else {
      world.fail("a replica got a request for '\(head.second)'")
      return
    }
    let request = world.requests[id]
    self.request = request
    received = 0
    requestDone = false
    responding = false
    world.log("replica head: request, link", id, link.id)
    check(head, request, world)
    if link.unaskedFrom != .max { request.trouble = true }
    let length = head.first("content-length").flatMap { Int($0) }
    if head.has("transfer-encoding", token: "chunked") {
      reader.expect(.chunked)
    } else {
      reader.expect(length.map { Framing.length($0) } ?? .none)
    }
    let profile = world.profile
    if served > 0 && chance.hit(profile.closesOnRequest) {
      world.log("replica closes on request: link", link.id)
      close(world, reset: chance.hit(0.5))
      return
    }
    if chance.hit(profile.deaths * 0.3) {
      close(world, reset: chance.hit(0.5))
      return
    }
    if head.has("expect", token: "100-continue") && chance.hit(0.7) {
      request.interimsSent += 1
      output.put("HTTP/1.1 100 Continue\r\n\r\n")
    } else if request.framing != .none && chance.hit(profile.earlyReplies) {
      reads = chance.hit(0.5)
      // Closing with the rest unread resets the connection, which may destroy the answer.
      request.trouble = true
      respond(world)
      closesAfter = closesAfter || !reads || chance.hit(0.5)
    }
  }

  private func check(_ head: Head, _ request: RequestRecord, _ world: World) {
    func wrong(_ text: String) { world.fail("request \(request.id) reached the replica with \(text)") }
    if head.first != request.method.rawValue { wrong("method \(head.first)") }
    if head.third != "HTTP/1.1" { wrong("version \(head.third)") }
    if head.all("host").count != 1 { wrong("hosts \(head.all("host"))") }
    if head.all("x-sim-keep") != ["a", "b"] { wrong("fields changed") }
    for name in ["x-sim-hop", "keep-alive", "proxy-connection"] where head.first(name) != nil { wrong(name) }
    if head.all("x-forwarded-for").count != 1 { wrong("no X-Forwarded-For") }
    if (head.first("upgrade") != nil) != request.upgrades { wrong("Upgrade \(head.all("upgrade"))") }
    let isChunked = head.has("transfer-encoding", token: "chunked")
    if isChunked != (request.framing == .chunked) { wrong("another framing") }
    if case .length(let count) = request.framing, head.first("content-length") != String(count) {
      wrong("another length")
    }
  }

  private func takeBody(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    guard let request else { return }
    for (offset, byte) in bytes.enumerated() where byte != pattern(request.requestKey, received + offset) {
      world.fail("request \(request.id): wrong byte at \(received + offset) of its body")
      return
    }
    received += bytes.count
  }

  private func takeEnd(_ world: World) {
    guard let request else { return }
    requestDone = true
    request.executions += 1
    world.log("replica executes: request, link", request.id, link.id)
    if request.flaw != .none { world.fail("request \(request.id) (\(request.flaw)) was presented as complete") }
    if received != request.bodyLength {
      world.fail("request \(request.id) was presented as complete after \(received) of \(request.bodyLength) bytes")
    }
    if request.executions > 1 && !request.method.isIdempotent {
      world.fail("\(request.method.rawValue) \(request.id) was executed twice")
    }
    if let trailer = reader.trailers.first(where: { $0 != "X-Sim-Trailer: end" && $0 != "X-Sim-Trailer:end" }) {
      world.fail("a trailer that must not pass reached the replica: '\(trailer)'")
    }
    if responding {
      finishIfDone(world)
    } else {
      if chance.hit(world.profile.deaths * 0.3) {
        close(world, reset: chance.hit(0.5))
        return
      }
      respond(world)
    }
  }

  // MARK: answering

  private func respond(_ world: World) {
    guard let request else { return }
    let profile = world.profile
    responding = true
    diesAt = .max
    closesAfter = false
    if request.upgrades && chance.hit(0.8) {
      beginTunnel(request, world)
      return
    }
    if chance.hit(profile.hangs) {
      world.log("replica hangs: request", request.id)
      request.trouble = true
      writeAt = .max
      return
    }
    let execution = request.plans.count
    var plan = Plan(execution: execution, status: chance.pick([200, 200, 200, 200, 201, 404, 500, 204, 304, 426]))
    let most = chance.hit(profile.bigRate) ? profile.bigMax : profile.responseMax
    plan.length = chance.hit(0.05) ? 0 : chance.size(most)
    if chance.hit(profile.interim) {
      for _ in 0..<chance.within(1, 3) {
        request.interimsSent += 1
        output.put(
          chance.hit(0.5) ? "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" : "HTTP/1.1 102 Processing\r\n\r\n")
      }
    }
    let isOld = chance.hit(0.05)
    if plan.status == 204 {
      plan.framing = .none
      plan.length = 0
    } else if chance.hit(profile.untilClose) {
      plan.framing = .open
    } else {
      plan.framing = !isOld && chance.hit(0.5) ? .chunked : .length(plan.length)
    }
    let bare = request.method == .head || plan.status == 204 || plan.status == 304
    if plan.framing == .open && bare { plan.framing = .length(plan.length) }
    if plan.status == 304 && plan.framing == .chunked { plan.framing = .length(plan.length) }
    let announces = chance.hit(profile.closesAfter)
    let keepsOld = isOld && chance.hit(0.5)
    closesAfter = announces || plan.framing == .open || (isOld && !keepsOld)
    let fault = chance.hit(profile.malformed) ? chance.within(1, 11) : 0
    putHead(request, plan, isOld: isOld, keepsOld: keepsOld, close: announces, fault: fault)
    if fault != 0 && fault <= 10 {
      plan.hasHead = false
      plan.isWhole = false
      request.trouble = true
      world.log("replica malformed: request, kind", request.id, fault)
    }
    let headEnd = output.bytes.count
    if !bare { putContent(request, &plan, fault: fault == 11, world) }
    if !plan.isWhole { request.trouble = true }
    drawDeath(request, &plan, headEnd, bare, world)
    if plan.isWhole && diesAt == .max && plan.framing != .open && chance.hit(profile.extraBytes) {
      link.unaskedFrom = min(link.unaskedFrom, link.toProxy.accepted + output.left)
      output.put("HTTP/1.1 200 OK\r\nX-Sim: 999999.0\r\n\r\n")
      closesAfter = closesAfter || chance.hit(0.5)
    }
    request.plans.append(plan)
    writeAt = world.now + chance.delay(profile.thinkNs)
    if chance.hit(profile.replicaVanishes) {
      plan.isWhole = false
      request.trouble = true
      request.plans[execution].isWhole = false
      world.calendar.add(Event(kind: .wakePeer, a: index, b: 0), at: writeAt)
      vanishesAt = chance.hit(0.5) ? 0 : output.sent + chance.below(max(1, output.left))
    }
    pace = .eager
    if chance.hit(profile.streams) {
      // However small the pieces, a stream comes to its end within the bound on a client's life.
      pace = .pieces(
        max(chance.size(2_000), output.bytes.count / 300), chance.delay(20 * Nanoseconds.millisecond))
    }
    world.wake(index, at: writeAt)
  }

  private func putHead(_ request: RequestRecord, _ plan: Plan, isOld: Bool, keepsOld: Bool, close: Bool, fault: Int) {
    var head = isOld ? "HTTP/1.0 \(plan.status) OK\r\n" : "HTTP/1.1 \(plan.status) Fine\r\n"
    if fault == 1 { head = "HTTP/3 200 OK\r\n" }
    if fault == 2 { head = "garbage\r\n" }
    if fault == 3 { head = "HTTP/1.1 99 Low\r\n" }
    if fault == 4 { head = "HTTP/1.1 200 OK\n" }
    head += "X-Sim: \(request.id).\(plan.execution)\r\nX-Sim-Keep: a\r\n"
    if chance.hit(0.1) { head += "X-Padding: " + String(repeating: "q", count: chance.size(3_000)) + "\r\n" }
    if chance.hit(0.1) { head += "Keep-Alive: timeout=30\r\n" }
    head += "X-SIM-Keep: b\r\n"
    if fault == 5 { head += "Content-Length: 1x\r\n" }
    if fault == 6 { head += "Content-Length: 1\r\nContent-Length: 2\r\n" }
    if fault == 7 { head += "X-Control: a\u{0}\r\n" }
    if fault == 8 { head += "X Space: a\r\n" }
    if fault == 9 { head += "X-Long: " + String(repeating: "l", count: SimLimits.headBytes) + "\r\n" }
    if fault == 10 { head += "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n" }
    switch plan.framing {
    case .none, .open: break
    case .length(let count): head += "Content-Length: \(count)\r\n"
    case .chunked: head += "Transfer-Encoding: chunked\r\n"
    }
    if close { head += "Connection: close\r\n" } else if keepsOld { head += "Connection: keep-alive\r\n" }
    output.put(head + "\r\n")
  }

  private func putContent(_ request: RequestRecord, _ plan: inout Plan, fault: Bool, _ world: World) {
    let key = request.responseKey(plan.execution)
    switch plan.framing {
    case .none: break
    case .length, .open: output.put(content(key, 0..<plan.length))
    case .chunked:
      var body = chunked(
        key, plan.length, largest: chance.hit(0.5) ? world.profile.chunkMax : 20_000,
        trailers: !fault && chance.hit(0.2), &chance)
      if fault {
        body.removeLast(5)
        body.append(contentsOf: "nonsense\r\n\r\n".utf8)
        plan.isWhole = false
      }
      output.put(body)
    }
  }

  /// Where in its answer the replica dies, if it does.
  private func drawDeath(_ request: RequestRecord, _ plan: inout Plan, _ headEnd: Int, _ bare: Bool, _ world: World) {
    guard chance.hit(world.profile.deaths) else { return }
    let end = output.bytes.count
    request.trouble = true
    diesAt = chance.hit(0.2) ? end : output.sent + chance.below(end - output.sent)
    diesByReset = chance.hit(0.5)
    let isOpen = plan.framing == .open && !bare
    if diesAt < headEnd { plan.hasHead = false }
    if isOpen && !diesByReset && diesAt >= headEnd {
      // Nobody can tell this from a shorter answer.
      plan.length = diesAt - headEnd
    } else if diesAt < end || (isOpen && diesByReset) {
      plan.isWhole = false
    }
    world.log("replica will die: request, at, of", request.id, diesAt, end)
  }

  // MARK: writing

  private func write(_ world: World) {
    while true {
      if tunnel { fillTunnel(world) }
      guard output.left > 0 || output.sent >= diesAt else { break }
      if output.left > 0 && writeAt > world.now {
        if writeAt != .max { world.wake(index, at: writeAt) }
        return
      }
      if output.sent >= vanishesAt {
        done = true
        world.peerVanish(link)
        return
      }
      if output.sent >= diesAt {
        world.log("replica dies: link, at", link.id, output.sent)
        close(world, reset: diesByReset)
        return
      }
      var count = min(output.left, min(diesAt, vanishesAt) - output.sent)
      if case .pieces(let most, let pause) = pace {
        count = min(count, chance.within(1, most))
        writeAt = world.now + chance.delay(pause)
      }
      let sent = output.sent
      let accepted = output.bytes.withUnsafeBytes {
        world.peerWrite(link, UnsafeRawBufferPointer(rebasing: $0[sent..<sent + count]))
      }
      output.sent += accepted
      if accepted == 0 { return }
    }
    if tunnel {
      if tunnelSent == tunnelPlan && !finished {
        finished = true
        world.peerFinish(link)
        if link.peerAtEnd { close(world, reset: false) }
      }
      return
    }
    finishIfDone(world)
  }

  private func finishIfDone(_ world: World) {
    guard responding, output.left == 0, writeAt != .max, output.bytes.count > 0 else { return }
    if closesAfter {
      close(world, reset: false)
      return
    }
    guard requestDone else { return }
    responding = false
    requestDone = false
    request = nil
    served += 1
    output = Output()
    pace = .eager
    rest(world)
  }

  // MARK: tunnels

  private func beginTunnel(_ request: RequestRecord, _ world: World) {
    tunnel = true
    reader = MessageReader()
    tunnelPlan = chance.size(20_000)
    var plan = Plan(execution: request.plans.count, status: 101)
    plan.tunnels = true
    plan.length = tunnelPlan
    output.put(
      "HTTP/1.1 101 Switching Protocols\r\nX-Sim: \(request.id).\(plan.execution)\r\nX-Sim-Keep: a\r\n"
        + "Connection: Upgrade\r\nUpgrade: websocket\r\nX-Sim-Keep: b\r\n\r\n")
    if chance.hit(world.profile.deaths) {
      diesAt = output.bytes.count + chance.size(2_000)
      diesByReset = chance.hit(0.5)
      plan.isWhole = false
      request.trouble = true
    }
    request.plans.append(plan)
    if chance.hit(0.3) { pace = .pieces(chance.size(2_000), chance.delay(5 * Nanoseconds.millisecond)) }
    write(world)
  }

  private func fillTunnel(_ world: World) {
    guard let request, output.left == 0, tunnelSent < tunnelPlan else { return }
    guard world.now >= tunnelAt else {
      world.wake(index, at: tunnelAt)
      return
    }
    if world.profile.tunnelPauseNs > 0 { tunnelAt = world.now + chance.delay(world.profile.tunnelPauseNs) }
    let count = min(tunnelPlan - tunnelSent, chance.size(4_000))
    // The answer's key of the first execution names the tunnel: an upgrade is never sent twice unseen.
    output.put(content(~request.responseKey(0), tunnelSent..<tunnelSent + count))
    tunnelSent += count
  }

  private func takeTunnel(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    guard let request, !request.isPoisoned else { return }
    for (offset, byte) in bytes.enumerated() where byte != pattern(~request.requestKey, tunnelSeen + offset) {
      world.fail("tunnel of \(request.id): wrong byte at \(tunnelSeen + offset) towards the replica")
      return
    }
    tunnelSeen += bytes.count
  }
}
