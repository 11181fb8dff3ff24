// The shape a section of a service file must have, as data: which fields, of which type, within which bounds.
//
// Called by the decoders before they look at meanings. It is the small part of JSON Schema that SkyPilot's own checks
// use, evaluated in the same order and reported in the same words: the first violation is reported, and where a value
// may take several forms, the violation of the form that came nearest.

import Yaml

struct Schema: Sendable {
  enum Check: Sendable {
    case type([Kind])
    case required([String])
    /// Only the fields in `fields` (and those `patterns` match) may appear.
    case closed
    /// Fields that are not listed must look so.
    case others(Schema)
    case fields
    case patterns([(Pattern, Schema)])
    case countMax(Int)
    case items(Schema)
    case minimum(Int)
    case above(Int)
    case maximum(Int)
    case pattern(Pattern)
    /// One of these words, in any case.
    case word([String])
    case anyOf([Schema])
    case oneOf([Schema])
  }

  /// JSON Schema's names of types.
  enum Kind: String, Sendable { case null, boolean, integer, number, string, array, object }

  /// A regular expression: its text for messages, and what it means.
  struct Pattern: Sendable {
    var text: String
    var matches: @Sendable (String) -> Bool
  }

  /// In the order they are made.
  var checks: [Check]
  var fields: [(name: String, schema: Schema)] = []

  init(_ checks: Check..., fields: [(name: String, schema: Schema)] = []) {
    self.checks = checks
    self.fields = fields
  }
}

// Shorthands for the tables.
extension Schema {
  static let string = Schema(.type([.string]))
  static let number = Schema(.type([.number]))
  /// Bounded from above only: what is too small is told by whoever reads it.
  static let integer = Schema(.type([.integer]), .maximum(Bounds.most))
  static let boolean = Schema(.type([.boolean]))
  static let null = Schema(.type([.null]))
  static let anyObject = Schema(.type([.object]))
  static let texts = Schema(.type([.object]), .others(.string))

  static func integer(from low: Int, to high: Int = Bounds.most) -> Schema {
    Schema(.type([.integer]), .minimum(low), .maximum(high))
  }

  static func integer(in range: ClosedRange<Int>) -> Schema { integer(from: range.lowerBound, to: range.upperBound) }

  static func number(in range: ClosedRange<Int>) -> Schema {
    Schema(.type([.number]), .minimum(range.lowerBound), .maximum(range.upperBound))
  }

  static func either(_ forms: Schema...) -> Schema { Schema(.anyOf(forms)) }
  static func list(of item: Schema) -> Schema { Schema(.type([.array]), .items(item)) }

  /// An object with these fields and no others.
  static func object(_ fields: [(name: String, schema: Schema)], required: [String] = []) -> Schema {
    Schema(.type([.object]), .required(required), .closed, .fields, fields: fields)
  }
}

// MARK: - Violations

/// One violation. `path` counts from the value the check was asked about.
struct Violation {
  enum Step: Hashable {
    case key(String)
    case index(Int)
  }

  enum Rule { case weak, extraFields, ordinary }

  var path: [Step]
  var mark: YamlMark
  var message: String
  var rule: Rule
  /// The value had the type that the violated form asks for.
  var rightType: Bool
  /// For `closed`: the offending entries, and the fields there are.
  var extras: [YamlNode] = []
  var known: [String] = []
  /// Where it is a number, what it may be.
  var cure = ""
  var atEnvs = false
  /// For forms to choose from: why each was not it.
  var forms: [Violation] = []

  func inside(_ step: Step) -> Violation {
    var result = self
    result.path.insert(step, at: 0)
    return result
  }
}

