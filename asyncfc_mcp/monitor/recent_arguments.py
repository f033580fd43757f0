"""Arguments of calls that have ended, as their callers sent them, for as long as memory allows.

Owns their bound. A future keeps no arguments after its end, and without a journal nothing else does. Those of tools
with `journal: false` are never here.
"""

from collections import OrderedDict
from typing import Any, Final

from asyncfc_mcp.core.futures import Future

ALL_BYTES: Final = 8 << 20
ONE_BYTES: Final = 256 << 10
"""Bound on the arguments of one call; larger ones are not kept."""
_LEAST: Final = 200
"""Bytes that count for every call."""


class RecentArguments:
    """Arguments of the calls that ended last."""

    def __init__(self, limit: int = ALL_BYTES) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[dict[str, Any] | None, int]] = OrderedDict()
        self._bytes = 0

    def add(self, future: Future, arguments: dict[str, Any] | None, size: int) -> None:
        """Keep the arguments of a call.

        Args:
            size: bytes in memory, approximately.
        """
        if future.private or size > ONE_BYTES:
            return
        size += _LEAST
        self._kept[future.key] = arguments, size
        self._bytes += size
        while self._bytes > self._limit:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the arguments of a call; None if there are none, or they are not kept."""
        return self._kept.get(key, (None, 0))[0]
