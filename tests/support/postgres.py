"""A real PostgreSQL server for tests: Debian's or any other on the PATH, in a temporary folder, on loopback.

Owns finding the programs, and starting, stopping and removing a server. Each worker process of the tests has a server
of its own, which starts with the first test that asks for it, and each test a schema of its own in it. Tests that stop
or restart the database make a server of theirs (`postgres_server`).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.stage import free_port

START_TIMEOUT_S = 60.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresMissing(Exception):
    """There is no PostgreSQL on this machine, or it cannot be run; the text says what to do."""


def programs() -> Path:
    """Return the folder of the server's programs, of the newest version.

    Raises:
        PostgresMissing: there is none.
    """
    folders = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if folders:
        return max(folders, key=lambda folder: int("".join(filter(str.isdigit, folder.parent.name)) or 0))
    found = shutil.which("postgres")
    if found is None or not Path(found).with_name("initdb").exists():
        raise PostgresMissing(
            "these tests need PostgreSQL's server programs, in /usr/lib/postgresql/*/bin or on the PATH "
            "(Debian: apt-get install postgresql; no cluster has to be started)"
        )
    return Path(found).parent


class PostgresServer:
    """A PostgreSQL server in a folder of its own.

    Args:
        fast: without durability: commits may be lost with the machine, which tests do not switch off.
        settings: of `postgresql.conf`.

    Attributes:
        port: on 127.0.0.1; the same after a restart.
        folder: has the Unix socket; private.
    """

    def __init__(self, *, fast: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._programs = programs()
        self._user = _user()
        self._settings = {**_SETTINGS, **(_NOT_DURABLE if fast else {}), **(settings or {})}
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        # In the system's temporary folder: pytest's folders are closed to the user that the server runs as, and the
        # path of a Unix socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="asyncfc-pg-", dir="/tmp" if os.path.isdir("/tmp") else None))
        self._log = self.folder / "log"
        self.port = free_port()
        self._started = False
        try:
            self._create()
        except BaseException:
            self.remove()
            raise

    def _create(self) -> None:
        password = self.folder / "password"
        password.write_text(self._password)
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            for path in (self.folder, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        made = self._start(
            "initdb",
            *("--pgdata", str(self.folder / "data"), "--username", "postgres", "--pwfile", str(password)),
            *(
                "--auth-local",
                "trust",
                "--auth-host",
                "scram-sha-256",
                "--encoding",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ),
        )
        if made.wait(START_TIMEOUT_S) != 0:
            raise PostgresMissing(f"initdb failed: {self.log()}")
        password.unlink()

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(self._programs / program), *arguments]
        if sys.platform == "linux" and shutil.which("setpriv") is not None:
            # A test process that is killed leaves no server behind.
            command = ["setpriv", "--pdeathsig", "QUIT", *command]
        entry = None if self._user is None else pwd.getpwnam(self._user)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                start_new_session=True,
                user=None if entry is None else entry.pw_uid,
                group=None if entry is None else entry.pw_gid,
                extra_groups=None if entry is None else [],
            )

    def log(self) -> str:
        """Return the end of what the server has written."""
        with suppress(OSError):
            return self._log.read_text(errors="replace")[-4_000:]
        return ""

    # --- addresses -----------------------------------------------------------------------------------------------

    def url(self, schema: str | None = None, *, database: str = "postgres", tcp: bool = True) -> str:
        """Return the URL of a database, as the setting `engine` takes it.

        Args:
            schema: see `fresh_schema`; None for the default.
            tcp: over loopback, with a password; else over the Unix socket.
        """
        if tcp:
            url, first = f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}", "?"
        else:
            url, first = f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}", "&"
        return url if schema is None else f"{url}{first}schema={schema}"

    def fresh_schema(self) -> str:
        """Return the name of a schema that does not exist. None is ever removed: the server ends with its tests."""
        return f"t_{secrets.token_hex(8)}"

    # --- life ----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process ID of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server; return once it accepts connections.

        Raises:
            PostgresMissing: it does not start.
        """
        for attempt in range(5):
            if self._try_start():
                self._started = True
                return
            # Another program may have taken the port since it was found to be free. URLs have it from the first start.
            if "Address already in use" not in self.log():
                break
            if not self._started:
                self.port = free_port()
            time.sleep(0.2 * attempt)
        raise PostgresMissing(f"PostgreSQL does not start: {self.log()}")

    def _try_start(self) -> bool:
        assert self._process is None
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._start("postgres", "-D", str(self.folder / "data"), *options)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop(immediate=True)
                return False
            time.sleep(0.02)
        return True

    def _accepts(self) -> bool:
        """Return whether the server says that it is ready, in the last line of its own file."""
        with suppress(OSError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: connections are ended, and transactions rolled back.

        Args:
            immediate: as a crash: nothing is written before the end, and the next start recovers from the log.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def restart(self, *, immediate: bool = False) -> None:
        """Stop the server and start it on the same port with the same data."""
        self.stop(immediate=immediate)
        self.start()

    def remove(self) -> None:
        """Stop the server, and remove its data."""
        self.stop(immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _user() -> str | None:
    """Return the user that the server runs as; None for the own one. PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PostgresMissing("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


@contextmanager
def postgres_server(*, fast: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """Run a server until the block ends.

    Raises:
        PostgresMissing: it cannot be run here.
    """
    server = PostgresServer(fast=fast, settings=settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()
