// Accepting clients: a slot for each, or a 503 when the process has all it may have. Draining stops here.

/// Slots that are looked at for one to let go when a client comes that is one too many: some 20 µs.
private let idleLookMost = 1024
/// Silence after which a client that waits for nothing may be let go for a newcomer.
private let idleVictimNs: UInt64 = 1_000_000_000

extension Worker where IO: ~Copyable {
  /// Arms a multishot accept on a listening socket. At most eight.
  package mutating func listen(on fd: Int32) {
    precondition(listening < 8, "more than eight listeners")
    listeners[listening] = fd
    listening += 1
    armAccept(listening - 1)
  }

  private mutating func armAccept(_ index: Int) {
    accepting |= 1 << UInt8(index)
    io.accept(on: listeners[index], token: Token(.accept, slot: UInt32(index), generation: 0))
  }

  mutating func accepted(_ completion: Completion) {
    let index = Int(completion.token.slot)
    if completion.result >= 0 { admit(completion.result) }
    guard !completion.more else { return }
    accepting &= ~(1 << UInt8(index))
    guard !draining else { return }
    if completion.result >= 0 {
      armAccept(index)
    } else {
      // Asking again at once would spin where descriptors or memory have run out (man 2 accept).
      switch completion.result {
      case RingResult.noMemory, RingResult.systemDescriptors, RingResult.processDescriptors, RingResult.noBuffers:
        counters.worker.pointee.failedAccepts &+= 1
      default: break
      }
      acceptAgainAt = io.now + 20_000_000
    }
  }

  mutating func acceptAgain() {
    acceptAgainAt = 0
    if draining {
      cancelAccepts()
      return
    }
    var index = 0
    while index < listening {
      if accepting & (1 << UInt8(index)) == 0 { armAccept(index) }
      index += 1
    }
  }

  private mutating func admit(_ fd: Int32) {
    let open = board.shared.pointee.connections.wrappingAdd(1, ordering: .relaxed).newValue
    if handToTls(fd, open: open) { return }
    guard !draining, let slot = claimConnection(fd: fd, side: .downstream, state: .readingHead) else {
      board.shared.pointee.connections.wrappingSubtract(1, ordering: .relaxed)
      counters.worker.pointee.shedConnections &+= 1
      io.close(fd, token: Token(.close, slot: noSlot, generation: 0))
      return
    }
    counters.worker.pointee.accepted &+= 1
    let connection = connections[slot]
    let address = io.peerAddress(of: fd)
    connection.pointee.peerCount = UInt8(writeAddressText(address, into: peerTexts + Int(slot) * peerTextStride))
    if Int(open) > config.maxConnections && !closeOneIdle() {
      counters.worker.pointee.shedConnections &+= 1
      armReceive(slot, pollFirst: true)
      reply(slot, .tooManyConnections)
      return
    }
    armReceive(slot, pollFirst: false)
    // Until its first request a client has no longer than for a head: connections that say nothing must not be able to
    // keep others out.
    arm(slot, .idle, after: min(config.idleTimeoutNs, config.headTimeoutNs))
  }

  /// Makes room for a newcomer where the process has as many clients as it may: of those that wait for nothing, one
  /// that has been silent for a second or longer is let go. False: there is none near where the last look ended.
  mutating func closeOneIdle() -> Bool {
    var looked = 0
    while looked < idleLookMost && connections.highWater > 0 {
      idleHand = Int(idleHand) + 1 < connections.highWater ? idleHand + 1 : 0
      looked += 1
      let connection = connections[idleHand]
      guard connection.pointee.state == .readingHead, connection.pointee.side == .downstream,
        !connection.pointee.isOver, connection.pointee.partial == .none, connection.pointee.input.isEmpty,
        connection.pointee.queue.isEmpty, io.now &- connection.pointee.receivedAt >= idleVictimNs
      else { continue }
      counters.worker.pointee.idleClosed &+= 1
      stop(idleHand)
      return true
    }
    return false
  }

  /// A cancel can come while the kernel is busy with what it would cancel, and then does nothing: tried until it works.
  private mutating func cancelAccepts() {
    guard accepting != 0 else { return }
    var index = 0
    while index < listening {
      if accepting & (1 << UInt8(index)) != 0 {
        io.cancel(
          Token(.accept, slot: UInt32(index), generation: 0), token: Token(.cancel, slot: noSlot, generation: 0))
      }
      index += 1
    }
    acceptAgainAt = io.now + 10_000_000
  }

