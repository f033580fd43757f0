"""Configurations of many hosts: each is read as it is, and an entry that is wrong takes no other server with it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.config.formats import env_file, split_command, transport
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.config.reader import config_for_command, config_for_url, load_config, parse_config
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import signed_in

FILE = "mcp.json"
Json = dict[str, Any]
GOOD: Json = {"command": "good"}


def parse(value: object, environ: dict[str, str] | None = None, file: str = FILE) -> BridgeConfig:
    return parse_config(value if isinstance(value, str) else json.dumps(value), file, environ or {})


def entry(value: Json, environ: dict[str, str] | None = None) -> ServerConfig:
    """The only server of a configuration, from its entry."""
    (server,) = parse({"mcpServers": {"s": value}}, environ).servers
    return server


def reason(value: object, environ: dict[str, str] | None = None) -> str:
    """The reason for which the server with this entry is left out, while the one beside it is read."""
    config = parse({"mcpServers": {"s": value, "good": GOOD}}, environ)
    assert [server.name for server in config.servers] == ["good"]
    (unusable,) = config.unusable
    assert unusable.name == "s"
    assert unusable.reason.isprintable()
    return unusable.reason


# --- one entry takes no other with it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("npx", ["mcpServers.s: found"]),
        (None, ["mcpServers.s: found null"]),
        ({}, ["neither"]),
        ({"command": "x", "url": "http://h"}, ["both"]),
        ({"command": 5}, ["mcpServers.s.command", "a number"]),
        ({"command": "x", "args": "a b"}, ["mcpServers.s.args", "a list"]),
        ({"command": "x", "args": [{}]}, ["mcpServers.s.args[0]"]),
        ({"command": "x", "env": {"K": "${NOPE}"}}, ["mcpServers.s.env.K", "no NOPE"]),
        ({"command": "x", "env": {"K": "${input:key}"}}, ["mcpServers.s.env.K", "only the host"]),
        ({"command": "x", "args": ["--key", "${input:key}"]}, ["mcpServers.s.args[1]", "only the host"]),
        ({"command": "x", "env": {"K": "${command:pick}"}}, ["only the host"]),
        ({"command": "x", "cwd": "${NOPE}"}, ["mcpServers.s.cwd", "no NOPE"]),
        ({"command": "x", "env": {"A=B": "1"}}, ["mcpServers.s.env"]),
        ({"command": "x", "env": {"K": "a\0b"}}, ["mcpServers.s.env.K", "cannot be passed to a process"]),
        ({"command": "x", "args": ["a\0b"]}, ["mcpServers.s.args[0]", "cannot be passed to a process"]),
        ({"command": "x", "args": ["a\ud83dz"]}, ["mcpServers.s.args[0]", "cannot be passed to a process"]),
        ({"url": "http://h", "headers": {"A": "${NOPE}"}}, ["mcpServers.s.headers.A", "no NOPE"]),
        ({"url": "${NOPE}/mcp"}, ["mcpServers.s.url", "no NOPE"]),
        ({"url": "h/mcp"}, ["mcpServers.s.url", "http://"]),
        ({"url": "http://h/\u0007"}, ["mcpServers.s.url"]),
        ({"url": "http://h", "type": "websocket"}, ["mcpServers.s.type", "'websocket'"]),
        ({"type": "builtin", "name": "developer"}, ["neither"]),
        ({"command": "x", "type": "http"}, ["mcpServers.s.type"]),
        ({"command": "x", "disabled": "no"}, ["mcpServers.s.disabled"]),
    ],
)  # fmt: skip
def test_a_wrong_entry_disables_that_server_only(value: object, words: list[str]) -> None:
    """Wrong types, variables without a value, and what no process or server can be given."""
    said = reason(value)
    assert [word for word in words if word not in said] == [], said


def test_a_key_that_stands_twice_in_an_entry_disables_that_server_only() -> None:
    """One of the two values would be lost without a word."""
    config = parse('{"mcpServers": {"s": {"command": "x", "env": {"A": "1", "A": "2"}}, "good": {"command": "g"}}}')
    assert [server.name for server in config.servers] == ["good"]
    assert "mcpServers.s.env.A: duplicate key" in config.unusable[0].reason


@pytest.mark.parametrize("own", [{"prefx": ""}, {"mode": "async"}, {"timeout_s": 0}, []])
def test_a_wrong_setting_of_the_bridge_ends_the_start(own: object) -> None:
    """Also on one server of two: a setting that is silently ignored is worse than no start."""
    with pytest.raises(ConfigError, match=r"mcpServers\.s\.asyncfc"):
        parse({"mcpServers": {"s": {"command": "x", "asyncfc": own}, "good": GOOD}})


def test_no_server_left_is_an_error_with_every_reason() -> None:
    """Each of the first three in one line."""
    with pytest.raises(ConfigError) as caught:
        parse({"mcpServers": {"a": {}, "b": {"url": "h"}, "c": {"command": "x", "disabled": True}}})
    said = str(caught.value)
    assert "none of the servers is usable" in said
    assert "mcpServers.a: found neither" in said
    assert "mcpServers.b.url" in said


# --- variables -----------------------------------------------------------------------------------------------------


def test_the_entrys_own_environment_counts() -> None:
    """In arguments, URL and headers, as mcp-remote's users write it; it wins over the bridge's."""
    remote = entry(
        {
            "command": "npx",
            "args": ["mcp-remote", "https://h/sse", "--header", "Authorization:${AUTH_HEADER}"],
            "env": {"AUTH_HEADER": "Bearer ${TOKEN}"},
        },
        {"TOKEN": "t0", "AUTH_HEADER": "other"},
    ).spec
    assert isinstance(remote, StdioSpec)
    assert remote.args[-1] == "Authorization:Bearer t0"
    assert remote.env == {"AUTH_HEADER": "Bearer t0"}
    at_url = entry({"url": "http://${H}/mcp", "headers": {"A": "${env:T}"}, "env": {"H": "h", "T": "t"}}).spec
    assert at_url == signed_in("http://h/mcp", {"A": "t"})


def test_the_environment_of_an_entry_may_use_itself() -> None:
    """A value of the same table, but never one that needs itself."""
    spec = entry({"command": "x", "env": {"A": "${B}/a", "B": "b", "P": "/x:${P}"}}, {"P": "/usr"}).spec
    assert isinstance(spec, StdioSpec)
    assert spec.env == {"A": "b/a", "B": "b", "P": "/x:/usr"}
    assert "no A" in reason({"command": "x", "env": {"A": "${B}", "B": "${A}"}})


@pytest.mark.parametrize(
    ("script", "read"),
    [
        ("for f in a b; do echo ${f}; done", None),
        ("for A in a b; do echo ${A}; done", None),
        ("A=1; echo ${A}", None),
        ("read A; echo ${A}", None),
        ("echo ${f%.txt} ${#list[@]} ${1:-x} ${f:-y}", None),
        ("exec server --key ${A}", "exec server --key one"),
        ("exec server --key '${A}' ${env:A}", "exec server --key 'one' one"),
    ],
)
def test_a_shells_script_keeps_its_own_variables(script: str, read: str | None) -> None:
    """`${f}` of `bash -c` is the shell's; what the environment has and the script does not set is filled in."""
    for shell, option in (("bash", "-c"), ("/bin/sh", "-ec")):
        spec = entry({"command": shell, "args": [option, script]}, {"A": "one"}).spec
        assert isinstance(spec, StdioSpec)
        assert spec.args[1] == (read or script)


