// What the message decoders share: taking an object apart field by field, with errors that name the field.
//
// A problem travels up as a `FieldProblem` whose path grows on the way (`address` → `replicas[3].address`), so that
// no path is ever built for a message that is right.

struct FieldProblem: Error {
  var path: String
  var offset: Int
  var reason: String

  init(_ path: String, _ value: JsonValue, _ reason: String) {
    self.path = path
    offset = value.offset
    self.reason = reason
  }

  init(_ path: String, offset: Int, _ reason: String) {
    self.path = path
    self.offset = offset
    self.reason = reason
  }

  func inside(_ outer: String) -> FieldProblem {
    FieldProblem(path.isEmpty ? outer : outer + "." + path, offset: offset, reason)
  }

  func error(in bytes: [UInt8], start: Int = 0) -> JsonError {
    JsonError(bytes: bytes, start: start, offset: offset, path: path, reason: reason)
  }
}

extension JsonValue {
  func members(_ name: String, _ what: String) throws(FieldProblem) -> [JsonMember] {
    guard case .object(let members) = content else {
      throw FieldProblem(name, self, "expected \(what), found \(kindName)")
    }
    return members
  }

  func elements(_ name: String) throws(FieldProblem) -> [JsonValue] {
    guard case .array(let elements) = content else {
      throw FieldProblem(name, self, "expected a list, found \(kindName); write [...]")
    }
    return elements
  }

  func text(_ name: String) throws(FieldProblem) -> String {
    guard case .string(let text) = content else {
      throw FieldProblem(name, self, "expected a string, found \(kindName)")
    }
    return text
  }

  func flag(_ name: String) throws(FieldProblem) -> Bool {
    guard case .bool(let value) = content else {
      throw FieldProblem(name, self, "expected true or false, found \(kindName)")
    }
    return value
  }

  func unsigned(_ name: String) throws(FieldProblem) -> UInt64 {
    switch content {
    case .int(let value) where value >= 0: return UInt64(value)
    case .unsigned(let value): return value
    case .int(let value): throw FieldProblem(name, self, "\(value) is below 0; write a whole number from 0 up")
    case .double(let value):
      throw FieldProblem(name, self, "\(value) is not a whole number; write one without fraction and exponent")
    case .null, .bool, .string, .array, .object:
      throw FieldProblem(name, self, "expected a whole number, found \(kindName)")
    }
  }

  func count(_ name: String) throws(FieldProblem) -> Int {
    let value = try unsigned(name)
    guard let result = Int(exactly: value) else {
      throw FieldProblem(name, self, "\(value) is too large; write at most \(Int.max)")
    }
    return result
  }

  func double(_ name: String) throws(FieldProblem) -> Double {
    switch content {
    case .int(let value): return Double(value)
    case .unsigned(let value): return Double(value)
    case .double(let value): return value
    case .null, .bool, .string, .array, .object:
      throw FieldProblem(name, self, "expected a number, found \(kindName)")
    }
  }

  func word<Word: RawRepresentable & CaseIterable>(_ name: String, _ type: Word.Type) throws(FieldProblem) -> Word
  where Word.RawValue == String {
    let text = try text(name)
    if let word = Word(rawValue: text) { return word }
    let known = Word.allCases.map(\.rawValue)
    throw FieldProblem(
      name, self, "\(quoted(text)) is not one of \(known.joined(separator: ", "))\(didYouMean(text, among: known))")
  }
}

func unknownField(_ member: JsonMember, among known: [String]) -> FieldProblem {
  let cure = didYouMean(member.key, among: known, otherwise: "; the fields are \(known.joined(separator: ", "))")
  return FieldProblem("", offset: member.keyOffset, "unknown field \(quoted(member.key))\(cure)")
}

func missingField(_ name: String, in object: JsonValue, example: String) -> FieldProblem {
  FieldProblem("", object, "the field '\(name)' is missing; add \(example)")
}
