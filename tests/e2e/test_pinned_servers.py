"""Servers that one replica at a time runs, with real replicas, a real PostgreSQL and real clients of both eras.

The server behind them (`tests/support/protocol_server.py`) has state of its own, so two processes of it would show.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sys
from collections.abc import Iterator, Sequence

import psutil
import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, RpcError, canonical, eventually, text_of
from tests.support.http_client import HttpWire
from tests.support.http_events import Events, modern_request
from tests.support.postgres import PostgresServer
from tests.support.restarting import whole
from tests.support.stage import REPO, HttpBridge, Stage

SERVER = str(REPO / "tests" / "support" / "protocol_server.py")
SECRET = "a secret of all replicas in this test"
across_eras = pytest.mark.parametrize(("era", "server"), [(HANDSHAKE, "modern"), (MODERN, "handshake")])
both_servers = pytest.mark.parametrize("server", ["handshake", "modern"])


class House:
    """Replicas over one server, `toy`, which belongs to the first of them that starts.

    Args:
        server: era of the server.
        owner: setting `owner` of the server.
        names: name of each replica.
    """

    def __init__(
        self, stage: Stage, url: str, *, server: str = "handshake", owner: str = "auto", names: Sequence[str] = "ab"
    ) -> None:
        self.stage, self.server, self.owner, self.url = stage, server, owner, url
        self.bridges: dict[str, HttpBridge] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> HttpBridge:
        """Start a replica."""
        own: Json = {"owner": self.owner, "prefix": "", "tools": {"heard": {"reads": [], "writes": []}}}
        mark = ["--mark", self.stage.mark, "--label", "toy"]
        entry = self.stage.entry(sys.executable, SERVER, self.server, *mark, asyncfc=own)
        settings: Json = {"engine": self.url, "secret": SECRET, "replica_timeout_s": 2, "grace_ms": 0, "replica": name}
        # A cache of its own: what a replica knows of a server that it does not run, it has from the others.
        caches = {"ASYNCFC_CACHE_DIR": str(self.stage.folder / f"cache-{name}")}
        self.bridges[name] = self.stage.http_bridge({"toy": entry}, env=caches, **settings)
        return self.bridges[name]

    def kill(self, name: str) -> None:
        """End a replica as a crash does."""
        process = self.bridges.pop(name).process
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def owners(self) -> list[int]:
        """Process IDs of the replicas that run the server."""
        found: list[int] = []
        for process in self.stage.downstreams():
            with contextlib.suppress(psutil.NoSuchProcess):
                if SERVER in process.cmdline():
                    found.append(process.ppid())
        return found

    def runs_at(self, name: str) -> bool:
        """Whether one replica runs the server, and no other one."""
        return self.owners == [self.bridges[name].process.pid]


def outcome(client: HttpWire, tool: str, arguments: Json | None = None) -> Json:
    """The result of a call."""
    return client.outcome(client.submit(tool, arguments).id)


def listening(bridge: HttpBridge, client: HttpWire, wanted: Json) -> Events:
    """The notifications that a client receives, in its era's way; what it wants counts for 2026-07-28 only."""
    if client.era != MODERN:
        return Events(bridge, "GET", {"Mcp-Session-Id": client.session, "Mcp-Protocol-Version": HANDSHAKE})
    events = Events(bridge, "POST", *modern_request("subscriptions/listen", {"notifications": wanted}))
    events.told("notifications/subscriptions/acknowledged")
    return events


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    return postgres.url(postgres.fresh_schema())


# --- one process ---------------------------------------------------------------------------------------------------


@both_servers
def test_one_replica_runs_the_server_and_all_list_it(stage: Stage, url: str, server: str) -> None:
    """Tools, prompts, resources and templates are the same, and calls of each reach the one process."""
    house = House(stage, url, server=server, names="abc")
    clients = [each.client(era=MODERN) for each in house.bridges.values()]
    for bridge, client in zip(house.bridges.values(), clients, strict=True):
        client.wait_for_tools("heard", "echo")
        eventually(lambda bridge=bridge: bridge.get("/readyz")[0] == 200, "/readyz answers 200")
    for method, key in (
        ("tools/list", "tools"),
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ):
        listed = [client.all_pages(method, key) for client in clients]
        plain = [[each for each in page if not str(each.get("uri", "")).startswith("future://")] for page in listed]
        assert plain[0] == plain[1] == plain[2] != []
    pids = {outcome(client, "heard", {"method": "tools/call"})["structuredContent"]["pid"] for client in clients}
    assert len(pids) == 1
    assert house.runs_at("a")


