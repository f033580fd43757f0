"""Arguments checked against a tool's own input schema.

Pure: no I/O, and no `$ref` is ever fetched. What cannot be checked is accepted: the downstream judges it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, Final

from asyncfc_mcp.fitting import STEPS, all_different, fits
from asyncfc_mcp.json_types import compact, printable, shown_path
from asyncfc_mcp.patterns import matches

Check = Callable[[Any], Any]
"""Gives the library's own error, or None."""

_MAX_ERRORS: Final = 20
_MAX_PROBLEM: Final = 240


class Validator:
    """Checks arguments against a tool's own input schema: JSON Schema 2020-12, unless `$schema` says otherwise.

    `format` is no assertion, as 2020-12 has it. What cannot be checked (a broken schema, a `$ref` that leads nowhere or
    to another document) is accepted: the downstream judges it.
    """

    __slots__ = ("_check", "overruns", "schema", "written")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self._check: Check | None = None
        self.overruns = 0
        """Checks that were given up."""
        self.written: bytes | None = None
        """The schema as a line of JSON, once it was needed."""

    def fits(self, arguments: Any) -> bool:
        """Whether the arguments fit for certain, found in bounded time; False proves nothing."""
        return fits(self.schema, arguments) is True

    def first_error(self, arguments: Any, steps: int = STEPS) -> tuple[str, str] | None:
        """Where and how the arguments break the schema, in words; None if they do not.

        Takes as long as the library takes, which has no bound, and imports it when it is first needed (50 ms or more):
        nothing for an event loop.

        Args:
            steps: bound of the proof that is tried first.
        """
        if fits(self.schema, arguments, steps) is True:
            return None
        if self._check is None:
            self._check = _compile(self.schema)
        error = self._check(arguments)
        return None if error is None else (shown_path(error.absolute_path), _problem(error))


def _compile(schema: Mapping[str, Any]) -> Check:
    validators: Any = import_module("jsonschema.validators")
    exceptions: Any = import_module("jsonschema.exceptions")
    referencing: Any = import_module("referencing")
    # What the library raises on purpose, then whatever it trips over in a schema that it was not made for.
    broken = (exceptions.SchemaError, exceptions.UnknownType, referencing.exceptions.Unresolvable)
    stumbles = (RecursionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, re.error)

    def pattern(validator: Any, wanted: str, instance: object, _: Any) -> Iterator[Any]:
        if isinstance(instance, str) and matches(wanted, instance) is False:
            yield exceptions.ValidationError(f"{instance!r} does not match {wanted!r}")

    def unique_items(validator: Any, wanted: object, instance: Any, _: Any) -> Iterator[Any]:
        # The library compares each with each where they cannot be sorted: 4 s for 2,000 rows.
        if wanted and validator.is_type(instance, "array") and not all_different(instance):
            yield exceptions.ValidationError(f"{instance!r} has non-unique elements")

    try:
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        kind.check_schema(schema, format_checker=import_module("jsonschema").FormatChecker(()))
        # An empty registry has nothing to fetch with.
        compiled = validators.extend(kind, {"pattern": pattern, "uniqueItems": unique_items})(
            schema, registry=referencing.Registry()
        )
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
