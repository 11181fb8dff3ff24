// Programs that are started, waited for, signalled and known again; and the log.

import Foundation
import TestSupport
import Testing

@testable import ControlCore

private typealias Child = ControlCore.ChildProcess

@Suite struct PlatformProcessTests {
  private func shell(_ script: String, output: Child.Output = .nowhere, detached: Bool = false) throws -> Child {
    try Child.spawn("/bin/sh", ["-c", script], output: output, detached: detached)
  }

  @Test func anEndIsSeenAsItWas() async throws {
    #expect(try await shell("exit 0").wait() == .code(0))
    #expect(try await shell("exit 7").wait() == .code(7))
    #expect(try await shell("kill -9 $$").wait() == .signal(9))
    #expect(Child.Exit.signal(9).description == "signal 9 (Killed)")
    let child = try shell("exec sleep 1000")
    #expect(child.exit == nil)
    #expect(await child.wait(seconds: 0.05) == nil)
    child.signal(SIGTERM)
    #expect(await child.wait(seconds: patience) == .signal(SIGTERM))
    #expect(child.exit == .signal(SIGTERM))
    #expect(await child.wait() == .signal(SIGTERM))
  }

  @Test func noneStaysAZombieThoughNobodyWaits() async throws {
    let pids = try (0..<20).map { _ in try shell("exit 3").pid }
    #expect(try await soon { pids.allSatisfy { !Places.exists("/proc/\($0)") } })
  }

