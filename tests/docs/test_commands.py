"""Commands in the documentation: those of the bridge are run, with a home, hosts and servers of their own.

A command that needs a browser, a terminal, the network, a database or a daemon is compared with the options that exist.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from asyncfc_mcp.cli.install.hosts import HOSTS, Machine
from asyncfc_mcp.cli.main import cli
from tests.docs.commands import BRIDGE, OTHERS, SHELLS, Command, in_block, in_text, plain, wrong_option
from tests.docs.pages import REPO, blocks, pages
from tests.docs.transcripts import PACE, example_servers
from tests.support.stage import Stage, free_port

FOUND = [command for block in blocks() if block.language in SHELLS for command in in_block(block)]
"""All commands of blocks, in order."""
OF_BRIDGE = [command for command in FOUND if command.program == BRIDGE]
IN_TEXT = [command for page in pages() if page.name != "CHANGELOG.md" for command in in_text(page)]
NEED = {
    "demo": "takes long; `.ci/run` runs it",
    "engine": "a database",
    "login": "a browser and a server to sign in to",
    "logout": "a server to sign in to",
    "open": "a daemon or a bridge",
    "top": "a terminal",
}
"""Command → what it needs that is not here."""
ONLY_FILES = ("install", "uninstall", "import", "token")
"""Commands that read and write files and start nothing: they run in this process."""
DEADLINE_S = 60


def reason_not_to_run(command: Command) -> str | None:
    """Return why a command of the bridge is only compared with the options that exist."""
    words = plain(command.words)
    if command.excuse:
        return command.excuse
    if command.has_placeholders:
        return "a placeholder"
    if words[0] == "serve" and ("--" in words or "--url" in words):
        return "the network"
    if "--url" in words or "--follow" in words:
        return "a bridge"
    return NEED.get(words[0])


@dataclass
class Sandbox:
    """A home with hosts and a configuration, and a folder with the examples, in which the commands run."""

    stage: Stage
    home: Path
    runtime: str

    @property
    def env(self) -> dict[str, str]:
        return {
            **self.stage.env,
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "ASYNCFC_RUNTIME_DIR": self.runtime,
            "ASYNCFC_PYTHON": sys.executable,
            "ASYNCFC_NOTES": str(self.stage.folder / "notes"),
            "ASYNCFC_DEMO_SCALE": PACE,
        }

    def words(self, command: Command) -> list[str]:
        """Return the words after the program, as those of a reader who answers yes."""
        words = plain(command.words)
        if words[0] in ("install", "uninstall", "import") and "--print" not in words and len(words) > 1:
            words.append("--yes")
        if words[0] == "serve" and "--transport" in words:
            words += ["--port", str(free_port())]
        return [str(self.home) + word[1:] if word.startswith("~/") else word for word in words]

    def run_here(self, command: Command) -> tuple[int, str]:
        """Run a command in this process; return its exit code and its output."""
        result = CliRunner().invoke(cli, self.words(command), env={**dict.fromkeys(os.environ), **self.env})
        return result.exit_code, f"{result.output}{result.exception or ''}"

    def start(self, command: Command) -> "subprocess.Popen[str]":
        """Start a command."""
        return subprocess.Popen(
            self.stage.command(*self.words(command)), env=self.env, cwd=self.stage.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def sandbox(shared_stage: Stage) -> Iterator[Sandbox]:
    """Every host of a page for beginners is there, with one server of its own."""
    home = shared_stage.folder / "home"
    machine = Machine(home, shared_stage.folder, sys.platform, {"PATH": "", "HOME": str(home)})
    for host in HOSTS.values():
        file = host.file("user", machine)
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        for sign in host.signs[:1]:
            path = machine.path(sign)
            if not path.exists():
                path.mkdir(parents=True)
        entry = host.shape(f"of-{host.key}", sys.executable, [str(REPO / "examples" / "travel_server.py")])
        if file.suffix == ".toml":
            text = f'[mcp_servers.of-{host.key}]\ncommand = "{entry["command"]}"\nargs = {json.dumps(entry["args"])}\n'
        else:
            table: dict[str, object] = {f"of-{host.key}": entry}
            for key in reversed(host.table):
                table = {key: table}
            text = json.dumps(table)
        file.write_text(text, encoding="utf-8")
    config = {"mcpServers": example_servers(shared_stage)}
    for file in (home / ".config" / "asyncfc" / "mcp.json", shared_stage.folder / "mcp.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config), encoding="utf-8")
    (shared_stage.folder / "examples").symlink_to(REPO / "examples")
    token = "0" * 64
    (shared_stage.folder / "tokens.toml").write_text(f'alice = "sha256:{token}"\n', encoding="utf-8")
    (shared_stage.folder / "tokens.toml").chmod(0o600)
    # One call was made here before, for the commands that show calls.
    wire = shared_stage.serve(
        "--config", str(home / ".config" / "asyncfc" / "mcp.json"), env={"HOME": str(home), "ASYNCFC_DEMO_SCALE": "0"}
    )
    wire.call("travel__weather", {"city": "Lisbon", "_wait": "this"})
    wire.close()
    shared_stage.wires.remove(wire)
    with tempfile.TemporaryDirectory(prefix="run-") as runtime:
        yield Sandbox(shared_stage, home, runtime)


def unique(commands: list[Command]) -> list[Command]:
    """Return the commands without those that are given again."""
    found: dict[tuple[str, ...], Command] = {}
    for command in commands:
        found.setdefault(command.words, command)
    return list(found.values())


RUN = [command for command in unique(OF_BRIDGE) if reason_not_to_run(command) is None]
SERVE = [command for command in RUN if "--transport" in command.words]


def test_commands_end_well(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in the order of the pages; `doctor` may find problems, but none of its own."""
    monkeypatch.chdir(sandbox.stage.folder)
    problems: list[str] = []
    for command in RUN:
        if command in SERVE:
            continue
        if (name := plain(command.words)[0]) in ONLY_FILES:
            code, output = sandbox.run_here(command)
        else:
            process = sandbox.start(command)
            output = "".join(process.communicate(timeout=DEADLINE_S))
            code = process.returncode
        if code not in ((0, 1) if name == "doctor" else (0,)) or "Traceback" in output:
            problems.append(f"{command}\n  exit code {code}\n{output}")
    assert not problems, "\n".join(problems)


