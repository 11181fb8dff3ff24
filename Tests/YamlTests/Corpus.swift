// The cases in Tests/Corpus/yaml and how they are written down.
//
//   @ what the case is about
//   | a line of the document, with its line break
//   |.the last line, without one
//   = what it is in JSON, one line for each document (a bare = where there is none)
//   ! 2:5: or the error
//
// In a document » stands for a tab, ¶ for a carriage return and ¤ for a byte order mark.

import Foundation
import Testing

let packageRoot = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent()

struct Case: Sendable, CustomTestStringConvertible {
  var file: String
  var title: String
  var document = ""
  var json: [String] = []
  var error: String? = nil

  var bytes: [UInt8] { Array(document.utf8) }
  var testDescription: String { "\(file): \(title)" }

  static let all: [Case] = {
    let folder = packageRoot.appendingPathComponent("Tests/Corpus/yaml")
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return names.filter { $0.hasSuffix(".cases") }.sorted().flatMap { name in
      let text = try? String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
      return read(text ?? "", file: name)
    }
  }()

  private static func read(_ text: String, file: String) -> [Case] {
    var cases: [Case] = []
    for line in text.split(separator: "\n") {
      let rest = String(line.dropFirst(2))
      switch line.first {
      case "@": cases.append(Case(file: file, title: rest))
      case "|" where line.dropFirst().first == ".": cases[cases.count - 1].document += shown(rest)
      case "|": cases[cases.count - 1].document += shown(rest) + "\n"
      case "=": if !rest.isEmpty { cases[cases.count - 1].json.append(rest) }
      case "!": cases[cases.count - 1].error = rest
      default: preconditionFailure("\(file): cannot read the line '\(line)'")
      }
    }
    return cases
  }

  private static func shown(_ line: String) -> String {
    var text = ""
    for scalar in line.unicodeScalars {
      switch scalar {
      case "»": text.unicodeScalars.append("\t")
      case "¶": text.unicodeScalars.append("\r")
      case "¤": text.unicodeScalars.append("\u{FEFF}")
      default: text.unicodeScalars.append(scalar)
      }
    }
    return text
  }
}
