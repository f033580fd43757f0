"""Input schemas as they are listed upstream: all that the original takes, and a reference in place of any value.

Pure: no I/O, and nothing given is ever changed in place. Schemas are the downstream's, so nothing here trusts them: one
that is broken, endless or too strange is listed as it is and judged by the downstream alone.
"""

from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.json_types import Pointer, Schema, compact, is_array, is_object, listed
from asyncfc_mcp.walk import ANNOTATIONS, VALUE_KEYWORDS, all_schemas, at_pointer, pointer_of, written

HEADER: Final = "x-mcp-header"
"""Names the HTTP header that repeats an argument (2026-07-28)."""

_REFERENCE_PATTERN: Final = r"\$"
"""What every reference contains: whole ones begin with it, interpolations hold it somewhere."""
_OR_REFERENCE: Final = "|" + _REFERENCE_PATTERN
_SHORTEST_REFERENCE: Final = 2
_LONGEST_REFERENCE: Final = 128
"""Length limits outside of these two stop no reference worth writing, and are left alone."""
_MAX_WORK: Final = 40_000
"""Steps of one rewriting, some 2 µs each."""
_SHAPE_COMBINATIONS: Final = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else")
_SHAPE_KEYWORDS: Final = frozenset(
    (*_SHAPE_COMBINATIONS, "required", "minProperties", "maxProperties", "dependentRequired", "title", "description")
)
_HOST_FORMATS: Final = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference "
    "uri-template uuid json-pointer relative-json-pointer".split()
)
"""Formats that validating hosts are known to enforce; a reference is none of these."""


def admit_references(schema: Mapping[str, Any]) -> Schema:
    r"""The schema to list upstream: everything that `schema` takes, and a reference in place of any value inside of it.

    Hosts may check arguments before they send them, and `"$f3"` is no integer. What is added is paid for in tokens in
    every conversation, so each position gets the shortest form that does:

    - a string without constraints, or anything without a type: as it is;
    - other types: `"string"` joins the type (`["integer","string"]`); keywords of other types ignore strings;
    - a string with a `pattern`: `|\$` joins it;
    - other constraints of strings (`enum`, `const`, `format`, lengths): `anyOf` of them and `{"pattern":"\\$"}`, so
      that the model still reads the choices and a host still refuses other strings. `format`s that hosts do not
      enforce and lengths that stop no reference stay;
    - `anyOf`: whichever is the shortest, a change to one branch or a further branch.

    `oneOf` becomes `anyOf`, because two branches may take the same reference. What a reference could break in both
    directions (`not`, `if`) is left out, unless it only speaks of which keys there are in the root. A constant that
    holds objects or arrays becomes an example. The root takes no reference, keeps its keywords and is of type
    `object`; no `anyOf`, `oneOf` or `allOf` is added there, because hosts refuse them. An argument that clients repeat
    in an HTTP header takes none either.

    The result is only shown and offered to hosts: the original decides before a call is sent. A schema with nested
    `$id`s, dynamic references or no end is returned as it is.

    Raises:
        SchemaTooLarge: it would take longer than a listing may take; no other exception.
    """
    original = dict(schema)
    try:
        return _Admission(original).run()
    except (RecursionError, TypeError, ValueError, AttributeError):
        return original


class SchemaTooLarge(Exception):
    """An input schema has more parts than are rewritten."""


