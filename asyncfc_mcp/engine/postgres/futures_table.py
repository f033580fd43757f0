"""The table `futures`: every statement that creates, claims, ends, finds or drops futures of all replicas.

Owns what is a transaction. A method returns once its transaction is committed; one whose connection broke is repeated
until the database is back, in a way that nothing happens twice: each change that another replica could make as well
leaves a token, by which its repetition recognises it. Leaves when a call may start to the scheduler of the replica that
submitted it, and running it to `execution`. Changes of several statements are `functions` of the database.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, LiteralString
from uuid import uuid4

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import FailureRecord, FutureRecord
from asyncfc_mcp.core.waits import Wait
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.listener import payloads
from asyncfc_mcp.engine.postgres.rows import (
    SELECTED,
    Row,
    column_of,
    effect_json,
    escaped,
    key,
    new_columns,
    readable,
    unescaped,
)
from asyncfc_mcp.engine.record_json import call_json
from asyncfc_mcp.errors import NameInUse
from asyncfc_mcp.values.text import encode

_SAME_NAME: Final = 2_000
"""Maximum futures of one name that are looked at."""
CHUNK: Final = 500
"""Maximum futures that one transaction drops."""
ROW_BYTES: Final = 1_000
"""Approximate space of a future with its entries in the indexes."""
_BYTES: Final = "f.size + 1000"

_SUBMIT: Final = "SELECT place, of_seq, of_id, since, existed FROM submit_futures(%s::json, %b::bytea[], %s, %s)"
_END: Final = "SELECT place FROM end_futures_2(%s::json, %b::bytea[], %s, %s, %s)"
_FROM_CALLS: Final = "FROM futures f LEFT JOIN calls c ON c.seq = f.seq"
_RUNNING: Final = "f.ended_at IS NULL AND f.state IN ('running', 'input_required')"
_READ: Final = "f.ended_at IS NOT NULL AND f.read_at IS NOT NULL"
_UNREAD: Final = "f.ended_at IS NOT NULL AND f.read_at IS NULL"


@dataclass(slots=True)
class NewFuture:
    """A future that is to be submitted."""

    token: str
    """Unique (a UUID): repeating a submission whose commit was not confirmed creates nothing twice."""
    record: FutureRecord
    """With `call`, unless it is private. Its ID is empty where the table gives the next number of the scope.
    `submitted_at` is ignored: all times are the database's, since clocks of replicas differ."""
    effect: Effect
    """As recorded (without secrets of the configuration)."""
    stops: bool = False
    """See `Row.stops`."""


@dataclass(slots=True)
class Submitted:
    """Outcome of one transaction of submissions."""

    rows: list[Row | Exception]
    """For each of the batch, in its order: the row (without `call`), or why it was refused (`NameInUse`)."""
    others: list[Row]
    """Unfinished futures with a `seq` above the one that was known, and which are not in the batch, in that order."""
    last: int
    """The highest `seq` in the table at the commit; what was known is now known up to here."""


@dataclass(slots=True)
class Ready:
    """A call that lacks nothing but a place at its server."""

    seq: int
    server: str
    tool: str
    """The tool's name downstream: `max_concurrency` of a tool is counted by it."""
    queue: str
    """Queue of its job (see `jobs`)."""
    server_limit: int | None = None
    """`max_concurrency` of its server over all replicas; None without one."""
    tool_limit: int | None = None
    share: float = 1.0
    """Share of its party in both (see `retention.allowance`)."""
    waits: tuple[Wait, ...] = ()
    """What it has waited for."""


@dataclass(slots=True)
class Ending:
    """The end of a future."""

    seq: int
    state: State
    ran: bool
    """True from the replica that runs it: written if that is `worker`, and it has not ended. False for one that has not
    started: written if it still waits."""
    failure: FailureRecord | None = None
    cause: str | None = None
    result: bytes | None = None
    """As JSON."""
    private: bool = False
    """There is a result, which is not written."""
    size: int = 0
    read: bool = False
    """Its client has it already."""
    waits: tuple[Wait, ...] = ()
    """What it has waited for, as far as this replica knows; empty leaves what was written before."""
    attempts: int = 1


