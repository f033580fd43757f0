"""Reading of a configuration: a file of a host, a command line or a URL → `BridgeConfig`.

Owns the shape of the file as a whole: where its servers are, and whether any of them is usable. Parsing is left to
`parsing`, entries to `servers`, `asyncfc` sections to `settings_reader`. Starts nothing.
"""

import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from asyncfc_mcp.config.access import warn_of_access
from asyncfc_mcp.config.checker import Checker, absolute
from asyncfc_mcp.config.formats import NOT_USED, split_command
from asyncfc_mcp.config.host_files import has_braces, server_tables
from asyncfc_mcp.config.levels import TOP
from asyncfc_mcp.config.mcp_remote import url_entry
from asyncfc_mcp.config.model import ANY_OWNER, BridgeConfig, HttpSpec, ServerConfig, StdioSpec, UnusableServer
from asyncfc_mcp.config.origin import FileOrigin, digest, variables
from asyncfc_mcp.config.parsing import parse_value, read_text
from asyncfc_mcp.config.servers import FAIL_STOP_NEEDS_PATHS, ServerReader, wrong_section
from asyncfc_mcp.config.settings import EMBEDDED, SETTINGS, Settings
from asyncfc_mcp.config.settings_reader import SettingsReader, declares_state
from asyncfc_mcp.config.specs import SpecReader
from asyncfc_mcp.config.variables import Variables
from asyncfc_mcp.errors import ConfigError, nearest
from asyncfc_mcp.redaction import shown_url


def load_config(path: Path, environ: Mapping[str, str], *, without: Collection[str] = ()) -> BridgeConfig:
    """Read a configuration file.

    Args:
        without: settings at the top of the file that are not read.

    Raises:
        ConfigError: the file cannot be read, or is invalid in a way that affects more than one server.
    """
    text = read_text(path)

    def parse(text: str, environ: Mapping[str, str]) -> BridgeConfig:
        return parse_config(text, str(path), environ, without=without)

    config = parse(text, environ)
    origin = FileOrigin(path, digest(text), parse, environ, variables(environ, config.own_variables))
    return replace(config, origin=origin)


def parse_config(text: str, file: str, environ: Mapping[str, str], *, without: Collection[str] = ()) -> BridgeConfig:
    """Read the text of a configuration file. An invalid entry makes its server unusable; the others are read.

    Args:
        file: name of the file in errors; its suffix selects JSON, TOML or YAML.
        without: see `load_config`.

    Raises:
        ConfigError: the error affects more than one server, is in a setting of the bridge, or leaves no usable server.
    """
    check = Checker(file, environ)
    root = cast("dict[str, Any]", check.typed(parse_value(text, file), "", dict, 'an object with "mcpServers"'))
    where, table = _server_table(root, file)
    check.unique_keys(root, "", nested=False)
    check.unique_keys(root.get("asyncfc"), "asyncfc")
    settings = SettingsReader(check)
    section = root.get("asyncfc", {})
    if isinstance(section, dict):
        section = {key: item for key, item in cast("dict[str, Any]", section).items() if key not in without}
    top = settings.section(section, "asyncfc", TOP)
    entries = cast("dict[str, Any]", check.typed(table, where, dict, "an object: name → server"))
    check.unique_keys(entries, where, nested=False)
    reader = ServerReader(check, settings, top, braces=has_braces(root, where))
    read = [reader.server(name, entry, f"{where}.{name}") for name, entry in entries.items()]
    _warn_of_other_keys(check, root, where)
    kept = tuple(server for server in read if isinstance(server, ServerConfig))
    unusable = tuple(server for server in read if isinstance(server, UnusableServer))
    _check_names(check, kept, where)
    if not kept:
        raise _no_server(file, where, len(entries), reader.faults)
    if top.get("on_failure") == "stop" and not any(declares_state(asdict(s.base), *s.tools.values()) for s in kept):
        check.warn("asyncfc.on_failure", FAIL_STOP_NEEDS_PATHS)
    given = {key: item for key, item in top.items() if key in SETTINGS}
    given.setdefault("daemon_idle_s", top.get("idle_s"))
    own = Settings(**given)
    _warn_of_replicas(check, own, top, kept, where)
    warn_of_access(check, own.access, entries)
    _refuse_stored_callers(check, own, kept, where)
    identity = f"file:{absolute(file)}"
    return BridgeConfig(
        kept, own, tuple(check.warnings), file, unusable, identity, tuple(sorted(settings.own_variables))
    )


def _warn_of_replicas(
    check: Checker, own: Settings, top: Mapping[str, Any], servers: Sequence[ServerConfig], where: str
) -> None:
    """Warn of settings that have no effect with this engine, and of replicas without a common secret."""
    if own.engine != EMBEDDED:
        if own.secret is None:
            problem = "not set, so a question that one replica asks cannot be answered at another"
            check.warn("asyncfc.secret", problem)
        if own.journal not in ("auto", "off"):
            check.warn("asyncfc.journal", "no effect: futures are kept in the database (engine)")
        for server in servers:
            if server.share != "auto":
                problem = "no effect: with a database, servers have no instances for sessions"
                check.warn(f"{where}.{server.name}.asyncfc.share", problem)
            if server.start == "lazy" and server.runs_at != ANY_OWNER:
                problem = 'no effect: a server that one replica at a time runs ("owner") runs all the time'
                check.warn(f"{where}.{server.name}.asyncfc.start", problem)
        return
    problem = 'no effect: this needs "engine": "postgresql://…"'
    for key in ("replica", "secret"):
        if top.get(key) is not None:
            check.warn(f"asyncfc.{key}", problem)
    for server in servers:
        if server.owner is not None:
            check.warn(f"{where}.{server.name}.asyncfc.owner", problem)


