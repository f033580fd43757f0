"""Entries that run mcp-remote: the equivalent entry with a URL, for every launcher and option, and no secret shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.mcp_remote import shown_url_entry, url_entry
from asyncfc_mcp.config.model import HttpSpec, OAuthSpec, StdioSpec
from asyncfc_mcp.config.reader import config_for_command
from tests.support.configurations import entry, parse

Json = dict[str, Any]
URL = "https://mcp.example.com/sse"
INFO = "--static-oauth-client-info"
METADATA = "--static-oauth-client-metadata"


def of(*args: str, command: str = "npx", **own: Any) -> Json | None:
    return url_entry({"command": command, "args": list(args), **own})


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("npx", ["mcp-remote", URL]),
        ("npx", ["-y", "mcp-remote", URL]),
        ("npx", ["-y", "mcp-remote@latest", URL]),
        ("npx", ["--yes", "mcp-remote@0.1.37", URL]),
        ("npx", ["-y", "-p", "mcp-remote@0.1.37", "mcp-remote", URL]),
        ("npx", ["-y", "--package=mcp-remote", "mcp-remote", URL]),
        ("npx", ["-y", "--", "mcp-remote", URL]),
        ("/usr/local/bin/npx", ["mcp-remote", URL]),
        ("npx.cmd", ["mcp-remote", URL]),
        ("C:\\Program Files\\nodejs\\npx.cmd", ["mcp-remote", URL]),
        ("npx -y mcp-remote", [URL]),
        (f"npx -y mcp-remote {URL}", []),
        ("bunx", ["mcp-remote", URL]),
        ("bunx", ["--bun", "mcp-remote", URL]),
        ("bun", ["x", "mcp-remote", URL]),
        ("pnpm", ["dlx", "mcp-remote", URL]),
        ("pnpx", ["mcp-remote", URL]),
        ("yarn", ["dlx", "-q", "mcp-remote", URL]),
        ("npm", ["exec", "-y", "--", "mcp-remote", URL]),
        ("npm", ["x", "mcp-remote", URL]),
        ("deno", ["run", "-A", "npm:mcp-remote", URL]),
        ("cmd", ["/c", "npx", "-y", "mcp-remote", URL]),
        ("cmd.exe", ["/C", "npx", "mcp-remote", URL]),
        ("cmd", ["/c", f"npx -y mcp-remote {URL}"]),
        ("C:\\Windows\\System32\\cmd.exe", ["/c", "npx", "mcp-remote", URL]),
        ("mcp-remote", [URL]),
        ("/opt/homebrew/bin/mcp-remote", [URL]),
    ],
)
def test_it_is_recognised_however_it_is_started(command: str, args: list[str]) -> None:
    """By every package runner, with or without a version."""
    assert url_entry({"command": command, "args": args}) == {"url": URL}


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--debug"], {}),
        (["--silent", "--auth-timeout", "60"], {}),
        (["--enable-proxy"], {}),
        (["--host", "127.0.0.1"], {}),
        (["--callback-path", "/x"], {}),
        (["9696"], {"oauth": {"callback_port": 9696}}),
        (["--header", "X-A: b c"], {"headers": {"X-A": "b c"}}),
        (["--header", "Authorization:${A}", "--header", "X:y"], {"headers": {"Authorization": "${A}", "X": "y"}}),
        (["--transport", "http-first"], {}),
        (["--transport", "http-only"], {"type": "http"}),
        (["--transport", "sse-only"], {"type": "sse"}),
        (["--transport", "sse-first"], {"type": "sse"}),
        (["--resource", "https://t1.example.com/"], {"oauth": {"resource": "https://t1.example.com/"}}),
        (["--ignore-tool", "delete*", "--ignore-tool", "drop"], {"excludeTools": ["delete*", "drop"]}),
        ([METADATA, '{"scope": "a b", "client_name": "n"}'], {"oauth": {"scopes": ["a", "b"]}}),
        (
            ["8080", INFO, '{"client_id": "c", "client_secret": "${S}"}', "--host", "127.0.0.1"],
            {
                "oauth": {
                    "client_id": "c",
                    "client_secret": "${S}",
                    "callback_host": "127.0.0.1",
                    "callback_path": "/oauth/callback",
                    "callback_port": 8080,
                }
            },
        ),
        (
            [INFO, '{"client_id": "c"}', "--callback-path", "/cb"],
            {"oauth": {"client_id": "c", "callback_host": "localhost", "callback_path": "/cb"}},
        ),
    ],
)
def test_options_become_keys(args: list[str], found: Json) -> None:
    """What only concerns logs, or a redirect that is registered anew, is left out."""
    assert of("mcp-remote", URL, *args) == {"url": URL, **found}


@pytest.mark.parametrize(
    "args",
    [
        ["-y", "other", URL],
        ["-y", "mcp-remote-static", URL],
        ["-y", "@org/mcp-remote", URL],
        ["-y", "-p", "mcp-remote", "mcp-remote-client", URL],
        ["-p", "other", "mcp-remote", URL],
        ["--node-options=-r x", "mcp-remote", URL],
        ["mcp-remote"],
        [],
        ["mcp-remote", "not a url"],
        ["mcp-remote", "http://server.example/sse"],
        ["mcp-remote", URL, "port"],
        ["mcp-remote", URL, "0"],
        ["mcp-remote", URL, "99999"],
        ["mcp-remote", URL, "1", "2"],
        ["mcp-remote", URL, "--header"],
        ["mcp-remote", URL, "--header", "no colon"],
        ["mcp-remote", URL, "--transport", "carrier-pigeon"],
        ["mcp-remote", URL, "--transport", "http-only", "--transport", "sse-only"],
        ["mcp-remote", URL, "--host", "0.0.0.0"],
        ["mcp-remote", URL, "--disable-resource-parameter"],
        ["mcp-remote", URL, "--unknown"],
        ["mcp-remote", URL, INFO, "@/home/me/client.json"],
        ["mcp-remote", URL, INFO, "[]"],
        ["mcp-remote", URL, INFO, "{}"],
        ["mcp-remote", URL, INFO, '{"client_secret": "x"}'],
        ["mcp-remote", URL, INFO, '{"client_id": "c", "token_endpoint_auth_method": "x"}'],
        ["mcp-remote", URL, METADATA, '{"software_id": "x"}'],
        ["mcp-remote", URL, METADATA, "{not json"],
    ],
)
def test_what_cannot_be_expressed_is_left_as_it_is(args: list[str]) -> None:
    """Another program, an option without an equivalent, or a command line that mcp-remote refuses itself."""
    assert of(*args) is None


@pytest.mark.parametrize("name", ["NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "no_proxy", "NODE_TLS_REJECT_UNAUTHORIZED"])
def test_an_environment_that_changes_the_connection_cannot_be_expressed(name: str) -> None:
    """The bridge connects with its own environment only."""
    assert of("mcp-remote", URL, env={name: "x"}) is None
    assert of("mcp-remote", URL, env={"DEBUG": "x"}) == {"url": URL}


def test_plain_http_needs_its_option() -> None:
    """Or this machine, as in mcp-remote."""
    there = "http://internal.vpc/mcp"
    assert of("mcp-remote", there) is None
    assert of("mcp-remote", there, "--allow-http") == {"url": there}
    assert of("mcp-remote", "http://localhost:3000/mcp") == {"url": "http://localhost:3000/mcp"}


def test_variables_of_the_entry_are_kept_where_they_are_used() -> None:
    """With those that they use themselves."""
    env = {"A": "Bearer ${B}", "B": "t", "OTHER": "x"}
    found = of("mcp-remote", URL, "--header", "Authorization:${A}", env=env)
    assert found == {
        "url": URL,
        "headers": {"Authorization": "${A}"},
        "env": {"A": "Bearer ${B}", "B": "t"},
    }
    spec = entry(found).spec
    assert isinstance(spec, HttpSpec)
    assert spec.headers == {"Authorization": "Bearer t"}
    assert spec.oauth is None


def test_the_equivalent_entry_is_read_as_it_was_meant() -> None:
    """Headers, transport, port of the redirect, client, scopes, resource and tools reach their places."""
    found = of(
        *(
            "mcp-remote",
            "https://h/mcp",
            "8080",
            "--header",
            "X-A: 1",
            "--transport",
            "sse-only",
            "--resource",
            "https://r",
        ),
        *(INFO, '{"client_id": "c", "client_secret": "s3cret"}', METADATA, '{"scope": "a b"}', "--ignore-tool", "x*"),
    )
    assert found is not None
    config = parse({"mcpServers": {"s": found}})
    assert config.warnings == ()
    [server] = config.servers
    oauth = OAuthSpec(
        client_id="c",
        client_secret="s3cret",
        scopes=("a", "b"),
        callback_host="localhost",
        callback_port=8080,
        callback_path="/oauth/callback",
        resource="https://r",
    )
    assert server.spec == HttpSpec("https://h/mcp", {"X-A": "1"}, "sse", oauth)
    assert server.exclude == ("x*",)


def test_the_start_says_what_to_write_in_place_of_it() -> None:
    """Once for the server, without secrets; the entry keeps working as it is written."""
    args = ["-y", "mcp-remote", "https://h/mcp?key=hunter2", "--header", "X-Key: hunter2", "--header", "A: Bearer ${T}"]
    args += [INFO, '{"client_id": "c", "client_secret": "hunter2"}']
    config = parse({"mcpServers": {"s": {"command": "npx", "args": args, "env": {"T": "hunter2"}}}})
    [said] = config.warnings
    prefix = "mcp.json: mcpServers.s: runs mcp-remote, but the bridge can connect and sign in by itself: write "
    suffix = ' in place of "command" and "args"'
    assert said.startswith(prefix)
    assert said.endswith(suffix)
    assert json.loads(said.removeprefix(prefix).removesuffix(suffix)) == {
        "url": "https://h/mcp?…",
        "headers": {"X-Key": "…", "A": "Bearer ${T}"},
        "oauth": {
            "client_id": "c",
            "client_secret": "…",
            "callback_host": "localhost",
            "callback_path": "/oauth/callback",
        },
        "env": {"T": "…"},
    }
    assert isinstance(config.servers[0].spec, StdioSpec)
    assert config.servers[0].spec.args[1] == "mcp-remote"


def test_a_command_says_so_too() -> None:
    """`asyncfc-mcp serve -- npx mcp-remote URL`, where the URL alone is enough."""
    config = config_for_command(["npx", "-y", "mcp-remote", "https://h/mcp?key=hunter2"])
    [said] = config.warnings
    assert said.endswith("use --url https://h/mcp?…")
    assert config_for_command(["npx", "mcp-remote", URL, "--header", "X: y"]).warnings == ()


_WORDS = st.one_of(
    st.sampled_from(
        [
            "npx", "-y", "mcp-remote", "mcp-remote@1", URL, "8080", "--header", "X: ${A}", "X:hunter2", "--transport",
            "sse-only", "http-first", "--host", "localhost", "--resource", INFO, '{"client_id": "c"}', METADATA,
            '{"scope": "a"}', "--debug", "--allow-http", "--ignore-tool", "*", "/c", "--package", "-p", "",
        ]
    ),
    st.text(max_size=6),
)  # fmt: skip


@given(st.sampled_from(["npx", "cmd", "bun", "npx -y", "mcp-remote", "x"]), st.lists(_WORDS, max_size=10))
def test_any_command_line_is_another_program_or_a_usable_entry(command: str, args: list[str]) -> None:
    """Whatever stands there: no exception, and what is proposed can be read as a server at that URL."""
    found = url_entry({"command": command, "args": args, "env": {"A": "hunter2"}})
    if found is None:
        return
    assert found["url"] in " ".join([command, *args])
    assert "hunter2" not in shown_url_entry(found)
    config = parse({"mcpServers": {"s": found, "other": {"command": "x"}}}, {"A": "b"})
    if "${" not in found["url"]:
        server = config.servers[0]
        assert isinstance(server.spec, HttpSpec)


_OPTIONS = st.lists(
    st.sampled_from(
        [
            ("--header", "X-A: one"), ("--header", "Authorization: Bearer ${A}"), ("--resource", "https://r/"),
            ("--transport", "http-only"), ("--debug",), ("--silent",), ("--allow-http",), ("--ignore-tool", "d*"),
            ("--auth-timeout", "9"), ("8080",), (INFO, '{"client_id": "c"}'), (METADATA, '{"scope": "a b"}'),
        ]
    ),
    unique_by=lambda option: option[0] if option[0] != "--header" else option[1],
)  # fmt: skip


@given(_OPTIONS, st.randoms())
def test_the_order_of_options_does_not_matter(options: list[tuple[str, ...]], random: Any) -> None:
    """The URL is the first word that is no option, wherever it stands."""
    first = of("mcp-remote", URL, *(word for option in options for word in option))
    shuffled = list(options)
    random.shuffle(shuffled)
    second = of("mcp-remote", URL, *(word for option in shuffled for word in option))
    assert first is not None
    assert first == second
