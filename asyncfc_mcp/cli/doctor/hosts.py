"""Checks of the hosts in which the bridge is installed: what their entries start, and servers that are listed twice.

Owns what is compared. What is in hosts' files is found by `install.overview`. Values of entries are not shown, except
commands and paths.
"""

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem, warning
from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.entries import config_of, target_of, words_of
from asyncfc_mcp.cli.install.files import snapshot
from asyncfc_mcp.cli.install.hosts import HOSTS, Machine
from asyncfc_mcp.cli.install.installing import config_table
from asyncfc_mcp.cli.install.overview import Found, files_of, shown_path
from asyncfc_mcp.cli.install.records import Installation
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.redaction import shown_command


def found_hosts(machine: Machine) -> list[Found]:
    """Return the files of hosts on this machine."""
    return [found for host in HOSTS.values() for found in files_of(host, machine)]


def configurations_of(hosts: Iterable[Found], machine: Machine) -> list[Path]:
    """Return the configurations that the user's own entries of the bridge name, and that exist.

    Those of a project are left out: whoever wrote the project would choose the commands that are started here.
    """
    paths = [
        path
        for found in hosts
        if found.scope != "project"
        for entry in found.bridges.values()
        if (path := _configuration(entry, found, machine)) is not None
    ]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def check_hosts(hosts: Sequence[Found], records: Iterable[Installation], machine: Machine) -> list[Finding]:
    """Check each host."""
    installed = list(records)
    findings = [finding for found in hosts for finding in _check_host(found, installed, machine)]
    findings += _check_records(hosts, installed, machine)
    without = [f.host.key for f in hosts if f.scope == "user" and not f.bridges and not f.unreadable]
    if without:
        findings.append(ok("without the bridge", f"{', '.join(without)} (`asyncfc-mcp install HOST` installs it)"))
    return findings or [ok("hosts", "none was found on this machine")]


def _check_host(found: Found, installed: Sequence[Installation], machine: Machine) -> list[Finding]:
    subject = f"{found.host.key} {shown_path(found.file, machine)}"
    if found.unreadable:
        concerns = any(each.file == str(found.file) for each in installed)
        return [(problem if concerns else warning)(subject, found.unreadable, "correct the file")]
    findings: list[Finding] = []
    configurations: dict[Path, str] = {}
    for name, entry in found.bridges.items():
        file = _configuration(entry, found, machine)
        faults = [*_check_command(subject, name, entry, found, machine), *_check_file(subject, name, file, machine)]
        if file is not None and (other := configurations.setdefault(file, name)) != name:
            both = f"entries {other!r} and {name!r} start the bridge with one configuration"
            faults.append(warning(subject, both, "remove one of them"))
        if file is not None and (twice := _listed_twice(found, file)):
            names = ", ".join(map(repr, twice))
            action = f"run `asyncfc-mcp install {found.host.key}{_scope(found)} --wrap {shlex.quote(','.join(twice))}`"
            faults.append(warning(subject, f"listed here and in the bridge's configuration: {names}", action))
        where = "" if file is None else f", with {shown_path(file, machine)}"
        findings += faults or [ok(subject, f"entry {name!r} starts the bridge{where}")]
    return findings


def _scope(found: Found) -> str:
    return "" if found.scope == "user" else f" --scope {found.scope}"


def _again(found: Found, name: str) -> str:
    option = "" if name == "asyncfc" else f" --name {shlex.quote(name)}"
    return f"run `asyncfc-mcp install {found.host.key}{_scope(found)}{option}`, which writes the entry again"


def _check_command(subject: str, name: str, entry: Any, found: Found, machine: Machine) -> list[Finding]:
    words = words_of(entry)
    command = words[0] if words else ""
    if "$" in command or machine.program(command) is not None or shutil.which(os.path.expanduser(command)) is not None:
        return []
    text = f"the command of entry {name!r}, {shown_command([command])}, does not exist"
    return [problem(subject, text, _again(found, name))]


def _check_file(subject: str, name: str, file: Path | None, machine: Machine) -> list[Finding]:
    if file is None or file.is_file():
        return []
    text = f"the configuration of entry {name!r}, {shown_path(file, machine)}, does not exist"
    return [problem(subject, text, "restore it, or create it with `asyncfc-mcp import FILE --config` and its path")]


def _configuration(entry: Any, found: Found, machine: Machine) -> Path | None:
    """Return the configuration of an entry; None if there is none, or its place depends on the host."""
    given = config_of(entry)
    if given is None or "$" in given:
        return None
    if given.startswith("~/"):
        return machine.home / given[2:]
    if os.path.isabs(given):
        return Path(given)
    return machine.folder / given if found.scope == "project" else None


def _listed_twice(found: Found, file: Path) -> list[str]:
    """Return the servers of a host that the bridge's configuration has as well, by name or by what they start."""
    try:
        document = Document(str(file), snapshot(file).text)
        own = document.table(config_table(document))
    except BridgeError:
        return []  # said of the configuration itself
    targets = {target for entry in own.values() if (target := target_of(entry))}
    names = {name for name, entry in own.items() if target_of(entry)}
    return [
        name
        for name, entry in found.others.items()
        if (target := target_of(entry)) and (target in targets or name in names)
    ]


def _check_records(hosts: Iterable[Found], installed: Iterable[Installation], machine: Machine) -> list[Finding]:
    """Check that what was installed is still there."""
    there = {(str(found.file), name) for found in hosts for name in found.bridges}
    unknown = {str(found.file) for found in hosts if found.unreadable}
    return [
        warning(
            f"{each.host} {shown_path(Path(each.file), machine)}",
            f"the bridge was installed as {each.name!r}, but the entry is gone",
            f"run `asyncfc-mcp install {each.host}`, or `asyncfc-mcp uninstall {each.host}` to restore its servers",
        )
        for each in installed
        # Files of projects elsewhere are not looked at.
        if each.scope == "user" and (each.file, each.name) not in there and each.file not in unknown
    ]
