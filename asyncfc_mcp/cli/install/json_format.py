"""JSON with comments and trailing commas, edited by positions in its text.

Pure. Owns the positions of members, and the style of what is inserted: it follows the indentation, line ends and
trailing commas around it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from asyncfc_mcp.cli.install.edits import Insertion, Path, dumped

_TOKEN: Final = re.compile(
    r'(?P<skip>[ \t\r\n]+|//[^\n]*|/\*.*?\*/)|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<mark>[{}\[\]:,])'
    r'|(?P<word>[^\s{}\[\]:,"/]+)',
    re.DOTALL,
)
_SAME_LINE: Final = re.compile(r"(?:[ \t]+|/\*[^\n]*?\*/|//[^\r\n]*)*")
"""What may stand behind a member in its line: blanks and comments."""


@dataclass(slots=True)
class _Member:
    """A member of an object; `comma` is the position of the comma behind it."""

    name: str
    start: int
    value: "_Node"
    comma: int | None = None

    @property
    def end(self) -> int:
        """Position behind the member and its comma."""
        return self.value.end if self.comma is None else self.comma + 1


@dataclass(slots=True)
class _Node:
    """A value; `members` is None for one that is no object."""

    start: int
    end: int
    members: list[_Member] | None = None

    def member(self, name: str) -> _Member | None:
        """Return the member of this name.

        Raises:
            ValueError: there are several.
        """
        found = [member for member in self.members or () if member.name == name]
        if len(found) > 1:
            raise ValueError(f"{name!r} is there twice in one object")
        return found[0] if found else None


class _Scanner:
    """Finds the positions of objects and their members."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def _next(self) -> re.Match[str]:
        while match := _TOKEN.match(self._text, self._at):
            self._at = match.end()
            if match["skip"] is None:
                return match
        raise ValueError(f"line {self._text.count(chr(10), 0, self._at) + 1} is no JSON")

    def root(self) -> _Node:
        """Return the value of the document."""
        return self._value(self._next())

    def _value(self, token: re.Match[str]) -> _Node:
        match token[0]:
            case "{":
                return self._object(token.start())
            case "[":
                item = self._next()
                while item[0] != "]":
                    if item[0] != ",":
                        self._value(item)
                    item = self._next()
                return _Node(token.start(), item.end())
            case _:
                if token["mark"]:
                    raise ValueError(f"found {token[0]!r} in place of a value")
                return _Node(token.start(), token.end())

    def _object(self, start: int) -> _Node:
        members: list[_Member] = []
        token = self._next()
        while token[0] != "}":
            if token[0] == "," and members:
                members[-1].comma = token.start()
            elif token["string"]:
                name, at = json.loads(token[0]), token.start()
                if self._next()[0] != ":":
                    raise ValueError(f"no value for {name!r}")
                members.append(_Member(name, at, self._value(self._next())))
            else:
                raise ValueError("found no key in an object")
            token = self._next()
        return _Node(start, token.end(), members)


@dataclass(frozen=True, slots=True)
class _Style:
    """Layout of a document."""

    unit: str
    newline: str
    single_line: bool

    @classmethod
    def of(cls, text: str, root: _Node | None) -> "_Style":
        """Return the style of a text, as its first members have it."""
        newline = "\r\n" if "\r\n" in text else "\n"
        unit = "  "
        if root is not None and root.members:
            indentation = _indentation(text, root.members[0].start)
            unit = indentation or unit
        return cls(unit, newline, bool(root and root.members) and "\n" not in text.strip())

    def value(self, entry: Any, indentation: str) -> str:
        """Return the text of a value whose first line begins at this indentation."""
        if self.single_line:
            return dumped(entry)
        lines = dumped(entry, self.unit).split("\n")
        return f"{self.newline}{indentation}".join(lines)


