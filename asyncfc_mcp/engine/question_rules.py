"""Questions of servers: their kinds, the capabilities that they need, and the bounds that hold for them.

Pure. Putting a question on a future and waiting for its answer is `questions`' job.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from asyncfc_mcp.errors import MalformedQuestion, RpcError
from asyncfc_mcp.protocol import METHOD_NOT_FOUND

CAPABILITY: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""Method of a question → the client capability that it needs."""
AGAIN_S: Final = 10.0
"""Seconds between two attempts of a waiting request to claim the open questions of its futures: a claim that expires,
or whose session ends unnoticed, causes no event."""
MAX_OPEN: Final = 32
"""Maximum open questions of one call; more are refused."""
MAX_ROUNDS: Final = 32
"""Maximum rounds of questions of one call; then it fails."""


def can_answer(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> bool:
    """Return whether a client with these capabilities can be sent this question."""
    offered = capabilities.get(CAPABILITY.get(method, ""))
    if offered is None:
        return False
    if method == "elicitation/create" and isinstance(offered, dict):
        # An empty object is how clients before 2025-11-25 declared forms.
        return params.get("mode", "form") in (offered or ("form",))
    return True


def refuse_unless_able(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> None:
    """Refuse a question that a client with these capabilities cannot be sent.

    Raises:
        RpcError: its capabilities do not cover the question.
    """
    if not can_answer(capabilities, method, params):
        raise RpcError(METHOD_NOT_FOUND, f"the client has not declared that it can answer {method}")


def input_requests(tool: str, asking: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the questions of an `InputRequiredResult`, or of a task that needs input, by key.

    Raises:
        MalformedQuestion: they do not have the shape that the protocol prescribes.
    """
    found: object = asking.get("inputRequests") or {}
    if not isinstance(found, dict):
        raise MalformedQuestion(tool, found)
    requests = cast("dict[str, Any]", found)
    for request in requests.values():
        if not isinstance(request, dict):
            raise MalformedQuestion(tool, request)
        asked = cast("dict[str, Any]", request)
        if not isinstance(asked.get("method"), str) or not isinstance(asked.get("params") or {}, dict):
            raise MalformedQuestion(tool, asked)
    return requests
