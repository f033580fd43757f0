"""Questions in answers (2026-07-28): an `input_required` result, and the answers that the client's next request brings.

Owns the sealed state that travels through the client in between. Leaves choosing the client of a question to
`engine.questions`, and clients that can be asked at once to `client_requests`.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Future, Question, Result
from asyncfc_mcp.core.identity import Principal, Scope, id_of
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.keys import derived_key
from asyncfc_mcp.protocol import INVALID_PARAMS, SERVER_HANDSHAKE_VERSIONS
from asyncfc_mcp.upstream.request import Params

if TYPE_CHECKING:
    from mcp.server.request_state import AESGCMRequestStateCodec


class InputRequired(Exception):
    """Not a failure: the request is answered with questions, whose answers come with the client's next try."""

    def __init__(self, questions: Sequence[tuple[Future, Question]], futures: Sequence[Future] = ()) -> None:
        super().__init__(f"{len(questions)} questions")
        self.questions = tuple(questions)
        self.futures = tuple(futures)
        """Futures that the call with `_wait` waits for; the call's own is the last one."""


class Seal(Protocol):
    """Keeps a state that the client carries from being read or changed."""

    def seal(self, payload: bytes) -> str: ...

    def open(self, token: str) -> bytes | None:
        """Return the payload; None if the token was made elsewhere or was changed."""
        ...


class CodecSeal:
    """The SDK's codec for `requestState`, made when the first question travels.

    Args:
        secret: of all replicas, which can open the states of one another; None: of this process only.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret

    @cached_property
    def _codec(self) -> "AESGCMRequestStateCodec":
        from mcp.server.request_state import AESGCMRequestStateCodec

        return AESGCMRequestStateCodec([derived_key(self._secret, "requestState")])

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def open(self, token: str) -> bytes | None:
        from mcp.server.request_state import InvalidRequestState

        try:
            return self._codec.unseal(token)
        except InvalidRequestState:
            return None


class InputRounds:
    """Makes `input_required` results, and takes in the answers that come back.

    Args:
        seal: protects the state that the client brings back with the answers.
    """

    def __init__(self, bridge: Bridge, seal: Seal) -> None:
        self.bridge = bridge
        self._seal = seal

    def result(self, scope: Scope, needed: InputRequired) -> Result:
        """Return the result that asks the questions; its sealed state names them, and the futures that were awaited."""
        state = {
            "scope": scope.key,
            "questions": [question.id for _, question in needed.questions],
            "futures": [future.key for future in needed.futures],
        }
        return {
            "resultType": "input_required",
            "inputRequests": {
                question.id: {"method": question.method, "params": question.params_for_client}
                for _, question in needed.questions
            },
            "requestState": self._seal.seal(json.dumps(state).encode()),
        }

    async def resume(self, principal: Principal, params: Params, tool: str) -> list[Future]:
        """Settle questions with the answers in a request, and return the futures that the call was waiting for.

        Raises:
            RpcError: the state was not made here, or the answers do not fit it.
        """
        sealed, scope = params.get("requestState"), principal.scope
        if sealed is None:
            return []
        opened = self._seal.open(str(sealed))
        if opened is None and self._passes_questions(principal, tool):  # the state may be the server's own
            return []
        state: dict[str, Any] = json.loads(opened) if opened is not None else {}
        if state.get("scope") != scope.key:
            raise RpcError(INVALID_PARAMS, "requestState is not one that this server gave")
        given = params.get("inputResponses", {})
        if not isinstance(given, dict):
            raise RpcError(INVALID_PARAMS, "inputResponses must be an object")
        responses = cast("dict[str, Any]", given)
        for question_id in state["questions"]:
            question = await self.bridge.engine.question(question_id)
            answer = responses.get(question_id)
            if question is None:
                continue  # another client answered it, or the call has ended: the wait is resumed either way
            if isinstance(answer, dict):
                await self.bridge.engine.answer(question, cast("dict[str, Any]", answer))
            else:
                await self.bridge.engine.release(question)
        found = [await self.bridge.engine.find(scope, id_of(key)) for key in state["futures"]]
        futures = [future for future in found if future is not None]
        if len(futures) < len(found):  # made again, the call would take effect twice
            raise RpcError(INVALID_PARAMS, "the call that this requestState belongs to ended long ago and is forgotten")
        return futures

    def _passes_questions(self, principal: Principal, name: str) -> bool:
        """Return whether this tool's questions go up unchanged, with the state of the server that asks them."""
        view = self.bridge.views.of(principal)
        tool = view.catalog.tools.get(name)
        if tool is None or tool.policy.mode != "sync":
            return False
        offered = view.directory.snapshots()[tool.server]
        return offered is None or offered.protocol_version not in SERVER_HANDSHAKE_VERSIONS
