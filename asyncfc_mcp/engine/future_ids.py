"""Numbers of future IDs that are given once per scope, restarts and parallel bridges included.

Owns the count on disk: one small file for each bridge (what it wraps) and scope, under a lock. A bridge takes numbers
in blocks, so calls cost no I/O; a clean stop gives the rest of the last block back, a crash leaves a gap. Where the
file cannot be used, numbers begin at the clock's milliseconds. Leaves futures to `core.store`.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from asyncfc_mcp.private_files import is_at, make_folder, open_private, read_private, replace_private, try_lock

logger = logging.getLogger(__name__)

FIRST_BLOCK: Final = 64
LARGEST_BLOCK: Final = 4096
"""Blocks double, so that a crash after few calls leaves a small gap, and many calls cost few writes."""
RUNS: Final = 32
"""Bound on the runs of bridges that a file remembers; numbers of older ones are from before the restart."""
LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_S: Final = 0.005
"""The lock is held for less than a millisecond. Beyond this the event loop is not kept waiting."""
CLOCK_ORIGIN_S: Final = 1_767_225_600
"""2026-01-01, from which numbers without a file are counted, so that they are short."""
PER_MILLISECOND: Final = 10_000
"""Numbers between two milliseconds of the clock: a bridge would have to give 10,000,000 a second to meet another's."""


class CountUnusable(Exception):
    """The file of a count cannot be locked, read or written."""


@dataclass(slots=True)
class _Run:
    """One bridge that took numbers, as recorded in the file of the count."""

    pid: int
    since: float
    """Start of the bridge, in seconds of the wall clock."""
    blocks: list[list[int]] = field(default_factory=list[list[int]])
    """First and last number of each block."""

    def has(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.blocks)


@dataclass(slots=True)
class _File:
    """The content of a count's file."""

    next: int = 1
    runs: list[_Run] = field(default_factory=list[_Run])

    @classmethod
    def parse(cls, text: str) -> "_File":
        """Return the content that `text` serialised.

        Raises:
            CountUnusable: the text has another form.
        """
        try:
            value = json.loads(text)
            runs = [_Run(int(pid), float(since), [[int(a), int(b)] for a, b in each]) for pid, since, each in value[1]]
            return cls(int(value[0]), runs)
        except (ValueError, TypeError, LookupError, RecursionError) as exc:
            raise CountUnusable("its content is damaged") from exc

    def text(self) -> str:
        return json.dumps([self.next, [[run.pid, run.since, run.blocks] for run in self.runs]], separators=(",", ":"))


