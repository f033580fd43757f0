"""`install` and `uninstall` in a scratch home: every host, in both directions, to the byte."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.cli.install import files, plans
from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.entries import config_of, is_bridge, words_of
from asyncfc_mcp.cli.install.hosts import HOSTS, Machine
from asyncfc_mcp.cli.install.installing import bridge_arguments
from asyncfc_mcp.cli.install.plans import FileEdit
from asyncfc_mcp.config.reader import parse_config
from tests.cli.install.conftest import Home, Ran

Run = Callable[..., Ran]
EVERY = sorted(HOSTS)
PROJECT = sorted(key for key, host in HOSTS.items() if host.project)
SECRET = "s3cret-value"

JSON_FILE = """\
// settings of %(host)s
{
    "theme": "One", // kept
    "%(key)s": {%(open)s
        "github": {
            %(entry)s
        },
        /* second */ "two": {"url": "https://h/mcp", "headers": {"X-Key": "s3cret-value"}},
    %(close)s},
    "last": [1, 2,],
}
"""
CODEX_FILE = """\
model = "o5" # the model

# issues
[mcp_servers.github]
command = "npx"
args = ["-y", "gh"]

[mcp_servers.github.env]
TOKEN = "s3cret-value"

[mcp_servers.two]
url = "https://h/mcp"
http_headers = { "X-Key" = "s3cret-value" }

[tui]
theme = "dark"
"""
GOOSE_FILE = """\
GOOSE_MODEL: x  # the model
extensions:
  developer:
    enabled: true
    type: builtin
    name: developer
  github:
    enabled: true
    type: stdio
    name: github
    cmd: npx
    args: [-y, gh]
    envs:
      TOKEN: s3cret-value   # mine
  two:
    enabled: true
    type: streamable_http
    uri: https://h/mcp
    headers: {X-Key: s3cret-value}
GOOSE_PROVIDER: y
"""


def file_of(host: str) -> str:
    """A file as a user of this host may have it, with two servers."""
    if host == "codex":
        return CODEX_FILE
    if host == "goose":
        return GOOSE_FILE
    key = HOSTS[host].table[0]
    entry = '"command": "npx", "args": ["-y", "gh"], "env": {"TOKEN": "s3cret-value"}'
    if host == "opencode":
        entry = '"type": "local", "command": ["npx", "-y", "gh"], "environment": {"TOKEN": "s3cret-value"}'
    return JSON_FILE % {"host": host, "key": key, "entry": entry, "open": "", "close": ""}


def bridge_of(home: Home, file: Path, host: str) -> Any:
    return Document(str(file), file.read_text()).table(HOSTS[host].table).get("asyncfc")


# --- every host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", EVERY)
def test_the_bridge_is_added_and_removed_to_the_byte(home: Home, run: Run, host: str) -> None:
    """Comments, order, indentation and unknown keys of the host's file stay as they are."""
    home.servers()
    file = home.add(host, file_of(host))
    before = home.files()
    run("install", host, "--yes")
    entry = bridge_of(home, file, host)
    assert is_bridge(entry)
    assert config_of(entry) == str(home.config)
    assert "--shared" in words_of(entry)
    for line in before[file].decode().splitlines():
        assert line.rstrip(",") in file.read_text()
    run("uninstall", host, "--yes")
    assert home.files() == before


@pytest.mark.parametrize("host", EVERY)
@pytest.mark.parametrize("text", [None, ""])
def test_a_host_without_a_file_gets_one_that_is_deleted_again(
    home: Home, run: Run, host: str, text: str | None
) -> None:
    """If the host is here; an empty file becomes empty again. The bridge can be found in it by our own reader."""
    home.servers()
    if text is None and not HOSTS[host].signs:
        pytest.skip("it is recognised by its file only")
    file = home.add(host, text)
    run("install", host, "--yes")
    (server,) = parse_config(file.read_text(), str(file), {}).servers
    assert server.name == "asyncfc"
    run("uninstall", host, "--yes")
    assert (file.read_text() if file.exists() else None) == text


@pytest.mark.parametrize("host", EVERY)
def test_nothing_is_created_for_a_host_that_is_not_here(home: Home, run: Run, host: str) -> None:
    """It says what was looked for, and how to set it up by hand."""
    home.servers()
    before = home.files()
    error = run("install", host, "--yes", code=2).error
    assert "was not found here" in error
    assert f"asyncfc-mcp install {host} --print" in error
    assert home.files() == before


