"""Overrides of what a server lists of its tools: names, descriptions, annotations and arguments.

Owns their values and their reading, and refuses overrides that contradict each other. Applying them to a listing is
left to `core.overridden_tools`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from asyncfc_mcp.config.checker import Checker, kind_of, shown
from asyncfc_mcp.errors import nearest
from asyncfc_mcp.redaction import SHORTEST_SECRET, is_secret_name, looks_like_token

NO_VALUE: Final[Any] = object()
"""No value, as distinct from `None`, which is JSON's null."""
OVERRIDES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "name": (
            "string",
            "Name of the tool in place of the server's own: letters, digits, `_` and `-`. The server's prefix stays.",
        ),
        "title": ("string", "Title in place of the server's own."),
        "description": ("string", "Description in place of the server's own. The shape of results is added to it."),
        "annotations": (
            "object",
            "`title`, `readOnlyHint`, `destructiveHint`, `idempotentHint`, `openWorldHint`: each replaces the "
            "server's, `null` removes it. They apply to hosts, which run read-only tools in parallel, and in the "
            "bridge wherever annotations do: order, retries, references.",
        ),
        "arguments": (
            "object: argument → override",
            "`value`: what is sent if the caller gives nothing; variables such as `${NAME}` are expanded. "
            "`hidden: true`: the argument is not listed, and callers cannot set it. `description`: in place of the "
            "server's own.",
        ),
    }
)
"""Override of a tool → values and documentation."""
HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ARGUMENT_KEYS: Final = ("value", "hidden", "description")


@dataclass(frozen=True, slots=True)
class ArgumentOverride:
    """Override of one argument of a tool."""

    value: Any = field(default=NO_VALUE, repr=False)
    """Value that is sent: always if it is hidden, else as the default. May be a secret."""
    hidden: bool = False
    description: str | None = None
    secret: bool = False
    """The value contains a variable, so that it must not be listed as a default."""


@dataclass(frozen=True, slots=True)
class ToolOverride:
    """Override of one tool of a server."""

    name: str | None = None
    title: str | None = None
    description: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: Mapping[str, ArgumentOverride] = field(default_factory=dict[str, ArgumentOverride])

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts in the values that must not appear in any message, longest first: those with variables, those of
        arguments with the name of a secret, and those in the form of a token."""
        found = {
            text
            for name, argument in self.arguments.items()
            for text in _texts(argument.value)
            if len(text) >= SHORTEST_SECRET and (argument.secret or is_secret_name(name) or looks_like_token(text))
        }
        return tuple(sorted(found, key=len, reverse=True))


class OverrideReader:
    """Reads the overrides of tools in one file. Each method raises `ConfigError` for an invalid one."""

    def __init__(self, check: Checker) -> None:
        self._check = check

    def read(self, key: str, value: Any, path: str) -> Any:
        """Return the checked value of one override; variables in it are not expanded."""
        check = self._check
        match key:
            case "annotations":
                return self._annotations(value, path)
            case "arguments":
                table = cast("dict[str, Any]", check.typed(value, path, dict, "an object: argument → its override"))
                return {name: self._argument(item, f"{path}.{name}") for name, item in table.items()}
            case "name":
                text = check.typed(value, path, str, "a string")
                if not _NAME.fullmatch(text):
                    expected = "a letter, then letters, digits, '_' or '-', at most 64 in all"
                    raise check.fail(path, f"found {shown(text)}", expected)
                return text
            case _:
                return check.typed(value, path, str, "a string")

    def _annotations(self, value: Any, path: str) -> dict[str, Any]:
        check = self._check
        table = cast("dict[str, Any]", check.typed(value, path, dict, "an object of annotations"))
        for key, item in table.items():
            here = f"{path}.{key}"
            self._known(key, here, ("title", *HINTS))
            if item is not None:
                check.typed(
                    item, here, *((str, "a string or null") if key == "title" else (bool, "true, false or null"))
                )
        if table.get("readOnlyHint") is True and table.get("destructiveHint") is True:
            both = 'found "readOnlyHint": true and "destructiveHint": true'
            raise check.fail(path, both, "at most one of the two")
        return table

    def _argument(self, value: Any, path: str) -> ArgumentOverride:
        check = self._check
        if not isinstance(value, dict):  # the value itself is not shown: it may be a secret in the wrong place
            raise check.fail(path, f"found {kind_of(value)}", 'an object with "value", "hidden" or "description"')
        table = cast("dict[str, Any]", value)
        for key in table:
            self._known(key, f"{path}.{key}", _ARGUMENT_KEYS)
        hidden = check.typed(table.get("hidden", False), f"{path}.hidden", bool, "true or false")
        description = table.get("description")
        if description is not None:
            check.typed(description, f"{path}.description", str, "a string")
            if hidden:
                raise check.fail(path, 'found "hidden": true and "description"', "at most one of the two")
        return ArgumentOverride(table.get("value", NO_VALUE), hidden, description)

    def _known(self, key: str, path: str, known: tuple[str, ...]) -> None:
        if key not in known:
            close = nearest(key, known, at_most=1)
            expected = repr(close[0]) if close else f"one of {', '.join(known)}"
            raise self._check.fail(path, f"unknown key {key!r}", expected)

    # --- of one server -------------------------------------------------------------------------------------------

    def overrides(self, tools: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, ToolOverride]:
        """Return the overrides among the settings of a server's tools, unexpanded."""
        found = {
            tool: ToolOverride(**own)
            for tool, section in tools.items()
            if (own := {key: value for key, value in section.items() if key in OVERRIDES})
        }
        names: dict[str, str] = {}
        for tool, override in found.items():
            here = f"{path}.{tool}"
            title, annotated = override.title, override.annotations.get("title")
            if title is not None and annotated is not None and title != annotated:
                both = 'found "title" and another "annotations.title"'
                raise self._check.fail(here, both, "one of the two, or the same text")
            if override.name is None:
                continue
            other = names.setdefault(override.name.lower(), tool)
            if other == tool and override.name != tool and override.name in tools:
                renamed = found[override.name].name if override.name in found else None
                other = override.name if renamed is None else tool
            if other != tool:
                both = f"found {override.name!r}, which is the name of {other!r} as well"
                raise self._check.fail(f"{here}.name", both, f"another name for {tool!r} or {other!r}")
        return found

    def expanded(
        self, overrides: Mapping[str, ToolOverride], path: str, env: Mapping[str, str]
    ) -> dict[str, ToolOverride]:
        """Return the overrides with the variables in values expanded.

        Args:
            env: the server's own `env`, which takes precedence.
        """
        variables = self._check.variables().of_entry(env)
        done: dict[str, ToolOverride] = {}
        for tool, override in overrides.items():
            arguments: dict[str, ArgumentOverride] = {}
            for name, argument in override.arguments.items():
                here = f"{path}.{tool}.arguments.{name}.value"
                value = _mapped(argument.value, lambda text, here=here: self._check.expanded(text, here, variables))
                arguments[name] = ArgumentOverride(
                    value, argument.hidden, argument.description, secret=value != argument.value
                )
            done[tool] = ToolOverride(
                override.name, override.title, override.description, override.annotations, arguments
            )
        return done


def _mapped(value: Any, text: Callable[[str], str]) -> Any:
    """Return a JSON value with every text in it replaced."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_mapped(item, text) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _mapped(item, text) for key, item in cast("dict[str, Any]", value).items()}
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    return [text for item in cast("list[Any]", value) for text in _texts(item)] if isinstance(value, list) else []
