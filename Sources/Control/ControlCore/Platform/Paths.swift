// Where everything lies on disk. One value, made once at start from the environment, handed to whoever needs a path.
//
//   ~/.skyserve (SKY_HOME)                     0700, and so is every folder in it; files and sockets 0600
//     controller.sock  controller.log  controller.start (the lock of whoever starts one)
//     state/                                   Store: lock, snapshot, journal
//     services/<name>/
//       proxy.sock  proxy.conf  load_balancer.log
//       versions/<N>/                          what InfraProvider.stage took: workdir, file mounts; and the TLS files
//       replicas/<id>/                         launch.log, run.log and whatever the infra keeps of it

import Foundation

package struct Paths: Hashable, Sendable {
  /// Absolute, without a trailing slash.
  package let home: String
  /// SkyPilot's own configuration, read and never written: `~/.sky/config.yaml`.
  package let configFile: String

  package init(home: String, configFile: String) {
    self.home = home
    self.configFile = configFile
  }

  /// `SKY_HOME`, or `~/.skyserve`; `SKYPILOT_CONFIG`, or `~/.sky/config.yaml`.
  package init(environment: [String: String]) {
    let user = environment["HOME"] ?? NSHomeDirectory()
    func absolute(_ path: String) -> String {
      let expanded = path.hasPrefix("~/") ? user + path.dropFirst() : path
      return URL(fileURLWithPath: expanded).standardizedFileURL.path
    }
    home = absolute(environment["SKY_HOME"].flatMap { $0.isEmpty ? nil : $0 } ?? "~/.skyserve")
    configFile = absolute(environment["SKYPILOT_CONFIG"].flatMap { $0.isEmpty ? nil : $0 } ?? "~/.sky/config.yaml")
  }

  package static let homeCure = "It is SKY_HOME, or lies in it: set that to a folder of yours."

  /// For whoever starts with it.
  package func makeHome() throws(PrivateFile.Failure) {
    do throws(PrivateFile.Failure) { try PrivateFile.makeFolder(home) } catch {
      let said = error.description
      throw PrivateFile.Failure("\(said.hasSuffix(".") ? said : said + ".") \(Self.homeCure)")
    }
  }

  package var controllerSocket: String { home + "/controller.sock" }
  package var controllerLog: String { home + "/controller.log" }
  package var state: String { home + "/state" }
  package var services: String { home + "/services" }

  package func service(_ name: String) -> String { services + "/" + name }
  package func proxySocket(_ name: String) -> String { service(name) + "/proxy.sock" }
  package func proxyLog(_ name: String) -> String { service(name) + "/load_balancer.log" }
  package func versions(_ name: String) -> String { service(name) + "/versions" }
  package func version(_ name: String, _ number: Int) -> String { versions(name) + "/\(number)" }
  package func replicas(_ name: String) -> String { service(name) + "/replicas" }
  package func replica(_ name: String, _ id: Int) -> String { replicas(name) + "/\(id)" }

  /// What a launch did before the user's commands began, and what those wrote: setup, then run.
  package func launchLog(_ name: String, _ id: Int) -> String { replica(name, id) + "/launch.log" }
  package func runLog(_ name: String, _ id: Int) -> String { replica(name, id) + "/run.log" }
}
