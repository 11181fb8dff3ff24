// Small pieces of the hot path on their own: nanoseconds per operation, min, median and max of nine batches. They find
// regressions that whole-proxy runs bury in the kernel's share. `--tiny` runs each once, for the tests.

import BenchKit
import Glibc
import ProxyCore

struct MicroOptions: Sendable {
  var isTiny = false
  var only = ""
  var json = ""
}

let table = FlagTable<MicroOptions>(
  tool: "sky-micro", purpose: "times pieces of the hot path: heads, picking, deadlines, histograms",
  flags: [
    .on("tiny", \.isTiny, "a few operations of each only, to see that they work"),
    .text("only", "TEXT", \.only, "those whose name contains this"),
    .text("json", "FILE", \.json, "write the figures as JSON"),
  ])
let options = table.parseOrExit(MicroOptions())

nonisolated(unsafe) var figures: [(name: String, spread: Spread)] = []
/// What operations return goes here, so that they are not optimised away.
nonisolated(unsafe) var sink: UInt64 = 0

/// Times `body`, which performs the given number of operations.
func measure(_ name: String, _ body: (Int) -> UInt64) {
  guard options.only.isEmpty || name.contains(options.only) else { return }
  if options.isTiny {
    sink &+= body(10)
    print("\(name): ok")
    return
  }
  // As many operations as take about 20 ms.
  var count = 1000
  while true {
    let from = monotonicNs()
    sink &+= body(count)
    let took = monotonicNs() - from
    if took > 10_000_000 || count > 1 << 28 { break }
    count = took == 0 ? count * 10 : max(count * 2, Int(Double(count) * 20_000_000 / Double(took)))
  }
  var batches: [Double] = []
  for _ in 0..<9 {
    let from = monotonicNs()
    sink &+= body(count)
    batches.append(Double(monotonicNs() - from) / Double(count))
  }
  let spread = Spread(batches)!
  figures.append((name, spread))
  print(
    left(name, 34) + right(fixed(spread.median, 1), 10) + " ns  [\(fixed(spread.least, 1)) .. \(fixed(spread.most, 1))]"
  )
}

// MARK: heads

func copied(_ text: String) -> (UnsafePointer<UInt8>, Int) {
  let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: text.utf8.count + 64)
  var out = ByteOut(memory, capacity: text.utf8.count)
  out.put(text)
  return (UnsafePointer(memory), out.count)
}

let usual =
  "POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: OpenAI/Python 1.51.0\r\n"
  + "Accept: application/json\r\n"
  + "Accept-Encoding: gzip, deflate\r\nContent-Type: application/json\r\n"
  + "Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n"
  + "Content-Length: 512\r\n\r\n"
/// CR LF is one Character.
let long =
  usual.dropLast() + (1...11).map { "X-Stainless-Field-\($0): \(String(repeating: "v", count: 60))\r\n" }.joined()
  + "\r\n"
let answer =
  "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nServer: uvicorn\r\n"
  + "Content-Type: text/event-stream; charset=utf-8\r\n"
  + "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"

func heads() {
  var fields = FieldTable.allocate(capacity: 256)
  defer { fields.deallocate() }
  let limits = HeadLimits()
  let out = UnsafeMutablePointer<UInt8>.allocate(capacity: 65536)
  defer { out.deallocate() }
  let (address, addressCount) = copied("127.0.0.1")
  let (via, viaCount) = copied("sky-proxy")
  for (name, text) in [("usual, \(usual.utf8.count) bytes", usual), ("long, \(long.utf8.count) bytes", String(long))] {
    let (bytes, count) = copied(text)
    var head = RequestHead()
    measure("parse request head (\(name))") { times in
      var sum = 0
      for _ in 0..<times {
        guard parseRequestHead(bytes, count, limits: limits, fields: &fields, head: &head) == .complete else {
          fatalError("not a head")
        }
        sum &+= head.headBytes
      }
      return UInt64(sum)
    }
    _ = parseRequestHead(bytes, count, limits: limits, fields: &fields, head: &head)
    let context = ForwardContext(
      clientAddress: address, clientAddressCount: addressCount, isTLS: false, requestIdHigh: 0x0123_4567_89AB_CDEF,
      requestIdLow: 42,
      forwarded: .append, viaName: via, viaNameCount: viaCount, fallbackHost: address, fallbackHostCount: addressCount)
    measure("rewrite request head (\(name))") { times in
      var sum = 0
      for _ in 0..<times {
        guard let written = writeRequestHead(head, fields, bytes, context, into: out, capacity: 65536) else {
          fatalError("no room")
        }
        sum &+= written.count
      }
      return UInt64(sum)
    }
  }
  let (bytes, count) = copied(answer)
  var head = ResponseHead()
  measure("parse response head (\(count) bytes)") { times in
    var sum = 0
    for _ in 0..<times {
      guard
        parseResponseHead(
          bytes, count, limits: limits, requestWasHead: false, upgradeOffered: false, fields: &fields, head: &head)
          == .complete
      else { fatalError("not a head") }
      sum &+= head.headBytes
    }
    return UInt64(sum)
  }
  measure("rewrite response head (\(count) bytes)") { times in
    var sum = 0
    for _ in 0..<times {
      sum &+=
        writeResponseHead(head, fields, bytes, clientIsHTTP10: false, close: false, into: out, capacity: 65536) ?? 0
    }
    return UInt64(sum)
  }
}

