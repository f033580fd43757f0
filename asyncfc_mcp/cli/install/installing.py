"""Plans of installations: one entry of the bridge in a host, and the host's servers in the bridge's configuration.

Owns what is refused and what is already there. Files are written by `plans`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from asyncfc_mcp.cli.install.documents import Document
from asyncfc_mcp.cli.install.edits import Path as KeyPath
from asyncfc_mcp.cli.install.entries import PROGRAM, Kept, config_of, is_bridge, same_server, taken_over
from asyncfc_mcp.cli.install.files import Snapshot, check_writable, snapshot
from asyncfc_mcp.cli.install.hosts import Entry, Host, HostMissing, Machine, Scope, opencode_2
from asyncfc_mcp.cli.install.plans import Command, FileEdit, Plan
from asyncfc_mcp.cli.install.records import Change, Installation, Moved, Records
from asyncfc_mcp.cli.install.showing import shown_words
from asyncfc_mcp.config.formats import SERVER_TABLES, canonical
from asyncfc_mcp.errors import BridgeError, nearest
from asyncfc_mcp.redaction import is_secret_name

Via = Literal["file", "command"]
OPENCODE_2: Final = ("mcp", "servers")


class NoSuchScope(BridgeError):
    """A host has no file in a scope."""

    def __init__(self, host: Host, scope: Scope) -> None:
        super().__init__(f"{host.name} has no configuration with the scope {scope!r}")


class NameTaken(BridgeError):
    """The host has another server of this name."""

    def __init__(self, host: Host, name: str, file: Path) -> None:
        super().__init__(
            f"{host.name} already has a server {name!r} in {file}, which is not this bridge; "
            "choose another name with --name"
        )


class NothingToWrap(BridgeError):
    """The bridge would have no servers."""

    def __init__(self, config: Path, host: Host | None = None) -> None:
        where = f"{config} does not exist or lists no server"
        if host is None:
            todo = "move the host's servers there with --wrap, or create it from a file with `asyncfc-mcp import FILE`"
        else:
            todo = f"and {host.name} has none that could be moved there"
        super().__init__(f"{where}{'; ' if host is None else ', '}{todo}")


class UnknownServer(BridgeError):
    """A server that is to be moved is not in the host."""

    def __init__(self, host: Host, name: str, known: Sequence[str]) -> None:
        close = nearest(name, known, at_most=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known) or 'none'}"
        super().__init__(f"{host.name} has no server {name!r}{hint}")


class CannotWrap(BridgeError):
    """A server that was named cannot be moved."""

    def __init__(self, kept: Kept) -> None:
        super().__init__(f"{kept.name!r} cannot be moved: {kept.reason}")


class SameFile(BridgeError):
    """The bridge's configuration is the host's file."""

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} is the host's own file; the bridge's configuration has to be another one (--config)")


class NoOwnCommand(BridgeError):
    """A host has no command, or its program is missing."""

    def __init__(self, host: Host, reason: str) -> None:
        super().__init__(f"{host.name} cannot be changed by its own command: {reason}")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Attributes:
        wrap: names of servers that move into the bridge's configuration; empty for all, None for none.
        via: edit the file or use the host's own command; None: as is proper for the host.
        direct: servers that run mcp-remote move as the URL that it connects to.
        shared: the sessions of the host share one bridge, where the system has it.
    """

    host: Host
    machine: Machine
    records: Records
    name: str
    config: Path
    scope: Scope = "user"
    wrap: tuple[str, ...] | None = None
    via: Via | None = None
    direct: bool = False
    shared: bool = True


def bridge_arguments(config: str, machine: Machine, *, shared: bool) -> list[str]:
    """Return the arguments that start the bridge for a host.

    Args:
        shared: its sessions share one bridge. On Windows each has its own.
    """
    return ["serve", *(["--shared"] if shared and machine.system != "win32" else []), "--config", config]


