// The facts a plan is made from, as they are now. Gathered by the Controller; whatever woke it makes no difference.
//
// A fact that is missing is not known, and nothing is concluded from it: after a restart the first plans wait for the
// first polls. A fact about a replica counts only if it was read after the last operation on it ended (the Executor
// forgets the facts of a replica when an operation on it begins and when it ends); so an old "there is nothing" can
// never cause a second launch.

import ProxyWire

/// What the infra says of a replica's machine, or process group.
package enum InfraFact: Hashable, Sendable {
  case absent
  /// There is something, but it cannot run the user's command yet; launching again goes on with it.
  case partial(detail: String?)
  case up(Machine)
  /// It could not be asked.
  case unreachable

  /// What goes with the words of a probe that failed: who could have answered is not there any more.
  var besideProbe: String {
    if case .up(let machine) = self, machine.job == .succeeded { return ", and run has ended with 0" }
    return ""
  }
}

package struct Machine: Hashable, Sendable {
  package enum Job: Hashable, Sendable {
    case settingUp
    case running
    /// Ended well; whether it still serves is for the probe to say.
    case succeeded
    case failed(reason: String)
  }

  /// Where the service's port of this replica is reached.
  package var address: Endpoint
  package var job: Job
  package var chosen: ResourceSpec?

  package init(address: Endpoint, job: Job, chosen: ResourceSpec? = nil) {
    self.address = address
    self.job = job
    self.chosen = chosen
  }
}

/// What the executor is doing with a replica, or how its last operation failed.
package enum OperationFact: Hashable, Sendable {
  case launching(detail: String?)
  case stopping
  case launchFailed(reason: String)
  /// The plan's attempt number comes back, so that one failure is counted once.
  case stopFailed(attempt: Int, reason: String)
}

/// The outcome of one probe.
package struct ProbeFact: Hashable, Sendable {
  package var at: Double
  package var ok: Bool
  /// `connection refused`, `status 503`, …
  package var detail: String

  package init(at: Double, ok: Bool, detail: String = "") {
    self.at = at
    self.ok = ok
    self.detail = detail
  }
}

package enum ProxyFact: Hashable, Sendable {
  /// There is no process; nobody's requests are under way.
  case absent
  /// There is one, and it has not answered yet.
  case silent
  /// What the last report says. `inFlight` has what is above zero, by replica id.
  case reporting(version: UInt64, inFlight: [Int: Int])
}

package struct Arrivals: Hashable, Sendable {
  package var at: Double
  package var count: Int

  package init(at: Double, count: Int) {
    self.at = at
    self.count = count
  }
}

package struct Observed: Sendable {
  package var now: Double
  package var infra: [Int: InfraFact] = [:]
  package var operations: [Int: OperationFact] = [:]
  /// The newest of each replica.
  package var probes: [Int: ProbeFact] = [:]
  package var proxy = ProxyFact.silent
  /// Since the last plan; each is taken in once.
  package var arrivals: [Arrivals] = []
  /// Machines that carry the service's name and an id nobody knows.
  package var strangers: [Int] = []
  /// How many more launches may run now, of all services together.
  package var launchSlots = Int.max

  package init(now: Double) { self.now = now }
}
