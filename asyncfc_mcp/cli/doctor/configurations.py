"""Checks of configurations: which there are, whether they can be read, and what is wrong in them.

Owns how they are judged. Starts nothing; the servers are checked by `servers`.
"""

import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem, warning
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration file.

    Attributes:
        config: None if it cannot be used.
        error: why not.
    """

    file: Path
    config: BridgeConfig | None
    error: str = ""


def read(paths: Sequence[Path], environ: Mapping[str, str]) -> list[Configuration]:
    """Read configurations; a file with several names is read once."""
    found: dict[str, Configuration] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in found:
            continue
        try:
            found[real] = Configuration(path, load_config(path, environ))
        except ConfigError as exc:
            found[real] = Configuration(path, None, str(exc).removeprefix(f"{path}: "))
    return list(found.values())


def check_configuration(configuration: Configuration) -> list[Finding]:
    """Check a configuration itself."""
    config = configuration.config
    if config is None:
        if not os.path.lexists(configuration.file):
            action = "create it with `asyncfc-mcp import FILE`, or `asyncfc-mcp install HOST --wrap`"
            return [problem("file", "does not exist", action)]
        return [problem("file", configuration.error)]
    count = len(config.servers)
    findings = [ok("file", f"{count} usable server{'' if count == 1 else 's'}")]
    findings += [warning("setting", each.removeprefix(f"{configuration.file}: ")) for each in config.warnings]
    findings += [
        problem(f"server {each.name}", each.reason.removeprefix(f"{configuration.file}: ")) for each in config.unusable
    ]
    return findings + _check_mode(configuration.file)


def _check_mode(file: Path) -> list[Finding]:
    """Check that no one else can change a file."""
    if os.name != "posix":
        return []
    mode = stat.S_IMODE(file.stat().st_mode)
    if not mode & 0o022:
        return []
    text = f"can be changed by others (mode {mode:o}), whose commands the bridge would start"
    return [warning("file", text, f"run `chmod go-w {shlex.quote(str(file))}`")]


def no_configuration(usual: Path) -> Finding:
    """Return what is said where there is none."""
    return warning(
        "configuration",
        f"none was found; the usual one is {usual}",
        "create it with `asyncfc-mcp install HOST --wrap` or `asyncfc-mcp import FILE`, or name one with --config",
    )
