// The chunked transfer coding (RFC 9112 7.1), one octet after another, stoppable between any two of them. `feed` checks
// the framing so that the bytes can be passed on as they are; `decode` also moves the data together, for clients that
// do not know the coding. Chunk data is skipped in one step however much of it there is.
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
    /// Behind blanks that only ";" may follow.
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
  }

  /// Bytes of one chunk line, extensions and CRLF included. Extensions are read by nobody; they are only a way to make
  /// us work (RFC 9112 7.1.1).
  package static var lineBytesMax: UInt32 { @inline(__always) get { 4096 } }

  /// The size being read, or the data bytes of the chunk still to come.
  private var remaining: UInt64 = 0
  private var lineBytes: UInt32 = 0
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
    run(bytes, count, into: nil)
  }

  /// As `feed`, and moves the data bytes to the front: `bytes[..<payload]`.
  package mutating func decode(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int
  ) -> (consumed: Int, payload: Int, verdict: Verdict) {
    run(bytes, count, into: bytes)
  }

  @inline(__always)
  private mutating func run(
    _ bytes: UnsafePointer<UInt8>, _ count: Int, into target: UnsafeMutablePointer<UInt8>?
  ) -> (consumed: Int, payload: Int, verdict: Verdict) {
    var index = 0
    var payload = 0
    while index < count {
      if state == .data {
        let here = Int(truncatingIfNeeded: min(remaining, UInt64(truncatingIfNeeded: count &- index)))
        if let target, index != payload {
          UnsafeMutableRawPointer(target + payload).copyMemory(from: bytes + index, byteCount: here)
        }
        payload &+= here
        index &+= here
        remaining &-= UInt64(truncatingIfNeeded: here)
        if remaining == 0 { state = .dataCarriageReturn }
        continue
      }
      let byte = bytes[index]
      if state == .afterLast, byte != Ascii.carriageReturn { return (index, payload, .trailers) }
      if let refusal = step(byte) { return (index, payload, .malformed(refusal)) }
      index &+= 1
      if state == .finished { return (index, payload, .done) }
    }
    return (index, payload, state == .finished ? .done : .more)
  }

  /// One octet of chunk syntax. Nil: it is as it should be.
  @inline(__always)
  private mutating func step(_ byte: UInt8) -> Refusal? {
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
        guard remaining < 1 &<< 59 else { return .chunkSizeTooLarge }
        remaining = remaining &<< 4 | UInt64(digit)
      } else {
        switch byte {
        case Ascii.carriageReturn: endLine()
        case Ascii.semicolon: state = .nameStart
        case Ascii.space, Ascii.tab: state = .extensionBlank
        case Ascii.lineFeed: return .chunkLineEndInvalid
        default: return .chunkSizeInvalid
        }
      }
    case .extensionBlank:
      if byte == Ascii.semicolon {
        state = .nameStart
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
        case Ascii.carriageReturn: endLine()
        case Ascii.lineFeed: return .chunkLineEndInvalid
        default: return .chunkExtensionInvalid
        }
      }
    case .nameBlank:
      switch byte {
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
    case Ascii.carriageReturn: endLine()
    case Ascii.lineFeed: return .chunkLineEndInvalid
    default: return .chunkExtensionInvalid
    }
    lineBytes &+= 1
    return lineBytes < ChunkedDecoder.lineBytesMax ? nil : .chunkLineTooLong
  }

  @inline(__always)
  private mutating func endLine() {
    state = remaining == 0 ? .lastLineFeed : .lineFeed
  }
}
