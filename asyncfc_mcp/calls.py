"""`tools/list` and `tools/call`: a wrapped tool's call answered with its future, with results, or as a task.

Owns the ways in which a call is answered (handle, grace, `_wait`, sync, task), whose conversation it belongs to, and
questions that travel in answers. Refuses to run anything: the bridge does.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from itertools import takewhile
from typing import Any, Final, Protocol, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp import answers, metatools, own_arguments, tasks
from asyncfc_mcp.asking import Asking
from asyncfc_mcp.bridge import Bridge, Origin, Wiring
from asyncfc_mcp.callers import CONVERSATION_KEY, CallerIdentities
from asyncfc_mcp.catalog import ToolEntry
from asyncfc_mcp.errors import (
    AmbiguousName,
    BridgeError,
    CallFailed,
    ProtocolFailure,
    RpcError,
    UnknownFuture,
    UnknownTool,
)
from asyncfc_mcp.futures import Future, Question, Result, Scope, State
from asyncfc_mcp.hosts import profile_for
from asyncfc_mcp.listening import Attendance, Listeners
from asyncfc_mcp.metatools import METATOOLS, Caller, Client, InputNeeded, wait
from asyncfc_mcp.names import HOST_PREFIX, NAME_LIMIT, SHORTEST_LIMIT
from asyncfc_mcp.own_arguments import Wanted
from asyncfc_mcp.protocol import (
    HANDSHAKE_VERSIONS,
    INVALID_PARAMS,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    Later,
    Soon,
)
from asyncfc_mcp.questions import CLAIM_S
from asyncfc_mcp.request_order import Turn
from asyncfc_mcp.requests import Handler, Params, Request, Session, awaited, paged
from asyncfc_mcp.scheduler import wait_for

CROWD: Final = (8, 64)
"""So many calls of a tool at a time are given grace, if nothing is known of it yet, and if it is known to be quick.
More are a burst, which is answered at once: each call that waits costs a task."""
CLIENTS: Final = 4096
"""How many clients' habits are remembered."""


class Seal(Protocol):
    """Keeps what a client carries for us from being read or changed."""

    def seal(self, payload: bytes) -> str: ...

    def open(self, token: str) -> bytes | None:
        """What was sealed; None if the token is not ours, or was changed."""
        ...


