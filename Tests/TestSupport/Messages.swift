// HTTP/1.1 messages as tests see them: read strictly from a wire, fields in the order they came. Independent of the
// product's own parser.

import Foundation

package struct Fields: Sendable {
  package var all: [(name: String, value: String)] = []

  package init(_ all: [(name: String, value: String)] = []) { self.all = all }

  /// Every value of a field, by any spelling of its name.
  package func values(_ name: String) -> [String] {
    all.filter { $0.name.lowercased() == name.lowercased() }.map(\.value)
  }

  /// The only value; nil: there is none, or more than one.
  package subscript(name: String) -> String? {
    let values = values(name)
    return values.count == 1 ? values[0] : nil
  }

  package func has(_ name: String) -> Bool { !values(name).isEmpty }

  fileprivate init(lines: some Sequence<Substring>) throws {
    for line in lines {
      guard let colon = line.firstIndex(of: ":"), colon != line.startIndex, line.first != " ", line.first != "\t" else {
        throw TestFailure("not a field: \(line.debugDescription)")
      }
      let name = String(line[..<colon])
      guard name.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
        throw TestFailure("not a field name: \(name.debugDescription)")
      }
      all.append((name, line[line.index(after: colon)...].trimmingCharacters(in: [" ", "\t"])))
    }
  }
}

package enum BodyFraming: Equatable, Sendable {
  case none
  case length(Int)
  case chunked
  case untilClose
}

package struct Request: Sendable {
  package var method = ""
  package var target = ""
  package var version = ""
  package var fields = Fields()
  package var framing = BodyFraming.none
  package var body: [UInt8] = []
  package var trailers = Fields()
  /// As it came, with the blank line.
  package var rawHead = ""

  package var text: String { String(decoding: body, as: UTF8.self) }
}

package struct Response: Sendable {
  package var status = 0
  package var version = ""
  package var reason = ""
  package var fields = Fields()
  package var framing = BodyFraming.none
  package var body: [UInt8] = []
  package var trailers = Fields()
  /// False: the connection ended before the body did.
  package var isWhole = false

  package var text: String { String(decoding: body, as: UTF8.self) }

  /// The body as a JSON object.
  package var json: [String: Any]? { try? JSONSerialization.jsonObject(with: Data(body)) as? [String: Any] }

  /// The `error` object of a local reply.
  package var error: [String: Any]? { json?["error"] as? [String: Any] }
}

extension Wire {
  /// A whole request; nil: the connection ended before its first byte.
  package func readRequest(deadline: Double = patience) throws -> Request? {
    guard var request = try readRequestHead(deadline: deadline) else { return nil }
    try readBody(of: &request, deadline: deadline)
    return request
  }

  package func readRequestHead(deadline: Double = patience) throws -> Request? {
    guard let bytes = try read(until: "\r\n\r\n", deadline: deadline) else {
      if pending.isEmpty { return nil }
      throw TestFailure("the connection ended within a request head: \(shown(pending))")
    }
    let (first, fields, raw) = try parseHead(bytes)
    let words = first.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3 else { throw TestFailure("not a request line: \(first.debugDescription)") }
    var request = Request(
      method: String(words[0]), target: String(words[1]), version: String(words[2]), fields: fields, rawHead: raw)
    request.framing = try framing(fields) ?? .none
    return request
  }

  package func readBody(of request: inout Request, deadline: Double = patience) throws {
    let (body, trailers, isWhole) = try readBody(request.framing, deadline)
    guard isWhole else { throw TestFailure("the connection ended within a request body") }
    request.body = body
    request.trailers = trailers
  }

  /// A response, cut short if the connection ends within its body (`isWhole` tells). 1xx responses are responses.
  package func readResponse(to method: String = "GET", deadline: Double = patience) throws -> Response {
    var response = try readResponseHead(to: method, deadline: deadline)
    (response.body, response.trailers, response.isWhole) = try readBody(response.framing, deadline)
    return response
  }

  package func readResponseHead(to method: String = "GET", deadline: Double = patience) throws -> Response {
    guard let bytes = try read(until: "\r\n\r\n", deadline: deadline) else {
      throw TestFailure("the connection ended (\(end!)) before a response head: \(shown(pending))")
    }
    let (first, fields, _) = try parseHead(bytes)
    let words = first.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
    guard words.count == 3, words[0].hasPrefix("HTTP/1."), words[1].count == 3, let status = Int(words[1]) else {
      throw TestFailure("not a status line: \(first.debugDescription)")
    }
    var response = Response(status: status, version: String(words[0]), reason: String(words[2]), fields: fields)
    let hasNoBody = status < 200 || status == 204 || status == 304 || method == "HEAD"
    response.framing = hasNoBody ? .none : try framing(fields) ?? .untilClose
    return response
  }

