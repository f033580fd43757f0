"""Starts the topology of `docker-compose.yml` on loopback, without containers: PostgreSQL, two replicas of the bridge,
and a load balancer. Run from the clone: `.venv/bin/python examples/cluster/local.py`; Ctrl-C stops everything.

Needs the extra `postgres`, and on Debian `apt-get install postgresql haproxy` (no cluster of PostgreSQL has to be
started). With `ASYNCFC_ENGINE` in the environment, that database is used and none is started.
"""

import argparse
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLONE = HERE.parents[1]
REPLICAS = ("replica-1", "replica-2")
START_S = 60.0
STOP_S = 30.0
RESTART_S = 1.0


class Failed(Exception):
    """Something does not start; the text says what, and what to do."""


class Process:
    """A process in a session of its own, so that Ctrl-C reaches this script only, with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str], **options: Any) -> None:
        self.name, self.log = name, log
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        if sys.platform == "linux" and shutil.which("setpriv") is not None:
            command = ["setpriv", "--pdeathsig", "TERM", *command]  # it ends with this script, whatever ends that
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **env},
                start_new_session=True,
                **options,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def until(self, ready: Callable[[], Any]) -> Any:
        """Return what `ready` returns as soon as it is true."""
        deadline = time.monotonic() + START_S
        while not (found := ready()):
            if self.code is not None or time.monotonic() > deadline:
                why = "does not start" if self.code is None else f"ended with {self.code}"
                raise Failed(f"{self.name} {why}:\n{self.output()[-2000:]}")
            time.sleep(0.02)
        return found

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        if self.code is None:
            self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.send(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def program(name: str, package: str, *folders: str) -> str:
    """Return the path of a program, the newest where there are several versions."""
    found = sorted(path for folder in folders for path in Path("/").glob(f"{folder}/{name}"))
    path = found[-1] if found else shutil.which(name)
    if path is None:
        raise Failed(f"{name} is not installed: apt-get install {package}")
    return str(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
        return response.status == 200
    return False


@contextmanager
def postgres(logs: Path) -> Generator[tuple[str, Process]]:
    """Run a database in a folder of its own, which is removed at the end; return its URL."""
    programs = Path(program("postgres", "postgresql", "usr/lib/postgresql/*/bin")).parent
    password, port = secrets.token_hex(16), free_port()
    folder = Path(tempfile.mkdtemp(prefix="asyncfc-cluster-pg-", dir="/tmp"))  # paths of Unix sockets are short
    options: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C"}}
    file = folder / "password"
    file.write_text(password)
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        user = pwd.getpwnam("postgres")
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (folder, file):
            os.chown(path, user.pw_uid, user.pw_gid)
    server = None
    try:
        words = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "asyncfc", "--pwfile", str(file)]
        words += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        made = Process("initdb", words, logs / "initdb.log", **options)
        made.until(lambda: made.code == 0)
        words = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        words += ["-c", "listen_addresses=127.0.0.1"]
        server = Process("postgres", words, logs / "postgres.log", **options)
        server.until(lambda: "ready to accept connections" in server.output())
        yield f"postgresql://asyncfc:{password}@127.0.0.1:{port}/postgres", server
    finally:
        if server is not None:
            server.stop(signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)


class Replica:
    """A replica of the bridge, on the same port after a restart."""

    def __init__(self, name: str, config: Path, folder: Path, env: Mapping[str, str]) -> None:
        self.name, self.port = name, 0
        self._config, self._log = config, folder / f"{name}.log"
        self._env = {**env, "ASYNCFC_REPLICA": name}
        self.process = self._start()

    def _start(self) -> Process:
        command = [sys.executable, "-m", "asyncfc_mcp", "serve", "--config", str(self._config)]
        command += ["--transport", "http", "--port", str(self.port)]
        return Process(self.name, command, self._log, self._env, cwd=CLONE)

    def ready(self) -> None:
        """Wait until it takes requests."""
        self.listening()
        self.process.until(lambda: answers(f"http://127.0.0.1:{self.port}/readyz"))

    def listening(self) -> None:
        """Wait until it accepts connections."""
        pattern = re.compile(r"listening on http://127\.0\.0\.1:(\d+)/mcp")
        self.port = int(self.process.until(lambda: pattern.search(self.process.output()))[1])

    def restart(self) -> None:
        self.process = self._start()

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "url": f"http://127.0.0.1:{self.port}/mcp", "pid": self.process.pid}


class Output:
    """What is said on stdout, for people or as one JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, text: str, **facts: Any) -> None:
        print(json.dumps(facts) if self._as_json else text, flush=True)


