// Hostile documents: deep, wide, unfolding, random. Time, memory and stack stay within bounds.

import Foundation
import SimKit
import TestSupport
import Testing

@testable import Yaml

@Suite struct LimitTests {
  // MARK: - Depth

  /// Documents nested so deep, in every way there is.
  private static func nested(_ depth: Int) -> [String] {
    [
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth),
      String(repeating: "{a: ", count: depth) + String(repeating: "}", count: depth),
      String(repeating: "- ", count: depth) + "a",
      String(repeating: "? ", count: depth) + "a",
      (0..<depth).map { String(repeating: " ", count: $0) + "a:" }.joined(separator: "\n"),
      (0..<depth / 2).map { String(repeating: " ", count: 2 * $0) + "- a:" }.joined(separator: "\n"),
      (0..<depth).map { "- &a\($0) [\($0 == 0 ? "" : "*a\($0 - 1)")]" }.dropLast().joined(separator: "\n"),
    ]
  }

  /// Reading, writing and freeing the deepest documents takes less than two megabytes of stack without optimisation,
  /// and a fifth of that with it.
  @Test func theDeepestDocumentsNeedLittleStack() async {
    let failures = await withCheckedContinuation { continuation in
      let thread = Thread {
        var failures: [String] = []
        for text in Self.nested(nestingMax) {
          do throws(YamlError) {
            let node = try parseYaml(text, name: "")
            let again = try parseYaml(yamlDump(node), name: "")
            if yamlJson(again) != yamlJson(node) { failures.append("\(text.prefix(20)): reads back differently") }
          } catch {
            failures.append("\(text.prefix(20)): \(error)")
          }
        }
        continuation.resume(returning: failures)
      }
      thread.stackSize = 2 << 20
      thread.start()
    }
    #expect(failures == [])
  }

  @Test func deeperDocumentsAreRefused() {
    for text in Self.nested(nestingMax + 2) {
      #expect(parseError(text)?.contains("more than 500 levels of nesting") == true, "\(text.prefix(20))")
    }
    for opening in ["[", "{", "- ", "? ", "[{", "{a: [", "- - ? "] {
      #expect(parseError(String(repeating: opening, count: 200_000))?.contains("levels of nesting") == true)
    }
  }

  // MARK: - Unfolding

  @Test func aliasesCannotUnfoldWithoutBound() {
    var laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in 1..<40 {
      let part = "*a\(level - 1)"
      laughs += "a\(level): &a\(level) [\(Array(repeating: part, count: 9).joined(separator: ","))]\n"
    }
    #expect(parseError(laughs)?.contains("aliases unfold to more than 10 MB") == true)

    let large = "a: &a \"\(String(repeating: "x", count: 100_000))\"\n"
    let uses = (0..<200).map { "b\($0): *a\n" }.joined()
    #expect(parseError(large + uses)?.contains("aliases unfold to more than 10 MB") == true)

    var merges = "m0: &m0 {a: 1}\n"
    for level in 1..<2000 { merges += "m\(level): &m\(level) {<<: *m\(level - 1), k\(level): 1}\n" }
    #expect(parseError(merges)?.contains("aliases unfold to more than 10 MB") == true)
  }

  /// Were keys within keys written as text within text, each level would double the quotes.
  @Test func collectionsAsKeysStaySmall() throws {
    let nested = String(repeating: "? ", count: 400) + "a"
    #expect(yamlJson(try parseYaml(nested, name: "")).count < 5000)
    let large = String(repeating: "? ", count: 400) + String(repeating: "a", count: 100_000)
    #expect(parseError(large)?.contains("too many large collections used as keys") == true)
  }

  // MARK: - Size

  /// Each of these would take minutes if any step looked at its surroundings again and again.
  @Test(
    .timeLimit(.minutes(1)),
    arguments: [
      ("[", "&a x, ", 20_000, "]"), ("[", "a: b, ", 20_000, "]"), ("[", "é, ", 15_000, "]"),
      ("", "- &a x\n- *a\n", 10_000, ""),
      ("", "a", 100_000, ""), ("", "a ", 30_000, ""), ("", "a:", 30_000, ""), ("", "a\n", 30_000, ""),
      ("", " \n", 30_000, "a"),
      ("", "\t", 60_000, ""), ("", "# c\n", 15_000, ""), ("", "...\n", 15_000, ""), ("", "---\n", 10_000, ""),
      ("|\n", " abc\n", 15_000, ""), (">\n", "\n", 30_000, " x"), ("\"", "\\u00e9\n ", 10_000, "\""),
      ("'", "''\n", 15_000, "'"),
      ("0x", "f", 30_000, ""), ("1", ":59", 15_000, ""), ("1.", "1", 30_000, ""),
    ])
  func longDocuments(_ start: String, _ part: String, _ count: Int, _ end: String) {
    _ = try? yamlToJson(Array((start + String(repeating: part, count: count) + end).utf8))
  }

  @Test(.timeLimit(.minutes(1)))
  func manyKeys() {
    _ = try? yamlToJson(Array((0..<5000).map { "key\($0): {é\($0): \($0)}\n" }.joined().utf8))
  }

  // MARK: - Chance

  /// Corpus documents changed at random; SKY_RUNS says how many to try.
  @Test func changedDocuments() {
    let runs = ProcessInfo.processInfo.environment["SKY_RUNS"].flatMap { Int($0) } ?? 3000
    var chance = Chance()
    print(chance.replay())
    let corpus = Case.all.map(\.bytes)
    for _ in 0..<runs { check(chance.mutated(chance.pick(corpus), pieces: Self.pieces, others: corpus)) }
  }

  private static let pieces: [[UInt8]] = [
    "\n", "\n\n", " ", "  ", "\t", "- ", "? ", ": ", ":", ",", "[", "]", "{", "}", "&a ", "*a", "!!str ", "!t ", "#",
    " #c", "\"",
    "'", "|\n", ">-\n", "|2\n", "---\n", "...\n", "%YAML 1.2\n", "<<: ", "\r\n", "\\", "\u{FEFF}", "é", "0x1", "1:30",
    ".inf",
  ].map { Array($0.utf8) }
}
