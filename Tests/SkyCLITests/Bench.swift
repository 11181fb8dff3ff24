// A command line played in memory: a terminal that is written down, answers from a script, and a controller that
// records what it is asked.

import ControlCore
import Foundation
import SkyCLI
import TestSupport

struct Played: Sendable {
  var exit: Int32
  var output: String
  var errors: String
}

/// Plays one command line. `answers` are the lines of the standard input; after them it ends.
func play(
  _ words: String..., answers: [String] = [], controller: PlayedController? = nil, width: Int? = nil,
  colors: Bool = false, environment: [String: String] = [:], folder: String = "/", now: Double = 1_000_000
) async -> Played {
  await play(
    words: words, answers: answers, controller: controller, width: width, colors: colors, environment: environment,
    folder: folder, now: now)
}

func play(
  words: [String], answers: [String] = [], controller: PlayedController? = nil, width: Int? = nil,
  colors: Bool = false, environment: [String: String] = [:], folder: String = "/", now: Double = 1_000_000
) async -> Played {
  let written = Shared((output: [UInt8](), errors: [UInt8]()))
  let script = Shared(answers[...])
  let terminal = Terminal(
    isInteractive: false, width: width, hasColors: colors, errorsHaveColors: colors,
    writing: { stream, bytes in
      written.with { if stream == .output { $0.output += bytes } else { $0.errors += bytes } }
    },
    asking: { question in
      written.with { $0.output += Array(question.utf8) }
      return script.with { $0.popFirst() }.map { .line($0) } ?? .end
    })
  let session = Session(
    terminal: terminal, environment: ["HOME": "/home/ada", "USER": "ada"].merging(environment) { $1 }, folder: folder,
    paths: Paths(home: "/nowhere", configFile: "/nowhere/config.yaml"), door: PlayedDoor(controller: controller), machine: { PlayedMachine() },
    now: { now }, random: { 0xABCD_00F3 })
  let exit = await SkyCommand.run(words, session)
  return Played(
    exit: exit, output: String(decoding: written.value.output, as: UTF8.self),
    errors: String(decoding: written.value.errors, as: UTF8.self))
}

struct PlayedMachine: MachineCalls {
  func describe() async -> LocalReply {
    LocalReply(
      cpus: 8, cpusFree: 8, memory: 31.25, memoryFree: 20,
      gpus: [.init(name: "A100", total: 2, free: 1, memory: 40)], addressing: "own loopback addresses", servicesMax: 31)
  }

  func offers(for task: TaskSpec) throws(InfraError) -> [Offer] {
    if let gpu = task.resources.all[0].accelerator, gpu.name != "A100" {
      throw InfraError(.impossible, "\(gpu) was asked; this machine has A100:2. Change 'accelerators:' in resources.")
    }
    if task.numNodes > 1 {
      throw InfraError(.impossible, "num_nodes: \(task.numNodes) was asked. Remove 'num_nodes:', or set it to 1.")
    }
    return [
      Offer(
        infra: "Local (this machine)", instance: "-", cpus: "2", memory: "-", gpus: "-", hourlyCost: 0, isChosen: true)
    ]
  }

  func notes(for task: TaskSpec) -> [String] { task.resources.all[0].isSpot ? ["No spot here."] : [] }
}

struct PlayedDoor: ControllerDoor {
  var controller: PlayedController?
  func open(_ need: ControllerNeed) async throws(ApiError) -> (any ControllerCalls)? {
    if controller == nil, case .always = need { throw ApiError(.cannotStart, "no controller") }
    return controller
  }
}

final class PlayedController: ControllerCalls, Sendable {
  struct Asked: Sendable {
    var names: [String] = []
    var up: UpRequest?
    var update: UpdateRequest?
    var down: DownRequest?
    var terminated: (id: Int, purge: Bool)?
    var logs: [(target: LogTarget, follow: Bool, tail: Int?)] = []
  }

  let asked = Shared(Asked())
  let services: [ServiceStatusReport]
  let refusal: ApiError?
  let notes: [String]
  /// How a log ends.
  let logsEnd: HttpError?

  init(
    _ services: [ServiceStatusReport] = [], refusal: ApiError? = nil, notes: [String] = [], logsEnd: HttpError? = nil
  ) {
    self.logsEnd = logsEnd
    self.services = services
    self.refusal = refusal
    self.notes = notes
  }

  func health() async throws(ApiError) -> HealthReply {
    HealthReply(version: "0.1.0", pid: 4711, startedAt: 1_000_000 - 7200, services: services.count)
  }

  func estimate(_ request: EstimateRequest) async throws(ApiError) -> EstimateReply {
    let machine = PlayedMachine()
    guard let task = try? request.task.task() else { throw ApiError(.refused(400), "no") }
    do throws(InfraError) {
      return EstimateReply(offers: try machine.offers(for: task), notes: notes)
    } catch {
      throw ApiError(.refused(400), error.description)
    }
  }

  func up(_ request: UpRequest) async throws(ApiError) -> UpReply {
    asked.with { $0.up = request }
    if let refusal { throw refusal }
    return UpReply(name: request.name, endpoint: "http://127.0.0.1:30001")
  }

  func status(_ names: [String]) async throws(ApiError) -> StatusReply {
    asked.with { $0.names = names }
    let known = services.map(\.name)
    let missing = names.filter { !known.contains($0) }
    return StatusReply(
      services: services.filter { names.isEmpty || names.contains($0.name) }, missing: missing,
      similar: missing.contains("wbe") && known.contains("web") ? ["wbe": "web"] : [:])
  }

