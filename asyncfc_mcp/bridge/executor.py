"""Executor: makes an engine's calls at the wrapped servers.

Owns the parameters of `tools/call`, and what leads to a result after the first answer: tasks are followed, questions
answered and the call sent again. When a call runs, and how often it is tried, is the engine's to decide.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

from asyncfc_mcp.bridge.argument_checks import Checker
from asyncfc_mcp.bridge.caller_connections import CallerConnections
from asyncfc_mcp.bridge.offered_capabilities import OfferedCapabilities
from asyncfc_mcp.bridge.outgoing import Outgoing
from asyncfc_mcp.bridge.server_tasks import follow_task
from asyncfc_mcp.bridge.shape_learner import ShapeLearner
from asyncfc_mcp.bridge.sign_ins import SignIns
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.core.outcome import CancelRequest, CompletionCallback, Outcome
from asyncfc_mcp.core.overridden_tools import without_values
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import ToolRules
from asyncfc_mcp.engine.question_rules import MAX_ROUNDS
from asyncfc_mcp.errors import (
    AskedTooOften,
    CallFailed,
    NotSignedIn,
    OwnConnectionGone,
    ProtocolFailure,
    ServerDied,
    ServerRemoved,
    ServerUnavailable,
)
from asyncfc_mcp.protocol import LOG_LEVEL_META_KEY, Deferred, OnProgress, OnSent
from asyncfc_mcp.values.large import is_large

_HOP_KEYS: Final = ("io.modelcontextprotocol/", "asyncfc/")
"""Prefixes of `_meta` keys that belong to one hop; they are not passed on."""


class Executor:
    """Implements `engine.executor_api.Executor`.

    Args:
        engine: has questions of servers answered.
        downstreams: server → its connection.
        shapes: learns from results.
        find_tool: returns the tool of a server by its own name; see `Directory.wait_for_own_tool`.
        add_user: called with the server and the principal of each call of another replica.
        callers: have the connections to servers that are not among `downstreams`.
        sign_ins: asks the users of calls to sign in.

    Attributes:
        log_level: least level of log messages that clients want; None where none has said.
        outgoing: traces the calls; None: nothing does.
    """

    def __init__(
        self,
        engine: Engine,
        downstreams: Mapping[str, Downstream],
        shapes: ShapeLearner,
        find_tool: Callable[[str, str], Awaitable[ToolRoute | None]],
        add_user: Callable[[str, Scope], None],
        callers: CallerConnections | None = None,
        sign_ins: SignIns | None = None,
    ) -> None:
        self._sign_ins = sign_ins or SignIns(engine, downstreams)
        self._callers = callers
        self._engine = engine
        self._add_user = add_user
        self._find_tool = find_tool
        self._shapes = shapes
        self.path_missing = shapes.path_missing
        self._downstreams = downstreams
        self._checker = Checker()
        self.check = self._checker.first_error
        self._capabilities = OfferedCapabilities()
        self.log_level: str | None = None
        self.outgoing: Outgoing | None = None

    async def aclose(self) -> None:
        """End the processes that check arguments."""
        await self._checker.aclose()

    async def execute(
        self, call: Call, arguments: dict[str, Any] | None, on_progress: OnProgress, on_sent: OnSent
    ) -> Result:
        params = self._params(call, arguments)
        return await self._finish(call, params, *await self._request(call, params, on_progress, on_sent))

    def _downstream(self, call: Call) -> Downstream:
        """Return the connection on which a call is made.

        Raises:
            OwnConnectionGone: it needs its caller's own connection, which there is not any more.
            ServerRemoved: the configuration no longer has its server.
        """
        server = call.future.server
        downstream = self._downstreams.get(server)
        if downstream is not None:
            return downstream
        if self._callers is None:
            raise ServerRemoved(server)
        return self._callers.downstream(call.credentials, server)

    def execute_nowait(
        self, call: Call, arguments: dict[str, Any] | None, completed: CompletionCallback
    ) -> CancelRequest | None:
        try:
            downstream = self._downstream(call)
        except CallFailed:
            return None
        params = self._params(call, arguments)

        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, ProtocolFailure):
                outcome = self._for_client(call, outcome)
            elif isinstance(outcome, Deferred):
                outcome = Deferred(partial(self._finish_deferred, call, params, downstream, outcome))
            elif isinstance(outcome, NotSignedIn) and self._sign_ins.may_ask(call, outcome.needed):
                outcome = Deferred(partial(self._after_sign_in, call, params, outcome))
            elif isinstance(outcome, CallFailed):
                pass
            elif _is_final(call, outcome):
                outcome = _without_secrets(outcome, self._secrets(call))
                self._shapes.observe(call, outcome)
            else:
                outcome = Deferred(partial(self._finish, call, params, outcome, downstream))
            completed(outcome)

        return downstream.request_nowait(
            "tools/call",
            params,
            answered,
            on_progress=call.on_progress,
            capabilities=self._capabilities.of(call.capabilities),
            cause=call,
            limited=call.policy.timeout_s is not None,
            on_id=None if self.outgoing is None else self.outgoing.on_request_id(call),
        )

    def coming_up(self, call: Call) -> Callable[[], Awaitable[None]] | None:
        try:
            return self._downstream(call).coming_up()
        except CallFailed:
            return None

    async def rules_of(self, server: str, tool: str, session: str | None = None) -> ToolRules | None:
        find, credentials = self._find_tool, None
        if self._callers is not None and server not in self._downstreams:
            connected = await self._callers.resumed(server, session)
            find, credentials = connected.directory.wait_for_own_tool, connected.key
        route = await find(server, tool)
        if route is None:
            return None
        entry = route.entry
        return ToolRules(entry.policy, route.validator, entry.input_schema, entry.preset, credentials)

    async def resume(self, call: Call, arguments: dict[str, Any] | None, result: Result) -> Result:
        call.on_sent()
        return await self._finish(call, self._params(call, arguments), result, self._downstream(call))

    def _params(self, call: Call, arguments: dict[str, Any] | None) -> dict[str, Any]:
        if call.elsewhere:
            self._add_user(call.future.server, call.future.scope)
        params: dict[str, Any] = {"name": call.tool}
        if call.preset is not None:
            params["arguments"] = call.preset.filled(arguments)
        elif arguments is not None:
            params["arguments"] = arguments
        downstream = self._downstream(call)
        if call.needs_task and not downstream.modern:
            params["task"] = {}
        meta = passed_on(call.meta)
        if self.outgoing is not None:
            meta |= self.outgoing.of_call(call)
        level = (call.meta or {}).get(LOG_LEVEL_META_KEY, self.log_level)
        if level is not None and downstream.modern:
            meta[LOG_LEVEL_META_KEY] = level
        if meta:
            params["_meta"] = meta
        params |= call.answers
        return params

    async def _request(
        self,
        call: Call,
        params: dict[str, Any],
        on_progress: OnProgress,
        on_sent: OnSent | None = None,
        begun_at: Downstream | None = None,
    ) -> tuple[Result, Downstream]:
        """Make a call; return the answer and the connection that it is from.

        Args:
            begun_at: the connection that has the first part of the call; None before that. Only that one can go on with
                it: a server that was started anew meanwhile knows nothing of it.
        """
        signed_in = False
        while True:
            downstream = begun_at or self._downstream(call)
            try:
                result = await downstream.request(
                    "tools/call",
                    params,
                    on_progress=on_progress,
                    on_sent=on_sent,
                    capabilities=self._capabilities.of(call.capabilities),
                    cause=call,
                    limited=call.policy.timeout_s is not None,
                    on_id=None if self.outgoing is None else self.outgoing.on_request_id(call),
                )
                return result, downstream
            except ProtocolFailure as exc:
                raise self._for_client(call, exc) from None
            except NotSignedIn as exc:
                if signed_in or not self._sign_ins.may_ask(call, exc.needed):
                    raise
                needed = exc.needed
            except ServerUnavailable:
                if begun_at is not None or self._downstream(call) is downstream:
                    raise
                continue  # a change of the configuration has replaced the connection that the call waited for
            await self._sign_ins.wait(call, needed)
            signed_in = True

    async def _after_sign_in(self, call: Call, params: dict[str, Any], failure: NotSignedIn) -> Result:
        """Make a call again that its server has not processed, after its user has signed in."""
        call.on_sent(False)
        await self._sign_ins.wait(call, failure.needed)
        return await self._finish(call, params, *await self._request(call, params, call.on_progress, call.on_sent))

    def _secrets(self, call: Call) -> Sequence[str]:
        """Return the values that no error of a call shows: servers quote the arguments and credentials that they
        refuse. Those that the configuration put in, and the caller's credentials."""
        secrets = () if call.preset is None else call.preset.secrets
        if call.credentials is not None:
            with suppress(OwnConnectionGone):
                secrets = (*secrets, *self._downstream(call).secrets)
        return secrets

    def _for_client(self, call: Call, failure: ProtocolFailure) -> ProtocolFailure:
        """Return a server's error under the name that clients know, without secrets."""
        message, data = failure.message, failure.data
        if secrets := self._secrets(call):
            message, data = without_values([message, None if is_large(data) else data], secrets)
        return ProtocolFailure(call.future.tool, failure.code, message, data)

    async def _finish_deferred(
        self, call: Call, params: dict[str, Any], downstream: Downstream, deferred: Deferred
    ) -> Result:
        """Finish a call that had to be sent again."""
        try:
            result = await deferred()
        except ProtocolFailure as exc:
            raise self._for_client(call, exc) from None
        return await self._finish(call, params, result, downstream)

    async def _finish(self, call: Call, params: dict[str, Any], result: Result, downstream: Downstream) -> Result:
        """Return the result of a call whose first answer this is: a task is followed, questions are answered and the
        call is sent again.

        Raises:
            CallFailed: it has none. Never `ServerUnavailable`: the first part of the call was sent.
        """
        try:
            result = await self._finish_sent(call, params, result, downstream)
        except ServerUnavailable as exc:
            raise ServerDied(exc.server, exc.how) from None
        result = _without_secrets(result, self._secrets(call))
        self._shapes.observe(call, result)
        return result

    async def _finish_sent(self, call: Call, params: dict[str, Any], result: Result, downstream: Downstream) -> Result:
        for left in reversed(range(MAX_ROUNDS)):
            if _is_final(call, result):
                return result
            kind, task = result.get("resultType"), result.get("task")
            if kind is None:
                return await follow_task(self._engine, call, downstream, cast("dict[str, Any]", task), extension=False)
            if kind == "task":
                return await follow_task(self._engine, call, downstream, result, extension=True)
            if kind != "input_required":
                raise CallFailed(f"{call.future.tool} answered with a result of an unknown type: {kind!r:.80}")
            params = {key: value for key, value in params.items() if key not in ("inputResponses", "requestState")}
            params |= await self._engine.answer_round(call, result)
            if left:
                result, _ = await self._request(call, params, call.on_progress, begun_at=downstream)
        raise AskedTooOften(call.future.tool, MAX_ROUNDS)


def passed_on(meta: object) -> dict[str, Any]:
    """Return the part of a request's `_meta` that is for the server: without this hop's envelope, the progress token
    and the bridge's own keys."""
    if not meta or not isinstance(meta, dict):
        return {}
    return {
        key: value
        for key, value in cast("dict[str, Any]", meta).items()
        if not key.startswith(_HOP_KEYS) and key != "progressToken"
    }


def _without_secrets(result: Result, secrets: Sequence[str]) -> Result:
    """Return a result, of an error without these values; any other as it is."""
    if not secrets or result.get("isError") is not True:
        return result
    if is_large(result):
        text = "the tool failed; its error is not shown: it is too long to be searched for secrets"
        return {"content": [{"type": "text", "text": text}], "isError": True}
    return without_values(result, secrets)


def _is_final(call: Call, result: Result) -> bool:
    """Return whether an answer is the result of a call: neither a task to follow nor questions to answer."""
    kind = result.get("resultType")
    if kind is None:
        return "content" in result or not isinstance(result.get("task"), dict)
    return kind == "complete" or (kind == "input_required" and call.forward_questions)
