// The reference in README.md: made of the rows, and the rows tell all there is.

import Foundation
import SkyCLI
import TestSupport
import Testing

@testable import ControlCore

@Suite struct ReferenceTests {
  private func fields(_ schema: Schema) -> [(name: String, schema: Schema)] {
    var found: [(name: String, schema: Schema)] = schema.fields
    for check in schema.checks {
      if case .anyOf(let forms) = check { found += forms.flatMap { fields($0) } }
    }
    return found
  }

  /// Dotted, private ones left out.
  private func names(_ schema: Schema, prefix: String = "") -> Set<String> {
    var all: Set<String> = []
    for (name, part) in fields(schema) where !name.hasPrefix("_") {
      all.insert(prefix + name)
      all.formUnion(names(part, prefix: prefix + name + "."))
    }
    return all
  }

  @Test func everyFieldHasARow() {
    // Pools are no services.
    let service = names(Schema.service).filter { $0 != "workers" && !$0.hasPrefix("pool") }
    #expect(Set(FieldTable.service.map(\.name)) == service)
    let resources = names(Schema.resources).filter { !$0.contains(".") }
    #expect(Set(FieldTable.resources.map(\.name) + FieldTable.otherResources) == resources)
    let task = names(Schema.task).filter { !$0.contains(".") }
    #expect(Set(FieldTable.task.map(\.name) + FieldTable.otherTask) == task)
  }

  private func shown(_ marker: String) throws -> String {
    let readme = try Places.text("README.md")
    let begin = try #require(readme.range(of: "<!-- \(marker) -->\n"), "README.md has lost <!-- \(marker) -->")
    let end = try #require(readme.range(of: "<!-- /\(marker) -->"), "README.md has lost <!-- /\(marker) -->")
    return readme[begin.upperBound..<end.lowerBound].trimmingCharacters(in: .newlines)
  }

  @Test(arguments: [("commands", Markdown.commands()), ("fields", Markdown.fields())])
  func theReadmeShowsWhatThereIs(marker: String, text: String) throws {
    if let folder = ProcessInfo.processInfo.environment["SKY_WRITE_REFERENCE"] {
      try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(marker).md"))
    }
    #expect(
      try shown(marker) == text.trimmingCharacters(in: .newlines),
      "SKY_WRITE_REFERENCE=FOLDER swift test --filter ReferenceTests writes what belongs between the markers")
  }
}
