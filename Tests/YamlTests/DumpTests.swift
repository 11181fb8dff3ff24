// What is written for what was read.

import Testing

@testable import Yaml

@Suite struct DumpTests {
  private static let long = String(repeating: "word ", count: 30) + "end"

  @Test(arguments: [
    ("{a: 1, b: [x, y], c: {d: null}}", "a: 1\nb:\n- x\n- y\nc:\n  d: null\n"),
    ("- [a, [b]]\n- {c: d, e: f}\n", "- - a\n  - - b\n- c: d\n  e: f\n"),
    ("{a: [], b: {}, c: ''}", "a: []\nb: {}\nc: ''\n"),
    (
      "[yes, 'yes', 1, '1', 1.0, 1e3, '1.0e+3', ~, '~', 2024-01-01]",
      "- true\n- 'yes'\n- 1\n- '1'\n- 1.0\n- 1e3\n- '1.0e+3'\n- null\n- '~'\n- 2024-01-01\n"
    ),
    (
      "[1e+1, 1.0e+16, 1.0e-7, .inf, -.inf, .nan, 0x10, 99999999999999999999]",
      "- 1e+1\n- 1.0e+16\n- 1.0e-07\n- .inf\n- -.inf\n- .nan\n- 16\n- 99999999999999999999\n"
    ),
    (
      "['a: b', 'a #b', ' a', '- a', '#a', 'it''s', '@a', \"a\\tb\"]",
      "- 'a: b'\n- 'a #b'\n- ' a'\n- '- a'\n- '#a'\n- it's\n- '@a'\n- \"a\\tb\"\n"
    ),
    ("run: |\n  one\n    two\n\n  three\n", "run: |\n  one\n    two\n\n  three\n"),
    ("run: |-\n  one\n  two\n", "run: |-\n  one\n  two\n"),
    ("run: |+\n  one\n  two\n\n", "run: |+\n  one\n  two\n\n"),
    ("run: \"\\n  one\\ntwo\"", "run: |2-\n\n    one\n  two\n"),
    ("- - |\n    a\n    b\n", "- - |\n    a\n    b\n"),
    ("run: \"one \\ntwo\"", "run: \"one \\ntwo\"\n"),
    ("? [a]\n: b\n", "? - a\n: b\n"),
    ("{? '' : a, ? \"a\\nb\" : c}", "? ''\n: a\n? |-\n  a\n  b\n: c\n"),
    ("é: ü 😀", "é: ü 😀\n"),
    ("a", "a\n...\n"),
    ("'1'", "'1'\n"),
    ("[]", "[]\n"),
    (
      "a: \(long)",
      "a: word word word word word word word word word word word word word word word word\n  word word word word word word word word word word word word word word end\n"
    ),
  ])
  func dump(_ yaml: String, _ expected: String) throws {
    #expect(yamlDump(try parseYaml(yaml, name: "")) == expected)
  }

  @Test(arguments: [
    ("a: |\n  b\n  c\n", "a: 'b\n\n  c\n\n  '\n"), ("é: 😀", "\"\\xE9\": \"\\U0001F600\"\n"),
  ])
  func asPyYaml(_ yaml: String, _ expected: String) throws {
    #expect(yamlDump(try parseYaml(yaml, name: ""), style: .pyYaml) == expected)
  }

  @Test func treesCanBeBuilt() {
    let node = YamlNode(
      .map([
        YamlEntry("name", YamlNode(.string("chat"))), YamlEntry("ports", YamlNode(.list([YamlNode(.int(8080))]))),
      ]))
    #expect(yamlDump(node) == "name: chat\nports:\n- 8080\n")
    #expect(node["ports"]?.list?.first?.int == 8080)
  }

  @Test(
    arguments: [
      (0.1, "0.1"), (1, "1.0"), (-0.0, "-0.0"), (1e15, "1000000000000000.0"), (1e16, "1e+16"),
      (123_456_789_012_345_680, "1.2345678901234568e+17"),
      (0.0001, "0.0001"), (0.00001, "1e-05"), (1.5e300, "1.5e+300"), (.leastNonzeroMagnitude, "5e-324"),
      (9_007_199_254_740_994, "9007199254740994.0"),
      (.infinity, "inf"), (-.infinity, "-inf"), (.nan, "nan"),
    ] as [(Double, String)])
  func floatsAsPythonWritesThem(_ value: Double, _ expected: String) {
    #expect(yamlFloatText(value) == expected)
  }
}
