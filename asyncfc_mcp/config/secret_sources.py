"""Sources of secrets outside the environment: files (`${file:PATH}`) and the system keyring (`${keyring:NAME}`).

Owns reading them, and errors that name the source and never its contents. Variables are found by `variables`.
"""

import os
import stat
from pathlib import Path
from typing import Final

from asyncfc_mcp.redaction import HIDDEN, looks_like_token, shown_name

KEYRING_SERVICE: Final = "asyncfc-mcp"
"""Service of all entries in the system keyring."""
MAX_SECRET_BYTES: Final = 64 << 10
"""Maximum size of a file with a secret: a key or a certificate chain, not a log that was named by mistake."""


class SourceUnusable(Exception):
    """A source has no value.

    Args:
        problem: a clause, without the contents.
        remedy: what is expected.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def read_source(kind: str, name: str, folder: str) -> str:
    """Return the value of `${kind:name}`.

    Args:
        kind: `file` or `keyring`.
        folder: to which the path of a file is relative.

    Raises:
        SourceUnusable: there is no value.
    """
    return read_secret_file(resolved(name, folder)) if kind == "file" else _read_keyring(name)


def resolved(path: str, folder: str) -> str:
    """Return the absolute path of a file that a configuration names."""
    return os.path.join(folder, os.path.expanduser(path.strip()))


def shown_source(kind: str, name: str) -> str:
    """Return `${kind:name}` for a message; parts that look like credentials are hidden."""
    if kind == "keyring":
        return f"${{keyring:{shown_name(name) if looks_like_token(name) else name}}}"
    path = "/".join(HIDDEN if looks_like_token(part) else part for part in name.split("/"))
    return f"${{file:{path if len(path) <= 200 else path[:200] + HIDDEN}}}"


def read_secret_file(path: str) -> str:
    """Return the text of a file without the line end at its end.

    Raises:
        SourceUnusable: it is no readable text file, larger than `MAX_SECRET_BYTES`, or empty.
    """
    remedy = "a text file with the secret"
    try:
        # Not opened first: a pipe or a device would block, or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceUnusable("which is no regular file", remedy)
        with Path(path).open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except FileNotFoundError:
        raise SourceUnusable("and there is no such file", remedy) from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "the path is invalid"
        raise SourceUnusable(f"and the file cannot be read: {reason}", remedy) from None
    if len(data) > MAX_SECRET_BYTES:
        raise SourceUnusable(f"which is larger than {MAX_SECRET_BYTES >> 10} KB", remedy)
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SourceUnusable("which is no text in UTF-8", remedy) from None
    if not text:
        raise SourceUnusable("and the file is empty", remedy)
    return text


def _read_keyring(name: str) -> str:
    """Return the password of an entry of the system keyring. May block while its user is asked to unlock it."""
    try:
        # Only where it is used: the package is an extra, and loads its back ends.
        import keyring  # pyright: ignore[reportMissingImports]
    except ImportError:
        remedy = "the extra: pip install 'asyncfc-mcp[keyring]'"
        raise SourceUnusable("and the package keyring is not installed", remedy) from None
    try:
        value: object = keyring.get_password(KEYRING_SERVICE, name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except Exception as exc:  # noqa: BLE001 - back ends raise errors of their own, of every kind
        # Its text is left out: nothing says what a back end puts into it.
        raise SourceUnusable(f"and the keyring cannot be read ({type(exc).__name__})", "a usable keyring") from None
    if not isinstance(value, str) or not value:
        remedy = f"it to be set: keyring set {KEYRING_SERVICE} {name}"
        raise SourceUnusable("and the keyring has no such entry", remedy)
    return value.rstrip("\r\n")
