"""A wrapped MCP server as the bridge uses it: requests, notifications, subscriptions, listings.

Owns sending requests, with the retries that cannot repeat an effect, and the dispatch of the server's messages. Keeping
the server connected is left to `supervisor`. Futures, scopes and the names that clients see are unknown here: messages
are plain dictionaries.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import anyio

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.core.outcome import CancelRequest, CompletionCallback
from asyncfc_mcp.downstream.connection import Connection
from asyncfc_mcp.downstream.on_demand import Demand, OnDemand, Usage
from asyncfc_mcp.downstream.one_shot import ProcessCalls
from asyncfc_mcp.downstream.process import Child
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.server_listings import ServerListings
from asyncfc_mcp.downstream.session_observer import SessionObserver
from asyncfc_mcp.downstream.snapshot import LISTINGS, ServerSnapshot
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.downstream.stderr import Stderr
from asyncfc_mcp.downstream.subscriptions import ServerSubscriptions
from asyncfc_mcp.downstream.supervisor import Status, Supervisor
from asyncfc_mcp.errors import (
    NotSent,
    NotSignedIn,
    ProtocolFailure,
    RpcError,
    RunsElsewhere,
    SessionLost,
    SignInNeeded,
    TransportFailure,
)
from asyncfc_mcp.jsonrpc.inbound import Inbound, deferred_handler
from asyncfc_mcp.protocol import MODERN_VERSIONS, Deferred, OnProgress, OnSent, RequestId

if TYPE_CHECKING:
    from asyncfc_mcp.downstream.http.authorizer import Authorizer

MAX_RESENDS: Final = 3
"""Times that a request is sent again if no part of it reached the server."""
RECONNECT_WAIT_S: Final = 0.2
"""Longest wait for a new connection before the first of these; it doubles with each."""


class DownstreamHandler(Protocol):
    """Handles what wrapped servers send on their own initiative."""

    async def on_listing_changed(self, downstream: "Downstream", kind: str) -> None:
        """Handle a change of one kind of listing. Returns when clients can see the change."""
        ...

    async def wait_for_client_capabilities(self) -> None:
        """Wait until the client has declared its capabilities, or a timeout has passed."""
        ...

    async def on_server_request(
        self,
        downstream: "Downstream",
        method: str,
        params: Mapping[str, Any] | None,
        causes: Sequence[object] | None,
    ) -> dict[str, Any]:
        """Answer a request of a server. Raise `RpcError` to refuse it.

        Args:
            causes: the `cause` of the request that it belongs to, if that has one; None if unknown.
        """
        ...

    def on_server_notification(
        self, downstream: "Downstream", method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        """Handle a notification that this package does not use itself, and return the rest of the work, if any. The
        result of a call may be the server's next message."""
        ...


