"""Parsing of a configuration file: bytes → text → one value, as JSON with comments or TOML.

Owns encodings, comments, trailing commas and duplicate keys. The meaning of the value is left to `reader`.
"""

import codecs
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.errors import ConfigError

_FILE_NAMES: Final = (
    "mcp.json", ".mcp.json", "claude_desktop_config.json", "mcp-config.json", "settings.json", "config.json",
)  # fmt: skip
"""Names that hosts use for the file with their servers."""


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
        raise ConfigError(file, "", "file not found", "a configuration file") from None
    except IsADirectoryError:
        inside = [name for name in _FILE_NAMES if (path / name).is_file()]
        hint = f" such as {path / inside[0]}" if inside else ""
        raise ConfigError(file, "", "found a folder", f"a configuration file{hint}") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(file, "", f"the file cannot be read: {exc}", "a JSON file in UTF-8") from None


def parse_value(text: str, file: str) -> Any:
    """Return the value of a file's text: TOML if the name ends in `.toml`, otherwise JSON.

    Raises:
        ConfigError: the text is empty or cannot be parsed.
    """
    if not text.strip():
        raise ConfigError(file, "", "found an empty file", 'an object with "mcpServers"')
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        return json.loads(_without_comments(text), object_pairs_hook=_object)
    except json.JSONDecodeError as exc:
        raise ConfigError(file, "", f"line {exc.lineno}, column {exc.colno}: {exc.msg}", "JSON") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", str(exc), "TOML") from None
    except (RecursionError, ValueError) as exc:
        raise ConfigError(file, "", f"the JSON cannot be used: {exc}"[:200], "JSON") from None


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
