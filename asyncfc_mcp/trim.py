"""Schema parts that say nothing to a model, left out of what is listed.

Pure: no I/O, and nothing given is ever changed in place.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.json_types import Schema, is_array, is_object

_SAME_EVERYWHERE: Final = re.compile(r"https?://json-schema\.org/draft(-07|/2019-09|/2020-12)/schema#?")
_DIALECTAL: Final = frozenset(
    {"additionalItems", "dependencies", "$recursiveRef", "$recursiveAnchor", "$anchor", "$id"}
)


def without_dialect(schema: Mapping[str, Any]) -> Schema:
    """The schema without `$schema`, where it means the same in every dialect that servers use; else as it is.

    Each tool of a TypeScript server names its dialect, in as many tokens as both of our own arguments take. It is for
    the list only: arguments are checked against the schema as the server gave it.
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
            # An array of schemas for `items` is a tuple in one dialect and nothing in another.
            if part.keys() & _DIALECTAL or is_array(part.get("items")):
                return dict(schema)
            todo += part.values()
    return {key: value for key, value in schema.items() if key != "$schema"}


_ARGUMENTS: Final = re.compile(r"(?:arguments|args|parameters|params|input)$")
_SEPARATORS: Final = re.compile(r"[\W_]+")


def without_echo(schema: Mapping[str, Any], name: str) -> Schema:
    """The schema without the root's `title`, where that only says "arguments of `name`"; else as it is.

    The Python SDK makes one of each function's name (`statusArguments` of a tool `git_status`), pydantic of a model's
    (`GitStatus`), in a third as many tokens as both of our own arguments take. Titles with a space or of other words
    were written by somebody, and those of parameters stand in the forms that hosts show, so all of these stay.
    """
    title = schema.get("title")
    if not isinstance(title, str) or not title.isidentifier():
        return dict(schema)
    stem = _ARGUMENTS.sub("", _SEPARATORS.sub("", title).casefold())
    if not stem or not _SEPARATORS.sub("", name).casefold().endswith(stem):
        return dict(schema)
    return {key: value for key, value in schema.items() if key != "title"}
