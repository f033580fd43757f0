"""Lookups before submission: the futures that a call mentions are brought into the engine's memory.

Owns that calls keep the order in which they were received, however long each lookup takes. Only for engines whose
lookups wait. Leaves lookups to the engine.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import anyio

from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.engine.api import Engine


class LookUps:
    """Lookups of received calls. They run side by side, and return in the order in which they began."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._places: dict[anyio.Event, None] = {}
        """Of calls whose lookups have not returned, in the order of receipt; the first one is set."""

    async def bring(
        self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None, *, announced: object = None
    ) -> None:
        """Bring the futures that a call mentions into memory. What the caller does next without waiting is done before
        the next call proceeds.

        Args:
            announced: the name that the call takes, if any: others wait for it.
        """
        if not refs and not self._places:
            return
        place = anyio.Event()
        self._places[place] = None
        self._admit()
        named = isinstance(announced, str)
        try:
            with self._engine.announcing(scope, announced, namer) if named else nullcontext():
                if refs:
                    await self._engine.look_up(scope, refs, namer)
                await place.wait()
        finally:
            del self._places[place]
            # It proceeds in a later step, when this call has been submitted or has its place among those that wait.
            self._admit()

    def _admit(self) -> None:
        first = next(iter(self._places), None)
        if first is not None:
            first.set()