  @Test func aChildGetsWhatItIsGivenAndNothingElse() async throws {
    let folder = try TemporaryFolder()
    let file = folder.file("out")
    // A descriptor that a library forgot to protect.
    let leak = open("/dev/null", O_RDONLY)
    defer { close(leak) }
    signal(SIGUSR2, SIG_IGN)
    defer { signal(SIGUSR2, SIG_DFL) }
    let child = try Child.spawn(
      "/bin/sh",
      [
        "-c",
        "pwd; env | sort; echo $#:$1; ls /proc/self/fd | wc -l; cat; echo to stderr >&2; ps -o sid= -p $$; grep SigIgn /proc/self/status",
        "name", "a b",
      ],
      environment: ["PATH": "/usr/bin:/bin", "ONE": "1"], folder: folder.path, output: .file(file), detached: true)
    #expect(await child.wait() == .code(0))
    let lines = try Places.text(file).split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
    // 0, 1, 2 and the folder that ls reads.
    #expect(
      lines == [
        folder.path, "ONE=1", "PATH=/usr/bin:/bin", "PWD=\(folder.path)", "1:a b", "4", "to stderr", "\(child.pid)",
        lines.last,
      ])
    // The two signals of the C library's own aside.
    let ignored = try #require(lines.last?.split(separator: "\t").last.flatMap { UInt64($0, radix: 16) })
    #expect(ignored & ~0x1_8000_0000 == 0)
    let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    #expect(try await Child.spawn("/bin/echo", ["more"], output: .file(file)).wait() == .code(0))
    #expect(try Places.text(file).hasSuffix("\nmore\n"))
  }

  @Test func whatCannotBeStartedIsSaid() throws {
    func failure(_ path: String, folder: String? = nil, output: Child.Output = .nowhere) -> String? {
      do { _ = try Child.spawn(path, [], folder: folder, output: output) } catch { return error.description }
      return nil
    }
    #expect(failure("/no/such/program") == "cannot start /no/such/program: No such file or directory")
    #expect(failure("/etc/passwd") == "cannot start /etc/passwd: Permission denied")
    #expect(failure("/bin/true", folder: "/no/folder") == "cannot start /bin/true: there is no folder /no/folder")
    #expect(
      failure("/bin/true", output: .file("/no/folder/log"))
        == "cannot start /bin/true: its output /no/folder/log: No such file or directory")
  }

  @Test func aGroupIsSignalledWhole() async throws {
    let folder = try TemporaryFolder()
    let child = try shell("sleep 1000 & echo $! > \(folder.file("pid")); wait", detached: true)
    #expect(try await soon { try !Places.text(folder.file("pid")).isEmpty })
    let pid = try #require(Int32(try Places.text(folder.file("pid")).trimmingCharacters(in: .newlines)))
    let inner = try #require(ProcessIdentity.current(pid))
    child.signal(SIGKILL, group: true)
    #expect(await child.wait() == .signal(SIGKILL))
    #expect(await inner.waitForEnd(patience))
    #expect(!inner.isAlive)
  }

  @Test func aProcessIsKnownByMoreThanItsNumber() async throws {
    let child = try shell("exec sleep 1000")
    defer { child.signal(SIGKILL) }
    let identity = child.identity
    #expect(identity == ProcessIdentity.current(child.pid))
    #expect(identity.isAlive)
    let coded = try JSONDecoder().decode(ProcessIdentity.self, from: JSONEncoder().encode(identity))
    #expect(coded == identity)
    // The number came back as another's.
    let stranger = ProcessIdentity(pid: identity.pid, startTicks: identity.startTicks + 1, boot: identity.boot)
    #expect(!stranger.isAlive)
    #expect(!stranger.signal(SIGKILL))
    #expect(await stranger.waitForEnd(patience))
    let before = ProcessIdentity(
      pid: identity.pid, startTicks: identity.startTicks, boot: "another start of the machine")
    #expect(!before.isAlive)
    #expect(!before.signal(SIGKILL))
    #expect(child.exit == nil)
    #expect(await identity.waitForEnd(0.05) == false)
    #expect(identity.signal(SIGKILL))
    #expect(await identity.waitForEnd(patience))
    #expect(!identity.isAlive)
    #expect(await child.wait() == .signal(SIGKILL))
    #expect(!identity.signal(SIGKILL))
    #expect(ProcessIdentity.current(child.pid) != identity)
    #expect(ProcessIdentity.current(0) == nil)
    #expect(ProcessIdentity.current(-1) == nil)
  }

  /// Threads of a killed process end one by one, and the last takes its files and locks along.
  @Test func aProcessLivesAsLongAsItsLastThread() async throws {
    // SYS_exit ends the thread that calls it, here the first.
    let program = """
      import ctypes, os, threading, time
      threading.Thread(target=time.sleep, args=(1000,)).start()
      ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
      """
    let child = try Child.spawn("/usr/bin/env", ["python3", "-c", program], output: .nowhere)
    defer { child.signal(SIGKILL) }
    #expect(try await soon { try Places.text("/proc/\(child.pid)/stat").contains(") Z ") })
    let identity = try #require(ProcessIdentity.current(child.pid))
    #expect(identity.isAlive)
    #expect(await identity.waitForEnd(0.05) == false)
    #expect(identity.signal(SIGKILL))
    #expect(await identity.waitForEnd(patience))
    #expect(!identity.isAlive)
  }

  /// One that has ended and whose parent does not wait is dead, and no longer to be reckoned with.
  @Test func aZombieIsDead() async throws {
    let folder = try TemporaryFolder()
    mkfifo(folder.file("end"), 0o600)
    let parent = try shell("cat \(folder.file("end")) & echo $! > \(folder.file("pid")); exec sleep 1000")
    defer { parent.signal(SIGKILL) }
    // A shell would wait for its children, sleep does not.
    #expect(try await soon { try Places.text("/proc/\(parent.pid)/comm") == "sleep\n" })
    _ = try await blocking { close(open(folder.file("end"), O_WRONLY | O_CLOEXEC)) }
    let pid = try #require(Int32(try Places.text(folder.file("pid")).trimmingCharacters(in: .newlines)))
    #expect(try await soon { try Places.text("/proc/\(pid)/stat").contains(") Z ") })
    let zombie = try #require(ProcessIdentity.current(pid))
    #expect(!zombie.isAlive)
    #expect(await zombie.waitForEnd(patience))
  }

  @Test func smallToolsAreRunToTheirEnd() async throws {
    let done = try await Child.run("/bin/sh", ["-c", "echo out; echo err >&2; exit 3"], seconds: patience)
    #expect(done.exit == .code(3))
    #expect(done.text == "out\nerr\n")
    func failure(_ script: String, _ seconds: Double) async -> String? {
      do { _ = try await Child.run("/bin/sh", ["-c", script], seconds: seconds, outputMax: 1000) } catch {
        return "\(error)"
      }
      return nil
    }
    #expect(await failure("sleep 1000", 0.1) == "/bin/sh timed out after 0.1 s")
    #expect(await failure("yes", patience) == "/bin/sh said more than 1000 bytes")
    // It has let go of its output, and runs on.
    #expect(await failure("exec >/dev/null 2>&1; sleep 1000", 0.1) == "/bin/sh timed out after 0.1 s")
  }

  @Test func programsAreFound() throws {
    let folder = try TemporaryFolder()
    let program = try folder.write("#!/bin/sh\n", to: "tool")
    let path = ["PATH": "/nowhere:\(folder.path)"]
    #expect(Child.findProgram("tool", environment: path) == nil)
    chmod(program, 0o755)
    #expect(Child.findProgram("tool", environment: path) == program)
    #expect(Child.findProgram(program, environment: [:]) == program)
    #expect(Child.findProgram("sh", environment: [:]) != nil)
    #expect(Child.findSibling("tool", environment: path) == program)
  }

  // MARK: The log

  @Test func anEventIsALine() {
    let time = Date(timeIntervalSince1970: 1_795_642_392.1239)
    func line(_ fields: Log.Fields) -> String { Log.line(at: time, .info, "replica launched", fields) }
    #expect(line([:]) == "2026-11-25T21:33:12.123Z info replica launched\n")
    #expect(
      line(["service": "web", "replica": 3]) == "2026-11-25T21:33:12.123Z info replica launched service=web replica=3\n"
    )
    #expect(
      line(["why": "it said \"no\"\nand\\ left\u{1}", "empty": "", "pair": "a=b", "wide": "ü"])
        == "2026-11-25T21:33:12.123Z info replica launched why=\"it said \\\"no\\\"\\nand\\\\ left\\u{1}\" empty=\"\" pair=\"a=b\" wide=\"ü\"\n"
    )
  }

  @Test func aLogRotatesAndKeepsOneOldFile() throws {
    let folder = try TemporaryFolder()
    let path = folder.file("controller.log")
    let log = try Log(path: path, bytesMax: 1000)
    for number in 0..<100 { log.info("event", ["number": number]) }
    log.debug("not shown")
    let now = try Places.text(path)
    let old = try Places.text(path + ".1")
    #expect(now.utf8.count < 1000 && old.utf8.count < 1100)
    let numbers = (old + now).split(separator: "\n").compactMap { $0.split(separator: "=").last.flatMap { Int($0) } }
    #expect(numbers.last == 99)
    #expect(numbers == Array(numbers[0]...99), "lines are lost or doubled where the file changed")
    #expect(!Places.exists(path + ".2"))
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    let again = try Log(path: path, bytesMax: 1000)
    again.warning("goes on")
    #expect(try Places.text(path).hasPrefix(now) || Places.text(path + ".1").hasPrefix(now))
    #expect(throws: SubprocessError.self) { _ = try Log(path: "/no/folder/log") }
  }
}
