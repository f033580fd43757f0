"""JSON of the parts of a record: calls, failures, effects, waits, and open questions.

Owns what stands in the journal's file and in the database for them. Pure: `journal.rows` and `postgres.rows` own the
columns.
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final, cast

from pydantic_core import from_json

from asyncfc_mcp.core.records import CallRecord, FailureRecord
from asyncfc_mcp.core.waits import Wait, WaitKind
from asyncfc_mcp.values.text import encode

_CALL_FIELDS: Final = tuple(each.name for each in fields(CallRecord))
_FAILURE_FIELDS: Final = tuple(each.name for each in fields(FailureRecord))
_KINDS: Final = {kind.value: kind for kind in WaitKind}


def parse(text: str | bytes) -> Any:
    """Parse JSON that `values.text.encode` wrote.

    Raises:
        ValueError, RecursionError: it is damaged.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return json.loads(text)  # lone surrogates, deep nesting


def call_json(call: CallRecord) -> bytes:
    """Return a call as JSON.

    Raises:
        ValueError, TypeError: a value cannot be JSON.
    """
    values = {name: getattr(call, name) for name in _CALL_FIELDS}
    values["reads"], values["writes"] = [list(path) for path in call.reads], [list(path) for path in call.writes]
    return encode(values)


def call_of(text: str | bytes) -> CallRecord:
    """Return a call from its JSON.

    Raises:
        ValueError, TypeError, RecursionError: it is damaged.
    """
    values = _known(text, _CALL_FIELDS)
    for name in ("reads", "writes"):
        values[name] = tuple(tuple(path) for path in values.get(name, ()))
    return CallRecord(**values)


def failure_json(failure: FailureRecord) -> bytes:
    """Return a failure as JSON.

    Raises:
        ValueError, TypeError: a value cannot be JSON.
    """
    return encode({name: getattr(failure, name) for name in _FAILURE_FIELDS})


def failure_of(text: str | bytes) -> FailureRecord:
    """Return a failure from its JSON.

    Raises:
        ValueError, TypeError, RecursionError: it is damaged.
    """
    return FailureRecord(**_known(text, _FAILURE_FIELDS))


def waits_json(waits: Iterable[Wait]) -> bytes:
    """Return what a call has waited for as JSON: kind and ID of each, with the path where there is one."""
    return encode([[each.kind.value, each.on, *([each.path] if each.path else [])] for each in waits])


def waits_of(text: str | bytes) -> tuple[Wait, ...]:
    """Return what a call has waited for, without kinds that only a newer program knows.

    Raises:
        ValueError, TypeError: it is damaged.
    """
    found = cast("list[list[str]]", parse(text))
    waits = tuple(Wait(_KINDS[kind], *rest) for kind, *rest in found if kind in _KINDS)
    if not all(isinstance(text, str) for wait in waits for text in (wait.on, wait.path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("a wait has a part that is no text")
    return waits


def _known(text: str | bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of an object, without those that a newer program has added."""
    found = parse(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return {name: value for name, value in cast("dict[str, Any]", found).items() if name in names}
