"""Validation of arguments against a tool's own input schema.

Pure: no I/O, and no `$ref` is ever fetched. Arguments that cannot be checked are accepted: the server validates them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, Final

from asyncfc_mcp.schema.equality import all_different
from asyncfc_mcp.schema.fitting import STEPS, fits
from asyncfc_mcp.schema.json_types import compact, printable, shown_path
from asyncfc_mcp.schema.patterns import matches

Check = Callable[[Any], Any]
"""Returns the library's error, or None."""

_MAX_ERRORS: Final = 20
_MAX_PROBLEM: Final = 240


class Validator:
    """Validates arguments against a tool's own input schema: JSON Schema 2020-12, unless `$schema` names another.

    `format` is an annotation, not an assertion, as in 2020-12. Arguments that cannot be checked (a broken schema, a
    `$ref` to nothing or to another document) are accepted: the server validates them.
    """

    __slots__ = ("_check", "overruns", "schema", "written")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self._check: Check | None = None
        self.overruns = 0
        """Number of checks that timed out."""
        self.written: bytes | None = None
        """Schema as a line of JSON; None until it was needed."""

    def fits(self, arguments: Any) -> bool:
        """Return true where the arguments are proved valid in bounded time; false proves nothing."""
        return fits(self.schema, arguments) is True

    def first_error(self, arguments: Any, steps: int = STEPS) -> tuple[str, str] | None:
        """Return the position and the text of the first error in the arguments; None if they are valid.

        The library has no time bound, and is imported at the first use (50 ms or more), so this must not run on an
        event loop.

        Args:
            steps: maximum steps of the proof that is tried first.
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
    # Errors that the library raises by design, then errors in schemas that it does not expect.
    expected = (exceptions.SchemaError, exceptions.UnknownType, referencing.exceptions.Unresolvable)
    unexpected = (RecursionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, re.error)

    def pattern(validator: Any, wanted: str, instance: object, _: Any) -> Iterator[Any]:
        if isinstance(instance, str) and matches(wanted, instance) is False:
            yield exceptions.ValidationError(f"{instance!r} does not match {wanted!r}")

    def unique_items(validator: Any, wanted: object, instance: Any, _: Any) -> Iterator[Any]:
        # The library compares all pairs where values cannot be sorted: 4 s for 2,000 rows.
        if wanted and validator.is_type(instance, "array") and not all_different(instance):
            yield exceptions.ValidationError(f"{instance!r} has non-unique elements")

    try:
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        kind.check_schema(schema, format_checker=import_module("jsonschema").FormatChecker(()))
        # An empty registry cannot fetch anything.
        compiled = validators.extend(kind, {"pattern": pattern, "uniqueItems": unique_items})(
            schema, registry=referencing.Registry()
        )
    except (*expected, *unexpected):
        return lambda arguments: None

    def check(arguments: Any) -> Any:
        try:
            # A long array of invalid elements has as many errors, and one is enough.
            return exceptions.best_match(islice(compiled.iter_errors(arguments), _MAX_ERRORS))
        except (*expected, *unexpected):
            return None

    return check


def _problem(error: Any) -> str:
    if len(error.message) <= _MAX_PROBLEM:
        return printable(error.message)
    # The library's text begins with the complete value, so the expectation at its end would be cut off.
    return printable(f"it does not satisfy {error.validator}: {compact(error.validator_value)}", _MAX_PROBLEM)
