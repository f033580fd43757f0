"""Rows of the table `futures`: records and changes as columns, and back.

Owns the content of each column; JSON of calls and failures is `record_json`'s. Pure: connections are `journal_file`'s
and `reader`'s.

Text may hold anything that a Python string can. SQLite's text cannot hold lone surrogates, and its tools stop at NUL:
such text is a blob (UTF-8 with surrogates), all other text is text, so that equal strings are equal columns. Values are
JSON in ASCII where they need escapes (`values.text`).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import UNFINISHED, FailureRecord, FutureRecord
from asyncfc_mcp.core.waits import without_paths
from asyncfc_mcp.engine.record_json import (
    call_json,
    call_of,
    failure_json,
    failure_of,
    parse,
    waits_json,
    waits_of,
)
from asyncfc_mcp.values.large import LARGE_BYTES
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

Column = str | bytes | int | float | None
MAX_NUMBER: Final = (1 << 63) - 1
"""Maximum integer of SQLite. Numbers of IDs are below it; an ID with a greater one is text."""

_FIELDS: Final = tuple(each.name for each in fields(FutureRecord))
_TEXTS: Final = frozenset({"scope", "server", "tool", "name", "namer", "host", "conversation", "cause"})
_LATEST: Final = 1e15
"""Bound on times, in seconds. Infinite ones, too, are those of a damaged file."""
_NEEDED: Final = frozenset({"scope", "server", "tool"})
_FLAGS: Final = ("listed", "private", "has_result")
_JSON: Final = frozenset({"substituted", "after", "round"})
_TIMES: Final = frozenset({"submitted_at", "started_at", "ended_at", "read_at", "ttl_s", "queued_at"})

_NUMBERS: Final = ("size", "attempts")

SELECTED: Final = ", ".join("NULL" if name == "call" else f'f."{name}"' for name in _FIELDS)
"""Columns of a record without its call, of a table `f`, in the order that `record_of` takes."""
SELECTED_WITH_CALL: Final = SELECTED.replace("NULL", "c.json")
"""The same with its call, of a table `c`."""
INSERTED: Final = (*(name for name in _FIELDS if name != "call"), "owner", "kept_from")

_NOTHING: Final = "{}"


class Damaged(Exception):
    """A row does not have the content that this program writes."""


def is_unfinished(state: State | str) -> bool:
    """Return true for a state of a future that has not ended."""
    return State(state) in UNFINISHED


def text_column(text: str | None) -> Column:
    """Return text as a column."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return data if b"\0" in data else text


def id_column(future_id: str) -> Column:
    """Return the ID of a future as a column: its number where it has one."""
    digits = future_id[1:]
    if digits.isdecimal() and digits.isascii() and future_id[0] == "f" and (digits[0] != "0" or digits == "0"):
        number = int(digits) if len(digits) < 20 else MAX_NUMBER + 1
        if number <= MAX_NUMBER:
            return number
    return text_column(future_id)


def values_of(record: FutureRecord) -> dict[str, Any]:
    """Return the fields of a record, without what a private one must not write."""
    return {name: getattr(record, name) for name in _FIELDS}


def without_private(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without the arguments, result and data of a future that is private."""
    kept = dict(values)
    for name in ("call", "round"):
        if name in kept:
            kept[name] = None
    if "has_result" in kept:
        kept["has_result"] = False
    if kept.get("waits"):
        kept["waits"] = without_paths(kept["waits"])
    failure: FailureRecord | None = kept.get("failure")
    if failure is not None and failure.data is not None:
        kept["failure"] = replace(failure, data=None)
    return kept


def columns_of(values: Mapping[str, Any]) -> dict[str, Column]:
    """Return fields as columns.

    Raises:
        ValueError, TypeError: a value cannot be JSON.
    """
    columns: dict[str, Column] = {}
    for name, value in values.items():
        if name in _TIMES:
            columns[name] = value
        elif value is None:
            columns[name] = None
        elif name in _TEXTS:
            columns[name] = text_column(value)
        elif name in _JSON:
            columns[name] = _json(encode(dict(value))) if value else _NOTHING
        elif name == "id":
            columns[name] = id_column(value)
        elif name == "state":
            columns[name] = State(value).value
        elif name == "call":
            columns[name] = _json(call_json(value))
        elif name == "failure":
            columns[name] = _json(failure_json(value))
        elif name == "waits":
            columns[name] = _json(waits_json(value)) if value else None
        else:
            columns[name] = int(value)
    return columns


def _json(data: bytes) -> str | bytes:
    """Return JSON as text, which SQLite's tools show; as a blob where one more copy would be a large one."""
    return data if len(data) > LARGE_BYTES else data.decode()


def record_of(row: Iterable[Any]) -> FutureRecord:
    """Return the record in a row with the columns `SELECTED`.

    Raises:
        Damaged: the row cannot be read.
    """
    try:
        values: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
        for name in _TEXTS:
            if isinstance(values[name], bytes):
                values[name] = values[name].decode("utf-8", "surrogatepass")
            if not isinstance(values[name], str) and (name in _NEEDED or values[name] is not None):
                raise ValueError(f"{name} is no text")
        for name in _FLAGS:
            values[name] = bool(values[name])
        for name in _TIMES:
            if values[name] is not None and not (isinstance(values[name], int | float) and abs(values[name]) < _LATEST):
                raise ValueError(f"{name} is no time")
        if not isinstance(values["submitted_at"], int | float):
            raise ValueError("submitted_at is missing")
        for name in _NUMBERS:
            if not isinstance(values[name], int):
                raise ValueError(f"{name} is no number")
        for name in _JSON:
            text = values[name]
            if text is not None or name != "round":
                values[name] = parse(text) if text is not None and text != _NOTHING else {}
                if not isinstance(values[name], dict):
                    raise ValueError(f"{name} is no object")
        future_id = values["id"]
        if isinstance(future_id, bytes):
            future_id = future_id.decode("utf-8", "surrogatepass")
        if not isinstance(future_id, str | int):
            raise ValueError("id is no number")
        values["id"] = future_id if isinstance(future_id, str) else f"f{future_id}"
        values["state"] = State(values["state"])
        values["failure"] = None if values["failure"] is None else failure_of(values["failure"])
        values["call"] = None if values["call"] is None else call_of(values["call"])
        values["waits"] = () if values["waits"] is None else waits_of(values["waits"])
        return FutureRecord(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Damaged(str(exc)) from exc


def readable(rows: Iterable[Iterable[Any]]) -> list[FutureRecord]:
    """Return the records of rows, without those that are damaged, which are logged."""
    found: list[FutureRecord] = []
    for row in rows:
        try:
            found.append(record_of(row))
        except Damaged as exc:
            logger.warning("a future in the journal cannot be read and is left out: %s", exc)
    return found
