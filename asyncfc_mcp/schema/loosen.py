"""Loosening of input schemas for upstream listings: they accept a reference in place of any value.

Pure: no I/O, and arguments are never changed in place. Schemas come from servers and are not trusted: a broken, endless
or unsupported one is listed unchanged, and only the server validates against it. Combinations at the root belong to
`root_combinations`.
"""

from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.schema.budget import Budget, SchemaTooLarge
from asyncfc_mcp.schema.json_types import Pointer, Schema, is_array, is_object
from asyncfc_mcp.schema.one_type import by_type
from asyncfc_mcp.schema.root_combinations import without_root_combinations
from asyncfc_mcp.schema.walk import ANNOTATIONS, VALUE_KEYWORDS, all_schemas, at_pointer, pointer_of, ref_to

__all__ = ["HEADER", "SchemaTooLarge", "admit_references"]

HEADER: Final = "x-mcp-header"
"""Keyword that names the HTTP header in which an argument is repeated (2026-07-28)."""

_REFERENCE_PATTERN: Final = "^.*[$].*$"
r"""Matches every reference. Anchored, and without an escape, because llama.cpp's converter refuses `\$`."""
_SHORTEST_REFERENCE: Final = 2
_LONGEST_REFERENCE: Final = 128
"""Length limits outside of these two exclude no practical reference, and are kept."""
_NULL: Final[Schema] = {"type": "null"}
_MAX_REFS: Final = 50
"""Maximum `$ref`s that are followed one behind the other; what lies behind them counts as unknown."""
_COMBINATIONS: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
_HOST_FORMATS: Final = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference "
    "uri-template uuid json-pointer relative-json-pointer".split()
)
"""Formats that some hosts enforce; a reference matches none of them."""


def admit_references(schema: Mapping[str, Any]) -> Schema:
    """Return a schema that accepts everything that `schema` accepts, and a reference in place of any value within it.

    Hosts may validate arguments before they send them, and `"$f3"` is not an integer. Each position of a value gets a
    form that the converters of hosts and model APIs accept: every branch keeps its own `type`, which Gemini requires;
    no list of types and no unanchored pattern is written.

    - a string that any reference satisfies, or anything without a type: unchanged;
    - `anyOf` or `oneOf` alone, without a branch for null: a further branch, `{"type":"string"}`;
    - everything else: `{"anyOf":[<the schema>,{"type":"string"}]}`, with the annotations (`description`, `default`,
      `title`, …) outside, and a list of types as a branch for each;
    - where certain strings are accepted already (`enum`, `pattern`, `format`, lengths), the further branch is limited
      to text with a `$`, so that a host still rejects other strings. `format`s that hosts do not enforce and lengths
      that exclude no reference limit nothing.

    `oneOf` becomes `anyOf`, because two branches may accept the same reference. `not` and `if` are removed where a
    reference inside of the value could change their verdict in the wrong direction. A constant that contains objects
    or arrays becomes an example. The root accepts no reference, is of type `object`, and has no `anyOf`, `oneOf` or
    `allOf`, because the Messages API refuses these there (`root_combinations`). An argument that clients repeat in an
    HTTP header accepts none either.

    The result is only for listings: the original is used for validation before a call is sent. A schema with nested
    `$id`s, dynamic references or endless recursion is returned unchanged. Rewriting the result again changes nothing.

    Raises:
        SchemaTooLarge: it would take too long for a listing. No other exception is raised.
    """
    original = dict(schema)
    budget = Budget()
    try:
        if not _is_supported(original, budget):
            return original
        return _Admission(without_root_combinations(original, budget), budget).run() or original
    except (RecursionError, TypeError, ValueError, AttributeError):
        return original


