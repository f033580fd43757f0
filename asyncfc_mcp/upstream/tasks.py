"""The `tasks/…` methods of both revisions that have them: a future is a task with the same ID.

Owns those methods. Leaves the form of a task to `task_shapes`.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.engine.question_rules import MAX_OPEN
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, METHOD_NOT_FOUND
from asyncfc_mcp.upstream import answers, task_shapes
from asyncfc_mcp.upstream.clients import Clients
from asyncfc_mcp.upstream.long_poll import CANCEL_WAIT_S, load
from asyncfc_mcp.upstream.request import Handler, Request, ambiguity_refused, awaited, paged, require_tasks_extension
from asyncfc_mcp.upstream.sync_calls import SyncCalls


class Tasks:
    """Answers `tasks/…` requests with the futures of their scope.

    Args:
        epoch: the wall clock when the monotonic clock was zero, in seconds.
    """

    def __init__(self, bridge: Bridge, clients: Clients, sync_calls: SyncCalls, epoch: float) -> None:
        self.bridge = bridge
        self._clients = clients
        self._sync_calls = sync_calls
        self._epoch = epoch
        self.methods: Mapping[str, Handler] = {
            "tasks/get": awaited(self._get_task),
            "tasks/cancel": awaited(self._cancel_task),
        }
        self.handshake_methods: Mapping[str, Handler] = {
            "tasks/result": awaited(self._task_result),
            "tasks/list": awaited(self._list_tasks),
        }
        self.modern_methods: Mapping[str, Handler] = {"tasks/update": awaited(self._update_task)}

    async def _task_future(self, request: Request) -> Future:
        """Return the future that a `tasks/…` request names.

        Raises:
            RpcError: there is none, or the client's protocol has no tasks.
        """
        _require_tasks(request)
        task_id = request.params.get("taskId")
        future = None
        if isinstance(task_id, str):
            with ambiguity_refused():
                future = await self.bridge.engine.find(request.scope, task_id, self._clients.caller(request).namer)
        if future is None:
            fate = await self.bridge.engine.fate(request.scope, task_id) if isinstance(task_id, str) else None
            raise RpcError(INVALID_PARAMS, f"Task not found: {task_id}{f' {fate}' if fate else ''}")
        return future

    async def _get_task(self, request: Request) -> Result:
        future = await self._task_future(request)
        if not request.modern:
            return task_shapes.experimental(future, self._epoch)
        if future.done:
            self.bridge.engine.mark_read(future)
        asks = future.may_be_of(self._clients.caller(request).identity)
        return task_shapes.detailed(future, self._epoch, asks=asks)

    async def _cancel_task(self, request: Request) -> Result:
        future = await self._task_future(request)
        if future.done and not request.modern:
            raise RpcError(INVALID_PARAMS, f"Task {future.id} has ended: {task_shapes.status(future)}")
        await self.bridge.engine.cancel(future)
        if request.modern:
            return {}
        await self.bridge.engine.wait([future], timeout_s=CANCEL_WAIT_S)
        return task_shapes.experimental(future, self._epoch)

    async def _update_task(self, request: Request) -> Result:
        future = await self._task_future(request)
        responses = request.params.get("inputResponses")
        if not isinstance(responses, dict):
            raise RpcError(INVALID_PARAMS, "tasks/update: inputResponses must be an object")
        if not future.may_be_of(self._clients.caller(request).identity):
            problem = "its questions are for the session or conversation that made the call"
            raise RpcError(INVALID_PARAMS, f"tasks/update: {future.id} is another client's; {problem}")
        for question_id, answer in islice(cast("dict[str, Any]", responses).items(), MAX_OPEN):
            if question_id not in future.questions:
                await self.bridge.engine.question(question_id)  # of another replica, where it was asked a moment ago
            question = future.questions.get(question_id)
            if question is not None and isinstance(answer, dict):
                await self.bridge.engine.answer(question, cast("dict[str, Any]", answer))
        return {}

    async def _task_result(self, request: Request) -> Result:
        """Wait for the end of a task, and return its result (2025-11-25)."""
        future = await self._task_future(request)
        await self._sync_calls.wait_until_done(future, self._clients.caller(request))
        await load(self.bridge, [future])
        self.bridge.engine.mark_read(future)
        if future.result is None:
            failure = task_shapes.error(future)
            raise RpcError(failure["code"], failure["message"], failure.get("data"))
        related = {task_shapes.RELATED: {"taskId": future.id}}
        return {**future.result, "_meta": {**answers.meta_of(future.result), **related}}

    async def _list_tasks(self, request: Request) -> Result:
        _require_tasks(request)
        futures = await self.bridge.engine.list_futures(request.scope)
        return paged(request.params, "tasks", [task_shapes.experimental(each, self._epoch) for each in futures])


def _require_tasks(request: Request) -> None:
    """Require a client whose protocol has tasks.

    Raises:
        RpcError: it has none, or the client has not declared them.
    """
    if request.modern:
        require_tasks_extension(request)
    elif request.version != task_shapes.EXPERIMENTAL_VERSION:
        raise RpcError(METHOD_NOT_FOUND, "Method not found", request.method)
