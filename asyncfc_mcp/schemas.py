"""Input schemas of tools: what a position asks for, what is listed upstream, and checking arguments.

Pure: no I/O, and no `$ref` is ever fetched. Schemas are the downstream's, so nothing here trusts them: one that is
broken, endless or too strange is listed as it is and judged by the downstream alone. Nothing given is ever changed in
place.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any, Final, TypeGuard
from urllib.parse import unquote

Schema = dict[str, Any]
Pointer = tuple[str, ...]

RESERVED: Final = ("_as", "_wait")
HEADER: Final = "x-mcp-header"
"""Names the HTTP header that repeats an argument (2026-07-28)."""

_REFERENCE_PATTERN: Final = r"\$"
"""What every reference contains: whole ones begin with it, interpolations hold it somewhere."""
_OR_REFERENCE: Final = "|" + _REFERENCE_PATTERN
_SHORTEST_REFERENCE: Final = 2
_LONGEST_REFERENCE: Final = 128
"""Length limits outside of these two stop no reference worth writing, and are left alone."""
_MAX_VISITS: Final = 2_000
"""How many sub-schemas are looked at to find what one position asks for; recursive schemas have no end of them."""

_MAX_DEPTH: Final = 400
"""Steps from the root of a schema to the deepest part that is looked at."""

_MAP_KEYWORDS: Final = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies")
_LIST_KEYWORDS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE_KEYWORDS: Final = tuple(
    "items additionalItems unevaluatedItems contains additionalProperties unevaluatedProperties propertyNames "
    "not if then else".split()
)
_VALUE_KEYWORDS: Final = frozenset(
    "properties patternProperties prefixItems items additionalItems unevaluatedItems contains additionalProperties "
    "unevaluatedProperties".split()
)
"""What stands under these describes other values than the schema itself does: values inside of its value."""
_ANNOTATIONS: Final = frozenset(
    "title description default examples deprecated readOnly writeOnly $comment $defs definitions $anchor $schema "
    "$id".split()
)
_SHAPE_COMBINATIONS: Final = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else")
_SHAPE_KEYWORDS: Final = frozenset(
    (*_SHAPE_COMBINATIONS, "required", "minProperties", "maxProperties", "dependentRequired", "title", "description")
)
_HOST_FORMATS: Final = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference "
    "uri-template uuid json-pointer relative-json-pointer".split()
)
"""Formats that validating hosts are known to enforce; a reference is none of these."""


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is an array."""
    return isinstance(value, list)