def test_an_unknown_variable_of_a_command_stays_with_a_warning() -> None:
    """The program may fill it in; the warning names it."""
    config = parse({"mcpServers": {"s": {"command": "x", "args": ["${NOPE}", "{{a}}", "${other thing}"]}}})
    assert config.servers[0].spec == StdioSpec("x", ("${NOPE}", "{{a}}", "${other thing}"))
    first, second = config.warnings
    assert first.startswith("mcp.json: mcpServers.s.args[0]: ${NOPE} is kept as text")
    assert "args[2]" in second
    assert "${" in second


def test_a_dollar_name_in_a_value_is_warned_of() -> None:
    """Gemini CLI and Copilot CLI expand `$NAME`; others take it for text."""
    (warning,) = parse({"mcpServers": {"s": {"command": "x", "env": {"K": "$MY_TOKEN"}}}}).warnings
    assert "mcpServers.s.env.K" in warning
    assert "${MY_TOKEN}" in warning


# --- spellings of hosts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("local", "stdio"), ("stdio", "stdio"), ("http", "http"), ("streamable", "http"), ("streamable-http", "http"),
        ("streamableHttp", "http"), ("http-stream", "http"), ("HTTP", "http"), ("sse", "sse"), ("SSE", "sse"),
        ("remote", "remote"), ("websocket", None), ("", None), ("builtin", None),
    ],
)  # fmt: skip
def test_spellings_of_a_transport(written: str, kind: str | None) -> None:
    """Copilot CLI, opencode, Cline, Roo, Goose, LangChain."""
    assert transport(written) == kind


