"""Extracts the cause of a process's exit from its last output lines.

Pure. Owns the error formats of common runtimes and package runners: a traceback has the cause in its last line, an npm
report in the middle, and users need it first, in one short line. Reading the output is left to `process`.
"""

import re
from collections.abc import Sequence
from typing import Final

from asyncfc_mcp.quotation import one_line, without_escapes

CAUSE_LENGTH: Final = 300
"""Length limit of a cause, in characters."""
LINE_LENGTH: Final = 500
"""Length limit of a quoted line, in characters."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_EXCEPTION: Final = re.compile(
    r"(?:Uncaught |Unhandled exception\. |Exception in thread \"[^\"]*\" |Caused by: )?"
    r"(?P<name>(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Exit|Interrupt|Timeout|Warning|Failure|Refused|Group))"
    r"(?: \[[A-Z_0-9]+\])?(?::(?: (?P<said>.*))?)?$"
)
_PYTHON_PLACE: Final = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NODE_PLACE: Final = re.compile(r"\s+at .*?(?P<file>[^\s()/\\]+\.[cm]?[jt]s):(?P<line>\d+)(?::\d+)?\)?(?: \{)?$")
_NPM: Final = re.compile(r"npm (?:ERR!|error)\s+(?P<said>.*)")
_NPM_DETAIL: Final = re.compile(r"(?:code|path|errno|syscall|dest|A complete log|Log files|\s*\d+ verbose)\b|$")
_PANIC: Final = re.compile(r"thread '[^']*'.* panicked at (?:'(?P<said>[^']*)', )?(?P<place>[^\s,]+:\d+)")
_PLAIN: Final = re.compile(
    r"(?:\S+: )*(?:panic|[Ff]atal(?: error)?|[Ee]rror(?:\[\w+\])?|ERROR|×|✖|✘)(?::|\s+(?=\S)).+"
    r"|.*: (?:command )?not found$|.*(?:: |\] )No such file or directory.*",
)


def clean(line: str) -> str:
    """Return a line without terminal escape sequences, cut to `LINE_LENGTH`."""
    text = one_line(_CONTROLS.sub("", without_escapes(line[: 8 * LINE_LENGTH].replace("\t", "    "))).rstrip())
    return text if len(text) <= LINE_LENGTH else f"{text[: LINE_LENGTH - 1]}…"


def cause(lines: Sequence[str]) -> str | None:
    """Find the line with the cause of an exit, and add the source location; None if there is no such line."""
    cleaned = [clean(line) for line in lines]
    found = _exception(cleaned) or _panic(cleaned) or _npm(cleaned) or _plain(cleaned)
    return None if found is None else _short(found)


def _short(text: str) -> str:
    return text if len(text) <= CAUSE_LENGTH else f"{text[: CAUSE_LENGTH - 1]}…"


def _exception(lines: Sequence[str]) -> str | None:
    """Match Python, Node, Java and .NET: the last unindented line with an exception; of a group, its innermost one."""
    bare = [re.sub(r"^(?:\s*[|+][ -]*)+", "", line) if re.match(r"\s*[|+]", line) else line for line in lines]
    matches = [(i, match) for i, line in enumerate(bare) if (match := _EXCEPTION.fullmatch(line)) is not None]
    # A line with an exception name only ("Error") is no cause, unless it follows a traceback.
    matches = [(i, m) for i, m in matches if m["said"] or any(_PYTHON_PLACE.match(b) for b in bare[max(0, i - 12) : i])]
    inner = [(i, match) for i, match in matches if not match["name"].endswith("Group")] or matches
    if not inner:
        return None
    index, match = inner[-1]
    name = match["name"].rpartition(".")[2]
    said = [match["said"] or ""]
    if said[0].endswith(":") or "validation error" in said[0]:  # the details are on the next lines
        said += [line.strip() for line in bare[index + 1 : index + 4] if line.strip()]
    text = ": ".join(filter(None, [name, " ".join(said).strip()]))
    place = next((m for line in reversed(bare[:index]) if (m := _PYTHON_PLACE.match(line))), None) or next(
        (m for line in bare[index + 1 :] if (m := _NODE_PLACE.match(line))), None
    )
    if place is None:
        return text
    file = re.split(r"[/\\]", place["file"])[-1]
    return f"{_short(text)[: CAUSE_LENGTH - 60]} ({file}, line {place['line']})"


def _panic(lines: Sequence[str]) -> str | None:
    for index, line in enumerate(lines):
        if match := _PANIC.search(line):
            said = match["said"] or next((below.strip() for below in lines[index + 1 :] if below.strip()), "")
            return f"panic: {said} ({match['place']})"
    return None


def _npm(lines: Sequence[str]) -> str | None:
    said = [match["said"].strip() for line in lines if (match := _NPM.match(line))]
    useful = [text for text in said if not _NPM_DETAIL.match(text)]
    if not useful:
        return None
    code = next((f"{text.removeprefix('code ')}: " for text in said if text.startswith("code ")), "")
    return f"npm: {code}{useful[0]}"


def _plain(lines: Sequence[str]) -> str | None:
    for index, line in enumerate(lines):
        if _PLAIN.fullmatch(line.strip()):
            below = lines[index + 1].strip() if index + 1 < len(lines) else ""
            return f"{line.strip()} {below.lstrip('╰─▶ ')}" if below.startswith("╰") else line.strip()
    return None


def explained(how: str, lines: Sequence[str]) -> str:
    """Return a predicate such as "it exited with code 1" after the cause, or else followed by the last line."""
    if (why := cause(lines)) is not None:
        return f"{why}; {how}"
    last = next((text for line in reversed(lines) if (text := clean(line).strip())), "")
    return f"{how}; its last line on stderr: {_short(last)}" if last else how
