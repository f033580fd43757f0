"""Reading of the settings that concern several replicas: the engine, its secret, and who runs a server.

Owns what is a valid engine, and that no message shows its password.
"""

import re
from collections.abc import Mapping
from platform import node
from typing import Any, Final
from urllib.parse import urlsplit

from asyncfc_mcp.config.checker import Checker, shown
from asyncfc_mcp.config.settings import EMBEDDED, Settings
from asyncfc_mcp.redaction import shown_url

SHORTEST: Final = 16
"""Minimum characters of a secret. Everybody who gets something sealed can try secrets on it."""
_ENGINES: Final = f"{EMBEDDED!r}, or a URL such as 'postgresql://user:${{PASSWORD}}@host/database'"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class _Recorded(dict[str, str]):
    """Environment that records which variables are used."""

    def __init__(self, environ: Mapping[str, str], used: set[str]) -> None:
        super().__init__(environ)
        self._used = used

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self._used.add(key)
        return super().get(key, default)


def read_secret(check: Checker, value: Any, path: str, used: set[str]) -> str | None:
    """Return the secret that replicas share.

    Args:
        used: gets the names of the environment variables that it comes from.

    Raises:
        ConfigError: it is too short; its value is not shown.
    """
    if value is None:
        return None
    text = _expanded(check, value, path, used)
    if len(text) < SHORTEST:
        found = f"found {len(text)} characters"
        raise check.fail(path, found, f"{SHORTEST} or more, such as the output of 'openssl rand -hex 32'")
    return text


def read_engine(check: Checker, value: Any, path: str, used: set[str]) -> str:
    """Return `embedded` or the URL of a database; arguments are those of `read_secret`.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, str):
        raise check.fail(path, f"found {shown(value)}", _ENGINES)
    text = _expanded(check, value, path, used).strip()
    if text == EMBEDDED:
        return text
    scheme, mark, _ = text.partition("://")
    if not mark or scheme not in ("postgresql", "postgres") or re.search(r"[\x00-\x20\x7f]", text):
        # What a variable held may be a password without its URL.
        found = _shown(text) if "://" in text or text == value.strip() else "other text"
        raise check.fail(path, f"found {found}", _ENGINES)
    try:
        # Several hosts may be listed, each with its port: then `port` cannot be read.
        parts = urlsplit(text)
        invalid = parts.port == 0 if "," not in parts.netloc else False
    except ValueError:
        invalid = True
    if invalid:
        raise check.fail(path, f"found {_shown(text)}, whose port or host is invalid", _ENGINES)
    return text


def read_name(check: Checker, value: Any, path: str, expected: str) -> str:
    """Return the name of a replica.

    Raises:
        ConfigError: it is none.
    """
    text = check.expanded(value, path, check.variables()).strip() if isinstance(value, str) else ""
    if not _NAME.fullmatch(text):
        raise check.fail(path, f"found {shown(value)}", expected)
    return text


def replica_name(settings: Settings) -> str:
    """Return the name of this replica."""
    return settings.replica or node() or "replica"


def _expanded(check: Checker, value: Any, path: str, used: set[str]) -> str:
    return check.expanded(value, path, check.variables(_Recorded(check.environ, used)))


def _shown(text: str) -> str:
    """Return what was found in place of an engine, if it is short or a URL; else it may be a secret."""
    if "://" in text:
        scheme, mark, rest = shown_url(text).partition("://")
        return shown(scheme + mark + rest.partition("/")[0])
    return shown(text) if re.fullmatch(r"[a-z0-9_ -]{0,20}", text, re.IGNORECASE) else "other text"