  func update(_ name: String, _ request: UpdateRequest) async throws(ApiError) -> UpdateReply {
    asked.with { $0.update = request }
    if let refusal { throw refusal }
    return UpdateReply(name: name, version: 2, replicasKept: false)
  }

  func rollback(_ name: String) async throws(ApiError) -> UpdateReply {
    UpdateReply(name: name, version: 4, replicasKept: false)
  }

  func history(_ name: String) async throws(ApiError) -> HistoryReply {
    func version(_ number: Int, wasReady: Bool) -> HistoryReply.Version {
      .init(
        version: number, createdAt: 1_000_000 - 3600 / Double(number), mode: .rolling, wasReady: wasReady,
        isActive: number == 2, rollbackOf: nil, policy: "Fixed 1 replica", requestedResources: "1x[CPU:2]",
        yaml: "version: \(number)\n")
    }
    return HistoryReply(
      name: name,
      versions: [version(1, wasReady: true), version(2, wasReady: true), version(3, wasReady: false)])
  }

  func down(_ request: DownRequest) async throws(ApiError) -> DownReply {
    asked.with { $0.down = request }
    let known = services.map(\.name)
    return DownReply(names: request.all ? known : request.names.filter(known.contains), skipped: notes)
  }

  func terminate(_ name: String, replica id: Int, _ request: TerminateRequest) async throws(ApiError) -> MessageReply {
    asked.with { $0.terminated = (id, request.purge) }
    if let refusal { throw refusal }
    return MessageReply(message: "Replica \(id) of service '\(name)' is scheduled to be terminated.")
  }

  func local() async throws(ApiError) -> LocalReply { await PlayedMachine().describe() }

  func logs(
    _ name: String, _ target: LogTarget, follow: Bool, tail: Int?
  ) async throws(ApiError) -> AsyncThrowingStream<[UInt8], any Error> {
    asked.with { $0.logs.append((target, follow, tail)) }
    if let refusal { throw refusal }
    let text = Shared(["log of \(target)", "\n"][...])
    return AsyncThrowingStream { [logsEnd] in
      if let piece = text.with({ $0.popFirst() }) { return Array(piece.utf8) }
      if let logsEnd { throw logsEnd }
      return nil
    }
  }
}

// MARK: - The captured sample

enum Sample {
  static let now = 1_000_000.0

  static func service(
    _ name: String, _ status: ControlCore.ServiceStatus, versions: [Int] = [1], uptime: Double? = nil,
    endpoint: String? = nil, replicas: [ControlCore.ReplicaStatusReport] = []
  ) -> ServiceStatusReport {
    var report = ServiceStatusReport(
      name: name, version: versions.max() ?? 1, activeVersions: versions, status: status, createdAt: now - 4000,
      tlsEncrypted: false, policy: "Fixed 1 replica", loadBalancingPolicy: "least_load",
      requestedResourcesStr: "1x[CPU:2+]", targetNumReplicas: replicas.count, requestRate: 0, replicaInfo: replicas)
    report.uptimeSince = uptime
    report.endpoint = endpoint
    return report
  }

  static func replica(
    _ id: Int, _ version: Int, _ status: ControlCore.ReplicaStatus, endpoint: String? = nil, launched: Double? = nil,
    infra: String? = nil, resources: String? = nil, isSpot: Bool = false, detail: String? = nil, reason: String? = nil
  ) -> ReplicaStatusReport {
    var report = ReplicaStatusReport(replicaId: id, version: version, status: status, isSpot: isSpot)
    report.endpoint = endpoint
    report.launchedAt = launched.map { now - $0 }
    report.infra = infra
    report.resourcesStr = resources
    report.statusDetail = detail
    report.reason = reason
    return report
  }

  /// The services of the reference's captured tables.
  static let services = [
    service(
      "web", .ready, versions: [1, 2], uptime: now - 604, endpoint: "http://3.90.1.2:30001",
      replicas: [
        replica(
          1, 1, .ready, endpoint: "http://10.0.0.5:8080", launched: 11 * 60, infra: "AWS (us-east-1a)",
          resources: "1x(cpus=2, mem=8, m6i.large, ...)"),
        replica(
          2, 2, .starting, endpoint: "http://10.0.0.6:8080", launched: 2 * 60, infra: "AWS (us-east-1b)",
          resources: "1x[spot](gpus=L4:1, cpus=4, mem=16, ...)", isSpot: true),
        replica(
          3, 2, .provisioning, launched: 3, infra: "Kubernetes (ctx)", resources: "1x(cpus=2, mem=2, ...)",
          detail: "waiting for queue admission"),
        replica(4, 2, .pending),
      ]),
    service("zero", .noReplica, versions: []),
  ]

  /// As captured from SkyServe; blanks at the ends of lines are part of it.
  static let text = """
    Services
    NAME  VERSION  UPTIME  STATUS      REPLICAS  ENDPOINT               
    web   1,2      10m 4s  READY       1/4       http://3.90.1.2:30001  
    zero  -        -       NO_REPLICA  0/0       -                      

    Service Replicas
    SERVICE_NAME  ID  VERSION  ENDPOINT              LAUNCHED        INFRA             RESOURCES                                 STATUS                                      
    web           1   1        http://10.0.0.5:8080  11 mins ago     AWS (us-east-1a)  1x(cpus=2, mem=8, m6i.large, ...)         READY                                       
    web           2   2        http://10.0.0.6:8080  2 mins ago      AWS (us-east-1b)  1x[spot](gpus=L4:1, cpus=4, mem=16, ...)  STARTING                                    
    web           3   2        -                     a few secs ago  Kubernetes (ctx)  1x(cpus=2, mem=2, ...)                    PROVISIONING (waiting for queue admission)  
    web           4   2        -                     -               -                 -                                         PENDING                                     

    """
}
