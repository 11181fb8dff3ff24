// Where the Controller runs: a queue of its own, because it waits for the disk with every command, and that must not
// hold up anybody else's work.

import Dispatch

final class ControllerThread: SerialExecutor {
  private let queue = DispatchQueue(label: "sky-controller", qos: .userInitiated)

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
  }

  func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}
