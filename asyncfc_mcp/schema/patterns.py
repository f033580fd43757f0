"""Matching of regular expressions in servers' schemas, in linear time.

Pure: no I/O. The only module that matches a server's pattern. JSON Schema uses patterns of ECMA-262; Python's `re`
backtracks and cannot be interrupted, so they are translated for the automaton of Rust's `regex`, which is part of
`pydantic_core`. Look-arounds and back-references are not regular; such a pattern gives no result here, and the server
validates it.
"""

import re
from functools import lru_cache
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

_LONGEST_PATTERN: Final = 2_000
_MAX_STATES: Final = 6_000
"""Maximum states of the automaton, estimated: 1 ms to build for each thousand (measured)."""
_FEW_STATES: Final = 8
"""Maximum states of an automaton that becomes deterministic and small: 3 ns for each character."""
_MAX_WORK: Final = 3_000_000
"""Maximum of characters times states; 13 ns each where the automaton is not deterministic, so 40 ms (measured)."""
_MAX_TEXT: Final = 8_000_000

_ANY_STATES: Final = 12
"""States for the UTF-8 of nearly any character."""
_WORD_STATES: Final = 300
"""States for the UTF-8 of all letters."""


class _Untranslatable(Exception):
    """A construct that is not regular, not part of ECMA-262, or too large."""


def matches(pattern: str, text: str) -> bool | None:
    """Return whether the pattern matches in the text; None where that cannot be decided in bounded time.

    ECMA-262 and the engines of Python servers differ in a few points (`\\d` and `\\w` beyond ASCII, `.` and carriage
    returns, `$` before a final line end). False only where the text matches in neither of them.
    """
    ascii_only = text.isascii()
    if not ascii_only and not _is_unicode(text):
        return None
    if (found := _search(pattern, text, ascii_only, False)) is not False:
        return found
    if not ascii_only or "\r" in text:
        found = _search(pattern, text, ascii_only, True)
    if found is False and text.endswith("\n"):
        found = _search(pattern, text[:-1], ascii_only, True)
    return found


