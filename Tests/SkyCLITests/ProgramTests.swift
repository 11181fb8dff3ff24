// The built program over recorded files and over noise: `sky serve validate`, `sky yaml-to-json`, the completion scripts.

import ControlCore
import Foundation
import ProxyWire
import SimKit
import SkyCLI
import TestSupport
import Testing

/// A folder with recorded answers and real service files beside the repository; SKY_VECTORS names another.
private let vectorFolder: String? = {
  let named = ProcessInfo.processInfo.environment["SKY_VECTORS"]
  return named.flatMap { Places.exists($0) ? $0 : nil } ?? Places.shared("data")
}()

private func read(_ path: String) throws -> [PlainValue] {
  let bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
  guard case .list(let items) = PlainValue(try Json.parse(bytes)) else { return [] }
  return items
}

private func sky(_ words: [String], folder: String? = nil, environment: [String: String] = [:]) throws -> Outcome {
  try run(try Places.program("sky"), words, environment: environment, folder: folder, deadline: 20)
}

extension PlainValue {
  fileprivate var items: [PlainValue] { if case .list(let it) = self { it } else { [] } }
}

@Suite struct ValidateVectorTests {
  @Test(.enabled(if: vectorFolder.map { Places.exists($0 + "/service-yamls/expected.json") } == true))
  func realFiles() throws {
    let folder = try #require(vectorFolder) + "/service-yamls"
    let vectors = try read(folder + "/expected.json")
    #expect(!vectors.isEmpty)
    for vector in vectors {
      let name = vector["file"]?.text ?? "?"
      // The recorded run gave every missing value the text "dummy".
      var words = ["serve", "validate", name, "-o", "json"]
      for item in vector["null_envs"]?.items ?? [] { words += ["--env", "\(item.text ?? "")=dummy"] }
      for item in vector["null_secrets"]?.items ?? [] { words += ["--secret", "\(item.text ?? "")=dummy"] }
      let outcome = try sky(words, folder: folder)
      let found = try PlainValue(jsonText: outcome.output)
      let validate = vector["validate"]?.text
      let isFine = vector["parse"]?.text == "ok" && (validate == "ok" || validate?.hasPrefix("ConnectionError") == true)
      #expect(outcome.exit == .code(isFine ? 0 : 1), "\(name): \(outcome.errors)")
      #expect(found["parse"]?.text == vector["parse"]?.text, "\(name)")
      if !isFine { #expect(outcome.errors.hasPrefix("\(name):"), "\(outcome.errors)") }
      for key in ["service", "service_repr", "resources_kind", "n_resources", "resources", "num_nodes"] {
        #expect(found[key]?.sorted == vector[key]?.sorted, "\(name) \(key)")
      }
      for key in ["null_envs", "null_secrets"] where vector["parse"]?.text == "ok" {
        #expect(found[key] == vector[key], "\(name) \(key)")
      }
      if let validate, !validate.hasPrefix("ConnectionError") {
        #expect(found["validate"]?.text == validate, "\(name)")
      }
    }
  }

  @Test func smallInputs() throws {
    let folder = try TemporaryFolder()
    var vectors = try read(Places.packageRoot + "/Tests/Corpus/spec/parser-vectors.json")
    if let more = vectorFolder.map({ $0 + "/parser-vectors.json" }), Places.exists(more) {
      let known = Set(vectors.compactMap { $0["name"]?.text })
      vectors += try read(more).filter { !known.contains($0["name"]?.text ?? "") }
    }
    for vector in vectors {
      let name = vector["name"]?.text ?? "?"
      // Waits for -1 replicas in SkyServe; refused here.
      if name == "replicas_neg" { continue }
      let file = try folder.write(vector["yaml"]?.text ?? "", to: "\(name).yaml")
      let outcome = try sky(["serve", "validate", file, "-o", "json"])
      let found = try PlainValue(jsonText: outcome.output)
      #expect(found["parse"]?.text == vector["parse"]?.text, "\(name)")
      #expect(outcome.exit == .code(0) || outcome.exit == .code(1), "\(name)")
      if vector["parse"]?.text != "ok" {
        #expect(outcome.exit == .code(1) && outcome.errors.hasPrefix("\(file):"), "\(name): \(outcome.errors)")
        continue
      }
      if let service = vector["service"] { #expect(found["service"]?.sorted == service.sorted, "\(name)") }
      if let echo = vector["repr"]?.text { #expect(found["service_repr"]?.text == echo, "\(name)") }
      if let resources = vector["resources"] {
        #expect(found["resources_kind"] == resources["kind"], "\(name)")
        let expected = resources["items"]?.items.map { $0.sorted.json(.python) }.sorted()
        #expect(found["resources"]?.items.compactMap(\.text).sorted() == expected, "\(name)")
      }
      if let validate = vector["validate"] { #expect(found["validate"] == validate, "\(name)") }
    }
  }
}

@Suite struct ValidateTests {
  @Test func theEcho() throws {
    let folder = try TemporaryFolder()
    let file = try folder.write(
      "service: {readiness_probe: /ok, replicas: 2}\nresources: {ports: 80}\nrun: x\n", to: "s.yaml")
    let outcome = try sky(["serve", "validate", file], folder: folder.path)
    #expect(outcome.exit == .code(0) && outcome.errors == "")
    #expect(outcome.output.hasPrefix("Readiness probe method:           GET /ok\n"))
    #expect(outcome.output.split(separator: "\n").count == 7)
  }

  /// What stands beside a service that is well, or in its resources.
  static let refused: [(yaml: String, words: [String])] = [
    ("workdir: gone\n", []), ("file_mounts: {~/a: /none/such, ~/b: ./neither}\n", []), ("secrets: {T: }\n", []),
    ("file_mounts: {~/a: s3://bucket}\n", []), ("file_mounts: {/etc/x: .}\n", []), ("num_nodes: 2\n", []),
    ("", ["--num-nodes", "2"]), ("", ["--workdir", "gone"]), ("", ["--infra", "aws"]), ("", ["--image-id", "docker:x"]),
    ("", ["--gpus", "H100:64"]), ("", ["--cpus", "100000"]), ("", ["--memory", "900000"]), ("secrets: {T: hunter2}\nworkdir: ./$T\n", []),
    ("tls: {certfile: none.pem, keyfile: none.pem}\n", []), ("tls: {certfile: s.yaml, keyfile: s.yaml}\n", []),
  ]

  /// In the same words, and it is the file that counts.
  @Test(arguments: refused) func saysWhatUpWouldSay(yaml: String, words: [String]) throws {
    let folder = try TemporaryFolder()
    var service = "service:\n  readiness_probe: /\n"
    var rest = "resources: {ports: 80}\nrun: x\n"
    if yaml.hasPrefix("tls") { service += "  " + yaml } else { rest += yaml }
    _ = try folder.write(service + rest, to: "s.yaml")
    let home = ["SKY_HOME": folder.file("home"), "SKYPILOT_CONFIG": folder.file("none")]
    let plain = try sky(["serve", "validate", "s.yaml"] + words, folder: folder.path, environment: home)
    #expect(plain.exit == .code(0) && plain.output.hasPrefix("Readiness probe method:"))
    let json = try sky(["serve", "validate", "s.yaml", "-o", "json"] + words, folder: folder.path, environment: home)
    #expect(json.exit == .code(0) && json.errors == plain.errors)
    #expect(!plain.errors.contains("hunter2") && !json.output.contains("hunter2"))
    let beginning = "`sky serve up` would not take it here:\n"
    let said = try #require(try PlainValue(jsonText: json.output)["up"]?.text)
    #expect(plain.errors == "\(beginning)\(said)\n")
    #expect(!Places.exists(folder.file("home")), "nothing was started")
    // Only a controller finds out what is wrong with TLS files that are there.
    if yaml.contains("s.yaml") { return #expect(said.contains("s.yaml is no PEM file")) }
    let up = try sky(["serve", "up", "s.yaml", "-n", "x"] + words, folder: folder.path, environment: home)
    let isFailure = up.errors.hasPrefix("Error: ")
    #expect(up.exit == .code(1) && up.errors == (isFailure ? "Error: " : "") + said + "\n", "\(up.errors)")
  }

  @Test func secretsAreHidden() async throws {
    let folder = try TemporaryFolder()
    let file = try folder.write(
      "service: {readiness_probe: /}\nresources: {ports: 80}\nsecrets: {T: hunter2}\nenvs: {A: b}\n", to: "s.yaml")
    let played = await play("serve", "validate", file, "-o", "json", "--secret", "U=hunter3")
    #expect(played.exit == 0 && !played.output.contains("hunter"))
    let found = try PlainValue(jsonText: played.output)
    #expect(found["secrets"]?.json() == #"{"T":"<redacted>","U":"<redacted>"}"#)
    #expect(found["envs"]?.json() == #"{"A":"b"}"#)
  }

  /// Whatever the bytes: an answer with a place, never a crash. The seed replays it.
  @Test func noise() async throws {
    var chance = Chance()
    let folder = try TemporaryFolder()
    let beginnings =
      try read(Places.packageRoot + "/Tests/Corpus/spec/parser-vectors.json").compactMap { $0["yaml"]?.text }
      .map { Array($0.utf8) }
    let pieces: [[UInt8]] = [
      "service:", "\n", "  ", "- ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "|", ">", "'", "\"", ": ", "#", "---\n", "!!str ",
      "resources:", "ports: ", "8080", "-1", "1e999", "null", "${A}", "\t", "\u{FEFF}", "any_of: ", "accelerators: ", "A100:8:1",
      "envs: ", "é", "\u{0}", "replicas: ", "99999999999999999999", "0x", "1:2:3", ".inf", "secrets: ",
    ].map { Array($0.utf8) } + [[0xFF], [0xC3]]
    for round in 0..<600 {
      let bytes = chance.mutated(chance.pick(beginnings), pieces: pieces)
      let path = folder.file("noise.yaml")
      try Data(bytes).write(to: URL(fileURLWithPath: path))
      let words = ["serve", "validate", path] + (chance.below(2) == 0 ? ["-o", "json"] : []) + (chance.below(4) == 0 ? ["--gpus", "L4"] : [])
      let played = await play(words: words)
      #expect(played.exit == 0 || played.exit == 1, "\(chance.replay()), round \(round)")
      if played.exit == 1 {
        // What an option asks for stands nowhere in the file.
        let rest = played.errors.dropFirst(path.count + 1).split(separator: ":", maxSplits: 2)
        let isPlaced = rest.count == 3 && Int(rest[0]) != nil && Int(rest[1]) != nil
        #expect(
          played.errors.hasPrefix("\(path):") && (isPlaced || words.contains("--gpus")),
          "\(chance.replay()), round \(round): \(played.errors)")
      }
      if words.contains("json") { _ = try PlainValue(jsonText: played.output) }
    }
  }
}

@Suite struct YamlToJsonTests {
  @Test func documents() throws {
    let program = try Places.program("sky")
    let outcome = try run("/bin/sh", ["-c", "printf 'a: [1, yes, 0x10]\\n---\\nb\\n' | \"$0\" yaml-to-json", program])
    #expect(outcome.exit == .code(0) && outcome.output == "{\"a\":[1,true,16]}\n\"b\"\n")
    let broken = try run("/bin/sh", ["-c", "printf 'a: [1' | \"$0\" yaml-to-json", program])
    #expect(broken.exit == .code(1) && broken.output == "" && broken.errors.hasPrefix("<stdin>:1:"))
  }

  @Test(.enabled(if: Places.shared("tools/yamlrun.py") != nil && Places.shared("data/yaml") != nil && Places.hasPython))
  func recordedCases() throws {
    let runner = try #require(Places.shared("tools/yamlrun.py"))
    let folder = try #require(Places.shared("data/yaml"))
    let files = try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".json") }.sorted()
    let command = ["--cmd", "\(try Places.program("sky")) yaml-to-json", "--cases"] + files.map { "\(folder)/\($0)" }
    let core = try run("python3", [runner] + command + ["--profile", "core"])
    #expect(core.exit == .code(0), "\(core.output)")
    let all = try run("python3", [runner] + command)
    let total = try #require(all.output.split(separator: "\n").last { $0.contains("TOTAL") })
    let share = try #require(total.split(separator: " ").last.flatMap { Double($0.dropLast()) })
    #expect(share >= 97, "\(all.output)")
  }
}

@Suite struct CompletionTests {
  private let web = PlayedController([Sample.services[0], Sample.service("other", .ready)])

  static let cases: [(words: [String], found: [String])] = [
    (["sky", "ser"], ["serve"]), (["sky", ""], ["serve", "status", "check", "gpus", "show-gpus", "api", "completion"]),
    (["sky", "serve", "st"], ["status"]), (["sky", "serve", "up", ""], [":files"]),
    (["sky", "serve", "up", "--en"], ["--env-file", "--env"]), (["sky", "serve", "up", "--clo"], []),
    (["sky", "serve", "up", "--env-file", ""], [":files"]), (["sky", "serve", "up", "--workdir", "x"], [":folders"]),
    (["sky", "serve", "update", "--mode", ""], ["rolling", "blue_green"]),
    (["sky", "serve", "update", "--mode=b"], ["--mode=blue_green"]),
    (["sky", "serve", "update", "--mode", "=", "b"], ["blue_green"]), (["sky", "serve", "update", "--mode", "="], ["rolling", "blue_green"]),
    (["sky", "serve", "update", "w"], ["web"]), (["sky", "serve", "update", "web", ""], [":files"]),
    (["sky", "serve", "update", "-n", "web", ""], [":files"]), (["sky", "serve", "update", "web", "x.yaml", ""], []),
    (["sky", "serve", "down", ""], ["web", "other"]), (["sky", "serve", "down", "web", ""], ["other"]),
    (["sky", "serve", "logs", "web", ""], ["1", "2", "3", "4"]), (["sky", "serve", "logs", "web", "1", ""], ["2", "3", "4"]),
    (["sky", "serve", "logs", "--tail", "5", "o"], ["other"]), (["sky", "serve", "status", "--", "-"], []),
    (["sky", "completion", "z"], ["zsh"]), (["sky", "--install-shell-completion", "f"], ["fish"]),
    (["sky", "nonsense", ""], []),
  ]

  @Test(arguments: cases)
  func candidates(words: [String], found: [String]) async {
    let played = await play(
      words: ["complete-words", "--", String(words.count - 1)] + words, controller: web)
    let shown = played.output.split(separator: "\n").map { String($0.prefix { $0 != "\t" }) }
    #expect(shown == found, "\(words)")
    #expect(played.exit == 0 && played.errors == "")
  }

  @Test func withoutAController() async {
    #expect(await play("complete-words", "--", "3", "sky", "serve", "down", "").output == "")
    #expect(await play("complete-words", "--", "9", "sky").output == "")
  }

  @Test(arguments: ["bash", "zsh", "fish"])
  func scriptsAreGoodShell(shell: String) async throws {
    let script = await play("completion", shell)
    #expect(script.exit == 0 && script.output.contains("complete-words --"))
    let folder = try TemporaryFolder()
    let file = try folder.write(script.output, to: "sky.\(shell)")
    guard Places.tool(shell) != nil else {
      print("note: no \(shell) on this machine")
      return
    }
    let outcome = try run(shell, ["-n", file])
    #expect(outcome.exit == .code(0) && outcome.errors == "", "\(outcome.errors)")
  }

  /// As bash calls it when the user presses Tab.
  @Test func bashCompletes() throws {
    let folder = try TemporaryFolder()
    let program = try Places.program("sky")
    _ = try folder.write("", to: "my service.yaml")
    let script = """
      cd '\(folder.path)' && source <('\(program)' completion bash)
      ask() { COMP_WORDS=('\(program)' "${@:2}") COMP_CWORD=$(($# - 1)); _sky; printf '%s|' "${COMPREPLY[@]}"; echo; }
      ask sky serve stat
      ask sky serve update --mode bl
      ask sky serve up my
      ask sky serve logs --no
      """
    let outcome = try run("bash", ["-c", script], environment: ["SKY_HOME": folder.file("home")])
    #expect(outcome.output == "status|\nblue_green|\nmy service.yaml|\n--no-follow|\n", "\(outcome.errors)")
  }

  @Test func installing() async throws {
    let folder = try TemporaryFolder()
    let home = ["HOME": folder.path, "SHELL": "/usr/bin/bash"]
    let file = folder.file(".local/share/bash-completion/completions/sky")
    let installed = await play("--install-shell-completion", "auto", environment: home)
    #expect(installed.exit == 0 && installed.output.hasPrefix("Wrote \(file).\n"))
    #expect(try Places.text(file) == (await play("completion", "bash")).output)
    let removed = await play("--uninstall-shell-completion", "bash", environment: home)
    #expect(removed.output == "Removed \(file).\n" && !Places.exists(file))
    let unknown = await play("--install-shell-completion", "auto", environment: ["SHELL": "/bin/tcsh"])
    #expect(unknown.exit == 1 && unknown.errors.contains("'tcsh' is not known"))
  }
}

/// The program as people start it: exit codes, colours and prompts of the real terminal and of pipes.
@Suite struct TerminalTests {
  @Test func emptyHomes() throws {
    let folder = try TemporaryFolder()
    let home = ["SKY_HOME": folder.file("home")]
    let status = try sky(["serve", "status"], environment: home)
    #expect(status.exit == .code(0) && status.output == "Services\nNo live services. (See: sky serve -h)\n")
    #expect(try sky(["serve", "down", "--all", "-y"], environment: home).output == "No service to terminate.\n")
    #expect(try sky(["serve", "logs", "web", "1"], environment: home).exit == .code(1))
    #expect(!Places.exists(folder.file("home/controller.sock")), "nothing was started for a question")
  }

  /// Ctrl-C says so; Ctrl-\ ends the program at once, without a search for what might be wrong with it.
  @Test(.enabled(if: Places.hasPython), arguments: [
    ("\\x03", 1, "[Y/n]: ^C\nAborted!\n"), ("\\x1c", 256 - SIGQUIT, "[Y/n]: ^\\"),
  ])
  func keysAtThePrompt(_ key: String, _ exit: Int32, _ shown: String) throws {
    let folder = try TemporaryFolder()
    let file = try folder.write(
      "service: {readiness_probe: /}\nresources: {ports: 80}\nrun: x\n", to: "service.yaml")
    let player = """
      import os, pty, sys
      pid, screen = pty.fork()
      if pid == 0:
          os.execv(sys.argv[1], ["sky", "serve", "up", sys.argv[2], "-n", "x"])
      seen = b""
      while b"Proceed? [Y/n]: " not in seen:
          seen += os.read(screen, 4096)
      os.write(screen, b"\(key)")
      try:
          while part := os.read(screen, 4096):
              seen += part
      except OSError:
          pass
      sys.stdout.write(seen.decode().replace("\\r", "").rsplit("Proceed? ", 1)[1])
      sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
      """
    let outcome = try run(
      "python3", ["-c", player, Places.program("sky"), file],
      environment: ["SKY_HOME": folder.file("home"), "TERM": "dumb"], deadline: 20)
    #expect(outcome.exit == .code(exit), "\(outcome.errors)")
    #expect(outcome.output == shown)
    #expect(!Places.exists(folder.file("home/controller.sock")), "nothing was started")
  }

  /// `script` gives the program a terminal.
  @Test(.enabled(if: Places.tool("script") != nil))
  func onATerminal() throws {
    let folder = try TemporaryFolder()
    let program = try Places.program("sky")
    func look(_ environment: [String: String]) throws -> String {
      try run(
        "script", ["-qec", "\(program) serve status", "/dev/null"],
        environment: ["SKY_HOME": folder.file("home"), "TERM": "xterm", "NO_COLOR": ""].merging(environment) { $1 }
      ).output
    }
    #expect(try look([:]).contains("\u{1B}[36m\u{1B}[1mServices\u{1B}[0m"))
    #expect(try !look(["NO_COLOR": "1"]).contains("\u{1B}"))
    #expect(try !look(["TERM": "dumb"]).contains("\u{1B}"))
  }
}
