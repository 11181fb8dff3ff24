// What the proxy answers itself: a status, a JSON body in the shape LLM clients already parse
// ({"error": {"message", "type", "code"}}), and what to do about it.

package enum LocalReply: BitwiseCopyable, Equatable {
  case refused(Refusal)
  /// The head did not come in time (RFC 9110 15.5.9).
  case headTimeout
  /// The request body stopped coming.
  case bodyTimeout
  case bodyTooLarge
  case tooManyConnections
  case outOfMemory
  /// No descriptor is left for a connection to the replica.
  case outOfDescriptors
  /// No local port is left towards the replica.
  case outOfPorts
  /// The request's body waited for a replica to take it, and the memory was needed.
  case bodyShed
  /// No replica is in the list, or none is ready.
  case noReplica
  /// Every replica that was tried refuses connections.
  case allRefuse
  case queueFull
  case queueTimeout
  /// The replica closed, or answered nonsense, before a response.
  case replicaFailed
  case replicaMalformed(Refusal)
  /// The replica was taken off the list, and its time to finish is over.
  case replicaWithdrawn
  case connectTimeout
  /// No response head in time.
  case replicaTimeout
  /// OPTIONS or TRACE that may go no further (Max-Forwards: 0).
  case optionsHere
  case traceHere
  /// The request's chunked body is malformed.
  case bodyMalformed(Refusal)

  package init(refusal: Refusal) { self = .refused(refusal) }

  package var status: UInt16 {
    switch self {
    case .refused(let refusal), .bodyMalformed(let refusal): refusal.status
    case .headTimeout, .bodyTimeout: 408
    case .bodyTooLarge: 413
    case .tooManyConnections, .outOfMemory, .outOfDescriptors, .outOfPorts, .bodyShed, .noReplica, .allRefuse,
      .queueFull, .queueTimeout, .connectTimeout:
      503
    case .replicaFailed, .replicaMalformed, .replicaWithdrawn: 502
    case .replicaTimeout: 504
    case .optionsHere: 204
    case .traceHere: 501
    }
  }

  /// What a person or a client library reads. No quotes or backslashes: they go into JSON as they are.
  package var message: StaticString {
    switch self {
    case .refused(let refusal), .bodyMalformed(let refusal): refusal.reason
    case .headTimeout: "the request head did not arrive in time"
    case .bodyTimeout: "the request body stopped arriving"
    case .bodyTooLarge: "the request body is larger than --max-body-bytes allows"
    case .tooManyConnections: "the proxy has as many connections as --max-connections allows; retry shortly"
    case .outOfMemory: "the proxy has no memory left for this request now; retry shortly"
    case .outOfDescriptors: "the proxy has no descriptor left for a connection to a replica; retry shortly"
    case .outOfPorts: "the proxy has no local port left for a connection to a replica; retry shortly"
    case .bodyShed: "the proxy cannot hold this body until a replica takes it; retry shortly"
    case .noReplica: "no replica is ready to serve this request; retry shortly"
    case .allRefuse: "every replica that was tried refuses connections; retry shortly"
    case .queueFull: "all replicas are at their limit and the queue is full; retry shortly"
    case .queueTimeout: "no replica became free in time; retry shortly"
    case .replicaFailed: "the replica closed the connection before it answered"
    case .replicaMalformed(let refusal): refusal.reason
    case .replicaWithdrawn: "the replica was taken out of service before it answered"
    case .connectTimeout: "the replica did not take the connection in time; retry shortly"
    case .replicaTimeout: "the replica did not answer in time"
    case .optionsHere: ""
    case .traceHere: "this proxy does not answer TRACE itself (RFC 9110 7.6.2)"
    }
  }

  private var type: StaticString {
    switch status {
    case 502: "bad_gateway"
    case 503: "service_unavailable"
    case 504: "gateway_timeout"
    case 500...: "not_supported"
    default: "invalid_request_error"
    }
  }

  private var reasonPhrase: StaticString {
    switch status {
    case 204: "No Content"
    case 400: "Bad Request"
    case 408: "Request Timeout"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 417: "Expectation Failed"
    case 431: "Request Header Fields Too Large"
    case 501: "Not Implemented"
    case 502: "Bad Gateway"
    case 503: "Service Unavailable"
    case 504: "Gateway Timeout"
    case 505: "HTTP Version Not Supported"
    default: "Error"
    }
  }

  /// Whether the client's connection can go on behind this answer, if its request has been read: not where the proxy
  /// has lost its place in what the client sends, nor where it is the connection that is too much.
  package var leavesConnection: Bool {
    switch self {
    case .outOfMemory, .outOfDescriptors, .outOfPorts, .noReplica, .allRefuse, .queueFull, .queueTimeout,
      .replicaFailed, .replicaMalformed, .replicaWithdrawn, .connectTimeout, .replicaTimeout, .optionsHere, .traceHere:
      true
    case .refused, .headTimeout, .bodyTimeout, .bodyTooLarge, .tooManyConnections, .bodyShed, .bodyMalformed: false
    }
  }

  /// Said before `message` where that is only the clause that was broken.
  private var prefix: StaticString {
    switch self {
    case .replicaMalformed: "the replica sent a malformed response: "
    default: ""
    }
  }

  /// Writes the whole response, at most 1,024 bytes, and returns its length. `headOnly`: the request was HEAD, so there
  /// is no body (RFC 9110 9.3.2). `closes`: with `Connection: close`; the default of HTTP/1.1 is that it goes on.
  package func write(into out: UnsafeMutablePointer<UInt8>, capacity: Int, headOnly: Bool, closes: Bool) -> Int {
    precondition(capacity >= 1024, "a local reply needs a small block")
    var writer = ReplyWriter(out: out)
    // The body goes behind the head, whose length field must know its size: sizes are known from the parts.
    let message = message
    let type = type
    let prefix = prefix
    let bodyCount = 46 + prefix.utf8CodeUnitCount + message.utf8CodeUnitCount + type.utf8CodeUnitCount
    writer.put("HTTP/1.1 ")
    writer.put(number: Int(status))
    writer.put(" ")
    writer.put(reasonPhrase)
    if status == 204 {
      if closes { writer.put("\r\nConnection: close") }
      writer.put("\r\n\r\n")
      return writer.count
    }
    writer.put("\r\nContent-Type: application/json\r\nContent-Length: ")
    writer.put(number: bodyCount)
    if status == 503 { writer.put("\r\nRetry-After: 1") }
    if closes { writer.put("\r\nConnection: close") }
    writer.put("\r\n\r\n")
    if headOnly { return writer.count }
    let head = writer.count
    writer.put("{\"error\":{\"message\":\"")
    writer.put(prefix)
    writer.put(message)
    writer.put("\",\"type\":\"")
    writer.put(type)
    writer.put("\",\"code\":")
    writer.put(number: Int(status))
    writer.put("}}\n")
    precondition(writer.count - head == bodyCount, "the length of a local reply is miscounted")
    return writer.count
  }
}

private struct ReplyWriter: BitwiseCopyable {
  let out: UnsafeMutablePointer<UInt8>
  var count = 0

  mutating func put(_ text: StaticString) {
    UnsafeMutableRawPointer(out + count).copyMemory(from: text.utf8Start, byteCount: text.utf8CodeUnitCount)
    count += text.utf8CodeUnitCount
  }

  mutating func put(number: Int) {
    var divisor = 1
    while number / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      out[count] = 0x30 + UInt8(number / divisor % 10)
      count += 1
      divisor /= 10
    }
  }
}
