// A client on one connection, played from a script drawn before it begins, and the judge of what it gets.

import SimKit

/// How fast an end reads or writes.
enum Pace {
  case eager
  /// At most so many bytes at a time, with a pause of at most so long between.
  case pieces(Int, UInt64)
}

final class SimClient: Peer {
  enum Departure { case none, reset, close, halfClose, vanish }
  private enum Mode { case connecting, open, tunnel, done }

  let link: Link
  let number: Int
  private var index = -1
  private var chance: Chance
  private var mode = Mode.connecting
  private(set) var script: [RequestRecord] = []
  /// Requests begun and answered.
  private var begun = 0
  private(set) var answered = 0
  /// When the last answer was read in full.
  private(set) var answeredAt: UInt64 = 0
  private var depth: Int
  /// Pipelines all it has and never reads.
  private(set) var hoards = false
  private var isSilent = false
  /// Its FIN goes with the last of its requests.
  private var endsWithRequest = false
  private var output = Output()
  private var bounds: [(end: Int, request: RequestRecord)] = []
  private var writeAt: UInt64 = 0
  private var writePace = Pace.eager
  /// Waits for 100 until then; 0 = does not wait.
  private var continueBy: UInt64 = 0
  private var finished = false  // writing

  private var reader = MessageReader()
  private var readAt: UInt64 = 0
  private var readPace = Pace.eager
  private var readTotal = 0
  private var stopsAfter = Int.max
  private var stopsFor: UInt64 = 0
  private var plan: Plan?
  private var local = -1
  private var interim = false
  private var seen = 0
  /// The present answer is the connection's last.
  private var closing = false
  /// How long it stays when everything is answered, and until when that is.
  private var lingers: UInt64 = 0
  private var lingersUntil: UInt64 = 0

  private var departure = Departure.none
  private var departsWritten = Int.max
  private var departsRead = Int.max
  private var departsAt = UInt64.max
  private var departed = false
  private var startsAt: UInt64 = 0
  private var deadline = UInt64.max

  private var tunnelSends = 0
  private var tunnelSent = 0
  private var tunnelSeen = 0
  private(set) var tunnelRequest: RequestRecord?
  private var tunnelAt: UInt64 = 0

  var isDone: Bool { mode == .done }
  /// It reads and writes as fast as it can and never leaves early.
  private var isSteady: Bool {
    if case .eager = readPace, case .eager = writePace, departure == .none, stopsFor == 0 { return true }
    return false
  }

  init(number: Int, world: World, chance: Chance, limits: SimLimits) {
    self.number = number
    self.chance = chance
    link = world.newLink(.client)
    depth = self.chance.hit(world.profile.pipelining) ? self.chance.within(2, 6) : 1
    super.init()
    link.peer = self
    index = world.add(self)
    drawScript(world, limits)
    drawManner(world, limits)
  }

  // MARK: drawing

