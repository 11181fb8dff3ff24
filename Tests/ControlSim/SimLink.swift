// The controller's link to a service's proxy, as ProxyHandle is one: it looks, starts, tells, reports.
//
// What a link of a dead controller had begun goes on (a proxy that starts comes up), but it says and does nothing more.

import ControlCore
import ProxyWire
import SimKit

struct SimLinks: ProxyLinks {
  let world: World

  func link(service: String, port: Int, wish: ProxyWish) -> any ProxyLink {
    SimLink(world, world.place(service))
  }

  func refusal(of tls: ProxyWish.Tls) async -> String? { nil }

  func end(service: String) async -> String? {
    await world.scheduler.sleepThrough(until: world.now + 0.1)
    world.endProxy(world.place(service))
    return nil
  }
}

final class SimLink: ProxyLink, @unchecked Sendable {
  let news: AsyncStream<ProxyNews>
  private let tell: AsyncStream<ProxyNews>.Continuation
  private let world: World
  private let place: SimPlace
  private var runs: Bool?
  private var snapshot: ReplicaSnapshot?
  private var startAt = 0.0
  private var again = 0.05
  private var reason: String?
  private(set) var isClosed = false

  init(_ world: World, _ place: SimPlace) {
    self.world = world
    self.place = place
    (news, tell) = AsyncStream.makeStream()
    place.proxy.link = self
    soon { $0.look() }
    world.scheduler.after(world.stepSeconds) { [self] in reportAgain() }
  }

  func want(_ wish: ProxyWish) {}

  func start() {
    runs = true
    soon { $0.look() }
  }

  func stop() {
    runs = false
    soon { $0.look() }
  }

  func publish(_ snapshot: ReplicaSnapshot) {
    if snapshot.version < self.snapshot?.version ?? 0 { return }
    self.snapshot = snapshot
    // What it has already is for the next one.
    if snapshot.version <= place.proxy.version, place.proxy.runs { return }
    soon { $0.look() }
  }

  func close() {
    letGo()
    tell.finish()
  }

  /// Its controller is dead.
  func letGo() {
    isClosed = true
    if place.proxy.link === self { place.proxy.link = nil }
  }

  private func soon(_ body: @escaping (SimLink) -> Void) {
    world.scheduler.after(world.chance.delay(0.001...0.05)) { [self] in if !isClosed { body(self) } }
  }

  /// Whether there is a proxy, and what it has to be told.
  func look() {
    if isClosed { return }
    let proxy = place.proxy
    if proxy.isStarting {
      tell.yield(.silent)
    } else if !proxy.runs {
      tell.yield(.absent(reason: reason))
      if runs == true { spawn() }
    } else if world.now < proxy.silentUntil {
      tell.yield(.silent)
      world.scheduler.at(proxy.silentUntil) { [self] in look() }
    } else if runs == false {
      world.scheduler.after(world.chance.delay(0.01...1)) { [self] in
        // Asked to end it, it ends, whether we still live or not.
        if proxy.runs { world.endProxy(place) }
        look()
      }
    } else {
      reason = nil
      if let snapshot, snapshot.version > proxy.version { world.apply(place, snapshot) }
      report()
    }
  }

  private func spawn() {
    if world.now < startAt { return world.scheduler.at(startAt) { [self] in look() } }
    startAt = world.now + again
    again = min(again * 2, 5)
    if world.chance.hit(world.faults.proxyStartFails) {
      reason = "the port is in use"
      return look()
    }
    var entries: [Int: SimProxy.Entry] = [:]
    for entry in snapshot?.replicas ?? [] where entry.state == .ready {
      entries[Int(entry.id)!] = SimProxy.Entry(takes: true, generation: entry.generation)
    }
    world.startProxy(place, entries: entries)
    tell.yield(.silent)
  }

  func report() {
    let proxy = place.proxy
    guard !isClosed, proxy.runs, world.now >= proxy.silentUntil else { return }
    tell.yield(.reporting(version: proxy.version, inFlight: proxy.inFlight))
  }

  func suspect(_ id: Int) {
    guard !isClosed, world.now >= place.proxy.silentUntil else { return }
    tell.yield(.suspicion(replica: id))
  }

  private func reportAgain() {
    if isClosed { return }
    let proxy = place.proxy
    if proxy.runs, world.now >= proxy.silentUntil {
      if proxy.arrivals > 0 { tell.yield(.arrivals(Arrivals(at: world.clock(), count: proxy.arrivals))) }
      proxy.arrivals = 0
      report()
    }
    world.scheduler.after(world.stepSeconds) { [self] in reportAgain() }
  }
}
