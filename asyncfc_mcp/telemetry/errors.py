"""`error.type` of spans and metrics, and texts of errors without secrets.

Owns the words for the failures of calls. Leaves who may see a text to `requests` and `calls`.
"""

from typing import Final

from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.errors import CallTimedOut, ProtocolFailure
from asyncfc_mcp.redaction import without_secrets
from asyncfc_mcp.telemetry.conventions import TOOL_ERROR
from asyncfc_mcp.telemetry.limits import MOST_ERRORS, Names, sendable

TEXT_LENGTH: Final = 300


class ErrorTypes(Names):
    """The values of `error.type` in metrics."""

    def __init__(self) -> None:
        super().__init__(MOST_ERRORS, (TOOL_ERROR, "timeout", "cancelled"))


def error_type(future: Future) -> str | None:
    """Return the class of error that a call ended with; None for a result that is none."""
    failure = future.failure
    if future.state is State.CANCELLED:
        return "cancelled"
    if isinstance(failure, ProtocolFailure):
        return str(failure.code)
    if isinstance(failure, CallTimedOut):
        return "timeout"
    if failure is not None:
        return type(failure).__name__
    return TOOL_ERROR if future.state is State.FAILED else None


def shown(text: str, length: int = TEXT_LENGTH) -> str:
    """Return a text without secrets, of bounded length."""
    return sendable(without_secrets(text[: 4 * length]), length)
