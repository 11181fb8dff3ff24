// The controller and the proxies die at any moment, and are there again: what serves goes on serving, nothing is started
// twice, no number is given twice.

import ControlCore
import Foundation
import SimKit
import TestSupport
import Testing

extension Serve {
  @Suite struct Crashes {
    private func launches(_ home: ServeHome) -> [Int: Int] {
      // Each replica says so when it starts.
      var counts: [Int: Int] = [:]
      for id in 1...50 {
        let path = home.home + "/services/web/replicas/\(id)/run.log"
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { continue }
        counts[id] = text.components(separatedBy: "serving ").count - 1
      }
      return counts
    }

    @Test func aControllerKilledUnderLoadLosesNoRequest() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      let proxy = home.proxyProcess("web")
      let hammer = Hammer(try home.address("web"), clients: 4, pause: 0.002)
      defer { hammer.stop() }
      var chance = Chance()
      var version = 1
      for round in 0..<6 {
        // Something is under way each time: an update, or a replica that has to be replaced.
        if round % 2 == 0 {
          version += 1
          try home.update("web", home.yaml("readiness_probe: /health\nreplicas: 2", version: version))
        } else if case let ready = try home.replicas("web", .ready), ready.count > 1, let id = ready.first?.replicaId {
          // The update may have ended it in the meantime, which is said with 409.
          let reply = try home.raw(
            "POST", "/v1/services/web/replicas/\(id)/terminate", ApiCodec.encode(TerminateRequest(purge: false)))
          #expect([200, 409].contains(reply.status), "\(chance.replay()): \(reply.text)")
        }
        usleep(UInt32(chance.below(300_000)))
        home.killController()
        try home.startController()
      }
      try home.awaitSettled("web", 2)
      hammer.stop()
      #expect(summary(hammer) == [], "\(chance.replay()): \(home.logs)")
      #expect(hammer.answered > 100)
      #expect(home.proxyProcess("web") == proxy, "the proxy never stopped")
      let counts = launches(home)
      #expect(counts.values.allSatisfy { $0 <= 1 }, "\(chance.replay()): launched twice: \(counts) \(home.logs)")
      let ready = try home.replicas("web", .ready)
      for replica in ready { #expect(home.replicaProcesses(replica.replicaId).count == 1, "\(chance.replay())") }
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
      home.controller?.signal(SIGTERM)
      _ = home.controller?.waitForExit()
      #expect(home.processes.map(ServeHome.commandLine) == [], "\(chance.replay())")
    }

    /// Controller, proxy, replicas and those who keep them, one after the other and several at once.
    @Test func whateverDiesItComesBack() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      var chance = Chance()
      let hammer = Hammer(try home.address("web"), clients: 2, pause: 0.005) { _ in true }
      defer { hammer.stop() }
      var seen = Set<Int>()
      for _ in 0..<5 {
        var what = chance.below(15) + 1
        if what & 12 != 0 {
          // One replica at a time, and a whole one: those that fail one after the other are waited for 10 s.
          try home.awaitSettled("web", 2, 3 * patience)
          if what & 4 != 0 { what &= ~8 }
        }
        if what & 1 != 0 { home.killController() }
        if what & 2 != 0, let proxy = home.proxyProcess("web") { kill(proxy, SIGKILL) }
        let others = home.processes.filter { ServeHome.commandLine($0).contains("replica ") }
        if what & 4 != 0, let victim = others.randomElement() { kill(victim, SIGKILL) }
        if what & 8 != 0 {
          let servers = home.processes.filter { ServeHome.commandLine($0).contains("server.py") }
          if let victim = servers.randomElement() { kill(victim, SIGKILL) }
        }
        usleep(UInt32(chance.below(200_000)))
        if what & 1 != 0 { try home.startController() }
        seen.formUnion(try home.replicas("web").map(\.replicaId))
      }
      try home.awaitSettled("web", 2, 3 * patience)
      try home.await("served") { try home.fetch("web").status == 200 }
      let counts = launches(home)
      #expect(counts.values.allSatisfy { $0 <= 1 }, "\(chance.replay()): launched twice: \(counts) \(home.logs)")
      let ids = try home.replicas("web", .ready).map(\.replicaId)
      // Nobody serves whom nobody knows.
      let servers = home.processes.filter { ServeHome.commandLine($0).contains("server.py") }
      #expect(servers.count == 2, "\(chance.replay()): \(servers.map(ServeHome.commandLine)) \(home.picture)")
      #expect(ids.allSatisfy { home.replicaProcesses($0).count == 1 }, "\(chance.replay())")
      hammer.stop()
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
      home.controller?.signal(SIGTERM)
      _ = home.controller?.waitForExit()
      #expect(home.processes.map(ServeHome.commandLine) == [], "\(chance.replay())")
    }

