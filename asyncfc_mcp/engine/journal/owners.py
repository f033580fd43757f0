"""Bridges that share a journal: which of them run, and whether the record of one that has ended is complete.

Owns a small file for each run of a bridge (its *boot*) in a folder beside the journal. The bridge holds an OS lock on
it for as long as it lives: the lock ends with the process, however that ends, and a process that reuses the ID of
another has another boot. Leaves to `adoption` what follows for futures.

At most once. A future that stands as `waiting` in the file is resumed by the next run. That is right only if its call
was not sent since, so the file must be able to say the opposite even when nothing can be written to it. The boot's file
is therefore a statement that the record is complete. A bridge that cannot write its journal any more cuts the file to
nothing (which needs no space on the disk) before it sends another call; without the statement, other runs treat its
waiting futures as sent. The statement also names the boot of the operating system: commits of the last seconds survive
the end of the process but not that of the machine (`synchronous = NORMAL`), so after a restart of the machine the
statement counts only if it says that the bridge was closed and all commits were synced.
"""

import contextlib
import json
import logging
import os
import secrets
import sys
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfc_mcp.private_files import is_at, make_folder, open_private, read_private, try_lock

logger = logging.getLogger(__name__)

_START: Final = "start.lock"
_SUFFIX: Final = ".boot"
_PAUSE_S: Final = 0.005
_CLOCK_S: Final = 30.0
"""Difference of two computations of the start of the operating system: the wall clock is set now and then."""


class LockUnavailable(Exception):
    """A lock is held by another bridge for too long, or the file system has no locks."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A run of a bridge, as its file shows it."""

    running: bool
    trusted: bool = False
    """The record of a bridge that has ended is complete: what stands as waiting was not sent."""
    pid: int = 0
    since: float = 0.0
    """Start, in seconds of the wall clock."""


def os_boot() -> str | float:
    """Return an identity of this run of the operating system, or else the time of its start."""
    if sys.platform == "darwin":
        import ctypes

        value, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        if not ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", value, ctypes.byref(size), None, 0):
            return value.value.decode("ascii", "replace")
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return time.time() - time.monotonic()


def _is_this_boot(boot: object) -> bool:
    now = os_boot()
    if isinstance(boot, float) and isinstance(now, float):
        return abs(now - boot) < _CLOCK_S
    return bool(now) and boot == now


class BootFile:
    """The file of this bridge.

    Args:
        folder: of the files of all bridges.
        since: start of the bridge, in seconds of the wall clock.
    """

    def __init__(self, folder: Path, since: float) -> None:
        self.boot = secrets.token_hex(16)
        self._folder = folder
        self._since = since
        self._descriptor: int | None = None
        if hasattr(os, "register_at_fork"):
            # A lock belongs to all copies of the descriptor: that of a child would outlive this process.
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _release(reference()))

    def create(self) -> None:
        """Create the file, which declares the record complete, and hold its lock, unless that was done. Called under
        `starting`.

        Raises:
            OSError: it cannot be written.
            LockUnavailable: the file system has no locks.
        """
        if self._descriptor is not None:
            return
        descriptor = open_private(path_of(self._folder, self.boot), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if not _try_lock(descriptor, exclusive=True):
                raise LockUnavailable("a new file is locked")
            self._write(descriptor, closed=False)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _write(self, descriptor: int, *, closed: bool) -> None:
        text = json.dumps(
            {"pid": os.getpid(), "since": self._since, "os_boot": os_boot(), "closed": closed, "end": True}
        )
        data = text.encode()
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if os.write(descriptor, data) != len(data):
            raise OSError("could not be written completely")

    def withdraw(self) -> bool:
        """Declare the record incomplete; return false if that cannot be done."""
        if self._descriptor is None:
            return False
        try:
            os.ftruncate(self._descriptor, 0)
            # A file that was deleted, or is on a file system that takes no changes, is not what other runs read.
            return os.stat(path_of(self._folder, self.boot)).st_size == 0
        except FileNotFoundError:
            return True
        except OSError as exc:
            logger.debug("the journal's file of this bridge cannot be cut: %s", exc)
            return False

    def close(self, *, complete: bool) -> None:
        """Release the lock.

        Args:
            complete: every commit is on the disk.
        """
        if self._descriptor is None:
            return
        if complete:
            try:
                self._write(self._descriptor, closed=True)
                os.fsync(self._descriptor)
            except OSError as exc:
                logger.debug("the journal's file of this bridge cannot be written: %s", exc)
        self.release()

    def release(self) -> None:
        """Close the descriptor, and release the lock if no other process has it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _release(file: BootFile | None) -> None:
    if file is not None:
        file.release()


def path_of(folder: Path, boot: str) -> Path:
    return folder / f"{boot}{_SUFFIX}"


def boots(folder: Path) -> list[str]:
    """Return all boots that have a file.

    Raises:
        OSError: the folder cannot be read.
    """
    return [name.removesuffix(_SUFFIX) for name in os.listdir(folder) if name.endswith(_SUFFIX)]


def bridge_of(folder: Path, boot: str) -> Bridge:
    """Return what is known of a bridge. One without a file has ended, and its record is not trusted."""
    path = path_of(folder, boot)
    try:
        descriptor = open_private(path, os.O_RDWR)
    except OSError:
        return Bridge(running=False)
    try:
        running = not _try_lock(descriptor, exclusive=False)
    except LockUnavailable:
        running = True  # nothing of it may be taken
    finally:
        os.close(descriptor)
    try:
        content = json.loads(read_private(path))
        pid, since = int(content["pid"]), float(content["since"])
        known = content["end"] is True and (content["closed"] is True or _is_this_boot(content["os_boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Bridge(running)
    return Bridge(running, known, pid, since)


def forget(folder: Path, boot: str) -> None:
    """Remove the file of a bridge that has ended and owns nothing. Called under `starting`."""
    with contextlib.suppress(OSError):
        path_of(folder, boot).unlink(missing_ok=True)


@contextmanager
def starting(folder: Path, timeout_s: float) -> Generator[None]:
    """Hold the lock under which bridges start, and under which a damaged file is moved aside.

    Raises:
        OSError: its file cannot be written.
        LockUnavailable: another bridge holds it for longer than `timeout_s`.
    """
    path = folder / _START
    for _ in _attempts(timeout_s):
        make_folder(folder)
        try:
            descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # removed as unused at this moment
            continue
        try:
            locked = _try_lock(descriptor, exclusive=True) and is_at(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        if locked:
            break
        os.close(descriptor)
    else:
        raise LockUnavailable(f"another bridge holds {path}")
    try:
        yield
    finally:
        os.close(descriptor)


def _attempts(timeout_s: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_s
    while True:
        yield
        if time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE_S)


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        return try_lock(descriptor, exclusive=exclusive)
    except OSError as exc:
        raise LockUnavailable(f"the file system has no locks: {exc}") from exc
