// The rules of a .skyignore file, written as in .gitignore: which files of a workdir are not taken along. Pure.
//
//   *.log        everything of that name, at any depth       /build   only at the top
//   data/        only folders                                !keep    takes back what an earlier line ignored
//   a/**/b       ** stands for any number of folders         [a-c]?   one character each

struct IgnoreRules {
  private struct Rule {
    var parts: [[UInt8]]
    var isTakenBack: Bool
    var onlyFolders: Bool
  }

  private var rules: [Rule] = []

  init(_ text: String) {
    for line in text.split(whereSeparator: \.isNewline) {
      var pattern = Array(line.utf8)
      // Trailing blanks do not count unless they are escaped.
      while pattern.last == UInt8(ascii: " "), pattern.dropLast().last != UInt8(ascii: "\\") { pattern.removeLast() }
      if pattern.isEmpty || pattern[0] == UInt8(ascii: "#") { continue }
      let isTakenBack = pattern[0] == UInt8(ascii: "!")
      if isTakenBack { pattern.removeFirst() }
      let onlyFolders = pattern.last == UInt8(ascii: "/")
      if onlyFolders { pattern.removeLast() }
      var parts = pattern.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).map(Array.init)
      if parts.first == [] {
        parts.removeFirst()
      } else if parts.count == 1 {
        parts.insert(Self.anyFolders, at: 0)
      }
      parts.removeAll { $0.isEmpty || $0 == [UInt8(ascii: ".")] }
      if !parts.isEmpty { rules.append(Rule(parts: parts, isTakenBack: isTakenBack, onlyFolders: onlyFolders)) }
    }
  }

  /// - Parameter path: below the workdir, without a slash at its ends. What lies in an ignored folder is not asked for.
  func ignores(_ path: String, isFolder: Bool) -> Bool {
    let names = path.utf8.split(separator: UInt8(ascii: "/")).map { Array($0) }
    // The last rule that fits decides.
    for rule in rules.reversed() where isFolder || !rule.onlyFolders {
      if Self.fits(rule.parts[...], names[...]) { return !rule.isTakenBack }
    }
    return false
  }

  private static let anyFolders = Array("**".utf8)

  private static func fits(_ parts: ArraySlice<[UInt8]>, _ names: ArraySlice<[UInt8]>) -> Bool {
    guard let part = parts.first else { return names.isEmpty }
    if part == anyFolders {
      // At the end it stands for what is inside.
      if parts.count == 1 { return !names.isEmpty }
      return (names.startIndex...names.endIndex).contains { fits(parts.dropFirst(), names[$0...]) }
    }
    guard let name = names.first, matches(part[...], name[...]) else { return false }
    return fits(parts.dropFirst(), names.dropFirst())
  }

  /// One name. `*` is tried from short to long by going back to the last one only, so it takes no exponential time.
  private static func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
    var p = pattern.startIndex
    var n = name.startIndex
    var star: (after: Int, taken: Int)?
    while n < name.endIndex {
      if p < pattern.endIndex, pattern[p] == UInt8(ascii: "*") {
        star = (p + 1, n)
        p += 1
        continue
      }
      if p < pattern.endIndex, let next = one(pattern, p, name[n]) {
        p = next
        n += 1
        continue
      }
      guard let last = star else { return false }
      star = (last.after, last.taken + 1)
      p = last.after
      n = last.taken + 1
    }
    while p < pattern.endIndex, pattern[p] == UInt8(ascii: "*") { p += 1 }
    return p == pattern.endIndex
  }

  /// Behind what takes one character at `at`; nil: it is not taken.
  private static func one(_ pattern: ArraySlice<UInt8>, _ at: Int, _ byte: UInt8) -> Int? {
    switch pattern[at] {
    case UInt8(ascii: "?"): return at + 1
    case UInt8(ascii: "\\") where at + 1 < pattern.endIndex: return pattern[at + 1] == byte ? at + 2 : nil
    case UInt8(ascii: "["):
      var i = at + 1
      let isInverse = i < pattern.endIndex && (pattern[i] == UInt8(ascii: "!") || pattern[i] == UInt8(ascii: "^"))
      if isInverse { i += 1 }
      let first = i
      var isIn = false
      while i < pattern.endIndex, i == first || pattern[i] != UInt8(ascii: "]") {
        if i + 2 < pattern.endIndex, pattern[i + 1] == UInt8(ascii: "-"), pattern[i + 2] != UInt8(ascii: "]") {
          if pattern[i] <= byte, byte <= pattern[i + 2] { isIn = true }
          i += 3
        } else {
          if pattern[i] == byte { isIn = true }
          i += 1
        }
      }
      // Not closed: an ordinary character.
      if i >= pattern.endIndex { return byte == UInt8(ascii: "[") ? at + 1 : nil }
      return isIn != isInverse ? i + 1 : nil
    case let plain: return plain == byte ? at + 1 : nil
    }
  }
}
