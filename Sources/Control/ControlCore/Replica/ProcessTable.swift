// What /proc says of processes: who descends from whom, which belong to a replica. Used by the shim,
// which ends its descendants, and by LocalInfra, which makes sure that nothing was left.

import CPlatform
import Foundation

enum ProcessTable {
  static var all: [pid_t] {
    ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).compactMap { pid_t($0) }
  }

  /// Everybody's children, by the parent.
  static func children() -> [pid_t: [pid_t]] {
    var result: [pid_t: [pid_t]] = [:]
    for pid in all {
      let parent = sky_parent(String(pid))
      if parent > 0 { result[parent, default: []].append(pid) }
    }
    return result
  }

  /// Processes that began with NAME=VALUE in their environment.
  static func having(_ name: String, _ value: String) -> [pid_t] {
    let wanted = Array("\(name)=\(value)".utf8)
    return all.filter { pid in
      guard pid != getpid(), let bytes = readBytes("/proc/\(pid)/environ") else { return false }
      return bytes.split(separator: 0).contains { $0.elementsEqual(wanted) }
    }
  }

  static func readFile(_ path: String) -> String? { readBytes(path).map { String(decoding: $0, as: UTF8.self) } }

  private static func readBytes(_ path: String) -> [UInt8]? { (try? StoreFile.read(path)) ?? nil }
}
