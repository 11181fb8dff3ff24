// The course of a run.

import ControlCore
import Foundation
import SimKit

extension Simulation {
  func live() {
    start()
    for _ in 0..<(1 + chance.below(3)) where failure == nil {
      world.faults = profile.faults(&chance)
      commandAt = scheduler.now
      run(for: chance.within(30...600))
    }
    calm()
    for name in oracle.names where failure == nil { settle(name) }
    if failure == nil { end() }
  }

  /// Nothing new breaks and nobody asks for anything. What hangs goes on hanging.
  private func calm() {
    note("calm")
    world.faults = .none
    commandAt = .infinity
    for place in world.places.values { place.load = 0 }
    crashAt = .infinity
    // What was asked last.
    run(for: 10)
  }

  private func isStuck(_ name: String) -> Bool { world.place(name).isStuck }

  /// Until it is as it was asked to be, and stays so. A version that failed in the trouble is not tried again; then
  /// another one helps.
  private func settle(_ name: String) {
    if isStuck(name) { return }
    for attempt in 1...2 {
      var quiet = 0
      let end = scheduler.now + settleSeconds
      while scheduler.now < end, failure == nil {
        guard let service = state.services[name] else { return }
        if service.service.desired == .down {
          run(for: 5)
          leaveToPeople(name)
          continue
        }
        let isFrozen = service.scaler.isFrozen(service.replicas.values.map(\.scaling))
        if isFrozen, attempt == 1 { break }
        quiet = oracle.isSettled(name, service) ? quiet + 1 : 0
        if quiet > 12 { return }
        run(for: 5)
      }
      if attempt == 1, failure == nil {
        guard let service = state.services[name] else { return }
        guard service.scaler.isFrozen(service.replicas.values.map(\.scaling)) else { break }
        People(self).update(name, People.task("replicas: 2", "serve again"), .rolling)
        run(for: 10)
      }
    }
    problem("does not settle: \(oracle.describe(name))")
  }

  /// FAILED_CLEANUP: somebody removes the machines and tells us to forget them.
  private func leaveToPeople(_ name: String) {
    guard let service = state.services[name], service.status == .failedCleanup else { return }
    let place = world.place(name)
    for (id, record) in service.replicas where record.down == .failed {
      if let machine = place.machines[id] { world.remove(place, machine) }
    }
    People(self).down(name, purge: true)
    run(for: 1)
  }

  private func end() {
    for name in oracle.names where state.services[name] != nil { People(self).down(name, purge: false) }
    let end = scheduler.now + settleSeconds
    // Requests may take two minutes, and a controller that is down goes on when it is back.
    let promptly = scheduler.now + (profile.crashSeconds == nil ? 150 : 300)
    while scheduler.now < end, failure == nil, !state.services.isEmpty {
      run(for: 5)
      for name in state.services.keys where profile.trouble == 0 && !isStuck(name) && scheduler.now > promptly {
        problem("is slow to go: \(oracle.describe(name))")
      }
      for name in oracle.names { leaveToPeople(name) }
    }
    run(for: 10)
    if failure != nil { return }
    for name in oracle.names {
      let place = world.place(name)
      if state.services[name] != nil { problem("does not go away: \(oracle.describe(name))") }
      if place.proxy.runs { problem("\(name): its proxy is left") }
      let left = place.machines.keys.sorted()
      if !left.isEmpty { problem("\(name): machines \(left) are left") }
      // Where nobody says what there is of it, it stays to be found.
      if FileManager.default.fileExists(atPath: paths.service(name)), !isStuck(name) {
        problem("\(name): its folder is left")
      }
    }
  }
}
