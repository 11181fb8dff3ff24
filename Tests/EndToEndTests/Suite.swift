// The proxy as its users meet it: the built program, real sockets, real clients. One test at a time: several measure
// time, and there may be two cores.

import Foundation
import TestSupport
import Testing

@Suite(.serialized)
enum EndToEnd {}

/// Starts sky-proxy before `origins`, runs `body`, and checks what must hold after every test: it has not died, no
/// exchange is left or was counted twice, no origin met anything it could not read, and SIGTERM ends it in order.
func withProxy(
  _ origins: [Origin], _ flags: String..., workers: Int = 1, location: SourceLocation = #_sourceLocation,
  body: (ProxyProcess) throws -> Void
) throws {
  let proxy = try ProxyProcess(origins, flags: flags, workers: workers)
  defer { for origin in origins { origin.stop() } }
  try check(proxy, location: location) { try body(proxy) }
  #expect(origins.flatMap(\.problems) == [], sourceLocation: location)
}

func check(
  _ proxy: ProxyProcess, location: SourceLocation = #_sourceLocation, body: () throws -> Void
) throws {
  defer { proxy.child.end() }
  try body()
  if let problem = proxy.problemsWhenQuiet() { Issue.record("\(problem)", sourceLocation: location) }
  proxy.child.signal(SIGTERM)
  #expect(proxy.child.waitForExit() == .code(0), "the end after SIGTERM: \(proxy.log)", sourceLocation: location)
}

/// An ordinary request gets its answer.
func expectServed(_ proxy: ProxyProcess, location: SourceLocation = #_sourceLocation) throws {
  let response = try proxy.ask()
  #expect(response.status == 200, "\(response.text)", sourceLocation: location)
}
