// sky completion SHELL prints a shell's script; sky --install-shell-completion puts it where the shell finds it.

import ControlCore
import Foundation

enum Shell: String, CaseIterable {
  case bash, zsh, fish

  var script: String {
    switch self {
    case .bash:
      """
      # bash completion for sky
      _sky() {
        local line word=${COMP_WORDS[COMP_CWORD]}
        [ "$word" = "=" ] && word=
        COMPREPLY=()
        while IFS=$'\\t' read -r line _; do
          case $line in
            :files|:folders)
              compopt -o filenames 2>/dev/null
              local kind=-f
              [ "$line" = :folders ] && kind=-d
              while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen $kind -- "$word")
              ;;
            *) COMPREPLY+=("$line") ;;
          esac
        done < <("${COMP_WORDS[0]}" complete-words -- "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
      }
      complete -F _sky sky

      """
    case .zsh:
      """
      #compdef sky
      # zsh completion for sky
      _sky() {
        local line name doc
        local -a items
        while IFS= read -r line; do
          case $line in
            :files) _files ;;
            :folders) _files -/ ;;
            *)
              name=${line%%$'\\t'*}
              doc=
              [[ $line == *$'\\t'* ]] && doc=${line#*$'\\t'}
              items+=("${name//:/\\\\:}:$doc")
              ;;
          esac
        done < <("${words[1]}" complete-words -- $((CURRENT - 1)) "${words[@]}" 2>/dev/null)
        (( $#items )) && _describe 'sky' items
      }
      if [ "$funcstack[1]" = "_sky" ]; then _sky "$@"; else compdef _sky sky; fi

      """
    case .fish:
      """
      # fish completion for sky
      function __sky_complete
        set -l current (commandline -ct)
        set -l words (commandline -opc) "$current"
        for line in ($words[1] complete-words -- (math (count $words) - 1) $words 2>/dev/null)
          switch $line
            case ':files'
              __fish_complete_path "$current"
            case ':folders'
              __fish_complete_directories "$current"
            case '*'
              echo $line
          end
        end
      end
      complete -c sky -f -a '(__sky_complete)'

      """
    }
  }

  /// Where the shell looks by itself, or, for zsh, after one line in ~/.zshrc.
  func file(_ session: Session) -> String {
    let data = session.environment["XDG_DATA_HOME"] ?? session.home + "/.local/share"
    let config = session.environment["XDG_CONFIG_HOME"] ?? session.home + "/.config"
    switch self {
    case .bash: return data + "/bash-completion/completions/sky"
    case .zsh: return data + "/zsh/site-functions/_sky"
    case .fish: return config + "/fish/completions/sky.fish"
    }
  }

  func advice(_ file: String) -> String {
    switch self {
    case .bash: "New shells have it (package bash-completion). In this one: source \(file)"
    case .zsh: "In ~/.zshrc, before compinit: fpath+=(\((file as NSString).deletingLastPathComponent))"
    case .fish: "New shells have it."
    }
  }
}

enum CompletionCommands {
  static let script = Command(
    "completion", "Print the completion script of a shell.",
    text: [
      "Examples:",
      "  source <(sky completion bash)\n  sky completion fish > ~/.config/fish/completions/sky.fish\n"
        + "  sky --install-shell-completion auto",
    ], arguments: [Argument("SHELL", completion: .words(Shell.allCases.map(\.rawValue)))]
  ) { call, session in
    guard let shell = Shell(rawValue: call.argument("SHELL")) else {
      let names = Shell.allCases.map { "'\($0.rawValue)'" }.joined(separator: ", ")
      throw Stop.usage("Invalid value for 'SHELL': '\(call.argument("SHELL"))' is not one of \(names).")
    }
    session.terminal.print(shell.script, terminator: "")
  }

  /// What the scripts call.
  static let words = Command(
    "complete-words", "Print what could stand at a place of a command line.",
    arguments: [Argument("INDEX", isWhole: true), Argument("WORDS", .any)], isHidden: true
  ) { call, session in
    let found = await Completion.candidates(
      call.all("WORDS"), at: Int(call.argument("INDEX")) ?? 0, session)
    for candidate in found {
      session.terminal.print(candidate.doc.isEmpty ? candidate.word : "\(candidate.word)\t\(candidate.doc)")
    }
  }

  static let install: Command.Action = { call, session in
    let terminal = session.terminal
    let removes = call.text(.uninstallCompletion) != nil
    var name = call.text(.installCompletion) ?? call.text(.uninstallCompletion) ?? "auto"
    if name == "auto" { name = ((session.environment["SHELL"] ?? "") as NSString).lastPathComponent }
    guard let shell = Shell(rawValue: name) else {
      throw Stop.failure("The shell '\(name)' is not known. Name one: bash, zsh, fish.")
    }
    let file = shell.file(session)
    if removes {
      guard FileManager.default.fileExists(atPath: file) else {
        terminal.print("There is no \(file).")
        return
      }
      do { try FileManager.default.removeItem(atPath: file) } catch {
        throw Stop.failure("Cannot remove \(file): \(error.localizedDescription)")
      }
      terminal.print("Removed \(file).")
      return
    }
    do {
      try FileManager.default.createDirectory(
        atPath: (file as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
      try Data(shell.script.utf8).write(to: URL(fileURLWithPath: file))
    } catch {
      throw Stop.failure("Cannot write \(file): \(error.localizedDescription)")
    }
    terminal.print("Wrote \(file).\n\(shell.advice(file))")
  }
}
