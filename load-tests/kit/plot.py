"""Plots as SVG by hand: bars beside each other, and curves. Readable on white and on dark pages, without scripts and fonts."""

import html
import math

# Distinct for people who see few colours, too (Okabe and Ito).
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
INK, FAINT = "#222222", "#d8d8d8"
FONT = "font-family='system-ui, sans-serif'"


def bars(title, note, groups, series, values, line=None):
    """Horizontal bars: for each of `groups` one for each of `series`; `values[group][series]`, None for none. `line` is
    the value that everything is compared with."""
    left, width, bar, gap, top = 190, 520, 15, 14, 86
    most = max((value for row in values for value in row if value is not None), default=1.0)
    # A bar that would make all others short is cut, and says its value.
    most = min(most, 5 * (line or most)) * 1.05
    step = nice(most / 5)
    x_of = lambda value: left + width * min(value, most) / most
    parts, y = [], top
    for group, row in zip(groups, values):
        shown = [(index, value) for index, value in enumerate(row) if value is not None]
        parts.append(text(left - 8, y + len(shown) * bar / 2 + 4, group, anchor="end"))
        for index, value in shown:
            parts.append(f"<rect x='{left}' y='{y + 1}' width='{x_of(value) - left:.1f}' height='{bar - 2}' fill='{COLOURS[index % len(COLOURS)]}'/>")
            parts.append(text(x_of(value) + 5, y + bar - 4, f"{value:.2f}{' (cut)' if value > most else ''}", size=11))
            y += bar
        y += gap
    height, grid = y + 28, []
    for tick in range(int(most / step) + 1):
        x = x_of(tick * step)
        grid.append(f"<line x1='{x:.1f}' y1='{top - 6}' x2='{x:.1f}' y2='{y}' stroke='{FAINT}'/>")
        grid.append(text(x, y + 16, f"{tick * step:g}", anchor="middle", size=11))
    if line is not None:
        grid.append(f"<line x1='{x_of(line):.1f}' y1='{top - 6}' x2='{x_of(line):.1f}' y2='{y}' stroke='{INK}' stroke-dasharray='4 3'/>")
    return page(left + width + 60, height, title, note, series, grid + parts)


def curves(title, note, x_label, y_label, series, log_x=True):
    """Lines through points: `series` is a list of (name, [(x, y), ...]). An x of 0 stands at the left end of a log axis."""
    left, width, top, height = 90, 560, 86, 300
    xs = sorted({x for _, points in series for x, _ in points})
    most_y = max((y for _, points in series for _, y in points), default=1.0) * 1.08 or 1.0
    place = (lambda x: math.log10(x) if x > 0 else math.log10(min(v for v in xs if v > 0)) - 1) if log_x else (lambda x: x)
    low, high = place(xs[0]), place(xs[-1])
    x_of = lambda x: left + width * ((place(x) - low) / (high - low) if high > low else 0.5)
    y_of = lambda y: top + height - height * y / most_y
    parts, step = [], nice(most_y / 5)
    for tick in range(int(most_y / step) + 1):
        y = y_of(tick * step)
        parts.append(f"<line x1='{left}' y1='{y:.1f}' x2='{left + width}' y2='{y:.1f}' stroke='{FAINT}'/>")
        parts.append(text(left - 8, y + 4, f"{tick * step:,.10g}", anchor="end", size=11))
    for x in xs:
        parts.append(f"<line x1='{x_of(x):.1f}' y1='{top + height}' x2='{x_of(x):.1f}' y2='{top + height + 5}' stroke='{INK}'/>")
        parts.append(text(x_of(x), top + height + 19, f"{x:,}", anchor="middle", size=11))
    parts.append(f"<line x1='{left}' y1='{top + height}' x2='{left + width}' y2='{top + height}' stroke='{INK}'/>")
    parts.append(text(left + width / 2, top + height + 40, x_label, anchor="middle"))
    parts.append(text(left, top - 10, y_label, size=11))
    for index, (_, points) in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x_of(x):.1f}' cy='{y_of(y):.1f}' r='3.5' fill='{colour}'/>" for x, y in points]
    return page(left + width + 60, top + height + 56, title, note, [name for name, _ in series], parts)


def page(width, height, title, note, series, parts):
    """Title, note and legend above the parts."""
    head = [text(16, 26, title, size=16, weight="600"), text(16, 44, note, size=11)]
    x = 16
    for index, name in enumerate(series):
        head.append(f"<rect x='{x}' y='54' width='11' height='11' fill='{COLOURS[index % len(COLOURS)]}'/>")
        head.append(text(x + 16, 64, name, size=12))
        x += 40 + 7 * len(name)
    body = "\n".join(head + parts)
    width = max(width, x + 16, 32 + 6 * len(note))
    return (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' {FONT}>\n"
            f"<rect width='100%' height='100%' fill='white'/>\n{body}\n</svg>\n")


def text(x, y, words, anchor="start", size=13, weight="400"):
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' fill='{INK}'>{html.escape(str(words))}</text>"


def nice(step):
    """A step of 1, 2 or 5 times a power of ten, at least that large."""
    if step <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
