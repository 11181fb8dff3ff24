// A service's proxy, as the Controller uses it. One link per service, made when the service is first looked at and
// closed when it is gone; `ProxyHandle` is the real one, tests bring their own.

import ProxyWire

/// What a link finds out, in the order it happened.
package enum ProxyNews: Sendable {
  /// There is no process. `reason`: why it could not be started, for people.
  case absent(reason: String?)
  /// There is one that has not answered yet, or no longer does.
  case silent
  case reporting(version: UInt64, inFlight: [Int: Int])
  /// Why it does not take what it is told, for people; nil: it does again.
  case refusal(String?)
  /// What is done to end it, for people; told again each time that has not helped.
  case ending(String)
  case arrivals(Arrivals)
  /// It was refused a connection, or failed repeatedly: whether the replica still serves should be asked now.
  case suspicion(replica: Int)
}

/// How a service wants its proxy.
package struct ProxyWish: Hashable, Sendable {
  package struct Tls: Hashable, Sendable {
    /// Absolute paths of PEM files.
    package var cert: String
    package var key: String

    package init(cert: String, key: String) {
      self.cert = cert
      self.key = key
    }
  }

  package var policy: LoadBalancingPolicy
  /// Seconds of silence within a body; 0: no limit.
  package var streamTimeout: Double
  package var tls: Tls?

  package init(policy: LoadBalancingPolicy, streamTimeout: Double, tls: Tls?) {
    self.policy = policy
    self.streamTimeout = streamTimeout
    self.tls = tls
  }
}

/// None of these waits; what becomes of them is in the news.
package protocol ProxyLink: Sendable {
  /// Ends after `close`.
  var news: AsyncStream<ProxyNews> { get }

  /// How it is to be from now on, in place where it runs.
  func want(_ wish: ProxyWish)
  /// It is to run: started if it is not there, again whenever it ends.
  func start()
  /// It is to end; `absent` is told when it has.
  func stop()
  /// The list to serve from; an older one than the newest given is passed over.
  func publish(_ snapshot: ReplicaSnapshot)
  /// The controller lets go; a proxy that runs goes on.
  func close()
}

package protocol ProxyLinks: Sendable {
  /// Finds out at once whether there is a proxy already.
  func link(service: String, port: Int, wish: ProxyWish) -> any ProxyLink
  /// Why no proxy would take these files, for people; nil: it would.
  func refusal(of tls: ProxyWish.Tls) async -> String?
  /// Ends the proxy of a service that no longer has a link, if one is left. Why it is still there, for people; nil: it
  /// is not.
  func end(service: String) async -> String?
}
