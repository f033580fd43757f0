"""Tokens of persons: a file with a hash of each person's tokens, read again whenever it changes.

Owns the form of the file, its protection, and what a change of it ends. Leaves the token of the environment to
`bearer_token`.

A hash is a plain SHA-256. Slow hashes (scrypt, Argon2) and salts protect words that people choose, which an attacker
can guess; a token is 256 random bits, which nobody can guess at any speed, and every request would pay for a slow hash.
"""

import hashlib
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import PERSON, Principal, Scope
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import said
from asyncfc_mcp.redaction import HIDDEN, looks_like_token
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.auth.bearer_token import TokenTable

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Interval between two looks at the file: a person who is removed loses access after it at the latest."""
FRESH_S: Final = 2.0
MAX_BYTES: Final = 4 << 20
"""Bound on the file: some 40,000 persons."""
TOKEN_BYTES: Final = 32
PREFIX: Final = "afc_"
"""Beginning of new tokens, so that people and scanners of repositories recognise one."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""Names of persons. No colon, which would make a name look like the other keys of access rules."""
SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
"""An OAuth scope (RFC 6749, section 3.3)."""
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_FORM: Final = 'NAME = "sha256:…", as `asyncfc-mcp token NAME` prints it'


class UnusableTokenFile(BridgeError):
    """The file of `--auth-tokens` cannot be used.

    Args:
        fault: what is wrong with it, as a predicate; without any hash.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"--auth-tokens: {path} {fault}")


class InvalidName(BridgeError):
    """A name that a person cannot have."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{said(name)} cannot be the name of a person: use at most 64 letters, digits and . _ @ + -, and begin "
            f"with a letter or a digit"
        )


def new_token(name: str, scopes: tuple[str, ...] = ()) -> tuple[str, str]:
    """Return a new token of a person, and the line of the file that admits it.

    Raises:
        InvalidName: the name is invalid.
    """
    if not NAME.fullmatch(name):
        raise InvalidName(name)
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    digest = f'"sha256:{hashlib.sha256(token.encode()).hexdigest()}"'
    key = name if _BARE.fullmatch(name) else f'"{name}"'
    if not scopes:
        return token, f"{key} = {digest}"
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return token, f"{key} = {{ tokens = [{digest}], scopes = [{listed}] }}"


