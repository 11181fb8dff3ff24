// When a stream's acknowledgements are told to wait, and what is made of a replica that does not seem to bear it.

import Testing

@testable import ProxyCore

@Suite struct AckTests {
  @Test(arguments: [
    (1, 1, AckStep.nothing), (3, 1, .nothing), (4, 1, .pair), (4, 40, .pair), (5, 40, .nothing), (6, 1, .early),
    // Held back until the kernel's 40 ms were over.
    (6, 25, .early), (6, 36, .late), (6, 40, .late), (6, 50, .late),
    // A pause of the model's own says nothing.
    (6, 80, .nothing), (7, 40, .nothing), (16, 40, .nothing), (20, 1, .pair), (22, 40, .late), (244, 1, .pair),
    // The count begins again.
    (0, 1, .nothing),
  ])
  func steps(pieces: UInt8, gapMs: UInt64, step: AckStep) {
    #expect(AckStep.after(pieces: pieces, gap: gapMs * 1_000_000) == step)
  }

  @Test func lateOnesAreLeftAloneLongerEachTime() {
    var trial = AckTrial()
    var now: UInt64 = 1_000
    var pauses: [UInt64] = []
    for _ in 0..<9 {
      let may = trial.mayPair(generation: 7, now: now)
      #expect(may)
      trial.wasLate(now: now)
      // Another stream of the same moment.
      trial.wasLate(now: now + 1)
      let begin = now
      while !trial.mayPair(generation: 7, now: now) { now += 1_000_000_000 }
      pauses.append((now - begin) / 1_000_000_000)
    }
    #expect(pauses == [60, 120, 240, 480, 960, 1920, 3840, 3840, 3840])
    // It was a pause of the model: the next look puts it right.
    trial.wasEarly()
    trial.wasLate(now: now)
    let early = trial.mayPair(generation: 7, now: now + 59_000_000_000)
    let after = trial.mayPair(generation: 7, now: now + 60_000_000_000)
    #expect(!early && after)
    // Another replica in its place.
    trial.wasLate(now: now + 60_000_000_000)
    let other = trial.mayPair(generation: 8, now: now + 60_000_000_001)
    #expect(other)
  }
}
