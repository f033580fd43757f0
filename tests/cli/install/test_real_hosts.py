"""Real hosts: their own commands find the bridge that `install` has put into their files, and not after `uninstall`.

Each in a scratch home, without an account. Their packages take more than a gigabyte.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from asyncfc_mcp.cli.install.entries import is_bridge
from tests.cli.install.conftest import Home, Ran
from tests.support.peers import npm_bin

pytestmark = [
    pytest.mark.hosts_long,
    pytest.mark.node,
    pytest.mark.skipif(sys.platform != "linux", reason="the binaries are those of Linux"),
]

Run = Callable[..., Ran]
PROGRAMS = {
    "claude-code": "@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "opencode": "opencode-linux-x64/bin/opencode",
}
NAMES = {"claude-code": "claude", "gemini": "gemini", "codex": "codex", "opencode": "opencode"}


@pytest.fixture
def host(
    home: Home, npm_hosts: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Put the program of a host, node and the bridge on the PATH; yield a function that runs the program. Daemons that
    it starts are stopped in the end."""
    key: str = request.param
    folder = Path(os.environ["PATH"])
    for name in ("node", "sh", "env", "uname", "cat"):
        found = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin:" + os.path.dirname(sys.executable)) or ""
        if name == "node":
            found = REAL_NODE or found
        (folder / name).symlink_to(found)
    program = npm_bin(npm_hosts, "gemini") if key == "gemini" else str(npm_hosts / "node_modules" / PROGRAMS[key])
    (folder / NAMES[key]).symlink_to(program)
    (folder / "asyncfc-mcp").symlink_to(Path(sys.executable).with_name("asyncfc-mcp"))

    def ask(*words: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [str(folder / NAMES[key]), *words], cwd=home.project, capture_output=True, text=True, timeout=90,
            check=False, input=stdin or "",
        )  # fmt: skip
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    with TemporaryDirectory(prefix="run-") as run_folder:  # paths of sockets are short
        monkeypatch.setenv("ASYNCFC_RUNTIME_DIR", run_folder)
        yield ask
        subprocess.run([sys.executable, "-m", "asyncfc_mcp", "daemon", "stop"], check=True, capture_output=True)


REAL_NODE = shutil.which("node")


@pytest.mark.parametrize("host", ["claude-code"], indirect=True)
def test_claude_code_runs_the_bridge_that_its_own_command_added(home: Home, run: Run, host: Callable[..., str]) -> None:
    """It connects to it; after the removal it has no server."""
    home.servers('{"mcpServers": {"own": {"command": "cat"}}}')
    run("install", "claude-code", "--yes")
    assert is_bridge(json.loads((home.path / ".claude.json").read_text())["mcpServers"]["asyncfc"])
    assert "Scope: User config" in host("mcp", "get", "asyncfc")
    assert re.search(r"asyncfc: .*asyncfc-mcp serve --shared --config .* Connected", host("mcp", "list"))
    run("uninstall", "claude-code", "--yes")
    assert "asyncfc" not in host("mcp", "list")


@pytest.mark.parametrize("host", ["claude-code"], indirect=True)
def test_servers_of_claude_code_move_and_come_back(home: Home, run: Run, host: Callable[..., str]) -> None:
    """Those that its own command has added, in the file that it has written."""
    host("mcp", "add-json", "--scope", "user", "mine", '{"type": "stdio", "command": "cat", "env": {"K": "v"}}')
    before = (home.path / ".claude.json").read_bytes()
    run("install", "claude-code", "--wrap", "--yes")
    listed = host("mcp", "list")
    assert "asyncfc" in listed
    assert "mine" not in listed
    assert json.loads(home.config.read_text())["mcpServers"]["mine"]["env"] == {"K": "v"}
    run("uninstall", "claude-code", "--yes")
    now, old = json.loads((home.path / ".claude.json").read_text()), json.loads(before)
    assert now["mcpServers"] == old["mcpServers"]
    assert "mine" in host("mcp", "list")


@pytest.mark.parametrize("host", ["claude-code"], indirect=True)
def test_a_project_of_claude_code_has_the_bridge(home: Home, run: Run, host: Callable[..., str]) -> None:
    """In `.mcp.json`, which Claude Code finds."""
    home.servers()
    run("install", "claude-code", "--scope", "project", "--yes")
    assert "Scope: Project config" in host("mcp", "get", "asyncfc")
    run("uninstall", "claude-code", "--scope", "project", "--yes")
    assert not (home.project / ".mcp.json").exists()


