// Data without positions: what is left of a part of a service file once it has been checked. Probe bodies, labels and
// the fields that only a cloud understands are kept so; canonical forms are built of it.
//
// It has three texts: JSON as Python's json.dumps writes it (what the user sees in an echo), compact JSON (what goes
// over the wire and into the journal), and Python's repr (what the messages of SkyPilot quote).

import ProxyWire
import Yaml

package indirect enum PlainValue: Hashable, Sendable {
  case null
  case bool(Bool)
  case int(Int)
  case double(Double)
  case string(String)
  case list([PlainValue])
  /// In the order of the document.
  case map([Member])

  package struct Member: Hashable, Sendable, Codable {
    package var key: String
    package var value: PlainValue

    package init(_ key: String, _ value: PlainValue) {
      self.key = key
      self.value = value
    }
  }

  package subscript(key: String) -> PlainValue? {
    guard case .map(let members) = self else { return nil }
    return members.first { $0.key == key }?.value
  }

  package var isNull: Bool { self == .null }
  package var text: String? { if case .string(let it) = self { it } else { nil } }

  /// The same with every mapping's members sorted by key, for comparing and for sorting.
  package var sorted: PlainValue {
    switch self {
    case .null, .bool, .int, .double, .string: self
    case .list(let items): .list(items.map(\.sorted))
    case .map(let members):
      .map(
        members.map { Member($0.key, $0.value.sorted) }
          .sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) })
    }
  }
}

extension PlainValue {
  /// The same with other texts; keys stay.
  package func mappingTexts(_ change: (String) -> String) -> PlainValue {
    switch self {
    case .null, .bool, .int, .double: self
    case .string(let text): .string(change(text))
    case .list(let items): .list(items.map { $0.mappingTexts(change) })
    case .map(let members): .map(members.map { Member($0.key, $0.value.mappingTexts(change)) })
    }
  }
}

// MARK: - From YAML and JSON

extension PlainValue {
  package init(_ node: YamlNode) {
    switch node.value {
    case .null: self = .null
    case .bool(let it): self = .bool(it)
    case .int(let it): self = .int(it)
    case .hugeInt(let digits): self = .double(Double(digits) ?? .infinity)
    case .float(let it): self = .double(it)
    case .string(let it): self = .string(it)
    case .list(let items): self = .list(items.map(PlainValue.init))
    case .map(let entries): self = .map(entries.map { Member($0.key.keyText, PlainValue($0.value)) })
    }
  }

  package init(_ json: JsonValue) {
    switch json.content {
    case .null: self = .null
    case .bool(let it): self = .bool(it)
    case .int(let it): self = .int(Int(it))
    case .unsigned(let it): self = .double(Double(it))
    case .double(let it): self = .double(it)
    case .string(let it): self = .string(it)
    case .array(let items): self = .list(items.map { PlainValue($0) })
    case .object(let members): self = .map(members.map { Member($0.key, PlainValue($0.value)) })
    }
  }

  package init(jsonText: String) throws(JsonError) { self.init(try Json.parse(jsonText)) }
}

extension YamlNode {
  /// A mapping's key as text: JSON and Swift have no other keys.
  var keyText: String {
    switch value {
    case .string(let it): it
    case .null: "null"
    case .bool, .int, .hugeInt, .float, .list, .map: pythonText
    }
  }

  /// What Python's `str` makes of the value.
  var pythonText: String { string ?? pythonRepr }

  /// What Python's `repr` makes of the value.
  var pythonRepr: String {
    switch value {
    case .null: "None"
    case .bool(let it): it ? "True" : "False"
    case .int(let it): String(it)
    case .hugeInt(let digits): digits
    case .float(let it): yamlFloatText(it)
    case .string(let it): pythonQuoted(it)
    case .list(let items): "[" + items.map(\.pythonRepr).joined(separator: ", ") + "]"
    case .map(let entries):
      "{" + entries.map { "\($0.key.pythonRepr): \($0.value.pythonRepr)" }.joined(separator: ", ") + "}"
    }
  }
}

extension PlainValue {
  /// What Python's `repr` makes of the value.
  package var pythonRepr: String {
    switch self {
    case .null: "None"
    case .bool(let it): it ? "True" : "False"
    case .int(let it): String(it)
    case .double(let it): yamlFloatText(it)
    case .string(let it): pythonQuoted(it)
    case .list(let items): "[" + items.map(\.pythonRepr).joined(separator: ", ") + "]"
    case .map(let members):
      "{" + members.map { "\(pythonQuoted($0.key)): \($0.value.pythonRepr)" }.joined(separator: ", ") + "}"
    }
  }
}

