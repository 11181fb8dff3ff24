// Where things are on this machine: the package, the built programs, folders to write to, tools that tests use.

import Foundation

package enum Places {
  /// The folder with Package.swift.
  package static let packageRoot = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

  /// Data and tools that may lie beside the package; tests that need them are skipped where they do not.
  package static func shared(_ path: String) -> String? {
    let place = URL(fileURLWithPath: packageRoot).deletingLastPathComponent()
      .appendingPathComponent("shared/" + path).path
    return exists(place) ? place : nil
  }

  package static func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

  /// Where SwiftPM put this test bundle, and so the programs that were built with it.
  private static let products: String = {
    let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    return URL(fileURLWithPath: own).deletingLastPathComponent().path
  }()

  /// A program built together with the tests; the variable `SKY_PROXY_BINARY` (for sky-proxy) names another.
  package static func program(_ name: String) throws -> String {
    let variable = name.uppercased().replacingOccurrences(of: "-", with: "_") + "_BINARY"
    if let named = ProcessInfo.processInfo.environment[variable] { return named }
    let path = products + "/" + name
    guard exists(path) else { throw TestFailure("\(path) is not there; build it (swift build --build-tests)") }
    return path
  }

  /// The release build of a program, unless it is older than its sources.
  package static func releaseProgram(_ name: String) -> String? {
    let places = [
      URL(fileURLWithPath: products).deletingLastPathComponent().path + "/release/" + name,
      packageRoot + "/.build/release/" + name,
    ]
    return places.first { modified($0).map { $0 >= newestSource } ?? false }
  }

  private static func modified(_ path: String) -> Date? {
    let path = URL(fileURLWithPath: path).resolvingSymlinksInPath().path
    return (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
  }

  private static let newestSource: Date =
    swiftFiles(under: "Sources/Proxy").compactMap { modified(packageRoot + "/" + $0) }.max() ?? .distantPast

  /// Paths relative to the package, sorted.
  package static func swiftFiles(under folder: String) -> [String] {
    files(under: folder).filter { $0.hasSuffix(".swift") }
  }

  package static func files(under folder: String) -> [String] {
    let all = FileManager.default.enumerator(atPath: packageRoot + "/" + folder)?.compactMap { $0 as? String } ?? []
    return all.map { folder + "/" + $0 }.sorted()
  }

  package static func text(_ path: String) throws -> String {
    try String(contentsOfFile: path.hasPrefix("/") ? path : packageRoot + "/" + path, encoding: .utf8)
  }

  /// A program on the PATH.
  package static func tool(_ name: String) -> String? {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin"
    return path.split(separator: ":").map { "\($0)/\(name)" }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  package static var hasCurl: Bool { tool("curl") != nil }
  package static var hasPython: Bool { tool("python3") != nil }
}

/// A folder that is gone after the test. Its path is short: a socket's path has at most 107 bytes.
package final class TemporaryFolder: Sendable {
  package let path: String

  package init() throws {
    var template = Array("/tmp/sky-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw TestFailure("mkdtemp: \(errno)") }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  package func file(_ name: String) -> String { path + "/" + name }

  package func write(_ text: String, to name: String) throws -> String {
    try Data(text.utf8).write(to: URL(fileURLWithPath: file(name)))
    return file(name)
  }
}
