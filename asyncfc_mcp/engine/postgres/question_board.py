"""Board of questions: those that servers ask during calls, shown on all replicas and answered on any.

Owns the table `questions`, and the questions of other replicas in memory. The replica that runs a call owns its
questions (`engine.questions`): it writes them here, and takes the first answer. Which client is asked is decided where
a request waits for the future; a claim is announced to the other replicas, so that a person is seldom asked twice.
"""

import json
import logging
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import anyio

from asyncfc_mcp.core.futures import Future, Question, Result
from asyncfc_mcp.core.identity import CallerIdentity
from asyncfc_mcp.engine.api import Claim
from asyncfc_mcp.engine.postgres.database import Connection, Database
from asyncfc_mcp.engine.postgres.grouped import Grouped
from asyncfc_mcp.engine.postgres.listener import NOTIFY, Listener, Notification, notify, payloads
from asyncfc_mcp.engine.questions import CLAIM_S, Questions
from asyncfc_mcp.engine.record_json import parse
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

_Write = tuple[str, Question, Sequence[int]]
_OPEN: Final = "open"
_CLOSE: Final = "close"


class QuestionBoard:
    """Questions of one cluster, on one replica.

    Args:
        seq_of: returns the place of a future in the order of submission.
        reread: has futures read again, and returns when that is done.
        clock: the event loop's, in seconds.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        seq_of: Callable[[Future], int | None],
        reread: Callable[[Collection[int]], Any],
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._replica = replica
        self._seq_of = seq_of
        self._reread = reread
        self._clock = clock
        self._own: Questions | None = None
        self._remote: dict[str, tuple[Question, int, anyio.Event]] = {}
        """Open questions of other replicas: ID → question, `seq` of a future on which it stands, when it is over."""
        self._writes = Grouped[_Write, None](self._write)
        self.run = self._writes.run

    def attach(self, own: Questions, listener: Listener) -> None:
        """Show the questions of this replica, and take what others announce."""
        self._own = own
        listener.handle("claimed", self._claimed)

    # --- questions of this replica -------------------------------------------------------------------------------

    async def opened(self, question: Question, futures: Sequence[Future]) -> None:
        """Show a question of calls that run here; return when every replica can find it."""
        try:
            await self._writes.do((_OPEN, question, self._seqs(futures)))
        except Exception as exc:  # noqa: BLE001 - it can be answered here all the same
            self._written(question, exc)

    def closed(self, question: Question, futures: Sequence[Future]) -> None:
        """Remove a question that is answered or given up."""
        self._writes.add((_CLOSE, question, self._seqs(futures)), partial(self._written, question))

    def _seqs(self, futures: Sequence[Future]) -> Sequence[int]:
        return [seq for future in futures if (seq := self._seq_of(future)) is not None]

    def _written(self, question: Question, outcome: Exception | None) -> None:
        if outcome is not None:
            logger.error("question %s could not be shown to other replicas: %s", question.id, outcome)

    async def _write(self, writes: Sequence[_Write]) -> Sequence[None]:
        async def write(connection: Connection) -> None:
            for what, question, seqs in writes:
                await (self._insert if what == _OPEN else self._delete)(connection, question, seqs)
            changed = sorted({seq for _, _, seqs in writes for seq in seqs})
            await connection.execute(NOTIFY, (self._database.channel, payloads("changed", self._replica, changed)))

        await self._database.repeating(write)
        return [None] * len(writes)

    async def _insert(self, connection: Connection, question: Question, seqs: Sequence[int]) -> None:
        await connection.execute(
            """INSERT INTO questions (seq, id, method, params, server)
                SELECT seq, %s, %s, %s, %s FROM unnest(%s::bigint[]) AS seq ON CONFLICT DO NOTHING""",
            (question.id, question.method, encode(dict(question.params)), question.server, list(seqs)),
        )
        await connection.execute(
            """UPDATE futures SET state = 'input_required'
                WHERE seq = ANY(%s) AND worker = %s AND state = 'running'""",
            (list(seqs), self._replica),
        )

    async def _delete(self, connection: Connection, question: Question, seqs: Sequence[int]) -> None:
        await connection.execute("DELETE FROM questions WHERE seq = ANY(%s) AND id = %s", (list(seqs), question.id))
        await connection.execute(
            """UPDATE futures SET state = 'running' WHERE seq = ANY(%s) AND worker = %s AND state = 'input_required'
                AND NOT EXISTS (SELECT 1 FROM questions WHERE questions.seq = futures.seq)""",
            (list(seqs), self._replica),
        )

    async def take_answers(self, seqs: Collection[int]) -> None:
        """Settle questions of this replica with answers that others have written."""
        rows = await self._database.fetch(
            """SELECT id, answer, refusal FROM questions
                WHERE seq = ANY(%b) AND (answer IS NOT NULL OR refusal IS NOT NULL)""",
            (list(seqs),),
        )
        for question_id, answer, refusal in rows:
            question = None if self._own is None else self._own.find(question_id)
            if question is None:
                continue
            if refusal is not None:
                code, message, data = json.loads(refusal)
                question.settle(None, (code, message, data))
            else:
                question.settle(parse(answer))

    # --- questions of other replicas -----------------------------------------------------------------------------

    async def of(self, seqs: Collection[int]) -> dict[int, list[Question]]:
        """Return the open questions of futures that run elsewhere; the same object for one that is known."""
        found: dict[int, list[Question]] = {seq: [] for seq in seqs}
        rows = await self._database.fetch(
            """SELECT seq, id, method, params, server FROM questions
                WHERE seq = ANY(%b) AND answer IS NULL AND refusal IS NULL ORDER BY seq, id""",
            (list(seqs),),
        )
        for seq, question_id, method, params, server in rows:
            known = self._remote.get(question_id)
            question = Question(question_id, method, parse(params), server) if known is None else known[0]
            self._remote[question_id] = question, seq, anyio.Event() if known is None else known[2]
            found[seq].append(question)
        open_now = {question.id for questions in found.values() for question in questions}
        for question_id, (_, seq, over) in list(self._remote.items()):
            if seq in found and question_id not in open_now:
                over.set()
                del self._remote[question_id]
        return found

    def gone(self, seq: int) -> None:
        """Take note that a future has no open question any more."""
        for question_id, (_, of, over) in list(self._remote.items()):
            if of == seq:
                over.set()
                del self._remote[question_id]

    async def find(self, question_id: str) -> Question | None:
        """Return the open question with this ID, of another replica."""
        if question_id not in self._remote:
            rows = await self._database.fetch("SELECT seq FROM questions WHERE id = %b", (question_id,))
            if rows:
                await self._reread([seq for (seq,) in rows])
        known = self._remote.get(question_id)
        return None if known is None else known[0]

    def is_remote(self, question: Question) -> bool:
        """Return whether a question is one of another replica."""
        return question.id in self._remote

    async def answer(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        """Answer a question of another replica; the first answer counts."""
        question.settle(answer, refusal)

        async def write(connection: Connection) -> None:
            cursor = await connection.execute(
                """UPDATE questions SET answer = %s, refusal = %s
                    WHERE id = %s AND answer IS NULL AND refusal IS NULL RETURNING seq""",
                (
                    None if answer is None else encode(answer),
                    None if refusal is None else json.dumps(refusal).encode(),
                    question.id,
                ),
            )
            seqs = [seq for (seq,) in await cursor.fetchall()]
            if seqs:
                sent = payloads("answered", self._replica, seqs)
                await connection.execute(NOTIFY, (self._database.channel, sent))

        await self._database.repeating(write)

    async def over(self, question: Question) -> None:
        """Return when the answer to a question of another replica is no longer needed."""
        if (known := self._remote.get(question.id)) is not None:
            await known[2].wait()

    # --- claims --------------------------------------------------------------------------------------------------

    @contextmanager
    def claiming(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None,
        on_claimed: Callable[[Question], None],
    ) -> Generator[Claim]:
        """Claim questions for a client as `Questions.claiming` does.

        Args:
            on_claimed: called with each question that is claimed.
        """

        def put_and_announce(question: Question) -> bool:
            assert put is not None
            done = put(question)
            if done:
                on_claimed(question)
            return done

        assert self._own is not None
        with self._own.claiming(None if put is None else put_and_announce, capabilities, caller) as take:

            def claim(futures: Iterable[Future]) -> list[tuple[Future, Question]]:
                claimed = take(futures)
                for _, question in claimed:
                    on_claimed(question)
                return claimed

            yield claim

    async def announce_claim(self, question: Question, for_s: float = CLAIM_S) -> None:
        """Tell other replicas that a client is being asked a question; 0 releases it."""
        await notify(self._database, "claimed", self._replica, id=question.id, for_s=for_s)

    def _claimed(self, notification: Notification) -> None:
        if notification.by == self._replica:
            return
        question_id, for_s = notification.data.get("id"), notification.data.get("for_s")
        if not isinstance(question_id, str) or not isinstance(for_s, int | float):
            return
        known = self._remote.get(question_id)
        question = known[0] if known is not None else None if self._own is None else self._own.find(question_id)
        if question is not None:
            question.claimed_until = self._clock() + for_s if for_s else 0.0
