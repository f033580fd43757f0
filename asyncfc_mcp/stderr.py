"""The stderr of a wrapped server: a log file of its own, ours with `--verbose`, and the tail that errors quote.

Owns the files: where they are, the time stamps, their rotation and permissions. Everything here is best effort: a log
that cannot be written never stops a server.
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
from asyncfc_mcp.diagnosis import cause, clean, explained
from asyncfc_mcp.redaction import without_secrets

logger = logging.getLogger(__name__)

TAIL_LINES: Final = 60
"""Last lines that are kept to find the cause of an end in them."""
QUOTED_LINES: Final = 10
"""Last lines that an error quotes."""
LOG_BYTES: Final = 5 << 20
"""A log file of this size is renamed to `.1` and a new one begun."""
OLDER_LOGS: Final = 2
"""Older files that are kept: `.1` and `.2`."""


def _plain(name: str) -> str:
    """A name as part of a file name; one that had to be changed gets a hash, so that two never share a file."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60].lstrip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def configuration_folder(root: Path, label: str, identity: str) -> Path:
    """The folder for the logs of one configuration: two projects with a server `files` do not share a log.

    Args:
        label: for people, such as the file's path.
        identity: tells it from all others.
    """
    parts = [part for part in re.split(r"[^A-Za-z0-9_-]+", label) if part]
    return root / f"{'-'.join(parts[-3:])[-40:].strip('-')}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:8]}"


def log_path(folder: Path, server: str) -> Path:
    """The log file of a server in this folder."""
    return folder / f"{_plain(server)}.log"


class _LogFile:
    """A file that is appended to and rotated, also while other bridges append to it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in reversed((path.parent, path.parent.parent)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = self._open()

    def _open(self) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        if os.name == "posix" and os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o600)  # written by an earlier version
        return fd

    def write(self, text: str) -> None:
        if self._fd < 0:  # it could not be opened again when it was full
            self._fd = self._open()
        if os.fstat(self._fd).st_size >= LOG_BYTES:
            self._rotate()
        os.write(self._fd, text.encode("utf-8", "backslashreplace"))

    def _rotate(self) -> None:
        ours = os.fstat(self._fd)
        self.close()
        try:
            with suppress(FileNotFoundError):
                # Another bridge may have rotated it already; then the name is another file's.
                if os.path.samestat(ours, os.stat(self.path)):
                    names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, OLDER_LOGS + 1))]
                    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                        with suppress(FileNotFoundError):
                            newer.replace(older)
        finally:
            self._fd = self._open()

    def close(self) -> None:
        # Set aside before it is closed: the number may belong to another file a moment later.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Stderr:
    """Receives the lines of one server's stderr.

    Args:
        name: the server's.
        path: its log file; None keeps only the tail.
        echo: where each line is repeated (`--verbose`).
        secrets: values that no error may quote.
    """

    def __init__(self, name: str, path: Path | None, echo: TextIO | None, secrets: Sequence[str] = ()) -> None:
        self._name, self._path, self._echo, self._secrets = name, path, echo, secrets
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._file: _LogFile | None = None

    def open(self, command: str) -> None:
        """Begin with a new process.

        Args:
            command: its command line, without secrets.
        """
        self._tail.clear()
        if self._path is not None and self._file is None:
            try:
                self._file = _LogFile(self._path)
            except OSError as exc:
                logger.warning("no log file for server %r: %s", self._name, exc)
                self._path = None
        self.note(f"asyncfc-mcp {__version__} (process {os.getpid()}) starts {command}")

    def note(self, text: str) -> None:
        """Write a line of the bridge's own to the log file."""
        self._write(f"--- {clean(text)}")

    def line(self, text: str) -> None:
        self.lines([text])

    def lines(self, texts: Sequence[str]) -> None:
        """Receive lines that were read together: one write for all, since a server may write 30,000 at once."""
        self._tail.extend(text[:4096] for text in texts[-TAIL_LINES:])
        self._write(*texts)
        if self._echo is not None:
            with suppress(OSError, ValueError):  # a closed stderr of ours; the server's must be read on
                self._echo.write("".join([f"[{self._name}] {clean(text)}\n" for text in texts]))

    def _write(self, *texts: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                stamp = datetime.now().astimezone().isoformat(timespec="milliseconds")
                self._file.write("".join([f"{stamp} {text}\n" for text in texts]))

    @property
    def tail(self) -> list[str]:
        """The last lines as an error quotes them, and where all of it is."""
        quoted = [without_secrets(clean(line), self._secrets) for line in list(self._tail)[-QUOTED_LINES:]]
        return [*quoted, self._where.strip()] if self._file is not None else quoted

    @property
    def cause(self) -> str | None:
        """Why the process ended, where its last lines say so."""
        found = cause(self._tail)
        return None if found is None else without_secrets(found, self._secrets)

    def ended(self, how: str) -> str:
        """A predicate such as "exited with code 1", with the cause where the last lines say it."""
        how = without_secrets(how, self._secrets)
        return how if (why := self.cause) is None else f"{how} ({why})"

    @property
    def _where(self) -> str:
        return f" (log: {self._path})" if self._file is not None else ""

    def explained(self, how: str) -> str:
        """A reason for people: the cause first, then `how` the process ended, and its log file."""
        return without_secrets(explained(how, self._tail), self._secrets) + self._where

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
