"""The MCP server that clients see: every request's way in, every answer's way out.

Owns the methods, whose request it is, and the translation of errors to the wire, which happens here and nowhere else.
It answers in a middleware of the SDK's low-level `Server`, without `call_next`: what a server downstream said then
goes up as it came, neither validated nor sieved, and the envelope of each protocol era is added here.
"""

import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, Final, cast

import anyio
import anyio.abc
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, LOG_LEVEL_META_KEY, METHOD_NOT_FOUND, SERVER_INFO_META_KEY
from mcp_types.methods import SPEC_CLIENT_METHODS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from asyncfc_mcp import __version__, answers, results, tasks
from asyncfc_mcp.bridge import Ask, Bridge, Wiring
from asyncfc_mcp.catalog import HOST_PREFIX, NAME_LIMIT, upstream_name
from asyncfc_mcp.errors import BridgeError, CallFailed, InvalidArguments, ProtocolFailure, UnknownTool
from asyncfc_mcp.futures import Future, Question, Result, Scope, State
from asyncfc_mcp.hosts import profile_for
from asyncfc_mcp.listening import LEVELS, Attendance, Listener, Listeners
from asyncfc_mcp.metatools import CANCEL_WAIT_S, METATOOLS, Caller, Client, InputNeeded, Report, instructions, wait
from asyncfc_mcp.scheduler import wait_for
from asyncfc_mcp.tasks import CHOICE_KEY, EXTENSION

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
OTHER_METHODS: Final = SPEC_CLIENT_METHODS
"""Methods that MCP defines. The SDK answers those of them that are not ours; any other may be an extension's."""
PAGE: Final = 1000
"""How many entries a page of a list has."""
LISTED_FUTURES: Final = 100
"""How many futures are listed as resources, newest first."""
SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
MISSING_CAPABILITY: Final = -32021
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
    capabilities: Mapping[str, Any]
    """What the client said it can do, as it said it."""
    channel: DispatchContext[Any]
    """The way back to the client while this request is answered: progress, notifications, and requests where the
    protocol has them."""
    connection: Any
    """The SDK's `Connection`; of a handshake one it outlives the request."""

    @property
    def modern(self) -> bool:
        return self.version in MODERN_PROTOCOL_VERSIONS

    def report(self) -> Report | None:
        """How to send progress; None where nobody listens."""
        meta = self.params.get("_meta")
        return self.channel.progress if meta and meta.get("progressToken") is not None else None

    def chooses_task(self, default: str) -> bool:
        """Whether a call of this client becomes a task of the extension (2026-07-28) instead of a handle."""
        extensions = cast("Mapping[str, Any]", self.capabilities.get("extensions") or {})
        meta = cast("Mapping[str, Any]", self.params.get("_meta") or {})
        return self.modern and EXTENSION in extensions and meta.get(CHOICE_KEY, default) == "task"


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
        self._aliases: dict[str, str] = {}
        self._listeners = Listeners(bridge, self._task)
        self._connections: dict[Any, Listener] = {}
        self._asking: anyio.abc.TaskGroup
        self._epoch = time.time() - anyio.current_time()
        self.server: Server[Any] = Server(
            "asyncfc-mcp",
            version=__version__,
            title="asyncfc-mcp",
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
            "tasks/get": self._get_task,
            "tasks/cancel": self._cancel_task,
        }
        # What only one of the two protocol eras has.
        self._handshake_methods: Mapping[str, Callable[[Request], Awaitable[Result]]] = {
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            "logging/setLevel": self._set_level,
            "tasks/result": self._task_result,
            "tasks/list": self._list_tasks,
        }
        self._modern_methods: Mapping[str, Callable[[Request], Awaitable[Result]]] = {
            "subscriptions/listen": self._listen,
            "tasks/update": self._update_task,
        }

    # --- in and out ----------------------------------------------------------------------------------------------

    async def _middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            result = await call_next(ctx)
            if ctx.method == "notifications/initialized":
                self._listener(_connection(ctx))
            elif ctx.method == "notifications/roots/list_changed":
                await self.bridge.tell_servers(ctx.method)
            return result
        if not self.answers(ctx.method, modern=ctx.protocol_version in MODERN_PROTOCOL_VERSIONS):
            result = await call_next(ctx)
            if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
                self._introduce(ctx, result)
            return result
        connection = _connection(ctx)
        self.admit(connection, ctx.method)
        info = ctx.session.client_params
        return await self.answer(
            Request(
                ctx.method,
                ctx.params if ctx.params is not None else {},
                ctx.protocol_version,
                info.client_info.name if info is not None else None,
                connection.session_id,
                wire_capabilities(connection),
                ctx.session._request_outbound,  # pyright: ignore[reportPrivateUsage]
                connection,
            )
        )

    @cached_property
    def _codec(self) -> AESGCMRequestStateCodec:
        return AESGCMRequestStateCodec([secrets.token_bytes(32)])

    def _passes_questions(self, name: str) -> bool:
        """Whether questions of this tool go up as the server put them, state included."""
        tool = self.bridge.catalog.tools.get(name)
        return tool is not None and tool.policy.mode == "sync"

    def admit(self, connection: Any, method: str) -> None:
        """Let a handshake connection's request through.

        Raises:
            MCPError: it has not shaken hands; for a method that nobody knows, that nobody knows it.
        """
        if connection.initialize_accepted:
            return
        if method not in OTHER_METHODS:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method)
        raise NotInitialized

    def answers(self, method: str, *, modern: bool) -> bool:
        """Whether `answer` knows the method in this protocol era; all others are the SDK's."""
        era = self._modern_methods if modern else self._handshake_methods
        return method in self._methods or method in era or method not in OTHER_METHODS

    async def answer(self, request: Request) -> Result:
        """Answer a request of an initialized client, envelope included.

        Raises:
            MCPError: the JSON-RPC error to answer with.
        """
        meta = request.params.get("_meta")
        if meta is not None and not isinstance(meta, dict):
            raise MCPError(INVALID_PARAMS, "_meta must be an object")
        era = self._modern_methods if request.modern else self._handshake_methods
        handler = self._methods.get(request.method) or era.get(request.method, self._extension)
        try:
            result = await handler(request)
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
        modern = ctx.method == "server/discover"
        capabilities: dict[str, Any] = {
            "tools": {"listChanged": True},
            # Futures are resources, whatever the servers have.
            "resources": {"listChanged": True, "subscribe": True},
        }
        for downstream in self.bridge.downstreams.values():
            # A server that was never seen may turn out to have them; an empty list does no harm.
            unseen: Mapping[str, Any] = {"prompts": {}}
            offers = downstream.offer.capabilities if downstream.known else unseen
            if offers.get("prompts") is not None:
                capabilities["prompts"] = {"listChanged": True}
            for kind in ("completions", "logging"):
                if offers.get(kind) is not None:
                    capabilities[kind] = {}
        if modern:
            theirs = {k: v for d in self.bridge.downstreams.values() for k, v in d.offer.extensions.items()}
            capabilities["extensions"] = {**theirs, EXTENSION: {}}
        elif result.get("protocolVersion") == "2025-11-25":
            capabilities["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
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
        catalog = await self.bridge.listed()
        profile = profile_for(request.host, self.bridge.settings.host_profiles)
        wrapped = self._fitting(catalog.tool_list(), profile.name_limit)
        tools = [*(tool.listed(name) for name, tool in METATOOLS.items()), *wrapped]
        return _paged(params, "tools", tools)

    def _fitting(self, tools: list[dict[str, Any]], name_limit: int) -> list[dict[str, Any]]:
        """The tools with names that fit a host which allows less than most; `_aliases` leads back."""
        limit = name_limit - len(HOST_PREFIX)
        fitting: list[dict[str, Any]] = []
        for tool in tools:
            name = upstream_name("", tool["name"], limit) if len(tool["name"]) > limit < NAME_LIMIT else tool["name"]
            if name != tool["name"]:
                self._aliases[name] = tool["name"]
            fitting.append({**tool, "name": name} if name != tool["name"] else tool)
        return fitting

    async def _call_tool(self, request: Request) -> Result:
        params = request.params
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str):
            raise MCPError(INVALID_PARAMS, f"tools/call: name must be a string; found {name!r:.80}")
        if arguments is not None and not isinstance(arguments, dict):
            raise MCPError(INVALID_PARAMS, f"tools/call: arguments must be an object; found {arguments!r:.80}")
        arguments = cast("dict[str, Any] | None", arguments)
        name = self._aliases.get(name, name)
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
                if request.chooses_task(self.bridge.settings.tasks) or "task" in params:
                    return await self._call_task(request, caller, wiring, arguments)
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

    async def _call_task(
        self, request: Request, caller: Caller, wiring: Wiring, arguments: dict[str, Any] | None
    ) -> Result:
        """A call whose future is handed out as a task, in the way of the client's protocol version."""
        if "task" in request.params and request.version != "2025-11-25":
            raise MCPError(INVALID_PARAMS, f"protocol {request.version} has no task-augmented calls")
        entry = wiring.entry
        name = None
        if arguments:
            arguments = {k: v for k, v in arguments.items() if not (k == "_wait" and entry.takes_wait)}
            name = arguments.pop("_as", None) if entry.takes_as else None
        future = await self.bridge.submit(
            wiring,
            arguments,
            scope=caller.client.scope,
            conversation=caller.client.conversation,
            name=name or None,
            meta=request.params.get("_meta"),
            capabilities=caller.capabilities,
        )
        if request.modern:
            return tasks.created(future, self._epoch)
        return {"task": tasks.experimental(future, self._epoch)}

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
            future.answered = True
            self.bridge.store.mark_read(future)
        try:
            with self._hearing(request, [future]):
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
                with self._hearing(request, futures):
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

    def _hearing(self, request: Request, futures: Iterable[Future]) -> AbstractContextManager[None]:
        """While it lasts, the request hears what the servers of these futures log."""
        meta = cast("Mapping[str, Any]", request.params.get("_meta") or {})
        connection = None if request.modern else request.connection
        attendance = Attendance(request.channel.notify, meta.get(LOG_LEVEL_META_KEY), connection)
        return self._listeners.attending(attendance, (future.server for future in futures))

    def _put(self, request: Request, question: Question) -> None:
        """Ask the client at once, beside the request that waits; the user may take longer than that waits."""
        self._asking.start_soon(_ask_client, request.channel.send_raw_request, question)

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
        return _paged(params, "prompts", [entry.listed for entry in (await self.bridge.listed()).prompts.values()])

    async def _get_prompt(self, request: Request) -> Result:
        params = request.params
        entry = (await self.bridge.listed()).prompts.get(str(params.get("name")))
        if entry is None:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.get('name')}")
        return await self.bridge.ask(entry.server, "prompts/get", {**params, "name": entry.prompt})

    async def _list_resources(self, request: Request) -> Result:
        params = request.params
        futures = islice((f for f in self.bridge.store.newest(self._scope) if not f.answered), LISTED_FUTURES)
        resources = [raw for _, raw in (await self.bridge.listed()).resources.values()]
        return _paged(params, "resources", [*resources, *map(results.listed, futures)])

    async def _list_templates(self, request: Request) -> Result:
        params = request.params
        templates = [raw for _, raw in (await self.bridge.listed()).templates.values()]
        return _paged(params, "resourceTemplates", [*templates, results.TEMPLATE])

    async def _read_resource(self, request: Request) -> Result:
        params = request.params
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "resources/read: uri must be a string")
        wanted = results.parse(uri)
        future = self.bridge.store.find(self._scope, wanted[0]) if wanted is not None else None
        if wanted is not None and future is not None:
            if future.done:
                self.bridge.store.mark_read(future)
            return results.read(future, uri, wanted[1], wanted[2])
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

    async def _extension(self, request: Request) -> Result:
        """A method that no revision of MCP knows is that of a server's extension, or nobody's."""
        return await self.bridge.ask_extension(request.method, request.params)

    # --- listening -----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """What goes on beside requests, until cancelled: listeners are told, clients are asked."""
        async with anyio.create_task_group() as self._asking:
            self._asking.start_soon(self._listeners.run)
            task_status.started()
            await anyio.sleep_forever()

    def _listener(self, connection: Any) -> Listener:
        """A handshake connection as a listener, until it ends."""
        listener = self._connections.get(connection)
        if listener is None:
            lists = ("tools", "prompts", "resources")
            listener = Listener(connection.notify, self._scope, lists=lists, connection=connection)
            self._connections[connection] = listener
            self._listeners.add(listener)
            self._asking.start_soon(listener.run)

            async def forget() -> None:
                del self._connections[connection]
                await self._listeners.discard(listener)

            connection.exit_stack.push_async_callback(forget)
        return listener

    async def _subscribe(self, request: Request) -> Result:
        await self._listeners.subscribe(self._listener(request.connection), _uri(request))
        return {}

    async def _unsubscribe(self, request: Request) -> Result:
        await self._listeners.unsubscribe(self._listener(request.connection), _uri(request))
        return {}

    async def _set_level(self, request: Request) -> Result:
        level = request.params.get("level")
        if level not in LEVELS:
            raise MCPError(INVALID_PARAMS, f"logging/setLevel: level must be one of {', '.join(LEVELS)}")
        self._listener(request.connection).level = str(level)
        await self.bridge.set_log_level(self._listeners.least_level() or str(level))
        return {}

    async def _listen(self, request: Request) -> Result:
        """One stream of the changes that a client asks for (2026-07-28), until it goes away."""
        wanted = request.params.get("notifications")
        request_id = request.channel.request_id
        if not isinstance(wanted, dict) or request_id is None:
            raise MCPError(INVALID_PARAMS, "subscriptions/listen: notifications must be an object")
        wanted = cast("dict[str, Any]", wanted)
        lists = [kind for kind in ("tools", "prompts", "resources") if wanted.get(f"{kind}ListChanged") is True]
        uris = [uri for uri in wanted.get("resourceSubscriptions") or () if isinstance(uri, str)]
        tasks = [self.bridge.store.find(self._scope, str(task)) for task in wanted.get("taskIds") or ()]
        followed = [future for future in tasks if future is not None]
        stamp = {SUBSCRIPTION_KEY: request_id}
        listener = Listener(request.channel.notify, self._scope, lists=lists, stamp=stamp)
        honored: dict[str, Any] = {f"{kind}ListChanged": True for kind in lists}
        self._listeners.add(listener)
        try:
            for uri in uris:
                with suppress(CallFailed):
                    await self._listeners.subscribe(listener, uri)
            if uris:
                honored["resourceSubscriptions"] = uris
            if followed:
                honored["taskIds"] = [future.id for future in followed]
            # First of all, and then what has happened since.
            await request.channel.notify(
                "notifications/subscriptions/acknowledged", {"notifications": honored, "_meta": stamp}
            )
            for future in followed:
                self._listeners.follow(listener, future)
            await listener.run()
        finally:
            with anyio.CancelScope(shield=True):
                await self._listeners.discard(listener)
        return {"_meta": stamp}

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _task(self, future: Future) -> dict[str, Any]:
        return tasks.detailed(future, self._epoch)

    def _task_future(self, request: Request) -> Future:
        """The future that a `tasks/…` request is about.

        Raises:
            MCPError: there is none, or the client may not ask.
        """
        if request.modern and EXTENSION not in (request.capabilities.get("extensions") or {}):
            raise MCPError(
                MISSING_CAPABILITY,
                f"{request.method} needs the client to declare the extension {EXTENSION}",
                {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
            )
        task_id = request.params.get("taskId")
        future = self.bridge.store.find(self._scope, task_id) if isinstance(task_id, str) else None
        if future is None:
            raise MCPError(INVALID_PARAMS, f"Task not found: {task_id}")
        return future

    async def _get_task(self, request: Request) -> Result:
        future = self._task_future(request)
        if not request.modern:
            return tasks.experimental(future, self._epoch)
        if future.done:
            self.bridge.store.mark_read(future)
        return self._task(future)

    async def _cancel_task(self, request: Request) -> Result:
        future = self._task_future(request)
        if future.done and not request.modern:
            raise MCPError(INVALID_PARAMS, f"Task {future.id} has ended: {tasks.status(future)}")
        self.bridge.scheduler.cancel(future)
        if request.modern:
            return {}
        await wait_for([future], timeout_s=CANCEL_WAIT_S)
        return tasks.experimental(future, self._epoch)

    async def _update_task(self, request: Request) -> Result:
        future = self._task_future(request)
        responses = request.params.get("inputResponses")
        if not isinstance(responses, dict):
            raise MCPError(INVALID_PARAMS, "tasks/update: inputResponses must be an object")
        for question_id, answer in cast("dict[str, Any]", responses).items():
            question = future.questions.get(question_id)
            if question is not None and isinstance(answer, dict):
                question.settle(cast("dict[str, Any]", answer))
        return {}

    async def _task_result(self, request: Request) -> Result:
        """The result of a task, as soon as there is one (2025-11-25)."""
        future = self._task_future(request)
        caller = Caller(self._client(request), request.report(), partial(self._put, request), request.capabilities)
        await self._attend(future, caller)
        self.bridge.store.mark_read(future)
        if future.result is None:
            failure = tasks.error(future)
            raise MCPError(failure["code"], failure["message"], failure.get("data"))
        meta = cast("dict[str, Any]", future.result.get("_meta") or {})
        return {**future.result, "_meta": {**meta, tasks.RELATED: {"taskId": future.id}}}

    async def _list_tasks(self, request: Request) -> Result:
        futures = [tasks.experimental(future, self._epoch) for future in self.bridge.store.newest(self._scope)]
        return _paged(request.params, "tasks", futures)


def _connection(ctx: Context) -> Any:
    # The SDK says to push clean-up onto `Connection.exit_stack` from middleware, but has no public way there yet.
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]


