"""Locations of files named in arguments: real absolute paths, the same for all spellings of one file.

Owns the resolution of a path as the server would do it: relative to its folders, `~`, `file://` URIs, `..` and symbolic
links. Reads links, and the files by which Git finds the data of a repository; lists and creates no file. `effects`
decides which calls conflict.

Out of scope: hard links, bind mounts and links that are created after a call was submitted.
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

Resolve: TypeAlias = Callable[[Sequence[str]], list[Segments] | None]

MAX_FILES: Final = 200
"""Maximum paths in one call's arguments that are resolved one by one."""
MAX_TEXT: Final = 4096
"""Maximum characters of a path (as in Linux)."""
MAX_STEPS: Final = 10_000
"""Maximum names that are resolved for one call, those in links included."""
MAX_LINKS: Final = 40
"""Maximum symbolic links in one path, as in Linux."""
MAX_FOLDERS: Final = 16
"""Maximum folders to which a relative path may refer."""
TIMEOUT_S: Final = 0.05
"""Timeout for a network mount. It blocks the event loop."""
PAUSE_S: Final = 30.0
"""Seconds without access to network mounts after one did not respond, and between updates of the list of mounts."""
_NETWORK: Final = frozenset(
    {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs"}
)
_MOUNTS: Final = "/proc/self/mountinfo"
_GIT: Final = ".git"
_FILE_URI: Final = re.compile(r"file:", re.IGNORECASE)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_FOLDS_CASE: Final = sys.platform in ("darwin", "win32")
"""True where names that differ only in case are the same file, by default of the platform's file systems."""


class FilePaths:
    """Locates the files of one server that runs on this machine.

    Args:
        folders: absolute folders to which a relative path may refer, the server's working directory first.
        home: replaces `~`.
        resolve: follows the links in absolute paths; see `LinkResolver.resolve`.
        resolve_repositories: see `LinkResolver.resolve_repositories`.
    """

    def __init__(
        self, folders: Sequence[str], home: str, resolve: Resolve, resolve_repositories: Resolve | None = None
    ) -> None:
        self._resolve_repositories = resolve_repositories or resolve
        self._own = tuple(dict.fromkeys(folders))
        self._home = home
        self._resolve = resolve
        self.roots: tuple[str, ...] = ()
        """Further folders, from the client's response to the server's `roots/list`."""

    def __call__(self, values: Sequence[object]) -> list[Segments] | None:
        """Return the locations of all files to which `values` may refer; None where these cannot be determined."""
        absolute = self._absolute(values)
        return None if absolute is None else self._located(absolute, self._resolve)

    def repositories(self, values: Sequence[object]) -> list[Segments] | None:
        """Return the locations of Git repositories: of the working tree, and of the data where it is elsewhere, since
        working trees of one repository have common branches."""
        # Git libraries expand variables in the name of a folder.
        if any(isinstance(value, str) and ("$" in value or "%" in value) for value in values):
            return None
        absolute = self._absolute(values)
        return None if absolute is None else self._located(absolute, self._resolve_repositories)

    def _absolute(self, values: Sequence[object]) -> list[str] | None:
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
        return list(absolute)

    def _located(self, absolute: Sequence[str], resolve: Resolve) -> list[Segments] | None:
        try:
            return resolve(tuple(absolute))
        except (ValueError, OSError):  # NUL or a lone surrogate, and errors that no file system should return
            return None


def elsewhere(values: Sequence[object]) -> list[Segments] | None:
    """Return locations for a server on another machine: `.`, `..` and separators are resolved, links are not."""
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
                    return None  # above a folder that is unknown here
                kept.pop()
            elif name not in ("", "."):
                kept.append(name)
        found[_normal(kept)] = None
    return list(found)


def path_text(value: object) -> str | None:
    """Return the path in an argument; None where it contains no valid path."""
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
    # Servers differ in whether "?" and "#" belong to the name: the folder covers both readings.
    return str(PurePosixPath(path).parent) if parts.query or parts.fragment else path


def _windows(text: str) -> Segments:
    """Return the segments of a Windows path without access to it; its file systems ignore case."""
    text = re.sub(r"^\\\\[?.]\\(?:UNC\\)?", "", ntpath.normpath(text).replace("/", "\\"))
    return tuple(name.casefold() for name in _normal(text.split("\\")))


def _normal(names: Iterable[str]) -> Segments:
    found = (unicodedata.normalize("NFC", name) for name in names if name)
    return tuple(name.casefold() for name in found) if _FOLDS_CASE else tuple(found)


class _Walk:
    """Follows links, with one bound for all paths of a call.

    Args:
        enter: called with the path of each name before it is accessed; an exception ends the walk.
    """

    def __init__(self, enter: Callable[[str], None] | None) -> None:
        self._enter = enter
        self._targets: dict[str, str | None] = {}
        self._steps = 0

    def resolve(self, paths: Sequence[str]) -> list[Segments] | None:
        """Return all locations of these absolute paths; None where it takes too many steps.

        Servers differ in the meaning of `..`: the kernel starts from the target of a link, Node resolves the text
        first. Both locations are returned. So is the location of a link at the end of a path, since moving and deleting
        change the link itself.
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

    def repositories(self, paths: Sequence[str]) -> list[Segments] | None:
        """Return all locations of Git repositories with these working trees (or `.git` folders): also of their data, if
        that is elsewhere; None where it cannot be determined."""
        folders = dict.fromkeys(paths)
        try:
            for path in paths:
                folder = path.rstrip("/")
                if os.path.basename(folder) == _GIT:
                    folder = os.path.dirname(folder)
                    folders[folder] = None
                # A folder, or a file with the name of one.
                if (data := self._first_line(folder, _GIT)) is None:
                    continue
                data = os.path.join(folder, data.removeprefix("gitdir:").strip())
                folders[data] = None
                # Working trees of one repository have common branches.
                if (common := self._first_line(data, "commondir")) is not None:
                    common = os.path.normpath(os.path.join(data, common.strip()))
                    folders[common] = None
                    if os.path.basename(common) == _GIT:
                        folders[os.path.dirname(common)] = None
        except (OSError, ValueError):
            return None
        return self.resolve(list(folders)) if len(folders) <= MAX_FILES else None

    def _first_line(self, folder: str, name: str) -> str | None:
        """Return the first line of a file; None if there is no file.

        Raises:
            OSError: it could not be read.
            ValueError: it is no text, or its name is impossible.
        """
        path = f"{folder}/{name}"
        if self._enter is not None:
            # The file system of the folder was checked by `resolve`, or is now.
            self.resolve([path])
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as file:
            return file.readline(MAX_TEXT)

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
        """Return the target of a link; None for anything else, or if nothing exists there: the path is then literal."""
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
    """A walk exceeded its bound."""


class _OnNetwork(Exception):
    """A path leads to a network mount."""


class LinkResolver:
    """Resolves paths directly on local file systems, and in a thread with a short timeout elsewhere."""

    def __init__(self) -> None:
        self._mounts: frozenset[str] | None = frozenset()
        self._listed_at = -math.inf
        self._paused_until = -math.inf
        self._work: queue.SimpleQueue[Callable[[], None]] | None = None
        self._busy = False

    def resolve(self, paths: Sequence[str]) -> list[Segments] | None:
        """Return all locations of these absolute paths; None where these take too many steps or a mount times out.

        Raises:
            ValueError: a path is impossible as the name of a file.
        """
        return self._walk(_Walk.resolve, paths)

    def resolve_repositories(self, paths: Sequence[str]) -> list[Segments] | None:
        """Return all locations of Git repositories; see `_Walk.repositories`. Raises as `resolve` does."""
        return self._walk(_Walk.repositories, paths)

    def _walk(
        self, locate: "Callable[[_Walk, Sequence[str]], list[Segments] | None]", paths: Sequence[str]
    ) -> list[Segments] | None:
        if sys.platform == "win32":  # by text: links are rare there
            return [_windows(path) for path in paths]
        now = time.monotonic()
        if now - self._listed_at >= PAUSE_S:
            self._listed_at, self._mounts = now, network_mounts()
        if self._mounts is not None:
            try:
                return locate(_Walk(self._enter if self._mounts else None), paths)
            except _OnNetwork:
                pass
        if self._busy or now < self._paused_until:
            return None
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._busy = True
        self._run_in_thread(partial(self._walk_for, locate, paths, answer))
        try:
            return answer.get(timeout=TIMEOUT_S)
        except queue.Empty:
            self._paused_until = now + PAUSE_S
            return None

    def _enter(self, path: str) -> None:
        assert self._mounts is not None
        if path in self._mounts:
            raise _OnNetwork

    def _walk_for(
        self,
        locate: "Callable[[_Walk, Sequence[str]], list[Segments] | None]",
        paths: Sequence[str],
        answer: "queue.SimpleQueue[Any]",
    ) -> None:
        try:
            found = locate(_Walk(None), paths)
        except (ValueError, OSError):
            found = None
        self._busy = False
        answer.put(found)

    def _run_in_thread(self, work: Callable[[], None]) -> None:
        if self._work is None:
            self._work = queue.SimpleQueue()
            # A daemon: a mount that never responds must not prevent the exit of the bridge.
            threading.Thread(target=_run, args=(self._work,), name="file paths", daemon=True).start()
        self._work.put(work)


def _run(work: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        work.get()()


def network_mounts() -> frozenset[str] | None:
    """Return mount points of network file systems and FUSE; None where the system does not list them."""
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
