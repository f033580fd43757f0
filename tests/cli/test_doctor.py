"""`asyncfc-mcp doctor`: real processes in a scratch home, whole and broken in one place each."""

import http.server
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from asyncfc_mcp.cli.doctor import folders
from asyncfc_mcp.cli.doctor.findings import Level, Section, as_json, as_text, cleaned, ok, problem, warning
from asyncfc_mcp.cli.doctor.program import check_program
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant
from tests.support.stage import REPO, free_port

Json = dict[str, Any]
SECRET = "a-secret-that-no-line-may-show"
NOTES: Json = {"command": sys.executable, "args": [str(REPO / "examples" / "notes_server.py")]}
PROGRAM = str(Path(sys.executable).with_name("asyncfc-mcp"))
posix = pytest.mark.skipif(os.name != "posix", reason="modes and shells of POSIX")


@dataclass
class Patient:
    """A scratch home with one configuration and one host, all of them whole."""

    path: Path
    run_folder: Path
    """For sockets, whose paths are short."""
    servers: Json
    settings: Json

    def __init__(self, path: Path, run_folder: Path) -> None:
        self.path, self.run_folder, self.settings = path, run_folder, {"asyncfc": {}}
        self.servers = {"notes": {**NOTES, "cwd": str(path)}}
        self.config.parent.mkdir(parents=True)
        (path / ".cursor").mkdir()
        self.host({"asyncfc": {"command": PROGRAM, "args": ["serve", "--config", str(self.config)]}})

    @property
    def config(self) -> Path:
        return self.path / ".config" / "asyncfc" / "mcp.json"

    @property
    def state(self) -> Path:
        return self.path / ".local" / "state" / "asyncfc-mcp"

    def write(self) -> None:
        self.config.write_text(json.dumps({"mcpServers": self.servers, **self.settings}))

    def host(self, servers: Json) -> None:
        (self.path / ".cursor" / "mcp.json").write_text(json.dumps({"mcpServers": servers}))

    def run(self, *words: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the command with these words, in a process."""
        if not os.path.lexists(self.config) and self.config.parent.exists():
            self.write()
        own = {"HOME": str(self.path), "USERPROFILE": str(self.path), "PATH": os.environ["PATH"], **environ}
        own.setdefault("ASYNCFC_RUNTIME_DIR", str(self.run_folder))
        ran = subprocess.run(
            [sys.executable, "-m", "asyncfc_mcp", *words], env=own, cwd=self.path, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert ran.returncode == code, ran
        assert SECRET not in ran.stdout + ran.stderr
        return ran

    def findings(self, *words: str, code: int, **environ: str) -> list[Json]:
        """Run `doctor --json`, and return the findings of all sections."""
        ran = self.run("doctor", "--json", *words, code=code, **environ)
        assert not ran.stderr
        report = json.loads(ran.stdout)
        assert report["ok"] is (code == 0)
        return [finding for section in report["sections"] for finding in section["findings"]]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    home = tmp_path / "home"
    home.mkdir()
    with TemporaryDirectory(prefix="run-") as run_folder:
        yield Patient(home, Path(run_folder, "run"))


def test_a_whole_setup_has_no_finding_but_ok(patient: Patient) -> None:
    """Program, folders, host, configuration, journal and server are looked at; exit code 0, and no file changes."""
    host = (patient.path / ".cursor" / "mcp.json").read_bytes()
    found = patient.findings(code=0)
    assert {each["level"] for each in found} == {"ok"}, found
    subjects = {each["subject"] for each in found}
    assert {"Python", "asyncfc-mcp", "mcp", "file", "journal", "server notes"} <= subjects
    assert any(each.startswith("cursor ") for each in subjects)
    assert "7 tools" in next(each["text"] for each in found if each["subject"] == "server notes")
    assert (patient.path / ".cursor" / "mcp.json").read_bytes() == host
    # What the servers' start has made is as it should be.
    assert {each["level"] for each in patient.findings(code=0)} == {"ok"}


def test_lines_without_a_terminal_are_plain_and_whole(patient: Patient) -> None:
    """Each finding is one line with its level, without colours or folding; the last line counts."""
    patient.servers["gone"] = {"command": "no-such-program-" + "x" * 120}
    output = patient.run("doctor", code=1).stdout
    assert "\x1b" not in output
    lines = output.splitlines()
    assert "  ok       mcp: " in output
    assert next(line for line in lines if "was not found" in line).startswith("  problem  server gone: ")
    assert lines[-1].startswith("1 problem in ")


Break = Callable[[Patient], None]


def _servers(**servers: Json) -> Break:
    return lambda patient: patient.servers.update(servers)


def _settings(**settings: Any) -> Break:
    return lambda patient: patient.settings["asyncfc"].update(settings)


def _config(text: str) -> Break:
    def write(patient: Patient) -> None:
        patient.config.write_text(text)

    return write


def _hosted(**entries: Json) -> Break:
    return lambda patient: patient.host(entries)


def _bridge(config: str, command: str = PROGRAM) -> Json:
    return {"command": command, "args": ["serve", "--config", config]}


def _loose(patient: Patient) -> None:
    patient.state.mkdir(parents=True)
    patient.state.chmod(0o777)


def _no_folder(patient: Patient) -> None:
    patient.run_folder.write_text("")


def _open_sockets(patient: Patient) -> None:
    patient.run_folder.mkdir()
    patient.run_folder.chmod(0o755)


def _blocked(patient: Patient) -> None:
    patient.state.parent.mkdir(parents=True)
    patient.state.write_text("")


def _twice(patient: Patient) -> None:
    entry = _bridge(str(patient.config))
    patient.host({"asyncfc": entry, "again": entry, "other-name": patient.servers["notes"]})


def _uninstalled(patient: Patient) -> None:
    patient.host({})
    patient.run("install", "cursor", "--yes", "--config", str(patient.config))
    patient.host({})


def _open_config(patient: Patient) -> None:
    patient.write()
    patient.config.chmod(0o666)


def _dangling(patient: Patient) -> None:
    patient.config.symlink_to("nowhere.json")
    patient.host({})


def _spoilt_journal(patient: Patient) -> None:
    file = patient.path / "journal.db"
    file.write_text("no journal, but much longer than the head of a file of a database" * 100)
    file.chmod(0o600)
    patient.settings["asyncfc"]["journal"] = str(file)


def _shell(script: str, **env: str) -> Json:
    return {"command": "sh", "args": ["-c", script], "env": env}


CASES: list[Any] = [
    pytest.param(_config('{"mcpServers": {'), "problem", "file", ["expected JSON"], id="no JSON"),
    pytest.param(_open_config, "warning", "file", ["others", "chmod go-w"], marks=posix, id="an open configuration"),
    pytest.param(_dangling, "problem", "file", ["expected"], marks=posix, id="a link to nothing"),
    pytest.param(_spoilt_journal, "problem", "journal", ["journal.db", "cannot be used"], id="a spoilt journal"),
    pytest.param(_config('{"mcpServers": {}}'), "problem", "file", ["found no server"], id="no servers"),
    pytest.param(_servers(bad={"command": 5}), "problem", "server bad", ["expected a string"], id="an invalid entry"),
    pytest.param(
        _servers(odd={**NOTES, "env": {"A": "${NOT_SET_ANYWHERE}"}}),
        "problem", "server odd", ["NOT_SET_ANYWHERE"], id="a variable that is not set",
    ),
    pytest.param(_settings(secret=SECRET), "warning", "setting", ["asyncfc.secret", "no effect"], id="no effect"),
    pytest.param(
        _servers(gone={"command": "no-such-program", "args": ["--token", SECRET]}),
        "problem", "server gone", ["no-such-program", "PATH"], id="a command that does not exist",
    ),
    pytest.param(
        _servers(crash=_shell('echo "$TOKEN" >&2; exit 3', TOKEN=SECRET)),
        "problem", "server crash", ["code 3"], marks=posix, id="a server that quotes its token and exits",
    ),
    pytest.param(
        _servers(web={"url": f"http://127.0.0.1:{free_port()}/mcp?key={SECRET}"}),
        "problem", "server web", ["refused"], id="a URL that cannot be reached",
    ),
    pytest.param(_blocked, "problem", "state ", ["no folder", "away"], marks=posix, id="a file in place of a folder"),
    pytest.param(_loose, "warning", "state ", ["others", "chmod 700"], marks=posix, id="an open folder"),
    pytest.param(_no_folder, "problem", "socket folder", ["no folder"], marks=posix, id="a file for sockets"),
    pytest.param(_open_sockets, "warning", "socket folder", ["chmod 700"], marks=posix, id="open sockets"),
    pytest.param(
        _settings(engine=f"postgresql://user:{SECRET}@127.0.0.1:{free_port()}/x"),
        "problem", "database", ["127.0.0.1"], id="a database that cannot be reached",
    ),
    pytest.param(
        _hosted(asyncfc=_bridge("/nowhere/mcp.json")),
        "problem", "cursor ", ["/nowhere/mcp.json", "does not exist"], id="a host that names a lost configuration",
    ),
    pytest.param(
        _hosted(asyncfc=_bridge("${VARIABLE}", "/nowhere/asyncfc-mcp")),
        "problem", "cursor ", ["/nowhere/asyncfc-mcp", "asyncfc-mcp install cursor"], id="a host with a lost command",
    ),
    pytest.param(_twice, "warning", "cursor ", ["'again'", "one configuration"], id="two bridges in a host"),
    pytest.param(_twice, "warning", "cursor ", ["'other-name'", "--wrap other-name"], id="a server in both places"),
    pytest.param(_uninstalled, "warning", "cursor ", ["entry is gone", "uninstall"], id="an entry that was deleted"),
    pytest.param(
        lambda patient: (patient.path / ".cursor" / "mcp.json").write_text("{,"),
        "warning", "cursor ", ["line 1"], id="a host's file that is broken",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "level", "subject", "words"), CASES)
def test_what_is_broken_is_found(patient: Patient, harm: Break, level: str, subject: str, words: list[str]) -> None:
    """One line names the thing and what to do; the exit code is 1 for problems only; secrets are not shown."""
    harm(patient)
    found = patient.findings(code=1 if level == "problem" else 0)
    said = [
        f"{each['text']}; {each['action']}"
        for each in found
        if (each["level"], each["subject"].startswith(subject)) == (level, True)
    ]
    assert any(all(word in text for word in words) for text in said), found


def test_install_repairs_an_entry_as_it_is_said(patient: Patient) -> None:
    """The advice for a lost command works: after it, the host has no finding but ok."""
    patient.host({"asyncfc": _bridge(str(patient.config), "/nowhere/asyncfc-mcp")})
    (said,) = [each for each in patient.findings(code=1) if each["level"] == "problem"]
    command = said["action"].split("`")[1].split()
    assert command[0] == "asyncfc-mcp"
    patient.run(*command[1:], "--yes")
    assert {each["level"] for each in patient.findings(code=0)} == {"ok"}


def test_no_configuration_is_a_warning_unless_one_is_named(patient: Patient) -> None:
    """Without any, the usual place is named; with --config, a file that does not exist is a problem."""
    shutil.rmtree(patient.config.parent)
    patient.host({})
    assert [each["level"] for each in patient.findings(code=0) if each["subject"] == "configuration"] == ["warning"]
    (said,) = [each for each in patient.findings("--config", "no.json", code=1) if each["level"] == "problem"]
    assert "does not exist" in said["text"]


@pytest.mark.parametrize("words", [["extra"], ["--nonsense"], ["--config"]], ids=" ".join)
def test_wrong_usage_has_exit_code_2(patient: Patient, words: list[str]) -> None:
    """Nothing is checked."""
    assert not patient.run("doctor", *words, code=2).stdout


def test_a_project_does_not_choose_what_is_started(patient: Patient) -> None:
    """The configuration that a project's file names is not read: it belongs to whoever wrote the project."""
    mark = patient.path / "started"
    (patient.path / "evil.json").write_text(json.dumps({"mcpServers": {"evil": _shell(f"touch '{mark}'")}}))
    (patient.path / ".mcp.json").write_text(json.dumps({"mcpServers": {"asyncfc": _bridge("./evil.json")}}))
    found = patient.findings(code=0)
    assert any(each["subject"].startswith("claude-code ") for each in found)
    assert not mark.exists()


def test_configurations_of_hosts_are_checked_one_after_the_other(patient: Patient) -> None:
    """A second configuration, which only a host names, is found; and none is taken for a bridge inside the other."""
    second = patient.path / "second.json"
    second.write_text(json.dumps({"mcpServers": {"second": NOTES}}))
    patient.host({"one": _bridge(str(patient.config)), "two": _bridge(str(second))})
    found = patient.findings(code=0)
    assert {"server notes", "server second"} <= {each["subject"] for each in found}


def test_a_bridge_that_lists_itself_is_a_problem(patient: Patient) -> None:
    """It ends, with the reason."""
    patient.servers["itself"] = {"command": PROGRAM, "args": ["serve", "--config", str(patient.config)]}
    found = patient.findings(code=1)
    assert any(each["subject"] == "server itself" and "lists the bridge itself" in each["text"] for each in found), (
        found
    )


@contextmanager
def _asking() -> Iterator[str]:
    """A server that asks for a token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
        server.shutdown()


def test_a_missing_sign_in_and_a_port_in_use_are_said(patient: Patient) -> None:
    """The server's line has the command that signs in; the port's line says that no sign-in can come back."""
    with _asking() as url, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        patient.servers["web"] = {"url": url, "oauth": {"callbackPort": port}}
        found = {each["subject"]: each for each in patient.findings(code=1)}
    assert found["server web"]["level"] == "problem"
    assert "asyncfc-mcp login web" in found["server web"]["action"]
    assert found[f"port {port}"]["level"] == "warning"


@pytest.mark.parametrize(("seconds", "level"), [(-60.0, "warning"), (3600.0, "ok")], ids=["expired", "in force"])
def test_a_stored_sign_in_is_described_without_its_tokens(patient: Patient, seconds: float, level: str) -> None:
    """One that has expired and cannot be renewed is a warning with the command that signs in."""
    url, now = f"http://127.0.0.1:{free_port()}/mcp", time.time()
    grant = Grant(
        "https://issuer.example", "https://issuer.example/token", url, "client", SECRET, now, ("read",),
        expires_at=now + seconds,
    )  # fmt: skip
    FileStore(patient.state / "oauth").save_grant("web", url, grant)
    patient.servers["web"] = {"url": url}
    found = {each["subject"]: each for each in patient.findings(code=1)}
    assert found["server web"]["level"] == "problem"
    assert found["sign-in web"]["level"] == level
    assert ("asyncfc-mcp login web" in found["sign-in web"]["text"]) is (level == "warning")


def test_tables_that_are_missing_are_created_as_it_is_said(patient: Patient, postgres_url: str) -> None:
    """The database's line says which command creates its tables; after that, it is ok."""
    patient.settings["asyncfc"] |= {"engine": postgres_url, "secret": SECRET}
    (said,) = [each for each in patient.findings(code=1) if each["level"] == "problem"]
    assert said["subject"] == "database"
    assert "no tables" in said["text"]
    patient.run(*shlex.split(said["action"].split("`")[1])[1:])
    found = {each["subject"]: each for each in patient.findings(code=0)}
    assert found["database"]["level"] == "ok"
    assert "psycopg (extra postgres, which the configuration needs)" in found


def test_what_an_extra_lacks_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of an extra are looked at if the configuration needs it, and the command that installs it is said."""
    from asyncfc_mcp.cli.doctor import program

    real = program.version

    def version(name: str) -> str:
        if name in ("keyring", "psycopg"):
            raise program.PackageNotFoundError(name)
        return "1.9" if name == "mcp" else real(name)

    monkeypatch.setattr(program, "version", version)
    text = json.dumps({"mcpServers": {"x": {"command": "x"}}, "asyncfc": {"credentials": "keyring"}})
    said = {each.subject: each for each in check_program([parse_config(text, "x.json", {})])}
    missing = said["keyring (extra keyring, which the configuration needs)"]
    assert missing.level is Level.PROBLEM
    assert "asyncfc-mcp[keyring]" in missing.action
    assert said["mcp"].level is Level.PROBLEM
    assert not any("psycopg" in subject for subject in said)


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "problem"), (200 << 20, "warning"), (1 << 40, "ok")])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    """A full disk is a problem, little room a warning."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # pyright: ignore
    assert [each.level.value for each in folders.check_folders({"state": tmp_path})] == [level]


def test_lines_are_safe_and_coloured_on_a_terminal_only() -> None:
    """Control characters and secrets of the configuration are removed; markup is not interpreted."""
    section = cleaned(
        Section("A", [problem("x", f"[red]\x1b[2J {SECRET}\n", "do"), warning("y", "z" * 60), ok("o", "p")]), [SECRET]
    )
    plain = as_text(section, colour=False)
    assert plain == f"A\n  problem  x: [red]\\x1b[2J …\\n; do\n  warning  y: {'z' * 60}\n  ok       o: p\n"
    coloured = as_text(section, colour=True, width=40)
    assert "\x1b[" in coloured
    assert "\x1b[2J" not in coloured
    assert all(part.isprintable() for part in as_json([section]).splitlines())