extension Schema {
  func violations(in node: YamlNode) -> [Violation] {
    var found: [Violation] = []
    var declared: [Kind] = []
    for case .type(let kinds) in checks { declared = kinds }
    let rightType = declared.contains { $0.includes(node) }
    let isFinite = node.double?.isFinite ?? true

    func add(
      _ message: String, _ mark: YamlMark? = nil, rule: Violation.Rule = .ordinary, cure: String = ""
    ) {
      found.append(
        Violation(path: [], mark: mark ?? node.mark, message: message, rule: rule, rightType: rightType, cure: cure))
    }

    for check in checks {
      switch check {
      case .type(let kinds):
        if !kinds.contains(where: { $0.includes(node) }) {
          add("\(node.pythonRepr) is not of type \(kinds.map { "'\($0.rawValue)'" }.joined(separator: ", "))")
        } else if !isFinite {
          add("\(node.shortRepr) is not a finite number", cure: rangeCure)
        }
      case .required(let names):
        guard node.map != nil else { break }
        for name in names where node[name] == nil { add("'\(name)' is a required property") }
      case .closed:
        let extras = extraEntries(of: node)
        if extras.isEmpty { break }
        let keys = extras.map(\.key).sorted { $0.keyText < $1.keyText }
        let list = keys.map(\.pythonRepr).joined(separator: ", ")
        let patterns = self.patterns.map { pythonQuoted($0.text) }.joined(separator: ", ")
        add(
          patterns.isEmpty
            ? "Additional properties are not allowed (\(list) \(keys.count == 1 ? "was" : "were") unexpected)"
            : "\(list) \(keys.count == 1 ? "does" : "do") not match any of the regexes: \(patterns)",
          extras[0].key.mark, rule: .extraFields)
        found[found.count - 1].extras = extras.map(\.key)
        found[found.count - 1].known = fields.map(\.name)
      case .others(let schema):
        for entry in extraEntries(of: node) {
          found += schema.violations(in: entry.value).map { $0.inside(.key(entry.key.keyText)) }
        }
      case .fields:
        for field in fields {
          guard let value = node[field.name] else { continue }
          found += field.schema.violations(in: value).map { $0.inside(.key(field.name)) }
        }
      case .patterns(let patterns):
        for entry in node.map ?? [] {
          for (pattern, schema) in patterns where pattern.matches(entry.key.keyText) {
            found += schema.violations(in: entry.value).map { $0.inside(.key(entry.key.keyText)) }
          }
        }
      case .countMax(let most):
        if let entries = node.map, entries.count > most { add("\(node.pythonRepr) has too many properties") }
      case .items(let schema):
        for (index, item) in (node.list ?? []).enumerated() {
          found += schema.violations(in: item).map { $0.inside(.index(index)) }
        }
      case .minimum(let low):
        if isFinite, let value = node.double, value < Double(low) {
          add("\(node.shortRepr) is less than the minimum of \(low)", cure: rangeCure)
        }
      case .above(let low):
        if isFinite, let value = node.double, !(value > Double(low)) {
          add("\(node.shortRepr) is less than or equal to the minimum of \(low)", cure: rangeCure)
        }
      case .maximum(let high):
        if isFinite, let value = node.double, value > Double(high) {
          add("\(node.shortRepr) is greater than the maximum of \(high)", cure: rangeCure)
        }
      case .pattern(let pattern):
        if let text = node.string, !pattern.matches(text) {
          add("\(node.pythonRepr) does not match \(pythonQuoted(pattern.text))")
        }
      case .word(let words):
        if let text = node.string?.lowercased(), !words.contains(text) {
          add("\(node.pythonRepr) is not one of [\(words.map(pythonQuoted).joined(separator: ", "))]")
        }
      case .anyOf(let forms), .oneOf(let forms):
        let answers = forms.map { $0.violations(in: node) }
        if answers.contains(where: \.isEmpty) { break }
        add("\(node.pythonRepr) is not valid under any of the given schemas", rule: .weak)
        found[found.count - 1].forms = answers.flatMap(\.self)
      }
    }
    return found
  }

  private var patterns: [Pattern] {
    for case .patterns(let patterns) in checks { return patterns.map(\.0) }
    return []
  }

  /// `Write a number from 0 to 10.`
  private var rangeCure: String {
    var isWhole = false
    var low: String?
    var high: String?
    for case .type(let kinds) in checks { isWhole = !kinds.contains(.number) }
    for case .minimum(let bound) in checks { low = "from \(bound)" }
    for case .above(let bound) in checks { low = "above \(bound)" }
    for case .maximum(let bound) in checks { high = low == nil ? "up to \(bound)" : "to \(bound)" }
    return (["Write a", isWhole ? "whole number" : "number"] + [low, high].compactMap(\.self)).joined(separator: " ") + "."
  }

  private func extraEntries(of node: YamlNode) -> [YamlEntry] {
    let patterns = self.patterns
    return (node.map ?? []).filter { entry in
      guard let key = entry.key.string else { return true }
      return !fields.contains { $0.name == key } && !patterns.contains { $0.matches(key) }
    }
  }
}

extension Schema.Kind {
  fileprivate func includes(_ node: YamlNode) -> Bool {
    switch (self, node.value) {
    case (.null, .null), (.boolean, .bool), (.string, .string), (.array, .list), (.object, .map): true
    case (.integer, .int), (.integer, .hugeInt), (.number, .int), (.number, .hugeInt), (.number, .float): true
    case (.integer, .float(let value)): value == value.rounded() && value.isFinite
    default: false
    }
  }
}

