// What fuzzing once found, replayed: Tests/Fuzz/regressions/TARGET-NAME. And every target on the corpus of cases.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct ReplayTests {
  private static let folder = URL(fileURLWithPath: Places.packageRoot + "/Tests/Fuzz/regressions")

  @Test(arguments: FuzzTarget.allCases)
  func whatWasFoundIsMended(_ target: FuzzTarget) throws {
    let names = try FileManager.default.contentsOfDirectory(atPath: Self.folder.path).sorted()
    for name in names where name.hasPrefix(target.rawValue + "-") {
      let input = try Data(contentsOf: Self.folder.appendingPathComponent(name))
      print("replaying \(name)")
      input.withUnsafeBytes { target.run($0) }
    }
  }

  /// The targets come back from what they are meant for, from its pieces and from nothing.
  @Test(arguments: FuzzTarget.allCases)
  func cornersComeBack(_ target: FuzzTarget) {
    let text = Array(
      "GET / HTTP/1.1\r\nHost: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{\"version\":1}".utf8)
    for end in 0..<text.count { text.withUnsafeBytes { target.run(UnsafeRawBufferPointer(rebasing: $0[..<end])) } }
    for byte in UInt8.min...UInt8.max {
      let same = [UInt8](repeating: byte, count: 300)
      same.withUnsafeBytes { target.run($0) }
    }
  }
}
