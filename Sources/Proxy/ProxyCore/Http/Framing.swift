// How a message's end is known (RFC 9112 6.3). Parsers gather what the framing fields say in `FramingFields`, then ask
// for the verdict of a request or a response. Pure: a decision from values to values.

/// How the end of a message's content is known.
package enum BodyFraming: UInt8, BitwiseCopyable {
  case none, length, chunked
  /// Responses only: the replica's end of stream is the end.
  case untilClose
}

/// 1*DIGIT below 2^63, or nil. Leading zeros are allowed.
@inline(__always)
func parseDecimal(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> UInt64? {
  guard count > 0 else { return nil }
  var value: UInt64 = 0
  var index = 0
  while index < count {
    let digit = bytes[index] &- Ascii.zero
    // (2^63 - 1) / 10 is 922337203685477580 and leaves 7.
    guard digit < 10, value < 922_337_203_685_477_580 || (value == 922_337_203_685_477_580 && digit <= 7) else {
      return nil
    }
    value = value &* 10 &+ UInt64(digit)
    index &+= 1
  }
  return value
}

/// What a Transfer-Encoding value amounts to.
enum TransferCoding: UInt8, BitwiseCopyable {
  case absent
  case chunked
  /// A legal list that ends in chunked, with codings we do not implement before it.
  case unsupported
  /// Not a list of codings, or the end of the content cannot be known from it.
  case invalid
}

/// Transfer-Encoding = #transfer-coding; transfer-coding = token *( OWS ";" OWS parameter ) (RFC 9110 10.1.4). Empty
/// list elements are refused although a recipient could skip them: only attacks have them.
func parseTransferCoding(_ bytes: UnsafePointer<UInt8>, _ start: Int, _ count: Int) -> TransferCoding {
  if equalsIgnoringCase(bytes + start, count, "chunked") { return .chunked }
  var list = ListWalk(start, count)
  var endsInChunked = false
  while list.next(bytes) {
    let coding = bytes + list.start
    let name = endOfToken(coding, 0, list.count)
    guard name > 0, !endsInChunked else { return .invalid }
    if name == list.count {
      endsInChunked = equalsIgnoringCase(coding, name, "chunked")
    } else {
      var parameter = name
      while parameter < list.count, isBlank(coding[parameter]) { parameter &+= 1 }
      // Parameters of codings we refuse anyway are looked at no further; chunked has none (RFC 9112 7.1).
      guard parameter < list.count, coding[parameter] == Ascii.semicolon,
        !equalsIgnoringCase(coding, name, "chunked")
      else { return .invalid }
    }
  }
  return endsInChunked ? .unsupported : .invalid
}

/// What the framing fields of one head say, filled while it is read.
struct FramingFields: BitwiseCopyable {
  var length: UInt64 = 0
  var hasLength = false
  var coding = TransferCoding.absent

  @inline(__always) init() {}

  /// Takes in a Content-Length field. Nil: fine so far.
  @inline(__always)
  mutating func addLength(_ bytes: UnsafePointer<UInt8>, _ field: Field) -> Refusal? {
    guard let value = parseDecimal(bytes + field.value, field.valueLength) else { return .lengthInvalid }
    guard !hasLength else { return value == length ? .lengthRepeated : .lengthsDiffer }
    hasLength = true
    length = value
    return nil
  }

  /// Takes in a Transfer-Encoding field. Its value is judged at the end of the head: together with Content-Length it
  /// is refused whatever it says.
  @inline(__always)
  mutating func addCoding(_ bytes: UnsafePointer<UInt8>, _ field: Field) -> Refusal? {
    guard coding == .absent else { return .transferCodingRepeated }
    coding = parseTransferCoding(bytes, field.value, field.valueLength)
    return nil
  }

  /// What is wrong with them together, in requests and responses alike.
  @inline(__always)
  func refusal(isHTTP10: Bool) -> Refusal? {
    switch coding {
    case .absent: return nil
    case .chunked, .unsupported, .invalid:
      if hasLength { return .lengthWithTransferCoding }
      if isHTTP10 { return .transferCodingInOldVersion }
    }
    switch coding {
    case .absent, .chunked: return nil
    case .unsupported: return .transferCodingUnsupported
    case .invalid: return .transferCodingInvalid
    }
  }
}
