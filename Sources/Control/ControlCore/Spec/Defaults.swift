// What a field is when the file says nothing, and the bounds SkyServe sets itself. One place, so that help, echo and
// decoding agree.

package enum Defaults {
  package static let readinessPath = "/"
  /// Seconds; large models take their time to load.
  package static let initialDelay = 1200
  /// Seconds per probe.
  package static let probeTimeout = 15
  /// Seconds between the end of a probe and the next.
  package static let probeInterval = 10
  /// Seconds from first to last failed probe after which a replica that was ready once is given up.
  package static let failureThreshold = 180
  package static let failureThresholdOfPools = 10
  /// Seconds of silence after which a proxied request is given up.
  package static let streamTimeout = 120
  package static let minReplicas = 1
  /// Seconds the load must stay above (below) what the replicas are for.
  package static let upscaleDelay = 300.0
  package static let downscaleDelay = 1200.0
  package static let loadBalancingPolicy = LoadBalancingPolicy.leastLoad
  package static let queueLengthThreshold = 1
  /// GB; a file that says so says nothing.
  package static let diskSize = 256
}

/// What numbers of a service file may be. SkyServe has fewer bounds; beyond these nobody means what is written, and
/// sums of such numbers are no numbers any more.
package enum Bounds {
  /// Of whatever has no bound of its own. As seconds: thirty years.
  static let most = 1_000_000_000
  package static let seconds = 0...most
  /// SkyServe takes negative ones, which mean none.
  package static let initialDelay = -most...most
  package static let replicas = 0...10_000
}
