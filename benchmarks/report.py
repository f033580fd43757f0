"""Results of a benchmark: figures with spread and goals, and tables; on the terminal, in RESULTS.md and committed.json.

Owns the words and numbers of a result. Refuses to measure anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final, Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "RESULTS.md"
COMMITTED: Final = HERE / "committed.json"
GROSS: Final = 1.5
"""A smoke run fails only when a figure is this many times worse than the committed one."""


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds: its median and its quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value for each round."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high, len(values))


@dataclass(frozen=True)
class Goal:
    """Goal of a figure."""

    kind: Literal["≤", "≥"]
    value: float

    def met(self, found: float, digits: int = 2) -> bool:
        """Return whether the goal is reached, at the displayed precision."""
        shown = round(found, digits)
        return shown <= self.value if self.kind == "≤" else shown >= self.value


def at_most(value: float) -> Goal:
    """A bound from above."""
    return Goal("≤", value)


def at_least(value: float) -> Goal:
    """A bound from below."""
    return Goal("≥", value)


@dataclass(frozen=True)
class Figure:
    """One row: a ratio (or another machine-independent number) with its goal, if it has one."""

    key: str
    """Stable name in committed.json; an empty one is shown and never compared."""
    what: str
    spread: Spread
    goal: Goal | None = None
    absolute: str = ""
    """Times and sizes of this run, for the reader only."""
    unit: str = "×"
    digits: int = 2

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL`, or nothing where there is no goal."""
        if self.goal is None:
            return ""
        return "pass" if self.goal.met(self.spread.median, self.digits) else "FAIL"

    def worse_than(self, committed: float) -> float:
        """Return the factor by which a figure is worse than `committed`; above 1 is worse, in either direction.

        By its better quartile: what another program does to some rounds of a short run is no regression.
        """
        bigger_is_better = self.goal is not None and self.goal.kind == "≥"
        old, new = (self.spread.high, committed) if bigger_is_better else (committed, self.spread.low)
        return new / old if old > 0 else 1.0

    def cells(self) -> list[str]:
        """The row as text."""
        number = f"{{:.{self.digits}f}}"
        unit = f" {self.unit}" if self.unit else ""
        spread = f"{number.format(self.spread.low)}–{number.format(self.spread.high)}" if self.spread.rounds > 1 else ""
        goal = f"{self.goal.kind} {self.goal.value:g}{unit}" if self.goal else ""
        return [self.what, number.format(self.spread.median) + unit, spread, goal, self.verdict, self.absolute]


@dataclass(frozen=True)
class Table:
    """Any other table of a section."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """Results of one benchmark."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: list[tuple[str, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Duration of the benchmark, in seconds."""

    def show(self, console: Console) -> None:
        """Print it."""
        table = RichTable(title=self.title, title_justify="left")
        for head in FIGURE_HEAD:
            table.add_column(head, justify="right" if head in ("median", "quartiles", "goal") else "left")
        for figure in self.figures:
            cells = [Text(cell) for cell in figure.cells()]
            cells[4].stylize({"pass": "green", "FAIL": "bold red"}.get(figure.verdict, ""))
            table.add_row(*cells)
        if self.figures:
            console.print(table)
        for other in self.tables:
            table = RichTable(title=other.title, title_justify="left")
            for head in other.head:
                table.add_column(head)
            for row in other.rows:
                table.add_row(*(Text(cell) for cell in row))
            console.print(table)
        for note in self.notes:
            console.print(Text(f"  {note}"))

    def markdown(self, machine: str) -> str:
        """Its part of RESULTS.md."""
        parts = [f"## {self.title}", machine]
        if self.figures:
            parts.append(markdown_table(FIGURE_HEAD, [figure.cells() for figure in self.figures]))
        for table in self.tables:
            parts += [f"**{table.title}**", markdown_table(table.head, table.rows)]
        parts += [f"![{alt}](../{path.relative_to(HERE.parent).as_posix()})" for alt, path in self.images]
        parts += self.notes
        return "\n\n".join(parts)


FIGURE_HEAD: Final = ("figure", "median", "quartiles", "goal", "verdict", "this run")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- files ---------------------------------------------------------------------------------------------------------

HEADER: Final = """# Results

Written by `python -m benchmarks NAME --write`, each section by its own run. How to run and to read them: \
[README.md](README.md).
"""


def write_results(section: Section, machine: str) -> None:
    """Replace the section in RESULTS.md; the others are unchanged."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEADER
    begin, end = f"<!-- {section.name} -->", f"<!-- /{section.name} -->"
    block = f"{begin}\n{section.markdown(machine)}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    RESULTS.write_text(text, encoding="utf-8")


def committed() -> dict[str, float]:
    """The figures of the last full runs."""
    return json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}


def write_committed(section: Section) -> None:
    """Keep this section's figures for later smoke runs."""
    kept = {key: value for key, value in committed().items() if not key.startswith(f"{section.name}.")}
    kept |= {f"{section.name}.{f.key}": round(f.spread.median, 3) for f in section.figures if f.key}
    COMMITTED.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")


def regressions(section: Section) -> dict[str, str]:
    """Figures that are grossly worse than the committed ones, in words, by key."""
    known = committed()
    found: dict[str, str] = {}
    for figure in section.figures:
        old = known.get(f"{section.name}.{figure.key}") if figure.key else None
        if old is not None and (times := figure.worse_than(old)) > GROSS:
            now = figure.spread.median
            found[figure.key] = f"{section.name}.{figure.key}: {now:.2f}, committed {old:.2f}: {times:.2f} × worse"
    return found
