// All jobs of the process, one at a time on one thread; time moves only when none is left.
//
//   tasks ─ the language's threads (hook) ─┐
//   Controller ─ ControlThreads.controller ┼▶ jobs ─ one by chance ─▶ runs until its next await ─▶ …
//   infra calls ─ ControlThreads.blocking ─┘
//                                   none left ─▶ the calendar's next event ─▶ time is now
//
// So a run is a function of its seed, every interleaving the language allows may happen, and a controller can be
// killed between any two of its steps: its jobs and its waits are dropped, and nothing of it ever runs again.

import ControlCore
import Glibc
import SimKit

/// What happens at a time.
private enum Due {
  case event(() -> Void)
  case wake(Int)
}

package final class Scheduler: @unchecked Sendable {
  /// The hook has no place for any other.
  package static let only = Scheduler()

  /// Seconds since the run began.
  package private(set) var now = 0.0
  /// Jobs run so far.
  package private(set) var count = 0
  /// Real seconds of the longest of the controller's jobs since this was set to 0; nil: nobody asks.
  package var longest: Double?
  /// Nil: jobs run in the order they came.
  private var chance: Chance?
  private var jobs: [UnownedJob] = []
  private var taken = 0
  private var controllerJobs: [UnownedJob] = []
  private var controllerTaken = 0
  private var calendar = Calendar<Double, Due>()
  private var sleepers: [Int: UnsafeContinuation<Void, any Error>] = [:]
  private var sleeperCount = 0
  private let controllerThread = ControllerQueue()
  private let otherThreads = Others()

  private init() {
    guard let place = dlsym(dlopen(nil, RTLD_NOW), "swift_task_enqueueGlobal_hook") else {
      fatalError("this Swift runtime has no hook for the jobs of tasks")
    }
    place.assumingMemoryBound(to: Hook?.self).pointee = { job, _ in Scheduler.only.add(job) }
  }

  /// A new run. `chance`: the order of jobs; nil: as they came.
  package func reset(_ chance: Chance?) {
    drop()
    calendar = Calendar()
    now = 0
    count = 0
    self.chance = chance
  }

  package var threads: ControlThreads { ControlThreads(controller: controllerThread, blocking: otherThreads) }

  // MARK: Jobs

  fileprivate func add(_ job: UnownedJob) { jobs.append(job) }
  fileprivate func addForController(_ job: UnownedJob) { controllerJobs.append(job) }

  /// Runs one; false: there is none.
  package func runJob() -> Bool {
    let others = jobs.count - taken
    let mine = controllerJobs.count - controllerTaken
    if others + mine == 0 { return false }
    count += 1
    // The Controller's come in their order, as on its thread; of the others any may be next.
    if mine > 0, others == 0 || (chance?.below(others + 1) ?? (count & 1)) == 0 {
      let job = controllerJobs[controllerTaken]
      controllerTaken += 1
      if controllerTaken == controllerJobs.count {
        controllerJobs.removeAll(keepingCapacity: true)
        controllerTaken = 0
      }
      let begun = longest == nil ? 0 : Self.realSeconds
      job.runSynchronously(on: controllerThread.asUnownedSerialExecutor())
      if let before = longest { longest = max(before, Self.realSeconds - begun) }
      return true
    }
    if let index = chance?.below(others) { jobs.swapAt(taken, taken + index) }
    let job = jobs[taken]
    taken += 1
    if taken == jobs.count {
      jobs.removeAll(keepingCapacity: true)
      taken = 0
    }
    job.runSynchronously(on: otherThreads.asUnownedTaskExecutor())
    return true
  }

  package static var realSeconds: Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// Nothing that ran goes on. Events of the calendar that are not about waiting tasks stay.
  package func drop() {
    jobs = []
    taken = 0
    controllerJobs = []
    controllerTaken = 0
    sleepers = [:]
  }

  // MARK: Time

  package func at(_ time: Double, _ event: @escaping () -> Void) { calendar.add(.event(event), at: max(time, now)) }

  package func after(_ seconds: Double, _ event: @escaping () -> Void) { at(now + seconds, event) }

  /// Goes on to the next event, but not beyond `end`; false: there is none until then, and it is `end` now.
  package func advance(until end: Double) -> Bool {
    guard let time = calendar.next, time <= end else {
      now = max(now, end)
      return false
    }
    now = max(now, time)
    switch calendar.pop() {
    case .event(let event): event()
    case .wake(let id): sleepers.removeValue(forKey: id)?.resume()
    }
    return true
  }

  /// Until then, or throws when the task is cancelled.
  func sleep(until time: Double) async throws {
    sleeperCount += 1
    let id = sleeperCount
    try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { (continuation: UnsafeContinuation<Void, any Error>) in
        if Task.isCancelled { return continuation.resume(throwing: CancellationError()) }
        if time <= now { return continuation.resume() }
        sleepers[id] = continuation
        if time.isFinite { calendar.add(.wake(id), at: time) }
      }
    } onCancel: {
      sleepers.removeValue(forKey: id)?.resume(throwing: CancellationError())
    }
  }

  /// Whatever becomes of the task; infinity: for ever.
  func sleepThrough(until time: Double) async {
    sleeperCount += 1
    let id = sleeperCount
    try? await withUnsafeThrowingContinuation { (continuation: UnsafeContinuation<Void, any Error>) in
      sleepers[id] = continuation
      if time.isFinite { calendar.add(.wake(id), at: time) }
    }
  }
}

private typealias Original = @convention(thin) (UnownedJob) -> Void
private typealias Hook = @convention(thin) (UnownedJob, Original) -> Void

private final class ControllerQueue: SerialExecutor {
  func enqueue(_ job: consuming ExecutorJob) { Scheduler.only.addForController(UnownedJob(job)) }

  /// There is one thread, so whoever asks is on it.
  func checkIsolated() {}
}

private final class Others: TaskExecutor {
  func enqueue(_ job: consuming ExecutorJob) { Scheduler.only.add(UnownedJob(job)) }
}

/// The controller's clock in a run: what the wall said when it started, and what has passed since.
struct SimClock: ControlClock {
  /// Seconds since 1970 at the run's beginning, as the controller believes.
  let epoch: Double

  var now: Double { epoch + Scheduler.only.now }
  func sleep(until time: Double) async throws { try await Scheduler.only.sleep(until: time - epoch) }
}
