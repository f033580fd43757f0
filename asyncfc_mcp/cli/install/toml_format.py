"""TOML: an entry is a table of its own at the end of the file, and is removed with the lines of its tables.

Pure. Owns which lines belong to an entry. Values are written by tomlkit, which also removes entries in other forms
(inline tables, dotted keys).
"""

import re
import tomllib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, cast

from asyncfc_mcp.cli.install.edits import Insertion, Path, dumped

_HEADER: Final = re.compile(r"[ \t]*(\[\[?)([^\]\n]*(?:\"[^\"\n]*\"[^\]\n]*)*)\]\]?[ \t]*(?:#[^\n]*)?$")


def _tomlkit() -> Any:
    # Imported only for such a file. Its annotations are incomplete, hence `Any`.
    return import_module("tomlkit")


class TomlFormat:
    """Edits of TOML."""

    def insert(self, text: str, path: Path, name: str, entry: Any, raw: str | None) -> tuple[str, Insertion]:
        """See `Format`."""
        newline = "\r\n" if "\r\n" in text else "\n"
        block = self.rendered(path, name, entry) if raw is None else raw
        block = newline.join(line.rstrip("\r") for line in block.rstrip("\n").split("\n")) + newline
        lead = ("" if not text or text.endswith("\n") else newline) + (newline if text.strip() else "")
        return text + lead + block, Insertion((*path, name), lead + block, 0)

    def remove(self, text: str, path: Path) -> str:
        """See `Format`."""
        kept, removed = self._split(text, path)
        if removed and self._is_gone(kept, path):
            return kept
        return self._remove_with_tomlkit(text, path)

    def _split(self, text: str, path: Path) -> tuple[str, str]:
        """Return the lines of other tables, and those of this one with the tables inside it."""
        kept: list[str] = []
        removed: list[str] = []
        inside = False
        # Blank lines and comments before a header belong to the table of that header.
        pending: list[str] = []
        for line in re.findall(r"[^\n]*\n|[^\n]+$", text):
            if match := _HEADER.match(line.rstrip("\r\n")):
                inside = _key(match[2])[: len(path)] == path
                (removed if inside and removed else kept).extend(pending)
                pending = []
                (removed if inside else kept).append(line)
            elif not line.strip() or line.lstrip().startswith("#"):
                pending.append(line)
            else:
                (removed if inside else kept).extend([*pending, line])
                pending = []
        # The blank line before the removed table separated it from what is before it.
        if removed and inside and kept and not kept[-1].strip() and not pending:
            kept.pop()
        return "".join([*kept, *pending]), "".join(removed)

    def _is_gone(self, text: str, path: Path) -> bool:
        try:
            value: Any = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return False
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return True
            value = cast("Mapping[str, Any]", value)[key]
        return False

    def _remove_with_tomlkit(self, text: str, path: Path) -> str:
        document = _tomlkit().parse(text)
        table = document
        for key in path[:-1]:
            table = table[key]
        del table[path[-1]]
        return str(document.as_string())

    def undo(self, text: str, insertion: Insertion) -> str | None:
        """See `Format`."""
        at = text.rfind(insertion.text)
        return None if at < 0 else text[:at] + text[at + len(insertion.text) :]

    def raw(self, text: str, path: Path) -> str:
        """See `Format`."""
        kept, removed = self._split(text, path)
        if removed and self._is_gone(kept, path):
            return removed
        value: Any = tomllib.loads(text)
        for key in path:
            value = value[key]
        return self.rendered(path[:-1], path[-1], value)

    def rendered(self, path: Path, name: str, entry: Any) -> str:
        """See `Format`. Tables inside the entry have headers of their own, as Codex writes them."""
        lines: list[str] = []
        self._table((*path, name), cast("dict[str, Any]", entry), lines)
        return "\n".join(lines) + "\n"

    def _table(self, path: Path, table: dict[str, Any], lines: list[str]) -> None:
        if lines:
            lines.append("")
        lines.append(f"[{'.'.join(map(_bare, path))}]")
        for key, value in table.items():
            if not isinstance(value, dict):
                lines.append(f"{_bare(key)} = {_value(value)}")
        for key, value in table.items():
            if isinstance(value, dict):
                self._table((*path, key), cast("dict[str, Any]", value), lines)


def _value(value: Any) -> str:
    """Return a value in one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, cast('list[Any]', value)))}]"
    return dumped(value) if isinstance(value, str) else str(_tomlkit().item(value).as_string())


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else dumped(key)


def _key(text: str) -> Path:
    """Return the key path of a header; empty if it is none."""
    try:
        value: Any = tomllib.loads(f"[{text}]")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(value, dict) and len(cast("dict[str, Any]", value)) == 1:
        ((key, value),) = cast("dict[str, Any]", value).items()
        path.append(key)
    return tuple(path)
