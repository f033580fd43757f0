"""Servers with odd listings behind the real bridge, seen by real clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.client import MODERN, Json, RpcError, eventually, text_of
from tests.support.odd_listings import odd
from tests.support.peers import python_of
from tests.support.stage import Stage

CLIENTS = Path(__file__).resolve().parent / "clients"
SERVER = Path(__file__).resolve().parents[1] / "support" / "listing_server.py"
KEYS = ("tools", "prompts", "resources", "resourceTemplates")
GOOD = {
    "tools": [{"name": "good", "inputSchema": {"type": "object"}}],
    "prompts": [{"name": "good"}],
    "resources": [{"uri": "good://r", "name": "good"}],
    "resourceTemplates": [{"uriTemplate": "good://{r}", "name": "good"}],
}


def listing(stage: Stage, name: str = "plan", **plan: Any) -> Json:
    """An `mcpServers` entry for a server with these listings."""
    file = stage.folder / f"{name}.json"
    file.write_text(json.dumps(plan))
    return stage.entry(sys.executable, str(SERVER), str(file), stage.mark)


def inspected(stage: Stage, config: Path) -> Json:
    """What `inspect --json` says, whether all servers are up or not."""
    return json.loads(stage.run("inspect", "--json", "--config", str(config)).stdout)


ODD: Json = {
    "tools": [
        {"name": "odd", "description": None, "annotations": {"readOnlyHint": None},
         "inputSchema": {"type": ["object", "null"], "required": None, "properties": {"a": None, "b": True}}},
        {"name": "bad_output", "inputSchema": None,
         "outputSchema": {"type": "object", "properties": {"a": {"type": "any"}}}},
        {"name": "text_output", "title": 5, "outputSchema": {"type": "string"}, "icons": "x", "_meta": [],
         "execution": 5},
        {"name": 7}, {"name": None}, {},
        {"name": "infinite", "inputSchema": {"type": "object", "properties": {"a": {"default": 10**400}}}},
        {"name": "surrogate", "description": "\ud83d", "inputSchema": {"type": "object", "properties": {"\ud800": {}}}},
    ],
    "prompts": [{"name": "odd", "arguments": [{"name": "a", "required": None}, {"name": 5}, None]}, {"name": 5}],
    "resources": [{"uri": "odd://r", "size": "5", "annotations": {"audience": None, "lastModified": "x"}},
                  {"uri": "no uri", "name": "n"}, {"uri": None}],
    "resourceTemplates": [{"uriTemplate": "odd://{r}", "name": None}, {"name": "n"}],
}  # fmt: skip


@pytest.mark.node
@pytest.mark.peers
@pytest.mark.parametrize("mode", ["future", "sync"])
def test_no_odd_entry_costs_a_client_the_others(
    stage: Stage, mode: str, npm_clients: Path, python_sdk_1: Path, fastmcp: Path
) -> None:
    """The SDKs of both languages, each in all its eras, get what can be listed, of the odd server and the good one."""
    servers = {"bad": listing(stage, "bad", listings=ODD, introduction={"instructions": 5, "serverInfo": None}),
               "ok": listing(stage, "ok", listings=GOOD)}  # fmt: skip
    config = stage.config(servers, mode=mode)
    bridge = stage.command("serve", "--config", str(config))
    modules = npm_clients / "node_modules" / "@modelcontextprotocol"
    clients = {
        "ts1": ["node", str(CLIENTS / "list_all_1.mjs"), str(modules / "sdk")],
        "ts2": ["node", str(CLIENTS / "list_all_2.mjs"), str(modules / "client"), "legacy"],
        "ts2 auto": ["node", str(CLIENTS / "list_all_2.mjs"), str(modules / "client"), "auto"],
        "py1": [python_of(python_sdk_1), str(CLIENTS / "list_all.py"), "sdk1"],
        "fastmcp": [python_of(fastmcp), str(CLIENTS / "list_all.py"), "fastmcp"],
    }

    def run(command: list[str]) -> Json:
        ran = stage.run_command([*command, *bridge], timeout=90)
        assert ran.code == 0, ran.stderr[-3000:]
        return json.loads(ran.stdout)

    with ThreadPoolExecutor(2) as pool:
        reports = dict(zip(clients, pool.map(run, clients.values()), strict=True))
    tools = ["bad__odd", "bad__bad_output", "bad__text_output", "bad__infinite", "bad__surrogate", "ok__good"]
    for name, report in reports.items():
        assert report["tools"][4:] == tools, name
        assert report["prompts"] == ["bad__odd", "ok__good"], name
        assert report["resources"] == ["odd://r", "good"], name
        assert report["resourceTemplates"][:2] == ["odd://{r}", "good"], name
    notes = "\n".join(inspected(stage, config)["notes"])
    assert "server 'bad': tool text_output: title is not text (5) and is left out" in notes
    assert "server 'bad': resource no uri: uri is not a URI ('no uri') and is left out" in notes
    assert "ok" not in notes


def test_an_odd_tool_can_be_called(stage: Stage) -> None:
    """With its own name and schema, and its null hint says nothing; the log has one line for the server."""
    wire = stage.bridge({"bad": listing(stage, listings=ODD)})
    handle = wire.submit("bad__odd", {"a": 1})
    assert json.loads(text_of(wire.outcome(handle.id))) == ["odd", {"a": 1}]
    assert wire.stderr().count("does not keep to MCP's schema") == 1


@pytest.mark.node
def test_whatever_is_listed_passes_the_schemas_of_the_typescript_sdks(stage: Stage, npm_clients: Path) -> None:
    """Hundreds of entries with other JSON in any place of them, checked by the SDKs' own schemas and validator."""
    random = Random(20261126)
    listings = {key: [odd(key, random) for _ in range(400)] for key in KEYS}
    identities = {"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"}
    for key, name in identities.items():
        for number, entry in enumerate(listings[key]):
            if isinstance(entry.get(name), str):
                entry[name] += f"/{number}"
    file = stage.folder / "odd.json"
    file.write_text(json.dumps({"listings": listings}).replace("Infinity", "1e999"))
    entry = stage.entry(sys.executable, str(SERVER), str(file), stage.mark)
    entries: list[Json] = []
    for era, modern in (("2025-11-25", False), (MODERN, True)):
        wire = stage.bridge({"bad": entry}, era=era, mode="sync")
        for method, key in (("tools/list", "tools"), ("prompts/list", "prompts"), ("resources/list", "resources"),
                            ("resources/templates/list", "resourceTemplates")):  # fmt: skip
            found = wire.request(method)[key]
            assert len(found) > 200
            entries += [{"kind": key, "modern": modern, "entry": each} for each in found]
    raw = [{"kind": key, "modern": False, "entry": each} for key in KEYS for each in listings[key]]
    assert not refused(npm_clients, entries)
    assert len(refused(npm_clients, raw)) > 500


