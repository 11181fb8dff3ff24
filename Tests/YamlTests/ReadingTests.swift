// What documents mean, and what is said of those that mean nothing.

import Foundation
import Testing

@testable import Yaml

@Suite struct ReadingTests {
  @Test func theCorpusIsThere() {
    #expect(Case.all.count > 140)
  }

  @Test(arguments: Case.all)
  func corpus(_ one: Case) throws {
    do throws(YamlError) {
      let json = String(decoding: try yamlToJson(one.bytes, name: ""), as: UTF8.self)
      #expect(json.split(separator: "\n").map(String.init) == one.json)
      #expect(one.error == nil)
    } catch {
      #expect(error.description == one.error)
    }
  }

  /// A document cut anywhere gives a tree or an error that points into it, and so does its end without its start.
  @Test(arguments: Case.all)
  func everyPart(_ one: Case) {
    for cut in 0...one.bytes.count {
      check(Array(one.bytes[..<cut]))
      check(Array(one.bytes[cut...]))
    }
  }

  // MARK: - Places

  @Test func everyNodeKnowsWhereItStands() throws {
    let text = """
      # comment
      service:
        readiness_probe: /health
        replicas: 2
      ü: [é, {k: "v"}, y]
      """
    let root = try parseYaml(text, name: "")
    #expect(root.mark.description == "2:1")
    let service = try #require(root["service"])
    #expect(service.mark.description == "3:3")
    #expect(service.map?.map(\.key.mark.description) == ["3:3", "4:3"])
    #expect(service["readiness_probe"]?.mark.description == "3:20")
    #expect(service["replicas"]?.mark.description == "4:13")
    let list = try #require(root["ü"]?.list)
    #expect(root["ü"]?.mark.description == "5:4")
    #expect(list.map(\.mark.description) == ["5:5", "5:8", "5:18"])
    #expect(list[1].map?.first?.value.mark.description == "5:12")
    #expect(list[0].mark.offset == Int32(text.utf8.count - "é, {k: \"v\"}, y]".utf8.count))
  }

  @Test func missingValuesStandAfterTheirKey() throws {
    let root = try parseYaml("a:\nb:   # nothing\n", name: "")
    #expect(root["a"]?.mark.description == "1:3")
    #expect(root["b"]?.mark.description == "2:3")
  }

  @Test func anAliasStandsWhereItIsUsed() throws {
    let root = try parseYaml("a: &x [1]\nb: *x\n", name: "")
    #expect(root["b"]?.mark.description == "2:4")
    #expect(root["b"]?.list?.first?.mark.description == "1:8")
  }

