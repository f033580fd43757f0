"""Keeps one wrapped server connected: start, restart with backoff, status.

Owns the one task that opens and closes the server's connections, and the wait of requests for a connection. Sending
requests is left to `downstream`, what a connection does to `connection` and `negotiation`, the times of restarts to
`restart_policy`.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncfc_mcp.config.model import HttpSpec, ServerConfig
from asyncfc_mcp.downstream.connection import Connection, open_connection
from asyncfc_mcp.downstream.listing import PARTIAL_AFTER_S
from asyncfc_mcp.downstream.negotiation import negotiate
from asyncfc_mcp.downstream.one_shot import OneShotDetector
from asyncfc_mcp.downstream.process import Child
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.restart_policy import RestartPolicy
from asyncfc_mcp.downstream.server_listings import ServerListings
from asyncfc_mcp.downstream.session_observer import SessionObserver
from asyncfc_mcp.downstream.start_failures import explain_start_failure, first_exception
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.downstream.stderr import Stderr
from asyncfc_mcp.downstream.subscriptions import ServerSubscriptions
from asyncfc_mcp.downstream.transport_choice import TransportChoice
from asyncfc_mcp.errors import NotSignedIn, RunsElsewhere, ServerDied, ServerUnavailable, SignInNeeded
from asyncfc_mcp.protocol import SERVER_HANDSHAKE_VERSIONS, OnNotify, OnRequest
from asyncfc_mcp.signals import Signal

if TYPE_CHECKING:
    from asyncfc_mcp.downstream.http.authorizer import Authorizer

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 120.0
"""From the start of a server to its response to the handshake; long, because `npx` and `uvx` may download first."""
STARTS_PER_REQUEST: Final = 2
"""Starts of a failed server for one request."""
RESUBSCRIBE_TIMEOUT_S: Final = 5.0
"""Time for a restarted server to accept its earlier subscriptions before it is used."""
SIGN_IN_POLL_S: Final = 1.0
"""Pause between two looks for new credentials, while a server needs a sign-in."""


class Status(Enum):
    """Status of a wrapped server; the value is shown to users."""

    STARTING = "starting"
    """The server is being started, or connected to."""
    READY = "ready"
    """Requests can be sent."""
    FAILED = "failed"
    """The server failed to start or has ended. It is started again after a pause, or for a request."""
    SIGN_IN = "needs sign-in"
    """The server asks for credentials that only a sign-in yields. It is used again as soon as there are new ones."""
    SLEEPING = "sleeping"
    """The server does not run, since nothing needs it. A request starts it; its listings are known."""
    ELSEWHERE = "elsewhere"
    """Another replica runs the server."""
    STOPPED = "stopped"
    """The bridge has stopped."""


@dataclass(slots=True)
class _Run:
    """One run of a server, from its start to the end of its connection."""

    connection: Connection | None = None
    ready_since: float | None = None
    """None if the server did not come up."""
    reason: str = "ended"
    sign_in: SignInNeeded | None = None
    """Set if the run ended for lack of credentials."""
    asleep: bool = False
    """True if the server was ended because nothing needs it."""
    served_once: bool = False
    """True if the process exited after its one call, as expected of a one-shot server."""


class Supervisor:
    """Starts and restarts one server while it is run.

    Args:
        config: the command to start, or the URL to connect to.
        capabilities: returns the client capabilities to declare.
        wait_for_client: returns when the client's capabilities are known, or no longer worth waiting for.
        on_request, on_notification: handle messages of the server.
        starts: admits the server to its starts.
        child: the server's process, if it was started ahead.
        authorizer: adds credentials to the requests to a server with a URL.
        on_demand: start the server only when a request needs it, if its listings are known.
        observer: takes note of sessions and restarts.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        capabilities: Callable[[], Mapping[str, Any]],
        wait_for_client: Callable[[], Awaitable[None]],
        on_request: OnRequest,
        on_notification: OnNotify,
        listings: ServerListings,
        subscriptions: ServerSubscriptions,
        starts: StartQueue,
        stderr: Stderr,
        reaper: Reaper,
        child: Child | None,
        authorizer: "Authorizer | None" = None,
        on_demand: bool = False,
        observer: SessionObserver | None = None,
    ) -> None:
        self._config, self._name = config, config.name
        self._capabilities, self._wait_for_client = capabilities, wait_for_client
        self._on_request, self._on_notification = on_request, on_notification
        self._listings, self._subscriptions = listings, subscriptions
        self._starts, self._stderr, self._reaper, self._child = starts, stderr, reaper, child
        self._authorizer = authorizer
        self._observer = observer
        self.status = Status.SLEEPING if on_demand and listings.known else Status.STARTING
        self.reason = ""
        """The reason of `failed` and of `needs sign-in`; while `starting`, a note on earlier failures."""
        self._sign_in: SignInNeeded | None = None
        """What the server asked for, while it needs a sign-in."""
        self.restarts = 0
        """Starts after a start that failed, or after an unexpected end."""
        self.slept_at: float | None = None
        """Time at which the server was put to sleep last, as of `time.time`; None if it was not."""
        self._run: _Run | None = None
        """The run of the connection that is open."""
        self._urgent = False
        """A request waits for the next start."""
        self.connection: Connection | None = None
        self.changed = Signal()
        """Notified when `status` or `connection` has changed."""
        self.one_shot = OneShotDetector()
        self._transport = TransportChoice(config.spec.kind if isinstance(config.spec, HttpSpec) else None)
        self._restarts = RestartPolicy(remote=self._transport.remote)
        self._start_now = Signal()
        """Ends the pause before the next start."""
        self._handshake_first = listings.snapshot.protocol_version in SERVER_HANDSHAKE_VERSIONS
        """True if the server is known to use the handshake, or has ended at a probe."""
        self._last_reason: str = ""
        self._logged_reason: str = ""

    # --- for requests --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    def wake(self, *, urgent: bool = False) -> None:
        """Start a sleeping server; nothing if it does not sleep. One that is just being ended is started after that.

        Args:
            urgent: a request waits for it.
        """
        if self.status is Status.SLEEPING:
            self._urgent = urgent
            self._set_status(Status.STARTING)
            self._start_now.notify_all()

    def sleep(self) -> bool:
        """End the connection of a server that nothing needs, until it is woken. Return false, and do nothing, if it is
        not up. No request may be using the connection."""
        connection, run = self.connection, self._run
        if self.status is not Status.READY or connection is None or run is None or connection.closed.is_set():
            return False
        # From here on requests wait for the next connection: none can be written to the one that is about to be closed.
        run.asleep = True
        self.connection = None
        self.slept_at = time.time()
        self._set_status(Status.SLEEPING)
        connection.session_ended.set()
        return True

    async def wait_settled(self) -> None:
        """Wait until the server is up, sleeps, has failed or needs a sign-in, or another replica runs it."""
        while self.status is Status.STARTING:
            await self.changed.wait()

    async def come_up(self) -> None:
        """Start a sleeping server before others, and wait until it is settled."""
        self._starts.prioritize(self._name)
        self.wake(urgent=True)
        await self.wait_settled()

    async def wait_for_connection(self, *, for_call: bool = False) -> Connection:
        """Wait for a connection on which a request can be sent; start a failed server for it.

        Args:
            for_call: the request is a tool call, which a one-shot server gets one of per process.

        Raises:
            ServerUnavailable: the server is not up, and starting it for this request did not help; `RunsElsewhere`, a
                subclass: another replica runs it; `NotSignedIn`, another one: it has to be signed in to.
        """
        starts = 0
        while True:
            self._starts.prioritize(self._name)
            self.wake(urgent=True)
            await self.wait_settled()
            connection = self.connection
            if connection is not None:
                if connection.closed.is_set():
                    await self.changed.wait()  # the owner task is about to remove it
                elif for_call and self.one_shot.is_used(connection.calls):
                    await self.one_shot.wait_for_exit(connection.calls, connection.closed)
                    starts = 0  # the server works, and serves other calls before this one
                else:
                    return connection
                continue
            if self.status is Status.SLEEPING:
                continue  # it was put to sleep before this task was resumed
            if self.status is Status.ELSEWHERE:
                raise RunsElsewhere(self._name)
            if self.status is Status.SIGN_IN and self._sign_in is not None:
                if starts >= STARTS_PER_REQUEST or not self._has_new_credentials():
                    raise NotSignedIn(self._name, self._sign_in)
                starts += 1
                self._start_now.notify_all()
                await self.changed.wait()
                continue
            delay = self._restarts.request_delay(anyio.current_time())
            # A request waits out a short delay for a server with a URL; it fails where a process has just failed.
            can_start = starts < STARTS_PER_REQUEST and (self._transport.remote or delay == 0)
            if self.status is not Status.FAILED or not can_start:
                raise ServerUnavailable(self._name, self.reason or self.status.value)
            if delay == 0:
                starts += 1
                self._start_now.notify_all()
                await self.changed.wait()
            else:
                with anyio.move_on_after(delay):
                    await self.changed.wait()

    def renew_session(self, connection: Connection, session: object) -> None:
        """Replace a session that the server no longer knows; once for all requests that found it lost."""
        transport = connection.transport
        if transport is None or transport.session is not session or self.connection is not connection:
            return
        if self.status in (Status.READY, Status.SIGN_IN):
            logger.info("server %r no longer knows the session; starting a new one", self._name)
            self._replace_session(connection)

    def _replace_session(self, connection: Connection) -> None:
        transport = connection.transport
        assert transport is not None
        self._set_status(Status.STARTING)
        if transport.renewable:
            connection.session_ended.set()
        else:
            transport.inbox.end()  # the connection is the session, and is replaced with it

    # --- credentials ---------------------------------------------------------------------------------------------

    def on_sign_in_needed(self, connection: Connection, needed: SignInNeeded) -> None:
        """Take note that a request of a running server was refused for lack of credentials. The connection is kept: for
        requests that the server has accepted, and for those that need no credentials. A refusal for lack of scopes
        (403) concerns one request only."""
        if self.connection is connection and self.status is Status.READY and needed.status == 401:
            self._set_sign_in(needed)

    @property
    def sign_in(self) -> SignInNeeded | None:
        """The sign-in that the server waits for; None while it needs none."""
        return self._sign_in if self.status is Status.SIGN_IN else None

    @property
    def secrets(self) -> Sequence[str]:
        """The current credentials, without those of the configuration."""
        return () if self._authorizer is None else self._authorizer.secrets

    def signed_in(self) -> None:
        """Use new credentials at once."""
        if self.status is Status.SIGN_IN:
            self._start_now.notify_all()

    def _has_new_credentials(self) -> bool:
        return self._authorizer is not None and self._authorizer.renewed()

    async def _wait_for_sign_in(self) -> None:
        """Return when there are new credentials, or `_start_now` is notified."""
        while True:
            with anyio.move_on_after(SIGN_IN_POLL_S) as poll:
                await self._start_now.wait()
            if not poll.cancelled_caught or self._has_new_credentials():
                return

    async def _renew_after_sign_in(self, connection: Connection) -> None:
        """Replace the session of a running server after a sign-in: it may belong to another user."""
        while self.status is not Status.SIGN_IN:
            await self.changed.wait()
        await self._wait_for_sign_in()
        if self.status is Status.SIGN_IN:
            self._replace_session(connection)

    # --- the owner task ------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Let requests that wait for a connection fail: there will be none. Not while `run` runs."""
        self.status = Status.STOPPED
        self.changed.notify_all()

    def stand_by(self) -> None:
        """Have another replica run the server, until it is run here (again)."""
        self._set_status(Status.ELSEWHERE)

    async def run(self) -> None:
        """Keep the server connected until cancelled; may be run again after that. The only task that opens and closes
        its connections."""
        try:
            while True:
                while self.status is Status.SLEEPING:
                    await self._start_now.wait()
                await self._enter_start()
                run = self._run = _Run()
                retry = False
                try:
                    await self._serve(run)
                except Exception as exc:  # whatever a start can raise becomes the reason shown to users
                    logger.debug("server %r failed", self._name, exc_info=True)
                    failure = first_exception(exc)
                    if isinstance(failure, SignInNeeded):
                        run.sign_in = failure
                    elif not run.asleep:
                        retry = self._retry_at_once(run, failure)
                self.connection = self._run = None
                self._listings.end()
                if run.asleep or retry or run.served_once:
                    continue
                if run.sign_in is not None:
                    self._set_sign_in(run.sign_in)
                    await self._wait_for_sign_in()
                    continue
                pause = self._restarts.on_failure(anyio.current_time(), ready_since=run.ready_since)
                self._set_status(Status.FAILED, run.reason)
                with anyio.move_on_after(pause):
                    await self._start_now.wait()
                self.restarts += 1
                if self._observer is not None:
                    self._observer.restarted(self._name)
        finally:
            self.connection = None
            self._listings.end()
            self.status = Status.STOPPED
            self.changed.notify_all()
            self._stderr.close()

    async def _enter_start(self) -> None:
        self._set_status(Status.STARTING)
        self._starts.leave(self._name)  # a retry that follows at once queues for a slot again
        urgent, self._urgent = self._urgent, False
        await self._starts.enter(self._name, known=self._listings.known, light=self._transport.remote, urgent=urgent)

    async def _serve(self, run: _Run) -> None:
        """Run a connection from its start to its end."""
        child, self._child = self._child, None  # a process is used for one connection
        async with open_connection(
            self._config,
            self._transport.kind,
            capabilities=self._capabilities,
            stderr=self._stderr,
            reaper=self._reaper,
            child=child,
            on_request=self._on_request,
            on_notification=self._on_notification,
            on_session_lost=self.renew_session,
            authorizer=self._authorizer,
        ) as connection:
            run.connection = connection
            while True:
                await self._serve_session(run, connection)
                if run.asleep:
                    return
                if connection.closed.is_set():
                    break
                connection.session_ended = anyio.Event()
            run.reason = await connection.describe_end(connection.end)
            if connection.process is not None and not connection.process.killed:
                run.served_once = self.one_shot.on_exit(connection.calls)

    async def _serve_session(self, run: _Run, connection: Connection) -> None:
        """Negotiate, list, subscribe, and wait for the end of the session."""
        with anyio.fail_after(CONNECT_TIMEOUT_S):
            await self._wait_for_client()
            introduced = await negotiate(connection, handshake_first=self._handshake_first)
        self._handshake_first = introduced.protocol_version in SERVER_HANDSHAKE_VERSIONS
        self.connection = connection
        async with anyio.create_task_group() as tg:
            fetcher = self._listings.begin(connection, introduced)
            tg.start_soon(fetcher.run)
            # A server whose tools are known can be used before they are all listed again.
            with anyio.move_on_after(PARTIAL_AFTER_S if self._listings.known else None):
                await fetcher.wait_available("tools")
            if fetcher.connection_ended is not None:
                raise ServerDied(self._name, await connection.describe_end(fetcher.connection_ended))
            run.ready_since = anyio.current_time()
            self._restarts.on_ready()
            self._transport.confirm()
            subscribed = anyio.Event()
            has_logs = introduced.capabilities.get("logging") is not None
            tg.start_soon(partial(self._subscriptions.run, connection, subscribed, logs=has_logs))
            tg.start_soon(self._listings.refresh_after_losses, connection)
            # Waiting requests must not cause changes whose notifications would be lost.
            with anyio.move_on_after(RESUBSCRIBE_TIMEOUT_S):
                await subscribed.wait()
            self._set_status(Status.READY)
            if self._authorizer is not None:
                tg.start_soon(self._renew_after_sign_in, connection)
            try:
                await connection.session_ended.wait()
            finally:
                if self._observer is not None:
                    lost = connection.closed.is_set() and not run.asleep
                    self._observer.session_ended(self._name, anyio.current_time() - run.ready_since, lost)
            tg.cancel_scope.cancel()

    def _retry_at_once(self, run: _Run, exc: BaseException) -> bool:
        """Evaluate a failed run; return whether to start again at once, in another way."""
        probed = run.connection is not None and run.connection.probe_unanswered
        if probed and not self._handshake_first and self._transport.kind != "http":
            # Some servers exit at a request before `initialize` (those with Rust's SDK before 3), or refuse all further
            # requests. They are started again at once, and get `initialize` first.
            self._handshake_first = True
            if not isinstance(exc, TimeoutError):
                return True
        reason = explain_start_failure(exc, self._config.spec, self._stderr, CONNECT_TIMEOUT_S)
        if run.ready_since is None and self._transport.switch(exc, reason):
            return True
        run.reason = self._transport.take_reason(reason)
        return False

    def _set_sign_in(self, needed: SignInNeeded) -> None:
        self._sign_in = needed
        if needed.reason != self._logged_reason:
            self._logged_reason = needed.reason
            logger.warning("server %r %s", self._name, needed.message)
        self._set_status(Status.SIGN_IN, needed.reason)

    def _set_status(self, status: Status, reason: str = "") -> None:
        failures = self._restarts.failures
        if status is Status.STARTING and failures and self._last_reason:
            reason = f"failed {'before' if failures == 1 else f'{failures} times, last'}: {self._last_reason}"
        self.status, self.reason = status, reason
        if status is not Status.STARTING:
            self._starts.leave(self._name)
        self.changed.notify_all()
        if status is Status.READY:
            self._logged_reason = self._last_reason = ""
        if status is Status.FAILED:
            self._last_reason = reason
            self._stderr.note(f"not available: {reason}")
            if reason != self._logged_reason:  # logged once, however often the start is repeated
                self._logged_reason = reason
                logger.warning("server %r is not available: %s", self._name, reason)
