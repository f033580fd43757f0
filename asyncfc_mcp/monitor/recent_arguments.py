"""Arguments of calls that have ended, as their callers sent them, for as long as memory allows.

Owns their bound. A future keeps no arguments after its end, and without a journal nothing else does. Those of tools
with `journal: false` are never here.
"""

from collections import OrderedDict
from typing import Any, Final

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.values.large import small_weight

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

    def add(self, future: Future, arguments: dict[str, Any] | None) -> None:
        """Keep the arguments of a call, unless they are private or large."""
        if future.private:
            return
        size = _bytes_of(arguments)
        if size is None or size > ONE_BYTES:
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


def _bytes_of(arguments: dict[str, Any] | None) -> int | None:
    """Return the approximate bytes of arguments in memory; None for large ones. Most have a few texts and numbers,
    which is found out in a fraction of the time of a general measure."""
    size = 0
    for value in () if arguments is None else arguments.values():
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            size += len(value)
        elif kind is int:
            size += value.bit_length() >> 3
        elif kind is not float and kind is not bool and value is not None:
            weight = small_weight(arguments)
            return None if weight is None else weight.held
    return size if arguments is None else size + arguments.__sizeof__()
