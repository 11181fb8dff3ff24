// GET /v1/connections: what the sockets of all workers are doing, read from their slot tables while they run. A slot
// may change under the reader: a line can be half of one connection and half of the next. It is for people who look for
// a stuck stream, not for counting.

import ProxyWire

/// Where a worker keeps its slots. The pointers are valid as long as the process.
package struct WorkerView: BitwiseCopyable, @unchecked Sendable {
  package let connections: UnsafePointer<Connection>
  package let connectionCount: Int
  package let exchanges: UnsafePointer<Exchange>
  package let exchangeCount: Int
  /// The client address text of each connection, `peerTextStride` bytes apart.
  package let peerTexts: UnsafePointer<UInt8>

  /// The counts are capacities: slots that were never claimed are zeros, hence free.
  package init(
    connections: UnsafePointer<Connection>, connectionCount: Int, exchanges: UnsafePointer<Exchange>,
    exchangeCount: Int, peerTexts: UnsafePointer<UInt8>
  ) {
    self.connections = connections
    self.connectionCount = connectionCount
    self.exchanges = exchanges
    self.exchangeCount = exchangeCount
    self.peerTexts = peerTexts
  }

  fileprivate func exchange(_ index: UInt32) -> Exchange? {
    index < exchangeCount ? exchanges[Int(index)] : nil
  }
}

extension Worker where IO: ~Copyable {
  package var view: WorkerView {
    WorkerView(
      connections: UnsafePointer(connections.base), connectionCount: connections.capacity,
      exchanges: UnsafePointer(exchanges.base), exchangeCount: exchanges.capacity, peerTexts: UnsafePointer(peerTexts))
  }
}

package enum Introspection {
  /// The answer: at most `limit` connections, and how many there are.
  package static func connections(
    of workers: [WorkerView], names: ReplicaNames.Table, now: UInt64, limit: Int
  ) -> [UInt8] {
    var writer = JsonWriter()
    var open = 0
    writer.beginObject()
    writer.key("connections")
    writer.beginArray()
    for (number, worker) in workers.enumerated() {
      for slot in 0..<worker.connectionCount {
        let connection = worker.connections[slot]
        if connection.state == .free { continue }
        open += 1
        if open <= limit { write(connection, slot, number, worker, names, now, to: &writer) }
      }
    }
    writer.endArray()
    writer.member("open", open)
    writer.member("shown", min(open, limit))
    writer.endObject()
    return writer.take()
  }

  private static func write(
    _ connection: Connection, _ slot: Int, _ number: Int, _ worker: WorkerView, _ names: ReplicaNames.Table,
    _ now: UInt64, to writer: inout JsonWriter
  ) {
    // Only where both agree: the exchange's slot may serve another connection by now.
    let exchange = worker.exchange(connection.exchange).flatMap { exchange in
      let own = connection.side == .downstream ? exchange.downstream : exchange.upstream
      return own == UInt32(slot) ? exchange : nil
    }
    let replica =
      switch connection.side {
      case .upstream: names[connection.replica, connection.replicaGeneration]
      case .downstream: exchange.flatMap { names[$0.lease.replica, $0.lease.generation] }
      }
    writer.beginObject()
    writer.member("worker", number)
    writer.member("slot", slot)
    writer.member("side", connection.side == .downstream ? "downstream" : "upstream")
    writer.member("state", word(connection.state))
    writer.member("age_ms", (now - min(now, connection.openedAt)) / 1_000_000)
    writer.member("requests", connection.requests)
    if let exchange { writer.member("phase", word(exchange.phase)) }
    if connection.side == .downstream {
      let text = UnsafeBufferPointer(
        start: worker.peerTexts + slot * peerTextStride, count: min(Int(connection.peerCount), peerTextStride))
      let client = String(decoding: text, as: UTF8.self)
      writer.member("client", client)
      if connection.flags.contains(.tls) { writer.member("tls", true) }
    }
    if let replica { writer.member("replica", replica) }
    writer.member("queued_bytes", connection.queue.bytes)
    writer.endObject()
  }

  private static func word(_ state: ConnectionState) -> String {
    switch state {
    case .free: "free"
    case .readingHead: "reading_head"
    case .exchanging: "exchanging"
    case .replying: "replying"
    case .lingering: "lingering"
    case .connecting: "connecting"
    case .serving: "serving"
    case .parked: "parked"
    case .tunnel: "tunnel"
    case .stopping: "stopping"
    }
  }

  private static func word(_ phase: ExchangePhase) -> String {
    switch phase {
    case .placing: "placing"
    case .queued: "queued"
    case .connecting: "connecting"
    case .waiting: "waiting"
    case .streaming: "streaming"
    case .tunnel: "tunnel"
    }
  }
}
