// The CLI's side of the API: routes as they travel, the controller's own words in errors, one controller started by many
// commands.

import Foundation
import TestSupport
import Testing

@testable import ControlCore

@Suite struct ApiClientTests {
  /// A controller that answers health by itself and everything else as the test says.
  private func client(
    version: String = ControlVersion.text, _ answer: @escaping @Sendable (HttpRequest) -> HttpReply,
    _ body: (ApiClient) async throws -> Void
  ) async throws {
    let folder = try TemporaryFolder()
    let paths = Paths(home: folder.path, configFile: folder.file("config.yaml"))
    let server = try HttpServer(socketPath: paths.controllerSocket) { request, out in
      if request.target == "/v1/health" {
        let health = HealthReply(version: version, pid: 77, startedAt: 1, services: 2)
        await out.send(HttpReply(status: 200, body: ApiCodec.encode(health)))
      } else {
        await out.send(answer(request))
      }
    }
    let running = Task { await server.run() }
    let result: Result<Void, any Error>
    do { result = .success(try await body(ApiClient(paths: paths, startsController: false))) } catch {
      result = .failure(error)
    }
    server.stop()
    await running.value
    try result.get()
  }

  @Test func everyRouteTravelsAsItIsWritten() async throws {
    let seen = Shared<[String]>([])
    let task = try TaskText(TaskSpec(yaml: Array("run: x\nenvs: {aB_c: 1}\n".utf8), name: "t.yaml"))
    let update = UpdateReply(name: "a b", version: 2, replicasKept: true, notes: ["n"])
    let status = StatusReply(services: [], missing: ["x"])
    try await client({ request in
      seen.with { $0.append("\(request.method) \(request.target) \(String(decoding: request.body, as: UTF8.self))") }
      let path = request.target
      let data =
        switch (request.method, path) {
        case (_, "/v1/local"):
          ApiCodec.encode(
            LocalReply(cpus: 1, cpusFree: 1, memory: 1, memoryFree: 1, gpus: [], addressing: "own", servicesMax: 3))
        case (_, "/v1/estimate"): ApiCodec.encode(EstimateReply(offers: []))
        case ("POST", "/v1/services"): ApiCodec.encode(UpReply(name: "a b", endpoint: "e"))
        case (_, "/v1/down"): ApiCodec.encode(DownReply(names: ["a"], skipped: []))
        case ("GET", _) where path.hasSuffix("/history"): ApiCodec.encode(HistoryReply(name: "a b", versions: []))
        case ("GET", _): ApiCodec.encode(status)
        case (_, _) where path.hasSuffix("/terminate"): ApiCodec.encode(MessageReply(message: "m"))
        default: ApiCodec.encode(update)
        }
      return HttpReply(status: request.method == "POST" ? 201 : 200, body: data)
    }) { (client: ApiClient) async throws in
      #expect(try await client.health().pid == 77)
      #expect(try await client.local().servicesMax == 3)
      #expect(try await client.estimate(EstimateRequest(task: task)).offers.isEmpty)
      #expect(try await client.up(UpRequest(name: "a b", task: task)).endpoint == "e")
      #expect(try await client.status() == status)
      #expect(try await client.status(["web-*", "a&b=c"]) == status)
      #expect(try await client.update("a b", UpdateRequest(task: task, mode: .blueGreen)) == update)
      #expect(try await client.rollback("a/b") == update)
      #expect(try await client.history("a b").name == "a b")
      #expect(try await client.down(DownRequest(names: ["a"], all: false, purge: true)).names == ["a"])
      #expect(try await client.terminate("ü", replica: 3, TerminateRequest(purge: false)).message == "m")
    }
    let lines = seen.value
    #expect(lines.count == 10)
    #expect(lines[3].hasPrefix("GET /v1/services "))
    #expect(lines[4].hasPrefix("GET /v1/services?name=web-%2A&name=a%26b%3Dc "))
    #expect(lines[5].hasPrefix("POST /v1/services/a%20b/update {\"mode\":\"blue_green\",\"task\":"))
    #expect(lines[5].contains("aB_c"), "the user's own keys are changed on the way")
    #expect(lines[6] == "POST /v1/services/a%2Fb/rollback ")
    #expect(lines[9] == "POST /v1/services/%C3%BC/replicas/3/terminate {\"purge\":false}")
  }