class ToolCalls:
    """Answers the calls of one server's clients.

    Args:
        asking: where clients are asked beside requests that wait.
        seal: for what a client brings back with the answers to questions (2026-07-28).
        pipe: whether there is one connection only, so that the connection can stand for a conversation (stdio).
    """

    def __init__(
        self,
        bridge: Bridge,
        scope: Scope,
        listeners: Listeners,
        asking: Asking,
        seal: Seal,
        identities: CallerIdentities,
        *,
        pipe: bool,
    ) -> None:
        self.bridge = bridge
        self._scope = scope
        self._pipe = pipe
        self._listeners = listeners
        self._asking = asking
        self._seal = seal
        self._identities = identities
        self._clients: OrderedDict[tuple[str, str | None], Client] = OrderedDict()
        self._said: tuple[object, ...] = ()
        self._found = Client(scope)
        self._overdue = 0
        """Calls that came and have not begun to be made, since they may have to wait before that."""
        self._looking: list[list[str]] = []
        """The names of tools that calls wait for, in the order of the calls."""
        self._taken_up: anyio.Event | None = None
        """Set when one of them begins to be made."""
        self._gap_s = bridge.settings.forward_wait_ms / 1000
        self.epoch = time.time() - anyio.current_time()
        """The wall clock when the monotonic clock was zero, in seconds."""
        self.methods: Mapping[str, Handler] = {"tools/list": awaited(self._list_tools), "tools/call": self._call}

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """The schema that a tool is listed with; None if it is not listed."""
        tool = self.bridge.catalog.tools.get(name)
        return tool.listed.get("inputSchema") if tool is not None else None

    async def _list_tools(self, request: Request) -> Result:
        params = request.params
        catalog = await self.bridge.listed()
        profile = profile_for(request.host, self.bridge.settings.host_profiles)
        self.bridge.hand_out()
        wrapped = self._fitting(catalog.tool_list(modern=request.modern), profile.name_limit)
        if request.version == tasks.EXPERIMENTAL_VERSION and self.bridge.settings.tasks == "task":
            # Clients of that version must not ask for a task where a tool does not say that it can be one. Not by
            # itself, since some then ask for nothing else (pydantic-ai), and their model would wait for each call.
            wrapped = [{**tool, "execution": {"taskSupport": "optional"}} for tool in wrapped]
        tools = [*metatools.listed(reads_instructions=profile.reads_instructions), *wrapped]
        return paged(params, "tools", tools)

    def _fitting(self, tools: list[dict[str, Any]], name_limit: int) -> list[dict[str, Any]]:
        """The tools with names that fit a host which allows less than most; `handed.aliases` leads back."""
        limit = max(name_limit - len(HOST_PREFIX), SHORTEST_LIMIT)
        short = self.bridge.catalog.shortened(limit, self.bridge.handed) if limit < NAME_LIMIT else {}
        if not short:
            return tools
        self.bridge.handed.aliases |= {alias: name for name, alias in short.items()}
        return [{**tool, "name": short.get(tool["name"], tool["name"])} for tool in tools]

    def _call(self, request: Request) -> Result | Later:
        """A call, answered at once where there is nothing to wait for."""
        params = request.params
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, f"tools/call: name must be a string; found {name!r:.80}")
        if arguments is not None and not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, f"tools/call: arguments must be an object; found {arguments!r:.80}")
        arguments = cast("dict[str, Any] | None", arguments)
        name = self.bridge.handed.aliases.get(name, name)
        caller = self.caller(request)
        wiring = self.bridge.wirings.get(name)
        if (turn := self._turn(request, name, wiring, arguments)) is not None:
            return partial(self._call_in_turn, turn, request, caller, name, arguments)
        if (
            wiring is not None
            and not self._overdue
            and not self._resuming()
            and not params.keys() & {"requestState", "task"}
        ):
            try:
                answer = self._begin(request, caller, wiring, arguments)
            except CallFailed:
                raise
            except BridgeError as exc:
                answer = self._deliver(caller.client, answers.error(str(exc)))
            if answer is not None:
                return answer
        # What comes after it must not be submitted before it, until it has taken its place among the arrivals, which it
        # does in its task's first step. Tasks begin in the order in which they were started (not so on trio).
        self._overdue += 1
        return partial(self._call_in_time, request, caller, name, arguments)

    def _begin(
        self, request: Request, caller: Caller, wiring: Wiring, arguments: dict[str, Any] | None
    ) -> Result | Later | None:
        """Make a call if that needs no waiting, and answer it, or say what its answer waits for. None: nothing was
        done."""
        entry, client = wiring.entry, caller.client
        if entry.policy.mode == "sync":
            future = self._submit_sync(request, caller, wiring, arguments)
            if future is None:
                return None
            return real_result(future) if future.done else _SyncResult(self, request, caller, future)
        if request.chooses_task(self.bridge.settings.tasks):
            return None
        arguments, name, wanted = _without_ours(entry, arguments)
        refs, note = self._beside(client, wanted, name)
        # Before it is submitted: making room for it may be the end of a future that it waits for.
        also = [self.bridge.store.own(client.scope, ref, caller.namer) for ref in refs] if refs else []
        quick = self._gives_grace(entry)
        origin = self._origin(request, caller, name, answered_first=not (wanted or quick))
        future = self.bridge.submit_now(wiring, arguments, origin) if None not in also else None
        if future is None:
            return None
        if refs is None:
            also = client.unread_futures()
        futures = self._followed(client, future, [each for each in also if each is not None] if also else ())
        if wanted:
            return partial(self._answer_wait, request, caller, futures, note)
        if quick and future.state is State.RUNNING:
            return partial(self._answer_grace, client, future, entry.policy.grace_ms / 1000)
        return self._deliver(client, self._answer_with(futures, note))

    def _turn(
        self, request: Request, name: str, wiring: Wiring | None, arguments: dict[str, Any] | None
    ) -> Turn | None:
        """A place for a call that has to wait for requests that its client sent before it. Only one whose place among
        calls matters waits: it has effects, or its tool is not listed yet, so that they are not known, or its client
        wants to know of all calls before it."""
        if request.order is None or self._gap_s <= 0:
            return None
        turn = request.order.turn(request.channel.request_id)
        if turn is None:
            return None
        wait = (arguments or {}).get("_wait")
        # In any of the forms in which it is taken; too often costs the wait only.
        matters = wiring is None or wiring.ordered or (wait is not None and "all" in str(wait).lower())
        if matters and name not in METATOOLS:
            return turn
        turn.leave()
        return None

    async def _call_in_turn(
        self, turn: Turn, request: Request, caller: Caller, name: str, arguments: dict[str, Any] | None
    ) -> Result:
        """A call that was overtaken by none of its client's, or waits until that is sure."""
        try:
            await turn.wait(self._gap_s)
            with anyio.move_on_after(self._gap_s):
                while self._overdue:  # what it has waited for may be about to take its place
                    self._taken_up = self._taken_up or anyio.Event()
                    await self._taken_up.wait()
        except BaseException:
            turn.leave()
            raise
        # The next one goes on in a later step, when this one has been submitted or stands among the arrivals.
        turn.leave()
        self._overdue += 1
        return await self._call_in_time(request, caller, name, arguments)

    def _resuming(self, before: list[str] | None = None) -> bool:
        """Whether calls that waited for a listing, of those that came `before` one or of all, are about to go on."""
        if not self._looking:
            return False
        earlier = takewhile(lambda each: each is not before, self._looking)
        return any(name in self.bridge.wirings for [name] in earlier)

    async def _wiring_of(self, name: str) -> Wiring:
        """The tool of a call, which may have to be listed first; those that waited for that go on before later ones.

        Raises:
            UnknownTool: there is none.
        """
        entry = [name]  # by its identity
        self._looking.append(entry)
        try:
            wiring = await self.bridge.found(name)
            while self._resuming(entry):  # each of them takes a few steps of the event loop
                await anyio.lowlevel.checkpoint()
            return wiring
        finally:
            self._looking = [each for each in self._looking if each is not entry]

    async def _call_in_time(
        self, request: Request, caller: Caller, name: str, arguments: dict[str, Any] | None
    ) -> Result:
        """A call that may have to wait before it can be made: for a listing, for names, for answers to questions."""
        self._overdue -= 1
        if self._taken_up is not None:
            self._taken_up.set()
            self._taken_up = None
        params, client = request.params, caller.client
        augmented = "task" in params and request.version == tasks.EXPERIMENTAL_VERSION
        tool = METATOOLS.get(name)
        try:
            resumed = self._resume(params, lenient=self._passes_questions(name))
            if tool is not None:
                if augmented:
                    raise RpcError(METHOD_NOT_FOUND, f"{name} cannot be called as a task")
                answer = await tool.handler(self.bridge, caller, arguments or {})
                if name == "await_future" and answers.META_KEY not in answers.meta_of(answer):
                    return answer  # a ready result goes up as the server gave it
            else:
                wiring = await self._wiring_of(name)
                sync = wiring.entry.policy.mode == "sync"
                # On 2026-07-28 the server decides; what an older client adds to a call is there to be ignored.
                hinted = "task" in params and not request.modern
                if hinted or (not sync and request.chooses_task(self.bridge.settings.tasks)):
                    return await self._call_task(request, caller, wiring, arguments)
                if sync:
                    return await self._call_sync(request, caller, wiring, arguments, resumed)
                answer = await self._call_wrapped(request, caller, wiring, arguments, resumed)
        except CallFailed:
            raise
        except InputNeeded as needed:
            return self._questions(needed)
        except UnknownTool as exc:
            raise RpcError(INVALID_PARAMS, str(exc)) from None
        except BridgeError as exc:
            if augmented:  # whoever asked for a task gets one or an error, never a result
                raise RpcError(INVALID_PARAMS, str(exc)) from None
            answer = answers.error(str(exc))
        return self._deliver(client, answer)

    # --- the ways to answer --------------------------------------------------------------------------------------

    async def _call_task(
        self, request: Request, caller: Caller, wiring: Wiring, arguments: dict[str, Any] | None
    ) -> Result:
        """A call whose future is handed out as a task, in the way of the client's protocol version."""
        if "task" in request.params and not request.modern and request.version != tasks.EXPERIMENTAL_VERSION:
            raise RpcError(INVALID_PARAMS, f"protocol {request.version} has no task-augmented calls")
        arguments, name, _ = _without_ours(wiring.entry, arguments)
        future = await self.bridge.submit(wiring, arguments, self._origin(request, caller, name))
        if request.modern:
            return tasks.created(future, self.epoch)
        return {"task": tasks.experimental(future, self.epoch)}

    async def _call_sync(
        self,
        request: Request,
        caller: Caller,
        wiring: Wiring,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
    ) -> Result:
        """A call that is answered with its real result, ordered with all others; cancelling it cancels the call."""
        future = resumed[-1] if resumed else self._submit_sync(request, caller, wiring, arguments)
        if future is None:
            future = await self.bridge.submit(wiring, arguments, self._sync_origin(request, caller))
            self._answered(future)
        async with self._hearing(request, [future]) as attendance:
            return await self._result_of(caller, future, attendance)

    def _sync_origin(self, request: Request, caller: Caller) -> Origin:
        params = request.params
        return Origin(
            caller.client.scope,
            meta=params.get("_meta"),
            capabilities=caller.capabilities,
            client=caller.identity,
            namer=caller.namer,
            answers={key: params[key] for key in ("inputResponses", "requestState") if key in params},
            asks_through=request.modern,
        )

    def _submit_sync(
        self, request: Request, caller: Caller, wiring: Wiring, arguments: dict[str, Any] | None
    ) -> Future | None:
        future = self.bridge.submit_now(wiring, arguments, self._sync_origin(request, caller))
        if future is not None:
            self._answered(future)
        return future

    def _answered(self, future: Future) -> None:
        """Its request is answered with its result, so nobody has to look for that."""
        future.answered = True
        self.bridge.store.mark_read(future)

    async def answer_sync(self, caller: Caller, future: Future, attendance: Attendance) -> Result:
        """The real result of a sync call that was made, whose request hears already."""
        try:
            return await self._result_of(caller, future, attendance)
        except InputNeeded as needed:
            return self._questions(needed)

    async def _result_of(self, caller: Caller, future: Future, attendance: Attendance) -> Result:
        """The real result of a sync call, after all that was said before; cancelling its request cancels it."""
        try:
            await attendance.heard()
            await self.attend(future, caller)
            await attendance.heard()
        except anyio.get_cancelled_exc_class():
            self.bridge.scheduler.cancel(future)
            raise
        return received(caller, future)

    async def _call_wrapped(
        self,
        request: Request,
        caller: Caller,
        wiring: Wiring,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
    ) -> Result:
        entry, client = wiring.entry, caller.client
        arguments, name, wanted = _without_ours(entry, arguments)
        note = None
        quick = False
        if resumed:
            # The client comes back with answers for a call that is running: it is not made again.
            futures = list(resumed)
        else:
            refs, note = self._beside(client, wanted, name)
            origin = self._origin(request, caller, name)
            quick = self._gives_grace(entry)
            future = await self.bridge.submit(wiring, arguments, origin, along=refs or (), after_all=refs is None)
            also: Sequence[Future] = ()
            if refs is None:
                also = client.unread_futures()
            elif refs:
                try:
                    also = await self.bridge.arrivals.futures(client.scope, refs, caller.namer)
                except (AmbiguousName, UnknownFuture) as exc:  # its call came, and was refused
                    note = str(exc)
            futures = self._followed(client, future, also)
        if wanted:
            await self._wait_all(request, caller, futures)
        elif quick and futures[-1].state is State.RUNNING:
            await wait_for(futures[-1:], timeout_s=entry.policy.grace_ms / 1000)
        return self._answer_with(futures, note)

    def _followed(self, client: Client, future: Future, also: Sequence[Future]) -> list[Future]:
        """A new call's future, counted among the conversation's, after those that its caller waits for beside it."""
        if client.conversation is not None:
            client.follow(future)
        if not also:
            return [future]
        return [*{other.key: other for other in also if other is not future}.values(), future]

    async def _wait_all(self, request: Request, caller: Caller, futures: Sequence[Future]) -> None:
        try:
            async with self._hearing(request, futures):
                await wait(self.bridge, caller, futures)
        except InputNeeded as needed:
            raise InputNeeded(needed.questions, futures) from None

    async def _answer_wait(
        self, request: Request, caller: Caller, futures: Sequence[Future], note: str | None
    ) -> Result:
        try:
            await self._wait_all(request, caller, futures)
        except InputNeeded as needed:
            return self._questions(needed)
        return self._deliver(caller.client, self._answer_with(futures, note))

    async def _answer_grace(self, client: Client, future: Future, grace_s: float) -> Result:
        await wait_for([future], timeout_s=grace_s)
        return self._deliver(client, self._answer_with([future]))

    def _origin(self, request: Request, caller: Caller, name: Any, *, answered_first: bool = False) -> Origin:
        client = caller.client
        return Origin(
            client.scope,
            client.conversation,
            name or None,
            request.params.get("_meta"),
            caller.capabilities,
            caller.identity,
            caller.namer,
            answered_first=answered_first,
        )

    def _answer_with(self, futures: Sequence[Future], note: str | None = None) -> Result:
        """What is known of a call's future, and of those that it waited for beside it."""
        for each in futures:
            if each.done:
                self.bridge.store.mark_read(each)
        waiting_for = self.bridge.scheduler.waiting_for
        if len(futures) > 1:
            answer = answers.several((each, waiting_for(each)) for each in futures)
        elif futures[0].done:
            answer = answers.with_result(futures[0])
        else:
            answer = answers.handle(futures[0], waiting_for(futures[0]))
        return answers.append(answer, (), note) if note else answer

    def _gives_grace(self, entry: ToolEntry) -> bool:
        """Whether a tool is usually quick, so that its result is given the time to come with the answer."""
        grace_s = entry.policy.grace_ms / 1000
        if grace_s <= 0:
            return False
        scheduler = self.bridge.scheduler
        median_s = scheduler.median_s(entry.name)
        crowd = CROWD[0] if median_s is None else CROWD[1]
        return (median_s is None or median_s <= grace_s) and scheduler.running_of(entry.server, entry.tool) < crowd

    def _deliver(self, client: Client, answer: Result) -> Result:
        """Let finished, small, unread results of the conversation ride on this answer, in order of completion."""
        settings = self.bridge.settings
        ready = client.take_ended(settings.inline_bytes) if client.conversation is not None else []
        if not ready or settings.deliver == "off":
            return answer
        for future in ready:
            self.bridge.store.mark_read(future)
        return answers.append(answer, ready)

    # --- who asks, and what they wait for ------------------------------------------------------------------------

    def _client(self, request: Request) -> Client:
        """Who is asking. Cheap, since it runs on every call: who says what the last one said is the last one."""
        name = request.host
        meta = request.params.get("_meta")
        key = meta.get(CONVERSATION_KEY) if meta else None
        said = name, key, request.session
        if said != self._said or not self._scope.listed:  # where nobody is known, the same words may be another's
            self._found, self._said = self._client_of(*said), said
        return self._found

    def _client_of(self, name: str | None, key: object, session: Session | None) -> Client:
        session_id = session.id if session is not None else None
        profile = profile_for(name, self.bridge.settings.host_profiles)
        conversation = None
        if isinstance(key, str) and self._scope.listed:
            conversation = f"key:{key}"
        elif profile.single_conversation:
            if self._pipe:
                conversation = "stdio"
            elif session_id is not None:
                conversation = f"session:{session_id}"
        # Habits belong to a session where there is one: one client's impatience must not be another's.
        habits = conversation or (f"session:{session_id}" if session_id is not None else None)
        if habits is None and not self._scope.listed:
            return Client(self._scope, None, profile)
        client = self._clients.get((name or "", habits))
        if client is None:
            client = Client(self._scope, conversation, profile)
            self._clients[(name or "", habits)] = client
            if len(self._clients) > CLIENTS:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end((name or "", habits))
        return client

    def caller(self, request: Request) -> Caller:
        """The client, in the course of this request."""
        client = self._client(request)
        put = None if request.modern else partial(self._put, request)
        identities = self._identities
        return Caller(
            client, request.report(), put, request.capabilities, identities.of(request), identities.namer(request)
        )

    def _beside(
        self, client: Client, wanted: Wanted | None, own_name: str | None
    ) -> tuple[Sequence[str] | None, str | None]:
        """The other futures that `_wait` asks for, as it names them, or None for all; and a remark if it asks for what
        cannot be known."""
        if wanted is None:
            return (), None
        refs = [ref for ref in wanted.refs if ref != own_name]
        if not wanted.all:
            return refs, None
        if client.conversation is None:
            return refs, 'This connection may carry several conversations: instead of _wait:"all" name the futures.'
        return None, None

    async def attend(self, future: Future, caller: Caller) -> None:
        """Wait for the end of a sync call; pass on every progress as it comes, and every question."""
        seen: tuple[float, float | None, str | None] | None = None
        with self.bridge.questions.taking(caller.put, caller.capabilities, caller.identity) as take:
            while True:
                changed = anyio.Event()

                def watch(_: Future, changed: anyio.Event = changed) -> None:
                    changed.set()

                future.watchers.append(watch)
                try:
                    if caller.report is not None and future.progress is not None and future.progress != seen:
                        seen = future.progress
                        await caller.report(*seen)
                    if future.questions and (claimed := take([future])):
                        raise InputNeeded(claimed, [future])
                    if future.done:
                        return
                    # Who claimed a question may have left without a word.
                    with anyio.move_on_after(CLAIM_S) if future.questions else nullcontext():
                        await changed.wait()
                finally:
                    future.watchers.remove(watch)

    def _hearing(self, request: Request, futures: Iterable[Future]) -> AbstractAsyncContextManager[Attendance]:
        """While it lasts, the request hears what the servers of these futures log."""
        return self._listeners.attending(attendance_of(request), (future.server for future in futures))

    def hears(self, attendance: Attendance, server: str) -> Callable[[], None]:
        """Let a request hear what a server logs, until what is returned is called."""
        return self._listeners.attend(attendance, (server,))

    # --- questions -----------------------------------------------------------------------------------------------

    def _put(self, request: Request, question: Question) -> bool:
        """Ask the client at once, beside the request that waits; the user may take longer than that waits. False if it
        cannot be asked."""
        return request.channel.reachable and self._asking.start(self.bridge.questions, request, question)

    def _questions(self, needed: InputNeeded) -> Result:
        """The answer that is a question (2026-07-28); its sealed state says which, and what was being waited for."""
        state = {
            "scope": self._scope.key,
            "questions": [question.id for _, question in needed.questions],
            "futures": [future.key for future in needed.futures],
        }
        return {
            "resultType": "input_required",
            "inputRequests": {
                question.id: {"method": question.method, "params": dict(question.params)}
                for _, question in needed.questions
            },
            "requestState": self._seal.seal(json.dumps(state).encode()),
        }

    def _resume(self, params: Params, *, lenient: bool) -> list[Future]:
        """Take the answers that a client comes back with; the futures that it had been waiting for.

        Args:
            lenient: a state that is not ours may be that of a server whose questions went up as it put them.

        Raises:
            RpcError: the state is not ours, or the answers do not fit it.
        """
        sealed = params.get("requestState")
        if sealed is None:
            return []
        opened = self._seal.open(str(sealed))
        if opened is None and lenient:
            return []
        state: dict[str, Any] = json.loads(opened) if opened is not None else {}
        if state.get("scope") != self._scope.key:
            raise RpcError(INVALID_PARAMS, "requestState is not one that this server gave")
        given = params.get("inputResponses", {})
        if not isinstance(given, dict):
            raise RpcError(INVALID_PARAMS, "inputResponses must be an object")
        responses = cast("dict[str, Any]", given)
        for question_id in state["questions"]:
            question = self.bridge.questions.find(question_id)
            answer = responses.get(question_id)
            if question is None:
                continue  # answered by somebody else, or the call has ended: the wait goes on either way
            if isinstance(answer, dict):
                question.settle(cast("dict[str, Any]", answer))
            else:
                question.claimed_until = 0.0
        found = [self.bridge.store.find(self._scope, key.rpartition("/")[2]) for key in state["futures"]]
        futures = [future for future in found if future is not None]
        if len(futures) < len(found):  # made again, the call would take effect twice
            raise RpcError(INVALID_PARAMS, "the call that this requestState belongs to ended long ago and is forgotten")
        return futures

    def _passes_questions(self, name: str) -> bool:
        """Whether questions of this tool go up as the server put them, state included."""
        tool = self.bridge.catalog.tools.get(name)
        if tool is None or tool.policy.mode != "sync":
            return False
        return self.bridge.downstreams[tool.server].offer.protocol_version not in HANDSHAKE_VERSIONS