def test_another_replica_takes_the_server_over(stage: Stage, url: str) -> None:
    """After the death of the owner, and when it leaves; a call that was submitted meanwhile waits for that."""
    house = House(stage, url, names="abc")
    client = house.bridges["c"].client(era=MODERN)
    client.wait_for_tools("heard")
    assert house.runs_at("a")
    house.kill("a")
    future = client.submit("heard", {"method": "tools/call"}).id
    assert client.outcome(future)["structuredContent"]["heard"]
    [owner] = house.owners
    name = next(name for name, each in house.bridges.items() if each.process.pid == owner)
    other = "c" if name == "b" else "b"
    client = house.bridges[other].client(era=MODERN)
    house.bridges[name].process.send_signal(signal.SIGTERM)
    assert house.bridges[name].process.wait(30) == 0
    assert outcome(client, "heard", {"method": "tools/call"})["structuredContent"]["heard"]
    assert house.runs_at(other)


def test_a_server_waits_for_the_replica_that_it_is_pinned_to(stage: Stage, url: str) -> None:
    """Another one starts, is ready and lists what was known of the server; a call waits in its future."""
    house = House(stage, url, owner="a", names="a")
    house.bridges["a"].client(era=MODERN).wait_for_tools("heard")
    house.bridges["a"].process.send_signal(signal.SIGTERM)
    assert house.bridges.pop("a").process.wait(30) == 0
    bridge = house.start("b")
    client = bridge.client(era=MODERN)
    client.wait_for_tools("heard")
    assert bridge.get("/readyz")[0] == 200
    future = client.submit("heard", {"method": "tools/call"}).id
    assert client.await_future(future, timeout_s=0.5)["_meta"]["asyncfc/futures"][0]["status"] != "completed"
    assert house.owners == []
    house.start("a")
    assert client.outcome(future)["structuredContent"]["heard"]
    assert house.runs_at("a")


def test_a_suspended_owner_stops_its_process_when_it_comes_back(stage: Stage, url: str) -> None:
    """Another replica has the server by then; there is one process again, and both replicas reach it."""
    house = House(stage, url)
    clients = [each.client(era=MODERN) for each in house.bridges.values()]
    for client in clients:
        client.wait_for_tools("heard")
    suspended = house.bridges["a"].process
    suspended.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: house.bridges["b"].process.pid in house.owners, "the other replica runs the server")
    finally:
        suspended.send_signal(signal.SIGCONT)
    eventually(lambda: house.runs_at("b"), "one replica runs the server")
    pids = {outcome(client, "heard", {"method": "tools/call"})["structuredContent"]["pid"] for client in clients}
    assert len(pids) == 1


# --- listings ------------------------------------------------------------------------------------------------------


@across_eras
def test_a_changed_list_is_announced_at_every_replica(stage: Stage, url: str, era: str, server: str) -> None:
    """Once each replica lists it, whichever runs the server; a new tool can be called there."""
    house = House(stage, url, server=server)
    clients = [each.client(era=era) for each in house.bridges.values()]
    for client in clients:
        client.wait_for_tools("add")
    wanted = {"toolsListChanged": True, "promptsListChanged": True}
    events = [listening(*each, wanted) for each in zip(house.bridges.values(), clients, strict=True)]
    outcome(clients[1], "add", {"kind": "tools", "name": "late"})
    outcome(clients[0], "add", {"kind": "prompts", "name": "later"})
    for client, told in zip(clients, events, strict=True):
        told.told("notifications/tools/list_changed")
        client.wait_for_tools("late")
        told.told("notifications/prompts/list_changed")
        assert "later" in [each["name"] for each in client.all_pages("prompts/list", "prompts")]
        assert "hello" in text_of(outcome(client, "late", {"text": "hello"}))
        told.close()


# --- requests that are no tool calls -------------------------------------------------------------------------------


