// Files of KEY=VALUE lines, as docker and dotenv read them: `#` comments, `export`, single and double quotes.

import ControlCore

enum EnvFile {
  /// - Parameter name: for messages.
  static func parse(_ text: String, name: String) throws(Stop) -> [(key: String, value: String)] {
    var result: [(key: String, value: String)] = []
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      var rest = trim(line)
      if rest.isEmpty || rest.hasPrefix("#") { continue }
      if rest.hasPrefix("export ") { rest = trim(rest.dropFirst(7)) }
      func fail(_ message: String) -> Stop { .file("\(name):\(index + 1): \(message)") }
      // What stands in the file may be a secret: none of it is repeated.
      guard let equals = rest.firstIndex(of: "=") else { throw fail("expected KEY=VALUE, found a line without '='") }
      let key = String(trim(rest[..<equals]))
      if !isVariableName(key) {
        throw fail("before '=' is no variable's name: letters, digits and '_', not starting with a digit")
      }
      result.append((key, try value(trim(rest[rest.index(after: equals)...]), fail)))
    }
    return result
  }

  private static func value(_ text: Substring, _ fail: (String) -> Stop) throws(Stop) -> String {
    guard let quote = text.first, quote == "\"" || quote == "'" else {
      // A comment begins after a blank.
      var end = text.endIndex
      for index in text.indices where text[index] == "#" && index > text.startIndex {
        if text[text.index(before: index)].isWhitespace {
          end = index
          break
        }
      }
      return String(trim(text[..<end]))
    }
    var out = ""
    var rest = text.dropFirst()
    while let character = rest.popFirst() {
      if character == quote {
        let after = trim(rest)
        if after.isEmpty || after.hasPrefix("#") { return out }
        throw fail("there is more after the closing \(quote)")
      }
      guard quote == "\"", character == "\\", let next = rest.popFirst() else {
        out.append(character)
        continue
      }
      switch next {
      case "n": out.append("\n")
      case "t": out.append("\t")
      case "r": out.append("\r")
      case "\"", "\\", "$": out.append(next)
      default: out += "\\\(next)"
      }
    }
    throw fail("the closing \(quote) is missing")
  }

  private static func trim(_ text: Substring) -> Substring {
    var text = text
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return text
  }
}

func isVariableName(_ text: String) -> Bool {
  guard let first = text.utf8.first, !(0x30...0x39).contains(first) else {
    return false
  }
  return text.utf8.allSatisfy {
    (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0) || $0 == UInt8(ascii: "_")
  }
}
