"""Servers and clients that other people wrote, unchanged, on either side of the bridge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import Json, canonical, text_of
from tests.support.peers import npm_bin, python_of, script_of
from tests.support.stage import HttpBridge, Stage
from tests.support.stdio_client import Wire

CLIENTS = Path(__file__).resolve().parent / "clients"
FUTURES = {"await_future", "gather", "cancel_future", "list_futures"}
CLOCK = re.compile(r"\b\d{1,2}:\d\d:\d\d [AP]M\b")
"""What a server says of the time of day: two calls may fall into two seconds."""


# --- servers -------------------------------------------------------------------------------------------------------


def through_and_direct(stage: Stage, entry: Json) -> tuple[Wire, Wire]:
    """The same server twice: behind `serve -- CMD`, and alone. Their tools are the same."""
    bridge = stage.serve("--", entry["command"], *entry["args"], env=entry["env"], opened=False)
    direct = stage.direct(entry)
    own = direct.tools()
    bridge.open()
    listed = bridge.wait_for_tools(*own)
    assert set(listed) == set(own) | FUTURES
    for tool, definition in own.items():
        assert listed[tool].get("annotations") == definition.get("annotations")
        assert set(definition["inputSchema"].get("properties", {})) <= set(listed[tool]["inputSchema"]["properties"])
    return bridge, direct


def assert_same(bridge: Wire, direct: Wire, calls: list[tuple[str, Json]]) -> list[Json]:
    """Every call gives the same result through the bridge as directly, byte for byte but for the time of day. Returns
    the results."""

    def timeless(result: Json) -> str:
        return CLOCK.sub("now", canonical(result))

    futures = [bridge.submit(tool, arguments).id for tool, arguments in calls]
    results = [bridge.outcome(future) for future in futures]
    for (tool, arguments), result in zip(calls, results, strict=True):
        assert timeless(result) == timeless(direct.call(tool, arguments)), tool
    gathered = bridge.gather(futures)
    assert [each["future_id"] for each in gathered["_meta"]["asyncfc/futures"]] == futures
    return results


@pytest.mark.node
def test_server_everything(stage: Stage, npm: Path) -> None:
    """The reference server: text, structured content, images, links, resources, errors, long operations, prompts."""
    entry = stage.entry(npm_bin(npm, "mcp-server-everything"))
    bridge, direct = through_and_direct(stage, entry)
    slow = bridge.submit("trigger-long-running-operation", {"duration": 2, "steps": 4})
    results = assert_same(
        bridge,
        direct,
        [
            ("echo", {"message": "Grüße 🌍"}),
            ("get-sum", {"a": 2, "b": 40}),
            ("get-sum", {"a": "not a number", "b": 1}),
            ("get-structured-content", {"location": "New York"}),
            ("get-tiny-image", {}),
            ("get-annotated-message", {"messageType": "error", "includeImage": True}),
            ("get-resource-links", {"count": 3}),
            ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
        ],
    )
    assert "42" in text_of(results[1])
    assert results[2]["isError"] is True
    beats: list[Json] = []
    assert "completed" in text_of(bridge.await_future(slow.id, on_progress=beats.append))
    assert beats
    prompts = {prompt["name"] for prompt in bridge.all_pages("prompts/list", "prompts")}
    assert prompts == {prompt["name"] for prompt in direct.all_pages("prompts/list", "prompts")}
    # The bridge lists its own futures and texts beside the server's resources.
    listed = bridge.all_pages("resources/list", "resources")
    resources = [resource for resource in listed if not resource["uri"].startswith(("future://", "asyncfc://"))]
    assert canonical(resources) == canonical(direct.all_pages("resources/list", "resources"))
    read = {"uri": resources[0]["uri"]}
    assert canonical(bridge.request("resources/read", read)) == canonical(direct.request("resources/read", read))


@pytest.mark.node
def test_files_with_variables_of_their_own_are_written_as_they_are(stage: Stage, npm: Path) -> None:
    """A future has the name of a variable in a script, a template and a CI file: the files hold the variable. What is
    put in is said."""
    data = (stage.folder / "data").resolve()
    data.mkdir()
    bridge = stage.serve("--", npm_bin(npm, "mcp-server-filesystem"), str(data))
    bridge.wait_for_tools("write_file", "list_directory")
    bridge.call("list_directory", {"path": str(data), "_as": "version", "_wait": "this"})
    files = {
        "build.sh": 'echo "building ${version}" "${version:0:3}" "${f1}" ${HOME}\n',
        "page.js": "const a = `${version} ${version.path} ${f1}`;\n",
        "ci.yml": "run: ${{ version }} ${version}\n",
        "only": "${version}",
    }
    for name, content in files.items():
        answer = bridge.call("write_file", {"path": str(data / name), "content": content, "_wait": "this"})
        assert "put in" not in text_of(answer)
        assert (data / name).read_text() == content
    answer = bridge.call("write_file", {"path": str(data / "v"), "content": "<${f:version}>", "_wait": "this"})
    assert " write_file completed (put in: version = f1)" in text_of(answer)
    assert answer["_meta"]["asyncfc/futures"][0]["put_in"] == {"version": "f1"}
    assert "${" not in (data / "v").read_text()


@pytest.mark.node
def test_server_filesystem(stage: Stage, npm: Path) -> None:
    """Files written through the bridge are the files; reading gives the same results as directly."""
    data = stage.folder / "data"
    data.mkdir()
    bridge, direct = through_and_direct(stage, stage.entry(npm_bin(npm, "mcp-server-filesystem"), str(data.resolve())))
    written = [
        bridge.submit("write_file", {"path": str(data / f"{name}.txt"), "content": f"I am {name}\n"}).id
        for name in "abc"
    ]
    assert not [each for each in written if bridge.outcome(each).get("isError")]
    assert [(data / f"{name}.txt").read_text() for name in "abc"] == [f"I am {name}\n" for name in "abc"]
    assert_same(
        bridge,
        direct,
        [
            ("read_text_file", {"path": str(data / "a.txt")}),
            ("read_multiple_files", {"paths": [str(data / "a.txt"), str(data / "nowhere.txt")]}),
            ("list_directory", {"path": str(data)}),
            ("directory_tree", {"path": str(data)}),
            ("search_files", {"path": str(data), "pattern": "*.txt"}),
            ("read_text_file", {"path": "/etc/passwd"}),
            ("list_allowed_directories", {}),
        ],
    )


@pytest.mark.node
def test_server_memory(stage: Stage, npm: Path) -> None:
    """A server with state: no write is lost, and the graph is what direct calls make of it."""
    through, alone = (
        stage.entry(npm_bin(npm, "mcp-server-memory"), env={"MEMORY_FILE_PATH": str(stage.folder / name)})
        for name in ("through.jsonl", "alone.jsonl")
    )
    bridge, _ = through_and_direct(stage, through)
    direct = stage.direct(alone)
    for name in ("Ada", "Bob", "Cleo"):
        arguments = {"entities": [{"name": name, "entityType": "person", "observations": [f"is {name}"]}]}
        own = direct.call("create_entities", arguments)
        assert canonical(bridge.outcome(bridge.submit("create_entities", arguments).id)) == canonical(own)
    relation = {"relations": [{"from": "Ada", "to": "Bob", "relationType": "knows"}]}
    bridge.outcome(bridge.submit("create_relations", relation).id)
    direct.call("create_relations", relation)
    assert_same(
        bridge, direct, [("read_graph", {}), ("search_nodes", {"query": "Ada"}), ("open_nodes", {"names": ["Cleo"]})]
    )


@pytest.mark.peers
def test_server_time(stage: Stage, server_time: Path) -> None:
    """A server of 2026-07-28 that answers handshakes too."""
    entry = stage.entry(script_of(server_time, "mcp-server-time"), "--local-timezone", "Europe/Berlin")
    bridge, direct = through_and_direct(stage, entry)
    arguments = {"source_timezone": "Europe/Berlin", "time": "12:30", "target_timezone": "Asia/Tokyo"}
    converted, refused = (
        without_envelope(bridge.outcome(bridge.submit("convert_time", each).id))
        for each in (arguments, {**arguments, "time": "25:99"})
    )
    assert canonical(converted) == canonical(without_envelope(direct.call("convert_time", arguments)))
    assert "Tokyo" in text_of(converted)
    assert refused["isError"] is True


@pytest.mark.peers
def test_server_git(stage: Stage, server_git: Path) -> None:
    """A server whose state is a repository: what it says through the bridge is what it says directly."""
    repository = stage.folder / "repository"
    git = shutil.which("git")
    assert git
    for arguments in (
        ["init", "-q", "-b", "main", str(repository)],
        ["-C", str(repository), "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        identity = ["-c", "user.name=Toy", "-c", "user.email=toy@example.com"]
        subprocess.run([git, *identity, *arguments], check=True, env=stage.env)
    (repository / "file.txt").write_text("one\n")
    entry = stage.entry(script_of(server_git, "mcp-server-git"), "--repository", str(repository))
    bridge, direct = through_and_direct(stage, entry)
    place = {"repo_path": str(repository)}
    added = bridge.outcome(bridge.submit("git_add", {**place, "files": ["file.txt"]}).id)
    assert not added.get("isError")
    for tool, arguments in [
        ("git_status", place),
        ("git_log", {**place, "max_count": 3}),
        ("git_diff_staged", place),
        ("git_branch", {**place, "branch_type": "local"}),
        ("git_show", {**place, "revision": "HEAD"}),
        ("git_show", {**place, "revision": "no-such-revision"}),
    ]:
        result = without_envelope(bridge.outcome(bridge.submit(tool, arguments).id))
        assert canonical(result) == canonical(without_envelope(direct.call(tool, arguments))), tool


@pytest.mark.peers
def test_server_sqlite(stage: Stage, server_sqlite: Path) -> None:
    """A server on `mcp<2` that annotates nothing: what it writes is there, what it reads is the same."""
    program = script_of(server_sqlite, "mcp-server-sqlite")
    entry = stage.entry(program, "--db-path", str(stage.folder / "toy.db"))
    bridge, direct = through_and_direct(stage, entry)
    for tool, query in [
        ("create_table", "CREATE TABLE fruit (name TEXT, n INTEGER)"),
        ("write_query", "INSERT INTO fruit VALUES ('apple', 1), ('pear', 2)"),
    ]:
        outcome = bridge.outcome(bridge.submit(tool, {"query": query}).id)
        assert not outcome.get("isError")
        assert "rror" not in text_of(outcome)
    assert_same(
        bridge,
        direct,
        [
            ("list_tables", {}),
            ("describe_table", {"table_name": "fruit"}),
            ("read_query", {"query": "SELECT * FROM fruit ORDER BY n"}),
            ("read_query", {"query": "SELECT * FROM nothing"}),
        ],
    )


def without_envelope(result: Json) -> Json:
    """A result without what the 2026-07-28 wire adds to every result: the bridge may speak that era to the server."""
    meta = {key: value for key, value in result.get("_meta", {}).items() if not key.endswith("/serverInfo")}
    bare = {key: value for key, value in result.items() if key not in ("resultType", "_meta")}
    return {**bare, "_meta": meta} if meta else bare


# --- clients -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(shared_stage: Stage) -> dict[str, Json]:
    """What the clients' bridge wraps."""
    return {"toy": shared_stage.toy()}


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage, servers: dict[str, Json]) -> HttpBridge:
    """A bridge over both HTTP transports for clients that open a session for every call."""
    return shared_stage.http_bridge(servers, "--sse")


