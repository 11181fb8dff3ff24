// A real admin thread on a temporary Unix socket and a loopback port the kernel chose, and a client of raw sockets.
// Nothing here sleeps: every wait is a poll(2) with a deadline, or a condition that is looked at again.

import Glibc
import ProxyWire
import Synchronization
import Testing

@testable import ProxyCore

/// What tests may wait at most; reached only when something is broken.
let patience: UInt64 = 20_000_000_000

struct TestFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// An own folder, removed at the end.
final class TemporaryFolder {
  let path: String

  init() throws {
    var template = Array("/tmp/sky-admin-XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else { throw TestFailure("mkdtemp: \(errno)") }
    path = String(cString: made)
  }

  deinit {
    if let folder = opendir(path) {
      while let entry = readdir(folder) {
        let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        unlink("\(path)/\(name)")
      }
      closedir(folder)
    }
    rmdir(path)
  }

  func read(_ name: String) -> String {
    let fd = open("\(path)/\(name)", O_RDONLY)
    guard fd >= 0 else { return "" }
    defer { close(fd) }
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = Glibc.read(fd, &buffer, buffer.count)
      if count <= 0 { return String(decoding: result, as: UTF8.self) }
      result += buffer[..<count]
    }
  }
}

/// Looks until `condition` holds.
func eventually(_ what: String, _ condition: () -> Bool) throws {
  let deadline = monotonicNanoseconds() + patience
  while !condition() {
    guard monotonicNanoseconds() < deadline else { throw TestFailure("never: \(what)") }
    sched_yield()
  }
}

struct Reply {
  var status: Int
  var fields: [String: String]
  var body: [UInt8]
  var text: String { String(decoding: body, as: UTF8.self) }
}

/// One connection to the admin API.
final class AdminClient {
  let fd: Int32
  private var input: [UInt8] = []
  private var decoder = ChunkedDecoder()
  private var reports = ReportReader()
  private(set) var waiting: [Report] = []

