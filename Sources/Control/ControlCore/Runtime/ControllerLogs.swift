// Which files and lines make up a log, and until when something is written to it.

import Foundation

extension Controller {
  func logs(_ name: String, _ target: LogTarget) throws(CommandError) -> LogStream {
    guard state.services[name] != nil else { throw Commands.missing(name, state) }
    switch target {
    case .controller:
      // One log for all services; what is of none concerns all.
      let mine = Array(" service=\(name) ".utf8)
      let anyones = Array(" service=".utf8)
      return LogStream(
        pieces: [.file(parts.paths.controllerLog) { await self.state.services[name] == nil }],
        shows: { $0.firstRange(of: mine) != nil || $0.firstRange(of: anyones) == nil })
    case .loadBalancer:
      return LogStream(pieces: [.file(parts.paths.proxyLog(name)) { await self.state.services[name] == nil }])
    case .replica(let id): return try replicaLogs(name, id)
    }
  }

  private func replicaLogs(_ name: String, _ id: Int) throws(CommandError) -> LogStream {
    let launch = parts.paths.launchLog(name, id)
    let run = parts.paths.runLog(name, id)
    let files = FileManager.default
    if state.services[name]?.replicas[id] == nil, !files.fileExists(atPath: launch), !files.fileExists(atPath: run) {
      throw CommandError(
        .notFound,
        "Failed to find replica \(id). Please use `sky serve status [SERVICE_NAME]` to check all valid replica id.")
    }
    return LogStream(pieces: [
      .line("Start streaming logs for launching process of replica \(id)."),
      .file(launch) { await self.phase(name, id) != .launching },
      .line("Start streaming logs for task job of replica \(id)..."),
      .file(run) { await self.phase(name, id) == .over },
    ])
  }

  private enum Phase { case launching, running, over }

  private func phase(_ name: String, _ id: Int) -> Phase {
    guard let record = state.services[name]?.replicas[id] else { return .over }
    switch record.down {
    case .succeeded, .failed: return .over
    case nil, .scheduled, .running: break
    }
    switch record.launch {
    case .scheduled, .running: return .launching
    case .succeeded, .failed, .interrupted: return .running
    }
  }
}
