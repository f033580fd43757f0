"""Tasks of servers: polled until they end, their questions answered, cancelled with the future of their call.

Owns polling in both forms (the extension of 2026-07-28, and tasks of 2025-11-25). Leaves tasks for clients to
`upstream.tasks`.
"""

from contextlib import suppress
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.question_rules import input_requests
from asyncfc_mcp.errors import CallFailed, ProtocolFailure, ToolFailed
from asyncfc_mcp.quotation import quoted

TASK_POLL_S: Final = (0.05, 1.0, 30.0)
"""Seconds between two polls of a task: minimum, default without the server's own interval, maximum."""
ENDED: Final = ("completed", "failed", "cancelled")
TASK_CANCEL_S: Final = 5.0
"""Timeout for the request that cancels a task, in seconds."""


async def follow_task(
    engine: Engine, call: Call, downstream: Downstream, task: dict[str, Any], *, extension: bool
) -> Result:
    """Return the result of a call that the server runs as a task: polled at the server's interval, questions answered.

    Args:
        extension: the tasks extension of 2026-07-28, in which `tasks/get` returns the result; else tasks of 2025-11-25.

    Raises:
        CallFailed: the task has no result. Cancelling this function cancels the task.
    """
    task_id = task.get("taskId")
    if not isinstance(task_id, str):
        raise CallFailed(f"{call.future.tool} became a task without an ID")
    about = {"taskId": task_id}
    asked: set[str] = set()
    over = False
    try:
        while True:
            words = task.get("statusMessage")
            if isinstance(words, str):
                done = call.future.progress[0] if call.future.progress is not None else 0.0
                call.on_progress(done, None, words)
            over = task.get("status") in ENDED
            match task.get("status"):
                case "completed" if extension:
                    result = task.get("result")
                    return cast("Result", result) if isinstance(result, dict) else {"content": []}
                case "failed" if extension:
                    error = cast("dict[str, Any]", task.get("error") or {})
                    code, message = error.get("code", -32603), error.get("message", "the task failed")
                    raise ProtocolFailure(call.future.tool, code, message, error.get("data"))
                case "cancelled":
                    reason = quoted(words) if isinstance(words, str) and words else "no reason given"
                    raise CallFailed(f"the server cancelled the task of {call.future.tool}: {reason}")
                case "completed" | "failed":
                    return await downstream.request("tasks/result", about, cause=call)
                case "input_required" if extension:
                    asks = input_requests(call.future.tool, task)
                    fresh = {key: question for key, question in asks.items() if key not in asked}
                    if fresh:
                        answered = await engine.answer_round(call, {"inputRequests": fresh})
                        asked |= fresh.keys()
                        await downstream.request("tasks/update", {**about, **answered}, cause=call)
                case "input_required":
                    # The server sends its questions as requests while its result is awaited.
                    return await downstream.request("tasks/result", about, cause=call)
                case _:
                    pass
            pause_ms = task.get("pollIntervalMs" if extension else "pollInterval")
            pause_s = pause_ms / 1000 if isinstance(pause_ms, int | float) else TASK_POLL_S[1]
            await anyio.sleep(min(max(pause_s, TASK_POLL_S[0]), TASK_POLL_S[2]))
            task = await downstream.request("tasks/get", about, cause=call)
    except anyio.get_cancelled_exc_class():
        await _cancel(downstream, about)
        raise
    except ProtocolFailure as exc:
        if not over:
            await _cancel(downstream, about)
        raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None
    except ToolFailed:  # a question that cannot be put, or has no answer
        await _cancel(downstream, about)
        raise


async def _cancel(downstream: Downstream, about: dict[str, Any]) -> None:
    """Cancel a task whose result is no longer needed; failures are ignored."""
    with anyio.move_on_after(TASK_CANCEL_S, shield=True), suppress(CallFailed):
        await downstream.request("tasks/cancel", about)
