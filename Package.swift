// swift-tools-version:6.2
// The one manifest of the repository. Who may import whom is drawn in README.md and kept true by Tests/TidyTests.
import PackageDescription

let strict: [SwiftSetting] = [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]

/// Set by `make fuzz`: its build holds libFuzzer's hooks in every module, and one program that is no test.
let isFuzzing = Context.environment["SKY_FUZZ"] != nil
let fuzzing: Target =
  isFuzzing
  ? .executableTarget(
    name: "sky-fuzz", dependencies: ["COpenSSL", "ProxyCore", "ProxyWire", "TestSupport"], path: "Tests/Fuzz",
    exclude: ["ReplayTests.swift", "regressions", "wanted", "seeds.py", "fuzz.sh"],
    swiftSettings: strict)
  : .testTarget(
    name: "FuzzTests", dependencies: ["COpenSSL", "ProxyCore", "ProxyWire", "TestSupport"], path: "Tests/Fuzz",
    exclude: ["main.swift", "regressions", "wanted", "seeds.py", "fuzz.sh"], swiftSettings: strict)

let package = Package(
  name: "sky",
  products: [
    .executable(name: "sky-proxy", targets: ["sky-proxy"]),
    .executable(name: "sky-controller", targets: ["sky-controller"]),
    .executable(name: "sky", targets: ["sky"]),
    .executable(name: "sky-sim", targets: ["sky-sim"]),
    .executable(name: "sky-control-sim", targets: ["sky-control-sim"]),
  ],
  targets: [
    fuzzing,
    // Sources/Proxy: the data plane.
    .systemLibrary(name: "CLiburing", path: "Sources/Proxy/CLiburing", pkgConfig: "liburing"),
    .systemLibrary(name: "COpenSSL", path: "Sources/Proxy/COpenSSL", pkgConfig: "openssl"),
    .target(name: "ProxyWire", path: "Sources/Proxy/ProxyWire", swiftSettings: strict),
    .target(
      name: "ProxyCore", dependencies: ["CLiburing", "COpenSSL", "ProxyWire"], path: "Sources/Proxy/ProxyCore",
      swiftSettings: strict),
    .executableTarget(
      name: "sky-proxy", dependencies: ["ProxyCore"], path: "Sources/Proxy/sky-proxy", swiftSettings: strict),
    // Sources/Control: the control plane.
    .target(name: "Yaml", path: "Sources/Control/Yaml", swiftSettings: strict),
    .systemLibrary(name: "CPlatform", path: "Sources/Control/CPlatform"),
    .target(
      name: "ControlCore", dependencies: ["Yaml", "ProxyWire", "CPlatform"], path: "Sources/Control/ControlCore",
      swiftSettings: strict),
    .target(
      name: "SkyCLI", dependencies: ["ControlCore", "Yaml"], path: "Sources/Control/SkyCLI", swiftSettings: strict),
    .executableTarget(
      name: "sky-controller", dependencies: ["ControlCore"], path: "Sources/Control/sky-controller",
      swiftSettings: strict),
    .executableTarget(name: "sky", dependencies: ["SkyCLI"], path: "Sources/Control/sky", swiftSettings: strict),
    // Benchmarks: the tools that measure (Benchmarks/README.md).
    .target(
      name: "BenchKit", dependencies: ["ProxyCore", "ProxyWire"], path: "Benchmarks/BenchKit", swiftSettings: strict),
    .executableTarget(
      name: "sky-origin", dependencies: ["BenchKit"], path: "Benchmarks/sky-origin", swiftSettings: strict),
    .executableTarget(
      name: "sky-load", dependencies: ["BenchKit"], path: "Benchmarks/sky-load", swiftSettings: strict),
    .executableTarget(
      name: "sky-floor", dependencies: ["BenchKit"], path: "Benchmarks/floor", swiftSettings: strict),
    .executableTarget(
      name: "sky-micro", dependencies: ["BenchKit"], path: "Benchmarks/micro", swiftSettings: strict),
    // Tests.
    .target(name: "SimKit", path: "Tests/SimKit", swiftSettings: strict),
    .target(name: "TestSupport", dependencies: ["SimKit"], path: "Tests/TestSupport", swiftSettings: strict),
    .target(
      name: "ProxySim", dependencies: ["ProxyCore", "SimKit"], path: "Tests/ProxySim", swiftSettings: strict),
    .executableTarget(name: "sky-sim", dependencies: ["ProxySim"], path: "Tests/sky-sim", swiftSettings: strict),
    .target(
      name: "ControlSim", dependencies: ["ControlCore", "ProxyWire", "SimKit"], path: "Tests/ControlSim",
      swiftSettings: strict),
    .executableTarget(
      name: "sky-control-sim", dependencies: ["ControlSim", "ControlCore", "SkyCLI"], path: "Tests/sky-control-sim",
      swiftSettings: strict),
    .testTarget(
      name: "ProxyCoreTests", dependencies: ["ProxyCore", "ProxySim", "SimKit", "TestSupport"],
      path: "Tests/ProxyCoreTests",
      swiftSettings: strict),
    .testTarget(
      name: "ProxyWireTests", dependencies: ["ProxyWire", "SimKit", "TestSupport"], path: "Tests/ProxyWireTests",
      swiftSettings: strict),
    .testTarget(
      name: "YamlTests", dependencies: ["Yaml", "SimKit", "TestSupport"], path: "Tests/YamlTests",
      swiftSettings: strict),
    .testTarget(
      name: "ControlCoreTests", dependencies: ["ControlCore", "SimKit", "TestSupport", "sky-control-sim"],
      path: "Tests/ControlCoreTests", swiftSettings: strict),
    .testTarget(
      name: "SkyCLITests",
      dependencies: ["SkyCLI", "ControlCore", "Yaml", "SimKit", "TestSupport", "sky", "sky-controller", "sky-proxy"],
      path: "Tests/SkyCLITests", swiftSettings: strict),
    .testTarget(
      name: "LocalReplicaTests", dependencies: ["ControlCore", "ProxyWire", "SimKit", "TestSupport", "sky-controller"],
      path: "Tests/LocalReplicaTests", swiftSettings: strict),
    .testTarget(
      name: "EndToEndTests", dependencies: ["TestSupport", "sky-proxy"], path: "Tests/EndToEndTests",
      swiftSettings: strict),
    .testTarget(
      name: "ServeTests", dependencies: ["ControlCore", "SimKit", "TestSupport", "sky-controller", "sky-proxy", "sky"],
      path: "Tests/ServeTests", swiftSettings: strict),
    .testTarget(name: "BenchKitTests", dependencies: ["BenchKit"], path: "Tests/BenchTests/Kit", swiftSettings: strict),
    .testTarget(
      name: "BenchTests", dependencies: ["TestSupport", "sky-origin", "sky-load", "sky-floor", "sky-micro"],
      path: "Tests/BenchTests/Smoke", swiftSettings: strict),
    .testTarget(
      name: "TidyTests", dependencies: ["TestSupport", "ProxyCore"], path: "Tests/TidyTests", swiftSettings: strict),
  ])