def ways_in(stage: Stage, servers: dict[str, Json], bridge: HttpBridge) -> dict[str, list[str]]:
    """How a client script is told where the bridge is, for each transport."""
    return {
        "stdio": ["stdio", *stage.command("serve", "--config", str(stage.config(servers)))],
        "http": ["http", f"{bridge.base}/mcp"],
        "sse": ["sse", f"{bridge.base}/sse"],
    }


def assert_saw_it_all(report: Json) -> None:
    """What every client script reports after list → call → await_future → gather."""
    assert {"toy__echo", "toy__sleep"} | FUTURES <= set(report["tools"])
    assert len(set(report["futures"])) == 3
    assert text_of(report["awaited"]) == "slept 0.5 a"
    results = report["gathered"]["structuredContent"]["results"]
    assert [each["result"] for each in results] == [f"slept 0.5 {tag}" for tag in "abc"]
    assert report["beats"] >= 1
    assert not report["broken"].get("isError")


def drive(stage: Stage, runs: dict[str, list[str]]) -> dict[str, Json]:
    """Run several client scripts at the same time; what each printed."""
    with ThreadPoolExecutor(len(runs)) as pool:
        ran = dict(
            zip(runs, pool.map(lambda command: stage.run_command(command, timeout=60), runs.values()), strict=True)
        )
    for name, each in ran.items():
        assert each.code == 0, f"{name}: {each.stderr}"
    return {name: json.loads(each.stdout) for name, each in ran.items()}


