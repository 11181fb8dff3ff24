// How the workers wake the thread that tells news (GET /v1/reports). Nobody asks again and again: the thread arms the
// bell and sleeps; what bumps `news` then makes it due, and a worker that finds it so at the end of its turn rings it,
// through its ring as it sends everything. While nothing happens neither side does anything, and the workers' part is
// one load a turn.
//
//   silent ──arm──▶ armed ──news──▶ due ──a worker's turn ends──▶ silent, and a byte lies in the thread's socket

import Synchronization

package struct NewsBell: ~Copyable {
  private static var silent: UInt32 { @inline(__always) get { 0 } }
  private static var armed: UInt32 { @inline(__always) get { 1 } }
  private static var due: UInt32 { @inline(__always) get { 2 } }

  private let state = Atomic<UInt32>(0)
  private let end = Atomic<Int32>(0)

  /// The workers' end of the socket pair, before the first `arm`. It stays open as long as the process: a worker may be
  /// about to write into it.
  package borrowing func connect(_ fd: Int32) { end.store(fd, ordering: .releasing) }

  /// From the thread: ring at the next news. It looks once more after this, so that none falls between.
  package borrowing func arm() { state.store(NewsBell.armed, ordering: .sequentiallyConsistent) }

  package borrowing func disarm() { state.store(NewsBell.silent, ordering: .relaxed) }

  /// From whoever has bumped `news`.
  @inline(__always)
  fileprivate borrowing func newsCame() {
    // In one order with `arm` and the look after it: one of the two sides sees the other.
    if state.load(ordering: .sequentiallyConsistent) == NewsBell.armed {
      state.store(NewsBell.due, ordering: .relaxed)
    }
  }

  /// From a worker, at the end of its turn: where to send a byte; nil = nobody is to be woken.
  @inline(__always)
  package borrowing func takeDue() -> Int32? {
    guard state.load(ordering: .relaxed) == NewsBell.due else { return nil }
    guard state.exchange(NewsBell.silent, ordering: .acquiringAndReleasing) == NewsBell.due else { return nil }
    return end.load(ordering: .acquiring)
  }
}

extension BoardShared {
  /// Something has happened that GET /v1/reports should tell at once.
  @inline(__always)
  package borrowing func tellNews() {
    news.wrappingAdd(1, ordering: .sequentiallyConsistent)
    bell.newsCame()
  }
}

extension Worker where IO: ~Copyable {
  /// The last thing of a turn: what it counted is counted by now.
  @inline(__always)
  mutating func ringForNews() {
    guard let end = board.shared.pointee.bell.takeDue() else { return }
    // Any byte does; the one at this address is never taken away.
    io.send(end, UnsafeRawPointer(board.shared), 1, token: Token(.send, slot: noSlot, generation: 0))
  }
}
