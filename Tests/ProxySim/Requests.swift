// What the oracle knows of each request and of each answer a replica gave to it.

import ProxyCore
import SimKit

enum Method: String, CaseIterable {
  case get = "GET"
  case head = "HEAD"
  case post = "POST"
  case put = "PUT"
  case delete = "DELETE"
  case patch = "PATCH"

  /// RFC 9110 9.2.2: doing it twice is doing it once.
  var isIdempotent: Bool { self != .post && self != .patch }
}

/// What is wrong with a request on purpose.
enum Flaw: CaseIterable {
  case none
  // Of the head: nothing may reach a replica.
  case method, version, oldVersion, noHost, twoHosts, length, lengths, lengthAndCoding, coding, fold, control, bareLine
  case longTarget, longHead, space, connect
  // Of the body: a replica may see the beginning, never the end.
  case chunkSize, chunkEnd, chunkLine, tooLong, truncated

  var isOfHead: Bool {
    switch self {
    case .none, .chunkSize, .chunkEnd, .chunkLine, .tooLong, .truncated: false
    case .method, .version, .oldVersion, .noHost, .twoHosts, .length, .lengths, .lengthAndCoding, .coding, .fold,
      .control, .bareLine, .longTarget, .longHead, .space, .connect:
      true
    }
  }
}

/// One answer as a replica planned it.
struct Plan {
  var execution: Int
  var status: Int
  var framing = Framing.none
  /// Content bytes.
  var length = 0
  /// It ends as it should; otherwise a client must not take it for complete.
  var isWhole = true
  /// The head is sent in full and is valid.
  var hasHead = true
  var tunnels = false
}

/// What became of a request, as its client saw it.
enum Outcome: Equatable {
  case open
  /// By a replica, in full.
  case answered
  /// By the proxy itself.
  case local(Int)
  /// The connection ended first.
  case closed
}

final class RequestRecord {
  let id: Int
  unowned let link: Link
  let method: Method
  var flaw = Flaw.none
  var isHTTP10 = false
  var keepAlive = true
  var framing = Framing.none
  var bodyLength = 0
  var expects = false
  var upgrades = false
  /// Everything has been given to the network by the client.
  var isSent = false
  var outcome = Outcome.open

  /// Connections on which the head was offered; the last is the present attempt.
  var attempts: [Attempt] = []
  /// Complete requests that replicas have read.
  var executions = 0
  var plans: [Plan] = []
  var interimsSent = 0
  var interimsSeen = 0
  /// Something may rightly keep it from being answered.
  var trouble = false
  /// Sent on a connection on which bytes nobody asked for were under way: whose answer comes back is not the proxy's
  /// to know.
  var isPoisoned = false
  /// When the proxy had taken its head, and all of it; 0 = not yet.
  var headTakenAt: UInt64 = 0
  var wholeTakenAt: UInt64 = 0
  /// When bytes last moved in its tunnel.
  var tunnelMovedAt: UInt64 = 0

  var requestKey: UInt64 { mix(UInt64(id) << 20) }
  func responseKey(_ execution: Int) -> UInt64 { mix(UInt64(id) << 20 | UInt64(execution) << 1 | 1) }

  init(id: Int, link: Link, method: Method) {
    self.id = id
    self.link = link
    self.method = method
  }
}

struct Attempt {
  var link: Int
  /// Bytes of it that the replica's socket has accepted.
  var accepted = 0
  /// Bytes the proxy has read in answer.
  var answered = 0
  var offeredAt: UInt64
  /// When the replica's socket last accepted some of it, and the proxy last took some of the answer.
  var acceptedAt: UInt64 = 0
  var answeredAt: UInt64 = 0
  let turn: Int
}

// MARK: - What the oracle hears from the sockets

extension World {
  /// A send to a replica is queued; `slice` is its first piece. A head says whose request it is.
  func offer(_ link: Link, _ slice: IOSlice) {
    guard let id = requestID(UnsafeRawBufferPointer(start: slice.base, count: slice.count)) else { return }
    guard id < requests.count else {
      fail("a request that nobody made was sent to a replica: \(id)")
      return
    }
    let request = requests[id]
    log("offer: request, link", id, link.id)
    if request.flaw.isOfHead {
      fail("request \(id) is refused for its head (\(request.flaw)), yet was sent to a replica")
    }
    if let last = request.attempts.last {
      let before = request.attempts.contains { $0.accepted > 0 }
      if before && !request.method.isIdempotent {
        fail("\(request.method.rawValue) \(id) is sent again though a replica's socket had accepted bytes of it")
      }
      // Bytes that came although none of the request had gone are no answer to it.
      if request.attempts.contains(where: { $0.accepted > 0 && $0.answered > 0 }) {
        fail("request \(id) is sent again though an answer had begun")
      }
      if last.link == link.id { fail("request \(id) is sent twice on link \(link.id)") }
    }
    if link.offers > 0, let replica = replica(of: link), replica.leftTurn < turn {
      fail("request \(id) went to a parked connection of a replica that drains or has left")
    }
    if link.unaskedFrom < .max {
      if link.toProxy.read > link.unaskedFrom && link.offered?.isPoisoned != true {
        fail("request \(id) was sent on link \(link.id), which had said something unasked")
      }
      request.isPoisoned = true
      request.trouble = true
    }
    request.attempts.append(Attempt(link: link.id, offeredAt: now, turn: turn))
    link.offered = request
    link.offers += 1
    link.answered = 0
    if request.link.goneTurn >= 0 && request.link.goneTurn < turn {
      fail("request \(id) was sent to a replica after its client had gone")
    }
  }

