// What will happen when in simulated time.

/// A binary heap, first by time, then by order of adding.
public struct Calendar<Time: Comparable, Event> {
  @usableFromInline var heap: [(at: Time, order: Int, event: Event)] = []
  @usableFromInline var order = 0

  @inlinable public init() {}

  /// When the next event happens.
  @inlinable public var next: Time? { heap.first?.at }

  @inlinable public mutating func add(_ event: Event, at time: Time) {
    order += 1
    heap.append((time, order, event))
    var index = heap.count - 1
    while index > 0 {
      let parent = (index - 1) / 2
      guard isBefore(index, parent) else { break }
      heap.swapAt(index, parent)
      index = parent
    }
  }

  /// Takes the next event; there has to be one.
  @inlinable public mutating func pop() -> Event {
    let first = heap[0]
    let last = heap.removeLast()
    guard !heap.isEmpty else { return first.event }
    heap[0] = last
    var index = 0
    while true {
      var child = 2 * index + 1
      guard child < heap.count else { break }
      if child + 1 < heap.count, isBefore(child + 1, child) { child += 1 }
      guard isBefore(child, index) else { break }
      heap.swapAt(index, child)
      index = child
    }
    return first.event
  }

  @inlinable func isBefore(_ index: Int, _ other: Int) -> Bool {
    let (a, b) = (heap[index], heap[other])
    return a.at != b.at ? a.at < b.at : a.order < b.order
  }
}
