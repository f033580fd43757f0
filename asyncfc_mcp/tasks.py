"""Futures as MCP tasks: the tasks extension of 2026-07-28, and the experimental tasks of 2025-11-25.

Pure mapping: a future is a task with the same ID. Refuses to run, wait or answer; `server` does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from asyncfc_mcp import answers
from asyncfc_mcp.errors import ProtocolFailure
from asyncfc_mcp.futures import Future, State
from asyncfc_mcp.protocol import INTERNAL_ERROR
from asyncfc_mcp.quotation import said

EXPERIMENTAL_VERSION: Final = "2025-11-25"
"""The one protocol version that has the experimental tasks."""
RELATED: Final = "io.modelcontextprotocol/related-task"
"""Key in `_meta` of a result that came from a task (2025-11-25)."""
POLL_MS: Final = 1000
"""How often a client should ask."""

_STATUS: Final[Mapping[State, str]] = {
    State.WAITING: "working",
    State.RUNNING: "working",
    State.INPUT_REQUIRED: "input_required",
    State.COMPLETED: "completed",
    State.CANCELLED: "cancelled",
}


def status(future: Future) -> str:
    """The task status. A tool's own `isError` result is a result: the task is completed."""
    if future.state is State.FAILED:
        return "completed" if future.result is not None else "failed"
    return _STATUS[future.state]


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(future: Future) -> str | None:
    if future.failure is not None:
        return str(future.failure).partition("\n")[0]
    if future.question is not None:
        return future.question
    if future.progress is not None:
        done, total, message = future.progress
        return f"{done:g}" + (f" of {total:g}" if total is not None else "") + (f": {said(message)}" if message else "")
    return answers.put_in(future) or None


def _core(future: Future, epoch: float) -> dict[str, Any]:
    """What both revisions have. `epoch` is the wall clock when the monotonic clock was zero."""
    touched = future.ended_at or future.started_at or future.submitted_at
    core = {
        "taskId": future.id,
        "status": status(future),
        "createdAt": _stamp(epoch + future.submitted_at),
        "lastUpdatedAt": _stamp(epoch + touched),
    }
    message = _message(future)
    return {**core, "statusMessage": message} if message is not None else core


def created(future: Future, epoch: float) -> dict[str, Any]:
    """The answer to a call that became a task (2026-07-28)."""
    return {"resultType": "task", **_core(future, epoch), "ttlMs": None, "pollIntervalMs": POLL_MS}


def detailed(future: Future, epoch: float, *, asks: bool = True) -> dict[str, Any]:
    """A task with what its status brings: questions, the result, the error (2026-07-28).

    Args:
        asks: its questions may be put to this client.
    """
    task = {**_core(future, epoch), "ttlMs": None, "pollIntervalMs": POLL_MS}
    match task["status"]:
        case "input_required":
            task["inputRequests"] = {
                question.id: {"method": question.method, "params": dict(question.params)}
                for question in future.questions.values()
                if asks and not question.settled
            }
        case "completed":
            task["result"] = {"resultType": "complete", **(future.result or {})}
        case "failed":
            task["error"] = error(future)
        case _:
            pass
    return task


def error(future: Future) -> dict[str, Any]:
    """The JSON-RPC error of a task that failed without a result."""
    if isinstance(future.failure, ProtocolFailure):
        body: dict[str, Any] = {"code": future.failure.code, "message": future.failure.message}
        return body if future.failure.data is None else {**body, "data": future.failure.data}
    return {"code": INTERNAL_ERROR, "message": str(future.failure)}


def experimental(future: Future, epoch: float) -> dict[str, Any]:
    """A task as 2025-11-25 has it."""
    return {**_core(future, epoch), "ttl": None, "pollInterval": POLL_MS}
