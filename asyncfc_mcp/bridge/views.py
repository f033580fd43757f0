"""Views: the part of the directory that each principal may see and use.

Everything above the bridge that lists, looks up or describes something of a server asks a view. Owns the catalog, the
routes and the call rules that are left of the directory's by `core.access`. Leaves the decision to that, and waiting
for listings to `directory`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar, Final
from weakref import WeakSet

from asyncfc_mcp.bridge.call_rules import CallRules, call_rules
from asyncfc_mcp.bridge.caller_connections import CallerConnections
from asyncfc_mcp.bridge.connected import Connected
from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.core.access import Access, AccessRules
from asyncfc_mcp.core.catalog import Catalog
from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.snapshot import ServerSnapshot

MOST_KEPT: Final = 1024
"""Bound on the principals whose views are kept."""
MOST_VIEWS: Final = 64
"""Bound on the views that are found again by their decisions: each holds a part of the catalog."""


class View:
    """All of the directory, where access is not restricted."""

    restricted: ClassVar[bool] = False
    """Something of the directory may be missing here."""

    def __init__(self, directory: Directory, connected: Connected | None = None) -> None:
        self.directory = self._directory = directory
        self.connected = connected
        self.credentials = None if connected is None else connected.key
        """Key of the caller's own connections; None without any."""

    @property
    def downstreams(self) -> Mapping[str, Downstream]:
        """Server → the connection that requests of the principal use, whether or not they may."""
        return self.directory.downstreams

    @property
    def own_servers(self) -> Mapping[str, Downstream]:
        """Servers with a connection of the caller's own."""
        return {} if self.connected is None else self.connected.own

    def credentials_for(self, server: str) -> str | None:
        """Return the key of the connections by which a server is reached; None for one that all callers share."""
        return self.credentials if server in self.own_servers else None

    def serves(self, server: str) -> bool:
        """Return true where a server may be used as a whole, and not only some of its tools."""
        return True

    def touches(self, server: str) -> bool:
        """Return true where anything of a server may be used."""
        return True

    @property
    def catalog(self) -> Catalog:
        """The listings of this moment."""
        return self._directory.catalog

    @property
    def routes(self) -> Mapping[str, ToolRoute]:
        """The tools of this moment, by their listed names."""
        return self._directory.routes

    def of(self, catalog: Catalog) -> Catalog:
        """Return the visible part of a catalog."""
        return catalog

    def call_rules(self) -> CallRules:
        """Return what holds for the calls of the tools that are listed at this moment."""
        return self._directory.call_rules()

    def snapshots(self) -> dict[str, ServerSnapshot | None]:
        """Return what each server offers apart from tools (see `Directory.snapshots`)."""
        return self._directory.snapshots()

    def unavailable_servers(self) -> list[tuple[str, str]]:
        """Return name and condition of every server that is not up (see `Directory.unavailable_servers`)."""
        return self._directory.unavailable_servers()

    def sleeping_servers(self) -> list[tuple[str, str]]:
        """Return name and condition of every server that starts when it is needed (see `Directory`)."""
        return self._directory.sleeping_servers()

    async def wait_for_catalog(self, *kinds: str) -> Catalog:
        """Return the catalog as soon as the listings of these kinds are known (see `Directory.wait_for_catalog`)."""
        return await self._directory.wait_for_catalog(*kinds)

    async def wait_for_tool(self, name: str) -> ToolRoute:
        """Return the tool with this name as soon as it is listed, or all listings are known.

        Raises:
            UnknownTool: there is none.
        """
        return await self._directory.wait_for_tool(name)


