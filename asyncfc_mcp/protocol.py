"""MCP's own words: versions, methods, error codes, keys, progress, and the shape of what messages travel through.

Pure. The SDK has the same constants, but importing any of them builds all of its message models,
which takes longer and more memory than everything else that a bridge over pipes needs; a test holds the two equal.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypedDict, cast

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Protocol versions in which a connection begins with `initialize`, oldest first."""
LATEST_HANDSHAKE_VERSION: Final = HANDSHAKE_VERSIONS[-1]
SERVER_HANDSHAKE_VERSIONS: Final = ("2024-10-07", *HANDSHAKE_VERSIONS)
"""Those that a server may answer `initialize` with. The first was never released, and the TypeScript SDK accepts it."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""Protocol versions in which every request carries its own envelope in `_meta`, oldest first."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CONNECTION_CLOSED: Final = -32000
REQUEST_TIMEOUT: Final = -32001
RESOURCE_NOT_FOUND: Final = -32002
HEADER_MISMATCH: Final = -32020
MISSING_REQUIRED_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800

PROTOCOL_VERSION_META_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO_META_KEY: Final = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES_META_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
SERVER_INFO_META_KEY: Final = "io.modelcontextprotocol/serverInfo"
LOG_LEVEL_META_KEY: Final = "io.modelcontextprotocol/logLevel"

CLIENT_METHODS: Final = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
"""Requests that some protocol version lets a client send; a method that is none of these may be an extension's."""
PROBES: Final = frozenset({"ping", "server/discover"})
"""Requests by which a client finds out what a server speaks. They open no protocol era: the client may still shake
hands after them."""

RequestId = int | str
OnProgress = Callable[[float, float | None, str | None], None]
"""Told of progress: how far, of how much, in words. Plain, so that it is told before the result that follows."""


class OnSent(Protocol):
    """Called with True when a request is about to be written, and with False when it turned out that no part of it
    reached the server."""

    def __call__(self, sent: bool = True) -> None: ...


class CallOptions(TypedDict, total=False):
    """What may be said of a request beside what is asked."""

    timeout: float
    """Seconds after which it is given up."""
    cancel_on_abandon: bool
    """Whether the other side is told when it is given up; it is, unless the protocol forbids that."""
    on_progress: OnProgress
    request_id: RequestId
    """The ID to send it under, instead of the next number."""
    answers_without_id: bool
    """Whether an error without an ID is taken for its answer; for requests that have a connection to themselves."""
    headers: dict[str, str]
    """Sent along over HTTP; other transports have none."""


class Outbound(Protocol):
    """What messages can be sent through."""

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and return its result as it came.

        Raises:
            RpcError: the other side answered with an error, or there is no answer.
        """
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification; one that cannot be delivered is dropped."""
        ...


class Channel(Outbound, Protocol):
    """The way back to whoever sent a message, while it is being handled."""

    @property
    def request_id(self) -> RequestId | None:
        """The ID of the request; None for a notification."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether a request would come to the sender at this moment, as far as is known."""
        ...

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the sender asked for it."""
        ...


Later = Callable[[], Awaitable[dict[str, Any]]]
"""What brings a result that is not there yet. Not a coroutine: one that is never run would complain of it."""


class Soon:
    """A `Later` that comes by itself, mostly before it is worth a task that waits for it: that would cost more than all
    else about a quick call. Whoever does not know it may run it like any other."""

    __slots__ = ()

    def watch(self, come: Callable[[], None]) -> None:
        """Have `come` called, not from in here: when the result is there, or when this has to be run because there is
        something to be done on the way to it. That may be more than once, until `call_off`."""
        raise NotImplementedError

    def call_off(self) -> None:
        """Do not have it called any more."""
        raise NotImplementedError

    def take(self) -> dict[str, Any] | None:
        """The result, if it is there. Raises what says why there is none."""
        raise NotImplementedError

    def __call__(self) -> Awaitable[dict[str, Any]]:
        raise NotImplementedError


OnRequest = Callable[[Any, str, Mapping[str, Any] | None], dict[str, Any] | Later]
"""Handles a request, given its channel, method and parameters: its result, or what brings it. Both raise `RpcError` to
answer with that error."""
OnNotify = Callable[[Any, str, Mapping[str, Any] | None], Callable[[], Awaitable[None]] | None]
"""Takes in a notification; what is left to be done about it, if anything is."""


def progress_token(params: Mapping[str, Any] | None) -> RequestId | None:
    """Under which token the sender of a request wants to hear of progress; None if it does not."""
    meta = params.get("_meta") if params else None
    token = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
    # True is an int, and no token.
    return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def progress_of(token: RequestId, progress: float, total: float | None, message: str | None) -> dict[str, Any]:
    """The parameters of `notifications/progress`."""
    params: dict[str, Any] = {"progressToken": token, "progress": progress}
    if total is not None:
        params["total"] = total
    if message is not None:
        params["message"] = message
    return params


def content_blocks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content blocks of a `CallToolResult`.

    Some servers write a bare text or a single block where the list belongs, or bare texts in the list: each is read as
    one block, so that nothing of it is lost. What is neither text nor object is left out.
    """
    content = result.get("content")
    items = cast("list[Any]", content) if isinstance(content, list) else [content]
    blocks: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, dict):
            blocks.append(cast("dict[str, Any]", item))
        elif isinstance(item, str):
            blocks.append({"type": "text", "text": item})
    return blocks
