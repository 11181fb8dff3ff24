// One access-log record per exchange, written at its end into the ring that the log's thread empties.

extension Worker where IO: ~Copyable {
  mutating func writeLog(_ index: UInt32, _ outcome: LogOutcome) {
    guard let log else { return }
    let exchange = exchanges[index]
    var entry = LogEntry(
      startedAt: exchange.pointee.startedAt, replica: exchange.pointee.lease, status: exchange.pointee.status,
      outcome: outcome)
    entry.bytesIn = exchange.pointee.bytesIn
    entry.bytesOut = exchange.pointee.bytesOut
    entry.attempts = UInt8(clamping: Int(exchange.pointee.attempts) + Int(exchange.pointee.refusals))
    entry.durationNs = io.now &- exchange.pointee.startedAt
    // A request that was never given a replica spent all its time waiting for one.
    let placedAt = exchange.pointee.pickedAt != 0 ? exchange.pointee.pickedAt : io.now
    entry.queueNs = placedAt &- exchange.pointee.startedAt
    if !exchange.pointee.flags.contains(.reused) && exchange.pointee.connectedAt > exchange.pointee.pickedAt {
      entry.connectNs = exchange.pointee.connectedAt &- exchange.pointee.pickedAt
    }
    if exchange.pointee.firstByteAt != 0 {
      entry.firstByteNs = exchange.pointee.firstByteAt &- exchange.pointee.startedAt
    }
    setPeer(&entry, exchange.pointee.downstream)
    // The head may have become a queued segment's; then its words are gone with it.
    let written: Bool
    if exchange.pointee.head != .none {
      let head = UnsafePointer(blocks.bytes(of: exchange.pointee.head))
      written = log.append(
        entry, id: head + Int(exchange.pointee.idAt), idCount: Int(exchange.pointee.idCount),
        method: head + Int(exchange.pointee.methodAt), methodCount: Int(exchange.pointee.methodCount),
        target: head + Int(exchange.pointee.targetAt), targetCount: Int(exchange.pointee.targetCount))
    } else {
      written = log.append(entry, id: nil, idCount: 0, method: nil, methodCount: 0, target: nil, targetCount: 0)
    }
    if !written { counters.worker.pointee.logDropped &+= 1 }
  }

  /// A request that never became an exchange: refused, too slow, too many.
  mutating func writeRefusal(_ slot: UInt32, _ answer: LocalReply) {
    guard let log else { return }
    let outcome: LogOutcome =
      switch answer {
      case .headTimeout: .timedOut
      case .tooManyConnections, .outOfMemory, .outOfDescriptors, .outOfPorts, .bodyShed: .shed
      default: .refused
      }
    var entry = LogEntry(startedAt: io.now, replica: .none, status: answer.status, outcome: outcome)
    setPeer(&entry, slot)
    if !log.append(entry, id: nil, idCount: 0, method: nil, methodCount: 0, target: nil, targetCount: 0) {
      counters.worker.pointee.logDropped &+= 1
    }
  }

  private func setPeer(_ entry: inout LogEntry, _ slot: UInt32) {
    entry.peerCount = connections[slot].pointee.peerCount
    let text = UnsafeRawPointer(peerTexts + Int(slot) * peerTextStride)
    entry.peerText = text.load(as: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64).self)
  }
}
