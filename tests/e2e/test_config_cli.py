"""What a user meets first: the command line, the config file, and what is said when either is wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Json, RpcError, eventually, text_of
from tests.support.stage import Ran, Stage

TOY: Json = {"command": "toy"}


def write(stage: Stage, content: object) -> Path:
    """A config file with exactly this content."""
    path = stage.folder / "servers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def assert_one_line(ran: Ran, words: Sequence[str]) -> None:
    """Exit code 2 and one line on stderr that has all the words; nothing on stdout."""
    assert ran.code == 2, ran
    assert not ran.stdout
    lines = ran.stderr.strip().splitlines()
    assert len(lines) == 1, ran.stderr
    missing = [word for word in words if word not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"


def with_toy(**more: Any) -> Json:
    """A config of one server that has `more` in its entry."""
    return {"mcpServers": {"toy": {**TOY, **more}}}


WRONG: list[tuple[str, object, list[str]]] = [
    ("no JSON", '{"mcpServers": {', ["servers.json", "expected"]),
    ("a list", [], ["servers.json", "expected", "object"]),
    ("no servers at all", {}, ["servers.json", "mcpServers", "expected"]),
    ("a misspelt key of ours", with_toy() | {"asyncfc": {"grace_msec": 5}}, ["asyncfc.grace_msec", "grace_ms"]),
    ("a word for a number", with_toy() | {"asyncfc": {"grace_ms": "fast"}}, ["asyncfc.grace_ms", "fast", "number"]),
    ("a negative time", with_toy() | {"asyncfc": {"max_wait_s": -1}}, ["asyncfc.max_wait_s", "-1"]),
    (
        "a misspelt key of a server's section",
        with_toy(asyncfc={"prefx": ""}),
        ["mcpServers.toy.asyncfc.prefx", "prefix"],
    ),
    (
        "a word that is no choice",
        with_toy(asyncfc={"ordering": "sometimes"}),
        ["mcpServers.toy.asyncfc.ordering", "sometimes", "strict"],
    ),
    (
        "a misspelt key of a tool's section",
        with_toy(asyncfc={"tools": {"echo": {"mod": "sync"}}}),
        ["mcpServers.toy.asyncfc.tools.echo.mod", "mode"],
    ),
    ("neither command nor url", {"mcpServers": {"toy": {"args": []}}}, ["mcpServers.toy", "command", "url"]),
    ("arguments that are no list", with_toy(args="a b"), ["mcpServers.toy.args", "list"]),
    (
        "an unknown type",
        {"mcpServers": {"toy": {"url": "http://127.0.0.1/mcp", "type": "websocket"}}},
        ["mcpServers.toy.type", "websocket", "sse"],
    ),
    ("a variable that is not set", with_toy(env={"A": "${NOT_SET_ANYWHERE}"}), ["mcpServers.toy", "NOT_SET_ANYWHERE"]),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_config_is_one_line_that_helps(stage: Stage, content: object, words: list[str]) -> None:
    """File, key path, what was found, what was expected (the nearest known key); exit code 2, never a traceback."""
    path = write(stage, content)
    assert_one_line(stage.run("serve", "--config", str(path)), [str(path), "expected", *words])


def test_a_config_that_is_not_there_is_one_line(stage: Stage) -> None:
    """The path is named, for `serve` and for `inspect`."""
    path = str(stage.folder / "nowhere.json")
    for command in ("serve", "inspect"):
        assert_one_line(stage.run(command, "--config", path), [path])


def test_a_secret_is_not_shown_in_an_error(stage: Stage) -> None:
    """What stands in `env` or `headers` is never repeated."""
    path = write(stage, with_toy(env={"KEY": ["hunter2"]}))
    ran = stage.run("serve", "--config", str(path))
    assert_one_line(ran, ["mcpServers.toy.env.KEY"])
    assert "hunter2" not in ran.stderr


def test_keys_that_hosts_add_to_an_entry_are_a_warning(stage: Stage) -> None:
    """A config pasted from a host has keys that we do not know: said once, and then it runs."""
    entry = stage.toy() | {"disabled": False, "autoApprove": []}
    bridge = stage.bridge({"toy": entry})
    bridge.wait_for_tools("toy__echo")
    eventually(lambda: "autoApprove" in bridge.stderr(), "the key is warned of")


def test_the_servers_key_of_vs_code_is_read(stage: Stage) -> None:
    """`servers` instead of `mcpServers`, with `type: stdio`."""
    path = write(stage, {"servers": {"toy": stage.toy() | {"type": "stdio"}}, "inputs": []})
    bridge = stage.serve("--config", str(path))
    bridge.wait_for_tools("toy__echo")
    assert text_of(bridge.outcome(bridge.submit("toy__sleep", {"seconds": 0}).id)) == "slept 0"


def test_two_tools_of_one_name_can_both_be_called(stage: Stage) -> None:
    """The later server of the configuration gets a prefix for its own, and `inspect` says so."""
    servers = {name: {**stage.toy(), "asyncfc": {"prefix": "", "include": ["echo"]}} for name in ("first", "second")}
    bridge = stage.bridge(servers)
    bridge.wait_for_tools("echo", "second__echo")
    for tool in ("echo", "second__echo"):
        assert "hello" in text_of(bridge.outcome(bridge.submit(tool, {"text": "hello"}).id))
    seen = stage.run("inspect", "--config", str(stage.config(servers)))
    assert seen.code == 0
    assert "second__echo" in seen.stdout


def test_a_tool_with_a_name_of_ours_gets_another(stage: Stage) -> None:
    """A server cannot take the names of the bridge's own tools, and its tool can be called all the same."""
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": {"prefix": ""}}})
    bridge.wait_for_tools("add_tool")
    bridge.submit("add_tool", {"name": "gather"})
    bridge.wait_for_tools("toy__gather")
    assert bridge.gather([])["isError"] is True
    assert len([tool for tool in bridge.all_pages("tools/list", "tools") if tool["name"] == "gather"]) == 1


