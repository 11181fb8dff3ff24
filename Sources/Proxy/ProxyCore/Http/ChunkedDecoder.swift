// The chunked transfer coding (RFC 9112 7.1), one octet after another, stoppable between any two of them. Chunk data is
// skipped in one step however much of it there is. Three ways through it:
//   feed     what goes on as it came, so that it must be written as every reader reads it
//   reframe  what goes on in canonical form: sizes without leading zeros, no blanks, no extensions; moved together in
//            place where something was left out, which is nothing in a body that was written canonically
//   decode   the data alone, moved together, for those who do not know the coding
// `feed` refuses what the others leave out where readers are known to differ: blanks and sizes of many digits.
//
//                       ┌──────────────── BWS / ";" / "=" … chunk-ext ───────────────┐
//   sizeStart → size ───┴→ lineFeed → data → dataCarriageReturn → dataLineFeed → sizeStart
//                 └ size 0 → lastLineFeed → afterLast ─ CR → endLineFeed → finished
//                                               └ anything else: a trailer section starts there

package struct ChunkedDecoder: BitwiseCopyable {
  package enum Verdict: BitwiseCopyable, Equatable {
    /// All bytes are taken in; the body goes on.
    case more
    /// The last chunk is behind us and a field line, not the blank line, comes next: see `parseTrailers`.
    case trailers
    /// The body is over, its final CRLF included.
    case done
    case malformed(Refusal)
  }

  private enum State: UInt8, BitwiseCopyable {
    case sizeStart, size
    /// Behind blanks that only ";" may follow, or the line's end where blanks do not go on.
    case extensionBlank
    /// Behind ";": blanks, then the name.
    case nameStart, name
    /// Behind blanks after a name: "=" or ";".
    case nameBlank
    /// Behind "=": blanks, then a token or a quoted string.
    case valueStart, valueToken, valueQuoted, valueEscaped
    /// Behind a closing quote.
    case valueEnd
    case lineFeed, lastLineFeed
    case data, dataCarriageReturn, dataLineFeed
    case afterLast, endLineFeed, finished

    /// Between the size and the line's end.
    @inline(__always)
    var isExtension: Bool {
      switch self {
      case .extensionBlank, .nameStart, .name, .nameBlank, .valueStart, .valueToken, .valueQuoted, .valueEscaped,
        .valueEnd:
        true
      case .sizeStart, .size, .lineFeed, .lastLineFeed, .data, .dataCarriageReturn, .dataLineFeed, .afterLast,
        .endLineFeed, .finished:
        false
      }
    }
  }

  private enum Way {
    case verbatim, canonical, dataOnly
  }

  /// Bytes of one chunk line, extensions and CRLF included. Extensions are read by nobody; they are only a way to make
  /// us work (RFC 9112 7.1.1).
  package static var lineBytesMax: UInt16 { @inline(__always) get { 4096 } }
  /// Bytes that the chunk lines of one message may have beyond what they earn: 16 for each chunk, two for each byte of
  /// data. Sizes padded with blanks stay far below; extensions without an end do not (RFC 9112 7.1.1).
  package static var surplusBytesMax: UInt16 { @inline(__always) get { 16_384 } }
  /// Digits of a size that goes on as it was written.
  package static var sizeDigitsMax: UInt16 { @inline(__always) get { 8 } }
  /// Sizes are smaller: a reader that keeps them in 32 bits with a sign, as some do, must see the same one.
  package static var sizeLimit: UInt64 { @inline(__always) get { 1 &<< 31 } }

  /// The size being read, or the data bytes of the chunk still to come.
  private var remaining: UInt64 = 0
  private var lineBytes: UInt16 = 0
  private var surplusBytes: UInt16 = 0
  private var state = State.sizeStart

  @inline(__always) package init() {}

  /// Whether the body has come to its end, trailers aside.
  package var isPastLastChunk: Bool {
    switch state {
    case .afterLast, .endLineFeed, .finished: true
    case .sizeStart, .size, .extensionBlank, .nameStart, .name, .nameBlank, .valueStart, .valueToken, .valueQuoted,
      .valueEscaped, .valueEnd, .lineFeed, .lastLineFeed, .data, .dataCarriageReturn, .dataLineFeed:
      false
    }
  }

  /// Takes in the next bytes of the body. `consumed`: those that belong to it and may be passed on as they are; all of
  /// them with `.more`. `payload`: the data bytes among them. With `.malformed`, `consumed` ends before the
  /// octet that broke the syntax; none of it may be passed on as the end of a message.
  package mutating func feed(
    _ bytes: UnsafePointer<UInt8>, _ count: Int
  ) -> (consumed: Int, payload: Int, verdict: Verdict) {
    // Nothing is written on this way.
    let step = run(UnsafeMutablePointer(mutating: bytes), count, .verbatim)
    return (step.consumed, step.payload, step.verdict)
  }

  /// As `feed`, but what may be passed on is `bytes[..<kept]`: the same body in canonical form. (A size whose leading
  /// zeros were torn from it keeps one of them: that one has gone on already.)
  package mutating func reframe(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int
  ) -> (consumed: Int, kept: Int, payload: Int, verdict: Verdict) {
    run(bytes, count, .canonical)
  }

  /// As `feed`, and moves the data bytes to the front: `bytes[..<payload]`.
  package mutating func decode(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int
  ) -> (consumed: Int, payload: Int, verdict: Verdict) {
    let step = run(bytes, count, .dataOnly)
    return (step.consumed, step.payload, step.verdict)
  }

  /// `decode` or `reframe`; either way `bytes[..<kept]` goes on.
  package mutating func take(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, decodes: Bool
  ) -> (consumed: Int, kept: Int, payload: Int, verdict: Verdict) {
    guard decodes else { return reframe(bytes, count) }
    let step = decode(bytes, count)
    return (step.consumed, step.payload, step.payload, step.verdict)
  }

  @inline(__always)
  private mutating func run(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, _ way: Way
  ) -> (consumed: Int, kept: Int, payload: Int, verdict: Verdict) {
    var index = 0
    // Where the next byte that is kept goes.
    var kept = 0
    var payload = 0
    while index < count {
      if state == .data {
        let here = Int(truncatingIfNeeded: min(remaining, UInt64(truncatingIfNeeded: count &- index)))
        if way != .verbatim, index != kept {
          UnsafeMutableRawPointer(bytes + kept).copyMemory(from: bytes + index, byteCount: here)
        }
        kept &+= here
        payload &+= here
        index &+= here
        remaining &-= UInt64(truncatingIfNeeded: here)
        if remaining == 0 { state = .dataCarriageReturn }
        continue
      }
      let byte = bytes[index]
      if state == .afterLast, byte != Ascii.carriageReturn { return (index, kept, payload, .trailers) }
      let followsZero = way == .canonical && state == .size && remaining == 0
      if let refusal = step(byte, goesOn: way == .verbatim) { return (index, kept, payload, .malformed(refusal)) }
      index &+= 1
      if way == .canonical, !state.isExtension {
        if followsZero, state == .size {
          // A leading zero gives way to the digit behind it, unless it is in a piece that has gone.
          if kept > 0 { kept &-= 1 } else if remaining == 0 { continue }
        }
        bytes[kept] = byte
        kept &+= 1
      }
      if state == .finished { return (index, kept, payload, .done) }
    }
    return (index, kept, payload, state == .finished ? .done : .more)
  }

  /// One octet of chunk syntax. Nil: it is as it should be. `goesOn`: the next reader sees it too.
  @inline(__always)
  private mutating func step(_ byte: UInt8, goesOn: Bool) -> Refusal? {
    switch state {
    case .sizeStart:
      let digit = hexValue(byte)
      guard digit < 16 else { return .chunkSizeInvalid }
      remaining = UInt64(digit)
      lineBytes = 1
      state = .size
      return nil
    case .size:
      let digit = hexValue(byte)
      if digit < 16 {
        guard !goesOn || lineBytes < ChunkedDecoder.sizeDigitsMax else { return .chunkSizeTooLong }
        guard remaining < ChunkedDecoder.sizeLimit &>> 4 else { return .chunkSizeTooLarge }
        remaining = remaining &<< 4 | UInt64(digit)
      } else {
        switch byte {
        case Ascii.carriageReturn: return endLine()
        case Ascii.semicolon: state = .nameStart
        case Ascii.space, Ascii.tab: state = .extensionBlank
        case Ascii.lineFeed: return .chunkLineEndInvalid
        default: return .chunkSizeInvalid
        }
      }
    case .extensionBlank:
      if byte == Ascii.semicolon {
        state = .nameStart
      } else if byte == Ascii.carriageReturn, !goesOn {
        return endLine()
      } else if !isBlank(byte) {
        return .chunkExtensionInvalid
      }
    case .nameStart:
      if AsciiSet.token.contains(byte) {
        state = .name
      } else if !isBlank(byte) {
        return .chunkExtensionInvalid
      }
    case .name:
      if !AsciiSet.token.contains(byte) {
        switch byte {
        case Ascii.equals: state = .valueStart
        case Ascii.semicolon: state = .nameStart
        case Ascii.space, Ascii.tab: state = .nameBlank
        case Ascii.carriageReturn: return endLine()
        case Ascii.lineFeed: return .chunkLineEndInvalid
        default: return .chunkExtensionInvalid
        }
      }
    case .nameBlank:
      switch byte {
      case Ascii.carriageReturn where !goesOn: return endLine()
      case Ascii.equals: state = .valueStart
      case Ascii.semicolon: state = .nameStart
      case Ascii.space, Ascii.tab: break
      default: return .chunkExtensionInvalid
      }
    case .valueStart:
      if AsciiSet.token.contains(byte) {
        state = .valueToken
      } else if byte == Ascii.quote {
        state = .valueQuoted
      } else if !isBlank(byte) {
        return .chunkExtensionInvalid
      }
    case .valueToken:
      if !AsciiSet.token.contains(byte) { return endValue(byte) }
    case .valueQuoted:
      if byte == Ascii.quote {
        state = .valueEnd
      } else if byte == Ascii.backslash {
        state = .valueEscaped
      } else if !isText(byte) {
        return .chunkExtensionInvalid
      }
    case .valueEscaped:
      guard isText(byte) else { return .chunkExtensionInvalid }
      state = .valueQuoted
    case .valueEnd:
      return endValue(byte)
    case .lineFeed:
      guard byte == Ascii.lineFeed else { return .chunkLineEndInvalid }
      state = .data
      return nil
    case .lastLineFeed:
      guard byte == Ascii.lineFeed else { return .chunkLineEndInvalid }
      state = .afterLast
      return nil
    case .dataCarriageReturn:
      guard byte == Ascii.carriageReturn else { return .chunkDataEndInvalid }
      state = .dataLineFeed
      return nil
    case .dataLineFeed:
      guard byte == Ascii.lineFeed else { return .chunkDataEndInvalid }
      state = .sizeStart
      return nil
    case .afterLast:
      // Only CR comes here.
      state = .endLineFeed
      return nil
    case .endLineFeed:
      guard byte == Ascii.lineFeed else { return .bareCarriageReturn }
      state = .finished
      return nil
    case .data: preconditionFailure("chunk data is skipped, not stepped through")
    case .finished: preconditionFailure("a chunked body was fed past its end")
    }
    lineBytes &+= 1
    return lineBytes < ChunkedDecoder.lineBytesMax ? nil : .chunkLineTooLong
  }

  /// What may follow a value: a blank, the next extension, or the line's end.
  @inline(__always)
  private mutating func endValue(_ byte: UInt8) -> Refusal? {
    switch byte {
    case Ascii.semicolon: state = .nameStart
    case Ascii.space, Ascii.tab: state = .extensionBlank
    case Ascii.carriageReturn: return endLine()
    case Ascii.lineFeed: return .chunkLineEndInvalid
    default: return .chunkExtensionInvalid
    }
    lineBytes &+= 1
    return lineBytes < ChunkedDecoder.lineBytesMax ? nil : .chunkLineTooLong
  }

  /// The CR of a chunk line.
  @inline(__always)
  private mutating func endLine() -> Refusal? {
    state = remaining == 0 ? .lastLineFeed : .lineFeed
    // The LF is still to come.
    guard lineBytes < ChunkedDecoder.lineBytesMax &- 1 else { return .chunkLineTooLong }
    let bytes = UInt64(surplusBytes) &+ UInt64(lineBytes)
    let earned = 16 &+ 2 &* remaining
    surplusBytes = bytes > earned ? UInt16(truncatingIfNeeded: bytes &- earned) : 0
    return surplusBytes <= ChunkedDecoder.surplusBytesMax ? nil : .chunkExtensionsTooLong
  }
}
