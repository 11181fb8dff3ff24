// The HOME of a replica's commands: what the user has at home, through links, and beside it what is the replica's own.
//
//   home/.cache ─▶ /home/ann/.cache      model weights, package caches, conda: shared with everything else
//   home/sky_workdir                     a copy of the staged workdir, the folder where setup and run begin
//   home/data/corpus                     a file mount; home/data is a folder of links then, so that nothing of it comes
//                                        into the user's own ~/data
//   home/controller.log                  what a command writes to ~ stays here

import Foundation

struct PrivateHome {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Made anew.
  let path: String
  let userHome: String
  /// Lies in the user's home, and would lead back into itself.
  let stateFolder: String

  func make() throws(Failure) {
    let files = FileManager.default
    try? files.removeItem(atPath: path)
    do throws(PrivateFile.Failure) { try PrivateFile.makeFolder(path) } catch {
      throw Failure(description: error.description)
    }
    for name in (try? files.contentsOfDirectory(atPath: userHome)) ?? [] where name != "sky_workdir" {
      let original = userHome + "/" + name
      if original == stateFolder { continue }
      symlink(original, path + "/" + name)
    }
  }

  /// The place for a mount, its parents made private: none of them leads into the user's own folders.
  /// - Parameter destination: below the home, `models/llama`.
  func place(_ destination: String) throws(Failure) -> String {
    let parts = destination.split(separator: "/").map(String.init)
    guard let last = parts.last, !parts.contains("..") else {
      throw Failure(description: "a file mount cannot go to ~/\(destination)")
    }
    var folder = path
    for part in parts.dropLast() {
      folder += "/" + part
      try makePrivate(folder)
    }
    let place = folder + "/" + last
    if isLink(place) { unlink(place) }
    return place
  }

  /// A link to a folder becomes a folder of links.
  private func makePrivate(_ folder: String) throws(Failure) {
    let target = try? FileManager.default.destinationOfSymbolicLink(atPath: folder)
    if target != nil { unlink(folder) }
    if mkdir(folder, 0o700) != 0, errno != EEXIST {
      throw Failure(description: "cannot make the folder \(folder): \(errorText(errno))")
    }
    guard let target else { return }
    let original = target.hasPrefix("/") ? target : (folder as NSString).deletingLastPathComponent + "/" + target
    for name in (try? FileManager.default.contentsOfDirectory(atPath: original)) ?? [] {
      symlink(original + "/" + name, folder + "/" + name)
    }
  }

  private func isLink(_ path: String) -> Bool {
    (try? FileManager.default.destinationOfSymbolicLink(atPath: path)) != nil
  }

  /// `~/x`, `/home/ann/x` or a plain `x` (which is put beside the code, as on a machine of its own) below the home;
  /// nil: outside of it.
  static func relative(_ destination: String, userHome: String) -> String? {
    let path: Substring
    if destination.hasPrefix("~/") {
      path = destination.dropFirst(2)
    } else if destination.hasPrefix(userHome + "/") {
      path = destination.dropFirst(userHome.count + 1)
    } else if destination.hasPrefix("/") || destination.hasPrefix("~") {
      return nil
    } else {
      path = "sky_workdir/" + destination[...]
    }
    let parts = path.split(separator: "/").filter { $0 != "." }
    return parts.isEmpty || parts.contains("..") ? nil : parts.joined(separator: "/")
  }
}
