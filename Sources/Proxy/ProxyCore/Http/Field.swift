// Field lines: one reader shared by request heads, response heads and trailer sections, which finds the next line,
// checks its syntax and tells the fields the proxy cares about from the rest. It knows nothing of what they mean.

/// The fields whose presence changes what the proxy does. The raw value is the field's bit in `FieldKinds`. A new field
/// is a case here and a row in `rule`; what is read from its value has its place in the parser that needs it.
package enum FieldKind: UInt8, BitwiseCopyable, CaseIterable {
  case other
  case host, contentLength, transferEncoding
  case connection, keepAlive, proxyConnection, proxyAuthorization, te, trailer, upgrade
  case expect, maxForwards
  case forwarded, xForwardedFor, xForwardedProto, xForwardedHost, xRealIP, via, xRequestId
  /// Any other X-Forwarded-…: -Port, -Ssl, -Prefix and more that some server or other believes.
  case xForwardedOther
  /// One of the X-Forwarded fields or X-Real-IP with "_" for a "-": a server that makes variables of names (CGI, WSGI)
  /// sees one field in both.
  case forwardedTwin
  /// The same of X-Request-Id.
  case requestIdTwin
}

/// What becomes of a field where its message goes on.
enum FieldFate: UInt8, BitwiseCopyable {
  case passes
  /// For this hop only (RFC 9110 7.6.1).
  case stops
  /// A client's word on where it comes from: goes on unless we say it ourselves (`ForwardedMode.replace`).
  case claim
  /// Goes on only where we say nothing about forwarding (`ForwardedMode.off`).
  case stopsWhereForwarding
  /// The writer looks at the value or at the rest of the head.
  case judged
}

/// The table of fields: one row each.
struct FieldRule: BitwiseCopyable {
  /// In lower case; empty: several names, which `fieldKind` tells.
  let name: StaticString
  let request: FieldFate
  let response: FieldFate
  /// Whether a Connection field can name it away.
  let isNominable: Bool

  @inline(__always)
  init(_ name: StaticString, request: FieldFate, response: FieldFate, isNominable: Bool = true) {
    self.name = name
    self.request = request
    self.response = response
    self.isNominable = isNominable
  }
}

extension FieldKind {
  /// In trailers there is none of them (see `isTrailerAllowed`).
  @inline(__always)
  var rule: FieldRule {
    switch self {
    case .other: FieldRule("", request: .passes, response: .passes)
    case .host: FieldRule("host", request: .judged, response: .passes, isNominable: false)
    case .contentLength: FieldRule("content-length", request: .judged, response: .judged, isNominable: false)
    case .transferEncoding: FieldRule("transfer-encoding", request: .judged, response: .judged, isNominable: false)
    case .connection: FieldRule("connection", request: .stops, response: .stops)
    case .keepAlive: FieldRule("keep-alive", request: .stops, response: .stops)
    case .proxyConnection: FieldRule("proxy-connection", request: .stops, response: .stops)
    case .proxyAuthorization: FieldRule("proxy-authorization", request: .stops, response: .passes)
    case .te: FieldRule("te", request: .stops, response: .stops, isNominable: false)
    case .trailer: FieldRule("trailer", request: .passes, response: .judged)
    case .upgrade: FieldRule("upgrade", request: .stops, response: .judged, isNominable: false)
    case .expect: FieldRule("expect", request: .judged, response: .passes)
    case .maxForwards: FieldRule("max-forwards", request: .judged, response: .passes)
    case .forwarded: FieldRule("forwarded", request: .claim, response: .passes)
    case .xForwardedFor: FieldRule("x-forwarded-for", request: .judged, response: .passes)
    case .xForwardedProto: FieldRule("x-forwarded-proto", request: .claim, response: .passes)
    case .xForwardedHost: FieldRule("x-forwarded-host", request: .claim, response: .passes)
    case .xRealIP: FieldRule("x-real-ip", request: .claim, response: .passes)
    case .via: FieldRule("via", request: .passes, response: .passes)
    case .xRequestId: FieldRule("x-request-id", request: .judged, response: .passes)
    case .xForwardedOther: FieldRule("", request: .claim, response: .passes)
    case .forwardedTwin: FieldRule("", request: .stopsWhereForwarding, response: .passes)
    case .requestIdTwin: FieldRule("", request: .stops, response: .passes)
    }
  }
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
  /// Blanks stand before its colon, and must not go on (RFC 9112 5.1). Responses only.
  let isSpaced: Bool

