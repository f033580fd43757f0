"""Table of the hosts of this machine: their files, servers, and where the bridge is installed.

Owns its text, and what is found there. Reads files, and changes none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.entries import config_of, is_bridge
from asyncfc_mcp.cli.install.files import snapshot
from asyncfc_mcp.cli.install.hosts import HOSTS, Host, Machine, Scope
from asyncfc_mcp.cli.install.installing import table_of
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import one_line

SCOPES: Sequence[Scope] = ("user", "local", "project")


def overview(machine: Machine) -> str:
    """Return the table, and the hosts that were not found."""
    rows: list[tuple[str, ...]] = []
    missing: list[str] = []
    for host in HOSTS.values():
        found = files_of(host, machine)
        rows += [_row(each, machine) for each in found]
        if not found:
            missing.append(host.key)
    lines = _aligned([("HOST", "SCOPE", "FILE", "BRIDGE", "OTHER SERVERS"), *rows]) if rows else []
    if missing:
        lines.append(f"{'' if not rows else chr(10)}Not found here: {', '.join(missing)}.")
    lines.append("Install in one with `asyncfc-mcp install HOST`; `--wrap` moves its servers into the bridge.")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a host on this machine.

    Attributes:
        servers: its entries by name.
        unreadable: why they are unknown; empty if they are known.
    """

    host: Host
    scope: Scope
    file: Path
    servers: Mapping[str, Any]
    unreadable: str = ""

    @property
    def bridges(self) -> dict[str, Any]:
        """The entries that start the bridge."""
        return {name: entry for name, entry in self.servers.items() if is_bridge(entry)}

    @property
    def others(self) -> dict[str, Any]:
        """The entries of other servers, without parts of the host itself."""
        return {
            name: entry
            for name, entry in self.servers.items()
            if not is_bridge(entry) and not (self.host.key == "goose" and _builtin(entry))
        }


def files_of(host: Host, machine: Machine) -> list[Found]:
    """Return the files of a host that are here; none if the host is not."""
    here = host.is_here(machine)
    return [found for scope in SCOPES if (found := _found(host, scope, machine, here)) is not None]


def _found(host: Host, scope: Scope, machine: Machine, here: bool) -> Found | None:
    file = host.file(scope, machine)
    if (
        file is None
        or (scope == "user" and not here)
        or (scope == "project" and (not file.exists() or file == host.file("user", machine)))
    ):
        return None
    try:
        document = Document(str(file), snapshot(file).text)
        servers = document.table(table_of(host, document, machine, scope))
    except BridgeError as exc:
        reason = one_line(str(exc).removeprefix(f"{file}: ").removeprefix(f"{file} "))
        return Found(host, scope, file, {}, reason) if scope != "local" else None
    return None if scope == "local" and not servers else Found(host, scope, file, servers)


def _row(found: Found, machine: Machine) -> tuple[str, ...]:
    first = (found.host.key, found.scope, shown_path(found.file, machine))
    if found.unreadable:
        return (*first, "unreadable", found.unreadable)
    bridges = [
        name + (f" → {shown_path(Path(config), machine)}" if (config := config_of(entry)) is not None else "")
        for name, entry in found.bridges.items()
    ]
    return (*first, one_line(", ".join(bridges)) or "-", one_line(", ".join(found.others)) or "-")


def _builtin(entry: object) -> bool:
    return isinstance(entry, dict) and cast("dict[str, object]", entry).get("type") in ("builtin", "platform")


def shown_path(path: Path, machine: Machine) -> str:
    """Return a path for display: below the home or the current folder, it is shown from there."""
    if path.is_relative_to(machine.home):
        return "~/" + path.relative_to(machine.home).as_posix()
    return str(path.relative_to(machine.folder)) if path.is_relative_to(machine.folder) else str(path)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
