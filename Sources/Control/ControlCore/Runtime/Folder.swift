// Folders as the controller keeps them: removed whole, looked through by name.

import Foundation

enum Folder {
  /// Bytes after which a log begins again; one earlier file is kept.
  static let logBytesMax = 64 << 20

  /// Of replicas whose records are gone, this many of the newest keep their logs.
  static let replicasKept = 20

  /// What lies in it, sorted; nothing where it is not there.
  static func names(_ path: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
  }

  /// Whatever lies there, also what was made read-only. False: some of it is left.
  @discardableResult
  static func remove(_ path: String) -> Bool {
    let files = FileManager.default
    if (try? files.removeItem(atPath: path)) != nil { return true }
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return true }
    guard facts.st_mode & S_IFMT == S_IFDIR else { return false }
    let walk = files.enumerator(atPath: path)
    chmod(path, 0o700)
    while let name = walk?.nextObject() as? String {
      let inner = path + "/" + name
      if lstat(inner, &facts) == 0, facts.st_mode & S_IFMT == S_IFDIR { chmod(inner, 0o700) }
    }
    return (try? files.removeItem(atPath: path)) != nil
  }

  /// The same files under another name, without copying what is in them where that is possible.
  static func duplicate(_ path: String, as copy: String) throws {
    guard FileManager.default.fileExists(atPath: path) else { return try PrivateFile.makeFolder(copy) }
    do { try FileManager.default.linkItem(atPath: path, toPath: copy) } catch {
      remove(copy)
      try FileManager.default.copyItem(atPath: path, toPath: copy)
    }
  }

  /// Removes folders named by ids below `below` that are not in `keep`, but for the newest few; those, too, when they
  /// have not changed for `seconds`.
  static func prune(_ path: String, keep: Set<Int>, below: Int, seconds: Double?) {
    let old = names(path).compactMap { Int($0) }.filter { $0 < below && !keep.contains($0) }.sorted()
    for id in old.dropLast(replicasKept) { remove(path + "/\(id)") }
    guard let seconds else { return }
    for id in old.suffix(replicasKept) {
      var facts = stat()
      guard lstat(path + "/\(id)", &facts) == 0 else { continue }
      if HostClock.wall - Double(facts.st_mtim.tv_sec) > seconds { remove(path + "/\(id)") }
    }
  }

  /// A log that others hold open and append to: what is in it goes to `<path>.1`, and it begins again. A line that is
  /// written in that very moment may be lost.
  static func rotateLog(_ path: String, bytesMax: Int = logBytesMax) {
    guard let file = LogFile(path), file.size > bytesMax else { return }
    guard let copy = try? StoreFile(path + ".1.new", create: true), (try? copy.truncate(to: 0)) != nil else { return }
    var offset = 0
    while case let bytes = file.read(at: offset, 1 << 20), !bytes.isEmpty {
      guard (try? copy.append(bytes)) != nil else { return }
      offset += bytes.count
    }
    if rename(path + ".1.new", path + ".1") == 0 { truncate(path, 0) }
  }
}
