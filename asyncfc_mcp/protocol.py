"""Constants and interfaces of MCP: versions, methods, error codes, keys, progress, and the protocols of a connection.

Pure. The SDK has the same constants, but importing any of them builds all of its message models, which takes more time
and memory than everything else that a bridge over pipes needs. A test keeps the two equal.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypedDict, cast

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Protocol versions in which a connection begins with `initialize`, oldest first."""
LATEST_HANDSHAKE_VERSION: Final = HANDSHAKE_VERSIONS[-1]
SERVER_HANDSHAKE_VERSIONS: Final = ("2024-10-07", *HANDSHAKE_VERSIONS)
"""Versions that a server may return from `initialize`. The first was never released; the TypeScript SDK accepts it."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""Stateless protocol versions, oldest first: every request carries its own envelope in `_meta`."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CONNECTION_CLOSED: Final = -32000
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
LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"
TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"

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
"""Requests of clients in any protocol version; other methods may belong to an extension."""
PROBES: Final = frozenset({"ping", "server/discover"})
"""Requests that clients use to probe a server. They select no protocol era: the client may still send `initialize`."""

RequestId = int | str
OnProgress = Callable[[float, float | None, str | None], None]
"""Progress callback: progress, total, message. Synchronous, so that it runs before the result that follows."""


class OnSent(Protocol):
    """Callback that receives True when a request is about to be written, and False once it is known that no part of it
    reached the server."""

    def __call__(self, sent: bool = True) -> None: ...


class CallOptions(TypedDict, total=False):
    """Options of an outgoing request."""

    timeout: float
    """Timeout of the request, in seconds."""
    cancel_on_abandon: bool
    """Send `notifications/cancelled` when the request is abandoned. Default: True, unless the protocol forbids it."""
    on_progress: OnProgress
    request_id: RequestId
    """ID of the request, instead of the next number."""
    on_id: Callable[[RequestId], None]
    """Called with the ID of the request before it is written."""
    cause: object
    """The call that the request is sent for. Passed to the handler of a peer's request that belongs to this one."""
    answers_without_id: bool
    """Accept an error without an ID as the response; for a request that has a connection to itself."""
    limited: bool
    """True if the caller has its own timeout for the request."""
    lasting: bool
    """True for a request that lasts as long as the connection, so that no response is owed."""
    headers: dict[str, str]
    """Additional headers over HTTP; ignored by other transports."""


class Outbound(Protocol):
    """Sends requests and notifications to the peer."""

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and return its result as it was received.

        Raises:
            RpcError: the peer responded with an error, or there is no response.
        """
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification; one that cannot be delivered is dropped."""
        ...


class Channel(Outbound, Protocol):
    """Connection to the sender of a message while that message is being handled."""

    @property
    def request_id(self) -> RequestId | None:
        """ID of the request; None for a notification."""
        ...

    @property
    def reachable(self) -> bool:
        """True while a request can be delivered to the sender, as far as is known."""
        ...

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the sender requested it."""
        ...


class Deferred:
    """A pending result. Calling it waits for the result, and raises the error if there is none.

    Not a coroutine, which would warn if it is never run. A subclass that can report completion by callback saves its
    caller a task, which would cost more than the rest of a quick call; it can also be awaited like any other.
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._wait = wait

    def __call__(self) -> Awaitable[dict[str, Any]]:
        """Wait for the result. Call it once only."""
        return self._wait()

    def add_done_callback(self, callback: Callable[[], None]) -> bool:
        """Add a callback for completion. It is called, possibly more than once and never from within this method, when
        `result_nowait` has the result, or when the result must be awaited because work is left to do.

        Returns:
            False if completion cannot be reported, so that the result must be awaited in a task.
        """
        return False

    def remove_done_callback(self) -> None:
        """Stop calling the callback."""

    def result_nowait(self) -> dict[str, Any] | None:
        """Return the result, or None while it is pending. Raises the error if there is no result."""
        return None


OnRequest = Callable[[Any, str, Mapping[str, Any] | None], dict[str, Any] | Deferred]
"""Handler of a request: channel, method, parameters → result. It, or its deferred result, raises `RpcError` to respond
with that error."""
OnNotify = Callable[[Any, str, Mapping[str, Any] | None], Callable[[], Awaitable[None]] | None]
"""Handler of a notification: channel, method, parameters → the remaining asynchronous work, if any."""


def progress_token(params: Mapping[str, Any] | None) -> RequestId | None:
    """Return the token under which the sender of a request expects progress; None if it does not."""
    meta = params.get("_meta") if params else None
    token = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
    # True is an int, but not a token.
    return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def progress_of(token: RequestId, progress: float, total: float | None, message: str | None) -> dict[str, Any]:
    """Return the parameters of `notifications/progress`."""
    params: dict[str, Any] = {"progressToken": token, "progress": progress}
    if total is not None:
        params["total"] = total
    if message is not None:
        params["message"] = message
    return params


def content_blocks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content blocks of a `CallToolResult`.

    Some servers send a bare string or a single block instead of the list, or bare strings in the list: each is read as
    one block, so that nothing is lost. Other values are left out.
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
