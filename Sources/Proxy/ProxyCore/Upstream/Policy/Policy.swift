// Which replica a request goes to, among those that may be picked. A policy is a file here: it says what it has to know
// of a request, and chooses. Everything that holds for every policy (gates, limits, canaries, races) is the board's.

import Synchronization

/// The policies. Stored on the board as itself, so that a value without a policy cannot be stored.
package enum Policy: UInt8, BitwiseCopyable, CaseIterable, AtomicRepresentable {
  case leastLoad
  case roundRobin

  /// What the policy has to know of a request before it can choose.
  package var needs: Need {
    switch self {
    case .leastLoad: LeastLoad.needs
    case .roundRobin: RoundRobin.needs
    }
  }
}

/// How much of a request has to be there before a policy can choose.
package enum Need: BitwiseCopyable, Equatable {
  case nothing
  case head
  /// The body's first bytes, so many or to its end.
  case body(bytes: Int)
}

/// What a policy makes of a request, such as the hash of a prefix, so that equal ones come to the same replica.
package struct RouteKey: BitwiseCopyable, Equatable {
  package var hash: UInt64
  package init(hash: UInt64) { self.hash = hash }
  /// Of a policy that needs nothing.
  package static var none: RouteKey { RouteKey(hash: 0) }
}

/// One request that asks for a replica.
package struct Ask: BitwiseCopyable {
  /// The replicas it has failed on.
  package var tried: Tried
  package var key: RouteKey
  /// Should the replica fail, the request is sent to another and nothing is lost but a moment.
  package var isHarmless: Bool
  /// Nanoseconds of the monotonic clock.
  package var now: UInt64

  @inline(__always)
  package init(tried: Tried = Tried(), key: RouteKey = .none, isHarmless: Bool, now: UInt64) {
    self.tried = tried
    self.key = key
    self.isHarmless = isHarmless
    self.now = now
  }
}

/// The replicas an exchange has failed on.
package struct Tried: BitwiseCopyable {
  private var a = noSlot
  private var b = noSlot
  private var c = noSlot
  private var d = noSlot
  package init() {}
  @inline(__always)
  package var isEmpty: Bool { a == noSlot }
  @inline(__always)
  package func contains(_ replica: UInt32) -> Bool { a == replica || b == replica || c == replica || d == replica }
  package mutating func add(_ replica: UInt32) {
    d = c
    c = b
    b = a
    a = replica
  }
}

/// What a policy's look at the replicas has come to.
enum Choice: BitwiseCopyable {
  /// The board confirms it (another worker may have taken its last place meanwhile), then moves the cursor behind it.
  case replica(UInt32)
  /// The policy has moved the cursor itself, so that no other worker gets the same turn. Else the same.
  case turn(UInt32)
  /// Some could serve, and each of those has all the exchanges it may have.
  case full
  /// None may be picked.
  case nobody
}

/// A policy: chooses among `count` indices, beginning at the board's cursor, so that those that are as good take turns.
protocol ReplicaPolicy {
  static var needs: Need { get }
  static func choose(_ ask: Ask, _ board: LoadBoard, _ count: Int) -> Choice
}

/// Every index once, from the board's cursor on.
struct Round: BitwiseCopyable {
  /// Where it began.
  let cursor: UInt32
  /// One of those that were looked at could serve, but has all the exchanges it may have.
  var sawFull = false
  private let count: Int
  private var index: Int
  private var step = 0

  @inline(__always)
  init(_ board: LoadBoard, _ count: Int) {
    cursor = board.shared.pointee.cursor.load(ordering: .relaxed)
    self.count = count
    index = count == 0 ? 0 : Int(cursor) % count
  }

  @inline(__always)
  mutating func next() -> Int? {
    guard step < count else { return nil }
    defer {
      step += 1
      index = index + 1 == count ? 0 : index + 1
    }
    return index
  }
}
