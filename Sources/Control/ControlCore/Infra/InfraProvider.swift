// Where replicas can run, as the controller sees it: five verbs over replicas that carry a service's name and an id.
//
//   Executor ── stage, launch, stop ──▶ InfraProvider ◀── poll ── Controller's gather (InfraFact goes into Observed)
//
// Everything may be called again after a crash: launching what is there already goes on with it or does nothing,
// stopping what is not there is no error. What an infra has to remember it keeps where its replicas are (a folder, a
// label), never in memory alone: after a restart `poll` finds every replica it ever launched.

import ProxyWire

/// Why an infra could not do something, in words for people: what was asked, what is there, what to change.
package struct InfraError: Error, Hashable, Sendable, CustomStringConvertible {
  package enum Kind: String, Hashable, Sendable {
    /// Not now: everything is in use. Trying again later may do.
    case noCapacity
    /// Never, as it is written: this infra has no such thing.
    case impossible
    /// It did not work.
    case failed
  }

  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

/// One row of `Considered resources`: what a replica would run on.
package struct Offer: Hashable, Codable, Sendable {
  /// `Local (this machine)`: the column INFRA.
  package var infra: String
  package var instance: String
  package var cpus: String
  /// GB.
  package var memory: String
  package var gpus: String
  /// US dollars per hour and replica.
  package var hourlyCost: Double
  package var isChosen: Bool

  package init(
    infra: String, instance: String, cpus: String, memory: String, gpus: String, hourlyCost: Double, isChosen: Bool
  ) {
    self.infra = infra
    self.instance = instance
    self.cpus = cpus
    self.memory = memory
    self.gpus = gpus
    self.hourlyCost = hourlyCost
    self.isChosen = isChosen
  }
}

/// What it takes to bring up one replica.
package struct LaunchRequest: Sendable {
  package var service: String
  package var order: LaunchOrder
  package var task: TaskSpec
  /// The replica's port that takes traffic and probes.
  package var port: Int
  /// What `stage` filled for this version of the service.
  package var stagedFolder: String
  /// Where the infra keeps what belongs to this replica on this machine, its logs above all.
  package var replicaFolder: String

  package init(
    service: String, order: LaunchOrder, task: TaskSpec, port: Int, stagedFolder: String, replicaFolder: String
  ) {
    self.service = service
    self.order = order
    self.task = task
    self.port = port
    self.stagedFolder = stagedFolder
    self.replicaFolder = replicaFolder
  }
}

package protocol InfraProvider: Sendable {
  /// `local`: as `infra:` names it in a service file.
  var name: String { get }

  /// What a replica of this task would run on; throws where nothing here could ever do.
  func offers(for task: TaskSpec) throws(InfraError) -> [Offer]

  /// What a user should know before saying yes to such replicas, a sentence each.
  func notes(for task: TaskSpec) -> [String]

  /// Takes the files a version needs (workdir, file mounts) into a folder, so that replicas launched weeks later are
  /// made of what the user had when the command was given. All or nothing.
  func stage(_ task: TaskSpec, into folder: String) async throws(InfraError)

  /// Brings up a replica; returns as soon as the user's commands have begun. `progress` takes what to show as
  /// `PROVISIONING (detail)`; a launch that says nothing for an hour is given up.
  func launch(_ request: LaunchRequest, progress: @escaping @Sendable (String) -> Void) async throws(InfraError)

  /// Takes down whatever there is of it and waits until it is gone. Its logs stay in the replica's folder.
  func stop(service: String, id: Int, replicaFolder: String) async throws(InfraError)

  /// What there is of a service, by replica id; what is not in the answer is absent. `replicasFolder` holds the folder
  /// of every id (`<id>/`).
  func poll(service: String, replicasFolder: String) async throws(InfraError) -> [Int: InfraFact]

  /// Names of services of which something has just ended, so that a poll has news. For one listener; what is not told
  /// here is found by the next poll.
  var endings: AsyncStream<String> { get }
}

extension InfraProvider {
  package var endings: AsyncStream<String> { AsyncStream { $0.finish() } }

  package func notes(for task: TaskSpec) -> [String] { [] }
}
