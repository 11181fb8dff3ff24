// Takes along what a version of a service is made of, so that replicas launched weeks later are made of what the user
// had when the command was given:
//
//   <version>/files/workdir/      the workdir without what .skyignore, else git, ignores, and without .git
//   <version>/files/mounts/<n>    the n-th file mount of the service file
//
// Filled under another name and renamed when it is whole: it is there, or it is not.

import CPlatform
import Foundation

struct LocalStage {
  /// What was staged into a version's folder.
  struct Content {
    let files: String
    var workdir: String { files + "/workdir" }
    func mount(_ index: Int) -> String { files + "/mounts/\(index)" }
  }

  static func content(of folder: String) -> Content { Content(files: folder + "/files") }

  let task: TaskSpec
  let folder: String
  let environment: [String: String]

  /// Seconds; a bigger workdir belongs into a file system of its own.
  private static let copyMax = 3600.0
  private static let cloneMax = 1800.0

  // MARK: Before anything is copied

  /// What cannot be on this machine, however long one waits.
  static func check(_ task: TaskSpec, userHome: String) throws(InfraError) {
    for mount in task.fileMounts {
      let place = mount.destination
      switch mount.source {
      case .storage:
        throw InfraError(
          .impossible,
          "file_mounts: \(place) is a bucket; replicas on this machine take local files only. Download it, and give its "
            + "path: '\(place): /path/on/this/machine'.")
      case .path(let source) where source.contains("://"):
        let shown = withoutPassword(source)
        throw InfraError(
          .impossible,
          "file_mounts: \(place) comes from \(shown); replicas on this machine take local files only. Download it in "
            + "'setup:', or give a local path.")
      case .path: break
      }
      if PrivateHome.relative(place, userHome: userHome) == nil {
        let inside = place.split(separator: "/").filter { $0 != ".." && !$0.hasPrefix("~") }.joined(separator: "/")
        throw InfraError(
          .impossible,
          "file_mounts: \(place) lies outside of the replica's home, which is all that replicas on this machine have to "
            + "themselves. Write ~/\(inside) instead, there and in the commands that use it.")
      }
    }
  }

  // MARK: Copying

  func run() async throws(InfraError) {
    let content = Self.content(of: folder)
    if exists(content.files) { return }
    // Of this process and this call; what an earlier process left unfinished is of no use.
    let mine = "files.new-\(getpid())-"
    for name in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    where name.hasPrefix("files.new-") && !name.hasPrefix(mine) {
      try? FileManager.default.removeItem(atPath: folder + "/" + name)
    }
    let draft = folder + "/" + mine + UUID().uuidString
    let fresh = Content(files: draft)
    do throws(InfraError) {
      do throws(PrivateFile.Failure) {
        try PrivateFile.makeFolder(folder)
        try PrivateFile.makeFolder(draft + "/mounts")
      } catch {
        throw InfraError(.failed, error.description)
      }
      switch task.workdir {
      case .local(let path): try await copyWorkdir(path, to: fresh.workdir)
      case .git(let url, let ref): try await clone(url, ref, to: fresh.workdir)
      case nil: break
      }
      for (index, mount) in task.fileMounts.enumerated() {
        guard case .path(let source) = mount.source else { continue }
        guard exists(source) else {
          throw InfraError(
            .impossible,
            "File mount source '\(source)' does not exist locally. To fix: check if it exists, and correct the path.")
        }
        try await tool("/bin/cp", ["-aHT", "--reflink=auto", "--", source, fresh.mount(index)], "copying \(source)")
      }
      if rename(draft, content.files) != 0 {
        let code = errno
        // Another call may have been first.
        guard exists(content.files) else { throw InfraError(.failed, "cannot rename \(draft): \(errorText(code))") }
        try? FileManager.default.removeItem(atPath: draft)
      }
    } catch {
      try? FileManager.default.removeItem(atPath: draft)
      throw error
    }
  }

