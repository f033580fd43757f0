"""One wrapped MCP server: its process or its HTTP connection, kept alive, spoken to in raw dictionaries.

Owns connecting, the choice of protocol era, listing what the server offers, following its changes, restarting it,
and ending it so that nothing is left behind. Each connection lives in one owner task: entering and leaving an SDK
client from different tasks breaks cancel scopes. Refuses to know futures, scopes and names upstream.

Requests go through a dispatcher (`Peer`, or the SDK's over HTTP), not through the SDK's typed client: the typed models
drop fields that they do not know and judge results, and what a server answers is not ours to change.
"""

import logging
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TextIO, cast

import anyio
import anyio.abc

from asyncfc_mcp import __version__
from asyncfc_mcp.codec import carried
from asyncfc_mcp.config import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.errors import (
    CallFailed,
    ConnectionEnded,
    HttpRefused,
    NotSent,
    ProtocolFailure,
    RpcError,
    ServerDied,
    ServerRefused,
    ServerUnavailable,
    SessionLost,
    TransportFailure,
)
from asyncfc_mcp.listing import SHOWN_AFTER_S, Listings, kept
from asyncfc_mcp.offers import LISTINGS, Offer
from asyncfc_mcp.one_shot import OneShot, ProcessCalls
from asyncfc_mcp.peer import Peer, in_a_task
from asyncfc_mcp.processes import Child, Reaper, ServerProcess, spawn
from asyncfc_mcp.protocol import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LATEST_HANDSHAKE_VERSION,
    MODERN_VERSIONS,
    PROTOCOL_VERSION_META_KEY,
    SERVER_HANDSHAKE_VERSIONS,
    SERVER_INFO_META_KEY,
    CallOptions,
    Later,
    OnProgress,
    OnSent,
)
from asyncfc_mcp.quotation import said
from asyncfc_mcp.start_queue import StartQueue
from asyncfc_mcp.stderr import Stderr
from asyncfc_mcp.watching import Watching

if TYPE_CHECKING:
    from asyncfc_mcp.remote import SseTransport, StreamableTransport

logger = logging.getLogger(__name__)

CLIENT_INFO: Final = {"name": "asyncfc-mcp", "version": __version__}

CONNECT_TIMEOUT_S: Final = 120.0
"""From the start of a server to its answer to the handshake; long, because `npx` and `uvx` may download first."""
PROBE_S: Final = 2.0
"""How long the answer to `server/discover` is waited for before `initialize` is sent beside it: a server may not know
the method and stay silent, or may only be slow to start."""
LIST_TIMEOUT_S: Final = 60.0
"""For each page of a listing."""
BACKOFF_S: Final = (0.5, 60.0)
"""First and longest pause before a server that failed is started again."""
WAKES: Final = 2
"""How often a server that ends before it is sent anything is started again for one request."""
FRUITLESS_S: Final = 2.0
"""A server that did not come up is not started again for requests before this has passed."""
RESENDS: Final = 3
"""How often a request is sent again of which no part reached the server."""
RESEND_PAUSE_S: Final = 0.2
"""Longest wait for a new connection before the first time; it doubles with each."""
ASK_AGAIN_S: Final = 5.0
"""How long a server that was started again may take to accept the subscriptions that it had, before it is used."""
HEALTHY_S: Final = 10.0
"""A server that stayed up this long is no longer counted as one that keeps failing."""


