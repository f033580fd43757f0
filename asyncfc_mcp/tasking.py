"""The `tasks/…` methods of both revisions that have them: a future is a task with the same ID.

Owns those methods; what a task looks like is `tasks`'.
"""

from collections.abc import Mapping
from typing import Any, cast

from asyncfc_mcp import answers, tasks
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.calls import ToolCalls
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.futures import Future, Result, Scope
from asyncfc_mcp.metatools import CANCEL_WAIT_S
from asyncfc_mcp.protocol import INVALID_PARAMS, METHOD_NOT_FOUND
from asyncfc_mcp.requests import Handler, Request, ambiguity_refused, awaited, need_tasks, paged
from asyncfc_mcp.scheduler import wait_for


class Tasks:
    """Answers for the futures of one scope."""

    def __init__(self, bridge: Bridge, scope: Scope, calls: ToolCalls) -> None:
        self.bridge = bridge
        self._scope = scope
        self._calls = calls
        self.methods: Mapping[str, Handler] = {
            "tasks/get": awaited(self._get_task),
            "tasks/cancel": awaited(self._cancel_task),
        }
        self.handshake_methods: Mapping[str, Handler] = {
            "tasks/result": awaited(self._task_result),
            "tasks/list": awaited(self._list_tasks),
        }
        self.modern_methods: Mapping[str, Handler] = {"tasks/update": awaited(self._update_task)}

    def _task_future(self, request: Request) -> Future:
        """The future that a `tasks/…` request is about.

        Raises:
            RpcError: there is none, or the client may not ask.
        """
        _admit(request)
        task_id = request.params.get("taskId")
        future = None
        if isinstance(task_id, str):
            with ambiguity_refused():
                future = self.bridge.store.find(self._scope, task_id, self._calls.caller(request).namer)
        if future is None:
            fate = self.bridge.store.fate(self._scope, task_id) if isinstance(task_id, str) else None
            raise RpcError(INVALID_PARAMS, f"Task not found: {task_id}{f' {fate}' if fate else ''}")
        return future

    async def _get_task(self, request: Request) -> Result:
        future = self._task_future(request)
        if not request.modern:
            return tasks.experimental(future, self._calls.epoch)
        if future.done:
            self.bridge.store.mark_read(future)
        return tasks.detailed(future, self._calls.epoch, asks=future.may_be_of(self._calls.caller(request).identity))

    async def _cancel_task(self, request: Request) -> Result:
        future = self._task_future(request)
        if future.done and not request.modern:
            raise RpcError(INVALID_PARAMS, f"Task {future.id} has ended: {tasks.status(future)}")
        self.bridge.scheduler.cancel(future)
        if request.modern:
            return {}
        await wait_for([future], timeout_s=CANCEL_WAIT_S)
        return tasks.experimental(future, self._calls.epoch)

    async def _update_task(self, request: Request) -> Result:
        future = self._task_future(request)
        responses = request.params.get("inputResponses")
        if not isinstance(responses, dict):
            raise RpcError(INVALID_PARAMS, "tasks/update: inputResponses must be an object")
        if not future.may_be_of(self._calls.caller(request).identity):
            problem = "its questions are for the session or conversation that made the call"
            raise RpcError(INVALID_PARAMS, f"tasks/update: {future.id} is another client's; {problem}")
        for question_id, answer in cast("dict[str, Any]", responses).items():
            question = future.questions.get(question_id)
            if question is not None and isinstance(answer, dict):
                question.settle(cast("dict[str, Any]", answer))
        return {}

    async def _task_result(self, request: Request) -> Result:
        """The result of a task, as soon as there is one (2025-11-25)."""
        future = self._task_future(request)
        await self._calls.attend(future, self._calls.caller(request))
        self.bridge.store.mark_read(future)
        if future.result is None:
            failure = tasks.error(future)
            raise RpcError(failure["code"], failure["message"], failure.get("data"))
        return {**future.result, "_meta": {**answers.meta_of(future.result), tasks.RELATED: {"taskId": future.id}}}

    async def _list_tasks(self, request: Request) -> Result:
        _admit(request)
        futures = [tasks.experimental(future, self._calls.epoch) for future in self.bridge.store.newest(self._scope)]
        return paged(request.params, "tasks", futures)


def _admit(request: Request) -> None:
    """Let only clients through whose protocol has tasks.

    Raises:
        RpcError: it has none, or the client has not declared them.
    """
    if request.modern:
        need_tasks(request)
    elif request.version != tasks.EXPERIMENTAL_VERSION:
        raise RpcError(METHOD_NOT_FOUND, "Method not found", request.method)
