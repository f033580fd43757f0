"""Large JSON in slices: parsed, encoded and measured with pauses, where doing it at once would block the event loop.

Pure. Short parts are processed by the same fast functions as small values, some thousand values at a time; only the
containers around them are traversed here. Independent of messages, and not a validator: text that cannot be parsed in
slices raises `ValueError`, and parsing it at once gives the reason.
"""

import json
import re
from itertools import chain, islice
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json

from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.sizes import COLLECTED_BYTES, OTHERS_BYTES, PIECE_CHARS, held_by, levels, size_of
from asyncfc_mcp.values.text import encode

LARGE_BYTES: Final = 500_000
"""Maximum bytes of JSON that is parsed and encoded at once: 20 ms for nothing but empty lists."""
_WINDOW: Final = 1 << 17
"""Bytes that are parsed at once."""
_DEPTH: Final = 500
_FEW: Final = 400
"""Maximum values of a container that is processed together with its neighbours."""
_TOGETHER: Final = 2_000
"""Maximum values of one type that are measured together."""
_SHORT: Final = 4_000
"""Maximum characters of a string that is processed together with its neighbours."""
_SMALL: Final = 250
"""Maximum parts of a value that is measured part by part: level by level is slower with one or two values each."""
_TEXT_BYTES: Final = "".__sizeof__()
"""Memory of an ASCII string, without its characters (one byte each)."""

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_TEXT: Final = rb'"[^"\\]{0,4000}+(?:\\.[^"\\]{0,4000}+){0,50}+"'
_SCALAR: Final = rb'(?:%b|[^\s",:\[\]{}]{1,400}+)' % _TEXT


def _with_containers(item: bytes) -> bytes:
    return rb"(?:%b|[\[{](?:%b|[\s,:]++){0,400}+[\]}])" % (_SCALAR, item)


# All quantifiers are possessive, so that no text causes backtracking.
_ITEM: Final = _with_containers(_with_containers(_with_containers(_with_containers(_SCALAR))))
_ITEMS: Final = re.compile(rb"(?:\s*+%b\s*+,){1,256}+" % _ITEM, re.DOTALL)
_PAIRS: Final = re.compile(rb"(?:\s*+%b\s*+:\s*+%b\s*+,){1,256}+" % (_TEXT, _ITEM), re.DOTALL)
_LONG_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*+)*+')
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_ATOM: Final = re.compile(rb'[^\s",:\[\]{}]{1,5000}+')


def parsing(data: bytes) -> Slices[Any]:
    """Parse a JSON text in slices.

    Raises:
        ValueError: it is invalid, or cannot be parsed in slices.
    """
    out: list[Any] = []
    target = cast("Any", out)
    above: list[Any] = []
    at, fresh = _after_space(data, 0), True
    while True:
        yield
        if above:
            is_list = _is_list(target)
            run = (_ITEMS if is_list else _PAIRS).match(data, at, at + _WINDOW)
            if run is not None:
                if is_list:
                    target += _parsed(b"[" + run[0][:-1] + b"]")
                else:
                    target.update(_parsed(b"{" + run[0][:-1] + b"}"))
                at, fresh = run.end(), False
                continue
            at = _after_space(data, at)
        closed = fresh and above and data[at : at + 1] == (b"]" if _is_list(target) else b"}")
        if not closed:
            key = None
            if above and not _is_list(target):
                key, at = yield from _scalar(data, at)
                at = _after_space(data, at)
                if data[at : at + 1] != b":" or not isinstance(key, str):
                    raise ValueError("key expected")
                at = _after_space(data, at + 1)
            first = data[at : at + 1]
            if first in (b"[", b"{"):
                value, at, fresh = _opened(first), at + 1, True
            else:
                value, at = yield from _scalar(data, at)
            if key is None:
                target.append(value)
            else:
                target[key] = value
            if first in (b"[", b"{"):
                above.append(target)
                target = value
                if len(above) > _DEPTH:
                    raise ValueError("nested too deeply")
                continue
        while True:
            # At the end of a value, or of the container itself.
            if closed:
                target, at = above.pop(), at + 1
            at = _after_space(data, at)
            if not above:
                if at != len(data):
                    raise ValueError("text after the value")
                return out[0]
            follows = data[at : at + 1]
            closed = follows == (b"]" if _is_list(target) else b"}")
            if not closed:
                break
        if follows != b",":
            raise ValueError("comma expected")
        at, fresh = at + 1, False