  private func drawScript(_ world: World, _ limits: SimLimits) {
    let profile = world.profile
    if chance.hit(profile.silent) {
      isSilent = true
      return
    }
    if chance.hit(profile.hoarders) {
      drawHoard(world)
      return
    }
    let count = chance.within(profile.requestsPerClient.lowerBound, profile.requestsPerClient.upperBound)
    let isHTTP10 = chance.hit(profile.http10)
    for place in 0..<count {
      let method = chance.pick([Method.get, .get, .get, .post, .post, .post, .put, .head, .delete, .patch])
      let request = RequestRecord(id: world.requests.count, link: link, method: method)
      world.requests.append(request)
      script.append(request)
      request.isHTTP10 = isHTTP10
      request.keepAlive = place + 1 < count ? true : chance.hit(profile.keepAlive)
      let carries = method == .post || method == .put || method == .patch
      if carries || chance.hit(0.02) {
        let most = chance.hit(profile.bigRate) ? profile.bigMax : profile.bodyMax
        request.bodyLength = chance.hit(0.05) ? 0 : chance.size(most)
        if limits.bodyMax > 0 { request.bodyLength = min(request.bodyLength, limits.bodyMax) }
        request.framing = !isHTTP10 && chance.hit(profile.chunkedRequests) ? .chunked : .length(request.bodyLength)
        request.expects = !isHTTP10 && request.bodyLength > 0 && chance.hit(profile.expectContinue)
      }
      if chance.hit(profile.flaws) {
        request.flaw = chance.hit(profile.tooLong) ? .tooLong : chance.pick(Flaw.allCases)
        if request.isHTTP10 && request.flaw == .noHost { request.flaw = .none }
        switch request.flaw {
        case .chunkSize, .chunkEnd, .chunkLine:
          if isHTTP10 {
            request.flaw = .none
          } else {
            request.framing = .chunked
            request.bodyLength = max(request.bodyLength, 1)
          }
        case .tooLong:
          if limits.bodyMax == 0 {
            request.flaw = .none
          } else {
            request.bodyLength = limits.bodyMax + chance.within(1, 2_000)
            request.framing = isHTTP10 || chance.hit(0.5) ? .length(request.bodyLength) : .chunked
          }
        case .truncated:
          request.bodyLength = max(request.bodyLength, 2)
          if request.framing == .none || request.framing == .length(0) || isHTTP10 {
            request.framing = .length(request.bodyLength)
          }
          if case .length = request.framing { request.framing = .length(request.bodyLength) }
        default: break
        }
        if request.flaw != .none { break }
      }
      if !isHTTP10 && method == .get && request.framing == .none && chance.hit(profile.upgrades) {
        request.upgrades = true
        request.keepAlive = true
        break
      }
    }
  }

  private func drawHoard(_ world: World) {
    hoards = true
    depth = .max
    for _ in 0..<chance.within(world.profile.hoards.lowerBound, world.profile.hoards.upperBound) {
      let request = RequestRecord(id: world.requests.count, link: link, method: .get)
      world.requests.append(request)
      script.append(request)
    }
    departure = chance.pick([.reset, .close, .halfClose])
    departsAt = 2 * Nanoseconds.second + chance.delay(8 * Nanoseconds.second)
  }

  private func drawManner(_ world: World, _ limits: SimLimits) {
    let profile = world.profile
    if hoards || isSilent { return }
    if chance.hit(profile.dribbles) {
      // All of it within the head deadline when nothing is to go wrong.
      writePace =
        profile.isCalm
        ? .pieces(8 + chance.size(500), 2 * Nanoseconds.millisecond)
        : .pieces(
          chance.size(200), chance.delay(100 * Nanoseconds.millisecond))
    } else if chance.hit(0.2) {
      writePace = .pieces(chance.size(3_000), chance.delay(500 * Nanoseconds.microsecond))
    }
    if chance.hit(profile.slowReaders) {
      readPace = .pieces(64 + chance.size(4_000), chance.delay(10 * Nanoseconds.millisecond))
    }
    if chance.hit(profile.stoppedReaders) {
      stopsAfter = chance.size(20_000)
      stopsFor = chance.delay(profile.stopNs)
    }
    let leaves = chance.hit(profile.aborts)
    if leaves || chance.hit(profile.halfCloses) {
      departure = leaves ? chance.pick([.reset, .close]) : .halfClose
      endsWithRequest = !leaves && chance.hit(profile.finWithRequest)
      switch endsWithRequest ? 3 : chance.below(3) {
      case 3: break
      case 0: departsWritten = chance.size(3_000)
      case 1: departsRead = chance.size(10_000)
      default: departsAt = chance.delay(2 * Nanoseconds.second)
      }
    }
    if chance.hit(profile.vanishes) {
      departure = .vanish
      if chance.hit(0.5) {
        departsWritten = chance.size(3_000)
      } else {
        departsAt = chance.delay(6 * Nanoseconds.second)
      }
    }
    if chance.hit(profile.lingers) { lingers = chance.delay(8 * Nanoseconds.second) }
  }

