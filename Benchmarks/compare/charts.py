"""Charts as SVG: lines and bars, nothing else."""
from html import escape

COLOURS = {'sky': '#d1495b', 'floor': '#8d99ae', 'nginx': '#2a9d8f', 'nginx-buffered': '#76c7bd', 'haproxy': '#3a6ea5',
           'haproxy-splice': '#8fb4d9', 'envoy': '#8e5ea2', 'skyserve': '#e9a23b'}
W, H, LEFT, TOP, BOTTOM, RIGHT = 720, 380, 70, 40, 50, 150


def _open(title):
    return [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
            f'<rect width="{W}" height="{H}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>']


def _ticks(most, count=5):
    raw = most / count or 1
    power = 10 ** len(str(int(raw))) / 10 if raw >= 1 else 0.1
    step = next((power * m for m in (1, 2, 5, 10) if power * m >= raw), power * 10)
    return [step * i for i in range(int(most / step) + 2)]


def _number(value):
    return f'{value:,.0f}' if value >= 10 or value == int(value) else f'{value:.1f}'


def lines(title, x_name, y_name, series, log_y=False):
    """`series`: {name: [(x, y), …]}; x values are spread evenly, in order."""
    import math
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    if not xs or not ys:
        return None
    out = _open(title)
    width, height = W - LEFT - RIGHT, H - TOP - BOTTOM

    def px(x):
        return LEFT + (width * xs.index(x) / (len(xs) - 1) if len(xs) > 1 else width / 2)
    if log_y:
        low, high = math.floor(math.log10(max(1, min(ys)))), math.ceil(math.log10(max(10, max(ys))))
        ticks = [10 ** e for e in range(low, high + 1)]

        def py(y):
            return TOP + height * (1 - (math.log10(max(1, y)) - low) / max(1, high - low))
    else:
        ticks = _ticks(max(ys))

        def py(y):
            return TOP + height * (1 - y / ticks[-1])
    for tick in ticks:
        out.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for x in xs:
        out.append(f'<text x="{px(x):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{_number(x)}</text>')
    out.append(f'<text x="{LEFT + width / 2}" y="{H - 10}" text-anchor="middle">{escape(x_name)}</text>')
    out.append(f'<text transform="translate(14 {TOP + height / 2}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS.get(name, '#333')
        path = ' '.join(f'{px(x):.1f},{py(y):.1f}' for x, y in sorted(points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = TOP + 14 + 18 * index
        out.append(f'<rect x="{W - RIGHT + 16}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
                   f'<text x="{W - RIGHT + 34}" y="{y}">{escape(name)}</text>')
    return '\n'.join(out + ['</svg>', ''])


def bars(title, y_name, groups):
    """`groups`: {group: {name: (min, median, max)}}; the whisker is min to max."""
    highest = max((v[2] for g in groups.values() for v in g.values()), default=0)
    if not highest:
        return None
    out = _open(title)
    width, height = W - LEFT - RIGHT, H - TOP - BOTTOM
    ticks = _ticks(highest)

    def py(y):
        return TOP + height * (1 - y / ticks[-1])
    for tick in ticks:
        out.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    names = list(dict.fromkeys(n for g in groups.values() for n in g))
    slot = width / len(groups)
    bar = slot * 0.8 / len(names)
    for gi, (group, values) in enumerate(groups.items()):
        out.append(f'<text x="{LEFT + slot * (gi + 0.5):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{escape(group)}</text>')
        for name, (least, median, most) in values.items():
            x = LEFT + slot * (gi + 0.1) + bar * names.index(name)
            out.append(f'<rect x="{x:.1f}" y="{py(median):.1f}" width="{bar * 0.9:.1f}" height="{TOP + height - py(median):.1f}" '
                       f'fill="{COLOURS.get(name, "#333")}"/>'
                       f'<line x1="{x + bar * 0.45:.1f}" x2="{x + bar * 0.45:.1f}" y1="{py(least):.1f}" y2="{py(most):.1f}" stroke="#222"/>')
    out.append(f'<text transform="translate(14 {TOP + height / 2}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    for index, name in enumerate(names):
        y = TOP + 14 + 18 * index
        out.append(f'<rect x="{W - RIGHT + 16}" y="{y - 9}" width="12" height="10" fill="{COLOURS.get(name, "#333")}"/>'
                   f'<text x="{W - RIGHT + 34}" y="{y}">{escape(name)}</text>')
    return '\n'.join(out + ['</svg>', ''])
