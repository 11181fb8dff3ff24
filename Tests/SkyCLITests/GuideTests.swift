// The user guide's tutorials, word for word through the built `sky`, and the examples that `make run` shows. Each home
// is a folder of its own; afterwards nothing of it runs.

import Foundation
import TestSupport
import Testing

/// A user with a folder to work in and `sky` on the PATH.
private final class User: Sendable {
  let folder: TemporaryFolder
  let environment: [String: String]
  let programs: String

  init() throws {
    folder = try TemporaryFolder()
    programs = URL(fileURLWithPath: try Places.program("sky")).deletingLastPathComponent().path
    // Other tests may run beside this one: ports of its own, as far as chance goes.
    let first = Int.random(in: 20_000...32_000)
    let config = try folder.write("local: {ports: \(first)-\(first + 60)}\n", to: "config.yaml")
    environment = [
      "SKY_HOME": folder.file("s"), "HOME": folder.path, "SKYPILOT_CONFIG": config,
      "PATH": "\(programs):\(ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin")",
    ]
  }

  /// Whatever is left when a test fails.
  deinit {
    _ = eventually {
      let left = processes
      for pid in left { kill(pid, SIGKILL) }
      return left.isEmpty
    }
  }

  var processes: [pid_t] {
    let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc"))?.compactMap { pid_t($0) } ?? []
    let mark = Data(folder.path.utf8)
    return all.filter { pid in
      pid != getpid()
        && ["cmdline", "environ"].contains { name in
          (try? Data(contentsOf: URL(fileURLWithPath: "/proc/\(pid)/\(name)")))?.range(of: mark) != nil
        }
    }
  }

  /// As typed into a shell.
  @discardableResult
  func type(_ line: String, expecting exit: Int32 = 0, location: SourceLocation = #_sourceLocation) throws -> String {
    let outcome = try run("/bin/bash", ["-c", line], environment: environment, folder: folder.path, deadline: 60)
    #expect(outcome.exit == .code(exit), "\(line): \(outcome.output)\(outcome.errors)", sourceLocation: location)
    return outcome.output
  }

  func awaitStatus(_ what: String, _ line: String = "sky serve status", location: SourceLocation = #_sourceLocation) throws {
    let came = eventually { try self.type(line).contains(what) }
    if !came { Issue.record("never '\(what)': \(try type("sky serve status -v"))", sourceLocation: location) }
  }

  /// Ends the controller, too; then nothing may be left.
  func leave(location: SourceLocation = #_sourceLocation) throws {
    try type("sky serve down --all -y")
    try awaitStatus("No existing services.")
    try type("sky api stop")
    #expect(eventually { self.processes.isEmpty }, "something of it still runs", sourceLocation: location)
  }
}

@Suite(.serialized, .enabled(if: Places.hasPython && Places.hasCurl))
struct GuideTests {
  private static let page = "<html>\n<body>\n    <p>Hello, SkyServe!</p>\n</body>\n</html>\n"

  @Test func helloSkyServe() throws {
    let user = try User()
    _ = try user.folder.write(Self.page, to: "index.html")
    let python = Places.tool("python") == nil ? "python3" : "python"
    _ = try user.folder.write(
      """
      # hello-sky-serve.yaml
      service:
        readiness_probe: /
        replicas: 2

      resources:
        ports: 8080
        cpus: 1+

      workdir: web

      run: \(python) -m http.server 8080

      """, to: "hello-sky-serve.yaml")
    try user.type("mkdir web && mv index.html web")
    // Enter at the prompt.
    let up = try user.type("echo | sky serve up hello-sky-serve.yaml -n http-server")
    #expect(up.contains("Launching a new service 'http-server'. Proceed? [Y/n]: "))
    #expect(up.hasSuffix("✓ Service is spinning up and replicas will be ready shortly.\n"))
    try user.awaitStatus("  2/2  ")
    // Ready is known a moment before it is acted on.
    try user.awaitStatus(Self.page, "curl -sS $(sky serve status http-server --endpoint)")
    #expect(try user.type("sky serve status").contains("http-server   1   1        http://127."))

    try user.awaitStatus("\"GET / HTTP/1.1\" 200", "sky serve logs http-server 1 --no-follow")
    let log = try user.type("sky serve logs http-server 1 --no-follow")
    #expect(log.hasPrefix("Start streaming logs for launching process of replica 1.\n"))
    #expect(log.contains("Start streaming logs for task job of replica 1...\n"))
    // The proxy writes its log a moment later.
    try user.awaitStatus("target=\"/\" status=200", "sky serve logs http-server --load-balancer --no-follow")
    #expect(try user.type("sky serve logs http-server --controller --tail 5").contains("service=http-server"))
    // Followed, until Ctrl-C.
    let follower = try ChildProcess(
      try Places.program("sky"), ["serve", "logs", "http-server", "1"], environment: user.environment)
    _ = try follower.line(onOutput: true) { $0.contains("GET / HTTP/1.1") }
    follower.signal(SIGINT)
    #expect(follower.waitForExit() == .signal(SIGINT) && follower.standardError == "")

    try user.type("sky serve down http-server -y")
    try user.awaitStatus("Service 'http-server' not found.", "sky serve status http-server")
    try user.leave()
  }

  /// A replica made of a controller, a model worker and an API server that meet at 127.0.0.1:21001; three of them.
  @Test func severalProcesses() throws {
    let user = try User()
    try user.type("ln -s '\(Places.packageRoot)/examples' examples")
    try user.type("sky serve up examples/several-processes.yaml -n vicuna -y")
    try user.awaitStatus("  3/3  ")
    let ask =
      "curl -sS $(sky serve status vicuna --endpoint)/v1/chat/completions -X POST "
      + #"-d '{"model":"parrot-7b","messages":[{"role":"user","content":"hi"}]}' -H 'Content-Type: application/json'"#
    // Ready is known a moment before it is acted on.
    try user.awaitStatus("hi! says", ask)
    var seen: Set<String> = []
    for _ in 0..<30 where seen.count < 3 {
      let answer = try user.type(ask)
      #expect(answer.contains("hi! says parrot-7b of replica "), "\(answer)")
      for id in ["1", "2", "3"] where answer.contains("of replica \(id)") { seen.insert(id) }
    }
    #expect(seen.count == 3, "each worker is the one of its own replica: \(seen)")
    try user.leave()
  }

  /// What `make run` shows, and shows again.
  @Test func theStoryOfMakeRun() throws {
    let user = try User()
    let first = try user.type("'\(Places.packageRoot)/examples/hello.sh' '\(user.programs)'")
    #expect(first.contains("2/2 replicas are READY.") && first.contains("<p>Hello from replica "))
    #expect(first.contains("sky serve down hello"))
    let again = try user.type("'\(Places.packageRoot)/examples/hello.sh' '\(user.programs)'")
    #expect(again.hasPrefix("The service 'hello' is up already.\n") && again.contains("<p>Hello from replica "))
    try user.leave()
  }

  @Test func theOtherExamplesAreGood() throws {
    let files = Places.files(under: "examples").filter { $0.hasSuffix(".yaml") }
    #expect(files.count >= 5)
    for file in files {
      let text = try Places.text(file)
      let secrets = text.contains("\nsecrets:\n  TOKEN:\n") ? ["--secret", "TOKEN=x"] : []
      let outcome = try run(
        try Places.program("sky"), ["serve", "validate", file] + secrets, folder: Places.packageRoot)
      #expect(outcome.exit == .code(0), "\(outcome.errors)")
    }
  }
}
