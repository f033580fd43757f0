"""The endpoint with several principals: refusals that clients can act on, scopes, metadata, what ends with a token."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.auth.authenticator import MAX_TOKEN_BYTES
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.auth.configured import SHARED_TOKEN
from asyncfc_mcp.transports.http.auth.jwt_checks import LEEWAY_S
from asyncfc_mcp.transports.http.auth.jwt_tokens import JwtAuthenticator
from asyncfc_mcp.transports.http.auth.resource import ProtectedResource
from asyncfc_mcp.transports.http.auth.several import AnyOf
from asyncfc_mcp.transports.http.auth.signing_keys import SigningKeys
from asyncfc_mcp.transports.http.auth.token_file import TokenFile, new_token
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import App, Exchange, Http, Json, alive
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.token_issuer import AUDIENCE, TokenIssuer
from tests.support.virtual_time import on_virtual_time, settle

ERAS = ("2025-11-25", "2026-07-28")
SCOPES = {"*": ("mcp",), "tools/call": ("mcp:call",), "tools/list": ("mcp:list",)}
METADATA = "https://bridge.example/.well-known/oauth-protected-resource/mcp"


def now() -> float:
    return 1e9 + anyio.current_time()


@dataclass
class Lab:
    app: App
    issuer: TokenIssuer
    toy: Toy
    tg: anyio.abc.TaskGroup
    file: TokenFile
    path: Path
    alice: str
    upstream: Upstream
    sessions: dict[str, str] = field(default_factory=dict[str, str])

    def post(self, era: str, token: str | None, method: str, params: Json | None = None, **more: Any) -> Exchange:
        params = dict(params or {})
        headers: dict[str, str | None] = {"host": "bridge.example", "mcp-protocol-version": era}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        if era == ERAS[1]:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": era,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            }
            headers["mcp-method"] = method
            if (name := params.get("name")) is not None:
                headers["mcp-name"] = name
        elif token in self.sessions:
            headers["mcp-session-id"] = self.sessions[token or ""]
        body: Json = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return Exchange(self.app, Http(body, headers={**headers, **more}))

    async def open(self, token: str) -> Exchange:
        params = {"protocolVersion": ERAS[0], "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        opened = await self.post(ERAS[0], token, "initialize", params).run()
        if opened.status == 200:
            self.sessions[token] = opened.headers["mcp-session-id"]
        return opened

    def get(self, token: str) -> Exchange:
        """A stream of a session."""
        headers = {
            "host": "bridge.example",
            "authorization": f"Bearer {token}",
            "mcp-session-id": self.sessions[token],
            "accept": "text/event-stream",
        }
        return Exchange(self.app, Http(b"", headers=headers, method="GET"))


@asynccontextmanager
async def lab(tmp_path: Path, **settings: Any) -> AsyncGenerator[Lab]:
    toy = Toy()
    issuer = TokenIssuer(clock=now)
    alice, line = new_token("alice")
    path = tmp_path / "tokens.toml"
    path.write_text(line + "\n")
    path.chmod(0o600)
    file = TokenFile(path)
    keys = SigningKeys(issuer.url, issuer.fetch)
    of_server = JwtAuthenticator(issuer.url, [AUDIENCE], keys, clock=now)
    authenticator = AnyOf([Principals({"all": SHARED_TOKEN}), file, of_server])
    resource = ProtectedResource(AUDIENCE, ["/mcp"], issuer=issuer.url, scopes={"mcp", "mcp:call"})
    async with bridge_over(toy, policy={"grace_ms": 0}, **settings) as bridge, anyio.create_task_group() as tg:
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        await tg.start(authenticator.run)
        app, front = routes.http_app(
            upstream,
            host="127.0.0.1",
            principals=authenticator,
            streamable=True,
            sse=False,
            public_url=AUDIENCE,
            resource=resource,
        )
        assert front is not None
        front._entrance._clock = now
        async with alive(app):
            yield Lab(app, issuer, toy, tg, file, path, alice, upstream)
            tg.cancel_scope.cancel()


def challenge_of(exchange: Exchange) -> dict[str, str]:
    header = exchange.headers["www-authenticate"]
    assert header.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', header))


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_refusal_says_how_to_sign_in(tmp_path: Path, era: str):
    """401 with the metadata and the scopes; with a token, that it is not accepted and why."""
    async with lab(tmp_path, required_scopes=SCOPES) as it:
        without = await it.post(era, None, "tools/list").run()
        assert without.status == 401
        assert challenge_of(without) == {"realm": "asyncfc-mcp", "scope": "mcp", "resource_metadata": METADATA}
        tokens = {
            "x": "not one of this bridge",
            it.issuer.token(exp=now() - 100): "expired",
            it.issuer.token(aud="https://other.example"): "another audience",
            "x" * (MAX_TOKEN_BYTES + 1): "too long",
        }
        for token, why in tokens.items():
            refused = await it.post(era, token, "tools/list").run()
            assert refused.status == 401
            said = challenge_of(refused)
            assert said["error"] == "invalid_token"
            assert why in said["error_description"]
            assert said["resource_metadata"] == METADATA
        for header in ("Basic YWxsOg==", "Bearer", "Bearer a b", "all", "Bearer  "):
            refused = await it.post(era, None, "tools/list", authorization=header).run()
            assert refused.status == 401
            assert "error" not in challenge_of(refused)
        assert not it.toy.got


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_server_that_is_down_is_no_refusal(tmp_path: Path, era: str):
    """503 with words, and the token is kept; persons of the file get in."""
    async with lab(tmp_path) as it:
        await settle()
        it.issuer.down = True
        refused = await it.post(era, it.issuer.token(headers={"kid": "new"}), "tools/list").run()
        assert refused.status == 401  # unknown, and the keys are fresh
        await anyio.sleep(700)
        refused = await it.post(era, it.issuer.token(headers={"kid": "new"}), "tools/list").run()
        assert refused.status == 503
        assert "cannot be checked" in refused.body.decode()
        assert int(refused.headers["retry-after"]) > 0
        assert "www-authenticate" not in refused.headers
        assert (await it.open(it.alice)).status == 200


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_methods_need_their_scopes(tmp_path: Path, era: str):
    """403 with the scopes of the method; a call with them is made, and one of a token without scopes as well."""
    async with lab(tmp_path, required_scopes=SCOPES) as it:
        little, enough = it.issuer.token(scope="mcp mcp:list"), it.issuer.token(scope="mcp mcp:call", sub="b")
        if era == ERAS[0]:
            nothing = await it.open(it.issuer.token(scope="other"))
            assert nothing.status == 403
            for token in (little, enough, it.alice, "all"):
                assert (await it.open(token)).status == 200
        call = {"name": "echo", "arguments": {"text": "x"}}
        refused = await it.post(era, little, "tools/call", call).run()
        assert refused.status == 403
        said = challenge_of(refused)
        assert said["error"] == "insufficient_scope"
        assert said["scope"] == "mcp mcp:call"
        assert said["resource_metadata"] == METADATA
        assert refused.json["id"] == 1
        assert "mcp:call" in refused.json["error"]["message"]
        assert (await it.post(era, enough, "tools/list").run()).status == 403
        assert not it.toy.got
        assert (await it.post(era, little, "tools/list").run()).status == 200
        for token in (enough, it.alice, "all"):
            assert (await it.post(era, token, "tools/call", call).run()).status == 200
        await settle()
        assert len(it.toy.got) == 3


@on_virtual_time
async def test_scopes_of_a_person_are_checked_as_well(tmp_path: Path):
    """Where the file has them; in the session that is open, too."""
    async with lab(tmp_path, required_scopes=SCOPES) as it:
        await it.open(it.alice)
        assert (await it.post(ERAS[0], it.alice, "tools/list").run()).status == 200
        line = it.path.read_text().partition(" = ")[2].strip()
        it.path.write_text(f"alice = {{ tokens = [{line}], scopes = ['mcp'] }}\n")
        await anyio.sleep(2)
        assert (await it.post(ERAS[0], it.alice, "tools/list").run()).status == 403
        assert (await it.post(ERAS[0], it.alice, "prompts/list").run()).status == 200
        it.path.write_text(f"alice = {{ tokens = [{line}], scopes = ['other'] }}\n")
        await anyio.sleep(2)
        assert (await it.get(it.alice).run()).status == 403


@on_virtual_time
async def test_metadata_needs_no_token(tmp_path: Path):
    """At the path of the endpoint and at the root, from any page; nothing else is open."""
    async with lab(tmp_path) as it:
        for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
            for method in ("GET", "OPTIONS"):
                exchange = await at(it.app, path, method)
                assert exchange.status == 200
                assert exchange.headers["access-control-allow-origin"] == "*"
            assert (await at(it.app, path)).json == {
                "resource": AUDIENCE,
                "authorization_servers": [it.issuer.url],
                "scopes_supported": ["mcp", "mcp:call"],
                "bearer_methods_supported": ["header"],
                "resource_name": "asyncfc-mcp",
            }
        for path in ("/.well-known/oauth-protected-resource/other", "/.well-known/", "/mcp/../healthz", "/"):
            assert (await at(it.app, path)).status == 401


@on_virtual_time
async def test_a_token_in_the_query_is_none(tmp_path: Path):
    """It would stand in logs."""
    async with lab(tmp_path) as it:
        exchange = await at(it.app, "/mcp", "POST", query=b"access_token=all")
        assert exchange.status == 401


async def at(app: App, path: str, method: str = "GET", query: bytes = b"") -> Exchange:
    async def elsewhere(scope: Json, receive: Any, send: Any) -> None:
        await app({**scope, "path": path, "raw_path": path.encode(), "query_string": query}, receive, send)

    return await Exchange(elsewhere, Http(b"", method=method, headers={"mcp-protocol-version": None})).run()


# --- what ends with a token ------------------------------------------------------------------------------------------


@on_virtual_time
async def test_streams_end_when_their_token_expires(tmp_path: Path):
    """Within a second or two; the session goes on with the next token, and a call that was admitted is answered."""
    async with lab(tmp_path) as it:
        first = it.issuer.token()
        await it.open(first)
        stream = it.get(first)
        listen = it.post(ERAS[1], first, "subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        wait = it.post(ERAS[0], first, "tools/call", {"name": "gate", "arguments": {"name": "g", "_wait": "this"}})
        for each in (stream, listen):
            it.tg.start_soon(each.run)
        await anyio.sleep(300 + LEEWAY_S - 20)
        it.tg.start_soon(wait.run)
        await anyio.sleep(19)
        assert not stream.ended
        assert not listen.ended
        await anyio.sleep(3)
        assert stream.ended
        assert listen.ended
        assert not wait.ended
        assert (await it.post(ERAS[1], first, "tools/list").run()).status == 401
        second = it.issuer.token()
        it.sessions[second] = it.sessions[first]
        assert (await it.post(ERAS[0], second, "tools/list").run()).status == 200
        again = it.get(second)
        it.tg.start_soon(again.run)
        await anyio.sleep(5)
        assert again.status == 200
        assert not again.ended
        await anyio.sleep(60)
        assert wait.ended
        assert "error" not in wait.events()[-1]


@on_virtual_time
async def test_who_is_removed_loses_sessions_streams_and_pending_requests(tmp_path: Path):
    """At once, in both eras; another person notices nothing."""
    async with lab(tmp_path) as it:
        bob, line = new_token("bob")
        it.path.write_text(it.path.read_text() + line + "\n")
        await anyio.sleep(2)
        ended: list[Exchange] = []
        kept: list[Exchange] = []
        for token, into in ((it.alice, ended), (bob, kept)):
            assert (await it.open(token)).status == 200
            call = {"name": "gate", "arguments": {"name": "g", "_wait": "this"}}
            into += [
                it.get(token),
                it.post(ERAS[1], token, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
                it.post(ERAS[0], token, "tools/call", call),
                it.post(ERAS[1], token, "tools/call", call),
            ]
        for each in (*ended, *kept):
            it.tg.start_soon(each.run)
        await anyio.sleep(1)
        assert not [each for each in (*ended, *kept) if each.ended]
        it.path.write_text(line + "\n")
        await anyio.sleep(3)
        assert all(each.ended for each in ended)
        assert not [each for each in kept if each.ended]
        refused = await it.post(ERAS[0], it.alice, "tools/list").run()
        assert refused.status == 401
        assert (await it.post(ERAS[0], bob, "tools/list").run()).status == 200


@on_virtual_time
async def test_a_session_is_its_principals_only(tmp_path: Path):
    """Whatever kind of token another one has; a subject of the same name is another principal."""
    async with lab(tmp_path) as it:
        await it.open(it.alice)
        for token in ("all", it.issuer.token(sub="alice"), it.issuer.token(sub="bob")):
            it.sessions[token] = it.sessions[it.alice]
            assert (await it.post(ERAS[0], token, "tools/list").run()).status == 404


def held(exchange: Exchange, arrives: anyio.Event) -> Exchange:
    """The same request, whose body arrives later."""
    app = exchange._app

    async def slow(scope: Json, receive: Any, send: Any) -> None:
        async def later() -> Any:
            await arrives.wait()
            return await receive()

        await app(scope, later, send)

    exchange._app = slow
    return exchange


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_token_that_is_taken_away_while_a_body_arrives_does_nothing(tmp_path: Path, era: str):
    """The call is not made."""
    async with lab(tmp_path) as it:
        await it.open(it.alice)
        arrives = anyio.Event()
        call = held(it.post(era, it.alice, "tools/call", {"name": "echo", "arguments": {"text": "x"}}), arrives)
        it.tg.start_soon(call.run)
        await settle()
        it.path.write_text("")
        # Before the search for what has lapsed ends the session.
        it.file.refresh()
        arrives.set()
        await settle()
        assert call.status == 401
        assert challenge_of(call)["error"] == "invalid_token"
        assert not it.toy.got


@on_virtual_time
async def test_a_request_has_the_grants_of_its_own_token(tmp_path: Path):
    """And not those of another token that was used in its session while its body arrived."""
    async with lab(tmp_path) as it:
        little, much = it.issuer.token(scope="little"), it.issuer.token(scope="much")
        await it.open(little)
        it.sessions[much] = it.sessions[little]
        seen: list[Any] = []

        def peek(request: Any) -> Json:
            seen.append(request.principal.grants)
            return {}

        it.upstream._handshake = {**it.upstream._handshake, "x/peek": peek}
        arrives = anyio.Event()
        first = held(it.post(ERAS[0], little, "x/peek"), arrives)
        it.tg.start_soon(first.run)
        await settle()
        await it.post(ERAS[0], much, "x/peek").run()
        arrives.set()
        await settle()
        assert seen == [{"much"}, {"little"}]


@on_virtual_time
async def test_hosts_are_those_of_loopback_and_the_public_one(tmp_path: Path):
    """Against DNS rebinding: a proxy on this machine passes on the name that the client used."""
    async with lab(tmp_path) as it:
        for host, status in (("bridge.example", 200), ("bridge.example:443", 200), ("evil.example", 421)):
            assert (await it.post(ERAS[1], "all", "tools/list", host=host).run()).status == status
        for origin, status in (("https://bridge.example", 200), ("https://evil.example", 403)):
            assert (await it.post(ERAS[1], "all", "tools/list", origin=origin).run()).status == status


@pytest.mark.parametrize(
    ("url", "identifiers", "metadata"),
    [
        ("https://b.example/mcp", ("https://b.example/mcp", "https://b.example/sse"), "https://b.example{}/mcp"),
        ("https://b.example", ("https://b.example/mcp", "https://b.example/sse"), "https://b.example{}/mcp"),
        ("https://b.example/t/", ("https://b.example/t/mcp", "https://b.example/t/sse"), "https://b.example{}/t/mcp"),
        ("http://[::1]:8/mcp", ("http://[::1]:8/mcp", "http://[::1]:8/sse"), "http://[::1]:8{}/mcp"),
    ],
)
def test_the_public_url_gives_the_identifiers(url: str, identifiers: tuple[str, ...], metadata: str):
    """With or without the path of the endpoint, and behind a proxy's prefix."""
    resource = ProtectedResource(url, ["/mcp", "/sse"], issuer="https://login.example")
    assert resource.identifiers == identifiers
    well_known = "/.well-known/oauth-protected-resource"
    assert resource.metadata_url("/mcp") == metadata.format(well_known)
    assert resource.metadata_url("/messages/") == metadata.format(well_known)
    paths = resource.metadata_paths()
    assert paths[well_known] == paths[f"{well_known}/mcp"] == "/mcp"
    assert paths[f"{well_known}/sse"] == "/sse"
    assert resource.metadata("/sse")["resource"] == identifiers[1]
    assert json.dumps(resource.metadata("/mcp"))
