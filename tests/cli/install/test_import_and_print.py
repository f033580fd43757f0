"""`import`, `--print`, and the question before a change."""

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from asyncfc_mcp.cli.install.entries import config_of, is_bridge
from asyncfc_mcp.cli.install.hosts import HOSTS
from asyncfc_mcp.cli.install.showing import masked, shown_words
from asyncfc_mcp.config.reader import parse_config
from tests.cli.install.conftest import Home, Ran
from tests.cli.install.test_install import CODEX_FILE, GOOSE_FILE, SECRET, file_of

Run = Callable[..., Ran]


# --- import --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", sorted(HOSTS))
def test_servers_of_any_file_are_added(home: Home, run: Run, host: str) -> None:
    """By its path or by the host's name; the file itself stays, and no secret is shown."""
    file = home.add(host, file_of(host))
    before = home.files()
    output = run("import", str(file), "--yes").output
    config = parse_config(home.config.read_text(), str(home.config), {})
    assert [server.name for server in config.servers] == ["github", "two"]
    assert {path: data for path, data in home.files().items() if path != home.config} == before
    output += run("import", host, "--yes").output
    assert "already has every server" in output
    assert SECRET not in output


def test_another_server_of_that_name_is_not_replaced(home: Home, run: Run, tmp_path: Path) -> None:
    """It is left out with a line about it; comments of the configuration stay."""
    home.servers('{\n  // mine\n  "mcpServers": {"a": {"command": "old"}}\n}\n')
    source = tmp_path / "mcp.json"
    entries: dict[str, Any] = {
        "a": {"command": "new"}, "b": {"command": "b"}, "bridge": {"command": "asyncfc-mcp", "args": ["serve"]},
    }  # fmt: skip
    source.write_text(json.dumps({"mcpServers": entries}))
    output = run("import", str(source), "--yes").output
    assert "'a' was left out" in output
    assert "'bridge' was left out: it is the bridge itself" in output
    assert home.config.read_text() == (
        '{\n  // mine\n  "mcpServers": {"a": {"command": "old"}, "b": {"command": "b"}}\n}\n'
    )


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_the_configuration_may_be_yaml_or_toml(home: Home, run: Run, suffix: str) -> None:
    """Its name decides; it is read as what it is."""
    config = home.path / f"mcp.{suffix}"
    run("import", str(home.add("codex", CODEX_FILE)), "--config", str(config), "--yes")
    assert [server.name for server in parse_config(config.read_text(), str(config), {}).servers] == ["github", "two"]
    home.add("goose", GOOSE_FILE.replace("github:", "third:"))
    run("import", "goose", "--config", str(config), "--yes")
    read = parse_config(config.read_text(), str(config), {})
    assert [server.name for server in read.servers] == ["github", "two", "third"]


MCP_REMOTE = {
    "command": "npx",
    "args": ["-y", "mcp-remote", "https://h/mcp", "--header", "Authorization: Bearer ${T}"],
    "env": {"T": "s3cret-value", "OTHER": "x"},
    "disabledTools": ["a"],
    "asyncfc": {"prefix": ""},
}


@pytest.mark.parametrize("words", [("import", "cursor"), ("install", "cursor", "--wrap")])
def test_mcp_remote_is_replaced_by_its_url_on_request(home: Home, run: Run, words: tuple[str, ...]) -> None:
    """With `--direct`; its other keys stay. Without it, the entry is taken as it is."""
    home.add("cursor", json.dumps({"mcpServers": {"s": MCP_REMOTE}}))
    run(*words, "--yes")
    assert json.loads(home.config.read_text())["mcpServers"]["s"] == MCP_REMOTE
    if words[0] == "install":
        run("uninstall", "cursor", "--yes")
    home.config.unlink(missing_ok=True)
    run(*words, "--direct", "--yes")
    assert json.loads(home.config.read_text())["mcpServers"]["s"] == {
        "url": "https://h/mcp",
        "headers": {"Authorization": "Bearer ${T}"},
        "env": {"T": "s3cret-value"},
        "disabledTools": ["a"],
        "asyncfc": {"prefix": ""},
    }


def test_a_file_without_servers_is_refused(home: Home, run: Run, tmp_path: Path) -> None:
    """And one that does not exist."""
    source = tmp_path / "x.json"
    source.write_text('{"a": 1}')
    assert "no servers" in run("import", str(source), "--yes", code=2).error
    assert "not found" in run("import", str(tmp_path / "y.json"), "--yes", code=2).error
    home.servers()
    assert "own file" in run("import", str(home.config), "--yes", code=2).error


