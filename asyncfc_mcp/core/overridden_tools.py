"""Tools as the configuration overrides them: the entry of a server's listing, and the arguments put into each call.

Pure. Owns what becomes of an entry and of arguments; `config.overrides` reads the overrides. Values are put in by the
executor, right before a call is sent, so that no record of a call contains a hidden one.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from asyncfc_mcp.config.overrides import NO_VALUE, ArgumentOverride, ToolOverride
from asyncfc_mcp.redaction import HIDDEN, SHORTEST_SECRET
from asyncfc_mcp.schema.expect import expected
from asyncfc_mcp.schema.json_types import Schema, is_array, is_object, json_type, parse_json
from asyncfc_mcp.schema.reserved import same_value
from asyncfc_mcp.schema.walk import all_schemas, pointer_of
from asyncfc_mcp.values.large import is_large

Json = dict[str, Any]
MASK: Final[Any] = object()
"""Stands for a value that the configuration gives."""
_LONGEST_PIECE: Final = 60
"""Characters of a secret that are looked for where only its beginning or its end is quoted."""
_DEFINITIONS: Final = ("$defs", "definitions")


@dataclass(frozen=True, slots=True)
class Preset:
    """Arguments that the configuration gives to the calls of a tool. The values may be secrets."""

    hidden: frozenset[str] = frozenset()
    """Arguments that callers cannot set."""
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Values of hidden arguments."""
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Values of other arguments, for calls without one."""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def of_caller(self, arguments: Json | None) -> Json | None:
        """Return the arguments without those that callers cannot set."""
        if arguments is None or self.hidden.isdisjoint(arguments):
            return arguments
        return {name: value for name, value in arguments.items() if name not in self.hidden}

    def filled(self, arguments: Json | None) -> Json:
        """Return the arguments as they are sent."""
        return {**self.defaults, **(self.of_caller(arguments) or {}), **self.fixed}

    def masked(self, arguments: Json | None) -> Json:
        """Return the arguments as they are sent, with `MASK` for those that the caller did not give."""
        own = self.of_caller(arguments) or {}
        return {**dict.fromkeys((*self.defaults, *self.fixed), MASK), **own}

    def without_secrets(self, value: Any) -> Any:
        """See `without_values`."""
        return without_values(value, self.secrets)


def without_values(value: Any, secrets: Sequence[str]) -> Any:
    """Return a JSON value, of an error, in which no text contains a secret or a longer piece of one: servers quote what
    they refuse, some of it shortened in the middle."""
    if isinstance(value, str):
        for secret in secrets:
            value = _without(value, secret)
        return value
    if isinstance(value, list):
        return [without_values(item, secrets) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: without_values(item, secrets) for key, item in cast("Json", value).items()}
    return value


def _without(text: str, secret: str) -> str:
    """Return the text without a secret, and without pieces of it that are its beginning or its end."""
    text = _without_beginning(text.replace(secret, HIDDEN), secret)
    return _without_beginning(text[::-1], secret[::-1])[::-1]


def _without_beginning(text: str, secret: str) -> str:
    if secret[:SHORTEST_SECRET] not in text:
        return text
    more = "".join(f"(?:{re.escape(letter)}" for letter in secret[SHORTEST_SECRET:_LONGEST_PIECE])
    pattern = re.escape(secret[:SHORTEST_SECRET]) + more + ")?" * len(secret[SHORTEST_SECRET:_LONGEST_PIECE])
    return re.sub(pattern, HIDDEN, text)


@dataclass(frozen=True, slots=True)
class OverriddenTool:
    """Entry of a server's listing with its overrides applied."""

    raw: Json
    preset: Preset | None = None
    notes: tuple[str, ...] = ()
    """What is overridden, for `inspect`, without values."""
    misfits: tuple[str, ...] = ()
    """Overrides that do not apply to this tool."""


def overridden(raw: Json, override: ToolOverride) -> OverriddenTool:
    """Return a tool as it is overridden, but for its name, which stays the server's."""
    entry = dict(raw)
    changed = [key for key in ("title", "description") if getattr(override, key) is not None]
    entry |= {key: getattr(override, key) for key in changed}
    annotations: object = raw.get("annotations")
    hints = dict(cast("Json", annotations)) if isinstance(annotations, dict) else {}
    own = dict(override.annotations)
    if override.title is not None and "title" in hints:
        own = {"title": override.title, **own}  # some clients read only this one
    if own:
        hints = {key: value for key, value in {**hints, **own}.items() if value is not None}
        entry["annotations"] = hints
    notes = [f"{' and '.join([*changed, *(['annotations'] if override.annotations else [])])} overridden"]
    notes = notes if changed or override.annotations else []
    if not override.arguments:
        return OverriddenTool(entry, None, tuple(notes))
    if is_large(raw.get("inputSchema")):
        misfit = "arguments, but its input schema is too large to be changed"
        return OverriddenTool(entry, None, tuple(notes), (misfit,))
    schema, preset, of_arguments, misfits = _with_arguments(raw.get("inputSchema"), override)
    entry["inputSchema"] = schema
    return OverriddenTool(entry, preset, (*notes, *of_arguments), tuple(misfits))