  /// Begins to connect.
  func start(_ world: World, after delay: UInt64, bound: UInt64) {
    startsAt = world.now + delay
    deadline = startsAt + (isSteady ? min(bound, world.profile.steadyNs + lingers) : bound)
    if departsAt != .max { departsAt += startsAt }
    world.wake(index, at: startsAt)
    world.calendar.add(Event(kind: .wakePeer, a: index, b: 0), at: deadline)
    if departsAt != .max { world.calendar.add(Event(kind: .wakePeer, a: index, b: 0), at: departsAt) }
  }

  // MARK: acting

  override func wake(_ world: World) {
    guard mode != .done, world.now >= startsAt else { return }
    if mode == .connecting {
      mode = .open
      world.arrive(link)
    }
    if world.now >= deadline + world.pausedNs {
      world.fail(
        "client \(number) on link \(link.id) is stuck: answered \(answered) of \(begun) begun, \(script.count) in all")
      mode = .done
      return
    }
    if world.now >= departsAt { depart(world) }
    if mode != .done { read(world) }
    if mode != .done { write(world) }
    if mode != .done { rest(world) }
  }

  private func depart(_ world: World) {
    guard !departed else { return }
    departed = true
    departsAt = .max
    world.log("client leaves: client, link", number, link.id)
    switch departure {
    case .none: break
    case .halfClose:
      finished = true
      world.peerFinish(link)
      // One that never reads has nothing to wait for.
      if hoards {
        departure = .reset
        departed = false
        departsAt = world.now + 4 * Nanoseconds.second
        world.wake(index, at: departsAt)
      }
    case .vanish:
      world.peerVanish(link)
      end(world)
    case .reset:
      world.peerAbort(link)
      end(world)
    case .close:
      world.peerClose(link)
      end(world)
    }
  }

  private func end(_ world: World) {
    guard mode != .done else { return }
    mode = .done
    world.log("client done: client, answered", number, answered)
    if !link.peerClosed { world.peerClose(link) }
    for request in script where request.outcome == .open { request.outcome = .closed }
  }

  /// Everything is answered: leave, or stay a while.
  private func rest(_ world: World) {
    guard mode == .open, answered == script.count, !closing, !isSilent else { return }
    if lingersUntil == 0 { lingersUntil = world.now + lingers }
    if lingersUntil > world.now {
      world.wake(index, at: lingersUntil)
    } else {
      end(world)
    }
  }

  // MARK: writing

  private func write(_ world: World) {
    if mode != .tunnel { fill(world) }
    while !finished {
      if mode == .tunnel { fillTunnel(world) }
      guard output.left > 0 else { break }
      if world.now < writeAt {
        world.wake(index, at: writeAt)
        return
      }
      var count = output.left
      if case .pieces(let most, let pause) = writePace {
        count = min(count, chance.within(1, max(most, output.bytes.count / 300)))
        writeAt = world.now + chance.delay(pause)
      }
      let sent = output.sent
      let accepted = output.bytes.withUnsafeBytes {
        world.peerWrite(link, UnsafeRawBufferPointer(rebasing: $0[sent..<sent + count]))
      }
      output.sent += accepted
      while let first = bounds.first, first.end <= output.sent {
        first.request.isSent = true
        bounds.removeFirst()
        if first.request.flaw == .truncated {
          finished = true
          world.peerFinish(link)
        }
      }
      if endsWithRequest && !finished && output.left == 0 && begun == script.count && continueBy == 0 && mode == .open {
        endsWithRequest = false
        depart(world)
        return
      }
      if output.sent >= departsWritten {
        departsWritten = .max
        depart(world)
        return
      }
      if accepted == 0 { return }
    }
    if mode == .tunnel, output.left == 0, tunnelSent == tunnelSends, !finished {
      finished = true
      world.peerFinish(link)
      if link.peerAtEnd { end(world) }
    }
  }

