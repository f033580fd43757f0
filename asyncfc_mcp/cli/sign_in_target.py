"""The server that `login` and `logout` are about: found by its name in a configuration, or by its URL.

Owns the choice, and errors that say what to write. Other servers of the configuration need not be usable.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from asyncfc_mcp.config.mcp_remote import url_entry
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig
from asyncfc_mcp.config.reader import config_for_url, load_config
from asyncfc_mcp.errors import BridgeError, ConfigError, nearest

_OF_REPLICAS: Final = ("engine", "secret", "replica")
"""Settings that are not read: their variables are those of a service, and not of the shell of its user."""
_MOST_SHOWN: Final = 5


class NoTarget(BridgeError):
    """No server, or more than one, is meant. The text says what to write."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server at a URL, and its configuration.

    Attributes:
        config: with this server only.
    """

    config: BridgeConfig
    server: ServerConfig
    spec: HttpSpec


def find_target(
    name: str | None, file: Path | None, url: str | None, environ: Mapping[str, str], known: Sequence[Path]
) -> Target:
    """Return the server that is meant.

    Args:
        name: of the server; None: the only one at a URL. With a URL, the name under which it is stored.
        known: configurations to look into if neither a file nor a URL is given.

    Raises:
        ConfigError: the configuration cannot be read.
        NoTarget: none of its servers is meant, or the server is not one that is signed in to.
    """
    if file is not None and url is not None:
        raise NoTarget("expected --config FILE or --url URL; found both")
    if url is not None:
        config = config_for_url(url)
        if name is not None:
            config = replace(config, servers=(replace(config.servers[0], name=name),))
        return _target(config, config.servers[0].name)
    if file is not None:
        config = load_config(file, environ, without=_OF_REPLICAS)
        return _target(config, _only(config, str(file)) if name is None else name)
    return _in_known(name, environ, known)


def _in_known(name: str | None, environ: Mapping[str, str], known: Sequence[Path]) -> Target:
    """Return the server of this name in the configurations that are known."""
    if name is None:
        raise NoTarget("expected the name of a server, with --config FILE, or --url URL")
    found: list[tuple[Path, BridgeConfig]] = []
    unreadable: list[str] = []
    for path in known:
        try:
            config = load_config(path, environ, without=_OF_REPLICAS)
        except ConfigError as exc:
            unreadable.append(str(exc))
            continue
        if name in (*(server.name for server in config.servers), *(server.name for server in config.unusable)):
            found.append((path, config))
    if len(found) == 1:
        return _target(found[0][1], name)
    if not found:
        looked = "no bridge was started with one so far"
        if known:
            more = f" and {len(known) - _MOST_SHOWN} more" if len(known) > _MOST_SHOWN else ""
            looked = "; ".join([f"it is not in {', '.join(map(str, known[:_MOST_SHOWN]))}{more}", *unreadable[:1]])
        raise NoTarget(
            f"the configuration with server {name!r} is not known ({looked}); add --config FILE or --url URL"
        )
    choices = " or ".join(f"--config {shlex.quote(str(path))}" for path, _ in found)
    raise NoTarget(f"{len(found)} configurations have a server {name!r}; add {choices}")


def _only(config: BridgeConfig, file: str) -> str:
    """Return the name of the only server that is signed in to."""
    names = [s.name for s in config.servers if isinstance(s.spec, HttpSpec) and s.spec.oauth is not None]
    if len(names) == 1:
        return names[0]
    if names:
        raise NoTarget(f"expected the name of a server; {file} has {', '.join(names)}")
    raise NoTarget(f"{file} has no server that is signed in to: none is at a URL without credentials of its own")


def _target(config: BridgeConfig, name: str) -> Target:
    for unusable in config.unusable:
        if unusable.name == name:
            raise NoTarget(f"server {name!r} cannot be used: {unusable.reason}")
    servers = {server.name: server for server in config.servers}
    if name not in servers:
        at_url = [server.name for server in config.servers if isinstance(server.spec, HttpSpec)]
        close = nearest(name, servers, at_most=1)
        hint = f"did you mean {close[0]!r}?" if close else f"those at a URL are: {', '.join(at_url) or 'none'}"
        raise NoTarget(f"{config.source} has no server {name!r}; {hint}")
    server = servers[name]
    spec = server.spec
    if not isinstance(spec, HttpSpec):
        hint = "only a server at a URL is signed in to"
        if url_entry({"command": spec.command, "args": list(spec.args)}) is not None:
            hint = (
                "it runs mcp-remote, which signs in by itself; `asyncfc-mcp inspect` says what to write in place of it"
            )
        raise NoTarget(f"server {name!r} is a command: {hint}")
    if spec.oauth is None:
        raise NoTarget(f"server {name!r} is not signed in to: {_own_credentials(spec)}")
    # What is said of other servers, and of the file, belongs to `inspect`.
    return Target(replace(config, servers=(server,), warnings=(), unusable=()), server, spec)


def _own_credentials(spec: HttpSpec) -> str:
    if spec.caller_headers:
        return "it is called with the credentials of each caller"
    if any(name.lower() == "authorization" for name in spec.headers):
        return "its entry has a header Authorization"
    return "its URL has a user" if spec.has_user else 'its entry has "oauth": false'
