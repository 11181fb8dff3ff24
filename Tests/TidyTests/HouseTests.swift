// House rules that a reader can check by eye, checked by machine.

import Foundation
import ProxyCore
import Testing

@Suite struct HouseTests {
  static let folders = ["Sources", "Tests", "Benchmarks"]

  @Test func everyFileOpensWithWhatItIsFor() {
    for folder in Self.folders {
      for file in SourceTree.swiftFiles(under: folder) {
        #expect(file.lines.first?.hasPrefix("// ") == true, "\(file.path) does not open with a comment")
      }
    }
  }

  /// A line with a message for people may be longer than one of code; tests may hold cases as they are, however long.
  @Test func linesAreShortAndWithoutTabs() {
    for folder in ["Sources", "Benchmarks"] {
      for file in SourceTree.swiftFiles(under: folder) {
        for (number, line) in file.lines.enumerated() {
          #expect(
            line.count <= (line.contains("\"") ? 160 : 120), "\(file.path):\(number + 1) has \(line.count) characters")
          #expect(!line.contains("\t"), "\(file.path):\(number + 1) has a tab")
        }
      }
    }
  }

  @Test func nothingIsLeftUnfinished() {
    // Written apart so that this file does not find itself.
    let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X:"]
    for folder in ["Sources", "Benchmarks"] {
      for file in SourceTree.swiftFiles(under: folder) {
        for (number, line) in file.lines.enumerated() {
          for mark in marks { #expect(!line.contains(mark), "\(file.path):\(number + 1) has \(mark)") }
        }
      }
    }
  }

  /// The tables of the README are what the program does.
  @Test(arguments: [
    ("flags", "ProxyConfig.markdown()", ProxyConfig.markdown()),
    ("admin-limits", "AdminLimits().markdown()", AdminLimits().markdown()),
  ])
  func theReadmeShowsWhatThereIs(_ marker: String, _ source: String, _ table: String) throws {
    let readme = try SourceTree.text("README.md")
    let begin = try #require(readme.range(of: "<!-- \(marker) -->\n"), "README.md has lost <!-- \(marker) -->")
    let end = try #require(readme.range(of: "<!-- /\(marker) -->"), "README.md has lost <!-- /\(marker) -->")
    let shown = readme[begin.upperBound..<end.lowerBound].trimmingCharacters(in: .newlines)
    #expect(
      shown == table.trimmingCharacters(in: .newlines),
      "replace what is between <!-- \(marker) --> and its end by \(source):\n\(table)")
  }
}
