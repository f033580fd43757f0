"""An MCP server of the official SDK that lists and does something else for each credential, as a process.

    python tests/support/credentials_server.py LOG [--stateful]

Prints its URL once it listens. The credential is the `X-Api-Key` header of each HTTP request, `Bearer NAME-…` or
`NAME-…` for an account NAME; without one, or where the file LOG.refused names it, it answers 401. LOG gets a JSON
object a line for each request: account, SHA-256 of the whole header, HTTP method, session, method, tool and argument
`tag`. Neither results nor LOG contain a credential.

Tools: `whoami` (account and tag), `of_NAME` (listed for that account only), `slow` (ends when the file LOG.go exists),
`leak` (an error that quotes the header), `forbidden` (HTTP 403 that quotes it), `grow` (lists a further tool for the
account, and says so). Resource: `account://profile`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 30.0
HEADER = b"x-api-key"
Json = dict[str, Any]


class CredentialsServer:
    """A running server, as a test sees it."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    def seen(self, method: str | None = None) -> list[Json]:
        """The requests so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [each for each in map(json.loads, lines) if method in (None, each["method"])]

    def refuse(self, *credentials: str) -> None:
        """Answer 401 to these from now on."""
        self._log.with_suffix(".refused").write_text("\n".join(map(digest_of, credentials)))

    def let_go(self) -> None:
        """End the calls of `slow`."""
        self._log.with_suffix(".go").touch()


def digest_of(credential: str) -> str:
    """What is kept of a header."""
    return hashlib.sha256(credential.encode()).hexdigest()


@contextmanager
def credentials_server(log: Path, *options: str) -> Iterator[CredentialsServer]:
    """Run a server."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(log), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url, "the server did not start"
        yield CredentialsServer(url, log)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


# -- the process ------------------------------------------------------------------------------------------------------


def account_of(credential: str) -> str:
    """The account that a credential is of."""
    return credential.removeprefix("Bearer ").partition("-")[0]


class Recorded:
    """Records requests, and refuses those without a good credential."""

    def __init__(self, app: ASGIApp, log: Path) -> None:
        self.app, self.log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        value = headers.get(HEADER, b"").decode()
        body = await _body(receive) if scope["method"] == "POST" else b""
        message = json.loads(body) if body.startswith(b"{") else {}
        params = message.get("params") or {}
        line = {
            "account": account_of(value),
            "digest": digest_of(value),
            "http": scope["method"],
            "session": headers.get(b"mcp-session-id", b"").decode(),
            "method": message.get("method"),
            "tool": params.get("name"),
            "tag": (params.get("arguments") or {}).get("tag"),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        refused = self.log.with_suffix(".refused")
        if not value or (refused.exists() and digest_of(value) in refused.read_text()):
            await _answer(send, 401, f"bad credential {value}")
        elif params.get("name") == "forbidden":
            await _answer(send, 403, f"{value} may not")
        else:
            await self.app(scope, _again(body, receive) if scope["method"] == "POST" else receive, send)


def _again(body: bytes, receive: Receive) -> Receive:
    unread = [body]

    async def again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return again


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


def main() -> None:
    """Serve until the process is ended."""
    import anyio
    import mcp_types as types
    import uvicorn
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError

    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--stateful", action="store_true")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    grown: set[str] = set()

    def account(ctx: Any) -> str:
        return account_of(ctx.request.headers[HEADER.decode()])

    def tool(name: str, whose: str) -> types.Tool:
        schema = {"type": "object", "properties": {"tag": {"type": "string"}}}
        hints = types.ToolAnnotations(read_only_hint=name in ("whoami", "slow"))
        return types.Tool(name=name, description=f"for {whose}", input_schema=schema, annotations=hints)

    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        names = ["whoami", "slow", "leak", "forbidden", "grow", f"of_{account(ctx)}"]
        names += [f"grown_{account(ctx)}"] if account(ctx) in grown else []
        return types.ListToolsResult(tools=[tool(name, account(ctx)) for name in names])

    async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
        tag = (params.arguments or {}).get("tag", "")
        match params.name:
            case "slow":
                while not await anyio.Path(options.log.with_suffix(".go")).exists():  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            case "leak":
                raise MCPError(-32055, f"cannot use {ctx.request.headers[HEADER.decode()]}")
            case "grow":
                grown.add(account(ctx))
                await ctx.session.send_tool_list_changed()
            case _:
                pass
        return types.CallToolResult(content=[types.TextContent(type="text", text=f"{account(ctx)} {tag}")])

    async def list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(uri="account://profile", name=f"of {account(ctx)}")])

    async def read_resource(ctx: Any, params: Any) -> types.ReadResourceResult:
        text = types.TextResourceContents(uri=params.uri, text=account(ctx))
        return types.ReadResourceResult(contents=[text])

    server: Any = Server(
        "credentials",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )
    app = Recorded(server.streamable_http_app(stateless_http=not options.stateful), options.log)

    async def run() -> None:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        await uvicorn.Server(config).serve([listener])

    anyio.run(run)


if __name__ == "__main__":
    main()
