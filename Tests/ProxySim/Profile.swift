// How unkind the world is: one table of probabilities and bounds per profile. A run draws its sizes within them.

package struct Profile: Sendable {
  package var name: String

  // How the world behaves, and what is asked of the engine. The defaults are what every profile is run with.
  /// Nothing outlives its deadline.
  var keepsTime = false
  /// A client that has never sent a byte has no longer than one that sends its first head slowly.
  var timesFirstHead = false
  /// Turns and completions without progress are bounded.
  var countsEffort = true
  /// Bytes of answers held for a client that reads none of them are bounded.
  var boundsHoards = false
  /// No replica fails: whatever goes wrong is nobody's fault but the proxy's, and none of it is held against one.
  var blamesNobody = false
  /// Only silence ends a tunnel.
  var tunnelsLast = false

  // How much happens.
  var clients = 4...16
  var requestsPerClient = 1...6
  var replicas = 1...4
  /// Clients begin within this time.
  var arrivalNs = 50 * Nanoseconds.millisecond
  var bodyMax = 4_000
  var responseMax = 20_000
  /// A share of messages has bodies of this size instead.
  var bigRate = 0.02
  var bigMax = 150_000

  /// On one board.
  var workers = 1...1

  // The ring.
  var buffers = 32...128
  var bufferBytes = [2048, 4096, 16_384]
  /// Blocks of 16 KiB.
  var spillBytes = [0, 16_384, 65_536, 1 << 20]
  /// Share of receives cut short, of receives that end early, of receives told "no buffer".
  var shortReceives = 0.1
  package var endEarly = 0.02
  var noBuffers = 0.0
  var shortSends = 0.1
  /// Share of completions held back, and for how long at most.
  var late = 0.05
  var lateNs = 200 * Nanoseconds.microsecond
  var shuffles = true
  var acceptErrors = 0.0
  var socketErrors = 0.0
  /// Connects that fail for want of a port on this machine.
  var localConnectErrors = 0.0
  var sendErrors = 0.0
  /// Cancels answered -EALREADY, or losing the race.
  var cancelRaces = 0.3
  /// The process was stopped while it waited: chance per turn and time.
  var pauses = 0.0
  var pauseNs = 150 * Nanoseconds.second
  /// The worker was kept from running: chance per turn and time.
  var leaps = 0.002
  var leapNs = 20 * Nanoseconds.millisecond

  // The network.
  var latencyNs = 500 * Nanoseconds.microsecond
  var socketBuffers = [4096, 16_384, 65_536, 262_144]

  // Clients.
  var keepAlive = 0.8
  var pipelining = 0.2
  var http10 = 0.1
  var chunkedRequests = 0.3
  var expectContinue = 0.1
  var dribbles = 0.05
  var slowReaders = 0.05
  var stoppedReaders = 0.0
  var stopNs = 20 * Nanoseconds.second
  /// Clients that read and write as fast as they can are done in this time, whatever others do.
  var steadyNs = 900 * Nanoseconds.second
  var aborts = 0.0
  var halfCloses = 0.0
  /// Of those, the share that sends its FIN with the last of its requests.
  var finWithRequest = 0.0
  /// Clients that vanish without a word, and how long the kernel needs to find out.
  var vanishes = 0.0
  var probeNs = 3 * Nanoseconds.second
  /// Clients that pipeline so many requests and never read.
  var hoarders = 0.0
  var hoards = 300...2_500
  /// Clients that connect and say nothing.
  var silent = 0.0
  /// How long both ends of a tunnel pause between what they say.
  var tunnelPauseNs: UInt64 = 0
  var flaws = 0.0
  /// Of those, the share that is only too long.
  var tooLong = 0.0
  var upgrades = 0.0
  var lingers = 0.3

  // Replicas.
  var refused = 0.0
  var slowConnects = 0.0
  var resetsAfterConnect = 0.0
  var deaths = 0.0
  var malformed = 0.0
  var hangs = 0.0
  /// Connections that vanish without a word while a request is worked on.
  var replicaVanishes = 0.0
  /// How long a replica may take to begin its answer.
  var thinkNs = 20 * Nanoseconds.millisecond
  /// The largest chunk, of half the answers that have any.
  var chunkMax = 300
  var earlyReplies = 0.0
  var interim = 0.1
  var streams = 0.2
  var untilClose = 0.1
  var closesAfter = 0.1
  var idleCloses = 0.0
  /// Closes just as the next request comes in.
  var closesOnRequest = 0.0
  var unsolicited = 0.0
  var extraBytes = 0.0
  var outages = 0.0

  // The proxy.
  /// Client slots; 0: more than there are clients.
  var slots = 0...0
  var queueSize = 64...64
  /// Exchanges per replica at once; 0 = no limit.
  var maxInFlight = [0]
  var membership = 0.0
  var drains = 0.0
  var bodyLimit = [0]

  /// Nothing goes wrong: every request must be answered by a replica.
  var isCalm = false

  package static let all: [Profile] = [
    calm, choppy, abrupt, flaky, starved, crowded, churn, tunnels, malformed, stalls, chaos, spills, floods,
    leavers, together,
    hoarders, halves, sockets, queues, vanishing, early, silence, prompt,
  ]
  /// Run by name only: their worlds do not yet end on every seed as they must (paused 19: 503; shortage 418: a window).
  package static let byName: [Profile] = [paused, shortage]

  package static func named(_ name: String) -> Profile? { (all + byName).first { $0.name == name } }

  static let calm = {
    var profile = Profile(name: "calm")
    profile.isCalm = true
    profile.leaps = 0
    return profile
  }()

  static let choppy = {
    var profile = Profile(name: "choppy")
    profile.isCalm = true
    profile.leaps = 0
    profile.shortReceives = 0.7
    profile.shortSends = 0.7
    profile.endEarly = 0.3
    profile.noBuffers = 0.05
    profile.late = 0.4
    profile.dribbles = 0.3
    profile.socketBuffers = [64, 512, 4096]
    profile.bodyMax = 2_000
    profile.responseMax = 4_000
    profile.bigMax = 30_000
    profile.pipelining = 0.4
    return profile
  }()

  static let abrupt = {
    var profile = Profile(name: "abrupt")
    profile.aborts = 0.5
    profile.halfCloses = 0.2
    profile.sendErrors = 0.02
    profile.shortReceives = 0.3
    profile.endEarly = 0.1
    profile.late = 0.3
    profile.streams = 0.5
    profile.earlyReplies = 0.1
    profile.maxInFlight = [0, 1, 2]
    profile.upgrades = 0.05
    return profile
  }()

  static let flaky = {
    var profile = Profile(name: "flaky")
    profile.refused = 0.1
    profile.slowConnects = 0.1
    profile.resetsAfterConnect = 0.05
    profile.deaths = 0.25
    profile.malformed = 0.08
    profile.hangs = 0.02
    profile.earlyReplies = 0.1
    profile.idleCloses = 0.5
    profile.closesOnRequest = 0.2
    profile.unsolicited = 0.05
    profile.extraBytes = 0.05
    profile.outages = 0.3
    profile.late = 0.3
    profile.sendErrors = 0.02
    profile.endEarly = 0.1
    return profile
  }()

  static let starved = {
    var profile = Profile(name: "starved")
    profile.buffers = 4...12
    profile.bufferBytes = [256, 1024, 4096]
    profile.noBuffers = 0.2
    profile.acceptErrors = 0.1
    profile.socketErrors = 0.1
    profile.slowReaders = 0.3
    profile.stoppedReaders = 0.1
    profile.endEarly = 0.2
    profile.streams = 0.4
    profile.aborts = 0.1
    profile.deaths = 0.05
    return profile
  }()

  static let crowded = {
    var profile = Profile(name: "crowded")
    profile.clients = 20...60
    profile.requestsPerClient = 1...3
    profile.slots = 2...12
    profile.queueSize = 1...16
    profile.maxInFlight = [1, 1, 2, 3]
    profile.replicas = 1...3
    profile.aborts = 0.1
    profile.deaths = 0.05
    profile.refused = 0.03
    profile.arrivalNs = 20 * Nanoseconds.millisecond
    return profile
  }()

  static let churn = {
    var profile = Profile(name: "churn")
    profile.membership = 0.15
    profile.replicas = 1...5
    profile.refused = 0.05
    profile.outages = 0.2
    profile.maxInFlight = [0, 1, 2, 5]
    profile.drains = 0.2
    profile.deaths = 0.05
    profile.aborts = 0.05
    profile.idleCloses = 0.2
    profile.upgrades = 0.05
    profile.requestsPerClient = 1...10
    return profile
  }()

  static let tunnels = {
    var profile = Profile(name: "tunnels")
    profile.upgrades = 0.7
    profile.aborts = 0.2
    profile.halfCloses = 0.1
    profile.deaths = 0.1
    profile.late = 0.3
    profile.endEarly = 0.1
    profile.shortReceives = 0.3
    profile.slowReaders = 0.2
    profile.drains = 0.1
    return profile
  }()

  static let malformed = {
    var profile = Profile(name: "malformed")
    profile.flaws = 0.5
    profile.pipelining = 0.5
    profile.malformed = 0.2
    profile.extraBytes = 0.1
    profile.unsolicited = 0.1
    profile.dribbles = 0.2
    profile.shortReceives = 0.4
    profile.bodyLimit = [0, 3_000, 20_000]
    profile.chunkedRequests = 0.5
    return profile
  }()

  static let stalls = {
    var profile = Profile(name: "stalls")
    profile.slowReaders = 0.3
    profile.stoppedReaders = 0.3
    profile.dribbles = 0.2
    profile.hangs = 0.1
    profile.leaps = 0.02
    profile.leapNs = 4 * Nanoseconds.second
    profile.bigRate = 0.3
    profile.bigMax = 400_000
    profile.socketBuffers = [4096, 16_384]
    profile.streams = 0.4
    profile.expectContinue = 0.3
    profile.maxInFlight = [0, 1, 3]
    profile.slowConnects = 0.1
    return profile
  }()

  /// Most readers stop for long, and there is spill memory for all they leave: everybody is served, and those that read
  /// notice nothing.
  static let spills = {
    var profile = Profile(name: "spills")
    profile.isCalm = true
    profile.clients = 10...30
    profile.requestsPerClient = 1...4
    profile.leaps = 0
    profile.buffers = 4...10
    profile.bufferBytes = [256, 2048, 65_536]
    profile.spillBytes = [64 << 20]
    profile.stoppedReaders = 0.6
    profile.stopNs = 50 * Nanoseconds.second
    profile.steadyNs = 8 * Nanoseconds.second
    profile.slowReaders = 0.2
    profile.bigRate = 0.5
    profile.bigMax = 300_000
    profile.socketBuffers = [4096, 16_384]
    profile.streams = 0.4
    profile.shortReceives = 0.3
    profile.shortSends = 0.3
    profile.late = 0.3
    profile.noBuffers = 0.02
    profile.cancelRaces = 0.5
    return profile
  }()

  /// The same with little or no spill memory: those stalled longest are closed, and buffers keep coming back.
  static let floods = {
    var profile = Profile(name: "floods")
    profile.clients = 10...40
    profile.buffers = 4...10
    profile.bufferBytes = [256, 2048, 65_536]
    profile.spillBytes = [0, 0, 16_384, 65_536, 262_144]
    profile.stoppedReaders = 0.5
    profile.slowReaders = 0.3
    profile.dribbles = 0.2
    profile.bigRate = 0.5
    profile.bigMax = 300_000
    profile.socketBuffers = [512, 4096, 16_384]
    profile.streams = 0.3
    profile.upgrades = 0.1
    profile.shortReceives = 0.3
    profile.shortSends = 0.3
    profile.late = 0.3
    profile.cancelRaces = 0.6
    profile.aborts = 0.15
    profile.deaths = 0.1
    profile.idleCloses = 0.3
    profile.closesOnRequest = 0.1
    profile.sendErrors = 0.01
    profile.hangs = 0.05
    profile.maxInFlight = [0, 0, 1, 3]
    return profile
  }()

  /// Clients that leave while little is received from them: replicas take their time, uploads and pipelined requests
  /// are larger than what is read ahead.
  static let leavers = {
    var profile = Profile(name: "leavers")
    profile.aborts = 0.7
    profile.halfCloses = 0.2
    profile.pipelining = 0.6
    profile.requestsPerClient = 1...6
    profile.bufferBytes = [256, 1024]
    profile.bigRate = 0.4
    profile.bigMax = 60_000
    profile.socketBuffers = [1024, 8192, 65_536]
    profile.hangs = 0.1
    profile.slowConnects = 0.2
    profile.streams = 0.3
    profile.slowReaders = 0.2
    profile.maxInFlight = [0, 1, 1]
    profile.upgrades = 0.05
    profile.late = 0.2
    return profile
  }()

  static let chaos = {
    var profile = Profile(name: "chaos")
    profile.clients = 10...30
    profile.buffers = 6...64
    profile.bufferBytes = [256, 1024, 4096]
    profile.shortReceives = 0.4
    profile.shortSends = 0.4
    profile.endEarly = 0.15
    profile.noBuffers = 0.05
    profile.late = 0.4
    profile.acceptErrors = 0.05
    profile.socketErrors = 0.02
    profile.sendErrors = 0.02
    profile.leaps = 0.01
    profile.leapNs = 1 * Nanoseconds.second
    profile.socketBuffers = [64, 512, 4096, 65_536]
    profile.pipelining = 0.3
    profile.dribbles = 0.15
    profile.slowReaders = 0.15
    profile.stoppedReaders = 0.05
    profile.aborts = 0.2
    profile.halfCloses = 0.1
    profile.flaws = 0.1
    profile.upgrades = 0.1
    profile.refused = 0.05
    profile.slowConnects = 0.05
    profile.resetsAfterConnect = 0.03
    profile.deaths = 0.12
    profile.malformed = 0.05
    profile.hangs = 0.02
    profile.earlyReplies = 0.1
    profile.idleCloses = 0.3
    profile.closesOnRequest = 0.1
    profile.unsolicited = 0.03
    profile.extraBytes = 0.03
    profile.outages = 0.2
    profile.slots = 6...40
    profile.queueSize = 2...64
    profile.maxInFlight = [0, 1, 2, 4]
    profile.membership = 0.05
    profile.drains = 0.1
    profile.bodyLimit = [0, 0, 20_000]
    return profile
  }()

  /// Several workers on one board, turn by turn in an order the seed draws, while the list of replicas changes.
  static let together = {
    var profile = chaos
    profile.name = "together"
    profile.workers = 2...4
    profile.membership = 0.2
    profile.bufferBytes = [1024, 4096]
    profile.maxInFlight = [0, 1, 1, 2]
    profile.leaps = 0.002
    return profile
  }()

  // MARK: one fault each

  /// Clients that pipeline and never read, beside others that are served as if those were not there.
  static let hoarders = {
    var profile = Profile(name: "hoarders")
    profile.isCalm = true
    profile.leaps = 0
    profile.boundsHoards = true
    profile.clients = 3...8
    profile.hoarders = 0.4
    profile.buffers = 16...64
    profile.spillBytes = [0, 65_536]
    profile.socketBuffers = [4096, 16_384]
    profile.responseMax = 400
    profile.bigRate = 0
    profile.streams = 0
    // Every answer leaves the connection open.
    profile.untilClose = 0
    return profile
  }()

  /// Clients that end their half, with the request or at any moment after it, and wait for the answer.
  static let halves = {
    var profile = Profile(name: "halves")
    profile.halfCloses = 0.8
    profile.finWithRequest = 0.6
    profile.thinkNs = 2 * Nanoseconds.second
    profile.streams = 0.6
    profile.pipelining = 0.3
    profile.maxInFlight = [0, 1, 2]
    profile.upgrades = 0.1
    profile.dribbles = 0.1
    return profile
  }()

  /// Tunnels that live longer than every other deadline, idle and busy.
  static let sockets = {
    var profile = Profile(name: "sockets")
    profile.leaps = 0
    profile.keepsTime = true
    profile.tunnelsLast = true
    profile.upgrades = 0.9
    profile.tunnelPauseNs = 12 * Nanoseconds.second
    profile.lingers = 0
    profile.keepAlive = 1
    return profile
  }()

  /// Uploads in many pieces that wait for a replica.
  static let queues = {
    var profile = Profile(name: "queues")
    profile.keepsTime = true
    profile.replicas = 1...2
    profile.maxInFlight = [1, 2]
    profile.thinkNs = 6 * Nanoseconds.second
    profile.dribbles = 0.5
    profile.bodyMax = 20_000
    profile.leaps = 0
    return profile
  }()

  /// Peers that are gone without a word, in every phase.
  static let vanishing = {
    var profile = Profile(name: "vanishing")
    profile.keepsTime = true
    profile.vanishes = 0.4
    profile.replicaVanishes = 0.1
    profile.thinkNs = 4 * Nanoseconds.second
    profile.streams = 0.5
    profile.maxInFlight = [0, 1, 2]
    profile.upgrades = 0.1
    profile.bigRate = 0.2
    profile.socketBuffers = [4096, 65_536]
    return profile
  }()

  /// The process is stopped for longer than every deadline while its peers go on.
  static let paused = {
    var profile = Profile(name: "paused")
    profile.isCalm = true
    profile.leaps = 0
    profile.pauses = 0.004
    profile.thinkNs = 2 * Nanoseconds.second
    profile.streams = 0.5
    profile.dribbles = 0.2
    profile.lingers = 0
    return profile
  }()

  /// Descriptors, ports, buffers, segments and blocks run out; the replicas are well.
  static let shortage = {
    var profile = Profile(name: "shortage")
    profile.blamesNobody = true
    profile.leaps = 0
    profile.clients = 6...20
    profile.buffers = 4...8
    profile.bufferBytes = [256, 1024]
    profile.spillBytes = [0]
    profile.noBuffers = 0.1
    profile.acceptErrors = 0.1
    profile.socketErrors = 0.2
    profile.localConnectErrors = 0.2
    profile.http10 = 0.5
    profile.chunkMax = 4
    profile.pipelining = 0.6
    profile.slowReaders = 0.3
    profile.socketBuffers = [512, 4096]
    profile.slots = 2...8
    return profile
  }()

  /// Answers that begin before the request has been read, to requests that turn out to be wrong.
  static let early = {
    var profile = Profile(name: "early")
    profile.earlyReplies = 0.7
    profile.flaws = 0.6
    profile.tooLong = 0.7
    profile.bodyLimit = [1_000, 4_000]
    profile.streams = 0.7
    profile.dribbles = 0.5
    profile.chunkedRequests = 0.9
    profile.thinkNs = 20 * Nanoseconds.microsecond
    profile.http10 = 0
    return profile
  }()

  /// Clients that connect and never say anything.
  static let silence = {
    var profile = Profile(name: "silence")
    profile.keepsTime = true
    profile.timesFirstHead = true
    profile.silent = 0.5
    profile.leaps = 0
    return profile
  }()

  /// Everything that takes time, in time.
  static let prompt = {
    var profile = Profile(name: "prompt")
    profile.keepsTime = true
    profile.hangs = 0.1
    profile.slowConnects = 0.1
    profile.deaths = 0.1
    profile.refused = 0.05
    profile.idleCloses = 0.2
    profile.dribbles = 0.3
    profile.slowReaders = 0.2
    profile.stoppedReaders = 0.2
    profile.bigRate = 0.2
    profile.earlyReplies = 0.05
    profile.expectContinue = 0.2
    profile.socketBuffers = [4096, 16_384]
    profile.maxInFlight = [0, 1, 3]
    profile.flaws = 0.1
    profile.thinkNs = 500 * Nanoseconds.millisecond
    return profile
  }()
}