class _SyncResult(Soon):
    """The real result of a sync call that runs: only what there is to be done before it comes is worth a task."""

    __slots__ = ("_attendance", "_caller", "_calls", "_come", "_future", "_leave")

    def __init__(self, calls: ToolCalls, request: Request, caller: Caller, future: Future) -> None:
        self._calls, self._caller, self._future = calls, caller, future
        self._come: Callable[[], None] = _nothing
        self._attendance = attendance_of(request, self._stir)
        # From now on and until it is over, without a gap on the way to a task.
        self._leave = calls.hears(self._attendance, future.server)

    def watch(self, come: Callable[[], None]) -> None:
        self._come = come
        self._future.watchers.append(self._changed)

    def _stir(self) -> None:
        self._come()

    def _changed(self, future: Future) -> None:
        if future.done or future.questions or (future.progress is not None and self._caller.report is not None):
            self._come()

    def call_off(self) -> None:
        self._come = _nothing
        self._future.watchers.remove(self._changed)

    def take(self) -> Result | None:
        if not self._future.done or self._attendance.owed:
            return None
        self._over()
        return received(self._caller, self._future)

    async def __call__(self) -> Result:
        try:
            return await self._calls.answer_sync(self._caller, self._future, self._attendance)
        finally:
            self._over()

    def _over(self) -> None:
        self._leave()
        # They refer to us, and we to them. A request may be large: it is freed now, not by the garbage collector later.
        self._attendance.stir = self._leave = _nothing