// MARK: picking

func picking() {
  for replicas in [1, 10, 100, 1000, 10_000] {
    let board = LoadBoard(capacity: replicas)
    for index in 0..<replicas {
      board.admit(index, at: .ipv4(127, 0, 0, 1, port: 9000), weight: 1, maxInFlight: 0, draining: false)
    }
    // Each replica is busy once, so that a pick looks at all of them, as in a loaded service.
    for index in 0..<replicas { board.inFlight[index].store(1, ordering: .relaxed) }
    let held = UnsafeMutablePointer<Lease>.allocate(capacity: 64)
    held.initialize(repeating: .none, count: 64)
    measure("pick and release, \(replicas) replicas") { times in
      var sum: UInt64 = 0
      for turn in 0..<times {
        // 64 exchanges open at a time.
        board.release(&held[turn & 63])
        guard case .replica(let lease) = board.pick(Ask(isHarmless: true, now: 1)) else {
          fatalError("nobody")
        }
        held[turn & 63] = lease
        sum &+= UInt64(lease.replica)
      }
      return sum
    }
    held.deallocate()
  }
}

// MARK: deadlines and histograms

func deadlines() {
  let slots: UInt32 = 10_000
  var now: UInt64 = 1_000_000_000
  var wheel = TimerWheel(capacity: Int(slots), now: now)
  for slot in 0..<slots { wheel.set(slot, at: now + 75_000_000_000) }
  measure("deadline moved later, 10,000 set") { times in
    for turn in 0..<times {
      now &+= 10
      wheel.set(UInt32(turn) % slots, at: now + 75_000_000_000)
    }
    return wheel.nextWake
  }
  measure("deadline cleared and set sooner") { times in
    for turn in 0..<times {
      let slot = UInt32(turn) % slots
      wheel.clear(slot)
      wheel.set(slot, at: now + UInt64(turn & 1023) * 1_000_000)
    }
    return wheel.nextWake
  }
  var quick = TimerWheel(capacity: Int(slots), now: now)
  var clock = now
  measure("deadline set and expired") { times in
    var sum: UInt64 = 0
    for turn in 0..<times {
      quick.set(UInt32(turn) % slots, at: clock + 5_000_000)
      clock &+= 100_000
      while let slot = quick.expired(now: clock) { sum &+= UInt64(slot) }
    }
    return sum
  }
  let histogram = CounterSet(replicas: 1).histogram(.duration, of: 0)
  measure("histogram record") { times in
    var value: UInt64 = 1
    for _ in 0..<times {
      value = value &* 6_364_136_223_846_793_005 &+ 1
      histogram.record(value >> 40)
    }
    return histogram.sum.pointee
  }
  let fine = LatencyHistogram()
  measure("load generator's histogram record") { times in
    var value: UInt64 = 1
    for _ in 0..<times {
      value = value &* 6_364_136_223_846_793_005 &+ 1
      fine.record(value >> 40)
    }
    return fine.count
  }
}

heads()
picking()
deadlines()
if !options.json.isEmpty {
  let rows = figures.map { name, spread in
    "{\"name\":\(quotedJson(name)),\"ns\":{\"min\":\(fixed(spread.least, 2)),"
      + "\"median\":\(fixed(spread.median, 2)),\"max\":\(fixed(spread.most, 2))}}"
  }
  writeText(options.json, "[\n" + rows.joined(separator: ",\n") + "\n]\n")
}
if sink == 1 { print("") }
