// Seeds, run one by one in this process or in parts by children of it.

import ControlSim
import Foundation

enum Seeds {
  private static let partSize: UInt64 = 25
  /// Without it the order of what is in dictionaries is another one in every process.
  private static let fixedOrder = "SWIFT_DETERMINISTIC_HASHING"
  private static let folderVariable = "SKY_CONTROL_SIM_FOLDER"

  private static var folder: String { ProcessInfo.processInfo.environment[folderVariable] ?? "" }

  /// That of this process, which has to be a child for it.
  static func ownFolder() -> String {
    if folder.isEmpty { exit(runChild(Array(CommandLine.arguments.dropFirst()))) }
    return folder
  }

  static func runOne(_ seed: UInt64, _ options: Options) -> Never {
    let folder = ownFolder()
    let profile = options.profile(seed)
    let result = Simulation.run(seed: seed, profile: profile, base: folder, verbose: !options.quiet)
    if let failure = result.failure {
      report(failure, options.quiet ? result.tail : [], seed, profile)
      exit(1)
    }
    print(
      "seed \(seed) profile \(profile.name) passed: \(Int(result.simulatedSeconds)) simulated seconds, \(result.jobs) "
        + "jobs, \(result.commands) commands, \(result.crashes) crashes, \(result.requests) requests")
    exit(0)
  }

  /// Stops at the first failure unless all are wanted.
  static func runPart(_ options: Options) -> Never {
    var hasFailed = false
    for seed in options.start..<options.start + options.seeds {
      let profile = options.profile(seed)
      let result = Simulation.run(seed: seed, profile: profile, base: folder)
      guard let failure = result.failure else { continue }
      hasFailed = true
      if options.all {
        print("seed \(seed) profile \(profile.name): \(failure)")
        fflush(nil)
      } else {
        report(failure, result.tail, seed, profile)
        exit(1)
      }
    }
    exit(hasFailed ? 1 : 0)
  }

  static func runMany(_ options: Options) -> Never {
    var done: UInt64 = 0
    var hasFailed = false
    let begin = Date()
    while done < options.seeds {
      let count = min(partSize, options.seeds - done)
      var words = ["--part", "--start", String(options.start + done), "--seeds", String(count)]
      if let profile = options.profile { words += ["--profile", profile.name] }
      if options.all { words.append("--all") }
      let status = runChild(words)
      if status != 0 {
        hasFailed = true
        if status != 1 {
          print(
            "a run ended with status \(status): one of the seeds \(options.start + done) to \(options.start + done + count - 1)"
          )
        }
        if !options.all { exit(1) }
      }
      done += count
      let speed = Int(60 * Double(done) / max(Date().timeIntervalSince(begin), 0.001))
      print("\(done) seeds, \(speed) per minute, next \(options.start + done)")
      fflush(nil)
    }
    print(hasFailed ? "failures above" : "all passed")
    exit(hasFailed ? 1 : 0)
  }

  private static func report(_ failure: String, _ tail: [String], _ seed: UInt64, _ profile: Profile) {
    for line in tail.suffix(120) { print(line) }
    print("FAILED: \(failure)")
    print("replay: sky-control-sim --seed \(seed) --profile \(profile.name)")
    fflush(nil)
  }

  /// This program again, with an order of its dictionaries that does not change and a folder that is gone afterwards:
  /// in memory, where waiting for the disk costs nothing.
  private static func runChild(_ words: [String]) -> Int32 {
    let base = FileManager.default.fileExists(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    let folder = base + "/sky-control-sim-\(getpid())"
    try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let child = Process()
    child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    child.arguments = words
    child.environment = ProcessInfo.processInfo.environment.merging([fixedOrder: "1", folderVariable: folder]) { $1 }
    do { try child.run() } catch {
      print("sky-control-sim: cannot start a child process: \(error)")
      exit(2)
    }
    child.waitUntilExit()
    return child.terminationReason == .exit ? child.terminationStatus : 128 + child.terminationStatus
  }
}