def read_tokens(text: str) -> dict[bytes, Principal]:
    """Return the principals in a file, by the digests of their tokens.

    Raises:
        ValueError: with the fault, as a predicate.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        # What `asyncfc-mcp token NAME >> FILE` leads to for a person who has a token already.
        twice = "; is a name there twice? Tokens of one person are a list" if "overwrite" in str(exc) else ""
        raise ValueError(f"is not valid TOML: {exc}{twice}") from None
    found: dict[bytes, Principal] = {}
    for name, entry in entries.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"has a line for {_shown(name)}, which cannot be the name of a person")
        hashes, grants = _entry(_shown(name), entry)
        principal = Principal(Scope(PERSON + name), name, grants)
        for digest in hashes:
            if found.setdefault(digest, principal) is not principal:
                raise ValueError(f"has one token for two persons: {found[digest].name} and {name}")
    return found


def _shown(name: str) -> str:
    """Return a name for display: in place of one, a token may have been pasted."""
    return HIDDEN if name.startswith(PREFIX) or looks_like_token(name) else said(name)


def _entry(name: str, entry: Any) -> tuple[list[bytes], frozenset[str] | None]:
    grants = None
    if isinstance(entry, dict):
        table = cast("dict[str, Any]", entry)
        if unknown := set(table) - {"tokens", "scopes"}:
            raise ValueError(f"has an unknown key for {name}: {_shown(min(unknown))}; expected tokens and scopes")
        if "scopes" in table:
            scopes = table["scopes"]
            if not isinstance(scopes, list) or not all(
                isinstance(scope, str) and SCOPE.fullmatch(scope) for scope in cast("list[Any]", scopes)
            ):
                raise ValueError(f"has scopes for {name} that are no list of OAuth scopes")
            grants = frozenset(cast("list[str]", scopes))
        entry = table.get("tokens", [])
    values = cast("list[Any]", entry) if isinstance(entry, list) else [entry]
    matches = [_HASH.fullmatch(value) if isinstance(value, str) else None for value in values]
    if not matches or None in matches:
        # A token in plain text is the most likely mistake, so nothing of the value is shown.
        raise ValueError(f"has no hash of a token for {name}; expected {_FORM}")
    return [bytes.fromhex(match[1]) for match in matches if match is not None], grants


class TokenFile(TokenTable):
    """Persons with tokens of their own.

    Args:
        path: the file.

    Raises:
        UnusableTokenFile: it cannot be read, is invalid, or can be written by everybody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__({})
        self._state: object = None
        self._missing = self._warned = False
        self._admit(self._read())

    @property
    def names(self) -> set[str]:
        """Names of the persons that have a token at present."""
        return {access.principal.name for access in self._access.values() if access.principal.name is not None}

    @property
    def anyone(self) -> Access | None:
        """See `Authenticator`."""
        return None

    @property
    def lapses(self) -> bool:
        """See `Authenticator`."""
        return True

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read the file whenever it has changed, until cancelled."""
        task_status.started()
        while True:
            await anyio.sleep(POLL_S)
            self.refresh()

    def refresh(self) -> None:
        """Read the file if it has changed. A file that has become invalid changes nothing, since one wrong line must
        not lock everybody out; one that stays away admits nobody."""
        try:
            state: object = _state_of(os.stat(self._path))
        except FileNotFoundError:
            # Some editors remove a file for a moment while they save it.
            if self._missing and self._access:
                logger.error("--auth-tokens: %s is missing", self._path)
                self._admit({})
            self._missing, self._state = True, None
            return
        except OSError as exc:
            state = exc.errno
        self._missing = False
        if state == self._state:
            return
        self._state = state
        try:
            self._admit(self._read())
        except UnusableTokenFile as exc:
            logger.error("%s; the tokens that it had before stay valid", exc)

    def _admit(self, principals: Mapping[bytes, Principal]) -> None:
        """Admit the tokens of these principals, and no others."""
        if not principals:
            logger.warning("--auth-tokens: %s has no token; nobody has access by it", self._path)
        before = self._access
        after: dict[bytes, Access] = {}
        for digest, principal in principals.items():
            access = before.get(digest)
            if access is None or access.principal.scope != principal.scope:
                access = Access(principal)
            access.principal = principal
            after[digest] = access
        for digest, access in before.items():
            if after.get(digest) is not access:
                access.revoke()
        self._access = after

    def _read(self) -> dict[bytes, Principal]:
        path = self._path
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                self._check(found)
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise UnusableTokenFile(path, f"is larger than {MAX_BYTES >> 20} MB")
            principals = read_tokens(content.decode())
        except OSError as exc:
            raise UnusableTokenFile(path, f"cannot be read: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise UnusableTokenFile(path, "is not UTF-8 text") from None
        except ValueError as exc:
            raise UnusableTokenFile(path, str(exc)) from None
        # A file system may give two changes of one moment the same time, so a fresh file is read once more.
        self._state = _state_of(found) if time.time() - found.st_mtime > FRESH_S else None
        return principals

    def _check(self, found: os.stat_result) -> None:
        """Refuse a file to which everybody can add a token, and warn of one that others can read: hashes are not
        secret, but tell who has access."""
        if not stat.S_ISREG(found.st_mode):
            raise UnusableTokenFile(self._path, "is not a file")
        if os.name != "posix":
            return
        if found.st_mode & stat.S_IWOTH:
            raise UnusableTokenFile(self._path, "can be written by every user; make it private (chmod 600)")
        if found.st_mode & (stat.S_IROTH | stat.S_IWGRP) and not self._warned:
            self._warned = True
            others = "written by its group" if found.st_mode & stat.S_IWGRP else "read by every user"
            logger.warning("--auth-tokens: %s can be %s; make it private (chmod 600)", self._path, others)


def _state_of(found: os.stat_result) -> tuple[int, ...]:
    """Return what changes with the content of a file."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
