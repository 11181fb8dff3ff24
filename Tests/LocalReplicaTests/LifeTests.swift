// What becomes of a replica's processes: begun, ended by themselves, stopped, killed, found again.

import Foundation
import SimKit
import TestSupport
import Testing

@testable import ControlCore

extension LocalReplicas {
  @Suite struct LifeTests {
    @Test func setupThenRunInAPrivateHome() async throws {
      try await inWorld { world in
        _ = try world.folder.write("mine", to: "user/.profile-of-mine")
        try await world.launch(
          task(
            setup: "echo from setup; pwd; echo prepared > prepared.txt",
            run: "cat prepared.txt; cat ~/.profile-of-mine; echo own > ~/own.txt; pwd; sleep 1000"))
        #expect(await comes { world.runLog().contains("mine\(world.paths.replica("web", 1))/home/sky_workdir\n") })
        #expect(world.runLog().hasPrefix("from setup\n\(world.paths.replica("web", 1))/home/sky_workdir\nprepared\n"))
        #expect(try await world.machine().job == .running)
        #expect(!Places.exists(world.userHome + "/own.txt"))
      }
    }

    @Test(
      arguments: [
        (nil, "exit 0", Machine.Job.succeeded),
        (nil, "false", .failed(reason: "run exited with 1")),
        (nil, "echo why; exit 7", .failed(reason: "run exited with 7: why")),
        (nil, "vllm-is-not-here serve", .failed(reason: "run exited with 127: vllm-is-not-here: command not found")),
        (nil, "echo 'too big' >&2; kill -9 $$", .failed(reason: "run was killed by signal 9; its last line: too big")),
        ("echo no such package; exit 2", "sleep 1000", .failed(reason: "setup exited with 2: no such package")),
        // As a script goes, its last command counts. What setup said is no reason for what becomes of run.
        ("echo set up; false; true", "exit 3", .failed(reason: "run exited with 3")),
        (nil, nil, .succeeded),
      ] as [(String?, String?, Machine.Job)])
    func anEndIsToldAfterTheShimHasGone(_ setup: String?, _ run: String?, _ job: Machine.Job) async throws {
      try await inWorld { world in
        try await world.launch(task(setup: setup, run: run))
        #expect(await comes { world.processes.isEmpty })
        #expect(try await world.machine().job == job)
        // Launched again after a crash of the controller: it has run, and is not run twice.
        let log = world.runLog()
        try await world.infra.launch(world.request(task(setup: setup, run: run))) { _ in }
        #expect(try await world.machine().job == job)
        #expect(world.runLog() == log)
      }
    }

    @Test func aReasonShowsNoSecret() async throws {
      try await inWorld { world in
        var it = task(run: "echo \"model $MODEL does not like $TOKEN\"; exit 1")
        it.envs = [.init(name: "MODEL", value: "tiny")]
        it.secrets = [.init(name: "TOKEN", value: Secret("hush-hush"))]
        try await world.launch(it)
        #expect(await comes { world.processes.isEmpty })
        let reason = "run exited with 1: model tiny does not like <redacted>"
        #expect(try await world.machine().job == .failed(reason: reason))
        #expect(world.launchLog().contains(reason) && !world.launchLog().contains("hush"))
      }
    }

    @Test func whatRunLeavesInTheBackgroundServesOnAndIsStopped() async throws {
      try await inWorld { world in
        try await world.launch(
          task(run: "setsid -f sh -c 'sleep 1000 & exec sleep 1001'; (sleep 1002 &) ; echo begun; exit 0"))
        #expect(await comes { try await world.machine().job == .succeeded })
        // Guard and shim, and three who sleep.
        #expect(await comes { world.processes.count == 5 })
        try await world.stop()
        #expect(world.processes == [])
      }
    }

    @Test func aRefusalToEndIsCutShort() async throws {
      try await inWorld(grace: 0.3) { world in
        try await world.launch(task(run: "trap '' TERM; echo deaf; while true; do sleep 1; done"))
        #expect(await comes { world.runLog() == "deaf\n" })
        try await world.stop()
        #expect(world.processes == [])
        #expect(world.launchLog().contains("killing them"))
      }
    }

    @Test func whoHearsSigtermEndsInOrder() async throws {
      try await inWorld { world in
        try await world.launch(
          task(run: "trap 'echo bye; exit 0' TERM; echo here; while true; do sleep 0.01; done"))
        #expect(await comes { world.runLog() == "here\n" })
        try await world.stop()
        #expect(world.runLog().hasSuffix("bye\n"), "\(world.runLog())")
      }
    }

    /// Workers are ended by the server that started them, as it likes it.
    @Test func sigtermGoesToTheTopFirst() async throws {
      try await inWorld { world in
        try await world.launch(
          task(
            run: """
              cat > server.py <<'END'
              import os, signal, sys, time
              def worker(*_):
                  os.write(1, b'worker was asked\\n'); os._exit(0)
              if os.fork() == 0:
                  signal.signal(signal.SIGTERM, worker)
                  os.write(1, b'worker\\n')
                  while True: time.sleep(1)
              def parent(*_):
                  os.write(1, b'server was asked\\n')
                  time.sleep(0.3)
                  os._exit(0)
              signal.signal(signal.SIGTERM, parent)
              os.write(1, b'server\\n')
              while True: time.sleep(1)
              END
              python3 server.py
              """))
        #expect(
          await comes { world.runLog().split(separator: "\n").count == 2 }, "\(world.runLog())\(world.launchLog())")
        try await world.stop()
        #expect(world.runLog().hasSuffix("server was asked\nworker was asked\n"), "\(world.runLog())")
      }
    }

