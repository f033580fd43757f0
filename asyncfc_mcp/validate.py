"""Arguments checked against a tool's own input schema.

Pure: no I/O, and no `$ref` is ever fetched. What cannot be checked is accepted: the downstream judges it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, Final

from asyncfc_mcp.json_types import compact, is_array, is_object, printable, shown_path
from asyncfc_mcp.patterns import endless
from asyncfc_mcp.walk import ANNOTATIONS


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
                fits = word in ANNOTATIONS or word == "format"
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


def _problem(error: Any) -> str:
    if len(error.message) <= _MAX_PROBLEM:
        return printable(error.message)
    # The library's text begins with the whole value; what was asked for comes last and would be cut off.
    return printable(f"it does not satisfy {error.validator}: {compact(error.validator_value)}", _MAX_PROBLEM)
