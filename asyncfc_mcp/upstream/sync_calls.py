"""Sync calls: answered with the tool's real result, as if the bridge were not there.

Owns their waits, which have no bound and forward each progress and question, and the cancellation of a call with its
request. Leaves questions that travel in answers to `input_required`.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Future, Result, watching
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.engine.question_rules import AGAIN_S
from asyncfc_mcp.errors import ProtocolFailure
from asyncfc_mcp.protocol import Deferred
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.upstream import answers, own_arguments
from asyncfc_mcp.upstream.clients import Caller
from asyncfc_mcp.upstream.input_required import InputRequired, InputRounds
from asyncfc_mcp.upstream.listeners import RequestLogListener, log_listener
from asyncfc_mcp.upstream.long_poll import load
from asyncfc_mcp.upstream.notifications import NotificationHub
from asyncfc_mcp.upstream.request import Request


class SyncCalls:
    """Makes calls whose answer is the real result.

    Args:
        rounds: makes the answers that are questions.
    """

    def __init__(self, bridge: Bridge, hub: NotificationHub, rounds: InputRounds) -> None:
        self.bridge = bridge
        self.hub = hub
        self._rounds = rounds

    def call_nowait(
        self, request: Request, caller: Caller, route: ToolRoute, arguments: dict[str, Any] | None
    ) -> Result | Deferred | None:
        """Make a call without waiting; return its result, or a deferred one. None if the call has to wait before it can
        be submitted: then nothing was done."""
        arguments, after = _without_after(route.entry, arguments)
        future = self.bridge.submitter.submit_nowait(route, arguments, _context(request, caller, after))
        if future is None:
            return None
        self._answered(future)
        return real_result(future) if future.done else SyncResult(self, request, caller, future)

    async def call(
        self,
        request: Request,
        caller: Caller,
        route: ToolRoute,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
    ) -> Result:
        """Make a call that may have to wait before it can be submitted, and return its result. Ordered with all other
        calls; if its request is cancelled, the call is.

        Args:
            resumed: futures of a call that is running, for which the client brings answers: it is not made again.

        Raises:
            BridgeError: the call was refused.
            ProtocolFailure: the server answered with an error.
        """
        if resumed:
            future = resumed[-1]
        else:
            arguments, after = _without_after(route.entry, arguments)
            context = _context(request, caller, after)
            future = self.bridge.submitter.submit_nowait(route, arguments, context)
            if future is None:
                future = await self.bridge.submitter.submit(route, arguments, context)
            self._answered(future)
        async with self.hub.logging_to(log_listener(request), [future.server]) as listener:
            return await self.result(caller, future, listener)

    async def result(self, caller: Caller, future: Future, listener: RequestLogListener) -> Result:
        """Return the result of a submitted call, after the log messages that preceded it. If this is cancelled, the
        call is.

        Args:
            listener: the request's listener, which is registered already.

        Raises:
            ProtocolFailure: the server answered with an error.
        """
        try:
            await listener.drained()
            await self.wait_until_done(future, caller)
            await load(self.bridge, [future])
            await listener.drained()
        except InputRequired as needed:
            return self._rounds.result(caller.client.scope, needed)
        except anyio.get_cancelled_exc_class():
            self.bridge.engine.cancel_nowait(future)
            raise
        return received(caller, future)

    async def wait_until_done(self, future: Future, caller: Caller) -> None:
        """Wait for the end of a call without a bound; forward every progress and every question.

        Raises:
            InputRequired: there are questions, and they travel in the answer.
        """
        reported: tuple[float, float | None, str | None] | None = None
        changed = WakeUp()
        with (
            watching((future,), lambda _: changed.set()),
            self.bridge.engine.claiming(caller.put, caller.capabilities, caller.identity) as take,
        ):
            while True:
                if caller.report is not None and future.progress is not None and future.progress != reported:
                    reported = future.progress
                    await caller.report(*reported)
                if future.questions and (claimed := take([future])):
                    raise InputRequired(claimed, [future])
                if future.done:
                    return
                # A claim expires without a change of the future, if the client that took it on has disconnected.
                with anyio.move_on_after(AGAIN_S) if future.questions else nullcontext():
                    await changed.wait()

    def _answered(self, future: Future) -> None:
        """Mark a future whose request is answered with its result, so that no client has to fetch that."""
        future.answered = True
        self.bridge.engine.mark_read(future)


class SyncResult(Deferred):
    """Result of a running sync call. It reports completion by callback; a task is started only if there is something
    to send before the result (progress, questions, log messages)."""

    __slots__ = ("_callback", "_caller", "_calls", "_future", "_leave", "_listener")

    def __init__(self, calls: SyncCalls, request: Request, caller: Caller, future: Future) -> None:
        self._calls, self._caller, self._future = calls, caller, future
        self._callback: Callable[[], None] = _nothing
        self._listener = log_listener(request, self._on_pending)
        # Registered from here to the end, without a gap on the way to a task.
        self._leave = calls.hub.add_request(self._listener, (future.server,))

    def add_done_callback(self, callback: Callable[[], None]) -> bool:
        self._callback = callback
        self._future.watchers.append(self._on_change)
        return True

    def _on_pending(self) -> None:
        self._callback()

    def _on_change(self, future: Future) -> None:
        if future.done or future.questions or (future.progress is not None and self._caller.report is not None):
            self._callback()

    def remove_done_callback(self) -> None:
        self._callback = _nothing
        self._future.watchers.remove(self._on_change)

    def result_nowait(self) -> Result | None:
        if not self._future.done or self._listener.pending:
            return None
        self._close()
        return received(self._caller, self._future)

    async def __call__(self) -> Result:
        try:
            return await self._calls.result(self._caller, self._future, self._listener)
        finally:
            self._close()

    def _close(self) -> None:
        self._leave()
        # Breaks the reference cycle with the listener, so that a large request is freed now, not by the garbage
        # collector later.
        self._listener.on_pending = self._leave = _nothing


def _nothing() -> None: ...


def _without_after(entry: ToolEntry, arguments: dict[str, Any] | None) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the arguments of the tool itself, and the IDs and names in `_after`.

    Raises:
        InvalidArguments: `_after` holds anything else.
    """
    if not arguments or "_after" not in arguments or not entry.takes_after:
        return arguments, ()
    own = dict(arguments)
    return own, own_arguments.predecessors(entry.name, own.pop("_after"))


