// What the calendar of a run holds: small records.

enum EventKind: UInt8 {
  /// a: link, b: position up to which bytes (and the FIN, if queued) arrive.
  case arriveAtProxy, arriveAtPeer
  case resetToProxy, resetToPeer
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
