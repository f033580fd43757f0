"""Draws `img/timeline-light.svg` and `img/timeline-dark.svg` from a real run of `asyncfc-mcp demo`.

Run it after a change of the demo: `.venv/bin/python docs/make_timeline.py`. Owns the drawing only: the runs,
their events and their times are those of `asyncfc_mcp.cli.demo`.
"""

# ruff: noqa: E501 - an element of a picture is one line

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from rich.console import Console

from asyncfc_mcp.cli.demo import Timeline, examples_folder, play

FOLDER: Final = Path(__file__).with_name("img")
WIDTH: Final = 860
LEFT: Final = 176
RIGHT: Final = 62
ROW: Final = 22
BAR: Final = 13
FONT: Final = "font-family=\"ui-sans-serif,system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif\""


@dataclass(frozen=True)
class Colours:
    """Colours on the background of one theme of a forge."""

    text: str
    dim: str
    grid: str
    model: str
    run: str
    waits: str
    arrow: str
    inside: str


THEMES: Final = {
    "light": Colours("#1f2328", "#59636e", "#d1d9e0", "#d9a520", "#2a74c4", "#b6cfe9", "#bc4c00", "#ffffff"),
    "dark": Colours("#f0f6fc", "#9198a1", "#30363d", "#d9a520", "#58a6ff", "#294d78", "#ffa657", "#0d1117"),
}
HEADINGS: Final = {"direct": "Waiting for each call", "bridge": "Through asyncfc-mcp"}
ARROWS: Final = {
    "travel__hold_seat": ("travel__search_flights",),
    "ci__publish": ("ci__run_tests", "ci__build"),
}
"""The value that `hold_seat` takes, and the calls that `publish` follows (`FOLLOWING` in examples/scripted_agent.py)."""


class Drawing:
    """Parts of one picture, and the next row's place.

    Args:
        span_s: duration of the whole width, in seconds.
    """

    def __init__(self, colours: Colours, span_s: float) -> None:
        self.c = colours
        self.span_s = span_s
        self.parts: list[str] = []
        self.y = 12.0

    def x(self, at_s: float) -> float:
        """Return the place of a time."""
        return LEFT + at_s / self.span_s * (WIDTH - LEFT - RIGHT)

    def text(
        self, x: float, y: float, text: str, colour: str, *, size: int = 13, weight: int = 400, end: bool = False
    ) -> None:
        """Add a line of text, whose base is at `y`."""
        anchor = ' text-anchor="end"' if end else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}"{anchor}>{escape(text)}</text>'
        )

    def bar(self, start_s: float, end_s: float, y: float, colour: str) -> None:
        """Add a bar."""
        width = max(2.0, self.x(end_s) - self.x(start_s))
        self.parts.append(
            f'<rect x="{self.x(start_s):.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="3" fill="{colour}"/>'
        )

    def run(self, timeline: Timeline) -> None:
        """Add the rows of one run."""
        c = self.c
        self.text(0, self.y + 14, HEADINGS[timeline.how], c.text, size=16, weight=600)
        self.text(WIDTH, self.y + 14, f"{timeline.seconds:.1f} s", c.text, size=16, weight=600, end=True)
        self.y += 27
        top = self.y
        rows = len(timeline.bars) + 1
        for second in range(0, int(self.span_s) + 1, 2):
            x = self.x(second)
            self.parts.append(
                f'<line x1="{x:.1f}" y1="{top - 3:.1f}" x2="{x:.1f}" y2="{top + rows * ROW - 4:.1f}" stroke="{c.grid}"/>'
            )
        self.text(LEFT - 10, self.y + BAR - 2, "model", c.dim, end=True)
        for start, end in timeline.thinking:
            self.bar(start, timeline.seconds if end is None else end, self.y, c.model)
        places: dict[str, float] = {}
        for bar in timeline.bars.values():
            self.y += ROW
            places[bar.name] = self.y
            end = timeline.seconds if bar.end is None else bar.end
            began = end if bar.ran is None else bar.ran
            self.text(LEFT - 10, self.y + BAR - 2, bar.name.partition("__")[2], c.text, end=True)
            if began > bar.start + 0.05:
                self.bar(bar.start, end, self.y, c.waits)
            self.bar(began, end, self.y, c.run)
            self.text(self.x(began) + 6, self.y + BAR - 3, f"{end - began:.1f} s", c.inside, size=10)
        for name, sources in ARROWS.items() if timeline.how == "bridge" else ():
            for source in sources:
                self.arrow(
                    self.x(timeline.bars[source].end or 0),
                    places[source],
                    self.x(timeline.bars[name].ran or 0),
                    places[name],
                )
        self.y += ROW + 14

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Add an arrow from the end of one bar to the start of another, below it."""
        down = y2 - 1
        self.parts.append(
            f'<path d="M{x1:.1f} {y1 + BAR / 2:.1f} C{x1 + 26:.1f} {y1 + BAR / 2:.1f} {x2 + 3:.1f} {down - 34:.1f} {x2 + 3:.1f} {down - 5:.1f}" '
            f'fill="none" stroke="{self.c.arrow}" stroke-width="1.6"/>'
            f'<path d="M{x2 - 1:.1f} {down - 6:.1f} h8 l-4 6 z" fill="{self.c.arrow}"/>'
        )

    def legend(self) -> None:
        """Add the meaning of the colours."""
        x = float(LEFT)
        for colour, text in (
            (self.c.model, "model turn"), (self.c.run, "call runs"), (self.c.waits, "call waits"),
        ):  # fmt: skip
            self.parts.append(f'<rect x="{x:.1f}" y="{self.y:.1f}" width="18" height="{BAR}" rx="3" fill="{colour}"/>')
            self.text(x + 25, self.y + BAR - 2, text, self.c.dim, size=12)
            x += 112
        self.parts.append(f'<path d="M{x:.1f} {self.y + BAR / 2:.1f} h18" stroke="{self.c.arrow}" stroke-width="1.6"/>')
        self.text(x + 25, self.y + BAR - 2, "takes its result, or follows it", self.c.dim, size=12)
        self.y += ROW

    def svg(self, title: str) -> str:
        """Return the picture."""
        height = round(self.y + 4)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" {FONT}>'
            f"<title>{escape(title)}</title>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )


def main() -> None:
    """Play both runs, and write a picture for each theme."""
    quiet = Console(quiet=True)
    folder = examples_folder()
    runs = [play(how, folder, quiet, None) for how in ("direct", "bridge")]
    if any(run.results is None for run in runs) or runs[0].results != runs[1].results:
        sys.exit("the runs differ, or one ended early")
    title = f"Eight calls of two servers: {runs[0].seconds:.1f} s one after another, {runs[1].seconds:.1f} s through the bridge, same results"
    for theme, colours in THEMES.items():
        drawing = Drawing(colours, runs[0].seconds)
        for run in runs:
            drawing.run(run)
        drawing.legend()
        (FOLDER / f"timeline-{theme}.svg").write_text(drawing.svg(title), encoding="utf-8", newline="\n")
    sys.stdout.write(f"{title}\n")


if __name__ == "__main__":
    main()