def _with_arguments(written: object, override: ToolOverride) -> tuple[Schema, Preset | None, list[str], list[str]]:
    """Return the schema without hidden arguments, the values, and remarks on what applies and what does not."""
    schema: Schema = json.loads(json.dumps(written)) if is_object(written) else {"type": "object"}
    parts = [part for part in same_value(schema) if _is_readable(part)]
    notes: list[str] = []
    misfits: list[str] = []
    hidden: list[str] = []
    fixed: Json = {}
    defaults: Json = {}
    for name, argument in override.arguments.items():
        if not _exists(name, parts):
            misfits.append(f"argument {name!r}, which it does not have")
            continue
        value, wrong = _typed(argument, schema, name)
        if wrong:
            misfits.append(f"argument {name!r}, {wrong}")
        if argument.hidden:
            if value is NO_VALUE and any(name in part.get("required", ()) for part in parts):
                misfits.append(f"argument {name!r}, which is required: it cannot be hidden without a value")
                continue
            hidden.append(name)
            if value is not NO_VALUE:
                fixed[name] = value
        elif value is not NO_VALUE:
            defaults[name] = value
        _describe(parts, name, argument, value)
        notes.append(_note(name, argument, value))
    for name in hidden:
        _remove(parts, name)
    if hidden:
        _prune(schema)
    preset = Preset(frozenset(hidden), fixed, defaults, override.secrets) if hidden or defaults else None
    return schema, preset, notes, misfits


def _note(name: str, argument: ArgumentOverride, value: Any) -> str:
    done = ["hidden"] if argument.hidden else []
    done += ["with a fixed value" if argument.hidden else "with a default"] if value is not NO_VALUE else []
    done += ["described anew"] if argument.description is not None else []
    return f"argument {name}: {', '.join(done) or 'unchanged'}"


def _is_readable(part: Schema) -> bool:
    return is_object(part.get("properties", {})) and is_array(part.get("required", []))


def _exists(name: str, parts: Iterable[Schema]) -> bool:
    """Return true for a declared argument, and for any if the tool declares none or expressly accepts others."""
    parts = list(parts)
    if any(name in part.get("properties", {}) or name in part.get("required", ()) for part in parts):
        return True
    others = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
    if False in others:
        return False
    return bool(others) or not any(part.get("properties") for part in parts)


def _typed(argument: ArgumentOverride, schema: Schema, name: str) -> tuple[Any, str]:
    """Return the value in a type that the tool accepts, and a remark if there is none. Variables are text, and a tool
    may want a number."""
    value = argument.value
    types = expected(schema, [name]).types if value is not NO_VALUE else None
    if types is None or json_type(value) in types or (json_type(value) == "integer" and "number" in types):
        return value, ""
    if isinstance(value, str):
        try:
            parsed = parse_json(value)
        except (ValueError, RecursionError):
            parsed = NO_VALUE
        if parsed is not NO_VALUE and json_type(parsed) in types:
            return parsed, ""
    return value, f"whose value is of type {json_type(value)}: the tool expects {' or '.join(sorted(types))}"


def _describe(parts: Iterable[Schema], name: str, argument: ArgumentOverride, value: Any) -> None:
    """Put description and default into the declarations of an argument that stays listed."""
    for part in parts:
        if value is not NO_VALUE and name in part.get("required", ()):
            _remove_required(part, name)
        if name not in part.get("properties", {}) or argument.hidden:
            continue
        declared = part["properties"][name]
        declared = dict(declared) if is_object(declared) else {}
        if argument.description is not None:
            declared["description"] = argument.description
        if value is not NO_VALUE and not argument.secret:
            declared["default"] = value
        elif value is not NO_VALUE:
            declared.pop("default", None)
        part["properties"][name] = declared


def _remove_required(part: Schema, name: str) -> None:
    part["required"] = [each for each in part["required"] if each != name]
    if not part["required"]:
        del part["required"]


def _remove(parts: Iterable[Schema], name: str) -> None:
    """Remove an argument from every schema that applies to the arguments as a whole."""
    for part in parts:
        part.get("properties", {}).pop(name, None)
        if name in part.get("required", ()):
            _remove_required(part, name)
        if type(least := part.get("minProperties")) is int and least > 0:
            part["minProperties"] = least - 1
        for word in ("dependentRequired", "dependentSchemas", "dependencies"):
            if is_object(group := part.get(word)):
                group.pop(name, None)
                for key, needed in group.items():
                    if is_array(needed):
                        group[key] = [each for each in needed if each != name]


def _prune(root: Schema) -> None:
    """Remove definitions that nothing refers to any longer, since they belong to removed arguments."""
    for _ in range(20):
        try:
            used = {pointer[:2] for _, part in all_schemas(root) if (pointer := pointer_of(part.get("$ref")))}
        except RecursionError:
            return
        unused = [
            (word, name)
            for word in _DEFINITIONS
            if is_object(root.get(word))
            for name in root[word]
            if (word, name) not in used
        ]
        if not unused:
            return
        for word, name in unused:
            del root[word][name]
            if not root[word]:
                del root[word]


def own_names(tools: Iterable[str], overrides: Mapping[str, ToolOverride]) -> tuple[dict[str, str], list[str]]:
    """Return the name of each tool of a server without the server's part, and remarks on names that two tools would
    have: then neither is renamed, so that each name of the server keeps its meaning."""
    tools = list(tools)
    wanted = {tool: override.name for tool in tools if (override := overrides.get(tool)) and override.name is not None}
    remarks: list[str] = []
    while wanted:
        taken: dict[str, list[str]] = {}
        for tool in tools:
            taken.setdefault(wanted.get(tool, tool).lower(), []).append(tool)
        clashes = [tool for tool in wanted if len(taken[wanted[tool].lower()]) > 1]
        if not clashes:
            break
        for tool in clashes:
            others = [each for each in taken[wanted[tool].lower()] if each != tool]
            remarks.append(f"tool {tool!r} is not renamed to {wanted[tool]!r}: that is the name of {others[0]!r}")
        for tool in clashes:
            del wanted[tool]
    return {tool: wanted.get(tool, tool) for tool in tools}, remarks