def _indentation(text: str, at: int) -> str | None:
    """Return the blanks before a position if nothing else is before it in its line; otherwise None."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return before if not before.strip(" \t\ufeff") else None


def _line_indentation(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


class JsonFormat:
    """Edits of JSON with comments."""

    def insert(self, text: str, path: Path, name: str, entry: Any, raw: str | None) -> tuple[str, Insertion]:
        """See `Format`."""
        if not text.strip():
            table: Any = {name: entry}
            for key in reversed(path):
                table = {key: table}
            return text + self._document(table), Insertion(path[:1] or (name,), self._document(table), 0)
        root = _Scanner(text).root()
        style, node, depth = _Style.of(text, root), root, 0
        for key in path:
            member = node.member(key)
            if member is None:
                break
            if member.value.members is None:
                raise ValueError(f"{key!r} is no object")
            node, depth = member.value, depth + 1
        missing = path[depth:]
        keys = (*missing, name)
        value = entry
        for key in reversed(keys[1:]):
            value = {key: value}
        return self._append(text, node, style, (*path[:depth], keys[0]), value, None if missing else raw)

    def _append(
        self, text: str, node: _Node, style: _Style, path: Path, entry: Any, raw: str | None
    ) -> tuple[str, Insertion]:
        """Insert a member at the end of an object."""
        members = node.members
        if members is None:
            raise ValueError("there is no object at the top")
        key = dumped(path[-1])
        last = members[-1] if members else None
        inline = style.single_line
        if last is None:
            indentation = _line_indentation(text, node.start) + style.unit
        else:
            own = _indentation(text, last.start)
            inline = inline or own is None
            indentation = own or ""
        if inline:
            style = _Style(style.unit, style.newline, True)
        member = f"{key}: {style.value(entry, indentation) if raw is None else raw}"
        start = "" if inline else style.newline + indentation
        if last is None:
            return self._into_empty(text, node, start + member, len(start), style, path)
        trailing = last.comma is not None
        start = " " if inline else start
        piece = start + member + ("," if trailing else "")
        if inline:
            # One piece, or a comma and a piece, which are at the same place here.
            at = last.end
            lead = "" if trailing else ","
            done = text[:at] + lead + piece + text[at:]
        else:
            end = last.end
            match = _SAME_LINE.match(text, end)
            at = end if match is None else match.end()
            # Blanks before the closing brace stay there.
            at = at if text[at : at + 1] in ("\n", "\r", "") else end
            done = text[:end] + ("" if trailing else ",") + text[end:at] + piece + text[at:]
        return done, Insertion(path, piece, len(start), not trailing)

    def _into_empty(
        self, text: str, node: _Node, member: str, offset: int, style: _Style, path: Path
    ) -> tuple[str, Insertion]:
        """Insert the first member of an object, behind comments inside it."""
        inner = text[node.start + 1 : node.end - 1]
        at = node.start + 1 + len(inner.rstrip())
        if not style.single_line and "\n" not in text[at : node.end - 1]:
            member += style.newline + _line_indentation(text, node.start)
        return text[:at] + member + text[at:], Insertion(path, member, offset)

    def _find(self, text: str, path: Path) -> tuple[_Node, int]:
        """Return the object at the end of a key path, and the index of the member.

        Raises:
            ValueError: it is not there.
        """
        node = _Scanner(text).root()
        for key in path[:-1]:
            member = node.member(key)
            if member is None:
                raise ValueError(f"{key!r} is not there")
            node = member.value
        member = node.member(path[-1])
        if member is None or node.members is None:
            raise ValueError(f"{path[-1]!r} is not there")
        return node, node.members.index(member)

    def remove(self, text: str, path: Path) -> str:
        """See `Format`."""
        node, index = self._find(text, path)
        members = node.members or []
        member, before = members[index], members[index - 1] if index else None
        start, end = member.start, member.end
        line_start, own_line = text.rfind("\n", 0, start) + 1, _indentation(text, start) is not None
        match = _SAME_LINE.match(text, end)
        line_end = end if match is None else match.end()
        if own_line and text[line_end : line_end + 1] in ("\n", "\r"):
            start, end = line_start, text.index("\n", line_end) + 1
        elif index + 1 < len(members) and not text[end : members[index + 1].start].strip():
            end = members[index + 1].start
        else:
            start = len(text[:start].rstrip(" \t"))  # a line end may be that of a comment
        if member.comma is None and before is not None and before.comma is not None:
            # Only then was it the last one; a comma before it would be a trailing one.
            comma = before.comma
            return text[:comma] + text[comma + 1 : max(start, comma + 1)] + text[end:]
        return text[:start] + text[end:]

    def undo(self, text: str, insertion: Insertion) -> str | None:
        """See `Format`."""
        if text == insertion.text:
            return ""
        node, index = self._find(text, insertion.path)
        members = node.members or []
        member = members[index]
        start = member.start - insertion.offset
        end = start + len(insertion.text)
        if start < 0 or text[start:end] != insertion.text:
            return None
        if not insertion.comma:
            return text[:start] + text[end:]
        if member.comma is not None:  # others were added behind it
            return text[:start] + text[member.comma + 1 :] if not text[end : member.comma].strip() else None
        before = members[index - 1] if index else None
        comma = None if before is None else before.comma
        if before is None or comma is None or comma != before.value.end:
            return None
        return text[:comma] + text[comma + 1 : start] + text[end:]

    def raw(self, text: str, path: Path) -> str:
        """See `Format`."""
        node, index = self._find(text, path)
        value = (node.members or [])[index].value
        return text[value.start : value.end]

    def rendered(self, path: Path, name: str, entry: Any) -> str:
        """See `Format`."""
        value: Any = {name: entry}
        for key in reversed(path):
            value = {key: value}
        return self._document(value)

    def _document(self, value: Any) -> str:
        return dumped(value, "  ") + "\n"
