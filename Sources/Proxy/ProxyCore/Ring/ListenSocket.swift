// Listening sockets: one per worker and address, SO_REUSEPORT, so that the kernel spreads connections without a lock
// between the workers. Accepted sockets inherit TCP_NODELAY. `[::]` takes IPv4 clients too.

import CLiburing

/// A bound, listening, close-on-exec socket; or a negated errno. With port 0 the address is completed with the port
/// the kernel chose. `backlog`: connections that may wait to be accepted (man 2 listen); below 0 it is bound only.
/// `shared`: other sockets that are shared too may have the same address; without, it fails while anybody listens
/// there. `keepaliveSeconds`: idle time after which the kernel probes accepted peers; 0 = never.
package func openListener(
  _ address: inout SocketAddress, backlog: Int32 = 4096, shared: Bool = true, keepaliveSeconds: UInt32 = 0
) -> Int32 {
  var length = address.length
  let fd = withUnsafeMutableBytes(of: &address.storage) {
    sky_open_listener($0.baseAddress, &length, UInt32($0.count), backlog, shared ? 1 : 0)
  }
  address.length = length
  if fd >= 0 && address.family != Int32(AF_UNIX) { sky_keepalive(fd, keepaliveSeconds) }
  return fd
}
