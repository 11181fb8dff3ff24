// The load generator. The main thread decides which target's turn it is; the workers load it, each on its own ring.

import BenchKit
import Glibc
import ProxyCore

/// A turn that every thread has to reach before any goes on.
final class Barrier: @unchecked Sendable {
  private var barrier = pthread_barrier_t()
  init(_ parties: Int) { pthread_barrier_init(&barrier, nil, UInt32(parties)) }
  func wait() { pthread_barrier_wait(&barrier) }
}

/// What main and workers share. Written between barriers only, by one of them at a time.
final class Board: @unchecked Sendable {
  var slice: Slice?
  var tallies: [Tally] = []
  var held: [Int]
  var cpuBefore: UInt64 = 0
  var cpuAfter: UInt64 = 0
  var othersBefore: [UInt64] = []
  var othersAfter: [UInt64] = []
  var selfBefore: UInt64 = 0
  var selfAfter: UInt64 = 0
  var from: UInt64 = 0
  var to: UInt64 = 0
  var residentKiB = 0
  init(threads: Int) { held = Array(repeating: 0, count: threads) }
}

func loadOptions() -> LoadOptions {
  var options = LoadOptions.table.parseOrExit(LoadOptions())
  do throws(FlagProblem) { try options.complete() } catch {
    complain("sky-load: \(error.text)")
    exit(2)
  }
  return options
}

func runLoad(_ options: LoadOptions) -> [SliceResult] {
  let pattern = BodyPattern()
  let start = Barrier(options.threads + 1)
  let finish = Barrier(options.threads + 1)
  let board = Board(threads: options.threads)
  let threads = (0..<options.threads).map { index in
    Thread {
      var worker = LoadWorker(options: options, index: index, pattern: pattern)
      while true {
        start.wait()
        guard let slice = board.slice else { return }
        worker.run(slice, into: board.tallies[index]) { isEnd in
          guard index == 0 else { return }
          let now = monotonicNs()
          if isEnd {
            board.to = now
            board.cpuAfter = ProcessFigures.cpuNs(slice.target.pids)
            board.othersAfter = options.others.map { ProcessFigures.cpuNs($0.pids) }
            board.selfAfter = ProcessFigures.cpuNs(getpid()) ?? 0
            board.residentKiB = ProcessFigures.residentKiB(slice.target.pids)
          } else {
            board.from = now
            board.cpuBefore = ProcessFigures.cpuNs(slice.target.pids)
            board.othersBefore = options.others.map { ProcessFigures.cpuNs($0.pids) }
            board.selfBefore = ProcessFigures.cpuNs(getpid()) ?? 0
          }
        } holding: {
          board.held[index] = $0
        }
        finish.wait()
      }
    }
  }
  var results: [SliceResult] = []
  let showsProgress = isatty(2) == 1
  for round in 0..<options.rounds {
    for target in round % 2 == 0 ? options.targets : options.targets.reversed() {
      let residentBefore = ProcessFigures.residentKiB(target.pids)
      let begin = monotonicNs()
      let lasts = options.mode == .hold || options.mode == .trace
      let measureFrom = begin + (lasts ? 0 : UInt64(options.warmup * 1e9))
      var end = measureFrom + UInt64((lasts ? options.timeout : options.seconds) * 1e9)
      if options.mode == .trace { end += options.trace.last?.atNs ?? 0 }
      board.slice = Slice(target: target, begin: begin, measureFrom: measureFrom, end: end)
      board.tallies = (0..<options.threads).map { _ in Tally() }
      start.wait()
      if showsProgress {
        while monotonicNs() < end - min(end, 100_000_000) && board.to < begin {
          usleep(200_000)
          let done = board.tallies.reduce(UInt64(0)) { $0 + $1.counts.pointee.requests + $1.counts.pointee.events }
          complainInPlace("round \(round + 1)/\(options.rounds) \(target.name): \(done) answers and events")
        }
        complainInPlace("")
      }
      finish.wait()
      let tally = Tally()
      for part in board.tallies {
        tally.merge(part)
        part.deallocate()
      }
      tally.counts.pointee.held = UInt64(board.held.reduce(0, +))
      let others = zip(options.others, zip(board.othersBefore, board.othersAfter)).map {
        ($0.0.name, $0.1.1 - min($0.1.0, $0.1.1))
      }
      results.append(
        SliceResult(
          target: target.name, round: round, seconds: Double(board.to - board.from) / 1e9, tally: tally,
          cpuNs: board.cpuAfter - min(board.cpuBefore, board.cpuAfter), othersNs: others,
          selfNs: board.selfAfter - board.selfBefore, residentBeforeKiB: residentBefore, residentKiB: board.residentKiB)
      )
    }
  }
  board.slice = nil
  start.wait()
  for thread in threads { thread.join() }
  return results
}

func complainInPlace(_ text: String) {
  var text = "\r\u{1B}[K" + text
  text.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
}

let options = loadOptions()
signal(SIGPIPE, SIG_IGN)
raiseDescriptors()
let report = Report(options: options, results: runLoad(options))
if !options.quiet { print(report.table(), terminator: "") }
if !options.jsonPath.isEmpty && !writeText(options.jsonPath, report.json()) {
  complain("sky-load: cannot write \(options.jsonPath)")
}
if !options.csvPath.isEmpty && !writeText(options.csvPath, report.csv()) {
  complain("sky-load: cannot write \(options.csvPath)")
}
exit(report.results.contains { $0.counts.requests + $0.counts.events + $0.counts.held > 0 } ? 0 : 1)
