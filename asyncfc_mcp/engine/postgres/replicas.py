"""Replicas that share a database: which of them live, and which one owns a server that is pinned to one replica.

Owns the tables `replicas` and `pins`. A replica that dies is noticed by the others, since its heartbeats end; one of
them takes care of what it leaves (`on_dead`). What that is, and running servers, is left to the engine.

Times are the database's, since clocks of machines differ. A heartbeat is too old only if the database and the replica
that judges were there meanwhile: after an interruption for all, all heartbeats are old, and nobody has died.

A death is recorded before anyone acts on it, and one living replica at a time acts on it. The dead one may have been
suspended and continue: it then finds its own death, waits until the others are done with it, and registers again.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, LiteralString

import anyio
import psycopg
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from asyncfc_mcp.engine.postgres.database import Connection, Database, reason
from asyncfc_mcp.engine.postgres.listener import Listener, notify
from asyncfc_mcp.engine.postgres.rows import escaped, unescaped

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
DEAD_AFTER_S: Final = 30.0
LEAVE_S: Final = 3.0
"""Maximum seconds for signing off at the end."""
LEFT: Final = "left"
"""Kind of the notification that a replica has signed off."""
AUTO: Final = "auto"
"""Owner of a pinned server: any replica, one at a time."""

_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""Goes on while the machine sleeps."""
_NOW: LiteralString = "now_s()"
UP_SINCE: LiteralString = "extract(epoch FROM pg_postmaster_start_time())::float8"
_LIVING: LiteralString = "SELECT id FROM replicas WHERE dead_at IS NULL"

_REGISTER: LiteralString = f"""INSERT INTO replicas (id, name, started_at, seen_at, steady_since)
    VALUES (%(id)s, %(name)s, {_NOW}, {_NOW}, CASE WHEN %(again)s THEN {_NOW} ELSE 0 END)
    ON CONFLICT (id) DO NOTHING"""

# A dead replica's heartbeats go on, too: it may be the only one left to judge the others. A gap counts from half
# of the limit on, so that what the others missed meanwhile is less than the limit.
_BEAT: LiteralString = f"""WITH before AS (SELECT id, seen_at, steady_since, {_NOW} AS now FROM replicas
        WHERE id = %(id)s FOR UPDATE)
    UPDATE replicas r SET seen_at = now,
        steady_since = CASE WHEN now - before.seen_at > %(limit)s / 2 THEN now ELSE before.steady_since END
    FROM before WHERE r.id = before.id RETURNING r.dead_at IS NULL"""

_REVIVE: LiteralString = f"""UPDATE replicas SET dead_at = NULL, handler = NULL
    WHERE id = %(id)s AND dead_at IS NOT NULL AND NOT EXISTS ({_LIVING}) RETURNING id"""

_FIND_DEAD: LiteralString = f"""UPDATE replicas SET dead_at = coalesce(dead_at, {_NOW}), handler = %(id)s
    WHERE id IN (
        SELECT r.id FROM replicas r JOIN replicas own ON own.id = %(id)s AND own.seen_at > {_NOW} - %(limit)s / 2
            WHERE r.id <> %(id)s AND CASE
                WHEN r.dead_at IS NULL
                THEN greatest(r.seen_at, own.steady_since, {{up_since}}) < {_NOW} - %(limit)s
                ELSE r.handler = %(id)s OR NOT EXISTS ({_LIVING} AND id = r.handler) END
            FOR UPDATE OF r SKIP LOCKED)
    RETURNING id"""

# Replicas whose futures nobody would take over: they were forgotten, and had not noticed.
_ADD_UNKNOWN: LiteralString = f"""INSERT INTO replicas (id, name, started_at, seen_at, steady_since, dead_at)
    SELECT id, '', 0, 0, 0, {_NOW}
        FROM (SELECT owner FROM futures WHERE ended_at IS NULL UNION SELECT worker FROM futures WHERE ended_at IS NULL)
            AS of_futures (id)
        WHERE id IS NOT NULL AND NOT EXISTS (SELECT FROM replicas r WHERE r.id = of_futures.id)
    ON CONFLICT (id) DO NOTHING"""

_FORGET: LiteralString = "DELETE FROM replicas WHERE id = ANY(%(dead)s) AND handler = %(id)s AND dead_at IS NOT NULL"

