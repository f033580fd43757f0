"""What a principal may not use does not exist for it: for no method, in no era, in no error.

Each request of one principal is made twice: to a bridge where `access` denies it something, and to a bridge that does
not have what is denied. The two cannot be told apart, and nothing of the request reaches what is denied.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import AccessEntry
from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import CLIENT_METHODS
from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import Json, alive
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time, settle
from tests.upstream.test_principals import ERAS, Person

QUIET = (
    "initialize", "logging/setLevel", "ping", "prompts/list", "resources/list", "resources/templates/list",
    "server/discover", "tools/list",
)  # fmt: skip
"""What the bridge itself asks of each server at its start."""
BOB = Principal(Scope("person:bob"), "bob", frozenset({"read"}))
ALICE = Principal(Scope("person:alice"), "alice")
EVERYTHING = AccessEntry()
RULES = {
    "alice": EVERYTHING,
    "bob": AccessEntry(("open", "partly/see*"), ("*/erase*",)),
    "scope:admin": EVERYTHING,
}
METATOOLS = ("await_future", "gather", "cancel_future", "list_futures")


class Full(Toy):
    """A server with everything that servers have.

    Args:
        bare: only its tools.
    """

    def __init__(self, name: str, *tools: str, bare: bool = False) -> None:
        super().__init__(name, instructions=None if bare else f"All about {name}. " + f"{name} is good. " * 200)
        self.bare = bare
        self.listing, self.tools = [], {}
        self.asked: list[str] = []
        schema = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}
        for tool in tools:
            self.add(f"{tool}_{name}", self._use, schema=schema)

    async def _use(self, got: Got) -> Json:
        await anyio.sleep(0.1)
        if not self.bare:
            await got.inbound.notify("notifications/message", {"level": "error", "data": f"a log of {self.name}"})
        return text_result(f"{self.name} used {got.tool}")

    async def _on_request(self, inbound: Any, method: str, params: Any) -> Json:
        if method not in QUIET:
            self.asked.append(method)
        if self.bare and method not in ("initialize", "tools/list", "tools/call"):
            raise RpcError(-32601, f"Method not found: {method}")
        match method:
            case "initialize" if not self.bare:
                answer = await super()._on_request(inbound, method, params)
                kinds = {"prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}}
                extensions = {"extensions": {f"com.example/{self.name}": {}}}
                return {**answer, "capabilities": {**answer["capabilities"], **kinds, **extensions}}
            case "prompts/list":
                return {"prompts": [{"name": f"ask_{self.name}"}]}
            case "resources/list":
                uris = (f"{self.name}://one", "all://one")
                return {"resources": [{"uri": uri, "name": f"one of {self.name}"} for uri in uris]}
            case "resources/templates/list":
                return {"resourceTemplates": [{"uriTemplate": f"{self.name}://{{x}}", "name": "any"}]}
            case "resources/read":
                return {"contents": [{"uri": params["uri"], "text": f"{self.name} read {params['uri']}"}]}
            case "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
                return {}
            case "initialize" | "server/discover" | "tools/list" | "tools/call":
                return await super()._on_request(inbound, method, params)
            case _:
                return {"from": self.name, "method": method}


class People(Principals):
    """Principals by their tokens; tokens may change hands."""

    def __init__(self, people: Mapping[str, Principal]) -> None:
        super().__init__()
        self.give(people)

    def give(self, people: Mapping[str, Principal]) -> None:
        self._access = {hashlib.sha256(token.encode()).digest(): Access(each) for token, each in people.items()}


@dataclass
class Stage:
    bob: Person
    alice: Person
    people: People
    toys: dict[str, Full]
    upstream: Upstream


@asynccontextmanager
async def stage(version: str, *toys: Full, access: Mapping[str, AccessEntry] | None = None) -> AsyncGenerator[Stage]:
    async with (
        bridge_over(*toys, policy={"grace_ms": 0}, tasks="handle", access=access) as bridge,
        anyio.create_task_group() as tg,
    ):
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        people = People({"bob": BOB, "alice": ALICE})
        app, _ = routes.http_app(upstream, host="127.0.0.1", principals=people, streamable=True, sse=False)
        async with alive(app):
            bob, alice = Person(app, "bob", version, tg), Person(app, "alice", version, tg)
            for person in (bob, alice):
                await person.come()
            yield Stage(bob, alice, people, {toy.name: toy for toy in toys}, upstream)
            for person in (bob, alice):
                assert person.listening is not None
                person.listening.hang_up()
            await settle()
            tg.cancel_scope.cancel()


def restricted() -> tuple[Full, ...]:
    """The servers of a bridge where Bob may not use everything."""
    return Full("hidden", "see", "get"), Full("open", "see", "erase"), Full("partly", "see", "change", "erase")


def reduced() -> tuple[Full, ...]:
    """What is left of them for him, as the only ones that there are."""
    return Full("open", "see"), Full("partly", "see", bare=True)


def call(name: str, **arguments: Any) -> Json:
    return {"name": name, "arguments": arguments}


DENIED_TOOLS = ("see_hidden", "get_hidden", "change_partly", "erase_partly", "erase_open", "erase_nowhere")
ANSWERS = {"inputResponses": {"q1": {"action": "accept"}}}
REQUESTS: Mapping[str, list[Json]] = {
    "ping": [{}],
    "initialize": [{"protocolVersion": ERAS[0], "capabilities": {}, "clientInfo": {"name": "same-name"}}],
    "server/discover": [{}],
    "tools/list": [{}, {"cursor": "tools:1"}, {"cursor": "tools:7"}, {"cursor": "tools:9"}],
    "tools/call": [
        *(call(tool) for tool in DENIED_TOOLS),
        *(call(tool, _wait="this", _as="x", _after="f1") for tool in DENIED_TOOLS),
        *({**call(tool), "task": {"ttl": 1000}} for tool in DENIED_TOOLS),
        *({**call(tool), "requestState": "x", **ANSWERS} for tool in DENIED_TOOLS),
        call("se_hidden"), call("SEE_HIDDEN"), call("change_partl"),
        call("see_open"), call("see_partly", _wait="this"), call("list_futures"), call("await_future", future_id="x"),
    ],
    "prompts/list": [{}],
    "prompts/get": [{"name": name} for name in ("ask_hidden", "ask_partly", "ask_open", "ask_nobody")],
    "resources/list": [{}, {"cursor": "resources:1"}],
    "resources/templates/list": [{}],
    "resources/read": [
        {"uri": uri}
        for uri in (
            "hidden://one", "hidden://two", "partly://one", "open://one", "open://two", "nobody://one", "all://one",
            "asyncfc://docs", "asyncfc://docs/hidden", "asyncfc://docs/partly", "asyncfc://docs/open", "future://f1",
        )
    ],
    "completion/complete": [
        {"ref": ref, "argument": {"name": "x", "value": "y"}}
        for name in ("hidden", "partly", "open")
        for ref in (
            {"type": "ref/prompt", "name": f"ask_{name}"},
            {"type": "ref/resource", "uri": f"{name}://{{x}}"},
            {"type": "ref/resource", "uri": f"{name}://one"},
        )
    ],
    "resources/subscribe": [{"uri": f"{name}://one"} for name in ("hidden", "partly", "open", "all")],
    "resources/unsubscribe": [{"uri": f"{name}://one"} for name in ("hidden", "partly", "open")],
    "logging/setLevel": [{"level": "debug"}],
    "subscriptions/listen": [],  # see below
    "tasks/get": [{"taskId": "f1"}],
    "tasks/cancel": [{"taskId": "f1"}],
    "tasks/update": [{"taskId": "f1", **ANSWERS}],
    "tasks/result": [{"taskId": "f1"}],
    "tasks/list": [{}],
    # Of extensions.
    "com.example/hidden/do": [{}], "hidden/do": [{}], "partly/do": [{}], "open/do": [{}], "nobody/do": [{}],
}  # fmt: skip


def methods_of(upstream: Upstream) -> set[str]:
    return {*upstream._handshake, *upstream._modern}  # pyright: ignore[reportPrivateUsage]


@on_virtual_time
async def test_the_table_of_requests_has_every_method():
    """A new one must be thought of here."""
    async with stage(ERAS[0], Full("open", "see")) as it:
        assert methods_of(it.upstream) | CLIENT_METHODS <= REQUESTS.keys()
        extra = REQUESTS.keys() - methods_of(it.upstream) - CLIENT_METHODS
        assert all(method.endswith("/do") for method in extra)


async def talk(person: Person, method: str, params: Json) -> str:
    with anyio.fail_after(60):
        return json.dumps(await person.ask(method, params), sort_keys=True)


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("method", [method for method in REQUESTS if REQUESTS[method]])
@on_virtual_time
async def test_what_is_denied_cannot_be_told_from_what_is_not_there(method: str, version: str):
    """By any answer of any method; and nothing is asked of the server. So it is with the futures of another principal,
    who has made one here and none there."""
    heard: list[tuple[list[str], list[str]]] = []
    for toys, access in ((restricted(), RULES), (reduced(), None)):
        async with stage(version, *toys, access=access) as it:
            answers = [await talk(it.bob, method, params) for params in REQUESTS[method]]
            await anyio.sleep(1)
            if access is not None:
                assert not it.toys["hidden"].asked
                assert set(it.toys["partly"].asked) <= {"tools/call"}
            assert all(got.tool.startswith("see_") for toy in it.toys.values() for got in toy.got)
            heard.append((answers, it.bob.heard()))
    assert heard[0] == heard[1]


@on_virtual_time
async def test_a_shortened_name_does_not_tell_the_name_of_a_denied_tool():
    """One that another principal's host was given: the error has the name that was sent."""
    long = "see_what_is_in_there_tell_nobody"
    async with stage(ERAS[1], Full("hidden", long), access=RULES) as it:
        published = it.upstream.bridge.directory.published
        published.aliases |= {"see_w_1a2b": f"{long}_hidden"}
        refused = await it.bob.ask("tools/call", call("see_w_1a2b"))
        assert "Unknown tool: see_w_1a2b" in refused["error"]["message"]
        assert "nobody" not in refused["error"]["message"]
        assert "used" in await it.alice.text("see_w_1a2b", _wait="this")


