// What status says of what does not end, and of a controller that cannot write.

import ProxyWire
import Testing

@testable import ControlCore

@Suite struct StatusReportTests {
  private struct NoLink: ProxyLink {
    var news: AsyncStream<ProxyNews> { AsyncStream { $0.finish() } }
    func want(_ wish: ProxyWish) {}
    func start() {}
    func stop() {}
    func publish(_ snapshot: ReplicaSnapshot) {}
    func close() {}
  }

  /// A service that was told to go at 1000, with one replica.
  private func report(
    at now: Double, journalProblem: String? = nil, _ change: (inout ServiceState, inout ServiceFacts) -> Void
  ) throws -> ServiceStatusReport {
    var control = ControlState()
    for mutation in try Commands.up(control, name: "web", task: StoreTests.task(), port: 30001, now: 900) {
      control.apply(mutation)
    }
    var state = control.services["web"]!
    state.service.desired = .down
    var record = ReplicaRecord(id: 1, version: 1, isSpot: false, createdAt: 900)
    (record.launch, record.down, record.cause, record.downAt) = (.succeeded, .running, .serviceDown, 1000)
    record.stopAttempts = 1
    state.replicas[1] = record
    var facts = ServiceFacts(link: NoLink())
    change(&state, &facts)
    return StatusReport.of(
      state, facts, endpoint: "http://127.0.0.1:30001", launchesMax: 4, journalProblem: journalProblem, now: now)
  }

  private static let down = "the service is terminated"

  @Test func aStopThatTakesLongSaysSinceWhen() throws {
    let soon = try report(at: 1002) { _, _ in }
    #expect(soon.replicaInfo[0].reason == Self.down && soon.reason == "1 replica to stop")
    let slow = try report(at: 1030) { _, _ in }
    #expect(slow.replicaInfo[0].reason == "\(Self.down); is being stopped (it was to go 30 s ago)")
    let again = try report(at: 1200) { state, _ in state.replicas[1]!.stopAttempts = 3 }
    #expect(again.replicaInfo[0].reason == "\(Self.down); is being stopped (attempt 3; it was to go 200 s ago)")
  }

  @Test func aStopThatFailedSaysWhyAndWhatIsTried() throws {
    let failed = try report(at: 1130) { state, facts in
      state.replicas[1]!.stopNotBefore = 1135
      let ticket = facts.operations.begin(.stop, 1)
      _ = facts.operations.end(ticket, failure: .stopFailed(attempt: 1, reason: "processes do not end"))
    }
    #expect(
      failed.replicaInfo[0].reason
        == "\(Self.down); stopping it failed: processes do not end; tried again in 5 s (after attempt 1; it was to go "
        + "130 s ago)")
    // Of one that was taken away, too.
    let lost = try report(at: 1010) { state, _ in
      (state.replicas[1]!.cause, state.replicas[1]!.reason) = (.preempted, "its machine is gone")
      (state.replicas[1]!.stopAttempts, state.replicas[1]!.stopNotBefore) = (4, 1015)
    }
    #expect(
      lost.replicaInfo[0].reason
        == "its machine is gone; stopping it failed: something of it was left; tried again in 5 s (after attempt 4; it "
        + "was to go 10 s ago)")
  }

  @Test func aLoadBalancerThatDoesNotEndIsNamed() throws {
    let left = try report(at: 1020) { state, facts in
      state.replicas = [:]
      (facts.proxyEndingSince, facts.proxyEnding) = (1003, "process 7 has not ended, not even by SIGKILL (attempt 2)")
    }
    #expect(
      left.reason
        == "the load balancer was to end 17 s ago: process 7 has not ended, not even by SIGKILL (attempt 2)")
  }

  @Test func aJournalThatCannotBeWrittenComesFirst() throws {
    let full = Controller.journalProblem(StoreError(.full, "cannot write /s/journal: No space left on device"), "/s")
    #expect(
      full == "the controller cannot write its journal (cannot write /s/journal: No space left on device): free some "
        + "space on the file system of /s")
    let report = try report(at: 1001, journalProblem: full) { _, _ in }
    #expect(report.reason == "\(full); 1 replica to stop")
    // Space is no help against everything.
    #expect(Controller.journalProblem(StoreError(.io, "cannot sync /s/journal: Input/output error"), "/s").hasSuffix("error)"))
  }
}
