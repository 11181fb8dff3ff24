// The relay's one thread.

import BenchKit
import Glibc
import ProxyCore

private let none = UInt32.max

private struct Side: BitwiseCopyable {
  var fd: Int32
  var generation: UInt32
  /// Operations the kernel holds.
  var operations: Int32
  var peer: UInt32
  /// Link of the free list, and of the idle ones.
  var next: UInt32
  var replica: UInt32
  var isReplica: Bool
  var isConnected: Bool
  var isReceiving: Bool
  var isSending: Bool
  var isDead: Bool
  var sawHead: Bool
  var isChunked: Bool
  var isIdle: Bool
  var left: Int
  /// The last five bytes of a chunked body.
  var tail: UInt64
  var queueHead: UInt32
  var queueTail: UInt32
  var inSend: Int32
}

private struct Piece: BitwiseCopyable {
  var base: UnsafeMutableRawPointer?
  var count: UInt32
  var buffer: BufferID
  var next: UInt32
}

struct Relay: ~Copyable {
  private var io: UringIO
  private let listener: Int32
  private let replicas: UnsafeMutablePointer<SocketAddress>
  private let replicaCount: Int
  private let idle: UnsafeMutablePointer<UInt32>
  private var turn = 0
  private let sides: UnsafeMutablePointer<Side>
  private let capacity: Int
  private var highWater: UInt32 = 0
  private var free = none
  private let pieces: UnsafeMutablePointer<Piece>
  private var freePiece = none
  /// Receives that found no free buffer.
  private let starved: UnsafeMutablePointer<UInt32>
  private var starvedCount = 0
  private let slices: UnsafeMutablePointer<IOSlice>

  init(listener: Int32, replicas: [SocketAddress], capacity: Int, buffers: Int) {
    io = openRing(buffers: buffers)
    self.listener = listener
    self.capacity = capacity
    replicaCount = replicas.count
    self.replicas = mapZeroed(replicas.count)
    for (index, address) in replicas.enumerated() { self.replicas[index] = address }
    idle = mapZeroed(replicas.count)
    for index in 0..<replicas.count { idle[index] = none }
    sides = mapZeroed(capacity)
    starved = mapZeroed(capacity)
    slices = mapZeroed(gatherMax)
    pieces = mapZeroed(buffers)
    for index in 0..<buffers {
      pieces[index].next = freePiece
      freePiece = UInt32(index)
    }
  }

  mutating func run() {
    io.accept(on: listener, token: Token(.accept, slot: 0, generation: 0))
    while true {
      io.submitAndWait(until: .max)
      while let completion = io.next() { take(completion) }
      if starvedCount > 0 { feedStarved() }
    }
  }

  private mutating func feedStarved() {
    var count = min(starvedCount, io.buffersNext)
    while count > 0 {
      count -= 1
      starvedCount -= 1
      let slot = starved[starvedCount]
      if !sides[Int(slot)].isDead && !sides[Int(slot)].isReceiving && sides[Int(slot)].fd >= 0 {
        receive(slot, pollFirst: false)
      }
    }
  }

  private func token(_ operation: Operation, _ slot: UInt32) -> Token {
    Token(operation, slot: slot, generation: sides[Int(slot)].generation)
  }

