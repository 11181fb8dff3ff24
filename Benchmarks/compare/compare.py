#!/usr/bin/env python3
"""Measures sky-proxy beside other proxies and beside the floor, in turns, on this machine.

  compare.py [--full] [--only small-64,sse-200] [--install] [--bin FOLDER]

Every round of a scenario loads each proxy once, forwards and backwards, so that drift of the machine hits all alike;
ratios are the median of per-round ratios. Results go to Benchmarks/results/<date>/.
"""
import argparse, datetime, json, os, platform, re, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import charts, profile
from processes import Fleet, find_tools, install, versions, HOST
from scenarios import SCENARIOS

ROOT = os.path.dirname(os.path.dirname(HERE))
OURS = ('sky', 'sky-batch', 'sky-log', 'sky-slow', 'floor')
UNITS = {'request': 'CPU µs/request', 'event': 'CPU µs/event', 'megabyte': 'CPU µs/MB', 'stream': 'bytes/stream'}


def run(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ''


def machine(tools):
    cpu = next((l.split(':', 1)[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.machine())
    memory = next((int(l.split()[1]) // 1024 for l in open('/proc/meminfo') if l.startswith('MemTotal')), 0)

    def sysctl(name):
        try:
            return open('/proc/sys/' + name.replace('.', '/')).read().strip()
        except OSError:
            return '?'
    return {
        'cpu': cpu, 'cores': os.cpu_count(), 'memory_mib': memory, 'kernel': platform.release(),
        'congestion_control': sysctl('net.ipv4.tcp_congestion_control'), 'load_average_before': os.getloadavg()[0],
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'commit': run('git', 'rev-parse', '--short', 'HEAD'), 'peers': versions(tools),
        'swift': run('swift', '--version').splitlines()[0] if run('swift', '--version') else '?',
    }


def spread(values):
    return (min(values), statistics.median(values), max(values)) if values else (0, 0, 0)


class Result:
    """One scenario's slices, by proxy."""

    def __init__(self, scenario, data):
        self.scenario, self.unit, self.data = scenario, data['unit'], data
        self.rate = data.get('rate')
        self.by = {}
        for piece in data['slices']:
            self.by.setdefault(piece['name'], []).append(piece)

    def figure(self, name):
        return spread([p['figure'] for p in self.by.get(name, [])])

    def median(self, name, value):
        return statistics.median(value(p) for p in self.by[name])

    def pace(self, name):
        """What the scenario counts, each second."""
        return self.median(name, lambda p: (p['events'] if self.unit == 'event' else p['requests']) / p['seconds'])

    @staticmethod
    def throughput(piece):
        return piece['requests'] / piece['seconds']

    def rps(self, name):
        return self.median(name, self.throughput)

    def latency(self, name, which):
        key = 'event_us' if self.unit in ('event', 'stream') else 'latency_us'
        return self.median(name, lambda p: p[key][which])

    def ratio(self, ours, other, value=lambda p: p['figure']):
        """The median of what each round says; None: there is no round that has both."""
        rounds = {p['round']: value(p) for p in self.by.get(other, [])}
        pairs = [value(p) / rounds[p['round']] for p in self.by.get(ours, []) if rounds.get(p['round'])]
        return statistics.median(pairs) if pairs else None

    def sound(self, name):
        """Whether its figure means anything: it answered, and mostly well."""
        done = sum(p['requests'] + p['events'] + p['held'] for p in self.by[name])
        bad = sum(p['errors'] + p['refused'] for p in self.by[name])
        return done > 0 and bad <= done / 100

    def best_peer(self):
        if self.scenario.against:
            return self.scenario.against if self.scenario.against in self.by else None
        return min(self.peers(), key=lambda n: self.figure(n)[1], default=None)

    def peers(self):
        return [n for n in self.by if n not in OURS and self.sound(n)]

    def problems(self, name):
        parts = []
        for key in ('errors', 'refused', 'lost', 'reordered', 'corrupted', 'unfinished'):
            count = sum(p[key] for p in self.by[name])
            # A few requests are always on their way when a slice of the open loop ends.
            if count and not (key == 'unfinished' and count * 100 < sum(p['requests'] for p in self.by[name])):
                parts.append(f'{key} {count}')
        return ', '.join(parts) or '–'


def measure(scenario, fleet, targets, options, rate):
    lasting = scenario.absolute is not None
    rounds = 1 if lasting else options.rounds
    command = fleet.pin(fleet.other_cores) + [fleet.tools['sky-load'], *scenario.flags, '--rounds', str(rounds), '--quiet',
                                              '--seconds', str(options.seconds * scenario.seconds),
                                              '--warmup', str(options.warmup), '--label', scenario.name,
                                              '--also', f'origin={fleet.origin_pid}',
                                              '--threads', str(max(1, len(fleet.other_cores) // 2)),
                                              '--json', os.path.join(fleet.work, 'slice.json')]
    if rate:
        command += ['--rate', str(int(rate))]
    for name, (port, pids) in targets.items():
        command += ['--target', f'{name}={HOST}:{port},' + '+'.join(map(str, pids))]
    # Bounded: a slice is short, and a tool that hangs is ended.
    limit = 60 * len(targets) if lasting else len(targets) * rounds * (options.seconds * scenario.seconds + options.warmup + 6) + 30
    try:
        done = subprocess.run(command, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f'{scenario.name}: the load generator did not end in {limit:.0f} s', file=sys.stderr)
        return None
    if done.returncode not in (0, 1) or not os.path.exists(os.path.join(fleet.work, 'slice.json')):
        print(f'{scenario.name}: the load generator failed', file=sys.stderr)
        return None
    with open(os.path.join(fleet.work, 'slice.json')) as f:
        return json.load(f)


def table(result):
    scenario = result.scenario
    memory = scenario.slow is not None
    pace = 'events/s' if result.unit == 'event' else 'requests/s'
    out = [f'### {scenario.title} (`{scenario.name}`)', '']
    if result.rate:
        out += [f'{result.rate:,.0f} requests/s', '']
    out += [f'| proxy | {UNITS[result.unit]} median [min..max] | ours ÷ this | {pace} | p50 µs | p99 µs | p99.9 µs '
            + ('| memory MiB ' if memory else '') + '| problems |', '|---|---|---|---|---|---|---|---|' + ('---|' if memory else '')]
    for name in result.by:
        least, median, most = result.figure(name)
        ratio = result.ratio(scenario.ours, name)
        rest = f'| {result.median(name, lambda p: p["rss_kib"]) / 1024:,.0f} ' if memory else ''
        out.append(f'| {name} | {median:,.2f} [{least:,.2f}..{most:,.2f}] | {f"{ratio:.2f}" if ratio else "–"} | {result.pace(name):,.0f} '
                   f'| {result.latency(name, "p50"):,.0f} | {result.latency(name, "p99"):,.0f} | {result.latency(name, "p999"):,.0f} '
                   f'{rest}| {result.problems(name)} |')
    return out + ['']


def verdicts(results):
    """One line per aim; and the scenarios that miss theirs in CPU time."""
    missed = []
    out = ['| scenario | ours | best peer | ours ÷ best peer | aim | ours ÷ floor | aim | met |', '|---|---|---|---|---|---|---|---|']
    for name, result in results.items():
        s = result.scenario
        if s.ours not in result.by or (s.peer is None and s.floor is None and s.absolute is None and s.slow is None):
            continue
        ours = result.figure(s.ours)[1]
        best = result.best_peer()
        to_peer = result.ratio(s.ours, best) if best else None
        to_floor = result.ratio(s.ours, 'floor')
        met = True
        if s.absolute is not None:
            met = ours <= s.absolute
            out.append(f'| {name} | {ours:,.0f} bytes | {best} {result.figure(best)[1]:,.0f} | {to_peer:.2f} | ≤ {s.absolute} bytes | – | – | {"yes" if met else "no"} |'
                       if best else f'| {name} | {ours:,.0f} bytes | – | – | ≤ {s.absolute} bytes | – | – | {"yes" if met else "no"} |')
            continue
        if s.slow is not None:
            kept = result.ratio('sky-slow', 'sky', Result.throughput)
            if kept is None:
                continue
            out.append(f'| {name} | {kept * 100:.0f} % of the throughput kept | – | – | ≥ {s.slow * 100:.0f} % | – | – | {"yes" if kept >= s.slow else "no"} |')
            continue
        if s.peer is not None:
            met = to_peer is not None and to_peer <= s.peer
        if s.floor is not None:
            met = met and to_floor is not None and to_floor <= s.floor
        if s.faster is not None and best:
            pace, theirs = result.rps(s.ours), result.rps(best)
            out.append(f'| {name}, requests/s | {pace:,.0f} | {best} {theirs:,.0f} | {pace / theirs:.0f} × | ≥ {s.faster} × | – | – '
                       f'| {"yes" if pace >= s.faster * theirs else "no"} |')
        if s.added_us is not None and best:
            added = result.latency(s.ours, 'p50') - result.latency(best, 'p50')
            out.append(f'| {name}, added median | {added:,.0f} µs | {best} | – | ≤ {s.added_us} µs | – | – '
                       f'| {"yes" if added <= s.added_us else "no"} |')
        elif s.needs_rate:
            fastest = min(result.peers(), key=lambda n: result.latency(n, 'p99'), default=None)
            if fastest:
                tail, theirs = result.latency('sky', 'p99'), result.latency(fastest, 'p99')
                out.append(f'| {name}, p99 | {tail:,.0f} µs | {fastest} {theirs:,.0f} µs | {tail / theirs:.2f} | ≤ 1.0 | – | – '
                           f'| {"yes" if tail <= theirs else "no"} |')
        out.append(f'| {name} | {ours:,.2f} | {f"{best} {result.figure(best)[1]:,.2f}" if best else "–"} | {f"{to_peer:.2g}" if to_peer and to_peer < 0.1 else f"{to_peer:.2f}" if to_peer else "–"} '
                   f'| {f"≤ {s.peer}" if s.peer else "–"} | {f"{to_floor:.2f}" if to_floor else "–"} | {f"≤ {s.floor}" if s.floor else "–"} '
                   f'| {"yes" if met else "no"} |')
        if not met:
            missed.append(name)
    return out + [''], missed


def explain(results, begin, options, tools, fleet):
    """The profiles behind the figures that miss their aim: ours and the best peer's."""
    missed = verdicts(results)[1]
    if not missed or not profile.available():
        return ['Where an aim is missed, perf(1) would show why; it is not installed.', ''] if missed else []
    rows, words = [], []
    for name in missed:
        result = results[name]
        s, best = result.scenario, result.best_peer()
        alive = begin(s)
        for proxy in [s.ours] + ([best] if best else []):
            if proxy not in alive:
                continue
            port, pids = alive[proxy]
            load = fleet().pin(fleet().other_cores) + [tools['sky-load'], *s.flags, '--quiet', '--seconds', '2', '--warmup', '0.3',
                                                       '--rounds', '1', '--target', f'{proxy}={HOST}:{port}']
            if result.rate:
                load += ['--rate', str(int(result.rate))]
            # The first try may find the proxy not yet awake.
            found = profile.shares(pids, load, fleet().work) or profile.shares(pids, load, fleet().work)
            if found and proxy == s.ours:
                ours, unit = result.figure(proxy)[1], UNITS[result.unit][4:]
                words.append(f'* `{name}`: {ours * found["user space"] / sum(found.values()):,.2f} of our {ours:,.2f} {unit} are spent outside the kernel.')
                if 'floor' in result.by and best:
                    floor = result.figure('floor')[1]
                    words[-1] += f' The floor, which only relays, takes {floor:,.2f}: {floor / result.figure(best)[1]:.2f} of {best}.'
                if result.unit == 'event' and best:
                    words[-1] += f' The median event is {result.latency(s.ours, "p50"):,.0f} µs old with us, {result.latency(best, "p50"):,.0f} with {best}.'
            if found:
                rows.append((name, proxy, result.figure(proxy)[1], UNITS[result.unit][4:], found))
    if not rows:
        return []
    return ['### Where the time goes, where an aim is missed', '',
            *words, '', 'Sampled in a further run of two seconds; shares of the median figure above.', ''] + profile.table(rows)


def draw(results, scaling, folder):
    made = []

    def put(name, svg):
        if svg:
            with open(os.path.join(folder, name), 'w') as f:
                f.write(svg)
            made.append(name)

    def series(rows, value):
        found = {}
        for x, result in rows:
            for name in result.by:
                if name != 'skyserve':
                    found.setdefault(name, []).append((x, value(result, name)))
        return found
    small = [(int(n.split('-')[1]), r) for n, r in results.items() if n.startswith('small-')]
    put('cpu-by-connections.svg', charts.lines('CPU per small request', 'connections', 'µs of the proxy', series(small, lambda r, n: r.figure(n)[1])))
    rates = [(int(r.rate), r) for n, r in results.items() if n.startswith('open-') and r.rate]
    put('latency-by-rate.svg', charts.lines('Latency p99 against rate (Poisson arrivals)', 'requests per second', 'µs, logarithmic',
                                            series(rates, lambda r, n: r.latency(n, 'p99')), log_y=True))
    events = {r.scenario.title.split(', ')[1]: {k: r.figure(k) for k in r.by if k != 'skyserve'} for n, r in results.items() if n.startswith('sse-')}
    put('cpu-by-event.svg', charts.bars('CPU per event, 200 streams', 'µs of the proxy', events) if events else None)
    if 'hold-9000' in results:
        r = results['hold-9000']
        put('memory-per-stream.svg', charts.bars('Memory per open stream, 9,000 streams', 'bytes', {'': {k: r.figure(k) for k in r.by}}))
    if scaling:
        put('scaling-by-workers.svg', charts.lines('Throughput by workers, small requests', 'workers', 'requests per second',
                                                   {n: [(w, rps) for w, rps, _ in rows] for n, rows in scaling.items()}))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--full', action='store_true', help='all scenarios, longer slices and more rounds (about ten times as long)')
    parser.add_argument('--only', help='scenarios by name, separated by commas')
    parser.add_argument('--peers', help='proxies by name, separated by commas')
    parser.add_argument('--install', action='store_true', help='install the peers that are missing (apt as root, PyPI into the work folder)')
    parser.add_argument('--bin', help='folder of the built tools (default: the release folder of the package)')
    parser.add_argument('--work', default=os.path.join(ROOT, '.build', 'bench'), help='folder for peers, configurations and logs')
    parser.add_argument('--out', help='folder for the results')
    parser.add_argument('--rounds', type=int)
    parser.add_argument('--seconds', type=float)
    options = parser.parse_args()
    options.rounds = options.rounds or (12 if options.full else 3)
    options.seconds = options.seconds or (0.5 if options.full else 0.3)
    options.warmup = 0.25 if options.full else 0.15
    bin_dir = options.bin or run('swift', 'build', '-c', 'release', '--show-bin-path')
    work = os.path.abspath(options.work)
    os.makedirs(work, exist_ok=True)
    tools = find_tools(bin_dir, work)
    if options.install:
        install(work, tools)
        tools = find_tools(bin_dir, work)
    for name in ('sky-proxy', 'sky-origin', 'sky-load'):
        if name not in tools:
            raise SystemExit(f'{name} is not in {bin_dir}: swift build -c release, or --bin FOLDER')
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit('two cores at least: one for the proxies, one for origin and load')
    proxy_cores, other_cores = cores[:len(cores) // 2], cores[len(cores) // 2:]
    niced = subprocess.run(['nice', '-n', '-15', 'true'], capture_output=True).stderr == b''
    if niced:
        try:
            with open('/proc/self/autogroup', 'w') as f:
                f.write('-15')
        except OSError:
            pass
    chosen = [s for s in SCENARIOS if (s.name in options.only.split(',') if options.only else options.full or s.quick)]
    wanted = options.peers.split(',') if options.peers else None
    facts = machine(tools)
    date = datetime.date.today().isoformat()
    folder = options.out or os.path.join(ROOT, 'Benchmarks', 'results', date)
    os.makedirs(os.path.join(folder, 'raw'), exist_ok=True)
    results, scaling, fleet, alive = {}, {}, None, {}

    def begin(names, holds):
        nonlocal fleet, alive
        if fleet:
            fleet.stop()
        fleet = Fleet(tools, work, proxy_cores, other_cores, niced)
        fleet.origin(8)
        alive = {}
        for name in names:
            if {'floor': 'sky-floor'}.get(name, 'sky-proxy' if name in OURS else name.removesuffix('-slow')) in tools:
                alive.update(fleet.proxy(name, holds=holds))
        time.sleep(3 if any(n.endswith('-slow') for n in alive) else 0.5)
    try:
        for scenario in chosen:
            who = [n for n in scenario.who if wanted is None or n.split('-')[0] in wanted or n in OURS]
            if fleet is None or scenario.fresh or getattr(begin, 'was_fresh', False):
                everyone = who if scenario.fresh else [n for n in OURS + ('nginx', 'haproxy', 'envoy', 'skyserve')
                                                             if n != 'sky-slow' and (wanted is None or n in wanted or n in OURS)]
                begin([n for n in everyone if n in OURS or '-' not in n or n.endswith('-slow')], holds=scenario.absolute is not None or scenario.slow is not None)
                begin.was_fresh = scenario.fresh
            targets = {n: alive[n] for n in who if n in alive}
            rate = None
            if scenario.needs_rate:
                base = results.get('small-64')
                rate = scenario.needs_rate * (min(base.rps(n) for n in ('sky', 'nginx', 'haproxy') if n in base.by) if base else 20000)
            started = time.time()
            data = measure(scenario, fleet, targets, options, rate)
            if data is None:
                begin.was_fresh = True  # start everything anew
                continue
            with open(os.path.join(folder, 'raw', scenario.name + '.json'), 'w') as f:
                json.dump(data, f, indent=0)
            results[scenario.name] = Result(scenario, data)
            print('\n'.join(table(results[scenario.name])), flush=True)
            print(f'({time.time() - started:.0f} s)\n', file=sys.stderr)
        if not options.only:
            # With one core for the proxies, two workers need the core of origin and load too: all share all.
            own, rest = (proxy_cores, other_cores) if len(proxy_cores) > 1 else (cores, cores)
            workers = 1
            while workers <= len(own):
                fleet.stop()
                fleet = Fleet(tools, work, own, rest, niced)
                fleet.origin(8)
                alive = {}
                for name in ('sky', 'nginx', 'haproxy', 'envoy'):
                    if name == 'sky' or name in tools:
                        alive.update(fleet.proxy(name, workers=workers if own is not rest else len(own), threads=workers))
                targets = {n: alive[n] for n in ('sky', 'nginx', 'haproxy', 'envoy') if n in alive}
                data = measure(next(s for s in SCENARIOS if s.name == 'small-256'), fleet, targets, options, None)
                if data:
                    result = Result(SCENARIOS[0], data)
                    for name in result.by:
                        scaling.setdefault(name, []).append((workers, result.rps(name), result.figure(name)[1]))
                workers *= 2
        explained = explain(results, lambda s: begin([n for n in OURS + ('nginx', 'haproxy', 'envoy') if n in s.who], False) or alive, options, tools, lambda: fleet)
    finally:
        if fleet:
            fleet.stop()
    facts['load_average_after'] = os.getloadavg()[0]
    with open(os.path.join(folder, 'machine.json'), 'w') as f:
        json.dump(facts, f, indent=2)
    made = draw(results, scaling, folder)
    lines, missed = verdicts(results)
    report = [f'# Results of {facts["date"]}', '',
              f'{facts["cores"]} × {facts["cpu"]}, {facts["memory_mib"]:,} MiB, Linux {facts["kernel"]}, congestion control '
              f'{facts["congestion_control"]}; {"full" if options.full else "quick"} run at commit {facts["commit"]}: '
              f'{options.rounds} rounds of {options.seconds} s after {options.warmup} s of warm-up. '
              f'Proxies on core {",".join(map(str, proxy_cores))}, origin and load on {",".join(map(str, other_cores))}; '
              f'load average {facts["load_average_before"]:.1f} before, {facts["load_average_after"]:.1f} after.', '',
              'Peers: ' + '; '.join(facts['peers'].values()) + '. Each has one worker and the leanest configuration '
              '(`Benchmarks/peers`): no logs, no added fields. sky-proxy does all it always does: least-load routing over '
              '8 replicas, counters, histograms, deadlines, forwarded fields, request ids.', '',
              'Compare inside one table only: the machine drifts between tables.', '', '## Against the aims', '']
    report += lines
    report += explained
    report += [f'![{n}]({n})' for n in made] + ['', '## Tables', '']
    for result in results.values():
        report += table(result)
    if scaling:
        report += ['### Small requests, 256 connections, by workers', '']
        if len(proxy_cores) == 1:
            report += ['Proxies, origin and load share both cores here, so that a second worker takes its time from them.', '']
        report += ['| proxy | workers | requests/s | CPU µs/request |', '|---|---|---|---|']
        report += [f'| {name} | {workers} | {rps:,.0f} | {cpu:,.2f} |' for name, rows in scaling.items() for workers, rps, cpu in rows]
        report += ['']
    with open(os.path.join(folder, 'README.md'), 'w') as f:
        f.write('\n'.join(report))
    print('\n'.join(lines + explained))
    print('results: ' + os.path.relpath(folder, ROOT))


if __name__ == '__main__':
    main()
