"""Files of daemons that are gone, in this user's folder of daemons.

Owns their removal under the lock that a daemon holds for its whole life. Names and places are left to `thin.place`.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from asyncfc_mcp.housekeeping.removal import is_private, scan
from asyncfc_mcp.private_files import is_at, open_private, try_lock

STALE_S: Final = 86_400.0
"""Seconds for which files of a daemon are left that were changed lately: its next start replaces them."""
_LOCK: Final = re.compile(r"([0-9a-f]{16})\.lock")


def clean_runtime_folder(folder: Path, now: float) -> None:
    """Remove the socket, the description and the lock of each daemon that does not run."""
    entries = scan(folder)
    for entry in entries:
        match = _LOCK.fullmatch(entry.name)
        if match is None or not is_private(entry):
            continue
        own = [Path(each.path) for each in entries if each.name.startswith(f"{match[1]}.")]
        with suppress(OSError):
            if now - max(each.lstat().st_mtime for each in own) > STALE_S:
                _remove(Path(entry.path), own)


def _remove(lock: Path, own: list[Path]) -> None:
    descriptor = open_private(lock, os.O_RDWR)
    try:
        if try_lock(descriptor) and is_at(descriptor, lock):
            for each in sorted(own, key=lambda path: path == lock):  # the lock last
                each.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
