"""A service of systemd: its states, its sockets, its watchdog, and units that systemd accepts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import psutil
import pytest

from asyncfc_mcp.transports.http.options import HttpOptions
from asyncfc_mcp.transports.http.serve import passed_sockets
from asyncfc_mcp.transports.systemd import Service, UnusableSocket
from tests.support.client import PATIENCE, eventually
from tests.support.stage import REPO, HttpBridge, Stage
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or os.name != "posix", reason="systemd is for Linux")

EXAMPLES = REPO / "examples" / "systemd"
AS_SERVICE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Passes on a socket as systemd does: only the new process knows its own ID."""


class Manager:
    """The end of a service manager that is notified."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.address = address
        self.seen: list[str] = []

    def messages(self) -> list[str]:
        """All that have come."""
        try:
            while True:
                self.seen.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return self.seen

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    address = str(tmp_path / "n") if request.param == "path" else f"@asyncfc-test-{tmp_path.name}-{os.getpid()}"
    with closing(Manager(address)) as manager:
        yield manager


def test_states_reach_the_manager(manager: Manager):
    """Over a path and over an abstract address; a status is sent when it changes, on one line."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    service = Service.take(environ)
    assert environ == {"A": "b"}
    service.ready()
    for text in ("1 of\n2", "1 of 2", "2 of 2"):
        service.status(text)
    with service.reloading():
        pass
    with service.reloading():
        service.stopping(1.5)
    messages = manager.messages()
    assert messages[:3] == ["READY=1", "STATUS=1 of 2", "STATUS=2 of 2"]
    reloading = dict(line.split("=") for line in messages[3].splitlines())
    assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert messages[4] == "READY=1"
    assert messages[5].startswith("RELOADING=1\n")
    assert messages[6:] == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000"]


def test_a_watchdog_gets_signs_of_life_in_time(tmp_path: Path):
    """At least two in each of its intervals."""
    with closing(Manager(str(tmp_path / "n"))) as manager:
        service = Service.take({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})

        def status() -> str:
            manager.messages()  # its queue has ten places
            return "fine"

        @on_virtual_time
        async def half_a_minute() -> None:
            with anyio.move_on_after(30):
                await service.run(status)

        half_a_minute()
        assert manager.messages().count("STATUS=fine") == 1
        assert manager.seen.count("WATCHDOG=1") >= 20


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "x"},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_meant_for_another_process_or_wrong_is_ignored(environ: dict[str, str]):
    """A manager that cannot be reached is no reason to fail."""
    service = Service.take(environ)
    service.ready()
    assert service.take_sockets() == []
    assert environ == {}


def test_the_address_of_sockets_replaces_that_of_the_options():
    """The one that the most clients can reach decides about the need of a token."""
    local, public = socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0))
    with local, public:
        sockets, options = passed_sockets(Service(sockets=[("a", local), ("b", public)]), HttpOptions())
        assert sockets == [local, public]
        assert (options.host, options.port) == ("0.0.0.0", public.getsockname()[1])
        assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


def test_a_socket_of_another_kind_is_refused(tmp_path: Path):
    """With its name, and what to set."""
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as connection:
        for sock, why in ((unix, "is no TCP socket"), (connection, "does not listen")):
            with pytest.raises(UnusableSocket, match=f"'web' that systemd passes {why}.*ListenStream="):
                Service(sockets=[("web", sock)]).take_sockets()


def _started(stage: Stage, command: list[str], port: int, **more: object) -> HttpBridge:
    log = stage.folder / "service.stderr"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=stage.folder, **more
        )  # type: ignore[call-overload]
    stage.processes.append(process)
    return HttpBridge(process, port, log)


def test_a_bridge_is_ready_reports_its_servers_and_stops_as_a_service(stage: Stage, tmp_path: Path):
    """It serves the socket that it inherits, and its servers inherit nothing of this."""
    with closing(Manager(str(tmp_path / "n"))) as manager, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        env = stage.env | {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": "1000000",
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "web",
        }
        config = stage.config({"toy": stage.toy("modern", env_inherit="all")}, drain_s=5)
        serve = stage.command("serve", "--config", str(config), "--transport", "http", "--port", "1")
        descriptor = listener.fileno()
        command = [sys.executable, "-c", AS_SERVICE, str(descriptor), *serve]
        bridge = _started(stage, command, port, env=env, pass_fds=[descriptor])
        listener.close()
        eventually(lambda: "READY=1" in manager.messages(), "the service is ready")
        status = f"STATUS=listening on http://127.0.0.1:{port}, 1 of 1 servers are up"
        eventually(lambda: status in manager.messages(), "its server is up")
        client = bridge.client()
        assert client.wait_for_tools("toy__echo")
        for toy in stage.downstreams():
            assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"} & toy.environ().keys()
            assert port not in {each.laddr.port for each in toy.net_connections() if each.laddr}
        client.close()
        ready = manager.messages().count("READY=1")
        bridge.process.send_signal(signal.SIGHUP)
        eventually(lambda: manager.messages().count("READY=1") > ready, "the configuration was read again")
        assert [line for line in manager.seen if line.startswith("RELOADING=1\nMONOTONIC_USEC=")]
        config.write_text(config.read_text().replace('"drain_s": 5', '"drain_s": 6'))
        eventually(lambda: manager.messages().count("READY=1") > ready + 1, "the change was used")
        bridge.process.send_signal(signal.SIGTERM)
        assert bridge.process.wait(PATIENCE) == 0
        assert "STOPPING=1\nEXTEND_TIMEOUT_USEC=36000000" in manager.messages()
        assert "WATCHDOG=1" in manager.seen
        assert manager.seen.index("READY=1") < manager.seen.index("WATCHDOG=1")


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd")
def test_systemd_starts_the_bridge_for_its_first_client(stage: Stage):
    """The client that wakes it is answered."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    activate = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--fdname=web"]
    for name, value in stage.env.items():
        activate.append(f"--setenv={name}={value}")
    config = stage.config({"toy": stage.toy("modern")})
    command = [*activate, *stage.command("serve", "--config", str(config), "--transport", "http")]
    bridge = _started(stage, command, port, env=stage.env)
    eventually(lambda: f"Listening on 127.0.0.1:{port}" in bridge.stderr(), "systemd listens")
    assert not stage.downstreams()
    client = bridge.client()
    client.wait_for_tools("toy__echo")
    assert psutil.Process(bridge.process.pid).cmdline()[1:3] == ["-m", "asyncfc_mcp"]
    client.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("scope", ["system", "user"])
def test_systemd_accepts_the_units(tmp_path: Path, scope: str):
    """Without a warning; the program itself is elsewhere here."""
    folder = EXAMPLES if scope == "system" else EXAMPLES / "user"
    units: list[str] = []
    for unit in ("asyncfc-mcp.service", "asyncfc-mcp.socket"):
        text = (folder / unit).read_text()
        for program in ("/opt/asyncfc-mcp/bin/asyncfc-mcp", "%h/.local/bin/asyncfc-mcp"):
            text = text.replace(program, "/bin/true")
        (tmp_path / unit).write_text(text)
        units.append(str(tmp_path / unit))
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(
        ["systemd-analyze", f"--{scope}", "verify", *units], capture_output=True, text=True, env=env, check=False
    )
    problems = [line for line in ran.stderr.splitlines() if "asyncfc" in line or "Failed" in line]
    assert (ran.returncode, problems) == (0, [])
