"""A client's request as all handlers see it, independent of the transport, and helpers that handlers share.

Pure, except for the channel back to the client that a request carries. Refuses to know any method.
"""

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import SESSION, CallerIdentity, Principal, Scope
from asyncfc_mcp.core.session_archive import SessionRecord
from asyncfc_mcp.errors import AmbiguousName, RpcError
from asyncfc_mcp.protocol import (
    INVALID_PARAMS,
    LATEST_HANDSHAKE_VERSION,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    TASKS_EXTENSION,
    Channel,
    Deferred,
)
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request_order import RequestOrder

logger = logging.getLogger(__name__)

CLOSE_S: Final = 5.0
"""Longest clean-up after a connection."""

PAGE: Final = 1000
"""Entries on one page of a list."""

TASKS_CHOICE_KEY: Final = "asyncfc/tasks"
"""Key in a request's `_meta` by which a client chooses one of `TASK_CHOICES` for one call."""
TASK_CHOICES: Final = ("auto", "task", "handle")

Params = Mapping[str, Any]


class Progress(Protocol):
    """Sends progress for one request."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...


class Session:
    """A connection of a handshake version (before 2026-07-28).

    Args:
        principal: the principal that opened it; every request on it has its scope.
        notify: sends a notification that belongs to no request.
        session_id: the ID of the HTTP session; None for other transports.
        connection: the connection, if that is one client in both protocol eras.
    """

    def __init__(
        self,
        principal: Principal,
        notify: Callable[[str, Mapping[str, Any] | None], Awaitable[None]],
        session_id: str | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.principal = principal
        """The principal of the last request: a newer token may have other grants."""
        self.notify = notify
        self.id = session_id
        self.connection = connection
        self.identity = CallerIdentity()
        if session_id is not None:
            self.identity.token = f"{SESSION}{hashlib.sha256(f'caller {session_id}'.encode()).hexdigest()[:32]}"
        self.version = LATEST_HANDSHAKE_VERSION
        self.host: str | None = None
        self.capabilities: Mapping[str, Any] = {}
        self.order = RequestOrder() if connection is None else connection.order
        self.accepted = False
        """True after the handshake: before it, most methods are refused."""
        self.log_level: str | None = None
        """The level that the client has set."""
        self.uris: Collection[str] = ()
        """Resources whose changes it wants to know of."""
        self.save: Callable[[], Awaitable[None]] = _kept_nowhere
        """Called when one of these has changed."""
        self._exit_callbacks: list[Callable[[], Awaitable[None]]] = []

    def resume(self, record: SessionRecord) -> None:
        """Continue a session of another replica."""
        self.version, self.host, self.capabilities = record.version, record.host, record.capabilities
        self.log_level, self.uris = record.log_level, record.uris
        self.identity.host = record.host
        self.order = RequestOrder(continued=True)
        self.accepted = True

    @property
    def record(self) -> SessionRecord:
        """Record with which another replica continues this session."""
        return SessionRecord(self.scope, self.version, self.host, self.capabilities, self.log_level, tuple(self.uris))

    @property
    def scope(self) -> Scope:
        """The futures that its requests may see."""
        return self.principal.scope

    def at_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Register a callback for the end of the connection; the last one is called first."""
        self._exit_callbacks.append(callback)

    async def close(self) -> None:
        """Clean up after the connection, in at most `CLOSE_S`. Errors of callbacks are logged, not raised."""
        self.identity.ended = True
        self.notify = _dropped  # the callback refers to the owner of the session
        with anyio.move_on_after(CLOSE_S, shield=True):
            while self._exit_callbacks:
                try:
                    await self._exit_callbacks.pop()()
                except Exception:
                    logger.exception("cleaning up after a connection failed")


async def _kept_nowhere() -> None:
    """Do nothing: no other replica can continue the session."""


async def _dropped(method: str, params: Mapping[str, Any] | None) -> None:
    """Drop a notification for a connection that has ended."""