  /// Stops accepting; idle clients are let go, the others get `Connection: close` with their response.
  package mutating func drain() {
    guard !draining else { return }
    draining = true
    cancelAccepts()
    var slot: UInt32 = 0
    while Int(slot) < connections.highWater {
      let connection = connections[slot]
      switch connection.pointee.state {
      case .readingHead where connection.pointee.partial == .none && connection.pointee.input.isEmpty:
        // A response may still be on its way out.
        if connection.pointee.queue.isEmpty { stop(slot) } else { closeWhenSent(slot) }
      case .parked: stop(slot)
      case .free, .readingHead, .exchanging, .replying, .lingering, .connecting, .serving, .tunnel, .stopping: break
      }
      slot += 1
    }
  }
}

/// Writes the text of an internet address ("10.0.0.1", "::1"; "unix" for a Unix socket) and returns its length, at most
/// 46 bytes; IPv6 in its compressed form (RFC 5952), which is what operators search for.
func writeAddressText(_ address: SocketAddress, into text: UnsafeMutablePointer<UInt8>) -> Int {
  let out = UnsafeMutableRawPointer(text)
  return withUnsafeBytes(of: address.storage) { bytes in
    switch address.family {
    case 2: writeIPv4(bytes.baseAddress! + 4, out)
    case 10: writeIPv6(bytes.baseAddress! + 8, out)
    default: writeLiteral("unix", out)
    }
  }
}

private func writeLiteral(_ literal: StaticString, _ out: UnsafeMutableRawPointer) -> Int {
  out.copyMemory(from: literal.utf8Start, byteCount: literal.utf8CodeUnitCount)
  return literal.utf8CodeUnitCount
}

private func writeIPv4(_ bytes: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) -> Int {
  var count = 0
  var part = 0
  while part < 4 {
    if part > 0 {
      out.storeBytes(of: 0x2E, toByteOffset: count, as: UInt8.self)
      count += 1
    }
    let value = bytes.load(fromByteOffset: part, as: UInt8.self)
    if value >= 100 {
      out.storeBytes(of: 0x30 + value / 100, toByteOffset: count, as: UInt8.self)
      count += 1
    }
    if value >= 10 {
      out.storeBytes(of: 0x30 + value / 10 % 10, toByteOffset: count, as: UInt8.self)
      count += 1
    }
    out.storeBytes(of: 0x30 + value % 10, toByteOffset: count, as: UInt8.self)
    count += 1
    part += 1
  }
  return count
}

private func writeIPv6(_ bytes: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) -> Int {
  // v4-mapped addresses (a dual-stack listener) read as the IPv4 addresses they are (RFC 4291 2.5.5.2).
  if bytes.loadUnaligned(as: UInt64.self) == 0 && bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self) == 0xFFFF_0000
  {
    return writeIPv4(bytes + 12, out)
  }
  // The longest run of two or more zero groups is written "::" (RFC 5952 4.2).
  var runStart = -1
  var runCount = 0
  var group = 0
  while group < 8 {
    var end = group
    while end < 8 && bytes.loadUnaligned(fromByteOffset: end * 2, as: UInt16.self) == 0 { end += 1 }
    if end - group > runCount && end - group >= 2 {
      runStart = group
      runCount = end - group
    }
    group = max(end, group + 1)
  }
  var count = 0
  group = 0
  while group < 8 {
    if group == runStart {
      out.storeBytes(of: 0x3A, toByteOffset: count, as: UInt8.self)
      out.storeBytes(of: 0x3A, toByteOffset: count + 1, as: UInt8.self)
      count += 2
      group += runCount
      continue
    }
    if group > 0 && (runStart < 0 || group != runStart + runCount) {
      out.storeBytes(of: 0x3A, toByteOffset: count, as: UInt8.self)
      count += 1
    }
    let value = UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: group * 2, as: UInt16.self))
    var shift: UInt16 = 12
    var started = false
    while true {
      let digit = UInt8((value >> shift) & 15)
      if digit != 0 || started || shift == 0 {
        out.storeBytes(of: digit < 10 ? 0x30 + digit : 0x57 + digit, toByteOffset: count, as: UInt8.self)
        count += 1
        started = true
      }
      if shift == 0 { break }
      shift -= 4
    }
    group += 1
  }
  return count
}