/// A string between quotes as Python's `repr` chooses and escapes them.
func pythonQuoted(_ text: String) -> String {
  let quote: Unicode.Scalar = text.contains("'") && !text.contains("\"") ? "\"" : "'"
  var out = String(quote)
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\\": out += "\\\\"
    case quote: out += "\\" + String(quote)
    case "\n": out += "\\n"
    case "\r": out += "\\r"
    case "\t": out += "\\t"
    case "\0"..<" ", "\u{7F}":
      let digits = String(scalar.value, radix: 16)
      out += "\\x" + (digits.count < 2 ? "0" : "") + digits
    default: out.unicodeScalars.append(scalar)
    }
  }
  return out + String(quote)
}

// MARK: - As JSON

extension PlainValue {
  package enum JsonStyle: Sendable {
    /// `{"a": 1, "b": [2, 3]}`, everything beyond ASCII escaped: what Python's json.dumps writes.
    case python
    /// `{"a":1,"b":[2,3]}`
    case compact
  }

  package func json(_ style: JsonStyle = .compact) -> String {
    var out = ""
    write(&out, style)
    return out
  }

  private func write(_ out: inout String, _ style: JsonStyle) {
    let comma = style == .python ? ", " : ","
    switch self {
    case .null: out += "null"
    case .bool(let it): out += it ? "true" : "false"
    case .int(let it): out += String(it)
    // JSON has no such numbers; Python writes its own words for them, which nobody else reads.
    case .double(let it): out += it.isFinite ? yamlFloatText(it) : "null"
    case .string(let it): Self.quote(it, &out, ascii: style == .python)
    case .list(let items):
      out += "["
      for (index, item) in items.enumerated() {
        if index > 0 { out += comma }
        item.write(&out, style)
      }
      out += "]"
    case .map(let members):
      out += "{"
      for (index, member) in members.enumerated() {
        if index > 0 { out += comma }
        Self.quote(member.key, &out, ascii: style == .python)
        out += style == .python ? ": " : ":"
        member.value.write(&out, style)
      }
      out += "}"
    }
  }

  private static func quote(_ text: String, _ out: inout String, ascii: Bool) {
    out += "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      case "\r": out += "\\r"
      case "\t": out += "\\t"
      case "\u{8}": out += "\\b"
      case "\u{C}": out += "\\f"
      case "\0"..<" ": out += unicodeEscape(UInt16(scalar.value))
      case "\u{7F}"...:
        if ascii {
          for unit in String(scalar).utf16 { out += unicodeEscape(unit) }
        } else {
          out.unicodeScalars.append(scalar)
        }
      default: out.unicodeScalars.append(scalar)
      }
    }
    out += "\""
  }

  private static func unicodeEscape(_ unit: UInt16) -> String {
    let digits = String(unit, radix: 16)
    return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
  }
}

/// In a file it is its JSON as one string: the order of keys survives, and so does any key.
extension PlainValue: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    do {
      self = try PlainValue(jsonText: try container.decode(String.self))
    } catch let error as JsonError {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: error.description)
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(json())
  }
}

// MARK: - Numbers

/// A number as the file had it: `5` and `5.0` mean the same and are echoed as they were written.
package enum Quantity: Hashable, Sendable, Codable, CustomStringConvertible {
  case whole(Int)
  case fraction(Double)

  package init(_ value: Int) { self = .whole(value) }

  init?(_ node: YamlNode) {
    switch node.value {
    case .int(let it): self = .whole(it)
    case .float(let it): self = .fraction(it)
    case .hugeInt(let digits): self = .fraction(Double(digits) ?? .infinity)
    case .null, .bool, .string, .list, .map: return nil
    }
  }

  package var value: Double {
    switch self {
    case .whole(let it): Double(it)
    case .fraction(let it): it
    }
  }

  package var plain: PlainValue {
    switch self {
    case .whole(let it): .int(it)
    case .fraction(let it): .double(it)
    }
  }

  package var description: String {
    switch self {
    case .whole(let it): String(it)
    case .fraction(let it): yamlFloatText(it)
    }
  }
}

// MARK: - As YAML

extension PlainValue {
  /// A file that says the same.
  package var yaml: String { yamlDump(node) }

  private var node: YamlNode {
    switch self {
    case .null: YamlNode(.null)
    case .bool(let it): YamlNode(.bool(it))
    case .int(let it): YamlNode(.int(it))
    case .double(let it): YamlNode(.float(it))
    case .string(let it): YamlNode(.string(it))
    case .list(let items): YamlNode(.list(items.map(\.node)))
    case .map(let members): YamlNode(.map(members.map { .init(key: YamlNode(.string($0.key)), value: $0.value.node) }))
    }
  }
}
