// A TLS session whose client sends any bytes, cut anywhere, and may go at any time; its worker's end is read and closed
// as a worker does. The handshake's randomness is OpenSSL's own, so an input may lead further in one run than in another.

import COpenSSL
import Glibc
import TestSupport

@testable import ProxyCore

/// Made once: a certificate of the kind a user makes to try things out.
private let context: TlsContext? = {
  guard let files = try? TestCertificate() else { return nil }
  return try? TlsContext(cert: files.cert, key: files.key)
}()

func fuzzTls(_ input: UnsafeRawBufferPointer) {
  guard let context else { fatalError("no certificate to test with") }
  var feed = Feed(input)
  var client: [Int32] = [-1, -1]
  var plain: [Int32] = [-1, -1]
  let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
  guard socketpair(AF_UNIX, kind, 0, &client) == 0, socketpair(AF_UNIX, kind, 0, &plain) == 0 else {
    fatalError("no sockets to test with")
  }
  let scratch = UnsafeMutablePointer<UInt8>.allocate(capacity: TlsSession.recordMax)
  var open: Set<Int32> = Set(client + plain)
  defer {
    for fd in open { close(fd) }
    scratch.deallocate()
  }
  let session = TlsSession(client: client[1], worker: 0)
  var steps = 0
  while steps < 2_000 {
    steps += 1
    switch feed.isEmpty ? 5 : feed.below(8) {
    case 0...4:
      let piece = feed.bytes(Int(feed.byte()) + 1)
      _ = piece.withUnsafeBytes { send(client[0], $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      session.clientEvent(EPOLLIN.rawValue)
    case 5:
      shutdown(client[0], Int32(SHUT_WR))
      session.clientEvent(EPOLLIN.rawValue | EPOLLRDHUP.rawValue)
    case 6:
      _ = recv(client[0], scratch, TlsSession.recordMax, 0)
      session.clientEvent(EPOLLOUT.rawValue)
    default:
      let text = feed.bytes(Int(feed.byte()))
      _ = text.withUnsafeBytes { send(plain[0], $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      _ = recv(plain[0], scratch, TlsSession.recordMax, 0)
      session.plainEvent(EPOLLIN.rawValue | EPOLLOUT.rawValue)
    }
    var going = true
    while going {
      steps += 1
      check(steps < 4_000, "a session goes on for ever")
      switch session.step({ context }, scratch: scratch, marks: { UInt32(0) }) {
      case .again: continue
      case .ready: session.open(plain: plain[1])
      case .waits, .parts: going = false
      case .over: return
      }
    }
    if feed.isEmpty && steps > 8 {
      // Everybody leaves.
      if open.remove(client[0]) != nil { close(client[0]) }
      if open.remove(plain[0]) != nil { close(plain[0]) }
      session.clientEvent(EPOLLIN.rawValue | EPOLLHUP.rawValue)
      session.plainEvent(EPOLLIN.rawValue | EPOLLHUP.rawValue)
    }
  }
  check(session.state == .parting, "a session stays though both ends have gone: \(session.state)")
}