class _Admission:
    """One rewriting of a schema.

    Rewriting moves sub-schemas to other places, which `$ref`s by path must follow (zod writes
    `#/properties/a/anyOf/0`), and may leave things out that decide whether others can stay. So it is done twice: the
    second time with the knowledge of the first.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._moves: dict[Pointer, dict[str, Pointer]] = {}
        """Old place of a schema → keyword → the steps that it has now; of this round."""
        self._settled: dict[Pointer, dict[str, Pointer]] = {}
        """The same, of the round before."""
        self._lost = False
        """Whether something was left out that `unevaluated…` keywords may have counted on."""
        self._anchors: dict[str, Pointer] = {}
        self._found: dict[str, Pointer | None] = {}
        """Old place that each `$ref` leads to."""
        self._targets: set[Pointer] = set()
        """Old places that are referred to from where a reference must be admitted."""
        self._strange = False
        self._left = _MAX_WORK
        self._admitting: dict[int, tuple[Any, bool]] = {}
        """Verdicts of `_admits`, by the schema's identity, with the schema so that it stays the only one of that."""
        self._stringy: dict[int, tuple[Any, bool]] = {}
        """The same of `_takes_strings`."""
        parts: list[tuple[Pointer, Schema]] = []
        for part in all_schemas(root):
            self._spend(3 + len(part[0]) // 8)
            parts.append(part)
        for at, sub in parts:
            if sub.keys() & {"$dynamicRef", "$recursiveRef"} or (at and isinstance(sub.get("$id"), str)):
                self._strange = True
            if isinstance(anchor := sub.get("$anchor"), str):
                self._anchors["#" + anchor] = at
        for at, sub in parts:
            if "$ref" not in sub:
                continue
            target = self._target(sub)
            if target is not None and any(step in VALUE_KEYWORDS or step in ("$defs", "definitions") for step in at):
                self._targets.add(target)

    def run(self) -> Schema:
        if self._strange:
            return self._root
        result = self._inner(self._root, (), top=True)
        if self._moves or self._lost:
            self._settled, self._moves = self._moves, {}
            result = self._inner(self._root, (), top=True)
        if "type" not in result:
            result = {"type": "object", **result}
        return result if self._intact(result) else self._root

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise SchemaTooLarge

    def _target(self, schema: Schema) -> Pointer | None:
        ref = schema.get("$ref")
        if not isinstance(ref, str):
            return None
        if ref not in self._found:
            self._found[ref] = self._anchors[ref] if ref in self._anchors else self._pointed_at(self._root, ref)
        return self._found[ref]

    def _pointed_at(self, root: Schema, ref: str) -> Pointer | None:
        """The pointer of a `$ref`, if there is a schema."""
        self._spend(1 + len(ref) // 8)
        pointer = pointer_of(ref)
        return pointer if pointer is not None and isinstance(at_pointer(root, pointer), dict | bool) else None

    def _moved(self, pointer: Pointer) -> Pointer:
        new: Pointer = ()
        for index, step in enumerate(pointer):
            new += self._settled.get(pointer[:index], {}).get(step, (step,))
        return new

    def _intact(self, result: Schema) -> bool:
        """Whether every `$ref` that led somewhere still does."""
        dangling = self._dangling(result)
        return not dangling or dangling <= self._dangling(self._root)

    def _dangling(self, root: Schema) -> set[str]:
        refs = {ref for _, sub in all_schemas(root) if isinstance(ref := sub.get("$ref"), str)}
        dangling: set[str] = set()
        for ref in refs:
            self._spend(1 + len(ref) // 8)
            if (pointer := pointer_of(ref)) is not None and at_pointer(root, pointer) is None:
                dangling.add(ref)
        return dangling

    # Two modes. `_inner` admits references inside of a schema's value; `_outer` admits one as the value itself, too.

    def _outer(self, schema: Any, at: Pointer) -> Any:
        if not is_object(schema):
            return schema
        if HEADER in schema:
            # Clients repeat it in a header, for which its type must be one of three, alone; else they drop the tool.
            return self._inner(schema, at)
        return self._admit(self._inner(schema, at, branches_outer=True), at)

    def _either(self, schema: Any, at: Pointer, *, outer: bool) -> Any:
        if outer or (at in self._targets):
            return self._outer(schema, at)
        return self._inner(schema, at) if is_object(schema) else schema

    def _inner(self, schema: Schema, at: Pointer, *, top: bool = False, branches_outer: bool = False) -> Schema:
        self._spend(2 + len(schema) + len(at) // 8)
        result: Schema = {}
        for word, value in schema.items():
            new = self._keyword(schema, word, value, at, top=top, outer=branches_outer)
            result.update(new)
        return result

    def _keyword(self, schema: Schema, word: str, value: Any, at: Pointer, *, top: bool, outer: bool) -> Schema:
        """What one keyword of `schema` becomes: usually itself, sometimes another, sometimes nothing."""
        here = (*at, word)
        match word:
            case "properties" | "patternProperties" if is_object(value):
                return {word: {name: self._outer(sub, (*here, name)) for name, sub in value.items()}}
            case "$defs" | "definitions" | "dependentSchemas" | "dependencies" if is_object(value):
                return {word: {name: self._either(sub, (*here, name), outer=False) for name, sub in value.items()}}
            case "prefixItems" | "items" if is_array(value):
                return {word: [self._outer(sub, (*here, str(index))) for index, sub in enumerate(value)]}
            case "items" | "additionalItems" | "contains" | "additionalProperties":
                return {word: self._outer(value, here)}
            case "propertyNames":
                return {word: self._either(value, here, outer=False)}
            case "unevaluatedItems" | "unevaluatedProperties":
                return {} if self._lost else {word: self._outer(value, here)}
            case "allOf" if is_array(value):
                return {word: [self._either(sub, (*here, str(i)), outer=outer) for i, sub in enumerate(value)]}
            case "anyOf" | "oneOf" if is_array(value):
                if top and all(_speaks_of_keys(sub) for sub in value):
                    return {word: value}
                if word == "oneOf" and "anyOf" in schema:
                    self._lost = True
                    return {}
                if word == "oneOf":
                    self._moves[at] = {"oneOf": ("anyOf",)}
                return {"anyOf": [self._either(sub, (*here, str(i)), outer=False) for i, sub in enumerate(value)]}
            case "not" | "if" | "then" | "else":
                if top and all(
                    _speaks_of_keys(schema[other]) for other in ("not", "if", "then", "else") if other in schema
                ):
                    return {word: value}
                self._lost = True
                return {}
            case "maxContains":
                return {}
            case "enum" if is_array(value) and any(_has_parts(item) for item in value):
                return {} if "examples" in schema else {"examples": value}
            case "const" if _has_parts(value):
                return {} if "examples" in schema else {"examples": [value]}
            case "$ref" if (target := self._target(schema)) is not None and value not in self._anchors:
                moved = self._moved(target)
                return {word: value if moved == target else written(moved)}
            case _:
                return {word: value}

    def _admits(self, schema: Any) -> bool:
        """Whether a rewritten schema takes every reference as its own value."""
        if not is_object(schema):
            return schema is True
        if (known := self._admitting.get(id(schema))) is None:
            self._spend(1)
            known = self._admitting[id(schema)] = schema, self._admits_references(schema)
        return known[1]

    def _admits_references(self, schema: Schema) -> bool:
        if not _allows_strings(schema) or not _lets_pass(schema.get("pattern")) or self._needs_wrapping(schema):
            return False
        some, every = schema.get("anyOf"), schema.get("allOf")
        return (not is_array(some) or any(self._admits(sub) for sub in some)) and (
            not is_array(every) or all(self._admits(sub) for sub in every)
        )

    def _needs_wrapping(self, schema: Schema) -> bool:
        """Whether no keyword of the schema can be stretched so that it takes references."""
        # The root itself never takes one, so what refers to it needs an alternative of its own.
        return bool(schema.keys() & {"enum", "const"}) or _stops_references(schema) or self._target(schema) == ()

    def _takes_strings(self, schema: Any) -> bool:
        """Whether a schema takes some string or other."""
        if not is_object(schema):
            return schema is True
        if (known := self._stringy.get(id(schema))) is None:
            self._spend(1)
            known = self._stringy[id(schema)] = schema, self._takes_some_string(schema)
        return known[1]

    def _takes_some_string(self, schema: Schema) -> bool:
        if not _allows_strings(schema) or schema.get("$ref") == "#":
            return False
        if is_array(values := schema.get("enum", [schema["const"]] if "const" in schema else None)):
            self._spend(len(values) // 20)
            return any(isinstance(value, str) for value in values)
        some, every = schema.get("anyOf"), schema.get("allOf")
        return (not is_array(some) or any(self._takes_strings(sub) for sub in some)) and (
            not is_array(every) or all(self._takes_strings(sub) for sub in every)
        )

    def _admit(self, schema: Schema, at: Pointer) -> Schema:
        """The shortest schema that takes references besides what the rewritten `schema` takes."""
        if self._admits(schema):
            return schema
        if self._needs_wrapping(schema):
            return self._wrapped(schema, at)
        result = dict(schema)
        if not _allows_strings(schema):
            declared = schema["type"]
            result["type"] = [*([declared] if isinstance(declared, str) else declared), "string"]
        if isinstance(pattern := schema.get("pattern"), str) and not _lets_pass(pattern):
            result["pattern"] = pattern + _OR_REFERENCE
        if is_array(some := schema.get("anyOf")) and not any(self._admits(sub) for sub in some):
            result["anyOf"] = self._with_branch(some, schema, (*at, "anyOf"))
        return result

    def _with_branch(self, branches: list[Any], schema: Schema, at: Pointer) -> list[Any]:
        # Where some branch takes certain strings only, letting another take any string would empty that of meaning.
        strict = _allows_strings(schema) and any(self._takes_strings(sub) for sub in branches)
        further = _reference_schema(strict)
        best, cost = [*branches, further], len(compact(further)) + 1
        for index, sub in enumerate(branches):
            # Wrapping a branch is never shorter than a further branch.
            if is_object(sub) and self._takes_strings(sub) == strict and not self._needs_wrapping(sub):
                changed = self._admit(sub, (*at, str(index)))
                size = len(compact(sub))
                self._spend(2 + size // 100)
                more = len(compact(changed)) - size
                # A branch made of `allOf` needs more than its own keywords to change.
                if more < cost and self._admits(changed):
                    best, cost = [*branches[:index], changed, *branches[index + 1 :]], more
        return best

    def _wrapped(self, schema: Schema, at: Pointer) -> Schema:
        outside = {word: value for word, value in schema.items() if word in ANNOTATIONS}
        inside = {word: value for word, value in schema.items() if word not in ANNOTATIONS}
        other = _reference_schema(self._takes_strings(schema))
        if inside.get("type") == "string":
            outside["type"] = inside.pop("type")
            del other["type"]
        before = self._moves.get(at, {})
        self._moves[at] = {word: ("anyOf", "0", *before.get(word, (word,))) for word in (*inside, *before)}
        return {**outside, "anyOf": [inside, other]}


def _reference_schema(strict: bool) -> Schema:
    """What takes references; any string at all if nothing is lost by that, because it is shorter."""
    return {"type": "string", "pattern": _REFERENCE_PATTERN} if strict else {"type": "string"}


def _allows_strings(schema: Schema) -> bool:
    declared = schema.get("type", "string")
    return declared == "string" or (isinstance(declared, list) and "string" in declared)


def _lets_pass(pattern: object) -> bool:
    return not isinstance(pattern, str) or (
        pattern.endswith(_OR_REFERENCE) and not pattern.endswith("\\" + _OR_REFERENCE)
    )


def _stops_references(schema: Schema) -> bool:
    """Whether a format or a length that hosts may enforce stops some references."""
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", _LONGEST_REFERENCE)
    return (
        schema.get("format") in _HOST_FORMATS
        or (isinstance(shortest, int | float) and shortest > _SHORTEST_REFERENCE)
        or (isinstance(longest, int | float) and longest < _LONGEST_REFERENCE)
    )


def _speaks_of_keys(schema: Any) -> bool:
    """Whether a schema says no more than which keys an object has: values cannot change that."""
    if not is_object(schema):
        return isinstance(schema, bool)
    subs = [sub for word in _SHAPE_COMBINATIONS if word in schema for sub in listed(schema[word])]
    return schema.keys() <= _SHAPE_KEYWORDS and all(_speaks_of_keys(sub) for sub in subs)


def _has_parts(value: object) -> bool:
    return (is_object(value) or is_array(value)) and len(value) > 0