def _refuse_stored_callers(check: Checker, own: Settings, servers: Sequence[ServerConfig], where: str) -> None:
    """Refuse headers of callers with a database: another replica, which has no such header, may have to make the call.

    Raises:
        ConfigError: with the place of the first.
    """
    for server in servers:
        if own.engine != EMBEDDED and isinstance(server.spec, HttpSpec) and server.spec.caller_headers:
            header = next(iter(server.spec.caller_headers))
            raise check.fail(
                f"{where}.{server.name}.headers.{header}",
                'found ${caller:…} with a database as "engine", and credentials of callers are kept in memory only',
                'this server in a bridge of its own, without "engine", or credentials of the bridge\'s own',
            )


def _check_names(check: Checker, servers: Sequence[ServerConfig], where: str) -> None:
    """Refuse one name for the tools of two servers.

    Raises:
        ConfigError: with both places.
    """
    places: dict[str, str] = {}
    for server in servers:
        for tool, override in server.overrides.items():
            if override.name is None:
                continue
            prefix = f"{server.name}__" if server.prefix is None else server.prefix
            here = f"{where}.{server.name}.asyncfc.tools.{tool}.name"
            other = places.setdefault((prefix + override.name).lower(), here)
            if other != here:
                found = f"found {override.name!r}, and the same name in {other}"
                raise check.fail(here, found, "names that differ, or a prefix")


def _server_table(root: Mapping[str, Any], file: str) -> tuple[str, Any]:
    """Return the key path and value of the only table of servers."""
    tables = server_tables(root, file)
    if len(tables) != 1:
        close = nearest("mcpServers", root, at_most=1)
        both = " and ".join(f'"{path}"' for path, _ in tables)
        found = f"found both {both}" if tables else (f"found {close[0]!r}" if close else "no servers")
        raise ConfigError(file, "", found, '"mcpServers" (or "servers", as in VS Code)')
    return tables[0]


def _warn_of_other_keys(check: Checker, root: Mapping[str, Any], where: str) -> None:
    """Warn of keys at the top of the file that are not used."""
    unused: list[str] = []
    for key in root:
        if key in (where.partition(".")[0], where, "asyncfc", "inputs", "$schema"):
            continue
        if warning := wrong_section(key):
            check.warn(key, warning)
        else:
            unused.append(key)
    if unused:
        # One line for all: a host's settings file may have dozens.
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        check.warn(", ".join(unused[:5]) + more, NOT_USED)


def _no_server(file: str, where: str, entries: int, faults: Sequence[ConfigError]) -> ConfigError:
    """Return the error for a file without a usable server."""
    if len(faults) == 1:
        return faults[0]
    if faults:
        reasons = "; ".join(str(fault).removeprefix(f"{file}: ") for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        return ConfigError(file, where, f"none of the servers is usable ({reasons}{more})", "at least one")
    found = f"all servers are disabled ({entries})" if entries else "found no server"
    return ConfigError(file, where, found, "at least one")


def _single(spec: StdioSpec | HttpSpec, name: str, identity: str, warnings: Sequence[str] = ()) -> BridgeConfig:
    server = ServerConfig(name, spec, prefix="", keep_names=True)
    return BridgeConfig((server,), warnings=tuple(warnings), source=spec.shown, identity=identity)


def config_for_command(argv: Sequence[str]) -> BridgeConfig:
    """Return the configuration of one server that is a command; its tools keep their names."""
    warnings: list[str] = []
    if len(argv) == 1 and (split := split_command(argv[0], lambda word: shutil.which(word) is not None)):
        argv = split
        warnings.append(f"the command was split at spaces: {argv[0]!r} is run with {len(argv) - 1} arguments")
    direct = url_entry({"command": argv[0], "args": list(argv[1:])})
    if direct is not None and direct.keys() == {"url"}:
        instead = f"--url {shown_url(direct['url'])}"
        warnings.append(f"the command runs mcp-remote, but the bridge can connect and sign in by itself: use {instead}")
    words = [word for word in argv if not word.startswith("-")] or ["server"]
    last = (
        words[1] if len(words) > 1 and Path(words[0]).name in ("npx", "uvx", "python", "python3", "node") else words[0]
    )
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"(?<=.)@[^/]*$", "", Path(last).name).removesuffix(".py"))
    return _single(StdioSpec(argv[0], tuple(argv[1:])), name or "server", f"command:{json.dumps(list(argv))}", warnings)


def config_for_url(url: str) -> BridgeConfig:
    """Return the configuration of one server at a URL; its tools keep their names.

    Raises:
        ConfigError: the URL is invalid.
    """
    spec = SpecReader(Checker("--url", {})).remote(url, "", None, {}, Variables({}))
    return _single(spec, urlsplit(url).hostname or "server", f"url:{url}")
