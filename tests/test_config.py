"""Configuration: what hosts write is read as it is, and what is wrong is said in one line.

The configurations in `PASTED` are shaped like the ones in the hosts' own documentation.
"""

import codecs
import contextlib
import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config import (
    SERVER_KEYS,
    SPAWN_KEYS,
    BridgeConfig,
    HttpSpec,
    Policy,
    ServerConfig,
    Settings,
    StdioSpec,
    field_docs,
)
from asyncfc_mcp.config_reader import config_for_command, config_for_url, load_config, parse_config
from asyncfc_mcp.errors import ConfigError

REPO = Path(__file__).resolve().parents[1]
FILE = "mcp.json"
Json = dict[str, Any]


def parse(value: object, environ: Mapping[str, str] | None = None) -> BridgeConfig:
    """The configuration that is this JSON value (or, if it is a string, this text)."""
    return parse_config(value if isinstance(value, str) else json.dumps(value), FILE, environ or {})


def entry(value: Json, environ: Mapping[str, str] | None = None) -> ServerConfig:
    """The only server of a configuration, from its entry."""
    (server,) = parse({"mcpServers": {"s": value}}, environ).servers
    return server


def section(own: Json, top: Json | None = None) -> ServerConfig:
    """A server with this `asyncfc` section, below this one at the top."""
    (server,) = parse({"mcpServers": {"s": {"command": "x", "asyncfc": own}}, "asyncfc": top or {}}).servers
    return server


def refused(value: object, environ: Mapping[str, str] | None = None) -> str:
    """What is said of a wrong configuration: one line that begins with the file."""
    with pytest.raises(ConfigError) as caught:
        parse(value, environ)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert said.startswith(f"{FILE}: ")
    assert "; expected " in said
    return said


def refused_section(own: Json) -> str:
    """What is said of a wrong `asyncfc` section of a server."""
    return refused({"mcpServers": {"s": {"command": "x", "asyncfc": own}}})


# --- what hosts write ----------------------------------------------------------------------------------------------

CLAUDE_DESKTOP = r"""
{
  "globalShortcut": "Ctrl+Space",
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "C:\\Users\\me\\Desktop", "/Users/me/Downloads"],
      "env": {"APPDATA": "C:\\Users\\me\\AppData\\Roaming\\"}
    },
    "memory": {"command": "docker", "args": ["run", "-i", "--rm", "mcp/memory"]}
  }
}
"""
CLAUDE_CODE = """
{
  "mcpServers": {
    "github": {"type": "http", "url": "https://api.githubcopilot.com/mcp/",
               "headers": {"Authorization": "Bearer ${GITHUB_TOKEN}"}},
    "asana": {"type": "sse", "url": "${ASANA_BASE:-https://mcp.asana.com}/sse"},
    "db": {"type": "stdio", "command": "npx", "args": ["-y", "@bytebase/dbhub", "--dsn", "${DSN:-sqlite:///a.db}"],
           "env": {}}
  }
}
"""
CURSOR = """
{
  "mcpServers": {
    "local": {"command": "python", "args": ["${workspaceFolder}/server.py", "--home=${userHome}"],
              "env": {"API_KEY": "${env:API_KEY}"}, "envFile": ".env", "disabled": false},
    "remote": {"url": "http://localhost:3000/mcp", "headers": {"API_KEY": "value"}},
    "old": {"url": "http://localhost:3001/sse"}
  }
}
"""
VS_CODE = """
// Written by the command "MCP: Add Server"
{
  "inputs": [{"type": "promptString", "id": "key", "description": "API key", "password": true}],
  "servers": {
    "playwright": {"type": "stdio", "command": "npx", "args": ["-y", "@microsoft/mcp-server-playwright"],
      "env": {"PORT": 8931, "DEBUG": null}, "dev": {"watch": "build/**/*.js"}}, /* one of two */
    "github": {"type": "http", "url": "https://api.githubcopilot.com/mcp",},
  },
}
"""


def test_a_claude_desktop_configuration_is_read_as_it_is() -> None:
    """Commands with arguments and an environment; what else the host keeps in the file is a warning in one line."""
    config = parse(CLAUDE_DESKTOP)
    filesystem, memory = config.servers
    assert filesystem.name == "filesystem"
    assert filesystem.spec == StdioSpec(
        "npx",
        ("-y", "@modelcontextprotocol/server-filesystem", "C:\\Users\\me\\Desktop", "/Users/me/Downloads"),
        {"APPDATA": "C:\\Users\\me\\AppData\\Roaming\\"},
    )
    assert memory.spec == StdioSpec("docker", ("run", "-i", "--rm", "mcp/memory"))
    assert config.warnings == ("mcp.json: globalShortcut: ignored, it means nothing to the bridge",)
    assert config.source == FILE
    assert config.settings == Settings()
    assert not memory.keep_names
    assert memory.prefix is None


def test_a_claude_code_configuration_is_read_as_it_is() -> None:
    """`type` http, sse and stdio; variables with and without a default."""
    github, asana, db = parse(CLAUDE_CODE, {"GITHUB_TOKEN": "t0"}).servers
    assert github.spec == HttpSpec("https://api.githubcopilot.com/mcp/", {"Authorization": "Bearer t0"}, "http")
    assert asana.spec == HttpSpec("https://mcp.asana.com/sse", {}, "sse")
    assert db.spec == StdioSpec("npx", ("-y", "@bytebase/dbhub", "--dsn", "sqlite:///a.db"))


