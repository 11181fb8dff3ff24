// The engine in the simulated world (Tests/ProxySim), with the checks of a debug build: some seeds of every profile, and
// the seeds that found bugs. `swift run -c release sky-sim` runs as many as there is time for.

import ProxySim
import Testing

// One at a time: a trap is reported with the run that was under way.
@Suite(.serialized) struct SimulationTests {
  /// Runs one seed; what it found, with the command that replays it.
  private func check(_ profile: Profile, _ seed: UInt64) {
    let result = simulate(seed: seed, profile: profile)
    guard let failure = result.failure else { return }
    Issue.record(
      """
      \(failure)
      \(result.tail.suffix(40).joined(separator: "\n"))
      replay: sky-sim --seed \(seed) --profile \(profile.name)
      """
    )
  }

  @Test(arguments: Profile.all.map(\.name))
  func seeds(of name: String) throws {
    let profile = try #require(Profile.named(name))
    // Runs of stalled streams take many turns.
    for seed in 1...(name == "stalls" ? 10 : 20) as ClosedRange<UInt64> { check(profile, seed) }
  }

  /// Seeds that found something, under what was wrong. A change to what a run draws moves them: find new ones then.
  @Test(arguments: [
    ("a replica's reset of a tunnel left the client's slot behind", "tunnels", 48),
    ("a byte from the client of a broken tunnel indexed no exchange", "tunnels", 192),
    ("a half-closed client saw a cut answer end cleanly", "abrupt", 101),
    ("a request was sent again after an interim answer", "flaky", 48),
    ("pipelined input held every buffer and nobody was shed", "starved", 7),
    ("starved uploads waited for each other for ever", "chaos", 1553),
    ("the body limit counted chunk framing", "malformed", 319),
    ("accepting was resumed while draining", "chaos", 61),
    ("a stalled reader's until-close answer ended cleanly", "stalls", 2193),
    ("bytes behind a 101 gathered in pieces were lost", "tunnels", 1460),
    ("a pipelined request behind trailers was taken for trailers", "stalls", 5000),
    ("a reset that a send had taken made a cut answer look whole", "chaos", 124_068),
    ("an address was read after its replica had been replaced", "chaos", 321_452),
  ])
  func found(_ what: String, profile name: String, seed: Int) throws {
    check(try #require(Profile.named(name)), UInt64(seed))
  }

  @Test func seedsReplay() {
    for profile in [Profile.named("chaos")!, Profile.named("calm")!] {
      let one = simulate(seed: 11, profile: profile)
      let two = simulate(seed: 11, profile: profile)
      #expect(one.turns == two.turns && one.time == two.time && one.answered == two.answered)
      #expect(one.requests > 0)
    }
  }

  /// Without trouble nearly everything is answered by replicas: the oracle is not green for want of traffic.
  @Test func calmRunsAnswer() {
    var requests = 0
    var answered = 0
    for seed in 100...130 as ClosedRange<UInt64> {
      let result = simulate(seed: seed, profile: Profile.named("calm")!)
      requests += result.requests
      answered += result.answered
    }
    #expect(requests > 1_000)
    #expect(answered * 10 > requests * 8)
  }
}
