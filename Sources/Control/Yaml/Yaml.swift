// YAML with positions. Read here: service files, `~/.sky/config.yaml`. Written here: what the CLI echoes.
//
//   bytes ─ YamlText ─▶ text ─ YamlParser (+ YamlScalars, YamlBuild, YamlSchema) ─▶ YamlNode ─┬▶ Spec/Decoding
//                                                                                             ├▶ YamlJson
//                                                                                             └▶ YamlDump
//
// The structure is YAML 1.2's, the meaning of words YAML 1.1's as PyYAML has it: a file means here what it means to
// SkyPilot. Any bytes give a tree or an error, in time linear in their length; nothing crashes, whatever the input.

/// The only document of a file; an empty file is null. More than one document is an error.
package func parseYaml(_ bytes: [UInt8], name: String) throws(YamlError) -> YamlNode {
  var parser = try YamlParser(bytes, name: name)
  let first = try parser.document()
  let place = parser.pos
  if try parser.document() != nil {
    throw parser.fail(
      "a second document starts here, and only one is expected", "Remove the '---' or split the file.", at: place)
  }
  return first ?? YamlNode(.null, mark: YamlMark(line: 1, column: 1))
}

package func parseYaml(_ text: String, name: String) throws(YamlError) -> YamlNode {
  try parseYaml(Array(text.utf8), name: name)
}

/// All documents of a file.
package func parseYamlStream(_ bytes: [UInt8], name: String) throws(YamlError) -> [YamlNode] {
  var parser = try YamlParser(bytes, name: name)
  return try parser.stream()
}

/// Every document as JSON, one on a line.
package func yamlToJson(_ bytes: [UInt8], name: String = "<stdin>") throws(YamlError) -> [UInt8] {
  var out: [UInt8] = []
  for document in try parseYamlStream(bytes, name: name) {
    out.append(contentsOf: yamlJson(document))
    out.append(ascii("\n"))
  }
  return out
}