def test_bridges_listen_and_stop(sandbox: Sandbox) -> None:
    """Each command that serves says where it listens, and ends with SIGTERM."""
    for command in SERVE:
        process = sandbox.start(command)
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), True)
        said = ""
        deadline = time.monotonic() + DEADLINE_S
        while "listening on" not in said and time.monotonic() < deadline:
            line = process.stderr.readline()
            if not line:
                break
            said += line
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=DEADLINE_S)
        assert "listening on" in said, f"{command}\n{said}{rest}"
        assert process.returncode == 0, f"{command}\n{said}{rest}"


@pytest.mark.parametrize("command", unique([*OF_BRIDGE, *IN_TEXT]), ids=str)
def test_commands_and_options_exist(command: Command) -> None:
    """Of every command of the bridge, in blocks and in the text."""
    assert wrong_option(command.words) is None


def test_commands_of_other_programs_that_start_the_bridge() -> None:
    """What follows `--` in `claude mcp add` and the like."""
    nested = [command.words[command.words.index(BRIDGE) :] for command in FOUND if BRIDGE in command.words[1:]]
    assert len(nested) >= 2
    assert [wrong_option(words) for words in nested] == [None] * len(nested)


def test_all_programs_are_known() -> None:
    """A program that is not the bridge is listed in `OTHERS`; a script of the repository exists."""
    unknown: list[str] = []
    for command in FOUND:
        scripts = [word for word in command.words[1:] if word.endswith(".py") and "/" in word]
        unknown += [f"{command}: no {script}" for script in scripts if not (REPO / script).is_file()]
        if command.program not in (BRIDGE, *OTHERS) and not command.excuse:
            unknown.append(str(command))
    assert not unknown


def test_an_option_that_does_not_exist_is_found() -> None:
    """And a command that does not."""
    assert wrong_option((BRIDGE, "serve", "--nonsense")) is not None
    assert wrong_option((BRIDGE, "nonsense")) is not None
    assert wrong_option((BRIDGE, "install", "cursor", "--wrap")) is None


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Most commands are run, and of the others it is said why not."""
    why = Counter(reason_not_to_run(command) or "run" for command in unique(OF_BRIDGE))
    with capsys.disabled():
        others = sum(command.program != BRIDGE for command in FOUND)
        said = ", ".join(f"{count} {reason}" for reason, count in why.most_common())
        print(f"\ncommands of the bridge in blocks: {said}; of other programs: {others}; in the text: {len(IN_TEXT)}")
    assert why["run"] > sum(why.values()) / 2
