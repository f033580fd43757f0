"""Small downstream MCP servers, good and bad, for tests that drive real processes.

    python tests/support/process_servers.py raw [options]       handshake era, written by hand, standard library only
    python tests/support/process_servers.py modern [options]    the SDK's low-level server: stdio, --http or --sse

`raw` uses no SDK on purpose: it says on the wire exactly what a test wants to find at the other end of the bridge,
unknown fields and broken lines included. It is one thread, one heap of timers and one blocking read, so a thousand
calls that sleep cost nothing and are answered in the order of their deadlines.
"""

from __future__ import annotations

import argparse
import base64
import heapq
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
PAGE = 3  # items in one page of any list: small, so that every listing needs several
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
WAV = base64.b64encode(b"RIFF$\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00").decode()
FRUIT = ("apple", "apricot", "banana", "cherry")

Json = dict[str, Any]


# --- what both kinds answer ----------------------------------------------------------------------------------------


def text_result(text: str, **more: Any) -> Json:
    """A tool result of one text block."""
    return {"content": [{"type": "text", "text": text}], **more}


def big_text(n_bytes: int) -> str:
    """Text of exactly `n_bytes` in which a lost or doubled piece shows."""
    lines = (f"{n:015d}\n" for n in itertools.count())
    return "".join(itertools.islice(lines, n_bytes // 16 + 1))[:n_bytes]


def plain_rich_result(label: str) -> Json:
    """Every kind of content block that the protocol knows, and nothing that it does not."""
    return {
        "content": [
            {"type": "text", "text": "Grüße, 世界 🌍\n\ttab \u2028 line separator"},
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            {"type": "audio", "data": WAV, "mimeType": "audio/wav"},
            {
                "type": "resource",
                "resource": {"uri": f"{label}://greeting", "mimeType": "text/plain", "text": "embedded"},
            },
            {"type": "resource_link", "uri": f"{label}://blob", "name": "blob", "mimeType": "application/octet-stream"},
        ],
        "structuredContent": {"rows": [{"id": 1, "score": 0.1}, {"id": 2, "score": 1e-7}], "total": 2},
        "isError": False,
        "_meta": {"toy.example/trace": {"span": "a1"}},
    }


def rich_result(label: str) -> Json:
    """`plain_rich_result` with what a careless proxy loses: unknown fields, nulls, big integers, empty containers."""
    result = plain_rich_result(label)
    content = result["content"]
    content[0] |= {
        "annotations": {"audience": ["user"], "priority": 0.5, "x-unknown": [1, {"deep": None}]},
        "x-block": "kept",
    }
    content[1] |= {"_meta": {"toy.example/width": 1}, "x-null": None}
    content[3]["resource"] |= {"x-inner": {"a": []}, "_meta": {"k": "v"}}
    content[4] |= {"size": 4, "x-link": {"": ""}}
    result["structuredContent"] |= {
        "null": None,
        "float_that_is_whole": 1.0,
        "beyond_int64": 2**70,
        "empty": {"list": [], "object": {}, "text": ""},
        "snake_case": {"camelCase": True, "isError": "not ours", "_meta": 0},
    }
    result["x-vendor"] = {"nested": [{"null": None}], "flag": False}
    result["_meta"]["x-anything"] = [1, 2.5, None]
    return result


def greeting_prompt(arguments: Json) -> Json:
    """The answer of `prompts/get` for `greet`."""
    return {
        "description": "A greeting",
        "messages": [{"role": "user", "content": {"type": "text", "text": f"Greet {arguments.get('name', 'nobody')}"}}],
    }


PROMPTS: list[Json] = [
    {
        "name": "greet",
        "description": "Greets somebody",
        "arguments": [{"name": "name", "description": "whom", "required": True}],
    },
    {"name": "part", "description": "Says goodbye"},
    {"name": "third", "description": "Fills the page"},
    {"name": "fourth", "description": "Needs a second page"},
]


def resources_of(label: str) -> list[Json]:
    """What `resources/list` shows."""
    return [
        {"uri": f"{label}://greeting", "name": "greeting", "mimeType": "text/plain"},
        {"uri": f"{label}://blob", "name": "blob", "mimeType": "application/octet-stream"},
    ]


def templates_of(label: str) -> list[Json]:
    """What `resources/templates/list` shows."""
    return [{"uriTemplate": f"{label}://note/{{name}}", "name": "note", "mimeType": "text/plain"}]


def read_resource(label: str, uri: str) -> Json | None:
    """The answer of `resources/read`, or None for a URI that is not ours."""
    if uri == f"{label}://greeting":
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"hello from {label}"}]}
    if uri == f"{label}://blob":
        blob = base64.b64encode(bytes(range(16))).decode()
        return {"contents": [{"uri": uri, "mimeType": "application/octet-stream", "blob": blob}]}
    prefix = f"{label}://note/"
    if uri.startswith(prefix):
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"note {uri.removeprefix(prefix)}"}]}
    return None


