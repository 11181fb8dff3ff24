// The reference in README.md, from the rows.

import ControlCore

package enum Markdown {
  /// Every command with its flags.
  package static func commands() -> String {
    var out = ""
    for path in paths([CommandTable.root]) where path.count > 1 {
      let command = path[path.count - 1]
      if command.isGroup { continue }
      out += "#### `\(Help.usage(path).dropFirst("Usage: ".count))`\n\n\(command.summary)\n\n"
      var own = command.flags.filter { !$0.isHidden }
      let hasTaskOptions = Flag.taskOptions.contains { $0 == .gpus && own.contains($0) }
      if hasTaskOptions { own.removeAll { flag in flag != .yes && Flag.taskOptions.contains(flag) } }
      if !own.isEmpty { out += table(own) + "\n" }
      if hasTaskOptions { out += "And the task options below.\n\n" }
    }
    let shared = Flag.taskOptions.filter { !$0.isHidden && $0 != .yes }
    return out + "#### Task options\n\nThey win over the file, in every candidate of `resources`.\n\n" + table(shared)
  }

  private static func paths(_ path: [Command]) -> [[Command]] {
    let visible = path[path.count - 1].commands.filter { !$0.isHidden }
    return [path] + visible.flatMap { paths(path + [$0]) }
  }

  private static func table(_ flags: [Flag]) -> String {
    rows(
      ["Flag", "Meaning"],
      flags.map { ["`\(Help.optionText($0))`", $0.doc + ($0.defaultText.map { " Default: `\($0)`." } ?? "")] })
  }

  /// Every field of a service file.
  package static func fields() -> String {
    func section(_ title: String, _ fields: [Field]) -> String {
      "#### \(title)\n\n"
        + rows(["Field", "Value", "Default", "Meaning"], fields.map { ["`\($0.name)`", $0.value, $0.preset, $0.doc] })
        + "\n"
    }
    func others(_ names: [String]) -> String {
      "Also read, and kept for clouds that have them: " + names.map { "`\($0)`" }.joined(separator: ", ") + ".\n\n"
    }
    return section("`service:`", FieldTable.service) + section("`resources:`", FieldTable.resources)
      + others(FieldTable.otherResources) + section("The task", FieldTable.task)
      + others(FieldTable.otherTask)
  }

  private static func rows(_ titles: [String], _ rows: [[String]]) -> String {
    func line(_ cells: [String]) -> String {
      "| " + cells.map { $0.replacing("|", with: "\\|") }.joined(separator: " | ") + " |\n"
    }
    return line(titles) + "|" + String(repeating: "---|", count: titles.count) + "\n" + rows.map(line).joined()
  }
}
