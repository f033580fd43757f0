"""An MCP server of the official SDK that an authorization server protects, as a process.

    python tests/support/protected_server.py ISSUER [--scope mcp] [--admin-scope mcp:admin] [--static TOKEN] [--sse]

Prints {url, control} once it listens. Tokens are JWTs, checked against the issuer's keys, this server's URL as their
audience, and the scope; `--static` accepts one more token that is none. A call of `admin` needs a further scope, and is
refused with 403 until the token has it. `meet` answers once so many calls of it are in at the same time, which proves
that calls are not made one after the other.

GET /control/state: what requests were counted; POST /control/reset; POST /control/refuse: refuse all tokens that came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 30.0
Json = dict[str, Any]


@dataclass(frozen=True)
class ProtectedServer:
    """A running protected server, as a test sees it."""

    url: str
    control: str

    def state(self) -> Json:
        """`methods` (by method, and `tools/call NAME`), `statuses`, `tokens` (how many different ones), `most_at_once`
        (calls), `subjects`."""
        with urllib.request.urlopen(f"{self.control}/state", timeout=PATIENCE) as response:
            return json.loads(response.read())

    def calls(self, tool: str) -> int:
        """How many calls of a tool reached the server with a valid token."""
        return self.state()["methods"].get(f"tools/call {tool}", 0)

    def reset(self) -> None:
        """Count from zero."""
        self._post("reset")

    def refuse_known_tokens(self) -> None:
        """Refuse every token that has come so far, as if it had been revoked."""
        self._post("refuse")

    def _post(self, verb: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(f"{self.control}/{verb}", b""), timeout=PATIENCE):
            pass


@contextmanager
def protected_server(issuer: str, *options: str) -> Iterator[ProtectedServer]:
    """Run a protected server."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), issuer, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the protected server did not start"
        yield ProtectedServer(**json.loads(line))
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


# -- the process ------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What requests were seen."""

    methods: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[str] = field(default_factory=Counter[str])
    tokens: set[str] = field(default_factory=set[str])
    refused: set[str] = field(default_factory=set[str])
    subjects: set[str] = field(default_factory=set[str])
    at_once: int = 0
    most_at_once: int = 0

    def reset(self) -> None:
        self.methods.clear()
        self.statuses.clear()
        self.tokens.clear()
        self.subjects.clear()
        self.most_at_once = self.at_once

    def to_json(self) -> Json:
        return {
            "methods": dict(self.methods),
            "statuses": dict(self.statuses),
            "tokens": len(self.tokens),
            "subjects": sorted(self.subjects),
            "most_at_once": self.most_at_once,
        }


