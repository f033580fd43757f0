"""The last resort for the processes of wrapped servers: ends their process groups if the bridge itself is killed.

Owns the shell process that does this, and the protocol on its pipe. Starting servers and ending them in an orderly way
is left to `process`.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Final

CLOSE_TIMEOUT_S: Final = 4.0
"""Timeout for the end of the shell, which ends nothing if all groups have been removed."""


class Reaper:
    """Ends the process groups of servers if the bridge ends without a chance to do so (SIGKILL, a crash).

    A shell reads the groups from a pipe: if the pipe ends while groups are on its list, it ends them. It starts before
    the first server, and each server's process adds itself before it executes the server's program: it holds the pipe
    until then, so that the list is complete when the pipe ends, at whatever point of a start the bridge is killed.

    Rejected: a parent-death signal would reach only the direct child, and only on Linux. A shell between the bridge and
    the server, which could add itself as well, drops environment variables whose names are not valid in a shell.
    """

    _SCRIPT: Final = (
        "trap '' INT TERM HUP; g=' '; while read -r op n p; do case $op in "
        '+) g="$g$n:$p ";; -) case "$g" in *" $n:"*) r="${g#* $n:}"; g="${g%% $n:*} ${r#* }";; esac;; esac; done; '
        "for s in TERM KILL; do for p in $g; do kill -$s -${p#*:} 2>/dev/null; done; "
        "case $g in *[0-9]*) [ $s = TERM ] && sleep 2;; esac; done"
    )

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        self._last_entry = 0
        self._groups: dict[int, int] = {}
        """Number of an entry → process group."""

    def reserve(self) -> "tuple[int, Callable[[], None] | None]":
        """Return the number of a new entry, and the function with which the new process makes the entry for its own
        group, to be called between fork and exec; None where that is not possible."""
        self._last_entry += 1
        if os.name != "posix":
            return self._last_entry, None
        pipe = self._pipe()
        head = f"+ {self._last_entry} "

        def add_own_group() -> None:
            # Between fork and exec: no locks and no logging, another thread may have held a lock at the fork.
            try:
                os.write(pipe, f"{head}{os.getpid()}\n".encode())
            except OSError:
                pass

        return self._last_entry, add_own_group

    def record(self, entry: int, group: int) -> None:
        """Record the group of an entry, so that the entry can be repeated if the shell is killed."""
        self._groups[entry] = group

    def remove(self, entry: int) -> None:
        """Remove an entry: its group has ended, or could not be started."""
        self._groups.pop(entry, None)
        if self._shell is not None:
            self._write(f"- {entry}\n")

    def _pipe(self) -> int:
        """Return the pipe to the shell, and start the shell if it is not running."""
        if self._shell is None or self._shell.poll() is not None:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", self._SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
            for entry, group in self._groups.items():
                self._write(f"+ {entry} {group}\n")
        assert self._shell.stdin is not None
        return self._shell.stdin.fileno()

    def _write(self, line: str) -> None:
        assert self._shell is not None
        assert self._shell.stdin is not None
        with suppress(OSError, ValueError):
            self._shell.stdin.write(line.encode())

    def close(self) -> None:
        """End the shell. To be called when all groups have ended."""
        if self._shell is not None:
            assert self._shell.stdin is not None
            with suppress(OSError):
                self._shell.stdin.close()
            try:
                self._shell.wait(timeout=CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._shell.kill()
                self._shell.wait()
            self._shell = None
