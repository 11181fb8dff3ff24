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
    entry.attempts = exchange.pointee.attempts
    entry.durationNs = io.now &- exchange.pointee.startedAt
    if exchange.pointee.pickedAt != 0 { entry.queueNs = exchange.pointee.pickedAt &- exchange.pointee.startedAt }
    if !exchange.pointee.flags.contains(.reused) && exchange.pointee.connectedAt > exchange.pointee.pickedAt {
      entry.connectNs = exchange.pointee.connectedAt &- exchange.pointee.pickedAt
    }
    if exchange.pointee.firstByteAt != 0 {
      entry.firstByteNs = exchange.pointee.firstByteAt &- exchange.pointee.startedAt
    }
    let slot = exchange.pointee.downstream
    entry.peerCount = connections[slot].pointee.peerCount
    withUnsafeMutableBytes(of: &entry.peerText) {
      $0.baseAddress!.copyMemory(from: peerTexts + Int(slot) * peerTextStride, byteCount: peerTextStride)
    }
    // The head may have become a queued segment's; then its words are gone with it.
    let head: UnsafePointer<UInt8>? =
      exchange.pointee.head == .none ? nil : UnsafePointer(blocks.bytes(of: exchange.pointee.head))
    let written = log.append(
      entry, id: head.map { $0 + Int(exchange.pointee.idAt) }, idCount: Int(exchange.pointee.idCount),
      method: head.map { $0 + Int(exchange.pointee.methodAt) }, methodCount: Int(exchange.pointee.methodCount),
      target: head.map { $0 + Int(exchange.pointee.targetAt) }, targetCount: Int(exchange.pointee.targetCount))
    if !written { counters.worker.pointee.logDropped &+= 1 }
  }
}
