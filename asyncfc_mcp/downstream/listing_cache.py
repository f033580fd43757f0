"""The last known listings of wrapped servers on disk.

Some hosts do not wait for a slow server, and their first turn then has no tools. With the cache, the listings of an
earlier run are available at once while the server starts. Shapes of tools' results, learned in earlier runs, are kept
beside them. Owns the files and their names; the format of listings is `snapshot_json`'s, their bound that of
`housekeeping.small_files`.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import anyio.to_thread

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from asyncfc_mcp.downstream.snapshot_json import encoding, parse, value_json
from asyncfc_mcp.housekeeping.small_files import mark_used
from asyncfc_mcp.private_files import make_folder, read_private, replace_private
from asyncfc_mcp.turns import in_slices

logger = logging.getLogger(__name__)

SHAPES: Final = ".shapes.json"
THREAD_BYTES: Final = 1_000_000
"""Larger files are written in a thread."""
CLOCK_STEP_S: Final = 1.0
"""Listings that are newer than this moment by more than that were written while the clock was wrong."""
MOST_SHAPE_BYTES: Final = 500_000
"""Size of a server's file of shapes; those of the tools that were used longest ago are left out."""


class ListingCache:
    """One file per server configuration. All of it is best effort: an unusable cache only costs time.

    Args:
        folder: the folder of the files; None disables the cache.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def _path(self, config: ServerConfig, suffix: str = ".json") -> Path | None:
        if self._folder is None:
            return None
        # A hash of the configuration, which may contain secrets.
        identity = json.dumps([config.name, asdict(config.spec)], sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}{suffix}"

    def load(self, config: ServerConfig) -> ServerSnapshot | None:
        """Return the cached snapshot of a server; None if there is none, or it is not valid."""
        path = self._path(config)
        if path is None:
            return None
        try:
            found = parse(read_private(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            logger.debug("ignored the cached listings of server %r: %s", config.name, exc)
            return None
        mark_used(path)
        return found

    def age_s(self, config: ServerConfig) -> float:
        """Return the seconds since a server has listed what is cached; infinite if that is not known."""
        path = self._path(config)
        try:
            age = math.inf if path is None else time.time() - path.stat().st_mtime
        except OSError:
            return math.inf
        return max(age, 0.0) if age > -CLOCK_STEP_S else math.inf

    def confirm(self, config: ServerConfig) -> None:
        """Record that a server lists now what is cached."""
        path = self._path(config)
        if path is not None:
            with suppress(OSError):
                os.utime(path)

    def doubt(self, config: ServerConfig) -> None:
        """Have listings that are not complete count as old."""
        path = self._path(config)
        if path is not None:
            with suppress(OSError):
                os.utime(path, (0, 0))

    async def save(self, config: ServerConfig, snapshot: ServerSnapshot) -> None:
        """Replace the cached snapshot of a server."""
        path = self._path(config)
        if path is None:
            return
        try:
            parts = await in_slices(encoding(snapshot))
            if sum(map(len, parts)) > THREAD_BYTES:
                await anyio.to_thread.run_sync(_store, path, parts)
            else:
                _store(path, parts)
        except (OSError, ValueError, RecursionError) as exc:
            logger.debug("could not cache the listings of server %r: %s", config.name, exc)

    def load_shapes(self, config: ServerConfig) -> dict[str, Any]:
        """Return the cached shape of each tool of a server; none if they are not valid."""
        path = self._path(config, SHAPES)
        if path is None:
            return {}
        try:
            if path.stat().st_size > MOST_SHAPE_BYTES:
                raise ValueError("the file is too large")
            shapes = json.loads(read_private(path))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            logger.debug("ignored the cached shapes of server %r: %s", config.name, exc)
            return {}
        mark_used(path)
        return cast("dict[str, Any]", shapes) if isinstance(shapes, dict) else {}

    def save_shapes(self, config: ServerConfig, shapes: Mapping[str, Any]) -> None:
        """Replace the cached shapes of a server, given with the tool that was used last at the end."""
        path = self._path(config, SHAPES)
        if path is None:
            return
        parts: list[bytes] = []
        size = 0
        for tool, shape in reversed(list(shapes.items())):
            part = value_json(tool) + b":" + value_json(shape)
            size += len(part) + 1
            if size > MOST_SHAPE_BYTES - 2:
                break
            parts.append(part)
        try:
            _store(path, [b"{", b",".join(reversed(parts)), b"}"])
        except (OSError, ValueError) as exc:
            logger.debug("could not cache the shapes of server %r: %s", config.name, exc)


def _store(path: Path, parts: list[bytes]) -> None:
    make_folder(path.parent)
    replace_private(path, parts)