# The replica that owns a server, or takes it: a name is that of the only replica that may have it.
_TAKE: LiteralString = f"""INSERT INTO pins (server, replica, since)
    SELECT server, %(id)s, {_NOW} FROM unnest(%(servers)s::text[], %(owners)s::text[]) AS wanted (server, owner)
        WHERE EXISTS ({_LIVING} AND id = %(id)s AND (owner IS NULL OR name = owner))
        ORDER BY server
    ON CONFLICT (server) DO UPDATE SET replica = EXCLUDED.replica, since = EXCLUDED.since
        WHERE NOT EXISTS ({_LIVING} AND id = pins.replica AND name = coalesce(
            (%(owners)s::text[])[array_position(%(servers)s::text[], pins.server)], name))"""

_OWNERS: LiteralString = f"""SELECT server, replica
    FROM pins JOIN unnest(%(servers)s::text[], %(owners)s::text[]) AS wanted (server, owner) USING (server)
    WHERE EXISTS ({_LIVING} AND id = pins.replica AND (owner IS NULL OR name = owner))"""


def _now_s() -> float:
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


class Replicas:
    """This replica among the others.

    Args:
        database: open as long as `run` runs.
        replica: ID of this replica, of which there is no other one, ever.
        name: configured name of this replica; several may have the same, one after another.
        on_dead: called with the IDs of dead replicas; again until it returns, and then they are forgotten. What it does
            must be safe to repeat.
        on_revived: called after the others took this replica for dead and have taken over what it had; again until it
            returns.
        pinned: owner of each pinned server: `AUTO`, or the name of a replica.
        on_owned: called with the pinned servers that this replica owns, whenever they have changed; again until it
            returns.
        interval_s: seconds between heartbeats.
        dead_after_s: age of the last heartbeat from which a replica is dead; several times `interval_s`, and the same
            in all replicas.

    Attributes:
        names: names of the living replicas by ID, as of the last heartbeat.
        owned: pinned servers that this replica owns, as of the last look.
        up_since: SQL for the time since when the database has been there.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        name: str,
        *,
        on_dead: Callable[[Collection[str]], Awaitable[None]],
        on_revived: Callable[[], Awaitable[None]],
        pinned: Mapping[str, str] | None = None,
        on_owned: Callable[[frozenset[str]], Awaitable[None]] | None = None,
        interval_s: float = INTERVAL_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self.replica, self.name = replica, name
        self.names: Mapping[str, str] = {}
        self.owned: frozenset[str] = frozenset()
        self.up_since: LiteralString = UP_SINCE
        self._database = database
        self._on_dead, self._on_revived, self._on_owned = on_dead, on_revived, on_owned
        self._pinned = dict(pinned or {})
        self._interval_s, self._dead_after_s = interval_s, dead_after_s
        self._seen_s = -math.inf
        """When the last heartbeat was sent that others have seen, by a clock that goes on while this is suspended."""
        self._revived = False
        """`on_revived` has not returned yet."""
        self._taken_for_dead = False
        self._next_unknown = 0.0
        self._wake = anyio.Event()
        self._held = False

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Register this replica, and look after it and the others until cancelled. Started once it is registered, and
        has the pinned servers that nobody has; at the end it is signed off."""
        await self.register()
        await self._take_pinned()
        task_status.started()
        try:
            async with anyio.create_task_group() as tasks:
                # Apart, so that heartbeats go on while callbacks take their time.
                tasks.start_soon(self._repeat, self.beat, False)
                tasks.start_soon(self._repeat, self.look, True)
        finally:
            await self.leave()

    async def _repeat(self, step: Callable[[], Awaitable[None]], may_be_woken: bool) -> None:
        while True:
            wake = self._wake
            try:
                await step()
            except psycopg.Error as exc:  # not an interruption, after which statements are repeated
                logger.error("replica %s: %s", self.name, reason(exc))
            with anyio.move_on_after(self._interval_s):
                if may_be_woken:
                    await wake.wait()
                else:
                    await anyio.sleep_forever()

    def attach(self, listener: Listener) -> None:
        """Look as soon as another replica has left; without this, it is found with the next look."""
        listener.handle(LEFT, lambda notification: self.wake())

    def wake(self) -> None:
        """Look for dead replicas and free servers now."""
        wake, self._wake = self._wake, anyio.Event()
        wake.set()

    def hold(self) -> None:
        """Take no further pinned servers: this replica is about to leave."""
        self._held = True

    # --- this replica --------------------------------------------------------------------------------------------

    async def register(self) -> None:
        """Add this replica to the living."""
        before = _now_s()
        await self._execute(_REGISTER, again=False)
        self._seen_s = before
        await self._read_names()

    async def beat(self) -> None:
        """Record that this replica lives, and read which others do."""
        before = _now_s()
        if await self._execute(_BEAT, limit=self._dead_after_s) == [(True,)]:
            self._seen_s = before
        else:
            await self._return()
        await self._read_names()

    @property
    def lives(self) -> bool:
        """False where others may have taken this replica for dead, though it does not know it: it was suspended, or had
        no database."""
        return _now_s() - self._seen_s < self._dead_after_s

    async def confirm(self) -> None:
        """Return once this replica is known to live."""
        while True:
            try:
                await self.beat()
            except psycopg.Error as exc:
                logger.error("replica %s: %s", self.name, reason(exc))
            if self.lives:
                return
            await anyio.sleep(self._interval_s)

    async def _return(self) -> None:
        """Register again, unless others are still taking over what this replica had. What they take over while it
        lives again would be taken from it a second time."""
        if not self._taken_for_dead:
            self._taken_for_dead = True
            logger.warning("replica %s was taken for dead by the others", self.name)
        revived = bool(await self._execute(_REVIVE))
        if not revived:
            await self._execute(_REGISTER, again=True)
            revived = await self._execute(_BEAT, limit=self._dead_after_s) == [(True,)]
        if revived:
            logger.warning("replica %s takes part again", self.name)
            self._taken_for_dead, self._revived = False, True
            self.wake()

    async def leave(self) -> None:
        """Sign off, so that no replica waits for heartbeats. Without a database the others notice it by these."""
        with anyio.move_on_after(LEAVE_S, shield=True) as scope:
            await self._execute("DELETE FROM pins WHERE replica = %(id)s")
            await self._execute("DELETE FROM replicas WHERE id = %(id)s AND dead_at IS NULL")
            await notify(self._database, LEFT, self.replica)
        if scope.cancelled_caught:
            logger.warning("replica %s could not be signed off: the database does not respond", self.name)

    # --- the others ----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Take care of dead replicas, of this one's return, and of pinned servers."""
        await self._find_dead()
        if self._revived and await self._succeeds("on_revived", self._on_revived()):
            self._revived = False
        await self._take_pinned()

    async def _find_dead(self) -> None:
        if anyio.current_time() >= self._next_unknown:
            self._next_unknown = anyio.current_time() + self._dead_after_s
            await self._execute(_ADD_UNKNOWN)
        query = _FIND_DEAD.format(up_since=self.up_since)
        dead = [row[0] for row in await self._execute(query, limit=self._dead_after_s)]
        if not dead:
            return
        logger.warning("replicas without a heartbeat for %g s: %s", self._dead_after_s, ", ".join(dead))
        if await self._succeeds("on_dead", self._on_dead(dead)):
            await self._execute(_FORGET, dead=dead)

    async def _read_names(self) -> None:
        rows = await self._execute("SELECT id, name FROM replicas WHERE dead_at IS NULL")
        self.names = {row[0]: unescaped(row[1]) for row in rows}

    async def _succeeds(self, what: str, callback: Awaitable[None]) -> bool:
        try:
            await callback
        except Exception:
            logger.exception("%s failed, and is repeated", what)
            return False
        return True

    # --- pinned servers ------------------------------------------------------------------------------------------

    async def owner_of(self, server: str) -> str | None:
        """Return the ID of the replica that owns a pinned server; this one's if it is free and may be had. None if the
        only replica that may have it does not live."""
        return (await self._owners([server])).get(server)

    async def _owners(self, servers: Collection[str]) -> dict[str, str]:
        wanted = {
            "servers": list(map(escaped, servers)),
            "owners": [None if (owner := self._pinned.get(each, AUTO)) == AUTO else escaped(owner) for each in servers],
        }

        async def take(connection: Connection) -> list[tuple[Any, ...]]:
            given = {"id": self.replica, **wanted}
            await connection.execute(_TAKE, given)
            return await (await connection.execute(_OWNERS, given)).fetchall()

        return {unescaped(server): owner for server, owner in await self._database.repeating(take)}

    async def _take_pinned(self) -> None:
        if not self._pinned or self._held:
            return
        owners = await self._owners(self._pinned)
        owned = frozenset(server for server, owner in owners.items() if owner == self.replica)
        if owned == self.owned:
            return
        if self._on_owned is None or await self._succeeds("on_owned", self._on_owned(owned)):
            self.owned = owned

    async def _execute(self, query: LiteralString, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement of its own, again until it is committed; return its rows."""
        given = {"id": self.replica, "name": escaped(self.name), **parameters}

        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, given)
            return await cursor.fetchall() if cursor.description is not None else []

        return await self._database.repeating(run)
