"""Where a proxy's CPU time goes, sampled with perf(1): one share per kind of work, for figures that miss their aim."""
import os, re, shutil, subprocess

# The first row that matches a symbol of the kernel names its kind.
KINDS = [
    ('copying', re.compile(r'copy|memcpy|rep_movs|csum_partial|__check_object_size')),
    ('waking and scheduling', re.compile(
        r'wake|ttwu|sched|enqueue_task|dequeue_task|select_task|pick_next|finish_task|native_write_msr|spin_unlock_irq|ipi|idle'
        r'|update_curr|update_load|prepare_to_wait|futex')),
    ('memory', re.compile(r'alloc|slab|kfree|kmem|kmalloc|page|memset|clear_|folio|put_cpu|mod_memcg|charge')),
    ('TCP, IP, sockets', re.compile(
        r'tcp|ip_|ip6|skb|sock|inet|net_|netif|nf_|dev_|loopback|softirq|backlog|lo_xmit|dst_|qdisc|neigh|raw_local|sk_|udp|bbr'
        r'|read_tsc|ktime|timekeeping|splice|pipe')),
    ('system calls', re.compile(r'syscall|entry_|io_|ep_|epoll|fdget|fput|fget|vfs|sys_|sysret|iov|import|security|exit_to_user')),
]
COLUMNS = ['user space'] + [kind for kind, _ in KINDS] + ['other']


def available():
    return shutil.which('perf') is not None


def shares(pids, load, work):
    """Runs the command `load` and samples `pids` meanwhile; {column: share} or None."""
    data = os.path.join(work, 'perf.data')
    record = subprocess.Popen(['perf', 'record', '-q', '-F', '997', '-o', data, '-p', ','.join(map(str, pids))],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        subprocess.run(load, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pass
    record.terminate()
    record.wait()
    report = subprocess.run(['perf', 'report', '-i', data, '--no-children', '-g', 'none', '--sort', 'dso,symbol', '-t', ';',
                             '--percent-limit', '0'], capture_output=True, text=True)
    found = dict.fromkeys(COLUMNS, 0.0)
    for line in report.stdout.splitlines():
        parts = [p.strip() for p in line.split(';')]
        if line.startswith('#') or len(parts) < 3 or not parts[0].endswith('%'):
            continue
        share, symbol = float(parts[0][:-1]), parts[2]
        if not parts[1].startswith('[k'):
            found['user space'] += share
        else:
            name = symbol.split(']', 1)[-1].strip()
            found[next((kind for kind, pattern in KINDS if pattern.search(name)), 'other')] += share
    return found if sum(found.values()) > 50 else None


def table(rows):
    """`rows`: (scenario, proxy, median figure with unit, shares)."""
    out = ['| scenario | proxy | figure | ' + ' | '.join(COLUMNS) + ' |', '|---|---|---|' + '---|' * len(COLUMNS)]
    for scenario, proxy, figure, unit, found in rows:
        total = sum(found.values())
        cells = ' | '.join(f'{figure * found[c] / total:,.2f} ({found[c] / total * 100:.0f} %)' for c in COLUMNS)
        out.append(f'| {scenario} | {proxy} | {figure:,.2f} {unit} | {cells} |')
    return out + ['']
