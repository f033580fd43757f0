"""Hosts: servers that one replica at a time runs are started here when this replica does, and known here when not.

Owns their start and stop, and the exchange of listings between the replica that runs a server and the others. Leaves
which replica that is to the engine (`engine.hosting`), and keeping a server connected to its `Downstream`.
"""

import logging
from collections.abc import Callable, Mapping

import anyio

from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.snapshot_json import encoding, parse_in_slices
from asyncfc_mcp.engine.hosting import Hosting
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.turns import in_slices

logger = logging.getLogger(__name__)


class Hosts:
    """Runs servers of which one replica at a time runs each.

    Args:
        hosting: says which of them this replica runs.
        downstreams: server → its connection.
        on_lost: called with a server that another replica runs from now on.
    """

    def __init__(self, hosting: Hosting, downstreams: Mapping[str, Downstream], on_lost: Callable[[str], None]) -> None:
        self._hosting = hosting
        self._on_lost = on_lost
        self._downstreams = {name: each for name, each in downstreams.items() if name in hosting.servers}
        self._complete: set[str] = set()
        """Servers that run here and have listed everything once."""
        self._unpublished: set[str] = set()
        self._listed = WakeUp()

    def prepare(self) -> None:
        """Have servers stand by that this replica does not run, so that no start is waited for."""
        for name, downstream in self._downstreams.items():
            if not self._hosting.runs(name):
                downstream.stand_by()

    async def run(self) -> None:
        """Run servers and exchange listings, until cancelled."""
        async with anyio.create_task_group() as tg:
            for downstream in self._downstreams.values():
                tg.start_soon(self._host, downstream)
            tg.start_soon(self._publish)
            tg.start_soon(self._adopt)

    def listed(self, server: str) -> None:
        """Publish the listings of a server that have changed, if it runs here."""
        if server in self._complete:
            self._unpublished.add(server)
            self._listed.set()

    async def _host(self, downstream: Downstream) -> None:
        name, hosting = downstream.name, self._hosting
        while True:
            while not hosting.runs(name):
                await hosting.moved.wait()
            logger.info("server %r is run by this replica", name)
            async with anyio.create_task_group() as tg:
                tg.start_soon(downstream.run)
                tg.start_soon(self._publish_once_listed, downstream)
                while hosting.runs(name):
                    await hosting.moved.wait()
                tg.cancel_scope.cancel()
            self._complete.discard(name)
            downstream.stand_by()
            self._on_lost(name)
            logger.info("server %r is run by another replica", name)

    async def _publish_once_listed(self, downstream: Downstream) -> None:
        await downstream.wait_until_listed()
        self._complete.add(downstream.name)
        self.listed(downstream.name)  # also where nothing has changed since an earlier run

    async def _publish(self) -> None:
        while True:
            await self._listed.wait()
            servers, self._unpublished = self._unpublished, set()
            for server in servers:
                try:
                    parts = await in_slices(encoding(self._downstreams[server].snapshot))
                    await self._hosting.publish(server, b"".join(parts))
                except Exception:
                    logger.exception("the listings of server %r are not known to other replicas", server)

    async def _adopt(self) -> None:
        while True:
            for server, listing in (await self._hosting.published()).items():
                downstream = self._downstreams.get(server)
                if downstream is None:
                    continue
                try:
                    await downstream.adopt(await parse_in_slices(listing))
                except (ValueError, TypeError, RecursionError) as exc:
                    logger.warning("the listings of server %r by another replica are not readable: %s", server, exc)
