// What the program `sky` calls: the command line's entry.
//
//   words ─ Parsing (CommandTable) ─▶ Call ─ the command's action ─ ControllerDoor ─▶ the controller
//
// Errors end here: every one becomes a sentence on standard error and an exit code.

import ControlCore
import Foundation

package enum SkyCommand {
  package static let version = ControlVersion.text

  /// Runs the process's own words and ends the process.
  package static func main() async -> Never {
    // A reader that leaves is met where it is written to.
    signal(SIGPIPE, SIG_IGN)
    endOnQuit()
    let environment = ProcessInfo.processInfo.environment
    let paths = Paths(environment: environment)
    let terminal = Terminal.standard(environment: environment)
    let session = Session(
      terminal: terminal, environment: environment,
      folder: FileManager.default.currentDirectoryPath, paths: paths,
      // Also where nobody watches: a job's log shows then what it hung at.
      door: SocketDoor(paths: paths, environment: environment, slow: SlowAnswer { terminal.note($0) }),
      machine: { try LocalInfra(config: UserConfig(path: paths.configFile), environment: environment) },
      now: { Date().timeIntervalSince1970 }, random: { .random(in: .min ... .max) })
    exit(await run(Array(CommandLine.arguments.dropFirst()), session))
  }

  /// Ctrl-\ ends the program as it ends others: Swift's own handler would look for a mistake in it, for half a minute.
  private static func endOnQuit() {
    var old = sigaction()
    sigaction(SIGQUIT, nil, &old)
    let handler = unsafeBitCast(old.__sigaction_handler.sa_handler, to: Int.self)
    // Who started it may have had it ignored.
    if handler != unsafeBitCast(SIG_IGN, to: Int.self) { signal(SIGQUIT, SIG_DFL) }
  }

  /// The exit code.
  package static func run(_ words: [String], _ session: Session) async -> Int32 {
    let terminal = session.terminal
    let call: Call
    do throws(UsageError) {
      switch try Parsing.parse(words, root: CommandTable.root) {
      case .help(let path):
        terminal.print(Help.text(path), terminator: "")
        return 0
      case .version:
        terminal.print("sky \(version)")
        return 0
      case .call(let parsed): call = parsed
      }
    } catch {
      return usage(error.path, error.message, terminal)
    }
    do {
      try await (call.command.action ?? CompletionCommands.install)(call, session)
      return 0
    } catch let stop as Stop {
      switch stop {
      case .usage(let message): return usage(call.path, message, terminal)
      case .failure(let message): terminal.error("Error: \(message)")
      case .file(let message): terminal.error(message)
      case .aborted: terminal.plainError("Aborted!")
      case .exit(let code): return code
      }
      return 1
    } catch let error as ApiError {
      terminal.error("Error: \(error.description)")
      return 1
    } catch {
      terminal.error("Error: \(error)")
      return 1
    }
  }

  private static func usage(_ path: [Command], _ message: String, _ terminal: Terminal) -> Int32 {
    terminal.plainError(Help.advice(path))
    terminal.error("Error: \(message)")
    return 2
  }
}
