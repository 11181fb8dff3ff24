// What a row of the table of commands is. Parsing, help, completion and the reference in README.md read the same rows.

package struct Flag: Sendable, Hashable {
  package enum Kind: Sendable, Hashable {
    case toggle
    /// `--follow / --no-follow`.
    case pair(off: String)
    /// Shown as `TEXT`, `FILE` and the like.
    case text(String)
    case whole
    case choice([String])
  }

  package enum Completion: Sendable, Hashable {
    case none
    case files
    case folders
    case words([String])
  }

  /// Without the dashes.
  package var name: String
  package var aliases: [String] = []
  package var short: Character?
  package var kind: Kind
  package var doc: String
  package var defaultText: String?
  package var repeats = false
  package var isHidden = false
  package var completion = Completion.none

  package init(
    _ name: String, _ short: Character? = nil, _ kind: Kind = .toggle, aliases: [String] = [],
    defaultText: String? = nil, repeats: Bool = false, isHidden: Bool = false, completion: Completion = .none,
    _ doc: String
  ) {
    self.name = name
    self.aliases = aliases
    self.short = short
    self.kind = kind
    self.defaultText = defaultText
    self.repeats = repeats
    self.isHidden = isHidden
    self.completion = completion
    self.doc = doc
  }

  package var takesValue: Bool {
    switch kind {
    case .toggle, .pair: false
    case .text, .whole, .choice: true
    }
  }

  var metavar: String {
    switch kind {
    case .toggle, .pair: ""
    case .text(let word): word
    case .whole: "INTEGER"
    case .choice(let words): "[" + words.joined(separator: "|") + "]"
    }
  }

  /// `'-n' / '--service-name'`
  var quoted: String { ((short.map { ["-\($0)"] } ?? []) + ["--\(name)"]).map { "'\($0)'" }.joined(separator: " / ") }

  /// Every spelling, with dashes; the "off" of a pair last.
  package var spellings: [String] {
    var all = (short.map { ["-\($0)"] } ?? []) + ["--\(name)"] + aliases.map { "--\($0)" }
    if case .pair(let off) = kind { all.append("--\(off)") }
    return all
  }
}

package struct Argument: Sendable, Hashable {
  package enum Count: Sendable, Hashable { case one, optional, any }
  package enum Completion: Sendable, Hashable {
    case none
    case serviceFiles
    /// One service, or several.
    case services
    /// Ids of the service named before.
    case replicas
    case words([String])
  }

  package var name: String
  package var count: Count
  package var isWhole = false
  package var completion: Completion

  package init(_ name: String, _ count: Count = .one, isWhole: Bool = false, completion: Completion = .none) {
    self.name = name
    self.count = count
    self.isWhole = isWhole
    self.completion = completion
  }

  var usage: String {
    switch count {
    case .one: name
    case .optional: "[\(name)]"
    case .any: "[\(name)]..."
    }
  }
}

package struct Command: Sendable {
  package typealias Action = @Sendable (Call, Session) async throws -> Void

  package var name: String
  package var summary: String
  /// Paragraphs of the help after the summary; a line that starts with two blanks stands as it is.
  package var text: [String] = []
  package var arguments: [Argument] = []
  package var flags: [Flag] = []
  package var commands: [Command] = []
  package var isHidden = false
  /// nil: a group.
  package var action: Action?

  package init(
    _ name: String, _ summary: String, text: [String] = [], arguments: [Argument] = [], flags: [Flag] = [],
    isHidden: Bool = false, action: @escaping Action
  ) {
    self.name = name
    self.summary = summary
    self.text = text
    self.arguments = arguments
    self.flags = flags
    self.isHidden = isHidden
    self.action = action
  }

  package init(
    group name: String, _ summary: String, text: [String] = [], flags: [Flag] = [], isHidden: Bool = false,
    commands: [Command]
  ) {
    self.name = name
    self.summary = summary
    self.text = text
    self.flags = flags
    self.isHidden = isHidden
    self.commands = commands
  }

  /// Those of the row and `--help`, which every command has.
  package var allFlags: [Flag] { flags + [.help] }

  package var isGroup: Bool { action == nil }
}

/// A command line that has been read.
package struct Call: Sendable {
  /// From `sky` on.
  package var path: [Command]
  package var arguments: [String: [String]] = [:]
  private var texts: [String: [String]] = [:]
  private var switches: [String: Bool] = [:]

  package init(path: [Command]) { self.path = path }

  package var command: Command { path[path.count - 1] }
  /// `sky serve up`
  package var title: String { path.map(\.name).joined(separator: " ") }

  package mutating func add(_ value: String, to flag: Flag) {
    if flag.repeats { texts[flag.name, default: []].append(value) } else { texts[flag.name] = [value] }
  }

  package mutating func turn(_ flag: Flag, on: Bool) { switches[flag.name] = on }

  private func check(_ flag: Flag) {
    precondition(
      path.contains { $0.allFlags.contains { $0.name == flag.name } },
      "\(title) asks for --\(flag.name), which it has not")
  }

  package func isOn(_ flag: Flag, default preset: Bool = false) -> Bool {
    check(flag)
    return switches[flag.name] ?? preset
  }

  /// nil: not said.
  package func choice(_ flag: Flag) -> Bool? {
    check(flag)
    return switches[flag.name]
  }

  package func text(_ flag: Flag) -> String? {
    check(flag)
    return texts[flag.name]?.last
  }

  package func texts(_ flag: Flag) -> [String] {
    check(flag)
    return texts[flag.name] ?? []
  }

  package func whole(_ flag: Flag) -> Int? { text(flag).flatMap { Int($0) } }

  package func argument(_ name: String) -> String { arguments[name]?.first ?? "" }
  package func all(_ name: String) -> [String] { arguments[name] ?? [] }
}