def _is_list(container: Any) -> bool:
    return type(container) is list


def _opened(bracket: bytes) -> Any:
    return [] if bracket == b"[" else {}


def _after_space(data: bytes, at: int) -> int:
    return _SPACE.match(data, at).end()  # pyright: ignore[reportOptionalMemberAccess]


def _parsed(data: bytes) -> Any:
    """Parse a short text. Lone surrogates need the slower parser; parsing all of a large text with it would block."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        return _decode(data.decode())


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode


def _scalar(data: bytes, at: int) -> Slices[tuple[Any, int]]:
    """Parse a string, number or literal; return it and the position of its end."""
    if data[at : at + 1] != b'"':
        atom = _ATOM.match(data, at)
        if atom is None:
            raise ValueError("value expected")
        return _parsed(atom[0]), atom.end()
    pieces: list[str] = []
    begin = end = at + 1
    while True:
        before = end
        end = _LONG_TEXT.match(data, end, end + _WINDOW).end()  # pyright: ignore[reportOptionalMemberAccess]
        last = data[end : end + 1] == b'"'
        if not last and (end == before or end == len(data)):
            raise ValueError("unterminated string, or invalid escape")
        cut = end
        while not last and cut > begin and data[cut] & 0xC0 == 0x80:  # within a character
            cut -= 1
        if last or (end - begin >= _WINDOW // 2 and not _HALF_PAIR.search(data, max(begin, cut - 6), cut)):
            pieces.append(_parsed(b'"' + data[begin:cut] + b'"'))
            begin = cut
        if last:
            return pieces[0] if len(pieces) == 1 else "".join(pieces), end + 1
        yield


# --- encoding --------------------------------------------------------------------------------------------------------


def is_large(value: Any) -> bool:
    """Return true for a value that has to be encoded in slices. Visits only a small part of it."""
    left = LARGE_BYTES // 4
    parts: list[Any] = [value]
    for item in parts:  # grows during the loop
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            left -= len(item)
        elif kind is dict or kind is list:
            left -= 50 * len(item)
            if left < 0:
                return True
            parts += item.values() if kind is dict else item
    return left < 0


def writing(value: Any, pieces: list[bytes] | None = None, deepest: int | None = None) -> Slices[list[bytes]]:
    """Encode a value in slices; return the pieces of its JSON, which is the same as from `text.encode`.

    Args:
        pieces: list for the pieces; the caller may remove some at any pause.
        deepest: maximum levels.

    Raises:
        RecursionError: there are more levels.
    """
    pieces = [] if pieces is None else pieces
    todo: list[Any] = [value]
    while todo:
        yield
        if deepest is not None and len(todo) > 2 * deepest:
            raise RecursionError
        item = todo.pop()
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is tuple:  # never part of a JSON value: finished bytes, or the rest of a container
            if isinstance(item[0], bytes):
                pieces.append(item[0])
                continue
            yield from _members(*cast("tuple[Any, list[str] | None, int]", item), pieces, todo)
        elif kind is dict:
            pieces.append(b"{")
            todo += ((b"}",), (item, list(item), 0))
        elif kind is list:
            pieces.append(b"[")
            todo += ((b"]",), (item, None, 0))
        elif kind is str and len(item) > PIECE_CHARS:
            pieces.append(b'"')
            for start in range(0, len(item), PIECE_CHARS):
                pieces.append(encode(item[start : start + PIECE_CHARS])[1:-1])
                yield
            pieces.append(b'"')
        else:
            pieces.append(encode(item))
    return pieces


def _members(container: Any, keys: list[str] | None, start: int, pieces: list[bytes], todo: list[Any]) -> Slices[None]:
    """Encode the members of a container from `start`, up to the first that has to be encoded separately.

    Args:
        keys: keys of an object; None for an array.
    """
    at, count = start, len(container if keys is None else keys)
    while at < count:
        first, size, large = at, 0, False
        while at < count and size < _FEW:
            cost = _cost(container[at if keys is None else keys[at]], 4)
            if large := cost is None:
                break
            size += cost
            at += 1
        if at > first:
            batch = container[first:at] if keys is None else {key: container[key] for key in keys[first:at]}
            pieces.append((b"," if first else b"") + encode(batch)[1:-1])
            yield
        if large:
            lead = b"," if at else b""
            pieces.append(lead if keys is None else lead + encode(keys[at]) + b":")
            todo += ((container, keys, at + 1), container[at if keys is None else keys[at]])
            return


def _cost(value: Any, levels: int) -> int | None:
    """Return the number of values in a member; None where it is too large to be encoded with its neighbours."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return 1 + len(value) // 100 if len(value) <= _SHORT else None
    if kind is not dict and kind is not list:
        return 1
    if len(value) > _FEW // 4 or not levels:
        return None
    cost = 1
    for item in value.values() if kind is dict else value:
        inner = _cost(item, levels - 1)
        if inner is None:
            return None
        cost += inner
    return cost if cost <= _FEW else None