def _is_unicode(text: str) -> bool:
    """Return true where UTF-8 can encode the text: not with lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _search(pattern: str, text: str, ascii_only: bool, broad: bool) -> bool | None:
    if len(text) > _MAX_TEXT or (made := _automaton(pattern, ascii_only, broad)) is None:
        return None
    automaton, states = made
    if states > _FEW_STATES and states * len(text) > _MAX_WORK:
        return None
    return automaton.isinstance_python(text)


def matching_cost(pattern: str, text: str) -> int:
    """Estimate the time that `matches` takes, in microseconds."""
    made = _automaton(pattern, text.isascii(), False)
    return 1 if made is None else 1 + min(made[1] * len(text), _MAX_WORK) // 100


@lru_cache(maxsize=512)
def _automaton(pattern: str, ascii_only: bool, broad: bool) -> tuple[SchemaValidator, int] | None:
    """Compile a pattern, for texts of ASCII only or for all; None where it cannot be translated.

    Automata for ASCII alone are much smaller: `^.{1,5000}$` takes 5 ms and not 130.

    Args:
        broad: interpret `\\d`, `\\w`, `\\s`, `\\b` and `.` as Python does.
    """
    if len(pattern) > _LONGEST_PATTERN:
        return None
    try:
        source, states = _Translation(pattern, ascii_only, broad).run()
        schema = core_schema.str_schema(pattern=source, regex_engine="rust-regex")
        return SchemaValidator(schema), states
    except (_Untranslatable, SchemaError, UnicodeEncodeError):
        return None


_QUANTIFIER: Final = re.compile(r"[*+?]|\{(\d{1,9})(?:(,)(\d{0,9}))?\}")
_OPENED: Final = re.compile(r"\?(?::|<[A-Za-z_$][\w$]*>)")
_HEX: Final = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_PROPERTY: Final = re.compile(r"[pP]\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}")
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "v": "\v", "f": "\f"}
_ECMA_SPACE: Final = r"\t\n\x0B\x0C\r\p{Zs}\x{FEFF}\x{2028}\x{2029}"
_ECMA_CLASSES: Final = {
    "d": "[0-9]",
    "D": "[^0-9]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
    "s": f"[{_ECMA_SPACE}]",
    "S": f"[^{_ECMA_SPACE}]",
}


def _quoted(char: str) -> str:
    return char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):X}}}"


class _Group:
    """Open group: states of its content, and of its last atom."""

    __slots__ = ("last", "repeatable", "states")

    def __init__(self) -> None:
        self.states = self.last = 0
        self.repeatable = False


class _Translation:
    """Translation of one pattern."""

    def __init__(self, pattern: str, ascii_only: bool, broad: bool) -> None:
        self._pattern = pattern
        self._ascii = ascii_only
        self._broad = broad
        self._at = 0
        self._out: list[str] = []
        self._groups = [_Group()]

    def run(self) -> tuple[str, int]:
        """Return the pattern in the syntax of `regex`, and an estimate of its states.

        Raises:
            _Untranslatable: it has no equivalent.
        """
        while self._at < len(self._pattern):
            self._step()
        if len(self._groups) != 1:
            raise _Untranslatable
        return "".join(self._out), self._groups[0].states + 1

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise _Untranslatable
        char = self._pattern[self._at]
        self._at += 1
        return char

    def _emit(self, text: str, states: int, *, repeatable: bool = True) -> None:
        self._out.append(text)
        group = self._groups[-1]
        group.states += states
        group.last = states
        group.repeatable = repeatable
        if group.states > _MAX_STATES:
            raise _Untranslatable

    def _step(self) -> None:
        if (quantifier := _QUANTIFIER.match(self._pattern, self._at)) is not None:
            self._repeat(quantifier)
            return
        char = self._next()
        match char:
            case "{" if self._pattern.startswith(",", self._at):  # a quantifier in Python, text in ECMA-262
                raise _Untranslatable
            case "(":
                self._open()
            case ")":
                self._close()
            case "|":
                self._emit("|", 1, repeatable=False)
            case "^" | "$":
                self._emit(char, 1, repeatable=False)
            case ".":
                self._emit_class("[^\\n]" if self._broad else "[^\\n\\r\\x{2028}\\x{2029}]", _ANY_STATES)
            case "[":
                self._emit_class(*self._class())
            case "\\":
                self._escape()
            case _:
                self._emit(_quoted(char), 1)

    def _emit_class(self, text: str, states: int) -> None:
        if self._ascii:
            self._emit(f"[{text}&&[\\x00-\\x7F]]", 1)
        else:
            self._emit(text, states)

    def _open(self) -> None:
        if self._pattern.startswith("?", self._at):
            opened = _OPENED.match(self._pattern, self._at)
            if opened is None:  # look-arounds, flags
                raise _Untranslatable
            self._at = opened.end()
        self._out.append("(?:")
        self._groups.append(_Group())
        if len(self._groups) > 100:
            raise _Untranslatable

    def _close(self) -> None:
        if len(self._groups) == 1:
            raise _Untranslatable
        group = self._groups.pop()
        self._emit(")", group.states + 1)

    def _repeat(self, quantifier: re.Match[str]) -> None:
        group = self._groups[-1]
        if not group.repeatable:
            raise _Untranslatable
        self._at = quantifier.end()
        self._out.append(quantifier.group())
        if self._pattern.startswith("?", self._at):  # lazy: irrelevant, since only the existence of a match counts
            self._at += 1
        least, comma, most = quantifier.groups(default="")
        times = int(most or least or 1) + (bool(comma) and not most)
        if most and int(most) < int(least):
            raise _Untranslatable
        group.repeatable = False
        group.states += group.last * (max(times, 1) - 1) + 1
        if group.states > _MAX_STATES:
            raise _Untranslatable

    def _escape(self) -> None:
        char = self._pattern[self._at : self._at + 1]
        if char in ("b", "B"):
            self._at += 1
            self._emit(f"\\{char}" if self._broad and not self._ascii else f"(?-u:\\{char})", 1, repeatable=False)
            return
        text, states, single = self._escaped()
        if single is None:
            self._emit_class(text, states)
        else:
            self._emit(_quoted(single), 1)

    def _escaped(self) -> tuple[str, int, str | None]:
        """Parse an escape after its backslash; return a class, its states and None, or a character as the last item."""
        if (coded := _HEX.match(self._pattern, self._at)) is not None:
            self._at = coded.end()
            code = int(coded.group().lstrip("xu").strip("{}"), 16)
            if code > 0x10FFFF:
                raise _Untranslatable
            return "", 1, chr(code)
        if (unicode := _PROPERTY.match(self._pattern, self._at)) is not None:
            self._at = unicode.end()
            return "\\" + unicode.group(), _WORD_STATES, None
        char = self._next()
        if (known := _ECMA_CLASSES.get(char)) is not None:
            return (f"\\{char}" if self._broad else known), _WORD_STATES if self._broad else _ANY_STATES, None
        if (control := _CONTROLS.get(char)) is not None:
            return "", 1, control
        if char == "0" and not self._pattern[self._at : self._at + 1].isdigit():
            return "", 1, "\0"
        if char.isalnum() or char == "_":  # back-references, `\A`, `\cX` and undefined escapes
            raise _Untranslatable
        return "", 1, char

    def _class(self) -> tuple[str, int]:
        """Parse a class after its bracket."""
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        parts: list[str] = []
        states = _ANY_STATES if negated else 1
        while True:
            text, more, single = self._member()
            if text == "]" and single is None:
                break
            states += more
            if single is None:
                parts.append(text)
            elif (
                self._pattern.startswith("-", self._at)
                and not self._pattern.startswith("]", self._at + 1)
                and (end := self._range_end()) is not None
            ):
                if end < single:
                    raise _Untranslatable
                parts.append(f"{_quoted(single)}-{_quoted(end)}")
            else:
                parts.append(_quoted(single))
        if not parts:  # `[]` and `[^]`
            raise _Untranslatable
        return f"[{'^' if negated else ''}{''.join(parts)}]", states

    def _range_end(self) -> str | None:
        """Parse `-` and the last character of a range; None, without progress, where a class follows."""
        start, self._at = self._at, self._at + 1
        _, _, single = self._member()
        if single is None:
            self._at = start
        return single

    def _member(self) -> tuple[str, int, str | None]:
        char = self._next()
        if char == "]":
            return char, 0, None
        if char != "\\":
            return "", 1 if char.isascii() else 4, char
        if self._pattern.startswith("b", self._at):
            self._at += 1
            return "", 1, "\b"
        return self._escaped()
