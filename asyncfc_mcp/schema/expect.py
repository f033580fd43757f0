"""Expected types at a position of a tool's arguments, according to its input schema.

Pure: no I/O, and no `$ref` is ever fetched. Broken, endless or unknown parts of a schema count as "anything".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncfc_mcp.schema.json_types import Schema, is_array, is_object, json_type
from asyncfc_mcp.schema.patterns import matches
from asyncfc_mcp.schema.walk import at_pointer, pointer_of

_PATTERN_VISITS: Final = 20
"""Visits that one pattern costs: it has to be compiled."""
_MAX_COMPARED: Final = 32
"""Maximum parts of one schema that are compared with each other; the comparison is quadratic."""
_MAX_VISITS: Final = 2_000
"""Maximum sub-schemas that are visited for one position; recursive schemas are endless."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Types that a schema expects at one position."""

    types: frozenset[str] | None
    """JSON Schema types; `number` never without `integer`. None for any type, or where it is unknown."""
    base64: bool = False
    """True for text that encodes binary data."""

    def __str__(self) -> str:
        if self.types is None:
            return "any value"
        shown = self.types - {"integer"} if "number" in self.types else self.types
        return " or ".join(sorted(shown)) or "nothing"


ANYTHING: Final = Expected(None)
_NUMBER: Final = frozenset({"number", "integer"})


def expected(schema: Mapping[str, Any] | None, path: Sequence[str | int]) -> Expected:
    """Return the types that `schema` expects at `path`, from its local `$ref`s, combinations and property patterns.

    Never raises: broken, endless or unknown parts count as "anything".
    """
    if schema is None:
        return ANYTHING
    try:
        return _Lookup(schema).at(path)
    except RecursionError:
        return ANYTHING


class _Lookup:
    """Walk down one schema, with a bound on the visited sub-schemas."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_VISITS

    def at(self, path: Sequence[str | int]) -> Expected:
        here: Any = self._root
        for key in path:
            here = self._child(here, key, ())
        return self._expected(here, ())

    def _follow(self, schema: Schema, seen: tuple[str, ...]) -> tuple[Any, tuple[str, ...]] | None:
        """Return the target of the schema's `$ref`; None if it is absent, not local, or part of a cycle."""
        ref = schema.get("$ref")
        pointer = pointer_of(ref)
        if pointer is None or not isinstance(ref, str) or ref in seen:
            return None
        return at_pointer(self._root, pointer), (*seen, ref)

    def _child(self, schema: Any, key: str | int, seen: tuple[str, ...]) -> Any:
        """Return a schema for the value under `key`: parts that all apply joined by `allOf`, alternatives by `anyOf`.

        None where the schema allows no value there, which excludes an alternative.
        """
        self._left -= 1
        if self._left < 0 or not is_object(schema):
            return {}
        declared = schema.get("type")
        container = "object" if isinstance(key, str) else "array"
        if isinstance(declared, str | list) and container not in declared:
            return None
        parts: list[Any] = []
        for part in self._own_children(schema, key):
            if part is False:
                return None
            parts.append(part)
        if (target := self._follow(schema, seen)) is not None:
            parts.append(self._child(target[0], key, target[1]))
        if is_array(every := schema.get("allOf")):
            parts += [self._child(sub, key, seen) for sub in every]
        for word in ("anyOf", "oneOf"):
            if is_array(some := schema.get(word)):
                found = _distinct(child for sub in some if (child := self._child(sub, key, seen)) is not None)
                if found:
                    parts.append(found[0] if len(found) == 1 else {"anyOf": found})
        if any(part is None for part in parts):
            return None
        parts = _distinct(part for part in parts if part and part is not True)
        return {"allOf": parts} if len(parts) > 1 else parts[0] if parts else {}

    def _own_children(self, schema: Schema, key: str | int) -> Iterator[Any]:
        if isinstance(key, int):
            first = schema.get("prefixItems")
            rest: Any = schema.get("items", True)
            if is_array(rest):
                first, rest = rest, schema.get("additionalItems", True)
            yield first[key] if is_array(first) and key < len(first) else rest
            return
        matched = False
        if is_object(properties := schema.get("properties")) and key in properties:
            matched = True
            yield properties[key]
        if is_object(patterns := schema.get("patternProperties")):
            for pattern, sub in patterns.items():
                self._left -= _PATTERN_VISITS
                if self._left >= 0 and matches(pattern, key):
                    matched = True
                    yield sub
        if not matched:
            yield schema.get("additionalProperties", True)

    def _expected(self, schema: Any, seen: tuple[str, ...]) -> Expected:
        self._left -= 1
        if self._left < 0 or not is_object(schema):
            return ANYTHING
        base64 = schema.get("contentEncoding") == "base64" or schema.get("format") in ("byte", "binary", "base64")
        types = _own_types(schema)
        every: list[Any] = list(schema["allOf"]) if is_array(schema.get("allOf")) else []
        parts = [self._expected(sub, seen) for sub in every]
        if (target := self._follow(schema, seen)) is not None:
            parts.append(self._expected(*target))
        for word in ("anyOf", "oneOf"):
            if is_array(some := schema.get(word)) and some:
                branches = [self._expected(sub, seen) for sub in some]
                union: frozenset[str] | None = frozenset()
                for branch in branches:
                    union = None if union is None or branch.types is None else union | branch.types
                parts.append(Expected(union, any(branch.base64 for branch in branches)))
        for part in parts:
            base64 = base64 or part.base64
            if part.types is not None:
                types = part.types if types is None else types & part.types
        return Expected(types, base64)


def _own_types(schema: Schema) -> frozenset[str] | None:
    """Return the types that the schema's own keywords allow; without `type`, inferred from other keywords."""
    declared = schema.get("type")
    names: list[Any] = [declared] if isinstance(declared, str) else declared if is_array(declared) else []
    if not names:
        if "const" in schema:
            names = [json_type(schema["const"])]
        elif is_array(schema.get("enum")):
            names = [json_type(value) for value in schema["enum"]]
        elif schema.keys() & {"properties", "required", "additionalProperties"}:
            names = ["object"]
        elif schema.keys() & {"items", "prefixItems"}:
            names = ["array"]
        elif schema.keys() & {"pattern", "minLength", "maxLength", "contentEncoding"}:
            names = ["string"]
        else:
            return None
    types = frozenset(name for name in names if isinstance(name, str))
    return types | _NUMBER if "number" in types else types


def _distinct(parts: Iterator[Any]) -> list[Any]:
    """Return parts without duplicates: branches of a recursive schema recur at every level, and would double each
    time."""
    kept: list[Any] = []
    for part in parts:
        if len(kept) > _MAX_COMPARED or not any(part is other or part == other for other in kept):
            kept.append(part)
    return kept
