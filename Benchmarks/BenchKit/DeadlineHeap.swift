// Exact deadlines, one per slot, in a binary heap. The proxy's wheel rounds to a millisecond; event spacing must not.

import ProxyCore

package struct DeadlineHeap: ~Copyable {
  private struct Entry: BitwiseCopyable {
    var at: UInt64
    var slot: UInt32
  }

  private let entries: UnsafeMutablePointer<Entry>
  /// Place of each slot in the heap + 1; 0 = it has no deadline.
  private let places: UnsafeMutablePointer<UInt32>
  private let capacity: Int
  package private(set) var count = 0

  package init(capacity: Int) {
    self.capacity = capacity
    entries = mapZeroed(capacity)
    places = mapZeroed(capacity)
  }

  deinit {
    unmap(entries, capacity)
    unmap(places, capacity)
  }

  /// `.max` when there is none.
  package var next: UInt64 { count == 0 ? .max : entries[0].at }

  package mutating func set(_ slot: UInt32, at deadline: UInt64) {
    var place = Int(places[Int(slot)])
    if place == 0 {
      count += 1
      place = count
      entries[place - 1] = Entry(at: deadline, slot: slot)
      places[Int(slot)] = UInt32(place)
      rise(place - 1)
    } else {
      entries[place - 1].at = deadline
      rise(place - 1)
      sink(Int(places[Int(slot)]) - 1)
    }
  }

  package mutating func clear(_ slot: UInt32) {
    let place = Int(places[Int(slot)])
    guard place != 0 else { return }
    places[Int(slot)] = 0
    count -= 1
    guard place - 1 != count else { return }
    let moved = entries[count]
    entries[place - 1] = moved
    places[Int(moved.slot)] = UInt32(place)
    rise(place - 1)
    sink(Int(places[Int(moved.slot)]) - 1)
  }

  /// A slot whose deadline has passed, which then has none; nil when no further one has.
  package mutating func expired(now: UInt64) -> UInt32? {
    guard count > 0, entries[0].at <= now else { return nil }
    let slot = entries[0].slot
    clear(slot)
    return slot
  }

  private func rise(_ start: Int) {
    var index = start
    let entry = entries[index]
    while index > 0 {
      let parent = (index - 1) / 2
      guard entry.at < entries[parent].at else { break }
      entries[index] = entries[parent]
      places[Int(entries[index].slot)] = UInt32(index + 1)
      index = parent
    }
    entries[index] = entry
    places[Int(entry.slot)] = UInt32(index + 1)
  }

  private func sink(_ start: Int) {
    var index = start
    let entry = entries[index]
    while true {
      var child = 2 * index + 1
      guard child < count else { break }
      if child + 1 < count && entries[child + 1].at < entries[child].at { child += 1 }
      guard entries[child].at < entry.at else { break }
      entries[index] = entries[child]
      places[Int(entries[index].slot)] = UInt32(index + 1)
      index = child
    }
    entries[index] = entry
    places[Int(entry.slot)] = UInt32(index + 1)
  }
}
