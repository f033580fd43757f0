"""Findings of checks: what was looked at, how it is, and what to do.

Pure. Owns their levels, and their form as lines and as JSON. No text of a finding may hold a secret; values of the
configuration are removed here as well, since servers quote them.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncfc_mcp.quotation import one_line
from asyncfc_mcp.redaction import without_secrets


class Level(StrEnum):
    """Levels of findings."""

    OK = "ok"
    """Nothing is to be done."""
    WARNING = "warning"
    """The bridge works, but not as well as it could, or not for long."""
    PROBLEM = "problem"
    """Something does not work."""


_COLOURS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        subject: what was looked at.
        text: how it is.
        action: what to do; empty if nothing, or if the text says it.
    """

    level: Level
    subject: str
    text: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Findings under one heading."""

    title: str
    findings: Sequence[Finding]


def ok(subject: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, action: str = "") -> Finding:
    """Return a finding that the user should know of."""
    return Finding(Level.WARNING, subject, text, action)


def problem(subject: str, text: str, action: str = "") -> Finding:
    """Return a finding of something that does not work."""
    return Finding(Level.PROBLEM, subject, text, action)


def cleaned(section: Section, secrets: Iterable[str]) -> Section:
    """Return a section in which each text is one line without control characters and secrets."""
    known = tuple(secrets)

    def clean(text: str) -> str:
        return one_line(without_secrets(text, known))

    findings = [
        replace(each, subject=clean(each.subject), text=clean(each.text), action=clean(each.action))
        for each in section.findings
    ]
    return Section(clean(section.title), findings)


def is_healthy(sections: Iterable[Section]) -> bool:
    """Return true if no finding is a problem."""
    return all(each.level is not Level.PROBLEM for section in sections for each in section.findings)


def as_text(section: Section, *, colour: bool, width: int | None = None) -> str:
    """Return a section as lines: its title, and one for each finding.

    Args:
        width: columns at which lines are folded; None: they are not.
    """
    output = io.StringIO()
    console = Console(
        file=output, width=width or 100_000, highlight=False, markup=False, emoji=False,
        force_terminal=colour, color_system="standard" if colour else None,
    )  # fmt: skip
    console.print(Text(section.title, style="bold" if colour else ""))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in section.findings:
        # Texts of servers and of files: not as markup.
        text = f"{each.subject}: {each.text}" + (f"; {each.action}" if each.action else "")
        table.add_row(Text(f"  {each.level:<7}", style=_COLOURS[each.level] if colour else ""), Text(text))
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def summary(sections: Sequence[Section]) -> str:
    """Return the last line."""
    levels = [each.level for section in sections for each in section.findings]
    counts = [
        f"{count} {level}{'' if count == 1 else 's'}"
        for level in (Level.PROBLEM, Level.WARNING)
        if (count := levels.count(level))
    ]
    return f"{' and '.join(counts)} in {len(levels)} checks" if counts else f"{len(levels)} checks, all ok"


def as_json(sections: Sequence[Section]) -> str:
    """Return all sections as JSON; what is not ASCII is escaped, and so are control characters."""
    value = {
        "ok": is_healthy(sections),
        "sections": [
            {
                "title": section.title,
                "findings": [
                    {"level": each.level.value, "subject": each.subject, "text": each.text, "action": each.action}
                    for each in section.findings
                ],
            }
            for section in sections
        ],
    }
    return json.dumps(value, indent=2) + "\n"
