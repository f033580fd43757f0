"""Interface of authentication: from the token of a request to its principal.

Owns what an authenticator is, and how long its answer counts. Leaves HTTP to `entrance`, and tokens to the
implementations: `bearer_token`, `token_file` and `jwt_tokens`.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.errors import BridgeError

MAX_TOKEN_BYTES: Final = 16 << 10
"""Longest token. Those of large directories, with hundreds of groups in them, take about half of it."""
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +")
_PRINTABLE: Final = bytes(range(0x21, 0x7F))

Clock = Callable[[], float]
"""Returns seconds since 1970: tokens expire by the time of day."""


class Ground(Protocol):
    """What an access rests on, such as the key of a signature."""

    @property
    def withdrawn(self) -> bool:
        """True once nothing rests on it any more."""
        ...


class Access:
    """The access that one token gives, for as long as it is valid. Streams refer to it, and end with it.

    Args:
        expires_at: seconds since 1970; infinity for a token that does not expire.
        ground: what it rests on besides.
    """

    __slots__ = ("_ground", "_revoked", "expires_at", "principal")

    def __init__(self, principal: Principal, expires_at: float = math.inf, ground: Ground | None = None) -> None:
        self.principal = principal
        self.expires_at = expires_at
        self._ground = ground
        self._revoked = False

    @property
    def revoked(self) -> bool:
        """True once the token was taken away, before it expired by itself."""
        return self._revoked or (self._ground is not None and self._ground.withdrawn)

    def revoke(self) -> None:
        """Take the token away."""
        self._revoked = True


class Token:
    """A bearer token of a request, which is not authenticated yet.

    Attributes:
        digest: its SHA-256, by which tokens are looked up: the time that a look-up takes then says nothing of the
            tokens that there are, and they are not kept in memory.
    """

    __slots__ = ("_raw", "digest")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.digest = hashlib.sha256(raw).digest()

    @property
    def text(self) -> str:
        return self._raw.decode("latin-1")

    @staticmethod
    def of(authorization: bytes | None) -> "Token | None":
        """Return the token in an `Authorization` header; None if it holds none."""
        if authorization is None:
            return None
        found = _BEARER.match(authorization)
        raw = b"" if found is None else authorization[found.end() :]
        # Faster than a pattern for long tokens.
        return Token(raw) if raw and not raw.translate(None, _PRINTABLE) else None


class NotAuthenticated(BridgeError):
    """A token is not one that this authenticator accepts.

    Args:
        why: the reason, for the client; without any part of the token.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)


class CannotAuthenticate(BridgeError):
    """A token cannot be checked at present.

    Args:
        why: the reason, for the client.
        retry_after_s: seconds after which another attempt makes sense.
    """

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class Authenticator(Protocol):
    """Decides which principal a token stands for."""

    @property
    def anyone(self) -> Access | None:
        """Access of every request, whatever its token; None where a token is required."""
        ...

    @property
    def lapses(self) -> bool:
        """True if an access can end while the bridge runs."""
        ...

    def known(self, token: Token) -> Access | None:
        """Return the access of a token that needs no check any more; None for any other. It costs a look-up."""
        ...

    async def check(self, token: Token) -> Access:
        """Return the access of any token.

        Raises:
            NotAuthenticated: it is not accepted.
            CannotAuthenticate: it cannot be checked at present.
        """
        ...

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Do what is done beside requests, until cancelled or nothing is left to be done."""
        ...


def is_over(access: Access, clock: Clock = time.time) -> bool:
    """Return whether an access has ended."""
    return access.revoked or (access.expires_at != math.inf and clock() >= access.expires_at)
