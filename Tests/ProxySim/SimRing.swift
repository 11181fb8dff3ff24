// What each worker has of the simulated kernel for itself: its queues, its listening socket, its lent buffers. Time, the
// network and the peers are everybody's.

import ProxyCore

final class SimRing {
  let index: Int
  // Queues.
  var submissions: [Int] = []
  var posted: [(op: Int, completion: Completion)] = []
  /// Those that its worker may take in this turn, and how many it has taken.
  var visible = 0
  var pulled = 0
  /// Completions that were there when a wait was interrupted.
  var heldBack: [(op: Int, completion: Completion)] = []
  var byToken: [UInt64: Int] = [:]
  var inFlight = 0
  /// How long its worker waits at most.
  var deadline: UInt64 = 0
  var effort = Effort()

  // Listening and waking.
  var backlog: [Link] = []
  var acceptOp = -1
  var acceptStep = false
  var wakeOp = -1
  var wakeWanted = false

  // Lent buffers.
  let memory: UnsafeMutableRawPointer
  var freeBuffers: [Int32]
  var lent: [Bool]
  /// When each was lent, and in which turn.
  var lentAt: [(time: UInt64, turn: Int)]

  init(_ index: Int, buffers: Int, bytes: Int) {
    self.index = index
    memory = .allocate(byteCount: buffers * bytes, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0xDD, count: buffers * bytes)
    freeBuffers = (0..<Int32(buffers)).reversed()
    lent = Array(repeating: false, count: buffers)
    lentAt = Array(repeating: (0, 0), count: buffers)
  }

  deinit { memory.deallocate() }

  /// Its worker has something to do now.
  func isDue(_ now: UInt64) -> Bool {
    !submissions.isEmpty || !posted.isEmpty || !heldBack.isEmpty || deadline <= now
  }
}
