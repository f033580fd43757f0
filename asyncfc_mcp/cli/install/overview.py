"""Table of the hosts of this machine: their files, servers, and where the bridge is installed.

Owns its text. Reads files, and changes none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

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
        here = host.is_here(machine)
        found = [row for scope in SCOPES if (row := _row(host, scope, machine, here)) is not None]
        rows += found
        if not found:
            missing.append(host.key)
    lines = _aligned([("HOST", "SCOPE", "FILE", "BRIDGE", "OTHER SERVERS"), *rows]) if rows else []
    if missing:
        lines.append(f"{'' if not rows else chr(10)}Not found here: {', '.join(missing)}.")
    lines.append("Install in one with `asyncfc-mcp install HOST`; `--wrap` moves its servers into the bridge.")
    return "\n".join(lines) + "\n"


def _row(host: Host, scope: Scope, machine: Machine, here: bool) -> tuple[str, ...] | None:
    file = host.file(scope, machine)
    if (
        file is None
        or (scope == "user" and not here)
        or (scope == "project" and (not file.exists() or file == host.file("user", machine)))
    ):
        return None
    shown = _shown(file, machine)
    try:
        document = Document(str(file), snapshot(file).text)
        servers = document.table(table_of(host, document, machine, scope))
    except BridgeError as exc:
        reason = str(exc).removeprefix(f"{file}: ").removeprefix(f"{file} ")
        return (host.key, scope, shown, "unreadable", one_line(reason)) if scope != "local" else None
    if scope == "local" and not servers:
        return None
    bridges = [
        name + (f" → {_shown(Path(config), machine)}" if (config := config_of(entry)) is not None else "")
        for name, entry in servers.items()
        if is_bridge(entry)
    ]
    others = [
        name
        for name, entry in servers.items()
        if not is_bridge(entry) and not (host.key == "goose" and _builtin(entry))
    ]
    return (host.key, scope, shown, one_line(", ".join(bridges)) or "-", one_line(", ".join(others)) or "-")


def _builtin(entry: object) -> bool:
    return isinstance(entry, dict) and cast("dict[str, object]", entry).get("type") in ("builtin", "platform")


def _shown(path: Path, machine: Machine) -> str:
    if path.is_relative_to(machine.home):
        return "~/" + path.relative_to(machine.home).as_posix()
    return str(path.relative_to(machine.folder)) if path.is_relative_to(machine.folder) else str(path)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
