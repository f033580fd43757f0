"""Forwarding: requests that are no tool calls reach the server that they are for, and no other.

Over servers that keep what they are sent. How an owner is found is `core/test_owners.py`'s, what travels on the wire
`e2e/test_protocol.py`'s.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.bridge.forwarding import SET_LEVEL_S, Forwarding
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL, Scope
from asyncfc_mcp.errors import ProtocolFailure, ServerUnavailable
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.anyio

ALICE = Scope("alice")


class Server:
    """In place of a `Downstream`."""

    def __init__(self, name: str, *, resources: bool = True, extensions: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.snapshot = SimpleNamespace(
            capabilities={"resources": {}} if resources else {}, extensions=extensions or {}
        )
        self.got: list[Any] = []
        self.answer: dict[str, Any] = {"ok": name}
        self.fails = False
        self.hangs = False

    async def _take(self, *message: Any) -> None:
        self.got.append(message)
        if self.hangs:
            await anyio.sleep_forever()
        if self.fails:
            raise ServerUnavailable(self.name, "is starting")

    async def request(self, method: str, params: dict[str, Any], **options: Any) -> dict[str, Any]:
        await self._take(method, params)
        return self.answer

    async def subscribe(self, uri: str) -> None:
        await self._take("subscribe", uri)

    async def unsubscribe(self, uri: str) -> None:
        await self._take("unsubscribe", uri)

    async def set_log_level(self, level: str) -> None:
        await self._take("level", level)

    async def notify(self, method: str) -> None:
        await self._take("notify", method)


def view(*, without: str = "", **resources: str) -> Any:
    """In place of a `View`: resources by URI, known from the start."""
    listed = {f"x://{name}": (server, {"uri": f"x://{name}"}) for name, server in resources.items()}
    catalog = SimpleNamespace(resources=listed, templates={})

    async def wait_for_catalog() -> Any:
        return catalog

    def serves(server: str) -> bool:
        return server != without

    return SimpleNamespace(
        wait_for_catalog=wait_for_catalog,
        serves=serves,
        touches=serves,
        credentials=None,
        credentials_for=lambda server: None,  # pyright: ignore[reportUnknownLambdaType]
    )


def forwarding_to(*servers: Server) -> Forwarding:
    async def list_futures(scope: Scope) -> Iterator[Future]:
        return iter(())

    engine = SimpleNamespace(list_futures=list_futures)
    return Forwarding(cast("Any", engine), cast("Any", {each.name: each for each in servers}))


async def test_a_request_is_passed_on_without_the_envelope_of_its_hop():
    """Everything else as it is; the caller's parameters are not changed."""
    server = Server("s")
    forwarding = forwarding_to(server)
    params = {"name": "p", "_meta": {"progressToken": 1, "vendor/x": 2}}
    assert await forwarding.ask(LOCAL, "s", "prompts/get", params) == {"ok": "s"}
    await forwarding.ask(LOCAL, "s", "prompts/get", {"_meta": {"progressToken": 1}})
    await forwarding.ask(LOCAL, "s", "prompts/list", None)
    assert server.got == [
        ("prompts/get", {"name": "p", "_meta": {"vendor/x": 2}}),
        ("prompts/get", {}),
        ("prompts/list", {}),
    ]
    assert params == {"name": "p", "_meta": {"progressToken": 1, "vendor/x": 2}}


async def test_a_result_is_returned_as_it_is_but_for_the_bridges_own_keys():
    """Clients would take those for the bridge's records."""
    server = Server("s")
    server.answer = {"x": 1, "_meta": {"asyncfc/futures": [], "vendor/x": 2}}
    result = await forwarding_to(server).ask(LOCAL, "s", "prompts/get", {})
    assert result["x"] == 1
    assert result["_meta"]["vendor/x"] == 2
    assert "asyncfc/futures" not in result["_meta"]


async def test_the_users_of_a_server_are_the_principals_that_had_something_sent_to_it():
    """By a request, a subscription or a call; also where it failed."""
    one, other = Server("one"), Server("other")
    forwarding = forwarding_to(one, other)
    assert not forwarding.users_of("one")
    one.fails = True
    with pytest.raises(ServerUnavailable):
        await forwarding.ask(ALICE, "one", "prompts/get", {})
    one.fails = False
    await forwarding.subscribe(LOCAL, "one", "x://a")
    forwarding.add_user("other", ALICE)
    assert forwarding.users_of("one") == {ALICE, LOCAL}
    assert forwarding.users_of("other") == {ALICE}


