"""Routing of questions: the calls, and so the client, that a question of a server may belong to.

Owns the wait until that is known. Putting a question and waiting for its answer is `questions`' job.
"""

from typing import Final

import anyio

from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_REQUEST

HOLD_S: Final = 60.0
"""Longest time for which a question is held that may belong to one of several clients."""


class QuestionRouting:
    """Finds the calls that ask, for one engine."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held: dict[tuple[str, str | None], int] = {}
        """Server and credentials → the questions for which no client has been found yet."""

    async def calls_asking(self, server: str, credentials: str | None = None) -> list[Call]:
        """Return the calls that a question of a server may belong to.

        Args:
            credentials: see `Call.credentials`; the question belongs to a call that is made with these.

        JSON-RPC does not say which call it is. So all calls that run there count, as long as they are one client's, and
        a client that awaits any of them is asked. (Rejected: the oldest call without a question. A client that awaits
        another one would never be asked, and wait in vain.) One client's question must not reach another, so while
        several clients have calls there, it is held until those of one are left. Callers that cannot be told apart
        count as several: a client of 2026-07-28 over HTTP without a conversation key is asked when its call is alone
        there.

        Raises:
            RpcError: that takes longer than `HOLD_S`, or cannot happen, since all of the calls wait to ask.
        """
        connection = server, credentials
        self._held[connection] = self._held.get(connection, 0) + 1
        try:
            with anyio.move_on_after(HOLD_S):
                while True:
                    calls = [call for call in self._scheduler.running_on(server) if call.credentials == credentials]
                    whose = {(call.future.scope, _apart(call)) for call in calls}
                    if len(whose) <= 1 and (len(calls) <= 1 or calls[0].future.scope.listed):
                        return calls
                    if self._held[connection] >= len(calls) and not any(call.future.questions for call in calls):
                        break
                    await wait_for([call.future for call in calls], any_=True)
        finally:
            self._held[connection] -= 1
            if not self._held[connection]:
                del self._held[connection]
        raise RpcError(
            INVALID_REQUEST,
            f"calls of several clients are running on {server!r}, and it cannot be told whose question this is; "
            "try again when it is alone",
        )


def _apart(call: Call) -> object:
    """Return the caller of a call, or the call itself where its identity may stand for several callers."""
    return call if call.client is not None and call.client.shared else call.client
