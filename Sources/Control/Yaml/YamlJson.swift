// A tree as JSON, for `sky yaml-to-json` and for posting parts of a service YAML.
//
// JSON has fewer things than YAML: keys are written as text (`null`, `true`, `8080`; a collection as its own JSON), and
// infinities and not-a-number as the strings `.inf`, `-.inf`, `.nan`. Within such a key, a key that is a collection
// again is written as it is: quoting quotes at each level would double the text at each level.

/// Compact JSON of a node, UTF-8.
package func yamlJson(_ node: YamlNode) -> [UInt8] {
  var out: [UInt8] = []
  write(node, &out, inKey: false)
  return out
}

/// What tells one key from another; see above.
func yamlKeyText(_ key: YamlNode) -> [UInt8] {
  var out: [UInt8] = []
  write(key, &out, inKey: true)
  return out
}

private func write(_ node: YamlNode, _ out: inout [UInt8], inKey: Bool) {
  switch node.value {
  case .null, .bool, .int, .hugeInt: out.append(contentsOf: plainText(node.value).utf8)
  case .float(let it):
    if it.isFinite {
      out.append(contentsOf: yamlFloatText(it).utf8)
    } else {
      writeString(plainText(node.value).utf8, &out)
    }
  case .string(let it): writeString(it.utf8, &out)
  case .list(let items):
    out.append(ascii("["))
    for (index, item) in items.enumerated() {
      if index > 0 { out.append(ascii(",")) }
      write(item, &out, inKey: inKey)
    }
    out.append(ascii("]"))
  case .map(let entries):
    out.append(ascii("{"))
    for (index, entry) in entries.enumerated() {
      if index > 0 { out.append(ascii(",")) }
      switch entry.key.value {
      case .string(let it): writeString(it.utf8, &out)
      case .null, .bool, .int, .hugeInt, .float: writeString(plainText(entry.key.value).utf8, &out)
      case .list, .map:
        if inKey { write(entry.key, &out, inKey: true) } else { writeString(yamlKeyText(entry.key), &out) }
      }
      out.append(ascii(":"))
      write(entry.value, &out, inKey: inKey)
    }
    out.append(ascii("}"))
  }
}

/// What is neither a string nor a collection, as YAML and JSON both write it.
func plainText(_ value: YamlValue) -> String {
  switch value {
  case .null: return "null"
  case .bool(let it): return it ? "true" : "false"
  case .int(let it): return String(it)
  case .hugeInt(let digits): return digits
  case .float(let it):
    if it.isNaN { return ".nan" }
    if it.isInfinite { return it < 0 ? "-.inf" : ".inf" }
    return yamlFloatText(it)
  case .string, .list, .map: preconditionFailure("only asked for nulls, booleans and numbers")
  }
}

private func writeString(_ text: some Sequence<UInt8>, _ out: inout [UInt8]) {
  out.append(ascii("\""))
  for byte in text {
    switch byte {
    case ascii("\""), ascii("\\"):
      out.append(ascii("\\"))
      out.append(byte)
    case 0x0A: out.append(contentsOf: "\\n".utf8)
    case 0x0D: out.append(contentsOf: "\\r".utf8)
    case 0x09: out.append(contentsOf: "\\t".utf8)
    case 0..<0x20, 0x7F:
      let digits = String(byte, radix: 16)
      out.append(contentsOf: "\\u00\(digits.count < 2 ? "0" : "")\(digits)".utf8)
    default: out.append(byte)
    }
  }
  out.append(ascii("\""))
}
