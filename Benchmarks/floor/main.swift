// The floor: a relay on the product's own ring that parses nothing but framing. What it costs is what the kernel costs;
// the proxy's distance to it is what its features cost. It trusts both sides and is for benchmarks only.
//
// A client's bytes go to a replica picked in turn, the replica's bytes come back, and the end of the response (length,
// or the last chunk) frees the replica's connection for the next request.

import BenchKit
import Glibc
import ProxyCore

struct FloorOptions: Sendable {
  var listen = "127.0.0.1:8080"
  var replicas: [String] = []
  var connections = 20000
  var buffers = 1024
}

let table = FlagTable<FloorOptions>(
  tool: "sky-floor", purpose: "the least a relay can cost: no routing, no rewriting, no limits, no deadlines",
  flags: [
    .text("listen", "ADDR:PORT", \.listen, "where clients connect (127.0.0.1:8080)"),
    Flag("replica", "ADDR:PORT", "a server to relay to; repeatable") { (options, text) throws(FlagProblem) in
      options.replicas.append(text)
    },
    .count("connections", 1...1_000_000, \.connections, "connections of both sides (20000)"),
    .count("buffers", 8...32768, \.buffers, "buffers of 64 KiB, a power of two (1024)"),
  ])

let options = table.parseOrExit(FloorOptions())
signal(SIGPIPE, SIG_IGN)
raiseDescriptors()
do throws(FlagProblem) {
  guard !options.replicas.isEmpty else { throw FlagProblem("--replica is missing") }
  var address = try loopback(options.listen, wildcard: true, ports: 0...65535)
  var replicas: [SocketAddress] = []
  for text in options.replicas { replicas.append(try loopback(text)) }
  let listener = openListener(&address)
  guard listener >= 0 else { throw FlagProblem("--listen \(options.listen): \(String(cString: strerror(-listener)))") }
  complain("listening address=\(address.text)")
  var relay = Relay(listener: listener, replicas: replicas, capacity: options.connections, buffers: options.buffers)
  relay.run()
} catch {
  complain("sky-floor: \(error.text)")
  exit(1)
}
