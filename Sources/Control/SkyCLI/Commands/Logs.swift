// sky serve logs: what a replica, the controller or the load balancer wrote; followed, or copied into files.

import ControlCore
import Foundation

enum Logs {
  static let command = Command(
    "logs", "Tail or sync down logs of a service.",
    text: [
      "Of one target: a replica by its id, --controller, or --load-balancer. With --sync-down of several, or of all.",
      "Examples:",
      "  sky serve logs web 1\n  sky serve logs web --controller\n  sky serve logs web --load-balancer --no-follow\n"
        + "  sky serve logs web 1 --tail 100\n  sky serve logs web --sync-down\n  sky serve logs web 1 3 --controller --sync-down",
    ],
    arguments: [
      Argument("SERVICE_NAME", completion: .services),
      Argument("REPLICA_IDS", .any, isWhole: true, completion: .replicas),
    ],
    flags: [.follow, .controller, .loadBalancer, .syncDown, .tail], action: run)

  /// A log that has ended says so; one that breaks off has lost who sent it.
  private static let controllerEnded = Stop.failure("the controller has ended; run the command again")

  static func run(_ call: Call, _ session: Session) async throws {
    let terminal = session.terminal
    let name = call.argument("SERVICE_NAME")
    var targets: [LogTarget] = []
    if call.isOn(.controller) { targets.append(.controller) }
    if call.isOn(.loadBalancer) { targets.append(.loadBalancer) }
    var ids: [Int] = []
    for id in call.all("REPLICA_IDS").compactMap({ Int($0) }) where !ids.contains(id) { ids.append(id) }
    targets += ids.map(LogTarget.replica)
    let tail = call.whole(.tail)
    if let tail, tail < 0 { throw Stop.usage("--tail must be a non-negative integer.") }
    let copies = call.isOn(.syncDown)
    if !copies { try checkOneTarget(targets, ids) }
    if tail != nil, call.isOn(.follow), !copies {
      terminal.note("--tail and --follow cannot be used together. Changed the mode to --no-follow.")
    }
    let follows = tail == nil && !copies && call.isOn(.follow, default: true)

    let service: ServiceStatusReport
    let controller = try await session.controller(of: name)
    // A glob is not a name here.
    let reply = try await controller.status([name])
    guard let found = reply.services.first(where: { $0.name == name }) else {
      throw Stop.noService(name, similar: reply.similar[name])
    }
    service = found
    if copies {
      try await copy(service, targets, tail: tail, controller, session)
      return
    }
    if service.status == .controllerInit, targets != [.controller] {
      throw Stop.failure("Service '\(name)' is still initializing its controller. Please try again later.")
    }
    do {
      for try await bytes in try await controller.logs(name, targets[0], follow: follows, tail: tail) {
        terminal.write(bytes)
      }
    } catch let error as HttpError where error.kind == .closed {
      throw controllerEnded
    } catch let error as ApiError {
      if case .replica(let id) = targets[0], !error.isNotFound {
        throw Stop.failure("Failed to stream logs for replica \(id).\n\(error.description)")
      }
      throw error
    }
  }

  private static func checkOneTarget(_ targets: [LogTarget], _ ids: [Int]) throws(Stop) {
    if targets.isEmpty { throw .usage("Specify a target to tail: --controller, --load-balancer, or a REPLICA_ID.") }
    if targets.count == 1 { return }
    if ids.count == targets.count {
      throw .usage(
        "Can only tail logs from a single replica at a time. Provide exactly one REPLICA_ID or use --sync-down to "
          + "download logs from multiple replicas.")
    }
    throw .usage(
      ids.isEmpty
        ? "Can only tail logs from one target at a time. Use --sync-down to download logs from multiple sources."
        : "Can only tail logs from one target at a time (controller, load balancer, or a single replica). Use "
          + "--sync-down to download logs from multiple sources.")
  }

  // MARK: - --sync-down

  private static func copy(
    _ service: ServiceStatusReport, _ given: [LogTarget], tail: Int?, _ controller: any ControllerCalls,
    _ session: Session
  ) async throws {
    let terminal = session.terminal
    let known = service.replicaInfo.map(\.replicaId)
    let targets = given.isEmpty ? [.controller, .loadBalancer] + known.map(LogTarget.replica) : given
    let folder = session.home + "/sky_logs/service/\(service.name)_\(timestamp(session.now()))"
    do {
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    } catch {
      throw Stop.failure("Cannot make the folder \(folder): \(error.localizedDescription)")
    }
    for target in targets {
      let file: String
      switch target {
      case .controller: file = "controller.log"
      case .loadBalancer: file = "load_balancer.log"
      case .replica(let id):
        if !known.contains(id) {
          terminal.note("Replica ID \(id) not found for \(service.name). Skipping...")
          continue
        }
        file = "replica-\(id).log"
      }
      // What replicas print may be private: 0600.
      guard
        FileManager.default.createFile(
          atPath: "\(folder)/\(file)", contents: nil, attributes: [.posixPermissions: 0o600]),
        let handle = FileHandle(forWritingAtPath: "\(folder)/\(file)")
      else { throw Stop.failure("Cannot write \(folder)/\(file).") }
      defer { try? handle.close() }
      do {
        for try await bytes in try await controller.logs(service.name, target, follow: false, tail: tail) {
          try handle.write(contentsOf: Data(bytes))
        }
      } catch let error as HttpError where error.kind == .closed {
        throw controllerEnded
      } catch let error as ApiError where error.isNotFound {
        terminal.note(error.description)
      }
    }
    terminal.print("Service \(service.name) logs: \(folder)")
  }

  /// `2026-01-31-12-00-59-123456`, local time.
  static func timestamp(_ time: Double) -> String {
    let parts = Calendar.current.dateComponents(
      [.year, .month, .day, .hour, .minute, .second], from: Date(timeIntervalSince1970: time.rounded(.down)))
    func digits(_ number: Int?, _ count: Int) -> String {
      let text = String(number ?? 0)
      return String(repeating: "0", count: max(0, count - text.count)) + text
    }
    let micros = Int(clamping: (time - time.rounded(.down)) * 1e6)
    return [
      digits(parts.year, 4), digits(parts.month, 2), digits(parts.day, 2), digits(parts.hour, 2),
      digits(parts.minute, 2), digits(parts.second, 2), digits(micros, 6),
    ].joined(separator: "-")
  }
}
