// The folder of one local replica: the order that LocalInfra writes into it, the state that the shim keeps in it, and
// where everything else of the replica lies. It is the only thing the two share, so either may be killed and started
// again at any time.
//
//   LocalInfra ── replica.json ──▶ shim ── state.json, launch.log, run.log ──▶ LocalInfra, `sky serve logs`
//
//   lock         held by the shim as long as anything of the replica may run
//   turn.lock    held by whoever is starting or ending the shim
//   home/        the HOME of the replica's commands
//   *.sh         the user's commands

import CPlatform
import Foundation

package struct ReplicaFolder: Hashable, Sendable {
  package let path: String

  package init(_ path: String) { self.path = path }

  package var order: String { path + "/replica.json" }
  package var state: String { path + "/state.json" }
  package var lock: String { path + "/lock" }
  package var turnLock: String { path + "/turn.lock" }
  package var launchLog: String { path + "/launch.log" }
  package var runLog: String { path + "/run.log" }
  package var home: String { path + "/home" }
  package var workdir: String { home + "/sky_workdir" }
  package func script(_ stage: ReplicaStage) -> String { path + "/\(stage.rawValue).sh" }

  /// Whether a shim keeps this replica.
  package var isKept: Bool {
    let fd = sky_open(lock, O_RDWR | O_CLOEXEC, 0)
    guard fd >= 0 else { return false }
    defer { close(fd) }
    return sky_is_lock_held(fd) == 1
  }

  /// From now on it is kept by whoever has the descriptor; nil: somebody else does that.
  func takeLock() -> Int32? {
    let fd = sky_open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    if fd < 0 { return nil }
    if sky_hold_lock(fd) == 0 { return fd }
    close(fd)
    return nil
  }

  /// nil: there is none (yet), or it cannot be read.
  package func readState() -> ReplicaState? { read(ReplicaState.self, state) }
  package func readOrder() -> ReplicaOrder? { read(ReplicaOrder.self, order) }

  package func write(_ order: ReplicaOrder) throws { try write(order, self.order) }
  package func write(_ state: ReplicaState) throws { try write(state, self.state) }

  private func read<Value: Decodable>(_ type: Value.Type, _ file: String) -> Value? {
    guard let data = FileManager.default.contents(atPath: file) else { return nil }
    return try? JSONDecoder().decode(type, from: data)
  }

  /// Whoever reads sees the old file or the new one, whole.
  private func write(_ value: some Encodable, _ file: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
    let draft = file + ".new"
    try PrivateFile.write(encoder.encode(value), to: draft)
    guard rename(draft, file) == 0 else { throw PrivateFile.Failure("cannot write \(file): \(errorText(errno))") }
  }
}

/// Reads a replica's state again only when it has changed: there may be thousands, each looked at every second.
struct StateReader: Sendable {
  private struct Stamp: Equatable {
    var inode: UInt64
    var size: Int
    var seconds: Int
    var nanoseconds: Int
  }

  private var stamp: Stamp?
  private(set) var state: ReplicaState?
  /// Something else was read than the last time.
  private(set) var hasChanged = false

  mutating func read(_ folder: ReplicaFolder) -> ReplicaState? {
    var facts = stat()
    guard stat(folder.state, &facts) == 0 else {
      hasChanged = state != nil
      (stamp, state) = (nil, nil)
      return nil
    }
    let stamp = Stamp(
      inode: UInt64(facts.st_ino), size: Int(facts.st_size), seconds: facts.st_mtim.tv_sec,
      nanoseconds: facts.st_mtim.tv_nsec)
    hasChanged = stamp != self.stamp
    if hasChanged {
      state = folder.readState()
      // A file system's clock ticks slowly: what has just been written may be written again at the same time.
      self.stamp = time(nil) - stamp.seconds > 1 && state != nil ? stamp : nil
    }
    return state
  }
}

package enum ReplicaStage: String, Codable, Hashable, Sendable {
  case setup
  case run
}

/// What the shim has to do. Holds secrets: the file is readable by its owner alone.
package struct ReplicaOrder: Codable, Hashable, Sendable {
  package struct Variable: Codable, Hashable, Sendable {
    package var name: String
    package var value: String
    /// Its value is shown nowhere.
    package var isSecret: Bool

    package init(_ name: String, _ value: String, isSecret: Bool = false) {
      self.name = name
      self.value = value
      self.isSecret = isSecret
    }
  }

  package struct Mount: Codable, Hashable, Sendable {
    /// What was staged.
    package var source: String
    /// Below the replica's home.
    package var destination: String
  }

  /// How much of a GPU belongs to this replica.
  package struct GpuShare: Codable, Hashable, Sendable {
    package var index: Int
    package var name: String
    /// Above 0, at most 1.
    package var share: Double
  }

  package enum Addressing: String, Codable, Hashable, Sendable {
    /// An address of its own where the filter can be installed, else a port of its own.
    case automatic
    /// A port of its own.
    case ports
  }

  package var service: String
  package var id: Int
  package var version: Int
  /// In the environment of every process of this replica, as SKYPILOT_REPLICA_MARK, so that leftovers can be found.
  package var mark: String
  /// The port that takes traffic and probes.
  package var port: Int
  package var setup: String?
  package var run: String?
  /// `envs` and `secrets` of the service file.
  package var variables: [Variable]
  package var gpus: [GpuShare]
  /// What SKYPILOT_NUM_GPUS_PER_NODE says.
  package var gpusPerNode: Int
  /// This machine has GPUs, so that a replica that asked for none must be kept from them.
  package var hidesOtherGpus: Bool
  /// What was staged as workdir; nil: the service has none.
  package var workdir: String?
  package var mounts: [Mount]
  /// Replicas of one service install into the same home, so only one of them does at a time.
  package var setupLock: String
  /// Not shown in the replica's home.
  package var stateFolder: String
  package var addressing: Addressing
  /// Seconds between SIGTERM and SIGKILL.
  package var grace: Double
  package var chosen: ResourceSpec
}

/// Where the replica stands. Written at every step.
package struct ReplicaState: Codable, Hashable, Sendable {
  //   preparing ──▶ settingUp ──▶ running ──▶ succeeded
  //       │             └─────────────┴─────▶ failed
  //       └──▶ notStarted                        any ──▶ stopped
  package enum Phase: Codable, Hashable, Sendable {
    /// Nothing of the user's has begun.
    case preparing(detail: String)
    case settingUp
    case running
    /// `run` ended well; what it left in the background may serve on.
    case succeeded
    case failed(reason: String)
    /// The user's commands could not be started at all.
    case notStarted(reason: String)
    /// Somebody asked for its end.
    case stopped
  }

  package enum Addressing: Codable, Hashable, Sendable {
    /// The replica binds on an address of its own.
    case ownAddress
    /// It has to take the port in SKYPILOT_SERVE_REPLICA_PORT; why.
    case ownPort(reason: String)
  }

  /// Of the guard, which ends last.
  package var guardPid: Int32
  package var guardStart: UInt64
  package var shimPid: Int32
  package var shimStart: UInt64
  package var phase: Phase
  /// `127.72.3.9`; nil: not chosen yet.
  package var address: String?
  package var port: Int
  package var addressing: Addressing?
  package var startedAt: Double
  package var setUpAt: Double?
  package var runAt: Double?
  package var endedAt: Double?
  /// Of `setup` where that failed, else of `run`: 0...255, or 128 + the signal that killed it.
  package var exitStatus: Int32?
}

func errorText(_ code: Int32) -> String { String(cString: strerror(code)) }