def _is_supported(root: Schema, budget: Budget) -> bool:
    supported = True
    for at, sub in all_schemas(root):
        budget.spend(2 + len(at) // 8)
        if sub.keys() & {"$dynamicRef", "$recursiveRef"} or (at and isinstance(sub.get("$id"), str)):
            supported = False
    return supported


class _Admission:
    """Rewriting of one schema in one pass; `$ref`s follow afterwards, when it is known where their targets are."""

    def __init__(self, root: Schema, budget: Budget) -> None:
        self._root = root
        self._spend = budget.spend
        self._moves: dict[Pointer, dict[str, Pointer]] = {}
        """Old place of a schema → keyword → its new steps. zod generates `$ref`s such as `#/properties/a/anyOf/0`."""
        self._refs: list[tuple[Schema, Pointer]] = []
        """Rewritten schemas with a local `$ref`, and the old place of its target."""
        self._unevaluated: list[Schema] = []
        """Rewritten schemas with `unevaluated…`."""
        self._lost = False
        """True after the removal of a keyword on which `unevaluated…` may depend."""
        self._anchors = {
            f"#{sub['$anchor']}": at for at, sub in all_schemas(root) if isinstance(sub.get("$anchor"), str)
        }
        self._known: dict[int, tuple[Any, bool, bool]] = {}
        """Verdicts of `_text` by the schema's `id`, with the schema, so that its `id` is not reused."""

    def run(self) -> Schema | None:
        """Return the rewritten schema; None if a `$ref` would lose its target."""
        result = self._inner(self._root, ())
        if self._lost:
            for schema in self._unevaluated:
                schema.pop("unevaluatedItems", None)
                schema.pop("unevaluatedProperties", None)
        for schema, target in self._refs:
            moved = self._moved(target)
            self._spend(1 + len(moved) // 8)
            if not isinstance(at_pointer(result, moved), dict | bool):
                return None
            if moved != target:
                schema["$ref"] = ref_to(moved)
        return result if "type" in result else {"type": "object", **result}

    def _target(self, schema: Schema) -> Pointer | None:
        """Return the place of a local `$ref`'s target; None if it is no schema of this document."""
        ref = schema.get("$ref")
        if not isinstance(ref, str):
            return None
        self._spend(1 + len(ref) // 8)
        pointer = self._anchors[ref] if ref in self._anchors else pointer_of(ref)
        return pointer if pointer is not None and isinstance(at_pointer(self._root, pointer), dict | bool) else None

    def _move(self, at: Pointer, word: str, *to: str) -> None:
        self._moves.setdefault(at, {})[word] = to

    def _moved(self, pointer: Pointer) -> Pointer:
        new: Pointer = ()
        for index, step in enumerate(pointer):
            new += self._moves.get(pointer[:index], {}).get(step, (step,))
        return new

    # Two modes: `_inner` admits references within a schema's value, `_outer` also in place of the value itself.

    def _outer(self, schema: Any, at: Pointer) -> Any:
        if not is_object(schema):
            return schema
        result = self._inner(schema, at)
        # Clients repeat the argument in a header and require a single type of three for that; otherwise they drop the
        # tool.
        if HEADER in schema:
            return result
        every, some = self._text(schema)
        if every:
            return result
        text = {"type": "string", "pattern": _REFERENCE_PATTERN} if some else {"type": "string"}
        words = schema.keys() - ANNOTATIONS
        if words in ({"anyOf"}, {"oneOf"}) and is_array(branches := result.get("anyOf")) and _NULL not in branches:
            branches.append(text)
            return result
        outside = {word: result.pop(word) for word in schema if word in ANNOTATIONS and word in result}
        outside |= {"examples": result.pop("examples")} if "examples" in result else {}
        if not result:
            # Nothing but a constant with parts was there: any value is accepted, and a reference too.
            return outside
        branches, prefix = by_type(result), ("anyOf",)
        home = {word: str(index) for index, sub in reversed(list(enumerate(branches))) for word in sub}
        if len(branches) > 1 and _NULL in branches:
            # Converters make `nullable` of an alternative between one schema and null, and of no other.
            branches, prefix = [{"anyOf": branches}], ("anyOf", "0", "anyOf")
        before = self._moves.get(at, {})
        self._moves[at] = {word: (*prefix, home.get(word, "0"), *before.get(word, (word,))) for word in words}
        return {**outside, "anyOf": [*branches, text]}

    def _inner(self, schema: Any, at: Pointer) -> Any:
        if not is_object(schema):
            return schema
        self._spend(2 + len(schema) + len(at) // 8)
        result: Schema = {}
        for word, value in schema.items():
            result.update(self._keyword(schema, word, value, at))
        if "oneOf" in schema and "anyOf" in schema and is_array(other := result.pop("oneOf", None)):
            every = result["allOf"] = list(result.get("allOf", ()))
            self._move(at, "oneOf", "allOf", str(len(every)), "anyOf")
            every.append({"anyOf": other})
        if "examples" in schema and "examples" in result and is_array(more := self._constants(schema)):
            result["examples"] = [*schema["examples"], *more] if is_array(schema["examples"]) else schema["examples"]
        if (target := self._target(schema)) is not None and schema["$ref"] not in self._anchors:
            self._refs.append((result, target))
        if schema.keys() & {"unevaluatedItems", "unevaluatedProperties"}:
            self._unevaluated.append(result)
        return result

    def _keyword(self, schema: Schema, word: str, value: Any, at: Pointer) -> Schema:
        """Return the replacement of one keyword of `schema`: usually itself, else another keyword or none."""
        here = (*at, word)
        match word:
            case "properties" | "patternProperties" if is_object(value):
                return {word: {name: self._outer(sub, (*here, name)) for name, sub in value.items()}}
            case "$defs" | "definitions" | "dependentSchemas" | "dependencies" if is_object(value):
                return {word: {name: self._inner(sub, (*here, name)) for name, sub in value.items()}}
            case "prefixItems" | "items" if is_array(value):
                return {word: [self._outer(sub, (*here, str(index))) for index, sub in enumerate(value)]}
            case "allOf" | "anyOf" | "oneOf" if is_array(value):
                if word == "oneOf" and "anyOf" not in schema:
                    self._move(at, "oneOf", word := "anyOf")
                return {word: [self._inner(sub, (*here, str(index))) for index, sub in enumerate(value)]}
            case "propertyNames":
                return {word: self._inner(value, here)}
            case "not":
                if _is_unaffected(value):
                    return {word: value}
                self._lost = True
                return {}
            case "if":
                return self._conditional(schema, at)
            case "then" | "else" if "if" in schema:
                return {}
            case "maxContains":
                return {}
            case "enum" | "const" if self._constants(schema) is not None:
                return {} if "examples" in schema else {"examples": self._constants(schema)}
            case _ if word in VALUE_KEYWORDS:
                return {word: self._outer(value, here)}
            case _:
                return {word: value}

    def _constants(self, schema: Schema) -> list[Any] | None:
        """Return the values of `enum` or `const` if one has parts, each of which may be given as a reference."""
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if not is_array(values):
            return None
        self._spend(len(values) // 20)
        return values if any(_has_parts(value) for value in values) else None

    def _conditional(self, schema: Schema, at: Pointer) -> Schema:
        condition = schema["if"]
        parts = {word: self._inner(schema[word], (*at, word)) for word in ("then", "else") if word in schema}
        if not _is_unaffected(condition):
            self._lost = True
            if "then" not in parts or not _is_only_falsified(condition):
                return {}
            if "else" in parts:
                # The condition fails for a reference whose value may satisfy it.
                parts["else"] = {"anyOf": [parts["then"], parts["else"]]}
                self._move(at, "else", "else", "anyOf", "1")
        return {"if": condition, **parts}

    def _text(self, schema: Any, refs: int = 0) -> tuple[bool, bool]:
        """Return two verdicts on the original schema: it accepts every reference; it accepts at least one string."""
        if not is_object(schema):
            return schema is True, schema is True
        if (known := self._known.get(id(schema))) is None:
            # Within a recursion nothing is known: a further branch is then never wrong, only longer.
            self._known[id(schema)] = schema, False, True
            self._spend(1)
            known = self._known[id(schema)] = schema, *self._text_of(schema, refs)
        return known[1:]

    def _text_of(self, schema: Schema, refs: int) -> tuple[bool, bool]:
        declared = schema.get("type", "string")
        if declared != "string" and not (is_array(declared) and "string" in declared):
            return False, False
        every, some = not _limits_text(schema), True
        if is_array(values := schema.get("enum", [schema["const"]] if "const" in schema else None)):
            self._spend(len(values) // 20)
            every, some = False, any(isinstance(value, str) for value in values)
        verdicts: list[tuple[bool, bool]] = []
        if "$ref" in schema:
            target = self._target(schema)
            # The root never accepts one.
            known = target is not None and refs < _MAX_REFS
            found = self._text(at_pointer(self._root, target), refs + 1) if known and target else (False, True)
            verdicts.append((False, False) if target == () else found)
        if is_array(group := schema.get("allOf")):
            verdicts += [self._text(sub, refs) for sub in group]
        for word in ("anyOf", "oneOf"):
            if is_array(group := schema.get(word)):
                branches = [self._text(sub, refs) for sub in group]
                verdicts.append((any(each for each, _ in branches), any(each for _, each in branches)))
        return every and all(each for each, _ in verdicts), some and all(each for _, each in verdicts)


def _limits_text(schema: Schema) -> bool:
    """Return true where keywords other than combinations, which hosts may enforce, exclude some references."""
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", _LONGEST_REFERENCE)
    return (
        bool(schema.keys() & {"not", "if"})
        or schema.get("pattern", _REFERENCE_PATTERN) != _REFERENCE_PATTERN
        or schema.get("format") in _HOST_FORMATS
        or (isinstance(shortest, int | float) and shortest > _SHORTEST_REFERENCE)
        or (isinstance(longest, int | float) and longest < _LONGEST_REFERENCE)
    )


def _is_unaffected(schema: Any) -> bool:
    """Return true for a schema whose verdict is the same after references have replaced parts of the value."""
    if not is_object(schema):
        return isinstance(schema, bool)
    if schema.keys() & (VALUE_KEYWORDS | {"$ref", "uniqueItems", "dependentSchemas", "dependencies"}):
        return False
    values = schema.get("enum", [schema.get("const")])
    if is_array(values) and any(_has_parts(value) for value in values):
        return False
    return all(_is_unaffected(sub) for word in _COMBINATIONS if word in schema for sub in _branches(schema[word]))


def _is_only_falsified(schema: Any) -> bool:
    """Return true for a schema that a value with references in place of parts never satisfies where the value did not.

    Conditions on a discriminator are of this kind: `{"properties":{"kind":{"const":"a"}}}`.
    """
    if not is_object(schema):
        return isinstance(schema, bool)
    if not schema.keys() <= ANNOTATIONS | {"type", "required", "properties", "allOf", "anyOf"}:
        return False
    properties = schema.get("properties", {})
    return all(_refuses_references(sub) for sub in properties.values()) and all(
        _is_only_falsified(sub) for word in ("allOf", "anyOf") if word in schema for sub in _branches(schema[word])
    )


def _refuses_references(schema: Any) -> bool:
    if not is_object(schema) or schema.keys() & (VALUE_KEYWORDS | {"$ref", *_COMBINATIONS}):
        return False
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if is_array(values):
        return not any(_has_parts(value) or "$" in str(value) for value in values)
    declared = schema.get("type")
    return declared in ("integer", "number", "boolean", "null")


def _has_parts(value: object) -> bool:
    return (is_object(value) or is_array(value)) and len(value) > 0


def _branches(value: Any) -> list[Any]:
    return value if is_array(value) else [value]