def completion(value: str) -> Json:
    """The answer of `completion/complete`: fruit that begins with what was typed."""
    values = [fruit for fruit in FRUIT if fruit.startswith(value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


def schema(required: Iterable[str] = (), **properties: str) -> Json:
    """An input schema whose properties have the given JSON types."""
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(required),
    }


# --- raw -----------------------------------------------------------------------------------------------------------


class RpcFailure(Exception):
    """Becomes a JSON-RPC error, with exactly these members."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


@dataclass(frozen=True)
class Call:
    """One `tools/call` that a tool is answering."""

    id: object
    tool: str
    arguments: Json
    progress_token: object = None


@dataclass
class RawToy:
    """A handshake-era server over stdio."""

    options: argparse.Namespace
    tools: list[Json] = field(default_factory=list)
    running: dict[object, Call] = field(default_factory=dict)
    cancellations: list[Json] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.tools = [dict(definition) for definition, _ in RAW_TOOLS.values()]

    # -- the loop

    def run(self) -> None:
        """Serve until stdin ends (or for ever with --ignore-stdin-eof)."""
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        buffer = b""
        while True:
            wait = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
            if selector.select(wait):
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    if not self.options.ignore_stdin_eof:
                        return
                    while True:
                        time.sleep(60)
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        self.receive(json.loads(line))
            while self.timers and self.timers[0][0] <= time.monotonic():
                heapq.heappop(self.timers)[2]()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do `action` after `seconds`."""
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.order), action))

    def write(self, message: Json) -> None:
        """Put one message on the wire."""
        self.write_line(json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode())

    @staticmethod
    def write_line(line: bytes) -> None:
        """Put one line on stdout, whatever it is."""
        data = memoryview(line + b"\n")
        while data:
            data = data[os.write(1, data) :]

    def answer(self, call: Call, result: Json) -> None:
        """Answer `call`, unless it was cancelled meanwhile."""
        if self.running.pop(call.id, None) is not None:
            self.write({"id": call.id, "result": result})

    # -- requests

    def receive(self, message: Json) -> None:
        """Answer one message of the client."""
        if self.options.stderr_spam:
            print("spam: " + str(message)[:200], file=sys.stderr, flush=True)
        method, params = message.get("method"), message.get("params") or {}
        if "id" not in message:
            if method == "notifications/cancelled":
                self.cancelled(params)
            return
        if method is None:
            return  # an answer; this server asks nothing
        try:
            result = self.handle(message["id"], method, params)
        except RpcFailure as failure:
            self.running.pop(message["id"], None)
            self.write({"id": message["id"], "error": failure.error})
        else:
            if result is not None:
                self.running.pop(message["id"], None)
                self.write({"id": message["id"], "result": result})

    def cancelled(self, params: Json) -> None:
        """Remember a cancellation and forget the call, as the protocol asks."""
        call = self.running.pop(params.get("requestId"), None)
        self.cancellations.append({**params, "tool": call.tool if call else None})

    def handle(self, request_id: object, method: str, params: Json) -> Json | None:
        """The result of a request; None when it comes later or never."""
        label = self.options.label
        match method:
            case "initialize":
                asked = params.get("protocolVersion")
                return {
                    "protocolVersion": asked if asked in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1],
                    "capabilities": {
                        "tools": {"listChanged": True},
                        "prompts": {},
                        "resources": {},
                        "completions": {},
                    },
                    "serverInfo": {"name": f"toy-{label}", "version": "1.0"},
                    "instructions": "A toy.",
                }
            case "ping":
                return {}
            case "tools/list":
                return None if self.options.never_list else self.page("tools", self.tools, params)
            case "tools/call":
                return self.call(request_id, params)
            case "prompts/list":
                return self.page("prompts", PROMPTS, params)
            case "prompts/get":
                if params.get("name") not in [prompt["name"] for prompt in PROMPTS]:
                    raise RpcFailure(-32602, f"no prompt {params.get('name')!r}")
                return greeting_prompt(params.get("arguments") or {})
            case "resources/list":
                return self.page("resources", resources_of(label), params)
            case "resources/templates/list":
                return self.page("resourceTemplates", templates_of(label), params)
            case "resources/read":
                found = read_resource(label, str(params.get("uri")))
                if found is None:
                    raise RpcFailure(-32002, "Resource not found", {"uri": params.get("uri")})
                return found
            case "completion/complete":
                return completion(params["argument"]["value"])
            case _:
                raise RpcFailure(-32601, f"Method not found: {method}")

    @staticmethod
    def page(key: str, items: list[Json], params: Json) -> Json:
        """One page of a list, with a cursor while there is more."""
        start = int(params.get("cursor") or 0)
        more = {"nextCursor": str(start + PAGE)} if start + PAGE < len(items) else {}
        return {key: items[start : start + PAGE], **more}

    def call(self, request_id: object, params: Json) -> Json | None:
        """Run a tool."""
        name = params.get("name")
        if name in RAW_TOOLS:
            run = RAW_TOOLS[name][1]
        elif any(name == each["name"] for each in self.tools):
            run = raw_echo
        else:
            raise RpcFailure(-32602, f"Unknown tool: {name}")
        token = (params.get("_meta") or {}).get("progressToken")
        call = Call(request_id, str(name), params.get("arguments") or {}, token)
        self.running[request_id] = call
        return run(self, call)


