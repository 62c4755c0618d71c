"""A line chart as SVG: few points, each with its value, readable on light and dark pages."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 60, 52
COLOURS = ["#2f74c0", "#d9822b", "#8a8a8a"]
GREY = "#8a8a8a"
LIMIT = 2  # the series that is one


def short(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def nice_ceiling(x):
    power = 10 ** math.floor(math.log10(x))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= x)


def chart(title, x_label, y_label, series):
    """`series`: {label: [(x, y)]}, of which a third is a limit: dashed, and without numbers. The x axis is logarithmic, the y axis starts at zero."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top = nice_ceiling(1.05 * max(y for points in series.values() for _, y in points))
    low, span = math.log(xs[0]), math.log(xs[-1] / xs[0]) or 1

    def at(x, y):
        across = LEFT + (math.log(x) - low) / span * (WIDTH - LEFT - RIGHT - 24) + 12
        return across, HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    def text(x, y, words, anchor="middle", size=12, colour=GREY, extra=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{extra}>{escape(words)}</text>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif">',
        text(LEFT, 22, title, "start", 14),
    ]
    for i in range(5):
        value = top * i / 4
        _, y = at(xs[0], value)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{GREY}" stroke-opacity="0.25"/>')
        out.append(text(LEFT - 8, y + 4, short(value), "end"))
    for x in xs:
        out.append(text(at(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:g}"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label))
    out.append(text(16, middle, y_label, extra=f' transform="rotate(-90 16 {middle:.0f})"'))
    for i, (label, points) in enumerate(series.items()):
        colour, places = COLOURS[i], [at(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dashed = ' stroke-dasharray="6 4"' if i == LIMIT else ""
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        for (x, y), (_, value) in zip(places, points if i != LIMIT else []):
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            # The first series is labelled above its points, the second below.
            out.append(text(x, y - 9 if i == 0 else y + 18, short(value), size=11, colour=colour))
        if label:
            out.append(text(WIDTH - RIGHT - (len(series) - 1 - i) * 190, 40, "● " + label, "end", colour=colour))
    return "\n".join(out + ["</svg>"]) + "\n"
