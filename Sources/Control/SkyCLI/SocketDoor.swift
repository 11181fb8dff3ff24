// The way to the controller in production: its socket, and a new controller where one is due.

import ControlCore
import Foundation

struct SocketDoor: ControllerDoor {
  let paths: Paths
  let environment: [String: String]
  let slow: SlowAnswer

  func open(_ need: ControllerNeed) async throws(ApiError) -> (any ControllerCalls)? {
    switch need {
    case .never: return try await running()
    case .ifServices:
      if let client = try await running() { return client }
      // A service's folder is made before its record and removed after it.
      let services = (try? FileManager.default.contentsOfDirectory(atPath: paths.services)) ?? []
      if services.isEmpty { return nil }
    case .always: break
    }
    let client = ApiClient(paths: paths, startsController: true, environment: environment, slow: slow)
    try await client.start()
    return client
  }

  private func running() async throws(ApiError) -> ApiClient? {
    let client = ApiClient(paths: paths, startsController: false, environment: environment, slow: slow)
    do throws(ApiError) { _ = try await client.health() } catch {
      if error.kind == .notRunning { return nil }
      throw error
    }
    return client
  }
}
