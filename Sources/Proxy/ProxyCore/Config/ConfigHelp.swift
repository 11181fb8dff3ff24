// --help and the README's table of flags, both written from the rows.

extension ProxyConfig {
  private static let helpWidth = 80

  package static func help() -> String {
    var out = """
      sky-proxy \(ProxyVersion.text): an HTTP reverse proxy for LLM endpoints

      Usage: sky-proxy --replica HOST:PORT [--replica HOST:PORT ...] [flags]


      """
    let general = """
      A flag is written --name value or --name=value. The same names work as lines name = value of the --config file, \
      and as environment variables: \(ConfigRow.variablePrefix)MAX_IN_FLIGHT for --max-in-flight; repeatable ones \
      take a list with commas there, and an empty variable counts as not set. A flag goes before a variable, a \
      variable before the file. TIME is 100us, 500ms, 5s, 2m or 1h, a plain number means seconds. SIZE is a number of \
      bytes or 64k, 1m, 1g (binary).
      """
    out += wrap(general, indent: 0)
    for group in ConfigRow.Group.allCases {
      out += "\n\(group.rawValue)\n"
      for row in ConfigRow.all where row.group == group {
        let usage = row.kind.isSwitch ? "" : " \(row.kind.placeholder)"
        out += "  --\(row.name)\(usage)\(row.kind.isRepeatable ? " (repeatable)" : "")\n"
        out += wrap(row.doc + row.facts.map { " " + $0 + "." }.joined(), indent: 6)
      }
    }
    return out
  }

  /// One table with a bold row per group.
  package static func markdown() -> String {
    var out = "| Flag | Value | Default | Meaning |\n|---|---|---|---|\n"
    for group in ConfigRow.Group.allCases {
      out += "| **\(group.rawValue)** | | | |\n"
      for row in ConfigRow.all where row.group == group {
        let shape = row.kind.isSwitch ? "" : row.kind.range.isEmpty ? "`\(row.kind.placeholder)`" : row.kind.range
        let value = row.kind.isRepeatable ? shape + ", repeatable" : shape
        let fallback = row.kind.isSwitch ? "" : row.defaults.map { "`\($0)`" }.joined(separator: ", ")
        out += "| `--\(row.name)` | \(cell(value)) | \(cell(fallback)) | \(cell(row.doc)) |\n"
      }
    }
    return out
  }

  private static func cell(_ text: String) -> String {
    text.map { $0 == "|" ? "\\|" : String($0) }.joined()
  }

  /// Lines of at most `helpWidth` columns, broken at spaces.
  private static func wrap(_ text: String, indent: Int) -> String {
    let margin = String(repeating: " ", count: indent)
    var out = ""
    var line = margin
    for word in text.split(separator: " ") {
      let isFirst = line.utf8.count == indent
      if !isFirst, line.utf8.count + 1 + word.utf8.count > helpWidth {
        out += line + "\n"
        line = margin + word
      } else {
        line += (isFirst ? "" : " ") + word
      }
    }
    return out + line + "\n"
  }
}

extension ConfigRow {
  /// Range and default, as sentences without their full stop.
  fileprivate var facts: [String] {
    if kind.isSwitch { return [] }
    var result: [String] = []
    if !kind.range.isEmpty { result.append("Value: \(kind.range)") }
    if !defaults.isEmpty { result.append("Default: \(defaults.joined(separator: ", "))") }
    return result
  }
}
