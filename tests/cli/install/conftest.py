"""A scratch home without any host, in which the commands run."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from asyncfc_mcp.cli.install.hosts import HOSTS, Host, Machine, Scope
from asyncfc_mcp.cli.main import cli
from asyncfc_mcp.errors import BridgeError


@dataclass
class Home:
    """A scratch home, and a project below it as the current folder."""

    path: Path
    project: Path

    @property
    def config(self) -> Path:
        """The bridge's configuration."""
        return self.machine.path("$XDG/asyncfc/mcp.json")

    @property
    def machine(self) -> Machine:
        return Machine(self.path, self.project, sys.platform, os.environ)

    def file(self, host: str | Host, scope: Scope = "user") -> Path:
        """The file of a host."""
        found = (HOSTS[host] if isinstance(host, str) else host).file(scope, self.machine)
        assert found is not None
        return found

    def add(self, host: str, text: str | bytes | None = None, scope: Scope = "user") -> Path:
        """Make a host that is here, with this file."""
        file = self.file(host, scope)
        for sign in HOSTS[host].signs[:1]:
            if not Path(sign).suffix:
                self.machine.path(sign).mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def servers(self, text: str = '{"mcpServers": {"own": {"command": "own"}}}\n') -> Path:
        """Make the bridge's configuration."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        return self.config

    def files(self) -> dict[Path, bytes]:
        """Every file of the home, without the state of the bridge."""
        return {
            path: path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and "asyncfc-state" not in path.parts
        }


@dataclass
class Ran:
    """Result of a command: `error` is the text of a `BridgeError`."""

    output: str
    error: str
    code: int


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    path = tmp_path / "home"
    project = path / "project"
    project.mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in list(os.environ):
        if name.startswith(("XDG_", "CLAUDE", "CODEX", "COPILOT", "ASYNCFC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("USERPROFILE", str(path))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("ASYNCFC_STATE_DIR", str(path / "asyncfc-state"))
    monkeypatch.chdir(project)
    return Home(path, project)


@pytest.fixture
def run(home: Home) -> Callable[..., Ran]:
    """Run a command without a terminal; a `BridgeError` is what `main` would print."""

    def invoke(*words: str, code: int = 0) -> Ran:
        result = CliRunner().invoke(cli, list(words), standalone_mode=False)
        if isinstance(result.exception, BridgeError):
            ran = Ran(result.output, str(result.exception), 2)
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        else:
            ran = Ran(result.output, "", result.exit_code)
        assert ran.code == code, ran
        return ran

    return invoke