def _nothing() -> None: ...


def real_result(future: Future) -> Result:
    """What a sync call is answered with.

    Raises:
        ProtocolFailure: the server answered with an error.
    """
    failure = future.failure
    if isinstance(failure, ProtocolFailure):
        # Not the one that is kept: raised, it would keep all that it passes on its way, the request included.
        raise ProtocolFailure(failure.tool, failure.code, failure.message, failure.data)
    return answers.in_place(future)


def received(caller: Caller, future: Future) -> Result:
    """The real result of a sync call that its client has waited for.

    Raises:
        ProtocolFailure: see `real_result`.
    """
    # Progress may have kept it waiting, which proves nothing of a wait without.
    if future.result is not None and future.ended_at is not None and caller.report is None:
        caller.client.waited(future.ended_at - future.submitted_at)
    return real_result(future)


def attendance_of(request: Request, stir: Callable[[], None] = _nothing) -> Attendance:
    meta = request.params.get("_meta")
    return Attendance(request.channel.notify, meta.get(LOG_LEVEL_META_KEY) if meta else None, request.session, stir)


def _without_ours(
    entry: ToolEntry, arguments: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, Any, Wanted | None]:
    """The arguments that are the tool's own, `_as`, and `_wait`. A tool that has one of that name itself keeps it.

    Raises:
        InvalidArguments: `_wait` holds no IDs or names.
    """
    if not arguments or not ((entry.takes_as and "_as" in arguments) or (entry.takes_wait and "_wait" in arguments)):
        return arguments, None, None
    own = dict(arguments)
    name = own_arguments.name(own.pop("_as", None)) if entry.takes_as else None
    wanted = own_arguments.wanted(entry.name, own.pop("_wait", None)) if entry.takes_wait else None
    return own, name, wanted
