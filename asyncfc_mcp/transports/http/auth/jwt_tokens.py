"""Tokens of an authorization server (OAuth, OpenID Connect): each subject of it is a principal.

Owns the tokens that were checked, until they expire. Leaves the checks to `jwt_checks`, and keys to `signing_keys`.
"""

import time
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import OAUTH, Principal, Scope
from asyncfc_mcp.transports.http.auth.authenticator import Access, Clock, NotAuthenticated, Token
from asyncfc_mcp.transports.http.auth.bearer_token import UNKNOWN
from asyncfc_mcp.transports.http.auth.jwt_checks import is_jwt, read_claims, read_header, verified_payload
from asyncfc_mcp.transports.http.auth.signing_keys import SigningKeys

MOST_CHECKED: Final = 10_000
"""Checked tokens that are kept; the least recently used one is dropped first, and checked again if it is used."""


class JwtAuthenticator:
    """Subjects of an authorization server.

    Args:
        issuer: the server, as it names itself.
        audiences: of which a token must name one.
        keys: its keys.
        clock: seconds since 1970.
    """

    def __init__(self, issuer: str, audiences: Collection[str], keys: SigningKeys, *, clock: Clock = time.time) -> None:
        self._issuer, self._audiences, self._keys, self._clock = issuer, frozenset(audiences), keys, clock
        self._checked: OrderedDict[bytes, Access] = OrderedDict()

    @property
    def anyone(self) -> Access | None:
        """See `Authenticator`."""
        return None

    @property
    def lapses(self) -> bool:
        """See `Authenticator`."""
        return True

    def known(self, token: Token) -> Access | None:
        """See `Authenticator`."""
        access = self._checked.get(token.digest)
        if access is None:
            return None
        if access.revoked:
            del self._checked[token.digest]
            return None
        self._checked.move_to_end(token.digest)
        return access

    async def check(self, token: Token) -> Access:
        """See `Authenticator`."""
        if not is_jwt(token.text):
            raise NotAuthenticated(UNKNOWN)
        header = read_header(token.text)
        for key in await self._keys.find(header.key_id, header.algorithm):
            payload = verified_payload(token.text, header, key.key)
            if payload is not None:
                break
        else:
            raise NotAuthenticated("the token is not signed with a key of this bridge's authorization server")
        claims = read_claims(payload, issuer=self._issuer, audiences=self._audiences, now=self._clock())
        access = Access(self._principal(claims.subject, claims.grants), claims.expires_at, ground=key)
        self._checked[token.digest] = access
        if len(self._checked) > MOST_CHECKED:
            self._checked.popitem(last=False)
        return access

    def _principal(self, subject: str, grants: frozenset[str]) -> Principal:
        # Some servers let users choose their subject. It must not be one of the other keys of access rules.
        name = None if subject == "*" or subject.startswith("scope:") else subject
        return Principal(Scope(f"{OAUTH}{self._issuer}#{subject}"), name, grants)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """See `Authenticator`."""
        await self._keys.run(task_status=task_status)