def json_type(value: object) -> str:
    """The JSON Schema type of a JSON value; `integer` for every number without a fraction."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- finding one's way in a schema -----------------------------------------------------------------------------------


def _subschemas(schema: Schema) -> Iterator[tuple[Pointer, Any]]:
    for word in _MAP_KEYWORDS:
        if is_object(group := schema.get(word)):
            yield from (((word, name), sub) for name, sub in group.items())
    for word in (*_LIST_KEYWORDS, "items"):
        if is_array(group := schema.get(word)):
            yield from (((word, str(index)), sub) for index, sub in enumerate(group))
    for word in _ONE_KEYWORDS:
        if is_object(sub := schema.get(word)):
            yield (word,), sub


def _all_schemas(root: Schema) -> Iterator[tuple[Pointer, Schema]]:
    """Every object that stands where a schema may stand, the root first.

    Raises:
        RecursionError: they are nested more deeply than the rewriting of them could follow.
    """
    stack: list[tuple[Pointer, Schema]] = [((), root)]
    while stack:
        at, schema = stack.pop()
        if len(at) > _MAX_DEPTH:
            raise RecursionError
        yield at, schema
        stack.extend((at + step, sub) for step, sub in _subschemas(schema) if is_object(sub))


def _pointer(ref: object) -> Pointer | None:
    """The JSON pointer of a local `$ref`; None for every other kind."""
    if ref == "#":
        return ()
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    return tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in ref[2:].split("/"))


def _written(pointer: Pointer) -> str:
    return "/".join(("#", *(part.replace("~", "~0").replace("/", "~1").replace("%", "%25") for part in pointer)))


def _at(root: Schema, pointer: Pointer) -> Any:
    """What the pointer leads to; None if nothing."""
    node: Any = root
    for part in pointer:
        if is_object(node):
            node = node.get(part)
        elif is_array(node) and part.isascii() and part.isdigit() and int(part[:9]) < len(node):
            node = node[int(part[:9])]
        else:
            return None
    return node


# --- what a position asks for ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expected:
    """What a schema asks for at one position."""

    types: frozenset[str] | None
    """JSON Schema types; `number` never without `integer`. None: anything, or nothing is known."""
    base64: bool = False
    """Whether it is text that encodes binary data."""

    def __str__(self) -> str:
        if self.types is None:
            return "any value"
        shown = self.types - {"integer"} if "number" in self.types else self.types
        return " or ".join(sorted(shown)) or "nothing"


ANYTHING: Final = Expected(None)
_NUMBER: Final = frozenset({"number", "integer"})


def expected(schema: Mapping[str, Any] | None, path: Sequence[str | int]) -> Expected:
    """What `schema` asks for at `path`, as far as its local `$ref`s, combinations and property patterns tell.

    Never raises: whatever is broken, endless or unknown reads as "anything".
    """
    if schema is None:
        return ANYTHING
    try:
        return _Lookup(dict(schema)).at(path)
    except RecursionError:
        return ANYTHING


class _Lookup:
    """One walk down a schema, bounded in the number of sub-schemas that it looks at."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _MAX_VISITS

    def at(self, path: Sequence[str | int]) -> Expected:
        here: Any = self._root
        for key in path:
            here = self._child(here, key, ())
        return self._expected(here, ())

    def _follow(self, schema: Schema, seen: tuple[str, ...]) -> tuple[Any, tuple[str, ...]] | None:
        """The target of the schema's `$ref`, unless it has none that is local or is going round in circles."""
        ref = schema.get("$ref")
        pointer = _pointer(ref)
        if pointer is None or not isinstance(ref, str) or ref in seen:
            return None
        return _at(self._root, pointer), (*seen, ref)

    def _child(self, schema: Any, key: str | int, seen: tuple[str, ...]) -> Any:
        """A schema for what stands under `key`: the parts that all apply joined by `allOf`, alternatives by `anyOf`.

        None where the schema allows nothing there, which drops an alternative.
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
                if _matches(pattern, key):
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
    """The types that the schema's own keywords allow; a type left unsaid is guessed from what else is said."""
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
    """Without repetitions: two branches of a recursive schema meet again at every level, and would double each time."""
    kept: list[Any] = []
    for part in parts:
        if not any(part is other or part == other for other in kept):
            kept.append(part)
    return kept


def _matches(pattern: str, text: str) -> bool:
    """Whether a schema's regular expression finds something in the text; one that Python cannot read finds nothing."""
    try:
        return not endless(pattern, text) and re.search(pattern, text) is not None
    except (re.error, OverflowError, RecursionError):
        return False


_REPEATED_GROUP: Final = re.compile(r"(?<!\\)\)[*+{]")
_UNBOUNDED: Final = re.compile(r"(?<!\\)[*+]|\{\d*,\}")


def endless(pattern: str, text: str) -> bool:
    """Whether a server's regular expression might take for ever on this text; then nothing is said of it.

    `re` cannot be interrupted, and a group that is repeated (`(a+)+`) or many open repetitions in a row can take time
    without bound. Such patterns are rare and only ever make a check stricter, so leaving them out costs little.
    """
    return (
        len(pattern) > 500
        or _REPEATED_GROUP.search(pattern) is not None
        or (len(text) > 1000 and len(_UNBOUNDED.findall(pattern)) > 1)
        or len(_UNBOUNDED.findall(pattern)) > 4
    )


# --- leaving out what says nothing -----------------------------------------------------------------------------------


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


