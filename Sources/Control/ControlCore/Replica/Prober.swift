// Asks one replica over and over whether it can serve. A task of its own for each: one that hangs delays no other.
//
//   just launched, or no longer ready: after a quarter of the time it has been so, from 0.2 s up to the interval;
//   ready: every interval; and at once when somebody has reason to ask (the proxy was refused a connection)
//
// The Controller starts one for each order of a plan and ends it when a plan no longer has it.

import Foundation
import ProxyWire

package struct ProbeOutcome: Hashable, Sendable {
  package var ok: Bool
  /// `no answer on 127.72.3.9:8080: connection refused`, `status 503`, …; empty where it is ok.
  package var detail: String

  package init(ok: Bool, detail: String = "") {
    self.ok = ok
    self.detail = detail
  }
}

/// One question to one replica.
package protocol ProbeTransport: Sendable {
  /// Takes no longer than the order's timeout.
  func probe(_ order: ProbeOrder) async -> ProbeOutcome
}

final class ReplicaProber: Sendable {
  /// Seconds before the second question to a replica that is not ready; the waits that follow grow with the time it has
  /// not been.
  static let firstWait = 0.2
  static let waitPart = 0.25
  /// Seconds between the end of one question and the next, however short the interval.
  static let leastPause = 0.05

  let order: ProbeOrder
  private let alarm = Alarm()
  private let task: Task<Void, Never>

  init(
    _ order: ProbeOrder, _ transport: any ProbeTransport, _ clock: any ControlClock,
    deliver: @escaping @Sendable (ProbeFact) async -> Void
  ) {
    self.order = order
    let alarm = alarm
    task = Task {
      var wasOk: Bool?
      var since = clock.now
      while !Task.isCancelled {
        let begun = clock.now
        let outcome = await transport.probe(order)
        if Task.isCancelled { return }
        let now = clock.now
        await deliver(ProbeFact(at: now, ok: outcome.ok, detail: outcome.detail))
        if outcome.ok != wasOk {
          since = begun
          wasOk = outcome.ok
        }
        let wait =
          outcome.ok ? order.interval : min(order.interval, max(Self.firstWait, (now - since) * Self.waitPart))
        await alarm.wait(until: max(begun + wait, now + Self.leastPause), clock)
      }
    }
  }

  func askNow() { alarm.ring() }

  func end() { task.cancel() }

  deinit { task.cancel() }
}

/// Over HTTP, as SkyServe does: only 200 is a success, a body is not looked at.
package struct HttpProbe: ProbeTransport {
  /// Redirects that are followed, and only on the replica itself: whether another host answers says nothing of it.
  private static let redirectsMax = 5
  /// Bytes of an answer that are read for politeness, so that the replica does not log a client that left; what is
  /// longer is cut.
  private static let bodyMax = 1 << 20

  package init() {}

  package func probe(_ order: ProbeOrder) async -> ProbeOutcome {
    let endpoint: Endpoint
    do throws(EndpointError) { endpoint = try Endpoint.parse(order.address) } catch {
      return ProbeOutcome(ok: false, detail: error.reason)
    }
    var request = HttpRequest("GET", order.probe.path)
    request.fields = (order.probe.headers ?? []).map { HttpField($0.name, $0.value) }
    if let data = order.probe.postData {
      request.method = "POST"
      request.body = Data(data.json().utf8)
      request.setDefault("Content-Type", "application/json")
    }
    request.setDefault("User-Agent", "sky-controller")
    request.setDefault("Accept", "*/*")
    let timeout = Timeout(order.probe.timeout.value)
    for _ in 0...Self.redirectsMax {
      let left = timeout.end.map { ContinuousClock.now.duration(to: $0) / .seconds(1) } ?? timeout.seconds
      if left <= 0 { return ProbeOutcome(ok: false, detail: "no answer on \(order.address): \(timeout.error)") }
      let reply: HttpReply
      do throws(HttpError) {
        let (head, body) = try await HttpClient.stream(request, to: endpoint, connectTimeout: left, silence: left)
        reply = head
        Task { await Self.finish(body) }
      } catch {
        // Redirects take their part of the time: the whole of it is what was asked for.
        let error = error.kind == .timeout ? timeout.error : error
        let isSilent = [.connect, .timeout, .closed].contains(error.kind)
        return ProbeOutcome(ok: false, detail: (isSilent ? "no answer on \(order.address): " : "") + error.description)
      }
      if reply.status == 200 { return ProbeOutcome(ok: true) }
      guard [301, 302, 303, 307, 308].contains(reply.status), let location = reply.field("Location") else {
        return ProbeOutcome(ok: false, detail: "\(Self.shown(request)): status \(reply.status)")
      }
      guard let target = Self.target(of: location, from: request.target, on: endpoint) else {
        return ProbeOutcome(
          ok: false, detail: "\(Self.shown(request)): status \(reply.status), redirected away from the replica")
      }
      request.target = target
      if reply.status <= 303, request.method == "POST" {
        request.method = "GET"
        request.body = Data()
      }
    }
    return ProbeOutcome(ok: false, detail: "more than \(Self.redirectsMax) redirects")
  }

  /// What was asked, without what may be secret.
  private static func shown(_ request: HttpRequest) -> String {
    "\(request.method) \(request.target.prefix { $0 != "?" })"
  }

  private static func finish(_ body: AsyncThrowingStream<[UInt8], any Error>) async {
    var count = 0
    do {
      for try await piece in body {
        count += piece.count
        if count > bodyMax { return }
      }
    } catch {
      // Whatever it was, the answer counts by its head.
    }
  }

  /// The target a Location names, if it is on the same host and port.
  static func target(of location: String, from base: String, on endpoint: Endpoint) -> String? {
    var rest = Substring(location.prefix { $0 != "#" })
    if rest.hasPrefix("//") { rest = "http:" + rest }
    if let colon = rest.firstIndex(of: ":"), rest[..<colon].allSatisfy({ $0.isLetter }) {
      guard rest.lowercased().hasPrefix("http://") else { return nil }
      rest = rest.dropFirst("http://".count)
      let authority = rest.prefix { $0 != "/" && $0 != "?" }
      rest = rest[authority.endIndex...]
      guard endpoint.isMeant(by: String(authority)) else { return nil }
      if rest.first != "/" { rest = "/" + rest }
      return String(rest)
    }
    if rest.hasPrefix("/") { return String(rest) }
    let path = base.prefix { $0 != "?" }
    if rest.hasPrefix("?") { return path + String(rest) }
    return String(path[...(path.lastIndex(of: "/") ?? path.startIndex)]) + rest
  }
}

extension Endpoint {
  /// `127.0.64.1:8080`, or without the port where it is 80. A replica that listens on its loopback address may well
  /// call itself `localhost`.
  fileprivate func isMeant(by authority: String) -> Bool {
    let text = authority.lowercased()
    let shown = description.lowercased()
    if text == shown { return true }
    guard let port else { return false }
    if port == 80, text + ":80" == shown { return true }
    guard isLoopback else { return false }
    return ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"].contains { "\($0):\(port)" == text }
  }
}

extension HttpRequest {
  /// A field the user has not given.
  fileprivate mutating func setDefault(_ name: String, _ value: String) {
    if field(name) == nil { fields.append(HttpField(name, value)) }
  }
}
