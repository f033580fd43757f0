"""Tokens of the page: what a browser has in place of the token of its principal.

Owns their lifetime: in the memory of this process, for as long as the access with which the key was asked for, and no
longer than they are used. They are good for the page only, never for MCP. Leaves keys to `keys`, and all other tokens
to the authenticator of the endpoint.
"""

import secrets
import time
from collections import OrderedDict
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.transports.http.auth.authenticator import (
    Access,
    Authenticator,
    Clock,
    NotAuthenticated,
    Token,
    is_over,
)

IDLE_S: Final = 12 * 3600.0
"""Time without a request after which a token ends."""
MOST_TOKENS: Final = 1000
"""Bound on tokens; beyond it, the one that was not used for the longest time ends."""
MOST_OWN: Final = 50
"""The same for one principal."""
PREFIX: Final = "afcpage_"
TOKEN_BYTES: Final = 32


class UnknownPageToken(NotAuthenticated):
    """A token is none of the page's, or is one no more."""

    def __init__(self) -> None:
        super().__init__("this token of the page is not valid any more")


class _Rest:
    """The access on which that of a token rests."""

    __slots__ = ("_clock", "access")

    def __init__(self, access: Access, clock: Clock) -> None:
        self.access, self._clock = access, clock

    @property
    def withdrawn(self) -> bool:
        return is_over(self.access, self._clock)


class PageAccess(Access):
    """The access of a token of the page.

    Args:
        basis: the access on which it rests, which is no such access.
        clock: seconds since 1970.
    """

    __slots__ = ("_now", "basis")

    def __init__(self, basis: Access, clock: Clock) -> None:
        super().__init__(basis.principal, clock() + IDLE_S, _Rest(basis, clock))
        self.basis, self._now = basis, clock

    def use(self) -> None:
        """Begin the time without a request anew."""
        self.expires_at = self._now() + IDLE_S


class PageTokens:
    """Authenticates requests of the page: by its own tokens, or as the endpoint does. Implements `Authenticator`.

    Args:
        endpoint: authenticates by all other tokens; None where none is accepted.
        clock: seconds since 1970.
    """

    def __init__(self, endpoint: Authenticator | None, clock: Clock = time.time) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._given: OrderedDict[bytes, PageAccess] = OrderedDict()
        """Digest of a token → its access, the one that was used last at the end."""

    def give(self, access: Access) -> str:
        """Return a new token.

        Args:
            access: on which it rests.
        """
        basis = access.basis if isinstance(access, PageAccess) else access
        self._drop_ended()
        scope = basis.principal.scope
        own = [digest for digest, each in self._given.items() if each.principal.scope == scope]
        if len(own) >= MOST_OWN:
            self._given.pop(own[0]).revoke()
        elif len(self._given) >= MOST_TOKENS:
            self._given.popitem(last=False)[1].revoke()
        text = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        self._given[Token(text.encode()).digest] = PageAccess(basis, self._clock)
        return text

    def _drop_ended(self) -> None:
        for digest in [digest for digest, access in self._given.items() if is_over(access, self._clock)]:
            del self._given[digest]

    @property
    def anyone(self) -> Access | None:
        """See `Authenticator`."""
        return None if self._endpoint is None else self._endpoint.anyone

    @property
    def lapses(self) -> bool:
        """See `Authenticator`."""
        return True

    def known(self, token: Token) -> Access | None:
        """See `Authenticator`."""
        access = self._given.get(token.digest)
        if access is None:
            return None if self._endpoint is None else self._endpoint.known(token)
        if not is_over(access, self._clock):
            access.use()
            self._given.move_to_end(token.digest)
        return access

    async def check(self, token: Token) -> Access:
        """See `Authenticator`."""
        access = self.known(token)
        if access is not None:
            return access
        if self._endpoint is None or token.text.startswith(PREFIX):
            raise UnknownPageToken
        return await self._endpoint.check(token)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """See `Authenticator`; the endpoint runs its own."""
        task_status.started()