RawTool = Callable[[RawToy, Call], Json | None]
RAW_TOOLS: dict[str, tuple[Json, RawTool]] = {}


def raw_tool(name: str, input_schema: Json, **definition: Any) -> Callable[[RawTool], RawTool]:
    """Register a tool of the raw toy; its docstring is its description."""

    def register(run: RawTool) -> RawTool:
        RAW_TOOLS[name] = (
            {"name": name, "description": run.__doc__ or "", "inputSchema": input_schema, **definition},
            run,
        )
        return run

    return register


@raw_tool(
    "echo",
    schema(text="string"),
    title="Echo",
    annotations={"readOnlyHint": True, "title": "Echo it", "x-hint": "kept"},
    icons=[{"src": "https://toy.example/echo.png", "mimeType": "image/png"}],
    _meta={"toy.example/tool": {"kept": None}},
    outputSchema={"type": "object", "properties": {"arguments": {"type": "object"}}},
)
def raw_echo(_toy: RawToy, call: Call) -> Json:
    """Returns its arguments."""
    body = json.dumps(call.arguments, sort_keys=True, ensure_ascii=False)
    return text_result(body, structuredContent={"arguments": call.arguments})


@raw_tool("sleep", schema(["seconds"], seconds="number", tag="string"))
def raw_sleep(toy: RawToy, call: Call) -> None:
    """Sleeps, then says so."""
    seconds, tag = call.arguments["seconds"], call.arguments.get("tag", "")
    toy.later(seconds, lambda: toy.answer(call, text_result(f"slept {seconds} {tag}".rstrip())))


@raw_tool("fail", schema(message="string"))
def raw_fail(_toy: RawToy, call: Call) -> Json:
    """Fails in the way of a tool: a result with isError."""
    return text_result(call.arguments.get("message", "it failed"), isError=True, _meta={"toy.example/code": 7})


@raw_tool("rich", schema())
def raw_rich(toy: RawToy, _call: Call) -> Json:
    """Returns every kind of content and many unknown fields."""
    return rich_result(toy.options.label)


@raw_tool("alien", schema())
def raw_alien(_toy: RawToy, _call: Call) -> Json:
    """Returns a content block of a type that no version of the protocol knows."""
    return {"content": [{"type": "hologram", "data": {"layers": [1, 2]}}, {"type": "text", "text": "and text"}]}


