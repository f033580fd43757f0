"""Record of the upkeep of this user's folders: its last time, and files that seem to be needed no more.

Owns one small file in the state folder and its lock, so that of many bridges one looks after the folders. A file that
holds data of users is removed only some time after it was first found to be unused: the clock may have been wrong.
"""

import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from asyncfc_mcp.private_files import make_folder, open_private, read_private, replace_private, try_lock

logger = logging.getLogger(__name__)

SECOND_LOOK_S: Final = 30 * 86_400.0
"""Seconds between the first time that a file is found to be unused and its removal."""
MOST_ENTRIES: Final = 10_000
"""Bound on files that are remembered; further ones are not removed."""


@dataclass(slots=True)
class UpkeepRecord:
    """The record, while its lock is held.

    Attributes:
        swept: time of the last sweep, in seconds of the wall clock.
        kept_s: folder of a journal → seconds for which its configuration keeps results.
    """

    swept: float = 0.0
    kept_s: dict[str, float] = field(default_factory=dict[str, float])
    unused: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Path → the time at which it was first found to be unused, and its last use."""
    _seen: set[str] = field(default_factory=set[str])

    def is_ripe(self, path: Path, used: float, now: float) -> bool:
        """Return whether a file that seems unused may be removed: it was found like this a while ago already.

        Args:
            used: time of its last use.
        """
        key = str(path)
        since, before = self.unused.get(key, (now, used))
        if before != used or since > now:
            since = now
        if key in self.unused or len(self.unused) < MOST_ENTRIES:
            self.unused[key] = (since, used)
            self._seen.add(key)
        return now - since >= SECOND_LOOK_S

    def end_sweep(self, now: float) -> None:
        """Forget files that were not found to be unused again, and journals that are gone."""
        self.unused = {key: value for key, value in self.unused.items() if key in self._seen and os.path.exists(key)}
        self.kept_s = {folder: kept for folder, kept in self.kept_s.items() if os.path.isdir(folder)}
        self.swept = now

    def _text(self) -> str:
        return json.dumps({"swept": self.swept, "kept_s": self.kept_s, "unused": self.unused})

    @classmethod
    def _parse(cls, text: str) -> "UpkeepRecord":
        """Return the record in a text; an empty one if it is malformed."""
        try:
            content = json.loads(text)
            kept = {str(key): float(value) for key, value in _object(content["kept_s"]).items()}
            unused = {str(key): (float(a), float(b)) for key, (a, b) in _object(content["unused"]).items()}
            return cls(float(content["swept"]), kept, unused)
        except (ValueError, TypeError, LookupError, RecursionError):
            return cls()


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    return cast("Mapping[str, Any]", value)


@contextmanager
def upkeep_record(path: Path) -> Generator[UpkeepRecord | None]:
    """Hold the lock of the record, and write the record back at the end of the block. Yield None where another process
    holds the lock.

    Raises:
        OSError: it cannot be read or written.
    """
    make_folder(path.parent)
    descriptor = open_private(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    try:
        if not try_lock(descriptor):
            yield None
            return
        try:
            record = UpkeepRecord._parse(read_private(path))  # pyright: ignore[reportPrivateUsage]
        except (FileNotFoundError, ValueError):
            record = UpkeepRecord()
        before = record._text()  # pyright: ignore[reportPrivateUsage]
        yield record
        after = record._text()  # pyright: ignore[reportPrivateUsage]
        if after != before:
            replace_private(path, [after.encode("utf-8", "backslashreplace")])
    finally:
        os.close(descriptor)