@pytest.mark.parametrize("host", PROJECT)
def test_a_project_gets_an_entry_without_paths_of_this_machine(home: Home, run: Run, host: str) -> None:
    """Its file is shared: the command is a name, the configuration is below `~`."""
    home.servers()
    home.add(host)
    for sign in HOSTS[host].user:
        home.machine.path(sign).parent.mkdir(parents=True, exist_ok=True)
        home.machine.path(sign).touch()
    file = home.file(host, "project")
    run("install", host, "--scope", "project", "--yes")
    assert file.is_relative_to(home.project)
    assert str(home.path) not in file.read_text()
    assert config_of(bridge_of(home, file, host)) == "~/.config/asyncfc/mcp.json"
    run("uninstall", host, "--scope", "project", "--yes")
    assert not file.exists()


@pytest.mark.parametrize("host", EVERY)
def test_all_servers_move_into_the_bridge_and_back_to_the_byte(home: Home, run: Run, host: str) -> None:
    """With their secrets, which nothing shows; one entry is left in the host."""
    file = home.add(host, file_of(host))
    before = home.files()
    shown = run("install", host, "--wrap", "--dry-run").output
    assert home.files() == before
    shown += run("install", host, "--wrap", "--yes").output
    left = Document(str(file), file.read_text()).table(HOSTS[host].table)
    assert set(left) - {"developer"} == {"asyncfc"}
    config = parse_config(home.config.read_text(), str(home.config), {})
    assert [(server.name, server.spec.shown) for server in config.servers] == [
        ("github", "npx -y gh"), ("two", "https://h/mcp"),
    ]  # fmt: skip
    assert not [text for text in config.warnings if "did you mean" in text]
    assert home.config.read_text().count(SECRET) == 2
    assert stat.S_IMODE(home.config.stat().st_mode) == 0o600
    shown += run("uninstall", host, "--dry-run").output
    shown += run("uninstall", host, "--yes").output
    assert home.files() == before
    assert SECRET not in shown


@pytest.mark.parametrize("host", EVERY)
def test_what_the_user_changed_since_is_kept(home: Home, run: Run, host: str) -> None:
    """Then only the entries in question are changed: in the host's file, and in the bridge's configuration."""
    file = home.add(host, file_of(host))
    before = Document(str(file), file.read_text()).value
    run("install", host, "--wrap", "--yes")
    changed = file.read_text().replace('"One"', '"Two"').replace("# the model", "# my model")
    file.write_text(changed)
    config = json.loads(home.config.read_text())
    config["mcpServers"]["new"] = {"command": "new"}
    config["mcpServers"]["two"]["asyncfc"] = {"prefix": ""}
    home.config.write_text(json.dumps(config))
    run("uninstall", host, "--yes")
    now = Document(str(file), file.read_text()).value
    assert now == (before if host in ("codex", "goose") else {**before, "theme": "Two"})
    assert "# my model" in file.read_text() or "Two" in file.read_text()
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"two", "new"}, "a changed entry stays as well"


@pytest.mark.parametrize("host", EVERY)
def test_a_second_installation_changes_nothing(home: Home, run: Run, host: str) -> None:
    """And says so; so does one with `--wrap` that finds nothing to move."""
    home.servers()
    home.add(host, file_of(host))
    run("install", host, "--wrap", "--yes")
    before = home.files()
    for words in ((), ("--wrap",)):
        assert "already has the bridge" in run("install", host, *words, "--yes").output
    assert home.files() == before


# --- what moves ----------------------------------------------------------------------------------------------------


def test_named_servers_move_alone(home: Home, run: Run) -> None:
    """And more of them later; one removal puts all of them back."""
    file = home.add("cursor", file_of("cursor"))
    before = home.files()
    run("install", "cursor", "--wrap", "two", "--yes")
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"two"}
    run("install", "cursor", "--wrap", "github", "--yes")
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"two", "github"}
    assert set(Document(str(file), file.read_text()).table(("mcpServers",))) == {"asyncfc"}
    run("uninstall", "cursor", "--yes")
    assert home.files() == before
    assert "did you mean 'github'" in run("install", "cursor", "--wrap", "githup", "--yes", code=2).error