    /// Replicas are asked to go while they are being launched, and the controller dies in between: each GPU has one
    /// owner, and comes back.
    @Test func launchesAndStopsCutShortGiveNoGpuTwice() throws {
      let home = try ServeHome(config: "  gpus: {T4: 2}\n")
      // Each says which GPU it has, and takes it: two at once are one too many.
      let run = """
        gpu="\(home.folder.file("gpu"))$CUDA_VISIBLE_DEVICES"
          trap 'rmdir "$gpu"; exit' TERM
          mkdir "$gpu" || exec sleep 1000
          python3 -S -u \(home.folder.file("server.py")) &
          wait
        """
      let yaml = home.yaml("readiness_probe: /health\nreplicas: 2", run: run, resources: "  accelerators: T4:1")
      try home.up("web", yaml)
      var chance = Chance()
      for _ in 0..<8 {
        usleep(UInt32(chance.below(150_000)))
        for replica in try home.replicas("web") where chance.hit(0.5) {
          // It may be gone by now.
          _ = try? home.raw(
            "POST", "/v1/services/web/replicas/\(replica.replicaId)/terminate",
            ApiCodec.encode(TerminateRequest(purge: false)))
        }
        usleep(UInt32(chance.below(50_000)))
        home.killController()
        try home.startController()
      }
      // What was cut short is done again, one after the other.
      try home.awaitSettled("web", 2, 3 * patience)
      let ids = try home.replicas("web").map(\.replicaId)
      let gpus = ids.map { home.gpus(of: $0) }
      #expect(Set(gpus) == ["0", "1"], "\(chance.replay()): \(gpus) \(home.picture) \(home.logs)")
      #expect(home.processes.count { ServeHome.commandLine($0).contains("server.py") } == 2, "\(chance.replay())")
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
      let local = try home.ask("GET", "/v1/local", as: LocalReply.self)
      #expect(local.gpus.map { "\($0.free)/\($0.total)" } == ["2/2"], "\(chance.replay())")
      home.controller?.signal(SIGTERM)
      _ = home.controller?.waitForExit()
      #expect(home.processes.map(ServeHome.commandLine) == [], "\(chance.replay())")
    }

