"""Identities of callers, distinguished as well as requests allow: by session, by conversation, by name.

Owns the identity on whose behalf a call is made, and the one among whose names `_as` puts a name. All callers of one
scope are the same principal, so this is no access control; it keeps names and questions of parallel conversations
apart.
"""

import hashlib
from collections import Counter
from typing import Final

from asyncfc_mcp.core.identity import HOST, LASTING, SESSION, CallerIdentity
from asyncfc_mcp.core.shared_lru import SharedLru
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request import Params, Request

CONVERSATION_KEY: Final = "asyncfc/conversation"
"""Key in a request's `_meta` by which a host names the conversation that the request belongs to."""
KEY_LENGTH: Final = 200
"""Longest key that is stored unchanged, in characters; of a longer one its hash is stored."""
MAX_IDENTITIES: Final = 4096
"""Bound on the identities that are kept. Names of a dropped one resolve like those of an ended session."""


class CallerIdentities:
    """Identities of the clients of one server."""

    def __init__(self) -> None:
        self._known = SharedLru[tuple[str, str | None], CallerIdentity](MAX_IDENTITIES)
        """By scope; then by host and key."""
        self._connected = Counter[CallerIdentity]()
        """Open connections of hosts' sessions, by caller."""

    def of(self, request: Request) -> CallerIdentity:
        """Return the client behind a request: that of its connection, of the session, or of the conversation where
        there is neither (2026-07-28 over HTTP). Without a conversation's key, all clients of one name share an
        identity."""
        if (connection := request.connection) is not None:
            return connection.identity or self._join(connection, request)
        if request.session is not None:
            return request.session.identity
        key = conversation_key(request.params)
        return self._kept(request, request.host or "", key, shared=key is None)

    def session(self, request: Request) -> CallerIdentity | None:
        """Return the session of a host behind a request, if it is one beside others."""
        identity = self.of(request) if request.connection is not None else None
        return identity if identity is not None and identity.apart else None

    def namer(self, request: Request) -> CallerIdentity:
        """Return the caller among whose names those in a request are: a conversation with a key, else `of`."""
        key = conversation_key(request.params)
        return self.of(request) if key is None else self._kept(request, "", f"{LASTING}{key}", shared=False)

    def _join(self, connection: Connection, request: Request) -> CallerIdentity:
        """Return the caller behind the connection of a session, which may be one that was connected before."""
        assert connection.process is not None, "only the identity of a session is unknown at first"
        key = f"{SESSION}{connection.process.conversation}"
        identity = connection.identity = self._kept(request, request.host or "", key, shared=False)
        self._connected[identity] += 1
        identity.ended, identity.apart = False, True

        def left() -> None:
            self._connected[identity] -= 1
            if not self._connected[identity]:
                del self._connected[identity]
                identity.ended = True

        connection.at_end(left)
        return identity

    def _kept(self, request: Request, host: str, key: str | None, *, shared: bool) -> CallerIdentity:
        scope = request.scope.key
        identity = self._known.get(scope, (host, key))
        if identity is None:
            identity = CallerIdentity(host, shared=shared)
            identity.token = f"{HOST}{host}" if key is None else f"{LASTING}{host}/{key.removeprefix(LASTING)}"
            if (dropped := self._known.add(scope, (host, key), identity)) is not None:
                dropped.ended = True
        return identity


def conversation_key(params: Params) -> str | None:
    """Return the key of the conversation that a request belongs to, if its host gave one; of a long one its hash, since
    keys are stored."""
    meta = params.get("_meta")
    key = meta.get(CONVERSATION_KEY) if meta else None
    if not isinstance(key, str):
        return None
    if len(key) <= KEY_LENGTH:
        return key
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"