def _context(request: Request, caller: Caller, after: tuple[str, ...]) -> CallContext:
    params = request.params
    return CallContext(
        caller.client.scope,
        meta=params.get("_meta"),
        capabilities=caller.capabilities,
        client=caller.identity,
        namer=caller.namer,
        after=after,
        answers={key: params[key] for key in ("inputResponses", "requestState") if key in params},
        forward_questions=request.modern,
        ends_with_request=True,
        credentials=request.credentials,
    )


def real_result(future: Future) -> Result:
    """Return the result of a sync call that has ended.

    Raises:
        ProtocolFailure: the server answered with an error.
    """
    failure = future.failure
    if isinstance(failure, ProtocolFailure):
        # A copy: the traceback of the one that is kept would keep every frame that it passes, the request included.
        raise ProtocolFailure(failure.tool, failure.code, failure.message, failure.data)
    return answers.in_place(future)


def received(caller: Caller, future: Future) -> Result:
    """Return the result of a sync call that its client has waited for, and learn from the duration of the wait.

    Raises:
        ProtocolFailure: the server answered with an error.
    """
    # With progress the client may have waited for longer than it does without, so that such a wait proves nothing.
    if future.result is not None and future.ended_at is not None and caller.report is None:
        caller.client.waited(future.ended_at - future.submitted_at)
    return real_result(future)
