// One table per tool: a row per flag with name, value, default and meaning. --help, parsing and the check for unknown
// flags all read the row.

import Glibc

package struct FlagProblem: Error, Equatable {
  package let text: String
  package init(_ text: String) { self.text = text }
}

package struct Flag<Options> {
  package let name: String
  /// What stands for the value in the help; empty: the flag takes none.
  package let value: String
  package let doc: String
  let apply: (inout Options, String) throws(FlagProblem) -> Void

  package init(
    _ name: String, _ value: String, _ doc: String,
    _ apply: @escaping (inout Options, String) throws(FlagProblem) -> Void
  ) {
    self.name = name
    self.value = value
    self.doc = doc
    self.apply = apply
  }

  package static func count(
    _ name: String, _ range: ClosedRange<Int>, _ path: WritableKeyPath<Options, Int> & Sendable, _ doc: String
  ) -> Flag {
    Flag(name, "N", doc) { (options, text) throws(FlagProblem) in
      guard let number = Int(text), range.contains(number) else {
        throw FlagProblem("--\(name) \(text): a whole number from \(range.lowerBound) to \(range.upperBound) is wanted")
      }
      options[keyPath: path] = number
    }
  }

  package static func number(
    _ name: String, _ unit: String, _ range: ClosedRange<Double>, _ path: WritableKeyPath<Options, Double> & Sendable,
    _ doc: String
  ) -> Flag {
    Flag(name, unit, doc) { (options, text) throws(FlagProblem) in
      guard let number = Double(text), range.contains(number) else {
        throw FlagProblem("--\(name) \(text): a number from \(range.lowerBound) to \(range.upperBound) is wanted")
      }
      options[keyPath: path] = number
    }
  }

  package static func text(
    _ name: String, _ value: String, _ path: WritableKeyPath<Options, String> & Sendable, _ doc: String
  )
    -> Flag
  {
    Flag(name, value, doc) { (options, text) throws(FlagProblem) in options[keyPath: path] = text }
  }

  package static func on(_ name: String, _ path: WritableKeyPath<Options, Bool> & Sendable, _ doc: String) -> Flag {
    Flag(name, "", doc) { (options, text) throws(FlagProblem) in options[keyPath: path] = true }
  }
}

package struct FlagTable<Options> {
  package let tool: String
  package let purpose: String
  package let flags: [Flag<Options>]
  package let closing: String

  package init(tool: String, purpose: String, flags: [Flag<Options>], closing: String = "") {
    self.tool = tool
    self.purpose = purpose
    self.flags = flags
    self.closing = closing
  }

  /// `--name value` and `--name=value`. nil: help was asked for.
  package func parse(_ arguments: [String], into options: Options) throws(FlagProblem) -> Options? {
    var result = options
    var index = 0
    while index < arguments.count {
      let argument = arguments[index]
      index += 1
      if argument == "--help" || argument == "-h" { return nil }
      guard argument.hasPrefix("--") else { throw FlagProblem("\(argument): flags start with --; see --help") }
      let body = argument.dropFirst(2)
      let equals = body.firstIndex(of: "=")
      let name = String(body[..<(equals ?? body.endIndex)])
      guard let flag = flags.first(where: { $0.name == name }) else {
        throw FlagProblem("--\(name): no such flag; see --help")
      }
      if flag.value.isEmpty {
        guard equals == nil else { throw FlagProblem("--\(name) takes no value") }
        try flag.apply(&result, "")
      } else if let equals {
        try flag.apply(&result, String(body[body.index(after: equals)...]))
      } else {
        guard index < arguments.count else { throw FlagProblem("--\(name) needs a value: \(flag.value)") }
        try flag.apply(&result, arguments[index])
        index += 1
      }
    }
    return result
  }

  package var help: String {
    var text = "\(tool): \(purpose)\n\n"
    let width = flags.map { $0.name.count + $0.value.count + 3 }.max() ?? 0
    for flag in flags {
      text += "  " + left("--" + flag.name + (flag.value.isEmpty ? "" : " " + flag.value), width + 2) + flag.doc + "\n"
    }
    return closing.isEmpty ? text : text + "\n" + closing + "\n"
  }

  /// What a tool's main does first: prints help or the problem and ends, or gives the options.
  package func parseOrExit(_ options: Options) -> Options {
    do throws(FlagProblem) {
      guard let parsed = try parse(Array(CommandLine.arguments.dropFirst()), into: options) else {
        print(help, terminator: "")
        exit(0)
      }
      return parsed
    } catch {
      complain("\(tool): \(error.text)")
      exit(2)
    }
  }
}

/// One line on standard error.
package func complain(_ line: String) {
  var text = line + "\n"
  text.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
}
