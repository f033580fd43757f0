"""Upkeep of this user's folders while a bridge runs: bounds on logs, caches, journals and other files.

Owns when it is done, and for which folders. The bounds are left to `housekeeping` and `engine.journal.unused`.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from asyncfc_mcp.config.model import BridgeConfig

logger = logging.getLogger(__name__)

FIRST_S: Final = 10.0
"""Seconds after the start of a bridge: by then its servers have started, and short runs do nothing."""
PAUSE_S: Final = 3600.0
"""Seconds between two sweeps."""
RECENT_S: Final = 1800.0
"""A sweep is left out if another bridge has made one within this time, in seconds."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of this user.

    Attributes:
        runtime: of daemons.
    """

    state: Path
    cache: Path
    logs: Path
    runtime: Path


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one configuration.

    Attributes:
        log_bytes: bound on all logs.
        ttl_s: time for which results are kept in its journal.
        journal: folder of its journal; None if it is elsewhere, or off.
    """

    log_bytes: int
    ttl_s: float
    journal: Path | None = None


def folders_of_user(environ: Mapping[str, str]) -> Folders:
    """Return the folders that this process uses."""
    from asyncfc_mcp.cli.process import cache_folder, logs_folder, state_folder
    from asyncfc_mcp.thin.place import runtime_folder

    return Folders(state_folder(), cache_folder(), logs_folder(), Path(runtime_folder(environ)))


def bounds_of(config: BridgeConfig, folders: Folders) -> Bounds:
    """Return the bounds of a configuration."""
    from asyncfc_mcp.cli.process import journal_path

    path = journal_path(config)
    inside = path is not None and path.parent.parent == folders.state / "journal"
    return Bounds(config.settings.log_max_bytes, config.settings.ttl_s, path.parent if path and inside else None)


async def with_upkeep(main: Callable[[], Awaitable[Any]], config: BridgeConfig) -> None:
    """Run a bridge, and look after the folders meanwhile."""
    folders = folders_of_user(os.environ)
    bounds = bounds_of(config, folders)
    async with anyio.create_task_group() as tg:
        tg.start_soon(keep_up, lambda: sweep(folders, bounds))
        await main()
        tg.cancel_scope.cancel()


async def keep_up(each: Callable[[], None]) -> None:
    """Call a function in a thread now and then, until cancelled."""
    await anyio.sleep(FIRST_S)
    while True:
        try:
            await anyio.to_thread.run_sync(each, abandon_on_cancel=True)
        except Exception:
            # The last resort: a fault here must not end a bridge.
            logger.info("the folders of this user could not be looked after", exc_info=True)
        await anyio.sleep(PAUSE_S)


def sweep(folders: Folders, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
    """Apply all bounds, unless another bridge does or has just done so.

    Raises:
        OSError: the state folder cannot be used.
    """
    from asyncfc_mcp.app import remove_unused_journals
    from asyncfc_mcp.housekeeping import small_files
    from asyncfc_mcp.housekeeping.log_folder import bound_logs
    from asyncfc_mcp.housekeeping.runtime_folder import clean_runtime_folder
    from asyncfc_mcp.housekeeping.upkeep_record import upkeep_record

    with upkeep_record(folders.state / "upkeep.json") as record:
        if record is None:
            return
        at = now()
        if bounds.journal is not None:
            record.kept_s[str(bounds.journal)] = bounds.ttl_s
        if 0 <= at - record.swept < RECENT_S:
            return
        bound_logs(folders.logs, bounds.log_bytes)
        small_files.bound_listings(folders.cache, at)
        small_files.bound_configurations(folders.state / "configurations", at)
        small_files.bound_counters(folders.state / "ids", at, record)
        small_files.clean_credentials(folders.state / "oauth", at)
        clean_runtime_folder(folders.runtime, at)
        remove_unused_journals(folders.state / "journal", at, record)
        record.end_sweep(at)
