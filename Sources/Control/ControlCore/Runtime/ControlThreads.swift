// Where the controller's work runs: one thread for all that changes, as many as it takes for all that may block.
// A simulation brings its own.

package struct ControlThreads: Sendable {
  /// The Controller's.
  package var controller: any SerialExecutor
  /// For infra calls and files.
  package var blocking: any TaskExecutor

  package init(controller: any SerialExecutor, blocking: any TaskExecutor) {
    self.controller = controller
    self.blocking = blocking
  }

  package static func ofTheMachine() -> ControlThreads {
    ControlThreads(controller: ControllerThread(), blocking: BlockingThreads.shared)
  }
}