@pytest.mark.node
def test_typescript_sdk_1(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge, npm: Path) -> None:
    """The TypeScript SDK 1.x over stdio, Streamable HTTP and SSE."""
    sdk = str(npm / "node_modules" / "@modelcontextprotocol" / "sdk")
    script = ["node", str(CLIENTS / "typescript.mjs"), sdk]
    runs = {name: [*script, *way] for name, way in ways_in(shared_stage, servers, bridge).items()}
    for report in drive(shared_stage, runs).values():
        assert_saw_it_all(report)


@pytest.mark.peers
def test_python_sdk_1(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge, python_sdk_1: Path) -> None:
    """The Python SDK 1.x, from an environment of its own, over stdio, Streamable HTTP and SSE."""
    script = [python_of(python_sdk_1), str(CLIENTS / "python_sdk_1.py")]
    runs = {name: [*script, *way] for name, way in ways_in(shared_stage, servers, bridge).items()}
    for report in drive(shared_stage, runs).values():
        assert_saw_it_all(report)


def test_python_sdk_2(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge) -> None:
    """The Python SDK 2.3 in both of its modes, over stdio and Streamable HTTP."""
    ways = ways_in(shared_stage, servers, bridge)
    runs = {
        f"{mode} {kind}": [sys.executable, str(CLIENTS / "python_sdk_2.py"), mode, *ways[kind]]
        for mode in ("auto", "legacy")
        for kind in ("stdio", "http")
    }
    for name, report in drive(shared_stage, runs).items():
        assert_saw_it_all(report)
        assert report["version"] == ("2026-07-28" if name.startswith("auto") else "2025-11-25")


