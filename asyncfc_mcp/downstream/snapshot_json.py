"""A server's snapshot as JSON: on disk for the next start, in a database for other replicas.

Owns the format and the check of what is read, which another program or another version may have written.
"""

import json
from dataclasses import fields
from typing import Any, Final

from pydantic_core import to_json

from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import LARGE_BYTES, parsing

ENTRIES_PER_SLICE: Final = 50
_FIELDS: Final = tuple(each.name for each in fields(ServerSnapshot))


def encoding(snapshot: ServerSnapshot) -> Slices[list[bytes]]:
    """Return a snapshot as JSON, in parts.

    Raises:
        ValueError, RecursionError: a value cannot be JSON.
    """
    # Not with `asdict`, which copies all nested values, and `json`, which is slow: 0.8 s for 10,000 tools.
    plain = {name: getattr(snapshot, name) for name in _FIELDS if name != "listings"}
    parts = [value_json(plain)[:-1], b',"listings":{']
    for place, (kind, entries) in enumerate(snapshot.listings.items()):
        parts.append((b"," if place else b"") + value_json(kind) + b":[")
        for number, entry in enumerate(entries):
            parts.append((b"," if number else b"") + value_json(entry))
            if number % ENTRIES_PER_SLICE == 0:
                yield
        parts.append(b"]")
    return [*parts, b"}}"]


def value_json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises:
        ValueError, RecursionError: it cannot be JSON.
    """
    try:
        return to_json(value)
    except ValueError:
        return json.dumps(value).encode()


def parse(data: str | bytes) -> ServerSnapshot:
    """Return a snapshot at once.

    Raises:
        ValueError, TypeError, RecursionError: it is none.
    """
    return _checked(json.loads(data))


async def parse_in_slices(data: bytes) -> ServerSnapshot:
    """Return a snapshot without a long step.

    Raises:
        ValueError, TypeError, RecursionError: it is none.
    """
    if len(data) <= LARGE_BYTES:
        return parse(data)
    try:
        value = await in_slices(parsing(data))
    except ValueError:
        return parse(data)
    return _checked(value)


def _checked(values: Any) -> ServerSnapshot:
    snapshot = ServerSnapshot(**values)
    kinds: list[tuple[Any, Any]] = [
        (snapshot.capabilities, dict),
        (snapshot.info, dict),
        (snapshot.instructions, str | None),
        (snapshot.protocol_version, str),
        (snapshot.listings, dict),
    ]
    listings: list[Any] = list(snapshot.listings.values()) if isinstance(snapshot.listings, dict) else []
    if not all(isinstance(value, kind) for value, kind in kinds) or not all(
        isinstance(items, list) and all(isinstance(item, dict) for item in items)  # pyright: ignore[reportUnknownVariableType]
        for items in listings
    ):
        raise ValueError("a part of it has the wrong type")
    return snapshot
