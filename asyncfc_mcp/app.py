"""Composition root: engine, servers and the bridge's own tools, put together for one configuration.

Owns wiring only. Reading files and the environment is the command line's job, serving clients that of `transports`.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.host_sessions import HostSession
from asyncfc_mcp.bridge.idleness import ServerDemand, runs_on_demand
from asyncfc_mcp.config.model import ANY_OWNER, BridgeConfig, HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.effects import declared_effect
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_roots import server_states
from asyncfc_mcp.downstream.downstream import Downstream, DownstreamHandler
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.process import Child
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.engine.memory_engine import MemoryEngine
from asyncfc_mcp.errors import ConfigError, EngineNotInstalled
from asyncfc_mcp.housekeeping.log_folder import log_path
from asyncfc_mcp.upstream.metatools import METATOOLS

if TYPE_CHECKING:
    from asyncfc_mcp.bridge.sign_ins import Show, SignIn
    from asyncfc_mcp.downstream.http.authorizer import Authorizer
    from asyncfc_mcp.downstream.oauth.redirect_listener import Callbacks
    from asyncfc_mcp.downstream.oauth.store import CredentialStore
    from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
    from asyncfc_mcp.engine.postgres.administration import Administration
    from asyncfc_mcp.housekeeping.upkeep_record import UpkeepRecord
    from asyncfc_mcp.telemetry.telemetry import Telemetry


def compose(
    config: BridgeConfig,
    *,
    cache: ListingCache | None = None,
    log_folder: Path | None = None,
    echo: TextIO | None = None,
    reaper: Reaper | None = None,
    children: Mapping[str, Child] | None = None,
    ids: FutureIds | None = None,
    journal: Path | None = None,
    shared: bool = True,
    credentials: "CredentialStore | None" = None,
    daemon: bool = False,
    connect_all: bool = False,
    telemetry: "Telemetry | None" = None,
) -> Bridge:
    """Return a bridge for a configuration, to be opened with `Bridge.open`.

    Args:
        cache: the listings last seen; None keeps none.
        log_folder: where each server's stderr goes; None keeps only its tail.
        echo: where stderr lines are repeated (`--verbose`).
        reaper: ends the servers' processes if the bridge is killed; None makes one.
        children: processes of servers that were started ahead, by server.
        ids: numbers of future IDs; None counts from 1 in this run only.
        journal: the file with which futures survive this run; None keeps them in memory only.
        shared: take part as a replica, if the engine is a database of several.
        credentials: the tokens of servers that were signed in to; None: no server is signed in to.
        daemon: the bridge is a daemon, whose servers start when they are needed if the configuration does not say
            otherwise.
        connect_all: start all servers with the bridge, whatever the configuration says.
        telemetry: traces and counts what the bridge does.

    Raises:
        ConfigError: a declared state path is wrong.
        EngineNotInstalled: the packages of the engine are missing.
        DatabaseUnusable: the URL of the database is malformed.
    """
    engine = _engine(config, ids, journal, shared=shared)
    listings = cache or ListingCache(None)
    guard = reaper or Reaper()
    starts = StartQueue(len(config.servers))

    observer = None if telemetry is None else telemetry.servers
    ahead = dict(children or {})

    def connect(bridge: Bridge, server: ServerConfig) -> Downstream:
        is_process = isinstance(server.spec, StdioSpec)
        demand = None
        if not connect_all and runs_on_demand(server, bridge.config, daemon=daemon):
            demand = ServerDemand(server, engine, lambda: bridge.directory.profile_of(server.name), listings)
        return Downstream(
            server,
            bridge,
            capabilities=lambda: bridge.server_requests.capabilities,
            reaper=guard,
            log_path=log_path(log_folder, server.name) if log_folder and is_process else None,
            echo=echo,
            snapshot=listings.load(server),
            child=ahead.pop(server.name, None),
            starts=starts,
            authorizer=_authorizer(server, credentials),
            demand=demand,
            observer=observer,
        )

    def connect_caller(server: ServerConfig, handler: DownstreamHandler, authorizer: "Authorizer") -> Downstream:
        # Neither a snapshot nor a place in the cache: what a caller may see is for this caller only.
        capabilities: Callable[[], Mapping[str, Any]] = lambda: bridge.server_requests.capabilities  # noqa: E731
        return Downstream(
            server,
            handler,
            capabilities=capabilities,
            reaper=guard,
            echo=echo,
            authorizer=authorizer,
            observer=observer,
        )

    def connect_instance(
        server: ServerConfig,
        started: ServerConfig,
        handler: DownstreamHandler,
        session: HostSession,
        snapshot: ServerSnapshot | None,
    ) -> Downstream:
        demand = None
        if runs_on_demand(server, config, daemon=daemon):
            profile = partial(session.profile_of, server)
            demand = ServerDemand(server, engine, profile, listings, session.key)
        name = f"{server.name}.session{session.number}"
        return Downstream(
            server,
            handler,
            capabilities=lambda: session.client.capabilities,
            reaper=guard,
            log_path=log_path(log_folder, name) if log_folder and isinstance(server.spec, StdioSpec) else None,
            echo=echo,
            snapshot=snapshot,
            authorizer=_authorizer(server, credentials),
            demand=demand,
            started=started,
            observer=observer,
        )

    bridge = Bridge(
        config,
        engine,
        connect,
        cache=listings,
        states=_states,
        reserved=tuple(METATOOLS),
        starts=starts,
        reaper=guard,
        connect_caller=connect_caller,
        connect_instance=connect_instance if daemon and config.settings.engine == EMBEDDED else None,
        sign_in=None if credentials is None else _sign_in(lambda: bridge.config, credentials),
    )
    if telemetry is not None:
        _observe(bridge, telemetry)
    return bridge


def _observe(bridge: Bridge, telemetry: "Telemetry") -> None:
    def version_of(server: str) -> str:
        downstream = bridge.downstreams.get(server)
        return "" if downstream is None else downstream.snapshot.protocol_version

    telemetry.servers.version_of = version_of
    telemetry.servers.configure(bridge.config.servers)
    telemetry.watch(lambda: tuple(bridge.engine.unfinished))
    bridge.observe_reload(lambda _: telemetry.servers.configure(bridge.config.servers))
    bridge.engine.observe(telemetry.calls)
    bridge.trace(telemetry.calls)


def start_telemetry(config: BridgeConfig, environ: Mapping[str, str]) -> "Telemetry | None":
    """Return the telemetry that the environment and the settings ask for; None for none. Nothing of OpenTelemetry is
    loaded then."""
    from asyncfc_mcp.telemetry import providers

    settings = config.settings
    return providers.start(environ, setting=settings.telemetry, metrics=settings.metrics, own_tools=tuple(METATOOLS))


def _authorizer(server: ServerConfig, credentials: "CredentialStore | None") -> "Authorizer | None":
    if credentials is None or not isinstance(server.spec, HttpSpec) or server.spec.oauth is None:
        return None
    from asyncfc_mcp.downstream.oauth.bearer import BearerAuthorizer  # most servers need none

    return BearerAuthorizer(server.name, server.spec, credentials)


def _sign_in(config: Callable[[], BridgeConfig], credentials: "CredentialStore") -> "SignIn":
    shared: list[Callbacks] = []

    async def sign_in(server: str, scopes: Sequence[str], show: "Show") -> None:
        from asyncfc_mcp.downstream.oauth.redirect_listener import Callbacks
        from asyncfc_mcp.downstream.oauth.sign_in import sign_in

        if not shared:
            shared.append(Callbacks())  # users may sign in to several servers at once, all at one port
        spec = next(each.spec for each in config().servers if each.name == server)
        assert isinstance(spec, HttpSpec)
        # It listens while the user is being asked. Listening only once they have agreed would leave the port to others
        # until then, but a client may open the browser before it answers, and the browser may return at once.
        await sign_in(server, spec, credentials, scopes=scopes, show=show, callbacks=shared[0])

    return sign_in


def _engine(config: BridgeConfig, ids: FutureIds | None, journal: Path | None, *, shared: bool) -> Engine:
    limits = {server.name: server.limit for server in config.servers}
    several = len(config.servers) > 1
    if shared and config.settings.engine != EMBEDDED:
        try:
            from asyncfc_mcp.engine.postgres.database import Database
            from asyncfc_mcp.engine.postgres.postgres_engine import PostgresEngine
        except ImportError as exc:
            raise EngineNotInstalled(str(exc)) from exc
        owners = {server.name: server.runs_at for server in config.servers if server.runs_at != ANY_OWNER}
        database = Database(config.settings.engine)
        return PostgresEngine(config.settings, limits, database, owners=owners, several_servers=several)
    record = None if journal is None else _journal(journal, config)
    return MemoryEngine(config.settings, limits, ids=ids, several_servers=several, journal=record)


def journal_status(path: Path, config: BridgeConfig) -> dict[str, Any]:
    """Return path, size, futures and bounds of a journal, and its problem if it cannot be used, without using it."""
    return _journal(path, config).inspected()


def recorded_calls(path: Path, query: CallQuery, scope: str = LOCAL.key) -> tuple[list[dict[str, Any]], str | None]:
    """Return the entries of a journal's calls that a query means, newest first, and what `before` has to be for those
    that follow; None after the last. It only reads, also while bridges run, and takes some seconds at most.

    Raises:
        JournalUnreadable: there is no such file, or it cannot be read.
    """
    from asyncfc_mcp.engine.journal import failures, history  # SQLite is loaded only for a journal
    from asyncfc_mcp.monitor.entries import entry_of

    with failures.reading(path):
        page = history.History(path, unfinished=True).page(scope, query, lambda _: True)
    entries = [entry_of(future, 0.0) for future in history.restored(page.records[: query.limit])]
    if len(page.records) > query.limit:
        return entries, entries[-1]["id"]
    return entries, None if page.until is None else f"f{page.until}"


def recorded_scopes(path: Path) -> list[str]:
    """Return the keys of the scopes that a journal has calls of, the one with the newest call first.

    Raises:
        JournalUnreadable: there is no such file, or it cannot be read.
    """
    from asyncfc_mcp.engine.journal import failures, history

    with failures.reading(path):
        return history.History(path).scopes()


def remove_unused_journals(root: Path, now: float, record: "UpkeepRecord") -> None:
    """Remove journals below a folder in which nothing can be wanted any more."""
    from asyncfc_mcp.engine.journal import unused  # SQLite is loaded only for a journal

    unused.remove_unused_journals(root, now, record)


def administration(config: BridgeConfig) -> "Administration":
    """Return the administration of the database that replicas of a configuration share.

    Raises:
        ConfigError: the engine needs no database.
        EngineNotInstalled: its packages are missing.
        DatabaseUnusable: its URL is malformed.
    """
    settings = config.settings
    if settings.engine == EMBEDDED:
        raise ConfigError(
            config.source, "asyncfc.engine", f"found {EMBEDDED!r}", "the URL of a database (postgresql://…)"
        )
    try:
        from asyncfc_mcp.engine.postgres.administration import Administration
    except ImportError as exc:
        raise EngineNotInstalled(str(exc)) from exc
    return Administration(
        settings.engine,
        ttl_s=settings.ttl_s,
        max_bytes=settings.journal_max_bytes,
        dead_after_s=settings.replica_timeout_s,
    )


def _journal(path: Path, config: BridgeConfig) -> "SqliteJournal":
    # SQLite is loaded only for a journal.
    from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal

    settings = config.settings
    # Only a hash is written, since a command or a URL may hold secrets.
    wrapped = hashlib.sha256(os.fsencode(config.identity)).hexdigest()[:32]
    return SqliteJournal(path, configuration=wrapped, ttl_s=settings.ttl_s, max_bytes=settings.journal_max_bytes)


def _states(config: BridgeConfig) -> dict[str, ServerState]:
    """Return the place of each server in the state tree. Every declared state path is read once, so that a wrong one is
    an error of the file and not of a server's listing.

    Raises:
        ConfigError: with the place in the file.
    """
    states = server_states(config.servers)
    for server in config.servers:
        for tool in ("", *server.tool_names):
            policy = server.policy(tool)
            try:
                declared_effect(states[server.name], policy.reads, policy.writes, policy.ordering, None)
            except ConfigError as exc:
                where = f"mcpServers.{server.name}.asyncfc" + (f".tools.{tool}" if tool else "")
                raise ConfigError(config.source, f"{where}.{exc.path}", exc.found, exc.expected) from None
    return states
