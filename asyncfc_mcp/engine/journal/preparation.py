"""Preparation of changes for the file: columns, the JSON of results, and the files of large ones.

Owns what happens before a transaction, so that no other bridge waits for it. Runs in the writer's thread.

Encoding holds the interpreter's lock, and the event loop needs it: a large result is encoded in slices, and the lock is
offered after each (a thread that only runs Python is asked for it after 5 ms, each time that the event loop wakes up).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from asyncfc_mcp.core.identity import FutureKey, id_of
from asyncfc_mcp.engine.journal.backlog import Entry
from asyncfc_mcp.engine.journal.blobs import INLINE_BYTES, Blobs
from asyncfc_mcp.engine.journal.rows import Column, columns_of, id_column, is_unfinished, text_column
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.large import writing
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

_ROW_BYTES: Final = 600
"""Approximate size of a row without its JSON."""
_OFFER_S: Final = 0.001
_STRUCTURED: Final = ("call", "failure", "round", "substituted", "after")


@dataclass(slots=True)
class Prepared:
    """What is written of one future."""

    key: FutureKey
    scope: Column
    id: Column
    new: bool
    columns: dict[str, Column]
    call: Column = None
    json: bytes | None = None
    digest: str | None = None
    bytes: int = 0
    """Size of the result."""
    weight: int = _ROW_BYTES
    """Approximate bytes in the file itself."""


def scope_of(key: FutureKey) -> str:
    """Return the key of the scope in a future's key."""
    return key.rpartition("/")[0]


def prepare(
    key: FutureKey,
    entry: Entry,
    blobs: Blobs,
    now: Callable[[], float],
    kept_from: float,
    pieces: list[bytes] | None = None,
) -> Prepared:
    """Return a change as columns. A large result is written to a file, which still has to be put in place.

    Args:
        now: the wall clock, for a future that has ended without a time.
        kept_from: time from which a future that ends now is kept.
        pieces: JSON of the result, if it was encoded before.

    Raises:
        OSError: the file cannot be written.
    """
    values = entry.values
    if "state" in values and not is_unfinished(values["state"]) and values.get("ended_at") is None:
        values["ended_at"] = now()
    if entry.result is not None:
        values["has_result"] = True
    try:
        columns = columns_of(values)
    except (ValueError, TypeError, RecursionError):
        # One value that is not JSON must not take the journal from all other calls.
        logger.exception("a change of %s cannot be written to the journal", id_of(key))
        columns = columns_of({name: value for name, value in values.items() if name not in _STRUCTURED})
    if values.get("ended_at") is not None:
        columns["kept_from"] = kept_from
    call = columns.pop("call", None)
    row = Prepared(key, text_column(scope_of(key)), id_column(id_of(key)), entry.new, columns, call)
    row.weight += sum(len(value) for value in (call, *columns.values()) if isinstance(value, str | bytes))
    if entry.result is not None:
        try:
            pieces = [encode(entry.result)] if pieces is None else pieces
        except (ValueError, TypeError, RecursionError):
            pieces = []
            logger.exception("the result of %s cannot be written to the journal", id_of(key))
        _attach(row, pieces, blobs)
    return row


def _attach(row: Prepared, pieces: list[bytes], blobs: Blobs) -> None:
    """Add a result to a row; none where it could not be encoded."""
    row.bytes = sum(map(len, pieces))
    if not row.bytes:
        row.columns["has_result"] = 0
        return
    if not row.columns.get("size"):
        row.columns["size"] = row.bytes
    if row.bytes > INLINE_BYTES:
        row.digest, _ = blobs.prepare(pieces)
    else:
        row.json = b"".join(pieces)
        row.weight += row.bytes


def encoding(key: FutureKey, result: dict[str, Any]) -> Slices[list[bytes]]:
    """Encode a large result in slices; return its JSON in pieces, none where it cannot be JSON."""
    pieces: list[bytes] = []
    since = time.monotonic()
    try:
        for _ in writing(result, pieces):
            if time.monotonic() - since > _OFFER_S:
                time.sleep(0)
                yield
                since = time.monotonic()
    except (ValueError, TypeError, RecursionError):
        logger.exception("the result of %s cannot be written to the journal", id_of(key))
        return []
    return pieces
