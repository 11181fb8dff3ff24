// What will happen when: a binary heap of small records, first by time, then by order of scheduling.

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
  var at: UInt64
  var order: UInt64
  var kind: EventKind
  var a: Int
  var b: Int

  @inline(__always)
  func isBefore(_ other: Event) -> Bool { at != other.at ? at < other.at : order < other.order }
}

struct Calendar {
  private var heap: [Event] = []
  private var order: UInt64 = 0

  var next: UInt64? { heap.first?.at }
  var isEmpty: Bool { heap.isEmpty }

  mutating func add(_ kind: EventKind, _ a: Int, _ b: Int, at: UInt64) {
    order += 1
    heap.append(Event(at: at, order: order, kind: kind, a: a, b: b))
    var index = heap.count - 1
    while index > 0 {
      let parent = (index - 1) / 2
      guard heap[index].isBefore(heap[parent]) else { break }
      heap.swapAt(index, parent)
      index = parent
    }
  }

  mutating func pop() -> Event {
    let first = heap[0]
    let last = heap.removeLast()
    guard !heap.isEmpty else { return first }
    heap[0] = last
    var index = 0
    while true {
      var child = 2 * index + 1
      guard child < heap.count else { break }
      if child + 1 < heap.count && heap[child + 1].isBefore(heap[child]) { child += 1 }
      guard heap[child].isBefore(heap[index]) else { break }
      heap.swapAt(index, child)
      index = child
    }
    return first
  }
}
