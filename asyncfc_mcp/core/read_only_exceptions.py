"""Barriers: tools annotated as read-only that are more than reads, since they wait, switch or save something.

Owns their detection by words in a tool's definition. `browser_wait_for` of Playwright changes nothing, so it is
annotated as read-only, but calls after it rely on the wait. A false positive costs some concurrency; a miss causes a
wrong result."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_WAIT: Final = frozenset({"await", "barrier", "delay", "pause", "sleep", "wait"})
_CHANGE: Final = frozenset({"activate", "focus", "hide", "highlight", "resume", "save", "start", "stop", "switch"})
_SELECT: Final = frozenset({"account", "device", "frame", "page", "project", "session", "tab", "target", "window"})
"""Objects of "select" in the sense of switching; otherwise it is a query."""
_ASK: Final = frozenset(
    "analyze calculate compare count describe estimate export fetch find get list load lookup predict query read "
    "retrieve search show summarize view".split()
)
"""Verbs after which the other words are nouns: `get_wait_times`, `list_sleep`."""
_NOUNS: Final = frozenset(
    "analysis data date history info information list lists log logs queue quality record records report reports room "
    "score scores session sessions stage stages statistics stats summary times".split()
)
"""Words before which the other words are nouns: `wait_times`, `sleep.summary`."""
_SAVES: Final = re.compile(r"\b(?:sav(?:e|ed|es|ing)|writ(?:e|es|ten)|download(?:ed|s)?)\b", re.IGNORECASE)
_FILE: Final = re.compile(r"file|path", re.IGNORECASE)


def barrier_reason(definition: Mapping[str, object]) -> str | None:
    """Return the reason, in words, why a tool that is annotated as read-only is a barrier; None if it is not."""
    name = definition.get("name")
    words = _words(name) if isinstance(name, str) else []
    if _waits(words):
        return "its name says that it waits"
    annotations = definition.get("annotations")
    own = cast("dict[str, object]", annotations) if isinstance(annotations, dict) else {}
    for field, text in (
        ("title", definition.get("title")),
        ("title", own.get("title")),
        ("description", definition.get("description")),
    ):
        if isinstance(text, str) and _begins_with_wait(text):
            return f"its {field} says that it waits"
    if _changes(words):
        return "its name says that it changes something"
    saved = _saved_file(definition.get("inputSchema"))
    return f"it saves a file ({saved})" if saved is not None else None


def _words(text: str) -> list[str]:
    """Return the words of a name in any usual spelling: `waitForSelector`, `browser_wait_for`, `time.sleep`."""
    return [word.lower() for word in _WORD.findall(text)]


def _waits(words: Sequence[str]) -> bool:
    for at, word in enumerate(words):
        if word in _ASK:
            return False
        following = words[at + 1] if at + 1 < len(words) else ""
        if word == "until" and following:
            return True
        if word in _WAIT or word.startswith("waitfor"):
            return not (following in _NOUNS or (following in _ASK and at + 2 == len(words)))
    return False


def _changes(words: Sequence[str]) -> bool:
    for at, word in enumerate(words):
        if word in _ASK:
            return False
        following = words[at + 1] if at + 1 < len(words) else ""
        if (word in _CHANGE and following not in _NOUNS | _ASK) or (word == "select" and following in _SELECT):
            return True
    return False


def _begins_with_wait(text: str) -> bool:
    """Return true where a text begins with the verb, as in "Waits for text to appear"."""
    first, following = [*_words(text[:100]), "", ""][:2]
    return (first in _WAIT or first.removesuffix("s") in _WAIT) and following not in _NOUNS


def _saved_file(schema: object) -> str | None:
    """Return the argument that names a file to save, according to its description; None without one."""
    properties = cast("dict[str, object]", schema).get("properties") if isinstance(schema, dict) else None
    for name, argument in cast("dict[str, object]", properties).items() if isinstance(properties, dict) else ():
        description = cast("dict[str, object]", argument).get("description") if isinstance(argument, dict) else None
        if isinstance(description, str) and _FILE.search(name) and _SAVES.search(description[:300]):
            return name
    return None