  @Test func errorsNameTheFile() {
    #expect(throws: YamlError.self) { try parseYaml("a: 1\na: 2\n", name: "service.yaml") }
    do throws(YamlError) {
      _ = try parseYaml("a: 1\na: 2\n", name: "service.yaml")
    } catch {
      #expect(
        error.description.hasPrefix("service.yaml:2:1: Duplicate key 'a' in YAML at line 2 (also defined at line 1)"))
      #expect(error.other == YamlMark(line: 1, column: 1))
    }
  }

  // MARK: - Nodes

  @Test func scalarsKeepTheirText() throws {
    let root = try parseYaml("[3.10, 0777, 1_000, yes, 2024-01-01, ~]", name: "")
    #expect(root.list?.map(\.text) == ["3.10", "0777", "1_000", "yes", "2024-01-01", "~"])
    #expect(root.list?.map(\.tag) == [.float, .int, .int, .bool, .timestamp, .null])
  }

  @Test func stylesAreKept() throws {
    let root = try parseYaml("- a\n- 'b'\n- \"c\"\n- |\n  d\n- >\n  e\n- [f]\n-\n  - g\n", name: "")
    #expect(
      root.list?.map(\.style) == [.plain, .singleQuoted, .doubleQuoted, .literal, .folded, .flow, .block])
  }

  @Test func tagsAreKept() throws {
    let root = try parseYaml("[!a b, !!binary x, !!set {}, !<tag:x,2000:y> z]", name: "")
    #expect(root.list?.map(\.tag) == [.other("!a"), .binary, .set, .other("tag:x,2000:y")])
  }

  @Test func mergedEntriesSaySo() throws {
    let root = try parseYaml("{<<: {a: 1, b: 2}, b: 3}", name: "")
    #expect(root.map?.map(\.merged) == [true, false])
    #expect(root["b"]?.int == 3)
  }

  // MARK: - Documents

  @Test func anEmptyFileIsNull() throws {
    #expect(try parseYaml("", name: "").isNull)
    #expect(try parseYaml("# nothing\n", name: "").isNull)
  }

  @Test func oneDocumentIsExpected() {
    #expect(
      parseError("a: 1\n---\nb: 2\n")
        == "2:1: a second document starts here, and only one is expected. Remove the '---' or split the file.")
    #expect(parseError("a: 1\n...\n") == nil)
  }

  // MARK: - Encodings

  @Test(
    arguments: [
      (String.Encoding.utf16LittleEndian, [0xFF, 0xFE]), (.utf16BigEndian, [0xFE, 0xFF]),
      (.utf32LittleEndian, [0xFF, 0xFE, 0, 0]), (.utf32BigEndian, [0, 0, 0xFE, 0xFF]), (.utf8, [0xEF, 0xBB, 0xBF]),
    ] as [(String.Encoding, [UInt8])])
  func otherEncodings(_ encoding: String.Encoding, _ mark: [UInt8]) throws {
    let body = try #require("k: [é, 😀]\n".data(using: encoding))
    #expect(String(decoding: try yamlToJson(mark + body), as: UTF8.self) == "{\"k\":[\"é\",\"😀\"]}\n")
    if encoding != .utf8 {
      #expect(String(decoding: try yamlToJson(Array(body)), as: UTF8.self) == "{\"k\":[\"é\",\"😀\"]}\n")
      #expect(throws: YamlError.self) { try yamlToJson(mark + body.dropLast()) }
    }
  }

  @Test(
    arguments: [
      ([0x61, 0x3A, 0x20, 0xFF], "1:4: the text is not valid UTF-8. Save the file as UTF-8."),
      ([0x61, 0x0A, 0xC3], "2:1: the text is not valid UTF-8. Save the file as UTF-8."),
      ([0x61, 0xC0, 0x80], "1:2: the text is not valid UTF-8. Save the file as UTF-8."),
      ([0x61, 0xED, 0xA0, 0x80], "1:2: the text is not valid UTF-8. Save the file as UTF-8."),
      ([0x61, 0xF4, 0x90, 0x80, 0x80], "1:2: the text is not valid UTF-8. Save the file as UTF-8."),
      (
        [0x61, 0x62, 0x00, 0x63],
        "1:3: found the control character U+0000. Remove it, or write it as an escape in a double-quoted string."
      ),
      (
        [0x22, 0x1B, 0x22],
        "1:2: found the control character U+001B. Remove it, or write it as an escape in a double-quoted string."
      ),
      (
        [0x61, 0xC2, 0x80],
        "1:2: found the control character U+0080. Remove it, or write it as an escape in a double-quoted string."
      ),
      (
        [0x61, 0xEF, 0xBF, 0xBF],
        "1:2: found the control character U+FFFF. Remove it, or write it as an escape in a double-quoted string."
      ),
      ([0x00], "1:1: the text is not valid UTF-16. Save the file as UTF-8."),
    ] as [([UInt8], String)])
  func badBytes(_ bytes: [UInt8], _ expected: String) {
    #expect(parseError(bytes) == expected)
  }
}

/// What is said of a document, nil where nothing is wrong.
func parseError(_ bytes: [UInt8]) -> String? {
  do throws(YamlError) {
    _ = try parseYaml(bytes, name: "")
    return nil
  } catch {
    return error.description
  }
}

func parseError(_ text: String) -> String? { parseError(Array(text.utf8)) }

/// Any bytes give a tree that survives being written and read again, or an error that points into them.
func check(_ bytes: [UInt8], sourceLocation: SourceLocation = #_sourceLocation) {
  do throws(YamlError) {
    for document in try parseYamlStream(bytes, name: "") {
      let dump = yamlDump(document)
      do throws(YamlError) {
        let again = try parseYaml(dump, name: "")
        #expect(yamlJson(again) == yamlJson(document), "\(bytes) → \(dump)", sourceLocation: sourceLocation)
      } catch {
        Issue.record("\(bytes) → \(dump): \(error)", sourceLocation: sourceLocation)
      }
    }
  } catch {
    let lines = bytes.count { $0 == 0x0A || $0 == 0x0D } + 1
    #expect((1...lines).contains(error.line) && error.column >= 1, "\(bytes): \(error)", sourceLocation: sourceLocation)
    #expect(!error.message.isEmpty && !error.hint.isEmpty, "\(bytes): \(error)", sourceLocation: sourceLocation)
  }
}
