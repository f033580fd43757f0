"""Calls that a server made tasks of: followed to their end, their questions answered, cancelled with their future.

Owns both revisions' ways of following (the extension of 2026-07-28, and 2025-11-25's own). Serving tasks is
`tasking`'s.
"""

from contextlib import suppress
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.downstream import Downstream
from asyncfc_mcp.errors import CallFailed, CannotAsk, MalformedQuestion, ProtocolFailure, Unanswered
from asyncfc_mcp.futures import Result
from asyncfc_mcp.questions import Questions, input_requests
from asyncfc_mcp.scheduler import Call

TASK_POLL_S: Final = (0.05, 1.0, 30.0)
"""How often a server's task is asked for: at most, where the server does not say, and at least, in seconds."""
ENDED: Final = ("completed", "failed", "cancelled")
TASK_CANCEL_S: Final = 5.0
"""How long telling a server to cancel its task may take."""


async def follow_task(
    questions: Questions, call: Call, downstream: Downstream, task: dict[str, Any], *, extension: bool
) -> Result:
    """The result of a call that the server made a task of: asked for as often as it says, its questions answered.

    Args:
        extension: the tasks extension of 2026-07-28, whose `tasks/get` brings the result; else those of 2025-11-25.

    Raises:
        CallFailed: the task has none. Being cancelled cancels the task.
    """
    task_id = task.get("taskId")
    if not isinstance(task_id, str):
        raise CallFailed(f"{call.future.tool} became a task without an ID")
    about = {"taskId": task_id}
    asked: set[str] = set()
    over = False
    try:
        while True:
            said = task.get("statusMessage")
            if isinstance(said, str):
                done = call.future.progress[0] if call.future.progress is not None else 0.0
                call.on_progress(done, None, said)
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
                    raise CallFailed(
                        f"the server cancelled the task of {call.future.tool}: {said or 'no reason given'}"
                    )
                case "completed" | "failed":
                    return await downstream.request("tasks/result", about)
                case "input_required" if extension:
                    asks = input_requests(call.future.tool, task)
                    fresh = {key: question for key, question in asks.items() if key not in asked}
                    if fresh:
                        answered = await questions.answer_round(call, {"inputRequests": fresh})
                        asked |= fresh.keys()
                        await downstream.request("tasks/update", {**about, **answered})
                case "input_required":
                    # The questions come as requests while its result is waited for.
                    return await downstream.request("tasks/result", about)
                case _:
                    pass
            pause_ms = task.get("pollIntervalMs" if extension else "pollInterval")
            pause_s = pause_ms / 1000 if isinstance(pause_ms, int | float) else TASK_POLL_S[1]
            await anyio.sleep(min(max(pause_s, TASK_POLL_S[0]), TASK_POLL_S[2]))
            task = await downstream.request("tasks/get", about)
    except anyio.get_cancelled_exc_class():
        await _cancel(downstream, about)
        raise
    except ProtocolFailure as exc:
        if not over:
            await _cancel(downstream, about)
        raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None
    except (CannotAsk, MalformedQuestion, Unanswered):
        await _cancel(downstream, about)
        raise


async def _cancel(downstream: Downstream, about: dict[str, Any]) -> None:
    """Nobody will fetch the task's result any more; best effort."""
    with anyio.move_on_after(TASK_CANCEL_S, shield=True), suppress(CallFailed):
        await downstream.request("tasks/cancel", about)
