// One client that speaks TLS: its socket on one side, the plain end of its worker's connection on the other. Used by
// its TlsThread alone. Each record goes on as soon as it is there; what the other side does not take at once is held,
// at most one record's text each way, and nothing more is read until it has gone.
//
//   greeting ──▶ handshaking ──▶ open ──▶ parting ──▶ (over)
//       └──────────────┴─────────────────────▲
//
// greeting    not a byte has come, so nothing has been spent on it
// open        bytes pass both ways; each way ends by itself
// parting     our end of the stream is out; what still comes is dropped until the client ends too, or for a moment:
//             closing with its bytes unread would send a reset, which can destroy what we said last

import COpenSSL
import Glibc

final class TlsSession {
  enum State { case greeting, handshaking, open, parting }

  /// What is to become of a session after a step.
  enum Outcome {
    case waits
    /// It has had its share of the turn and could go on.
    case again
    /// The handshake is done: it needs a plain end, and then another step.
    case ready
    /// It has come to `parting`, where it may stay for `partingNs`.
    case parts(Refusal?)
    case over(Ending)
  }

  enum Refusal {
    /// What the client sent first was no TLS.
    case notTls
    case handshake
  }

  enum Ending {
    case done
    /// The client broke off.
    case clientGone
    /// The client has to see a reset.
    case reset
  }

  /// Bytes of text in the longest record (RFC 8446 5.1): what is moved at a time, and what can be held.
  static let recordMax = 16_384
  /// Records each way in one step, so that one fast stream does not keep the others waiting.
  private static let recordsPerStep = 16
  static let partingNs: UInt64 = 1_000_000_000

  let client: Int32
  /// Its place among the workers of its thread.
  let worker: Int
  /// -1 until the handshake is done.
  private(set) var plain: Int32 = -1
  private(set) var state = State.greeting
  private var ssl: OpaquePointer?

  // What epoll has said and no call has contradicted yet.
  private var clientReadable = true
  private var clientWritable = true
  private var clientBroken = false
  private var plainReadable = true
  private var plainWritable = true
  /// The worker's end of the stream is among what can be read.
  private var plainEndSeen = false
  /// OpenSSL must read to write, or write to read: both are tried when either can be.
  private var isCrossed = false

  /// The client's last byte has come; and the worker has been told.
  private var clientEnded = false
  private var endPassedOn = false
  /// The worker's last byte has come; it takes no more; it has closed its end.
  private var plainEnded = false
  private var plainDeaf = false
  private var plainClosed = false
  /// Our end of the stream has gone to the client.
  private var endSent = false

  private var towardsPlain = HeldBytes()
  private var towardsClient = HeldBytes()

  // The thread's own notes.
  var isListed = false
  /// A deadline for a client that takes nothing is running.
  var isTimed = false
  /// Bytes have gone to the client in the last step.
  private(set) var hasMoved = false

  init(client: Int32, worker: Int) {
    self.client = client
    self.worker = worker
  }

  deinit {
    if let ssl { SSL_free(ssl) }
    towardsPlain.drop()
    towardsClient.drop()
  }

  /// The worker is through with it: only the client keeps it, by not taking what there is.
  var waitsForClient: Bool { state == .open && plainClosed && !endSent }
  /// The handshake was a short one, by a ticket of an earlier connection.
  var isResumed: Bool { ssl.map { SSL_session_reused($0) == 1 } ?? false }

