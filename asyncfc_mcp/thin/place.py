"""Where a user's daemon is found: its folder, its files, and whose they are.

Owns the name of the daemon that a session joins, the folder of its socket, and the check that neither belongs to
another user. Standard library only, and little of it: a session of a host waits for this before its first answer.

A daemon serves sessions that would start the same servers: the same configuration file, with the same values of the
variables that it uses, and the same credentials in the environment. Sessions that differ in one of them get a daemon of
their own, since a server that was started with another session's credentials would do something else.
"""

import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def _sha256() -> Any:
    """Return Python's own implementation: `hashlib` loads that of OpenSSL, which takes as much memory as the rest of
    the thin process besides the interpreter."""
    for module in ("_sha2", "_sha256", "hashlib"):  # 3.12, 3.11, any
        try:
            return __import__(module).sha256
        except ImportError:
            continue
    raise AssertionError("hashlib is a part of Python")


FOLDER_VARIABLE = "ASYNCFC_RUNTIME_DIR"
"""Overrides the folder of sockets."""
OWN_FOLDERS = ("ASYNCFC_CACHE_DIR", "ASYNCFC_STATE_DIR", "ASYNCFC_LOG_DIR")
"""Folders of the program; a daemon with others is another one."""
LONGEST_PATH = 100
"""Longest path of a socket, in bytes: the smallest bound of the systems is 104, with the final zero."""
MOST_CONFIG_BYTES = 4 << 20
"""Of a configuration file, as much is searched for variables."""
_VARIABLE = re.compile(rb"\$\{?(?:env:)?([A-Za-z_][A-Za-z0-9_]*)|\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_CREDENTIAL = re.compile(
    r"(?:^|_)(?:TOKENS?|API_?KEYS?|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?|ACCESS_KEY(?:_ID)?|PAT)(?:_|$)"
    r"|^(?:AWS|AZURE|GOOGLE|CLOUDSDK|KUBECONFIG|DOCKER_HOST|DATABASE_URL|PG[A-Z]+)(?:_|$)"
)
"""Variables that say on whose behalf a server acts, whether or not the configuration names them."""
_OF_SESSIONS = re.compile(r"^(?:CLAUDE|CODEX|CURSOR|GEMINI|VSCODE|TERM|ITERM|KITTY|WEZTERM|TMUX|ZED|JETBRAINS)_")
"""Variables of hosts and terminals, which differ between sessions of the same user."""


_OF_FOLDERS = frozenset({"workspaceFolder", "workspaceFolderBasename", "PWD"})
"""Variables that say in which folder a session is."""


class PlaceUnsafe(Exception):
    """The folder or the socket cannot be used, because it is not this user's alone, or cannot be made.

    Args:
        path: which.
        why: the reason, for users.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the folder of this user's daemons. It may not exist."""
    given = environ.get(FOLDER_VARIABLE)
    if given:
        return given
    folder = environ.get("XDG_RUNTIME_DIR")
    if folder and os.path.isabs(folder):
        return os.path.join(folder, "asyncfc-mcp")
    # Not TMPDIR: hosts set it differently for their sessions.
    return f"/tmp/asyncfc-mcp-{os.geteuid()}"


def make_folder(folder: str) -> None:
    """Create the folder for this user alone, or check that it is.

    Raises:
        PlaceUnsafe: it is another user's, a link, open to others, or cannot be created.
    """
    try:
        os.makedirs(os.path.dirname(folder) or ".", mode=0o700, exist_ok=True)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        mode = _check_folder(folder)
    except OSError as exc:
        raise PlaceUnsafe(folder, f"cannot be created ({exc.strerror or exc})") from None
    if mode & 0o077:
        try:
            os.chmod(folder, 0o700)
        except OSError as exc:
            raise PlaceUnsafe(folder, f"is open to other users ({exc.strerror or exc})") from None


def _check_folder(folder: str) -> int:
    """Check that a folder is this user's, and return its mode.

    Raises:
        PlaceUnsafe: it is another user's, or a link.
        OSError: there is none.
    """
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise PlaceUnsafe(folder, "is not a folder")
    if found.st_uid != os.geteuid():
        raise PlaceUnsafe(folder, f"belongs to another user (uid {found.st_uid})")
    return found.st_mode


def source_words(config: str | None, url: str | None, command: Sequence[str]) -> list[str]:
    """Return the arguments of `serve` that name the servers, with an absolute path of a file: those that the daemon is
    started with, from another folder."""
    if config is not None:
        return ["--config", os.path.realpath(os.path.expanduser(config))]
    return ["--url", url] if url is not None else ["--", *command]


