// The store under every way of dying: cut at each byte, between any two files, with the disk full of somebody else's.

import Foundation
import Testing
import Yaml

@testable import ControlCore

@Suite struct StoreTests {
  private func folder(_ body: (String) throws -> Void) throws {
    let base = FileManager.default.fileExists(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    let path = base + "/sky-store-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
  }

  static func task(_ yaml: String = "service: {replicas: 1}\nresources: {ports: 80}\nrun: x") throws -> TaskSpec {
    try TaskSpec(yaml: Array(yaml.utf8), name: "service.yaml")
  }

  /// A life of a service, one batch after the other.
  private static func batches() throws -> [[Mutation]] {
    var state = ControlState()
    var result: [[Mutation]] = []
    func add(_ batch: [Mutation]) {
      result.append(batch)
      for mutation in batch { state.apply(mutation) }
    }
    let task = try task("secrets: {T: hush}\nservice: {replicas: 2}\nresources: {ports: 80}\nrun: echo é")
    add(try Commands.up(state, name: "web", task: task, port: 30001, now: 1))
    for now in 2..<6 {
      let plan = Reconciler.plan(state.services["web"]!, Observed(now: Double(now)))
      if !plan.mutations.isEmpty { add(plan.mutations) }
    }
    add(try Commands.update(state, name: "web", task: task, mode: .blueGreen, now: 9))
    add(try Commands.down(state, name: "web", purge: false))
    add([.dropReplica(service: "web", id: 1), .dropReplica(service: "web", id: 2)])
    add([.dropService("web")])
    return result
  }

  @Test func everyAcknowledgedBatchSurvivesACutAtAnyByte() throws {
    try folder { path in
      var ends: [(bytes: Int, state: ControlState)] = []
      do {
        let store = try Store(folder: path)
        ends.append((try Data(contentsOf: URL(filePath: path + "/journal")).count, store.state))
        for batch in try Self.batches() {
          try store.append(batch)
          ends.append((try Data(contentsOf: URL(filePath: path + "/journal")).count, store.state))
        }
      }
      let whole = try Data(contentsOf: URL(filePath: path + "/journal"))
      #expect(ends.last!.bytes == whole.count && ends.count > 5)
      for length in 0...whole.count {
        try whole.prefix(length).write(to: URL(filePath: path + "/journal"))
        let store = try Store(folder: path)
        let expected = ends.last { $0.bytes <= length }?.state ?? ControlState()
        if store.state != expected { #expect(Bool(false), "cut at \(length)") }
        // And what comes next is kept, too.
        if length % 97 == 0 {
          let state = store.state
          try store.append([.dropService("nobody")])
          #expect(store.state == state)
        }
      }
    }
  }

  @Test func snapshotsMakeTheJournalShortAtAnyMoment() throws {
    try folder { path in
      let batches = try Self.batches()
      let url = URL(filePath: path + "/journal")
      for cut in 1..<batches.count {
        try? FileManager.default.removeItem(atPath: path)
        var state = ControlState()
        var long = Data()
        do {
          let store = try Store(folder: path)
          for batch in batches[..<cut] { try store.append(batch) }
          long = try Data(contentsOf: url)
          try store.takeSnapshot()
          #expect(try Data(contentsOf: url).count < 100)
          try store.append(batches[cut])
          state = store.state
        }
        #expect(try Store(folder: path).state == state)
        // Died between the two renames: the old journal beside the new snapshot.
        try long.write(to: url)
        let again = try Store(folder: path)
        try again.append(batches[cut])
        #expect(again.state == state)
        // Died while writing the next snapshot.
        try Data("abc".utf8).write(to: URL(filePath: path + "/snapshot.new"))
        try again.takeSnapshot()
        #expect(again.state == state)
      }
    }
  }

  @Test func onlyOneWriter() throws {
    try folder { path in
      let first = try Store(folder: path)
      let error = #expect(throws: StoreError.self) { try Store(folder: path) }
      #expect(error?.kind == .busy && error?.description.contains("process \(getpid())") == true)
      withExtendedLifetime(first) {}
    }
  }

  @Test func damageIsNotForgotten() throws {
    try folder { path in
      let url = URL(filePath: path + "/journal")
      do {
        let store = try Store(folder: path)
        for batch in try Self.batches() { try store.append(batch) }
      }
      let good = try Data(contentsOf: url)
      var lines = good.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: true).map { Data($0) }
      func open(_ lines: [Data]) -> StoreError? {
        try? Data(lines.joined(separator: Data("\n".utf8)) + Data("\n".utf8)).write(to: url)
        do { _ = try Store(folder: path) } catch { return error }
        return nil
      }
      #expect(open(lines) == nil)
      var altered = lines
      altered[2][20] ^= 1
      #expect(open(altered)?.kind == .damaged)
      #expect(open(altered)?.description.contains("line 3") == true)
      lines.remove(at: 2)
      #expect(open(lines)?.description.contains("a part is missing") == true)
      // A line that was altered at the very end was never acknowledged, or cannot be told from one.
      altered = good.split(separator: UInt8(ascii: "\n")).map { Data($0) }
      altered[altered.count - 1][20] ^= 1
      #expect(open(altered) == nil)
    }
  }

  /// What is no journal is not taken for an empty one: replicas that run would be strangers, and be ended.
  @Test(arguments: [
    "garbage", "garbage\n", "garbage\nmore\n", "\n", "\0\0\0\0", "{}", "@ ", "@\0\0\n", "@garbage\n",
  ])
  func aFileThatIsNoJournalIsRefused(_ text: String) throws {
    try folder { path in
      let file = path + "/journal"
      _ = try Store(folder: path)
      // @: a good head without its line feed.
      let head = try String(contentsOfFile: file, encoding: .utf8).dropLast()
      let bytes = Data(text.replacing("@", with: head).utf8)
      for name in ["journal", "snapshot"] {
        try bytes.write(to: URL(filePath: path + "/" + name))
        let error = #expect(throws: StoreError.self) { try Store(folder: path) }
        #expect(error?.kind == .damaged && error?.description.contains("move it away to start empty") == true)
        #expect(error?.description.contains(path + "/" + name) == true)
        #expect(try Data(contentsOf: URL(filePath: path + "/" + name)) == bytes, "it was changed")
        try FileManager.default.removeItem(atPath: path + "/" + name)
      }
    }
  }

  @Test func newerFormatsAreRefused() throws {
    try folder { path in
      _ = try Store(folder: path)
      let json = Array("{\"format\":2,\"other\":true}".utf8)
      let crc = String(Store.crc32(json), radix: 16)
      let line = String(repeating: "0", count: 8 - crc.count) + crc + " " + String(decoding: json, as: UTF8.self) + "\n"
      for file in ["journal", "snapshot"] {
        try (line + line).write(toFile: path + "/" + file, atomically: true, encoding: .utf8)
        if file == "snapshot" { try line.write(toFile: path + "/" + file, atomically: true, encoding: .utf8) }
        let error = #expect(throws: StoreError.self) { try Store(folder: path) }
        #expect(error?.kind == .newer && error?.description.contains("Install that version") == true, "\(file)")
      }
    }
  }

  @Test func filesArePrivate() throws {
    try folder { path in
      let store = try Store(folder: path)
      try store.append(try Self.batches()[0])
      try store.takeSnapshot()
      for file in ["", "/lock", "/journal", "/snapshot"] {
        var info = stat()
        #expect(stat(path + file, &info) == 0)
        #expect(info.st_mode & 0o777 == (file.isEmpty ? 0o700 : 0o600), "\(file)")
      }
      #expect(!"\(store.state)".contains("hush"))
    }
  }

  @Test func statusFollowsTheTable() {
    func status(_ change: (inout ReplicaRecord) -> Void) -> ReplicaStatus {
      var record = ReplicaRecord(id: 1, version: 1, isSpot: false, createdAt: 0)
      record.launch = .succeeded
      change(&record)
      return record.status
    }
    let cases: [(ReplicaStatus, (inout ReplicaRecord) -> Void)] = [
      (.pending, { $0.launch = .scheduled }), (.provisioning, { $0.launch = .running }),
      (.shuttingDown, { $0.launch = .interrupted }), (.starting, { _ in }), (.ready, { $0.readyNow = true }),
      (.notReady, { $0.firstReadyAt = 1 }), (.shuttingDown, { $0.down = .running }),
      (.preempted, { ($0.down, $0.cause) = (.running, .preempted) }),
      (.failedCleanup, { $0.down = .failed }),
      (.failed, { ($0.down, $0.cause) = (.succeeded, .userAppFailed) }),
      (.failedProvision, { ($0.launch, $0.down, $0.cause) = (.failed, .succeeded, .provision) }),
      (.failedInitialDelay, { ($0.down, $0.cause) = (.succeeded, .initialDelay) }),
      (.failedProbing, { ($0.down, $0.cause, $0.firstReadyAt) = (.succeeded, .probing, 1) }),
      (.failedCleanup, { $0.launch = .failed }),
    ]
    for (expected, change) in cases { #expect(status(change) == expected) }
  }
}
