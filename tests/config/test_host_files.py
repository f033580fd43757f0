"""Hosts' files that are more than one table in JSON: YAML, projects of Claude Code, extensions of Goose, opencode 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.config.host_files import server_tables
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, StdioSpec
from asyncfc_mcp.config.parsing import MAX_YAML_VALUES
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import signed_in

GOOSE = """\
GOOSE_PROVIDER: anthropic  # the model's
extensions:
  developer:
    bundled: true
    enabled: true
    name: developer
    timeout: 300
    type: builtin
  github:
    enabled: true
    type: stdio
    name: GitHub
    cmd: npx
    args:
    - -y
    - '@modelcontextprotocol/server-github'
    envs: {TOKEN: on}
    env_keys: []
    timeout: 300
    available_tools: [get_issue]
  remote:
    enabled: true
    type: streamable_http
    uri: https://h/mcp
    headers:
      A: "1"
  off:
    enabled: false
    type: stdio
    cmd: x
"""
LIBRECHAT = """\
version: 1.2.1
mcpServers:
  puppeteer:
    type: stdio
    command: npx
    args: ["-y", "puppeteer"]
    timeout: 300000  # ms
    initTimeout: 10000
  remote:
    type: streamable-http
    url: https://h/mcp
    headers: {Authorization: "Bearer ${TOKEN}"}
"""


def parse(text: str, file: str, environ: dict[str, str] | None = None) -> BridgeConfig:
    return parse_config(text, file, environ or {})


def test_a_goose_file_is_read() -> None:
    """Its extensions that are MCP servers, without those that are parts of Goose."""
    config = parse(GOOSE, "/home/u/.config/goose/config.yaml")
    github, remote = config.servers
    assert github.spec == StdioSpec("npx", ("-y", "@modelcontextprotocol/server-github"), {"TOKEN": "on"})
    assert (github.include, github.base.timeout_s) == (("get_issue",), 300)
    assert remote.spec == signed_in("https://h/mcp", {"A": "1"})
    assert config.unusable == ()


def test_a_librechat_file_is_read() -> None:
    """As it is."""
    puppeteer, remote = parse(LIBRECHAT, "librechat.yaml", {"TOKEN": "t"}).servers
    assert puppeteer.spec == StdioSpec("npx", ("-y", "puppeteer"))
    assert puppeteer.base.timeout_s == 300
    assert remote.spec == HttpSpec("https://h/mcp", {"Authorization": "Bearer t"})


def test_our_own_file_may_be_yaml() -> None:
    """With settings of the bridge."""
    text = "mcpServers:\n  s:\n    command: x\n    asyncfc: {prefix: ''}\nasyncfc:\n  max_pending: 5\n"
    config = parse(text, "mcp.yml")
    assert (config.servers[0].prefix, config.settings.max_pending) == ("", 5)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(7)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2", ["line 2"]),
        ("a: 'secret-value", ["line 1"]),
        ("mcpServers:\n  a: {command: secret-value}\n  a: {command: y}\n", ["line 3", 'duplicate key "a"']),
        ("a: 1\n---\nb: 2\n", []),
        ("a: !!python/object:os.system x", ["line 1"]),
        ("a: &a [*a]", ["YAML"]),
        (BOMB, [str(MAX_YAML_VALUES)]),
        ("a: \x00", ["YAML"]),
        ("- a\n- b\n", ["a list"]),
        ("[" * 5000, ["YAML"]),
    ],
)
def test_broken_yaml_is_refused_with_its_place(text: str, words: list[str]) -> None:
    """In one line that shows no value of the file."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "config.yaml")
    said = str(caught.value)
    assert said.startswith("config.yaml: ")
    assert said.isprintable()
    assert "secret-value" not in said
    assert [word for word in words if word not in said] == [], said


CLAUDE: dict[str, Any] = {
    "numStartups": 5,
    "mcpServers": {"a": {"type": "stdio", "command": "a", "args": [], "env": {}}, "b": {"command": "general"}},
    "projects": {
        "/work": {"allowedTools": [], "mcpServers": {"b": {"command": "outer"}}},
        "/work/app": {"mcpServers": {"b": {"command": "inner"}, "c": {"type": "http", "url": "https://h/mcp"}}},
        "/work/app/empty": {"mcpServers": {}},
        "/other": {"mcpServers": {"d": {"command": "d"}}},
    },
}


