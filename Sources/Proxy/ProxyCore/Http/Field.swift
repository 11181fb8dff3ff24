// Field lines: one reader shared by request heads, response heads and trailer sections, which finds the next line,
// checks its syntax and tells the fields the proxy cares about from the rest. It knows nothing of what they mean.

/// The fields whose presence changes what the proxy does. The raw value is the field's bit in `FieldKinds`.
package enum FieldKind: UInt8, BitwiseCopyable {
  case other
  case host, contentLength, transferEncoding
  case connection, keepAlive, proxyConnection, proxyAuthorization, te, trailer, upgrade
  case expect, maxForwards
  case forwarded, xForwardedFor, xForwardedProto, xForwardedHost, via, xRequestId
}

/// Which kinds a head holds.
package struct FieldKinds: BitwiseCopyable {
  private var bits: UInt32 = 0
  @inline(__always) package init() {}
  @inline(__always)
  package func contains(_ kind: FieldKind) -> Bool { bits & 1 &<< UInt32(kind.rawValue) != 0 }
  @inline(__always)
  mutating func insert(_ kind: FieldKind) { bits |= 1 &<< UInt32(kind.rawValue) }
}

/// One field line, as offsets in bytes from the start of the memory that was parsed.
package struct Field: BitwiseCopyable {
  package var nameStart: UInt32
  package var nameCount: UInt32
  /// The value without the blanks around it (RFC 9112 5.1).
  package var valueStart: UInt32
  package var valueCount: UInt32
  package var kind: FieldKind
  /// Named by a Connection field, hence not to be forwarded (RFC 9110 7.6.1). Never set for Host and the framing
  /// fields: a sender could take away what the next recipient needs to find the message's end.
  package var isNominated: Bool

  @inline(__always)
  init(nameStart: Int, nameCount: Int, valueStart: Int, valueCount: Int, kind: FieldKind) {
    self.nameStart = UInt32(truncatingIfNeeded: nameStart)
    self.nameCount = UInt32(truncatingIfNeeded: nameCount)
    self.valueStart = UInt32(truncatingIfNeeded: valueStart)
    self.valueCount = UInt32(truncatingIfNeeded: valueCount)
    self.kind = kind
    isNominated = false
  }

  @inline(__always) var name: Int { Int(truncatingIfNeeded: nameStart) }
  @inline(__always) var nameLength: Int { Int(truncatingIfNeeded: nameCount) }
  @inline(__always) var value: Int { Int(truncatingIfNeeded: valueStart) }
  @inline(__always) var valueLength: Int { Int(truncatingIfNeeded: valueCount) }
}

/// The fields of the head last parsed: scratch of the caller, one per worker, valid until the next parse.
package struct FieldTable: BitwiseCopyable {
  package let base: UnsafeMutablePointer<Field>
  package let capacity: Int
  package var count: Int

  @inline(__always)
  package init(base: UnsafeMutablePointer<Field>, capacity: Int) {
    self.base = base
    self.capacity = capacity
    count = 0
  }

  /// At start-up only. Never freed unless `deallocate` is called.
  package static func allocate(capacity: Int) -> FieldTable {
    FieldTable(base: .allocate(capacity: capacity), capacity: capacity)
  }
  package func deallocate() { base.deallocate() }

  @inline(__always)
  package subscript(index: Int) -> Field {
    get {
      precondition(index >= 0 && index < count, "a field that was not parsed")
      return base[index]
    }
    nonmutating set {
      precondition(index >= 0 && index < count, "a field that was not parsed")
      base[index] = newValue
    }
  }

  /// Where the line after field `index` begins: the next field, or the blank line at `end`.
  @inline(__always)
  func lineEnd(_ index: Int, _ end: Int) -> Int { index &+ 1 < count ? self[index &+ 1].name : end }
}

enum FieldStep: BitwiseCopyable {
  /// A field of a kind that matters was read; it is the table's last.
  case field(FieldKind)
  /// The blank line was read.
  case end
  case partial
  case refused(Refusal)
}

