"""Routes of calls: the listing entry of a tool with the values derived from it once.

Pure. Owns the check and the effect of a tool, and text arguments that stand for something else. Leaves what is listed
to `catalog`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from asyncfc_mcp.core import references
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.effect_profiles import EffectProfile, ToolProfile
from asyncfc_mcp.core.effects import Effect, EffectTemplate, declared_effect
from asyncfc_mcp.core.read_only_exceptions import barrier_reason
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.schema.expect import expected
from asyncfc_mcp.schema.json_types import json_type, parse_json
from asyncfc_mcp.schema.validate import Validator


@dataclass(frozen=True, slots=True)
class ToolRoute:
    """A tool with the values derived from its entry: its effect and the check of its arguments."""

    entry: ToolEntry
    effect: EffectTemplate
    validator: Validator
    loosened: "Loosened"
    fixed_effect: Effect | None
    """The effect of every call, where it does not depend on the arguments."""
    profile: ToolProfile | None = None
    """What the profile of its server says of the tool."""

    @property
    def ordered(self) -> bool:
        """True if a call can read or write state, as far as that is known without its arguments."""
        fixed = self.fixed_effect
        return fixed is None or bool(fixed.reads or fixed.writes)

    @classmethod
    def of(cls, entry: ToolEntry, state: ServerState, profile: EffectProfile | None = None) -> "ToolRoute":
        policy = entry.policy
        barrier = barrier_reason(entry.raw) if entry.read_only else None
        known = _described(entry, profile)
        effect = declared_effect(state, policy.reads, policy.writes, policy.ordering, entry.annotations, barrier, known)
        return cls(
            entry,
            effect,
            Validator(entry.input_schema),
            Loosened(entry),
            effect.bind({}, lambda value: False) if effect.is_fixed else None,
            known,
        )

    def is_current(self, entry: ToolEntry, profile: EffectProfile | None) -> bool:
        """Return true where neither the entry nor what the profile says of it has changed."""
        return self.entry is entry and self.profile == _described(entry, profile)


def _described(entry: ToolEntry, profile: EffectProfile | None) -> ToolProfile | None:
    if profile is None:
        return None
    return profile.tool(entry.raw, entry.preset.hidden if entry.preset is not None else frozenset())


def unknown_placeholders(route: ToolRoute) -> list[str]:
    """Return arguments in declared state paths that the tool does not have; such a path is the same for every call."""
    properties = route.entry.input_schema.get("properties")
    if not isinstance(properties, dict) or route.entry.input_schema.get("additionalProperties") not in (None, False):
        return []
    known = {*cast("dict[str, Any]", properties), *(route.entry.preset.fixed if route.entry.preset else ())}
    if route.effect.source == "profile":  # optional arguments that another version of the server has
        return []
    return sorted(name for name in route.effect.placeholders if name.partition(".")[0] not in known)


class Loosened:
    """Arguments for which the listed schema also allows text, while the server's own schema does not.

    Each is looked up when a call has it: a server may list 10,000 tools, and few of them are called.
    """

    __slots__ = ("_entry", "_types")

    def __init__(self, entry: ToolEntry) -> None:
        self._entry = entry
        self._types: dict[str, frozenset[str] | None] | None = None

    def types(self, name: str) -> frozenset[str] | None:
        """Return the types of an argument in the server's schema; None if text is among them, or nothing is known."""
        if self._types is None:
            properties = self._entry.input_schema.get("properties")
            same = self._entry.listed.get("inputSchema") == self._entry.raw.get("inputSchema")
            declared = cast("dict[str, Any]", properties) if isinstance(properties, dict) and not same else {}
            self._types = dict.fromkeys(declared, _NOT_LOOKED_UP)
        types = self._types.get(name)
        if types is _NOT_LOOKED_UP:
            types = expected(self._entry.input_schema, [name]).types
            self._types[name] = types = None if types is None or "string" in types else types
        return types


_NOT_LOOKED_UP: Final[frozenset[str]] = frozenset({"not looked up"})


def as_typed(
    arguments: dict[str, Any] | None, loosened: Loosened, bindings: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the arguments with text parsed as JSON where the server's schema requires a number, a list and so on.

    Clients convert typed text to the type in a schema (the Inspector's `--tool-arg seconds=2`). The listed schema also
    allows text, for references; without this conversion a tool would get `"2"` where a direct call sends `2`.
    """
    typed = arguments
    for name, value in (arguments or {}).items():
        if not isinstance(value, str) or (types := loosened.types(name)) is None:
            continue
        if references.is_reference(value, bindings.get):
            continue
        try:
            parsed = parse_json(value)
        except (ValueError, RecursionError):
            continue
        if json_type(parsed) in types:
            typed = {**(typed or {}), name: parsed}
    return typed
