#!/usr/bin/env python3
"""Fails when the proxy allocates memory per request, event or byte in its steady state, on the real ring.

The proxy runs with a counter preloaded (counter.c, compiled here). After a first load that touches everything once, the
same load runs again, and no thread may have allocated more than a handful of times, however many requests were served.

  alloc_gate.py --bin FOLDER
"""
import argparse, json, mmap, os, struct, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'compare'))
from processes import free_ports, listening, HOST

LOADS = {
    'small requests': '--connections 32',
    'events': '--mode sse --connections 50 --events 100 --interval-ms 5',
    'responses of 1 MB': '--connections 8 --path /?size=1048576',
    'chunked responses': '--connections 8 --path /?size=100000&framing=chunked&chunk=3000',
    'request bodies of 1 MB': '--connections 8 --path /?size=16 --body-bytes 1048576',
    'new connections': '--connections 16 --churn',
    'clients that leave': '--mode sse --connections 32 --events 50 --interval-ms 2 --abort-percent 50 --abort-after 3',
}
# The proxy's other threads may do something of their own while a load runs (a clock tick, a line of log).
ALLOWED = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bin', required=True, help='folder of the built tools')
    parser.add_argument('--seconds', type=float, default=0.5)
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as work:
        library, counts = os.path.join(work, 'counter.so'), os.path.join(work, 'counts')
        subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-shared', '-fPIC', '-o', library, os.path.join(HERE, 'counter.c')], check=True)
        with open(counts, 'wb') as f:
            f.write(bytes(4096))
        origin_port, port = free_ports(2)
        tool = lambda name: os.path.join(options.bin, name)
        origin = subprocess.Popen([tool('sky-origin'), '--quiet', '--listen', f'{HOST}:{origin_port}'])
        proxy = None
        try:
            assert listening(origin_port), 'the origin did not start'
            proxy = subprocess.Popen([tool('sky-proxy'), '--listen', f':{port}', '--workers', '1', '--replica', f'{HOST}:{origin_port}'],
                                     stderr=subprocess.DEVNULL, env=dict(os.environ, LD_PRELOAD=library, ALLOC_COUNT_FILE=counts))
            assert listening(port), 'the proxy did not start'
            with open(counts, 'rb') as f:
                seen = mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ)

            def read():
                words = struct.unpack('512Q', seen[:])
                return {words[2 + 2 * i]: words[3 + 2 * i] for i in range(min(words[0], 127))}
            if not sum(read().values()):
                raise SystemExit('nothing was counted at all: is the proxy linked statically with its own allocator?')
            for name, flags in LOADS.items():
                def load():
                    report = os.path.join(work, 'load.json')
                    subprocess.run([tool('sky-load'), *flags.split(), '--target', f'{HOST}:{port}', '--rounds', '1', '--quiet', '--warmup', '0.1',
                                    '--seconds', str(options.seconds), '--json', report], check=True, timeout=60)
                    piece = json.load(open(report))['slices'][0]
                    return piece['requests'] + piece['events'] + piece['aborted']
                load()
                before = read()
                done = load()
                grown = {thread: count - before.get(thread, 0) for thread, count in read().items()}
                total = sum(grown.values())
                bad = total > ALLOWED or done == 0
                failed = failed or bad
                print(f'{"FAILED" if bad else "ok":7}{name}: {total} allocations while {done} requests or events were served'
                      + (f', by thread: {grown}' if bad else ''))
        finally:
            for process in (proxy, origin):
                if process:
                    process.terminate()
                    try:
                        process.wait(3)
                    except subprocess.TimeoutExpired:
                        process.kill()
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
