"""Text in cells of a terminal: columns of one width, whatever the script of a name.

Pure. Texts have been made one line without control characters by `words`; wide characters take two cells.
"""

from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len, set_cell_size

MORE: Final = "…"


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return a text of exactly `width` cells: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    length = cell_len(text)
    if length > width:
        return set_cell_size(set_cell_size(text, width - 1) + MORE, width)
    padding = " " * (width - length)
    return padding + text if right else text + padding


def widest(texts: Iterable[str], least: int, most: int) -> int:
    """Return the cells of the widest text, within bounds."""
    return min(most, max(least, *(cell_len(text) for text in texts), 0))


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Return a text in lines of at most `width` cells, at most `lines` of them; the last one is cut."""
    found: list[str] = []
    rest = text
    while rest and len(found) < lines - 1 and cell_len(rest) > width:
        head = set_cell_size(rest, width)
        # A wide character that does not fit is replaced with a space at the end, which is no part of the text.
        taken = len(head) if rest.startswith(head) else max(1, len(head) - 1)
        space = rest.rfind(" ", 0, taken + 1)
        cut = space if space > taken // 2 else taken
        found.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        found.append(fit(rest, width).rstrip())
    return found