  private func fill(_ world: World) {
    if continueBy != 0 {
      guard world.now >= continueBy else {
        world.wake(index, at: continueBy)
        return
      }
      continueBy = 0
      putBody(script[begun - 1], world)
    }
    while begun < script.count, begun - answered < depth, !finished, !closing, continueBy == 0 {
      let request = script[begun]
      begun += 1
      let before = output.bytes.count
      putHead(request)
      world.log(
        "client asks: request, head bytes, body bytes", request.id, output.bytes.count - before, request.bodyLength)
      if request.expects && request.flaw == .none {
        continueBy = world.now + chance.delay(1500 * Nanoseconds.millisecond)
        world.wake(index, at: continueBy)
      } else {
        putBody(request, world)
      }
      if request.upgrades { return }
    }
  }

  private func putHead(_ request: RequestRecord) {
    var head = ""
    let flaw = request.flaw
    var target = "/r/\(request.id)"
    if chance.hit(0.1) { target += "?x=" + String(repeating: "y", count: chance.size(300)) }
    if flaw == .longTarget { target += "?" + String(repeating: "z", count: SimLimits.targetBytes + 10) }
    var method = request.method.rawValue
    if flaw == .method { method = "G\u{1}T" }
    if flaw == .connect { method = "CONNECT" }
    var version = request.isHTTP10 ? "HTTP/1.0" : "HTTP/1.1"
    if flaw == .version { version = "HTTP/2.0" }
    if flaw == .oldVersion { version = "HTPP/1.1" }
    if chance.hit(0.03) { head += "\r\n" }
    head += "\(method) \(target) \(version)"
    head += flaw == .bareLine ? "\n" : "\r\n"
    if flaw != .noHost && !(request.isHTTP10 && chance.hit(0.3)) { head += "Host: sim.example\r\n" }
    if flaw == .twoHosts { head += "Host: one.example\r\nhost: two.example\r\n" }
    head += "X-Sim-Keep: a\r\nX-SIM-Keep: b\r\n"
    if chance.hit(0.1) { head += "X-Padding: " + String(repeating: "p", count: chance.size(3_000)) + "\r\n" }
    if chance.hit(0.1) { head += "Connection: x-sim-hop\r\nX-Sim-Hop: 1\r\n" }
    if chance.hit(0.1) { head += "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n" }
    if request.upgrades {
      head += "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    } else if request.isHTTP10 && request.keepAlive {
      head += "Connection: keep-alive\r\n"
    } else if !request.isHTTP10 && !request.keepAlive {
      head += "Connection: close\r\n"
    }
    switch flaw {
    case .length: head += "Content-Length: 1x\r\n"
    case .lengths: head += "Content-Length: 5\r\nContent-Length: 6\r\n"
    case .lengthAndCoding: head += "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    case .coding: head += "Transfer-Encoding: gzip, chunked\r\n"
    case .fold: head += "X-Folded: a\r\n b\r\n"
    case .control: head += "X-Control: a\u{0}b\r\n"
    case .space: head += "X-Space : a\r\n"
    case .longHead: head += "X-Long: " + String(repeating: "l", count: SimLimits.headBytes) + "\r\n"
    default:
      switch request.framing {
      case .none, .open: break
      case .length(let count): head += "Content-Length: \(count)\r\n"
      case .chunked: head += "Transfer-Encoding: chunked\r\n"
      }
    }
    if request.expects { head += "Expect: 100-continue\r\n" }
    head += "\r\n"
    output.put(head)
    let isWhole = request.flaw.isOfHead || request.framing == .none
    if isWhole { bounds.append((output.bytes.count, request)) }
    link.marks.append(Link.Mark(end: output.bytes.count, request: request, isWhole: isWhole))
  }

