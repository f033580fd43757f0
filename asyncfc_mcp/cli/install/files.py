"""Files of hosts and of the bridge's configuration: reading them, and replacing them only if nobody else has.

Owns encodings, links, modes and atomic writing. The content is left to `documents`.
"""

import codecs
import contextlib
import os
import stat
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep, time
from typing import Final

from asyncfc_mcp.errors import BridgeError, ConfigError
from asyncfc_mcp.private_files import make_folder, open_private, try_lock

_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
LOCK_WAIT_S: Final = 20.0
"""Maximum wait for another installation, in seconds."""
HOST_LOCK_WAIT_S: Final = 5.0
"""Maximum wait for a host that writes its file, in seconds."""
STALE_HOST_LOCK_S: Final = 30.0
"""Age from which the lock of a host is that of a process that was killed, in seconds, as Claude Code takes it."""


class FileChanged(BridgeError):
    """A file was written by another program between reading and writing."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was changed by another program meanwhile, and was left as it is; run the command again"
        )


class NotWritable(BridgeError):
    """A file must not or cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}")


class InstallRunning(BridgeError):
    """Another installation holds the lock."""

    def __init__(self) -> None:
        super().__init__("another `asyncfc-mcp install` or `uninstall` is running; run the command again")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was read.

    Attributes:
        path: as the host names it.
        target: the file itself, behind symbolic links.
        data: its bytes; None if there is no such file.
    """

    path: Path
    target: Path
    data: bytes | None
    mode: int = 0o600

    @property
    def text(self) -> str:
        """Its text without a byte-order mark; empty if there is no such file."""
        mark, encoding = self._encoding()
        try:
            return (self.data or b"")[len(mark) :].decode(encoding)
        except ValueError:
            raise ConfigError(str(self.path), "", "the file is no text", "a text in UTF-8") from None

    def encoded(self, text: str) -> bytes:
        """Return a new text in its encoding.

        Raises:
            NotWritable: it has characters that the encoding has not.
        """
        mark, encoding = self._encoding()
        try:
            return mark + text.encode(encoding)
        except ValueError:
            raise NotWritable(self.path, f"a value cannot be written in {encoding}") from None

    def as_private_as(self, other: "Snapshot") -> "Snapshot":
        """Return it with a mode for contents of another file too: who may not read that one may not read this one."""
        return self if other.data is None else replace(self, mode=self.mode & (other.mode | 0o600))

    def _encoding(self) -> tuple[bytes, str]:
        data = self.data or b""
        return next(((mark, name) for mark, name in _ENCODINGS if data.startswith(mark)), (b"", "utf-8"))


def snapshot(path: Path) -> Snapshot:
    """Read a file that may not exist.

    Raises:
        NotWritable: it is no regular file, or can be read or reached by no means.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise NotWritable(path, "its symbolic links have no end") from None
    try:
        found = target.stat()
        if not stat.S_ISREG(found.st_mode):
            raise NotWritable(path, "it is no regular file")
        return Snapshot(path, target, target.read_bytes(), stat.S_IMODE(found.st_mode))
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink() and not target.parent.is_dir():
            raise NotWritable(path, f"it is a link to {target}, whose folder does not exist") from None
        return Snapshot(path, target, None)
    except OSError as exc:
        raise NotWritable(path, exc.strerror or str(exc)) from None


def check_writable(before: Snapshot) -> None:
    """Refuse a file that its owner has protected, or whose replacement would break a second name of it.

    Raises:
        NotWritable: with the reason.
    """
    target = before.target
    if before.data is not None:
        if not before.mode & 0o222 or not os.access(target, os.W_OK):
            raise NotWritable(before.path, "it is read-only")
        if target.stat().st_nlink > 1:
            raise NotWritable(before.path, "it has another name (hard link), which would keep the old content")
    folder = next(each for each in target.parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise NotWritable(before.path, f"the folder {folder} is read-only")


def write(before: Snapshot, data: bytes | None) -> None:
    """Replace a file atomically by new bytes, with its mode; None deletes it. Missing folders are created.

    Raises:
        FileChanged: it is no longer as it was read.
        NotWritable: the system refuses.
    """
    target = before.target
    try:
        if data is None:
            _check_unchanged(before)
            target.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if os.name == "posix":
                    os.fchmod(file.fileno(), before.mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _check_unchanged(before)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise NotWritable(before.path, exc.strerror or str(exc)) from None


def _check_unchanged(before: Snapshot) -> None:
    if before.path.resolve() != before.target or snapshot(before.target).data != before.data:
        raise FileChanged(before.path)


@contextlib.contextmanager
def host_lock(path: Path, suffix: str | None) -> Generator[None]:
    """Hold the lock of a host that makes a folder beside its file while it writes it (Claude Code).

    Raises:
        NotWritable: the host holds it for too long.
    """
    if suffix is None or not path.parent.is_dir():
        yield
        return
    folder = path.with_name(path.name + suffix)
    until = monotonic() + HOST_LOCK_WAIT_S
    while True:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time() - folder.stat().st_mtime > STALE_HOST_LOCK_S:
                    folder.rmdir()
                    continue
            if monotonic() > until:
                raise NotWritable(path, "the host is writing it") from None
            sleep(0.02)
        except OSError as exc:
            raise NotWritable(path, exc.strerror or str(exc)) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the lock of installations of this user.

    Raises:
        InstallRunning: another one holds it for too long.
    """
    make_folder(folder)
    descriptor = open_private(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        until = monotonic() + LOCK_WAIT_S
        while not try_lock(descriptor):
            if monotonic() > until:
                raise InstallRunning
            sleep(0.05)
        yield
    finally:
        os.close(descriptor)