@raw_tool(
    "bad_schema",
    schema(),
    outputSchema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)
def raw_bad_schema(_toy: RawToy, _call: Call) -> Json:
    """Breaks its own outputSchema."""
    return text_result("n is not a number", structuredContent={"n": "seven", "extra": True})


@raw_tool("progress", schema(["steps"], steps="integer", interval="number"))
def raw_progress(toy: RawToy, call: Call) -> None:
    """Reports progress, then returns."""
    steps, interval = call.arguments["steps"], call.arguments.get("interval", 0.1)

    def step(number: int) -> None:
        if call.id not in toy.running:
            return
        if call.progress_token is not None:
            params = {"progressToken": call.progress_token, "progress": number, "total": steps}
            toy.write({"method": "notifications/progress", "params": {**params, "message": f"step {number}"}})
        if number < steps:
            toy.later(interval, lambda: step(number + 1))
        else:
            toy.later(interval, lambda: toy.answer(call, text_result(f"made {steps} steps")))

    toy.later(interval, lambda: step(1))


@raw_tool("crash", schema(code="integer"))
def raw_crash(_toy: RawToy, call: Call) -> None:
    """Says its last words on stderr and exits."""
    print("the toy is on fire\nthese are its last words", file=sys.stderr, flush=True)
    os._exit(call.arguments.get("code", 3))


@raw_tool("garbage", schema())
def raw_garbage(toy: RawToy, _call: Call) -> Json:
    """Writes lines on stdout that are no messages, then answers."""
    for line in (b"Loading model... 100%", b'{"half": ', b"\xff\xfe\x00 not UTF-8", b'{"jsonrpc": "2.0"}', b"[]", b"7"):
        toy.write_line(line)
    return text_result("answered after garbage")


@raw_tool("big", schema(["n_bytes"], n_bytes="integer"))
def raw_big(_toy: RawToy, call: Call) -> Json:
    """Returns a text of n_bytes."""
    return text_result(big_text(call.arguments["n_bytes"]))


@raw_tool("never", schema())
def raw_never(_toy: RawToy, _call: Call) -> None:
    """Never answers."""


@raw_tool("seen_cancellations", schema(), annotations={"readOnlyHint": True})
def raw_seen_cancellations(toy: RawToy, _call: Call) -> Json:
    """Returns the notifications/cancelled received so far."""
    return text_result(json.dumps(toy.cancellations), structuredContent={"seen": toy.cancellations})


@raw_tool("protocol_error", schema())
def raw_protocol_error(_toy: RawToy, _call: Call) -> Json:
    """Fails in the way of the protocol: a JSON-RPC error."""
    raise RpcFailure(-32055, "the toy refuses", {"why": ["because", None], "retry": False})


@raw_tool("add_tool", schema(["name"], name="string"))
def raw_add_tool(toy: RawToy, call: Call) -> Json:
    """Adds a tool and announces it."""
    name = call.arguments["name"]
    toy.tools.append({"name": name, "description": "Added at run time", "inputSchema": schema(text="string")})
    toy.write({"method": "notifications/tools/list_changed"})
    return text_result(f"added {name}")


@raw_tool("counter", schema())
def raw_counter(toy: RawToy, _call: Call) -> Json:
    """Counts its calls in this process."""
    toy.count += 1
    count = {"count": toy.count, "pid": os.getpid()}
    return text_result(json.dumps(count), structuredContent=count)


@raw_tool("surroundings", schema(["names"], names="array"))
def raw_surroundings(_toy: RawToy, call: Call) -> Json:
    """Returns the working directory and environment variables."""
    found = {"cwd": os.getcwd(), "env": {name: os.environ.get(name) for name in call.arguments["names"]}}
    return text_result(json.dumps(found), structuredContent=found)


# --- modern --------------------------------------------------------------------------------------------------------

