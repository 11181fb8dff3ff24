// Requests of the admin API as they come in on one connection, and the answers to them. The same strict head parser and
// chunk decoder as on the hot path, but bodies are gathered whole: a list of replicas is read at once.

import ProxyWire

struct AdminRequest {
  var method: String
  var path: String
  /// `limit` and `5` of `?limit=5`.
  var parameters: [(name: String, value: String)]
  var body: [UInt8] = []
  var keepAlive: Bool
  var isHTTP10: Bool
  /// Who the client takes us for: `HostName.folded` of Host, or of an absolute target; empty where it does not say.
  var host: String
  /// A browser sent it for a web page: it has an Origin, or Sec-Fetch-Site says so.
  var isOfPage: Bool
}

struct AdminReply {
  var status: Int
  var type: StaticString = "application/json"
  /// Further fields, each with its line end.
  var fields = ""
  var body: [UInt8]

  init(_ status: Int, type: StaticString = "application/json", fields: String = "", _ body: [UInt8]) {
    self.status = status
    self.type = type
    self.fields = fields
    self.body = body
  }

  static func error(_ status: Int, _ message: String, version: UInt64? = nil, fields: String = "") -> AdminReply {
    json(status, fields: fields, ErrorAnswer(error: message, version: version).encode())
  }

  /// An object on a line of its own.
  static func json(_ status: Int, fields: String = "", _ body: [UInt8]) -> AdminReply {
    AdminReply(status, fields: fields, body + [UInt8(ascii: "\n")])
  }

  /// Appends head and body. `closes`: this is the connection's last answer.
  func write(closes: Bool, isHead: Bool = false, to out: inout [UInt8]) {
    AdminReply.writeStatus(status, to: &out)
    out.put("Content-Type: ")
    out.put(type)
    out.put("\r\nContent-Length: ")
    out.put(decimal: UInt64(body.count))
    out.put("\r\n")
    out.put(string: fields)
    out.put(closes ? "Connection: close\r\n\r\n" : "Connection: keep-alive\r\n\r\n")
    if !isHead { out.append(contentsOf: body) }
  }

  static func writeStatus(_ status: Int, to out: inout [UInt8]) {
    out.put("HTTP/1.1 ")
    out.put(decimal: UInt64(status))
    out.put(" ")
    out.put(reasonPhrase(status))
    out.put("\r\n")
  }
}

/// Cuts the bytes of one connection into requests.
struct AdminRequestReader {
  enum Step {
    case needsMore
    case request(AdminRequest)
    /// The rest of the connection's bytes means nothing any more.
    case refused(status: Int, reason: String)
  }

  private enum Body {
    case length(Int)
    case chunked(ChunkedDecoder)
  }

  private let headLimits: HeadLimits
  private let bodyMax: Int
  private var bytes: [UInt8] = []
  /// The head has been read; its body is under way.
  private var open: (request: AdminRequest, body: Body)?
  /// The client holds its body back until it is told to go on; true once.
  private var owesContinue = false

  init(_ access: AdminAccess, _ limits: AdminLimits) {
    headLimits = HeadLimits(
      headBytes: limits.headBytes, targetBytes: limits.targetBytes, fields: limits.fields)
    bodyMax = access == .full ? limits.bodyBytes : limits.readOnlyBodyBytes
  }

  /// Between two requests.
  var isIdle: Bool { open == nil && bytes.isEmpty }
  var isInBody: Bool { open != nil }

  mutating func feed(_ new: UnsafeRawBufferPointer) { bytes.append(contentsOf: new) }

  mutating func takeContinue() -> Bool {
    defer { owesContinue = false }
    return owesContinue
  }

