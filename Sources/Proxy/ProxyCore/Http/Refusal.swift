// What the parsers of this room answer: complete, not yet, or refused and by which rule. One case per rule, each with
// the clause it stands on. The engine turns a refused request into a local reply with `status` and closes; a refused
// response always becomes a 502, whatever the rule.

/// Bounds on one head or trailer section.
package struct HeadLimits: BitwiseCopyable {
  /// Bytes of a whole head, blank line and tolerated leading empty lines included.
  package var headBytes: Int
  /// Bytes of the request target as it came.
  package var targetBytes: Int
  /// Field lines.
  package var fields: Int

  @inline(__always)
  package init(headBytes: Int = 65_536, targetBytes: Int = 16_384, fields: Int = 256) {
    self.headBytes = headBytes
    self.targetBytes = targetBytes
    self.fields = fields
  }
}

package enum HeadVerdict: BitwiseCopyable, Equatable {
  case complete
  /// Every byte so far is right; the end has not come.
  case partial
  case refused(Refusal)
}

package enum Refusal: UInt8, BitwiseCopyable, CaseIterable {
  // Lines.
  case emptyLinesTooMany  // RFC 9112 2.2: at least one empty line before the request line is tolerated; we take four
  case bareCarriageReturn  // RFC 9112 2.2: CR only as part of CRLF
  case bareLineFeed  // RFC 9112 2.2: a lone LF may be taken for a line end; we do not
  case headTooLarge  // RFC 9110 5.4; to requests 431 (RFC 6585 5)
  // Request line.
  case methodInvalid  // RFC 9110 9.1: method = token
  case methodTooLong  // RFC 9112 3: a method longer than any implemented is 501
  case connectUnsupported  // RFC 9110 9.3.6: this is not a tunnel for anyone's choice of destination
  case targetMissing  // RFC 9112 3: single SP between the parts
  case targetInvalid  // RFC 9112 3.2: none of the four forms
  case targetTooLong  // RFC 9112 3: 414
  case authorityInvalid  // RFC 9110 4.2.1: http(s) URI with an empty or malformed authority
  case authorityMismatch  // RFC 9112 3.2: Host must be the target's authority
  case versionMissing  // RFC 9112 3: an HTTP/0.9 request line
  case versionInvalid  // RFC 9112 2.3: HTTP-version = "HTTP" "/" DIGIT "." DIGIT
  case versionUnsupported  // RFC 9110 15.6.6
  // Status line.
  case notHTTP  // RFC 9112 2.3: the first bytes are of some other protocol
  case responseVersionUnsupported  // RFC 9112 2.3: HTTP/1.0 and HTTP/1.1
  case statusLineInvalid  // RFC 9112 4
  case statusInvalid  // RFC 9110 15: 100...599
  case switchingUnasked  // RFC 9110 7.8: 101 only to a request that offered an upgrade
  case switchingInvalid  // RFC 9110 15.2.2: 101 names the protocol and has no content
  case interimsTooMany  // RFC 9110 15.2: a client takes any number; we take 64 at once, then ten a second
  // Fields.
  case fieldsTooMany  // RFC 9110 5.4; to requests 431 (RFC 6585 5)
  case nameInvalid  // RFC 9110 5.1: field-name = token
  case nameEmpty  // RFC 9110 5.1
  case spaceBeforeColon  // RFC 9112 5.1: no whitespace between name and colon
  case colonMissing  // RFC 9112 5
  case foldedLine  // RFC 9112 5.2 obs-fold, and 2.2 whitespace before the first field
  case valueInvalid  // RFC 9110 5.5: CR, LF, NUL and other controls
  case connectionOptionsTooMany  // RFC 9110 7.6.1: each one costs a look at each field
  // Host.
  case hostMissing  // RFC 9112 3.2
  case hostRepeated  // RFC 9112 3.2
  case hostInvalid  // RFC 9110 7.2, RFC 3986 3.2.2
  // Framing.
  case lengthInvalid  // RFC 9112 6.3 (5): 1*DIGIT below 2^63, no list
  case lengthRepeated  // RFC 9112 6.3 (5): refused even where the values agree
  case lengthsDiffer  // RFC 9112 6.3 (5)
  case lengthWithTransferCoding  // RFC 9112 6.3 (3)
  case transferCodingRepeated  // RFC 9112 6.1: several fields, even if they would make one legal list
  case transferCodingInvalid  // RFC 9112 6.3 (4): chunked is not the final coding, or no list of codings at all
  case transferCodingUnsupported  // RFC 9112 6.1: codings other than chunked are 501
  case transferCodingInOldVersion  // RFC 9112 6.1: with HTTP/1.0 the framing is faulty
  // Chunks.
  case chunkSizeInvalid  // RFC 9112 7.1: 1*HEXDIG
  case chunkSizeTooLarge  // RFC 9112 7.1: anticipate overflow, also the next reader's
  case chunkSizeTooLong  // RFC 9112 7.1: anticipate what readers of many digits do
  case chunkExtensionInvalid  // RFC 9112 7.1.1
  case chunkLineTooLong  // RFC 9112 7.1.1: limit the total length of chunk extensions
  case chunkExtensionsTooLong  // RFC 9112 7.1.1, over the whole message
  case chunkLineEndInvalid  // RFC 9112 7.1: CRLF and nothing else
  case chunkDataEndInvalid  // RFC 9112 7.1: chunk-data is followed by CRLF

  /// The status to answer a request with. Those of a status line are a replica's fault: 502.
  package var status: UInt16 {
    switch self {
    case .methodTooLong, .connectUnsupported, .transferCodingUnsupported: 501
    case .targetTooLong: 414
    case .versionUnsupported: 505
    case .headTooLarge, .fieldsTooMany, .connectionOptionsTooMany: 431
    case .notHTTP, .responseVersionUnsupported, .statusLineInvalid, .statusInvalid, .switchingUnasked,
      .switchingInvalid, .interimsTooMany:
      502
    case .emptyLinesTooMany, .bareCarriageReturn, .bareLineFeed, .methodInvalid, .targetMissing, .targetInvalid,
      .authorityInvalid, .authorityMismatch, .versionMissing, .versionInvalid, .nameInvalid, .nameEmpty,
      .spaceBeforeColon, .colonMissing, .foldedLine, .valueInvalid, .hostMissing, .hostRepeated, .hostInvalid,
      .lengthInvalid, .lengthRepeated, .lengthsDiffer, .lengthWithTransferCoding, .transferCodingRepeated,
      .transferCodingInvalid,
      .transferCodingInOldVersion, .chunkSizeInvalid, .chunkSizeTooLarge, .chunkSizeTooLong, .chunkExtensionInvalid,
      .chunkLineTooLong, .chunkExtensionsTooLong,
      .chunkLineEndInvalid, .chunkDataEndInvalid:
      400
    }
  }

  /// For people and logs: what was wrong, and the clause.
  package var reason: StaticString {
    switch self {
    case .emptyLinesTooMany: "too many empty lines before the request (RFC 9112 2.2)"
    case .bareCarriageReturn: "CR without LF (RFC 9112 2.2)"
    case .bareLineFeed: "LF without CR (RFC 9112 2.2)"
    case .headTooLarge: "head too large (RFC 9110 5.4)"
    case .methodInvalid: "method is not a token (RFC 9110 9.1)"
    case .methodTooLong: "method too long (RFC 9112 3)"
    case .connectUnsupported: "CONNECT is not supported (RFC 9110 9.3.6)"
    case .targetMissing: "request target missing (RFC 9112 3)"
    case .targetInvalid: "request target has none of the allowed forms (RFC 9112 3.2)"
    case .targetTooLong: "request target too long (RFC 9112 3)"
    case .authorityInvalid: "authority of the request target invalid (RFC 9110 4.2.1)"
    case .authorityMismatch: "Host differs from the authority of the request target (RFC 9112 3.2)"
    case .versionMissing: "HTTP version missing (RFC 9112 3)"
    case .versionInvalid: "HTTP version malformed (RFC 9112 2.3)"
    case .versionUnsupported: "HTTP version not supported (RFC 9110 15.6.6)"
    case .notHTTP: "not HTTP, the first bytes are of some other protocol (RFC 9112 2.3)"
    case .responseVersionUnsupported: "the version of the response is neither HTTP/1.1 nor HTTP/1.0 (RFC 9112 2.3)"
    case .statusLineInvalid: "status line malformed (RFC 9112 4)"
    case .statusInvalid: "status code out of range (RFC 9110 15)"
    case .switchingUnasked: "101 without an upgrade offered (RFC 9110 7.8)"
    case .switchingInvalid: "101 without a usable Upgrade field, or with content (RFC 9110 15.2.2)"
    case .interimsTooMany: "more interim responses than one every 100 ms (RFC 9110 15.2)"
    case .fieldsTooMany: "too many fields (RFC 9110 5.4)"
    case .nameInvalid: "field name is not a token (RFC 9110 5.1)"
    case .nameEmpty: "field name empty (RFC 9110 5.1)"
    case .spaceBeforeColon: "whitespace between field name and colon (RFC 9112 5.1)"
    case .colonMissing: "field line without a colon (RFC 9112 5)"
    case .foldedLine: "folded line (obs-fold): it begins with whitespace (RFC 9112 5.2)"
    case .valueInvalid: "control character in a line (RFC 9110 5.5)"
    case .connectionOptionsTooMany: "too many connection options (RFC 9110 7.6.1)"
    case .hostMissing: "Host missing (RFC 9112 3.2)"
    case .hostRepeated: "more than one Host (RFC 9112 3.2)"
    case .hostInvalid: "Host malformed (RFC 9110 7.2)"
    case .lengthInvalid: "content-length malformed (RFC 9112 6.3)"
    case .lengthRepeated: "two content-length fields with the same value (RFC 9112 6.3)"
    case .lengthsDiffer: "two content-length fields that differ (RFC 9112 6.3)"
    case .lengthWithTransferCoding: "content-length and transfer-encoding together (RFC 9112 6.3)"
    case .transferCodingRepeated: "more than one transfer-encoding (RFC 9112 6.1)"
    case .transferCodingInvalid: "transfer-encoding malformed or not ending in chunked (RFC 9112 6.3)"
    case .transferCodingUnsupported: "transfer-encoding other than chunked (RFC 9112 6.1)"
    case .transferCodingInOldVersion: "transfer-encoding in an HTTP/1.0 message (RFC 9112 6.1)"
    case .chunkSizeInvalid: "chunk size malformed (RFC 9112 7.1)"
    case .chunkSizeTooLarge: "chunk size of 2 GiB or more (RFC 9112 7.1)"
    case .chunkSizeTooLong: "chunk size of more than eight digits (RFC 9112 7.1)"
    case .chunkExtensionInvalid: "chunk extension malformed (RFC 9112 7.1.1)"
    case .chunkLineTooLong: "chunk line too long (RFC 9112 7.1.1)"
    case .chunkExtensionsTooLong: "chunk extensions too long in all (RFC 9112 7.1.1)"
    case .chunkLineEndInvalid: "chunk line does not end in CRLF (RFC 9112 7.1)"
    case .chunkDataEndInvalid: "chunk data not followed by CRLF (RFC 9112 7.1)"
    }
  }
}
