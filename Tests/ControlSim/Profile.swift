// What kinds of runs there are: how many services, which faults, and what may be expected of them.

import SimKit

package struct Profile: Sendable {
  package let name: String
  var services = 1...3
  /// Seconds between deaths of the controller, on average; nil: none.
  var crashSeconds: Double?
  /// Seconds between people's commands, on average.
  var commandSeconds = 40.0
  /// Where things break: up to so much of everything, drawn anew each round.
  var trouble = 0.0
  /// The first service's infra and replicas never answer.
  var hasStuckService = false
  /// The wall clock is set, also back, while no controller runs.
  var setsClock = false
  /// Nothing but our own doing takes replicas away, so the promised number serves at any time.
  var keepsPromise = false

  package static let all = [
    Profile(name: "calm", keepsPromise: true),
    Profile(name: "crashes", crashSeconds: 20, keepsPromise: true),
    Profile(name: "chaos", crashSeconds: 60, trouble: 1),
    Profile(name: "faults", trouble: 1),
    Profile(name: "stuck", services: 2...3, crashSeconds: 200, commandSeconds: 60, hasStuckService: true),
    Profile(name: "clock", crashSeconds: 90, trouble: 0.3, setsClock: true),
  ]

  package static func named(_ name: String) -> Profile? { all.first { $0.name == name } }

  func faults(_ chance: inout Chance) -> Faults {
    var faults = Faults()
    if trouble == 0 {
      faults.launchDies = 0.5
      return faults
    }
    func up(to most: Double) -> Double { chance.hit(0.5) ? 0 : chance.part() * most * trouble }
    faults.launchFails = up(to: 0.4)
    faults.launchHangs = up(to: 0.1)
    faults.launchDies = up(to: 1)
    faults.stopFails = up(to: 0.4)
    faults.stopHangs = up(to: 0.1)
    faults.pollFails = up(to: 0.3)
    faults.pollHangs = up(to: 0.01)
    faults.stageFails = up(to: 0.2)
    faults.proxyStartFails = up(to: 0.5)
    faults.killed = up(to: 0.01)
    faults.hangs = up(to: 0.005)
    faults.takenAway = up(to: 0.01)
    faults.proxyDies = up(to: 0.01)
    faults.proxySilent = up(to: 0.01)
    if chance.hit(0.3) {
      faults.launchSeconds = 0.1...120
      faults.startSeconds = 0.1...90
    }
    return faults
  }
}
