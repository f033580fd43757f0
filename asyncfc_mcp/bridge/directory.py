"""The directory: catalog and routes of the moment, remade in slices when a listing changes and swapped as a whole.

Owns which tools, prompts and resources there are, the names that clients were given, and waiting for listings. Refuses
to ask servers: a `Downstream` keeps its own listings.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import anyio

from asyncfc_mcp.bridge.call_rules import CallRules, call_rules
from asyncfc_mcp.bridge.server_profiles import ServerProfiles
from asyncfc_mcp.bridge.tool_routes import ToolRoute, unknown_placeholders
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.core.catalog import Catalog, Source, ToolEntry
from asyncfc_mcp.core.catalog_builder import CatalogBuilder
from asyncfc_mcp.core.effect_profiles import HINTS, EffectProfile
from asyncfc_mcp.core.names import PAUSE_AFTER, PublishedNames
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.snapshot import LISTINGS, ServerSnapshot
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.errors import UnknownTool
from asyncfc_mcp.signals import Signal, WakeUp
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices

logger = logging.getLogger(__name__)

FIRST_LISTING_S: Final = 10.0
"""Longest time after the start for which a client that asks for lists waits for servers without a cached listing."""
STRAGGLERS_S: Final = 2.0
"""Longest time for which servers that have listed wait for those that have not."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A listing of a server that changed; without a server, whatever another configuration changes."""

    downstream: Downstream | None
    kinds: Collection[str]
    listed: anyio.Event = field(default_factory=anyio.Event)
    """Set when clients see the change."""


