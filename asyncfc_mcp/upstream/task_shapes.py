"""Futures as MCP tasks: the tasks extension of 2026-07-28, and the experimental tasks of 2025-11-25.

Pure mapping: a future is a task with the same ID. Refuses to wait and to answer requests: `tasks` does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.errors import ProtocolFailure
from asyncfc_mcp.protocol import INTERNAL_ERROR
from asyncfc_mcp.quotation import said
from asyncfc_mcp.upstream import answers

EXPERIMENTAL_VERSION: Final = "2025-11-25"
"""The one protocol version that has the experimental tasks."""
RELATED: Final = "io.modelcontextprotocol/related-task"
"""Key in `_meta` of a task's result (2025-11-25)."""
POLL_MS: Final = 1000
"""Polling interval that clients are advised to use, in milliseconds."""

_STATUS: Final[Mapping[State, str]] = {
    State.WAITING: "working",
    State.RUNNING: "working",
    State.INPUT_REQUIRED: "input_required",
    State.COMPLETED: "completed",
    State.CANCELLED: "cancelled",
}


def ttl_s(params: Mapping[str, Any], settings: Settings, scope: Scope) -> float:
    """Return for how long a new task is to be kept, in seconds: as long as its request asks (2025-11-25), within what
    the settings allow."""
    longest = settings.task_keep_s if scope.listed else min(settings.task_keep_s, settings.unread_keep_s)
    task = params.get("task")
    asked = cast("dict[str, Any]", task).get("ttl") if isinstance(task, dict) else None
    if isinstance(asked, int | float) and not isinstance(asked, bool) and 0 < asked < longest * 1000:
        return asked / 1000
    return longest


def status(future: Future) -> str:
    """Return the task status. A tool's own `isError` result is a result: the task is completed."""
    if future.state is State.FAILED:
        return "completed" if future.has_result else "failed"
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


def _updated_at(future: Future) -> float:
    """Return the time of the last change that a client can see."""
    times = (future.submitted_at, future.started_at, future.reported_at, future.ended_at)
    return max(each for each in times if each is not None)


def _ttl_ms(future: Future) -> int | None:
    """Return for how long a task is kept from its creation, in milliseconds; None for a future that was not created as
    one, since its result is kept until it is read, and some time after that.

    Of a running task this is the least: it is kept for some time after its end as well.
    """
    kept_s = future.kept_s(_updated_at(future))
    return None if kept_s is None else round(kept_s * 1000)


def _core(future: Future, epoch: float) -> dict[str, Any]:
    """Return the fields that both revisions share. `epoch` is the wall clock when the monotonic clock was zero."""
    core = {
        "taskId": future.id,
        "status": status(future),
        "createdAt": _stamp(epoch + future.submitted_at),
        "lastUpdatedAt": _stamp(epoch + _updated_at(future)),
    }
    message = _message(future)
    return {**core, "statusMessage": message} if message is not None else core


def created(future: Future, epoch: float) -> dict[str, Any]:
    """Return the answer to a call that became a task (2026-07-28)."""
    return {"resultType": "task", **_core(future, epoch), "ttlMs": _ttl_ms(future), "pollIntervalMs": POLL_MS}


def detailed(future: Future, epoch: float, *, asks: bool = True) -> dict[str, Any]:
    """Return a task with the fields of its status: questions, the result, the error (2026-07-28).

    Args:
        asks: its questions may be put to this client.
    """
    task = {**_core(future, epoch), "ttlMs": _ttl_ms(future), "pollIntervalMs": POLL_MS}
    match task["status"]:
        case "input_required":
            task["inputRequests"] = {
                question.id: {"method": question.method, "params": question.params_for_client}
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
    """Return the JSON-RPC error of a task that failed without a result."""
    if isinstance(future.failure, ProtocolFailure):
        body: dict[str, Any] = {"code": future.failure.code, "message": future.failure.message}
        return body if future.failure.data is None else {**body, "data": future.failure.data}
    return {"code": INTERNAL_ERROR, "message": str(future.failure)}


def experimental(future: Future, epoch: float) -> dict[str, Any]:
    """Return a task in the form of 2025-11-25."""
    return {**_core(future, epoch), "ttl": _ttl_ms(future), "pollInterval": POLL_MS}
