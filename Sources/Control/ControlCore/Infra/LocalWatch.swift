// What LocalInfra remembers between two looks at the replicas: what it read of each, and whose end it waits for.
// Nothing of it is needed; without it looks would be slower, and an end would be seen by the next look only.
//
//   poll ── watch(shim, guard) ──▶ a task per replica waits for guard, then shim ──▶ endings ──▶ Controller: poll now

import Foundation
import Synchronization

final class LocalWatch: Sendable {
  /// Of one replica.
  struct Seen: Sendable {
    private var reader = StateReader()
    private(set) var chosen: ResourceSpec?

    mutating func look(_ folder: ReplicaFolder) -> ReplicaState? {
      let state = reader.read(folder)
      // Its order was there before.
      if reader.hasChanged { chosen = folder.readOrder()?.chosen }
      return state
    }
  }

  private struct Table {
    /// By the folder of a service's replicas, then by id.
    var seen: [String: [Int: Seen]] = [:]
    /// Guards that are watched, by the replica's folder.
    var guards: [String: Int32] = [:]
  }

  let endings: AsyncStream<String>
  private let news: AsyncStream<String>.Continuation
  private let table = Mutex(Table())

  init() { (endings, news) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(256)) }

  deinit { news.finish() }

  func seen(_ replicasFolder: String) -> [Int: Seen] { table.withLock { $0.seen[replicasFolder] ?? [:] } }

  func keep(_ seen: [Int: Seen], of replicasFolder: String) {
    table.withLock { $0.seen[replicasFolder] = seen.isEmpty ? nil : seen }
  }

  /// Tells when whoever keeps this replica has ended. Does nothing when that is waited for already.
  func watch(_ state: ReplicaState, service: String, folder: String) {
    let isNew = table.withLock { table in
      defer { table.guards[folder] = state.guardPid }
      return table.guards[folder] != state.guardPid
    }
    if !isNew { return }
    Task { [self] in
      // The guard is the last to end, unless somebody killed it; then the shim ends the replica.
      for (pid, start) in [(state.guardPid, state.guardStart), (state.shimPid, state.shimStart)] {
        if let process = ProcessIdentity.current(pid), process.startTicks == start { _ = await process.waitForEnd() }
        // Also of one that had ended by now: it had not when it was last looked at.
        news.yield(service)
      }
      table.withLock { table in
        if table.guards[folder] == state.guardPid { table.guards[folder] = nil }
      }
    }
  }
}
