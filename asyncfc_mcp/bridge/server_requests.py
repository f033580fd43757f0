"""Requests and notifications of servers: questions to clients, and notifications for them.

Owns the capabilities that servers are offered at their start, and the choice between asking the only client directly
and putting a question on the calls that it belongs to. Leaves to `engine.question_routing` which client answers such
a question, and to `upstream` its delivery.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import anyio

from asyncfc_mcp.bridge.offered_capabilities import offered_capabilities
from asyncfc_mcp.core.identity import Asker, Scope, asker_of
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_roots import use_roots
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.question_rules import refuse_unless_able
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_REQUEST, METHOD_NOT_FOUND

ALL_CLIENT_CAPABILITIES: Final[Mapping[str, Any]] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
"""Capabilities declared to wrapped servers in the handshake, where many clients share them."""

CAPABILITIES_WAIT_S: Final = 1.0
"""Longest time for which servers at their start wait for a client to declare its capabilities."""

HOLD_S: Final = 60.0
"""Longest time for which a question is held that may belong to another principal's request."""
RECHECK_S: Final = 0.25
"""Interval between two looks at whose it may be."""

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Sends a request to the client and returns its result; raises `RpcError`."""
OnNotification = Callable[[str, str, Mapping[str, Any], str | None], Callable[[], Awaitable[None]] | None]
"""Called with server, method and parameters of a notification for clients, and the key of the credentials of the only
caller that it is for, if the server has a connection for each; returns what is left to do about it."""


class ServerClient:
    """The client for which servers are started: the only one, or the session that has instances of its own.

    Attributes:
        capabilities: offered to servers of handshake versions at their start.
        direct: sends the client a request that belongs to no call; None where that is not possible.
    """

    def __init__(self) -> None:
        self.capabilities: Mapping[str, Any] = {}
        self.direct: Ask | None = None
        self._known = anyio.Event()

    def introduce(self, capabilities: Mapping[str, Any], direct: Ask | None = None) -> None:
        """Set the capabilities of the client; servers of handshake versions receive them at their next start.

        Args:
            direct: see `direct`; None: as before.
        """
        self.capabilities = offered_capabilities(capabilities)
        self.direct = direct or self.direct
        self._known.set()

    async def wait(self) -> None:
        """Return when the client has declared its capabilities, at latest after `CAPABILITIES_WAIT_S`."""
        with anyio.move_on_after(CAPABILITIES_WAIT_S):
            await self._known.wait()
        self._known.set()  # for all servers: those that start later must not wait again


class ServerRequests:
    """Handles requests and notifications of servers.

    Args:
        states: server → the part of the state tree in which its state lies; a client's roots change it.
    """

    def __init__(self, engine: Engine, states: Mapping[str, ServerState]) -> None:
        self._engine = engine
        self._states = states
        self._client = ServerClient()
        """That of the servers without instances for sessions."""
        self._observers: list[OnNotification] = []

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Capabilities offered to servers of handshake versions at their start."""
        return self._client.capabilities

    def set_client_capabilities(self, capabilities: Mapping[str, Any], direct: Ask | None = None) -> None:
        """Set the capabilities of the client (see `ServerClient.introduce`).

        Args:
            direct: only where there is one client and its protocol allows that.
        """
        self._client.introduce(capabilities, direct)

    async def wait_for_capabilities(self) -> None:
        """Return when the client has declared its capabilities (see `ServerClient.wait`)."""
        await self._client.wait()

    def observe(self, observer: OnNotification) -> None:
        """Have `observer` called for every notification of a server that is for clients."""
        self._observers.append(observer)

    async def ask(
        self,
        server: str,
        method: str,
        params: Mapping[str, Any] | None,
        causes: Sequence[object] | None,
        credentials: str | None = None,
        *,
        at_work: Callable[[], Sequence[object]] = tuple,
        session: tuple[ServerClient, ServerState] | None = None,
    ) -> dict[str, Any]:
        """Answer a request of a server.

        Args:
            causes: the calls to which the request belongs; None where that is not known.
            credentials: key of the credentials of the only caller whose calls the request may belong to, if the server
                has a connection for each.
            at_work: returns the causes of all requests that the server may be working on: calls, and the scopes of
                other requests.
            session: the client of the server, and the place of its state, if it is an instance for a session.

        Raises:
            RpcError: there is no client to ask, it cannot answer, or it refused.
        """
        params = params or {}
        if causes is None:
            calls = await self._calls_asking(server, credentials, at_work)
        else:
            calls = [cause for cause in causes if isinstance(cause, Call)]
        client = self._client if session is None else session[0]
        if client.direct is not None and (not calls or method == "roots/list"):
            # Roots are answered without a user, and servers ask for them before any call.
            refuse_unless_able(client.capabilities, method, params)
            answer = await client.direct(method, params)
        elif calls:
            answer = await self._engine.ask(calls, method, params)
        else:
            raise RpcError(
                METHOD_NOT_FOUND, f"no client can answer {method}: no call of a client is running on {server!r}"
            )
        if method == "roots/list":
            if session is not None:
                use_roots(session[1], answer)
            elif credentials is None:  # the state of a server is the same for all callers
                use_roots(self._states[server], answer)
        return answer

    async def _calls_asking(
        self, server: str, credentials: str | None, at_work: Callable[[], Sequence[object]]
    ) -> list[Call]:
        """Return the calls that a question may belong to, which are one client's.

        The question may also be that of another principal's call that was cancelled or has timed out, since a server
        need not stop then, or of a request that is no call. It is held until that is no longer so.

        Raises:
            RpcError: that takes longer than `HOLD_S`.
        """
        with anyio.move_on_after(HOLD_S):
            while True:
                calls = await self._engine.calls_asking(server, credentials)
                if not calls or askers_of(at_work()) <= {calls[0].asker}:
                    return calls
                await anyio.sleep(RECHECK_S)
        raise RpcError(
            INVALID_REQUEST,
            f"requests of several clients have been made to {server!r}, and it cannot be told whose question this is; "
            "try again later",
        )

    def notified(
        self, server: str, method: str, params: Mapping[str, Any] | None, credentials: str | None = None
    ) -> Callable[[], Awaitable[None]] | None:
        """Pass a notification of a server to the observers; return their remaining asynchronous work, if any.

        The result of a call may follow immediately.

        Args:
            credentials: see `OnNotification`.
        """
        observers = self._observers
        left = [rest for each in observers if (rest := each(server, method, params or {}, credentials)) is not None]
        if len(left) < 2:
            return left[0] if left else None

        async def finish() -> None:
            for rest in left:
                await rest()

        return finish


def askers_of(causes: Iterable[object]) -> set[Asker]:
    """Return whose the requests with these causes are."""
    return {_asker(cause) for cause in causes}


def _asker(cause: object) -> Asker:
    """Return whose request has this cause: a call, a principal's scope, a session, or what is left of a call."""
    if isinstance(cause, Call):
        return cause.asker
    return asker_of(cause, None) if isinstance(cause, Scope) else cause
