// The command line as words: what is understood, what is refused and how, and that help tells everything.

import SkyCLI
import Testing

@Suite struct ParsingTests {
  private func parse(_ line: String) throws -> Call {
    let words = line.split(separator: " ").map(String.init)
    guard case .call(let call) = try Parsing.parse(words, root: CommandTable.root) else { throw Mistake() }
    return call
  }

  private struct Mistake: Error {}

  private func flag(_ call: Call, _ name: String) throws -> Flag {
    try #require(call.command.allFlags.first { $0.name == name })
  }

  @Test(arguments: [
    "serve up s.yaml -n web -y", "serve up -y -n web s.yaml", "serve up s.yaml --service-name web --yes",
    "serve up --service-name=web s.yaml -y", "serve up s.yaml -nweb -y", "serve up -yn web s.yaml",
    "serve up -ynweb s.yaml", "serve up -y -n=web -- s.yaml", "-- serve up -y -n web s.yaml",
  ])
  func oneMeaning(line: String) throws {
    let call = try parse(line)
    #expect(call.title == "sky serve up" && call.argument("SERVICE_YAML") == "s.yaml")
    #expect(try call.text(flag(call, "service-name")) == "web")
    #expect(try call.isOn(flag(call, "yes")))
  }

  @Test func repeatedAndPaired() throws {
    let call = try parse("serve up s.yaml --env A=1 --env B=x=y --no-use-spot --cpus 2 --cpus 4+")
    #expect(call.texts(try flag(call, "env")) == ["A=1", "B=x=y"])
    #expect(try call.choice(flag(call, "use-spot")) == false)
    #expect(try call.choice(flag(call, "async")) == nil)
    #expect(call.text(try flag(call, "cpus")) == "4+", "the last one counts")
    let logs = try parse("serve logs web 1 2 -s --no-follow")
    #expect(logs.all("REPLICA_IDS") == ["1", "2"])
    #expect(try logs.isOn(flag(logs, "sync-down")))
    #expect(logs.isOn(try flag(logs, "follow"), default: true) == false)
    #expect(try parse("serve update web s.yaml --mode BLUE_GREEN").text(Flag("mode", nil, .whole, "")) == "blue_green")
  }

  @Test func whatFollowsTwoDashesIsAnArgument() throws {
    #expect(try parse("serve status -- -v").all("SERVICE_NAMES") == ["-v"])
  }

