// The nearest known word by the measure SkyPilot uses (Python's difflib), so that the same typing mistakes are
// recognised and the same suggestions made. The proxy's own words have a measure of their own, which counts slips of
// the fingers (ProxyWire/Suggest).

/// The candidate whose likeness to `word` is greatest and at least 0.6; ties go to the word later in the alphabet.
package func closestMatch(_ word: String, among candidates: some Sequence<String>) -> String? {
  if word.utf8.count > 200 { return nil }  // no field name is near such a word; keeps the work small
  let typed = Array(word.unicodeScalars)
  var best: (ratio: Double, word: String)?
  for candidate in candidates {
    let ratio = likeness(Array(candidate.unicodeScalars), typed)
    if ratio < 0.6 { continue }
    if let best, (ratio, candidate) < (best.ratio, best.word) { continue }
    best = (ratio, candidate)
  }
  return best?.word
}

/// What follows the sentence that there is no such thing: ` Did you mean 'x'?`, or nothing.
package func didYouMean(_ near: String?) -> String { near.map { " Did you mean '\($0)'?" } ?? "" }

/// Twice the letters in matching blocks divided by all letters; 1 for equal words.
func likeness(_ a: [Unicode.Scalar], _ b: [Unicode.Scalar]) -> Double {
  if a.isEmpty && b.isEmpty { return 1 }
  var matched = 0
  var open = [(a.indices, b.indices)]
  while let (left, right) = open.popLast() {
    let block = longestBlock(a, left, b, right)
    if block.size == 0 { continue }
    matched += block.size
    open.append((left.lowerBound..<block.a, right.lowerBound..<block.b))
    open.append((block.a + block.size..<left.upperBound, block.b + block.size..<right.upperBound))
  }
  return 2 * Double(matched) / Double(a.count + b.count)
}

/// The longest run both have; of equally long ones the earliest in `a`, then the earliest in `b`.
private func longestBlock(
  _ a: [Unicode.Scalar], _ left: Range<Int>, _ b: [Unicode.Scalar], _ right: Range<Int>
) -> (a: Int, b: Int, size: Int) {
  var best = (a: left.lowerBound, b: right.lowerBound, size: 0)
  var above = [Int](repeating: 0, count: right.count + 1)
  for i in left {
    var row = [Int](repeating: 0, count: right.count + 1)
    for j in right where a[i] == b[j] {
      let size = above[j - right.lowerBound] + 1
      row[j - right.lowerBound + 1] = size
      if size > best.size { best = (i - size + 1, j - size + 1, size) }
    }
    above = row
  }
  return best
}