def bridge_command(machine: Machine, scope: Scope) -> tuple[str, tuple[str, ...]]:
    """Return the command that starts this program, and its first arguments.

    For one user it is a path, since hosts that are started from a desktop do not have the PATH of a shell. A file of a
    project is shared, so that a path of this machine must not be in it.
    """
    if scope == "project":
        return PROGRAM, ()
    # Not resolved: the link of `uv tool` and pipx stays where it is when the program is upgraded.
    beside = Path(sys.executable).with_name(PROGRAM + (".exe" if machine.system == "win32" else ""))
    found = machine.program(PROGRAM)
    if found is not None and (not beside.exists() or Path(found).resolve() == beside.resolve()):
        return os.path.abspath(found), ()
    if beside.exists():
        return str(beside), ()
    return sys.executable, ("-m", "asyncfc_mcp")


def bridge_entry(request: Request, table: KeyPath) -> Entry:
    """Return the host's entry of the bridge."""
    command, first = bridge_command(request.machine, request.scope)
    config = str(request.config)
    if request.scope == "project" and request.config.is_relative_to(request.machine.home):
        config = "~/" + request.config.relative_to(request.machine.home).as_posix()
    shape = opencode_2 if request.host.key == "opencode" and table == OPENCODE_2 else request.host.shape
    return shape(request.name, command, [*first, *bridge_arguments(config, request.machine, shared=request.shared)])


def host_file(host: Host, scope: Scope, machine: Machine) -> Path:
    """Return the file of a host that is here.

    Raises:
        HostMissing: it is not.
        NoSuchScope: it has no such file.
    """
    file = host.file(scope, machine)
    if file is None:
        raise NoSuchScope(host, scope)
    if not host.is_here(machine) and not (scope == "project" and file.exists()):
        raise HostMissing(host, machine)
    return file


def table_of(host: Host, document: Document, machine: Machine, scope: Scope) -> KeyPath:
    """Return the key path of a host's servers, which differs between projects and between the versions of opencode."""
    if scope == "local":
        return ("projects", _project(document, machine.folder), *host.table)
    if host.key != "opencode":
        return host.table
    mcp = document.table(host.table)
    if isinstance(mcp.get("servers"), dict) and "command" not in mcp["servers"]:
        return OPENCODE_2
    program = machine.program("opencode")
    return OPENCODE_2 if not mcp and program is not None and _major(program) >= 2 else host.table


def _project(document: Document, folder: Path) -> str:
    """Return the key of the project that a folder belongs to: one that is there, or else its repository."""
    known = document.table(("projects",))
    parents = [folder, *folder.parents]
    repository = next((each for each in parents if (each / ".git").exists()), folder)
    return next(
        (str(each) for each in parents if str(each) in known and each.is_relative_to(repository)), str(repository)
    )