@across_eras
def test_requests_reach_the_server_from_every_replica(stage: Stage, url: str, era: str, server: str) -> None:
    """Prompts, resources and completions, with the same answers and the same errors, byte for byte."""
    house = House(stage, url, server=server)
    one, two = (each.client(era=era) for each in house.bridges.values())
    for client in (one, two):
        client.wait_for_tools("heard")
        prompts = client.all_pages("prompts/list", "prompts")
    argument = {"name": "word", "value": "ap"}
    requests: list[tuple[str, Json]] = [
        ("prompts/get", {"name": prompts[0]["name"], "arguments": {"name": "Ada \u2028"}}),
        ("resources/read", {"uri": "toy://greeting"}),
        ("resources/read", {"uri": "toy://blob"}),
        ("resources/read", {"uri": "toy://nothing"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": prompts[0]["name"]}, "argument": argument},
        ),
    ]
    for method, params in requests:
        assert answer(one, method, params) == answer(two, method, params), method
    heard = outcome(two, "heard", {"method": "resources/read"})["structuredContent"]["heard"]
    assert [each["uri"] for each in heard] == [
        f"toy://{each}" for each in ("greeting", "blob", "nothing") for _ in "12"
    ]
    assert house.runs_at("a")


def answer(client: HttpWire, method: str, params: Json) -> str:
    """The whole answer to a request, in the form in which two are compared."""
    try:
        return canonical(whole(client.request(method, params)))
    except RpcError as exc:
        return canonical(exc.error)


def test_a_request_is_cancelled_when_its_client_gives_up(stage: Stage, url: str) -> None:
    """At the server, which runs at another replica."""
    house = House(stage, url)
    client = house.bridges["b"].client(era=MODERN)
    client.wait_for_tools("heard")
    headers, body = modern_request("resources/read", {"uri": "toy://never"}, name="toy://never")
    connection = asked(house.bridges["b"], headers, body)
    heard(client, "resources/read", 1)
    connection.close()

    def cancelled() -> list[Json]:
        return outcome(client, "seen_cancellations")["structuredContent"]["seen"]

    [cancellation] = eventually(cancelled, "the server is told")
    assert cancellation["tool"] == "resources/read"


def heard(client: HttpWire, method: str, count: int) -> None:
    """Wait until the server has received a number of requests."""
    eventually(
        lambda: len(outcome(client, "heard", {"method": method})["structuredContent"]["heard"]) == count,
        f"the server hears {method}",
    )


def asked(bridge: HttpBridge, headers: Json, body: Json) -> http.client.HTTPConnection:
    """Send a request and read no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    connection.request("POST", "/mcp", json.dumps(body).encode(), {**accept, **headers})
    return connection


def test_a_request_is_made_again_when_the_replica_dies_that_makes_it(stage: Stage, url: str) -> None:
    """At the next one that runs the server: what it asks for changes nothing."""
    house = House(stage, url, names="abc")
    client = house.bridges["c"].client(era=MODERN)
    client.wait_for_tools("heard")
    headers, body = modern_request("resources/read", {"uri": "toy://never"}, name="toy://never")
    connection = asked(house.bridges["c"], headers, body)
    heard(client, "resources/read", 1)
    house.kill("a")
    heard(client, "resources/read", 1)  # of another process, which has heard nothing before
    assert "a" not in house.bridges
    connection.close()


# --- notifications -------------------------------------------------------------------------------------------------


@across_eras
def test_a_subscription_is_kept_wherever_the_server_runs(stage: Stage, url: str, era: str, server: str) -> None:
    """Subscribers at each replica are told once of each change, also after another one has taken the server over; the
    server is unsubscribed from when the last one has left."""
    uri = "toy://greeting"
    house = House(stage, url, server=server, names="abc")
    told: dict[str, Events] = {}
    clients: dict[str, HttpWire] = {}
    for name, bridge in house.bridges.items():
        clients[name] = client = bridge.client(era=era)
        client.wait_for_tools("touch")
        told[name] = listening(bridge, client, {"resourceSubscriptions": [uri]})
        if era == HANDSHAKE:
            client.request("resources/subscribe", {"uri": uri})
    assert text_of(outcome(clients["b"], "touch", {"uri": uri})) == "told 1"
    for each in told.values():
        eventually(lambda each=each: updates(each) == [uri], "a change is told")
    told.pop("a").close()
    house.kill("a")

    def subscribed() -> bool:
        return text_of(outcome(clients["c"], "touch", {"uri": uri})) == "told 1"

    eventually(subscribed, "the server is subscribed to again")
    for each in told.values():
        eventually(lambda each=each: len(updates(each)) == 2, "the next change is told")
    for name, each in told.items():
        if era == HANDSHAKE:
            clients[name].request("resources/unsubscribe", {"uri": uri})
        each.close()
    eventually(lambda: not subscribed(), "the server is unsubscribed from")


def updates(events: Events) -> list[str]:
    """URIs that were announced to have changed."""
    method = "notifications/resources/updated"
    return [each["params"]["uri"] for each in list(events.messages) if each.get("method") == method]


@both_servers
def test_log_messages_reach_clients_of_every_replica(stage: Stage, url: str, server: str) -> None:
    """Those of the level that they have set, whichever replica runs the server."""
    house = House(stage, url, server=server)
    clients = [each.client(era=HANDSHAKE) for each in house.bridges.values()]
    events = [listening(*each, {}) for each in zip(house.bridges.values(), clients, strict=True)]
    for client in clients:
        client.wait_for_tools("log")
    clients[1].request("logging/setLevel", {"level": "debug"})
    clients[0].request("logging/setLevel", {"level": "error"})
    # Not awaited: a request that waits for the call gets its messages on its own stream.
    clients[1].submit("log", {"text": "low", "levels": ["debug"]})
    clients[0].submit("log", {"text": "high", "levels": ["error"]})

    def said(events: Events) -> list[str]:
        method = "notifications/message"
        return [each["params"]["data"] for each in list(events.messages) if each.get("method") == method]

    eventually(lambda: sorted(said(events[1])) == ["high 0", "low 0"], "both are told to the client that wants them")
    eventually(lambda: said(events[0]) == ["high 0"], "one is told to the other one")
    for each in events:
        each.close()