def test_an_unknown_type_of_a_command_is_a_warning() -> None:
    """There is one way only to run a command."""
    config = parse({"mcpServers": {"s": {"command": "x", "type": "docker"}}})
    assert config.servers[0].spec == StdioSpec("x")
    assert "'docker'" in config.warnings[0]


HTTP = signed_in("http://h/mcp")
OLD = signed_in("http://h/sse", {}, "sse")
LOCAL = StdioSpec("x", ("a",), {"K": "v"})
HOSTS: list[tuple[str, Json, StdioSpec | HttpSpec]] = [
    ("gemini", {"httpUrl": "http://h/mcp", "timeout": 5000, "trust": True}, HTTP),
    ("gemini with both", {"httpUrl": "http://h/mcp", "url": "http://h/sse"}, HTTP),
    ("windsurf", {"serverUrl": "http://h/mcp"}, HTTP),
    ("windsurf sse", {"serverUrl": "http://h/sse", "disabledTools": []}, OLD),
    ("cline", {"type": "streamableHttp", "url": "http://h/mcp", "disabled": False, "autoApprove": []}, HTTP),
    ("cline old", {"transportType": "sse", "url": "http://h/sse"}, OLD),
    ("roo", {"type": "streamable-http", "url": "http://h/mcp", "alwaysAllow": []}, HTTP),
    ("goose", {"type": "streamable_http", "uri": "http://h/mcp", "enabled": True}, HTTP),
    ("goose stdio", {"type": "stdio", "cmd": "x", "args": ["a"], "envs": {"K": "v"}}, LOCAL),
    ("cherry", {"type": "streamableHttp", "baseUrl": "http://h/mcp", "isActive": True}, HTTP),
    ("copilot", {"type": "local", "command": "x", "args": ["a"], "tools": ["*"]}, StdioSpec("x", ("a",))),
    ("langchain", {"transport": "streamable_http", "url": "http://h/mcp"}, HTTP),
    ("zed", {"source": "custom", "command": "x", "args": ["a"], "env": {}}, StdioSpec("x", ("a",))),
    ("zed old", {"command": {"path": "x", "args": ["a"], "env": {"K": "v"}}, "settings": {}}, LOCAL),
    ("opencode", {"type": "local", "command": ["x", "a"], "environment": {"K": "v"}}, LOCAL),
    ("opencode remote", {"type": "remote", "url": "http://h/mcp", "oauth": {}}, HTTP),
    ("a form with both fields", {"command": "", "url": "http://h/mcp", "args": []}, HTTP),
    ("lm studio", {"url": "http://h/mcp", "headers": {}}, HTTP),
]  # fmt: skip