  private func parseHead(_ bytes: [UInt8]) throws -> (first: String, fields: Fields, raw: String) {
    var lines: [Substring] = []
    var at = 0
    while let end = bytes.position(of: [13, 10], from: at), end > at {
      guard !bytes[at..<end].contains(where: { $0 == 0 || $0 == 10 || $0 == 13 }) else {
        throw TestFailure("a control character in a head: \(shown(bytes))")
      }
      lines.append(Substring(latin1(bytes[at..<end])))
      at = end + 2
    }
    guard !lines.isEmpty else { throw TestFailure("an empty head") }
    let first = String(lines.removeFirst())
    return (first, try Fields(lines: lines), latin1(bytes))
  }

  private func framing(_ fields: Fields) throws -> BodyFraming? {
    let lengths = fields.values("content-length")
    let codings = fields.values("transfer-encoding")
    if lengths.count + codings.count > 1 { throw TestFailure("ambiguous framing: \(fields.all)") }
    if let coding = codings.first {
      guard coding == "chunked" else { throw TestFailure("transfer-encoding: \(coding)") }
      return .chunked
    }
    guard let text = lengths.first else { return nil }
    guard let length = Int(text), text.allSatisfy(\.isNumber) else { throw TestFailure("content-length: \(text)") }
    return .length(length)
  }

  private func readBody(_ framing: BodyFraming, _ deadline: Double) throws -> ([UInt8], Fields, Bool) {
    switch framing {
    case .none: return ([], Fields(), true)
    case .length(let length):
      if let body = try read(count: length, deadline: deadline) { return (body, Fields(), true) }
      return (take(pending.count), Fields(), false)
    case .untilClose:
      let body = try readToEnd(deadline: deadline)
      return (body, Fields(), end == .closed)
    case .chunked:
      var body: [UInt8] = []
      while let chunk = try readChunk(deadline: deadline) {
        if chunk.isEmpty {
          guard let trailers = try readTrailers(deadline) else { return (body, Fields(), false) }
          return (body, trailers, true)
        }
        body += chunk
      }
      return (body, Fields(), false)
    }
  }

  /// The next chunk's data, empty for the last one (its trailers are not taken yet); nil: the connection ended.
  package func readChunk(deadline: Double = patience) throws -> [UInt8]? {
    guard let line = try read(until: "\r\n", deadline: deadline) else { return nil }
    let digits = String(decoding: line.dropLast(2).prefix { $0 != UInt8(ascii: ";") }, as: UTF8.self)
    guard let size = Int(digits, radix: 16), size >= 0 else { throw TestFailure("not a chunk size: \(shown(line))") }
    if size == 0 { return [] }
    guard let data = try read(count: size + 2, deadline: deadline) else { return nil }
    guard data.suffix(2) == [13, 10] else { throw TestFailure("chunk data without its line end") }
    return data.dropLast(2)
  }

  private func readTrailers(_ deadline: Double) throws -> Fields? {
    var lines: [Substring] = []
    while let line = try read(until: "\r\n", deadline: deadline) {
      if line.count == 2 { return try Fields(lines: lines) }
      lines.append(Substring(String(decoding: line.dropLast(2), as: UTF8.self)))
    }
    return nil
  }

  package func sendChunk(_ text: String) throws {
    try send("\(String(text.utf8.count, radix: 16))\r\n\(text)\r\n")
  }

  package func sendLastChunk() throws { try send("0\r\n\r\n") }
}

/// Every byte a character, so that it comes back as it was.
private func latin1(_ bytes: some Sequence<UInt8>) -> String {
  var text = String.UnicodeScalarView()
  for byte in bytes { text.append(Unicode.Scalar(byte)) }
  return String(text)
}

/// A request's text. `fields` are lines without their ends; a body brings its length.
package func requestText(
  _ method: String = "GET", _ target: String = "/", fields: [String] = [], body: String? = nil,
  host: String = "example.com"
) -> String {
  var lines = ["\(method) \(target) HTTP/1.1", "Host: \(host)"] + fields
  if let body { lines.append("Content-Length: \(body.utf8.count)") }
  return lines.joined(separator: "\r\n") + "\r\n\r\n" + (body ?? "")
}

/// A response's text with a length.
package func responseText(_ body: String, status: String = "200 OK", fields: [String] = []) -> String {
  let lines = ["HTTP/1.1 \(status)", "Content-Length: \(body.utf8.count)"] + fields
  return lines.joined(separator: "\r\n") + "\r\n\r\n" + body
}
