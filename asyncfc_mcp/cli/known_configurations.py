"""Configurations that bridges of this user were started with, so that `login NAME` finds a server by its name alone.

Owns one small file for each of them in the state folder, with its path and nothing else.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from asyncfc_mcp.config.model import BridgeConfig, HttpSpec
from asyncfc_mcp.housekeeping.small_files import CONFIGURATIONS_S
from asyncfc_mcp.private_files import make_folder, read_private, replace_private

logger = logging.getLogger(__name__)

RENEWED_S: Final = 86_400.0
"""Seconds after which a start writes the file again, since its time counts."""
MOST: Final = 100
"""Maximum number of configurations that are looked at, newest first."""


def remember(folder: Path, config: BridgeConfig) -> None:
    """Keep the path of a configuration with servers that are signed in to.

    Args:
        folder: of these files.
    """
    kind, _, path = config.identity.partition(":")
    if kind != "file" or not any(isinstance(s.spec, HttpSpec) and s.spec.oauth is not None for s in config.servers):
        return
    file = folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    try:
        if file.exists() and time.time() - file.stat().st_mtime < RENEWED_S:
            return
        make_folder(folder)
        replace_private(file, [json.dumps({"file": path}).encode()])
    except (OSError, UnicodeEncodeError) as exc:
        logger.info("the path of the configuration was not kept for `asyncfc-mcp login`: %s", exc)


def known(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return the configurations of this user that still exist: the usual one, and those of bridges, newest first."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    paths = [Path(home) / "asyncfc" / "mcp.json"]
    dated: list[tuple[float, Path]] = []
    try:
        for file in folder.glob("*.json"):
            written = file.stat().st_mtime
            if time.time() - written > CONFIGURATIONS_S:
                file.unlink(missing_ok=True)
            else:
                dated.append((written, file))
    except OSError:
        return [path for path in paths if path.is_file()]
    for _, file in sorted(dated, reverse=True)[:MOST]:
        try:
            content = json.loads(read_private(file))
            paths.append(Path(content["file"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [path for path in dict.fromkeys(paths) if path.is_file()]