@pytest.mark.parametrize(("value", "spec"), [host[1:] for host in HOSTS], ids=[host[0] for host in HOSTS])
def test_entries_of_hosts_are_understood(value: Json, spec: StdioSpec | HttpSpec) -> None:
    """As their documentation writes them."""
    assert entry(value).spec == spec


@pytest.mark.parametrize(
    "root",
    [
        {"mcpServers": {"s": GOOD}, "mcp": {"allowed": ["s"]}},
        {"servers": {"s": GOOD}, "inputs": []},
        {"context_servers": {"s": GOOD}, "theme": "One"},
        {"mcp": {"servers": {"s": GOOD}, "inputs": []}, "editor.fontSize": 12},
        {"mcp": {"s": {"type": "local", "command": ["good"]}}, "$schema": "https://opencode.ai/config.json"},
        {"amp.mcpServers": {"s": GOOD}},
    ],
)
def test_servers_are_found_where_hosts_have_them(root: Json) -> None:
    """Claude and Gemini CLI, VS Code, Zed, VS Code's settings, opencode, Amp."""
    (server,) = parse(root).servers
    assert (server.name, server.spec) == ("s", StdioSpec("good"))


def test_variables_of_opencode_are_read_in_its_file_only() -> None:
    """`{env:NAME}` elsewhere is text."""
    value: Json = {"command": ["x", "{env:A}"], "environment": {"K": "{env:A}"}}
    (server,) = parse({"mcp": {"s": value}}, {"A": "one"}).servers
    assert server.spec == StdioSpec("x", ("one",), {"K": "one"})
    assert entry(value, {"A": "one"}).spec == StdioSpec("x", ("{env:A}",), {"K": "{env:A}"})


def test_a_codex_file_is_read() -> None:
    """TOML, with the names of variables that hold headers."""
    text = """
model = "o5"
[mcp_servers.docs]
command = "npx"
args = ["-y", "docs"]
enabled_tools = ["search"]
[mcp_servers.docs.env]
K = "v"
[mcp_servers.figma]
url = "https://mcp.figma.com/mcp"
bearer_token_env_var = "FIGMA"
http_headers = { "X-A" = "a" }
env_http_headers = { "X-B" = "B" }
[mcp_servers.off]
command = "x"
enabled = false
"""
    config = parse(text, {"FIGMA": "t", "B": "b"}, "config.toml")
    docs, figma = config.servers
    assert (docs.spec, docs.include) == (StdioSpec("npx", ("-y", "docs"), {"K": "v"}), ("search",))
    assert figma.spec == HttpSpec("https://mcp.figma.com/mcp", {"X-B": "b", "Authorization": "Bearer t", "X-A": "a"})
    with pytest.raises(ConfigError, match=r"^config\.toml: .*TOML"):
        parse("[a", file="config.toml")