class Watched:
    """Counts requests, and refuses calls of `admin` that lack its scope: the SDK checks scopes by endpoint only."""

    def __init__(self, app: ASGIApp, counts: Counts, verifier: Any, admin_scope: str, metadata_url: str) -> None:
        self.app, self.counts, self.verifier = app, counts, verifier
        self.admin_scope, self.metadata_url = admin_scope, metadata_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("/control/"):
            if scope["path"] == "/control/reset":
                self.counts.reset()
            elif scope["path"] == "/control/refuse":
                self.counts.refused |= self.counts.tokens
            await _answer(send, 200, self.counts.to_json())
            return
        body = await _body(receive) if scope["method"] == "POST" else b""
        token = dict(scope["headers"]).get(b"authorization", b"").decode().partition(" ")[2]
        message = json.loads(body) if body.startswith(b"{") else {}
        name = str(message.get("method", f"{scope['method']} {scope['path']}"))
        if name == "tools/call":
            name += f" {message['params']['name']}"
        access = await self.verifier.verify_token(token) if token else None
        self.counts.methods[name if access else f"unauthorized {name}"] += 1
        if access is not None:
            self.counts.tokens.add(digest_of(token))
            self.counts.subjects.add(str(access.subject))
        if access is not None and name == "tools/call admin" and self.admin_scope not in access.scopes:
            self.counts.statuses["403"] += 1
            challenge = (
                f'Bearer error="insufficient_scope", scope="{self.admin_scope}", '
                f'resource_metadata="{self.metadata_url}"'
            )
            await _answer(send, 403, {"error": "insufficient_scope"}, challenge)
            return
        unread = [body]

        async def again() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counts.statuses[str(message["status"])] += 1
            await send(message)

        is_call = access is not None and name.startswith("tools/call")
        self.counts.at_once += is_call
        self.counts.most_at_once = max(self.counts.most_at_once, self.counts.at_once)
        try:
            await self.app(scope, again if scope["method"] == "POST" else receive, counted)
        finally:
            self.counts.at_once -= is_call


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, status: int, body: Json, challenge: str | None = None) -> None:
    headers = [(b"content-type", b"application/json")]
    if challenge is not None:
        headers.append((b"www-authenticate", challenge.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def main() -> None:
    """Serve until the process is ended."""
    import anyio
    import jwt
    import uvicorn
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.mcpserver import MCPServer

    parser = argparse.ArgumentParser()
    parser.add_argument("issuer")
    parser.add_argument("--scope", default="mcp")
    parser.add_argument("--admin-scope", default="mcp:admin")
    parser.add_argument("--static")
    parser.add_argument("--sse", action="store_true", help="serve HTTP+SSE in place of Streamable HTTP")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    path = "sse" if options.sse else "mcp"
    url = f"{base}/{path}"

    class Verifier:
        """Checks JWTs of the issuer for this server."""

        def __init__(self, counts: Counts) -> None:
            self.counts = counts
            self.keys = jwt.PyJWKClient(f"{options.issuer}/jwks")

        def check(self, token: str) -> AccessToken | None:
            if digest_of(token) in self.counts.refused:
                return None
            if options.static and token == options.static:
                return AccessToken(token=token, client_id="static", scopes=[options.scope], subject="static")
            try:
                key = self.keys.get_signing_key_from_jwt(token)
                # The authorization server's clock may be shifted: it decides how long its tokens live, and `exp` is
                # checked without tolerance.
                claims = jwt.decode(
                    token, key, algorithms=["RS256"], audience=url, issuer=options.issuer, options={"verify_iat": False}
                )
            except jwt.PyJWTError:
                return None
            return AccessToken(
                token=token,
                client_id=claims["client_id"],
                scopes=claims.get("scope", "").split(),
                subject=claims.get("sub"),
                resource=url,
            )

        async def verify_token(self, token: str) -> AccessToken | None:
            return await anyio.to_thread.run_sync(self.check, token)

    counts = Counts()
    verifier = Verifier(counts)
    server = MCPServer(
        "protected",
        token_verifier=verifier,
        # Not through AnyHttpUrl, which adds a slash to the issuer; identifiers are compared as texts.
        auth=AuthSettings.model_validate(
            {
                "issuer_url": options.issuer,
                "resource_server_url": url,
                "required_scopes": [options.scope],
                "validate_token_resource": True,
            }
        ),
        log_level="WARNING",
    )
    waiting: dict[str, tuple[list[None], anyio.Event]] = {}

    @server.tool(annotations={"readOnlyHint": True})
    async def echo(text: str) -> str:
        """Return the text."""
        return text

    @server.tool(annotations={"readOnlyHint": True})
    async def meet(count: int, tag: str, n: int) -> str:
        """Return once `count` calls with the same tag have come."""
        came, all_here = waiting.setdefault(tag, ([], anyio.Event()))
        came.append(None)
        if len(came) >= count:
            all_here.set()
        with anyio.fail_after(PATIENCE):
            await all_here.wait()
        return f"met {n}"

    @server.tool(annotations={"readOnlyHint": True})
    async def slow(seconds: float) -> str:
        """Return after so many seconds."""
        await anyio.sleep(seconds)
        return f"slept {seconds:g}"

    @server.tool(annotations={"readOnlyHint": True})
    async def admin(text: str) -> str:
        """Return the text to those who may have it."""
        return f"admin {text}"

    app = Watched(
        server.sse_app() if options.sse else server.streamable_http_app(),
        counts,
        verifier,
        options.admin_scope,
        f"{base}/.well-known/oauth-protected-resource/{path}",
    )

    async def run() -> None:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        print(json.dumps({"url": url, "control": f"{base}/control"}), flush=True)
        await uvicorn.Server(config).serve([listener])

    anyio.run(run)


if __name__ == "__main__":
    main()