def watch(replicas: Sequence[Replica], others: Sequence[Process], output: Output, *, restart: bool) -> int:
    """Restart replicas that end; return the exit code as soon as something else has ended."""
    gone: dict[str, float] = {}
    while True:
        for other in others:
            if other.code is not None:
                output.say(f"{other.name} ended with {other.code}", event="ended", name=other.name, code=other.code)
                return 1
        for replica in replicas:
            if replica.process.code is None:
                continue
            if replica.name not in gone:
                gone[replica.name] = time.monotonic()
                code = replica.process.code
                output.say(f"{replica.name} ended with {code}", event="ended", name=replica.name, code=code)
            elif restart and time.monotonic() > gone[replica.name] + RESTART_S:
                del gone[replica.name]
                replica.restart()
                with suppress(Failed):  # then it is found again, as one that has ended
                    replica.ready()
                    output.say(f"{replica.name} is started again", event="started", **replica.facts())
        time.sleep(0.1)


def stop_all(replicas: Sequence[Replica], balancers: Sequence[Process]) -> None:
    """Stop the replicas, each of which finishes its requests, and then what is in front of them."""
    for replica in replicas:
        replica.process.send(signal.SIGTERM)
    for replica in replicas:
        replica.process.stop()
    for balancer in balancers:
        balancer.stop()


def run(arguments: argparse.Namespace, folder: Path) -> int:
    output = Output(arguments.json)
    with ExitStack() as stack:
        others: list[Process] = []
        engine = os.environ.get("ASYNCFC_ENGINE")
        if engine is None:
            engine, database = stack.enter_context(postgres(folder))
            others.append(database)
        env = {
            "ASYNCFC_ENGINE": engine,
            "ASYNCFC_SECRET": secrets.token_hex(32),
            "ASYNCFC_PYTHON": sys.executable,
            "ASYNCFC_NOTES": str(folder / "notes"),
        }
        for name, value in (("CACHE", "cache"), ("LOG", "log"), ("STATE", "state")):
            env.setdefault(f"ASYNCFC_{name}_DIR", str(folder / value))
        replicas: list[Replica] = []
        balancers: list[Process] = []
        stack.callback(stop_all, replicas, balancers)
        replicas.extend(Replica(name, arguments.config, folder, env) for name in REPLICAS)
        for replica in replicas:
            replica.listening()
        port = arguments.port or free_port()
        addresses = {f"REPLICA_{number}": f"127.0.0.1:{each.port}" for number, each in enumerate(replicas, 1)}
        words = [program("haproxy", "haproxy", "usr/sbin", "usr/local/sbin"), "-db", "-f", str(HERE / "haproxy.cfg")]
        balancer = Process("haproxy", words, folder / "haproxy.log", {"LISTEN": f"127.0.0.1:{port}", **addresses})
        balancers.append(balancer)
        others.append(balancer)
        base = f"http://127.0.0.1:{port}"
        for replica in replicas:
            replica.ready()
        balancer.until(lambda: answers(f"{base}/readyz"))
        facts: dict[str, Any] = {
            "url": f"{base}/mcp",
            "replicas": [each.facts() for each in replicas],
            "processes": {each.name: each.pid for each in others},
            "folder": str(folder),
        }
        lines = [f"  {each['name']}: {each['url']}, process {each['pid']}" for each in facts["replicas"]]
        text = "\n".join([f"{base}/mcp", *lines, f"  logs: {folder}", "Ctrl-C stops everything."])
        output.say(text, event="ready", **facts)
        return watch(replicas, others, output, restart=not arguments.no_restart)


def main() -> int:
    parser = argparse.ArgumentParser(description="Two replicas, a database and a load balancer on loopback.")
    parser.add_argument("--config", type=Path, default=HERE / "config.json", help="configuration of the replicas")
    parser.add_argument("--port", type=int, default=8642, help="port of the load balancer; 0: any")
    parser.add_argument(
        "--folder", type=Path, help="folder for logs and notes, which is kept; default: a temporary one"
    )
    parser.add_argument("--no-restart", action="store_true", help="leave a replica that ended as it is")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    arguments = parser.parse_args()
    arguments.config = arguments.config.resolve()

    def stop(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # once is enough: everything is being stopped
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        if arguments.folder is not None:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            return run(arguments, arguments.folder.resolve())
        with tempfile.TemporaryDirectory(prefix="asyncfc-cluster-", ignore_cleanup_errors=True) as folder:
            return run(arguments, Path(folder))
    except KeyboardInterrupt:
        return 0
    except Failed as exc:
        print(f"cluster: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
