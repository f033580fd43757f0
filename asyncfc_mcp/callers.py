"""The callers of one server, told apart as well as requests allow: by session, by conversation, by name.

Owns their identities: those on whose behalf calls are made, and those among whose names `_as` puts a name. Within one
scope all are the same principal, so telling them apart is no access control; it keeps names and questions of
parallel conversations from being mistaken for each other.
"""

from collections import OrderedDict
from typing import Final

from asyncfc_mcp.futures import CallerIdentity
from asyncfc_mcp.requests import Params, Request

CONVERSATION_KEY: Final = "asyncfc/conversation"
"""Key in a request's `_meta` by which a host says whose conversation it belongs to."""
REMEMBERED: Final = 4096
"""Identities that are remembered; names of a forgotten one are found as those of an ended session."""


class CallerIdentities:
    """Identities of the clients of one server.

    Args:
        pipe: there is one connection only, whose client is always the same.
    """

    def __init__(self, *, pipe: bool) -> None:
        self._pipe = CallerIdentity() if pipe else None
        self._known: OrderedDict[tuple[str, str | None], CallerIdentity] = OrderedDict()

    def of(self, request: Request) -> CallerIdentity:
        """The client behind a request: the one of the pipe, a session's, or a conversation's of a client that has no
        session (2026-07-28 over HTTP); without a conversation's key that is all clients of its name."""
        if self._pipe is not None:
            return self._pipe
        if request.session is not None:
            return request.session.identity
        key = conversation_key(request.params)
        return self._remembered(request.host or "", key, shared=key is None)

    def namer(self, request: Request) -> CallerIdentity:
        """The caller among whose names those in a request are: a conversation with a key, else `of`."""
        key = conversation_key(request.params)
        return self.of(request) if key is None else self._remembered("", f"key:{key}", shared=False)

    def _remembered(self, host: str, key: str | None, *, shared: bool) -> CallerIdentity:
        identity = self._known.get((host, key))
        if identity is None:
            identity = self._known[host, key] = CallerIdentity(host, shared=shared)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)[1].ended = True
        else:
            self._known.move_to_end((host, key))
        return identity


def conversation_key(params: Params) -> str | None:
    """The key of the conversation that a request belongs to, if its host gave one."""
    meta = params.get("_meta")
    key = meta.get(CONVERSATION_KEY) if meta else None
    return key if isinstance(key, str) else None
