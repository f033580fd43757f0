"""Redaction of secrets in texts for people: names of variables, URLs, command lines, reasons.

Pure. Two criteria: secrets of a configuration (`secrets_of`) are removed wherever they appear, and text in the form of
a secret is hidden, since tokens are also pasted in place of names and addresses.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN: Final = "…"
SHORTEST_SECRET: Final = 6
"""Minimum characters of a value that is removed from texts: shorter ones would match ordinary words."""

_SECRET_NAME: Final = re.compile(
    r"(?i)token|secret|passw(?:or)?d|passphrase|(?:api|access|private)[-_]?key|auth|credential"
    r"|(?:^|[-_])(?:key|pass|pat|pwd|dsn|cookie|jwt|bearer)(?:$|[-_])"
)
_TOKEN_PREFIX: Final = re.compile(
    r"gh[opusr]_|github_pat_|glpat-|[spr]k[-_]|xox[a-z]-|xapp-|AKIA|ASIA|AIza|ya29\.|eyJ|SG\.|lin_api_|ntn_|dop_v1_"
)
_NAME_PART: Final = re.compile(
    r"[A-Z]{1,16}[0-9]{0,3}|[a-z]{1,16}|[A-Za-z0-9]{1,4}|[a-z]{1,16}(?:[A-Z][a-z]{1,12}){1,3}"
)
_URL: Final = re.compile(
    r"\b(?:https?|wss?|postgres(?:ql)?|mysql|mongodb(?:\+srv)?|redis|amqps?)://[^\s'\"<>)\]}]*[^\s'\"<>)\]}.,;:!?]",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    r"(?i)\b(?:(bearer|basic)(?:\s+|%20)(?!(?:auth|authentication|authorization|error|realm|scheme|scope|token)\b)"
    r"|(token)(?:\s+|%20)(?=\S*[0-9]))[A-Za-z0-9._~+/=-]{4,}"
)
"""Credentials after the name of an authentication scheme, except words and parameters of ordinary texts."""
_PAIR: Final = re.compile(r"(?i)^(-{0,2}[A-Za-z_][A-Za-z0-9_.-]*)([=:])(.*)$", re.DOTALL)


def looks_like_token(text: str) -> bool:
    """Return true for a word in the form of a credential rather than a name."""
    if _TOKEN_PREFIX.match(text):
        return True
    if len(text) < 16 or not re.fullmatch(r"[A-Za-z0-9_\-.~+/=]+", text):
        return False
    longest = max(re.split(r"[^A-Za-z0-9]+", text), key=len)
    mixed = sum(bool(re.search(kind, longest)) for kind in ("[A-Z]", "[a-z]", "[0-9]"))
    return (len(longest) >= 16 and mixed >= 2) or bool(re.fullmatch(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-.*", text))


def shown_name(name: str) -> str:
    """Return a variable's name; if it may be a pasted credential instead, at most its first characters."""
    parts = name.split("_")
    cases = {part.isupper() for part in parts if part.isalpha() and len(part) > 1}
    plain = len(name) <= 64 and len(cases) <= 1 and all(not part or _NAME_PART.fullmatch(part) for part in parts)
    if plain and not _TOKEN_PREFIX.match(name):
        return name
    return f"{name[:4]}{HIDDEN}" if len(name) > 8 and re.match(r"[A-Za-z0-9_-]{4}", name) else HIDDEN


def shown_url(url: str) -> str:
    """Return a URL without user, password, query, fragment, and parts of its path that look like credentials."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    address, *more = re.split(r"[?#]", rest, maxsplit=1)
    host, slash, path = address.partition("/")
    if "@" in path and re.search(r":(?!\d*$)[^\]]*$", host.rpartition("@")[2]):  # a password that contains "/"
        host, slash, path = path.rpartition("@")[2].partition("/")
    host = host.rpartition("@")[2]
    path = "/".join(HIDDEN if looks_like_token(unquote(part)) else part for part in path.split("/"))
    if not mark and looks_like_token(host):
        host = HIDDEN
    return f"{scheme}{mark}{host}{slash}{path}{f'?{HIDDEN}' if more else ''}"


def _words(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Return each word of a command line with secrets hidden, and the hidden part of it."""
    words: list[tuple[str, str]] = []
    hides = False
    for word in argv:
        pair = _PAIR.match(word)
        if hides and not word.startswith("-"):
            name, colon, value = word.partition(":")
            header = bool(colon) and re.fullmatch(r"[A-Za-z0-9-]+", name) is not None
            words.append((f"{name}:{HIDDEN}", value) if header else (HIDDEN, word))
        elif pair is not None and not pair[3].startswith("//") and is_secret_name(pair[1]):
            words.append((f"{pair[1]}{pair[2]}{HIDDEN}", pair[3]))
        elif looks_like_token(word):
            words.append((HIDDEN, word))
        else:
            words.append((without_secrets(word), ""))
        hides = word.startswith("-") and pair is None and (is_secret_name(word) or word in ("-H", "--header"))
    return words


def shown_command(argv: Sequence[str]) -> str:
    """Return a command line with values of secret options, tokens and parts of URLs hidden."""
    return " ".join(f'"{word}"' if " " in word else word for word, _ in _words(argv))


def is_secret_name(name: str) -> bool:
    """Return true where variables, headers or options of this name usually contain a secret."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(
    *,
    argv: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    url: str = "",
    others: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the values of one server's configuration that must not appear in texts, longest first.

    Args:
        others: values that are secret by themselves; of a text with lines, each line is one as well.
    """
    values = [line for value in others for line in (value, *value.splitlines())]
    values += [value for name, value in (env or {}).items() if is_secret_name(name)]
    values += [part for _, hidden in _words(argv) for part in (hidden, *hidden.split(" ")[1:])]
    for name, value in (headers or {}).items():
        if name.lower() not in ("accept", "content-type", "user-agent"):
            values += [value, *value.split(" ")[1:]]
    try:
        parts = urlsplit(url)
        values += [value for _, value in parse_qsl(parts.query)]
        values += [unquote(text) for text in (parts.password, parts.username) if text]
    except ValueError:
        pass
    found = {value.strip() for value in values}
    return tuple(sorted((value for value in found if len(value) >= SHORTEST_SECRET), key=len, reverse=True))


def passwords_of(url: str) -> tuple[str, ...]:
    """Return the password of a database's URL, as it is written and decoded, with those in its query."""
    try:
        parts = urlsplit(url)
        written = [parts.password or ""]
        for pair in parts.query.split("&"):
            name, _, value = pair.partition("=")
            if is_secret_name(name):
                written.append(value)
    except ValueError:
        return ()
    return tuple(text for each in written for text in {each, unquote(each)} if len(text) >= SHORTEST_SECRET)


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with these values, credentials after an authentication scheme, and secret parts of URLs
    hidden."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    text = _URL.sub(lambda match: shown_url(match[0]), text)
    return _SCHEME.sub(lambda match: f"{match[1] or match[2]} {HIDDEN}", text)
