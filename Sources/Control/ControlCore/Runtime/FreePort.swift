// Whether a port can be listened on now: by trying. Somebody may take it a moment later; the proxy then says so.

import CPlatform
import Glibc
import ProxyWire

enum FreePort {
  static func isFree(_ port: Int, host: String) -> Bool {
    let text = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    switch try? Endpoint.parse(text) {
    case .ipv4(let address, let port):
      var form = sockaddr_in()
      form.sin_family = sa_family_t(AF_INET)
      form.sin_port = port.bigEndian
      form.sin_addr.s_addr = address.bigEndian
      return isFree(AF_INET, form)
    case .ipv6(let high, let low, let port):
      var form = sockaddr_in6()
      form.sin6_family = sa_family_t(AF_INET6)
      form.sin6_port = port.bigEndian
      withUnsafeMutableBytes(of: &form.sin6_addr) { bytes in
        bytes.storeBytes(of: high.bigEndian, as: UInt64.self)
        bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
      }
      return isFree(AF_INET6, form)
    case .name, .unix, nil: return false
    }
  }

  private static func isFree<Form>(_ family: Int32, _ form: Form) -> Bool {
    let fd = sky_stream_socket(family)
    guard fd >= 0 else { return false }
    defer { close(fd) }
    // Connections that have ended there are no hindrance.
    var yes: Int32 = 1
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    return withUnsafeBytes(of: form) { bytes in
      bind(fd, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count)) == 0
        && listen(fd, 1) == 0
    }
  }
}