/// Reads lines from `at` of `bytes[..<count]` on, up to and with the first field that is not `.other`, or the blank
/// line; adds the fields to the table and moves `at` behind what was read. Refuses at the first octet that cannot be
/// part of a line. (One call for a run of plain fields: they are most, and share what a call has to set up.)
@inline(__always)
func nextField(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int, limit: Int, fields: inout FieldTable
) -> FieldStep {
  let base = fields.base
  let capacity = min(limit, fields.capacity)
  var index = fields.count
  defer { fields.count = index }
  var start = at
  while true {
    // From the line's start and not from its colon: the next line's place then waits for one scan, not for two.
    let stop = endOfText(bytes, start, count)
    let colon = endOfToken(bytes, start, count)
    guard colon < count else { return .partial }
    guard bytes[colon] == Ascii.colon, colon > start else {
      at = start
      return notAField(bytes, count, at: &at, stop: colon)
    }
    guard index < capacity else { return .refused(.fieldsTooMany) }
    var value = colon &+ 1
    while value < stop, isBlank(bytes[value]) { value &+= 1 }
    guard stop < count else { return .partial }
    guard bytes[stop] == Ascii.carriageReturn else {
      return .refused(bytes[stop] == Ascii.lineFeed ? .bareLineFeed : .valueInvalid)
    }
    guard stop &+ 1 < count else { return .partial }
    guard bytes[stop &+ 1] == Ascii.lineFeed else { return .refused(.bareCarriageReturn) }
    var end = stop
    while end > value, isBlank(bytes[end &- 1]) { end &-= 1 }
    let kind = fieldKind(bytes + start, colon &- start)
    base[index] = Field(
      nameStart: start, nameCount: colon &- start, valueStart: value, valueCount: end &- value, kind: kind)
    index &+= 1
    start = stop &+ 2
    guard kind == .other else {
      at = start
      return .field(kind)
    }
  }
}

/// The line at `at` is not a name followed by a colon: its tchars end at `stop`, before `count`.
@inline(never)
private func notAField(_ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int, stop: Int) -> FieldStep {
  let byte = bytes[stop]
  if stop == at {
    if byte == Ascii.carriageReturn {
      guard stop &+ 1 < count else { return .partial }
      guard bytes[stop &+ 1] == Ascii.lineFeed else { return .refused(.bareCarriageReturn) }
      at = stop &+ 2
      return .end
    }
    if byte == Ascii.lineFeed { return .refused(.bareLineFeed) }
    if isBlank(byte) { return .refused(.foldedLine) }
    return .refused(byte == Ascii.colon ? .nameEmpty : .nameInvalid)
  }
  if isBlank(byte) { return .refused(.spaceBeforeColon) }
  if byte == Ascii.carriageReturn || byte == Ascii.lineFeed { return .refused(.colonMissing) }
  return .refused(.nameInvalid)
}

/// Which field a name (a token) is: by its length first, so that most names cost one jump.
@inline(__always)
func fieldKind(_ name: UnsafePointer<UInt8>, _ count: Int) -> FieldKind {
  switch count {
  case 2: equalsIgnoringCase(name, count, "te") ? .te : .other
  case 3: equalsIgnoringCase(name, count, "via") ? .via : .other
  case 4: nameEquals(name, count, "host") ? .host : .other
  case 6: nameEquals(name, count, "expect") ? .expect : .other
  case 7:
    if nameEquals(name, count, "upgrade") { .upgrade } else { nameEquals(name, count, "trailer") ? .trailer : .other }
  case 9: nameEquals(name, count, "forwarded") ? .forwarded : .other
  case 10:
    if nameEquals(name, count, "connection") {
      .connection
    } else {
      nameEquals(name, count, "keep-alive") ? .keepAlive : .other
    }
  case 12:
    if nameEquals(name, count, "x-request-id") {
      .xRequestId
    } else {
      nameEquals(name, count, "max-forwards") ? .maxForwards : .other
    }
  case 14: nameEquals(name, count, "content-length") ? .contentLength : .other
  case 15: nameEquals(name, count, "x-forwarded-for") ? .xForwardedFor : .other
  case 16:
    if nameEquals(name, count, "x-forwarded-host") {
      .xForwardedHost
    } else {
      nameEquals(name, count, "proxy-connection") ? .proxyConnection : .other
    }
  case 17:
    if nameEquals(name, count, "transfer-encoding") {
      .transferEncoding
    } else {
      nameEquals(name, count, "x-forwarded-proto") ? .xForwardedProto : .other
    }
  case 19: nameEquals(name, count, "proxy-authorization") ? .proxyAuthorization : .other
  default: .other
  }
}

