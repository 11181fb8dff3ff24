// Upgraded connections (RFC 9110 7.8; WebSocket, RFC 6455): after a 101 the bytes of both sides pass through unseen. A
// FIN passes through too, after what came before it; the exchange ends when both directions have.

extension Worker where IO: ~Copyable {
  mutating func beginTunnel(
    _ index: UInt32, _ head: ResponseHead, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let exchange = exchanges[index]
    let client = exchange.pointee.downstream
    let replica = exchange.pointee.upstream
    let headBytes = Int(head.headBytes)
    guard let block = blocks.claim(atLeast: headBytes + responseHeadGrowthMax),
      let used = writeResponseHead(
        head, fields, base, clientIsHTTP10: false, close: false, into: blocks.bytes(of: block),
        capacity: blocks.capacity(of: block))
    else {
      release(owner)
      mark(replica, Fault(.own, .head, .memory))
      return
    }
    counters.worker.pointee.tunnels &+= 1
    exchange.pointee.flags.insert(.headSent)
    exchange.pointee.phase = .tunnel
    connections[client].pointee.state = .tunnel
    connections[replica].pointee.state = .tunnel
    // From now on only silence of both sides counts.
    disarmPhase(client)
    connections[client].pointee.dues.receiveAt = 0
    connections[client].pointee.dues.sendAt = 0
    touchTunnel(index)
    enqueue(client, blocks.bytes(of: block), used, SegmentOwner(block: block))
    if count > headBytes {
      enqueue(client, base + headBytes, count - headBytes, owner)
    } else {
      release(owner)
    }
    // What the client sent without waiting for the 101.
    let sender = connections[client]
    while let piece = popFirst(of: &sender.pointee.input) {
      enqueue(replica, piece.base, piece.count, piece.owner)
    }
    if connections[client].pointee.receive == .ended { tunnelEnded(client) } else { resumeReceive(client) }
  }

  private mutating func touchTunnel(_ index: UInt32) {
    arm(exchanges[index].pointee.upstream, .tunnel, after: config.tunnelTimeoutNs)
  }

  @inline(__always)
  private func other(_ slot: UInt32) -> UInt32 {
    let exchange = exchanges[connections[slot].pointee.exchange]
    return connections[slot].pointee.side == .downstream ? exchange.pointee.upstream : exchange.pointee.downstream
  }

  mutating func tunnelReceived(
    _ slot: UInt32, _ base: UnsafeMutablePointer<UInt8>, _ count: Int, _ owner: SegmentOwner
  ) {
    let index = connections[slot].pointee.exchange
    let exchange = exchanges[index]
    switch connections[slot].pointee.side {
    case .downstream:
      exchange.pointee.bytesIn &+= UInt64(count)
      counters.replicas[Int(exchange.pointee.lease.replica)].bytesToReplica &+= UInt64(count)
    case .upstream: exchange.pointee.bytesOut &+= UInt64(count)
    }
    touchTunnel(index)
    enqueue(other(slot), base, count, owner)
  }

  /// One side has sent its FIN: the other gets ours once it has what came before.
  mutating func tunnelEnded(_ slot: UInt32) {
    let peer = other(slot)
    let connection = connections[peer]
    if connection.pointee.close == .open { connection.pointee.close = .endAfterQueue }
    if connection.pointee.queue.isEmpty { tunnelDrained(peer) }
  }

  mutating func tunnelDrained(_ slot: UInt32) {
    let connection = connections[slot]
    let peer = other(slot)
    if connection.pointee.receive == .ended && connections[peer].pointee.close == .ended {
      connection.pointee.close = .ended
      abandonTunnel(connection.pointee.exchange)
      return
    }
    connection.pointee.close = .ended
    connection.pointee.operations += 1
    io.shutdown(
      connection.pointee.fd, .write, token: Token(.shutdown, slot: slot, generation: connection.pointee.generation))
  }

  /// Both ends at once: finished, broken, or silent for too long.
  mutating func abandonTunnel(_ index: UInt32) {
    let slot = exchanges[index].pointee.downstream
    abandon(index, outcome: .tunnel)
    stop(slot)
  }
}