@pytest.mark.parametrize(
    ("host", "entry", "reason"),
    [
        ("vscode", {"command": "x", "env": {"K": "${input:key}"}}, "only the host can resolve"),
        ("cursor", {"name": "x"}, "neither a command nor a URL"),
        ("cursor", {"command": "x", "disabled": True}, "disabled"),
        ("cursor", "x", "no entry"),
        ("goose", {"type": "stdio", "cmd": "x", "env_keys": ["K"]}, "keyring"),
    ],
)
def test_what_the_bridge_cannot_run_stays_in_the_host(home: Home, run: Run, host: str, entry: Any, reason: str) -> None:
    """With the reason; if it was named, nothing is changed."""
    table = HOSTS[host].table[0]
    home.add(host, json.dumps({table: {"odd": entry, "good": {"command": "g"}}}))
    if reason != "disabled":
        assert reason in run("install", host, "--wrap", "odd", "--yes", code=2).error
    output = run("install", host, "--wrap", "--yes").output
    assert f"'odd' stays in {HOSTS[host].name}: " in output
    assert reason in output
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"good"}


@pytest.mark.parametrize(
    ("host", "entry", "moved"),
    [
        (
            "opencode",
            {"type": "local", "command": ["x", "{env:A}"], "environment": {"K": "{env:B}"}, "timeout": 5000},
            {"type": "local", "command": ["x", "${A}"], "environment": {"K": "${B}"}},
        ),
        (
            "gemini",
            {"command": "x", "args": ["$A"], "env": {"K": "$B", "L": "${C}"}, "trust": True, "timeout": 5000},
            {"command": "x", "args": ["$A"], "env": {"K": "${B}", "L": "${C}"}, "timeout": 5000},
        ),
        (
            "windsurf", {"serverUrl": "https://h", "disabledTools": ["a"], "icon": "i"},
            {"serverUrl": "https://h", "disabledTools": ["a"]},
        ),
    ],
)  # fmt: skip
def test_variables_of_a_host_are_written_as_ours(home: Home, run: Run, host: str, entry: Any, moved: Any) -> None:
    """Everything else that has a meaning here is moved as it is."""
    home.add(host, json.dumps({HOSTS[host].table[0]: {"s": entry}}))
    run("install", host, "--wrap", "--yes")
    assert json.loads(home.config.read_text())["mcpServers"]["s"] == moved


def test_servers_of_two_hosts_share_one_configuration(home: Home, run: Run) -> None:
    """An equal one is there once, another of the same name gets a longer one; what another host uses stays."""
    home.add("cursor", json.dumps({"mcpServers": {"a": {"command": "a"}, "b": {"command": "b"}}}))
    home.add("kiro", json.dumps({"mcpServers": {"a": {"command": "a"}, "b": {"command": "other"}}}))
    before = home.files()
    run("install", "cursor", "--wrap", "--yes")
    assert "'b' becomes 'b-kiro'" in run("install", "kiro", "--wrap", "--yes").output
    assert list(json.loads(home.config.read_text())["mcpServers"]) == ["a", "b", "b-kiro"]
    assert "keeps the servers" in run("uninstall", "cursor", "--yes").output
    assert list(json.loads(home.config.read_text())["mcpServers"]) == ["a", "b", "b-kiro"]
    run("uninstall", "kiro", "--yes")
    after = home.files()
    after.pop(home.config, None)
    assert after == before


@pytest.mark.parametrize(
    ("entry", "configured"),
    [
        ({"type": "stdio", "command": "a", "args": [], "env": {}}, {"command": "a"}),
        ({"command": "a"}, {"type": "local", "cmd": "a", "disabled": False}),
        ({"command": "a"}, {"command": "a", "asyncfc": {"share": "session"}}),
        ({"httpUrl": "http://x/mcp", "headers": {}}, {"url": "http://x/mcp"}),
    ],
)
def test_the_same_server_in_another_spelling_is_there_once(entry: object, configured: object, home: Home, run: Run):
    """Hosts' own commands write keys that make no difference."""
    home.config.parent.mkdir(parents=True)
    home.config.write_text(before := json.dumps({"mcpServers": {"a": configured}}))
    home.add("cursor", json.dumps({"mcpServers": {"a": entry}}))
    run("install", "cursor", "--wrap", "--yes")
    assert home.config.read_text() == before


def test_a_server_that_the_host_has_again_is_not_overwritten(home: Home, run: Run) -> None:
    """The user's newer entry wins."""
    file = home.add("cursor", json.dumps({"mcpServers": {"a": {"command": "a"}}}))
    run("install", "cursor", "--wrap", "--yes")
    root = json.loads(file.read_text())
    root["mcpServers"]["a"] = {"command": "newer"}
    file.write_text(json.dumps(root))
    assert "'a' was left as it is" in run("uninstall", "cursor", "--yes").output
    assert json.loads(file.read_text()) == {"mcpServers": {"a": {"command": "newer"}}}


