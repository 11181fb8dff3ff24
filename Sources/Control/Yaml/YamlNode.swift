// The tree a document becomes. Every node knows where it stands, so whoever reads it further (ControlCore's
// Spec/Decoding) can point at the very word that is wrong.
//
// `value` is what YAML 1.1 makes of the node, as PyYAML's safe_load does; `text` keeps a scalar as it was written
// (after quotes, escapes and folding), for fields that want `3.10` or `0777` as text.

package enum YamlStyle: Sendable, Hashable {
  case plain, singleQuoted, doubleQuoted, literal, folded  // scalars
  case block, flow  // sequences and mappings
}

/// The tags of YAML 1.1's types by name; any other tag is carried along but gives no meaning to its node.
package enum YamlTag: Sendable, Hashable {
  case null, bool, int, float, str, timestamp, binary, merge, value
  case seq, omap, pairs
  case map, set
  case other(String)
}

/// What a node means. Timestamps, `=` and binary data stay strings; the tag tells them apart.
package enum YamlValue: Sendable {
  case null
  case bool(Bool)
  case int(Int)
  /// A whole number that does not fit 64 bits, in decimal digits.
  case hugeInt(String)
  case float(Double)
  case string(String)
  case list([YamlNode])
  /// Entries in the order of the document, merged ones (`<<`) first; no two keys are equal.
  case map([YamlEntry])
}

package struct YamlEntry: Sendable {
  package var key: YamlNode
  package var value: YamlNode
  /// Came in through `<<`.
  package var merged: Bool

  package init(key: YamlNode, value: YamlNode, merged: Bool = false) {
    self.key = key
    self.value = value
    self.merged = merged
  }

  package init(_ key: String, _ value: YamlNode) {
    self.init(key: YamlNode(.string(key)), value: value)
  }
}

package struct YamlNode: Sendable {
  package var value: YamlValue
  /// The scalar as written; empty for lists and maps.
  package var text: String
  package var tag: YamlTag
  package var style: YamlStyle
  package var mark: YamlMark
  /// 0 for scalars, else one more than the deepest child: keeps every walk over the tree within `nestingMax` calls.
  var height: UInt16 = 0

  /// A node that stands in no document.
  package init(_ value: YamlValue, mark: YamlMark = .none) {
    self.value = value
    self.mark = mark
    text = ""
    style = .plain
    switch value {
    case .null: (tag, text) = (.null, "null")
    case .bool(let it): (tag, text) = (.bool, it ? "true" : "false")
    case .int(let it): (tag, text) = (.int, String(it))
    case .hugeInt(let it): (tag, text) = (.int, it)
    case .float(let it): (tag, text) = (.float, yamlFloatText(it))
    case .string(let it): (tag, text) = (.str, it)
    case .list(let items):
      tag = .seq
      style = .block
      height = 1 + (items.map(\.height).max() ?? 0)
    case .map(let entries):
      tag = .map
      style = .block
      height = 1 + (entries.map { max($0.key.height, $0.value.height) }.max() ?? 0)
    }
  }

  init(value: YamlValue, text: String, tag: YamlTag, style: YamlStyle, mark: YamlMark, height: UInt16 = 0) {
    self.value = value
    self.text = text
    self.tag = tag
    self.style = style
    self.mark = mark
    self.height = height
  }

  // Shorthands for readers of trees.

  package var isNull: Bool { if case .null = value { true } else { false } }
  package var bool: Bool? { if case .bool(let it) = value { it } else { nil } }
  package var int: Int? { if case .int(let it) = value { it } else { nil } }
  package var string: String? { if case .string(let it) = value { it } else { nil } }
  package var list: [YamlNode]? { if case .list(let it) = value { it } else { nil } }
  package var map: [YamlEntry]? { if case .map(let it) = value { it } else { nil } }

  /// The number, whole or not.
  package var double: Double? {
    switch value {
    case .int(let it): Double(it)
    case .hugeInt(let digits): Double(digits)
    case .float(let it): it
    case .null, .bool, .string, .list, .map: nil
    }
  }

  /// The value of the entry with this string key.
  package subscript(key: String) -> YamlNode? {
    guard case .map(let entries) = value else { return nil }
    return entries.first { $0.key.string == key }?.value
  }

  /// What kind of thing this is, in words for people.
  package var kindName: String {
    switch value {
    case .null: "null"
    case .bool: "a boolean"
    case .int, .hugeInt: "an integer"
    case .float: "a number"
    case .string: "a string"
    case .list: "a list"
    case .map: "a mapping"
    }
  }
}
