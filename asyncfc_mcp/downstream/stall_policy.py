"""The decision about a server that has stopped reading its input: wait for it, or end its connection.

Owns the time limits and the activity of a process group. The messages on the pipes, and ending the connection, are left
to `jsonrpc.peer` and its owner.

A server whose event loop is blocked by a call reads nothing while it works, and must not be ended for that; one that
hangs must not block its callers forever. Pending requests tell the two apart, and where no timeout of theirs limits the
wait, the activity of the process group does.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio

STALL_S: Final = 30.0
"""A server that has no pending requests and reads nothing for this long while a message is written is considered
dead."""
SILENT_S: Final = 600.0
"""The same for a server with pending requests without a timeout, from its last activity on. A call may wait for a
network this long without any activity. Requests with a timeout are waited for until it ends them."""
CLOSED_S: Final = 30.0
"""After a server has closed its input: time without activity until its pending requests are given up. `SILENT_S` limits
the wait as a whole."""
MIN_CPU_SHARE: Final = 0.02
"""Share of one processor from which on a process group counts as active."""


class ActivityMonitor:
    """Detects activity of a process group between two checks: output, or use of processor time.

    Args:
        group: the process group.
        output: returns a counter of the output received from it.
    """

    def __init__(self, group: int, output: Callable[[], int]) -> None:
        self._group, self._output = group, output
        self._checked = self._last_active = anyio.current_time()
        self._before = output(), cpu_time(group)

    def idle_time(self) -> float:
        """Check for activity; return the seconds since the last activity."""
        now = anyio.current_time()
        output, used = self._output(), cpu_time(self._group)
        if output != self._before[0] or used - self._before[1] > MIN_CPU_SHARE * (now - self._checked):
            self._last_active = now
        self._checked, self._before = now, (output, used)
        return now - self._last_active


class StallPolicy:
    """Decides about one server that has stopped reading.

    Args:
        pending: returns, for each request that the server has read and not answered, whether it has a timeout.
        monitor: starts an activity monitor; None if activity cannot be observed.
    """

    def __init__(self, pending: Callable[[], list[bool]], monitor: Callable[[], ActivityMonitor] | None) -> None:
        self._pending, self._start_monitor = pending, monitor
        self._monitor: ActivityMonitor | None = None
        self._had_pending = self._expired = False

    def on_progress(self) -> None:
        """Reset the policy: the server has resumed reading."""
        self._monitor, self._had_pending = None, False

    def keep_waiting(self) -> bool:
        """Return whether to wait once more for a server that has read nothing for `STALL_S`."""
        self._expired = not self._may_resume()
        return not self._expired

    def _may_resume(self) -> bool:
        pending, had_pending = self._pending(), self._had_pending
        self._had_pending = bool(pending)
        if not pending:
            return had_pending  # the time without pending requests begins with the last response
        if self._start_monitor is None or any(pending):
            return True
        if self._monitor is None:
            self._monitor = self._start_monitor()
        return self._monitor.idle_time() < SILENT_S - STALL_S

    async def wait_until_expired(self) -> None:
        """Return when no more responses are to be expected from a server that no longer reads its input."""
        if self._expired:
            return
        monitor = self._start_monitor() if self._start_monitor is not None else None
        with anyio.move_on_after(SILENT_S):
            while True:
                await anyio.sleep(CLOSED_S)
                if monitor is None or monitor.idle_time() >= CLOSED_S:
                    return


def cpu_time(group: int) -> float:
    """Return the processor time of a process group in seconds; 0 where the system does not provide it."""
    ticks = 0
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{entry.name}/stat", "rb") as file:
                        # Fields after the name, which may contain any character: state, parent, group; the times of the
                        # process and its children.
                        fields = file.read().rpartition(b")")[2].split()
                    if int(fields[2]) == group:
                        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
