// The real controller in simulated worlds (Tests/ControlSim): some seeds of every kind of run. It takes over all jobs of
// its process, so it has one of its own. `sky-control-sim --seeds N` runs as many as there is time for.

import TestSupport
import Testing

@Suite(.serialized) struct RuntimeSimTests {
  @Test(arguments: ["calm", "crashes", "chaos", "faults", "stuck", "clock"])
  func seeds(of profile: String) throws {
    let result = try run(
      Places.program("sky-control-sim"), ["--seeds", "4", "--profile", profile], deadline: 300)
    #expect(result.exit == .code(0), "\(result.output)\(result.errors)")
  }

  /// Seeds that found something, under what was wrong. A change to what a run draws moves them: find new ones then.
  @Test(arguments: [
    ("a launch that hung was waited for without end", "faults", 3),
    ("after one poll that hung nothing of the service was seen any more", "faults", 9),
    ("a stop under way when the controller died was never tried again where the infra did not answer", "stuck", 10),
    ("probes did not count until a clock that was set back had caught up", "clock", 257),
    ("an older version was launched beside replicas that had just been moved to a newer number", "clock", 233),
  ])
  func found(_ what: String, profile: String, seed: Int) throws {
    let result = try run(
      Places.program("sky-control-sim"), ["--seed", "\(seed)", "--profile", profile, "--quiet"], deadline: 60)
    #expect(result.exit == .code(0), "\(result.output)\(result.errors)")
  }

  @Test func seedsReplay() throws {
    let outputs = try (0..<2).map { _ in
      try run(Places.program("sky-control-sim"), ["--seed", "11", "--profile", "chaos"], deadline: 60).output
    }
    #expect(outputs[0].contains("passed") && outputs[0] == outputs[1])
  }
}
