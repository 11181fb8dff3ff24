// The table of commands: everything `sky` can do, in the order help shows it.

package enum CommandTable {
  package static let root = Command(
    group: "sky",
    "Serve models on this machine: one endpoint per service, replicas launched, probed, replaced and scaled.",
    text: ["Start with `sky serve up service.yaml`; see `sky serve --help`."],
    flags: [.version, .installCompletion, .uninstallCompletion],
    commands: [
      serve, SkyStatus.command, Check.command, gpus, Gpus.showGpus, api, CompletionCommands.script, YamlToJson.command,
      CompletionCommands.words,
    ])

  static let serve = Command(
    group: "serve", "Commands for services: up, update, status, logs, down and more.",
    text: [
      "A service is a task that answers HTTP, run several times behind one endpoint.",
      "Example:",
      "  sky serve up service.yaml -n web\n  sky serve status web\n  sky serve logs web 1\n  sky serve down web",
    ],
    commands: [
      Up.command, Update.command, Status.command, Logs.command, Down.command, History.command, Rollback.command,
      Validate.command,
    ])

  static let gpus = Command(group: "gpus", "Accelerators of this machine.", commands: [Gpus.list])

  static let api = Command(
    group: "api", "The controller process itself.",
    commands: [ApiCommands.status, ApiCommands.start, ApiCommands.stop])
}