def test_a_cursor_configuration_is_read_as_it_is() -> None:
    """Its own variables are filled in, and the transport is found from the URL."""
    config = parse(CURSOR, {"API_KEY": "k1"})
    local, remote, old = config.servers
    assert isinstance(local.spec, StdioSpec)
    assert local.spec.args == (f"{os.getcwd()}/server.py", f"--home={os.path.expanduser('~')}")
    assert local.spec.env == {"API_KEY": "k1"}
    assert remote.spec == HttpSpec("http://localhost:3000/mcp", {"API_KEY": "value"}, "http")
    assert old.spec == HttpSpec("http://localhost:3001/sse", {}, "sse")
    assert config.warnings == ("mcp.json: mcpServers.local.envFile: not read: No such file or directory",)


def test_a_vs_code_configuration_is_read_as_it_is() -> None:
    """`servers`, `inputs`, comments, commas at ends, numbers and null in `env`."""
    config = parse(VS_CODE)
    playwright, github = config.servers
    assert isinstance(playwright.spec, StdioSpec)
    assert playwright.spec.env == {"PORT": "8931"}
    assert github.spec == HttpSpec("https://api.githubcopilot.com/mcp")
    assert config.warnings == ("mcp.json: servers.playwright.dev: ignored, it means nothing to the bridge",)


def test_what_only_a_host_can_ask_for_is_refused() -> None:
    """`${input:…}` is filled in by VS Code's own dialog; nobody does that here."""
    said = refused({"servers": {"s": {"command": "x", "env": {"KEY": "${input:key}"}}}})
    assert "servers.s.env.KEY" in said
    assert "${input:key}" in said


@pytest.mark.parametrize("name", ["http", "streamable-http", "streamableHttp", "streamable_http"])
def test_every_spelling_of_streamable_http_is_known(name: str) -> None:
    """Hosts differ in how they write it; said explicitly it wins over the URL."""
    assert entry({"type": name, "url": "http://h/sse"}).spec == HttpSpec("http://h/sse", {}, "http")


def test_a_transport_said_explicitly_wins_over_the_url() -> None:
    """A URL that ends in /sse is only a hint."""
    assert entry({"type": "sse", "url": "http://h/mcp"}).spec == HttpSpec("http://h/mcp", {}, "sse")
    assert entry({"url": "http://h/a/sse/?x=1"}).spec == HttpSpec("http://h/a/sse/?x=1", {}, "sse")


def test_null_is_the_same_as_nothing_in_an_entry() -> None:
    """Hosts that write their entries from a form put null where nothing was said."""
    empty = dict.fromkeys(("args", "env", "cwd", "url", "headers", "type", "asyncfc", "disabled"))
    assert entry({"command": "x", **empty}).spec == StdioSpec("x")


def test_a_working_directory_may_be_in_the_users_home() -> None:
    """`~` and variables are expanded in `cwd`."""
    spec = entry({"command": "x", "cwd": "~/${DIR}"}, {"DIR": "work"}).spec
    assert isinstance(spec, StdioSpec)
    assert spec.cwd == os.path.expanduser("~/work")


@pytest.mark.parametrize("switch", [{"disabled": True}, {"enabled": False}])
def test_a_disabled_server_is_left_out_and_not_judged(switch: Json) -> None:
    """Whatever else its entry holds; the warning says which."""
    config = parse({"mcpServers": {"on": {"command": "x"}, "off": {"args": 5, "asyncfc": {"no": 1}, **switch}}})
    assert [server.name for server in config.servers] == ["on"]
    assert config.warnings == ("mcp.json: mcpServers.off: the server is disabled and left out",)


def test_a_server_that_is_not_disabled_stays() -> None:
    """The switches may be written out; a word is no switch."""
    assert entry({"command": "x", "disabled": False, "enabled": True}).name == "s"
    assert "mcpServers.s.disabled" in refused({"mcpServers": {"s": {"command": "x", "disabled": "false"}}})


def test_an_unknown_key_of_an_entry_is_a_warning_that_may_know_better() -> None:
    """A misspelling is named, a host's own key is not taken for one, and one of our settings is told its place."""
    config = parse(
        {"mcpServers": {"s": {"command": "x", "arg": [], "autoApprove": [], "timeout": 60, "ordering": "strict"}}}
    )
    arg, approve, timeout, ordering = config.warnings
    assert arg.startswith("mcp.json: mcpServers.s.arg: ignored")
    assert arg.endswith("did you mean 'args'?")
    assert approve == "mcp.json: mcpServers.s.autoApprove: ignored, it means nothing to the bridge"
    assert "did you mean" not in timeout
    assert ordering.startswith("mcp.json: mcpServers.s.ordering: ignored here")
    assert '"asyncfc"' in ordering


def test_foreign_keys_at_the_top_are_one_warning() -> None:
    """A host's own settings file may have dozens of keys; ours among them are told their place."""
    foreign = {f"key{i}": i for i in range(40)}
    config = parse({"mcpServers": {"s": {"command": "x"}}, "grace_ms": 5, **foreign})
    ours, theirs = config.warnings
    assert ours.startswith("mcp.json: grace_ms: ignored here")
    assert theirs == "mcp.json: key0, key1, key2, key3, key4 and 35 more: ignored, it means nothing to the bridge"
    assert config.servers[0].base.grace_ms == Policy().grace_ms