@pytest.mark.parametrize(
    ("value", "include", "exclude"),
    [
        ({"includeTools": ["a", "b"], "excludeTools": ["c[1]"]}, ("a", "b"), ("c[[]1]",)),
        ({"tools": ["*"]}, (), ()),
        ({"tools": "*"}, (), ()),
        ({"tools": ["get_*"]}, ("get_*",), ()),
        ({"disabledTools": ["x"]}, (), ("x",)),
        ({"tools": {"x": {}}}, (), ()),
        ({"includeTools": ["a"], "asyncfc": {"include": ["b"]}}, ("b",), ()),
    ],
)
def test_the_choice_of_tools_of_a_host_is_kept(value: Json, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    """A tool that the host was told to hide is not offered by the bridge; our own setting wins."""
    server = entry({"command": "x", **value})
    assert (server.include, server.exclude) == (include, exclude)


def test_an_env_file_is_read(tmp_path: Path) -> None:
    """Below the entry's own `env`; one that is missing is a warning."""
    path = tmp_path / ".env"
    path.write_text("# comment\nA=1\nexport B='two words'\nC = \"x\" \nD=v # note\n\nbroken\n")
    spec = entry({"command": "x", "args": ["${A}"], "envFile": str(path), "env": {"C": "own"}}).spec
    assert spec == StdioSpec("x", ("1",), {"A": "1", "B": "two words", "C": "own", "D": "v"})
    assert env_file("A=a=b\nE=\n") == {"A": "a=b", "E": ""}


# --- commands ------------------------------------------------------------------------------------------------------


def test_a_command_with_its_arguments_is_split(tmp_path: Path) -> None:
    """Where no program has that name, and with a warning; a path with spaces is found."""
    program = tmp_path / "my tools" / "server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = parse({"mcpServers": {"s": {"command": "sh -c 'exit 1'", "args": ["x"]}}}, {"PATH": os.defpath})
    assert config.servers[0].spec == StdioSpec("sh", ("-c", "exit 1", "x"))
    assert "split at spaces" in config.warnings[0]
    for command in (str(program), f"{program} --fast", f'"{program}" --fast'):
        spec = entry({"command": command}).spec
        assert isinstance(spec, StdioSpec)
        assert [spec.command, *spec.args] == [str(program), "--fast"][: 2 if "--fast" in command else 1]
    assert entry({"command": "no such program"}).spec == StdioSpec("no such program")
    assert split_command("a 'b", lambda word: word == "a") == ["a", "'b"]
    assert config_for_command(["sh -c exit"]).servers[0].spec == StdioSpec("sh", ("-c", "exit"))


def test_the_users_home_is_filled_in() -> None:
    """At the beginning of the command and of an argument, as a shell does it; not inside a word."""
    home = os.path.expanduser("~")
    spec = entry({"command": "~/bin/x", "args": ["~/data", "~", "--at=~/x", "~user", "a~/b"], "cwd": "~/w"}).spec
    assert spec == StdioSpec(f"{home}/bin/x", (f"{home}/data", home, "--at=~/x", "~user", "a~/b"), {}, f"{home}/w")


def test_a_folder_is_refused_with_the_file_in_it(tmp_path: Path) -> None:
    """The file that was most likely meant."""
    (tmp_path / "mcp.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, {})
    assert str(tmp_path / "mcp.json") in str(caught.value)


# --- headers and secrets -------------------------------------------------------------------------------------------

SECRET = "hunter2-hunter2-Z9"


@pytest.mark.parametrize("around", ["{}\n", " {}", "{} \r\n", "{}\t"])
def test_white_space_around_a_header_is_trimmed(around: str) -> None:
    """A token that was read from a file ends in a newline."""
    value = around.format(f"Bearer {SECRET}")
    expected = HttpSpec("http://h/mcp", {"Authorization": f"Bearer {SECRET}"})
    assert entry({"url": "http://h/mcp\n", "headers": {"Authorization": value}}).spec == expected
    assert entry({"url": "http://h/mcp", "headers": {"Authorization": "${A}"}}, {"A": value}).spec == expected
    in_two = entry({"url": "http://h/mcp", "headers": {"Authorization": "Bearer ${A}"}}, {"A": f"{SECRET}\n"}).spec
    assert in_two == expected


def test_a_line_end_of_a_variable_is_left_out_of_arguments_and_urls() -> None:
    """As `$(…)` of a shell does it; an environment variable is passed on as it is."""
    environ = {"A": "abc\n"}
    assert entry({"url": "http://h/${A}/mcp"}, environ).spec == signed_in("http://h/abc/mcp")
    assert entry({"command": "x", "args": ["--k=${A}"], "env": {"A": "${A}"}}, environ).spec == StdioSpec(
        "x", ("--k=abc",), {"A": "abc\n"}
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}\nX: y"},
        {"Authorization": f"Bearer {SECRET}\0"},
        {"Authorization": f"Bearer {SECRET}\u2028é"},
        {f"Authorization: Bearer {SECRET}": "x"},
        {f"Authorization\n{SECRET}": "x"},
        {"": SECRET},
        {"Authorization": f"Bearer ${{env:ghp_{SECRET}}}"},
        {"Authorization": f"${{input:{SECRET}}}"},
        {"Authorization": [SECRET]},
    ],
)
def test_a_header_that_cannot_be_sent_disables_its_server_by_key(headers: Json) -> None:
    """Never with its value."""
    said = reason({"url": "http://h/mcp", "headers": headers})
    assert "mcpServers.s.headers" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "value",
    [
        {"url": f"https://h/mcp?key={SECRET}", "type": "websocket"},
        {"url": f"ftp://me:{SECRET}@h/mcp"},
        {"url": f"{SECRET}"},
        {"url": f"ws://h/{SECRET}/mcp"},
        {"url": "http://h", "type": SECRET},
        {"command": "x", "args": f"--key {SECRET}"},
        {"command": "x", "args": ["--key", [SECRET]]},
        {"command": "x", "env": {"K": f"${{NOPE:-${{env:sk-{SECRET}}}}}"}},
        {"command": "x", "env": f"K={SECRET}"},
        {"command": "x", "env": {"K": f"{SECRET}\0"}},
        {"command": "x", "cwd": f"${{env:ghp_{SECRET}}}"},
        {"command": [SECRET, {}]},
        {"command": {"path": 5, "env": {"K": SECRET}}},
        f"npx x --key {SECRET}",
    ],
)
def test_no_reason_shows_a_secret(value: object) -> None:
    """Wherever it stands in an entry, and whatever is wrong with it."""
    assert SECRET not in reason(value)


