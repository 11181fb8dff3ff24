// Every replica has the ports of a whole machine: real servers side by side on the same port.

import Foundation
import TestSupport
import Testing

@testable import ControlCore

extension LocalReplicas {
  @Suite struct AddressTests {
    /// Answers every request with what `answer()` gives; `serve(socket)` until the process ends.
    static let library = """
      import os, socket, sys, threading, time
      me = os.environ['SKYPILOT_SERVE_REPLICA_ID']
      def listener(family, host, port, v6only=None, reuseport=False):
          s = socket.socket(family, socket.SOCK_STREAM)
          s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
          if reuseport: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
          if v6only is not None: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
          s.bind((host, port))
          s.listen(128)
          return s
      def serve(s, answer):
          while True:
              c, _ = s.accept()
              c.recv(65536)
              body = str(answer()).encode()
              c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n' % len(body) + body)
              c.close()
      def start(s, answer): threading.Thread(target=serve, args=(s, answer), daemon=True).start()
      def get(host, port):
          c = socket.create_connection((host, port), timeout=10)
          c.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')
          data = b''
          while True:
              piece = c.recv(65536)
              if not piece: return data.split(b'\\r\\n\\r\\n', 1)[1].decode()
              data += piece

      """

    static func python(_ program: String, setup: String? = nil) -> TaskSpec {
      task(
        setup: setup,
        run:
          "cat > library.py <<'END'\n\(library)END\ncat > main.py <<'END'\nfrom library import *\n\(program)\nEND\nexec python3 main.py"
      )
    }

    @Test func twoFileServersOnOnePort() async throws {
      try await inWorld { world in
        let it = task(run: "echo I am $SKYPILOT_SERVE_REPLICA_ID > index.html; python3 -m http.server 8080")
        try await world.launchBoth(it)
        #expect(await comes { try await world.get(of: 1) == "I am 1\n" })
        #expect(await comes { try await world.get(of: 2) == "I am 2\n" })
        #expect(try await world.machine(1).address.host != world.machine(2).address.host)
        #expect(world.state(1)?.addressing == .ownAddress)
      }
    }

    /// What the guide's chatbot is made of: a controller and a worker on 127.0.0.1, a front for the world.
    @Test func threeCopiesOfThreeProcessesThatTalkToEachOther() async throws {
      try await inWorld { world in
        let it = task(
          run: """
            cat > library.py <<'END'
            \(Self.library)END
            cat > controller.py <<'END'
            from library import *
            serve(listener(socket.AF_INET, '127.0.0.1', 21001), lambda: 'controller ' + me)
            END
            cat > worker.py <<'END'
            from library import *
            while True:
                try: get('localhost', 21001); break
                except ConnectionRefusedError: time.sleep(0.05)
            s = listener(socket.AF_INET, '127.0.0.1', 21002)
            print('running on 21002')
            serve(s, lambda: get('localhost', 21001) + ', worker ' + me)
            END
            cat > front.py <<'END'
            from library import *
            serve(listener(socket.AF_INET, '0.0.0.0', 8080), lambda: get('127.0.0.1', 21002) + ', front ' + me)
            END
            python3 -u controller.py > ~/controller.log 2>&1 &
            python3 -u worker.py 2>&1 | tee worker.log &
            while ! `cat worker.log | grep -q 'running on'`; do sleep 0.1; done
            python3 -u front.py | tee ~/front.log
            """)
        for id in 1...3 { try await world.launch(it, id) }
        for id in 1...3 {
          #expect(await comes { try await world.get(of: id) == "controller \(id), worker \(id), front \(id)" })
        }
      }
    }