  /// The line that begins at `name`; its value lies between the colon and `lineEnd`.
  @inline(__always)
  init(_ bytes: UnsafePointer<UInt8>, name: Int, nameEnd: Int, colon: Int, lineEnd: Int, kind: FieldKind) {
    var value = colon &+ 1
    while value < lineEnd, isBlank(bytes[value]) { value &+= 1 }
    var end = lineEnd
    while end > value, isBlank(bytes[end &- 1]) { end &-= 1 }
    nameStart = UInt32(truncatingIfNeeded: name)
    nameCount = UInt32(truncatingIfNeeded: nameEnd &- name)
    valueStart = UInt32(truncatingIfNeeded: value)
    valueCount = UInt32(truncatingIfNeeded: end &- value)
    self.kind = kind
    isSpaced = colon != nameEnd
    isNominated = false
  }

  /// Its line goes on as it is, whatever the rest of the head says.
  @inline(__always) var isPlain: Bool { kind == .other && !isNominated && !isSpaced }

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
  let names: FieldNames

  /// At start-up only. Never freed unless `deallocate` is called.
  package static func allocate(capacity: Int) -> FieldTable {
    FieldTable(base: .allocate(capacity: capacity), capacity: capacity, count: 0, names: .allocate())
  }
  package func deallocate() {
    base.deallocate()
    names.deallocate()
  }

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
  /// A field was read of a kind that matters, or one that is spaced; it is the table's last.
  case field(FieldKind)
  /// The blank line was read.
  case end
  case partial
  case refused(Refusal)
}

/// Reads lines from `at` of `bytes[..<count]` on, up to and with the first field that is not `.other`, or the blank
/// line; adds the fields to the table and moves `at` behind what was read. Refuses at the first octet that cannot be
/// part of a line. (One call for a run of plain fields: they are most, and share what a call has to set up.)
/// `inResponse`: blanks before a colon are left out by the writer, not refused (RFC 9112 5.1).
@inline(__always)
func nextField(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int, limit: Int, inResponse: Bool, fields: inout FieldTable
) -> FieldStep {
  let base = fields.base
  let names = fields.names
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
      guard inResponse, colon > start, isBlank(bytes[colon]) else {
        return notAField(bytes, count, at: &at, stop: colon)
      }
      guard index < capacity else { return .refused(.fieldsTooMany) }
      let step = spacedField(bytes, count, at: &at, stop: colon, lineEnd: stop, names, into: base + index)
      if case .field = step { index &+= 1 }
      return step
    }
    guard index < capacity else { return .refused(.fieldsTooMany) }
    if let step = noLineEnd(bytes, count, stop) { return step }
    let kind = names.kind(of: bytes + start, colon &- start)
    base[index] = Field(bytes, name: start, nameEnd: colon, colon: colon, lineEnd: stop, kind: kind)
    index &+= 1
    start = stop &+ 2
    guard kind == .other else {
      at = start
      return .field(kind)
    }
  }
}

/// Nil: CRLF stands at `stop`, the first octet that a line cannot hold.
@inline(__always)
private func noLineEnd(_ bytes: UnsafePointer<UInt8>, _ count: Int, _ stop: Int) -> FieldStep? {
  guard stop < count else { return .partial }
  guard bytes[stop] == Ascii.carriageReturn else {
    return .refused(bytes[stop] == Ascii.lineFeed ? .bareLineFeed : .valueInvalid)
  }
  guard stop &+ 1 < count else { return .partial }
  return bytes[stop &+ 1] == Ascii.lineFeed ? nil : .refused(.bareCarriageReturn)
}

