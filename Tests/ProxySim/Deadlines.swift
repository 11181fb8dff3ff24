// Nothing outlives its deadline by more than a tick: for every phase, when it began as the sockets and the client saw
// it, and how long the configuration lets it last. A phase that the sockets cannot tell apart from another gets the
// longer of the two.

import ProxyCore

struct DeadlineOracle {
  private let config: EngineConfig
  private let profile: Profile
  /// Two ticks of the timer wheel, and what a completion may be held back.
  private let slack: UInt64
  /// What was found late in the last turns: since which turn.
  private var late: [Int: Int] = [:]

  init(_ config: EngineConfig, _ profile: Profile) {
    self.config = config
    self.profile = profile
    slack = 3 * Nanoseconds.millisecond + 4 * profile.lateNs
  }

  /// After a turn: the connections whose time has passed for so long that the worker has had turns enough to see it.
  mutating func check(_ world: World) {
    guard profile.keepsTime else { return }
    for link in world.links where link.fd >= 0 && !link.proxyClosed && !link.stopped {
      guard let owed = link.side == .client ? clientOwes(link, world) : replicaOwes(link, world),
        owed.from &+ owed.limit &+ slack < world.now, owed.limit != 0
      else {
        late[link.id] = nil
        continue
      }
      guard let since = late[link.id] else {
        late[link.id] = world.turn
        continue
      }
      if world.turn > since + 4 * world.rings.count {
        let over = (world.now - owed.from - owed.limit) / Nanoseconds.microsecond
        world.fail("link \(link.id) has outlived its deadline (\(owed.name)) by \(over) microseconds")
      }
    }
  }

  private struct Owed {
    var name: String
    var from: UInt64
    var limit: UInt64
  }

  // MARK: replicas

  private func replicaOwes(_ link: Link, _ world: World) -> Owed? {
    guard link.connected else {
      return Owed(name: "connect", from: link.beganAt, limit: config.connectTimeoutNs)
    }
    // Between two requests: since the client had its answer.
    guard let request = link.offered, request.outcome == .answered, !request.upgrades, !link.toProxy.finArrived,
      !link.proxyDead, let client = request.link.peer as? SimClient
    else { return nil }
    return Owed(
      name: "parked", from: max(client.answeredAt, link.lastTaken, link.lastAccepted), limit: config.poolIdleNs)
  }

  // MARK: clients

  private func clientOwes(_ link: Link, _ world: World) -> Owed? {
    guard let client = link.peer as? SimClient, !link.proxyDead else { return nil }
    if let request = client.script.last, request.upgrades, request.plans.last?.tunnels == true {
      return Owed(name: "tunnel", from: request.tunnelMovedAt, limit: config.tunnelTimeoutNs)
    }
    if link.ending { return Owed(name: "linger", from: link.endingAt, limit: config.lingerNs) }
    if link.sendOp >= 0 || link.sendQueued {
      // How far a send has got shows only when it is interrupted, after one deadline: that begins another.
      return Owed(
        name: "send stall", from: max(link.lastAccepted, link.beganAt),
        limit: 2 * config.streamTimeoutNs + 3 * Nanoseconds.second)
    }
    // What the client has not read yet may be the end of an answer.
    guard link.toPeer.read == link.toPeer.accepted, !link.toProxy.finArrived, link.goneTurn < 0 else { return nil }
    let begun = max(client.answeredAt, link.beganAt)
    guard client.answered < client.script.count, client.script[client.answered].headTakenAt != 0 else {
      return headOwed(link, begun)
    }
    return requestOwed(client.script[client.answered], link, begun, world)
  }

  private func headOwed(_ link: Link, _ begun: UInt64) -> Owed? {
    if link.nextBeganAt != 0 {
      return Owed(name: "head", from: max(link.nextBeganAt, begun), limit: config.headTimeoutNs)
    }
    if link.takenByProxy == 0 {
      let limit = profile.timesFirstHead ? config.headTimeoutNs : max(config.headTimeoutNs, config.idleTimeoutNs)
      return Owed(name: "first head", from: begun, limit: limit)
    }
    return Owed(name: "idle", from: begun, limit: config.idleTimeoutNs)
  }

  private func requestOwed(_ request: RequestRecord, _ link: Link, _ begun: UInt64, _ world: World) -> Owed? {
    let since = max(begun, request.headTakenAt)
    let connecting =
      UInt64(config.maxAttempts)
      * (profile.slowConnects > 0 ? config.connectTimeoutNs : 4 * profile.latencyNs + 4 * profile.lateNs)
    guard let attempt = request.attempts.last else {
      return Owed(name: "queue", from: since, limit: config.queueTimeoutNs + connecting)
    }
    let upstream = world.links[attempt.link]
    guard !upstream.stopped, upstream.offered === request else {
      return Owed(
        name: "queue again", from: max(since, upstream.stoppedAt), limit: config.queueTimeoutNs + connecting)
    }
    let moved = max(since, attempt.offeredAt, max(attempt.acceptedAt, attempt.answeredAt))
    if request.wholeTakenAt == 0 {
      // Whether it waits for the client's body or the replica's answer: whoever is slower.
      return Owed(
        name: "body", from: max(moved, link.lastTaken), limit: max(config.streamTimeoutNs, config.responseTimeoutNs))
    }
    let answer = max(moved, request.wholeTakenAt)
    if attempt.answered == 0 || request.interimsSent > 0 {
      return Owed(name: "response", from: answer, limit: config.responseTimeoutNs)
    }
    // A piece of a head is no answer yet.
    let isHead = attempt.answered < SimLimits.headBytes && link.lastAccepted < attempt.answeredAt
    return Owed(
      name: "answer's body", from: max(answer, link.lastAccepted),
      limit: isHead ? max(config.responseTimeoutNs, config.streamTimeoutNs) : config.streamTimeoutNs)
  }
}