    /// By what each is; `port` is a number of its own.
    static let waysToListen: [(name: String, program: String)] = [
      ("IPv4 wildcard", "serve(listener(socket.AF_INET, '', port), lambda: me)"),
      ("IPv4 loopback", "serve(listener(socket.AF_INET, '127.0.0.1', port), lambda: me)"),
      ("its own address", "serve(listener(socket.AF_INET, os.environ['SKYPILOT_NODE_IPS'], port), lambda: me)"),
      ("both families", "serve(listener(socket.AF_INET6, '::', port, 0), lambda: me)"),
      ("IPv6 only", "serve(listener(socket.AF_INET6, '::', port, 1), lambda: me)"),
      ("IPv6 loopback", "serve(listener(socket.AF_INET6, '::1', port), lambda: me)"),
      ("IPv4 mapped", "serve(listener(socket.AF_INET6, '::ffff:0.0.0.0', port), lambda: me)"),
      (
        "a socket for each family",
        "a = listener(socket.AF_INET, '0.0.0.0', port); b = listener(socket.AF_INET6, '::', port, 1)\nstart(b, lambda: me); serve(a, lambda: me)"
      ),
      (
        "a socket for each family, the other way round",
        "b = listener(socket.AF_INET6, '::', port, 1); a = listener(socket.AF_INET, '0.0.0.0', port)\nstart(b, lambda: me); serve(a, lambda: me)"
      ),
      (
        "both loopbacks",
        "a = listener(socket.AF_INET, '127.0.0.1', port); b = listener(socket.AF_INET6, '::1', port, 1)\nstart(b, lambda: me); serve(a, lambda: me)"
      ),
      (
        "tried on IPv4, then served on IPv6 only",
        "listener(socket.AF_INET, '', port).close()\nserve(listener(socket.AF_INET6, '::', port, 1), lambda: me)"
      ),
      (
        "a free port is looked for first",
        "s = listener(socket.AF_INET, '', 0); free = s.getsockname()[1]; s.close()\ninner = listener(socket.AF_INET, '127.0.0.1', free); start(inner, lambda: me)\nserve(listener(socket.AF_INET, '', port), lambda: get('localhost', free))"
      ),
      (
        "asyncio on all interfaces",
        """
        import asyncio
        async def answer(r, w):
            await r.readuntil(b'\\r\\n\\r\\n')
            w.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n' % len(me) + me.encode())
            await w.drain(); w.close()
        async def main():
            async with await asyncio.start_server(answer, None, port) as s: await s.serve_forever()
        asyncio.run(main())
        """
      ),
      (
        "asyncio on localhost",
        """
        import asyncio
        async def answer(r, w):
            await r.readuntil(b'\\r\\n\\r\\n')
            w.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n' % len(me) + me.encode())
            await w.drain(); w.close()
        async def main():
            async with await asyncio.start_server(answer, 'localhost', port) as s: await s.serve_forever()
        asyncio.run(main())
        """
      ),
      (
        "from a thread",
        "t = threading.Thread(target=lambda: serve(listener(socket.AF_INET, '', port), lambda: me)); t.start(); t.join()"
      ),
      (
        "a daemon",
        "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nserve(listener(socket.AF_INET, '', port), lambda: me)"
      ),
    ]

    @Test func everyWayToListen() async throws {
      try await inWorld { world in
        var run = "cat > library.py <<'END'\n\(Self.library)END\n"
        for (number, way) in Self.waysToListen.enumerated() {
          run += "cat > way\(number).py <<'END'\nfrom library import *\nport = \(8080 + number)\n\(way.program)\nEND\n"
          run += "python3 way\(number).py &\n"
        }
        let it = task(run: run + "wait; sleep 1000")
        try await world.launchBoth(it)
        for (number, way) in Self.waysToListen.enumerated() {
          for id in 1...2 {
            #expect(await comes { try await world.get(of: id, port: 8080 + number) == "\(id)" }, "\(way.name)")
          }
        }
      }
    }

