// Threads for work that may block: copying files, waiting for a process, asking an infra. The language's own threads
// are as many as there are cores, and one that blocks is missing to everybody; here each job that finds no idle
// thread gets a new one.
//
// Used as `Task(executorPreference: BlockingThreads.shared)`.

import Foundation

final class BlockingThreads: TaskExecutor, @unchecked Sendable {
  static let shared = BlockingThreads()
  /// Beyond that many, jobs wait for each other.
  private static let threadsMax = 256
  /// Seconds a thread waits for another job before it ends.
  private static let idleSeconds = 10.0

  private let condition = NSCondition()
  private var jobs: [UnownedJob] = []
  private var first = 0
  private var idle = 0
  private var threads = 0

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    condition.lock()
    jobs.append(job)
    if jobs.count - first > idle, threads < Self.threadsMax {
      threads += 1
      Thread.detachNewThread { self.work() }
    } else {
      condition.signal()
    }
    condition.unlock()
  }

  private func work() {
    condition.lock()
    while let job = next() {
      condition.unlock()
      job.runSynchronously(on: asUnownedTaskExecutor())
      condition.lock()
    }
    threads -= 1
    condition.unlock()
  }

  /// Under the lock. Nil: there was nothing for some time.
  private func next() -> UnownedJob? {
    if first == jobs.count {
      idle += 1
      let end = Date(timeIntervalSinceNow: Self.idleSeconds)
      while first == jobs.count, condition.wait(until: end) {}
      idle -= 1
    }
    guard first < jobs.count else { return nil }
    let job = jobs[first]
    first += 1
    if first == jobs.count {
      jobs.removeAll(keepingCapacity: true)
      first = 0
    }
    return job
  }
}
