"""Checks of the folders of this user: whether they can be written, are private, and have room.

Owns the bounds. Creates and changes nothing.
"""

import os
import shlex
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem, warning
from asyncfc_mcp.cli.figures import size

FULL_BYTES: Final = 50 << 20
"""Free bytes below which writing is about to fail."""
SCARCE_BYTES: Final = 1 << 30
"""Free bytes below which there is less room than journals may take."""
MOST_FILES: Final = 100_000
"""Maximum number of files whose sizes are added up."""


def check_folders(folders: Mapping[str, Path]) -> list[Finding]:
    """Check folders by their purpose."""
    return [_check_folder(f"{purpose} {folder}", folder) for purpose, folder in folders.items()]


def _check_folder(subject: str, folder: Path) -> Finding:
    try:
        found = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        exists = found == folder
        if not found.is_dir():
            where = "it" if exists else str(found)
            return problem(subject, f"{where} is no folder", f"move {found} away")
        if not os.access(found, os.W_OK | os.X_OK):
            action = f"run `chmod u+rwx {shlex.quote(str(found))}`, or name another folder"
            return problem(subject, "cannot be written" if exists else f"cannot be created in {found}", action)
        free = shutil.disk_usage(found).free
    except OSError as exc:
        return problem(subject, f"cannot be looked at ({exc.strerror or 'no reason given'})", "correct its path")
    if free < FULL_BYTES:
        return problem(subject, f"the disk is full: {size(free)} are free", "make room")
    if exists and (finding := _check_privacy(subject, folder)) is not None:
        return finding
    if free < SCARCE_BYTES:
        return warning(subject, f"only {size(free)} are free on its disk", "make room")
    state = f"{size(_size_of(folder))} in it" if exists else "does not exist yet, and can be created"
    return ok(subject, f"{state}, {size(free)} free")


def _check_privacy(subject: str, folder: Path) -> Finding | None:
    """Check owner and mode; None if they are right."""
    if os.name != "posix":
        return None
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return warning(subject, "belongs to another user", "name another folder, or change its owner")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        doing = "changed" if mode & 0o022 else "read"
        return warning(
            subject, f"can be {doing} by others (mode {mode:o})", f"run `chmod 700 {shlex.quote(str(folder))}`"
        )
    return None


def _size_of(folder: Path) -> int:
    """Return the bytes in a folder; of very many files, those of the first."""
    total = count = 0
    for root, _, files in os.walk(folder):
        for name in files:
            count += 1
            if count > MOST_FILES:
                return total
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue  # deleted meanwhile
    return total
