"""Keys of objects: names of fields, which may be shown to anyone, or data, which may not.

Pure. A result is someone's data, and in a map keyed by user names, IDs, paths or tokens its keys are as well. Owns the
judgement of one key from its form and its words; the evidence of several results is left to `learned_shapes`.
"""

import math
import re
from collections.abc import Container, Iterable
from enum import Enum
from functools import lru_cache
from typing import Final

from asyncfc_mcp.core.field_words import DATA_WORDS, FIELD_WORDS, NUMBERED_WORDS

LONGEST_NAME: Final = 40
"""Maximum characters of a name that is shown."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PUNCTUATED: Final = re.compile(r"[@$_]{0,2}[A-Za-z][A-Za-z0-9_]*(?:[-: ][A-Za-z][A-Za-z0-9_]*){0,4}", re.ASCII)
_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", re.ASCII)
_TRAILING_DIGITS: Final = re.compile(r"[0-9]+$", re.ASCII)

_LIGHT: Final = frozenset(
    "address amount at code content count data date description email error file format id ids index info item "
    "items key language length level line link list location max message min mode model name number order page path "
    "price rate result results score size start state status text time timestamp title total type unit units url "
    "user value version x y".split()
)
"""Words that are one token also behind another part of a name."""


class Key(Enum):
    """Judgement of a key from its form and its words."""

    FIELD = "field"
    """An identifier of public words. It is shown wherever it occurs."""
    HIDDEN = "hidden"
    """Public words, but no identifier (`content-type`, `@id`): a field that is never shown."""
    UNKNOWN = "unknown"
    """An identifier of which nothing is known: a name of this server, or data."""
    DATA = "data"
    """An ID, a path, a date, an address, a number, a given name. Its object is a map."""


def is_identifier(name: object) -> bool:
    """Return true for a name that may stand in a description: an ASCII identifier of bounded length."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and _IDENTIFIER.fullmatch(name) is not None


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, those of identifiers in it one by one."""
    return frozenset(part.lower() for part in _PARTS.findall(text))


def judge(key: str, public: Container[str] = frozenset()) -> Key:
    """Return the judgement of a key.

    Args:
        public: further words that are public, in lower case: those of the tool's own entry in the listing.
    """
    if not key or len(key) > LONGEST_NAME or not key.isascii():
        return Key.DATA
    identifier = _IDENTIFIER.fullmatch(key) is not None
    if not identifier and not _PUNCTUATED.fullmatch(key):
        return Key.DATA
    parts = [part.lower() for part in _PARTS.findall(key)]
    if key.lower() in NUMBERED_WORDS or (parts and all(_is_public(part, public) for part in parts)):
        return Key.FIELD if identifier else Key.HIDDEN
    if not identifier or not parts or _looks_like_data(key, parts):
        return Key.DATA
    return Key.UNKNOWN


def _is_public(word: str, public: Container[str]) -> bool:
    if word in FIELD_WORDS or word in public:
        return True
    # Plurals and singulars: the tool's description says "flight", the key is "flights".
    if word.endswith("ies") and _known(word[:-3] + "y", public):
        return True
    if word.endswith("s") and len(word) > 3 and (_known(word[:-1], public) or _known(word[:-2], public)):
        return True
    return f"{word}s" in public and word not in DATA_WORDS


def _known(word: str, public: Container[str]) -> bool:
    return word in FIELD_WORDS or word in public


def _looks_like_data(key: str, parts: list[str]) -> bool:
    """Return true for a key with a given name or a date in it, or with digits as IDs and tokens have them."""
    if any(part in DATA_WORDS for part in parts):
        return True
    runs = re.findall(r"[0-9]+", key)
    # `line1` is a name, `user_17`, `a3f9` and `2024_01_01` are data.
    return bool(runs) and (len(runs) > 1 or len(runs[0]) > 1 or not key.endswith(runs[0]))


def are_numbered(keys: Iterable[str]) -> bool:
    """Return true where several keys differ only in the number at their end (`q1`, `q2`)."""
    stems: set[str] = set()
    for key in keys:
        if key[-1:].isdigit() and key.lower() not in NUMBERED_WORDS:
            stem = _TRAILING_DIGITS.sub("", key)
            if stem in stems:
                return True
            stems.add(stem)
    return False


@lru_cache(maxsize=4096)
def most_tokens(name: str) -> int:
    """Return an upper bound of the tokens of a name, from the form of its parts.

    Measured with o200k_base: a common word is one token with the space before it; a part of other letters is at most
    one token for each, and about two thirds as many if it can be pronounced.
    """
    total = name.count("_") if name.startswith("_") else 0
    for number, part in enumerate(_PARTS.findall(name)):
        word = part.lower()
        if word in FIELD_WORDS and (part == word or part == word.title()):
            total += 1 if (number == 0 and part == word) or word in _LIGHT else 2
        else:
            vowels = sum(letter in "aeiouy" for letter in word) / len(word)
            share = 0.55 if 0.25 <= vowels <= 0.65 and (part == word or part == word.title()) else 0.8
            total += math.ceil(share * len(word)) + (0 if number == 0 and len(word) == 1 else 1)
    return max(total, len(name) if not _PARTS.search(name) else 1)