@dataclass(slots=True)
class Request:
    """A request, independent of the transport: everything that is needed to answer it."""

    method: str
    params: Params
    principal: Principal
    """The principal behind it: it can see futures of its scope only."""
    version: str
    host: str | None
    """`clientInfo.name`, if the client gave it."""
    capabilities: Mapping[str, Any]
    """Capabilities as the client declared them."""
    channel: Channel
    """The channel to the client while this request is answered: progress, notifications, and requests where the
    protocol has them."""
    session: "Session | None" = None
    """The session that it arrived on; None on 2026-07-28, which has none."""
    connection: Connection | None = None
    """The connection that it arrived on, if that is one client of its own."""
    order: RequestOrder | None = None
    """The numbering of its client's requests; None where clients cannot be distinguished."""
    credentials: str | None = None
    """Key of the caller's credentials with which servers are reached that get those (`Bridge.enter`)."""

    @property
    def scope(self) -> Scope:
        """The futures that it can see."""
        return self.principal.scope

    @property
    def modern(self) -> bool:
        return self.session is None

    def report(self) -> Progress | None:
        """Return the function that sends progress; None without a progress token."""
        meta = self.params.get("_meta")
        return self.channel.progress if meta and meta.get("progressToken") is not None else None

    @property
    def takes_tasks(self) -> bool:
        """True if the client has declared the tasks extension (2026-07-28)."""
        extensions = self.capabilities.get("extensions")
        return self.session is None and bool(extensions) and TASKS_EXTENSION in extensions

    def task_choice(self, default: str) -> str:
        """Return how a call of this client is answered: `auto`, `task` or `handle` (see the setting `tasks`)."""
        if not self.takes_tasks:
            return "handle"
        meta = cast("Mapping[str, Any]", self.params.get("_meta") or {})
        choice = meta.get(TASKS_CHOICE_KEY)
        return choice if choice in TASK_CHOICES else default


Handler = Callable[[Request], Result | Deferred]
"""Answers requests of one method, at once or deferred. Both raise `RpcError`, or a `CallFailed` with the reason."""


def awaited(handler: Callable[[Request], Awaitable[Result]]) -> Handler:
    """Return a handler whose answer is always deferred."""
    return lambda request: Deferred(partial(handler, request))


@contextmanager
def ambiguity_refused() -> Generator[None]:
    """Refuse a request that uses a name which is ambiguous because several callers gave it.

    Raises:
        RpcError: in place of `AmbiguousName`.
    """
    try:
        yield
    except AmbiguousName as exc:
        raise RpcError(INVALID_PARAMS, str(exc)) from None


def require_tasks_extension(request: Request) -> None:
    """Require the client to have declared the tasks extension (2026-07-28).

    Raises:
        RpcError: it has not.
    """
    if TASKS_EXTENSION not in (request.capabilities.get("extensions") or {}):
        raise RpcError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"{request.method} needs the client to declare the extension {TASKS_EXTENSION}",
            {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
        )


def uri_of(request: Request) -> str:
    """Return the `uri` of a request.

    Raises:
        RpcError: it is no string.
    """
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise RpcError(INVALID_PARAMS, f"{request.method}: uri must be a string")
    return uri


def paged(params: Params, key: str, items: list[dict[str, Any]]) -> Result:
    """Return one page of a list. The cursor is the bridge's own: the lists of all servers are one.

    Raises:
        RpcError: the cursor is not one of this list.
    """
    cursor = params.get("cursor")
    start = 0
    if cursor is not None:
        kind, _, offset = str(cursor).partition(":")
        if kind != key or not re.fullmatch(r"[0-9]{1,9}", offset) or not 0 < int(offset) < len(items):
            raise RpcError(INVALID_PARAMS, f"Invalid cursor: {cursor!r:.80}")
        start = int(offset)
    page: Result = {key: items[start : start + PAGE]}
    if len(items) > start + PAGE:
        page["nextCursor"] = f"{key}:{start + PAGE}"
    return page
