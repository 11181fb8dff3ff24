// What the tests of ControlCore/Platform share: blocking work off the tasks' own threads, and scripted peers.

import Foundation
import ProxyWire
import TestSupport

@testable import ControlCore

/// Runs what blocks on a thread of its own: tasks have as few threads as there are cores, and what is tested needs them.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    thread("blocking") { continuation.resume(with: Result(catching: body)) }
  }
}

/// Whether `condition` comes true before anyone would wait any longer.
func soon(_ condition: @escaping @Sendable () throws -> Bool) async throws -> Bool {
  try await blocking { eventually { try condition() } }
}

extension Origin {
  var endpoint: Endpoint {
    guard let endpoint = try? Endpoint.parse(address.description) else {
      preconditionFailure("\(address) is an endpoint")
    }
    return endpoint
  }
}

extension HttpReader {
  /// Every event of these bytes, pieces of the body joined; then what the end of the connection makes of it.
  static func outcome(_ kind: Kind, _ pieces: [ArraySlice<UInt8>]) -> String {
    var reader = HttpReader(kind)
    var lines: [String] = []
    var body: [UInt8] = []
    func take(_ event: Event?) {
      switch event {
      case .head(let head):
        lines.append(
          ([head.first, head.second, head.third] + head.fields.map { "\($0.name)=\($0.value)" }).joined(separator: "|"))
      case .body(let piece): body += piece
      case .end: lines.append("body \(String(decoding: body, as: UTF8.self).debugDescription), end")
      case nil: break
      }
    }
    do throws(HttpError) {
      for piece in pieces {
        reader.feed(piece)
        while let event = try reader.next() { take(event) }
      }
      take(try reader.close())
    } catch {
      if !body.isEmpty { lines.append("body \(String(decoding: body, as: UTF8.self).debugDescription)") }
      lines.append("\(error.kind.rawValue): \(error)")
    }
    return lines.joined(separator: "\n")
  }
}