MODERN_TOOLS: list[Json] = [
    {
        "name": "echo",
        "title": "Echo",
        "description": "Returns its arguments.",
        "inputSchema": schema(text="string"),
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "sleep",
        "description": "Sleeps, then says so.",
        "inputSchema": schema(["seconds"], seconds="number", tag="string"),
    },
    {"name": "fail", "description": "Fails with isError.", "inputSchema": schema(message="string")},
    {"name": "rich", "description": "Returns every kind of content.", "inputSchema": schema()},
    {"name": "progress", "description": "Reports progress.", "inputSchema": schema(["steps"], steps="integer")},
    {"name": "never", "description": "Never answers.", "inputSchema": schema()},
    {"name": "big", "description": "Returns n_bytes.", "inputSchema": schema(["n_bytes"], n_bytes="integer")},
    {"name": "protocol_error", "description": "Fails with a JSON-RPC error.", "inputSchema": schema()},
    {"name": "seen_cancellations", "description": "What was cancelled.", "inputSchema": schema()},
    {"name": "counter", "description": "Counts its calls.", "inputSchema": schema()},
    {"name": "add_tool", "description": "Adds a tool.", "inputSchema": schema(["name"], name="string")},
]


def modern_server(label: str) -> Any:
    """The SDK's low-level server with a few of the same tools."""
    import anyio
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
    from mcp.shared.exceptions import MCPError
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    tools = list(MODERN_TOOLS)
    cancelled: list[str] = []
    counted = itertools.count(1)
    bus = InMemorySubscriptionBus()

    def dressed(ctx: Any, result: Json, *, cacheable: bool = False) -> Json:
        # What 2026-07-28 requires of every result, and of the cacheable ones.
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return result
        return {**result, "resultType": "complete"} | ({"ttlMs": 0, "cacheScope": "private"} if cacheable else {})

    def page(key: str, items: list[Json]) -> Callable[[Any, Any], Any]:
        async def list_page(ctx: Any, params: Any) -> Json:
            cursor = {"cursor": params.cursor if params else None}
            return dressed(ctx, RawToy.page(key, items, cursor), cacheable=True)

        return list_page

    async def call_tool(ctx: Any, params: Any) -> Json:
        return dressed(ctx, await run_tool(ctx, params))

    async def run_tool(ctx: Any, params: Any) -> Json:
        arguments = params.arguments or {}
        match params.name:
            case "sleep":
                seconds, tag = arguments["seconds"], arguments.get("tag", "")
                try:
                    await anyio.sleep(seconds)
                except anyio.get_cancelled_exc_class():
                    cancelled.append("sleep")
                    raise
                return text_result(f"slept {seconds} {tag}".rstrip())
            case "fail":
                return text_result(arguments.get("message", "it failed"), isError=True)
            case "rich":
                return plain_rich_result(label)
            case "progress":
                for number in range(1, arguments["steps"] + 1):
                    await anyio.sleep(0.1)
                    await ctx.session.report_progress(number, arguments["steps"], f"step {number}")
                await anyio.sleep(0.1)
                return text_result(f"made {arguments['steps']} steps")
            case "never":
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.append("never")
            case "big":
                return text_result(big_text(arguments["n_bytes"]))
            case "protocol_error":
                raise MCPError(-32055, "the toy refuses", {"why": ["because", None], "retry": False})
            case "seen_cancellations":
                return text_result(json.dumps(cancelled), structuredContent={"seen": cancelled})
            case "counter":
                count = {"count": next(counted), "pid": os.getpid()}
                return text_result(json.dumps(count), structuredContent=count)
            case "add_tool":
                name = arguments["name"]
                tools.append({"name": name, "description": "Added at run time", "inputSchema": schema(text="string")})
                if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    await bus.publish(ToolsListChanged())
                else:
                    await ctx.session.send_tool_list_changed()
                return text_result(f"added {name}")
            case name if any(name == each["name"] for each in tools):
                body = json.dumps(arguments, sort_keys=True, ensure_ascii=False)
                return text_result(body, structuredContent={"arguments": arguments})
            case name:
                raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name}")

    async def get_prompt(ctx: Any, params: Any) -> Json:
        return dressed(ctx, greeting_prompt(params.arguments or {}))

    async def read(ctx: Any, params: Any) -> Json:
        found = read_resource(label, str(params.uri))
        if found is None:
            raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": str(params.uri)})
        return dressed(ctx, found, cacheable=True)

    async def complete(ctx: Any, params: Any) -> Json:
        return dressed(ctx, completion(params.argument.value))

    return Server(
        f"toy-{label}",
        version="1.0",
        instructions="A toy.",
        on_list_tools=page("tools", tools),
        on_call_tool=call_tool,
        on_list_prompts=page("prompts", PROMPTS),
        on_get_prompt=get_prompt,
        on_list_resources=page("resources", resources_of(label)),
        on_list_resource_templates=page("resourceTemplates", templates_of(label)),
        on_read_resource=read,
        on_completion=complete,
        on_subscriptions_listen=ListenHandler(bus),
    )


