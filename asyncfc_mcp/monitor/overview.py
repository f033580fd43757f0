"""Overview: the bridge, its servers and its settings at one moment, as a JSON object without secrets.

Owns what is shown of a server and of a setting, and to whom: paths, settings and the stderr of servers only where no
other principal uses the endpoint. Leaves calls to `monitor`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, is_dataclass
from typing import Any, Final, cast

from asyncfc_mcp import __version__
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.settings import SETTINGS, Settings
from asyncfc_mcp.core.identity import Principal, is_only_principal
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.redaction import HIDDEN, without_secrets

STDERR_LINES: Final = 12
"""Last lines of a server's stderr that are shown."""


async def overview_of(
    bridge: Bridge, principal: Principal, *, transport: str, since: float, now: float
) -> dict[str, Any]:
    """Return all of the overview but what is counted of calls.

    Args:
        since, now: start of this process and the present, in seconds of the wall clock.
    """
    only = is_only_principal(principal.scope)
    overview: dict[str, Any] = {
        "version": __version__,
        "pid": os.getpid(),
        "since": since,
        "now": now,
        "transport": transport,
        "servers": _servers(bridge, principal, stderr=only),
    }
    if not only:
        return overview
    config, file = bridge.config, bridge.config_file
    problem = await bridge.engine.problem() if file is None or file.problem is None else file.problem
    return {
        **overview,
        "configuration": config.source,
        "problem": None if problem is None else without_secrets(problem, _secrets(bridge)),
        "settings": settings_of(bridge.settings),
    }


def _servers(bridge: Bridge, principal: Principal, *, stderr: bool) -> list[dict[str, Any]]:
    view = bridge.views.of(principal)
    own = {each["name"]: each for each in bridge.server_conditions(principal)}
    found: list[dict[str, Any]] = []
    for each in [*bridge.server_conditions(), *own.values()]:
        name = each["name"]
        if not view.touches(name):
            continue
        downstream = view.own_servers.get(name) if name in own and each is own[name] else bridge.downstreams.get(name)
        found.append(_server(each, downstream, stderr=stderr))
    return found


def _server(condition: Mapping[str, str], downstream: Downstream | None, *, stderr: bool) -> dict[str, Any]:
    server: dict[str, Any] = {**condition, "restarts": 0, "tools": 0, "sign_in": None, "stderr": []}
    if downstream is None:
        return server
    needed = downstream.sign_in
    server["restarts"] = downstream.restarts
    server["tools"] = len(downstream.snapshot.listing("tools"))
    server["sign_in"] = None if needed is None else {"state": "needed", "command": needed.command}
    if stderr:
        secrets = (*downstream.config.secrets, *downstream.secrets)
        server["stderr"] = [without_secrets(line, secrets) for line in downstream.stderr_tail[-STDERR_LINES:]]
    return server


def settings_of(settings: Settings) -> list[dict[str, Any]]:
    """Return each setting of the bridge with its value and its default; values that are secret are hidden."""
    found: list[dict[str, Any]] = []
    for name, known in SETTINGS.items():
        value = getattr(settings, name)
        default = known.default_factory() if known.default_factory is not MISSING else known.default
        shown = value
        if name == "engine":
            shown = settings.shown_engine
        elif not known.repr and value is not None:
            shown = HIDDEN
        found.append({"name": name, "value": _plain(shown), "default": _plain(default), "changed": value != default})
    return found


def _secrets(bridge: Bridge) -> Sequence[str]:
    config = bridge.config
    return (*config.settings.secrets, *(secret for server in config.servers for secret in server.secrets))


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return value
