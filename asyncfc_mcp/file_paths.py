"""Locations of files that a server is given as arguments: real absolute paths, one for all spellings of one file.

Owns reading a path as the server would: relative to its folders, `~`, `file://` URIs, `..` and symbolic links. Reads
links and nothing else; opens, lists and creates no file. Which calls conflict is decided in `ordering`.

Out of scope: hard links, bind mounts and links that appear after a call was submitted.
"""

import math
import ntpath
import os
import queue
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

Segments: TypeAlias = tuple[str, ...]
"""Segments of an absolute path, without its leading `/`."""

MAX_FILES: Final = 200
"""Most paths in one call's arguments that are looked at one by one."""
MAX_TEXT: Final = 4096
"""Longest path in characters (Linux has no longer one)."""
MAX_STEPS: Final = 10_000
"""Most names read for one call, those in links included."""
MAX_LINKS: Final = 40
"""Most symbolic links in one path, as in Linux."""
MAX_FOLDERS: Final = 16
"""Most folders that a relative path may be meant from."""
PATIENCE_S: Final = 0.05
"""Longest wait for a network mount: the event loop stands still meanwhile."""
PAUSE_S: Final = 30.0
"""Time for which network mounts are left alone after one did not answer, and after which mounts are listed anew."""
_NETWORK: Final = frozenset(
    {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs"}
)
_MOUNTS: Final = "/proc/self/mountinfo"
_FILE_URI: Final = re.compile(r"file:", re.IGNORECASE)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_FOLDS_CASE: Final = sys.platform in ("darwin", "win32")
"""Whether names that differ in case only are one file, as file systems are by default here."""


class FilePaths:
    """Locates the files of one server that runs on this machine.

    Args:
        folders: what a relative path may be meant from, absolute; the server's working directory comes first.
        home: what `~` stands for.
        resolve: follows the links of absolute paths; see `LinkResolver.resolve`.
    """

    def __init__(
        self, folders: Sequence[str], home: str, resolve: Callable[[Sequence[str]], list[Segments] | None]
    ) -> None:
        self._own = tuple(dict.fromkeys(folders))
        self._home = home
        self._resolve = resolve
        self.roots: tuple[str, ...] = ()
        """Further folders: those that the client answered to the server's `roots/list`."""

    def __call__(self, values: Sequence[object]) -> list[Segments] | None:
        """The location of every file that one of `values` may mean; None where that cannot be known."""
        if len(values) > MAX_FILES:
            return None
        folders = dict.fromkeys((*self._own, *self.roots))
        absolute: dict[str, None] = {}
        for value in values:
            text = path_text(value)
            if text is None:
                return None
            if text[0] == "~" and text[1:2] in ("", "/", os.sep):
                text = self._home + text[1:]
            if os.path.isabs(text):
                absolute[text] = None
            elif len(folders) > MAX_FOLDERS:
                return None
            else:
                absolute |= dict.fromkeys(os.path.join(folder, text) for folder in folders)
        try:
            return self._resolve(tuple(absolute))
        except (ValueError, OSError):  # NUL or half a surrogate pair, and what no file system should answer
            return None


def elsewhere(values: Sequence[object]) -> list[Segments] | None:
    """The same for a server on another machine: `.`, `..` and separators are understood, links cannot be read."""
    if len(values) > MAX_FILES:
        return None
    found: dict[Segments, None] = {}
    for value in values:
        text = path_text(value)
        if text is None:
            return None
        if _WINDOWS.match(text):
            found[_windows(text)] = None
            continue
        kept: list[str] = []
        for name in text.replace("\\", "/").split("/"):
            if name == "..":
                if not kept:
                    return None  # above a folder that is not known here
                kept.pop()
            elif name not in ("", "."):
                kept.append(name)
        found[_normal(kept)] = None
    return list(found)


def path_text(value: object) -> str | None:
    """The path that an argument holds; None if it holds none that could be understood."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        return None
    if not _FILE_URI.match(value):
        return value
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    if parts.netloc.lower() not in ("", "localhost") or not parts.path:
        return None
    path = unquote(parts.path)
    if re.match(r"/[A-Za-z]:[\\/]", path):
        path = path[1:]
    # Servers differ in whether "?" and "#" belong to the name: the folder contains both.
    return str(PurePosixPath(path).parent) if parts.query or parts.fragment else path


def _windows(text: str) -> Segments:
    """A Windows path by its text; its file systems ignore case."""
    text = re.sub(r"^\\\\[?.]\\(?:UNC\\)?", "", ntpath.normpath(text).replace("/", "\\"))
    return tuple(name.casefold() for name in _normal(text.split("\\")))


def _normal(names: Iterable[str]) -> Segments:
    found = (unicodedata.normalize("NFC", name) for name in names if name)
    return tuple(name.casefold() for name in found) if _FOLDS_CASE else tuple(found)


class _Walk:
    """Follows links, with one bound for all paths of a call.

    Args:
        enter: called with the path of each name before the file system is asked for it; what it raises ends the walk.
    """

    def __init__(self, enter: Callable[[str], None] | None) -> None:
        self._enter = enter
        self._targets: dict[str, str | None] = {}
        self._steps = 0

    def resolve(self, paths: Sequence[str]) -> list[Segments] | None:
        """Every location of these absolute paths; None if it takes too many steps.

        Where a path has `..`, servers differ: the kernel takes the step from where a link leads, Node resolves the text
        first. Both are given. So is the place of a link at the end of a path, since that is what moving and deleting
        change.
        """
        found: dict[Segments, None] = {}
        try:
            for path in paths:
                names = path.split("/")
                self._follow(names, found)
                if ".." in names:
                    self._follow(os.path.normpath(path).split("/"), found)
        except _TooLong:
            return None
        return list(found)

    def _follow(self, names: list[str], found: dict[Segments, None]) -> None:
        rest = names[::-1]
        real: list[str] = []
        links = 0
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del real[-1:]
                continue
            real.append(name)
            target = self._target("/" + "/".join(real))
            if target is None:
                continue
            links += 1
            if links > MAX_LINKS:
                raise _TooLong
            if not any(name not in ("", ".") for name in rest):
                found[_normal(real)] = None
            if target.startswith("/"):
                real.clear()
            else:
                real.pop()
            rest += reversed(target.split("/"))
        found[_normal(real)] = None

    def _target(self, path: str) -> str | None:
        """Where a link leads; None if it is none, or if nothing is there: then all below it is as it is written."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _TooLong
        if path in self._targets:
            return self._targets[path]
        if self._enter is not None:
            self._enter(path)
        try:
            target = os.readlink(path)
        except OSError:
            target = None
        self._targets[path] = target
        return target


class _TooLong(Exception):
    """A walk took more steps than it may."""


# --- file systems that may not answer --------------------------------------------------------------------------------


class _OnNetwork(Exception):
    """A path leads to a network mount."""


class LinkResolver:
    """Resolves paths at once on local file systems; elsewhere in a thread, for whose answer it waits a moment."""

    def __init__(self) -> None:
        self._mounts: frozenset[str] | None = frozenset()
        self._listed_at = -math.inf
        self._left_alone_until = -math.inf
        self._work: queue.SimpleQueue[Callable[[], None]] | None = None
        self._busy = False

    def resolve(self, paths: Sequence[str]) -> list[Segments] | None:
        """Every location of these absolute paths. None if they take too many steps, or a mount does not answer.

        Raises:
            ValueError: the name of no file can be such.
        """
        if sys.platform == "win32":  # by their text: there links are rare
            return [_windows(path) for path in paths]
        now = time.monotonic()
        if now - self._listed_at >= PAUSE_S:
            self._listed_at, self._mounts = now, network_mounts()
        if self._mounts is not None:
            try:
                return _Walk(self._enter if self._mounts else None).resolve(paths)
            except _OnNetwork:
                pass
        if self._busy or now < self._left_alone_until:
            return None
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._busy = True
        self._hand_over(partial(self._walk_for, paths, answer))
        try:
            return answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            self._left_alone_until = now + PAUSE_S
            return None

    def _enter(self, path: str) -> None:
        assert self._mounts is not None
        if path in self._mounts:
            raise _OnNetwork

    def _walk_for(self, paths: Sequence[str], answer: "queue.SimpleQueue[Any]") -> None:
        try:
            found = _Walk(None).resolve(paths)
        except (ValueError, OSError):
            found = None
        self._busy = False
        answer.put(found)

    def _hand_over(self, work: Callable[[], None]) -> None:
        if self._work is None:
            self._work = queue.SimpleQueue()
            # A daemon: a mount that never answers must not keep the bridge from ending.
            threading.Thread(target=_run, args=(self._work,), name="file paths", daemon=True).start()
        self._work.put(work)


def _run(work: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        work.get()()


def network_mounts() -> frozenset[str] | None:
    """Mount points whose file system is on another machine, or a process's; None if this system does not list them."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as table:
            return frozenset(_network_mounts(table))
    except OSError:
        return None


def _network_mounts(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        before, _, after = line.partition(" - ")
        kind = after.partition(" ")[0]
        if kind in _NETWORK or kind.startswith("fuse."):
            point = before.split(" ")[4]
            yield re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
