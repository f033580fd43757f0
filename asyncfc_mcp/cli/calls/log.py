"""`asyncfc-mcp log`: the calls of a source, as lines or JSON.

Owns the output: the table or one object a line, what is said beside it on stderr, and a pipe that is closed. Leaves the
lines to `table`, and finding calls to the source.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.source import CallSource, news
from asyncfc_mcp.cli.calls.table import Table
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.core.call_query import CallQuery

LIMIT: Final = 100
"""Calls that are shown if nothing else is said."""
MOST: Final = 10_000
"""Calls that are shown of those since a time."""


class Output:
    """Writes calls.

    Args:
        file: to write to.
        as_json: one object a line in place of a table.
        following: calls go on to be written; each state of a call is a line.
    """

    def __init__(self, file: TextIO, *, as_json: bool, following: bool) -> None:
        self._file, self._as_json, self._following = file, as_json, following
        is_terminal = file.isatty()
        self._flushes = following or is_terminal
        # What is written to a file or pipe has the same form everywhere: no colours, complete times, nothing cut.
        self._console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._terminal = is_terminal
        self._table: Table | None = None

    def write(self, entries: list[Entry]) -> None:
        """Write some calls, oldest first."""
        now = time.time()
        if self._as_json:
            for entry in entries:
                # Everything but ASCII is escaped: the line may be read on a terminal.
                self._file.write(json.dumps(entry) + "\n")
        elif entries:
            if self._table is None:
                width = self._console.width if self._terminal else None
                with_date = not self._terminal or not _all_of_today(entries, now)
                self._table = Table(width, with_date, more=self._following)
                self._table.measure(entries, now)
                self._print([self._table.heading()])
            self._print(line for entry in entries for line in self._table.lines(entry, now))
        if self._flushes:
            self._file.flush()

    def _print(self, lines: Iterable[Text]) -> None:
        for line in lines:
            self._console.print(line)


async def show(source: CallSource, query: CallQuery, most: int, output: Output, *, follow: bool) -> tuple[int, bool]:
    """Write the calls of a query, and go on with those that come; return their number, and whether there are older
    ones."""
    entries, more = await source.newest(query, most)
    output.write(entries)
    if follow:
        async for found in news(source, query, entries):
            output.write(found)
    return len(entries), more


def _all_of_today(entries: list[Entry], now: float) -> bool:
    today = datetime.fromtimestamp(now).date()
    for entry in entries:
        submitted = words.moment(entry, "submitted_at")
        with suppress(OverflowError, OSError, ValueError):
            if submitted is not None and datetime.fromtimestamp(submitted).date() != today:
                return False
    return True


def close_pipe(file: TextIO) -> None:
    """Have the end of the process not write to a pipe whose reader has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, file.fileno())
    finally:
        os.close(null)