# --- the text ------------------------------------------------------------------------------------------------------

SMALL = '{"mcpServers": {"s": {"command": "x"}}}'


@pytest.mark.parametrize(
    "text",
    [
        '// first\n{"mcpServers": {"s": {"command": "x"}}} // last',
        '/* "mcpServers" */ {"mcpServers": /* { */ {"s": {"command": "x"}}}',
        '{"mcpServers": {"s": {"command": "x",},},}',
        '{"mcpServers": {"s": {"command": "x", "args": [ ],\n // and no more\n }, /**/ }\n,}',
        '{"mcpServers":\r\n{"s": // comment\r\n{"command": "x"}}}\r\n',
    ],
)
def test_comments_and_commas_at_ends_are_read(text: str) -> None:
    """VS Code and Cursor write JSON with comments."""
    assert parse(text).servers[0].spec == StdioSpec("x")


def test_what_looks_like_a_comment_inside_a_string_is_text() -> None:
    """URLs and globs have slashes and stars, and arguments may have a comma before a bracket."""
    args = ["http://h//x", "/* no */", "a, ]", '\\", } // x', "**/*"]
    assert entry({"command": "x", "args": args}).spec == StdioSpec("x", tuple(args))


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + SMALL.encode(),
        codecs.BOM_UTF16_LE + SMALL.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + SMALL.encode("utf-16-be"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, data: bytes) -> None:
    """Windows editors write one, PowerShell UTF-16."""
    path = tmp_path / FILE
    path.write_bytes(data)
    assert load_config(path, {}).servers[0].name == "s"
    assert load_config(path, {}).source == str(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"mcpServers": {', "line 1, column 17"),
        ('{\n  "mcpServers": {\n    "s": {"command": x}\n  }\n}', "line 3, column 22"),
        ('{\n // a comment\n /* two\n lines */ "mcpServers" {}}', "line 4, column 24"),
        ('{"mcpServers": {}} {', "line 1, column 20"),
        ("nonsense", "line 1, column 1"),
        ("/* never closed", "line 1, column 1"),
    ],
)
def test_broken_json_is_placed(text: str, place: str) -> None:
    """Line and column as an editor counts them, comments before it included."""
    assert place in refused(text)


def test_a_key_that_stands_twice_is_refused() -> None:
    """JSON would let the last one win without a word: the first server would be gone."""
    said = refused('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}')
    assert "a: the key stands twice" in said


@pytest.mark.parametrize("text", ["", " \n", "// nothing yet\n", "null", "[]", '"x"', "5"])
def test_a_file_without_an_object_is_refused(text: str) -> None:
    """Empty, or something else than an object."""
    refused(text)


@pytest.mark.parametrize("depth", [900, 960, 990, 10_000])
def test_nesting_beyond_all_reason_is_refused(depth: int) -> None:
    """Wherever it stands, and whoever meets it first: the parser, or who shows what was found."""
    nested = "[" * depth + "]" * depth
    refused(nested)
    for place in (
        '{"mcpServers": {"s": {"command": NESTED}}}',
        '{"mcpServers": {"s": {"command": "x", "args": NESTED}}}',
        '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"mode": NESTED}}',
    ):
        refused(place.replace("NESTED", nested))


def test_numbers_beyond_all_reason_are_refused() -> None:
    """JSON sets numbers no bounds; NaN and Infinity are what Python's reader lets pass on top."""
    config = '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"NAME": NUMBER}}'
    for number in ("1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "9" * 5000):
        for name in ("timeout_s", "max_pending"):
            refused(config.replace("NAME", name).replace("NUMBER", number))


# --- the file ------------------------------------------------------------------------------------------------------


def refused_file(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With its whole path."""
    path = tmp_path / "nowhere.json"
    assert refused_file(path) == f"{path}: there is no such file; expected a configuration file"


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    """It says what was found."""
    assert "found a folder" in refused_file(tmp_path)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason is passed on."""
    path = tmp_path / FILE
    path.write_text(SMALL)
    assert "Not a directory" in refused_file(path / "below")

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in refused_file(path)


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "empty"), (b"\xef\xbb\xbf \n", "empty"), (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"), (b"\x00\x00", "line 1")],
)
def test_an_empty_or_binary_file_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    """Each with what is wrong with it."""
    path = tmp_path / FILE
    path.write_bytes(data)
    assert word in refused_file(path)


def test_a_strange_file_name_breaks_no_line(tmp_path: Path) -> None:
    """A name may hold a newline or bytes that are no text; the error is one line all the same."""
    assert r"a\nb" in refused_file(tmp_path / "a\nb")
    assert refused_file(tmp_path / os.fsdecode(b"a\xff\x1b[2J")).isprintable()


# --- variables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("${env:A}", "one"),
        ("${A:-other}", "one"),
        ("${NONE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-${A}}", "one"),
        ("${NONE:-a ${NADA:-b} c}", "a b c"),
        ('${NONE:-{"k": 1}}', '{"k": 1}'),
        ("${env:NONE:-other}", "other"),
        ("${NONE:-http://h/p?q=1}", "http://h/p?q=1"),
        ("$A", "$A"),
        ("$${A}", "$one"),
        ("${A", "${A"),
        ("${}", "${}"),
        ("${#list[@]}", "${#list[@]}"),
        ("${1}", "${1}"),
        ("100 %PATH%", "100 %PATH%"),
        ("${/}", os.sep),
        ("${pathSeparator}", os.sep),
        ("${workspaceFolderBasename}", os.path.basename(os.getcwd())),
    ],
)
def test_variables_are_expanded_everywhere_in_an_entry(written: str, read: str) -> None:
    """In command, arguments, environment, working directory, URL and headers; other dollars are text."""
    environ = {"A": "one", "B": "two", "EMPTY": ""}
    spec = entry(
        {"command": f"c{written}", "args": [written], "env": {"K": written}, "cwd": f"/{written}"}, environ
    ).spec
    assert spec == StdioSpec(f"c{read}", (read,), {"K": read}, f"/{read}")
    remote = entry({"url": f"http://h/{written}", "headers": {"K": written}}, environ).spec
    assert remote == HttpSpec(f"http://h/{read}", {"K": read})


