// Where the recorded answers of SkyServe's own parser and autoscaler lie, and how they are read.

import Foundation
import ProxyWire

@testable import ControlCore

enum Vectors {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// Copied into the repository.
  static let corpus = root.appending(path: "Tests/Corpus/spec")

  /// A folder beside the repository with more of the same, and with real service files; SKY_VECTORS names another.
  static let shared: URL? = {
    let named = ProcessInfo.processInfo.environment["SKY_VECTORS"].map { URL(filePath: $0) }
    let folder = named ?? root.deletingLastPathComponent().appending(path: "shared/data")
    return FileManager.default.fileExists(atPath: folder.path) ? folder : nil
  }()

  static func read(_ url: URL) throws -> [PlainValue] {
    guard case .list(let items) = PlainValue(try Json.parse([UInt8](Data(contentsOf: url)))) else { return [] }
    return items
  }

  /// The named file in the repository and, where there is one, in the shared folder.
  static func all(_ name: String) throws -> [PlainValue] {
    var found = try read(corpus.appending(path: name))
    if let extra = shared?.appending(path: name), FileManager.default.fileExists(atPath: extra.path) {
      let known = Set(found.compactMap { $0["name"]?.text })
      found += try read(extra).filter { !known.contains($0["name"]?.text ?? "") }
    }
    return found
  }
}

extension PlainValue {
  var items: [PlainValue] { if case .list(let it) = self { it } else { [] } }
  var members: [Member] { if case .map(let it) = self { it } else { [] } }
  var whole: Int? { if case .int(let it) = self { it } else { nil } }
  var number: Double? {
    switch self {
    case .int(let it): Double(it)
    case .double(let it): it
    case .null, .bool, .string, .list, .map: nil
    }
  }
}

/// The controller's word for a replica, not the proxy's message of the same name.
typealias ReplicaStatus = ControlCore.ReplicaStatus