def measuring(value: Any, limit: int) -> Slices[int]:
    """Return the bytes of the JSON of a value; beyond the limit, any number above it.

    Raises:
        RecursionError: it is nested too deeply for most parsers.
    """
    pieces: list[bytes] = []
    total = 0
    for _ in writing(value, pieces, _DEPTH):
        total += sum(map(len, pieces))
        pieces.clear()
        if total > limit:
            return total
        yield
    return total + sum(map(len, pieces))


# --- measuring -------------------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """Size of a value.

    Attributes:
        size: bytes as JSON; see `sizes.approximate_size`.
        held: bytes of memory; see `sizes.held_size`.
    """

    size: int
    held: int


def small_weight(value: Any) -> Weight | None:
    """Return the same as `weighing` in a seventh of its time; None for a value that is not small."""
    size = held = texts = chars = 0
    keys: set[str] = set()
    parts: list[Any] = [value]
    for item in parts:  # grows during the loop
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is str and item.isascii():
            texts += 1
            chars += len(item)
        elif kind is dict or kind is list:
            count = len(item)
            size += 2 + count
            held += COLLECTED_BYTES + item.__sizeof__()
            if count:
                if len(parts) + count > _SMALL:
                    return None
                if kind is list:
                    parts += item
                    continue
                keys.update(item)
                size += 3 * count + sum(map(len, item))
                parts += item.values()
        elif item is None:
            size += OTHERS_BYTES
        else:
            size += size_of(kind, [item])  # pyright: ignore[reportUnknownArgumentType]
            held += held_by(kind, [item])  # pyright: ignore[reportUnknownArgumentType]
    names = "".join(keys)
    held += len(names) + len(keys) * _TEXT_BYTES if names.isascii() else held_by(str, list(keys))
    return Weight(size + 2 * texts + chars, held + texts * _TEXT_BYTES + chars)


def weighing(value: Any) -> Slices[Weight]:
    """Measure a value as JSON and in memory, in slices."""
    size = held = looked_at = 0
    keys: set[str] = set()
    for kind, items in levels(value):
        for start in range(0, len(items), _TOGETHER):
            some = items if len(items) <= _TOGETHER else items[start : start + _TOGETHER]
            size += size_of(kind, some)
            held += held_by(kind, some)
            looked_at += len(some)
            if kind is dict:
                names = chain.from_iterable(some)
                while new := set(islice(names, _TOGETHER)):
                    looked_at += len(new)
                    new -= keys
                    keys |= new
                    held += held_by(str, list(new))
                    if looked_at >= _TOGETHER:
                        looked_at = 0
                        yield
            if looked_at >= _TOGETHER:
                looked_at = 0
                yield
    return Weight(size, held)