def test_the_value_of_a_variable_is_not_expanded_again() -> None:
    """What stands in the environment is text, whatever it looks like."""
    assert entry({"command": "x", "args": ["${A}"]}, {"A": "${B}"}).spec == StdioSpec("x", ("${B}",))


def test_a_name_of_the_hosts_may_be_set_in_the_environment() -> None:
    """Then the environment wins."""
    assert entry({"command": "${userHome}/x"}, {"userHome": "/there"}).spec == StdioSpec("/there/x")


@pytest.mark.parametrize("written", ["${NOPE}", "${env:NOPE}", "${NADA:-${NOPE}}"])
@pytest.mark.parametrize("key", ["env", "headers", "url"])
def test_a_missing_variable_is_an_error_that_shows_the_way_out(written: str, key: str) -> None:
    """Which variable, where, and that a default may be given; where a text with `${…}` in it cannot work."""
    value: Json = {
        "env": {"command": "x", "env": {"K": written}},
        "headers": {"url": "http://h", "headers": {"K": written}},
        "url": {"url": f"http://h/{written}"},
    }[key]
    said = refused({"mcpServers": {"s": value}})
    assert f"mcpServers.s.{key}" in said
    assert "the environment has no NOPE" in said
    assert "${NOPE:-default}" in said


def test_a_missing_working_directory_is_only_missed_where_it_is_needed(tmp_path: Path) -> None:
    """A bridge whose own folder was deleted still starts."""
    code = (
        "import os, sys; from asyncfc_mcp.config_reader import parse_config; os.rmdir(os.getcwd())\n"
        'def c(a): return parse_config(\'{"mcpServers": {"s": {"command": "x", "cwd": "%s"}}}\' % a, \'f\', {})\n'
        "print(c('${userHome}x').servers[0].spec.command != '')\n"
        "try: c('${workspaceFolder}')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[0] == "True"
    assert ran.stdout.splitlines()[1].startswith("ConfigError f: mcpServers.s.cwd: found ${workspaceFolder}")


@pytest.mark.parametrize(
    "value",
    [
        {"command": "x", "env": {"KEY": ["hunter2"]}},
        {"command": "x", "env": {"KEY": {"hunter2": 1}}},
        {"command": "x", "env": "KEY=hunter2"},
        {"command": "x", "env": ["KEY=hunter2"]},
        {"command": "x", "args": ["--key", {"hunter2": "hunter2"}]},
        {"url": "http://h", "headers": "Authorization: hunter2"},
        {"url": "http://h", "headers": {"Authorization": {"Bearer": "hunter2"}}},
        {"url": "ftp://me:hunter2@h/x?key=hunter2"},
        {"url": "${KEY}"},
        {"url": "http://h:${KEY}/"},
    ],
)
def test_no_error_shows_a_secret(value: Json) -> None:
    """What stands in `env`, in headers and in the environment is never repeated."""
    assert "hunter2" not in refused({"mcpServers": {"s": value}}, {"KEY": "hunter2"})


# --- entries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("npx", ["mcpServers.s: found", '"command" or "url"']),
        ([], ["mcpServers.s", "a list"]),
        ({}, ["mcpServers.s", 'neither "command" nor "url"']),
        ({"command": "x", "url": "http://h"}, ['both "command" and "url"']),
        ({"comand": "x"}, ["but 'comand'"]),
        ({"command": ""}, ["mcpServers.s.command", "empty"]),
        ({"command": "${E}"}, ["mcpServers.s.command", "empty"]),
        ({"command": []}, ["mcpServers.s.command", "found a list", "a string"]),
        ({"command": {"args": []}}, ["mcpServers.s.command", "found an object", "a string"]),
        ({"command": ["npx", ["-y"]]}, ["mcpServers.s.args[0]", "found a list", "a string"]),
        ({"command": "x", "args": "-y pkg"}, ["mcpServers.s.args", "found a string", "a list of strings"]),
        ({"command": "x", "args": ["-p", 1.5]}, ["mcpServers.s.args[1]", "found a number", "a string"]),
        ({"command": "x", "args": [True]}, ["mcpServers.s.args[0]", "found true", "a string"]),
        ({"command": "x", "env": {"A": 1.5}}, ["mcpServers.s.env.A", "found a number"]),
        ({"command": "x", "env": {"A": False}}, ["mcpServers.s.env.A", "found false"]),
        ({"command": "x", "cwd": 5}, ["mcpServers.s.cwd"]),
        ({"command": "x", "type": "http"}, ["mcpServers.s.type", "'http'", '"command"', "'stdio'"]),
        ({"url": "http://h", "type": "stdio"}, ["mcpServers.s.type", '"url"', "'http' or 'sse'"]),
        ({"url": "http://h", "type": "websocket"}, ["mcpServers.s.type", "'websocket'", "'streamable-http'"]),
        ({"url": "http://h", "type": 5}, ["mcpServers.s.type", "a number"]),
        ({"url": 5}, ["mcpServers.s.url"]),
        ({"url": "example.com/mcp"}, ["mcpServers.s.url", '"example.com/mcp"', "http://"]),
        ({"url": "ws://example.com/mcp"}, ["mcpServers.s.url", "ws://"]),
        ({"url": "http://"}, ["mcpServers.s.url"]),
        ({"url": "http://[::1"}, ["mcpServers.s.url"]),
        ({"url": "http://h:port/"}, ["mcpServers.s.url"]),
        ({"url": "http://h:70000/"}, ["mcpServers.s.url"]),
        ({"url": "http://h", "headers": ["a"]}, ["mcpServers.s.headers", "found a list"]),
        ({"url": "http://h", "headers": {"A": 1.5}}, ["mcpServers.s.headers.A"]),
        ({"command": "x", "asyncfc": []}, ["mcpServers.s.asyncfc", "an object"]),
    ],
)
def test_a_wrong_entry_is_explained(value: object, words: list[str]) -> None:
    """Key path, what was found, what was expected."""
    said = refused({"mcpServers": {"s": value}}, {"E": " "})
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, ["no servers", '"mcpServers"']),
        ({"mcpServer": {}}, ["'mcpServer'", '"mcpServers"']),
        ({"mcpServers": {}, "servers": {}}, ['both "mcpServers" and "servers"']),
        ({"mcpServers": {}}, ["mcpServers: there is no server to wrap"]),
        ({"mcpServers": {"a": {"command": "x", "disabled": True}}}, ["all of its 1 servers are disabled"]),
        ({"servers": []}, ["servers: found a list"]),
        ({"mcpServers": {"": {"command": "x"}}}, ["the name of a server is empty"]),
        ({"mcpServers": {" ": {"command": "x"}}}, ["the name of a server is empty"]),
        ({"mcpServers": {"s": {"command": "x"}}, "asyncfc": 5}, ["asyncfc: found 5", "an object"]),
    ],
)
def test_a_wrong_file_is_explained(value: object, words: list[str]) -> None:
    """What every configuration needs: exactly one table with at least one server."""
    said = refused(value)
    assert [word for word in words if word not in said] == [], said