  mutating func next(_ fields: inout FieldTable) -> Step {
    if open == nil {
      if bytes.isEmpty { return .needsMore }
      var head = RequestHead()
      let verdict = bytes.withUnsafeBufferPointer {
        parseRequestHead($0.baseAddress!, $0.count, limits: headLimits, fields: &fields, head: &head)
      }
      switch verdict {
      case .partial: return .needsMore
      case .refused(let refusal): return .refused(status: Int(refusal.status), reason: "\(refusal.reason)")
      case .complete: break
      }
      let request = AdminRequest(head, bytes, fields)
      let isHere = bytes.count > head.headBytes
      bytes.removeSubrange(..<head.headBytes)
      switch head.framing {
      case .none, .untilClose: return .request(request)
      case .length:
        guard head.contentLength <= UInt64(bodyMax) else { return tooLarge }
        open = (request, .length(Int(head.contentLength)))
      case .chunked: open = (request, .chunked(ChunkedDecoder()))
      }
      owesContinue = head.expectContinue && !isHere
    }
    return readBody()
  }

  private var tooLarge: Step {
    .refused(status: 413, reason: "the body is longer than \(bodyMax) bytes; send a shorter list")
  }

  private mutating func readBody() -> Step {
    guard var (request, body) = open else { return .needsMore }
    if bytes.isEmpty, case .chunked = body { return .needsMore }
    open = nil  // so that its body is not copied while it grows
    switch body {
    case .length(let length):
      if bytes.count < length {
        open = (request, body)
        return .needsMore
      }
      request.body = Array(bytes[..<length])
      bytes.removeSubrange(..<length)
      return .request(request)
    case .chunked(var decoder):
      let (consumed, payload, verdict) = bytes.withUnsafeMutableBufferPointer {
        decoder.decode($0.baseAddress!, $0.count)
      }
      request.body.append(contentsOf: bytes[..<payload])
      bytes.removeSubrange(..<consumed)
      if request.body.count > bodyMax { return tooLarge }
      body = .chunked(decoder)
      switch verdict {
      case .done: return .request(request)
      case .trailers: return .refused(status: 400, reason: "trailer fields are not taken; send the body without them")
      case .malformed(let refusal): return .refused(status: 400, reason: "\(refusal.reason)")
      case .more:
        open = (request, body)
        return .needsMore
      }
    }
  }
}

extension AdminRequest {
  fileprivate init(_ head: RequestHead, _ bytes: [UInt8], _ fields: FieldTable) {
    func text(_ start: Int, _ count: Int) -> String { String(decoding: bytes[start..<start + count], as: UTF8.self) }
    method = text(head.methodStart, head.methodCount)
    let target = (head.targetNeedsSlash ? "/" : "") + text(head.targetStart, head.targetCount)
    let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    path = String(parts[0])
    parameters =
      parts.count < 2
      ? []
      : parts[1].split(separator: "&").map { pair in
        let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        return (String(sides[0]), sides.count > 1 ? String(sides[1]) : "")
      }
    keepAlive = head.keepAlive
    isHTTP10 = head.isHTTP10
    host = HostName.folded(
      head.authorityCount > 0 ? text(head.authorityStart, head.authorityCount) : text(head.hostStart, head.hostCount))
    isOfPage = bytes.withUnsafeBufferPointer { bytes in
      (0..<fields.count).contains { index in
        let field = fields[index]
        let name = bytes.baseAddress! + field.name
        // Sec-Fetch-Site: none is the user's own doing, an address typed for example (Fetch Metadata 2.3).
        if equalsIgnoringCase(name, field.nameLength, "sec-fetch-site") {
          return !equalsIgnoringCase(bytes.baseAddress! + field.value, field.valueLength, "none")
        }
        return equalsIgnoringCase(name, field.nameLength, "origin")
      }
    }
  }

  /// The whole number that parameter `name` gives, `missing` where it is not there. Other parameters are refused.
  func number(_ name: String, in range: ClosedRange<Int>, missing: Int) throws(AdminError) -> Int {
    var result = missing
    for parameter in parameters {
      guard parameter.name == name else {
        throw AdminError("unknown parameter \(quoted(parameter.name)) of \(path); it has only \(quoted(name))")
      }
      guard let value = Int(parameter.value), range.contains(value) else {
        throw AdminError(
          "\(name)=\(parameter.value) is not a whole number of \(range.lowerBound)...\(range.upperBound)")
      }
      result = value
    }
    return result
  }

  func refuseParameters() throws(AdminError) {
    guard let first = parameters.first else { return }
    throw AdminError("unknown parameter \(quoted(first.name)); \(path) has none")
  }
}