def _uri(request: Request) -> str:
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise MCPError(INVALID_PARAMS, f"{request.method}: uri must be a string")
    return uri


def _paged(params: Params, key: str, items: list[dict[str, Any]]) -> Result:
    """One page of a list. The cursor is ours: the lists of all servers are one."""
    cursor = params.get("cursor")
    start = 0
    if cursor is not None:
        kind, _, offset = str(cursor).partition(":")
        if kind != key or not offset.isascii() or not offset.isdigit() or not 0 < int(offset) < len(items):
            raise MCPError(INVALID_PARAMS, f"Invalid cursor: {cursor!r:.80}")
        start = int(offset)
    page: Result = {key: items[start : start + PAGE]}
    if len(items) > start + PAGE:
        page["nextCursor"] = f"{key}:{start + PAGE}"
    return page


def _wire_error(exc: CallFailed) -> MCPError:
    if isinstance(exc, ProtocolFailure):
        return MCPError(exc.code, exc.message, exc.data)
    return MCPError(INTERNAL_ERROR, str(exc))


async def _ask_client(ask: Ask, question: Question) -> None:
    try:
        question.settle(await ask(question.method, question.params))
    except MCPError as exc:
        question.settle(None, (exc.code, exc.error.message, exc.error.data))
    except Exception:
        logger.exception("asking the client %s failed", question.method)
        question.settle(None, (INTERNAL_ERROR, "the client could not be asked", None))


def wire_capabilities(connection: Any) -> dict[str, Any]:
    """A connection's client capabilities as they came."""
    capabilities = connection.client_capabilities
    return {} if capabilities is None else capabilities.model_dump(by_alias=True, mode="json", exclude_none=True)
