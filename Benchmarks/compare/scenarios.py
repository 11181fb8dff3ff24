"""What is measured. One row: name, title, flags of sky-load, unit, who takes part, and what is aimed at."""

FAST = ('sky', 'floor', 'nginx', 'haproxy', 'envoy')
BIG = ('sky', 'floor', 'nginx', 'nginx-buffered', 'haproxy', 'haproxy-splice', 'envoy')
ALL = FAST + ('skyserve',)


class Scenario:
    """`peer` and `floor`: the most our figure may be of the best peer's and of the floor's. `quick`: part of the quick run.
    `fresh`: programs are started anew and alone in memory. `needs_rate`: a share of the saturated rate. `slow`: the least
    share of the throughput that is to be kept beside clients that never read. `ours`: the variant of sky-proxy that is judged. `against`: compared with this one, not with the
    best peer. `added_us`: the most that our median may be above the best peer's. `faster`: our requests per second, in theirs."""

    def __init__(self, name, title, flags, who, peer=None, floor=None, quick=True, fresh=False, needs_rate=None, slow=None,
                 absolute=None, seconds=1.0, ours='sky', against=None, added_us=None, faster=None):
        self.name, self.title, self.flags, self.who = name, title, flags.split(), who
        self.peer, self.floor, self.quick, self.fresh, self.needs_rate = peer, floor, quick, fresh, needs_rate
        self.slow, self.absolute, self.seconds = slow, absolute, seconds
        self.ours, self.against, self.added_us, self.faster = ours, against, added_us, faster


SCENARIOS = [
    Scenario('small-16', 'Small requests, kept alive, 16 connections', '--connections 16', ALL, 0.82, 1.10),
    Scenario('small-32', 'Beside SkyServe\'s own balancer: small requests, kept alive, 32 connections', '--connections 32',
             ('sky', 'skyserve'), 0.01, against='skyserve', faster=100),
    Scenario('small-64', 'Small requests, kept alive, 64 connections', '--connections 64', ALL, 0.78, 1.10),
    Scenario('small-256', 'Small requests, kept alive, 256 connections', '--connections 256', FAST, 0.65, 1.10),
    Scenario('sse-200', 'Events: 200 streams, 200 events/s each',
             '--mode sse --connections 200 --events 200 --interval-ms 5', ALL, 0.85, 1.08),
    # A model server sends a token of every running request at once, each time its batch has made a step.
    Scenario('sse-50', 'Events: 200 streams, 50 events/s each, all within 5 ms as batches send them',
             '--mode sse --connections 200 --events 100 --interval-ms 20', FAST, 0.82, 1.08),
    Scenario('sse-50-even', 'Events: 200 streams, 50 events/s each spread evenly: an event finds everybody asleep',
             '--mode sse --connections 200 --events 100 --interval-ms 20 --stagger-ms 20',
             ('sky', 'sky-batch', 'floor', 'nginx', 'haproxy', 'envoy')),
    Scenario('response-8k', 'Responses of 8 KB, 64 connections', '--connections 64 --path /?size=8192', FAST, 0.78, 1.10),
    Scenario('response-1m', 'Responses of 1 MB, 16 connections', '--connections 16 --path /?size=1048576', BIG, 0.68, 1.15),
    Scenario('upload-1m', 'Request bodies of 1 MB, 16 connections',
             '--connections 16 --path /?size=16 --body-bytes 1048576', BIG, 0.75, 1.2),
    Scenario('churn', 'A new connection for each request, 32 at once', '--connections 32 --churn', FAST, 1.0, 1.08),
    Scenario('open-50', 'Open loop at half of what saturates, Poisson arrivals',
             '--mode open --connections 256 --poisson', FAST, 1.0, None, needs_rate=0.5),
    Scenario('open-50-batch', 'The same with `--batch-wait 200us`, the throughput mode',
             '--mode open --connections 256 --poisson', ('sky', 'sky-batch', 'nginx', 'haproxy'), 0.7, needs_rate=0.5,
             ours='sky-batch', added_us=200),
    Scenario('small-64-log', 'Small requests, 64 connections, with an access log',
             '--connections 64', ('sky', 'sky-log'), 1.10, ours='sky-log', against='sky'),
    Scenario('open-25', 'Open loop at a quarter', '--mode open --connections 256 --poisson', FAST, quick=False, needs_rate=0.25),
    Scenario('open-75', 'Open loop at three quarters', '--mode open --connections 256 --poisson', FAST, needs_rate=0.75),
    Scenario('open-90', 'Open loop at nine tenths', '--mode open --connections 256 --poisson', FAST, quick=False, needs_rate=0.9),
    *(Scenario('slow-1000' if name == 'sky' else f'slow-1000-{name}',
               f'{name}, small requests, 64 connections; `-slow`: beside 1,000 clients that ask for 1 MB and never read',
               '--connections 64', (name, f'{name}-slow'), fresh=True, slow=0.95) for name in ('sky', 'haproxy', 'nginx')),
    Scenario('hold-9000', 'Memory of 9,000 open streams', '--mode hold --connections 9000 --timeout 40',
             ('sky', 'floor', 'nginx', 'haproxy', 'envoy'), fresh=True, absolute=1536),
]
