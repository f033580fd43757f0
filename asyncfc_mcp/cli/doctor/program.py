"""Checks of the program itself: Python, its own version, packages that it and the configurations need.

Owns which packages are compared with which versions: those of the installed package's own metadata.
"""

import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from asyncfc_mcp import __version__
from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.settings import EMBEDDED

DISTRIBUTION: Final = "asyncfc-mcp"
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)(;.*)?")


def check_program(configs: Iterable[BridgeConfig]) -> list[Finding]:
    """Check the versions."""
    findings = [
        ok("Python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"),
        ok(DISTRIBUTION, __version__),
    ]
    try:
        needed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return [*findings, problem(DISTRIBUTION, "is not installed as a package", "install it with pip, pipx or uv")]
    extras = extras_of(configs)
    for line in needed:
        found = _REQUIREMENT.fullmatch(line)
        if found is None:
            continue
        name, versions, marker = found[1], found[2], found[3] or ""
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        if (extra is not None and extra[1] not in extras) or "sys_platform" in marker:
            continue
        findings += _check_package(name, versions, None if extra is None else extra[1])
    return findings


def _check_package(name: str, versions: str, extra: str | None) -> Sequence[Finding]:
    """Check one package; packages that are as they should be are not listed, except the SDK and those of extras."""
    again = f"run `pip install --upgrade '{DISTRIBUTION}{'' if extra is None else f'[{extra}]'}'` where it is installed"
    subject = name if extra is None else f"{name} (extra {extra}, which the configuration needs)"
    try:
        found = version(name)
    except PackageNotFoundError:
        return [problem(subject, "is not installed", again)]
    least = re.search(r">=\s*([\d.]+)", versions)
    if least is not None and _numbers(found) < _numbers(least[1]):
        return [problem(subject, f"{found} is older than {least[1]}", again)]
    return [ok(subject, found)] if extra is not None or name == "mcp" else []


def _numbers(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", re.split(r"[a-z+]", text, maxsplit=1)[0])]


def extras_of(configs: Iterable[BridgeConfig]) -> set[str]:
    """Return the extras that configurations need."""
    extras: set[str] = set()
    for config in configs:
        if config.settings.engine != EMBEDDED:
            extras.add("postgres")
        if config.settings.credentials == "keyring":
            extras.add("keyring")
    return extras
