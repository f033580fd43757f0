"""The reference server of the conformance comparison: the SDK's low-level server with every fixture of the suite.

    python tests/conformance/fixture_server.py             over stdio
    python tests/conformance/fixture_server.py --http 0    over Streamable HTTP on loopback; the port goes to stderr

Owns handlers and transports; what the fixtures are is in `fixtures`.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from fixtures import (
    PROMPTS,
    RESOURCES,
    TEMPLATES,
    TOOLS,
    Asked,
    Call,
    Json,
    completion,
    directory,
    fields,
    prompt,
    resource,
    skill,
    skills,
    text,
)
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

CHANGES = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
RETRY_MS = 100
"""When a client whose event stream was closed may come back."""


class Events(EventStore):
    """Events of handshake-era streams, kept for clients that come back."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        last = int(last_event_id) if last_event_id.isdigit() else 0
        if not 0 < last <= len(self._events):
            return None
        stream = self._events[last - 1][0]
        for number, (each, message) in enumerate(self._events, 1):
            if number > last and each == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Fixture:
    """The server's state: what its two triggers add and take away."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.extra_tools: list[Json] = []
        self.extra_prompts: list[Json] = []
        self._number = itertools.count(1)

    def tools(self) -> list[Json]:
        triggers = [
            {"name": "test_trigger_tool_change", "description": "Changes the list of tools.", "inputSchema": fields()},
            {"name": "test_trigger_prompt_change", "description": "Changes the prompts.", "inputSchema": fields()},
        ]
        return [*(listed for listed, _ in TOOLS.values()), *triggers, *self.extra_tools]

    async def call(self, name: str, call: Call) -> Json:
        """The answer of `tools/call`."""
        match name:
            case "test_trigger_tool_change":
                extra = {"name": f"changed_{next(self._number)}", "description": "New.", "inputSchema": fields()}
                self.extra_tools[:] = [extra]
                if call.modern:
                    await self.bus.publish(ToolsListChanged())
                else:
                    await call.ctx.session.send_tool_list_changed()
                return text("Tools changed")
            case "test_trigger_prompt_change":
                self.extra_prompts[:] = [{"name": f"changed_{next(self._number)}", "description": "New."}]
                if call.modern:
                    await self.bus.publish(PromptsListChanged())
                else:
                    await call.ctx.session.send_prompt_list_changed()
                return text("Prompts changed")
            case _ if name in TOOLS:
                return await TOOLS[name][1](call)
            case _:
                raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}")


def build() -> Server[Any]:
    """The server, with all its handlers."""
    fixture = Fixture()

    def handler(answer: Callable[[Any, Any], Awaitable[Json]]) -> Callable[[Any, Any], Awaitable[Json]]:
        async def handle(ctx: Any, params: Any) -> Json:
            try:
                result = await answer(ctx, params)
            except Asked as asked:
                return asked.result
            return {**result, "resultType": "complete"} if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else result

        return handle

    def listing(key: str, items: Callable[[], list[Json]]) -> Callable[[Any, Any], Awaitable[Json]]:
        async def answer(_ctx: Any, _params: Any) -> Json:
            return {key: items()}

        return handler(answer)

    async def call_tool(ctx: Any, params: Any) -> Json:
        return await fixture.call(params.name, Call(ctx, params.arguments or {}))

    async def get_prompt(ctx: Any, params: Any) -> Json:
        return await prompt(params.name, Call(ctx, params.arguments or {}))

    async def read(ctx: Any, params: Any) -> Json:
        return resource(str(params.uri), modern=ctx.protocol_version in MODERN_PROTOCOL_VERSIONS)

    async def complete(_ctx: Any, params: Any) -> Json:
        return completion(params)

    async def nothing(_ctx: Any, _params: Any) -> types.EmptyResult:
        return types.EmptyResult()

    server: Server[Any] = Server(
        "conformance-fixture",
        version="1.0",
        cache_hints={
            "tools/list": CacheHint(ttl_ms=300_000, scope="public"),
            "prompts/list": CacheHint(ttl_ms=300_000, scope="public"),
            "resources/list": CacheHint(ttl_ms=300_000, scope="public"),
            "resources/templates/list": CacheHint(ttl_ms=300_000, scope="public"),
            "resources/read": CacheHint(ttl_ms=60_000, scope="private"),
        },
        on_list_tools=listing("tools", fixture.tools),
        on_call_tool=handler(call_tool),
        on_list_prompts=listing("prompts", lambda: [*PROMPTS, *fixture.extra_prompts]),
        on_get_prompt=handler(get_prompt),
        on_list_resources=listing("resources", lambda: RESOURCES),
        on_list_resource_templates=listing("resourceTemplates", lambda: TEMPLATES),
        on_read_resource=handler(read),
        on_completion=handler(complete),
        on_subscribe_resource=nothing,
        on_unsubscribe_resource=nothing,
        on_set_logging_level=nothing,
        on_subscriptions_listen=ListenHandler(fixture.bus),
    )
    server.extensions["io.modelcontextprotocol/skills"] = {"directoryRead": True}

    async def list_skills(_ctx: Any, _params: Any) -> Json:
        return {"skills": skills(), "ttlMs": 60_000, "cacheScope": "public"}

    async def get_skill(_ctx: Any, params: Any) -> Json:
        return {"skill": skill(params.uri), "ttlMs": 60_000, "cacheScope": "public"}

    async def read_directory(_ctx: Any, params: Any) -> Json:
        return {"resources": directory(params.uri)}

    server.add_request_handler("skills/list", types.PaginatedRequestParams, handler(list_skills))
    server.add_request_handler("skills/get", types.ReadResourceRequestParams, handler(get_skill))
    server.add_request_handler("resources/directory/read", types.ReadResourceRequestParams, handler(read_directory))
    return server


def main() -> None:
    """Serve until the client, or a signal, ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", type=int, metavar="PORT", help="serve over Streamable HTTP; 0 takes any free port")
    options = parser.parse_args()
    # The suite tests what 2026-07-28 has deprecated, too.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    server = build()

    async def over_stdio() -> None:
        async with stdio_server() as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options(CHANGES))

    if options.http is None:
        anyio.run(over_stdio)
        return

    import uvicorn

    app = server.streamable_http_app(event_store=Events(), retry_interval=RETRY_MS)
    with socket.create_server(("127.0.0.1", options.http)) as listener:
        print(f"listening on {listener.getsockname()[1]}", file=sys.stderr, flush=True)
        # httptools, which the tests install for other reasons, keeps white space around the values of headers.
        config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
