// The runtime's small parts, each by itself.

import Foundation
import ProxyWire
import TestSupport
import Testing

@testable import ControlCore

@Suite struct RuntimePartsTests {
  @Test func theQueueHoldsANameOnceWithItsEarliestTime() {
    var queue = WorkQueue()
    queue.add("a", notBefore: 5)
    queue.add("b", notBefore: 3)
    queue.add("a", notBefore: 9)
    #expect(queue.earliest == 3)
    let taken = [2.0, 10, 10, 10].map { queue.take(now: $0) }
    #expect(taken == [nil, "b", "a", nil])
    queue.add("c", notBefore: 1)
    queue.remove("c")
    #expect(queue.isEmpty && queue.earliest == nil)
  }

  @Test func factsFromBeforeAnOperationDoNotCount() {
    var operations = Operations()
    let before = operations.marks
    #expect(operations.isFresh(1, since: before))
    let launch = operations.begin(.launch, 1)
    let during = operations.marks
    #expect(!operations.isFresh(1, since: before) && !operations.isFresh(1, since: during))
    #expect(operations.isFresh(2, since: before), "others are not concerned")
    let news = [true, true].map { operations.progress(launch, "waits", isWaiting: $0) }
    #expect(news == [true, false], "the same again is nothing new")
    #expect(operations.facts == [1: .launching(detail: "waits")] && operations.launches == 0)
    // A stop takes over; the launch's end is nobody's any more.
    let stop = operations.begin(.stop, 1)
    let isLaunchs = operations.end(launch, failure: .launchFailed(reason: "called off"))
    #expect(!isLaunchs)
    #expect(operations.facts == [1: .stopping])
    let isStops = operations.end(stop, failure: .stopFailed(attempt: 1, reason: "no"))
    #expect(isStops)
    #expect(operations.facts == [1: .stopFailed(attempt: 1, reason: "no")])
    #expect(!operations.isFresh(1, since: during) && operations.isFresh(1, since: operations.marks))
    operations.tidy(known: [], marks: operations.marks)
    #expect(operations.facts.isEmpty && operations.isEmpty)
  }

  /// However far the wall clock was set back since.
  @Test func theClockIsNeverBehindWhatIsWritten() throws {
    let future = HostClock.wall + 86_400
    var state = ControlState()
    let task = try StoreTests.task()
    for mutation in try Commands.up(state, name: "web", task: task, port: 30001, now: future) { state.apply(mutation) }
    #expect(state.newestTime == future)
    #expect(HostClock(notBefore: state.newestTime).now >= future)
    #expect(HostClock(notBefore: ControlState().newestTime).now < future)
  }

  @Test(arguments: [
    ("web", "web", true), ("web", "web2", false), ("web*", "web2", true), ("*", "", true), ("w?b", "web", true),
    ("my_svc", "my-svc", false), ("*-a*b", "x-aab", true), ("*-a*b", "x-aac", false), ("[w]eb", "web", false),
    ("a*b*c", "abcbc", true), ("", "a", false),
  ])
  func globs(_ pattern: String, _ name: String, _ matches: Bool) {
    #expect(Glob.matches(pattern, name) == matches)
  }

  @Test(arguments: [
    ("/ok", "/ok"), ("http://127.0.64.1:8080/a?b=c#d", "/a?b=c"), ("http://localhost:8080", "/"),
    ("//127.0.64.1:8080/x", "/x"), ("?q=1", "/health/live?q=1"), ("ready", "/health/ready"),
    ("HTTP://127.0.64.1:8080/x", "/x"),
    ("https://127.0.64.1:8080/", nil), ("http://127.0.64.1:8081/", nil), ("http://169.254.169.254/latest", nil),
    ("http://evil@127.0.64.1:8080/", nil), ("http://localhost/", nil), ("ftp://127.0.64.1:8080/", nil),
  ])
  func redirectsStayOnTheReplica(_ location: String, _ target: String?) throws {
    let endpoint = try Endpoint.parse("127.0.64.1:8080")
    #expect(HttpProbe.target(of: location, from: "/health/live?x", on: endpoint) == target)
  }

  // MARK: Folders

  /// SKY_HOME may name anything.
  @Test func whatIsThereKeepsItsRights() async throws {
    func mode(_ path: String) -> mode_t? {
      var facts = stat()
      return stat(path, &facts) == 0 ? facts.st_mode & 0o777 : nil
    }
    try await folder { path in
      #expect(mode(path) == 0o700)
      chmod(path, 0o755)
      try PrivateFile.makeFolder(path + "/a/b")
      #expect([path, path + "/a", path + "/a/b"].map(mode) == [0o755, 0o700, 0o700])
      try PrivateFile.makeFolder(path)
      #expect(mode(path) == 0o755)
      let file = path + "/file"
      try PrivateFile.write(Data("text".utf8), to: file)
      chmod(file, 0o644)
      for (inTheWay, said) in [(file, "\(file) is not a folder. Move it away"), (file + "/x", "Not a directory")] {
        let failure = #expect(throws: PrivateFile.Failure.self) { try PrivateFile.makeFolder(inTheWay) }
        #expect(failure?.description.contains(said) == true, "\(failure?.description ?? "-")")
      }
      #expect(mode(file) == 0o644)
      #expect(try String(contentsOfFile: file, encoding: .utf8) == "text")
    }
  }