def daemon_name(words: Sequence[str], environ: Mapping[str, str], cwd: str) -> str:
    """Return the name of the daemon for these servers and this environment; it is the beginning of its files' names.

    Args:
        words: as `source_words` returns them.
        cwd: the folder of the session.
    """
    text = _text(words)
    selecting = {name for name in environ if _CREDENTIAL.search(name) and not _OF_SESSIONS.match(name)}
    names = sorted((_variables(text) | selecting | set(OWN_FOLDERS)) & environ.keys())
    parts = [*words, cwd if _depends_on_folder(words, text) else ""]
    parts += [f"{name}={environ[name]}" for name in names]
    return _sha256()("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def daemon_folder(words: Sequence[str], environ: Mapping[str, str], cwd: str) -> str:
    """Return the folder in which the daemon for these servers works: that of the session if they depend on it, so that
    the daemon is only for sessions of this folder; otherwise the home directory.

    Args:
        words, cwd: see `daemon_name`.
    """
    if _depends_on_folder(words, _text(words)):
        return cwd
    home = environ.get("HOME") or os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def _depends_on_folder(words: Sequence[str], text: bytes) -> bool:
    """Return whether these words, with this text of the configuration file, name other servers in another folder."""
    if words[0] == "--":  # a command may have relative paths
        return True
    return b'"projects"' in text or not _OF_FOLDERS.isdisjoint(_variables(text))  # Claude Code has servers by project


def _text(words: Sequence[str]) -> bytes:
    """Return the text of the configuration file; nothing if there is none, or it cannot be read, which the daemon
    reports."""
    if words[0] != "--config":
        return b""
    try:
        with open(words[1], "rb") as file:
            return file.read(MOST_CONFIG_BYTES)
    except OSError:
        return b""


def _variables(text: bytes) -> set[str]:
    """Return the names of variables in a configuration, whatever its format."""
    return {(found[1] or found[2]).decode() for found in _VARIABLE.finditer(text)}


class Place:
    """The files of one daemon.

    Args:
        folder: the runtime folder.
        name: as `daemon_name` returns it.

    Raises:
        PlaceUnsafe: the path of the socket is too long.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name
        self.socket = os.path.join(folder, f"{name}.sock")
        self.lock = os.path.join(folder, f"{name}.lock")
        """Locked by the daemon for as long as it lives."""
        self.starting = os.path.join(folder, f"{name}.start")
        """Locked by a session that starts the daemon, so that others wait for it."""
        self.about = os.path.join(folder, f"{name}.json")
        """What the daemon says of itself: its process, version and servers."""
        if len(os.fsencode(self.socket)) > LONGEST_PATH:
            raise PlaceUnsafe(folder, f"is too long for a socket; set {FOLDER_VARIABLE} to a shorter folder")


def connect(place: Place, timeout_s: float) -> socket.socket:
    """Return a connection to the daemon, in blocking mode.

    Raises:
        PlaceUnsafe: something else than this user's daemon listens there.
        OSError: nothing listens there (`FileNotFoundError`, `ConnectionRefusedError`), or it does not accept.
    """
    _check_folder(place.folder)
    found = os.lstat(place.socket)
    if found.st_uid != os.geteuid():
        raise PlaceUnsafe(place.socket, f"belongs to another user (uid {found.st_uid})")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(place.socket)
        uid = peer_uid(sock)
        if uid is not None and uid != os.geteuid():
            raise PlaceUnsafe(place.socket, f"another user (uid {uid}) listens there")
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def listens(place: Place, timeout_s: float) -> bool:
    """Return whether this user's daemon accepts connections."""
    try:
        connect(place, timeout_s).close()
    except (OSError, PlaceUnsafe):
        return False
    return True


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user at the other end of a Unix socket; None where the system does not say.

    Raises:
        OSError: the other end has gone.
    """
    if sys.platform.startswith("linux"):
        return _linux_peer(sock)[1]
    if sys.platform == "darwin":  # LOCAL_PEERCRED of sys/un.h: a struct xucred, whose second word is the user
        return struct.unpack_from("2I", sock.getsockopt(0, 1, 76))[1]
    return None


def peer_pid(sock: socket.socket) -> int | None:
    """Return the process that listens at the other end of a Unix socket; None where the system does not say.

    Raises:
        OSError: the other end has gone.
    """
    return _linux_peer(sock)[0] if sys.platform.startswith("linux") else None


def _linux_peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group (struct ucred of unix(7))."""
    return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def is_absent(exc: OSError) -> bool:
    """Return whether a failed `connect` means that no daemon listens, so that one may be started."""
    return exc.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)
