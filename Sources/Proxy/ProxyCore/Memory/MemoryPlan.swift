// What the process will use, worked out from the limits before anything starts: each table's size, and
// the sum. Printed by --print-plan. Address space is taken at once; memory as it is touched.

package struct MemoryPlan: BitwiseCopyable {
  /// Both sides of every exchange, plus room to shed and to park.
  package let connections: Int
  package let exchanges: Int
  package let segments: Int
  package let tinyBlocks: Int
  package let smallBlocks: Int
  package let mediumBlocks: Int
  package let largeBlocks: Int
  package let largeBlockBytes: Int
  /// What stalled peers have not taken, moved out of lent buffers.
  package let spillBlocks: Int
  package let buffers: Int
  package let bufferBytes: Int
  /// Completion queue entries that hold every operation in flight: at most receive + send + one more per connection,
  /// and a watch per client.
  package let completions: Int

  /// Slots kept for connections that are answered 503 and closed.
  static let shedRoom = 64

  package init(config: EngineConfig, buffers: Int, bufferBytes: Int) {
    exchanges = config.maxConnections
    connections = 2 * config.maxConnections + MemoryPlan.shedRoom + 1024
    spillBlocks = config.spillBytes / BlockPool.spillBytes
    segments = buffers * 2 + config.maxConnections * 4 + spillBlocks
    // Per exchange at most: the kept request head, a partial or rewritten response head, a local reply.
    tinyBlocks = config.maxConnections * 3 + MemoryPlan.shedRoom
    smallBlocks = config.maxConnections * 3 + MemoryPlan.shedRoom
    mediumBlocks = max(64, config.maxConnections / 4)
    largeBlocks = max(64, config.maxConnections / 32)
    largeBlockBytes = (config.headBytesMax + max(requestHeadGrowthMax, responseHeadGrowthMax) + 4095) & ~4095
    self.buffers = buffers
    self.bufferBytes = bufferBytes
    var entries = 4096
    while entries < 3 * connections + config.maxConnections && entries < 65536 { entries *= 2 }
    completions = entries
  }

  package var slotBytes: Int {
    connections * (MemoryLayout<Connection>.stride + 28) + exchanges * MemoryLayout<Exchange>.stride
      + segments * MemoryLayout<Segment>.stride
  }
  package var blockBytes: Int {
    tinyBlocks * BlockPool.tinyBytes + smallBlocks * BlockPool.smallBytes + mediumBlocks * BlockPool.mediumBytes
      + largeBlocks * largeBlockBytes
  }
  package var bufferPoolBytes: Int { buffers * bufferBytes }
  package var spillPoolBytes: Int { spillBlocks * BlockPool.spillBytes }
  /// One worker's most.
  package var totalBytes: Int { slotBytes + blockBytes + bufferPoolBytes + spillPoolBytes + completions * 16 }
}
