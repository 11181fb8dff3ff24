// The simulated `RingIO`: a thin face on `World`, which peers and the driver share.

import ProxyCore
import SimKit

package struct SimIO: RingIO, ~Copyable {
  private let world: World
  private let ring: SimRing
  private var chance: Chance

  package init(_ world: World, worker: Int = 0) {
    self.world = world
    ring = world.rings[worker]
    chance = world.chance.fork()
  }

  package var now: UInt64 { world.now }
  package mutating func random() -> UInt64 { chance.next() }
  package mutating func submitAndWait(until deadline: UInt64) { world.submitAndWait(ring, until: deadline) }
  package mutating func next() -> Completion? { world.next(ring) }

  package mutating func accept(on listener: Int32, token: Token) { world.accept(ring, on: listener, token: token) }
  package mutating func receive(_ fd: Int32, limit: UInt32, pollFirst: Bool, token: Token) {
    world.receive(ring, fd, limit: limit, token: token)
  }
  package mutating func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int, token: Token) {
    var slice = IOSlice(base: UnsafeMutableRawPointer(mutating: bytes), count: count)
    world.send(ring, fd, &slice, 1, token: token)
  }
  package mutating func send(_ fd: Int32, gathering slices: UnsafePointer<IOSlice>, _ count: Int, token: Token) {
    world.send(ring, fd, slices, count, token: token)
  }
  package mutating func watch(_ fd: Int32, token: Token) { world.watch(ring, fd, token: token) }
  package mutating func connect(_ fd: Int32, to address: UnsafePointer<SocketAddress>, token: Token) {
    world.connect(ring, fd, to: address, token: token)
  }
  package mutating func shutdown(_ fd: Int32, _ how: ShutdownHow, token: Token) {
    world.shutdown(ring, fd, how, token: token)
  }
  package mutating func close(_ fd: Int32, token: Token) { world.close(ring, fd, token: token) }
  package mutating func cancel(_ target: Token, token: Token) { world.cancel(ring, target, token: token) }
  package mutating func armWake(token: Token) { world.armWake(ring, token: token) }

  package mutating func openSocket(for address: UnsafePointer<SocketAddress>) -> Int32 { world.openSocket(ring) }
  package mutating func delayAcks(_ fd: Int32, _ isOn: Bool) {}
  package mutating func resetOnClose(_ fd: Int32) { world.resetOnClose(ring, fd) }
  package mutating func unread(on fd: Int32) -> Unread { world.unread(ring, on: fd) }
  package mutating func unacknowledgedNs(on fd: Int32) -> UInt64 { 0 }
  package mutating func peerAddress(of fd: Int32) -> SocketAddress { world.peerAddress(ring, of: fd) }

  package var bufferSize: Int { world.bufferBytes }
  package var bufferCount: Int { world.bufferCount }
  package var buffersFree: Int { ring.freeBuffers.count }
  package var buffersNext: Int { ring.freeBuffers.count }
  package func bytes(of buffer: BufferID) -> UnsafeMutableRawPointer { world.bytes(ring, of: buffer) }
  package mutating func giveBack(_ buffer: BufferID) { world.giveBack(ring, buffer) }
}
