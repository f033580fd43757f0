"""Plans of removals: the bridge's entry is taken out of a host, and servers that were moved are put back.

Owns what is put back: the bytes of before if nobody has changed the file since, otherwise only what the installation
changed. Files are written by `plans`.
"""

from pathlib import Path
from typing import Any, cast

from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.edits import Path as KeyPath
from asyncfc_mcp.cli.install.entries import is_bridge
from asyncfc_mcp.cli.install.files import Snapshot, check_writable, snapshot
from asyncfc_mcp.cli.install.hosts import Host
from asyncfc_mcp.cli.install.installing import NoOwnCommand, NoSuchScope, Request, config_table, table_of
from asyncfc_mcp.cli.install.plans import Command, FileEdit, Plan
from asyncfc_mcp.cli.install.records import Installation, Moved, Records
from asyncfc_mcp.cli.install.showing import shown_words
from asyncfc_mcp.errors import BridgeError


class NotInstalled(BridgeError):
    """A host has no entry of the bridge under a name."""

    def __init__(self, host: Host, name: str, file: Path, others: list[str]) -> None:
        hint = f"; it has the bridge as {others[0]!r}: use --name {others[0]}" if others else ""
        super().__init__(f"{host.name} has no bridge named {name!r} in {file}{hint}")


class NotTheBridge(BridgeError):
    """The entry of that name is another server."""

    def __init__(self, host: Host, name: str, file: Path) -> None:
        super().__init__(f"the server {name!r} of {host.name} in {file} is not this bridge, and was left as it is")


def plan_uninstall(request: Request) -> Plan:
    """Return the plan of a removal. The host need not be there any more, as long as its file is.

    Raises:
        BridgeError: it is refused, with the reason.
    """
    host, machine, name = request.host, request.machine, request.name
    file = host.file(request.scope, machine)
    if file is None:
        raise NoSuchScope(host, request.scope)
    before = snapshot(file)
    document = Document(str(before.path), before.text)
    table = table_of(host, document, machine, request.scope)
    record = request.records.find(before.target, name, table[1] if request.scope == "local" else "")
    table = table if record is None else record.table
    servers = document.table(table)
    entry = servers.get(name)
    if before.data is None and record is not None and not host.is_here(machine):
        # It would be created for a host that is gone.
        kept = f" Its servers stay in {record.config}." if record.moved else ""
        return Plan(f"{host.name} is no longer here; its record was deleted.{kept}", forget=record)
    moved = () if record is None else record.moved
    if entry is None and not moved:
        if record is not None:
            return Plan(f"{host.name} ({file}) no longer has the bridge; its record was deleted.", forget=record)
        raise NotInstalled(host, name, file, [each for each, found in servers.items() if is_bridge(found)])
    if entry is not None and not is_bridge(entry):
        raise NotTheBridge(host, name, file)
    done = f"Removed from {host.name} ({file})."
    # What was done by an edit of the file is undone by one.
    edited = record is not None and record.change is not None and request.via is None
    command = None if moved or entry is None or edited else _own_command(request, file, table)
    if command is not None:
        return Plan(done, command=command, forget=record)
    check_writable(before)
    notes: list[str] = []
    after = _host_after(request, record, before, document, table, notes)
    shown = shown_words([*servers.values(), *(each.entry for each in moved)])
    edits = [FileEdit(before, after, shown, host.lock)] if after != before.data else []
    if record is not None and moved:
        edit = _config_edit(record, request.records, notes)
        if edit is not None:
            # Last: if the first file cannot be written, the servers are still in the configuration.
            edits.append(edit)
    return Plan(done, tuple(edits), notes=tuple(notes), forget=record)


def _own_command(request: Request, file: Path, table: KeyPath) -> Command | None:
    own, via = request.host.own, request.via
    program = None if own is None else request.machine.program(own.program)
    usable = own is not None and own.remove is not None and program is not None and request.scope != "project"
    if via == "command" and not usable:
        raise NoOwnCommand(request.host, "it has none that removes a server")
    if own is None or own.remove is None or program is None or not usable:
        return None
    if via == "file" or (via is None and not own.default):
        return None

    def is_gone() -> bool:
        return request.name not in Document(str(file), snapshot(file).text).table(table)

    return Command((program, *own.remove(request.name, request.scope)), None, is_gone)


def _host_after(
    request: Request,
    record: Installation | None,
    before: Snapshot,
    document: Document,
    table: KeyPath,
    notes: list[str],
) -> bytes | None:
    """Return the host's file without the bridge, and with its servers."""
    name = request.name
    if record is not None and record.change is not None and record.change.is_current(before.data):
        return record.change.before
    if name in document.table(table):
        if record is not None and record.insertion is not None and record.insertion.path:
            document.undo(table, name, record.insertion)
        else:
            document.remove(table, name)
    for each in () if record is None else record.moved:
        if each.name in document.table(table):
            notes.append(f"{each.name!r} was left as it is: {request.host.name} has a server of that name again.")
        else:
            _put_back(document, table, each)
    return before.encoded(document.text)


def _put_back(document: Document, table: KeyPath, moved: Moved) -> None:
    """Insert an entry with its own text, or else with its value."""
    try:
        document.insert(table, moved.name, moved.entry, moved.raw)
    except BridgeError:
        document.insert(table, moved.name, moved.entry)


def _config_edit(record: Installation, records: Records, notes: list[str]) -> FileEdit | None:
    """Return the edit of the bridge's configuration; None if it stays as it is."""
    others = [each for each in records.all() if each.config == record.config and each != record and _is_there(each)]
    if others:
        notes.append(f"{record.config} keeps the servers, since {others[0].host} uses it, too.")
        return None
    config = snapshot(Path(record.config))
    if config.data is None:
        return None
    document = Document(str(config.path), config.text)
    table = config_table(document)
    shown = shown_words(document.table(table).values())
    change = record.config_change
    if change is not None and change.is_current(config.data):
        check_writable(config)
        return FileEdit(config, change.before, shown)
    for each in record.moved:
        if each.added is None:
            continue
        found: Any = document.table(table).get(each.as_name)
        if found == each.added:
            document.remove(table, each.as_name)
        elif found is not None:
            notes.append(f"{each.as_name!r} stays in {config.path}: it was changed there.")
    if document.text == config.text:
        return None
    check_writable(config)
    emptied = change is not None and change.before is None and not _is_used(document.value, table)
    return FileEdit(config, None if emptied else config.encoded(document.text), shown)


def _is_there(installation: Installation) -> bool:
    """Return whether the host of another record still has the bridge."""
    try:
        document = Document(installation.file, snapshot(Path(installation.file)).text)
        return is_bridge(document.table(installation.table).get(installation.name))
    except BridgeError:
        return True


def _is_used(value: dict[str, Any], table: KeyPath) -> bool:
    """Return whether a configuration holds more than an empty table."""
    inner: Any = value
    for key in table:
        inner = cast("dict[str, Any]", inner).get(key, {}) if isinstance(inner, dict) else {}
    return bool(inner) or set(value) != {table[0]}
