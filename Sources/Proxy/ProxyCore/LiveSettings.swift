// The settings that can change while the proxy serves, and the one place where they do: asked by the admin thread (GET
// and PUT /v1/settings) and by main. The workers are told, never asked, and never wait.

import ProxyWire
import Synchronization

/// Why a change was not made. Nothing has changed then.
package struct SettingsRefusal: Error, Equatable, Sendable {
  package let text: String
  package init(_ text: String) { self.text = text }
}

package final class LiveSettings: @unchecked Sendable {
  /// The engine's configuration points to texts that live as long as the process.
  private struct State: @unchecked Sendable {
    var settings: ProxySettings
    var engine: EngineConfig
    /// Seconds since 1970; nil without TLS.
    var certificateExpiresAt: Int64?
  }
  private let state: Mutex<State>
  private let tls: TlsFront
  /// Hands deadlines to every worker.
  private let tellWorkers: (EngineConfig) -> Void

  /// - Parameter tellWorkers: called with one change at a time.
  package init(
    _ config: ProxyConfig, engine: EngineConfig, tls: TlsFront, tellWorkers: @escaping (EngineConfig) -> Void
  ) {
    let settings = ProxySettings(
      tls: .off,
      timeoutsMs: Dictionary(
        uniqueKeysWithValues: ProxySettings.Timeout.allCases.map { ($0, milliseconds(config[keyPath: $0.flag])) }))
    state = Mutex(State(settings: settings, engine: engine))
    self.tls = tls
    self.tellWorkers = tellWorkers
    tls.setDeadlines(handshakeNs: engine.headTimeoutNs, stallNs: engine.streamTimeoutNs)
  }

  package var inForce: ProxySettings { state.withLock { $0.settings } }
  package var certificateExpiresAt: Int64? { state.withLock { $0.certificateExpiresAt } }

  /// Nanoseconds.
  package var drainTimeoutNs: UInt64 { (inForce.timeoutsMs[.drain] ?? 0) * 1_000_000 }

  /// Makes all of a change or none of it, and says what is in force then. Deadlines that are already running keep the
  /// length they began with, connections the certificate they began with.
  package func change(_ change: ProxySettings) throws(SettingsRefusal) -> ProxySettings {
    try state.withLock { state throws(SettingsRefusal) in
      // What can fail comes first.
      var context: TlsContext?
      if case .on(let cert, let key) = change.tls {
        do throws(TlsRefusal) { context = try makeReady(cert: cert, key: key) } catch {
          throw SettingsRefusal("tls.\(error.file.rawValue): \(error.text)")
        }
      }
      for (timeout, ms) in change.timeoutsMs { state.engine.set(timeout, ns: ms * 1_000_000) }
      if !change.timeoutsMs.isEmpty {
        tellWorkers(state.engine)
        tls.setDeadlines(handshakeNs: state.engine.headTimeoutNs, stallNs: state.engine.streamTimeoutNs)
      }
      if let context {
        use(context, &state)
      } else if change.tls == .off {
        tls.switchOff()
        state.certificateExpiresAt = nil
        if state.settings.tls != .off { say("tls off") }
      }
      state.settings = state.settings.changed(by: change)
      if context != nil { announce(state) }
      return state.settings
    }
  }

  /// Before the workers start: with the files the flags name.
  package func beginTls(cert: String, key: String) throws(TlsRefusal) {
    try state.withLock { state throws(TlsRefusal) in
      use(try makeReady(cert: cert, key: key), &state)
      state.settings.tls = .on(cert: cert, key: key)
      announce(state)
    }
  }

  /// The files in use may have new contents. What cannot be used is said, and the old certificate stays.
  package func rereadCertificate() {
    state.withLock { state in
      guard case .on(let cert, let key) = state.settings.tls else { return }
      do throws(TlsRefusal) {
        use(try makeReady(cert: cert, key: key), &state)
        announce(state)
      } catch {
        say("tls \(error.file.rawValue) not taken, the one before stays: \(error.text)")
      }
    }
  }

  private func makeReady(cert: String, key: String) throws(TlsRefusal) -> TlsContext {
    let context = try TlsContext(cert: cert, key: key)
    do throws(ServerError) { try tls.prepare() } catch { throw TlsRefusal(file: .cert, text: error.message) }
    return context
  }

  private func use(_ context: TlsContext, _ state: inout State) {
    tls.switchOn(context)
    state.certificateExpiresAt = context.expiresAt
  }

  private func announce(_ state: State) {
    guard case .on(let cert, _) = state.settings.tls, let expiresAt = state.certificateExpiresAt else { return }
    let left = expiresAt - Int64(wallNanoseconds() / 1_000_000_000)
    let standing = left < 0 ? "warning=\"it has expired; clients will refuse it\"" : "days_left=\(left / 86_400)"
    say("tls certificate=\(cert) \(standing)")
  }
}

/// Rounded up: 0 has a meaning of its own.
private func milliseconds(_ ns: UInt64) -> UInt64 { (ns + 999_999) / 1_000_000 }

extension ProxySettings.Timeout {
  /// Where the configuration of the start keeps it, in nanoseconds.
  var flag: WritableKeyPath<ProxyConfig, UInt64> & Sendable {
    switch self {
    case .queue: \.queueTimeoutNs
    case .head: \.headTimeoutNs
    case .idle: \.idleTimeoutNs
    case .connect: \.connectTimeoutNs
    case .response: \.responseTimeoutNs
    case .stream: \.streamTimeoutNs
    case .tunnel: \.tunnelTimeoutNs
    case .drain: \.drainTimeoutNs
    case .poolIdle: \.poolIdleTimeoutNs
    }
  }
}

extension EngineConfig {
  /// The engine's way to say that there is no deadline: 73 years, far enough from overflow when added to a clock.
  private static let never: UInt64 = 1 << 61

  /// `ns` as the user means it: 0 is "no deadline" where that is allowed.
  package mutating func set(_ timeout: ProxySettings.Timeout, ns: UInt64) {
    let orNever = ns == 0 ? EngineConfig.never : ns
    switch timeout {
    case .queue: queueTimeoutNs = ns
    case .head: headTimeoutNs = orNever
    case .idle: idleTimeoutNs = orNever
    case .connect: connectTimeoutNs = ns
    case .response: responseTimeoutNs = orNever
    case .stream: streamTimeoutNs = orNever
    case .tunnel: tunnelTimeoutNs = orNever
    case .drain: break  // main's business
    case .poolIdle: poolIdleNs = ns
    }
  }
}
