"""Rows of the table `futures`: records as columns, and back.

Owns the content of each column. Pure: statements are `futures_table`'s, JSON of calls and failures is `record_json`'s.

PostgreSQL's text cannot hold NUL and lone surrogates. They are escaped with a backslash, and so are backslashes, so
that equal strings are equal columns. JSON that `values.text` writes has neither, and is text where it is small;
arguments and results are bytes.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Final

from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.record_json import call_of, failure_json, failure_of, parse, waits_json, waits_of
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

_FIELDS: Final = tuple(each.name for each in fields(FutureRecord) if each.name != "call")
_TEXTS: Final = frozenset({"scope", "id", "server", "tool", "name", "namer", "host", "conversation", "cause"})
_OBJECTS: Final = frozenset({"substituted", "after"})
_NOTHING: Final = "{}"

SELECTED: Final = (
    "f.seq, f.owner, f.worker, f.cancelled, f.effect, "
    "f.scope, f.listed, f.id, f.server, f.tool, f.state, f.name, f.namer, f.host, f.conversation, f.submitted_at, "
    "f.started_at, f.ended_at, f.read_at, f.ttl_s, f.cause, f.substituted, f.after, f.failure, f.round, f.private, "
    "f.has_result, f.size, f.waits, f.queued_at, f.attempts"
)
"""Columns of a table `f`, in the order that `row_of` takes; the call's JSON may follow."""
_BEFORE: Final = 5
"""Columns before those of the record."""

_KEY_BYTES: Final = 500
"""Longest text in an index; PostgreSQL allows 2,704 bytes for all columns of one."""
_ESCAPED: Final = re.compile("[\0\\\\\ud800-\udfff]")
_ESCAPE: Final = re.compile(r"\\(\\|0|u[0-9a-f]{4})")


@dataclass(slots=True)
class Row:
    """A future as it stands in the table."""

    seq: int
    """Its place in the order of submission, over all scopes and replicas."""
    record: FutureRecord
    """`call` only where that was asked for."""
    effect: Effect
    owner: str | None
    """Replica whose scheduler decides when it starts."""
    worker: str | None
    """Replica that runs it, or ran it."""
    cancelled: bool
    """Its cancellation was requested while it ran."""
    stops: bool = False
    """It is cancelled when a write before it on the same state fails (`on_failure: "stop"`)."""


# --- text ----------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Return text as a column, which `unescaped` takes back."""
    return _ESCAPED.sub(_escape, text) if _ESCAPED.search(text) else text


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return {"\\": r"\\", "\0": r"\0"}.get(character, f"\\u{ord(character):04x}")


def unescaped(column: str) -> str:
    """Return the text of a column."""
    return _ESCAPE.sub(_unescape, column) if "\\" in column else column


def _unescape(found: re.Match[str]) -> str:
    name = found[1]
    return {"\\": "\\", "0": "\0"}.get(name) or chr(int(name[1:], 16))


def key(text: str) -> str:
    """Return what stands for a text in an index, where a long one has no place."""
    column = escaped(text)
    return column if len(column) <= _KEY_BYTES // 4 else f"sha256:{sha256(column.encode()).hexdigest()}"


# --- records -------------------------------------------------------------------------------------------------------


def new_columns(record: FutureRecord) -> dict[str, Any]:
    """Return the columns of a record that is submitted, without its call, as JSON may have them.

    Raises:
        ValueError, TypeError: a value cannot be JSON.
    """
    columns = {name: column_of(name, getattr(record, name)) for name in _FIELDS}
    if not record.id:
        columns["id"] = None
    return columns


def column_of(name: str, value: Any) -> Any:
    """Return the column of a record's field.

    Raises:
        ValueError, TypeError: it cannot be JSON.
    """
    if name in _OBJECTS:
        return encode(dict(value)).decode() if value else _NOTHING
    if value is None:
        return None
    if name in _TEXTS:
        return escaped(value)
    if name == "state":
        return State(value).value
    if name == "failure":
        return failure_json(value).decode()
    if name == "waits":
        return waits_json(value).decode() if value else None
    return encode(value).decode() if name == "round" else value


def effect_json(effect: Effect, stops: bool = False) -> str:
    """Return the column of an effect, and of whether a failure before it cancels the call."""
    reads, writes = [list(path) for path in effect.reads], [list(path) for path in effect.writes]
    return encode({"reads": reads, "writes": writes, "source": effect.source, "stops": stops}).decode()


def _effect_of(column: str) -> tuple[Effect, bool]:
    found: Mapping[str, Any] = parse(column)
    reads, writes = (tuple(tuple(path) for path in found[name]) for name in ("reads", "writes"))
    return Effect(reads, writes, found["source"]), found.get("stops") is True


def row_of(columns: Sequence[Any]) -> Row:
    """Return the row in the columns `SELECTED`, and the call where its JSON follows.

    Raises:
        ValueError, TypeError, KeyError: it does not have the content that this program writes.
    """
    seq, owner, worker, cancelled, effect = columns[:_BEFORE]
    end = _BEFORE + len(_FIELDS)
    values: dict[str, Any] = dict(zip(_FIELDS, columns[_BEFORE:end], strict=True))
    for name in _TEXTS:
        if values[name] is not None:
            values[name] = unescaped(values[name])
    for name in _OBJECTS:
        values[name] = {} if values[name] == _NOTHING else parse(values[name])
    values["state"] = State(values["state"])
    if values["round"] is not None:
        values["round"] = parse(values["round"])
    if values["failure"] is not None:
        values["failure"] = failure_of(values["failure"])
    values["waits"] = () if values["waits"] is None else waits_of(values["waits"])
    if len(columns) > end and columns[end] is not None:
        values["call"] = call_of(columns[end])
    paths, stops = _effect_of(effect)
    return Row(seq, FutureRecord(**values), paths, owner, worker, cancelled, stops)


def readable(found: Iterable[Sequence[Any]]) -> list[Row]:
    """Return the rows in columns, without those that are damaged, which are logged."""
    rows: list[Row] = []
    for columns in found:
        try:
            rows.append(row_of(columns))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            logger.warning("future %s in the database cannot be read and is left out: %s", columns[0], exc)
    return rows
