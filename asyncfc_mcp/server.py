"""The MCP server that clients see: every request's way in, every answer's way out.

Owns the methods, whose request it is, and the translation of errors to the wire, which happens here and nowhere else.
It answers in a middleware of the SDK's low-level `Server`, without `call_next`: what a server downstream said then
goes up as it came, neither validated nor sieved, and the envelope of each protocol era is added here.
"""

import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, cast

import anyio
import anyio.abc
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ServerEvent, ToolsListChanged
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, SERVER_INFO_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from asyncfc_mcp import __version__, answers
from asyncfc_mcp.bridge import Ask, Bridge, Wiring
from asyncfc_mcp.errors import BridgeError, CallFailed, InvalidArguments, ProtocolFailure, UnknownTool
from asyncfc_mcp.futures import Future, Question, Result, Scope, State
from asyncfc_mcp.hosts import profile_for
from asyncfc_mcp.metatools import METATOOLS, Caller, Client, InputNeeded, Report, instructions, wait
from asyncfc_mcp.scheduler import wait_for

logger = logging.getLogger(__name__)

CONVERSATION_KEY: Final = "asyncfc/conversation"
"""Key in a request's `_meta` by which a host says whose conversation it belongs to."""
CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}
)
"""Methods whose results carry cache hints on 2026-07-28."""
CROWD: Final = 8
"""Of a tool that nothing is known of yet, so many calls at a time are given grace; a burst is answered at once."""
CLIENTS: Final = 4096
"""How many clients' habits are remembered."""
ANNOUNCE_S: Final = 0.05
"""List changes within this time are announced once."""
CHANGES: Final[Mapping[str, tuple[str, ServerEvent]]] = {
    "tools": ("notifications/tools/list_changed", ToolsListChanged()),
    "prompts": ("notifications/prompts/list_changed", PromptsListChanged()),
    "resources": ("notifications/resources/list_changed", ResourcesListChanged()),
    "resourceTemplates": ("notifications/resources/list_changed", ResourcesListChanged()),
}

Context = ServerRequestContext[Any, Any]
Params = Mapping[str, Any]


@dataclass(slots=True)
class Request:
    """A request, whatever carried it: all that answering it needs to know."""

    method: str
    params: Params
    version: str
    host: str | None
    """`clientInfo.name`, if the client said it."""
    session_id: str | None
    progress: Report
    """Sends progress for this request; does nothing where the client gave no token."""
    capabilities: Mapping[str, Any]
    """What the client said it can do, as it said it."""
    ask: Ask
    """Sends a request to the client while this one is answered; only where the protocol has that."""

    @property
    def modern(self) -> bool:
        return self.version in MODERN_PROTOCOL_VERSIONS

    def report(self) -> Report | None:
        """How to send progress; None where nobody listens."""
        meta = self.params.get("_meta")
        return self.progress if meta and meta.get("progressToken") is not None else None


NotInitialized: Final = MCPError(INVALID_PARAMS, "Not initialized: send initialize first, or the 2026-07-28 envelope")


