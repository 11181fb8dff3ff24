#!/usr/bin/env python3
"""Mixed traffic, hostile clients, churn of replicas and kills against a real sky-proxy, for as long as asked; then
everybody leaves, and memory, descriptors, CPU time and counts must be what they were.

    python3 Tests/Soak/soak.py --proxy .build/release/sky-proxy --seconds 600 [--seed N] [--workers N]
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
REPLICAS = 5
FLAGS = (
    "--idle-timeout 4s --head-timeout 3s --stream-timeout 6s --tunnel-timeout 8s --queue-timeout 5s "
    "--response-timeout 10s --connect-timeout 2s --drain-timeout 10s --max-connections 600 --max-body-bytes 4m "
    "--spill-memory 8m --buffers 512"
).split()
# Far above what this traffic needs, far below what a worker that spins does.
TURNS = 50_000
# Everything that may still be open when traffic ends is over by then.
SETTLES = 25


class Wrong(Exception):
    """An answer that no replica gave."""


class Proxy:
    def __init__(self, program, workers, flags):
        self.folder = tempfile.TemporaryDirectory(prefix="soak-")
        self.admin = os.path.join(self.folder.name, "admin.sock")
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        self.process = subprocess.Popen(
            [program, "--listen", "127.0.0.1:0", "--admin", "unix:" + self.admin, "--workers", str(workers)]
            + FLAGS + flags, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.port = 0
        for line in self.process.stderr:
            self.log.write(line)
            if "listening address=" in line:
                self.port = int(line.rsplit(":", 1)[1])
            if " ready " in line:
                break
        # What it says from now on goes on into the file, so that it never waits for us.
        self.drainer = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=self.log)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("admin", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(self.admin)
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def metric(self, name):
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise SystemExit(f"no {name} in /metrics")

    def in_flight(self):
        return sum(replica["in_flight"] for replica in json.loads(self.ask("GET", "/v1/replicas")[1])["replicas"])

    def kilobytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "it did not end when asked to"


class Origin:
    """A replica in a process of its own, which may be killed and comes again on its port."""

    def __init__(self):
        self.port = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "origin.py"), str(self.port)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Client:
    """A connection, as any HTTP client has it."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    def send(self, method, target, body=None, more=""):
        head = f"{method} {target} HTTP/1.1\r\nHost: soak\r\n{more}"
        if body is not None:
            head += f"Content-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + (body or b""))

    async def head(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status = lines[0].split(" ")[:2]
        if version != "HTTP/1.1":
            raise Wrong(f"an answer begins with {lines[0]!r}")
        return int(status), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:] if line)}

    async def answer(self):
        status, fields = await self.head()
        if "content-length" in fields:
            return status, await self.reader.readexactly(int(fields["content-length"])), fields
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return status, body, fields


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.proxy = Proxy(options.proxy, options.workers, options.flags)
        self.origins = [Origin() for _ in range(REPLICAS)]
        self.version = 0
        self.until = 0
        self.counts = Counter()
        self.problems = []
        self.samples = []
        self.fastest = 0

    # Well-behaved clients: whatever comes back whole must be right.

    async def small(self):
        async with Client(self.proxy.port) as client:
            for _ in range(self.random.randint(1, 40)):
                target = f"/slow/{self.random.randint(1, 60)}" if self.random.random() < 0.1 else f"/{self.random.random()}"
                body = self.random.randbytes(self.random.randint(0, 3000)) if self.random.random() < 0.4 else None
                client.send("POST" if body is not None else "GET", target, body)
                if await self.check(client, target, body or b""):
                    return

    async def upload(self):
        async with Client(self.proxy.port) as client:
            body = self.random.randbytes(self.random.randint(10_000, 1_000_000))
            client.send("POST", "/upload", None, f"Content-Length: {len(body)}\r\n")
            at = 0
            while at < len(body):
                piece = self.random.randint(1, 120_000)
                client.writer.write(body[at:at + piece])
                await client.writer.drain()
                at += piece
                await asyncio.sleep(0.005)
            await self.check(client, "/upload", body)

    async def check(self, client, target, body):
        """True: the connection is not used again."""
        status, content, fields = await client.answer()
        self.counts[f"answered {status}"] += 1
        if status == 200 and content != hashlib.sha256(target.encode() + body).hexdigest().encode():
            raise Wrong(f"{target} was answered {content[:80]!r}")
        return fields.get("connection") == "close"

    async def events(self):
        async with Client(self.proxy.port) as client:
            count = self.random.randint(5, 200)
            client.send("GET", f"/events/{count}")
            status, body, _ = await client.answer()
            self.counts[f"answered {status}"] += 1
            if status == 200 and body != b"".join(b"data: %d\n\n" % number for number in range(count)):
                raise Wrong(f"events: {body[:80]!r}")

    async def socket(self):
        async with Client(self.proxy.port) as client:
            client.send("GET", "/socket", None, "Connection: Upgrade\r\nUpgrade: websocket\r\n")
            status, _ = await client.head()
            if status != 101:
                self.counts[f"answered {status}"] += 1
                return
            for _ in range(self.random.randint(1, 60)):
                said = self.random.randbytes(self.random.randint(1, 5_000))
                client.writer.write(said)
                if await client.reader.readexactly(len(said)) != said:
                    raise Wrong("a WebSocket said something else")
                await asyncio.sleep(0.05)
            self.counts["sockets ended well"] += 1

    # Hostile clients: what becomes of them is theirs; the proxy lives on.

    async def hoard(self):
        """Pipelines thousands of requests and reads nothing."""
        async with Client(self.proxy.port) as client:
            request = b"GET /hoard HTTP/1.1\r\nHost: soak\r\n\r\n" * 500
            end = time.monotonic() + self.random.uniform(2, 20)
            client.reader._transport.pause_reading()
            while time.monotonic() < end:
                client.writer.write(request)
                try:
                    await asyncio.wait_for(client.writer.drain(), 0.5)
                except asyncio.TimeoutError:
                    pass
            client.writer.transport.abort()

    async def half(self):
        """Sends its FIN with the request or after a while, and waits."""
        async with Client(self.proxy.port) as client:
            client.send(*self.random.choice(
                [("GET", "/slow/900"), ("POST", "/slow/500", b"x"), ("GET", "/events/60"), ("GET", "/big/40")]))
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.uniform(0, 0.3))
            client.writer.write_eof()
            await client.reader.read()

    async def slow(self):
        """Reads a little at a time."""
        async with Client(self.proxy.port) as client:
            client.send("GET", "/big/100")
            for _ in range(self.random.randint(5, 60)):
                await client.reader.read(self.random.randint(1, 4_000))
                await asyncio.sleep(0.05)

    async def stuck(self):
        """Asks for much and reads nothing."""
        async with Client(self.proxy.port) as client:
            client.reader._transport.pause_reading()
            client.send("GET", "/big/400")
            await asyncio.sleep(self.random.uniform(1, 9))
            client.writer.transport.abort()

    async def silent(self):
        """Says nothing, or half a head, and waits for the end."""
        async with Client(self.proxy.port) as client:
            client.writer.write(self.random.choice([b"", b"GET / HTTP/1.1\r\nHo", b"\r\n"]))
            await client.reader.read()

    async def early(self):
        """Goes on uploading though the answer has been no."""
        async with Client(self.proxy.port) as client:
            client.writer.write(b"POST /early HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(60):
                client.writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                await client.writer.drain()

    async def frozen(self):
        """A process that is stopped with its streams open, and killed."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN, str(self.proxy.port), stdout=subprocess.PIPE)
        await child.stdout.readline()
        await asyncio.sleep(self.random.uniform(1, 8))
        child.kill()
        await child.wait()

    # The run.

    async def again(self, kind):
        while time.monotonic() < self.until:
            try:
                await asyncio.wait_for(kind(), 60)
                self.counts[kind.__name__] += 1
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.counts[kind.__name__ + " cut"] += 1
            except asyncio.TimeoutError:
                self.problems.append(f"a client ({kind.__name__}) was left alone for a minute")
            except Wrong as wrong:
                self.problems.append(str(wrong))
            await asyncio.sleep(self.random.uniform(0, 0.05))

    async def churn(self):
        """Another list every second; a replica is killed every three."""
        turn = 0
        while time.monotonic() < self.until:
            self.put(self.random.sample(range(REPLICAS), self.random.randint(2, REPLICAS)))
            if turn % 3 == 2:
                victim = self.random.choice(self.origins)
                victim.kill()
                self.counts["kills"] += 1
                await asyncio.sleep(self.random.uniform(0, 1))
                victim.start()
            turn += 1
            await asyncio.sleep(1)
        self.put(range(REPLICAS))

    def put(self, places):
        self.version += 1
        replicas = [
            {"id": f"r{place}", "generation": 1, "address": f"127.0.0.1:{self.origins[place].port}", "state": "ready"}
            for place in places]
        status, text = self.proxy.ask("PUT", "/v1/replicas", json.dumps({"version": self.version, "replicas": replicas}))
        self.counts["lists"] += 1
        if status != 200:
            self.problems.append(f"PUT /v1/replicas: {status} {text}")

    async def watch(self):
        start, cpu, turns = time.monotonic(), self.proxy.cpu(), 0
        pause = max(1, self.options.seconds / 20)
        while time.monotonic() < self.until:
            await asyncio.sleep(min(pause, max(0.1, self.until - time.monotonic())))
            if self.proxy.process.poll() is not None:
                self.problems.append(f"sky-proxy has ended: {self.proxy.process.returncode}")
                self.until = 0
                return
            now, all_turns = self.proxy.cpu(), self.proxy.metric("skyproxy_turns_total")
            passed, share, rate = time.monotonic() - start, (now - cpu) / pause, (all_turns - turns) / pause
            cpu, turns = now, all_turns
            self.samples.append(self.proxy.kilobytes())
            print(f"{passed:6.0f} s   {self.samples[-1] / 1024:7.1f} MiB   {self.proxy.descriptors():5} descriptors   "
                  f"{share * 100:5.1f} % CPU   {rate:8.0f} turns/s", flush=True)
            self.fastest = max(self.fastest, rate)

    async def traffic(self):
        self.put(range(REPLICAS))
        self.until = time.monotonic() + self.options.seconds
        crowd = {
            self.small: 24, self.upload: 6, self.events: 12, self.socket: 8, self.hoard: 4, self.half: 8, self.slow: 4,
            self.stuck: 4, self.silent: 8, self.early: 2, self.frozen: 1,
        }
        tasks = [self.again(kind) for kind, count in crowd.items() for _ in range(count)]
        await asyncio.gather(self.churn(), self.watch(), *tasks)

    def run(self):
        print(f"seed {self.options.seed}")
        before = self.proxy.descriptors()
        try:
            asyncio.run(self.traffic())
            if self.proxy.process.poll() is None:
                self.check_quiet(before)
        finally:
            status = self.proxy.end()
            for origin in self.origins:
                origin.kill()
        if self.fastest > TURNS:
            self.problems.append(f"{self.fastest:.0f} turns in a second: a worker spins")
        if status != 0:
            self.problems.append(f"sky-proxy ended with {status}")
        for name, count in sorted(self.counts.items()):
            print(f"  {count:8} {name}")
        for problem, count in Counter(self.problems).most_common(20):
            print(f"FAILED: {problem}" + (f" ({count} times)" if count > 1 else ""))
        if self.problems:
            self.proxy.log.seek(0)
            print("its log ends:\n" + self.proxy.log.read()[-2_000:])
            print(f"again with --seed {self.options.seed}")
        print("failed" if self.problems else "passed")
        return 1 if self.problems else 0

    def check_quiet(self, before):
        def state():
            names = ["skyproxy_exchanges_open", "skyproxy_queue_waiting", "skyproxy_exchange_drift"]
            found = {name: self.proxy.metric(name) for name in names}
            found["in flight"] = self.proxy.in_flight()
            found["descriptors more than before"] = max(
                0, self.proxy.descriptors() - before - self.options.spare_descriptors)
            return {name: value for name, value in found.items() if value != 0}

        begun = time.monotonic()
        while (left := state()) and time.monotonic() < begun + SETTLES:
            time.sleep(0.1)
        for name, value in left.items():
            self.problems.append(f"{SETTLES} s after everybody has left: {name} {value:g}")
        print(f"quiet after {time.monotonic() - begun:.1f} s")
        cpu, start, turns = self.proxy.cpu(), time.monotonic(), self.proxy.metric("skyproxy_turns_total")
        time.sleep(5)
        share = (self.proxy.cpu() - cpu) / (time.monotonic() - start)
        turns = self.proxy.metric("skyproxy_turns_total") - turns
        print(f"idle: {share * 100:.2f} % CPU, {turns:.0f} turns in 5 s")
        if share > 0.02:
            self.problems.append(f"an idle proxy takes {share * 100:.1f} % CPU")
        if len(self.samples) >= 3:
            first = max(self.samples[:max(1, len(self.samples) // 3)]) / 1024
            last = self.proxy.kilobytes() / 1024
            print(f"memory: {first:.1f} MiB at most in the first third, {last:.1f} at the end")
            if last > first * 1.1 + 16:
                self.problems.append(f"memory has grown from {first:.1f} to {last:.1f} MiB")


FROZEN = """
import os, signal, socket, sys
kept = []
for target in ["/events/400", "/big/100", "/slow/3000"] * 6:
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.sendall(f"GET {target} HTTP/1.1\\r\\nHost: soak\\r\\n\\r\\n".encode())
    kept.append(s)
print("stopped", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", default=".build/release/sky-proxy")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--spare-descriptors", type=int, default=0, help="those that may be more at the end")
    parser.add_argument("flags", nargs="*", help="for sky-proxy, behind --")
    return Soak(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