def test_a_host_that_is_gone_is_not_created_again(home: Home, run: Run) -> None:
    """Its servers stay in the configuration, and nothing is recorded of it any more."""
    file = home.add("cursor", '{"mcpServers": {"a": {"command": "a"}}}')
    run("install", "cursor", "--wrap", "--yes")
    file.unlink()
    file.parent.rmdir()
    assert "Its servers stay" in run("uninstall", "cursor", "--yes").output
    assert not file.parent.exists()
    assert list(json.loads(home.config.read_text())["mcpServers"]) == ["a"]
    assert list((home.path / "asyncfc-state" / "install").glob("*.json")) == []


def test_a_sign_in_that_stays_in_the_host_is_pointed_out(home: Home, run: Run) -> None:
    """For servers at a URL without credentials in their entry."""
    with_header = {"url": "https://h", "headers": {"Authorization": "x"}}
    entries: Any = {"a": {"url": "https://h"}, "b": with_header, "c": {"command": "c"}}
    home.add("cursor", json.dumps({"mcpServers": entries}))
    output = run("install", "cursor", "--wrap", "--yes").output
    assert [line for line in output.splitlines() if "asyncfc-mcp login" in line] == [
        f"'a' is at a URL: if Cursor has signed in to it, sign in once more with "
        f"`asyncfc-mcp login a --config {home.config}`."
    ]


def test_a_bridge_needs_servers(home: Home, run: Run) -> None:
    """It says what to do."""
    home.add("cursor", "{}")
    assert "--wrap" in run("install", "cursor", "--yes", code=2).error
    assert "Cursor has none" in run("install", "cursor", "--wrap", "--yes", code=2).error


def test_both_versions_of_opencode_get_their_shape(home: Home, run: Run) -> None:
    """The table that is there decides."""
    home.servers()
    file = home.add("opencode", json.dumps({"mcp": {"servers": {"s": {"type": "local", "command": ["x"]}}}}))
    run("install", "opencode", "--yes")
    entry = json.loads(file.read_text())["mcp"]["servers"]["asyncfc"]
    assert entry == {"type": "local", "command": entry["command"]}
    home.add("opencode", json.dumps({"mcp": {"s": {"type": "local", "command": ["x"]}}}))
    run("install", "opencode", "--yes")
    assert json.loads(file.read_text())["mcp"]["asyncfc"]["enabled"] is True


