// One connection to the origin, and one listening address, which plays one replica.

import BenchKit
import ProxyCore

struct OriginListener: Sendable {
  let fd: Int32
  let address: SocketAddress
}

/// What the stand-in for a model server does.
struct ModelOptions: Sendable {
  var slots = 0
  var queue = 1_000_000
  var prefillMs = 0.0
  var prefillMsPerKb = 0.0
  var tokenMs = 0.0
  var tokenSlopeUs = 0.0
  var tokens = 16
}

struct Replica: BitwiseCopyable {
  var fd: Int32 = -1
  var address = SocketAddress()
  var generation: UInt32 = 0
  /// Refusing until the deadline of its own slot.
  var isShut = false
  var atWork = 0
  var queued = 0
  var queueHead = UInt32.max
  var queueTail = UInt32.max
  var connections = 0
  var accepted: UInt64 = 0
  var requests: UInt64 = 0
  var events: UInt64 = 0
  var bodyBytes: UInt64 = 0
  var aborted: UInt64 = 0
  var queuedMost = 0
  var atWorkMost = 0
}

enum Kind: UInt8, BitwiseCopyable { case plain, events, completion, chat }

/// A request's way: head → body → (wait → queue) → answer, and again.
enum Phase: UInt8, BitwiseCopyable {
  case head, body
  /// A deadline ends it: delay_ms, or the prefill of a completion.
  case wait
  /// For a model slot.
  case queued
  /// A plain body, piece by piece.
  case sending
  /// Events or tokens, by deadlines.
  case streaming
  case hung
}

struct Client: BitwiseCopyable {
  var fd: Int32
  var generation: UInt32
  var nextFree: UInt32
  var replica: UInt32
  var queueNext: UInt32
  var queuePrevious: UInt32
  /// Operations the kernel still holds.
  var operations: UInt16
  var phase: Phase
  var kind: Kind
  var isSending: Bool
  var isReceiving: Bool
  var isDead: Bool
  var resets: Bool
  var closesAfter: Bool
  var holdsSlot: Bool
  var headSent: Bool
  var requestChunked: Bool
  var wantsStream: Bool
  var lastPiece: Bool
  var spec: AnswerSpec
  var requestLeft: Int
  var requestChunks: ChunkReader
  var sent: Int
  var due: UInt64
  var tokens: Int
  var promptBytes: Int
  /// Bytes that came before they could be used.
  var input: UnsafeMutablePointer<UInt8>?
  var inputCount: Int
  var inputRoom: Int
  var output: UnsafeMutablePointer<UInt8>?
  var outputRoom: Int
}