  @Test func aHomeThatCannotBeIsNamed() {
    for home in ["/proc/x", "/dev/null", "/dev/null/x"] {
      let failure = #expect(throws: PrivateFile.Failure.self) { try Paths(home: home, configFile: "/none").makeHome() }
      let said = failure?.description ?? "-"
      #expect(said.contains(home) && said.contains("SKY_HOME") && !said.contains(".."), "\(said)")
    }
  }

  @Test func secondsAreShownAsPeopleSayThem() {
    for (seconds, shown) in [
      (1.999996112, "2"), (2, "2"), (14.987, "15"), (0.1, "0.1"), (0.2, "0.2"), (0.049_99, "0.05"), (1.25, "1.3"),
      (1e30, "9223372036854775807"),
    ] as [(Double, String)] {
      #expect(Timeout(seconds).error.description == "timed out after \(shown) s")
    }
  }

  /// As a journal may have them from earlier versions.
  @Test(arguments: [-1e30, -1, 0, 1e30, .infinity]) func probesOutliveTimesBeyondAllBounds(_ seconds: Double) async throws {
    var probe = ServiceSpec.Probe()
    probe.timeout = .fraction(seconds)
    // Nobody listens on port 1.
    let outcome = await HttpProbe().probe(ProbeOrder(id: 1, address: "127.0.0.1:1", probe: probe, interval: 1))
    #expect(!outcome.ok && outcome.detail.hasPrefix("no answer on 127.0.0.1:1: "), "\(outcome)")
    if seconds > 0 { #expect(outcome.detail.hasSuffix("connection refused"), "\(outcome)") }
  }

  // MARK: Logs

  private func folder(_ body: (String) async throws -> Void) async throws {
    let path = NSTemporaryDirectory() + "sky-parts-\(UUID().uuidString)"
    try PrivateFile.makeFolder(path)
    defer { Folder.remove(path) }
    try await body(path)
  }

  private func text(_ stream: LogStream, tail: Int?) async throws -> String {
    var all: [UInt8] = []
    try await stream.send(follow: false, tail: tail) { all += $0 }
    return String(decoding: all, as: UTF8.self)
  }

  @Test func theLastLinesOfSeveralFiles() async throws {
    try await folder { path in
      try "a1\na2\n".write(toFile: path + "/a", atomically: true, encoding: .utf8)
      try ("b1\n" + String(repeating: "x", count: 200_000) + "\nb3").write(
        toFile: path + "/b", atomically: true, encoding: .utf8)
      let stream = LogStream(pieces: [
        .line("A"), .file(path + "/a") { true }, .line("B"), .file(path + "/b") { true }, .file(path + "/none") { true },
      ])
      let whole = "A\na1\na2\nB\nb1\n" + String(repeating: "x", count: 200_000) + "\nb3"
      #expect(try await text(stream, tail: nil) == whole)
      let lines = whole.split(separator: "\n", omittingEmptySubsequences: false)
      for count in 0...8 {
        let expected = lines.suffix(count).joined(separator: "\n")
        let said = try await text(stream, tail: count)
        #expect(said == expected, "\(count) lines: \(said.prefix(40))")
      }
    }
  }

  /// It is put aside at any byte.
  @Test(arguments: ["\n", ""])
  func whatWasPutAsideComesFirst(_ between: String) async throws {
    try await folder { path in
      let long = String(repeating: "x", count: 70_000)
      let (aside, newest) = ("a1\n\(long)\na3\(between)", "b1\nb2\n\(long)")
      try aside.write(toFile: path + "/log.1", atomically: true, encoding: .utf8)
      try newest.write(toFile: path + "/log", atomically: true, encoding: .utf8)
      let stream = LogStream(pieces: [.line("A"), .file(path + "/log") { true }])
      let whole = "A\n" + aside + newest
      #expect(try await text(stream, tail: nil) == whole)
      let lines = whole.split(separator: "\n", omittingEmptySubsequences: false)
      for count in 0...8 {
        let said = try await text(stream, tail: count)
        #expect(said == lines.suffix(count).joined(separator: "\n"), "\(count) lines: \(said.prefix(40))")
      }
    }
  }

  /// A reader that is slower than the log, and one that is not: each line once, as long as it was kept.
  @Test(arguments: [1, 2])
  func followedWhileItIsPutAside(_ times: Int) async throws {
    try await folder { path in
      let log = path + "/log"
      let isOver = Shared(false)
      let stream = LogStream(pieces: [.file(log) { isOver.value }])
      func write(_ text: String) throws { try StoreFile(log, create: true).append(Array(text.utf8)) }
      try write("0 aside ")
      rename(log, log + ".1")
      try write("in the line\n1\n")
      var all = ""
      var step = 0
      try await stream.send(follow: true, tail: nil) { bytes in
        all += String(decoding: bytes, as: UTF8.self)
        guard all.hasSuffix("\n") else { return }
        step += 1
        switch step {
        case 1:
          for time in 0..<times {
            try write("late \(time)\n")
            rename(log, log + ".1")
          }
          try write("2\n")
        case 2...: if all.hasSuffix("2\n") { isOver.with { $0 = true } }
        default: break
        }
      }
      let late = (0..<times).map { "late \($0)\n" }.joined()
      #expect(all == "0 aside in the line\n1\n\(late)2\n")
    }
  }

  /// Of a log that is about several services, one's own lines and those about none.
  @Test func linesThatAreNotShownDoNotCount() async throws {
    try await folder { path in
      var all: [String] = []
      for number in 0..<20_000 { all.append(number % 3 == 0 ? "mine \(number)" : "other \(number)") }
      try all.joined(separator: "\n").write(toFile: path + "/log", atomically: true, encoding: .utf8)
      let mine = all.filter { $0.hasPrefix("mine") }
      let stream = LogStream(
        pieces: [.line("A"), .file(path + "/log") { true }], shows: { $0.starts(with: Array("mine".utf8)) })
      for count in [nil, 0, 1, 2, 5000, mine.count, mine.count + 1, mine.count + 2] as [Int?] {
        let said = try await text(stream, tail: count).split(separator: "\n").map(String.init)
        #expect(said == (["A"] + mine).suffix(count ?? .max), "\(count ?? -1) lines")
      }
    }
  }

  @Test func aLongLogBeginsAgain() async throws {
    try await folder { path in
      let log = path + "/log"
      try String(repeating: "line\n", count: 1000).write(toFile: log, atomically: false, encoding: .utf8)
      Folder.rotateLog(log, bytesMax: 10_000)
      #expect(try String(contentsOfFile: log, encoding: .utf8).count == 5000, "not yet")
      let writer = try StoreFile(log, create: false)
      Folder.rotateLog(log, bytesMax: 4000)
      try writer.append(Array("next\n".utf8))
      #expect(try String(contentsOfFile: log, encoding: .utf8) == "next\n")
      #expect(try String(contentsOfFile: log + ".1", encoding: .utf8).count == 5000)
    }
  }

  @Test func foldersOfReplicasThatAreGone() async throws {
    try await folder { path in
      for id in 1...40 { try PrivateFile.makeFolder(path + "/\(id)/x") }
      Folder.prune(path, keep: [3], below: 39, seconds: nil)
      let left = Set(Folder.names(path).compactMap { Int($0) })
      #expect(left == Set(19...40).union([3]))
      Folder.prune(path, keep: [3], below: 39, seconds: -1)
      #expect(Set(Folder.names(path).compactMap { Int($0) }) == [3, 39, 40])
      // Read-only folders are no hindrance.
      chmod(path + "/39", 0o500)
      #expect(Folder.remove(path + "/39") && Folder.remove(path + "/none"))
    }
  }

  // MARK: Probes, over real sockets

  @Test func aProberAsksMoreOftenWhileItIsNotReady() async throws {
    let clock = HostClock()
    let answers = AsyncStream.makeStream(of: ProbeFact.self)
    let order = ProbeOrder(id: 1, address: "127.0.0.1:1", probe: ServiceSpec.Probe(), interval: 3600)
    let transport = Answers(answers: [false, false, false, true])
    let prober = ReplicaProber(order, transport, clock) { answers.continuation.yield($0) }
    defer { prober.end() }
    let begun = clock.now
    var facts: [ProbeFact] = []
    for await fact in answers.stream {
      facts.append(fact)
      if fact.ok { break }
    }
    #expect(facts.map(\.ok) == [false, false, false, true])
    #expect(clock.now - begun < 600, "it does not wait for the interval")
    // Asked to, it asks at once.
    prober.askNow()
    for await fact in answers.stream {
      #expect(fact.ok && clock.now - begun < 1200)
      break
    }
  }

  private actor Answers: ProbeTransport {
    private var answers: [Bool]
    init(answers: [Bool]) { self.answers = answers }
    func probe(_ order: ProbeOrder) async -> ProbeOutcome {
      ProbeOutcome(ok: answers.isEmpty ? true : answers.removeFirst(), detail: "no")
    }
  }
}
