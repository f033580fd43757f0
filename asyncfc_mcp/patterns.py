"""Regular expressions of servers' schemas, matched in bounded time.

Pure: no I/O. The only place where a server's pattern is matched against anything.
"""

import re
from typing import Final


def matches(pattern: str, text: str) -> bool:
    """Whether a schema's regular expression finds something in the text; one that Python cannot read finds nothing."""
    try:
        return not endless(pattern, text) and re.search(pattern, text) is not None
    except (re.error, OverflowError, RecursionError):
        return False


_REPEATED_GROUP: Final = re.compile(r"(?<!\\)\)[*+{]")
_UNBOUNDED: Final = re.compile(r"(?<!\\)[*+]|\{\d*,\}")


def endless(pattern: str, text: str) -> bool:
    """Whether a server's regular expression might take for ever on this text; then nothing is said of it.

    `re` cannot be interrupted, and a group that is repeated (`(a+)+`) or many open repetitions in a row can take time
    without bound. Such patterns are rare and only ever make a check stricter, so leaving them out costs little.
    """
    return (
        len(pattern) > 500
        or _REPEATED_GROUP.search(pattern) is not None
        or (len(text) > 1000 and len(_UNBOUNDED.findall(pattern)) > 1)
        or len(_UNBOUNDED.findall(pattern)) > 4
    )
