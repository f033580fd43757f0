"""Sign-ins that calls ask for: the client of a call is asked to open a URL, and the call goes on afterwards.

Owns which calls may ask, one sign-in per server for all that wait for it, and its end. The sign-in itself is `app`'s to
provide, how a client is asked that of `engine.questions`. Only users of this machine are asked: the browser returns to
an address of this machine, and the tokens are kept for all callers.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.oauth.store import StoreUnusable
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.question_rules import can_answer
from asyncfc_mcp.errors import NotSignedIn, RpcError, SignInFailed, SignInNeeded

logger = logging.getLogger(__name__)

METHOD: Final = "elicitation/create"
PAUSE_S: Final = 60.0
"""No other question about the same sign-in for this long after one that has not helped: a model that calls again must
not make its user decline again."""
SHARE_OF_TIMEOUT: Final = 0.95
"""Of the timeout of questions, until a sign-in is given up: before its call fails for lack of an answer."""

Show = Callable[[str], Awaitable[None]]
"""Returns once the user has agreed to open a URL."""
SignIn = Callable[[str, Sequence[str], Show], Awaitable[object]]
"""Signs in to a server, with these scopes, and stores the tokens. Raises `SignInFailed` or `StoreUnusable`."""


class _Declined(Exception):
    """The user has not agreed, or could not be asked."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """A sign-in that calls wait for."""

    needed: SignInNeeded
    calls: list[Call] = field(default_factory=list[Call])
    url: str | None = None
    """What the user is being asked to open."""
    asking: anyio.CancelScope | None = None
    over: anyio.Event = field(default_factory=anyio.Event)
    failure: SignInNeeded | None = None

    def __post_init__(self) -> None:
        self.failure = self.needed


class SignIns:
    """The sign-ins of one bridge.

    Args:
        servers: that may be signed in to by a user.
        sign_in: None: calls never ask.
        timeout_s: of questions, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        downstreams: Mapping[str, Downstream],
        servers: Collection[str] = (),
        sign_in: SignIn | None = None,
        *,
        timeout_s: float = 600.0,
    ) -> None:
        self._engine, self._downstreams = engine, downstreams
        self._sign_in = sign_in
        self.configure(servers, timeout_s)
        self._attempts: dict[str, _Attempt] = {}
        self._futile: dict[tuple[str, tuple[str, ...]], float] = {}
        """Server and scopes of a sign-in that has not helped → end of the pause, on the event loop's clock."""
        self._tg: anyio.abc.TaskGroup | None = None

    def configure(self, servers: Collection[str], timeout_s: float) -> None:
        """Have other servers, or another timeout of questions, from now on."""
        self._servers, self._timeout_s = frozenset(servers), timeout_s * SHARE_OF_TIMEOUT

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of sign-ins until cancelled."""
        try:
            async with anyio.create_task_group() as self._tg:
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tg = None

    def may_ask(self, call: Call, needed: SignInNeeded) -> bool:
        """Return whether the client of a call can be asked to sign in."""
        server = call.future.server
        if self._tg is None or self._sign_in is None or server not in self._servers or call.future.scope != LOCAL:
            return False
        if not can_answer(call.capabilities, METHOD, {"mode": "url"}):
            return False
        return server in self._attempts or self._futile.get((server, needed.scopes), 0.0) <= anyio.current_time()

    async def wait(self, call: Call, needed: SignInNeeded) -> None:
        """Have the user sign in; return once that is done, and the call can be made (again).

        Raises:
            NotSignedIn: it was not done.
        """
        server = call.future.server
        attempt = self._attempts.get(server)
        if attempt is None:
            assert self._tg is not None
            attempt = self._attempts[server] = _Attempt(needed)
            attempt.calls.append(call)
            self._tg.start_soon(self._run, server, attempt)
        else:
            attempt.calls.append(call)
            if attempt.asking is not None and not _is_being_answered(attempt):
                attempt.asking.cancel()  # it is asked on this call too: its client may wait for no other one
        try:
            await attempt.over.wait()
        finally:
            attempt.calls.remove(call)
        if attempt.failure is not None:
            raise NotSignedIn(server, attempt.failure)

    async def _run(self, server: str, attempt: _Attempt) -> None:
        assert self._sign_in is not None
        scopes = attempt.needed.scopes
        why = ""
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._watch, server, attempt, tg.cancel_scope)
                try:
                    await self._sign_in(server, scopes, partial(self._ask, server, attempt))
                    attempt.failure = None
                except _Declined as exc:
                    why = str(exc)
                except (SignInFailed, StoreUnusable) as exc:
                    why = str(exc)
                except Exception:  # the last resort: an unexpected exception must end this sign-in only
                    logger.exception("the sign-in to server %r failed unexpectedly", server)
                    why = "the sign-in failed because of an internal error of the bridge"
                tg.cancel_scope.cancel()
        finally:
            del self._attempts[server]
            if attempt.failure is not None and why:
                attempt.failure = SignInNeeded(server, scopes, why, status=attempt.needed.status)
            # Also after a sign-in: a server that asks for the same again would have its user asked without end.
            self._futile = {key: end for key, end in self._futile.items() if end > anyio.current_time()}
            self._futile[server, scopes] = anyio.current_time() + PAUSE_S
            attempt.over.set()
        if attempt.failure is None and server in self._downstreams:
            self._downstreams[server].signed_in()

    async def _watch(self, server: str, attempt: _Attempt, scope: anyio.CancelScope) -> None:
        """End a sign-in that is no longer needed: the user has signed in elsewhere, such as on the command line."""
        downstream = self._downstreams.get(server)
        if downstream is not None and downstream.status is Status.SIGN_IN:
            await downstream.wait_until_ready()
            attempt.failure = None
            scope.cancel()

    async def _ask(self, server: str, attempt: _Attempt, url: str) -> None:
        """Ask the user to open a URL; return when they have agreed.

        Raises:
            _Declined: they have not.
        """
        params: dict[str, Any] = {
            "mode": "url",
            "url": url,
            "message": f"Sign in to the MCP server {server!r}: this call needs it, and goes on afterwards.",
        }
        attempt.url = url
        answer: Mapping[str, Any] | None = None
        with anyio.move_on_after(self._timeout_s):
            while answer is None:
                with anyio.CancelScope() as attempt.asking:
                    try:
                        answer = await self._engine.ask(list(attempt.calls), METHOD, params)
                    except RpcError as exc:
                        raise _Declined("its client did not ask the user") from exc
        attempt.asking = None
        if answer is None:
            raise _Declined("nobody agreed to it in time")
        if answer.get("action") != "accept":
            raise _Declined("it was declined")


def _is_being_answered(attempt: _Attempt) -> bool:
    """Return whether a client is being asked at this moment, or was."""
    return any(
        question.claimed_until > 0
        for call in attempt.calls
        for question in call.future.questions.values()
        if question.params.get("url") == attempt.url
    )
