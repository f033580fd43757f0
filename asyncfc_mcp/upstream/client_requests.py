"""Requests to clients: questions that are put to them in the background, beside the requests that wait.

Owns that a question is put to a connection once, and withdrawn when it is settled. Refuses to choose the client.
"""

import logging
import secrets
from typing import Any

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Question
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.errors import RpcError, TransportFailure
from asyncfc_mcp.protocol import CONNECTION_CLOSED, INTERNAL_ERROR, Channel
from asyncfc_mcp.upstream.request import Params, Request

logger = logging.getLogger(__name__)


class ClientRequests:
    """Sends questions to clients in tasks of its own, for as long as `run` lasts."""

    def __init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None
        self._open: dict[tuple[str, Any], object] = {}
        """Question and connection → None, or the channel on which it did not reach the client; until it is settled."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def start(self, engine: Engine, request: Request, question: Question) -> bool:
        """Put a question to the client of a request, unless it is open on that connection already. The client's answer
        settles the question; if it is settled otherwise, it is withdrawn.

        Returns:
            False if it cannot be put: on this channel it did not reach the client before.
        """
        assert self._tasks is not None
        key = (question.id, request.session)
        if key in self._open and (failed := self._open[key]) in (None, request.channel):
            return failed is None
        self._open[key] = None
        self._tasks.start_soon(self._send, engine, request.channel, question, key)
        return True

    async def _send(self, engine: Engine, channel: Channel, question: Question, key: tuple[str, Any]) -> None:
        async def put() -> None:
            try:
                await engine.answer(question, await channel.send_raw_request(question.method, _params(question)))
            except RpcError as exc:
                # When the clients of the SDKs close a connection, they answer open requests with this code.
                if isinstance(exc, TransportFailure) or exc.code == CONNECTION_CLOSED:
                    # Free for the next request that waits for the same future, on another connection or stream.
                    self._open[key] = channel
                    await engine.release(question)
                else:
                    await engine.answer(question, None, (exc.code, exc.message, exc.data))
            except Exception:
                logger.exception("asking the client %s failed", question.method)
                await engine.answer(question, None, (INTERNAL_ERROR, "the client could not be asked", None))

        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(put)
                await engine.question_over(question)
                tg.cancel_scope.cancel()
        finally:
            self._open.pop(key, None)


def _params(question: Question) -> Params:
    """Return a question's parameters for a client of the handshake versions, whatever the version of its server."""
    if question.params.get("mode") == "url" and "elicitationId" not in question.params:
        # Required in those versions; 2026-07-28 has none, since a question is answered in the call that asks it.
        return {**question.params_for_client, "elicitationId": secrets.token_hex(8)}
    return question.params_for_client