  private mutating func take(_ completion: Completion) {
    let slot = completion.token.slot
    let side = sides + Int(slot)
    switch completion.token.operation {
    case .accept:
      if completion.result >= 0 {
        if let slot = claim(completion.result) {
          sides[Int(slot)].isConnected = true
          receive(slot, pollFirst: false)
        } else {
          Glibc.close(completion.result)
        }
      }
      if !completion.more { io.accept(on: listener, token: Token(.accept, slot: 0, generation: 0)) }
      return
    case .connect:
      side.pointee.operations -= 1
      if completion.result < 0 {
        drop(slot)
      } else if !side.pointee.isDead {
        side.pointee.isConnected = true
        receive(slot, pollFirst: true)
        if side.pointee.queueHead != none { send(slot) }
      }
    case .receive:
      if !completion.more {
        side.pointee.isReceiving = false
        side.pointee.operations -= 1
      }
      if completion.result > 0 {
        if side.pointee.isDead {
          io.giveBack(completion.buffer)
        } else {
          bytes(slot, io.bytes(of: completion.buffer), Int(completion.result), completion.buffer)
          if !completion.more && !side.pointee.isDead { receive(slot, pollFirst: false) }
        }
      } else if completion.result == -ENOBUFS {
        if !side.pointee.isDead {
          starved[starvedCount] = slot
          starvedCount += 1
        }
      } else {
        drop(slot)
      }
    case .send:
      side.pointee.operations -= 1
      side.pointee.isSending = false
      release(slot, side.pointee.inSend)
      if completion.result < 0 {
        drop(slot)
      } else if side.pointee.queueHead != none && !side.pointee.isDead {
        send(slot)
      }
    case .shutdown: side.pointee.operations -= 1
    case .close:
      side.pointee.generation = (side.pointee.generation + 1) & 0xFF_FFFF
      side.pointee.fd = -1
      side.pointee.next = free
      free = slot
      return
    case .cancel, .wake, .watch: preconditionFailure("the relay queued no such operation")
    }
    settle(slot)
  }

  // MARK: connections

  private mutating func claim(_ fd: Int32) -> UInt32? {
    let slot: UInt32
    if free != none {
      slot = free
      free = sides[Int(slot)].next
    } else if Int(highWater) < capacity {
      slot = highWater
      highWater += 1
    } else {
      return nil
    }
    let generation = sides[Int(slot)].generation
    sides[Int(slot)] = Side(
      fd: fd, generation: generation, operations: 0, peer: none, next: none, replica: 0, isReplica: false,
      isConnected: false, isReceiving: false, isSending: false, isDead: false, sawHead: false, isChunked: false,
      isIdle: false, left: 0, tail: 0, queueHead: none, queueTail: none, inSend: 0)
    return slot
  }

  private mutating func receive(_ slot: UInt32, pollFirst: Bool) {
    let side = sides + Int(slot)
    side.pointee.isReceiving = true
    side.pointee.operations += 1
    io.receive(side.pointee.fd, limit: 0, pollFirst: pollFirst, token: token(.receive, slot))
  }

  private mutating func takeReplica() -> UInt32? {
    let replica = turn
    turn = turn + 1 == replicaCount ? 0 : turn + 1
    if idle[replica] != none {
      let slot = idle[replica]
      idle[replica] = sides[Int(slot)].next
      sides[Int(slot)].isIdle = false
      return slot
    }
    let fd = io.openSocket(for: replicas + replica)
    guard fd >= 0, let slot = claim(fd) else {
      if fd >= 0 { Glibc.close(fd) }
      return nil
    }
    sides[Int(slot)].isReplica = true
    sides[Int(slot)].replica = UInt32(replica)
    sides[Int(slot)].operations = 1
    io.connect(fd, to: replicas + replica, token: token(.connect, slot))
    return slot
  }

  private mutating func drop(_ slot: UInt32) {
    let peer = sides[Int(slot)].peer
    end(slot)
    guard peer != none else { return }
    sides[Int(slot)].peer = none
    sides[Int(peer)].peer = none
    end(peer)
    settle(peer)
  }

  private mutating func end(_ slot: UInt32) {
    let side = sides + Int(slot)
    guard !side.pointee.isDead else { return }
    side.pointee.isDead = true
    if side.pointee.isIdle {
      let head = idle + Int(side.pointee.replica)
      if head.pointee == slot {
        head.pointee = side.pointee.next
      } else {
        var at = head.pointee
        while sides[Int(at)].next != slot { at = sides[Int(at)].next }
        sides[Int(at)].next = side.pointee.next
      }
    }
    guard side.pointee.operations > 0 else { return }
    side.pointee.operations += 1
    io.shutdown(side.pointee.fd, .both, token: token(.shutdown, slot))
  }

  private mutating func settle(_ slot: UInt32) {
    let side = sides + Int(slot)
    guard side.pointee.isDead, side.pointee.operations == 0 else { return }
    side.pointee.operations = -1
    while side.pointee.queueHead != none { release(slot, 1) }
    io.close(side.pointee.fd, token: token(.close, slot))
  }

  // MARK: bytes