extension Violation {
  /// The violation that says most: through forms to choose from, on to what was wrong with the nearest form, unless
  /// two are equally near.
  fileprivate var mostTelling: Violation {
    var best = self
    while !best.forms.isEmpty {
      let sorted = best.forms.enumerated().sorted { lhs, rhs in
        let order = Self.order(lhs.element, rhs.element)
        return order == 0 ? lhs.offset < rhs.offset : order < 0
      }.map(\.element)
      if sorted.count > 1, Self.order(sorted[0], sorted[1]) == 0 { return best }
      var next = sorted[0]
      next.path = best.path + next.path
      best = next
    }
    return best
  }

  /// Below zero: `a` is the more telling. Deeper first, then earlier names, forms to choose from last but one, values
  /// of the right type first.
  private static func order(_ a: Violation, _ b: Violation) -> Int {
    if a.path.count != b.path.count { return a.path.count > b.path.count ? -1 : 1 }
    for (x, y) in zip(a.path, b.path) where x != y {
      switch (x, y) {
      case (.index(let i), .index(let j)): return i < j ? -1 : 1
      case (.key(let i), .key(let j)): return i < j ? -1 : 1
      case (.index, .key): return -1
      case (.key, .index): return 1
      }
    }
    if (a.rule == .weak) != (b.rule == .weak) { return a.rule == .weak ? -1 : 1 }
    if a.rightType != b.rightType { return a.rightType ? -1 : 1 }
    return 0
  }

  fileprivate var pathText: String {
    path.reduce(into: "$") { text, step in
      switch step {
      case .index(let index): text += "[\(index)]"
      case .key(let key):
        let plain =
          key.utf8.first.map { Bytes.isLetter($0) } ?? false
          && key.utf8.allSatisfy { Bytes.isLetter($0) || Bytes.isDigit($0) || $0 == UInt8(ascii: "_") }
        if plain {
          text += ".\(key)"
        } else {
          text += "['" + key.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "']"
        }
      }
    }
  }
}

enum Bytes {
  static func isLetter(_ byte: UInt8) -> Bool { (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) }
  static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
}

// MARK: - The answer to people

/// SkyPilot's words for a field that is not known here.
func unsupportedField(_ key: YamlNode, among known: [String]) -> String {
  closestMatch(key.keyText, among: known).map { "Instead of \(key.pythonRepr), did you mean \(pythonQuoted($0))?" }
    ?? "Found unsupported field \(key.pythonRepr)."
}

extension Schema {
  /// Throws the first violation in `node`. Empty fields (`replicas:` and nothing after it) count as absent at the top
  /// level of a section.
  func check(_ node: YamlNode, in section: String) throws(SpecError) {
    guard let first = violations(in: node).first else { return }
    let prefix = "Invalid \(section) YAML: "
    if first.rule == .extraFields {
      if section == "task", first.path == [.key("envs")] {
        throw SpecError(
          .config, mark: first.mark, "\(prefix)The `envs` field contains invalid keys:\n\(first.message)")
      }
      if !first.known.isEmpty {
        let parts = first.extras.map { unsupportedField($0, among: first.known) }
        let unlike = !parts.contains { $0.hasPrefix("Instead") }
        throw SpecError(
          .config, mark: first.mark, prefix + parts.joined(separator: " "),
          cure: unlike ? "The fields here are \(first.known.filter { !$0.hasPrefix("_") }.joined(separator: ", "))." : "")
      }
    }
    let best = first.mostTelling
    let message = best.message.replacing("type 'object'", with: "type 'dict'")
    var cure = best.cure
    if best.rule == .extraFields, !best.known.isEmpty {
      cure = best.extras.compactMap { key in
        closestMatch(key.keyText, among: best.known).map { "Did you mean '\($0)'?" }
      }.joined(separator: " ")
      if cure.isEmpty { cure = "The fields here are \(best.known.joined(separator: ", "))." }
    }
    throw SpecError(
      .config, mark: best.mark, "\(prefix)\(message). Check problematic field(s): \(best.pathText)", cure: cure)
  }
}

extension YamlNode {
  /// Of a number with hundreds of digits, the first.
  fileprivate var shortRepr: String {
    let text = pythonRepr
    return text.utf8.count <= 40 ? text : text.prefix(37) + "..."
  }

  /// The mapping without the entries that have no value.
  var withoutNulls: YamlNode {
    guard let entries = map else { return self }
    var result = self
    result.value = .map(entries.filter { !$0.value.isNull })
    return result
  }
}
