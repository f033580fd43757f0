"""Sizes of parsed JSON values, as JSON and in memory, by traversal level by level.

Pure. Values of one type within a level are processed together, so that rows of a table and numbers of a vector are
counted by loops in C: visiting values one by one takes 200 ns for each, several times as long as parsing. Does not
parse, and has no bounds.
"""

from collections.abc import Iterator
from itertools import chain
from operator import methodcaller
from typing import Any, Final

OTHERS_BYTES: Final = 4
"""Approximate bytes of a number, `true`, `false` or `null` as JSON."""
PIECE_CHARS: Final = 1 << 17
"""Maximum characters of a string that is encoded at once; a longer one is encoded in pieces of this size."""
COLLECTED_BYTES: Final = 16
"""Bytes of the garbage collector's header of a container."""

_values: Final = methodcaller("values")
_own_size: Final = methodcaller("__sizeof__")


def levels(value: Any) -> Iterator[tuple[type[Any], list[Any]]]:
    """Yield the parts of a value in groups, each with its type: all parts of one type at the same depth.

    The value itself is the first group. Keys of objects are not included.
    """
    level = [value]
    while level:
        below: list[Any] = []
        kinds = set(map(type, level))
        for kind in kinds:
            same = level if len(kinds) == 1 else [item for item in level if type(item) is kind]
            yield kind, same
            if kind is list:
                below += chain.from_iterable(same)
            elif kind is dict:
                below += chain.from_iterable(map(_values, same))
        level = below


def held_size(value: Any) -> int:
    """Return the approximate memory of a parsed value in bytes. Equal keys count once, since the parser interns them.
    An empty list is two bytes as JSON and 64 in memory."""
    total = 0
    keys: set[str] = set()
    for kind, items in levels(value):
        total += held_by(kind, items)
        if kind is dict:
            keys.update(*items)
    return total + held_by(str, list(keys))


def held_by(kind: type[Any], items: list[Any]) -> int:
    """Return the memory of values of one type in bytes, without the parts of containers."""
    total = 0
    if not items:
        return 0
    if kind is bool or items[0] is None:
        return 0  # singletons, like small numbers
    if kind is int:
        items = [number for number in items if not -6 < number < 257]
    elif kind is dict or kind is list:
        total += COLLECTED_BYTES * len(items)
    elif kind is str:  # with its UTF-8, which is cached when it is encoded, unless that happens in pieces
        total += 3 * sum(len(text) for text in items if not text.isascii() and len(text) <= PIECE_CHARS)
    # `sys.getsizeof` looks up the method first, which takes several times as long.
    return total + sum(map(_own_size, items))


def approximate_size(value: Any) -> int:
    """Return the approximate bytes of `value` as JSON without encoding it: escapes and long numbers are not counted."""
    return sum(size_of(kind, items) for kind, items in levels(value))


def size_of(kind: type[Any], items: list[Any]) -> int:
    """Return the bytes as JSON of values of one type, without the parts of containers, but with keys."""
    if kind is str:
        total = 2 * len(items) + sum(map(len, items))
        # A character beyond ASCII takes up to four bytes; `isascii` is a flag of the string.
        return total + sum(
            len(text.encode("utf-8", "surrogatepass")) - len(text) for text in items if not text.isascii()
        )
    if kind is dict:
        return 2 * len(items) + 4 * sum(map(len, items)) + sum(map(len, chain.from_iterable(items)))
    if kind is list:
        return 2 * len(items) + sum(map(len, items))
    return len(items) * (8 if kind is float else OTHERS_BYTES)
