// Who may import whom (README, "How a request goes through"), and what the hot rooms may not hold.

import Testing

@Suite struct ArrowTests {
  /// What the files under a folder may import; the rooms that have a list of their own are left out.
  struct Rule: Sendable, CustomTestStringConvertible {
    let folder: String
    let allowed: Set<String>
    var except: [String] = []
    var testDescription: String { folder }
  }

  static let rules = [
    Rule(folder: "Sources/Proxy/ProxyWire", allowed: []),
    Rule(
      folder: "Sources/Proxy/ProxyCore", allowed: ["Glibc", "ProxyWire", "Synchronization"],
      except: ["Sources/Proxy/ProxyCore/Ring/", "Sources/Proxy/ProxyCore/Tls/"]),
    Rule(folder: "Sources/Proxy/ProxyCore/Ring", allowed: ["CLiburing", "Glibc", "Synchronization"]),
    Rule(folder: "Sources/Proxy/ProxyCore/Tls", allowed: ["COpenSSL", "Glibc", "Synchronization"]),
    Rule(folder: "Sources/Proxy/ProxyCore/Http", allowed: []),
    Rule(folder: "Sources/Proxy/ProxyCore/Engine", allowed: ["Synchronization"]),
    Rule(folder: "Sources/Proxy/sky-proxy", allowed: ["Glibc", "ProxyCore"]),
    Rule(folder: "Sources/Control/Yaml", allowed: []),
    Rule(folder: "Sources/Control/SkyCLI", allowed: ["ControlCore", "Foundation", "Synchronization", "Yaml"]),
    Rule(folder: "Sources/Control/sky", allowed: ["SkyCLI"]),
    Rule(folder: "Tests/SimKit", allowed: []),
    Rule(folder: "Tests/ProxySim", allowed: ["Glibc", "ProxyCore", "SimKit", "Synchronization"]),
    Rule(folder: "Tests/ControlSim", allowed: ["ControlCore", "Foundation", "Glibc", "ProxyWire", "SimKit"]),
  ]

  @Test(arguments: rules)
  func onlyTheDrawnArrows(_ rule: Rule) {
    let files = SourceTree.swiftFiles(under: rule.folder)
    #expect(!files.isEmpty, "no sources under \(rule.folder)")
    for file in files where !rule.except.contains(where: { file.path.hasPrefix($0) }) {
      for module in file.imports {
        #expect(rule.allowed.contains(module), "\(file.path) imports \(module)")
      }
    }
  }

  @Test func theProxyNeverKnowsTheControlPlaneOrFoundation() {
    for file in SourceTree.swiftFiles(under: "Sources/Proxy") {
      for module in ["Foundation", "FoundationEssentials", "Dispatch", "ControlCore", "SkyCLI", "Yaml"] {
        #expect(!file.imports.contains(module), "\(file.path) imports \(module)")
      }
    }
  }

  static let hotRooms = [
    "Sources/Proxy/ProxyCore/Ring", "Sources/Proxy/ProxyCore/Memory", "Sources/Proxy/ProxyCore/Time",
    "Sources/Proxy/ProxyCore/Http", "Sources/Proxy/ProxyCore/Engine",
    "Sources/Proxy/ProxyCore/Upstream/Board.swift", "Sources/Proxy/ProxyCore/Upstream/Cuts.swift",
    "Sources/Proxy/ProxyCore/Upstream/Ejection.swift", "Sources/Proxy/ProxyCore/Upstream/IdlePool.swift",
    "Sources/Proxy/ProxyCore/Upstream/Policy/", "Sources/Proxy/ProxyCore/Upstream/RetryPolicy.swift",
    "Sources/Proxy/ProxyCore/Upstream/NewsBell.swift",
  ]
  /// Files of hot rooms that run at start only, and why they may use text.
  static let coldFiles = [
    "Sources/Proxy/ProxyCore/Ring/RingProbe.swift"  // the features line and the advice when io_uring is forbidden
  ]

  @Test func hotRoomsHoldPlainBytes() {
    var seen = 0
    for file in SourceTree.swiftFiles(under: "Sources/Proxy/ProxyCore")
    where Self.hotRooms.contains(where: { file.path.hasPrefix($0) }) && !Self.coldFiles.contains(file.path) {
      seen += 1
      for (number, line) in file.lines.enumerated() {
        let code = line.split(separator: "//", maxSplits: 1, omittingEmptySubsequences: false)[0]
        for word in ["class ", " any ", "(any ", "[String", ": String", "Array(", "@escaping", "Dictionary"] {
          #expect(!code.contains(word), "\(file.path):\(number + 1) has '\(word)'")
        }
      }
    }
    #expect(seen > 25, "the hot rooms have moved: this test no longer finds them")
  }
}
