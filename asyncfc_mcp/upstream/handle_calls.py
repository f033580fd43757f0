"""Calls of wrapped tools that are answered with a handle, or with the results that `_wait`, grace and delivery add.

Owns the meaning of `_as`, `_after` and `_wait`, and which results an answer brings. Leaves bounds of waits to
`long_poll`, and the shapes of answers to `answers`. Leaves execution to the bridge.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.errors import AmbiguousName, BridgeError, UnknownFuture
from asyncfc_mcp.protocol import Deferred
from asyncfc_mcp.upstream import answers, own_arguments
from asyncfc_mcp.upstream.clients import Arrival, Caller, Client, Clients
from asyncfc_mcp.upstream.grace import grace_s, is_under_way
from asyncfc_mcp.upstream.input_required import InputRequired, InputRounds
from asyncfc_mcp.upstream.listeners import log_listener
from asyncfc_mcp.upstream.long_poll import load, wait
from asyncfc_mcp.upstream.notifications import NotificationHub
from asyncfc_mcp.upstream.own_arguments import Wanted
from asyncfc_mcp.upstream.request import Request


@dataclass(slots=True)
class _Plan:
    """The decision how one call is made and answered; taken before it is submitted."""

    arguments: dict[str, Any] | None
    """Arguments of the tool itself."""
    name: Any
    """`_as`."""
    after: Any
    """`_after`."""
    waits: bool
    """`_wait` asks for results, so that the answer waits for them."""
    also: Sequence[str] | None
    """Other futures that `_wait` asks for, as it names them; None for all unread ones."""
    several: bool
    """`_wait` asks for more than this result, so that the answer has the shape of `gather`, whatever it brings."""
    note: str | None
    """Remark for the model if `_wait` asks for what cannot be determined."""
    grace_s: float
    """Bound of the wait for the call's own result without `_wait`, in seconds."""


