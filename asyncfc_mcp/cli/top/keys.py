"""Keys of a terminal: what it sends, as names of keys.

Pure. Owns the decoding of characters and escape sequences, which may arrive in pieces. Reading them is `terminal`'s.
"""

import codecs
import re
from typing import Final

_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|\[\[[A-E])")
_BEGUN: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
"""The beginning of a sequence, which is the key Escape if nothing follows."""
_NAMES: Final = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "4~": "end",
    "5~": "page-up",
    "6~": "page-down",
    "7~": "home",
    "8~": "end",
    "3~": "delete",
    "Z": "back-tab",
}
_CONTROL: Final = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x03": "ctrl-c",
    "\x04": "ctrl-d",
    "\x0c": "ctrl-l",
    "\x15": "ctrl-u",
    "\x17": "ctrl-w",
}
_LONGEST: Final = 64
"""Characters of a sequence that never ends, after which it is dropped."""


class Keys:
    """Decodes what a terminal sends."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def is_open(self) -> bool:
        """Whether the last characters may be the beginning of a sequence: call `close` if none follow soon."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete. A character is its own name; other keys have names."""
        text, self._rest = self._rest + self._decoder.decode(data), ""
        keys: list[str] = []
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                keys += _plain(text[at])
                at += 1
                continue
            if sequence := _SEQUENCE.match(text, at):
                keys += _named(sequence[0])
                at = sequence.end()
            elif _BEGUN.match(text, at) and len(text) - at < _LONGEST:
                self._rest = text[at:]
                break
            else:
                keys.append("escape")
                at += 1
        return keys

    def close(self) -> list[str]:
        """Return the keys that were held back, since nothing has followed."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest == "\x1b" else []


def _plain(character: str) -> list[str]:
    if name := _CONTROL.get(character):
        return [name]
    return [character] if character.isprintable() else []


def _named(sequence: str) -> list[str]:
    """Return the name of a sequence's key, whatever is held down with it; nothing if it is unknown."""
    body = sequence[2:]
    final = body[-1:]
    number = body.split(";")[0].rstrip("~")
    name = _NAMES.get(f"{number}~" if final == "~" else final)
    return [name] if name is not None else []
