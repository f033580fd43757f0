"""Words of servers beside words of the bridge: one line, bounded, without control characters, in quotation marks.

Pure. Models, terminals and log files take a line end, an escape sequence or a forged line for the bridge's own. The one
place that removes them; results and the titles and descriptions of tools are the server's own and stay as they are.
"""

import re
from typing import Final

LINE_LENGTH: Final = 200
"""Longest text of a server within a line of ours, in characters."""
REASON_LENGTH: Final = 1000
"""Longest reason that a server gives for a failure, in characters."""
INSTRUCTIONS_LENGTH: Final = 4000
"""Longest instructions of one server, in characters."""

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]"
)
_SPARE: Final = 4
"""Characters that are read for each one that is shown; a longer text is cut before anything else is done with it."""


def one_line(text: str) -> str:
    """The text with everything escaped that would break the line, or that a terminal would take for a command."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_escapes(text: str) -> str:
    """The text without terminal sequences."""
    return _ESCAPES.sub("", text) if "\x1b" in text or "\x9b" in text else text


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def said(text: str, limit: int = LINE_LENGTH) -> str:
    """A server's text as one line of at most `limit` characters, without control characters."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[: _SPARE * limit]
    return shortened(one_line(" ".join(without_escapes(cut).split())), limit)


def quoted(text: str, limit: int = LINE_LENGTH) -> str:
    """A server's text within a line of ours, in quotation marks that it cannot close."""
    words = said(text, limit).replace('"', "'")
    return f'"{words}"'


def block(server: str, text: str, limit: int = INSTRUCTIONS_LENGTH) -> str:
    """Text of several lines under a line that says which server's it is; indented, so that no line of it looks like
    such a line, or like ours."""
    lines = [one_line(line.expandtabs(4).rstrip()) for line in without_escapes(text[: 2 * limit]).splitlines()]
    while lines and not lines[0]:
        del lines[0]
    shown = "\n".join(f"  {line}" if line else "" for line in lines).rstrip()
    return f"[server {server} says:]\n{shortened(shown, limit)}"
