"""Configurations of hosts are read unchanged; any other value is read, or refused in one line.

The configurations are shaped like the ones in the hosts' own documentation.
"""

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.model import HttpSpec, StdioSpec
from asyncfc_mcp.config.reader import config_for_command, config_for_url, parse_config
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import FILE, SAMPLES, VS_CODE, WHERE, Json, at, entry, parse, refused, signed_in

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
    assert config.warnings == ("mcp.json: globalShortcut: ignored: not used by the bridge",)
    assert config.source == FILE
    assert config.settings == Settings()
    assert not memory.keep_names
    assert memory.prefix is None


def test_a_claude_code_configuration_is_read_as_it_is() -> None:
    """`type` http, sse and stdio; variables with and without a default."""
    github, asana, db = parse(CLAUDE_CODE, {"GITHUB_TOKEN": "t0"}).servers
    assert github.spec == HttpSpec("https://api.githubcopilot.com/mcp/", {"Authorization": "Bearer t0"}, "http")
    assert asana.spec == signed_in("https://mcp.asana.com/sse", {}, "sse")
    assert db.spec == StdioSpec("npx", ("-y", "@bytebase/dbhub", "--dsn", "sqlite:///a.db"))


def test_a_cursor_configuration_is_read_as_it_is() -> None:
    """Its own variables are filled in, and the transport is found from the URL."""
    config = parse(CURSOR, {"API_KEY": "k1"})
    local, remote, old = config.servers
    assert isinstance(local.spec, StdioSpec)
    assert local.spec.args == (f"{os.getcwd()}/server.py", f"--home={os.path.expanduser('~')}")
    assert local.spec.env == {"API_KEY": "k1"}
    assert remote.spec == signed_in("http://localhost:3000/mcp", {"API_KEY": "value"}, "http")
    assert old.spec == signed_in("http://localhost:3001/sse", {}, "sse")
    assert config.warnings == ("mcp.json: mcpServers.local.envFile: the file was not read: No such file or directory",)


def test_a_vs_code_configuration_is_read_as_it_is() -> None:
    """`servers`, `inputs`, comments, commas at ends, numbers and null in `env`."""
    config = parse(VS_CODE)
    playwright, github = config.servers
    assert isinstance(playwright.spec, StdioSpec)
    assert playwright.spec.env == {"PORT": "8931"}
    assert github.spec == signed_in("https://api.githubcopilot.com/mcp")
    assert config.warnings == ("mcp.json: servers.playwright.dev: ignored: not used by the bridge",)


def test_what_only_a_host_can_ask_for_is_refused() -> None:
    """`${input:…}` is filled in by VS Code's own dialog; nobody does that here."""
    said = refused({"servers": {"s": {"command": "x", "env": {"KEY": "${input:key}"}}}})
    assert "servers.s.env.KEY" in said
    assert "${input:key}" in said


@pytest.mark.parametrize("name", ["http", "streamable-http", "streamableHttp", "streamable_http"])
def test_every_spelling_of_streamable_http_is_known(name: str) -> None:
    """Hosts differ in how they write it; said explicitly it wins over the URL."""
    assert entry({"type": name, "url": "http://h/sse"}).spec == signed_in("http://h/sse", {}, "http")


def test_a_transport_said_explicitly_wins_over_the_url() -> None:
    """A URL that ends in /sse is only a hint."""
    assert entry({"type": "sse", "url": "http://h/mcp"}).spec == signed_in("http://h/mcp", {}, "sse")
    assert entry({"url": "http://h/a/sse/?x=1"}).spec == signed_in("http://h/a/sse/?x=1", {}, "sse")


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
        {"mcpServers": {"s": {"command": "x", "arg": [], "autoApprove": [], "trust": True, "ordering": "strict"}}}
    )
    arg, approve, trust, ordering = config.warnings
    assert arg.startswith("mcp.json: mcpServers.s.arg: ignored")
    assert arg.endswith("did you mean 'args'?")
    assert approve == "mcp.json: mcpServers.s.autoApprove: ignored: not used by the bridge"
    assert "did you mean" not in trust
    assert ordering.startswith("mcp.json: mcpServers.s.ordering: ignored here")
    assert '"asyncfc"' in ordering


def test_foreign_keys_at_the_top_are_one_warning() -> None:
    """A host's own settings file may have dozens of keys; ours among them are told their place."""
    foreign = {f"key{i}": i for i in range(40)}
    config = parse({"mcpServers": {"s": {"command": "x"}}, "grace_ms": 5, **foreign})
    ours, theirs = config.warnings
    assert ours.startswith("mcp.json: grace_ms: ignored here")
    assert theirs == "mcp.json: key0, key1, key2, key3, key4 and 35 more: ignored: not used by the bridge"
    assert config.servers[0].base.grace_ms == Policy().grace_ms


# --- without a file ---------------------------------------------------------------------------------------------


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
    assert server.spec == signed_in("https://example.com/mcp")
    (old,) = config_for_url("http://127.0.0.1:1/sse").servers
    assert old.spec == signed_in("http://127.0.0.1:1/sse", {}, "sse")
    with pytest.raises(ConfigError, match=r"^--url: found"):
        config_for_url("example.com")


# --- arbitrary values -------------------------------------------------------------------------------------------


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
