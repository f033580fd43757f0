"""Changes of files as they are shown to the user: a diff in which only what is known to be no secret can be read.

Pure. Owns what is hidden: every value except commands, addresses and names of servers. A line of a diff may also hold a
neighbour's value, so that nothing is shown because it is not known to be secret.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from asyncfc_mcp.cli.install.entries import words_of
from asyncfc_mcp.quotation import for_terminal
from asyncfc_mcp.redaction import HIDDEN, looks_like_token, shown_command, shown_url

_SHOWN_KEYS: Final = frozenset(
    {"type", "transport", "transportType", "name", "description", "source", "tools", "includeTools", "enabledTools"}
)
_URL_KEYS: Final = frozenset({"url", "serverUrl", "httpUrl", "uri", "baseUrl", "server_url", "http_url"})
_PIECE: Final = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/|(?:^|(?<=\s))#[^\n]*)"
    r"|(?P<string>\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*')(?P<colon>\s*[:=](?=\s|$|[{\[\"]))?"
    r"|(?P<key>[A-Za-z_][\w.-]*)(?=\s*(?::(?:\s|$)|=))"
    r"|(?P<header>^\s*\[[^\]\"]*(?:\"[^\"]*\"[^\]\"]*)*\]\s*$)"
    r"|(?P<word>[^\s\"'{}\[\],:=]+(?:[:=][^\s\"'{}\[\],]+)*)"
)
_LITERALS: Final = frozenset({"true", "false", "null", "-"})


def shown_words(entries: Iterable[Any]) -> frozenset[str]:
    """Return the texts of entries that may be shown."""
    found: set[str] = set()
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        words = words_of(entry)
        for index, word in enumerate(words):
            before, now = shown_command(words[:index]), shown_command(words[: index + 1])
            if now[len(before) :].strip().strip('"') == word:
                found.add(word)
        for key, value in cast("Mapping[str, Any]", entry).items():
            texts: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
            for text in texts:
                if not isinstance(text, str):
                    continue
                if (key in _URL_KEYS and shown_url(text) == text) or (
                    key in _SHOWN_KEYS and not looks_like_token(text)
                ):
                    found.add(text)
    return frozenset(found)


def masked(line: str, shown: frozenset[str]) -> str:
    """Return a line of a configuration file with its values hidden, except those that may be shown."""

    def piece(match: re.Match[str]) -> str:
        if match["comment"]:
            return f"{match[0][:2].rstrip()} {HIDDEN}"
        if match["string"]:
            if match["colon"] or _text(match["string"]) in shown:
                return match[0]
            return f'"{HIDDEN}"'
        if match["key"] or match["header"] or match[0] in _LITERALS or match[0] in shown:
            return match[0]
        return HIDDEN

    return _PIECE.sub(piece, line)


def _text(literal: str) -> str:
    if literal[0] == "'":
        return literal[1:-1].replace("''", "'")
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal


def diff(file: str, before: str, after: str | None, shown: frozenset[str], *, colour: bool = False) -> str:
    """Return the changed lines of a file; None for `after`: it is deleted.

    Args:
        shown: texts that may be shown (`shown_words`).
    """
    old, new = before.splitlines(), (after or "").splitlines()
    lines: Sequence[str] = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    title = f"{file} ({'deleted' if after is None else 'new' if not before else 'changed'})"
    done = [title]
    for line in lines:
        text = f"  line {_number(line)}" if line.startswith("@@") else f"{line[0]} {masked(line[1:], shown)}"
        done.append(_coloured(text) if colour else text)
    return for_terminal("\n".join(done)) if not colour else "\n".join(done)


def _number(header: str) -> str:
    match = re.search(r"\+(\d+)", header)
    return match[1] if match else "?"


def _coloured(line: str) -> str:
    safe = for_terminal(line)
    code = {"+": "32", "-": "31"}.get(safe[:1])
    return safe if code is None else f"\x1b[{code}m{safe}\x1b[0m"
