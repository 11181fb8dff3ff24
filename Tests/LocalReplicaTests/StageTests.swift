// What a replica is made of: workdir, file mounts, environment, GPUs, and what is refused with its cure.

import Foundation
import TestSupport
import Testing

@testable import ControlCore

extension LocalReplicas {
  @Suite struct StageTests {
    // MARK: The workdir

    static func tree(_ folder: String) -> [String] {
      Places.exists(folder)
        ? (FileManager.default.enumerator(atPath: folder)?.compactMap { $0 as? String } ?? []).sorted() : []
    }

    static func fill(_ folder: String, _ files: [String]) throws {
      for file in files {
        let path = folder + "/" + file
        try FileManager.default.createDirectory(
          atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        try Data(file.utf8).write(to: URL(fileURLWithPath: path))
      }
    }

    static func with(_ workdir: TaskSpec.Workdir, run: String = "sleep 1000") -> TaskSpec {
      var it = task(run: run)
      it.workdir = workdir
      return it
    }

    @Test func theWorkdirIsCopiedAsItIs() async throws {
      try await inWorld { world in
        let source = world.folder.file("code")
        try Self.fill(source, ["app.py", "bin/tool", "data/deep/er.txt", "name with blank", "-dash"])
        chmod(source + "/bin/tool", 0o755)
        symlink("app.py", source + "/link.py")
        symlink("/nowhere/at/all", source + "/dangling")
        mkdir(source + "/empty", 0o755)
        var times = [timeval(tv_sec: 1_000_000_000, tv_usec: 0), timeval(tv_sec: 1_000_000_000, tv_usec: 0)]
        utimes(source + "/app.py", &times)
        let it = Self.with(
          .local(source),
          run:
            "ls -A; stat -c %a bin/tool; stat -c %Y app.py; readlink link.py dangling; cat ./-dash; echo done; echo mine > app.py"
        )
        try await world.launch(it, 1)
        #expect(await comes { world.runLog().hasSuffix("done\n") })
        #expect(
          world.runLog()
            == "-dash\napp.py\nbin\ndangling\ndata\nempty\nlink.py\nname with blank\n755\n1000000000\napp.py\n/nowhere/at/all\n-dashdone\n"
        )
        // What it did to its copy is its own; what happens to the source later is not its matter.
        try Self.fill(source, ["later"])
        try await world.launch(it, 2)
        #expect(await comes { world.runLog(2).hasSuffix("done\n") })
        #expect(world.runLog(2) == world.runLog(1))
        #expect(try Places.text(source + "/app.py") == "app.py")
        var facts = stat()
        stat(world.paths.version("web", 1) + "/files", &facts)
        #expect(facts.st_mode & 0o777 == 0o700)
      }
    }

    @Test func whatSkyignoreNamesStaysBehind() async throws {
      try await inWorld { world in
        let source = world.folder.file("code")
        try Self.fill(
          source,
          [
            "a.py", "a.log", "logs/b.log", "logs/keep.log", "build/x", "src/build/y", "data/big.bin", ".git/HEAD",
            ".env",
          ])
        try Data("# not these\n*.log\n!keep.log\n/build\ndata/\n".utf8)
          .write(to: URL(fileURLWithPath: source + "/.skyignore"))
        try await world.infra.stage(Self.with(.local(source)), into: world.folder.file("v1"))
        #expect(
          Self.tree(world.folder.file("v1") + "/files/workdir")
            == [".env", ".skyignore", "a.py", "logs", "logs/keep.log", "src", "src/build", "src/build/y"])
      }
    }

