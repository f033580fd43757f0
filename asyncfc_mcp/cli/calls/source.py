"""Source of the calls that `log` shows: a journal, or the page of a bridge that runs.

Owns the interface, and what is done with either: reading all pages of a query, and choosing which changes of calls are
news. Leaves the journal to `journal_source`, and the page to `page_source`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.core.call_query import MOST, CallQuery

Page = tuple[Sequence[Entry], str | None]
"""Calls that a query has found, newest first, and the cursor of the page that follows; None if there is none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at calls of a query.

    Args:
        entries: calls that may have changed, in any order.
        changed: each of them has; false for a look at the present state, which begins a connection.
    """

    entries: list[Entry]
    changed: bool


class CallSource(Protocol):
    """Finds calls."""

    @property
    def title(self) -> str:
        """What is shown, for people."""
        ...

    async def newest(self, query: CallQuery, most: int) -> tuple[list[Entry], bool]:
        """Return the newest calls of a query, oldest first, and whether there are older ones.

        Args:
            most: bound on their number.
        """
        ...

    def looks(self, query: CallQuery) -> AsyncIterator[Seen]:
        """Yield looks at the calls of a query for as long as there is a connection, the first one at once."""
        ...


async def collect(
    read: Callable[[CallQuery], Awaitable[Page]], query: CallQuery, most: int
) -> tuple[list[Entry], str | None]:
    """Return calls of all pages of a query, newest first, and the cursor of those that follow.

    Args:
        read: returns one page.
        most: bound on their number.
    """
    found: list[Entry] = []
    while True:
        entries, following = await read(replace(query, limit=min(MOST, most - len(found))))
        found += entries
        if following is None or len(found) >= most:
            return found, following
        query = query.after(following)


class News:
    """Chooses what is news of calls: those that are new, and those whose state has changed.

    Args:
        shown: calls that were shown already.
    """

    def __init__(self, shown: list[Entry]) -> None:
        self._states = {key_of(entry): words.state(entry) for entry in shown}
        self._last: dict[str, int] = {}
        for entry in shown:
            self._count(entry)

    def of(self, seen: Seen) -> list[Entry]:
        """Return the news in a look, in the order of the calls' submissions."""
        news: list[Entry] = []
        entries = sorted(seen.entries, key=number_of)
        for entry in entries:
            key, state = key_of(entry), words.state(entry)
            before = self._states.get(key)
            # Of the present state, calls that are older than those shown were left out on purpose.
            is_new = before is None and (seen.changed or number_of(entry) > self._last.get(key[0], -1))
            if is_new or (before is not None and before != state):
                news.append(entry)
            self._states[key] = state
        for entry in entries:
            self._count(entry)
        self._forget()
        return news

    def _count(self, entry: Entry) -> None:
        scope = key_of(entry)[0]
        self._last[scope] = max(self._last.get(scope, -1), number_of(entry))

    def _forget(self) -> None:
        """Drop the oldest calls that have ended: a log may be followed for months."""
        if len(self._states) <= 4 * MOST:
            return
        ended = [key for key, state in self._states.items() if state in words.ENDED]
        for key in ended[: len(self._states) - 2 * MOST]:
            del self._states[key]


async def news(source: CallSource, query: CallQuery, shown: list[Entry]) -> AsyncGenerator[list[Entry]]:
    """Yield news of the calls of a query, a few at a time."""
    chosen = News(shown)
    async for seen in source.looks(query):
        if found := chosen.of(seen):
            yield found


def accepts(query: CallQuery, entry: Entry) -> bool:
    """Return whether a call is one of those that a query means, as far as its entry says: the text is not looked for
    in arguments and results."""
    submitted = words.moment(entry, "submitted_at")
    texts = [words.text(entry, key, words.FAILURE_LENGTH) for key in ("id", "name", "tool", "server", "failure")]
    return (
        (not query.servers or entry.get("server") in query.servers)
        and (not query.tools or entry.get("tool") in query.tools)
        and (not query.states or entry.get("state") in [state.value for state in query.states])
        and (query.since is None or (submitted is not None and submitted >= query.since))
        and query.finds(texts)
    )


def key_of(entry: Entry) -> tuple[str, str]:
    """Return what identifies a call: IDs count within a scope."""
    scope = entry.get("scope")
    return scope if isinstance(scope, str) else "", words.text(entry, "id")


def number_of(entry: Entry) -> int:
    """Return the number in a call's ID: later calls have larger ones."""
    digits = words.text(entry, "id")[1:]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0