def test_no_warning_shows_a_secret() -> None:
    """Nor does one of what is read all the same."""
    value: Json = {
        "command": "x",
        "args": [f"${{ghp_{SECRET}}}", f"${{Bearer {SECRET}}}", f"$sk_{SECRET}"],
        "env": {"J": f"${{Bearer {SECRET}}}", "K": f"$ghp_{SECRET.replace('-', '')}"},
        "type": "docker",
    }
    config = parse({"mcpServers": {"s": value}})
    assert len(config.warnings) >= 4
    assert SECRET not in " ".join(config.warnings)
    assert SECRET.replace("-", "") not in " ".join(config.warnings)


def test_what_people_see_of_a_server_has_no_secrets() -> None:
    """The source of a configuration without a file is shown by `inspect` and in errors."""
    assert config_for_url(f"https://u:{SECRET}@h/mcp?k={SECRET}#x").source == "https://h/mcp?…"
    source = config_for_command(["npx", "x", "--api-key", SECRET, f"--token={SECRET}", f"http://h/?t={SECRET}"]).source
    assert SECRET not in source
    assert source.startswith("npx x --api-key …")
    with pytest.raises(ConfigError) as caught:
        config_for_url(f"example.com/mcp?k={SECRET}")
    assert SECRET not in str(caught.value)


# --- the documentation ---------------------------------------------------------------------------------------------


def test_entries_over_http_lead_to_where_serve_listens() -> None:
    """Each is a configuration of a host, without a warning but that about mcp-remote."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "start" / "http.md").read_text(encoding="utf-8")
    inline = re.findall(r'`(\{"(?:mcpServers|servers|mcp)".*?\})`', page)
    assert len(inline) == 5
    configs = [parse(text, {"HOME": "/home/me"}) for text in inline]
    for text, config in zip(inline, configs, strict=True):
        assert [each for each in config.warnings if "runs mcp-remote" not in each] == [], text
        assert not config.unusable, text
    specs = [config.servers[0].spec for config in configs]
    expected = signed_in("http://127.0.0.1:8642/mcp")
    assert [spec for spec in specs if isinstance(spec, HttpSpec)] == [expected] * 4
