"""Servers of which one replica at a time runs each: where they run, and what they have listed.

Implements `hosting.Hosting`. Owns the table `listings`. Leaves to `replicas` which replica owns a server, and what
passes between that one and the others to `relay`.
"""

import logging
from collections.abc import Callable, Collection, Mapping

from asyncfc_mcp.engine.postgres.database import Connection, Database
from asyncfc_mcp.engine.postgres.listener import NOTIFY, Listener, Notification, payloads
from asyncfc_mcp.engine.postgres.relay import PostgresRelay
from asyncfc_mcp.engine.postgres.rows import escaped, unescaped
from asyncfc_mcp.signals import Signal, WakeUp

logger = logging.getLogger(__name__)

_PUBLISH = """INSERT INTO listings (server, version, data)
    SELECT server, 1, %(data)b FROM pins WHERE server = %(server)s AND replica = %(replica)s
    ON CONFLICT (server) DO UPDATE SET version = listings.version + 1, data = EXCLUDED.data
        WHERE listings.data IS DISTINCT FROM EXCLUDED.data
    RETURNING version"""


class SharedServers:
    """Pinned servers, as one replica sees them.

    Args:
        replica: ID of this replica.
        servers: names of all pinned servers.
        living: returns the IDs of the living replicas.
        dead_after_s: time in which the death of a replica is noticed.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        servers: Collection[str],
        *,
        living: Callable[[], Collection[str]],
        dead_after_s: float,
    ) -> None:
        self._database = database
        self._replica = replica
        self.servers = frozenset(servers)
        self.moved = Signal()
        self._owned: frozenset[str] = frozenset()
        self._versions: dict[str, int] = {}
        """Server → version of its listing that is known here."""
        self._changed = WakeUp()
        self._changed.set()
        self.relay = PostgresRelay(
            database,
            replica,
            servers=self.servers,
            owned=lambda: self._owned,
            living=living,
            dead_after_s=dead_after_s,
        )
        self.run = self.relay.run

    def attach(self, listener: Listener) -> None:
        """Take what other replicas announce."""
        self.relay.attach(listener)
        listener.handle("listing", self._announced)
        listener.on_connected.append(self._changed.set)

    def _announced(self, notification: Notification) -> None:
        if notification.by != self._replica:
            self._changed.set()

    async def own(self, servers: frozenset[str]) -> None:
        """Run these servers here from now on, and no others."""
        gained, lost, self._owned = servers - self._owned, self._owned - servers, servers
        for server in lost:
            self._versions.pop(server, None)  # what another replica has published meanwhile was not taken in
        self._changed.set()
        self.moved.notify_all()
        await self.relay.hosted(gained)

    def runs(self, server: str) -> bool:
        return server in self._owned

    # --- listings ------------------------------------------------------------------------------------------------

    async def publish(self, server: str, listing: bytes) -> None:
        async def write(connection: Connection) -> int | None:
            given = {"server": escaped(server), "replica": self._replica, "data": listing}
            row = await (await connection.execute(_PUBLISH, given)).fetchone()
            if row is None:
                return None
            await connection.execute(NOTIFY, (self._database.channel, payloads("listing", self._replica)))
            return row[0]

        version = await self._database.repeating(write)
        if version is not None:
            self._versions[server] = version

    async def published(self) -> Mapping[str, bytes]:
        while True:
            await self._changed.wait()
            if found := await self._read():
                return found

    async def _read(self) -> dict[str, bytes]:
        """Return the listings of which an earlier version is known, or none."""
        names = list(map(escaped, self.servers))
        versions = await self._database.fetch(
            "SELECT server, version FROM listings WHERE server = ANY(%s::text[])", (names,)
        )
        new = {unescaped(name): version for name, version in versions if self._versions.get(unescaped(name)) != version}
        found: dict[str, bytes] = {}
        for server, version in new.items():
            rows = await self._database.fetch("SELECT data FROM listings WHERE server = %s", (escaped(server),))
            if rows:
                # If it has changed since, its version is read again with the notification of that.
                found[server] = bytes(rows[0][0])
                self._versions[server] = version
        return found