# --- our own settings ----------------------------------------------------------------------------------------------

WHERE = {row[1]: row[0].split(", ") for row in field_docs()}
"""Setting → the levels where the documentation says it may stand."""


def sample(kind: Any, default: object) -> Any:
    """A value of this type that is not the default."""
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word != default)
    return not default if kind is bool else 3


SAMPLES: Mapping[str, Any] = {
    **{f.name: sample(f.type, f.default) for model in (Policy, Settings) for f in fields(model)},
    "reads": ["a/{x}"],
    "writes": [],
    "host_profiles": {"h": {"timeout_s": 9, "single_conversation": True}},
    "prefix": "p_",
    "include": ["a*"],
    "exclude": ["b"],
    "tools": {"t": {"mode": "sync"}},
    "state": "workspace",
    "env_inherit": "safe",
}
"""For every setting a value that is not its default."""


def at(level: str, own: Json) -> Json:
    """A configuration with this `asyncfc` section at the top, on a server or on a tool."""
    config: Json = {"mcpServers": {"s": {"command": "x"}}}
    if level == "top":
        config["asyncfc"] = own
    else:
        config["mcpServers"]["s"]["asyncfc"] = own if level == "server" else {"tools": {"t": own}}
    return config


def test_the_documentation_knows_every_setting() -> None:
    """Every field is a row, with its default, and has something to say; and nothing else is."""
    rows = {name: (default, doc) for _, name, default, doc in field_docs()}
    declared = {f.name for model in (Policy, Settings) for f in fields(model)}
    assert set(rows) == declared | set(SERVER_KEYS) | set(SPAWN_KEYS) == set(SAMPLES)
    assert len(field_docs()) == len(rows)
    for model in (Policy(), Settings()):
        for f in fields(model):
            assert rows[f.name][0] == getattr(model, f.name), f.name
    assert all(len(doc) > 10 and doc.endswith(".") for _, doc in rows.values())
    assert {level for levels in WHERE.values() for level in levels} == {"top", "server", "tool"}


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("level", ["top", "server", "tool"])
def test_a_setting_stands_where_it_is_documented_to(level: str, name: str) -> None:
    """There it is read; elsewhere it is an error that says where it belongs."""
    value = SAMPLES[name]
    if level not in WHERE[name]:
        said = refused(at(level, {name: value}))
        assert f"{name}: {name!r} stands" in said
        for place, words in {"top": "at the top of the file", "server": "on a server", "tool": "on a tool"}.items():
            assert (words in said.partition("; expected it ")[2]) == (place in WHERE[name]), said
        return
    config = parse(at(level, {name: value}))
    (server,) = config.servers
    read = tuple(value) if isinstance(value, list) else value
    if name in SERVER_KEYS:
        if name == "tools":
            assert server.policy("t").mode == "sync"
        else:
            assert getattr(server, name) == read
    elif name == "max_concurrency":
        assert (server.policy("t").max_concurrency, server.max_concurrency) == (
            (3, None) if level == "tool" else (None, 3)
        )
    elif name in SPAWN_KEYS:
        assert getattr(server.spec, name) == read
    elif WHERE[name] == ["top"]:
        assert getattr(config.settings, name) == read
    else:
        assert getattr(server.policy("t"), name) == read
        assert getattr(server.policy("other"), name) == (read if level != "tool" else getattr(Policy(), name))