class Count:
    """The numbers of one scope. `take` gives the next one."""

    def __init__(
        self, path: Path | None, since: float, on_reserved: Callable[[int, int], None] = lambda first, last: None
    ) -> None:
        self._path = path
        self._on_reserved = on_reserved
        self._since = since
        self._next = 1
        self._last = 0
        self._block = FIRST_BLOCK
        self._own: list[list[int]] = []

    def take(self) -> int:
        if self._next > self._last:
            self._reserve()
        number = self._next
        self._next += 1
        return number

    def fate(self, number: int, earlier: str | None = None) -> str | None:
        """Return the reason why no future has this number now; None if it was never given.

        Reads the file: a lookup that failed may take a moment.

        Args:
            earlier: see `core.store.Numbers`.
        """
        if any(first <= number <= last for first, last in self._own):
            return "was read long ago and is forgotten" if number < self._next else None
        file = self._peek()
        if file is None:
            return f"is not from this run of the bridge, which began at {_clock_time(self._since)}"
        if not 0 < number < file.next:
            return None
        if earlier is not None:
            return earlier
        for run in file.runs:
            if run.has(number) and (run.pid, run.since) != (os.getpid(), self._since) and _is_running(run.pid):
                return (
                    f"is from another bridge with this configuration, which runs since {_clock_time(run.since)} "
                    f"(process {run.pid})"
                )
        return f"is from before the restart at {_clock_time(self._since)}"

    def close(self) -> None:
        """Return the unused numbers of the last block to the file, if no other bridge has taken a block after it."""
        if self._path is None or not self._own:
            return
        try:
            with _locked(self._path):
                file = self._read()
                if file.next == self._last + 1:
                    file.next = self._next
                file.runs = [run for run in file.runs if (run.pid, run.since) != (os.getpid(), self._since)]
                self._write(file)
        except CountUnusable as exc:
            logger.debug("did not give future IDs back: %s", exc)
        self._last = self._next - 1
        self._own[-1][1] = self._last

    def _reserve(self) -> None:
        first = self._next_block()
        self._next, self._last = first, first + self._block - 1
        if self._own and self._own[-1][1] + 1 == first:
            self._own[-1][1] = self._last
        else:
            self._own.append([first, self._last])
        self._on_reserved(first, self._last)
        self._block = min(2 * self._block, LARGEST_BLOCK)

    def _next_block(self) -> int:
        """Reserve the next block in the file, and return its first number."""
        if self._path is None:
            return self._from_clock()
        try:
            with _locked(self._path):
                file = self._read()
                first = file.next
                file.next = first + self._block
                run = next((r for r in file.runs if (r.pid, r.since) == (os.getpid(), self._since)), None)
                if run is None:
                    run = _Run(os.getpid(), self._since)
                    file.runs = [*file.runs, run][-RUNS:]
                if run.blocks and run.blocks[-1][1] + 1 == first:
                    run.blocks[-1][1] = file.next - 1
                else:
                    run.blocks = [*run.blocks, [first, file.next - 1]][-RUNS:]
                self._write(file)
                return first
        except CountUnusable as exc:
            logger.warning(
                "the counter of future IDs in %s cannot be used (%s): IDs are long, so that none is given twice; set "
                "ASYNCFC_STATE_DIR to another folder",
                self._path.parent,
                exc,
            )
            self._path = None
            return self._from_clock()

    def _from_clock(self) -> int:
        first = int((time.time() - CLOCK_ORIGIN_S) * 1000) * PER_MILLISECOND
        return max(first, self._last + 1)

    def _peek(self) -> _File | None:
        try:
            return self._read() if self._path is not None else None
        except CountUnusable:
            return None

    def _read(self) -> _File:
        assert self._path is not None
        try:
            return _File.parse(read_private(self._path))
        except FileNotFoundError:
            return _File()
        except (OSError, ValueError) as exc:
            raise CountUnusable(str(exc)) from exc

    def _write(self, file: _File) -> None:
        """Replace the file at once, so that a crash leaves the old count or the new one."""
        assert self._path is not None
        try:
            replace_private(self._path, [file.text().encode()])
        except OSError as exc:
            raise CountUnusable(str(exc)) from exc


class FutureIds:
    """The counts of one bridge.

    Attributes:
        on_reserved: called with a scope's key and the first and last number of each block that is reserved for it.

    Args:
        folder: of the files; None begins every count at the clock.
        wrapped: what the bridge wraps: the path of its configuration, its command or its URL. Only a hash of it is
            written, since it may hold secrets.
    """

    def __init__(self, folder: Path | None, wrapped: str) -> None:
        self._folder = folder
        self._wrapped = wrapped
        self._since = time.time()
        self._counts: dict[str, Count] = {}
        self.on_reserved: Callable[[str, int, int], None] = lambda scope, first, last: None

    def count(self, scope: str) -> Count:
        """Return the count of the scope with this key."""
        count = self._counts.get(scope)
        if count is None:
            count = self._counts[scope] = Count(self._path(scope), self._since, partial(self._reserved, scope))
        return count

    def _reserved(self, scope: str, first: int, last: int) -> None:
        self.on_reserved(scope, first, last)

    def close(self) -> None:
        for count in self._counts.values():
            count.close()

    def _path(self, scope: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(json.dumps([self._wrapped, scope]).encode()).hexdigest()[:32]
        return self._folder / f"{name}.json"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold the lock of a count, which is a file beside it.

    Raises:
        CountUnusable: the lock cannot be acquired.
    """
    lock = path.with_suffix(".lock")
    for attempt in range(LOCK_ATTEMPTS):
        try:
            make_folder(path.parent)
            descriptor = open_private(lock, os.O_RDWR | os.O_CREAT)
        except OSError as exc:
            raise CountUnusable(str(exc)) from exc
        with suppress(OSError):  # the file system may have no locks at this moment
            if try_lock(descriptor) and is_at(descriptor, lock):
                break
        os.close(descriptor)
        if attempt + 1 < LOCK_ATTEMPTS:
            time.sleep(LOCK_PAUSE_S)
    else:
        raise CountUnusable("another process holds its lock")
    try:
        yield
    finally:
        os.close(descriptor)  # and the lock with it


if sys.platform == "win32":

    def _is_running(pid: int) -> bool:
        return False  # signal 0 would end it there

else:

    def _is_running(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError):
            return False
        return True


def _clock_time(seconds: float) -> str:
    """Format a time of today as `11:50`, of another day with its date."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
