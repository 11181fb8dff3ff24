// What should happen next. Carried out by the Executor in this order:
//
//   mutations ─▶ Store (acknowledged) ─▶ publish ─▶ actions           probes, wakeAt: until the next plan
//
// Every action may be carried out again after a crash: the record says that it was meant.

import ProxyWire

package enum Action: Hashable, Sendable {
  /// Bring up the replica of this id, or go on bringing it up.
  case launch(LaunchOrder)
  /// Take down whatever there is of it; an id nobody knows is no error. Fetch its logs first where it failed.
  case stop(id: Int, attempt: Int, keepLogs: Bool)
  case startProxy
  case stopProxy
  /// Everything is gone: remove the service's folder.
  case forget
}

package struct LaunchOrder: Hashable, Sendable {
  package var id: Int
  package var version: Int
  /// Overrides `use_spot` of the file's candidates.
  package var spot: Bool

  /// What the machine is called.
  package func machineName(service: String) -> String { "\(service)-\(id)" }
}

/// A replica to probe every `interval` seconds until a plan no longer has it.
package struct ProbeOrder: Hashable, Sendable {
  package var id: Int
  package var address: String
  /// Of the replica's own version.
  package var probe: ServiceSpec.Probe
  /// Of the latest version; seconds.
  package var interval: Double
}

package struct Plan: Sendable {
  package var state: ServiceState
  package var mutations: [Mutation] = []
  /// Whether the mutations have to be on disk before anything else happens.
  package var isDurable = true
  package var publish: ReplicaSnapshot?
  package var actions: [Action] = []
  package var probes: [ProbeOrder] = []
  /// Plan again then at the latest, also if nothing happens.
  package var wakeAt: Double?
  /// For the log: `replica=3 READY -> NOT_READY probe: connection refused`.
  package var events: [String] = []
}