  private func putBody(_ request: RequestRecord, _ world: World) {
    guard !request.flaw.isOfHead else { return }
    switch request.framing {
    case .none, .open: return
    case .length(let count):
      let sent = request.flaw == .truncated ? chance.below(count) : count
      output.put(content(request.requestKey, 0..<sent))
    case .chunked:
      var body = chunked(
        request.requestKey, request.bodyLength, largest: max(1, request.bodyLength), trailers: chance.hit(0.2), &chance)
      switch request.flaw {
      case .truncated: body.removeLast(chance.within(1, body.count))
      case .chunkSize: body = Array("5g\r\n".utf8)
      case .chunkEnd: body = Array("1\r\n".utf8) + content(request.requestKey, 0..<1) + Array("X\r\n0\r\n\r\n".utf8)
      case .chunkLine: body = Array("1\n".utf8) + content(request.requestKey, 0..<1) + Array("\r\n0\r\n\r\n".utf8)
      default: break
      }
      output.put(body)
    }
    bounds.append((output.bytes.count, request))
    // One that is cut short or broken is never whole.
    let end = request.flaw == .none ? output.bytes.count : Int.max
    link.marks.append(Link.Mark(end: end, request: request, isWhole: true))
  }

  // MARK: reading

  private func read(_ world: World) {
    if hoards {
      if link.peerReset { end(world) }
      return
    }
    while mode != .done {
      let available = link.toPeer.available
      if available == 0 {
        if link.peerReset {
          lost(world)
        } else if link.peerAtEnd {
          ended(world)
        }
        return
      }
      if world.now < readAt {
        world.wake(index, at: readAt)
        return
      }
      var count = available
      if case .pieces(let most, let pause) = readPace {
        count = min(count, most)
        readAt = world.now + chance.delay(pause)
      }
      let bytes = link.toPeer.withAvailable { Array($0[0..<count]) }
      world.peerTook(link, count)
      readTotal += count
      bytes.withUnsafeBufferPointer { take($0, world) }
      if readTotal >= departsRead {
        departsRead = .max
        depart(world)
      }
      if readTotal >= stopsAfter {
        stopsAfter = .max
        readAt = world.now + stopsFor
        world.log("client stops reading: client, ms", number, Int(stopsFor / Nanoseconds.millisecond))
      }
    }
  }

  private func take(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    var at = 0
    while mode != .done && world.failure == nil {
      if mode == .tunnel {
        takeTunnel(UnsafeBufferPointer(rebasing: bytes[at...]), world)
        return
      }
      switch reader.step(bytes, &at) {
      case .needMore: return
      case .head(let head): takeHead(head, world)
      case .body(let range): takeBody(UnsafeBufferPointer(rebasing: bytes[range]), world)
      case .end: takeEnd(world)
      case .bad(let text): world.fail("client \(number) got what is not HTTP: \(text)")
      }
    }
  }

