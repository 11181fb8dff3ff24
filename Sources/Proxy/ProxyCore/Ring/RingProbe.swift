// What the kernel offers, found out once at start by trying: features are compiled out, switched off by sysctl and
// forbidden by container profiles, so version numbers say little.

import CLiburing

package struct RingFeatures: BitwiseCopyable {
  package var setupFlags: UInt32
  /// DEFER_TASKRUN (Linux 6.1): completions run only when we ask for them.
  package var defersTaskrun: Bool
  /// A multishot receive ends by itself after a number of bytes; without it receives are single-shot (dearer).
  package var receiveLimit: Bool
  /// The kernel can gather completions for a time (Linux 6.12).
  package var minWait: Bool
}

package enum RingProbe {
  /// Tries set-ups from best to plainest; throws with the errno of the plainest.
  package static func run() throws(RingError) -> RingFeatures {
    let best = UInt32(SKY_SETUP_SINGLE_ISSUER | SKY_SETUP_DEFER_TASKRUN)
    let good = UInt32(SKY_SETUP_COOP_TASKRUN)
    var code: Int32 = 0
    for flags in [best, good, 0] {
      var ring = io_uring()
      var reported: UInt32 = 0
      code = sky_queue_init(8, 64, flags, &ring, &reported)
      guard code == 0 else { continue }
      io_uring_queue_exit(&ring)
      guard reported & UInt32(SKY_FEAT_EXT_ARG) != 0 else {
        throw .missing("io_uring_enter with a timeout (IORING_FEAT_EXT_ARG, Linux 5.11)")
      }
      var features = RingFeatures(
        setupFlags: flags, defersTaskrun: flags == best, receiveLimit: false,
        minWait: reported & UInt32(SKY_FEAT_MIN_TIMEOUT) != 0)
      features.receiveLimit = try receiveEndsAtLimit(features)
      return features
    }
    throw .setup(-code)
  }

  /// Sends 3 × 4 KiB into a socket pair under a multishot receive limited to 8 KiB: does it stay armed before the limit
  /// and end at it?
  private static func receiveEndsAtLimit(_ features: RingFeatures) throws(RingError) -> Bool {
    var trial = features
    trial.receiveLimit = true
    var options = RingOptions()
    options.submissions = 8
    options.completions = 64
    options.buffers = 8
    options.bufferBytes = 4096
    var io = try UringIO(options, features: trial, wakeFd: -1)
    var ends: (Int32, Int32) = (-1, -1)
    let made = withUnsafeMutableBytes(of: &ends) {
      sky_socketpair($0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    guard made == 0 else { return false }
    defer {
      close(ends.0)
      close(ends.1)
    }
    let bytes: UnsafeMutablePointer<UInt8> = mapZeroed(4096)
    for _ in 0..<3 { guard write(ends.1, bytes, 4096) == 4096 else { return false } }
    io.receive(ends.0, limit: 8192, pollFirst: false, token: Token(.receive, slot: 1, generation: 1))
    var received = 0
    var stayedArmed = false
    var turns = 0
    while turns < 8 {
      turns += 1
      io.submitAndWait(until: io.now + 20_000_000)
      while let completion = io.next() {
        if completion.result == -EINVAL { throw .missing("multishot receive (Linux 6.0)") }
        guard completion.result > 0 else { return false }
        received += Int(completion.result)
        if completion.more { stayedArmed = true } else { return stayedArmed && received == 8192 }
      }
    }
    return false
  }
}

extension RingFeatures {
  /// One line for the log at start: what is in use.
  package var summary: String {
    "io_uring" + (defersTaskrun ? " defer_taskrun" : " coop_taskrun") + " lent_buffers"
      + (receiveLimit ? " multishot_recv=limited" : " multishot_recv=off")
      + (minWait ? " min_wait=available" : " min_wait=unavailable")
  }
}

extension RingError {
  /// What is wrong and what to change.
  package var advice: String {
    switch self {
    case .setup(let code) where code == EPERM || code == EACCES:
      "io_uring is forbidden here (\(String(cString: strerror(code)))): check `sysctl kernel.io_uring_disabled` "
        + "(0 allows it); in a container allow the system calls io_uring_setup, io_uring_enter and io_uring_register "
        + "in its seccomp profile (Docker: --security-opt seccomp=PROFILE.json)"
    case .setup(let code) where code == ENOSYS: "this kernel has no io_uring: Linux 6.0 or newer is needed"
    case .setup(let code) where code == ENOMEM:
      "not enough memory for the rings: lower --max-connections, or raise `ulimit -l`"
    case .setup(let code): "io_uring_setup failed: \(String(cString: strerror(code)))"
    case .buffers: "io_uring cannot register a buffer ring: Linux 6.0 or newer is needed"
    case .missing(let what): "io_uring lacks \(what): Linux 6.0 or newer is needed"
    }
  }
}