  @Test func refusalsCarryTheControllersWords() async throws {
    try await client({ request in
      switch request.target {
      case "/v1/services/a/history":
        HttpReply(status: 404, body: ApiCodec.encode(ErrorReply(error: "Service 'a' does not exist.")))
      case "/v1/services/b/history": HttpReply(status: 502, body: Data("<html>".utf8))
      case "/v1/services/c/history": HttpReply(status: 200, body: Data("{}".utf8))
      default: HttpReply(status: 409, body: ApiCodec.encode(ErrorReply(error: "not now")))
      }
    }) { (client: ApiClient) async throws in
      func failure(_ name: String) async -> ApiError? {
        do throws(ApiError) {
          _ = try await client.history(name)
          return nil
        } catch { return error }
      }
      #expect(await failure("a") == ApiError(.refused(404), "Service 'a' does not exist."))
      #expect(await failure("b") == ApiError(.refused(502), "the controller answered with status 502"))
      #expect(await failure("c")?.kind == .connection)
      let error = await #expect(throws: ApiError.self) { _ = try await client.logs("x", .replica(3), follow: true) }
      #expect(error == ApiError(.refused(409), "not now"))
    }
  }

  @Test func logsStream() async throws {
    let seen = Shared<[String]>([])
    try await client({ request in
      seen.with { $0.append(request.target) }
      return HttpReply(status: 200, body: Data("line 1\nline 2\n".utf8))
    }) { (client: ApiClient) async throws in
      for (target, follow, tail) in [
        (LogTarget.controller, false, nil), (.loadBalancer, true, nil), (.replica(7), false, 5),
      ] as [(LogTarget, Bool, Int?)] {
        var text: [UInt8] = []
        for try await piece in try await client.logs("a", target, follow: follow, tail: tail) { text += piece }
        #expect(String(decoding: text, as: UTF8.self) == "line 1\nline 2\n")
      }
    }
    #expect(
      seen.value == [
        "/v1/services/a/logs?target=controller", "/v1/services/a/logs?target=load_balancer&follow=1",
        "/v1/services/a/logs?target=replica&replica=7&tail=5",
      ])
  }

  @Test func anotherVersionIsSaid() async throws {
    try await client(version: "9.9.9", { _ in HttpReply(status: 200) }) { (client: ApiClient) async throws in
      let error = await #expect(throws: ApiError.self) { _ = try await client.status() }
      #expect(
        error?.description
          == "the controller that runs is version 9.9.9, and this sky is version \(ControlVersion.text). Stop it with `kill 77`: services go on, and the next command starts the new one."
      )
    }
  }

  /// A controller that hangs is named, once per command and only after a while.
  @Test func whoIsWaitedForIsSaid() async throws {
    let folder = try TemporaryFolder()
    let paths = Paths(home: folder.path, configFile: folder.file("config.yaml"))
    let said = Shared<[String]>([])
    let server = try HttpServer(socketPath: paths.controllerSocket) { request, out in
      // Answers when it has been complained of.
      _ = try? await soon { !said.value.isEmpty }
      let health = HealthReply(version: ControlVersion.text, pid: 77, startedAt: 1, services: 0)
      let reply = request.target == "/v1/health" ? ApiCodec.encode(health) : ApiCodec.encode(StatusReply(services: [], missing: []))
      await out.send(HttpReply(status: 200, body: reply))
    }
    let running = Task { await server.run() }
    let slow = SlowAnswer(after: 0.05) { text in said.with { $0.append(text) } }
    let client = ApiClient(paths: paths, startsController: true, slow: slow)
    _ = try await client.status()
    #expect(said.value == ["waiting for the controller (process \(getpid()))…"])
    // From here on it answers at once.
    let quiet = Shared<[String]>([])
    let patient = ApiClient(
      paths: paths, startsController: false, slow: SlowAnswer(after: 20) { text in quiet.with { $0.append(text) } })
    _ = try await patient.status()
    #expect(quiet.value == [])
    server.stop()
    await running.value
  }

  // MARK: Starting

  private struct Home {
    let folder = try! TemporaryFolder()
    var paths: Paths { Paths(home: folder.path + "/home", configFile: folder.file("config.yaml")) }

    func client(_ script: String, starts: Bool = true) throws -> ApiClient {
      let program = try folder.write("#!/bin/sh\n" + script, to: "sky-controller")
      chmod(program, 0o755)
      return ApiClient(paths: paths, startsController: starts, environment: ["PATH": "/usr/bin:/bin"], program: program)
    }
  }

  @Test func noneIsStartedUnlessThatIsWanted() async throws {
    let home = Home()
    let client = try home.client("echo started >> \(home.folder.file("starts"))", starts: false)
    let error = await #expect(throws: ApiError.self) { _ = try await client.status() }
    #expect(error == ApiError(.notRunning, "the controller is not running"))
    #expect(!Places.exists(home.folder.file("starts")))
  }

  @Test func aControllerThatEndsIsQuoted() async throws {
    let home = Home()
    let client = try home.client("echo 'before this'; echo \"SKY_HOME is $SKY_HOME, here is $PWD\" >&2; exit 3")
    let error = await #expect(throws: ApiError.self) { _ = try await client.status() }
    #expect(
      error
        == ApiError(
          .cannotStart,
          "the controller ended with exit code 3. It said:\nbefore this\nSKY_HOME is \(home.paths.home), here is /"))
    // Only what the last one said.
    let again = await #expect(throws: ApiError.self) { _ = try await client.status() }
    #expect(again == error)
    let nowhere = ApiClient(paths: home.paths, startsController: true, program: "/no/such/program")
    let missing = await #expect(throws: ApiError.self) { _ = try await nowhere.status() }
    #expect(missing?.description == "cannot start /no/such/program: No such file or directory")
  }

  /// Ten commands at once, and a controller that takes its time: it is started once, and all wait for it.
  @Test(.enabled(if: Places.hasPython)) func manyCommandsStartOneController() async throws {
    let home = Home()
    let listening = """
      import os, socket, sys, time
      open(sys.argv[1], 'a').write('x')
      while not os.path.exists(sys.argv[2]): time.sleep(0.005)
      here = socket.socket(socket.AF_UNIX)
      here.bind(os.environ['SKY_HOME'] + '/controller.sock')
      here.listen(64)
      while True:
        client, _ = here.accept()
        asked = client.recv(65536)
        if b'/v1/health' in asked: body = b'{"version":"\(ControlVersion.text)","pid":%d,"started_at":1,"services":0}' % os.getpid()
        elif b'/v1/services ' in asked: body = b'{"services":[],"missing":[],"similar":{}}'
        client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
        client.close()
      """
    let program = try home.folder.write(listening, to: "listening.py")
    let client = try home.client("exec python3 \(program) \(home.folder.file("starts")) \(home.folder.file("go"))")
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<10 { group.addTask { _ = try await client.status() } }
      #expect(try await soon { Places.exists(home.folder.file("starts")) })
      _ = try home.folder.write("", to: "go")
      try await group.waitForAll()
    }
    let controller = try #require(ProcessIdentity.current(try await client.health().pid))
    #expect(try Places.text(home.folder.file("starts")) == "x", "more than one was started")
    controller.signal(SIGKILL)
    #expect(await controller.waitForEnd(patience))
  }

  /// The one before is just ending, and holds the state until it has.
  @Test func aBusyStateIsWaitedFor() async throws {
    let home = Home()
    let count = home.folder.file("count")
    let client = try home.client(
      "echo x >> \(count); [ $(wc -l < \(count)) -gt 3 ] && exit 1; echo 'in use by another controller'; exit \(ApiClient.exitCodeBusy)"
    )
    let error = await #expect(throws: ApiError.self) { _ = try await client.status() }
    #expect(error?.description.hasPrefix("the controller ended with exit code 1.") == true)
    #expect(try Places.text(count) == "x\nx\nx\nx\n")
  }
}