class Upstream:
    """One bridge as an MCP server, for any number of connections and transports at once.

    Args:
        bridge: what is served; opened by the caller, before and beyond any connection.
        scope: who all requests of this server's transports come from.
        pipe: whether there is one connection only, so that the connection can stand for a conversation (stdio).
    """

    def __init__(self, bridge: Bridge, scope: Scope, *, pipe: bool) -> None:
        self.bridge = bridge
        self._scope = scope
        self._pipe = pipe
        self._clients: OrderedDict[tuple[str, str | None], Client] = OrderedDict()
        self._connections: set[Any] = set()
        self._asking: anyio.abc.TaskGroup
        self._bus = InMemorySubscriptionBus()
        self._changed: set[str] = set()
        self._dirty = anyio.Event()
        self.server: Server[Any] = Server(
            "asyncfc-mcp",
            version=__version__,
            title="asyncfc-mcp",
            on_subscriptions_listen=ListenHandler(self._bus),
            get_tool_input_schema=self._input_schema,
        )
        # Alone: the SDK's own tracing middleware would cost every call more than the handle does.
        self.server.middleware[:] = [self._middleware]
        self._stamp = self.server.server_info_stamp
        self._methods: Mapping[str, Callable[[Request], Awaitable[Result]]] = {
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "prompts/list": self._list_prompts,
            "prompts/get": self._get_prompt,
            "resources/list": self._list_resources,
            "resources/templates/list": self._list_templates,
            "resources/read": self._read_resource,
            "completion/complete": self._complete,
        }
        bridge.observe(self._on_change)

    # --- in and out ----------------------------------------------------------------------------------------------

    async def _middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            result = await call_next(ctx)
            if ctx.method == "notifications/initialized":
                self._remember(ctx)
            return result
        if ctx.method not in self._methods:
            result = await call_next(ctx)
            if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
                self._introduce(ctx, result)
            return result
        connection = _connection(ctx)
        if not connection.initialize_accepted:
            raise NotInitialized
        info = ctx.session.client_params
        return await self.answer(
            Request(
                ctx.method,
                ctx.params if ctx.params is not None else {},
                ctx.protocol_version,
                info.client_info.name if info is not None else None,
                connection.session_id,
                ctx.session.report_progress,
                wire_capabilities(connection),
                ctx.session._request_outbound.send_raw_request,  # pyright: ignore[reportPrivateUsage]
            )
        )

    @cached_property
    def _codec(self) -> AESGCMRequestStateCodec:
        return AESGCMRequestStateCodec([secrets.token_bytes(32)])

    def _passes_questions(self, name: str) -> bool:
        """Whether questions of this tool go up as the server put them, state included."""
        tool = self.bridge.catalog.tools.get(name)
        return tool is not None and tool.policy.mode == "sync"

    def answers(self, method: str) -> bool:
        """Whether `answer` knows the method; all others are the SDK's."""
        return method in self._methods

    async def answer(self, request: Request) -> Result:
        """Answer a request of an initialized client, envelope included.

        Raises:
            MCPError: the JSON-RPC error to answer with.
        """
        meta = request.params.get("_meta")
        if meta is not None and not isinstance(meta, dict):
            raise MCPError(INVALID_PARAMS, "_meta must be an object")
        try:
            result = await self._methods[request.method](request)
        except CallFailed as exc:
            raise _wire_error(exc) from None
        return self._envelope(request, result)

    def _envelope(self, request: Request, result: Result) -> Result:
        """A result as the client's protocol era wants it; what a server downstream put there stays."""
        if not request.modern:
            if "resultType" in result:
                return {key: value for key, value in result.items() if key != "resultType"}
            return result
        meta = result.get("_meta")
        out = {"resultType": "complete", **result}
        if request.method in CACHEABLE:
            out.setdefault("ttlMs", 0)
            out.setdefault("cacheScope", "private")
        if meta is None or isinstance(meta, dict):
            out["_meta"] = {SERVER_INFO_META_KEY: self._stamp, **(meta or {})}
        return out

    def _introduce(self, ctx: Context, result: dict[str, Any]) -> None:
        """Say what all servers together can do, and teach the model the protocol."""
        changes = {"listChanged": True}
        capabilities: dict[str, Any] = {"tools": dict(changes)}
        for downstream in self.bridge.downstreams.values():
            # A server that was never seen may turn out to have them; an empty list does no harm.
            unseen: Mapping[str, Any] = {"prompts": {}, "resources": {}}
            offers = downstream.offer.capabilities if downstream.known else unseen
            for kind in ("prompts", "resources"):
                if offers.get(kind) is not None:
                    capabilities[kind] = dict(changes)
            if offers.get("completions") is not None:
                capabilities["completions"] = {}
        result["capabilities"] = capabilities
        name: str | None = None
        if ctx.method == "initialize":
            info: Mapping[str, Any] = (ctx.params or {}).get("clientInfo") or {}
            name = info.get("name")
        elif ctx.session.client_params is not None:
            name = ctx.session.client_params.client_info.name
        profile = profile_for(name, self.bridge.settings.host_profiles)
        parts = [instructions(conversation=profile.single_conversation)]
        for server, downstream in self.bridge.downstreams.items():
            if downstream.offer.instructions:
                parts.append(f"{server}: {downstream.offer.instructions}")
        result["instructions"] = "\n\n".join(parts)

    def _client(self, request: Request) -> Client:
        """Who is asking. Cheap: it runs on every call."""
        name = request.host
        meta = request.params.get("_meta")
        key = meta.get(CONVERSATION_KEY) if meta else None
        profile = profile_for(name, self.bridge.settings.host_profiles)
        conversation = None
        if isinstance(key, str):
            conversation = f"key:{key}"
        elif profile.single_conversation:
            if self._pipe:
                conversation = "stdio"
            elif request.session_id is not None:
                conversation = f"session:{request.session_id}"
        client = self._clients.get((name or "", conversation))
        if client is None:
            client = Client(self._scope, conversation, profile)
            self._clients[(name or "", conversation)] = client
            if len(self._clients) > CLIENTS:
                self._clients.popitem(last=False)
        return client

    # --- tools ---------------------------------------------------------------------------------------------------

    def _input_schema(self, name: str) -> Mapping[str, Any] | None:
        tool = self.bridge.catalog.tools.get(name)
        return tool.listed.get("inputSchema") if tool is not None else None

    async def _list_tools(self, request: Request) -> Result:
        params = request.params
        _no_cursor(params)
        catalog = await self.bridge.listed()
        return {"tools": [*(tool.listed(name) for name, tool in METATOOLS.items()), *catalog.tool_list()]}

    async def _call_tool(self, request: Request) -> Result:
        params = request.params
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str):
            raise MCPError(INVALID_PARAMS, f"tools/call: name must be a string; found {name!r:.80}")
        if arguments is not None and not isinstance(arguments, dict):
            raise MCPError(INVALID_PARAMS, f"tools/call: arguments must be an object; found {arguments!r:.80}")
        arguments = cast("dict[str, Any] | None", arguments)
        client = self._client(request)
        put = None if request.modern else partial(self._put, request)
        caller = Caller(client, request.report(), put, request.capabilities)
        tool = METATOOLS.get(name)
        try:
            resumed = self._resume(params, lenient=self._passes_questions(name))
            if tool is not None:
                answer = await tool.handler(self.bridge, caller, arguments or {})
                if name == "await_future" and answers.META_KEY not in (answer.get("_meta") or {}):
                    return answer  # a ready result goes up as the server gave it
            else:
                wiring = await self.bridge.found(name)
                if wiring.entry.policy.mode == "sync":
                    return await self._call_sync(request, caller, wiring, arguments, resumed)
                answer = await self._call_wrapped(request, caller, wiring, arguments, resumed)
        except CallFailed:
            raise
        except InputNeeded as needed:
            return self._questions(needed)
        except UnknownTool as exc:
            raise MCPError(INVALID_PARAMS, str(exc)) from None
        except BridgeError as exc:
            answer = answers.error(str(exc))
        return self._deliver(client, answer)

    async def _call_sync(
        self,
        request: Request,
        caller: Caller,
        wiring: Wiring,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
    ) -> Result:
        """A call that is answered with its real result, ordered with all others; cancelling it cancels the call."""
        params = request.params
        if resumed:
            future = resumed[-1]
        else:
            future = await self.bridge.submit(
                wiring,
                arguments,
                scope=caller.client.scope,
                meta=params.get("_meta"),
                capabilities=caller.capabilities,
                answers={key: params[key] for key in ("inputResponses", "requestState") if key in params},
                asks_through=request.modern,
            )
            self.bridge.store.mark_read(future)
        try:
            await self._attend(future, caller)
        except anyio.get_cancelled_exc_class():
            self.bridge.scheduler.cancel(future)
            raise
        if isinstance(future.failure, ProtocolFailure):
            raise future.failure
        return answers.alone(future)

    async def _attend(self, future: Future, caller: Caller) -> None:
        """Wait for the end of a sync call; pass on every progress as it comes, and every question."""
        seen: tuple[float, float | None, str | None] | None = None
        while True:
            changed = anyio.Event()

            def watch(_: Future, changed: anyio.Event = changed) -> None:
                changed.set()

            future.watchers.append(watch)
            try:
                if caller.report is not None and future.progress is not None and future.progress != seen:
                    seen = future.progress
                    await caller.report(*seen)
                if future.questions and (claimed := self.bridge.questions.claim([future])):
                    if caller.put is None:
                        raise InputNeeded(claimed, [future])
                    for _, question in claimed:
                        caller.put(question)
                if future.done:
                    return
                await changed.wait()
            finally:
                future.watchers.remove(watch)

    async def _call_wrapped(
        self,
        request: Request,
        caller: Caller,
        wiring: Wiring,
        arguments: dict[str, Any] | None,
        resumed: Sequence[Future],
    ) -> Result:
        entry, client = wiring.entry, caller.client
        name = wanted = None
        if arguments and ((entry.takes_as and "_as" in arguments) or (entry.takes_wait and "_wait" in arguments)):
            arguments = dict(arguments)
            name = arguments.pop("_as", None) if entry.takes_as else None
            wanted = arguments.pop("_wait", None) if entry.takes_wait else None
        note = None
        if resumed:
            # The client comes back with answers for a call that is running: it is not made again.
            futures = list(resumed)
            future = futures[-1]
        else:
            also, note = await self._also(client, entry.name, wanted, name)
            future = await self.bridge.submit(
                wiring,
                arguments,
                scope=client.scope,
                conversation=client.conversation,
                name=name or None,
                meta=request.params.get("_meta"),
                capabilities=caller.capabilities,
            )
            futures = [*(other for other in also if other is not future), future]
            if client.conversation is not None:
                client.unread[future.key] = future
        if wanted:
            try:
                await wait(self.bridge, caller, futures)
            except InputNeeded as needed:
                raise InputNeeded(needed.questions, futures) from None
        else:
            await self._grace(future, entry.policy.grace_ms / 1000)
        for each in futures:
            if each.done:
                self.bridge.store.mark_read(each)
        scheduler = self.bridge.scheduler
        if len(futures) > 1:
            answer = answers.several((each, scheduler.waiting_for(each)) for each in futures)
        elif future.done:
            answer = answers.with_result(future)
        else:
            answer = answers.handle(future, scheduler.waiting_for(future))
        return answers.append(answer, (), note) if note else answer

    # --- questions -----------------------------------------------------------------------------------------------

    def _put(self, request: Request, question: Question) -> None:
        """Ask the client at once, beside the request that waits; the user may take longer than that waits."""
        self._asking.start_soon(_ask_client, request.ask, question)

    def _questions(self, needed: InputNeeded) -> Result:
        """The answer that is a question (2026-07-28); its sealed state says which, and what was being waited for."""
        state = {
            "scope": self._scope.key,
            "questions": {question.id: future.key for future, question in needed.questions},
            "futures": [future.key for future in needed.futures],
        }
        return {
            "resultType": "input_required",
            "inputRequests": {
                question.id: {"method": question.method, "params": dict(question.params)}
                for _, question in needed.questions
            },
            "requestState": self._codec.seal(json.dumps(state).encode()),
        }

    def _resume(self, params: Params, *, lenient: bool) -> list[Future]:
        """Take the answers that a client comes back with; the futures that it had been waiting for.

        Args:
            lenient: a state that is not ours may be that of a server whose questions went up as it put them.

        Raises:
            MCPError: the state is not ours, or the answers do not fit it.
        """
        sealed = params.get("requestState")
        if sealed is None:
            return []
        try:
            state = json.loads(self._codec.unseal(str(sealed)))
        except InvalidRequestState:
            if lenient:
                return []
            raise MCPError(INVALID_PARAMS, "requestState is not one that this server gave") from None
        if state["scope"] != self._scope.key:
            raise MCPError(INVALID_PARAMS, "requestState is not one that this server gave")
        given = params.get("inputResponses", {})
        if not isinstance(given, dict):
            raise MCPError(INVALID_PARAMS, "inputResponses must be an object")
        responses = cast("dict[str, Any]", given)
        for question_id, key in state["questions"].items():
            future = self.bridge.store.find(self._scope, key.rpartition("/")[2])
            question = future.questions.get(question_id) if future is not None else None
            answer = responses.get(question_id)
            if question is None:
                continue  # answered by somebody else, or the call has ended: the wait goes on either way
            if isinstance(answer, dict):
                question.settle(cast("dict[str, Any]", answer))
            else:
                question.claimed_until = 0.0
        found = [self.bridge.store.find(self._scope, key.rpartition("/")[2]) for key in state["futures"]]
        return [future for future in found if future is not None]

    # --- waiting -------------------------------------------------------------------------------------------------

    async def _also(
        self, client: Client, tool: str, wanted: object, own_name: str | None
    ) -> tuple[Sequence[Future], str | None]:
        """The other futures that `_wait` asks for, and a remark if it asks for what cannot be known.

        Raises:
            InvalidArguments: `_wait` is no string.
            UnknownFuture: it names none.
        """
        if wanted is None or wanted in ("", "this"):
            return (), None
        if not isinstance(wanted, str):
            raise InvalidArguments(
                tool, f'_wait must be "this", "all", or IDs and names separated by commas; found {wanted!r:.80}'
            )
        if wanted == "all":
            if client.conversation is None:
                return (), 'This connection may carry several conversations: instead of _wait:"all" name the futures.'
            return client.unread_futures(), None
        refs = [ref for ref in wanted.replace(",", " ").split() if ref not in ("this", own_name, f"${own_name}")]
        if "all" in refs:
            raise InvalidArguments(tool, '_wait: "all" stands alone')
        found = await self.bridge.futures(client.scope, refs)
        return list({future.key: future for future in found}.values()), None

    async def _grace(self, future: Future, grace_s: float) -> None:
        """Give a tool that is usually quick the time to save the model a turn."""
        if grace_s <= 0 or future.done or future.state is State.WAITING:
            return
        scheduler = self.bridge.scheduler
        median_s = scheduler.median_s(future.tool)
        if (median_s is None and scheduler.running_of(future) <= CROWD) or (
            median_s is not None and median_s <= grace_s
        ):
            await wait_for([future], timeout_s=grace_s)

    def _deliver(self, client: Client, answer: Result) -> Result:
        """Let finished, small, unread results of the conversation ride on this answer, in order of completion."""
        settings = self.bridge.settings
        if client.conversation is None or settings.deliver == "off" or not client.unread:
            return answer
        ready = [f for f in client.unread_futures() if f.done and f.size <= settings.inline_bytes]
        if not ready:
            return answer
        ready.sort(key=lambda future: future.ended_at or 0)
        for future in ready:
            self.bridge.store.mark_read(future)
        return answers.append(answer, ready)

    # --- everything else that servers offer ----------------------------------------------------------------------

    async def _list_prompts(self, request: Request) -> Result:
        params = request.params
        _no_cursor(params)
        return {"prompts": [entry.listed for entry in (await self.bridge.listed()).prompts.values()]}

    async def _get_prompt(self, request: Request) -> Result:
        params = request.params
        entry = (await self.bridge.listed()).prompts.get(str(params.get("name")))
        if entry is None:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.get('name')}")
        return await self.bridge.ask(entry.server, "prompts/get", {**params, "name": entry.prompt})

    async def _list_resources(self, request: Request) -> Result:
        params = request.params
        _no_cursor(params)
        return {"resources": [raw for _, raw in (await self.bridge.listed()).resources.values()]}

    async def _list_templates(self, request: Request) -> Result:
        params = request.params
        _no_cursor(params)
        return {"resourceTemplates": [raw for _, raw in (await self.bridge.listed()).templates.values()]}

    async def _read_resource(self, request: Request) -> Result:
        params = request.params
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "resources/read: uri must be a string")
        return await self.bridge.read_resource(uri, params)

    async def _complete(self, request: Request) -> Result:
        params = request.params
        ref = params.get("ref")
        if not isinstance(ref, dict):
            raise MCPError(INVALID_PARAMS, "completion/complete: ref must be an object")
        target = cast("dict[str, Any]", ref)
        catalog = await self.bridge.listed()
        if target.get("type") == "ref/prompt":
            prompt = catalog.prompts.get(str(target.get("name")))
            if prompt is None:
                raise MCPError(INVALID_PARAMS, f"Unknown prompt: {target.get('name')}")
            return await self.bridge.ask(
                prompt.server, "completion/complete", {**params, "ref": {**target, "name": prompt.prompt}}
            )
        uri = str(target.get("uri"))
        server = catalog.templates.get(uri) or catalog.resources.get(uri)
        if server is None:
            raise MCPError(INVALID_PARAMS, f"Unknown resource template: {uri}")
        return await self.bridge.ask(server[0], "completion/complete", params)

    # --- list changes --------------------------------------------------------------------------------------------

    def _remember(self, ctx: Context) -> None:
        """A handshake connection is told of list changes until it ends."""
        connection = _connection(ctx)
        if connection not in self._connections:
            self._connections.add(connection)
            connection.exit_stack.callback(self._connections.discard, connection)

    def _on_change(self, kinds: frozenset[str]) -> None:
        self._changed |= kinds
        self._dirty.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """What goes on beside requests, until cancelled: list changes are announced, clients are asked."""
        async with anyio.create_task_group() as self._asking:
            self._asking.start_soon(self._announce)
            task_status.started()
            await anyio.sleep_forever()

    async def _announce(self) -> None:
        while True:
            await self._dirty.wait()
            await anyio.sleep(ANNOUNCE_S)
            self._dirty = anyio.Event()
            changes = dict(CHANGES[kind] for kind in sorted(self._changed))
            self._changed.clear()
            for method, event in changes.items():
                await self._bus.publish(event)
                for connection in tuple(self._connections):
                    await connection.notify(method, None)


def _connection(ctx: Context) -> Any:
    # The SDK says to push clean-up onto `Connection.exit_stack` from middleware, but has no public way there yet.
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]


def _no_cursor(params: Params) -> None:
    if params.get("cursor") is not None:
        raise MCPError(INVALID_PARAMS, "Invalid cursor: everything is on the first page")


def _wire_error(exc: CallFailed) -> MCPError:
    if isinstance(exc, ProtocolFailure):
        return MCPError(exc.code, exc.message, exc.data)
    return MCPError(INTERNAL_ERROR, str(exc))


async def _ask_client(ask: Ask, question: Question) -> None:
    try:
        question.settle(await ask(question.method, question.params))
    except MCPError as exc:
        question.settle(None, (exc.code, exc.error.message, exc.error.data))


def wire_capabilities(connection: Any) -> dict[str, Any]:
    """A connection's client capabilities as they came."""
    capabilities = connection.client_capabilities
    return {} if capabilities is None else capabilities.model_dump(by_alias=True, mode="json", exclude_none=True)
