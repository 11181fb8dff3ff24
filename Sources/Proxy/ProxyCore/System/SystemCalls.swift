// What the cold rooms ask of the system in more than one place: the time of day, kinds of sockets, what an errno means.
// Never called by a worker.

import Glibc

/// Nanoseconds since 1970.
func wallNanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_REALTIME, &time)
  return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// As socket(2) takes them. The C enumeration is not used: two C modules bring it, and files that import only one of
/// them may not see it.
enum SocketType {
  static let stream: Int32 = 1
  static let nonBlocking: Int32 = 0o4000
  static let closeOnExec: Int32 = 0o2_000_000
}

/// `No such file or directory`.
func errorText(_ code: Int32) -> String {
  var text = [CChar](repeating: 0, count: 256)
  guard strerror_r(code, &text, text.count) == 0 else { return "error \(code)" }
  return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
