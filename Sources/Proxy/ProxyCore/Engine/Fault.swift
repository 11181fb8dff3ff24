// What went wrong with a connection, as one value: it decides whether the request is tried again, what the client is
// told, what is counted and logged, and whether it is held against the replica. The proxy's own shortage never is.

package enum FaultSide: UInt8, BitwiseCopyable { case client, replica, own }

/// How far the exchange had come.
package enum FaultStage: UInt8, BitwiseCopyable, CaseIterable {
  /// Waiting for a replica below its limit.
  case queue
  /// No connection to the replica.
  case connect
  /// The request could not be sent whole.
  case send
  /// Before the head: the request's (client side), the response's (replica side).
  case head
  /// Amid the body: the request's, or the response's, so that the client sees a cut.
  case body
  case tunnel
}

package enum FaultKind: UInt8, BitwiseCopyable {
  case none
  /// The connection was refused, or the address cannot be reached.
  case refused
  case timeout
  /// The stream ended, by FIN or by an error.
  case closed
  /// It takes nothing of what waits for it.
  case stalled
  /// Bytes sent were not acknowledged for so long that the peer is gone.
  case vanished
  /// What came breaks a clause of HTTP: `Fault.refusal` names it.
  case malformed
  case tooLarge
  /// The proxy is out of blocks, segments or slots.
  case memory
  /// The proxy is out of descriptors.
  case descriptors
  /// The machine is out of local ports towards the replica's address.
  case ports
  /// Taken off the list while it had this request, beyond its drain deadline.
  case withdrawn
}

package struct Fault: BitwiseCopyable, Equatable {
  package var side: FaultSide
  package var stage: FaultStage
  package var kind: FaultKind
  /// The clause that was broken, for `.malformed`.
  package var refusal: Refusal

  @inline(__always)
  package init(_ side: FaultSide, _ stage: FaultStage, _ kind: FaultKind, _ refusal: Refusal = .headTooLarge) {
    self.side = side
    self.stage = stage
    self.kind = kind
    self.refusal = refusal
  }
  package static var none: Fault { @inline(__always) get { Fault(.own, .head, .none) } }

  /// What a failed connect says: errors of this machine are not the replica's (man 2 connect, man 7 ip).
  package init(connectResult: Int32) {
    switch connectResult {
    case RingResult.noPorts: self.init(.own, .connect, .ports)
    case RingResult.noMemory, RingResult.noBuffers: self.init(.own, .connect, .memory)
    default: self.init(.replica, .connect, .refused)
    }
  }

  /// The replica's machine refused the connection: nothing of the request can have been seen.
  package var isRefusal: Bool { stage == .connect && kind == .refused }

  /// What a client is told.
  package var reply: LocalReply {
    switch (side, kind) {
    case (_, .memory): .outOfMemory
    case (_, .descriptors): .outOfDescriptors
    case (_, .ports): .outOfPorts
    case (.own, .timeout): .queueTimeout
    case (.own, .stalled): .bodyShed
    case (.own, _): .outOfMemory
    case (.client, .timeout): stage == .head ? .headTimeout : .bodyTimeout
    case (.client, .tooLarge): .bodyTooLarge
    case (.client, .malformed): .bodyMalformed(refusal)
    case (.client, _): .bodyTimeout
    case (.replica, .refused): .allRefuse
    case (.replica, .timeout): stage == .connect ? .connectTimeout : .replicaTimeout
    case (.replica, .malformed): .replicaMalformed(refusal)
    case (.replica, .withdrawn): .replicaWithdrawn
    case (.replica, _): .replicaFailed
    }
  }
}