  static let mistakes: [(line: String, usage: String, message: String)] = [
    ("serve up", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Missing argument 'SERVICE_YAML'."),
    (
      "serve update web", "Usage: sky serve update [OPTIONS] SERVICE_NAME SERVICE_YAML",
      "Missing argument 'SERVICE_YAML'."
    ),
    ("serve up a b", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Got unexpected extra argument (b)"),
    ("serve up a b c", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Got unexpected extra arguments (b c)"),
    (
      "serve up a --service-nam x", "Usage: sky serve up [OPTIONS] SERVICE_YAML",
      "No such option: --service-nam Did you mean --service-name?"
    ),
    ("serve up a --zzzz", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "No such option: --zzzz"),
    ("serve up a -q", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "No such option: -q"),
    ("serve up a -n", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Option '-n' requires an argument."),
    ("serve up a --env", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Option '--env' requires an argument."),
    ("serve up a --yes=1", "Usage: sky serve up [OPTIONS] SERVICE_YAML", "Option '--yes' does not take a value."),
    (
      "serve update a b --mode fast", "Usage: sky serve update [OPTIONS] SERVICE_NAME SERVICE_YAML",
      "Invalid value for '--mode': 'fast' is not one of 'rolling', 'blue_green'."
    ),
    (
      "serve logs a --tail x", "Usage: sky serve logs [OPTIONS] SERVICE_NAME [REPLICA_IDS]...",
      "Invalid value for '--tail': 'x' is not a valid integer."
    ),
    (
      "serve logs a b", "Usage: sky serve logs [OPTIONS] SERVICE_NAME [REPLICA_IDS]...",
      "Invalid value for '[REPLICA_IDS]...': 'b' is not a valid integer."
    ),
    ("serve stats", "Usage: sky serve [OPTIONS] COMMAND [ARGS]...", "No such command 'stats'. Did you mean 'status'?"),
    ("sevre up", "Usage: sky [OPTIONS] COMMAND [ARGS]...", "No such command 'sevre'. Did you mean 'serve'?"),
    ("qqqq", "Usage: sky [OPTIONS] COMMAND [ARGS]...", "No such command 'qqqq'."),
    ("serve --verbose", "Usage: sky serve [OPTIONS] COMMAND [ARGS]...", "No such option: --verbose"),
    ("completion tcsh", "Usage: sky completion [OPTIONS] SHELL", "Invalid value for 'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'."),
  ]

  @Test(arguments: mistakes)
  func mistakesAreAnsweredInClicksForm(line: String, usage: String, message: String) async {
    let words = line.split(separator: " ").map(String.init)
    let played = await play(words: words)
    #expect(played.exit == 2)
    #expect(played.output == "")
    let command = usage.dropFirst("Usage: ".count).prefix { $0 != "[" }.dropLast()
    #expect(played.errors == "\(usage)\nTry '\(command) --help' for help.\n\nError: \(message)\n")
  }

  @Test func version() async {
    let played = await play("--version")
    #expect(played.exit == 0 && played.output == "sky \(SkyCommand.version)\n")
  }
}

@Suite struct HelpTests {
  /// The reference's flags of each command.
  static let task = [
    "--workdir", "--infra", "--num-nodes", "--cpus", "--memory", "--disk-size", "--disk-tier", "--network-tier",
    "--use-spot / --no-use-spot", "--image-id", "--env-file", "--env", "--secret-file", "--secret", "--local-disk",
    "--gpus", "-t, --instance-type", "--ports", "--async / --no-async", "-y, --yes", "--config",
  ]
  static let flags: [(command: String, flags: [String])] = [
    ("serve up", task + ["-n, --service-name", "--git-url", "--git-ref"]),
    ("serve update", task + ["--mode [rolling|blue_green]"]),
    ("serve status", ["-v, --verbose", "--endpoint", "-o, --output"]),
    ("serve down", ["-a, --all", "-p, --purge", "-y, --yes", "--replica-id INTEGER", "--async / --no-async"]),
    (
      "serve logs",
      ["--follow / --no-follow", "--controller", "--load-balancer", "-s, --sync-down", "--tail INTEGER"]
    ),
    ("serve history", ["-o, --output", "--yaml"]), ("serve rollback", ["-y, --yes"]),
    ("serve validate", ["-o, --output", "--env", "--gpus"]), ("status", ["-v, --verbose", "-r, --refresh"]),
    ("check", ["-v, --verbose"]), ("show-gpus", ["-a, --all"]), ("gpus list", ["-a, --all"]),
  ]

  @Test(arguments: flags)
  func everyFlagIsTold(command: String, flags: [String]) async {
    for spelling in ["--help", "-h"] {
      let played = await play(words: command.split(separator: " ").map(String.init) + [spelling])
      #expect(played.exit == 0 && played.errors == "")
      let lines = played.output.split(separator: "\n")
      for flag in flags + ["-h, --help"] {
        #expect(lines.contains { $0 == "  \(flag)" || $0.hasPrefix("  \(flag) ") }, "\(flag) in:\n\(played.output)")
      }
      for hidden in ["--cloud", "--region", "--zone"] { #expect(!played.output.contains("  \(hidden)")) }
    }
  }

  private func all(_ path: [Command]) -> [[Command]] { [path] + path[path.count - 1].commands.flatMap { all(path + [$0]) } }

  @Test func everyCommandHasHelpThatFits() async {
    let paths = all([CommandTable.root])
    #expect(paths.count > 15)
    for path in paths {
      let played = await play(words: path.dropFirst().map(\.name) + ["--help"])
      #expect(played.exit == 0 && played.output == Help.text(path))
      #expect(played.output.hasPrefix("Usage: \(path.map(\.name).joined(separator: " ")) [OPTIONS]"))
      for line in played.output.split(separator: "\n") { #expect(line.count <= 100, "\(line)") }
      // Prose is wrapped; examples and tables stand as they are.
      for line in played.output.split(separator: "\n") where !line.hasPrefix("    ") {
        #expect(line.count <= 80, "\(line)")
      }
      for flag in path[path.count - 1].allFlags where !flag.isHidden {
        for spelling in flag.spellings { #expect(played.output.contains(spelling)) }
      }
    }
  }

  @Test func groupsListTheirCommands() async {
    let played = await play("serve")
    #expect(played.exit == 0)
    for name in ["up", "update", "status", "logs", "down", "history", "rollback", "validate"] {
      #expect(played.output.contains("\n  \(name) "))
    }
    let root = await play("--help")
    for hidden in ["yaml-to-json", "complete-words"] { #expect(!root.output.contains(hidden)) }
  }

  /// Rows that would not parse as they are shown.
  @Test func noSpellingStandsForTwoFlags() {
    for path in all([CommandTable.root]) {
      let spellings = path[path.count - 1].allFlags.flatMap(\.spellings)
      #expect(Set(spellings).count == spellings.count, "\(path.map(\.name))")
    }
  }
}
