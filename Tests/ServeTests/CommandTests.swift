// The commands as people type them, with nothing between them and the replicas that is not the product.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite(.enabled(if: Places.hasCurl))
  struct Commands {
    private func sky(_ home: ServeHome, _ arguments: String...) throws -> Outcome {
      try run(Places.program("sky"), arguments, environment: home.environment, folder: Places.packageRoot)
    }

    @Test func theFirstTutorial() throws {
      let home = try ServeHome()
      // The first command starts the controller.
      home.killController()
      let up = try sky(home, "serve", "up", "-y", "-n", "hello", "examples/hello-sky-serve.yaml")
      #expect(up.exit == .code(0) && up.output.contains("Service is spinning up"), "\(up) \(home.logs)")
      try home.awaitSettled("hello", 2)
      let endpoint = try sky(home, "serve", "status", "--endpoint", "hello").output
        .trimmingCharacters(in: .whitespacesAndNewlines)
      #expect(try curl([endpoint]).output.contains("replica "), "\(endpoint) \(home.logs)")
      let status = try sky(home, "serve", "status")
      #expect(status.output.contains("2/2") && status.output.contains(endpoint), "\(status)")
      try home.await("the replica's log") {
        try sky(home, "serve", "logs", "hello", "1", "--no-follow").output.contains("Serving HTTP on")
      }
      // The line is written a moment after the response.
      try home.await("the request in the access log") {
        try sky(home, "serve", "logs", "hello", "--load-balancer", "--no-follow").output.contains("method=GET")
      }
      #expect(try sky(home, "serve", "logs", "hello", "--controller", "--no-follow").output.contains("READY"))
      let update = try sky(home, "serve", "update", "-y", "hello", "examples/hello-sky-serve.yaml")
      #expect(update.exit == .code(0), "\(update)")
      try home.awaitSettled("hello", 2)
      #expect(try home.service("hello").version == 2)
      let down = try sky(home, "serve", "down", "-y", "hello")
      #expect(down.output.contains("Service 'hello' is scheduled to be terminated."), "\(down)")
      try home.await("gone") { try home.services().isEmpty }
    }
  }
}