async def test_a_resource_is_read_from_its_owner_alone():
    """Its refusal is the answer."""
    one, other = Server("one"), Server("other")
    forwarding, all_ = forwarding_to(one, other), view(a="one", b="other")
    assert await forwarding.read_resource(LOCAL, "x://b", {"uri": "x://b"}, all_) == {"ok": "other"}
    one.fails = True
    with pytest.raises(ServerUnavailable):
        await forwarding.read_resource(LOCAL, "x://a", {"uri": "x://a"}, all_)
    assert len(other.got) == 1


async def test_where_no_server_has_resources_none_is_asked():
    """The error is that of the protocol, with the URI."""
    server = Server("s", resources=False)
    forwarding = forwarding_to(server)
    for attempt in (forwarding.read_resource(LOCAL, "x://a", {}, view()), forwarding.owner_of(LOCAL, "x://a", view())):
        with pytest.raises(ProtocolFailure) as caught:
            await attempt
        assert caught.value.data == {"uri": "x://a"}
    assert not server.got


async def test_an_extensions_method_is_for_the_server_that_declared_it():
    """Where none did, it is not found."""
    server, other = Server("s", extensions={"com.example/things": {}}), Server("other", extensions={"org.other/x": {}})
    forwarding = forwarding_to(other, server)
    assert await forwarding.ask_extension(LOCAL, "com.example/things/get", {}, view()) == {"ok": "s"}
    with pytest.raises(ProtocolFailure) as caught:
        await forwarding.ask_extension(LOCAL, "net.unknown/get", {}, view())
    assert caught.value.code == -32601
    assert not other.got


async def test_a_subscription_is_known_until_it_ends_or_fails():
    """At the server that was asked; ending one that is not known asks nobody, and a failure of that is no error."""
    server = Server("s")
    forwarding = forwarding_to(server)
    await forwarding.unsubscribe("s", "x://a")
    assert not server.got
    await forwarding.subscribe(LOCAL, "s", "x://a")
    assert forwarding.has_subscribed("s", "x://a")
    server.fails = True
    await forwarding.unsubscribe("s", "x://a")
    assert not forwarding.has_subscribed("s", "x://a")
    with pytest.raises(ServerUnavailable):
        await forwarding.subscribe(LOCAL, "s", "x://a")
    assert not forwarding.has_subscribed("s", "x://a")
    assert [got[0] for got in server.got] == ["subscribe", "unsubscribe", "subscribe"]


@on_virtual_time
async def test_a_log_level_reaches_all_servers_in_bounded_time():
    """One that refuses or hangs keeps it from no other, and the client from no answer."""
    refusing, hanging, good = Server("refusing"), Server("hanging"), Server("good")
    refusing.fails = hanging.hangs = True
    forwarding = forwarding_to(refusing, hanging, good)
    began = anyio.current_time()
    await forwarding.set_log_level("debug")
    assert anyio.current_time() - began == pytest.approx(SET_LEVEL_S)
    assert good.got == refusing.got == hanging.got == [("level", "debug")]


async def test_a_clients_notification_reaches_all_servers():
    """In the order of the configuration."""
    servers = [Server("a"), Server("b")]
    await forwarding_to(*servers).notify_servers("notifications/roots/list_changed", view())
    assert [each.got for each in servers] == [[("notify", "notifications/roots/list_changed")]] * 2


async def test_servers_that_a_principal_may_not_use_do_not_exist_for_its_requests():
    """A resource that one of them lists is read where it would be if there were no such server."""
    one, other = Server("one", extensions={"com.example/x": {}}), Server("other")
    forwarding, some = forwarding_to(one, other), view(without="one", b="other")
    assert await forwarding.read_resource(ALICE, "x://a", {"uri": "x://a"}, some) == {"ok": "other"}
    assert await forwarding.owner_of(ALICE, "x://a", some) == "other"
    with pytest.raises(ProtocolFailure, match="Method not found"):
        await forwarding.ask_extension(ALICE, "com.example/x/get", {}, some)
    await forwarding.notify_servers("notifications/roots/list_changed", some)
    assert not one.got


async def test_one_uri_may_be_subscribed_to_at_two_servers():
    """For two principals that may use different ones; each ends by itself."""
    one, other = Server("one"), Server("other")
    forwarding = forwarding_to(one, other)
    await forwarding.subscribe(LOCAL, "one", "x://a")
    await forwarding.subscribe(ALICE, "other", "x://a")
    await forwarding.unsubscribe("other", "x://a")
    assert forwarding.has_subscribed("one", "x://a")
    assert [got[0] for got in one.got] == ["subscribe"]
    assert [got[0] for got in other.got] == ["subscribe", "unsubscribe"]