// MARK: - Connection

/// What the Connection fields of a head say (RFC 9110 7.6.1).
struct ConnectionOptions: BitwiseCopyable {
  var close = false
  var keepAlive = false
  var upgrade = false
  /// Options that may name a field of this head.
  var nominations = 0

  /// More is refused: every one of them is compared with every field.
  static var nominationsMax: Int { @inline(__always) get { 64 } }

  @inline(__always) init() {}

  /// Takes in the Connection field last read.
  @inline(__always)
  mutating func add(_ bytes: UnsafePointer<UInt8>, _ field: Field) {
    if field.valueLength == 10, nameEquals(bytes + field.value, 10, "keep-alive") {
      keepAlive = true
    } else if field.valueLength == 5, nameEquals(bytes + field.value, 5, "close") {
      close = true
    } else {
      addList(bytes, field)
    }
  }

  @inline(never)
  private mutating func addList(_ bytes: UnsafePointer<UInt8>, _ field: Field) {
    var list = ListWalk(field.value, field.valueLength)
    while list.next(bytes) {
      let option = bytes + list.start
      switch list.count {
      case 0: break
      case 2 where equalsIgnoringCase(option, 2, "te"): break
      case 5 where equalsIgnoringCase(option, 5, "close"): close = true
      case 7 where equalsIgnoringCase(option, 7, "upgrade"): upgrade = true
      case 10 where equalsIgnoringCase(option, 10, "keep-alive"): keepAlive = true
      default: nominations &+= 1
      }
    }
  }

  /// Marks the fields that the options name. Host, Content-Length and Transfer-Encoding cannot be named away.
  @inline(never)
  func nominate(_ bytes: UnsafePointer<UInt8>, _ fields: FieldTable) {
    var index = 0
    while index < fields.count {
      let field = fields[index]
      index &+= 1
      guard field.kind == .connection else { continue }
      var list = ListWalk(field.value, field.valueLength)
      while list.next(bytes) {
        guard list.count > 0 else { continue }
        var other = 0
        while other < fields.count {
          var named = fields[other]
          switch named.kind {
          case .host, .contentLength, .transferEncoding, .te, .upgrade: break
          case .other, .connection, .keepAlive, .proxyConnection, .proxyAuthorization, .trailer, .expect, .maxForwards,
            .forwarded, .xForwardedFor, .xForwardedProto, .xForwardedHost, .via, .xRequestId:
            if equalsIgnoringCase(bytes + list.start, list.count, bytes + named.name, named.nameLength) {
              named.isNominated = true
              fields[other] = named
            }
          }
          other &+= 1
        }
      }
    }
  }
}

/// Whether an element of an Upgrade field names a protocol we pass on: token [ "/" token ] (RFC 9110 7.8), but never
/// HTTP itself, in clear (h2c) or by name: the proxy could not follow what is said after that.
func isForwardableProtocol(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Bool {
  let name = endOfToken(bytes, 0, count)
  guard name > 0 else { return false }
  if equalsIgnoringCase(bytes, name, "h2c") || equalsIgnoringCase(bytes, name, "http") { return false }
  guard name < count else { return true }
  return bytes[name] == Ascii.slash && name &+ 1 < count && endOfToken(bytes, name &+ 1, count) == count
}

func hasForwardableProtocol(_ bytes: UnsafePointer<UInt8>, _ fields: FieldTable) -> Bool {
  var index = 0
  while index < fields.count {
    let field = fields[index]
    index &+= 1
    guard field.kind == .upgrade else { continue }
    var list = ListWalk(field.value, field.valueLength)
    while list.next(bytes) {
      if isForwardableProtocol(bytes + list.start, list.count) { return true }
    }
  }
  return false
}
