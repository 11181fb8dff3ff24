// Chance in tests: another seed each run, what replays one that failed, and bytes changed at random.

import Foundation
import SimKit

extension Chance {
  /// From SKY_SEED, or a new seed each run.
  package init() {
    let asked = ProcessInfo.processInfo.environment["SKY_SEED"].flatMap { UInt64($0) }
    self.init(seed: asked ?? .random(in: 0 ... .max))
  }

  /// For the message of a failure: how to have the same again.
  package func replay(_ file: String = #fileID) -> String {
    "replay with SKY_SEED=\(seed) swift test --filter \(file.prefix { $0 != "/" })"
  }

  package static let punctuation: [[UInt8]] = "{}[]\",:\\-+.eE0u \n\u{7f}".utf8.map { [$0] }

  /// One to four places changed: a byte becomes another, some are taken out or doubled, one of `pieces` or a part of
  /// one of `others` is put in.
  package mutating func mutated(
    _ bytes: [UInt8], pieces: [[UInt8]] = punctuation, others: [[UInt8]] = []
  ) -> [UInt8] {
    var result = bytes
    for _ in 0...below(4) {
      let at = below(result.count + 1)
      switch below(others.isEmpty ? 5 : 6) {
      case 0: if at < result.count { result[at] = UInt8(truncatingIfNeeded: next()) }
      case 1: result.removeSubrange(at..<min(result.count, at + 1 + below(8)))
      case 2: result.insert(contentsOf: part(of: result), at: at)
      case 3, 4: result.insert(contentsOf: pick(pieces), at: at)
      default: result.replaceSubrange(at..<(hit(0.5) ? at : result.count), with: part(of: pick(others)))
      }
    }
    return result
  }

  /// A run of its bytes, seldom a long one.
  private mutating func part(of bytes: [UInt8]) -> ArraySlice<UInt8> {
    bytes[below(bytes.count + 1)...].prefix(1 + below(hit(0.2) ? bytes.count + 1 : 20))
  }
}
