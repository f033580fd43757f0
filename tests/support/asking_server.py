"""A toy server that asks its client while a call runs, in either protocol era.

Its tool `ask` puts questions in rounds, as many at once as a round has, and returns what it was answered as JSON text.
On 2026-07-28 it answers `tools/call` itself with an `InputRequiredResult`; before, it sends requests. With `--log` it
writes what happens to it into a file, a JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata, SessionMessage

Context = ServerRequestContext[Any, Any]
FORM = {"type": "object", "properties": {"name": {"type": "string"}}}


def question(kind: str, text: str) -> types.ServerRequest:
    """The request that asks this."""
    match kind:
        case "form":
            return types.ElicitRequest(params=types.ElicitRequestFormParams(message=text, requested_schema=FORM))
        case "url":
            url = f"https://example.com/{text}"
            params = types.ElicitRequestURLParams(message=text, url=url, elicitation_id=text)
            return types.ElicitRequest(params=params)
        case "sampling":
            message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))
            return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=5))
        case "roots":
            return types.ListRootsRequest()
        case _:
            raise ValueError(kind)


RESULTS: dict[type[Any], type[Any]] = {
    types.ElicitRequest: types.ElicitResult,
    types.CreateMessageRequest: types.CreateMessageResult,
    types.ListRootsRequest: types.ListRootsResult,
}


def told(answer: Any) -> Any:
    """An answer in a form that is the same in both eras."""
    raw = answer if isinstance(answer, dict) else answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {key: value for key, value in raw.items() if key not in ("_meta", "resultType")}


class Asking:
    """The tools.

    Args:
        log: where to write what happens; None for nowhere.
    """

    def __init__(self, log: Path | None) -> None:
        self._log = log

    def note(self, what: str, **more: Any) -> None:
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps({"what": what, **more}) + "\n")

    async def list_tools(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        schema: dict[str, Any] = {"type": "object"}
        return types.ListToolsResult(
            tools=[types.Tool(name=name, input_schema=schema) for name in ("ask", "hold")],
        )

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        arguments = params.arguments or {}
        label = str(arguments.get("label", ""))
        capabilities = ctx.session.client_capabilities
        offered = capabilities.model_dump(by_alias=True, mode="json", exclude_none=True) if capabilities else {}
        self.note("call", tool=params.name, label=label, offered=offered)
        try:
            if (gate := arguments.get("until")) is not None:
                while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - another process opens the gate
                    await anyio.sleep(0.02)
            if params.name == "hold":
                return self._said(label, [])
            rounds = [[(kind, text) for kind, text in each] for each in arguments["rounds"]]
            if ctx.protocol_version >= "2026":
                return self._modern(label, rounds, params)
            answers = [await self._live(ctx, each) for each in rounds]
        except MCPError as exc:
            self.note("refused", label=label, code=exc.code, message=exc.error.message)
            text = f"refused: {exc.code} {exc.error.message}"
            return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
        except anyio.get_cancelled_exc_class():
            self.note("cancelled", label=label)
            raise
        return self._said(label, answers)

    def _said(self, label: str, answers: list[Any]) -> types.CallToolResult:
        self.note("done", label=label)
        text = json.dumps({"label": label, "answers": answers})
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    async def _live(self, ctx: Context, asked: list[tuple[str, str]]) -> list[Any]:
        """One round, as requests to the client."""
        answers: list[Any] = [None] * len(asked)

        async def ask(place: int, request: types.ServerRequest) -> None:
            related = ServerMessageMetadata(related_request_id=ctx.request_id)
            answers[place] = told(await ctx.session.send_request(request, RESULTS[type(request)], metadata=related))

        try:
            async with anyio.create_task_group() as tg:
                for place, (kind, text) in enumerate(asked):
                    tg.start_soon(ask, place, question(kind, text))
        except* MCPError as group:
            raise group.exceptions[0] from None
        return answers

    def _modern(
        self, label: str, rounds: list[list[tuple[str, str]]], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """What has been answered so far travels in the state."""
        answers: list[Any] = json.loads(params.request_state) if params.request_state else []
        if params.input_responses is not None:
            given = params.input_responses
            answers.append([told(given[str(place)]) for place in range(len(rounds[len(answers)]))])
        if len(answers) == len(rounds):
            return self._said(label, answers)
        asked = {str(place): question(kind, text) for place, (kind, text) in enumerate(rounds[len(answers)])}
        return types.InputRequiredResult(input_requests=asked, request_state=json.dumps(answers))


async def serve(server: Server[Any], *, handshake_only: bool) -> None:
    async with stdio_server() as (read, write), anyio.create_task_group() as tg:
        if handshake_only:
            arriving, filtered = anyio.create_memory_object_stream[SessionMessage | Exception](16)

            async def refuse_discovery() -> None:
                async with arriving:
                    async for item in read:
                        message = item.message if isinstance(item, SessionMessage) else None
                        if isinstance(message, types.JSONRPCRequest) and message.method == "server/discover":
                            error = types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found")
                            answer = types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)
                            await write.send(SessionMessage(answer))
                        else:
                            await arriving.send(item)

            tg.start_soon(refuse_discovery)
            await server.run(filtered, write, server.create_initialization_options())
        else:
            await server.run(read, write, server.create_initialization_options())
        tg.cancel_scope.cancel()


def serve_http(server: Server[Any], *, handshake_only: bool) -> None:
    """Over Streamable HTTP at /mcp, on a loopback port that is announced on stderr."""
    import uvicorn
    from starlette.responses import PlainTextResponse

    app = server.streamable_http_app()

    async def without_discovery(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"mcp-method", b"server/discover") in scope["headers"]:
            await PlainTextResponse("Bad Request: unsupported protocol version", 400)(scope, receive, send)
        else:
            await app(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening on {listener.getsockname()[1]}", file=sys.stderr, flush=True)
        chosen: Any = without_discovery if handshake_only else app
        config = uvicorn.Config(chosen, http="h11", log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--handshake-only", action="store_true", help="answer server/discover with -32601")
    parser.add_argument("--http", action="store_true", help="over Streamable HTTP instead of stdio")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--mark", help="seen by nobody but who looks for this process")
    options = parser.parse_args()
    asking = Asking(options.log)
    server: Server[Any] = Server("asking", on_list_tools=asking.list_tools, on_call_tool=asking.call_tool)
    if options.http:
        serve_http(server, handshake_only=options.handshake_only)
    else:
        anyio.run(lambda: serve(server, handshake_only=options.handshake_only))


if __name__ == "__main__":
    main()