def test_the_nearest_setting_wins() -> None:
    """Top below server below tool, setting by setting."""
    server = section(
        {"timeout_s": 2, "grace_ms": 2, "tools": {"t": {"timeout_s": 3}}},
        {"timeout_s": 1, "grace_ms": 1, "retries": 1},
    )
    assert (server.policy("t").timeout_s, server.policy("t").grace_ms, server.policy("t").retries) == (3, 2, 1)
    assert (server.policy("u").timeout_s, server.policy("u").grace_ms, server.policy("u").retries) == (2, 2, 1)
    assert server.tool_names == ("t",)


def test_null_takes_a_limit_away() -> None:
    """What is limited further up can be without limit further down."""
    server = section({"timeout_s": None, "tools": {"t": {"timeout_s": 1}}}, {"timeout_s": 1, "max_concurrency": 4})
    assert server.policy("u").timeout_s is None
    assert server.policy("t").timeout_s == 1
    assert section({"max_concurrency": None}, {"max_concurrency": 4}).max_concurrency is None


def test_max_concurrency_counts_what_it_stands_on() -> None:
    """On a tool the tool's calls, elsewhere the server's; a server's limit is not each tool's."""
    server = section({"max_concurrency": 4, "tools": {"t": {"max_concurrency": 2}}}, {"max_concurrency": 9})
    assert server.max_concurrency == 4
    assert server.policy("t").max_concurrency == 2
    assert server.policy("u").max_concurrency is None
    assert server.base.max_concurrency is None
    assert section({}, {"max_concurrency": 9}).max_concurrency == 9
    assert section({}, {"max_concurrency": 9}).policy("t").max_concurrency is None


def test_env_inherit_stands_at_the_top_or_on_a_server() -> None:
    """The nearest wins; a server at a URL has no process."""

    def inherit(own: Json, top: Json | None = None) -> object:
        spec = section(own, top).spec
        assert isinstance(spec, StdioSpec)
        return spec.env_inherit

    assert inherit({}) == "all"
    assert inherit({}, {"env_inherit": "safe"}) == "safe"
    assert inherit({"env_inherit": "all"}, {"env_inherit": "safe"}) == "all"
    assert inherit({"env_inherit": ["A", "AWS_*"]}) == ("A", "AWS_*")
    config = parse({"mcpServers": {"s": {"url": "http://x", "asyncfc": {"env_inherit": "safe"}}}})
    assert "no process" in config.warnings[0]


@pytest.mark.parametrize("wrong", ["none", "Safe", True, None, ["A=B"], [""], ["*"], ["A*B"], [1], {"A": "B"}])
def test_a_wrong_env_inherit_is_refused(wrong: object) -> None:
    """It would give a server more, or less, than was meant."""
    assert "asyncfc.env_inherit" in refused_section({"env_inherit": wrong})
    assert "on a tool" in refused_section({"tools": {"t": {"env_inherit": "safe"}}})


