"""Choice of a source of calls: by what the user has named, else the one that was used last.

Owns the order of preference, and the error where there is none. Leaves opening a journal to `journal_source`, and
daemons to `page_address`.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asyncfc_mcp.cli import daemons
from asyncfc_mcp.cli.known_configurations import known
from asyncfc_mcp.cli.process import configurations_folder, journal_path, state_folder
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.errors import BridgeError, ConfigError
from asyncfc_mcp.quotation import one_line
from asyncfc_mcp.thin.place import PlaceUnsafe


class NothingToShow(BridgeError):
    """There is no record of calls.

    Args:
        config: the configuration that was named, if one was.
        why: there is no journal.
    """

    def __init__(self, config: Path | None, why: str) -> None:
        if config is None:
            what = "No calls were recorded by bridges of this user"
            do = "Make calls first, or name a source: --config FILE, or --url URL for a bridge over HTTP that runs"
        else:
            what = f"There is no record of the calls of {one_line(str(config))}"
            do = "Name a bridge over HTTP that runs with --url URL, or make calls first"
        super().__init__(f"{what}: {why}, and no daemon runs. {do}")


@dataclass(frozen=True, slots=True)
class Journal:
    """Read this journal.

    Args:
        config: its configuration, if that is known.
    """

    path: Path
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """Ask a bridge that runs: that at the URL, else the daemon of the configuration, else the only daemon."""

    config: Path | None = None
    url: str | None = None


Choice = Journal | Running


def choose(config_file: Path | None, url: str | None, environ: Mapping[str, str]) -> Choice:
    """Choose the source that a user means.

    Raises:
        ConfigError: the configuration that was named cannot be used.
        NothingToShow: there is none.
    """
    if url is not None:
        return Running(url=url)
    if config_file is not None:
        return _of_configuration(config_file, environ)
    found = _daemons(environ)
    journals = sorted(_journals(found, environ), key=lambda each: _used(each.path))
    # A daemon without a journal has its calls in memory: they count as recent as its start.
    since = [each.about.get("since") for each in found]
    started = max((time for time in since if isinstance(time, int | float)), default=0.0)
    if found and (not journals or _used(journals[-1].path) < started):
        return Running()
    if not journals:
        raise NothingToShow(None, f"{state_folder() / 'journal'} has no journal")
    return journals[-1]


def _of_configuration(file: Path, environ: Mapping[str, str]) -> Choice:
    config = load_config(file, environ)
    path = journal_path(config)
    if path is not None and path.is_file():
        return Journal(path, file)
    if any(each.serves(file) for each in _daemons(environ)):
        return Running(config=file)
    raise NothingToShow(file, _why(config, path))


def _why(config: BridgeConfig, path: Path | None) -> str:
    if path is not None:
        return f"its journal {one_line(str(path))} does not exist"
    if config.settings.engine != EMBEDDED:
        return "its calls are in a database, which only bridges read"
    return 'its journal is off ("journal": "off")'


def _daemons(environ: Mapping[str, str]) -> list[daemons.Found]:
    if sys.platform == "win32":
        return []  # there are none
    try:
        return [each for each in daemons.find(environ) if each.status is not None]
    except PlaceUnsafe:
        return []


def _journals(found: list[daemons.Found], environ: Mapping[str, str]) -> Iterator[Journal]:
    """Yield the journals of this user: those in the usual folder, and those of known configurations."""
    seen: set[Path] = set()
    files = [each.file for each in found if each.file is not None]
    for file in dict.fromkeys([*files, *known(configurations_folder(), environ)]):
        with suppress(ConfigError, OSError):
            path = journal_path(load_config(file, environ))
            if path is not None and path.is_file() and path not in seen:
                seen.add(path)
                yield Journal(path, file)
    with suppress(OSError):
        for path in sorted((state_folder() / "journal").glob("*/journal.db")):
            if path not in seen:
                yield Journal(path)


def _used(path: Path) -> float:
    """Return the time at which a journal was last written."""
    times = [0.0]
    for each in (path, path.with_name(path.name + "-wal")):
        with suppress(OSError):
            times.append(each.stat().st_mtime)
    return max(times)