class Directory:
    """Keeps one catalog.

    Args:
        config: the servers, with those that are misconfigured.
        downstreams: server → its connection.
        cache: where the listings of each server are kept for the next start.
        reserved: names that no tool may have, those of the bridge's own tools.
        states: server → the part of the state tree in which its state lies.
        starts: the order in which servers are started; it goes on when a client has its first list.
        shapes: returns the descriptions of a server's results, as learned until now.
        lacking: servers that are not among `downstreams`, each with its condition.
        like: another directory of mostly the same servers, whose work is reused.

    Attributes:
        catalog: what is listed at this moment.
        routes: the tools in it.
        published: names that clients were given.
        on_saved: called with each server whose changed listings were kept for the next start.
    """

    def __init__(
        self,
        config: BridgeConfig,
        downstreams: Mapping[str, Downstream],
        cache: ListingCache,
        reserved: Sequence[str],
        states: Mapping[str, ServerState],
        starts: StartQueue,
        shapes: Callable[[str], Mapping[str, str]],
        lacking: Sequence[tuple[str, str]] = (),
        like: "Directory | None" = None,
    ) -> None:
        self._config = config
        self._lacking = lacking
        self._downstreams = downstreams
        self._cache = cache
        self._reserved = reserved
        self._states = states
        self._starts = starts
        self._learned = shapes
        self._shapes = {server: shapes(server) for server in downstreams}
        """Server → tool → description of its results. As they were at the start, or at the last change of its tools: by
        itself what is learned changes no list, which would cost hosts their prompt cache."""
        self.catalog = Catalog()
        self.routes: Mapping[str, ToolRoute] = {}
        self._names: Mapping[tuple[str, str], str] = {}
        self.published = PublishedNames(frozenset(reserved))
        self._rules: tuple[Mapping[str, ToolRoute], CallRules] = {}, CallRules()
        """The last `call_rules`, and the routes that they are about."""
        self._builder: CatalogBuilder = CatalogBuilder() if like is None else like._builder.copy()
        self._routed_in: Mapping[str, ServerState] = {} if like is None else like._routed_in
        """The places of the servers for which the routes were made."""
        self._profiles = ServerProfiles() if like is None else like._profiles
        self._known_routes: Mapping[str, ToolRoute] = {} if like is None else like.routes
        """Routes of another directory, until the first ones of this one are made."""
        self._handed_out = self.catalog
        self._mended: set[str] = set()
        """Servers whose listings the log has said to be mended."""
        self._observers: list[Callable[[frozenset[str]], None]] = []
        self.on_saved: Callable[[str], None] | None = None
        self._changes: list[_Change] = []
        """Changes of listings that are not in the catalog."""
        self._ended = False
        self._changed = WakeUp()
        self._rebuilt = Signal()
        self._restored = anyio.Event()
        """Set when the listings known from earlier runs are in the catalog."""
        self._started_at = 0.0
        self._added_at: dict[str, float] = {}
        """Server that another configuration has brought → the time of that."""

    async def run(self) -> None:
        """Keep the catalog up to date, until cancelled. The connection that brought a change may end meanwhile."""
        self._started_at = anyio.current_time()
        taken: list[_Change] = []
        try:
            await self._rebuild()
            self._restored.set()
            while True:
                await self._changed.wait()
                taken, self._changes = self._changes, []
                await self._take_in(taken)
                for change in taken:
                    change.listed.set()
        finally:
            # Clients that are left see no further change.
            self._ended = True
            self._restored.set()
            for change in (*taken, *self._changes):
                change.listed.set()

    async def _take_in(self, changes: Sequence[_Change]) -> None:
        before = await self._rebuild()
        self._rebuilt.notify_all()
        catalog = self.catalog
        of_servers = {id(each): each for change in changes if (each := change.downstream) is not None}
        for downstream in of_servers.values():
            # Saved only once it has been worked with: a listing that ends the bridge must not end the next start.
            await self._cache.save(downstream.config, downstream.snapshot)
            if any(downstream.listing_problems.values()):
                self._cache.doubt(downstream.config)
            if self.on_saved is not None:
                self.on_saved(downstream.name)
        # A server announces changes that clients may not see: of parts left out, or listed again as they were.
        kinds = {kind for change in changes for kind in change.kinds}
        changed = frozenset(kind for kind in kinds if catalog.entries(kind) != before.entries(kind))
        if "tools" in changed and self._renew_shapes({each.name for each in of_servers.values()}):
            await self._rebuild()
        if changed:
            for observer in self._observers:
                observer(changed)

    def _renew_shapes(self, servers: Set[str]) -> bool:
        """Take the shapes learned until now for servers whose tools clients list again; return whether any is new."""
        before = dict(self._shapes)
        self._shapes |= {server: self._learned(server) for server in servers if server in self._downstreams}
        return self._shapes != before

    async def update(self, downstream: Downstream, kind: str) -> None:
        """Take in a listing of this kind that changed; return when clients see it."""
        await self._queue(_Change(downstream, (kind,)))

    async def reconfigure(self, config: BridgeConfig) -> None:
        """List what another configuration leaves of the servers that there are now; return when clients see it."""
        self._config = config
        self._shapes = {server: self._shapes.get(server) or self._learned(server) for server in self._downstreams}
        self._added_at = {
            name: self._added_at.get(name, anyio.current_time())
            for name, downstream in self._downstreams.items()
            if name in self._added_at or not downstream.known
        }
        await self._queue(_Change(None, tuple(LISTINGS)))

    async def _queue(self, change: _Change) -> None:
        if self._ended:
            return
        self._changes.append(change)
        self._changed.set()
        await change.listed.wait()

    @property
    def downstreams(self) -> Mapping[str, Downstream]:
        """Server → its connection."""
        return self._downstreams

    def observe(self, observer: Callable[[frozenset[str]], None]) -> None:
        """Have `observer` called with the kinds of listings (see `snapshot.LISTINGS`) that changed."""
        self._observers.append(observer)

    # --- asking --------------------------------------------------------------------------------------------------

    def route(
        self, name: str, routes: Mapping[str, ToolRoute] | None = None, among: Callable[[str], bool] | None = None
    ) -> ToolRoute:
        """Return the tool that is listed under this name at this moment.

        Args:
            routes: the tools that may be used; None: all.
            among: returns true for the servers that may be named; None: all.

        Raises:
            UnknownTool: there is none.
        """
        routes = self.routes if routes is None else routes
        route = routes.get(name)
        if route is None:
            known = {server for server, downstream in self._downstreams.items() if downstream.known}
            absent = [(server, why) for server, why in self.unavailable_servers() if server not in known]
            absent = [each for each in absent if among is None or among(each[0])]
            raise UnknownTool(name, [*routes, *self._reserved], absent)
        return route

    def entry_of(self, server: str, tool: str) -> ToolEntry | None:
        """Return the entry of a server's tool; None if it is not listed."""
        name = self._names.get((server, tool))
        return self.catalog.tools.get(name) if name is not None else None

    async def wait_for_tool(
        self,
        name: str,
        routes: Callable[[], Mapping[str, ToolRoute]] | None = None,
        among: Callable[[str], bool] | None = None,
    ) -> ToolRoute:
        """Return the tool with this name as soon as it is listed, or all listings are known.

        Args:
            routes: returns the tools of the moment that may be used; None: all.
            among: see `route`. Only these servers are waited for.

        Raises:
            UnknownTool: there is none.
        """
        routes = routes or (lambda: self.routes)
        if name not in routes():
            async with anyio.create_task_group() as tg:

                async def appear() -> None:
                    while name not in routes():
                        await self._rebuilt.wait()
                    tg.cancel_scope.cancel()

                tg.start_soon(appear)
                await self.wait_for_catalog(among=among)
                tg.cancel_scope.cancel()
        return self.route(name, routes(), among)

    async def wait_for_own_tool(self, server: str, tool: str) -> ToolRoute | None:
        """Return a tool by its own name as soon as it is listed, from this run or an earlier one. None once the server
        has listed its tools without it, or has failed to start; at once without such a server, and after
        `FIRST_LISTING_S` where another replica runs it and has not listed it."""
        await self._restored.wait()
        downstream = self._downstreams.get(server)
        if downstream is None:
            return None
        if (server, tool) not in self._names:
            downstream.wake()
            with anyio.move_on_after(FIRST_LISTING_S if downstream.status is Status.ELSEWHERE else None):
                await downstream.wait_for_listings(("tools",))  # an earlier listing does not count for what it lacks
        name = self._names.get((server, tool))
        return None if name is None else self.routes[name]

    async def wait_for_restored(self) -> None:
        """Return when the listings known from earlier runs are in the catalog."""
        await self._restored.wait()

    async def wait_for_catalog(self, *kinds: str, among: Callable[[str], bool] | None = None) -> Catalog:
        """Return the catalog as soon as every server's listings are known, cached or new, or have failed.

        Waits for the first server until `FIRST_LISTING_S` after the start, and no longer than that for the others, nor
        `STRAGGLERS_S` longer than for the one before: a slow one must not hold up the others' tools, and is announced
        with `list_changed`.

        Args:
            kinds: those that are asked for (see `snapshot.LISTINGS`); tools, if none is named.
            among: returns true for the servers that are waited for; None: all.
        """
        kinds = kinds or ("tools",)
        await self._restored.wait()
        some = [d for name, d in self._downstreams.items() if among is None or among(name)]
        unknown = [d for d in some if not d.has_listings(kinds)]
        since = max((self._added_at.get(each.name, self._started_at) for each in unknown), default=0.0)
        left = since + FIRST_LISTING_S - anyio.current_time()
        if not unknown or left <= 0:
            return self.catalog
        first = anyio.Event()
        if len(unknown) < len(some):
            first.set()

        with anyio.move_on_after(left):
            async with anyio.create_task_group() as tg:

                async def settle(downstream: Downstream) -> None:
                    await downstream.wait_for_listings(kinds)
                    first.set()
                    wait_for_others()

                def wait_for_others() -> None:
                    tg.cancel_scope.deadline = anyio.current_time() + STRAGGLERS_S

                for downstream in unknown:
                    tg.start_soon(settle, downstream)
                await first.wait()
                wait_for_others()
        return self.catalog

    def hand_out(self) -> None:
        """Record that a client was given the names of the catalog: from now on they are of these tools only."""
        self._starts.on_client_answered()
        if self._handed_out is not self.catalog:
            self._handed_out = self.catalog
            self.published.tools |= {name: (entry.server, entry.own_name) for name, entry in self.catalog.tools.items()}
            self.published.prompts |= {
                name: (entry.server, entry.prompt) for name, entry in self.catalog.prompts.items()
            }

    # --- reporting -----------------------------------------------------------------------------------------------

    def snapshots(self) -> dict[str, ServerSnapshot | None]:
        """Return what each server offers, as last seen; None for a server that was never seen."""
        return {name: d.snapshot if d.known else None for name, d in self._downstreams.items()}

    def unavailable_servers(self) -> list[tuple[str, str]]:
        """Return name and condition of every server that is not up, or does not list its tools. One that sleeps counts
        as up, and one that another replica runs if it has listed them."""
        return (
            [(server.name, f"misconfigured: {server.reason}") for server in self._config.unusable]
            + [*self._lacking]
            + [
                (name, d.condition)
                for name, d in self._downstreams.items()
                if d.reason
                or d.listing_problems.get("tools")
                or not (d.status in (Status.READY, Status.SLEEPING) or (d.status is Status.ELSEWHERE and d.known))
            ]
        )

    def sleeping_servers(self) -> list[tuple[str, str]]:
        """Return name and condition of every server that does not run because nothing needs it."""
        return [(name, d.condition) for name, d in self._downstreams.items() if d.status is Status.SLEEPING]

    def conditions(self) -> list[tuple[str, str]]:
        """Return name and condition of every server, in the order of the configuration."""
        return (
            [(server.name, f"misconfigured: {server.reason}") for server in self._config.unusable]
            + [*self._lacking]
            + [(name, d.condition) for name, d in self._downstreams.items()]
        )

    def call_rules(self) -> CallRules:
        """Return what holds for the calls of the tools that are listed at this moment."""
        complete = all(downstream.known for downstream in self._downstreams.values())
        routes, rules = self._rules
        if routes is not self.routes or rules.complete != complete:
            rules = call_rules(self.routes.values(), complete=complete)
            self._rules = self.routes, rules
        return rules

    def unannotated_tools(self) -> list[str]:
        """Return the tools that declare nothing of what they change and are not ordered for that reason."""
        return [name for name, route in self.routes.items() if route.effect.source == "nothing said"]

    def state_of(self, server: str) -> ServerState:
        """Return the part of the state tree in which a server's state lies."""
        return self._states[server]

    def profiles(self) -> dict[str, EffectProfile | None]:
        """Return the effect profile of each server; None where none applies."""
        return {name: self._profile(downstream) for name, downstream in self._downstreams.items()}

    def profile_of(self, server: str) -> EffectProfile | None:
        """Return the effect profile of one server; None where none applies."""
        downstream = self._downstreams.get(server)
        return None if downstream is None else self._profile(downstream)

    def _profile(self, downstream: Downstream) -> EffectProfile | None:
        seen = downstream.snapshot
        return self._profiles.choose(downstream.config.base.profile, seen.info, seen.listing("tools"))

    def notes(self) -> list[str]:
        """Return remarks for `inspect`, on the catalog and on declared state paths."""
        unknown = [
            f"{{{argument}}} in the state paths of {name} is no argument of it"
            for name, route in self.routes.items()
            for argument in unknown_placeholders(route)
        ]
        listings = [
            f"server {name!r}: {problem}"
            for name, downstream in self._downstreams.items()
            for problem in downstream.listing_problems.values()
            if problem
        ]
        return [*self.catalog.notes, *listings, *unknown]

    # --- making --------------------------------------------------------------------------------------------------

    def _sources(self) -> list[Source]:
        return [
            Source(
                downstream.config,
                downstream.snapshot.listing("tools"),
                downstream.snapshot.listing("prompts"),
                downstream.snapshot.listing("resources"),
                downstream.snapshot.listing("resourceTemplates"),
                self._shapes[name],
            )
            for name, downstream in self._downstreams.items()
        ]

    async def _rebuild(self) -> Catalog:
        """Make the catalog anew of what the servers list now, and return the one before it, which counts until then."""
        while True:
            known = self._known_names()
            catalog, routes = await in_slices(self._building(self._sources(), self.profiles()))
            if known == self._known_names():
                break
            # A client was given the old names in the meantime, and none of them may lead elsewhere.
        before, self.catalog, self.routes = self.catalog, catalog, routes
        self._known_routes = {}
        self._names = {(entry.server, entry.tool): name for name, entry in catalog.tools.items()}
        for misfit in catalog.misfits:
            if misfit not in self._mended:
                self._mended.add(misfit)
                logger.warning("%s", misfit)
        for server, remarks in catalog.repairs.items():
            if server not in self._mended:
                self._mended.add(server)
                logger.warning("server %r does not keep to MCP's schema: %s (all: see inspect)", server, remarks[0])
        return before

    def _known_names(self) -> tuple[int, ...]:
        return len(self.published.tools), len(self.published.prompts), len(self.published.aliases)

    def _building(
        self, sources: list[Source], profiles: Mapping[str, EffectProfile | None]
    ) -> Slices[tuple[Catalog, Mapping[str, ToolRoute]]]:
        catalog = yield from self._builder.building(sources, self.published)
        routes: dict[str, ToolRoute] = {}
        overrides = {source.config.name: source.config.overrides for source in sources}
        states = dict(self._states)  # both as at the beginning: the configuration may change between two slices
        for number, (name, entry) in enumerate(catalog.tools.items()):
            known = self.routes.get(name) or self._known_routes.get(name)
            override = overrides[entry.server].get(entry.tool)
            # What the configuration says of a tool by annotations counts more than a profile.
            profile = None if override and not HINTS.isdisjoint(override.annotations) else profiles[entry.server]
            state = states[entry.server]
            if known is not None and self._routed_in.get(entry.server) is state and known.is_current(entry, profile):
                routes[name] = known
                if number % PAUSE_AFTER:
                    continue
            else:
                routes[name] = ToolRoute.of(entry, state, profile)
            yield
        self._routed_in = states
        return catalog, routes
