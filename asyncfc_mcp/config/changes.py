"""Changes between two configurations: what a running bridge has to do to get from one to the other.

Pure. Owns which servers are started anew and which settings a running bridge cannot take over. Leaves doing it to
`bridge`, and reading files to `reader`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from asyncfc_mcp.config.caller_headers import uses_callers
from asyncfc_mcp.config.model import ANY_OWNER, BridgeConfig, ServerConfig, UnusableServer
from asyncfc_mcp.config.settings import EMBEDDED, POLICY, SETTINGS, Settings

AT_RESTART: Final = frozenset(name for name, each in SETTINGS.items() if each.metadata.get("restart"))
"""Settings of the bridge that count from its next start."""
_IN_PARTS: Final = ("servers", "settings")
"""Fields whose changes are described in parts."""
OF_CONNECTIONS: Final = tuple(name for name, each in POLICY.items() if each.metadata.get("restart"))
"""Policy settings of a server that count from its next start."""

_REST: Final = tuple(each.name for each in fields(BridgeConfig) if each.compare and each.name not in _IN_PARTS)


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Difference between two configurations.

    Attributes:
        added: new servers.
        removed: names of servers that are gone.
        restarted: servers whose process or connection is replaced.
        updated: servers whose settings change while they run.
        order: all servers of the second configuration, which decides clashes of names.
        settings: settings of the bridge with their new values.
        needs_restart: what counts from the next start of the bridge: settings, and `server NAME`.
        rest: other fields of the configuration with their new values.
    """

    added: tuple[ServerConfig, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[ServerConfig, ...] = ()
    updated: tuple[ServerConfig, ...] = ()
    order: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs_restart: tuple[str, ...] = ()
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def applied(self, config: BridgeConfig) -> BridgeConfig:
        """Return a configuration with these changes, without those that need a restart."""
        changed = {server.name: server for server in (*self.added, *self.restarted, *self.updated)}
        known = {server.name: server for server in config.servers} | changed
        return replace(
            config,
            servers=tuple(known[name] for name in self.order),
            settings=replace(config.settings, **self.settings),
            **self.rest,
        )

    def lines(self) -> list[str]:
        """Return the changes for display, one kind in each line."""
        kinds = (
            ("added", [server.name for server in self.added]),
            ("removed", self.removed),
            ("restarted", [server.name for server in self.restarted]),
            ("updated", [server.name for server in self.updated]),
            ("settings", sorted(self.settings)),
            ("needs a restart", self.needs_restart),
        )
        return [f"{kind}: {', '.join(names)}" for kind, names in kinds if names]


def changes(old: BridgeConfig, new: BridgeConfig) -> ConfigChanges:
    """Return what has to change for `new` to count in place of `old`."""
    servers, fixed = _usable_now(old, new)
    before = {server.name: server for server in old.servers}
    known = [server for server in servers if server.name in before]
    other = {name: getattr(new.settings, name) for name in SETTINGS if _differs(name, old.settings, new.settings)}
    return ConfigChanges(
        added=tuple(server for server in servers if server.name not in before),
        removed=tuple(name for name in before if name not in {server.name for server in servers}),
        restarted=tuple(server for server in known if is_another_server(before[server.name], server)),
        updated=tuple(
            server
            for server in known
            if server != before[server.name] and not is_another_server(before[server.name], server)
        ),
        order=tuple(server.name for server in servers),
        settings={name: value for name, value in other.items() if name not in AT_RESTART},
        needs_restart=(*sorted(AT_RESTART & other.keys()), *(f"server {name}" for name in fixed)),
        rest={name: value for name in _REST if (value := getattr(new, name)) != getattr(old, name)},
    )


def is_another_server(old: ServerConfig, new: ServerConfig) -> bool:
    """Return whether a server has to be started anew for its new configuration."""
    return (
        (old.spec, old.share, old.start) != (new.spec, new.share, new.start)
        or type(old.spec) is not type(new.spec)
        or any(getattr(old.base, name) != getattr(new.base, name) for name in OF_CONNECTIONS)
    )


def lost_servers(old: BridgeConfig, new: BridgeConfig) -> tuple[UnusableServer, ...]:
    """Return the invalid entries of `new` whose servers `old` runs: a slip in an entry must not end its server."""
    running = {server.name for server in old.servers}
    return tuple(each for each in new.unusable if each.name in running)


def _usable_now(old: BridgeConfig, new: BridgeConfig) -> tuple[list[ServerConfig], list[str]]:
    """Return the servers that a running bridge can have, in order, and the names of those whose changes count later:
    with a database, the replicas have agreed at their start which of them runs a server; and a bridge that started
    without servers with credentials of callers keeps none."""
    before = {server.name: server for server in old.servers}
    servers: list[ServerConfig] = []
    fixed: list[str] = []
    if old.settings.engine == EMBEDDED:
        takes_callers = any(map(uses_callers, old.servers))
        for server in new.servers:
            if takes_callers or not uses_callers(server):
                servers.append(server)
            else:
                fixed.append(server.name)
                servers += [before[server.name]] if server.name in before else []
        return servers, fixed
    for server in new.servers:
        was = before.get(server.name)
        if ANY_OWNER == server.runs_at and (was is None or was.runs_at == ANY_OWNER):
            servers.append(server)
        elif was is not None and not (is_another_server(was, server) or was.runs_at != server.runs_at):
            servers.append(server)
        else:
            fixed.append(server.name)
            servers += [] if was is None else [was]
    named = {server.name for server in new.servers}
    for server in old.servers:
        if server.name not in named and server.runs_at != ANY_OWNER:
            fixed.append(server.name)
            servers.append(server)
    return servers, fixed


def _differs(name: str, old: Settings, new: Settings) -> bool:
    return getattr(old, name) != getattr(new, name)