  init(_ endpoint: Endpoint) throws {
    guard var address = SocketAddress(endpoint) else { throw TestFailure("no address \(endpoint)") }
    fd = socket(address.family, SocketType.stream, 0)
    let length = socklen_t(address.length)
    let fd = fd
    let result = address.withBytes { connect(fd, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }
    guard result == 0 else { throw TestFailure("connect \(endpoint): \(errno)") }
  }

  deinit { close(fd) }

  func send(_ text: String) throws { try send(Array(text.utf8)) }

  func send(_ bytes: [UInt8]) throws {
    var at = 0
    while at < bytes.count {
      let count = bytes.withUnsafeBytes { Glibc.send(fd, $0.baseAddress! + at, $0.count - at, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw TestFailure("send: \(errno)") }
      at += count
    }
  }

  /// False: end of stream.
  private func more() throws -> Bool {
    var watched = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    guard poll(&watched, 1, Int32(patience / 1_000_000)) > 0 else { throw TestFailure("no bytes came") }
    var buffer = [UInt8](repeating: 0, count: 262_144)
    let count = recv(fd, &buffer, buffer.count, 0)
    guard count > 0 else { return false }
    input += buffer[..<count]
    return true
  }

  /// Whether the other side has closed, and what it said before.
  func readToEnd() throws -> String {
    while try more() {}
    return String(decoding: input, as: UTF8.self)
  }

  /// Takes some bytes and forgets them. False: end of stream.
  func skim() throws -> Bool {
    defer { input = [] }
    return try more()
  }

  private func readHead() throws -> Reply {
    let end = Array("\r\n\r\n".utf8)
    var at = 0
    while true {
      if at + 4 <= input.count {
        if Array(input[at..<at + 4]) == end { break }
        at += 1
      } else if try !more() {
        throw TestFailure("closed within a head: \(String(decoding: input, as: UTF8.self))")
      }
    }
    let lines = String(decoding: input[..<at], as: UTF8.self).split(separator: "\r\n")
    input.removeSubrange(..<(at + 4))
    var fields: [String: String] = [:]
    for line in lines.dropFirst() {
      let sides = line.split(separator: ":", maxSplits: 1)
      fields[sides[0].lowercased()] = String(sides[1].drop { $0 == " " })
    }
    let words = lines[0].split(separator: " ")
    guard words.count >= 2, words[0] == "HTTP/1.1", let status = Int(words[1]) else {
      throw TestFailure("no status line: \(lines[0])")
    }
    return Reply(status: status, fields: fields, body: [])
  }

  func reply(isHead: Bool = false) throws -> Reply {
    var reply = try readHead()
    if reply.status == 100 || isHead { return reply }
    guard let length = reply.fields["content-length"].flatMap({ Int($0) }) else { throw TestFailure("no length") }
    while input.count < length { guard try more() else { throw TestFailure("closed within a body") } }
    reply.body = Array(input[..<length])
    input.removeSubrange(..<length)
    return reply
  }

  func request(
    _ method: String, _ target: String, _ body: [UInt8]? = nil, host: String = "localhost", fields: [String] = []
  ) throws -> Reply {
    var head = "\(method) \(target) HTTP/1.1\r\nHost: \(host)\r\n" + fields.map { $0 + "\r\n" }.joined()
    if let body { head += "Content-Length: \(body.count)\r\n" }
    try send(Array("\(head)\r\n".utf8) + (body ?? []))
    return try reply(isHead: method == "HEAD")
  }

  func put(_ snapshot: ReplicaSnapshot) throws -> Reply { try request("PUT", "/v1/replicas", snapshot.encode()) }

  func replicas() throws -> ReplicaList {
    let reply = try request("GET", "/v1/replicas")
    guard reply.status == 200 else { throw TestFailure(reply.text) }
    return try ReplicaList.decode(reply.body)
  }

  func subscribe(intervalMs: Int) throws {
    try send("GET /v1/reports?interval_ms=\(intervalMs) HTTP/1.1\r\nHost: admin\r\n\r\n")
    let head = try readHead()
    guard head.status == 200, head.fields["transfer-encoding"] == "chunked",
      head.fields["content-type"] == "application/x-ndjson"
    else { throw TestFailure("no stream: \(head)") }
  }

  func report() throws -> Report {
    while waiting.isEmpty {
      if input.isEmpty { guard try more() else { throw TestFailure("the stream ended") } }
      let (consumed, payload, verdict) = input.withUnsafeMutableBufferPointer {
        decoder.decode($0.baseAddress!, $0.count)
      }
      guard verdict == .more, consumed == input.count else { throw TestFailure("bad chunks: \(verdict)") }
      waiting += try reports.feed(input[..<payload])
      input = []
    }
    return waiting.removeFirst()
  }

  /// The next line that is not an interval.
  func event() throws -> Report {
    while true {
      let report = try report()
      if case .interval = report { continue }
      return report
    }
  }
}

/// Everything an admin thread needs, with workers that a test plays itself.
final class AdminHarness {
  let folder: TemporaryFolder
  let board: LoadBoard
  let counters: [CounterSet]
  let membership: Membership
  let server: AdminServer
  let path: String
  let drains = Shared<Int>(0)
  let isDraining = Shared<Bool>(false)

  final class Shared<Value: Sendable>: Sendable {
    private let value: Mutex<Value>
    init(_ value: Value) { self.value = Mutex(value) }
    func get() -> Value { value.withLock { $0 } }
    func set(_ new: Value) { value.withLock { $0 = new } }
  }

  init(
    places: Int = 32, replicasMax: Int = 16, workers: [WorkerView] = [], endpoints: [Endpoint] = [],
    hosts: [String] = [], limits: AdminLimits = AdminLimits(), resolver: Resolver? = nil, start: Bool = true
  ) throws {
    folder = try TemporaryFolder()
    path = "\(folder.path)/admin.sock"
    board = LoadBoard(capacity: places)
    let board = board
    counters = (0..<2).map { _ in CounterSet(replicas: board.capacity) }
    membership = Membership(board: board, counters: counters, replicasMax: replicasMax)
    let drains = drains
    let isDraining = isDraining
    server = AdminServer(
      endpoints: [.unix(path: path)] + endpoints, membership: membership, workers: workers, hosts: hosts,
      limits: limits,
      actions: AdminActions(
        drain: { drains.set(drains.get() + 1) }, isDraining: { isDraining.get() },
        hasOtherWays: { resolver?.hasOtherWays ?? false }, tryOtherWays: { resolver?.tryOtherWays(for: $0) }))
    if start { try server.start() }
  }

  deinit { server.stop() }

  func client() throws -> AdminClient { try AdminClient(.unix(path: path)) }

  /// What a worker does at the end of a turn, here of one in which `work` was done.
  func turn(_ work: () -> Void) {
    work()
    guard let end = board.shared.pointee.bell.takeDue() else { return }
    var byte: UInt8 = 0
    _ = send(end, &byte, 1, Int32(MSG_NOSIGNAL))
  }

  /// Takes one exchange on the replica at `place`, as a worker does.
  func take(_ place: Int) -> Lease {
    board.inFlight[place].wrappingAdd(1, ordering: .acquiringAndReleasing)
    return board.lease(UInt32(place))
  }
}

func entry(
  _ id: String, generation: UInt64 = 1, port: UInt16 = 8000, weight: Double = 1, maxInFlight: Int = 0,
  _ state: ReplicaEntry.State = .ready, drainDeadline: Double? = nil
) -> ReplicaEntry {
  ReplicaEntry(
    id: id, generation: generation, address: .ipv4(0x0A00_0001, port: port), weight: weight, maxInFlight: maxInFlight,
    state: state, drainDeadline: drainDeadline)
}

func snapshot(_ version: UInt64, _ entries: [ReplicaEntry]) -> ReplicaSnapshot {
  ReplicaSnapshot(version: version, allowEmpty: entries.isEmpty, replicas: entries)
}
