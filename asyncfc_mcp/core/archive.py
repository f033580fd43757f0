"""Interface of the archive: futures that have ended and are not in memory.

Pure interface. `engine.archive` implements it over a journal, and `store` asks it for what memory does not have.
"""

from collections.abc import Iterator
from typing import Protocol

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import CallerIdentity, Scope


class Archive(Protocol):
    """Futures of earlier runs, and those of this run that memory has dropped."""

    def find(self, scope: Scope, future_id: str) -> Future | None:
        """Return the future with this ID; None without one."""
        ...

    def named(self, scope: Scope, name: str, namer: CallerIdentity | None = None) -> list[Future]:
        """Return the last future with this name of each caller of the last run in which it was used, newest first.

        Args:
            namer: only of this caller, if it is one in all runs.
        """
        ...

    def has_names_of(self, namer: CallerIdentity | None) -> bool:
        """Return true for a caller that can be told from all others here, so that `named` finds what it named."""
        ...

    def newest(self, scope: Scope) -> Iterator[Future]:
        """Yield the newest futures of a scope that is listed, newest first, a bounded number of them."""
        ...

    def fate(self, scope: Scope, number: int) -> str | None:
        """Return the reason why an earlier run's number has no future; None where it is not known."""
        ...
