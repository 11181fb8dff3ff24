// The command line of sky-control-sim.

import ControlSim
import Foundation

struct Options {
  enum Kind {
    case many
    case part
    case one(UInt64)
    case fleet
  }

  var kind = Kind.many
  var seeds: UInt64 = 1_000
  var start: UInt64 = 1
  var profile: Profile?
  /// Go on after a failure, and print one line for each.
  var all = false
  var quiet = false
  /// Of a fleet; its hours are simulated ones, nil: only how long things take.
  var services = 100
  var replicas = 20
  var hours: Int?
  var slowness = 1.0

  init(_ words: ArraySlice<String>) {
    var words = words
    func number() -> UInt64 {
      guard let value = words.popFirst().flatMap({ UInt64($0) }) else { Self.usage() }
      return value
    }
    while let word = words.popFirst() {
      switch word {
      case "--seeds": seeds = number()
      case "--start": start = number()
      case "--seed": kind = .one(number())
      case "--part": kind = .part
      case "--profile":
        guard let found = words.popFirst().flatMap({ Profile.named($0) }) else { Self.usage() }
        profile = found
      case "--fleet": kind = .fleet
      case "--services": services = Int(number())
      case "--replicas": replicas = Int(number())
      case "--hours": hours = Int(number())
      case "--slowness": slowness = Double(number())
      case "--all": all = true
      case "--quiet": quiet = true
      default: Self.usage()
      }
    }
  }

  /// The profile of a seed when none is asked for: they take turns.
  func profile(_ seed: UInt64) -> Profile { profile ?? Profile.all[Int(seed % UInt64(Profile.all.count))] }

  static func usage() -> Never {
    print(
      """
      sky-control-sim [--seeds N] [--start S] [--profile NAME] [--all]   run N seeds from S, over all profiles or one
      sky-control-sim --seed S [--profile NAME] [--quiet]                run one, printing every event
      sky-control-sim --fleet [--services N] [--replicas N]              how long a pass and status take with so many
      sky-control-sim --fleet [...] --hours H [--slowness F]             what so many simulated hours do to memory, with
                                                                         probes, polls and reports F times more seldom
      profiles: \(Profile.all.map(\.name).joined(separator: " "))
      """)
    exit(2)
  }
}
