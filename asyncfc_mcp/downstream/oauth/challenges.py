"""Challenges in `WWW-Authenticate` (RFC 9110, section 11.6.1), and what those of the Bearer scheme say.

Pure. Owns tolerance of what servers send: several challenges in one value or in several, values in quotation marks or
without, missing commas, garbage. Reads in linear time, and nothing raises. What to do about a challenge is left to
others.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MAX_CHARACTERS: Final = 16_384
"""Of all values together; the rest is not read."""
MAX_CHALLENGES: Final = 32
MAX_PARAMETERS: Final = 64
"""Of one challenge."""
MAX_SCOPES: Final = 200

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SEPARATOR: Final = re.compile(r"[\s,]+")
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[\s,]|$)")
_TOKEN68: Final = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|$))")
_NAME: Final = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE: Final = re.compile(r'[^\s,"]*')
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_GARBAGE: Final = re.compile(r"[^,]*")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge.

    Attributes:
        scheme: in lower case.
        params: names in lower case; of a name that is repeated, the first.
    """

    scheme: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """What the Bearer challenges of a response ask for; everything is empty if they do not say, or there is none.

    Attributes:
        resource_metadata: URL of the protected-resource metadata (RFC 9728), as it was sent.
        scopes: that the request needs.
        error, error_description: see RFC 6750, section 3.1.
    """

    resource_metadata: str = ""
    scopes: tuple[str, ...] = ()
    error: str = ""
    error_description: str = ""


def challenges_in(values: Sequence[str]) -> list[Challenge]:
    """Return the challenges in the values of `WWW-Authenticate`, in their order."""
    found: list[Challenge] = []
    left = MAX_CHARACTERS
    for value in values:
        _read(value[:left], found)
        left -= len(value)
        if left <= 0 or len(found) >= MAX_CHALLENGES:
            break
    return found


def _read(text: str, found: list[Challenge]) -> None:
    """Append the challenges of one value."""
    params: dict[str, str] | None = None
    at = 0
    while at < len(text):
        if (gap := _SEPARATOR.match(text, at)) is not None:
            at = gap.end()
        elif (name := _NAME.match(text, at)) is not None:
            at = name.end()
            value = (_QUOTED if text.startswith('"', at) else _BARE).match(text, at)
            if value is None:
                # The quotation mark is never closed. Its rest is not searched for more: that would be quadratic.
                return
            at = value.end()
            if params is not None and len(params) < MAX_PARAMETERS:
                content = _ESCAPE.sub(r"\1", value[1]) if value.re is _QUOTED else value[0]
                params.setdefault(name[1].lower(), content)
        elif (scheme := _SCHEME.match(text, at)) is not None:
            if len(found) >= MAX_CHALLENGES:
                return
            params = {}
            found.append(Challenge(scheme[1].lower(), MappingProxyType(params)))
            credentials = _TOKEN68.match(text, scheme.end())
            at = scheme.end() if credentials is None else credentials.end()
        else:
            garbage = _GARBAGE.match(text, at)
            at = max(at + 1, garbage.end() if garbage is not None else 0)


def bearer_challenge(values: Sequence[str]) -> BearerChallenge:
    """Return what the Bearer challenges in the values of `WWW-Authenticate` ask for.

    Of several, the first that names metadata counts, else the first.
    """
    bearer = [each.params for each in challenges_in(values) if each.scheme == "bearer"]
    if not bearer:
        return BearerChallenge()
    params = next((each for each in bearer if each.get("resource_metadata")), bearer[0])
    return BearerChallenge(
        params.get("resource_metadata", ""),
        scopes_in(params.get("scope", "")),
        params.get("error", ""),
        params.get("error_description", ""),
    )


def scopes_in(text: str) -> tuple[str, ...]:
    """Return the scopes in a list separated by spaces, each once, without those that are not valid (RFC 6749)."""
    return union(text.split())


def union(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return the valid scopes of all lists, each once, in their order."""
    scopes = dict.fromkeys(scope for each in lists for scope in each if _SCOPE.fullmatch(scope))
    return tuple(scopes)[:MAX_SCOPES]
