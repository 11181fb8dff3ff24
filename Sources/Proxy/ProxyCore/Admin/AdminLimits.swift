// The bounds of the admin API's own server. They are no flags: its clients are a controller and people with curl, and
// none of them needs another number. README shows them as `markdown` writes them.

import ProxyWire

package struct AdminLimits: Sendable {
  /// Clients at once, streams of reports included.
  package var connections = 64
  package var headBytes = 16_384
  package var targetBytes = 4096
  package var fields = 128
  package var bodyBytes = 16 << 20
  /// Nothing that a read-only client may ask for has a body.
  package var readOnlyBodyBytes = 65_536
  /// The head of a request: from connecting, or from its first byte.
  package var headNs: UInt64 = 10_000_000_000
  package var bodyNs: UInt64 = 60_000_000_000
  /// Between two requests.
  package var idleNs: UInt64 = 75_000_000_000
  /// Without a byte of an answer taken.
  package var writeNs: UInt64 = 30_000_000_000
  /// How long a client may take to read the last answer: closing with its bytes unread would destroy it.
  package var lingerNs: UInt64 = 5_000_000_000
  /// How far a reader of reports may be behind.
  package var backlogBytes = 1 << 20

  package init() {}

  /// The README's table of them.
  package func markdown() -> String {
    func time(_ ns: UInt64) -> String { ConfigUnits.text(durationNs: ns) }
    func size(_ bytes: Int) -> String { ConfigUnits.text(size: bytes) }
    let rows: [(limit: String, answer: String)] = [
      ("\(connections) connections", "503"),
      ("\(size(headBytes)) of head, \(fields) fields", "431"),
      ("\(size(targetBytes)) of target", "414"),
      ("\(size(bodyBytes)) of body, \(size(readOnlyBodyBytes)) on a read-only port", "413"),
      ("\(time(headNs)) for a head, \(time(bodyNs)) for a body", "408"),
      ("\(time(idleNs)) between two requests", "closed without a word"),
      ("\(time(writeNs)) without a byte of the answer taken", "closed"),
      ("\(size(backlogBytes)) behind in `GET /v1/reports` (or two lines, where those are longer)", "closed"),
      ("\(time(lingerNs)) to read the last answer", "closed"),
    ]
    return "| Limit | Answer |\n|---|---|\n" + rows.map { "| \($0.limit) | \($0.answer) |\n" }.joined()
  }
}