def refused(npm_clients: Path, entries: list[Json]) -> list[Json]:
    """What the SDKs refuse."""
    ran = subprocess.run(
        ["node", str(CLIENTS / "check_listings.mjs"), str(npm_clients / "node_modules")],
        input=json.dumps(entries).replace("Infinity", "1e999"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=dict(os.environ),
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    "introduction",
    [
        {"capabilities": None},
        {"capabilities": {"tools": None, "prompts": [], "extensions": {"x": 5}}},
        {"instructions": 5},
        {"instructions": "\ud800"},
        {"serverInfo": 7},
        {"_meta": "x"},
    ],
)
def test_an_odd_introduction_costs_nobody_anything(stage: Stage, introduction: Json) -> None:
    """Neither its own tools nor what the bridge says of itself, in either era."""
    servers = {"bad": listing(stage, "bad", listings=GOOD, introduction=introduction),
               "ok": listing(stage, "ok", listings=GOOD)}  # fmt: skip
    for era in ("2025-11-25", MODERN):
        wire = stage.bridge(servers, era=era)
        names = [tool["name"] for tool in wire.request("tools/list")["tools"]][4:]
        assert names == ["bad__good", "ok__good"]
        if era == MODERN:
            extensions = wire.request("server/discover")["capabilities"]["extensions"]
            assert all(isinstance(each, dict) for each in extensions.values())


# --- servers that do not list well ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "note"),
    [
        ({"errors": {"resources/list": -32603}}, "resources/list: out of order (JSON-RPC error -32603)"),
        ({"errors": {"prompts/list": -32000, "resources/templates/list": -1}}, "prompts/list: out of order"),
        ({"slow": {"resources/list": 3600}}, ""),
        ({"pages": {"tools/list": [[GOOD["tools"], {"nextCursor": ""}]]}}, ""),
        ({"pages": {"tools/list": [[GOOD["tools"], {"nextCursor": "0"}]]}}, "tools/list: its pages"),
        ({"pages": {"tools/list": [[GOOD["tools"], {"nextCursor": 7}]]}}, "tools/list: its nextCursor is not text"),
        ({"forever": {"tools/list": GOOD["tools"]}}, "tools/list: its pages have no new entries"),
        ({"forever": {"resources/list": []}}, "resources/list: its pages have no new entries"),
    ],
)
def test_a_listing_that_goes_wrong_costs_the_server_nothing_else(stage: Stage, plan: Json, note: str) -> None:
    """Its tools are there and can be called, and so is what it lists beside them; `inspect` says what is wrong."""
    config = stage.config({"s": listing(stage, listings=GOOD, **plan)})
    wire = stage.serve("--config", str(config))
    assert [tool["name"] for tool in wire.request("tools/list")["tools"]][4:] == ["s__good"]
    assert json.loads(text_of(wire.outcome(wire.submit("s__good").id))) == ["good", {}]
    if "prompts/list" not in plan.get("errors", {}):
        assert [prompt["name"] for prompt in wire.request("prompts/list")["prompts"]] == ["s__good"]
    if note:
        facts = inspected(stage, config)
        assert facts["servers"][0]["status"] == "ready"
        assert any(each.startswith(f"server 's': {note}") for each in facts["notes"])