def test_version_and_help(stage: Stage) -> None:
    """`--version` says it, `--help` names every command, `serve --help` every option."""
    assert re.search(r"\d+\.\d+\.\d+", stage.run("--version").stdout)
    top = stage.run("--help")
    assert top.code == 0
    assert all(word in top.stdout for word in ("serve", "inspect", "demo"))
    helped = stage.run("serve", "--help")
    assert helped.code == 0
    options = ["--config", "--url", "--transport", "--host", "--port", "--sse", "--auth-token-env"]
    assert all(word in helped.stdout for word in [*options, "--insecure-no-auth", "--verbose", "CMD"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve"], ["--config", "--url", "--"]),
        (["serve", "--config", "x.json", "--url", "http://127.0.0.1/mcp"], ["--config", "--url"]),
        (["serve", "--url", "http://127.0.0.1:1/mcp", "--transport", "pigeon"], ["pigeon", "stdio"]),
        (["serve", "--url", "not a url"], ["not a url"]),
        (["sevre"], ["sevre"]),
        (["serve", "npx", "x", "--bar"], ["asyncfc-mcp serve -- npx x --bar"]),
        (["serve", "-v", "npx", "-y", "x"], ["asyncfc-mcp serve -v -- npx -y x"]),
        (["serve", "node", "s.js", "--port", "3000"], ["asyncfc-mcp serve -- node s.js --port 3000"]),
        (["serve", "--port", "1", "node", "s.js", "--url", "x"], ["asyncfc-mcp serve --port 1 -- node s.js --url x"]),
        (["serve", "x", "--api-key", "hunter2"], ["asyncfc-mcp serve -- x --api-key …"]),
        (["inspect", "npx", "-y", "x"], ["asyncfc-mcp inspect -- npx -y x"]),
        (["serve", "--confi", "servers.json"], ["No such option", "--config"]),
        (["serve", "servers.json"], ["asyncfc-mcp serve --config servers.json"]),
        (["serve", "x.json", "--transport", "http"], ["asyncfc-mcp serve --config x.json --transport http"]),
        (["inspect", "https://h/mcp"], ["asyncfc-mcp inspect --url https://h/mcp"]),
        (["serve", "/"], ["asyncfc-mcp serve --config /"]),
        (["serve", "--config", "/"], ["found a folder"]),
    ],
)
def test_a_wrong_command_line_is_explained(stage: Stage, arguments: list[str], words: list[str]) -> None:
    """Exit code 2 and what would have been right; never a traceback, nothing on stdout."""
    ran = stage.run(*arguments)
    assert ran.code == 2
    assert not ran.stdout
    assert "Traceback" not in ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr


def test_inspect_shows_every_server_and_what_is_wrong(stage: Stage) -> None:
    """A line for each server, the reason of those that are absent, all tools of one that is named; `--json` has all."""
    config = stage.config(
        {
            "good": {**stage.toy(), "asyncfc": {"tools": {"fail": {"mode": "sync"}}}},
            "bad": stage.toy("raw", "--crash-on-start"),
        }
    )
    table = stage.run("inspect", "--config", str(config), env={"COLUMNS": "200"})
    for word in ("good", "tools:", "bad", "failed", "no such luck"):
        assert word in table.stdout
    assert "good__echo" not in table.stdout
    details = stage.run("inspect", "--config", str(config), "good", "good__fail", env={"COLUMNS": "200"})
    for word in ("good__echo", "good__surroundings", "sync", "Tool good__fail"):
        assert word in details.stdout
    wrong = stage.run("inspect", "--config", str(config), "goood")
    assert_one_line(wrong, ["goood", "did you mean good"])
    as_json = stage.run("inspect", "--config", str(config), "--json")
    listed = json.loads(as_json.stdout)
    told = {tool["name"]: tool for tool in listed["tools"]}
    assert {"good__echo", "good__fail"} <= set(told)
    assert told["good__fail"]["mode"] == "sync"
    assert told["good__echo"]["server"] == "good"
    assert "no such luck" in as_json.stdout


SECRET = "hunter2hunter2Z9"


