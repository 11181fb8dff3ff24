// The public conformance cases, where they lie beside the package; elsewhere there is nothing to run.
//
// Their files are JSON, which is YAML: they are read with the very reader they test.

import Foundation
import Testing

@testable import Yaml

private let folder = packageRoot.deletingLastPathComponent().appendingPathComponent("shared/data/yaml")

@Suite(.enabled(if: FileManager.default.fileExists(atPath: folder.path)))
struct ConformanceTests {
  @Test func configurations() throws {
    let (passed, failed) = try run("yaml_config_public.json")
    #expect(failed == [] && passed > 0)
  }

  /// Of the suite, what configurations use passes as a whole. `20:03:20` is a number of sixties here, as in PyYAML.
  @Test func suite() throws {
    let (passed, failed) = try run("yaml_suite_public.json")
    #expect(failed.allSatisfy { !$0.hasPrefix("core ") })
    #expect(Double(passed) >= 0.97 * Double(passed + failed.count), "\(failed)")
  }

  private func run(_ file: String) throws -> (passed: Int, failed: [String]) {
    let data = try Data(contentsOf: folder.appendingPathComponent(file))
    let cases = try #require(try parseYaml(Array(data), name: file)["cases"]?.list)
    let failed = cases.filter { !passes($0) }.map { "\($0["profile"]?.text ?? "") \($0["id"]?.text ?? "")" }
    return (cases.count - failed.count, failed)
  }

  private func passes(_ one: YamlNode) -> Bool {
    let bytes: [UInt8]
    if let text = one["yaml"]?.string {
      bytes = Array(text.utf8)
    } else {
      let digits = Array(one["yaml_hex"]?.text ?? "")
      bytes = stride(from: 0, to: digits.count, by: 2).map { UInt8(String(digits[$0...$0 + 1]), radix: 16)! }
    }
    guard let documents = try? parseYamlStream(bytes, name: "") else {
      return one["error"]?.bool == true || one["may_reject"]?.bool == true
    }
    if one["error"]?.bool == true { return false }
    return [one["docs"]?.list, one["docs_yaml11"]?.list].compactMap { $0 }.contains { expected in
      expected.count == documents.count && zip(expected, documents).allSatisfy(isEqual)
    }
  }

  private func isEqual(_ expected: YamlNode, _ found: YamlNode) -> Bool {
    if let entries = expected.map, entries.count == 1 {
      switch entries[0].key.text {
      case "!ts": return found.string != nil
      case "!float": return found.double?.isFinite == false
      case "!bin", "!obj": return true
      default: break
      }
    }
    switch (expected.value, found.value) {
    case (.null, .null): return true
    case (.bool(let a), .bool(let b)): return a == b
    case (.string(let a), .string(let b)): return a == b
    case (.list(let a), .list(let b)): return a.count == b.count && zip(a, b).allSatisfy(isEqual)
    case (.map(let a), .map(let b)):
      return a.count == b.count
        && a.allSatisfy { one in
          b.contains { keyText($0.key) == keyText(one.key) && isEqual(one.value, $0.value) }
        }
    default:
      guard let a = expected.double, let b = found.double else { return false }
      return abs(a - b) <= 1e-12 * abs(a)
    }
  }

  private func keyText(_ key: YamlNode) -> String {
    key.string ?? String(decoding: yamlJson(key), as: UTF8.self)
  }
}