def test_a_server_that_refuses_to_list_its_tools_is_used_for_the_rest(stage: Stage) -> None:
    """What it has beside them is there, and who asks for a tool is told why there is none."""
    wire = stage.bridge({"s": listing(stage, listings=GOOD, errors={"tools/list": -32603})})
    assert wire.request("prompts/list")["prompts"] == [{"name": "s__good"}]
    assert "tools/list: out of order" in text_of(wire.call("list_futures"))
    with pytest.raises(RpcError, match="tools/list: out of order"):
        wire.call("s__good")


def test_fifteen_hundred_pages_are_listed(stage: Stage) -> None:
    """One tool on each, all of them there."""
    pages = [
        [[{"name": f"t{number}", "inputSchema": {"type": "object"}}], {"nextCursor": str(number + 1)}]
        for number in range(1501)
    ]
    pages[-1][1] = {}
    wire = stage.bridge({"s": listing(stage, pages={"tools/list": pages})})

    def names() -> list[str] | None:
        found, cursor = [], None
        while True:
            page = wire.request("tools/list", {} if cursor is None else {"cursor": cursor})
            found += [tool["name"] for tool in page["tools"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                return found[4:] if len(found) == 1505 else None

    assert eventually(names, "all tools are listed") == [f"s__t{number}" for number in range(1501)]


def test_a_server_that_announces_changes_without_end_is_asked_a_few_times(stage: Stage) -> None:
    """And its clients hear nothing of it, since nothing changed."""
    count = stage.folder / "count"
    count.touch()
    entry = listing(stage, listings=GOOD, on_list=["tools/list", "prompts/list"], count=str(count))
    wire = stage.bridge({"s": entry})
    assert [tool["name"] for tool in wire.request("tools/list")["tools"]][4:] == ["s__good"]
    eventually(lambda: count.read_text().count("tools/list") >= 4, "it is asked again")
    for _ in range(50):
        assert json.loads(text_of(wire.outcome(wire.submit("s__good").id))) == ["good", {}]
    assert count.read_text().count("tools/list") < 20
    told = [each["method"] for each in wire.notifications if "list_changed" in each["method"]]
    assert len(told) == len(set(told)), "more than that the server has come up"


def test_many_servers_that_were_listed_before_are_listed_before_they_have_started(stage: Stage) -> None:
    """The cache answers the second start while servers start a few at a time; a call has its server started."""
    count = stage.folder / "count"
    count.touch()
    names = [f"s{number}" for number in range(8)]
    good = GOOD | {"resources": [], "resourceTemplates": []}
    config = stage.config({name: listing(stage, name, listings=good, count=str(count), start_s=0.5) for name in names})
    listed = {f"{name}__good" for name in names}
    first = stage.serve("--config", str(config))
    eventually(lambda: listed <= first.tools().keys(), "all servers are listed")
    first.close()
    before = count.read_text().count("tools/list")
    second = stage.serve("--config", str(config))
    assert listed <= second.tools().keys()
    assert count.read_text().count("tools/list") - before < len(names)
    assert json.loads(text_of(second.outcome(second.submit("s7__good").id))) == ["good", {}]
    eventually(lambda: count.read_text().count("tools/list") - before >= len(names), "all servers start in the end")
