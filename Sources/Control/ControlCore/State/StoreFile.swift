// Files as the Store needs them: private, written whole, on disk when it says so.

import Foundation

final class StoreFile {
  private let descriptor: Int32
  private let path: String

  /// Opened for reading and appending; closed in children.
  init(_ path: String, create: Bool) throws(StoreError) {
    self.path = path
    descriptor = open(path, O_RDWR | O_APPEND | O_CLOEXEC | (create ? O_CREAT : 0), 0o600)
    if descriptor < 0 { throw Self.failure("open", path) }
    // An earlier file may have been copied here with other rights.
    _ = fchmod(descriptor, 0o600)
  }

  deinit { close(descriptor) }

  /// False: somebody else holds it.
  func lock() -> Bool { flock(descriptor, LOCK_EX | LOCK_NB) == 0 }

  /// Tries for a moment.
  func lock(withinMs milliseconds: Int) -> Bool {
    for _ in 0..<milliseconds / 10 {
      if lock() { return true }
      usleep(10_000)
    }
    return lock()
  }

  func firstLine() -> String? {
    (try? Self.read(path)).flatMap { $0 }.map { String(decoding: $0.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self) }
  }

  func append(_ bytes: [UInt8]) throws(StoreError) {
    var sent = 0
    while sent < bytes.count {
      let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + sent, bytes.count - sent) }
      if count < 0 {
        if errno == EINTR { continue }
        throw Self.failure("write", path)
      }
      sent += count
    }
  }

  func sync() throws(StoreError) {
    if fdatasync(descriptor) != 0 { throw Self.failure("sync", path) }
  }

  func truncate(to size: Int) throws(StoreError) {
    if ftruncate(descriptor, off_t(size)) != 0 || fdatasync(descriptor) != 0 { throw Self.failure("truncate", path) }
  }

  func replaceContents(_ text: String) throws(StoreError) {
    try truncate(to: 0)
    try append(Array(text.utf8))
  }

  // MARK: Whole files

  /// nil: there is none.
  static func read(_ path: String) throws(StoreError) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 {
      if errno == ENOENT { return nil }
      throw failure("open", path)
    }
    defer { close(descriptor) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = buffer.withUnsafeMutableBytes { Foundation.read(descriptor, $0.baseAddress!, $0.count) }
      if count < 0 {
        if errno == EINTR { continue }
        throw failure("read", path)
      }
      if count == 0 { return all }
      all.append(contentsOf: buffer[..<count])
    }
  }

  /// Readers see the old contents or the new, never a part.
  @discardableResult
  static func replace(_ path: String, with bytes: [UInt8]) throws(StoreError) -> StoreFile {
    let fresh = path + ".new"
    unlink(fresh)
    let file = try StoreFile(fresh, create: true)
    try file.append(bytes)
    try file.sync()
    if rename(fresh, path) != 0 { throw failure("rename", fresh) }
    try syncFolder(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
    return file
  }

  static func makeFolder(_ path: String) throws(StoreError) {
    do throws(PrivateFile.Failure) { try PrivateFile.makeFolder(path) } catch {
      throw StoreError(.io, error.description)
    }
    if chmod(path, 0o700) != 0 { throw failure("protect", path) }
  }

  /// Names in a folder are on disk only after this.
  static func syncFolder(_ path: String) throws(StoreError) {
    let descriptor = open(path.isEmpty ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if descriptor < 0 { throw failure("open", path) }
    defer { close(descriptor) }
    if fsync(descriptor) != 0 { throw failure("sync", path) }
  }

  private static func failure(_ verb: String, _ path: String) -> StoreError {
    let code = errno
    let reason = String(cString: strerror(code))
    return StoreError([ENOSPC, EDQUOT].contains(code) ? .full : .io, "cannot \(verb) \(path): \(reason)")
  }
}