class Downstream:
    """A wrapped server, from its first start to the end of the bridge. Of several replicas, one may run it (`run`),
    and the others stand by.

    Args:
        config: the command to start, or the URL to connect to.
        handler: handles changes, requests and notifications of the server.
        capabilities: returns the client capabilities to declare to the server.
        reaper: ends the server's processes if the bridge is killed.
        log_path: the log file for the server's stderr; None keeps only its last lines.
        echo: a stream for a copy of the server's stderr (`--verbose`).
        snapshot: the snapshot of an earlier run, used until the server is up.
        child: the server's process, if it was started ahead.
        starts: admits the server to its starts.
        authorizer: adds credentials to the requests to a server with a URL.
        demand: decides how long the server runs, if it is started when it is needed; None: it runs all the time.
        started: the configuration with which it is started, if that is another one: of an instance for a session.
        observer: takes note of sessions and restarts.
    """

    def __init__(
        self,
        config: ServerConfig,
        handler: DownstreamHandler,
        *,
        capabilities: Callable[[], Mapping[str, Any]],
        reaper: Reaper,
        log_path: Path | None = None,
        echo: TextIO | None = None,
        snapshot: ServerSnapshot | None = None,
        child: Child | None = None,
        starts: StartQueue | None = None,
        authorizer: "Authorizer | None" = None,
        demand: Demand | None = None,
        started: ServerConfig | None = None,
        observer: SessionObserver | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.in_flight = 0
        """Requests that were sent and are not answered."""
        self._handler = handler
        self._subscriptions = ServerSubscriptions()
        self._listings = ServerListings(config.name, snapshot, partial(handler.on_listing_changed, self))
        self._usage = Usage()
        starts = starts or StartQueue(1)
        self._stderr = Stderr(config.name, log_path, echo, config.secrets)
        self._supervisor = Supervisor(
            started or config,
            capabilities=capabilities,
            wait_for_client=handler.wait_for_client_capabilities,
            on_request=deferred_handler(self._on_request),
            on_notification=self._on_notification,
            listings=self._listings,
            subscriptions=self._subscriptions,
            starts=starts,
            stderr=self._stderr,
            reaper=reaper,
            child=child,
            authorizer=authorizer,
            on_demand=demand is not None,
            observer=observer,
        )
        self._demand, self._on_demand = demand, None
        if demand is not None:
            self._on_demand = OnDemand(
                self._supervisor, self._listings, self._subscriptions, self._usage, starts, demand
            )

    async def run(self) -> None:
        """Keep the server connected until cancelled; one that runs on demand, while it is needed."""
        if self._on_demand is None:
            await self._supervisor.run()
            return
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._on_demand.run)
            await self._supervisor.run()

    def wake(self) -> None:
        """Start the server if it sleeps."""
        self._supervisor.wake(urgent=True)

    def configure(self, config: ServerConfig) -> None:
        """Use another configuration of the same server, which needs no new start (see `config.changes`)."""
        self.config = config
        self._stderr.secrets = config.secrets
        if self._demand is not None:
            self._demand.configure(config)

    def succeed(self, before: "Downstream", *, same_program: bool) -> None:
        """Take the place of a connection of the same name, with what clients want of the server. To be called before
        `run`, which has to wait for the end of the other.

        Args:
            same_program: the listings of the other count until there are new ones.
        """
        self._subscriptions.succeed(before._subscriptions)
        if same_program and before.known and not self.known:
            self._listings.succeed(before._listings)

    def want_log_level(self, level: str | None) -> None:
        """Ask for log messages of this level and above once the server is up. To be called before `run`."""
        self._subscriptions.log_level = level

    def retire(self) -> None:
        """End a connection that is not run (any more): what waits for it goes on."""
        self._supervisor.retire()

    def stand_by(self) -> None:
        """Have another replica run the server, until `run` is called (again)."""
        self._subscriptions.clear()
        self._supervisor.stand_by()

    async def adopt(self, snapshot: ServerSnapshot) -> None:
        """Take over listings and capabilities that another replica has read, which runs the server."""
        await self._listings.adopt(snapshot)
        self._supervisor.changed.notify_all()

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        return self._supervisor.status

    @property
    def reason(self) -> str:
        """The reason of `failed` and of `needs sign-in`; while `starting`, a note on earlier failures."""
        return self._supervisor.reason

    @property
    def on_demand(self) -> bool:
        """True if the server is started when it is needed."""
        return self._on_demand is not None

    @property
    def condition(self) -> str:
        """Status of the server in a few words, with its reason."""
        status = self.status.value
        if self.status is Status.SLEEPING:
            slept = self._supervisor.slept_at
            if slept is None:
                return f"{status}: starts at its first call"
            return f"{status} since {time.strftime('%H:%M', time.localtime(slept))}: starts at its next call"
        reason = self.reason or self.listing_problems.get("tools")
        return f"{status}: {reason}" if reason else status

    @property
    def restarts(self) -> int:
        """Starts after a start that failed, or after an unexpected end."""
        return self._supervisor.restarts

    @property
    def sign_in(self) -> SignInNeeded | None:
        """The sign-in that the server waits for; None while it needs none."""
        return self._supervisor.sign_in

    @property
    def stderr_tail(self) -> list[str]:
        """The last lines of the server's stderr, without secrets, and the path of its log."""
        return self._stderr.tail

    async def wait_until_ready(self) -> None:
        """Wait until requests can be sent."""
        while self.status is not Status.READY:
            await self._supervisor.changed.wait()

    @property
    def secrets(self) -> Sequence[str]:
        """The credentials that the server gets at this moment, as far as they change or are a caller's."""
        return self._supervisor.secrets

    def signed_in(self) -> None:
        """Use new credentials at once."""
        self._supervisor.signed_in()

    async def wait_settled(self) -> None:
        """Wait until the server is up, sleeps or has failed, or another replica runs it."""
        await self._supervisor.wait_settled()

    @property
    def snapshot(self) -> ServerSnapshot:
        """The last known listings and capabilities."""
        return self._listings.snapshot

    @property
    def known(self) -> bool:
        """True if the tools were listed, in this run or an earlier one."""
        return self._listings.known

    @property
    def listing_problems(self) -> Mapping[str, str]:
        """Kind of a listing → its fault, for users; empty if there is none."""
        return self._listings.problems

    @property
    def modern(self) -> bool:
        """True if the server uses the stateless protocol (2026-07-28), as far as is known."""
        return self._listings.snapshot.protocol_version in MODERN_VERSIONS

    def has_listings(self, kinds: Iterable[str]) -> bool:
        """Return whether these listings are known, from this run or an earlier one, or have failed."""
        return self._listings.are_known(kinds, starting=self.status in (Status.STARTING, Status.ELSEWHERE))

    async def wait_for_listings(self, kinds: Iterable[str]) -> None:
        """Wait until these listings are known or have failed, or the server has failed. Those of a server that another
        replica runs are known as soon as that one has read them."""
        await self._supervisor.wait_settled()
        while self.status is Status.ELSEWHERE and not self.known:
            await self._supervisor.changed.wait()
            await self._supervisor.wait_settled()
        await self._listings.wait_available(kinds)

    async def wait_until_listed(self) -> None:
        """Wait until the server is up and has listed what it has, as far as it can."""
        while True:
            await self.wait_for_listings(LISTINGS)
            if self.status is Status.READY:
                return
            await self._supervisor.changed.wait()

    def coming_up(self) -> Callable[[], Awaitable[None]] | None:
        """Return what waits until the server has come up or failed, and starts it if it sleeps; None where there is
        nothing to wait for."""
        return self._come_up if self.status in (Status.STARTING, Status.SLEEPING) else None

    async def _come_up(self) -> None:
        with self._usage.using():
            await self._supervisor.come_up()

    # --- requests ------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_sent: OnSent | None = None,
        capabilities: Mapping[str, Any] | None = None,
        cause: object = None,
        limited: bool = False,
        session_renewed: bool = False,
        on_id: Callable[[RequestId], None] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return its result as received; waits while the server is starting.

        The request is sent again if certainly no part of it reached the server, and once if the server no longer knows
        the session. Cancelling the caller sends `notifications/cancelled`.

        Args:
            capabilities: capabilities of the client behind this request, for protocol versions that have them per
                request.
            cause: the reason for which the request is sent; see `DownstreamHandler.on_server_request`.
            limited: the caller cancels the request after a timeout of its own.
            session_renewed: the request was sent before, in a session that the server no longer knew.
            on_id: called with the ID of the request, each time it is sent.

        Raises:
            ServerUnavailable: the server is not up and did not come up; `NotSent`, a subclass: the connection failed;
                `RunsElsewhere`, another one: another replica runs it. Nothing was sent. `NotSignedIn`, another one: it
                has to be signed in to. Nothing was processed.
            ServerDied: the connection failed before the result arrived, and the server may have received the request.
            ServerRefused: the server answered with an HTTP error status.
            ProtocolFailure: the server answered with a JSON-RPC error.
        """
        with self._usage.using():
            return await self._request(
                method,
                params,
                on_progress=on_progress,
                on_sent=on_sent,
                capabilities=capabilities,
                cause=cause,
                limited=limited,
                session_renewed=session_renewed,
                on_id=on_id,
            )

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        *,
        on_progress: OnProgress | None,
        on_sent: OnSent | None,
        capabilities: Mapping[str, Any] | None,
        cause: object,
        limited: bool,
        session_renewed: bool,
        on_id: Callable[[RequestId], None] | None,
    ) -> dict[str, Any]:
        supervisor = self._supervisor
        for_call = method == "tools/call"
        resends = 0
        while True:
            connection = await supervisor.wait_for_connection(for_call=for_call)
            calls = connection.calls if for_call else ProcessCalls()
            calls.sent += 1
            self.in_flight += 1
            out, options = connection.outgoing(params, capabilities, on_progress, cause, limited, on_id)
            if on_sent is not None:
                on_sent(True)
            answered = False
            try:
                result = await connection.peer.send_raw_request(method, out or None, options)
                answered = True
                return result
            except RpcError as exc:
                answered = not isinstance(exc, TransportFailure)
                unsent = _is_unsent(exc)
                if unsent and on_sent is not None:
                    on_sent(False)
                if isinstance(exc, SignInNeeded):
                    supervisor.on_sign_in_needed(connection, exc)
                    raise NotSignedIn(self.name, exc) from None
                if isinstance(exc, SessionLost) and not session_renewed:
                    session_renewed = True
                    supervisor.renew_session(connection, exc.session)
                    continue
                if isinstance(exc, SessionLost) or not unsent or resends >= MAX_RESENDS:
                    raise await connection.call_failure(method, exc) from None
            finally:
                self.in_flight -= 1
                calls.end(answered=answered)
            # A server that has stopped reading ends within a bounded time, and the next process gets the request.
            with anyio.move_on_after(None if connection.peer.write_failed else RECONNECT_WAIT_S * 2**resends):
                while supervisor.connection is connection:
                    await supervisor.changed.wait()
            resends += 1

    def request_nowait(
        self,
        method: str,
        params: Mapping[str, Any],
        completed: CompletionCallback,
        *,
        on_progress: OnProgress | None = None,
        capabilities: Mapping[str, Any] | None = None,
        cause: object = None,
        limited: bool = False,
        on_id: Callable[[RequestId], None] | None = None,
    ) -> CancelRequest | None:
        """Send a tool call without waiting; `completed` is called with its outcome. For the arguments see `request`.

        Returns:
            A function that cancels the request. None if the request cannot be sent at once, and then nothing was sent:
            the server is not up, or does not read. Use `request`, which waits.
        """
        supervisor = self._supervisor
        connection = supervisor.connection
        if connection is None or supervisor.status is not Status.READY or connection.closed.is_set():
            return None
        calls = connection.calls
        if supervisor.one_shot.is_used(calls):
            return None
        out, options = connection.outgoing(params, capabilities, on_progress, cause, limited, on_id)

        def settle(outcome: dict[str, Any] | RpcError) -> None:
            end_use()
            self.in_flight -= 1
            calls.end(answered=not isinstance(outcome, TransportFailure))
            if not isinstance(outcome, RpcError):
                completed(outcome)
            elif isinstance(outcome, SessionLost):
                supervisor.renew_session(connection, outcome.session)
                again = partial(
                    self.request,
                    on_progress=on_progress,
                    capabilities=capabilities,
                    cause=cause,
                    limited=limited,
                    on_id=on_id,
                )
                completed(Deferred(partial(again, method, params, session_renewed=True)))
            elif isinstance(outcome, SignInNeeded):
                supervisor.on_sign_in_needed(connection, outcome)
                completed(NotSignedIn(self.name, outcome))
            elif _is_unsent(outcome):
                completed(NotSent(self.name, outcome.message))
            elif isinstance(outcome, TransportFailure):
                completed(Deferred(partial(_raise_failure, connection, method, outcome)))
            else:
                completed(ProtocolFailure(method, outcome.code, outcome.message, outcome.data))

        peer = connection.peer
        end_use = self._usage.begin()
        request_id = peer.send_request_nowait(method, out, settle, options)
        if request_id is None:
            end_use()
            return None
        calls.sent += 1
        self.in_flight += 1

        def cancel(reason: str) -> None:
            end_use()
            self.in_flight -= 1
            calls.end(answered=False)
            peer.cancel_request(request_id, reason)

        return cancel

    async def notify(self, method: str) -> None:
        """Send a notification that only the handshake protocol has; best effort."""
        connection = self._supervisor.connection
        if connection is not None and not connection.modern:
            await connection.peer.notify(method, None)

    async def subscribe(self, uri: str) -> None:
        """Subscribe to the changes of a resource, now and after every restart.

        Raises:
            CallFailed: the server refused.
        """
        with self._usage.using():
            connection = await self._supervisor.wait_for_connection()
            try:
                await self._subscriptions.subscribe(connection, uri)
            except RpcError as exc:
                raise await connection.call_failure("resources/subscribe", exc) from None

    async def unsubscribe(self, uri: str) -> None:
        """End the subscription to a resource.

        Raises:
            CallFailed: the server refused; `RunsElsewhere`: another replica has the subscription.
        """
        self._require_here()
        connection = self._supervisor.connection
        with self._usage.using():
            try:
                await self._subscriptions.unsubscribe(connection, uri)
            except RpcError as exc:
                assert connection is not None
                raise await connection.call_failure("resources/unsubscribe", exc) from None

    async def set_log_level(self, level: str) -> None:
        """Request log messages of this level and above, now and after every restart. Nothing is sent if the protocol
        has the level per request.

        Raises:
            CallFailed: the server refused; `RunsElsewhere`: another replica has to ask for them now.
        """
        self._subscriptions.log_level = level
        self._require_here()
        connection = self._supervisor.connection
        if connection is None or connection.modern or self.snapshot.capabilities.get("logging") is None:
            return
        try:
            await connection.request("logging/setLevel", {"level": level})
        except RpcError as exc:
            raise await connection.call_failure("logging/setLevel", exc) from None

    def causes(self) -> list[object]:
        """Return the causes of all requests that the server may be working on, also of those that were given up."""
        connection = self._supervisor.connection
        return [] if connection is None else connection.peer.causes()

    def _require_here(self) -> None:
        if self.status is Status.ELSEWHERE:
            raise RunsElsewhere(self.name)

    # --- messages of the server ----------------------------------------------------------------------------------

    async def _on_request(self, channel: Inbound, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        if method == "ping":
            return {}
        with self._usage.answering():
            return await self._handler.on_server_request(self, method, params, channel.causes)

    def _on_notification(
        self, channel: object, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        match method.split("/"):
            case ["notifications", ("tools" | "prompts") as kind, "list_changed"]:
                self._listings.refresh(kind)
                return None
            case ["notifications", "resources", "list_changed"]:
                self._listings.refresh("resources", "resourceTemplates")
                return None
            case ["notifications", "cancelled" | "progress"]:
                return None  # handled by the peer
            case ["notifications", "subscriptions", "acknowledged"]:
                self._subscriptions.on_acknowledged(params or {})
                return None
            case _:
                return self._handler.on_server_notification(self, method, params)


async def _raise_failure(connection: Connection, method: str, error: RpcError) -> dict[str, Any]:
    raise await connection.call_failure(method, error)


def _is_unsent(error: RpcError) -> bool:
    """Return whether certainly no part of the request reached the server."""
    return isinstance(error, TransportFailure) and not error.sent
