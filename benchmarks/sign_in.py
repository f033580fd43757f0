"""Cost of credentials: a token of a sign-in against a static header, and a bridge's own check of a JWT against a token
of the environment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx2
import jwt
import mcp_types as types
from cryptography.hazmat.primitives.asymmetric import rsa
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant
from benchmarks.harness import (
    Contender,
    Json,
    Options,
    Peer,
    Workshop,
    cpu_seconds,
    free_port,
    http_process,
    race,
    ratio,
    server_command,
    stdio,
    workshop,
)
from benchmarks.overhead import against, calling
from benchmarks.report import Figure, Section, Spread, at_most

HOUR_S: Final = 3600


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("sign_in", "Cost of credentials")
    with workshop() as shop:
        options.say("tokens of a sign-in")
        section.figures += await wrapped(shop, options)
        options.say("tokens of clients")
        section.figures += await clients(shop, options)
    section.notes.append(
        "The server behind is the same in all rows, and takes any credentials: what is measured is the bridge. The "
        "tokens are valid for an hour, so none is renewed."
    )
    return section


# --- tokens that the bridge sends ----------------------------------------------------------------------------------


def signed_in(shop: Workshop, server: str, url: str) -> Mapping[str, str]:
    """Return the environment of a bridge whose store has a token of this server."""
    state = shop.path("state")
    now = time.time()
    grant = Grant(
        issuer="https://auth.example",
        token_endpoint="https://auth.example/token",
        resource=url,
        client_id="client",
        access_token="x" * 800,
        refresh_token="r" * 40,
        obtained_at=now,
        expires_at=now + HOUR_S,
    )
    FileStore(state / "oauth").save_grant(server, url, grant)
    return shop.env() | {"ASYNCFC_STATE_DIR": str(state)}


async def wrapped(shop: Workshop, options: Options) -> list[Figure]:
    """One call at a time to a server over Streamable HTTP, which one bridge has three times: two processes of the same
    program differ by more than what is measured."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    static = {"Authorization": f"Bearer {'x' * 800}"}
    entries: dict[str, Json] = {
        "header": {"url": url, "headers": static},
        "token": {"url": url},
        "nothing": {"url": url, "oauth": False},
    }
    servers = {name: entry | {"asyncfc": {"mode": "sync"}} for name, entry in entries.items()}
    calls = options.scaled(60, 20)
    with http_process(server_command("echo", "--http", str(port)), port):
        async with AsyncExitStack() as stack:
            env = signed_in(shop, "token", url)
            peer = await stack.enter_async_context(stdio(shop.bridge(servers), env))
            actions = {name: calling(peer, f"{name}__echo") for name in entries}
            contenders = {name: Contender(action, calls) for name, action in actions.items()}
            await race(contenders, options.rounds)
            spent = await cpu_of({name: (peer, action) for name, action in actions.items()}, options)
    token, header, nothing = (contenders[name] for name in ("token", "header", "nothing"))
    return [
        Figure(
            "token",
            "call with a token of a sign-in, against a static header, p50",
            ratio(token.medians, header.medians),
            at_most(1.05),
            against(token, header),
        ),
        cpu_row("cpu_token", "… the bridge's own CPU", spent["token"], spent["header"]),
        Figure(
            "",
            "… without credentials, against a static header",
            ratio(nothing.medians, header.medians),
            None,
            against(nothing, header),
        ),
    ]


# --- tokens that the bridge checks ---------------------------------------------------------------------------------


@contextmanager
def issuer() -> Iterator[tuple[str, rsa.RSAPrivateKey]]:
    """Run an authorization server that publishes its metadata and one key, and does nothing else."""
    key = rsa.generate_private_key(65537, 2048)
    jwk: Json = {
        **json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())),
        "kid": "1",
        "use": "sig",
        "alg": "RS256",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = f"http://127.0.0.1:{server.server_port}"
            metadata = {"issuer": name, "jwks_uri": f"{name}/jwks"}
            body = json.dumps({"keys": [jwk]} if self.path == "/jwks" else metadata).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", key
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def authorized(url: str, pid: int, token: str) -> AsyncGenerator[Peer]:
    """The SDK's client on a bridge that wants a token."""
    info = types.Implementation(name="benchmark", version="1")
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), client_info=info) as client,
    ):
        await client.list_tools()
        yield Peer(client, pid)


async def clients(shop: Workshop, options: Options) -> list[Figure]:
    """One call at a time over Streamable HTTP to a bridge that takes both kinds of tokens."""
    calls = options.scaled(60, 20)
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    with issuer() as (name, key):
        now = int(time.time())
        claims: Json = {"iss": name, "aud": url, "sub": "alice", "iat": now, "exp": now + HOUR_S}
        signed = jwt.encode(claims, key, "RS256", headers={"kid": "1", "typ": "at+jwt"})
        tokens = {"fixed": "x" * len(signed), "jwt": signed}
        command = shop.bridge({"s": shop.entry(server_command("echo"), mode="sync")})
        command += ["--transport", "http", "--port", str(port), "--auth-jwt", name, "--auth-token-env", "BENCH_TOKEN"]
        env = shop.env() | {"BENCH_TOKEN": tokens["fixed"], "ASYNCFC_STATE_DIR": str(shop.path("state"))}
        async with AsyncExitStack() as stack:
            process = stack.enter_context(http_process(command, port, env))
            peers = {
                kind: await stack.enter_async_context(authorized(url, process.pid, token))
                for kind, token in tokens.items()
            }
            contenders = {kind: Contender(calling(peer), calls) for kind, peer in peers.items()}
            await race(contenders, options.rounds)
            spent = await cpu_of({kind: (peer, calling(peer)) for kind, peer in peers.items()}, options)
    checked, fixed = contenders["jwt"], contenders["fixed"]
    return [
        Figure(
            "jwt",
            "call with a JWT that the bridge checks, against a fixed token, p50",
            ratio(checked.medians, fixed.medians),
            at_most(1.05),
            against(checked, fixed),
        ),
        cpu_row("cpu_jwt", "… the bridge's own CPU", spent["jwt"], spent["fixed"]),
    ]


async def cpu_of(actions: Mapping[str, tuple[Peer, Any]], options: Options) -> dict[str, list[float]]:
    """CPU time of a bridge for one call of each kind, in seconds, by round."""
    calls = options.scaled(200, 50)
    spent: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions.items())
    for _ in range(max(3, options.rounds // 2)):
        for name, (peer, action) in order:
            await action()
            before = cpu_seconds(peer.pid)
            for _ in range(calls):
                await action()
            spent[name].append((cpu_seconds(peer.pid) - before) / calls)
        order.append(order.pop(0))
    return spent


def cpu_row(key: str, what: str, values: Sequence[float], base: Sequence[float]) -> Figure:
    """A row of CPU time."""
    here, there = (Spread.of(each).median * 1e3 for each in (values, base))
    return Figure(key, what, ratio(values, base), None, f"{here:.2f} ms / {there:.2f} ms of CPU")