@pytest.mark.parametrize(
    ("folder", "commands"),
    [
        ("/work/app", {"a": "a", "b": "inner", "c": None}),
        ("/work/app/empty/deep", {"a": "a", "b": "inner", "c": None}),
        ("/work", {"a": "a", "b": "outer"}),
        ("/elsewhere", {"a": "a", "b": "general"}),
    ],
)
def test_servers_of_claude_codes_current_project_are_added(folder: str, commands: dict[str, str | None]) -> None:
    """Those of the innermost project win over those of all projects; other projects have no part in it."""
    ((where, table),) = server_tables(CLAUDE, "/home/u/.claude.json", folder)
    assert where == "mcpServers"
    assert {name: entry.get("command") for name, entry in table.items()} == commands


def test_claude_codes_file_is_read_in_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if all servers belong to projects; a file of another name has no projects."""
    monkeypatch.chdir(tmp_path)
    value = {"projects": {str(tmp_path): {"mcpServers": {"s": {"command": "x"}}}}}
    (server,) = parse(json.dumps(value), "/home/u/.claude.json").servers
    assert server.spec == StdioSpec("x")
    with pytest.raises(ConfigError, match="no servers"):
        parse(json.dumps(value), "mcp.json")


def test_both_versions_of_opencode_are_read() -> None:
    """With their variables; VS Code's settings have the same key path, and no such variables."""
    entry = {"type": "LOCAL", "command": ["x", "{env:A}"], "environment": {"K": "v"}}
    new = {"$schema": "https://opencode.ai/config.json", "mcp": {"servers": {"s": entry}}}
    for root, word in (({"mcp": {"s": entry}}, "one"), (new, "one"), ({"mcp": {"servers": {"s": entry}}}, "{env:A}")):
        (server,) = parse(json.dumps(root), "opencode.json", {"A": "one"}).servers
        assert server.spec == StdioSpec("x", (word,), {"K": "v"})


@pytest.mark.parametrize(
    ("entry", "timeout_s"),
    [
        ({"timeout": 60}, 60),  # Cline, Roo Code, Goose
        ({"timeout": 3600}, 3600),
        ({"timeout": 600_000}, 600),  # Gemini CLI, LibreChat, Claude Code
        ({"timeout": 1500}, 1500),
        ({"tool_timeout_sec": 7200}, 7200),  # Codex
        ({"timeout": {"startup": 1, "request": 30_000}}, 30),  # opencode 2
        ({"timeout": 60, "asyncfc": {"timeout_s": 5}}, 5),
        ({"timeout": None}, None),
        ({"timeout": True}, None),
        ({"timeout": 0}, None),
        ({"timeout": "60"}, None),
        ({"timeout": 1e300}, None),
        ({}, None),
    ],
)
def test_the_timeout_of_a_host_is_kept(entry: dict[str, Any], timeout_s: float | None) -> None:
    """In its unit, or for longer, never for a shorter time than in the host; our own setting wins."""
    (server,) = parse(json.dumps({"mcpServers": {"s": {"command": "x", **entry}}}), "mcp.json").servers
    assert server.base.timeout_s == timeout_s


def test_a_hosts_timeout_is_nearer_than_the_setting_at_the_top() -> None:
    """And farther than one on a tool."""
    value = {
        "mcpServers": {"s": {"command": "x", "timeout": 60, "asyncfc": {"tools": {"t": {"timeout_s": 3}}}}},
        "asyncfc": {"timeout_s": 20},
    }
    (server,) = parse(json.dumps(value), "mcp.json").servers
    assert (server.policy("t").timeout_s, server.policy("other").timeout_s) == (3, 60)


def test_opencodes_timeout_of_listing_is_not_one_of_calls() -> None:
    """It is 5 s by default; calls may take longer."""
    config = parse(json.dumps({"mcp": {"s": {"type": "local", "command": ["x"], "timeout": 5000}}}), "opencode.json")
    assert config.servers[0].base.timeout_s is None
    assert "timeout" in config.warnings[0]


def test_yaml_is_loaded_for_such_a_file_only() -> None:
    """It takes a tenth of a second, which a bridge with another file does not pay."""
    program = """
import sys
from asyncfc_mcp.config.reader import parse_config
import asyncfc_mcp.cli.main
parse_config('{"mcpServers": {"s": {"command": "x"}}}', "mcp.json", {})
print([name for name in sys.modules if name.startswith(("ruamel", "tomlkit"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