class Status(Enum):
    """How a downstream is; the value is what users read."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class Listener(Protocol):
    """Who owns a downstream is told of what happens to it."""

    def downstream_changed(self, downstream: "Downstream", kinds: frozenset[str]) -> None:
        """Its status changed, or the listings of these kinds did."""
        ...

    async def prepare(self, downstream: "Downstream", kind: str, entries: list[dict[str, Any]]) -> None:
        """A listing is about to change to these entries: do what takes long, in steps."""
        ...

    async def introduced(self) -> None:
        """Return when it is known what the client can do, or it is not worth waiting for any more."""
        ...

    async def downstream_asks(
        self, downstream: "Downstream", method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """It sent a request to its client. Raise `RpcError` to refuse."""
        ...

    def downstream_notifies(
        self, downstream: "Downstream", method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        """It sent a notification that this module does not consume; what is left to be done about it, if anything is.
        The result of a call may come right behind."""
        ...


class _Connection:
    """A live connection: the dispatcher, what was negotiated, and how it ended."""

    def __init__(
        self,
        dispatcher: Peer,
        capabilities: Callable[[], Mapping[str, Any]],
        remote: "StreamableTransport | SseTransport | None" = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._capabilities = capabilities
        self.remote = remote
        """Its transport, over HTTP."""
        self.version = LATEST_HANDSHAKE_VERSION
        self.over = anyio.Event()
        """Set when the session has ended: with the connection, or over HTTP without it."""
        self.closed = anyio.Event()
        self.missed = anyio.Event()
        """Set when notifications may have been missed."""
        self.calls = ProcessCalls()
        self.process: ServerProcess | None = None
        """At the other end; None over HTTP."""

    def miss(self) -> None:
        """Note that notifications may have been missed."""
        self.missed.set()

    @property
    def modern(self) -> bool:
        return self.version in MODERN_VERSIONS

    @property
    def end(self) -> ConnectionEnded:
        """Why it is closed."""
        return ConnectionEnded(self.dispatcher.how)

    def envelope(self, capabilities: Mapping[str, Any], version: str | None = None) -> dict[str, Any]:
        """The `_meta` that every request of the stateless protocol carries."""
        return {
            PROTOCOL_VERSION_META_KEY: version or self.version,
            CLIENT_INFO_META_KEY: CLIENT_INFO,
            CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
        }

    async def send(self, method: str, params: Mapping[str, Any], *, request_id: str | None = None) -> dict[str, Any]:
        """A request of our own, in the way of the era. Raises: RpcError: it was refused, or the connection ended."""
        out = dict(params)
        if self.modern:
            out["_meta"] = self.envelope(self._capabilities())
        options: CallOptions = {} if request_id is None else {"request_id": request_id}
        return await self.dispatcher.send_raw_request(method, out, options)


class Downstream:
    """A wrapped server, from the first start to the end of the bridge.

    Args:
        config: what to start or where to connect.
        listener: told of changes, questions and notifications.
        capabilities: the client capabilities to offer to the server, asked for when they are needed.
        reaper: ends the server's processes if we vanish.
        log_path: the server's stderr log; None keeps only the tail.
        echo: where stderr lines are repeated (`--verbose`).
        offer: what the server offered when it was last seen; used until it is up.
        child: the server's process, if it was started ahead.
        starts: says when it may be started.
    """

    def __init__(
        self,
        config: ServerConfig,
        listener: Listener,
        *,
        capabilities: Callable[[], Mapping[str, Any]],
        reaper: Reaper,
        log_path: Path | None = None,
        echo: TextIO | None = None,
        offer: Offer | None = None,
        child: Child | None = None,
        starts: StartQueue | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.offer = offer or Offer()
        self.known = offer is not None
        """Whether `offer` is worth showing: it was listed, in this run or an earlier one."""
        self._known_before = self.known
        self.status = Status.STARTING
        self.reason = ""
        """Why it is `failed`, or how often it failed before it is `starting` now."""
        self.restarts = 0
        self._said = ""
        self._last_reason: str = ""
        self.listing_problems: dict[str, str] = {}
        """Kind of a listing → what is wrong with it, in words."""
        self._listings: Listings | None = None
        self._listener = listener
        self._capabilities = capabilities
        self._reaper = reaper
        self._child = child
        self._starts = starts or StartQueue(1)
        self._stderr = Stderr(config.name, log_path, echo, config.spec.secrets)
        self._connection: _Connection | None = None
        self._kind: Literal["http", "sse"] | None = config.spec.kind if isinstance(config.spec, HttpSpec) else None
        """The HTTP transport that the server speaks, as far as is known."""
        self._first_refusal = ""
        """Why it was not the configured one, while the other is tried."""
        self._watching = Watching()
        self._wake = anyio.Event()
        self._changed = anyio.Event()
        self._failures = 0
        self._fruitless = False
        self._failed_at = -math.inf
        self._one_shot = OneShot()
        self._prefer_handshake = bool(offer and offer.protocol_version in SERVER_HANDSHAKE_VERSIONS)
        """Whether `initialize` is sent first: it speaks a handshake version, or ended at the probe."""
        self._probing = False
        """Whether a probe was sent on this connection and nothing is negotiated yet."""

    # --- what others ask of it -----------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_sent: OnSent | None = None,
        capabilities: Mapping[str, Any] | None = None,
        renewed: bool = False,
    ) -> dict[str, Any]:
        """Send a request and return its result as it came off the wire; waits while the server is starting.

        A request of which certainly no part reached the server is sent again, and once if the server has forgotten the
        session. Cancelling the caller sends `notifications/cancelled`.

        Args:
            capabilities: those of the client behind this request; where the protocol has them per request.
            renewed: it was sent before, in a session that the server had forgotten.

        Raises:
            ServerUnavailable: it is not up and did not come up, or `NotSent`, the connection failed; nothing was sent.
            ServerDied: the connection failed before the answer arrived, and the request may have been received.
            ServerRefused: it answered with an HTTP status that is no success.
            ProtocolFailure: it answered with a JSON-RPC error.
        """
        resent = 0
        while True:
            connection = await self._live(for_call=method == "tools/call")
            calls = connection.calls if method == "tools/call" else ProcessCalls()
            calls.sent += 1
            out, options = self._outgoing(connection, method, params, capabilities, on_progress)
            if on_sent is not None:
                on_sent(True)
            answered = False
            try:
                result = await connection.dispatcher.send_raw_request(method, out or None, options)
                answered = True
                return result
            except RpcError as exc:
                answered = not isinstance(exc, TransportFailure)
                unsent = _unsent(exc)
                if unsent and on_sent is not None:
                    on_sent(False)
                if isinstance(exc, SessionLost) and not renewed:
                    renewed = True
                    self._renew(connection, exc.session)
                    continue
                if isinstance(exc, SessionLost) or not unsent or resent >= RESENDS:
                    raise await self._failure(connection, method, exc) from None
            finally:
                calls.end(answered=answered)
            # One that reads nothing more ends within a bounded time; what it has not read is for the next.
            with anyio.move_on_after(None if connection.dispatcher.unread else RESEND_PAUSE_S * 2**resent):
                while self._connection is connection:
                    await self._changed.wait()
            resent += 1

    def post(
        self,
        method: str,
        params: Mapping[str, Any],
        ended: Callable[[dict[str, Any] | CallFailed | Later], None],
        *,
        on_progress: OnProgress | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> Callable[[str], None] | None:
        """Send a request at once and return; `ended` is told its result, why there is none, or what finds that out.

        Returns:
            What tells the server, with a reason, that nobody waits any more. None if it cannot be sent at once, and
            then nothing was: the server is not up, or does not read; `request` can wait.
        """
        connection = self._connection
        if connection is None or self.status is not Status.READY or connection.closed.is_set():
            return None
        peer = connection.dispatcher
        if self._one_shot.occupied(connection.calls):
            return None
        out, options = self._outgoing(connection, method, params, capabilities, on_progress)

        calls = connection.calls

        def settle(result: dict[str, Any] | None, error: RpcError | None) -> None:
            calls.end(answered=not isinstance(error, TransportFailure))
            if error is None:
                assert result is not None
                ended(result)
            elif isinstance(error, SessionLost):
                self._renew(connection, error.session)
                again = partial(self.request, on_progress=on_progress, capabilities=capabilities, renewed=True)
                ended(partial(again, method, params))
            elif _unsent(error):
                ended(NotSent(self.name, error.message))
            elif isinstance(error, TransportFailure):
                ended(partial(self._explain_end, connection, method, error))
            else:
                ended(ProtocolFailure(method, error.code, error.message, error.data))

        request_id = peer.post(method, out, settle, options)
        if request_id is None:
            return None
        calls.sent += 1

        def abandon(reason: str) -> None:
            calls.end(answered=False)
            peer.abandon(request_id, reason)

        return abandon

    async def _explain_end(self, connection: _Connection, method: str, error: RpcError) -> dict[str, Any]:
        raise await self._failure(connection, method, error)

    def _outgoing(
        self,
        connection: _Connection,
        method: str,
        params: Mapping[str, Any] | None,
        capabilities: Mapping[str, Any] | None,
        on_progress: OnProgress | None,
    ) -> tuple[dict[str, Any], CallOptions]:
        out = dict(params or {})
        if connection.modern:
            offered = self._capabilities() if capabilities is None else capabilities
            out["_meta"] = {**cast("dict[str, Any]", out.get("_meta") or {}), **connection.envelope(offered)}
        return out, {} if on_progress is None else {"on_progress": on_progress}

    async def _failure(self, connection: _Connection, method: str, exc: RpcError) -> CallFailed:
        if not isinstance(exc, TransportFailure):
            return ProtocolFailure(method, exc.code, exc.message, exc.data)
        if isinstance(exc, HttpRefused):
            return ServerRefused(self.name, exc)
        how = await self._how_it_ended(connection, exc)
        return (ServerDied if exc.sent else NotSent)(self.name, self._stderr.ended(how), self._stderr.tail)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification if the server is up; best effort."""
        if self._connection is not None:
            await self._connection.dispatcher.notify(method, params)

    async def subscribe(self, uri: str) -> None:
        """Have the server tell of a resource's changes, now and after every restart.

        Raises:
            CallFailed: it refuses.
        """
        connection = await self._live()
        try:
            await self._watching.subscribe(connection, uri)
        except RpcError as exc:
            raise await self._failure(connection, "resources/subscribe", exc) from None

    async def unsubscribe(self, uri: str) -> None:
        """Raises: CallFailed: it refuses."""
        connection = self._connection
        try:
            await self._watching.unsubscribe(connection, uri)
        except RpcError as exc:
            assert connection is not None
            raise await self._failure(connection, "resources/unsubscribe", exc) from None

    async def set_log_level(self, level: str) -> None:
        """Ask for log messages of this level and above, now and after every restart; where the protocol has that per
        request, nothing is sent.

        Raises:
            CallFailed: it refuses.
        """
        self._watching.level = level
        connection = self._connection
        if connection is None or connection.modern or not self._logs:
            return
        try:
            await connection.send("logging/setLevel", {"level": level})
        except RpcError as exc:
            raise await self._failure(connection, "logging/setLevel", exc) from None

    @property
    def _logs(self) -> bool:
        return self.offer.capabilities.get("logging") is not None

    async def tell(self, method: str) -> None:
        """Send a notification that only the handshake protocol has."""
        if self._connection is not None and not self._connection.modern:
            await self.notify(method)

    @property
    def modern(self) -> bool:
        """Whether it speaks the stateless protocol (2026-07-28), as far as is known."""
        return self.offer.protocol_version in MODERN_VERSIONS

    async def settled(self) -> None:
        """Wait until it is known whether the server is up: not `starting`."""
        while self.status is Status.STARTING:
            await self._changed.wait()

    async def _live(self, *, for_call: bool = False) -> _Connection:
        """A connection that can be sent a request, once there is one.

        Raises:
            ServerUnavailable: there is none, and a start for this request brought none.
        """
        woken = 0
        while True:
            self._starts.hurry(self.name)
            await self.settled()
            connection = self._connection
            if connection is not None:
                if connection.closed.is_set():
                    await self._changed.wait()  # it has ended and is being put away
                elif for_call and self._one_shot.occupied(connection.calls):
                    await self._one_shot.outlive(connection.calls, connection.closed)
                    woken = 0  # others are served, and this one has its turn after them
                else:
                    return connection
            elif self.status is Status.FAILED and woken < WAKES and (self._kind is not None or self._rest_s() == 0):
                # Start it for this call instead of waiting out the pause.
                changed = self._changed
                with anyio.move_on_after(self._rest_s()):
                    await changed.wait()
                if not changed.is_set():
                    woken += 1
                    self._wake.set()
                    await changed.wait()
            else:
                raise ServerUnavailable(self.name, self.reason or self.status.value)

    def _rest_s(self) -> float:
        """Seconds until a start is worth while: none if it ran before, or the last one failed a while ago. At a URL
        a start costs no more than a connection, so that a call waits for this."""
        if not self._fruitless:
            return 0
        rest_s = FRUITLESS_S if self._kind is None else BACKOFF_S[0] / 2
        return max(0, self._failed_at + rest_s - anyio.current_time())

    async def _how_it_ended(self, connection: _Connection, failure: TransportFailure) -> str:
        """What happened, as a predicate of the server."""
        if isinstance(failure, ConnectionEnded) and connection.process is not None:
            return await connection.process.ended_how() or failure.message
        if isinstance(failure, ConnectionEnded) and connection.remote is not None:
            return "closed the connection"
        return failure.message

    # --- the owner task ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the server connected until cancelled. The one task that enters and leaves its connections."""
        try:
            while True:
                self._become(Status.STARTING)
                self._starts.leave(self.name)  # a start that is tried another way takes a place anew
                light = not isinstance(self.config.spec, StdioSpec)
                await self._starts.enter(self.name, known=self.known, light=light)
                healthy, since, reason = False, anyio.current_time(), "ended"
                served = False
                try:
                    async with self._connect() as connection:
                        while True:
                            with anyio.fail_after(CONNECT_TIMEOUT_S):
                                await self._negotiate(connection)
                            self._connection = connection
                            async with anyio.create_task_group() as tg:
                                listings = self._begin_listing(connection)
                                tg.start_soon(listings.run)
                                # A server whose tools are known need not list them all before it is used.
                                with anyio.move_on_after(SHOWN_AFTER_S if self.known else None):
                                    await listings.first("tools")
                                if listings.ended is not None:
                                    raise ServerDied(self.name, await self._how_it_ended(connection, listings.ended))
                                healthy, since = True, anyio.current_time()
                                self._fruitless, self._first_refusal = False, ""
                                asked = anyio.Event()
                                tg.start_soon(partial(self._watching.run, connection, asked, logs=self._logs))
                                tg.start_soon(self._refresh_after_gaps, connection, listings)
                                # What waited for the server must not cause changes that nobody is told of.
                                with anyio.move_on_after(ASK_AGAIN_S):
                                    await asked.wait()
                                self._become(Status.READY)
                                await connection.over.wait()
                                tg.cancel_scope.cancel()
                            if connection.closed.is_set():
                                break
                            connection.over = anyio.Event()
                        reason = await self._how_it_ended(connection, connection.end)
                        if connection.process is not None and not connection.process.killed:
                            served = self._one_shot.learn(connection.calls)
                except anyio.get_cancelled_exc_class():
                    raise
                except Exception as exc:  # whatever a start can raise is the reason that users are told
                    logger.debug("server %r failed", self.name, exc_info=True)
                    if self._probing and not self._prefer_handshake and self._kind != "http":
                        # Servers exit at a request before `initialize` (Rust's SDK before 3), or refuse all that
                        # follows it. Such a one is started again at once, and told nothing else first.
                        self._prefer_handshake = True
                        if not isinstance(exc, TimeoutError):
                            continue
                    reason = self._explain(exc)
                    if not healthy and self._try_other_transport(exc, reason):
                        continue
                    reason, self._first_refusal = self._first_refusal or reason, ""
                self._connection = self._listings = None
                if served:  # that is its way to end, and no failure
                    self.restarts += 1
                    continue
                self._fruitless = not healthy
                if healthy and anyio.current_time() - since > HEALTHY_S:
                    self._failures = 0
                pause = min(BACKOFF_S[0] * 2**self._failures, BACKOFF_S[1])
                self._failures += 1
                self._failed_at = anyio.current_time()
                self._wake = anyio.Event()
                self._become(Status.FAILED, reason)
                # A server that ran and died starts again when somebody needs it, or after the pause.
                with anyio.move_on_after(pause):
                    await self._wake.wait()
                self.restarts += 1
        finally:
            self._connection = self._listings = None
            self.status = Status.STOPPED
            self._changed.set()
            self._stderr.close()

    def _renew(self, connection: _Connection, session: object) -> None:
        """Have a new session made in place of one that the server has forgotten; once for all who find that out."""
        remote = connection.remote
        if remote is None or remote.session is not session or self._connection is not connection:
            return
        if self.status is Status.READY:
            logger.info("server %r has forgotten the session; a new one is made", self.name)
            self._become(Status.STARTING)
            if remote.renewable:
                connection.over.set()
            else:
                remote.inbox.end()  # the connection is the session, and another one is made

    def _try_other_transport(self, exc: BaseException, reason: str) -> bool:
        """Switch from Streamable HTTP to HTTP+SSE, or back, where the server's refusal means that it speaks the other;
        once, and for good if that works."""
        while isinstance(exc, BaseExceptionGroup):
            exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
        refused = isinstance(exc, HttpRefused) and exc.other_transport
        if self._kind is None or not (refused or self._first_refusal):
            return False
        self._kind = "sse" if self._kind == "http" else "http"
        if self._first_refusal:
            return False  # neither: the first is tried again later
        self._first_refusal = reason
        return True

    def _become(self, status: Status, reason: str = "") -> None:
        if status is Status.STARTING and self._failures and self._last_reason:
            times = "before" if self._failures == 1 else f"{self._failures} times, last"
            reason = f"failed {times}: {self._last_reason}"
        known_reason = self._said
        self.status, self.reason = status, reason
        if status is not Status.STARTING:
            self._starts.leave(self.name)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        if status is Status.READY:
            self._said = self._last_reason = ""
        if status is Status.FAILED:
            self._last_reason = reason
            self._stderr.note(f"not available: {reason}")
        if status is Status.FAILED and reason != known_reason:
            self._said = reason  # said once, however often it is tried again
            logger.warning("server %r is not available: %s", self.name, reason)
        self._listener.downstream_changed(self, frozenset())

    def _explain(self, exc: BaseException) -> str:
        while isinstance(exc, BaseExceptionGroup):
            exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
        match exc:
            case FileNotFoundError() if isinstance(self.config.spec, StdioSpec):
                missing = exc.filename or self.config.spec.command
                if self.config.spec.cwd and missing == self.config.spec.cwd:
                    return f"its working directory {missing!r} does not exist"
                if "/" in self.config.spec.command:
                    where = self.config.spec.cwd or os.getcwd()
                    return f"command {self.config.spec.shown_program} was not found; it was looked for from {where}"
                return f"command {self.config.spec.shown_program} was not found; is it installed and on PATH?"
            case PermissionError() if isinstance(self.config.spec, StdioSpec):
                return f"command {self.config.spec.shown_program} may not be executed ({exc.strerror})"
            case TimeoutError():
                return f"it did not answer the handshake within {CONNECT_TIMEOUT_S:g} s"
            case TransportFailure():
                text = f"it {exc.message}"
            case RpcError():
                text = f"it refused the connection: {said(exc.message)} (JSON-RPC error {exc.code})"
            case ServerDied():
                text = f"it {exc.how} while starting"
            case ServerUnavailable():
                text = exc.reason
            case _:
                text = str(exc) or type(exc).__name__
        return self._stderr.explained(text)

    # --- connecting ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connect(self) -> AsyncGenerator[_Connection]:
        async with AsyncExitStack() as stack:
            spec = self.config.spec
            if isinstance(spec, StdioSpec):
                self._stderr.open(spec.shown)
                child, self._child = self._child, None  # a process serves once
                process = await stack.enter_async_context(spawn(self.name, spec, self._stderr, self._reaper, child))
                process.reader.limit = self.config.base.max_message_bytes
                connection = _Connection(Peer(process.reader, process.writer, ends_unread=True), self._capabilities)
                connection.process = process
            else:
                from asyncfc_mcp.remote import connect  # a cost that few starts need

                limit = self.config.base.max_message_bytes
                peer, remote = await stack.enter_async_context(connect(spec, self._kind or spec.kind, limit))
                connection = _Connection(peer, self._capabilities, remote)
                remote.on_session_lost = partial(self._renew, connection)
                remote.on_gap = connection.miss
            tg = await stack.enter_async_context(anyio.create_task_group())

            async def pump(*, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
                try:
                    await connection.dispatcher.run(
                        in_a_task(self._on_request), self._on_notify, task_status=task_status
                    )
                finally:
                    connection.closed.set()
                    connection.over.set()

            await tg.start(pump)
            try:
                yield connection
            finally:
                tg.cancel_scope.cancel()

    async def _negotiate(self, connection: _Connection) -> None:
        """Find the protocol era: ask `server/discover`, else shake hands, as a server did before."""
        await self._listener.introduced()
        self._probing = False
        if self._prefer_handshake:
            try:
                await self._initialize(connection)
            except RpcError as exc:
                # A modern-only server may refuse the handshake with any error, as one that it does not know.
                if isinstance(exc, TransportFailure) and not isinstance(exc, HttpRefused):
                    raise
                found = None
                with anyio.move_on_after(PROBE_S):
                    found = await self._discover(connection)
                if found is None:
                    raise
                self._adopt(connection, found)
        else:
            await self._probe(connection)
        self._probing = False

    async def _probe(self, connection: _Connection) -> None:
        """Ask `server/discover`; where that brings nothing within `PROBE_S`, shake hands without waiting longer."""
        found: dict[str, Any] | None = None
        answered = anyio.Event()

        async def discover() -> None:
            nonlocal found
            found = await self._discover(connection)
            answered.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(discover)
            with anyio.move_on_after(PROBE_S):
                await answered.wait()
            try:
                if found is None:
                    await self._initialize(connection)
                else:
                    self._adopt(connection, found)
            except RpcError:
                # It may know no handshake, and have been slow only.
                with anyio.move_on_after(PROBE_S):
                    await answered.wait()
                if found is None:
                    raise
                self._adopt(connection, found)
            tg.cancel_scope.cancel()

    async def _discover(self, connection: _Connection) -> dict[str, Any] | None:
        """The answer to `server/discover`, if the server speaks a version of the stateless protocol.

        Raises:
            ServerDied: the connection ended.
        """
        version = MODERN_VERSIONS[-1]
        params = {"_meta": connection.envelope(self._capabilities(), version)}
        # Over HTTP, giving up closes the request's own connection, and says nothing that the server must understand.
        options: CallOptions = {"cancel_on_abandon": connection.remote is not None, "answers_without_id": True}
        self._probing = True
        try:
            result = await connection.dispatcher.send_raw_request("server/discover", params, options)
        except RpcError as exc:
            if isinstance(exc, ConnectionEnded):
                raise ServerDied(self.name, await self._how_it_ended(connection, exc)) from None
            return None
        return result if _mutual(result) else None

    def _adopt(self, connection: _Connection, found: dict[str, Any]) -> None:
        """Speak the stateless protocol."""
        connection.version = _mutual(found)[-1]
        meta = found.get("_meta")
        info = cast("dict[str, Any]", meta).get(SERVER_INFO_META_KEY) if isinstance(meta, dict) else None
        self._met(found, info, connection.version)

    async def _initialize(self, connection: _Connection) -> None:
        params = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(self._capabilities()),
            "clientInfo": CLIENT_INFO,
        }
        options: CallOptions = {"cancel_on_abandon": False, "answers_without_id": True}
        try:
            result = await connection.dispatcher.send_raw_request("initialize", params, options)
        except RpcError as exc:
            if isinstance(exc, ConnectionEnded):
                raise ServerDied(self.name, await self._how_it_ended(connection, exc)) from None
            raise
        version = result.get("protocolVersion")
        if version not in SERVER_HANDSHAKE_VERSIONS:
            raise ServerUnavailable(self.name, f"it speaks protocol version {version!r:.80}, which is not known here")
        connection.version = version
        self._met(result, result.get("serverInfo"), version)
        await connection.dispatcher.notify("notifications/initialized", None)

    def _met(self, result: Mapping[str, Any], info: object, version: str) -> None:
        capabilities, instructions = result.get("capabilities"), result.get("instructions")
        self._introduced = Offer(
            capabilities=cast("dict[str, Any]", capabilities) if isinstance(capabilities, dict) else {},
            info=cast("dict[str, Any]", info) if isinstance(info, dict) else {},
            instructions=carried(instructions) if isinstance(instructions, str) else None,
            protocol_version=version,
        )

    # --- listing -------------------------------------------------------------------------------------------------

    def _begin_listing(self, connection: _Connection) -> Listings:
        """Take what the server said of itself, and prepare to list what it has."""
        introduced = self._introduced
        # Tools are asked for even where the capability was not announced: servers forget to.
        kinds = {
            kind: introduced.capabilities.get(capability) is not None
            for kind, (_, capability) in LISTINGS.items()
            if kind == "tools" or introduced.capabilities.get(capability) is not None
        }
        self.offer = replace(introduced, listings={kind: self.offer.listing(kind) for kind in kinds})
        self._prefer_handshake = introduced.protocol_version in SERVER_HANDSHAKE_VERSIONS
        self.listing_problems.clear()

        async def ask(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            out = dict(params)
            if connection.modern:
                out["_meta"] = connection.envelope(self._capabilities())
            return await connection.dispatcher.send_raw_request(method, out or None, {"timeout": LIST_TIMEOUT_S})

        self._listings = Listings(ask, partial(self._listed, connection), kinds, self._prepare)
        return self._listings

    async def _prepare(self, kind: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        entries = kept(kind, self.offer.listing(kind), entries)
        await self._listener.prepare(self, kind, entries)
        return entries

    def _listed(
        self, connection: _Connection, kind: str, entries: list[dict[str, Any]], *, complete: bool, problem: str
    ) -> None:
        """Take one listing; a failure leaves what is known."""
        if problem and problem != self.listing_problems.get(kind):
            logger.warning("server %r: %s", self.name, problem)
        self.listing_problems[kind] = problem
        if kind == "tools" and connection.modern and connection.remote is not None:
            entries = connection.remote.mirror.learn(self.name, entries)
        old = self.offer.listing(kind)
        if complete or len(entries) > len(old):
            entries = kept(kind, old, entries)
            changed = frozenset([kind] if entries != old or not self.known else [])
            self.offer = replace(self.offer, listings={**self.offer.listings, kind: entries})
            self.known = self.known or kind == "tools"
        else:
            changed = frozenset[str]()
        self._listener.downstream_changed(self, changed)

    def has_listed(self, kinds: Iterable[str]) -> bool:
        """Whether these listings are known, in this run or from an earlier one, or failed."""
        if self._known_before or self.status is Status.STARTING:
            return self.known
        return self._listings is None or all(map(self._listings.has, kinds))

    async def listed(self, kinds: Iterable[str]) -> None:
        """Return when these listings are known or have failed; see `settled`."""
        await self.settled()
        if self._listings is not None:
            for kind in kinds:
                await self._listings.first(kind)

    async def _refresh_after_gaps(self, connection: _Connection, listings: Listings) -> None:
        """List everything again when changes may have been missed."""
        while True:
            await connection.missed.wait()
            connection.missed = anyio.Event()
            for kind in LISTINGS:
                listings.refresh(kind)

    # --- what the server sends -----------------------------------------------------------------------------------

    async def _on_request(self, channel: object, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        if method == "ping":
            return {}
        return await self._listener.downstream_asks(self, method, params)

    def _on_notify(
        self, channel: object, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        match method.split("/"):
            case ["notifications", ("tools" | "prompts" | "resources") as kind, "list_changed"]:
                if self._listings is not None:
                    for each in ("resources", "resourceTemplates") if kind == "resources" else (kind,):
                        self._listings.refresh(each)
                return None
            case ["notifications", "cancelled" | "progress"]:
                return None  # the dispatcher has applied it
            case ["notifications", "subscriptions", "acknowledged"]:
                self._watching.acknowledged(params or {})
                return None
            case _:
                return self._listener.downstream_notifies(self, method, params)


def _mutual(discovered: Mapping[str, Any]) -> list[str]:
    """The versions of the stateless protocol that both sides speak, oldest first."""
    supported = discovered.get("supportedVersions")
    return [version for version in MODERN_VERSIONS if isinstance(supported, list) and version in supported]


def _unsent(exc: RpcError) -> bool:
    """Whether it is certain that no part of the request reached the server."""
    return isinstance(exc, TransportFailure) and not exc.sent