def _major(program: str) -> int:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
        return int(done.stdout.strip().lstrip("v").partition(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 1


def config_table(document: Document) -> KeyPath:
    """Return the key path of the servers in the bridge's configuration."""
    for path in SERVER_TABLES:
        value: Any = document.value
        for key in path:
            value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            return path
    return ("mcpServers",)


def plan_install(request: Request) -> Plan:
    """Return the plan of an installation.

    Raises:
        BridgeError: it is refused, with the reason.
    """
    host, machine, name = request.host, request.machine, request.name
    before = snapshot(host_file(host, request.scope, machine))
    if before.data is None and request.scope == "project":
        before = replace(before, mode=0o644)  # a file that the project shares
    config = snapshot(request.config)
    if config.target == before.target:
        raise SameFile(request.config)
    document = Document(str(before.path), before.text)
    table = table_of(host, document, machine, request.scope)
    servers = document.table(table)
    entry, existing = bridge_entry(request, table), servers.get(name)
    if existing is not None and not is_bridge(existing):
        raise NameTaken(host, name, before.path)
    config_document = Document(str(config.path), config.text)
    moving = _Moving(request, document, table, config_document)
    if request.wrap is not None:
        moving.choose(servers)
    if not moving.moved and not config_document.table(config_table(config_document)):
        raise NothingToWrap(request.config, None if request.wrap is None else host)
    wanted = entry if existing is None else {**cast("Entry", existing), **entry}
    same = next((key for key, each in servers.items() if is_bridge(each) and _same_config(each, request.config)), None)
    place = f"{host.name} ({before.path})"
    if not moving.moved and (existing == wanted or (existing is None and same is not None)):
        return Plan(
            f"{place} already has the bridge, as {name if existing is not None else same!r}.", notes=moving.notes
        )
    command = None if moving.moved or existing is not None else _own_command(request, entry, before.path, table)
    shown = shown_words([*servers.values(), wanted, *config_document.table(config_table(config_document)).values()])
    moved = moving.move()
    notes = (*moving.notes, *([host.note] if host.note else []))
    done = f"Installed in {place}."
    if command is not None:
        record = Installation(host.key, request.scope, name, str(before.target), table, str(request.config), None, None)
        return Plan(done, command=command, notes=notes, save=record)
    check_writable(before)
    if existing is not None:
        document.remove(table, name)
    insertion = document.insert(table, name, wanted)
    after = before.encoded(document.text)
    edits = [FileEdit(before, after, shown, host.lock)]
    config_change = None
    if config_document.text != config.text:
        check_writable(config)
        config = config.as_private_as(before)
        written = config.encoded(config_document.text)
        config_change = Change.of(config.target, config.data, written)
        # First: if the second file cannot be written, the servers are still in the host.
        edits.insert(0, FileEdit(config, written, shown))
    earlier = request.records.find(before.target, name, table[1] if request.scope == "local" else "")
    record = Installation(
        host.key, request.scope, name, str(before.target), table, str(request.config),
        Change.of(before.target, before.data, after), insertion, moved, config_change,
    )  # fmt: skip
    return Plan(done, tuple(edits), notes=notes, save=_merged(earlier, record, before, config, existing is not None))


def _same_config(entry: Any, config: Path) -> bool:
    found = config_of(entry)
    return found is not None and Path(os.path.expanduser(found)) == config


def _merged(
    earlier: Installation | None, record: Installation, before: Snapshot, config: Snapshot, replaced: bool
) -> Installation:
    """Return the record of an installation that follows another one of the same entry."""
    change, config_change = record.change, record.config_change
    if earlier is None:
        # An entry that was there before is not restored when it is uninstalled.
        change = None if replaced else change
        return _with(record, change, config_change, record.moved)
    if earlier.change is not None and earlier.change.is_current(before.data) and change is not None:
        change = Change(change.file, earlier.change.before, change.after)
    elif replaced:
        change = None
    old = earlier.config_change
    if config_change is None:
        config_change = old
    elif old is not None and old.is_current(config.data):
        config_change = Change(config_change.file, old.before, config_change.after)
    moved = {each.name: each for each in earlier.moved}
    for each in record.moved:
        # After a run that was killed, it is in the configuration already, and was added by that run.
        known = moved.get(each.name)
        again = known is not None and each.added is None and known.as_name == each.as_name
        moved[each.name] = replace(each, added=known.added) if known is not None and again else each
    return _with(record, change, config_change, tuple(moved.values()))


def _with(
    record: Installation, change: Change | None, config_change: Change | None, moved: tuple[Moved, ...]
) -> Installation:
    return Installation(
        record.host, record.scope, record.name, record.file, record.table, record.config, change,
        record.insertion, moved, config_change, record.when,
    )  # fmt: skip


def _own_command(request: Request, entry: Entry, file: Path, table: KeyPath) -> Command | None:
    """Return the host's own command if it is to be used."""
    own, via = request.host.own, request.via
    if own is None or request.scope == "project":
        if via == "command":
            raise NoOwnCommand(request.host, "it has none" if own is None else "it is for the user's own file")
        return None
    program = request.machine.program(own.program)
    if via == "command" and program is None:
        raise NoOwnCommand(request.host, f"there is no `{own.program}` on the PATH")
    if program is None or via == "file" or (via is None and not own.default):
        return None
    words, stdin = own.adding(request.name, entry, request.scope)

    def is_there() -> bool:
        found = snapshot(file)
        return is_bridge(Document(str(file), found.text).table(table).get(request.name))

    return Command((program, *words[1:]), stdin, is_there)


class _Moving:
    """Servers that move from a host into the bridge's configuration."""

    def __init__(self, request: Request, document: Document, table: KeyPath, config: Document) -> None:
        self._request, self._document, self._table, self._config = request, document, table, config
        self._config_table = config_table(config)
        self.moved: dict[str, dict[str, Any]] = {}
        self.notes: tuple[str, ...] = ()

    def choose(self, servers: dict[str, Any]) -> None:
        """Choose the servers: those that were named, or all that can be moved.

        Raises:
            UnknownServer, CannotWrap: one that was named is not there or cannot be moved.
        """
        host, named = self._request.host, self._request.wrap or ()
        others = [name for name, entry in servers.items() if not is_bridge(entry) and name != self._request.name]
        for name in named:
            if name not in others:
                raise UnknownServer(host, name, others)
        for name in others if not named else named:
            entry: Any = servers[name]
            found = taken_over(host.key, name, entry, direct=self._request.direct)
            if isinstance(found, dict) and not named and _is_disabled(entry):
                found = Kept(name, "it is disabled")
            if isinstance(found, dict):
                self.moved[name] = _json(found)
            elif named:
                raise CannotWrap(found)
            elif host.key != "goose" or found.reason != "it is a part of Goose":
                self.notes += (f"{name!r} stays in {host.name}: {found.reason}.",)

    def move(self) -> tuple[Moved, ...]:
        """Move them, and return what was moved."""
        done: list[Moved] = []
        for name, entry in self.moved.items():
            original = self._document.table(self._table)[name]
            there = self._config.table(self._config_table)
            as_name = _free_name(name, self._request.host.key, entry, there)
            added = None if same_server(entry, there.get(as_name)) else entry
            if added is not None:
                self._config.insert(self._config_table, as_name, entry)
            if as_name != name:
                self.notes += (f"{name!r} becomes {as_name!r}, since the configuration has another {name!r}.",)
            if _may_need_sign_in(entry):
                self.notes += (
                    f"{name!r} is at a URL: if {self._request.host.name} has signed in to it, sign in once more with "
                    f"`asyncfc-mcp login {as_name} --config {self._request.config}`.",
                )
            raw = self._document.remove(self._table, name)
            done.append(Moved(name, _json(original), raw, as_name, added))
        return tuple(done)


def _json(value: Any) -> Any:
    """Return a value of TOML or YAML as JSON holds it."""
    return json.loads(json.dumps(value, default=str))


def _may_need_sign_in(entry: dict[str, Any]) -> bool:
    """Return whether a host may hold tokens of a server: one at a URL, without credentials in its entry."""
    read = canonical(entry, lambda _key, _problem: None)
    headers: Any = read.get("headers")
    names = {name.lower() for name in cast("dict[str, Any]", headers)} if isinstance(headers, dict) else set[str]()
    return "command" not in read and not any(is_secret_name(name) for name in names)


def _is_disabled(entry: Any) -> bool:
    table = cast("dict[str, Any]", entry)
    return table.get("disabled") is True or table.get("enabled") is False or table.get("isActive") is False


def _free_name(name: str, host: str, entry: Any, there: dict[str, Any]) -> str:
    """Return a name under which the configuration has no other server."""
    names = (name, f"{name}-{host}", *(f"{name}-{host}-{number}" for number in range(2, 1000)))
    return next(each for each in names if each not in there or same_server(entry, there[each]))