def test_nothing_said_of_effects_is_not_the_same_as_none() -> None:
    """An empty list says that nothing is touched."""
    assert section({}).policy("t").reads is None
    assert section({"reads": [], "writes": ["a"]}).policy("t").reads == ()


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"grace": 5}, ["asyncfc.grace: unknown key 'grace'", "'grace_ms'"]),
        ({"Mode": "sync"}, ["'mode'"]),
        ({"prefx": ""}, ["'prefix'"]),
        ({"tool": {}}, ["'tools'"]),
        ({"max_wait": 5}, ["'max_wait_s', at the top of the file only"]),
        ({"zzzzzzzz": 5}, ["one of ", "exclude", "writes"]),
        ({"tools": {"t": {"tmeout_s": 1}}}, ["asyncfc.tools.t.tmeout_s", "'timeout_s'"]),
        ({"tools": {"t": {"prefx": ""}}}, ["'prefix', on a server only"]),
    ],
)
def test_an_unknown_key_of_ours_is_an_error_that_names_the_nearest(own: Json, words: list[str]) -> None:
    """Unlike one in an entry that was copied: a setting that is silently ignored is worse than none."""
    said = refused_section(own)
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"mode": "async"}, ["mode: found \"async\"", "'future', 'sync'", "(nearest: 'sync')"]),
        ({"mode": None}, ["found null", "'future'"]),
        ({"mode": ["sync"]}, ["found a list", "'future'"]),
        ({"mode": {"a": 1}}, ["found an object"]),
        ({"ordering": "Strict"}, ["(nearest: 'strict')"]),
        ({"references": True}, ["references: found true", "'all'"]),
        ({"deliver": 1}, ["at the top of the file"]),
        ({"names": "yes"}, ["names: found \"yes\"", "true or false"]),
        ({"wait": 1}, ["wait: found 1", "true or false"]),
        ({"single_flight": None}, ["true or false"]),
        ({"reads": "a"}, ["reads: found \"a\"", "a list of strings"]),
        ({"reads": None}, ["reads: found null", "a list of strings"]),
        ({"writes": [1]}, ["writes[0]", "a string"]),
        ({"prefix": None}, ["prefix: found null", "a string"]),
        ({"include": "a*"}, ["include", "a list of strings"]),
        ({"tools": ["t"]}, ["tools: found a list", "tool name"]),
        ({"tools": {"t": None}}, ["tools.t", "an object"]),
        ({"max_concurrency": 0}, ["found 0", "a whole number, 1 or more"]),
        ({"max_concurrency": -1}, ["found -1"]),
        ({"max_concurrency": 1.5}, ["found 1.5", "a whole number"]),
        ({"max_concurrency": True}, ["found true"]),
        ({"max_concurrency": "4"}, ["found \"4\"", "a whole number"]),
        ({"timeout_s": 0}, ["found 0", "a number, more than 0"]),
        ({"timeout_s": "20s"}, ["found \"20s\"", "a number"]),
        ({"grace_ms": -0.5}, ["found -0.5", "0 or more"]),
        ({"grace_ms": None}, ["found null"]),
        ({"retries": 1.5}, ["found 1.5", "a whole number, 0 or more"]),
        ({"retries": 10**30}, ["a smaller number"]),
        ({"max_argument_bytes": 0}, ["1 or more"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_explained(own: Json, words: list[str]) -> None:
    """What was found and what would be right, with the nearest choice."""
    said = refused_section(own)
    assert said.startswith("mcp.json: mcpServers.s.asyncfc.")
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"question_timeout_s": 0}, ["more than 0"]),
        ({"max_pending": 0}, ["1 or more"]),
        ({"max_wait_s": -1}, ["found -1", "0 or more"]),
        ({"deliver": "on"}, ["'auto', 'inline', 'off'"]),
        ({"host_profiles": []}, ["host_profiles: found a list"]),
        ({"host_profiles": {"h": 1}}, ["host_profiles.h"]),
        ({"host_profiles": {"h": {"timeout": 1}}}, ["host_profiles.h.timeout", "'timeout_s'"]),
        ({"host_profiles": {"h": {"zzz": 1}}}, ["one of single_conversation"]),
        ({"host_profiles": {"h": {"timeout_s": 0}}}, ["more than 0"]),
        ({"host_profiles": {"h": {"name_limit": 1.5}}}, ["a whole number"]),
        ({"host_profiles": {"h": {"single_conversation": "yes"}}}, ["true or false"]),
    ],
)
def test_a_wrong_value_at_the_top_is_explained(own: Json, words: list[str]) -> None:
    """The same for what concerns the bridge as a whole."""
    said = refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": own})
    assert said.startswith("mcp.json: asyncfc.")
    assert [word for word in words if word not in said] == [], said


def test_a_key_with_a_line_break_breaks_no_line() -> None:
    """Whatever the keys and values of a file are, an error is one printable line, and so is a warning."""
    nasty = "a\nb\r\u2028\x1b[2J\ud800"
    for value in (
        {"mcpServers": {nasty: {}}},
        {"mcpServers": {"s": {"command": "x", "asyncfc": {nasty: 1}}}},
        {"mcpServers": {"s": {"command": "x", "asyncfc": {"mode": nasty}}}},
        {"mcpServers": {"s": {"command": "x", "type": nasty}}},
        {"mcpServers": {"s": {"command": "${input:" + nasty + "}"}}},
        {"mcpServers": {"s": {"url": nasty}}},
    ):
        assert refused(value).isprintable()
    for warning in parse({"mcpServers": {"s": {"command": "x", nasty: 1}}, nasty: 1}).warnings:
        assert warning.isprintable()


# --- without a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["npx", "-y", "@modelcontextprotocol/server-filesystem", "/data"], "server-filesystem"),
        (["npx", "-y", "@modelcontextprotocol/server-memory@2025.1.1"], "server-memory"),
        (["uvx", "mcp-server-time"], "mcp-server-time"),
        (["/usr/bin/python3", "a folder/toys.py", "raw"], "toys"),
        (["./my server.sh"], "my_server.sh"),
        (["-x"], "server"),
        (["/"], "server"),
    ],
)
def test_a_command_line_is_one_server_whose_tools_keep_their_names(argv: list[str], name: str) -> None:
    """Named after what it runs; nothing in it is expanded, since the shell has done that."""
    config = config_for_command(argv)
    (server,) = config.servers
    assert (server.name, server.prefix, server.keep_names) == (name, "", True)
    assert server.spec == StdioSpec(argv[0], tuple(argv[1:]))
    assert config.source == StdioSpec(argv[0], tuple(argv[1:])).shown
    assert server.base == Policy()