class HandleCalls:
    """Makes calls whose answer is a handle unless there is more to answer with.

    Args:
        rounds: makes the answers that are questions.
    """

    def __init__(self, bridge: Bridge, clients: Clients, hub: NotificationHub, rounds: InputRounds) -> None:
        self.bridge = bridge
        self._clients = clients
        self._hub = hub
        self._rounds = rounds

    def call_nowait(
        self, request: Request, caller: Caller, route: ToolRoute, arguments: dict[str, Any] | None
    ) -> Result | Deferred | None:
        """Make a call without waiting; return its answer, or a deferred one if that waits. None if the call has to wait
        before it can be submitted: then nothing was done.

        Raises:
            BridgeError: the call was refused, and asks for no other results.
        """
        client = caller.client
        plan = _plan(self.bridge, client, route.entry, arguments)
        try:
            return self._call_nowait(request, caller, route, plan)
        except BridgeError as exc:
            if not plan.several:
                raise
            return Deferred(partial(self._answer_refused, request, caller, plan, route.entry.name, exc))

    def _call_nowait(self, request: Request, caller: Caller, route: ToolRoute, plan: _Plan) -> Result | Deferred | None:
        client = caller.client
        # Before the call is submitted: making room for it may drop a future that it waits for.
        also: Sequence[Future | None] = ()
        if plan.also:
            also = [self.bridge.engine.find_own_nowait(client.scope, ref, caller.namer) for ref in plan.also]
            if None in also:
                return None
        after = own_arguments.predecessors(route.entry.name, plan.after)
        context = call_context(request, caller, plan.name, after, reply_before_send=not (plan.waits or plan.grace_s))
        future = self.bridge.submitter.submit_nowait(route, plan.arguments, context)
        if future is None:
            return None
        earlier: Sequence[Arrival] = ()
        if plan.also is None:
            also, earlier = client.unread_futures(), client.arrivals_before(request.channel.request_id)
        futures = _follow(client, future, [each for each in also if each is not None] if also else ())
        if plan.waits or (plan.grace_s and future.state is State.RUNNING):
            return Deferred(partial(self._answer, request, caller, plan, futures, earlier))
        return self.deliver(client, self._answer_with(plan, futures))

    async def call(
        self,
        request: Request,
        caller: Caller,
        route: ToolRoute,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
        arrival: Arrival,
    ) -> Result:
        """Make a call that may have to wait before it can be submitted, and return its answer.

        Args:
            resumed: futures of a call that is running, for which the client brings answers: it is not made again.
            arrival: this call among those of its conversation that are not submitted; ended here.

        Raises:
            BridgeError: the call was refused, and asks for no other results.
        """
        client = caller.client
        plan = _plan(self.bridge, client, route.entry, arguments)
        if resumed:
            plan.note, plan.grace_s = None, 0.0
            return await self._answer(request, caller, plan, list(resumed))
        try:
            future = await self.bridge.submitter.submit(
                route,
                plan.arguments,
                call_context(request, caller, plan.name, own_arguments.predecessors(route.entry.name, plan.after)),
                also_wait_for=plan.also or (),
                after_pending=plan.also is None,
            )
        except BridgeError as exc:
            if not plan.several:
                raise
            arrival.end()
            return await self._answer_refused(request, caller, plan, route.entry.name, exc)
        arrival.end(future)
        also: Sequence[Future] = ()
        earlier: Sequence[Arrival] = ()
        if plan.also is None:
            await self._clients.refresh(client)
            also, earlier = client.unread_futures(), client.arrivals_before(request.channel.request_id)
        elif plan.also:
            also = await self._known(caller, plan)
        return await self._answer(request, caller, plan, _follow(client, future, also), earlier)

    async def _known(self, caller: Caller, plan: _Plan) -> list[Future]:
        """Return the futures that `_wait` names, of those that exist or are about to; the others are noted."""
        engine, scope = self.bridge.engine, caller.client.scope
        found: list[Future] = []
        if plan.also and not engine.submits_nowait:
            await engine.look_up(scope, plan.also, caller.namer)
        for ref in plan.also or ():
            try:
                if engine.is_announced(scope, ref, caller.namer):
                    found += await engine.get(scope, [ref], caller.namer, timeout_s=caller.client.wait_s(self.bridge))
                else:
                    found.append(engine.get_nowait(scope, ref, caller.namer))
            except (AmbiguousName, UnknownFuture) as exc:  # the call that takes this name arrived, and was refused
                plan.note = str(exc)
        return found

    async def _answer(
        self,
        request: Request,
        caller: Caller,
        plan: _Plan,
        futures: Sequence[Future],
        earlier: Sequence[Arrival] = (),
    ) -> Result:
        """Wait as planned, and return the answer to a submitted call, whose own future is the last one.

        Args:
            earlier: calls made before this one that are not submitted; the answer brings their results, too.
        """
        if plan.waits:
            timeout_s = None
            if earlier:
                timeout_s, submitted = await self._submitted(caller, earlier)
                futures = [*{each.key: each for each in [*futures[:-1], *submitted]}.values(), futures[-1]]
            try:
                async with self._hub.logging_to(log_listener(request), (each.server for each in futures)):
                    await wait(self.bridge, caller, futures, timeout_s=timeout_s)
            except InputRequired as needed:
                return self._rounds.result(caller.client.scope, InputRequired(needed.questions, futures))
        elif plan.grace_s and is_under_way(self.bridge, futures[-1]):
            await self.bridge.engine.wait(futures[-1:], timeout_s=plan.grace_s)
            await load(self.bridge, futures[-1:])
        await self.find_delivered(caller.client)
        return self.deliver(caller.client, self._answer_with(plan, futures, sum(not each.over for each in earlier)))

    async def _submitted(self, caller: Caller, earlier: Sequence[Arrival]) -> tuple[float, list[Future]]:
        """Wait for the submission of received calls; return the seconds that are left of the wait, and their
        futures."""
        deadline = anyio.current_time() + caller.client.wait_s(self.bridge, with_progress=caller.report is not None)
        with anyio.CancelScope(deadline=deadline):
            for each in earlier:
                await each.wait()
        return max(0.0, deadline - anyio.current_time()), [each.future for each in earlier if each.future is not None]

    async def _answer_refused(
        self, request: Request, caller: Caller, plan: _Plan, tool: str, refusal: BridgeError
    ) -> Result:
        """Return the results that a call asked for which was refused, and the refusal as its own."""
        client = caller.client
        earlier: Sequence[Arrival] = ()
        if plan.also is None:
            await self._clients.refresh(client)
            futures, earlier = client.unread_futures(), client.arrivals_before(request.channel.request_id)
        else:
            futures = await self._known(caller, plan)
        timeout_s = None
        if earlier:
            timeout_s, submitted = await self._submitted(caller, earlier)
            futures += submitted
        futures = list({each.key: each for each in futures}.values())
        if not futures:
            await self.find_delivered(client)
            return self.deliver(client, answers.refused(str(refusal)))
        if plan.note == str(refusal):
            plan.note = None
        # A question travels in the answer to a call that was made; this one was not.
        with suppress(InputRequired):
            await wait(self.bridge, caller, futures, timeout_s=timeout_s)
        await self.find_delivered(client)
        answer = self._answer_with(plan, futures, sum(not each.over for each in earlier))
        return self.deliver(client, answers.with_refusal(answer, tool, str(refusal)))

    def _answer_with(self, plan: _Plan, futures: Sequence[Future], unsubmitted: int = 0) -> Result:
        """Return the present state of a call's future, and of those that the call waited for beside it.

        Args:
            unsubmitted: calls that it should bring, too, and that have no future yet.
        """
        note = plan.note
        for each in futures:
            if each.done:
                self.bridge.engine.mark_read(each)
        waiting_for = self.bridge.waiting_for
        if plan.several or len(futures) > 1:
            answer = answers.several((each, waiting_for(each)) for each in futures)
            if plan.also is None:
                open_ = sum(not each.done for each in futures) + unsubmitted
                answer = answers.with_open(answer, open_, len(futures) + unsubmitted)
        elif futures[0].done:
            answer = answers.with_result(futures[0])
        else:
            answer = answers.handle(futures[0], waiting_for(futures[0]))
        return answers.append(answer, (), note) if note else answer

    async def find_delivered(self, client: Client) -> None:
        """Have `deliver` offer the results of other replicas, too."""
        if client.unread_elsewhere and self.bridge.settings.deliver != "off":
            await self._clients.refresh(client)
            await load(self.bridge, client.offered(self.bridge.settings.inline_bytes))

    def deliver(self, client: Client, answer: Result) -> Result:
        """Append finished, small, unread results of the conversation to an answer, in order of completion."""
        settings = self.bridge.settings
        ready = client.take_ended(settings.inline_bytes) if client.conversation is not None else []
        if not ready or settings.deliver == "off":
            return answer
        for future in ready:
            self.bridge.engine.mark_read(future)
        return answers.append(answer, ready)


