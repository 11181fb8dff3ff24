// What could stand where the cursor is, from the rows of the table and from the services there are.
//
// The shells' scripts are a few lines each: they call `sky complete-words -- INDEX WORD…` and show what comes back,
// `word<TAB>description` a line, or `:files` / `:folders` where the shell knows better.

import ControlCore

package struct Candidate: Sendable, Hashable {
  package var word: String
  package var doc: String

  package init(_ word: String, _ doc: String = "") {
    self.word = word
    self.doc = doc
  }

  static let files = Candidate(":files")
  static let folders = Candidate(":folders")
}

package enum Completion {
  /// A person waits for it between two key strokes.
  static let secondsMax = 0.5

  /// - Parameter words: from `sky` on; `index` is the one being written.
  package static func candidates(_ words: [String], at index: Int, _ session: Session) async -> [Candidate] {
    guard index > 0, index <= words.count else { return [] }
    let current = index < words.count ? words[index] : ""
    var path = [CommandTable.root]
    var positional: [String] = []
    var awaiting: Flag?
    var onlyArguments = false
    for word in words[1..<min(index, words.count)] {
      let command = path[path.count - 1]
      // bash gives `--mode=x` as three words.
      if word == "=" { continue }
      if awaiting != nil {
        awaiting = nil
      } else if !onlyArguments, word == "--" {
        onlyArguments = true
      } else if !onlyArguments, word.hasPrefix("-"), word.count > 1 {
        awaiting = flag(word, of: command)
      } else if command.isGroup {
        guard let next = command.commands.first(where: { $0.name == word }) else { return [] }
        path.append(next)
      } else {
        positional.append(word)
      }
    }
    let command = path[path.count - 1]
    if let awaiting {
      return await matching(current == "=" ? "" : current, values(of: awaiting, session))
    }
    if !onlyArguments, current.hasPrefix("-") {
      if let equals = current.firstIndex(of: "="), let flag = flag(String(current[..<equals]), of: command) {
        let prefix = String(current[...equals])
        let found = await matching(String(current[current.index(after: equals)...]), values(of: flag, session))
        return found.map { $0.word.hasPrefix(":") ? $0 : Candidate(prefix + $0.word, $0.doc) }
      }
      let shown = command.allFlags.filter { !$0.isHidden }
      return matching(
        current, shown.flatMap { flag in flag.spellings.filter { $0.hasPrefix("--") }.map { Candidate($0, flag.doc) } })
    }
    if command.isGroup {
      return matching(current, command.commands.filter { !$0.isHidden }.map { Candidate($0.name, $0.summary) })
    }
    return await matching(current, arguments(of: command, positional, session))
  }

  /// The flag that the next word is the value of.
  private static func flag(_ word: String, of command: Command) -> Flag? {
    let known = command.allFlags.filter(\.takesValue)
    if word.hasPrefix("--") { return known.first { $0.spellings.contains(word) } }
    return known.first { $0.short == word.last }
  }

  private static func matching(_ beginning: String, _ all: [Candidate]) -> [Candidate] {
    all.filter { $0.word.hasPrefix(":") || $0.word.hasPrefix(beginning) }
  }

  private static func values(of flag: Flag, _ session: Session) async -> [Candidate] {
    if case .choice(let words) = flag.kind { return words.map { Candidate($0) } }
    switch flag.completion {
    case .files: return [.files]
    case .folders: return [.folders]
    case .words(let words): return words.map { Candidate($0) }
    case .none: break
    }
    // `--env KEY` takes what the shell has.
    return flag == .env || flag == .secret ? session.environment.keys.sorted().map { Candidate($0) } : []
  }

  private static func arguments(of command: Command, _ given: [String], _ session: Session) async -> [Candidate] {
    var rest = given[...]
    for argument in command.arguments {
      switch argument.count {
      case .one, .optional:
        if rest.popFirst() != nil { continue }
      case .any: break
      }
      switch argument.completion {
      case .none: return []
      case .serviceFiles: return [.files]
      case .words(let words): return words.filter { !rest.contains($0) }.map { Candidate($0) }
      case .services:
        return await services(session).filter { !rest.contains($0.name) }.map { Candidate($0.name, $0.status.rawValue) }
      case .replicas:
        return await services(session).first { $0.name == given.first }?.replicaInfo
          .filter { !rest.contains(String($0.replicaId)) }
          .map { Candidate(String($0.replicaId), $0.status.rawValue) } ?? []
      }
    }
    return []
  }

  /// Those a running controller tells at once; nothing is started for a key stroke.
  private static func services(_ session: Session) async -> [ServiceStatusReport] {
    await withTaskGroup(of: [ServiceStatusReport]?.self) { group in
      group.addTask { try? await session.door.open(.never)?.status([]).services }
      group.addTask {
        try? await Task.sleep(for: .seconds(secondsMax))
        return nil
      }
      let first = await group.next() ?? nil
      group.cancelAll()
      return first ?? []
    }
  }
}
