// What is asked wrongly, or at the wrong time, is refused in SkyServe's words; and nothing of it is left.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite struct Refusals {
    @Test func commandsAtTheWrongTime() throws {
      let home = try ServeHome(config: "serve:\n  controller:\n    max_services: 1\n")
      let yaml = home.yaml("readiness_probe: /health\nreplicas: 1")
      let update = UpdateRequest(task: try home.task(yaml), mode: .rolling)
      #expect(
        try home.refusal("POST", "/v1/services/web/update", update)
          == (404, "Cannot find service 'web'. To spin up a service, use sky serve up"))
      try home.up("web", yaml)
      let again = try home.refusal("POST", "/v1/services", UpRequest(name: "web", task: try home.task(yaml)))
      #expect(again.status == 409)
      #expect(again.text.hasPrefix("The service 'web' is already running. Please specify a different name"), "\(again)")
      let second = try home.refusal("POST", "/v1/services", UpRequest(name: "other", task: try home.task(yaml)))
      #expect(
        second.text.hasPrefix(
          "Max number of services reached: 1/1 services are running. To spin up more services, please tear down some "
            + "existing ones."), "\(second)")
      #expect(
        try home.refusal("POST", "/v1/services/web/replicas/7/terminate", TerminateRequest(purge: false))
          == (404, "Replica 7 for service web does not exist."))
      #expect(
        try home.refusal("POST", "/v1/services/web/rollback").text.hasPrefix(
          "Service 'web' has no earlier version that was ready."))
      #expect(!Places.exists(home.home + "/services/other"))
    }

    @Test func names() throws {
      let home = try ServeHome()
      let yaml = home.yaml("readiness_probe: /health\nreplicas: 0")
      let bad = try home.refusal("POST", "/v1/services", UpRequest(name: "1web", task: try home.task(yaml)))
      #expect(bad.status == 400 && bad.text.contains("Service name '1web' is invalid"), "\(bad)")
      for name in ["my-svc", "my_svc", "other"] { try home.up(name, yaml) }
      // `_` stands for itself, `*` for anything.
      #expect(try home.down("my_svc").names == ["my_svc"])
      try home.await("one gone") { try home.services().map(\.name) == ["my-svc", "other"] }
      let asked = try home.ask("GET", "/v1/services?name=my*&name=nobody&name=othr", as: StatusReply.self)
      #expect(asked.missing == ["nobody", "othr"] && asked.similar == ["othr": "other"])
      #expect(
        try home.refusal("GET", "/v1/services/othr/history")
          == (404, "Service 'othr' does not exist. Did you mean 'other'?"))
      #expect(
        try home.down("nobody", "othr")
          == DownReply(
            names: [],
            skipped: [
              "Service 'nobody' does not exist.", "Service 'othr' does not exist. Did you mean 'other'?",
            ]))
      #expect(try home.down("*").names == ["my-svc", "other"])
      try home.await("all gone") { try home.services().isEmpty }
    }

    @Test func requestsThatMakeNoSense() throws {
      let home = try ServeHome()
      #expect(try home.refusal("GET", "/v2/services").status == 404)
      #expect(try home.refusal("DELETE", "/v1/services").status == 405)
      #expect(try home.refusal("POST", "/v1/down", DownRequest(names: [], all: false, purge: false)).status == 400)
      #expect(try home.raw("POST", "/v1/services", Data("{".utf8)).status == 400)
      #expect(try home.raw("GET", "/v1/services").status == 200, "and it goes on")
    }

    @Test func whatACrashHasLeftIsCleanedUp() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("web", 1)
      home.killController()
      // As if it had died between staging files and writing the command down, for an update and for an up.
      let folders = ["/services/web/versions/2", "/services/lost/versions/1"].map { home.home + $0 }
      for folder in folders {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try Data("x".utf8).write(to: URL(fileURLWithPath: folder + "/file"))
      }
      try home.startController()
      try home.await("cleaned up") { !Places.exists(folders[0]) && !Places.exists(home.home + "/services/lost") }
      #expect(Places.exists(home.home + "/services/web/versions/1"))
      try home.up("lost", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("lost", 1)
      try home.awaitSettled("web", 1)
    }

    @Test func everythingIsPrivate() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1", envs: ["A": "b"]))
      try home.awaitSettled("web", 1)
      var open: [String] = []
      let walk = FileManager.default.enumerator(atPath: home.home)
      while let name = walk?.nextObject() as? String {
        var facts = stat()
        guard lstat(home.home + "/" + name, &facts) == 0, facts.st_mode & S_IFMT != S_IFLNK else { continue }
        if facts.st_mode & 0o077 != 0 { open.append("\(name) \(String(facts.st_mode & 0o7777, radix: 8))") }
      }
      #expect(open == [])
    }
  }
}
