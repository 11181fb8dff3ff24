// What the autoscaler knows of a replica, and which of too many go first.

package struct ScalingReplica: Hashable, Sendable {
  package var id: Int
  package var version: Int
  package var status: ReplicaStatus
  package var isSpot: Bool
  /// What it was launched on, where known.
  package var accelerator: Accelerator?
  /// Gone without ever having been ready, by its own fault: another one would do the same.
  package var isHopeless: Bool

  package init(
    id: Int, version: Int, status: ReplicaStatus, isSpot: Bool = false, accelerator: Accelerator? = nil,
    isHopeless: Bool = false
  ) {
    self.id = id
    self.version = version
    self.status = status
    self.isSpot = isSpot
    self.accelerator = accelerator
    self.isHopeless = isHopeless
  }

  package var isAlive: Bool { !status.isTerminal }
  package var isReady: Bool { status == .ready }
  /// Has never served.
  package var isOnItsWay: Bool { status == .pending || status == .provisioning || status == .starting }
}

package enum ScaleDownOrder {
  /// The first `count` to go: what is furthest from serving, then what serves least, then old versions, then the
  /// newest.
  package static func first(
    _ count: Int, of replicas: [ScalingReplica], qps: (ScalingReplica) -> Double = { _ in 0 }
  ) -> [ScalingReplica] {
    if count <= 0 { return [] }
    let sorted = replicas.sorted { a, b in
      if a.status.scaleDownRank != b.status.scaleDownRank { return a.status.scaleDownRank < b.status.scaleDownRank }
      let (left, right) = (qps(a), qps(b))
      if left != right { return left < right }
      if a.version != b.version { return a.version < b.version }
      return a.id > b.id
    }
    return Array(sorted.prefix(count))
  }
}
