"""`tools/list` and `tools/call`: the entry of calls, the choice of how each is answered, the order of submission.

Owns that order where a call waits before it is submitted: for a listing, for names, for requests with smaller IDs.
Leaves answers with the real result to `sync_calls`, those with a handle to `handle_calls`, the bridge's own tools to
`metatools`. Refuses to run anything: the bridge does.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import Any, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.config.hosts import profile_for
from asyncfc_mcp.core import references
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.core.names import HOST_PREFIX, NAME_LIMIT, SHORTEST_LIMIT
from asyncfc_mcp.errors import BridgeError, CallFailed, RpcError, UnknownTool
from asyncfc_mcp.protocol import INVALID_PARAMS, METHOD_NOT_FOUND, Deferred
from asyncfc_mcp.schema.reserved import RESERVED
from asyncfc_mcp.signals import Signal
from asyncfc_mcp.upstream import answers, metatools, own_arguments, task_shapes
from asyncfc_mcp.upstream.clients import Caller, Clients
from asyncfc_mcp.upstream.grace import grace_s, is_under_way
from asyncfc_mcp.upstream.handle_calls import HandleCalls, call_context, without_ours
from asyncfc_mcp.upstream.input_required import InputRequired, InputRounds
from asyncfc_mcp.upstream.long_poll import load
from asyncfc_mcp.upstream.metatools import METATOOLS
from asyncfc_mcp.upstream.request import Handler, Request, awaited, paged
from asyncfc_mcp.upstream.request_order import RequestOrder, Turn
from asyncfc_mcp.upstream.sync_calls import SyncCalls


class AnswerMode(Enum):
    """The form in which a call of a wrapped tool is answered."""

    RESULT = "result"
    """The real result, when it is there."""
    HANDLE = "handle"
    """The future's handle, or a result that comes in time."""
    TASK = "task"
    """The future as a task of MCP."""
    RESULT_OR_TASK = "auto"
    """The real result if it comes within the grace, else the future as a task."""


@dataclass(slots=True, eq=False)
class _AwaitedTool:
    """Tool that a call waits for. Compared by identity."""

    directory: Directory
    name: str


