"""Bounds on small files of this user: cached listings, counters of IDs, locks, paths of configurations.

Owns which of these files are in the folders, and their ages. Logs are left to `log_folder`, journals to
`engine.journal`. Credentials are never removed.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from asyncfc_mcp.housekeeping.removal import UnusedFile, is_private, remove_beyond, remove_unused, scan
from asyncfc_mcp.housekeeping.upkeep_record import UpkeepRecord

DAY_S: Final = 86_400.0
LISTINGS_S: Final = 60 * DAY_S
"""Seconds after which a cached listing is removed that no bridge has read or written."""
MOST_LISTINGS: Final = 2_000
LISTINGS_BYTES: Final = 256 << 20
COUNTERS_S: Final = 400 * DAY_S
"""Seconds after which a counter of IDs is removed that has given no number. Longer than futures are kept."""
CONFIGURATIONS_S: Final = 90 * DAY_S
"""Seconds after which a configuration that no bridge was started with is forgotten."""
MOST_CONFIGURATIONS: Final = 200
LOCKS_S: Final = 30 * DAY_S
PARTS_S: Final = DAY_S
"""Age of a file that was not written to its end, because its process was killed, in seconds."""
_HASH: Final = r"[0-9a-f]{32}"
_LISTING: Final = re.compile(_HASH + r"(?:\.shapes)?\.json")
_COUNTER: Final = re.compile(_HASH + r"\.json")
_LOCK: Final = re.compile(r"(?:grant-|client-)?" + _HASH + r"\.lock")
_PART: Final = re.compile(r"(?:(?:grant-|client-)?" + _HASH + r"(?:\.shapes)?|upkeep)\.\d+\.part")


def bound_listings(folder: Path, now: float) -> None:
    """Remove cached listings and shapes that were not used for long, or are too many: a bridge reads them anew."""
    remove_beyond(_files(folder, _LISTING), LISTINGS_BYTES, MOST_LISTINGS, now - LISTINGS_S)
    _remove_parts(folder, now)


def bound_configurations(folder: Path, now: float) -> None:
    """Remove the paths of configurations that were not used for long, which `login` finds servers by."""
    remove_beyond(_files(folder, _COUNTER), float("inf"), MOST_CONFIGURATIONS, now - CONFIGURATIONS_S)
    _remove_parts(folder, now)


def bound_counters(folder: Path, now: float, record: UpkeepRecord) -> None:
    """Remove counters of IDs that have given no number for so long that no future with one is left."""
    longest = max((COUNTERS_S, *(2 * kept for kept in record.kept_s.values())))
    for file in _files(folder, _COUNTER):
        if now - file.used > longest and record.is_ripe(file.path, file.used, now):
            remove_unused(file.path)
    _remove_parts(folder, now)
    remove_idle_locks(folder, now)


def remove_idle_locks(folder: Path, now: float) -> None:
    """Remove locks that no process holds, whose file is gone."""
    for file in _files(folder, _LOCK):
        others = [file.path.with_suffix(suffix) for suffix in (".json", ".version")]
        if now - file.used > LOCKS_S and not any(each.exists() for each in others):
            remove_unused(file.path)


def clean_credentials(folder: Path, now: float) -> None:
    """Remove what is left beside credentials: locks of sign-ins that are gone, files that were not written to their
    end. The latter hold credentials that were never valid here, or are in their file."""
    remove_idle_locks(folder, now)
    _remove_parts(folder, now)


def _remove_parts(folder: Path, now: float) -> None:
    for file in _files(folder, _PART):
        if now - file.used > PARTS_S:
            remove_unused(file.path)


def _files(folder: Path, name: re.Pattern[str]) -> list[UnusedFile]:
    return list(_matching(folder, name))


def _matching(folder: Path, name: re.Pattern[str]) -> Iterator[UnusedFile]:
    for entry in scan(folder):
        if name.fullmatch(entry.name) and is_private(entry):
            yield UnusedFile.of(entry)


def mark_used(path: Path) -> None:
    """Take note that a file was read, once a day, whatever the file system notes by itself."""
    with suppress(OSError):
        found, now = path.stat(), time.time()
        if now - found.st_atime > DAY_S:
            os.utime(path, (now, found.st_mtime))
