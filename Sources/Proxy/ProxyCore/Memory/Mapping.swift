// Memory taken once at start: anonymous mappings, zeroed, and touched by the kernel only when used. What a limit allows
// costs address space; what is in use costs memory.

import Glibc

/// Told of each mapping by tools that make thousands of workers and take their memory back; the proxy has none.
package nonisolated(unsafe) var mapped: ((UnsafeMutableRawPointer, Int) -> Void)?

/// Zeroed room for `count` values that lives as long as the process, which ends here when there is no address space
/// left for it. Zero bytes must be a valid value of `T`.
package func mapZeroed<T: ~Copyable>(_ count: Int, of type: T.Type = T.self) -> UnsafeMutablePointer<T> {
  let bytes = max(1, count) * MemoryLayout<T>.stride
  let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
  guard let memory, memory != MAP_FAILED else {
    say(
      "no room for \(bytes >> 10) KiB: \(String(cString: strerror(errno))); raise the limit of the address space "
        + "(ulimit -v), or lower what --print-plan shows")
    exit(1)
  }
  mapped?(memory, bytes)
  return memory.bindMemory(to: type, capacity: max(1, count))
}
