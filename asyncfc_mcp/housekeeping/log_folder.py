"""The folder of all logs of this user: names in it, and the bound on its size.

Owns the removal of logs that no process writes, those first that were not written for the longest time: of servers and
configurations that are gone, of sessions that have ended, and rotated ones. Writing is left to `rotating_file`.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from asyncfc_mcp.housekeeping.removal import UnusedFile, is_private, remove_beyond, scan

MOST_LOGS: Final = 1_000
"""Maximum number of log files."""
_FOLDER: Final = re.compile(r".*-[0-9a-f]{8}")
_DAEMON: Final = re.compile(r"daemon-[0-9a-f]{16}\.log(?:\.[12])?")
_LOG: Final = re.compile(r".+\.log(?:\.[12])?")


def file_name(name: str) -> str:
    """Return a name as part of a file name, with a hash if it had to be changed, so that no two names share a file."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60].lstrip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def configuration_folder(root: Path, label: str, identity: str) -> Path:
    """Return the folder of one configuration: two projects with a server `files` do not share a log.

    Args:
        label: readable part of the folder's name, such as the path of the configuration file.
        identity: distinguishes the configuration from all others.
    """
    parts = [part for part in re.split(r"[^A-Za-z0-9_-]+", label) if part]
    return root / f"{'-'.join(parts[-3:])[-40:].strip('-')}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:8]}"


def log_path(folder: Path, server: str) -> Path:
    """Return the path of a server's log file in the folder of its configuration."""
    return folder / f"{file_name(server)}.log"


def daemon_log(root: Path, name: str) -> Path:
    """Return the path of a daemon's own log.

    Args:
        name: see `thin.place.daemon_name`.
    """
    return root / f"daemon-{name}.log"


def bound_logs(root: Path, max_bytes: int, max_files: int = MOST_LOGS) -> None:
    """Remove logs that no process writes until the others keep to the bounds, and folders that are empty then.

    Only files with the names and the modes of this program's logs are considered, in case that the folder was set to
    one of others.
    """
    entries = scan(root)
    folders = [entry for entry in entries if _FOLDER.fullmatch(entry.name)]
    folders = [Path(entry.path) for entry in folders if entry.is_dir(follow_symlinks=False)]
    logs = [log for folder in folders for log in _logs(scan(folder), _LOG)]
    remove_beyond([*logs, *_logs(entries, _DAEMON)], max_bytes, max_files)
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it is not empty
            continue


def _logs(entries: "Iterable[os.DirEntry[str]]", name: re.Pattern[str]) -> Iterator[UnusedFile]:
    for entry in entries:
        if name.fullmatch(entry.name) and is_private(entry):
            yield UnusedFile.of(entry)
