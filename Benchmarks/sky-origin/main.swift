// The benchmark origin: a server whose every answer is described by the request, and a stand-in for an
// OpenAI-compatible model server. It runs on the product's own ring so that it is never what limits a measurement.

import BenchKit
import Glibc
import ProxyCore

struct OriginOptions: Sendable {
  var listen: [String] = []
  var workers = 1
  var maxConnections = 20000
  var model = ModelOptions()
  var quiet = false
}

let table = FlagTable<OriginOptions>(
  tool: "sky-origin", purpose: "a benchmark origin whose answers are described by the requests",
  flags: [
    Flag("listen", "ADDR:PORT", "where to listen; repeat it for more replicas; ADDR:PORT+N for N ports from PORT on") {
      (options, text) throws(FlagProblem) in options.listen.append(text)
    },
    .count("workers", 1...256, \.workers, "threads; the listening addresses are shared out between them (1)"),
    .count("max-connections", 1...1_000_000, \.maxConnections, "connections per worker (20000)"),
    .count("slots", 0...1_000_000, \.model.slots, "model: requests a replica works on at once; 0: no limit (0)"),
    .count(
      "queue", 0...1_000_000, \.model.queue, "model: requests that may wait for one; further ones get 503 (no limit)"),
    .number(
      "prefill-ms", "MS", 0...600_000, \.model.prefillMs, "model: time to the first token, whatever the prompt (0)"),
    .number(
      "prefill-ms-per-kb", "MS", 0...600_000, \.model.prefillMsPerKb, "model: further time per 1024 bytes of prompt (0)"
    ),
    .number("token-ms", "MS", 0...600_000, \.model.tokenMs, "model: time between tokens (0)"),
    .number(
      "token-slope-us", "US", 0...1_000_000, \.model.tokenSlopeUs,
      "model: added to it for every other request at work (0)"),
    .count("tokens", 1...1_000_000, \.model.tokens, "model: tokens of an answer where max_tokens is missing (16)"),
    .on("quiet", \.quiet, "say nothing at start"),
  ],
  closing: "A request describes its answer with a query (/?size=1000&delay_ms=5) or fields (X-Sky-Size: 1000):\n"
    + AnswerSpec.keys.map { "  \(left("\($0.name)", 14))\($0.doc)\n" }.joined()
      + """

      Further paths:
        /health, /v1/models, /v1/completions, /v1/chat/completions   as model servers have them; "stream", "max_tokens"
        /sky/refuse     the port that is asked refuses connections for for_ms, and cuts the ones it has
        /sky/stats      counts of this replica as JSON
      """)

let options = table.parseOrExit(OriginOptions())
signal(SIGPIPE, SIG_IGN)
raiseDescriptors()

func listenAddresses() throws(FlagProblem) -> [SocketAddress] {
  var result: [SocketAddress] = []
  for text in options.listen.isEmpty ? ["127.0.0.1:9000"] : options.listen {
    let parts = text.split(separator: "+")
    let more = parts.count == 2 ? Int(parts[1]) ?? 0 : 1
    guard parts.count <= 2, (1...4096).contains(more) else {
      throw FlagProblem("--listen \(text): write ADDR:PORT or ADDR:PORT+N")
    }
    let first = try loopback(String(parts[0]), wildcard: true, ports: 0...65535)
    for step in 0..<more {
      var address = first
      if step > 0 {
        let port = first.port == 0 ? 0 : first.port + UInt16(step)
        address.withBytes { $0.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self) }
      }
      result.append(address)
    }
  }
  return result
}

do throws(FlagProblem) {
  let addresses = try listenAddresses()
  var shares: [[OriginListener]] = Array(repeating: [], count: min(options.workers, addresses.count))
  for (index, address) in addresses.enumerated() {
    var address = address
    let fd = openListener(&address)
    guard fd >= 0 else { throw FlagProblem("cannot listen on \(address.text): \(String(cString: strerror(-fd)))") }
    shares[index % shares.count].append(OriginListener(fd: fd, address: address))
    if !options.quiet { complain("listening address=\(address.text)") }
  }
  let pattern = BodyPattern()
  let (capacity, model) = (options.maxConnections, options.model)
  let threads = shares.map { share in
    Thread {
      var worker = OriginWorker(listeners: share, capacity: capacity, model: model, pattern: pattern)
      worker.run()
    }
  }
  if !options.quiet { complain("ready") }
  for thread in threads { thread.join() }
} catch {
  complain("sky-origin: \(error.text)")
  exit(1)
}
