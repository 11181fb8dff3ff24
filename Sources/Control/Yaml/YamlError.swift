// What is said when a document cannot be used: where, what, and what to do about it.

/// A place in a document. Lines and columns count from 1, columns in characters; the offset counts bytes of UTF-8 text.
package struct YamlMark: Sendable, Hashable, CustomStringConvertible {
  package var line: Int32
  package var column: Int32
  package var offset: Int32

  package init(line: Int, column: Int, offset: Int = 0) {
    self.line = Int32(clamping: line)
    self.column = Int32(clamping: column)
    self.offset = Int32(clamping: offset)
  }

  /// The mark of nodes that no document contains, such as defaults.
  package static let none = YamlMark(line: 0, column: 0)

  package var description: String { "\(line):\(column)" }
}

/// Reads `service.yaml:4:3: found a tab in the indentation. Indent with spaces only.`
package struct YamlError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The document's name, as given to `parseYaml`.
  package var name: String
  package var mark: YamlMark
  /// What is wrong.
  package var message: String
  /// What to do about it; may be empty.
  package var hint: String
  /// The other place that has a part in it, such as the first of two equal keys.
  package var other: YamlMark?

  package init(name: String, mark: YamlMark, message: String, hint: String = "", other: YamlMark? = nil) {
    self.name = name
    self.mark = mark
    self.message = message
    self.hint = hint
    self.other = other
  }

  package var line: Int { Int(mark.line) }
  package var column: Int { Int(mark.column) }

  package var description: String {
    let place = name.isEmpty ? "\(mark): " : "\(name):\(mark): "
    return hint.isEmpty ? place + message : "\(place)\(message). \(hint)"
  }
}