@pytest.mark.parametrize("host", ["claude-code"], indirect=True)
def test_servers_of_one_project_move_and_come_back(home: Home, run: Run, host: Callable[..., str]) -> None:
    """Those that its own command has added without a scope."""
    (home.project / ".git").mkdir()
    host("mcp", "add", "mine", "--", "cat", "-u")
    run("install", "claude-code", "--scope", "local", "--wrap", "--yes")
    assert "Scope: Local config" in host("mcp", "get", "asyncfc")
    assert json.loads(home.config.read_text())["mcpServers"]["mine"]["args"] == ["-u"]
    run("uninstall", "claude-code", "--scope", "local", "--yes")
    assert "Scope: Local config" in host("mcp", "get", "mine")
    run("install", "claude-code", "--scope", "local", "--config", str(home.servers()), "--yes")
    assert "Scope: Local config" in host("mcp", "get", "asyncfc")
    run("uninstall", "claude-code", "--scope", "local", "--yes")
    assert "asyncfc" not in host("mcp", "list")


@pytest.mark.parametrize("host", ["codex"], indirect=True)
@pytest.mark.parametrize("via", ["file", "command"])
def test_codex_lists_the_bridge(home: Home, run: Run, host: Callable[..., str], via: str) -> None:
    """Beside a server that its own command has added; both ways of adding give one result."""
    home.servers()
    (home.path / ".codex").mkdir()
    host("mcp", "add", "mine", "--env", "K=v", "--", "cat", "-u")
    before = (home.path / ".codex" / "config.toml").read_bytes()
    run("install", "codex", "--via", via, "--yes")
    listed = {each["name"]: each["transport"] for each in json.loads(_json(host("mcp", "list", "--json")))}
    assert set(listed) == {"mine", "asyncfc"}
    assert listed["asyncfc"]["args"] == ["serve", "--shared", "--config", str(home.config)]
    assert (home.path / ".codex" / "config.toml").read_bytes().startswith(before.rstrip()) or via == "command"
    run("uninstall", "codex", "--via", via, "--yes")
    assert "asyncfc" not in host("mcp", "list", "--json")
    if via == "file":
        assert (home.path / ".codex" / "config.toml").read_bytes() == before
    run("install", "codex", "--wrap", "--yes")
    assert {each["name"] for each in json.loads(_json(host("mcp", "list", "--json")))} == {"asyncfc"}
    run("uninstall", "codex", "--yes")
    assert {each["name"] for each in json.loads(_json(host("mcp", "list", "--json")))} == {"mine"}


def _json(output: str) -> str:
    """The list that a program prints, without warnings before it."""
    return output[output.index("[\n") : output.rindex("]") + 1]


@pytest.mark.parametrize("host", ["gemini"], indirect=True)
def test_gemini_lists_the_bridge(home: Home, run: Run, host: Callable[..., str]) -> None:
    """Beside a server that its own command has added, and its other settings."""
    home.servers()
    host("mcp", "add", "-s", "user", "mine", "cat", "-u")
    before = home.file("gemini").read_bytes()
    run("install", "gemini", "--yes")
    listed = host("mcp", "list")
    assert re.search(r"asyncfc: .*asyncfc-mcp serve --shared --config", listed)
    assert "mine: cat" in listed
    run("uninstall", "gemini", "--yes")
    assert home.file("gemini").read_bytes() == before
    assert "asyncfc" not in host("mcp", "list")


@pytest.mark.parametrize("host", ["opencode"], indirect=True)
def test_opencode_connects_to_the_bridge(home: Home, run: Run, host: Callable[..., str]) -> None:
    """Its shape of an entry is accepted, with comments in the file."""
    home.servers('{"mcpServers": {"own": {"command": "cat"}}}')
    text = '{\n  // mine\n  "$schema": "https://opencode.ai/config.json",\n  "mcp": {}\n}\n'
    home.add("opencode", text)
    run("install", "opencode", "--yes")
    assert re.search(r"asyncfc.*connected", host("mcp", "list"))
    run("uninstall", "opencode", "--yes")
    assert home.file("opencode").read_text() == text
    assert "asyncfc" not in host("mcp", "list")
