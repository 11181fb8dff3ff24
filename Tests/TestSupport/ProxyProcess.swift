// sky-proxy as a user starts it, on a port the kernel chooses.

import Foundation

package final class ProxyProcess: Sendable {
  package let child: ChildProcess
  /// Where clients connect; the first of several.
  package let address: Address
  package let addresses: [Address]
  private let folder: TemporaryFolder
  package let adminPath: String?

  /// - Parameters:
  ///   - flags: after --listen, --admin, --workers and --replica; a later flag does not replace an earlier one, so those
  ///     have parameters of their own.
  ///   - workers: one by default, so that what a test sees does not depend on which worker got a connection.
  package init(
    replicas: [String], flags: [String] = [], listen: [String] = ["127.0.0.1:0"], workers: Int = 1, admin: Bool = true,
    program: String? = nil, environment: [String: String] = [:]
  ) throws {
    folder = try TemporaryFolder()
    adminPath = admin ? folder.file("admin.sock") : nil
    var arguments = listen.flatMap { ["--listen", $0] } + ["--workers", "\(workers)"]
    if let adminPath { arguments += ["--admin", "unix:" + adminPath] }
    arguments += replicas.flatMap { ["--replica", $0] }
    child = try ChildProcess(program ?? Places.program("sky-proxy"), arguments + flags, environment: environment)
    do {
      _ = try child.line { $0.contains(" ready ") }
    } catch {
      child.end()
      throw error
    }
    addresses = child.standardError.split(separator: "\n").compactMap { line in
      line.contains("listening address=") ? Address(line.split(separator: "=", maxSplits: 1)[1]) : nil
    }
    guard let first = addresses.first else { throw TestFailure("no address in: \(child.standardError)") }
    address = first
  }

  package convenience init(
    _ origins: [Origin], flags: [String] = [], workers: Int = 1, program: String? = nil
  ) throws {
    try self.init(replicas: origins.map { "\($0.address)" }, flags: flags, workers: workers, program: program)
  }

  deinit { child.end() }

  package var url: String { "http://\(address)" }
  package var log: String { child.standardError }

  package func connect(receiveBuffer: Int32? = nil, sendBuffer: Int32? = nil) throws -> Wire {
    try Wire(to: address, receiveBuffer: receiveBuffer, sendBuffer: sendBuffer)
  }

  /// One request on a connection of its own.
  package func ask(
    _ method: String = "GET", _ target: String = "/", fields: [String] = [], body: String? = nil,
    deadline: Double = patience
  ) throws -> Response {
    let wire = try connect()
    try wire.send(requestText(method, target, fields: fields + ["Connection: close"], body: body))
    while true {
      let response = try wire.readResponse(to: method, deadline: deadline)
      if response.status >= 200 { return response }
    }
  }

  // MARK: The admin API

  package func openAdmin() throws -> Wire {
    guard let adminPath else { throw TestFailure("started without an admin API") }
    return try Wire(to: .unix(adminPath))
  }

  package func askAdmin(_ method: String = "GET", _ target: String, body: String? = nil) throws -> Response {
    let wire = try openAdmin()
    try wire.send(requestText(method, target, body: body, host: "admin"))
    return try wire.readResponse(to: method)
  }

  /// A number of /metrics, such as `skyproxy_exchanges_open`; labels are part of the name.
  package func metric(_ name: String) throws -> Double {
    let page = try askAdmin("GET", "/metrics").text
    for line in page.split(separator: "\n") where line.hasPrefix(name + " ") {
      if let value = Double(line.dropFirst(name.count + 1)) { return value }
    }
    throw TestFailure("no \(name) in /metrics")
  }

  /// The list of GET /v1/replicas.
  package func replicas() throws -> [[String: Any]] {
    let response = try askAdmin("GET", "/v1/replicas")
    guard let list = response.json?["replicas"] as? [[String: Any]] else {
      throw TestFailure("no list of replicas: \(response.text)")
    }
    return list
  }

  package func replica(_ id: String) throws -> [String: Any] {
    guard let replica = try replicas().first(where: { $0["id"] as? String == id }) else {
      throw TestFailure("no replica \(id)")
    }
    return replica
  }

  package func inFlight() throws -> Int {
    try replicas().reduce(0) { $0 + ($1["in_flight"] as? Int ?? 0) }
  }

  /// Puts a list of replicas in force.
  package func put(
    version: Int, _ entries: [ReplicaEntry], further: [String: Any] = [:]
  ) throws -> Response {
    var object: [String: Any] = ["version": version, "replicas": entries.map(\.object)]
    object.merge(further) { $1 }
    let body = try JSONSerialization.data(withJSONObject: object)
    return try askAdmin("PUT", "/v1/replicas", body: String(decoding: body, as: UTF8.self))
  }

  package struct ReplicaEntry: Sendable {
    package var id: String
    package var address: Address
    package var generation = 1
    package var state = "ready"

    package init(_ id: String, _ address: Address, generation: Int = 1, state: String = "ready") {
      self.id = id
      self.address = address
      self.generation = generation
      self.state = state
    }

    fileprivate var object: [String: Any] {
      ["id": id, "generation": generation, "address": "\(address)", "state": state]
    }
  }

  // MARK: What must hold after every test

  /// Nothing is open, nothing waits, and the counts agree: no exchange was lost or counted twice.
  package func problemsWhenQuiet() -> String? {
    if !child.isRunning { return "sky-proxy has died: \(log)" }
    var last = ""
    let isQuiet = eventually {
      let names = ["skyproxy_exchanges_open", "skyproxy_queue_waiting", "skyproxy_exchange_drift"]
      let values = try names.map(metric)
      let inFlight = try inFlight()
      last = "open, waiting, drift: \(values); in flight: \(inFlight)"
      return values.allSatisfy { $0 == 0 } && inFlight == 0
    }
    return isQuiet ? nil : "not quiet: \(last)"
  }
}

/// Clients that ask one thing over and over, over connections that are kept.
package final class Hammer: @unchecked Sendable {
  private let stopping = Event()
  private let state = Shared((answered: 0, slowest: 0.0, problems: [String]()))
  private let running: Shared<Int>

  /// - Parameter isRight: whether a response is what it should be.
  package init(
    _ address: Address, clients: Int, request: String = requestText(), pause: Double = 0,
    isRight: @escaping @Sendable (Response) -> Bool = { $0.status == 200 && $0.isWhole }
  ) {
    running = Shared(clients)
    for _ in 0..<clients {
      thread("hammer") { [self] in
        var wire: Wire?
        while !stopping.hasHappened {
          do {
            let start = monotonic()
            let open = try wire ?? Wire(to: address)
            wire = open
            try open.send(request)
            let response = try open.readResponse()
            let seconds = monotonic() - start
            state.with {
              $0.answered += 1
              $0.slowest = max($0.slowest, seconds)
              if !isRight(response) { $0.problems.append("\(response.status) \(response.text)") }
            }
            if response.fields["connection"]?.lowercased() == "close" { wire = nil }
          } catch {
            wire = nil
            state.with { $0.problems.append("\(error)") }
          }
          if pause > 0 { stopping.wait(pause) }
        }
        running.with { $0 -= 1 }
      }
    }
  }

  package var answered: Int { state.value.answered }
  /// Seconds.
  package var slowest: Double { state.value.slowest }
  package var problems: [String] { state.value.problems }

  package func forgetSlowest() { state.with { $0.slowest = 0 } }

  package func stop() {
    stopping.happen()
    _ = eventually { running.value == 0 }
  }
}
