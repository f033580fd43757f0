"""Two principals at one endpoint: neither sees, awaits, cancels, lists or is told of anything of the other's."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import anyio.abc
import pytest

from asyncfc_mcp.bridge.server_requests import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import App, Exchange, Http, Json, alive
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time, settle

ERAS = ("2025-11-25", "2026-07-28")
CAPABILITIES = {"elicitation": {"form": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
FORM = {"message": "Which?", "requestedSchema": {"type": "object", "properties": {"x": {"type": "string"}}}}
PAIRS = [(mine, yours) for mine in ERAS for yours in ERAS]


@dataclass
class Person:
    """A client with a token, in one protocol era."""

    app: App
    token: str
    version: str
    tg: anyio.abc.TaskGroup
    session: str | None = None
    ids: "count[int]" = field(default_factory=count)
    listening: Exchange | None = None

    @property
    def modern(self) -> bool:
        return self.version == ERAS[1]

    def post(self, method: str, params: Json | None = None, **headers: str) -> Exchange:
        params = dict(params or {})
        said: dict[str, str | None] = {"authorization": f"Bearer {self.token}", "mcp-protocol-version": self.version}
        if self.modern:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": self.version,
                "io.modelcontextprotocol/clientCapabilities": CAPABILITIES,
                "io.modelcontextprotocol/clientInfo": {"name": "same-name", "version": "1"},
                **params.get("_meta", {}),
            }
            said["mcp-method"] = method
            if (name := params.get("name") or params.get("uri") or params.get("taskId")) is not None:
                said["mcp-name"] = name
        elif self.session is not None:
            said["mcp-session-id"] = self.session
        body = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        return Exchange(self.app, Http(body, headers={**said, **headers}))

    async def ask(self, method: str, params: Json | None = None, **headers: str) -> Json:
        """Send a request and return the whole response."""
        exchange = await self.post(method, params, **headers).run()
        return exchange.events()[-1] if exchange.streams else exchange.json

    async def call(self, tool: str, **arguments: Any) -> Json:
        answer = await self.ask("tools/call", {"name": tool, "arguments": arguments})
        return answer["result"]

    async def text(self, tool: str, **arguments: Any) -> str:
        return "\n".join(block["text"] for block in (await self.call(tool, **arguments))["content"])

    async def come(self) -> None:
        """Shake hands where the era has that, and listen to everything that can be listened to."""
        if self.modern:
            wanted = {"toolsListChanged": True, "resourceSubscriptions": ["future://f1"], "taskIds": ["f1"]}
            self.listening = self.post("subscriptions/listen", {"notifications": wanted})
        else:
            params = {
                "protocolVersion": self.version,
                "capabilities": CAPABILITIES,
                "clientInfo": {"name": "same-name"},
            }
            exchange = await self.post("initialize", params).run()
            self.session = exchange.headers["mcp-session-id"]
            await self.ask("logging/setLevel", {"level": "debug"})
            await self.ask("resources/subscribe", {"uri": "future://f1"})
            headers = {
                "authorization": f"Bearer {self.token}",
                "mcp-session-id": self.session,
                "accept": "text/event-stream",
            }
            self.listening = Exchange(self.app, Http(b"", headers=headers, method="GET"))
        self.tg.start_soon(self.listening.run)
        await settle()

    def heard(self) -> list[str]:
        """What came on the stream that belongs to no request, but for the acknowledgement."""
        assert self.listening is not None
        said = [json.dumps(each) for each in self.listening.events()]
        return [each for each in said if "acknowledged" not in each]


@dataclass
class Stage:
    mine: Person
    yours: Person
    toy: Toy


@asynccontextmanager
async def stage(mine: str, yours: str) -> AsyncGenerator[Stage]:
    toy = Toy()

    async def who(got: Got) -> Json:
        return text_result(json.dumps(await got.inbound.send_raw_request("elicitation/create", FORM)))

    async def secret(got: Got) -> Json:
        await anyio.sleep(0.5)
        await got.inbound.progress(1, 2, "a secret step")
        await got.inbound.notify("notifications/message", {"level": "error", "data": "a secret log"})
        await anyio.sleep(1)
        return text_result("a secret result")

    toy.add("who", who)
    toy.add("secret", secret)
    async with bridge_over(toy, policy={"grace_ms": 0}, tasks="handle") as bridge, anyio.create_task_group() as tg:
        bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        principals = Principals({"mine": Scope("me"), "yours": Scope("you")})
        app, _ = routes.http_app(upstream, host="127.0.0.1", principals=principals, streamable=True, sse=False)
        async with alive(app):
            people = Person(app, "mine", mine, tg), Person(app, "yours", yours, tg)
            for person in people:
                await person.come()
            yield Stage(*people, toy)
            for person in people:
                assert person.listening is not None
                person.listening.hang_up()
            await settle()
            tg.cancel_scope.cancel()


@pytest.mark.parametrize(("mine", "yours"), PAIRS)
@on_virtual_time
async def test_futures_of_another_principal_do_not_exist(mine: str, yours: str):
    """By ID and by name, for every meta-tool, as a resource, as a task, as an argument."""
    async with stage(mine, yours) as it:
        assert "f1" in await it.mine.text("secret", _as="doc")
        for ref in ("f1", "doc", "$doc"):
            assert "Unknown future" in await it.yours.text("await_future", future_id=ref)
            assert "Unknown future" in await it.yours.text("cancel_future", future_id=ref)
            assert "Unknown future" in await it.yours.text("gather", future_ids=[ref])
        assert "f1" not in await it.yours.text("list_futures")
        resources = (await it.yours.ask("resources/list"))["result"]["resources"]
        assert not [each for each in resources if each["uri"].startswith("future://")]
        for uri in ("future://f1", "future://doc"):
            assert (await it.yours.ask("resources/read", {"uri": uri}))["error"]["code"] == -32002
        for method in ("tasks/get", "tasks/cancel"):
            assert "error" in await it.yours.ask(method, {"taskId": "f1"})
        got = len(it.toy.got)
        for arguments in ({"whole": "$f1"}, {"whole": "$doc"}, {"_after": "f1"}, {"_after": "doc"}):
            refused = await it.yours.text("echo", **arguments)
            assert "no call has the name" in refused
            assert "Nothing was sent" in refused
            assert "secret" not in refused
        assert len(it.toy.got) == got
        await it.yours.text("echo", text="$doc and ${f:doc} and ${f:f1}", whole="$$f1", _wait="this")
        assert it.toy.got[-1].arguments == {"text": "$doc and ${f:doc} and ${f:f1}", "whole": "$f1"}
        await anyio.sleep(2)
        assert it.toy.cancelled == []
        assert "a secret result" in await it.mine.text("await_future", future_id="doc")
        assert it.yours.heard() == []


@pytest.mark.parametrize(("mine", "yours"), PAIRS)
@on_virtual_time
async def test_ids_and_names_are_counted_for_each_principal(mine: str, yours: str):
    """The same ID and the same name are two futures, and each principal means its own."""
    async with stage(mine, yours) as it:
        for person in (it.mine, it.yours):
            assert "f1" in await person.text("echo", of=person.token, _as="doc")
        for person in (it.mine, it.yours):
            for ref in ("f1", "doc"):
                assert f'"of": "{person.token}"' in await person.text("await_future", future_id=ref)
            await person.text("echo", taken="$doc.arguments.of", _wait="this")
            assert it.toy.got[-1].arguments == {"taken": person.token}


@pytest.mark.parametrize(("mine", "yours"), PAIRS)
@on_virtual_time
async def test_progress_and_log_messages_of_the_other_are_not_heard(mine: str, yours: str):
    """While both wait for calls of one server. A log message names no call, so neither hears it."""
    async with stage(mine, yours) as it:
        both = []
        for person, tool in ((it.mine, "secret"), (it.yours, "sleep")):
            meta = {"progressToken": "p", "io.modelcontextprotocol/logLevel": "debug"}
            params = {"name": tool, "arguments": {"s": 2, "_wait": "this"}, "_meta": meta}
            both.append(person.post("tools/call", params))
        async with anyio.create_task_group() as tg:
            tg.start_soon(both[1].run)
            await settle()
            tg.start_soon(both[0].run)
        assert b"a secret step" in both[0].body
        assert b"secret" not in both[1].body
        assert not [each for each in it.yours.heard() if "secret" in each]


@pytest.mark.parametrize(("mine", "yours"), PAIRS)
@on_virtual_time
async def test_questions_go_to_the_principal_that_made_the_call(mine: str, yours: str):
    """Whoever else awaits anything meanwhile is not asked, and cannot answer."""
    async with stage(mine, yours) as it:
        await it.mine.call("who")
        await settle()
        waits = it.yours.post("tools/call", {"name": "sleep", "arguments": {"s": 3, "_wait": "this"}})
        await waits.run()
        assert b"Which?" not in waits.body
        assert not [each for each in it.yours.heard() if "Which?" in each]
        asked = it.mine.post("tools/call", {"name": "await_future", "arguments": {"future_id": "f1"}})
        async with anyio.create_task_group() as tg:
            tg.start_soon(asked.run)
            await anyio.sleep(0.5)
            assert b"Which?" in asked.body
            asked.hang_up()
        if not it.mine.modern:
            return
        needed = asked.json["result"]
        answers = {key: {"action": "accept", "content": {"x": "stolen"}} for key in needed["inputRequests"]}
        params = {"name": "await_future", "arguments": {"future_id": "f1"}}
        params |= {"requestState": needed["requestState"], "inputResponses": answers}
        if it.yours.modern:
            stolen = await it.yours.ask("tools/call", params)
            assert "requestState is not one that this server gave" in stolen["error"]["message"]
        good = await it.mine.ask("tools/call", params)
        assert "stolen" in good["result"]["content"][0]["text"]


@on_virtual_time
async def test_a_session_is_of_the_principal_that_opened_it():
    """With another token its ID is unknown, for every method."""
    async with stage(ERAS[0], ERAS[0]) as it:
        assert it.mine.session is not None
        taken = it.yours.post("tools/list", None, **{"mcp-session-id": it.mine.session})
        assert (await taken.run()).status == 404
        for method in ("GET", "DELETE"):
            headers = {
                "authorization": "Bearer yours",
                "mcp-session-id": it.mine.session,
                "accept": "text/event-stream",
            }
            assert (await Exchange(it.mine.app, Http(b"", headers=headers, method=method)).run()).status == 404
        assert "result" in await it.mine.ask("tools/list")


@on_virtual_time
async def test_a_token_of_no_principal_is_refused():
    """As where there is one principal only."""
    async with stage(*ERAS) as it:
        for token in ("", "min", "mine ", "yoursmine"):
            refused = it.mine.post("tools/list", None, authorization=f"Bearer {token}")
            assert (await refused.run()).status == 401
