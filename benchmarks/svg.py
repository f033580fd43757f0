"""Line charts as SVG, by hand: a few dozen lines instead of a plotting library.

Colours are chosen to be read on white and on black, since a page may be either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 400
LEFT: Final = 64
RIGHT: Final = 168
TOP: Final = 48
BOTTOM: Final = 56
COLOURS: Final = ("#2f81f7", "#d4751c", "#3fa34d", "#b052c9")
GREY: Final = "#808890"


@dataclass(frozen=True)
class Line:
    """One curve: points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def nice_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives four to eight ticks."""
    raw = span / 5
    power = 10 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def short(number: float) -> str:
    """1,000 as 1k."""
    for limit, letter in ((2**20, "M"), (1000, "k")):
        if number >= limit:
            return f"{number / (limit if letter == 'M' else 1000):g}{letter}"
    return f"{number:g}"


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], *, goal: float | None = None, unit: str = ""
) -> str:
    """Curves over a logarithmic x and a linear y that begins at 0; a dashed line for the goal."""
    xs = sorted({x for line in lines for x, _ in line.points})
    top = max([y for line in lines for _, y in line.points] + ([goal] if goal else [])) * 1.08
    low, high = math.log(xs[0]), math.log(xs[-1])

    def at_x(x: float) -> float:
        share = (math.log(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{GREY}">',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    step = nice_step(top)
    for n in range(int(top / step) + 1):
        y = at_y(n * step)
        out.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.25"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{n * step:g}{unit}</text>'
        )
    out += [
        f'<text x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(short(x))}</text>' for x in xs
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(
        f'<text transform="translate(16 {(HEIGHT + TOP - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    if goal is not None:
        y = at_y(goal)
        out.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-dasharray="5 4"/>'
            f'<text x="{WIDTH - RIGHT - 4}" y="{y - 5:.1f}" text-anchor="end">goal {goal:g}{unit}</text>'
        )
    for n, line in enumerate(lines):
        colour = COLOURS[n % len(COLOURS)]
        spots = [(at_x(x), at_y(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        legend = TOP + 18 * n
        out.append(
            f'<circle cx="{WIDTH - RIGHT + 14}" cy="{legend}" r="4" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 24}" y="{legend + 4}">{escape(line.name)}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"
