"""Checks of single values, with the file and key path for errors and warnings.

Owns the type checks, the expansion of variables and the display of values in messages. Which key has which type is
left to `settings_reader`, `servers` and `specs`.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

from asyncfc_mcp.config.parsing import duplicate_keys
from asyncfc_mcp.config.variables import Unset, Variables
from asyncfc_mcp.errors import ConfigError
from asyncfc_mcp.quotation import one_line

LARGEST: Final = 10**15
"""Maximum of every numeric setting: a larger limit would limit nothing."""


class Checker:
    """Checks the values of one file, and collects its warnings.

    Attributes:
        warnings: one line each, beginning with the file and the key path.
    """

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self.file, self.environ = file, environ
        self.warnings: list[str] = []

    def fail(self, path: str, found: str, expected: str) -> ConfigError:
        """Return the error for a key path."""
        return ConfigError(self.file, path, found, expected)

    def warn(self, path: str, problem: str) -> None:
        """Add a warning for a key path."""
        self.warnings.append(one_line(f"{self.file}: {path}: {problem}"))

    # --- types -------------------------------------------------------------------------------------------------

    def typed(self, value: Any, path: str, kind: type | tuple[type, ...], expected: str) -> Any:
        """Return the value if it has this type; a boolean is no number."""
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(path, f"found {shown(value)}", expected)
        return value

    def strings(self, value: Any, path: str) -> tuple[str, ...]:
        """Return a list of strings as a tuple."""
        items = cast("list[Any]", self.typed(value, path, list, "a list of strings"))
        return tuple(self.typed(item, f"{path}[{i}]", str, "a string") for i, item in enumerate(items))

    def number(self, value: Any, path: str, *, whole: bool, least: int, above: bool) -> int | float:
        """Return a number that is at least `least`, or above it."""
        expected = f"a {'whole ' if whole else ''}number, {f'more than {least}' if above else f'{least} or more'}"
        number = self.typed(value, path, int if whole else (int, float), expected)
        # Compared before the conversion: JSON admits NaN, and integers that are larger than any float.
        if not (least < number if above else least <= number) or not number <= LARGEST:
            raise self.fail(path, f"found {shown(value)}", expected if not number > LARGEST else "a smaller number")
        return number if whole else float(number)

    def secret(self, value: Any, path: str) -> str:
        """Return a string that no error message shows."""
        if not isinstance(value, str):
            raise self.fail(path, f"found {kind_of(value)}", "a string")
        return value

    def secret_table(self, value: Any, path: str) -> dict[str, str]:
        """Return an object of strings, unexpanded. Environment and headers contain secrets: no error shows a value."""
        if not isinstance(value, dict):
            raise self.fail(path, f"found {kind_of(value)}", "an object of strings")
        table: dict[str, str] = {}
        for key, item in cast("dict[str, Any]", value).items():
            # VS Code also accepts integers, and null for a variable that is to stay unset.
            if item is not None:
                table[key] = self.secret(str(item) if type(item) is int else item, f"{path}.{key}")
        return table

    def unique_keys(self, value: Any, path: str, *, nested: bool = True) -> None:
        """Refuse duplicate keys, of which all values but the last would be lost.

        Args:
            nested: also check the objects and lists inside.
        """
        for key in duplicate_keys(value):
            raise self.fail(f"{path}.{key}".lstrip("."), "duplicate key in one object", "each key once")
        if not nested:
            return
        if isinstance(value, dict):
            for key, item in cast("dict[str, Any]", value).items():
                self.unique_keys(item, f"{path}.{key}")
        elif isinstance(value, list):
            for index, item in enumerate(cast("list[Any]", value)):
                self.unique_keys(item, f"{path}[{index}]")

    # --- variables ---------------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """Folder of the file, to which paths in it are relative."""
        return os.path.dirname(absolute(self.file))

    def variables(self, environ: Mapping[str, str] | None = None) -> Variables:
        """Return the variables of the file.

        Args:
            environ: in place of the environment of the bridge.
        """
        return Variables(self.environ if environ is None else environ, folder=self.folder)

    def expanded(self, value: Any, path: str, variables: Variables) -> str:
        """Return a string with all its variables expanded; a variable without a value is an error."""
        try:
            return variables.expand(self.secret(value, path), partial(self.unexpanded, path), strict=True)
        except Unset as exc:
            raise self.unset(path, exc) from None

    def expanded_word(self, value: Any, path: str, variables: Variables, *, script: bool = False) -> str:
        """Return a word of a command line; a variable without a value is kept, since the command may expand it."""
        try:
            return variables.expand(self.secret(value, path), partial(self.unexpanded, path), word=True, script=script)
        except Unset as exc:
            raise self.unset(path, exc) from None

    def unset(self, path: str, exc: Unset) -> ConfigError:
        """Return the error for a variable without a value."""
        return self.fail(path, exc.found, exc.expected)

    def unexpanded(self, path: str, variable: str) -> None:
        """Warn of a variable that is kept as text."""
        self.warn(path, f"{variable} is kept as text: the environment has no such variable")

    def process_text(self, value: str, path: str, subject: str) -> str:
        """Return a text that can be passed to a process.

        Raises:
            ConfigError: it contains NUL, or cannot be encoded.
        """
        if not is_file_name(value):
            expected = "text without it"
            raise self.fail(path, f"found a character in {subject} that cannot be passed to a process", expected)
        return value


def absolute(path: str) -> str:
    """Return an absolute path; the path itself if the working directory was deleted."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def is_file_name(text: str) -> bool:
    """Return whether the operating system accepts this text, as a path or an argument."""
    try:
        return "\0" not in text and bool(os.fsencode(text) or True)
    except UnicodeEncodeError:
        return False


def kind_of(value: Any) -> str:
    """Return the JSON type of a value, in words."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return "a string"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return "a number"


def shown(value: Any) -> str:
    """Return a value for a message: its JSON, shortened, or the type of an object or list."""
    if isinstance(value, dict | list):
        return kind_of(cast("Any", value))
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