    @Test func aKilledShimTakesAllWithIt() async throws {
      try await inWorld { world in
        try await world.launch(task(run: "(setsid sleep 1000 &); echo here; sleep 1000"))
        #expect(await comes { world.runLog() == "here\n" && world.processes.count >= 5 })
        let state = try #require(world.state())
        kill(state.shimPid, SIGKILL)
        #expect(await comes { world.processes.isEmpty })
        // Its home is there until it is stopped.
        #expect(await comes { try await world.facts() == [1: .partial(detail: nil)] })
      }
    }

    @Test func aKilledGuardEndsItInOrder() async throws {
      try await inWorld { world in
        try await world.launch(task(run: "trap 'echo bye; exit 0' TERM; echo here; while true; do sleep 0.01; done"))
        #expect(await comes { world.runLog() == "here\n" })
        kill(try #require(world.state()).guardPid, SIGKILL)
        #expect(await comes { world.processes.isEmpty })
        #expect(world.runLog().hasSuffix("bye\n"), "\(world.runLog())")
        #expect(await comes { try await world.facts() == [1: .partial(detail: nil)] })
      }
    }

    @Test func bothKilledAtOnceLeaveNothing() async throws {
      try await inWorld { world in
        try await world.launch(task(run: "(setsid sleep 1000 &); echo here; sleep 1000"))
        #expect(await comes { world.runLog() == "here\n" })
        let state = try #require(world.state())
        // Neither can do anything any more when they die.
        kill(state.guardPid, SIGSTOP)
        kill(state.shimPid, SIGKILL)
        kill(state.guardPid, SIGKILL)
        #expect(await comes { try await world.facts() == [1: .partial(detail: nil)] })
        #expect(world.processes == [])
      }
    }

    /// Nobody has to look for it.
    @Test(
      .timeLimit(.minutes(1)),
      arguments: ["the command ends", "the shim is killed", "the guard is killed", "both are killed", "it is stopped"])
    func anEndIsToldAtOnce(_ how: String) async throws {
      try await inWorld { world in
        try await world.launch(task(run: "echo here; exec sleep 1000"))
        #expect(await comes { world.runLog() == "here\n" })
        var endings = world.infra.endings.makeAsyncIterator()
        _ = try await world.machine()
        let state = try #require(world.state())
        switch how {
        case "the command ends":
          for pid in world.processes where pid != state.guardPid && pid != state.shimPid { kill(pid, SIGKILL) }
        case "the shim is killed": kill(state.shimPid, SIGKILL)
        case "the guard is killed": kill(state.guardPid, SIGKILL)
        case "both are killed":
          kill(state.guardPid, SIGSTOP)
          kill(state.shimPid, SIGKILL)
          kill(state.guardPid, SIGKILL)
        default: try await world.stop()
        }
        // The last of them comes when nothing runs any more.
        var fact: InfraFact?
        repeat {
          #expect(await endings.next() == "web")
          fact = try await world.facts()[1]
        } while fact.isRunning
        let isAsExpected =
          switch how {
          case "the command ends": fact.hasFailed
          case "it is stopped": fact == nil
          default: fact == .partial(detail: nil)
          }
        #expect(isAsExpected, "\(String(describing: fact))")
      }
    }

    @Test func anotherControllerFindsItAgain() async throws {
      try await inWorld { world in
        let it = task(run: "echo here; exec sleep 1000")
        try await world.launch(it)
        #expect(await comes { world.runLog() == "here\n" })
        let before = try await world.machine()
        let infra = try world.restarted()
        #expect(
          try await infra.poll(service: "web", replicasFolder: world.paths.replicas("web")) == [1: .up(before)])
        try await infra.launch(world.request(it)) { _ in }
        #expect(world.runLog() == "here\n")
        try await infra.stop(service: "web", id: 1, replicaFolder: world.paths.replica("web", 1))
        #expect(world.processes == [])
      }
    }

    @Test func twoLaunchesAtOnceAreOne() async throws {
      try await inWorld { world in
        let it = task(run: "echo here; exec sleep 1000")
        let infra = try world.restarted()
        let request = world.request(it)
        async let one: Void = world.infra.launch(request) { _ in }
        async let other: Void = infra.launch(request) { _ in }
        _ = try await (one, other)
        #expect(await comes { world.runLog() == "here\n" })
        #expect(always(for: 0.2) { world.runLog() == "here\n" })
      }
    }

