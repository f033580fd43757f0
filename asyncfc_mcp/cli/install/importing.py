"""Plans of imports: the servers of any host's file are added to the bridge's configuration, and the file stays.

Owns which servers are added. Files are written by `plans`.
"""

import json
from pathlib import Path, PurePath
from typing import Any, cast

from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.entries import Kept, is_bridge, same_server, taken_over
from asyncfc_mcp.cli.install.files import check_writable, snapshot
from asyncfc_mcp.cli.install.hosts import HOSTS, Machine
from asyncfc_mcp.cli.install.installing import SameFile, config_table
from asyncfc_mcp.cli.install.plans import FileEdit, Plan
from asyncfc_mcp.cli.install.showing import shown_words
from asyncfc_mcp.config.checker import Checker
from asyncfc_mcp.config.host_files import GOOSE, has_braces, server_tables
from asyncfc_mcp.config.parsing import parse_value, read_text
from asyncfc_mcp.errors import ConfigError


def source_file(word: str, machine: Machine) -> Path:
    """Return the file that a word names: a path, or the file of a host."""
    path = Path(word).expanduser()
    host = HOSTS.get(word)
    found = None if host is None or path.exists() else host.file("user", machine)
    return path if found is None else found


def plan_import(source: Path, config_file: Path, machine: Machine, *, direct: bool = False) -> Plan:
    """Return the plan of an import.

    Args:
        direct: servers that run mcp-remote are added as the URL that it connects to.

    Raises:
        BridgeError: a file cannot be read, or has no servers.
    """
    file = str(source)
    root = Checker(file, {}).typed(parse_value(read_text(source), file), "", dict, "an object with servers")
    tables = server_tables(root, file, str(machine.folder))
    if len(tables) != 1 or not isinstance(tables[0][1], dict):
        raise ConfigError(file, "", "found no servers" if not tables else "found two tables of servers", "one table")
    where, servers = tables[0][0], cast("dict[str, Any]", tables[0][1])
    config = snapshot(config_file).as_private_as(snapshot(source))
    if config.target == source.resolve():
        raise SameFile(source)
    document = Document(str(config.path), config.text)
    table, kind = config_table(document), _kind(source, root, where)
    shown = shown_words([*servers.values(), *document.table(table).values()])
    notes: list[str] = []
    added: list[str] = []
    for name, entry in servers.items():
        moved = taken_over(kind, name, entry, direct=direct)
        if is_bridge(entry):
            moved = Kept(name, "it is the bridge itself")
        if isinstance(moved, Kept):
            notes.append(f"{name!r} was left out: {moved.reason}.")
            continue
        moved = json.loads(json.dumps(moved, default=str))
        there = document.table(table).get(name)
        if there is None:
            document.insert(table, name, moved)
            added.append(name)
        elif not same_server(moved, there):
            notes.append(f"{name!r} was left out: {config.path} has another server of that name.")
    if not added:
        return Plan(f"{config.path} already has every server of {source} that it can have.", notes=tuple(notes))
    check_writable(config)
    edit = FileEdit(config, config.encoded(document.text), shown)
    return Plan(f"Added to {config.path}: {', '.join(added)}.", (edit,), notes=tuple(notes))


def _kind(source: Path, root: dict[str, Any], where: str) -> str:
    """Return the host whose spellings a file has."""
    if has_braces(root, where):
        return "opencode"
    if where == GOOSE:
        return "goose"
    parts = PurePath(source).parts
    if ".gemini" in parts:
        return "gemini"
    return "copilot-cli" if ".copilot" in parts else ""