# --- admitting references --------------------------------------------------------------------------------------------


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

    The result is only shown and offered to hosts: the original decides before a call is sent. Never raises; a schema
    with nested `$id`s, dynamic references or no end is returned as it is.
    """
    original = dict(schema)
    try:
        return _Admission(original).run()
    except (RecursionError, TypeError, ValueError, AttributeError):
        return original


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
        self._targets: set[Pointer] = set()
        """Old places that are referred to from where a reference must be admitted."""
        self._strange = False
        for at, sub in _all_schemas(root):
            if sub.keys() & {"$dynamicRef", "$recursiveRef"} or (at and isinstance(sub.get("$id"), str)):
                self._strange = True
            if isinstance(anchor := sub.get("$anchor"), str):
                self._anchors["#" + anchor] = at
        for at, sub in _all_schemas(root):
            target = self._target(sub)
            if target is not None and any(step in _VALUE_KEYWORDS or step in ("$defs", "definitions") for step in at):
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

    def _target(self, schema: Schema) -> Pointer | None:
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref in self._anchors:
            return self._anchors[ref]
        pointer = _pointer(ref)
        return pointer if pointer is not None and isinstance(_at(self._root, pointer), dict | bool) else None

    def _moved(self, pointer: Pointer) -> Pointer:
        new: Pointer = ()
        for index, step in enumerate(pointer):
            new += self._settled.get(pointer[:index], {}).get(step, (step,))
        return new

    def _intact(self, result: Schema) -> bool:
        """Whether every `$ref` that led somewhere still does."""
        dangling = {
            sub["$ref"]
            for _, sub in _all_schemas(result)
            if (pointer := _pointer(sub.get("$ref"))) is not None and _at(result, pointer) is None
        }
        return not dangling or dangling <= {
            sub["$ref"]
            for _, sub in _all_schemas(self._root)
            if (pointer := _pointer(sub.get("$ref"))) is not None and _at(self._root, pointer) is None
        }

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
                return {word: value if moved == target else _written(moved)}
            case _:
                return {word: value}

    def _admits(self, schema: Any) -> bool:
        """Whether a rewritten schema takes every reference as its own value."""
        if not is_object(schema):
            return schema is True
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
        strict = _allows_strings(schema) and any(_takes_strings(sub) for sub in branches)
        further = _reference_schema(strict)
        best, cost = [*branches, further], len(_compact(further)) + 1
        for index, sub in enumerate(branches):
            # Wrapping a branch is never shorter than a further branch.
            if is_object(sub) and _takes_strings(sub) == strict and not self._needs_wrapping(sub):
                changed = self._admit(sub, (*at, str(index)))
                more = len(_compact(changed)) - len(_compact(sub))
                # A branch made of `allOf` needs more than its own keywords to change.
                if more < cost and self._admits(changed):
                    best, cost = [*branches[:index], changed, *branches[index + 1 :]], more
        return best

    def _wrapped(self, schema: Schema, at: Pointer) -> Schema:
        outside = {word: value for word, value in schema.items() if word in _ANNOTATIONS}
        inside = {word: value for word, value in schema.items() if word not in _ANNOTATIONS}
        other = _reference_schema(_takes_strings(schema))
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


def _takes_strings(schema: Any) -> bool:
    """Whether a schema takes some string or other."""
    if not is_object(schema):
        return schema is True
    if not _allows_strings(schema) or schema.get("$ref") == "#":
        return False
    if is_array(values := schema.get("enum", [schema["const"]] if "const" in schema else None)):
        return any(isinstance(value, str) for value in values)
    some, every = schema.get("anyOf"), schema.get("allOf")
    return (not is_array(some) or any(_takes_strings(sub) for sub in some)) and (
        not is_array(every) or all(_takes_strings(sub) for sub in every)
    )


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
    subs = [sub for word in _SHAPE_COMBINATIONS if word in schema for sub in _listed(schema[word])]
    return schema.keys() <= _SHAPE_KEYWORDS and all(_speaks_of_keys(sub) for sub in subs)


def _has_parts(value: object) -> bool:
    return (is_object(value) or is_array(value)) and len(value) > 0


def _listed(value: Any) -> list[Any]:
    return value if is_array(value) else [value]


# --- the bridge's own arguments --------------------------------------------------------------------------------------


def add_reserved(schema: Mapping[str, Any], *, as_: bool, wait: bool) -> tuple[Schema, tuple[str, ...]]:
    """The schema with the bridge's own optional arguments `_as` and `_wait`, and those that had to be left out.

    One is left out where the tool has an argument of that name itself. No description: what they mean is said once, in
    the server's instructions. But a type, although `{}` would do with a third fewer tokens: the Gemini CLI skips a tool
    if one of its arguments has none. They come last, because some clients (mcporter) give arguments by position.

    A root that is only a `$ref` is replaced by what it refers to, because hosts show the root's `properties`. Parts
    that allow no further properties learn of the two; `propertyNames` and `maxProperties` make room. Never raises; a
    schema whose `properties` are broken is returned as it is, with both left out.
    """
    wanted = tuple(name for name, on in zip(RESERVED, (as_, wait), strict=True) if on)
    if not wanted:
        return dict(schema), ()
    try:
        return _with_reserved(_inlined(dict(schema)), wanted)
    except (RecursionError, TypeError, ValueError, AttributeError):
        return dict(schema), wanted


def _with_reserved(root: Schema, wanted: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    skipped = tuple(name for name in wanted if any(_declares(part, name) for part in _same_value(root)))
    added = [name for name in wanted if name not in skipped]
    if not added:
        return root, skipped
    if any(part is not root and _is_narrow(part) for part in _same_value(root)):
        root = deepcopy(root)
        for part in _same_value(root):
            if part is not root and _is_closed(part):
                part["properties"] = {**part.get("properties", {}), **{name: {} for name in added}}
            _make_room(part, added)
    else:
        root = dict(root)
        _make_room(root, added)
    root["properties"] = {**root.get("properties", {}), **{name: {"type": "string"} for name in added}}
    return root, skipped


def _same_value(root: Schema) -> list[Schema]:
    """The schemas that judge the root's own value: the root first, then all that it is combined with."""
    found: dict[int, Schema] = {}
    stack: list[Any] = [root]
    while stack:
        schema = stack.pop()
        if not is_object(schema) or id(schema) in found:
            continue
        found[id(schema)] = schema
        for word in ("allOf", "anyOf", "oneOf", "then", "else"):
            stack += _listed(schema.get(word))
        for word in ("dependentSchemas", "dependencies"):
            if is_object(group := schema.get(word)):
                stack += group.values()
        if (pointer := _pointer(schema.get("$ref"))) is not None:
            stack.append(_at(root, pointer))
    return list(found.values())


