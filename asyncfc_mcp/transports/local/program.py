"""The program that the daemon runs: whether another version of it has taken its place on the disk.

Owns the comparison of versions, the look at the files of the package, and the trial run of a program before sessions
are handed over to it. Leaves the moment to `daemon`.
"""

import hashlib
import logging
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
from packaging.version import InvalidVersion, Version

from asyncfc_mcp import __version__

logger = logging.getLogger(__name__)

TRIAL_S: Final = 20.0
"""Time limit for `--version`."""
_VERSION: Final = re.compile(r"version (\S{1,100})\s*$")


def is_newer(version: str, than: str = __version__) -> bool:
    """Return whether a version follows another one, by the order of Python's packages (PEP 440).

    A pre-release is older than its release, and a development version than both. The local part of a version (the
    commit of `0.1.1.dev3+g1a2b3c4`) has no order: two builds that differ in nothing else are equal, so that neither
    replaces the other. Text that is no version is older than any version.
    """
    one, other = _order(version), _order(than)
    if one is None or other is None:
        return one is not None and other is None
    return one > other


def _order(version: str) -> Version | None:
    try:
        return Version(Version(version).public)
    except InvalidVersion:
        return None


class ProgramFiles:
    """The files of a package, as they were when the daemon started.

    Args:
        folder: of the package.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first = self._last = self._fingerprint()

    def have_changed(self) -> bool:
        """Return whether there are other files than at the start, and they are those of the last look: an installation
        writes one after the other."""
        now = self._fingerprint()
        before, self._last = self._last, now
        return now is not None and now != self._first and now == before

    def _fingerprint(self) -> str | None:
        """Return a digest of names, sizes and times; None while the package is not complete."""
        digest = hashlib.sha256()
        try:
            for folder, folders, files in os.walk(self._folder):
                folders[:] = sorted(name for name in folders if name != "__pycache__")
                for name in sorted(files):
                    found = os.stat(os.path.join(folder, name))
                    digest.update(f"{folder}/{name} {found.st_size} {found.st_mtime_ns}\n".encode(errors="replace"))
            os.stat(self._folder / "__init__.py")
        except OSError:  # being replaced
            return None
        return digest.hexdigest()


async def version_of(program: Sequence[str]) -> str | None:
    """Run a program with `--version`; return the version, or None if it does not run."""
    with anyio.move_on_after(TRIAL_S):
        try:
            done = await anyio.run_process([*program, "--version"], check=False, stdin=subprocess.DEVNULL)
        except OSError as exc:
            logger.warning("%s does not run: %s", program[0], exc.strerror or exc)
            return None
        found = _VERSION.search(done.stdout.decode(errors="replace"))
        if done.returncode == 0 and found is not None:
            return found[1]
    logger.warning("%s --version does not end with a version", program[0])
    return None
