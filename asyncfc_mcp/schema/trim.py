"""Removal of schema parts from listings that cost tokens and contain nothing for a model.

Pure: no I/O, and arguments are never changed in place.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.schema.json_types import Schema, is_array, is_object

_SAME_EVERYWHERE: Final = re.compile(r"https?://json-schema\.org/draft(-07|/2019-09|/2020-12)/schema#?")
_DIALECTAL: Final = frozenset(
    {"additionalItems", "dependencies", "$recursiveRef", "$recursiveAnchor", "$anchor", "$id"}
)


def without_dialect(schema: Mapping[str, Any]) -> Schema:
    """Return the schema without `$schema` if it means the same in all dialects that servers use; else unchanged.

    Each tool of a TypeScript server names its dialect, which costs as many tokens as both of the bridge's arguments.
    Only for listings: arguments are validated against the server's own schema.
    """
    dialect = schema.get("$schema")
    if not isinstance(dialect, str) or not _SAME_EVERYWHERE.fullmatch(dialect):
        return dict(schema)
    todo: list[object] = [schema]
    while todo:
        part = todo.pop()
        if is_array(part):
            todo += part
        elif is_object(part):
            # An array of schemas for `items` is a tuple in one dialect and invalid in another.
            if part.keys() & _DIALECTAL or is_array(part.get("items")):
                return dict(schema)
            todo += part.values()
    return {key: value for key, value in schema.items() if key != "$schema"}


_ARGUMENTS: Final = re.compile(r"(?:arguments|args|parameters|params|input)$")
_SEPARATORS: Final = re.compile(r"[\W_]+")


def without_echo(schema: Mapping[str, Any], name: str) -> Schema:
    """Return the schema without the root's `title` if that only means "arguments of `name`"; else unchanged.

    The Python SDK generates one from each function's name (`statusArguments` for a tool `git_status`), pydantic from a
    model's (`GitStatus`), which costs a third of the tokens of both of the bridge's arguments. Titles with a space or
    other words are hand-written, and titles of parameters appear in forms of hosts, so these are kept.
    """
    title = schema.get("title")
    if not isinstance(title, str) or not title.isidentifier():
        return dict(schema)
    stem = _ARGUMENTS.sub("", _SEPARATORS.sub("", title).casefold())
    if not stem or not _SEPARATORS.sub("", name).casefold().endswith(stem):
        return dict(schema)
    return {key: value for key, value in schema.items() if key != "title"}