class RestrictedView(View):
    """What principals may see to whom the same entries of `access` apply."""

    restricted = True

    def __init__(self, whole: View, access: Access) -> None:
        super().__init__(whole.directory, whole.connected)
        self._access = access
        self._catalog: tuple[Catalog, Catalog] | None = None
        """The last catalog of the directory that was looked at, and the visible part of it."""
        self._routes: tuple[Mapping[str, ToolRoute], Mapping[str, ToolRoute]] | None = None
        """The same of routes."""
        self._rules: tuple[Mapping[str, ToolRoute], CallRules] = {}, CallRules()

    def serves(self, server: str) -> bool:
        return self._access.serves(server)

    def touches(self, server: str) -> bool:
        return self._access.touches(server)

    @property
    def catalog(self) -> Catalog:
        return self.of(self._directory.catalog)

    @property
    def routes(self) -> Mapping[str, ToolRoute]:
        routes = self._directory.routes
        if self._routes is None or self._routes[0] is not routes:
            allows = self._access.allows
            visible = {name: each for name, each in routes.items() if allows(each.entry.server, each.entry.tool)}
            self._routes = routes, visible
        return self._routes[1]

    def of(self, catalog: Catalog) -> Catalog:
        if self._catalog is None or self._catalog[0] is not catalog:
            self._catalog = catalog, catalog.part(self._access.allows, self._access.serves)
        return self._catalog[1]

    def call_rules(self) -> CallRules:
        complete = all(seen is not None for name, seen in self._directory.snapshots().items() if self.touches(name))
        routes, rules = self._rules
        if routes is not self.routes or rules.complete != complete:
            rules = call_rules(self.routes.values(), complete=complete)
            self._rules = self.routes, rules
        return rules

    def snapshots(self) -> dict[str, ServerSnapshot | None]:
        return {name: seen for name, seen in super().snapshots().items() if self.serves(name)}

    def unavailable_servers(self) -> list[tuple[str, str]]:
        return [(name, why) for name, why in super().unavailable_servers() if self.touches(name)]

    def sleeping_servers(self) -> list[tuple[str, str]]:
        return [(name, how) for name, how in super().sleeping_servers() if self.touches(name)]

    async def wait_for_catalog(self, *kinds: str) -> Catalog:
        return self.of(await self._directory.wait_for_catalog(*kinds, among=self.touches))

    async def wait_for_tool(self, name: str) -> ToolRoute:
        return await self._directory.wait_for_tool(name, lambda: self.routes, among=self.touches)


class Views:
    """The view of each principal.

    Args:
        rules: the setting `access`; None where everything may be used.
        callers: connections of callers, where a server has one for each.
    """

    def __init__(
        self, directory: Directory, rules: AccessRules | None, callers: CallerConnections | None = None
    ) -> None:
        self._rules = rules
        self._callers = callers
        self.everything = View(directory)
        """All that principals share."""
        self._common = _Part(self.everything)
        self._of_callers: WeakSet[_Part] = WeakSet()
        """Those of connections, which keep them."""

    def configure(self, rules: AccessRules | None) -> None:
        """Apply another setting `access` from now on, to open connections, too."""
        self._rules = rules
        for part in (self._common, *self._of_callers):
            part.forget()

    def of(self, principal: Principal) -> View:
        """Return what a principal may see and use now; its token may have had other grants before."""
        if self._callers is None:
            return self.everything if self._rules is None else self._common.of(principal, self._rules)
        part = self._part(self._callers.current(principal))
        return part.everything if self._rules is None else part.of(principal, self._rules)

    def whole(self, principal: Principal) -> View:
        """Return all that principals with the same connections may see, which is more than one of them may."""
        if self._callers is None:
            return self.everything
        return self.whole_of(self._callers.current(principal))

    def whole_of(self, connected: Connected | None) -> View:
        """Return all that is reached over the connections of a caller."""
        return self.everything if connected is None else self._part(connected).everything

    def _part(self, connected: Connected | None) -> "_Part":
        if connected is None:
            return self._common
        part = connected.views
        if not isinstance(part, _Part):
            part = connected.views = _Part(View(connected.directory, connected))
            self._of_callers.add(part)
        return part


class _Part:
    """The views of one directory.

    Args:
        everything: all of it.
    """

    def __init__(self, everything: View) -> None:
        self.everything = everything
        self._by_access: OrderedDict[Access, RestrictedView] = OrderedDict()
        self._by_principal: OrderedDict[tuple[object, ...], RestrictedView] = OrderedDict()
        """By all of a principal but its headers, which are kept no longer than their request."""

    def forget(self) -> None:
        """Work out every view anew."""
        self._by_access.clear()
        self._by_principal.clear()

    def of(self, principal: Principal, rules: AccessRules) -> View:
        key = principal.scope.key, principal.name, principal.grants
        view = self._by_principal.get(key)
        if view is None:
            access = rules.of(principal)
            view = self._by_access.get(access)
            if view is None:
                view = self._by_access[access] = RestrictedView(self.everything, access)
                if len(self._by_access) > MOST_VIEWS:
                    self._by_access.popitem(last=False)
                    self._by_principal.clear()
            self._by_principal[key] = view
            if len(self._by_principal) > MOST_KEPT:
                self._by_principal.popitem(last=False)
        return view
