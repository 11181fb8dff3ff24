// One at a time starts or ends a replica's shim, whoever that is: tasks of this process, or those of one that was
// killed and of the next. The lock is the descriptor's, so it goes with the process.

import CPlatform
import Foundation

struct LocalTurn: Sendable {
  static let givenUp = InfraError(.failed, "the launch was given up")

  private let fd: Int32

  /// Waits for it.
  static func take(_ folder: ReplicaFolder) async throws(InfraError) -> LocalTurn {
    while true {
      if let turn = try attempt(folder) { return turn }
      do { try await Task.sleep(for: .milliseconds(10)) } catch { throw givenUp }
    }
  }

  /// nil: somebody has it, or it cannot be had.
  static func ifFree(_ folder: ReplicaFolder) -> LocalTurn? { (try? attempt(folder)) ?? nil }

  func end() { close(fd) }

  private static func attempt(_ folder: ReplicaFolder) throws(InfraError) -> LocalTurn? {
    let fd = sky_open(folder.turnLock, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    if fd < 0 { throw InfraError(.failed, "cannot open \(folder.turnLock): \(errorText(errno))") }
    var (mine, there) = (stat(), stat())
    // One that was removed by who had it before is nobody's any more.
    if flock(fd, LOCK_EX | LOCK_NB) == 0, fstat(fd, &mine) == 0, stat(folder.turnLock, &there) == 0,
      mine.st_ino == there.st_ino
    {
      return LocalTurn(fd: fd)
    }
    close(fd)
    return nil
  }
}
