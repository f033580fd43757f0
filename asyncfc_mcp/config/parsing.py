"""Parsing of a configuration file: bytes → text → one value, as JSON with comments, TOML or YAML.

Owns encodings, comments, trailing commas and duplicate keys. The meaning of the value is left to `reader`.
"""

import codecs
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

from asyncfc_mcp.errors import ConfigError

_FILE_NAMES: Final = (
    "mcp.json", ".mcp.json", "claude_desktop_config.json", "mcp-config.json", "settings.json", "config.json",
    "config.toml", "config.yaml", "librechat.yaml", "opencode.json", "opencode.jsonc",
)  # fmt: skip
"""Names that hosts use for the file with their servers."""
MAX_YAML_VALUES: Final = 100_000
"""Maximum number of values of a YAML file, so that a few nested aliases cannot fill the memory."""


class JsonObject(dict[str, Any]):
    """A JSON object with the keys that occur in it more than once; the last value of each is kept."""

    def __init__(self, values: Mapping[str, Any], duplicates: Sequence[str]) -> None:
        super().__init__(values)
        self.duplicates = tuple(duplicates)


def duplicate_keys(value: Any) -> tuple[str, ...]:
    """Return the duplicate keys of an object; nothing for any other value."""
    return value.duplicates if isinstance(value, JsonObject) else ()


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: the file cannot be read or decoded.
    """
    file = str(path)
    try:
        data = path.read_bytes()
        # PowerShell writes text files as UTF-16.
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        try:
            here = "" if path.is_absolute() else f" (looked for from {os.getcwd()})"
        except OSError:  # the working directory was deleted
            here = ""
        raise ConfigError(file, "", f"file not found{here}", "a configuration file") from None
    except IsADirectoryError:
        inside = [name for name in _FILE_NAMES if (path / name).is_file()]
        hint = f" such as {path / inside[0]}" if inside else ""
        raise ConfigError(file, "", "found a folder", f"a configuration file{hint}") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(file, "", f"the file cannot be read: {exc}", "a JSON file in UTF-8") from None


def parse_value(text: str, file: str) -> Any:
    """Return the value of a file's text: TOML or YAML if the name ends in `.toml`, `.yaml` or `.yml`, otherwise JSON.

    Raises:
        ConfigError: the text is empty or cannot be parsed.
    """
    if not text.strip():
        raise ConfigError(file, "", "found an empty file", 'an object with "mcpServers"')
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        if is_yaml(file):
            return _yaml(text, file)
        return json.loads(_without_comments(text), object_pairs_hook=_object)
    except json.JSONDecodeError as exc:
        raise ConfigError(file, "", f"line {exc.lineno}, column {exc.colno}: {exc.msg}", "JSON") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", str(exc), "TOML") from None
    except (RecursionError, ValueError) as exc:
        kind = "YAML" if is_yaml(file) else "JSON"
        raise ConfigError(file, "", f"the {kind} cannot be used: {exc}"[:200], kind) from None


def is_yaml(file: str) -> bool:
    """Return whether the name of a file is one of YAML."""
    return file.endswith((".yaml", ".yml"))


def _yaml(text: str, file: str) -> Any:
    """Return the value of a YAML document, as JSON would hold it."""
    # Imported only for such a file: it takes a tenth of a second. Its annotations are incomplete, hence `Any`.
    library: Any = import_module("ruamel.yaml")
    errors: Any = import_module("ruamel.yaml.error")
    try:
        return _plain(library.YAML(typ="safe", pure=True).load(text), count())
    except errors.MarkedYAMLError as exc:
        mark: Any = exc.problem_mark or exc.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        # The problem only: the full text quotes lines of the file, which may hold secrets.
        problem = str(exc.problem or exc.context).partition(" with value ")[0]
        raise ConfigError(file, "", where + problem, "YAML") from None
    except errors.YAMLError as exc:
        raise ConfigError(file, "", str(exc).partition("\n")[0][:200], "YAML") from None


def _plain(value: Any, counted: Iterator[int]) -> Any:
    """Return a value of YAML without aliases, and with dates and keys as text.

    Raises:
        ValueError: with its aliases written out it is too large, or contains itself.
    """
    if next(counted) > MAX_YAML_VALUES:
        raise ValueError(f"more than {MAX_YAML_VALUES} values, with aliases written out")
    if isinstance(value, dict):
        return {str(key): _plain(item, counted) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(item, counted) for item in cast("list[Any]", value)]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _object(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
    seen: set[str] = set()
    duplicates = [key for key, _ in pairs if key in seen or seen.add(key)]
    return JsonObject(dict(pairs), duplicates)


def _without_comments(text: str) -> str:
    """Replace comments and trailing commas (as VS Code and Cursor write them) by spaces; positions do not change."""

    def blank(match: re.Match[str]) -> str:
        piece = match.group(0)
        return piece if piece[0] == '"' else re.sub(r"[^\n]", " ", piece)

    text = re.sub(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', blank, text, flags=re.DOTALL)
    return re.sub(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])', lambda m: m.group(0) if m.group(0)[0] == '"' else " ", text)