    /// What a trap starts is not asked to end as well, however long it takes.
    @Test func aTrapHasItsTime() async throws {
      try await inWorld(grace: 20) { world in
        let trap = "trap \"sh -c 'sleep 1.3 && echo cleaned'; exit\" TERM; echo here; sleep 1000 & wait"
        try await world.launch(task(run: trap))
        #expect(await comes { world.runLog() == "here\n" })
        try await world.stop()
        #expect(world.runLog() == "here\ncleaned\n")
      }
    }

    /// Wherever a launch is when its replica is stopped: there is one end, and it is the end.
    @Test func aStopDuringALaunchLeavesNothing() async throws {
      var chance = Chance()
      try await inWorld(machine: StageTests.fourGpus) { world in
        let it = StageTests.asking("T4", .whole(1))
        try await world.infra.stage(it, into: world.paths.version("web", 1))
        for id in 1...30 {
          let launch = Task { try await world.infra.launch(world.request(it, id)) { _ in } }
          try await Task.sleep(for: .microseconds(chance.below(40_000)))
          launch.cancel()
          // One that has not let go yet, and a stop by somebody else at the same time.
          let restarted = try world.restarted(machine: StageTests.fourGpus)
          async let one: Void = world.stop(id)
          async let other: Void = restarted.stop(
            service: "web", id: id, replicaFolder: world.paths.replica("web", id))
          _ = try await (one, other)
          _ = await launch.result
          #expect(world.processes == [], "\(chance.replay()), replica \(id): \(world.launchLog(id))")
          #expect(try await world.facts() == [:], "\(chance.replay()), replica \(id)")
          #expect(await world.infra.describe().gpus.map(\.free) == [3, 1], "\(chance.replay()), replica \(id)")
        }
      }
    }

    /// What a controller leaves that is killed between the order and the shim, or just after it has started the shim.
    @Test(arguments: [false, true]) func aLaunchThatWasCutShort(_ isStarted: Bool) async throws {
      try await inWorld(machine: StageTests.fourGpus) { world in
        let it = StageTests.asking("T4", .whole(1))
        try await world.launch(it)
        let order = try Data(contentsOf: URL(fileURLWithPath: ReplicaFolder(world.paths.replica("web", 1)).order))
        try await world.stop()
        try order.write(to: URL(fileURLWithPath: ReplicaFolder(world.paths.replica("web", 1)).order))
        let mark = try #require(ReplicaFolder(world.paths.replica("web", 1)).readOrder()?.mark)
        func start() throws -> ControlCore.ChildProcess {
          try .spawn(
            Places.program("sky-controller"), ["replica", world.paths.replica("web", 1)],
            environment: world.environment.merging(["SKYPILOT_REPLICA_MARK": mark]) { $1 }, detached: true)
        }
        let early = isStarted ? try start() : nil
        let infra = try world.restarted(machine: StageTests.fourGpus)
        #expect(await infra.describe().gpus.map(\.free) == [3, 0])
        if !isStarted {
          let found = try await infra.poll(service: "web", replicasFolder: world.paths.replicas("web"))
          #expect(found == [1: .partial(detail: nil)])
        }
        if isStarted {
          // Stopped before it has said a word.
          try await infra.stop(service: "web", id: 1, replicaFolder: world.paths.replica("web", 1))
          _ = await early?.wait()
          // And one that comes when all is over.
          let late = try start()
          #expect(await late.wait() != .code(0))
          #expect(await infra.describe().gpus.map(\.free) == [3, 1])
          #expect(world.processes == [])
        } else {
          // Launched again: with the GPU that it was given, which is nobody else's.
          try await infra.launch(world.request(it)) { _ in }
          #expect(await comes { world.runLog().hasSuffix("2 of 1\n") })
          #expect(await infra.describe().gpus.map(\.free) == [3, 0])
        }
      }
    }

    @Test func stoppingWhatIsNotThereIsFine() async throws {
      try await inWorld { world in
        try await world.stop(7)
        #expect(try await world.facts() == [:])
      }
    }

    @Test func aStopDuringSetupEndsIt() async throws {
      try await inWorld { world in
        try await world.launch(task(setup: "echo installing; sleep 1000", run: "echo never"))
        #expect(await comes { world.runLog() == "installing\n" })
        #expect(try await world.machine().job == .settingUp)
        try await world.stop()
        #expect(world.runLog() == "installing\n")
      }
    }

    @Test func setupsOfOneServiceWaitForEachOther() async throws {
      try await inWorld { world in
        let it = task(
          setup: """
            mkdir ~/lock-of-home 2>/dev/null || true
            if ! mkdir \(world.userHome)/one; then echo two at once; exit 1; fi
            sleep 0.3
            rmdir \(world.userHome)/one
            """, run: "echo begun; exec sleep 1000")
        async let one: Void = world.launch(it, 1)
        async let two: Void = world.launch(it, 2)
        async let three: Void = world.launch(it, 3)
        _ = try await (one, two, three)
        for id in 1...3 { #expect(await comes { world.runLog(id) == "begun\n" }, "\(world.runLog(id))") }
      }
    }
  }
}

extension InfraFact? {
  fileprivate var isRunning: Bool { if case .up(let machine) = self { machine.job == .running } else { false } }
  fileprivate var hasFailed: Bool {
    if case .up(let machine) = self, case .failed = machine.job { true } else { false }
  }
}
