"""Bound on the work of rewriting one schema, shared by everything that rewrites it.

Pure. Schemas come from servers and are not trusted, and rewriting is a step of the event loop.
"""

from typing import Final

MAX_WORK: Final = 40_000
"""Maximum steps of rewriting one schema, about 2 µs each."""


class SchemaTooLarge(Exception):
    """An input schema has too many parts to be rewritten."""


class Budget:
    """Steps that are left for one schema."""

    __slots__ = ("_left",)

    def __init__(self, work: int = MAX_WORK) -> None:
        self._left = work

    def spend(self, work: int) -> None:
        """Take steps from the budget.

        Raises:
            SchemaTooLarge: nothing is left.
        """
        self._left -= work
        if self._left < 0:
            raise SchemaTooLarge
