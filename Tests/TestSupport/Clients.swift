// Clients and replicas that others wrote: curl, and Python's standard library.

import Foundation

/// curl with its progress meter off. The output is the body alone unless `arguments` say otherwise.
package func curl(_ arguments: [String], deadline: Double = 60) throws -> Outcome {
  try run("curl", ["-sS", "-m", "30"] + arguments, deadline: deadline)
}

package func python(_ script: String, _ arguments: [String] = [], deadline: Double = 60) throws -> Outcome {
  try run("python3", ["-u", "-c", script] + arguments, deadline: deadline)
}

/// `python3 -m http.server`: a replica as people really run one.
package final class FileServer: Sendable {
  package let child: ChildProcess
  package let address: Address
  private let folder: TemporaryFolder

  /// - Parameters:
  ///   - files: names and what is in them.
  ///   - port: 0 lets the kernel choose.
  package init(_ files: [String: String], port: UInt16 = 0) throws {
    folder = try TemporaryFolder()
    for (name, text) in files { _ = try folder.write(text, to: name) }
    child = try ChildProcess(
      "python3", ["-u", "-m", "http.server", "\(port)", "--bind", "127.0.0.1"], folder: folder.path)
    // "Serving HTTP on 127.0.0.1 port 40123 (http://127.0.0.1:40123/) ..."
    let line: String
    do { line = try child.line(onOutput: true) { $0.hasPrefix("Serving HTTP") } } catch {
      child.end()
      throw error
    }
    guard let word = line.components(separatedBy: " port ").last?.split(separator: " ").first, let chosen = UInt16(word)
    else { throw TestFailure("no port in \(line)") }
    address = .ipv4("127.0.0.1", chosen)
  }

  deinit { child.end() }

  /// How many requests it logged for a path.
  package func count(_ path: String) -> Int {
    child.standardError.components(separatedBy: "\"GET \(path) ").count - 1
  }
}
