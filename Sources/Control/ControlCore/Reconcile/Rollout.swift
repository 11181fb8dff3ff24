// How traffic and replicas move from one version to the next.
//
//   rolling      every version with a ready replica takes traffic. As many new replicas as wanted are launched at once
//                (so at most twice as many run); each that becomes ready lets an old one go.
//   blue_green   old replicas keep all traffic until the new version has its own minimum ready; then all traffic moves,
//                and the old ones go.
//
// Pure. The autoscaler asks who is outdated, the reconciler asks which versions take traffic.

package enum Rollout {
  /// Old replicas that may go now.
  package static func outdated(
    _ replicas: [ScalingReplica], latest: Int, mode: UpdateMode, wanted: Int, activeVersions: [Int]
  ) -> [ScalingReplica] {
    let old = replicas.filter { $0.version < latest && $0.isAlive }
    if old.isEmpty { return [] }
    switch mode {
    case .rolling:
      let ready = replicas.count { $0.version == latest && $0.isReady }
      if ready >= wanted { return old }
      return ScaleDownOrder.first(old.count - (wanted - ready), of: old)
    case .blueGreen:
      // A version in between that has not served yet is superseded: it would only add to the surge.
      guard let first = activeVersions.min() else {
        let newest = old.map(\.version).max() ?? latest
        return old.filter { $0.version < newest && $0.isOnItsWay }
      }
      return old.filter { $0.version < first || ($0.version > first && $0.isOnItsWay) }
    }
  }

  /// Versions that take traffic, ascending. `minimum` is each version's own.
  package static func activeVersions(
    _ replicas: [ScalingReplica], mode: UpdateMode, minimum: (Int) -> Int
  ) -> [Int] {
    var ready: [Int: Int] = [:]
    for replica in replicas where replica.isReady { ready[replica.version, default: 0] += 1 }
    let versions = ready.keys.sorted()
    switch mode {
    case .rolling: return versions
    case .blueGreen:
      if let newest = versions.last(where: { ready[$0, default: 0] >= max(1, minimum($0)) }) { return [newest] }
      return versions.first.map { [$0] } ?? []
    }
  }
}
