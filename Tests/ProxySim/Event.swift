// What the calendar of a run holds: small records.

enum EventKind: UInt8 {
  /// a: link, b: position up to which bytes (and the FIN, if queued) arrive.
  case arriveAtProxy, arriveAtPeer
  case resetToProxy, resetToPeer
  /// Nobody has answered for so long that the connection is broken (man 7 tcp, TCP_KEEPCNT, TCP_USER_TIMEOUT).
  case probesFail
  /// a: link.
  case receiveStep, sendStep
  /// a: operation, b: its serial.
  case finish, connectEnds, cancelLate, perform
  /// a: index of a peer that asked to be woken.
  case wakePeer
  case acceptStep
  case wakeWorker
  /// a: link whose peer may have more room.
  case wakeLinkPeer
}

struct Event {
  var kind: EventKind
  var a: Int
  var b: Int
}