# --- what people trust ---------------------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_changed_unasked(home: Home, run: Run) -> None:
    """The change is shown, and how to make it."""
    home.servers()
    home.add("cursor", "{}")
    before = home.files()
    ran = run("install", "cursor", code=2)
    assert "--yes" in ran.error
    assert "+" in ran.output
    assert home.files() == before


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("cursor", '{"a": 1,\n "b" 2}', "line 2"),
        ("codex", "a = 1\nb = \n", "line 2"),
        ("goose", "a: 1\nb: [\n", "line"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(home: Home, run: Run, name: str, text: str, place: str) -> None:
    """And stays as it is; so with a broken configuration of the bridge."""
    home.servers()
    file = home.add(name, text)
    for words in (("install", name), ("install", name, "--wrap"), ("uninstall", name)):
        assert place in run(*words, "--yes", code=2).error
    assert file.read_text() == text
    home.add("kiro", '{"mcpServers": {"a": {"command": "a"}}}')
    home.servers('{"mcpServers":\n}')
    assert "line 2" in run("install", "kiro", "--wrap", "--yes", code=2).error


def test_another_server_of_that_name_is_never_touched(home: Home, run: Run) -> None:
    """Neither replaced nor removed."""
    home.servers()
    file = home.add("cursor", '{"mcpServers": {"asyncfc": {"command": "other"}}}')
    before = file.read_text()
    assert "--name" in run("install", "cursor", "--yes", code=2).error
    assert "is not this bridge" in run("uninstall", "cursor", "--yes", code=2).error
    assert file.read_text() == before
    run("install", "cursor", "--name", "futures", "--yes")
    run("uninstall", "cursor", "--name", "futures", "--yes")
    assert file.read_text() == before


def test_an_entry_that_was_made_by_hand_is_updated_and_removed(home: Home, run: Run) -> None:
    """Its other keys stay until then."""
    home.servers()
    by_hand = {"command": "asyncfc-mcp", "args": ["serve", "--config", "/old.json"], "env": {"A": "1"}}
    file = home.add("cursor", json.dumps({"mcpServers": {"asyncfc": by_hand}}))
    run("install", "cursor", "--yes")
    entry = json.loads(file.read_text())["mcpServers"]["asyncfc"]
    assert (entry["env"], config_of(entry)) == ({"A": "1"}, str(home.config))
    run("uninstall", "cursor", "--yes")
    assert json.loads(file.read_text())["mcpServers"] == {}


@pytest.mark.parametrize(("system", "words"), [("linux", ["--no-shared"]), ("win32", [])])
def test_sessions_have_a_bridge_each_on_request_and_on_windows(system: str, words: list[str], tmp_path: Path) -> None:
    """The entry has the form that it always had."""
    machine = Machine(tmp_path, tmp_path, system, {})
    assert bridge_arguments("/c.json", machine, shared=not words) == ["serve", "--config", "/c.json"]


def test_an_entry_for_one_session_is_changed_visibly(home: Home, run: Run) -> None:
    """By another installation, which shows the line before it writes it; and back again."""
    home.servers()
    file = home.add("cursor", "{}")
    run("install", "cursor", "--no-shared", "--yes")
    alone = file.read_text()
    assert "--shared" not in alone
    shown = run("install", "cursor", "--dry-run").output
    assert "+" in shown
    assert "--shared" in shown
    assert file.read_text() == alone
    run("install", "cursor", "--yes")
    assert "--shared" in file.read_text()
    assert "already has the bridge" in run("install", "cursor", "--yes").output
    run("uninstall", "cursor", "--yes")
    assert file.read_text() == "{}"


def test_an_entry_without_a_record_is_removed(home: Home, run: Run) -> None:
    """As one that was added by hand, or whose record was deleted."""
    text = '{\n  "mcpServers": {\n    "a": {"command": "a"}\n  }\n}\n'
    home.servers()
    file = home.add("cursor", text)
    run("install", "cursor", "--yes")
    for path in (home.path / "asyncfc-state" / "install").glob("*.json"):
        path.unlink()
    run("uninstall", "cursor", "--yes")
    assert file.read_text() == text
    assert "no bridge named" in run("uninstall", "cursor", "--yes", code=2).error


@pytest.mark.parametrize("data", [b'\xef\xbb\xbf{\r\n  "a": 1\r\n}', '{"ä": 1}'.encode("utf-16")])
def test_encodings_are_kept(home: Home, run: Run, data: bytes) -> None:
    """Byte-order marks, UTF-16 and line ends of Windows."""
    home.servers()
    file = home.add("cursor", data)
    run("install", "cursor", "--yes")
    assert file.read_bytes()[:2] == data[:2]
    assert (b"\r\n" in file.read_bytes()) == (b"\r\n" in data)
    run("uninstall", "cursor", "--yes")
    assert file.read_bytes() == data


def test_texts_that_no_encoding_has_are_moved_as_escapes(home: Home, run: Run) -> None:
    """A half of a surrogate pair, and what a terminal would take for a command."""
    text = '{"mcpServers": {"a\\u001b[2J": {"command": "\\ud800", "args": ["\\u001b[31m"]}}}'
    file = home.add("cursor", text)
    output = run("install", "cursor", "--wrap", "--yes").output
    assert json.loads(home.config.read_text()) == json.loads(text)
    output += run("uninstall", "cursor", "--yes").output
    assert file.read_text() == text
    assert "\x1b" not in output


@pytest.mark.parametrize("command", [("install", "cursor", "--wrap", "--yes"), ("import", "FILE", "--yes")])
def test_a_configuration_becomes_as_private_as_the_file_whose_servers_it_takes_over(
    home: Home, run: Run, command: tuple[str, ...]
) -> None:
    """Their secrets must not be readable by others after the move."""
    file = home.add("cursor", file_of("cursor"))
    file.chmod(0o600)
    home.servers()
    home.config.chmod(0o644)
    run(*(str(file) if word == "FILE" else word for word in command))
    assert SECRET in home.config.read_text()
    assert stat.S_IMODE(home.config.stat().st_mode) == 0o600


def test_links_and_modes_are_kept(home: Home, run: Run) -> None:
    """Of a file that is kept elsewhere, as in a repository of dotfiles."""
    home.servers()
    dotfiles = home.path / "dotfiles"
    dotfiles.mkdir()
    target = dotfiles / "cursor.json"
    target.write_text("{}")
    target.chmod(0o640)
    link = home.add("cursor")
    link.symlink_to(target)
    run("install", "cursor", "--yes")
    assert link.is_symlink()
    assert "asyncfc" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in dotfiles.iterdir()] == ["cursor.json"]
    run("uninstall", "cursor", "--yes")
    assert target.read_text() == "{}"


