// The infra and the replicas' answers as the controller sees them: what it asks of the World, and how long that takes.

import ControlCore
import ProxyWire
import SimKit

struct SimInfra: InfraProvider {
  let world: World
  let name = "sim"

  func offers(for task: TaskSpec) throws(InfraError) -> [Offer] {
    [Offer(infra: "Sim", instance: "-", cpus: "1", memory: "1", gpus: "-", hourlyCost: 0, isChosen: true)]
  }

  func stage(_ task: TaskSpec, into folder: String) async throws(InfraError) {
    await pause(0.001...2)
    if world.chance.hit(world.faults.stageFails) { throw InfraError(.failed, "the disk is full") }
  }

  func launch(_ request: LaunchRequest, progress: @escaping @Sendable (String) -> Void) async throws(InfraError) {
    let place = world.place(request.service)
    let id = request.order.id
    world.checkLaunch(place, request)
    world.trace("\(place.name) launch \(id) version \(request.order.version)")
    let call = place.beginLaunch(id)
    defer { place.endLaunch(id, call) }
    if place.isStuck { await hang() }
    let machine = place.machines[id] ?? world.addMachine(place, request.order)
    progress("waits for a machine")
    if world.chance.hit(world.faults.launchHangs) {
      world.trace("\(place.name) launch \(id) hangs")
      if world.chance.hit(0.5) { await hang() }
      try await wait(.infinity)
    }
    let end = world.now + world.chance.delay(world.faults.launchSeconds)
    if world.chance.hit(world.faults.launchFails) {
      try await wait(end)
      if world.chance.hit(0.5) { world.remove(place, machine) }
      world.trace("\(place.name) launch \(id) fails")
      throw InfraError(.failed, "no machine to be had")
    }
    // It comes up whether somebody waits for it or not, or dies with whoever does.
    if !world.chance.hit(world.faults.launchDies) {
      world.scheduler.at(end) { world.bringUp(place, machine, request.task) }
      try await wait(end)
    } else {
      try await wait(end)
      world.bringUp(place, machine, request.task)
    }
    if place.machines[id] !== machine { throw InfraError(.failed, "the machine is gone again") }
  }

  func stop(service: String, id: Int, replicaFolder: String) async throws(InfraError) {
    let place = world.place(service)
    world.checkStop(place, id)
    world.trace("\(place.name) stop \(id)")
    // Of what has no record the id may be given out again.
    if world.state().services[service]?.replicas[id] != nil { place.stopped.insert(id) }
    place.machines[id]?.isStopping = true
    if place.isStuck || world.chance.hit(world.faults.stopHangs) {
      world.trace("\(place.name) stop \(id) hangs")
      await hang()
    }
    let fails = world.chance.hit(world.faults.stopFails)
    await pause(world.faults.stopSeconds)
    if fails { throw InfraError(.failed, "the machine does not end") }
    if let machine = place.machines[id] { world.remove(place, machine) }
  }

  func poll(service: String, replicasFolder: String) async throws(InfraError) -> [Int: InfraFact] {
    let place = world.place(service)
    if place.isStuck { await hang() }
    if world.chance.hit(world.faults.pollHangs) {
      world.trace("\(service) poll hangs")
      await hang()
    }
    let fails = world.chance.hit(world.faults.pollFails)
    // Read at some moment between question and answer.
    await pause(0.001...0.5)
    if fails { throw InfraError(.failed, "nobody answers") }
    let found = place.machines.mapValues { machine -> InfraFact in
      machine.isUp
        ? .up(Machine(address: machine.address, job: machine.job)) : .partial(detail: "waits for a machine")
    }
    await pause(0.001...0.1)
    return found
  }

  private func pause(_ range: ClosedRange<Double>) async {
    await world.scheduler.sleepThrough(until: world.now + world.chance.delay(range))
  }

  /// Lets go when it is called off.
  private func wait(_ time: Double) async throws(InfraError) {
    do { try await world.scheduler.sleep(until: time) } catch { throw InfraError(.failed, "the launch was given up") }
  }

  private func hang() async { await world.scheduler.sleepThrough(until: .infinity) }
}

struct SimProbes: ProbeTransport {
  let world: World

  func probe(_ order: ProbeOrder) async -> ProbeOutcome {
    let scheduler = world.scheduler
    guard let (place, machine) = find(order) else {
      await scheduler.sleepThrough(until: scheduler.now + 0.001)
      return ProbeOutcome(ok: false, detail: "connection refused")
    }
    machine.askedAt = scheduler.now
    if place.isStuck { await scheduler.sleepThrough(until: .infinity) }
    if machine.hangs {
      await scheduler.sleepThrough(until: scheduler.now + order.probe.timeout.value)
      return ProbeOutcome(ok: false, detail: "timed out")
    }
    let serves = machine.serves(scheduler.now)
    await scheduler.sleepThrough(until: scheduler.now + world.chance.delay(0.001...0.5))
    return serves ? ProbeOutcome(ok: true) : ProbeOutcome(ok: false, detail: "status 503")
  }

  private func find(_ order: ProbeOrder) -> (SimPlace, SimMachine)? {
    for place in world.places.values {
      if let machine = place.machines[order.id], machine.address.description == order.address, machine.isUp {
        return (place, machine)
      }
    }
    return nil
  }
}
