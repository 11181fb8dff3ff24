// The controller's memory on disk: a journal that is appended to, and a snapshot that makes it short again.
//
//   <folder>/                 0700; every file 0600, for secrets lie in it
//     lock                    held by the one controller that may write (flock; the kernel lets go when it dies)
//     snapshot                the state up to a sequence number, replaced in one rename
//     journal                 the batches after it, one line each: CRC-32, space, JSON
//
//   append ─ write line ─ fdatasync ─▶ acknowledged            open ─ snapshot ─ journal lines after it ─▶ state
//
// A batch is acknowledged when its line is on disk, and is in the state after any crash from then on. A line that was
// being written when the machine died is not acknowledged: it is the last one, and is cut off. A damaged line anywhere
// else means that something else wrote here; then we stop and say so rather than forget what ran. The same goes for a
// first line that is not the beginning of a journal's head, be it the only one.
//
// Used by the Controller alone, which is an actor: one call at a time.

import Foundation

package struct StoreError: Error, Sendable, Hashable, CustomStringConvertible {
  /// `full`: no space is left where it is written.
  package enum Kind: Sendable, Hashable { case busy, newer, damaged, io, full }

  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

package final class Store {
  /// Rises when older programs could not read what is written. Unknown fields do not count: they are skipped.
  package static let format = 1
  /// Bytes of journal after which a snapshot is taken: replaying as much takes well under a second.
  package static let journalBytesMax = 8 << 20

  /// Milliseconds the lock is waited for: a process that is just being started holds a copy of all descriptors until
  /// its own program runs, those of a store that was closed meanwhile too.
  private static let lockWaitMs = 1000

  package let folder: String
  package private(set) var state: ControlState
  /// Batches ever appended.
  package private(set) var sequence: UInt64
  private let lock: StoreFile
  /// Where it is gone or replaced, another controller may hold what now has its name.
  package let lockMark: FileMark
  private var journal: StoreFile
  private var journalBytes: Int
  /// A write failed and its remains could not be taken back yet: nothing after them would be read.
  private var isBroken = false

  private struct Head: Codable {
    var format: Int
    var name = "sky-journal"
  }

  private struct Line: Codable {
    var sequence: UInt64
    var mutations: [Mutation]
  }

  private struct Snapshot: Codable {
    var format: Int
    var sequence: UInt64
    var state: ControlState
  }

  /// Takes the lock, reads what is there, cuts off what was never acknowledged.
  package init(folder: String) throws(StoreError) {
    self.folder = folder
    try StoreFile.makeFolder(folder)
    lock = try StoreFile(folder + "/lock", create: true)
    guard lock.lock(withinMs: Self.lockWaitMs), let mark = FileMark(folder + "/lock") else {
      throw StoreError(
        .busy, "\(folder) is in use by another controller (process \(lock.firstLine() ?? "unknown")). Stop that one first.")
    }
    lockMark = mark
    try lock.replaceContents("\(getpid())\n")
    var state = ControlState()
    var sequence: UInt64 = 0
    if let bytes = try StoreFile.read(folder + "/snapshot") {
      let snapshot: Snapshot = try Self.decode(bytes, "\(folder)/snapshot")
      (state, sequence) = (snapshot.state, snapshot.sequence)
    }
    let path = folder + "/journal"
    journal = try StoreFile(path, create: true)
    let bytes = try StoreFile.read(path) ?? []
    let good = try Self.replay(bytes, path, &state, &sequence)
    if good < bytes.count { try journal.truncate(to: good) }
    journalBytes = good
    self.state = state
    self.sequence = sequence
    if good == 0 { try write(Self.line(Head(format: Self.format)), durable: true) }
    try StoreFile.syncFolder(folder)
  }

  /// Applies a batch: on disk before it returns, unless it may be lost (`durable: false`, for what is written again
  /// soon anyhow). All of it or nothing.
  package func append(_ mutations: [Mutation], durable: Bool = true) throws(StoreError) {
    if mutations.isEmpty { return }
    if isBroken {
      try journal.truncate(to: journalBytes)
      isBroken = false
    }
    try write(Self.line(Line(sequence: sequence + 1, mutations: mutations)), durable: durable)
    sequence += 1
    for mutation in mutations { state.apply(mutation) }
    // A snapshot that fails loses nothing: the journal only stays long.
    if journalBytes > Self.journalBytesMax { try? takeSnapshot() }
  }

  /// Makes the journal short.
  package func takeSnapshot() throws(StoreError) {
    let snapshot = Snapshot(format: Self.format, sequence: sequence, state: state)
    try StoreFile.replace(folder + "/snapshot", with: Self.line(snapshot))
    // From here on the old journal's lines are all older than the snapshot, so either journal is right.
    let head = Self.line(Head(format: Self.format))
    journal = try StoreFile.replace(folder + "/journal", with: head)
    journalBytes = head.count
  }

  private func write(_ line: [UInt8], durable: Bool) throws(StoreError) {
    do throws(StoreError) {
      try journal.append(line)
      if durable { try journal.sync() }
      journalBytes += line.count
    } catch {
      do throws(StoreError) { try journal.truncate(to: journalBytes) } catch { isBroken = true }
      throw error
    }
  }
}

// MARK: - Lines

extension Store {
  /// `crc json\n`
  private static func line(_ value: some Encodable) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // Records hold strings, numbers and lists only, and no number that JSON could not write.
    encoder.nonConformingFloatEncodingStrategy = .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    guard let data = try? encoder.encode(value) else { preconditionFailure("every record can be written as JSON") }
    let json = [UInt8](data)
    return Array(hex(crc32(json)).utf8) + [UInt8(ascii: " ")] + json + [UInt8(ascii: "\n")]
  }

  private static func decode<Value: Decodable>(
    _ line: some Collection<UInt8>, _ place: String
  ) throws(StoreError) -> Value {
    guard let json = checked(line) else { throw damage(place) }
    let decoder = JSONDecoder()
    decoder.nonConformingFloatDecodingStrategy = .convertFromString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    if let head = try? decoder.decode(Version.self, from: Data(json)), let format = head.format, format > Self.format {
      throw StoreError(
        .newer, "\(place) was written by a newer version (format \(format); this one reads up to \(Self.format)). Install that version again.")
    }
    do { return try decoder.decode(Value.self, from: Data(json)) } catch {
      throw StoreError(.damaged, "\(place) cannot be read: \(error)")
    }
  }

  private static func damage(_ place: String) -> StoreError {
    StoreError(
      .damaged,
      "\(place) is damaged: its checksum does not fit. Bring it back from a copy, or move it away to start empty.")
  }

  private struct Version: Decodable {
    var format: Int?
  }

  /// The JSON of a whole line; nil where it is cut short or altered.
  private static func checked(_ line: some Collection<UInt8>) -> [UInt8]? {
    let bytes = Array(line)
    guard bytes.count > 10, bytes[8] == UInt8(ascii: " "), bytes.last == UInt8(ascii: "\n") else { return nil }
    let json = Array(bytes[9..<bytes.count - 1])
    return Array(hex(crc32(json)).utf8) == Array(bytes[..<8]) ? json : nil
  }

  /// How many bytes are good. Lines up to `sequence` are in the snapshot already.
  private static func replay(
    _ bytes: [UInt8], _ path: String, _ state: inout ControlState, _ sequence: inout UInt64
  ) throws(StoreError) -> Int {
    var at = 0
    var number = 0
    while at < bytes.count {
      number += 1
      let end = bytes[at...].firstIndex(of: UInt8(ascii: "\n")).map { $0 + 1 }
      let line = bytes[at..<(end ?? bytes.count)]
      let place = "\(path), line \(number),"
      if end == nil || (end == bytes.count && checked(line) == nil) {  // torn
        if number == 1, !Self.line(Head(format: format)).starts(with: line) { throw damage(place) }
        return at
      }
      if number == 1 {
        let _: Head = try decode(line, place)
      } else {
        let entry: Line = try decode(line, place)
        if entry.sequence > sequence {
          guard entry.sequence == sequence + 1 else {
            throw StoreError(
              .damaged, "\(place) is number \(entry.sequence) where \(sequence + 1) was expected: a part is missing.")
          }
          for mutation in entry.mutations { state.apply(mutation) }
          sequence = entry.sequence
        }
      }
      at = end!
    }
    return at
  }

  private static func hex(_ value: UInt32) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 8 - digits.count) + digits
  }

  /// CRC-32 as in Ethernet and zip.
  static func crc32(_ bytes: [UInt8]) -> UInt32 {
    var crc = UInt32.max
    for byte in bytes { crc = crcTable[Int((crc ^ UInt32(byte)) & 0xFF)] ^ (crc >> 8) }
    return ~crc
  }

  private static let crcTable: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
  }
}