  private func copyWorkdir(_ path: String, to place: String) async throws(InfraError) {
    var isFolder = ObjCBool(false)
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue else {
      throw InfraError(
        .impossible, "Workdir '\(path)' is not a folder of this machine. To fix: correct 'workdir:' or --workdir.")
    }
    let files = try await filesToTake(path)
    do throws(PrivateFile.Failure) { try PrivateFile.makeFolder(place) } catch {
      throw InfraError(.failed, error.description)
    }
    let list = place + ".list"
    do throws(PrivateFile.Failure) {
      try PrivateFile.write(Data(files.map { $0 + "\0" }.joined().utf8), to: list)
    } catch {
      throw InfraError(.failed, error.description)
    }
    defer { unlink(list) }
    // Names in the list begin with ./ so that none looks like an option.
    try await tool(
      "/usr/bin/xargs", ["-0", "-r", "-a", list, "cp", "-a", "--parents", "--reflink=auto", "-t", place],
      "copying \(path)", folder: path)
  }

  /// Files, links and empty folders below a workdir, as `./name`.
  private func filesToTake(_ path: String) async throws(InfraError) -> [String] {
    if let text = FileManager.default.contents(atPath: path + "/.skyignore") {
      return walk(path, IgnoreRules(String(decoding: text, as: UTF8.self)))
    }
    if let git = ChildProcess.findProgram("git", environment: environment),
      let listed = try? await ChildProcess.run(
        git, ["-C", path, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."],
        environment: environment, seconds: 120, outputMax: 256 << 20), listed.exit == .code(0)
    {
      // A tracked file may have been deleted.
      return Set(listed.output.split(separator: 0)).map { "./" + String(decoding: $0, as: UTF8.self) }.sorted()
        .filter { isThere(path + "/" + $0) }
    }
    return walk(path, IgnoreRules(""))
  }

  private func walk(_ top: String, _ rules: IgnoreRules) -> [String] {
    var result: [String] = []
    var open = [""]
    while let folder = open.popLast() {
      let names = (try? FileManager.default.contentsOfDirectory(atPath: top + "/" + folder)) ?? []
      if names.isEmpty, !folder.isEmpty { result.append("./" + folder) }
      for name in names.sorted() {
        let path = folder.isEmpty ? name : folder + "/" + name
        if path == ".git" { continue }
        var facts = stat()
        guard lstat(top + "/" + path, &facts) == 0 else { continue }
        let isFolder = facts.st_mode & S_IFMT == S_IFDIR
        if rules.ignores(path, isFolder: isFolder) { continue }
        if isFolder { open.append(path) } else { result.append("./" + path) }
      }
    }
    return result
  }

  private func clone(_ url: String, _ ref: String?, to place: String) async throws(InfraError) {
    guard let git = ChildProcess.findProgram("git", environment: environment) else {
      throw InfraError(.failed, "git is not installed, and 'workdir: url:' needs it. Install git.")
    }
    let shown = Self.withoutPassword(url)
    try await tool(
      git, ["clone", "--quiet", "--", url, place], "cloning \(shown)", seconds: Self.cloneMax, hiding: url)
    if let ref {
      try await tool(
        git, ["-C", place, "checkout", "--quiet", "--detach", ref, "--"], "checking out '\(ref)' of \(shown)",
        hiding: url)
    }
  }

  private func tool(
    _ path: String, _ arguments: [String], _ what: String, folder: String? = nil, seconds: Double = LocalStage.copyMax,
    hiding secret: String? = nil
  ) async throws(InfraError) {
    var environment = environment
    // Nobody is there to answer.
    environment["GIT_TERMINAL_PROMPT"] = "0"
    let finished: ChildProcess.Finished
    do throws(SubprocessError) {
      finished = try await ChildProcess.run(
        path, arguments, environment: environment, folder: folder, seconds: seconds)
    } catch {
      throw InfraError(.failed, "\(what): \(error.description)")
    }
    if finished.exit == .code(0) { return }
    var said = finished.text.trimmingCharacters(in: .whitespacesAndNewlines)
    if let secret { said = said.replacingOccurrences(of: secret, with: Self.withoutPassword(secret)) }
    throw InfraError(.failed, "\(what): \(said.isEmpty ? finished.exit.description : said)")
  }

  /// `https://me:secret@host/x` as `https://host/x`.
  static func withoutPassword(_ url: String) -> String {
    guard let scheme = url.range(of: "://") else { return url }
    let rest = url[scheme.upperBound...]
    let authority = rest.prefix { $0 != "/" }
    guard let at = authority.lastIndex(of: "@") else { return url }
    return url[..<scheme.upperBound] + String(rest[rest.index(after: at)...])
  }

  private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

  private func isThere(_ path: String) -> Bool {
    var facts = stat()
    return lstat(path, &facts) == 0
  }
}
