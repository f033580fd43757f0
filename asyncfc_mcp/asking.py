"""Asking clients: questions that are put to them in the background, beside the requests that wait.

Owns that a question is put to a connection once, and withdrawn when it is over. Refuses to choose who is asked.
"""

import logging
import secrets
from typing import Any

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError, TransportFailure
from asyncfc_mcp.futures import Question
from asyncfc_mcp.protocol import CONNECTION_CLOSED, INTERNAL_ERROR, Channel
from asyncfc_mcp.questions import Questions
from asyncfc_mcp.requests import Params, Request

logger = logging.getLogger(__name__)


class Asking:
    """Where clients are asked in the background, for as long as `run` lasts."""

    def __init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None
        self._asked: dict[tuple[str, Any], object] = {}
        """Question and connection → None, or the channel on which it did not reach the client, until it is over."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def start(self, questions: Questions, request: Request, question: Question) -> bool:
        """Put a question to the client of a request, unless it has been put on that connection and is still open; its
        answer settles the question, and what settles it otherwise withdraws it. False if it cannot be put there: it did
        not reach the client on that channel before."""
        assert self._tasks is not None
        key = (question.id, request.session)
        if key in self._asked and (cut := self._asked[key]) in (None, request.channel):
            return cut is None
        self._asked[key] = None
        self._tasks.start_soon(self._ask, questions, request.channel, question, key)
        return True

    async def _ask(self, questions: Questions, channel: Channel, question: Question, key: tuple[str, Any]) -> None:
        async def put() -> None:
            try:
                question.settle(await channel.send_raw_request(question.method, _live(question)))
            except RpcError as exc:
                # Clients of the SDKs answer what is open with an error of this code when they close the connection.
                if isinstance(exc, TransportFailure) or exc.code == CONNECTION_CLOSED:
                    # It is for whoever comes for the same future, on another connection or another stream of this one.
                    self._asked[key] = channel
                    questions.release(question)
                else:
                    question.settle(None, (exc.code, exc.message, exc.data))
            except Exception:
                logger.exception("asking the client %s failed", question.method)
                question.settle(None, (INTERNAL_ERROR, "the client could not be asked", None))

        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(put)
                await questions.over(question)
                tg.cancel_scope.cancel()
        finally:
            self._asked.pop(key, None)


def _live(question: Question) -> Params:
    """A question's parameters for a client of the handshake versions, whatever the version in which it was asked."""
    if question.params.get("mode") == "url" and "elicitationId" not in question.params:
        # Required there; 2026-07-28 has none, since a question is answered in the call that asks it.
        return {**question.params, "elicitationId": secrets.token_hex(8)}
    return question.params
