"""Identities: principals and their scopes, the callers within a scope, and the IDs and keys of futures.

Pure values. `transports.http.auth` creates principals, `upstream.callers` distinguishes callers, and `store` assigns
IDs.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NewType


@dataclass(frozen=True, slots=True)
class Scope:
    """Set of futures that one principal may see.

    Args:
        key: the authenticated principal, or `local`.
        listed: futures can be listed, and their IDs are short. False on a reachable address without authentication:
            IDs are then 128 random bits, and knowledge of an ID is the only access right.
    """

    key: str
    listed: bool = True


LOCAL: Final = Scope("local")
"""stdio, and HTTP on loopback without authentication."""

TOKEN: Final = Scope("token")
"""All holders of the one token of an endpoint, which are one principal."""

PUBLIC: Final = Scope("public", listed=False)
"""A reachable address without authentication (`--insecure-no-auth`)."""

PERSON: Final = "person:"
"""Beginning of the scope key of a person with a token of their own; the name follows."""
OAUTH: Final = "oauth:"
"""Beginning of the scope key of a subject of an authorization server: `oauth:ISSUER#SUB`."""


def is_only_principal(scope: Scope) -> bool:
    """Return true where no other principal uses the endpoint: its results need not be kept from anybody, and its bounds
    are those of the bridge."""
    return scope.key in (LOCAL.key, TOKEN.key)


@dataclass(frozen=True, slots=True, eq=False)
class ClientProcess:
    """A session of a host on this machine that has joined a daemon with others (`serve --shared`). Compared by
    identity: each connection is a session of its own.

    Args:
        conversation: identifies its conversation within the host, also after a reconnect, in other runs of the daemon.
        cwd, environ: of the session's process. Servers that have an instance for each session are started with them. In
            memory only, and never shown.
    """

    conversation: str
    cwd: str
    environ: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated party behind a request.

    Args:
        scope: the futures that it may see. Principals with equal scopes are one and the same.
        name: its name in rules of access and in logs; None where nobody is authenticated.
        grants: OAuth scopes of its token; None where its token has none, and so is not restricted by them.
        headers: headers of this request, by lower-case name, that wrapped servers receive as the caller's own
            (`${caller:…}`). In memory only, and never compared or shown.
        process: the session of a host behind it, where several have joined one daemon; all of them are the same
            principal.
    """

    scope: Scope
    name: str | None = None
    grants: frozenset[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)
    process: ClientProcess | None = field(default=None, repr=False, compare=False)


LOCAL_PRINCIPAL: Final = Principal(LOCAL)
"""The user of this machine, who is not authenticated."""


LASTING: Final = "key:"
HOST: Final = "host:"
SESSION: Final = "session:"
_tokens: Final = count(1)


@dataclass(slots=True, eq=False)
class CallerIdentity:
    """Caller within a scope, as far as it can be distinguished: a session, a conversation, or all clients of one name
    that have neither. Compared by identity.

    Attributes:
        host: `clientInfo.name`.
        shared: may represent several callers that cannot be distinguished.
        ended: its session has ended.
        began_at: time at which its session was opened, in seconds of the clock; -inf without a session.
        token: differs from those of all other callers of a scope in this run. One with a colon is equal at all replicas
            that share a database: `key:…` is a conversation with a key, which is one caller in all runs as well;
            `session:…` a session over HTTP; `host:…` all clients of one name that have neither.
        apart: a session of a host beside others of the same user: although they are one principal, nothing that a
            server sends for one of them is for another.
        left_at: returns the time of the client's last activity once it has been idle for so long that it may have
            left without ending its session; infinity until then.
    """

    host: str | None = None
    shared: bool = False
    ended: bool = False
    apart: bool = False
    began_at: float = -math.inf
    token: str = field(default_factory=lambda: str(next(_tokens)))
    left_at: Callable[[], float] = lambda: math.inf

    @property
    def lasting(self) -> bool:
        """True for a caller that is the same one in other runs of the program."""
        return self.token.startswith(LASTING)

    @staticmethod
    def never() -> float:
        return math.inf

    def may_be(self, other: "CallerIdentity") -> bool:
        """Return true where `other` is this caller, or may be this caller after a reconnect: a session of the same host
        that was opened after this one ended or was left. A session that was open beside this one is another client; so
        is one with another key, where each has one."""
        if self is other or self.token == other.token:
            return True
        if self.apart:
            return False
        return self.host == other.host and (self.ended or other.began_at > self.left_at())


Party = object
"""One of those among whom bounds are shared, so that it cannot starve the others: a principal by the key of its scope,
or a caller. None where all callers are one principal, which has nobody to share with."""


def party_of(scope: Scope, caller: CallerIdentity | None) -> Party:
    """Return the party that a call, a connection or a session of this scope counts for.

    Args:
        caller: the caller within the scope. It is a party of its own where nobody is authenticated.
    """
    if not scope.listed:
        return caller
    return None if is_only_principal(scope) else scope.key


Asker = object
"""One of those whose requests a server may be working on, when it sends something that names none of them: a session of
a host, else a party."""


def asker_of(scope: Scope, caller: CallerIdentity | None) -> Asker:
    """Return whose a request of this scope is, as far as that must be told apart in what servers send."""
    return caller if caller is not None and caller.apart else party_of(scope, caller)


FutureKey = NewType("FutureKey", str)
"""Identifies a future across scopes. Plain text, so that keys hash and compare at the speed of `str`."""

_ID: Final = re.compile(r"f(?:[0-9]+|[0-9a-f]{32})")


def is_id(ref: str) -> bool:
    """Return true for a text in the form of a future's ID."""
    return _ID.fullmatch(ref) is not None


def future_key(scope: Scope, future_id: str) -> FutureKey:
    """Return the key of the future with this ID."""
    return FutureKey(f"{scope.key}/{future_id}")


def id_of(key: str) -> str:
    """Return the ID in a future's key."""
    return key.rpartition("/")[2]