@pytest.mark.node
def test_inspector(shared_stage: Stage, servers: dict[str, Json], bridge: HttpBridge, npm: Path) -> None:
    """The official Inspector's CLI: a process and a session for each request, over HTTP, SSE and stdio."""
    inspector = ["node", npm_bin(npm, "mcp-inspector"), "--cli"]

    def ask(target: list[str], *arguments: str) -> Json:
        ran = shared_stage.run_command([*inspector, *target, *arguments], timeout=60)
        assert ran.code == 0, ran.stderr
        return json.loads(ran.stdout)

    def call(target: list[str], tool: str, **arguments: object) -> Json:
        pairs = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in arguments.items()]
        more = ["--tool-arg", *pairs] if pairs else []
        return ask(target, "--method", "tools/call", "--tool-name", tool, *more)

    http, sse = [f"{bridge.base}/mcp"], [f"{bridge.base}/sse"]
    # The inspector passes a config on whole; everything it does not know goes to the server it starts.
    command = shared_stage.command("serve", "--config", str(shared_stage.config(servers)))
    mcp_json = shared_stage.folder / "inspector.json"
    mcp_json.write_text(json.dumps({"mcpServers": {"bridge": {"command": command[0], "args": command[1:]}}}))
    stdio = ["--config", str(mcp_json), "--server", "bridge"]
    with ThreadPoolExecutor(3) as pool:
        listings = list(pool.map(lambda target: ask(target, "--method", "tools/list"), (http, sse, stdio)))
    for listed in listings:
        assert {tool["name"] for tool in listed["tools"]} >= FUTURES
    assert "toy__sleep" in {tool["name"] for tool in listings[0]["tools"]}
    future = call(http, "toy__sleep", seconds=0.2, tag="inspected")["_meta"]["asyncfc/futures"][0]["future_id"]
    with ThreadPoolExecutor(2) as pool:
        awaiting = pool.submit(call, sse, "await_future", future_id=future)
        gathering = pool.submit(call, http, "gather", future_ids=[future])
        assert text_of(awaiting.result()) == "slept 0.2 inspected"
        assert gathering.result()["structuredContent"]["results"][0]["result"] == "slept 0.2 inspected"