  private mutating func bytes(_ slot: UInt32, _ memory: UnsafeMutableRawPointer, _ count: Int, _ buffer: BufferID) {
    let side = sides + Int(slot)
    if !side.pointee.isReplica {
      if side.pointee.peer == none {
        guard let replica = takeReplica() else {
          io.giveBack(buffer)
          drop(slot)
          return
        }
        side.pointee.peer = replica
        sides[Int(replica)].peer = slot
        sides[Int(replica)].sawHead = false
      }
      queue(side.pointee.peer, memory, count, buffer)
      return
    }
    let client = side.pointee.peer
    guard client != none else {
      io.giveBack(buffer)
      drop(slot)
      return
    }
    let isOver = follow(side, UnsafePointer(memory.assumingMemoryBound(to: UInt8.self)), count)
    if isOver {
      sides[Int(client)].peer = none
      side.pointee.peer = none
      side.pointee.isIdle = true
      side.pointee.next = idle[Int(side.pointee.replica)]
      idle[Int(side.pointee.replica)] = slot
    }
    queue(client, memory, count, buffer)
  }

  /// Whether the response ends with these bytes. The origin's heads are short and come in one piece.
  private func follow(_ side: UnsafeMutablePointer<Side>, _ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    var body = 0
    if !side.pointee.sawHead {
      guard let end = endOfHead(bytes, count) else { return false }
      side.pointee.sawHead = true
      side.pointee.isChunked = true
      side.pointee.tail = 0
      body = end
      var fields = FieldWalk(bytes, end)
      while fields.next() {
        if fields.nameCount == 14, sameName(bytes + fields.nameStart, 14, "content-length") {
          side.pointee.isChunked = false
          side.pointee.left = decimal(bytes + fields.valueStart, fields.valueCount) ?? 0
        }
      }
    }
    if !side.pointee.isChunked {
      side.pointee.left -= count - body
      return side.pointee.left <= 0
    }
    var at = max(body, count - 5)
    while at < count {
      side.pointee.tail = side.pointee.tail << 8 | UInt64(bytes[at])
      at += 1
    }
    return side.pointee.tail & 0xFF_FFFF_FFFF == 0x30_0D0A_0D0A  // "0" CR LF CR LF
  }

  private mutating func queue(_ slot: UInt32, _ memory: UnsafeMutableRawPointer, _ count: Int, _ buffer: BufferID) {
    let side = sides + Int(slot)
    guard !side.pointee.isDead else {
      io.giveBack(buffer)
      return
    }
    let piece = freePiece
    freePiece = pieces[Int(piece)].next
    pieces[Int(piece)] = Piece(base: memory, count: UInt32(count), buffer: buffer, next: none)
    if side.pointee.queueTail == none {
      side.pointee.queueHead = piece
    } else {
      pieces[Int(side.pointee.queueTail)].next = piece
    }
    side.pointee.queueTail = piece
    if !side.pointee.isSending && side.pointee.isConnected { send(slot) }
  }

  private mutating func send(_ slot: UInt32) {
    let side = sides + Int(slot)
    side.pointee.isSending = true
    side.pointee.operations += 1
    let first = pieces + Int(side.pointee.queueHead)
    if first.pointee.next == none {
      side.pointee.inSend = 1
      io.send(side.pointee.fd, first.pointee.base!, Int(first.pointee.count), token: token(.send, slot))
      return
    }
    var piece = side.pointee.queueHead
    var used = 0
    while piece != none && used < gatherMax {
      slices[used] = IOSlice(base: pieces[Int(piece)].base, count: Int(pieces[Int(piece)].count))
      used += 1
      piece = pieces[Int(piece)].next
    }
    side.pointee.inSend = Int32(used)
    io.send(side.pointee.fd, gathering: slices, used, token: token(.send, slot))
  }

  private mutating func release(_ slot: UInt32, _ count: Int32) {
    let side = sides + Int(slot)
    for _ in 0..<count {
      let piece = side.pointee.queueHead
      side.pointee.queueHead = pieces[Int(piece)].next
      io.giveBack(pieces[Int(piece)].buffer)
      pieces[Int(piece)].next = freePiece
      freePiece = piece
    }
    if side.pointee.queueHead == none { side.pointee.queueTail = none }
  }
}