def call_context(
    request: Request, caller: Caller, name: Any, after: tuple[str, ...] = (), *, reply_before_send: bool = False
) -> CallContext:
    """Return the context of a call whose future the client keeps, as a handle or a task."""
    client = caller.client
    return CallContext(
        client.scope,
        client.conversation,
        name or None,
        request.params.get("_meta"),
        caller.capabilities,
        caller.identity,
        caller.namer,
        after,
        reply_before_send=reply_before_send,
        credentials=request.credentials,
    )


class Split(NamedTuple):
    """Arguments of a tool, and those of the bridge."""

    arguments: dict[str, Any] | None
    """Arguments of the tool itself."""
    name: Any = None
    """`_as`."""
    after: Any = None
    """`_after`."""
    wanted: Wanted | None = None
    """`_wait`."""


def without_ours(entry: ToolEntry, arguments: dict[str, Any] | None) -> Split:
    """Return the arguments of the tool itself, and the bridge's. A tool that declares one of these names keeps it.

    Raises:
        InvalidArguments: `_wait` holds no IDs or names.
    """
    if not arguments or not (
        (entry.takes_as and "_as" in arguments)
        or (entry.takes_wait and "_wait" in arguments)
        or (entry.takes_after and "_after" in arguments)
    ):
        return Split(arguments)
    own = dict(arguments)
    name = own_arguments.name(own.pop("_as", None)) if entry.takes_as else None
    after = own.pop("_after", None) if entry.takes_after else None
    wanted = own_arguments.wanted(entry.name, own.pop("_wait", None)) if entry.takes_wait else None
    return Split(own, name, after, wanted)


def _plan(bridge: Bridge, client: Client, entry: ToolEntry, arguments: dict[str, Any] | None) -> _Plan:
    """Decide how a call is made and answered.

    Raises:
        InvalidArguments: `_wait` holds no IDs or names.
    """
    arguments, name, after, wanted = without_ours(entry, arguments)
    also: Sequence[str] | None = ()
    note = None
    if wanted is not None:
        also = [ref for ref in wanted.refs if ref != name]
        if wanted.all and client.conversation is None:
            note = 'This connection may carry several conversations: instead of _wait:"all" name the futures.'
        elif wanted.all:
            also = None
    several = also is None or len(also) > 0
    return _Plan(arguments, name, after, wanted is not None, also, several, note, grace_s(bridge, entry))


def _follow(client: Client, future: Future, also: Sequence[Future]) -> list[Future]:
    """Count a new call's future among the conversation's; return it after those that its caller waits for beside it."""
    if client.conversation is not None:
        client.follow(future)
    if not also:
        return [future]
    return [*{other.key: other for other in also if other is not future}.values(), future]
