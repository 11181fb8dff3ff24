// One client of the admin API: its socket, what it has sent so far and what it is still owed. Driven by AdminServer's
// poll loop; nothing here waits.
//
//   reading ──request──▶ reading …          reading ──GET /v1/reports──▶ streaming ──▶ closed
//      └──last answer──▶ lingering ──▶ closed

import Glibc

final class AdminConnection {
  enum State { case reading, streaming, lingering, closed }

  let fd: Int32
  let access: AdminAccess
  private let limits: AdminLimits
  private(set) var state = State.reading
  /// When the client is given up.
  private(set) var deadline: UInt64
  var subscription: ReportSubscription?
  private var reader: AdminRequestReader
  private var output: [UInt8] = []
  private var sent = 0
  private var closesWhenSent = false
  /// The client has closed its sending side; it gets its answers all the same, but no endless one.
  private var hasEnded = false
  private var isChunked = false
  /// The longest line so far: a list of many replicas must not count as a backlog by itself.
  private var lineBytes = 0

  init(_ fd: Int32, _ access: AdminAccess, _ limits: AdminLimits, now: UInt64) {
    self.fd = fd
    self.access = access
    self.limits = limits
    reader = AdminRequestReader(access, limits)
    deadline = now + limits.headNs
  }

  private var owed: Int { output.count - sent }

  /// A client that does not take its answer is not read from.
  private var isRead: Bool { owed == 0 || state == .streaming }

  /// What poll(2) is asked for.
  var interest: Int16 {
    var events: Int32 = 0
    if owed > 0 { events |= Int32(POLLOUT) }
    if isRead { events |= Int32(POLLIN) }
    return Int16(events)
  }

  /// Takes some of what has come, through `buffer`; the rest at the next poll, so that one client does not keep the
  /// others waiting. False: the client is gone.
  func receive(through buffer: UnsafeMutableRawBufferPointer, now: UInt64) -> Bool {
    guard isRead, !hasEnded else { return true }
    let count = recv(fd, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
    if count < 0 { return errno == EAGAIN || errno == EINTR }
    if count == 0 {
      hasEnded = true
      return state == .reading
    }
    // After its last request, and while it reads reports, a client has nothing to say.
    guard state == .reading, !closesWhenSent else { return true }
    if reader.isIdle { deadline = now + limits.headNs }
    reader.feed(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    return true
  }

  /// Nothing more can come of it.
  var isDone: Bool { hasEnded && owed == 0 }

  /// The next whole request; nil: none yet, or the connection answers no more.
  func nextRequest(_ fields: inout FieldTable, now: UInt64) -> AdminRequest? {
    guard state == .reading, !closesWhenSent, owed == 0 else { return nil }
    let wasInBody = reader.isInBody
    switch reader.next(&fields) {
    case .request(let request): return request
    case .refused(let status, let reason):
      reply(.error(status, reason), closes: true, now: now)
      return nil
    case .needsMore:
      if reader.isInBody, !wasInBody { deadline = now + limits.bodyNs }
      if reader.takeContinue() { queue(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8), now) }
      return nil
    }
  }

  func reply(_ reply: AdminReply, closes: Bool, isHead: Bool = false, now: UInt64) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(reply.body.count + 256)
    reply.write(closes: closes, isHead: isHead, to: &bytes)
    closesWhenSent = closesWhenSent || closes
    queue(bytes, now)
  }

  /// The head of an endless answer of lines.
  func beginStream(isHTTP10: Bool, now: UInt64) {
    var bytes: [UInt8] = []
    AdminReply.writeStatus(200, to: &bytes)
    bytes.put("Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\n")
    bytes.put(isHTTP10 ? "Connection: close\r\n\r\n" : "Transfer-Encoding: chunked\r\n\r\n")
    isChunked = !isHTTP10
    state = .streaming
    queue(bytes, now)
  }

  /// One line or several. False: the reader is too far behind.
  func stream(_ lines: [UInt8], now: UInt64) -> Bool {
    guard owed <= max(limits.backlogBytes, 2 * lineBytes) else { return false }
    lineBytes = max(lineBytes, lines.count)
    if isChunked {
      queue(Array("\(String(lines.count, radix: 16))\r\n".utf8) + lines + Array("\r\n".utf8), now)
    } else {
      queue(lines, now)
    }
    return true
  }

  private func queue(_ bytes: [UInt8], _ now: UInt64) {
    if owed == 0 { deadline = now + limits.writeNs }
    if sent > 0 {
      output.removeSubrange(..<sent)
      sent = 0
    }
    output.append(contentsOf: bytes)
  }

  /// Sends what the socket takes. False: the client is gone.
  func flush(now: UInt64) -> Bool {
    guard owed > 0 else { return true }
    while owed > 0 {
      let count = output.withUnsafeBytes {
        send(fd, $0.baseAddress! + sent, owed, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
      }
      if count < 0 {
        if errno == EINTR { continue }
        return errno == EAGAIN
      }
      sent += count
      deadline = now + limits.writeNs
    }
    output.removeAll(keepingCapacity: output.capacity <= limits.backlogBytes)
    sent = 0
    switch state {
    case .streaming: deadline = .max
    case .reading where closesWhenSent:
      shutdown(fd, Int32(SHUT_WR))
      state = .lingering
      deadline = now + limits.lingerNs
    case .reading:
      // Told to go on with its body, or answered and now between two requests.
      let left =
        if reader.isInBody { limits.bodyNs } else if reader.isIdle { limits.idleNs } else {
          limits.headNs
        }
      deadline = now + left
    case .lingering, .closed: break
    }
    return true
  }

  /// Its deadline has passed. A client in the middle of a request is told why, once.
  func expire(now: UInt64) {
    if state == .reading, owed == 0, !closesWhenSent, !reader.isIdle {
      reply(.error(408, "the request did not come whole in time"), closes: true, now: now)
    } else {
      close()
    }
  }

  func close() {
    guard state != .closed else { return }
    state = .closed
    Glibc.close(fd)
  }
}
