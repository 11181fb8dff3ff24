// JSON for people and programs: two blanks per level, keys in the order given.

import ControlCore

extension PlainValue {
  package func pretty(_ margin: String = "") -> String {
    let inner = margin + "  "
    switch self {
    case .null, .bool, .int, .double, .string: return json()
    case .list(let items):
      if items.isEmpty { return "[]" }
      return "[\n" + items.map { inner + $0.pretty(inner) }.joined(separator: ",\n") + "\n\(margin)]"
    case .map(let members):
      if members.isEmpty { return "{}" }
      return "{\n"
        + members.map { inner + PlainValue.string($0.key).json() + ": " + $0.value.pretty(inner) }
        .joined(separator: ",\n") + "\n\(margin)}"
    }
  }
}