def _declares(schema: Schema, name: str) -> bool:
    patterns = schema.get("patternProperties", {})
    return (
        name in schema.get("properties", {})
        or name in schema.get("required", ())
        or any(_matches(pattern, name) for pattern in patterns)
    )


def _is_closed(schema: Schema) -> bool:
    """Whether properties that it does not name may be refused."""
    return not all(schema.get(word) in (None, True, {}) for word in ("additionalProperties", "unevaluatedProperties"))


def _is_narrow(schema: Schema) -> bool:
    return _is_closed(schema) or "propertyNames" in schema or "maxProperties" in schema


def _make_room(schema: Schema, added: list[str]) -> None:
    if "propertyNames" in schema:
        schema["propertyNames"] = {"anyOf": [schema["propertyNames"], {"enum": added}]}
    if "maxProperties" in schema:
        schema["maxProperties"] += len(added)


def _inlined(root: Schema) -> Schema:
    """A root that only refers to another schema, replaced by that; any other root as it is."""
    pointer = _pointer(root.get("$ref"))
    target = _at(root, pointer) if pointer else None
    beside = {word: value for word, value in root.items() if word != "$ref"}
    # Before 2019-09 what stands beside a `$ref` counts for nothing; it must not begin to.
    if not pointer or not is_object(target) or not beside.keys() <= {*_ANNOTATIONS, "type"}:
        return root
    if target.keys() & {"$ref", "$defs", "definitions"}:
        return root
    merged = {**target, **beside}
    group = merged.get(pointer[0])
    if pointer[0] in ("$defs", "definitions") and len(pointer) == 2 and is_object(group):
        rest = {name: sub for name, sub in group.items() if name != pointer[1]}
        slim = {word: value for word, value in merged.items() if word != pointer[0]} | (
            {pointer[0]: rest} if rest else {}
        )
        others = (_pointer(sub.get("$ref")) for _, sub in _all_schemas(slim))
        if not any(other is not None and other[:2] == pointer for other in others):
            return slim
    return merged


# --- checking --------------------------------------------------------------------------------------------------------


class Validator:
    """Checks arguments against a tool's own input schema: JSON Schema 2020-12, unless `$schema` says otherwise.

    Made when first used, because most tools are never given a reference and the library takes long to import: 50 ms or
    more, in which nothing else is answered. So arguments that plainly fit an everyday schema never need it. `format` is
    no assertion, as 2020-12 has it. What cannot be checked (a broken schema, a `$ref` that leads nowhere or to another
    document) is accepted: the downstream judges it.
    """

    __slots__ = ("_check", "_schema")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._check: Check | None = None

    def first_error(self, arguments: Any) -> tuple[str, str] | None:
        """Where and how the arguments break the schema, in words; None if they do not."""
        if _plainly_fits(self._schema, arguments):
            return None
        if self._check is None:
            self._check = _compile(self._schema)
        error = self._check(arguments)
        return None if error is None else (shown_path(error.absolute_path), _problem(error))


