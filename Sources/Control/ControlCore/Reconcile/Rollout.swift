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
      // Where none are wanted the new version never takes over, and nothing waits for it.
      if wanted == 0 { return old }
      // A version in between has not taken over and never will: it would only add to the surge. Where nobody serves,
      // no more old ones wait for that than are wanted.
      if activeVersions.isEmpty {
        let newest = old.map(\.version).max() ?? latest
        let between = old.filter { $0.version < newest && $0.isOnItsWay }
        let others = old.filter { $0.version == newest || !$0.isOnItsWay }
        return between + ScaleDownOrder.first(others.count - wanted, of: others)
      }
      let serving = old.filter { activeVersions.contains($0.version) }
      let surplus = serving.filter(\.isOnItsWay)
      return old.filter { !activeVersions.contains($0.version) }
        + ScaleDownOrder.first(min(surplus.count, serving.count - wanted), of: surplus)
    }
  }

  /// Versions that take traffic, ascending. `minimum` is each version's own; `before` is what this said last.
  package static func activeVersions(
    _ replicas: [ScalingReplica], latest: Int, mode: UpdateMode, before: [Int], minimum: (Int) -> Int
  ) -> [Int] {
    var ready: [Int: Int] = [:]
    for replica in replicas where replica.isReady { ready[replica.version, default: 0] += 1 }
    let versions = ready.keys.sorted()
    switch mode {
    case .rolling: return versions
    case .blueGreen:
      func isEnough(_ version: Int) -> Bool { ready[version, default: 0] >= max(1, minimum(version)) }
      if isEnough(latest) { return [latest] }
      // What served goes on serving; that may be two versions, where a rolling update was under way, and the latest one
      // among them, where replicas were kept.
      let serving = before.filter { ready[$0] != nil }
      if !serving.isEmpty { return serving }
      return versions.last(where: isEnough).map { [$0] } ?? versions.first.map { [$0] } ?? []
    }
  }
}
