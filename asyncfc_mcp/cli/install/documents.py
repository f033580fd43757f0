"""Edits of configuration documents: one entry is inserted into or removed from a table; every other byte stays.

Owns the check of each edit: the new text is parsed by the reader's own parser, and must have the old value with exactly
this change. Formats are left to `json_format`, `toml_format` and `yaml_format`.
"""

from collections.abc import Mapping
from typing import Any, cast

from asyncfc_mcp.cli.install.edits import Format, Insertion, Path
from asyncfc_mcp.config.parsing import is_yaml, parse_value
from asyncfc_mcp.errors import BridgeError, ConfigError


class EditRefused(BridgeError):
    """A document cannot be changed without touching more than the entry in question."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} was not changed: {reason}")


def format_of(file: str) -> Format:
    """Return the format that the name of a file stands for."""
    if file.endswith(".toml"):
        from asyncfc_mcp.cli.install.toml_format import TomlFormat

        return TomlFormat()
    if is_yaml(file):
        from asyncfc_mcp.cli.install.yaml_format import YamlFormat

        return YamlFormat()
    from asyncfc_mcp.cli.install.json_format import JsonFormat

    return JsonFormat()


class Document:
    """The text of a configuration file, with checked edits.

    Attributes:
        file: its name, which selects the format and is shown in errors.
        text: the current text.
    """

    def __init__(self, file: str, text: str) -> None:
        """Raises:
        ConfigError: the text cannot be parsed; with its place.
        """
        self.file, self.text, self._format = file, text, format_of(file)
        self.value = self._parsed(text)

    def _parsed(self, text: str) -> dict[str, Any]:
        # A document of comments only is an empty one here; `parse_value` refuses an empty file.
        if not text.strip():
            return {}
        value = parse_value(text, self.file)
        if value is None and is_yaml(self.file):
            return {}
        if not isinstance(value, dict):
            raise ConfigError(self.file, "", "found no object", "an object at the top")
        return cast("dict[str, Any]", value)

    def table(self, path: Path) -> dict[str, Any]:
        """Return the table at a key path; empty if it does not exist.

        Raises:
            EditRefused: there is something else in its place.
        """
        value: Any = self.value
        for key in path:
            value = cast("dict[str, Any]", value).get(key)
            if value is None:
                return {}
            if not isinstance(value, dict):
                raise EditRefused(self.file, f"{'.'.join(path)} is no table of servers")
        return cast("dict[str, Any]", value)

    def insert(self, path: Path, name: str, entry: Any, raw: str | None = None) -> Insertion:
        """Insert an entry at the end of a table."""
        if name in self.table(path):
            raise EditRefused(self.file, f"{'.'.join(path)} already has an entry {name!r}")
        expected = _with(self.value, path, name, entry)
        try:
            text, insertion = self._format.insert(self.text, path, name, entry, raw)
        except (ValueError, RecursionError) as exc:
            raise EditRefused(self.file, str(exc)) from None
        self._take(text, expected, ())
        return insertion

    def remove(self, path: Path, name: str) -> str:
        """Remove an entry, and return its text."""
        expected = _without(self.value, (*path, name))
        try:
            raw = self._format.raw(self.text, (*path, name))
            text = self._format.remove(self.text, (*path, name))
        except (ValueError, RecursionError) as exc:
            raise EditRefused(self.file, str(exc)) from None
        self._take(text, expected, path)
        return raw

    def undo(self, path: Path, name: str, insertion: Insertion) -> None:
        """Take out an insertion: exactly, or else only its entry."""
        created = insertion.path != (*path, name)
        if not created or set(self.table(path)) == {name}:
            try:
                text = self._format.undo(self.text, insertion)
            except (ValueError, RecursionError):
                text = None
            if text is not None:
                try:
                    self._take(text, _without(self.value, (*path, name)), path)
                except EditRefused:
                    pass  # the same text elsewhere; the entry is found by its key instead
                else:
                    return
        self.remove(path, name)

    def replace(self, path: Path, name: str, entry: Any) -> None:
        """Replace an entry; it moves to the end of its table."""
        self.remove(path, name)
        self.insert(path, name, entry)

    def _take(self, text: str, expected: dict[str, Any], path: Path) -> None:
        """Take over an edited text if it has the expected value; the table at `path` may be missing if it is empty."""
        try:
            value = self._parsed(text)
        except ConfigError:
            value = None
        if value is None or _without_empty(value, path) != _without_empty(expected, path):
            raise EditRefused(self.file, "it has a form that cannot be edited safely; change it by hand")
        self.text, self.value = text, value


def _with(value: Mapping[str, Any], path: Path, name: str, entry: Any) -> dict[str, Any]:
    if not path:
        return {**value, name: entry}
    return {**value, path[0]: _with(value.get(path[0]) or {}, path[1:], name, entry)}


def _without(value: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if len(path) == 1 or path[0] not in value:
        return {key: item for key, item in value.items() if key != path[0]}
    return {**value, path[0]: _without(value[path[0]], path[1:])}


def _without_empty(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a value without the tables along a key path that are empty."""
    if not path or path[0] not in value:
        return value
    inner: Any = value[path[0]]
    if isinstance(inner, dict):
        inner = _without_empty(cast("dict[str, Any]", inner), path[1:])
    if inner is None or inner == {}:
        return {key: item for key, item in value.items() if key != path[0]}
    return {**value, path[0]: inner}
