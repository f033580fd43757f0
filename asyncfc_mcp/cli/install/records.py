"""Records of installations, with which they are undone to the byte.

Owns their file in the user's state folder, and the copies of files as they were before. Both are private, since moved
entries hold secrets. What is undone is left to `removal`.
"""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.cli.install.edits import Insertion
from asyncfc_mcp.private_files import make_folder, read_private, replace_private

_VERSION: Final = 1
MAX_COPIES: Final = 20
"""Maximum number of copies of one file that are kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file that was changed.

    Attributes:
        before: its bytes; None if it did not exist.
        after: SHA-256 of the bytes that were written.
    """

    file: str
    before: bytes | None
    after: str

    @classmethod
    def of(cls, file: Path, before: bytes | None, after: bytes) -> "Change":
        """Return the change of a file."""
        return cls(str(file), before, digest(after))

    def is_current(self, data: bytes | None) -> bool:
        """Return whether a file still is as it was written."""
        return data is not None and digest(data) == self.after


@dataclass(frozen=True, slots=True)
class Moved:
    """A server that moved into the bridge's configuration.

    Attributes:
        entry, raw: the host's entry, and its text.
        as_name: its name there.
        added: the entry there; None if an equal one was there before.
    """

    name: str
    entry: Any
    raw: str
    as_name: str
    added: Any


@dataclass(frozen=True, slots=True)
class Installation:
    """What one installation did.

    Attributes:
        table: key path of the host's servers.
        change: of the host's file; None if its own command was used.
        config: the bridge's configuration.
        config_change: of that file; None if nothing was moved there.
    """

    host: str
    scope: str
    name: str
    file: str
    table: tuple[str, ...]
    config: str
    change: Change | None
    insertion: Insertion | None
    moved: tuple[Moved, ...] = ()
    config_change: Change | None = None
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def project(self) -> str:
        """The folder of its project, with the scope `local`."""
        return self.table[1] if self.scope == "local" else ""


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


class Records:
    """The records of this user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, file: str, name: str, project: str) -> Path:
        key = [file, name, *([project] if project else [])]
        return self.folder / f"{digest(json.dumps(key).encode())[:24]}.json"

    def find(self, file: Path, name: str, project: str = "") -> Installation | None:
        """Return the record of an entry in a file; None if there is none that can be read.

        Args:
            project: the folder of a project that has servers of its own in that file.
        """
        return self._read(self._path(str(file), name, project))

    def _read(self, path: Path) -> Installation | None:
        try:
            return _from_json(json.loads(read_private(path)))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def all(self) -> list[Installation]:
        """Return every record."""
        try:
            paths = sorted(self.folder.glob("*.json"))
        except OSError:
            return []
        return [found for found in map(self._read, paths) if found is not None]

    def save(self, installation: Installation) -> None:
        """Write a record, on the disk before the files that it is about.

        Raises:
            OSError: it cannot be written.
        """
        make_folder(self.folder)
        text = json.dumps(_to_json(installation))
        replace_private(
            self._path(installation.file, installation.name, installation.project), [text.encode()], durable=True
        )

    def forget(self, installation: Installation) -> None:
        """Delete a record."""
        self._path(installation.file, installation.name, installation.project).unlink(missing_ok=True)

    def keep_copy(self, file: Path, data: bytes | None) -> Path | None:
        """Keep a copy of a file as it is before a change, and return its path. It is not read again: it is for people.

        Raises:
            OSError: it cannot be written.
        """
        if data is None:
            return None
        folder = self.folder / "backups"
        make_folder(folder)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        path = folder / f"{stamp}-{digest(str(file).encode())[:8]}-{file.name.lstrip('.')}"
        replace_private(path, [data])
        _prune(folder, file)
        return path


def _prune(folder: Path, file: Path) -> None:
    mark = f"-{digest(str(file).encode())[:8]}-"
    copies = sorted(path for path in folder.iterdir() if mark in path.name)
    for path in copies[:-MAX_COPIES]:
        path.unlink(missing_ok=True)


def _to_json(installation: Installation) -> dict[str, Any]:
    value = asdict(installation)
    for key in ("change", "config_change"):
        if value[key] is not None and value[key]["before"] is not None:
            value[key]["before"] = base64.b64encode(value[key]["before"]).decode()
    return {"version": _VERSION, **value}


def _from_json(value: Any) -> Installation:
    if value.pop("version") != _VERSION:
        raise ValueError("a record of another version")
    for key in ("change", "config_change"):
        if value[key] is not None:
            before: str | None = value[key]["before"]
            value[key] = Change(
                value[key]["file"], None if before is None else base64.b64decode(before), value[key]["after"]
            )
    value["table"] = tuple(value["table"])
    found = value["insertion"]
    if found is not None:
        value["insertion"] = Insertion(tuple(found["path"]), found["text"], found["offset"], found["comma"])
    value["moved"] = tuple(Moved(**each) for each in value["moved"])
    return Installation(**value)