    /// A controller that died while it started a proxy leaves one that the next does not know, and whose port it finds
    /// taken when it starts another.
    @Test func aProxyIsKnownByItsSocket() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 0"))
      try home.await("served") { try home.fetch("web").status == 503 }
      home.killController()
      let file = home.home + "/services/web/proxy.json"
      let other = try Program("/bin/sleep", ["1000"])
      defer { other.kill() }
      struct Identity: Codable {
        var process: ProcessIdentity
        var listen: String
      }
      var identity = try JSONDecoder().decode(Identity.self, from: Data(contentsOf: URL(fileURLWithPath: file)))
      identity.process = try #require(ProcessIdentity.current(other.pid))
      try JSONEncoder().encode(identity).write(to: URL(fileURLWithPath: file))
      try home.startController()
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
      #expect(home.proxyProcess("web") == nil)
      #expect(other.isRunning)
    }

    /// proxy.json was removed, or could not be written: what is known is in memory, and then behind the socket.
    @Test(arguments: [false, true])
    func aProxyThatIsNotWrittenDownIsEndedAllTheSame(_ isControllerKilled: Bool) throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 0"))
      try home.await("served") { try home.fetch("web").status == 503 }
      let file = home.home + "/services/web/proxy.json"
      #expect(unlink(file) == 0)
      try home.await("written again") { Places.exists(file) }
      // From now on it cannot be written.
      #expect(unlink(file) == 0)
      try FileManager.default.createDirectory(atPath: file + "/x", withIntermediateDirectories: true)
      if isControllerKilled {
        home.killController()
        try home.startController()
        try home.await("told") {
          try String(contentsOfFile: home.home + "/controller.log", encoding: .utf8).contains("is not written down: ")
        }
      }
      try home.down()
      try home.await("gone") { try home.services().isEmpty }
      #expect(home.proxyProcess("web") == nil)
    }

    @Test func aProxyThatDoesNotEndIsNamed() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 0"))
      try home.await("served") { try home.fetch("web").status == 503 }
      let proxy = try #require(home.proxyProcess("web"))
      kill(proxy, SIGSTOP)
      try home.down()
      let said = "the load balancer was to end "
      try home.await("said") {
        let reason = try home.service("web").reason ?? ""
        return reason.hasPrefix(said) && reason.hasSuffix(": process \(proxy) gets SIGTERM, and SIGKILL after 5 s")
      }
      try home.await("gone") { try home.services().isEmpty }
      #expect(home.proxyProcess("web") == nil)
    }

    /// A controller that has found the proxy running knows what to start the next one with.
    @Test func aKilledProxyHasItsListFromTheFirstRequestOn() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      home.killController()
      try home.startController()
      try home.awaitSettled("web", 2)
      let refused = Shared(0)
      let hammer = Hammer(try home.address("web"), clients: 4) { response in
        if response.status == 503 { refused.with { $0 += 1 } }
        return true
      }
      defer { hammer.stop() }
      for _ in 0..<3 {
        let old = try #require(home.proxyProcess("web"))
        kill(old, SIGKILL)
        try home.await("back") { try home.proxyProcess("web") != old && home.fetch("web").status == 200 }
        try home.awaitSettled("web", 2)
      }
      #expect(refused.value == 0, "\(home.logs)")
    }

    /// Whoever removes its folder gets rid of it: nobody could reach it any more, and another may be there by now.
    @Test(arguments: ["", "/controller.sock", "/state/lock"])
    func aControllerWithoutItsFilesEndsAtOnce(_ what: String) throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 1"))
      try home.awaitSettled("web", 1)
      let address = try home.address("web")
      let before = home.processes.filter { $0 != home.controller?.pid }
      try FileManager.default.removeItem(atPath: home.home + what)
      // Another that has the name by now is not its own.
      if what == "/state/lock" { try Data().write(to: URL(fileURLWithPath: home.home + what)) }
      #expect(home.controller?.waitForExit() == .code(1))
      let said = home.controller?.standardError ?? ""
      #expect(said.contains("nobody can reach this controller any more") && said.contains(home.home + "/"), "\(said)")
      #expect(Set(home.processes).isSuperset(of: before), "what runs goes on")
      let wire = try Wire(to: address)
      defer { wire.close() }
      try wire.send(requestText("GET", "/", fields: ["Connection: close"]))
      #expect(try wire.readResponse().text == "v1 r1")
      if what.isEmpty { return }
      try home.startController()
      try home.awaitSettled("web", 1)
      #expect(try home.replicas("web").map(\.replicaId) == [1])
    }

    @Test(.enabled(if: Places.tool("prlimit") != nil)) func aJournalThatCannotBeWrittenIsSaid() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      let pid = home.controller!.pid
      // No file of its may grow: as good as a full disk.
      #expect(try run("prlimit", ["--pid", "\(pid)", "--fsize=1:unlimited"]).exit == .code(0))
      for process in home.replicaProcesses(1) { kill(process, SIGKILL) }
      let said = "the controller cannot write its journal (cannot write \(home.home)/state/journal: File too large)"
      try home.await("said") { try home.service("web").reason?.hasPrefix(said) == true }
      #expect(try home.ask("GET", "/v1/health", as: HealthReply.self).problem == said)
      #expect(try run("prlimit", ["--pid", "\(pid)", "--fsize=unlimited:unlimited"]).exit == .code(0))
      try home.await("mended") { try home.replicas("web", .ready).map(\.replicaId) == [2, 3] }
      try home.await("forgotten") {
        try home.service("web").reason == nil && home.ask("GET", "/v1/health", as: HealthReply.self).problem == nil
      }
    }

    @Test func whatWasAcknowledgedIsThereAndWhatWasNotIsNotHalfThere() throws {
      let home = try ServeHome(config: "serve:\n  controller:\n    max_services: 20\n")
      let yaml = home.yaml("readiness_probe: /health\nreplicas: 0")
      var chance = Chance()
      var endpoints: [String: String] = [:]
      for round in 0..<10 {
        let name = "s\(round)"
        let request = UpRequest(name: name, task: try home.task(yaml))
        let reply = Shared<UpReply?>(nil)
        let answered = Event()
        thread("up") {
          let up = try? home.ask("POST", "/v1/services", request, as: UpReply.self)
          reply.with { $0 = up }
          answered.happen()
        }
        if round % 2 == 0 { answered.wait() } else { usleep(UInt32(chance.below(20_000))) }
        home.killController()
        answered.wait()
        try home.startController()
        let known = try home.services().map(\.name)
        if let reply = reply.value {
          #expect(known.contains(name), "\(chance.replay()), round \(round)")
          endpoints[name] = reply.endpoint
        } else if !known.contains(name) {
          // As if it had never been asked.
          endpoints[name] = try home.up(name, yaml).endpoint
          #expect(try home.down(name).names == [name])
          endpoints[name] = nil
        }
        for (name, endpoint) in endpoints { #expect(try home.service(name).endpoint == endpoint, "\(chance.replay())") }
      }
      #expect(Set(endpoints.values).count == endpoints.count, "\(endpoints)")
      try home.down()
      try home.await("gone") { try home.services().isEmpty && ServeHome.names(home.home + "/services").isEmpty }
    }

    @Test func aKilledProxyIsBackOnItsPort() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      for _ in 0..<3 {
        let old = try #require(home.proxyProcess("web"))
        kill(old, SIGKILL)
        #expect(
          eventually { try home.fetch("web").status == 200 && home.proxyProcess("web") != old }, "\(home.logs)")
        try home.awaitSettled("web", 2)
      }
      #expect(try home.replicas("web").map(\.replicaId) == [1, 2], "replicas stay")
    }

    @Test func bothKilledAtOnceComeBack() throws {
      let home = try ServeHome()
      try home.up("web", home.yaml("readiness_probe: /health\nreplicas: 2"))
      try home.awaitSettled("web", 2)
      for _ in 0..<2 {
        home.killController()
        kill(try #require(home.proxyProcess("web")), SIGKILL)
        try home.startController()
        try home.await("serving") { try home.fetch("web").status == 200 }
        try home.awaitSettled("web", 2)
      }
      #expect(try home.replicas("web").map(\.replicaId) == [1, 2], "replicas are found again")
      #expect(launches(home) == [1: 1, 2: 1], "\(home.logs)")
    }

    @Test func aSecondControllerSaysWhoIsThere() throws {
      let home = try ServeHome()
      let second = try Program(Places.program("sky-controller"), [], environment: home.environment)
      #expect(second.waitForExit() == .code(75))
      #expect(second.standardError.contains("process \(home.controller!.pid)"), "\(second.standardError)")
    }

    @Test func itEndsWhenThereIsNothingToDo() throws {
      let home = try ServeHome(config: "serve:\n  controller:\n    autostop: {idle_minutes: 0}\n")
      #expect(home.controller?.waitForExit() == .code(0), "\(home.logs)")
    }
  }
}

/// What went wrong and how often, rather than a thousand times the same.
func summary(_ hammer: Hammer) -> [String] {
  Dictionary(grouping: hammer.problems) { $0 }.map { "\($0.value.count) x \($0.key)" }.sorted()
}