# --- print ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [*sorted(HOSTS), "jetbrains", "librechat", "open-webui"])
def test_an_entry_is_printed_in_the_hosts_format(home: Home, run: Run, host: str) -> None:
    """Also for a host that is not here; our own reader understands it, and nothing is changed."""
    home.servers()
    before = home.files()
    text = run("install", host, "--print").output
    suffix = {"codex": "toml", "goose": "yaml", "librechat": "yaml"}.get(host, "json")
    # Notes for the user go to stderr, which the runner adds to the output.
    text = text[: text.rindex("}") + 2] if suffix == "json" else text.partition("\nAdd it")[0]
    (server,) = parse_config(text, f"x.{suffix}", {}).servers
    assert server.name == "asyncfc"
    # A host of several people must not have them share a bridge.
    assert ("--shared" in text) is (host not in ("librechat", "open-webui"))
    assert home.files() == before


def test_links_open_the_host_with_the_entry(home: Home, run: Run) -> None:
    """In the form that each host documents."""
    home.servers()
    link = urlsplit(run("install", "--print", "cursor-link").output)
    assert (link.scheme, link.netloc, link.path) == ("cursor", "anysphere.cursor-deeplink", "/mcp/install")
    query = parse_qs(link.query)
    assert query["name"] == ["asyncfc"]
    assert is_bridge(json.loads(base64.b64decode(query["config"][0])))
    text = run("install", "--print", "vscode-link", "--name", "x").output.removeprefix("vscode:mcp/install?").strip()
    entry = json.loads(unquote(text))
    assert (entry["name"], entry["type"], config_of(entry)) == ("x", "stdio", str(home.config))
    link = urlsplit(run("install", "goose", "--print", "goose-link").output.splitlines()[0])
    query = parse_qs(link.query)
    assert (link.scheme, link.netloc, query["cmd"], query["arg"][0]) == ("goose", "extension", ["uvx"], "asyncfc-mcp")


def test_a_host_that_is_set_up_by_hand_is_not_edited(home: Home, run: Run) -> None:
    """And an unknown one is named."""
    home.servers()
    assert "--print" in run("install", "jetbrains", "--yes", code=2).error
    assert "did you mean 'cursor'" in run("install", "curser", "--yes", code=2).error


# --- the question --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_on_a_terminal_it_asks_first(home: Home, answer: str) -> None:
    """Only `y` changes something; the change is shown before."""
    home.servers()
    file = home.add("cursor", "{}")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncfc_mcp", "install", "cursor"], stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "PATH": os.defpath}, cwd=home.project,
    )  # fmt: skip
    os.close(terminal)
    said = b""
    while b"Change it? [y/N]" not in said:
        said += os.read(controller, 1000)
    assert b"\x1b[32m+" in said
    assert file.read_text() == "{}"
    os.write(controller, f"{answer}\n".encode())
    try:
        while True:
            said += os.read(controller, 1000)
    except OSError:  # the other end was closed
        pass
    assert process.wait(20) == (0 if answer == "y" else 1)
    os.close(controller)
    assert ("asyncfc" in file.read_text()) == (answer == "y")
    assert (b"Nothing was changed" in said) == (answer != "y")


# --- what is hidden ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('  "env": {"TOKEN": "abc", "N": 5, "ok": true}, // abc', '  "env": {"TOKEN": "…", "N": …, "ok": true}, // …'),
        ('"args": ["-y", "gh", "--token", "abc"]', '"args": ["-y", "gh", "--token", "…"]'),
        ("      TOKEN: abc def  # mine", "      TOKEN: … …  # …"),
        ("    - abc", "    - …"),
        ("    headers: {X-Key: abc}", "    headers: {X-Key: …}"),
        ("    Authorization: Bearer abc:d,e", "    Authorization: … …,…"),
        ('TOKEN = "abc" # abc', 'TOKEN = "…" # …'),
        ("[mcp_servers.github.env]", "[mcp_servers.github.env]"),
        ('http_headers = { "X-Key" = "abc" }', 'http_headers = { "X-Key" = "…" }'),
        ("k: 'it''s abc'", 'k: "…"'),
        ('"a": "x\\"y", /* abc */ "b": 1', '"a": "…", /* … "b": …'),
    ],
)
def test_only_what_is_known_to_be_no_secret_is_shown(line: str, shown: str) -> None:
    """In JSON, TOML and YAML: keys, and the words of commands that are no credentials."""
    entry = {"command": "npx", "args": ["-y", "gh", "--token", "abc"], "env": {"TOKEN": "abc"}}
    assert masked(line, shown_words([entry])) == shown
