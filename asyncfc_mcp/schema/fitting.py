"""Proof that a value is valid against a JSON Schema, in a bounded number of steps and without a library.

Pure: no I/O, and no `$ref` is ever fetched. Only the verdict "valid" is final; for others, and for error messages,
`validate` uses the jsonschema library.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from asyncfc_mcp.schema.equality import all_different, json_key
from asyncfc_mcp.schema.json_types import is_array, is_object
from asyncfc_mcp.schema.patterns import matches, matching_cost
from asyncfc_mcp.schema.walk import ANNOTATIONS, at_pointer, pointer_of

STEPS: Final = 20_000
"""Maximum steps of one proof on the event loop: about 10 ms."""
_MAX_DEPTH: Final = 120
_DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": 2020,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "http://json-schema.org/draft-07/schema": 7,
}
_SILENT: Final = ANNOTATIONS | {"format", "contentEncoding", "contentMediaType", "example", "nullable"}
"""Keywords that reject no value."""
_COMMON: Final = frozenset({"enum", "anyOf", "additionalProperties"})
"""Keywords with the same meaning in all drafts, besides those in `judge`."""

Verdict = bool | None
"""Valid, invalid, or unknown (None)."""


class _OutOfSteps(Exception):
    pass


def fits(schema: Any, value: Any, steps: int = STEPS) -> Verdict:
    """Return true where the library finds no error in a value, in the dialect that `$schema` names; false where it
    finds one, unless the schema itself is broken; None where that is unknown, or not found within `steps`."""
    try:
        return _Proof(schema, steps).judge(schema, value, 0)
    except (_OutOfSteps, RecursionError, TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    found: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            found = None
    return found


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    found: Verdict = False
    for verdict in verdicts:
        if verdict is True:
            return True
        if verdict is None:
            found = None
    return found


class _Proof:
    """Judges values against the sub-schemas of one schema, with one bound on the steps."""

    def __init__(self, root: Any, steps: int) -> None:
        self._root = root
        self._left = steps
        self._known: dict[tuple[int, int], Verdict] = {}
        """Verdicts by target of a `$ref` and value: definitions that double at each level are judged once."""
        dialect = root.get("$schema") if is_object(root) else None
        self._draft = 2020 if dialect is None else _DRAFTS.get(str(dialect).rstrip("#"), 0)
        """0 for other dialects, of which only common keywords are supported."""

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _OutOfSteps

    def judge(self, schema: Any, value: Any, depth: int) -> Verdict:
        if schema is True or schema is False:
            return schema
        if not is_object(schema) or depth > _MAX_DEPTH or (depth and "$id" in schema):
            return None
        self.spend(len(schema) + 1)
        if self._draft == 7 and "$ref" in schema:  # keywords beside it have no effect
            return self.reference(schema, schema["$ref"], value, depth)
        verdict: Verdict = True
        for word, wanted in schema.items():
            match word:
                case "type":
                    found = _is_of_type(wanted, value)
                case "properties":
                    found = self.properties(schema, wanted, value, depth)
                case "items":
                    found = self.items(schema, wanted, value, depth)
                case "required":
                    found = self.required(wanted, value)
                case _ if word in _SILENT:
                    continue
                case _ if (judged := _KEYWORDS.get(word)) is not None and (self._draft or word in _COMMON):
                    found = judged(self, schema, wanted, value, depth)
                case _:
                    found = True if word.startswith("x-") else None
            if found is False:
                return False
            if found is None:
                verdict = None
        return verdict

    # --- objects -------------------------------------------------------------------------------------------------

    def properties(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not is_object(wanted):
            return None
        if not is_object(value):
            return True
        return _all([self.judge(wanted[name], value[name], depth + 1) for name in value.keys() & wanted.keys()])

    def required(self, wanted: Any, value: Any) -> Verdict:
        if not is_array(wanted):
            return None
        self.spend(len(wanted) // 10)
        return not is_object(value) or all(name in value for name in wanted)

    def additional_properties(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if wanted is True or not is_object(value):
            return True
        properties = schema.get("properties")
        names = value.keys() - (properties.keys() if is_object(properties) else ())
        patterns = schema.get("patternProperties")
        if patterns is None:
            return _all([self.judge(wanted, value[name], depth + 1) for name in names])
        if not is_object(patterns) or not self._draft:
            return None
        found: Verdict = True
        for name in names:
            matched = _any(self.match(pattern, name) for pattern in patterns)
            if matched is True:
                continue
            verdict = self.judge(wanted, value[name], depth + 1)
            if verdict is False and matched is False:
                return False
            if verdict is not True:
                found = None
        return found

    def pattern_properties(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not is_object(wanted):
            return None
        if not is_object(value):
            return True
        found: Verdict = True
        for pattern, sub in wanted.items():
            for name, inner in value.items():
                matched = self.match(pattern, name)
                if matched is False:
                    continue
                verdict = self.judge(sub, inner, depth + 1)
                if verdict is False and matched is True:
                    return False
                if verdict is not True:
                    found = None
        return found

    def property_names(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return not is_object(value) or _all(self.judge(wanted, name, depth + 1) for name in value)

    def dependent_required(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if self._draft == 7 or not is_object(wanted):
            return None
        self.spend(len(wanted))
        return not is_object(value) or _all(
            self.required(names, value) for name, names in wanted.items() if name in value
        )

    def dependent_schemas(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if self._draft == 7 or not is_object(wanted):
            return None
        self.spend(len(wanted))
        return not is_object(value) or _all(
            self.judge(sub, value, depth + 1) for name, sub in wanted.items() if name in value
        )

    # --- arrays --------------------------------------------------------------------------------------------------

    def items(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if is_array(wanted):
            return None
        if not is_array(value):
            return True
        first = 0
        if "prefixItems" in schema:
            if self._draft != 2020 or not is_array(schema["prefixItems"]):
                return None
            first = len(schema["prefixItems"])
        return _all(self.judge(wanted, item, depth + 1) for item in (value[first:] if first else value))

    def prefix_items(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if self._draft != 2020 or not is_array(wanted):
            return None
        return not is_array(value) or _all(
            self.judge(sub, item, depth + 1) for sub, item in zip(wanted, value, strict=False)
        )

    def contains(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not is_array(value):
            return True
        if "minContains" in schema or "maxContains" in schema:
            return None
        return _any(self.judge(wanted, item, depth + 1) for item in value)

    def unique_items(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if wanted is False or not is_array(value):
            return True
        if wanted is not True:
            return None
        return all_different(value, self.spend)

    # --- one value -----------------------------------------------------------------------------------------------

    def enum(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not is_array(wanted):
            return None
        self.spend(len(wanted) // 10)
        if isinstance(value, str):
            return value in wanted
        sought = json_key(value, self.spend)
        return any(json_key(item, self.spend) == sought for item in wanted)

    def const(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return json_key(wanted, self.spend) == json_key(value, self.spend)

    def pattern(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not isinstance(wanted, str):
            return None
        return not isinstance(value, str) or self.match(wanted, value)

    def match(self, pattern: str, text: str) -> Verdict:
        self.spend(3 * matching_cost(pattern, text))
        return matches(pattern, text)

    def bound(self, schema: Mapping[str, Any], wanted: Any, value: Any, word: str) -> Verdict:
        if not _is_number(wanted):
            return None
        match word:
            case "minLength" | "maxLength":
                if not isinstance(value, str):
                    return True
                size: Any = len(value)
            case "minItems" | "maxItems":
                if not is_array(value):
                    return True
                size = len(value)
            case "minProperties" | "maxProperties":
                if not is_object(value):
                    return True
                size = len(value)
            case _:
                if not _is_number(value):
                    return True
                size = value
        match word:
            case "exclusiveMinimum":
                return size > wanted
            case "exclusiveMaximum":
                return size < wanted
            case _:
                return size >= wanted if word.startswith("min") else size <= wanted

    def multiple_of(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not _is_number(value):
            return True
        if type(wanted) is not int or type(value) is not int or wanted <= 0:  # fractions: library-dependent rounding
            return None
        return value % wanted == 0

    # --- combinations --------------------------------------------------------------------------------------------

    def reference(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        pointer = pointer_of(wanted)
        if pointer is None or "%" in wanted:
            return None
        for length in range(1, len(pointer)):
            if is_object(outer := at_pointer(self._root, pointer[:length])) and "$id" in outer:
                return None  # a separate document, where `#` is another root
        target = at_pointer(self._root, pointer)
        if not isinstance(target, dict | bool):
            return None
        at = (id(target), id(value))  # pyright: ignore[reportUnknownArgumentType]
        if at not in self._known:
            self._known[at] = None  # during the judgement: a cycle proves nothing
            self._known[at] = self.judge(target, value, depth + 1)
        else:
            self.spend(1)
        return self._known[at]

    def all_of(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return _all(self.judge(sub, value, depth + 1) for sub in wanted) if is_array(wanted) else None

    def any_of(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return _any(self.judge(sub, value, depth + 1) for sub in wanted) if is_array(wanted) else None

    def one_of(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        if not is_array(wanted):
            return None
        verdicts = [self.judge(sub, value, depth + 1) for sub in wanted]
        taken, unknown = verdicts.count(True), verdicts.count(None)
        return False if taken > 1 else None if unknown else taken == 1

    def not_(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        verdict = self.judge(wanted, value, depth + 1)
        return None if verdict is None else not verdict

    def if_(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        condition = self.judge(wanted, value, depth + 1)
        if condition is None:
            return None
        return self.judge(schema.get("then" if condition else "else", True), value, depth + 1)

    def branch(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return True  # judged by `if`

    def unevaluated(self, schema: Mapping[str, Any], wanted: Any, value: Any, depth: int) -> Verdict:
        return True if wanted is True or wanted == {} else None


def _bound(word: str) -> "Callable[[_Proof, Mapping[str, Any], Any, Any, int], Verdict]":
    return lambda proof, schema, wanted, value, _: proof.bound(schema, wanted, value, word)


_KEYWORDS: Final[Mapping[str, Callable[[_Proof, Mapping[str, Any], Any, Any, int], Verdict]]] = {
    "additionalProperties": _Proof.additional_properties,
    "patternProperties": _Proof.pattern_properties,
    "propertyNames": _Proof.property_names,
    "dependentRequired": _Proof.dependent_required,
    "dependentSchemas": _Proof.dependent_schemas,
    "prefixItems": _Proof.prefix_items,
    "contains": _Proof.contains,
    "uniqueItems": _Proof.unique_items,
    "enum": _Proof.enum,
    "const": _Proof.const,
    "pattern": _Proof.pattern,
    "multipleOf": _Proof.multiple_of,
    "$ref": _Proof.reference,
    "allOf": _Proof.all_of,
    "anyOf": _Proof.any_of,
    "oneOf": _Proof.one_of,
    "not": _Proof.not_,
    "if": _Proof.if_,
    "then": _Proof.branch,
    "else": _Proof.branch,
    "unevaluatedProperties": _Proof.unevaluated,
    "unevaluatedItems": _Proof.unevaluated,
    **{
        word: _bound(word)
        for word in (
            "minLength maxLength minItems maxItems minProperties maxProperties minimum maximum exclusiveMinimum "
            "exclusiveMaximum"
        ).split()
    },
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_of_type(names: Any, value: object) -> Verdict:
    if isinstance(names, str):
        return _is_of_one_type(names, value)
    return _any([_is_of_one_type(name, value) for name in names]) if is_array(names) else None


def _is_of_one_type(name: object, value: object) -> Verdict:
    match name:
        case "string":
            return isinstance(value, str)
        case "integer":
            if isinstance(value, float):
                return None if value.is_integer() else False  # drafts differ
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return is_array(value)
        case "object":
            return is_object(value)
        case "null":
            return value is None
        case _:
            return None
