// HTTP messages as the control plane uses them: whole, small, in memory. Read and written by HttpClient and HttpServer.

import Foundation
import ProxyWire

package struct HttpField: Hashable, Sendable {
  package var name: String
  package var value: String

  package init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }
}

package struct HttpRequest: Hashable, Sendable {
  package var method: String
  /// Path and query: `/v1/services?name=a`. When it is sent, bytes that no target may hold are percent-encoded.
  package var target: String
  package var fields: [HttpField]
  package var body: Data

  package init(_ method: String, _ target: String, fields: [HttpField] = [], body: Data = Data()) {
    self.method = method
    self.target = target
    self.fields = fields
    self.body = body
  }

  /// The value of the first field of this name, in whatever case.
  package func field(_ name: String) -> String? { fields.value(of: name) }
}

package struct HttpReply: Hashable, Sendable {
  package var status: Int
  package var fields: [HttpField]
  package var body: Data

  package init(status: Int, fields: [HttpField] = [], body: Data = Data()) {
    self.status = status
    self.fields = fields
    self.body = body
  }

  /// The value of the first field of this name, in whatever case.
  package func field(_ name: String) -> String? { fields.value(of: name) }
}

extension [HttpField] {
  func value(of name: String) -> String? { first { $0.name.lowercased() == name.lowercased() }?.value }
}

/// Why an exchange came to nothing, in words for people: `connection refused`, `timed out after 15 s`.
package struct HttpError: Error, Hashable, Sendable, CustomStringConvertible {
  package enum Kind: String, Hashable, Sendable {
    /// Nobody there.
    case connect
    case timeout
    /// What came is not HTTP, or what should be sent is not.
    case `protocol`
    /// The other side broke off.
    case closed
    /// The head or the body is longer than what was asked for.
    case tooLarge
    /// The task was cancelled.
    case cancelled
  }

  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

// MARK: - Bytes on the wire

extension HttpRequest {
  /// The request's bytes. `Host`, `Content-Length` and `Connection` are said here and nowhere else, except for a `Host`
  /// that `fields` brings along.
  func bytes(host: String, keepsOpen: Bool) throws(HttpError) -> [UInt8] {
    guard !method.isEmpty, method.utf8.allSatisfy(isTokenByte) else {
      throw HttpError(.protocol, "\(quotedForPeople(method)) is no method")
    }
    var out: [UInt8] = []
    out.reserveCapacity(256 + body.count)
    out.append(contentsOf: method.utf8)
    out.append(UInt8(ascii: " "))
    for byte in (target.isEmpty ? "/" : target).utf8 {
      if byte > 0x20, byte < 0x7F {
        out.append(byte)
      } else {
        let digits = String(byte, radix: 16, uppercase: true)
        out.append(contentsOf: (byte < 16 ? "%0" : "%").utf8)
        out.append(contentsOf: digits.utf8)
      }
    }
    out.append(contentsOf: " HTTP/1.1\r\n".utf8)
    if field("host") == nil { out.append(contentsOf: "Host: \(host)\r\n".utf8) }
    try write(fields, leaving: ["content-length", "connection", "transfer-encoding"], to: &out)
    if !body.isEmpty || !["GET", "HEAD", "DELETE"].contains(method) {
      out.append(contentsOf: "Content-Length: \(body.count)\r\n".utf8)
    }
    if !keepsOpen { out.append(contentsOf: "Connection: close\r\n".utf8) }
    out.append(contentsOf: "\r\n".utf8)
    out.append(contentsOf: body)
    return out
  }
}

enum HttpBodyForm {
  case whole
  case chunked
}

/// The bytes of a reply's head, its body's length said by `form`.
func headBytes(of reply: HttpReply, _ form: HttpBodyForm, keepsOpen: Bool) throws(HttpError) -> [UInt8] {
  var out = Array("HTTP/1.1 \(reply.status) \(reasonPhrase(reply.status))\r\n".utf8)
  try write(reply.fields, leaving: ["content-length", "connection", "transfer-encoding"], to: &out)
  switch form {
  case .whole: out.append(contentsOf: "Content-Length: \(reply.body.count)\r\n".utf8)
  case .chunked: out.append(contentsOf: "Transfer-Encoding: chunked\r\n".utf8)
  }
  if !keepsOpen { out.append(contentsOf: "Connection: close\r\n".utf8) }
  out.append(contentsOf: "\r\n".utf8)
  return out
}

/// A line break in a field would begin a field, or a request, of its own.
private func write(_ fields: [HttpField], leaving ours: Set<String>, to out: inout [UInt8]) throws(HttpError) {
  for field in fields where !ours.contains(field.name.lowercased()) {
    guard !field.name.isEmpty, field.name.utf8.allSatisfy(isTokenByte) else {
      throw HttpError(.protocol, "\(quotedForPeople(field.name)) is no name of a header field")
    }
    guard !field.value.utf8.contains(where: { $0 == 0 || $0 == 10 || $0 == 13 }) else {
      throw HttpError(.protocol, "the header field \(field.name) has a line break or a zero byte in its value")
    }
    out.append(contentsOf: "\(field.name): \(field.value)\r\n".utf8)
  }
}

/// RFC 9110 5.6.2.
func isTokenByte(_ byte: UInt8) -> Bool {
  switch byte {
  case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
    UInt8(ascii: "A")...UInt8(ascii: "Z"):
    true
  default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
  }
}

/// In quotes, on one line, at most 40 characters.
func quotedForPeople(_ text: String) -> String {
  var out = ""
  for scalar in text.unicodeScalars.prefix(40) {
    switch scalar.value {
    case 0x0A: out += "\\n"
    case 0x0D: out += "\\r"
    case 0x20...0x7E, 0xA0...: out.unicodeScalars.append(scalar)
    default: out += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
    }
  }
  return "\"\(out)\(text.unicodeScalars.count > 40 ? "…" : "")\""
}
