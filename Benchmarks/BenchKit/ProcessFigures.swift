// CPU time and memory of other processes. The clock of a process counts nanoseconds; /proc/PID/stat counts ticks of 4
// to 10 ms, which is too coarse for slices of half a second.

import Glibc

package enum ProcessFigures {
  /// Nanoseconds of CPU that the process has used, all threads together; nil when it is gone.
  package static func cpuNs(_ pid: Int32) -> UInt64? {
    var clock = clockid_t()
    var time = timespec()
    guard clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 else { return nil }
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  package static func cpuNs(_ pids: [Int32]) -> UInt64 {
    pids.reduce(0) { $0 + (cpuNs($1) ?? 0) }
  }

  /// A line of /proc/PID/status in KiB, such as VmRSS or RssAnon.
  package static func statusKiB(_ pid: Int32, _ name: String) -> Int {
    field(read("/proc/\(pid)/status"), name)
  }

  package static func residentKiB(_ pids: [Int32]) -> Int { pids.reduce(0) { $0 + statusKiB($1, "VmRSS") } }

  static func field(_ text: String, _ name: String) -> Int {
    for line in text.split(separator: "\n") where line.hasPrefix(name + ":") {
      return Int(line.dropFirst(name.count + 1).filter(\.isNumber)) ?? 0
    }
    return 0
  }

  package static func read(_ path: String) -> String { String(decoding: readBytes(path) ?? [], as: UTF8.self) }
}

/// A whole file, or nil.
package func readBytes(_ path: String) -> [UInt8]? {
  guard let file = fopen(path, "r") else { return nil }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var block = [UInt8](repeating: 0, count: 65536)
  while true {
    let count = fread(&block, 1, block.count, file)
    if count <= 0 { return bytes }
    bytes += block[..<count]
  }
}

@discardableResult
package func writeText(_ path: String, _ text: String) -> Bool {
  guard let file = fopen(path, "w") else { return false }
  var text = text
  let written = text.withUTF8 { fwrite($0.baseAddress, 1, $0.count, file) == $0.count }
  return fclose(file) == 0 && written
}