    @Test(.enabled(if: Places.tool("git") != nil)) func elseWhatGitIgnores() async throws {
      try await inWorld { world in
        let source = world.folder.file("repository")
        try Self.fill(source, ["top", "code/a.py", "code/gone.py", "code/a.pyc", "code/.venv/x", "code/new.py"])
        try Data("*.pyc\n.venv\n".utf8).write(to: URL(fileURLWithPath: source + "/.gitignore"))
        let identity = ["-c", "user.name=n", "-c", "user.email=e"]
        for arguments in [["init", "-q"], ["add", "code/a.py", "code/gone.py"], identity + ["commit", "-qm", "m"]] {
          #expect(try TestSupport.run("git", ["-C", source] + arguments).exit == .code(0))
        }
        unlink(source + "/code/gone.py")
        try await world.infra.stage(Self.with(.local(source + "/code")), into: world.folder.file("v1"))
        #expect(Self.tree(world.folder.file("v1") + "/files/workdir") == ["a.py", "new.py"])

        // A repository as the workdir itself, at a commit.
        let url = "file://" + source
        try await world.infra.stage(Self.with(.git(url: url, ref: "HEAD")), into: world.folder.file("v2"))
        #expect(
          Self.tree(world.folder.file("v2") + "/files/workdir").filter { !$0.hasPrefix(".git") } == [
            "code", "code/a.py", "code/gone.py",
          ])
        let missing = Self.with(.git(url: "file://me:secret@" + source, ref: "no-such"))
        let error = await #expect(throws: InfraError.self) {
          try await world.infra.stage(missing, into: world.folder.file("v3"))
        }
        #expect(error?.description.contains("secret") == false, "\(error?.description ?? "")")
        #expect(Self.tree(world.folder.file("v3")) == [])
      }
    }

    @Test func stagingIsAllOrNothing() async throws {
      try await inWorld { world in
        let source = world.folder.file("code")
        try Self.fill(source, ["a.py"])
        var it = Self.with(.local(source))
        it.fileMounts = [.init(destination: "~/x", source: .path(world.folder.file("missing")))]
        let error = await #expect(throws: InfraError.self) {
          try await world.infra.stage(it, into: world.folder.file("v1"))
        }
        #expect(
          error?.description
            == "File mount source '\(world.folder.file("missing"))' does not exist locally. To fix: check "
            + "if it exists, and correct the path.")
        #expect(Self.tree(world.folder.file("v1")) == [])
        await #expect(throws: InfraError.self) {
          try await world.infra.stage(Self.with(.local(source + "/a.py")), into: world.folder.file("v2"))
        }
        // Twice is once, and what an earlier controller left half done is thrown away.
        try Self.fill(world.folder.file("v1"), ["files.new-1-x/workdir/half"])
        try await world.infra.stage(Self.with(.local(source)), into: world.folder.file("v1"))
        try Self.fill(source, ["b.py"])
        try await world.infra.stage(Self.with(.local(source)), into: world.folder.file("v1"))
        #expect(Self.tree(world.folder.file("v1")) == ["files", "files/mounts", "files/workdir", "files/workdir/a.py"])
      }
    }

    // MARK: File mounts and home

    @Test func fileMountsDoNotTouchTheUsersHome() async throws {
      try await inWorld { world in
        try Self.fill(world.userHome, [".cache/hub/model", "data/own.txt", "notes"])
        let from = world.folder.file("from")
        try Self.fill(from, ["folder/one", "folder/sub/two", "file"])
        symlink(from + "/file", from + "/link")
        var it = task(
          run: """
            cat ~/data/corpus/one ~/data/corpus/sub/two ~/data/own.txt ~/new/deep/file ~/notes ~/sky_workdir/models/m \
              ~/.cache/hub/model ~/.config/linked
            echo changed > ~/data/corpus/one
            echo cached > ~/.cache/hub/more
            touch ~/data/mine
            echo; echo done
            """)
        it.fileMounts = [
          .init(destination: "~/data/corpus", source: .path(from + "/folder")),
          .init(destination: "~/new/deep/file", source: .path(from + "/file")),
          .init(destination: "~/notes", source: .path(from + "/file")),
          .init(destination: "~/sky_workdir/models/m", source: .path(from + "/file")),
          .init(destination: world.userHome + "/.config/linked", source: .path(from + "/link")),
        ]
        try await world.launch(it)
        #expect(await comes { world.runLog().hasSuffix("done\n") })
        #expect(world.runLog() == "folder/onefolder/sub/twodata/own.txtfilefilefile.cache/hub/modelfile\ndone\n")
        #expect(
          Self.tree(world.userHome)
            == [".cache", ".cache/hub", ".cache/hub/model", ".cache/hub/more", "data", "data/own.txt", "notes"])
        #expect(try Places.text(world.userHome + "/notes") == "notes")
        #expect(try Places.text(from + "/folder/one") == "folder/one")
      }
    }

    @Test func whatEvenItsOwnerCannotChangeIsRemoved() async throws {
      try await inWorld { world in
        try await world.launch(task(run: "mkdir -p ~/a/b; chmod 000 ~/a/b ~/a; echo done"))
        #expect(await comes { world.runLog() == "done\n" })
        try await world.stop()
        #expect(!Places.exists(world.paths.replica("web", 1) + "/home"))
      }
    }

    @Test(arguments: [
      (TaskSpec.FileMount(destination: "/data/x", source: .path("/etc/hosts")), "Write ~/data/x instead"),
      (TaskSpec.FileMount(destination: "~/../x", source: .path("/etc/hosts")), "Write ~/x instead"),
      (TaskSpec.FileMount(destination: "~/x", source: .path("s3://bucket/x")), "local files only"),
      (TaskSpec.FileMount(destination: "~/x", source: .path("https://me:word@host/x")), "comes from https://host/x;"),
      (TaskSpec.FileMount(destination: "~/x", source: .storage(.map([.init("name", .string("b"))]))), "is a bucket"),
    ])
    func mountsThatCannotBe(_ mount: TaskSpec.FileMount, _ words: String) async throws {
      try await inWorld { world in
        var it = task(run: "true")
        it.fileMounts = [mount]
        let first = #expect(throws: InfraError.self) { try world.infra.offers(for: it) }
        #expect(first?.kind == .impossible)
        #expect(first?.description.contains(words) == true, "\(first?.description ?? "")")
        let second = await #expect(throws: InfraError.self) {
          try await world.infra.stage(it, into: world.folder.file("v"))
        }
        #expect(second == first)
      }
    }

    // MARK: The environment

    @Test func theVariablesOfAReplica() async throws {
      try await inWorld { world in
        var it = task(
          setup: "env | grep -E '^(SKYPILOT_|MODEL|KEY|CUDA)' | grep -v MARK | sort; echo; pwd",
          run: "env | grep -E '^(SKYPILOT_|MODEL|KEY|CUDA)' | grep -v MARK | sort; echo done")
        it.envs = [.init(name: "MODEL", value: "a b'c\"$d\ne")]
        it.secrets = [.init(name: "KEY", value: Secret("hush")), .init(name: "UNSET", value: nil)]
        try await world.launch(it, 7)
        #expect(await comes { world.runLog(7).hasSuffix("done\n") })
        let address = try #require(world.state(7)?.address)
        let parts = world.runLog(7).components(separatedBy: "\n\n")
        let setup = parts[0].split(separator: "\n").map(String.init)
        let run = parts[1].split(separator: "\n").map(String.init)
        for lines in [setup, run] {
          #expect(lines.contains("KEY=hush"))
          #expect(lines.contains("MODEL=a b'c\"$d"))
          #expect(lines.contains("SKYPILOT_SERVE_REPLICA_ID=7"))
          #expect(lines.contains("SKYPILOT_SERVE_REPLICA_PORT=8080"))
          #expect(lines.contains("SKYPILOT_NUM_NODES=1"))
          #expect(lines.contains("SKYPILOT_USER=\(NSUserName())"))
          #expect(lines.contains { $0.hasPrefix("SKYPILOT_TASK_ID=sky-") && $0.hasSuffix("_web-7_1") })
          #expect(lines.contains { $0.hasPrefix("SKYPILOT_CLUSTER_INFO={\"cluster_name\": \"web-7\"") })
        }
        for name in ["NODE_RANK=0", "NODE_IPS=\(address)", "NUM_GPUS_PER_NODE=0"] {
          #expect(setup.contains("SKYPILOT_SETUP_" + name) && !setup.contains("SKYPILOT_" + name))
          #expect(run.contains("SKYPILOT_" + name) && !run.contains("SKYPILOT_SETUP_" + name))
        }
        #expect(!world.launchLog(7).contains("hush"))
        for name in try FileManager.default.contentsOfDirectory(atPath: world.paths.replica("web", 7)) {
          var facts = stat()
          lstat(world.paths.replica("web", 7) + "/" + name, &facts)
          #expect(facts.st_mode & 0o077 == 0, "\(name)")
        }
      }
    }

    // MARK: GPUs

    static func asking(_ name: String, _ count: Quantity) -> TaskSpec {
      var spec = ResourceSpec()
      spec.accelerator = Accelerator(name: name, count: count)
      var it = task(run: "echo $CUDA_VISIBLE_DEVICES of $SKYPILOT_NUM_GPUS_PER_NODE; exec sleep 1000")
      it.resources = .anyOf([spec])
      return it
    }

    static let fourGpus = LocalMachine(
      cpus: 8, memory: 32,
      gpus: [
        .init(index: 0, name: "A100"), .init(index: 1, name: "A100"), .init(index: 2, name: "T4"),
        .init(index: 3, name: "A100"),
      ])

    @Test func noGpuIsGivenTwice() async throws {
      try await inWorld(machine: Self.fourGpus) { world in
        try await world.launch(Self.asking("A100", .whole(2)), 1)
        try await world.launch(Self.asking("a100", .whole(1)), 2)
        #expect(await comes { world.runLog(1) == "0,1 of 2\n" && world.runLog(2) == "3 of 1\n" })
        let error = await #expect(throws: InfraError.self) { try await world.launch(Self.asking("A100", .whole(1)), 3) }
        #expect(error?.kind == .noCapacity)
        #expect(error?.description.hasPrefix("A100:1 was asked; 0 of 3 A100 of this machine are free") == true)
        // A controller that has just started knows who has what.
        let infra = try world.restarted(machine: Self.fourGpus)
        await #expect(throws: InfraError.self) {
          try await infra.launch(world.request(Self.asking("A100", .whole(1)), 3)) { _ in }
        }
        #expect(await infra.describe().gpus.map { "\($0.name) \($0.free)/\($0.total)" } == ["A100 0/3", "T4 1/1"])
        try await infra.stop(service: "web", id: 1, replicaFolder: world.paths.replica("web", 1))
        try await infra.launch(world.request(Self.asking("A100", .whole(1)), 4)) { _ in }
        #expect(await comes { world.runLog(4) == "0 of 1\n" })
        // One that asked for none sees none.
        try await infra.launch(world.request(task(run: "echo [$CUDA_VISIBLE_DEVICES]"), 5)) { _ in }
        #expect(await comes { world.runLog(5) == "[]\n" })
      }
    }

    @Test func partsOfAGpuShareOne() async throws {
      try await inWorld(machine: Self.fourGpus) { world in
        for id in 1...3 { try await world.launch(Self.asking("T4", .fraction(1.0 / 3)), id) }
        for id in 1...3 { #expect(await comes { world.runLog(id) == "2 of 1\n" }) }
        await #expect(throws: InfraError.self) { try await world.launch(Self.asking("T4", .fraction(0.1)), 4) }
        try await world.stop(2)
        try await world.launch(Self.asking("T4", .fraction(0.1)), 4)
        #expect(await comes { world.runLog(4) == "2 of 1\n" })
        #expect(try await world.machine(4).chosen?.accelerator?.name == "T4")
      }
    }
  }
}
