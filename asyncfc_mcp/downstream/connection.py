"""One live connection to a wrapped server: its peer, its protocol version, and how it ends.

Owns opening a connection over a process's pipes or over HTTP, the envelope of requests, and the translation of failures
to `CallFailed`. Must be opened and closed by the same task: leaving a cancel scope in another task is an error. The
choice of the protocol version is left to `negotiation`, restarts to `supervisor`.

Requests go through `Peer` and not through the SDK's typed client: its models drop unknown fields and reject results,
but results have to cross the bridge unchanged.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import anyio
import anyio.abc

from asyncfc_mcp import __version__
from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.downstream.one_shot import ProcessCalls
from asyncfc_mcp.downstream.process import Child, ServerProcess, spawn
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.stall_policy import StallPolicy
from asyncfc_mcp.downstream.stderr import Stderr
from asyncfc_mcp.errors import (
    CallFailed,
    ConnectionEnded,
    HttpRefused,
    NotSent,
    NotSignedIn,
    ProtocolFailure,
    RpcError,
    ServerDied,
    ServerRefused,
    SignInNeeded,
    TransportFailure,
)
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.protocol import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LATEST_HANDSHAKE_VERSION,
    MODERN_VERSIONS,
    PROTOCOL_VERSION_META_KEY,
    CallOptions,
    OnNotify,
    OnProgress,
    OnRequest,
    RequestId,
)
from asyncfc_mcp.signals import WakeUp

if TYPE_CHECKING:
    from asyncfc_mcp.downstream.http.authorizer import Authorizer
    from asyncfc_mcp.downstream.http.remote import SseTransport, StreamableTransport

CLIENT_INFO: Final = {"name": "asyncfc-mcp", "version": __version__}

HttpKind = Literal["http", "sse"]


class Connection:
    """A live connection to one server.

    Args:
        server: name of the server.
        capabilities: returns the client capabilities to declare, for each request anew.
        process: the process at the other end; None over HTTP.
        transport: the HTTP transport; None over pipes.
    """

    def __init__(
        self,
        server: str,
        peer: Peer,
        capabilities: Callable[[], Mapping[str, Any]],
        stderr: Stderr,
        *,
        process: ServerProcess | None = None,
        transport: "StreamableTransport | SseTransport | None" = None,
    ) -> None:
        self.server, self.peer, self.capabilities = server, peer, capabilities
        self.process, self.transport = process, transport
        self._stderr = stderr
        self.version = LATEST_HANDSHAKE_VERSION
        self.probe_unanswered = False
        """True from a probe (`server/discover`) until the protocol version is negotiated."""
        self.session_ended = anyio.Event()
        """Set when the session has ended: with the connection, or over HTTP before it."""
        self.closed = anyio.Event()
        self.notifications_lost = WakeUp()
        """Set when notifications may have been lost."""
        self.calls = ProcessCalls()

    @property
    def modern(self) -> bool:
        """True for the stateless protocol (2026-07-28)."""
        return self.version in MODERN_VERSIONS

    @property
    def end(self) -> ConnectionEnded:
        """The failure of a request that has no response when the connection ends."""
        return ConnectionEnded(self.peer.end_reason)

    def envelope(self, capabilities: Mapping[str, Any], version: str | None = None) -> dict[str, Any]:
        """Return the `_meta` fields that every request of the stateless protocol carries."""
        return {
            PROTOCOL_VERSION_META_KEY: version or self.version,
            CLIENT_INFO_META_KEY: CLIENT_INFO,
            CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
        }

    def outgoing(
        self,
        params: Mapping[str, Any] | None,
        capabilities: Mapping[str, Any] | None,
        on_progress: OnProgress | None,
        cause: object,
        limited: bool,
        on_id: Callable[[RequestId], None] | None = None,
    ) -> tuple[dict[str, Any], CallOptions]:
        """Return the parameters of a client's request as sent on this connection, and its options."""
        out = dict(params or {})
        if self.modern:
            declared = self.capabilities() if capabilities is None else capabilities
            out["_meta"] = {**cast("dict[str, Any]", out.get("_meta") or {}), **self.envelope(declared)}
        options: CallOptions = {} if cause is None else {"cause": cause}
        if on_progress is not None:
            options["on_progress"] = on_progress
        if limited:
            options["limited"] = True
        if on_id is not None:
            options["on_id"] = on_id
        return out, options

    async def request(
        self, method: str, params: Mapping[str, Any], options: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request of the bridge itself and return its result.

        Raises:
            RpcError: the server refused it, or the connection ended.
        """
        out = dict(params)
        if self.modern:
            out["_meta"] = self.envelope(self.capabilities())
        return await self.peer.send_raw_request(method, out or None, options)

    async def describe_end(self, failure: TransportFailure) -> str:
        """Return the cause of a failure as a predicate of the server. May wait a bounded time for a process to exit."""
        if isinstance(failure, ConnectionEnded) and self.process is not None:
            return await self.process.describe_exit() or failure.message
        if isinstance(failure, ConnectionEnded) and self.transport is not None:
            return "closed the connection"
        return failure.message

    async def call_failure(self, method: str, error: RpcError) -> CallFailed:
        """Translate the error of a request. May wait a bounded time for a process to exit."""
        if not isinstance(error, TransportFailure):
            return ProtocolFailure(method, error.code, error.message, error.data)
        if isinstance(error, SignInNeeded):
            return NotSignedIn(self.server, error)
        if isinstance(error, HttpRefused):
            return ServerRefused(self.server, error)
        how = self._stderr.with_cause(await self.describe_end(error))
        return (ServerDied if error.sent else NotSent)(self.server, how, self._stderr.tail)

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotify,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive messages until the server closes the connection."""
        try:
            await self.peer.run(on_request, on_notification, task_status=task_status)
        finally:
            self.closed.set()
            self.session_ended.set()


@asynccontextmanager
async def open_connection(
    config: ServerConfig,
    kind: HttpKind | None,
    *,
    capabilities: Callable[[], Mapping[str, Any]],
    stderr: Stderr,
    reaper: Reaper,
    child: Child | None,
    on_request: OnRequest,
    on_notification: OnNotify,
    on_session_lost: Callable[[Connection, object], None],
    authorizer: "Authorizer | None" = None,
) -> AsyncGenerator[Connection]:
    """Start or reach a server, and receive its messages while the block runs.

    Args:
        kind: the HTTP transport to use; None for a process.
        child: the process, if it was started ahead.
        on_session_lost: called with the connection and a session that the server no longer knows.
        authorizer: adds credentials to HTTP requests.

    Raises:
        OSError: the process cannot be started.
        RpcError: the server does not open an HTTP connection.
    """
    spec, limit = config.spec, config.base.max_message_bytes
    async with AsyncExitStack() as stack:
        if isinstance(spec, StdioSpec):
            stderr.open(spec.shown)
            process = await stack.enter_async_context(spawn(config.name, spec, stderr, reaper, child))
            process.reader.limit = limit
            peer = Peer(process.reader, process.writer)
            stall_policy = StallPolicy(peer.owed, process.monitor_activity)
            peer.drained = stall_policy.wait_until_expired
            process.writer.on_stall, process.writer.on_resume = stall_policy.keep_waiting, stall_policy.on_progress
            connection = Connection(config.name, peer, capabilities, stderr, process=process)
        else:
            from asyncfc_mcp.downstream.http.remote import connect  # most starts need no HTTP client

            peer, transport = await stack.enter_async_context(connect(spec, kind or spec.kind, limit, authorizer))
            connection = Connection(config.name, peer, capabilities, stderr, transport=transport)
            transport.on_session_lost = lambda session: on_session_lost(connection, session)
            transport.on_gap = connection.notifications_lost.set
        tg = await stack.enter_async_context(anyio.create_task_group())
        await tg.start(connection.run, on_request, on_notification)
        try:
            yield connection
        finally:
            tg.cancel_scope.cancel()