def run_modern(options: argparse.Namespace) -> None:
    """Serve the modern toy over stdio, or over HTTP on a loopback port that is announced on stderr."""
    import anyio
    from mcp.server.lowlevel import NotificationOptions
    from mcp.server.stdio import stdio_server

    server = modern_server(options.label)
    initialization = server.create_initialization_options(NotificationOptions(tools_changed=True))

    async def over_stdio() -> None:
        async with stdio_server() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, initialization)

    if options.http is None and options.sse is None:
        anyio.run(over_stdio)
        return

    import uvicorn

    if options.http is not None:
        port, app = options.http, server.streamable_http_app()
    else:
        port, app = options.sse, sse_app(server, initialization)
    with socket.create_server(("127.0.0.1", port)) as listener:
        print(f"listening on {listener.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def sse_app(server: Any, initialization: Any) -> Any:
    """An HTTP+SSE application (2024-11-05) around the server."""
    from mcp.server.sse import SseServerTransport
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Mount, Route

    transport = SseServerTransport("/messages/")

    async def connect(request: Any) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as (reader, writer):
            await server.run(reader, writer, initialization)
        return Response()

    return Starlette(routes=[Route("/sse", connect), Mount("/messages/", app=transport.handle_post_message)])


# --- start ---------------------------------------------------------------------------------------------------------

GRANDCHILD = """
import signal, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(3600)
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["raw", "modern"])
    parser.add_argument("--label", default="toy", help="names the server and the scheme of its resource URIs")
    parser.add_argument("--mark", help="ignored; lets a test find this process in the process table")
    parser.add_argument("--delay-start", type=float, default=0.0, metavar="S", help="do nothing for S seconds first")
    parser.add_argument("--wait-for", metavar="FILE", help="do nothing until FILE exists")
    parser.add_argument("--crash-on-start", action="store_true")
    parser.add_argument("--crash-unless", metavar="FILE", help="crash at start while FILE does not exist")
    parser.add_argument("--never-list", action="store_true", help="tools/list is never answered (raw)")
    parser.add_argument("--stderr-spam", type=int, default=0, metavar="LINES", help="fill stderr at start, then go on")
    parser.add_argument("--spawn-child", choices=["mild", "stubborn"], help="a grandchild; stubborn ignores SIGTERM")
    parser.add_argument("--ignore-stdin-eof", action="store_true", help="stay when stdin ends (raw)")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--http", type=int, metavar="PORT", help="Streamable HTTP at /mcp (modern); 0 picks a port")
    parser.add_argument("--sse", type=int, metavar="PORT", help="HTTP+SSE at /sse (modern); 0 picks a port")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run one toy until its client goes away."""
    options = parse(argv)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.spawn_child:
        subprocess.Popen(
            [sys.executable, "-c", GRANDCHILD, options.spawn_child, "--mark", str(options.mark)],
            stdin=subprocess.DEVNULL,
        )
    for line in range(options.stderr_spam):
        print(f"spam line {line}: " + "x" * 180, file=sys.stderr)
    time.sleep(options.delay_start)
    while options.wait_for and not os.path.exists(options.wait_for):
        time.sleep(0.05)
    if options.crash_on_start or (options.crash_unless and not os.path.exists(options.crash_unless)):
        print("the toy cannot start: no such luck", file=sys.stderr, flush=True)
        sys.exit(3)
    if options.kind == "raw":
        RawToy(options).run()
    else:
        run_modern(options)


if __name__ == "__main__":
    main(sys.argv[1:])