  func clientEvent(_ bits: UInt32) {
    if bits & TlsSession.readable != 0 { clientReadable = true }
    if bits & EPOLLOUT.rawValue != 0 { clientWritable = true }
    if bits & (EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 { clientBroken = true }
    if isCrossed {
      isCrossed = false
      clientReadable = true
      clientWritable = true
    }
  }

  func plainEvent(_ bits: UInt32) {
    if bits & TlsSession.readable != 0 { plainReadable = true }
    if bits & EPOLLOUT.rawValue != 0 { plainWritable = true }
    if bits & TlsSession.ends != 0 { plainEndSeen = true }
    if bits & (EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 { plainClosed = true }
  }

  private static let ends = EPOLLRDHUP.rawValue | EPOLLHUP.rawValue | EPOLLERR.rawValue
  private static let readable = EPOLLIN.rawValue | ends

  /// The worker's side is there.
  func open(plain: Int32) {
    precondition(state == .handshaking, "a session got a plain end before its handshake, or twice")
    self.plain = plain
    state = .open
  }

  /// Goes as far as it can without waiting.
  /// - Parameters:
  ///   - context: asked for only by the first bytes of a client.
  ///   - scratch: room for a record's text.
  ///   - marks: what the worker has said of the end it makes.
  func step(
    _ context: () -> TlsContext?, scratch: UnsafeMutablePointer<UInt8>, marks: () -> UInt32
  ) -> Outcome {
    hasMoved = false
    switch state {
    case .greeting: return greet(context, scratch)
    case .handshaking: return shakeHands()
    case .open: return pump(scratch, marks)
    case .parting: return part(scratch)
    }
  }

  // MARK: The handshake

  /// The first byte tells TLS from everything else, above all from HTTP by mistake; only TLS is worth a handshake.
  private func greet(_ context: () -> TlsContext?, _ scratch: UnsafeMutablePointer<UInt8>) -> Outcome {
    let handshakeRecord: UInt8 = 22  // RFC 8446 5.1
    let count = recv(client, scratch, 1, Int32(MSG_PEEK))
    if count < 0, errno == EAGAIN { return .waits }
    guard count > 0 else { return .over(.clientGone) }
    guard scratch[0] == handshakeRecord else { return beginParting(.notTls) }
    guard let context = context(), let opened = sky_tls_open(context.handle, client) else {
      return beginParting(.handshake)
    }
    ssl = opened
    state = .handshaking
    return shakeHands()
  }

  private func shakeHands() -> Outcome {
    switch Int(sky_tls_accept(ssl)) {
    case 1: .ready
    case SKY_TLS_WANTS_READ, SKY_TLS_WANTS_WRITE: clientBroken ? .over(.clientGone) : .waits
    case SKY_TLS_ENDED, SKY_TLS_BROKEN: .over(.clientGone)
    default: beginParting(.handshake)  // OpenSSL has told the client why
    }
  }

  // MARK: Bytes both ways

  private enum Move {
    case moved
    /// Nothing can go on until something happens.
    case stuck
    /// The client broke off.
    case broken
  }

  private func pump(_ scratch: UnsafeMutablePointer<UInt8>, _ marks: () -> UInt32) -> Outcome {
    var left = TlsSession.recordsPerStep
    while true {
      let inward = moveTowardsPlain(scratch)
      let outward = moveTowardsClient(scratch)
      if inward == .broken || outward == .broken { return .over(.clientGone) }
      if inward == .stuck && outward == .stuck { break }
      left -= 1
      if left == 0 { return .again }
    }
    if clientBroken { return .over(endSent ? .done : .clientGone) }
    if !endSent && plainEnded && towardsClient.isEmpty {
      let marks = marks()
      if marks & TlsMark.reset.rawValue != 0 { return .over(.reset) }
      if !sendEnd(isCut: marks & TlsMark.cut.rawValue != 0) { return .waits }
    }
    if !endSent {
      // A client that takes nothing is not waited for when its worker has given it up.
      let isGivenUp = plainClosed && !towardsClient.isEmpty && marks() & TlsMark.reset.rawValue != 0
      return isGivenUp ? .over(.reset) : .waits
    }
    if clientEnded { return .over(.done) }
    // While the worker's end is only half closed, what the client says still has somewhere to go.
    return plainClosed ? beginParting(nil) : .waits
  }

  private func moveTowardsPlain(_ scratch: UnsafeMutablePointer<UInt8>) -> Move {
    if !towardsPlain.isEmpty {
      guard plainWritable else { return .stuck }
      let count = send(towardsPlain.start, towardsPlain.count)
      if count == 0 { return .stuck }
      towardsPlain.take(count)
      return .moved
    }
    if clientEnded {
      guard !endPassedOn else { return .stuck }
      shutdown(plain, Int32(SHUT_WR))
      endPassedOn = true
      return .moved
    }
    guard clientReadable else { return .stuck }
    let count = Int(sky_tls_read(ssl, scratch, Int32(TlsSession.recordMax)))
    switch count {
    case 1...:
      let taken = send(scratch, count)
      if taken < count { towardsPlain.hold(scratch + taken, count - taken) }
      return .moved
    case SKY_TLS_WANTS_READ:
      clientReadable = false
      return .stuck
    case SKY_TLS_WANTS_WRITE:
      clientReadable = false
      isCrossed = true
      return .stuck
    case SKY_TLS_ENDED:
      clientEnded = true
      return .moved
    default: return .broken
    }
  }

  /// Bytes the worker's end has taken: all of them when it takes no more at all, for then they are nobody's.
  private func send(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int {
    guard !plainDeaf else { return count }
    let sent = Glibc.send(plain, bytes, count, Int32(MSG_NOSIGNAL))
    if sent < 0 {
      if errno == EAGAIN {
        plainWritable = false
        return 0
      }
      plainDeaf = true
      return count
    }
    if sent < count { plainWritable = false }
    return sent
  }

  private func moveTowardsClient(_ scratch: UnsafeMutablePointer<UInt8>) -> Move {
    if !towardsClient.isEmpty {
      guard clientWritable else { return .stuck }
      let (count, move) = encrypt(towardsClient.start, towardsClient.count)
      towardsClient.take(count)
      return move
    }
    guard !plainEnded, plainReadable else { return .stuck }
    let count = recv(plain, scratch, TlsSession.recordMax, 0)
    if count > 0 {
      // A short read has emptied the pair; whatever comes next announces itself.
      if count < TlsSession.recordMax && !plainEndSeen { plainReadable = false }
      let (taken, move) = encrypt(scratch, count)
      if taken < count && move != .broken { towardsClient.hold(scratch + taken, count - taken) }
      return move == .broken ? .broken : .moved
    }
    if count < 0 && errno == EAGAIN {
      plainReadable = false
      return .stuck
    }
    // An error is how a pair says that its other end was closed with bytes unread.
    plainEnded = true
    if count < 0 { plainClosed = true }
    return .moved
  }

  /// How many bytes are on their way in a record. What a call has begun to send must be given to the next again.
  private func encrypt(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> (count: Int, move: Move) {
    let sent = Int(sky_tls_write(ssl, bytes, Int32(count)))
    switch sent {
    case 1...:
      hasMoved = true
      return (sent, .moved)
    case SKY_TLS_WANTS_WRITE:
      clientWritable = false
      return (0, .stuck)
    case SKY_TLS_WANTS_READ:
      clientWritable = false
      isCrossed = true
      return (0, .stuck)
    default: return (0, .broken)
    }
  }

  // MARK: The end

  /// Our last word: close_notify, unless the response was cut off (the client sees its absence), then FIN. False: not
  /// yet.
  private func sendEnd(isCut: Bool) -> Bool {
    if !isCut {
      guard clientWritable else { return false }
      if Int(sky_tls_end(ssl)) == SKY_TLS_WANTS_WRITE {
        clientWritable = false
        return false
      }
    }
    shutdown(client, Int32(SHUT_WR))
    endSent = true
    return true
  }

  private func beginParting(_ refusal: Refusal?) -> Outcome {
    if !endSent { shutdown(client, Int32(SHUT_WR)) }
    endSent = true
    state = .parting
    clientReadable = true
    return .parts(refusal)
  }

  private func part(_ scratch: UnsafeMutablePointer<UInt8>) -> Outcome {
    for _ in 0..<TlsSession.recordsPerStep {
      let count = recv(client, scratch, TlsSession.recordMax, 0)
      if count < 0 && errno == EAGAIN { return .waits }
      if count <= 0 { return .over(.done) }
    }
    return .again
  }
}

/// Text that one side has not taken yet. Memory is there only while there is some.
private struct HeldBytes {
  private var base: UnsafeMutablePointer<UInt8>?
  private var from = 0
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  var start: UnsafePointer<UInt8> {
    guard let base else { preconditionFailure("nothing is held") }
    return UnsafePointer(base + from)
  }

  mutating func hold(_ bytes: UnsafePointer<UInt8>, _ count: Int) {
    precondition(isEmpty && count <= TlsSession.recordMax, "more than a record was held")
    let room = UnsafeMutablePointer<UInt8>.allocate(capacity: count)
    room.update(from: bytes, count: count)
    base = room
    from = 0
    self.count = count
  }

  mutating func take(_ taken: Int) {
    from += taken
    count -= taken
    if count == 0 { drop() }
  }

  mutating func drop() {
    base?.deallocate()
    base = nil
    count = 0
  }
}
