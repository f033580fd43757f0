"""A client's request as all handlers see it, whatever carried it, and what answering one has in common.

Pure but for the way back to the client that a request carries. Refuses to know any method.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio

from asyncfc_mcp.errors import AmbiguousName, RpcError
from asyncfc_mcp.futures import CallerIdentity, Result
from asyncfc_mcp.offers import TASKS_EXTENSION
from asyncfc_mcp.protocol import (
    INVALID_PARAMS,
    LATEST_HANDSHAKE_VERSION,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    Channel,
    Later,
)
from asyncfc_mcp.request_order import RequestOrder

logger = logging.getLogger(__name__)

CLOSE_S: Final = 5.0
"""How long clearing up after a connection may take."""

PAGE: Final = 1000
"""How many entries a page of a list has."""

TASKS_CHOICE_KEY: Final = "asyncfc/tasks"
"""Key in a request's `_meta` by which a client chooses `task` or `handle` for one call."""

Params = Mapping[str, Any]


class Progress(Protocol):
    """Sends progress for one request."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...


class Session:
    """A connection that begins with a handshake (before 2026-07-28), until it ends.

    Args:
        notify: sends a notification that belongs to no request.
        session_id: that of HTTP.
    """

    def __init__(
        self, notify: Callable[[str, Mapping[str, Any] | None], Awaitable[None]], session_id: str | None = None
    ) -> None:
        self.notify = notify
        self.id = session_id
        self.identity = CallerIdentity()
        self.version = LATEST_HANDSHAKE_VERSION
        self.host: str | None = None
        self.capabilities: Mapping[str, Any] = {}
        self.order = RequestOrder()
        self.accepted = False
        """Whether it has shaken hands, so that it may ask for anything."""
        self._ending = AsyncExitStack()

    def at_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` called when the connection ends; the last one first."""
        self._ending.push_async_callback(callback)

    async def close(self) -> None:
        """It has ended. Takes at most `CLOSE_S`, and fails for nobody."""
        self.identity.ended = True
        with anyio.move_on_after(CLOSE_S, shield=True):
            try:
                await self._ending.aclose()
            except Exception:
                logger.exception("clearing up after a connection failed")


@dataclass(slots=True)
class Request:
    """A request, whatever carried it: all that answering it needs to know."""

    method: str
    params: Params
    version: str
    host: str | None
    """`clientInfo.name`, if the client said it."""
    capabilities: Mapping[str, Any]
    """What the client said it can do, as it said it."""
    channel: Channel
    """The way back to the client while this request is answered: progress, notifications, and requests where the
    protocol has them."""
    session: "Session | None" = None
    """The connection that it came on; None on 2026-07-28, which has none."""
    order: RequestOrder | None = None
    """The numbering of its client's requests; None where clients cannot be told apart."""

    @property
    def modern(self) -> bool:
        return self.session is None

    def report(self) -> Progress | None:
        """How to send progress; None where nobody listens."""
        meta = self.params.get("_meta")
        return self.channel.progress if meta and meta.get("progressToken") is not None else None

    def chooses_task(self, default: str) -> bool:
        """Whether a call of this client becomes a task of the extension (2026-07-28) instead of a handle."""
        extensions = self.capabilities.get("extensions")
        if self.session is not None or not extensions or TASKS_EXTENSION not in extensions:
            return False
        meta = cast("Mapping[str, Any]", self.params.get("_meta") or {})
        return meta.get(TASKS_CHOICE_KEY, default) == "task"


Handler = Callable[[Request], Result | Later]
"""Answers the requests of one method, or says what brings the answer. Both raise `RpcError`, or a `CallFailed` that
says what was wrong."""


def awaited(handler: Callable[[Request], Awaitable[Result]]) -> Handler:
    """A handler that always takes its time."""
    return lambda request: partial(handler, request)


@contextmanager
def ambiguity_refused() -> Generator[None]:
    """Refuse a request that uses a name which several callers gave.

    Raises:
        RpcError: in place of `AmbiguousName`.
    """
    try:
        yield
    except AmbiguousName as exc:
        raise RpcError(INVALID_PARAMS, str(exc)) from None


def need_tasks(request: Request) -> None:
    """Let only clients through that have declared the tasks extension (2026-07-28).

    Raises:
        RpcError: this one has not.
    """
    if TASKS_EXTENSION not in (request.capabilities.get("extensions") or {}):
        raise RpcError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"{request.method} needs the client to declare the extension {TASKS_EXTENSION}",
            {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
        )


def uri_of(request: Request) -> str:
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise RpcError(INVALID_PARAMS, f"{request.method}: uri must be a string")
    return uri


def paged(params: Params, key: str, items: list[dict[str, Any]]) -> Result:
    """One page of a list. The cursor is ours: the lists of all servers are one."""
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