def test_what_must_not_be_written_is_refused(home: Home, run: Run) -> None:
    """A read-only file, a folder, a link without an end, a file with two names."""
    home.servers()
    file = home.add("cursor", "{}")
    file.chmod(0o444)
    assert "read-only" in run("install", "cursor", "--yes", code=2).error
    file.chmod(0o644)
    (home.path / "second").hardlink_to(file)
    assert "another name" in run("install", "cursor", "--yes", code=2).error
    file.unlink()
    file.mkdir()
    assert "no regular file" in run("install", "cursor", "--yes", code=2).error
    file.rmdir()
    file.symlink_to(file)
    assert "cannot be written" in run("install", "cursor", "--yes", code=2).error
    file.unlink()
    file.symlink_to(home.path / "missing" / "mcp.json")
    assert "does not exist" in run("install", "cursor", "--yes", code=2).error


def test_a_file_that_changes_meanwhile_is_left_alone(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading and writing; the bridge's configuration, which was written first, is taken back."""
    file = home.add("cursor", '{"mcpServers": {"a": {"command": "a"}}}')
    write = files.write

    def meanwhile(before: files.Snapshot, data: bytes | None) -> None:
        if before.path == file:
            file.write_text('{"mcpServers": {"a": {"command": "newer"}}}')
        write(before, data)

    monkeypatch.setattr(plans, "write", meanwhile)
    assert "changed by another program" in run("install", "cursor", "--wrap", "--yes", code=2).error
    assert "newer" in file.read_text()
    assert not home.config.exists()
    assert list((home.path / "asyncfc-state" / "install").glob("*.json")) == []


def test_a_failure_in_between_loses_nothing(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk, the old file is still there, whole, and no part of a new one beside it."""
    text = file_of("cursor")
    file = home.add("cursor", text)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    home.servers()
    assert "No space left" in run("install", "cursor", "--yes", code=2).error
    assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["mcp.json"]


KILLED = """
import os, sys
from asyncfc_mcp.cli.install import plans
from asyncfc_mcp.cli.main import main
left = [int(sys.argv.pop(1))]
def killed(function):
    def call(*args, **kwargs):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return function(*args, **kwargs)
    return call
plans.write = killed(plans.write)
plans.Records.save = killed(plans.Records.save)
plans.Records.forget = killed(plans.Records.forget)
main()
"""


@pytest.mark.parametrize("host", ["cursor", "codex", "goose"])
@pytest.mark.parametrize("steps", range(4))
def test_a_run_that_is_killed_loses_no_server(home: Home, run: Run, host: str, steps: int) -> None:
    """Between any two writes, in both directions: each server is in the host or in the configuration, and the next
    run ends what was begun."""
    file = home.add(host, file_of(host))
    before = home.files()

    def servers() -> set[str]:
        found = set(Document(str(file), file.read_text()).table(HOSTS[host].table))
        return found | set(json.loads(home.config.read_text())["mcpServers"] if home.config.exists() else ())

    def kill(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(steps), *words, "--yes"], cwd=home.project, check=False,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == (9 if steps < 3 else 0)
        assert {"github", "two"} <= servers()

    kill("install", host, "--wrap")
    run("install", host, "--wrap", "--yes")
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"github", "two"}
    kill("uninstall", host)
    if steps < 3:
        run("uninstall", host, "--yes")
    assert home.files() == before


def test_installations_at_the_same_time_wait_for_each_other(home: Home) -> None:
    """Eight hosts, with servers that all move into one configuration: none is lost."""
    hosts = ["cursor", "kiro", "windsurf", "lm-studio", "gemini", "antigravity", "junie", "claude-desktop"]
    before = {}
    for host in hosts:
        before[host] = home.add(host, json.dumps({"mcpServers": {f"s-{host}": {"command": host}}})).read_bytes()
    env = {**os.environ, "PATH": os.defpath}

    def all_at_once(*words: str) -> None:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "asyncfc_mcp", words[0], host, *words[1:], "--yes"], env=env, cwd=home.project,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for host in hosts
        ]  # fmt: skip
        for process in started:
            output, error = process.communicate(timeout=100)
            assert process.returncode == 0, (output, error)

    all_at_once("install", "--wrap")
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {f"s-{host}" for host in hosts}
    all_at_once("uninstall")
    assert {host: home.file(host).read_bytes() for host in hosts} == before


def test_copies_and_records_are_private(home: Home, run: Run) -> None:
    """They hold what was moved, with its secrets; at most twenty copies of a file are kept."""
    home.add("cursor", file_of("cursor"))
    for _ in range(12):
        run("install", "cursor", "--wrap", "--yes")
        run("uninstall", "cursor", "--yes")
    run("install", "cursor", "--wrap", "--yes")
    folder = home.path / "asyncfc-state" / "install"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "backups")} == {0o700}
    assert len([path for path in paths if "mcp.json" in path.name]) <= 40


def test_a_bridge_never_wraps_itself(home: Home, run: Run) -> None:
    """Neither its own entry, nor by taking the host's file for its configuration."""
    home.servers()
    file = home.add("cursor", '{"mcpServers": {"mine": {"command": "/x/asyncfc-mcp", "args": ["serve"]}}}')
    assert "own file" in run("install", "cursor", "--config", str(file), "--yes", code=2).error
    run("install", "cursor", "--wrap", "--yes")
    assert set(json.loads(home.config.read_text())["mcpServers"]) == {"own"}


# --- a host's own command ------------------------------------------------------------------------------------------

CLAUDE = """\
#!{python}
import json, os, pathlib, sys
path = pathlib.Path(os.environ["HOME"]) / ".claude.json"
root = json.loads(path.read_text()) if path.exists() else {{}}
servers = root.setdefault("mcpServers", {{}})
words = sys.argv[1:]
(path.parent / "words").write_text(" ".join(words))
if words[1] == "add-json":
    servers[words[4]] = json.load(sys.stdin)
elif words[1] == "remove":
    del servers[words[4]]
if not os.environ.get("LAZY"):
    path.write_text(json.dumps(root))
print("done", file=sys.stderr)
"""


def claude(home: Home) -> None:
    """Put a stand-in for Claude Code's own program on the PATH."""
    program = Path(os.environ["PATH"]) / "claude"
    program.write_text(CLAUDE.format(python=sys.executable))
    program.chmod(0o755)


def test_claude_code_is_changed_by_its_own_command(home: Home, run: Run) -> None:
    """Since a running session writes the same file; the entry is not among the words of the process."""
    home.servers()
    claude(home)
    assert "$ claude mcp add-json --scope user asyncfc -" in run("install", "claude-code", "--dry-run").output
    run("install", "claude-code", "--yes")
    root = json.loads((home.path / ".claude.json").read_text())
    assert is_bridge(root["mcpServers"]["asyncfc"])
    assert "--config" not in (home.path / "words").read_text()
    run("uninstall", "claude-code", "--yes")
    assert json.loads((home.path / ".claude.json").read_text())["mcpServers"] == {}
    run("install", "claude-code", "--via", "file", "--yes")
    assert (home.path / "words").read_text().startswith("mcp remove")


def test_an_own_command_that_does_nothing_is_an_error(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is looked up in the file."""
    home.servers()
    claude(home)
    monkeypatch.setenv("LAZY", "1")
    error = run("install", "claude-code", "--yes", code=2).error
    assert "failed: done" in error
    assert "--via file" in error
    home.add("vscode")
    for host in ("vscode", "cursor"):
        home.add(host)
        error = run("install", host, "--via", "command", "--yes", code=2).error
        assert "cannot be changed by its own command" in error


def test_the_lock_of_claude_code_is_respected(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is not written while a session does; the lock of a process that was killed is no obstacle."""
    home.servers()
    file = home.add("claude-code", "{}")
    lock = home.path / ".claude.json.lock"
    lock.mkdir()
    monkeypatch.setattr(files, "HOST_LOCK_WAIT_S", 0.1)
    assert "the host is writing it" in run("install", "claude-code", "--yes", code=2).error
    assert file.read_text() == "{}"
    os.utime(lock, (1, 1))
    run("install", "claude-code", "--yes")
    assert "asyncfc" in file.read_text()
    assert not lock.exists()


def test_servers_of_one_project_of_claude_code_move_and_come_back(home: Home, run: Run) -> None:
    """Those of its repository, in the user's own file; those of all projects and of others stay."""
    (home.project / ".git").mkdir()
    below = home.project / "below"
    below.mkdir()
    os.chdir(below)
    entries: Any = {"mcpServers": {"s": {"command": "s"}}}
    text = json.dumps(
        {"mcpServers": {"all": {"command": "all"}}, "projects": {str(home.project): entries, str(home.path): entries}},
        indent=2,
    )
    file = home.add("claude-code", text)
    before = home.files()
    run("install", "claude-code", "--scope", "local", "--wrap", "--yes")
    root = json.loads(file.read_text())
    assert root["mcpServers"] == {"all": {"command": "all"}}
    assert list(root["projects"][str(home.project)]["mcpServers"]) == ["asyncfc"]
    assert root["projects"][str(home.path)] == entries
    assert list(json.loads(home.config.read_text())["mcpServers"]) == ["s"]
    run("install", "claude-code", "--yes")
    rows = [line.split()[:2] for line in run("install").output.splitlines() if line.startswith("claude-code")]
    assert rows == [["claude-code", "user"], ["claude-code", "local"]]
    run("uninstall", "claude-code", "--yes")
    run("uninstall", "claude-code", "--scope", "local", "--yes")
    assert home.files() == before
    home.add("cursor", "{}")
    assert "scope 'local'" in run("install", "cursor", "--scope", "local", "--yes", code=2).error


# --- tables and paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "environ", "host", "path"),
    [
        ("darwin", {}, "claude-desktop", "/h/Library/Application Support/Claude/claude_desktop_config.json"),
        ("win32", {"APPDATA": "/h/R"}, "claude-desktop", "/h/R/Claude/claude_desktop_config.json"),
        ("linux", {"XDG_CONFIG_HOME": "/x"}, "claude-desktop", "/x/Claude/claude_desktop_config.json"),
        ("darwin", {}, "vscode", "/h/Library/Application Support/Code/User/mcp.json"),
        ("linux", {}, "vscode", "/h/.config/Code/User/mcp.json"),
        ("win32", {"APPDATA": "/h/R"}, "goose", "/h/R/Block/goose/config/config.yaml"),
        ("darwin", {}, "goose", "/h/.config/goose/config.yaml"),
        ("darwin", {}, "zed", "/h/.config/zed/settings.json"),
        ("win32", {"APPDATA": "/h/R"}, "zed", "/h/R/zed/settings.json"),
        ("win32", {"APPDATA": "/h/R"}, "opencode", "/h/.config/opencode/opencode.json"),
        ("linux", {"CODEX_HOME": "/c"}, "codex", "/c/config.toml"),
        ("linux", {"CLAUDE_CONFIG_DIR": "/c"}, "claude-code", "/c/.claude.json"),
        ("linux", {}, "claude-code", "/h/.claude.json"),
        ("linux", {}, "antigravity", "/h/.gemini/config/mcp_config.json"),
    ],
)
def test_files_of_hosts_on_each_system(system: str, environ: dict[str, str], host: str, path: str) -> None:
    """As the hosts' documentation gives them."""
    assert HOSTS[host].file("user", Machine(Path("/h"), Path("/p"), system, environ)) == Path(path)


def test_the_overview_shows_hosts_and_where_the_bridge_is(home: Home, run: Run) -> None:
    """With their other servers; a file that cannot be read does not hide the rest."""
    home.servers()
    home.add("cursor", file_of("cursor"))
    home.add("kiro", "{")
    home.add("codex", CODEX_FILE)
    run("install", "cursor", "--yes")
    lines = {line.split()[0]: line for line in run("install").output.splitlines() if line}
    assert "asyncfc → ~/.config/asyncfc/mcp.json" in lines["cursor"]
    assert "github, two" in lines["cursor"]
    assert "unreadable" in lines["kiro"]
    assert "github, two" in lines["codex"]
    assert "zed" in lines["Not"]


def test_edits_show_no_secret_of_a_neighbour(tmp_path: Path) -> None:
    """A line that changes only by a comma may hold somebody else's value."""
    path = tmp_path / "mcp.json"
    text = '{"mcpServers": {},\n "apiKey": "abc", "pin": 1234, "l": ["x y"] // my key is abc\n}'
    path.write_text(text)
    after = text.replace("// my", ', "z": "q" // my').encode()
    shown = FileEdit(files.snapshot(path), after, frozenset({"x"})).diff(colour=False)
    for secret in ("abc", "1234", "x y", "q"):
        assert secret not in shown.replace(str(path), "")
    assert '"apiKey"' in shown


def test_threads_of_one_process_wait_as_well(tmp_path: Path) -> None:
    """The lock belongs to its descriptor."""
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with files.locked(tmp_path):
            inside.set()
            leave.wait(5)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(5)
    leave.set()
    with files.locked(tmp_path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
