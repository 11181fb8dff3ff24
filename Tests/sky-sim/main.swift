// Runs simulations: many seeds in a child process at a time, so that a trap costs one seed and memory taken for good by
// each worker is given back; one seed in this process, with every event printed.

import Glibc
import ProxySim

struct Options {
  var seeds: UInt64 = 1_000
  var start: UInt64 = 1
  var seed: UInt64?
  var profile: String?
  var isChild = false
  var quiet = false
  /// Go on after a failure, and print one line for each.
  var all = false
}

func usage() -> Never {
  print(
    """
    sky-sim [--seeds N] [--start S] [--profile NAME] [--all]   run N seeds from S, over all profiles or one
    sky-sim --seed S --profile NAME [--quiet]                  run one, printing every event
    profiles: \(Profile.all.map(\.name).joined(separator: " "))
    by name only: \(Profile.wanted.map(\.name).joined(separator: " "))
    """)
  exit(2)
}

func parse() -> Options {
  var options = Options()
  var words = CommandLine.arguments.dropFirst()
  func number() -> UInt64 {
    guard let value = words.popFirst().flatMap({ UInt64($0) }) else { usage() }
    return value
  }
  while let word = words.popFirst() {
    switch word {
    case "--seeds": options.seeds = number()
    case "--start": options.start = number()
    case "--seed": options.seed = number()
    case "--profile":
      guard let name = words.popFirst(), Profile.named(name) != nil else { usage() }
      options.profile = name
    case "--child": options.isChild = true
    case "--quiet": options.quiet = true
    case "--all": options.all = true
    default: usage()
    }
  }
  return options
}

/// The profile of a seed when none is asked for: they take turns.
func profile(_ seed: UInt64, _ options: Options) -> Profile {
  if let name = options.profile, let profile = Profile.named(name) { return profile }
  return Profile.all[Int(seed % UInt64(Profile.all.count))]
}

/// Runs a range in this process; stops at the first failure unless all are wanted.
func runChild(_ options: Options) -> Never {
  var failed = false
  for seed in options.start..<options.start + options.seeds {
    let profile = profile(seed, options)
    let result = simulate(seed: seed, profile: profile)
    guard let failure = result.failure else { continue }
    failed = true
    if options.all {
      print("seed \(seed) profile \(profile.name): \(failure)")
      fflush(nil)
      continue
    }
    print(CrashReport.report(failure, result.tail, seed: seed, profile: profile.name))
    exit(1)
  }
  exit(failed ? 1 : 0)
}

/// Runs this program again on a part of the seeds; returns its wait status.
func runPart(_ start: UInt64, _ count: UInt64, _ options: Options) -> Int32 {
  var words = ["sky-sim", "--child", "--start", String(start), "--seeds", String(count)]
  if let profile = options.profile { words += ["--profile", profile] }
  if options.all { words.append("--all") }
  var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
  arguments.append(nil)
  defer { for argument in arguments { free(argument) } }
  var child: pid_t = 0
  guard posix_spawn(&child, "/proc/self/exe", nil, nil, arguments, environ) == 0 else {
    print("sky-sim: cannot start a child process")
    exit(2)
  }
  var status: Int32 = 0
  while waitpid(child, &status, 0) < 0 && errno == EINTR {}
  return status
}

func seconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

func runMany(_ options: Options) -> Never {
  let part: UInt64 = 200
  var done: UInt64 = 0
  var failed = false
  let begin = seconds()
  while done < options.seeds {
    let count = min(part, options.seeds - done)
    if runPart(options.start + done, count, options) != 0 {
      failed = true
      if !options.all { exit(1) }
    }
    done += count
    print(
      "\(done) seeds, \(Int(Double(done) / max(seconds() - begin, 0.001))) per second, next \(options.start + done)")
    fflush(nil)
  }
  print(failed ? "failures above" : "all passed")
  exit(failed ? 1 : 0)
}

let options = parse()
if options.isChild { runChild(options) }
if let seed = options.seed {
  let profile = profile(seed, options)
  let result = simulate(seed: seed, profile: profile, verbose: !options.quiet)
  if let failure = result.failure {
    print(CrashReport.report(failure, options.quiet ? result.tail : [], seed: seed, profile: profile.name))
    exit(1)
  }
  print(
    "seed \(seed) profile \(profile.name) passed: \(result.requests) requests, "
      + "\(result.answered) answered by replicas, \(result.local) by the proxy, \(result.turns) turns, "
      + "\(result.spilledBytes) bytes spilled, \(result.shed) clients shed")
  exit(0)
}
runMany(options)