    /// An inner server is reached by whatever name its machine has.
    @Test func everyWayToTheInnerServer() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          inner = listener(socket.AF_INET, '', 21001)
          start(inner, lambda: 'inner ' + me)
          probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
          machine = None
          try:
              probe.connect(('192.0.2.1', 9)); machine = probe.getsockname()[0]
          except OSError: pass
          hosts = [h for h in ['127.0.0.1', 'localhost', '::1', '::ffff:127.0.0.1', '0.0.0.0', '127.0.1.1', machine] if h]
          def all():
              wrong = [h for h in hosts if get(h, 21001) != 'inner ' + me]
              s = socket.socket(); s.setblocking(False)
              code = s.connect_ex(('127.0.0.1', 21001))
              if code not in (0, 115): wrong.append('non-blocking: %d' % code)
              import select
              select.select([], [s], [], 10)
              if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR): wrong.append('non-blocking')
              return wrong or 'all'
          serve(listener(socket.AF_INET, '', 8080), all)
          """)
        try await world.launchBoth(it)
        for id in 1...2 { #expect(await comes { try await world.get(of: id) == "all" }, "\(world.runLog(id))") }
      }
    }

    @Test func othersOnThisMachineAreReachedAsEver() async throws {
      let outside = try FileServer(["index.html": "outside"])
      try await inWorld { world in
        let it = Self.python(
          """
          refused = socket.socket(); refused.bind(('127.0.0.1', 0)); port = refused.getsockname()[1]; refused.close()
          def all():
              try: get('127.0.0.1', port); return 'not refused'
              except ConnectionRefusedError: return get('127.0.0.1', \(outside.address.port))
          serve(listener(socket.AF_INET, '', 8080), all)
          """)
        try await world.launch(it)
        #expect(await comes { try await world.get() == "outside" }, "\(world.runLog())")
      }
    }

    /// A port of 0 leaves a socket free to reach anyone, as on a machine of its own.
    @Test func aPortOfTheKernelsChoice() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          wild = listener(socket.AF_INET, '', 0); start(wild, lambda: 'wild')
          local = listener(socket.AF_INET, '127.0.0.1', 0); start(local, lambda: 'local')
          bound = socket.socket(); bound.bind(('', 0)); bound.connect(('127.0.0.1', wild.getsockname()[1])); bound.close()
          def all():
              return ' '.join([get('127.0.0.1', wild.getsockname()[1]), get('127.0.0.1', local.getsockname()[1]),
                               get(local.getsockname()[0], local.getsockname()[1])])
          serve(listener(socket.AF_INET, '', 8080), all)
          """)
        try await world.launchBoth(it)
        for id in 1...2 {
          #expect(await comes { try await world.get(of: id) == "wild local local" }, "\(world.runLog(id))")
        }
      }
    }

    @Test func datagrams() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); box.bind(('127.0.0.1', 8125))
          def echo():
              while True:
                  data, sender = box.recvfrom(65536); box.sendto(b'echo ' + data, sender)
          threading.Thread(target=echo, daemon=True).start()
          def all():
              free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); free.settimeout(10)
              free.sendto(b'sent ' + me.encode(), ('127.0.0.1', 8125)); first = free.recv(100).decode()
              tied = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); tied.settimeout(10)
              tied.connect(('localhost', 8125)); tied.send(b'connected ' + me.encode())
              return first + ', ' + tied.recv(100).decode()
          serve(listener(socket.AF_INET, '', 8080), all)
          """)
        try await world.launchBoth(it)
        for id in 1...2 {
          #expect(
            await comes { try await world.get(of: id) == "echo sent \(id), echo connected \(id)" },
            "\(world.runLog(id))")
        }
      }
    }

    @Test func fiftyWorkersShareThePort() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          for number in range(50):
              if os.fork() == 0:
                  serve(listener(socket.AF_INET, '', 8080, reuseport=True), lambda: os.getpid())
          os.wait()
          """)
        try await world.launchBoth(it)
        for id in 1...2 {
          var workers: Set<String> = []
          #expect(
            await comes {
              workers.insert(try await world.get(of: id))
              return workers.count > 10
            }, "\(world.runLog(id))")
        }
      }
    }

    /// Thousands of calls from many threads and processes at once, some of which die in the middle.
    @Test func manyCallersAtOnceSomeOfWhichDie() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          import signal
          inner = listener(socket.AF_INET, '127.0.0.1', 21001); start(inner, lambda: me)
          def calls():
              for _ in range(100000): socket.create_connection(('127.0.0.1', 21001), timeout=10).close()
          for _ in range(8):
              pid = os.fork()
              if pid == 0:
                  for _ in range(4): threading.Thread(target=calls).start()
                  time.sleep(1000)
              threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
          wrong = []
          def calls():
              for _ in range(50):
                  if get('127.0.0.1', 21001) != me: wrong.append(1)
          threads = [threading.Thread(target=calls) for _ in range(8)]
          for t in threads: t.start()
          for t in threads: t.join()
          serve(listener(socket.AF_INET, '', 8080), lambda: wrong or 'fine')
          """)
        try await world.launch(it)
        #expect(await comes { try await world.get() == "fine" }, "\(world.runLog())")
      }
    }

    /// A server that takes no connections lets those who connect wait, and nobody else.
    @Test func aConnectionThatHangsDelaysNoOther() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          full = socket.socket(); full.bind(('127.0.0.1', 21001)); full.listen(0)
          fillers = []
          for _ in range(4):
              s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', 21001)); fillers.append(s)
          def wait():
              s = socket.socket(); s.connect(('127.0.0.1', 21001)); print('connected', flush=True); s.recv(1)
          for _ in range(20): threading.Thread(target=wait, daemon=True).start()
          inner = listener(socket.AF_INET, '127.0.0.1', 21002); start(inner, lambda: me)
          def all():
              begin = time.monotonic()
              for _ in range(20): get('127.0.0.1', 21002)
              return 'quick' if time.monotonic() - begin < 2 else 'slow'
          serve(listener(socket.AF_INET, '', 8080), all)
          """)
        try await world.launch(it)
        #expect(await comes { try await world.get() == "quick" }, "\(world.runLog())")
      }
    }

    @Test func whatIsTakenIsSaid() async throws {
      try await inWorld { world in
        let it = Self.python(
          """
          listener(socket.AF_INET, '', 8081)
          first = listener(socket.AF_INET, '', 8080)
          try: second = listener(socket.AF_INET, '127.0.0.1', 8080)
          except OSError as e: serve(first, lambda: e.strerror)
          """)
        try await world.launch(it)
        #expect(await comes { try await world.get() == "Address already in use" }, "\(world.runLog())")
      }
    }

    @Test func aPortThatAnotherProgramHasEverywhere() async throws {
      let taken = try Listener(.ipv4("0.0.0.0", 0))
      try await inWorld { world in
        let port = Int(taken.address.port)
        await #expect(throws: InfraError.self) { try await world.launch(task(run: "sleep 1000"), port: port) }
        #expect(world.launchLog().contains("port \(port) is taken on every address"), "\(world.launchLog())")
      }
      taken.stop()
    }

    @Test(.enabled(if: Places.tool("node") != nil)) func nodeOnAllInterfaces() async throws {
      try await inWorld { world in
        let it = task(
          run: """
            exec node -e "
              const http = require('http')
              http.createServer((q, s) => s.end('inner')).listen(21001, '127.0.0.1')
              http.createServer((q, s) => http.get('http://localhost:21001/', i => {
                i.on('data', d => s.end(d + ' ' + process.env.SKYPILOT_SERVE_REPLICA_ID)) })).listen(8080)"
            """)
        try await world.launchBoth(it)
        for id in 1...2 { #expect(await comes { try await world.get(of: id) == "inner \(id)" }, "\(world.runLog(id))") }
      }
    }

    /// Without root, the kernel lets a filter in only for no_new_privs.
    @Test(.enabled(if: getuid() == 0 && Places.tool("setpriv") != nil)) func asAnOrdinaryUser() async throws {
      try await inWorld(shim: { folder in
        let program = folder.file("sky-controller")
        try FileManager.default.copyItem(atPath: Places.program("sky-controller"), toPath: program)
        let script = try folder.write(
          """
          #!/bin/sh
          chown -R 65534:65534 "$2"
          touch "${2%/*}/setup.lock"; chmod 666 "${2%/*}/setup.lock"
          for f in "$2" "$2/.." "$2/../.." "$2/../../.." "$2/../../../.." "$2/../../../../.."; do chmod o+rx "$f"; done
          exec setpriv --reuid 65534 --regid 65534 --clear-groups -- \(program) "$@"
          """, to: "as-nobody")
        chmod(script, 0o755)
        return script
      }) { world in
        let it = task(
          setup: "id -u",
          run: "echo I am $SKYPILOT_SERVE_REPLICA_ID > index.html; : no sudo; python3 -m http.server 8080")
        try await world.launchBoth(it)
        for id in 1...2 {
          #expect(await comes { try await world.get(of: id) == "I am \(id)\n" }, "\(world.runLog(id))")
          #expect(world.state(id)?.addressing == .ownAddress)
          #expect(world.runLog(id).hasPrefix("65534\n"))
          #expect(world.launchLog(id).contains("sudo cannot work in run"))
        }
      }
    }

    /// Where there is no filter, each replica is told its port.
    @Test func aPortOfItsOwnInstead() async throws {
      try await inWorld(variables: ["SKY_LOCAL_ADDRESSING": "ports"]) { world in
        let it = task(
          run: """
            echo I am $SKYPILOT_SERVE_REPLICA_ID > index.html
            exec python3 -m http.server --bind 127.0.0.1 $SKYPILOT_SERVE_REPLICA_PORT
            """)
        try await world.launchBoth(it)
        for id in 1...2 {
          #expect(await comes { try await world.get(of: id) == "I am \(id)\n" }, "\(world.runLog(id))")
          #expect(world.state(id)?.addressing == .ownPort(reason: "SKY_LOCAL_ADDRESSING=ports"))
          #expect(world.launchLog(id).contains("SKYPILOT_SERVE_REPLICA_PORT"))
        }
        #expect(await world.infra.describe().addressing.contains("SKYPILOT_SERVE_REPLICA_PORT"))
      }
    }

    /// The kernel shows a call to one listener only, so a replica cannot keep replicas that have addresses.
    @Test func withinAReplicaThereAreOnlyPorts() async throws {
      let program = try Places.program("sky-controller")
      try await inWorld { world in
        try await world.launch(task(run: "\(program) replica --check; echo status $?"))
        #expect(await comes { world.runLog().hasSuffix("status 1\n") })
        #expect(world.runLog().contains("seccomp with user notification: Device or resource busy"), "\(world.runLog())")
      }
    }

    @Test func bothSayWhichPort() async throws {
      try await inWorld { world in
        try await world.launch(
          task(run: "echo I am here > index.html; exec python3 -m http.server $SKYPILOT_SERVE_REPLICA_PORT"))
        #expect(await comes { try await world.get() == "I am here\n" })
        #expect(try await world.machine().address.port == 8080)
        #expect(await world.infra.describe().addressing == "each replica has a loopback address of its own")
      }
    }
  }
}
