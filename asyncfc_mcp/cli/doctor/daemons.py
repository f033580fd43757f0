"""Checks of daemons: the folder of their sockets, and each one that runs.

Owns how they are judged. Starts and changes nothing.
"""

import os
import shlex
import stat
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from asyncfc_mcp import __version__
from asyncfc_mcp.cli.daemons import Found, find
from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem, warning
from asyncfc_mcp.thin.place import FOLDER_VARIABLE, Place, PlaceUnsafe, runtime_folder

RESTART = "run `asyncfc-mcp daemon restart`"


def check_daemons(environ: Mapping[str, str]) -> list[Finding]:
    """Check what sessions with `serve --shared` use."""
    if os.name != "posix":
        return []
    folder = runtime_folder(environ)
    fault = _check_folder(folder)
    if fault is not None:
        return [fault]
    try:
        found = find(environ)
    except PlaceUnsafe as exc:
        return [problem("socket folder", str(exc), f"name another one ({FOLDER_VARIABLE})")]
    return [_check(each) for each in found] or [ok("daemon", "none runs; a session with --shared starts it")]


def _check_folder(folder: str) -> Finding | None:
    subject = f"socket folder {folder}"
    another = f"name another folder ({FOLDER_VARIABLE})"
    try:
        Place(folder, "0" * 16)
        found = os.lstat(folder)
    except PlaceUnsafe as exc:
        return problem(subject, exc.why)
    except FileNotFoundError:
        parent = os.path.dirname(folder)
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if os.access(parent, os.W_OK | os.X_OK):
            return None
        return problem(
            subject, f"cannot be created in {parent}", f"each session runs its own bridge until then: {another}"
        )
    except OSError as exc:
        return problem(subject, exc.strerror or str(exc), another)
    if not stat.S_ISDIR(found.st_mode):
        return problem(subject, "is no folder", f"move it away, or {another}")
    if found.st_uid != os.geteuid():
        return problem(subject, f"belongs to another user (uid {found.st_uid})", another)
    if found.st_mode & 0o077:
        action = f"run `chmod 700 {shlex.quote(folder)}`; the next session does so as well"
        return warning(subject, f"can be used by others (mode {stat.S_IMODE(found.st_mode):o})", action)
    return None


def _check(found: Found) -> Finding:
    about: Mapping[str, Any] = found.status or found.about
    subject = f"daemon of {about.get('configuration', found.place.name)}"
    if found.status is None:
        return problem(subject, f"does not answer: {found.problem}", RESTART)
    version, sessions = about.get("version"), cast("list[object]", about.get("sessions") or [])
    count = len(sessions)
    facts = [f"process {about.get('pid')}", f"version {version}", f"{count} session{'' if count == 1 else 's'}"]
    since = about.get("since")
    if isinstance(since, int | float):
        at = datetime.fromtimestamp(since)
        facts.append(f"since {at:%H:%M}" if time.time() - since < 86_400 else f"since {at:%Y-%m-%d %H:%M}")
    text = ", ".join(facts)
    if version != __version__:
        own = f"{text}; this program has version {__version__}"
        return warning(subject, own, f"it is replaced in a moment without calls; to do it now, {RESTART}")
    return ok(subject, f"running ({text}); `asyncfc-mcp open` shows its page")