def mixed(stage: Stage) -> Path:
    """A good server, a shell's script with a variable of its own, and entries that cannot be used."""
    toy = stage.toy()
    own = toy["env"]
    script = 'for f in "$0" "$@"; do test -n "${f}" || exit 9; done; exec "$0" "$@"'
    return stage.config(
        {
            "good": toy,
            "shell": {
                "command": "bash",
                "args": ["-c", script, toy["command"], *toy["args"]],
                "env": own,
            },
            "local": {"type": "local", "command": [toy["command"], *toy["args"]], "environment": own},
            "unset": {"command": "x", "env": {"K": "${NOT_SET_ANYWHERE}"}},
            "asked": {"command": "x", "env": {"K": "${input:key}"}},
            "both": {"command": "x", "url": f"http://h/mcp?key={SECRET}"},
            "header": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": f"Bearer {SECRET}\nX"}},
            "pasted": {"url": "http://127.0.0.1:9/mcp", "headers": {"A": f"${{env:ghp_{SECRET}}}"}},
        }
    )


def test_entries_that_cannot_be_used_take_no_other_server_with_them(stage: Stage) -> None:
    """The others run; each that is left out is named with its reason, at the start and to the model."""
    bridge = stage.serve("--config", str(mixed(stage)))
    bridge.wait_for_tools("good__echo", "shell__echo", "local__echo")
    listed = text_of(bridge.call("list_futures", {}))
    for said in (bridge.stderr(), listed):
        for word in ("unset", "NOT_SET_ANYWHERE", "asked", "only the host", "both", "headers.Authorization", "pasted"):
            assert word in said
        assert SECRET not in said
    with pytest.raises(RpcError, match="NOT_SET_ANYWHERE"):
        bridge.call("unset__echo", {})


def test_inspect_shows_entries_that_cannot_be_used(stage: Stage) -> None:
    """With their reasons, in the table and in JSON; the exit code says that not every server is up."""
    config = str(mixed(stage))
    table, as_json = stage.run("inspect", "--config", config), stage.run("inspect", "--config", config, "--json")
    assert table.code == as_json.code == 1
    servers = {server["name"]: server for server in json.loads(as_json.stdout)["servers"]}
    assert {name for name, server in servers.items() if server["status"] == "ready"} == {"good", "shell", "local"}
    assert servers["asked"]["status"] == "misconfigured"
    assert "${input:key}" in servers["asked"]["reason"]
    for ran in (table, as_json):
        assert "NOT_SET_ANYWHERE" in ran.stdout
        assert SECRET not in ran.stdout + ran.stderr


def test_a_token_given_instead_of_its_variable_is_not_shown(stage: Stage) -> None:
    """`--auth-token-env` takes a name; what was pasted in its place stays out of the error."""
    ran = stage.run("serve", "--transport", "http", "--auth-token-env", f"ghp_{SECRET}", "--", "x")
    assert ran.code == 2
    assert SECRET not in ran.stderr
    assert "--auth-token-env" in ran.stderr


TRACEBACK = "import sys, time; time.sleep(0.3); sys.path.append('x' * 600); import no_such_module_anywhere"
"""A server that crashes, and is seen to be started again before that."""


def test_inspect_gives_the_reason_of_a_server_that_crashes_while_another_is_slow(stage: Stage) -> None:
    """The last reason stays while it is started again, the cause first, with its log; the same for the model."""
    gate = stage.folder / "gate"
    config = stage.config(
        {
            "crashes": {"command": sys.executable, "args": ["-c", TRACEBACK], "env": stage.toy()["env"]},
            "slow": stage.toy("raw", "--wait-for", str(gate)),
        }
    )
    bridge = stage.serve("--config", str(config))
    eventually(lambda: "failed 2 times" in text_of(bridge.call("list_futures", {})), "it failed twice")
    line = next(said for said in text_of(bridge.call("list_futures", {})).splitlines() if "crashes" in said)
    bridge.close()
    command = ["inspect", "--config", str(config), "--json"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stage.run, *command)
        # Its second start of this run: the state that had no reason before.
        eventually(lambda: _starts(stage, "crashes") >= 6, "it was started again")
        gate.touch()
        ran = running.result()
    servers = {server["name"]: server for server in json.loads(ran.stdout)["servers"]}
    assert servers["slow"]["status"] == "ready"
    for said in (line, servers["crashes"]["reason"]):
        assert "ModuleNotFoundError: No module named 'no_such_module_anywhere'" in said
        assert said.index("ModuleNotFoundError") < said.index("exited with code 1")
        assert "crashes.log" in said
        assert len(said) < 600


def _starts(stage: Stage, server: str) -> int:
    """How often a server was started, by its log."""
    return sum(path.read_text().count(" starts ") for path in (stage.folder / "logs").rglob(f"{server}.log"))


def test_the_users_home_is_filled_in_for_the_file(stage: Stage) -> None:
    """Hosts start the bridge without a shell."""
    home = stage.folder / "home"
    home.mkdir()
    (home / "mcp.json").write_text("{}")
    ran = stage.run("inspect", "--config", "~/mcp.json", env={"HOME": str(home)})
    assert_one_line(ran, [str(home / "mcp.json"), "no servers"])
