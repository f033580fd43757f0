"""The stderr of a wrapped server: its log file, the echo with `--verbose`, and the last lines for error texts.

Owns the log files: their paths, time stamps, rotation and permissions. All of it is best effort: a log that cannot be
written never stops a server. Finding the cause of an exit in the lines is left to `diagnosis`.
"""

import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from asyncfc_mcp import __version__
from asyncfc_mcp.downstream.diagnosis import cause, clean, explained
from asyncfc_mcp.private_files import make_folder, open_private
from asyncfc_mcp.quotation import label
from asyncfc_mcp.redaction import without_secrets

logger = logging.getLogger(__name__)

TAIL_LINES: Final = 60
"""Last lines that are kept to find the cause of an exit."""
QUOTED_LINES: Final = 10
"""Last lines that an error text quotes."""
LOG_BYTES: Final = 5 << 20
"""Size at which a log file is renamed to `.1` and a new one is created."""
OLDER_LOGS: Final = 2
"""Rotated files that are kept: `.1` and `.2`."""


def _file_name(name: str) -> str:
    """Return a name as part of a file name, with a hash if it had to be changed, so that no two names share a file."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60].lstrip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def configuration_folder(root: Path, label: str, identity: str) -> Path:
    """Return the log folder of one configuration: two projects with a server `files` do not share a log.

    Args:
        label: readable part of the folder's name, such as the path of the configuration file.
        identity: distinguishes the configuration from all others.
    """
    parts = [part for part in re.split(r"[^A-Za-z0-9_-]+", label) if part]
    return root / f"{'-'.join(parts[-3:])[-40:].strip('-')}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:8]}"


def log_path(folder: Path, server: str) -> Path:
    """Return the path of a server's log file in a folder."""
    return folder / f"{_file_name(server)}.log"


class _LogFile:
    """An append-only file with rotation, which several bridges may write at the same time.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self._fd = self._open()
        for older in self._names[1:]:
            with suppress(OSError):
                os.close(open_private(older, os.O_RDONLY))  # opening it sets its mode

    @property
    def _names(self) -> list[Path]:
        """The file and its rotated predecessors, newest first."""
        return [self.path, *(Path(f"{self.path}.{n}") for n in range(1, OLDER_LOGS + 1))]

    def _open(self) -> int:
        return open_private(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, text: str) -> None:
        if self._fd < 0:  # the last rotation could not open a new file
            self._fd = self._open()
        if os.fstat(self._fd).st_size >= LOG_BYTES:
            self._rotate()
        os.write(self._fd, text.encode("utf-8", "backslashreplace"))

    def _rotate(self) -> None:
        ours = os.fstat(self._fd)
        self.close()
        try:
            with suppress(FileNotFoundError):
                # Another bridge may have rotated it already; the path then belongs to another file.
                if os.path.samestat(ours, os.stat(self.path)):
                    names = self._names
                    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                        with suppress(FileNotFoundError):
                            newer.replace(older)
        finally:
            self._fd = self._open()

    def close(self) -> None:
        # Reset before closing: the number may belong to another file immediately afterwards.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Stderr:
    """Writes the stderr lines of one server to its log and keeps the last ones.

    Args:
        name: name of the server.
        path: the log file; None keeps only the last lines.
        echo: a stream for a copy of each line (`--verbose`).
        secrets: values that error texts must not quote.
    """

    def __init__(self, name: str, path: Path | None, echo: TextIO | None, secrets: Sequence[str] = ()) -> None:
        self._name, self._path, self._echo, self._secrets = name, path, echo, secrets
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._file: _LogFile | None = None

    def open(self, command: str) -> None:
        """Start the log of a new process.

        Args:
            command: the command line, without secrets.
        """
        self._tail.clear()
        if self._path is not None and self._file is None:
            try:
                self._file = _LogFile(self._path)
            except OSError as exc:
                logger.warning("the stderr of server %r is not logged: cannot open its log file: %s", self._name, exc)
                self._path = None
        self.note(f"asyncfc-mcp {__version__} (process {os.getpid()}) starts {command}")

    def note(self, text: str) -> None:
        """Write a line of the bridge itself to the log file."""
        self._write(f"--- {clean(text)}")

    def line(self, text: str) -> None:
        """Log one line of the server."""
        self.lines([text])

    def lines(self, texts: Sequence[str]) -> None:
        """Log lines that were read together, in a single write: a server may write 30,000 at once."""
        self._tail.extend(text[:4096] for text in texts[-TAIL_LINES:])
        self._write(*(label(text) for text in texts))
        if self._echo is not None:
            with suppress(OSError, ValueError):  # our stderr may be closed; the server's must still be read
                self._echo.write("".join([f"[{self._name}] {clean(text)}\n" for text in texts]))

    def _write(self, *texts: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                stamp = datetime.now().astimezone().isoformat(timespec="milliseconds")
                self._file.write("".join([f"{stamp} {text}\n" for text in texts]))

    @property
    def tail(self) -> list[str]:
        """The last lines as quoted in error texts, followed by the path of the log."""
        quoted = [without_secrets(clean(line), self._secrets) for line in list(self._tail)[-QUOTED_LINES:]]
        return [*quoted, self._log_hint.strip()] if self._file is not None else quoted

    @property
    def cause(self) -> str | None:
        """The cause of the exit, if the last lines contain it."""
        found = cause(self._tail)
        return None if found is None else without_secrets(found, self._secrets)

    def with_cause(self, how: str) -> str:
        """Return a predicate such as "exited with code 1", followed by the cause if the last lines contain it."""
        how = without_secrets(how, self._secrets)
        return how if (why := self.cause) is None else f"{how} ({why})"

    @property
    def _log_hint(self) -> str:
        return f" (log: {self._path})" if self._file is not None else ""

    def explain(self, how: str) -> str:
        """Return a reason for users: the cause, the predicate `how`, and the path of the log."""
        return without_secrets(explained(how, self._tail), self._secrets) + self._log_hint

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
