"""Relay: requests for servers that another replica runs, over the database, and what these servers announce.

Implements `hosting.Relay`. Owns the table `requests`, whose rows live as long as somebody waits for them, and the
bounds on time and size. A notification only says that there is something to read, or to stop; what it said is looked
for from time to time, too. What requests mean is the bridge's.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, LiteralString, cast

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.core.records import FailureRecord
from asyncfc_mcp.engine.hosting import Announcement, RelayedRequest
from asyncfc_mcp.engine.postgres.database import Connection, Database
from asyncfc_mcp.engine.postgres.grouped import Grouped
from asyncfc_mcp.engine.postgres.listener import NOTIFY, Listener, Notification, payloads
from asyncfc_mcp.engine.postgres.results import encoded, parsed_in_slices
from asyncfc_mcp.engine.postgres.rows import escaped, unescaped
from asyncfc_mcp.engine.record_json import failure_json, failure_of, parse
from asyncfc_mcp.engine.recorder import failure_record
from asyncfc_mcp.engine.restoration import failure_of as failure
from asyncfc_mcp.errors import CallFailed, NotRelayed, RunsElsewhere
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 16 << 20
MAX_ANSWER_BYTES: Final = 64 << 20
MAX_PENDING: Final = 1_000
"""Requests of one replica that wait for others."""
MAX_ANNOUNCEMENTS: Final = 200
"""Announcements that wait for being sent; further ones are left out."""
ANSWER_S: Final = 600.0
"""Time limit of a request, as of its start."""
TAKE_S: Final = 15.0
"""Seconds, beside those in which the death of a replica is noticed, until a request fails that no replica takes."""
POLL_S: Final = 1.0
"""Seconds after which answers are looked for without a notification."""
REPEATABLE: Final = frozenset(
    {
        *("prompts/get", "resources/read", "completion/complete"),
        *("resources/subscribe", "resources/unsubscribe", "logging/setLevel"),
    }
)
"""Methods whose requests another replica makes again if the one that was making them has died."""

_ASKED: Final = "asked"
_ANSWERED: Final = "relayed"
_WITHDRAWN: Final = "withdrawn"
_ANNOUNCED: Final = "announced"
_HOSTED: Final = "hosted"

_INSERT: LiteralString = """INSERT INTO requests (id, server, asker, request, made_at)
    VALUES (%(id)s, %(server)s, %(asker)s, %(request)b, now_s()) ON CONFLICT (id) DO NOTHING"""
# Those that were taken before are read again, since the commit of a repeated transaction may have taken place.
_TAKE: LiteralString = """UPDATE requests SET worker = %s
    WHERE (worker IS NULL AND server = ANY(%s::text[])) OR (worker = %s AND answer IS NULL AND failure IS NULL)
    RETURNING id::text, server, asker, request"""
_LOOK: LiteralString = """SELECT id::text, answer, failure, worker IS NOT NULL, worker IS NOT NULL AND NOT EXISTS (
        SELECT FROM replicas WHERE replicas.id = worker AND dead_at IS NULL), now_s() - made_at
    FROM requests WHERE id = ANY(%s::text[]::uuid[])"""
_ANSWER: LiteralString = "UPDATE requests SET answer = %(answer)b, failure = %(failure)b WHERE id = %(id)s"
_FREE: LiteralString = """UPDATE requests SET worker = NULL
    WHERE id = ANY(%s::text[]::uuid[]) AND answer IS NULL AND failure IS NULL"""
_PRUNE: LiteralString = "DELETE FROM requests WHERE made_at < now_s() - 2 * %s"


class _Pending:
    """A request of this replica that has no answer yet."""

    def __init__(self, request: RelayedRequest) -> None:
        self.request = request
        self.written = False
        self.ended = anyio.Event()
        self.answer: bytes | None = None
        self.failed: CallFailed | None = None

    def end(self, answer: bytes | None = None, failed: CallFailed | None = None) -> None:
        self.answer, self.failed = answer, failed
        self.ended.set()


class PostgresRelay:
    """The relay of one replica.

    Args:
        replica: ID of this replica.
        servers: names of all servers that one replica at a time runs.
        owned: returns the servers that this replica runs.
        living: returns the IDs of the living replicas.
        dead_after_s: time in which the death of a replica is noticed.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        *,
        servers: frozenset[str],
        owned: Callable[[], frozenset[str]],
        living: Callable[[], Collection[str]],
        dead_after_s: float,
    ) -> None:
        self._database = database
        self._replica = replica
        self._servers, self._owned, self._living = servers, owned, living
        self._dead_after_s = dead_after_s
        self._heard: dict[str, float] = {}
        """Replica → time of its last request."""
        self.on_announced: list[Callable[[Announcement], None]] = []
        self.on_hosted: list[Callable[[str], None]] = []
        self._pending: dict[str, _Pending] = {}
        self._answered = WakeUp()
        self._making: dict[str, anyio.CancelScope] = {}
        """Requests of other replicas that are being made here."""
        self._absent: set[str] = set()
        """Servers that no replica has run for that long; one request has waited for that, and others need not."""
        self._asked = WakeUp()
        self._announcements = Grouped[str, None](self._announce)
        self._waiting = 0
        """Announcements that wait for being sent."""
        self._over: set[str] = set()
        """Requests of this replica whose rows are to be removed."""
        self._ended = WakeUp()

    def attach(self, listener: Listener) -> None:
        """Take what other replicas announce."""

        # Those of this replica, too: it may run the server by the time at which its own request is taken.
        listener.handle(_ASKED, lambda _: self._asked.set())
        listener.handle(_ANSWERED, self._hear_answer)
        listener.handle(_WITHDRAWN, self._withdrawn)
        listener.handle(_ANNOUNCED, self._announced)
        listener.handle(_HOSTED, lambda notification: self._hosted(notification.data.get("server")))
        listener.on_connected.append(self._connected)

    def _connected(self) -> None:
        """Make up for notifications that may have been lost."""
        self._asked.set()
        self._answered.set()
        for server in self._servers - self._owned():
            self._hosted(server)

    @property
    def replicas(self) -> frozenset[str]:
        # The living are those of the last heartbeat; a replica may have joined since.
        after = anyio.current_time() - self._dead_after_s
        return frozenset({self._replica, *self._living(), *(key for key, at in self._heard.items() if at > after)})

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send and read what the methods leave, until cancelled."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._announcements.run)
            tg.start_soon(self._read_answers)
            tg.start_soon(self._remove)
            task_status.started()

    # --- requests of this replica --------------------------------------------------------------------------------

    async def request(self, request: RelayedRequest) -> Result:
        scope = request.scope
        whose = None if scope is None else [scope.key, scope.listed]
        data = encode({"method": request.method, "params": request.params, "scope": whose})
        if len(data) > MAX_REQUEST_BYTES:
            size = f"the request has {len(data)} bytes; the limit between replicas is {MAX_REQUEST_BYTES}"
            raise NotRelayed(request.server, size)
        if len(self._pending) >= MAX_PENDING:
            raise NotRelayed(request.server, f"{MAX_PENDING} requests wait for other replicas; try again later")
        key, pending = str(uuid.uuid4()), _Pending(request)
        self._pending[key] = pending
        try:
            with anyio.move_on_after(ANSWER_S):
                await self._write(key, request, data)
                pending.written = True
                self._answered.set()  # from now on it is looked for, too
                await pending.ended.wait()
        finally:
            del self._pending[key]
            self._over.add(key)
            self._ended.set()
        if pending.failed is not None:
            raise pending.failed
        if pending.answer is None:
            raise NotRelayed(request.server, f"the replica that runs it has not answered within {ANSWER_S:g} s")
        return await parsed_in_slices(pending.answer)

    async def _write(self, key: str, request: RelayedRequest, data: bytes) -> None:
        async def write(connection: Connection) -> None:
            given = {"id": key, "server": escaped(request.server), "asker": self._replica, "request": data}
            await connection.execute(_INSERT, given)
            await self._notify(connection, payloads(_ASKED, self._replica))

        await self._database.repeating(write)

    async def _notify(self, connection: Connection, texts: Collection[str]) -> None:
        await connection.execute(NOTIFY, (self._database.channel, list(texts)))

    def _hear_answer(self, notification: Notification) -> None:
        if notification.data.get("id") in self._pending:
            self._answered.set()

    async def _read_answers(self) -> None:
        while True:
            with anyio.move_on_after(POLL_S if self._pending else None):
                await self._answered.wait()
            waiting = {key: each for key, each in self._pending.items() if each.written}
            if waiting:
                try:
                    await self._look(waiting)
                except Exception:
                    logger.exception("answers of other replicas could not be read")

    async def _look(self, waiting: Mapping[str, _Pending]) -> None:
        rows = await self._database.fetch(_LOOK, (list(waiting),))
        found = {key: rest for key, *rest in rows}
        left: list[str] = []
        for key, pending in waiting.items():
            request = pending.request
            if key not in found:
                pending.end(failed=NotRelayed(request.server, "the database has lost the request"))
                continue
            answer, failed, taken, lost, age_s = found[key]
            if answer is not None:
                pending.end(bytes(answer))
            elif failed is not None:
                pending.end(failed=failure(failure_of(bytes(failed)), request.method))
            elif lost and request.method in REPEATABLE:
                left.append(key)
            elif lost:
                how = "has ended meanwhile; the request may or may not have taken effect"
                pending.end(failed=NotRelayed(request.server, f"the replica that runs it {how}"))
            elif not taken and age_s > (POLL_S if request.server in self._absent else self._dead_after_s + TAKE_S):
                self._absent.add(request.server)
                pending.end(failed=NotRelayed(request.server, "no replica runs it at the moment (setting owner)"))
        if left:
            await self._free(left)

    async def _free(self, keys: Collection[str]) -> None:
        """Have requests made by another replica than the one that had taken them."""

        async def write(connection: Connection) -> None:
            await connection.execute(_FREE, (list(keys),))
            await self._notify(connection, payloads(_ASKED, self._replica))

        await self._database.repeating(write)

    async def _remove(self) -> None:
        """Remove the rows of requests that have ended, which cancels those that are still being made."""
        while True:
            await self._ended.wait()
            over, self._over = self._over, set()

            async def write(connection: Connection, over: Collection[str] = over) -> None:
                cursor = await connection.execute(
                    """DELETE FROM requests WHERE id = ANY(%s::text[]::uuid[])
                        RETURNING id::text, answer IS NULL AND failure IS NULL""",
                    (list(over),),
                )
                given_up = [key for key, unanswered in await cursor.fetchall() if unanswered]
                texts = [text for key in given_up for text in payloads(_WITHDRAWN, self._replica, id=key)]
                if texts:
                    await self._notify(connection, texts)

            try:
                await self._database.repeating(write)
            except Exception:
                logger.exception("requests that have ended could not be removed")

    async def prune(self) -> None:
        """Remove requests that replicas have left that died."""
        await self._database.fetch(_PRUNE, (ANSWER_S,))

    # --- requests of other replicas ------------------------------------------------------------------------------

    async def serve(self, answer: Callable[[RelayedRequest], Awaitable[Result]]) -> None:
        async with anyio.create_task_group() as tg:
            while True:
                await self._asked.wait()
                owned = [escaped(server) for server in self._owned()]
                if not (owned or self._making):
                    continue
                try:
                    rows = await self._database.fetch(_TAKE, (self._replica, owned, self._replica))
                except Exception:
                    logger.exception("requests of other replicas could not be taken")
                    continue
                taken = {row[0] for row in rows}
                for key in set(self._making) - taken:
                    self._making[key].cancel()  # its notification was lost
                for key, server, asker, request in rows:
                    self._heard[asker] = anyio.current_time()
                    if key not in self._making:
                        self._making[key] = anyio.CancelScope()
                        tg.start_soon(self._make, answer, key, unescaped(server), asker, bytes(request))

    async def _make(
        self,
        answer: Callable[[RelayedRequest], Awaitable[Result]],
        key: str,
        server: str,
        asker: str,
        data: bytes,
    ) -> None:
        result: bytes | None = None
        failed: FailureRecord | None = None
        try:
            with self._making[key]:
                try:
                    found = parse(data)
                    scope = None if found["scope"] is None else Scope(*found["scope"])
                    result = await encoded(
                        await answer(RelayedRequest(server, found["method"], found["params"], scope, asker))
                    )
                    if len(result) > MAX_ANSWER_BYTES:
                        why = f"its answer has {len(result)} bytes; the limit between replicas is {MAX_ANSWER_BYTES}"
                        result, failed = None, failure_record(NotRelayed(server, why))
                except RunsElsewhere:  # it has moved between, and has not got the request
                    return await self._free([key])
                except CallFailed as exc:
                    failed = failure_record(exc)
                except Exception:
                    logger.exception("a request of another replica failed")
                    failed = failure_record(NotRelayed(server, "the request failed at the replica that runs it"))
                await self._reply(key, result, None if failed is None else failure_json(failed))
        finally:
            del self._making[key]

    async def _reply(self, key: str, answer: bytes | None, failed: bytes | None) -> None:
        async def write(connection: Connection) -> None:
            await connection.execute(_ANSWER, {"id": key, "answer": answer, "failure": failed})
            await self._notify(connection, payloads(_ANSWERED, self._replica, id=key))

        await self._database.repeating(write)

    def _withdrawn(self, notification: Notification) -> None:
        if (scope := self._making.get(str(notification.data.get("id")))) is not None:
            scope.cancel()

    # --- announcements -------------------------------------------------------------------------------------------

    def announce(self, announcement: Announcement) -> None:
        scope = announcement.scope
        if self._waiting >= MAX_ANNOUNCEMENTS:
            return
        try:
            texts = payloads(
                _ANNOUNCED,
                self._replica,
                server=announcement.server,
                method=announcement.method,
                params=announcement.params,
                scope=None if scope is None else [scope.key, scope.listed],
            )
        except (ValueError, TypeError, RecursionError) as exc:
            logger.debug("a notification of server %r is not passed on: %s", announcement.server, exc)
            return
        for text in texts:
            self._waiting += 1
            self._announcements.add(text, self._sent)

    def _sent(self, outcome: Exception | None) -> None:
        self._waiting -= 1
        if outcome is not None:
            logger.error("notifications of servers could not be passed on: %s", outcome)

    async def _announce(self, texts: Collection[str]) -> list[None]:
        await self._database.repeating(partial(self._notify, texts=texts))
        return [None] * len(texts)

    def _announced(self, notification: Notification) -> None:
        if notification.by == self._replica:
            return
        data = notification.data
        server, method, params, scope = (data.get(key) for key in ("server", "method", "params", "scope"))
        if not (isinstance(server, str) and isinstance(method, str) and isinstance(params, dict)):
            return
        said = cast("dict[str, Any]", params)
        for observer in tuple(self.on_announced):
            observer(Announcement(server, method, said, None if scope is None else Scope(*scope)))

    # --- hosts ---------------------------------------------------------------------------------------------------

    async def hosted(self, servers: Collection[str]) -> None:
        """Announce that this replica has begun to run servers."""
        self._asked.set()
        texts = [text for server in servers for text in payloads(_HOSTED, self._replica, server=server)]
        if texts:
            await self._database.repeating(partial(self._notify, texts=texts))

    def _hosted(self, server: object) -> None:
        self._absent.discard(str(server))
        for observer in tuple(self.on_hosted):
            observer(str(server))
