// What the tools need of sockets beside the ring, and of the process around them.

import Glibc
import ProxyCore
import ProxyWire

package func unmap<T>(_ memory: UnsafeMutablePointer<T>, _ count: Int) {
  munmap(UnsafeMutableRawPointer(memory), max(1, count) * MemoryLayout<T>.stride)
}

package func monotonicNs() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A loopback address with its port: the tools neither send to nor listen for anyone else, except that listening on
/// every address (`:PORT`) is allowed where `wildcard` says so.
package func loopback(_ text: String, wildcard: Bool = false, ports: ClosedRange<Int> = 1...65535) throws(FlagProblem)
  -> SocketAddress
{
  let full = text.hasPrefix(":") ? (wildcard ? "0.0.0.0" : "127.0.0.1") + text : text
  let endpoint: Endpoint
  do throws(EndpointError) { endpoint = try Endpoint.parse(full, ports: ports) } catch {
    throw FlagProblem(error.reason)
  }
  guard endpoint.isLoopback || (wildcard && endpoint.host == "0.0.0.0"), let address = SocketAddress(endpoint) else {
    throw FlagProblem("\(text): only loopback addresses (127.x.y.z:PORT) are used by the benchmarks")
  }
  return address
}

/// As many descriptors as the hard limit allows.
package func raiseDescriptors() {
  var limit = rlimit()
  getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  limit.rlim_cur = limit.rlim_max
  setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Keeps the receive window small, so that a client that does not read stops its sender after about this much.
package func setReceiveBuffer(_ fd: Int32, _ bytes: Int32) {
  var value = bytes
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, socklen_t(MemoryLayout<Int32>.size))
}

/// A ring for one thread of a tool, or the reason why there is none, on standard error.
package func openRing(buffers: Int = 1024, bufferBytes: Int = 65536, completions: UInt32 = 32768) -> UringIO {
  do throws(RingError) {
    var options = RingOptions()
    options.buffers = buffers
    options.bufferBytes = bufferBytes
    options.completions = completions
    return try UringIO(options, features: try RingProbe.run(), wakeFd: -1)
  } catch {
    complain(error.advice)
    exit(1)
  }
}

/// A thread that can be waited for.
package final class Thread: @unchecked Sendable {
  private var handle = pthread_t()
  private let body: @Sendable () -> Void

  package init(_ body: @escaping @Sendable () -> Void) {
    self.body = body
    let code = pthread_create(
      &handle, nil,
      { context in
        Unmanaged<Thread>.fromOpaque(context!).takeRetainedValue().body()
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    precondition(code == 0, "no thread could be started")
  }

  package func join() { pthread_join(handle, nil) }
}