class ToolCalls:
    """Answers the calls of one server's clients.

    Args:
        epoch: the wall clock when the monotonic clock was zero, in seconds.
    """

    def __init__(
        self,
        bridge: Bridge,
        clients: Clients,
        sync_calls: SyncCalls,
        handle_calls: HandleCalls,
        rounds: InputRounds,
        epoch: float,
    ) -> None:
        self.bridge = bridge
        self._clients = clients
        self._sync_calls = sync_calls
        self._handle_calls = handle_calls
        self._rounds = rounds
        self._epoch = epoch
        self._unsubmitted = 0
        """Calls received but not yet taken up by their tasks: they may have to wait before they are submitted."""
        self._taken_up = Signal()
        """Set when one of them is taken up."""
        self._awaiting_listing: list[_AwaitedTool] = []
        """Tools that calls wait for, in the order of the calls."""
        self.methods: Mapping[str, Handler] = {"tools/list": awaited(self._list_tools), "tools/call": self._call}

    # --- tools/list ----------------------------------------------------------------------------------------------

    async def _list_tools(self, request: Request) -> Result:
        params = request.params
        view = self.bridge.views.of(request.principal)
        catalog = await view.wait_for_catalog()
        profile = profile_for(request.host, self.bridge.settings.host_profiles)
        view.directory.hand_out()
        listed = catalog.tool_list(modern=request.modern, untyped=profile.untyped_arguments)
        wrapped = _fitting(view.directory, listed, profile.name_limit)
        if request.version == task_shapes.EXPERIMENTAL_VERSION and self.bridge.settings.tasks == "task":
            # Clients of that version must not ask for a task where a tool does not declare that it can be one. Only
            # with this setting: some clients (pydantic-ai) then ask for nothing else, and their model would wait for
            # each call.
            wrapped = [{**tool, "execution": {"taskSupport": "optional"}} for tool in wrapped]
        tools = [*metatools.listed(wrapped, reads_instructions=profile.reads_instructions), *wrapped]
        return paged(params, "tools", tools)

    # --- tools/call ----------------------------------------------------------------------------------------------

    def _call(self, request: Request) -> Result | Deferred:
        """Answer a call at once where there is nothing to wait for."""
        params = request.params
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, f"tools/call: name must be a string; found {name!r:.80}")
        if arguments is not None and not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, f"tools/call: arguments must be an object; found {arguments!r:.80}")
        arguments = cast("dict[str, Any] | None", arguments)
        caller, view = self._clients.caller(request), self.bridge.views.of(request.principal)
        named = view.directory.published.aliases.get(name, name)
        if named in view.routes or not view.restricted:  # else the name of a tool that may not be seen stays unknown
            name = named
        # A tool that the principal may not use goes the way of one that does not exist.
        route = view.routes.get(name)
        if (turn := self._turn(request, name, route, arguments)) is not None:
            return Deferred(partial(self._call_in_turn, turn, request, caller, name, arguments))
        if (
            route is not None
            and not self._unsubmitted
            and self.bridge.engine.submits_nowait
            and not self._resuming()
            and "requestState" not in params
        ):
            try:
                answer = self._call_nowait(request, caller, route, arguments)
            except CallFailed:
                raise
            except BridgeError as exc:
                answer = self._handle_calls.deliver(caller.client, answers.refused(str(exc)))
            if answer is not None:
                return answer
        # Later calls must not overtake this one before it is queued among the arrivals, which happens in the first step
        # of its task. Tasks begin in the order in which they were started (not so on trio).
        self._unsubmitted += 1
        return Deferred(partial(self._call_later, request, caller, name, arguments))

    def _mode(self, request: Request, entry: ToolEntry, arguments: Mapping[str, Any] | None) -> AnswerMode:
        """Decide how a call of this tool is answered."""
        # On 2026-07-28 the server decides, and the parameter of the older version is ignored.
        if "task" in request.params and not request.modern:
            return AnswerMode.TASK
        if entry.policy.mode == "sync":
            return AnswerMode.RESULT
        match request.task_choice(self.bridge.settings.tasks):
            case "task":
                return AnswerMode.TASK
            case "auto" if not (entry.takes_wait and arguments and arguments.get("_wait") is not None):
                return AnswerMode.RESULT_OR_TASK
            case _:  # or the model asks for results in this answer
                return AnswerMode.HANDLE

    def _call_nowait(
        self, request: Request, caller: Caller, route: ToolRoute, arguments: dict[str, Any] | None
    ) -> Result | Deferred | None:
        """Make a call without waiting; return its answer, or a deferred one. None if the call has to wait before it can
        be submitted: then nothing was done."""
        match self._mode(request, route.entry, arguments):
            case AnswerMode.RESULT:
                return self._sync_calls.call_nowait(request, caller, route, arguments)
            case AnswerMode.HANDLE:
                return self._handle_calls.call_nowait(request, caller, route, arguments)
            case AnswerMode.TASK | AnswerMode.RESULT_OR_TASK:
                return None

    async def _call_later(
        self, request: Request, caller: Caller, name: str, arguments: dict[str, Any] | None
    ) -> Result:
        """Make a call that may have to wait before it is submitted: for a listing, for names, for answers to
        questions."""
        self._unsubmitted -= 1
        self._taken_up.notify_all()
        params = request.params
        augmented = "task" in params and request.version == task_shapes.EXPERIMENTAL_VERSION
        tool = METATOOLS.get(name)
        arrival = caller.client.arrive(request.channel.request_id) if tool is None else None
        try:
            resumed = await self._rounds.resume(request.principal, params, name)
            if arrival is not None:
                route = await self._announced_route(request.principal, caller, name, arguments)
                mode = self._mode(request, route.entry, arguments)
                if mode is AnswerMode.HANDLE:
                    return await self._handle_calls.call(request, caller, route, arguments, resumed, arrival)
                arrival.end()
                match mode:
                    case AnswerMode.TASK:
                        return await self._call_task(request, caller, route, arguments)
                    case AnswerMode.RESULT_OR_TASK:
                        grace = grace_s(self.bridge, route.entry)
                        return await self._call_task(request, caller, route, arguments, grace)
                    case AnswerMode.RESULT:
                        return await self._sync_calls.call(request, caller, route, arguments, resumed)
            assert tool is not None
            if augmented:
                raise RpcError(METHOD_NOT_FOUND, f"{name} cannot be called as a task")
            answer = await tool.handler(self.bridge, caller, arguments or {})
            if name == "await_future" and answers.META_KEY not in answers.meta_of(answer):
                return answer  # a ready result goes up unchanged
        except CallFailed:
            raise
        except InputRequired as needed:
            return self._rounds.result(request.scope, needed)
        except UnknownTool as exc:
            raise RpcError(INVALID_PARAMS, str(exc)) from None
        except BridgeError as exc:
            if augmented:  # a request for a task is answered with a task or an error, never with a result
                raise RpcError(INVALID_PARAMS, str(exc)) from None
            answer = answers.refused(str(exc)) if tool is None else answers.error(str(exc))
        finally:
            if arrival is not None:
                arrival.end()
        await self._handle_calls.find_delivered(caller.client)
        return self._handle_calls.deliver(caller.client, answer)

    async def _call_task(
        self,
        request: Request,
        caller: Caller,
        route: ToolRoute,
        arguments: dict[str, Any] | None,
        grace: float | None = None,
    ) -> Result:
        """Make a call whose future is handed out as a task, in the form of the client's protocol version.

        Args:
            grace: seconds to wait for the result, which is then the answer itself; None: the answer is always a task.
        """
        if not request.modern and request.version != task_shapes.EXPERIMENTAL_VERSION:
            raise RpcError(INVALID_PARAMS, f"protocol {request.version} has no task-augmented calls")
        arguments, name, after, _ = without_ours(route.entry, arguments)
        context = call_context(request, caller, name, own_arguments.predecessors(route.entry.name, after))
        context.ttl_s = task_shapes.ttl_s(request.params, self.bridge.settings, request.scope)
        future = await self.bridge.submitter.submit(route, arguments, context)
        if grace and is_under_way(self.bridge, future):
            await self.bridge.engine.wait([future], timeout_s=grace)
            await load(self.bridge, [future])
        if grace is not None and future.done:
            self.bridge.engine.mark_read(future)
            return answers.in_place(future)
        if request.modern:
            return task_shapes.created(future, self._epoch)
        return {"task": task_shapes.experimental(future, self._epoch)}

    # --- the order of submission ---------------------------------------------------------------------------------

    def _turn(
        self, request: Request, name: str, route: ToolRoute | None, arguments: dict[str, Any] | None
    ) -> Turn | None:
        """Return a place for a call that has to wait for requests that its client sent before it. Only a call whose
        place matters waits: it has effects, or its tool is not listed yet, so that they are unknown, or it gives or
        names a name, or it asks for all calls before it."""
        if request.order is None or self.bridge.settings.gap_wait_s <= 0:
            return None
        turn = request.order.turn(request.channel.request_id)
        if turn is None:
            return None
        if name in METATOOLS:
            matters = metatools.uses_names(arguments)
        else:
            matters = (
                route is None
                or route.ordered
                or (arguments is not None and any(own in arguments for own in RESERVED))
                or (route.entry.policy.references != "off" and references.may_refer(arguments))
            )
        if matters:
            return turn
        turn.leave()
        return None

    def _gap_s(self, order: RequestOrder) -> float:
        """Return the seconds for which a call waits for missing requests. Where one client numbers them, and no gap has
        stayed open, they are on their way."""
        settings = self.bridge.settings
        return settings.gap_wait_s if order.shared or not order.fills else settings.name_wait_s

    async def _call_in_turn(
        self, turn: Turn, request: Request, caller: Caller, name: str, arguments: dict[str, Any] | None
    ) -> Result:
        """Make a call as soon as all calls that its client sent before it have been submitted, as far as is known."""
        assert request.order is not None
        gap_s = self._gap_s(request.order)
        try:
            with self._announcing(caller, name, arguments):
                await turn.wait(gap_s)
                with anyio.move_on_after(gap_s):
                    while self._unsubmitted:  # a call that this one has waited for may be about to be queued
                        await self._taken_up.wait()
        except BaseException:
            turn.leave()
            raise
        # The next one proceeds in a later step, when this one has been submitted or queued among the arrivals.
        turn.leave()
        self._unsubmitted += 1
        return await self._call_later(request, caller, name, arguments)

    def _announcing(self, caller: Caller, tool: str, arguments: dict[str, Any] | None) -> AbstractContextManager[None]:
        """Have names wait for a call that takes one, as long as it cannot be submitted."""
        name = None if tool in METATOOLS or not arguments else own_arguments.name(arguments.get("_as"))
        if not isinstance(name, str):
            return nullcontext()
        return self.bridge.engine.announcing(caller.client.scope, name, caller.namer)

    async def _announced_route(
        self, principal: Principal, caller: Caller, name: str, arguments: dict[str, Any] | None
    ) -> ToolRoute:
        """Return the route of a tool, as `_route_of` does; meanwhile names wait for the call."""
        view = self.bridge.views.of(principal)
        if name in view.routes:
            return await self._route_of(view, name)
        with self._announcing(caller, name, arguments):
            return await self._route_of(view, name)

    def _resuming(self, before: _AwaitedTool | None = None) -> bool:
        """Return whether calls that waited for a listing are about to proceed: those that arrived `before` one, or
        all."""
        if not self._awaiting_listing:
            return False
        earlier = takewhile(lambda each: each is not before, self._awaiting_listing)
        return any(each.name in each.directory.routes for each in earlier)

    async def _route_of(self, view: View, name: str) -> ToolRoute:
        """Return the route of a tool, which may have to be listed first. Calls that waited for that proceed before
        later ones.

        Raises:
            UnknownTool: there is no such tool, or none that the principal may use.
        """
        entry = _AwaitedTool(view.directory, name)
        self._awaiting_listing.append(entry)
        try:
            route = await view.wait_for_tool(name)
            while self._resuming(entry):  # each of them takes a few steps of the event loop
                await anyio.lowlevel.checkpoint()
            return route
        finally:
            self._awaiting_listing = [each for each in self._awaiting_listing if each is not entry]


def _fitting(directory: Directory, tools: list[dict[str, Any]], name_limit: int) -> list[dict[str, Any]]:
    """Return the tools with names within a host's limit; `published.aliases` maps shortened names back."""
    limit = max(name_limit - len(HOST_PREFIX), SHORTEST_LIMIT)
    short = directory.catalog.short_names(limit, directory.published) if limit < NAME_LIMIT else {}
    if not short:
        return tools
    directory.published.aliases |= {alias: name for name, alias in short.items()}
    return [{**tool, "name": short.get(tool["name"], tool["name"])} for tool in tools]