/// Reads the line at `at`, of whose name, up to `stop`, blanks may part the colon. A field of any kind is given back.
@inline(never)
private func spacedField(
  _ bytes: UnsafePointer<UInt8>, _ count: Int, at: inout Int, stop: Int, lineEnd: Int, _ names: FieldNames,
  into field: UnsafeMutablePointer<Field>
) -> FieldStep {
  var colon = stop
  while colon < count, isBlank(bytes[colon]) { colon &+= 1 }
  guard colon < count else { return .partial }
  guard bytes[colon] == Ascii.colon else { return .refused(.spaceBeforeColon) }
  if let step = noLineEnd(bytes, count, lineEnd) { return step }
  let kind = names.kind(of: bytes + at, stop &- at)
  field.pointee = Field(bytes, name: at, nameEnd: stop, colon: colon, lineEnd: lineEnd, kind: kind)
  at = lineEnd &+ 2
  return .field(kind)
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

// MARK: - Names

/// Finds the kind of a name: from its first and third letter (of two the second) to the few kinds it may be, for most
/// names none. Filled at start from the rows of `FieldKind.rule`.
struct FieldNames: BitwiseCopyable {
  private struct Name: BitwiseCopyable {
    let bytes: UnsafePointer<UInt8>
    let count: Int
    /// The next kind whose name has these letters, 0 for none.
    let next: UInt8
  }

  /// For each pair of letters, the low five bits of them, a kind, 0 for none; behind them the names of all kinds.
  private let memory: UnsafeMutableRawPointer

  private static var slots: Int { @inline(__always) get { 32 * 32 } }

  @inline(__always)
  private static func slot(_ name: UnsafePointer<UInt8>, _ count: Int) -> Int {
    Int(name[0] & 31) &<< 5 | Int(name[min(count &- 1, 2)] & 31)
  }

  static func allocate() -> FieldNames {
    let size = slots + FieldKind.allCases.count * MemoryLayout<Name>.stride
    let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: MemoryLayout<Name>.alignment)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    // The last one taken in is looked at first.
    for kind in FieldKind.allCases.reversed() where kind.rule.name.utf8CodeUnitCount > 0 {
      let text = kind.rule.name
      precondition(text.utf8CodeUnitCount <= 24, "a name longer than nameEquals compares")
      let slot = slot(text.utf8Start, text.utf8CodeUnitCount)
      let next = memory.load(fromByteOffset: slot, as: UInt8.self)
      memory.storeBytes(of: kind.rawValue, toByteOffset: slot, as: UInt8.self)
      memory.storeBytes(
        of: Name(bytes: text.utf8Start, count: text.utf8CodeUnitCount, next: next),
        toByteOffset: slots + Int(kind.rawValue) * MemoryLayout<Name>.stride, as: Name.self)
    }
    return FieldNames(memory: memory)
  }

  func deallocate() { memory.deallocate() }

  /// Which field a name (a token) is.
  @inline(__always)
  func kind(of name: UnsafePointer<UInt8>, _ count: Int) -> FieldKind {
    let candidate = memory.load(fromByteOffset: FieldNames.slot(name, count), as: UInt8.self)
    return candidate == 0 ? .other : judge(name, count, candidate)
  }

  @inline(never)
  private func judge(_ name: UnsafePointer<UInt8>, _ count: Int, _ candidate: UInt8) -> FieldKind {
    var candidate = candidate
    while candidate != 0 {
      let known = memory.load(
        fromByteOffset: FieldNames.slots &+ Int(candidate) &* MemoryLayout<Name>.stride, as: Name.self)
      if known.count == count, nameEquals(name, count, known.bytes) {
        guard let kind = FieldKind(rawValue: candidate) else { preconditionFailure("no such kind of field") }
        return kind
      }
      candidate = known.next
    }
    return name[0] | 0x20 == 0x78 && isDash(name[1]) ? familyKind(name, count) : .other
  }
}

@inline(__always)
private func isDash(_ byte: UInt8) -> Bool { byte == 0x2D || byte == 0x5F }

/// Names with an "_" of the X-Forwarded family, X-Real-IP and X-Request-Id, and the rest of that family.
@inline(never)
private func familyKind(_ name: UnsafePointer<UInt8>, _ count: Int) -> FieldKind {
  switch lowercased(name[2]) {
  case 0x66:  // "f"
    guard count >= 12, equalsFolding(name, "x-forwarded-") else { return .other }
    var index = 0
    while index < count {
      if name[index] == 0x5F { return .forwardedTwin }
      index &+= 1
    }
    return .xForwardedOther
  case 0x72:  // "r"
    if count == 9, equalsFolding(name, "x-real-ip") { return .forwardedTwin }
    return count == 12 && equalsFolding(name, "x-request-id") ? .requestIdTwin : .other
  default: return .other
  }
}

/// Whether the name begins with `literal`, letters' case and the difference of "-" and "_" ignored.
private func equalsFolding(_ name: UnsafePointer<UInt8>, _ literal: StaticString) -> Bool {
  var index = 0
  while index < literal.utf8CodeUnitCount {
    let byte = isDash(name[index]) ? 0x2D : lowercased(name[index])
    if byte != literal.utf8Start[index] { return false }
    index &+= 1
  }
  return true
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
          if named.kind.rule.isNominable,
            equalsIgnoringCase(bytes + list.start, list.count, bytes + named.name, named.nameLength)
          {
            named.isNominated = true
            fields[other] = named
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