  private func takeHead(_ head: Head, _ world: World) {
    guard head.first == "HTTP/1.1", let status = Int(head.second), (100...599).contains(status) else {
      world.fail("client \(number) got a status line '\(head.first) \(head.second)'")
      return
    }
    if closing {
      world.fail("client \(number) got an answer behind the last one")
      return
    }
    world.log("client head: client, status", number, status)
    let request = answered < begun ? script[answered] : nil
    seen = 0
    interim = false
    plan = nil
    local = -1
    if status < 200 && status != 101 {
      interim = true
      reader.expect(.none)
      guard let request, !request.isHTTP10 else {
        world.fail("client \(number) got an interim answer it cannot expect")
        return
      }
      request.interimsSeen += 1
      if request.interimsSeen > request.interimsSent && !request.isPoisoned {
        world.fail("an interim answer to \(request.id) that nobody sent")
      }
      if status == 100 && awaitsContinue(request) { continueBy = world.now }
      return
    }
    guard let mark = head.first("x-sim") else {
      takeLocal(head, status, request, world)
      return
    }
    if request?.isPoisoned == true {
      // A replica had spoken out of turn: whose answer this is cannot be known.
      depart(world)
      end(world)
      return
    }
    let parts = mark.split(separator: ".").compactMap { Int($0) }
    guard parts.count == 2, let request, parts[0] == request.id, parts[1] < request.plans.count else {
      world.fail("client \(number) got answer \(mark) where \(request?.id ?? -1) was due")
      return
    }
    let planned = request.plans[parts[1]]
    plan = planned
    guard planned.status == status, planned.hasHead else {
      world.fail("request \(request.id) got status \(status), not \(planned.status), or from a malformed head")
      return
    }
    if head.all("x-sim-keep") != ["a", "b"] { world.fail("fields of answer \(mark) were changed: \(head.fields)") }
    if head.fields.contains(where: { $0.name == "x-sim-hop" || $0.name == "keep-alive" }) {
      world.fail("a hop-by-hop field of answer \(mark) was passed on")
    }
    // Told to go on or not: the body waits no more.
    if awaitsContinue(request) {
      continueBy = 0
      finished = true
      closing = true
    }
    if planned.tunnels {
      guard status == 101, request.upgrades else {
        world.fail("101 to request \(request.id), which did not ask")
        return
      }
      mode = .tunnel
      request.outcome = .answered
      answered += 1
      answeredAt = world.now
      tunnelRequest = request
      tunnelSends = chance.size(20_000)
      return
    }
    if head.has("connection", token: "close") { closing = true }
    takeFraming(head, status, request, planned, world)
  }

  private func awaitsContinue(_ request: RequestRecord) -> Bool {
    continueBy != 0 && script[begun - 1] === request
  }

  private func takeFraming(_ head: Head, _ status: Int, _ request: RequestRecord, _ planned: Plan, _ world: World) {
    let length = head.first("content-length").flatMap { Int($0) }
    let isChunked = head.has("transfer-encoding", token: "chunked")
    if case .length = planned.framing, status != 204, length != planned.length {
      world.fail("answer to \(request.id) has length \(length ?? -1), not \(planned.length)")
    }
    if isChunked && (length != nil || request.isHTTP10) {
      world.fail("answer to \(request.id) is chunked where it must not be")
    }
    if request.method == .head || status == 204 || status == 304 {
      reader.expect(.none)
    } else if let length {
      reader.expect(.length(length))
    } else if isChunked {
      reader.expect(.chunked)
    } else {
      if !closing { world.fail("answer to \(request.id) ends with the connection, which is not announced") }
      reader.expect(.open)
    }
    if request.isHTTP10 && !closing && !head.has("connection", token: "keep-alive") { closing = true }
  }

  /// An answer of the proxy itself.
  private func takeLocal(_ head: Head, _ status: Int, _ request: RequestRecord?, _ world: World) {
    local = status
    // What is left of its body is thrown away, which the link's counts cannot show.
    link.discards = true
    let goesOn = !head.has("connection", token: "close")
    if goesOn {
      // Only where the proxy cannot have lost its place in what this client sends.
      if !(502...504).contains(status) || request == nil || request?.isHTTP10 == true || request?.flaw.isOfHead == true
        || request?.keepAlive == false || request.map(awaitsContinue) == true
      {
        world.fail("a local answer \(status) does not announce the close")
      }
    } else {
      closing = true
      finished = finished || continueBy != 0
      continueBy = 0
    }
    let length = head.first("content-length").flatMap { Int($0) } ?? 0
    // Shed or refused before its method was known, a HEAD may be answered with content: the connection's end shows.
    let isHead = request?.method == .head
    reader.expect(isHead ? (goesOn ? .none : .open) : .length(length))
    let name = request.map { "request \($0.id) (\($0.flaw))" } ?? "no request"
    if world.profile.isCalm { world.fail("\(name) was answered \(status) by the proxy though nothing had gone wrong") }
    switch status {
    case 400, 413, 414, 417, 431, 501, 505:
      if request == nil || request?.flaw == Flaw.none { world.fail("\(name) was refused with \(status)") }
    case 408: break
    case 502, 504:
      if let request, !request.trouble, request.flaw == .none, world.profile.leaps < 0.005 {
        world.fail("\(name) was answered \(status) though no replica had failed it")
      }
    case 503: break
    default: world.fail("\(name) was answered \(status), which the proxy has no cause to say")
    }
  }

