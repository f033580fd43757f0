"""A client's request as all handlers see it, whatever carried it, and what answering one has in common.

Pure but for the way back to the client that a request carries. Refuses to know any method.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from mcp.shared.dispatcher import DispatchContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from asyncfc_mcp.futures import Result
from asyncfc_mcp.offers import TASKS_EXTENSION

PAGE: Final = 1000
"""How many entries a page of a list has."""

TASKS_CHOICE_KEY: Final = "asyncfc/tasks"
"""Key in a request's `_meta` by which a client chooses `task` or `handle` for one call."""

Params = Mapping[str, Any]


class Progress(Protocol):
    """Sends progress for one request."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...


@dataclass(slots=True)
class Request:
    """A request, whatever carried it: all that answering it needs to know."""

    method: str
    params: Params
    version: str
    host: str | None
    """`clientInfo.name`, if the client said it."""
    session_id: str | None
    capabilities: Mapping[str, Any]
    """What the client said it can do, as it said it."""
    channel: DispatchContext[Any]
    """The way back to the client while this request is answered: progress, notifications, and requests where the
    protocol has them."""
    connection: Any
    """The SDK's `Connection`; of a handshake one it outlives the request."""

    @property
    def modern(self) -> bool:
        return self.version in MODERN_PROTOCOL_VERSIONS

    def report(self) -> Progress | None:
        """How to send progress; None where nobody listens."""
        meta = self.params.get("_meta")
        return self.channel.progress if meta and meta.get("progressToken") is not None else None

    def chooses_task(self, default: str) -> bool:
        """Whether a call of this client becomes a task of the extension (2026-07-28) instead of a handle."""
        extensions = cast("Mapping[str, Any]", self.capabilities.get("extensions") or {})
        meta = cast("Mapping[str, Any]", self.params.get("_meta") or {})
        return self.modern and TASKS_EXTENSION in extensions and meta.get(TASKS_CHOICE_KEY, default) == "task"


Handler = Callable[[Request], Awaitable[Result]]
"""Answers the requests of one method. Raises `MCPError`, or a `BridgeError` that says what was wrong."""


def need_tasks(request: Request) -> None:
    """Let only clients through that have declared the tasks extension (2026-07-28).

    Raises:
        MCPError: this one has not.
    """
    if TASKS_EXTENSION not in (request.capabilities.get("extensions") or {}):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"{request.method} needs the client to declare the extension {TASKS_EXTENSION}",
            {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
        )


def uri_of(request: Request) -> str:
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise MCPError(INVALID_PARAMS, f"{request.method}: uri must be a string")
    return uri


def paged(params: Params, key: str, items: list[dict[str, Any]]) -> Result:
    """One page of a list. The cursor is ours: the lists of all servers are one."""
    cursor = params.get("cursor")
    start = 0
    if cursor is not None:
        kind, _, offset = str(cursor).partition(":")
        if kind != key or not re.fullmatch(r"[0-9]{1,9}", offset) or not 0 < int(offset) < len(items):
            raise MCPError(INVALID_PARAMS, f"Invalid cursor: {cursor!r:.80}")
        start = int(offset)
    page: Result = {key: items[start : start + PAGE]}
    if len(items) > start + PAGE:
        page["nextCursor"] = f"{key}:{start + PAGE}"
    return page
