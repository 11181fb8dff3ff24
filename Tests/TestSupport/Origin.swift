// A replica that does what a test tells it: a thread per connection runs the test's script. Everything it received is
// kept.

import Foundation

package final class Origin: @unchecked Sendable {
  package typealias Script = @Sendable (Visit) throws -> Void

  package private(set) var listener: Listener
  package var address: Address { listener.address }
  private let state = Shared(State())
  private var acceptor: Event?
  private let script: Script

  private struct State {
    var requests: [Request] = []
    var opened = 0
    var visits: [ObjectIdentifier: Visit] = [:]
    var problems: [String] = []
  }

  /// One connection to the origin.
  package final class Visit: @unchecked Sendable {
    package let wire: Wire
    /// 0, 1, ... in the order they came.
    package let number: Int
    private unowned let origin: Origin

    fileprivate init(_ wire: Wire, _ number: Int, _ origin: Origin) {
      self.wire = wire
      self.number = number
      self.origin = origin
    }

    /// The next whole request, noted; nil: the proxy closed the connection.
    package func request(deadline: Double = 60) throws -> Request? {
      let request = try wire.readRequest(deadline: deadline)
      if let request { origin.note(request) }
      return request
    }

    /// The next request's head, noted; its body is left on the wire.
    package func head(deadline: Double = 60) throws -> Request? {
      let request = try wire.readRequestHead(deadline: deadline)
      if let request { origin.note(request) }
      return request
    }

    package func send(_ text: String) throws { try wire.send(text) }
  }

  /// - Parameters:
  ///   - script: what to do with one connection; it is closed when the script ends. A script that throws notes a problem.
  ///   - receiveBuffer: bytes the kernel may hold for each connection.
  package init(
    on address: Address = .ipv4("127.0.0.1", 0), receiveBuffer: Int32? = nil, script: @escaping Script
  ) throws {
    self.script = script
    listener = try Listener(address, receiveBuffer: receiveBuffer)
    startAccepting()
  }

  /// Answers every request, over connections that are kept.
  package static func answering(
    on address: Address = .ipv4("127.0.0.1", 0), _ answer: @escaping @Sendable (Request) -> String
  ) throws -> Origin {
    try Origin(on: address) { visit in
      while let request = try visit.request() {
        try visit.send(answer(request))
        if request.version == "HTTP/1.0" { return }
      }
    }
  }

  /// Answers every request with its own name, method, target and body.
  package static func named(_ name: String) throws -> Origin {
    try answering { responseText("\(name) \($0.method) \($0.target) \($0.text)") }
  }

  deinit { stop() }

  private func startAccepting() {
    let ended = Event()
    acceptor = ended
    let listener = listener
    thread("origin") { [weak self] in
      while let wire = listener.accept() {
        guard let self else { break }
        self.serve(wire)
      }
      ended.happen()
    }
  }

  private func serve(_ wire: Wire) {
    let visit = state.with { state in
      let visit = Visit(wire, state.opened, self)
      state.opened += 1
      state.visits[ObjectIdentifier(visit)] = visit
      return visit
    }
    thread("visit") { [self] in
      do { try script(visit) } catch { state.with { $0.problems.append("\(error)") } }
      state.with { $0.visits[ObjectIdentifier(visit)] = nil }
      wire.close()
    }
  }

  private func note(_ request: Request) { state.with { $0.requests.append(request) } }

  /// Everything received, in the order it was complete.
  package var requests: [Request] { state.with { $0.requests } }
  package var lastRequest: Request? { requests.last }
  /// Connections ever accepted.
  package var opened: Int { state.with { $0.opened } }
  /// Connections whose script still runs.
  package var open: Int { state.with { $0.visits.count } }
  /// What scripts threw.
  package var problems: [String] { state.with { $0.problems } }

  /// Connections are refused from now on; those that are open live on.
  package func refuse() {
    listener.interrupt()
    acceptor?.wait()
    listener.stop()
  }

  /// Listens again at the same address.
  package func listenAgain() throws {
    let address = address
    let isBack = eventually {
      listener = try Listener(address)
      return true
    }
    guard isBack else { throw TestFailure("cannot listen on \(address) again") }
    startAccepting()
  }

  /// Cuts every open connection.
  package func cutConnections() { state.with { for visit in $0.visits.values { visit.wire.cutOff() } } }

  package func stop() {
    refuse()
    cutConnections()
    // The scripts hold the origin: they are over soon.
    _ = eventually { open == 0 }
  }
}
