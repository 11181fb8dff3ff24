// From words to a Call, by the rows of the table. Options may stand anywhere; `--flag value`, `--flag=value`,
// `-nVALUE`, `-n VALUE` and `-vy` are understood; `--` ends the options. A mistake is
// answered as SkyServe's command line answers it, with the nearest word that exists.

import ControlCore

package enum Parsed: Sendable {
  case call(Call)
  case help([Command])
  case version
}

/// A mistake in the command line, and of which command.
package struct UsageError: Error, Sendable {
  package var path: [Command]
  package var message: String
}

package enum Parsing {
  package static func parse(_ words: [String], root: Command) throws(UsageError) -> Parsed {
    var path = [root]
    var call = Call(path: path)
    var rest = words[...]
    // The words of groups: flags of their own, then the name of a command.
    while path[path.count - 1].isGroup {
      let group = path[path.count - 1]
      guard let word = rest.first else {
        if let done = immediate(call) { return done }
        return .help(path)
      }
      if word == "--" {
        rest = rest.dropFirst()
        continue
      }
      if word.hasPrefix("-"), word != "-" {
        if try takeOption(&rest, group, &call, path) { return .help(path) }
        if call.isOn(.version, in: group) { return .version }
        if let done = immediate(call) { return done }
        continue
      }
      guard let next = group.commands.first(where: { $0.name == word }) else {
        let near = closestMatch(word, among: group.commands.filter { !$0.isHidden }.map(\.name))
        throw UsageError(path: path, message: "No such command '\(word)'.\(didYouMean(near))")
      }
      rest = rest.dropFirst()
      path.append(next)
      call.path = path
    }

    let command = path[path.count - 1]
    var positional: [String] = []
    var onlyArguments = false
    while let word = rest.first {
      if !onlyArguments, word == "--" {
        onlyArguments = true
        rest = rest.dropFirst()
      } else if !onlyArguments, word.hasPrefix("-"), word != "-" {
        if try takeOption(&rest, command, &call, path) { return .help(path) }
      } else {
        positional.append(word)
        rest = rest.dropFirst()
      }
    }
    try assign(positional, command, &call, path)
    return .call(call)
  }

  /// Flags of the program itself that are commands in truth.
  private static func immediate(_ call: Call) -> Parsed? {
    let flags: [Flag] = [.installCompletion, .uninstallCompletion]
    return call.path.count == 1 && flags.contains(where: { call.has($0) }) ? .call(call) : nil
  }

  /// True: it was `--help`.
  private static func takeOption(
    _ rest: inout ArraySlice<String>, _ command: Command, _ call: inout Call, _ path: [Command]
  ) throws(UsageError) -> Bool {
    let word = rest.removeFirst()
    func fail(_ message: String) -> UsageError { UsageError(path: path, message: message) }
    func value(_ flag: Flag, _ spelling: String, attached: String?, _ rest: inout ArraySlice<String>)
      throws(UsageError) -> String
    {
      if let attached { return attached }
      guard let next = rest.first else { throw fail("Option '\(spelling)' requires an argument.") }
      rest = rest.dropFirst()
      return next
    }

    if word.hasPrefix("--") {
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      let spelling = parts[0]
      guard let flag = command.allFlags.first(where: { $0.spellings.contains(spelling) }) else {
        let known = command.allFlags.filter { !$0.isHidden }.flatMap(\.spellings).filter { $0.hasPrefix("--") }
        // Without the dashes, which make all options look alike.
        let near = closestMatch(String(spelling.dropFirst(2)), among: known.map { String($0.dropFirst(2)) })
        throw fail("No such option: \(spelling)" + (near.map { " Did you mean --\($0)?" } ?? ""))
      }
      if flag.takesValue {
        let text = try value(flag, spelling, attached: parts.count > 1 ? parts[1] : nil, &rest)
        call.add(try checked(text, flag, path), to: flag)
        return false
      }
      if parts.count > 1 { throw fail("Option '\(spelling)' does not take a value.") }
      if flag == .help { return true }
      if case .pair(let off) = flag.kind {
        call.turn(flag, on: spelling != "--\(off)")
      } else {
        call.turn(flag, on: true)
      }
      return false
    }
    var letters = word.dropFirst()
    while let letter = letters.popFirst() {
      guard let flag = command.allFlags.first(where: { $0.short == letter }) else {
        throw fail("No such option: -\(letter)")
      }
      if flag.takesValue {
        // `-n=web`, too: nobody means a value that starts with `=`.
        if letters.first == "=" { letters.removeFirst() }
        let text = try value(flag, "-\(letter)", attached: letters.isEmpty ? nil : String(letters), &rest)
        call.add(try checked(text, flag, path), to: flag)
        return false
      }
      if flag == .help { return true }
      call.turn(flag, on: true)
    }
    return false
  }

  private static func checked(_ text: String, _ flag: Flag, _ path: [Command]) throws(UsageError) -> String {
    switch flag.kind {
    case .toggle, .pair, .text: return text
    case .whole:
      if Int(text) == nil {
        throw UsageError(path: path, message: "Invalid value for \(flag.quoted): '\(text)' is not a valid integer.")
      }
      return text
    case .choice(let words):
      guard let word = words.first(where: { $0 == text.lowercased() }) else {
        throw UsageError(
          path: path,
          message: "Invalid value for \(flag.quoted): '\(text)' is not one of "
            + words.map { "'\($0)'" }.joined(separator: ", ") + ".")
      }
      return word
    }
  }

  private static func assign(
    _ words: [String], _ command: Command, _ call: inout Call, _ path: [Command]
  ) throws(UsageError) {
    var rest = words[...]
    for argument in command.arguments {
      switch argument.count {
      case .one:
        guard let word = rest.popFirst() else {
          throw UsageError(path: path, message: "Missing argument '\(argument.name)'.")
        }
        call.arguments[argument.name] = [word]
      case .optional: call.arguments[argument.name] = rest.popFirst().map { [$0] } ?? []
      case .any:
        call.arguments[argument.name] = Array(rest)
        rest = []
      }
      for word in call.all(argument.name) where argument.isWhole && Int(word) == nil {
        throw UsageError(
          path: path, message: "Invalid value for '\(argument.usage)': '\(word)' is not a valid integer.")
      }
    }
    if !rest.isEmpty {
      throw UsageError(
        path: path,
        message: "Got unexpected extra argument\(rest.count == 1 ? "" : "s") (\(rest.joined(separator: " ")))")
    }
  }
}

extension Call {
  fileprivate func isOn(_ flag: Flag, in command: Command) -> Bool {
    command.flags.contains { $0.name == flag.name } && isOn(flag)
  }

  fileprivate func has(_ flag: Flag) -> Bool { !texts(flag).isEmpty }
}
