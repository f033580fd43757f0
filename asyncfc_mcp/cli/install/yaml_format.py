"""YAML, edited by the positions of its nodes: lines are inserted or removed, and nothing is formatted anew.

Pure. Owns the lines of an entry, and the text of a new one. Nodes are found by ruamel.yaml; its own writing is not
used, since it changes quotes, widths and blank lines that it does not keep.
"""

import re
from importlib import import_module
from typing import Any, Final, cast

from asyncfc_mcp.cli.install.edits import Insertion, Path, dumped

_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def _compose(text: str) -> Any:
    # Imported only for such a file. Its annotations are incomplete, hence `Any`.
    return import_module("ruamel.yaml").YAML().compose(text)


class YamlFormat:
    """Edits of YAML."""

    def insert(self, text: str, path: Path, name: str, entry: Any, raw: str | None) -> tuple[str, Insertion]:
        """See `Format`."""
        newline = "\r\n" if "\r\n" in text else "\n"
        root = _compose(text)
        if not path:
            raise ValueError("servers have a table in YAML")
        top = path[0]
        member = _member(root, top)
        if member is None:
            if root is not None and (not _is_mapping(root) or root.flow_style):
                raise ValueError("it is not a block of keys")
            return self._at_end(text, path, name, entry, newline)
        if len(path) > 1:
            raise ValueError("the table is inside another one")
        key, node = member
        if _is_mapping(node) and node.flow_style:
            at = node.end_mark.index - 1
            piece = (", " if node.value else "") + f"{dumped(name)}: {dumped(entry)}"
            return text[:at] + piece + text[at:], Insertion((*path, name), piece)
        column = 2
        if _is_mapping(node) and node.value:
            column = node.value[0][0].start_mark.column
            at = _line_end(text, _content_end(node, key.end_mark.index))
        elif getattr(node, "value", None) == "" and node.start_mark.index == node.end_mark.index:
            at = _line_end(text, key.end_mark.index)
        else:
            raise ValueError(f"{top!r} is no block of keys")
        lines = (
            [line.rstrip("\r") for line in raw.rstrip("\n").split("\n")]
            if raw is not None
            else self._lines({name: entry}, " " * column)
        )
        piece = "".join(newline + line for line in lines)
        return text[:at] + piece + text[at:], Insertion((*path, name), piece)

    def _at_end(self, text: str, path: Path, name: str, entry: Any, newline: str) -> tuple[str, Insertion]:
        value: Any = {name: entry}
        for key in reversed(path):
            value = {key: value}
        lead = "" if not text or text.endswith("\n") else newline
        piece = lead + "".join(line + newline for line in self._lines(value, ""))
        return text + piece, Insertion(path[:1] or (name,), piece)

    def _lines(self, value: Any, indentation: str) -> list[str]:
        """Return the lines of a mapping."""
        lines: list[str] = []
        for key, item in cast("dict[str, Any]", value).items():
            head = f"{indentation}{_scalar(key)}:"
            if isinstance(item, dict) and item:
                lines += [head, *self._lines(item, indentation + "  ")]
            elif isinstance(item, list) and item:
                lines += [head, *(f"{indentation}- {_scalar(each)}" for each in cast("list[Any]", item))]
            else:
                lines.append(f"{head} {_scalar(item)}")
        return lines

    def remove(self, text: str, path: Path) -> str:
        """See `Format`."""
        start, end, table_key = self._span(text, path)
        done = text[:start] + text[end:]
        if table_key is not None:  # the last entry: an empty table is written as such
            done = done[:table_key] + " {}" + done[table_key:]
        return done

    def _span(self, text: str, path: Path) -> tuple[int, int, int | None]:
        """Return the lines of an entry, and the position behind the colon of its table if it is the only one."""
        node, colon = _compose(text), None
        for key in path[:-1]:
            member = _member(node, key)
            if member is None:
                raise ValueError(f"{key!r} is not there")
            colon, node = text.index(":", member[0].end_mark.index) + 1, member[1]
        member = _member(node, path[-1])
        if member is None:
            raise ValueError(f"{path[-1]!r} is not there")
        if node.flow_style:
            return (*_flow_span(text, node, member), None)
        start = text.rfind("\n", 0, member[0].start_mark.index) + 1
        if text[start : member[0].start_mark.index].strip():
            raise ValueError("the entry does not begin in a line of its own")
        end = _line_end(text, _content_end(member[1], member[0].end_mark.index))
        end += 2 if text[end : end + 2] == "\r\n" else 1
        return start, min(end, len(text)), colon if len(node.value) == 1 else None

    def undo(self, text: str, insertion: Insertion) -> str | None:
        """See `Format`."""
        at = text.rfind(insertion.text)
        return None if at < 0 else text[:at] + text[at + len(insertion.text) :]

    def raw(self, text: str, path: Path) -> str:
        """See `Format`."""
        start, end, _ = self._span(text, path)
        return text[start:end]

    def rendered(self, path: Path, name: str, entry: Any) -> str:
        """See `Format`."""
        return self._at_end("", path, name, entry, "\n")[0]


def _is_mapping(node: Any) -> bool:
    return getattr(node, "id", None) == "mapping"


def _member(node: Any, key: str) -> tuple[Any, Any] | None:
    """Return the nodes of a key and its value."""
    if not _is_mapping(node):
        return None
    return next(((each, value) for each, value in node.value if each.value == key), None)


def _flow_span(text: str, node: Any, member: tuple[Any, Any]) -> tuple[int, int]:
    """Return the text of an entry of a table in braces, with the comma that belongs to it."""
    start, end = member[0].start_mark.index, max(member[0].end_mark.index, member[1].end_mark.index)
    if not text[end : node.end_mark.index].lstrip().startswith(","):  # the last one
        before = text[:start].rstrip(" ")
        return len(before) - before.endswith(","), end
    end = text.index(",", end) + 1
    return start, end + len(text[end:]) - len(text[end:].lstrip(" "))


def _content_end(node: Any, least: int) -> int:
    """Return the position behind the last character of a node; the end mark of a block is where the next one begins."""
    if not isinstance(node.value, str) and not node.flow_style and node.value:
        last: Any = node.value[-1]
        if _is_mapping(node):
            return max(least, _content_end(last[1], last[0].end_mark.index))
        return _content_end(last, least)
    if node.value == "" and node.start_mark.index == node.end_mark.index:
        return least  # no value: its mark is where the next token begins
    end = node.end_mark.index
    if getattr(node, "style", None) in ("|", ">"):  # its end mark is at the start of a line
        end -= 1
    return max(end, least)  # an alias has the marks of its anchor


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" else end


def _scalar(value: Any) -> str:
    """Return a scalar, or an empty or nested collection, in YAML."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return dumped(value)
