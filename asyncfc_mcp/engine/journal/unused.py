"""Journals that no bridge uses any more.

Owns the decision that nothing of one can be wanted, and its removal: its futures have all ended, longer ago than its
configuration keeps them. Also damaged journals that were moved aside. Leaves the folders of journals that are in use to
`retention`, and the record of what was found before to `housekeeping.upkeep_record`.
"""

import calendar
import contextlib
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from asyncfc_mcp.engine.journal import owners, schema
from asyncfc_mcp.housekeeping.upkeep_record import UpkeepRecord

logger = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
LEAST_S: Final = 30 * DAY_S
"""A journal that was used in this time is kept, however short its configuration keeps results."""
UNKNOWN_S: Final = 400 * DAY_S
"""Time for which a journal is kept whose configuration has said nothing (of an earlier version)."""
DAMAGED_S: Final = 90 * DAY_S
"""Seconds for which a damaged journal is kept beside the one that replaced it."""
MOST_DAMAGED: Final = 10
"""Maximum number of damaged journals of one configuration."""
BUSY_S: Final = 1.0
_NAME: Final = "journal.db"
_DAMAGED: Final = re.compile(r"journal\.db\.corrupt-(\d{8}T\d{6}Z(?:-\d+)?)(.*)")


def remove_unused_journals(root: Path, now: float, record: UpkeepRecord) -> None:
    """Remove journals below a folder, which has a folder for each configuration.

    Args:
        now: in seconds of the wall clock.
    """
    for folder in _folders(root):
        try:
            _remove_damaged(folder, now, record)
            if _is_old(folder, now, record):
                _remove(folder)
        except (OSError, sqlite3.Error, owners.LockUnavailable) as exc:
            logger.debug("the journal in %s was not removed: %s", folder, exc)


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [each for each in root.iterdir() if each.is_dir() and not each.is_symlink()]
    return []


def _is_old(folder: Path, now: float, record: UpkeepRecord) -> bool:
    """Return whether a journal was not used for so long that its futures are past their time."""
    path = folder / _NAME
    if not path.exists():
        return False
    kept = record.kept_s.get(str(folder))
    longest = UNKNOWN_S if kept is None else max(LEAST_S, 2 * kept)
    used = max(_times(folder))
    return now - used > longest and record.is_ripe(folder, used, now)


def _times(folder: Path) -> Iterator[float]:
    """Iterate over the times of the journal's files, and of those of its bridges."""
    for each in (folder / _NAME, folder / f"{_NAME}-wal", *(folder / f"{_NAME}.bridges").glob("*")):
        with contextlib.suppress(OSError):
            yield each.stat().st_mtime


def _remove(folder: Path) -> None:
    """Remove a journal unless a bridge uses it, or it has futures that have not ended.

    Raises:
        OSError, sqlite3.Error, LockUnavailable: it cannot be removed, or a bridge is starting.
    """
    path, bridges = folder / _NAME, folder / f"{_NAME}.bridges"
    with owners.starting(bridges, 0.0):
        if any(owners.bridge_of(bridges, boot).running for boot in owners.boots(bridges)) or not _all_ended(path):
            return
        logger.info("the journal in %s was not used for long, and is removed", folder)
        for each in (path, folder / f"{_NAME}-wal", folder / f"{_NAME}-shm"):
            each.unlink(missing_ok=True)
        shutil.rmtree(folder / f"{_NAME}.results", ignore_errors=True)
        shutil.rmtree(bridges, ignore_errors=True)  # and the lock, which bridges that wait for it then make anew
    with contextlib.suppress(OSError):
        folder.rmdir()  # unless damaged ones are left


def _all_ended(path: Path) -> bool:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
        try:
            if not schema.check_version(connection):
                return False
        except (schema.NewerFile, schema.ForeignFile):
            return False
        return connection.execute("SELECT 1 FROM futures WHERE ended_at IS NULL LIMIT 1").fetchone() is None


def _remove_damaged(folder: Path, now: float, record: UpkeepRecord) -> None:
    """Remove damaged journals that were moved aside long ago, or are too many: the oldest first."""
    found: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if (match := _DAMAGED.fullmatch(entry.name)) is not None:
                found.setdefault(match[1], []).append(Path(entry.path))
    for number, (stamp, paths) in enumerate(sorted(found.items(), reverse=True)):
        moved = _time_of(stamp)
        old = now - moved > DAMAGED_S and record.is_ripe(min(paths), moved, now)
        if not (old or number >= MOST_DAMAGED):
            continue
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _time_of(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp[:16], "%Y%m%dT%H%M%SZ"))