  private func takeBody(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    guard let plan, answered < script.count else { return }
    let key = script[answered].responseKey(plan.execution)
    for (offset, byte) in bytes.enumerated() where byte != pattern(key, seen + offset) {
      world.fail("answer to \(script[answered].id): wrong byte at \(seen + offset), of \(plan.length)")
      return
    }
    seen += bytes.count
    if seen > plan.length { world.fail("answer to \(script[answered].id) is longer than \(plan.length)") }
  }

  private func takeEnd(_ world: World) {
    if interim { return }
    if local >= 0 {
      if answered < begun {
        script[answered].outcome = .local(local)
        answered += 1
        answeredAt = world.now
      }
      return
    }
    guard let plan else { return }
    let request = script[answered]
    if !plan.isWhole { world.fail("answer to \(request.id) broke off, yet looks complete") }
    if request.method != .head && plan.status != 204 && plan.status != 304 && seen != plan.length {
      world.fail("answer to \(request.id) ended after \(seen) of \(plan.length) bytes")
    }
    request.outcome = .answered
    answered += 1
    answeredAt = world.now
  }

  /// The proxy's FIN.
  private func ended(_ world: World) {
    world.log("client sees end: client", number)
    if mode == .tunnel {
      tunnelEnded(world)
      return
    }
    if reader.isOpenBody && local < 0 { takeEnd(world) }
    if world.profile.isCalm && !closing && answered < script.count {
      world.fail("client \(number) was closed without an answer to \(script[answered].id)")
    }
    end(world)
  }

  /// The proxy's reset.
  private func lost(_ world: World) {
    world.log("client sees reset: client", number)
    if world.profile.isCalm && !closing && answered < script.count {
      world.fail("client \(number) was reset without an answer to \(script[answered].id)")
    }
    end(world)
  }

  // MARK: tunnels

  private func fillTunnel(_ world: World) {
    guard let request = tunnelRequest, output.left == 0, tunnelSent < tunnelSends else { return }
    guard world.now >= tunnelAt else {
      world.wake(index, at: tunnelAt)
      return
    }
    if world.profile.tunnelPauseNs > 0 { tunnelAt = world.now + chance.delay(world.profile.tunnelPauseNs) }
    let count = min(tunnelSends - tunnelSent, chance.size(4_000))
    output = Output()
    output.put(content(~request.requestKey, tunnelSent..<tunnelSent + count))
    tunnelSent += count
  }

  private func takeTunnel(_ bytes: UnsafeBufferPointer<UInt8>, _ world: World) {
    guard let request = tunnelRequest else { return }
    for (offset, byte) in bytes.enumerated() where byte != pattern(~request.responseKey(0), tunnelSeen + offset) {
      world.fail("tunnel of \(request.id): wrong byte at \(tunnelSeen + offset) towards the client")
      return
    }
    tunnelSeen += bytes.count
  }

  private func tunnelEnded(_ world: World) {
    guard let request = tunnelRequest else { return }
    if let plan = request.plans.last(where: { $0.tunnels }), plan.isWhole, !request.trouble, isSteady, !departed,
      world.profile.leaps < 0.005, tunnelSeen != plan.length
    {
      world.fail("tunnel of \(request.id) ended after \(tunnelSeen) of \(plan.length) bytes towards the client")
    }
    if finished { end(world) }
    // Otherwise it still has something to say.
    if mode != .done && output.left == 0 && tunnelSent == tunnelSends { end(world) }
  }
}
