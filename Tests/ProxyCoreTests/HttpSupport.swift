// What the tests of Http/ share: memory that ends at a page nobody may touch, so that one byte read or written too far
// is a crash and not a chance; the cases in Tests/Corpus/http; and a seeded generator.
import Glibc
import ProxyCore

/// `count` bytes that end where an inaccessible page begins.
final class GuardedBytes {
  let base: UnsafeMutablePointer<UInt8>
  let count: Int
  private let mapping: UnsafeMutableRawPointer
  private let mappedBytes: Int

  init(count: Int) {
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let usable = (max(count, 1) + page - 1) / page * page
    mappedBytes = usable + page
    guard let mapping = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      mapping != MAP_FAILED, mprotect(mapping + usable, page, PROT_NONE) == 0
    else { fatalError("no memory for a test") }
    self.mapping = mapping
    self.count = count
    base = (mapping + (usable - count)).assumingMemoryBound(to: UInt8.self)
  }

  convenience init(_ bytes: [UInt8]) {
    self.init(count: bytes.count)
    put(bytes)
  }

  deinit { munmap(mapping, mappedBytes) }

  func put(_ bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() { base[index] = byte }
  }

  /// The last `length` bytes of the memory, holding the first `length` of `bytes`.
  func tail(_ bytes: [UInt8], _ length: Int) -> UnsafeMutablePointer<UInt8> {
    let start = base + (count - length)
    for index in 0..<length { start[index] = bytes[index] }
    return start
  }
}

func bytes(_ base: UnsafePointer<UInt8>, _ count: Int) -> [UInt8] {
  Array(UnsafeBufferPointer(start: base, count: count))
}

/// Bytes as the corpus writes them.
func escaped(_ bytes: [UInt8]) -> String {
  var text = ""
  for byte in bytes {
    switch byte {
    case 0x0D: text += "\\r"
    case 0x0A: text += "\\n"
    case 0x09: text += "\\t"
    case 0x5C: text += "\\\\"
    case 0x20..<0x7F: text.unicodeScalars.append(Unicode.Scalar(byte))
    default: text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
  }
  return text
}

func unescaped(_ text: some StringProtocol) -> [UInt8] {
  var result: [UInt8] = []
  let source = Array(text.utf8)
  var index = 0
  while index < source.count {
    guard source[index] == UInt8(ascii: "\\"), index + 1 < source.count else {
      result.append(source[index])
      index += 1
      continue
    }
    switch source[index + 1] {
    case UInt8(ascii: "r"): result.append(0x0D)
    case UInt8(ascii: "n"): result.append(0x0A)
    case UInt8(ascii: "t"): result.append(0x09)
    case UInt8(ascii: "0"): result.append(0)
    case UInt8(ascii: "x"):
      let digits = String(decoding: source[(index + 2)..<(index + 4)], as: UTF8.self)
      result.append(UInt8(digits, radix: 16)!)
      index += 2
    default: result.append(source[index + 1])
    }
    index += 2
  }
  return result
}

/// One case of the corpus; Tests/Corpus/http/README.md says what the keys mean.
struct HttpCase: CustomStringConvertible, Sendable {
  var place = ""
  var title = ""
  var kind = ""
  var settings: Set<String> = []
  var input: [UInt8] = []
  var refusal: Refusal?
  var isPartial = false
  var facts: [(name: String, value: String)] = []
  var output: [UInt8] = []
  var rest: [UInt8] = []

  var description: String { "\(place) \(title)" }

  static let all: [HttpCase] = {
    let folder = String(#filePath.dropLast("ProxyCoreTests/HttpSupport.swift".count)) + "Corpus/http/"
    let names = [
      "request-line", "target", "host", "fields", "framing", "hop-by-hop", "forwarding", "response", "chunked",
      "trailers",
    ]
    return names.flatMap { read(folder, $0 + ".txt") }
  }()

  static func of(_ kinds: String...) -> [HttpCase] { all.filter { kinds.contains($0.kind) } }

  private static func read(_ folder: String, _ name: String) -> [HttpCase] {
    guard let file = fopen(folder + name, "r") else { fatalError("no corpus document \(folder)\(name)") }
    defer { fclose(file) }
    var cases: [HttpCase] = []
    var number = 0
    var line: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { free(line) }
    while true {
      let length = getline(&line, &capacity, file)
      guard length >= 0, let line else { break }
      number += 1
      let raw = UnsafeRawBufferPointer(start: line, count: length)
      let text = String(
        decoding: raw.last == 0x0A ? UnsafeRawBufferPointer(rebasing: raw.dropLast()) : raw, as: UTF8.self)
      if text.isEmpty || text.hasPrefix("#") { continue }
      guard let colon = text.firstIndex(of: ":") else { fatalError("\(name):\(number): no key") }
      let key = text[..<colon]
      let value = text[text.index(after: colon)...].dropFirst(1)
      if key == "case" {
        cases.append(HttpCase(place: "\(name):\(number)", title: String(value)))
        continue
      }
      guard !cases.isEmpty else { fatalError("\(name):\(number): a line before the first case") }
      cases[cases.count - 1].take(key, value, "\(name):\(number)")
    }
    return cases
  }

  private mutating func take(_ key: Substring, _ value: Substring, _ place: String) {
    switch key {
    case "kind": kind = String(value)
    case "with": settings = Set(value.split(separator: " ").map(String.init))
    case "in": input += unescaped(value)
    case "refused":
      guard let refusal = Refusal.allCases.first(where: { "\($0)" == value }) else {
        fatalError("\(place): no such rule")
      }
      self.refusal = refusal
    case "partial": isPartial = true
    case "facts":
      facts += value.split(separator: " ").map { fact in
        let parts = fact.split(separator: "=", maxSplits: 1)
        return (String(parts[0]), String(parts[1]))
      }
    case "out":
      let id = "X-Request-Id: 00000000000000010000000000000002\\r\\n"
      let parts = value.split(separator: "{id}", omittingEmptySubsequences: false)
      output += unescaped(parts.joined(separator: id))
    case "rest": rest += unescaped(value)
    default: fatalError("\(place): unknown key \(key)")
    }
  }
}

/// The context that the corpus' requests are written with.
func withContext<Result>(_ settings: Set<String>, _ body: (ForwardContext) -> Result) -> Result {
  let address = Array("10.0.0.1".utf8)
  let name = Array("sky-proxy".utf8)
  let host = Array("fallback".utf8)
  return address.withUnsafeBufferPointer { address in
    name.withUnsafeBufferPointer { name in
      host.withUnsafeBufferPointer { host in
        body(
          ForwardContext(
            clientAddress: address.baseAddress!, clientAddressCount: address.count, isTLS: settings.contains("tls"),
            requestIdHigh: 1, requestIdLow: 2,
            forwarded: settings.contains("append") ? .append : settings.contains("replace") ? .replace : .off,
            viaName: name.baseAddress!, viaNameCount: settings.contains("via") ? name.count : 0,
            fallbackHost: host.baseAddress!, fallbackHostCount: host.count))
      }
    }
  }
}