  /// A number behind "/r/" in a request line that `bytes` begin with.
  private func requestID(_ bytes: UnsafeRawBufferPointer) -> Int? {
    guard bytes.count > 8, bytes[0] >= 0x41, bytes[0] <= 0x5A else { return nil }
    var index = 0
    while index < 8, bytes[index] != 0x20 { index += 1 }
    guard index + 4 < bytes.count, bytes[index] == 0x20, bytes[index + 1] == 0x2F, bytes[index + 2] == 0x72,
      bytes[index + 3] == 0x2F
    else { return nil }
    index += 4
    var id = 0
    while index < bytes.count, bytes[index] >= 0x30, bytes[index] <= 0x39 {
      id = id * 10 + Int(bytes[index] - 0x30)
      index += 1
    }
    return id
  }

  func replica(of link: Link) -> SimReplica? {
    link.replicaIndex >= 0 ? allReplicas[link.replicaIndex] : nil
  }

  /// A socket has accepted bytes from the engine.
  func tellAccepted(_ link: Link, _ count: Int) {
    link.takenSinceAccepted = 0
    guard link.side == .replica, let request = link.offered else { return }
    if let last = request.attempts.lastIndex(where: { $0.link == link.id }) {
      request.attempts[last].accepted += count
      request.attempts[last].acceptedAt = now
    }
    request.tunnelMovedAt = now
    request.link.givenForClient += count
  }

  /// The engine is handed what a receive has brought.
  func tellReceive(_ link: Link, _ result: Int32) {
    if result > 0 {
      link.takenByProxy += Int(result)
      link.lastTaken = now
      if link.side == .client { passMarks(link) }
      if link.side == .replica, let request = link.offered {
        link.answered += Int(result)
        if let last = request.attempts.lastIndex(where: { $0.link == link.id }) {
          request.attempts[last].answered += Int(result)
          request.attempts[last].answeredAt = now
        }
        request.link.takenForClient += Int(result)
        request.link.takenSinceAccepted += Int(result)
        request.tunnelMovedAt = now
      }
      return
    }
    if link.side == .replica, result != -105, result != -125 { link.offered?.trouble = true }
    guard link.side == .client, !link.stopped else { return }
    if result == 0 {
      link.toldEnd = true
      toldGone.append(link)
    } else if result != -105 && result != -125 {
      markGone(link)
    }
  }

  /// The proxy has taken more of a client's stream: which heads and requests it has in full.
  private func passMarks(_ link: Link) {
    if link.nextBeganAt == 0 { link.nextBeganAt = now }
    while let mark = link.marks.first, mark.end <= link.takenByProxy {
      if mark.request.headTakenAt == 0 { mark.request.headTakenAt = now }
      if mark.isWhole {
        mark.request.wholeTakenAt = now
        link.nextBeganAt = link.takenByProxy > mark.end ? now : 0
      }
      link.marks.removeFirst()
    }
  }

  /// The engine has begun to end a connection.
  func tellStopped(_ link: Link) {
    guard profile.tunnelsLast else { return }
    if link.side == .replica {
      if let request = link.offered, request.upgrades, request.tunnelMovedAt + tunnelNs <= now {
        request.trouble = true
      }
      return
    }
    guard let client = link.peer as? SimClient, let request = client.tunnelRequest, !link.toldEnd, !link.proxyDead,
      link.goneTurn < 0, !link.ending, let upstream = request.attempts.last.map({ links[$0.link] }),
      !upstream.toProxy.finArrived, !upstream.proxyDead
    else { return }
    let silence = now - request.tunnelMovedAt
    if silence >= tunnelNs {
      request.trouble = true
    } else {
      fail("a tunnel was ended after \(silence / 1_000_000) ms of silence, though neither end had ended it")
    }
  }

  /// The engine is told what a watch has found.
  func tellWatch(_ link: Link, _ found: Int32) {
    guard found > 0, !link.stopped else { return }
    if found & PeerEnd.broken != 0 {
      markGone(link)
    } else if found & PeerEnd.both == 0 {
      link.toldEnd = true
      toldGone.append(link)
    }
  }

  /// The engine is told how a send has ended.
  func tellSend(_ link: Link, _ result: Int, _ total: Int) {
    guard result < total, !link.stopped else { return }
    if link.side == .client { markGone(link) } else { link.offered?.trouble = true }
  }

  private func markGone(_ link: Link) {
    guard link.goneTurn < 0 else { return }
    log("proxy knows the client is gone: link", link.id)
    link.goneTurn = turn
    toldGone.append(link)
  }
}
