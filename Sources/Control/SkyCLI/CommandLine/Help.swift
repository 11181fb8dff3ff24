// A command's help, at most 80 columns wide, from its row.

package enum Help {
  static let width = 78
  /// Where descriptions start at the latest.
  private static let firstColumnMax = 30

  package static func usage(_ path: [Command]) -> String {
    let command = path[path.count - 1]
    let words =
      command.isGroup ? ["[OPTIONS]", "COMMAND", "[ARGS]..."] : ["[OPTIONS]"] + command.arguments.map(\.usage)
    return "Usage: " + (path.map(\.name) + words).joined(separator: " ")
  }

  /// What is said after a mistake.
  package static func advice(_ path: [Command]) -> String {
    "\(usage(path))\nTry '\(path.map(\.name).joined(separator: " ")) --help' for help.\n"
  }

  package static func text(_ path: [Command]) -> String {
    let command = path[path.count - 1]
    var out = usage(path) + "\n\n"
    for (index, paragraph) in ([command.summary] + command.text).enumerated() {
      if index > 0 { out += "\n" }
      for line in paragraph.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
        out += line.hasPrefix("  ") ? "  \(line)\n" : wrapped(line, indent: 2)
      }
    }
    let flags = command.allFlags.filter { !$0.isHidden }
    out += "\nOptions:\n" + definitions(flags.map { (optionText($0), doc($0)) })
    let commands = command.commands.filter { !$0.isHidden }
    if !commands.isEmpty { out += "\nCommands:\n" + definitions(commands.map { ($0.name, $0.summary) }) }
    return out
  }

  static func optionText(_ flag: Flag) -> String {
    var on = (flag.short.map { ["-\($0)"] } ?? []) + [flag.name].map { "--\($0)" } + flag.aliases.map { "--\($0)" }
    if case .pair(let off) = flag.kind { on = [on.joined(separator: ", ") + " / --\(off)"] }
    return on.joined(separator: ", ") + (flag.takesValue ? " \(flag.metavar)" : "")
  }

  private static func doc(_ flag: Flag) -> String {
    flag.doc + (flag.defaultText.map { "  [default: \($0)]" } ?? "")
  }

  private static func definitions(_ rows: [(String, String)]) -> String {
    let column = min(firstColumnMax, rows.map(\.0.count).max() ?? 0) + 4
    var out = ""
    for (term, doc) in rows {
      let text = wrapped(doc, indent: column)
      if term.count + 4 <= column {
        out += "  " + term + String(repeating: " ", count: column - term.count - 2) + text.dropFirst(column)
      } else {
        out += "  \(term)\n" + text
      }
    }
    return out
  }

  static func wrapped(_ text: String, indent: Int) -> String {
    let margin = String(repeating: " ", count: indent)
    var out = ""
    var line = ""
    for word in text.split(separator: " ").map(String.init) {
      if !line.isEmpty, indent + line.count + 1 + word.count > width {
        out += margin + line + "\n"
        line = word
      } else {
        line += (line.isEmpty ? "" : " ") + word
      }
    }
    return out + (line.isEmpty && text.isEmpty ? "\n" : margin + line + "\n")
  }
}
