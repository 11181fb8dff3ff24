// What a command works with, besides its words: the terminal, the surroundings, and the way to the controller.

import ControlCore

package struct Session: Sendable {
  package var terminal: Terminal
  package var environment: [String: String]
  /// What relative paths are relative to. Absolute.
  package var folder: String
  package var paths: Paths
  package var door: any ControllerDoor
  /// This machine, for questions that need no controller.
  package var machine: @Sendable () throws -> any MachineCalls
  /// Seconds since 1970.
  package var now: @Sendable () -> Double
  package var random: @Sendable () -> UInt32

  package init(
    terminal: Terminal, environment: [String: String], folder: String, paths: Paths, door: any ControllerDoor,
    machine: @escaping @Sendable () throws -> any MachineCalls, now: @escaping @Sendable () -> Double,
    random: @escaping @Sendable () -> UInt32
  ) {
    self.terminal = terminal
    self.environment = environment
    self.folder = folder
    self.paths = paths
    self.door = door
    self.machine = machine
    self.now = now
    self.random = random
  }

  /// The user's folder, without a trailing slash.
  package var home: String {
    let home = environment["HOME"] ?? "/"
    return home.count > 1 && home.hasSuffix("/") ? String(home.dropLast()) : home
  }

  /// `~` and relative paths as absolute ones, without `.` and `..`.
  package func absolute(_ path: String) -> String {
    var full = path
    if path == "~" || path.hasPrefix("~/") {
      full = home + path.dropFirst()
    } else if !path.hasPrefix("/") {
      full = folder + "/" + path
    }
    var parts: [Substring] = []
    for part in full.split(separator: "/") where part != "." {
      if part == ".." { _ = parts.popLast() } else { parts.append(part) }
    }
    return "/" + parts.joined(separator: "/")
  }

  /// The controller, for commands about services that are thought to exist. nil: there are none.
  func services() async throws -> (any ControllerCalls)? { try await door.open(.ifServices) }

  /// The same for a command about one service, which then does not exist.
  func controller(of service: String) async throws -> any ControllerCalls {
    guard let controller = try await services() else { throw Stop.noService(service) }
    return controller
  }
}

/// How badly a command needs a controller.
package enum ControllerNeed: Sendable {
  /// Start one.
  case always
  /// Start one if services are recorded, as after a reboot.
  case ifServices
  /// Only one that answers at once; for what must not take time.
  case never
}

/// What a machine says of itself.
package protocol MachineCalls: Sendable {
  func describe() async -> LocalReply
  func offers(for task: TaskSpec) throws(InfraError) -> [Offer]
  func notes(for task: TaskSpec) -> [String]
}

extension LocalInfra: MachineCalls {}

extension Session {
  /// This machine as the controller sees it, or, while none runs, as it would see it.
  func describeMachine() async throws -> LocalReply {
    if let controller = try await door.open(.never) { return try await controller.local() }
    return try await machine().describe()
  }

  /// What a replica would run on. Starts nothing: the user has not said yes.
  func estimate(_ task: TaskSpec) async throws -> EstimateReply {
    if let controller = try await door.open(.never) {
      return try await controller.estimate(EstimateRequest(task: try TaskText(task)))
    }
    let machine = try machine()
    do throws(InfraError) {
      return EstimateReply(offers: try machine.offers(for: task), notes: machine.notes(for: task))
    } catch {
      throw Stop.failure(error.description)
    }
  }
}

package protocol ControllerDoor: Sendable {
  /// nil: none answers, and none is to be started.
  func open(_ need: ControllerNeed) async throws(ApiError) -> (any ControllerCalls)?
}

/// What the controller does for the command line; see ControlCore/Api/ApiMessages.
package protocol ControllerCalls: Sendable {
  func health() async throws(ApiError) -> HealthReply
  func estimate(_ request: EstimateRequest) async throws(ApiError) -> EstimateReply
  func up(_ request: UpRequest) async throws(ApiError) -> UpReply
  func status(_ names: [String]) async throws(ApiError) -> StatusReply
  func update(_ name: String, _ request: UpdateRequest) async throws(ApiError) -> UpdateReply
  func rollback(_ name: String) async throws(ApiError) -> UpdateReply
  func history(_ name: String) async throws(ApiError) -> HistoryReply
  func down(_ request: DownRequest) async throws(ApiError) -> DownReply
  func terminate(_ name: String, replica id: Int, _ request: TerminateRequest) async throws(ApiError) -> MessageReply
  func local() async throws(ApiError) -> LocalReply
  func logs(
    _ name: String, _ target: LogTarget, follow: Bool, tail: Int?
  ) async throws(ApiError) -> AsyncThrowingStream<[UInt8], any Error>
}

extension ApiClient: ControllerCalls {}

extension ApiError {
  var isNotFound: Bool { kind == .refused(404) }
  var isConflict: Bool { kind == .refused(409) }

  /// The controller is at fault, not what it was asked.
  var isBroken: Bool {
    switch kind {
    case .refused(let status): status >= 500
    case .connection: true
    case .notRunning, .cannotStart, .cancelled: false
    }
  }
}