@on_virtual_time
async def test_headers_that_repeat_arguments_say_nothing_of_a_denied_tool():
    """Its schema, which declares them, is not looked at."""
    heard: list[list[Json]] = []
    for toys, access in ((restricted(), RULES), (reduced(), None)):
        async with stage(ERAS[1], *toys, access=access) as it:
            some = [
                await it.bob.ask("tools/call", call(tool, a="x"), **headers)
                for tool in ("see_hidden", "erase_partly", "nothing")
                for headers in ({}, {"mcp-param-a": "x"}, {"mcp-param-a": "y"})
            ]
            heard.append(some)
    assert heard[0] == heard[1]


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_nothing_of_a_server_that_is_denied_is_announced(version: str):
    """Changes of its lists and resources, and its log messages; its neighbour's are, and others hear of all."""
    async with stage(version, *restricted(), access=RULES) as it:
        for person in (it.bob, it.alice):
            if person.modern:
                assert person.listening is not None
                person.listening.hang_up()
                uris = [f"{name}://one" for name in it.toys]
                wanted = {"toolsListChanged": True, "resourcesListChanged": True, "resourceSubscriptions": uris}
                person.listening = person.post("subscriptions/listen", {"notifications": wanted})
                it.bob.tg.start_soon(person.listening.run)
            else:
                for name in it.toys:
                    await person.ask("resources/subscribe", {"uri": f"{name}://one"})
        await settle()
        await anyio.sleep(10)
        before = [len(it.bob.heard()), len(it.alice.heard())]
        for name in ("hidden", "partly", "open"):
            toy = it.toys[name]
            assert toy.peer is not None
            await toy.peer.notify("notifications/resources/updated", {"uri": f"{name}://one"})
            await toy.peer.notify("notifications/message", {"level": "error", "data": f"a log of {name}"})
        await anyio.sleep(1)
        bob, alice = it.bob.heard()[before[0] :], it.alice.heard()[before[1] :]
        assert any("open://one" in each for each in bob)
        assert not [each for each in bob if "hidden" in each or "partly" in each]
        assert any("hidden://one" in each for each in alice)
        assert any("partly://one" in each for each in alice)
        before = [len(it.bob.heard()), len(it.alice.heard())]
        it.toys["hidden"].add("more", it.toys["hidden"]._use)
        it.toys["partly"].listing[:] = [each for each in it.toys["partly"].listing if each["name"] != "erase_partly"]
        for name in ("hidden", "partly"):
            await it.toys[name].changed()
        await anyio.sleep(10)
        assert not it.bob.heard()[before[0] :]
        assert any("list_changed" in each for each in it.alice.heard()[before[1] :])
        it.toys["partly"].add("see_more", it.toys["partly"]._use)
        await it.toys["partly"].changed()
        await anyio.sleep(10)
        assert any("tools/list_changed" in each for each in it.bob.heard()[before[0] :])


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_who_is_allowed_has_everything(version: str):
    """As a bridge without `access`."""
    async with stage(version, *restricted(), access=RULES) as it, stage(version, *restricted()) as plain:
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "hidden/do"):
            assert await it.alice.ask(method) == await plain.alice.ask(method)
        for tool in ("see_hidden", "erase_partly", "erase_open"):
            assert tool in await it.alice.text(tool, _wait="this")


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_the_grants_of_the_last_request_count(version: str):
    """More of them, and fewer again, in the same session."""
    async with stage(version, *restricted(), access=RULES) as it:
        assert "nknown tool" in json.dumps(await it.bob.ask("tools/call", call("see_hidden")))
        it.people.give({"bob": Principal(BOB.scope, BOB.name, frozenset({"read", "admin"})), "alice": ALICE})
        assert "used see_hidden" in await it.bob.text("see_hidden", _wait="this", _as="mine")
        assert "hidden://one" in json.dumps(await it.bob.ask("resources/list"))
        it.people.give({"bob": BOB, "alice": ALICE})
        assert "nknown tool" in json.dumps(await it.bob.ask("tools/call", call("see_hidden")))
        assert "hidden://one" not in json.dumps(await it.bob.ask("resources/list"))
        # What it has is its own.
        assert "used see_hidden" in await it.bob.text("await_future", future_id="mine")
        assert "used see_hidden" in json.dumps(await it.bob.ask("resources/read", {"uri": "future://f1"}))


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_without_an_entry_there_is_nothing_but_the_bridge_itself(version: str):
    """Its own tools stay: there is nothing in them that is not the principal's."""
    async with stage(version, *restricted(), access={"alice": EVERYTHING}) as it:
        listed = (await it.bob.ask("tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in listed] == list(METATOOLS)
        for tool in ("see_open", "see_partly", "see_hidden"):
            refused = await it.bob.ask("tools/call", call(tool))
            assert refused["error"]["message"].startswith(f"Unknown tool: {tool}")
            assert "mean" not in refused["error"]["message"]
        assert not any(toy.asked for toy in it.toys.values())
