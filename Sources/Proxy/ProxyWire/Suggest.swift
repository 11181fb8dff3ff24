// "Did you mean …?" for the proxy's flags, fields and words. ControlCore/Spec/Similar follows SkyPilot's measure, which
// users of service files know.

/// The candidate nearest to `word`, or nil where none is near enough to be what was meant. Ties go to the earlier one.
package func suggest(_ word: String, among candidates: some Sequence<String>) -> String? {
  let typed = folded(word)
  if typed.count > 64 { return nil }  // nothing we know is that long; keeps the work small
  var best: String?
  // A third of the letters may be wrong: `lisen`, `head-timout`, but not `foo` for `via`.
  var bestDistance = max(1, typed.count / 3) + 1
  for candidate in candidates {
    let known = folded(candidate)
    if abs(known.count - typed.count) >= bestDistance { continue }
    let distance = editDistance(typed, known)
    if distance < bestDistance {
      bestDistance = distance
      best = candidate
    }
  }
  return best
}

/// `, did you mean 'x'?`, or what is said where nothing is near. `prefix` stands before each of the candidates.
package func didYouMean(
  _ word: String, among candidates: some Sequence<String>, prefix: String = "", otherwise: String = ""
) -> String {
  suggest(word, among: candidates).map { ", did you mean '\(prefix)\($0)'?" } ?? otherwise
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
package func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
  if a.isEmpty || b.isEmpty { return a.count + b.count }
  var before = [Int](repeating: 0, count: b.count + 1)
  var above = Array(0...b.count)
  var row = before
  for i in 1...a.count {
    row[0] = i
    for j in 1...b.count {
      row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1))
      if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] { row[j] = min(row[j], before[j - 2] + 1) }
    }
    (before, above, row) = (above, row, before)
  }
  return above[b.count]
}

/// Case and the choice between `-` and `_` are never the mistake worth pointing at.
private func folded(_ word: String) -> [UInt8] {
  word.utf8.map { byte in
    switch byte {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): byte | 0x20
    case UInt8(ascii: "_"): UInt8(ascii: "-")
    default: byte
    }
  }
}
