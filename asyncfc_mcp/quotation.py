"""Quotation of servers' texts within texts of the bridge: one line, bounded, without control characters.

Pure. Models, terminals and log files cannot distinguish line ends, escape sequences or forged lines of a server from
the bridge's own. The only module that removes them; results and descriptions belong to the server and are unchanged.
"""

import re
from typing import Final
from unicodedata import category

LINE_LENGTH: Final = 200
"""Maximum characters of a server's text within a line of the bridge."""
REASON_LENGTH: Final = 1000
"""Maximum characters of a server's reason for a failure."""
INSTRUCTIONS_BYTES: Final = 4000
"""Maximum bytes of one server's instructions."""

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]"
)
_JOINERS: Final = "\u200c\u200d"
"""Invisible characters that some languages and emoji need."""
_CUT: Final = " …"
"""Mark of the place where a text of several lines was cut."""
_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|[。！？]|\S(?=\n)")
_WORD_END: Final = re.compile(r"\S(?=\s)")
_SPARE: Final = 4
"""Characters that are processed for each one that is shown; a longer text is cut before all other processing."""


def one_line(text: str) -> str:
    """Return the text with line ends and control characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_escapes(text: str) -> str:
    """Return the text without terminal escape sequences."""
    return _ESCAPES.sub("", text) if "\x1b" in text or "\x9b" in text else text


def label(text: str) -> str:
    """Return a name or title as one line without control characters; spaces of any kind and joiners are kept."""
    if text.isprintable():
        return text
    return "".join(map(_shown, without_escapes(text))).strip()


def _shown(c: str) -> str:
    if c.isprintable() or c in _JOINERS or category(c) == "Zs":
        return c
    return " " if c.isspace() else repr(c)[1:-1]


def for_terminal(text: str) -> str:
    """Return lines that may contain servers' texts with control characters escaped, for a terminal."""
    return "\n".join(map(one_line, text.split("\n")))


def shortened(text: str, limit: int) -> str:
    """Return at most `limit` characters of the text, with an ellipsis where it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def said(text: str, limit: int = LINE_LENGTH) -> str:
    """Return a server's text as one line of at most `limit` characters, without control characters."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[: _SPARE * limit]
    return shortened(one_line(" ".join(without_escapes(cut).split())), limit)


def quoted(text: str, limit: int = LINE_LENGTH) -> str:
    """Return a server's text for use within a line, in quotation marks that it cannot close."""
    words = said(text, limit).replace('"', "'")
    return f'"{words}"'


def asked(server: str, text: str) -> str:
    """Return a server's question with the server's name before it, since clients attribute it to the bridge; without
    control characters."""
    lines = without_escapes(text).splitlines() or [""]
    return f"[server {server} asks:] " + "\n".join(one_line(line.expandtabs(4)) for line in lines)


def block(server: str, text: str, limit: int = INSTRUCTIONS_BYTES) -> str:
    """Return a text of several lines below a line with the server's name; indented, so that none of its lines looks
    like such a line, or like one of the bridge.

    Args:
        limit: bytes of the text, above which it is cut after a sentence or word.
    """
    lines = [one_line(line.expandtabs(4).rstrip()) for line in without_escapes(text[: 2 * limit]).splitlines()]
    while lines and not lines[0]:
        del lines[0]
    shown = "\n".join(f"  {line}" if line else "" for line in lines).rstrip()
    return f"[server {server} says:]\n{_up_to_a_sentence(shown, limit, cut=len(text) > 2 * limit)}"


def _up_to_a_sentence(text: str, limit: int, *, cut: bool) -> str:
    """Return at most `limit` bytes of the text, cut after a sentence, else a word, if one ends in the second half.

    Args:
        cut: the text itself is the beginning of a longer one.
    """
    encoded = text.encode(errors="surrogatepass")
    if len(encoded) <= limit and not cut:
        return text
    kept = encoded[: max(0, limit - len(_CUT.encode()))].decode(errors="ignore")
    for end in (_SENTENCE_END, _WORD_END):
        ends = [match.end() for match in end.finditer(kept, len(kept) // 2)]
        if ends:
            kept = kept[: ends[-1]]
            break
    return f"{kept.rstrip()}{_CUT}" if kept.strip() else ""