def test_a_url_is_one_server_whose_tools_keep_their_names() -> None:
    """Named after its host; what is no URL is refused in the words of the command line."""
    (server,) = config_for_url("https://example.com/mcp").servers
    assert (server.name, server.prefix, server.keep_names) == ("example.com", "", True)
    assert server.spec == HttpSpec("https://example.com/mcp")
    (old,) = config_for_url("http://127.0.0.1:1/sse").servers
    assert old.spec == HttpSpec("http://127.0.0.1:1/sse", {}, "sse")
    with pytest.raises(ConfigError, match=r"^--url: found"):
        config_for_url("example.com")


# --- whatever comes ------------------------------------------------------------------------------------------------

FULL: Json = {
    "mcpServers": {
        "a": {
            "command": "npx", "args": ["-y", "${A:-b}"], "env": {"K": "v"}, "cwd": "~", "type": "stdio",
            "asyncfc": {name: SAMPLES[name] for name in SAMPLES if "server" in WHERE[name]},
        },
        "b": {"url": "https://h/mcp", "headers": {"A": "${B:-c}"}, "type": "http", "disabled": False},
    },
    "asyncfc": {name: SAMPLES[name] for name in SAMPLES if "top" in WHERE[name]},
    "inputs": [],
}  # fmt: skip
"""A configuration with everything in it."""

STRANGE = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    [*SAMPLES, "mcpServers", "servers", "asyncfc", "command", "url", "args", "env", "type", "${X}", "${X:-", "http://["]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | STRANGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRANGE, inner, max_size=3),
    max_leaves=12,
)


def only_config_errors(text: str) -> None:
    """It is read, or refused in one printable line."""
    try:
        config = parse_config(text, FILE, {})
    except ConfigError as exc:
        said = str(exc)
        assert said.isprintable()
        assert said.startswith(FILE)
    else:
        assert config.servers
        assert all(warning.isprintable() for warning in config.warnings)
        for server in config.servers:
            server.policy("t")


def test_a_configuration_with_everything_is_read() -> None:
    """The starting point of the mutations is right."""
    assert [server.name for server in parse(FULL).servers] == ["a", "b"]


@settings(deadline=None)
@given(JSON, st.sampled_from(["", "mcpServers", "servers", "asyncfc", "entry", "section", "tool"]))
def test_any_json_value_is_read_or_refused(value: object, place: str) -> None:
    """Wherever it stands."""
    match place:
        case "":
            whole = value
        case "asyncfc":
            whole = at("top", value)  # type: ignore[arg-type]
        case "entry":
            whole = {"mcpServers": {"s": value}}
        case "section" | "tool":
            whole = at("server" if place == "section" else "tool", value)  # type: ignore[arg-type]
        case _:
            whole = {place: value}
    only_config_errors(json.dumps(whole))


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and key."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_holders(value[key])]]


@settings(deadline=None)
@given(st.integers(0, 10**6), JSON, st.sampled_from(["replace", "delete", "rename", "add"]))
def test_any_mutation_of_a_configuration_is_read_or_refused(where: int, value: object, how: str) -> None:
    """One place of a right configuration has another value, another key, one more, or nothing."""
    config = copy.deepcopy(FULL)
    places = _holders(config)
    holder, key = places[where % len(places)]
    if how == "replace":
        holder[key] = value
    elif how == "delete" or isinstance(holder, list):
        del holder[key]
    elif how == "rename":
        holder[str(value)[:20]] = holder.pop(key)
    else:
        holder[str(value)[:20]] = value
    only_config_errors(json.dumps(config))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=4))
def test_any_damage_to_a_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, where: int, junk: bytes
) -> None:
    """A few bytes of a right file are others; it is never more than a `ConfigError`."""
    data = VS_CODE.encode()
    cut = where % len(data)
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data[:cut] + junk + data[cut + random.Random(where).randrange(6) :])
    with contextlib.suppress(ConfigError):
        load_config(path, {})


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b'\xff\xfe{"')
@example(b"\xfe\xff\xd8\x00")
@example(b'"\\ud800"')
@example(b"\xef\xbb\xbf\xef\xbb\xbf{}")
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Nothing random is a configuration, and nothing random is more than a `ConfigError`."""
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(data)
    assert refused_file(path).isprintable()


# --- the documentation ---------------------------------------------------------------------------------------------


def test_the_page_about_configuration_is_up_to_date() -> None:
    """`docs/configuration.md` is what `docs/make_configuration.py` writes."""
    script = REPO / "docs" / "make_configuration.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--print"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == ran.stdout, "run: .venv/bin/python docs/make_configuration.py"


def test_the_example_of_the_page_is_a_configuration() -> None:
    """What the page shows can be pasted."""
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    example_text = page.partition("```json\n")[2].partition("```")[0]
    config = parse(example_text, {"GITHUB_TOKEN": "t"})
    assert [server.name for server in config.servers] == ["github", "files"]
    assert not config.warnings
    assert config.servers[1].policy("read_file").timeout_s == 20


def test_a_whole_number_among_the_arguments_is_its_text() -> None:
    """People write `["--port", 3000]`; other values disable the server."""
    config = parse(
        {"mcpServers": {"a": {"command": "x", "args": ["--port", 3000]}, "b": {"command": "x", "args": [1.5]}}}
    )
    [server] = config.servers
    assert server.spec == StdioSpec("x", ("--port", "3000"))
