"""The stderr of a wrapped server: its log file, the echo with `--verbose`, and the last lines for error texts.

Owns the lines of the log files and their time stamps. All of it is best effort: a log that cannot be written never
stops a server. Rotation is left to `housekeeping.rotating_file`, finding the cause of an exit in the lines to
`diagnosis`.
"""

import logging
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from asyncfc_mcp import __version__
from asyncfc_mcp.downstream.diagnosis import cause, clean, explained
from asyncfc_mcp.housekeeping.rotating_file import RotatingFile
from asyncfc_mcp.quotation import label
from asyncfc_mcp.redaction import without_secrets

logger = logging.getLogger(__name__)

TAIL_LINES: Final = 60
"""Last lines that are kept to find the cause of an exit."""
QUOTED_LINES: Final = 10
"""Last lines that an error text quotes."""


class Stderr:
    """Writes the stderr lines of one server to its log and keeps the last ones.

    Args:
        name: name of the server.
        path: the log file; None keeps only the last lines.
        echo: a stream for a copy of each line (`--verbose`).
        secrets: values that error texts must not quote.
    """

    def __init__(self, name: str, path: Path | None, echo: TextIO | None, secrets: Sequence[str] = ()) -> None:
        self._name, self._path, self._echo, self.secrets = name, path, echo, secrets
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._file: RotatingFile | None = None

    def open(self, command: str) -> None:
        """Start the log of a new process.

        Args:
            command: the command line, without secrets.
        """
        self._tail.clear()
        if self._path is not None and self._file is None:
            try:
                self._file = RotatingFile(self._path)
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
        quoted = [without_secrets(clean(line), self.secrets) for line in list(self._tail)[-QUOTED_LINES:]]
        return [*quoted, self._log_hint.strip()] if self._file is not None else quoted

    @property
    def cause(self) -> str | None:
        """The cause of the exit, if the last lines contain it."""
        found = cause(self._tail)
        return None if found is None else without_secrets(found, self.secrets)

    def with_cause(self, how: str) -> str:
        """Return a predicate such as "exited with code 1", followed by the cause if the last lines contain it."""
        how = without_secrets(how, self.secrets)
        return how if (why := self.cause) is None else f"{how} ({why})"

    @property
    def _log_hint(self) -> str:
        return f" (log: {self._path})" if self._file is not None else ""

    def explain(self, how: str) -> str:
        """Return a reason for users: the cause, the predicate `how`, and the path of the log."""
        return without_secrets(explained(how, self._tail), self.secrets) + self._log_hint

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