def _plainly_fits(schema: Any, value: Any, depth: int = 0) -> bool:
    """Whether a value fits a schema for certain, by the everyday keywords that mean the same in all drafts. False says
    nothing: the library decides, and finds the words."""
    if schema is True:
        return True
    if not is_object(schema) or depth > _PLAIN_DEPTH:
        return False
    properties = schema.get("properties")
    for word, wanted in schema.items():
        match word:
            case "type":
                names = wanted if is_array(wanted) else [wanted]
                fits = any(_is_plainly(name, value) for name in names)
            case "enum":
                fits = isinstance(value, str) and is_array(wanted) and value in wanted
            case "anyOf":
                fits = is_array(wanted) and any(_plainly_fits(sub, value, depth + 1) for sub in wanted)
            case "required":
                fits = is_array(wanted) and is_object(value) and all(isinstance(n, str) and n in value for n in wanted)
            case "properties":
                fits = is_object(wanted) and (
                    not is_object(value)
                    or all(_plainly_fits(wanted[name], value[name], depth + 1) for name in wanted.keys() & value.keys())
                )
            case "additionalProperties":
                fits = wanted is True or (
                    is_object(value)
                    and all(
                        _plainly_fits(wanted, value[name], depth + 1)
                        for name in value.keys() - (properties.keys() if is_object(properties) else ())
                    )
                )
            case "items":
                fits = not is_array(value) or all(_plainly_fits(wanted, item, depth + 1) for item in value)
            case _:
                fits = word in _ANNOTATIONS or word == "format"
        if not fits:
            return False
    return True


_PLAIN_DEPTH: Final = 30


def _is_plainly(name: object, value: object) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    match name:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int)
        case "number":
            return isinstance(value, int | float)
        case "array":
            return is_array(value)
        case "object":
            return is_object(value)
        case "null":
            return value is None
        case _:
            return False


Check = Callable[[Any], Any]
"""Gives the library's own error, or None."""

_MAX_ERRORS: Final = 20
_MAX_PROBLEM: Final = 240


def _compile(schema: Mapping[str, Any]) -> Check:
    validators: Any = import_module("jsonschema.validators")
    exceptions: Any = import_module("jsonschema.exceptions")
    referencing: Any = import_module("referencing")
    # What the library raises on purpose, then whatever it trips over in a schema that it was not made for.
    broken = (exceptions.SchemaError, exceptions.UnknownType, referencing.exceptions.Unresolvable)
    stumbles = (RecursionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, re.error)

    def pattern(validator: Any, wanted: str, instance: object, _: Any) -> Iterator[Any]:
        # Patterns are ECMA's; one that Python cannot read leaves the rest of the schema to be checked.
        try:
            text = str(instance)
            if validator.is_type(instance, "string") and not endless(wanted, text) and re.search(wanted, text) is None:
                yield exceptions.ValidationError(f"{instance!r} does not match {wanted!r}")
        except re.error:
            return

    try:
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        kind.check_schema(schema, format_checker=import_module("jsonschema").FormatChecker(()))
        # An empty registry has nothing to fetch with.
        compiled = validators.extend(kind, {"pattern": pattern})(schema, registry=referencing.Registry())
    except (*broken, *stumbles):
        return lambda arguments: None

    def check(arguments: Any) -> Any:
        try:
            # A long array of wrong elements has as many errors, and one is enough.
            return exceptions.best_match(islice(compiled.iter_errors(arguments), _MAX_ERRORS))
        except (*broken, *stumbles):
            return None

    return check


def shown_path(path: Iterable[str | int]) -> str:
    """A position in words: `items[0].id`, `["odd key"]`, or `the top level`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _WORD.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{_compact(step)}]"
    return printable(text) or "the top level"


_WORD: Final = re.compile(r"[\w-]{1,80}")


def printable(text: str, limit: int = 400) -> str:
    """Text for a message: no longer than `limit` characters, and without what UTF-8 cannot carry (lone surrogates)."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.encode("utf-8", "backslashreplace").decode()


def _problem(error: Any) -> str:
    if len(error.message) <= _MAX_PROBLEM:
        return printable(error.message)
    # The library's text begins with the whole value; what was asked for comes last and would be cut off.
    return printable(f"it does not satisfy {error.validator}: {_compact(error.validator_value)}", _MAX_PROBLEM)
