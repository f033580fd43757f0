"""An engine in memory that behaves as one over a database: whatever needs the database takes a while.

Owns the check that each `_nowait` lookup was preceded by `look_up`. For tests of what is above the engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, cycle
from typing import Any
from unittest.mock import patch

import anyio.lowlevel

from asyncfc_mcp.core.futures import Future, Question
from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.core.session_archive import SessionArchive
from asyncfc_mcp.engine.call import Submission
from asyncfc_mcp.engine.memory_engine import MemoryEngine


def _plain(ref: str) -> str:
    return ref.strip().removeprefix("$").lower()


class DistantEngine(MemoryEngine):
    """Lookups and submissions take a different number of steps each time; submissions keep their order."""

    def __init__(self, settings: Any, *args: Any, **more: Any) -> None:
        super().__init__(settings, *args, **more)
        self._steps = cycle((3, 0, 7, 1, 5, 2))
        self._looked_up = set[tuple[str, str]]()
        self._last: anyio.Event | None = None
        self.trouble: str | None = None
        self.archive: SessionArchive | None = None

    async def _take_a_while(self) -> None:
        for _ in range(next(self._steps)):
            await anyio.lowlevel.checkpoint()

    @property
    def sessions(self) -> SessionArchive | None:
        return self.archive

    async def problem(self) -> str | None:
        return self.trouble

    @property
    def submits_nowait(self) -> bool:
        return False

    async def submit(self, submission: Submission) -> Future:
        context = submission.context
        before, place = self._last, anyio.Event()
        self._last = place
        try:
            with self.announcing(context.scope, context.name, context.namer):
                await self._take_a_while()
                if before is not None:
                    await before.wait()
                return super().submit_nowait(submission)
        finally:
            place.set()

    def submit_nowait(self, submission: Submission) -> Any:
        return None

    async def look_up(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> None:
        await self._take_a_while()
        self._looked_up |= {(scope.key, _plain(ref)) for ref in refs}

    def _check(self, scope: Scope, ref: object) -> None:
        if isinstance(ref, str):
            assert (scope.key, _plain(ref)) in self._looked_up, f"{ref} was not looked up"

    async def get(self, scope: Scope, refs: Sequence[str], *args: Any, **more: Any) -> list[Future]:
        await self.look_up(scope, refs, None)
        return await super().get(scope, refs, *args, **more)

    async def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        await self.look_up(scope, [ref], namer)
        return await super().find(scope, ref, namer)

    async def fate(self, scope: Scope, ref: str) -> str | None:
        await self.look_up(scope, [ref], None)
        return await super().fate(scope, ref)

    def get_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future:
        self._check(scope, ref)
        return super().get_nowait(scope, ref, namer)

    def find_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        self._check(scope, ref)
        return super().find_nowait(scope, ref, namer)

    def find_own_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        self._check(scope, ref)
        return super().find_own_nowait(scope, ref, namer)

    def find_referred_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        self._check(scope, ref)
        return super().find_referred_nowait(scope, ref, namer)

    def fate_nowait(self, scope: Scope, ref: str) -> str | None:
        self._check(scope, ref)
        return super().fate_nowait(scope, ref)

    def check_name_nowait(self, scope: Scope, name: object, namer: CallerIdentity | None = None) -> None:
        self._check(scope, name)
        super().check_name_nowait(scope, name, namer)

    async def list_futures(self, scope: Scope) -> Iterator[Future]:
        await self._take_a_while()
        return await super().list_futures(scope)

    async def unread(self, scope: Scope, conversation: str) -> list[Future]:
        await self._take_a_while()
        futures = chain(super().unread_nowait(scope, conversation), self._store.all())
        return [
            each
            for each in dict.fromkeys(futures)
            if each.scope == scope and each.conversation == conversation and each.read_at is None
        ]

    def unread_nowait(self, scope: Scope, conversation: str) -> Any:
        return None

    async def question(self, question_id: str) -> Question | None:
        await self._take_a_while()
        return await super().question(question_id)

    async def release(self, question: Question) -> None:
        await self._take_a_while()
        await super().release(question)


@contextmanager
def distant() -> Iterator[None]:
    """Have bridges that are composed in this block use such an engine."""
    with patch("asyncfc_mcp.app.MemoryEngine", DistantEngine):
        yield
