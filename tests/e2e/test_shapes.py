"""Shapes of results and overrides of tools, with real processes: over stdio and HTTP, in both eras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HANDSHAKE, MODERN, Caller, Json, canonical, eventually, text_of
from tests.support.peers import npm_bin, python_of
from tests.support.stage import Stage
from tests.support.tokens import count_tokens

SERVER = Path(__file__).resolve().parents[1] / "support" / "answering_server.py"
SECRET = "s3cr3t-0123456789"
FLIGHTS = {"flights": [{"id": "F1", "price": 100}], "total": 1}
SHAPE = "Returns {flights: [{id, price}], total}"
BOOK: Json = {
    "name": "book",
    "description": "Books a flight.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "flight": {"type": "string"},
            "seats": {"type": "integer"},
            "token": {"type": "string", "x-mcp-header": "Token"},
        },
        "required": ["flight", "seats", "token"],
    },
}
FIND: Json = {"name": "find", "description": "Finds flights.", "inputSchema": {"type": "object"}}
ARGUMENTS = {"token": {"value": "${T}", "hidden": True}, "seats": {"value": 2, "description": "How many."}}
BOOKED = {"name": "reserve", "title": "Reserve", "annotations": {"readOnlyHint": False}, "writes": ["account/{token}"]}
OVERRIDES = {"book": {**BOOKED, "arguments": ARGUMENTS}}


def text(value: Any, **more: Any) -> Json:
    return {"content": [{"type": "text", "text": json.dumps(value)}], **more}


class Answering:
    """A server that answers as planned, and what it got."""

    def __init__(self, stage: Stage, kind: str, **plan: Any) -> None:
        self.log = stage.folder / f"{kind}.log"
        self.log.touch()
        plan = {"tools": [FIND, BOOK], "log": str(self.log), "modern": kind.endswith(MODERN), **plan}
        file = stage.folder / f"{kind}.json"
        file.write_text(json.dumps(plan))
        if not kind.startswith("http"):
            self.entry = stage.entry(sys.executable, str(SERVER), str(file), stage.mark)
            return
        out = stage.folder / f"{kind}.out"
        with out.open("wb") as sink:
            command = [sys.executable, str(SERVER), str(file), "--http", stage.mark]
            stage.processes.append(subprocess.Popen(command, stdout=sink, stderr=sink, env=stage.env))
        words = eventually(lambda: out.read_text().split(), "the server listens")
        self.entry = {"url": f"http://127.0.0.1:{words[-1]}/mcp"}

    def got(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


KINDS = [f"{transport}-{era}" for transport in ("stdio", "http") for era in (HANDSHAKE, MODERN)]


def listing(client: Caller) -> str:
    return canonical({"tools": client.all_pages("tools/list", "tools")})


@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_is_listed_from_the_next_start_on(stage: Stage, kind: str) -> None:
    """Not within a session, whose list stays the same to the byte; over both transports of clients."""
    server = Answering(stage, kind, results={"find": [text(FLIGHTS)]})
    era = kind.partition("-")[2]
    bridge = stage.bridge({"air": server.entry}, era=era)
    bridge.wait_for_tools("air__find")
    before = listing(bridge)
    for _ in range(5):
        assert json.loads(text_of(bridge.outcome(bridge.submit("air__find").id))) == FLIGHTS
        assert listing(bridge) == before
    assert SHAPE not in before
    bridge.close()
    again = stage.bridge({"air": server.entry}, era=era)
    description = again.wait_for_tools("air__find")["air__find"]["description"]
    assert description == f"Finds flights.\n{SHAPE}"
    http = stage.http_bridge({"air": server.entry})
    assert http.client(era=era).wait_for_tools("air__find")["air__find"]["description"] == description
    shown = stage.run("inspect", "--config", str(stage.config({"air": server.entry})), "air__find")
    assert "{flights: [{id, price}], total} (earlier results)" in shown.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_is_listed_and_called_as_it_is_overridden(stage: Stage, kind: str) -> None:
    """The hidden value is sent, in the body and in its header, and shown nowhere; the default is sent if none is
    given."""
    refused = f"1 validation error [input_value={{'token': '{SECRET}'}}] for {SECRET[:9]}..."
    results = {"book": [text({"ok": True}), text({"ok": True}), text({"ok": True}), text(refused, isError=True)]}
    server = Answering(stage, kind, results={**results, "find": [text(FLIGHTS)]})
    era = kind.partition("-")[2]
    config = stage.config({"air": {**server.entry, "asyncfc": {"tools": OVERRIDES}}})
    env = {"T": SECRET}
    bridge = stage.serve("--config", str(config), era=era, env=env)
    tool = bridge.wait_for_tools("air__reserve")["air__reserve"]
    assert (tool["title"], tool["annotations"]) == ("Reserve", {"readOnlyHint": False})
    properties = tool["inputSchema"]["properties"]
    assert "token" not in properties
    assert properties["seats"]["description"] == "How many."
    assert properties["seats"]["default"] == 2
    assert tool["inputSchema"]["required"] == ["flight"]
    found = bridge.submit("air__find", {"_as": "found"}).id
    bridge.outcome(found)
    bridge.outcome(bridge.submit("air__reserve", {"flight": "$found.flights[0].id", "token": "mine"}).id)
    bridge.outcome(bridge.submit("air__reserve", {"flight": "F2", "seats": 5}).id)
    http = stage.http_bridge({"air": {**server.entry, "asyncfc": {"mode": "sync", "tools": OVERRIDES}}}, env=env)
    client = http.client(era=era)
    assert json.loads(text_of(client.call("air__reserve", {"flight": "F3"}))) == {"ok": True}
    got = [[arguments, headers] for name, arguments, headers in server.got() if name == "book"]
    sent = {"mcp-param-token": SECRET} if kind == f"http-{MODERN}" else {}
    assert got == [
        [{"flight": "F1", "seats": 2, "token": SECRET}, sent],
        [{"flight": "F2", "seats": 5, "token": SECRET}, sent],
        [{"flight": "F3", "seats": 2, "token": SECRET}, sent],
    ]
    for client_ in (bridge, client):  # both have their server over stdio, each with its own answers
        for _ in range(4):
            answer = client_.call("air__reserve", {"flight": "F4"})
            assert SECRET[:6] not in json.dumps(answer)
    shown = stage.run("inspect", "--config", str(config), "air__reserve", env=env)
    everything = stage.run("inspect", "--json", "--config", str(config), env=env)
    assert "argument token: hidden, with a fixed value" in shown.stdout
    assert "account/{token}" in shown.stdout
    bridge.close()
    written = [
        file for folder in ("cache", "logs", "state") for file in (stage.folder / folder).rglob("*") if file.is_file()
    ]
    kept = [file.read_text(errors="replace") for file in [*written, *stage.folder.glob("*.stderr")]]
    assert not [each for each in (shown.stdout, everything.stdout, everything.stderr, *kept) if SECRET in each]


def test_a_setting_that_applies_to_nothing_is_a_warning_at_the_start(stage: Stage) -> None:
    """And in `inspect`; the bridge runs. Two that contradict each other are an error that names both."""
    server = Answering(stage, "stdio")
    tools = {"book": {"arguments": {"tokn": {"value": "x", "hidden": True}}}, "gone": {"title": "T"}}
    config = stage.config({"air": {**server.entry, "asyncfc": {"tools": tools}}})
    bridge = stage.serve("--config", str(config))
    bridge.wait_for_tools("air__book")
    shown = stage.run("inspect", "--config", str(config)).stdout
    for words in ("argument 'tokn', which it does not have", "tool 'gone', which it does not offer"):
        assert words in shown
        eventually(lambda words=words: words in bridge.stderr(), "the warning is logged")
    tools = {"book": {"name": "find"}, "find": {"name": "find"}}
    ran = stage.run("serve", "--config", str(stage.config({"air": {**server.entry, "asyncfc": {"tools": tools}}})))
    assert ran.code == 2
    assert "'book'" in ran.stderr
    assert "'find'" in ran.stderr


# --- servers of others -----------------------------------------------------------------------------------------------


def shapes_of(tools: dict[str, Json], direct: dict[str, Json]) -> dict[str, str]:
    """The shape in each description, checked against its bounds."""
    found: dict[str, str] = {}
    for name, own in direct.items():
        mine, theirs = tools[name].get("description", ""), own.get("description", "")
        assert mine.startswith(theirs)
        added = mine[len(theirs) :]
        assert count_tokens(theirs + added) - count_tokens(theirs) <= 25
        if added:
            found[name] = added.strip()
    return found


@pytest.mark.node
@pytest.mark.peers
def test_shapes_of_the_memory_server_are_those_that_it_declares(stage: Stage, npm: Path) -> None:
    """It has output schemas; a reference takes the part that is shown."""
    memory = {"MEMORY_FILE_PATH": str(stage.folder / "memory.json")}
    entry = stage.entry(npm_bin(npm, "mcp-server-memory"), env=memory)
    direct = stage.direct(entry).tools()
    bridge = stage.serve("--", entry["command"], env=entry["env"])
    shapes = shapes_of(bridge.wait_for_tools(*direct), direct)
    assert shapes["read_graph"] == "Returns {entities: [{name, entityType, …}], relations: [{…}]}"
    made = {"entities": [{"name": "n1", "entityType": "t", "observations": ["o"]}], "_as": "made"}
    bridge.outcome(bridge.submit("create_entities", made).id)
    opened = bridge.submit("open_nodes", {"names": ["$made.entities[0].name"]}).id
    assert json.loads(text_of(bridge.outcome(opened)))["entities"][0]["name"] == "n1"


@pytest.mark.peers
def test_shapes_of_the_time_server_are_those_that_it_declares(stage: Stage, server_time: Path) -> None:
    """In Python, through pydantic."""
    entry = stage.entry(python_of(server_time), "-m", "mcp_server_time")
    direct = stage.direct(entry).tools()
    bridge = stage.serve("--", entry["command"], *entry["args"], env=entry["env"])
    shapes = shapes_of(bridge.wait_for_tools(*direct), direct)
    assert shapes["get_current_time"] == "Returns {timezone, datetime, day_of_week, is_dst}"


@pytest.mark.node
@pytest.mark.peers
def test_shapes_of_the_everything_server_are_learned_without_what_is_data(stage: Stage, npm: Path) -> None:
    """The environment, as JSON text, is a map: no name of a variable is shown or kept."""
    command = ("--", npm_bin(npm, "mcp-server-everything"))
    env = {"ACME_SECRET_THING": "v4lue"}
    first = stage.serve(*command, env=env)
    before = first.wait_for_tools("get-env")["get-env"]["description"]
    for _ in range(4):
        assert "ACME_SECRET_THING" in text_of(first.outcome(first.submit("get-env").id))
    first.close()
    after = stage.serve(*command, env=env).wait_for_tools("get-env")["get-env"]["description"]
    assert after == f"{before}\nReturns {{…}}"
    kept = [file.read_text() for file in (stage.folder / "cache").rglob("*.shapes.json")]
    assert kept
    assert not [text for text in kept if "ACME" in text or "PATH" in text or "v4lue" in text]