class FuturesTable:
    """Futures of all replicas that share a database.

    Args:
        database: connections and transactions.
        replica: this replica's ID.
    """

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica

    # --- submission ----------------------------------------------------------------------------------------------

    async def submit(self, batch: Sequence[NewFuture], known: int) -> Submitted:
        """Create futures in the order of `batch`, behind all others. One transaction at a time does this, over all
        replicas, so that the order of `seq` is the order of commits, and no lower `seq` appears later.

        A record with a name is refused where an unfinished future of the same scope, namer and name exists.
        Notifies `submitted` with the last `seq`.

        Args:
            known: the highest `seq` that this replica knows.

        Raises:
            ValueError, TypeError: a value cannot be JSON. Nothing was submitted.
        """
        columns = [
            {**new_columns(new.record), "token": new.token, "effect": effect_json(new.effect, new.stops)}
            for new in batch
        ]
        calls = [None if new.record.call is None else call_json(new.record.call) for new in batch]
        found = await self._database.fetch(_SUBMIT, (encode(columns).decode(), calls, known, self._replica))
        rows: list[Row | Exception] = [LookupError("not submitted")] * len(batch)
        last, again, others = known, dict[int, int](), list[int]()
        for number, seq, future_id, since, existed in found:
            place: int = -1 if number is None else number - 1
            if number is None:
                others.append(seq)
            elif number == 0:
                last = seq
            elif seq is None:
                rows[place] = NameInUse(batch[place].record.name or "", unescaped(future_id))
            elif existed:
                again[seq] = place
            else:
                record = replace(batch[place].record, id=unescaped(future_id), submitted_at=since, call=None)
                new = batch[place]
                rows[place] = Row(seq, record, new.effect, self._replica, None, False, new.stops)
        if again or others:
            present = await self.rows([*again, *others])
            for seq, place in again.items():
                rows[place] = present.get(seq, rows[place])
            unfinished = [present[seq] for seq in others if seq in present and present[seq].record.ended_at is None]
            return Submitted(rows, unfinished, last)
        return Submitted(rows, [], last)

    async def newer(self, known: int) -> tuple[list[Row], int]:
        """Return the unfinished futures of other replicas (owner is not this one) with a `seq` above `known`, and the
        highest `seq` in the table, none of whose predecessors can still be uncommitted."""
        # One snapshot: submissions are committed in the order of `seq`, so it has all up to the highest.
        found = await self._database.fetch(
            f"""SELECT last, {SELECTED} FROM (SELECT coalesce(max(seq), 0) AS last FROM futures) l
                LEFT JOIN futures f ON f.seq > %s AND f.ended_at IS NULL AND f.owner IS DISTINCT FROM %s
                ORDER BY f.seq""",
            (known, self._replica),
        )
        return readable(columns[1:] for columns in found if columns[1] is not None), max(known, found[0][0])

    async def make_ready(self, batch: Sequence[Ready]) -> None:
        """Record that these calls lack nothing but a place, and give places: in order of `seq` within the limits of the
        server and of the tool, over all replicas. A call that gets a place gets a job in the same transaction. One that
        does not wait any more is ignored."""
        columns = [
            {
                "seq": ready.seq,
                "server": escaped(ready.server),
                "tool": key(ready.tool),
                "queue": escaped(ready.queue),
                "server_limit": ready.server_limit,
                "tool_limit": ready.tool_limit,
                "share": ready.share,
                "waits": column_of("waits", ready.waits),
            }
            for ready in batch
        ]
        await self._database.fetch("SELECT ready_futures_2(%s::json)", (encode(columns).decode(),))

    # --- execution -----------------------------------------------------------------------------------------------

    async def claim(self, seq: int) -> Row | None:
        """Record that this replica is about to send a call; return it with its `call`. None where it is not waiting
        with a place any more: another replica has it, or had it, or it was cancelled. Notifies `changed`."""
        token = str(uuid4())
        found = await self._database.fetch(
            f"""WITH changed AS (
                    UPDATE futures f SET state = 'running', worker = %s, start_token = %s,
                        started_at = greatest(now_s(), f.submitted_at)
                    WHERE f.seq = %s AND f.ended_at IS NULL AND f.placed
                        AND (f.state = 'waiting' OR f.start_token = %s)
                    RETURNING f.*
                )
                SELECT {SELECTED}, c.json, pg_notify(%s, %s) FROM changed f LEFT JOIN calls c ON c.seq = f.seq""",
            (self._replica, token, seq, token, self._database.channel, self._changed(seq)),
        )
        return next(iter(readable(columns[:-1] for columns in found)), None)

    async def end(self, batch: Sequence[Ending]) -> list[bool]:
        """Record ends; return for each whether it was written (see `Ending.ran`). The places of those that had one go
        to the next ready calls, whose jobs are made in the same transaction. Notifies `changed`.

        Repeated after a broken connection, an end that was written before counts as written.

        Raises:
            ValueError, TypeError: a failure's data cannot be JSON. Nothing was written.
        """
        return await self._end(batch, self._replica)

    async def _end(self, batch: Sequence[Ending], worker: str | None) -> list[bool]:
        columns = [
            {
                "seq": ending.seq,
                "ran": ending.ran,
                "state": ending.state.value,
                "read": ending.read,
                "cause": column_of("cause", ending.cause),
                "failure": column_of("failure", ending.failure),
                "private": ending.private,
                "has_result": ending.result is not None,
                "size": ending.size,
                "waits": column_of("waits", ending.waits),
                "attempts": ending.attempts,
            }
            for ending in batch
        ]
        results = [ending.result for ending in batch]
        found = await self._database.fetch(
            _END, (encode(columns).decode(), results, worker, str(uuid4()), self._replica)
        )
        written = {place for (place,) in found}
        return [place in written for place in range(1, len(batch) + 1)]

    async def update_running(self, seq: int, columns: Mapping[str, Any]) -> bool:
        """Change columns (`state`, `round`) of a future that this replica runs; return whether it does. Notifies
        `changed`.

        Raises:
            ValueError, TypeError: a value cannot be JSON.
        """
        if unknown := columns.keys() - {"state", "round"}:
            raise ValueError(f"columns that do not change while a call runs: {', '.join(unknown)}")
        values = {name: column_of(name, value) for name, value in columns.items()}
        found = await self._database.fetch(
            f"""WITH changed AS (
                    UPDATE futures f SET state = coalesce(%s, f.state), round = CASE WHEN %s THEN %s ELSE f.round END
                    WHERE f.seq = %s AND f.worker = %s AND {_RUNNING}
                    RETURNING f.seq
                )
                SELECT pg_notify(%s, %s) FROM changed""",
            (
                *(values.get("state"), "round" in values, values.get("round")),
                *(seq, self._replica, self._database.channel, self._changed(seq)),
            ),
        )
        return bool(found)

    async def request_cancel(self, seq: int) -> None:
        """Have a future cancelled that another replica runs: `cancelled` is set, and `cancel` is notified."""
        (payload,) = payloads("cancel", self._replica, [seq])
        await self._database.fetch(
            """WITH changed AS (
                    UPDATE futures SET cancelled = true WHERE seq = %s AND ended_at IS NULL RETURNING seq
                )
                SELECT pg_notify(%s, %s) FROM changed""",
            (seq, self._database.channel, payload),
        )

    # --- reading -------------------------------------------------------------------------------------------------

    async def rows(self, seqs: Collection[int]) -> dict[int, Row]:
        """Return these futures; those that were dropped are missing."""
        if not seqs:
            return {}
        found = await self._database.fetch(f"SELECT {SELECTED} FROM futures f WHERE f.seq = ANY (%s)", (list(seqs),))
        return {row.seq: row for row in readable(found)}

    async def find(self, scope: str, ids: Collection[str], names: Collection[str]) -> list[Row]:
        """Return the futures of a scope with these IDs, and those with these names: of each name and namer the last
        one, and every unfinished one. In order of `seq`."""
        of_scope = escaped(scope)
        return await self._select(
            f"""SELECT {SELECTED} FROM futures f WHERE f.seq = ANY (ARRAY(
                    SELECT i.seq FROM futures i WHERE i.scope = %s AND i.id = ANY (%s)
                    UNION ALL
                    SELECT u.seq FROM futures u
                        WHERE u.scope = %s AND u.name = ANY (%s) AND u.name IS NOT NULL AND u.ended_at IS NULL
                    UNION ALL
                    SELECT l.seq FROM unnest(%s::text[]) AS wanted CROSS JOIN LATERAL (
                        SELECT DISTINCT ON (recent.namer) recent.seq FROM (
                            SELECT n.seq, n.namer FROM futures n
                                WHERE n.scope = %s AND n.name = wanted AND n.name IS NOT NULL
                                ORDER BY -n.seq LIMIT %s
                        ) recent ORDER BY recent.namer, recent.seq DESC
                    ) l
                )) ORDER BY f.seq""",
            *(of_scope, _escaped(ids), of_scope, _escaped(names)),
            *(_escaped(names), of_scope, _SAME_NAME),
        )

    async def newest(self, scope: str, limit: int, before: int | None = None) -> list[Row]:
        """Return the newest futures of a scope, newest first, whose `seq` is below `before`."""
        return await self._select(
            f"SELECT {SELECTED} FROM futures f WHERE f.scope = %s AND -f.seq > %s ORDER BY -f.seq LIMIT %s",
            *(escaped(scope), -(1 << 63) if before is None else -before, limit),
        )

    async def ended(self, scope: str, query: CallQuery, below: int | None) -> list[Row]:
        """Return the newest futures of a scope that have ended and fulfil all of a query but its text, newest first, at
        most `CHUNK`.

        Args:
            below: only those whose `seq` is below it.
        """
        number = None if query.before is None else int(query.before[1:])
        servers, tools = _escaped(query.servers) or None, _escaped(query.tools) or None
        states = [state.value for state in query.states] or None
        return await self._select(
            f"""SELECT {SELECTED} FROM futures f WHERE f.scope = %s AND -f.seq > %s
                AND f.listed AND f.ended_at IS NOT NULL
                AND (%s::numeric IS NULL OR substr(f.id, 2)::numeric < %s)
                AND (%s::text[] IS NULL OR f.server = ANY (%s))
                AND (%s::text[] IS NULL OR f.tool = ANY (%s))
                AND (%s::text[] IS NULL OR f.state = ANY (%s))
                AND (%s::float8 IS NULL OR f.submitted_at >= %s)
                AND (%s::float8 IS NULL OR f.submitted_at < %s)
                ORDER BY -f.seq LIMIT %s""",
            *(escaped(scope), -(1 << 63) if below is None else -below, number, number, servers, servers, tools, tools),
            *(states, states, query.since, query.since, query.until, query.until, CHUNK),
        )

    async def runs(self, scope: str, since: float, limit: int) -> list[tuple[str, float, float]]:
        """Return conversation, start and end of the calls of a scope that have ended since a time, in order."""
        found = await self._database.fetch(
            """SELECT coalesce(f.conversation, 'caller:' || f.namer, ''), f.started_at, f.ended_at FROM futures f
                WHERE f.scope = %s AND f.started_at IS NOT NULL AND f.ended_at >= %s ORDER BY -f.seq LIMIT %s""",
            (escaped(scope), since, limit),
        )
        return [(unescaped(conversation), *times) for conversation, *times in reversed(found)]

    async def unread(self, scope: str, conversation: str, limit: int = 1000) -> list[Row]:
        """Return the futures of a conversation that have ended and were not read, oldest first."""
        return await self._select(
            f"""SELECT {SELECTED} FROM futures f
                WHERE f.scope = %s AND f.conversation = %s AND f.conversation IS NOT NULL AND f.ended_at IS NOT NULL
                    AND f.read_at IS NULL
                ORDER BY -f.seq DESC LIMIT %s""",
            *(escaped(scope), escaped(conversation), limit),
        )

    async def results(self, seqs: Collection[int]) -> dict[int, bytes]:
        """Return results as JSON; those that do not exist are missing."""
        if not seqs:
            return {}
        found = await self._database.fetch("SELECT seq, json FROM results WHERE seq = ANY (%s)", (list(seqs),))
        return dict[int, bytes](found)

    async def calls(self, seqs: Collection[int]) -> dict[int, Row]:
        """Return unfinished futures with their `call`."""
        if not seqs:
            return {}
        found = await self._database.fetch(
            f"SELECT {SELECTED}, c.json {_FROM_CALLS} WHERE f.seq = ANY (%s) AND f.ended_at IS NULL", (list(seqs),)
        )
        return {row.seq: row for row in readable(found)}

    async def last_number(self, scope: str) -> int:
        """Return the last number that was given in a scope; 0 before the first."""
        found = await self._database.fetch("SELECT last FROM scopes WHERE scope = %s", (escaped(scope),))
        return found[0][0] if found else 0

    async def mark_read(self, seqs: Collection[int]) -> None:
        """Record that results were received now."""
        if seqs:
            await self._database.fetch(
                """UPDATE futures SET read_at = now_s() WHERE read_at IS NULL AND seq IN (
                    SELECT f.seq FROM futures f WHERE f.seq = ANY (%s) AND f.ended_at IS NOT NULL
                        ORDER BY f.seq FOR UPDATE
                )""",
                (list(seqs),),
            )

    async def _select(self, statement: LiteralString, *parameters: Any) -> list[Row]:
        return readable(await self._database.fetch(statement, parameters, planned=True))

    def _changed(self, seq: int) -> str:
        (payload,) = payloads("changed", self._replica, [seq])
        return payload

    # --- other replicas ------------------------------------------------------------------------------------------

    async def adopt(self, dead: Collection[str]) -> list[Row]:
        """Take over the unfinished futures whose owner is one of these replicas or None, in one transaction with other
        adopters; return them in order of `seq`, with `call`."""
        found = await self._database.fetch(
            f"""SELECT {SELECTED}, c.json FROM own_futures(%s, %s, %s) f LEFT JOIN calls c ON c.seq = f.seq
                ORDER BY f.seq""",
            (list(dead), self._replica, str(uuid4())),
        )
        return readable(found)

    async def orphans(self, dead: Collection[str]) -> list[Row]:
        """Return the futures that run at one of these replicas (`worker`), with `call`."""
        return await self._select(
            f"SELECT {SELECTED}, c.json {_FROM_CALLS} WHERE f.worker = ANY (%s) AND {_RUNNING} ORDER BY f.seq",
            list(dead),
        )

    async def requeue(self, row: Row) -> bool:
        """Set a future that ran at a dead replica (`row.worker`) back to waiting without a place, owned by this
        replica, which schedules it; false if another replica did it, or it ended. Notifies `changed`."""
        ((done,),) = await self._database.fetch(
            "SELECT requeue_future(%s, %s, %s, %s)", (row.seq, row.worker, str(uuid4()), self._replica)
        )
        return done

    async def has_unowned(self) -> bool:
        """Return whether there are unfinished futures without an owner."""
        return bool(
            await self._database.fetch("SELECT 1 FROM futures WHERE ended_at IS NULL AND owner IS NULL LIMIT 1")
        )

    async def without_job(self) -> list[Row]:
        """Return the futures that have a place, and neither run nor have a job that would make them run."""
        # One snapshot: a job ends only after its future has started or ended.
        return await self._select(
            f"""SELECT {SELECTED} FROM futures f WHERE f.ended_at IS NULL AND f.placed AND f.state = 'waiting'
                AND f.seq NOT IN (SELECT (j.args->>'seq')::bigint FROM procrastinate_jobs j) ORDER BY f.seq"""
        )

    async def defer(self, jobs: Mapping[int, str]) -> None:
        """Make jobs for futures (`seq` → queue). One for a future that has another job already does nothing."""
        await self._database.fetch(
            "SELECT defer_calls(%s::bigint[], %s::text[])", (list(jobs), [escaped(queue) for queue in jobs.values()])
        )

    async def drop_jobs(self, queues: Collection[str]) -> None:
        """Drop the jobs of queues that no replica serves any more; their calls have ended."""
        await self._database.fetch(
            "DELETE FROM procrastinate_jobs WHERE queue_name = ANY (%s)", ([escaped(queue) for queue in queues],)
        )

    async def interrupt(self, row: Row, failure: FailureRecord) -> bool:
        """End a future that ran at a dead replica (`row.worker`); false if another replica did it, or it ended."""
        (done,) = await self._end([Ending(row.seq, State.FAILED, ran=True, failure=failure)], row.worker)
        return done

    async def release(self) -> None:
        """Give up the unfinished futures that this replica owns, so that others adopt them at once. Notifies
        `released`."""
        (payload,) = payloads("released", self._replica)
        await self._database.fetch(
            "SELECT pg_notify(%s, %s), count(*) FROM own_futures(%s, NULL, NULL)",
            (self._database.channel, payload, [self._replica]),
        )

    # --- retention -----------------------------------------------------------------------------------------------

    async def prune(self, ttl_s: float, max_bytes: int) -> int:
        """Drop futures that ended more than `ttl_s` seconds ago (tasks by their own `ttl_s`), and beyond `max_bytes`
        those that were read first, oldest first; return how many. In transactions of at most `CHUNK` futures."""
        old: LiteralString = "AND f.kept_until IS NULL AND f.ended_at < (SELECT now_s()) - %s"
        groups: Sequence[tuple[LiteralString, Sequence[float]]] = (
            (f"{_READ} {old}", (ttl_s,)),
            (f"{_UNREAD} {old}", (ttl_s,)),
            ("f.kept_until < (SELECT now_s())", ()),
        )
        dropped = 0
        for group, parameters in groups:
            while sizes := await self._drop(f"WHERE {group} LIMIT %s", (*parameters, CHUNK)):
                dropped += len(sizes)
        return dropped + await self._make_room(max_bytes)

    async def _make_room(self, max_bytes: int) -> int:
        dropped = 0
        excess = await self._used(_READ) + await self._used(_UNREAD) - max_bytes
        for group in (_READ, _UNREAD):
            while excess > 0:
                sizes = await self._drop(
                    f"""JOIN (
                        SELECT o.seq, sum(o.bytes) OVER (ORDER BY o.ended_at, o.seq) - o.bytes AS before FROM (
                            SELECT f.seq, f.ended_at, {_BYTES} AS bytes FROM futures f
                                WHERE {group} ORDER BY f.ended_at LIMIT %s
                        ) o
                    ) o ON o.seq = f.seq WHERE o.before < %s""",
                    (CHUNK, excess),
                )
                if not sizes:
                    break
                excess -= sum(size + ROW_BYTES for size in sizes)
                dropped += len(sizes)
        return dropped

    async def _used(self, group: LiteralString) -> int:
        """Return the approximate space of futures. An index has their sizes."""
        found = await self._database.fetch(f"SELECT coalesce(sum({_BYTES}), 0)::bigint FROM futures f WHERE {group}")
        return found[0][0]

    async def _drop(self, choice: LiteralString, parameters: Sequence[Any]) -> list[int]:
        """Drop the chosen futures; return their sizes."""
        found = await self._database.fetch(
            f"""WITH chosen AS MATERIALIZED (
                    SELECT f.seq FROM futures f {choice} FOR UPDATE OF f SKIP LOCKED
                ), gone AS (
                    DELETE FROM futures f USING chosen WHERE f.seq = chosen.seq RETURNING f.seq, f.size
                ), results_gone AS (
                    DELETE FROM results r USING chosen WHERE r.seq = chosen.seq
                )
                SELECT size FROM gone""",
            parameters,
        )
        return [size for (size,) in found]


def _escaped(texts: Iterable[str]) -> list[str]:
    return [escaped(text) for text in texts]
