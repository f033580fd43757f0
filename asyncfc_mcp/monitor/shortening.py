"""Shortening: a JSON value of any size, as much of it as a reader is shown.

Pure. Bounded: it looks at no more of a value than it returns.
"""

from typing import Any, Final, cast

TEXT: Final = 20_000
"""Characters of one text."""
ALL: Final = 200_000
"""Characters of all texts and keys together, with `ITEM` for each value."""
ITEM: Final = 8
DEPTH: Final = 40
"""Levels of objects and arrays."""


def shortened(value: Any, limit: int = ALL) -> tuple[Any, bool]:
    """Return a value, and whether something was left out. Texts are cut with `…`, objects and arrays end early, and
    what is nested too deeply is replaced by `…`."""
    shortening = _Shortening(limit)
    return shortening.copy(value, 0), shortening.cut


class _Shortening:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self.cut = False

    def copy(self, value: Any, depth: int) -> Any:
        self._left -= ITEM
        if isinstance(value, str):
            return self._text(value)
        if not isinstance(value, dict | list):
            return value
        if depth >= DEPTH:
            self.cut = True
            return "…"
        if isinstance(value, list):
            items: list[Any] = []
            for item in cast("list[Any]", value):
                if self._is_full():
                    break
                items.append(self.copy(item, depth + 1))
            return items
        members: dict[str, Any] = {}
        for key, item in cast("dict[str, Any]", value).items():
            if self._is_full():
                break
            members[self._text(key)] = self.copy(item, depth + 1)
        return members

    def _is_full(self) -> bool:
        self.cut = self.cut or self._left <= 0
        return self._left <= 0

    def _text(self, text: str) -> str:
        room = max(0, min(TEXT, self._left))
        self._left -= min(len(text), room)
        if len(text) <= room:
            return text
        self.cut = True
        return f"{text[:room]}…"
