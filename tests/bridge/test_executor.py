"""The executor: parameters of `tools/call`, and the way from a server's first answer to a result.

Over a server that answers what the test says. What travels on the wire is `e2e/test_protocol.py`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from asyncfc_mcp.bridge.executor import Executor, passed_on
from asyncfc_mcp.bridge.offered_capabilities import offered_capabilities
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.outcome import Outcome
from asyncfc_mcp.core.overridden_tools import Preset
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.question_rules import MAX_ROUNDS
from asyncfc_mcp.errors import AskedTooOften, CallFailed, ProtocolFailure, ServerDied, ServerUnavailable
from asyncfc_mcp.protocol import LOG_LEVEL_META_KEY, Deferred
from tests.support.parked_calls import OK, text
from tests.support.server_states import own_state

pytestmark = pytest.mark.anyio

ASKING: Result = {"resultType": "input_required", "inputRequests": {}, "requestState": "s"}
GONE = ServerUnavailable("s", "is starting")


class Server:
    """In place of a `Downstream`: answers with one outcome after the other, and keeps what it was sent."""

    def __init__(self, *outcomes: Outcome, modern: bool = True) -> None:
        self.modern = modern
        self.outcomes = list(outcomes)
        self.got: list[dict[str, Any]] = []
        self.options: list[Mapping[str, Any]] = []
        self.completed: Callable[[Outcome], None] | None = None
        self.cancelled: list[str] = []

    async def request(self, method: str, params: dict[str, Any], **options: Any) -> Result:
        assert method == "tools/call"
        self.got.append(params)
        self.options.append(options)
        if isinstance(outcome := self.outcomes.pop(0), CallFailed):
            raise outcome
        return cast("Result", outcome)

    def request_nowait(
        self, method: str, params: dict[str, Any], completed: Callable[[Outcome], None], **options: Any
    ) -> Any:
        assert method == "tools/call"
        self.got.append(params)
        self.options.append(options)
        self.completed = completed
        return self.cancelled.append


class Answers:
    """In place of an engine: answers every round."""

    def __init__(self) -> None:
        self.rounds: list[Result] = []

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        self.rounds.append(result)
        return {"inputResponses": {"k": len(self.rounds)}, "requestState": f"s{len(self.rounds)}"}


def call_of(**more: Any) -> Call:
    return Call(Future("f1", LOCAL, "s__tool", "s"), "tool", None, Policy(), **more)


class Shapes:
    """What is learned from: every final result, once."""

    def __init__(self) -> None:
        self.seen: list[Result] = []

    def observe(self, call: Call, result: Result) -> None:
        self.seen.append(result)

    def path_missing(self, source: Future) -> None: ...


async def no_tool(server: str, tool: str) -> ToolRoute | None:
    return None


def executor_of(server: Server, engine: Any = None, shapes: Any = None, find_tool: Any = no_tool) -> Executor:
    return Executor(
        engine or Answers(),
        cast("Any", {"s": server}),
        shapes or cast("Any", Shapes()),
        find_tool,
        lambda server, scope: None,
    )


async def execute(server: Server, call: Call, arguments: Any = None, engine: Any = None, shapes: Any = None) -> Result:
    executor = executor_of(server, engine, shapes)
    return await executor.execute(call, arguments, call.on_progress, call.on_sent)


# --- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [None, {}, {"a": 1}])
async def test_a_call_is_sent_under_the_servers_name_with_its_arguments_as_they_are(arguments: Any):
    """None stays none."""
    server = Server(OK)
    assert await execute(server, call_of(), arguments) is OK
    assert server.got == [{"name": "tool"} if arguments is None else {"name": "tool", "arguments": arguments}]


@pytest.mark.parametrize(
    ("modern", "needs_task", "task"), [(False, True, True), (True, True, False), (False, False, False)]
)
async def test_a_task_is_asked_for_where_the_server_requires_it(modern: bool, needs_task: bool, task: bool):
    """By a server of 2025-11-25; those of 2026-07-28 decide for themselves."""
    server = Server(OK, modern=modern)
    await execute(server, call_of(needs_task=needs_task))
    assert ("task" in server.got[0]) is task


async def test_the_envelope_of_one_hop_is_not_passed_on():
    """Neither ours nor the protocol's; what is the client's and the server's own is."""
    ours = {"progressToken": 1, "asyncfc/conversation": "c", "io.modelcontextprotocol/clientInfo": {}}
    assert passed_on({**ours, "vendor/trace": "t"}) == {"vendor/trace": "t"}
    assert passed_on(ours) == passed_on(None) == passed_on({}) == passed_on("no object") == passed_on([1]) == {}
    server = Server(OK, OK)
    await execute(server, call_of(meta={**ours, "vendor/trace": "t"}))
    await execute(server, call_of(meta=ours))
    assert [got.get("_meta") for got in server.got] == [{"vendor/trace": "t"}, None]


@pytest.mark.parametrize(("own", "all_", "sent"), [("debug", "error", "debug"), (None, "error", "error")])
async def test_the_log_level_is_the_calls_own_or_that_of_all(own: str | None, all_: str, sent: str):
    """In `_meta`, for servers of 2026-07-28; others were asked by a request."""
    for modern in (True, False):
        server = Server(OK, modern=modern)
        executor = executor_of(server)
        executor.log_level = all_
        call = call_of(meta={LOG_LEVEL_META_KEY: own} if own else None)
        await executor.execute(call, None, call.on_progress, call.on_sent)
        assert server.got[0].get("_meta") == ({LOG_LEVEL_META_KEY: sent} if modern else None)


async def test_a_servers_offer_is_what_the_client_can_be_asked():
    """And following tasks; nothing else that the client declared."""
    declared = {"elicitation": {"form": {}}, "roots": None, "vendor": {}}
    offered = offered_capabilities(declared)
    assert set(offered) == {"elicitation", "extensions"}
    server = Server(OK, OK)
    await execute(server, call_of(capabilities=declared))
    await execute(server, call_of())
    assert [options["capabilities"] for options in server.options] == [offered, offered_capabilities({})]


async def test_answers_of_a_call_that_is_sent_again_go_with_it():
    """As the client sent them."""
    server = Server(OK)
    await execute(server, call_of(answers={"requestState": "x", "inputResponses": {"k": {}}}))
    assert server.got == [{"name": "tool", "requestState": "x", "inputResponses": {"k": {}}}]


# --- from an answer to a result ------------------------------------------------------------------------------------


async def test_a_protocol_error_names_the_tool_as_clients_call_it():
    """Code, message and data are the server's."""
    with pytest.raises(ProtocolFailure, match="s__tool") as caught:
        await execute(Server(ProtocolFailure("tools/call", -5, "no", [1])), call_of())
    assert (caught.value.code, caught.value.message, caught.value.data) == (-5, "no", [1])


async def test_questions_are_answered_and_the_call_sent_again():
    """With the answers of the last round only, and all else as it was."""
    server, engine = Server(ASKING, {**ASKING, "requestState": "t"}, OK), Answers()
    assert await execute(server, call_of(meta={"vendor/trace": "t"}), {"a": 1}, engine) is OK
    first = {"name": "tool", "arguments": {"a": 1}, "_meta": {"vendor/trace": "t"}}
    assert server.got == [
        first,
        {**first, "inputResponses": {"k": 1}, "requestState": "s1"},
        {**first, "inputResponses": {"k": 2}, "requestState": "s2"},
    ]
    assert [each["requestState"] for each in engine.rounds] == ["s", "t"]


async def test_every_final_result_is_learned_from_once():
    """The one after questions, too; neither the questions nor a failure."""
    shapes = Shapes()
    await execute(Server(OK), call_of(), shapes=shapes)
    assert shapes.seen == [OK]
    await execute(Server(ASKING, OK), call_of(), shapes=shapes)
    assert shapes.seen == [OK, OK]
    with pytest.raises(ProtocolFailure):
        await execute(Server(ProtocolFailure("tools/call", -5, "no", None)), call_of(), shapes=shapes)
    assert shapes.seen == [OK, OK]


async def test_a_call_is_not_sent_again_without_end():
    """After so many rounds it fails, and the last questions are answered for nothing more."""
    server = Server(*[ASKING] * (MAX_ROUNDS + 5))
    with pytest.raises(AskedTooOften):
        await execute(server, call_of())
    assert len(server.got) == MAX_ROUNDS


async def test_where_questions_are_forwarded_they_are_the_result():
    """Nobody is asked here."""
    engine = Answers()
    assert await execute(Server(ASKING), call_of(forward_questions=True), engine=engine) is ASKING
    assert not engine.rounds


async def test_a_result_of_an_unknown_type_fails_its_call():
    """The text names the type; one that says `complete` is a result."""
    with pytest.raises(CallFailed, match="unknown type: 'surprise'"):
        await execute(Server({"resultType": "surprise"}), call_of())
    complete = {**OK, "resultType": "complete"}
    assert await execute(Server(complete), call_of()) is complete


async def test_a_server_that_is_gone_after_the_first_answer_has_died():
    """The call may have taken effect, so it is no longer one that was not sent."""
    with pytest.raises(ServerUnavailable):
        await execute(Server(GONE), call_of())
    with pytest.raises(ServerDied):
        await execute(Server(ASKING, GONE), call_of())


# --- without a task ------------------------------------------------------------------------------------------------


def nowait(server: Server, call: Call, arguments: Any = None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    executor = executor_of(server)
    cancel = executor.execute_nowait(call, arguments, outcomes.append)
    assert cancel is not None
    cancel("reason")
    assert server.cancelled == ["reason"]
    assert server.completed is not None
    return outcomes


async def test_a_result_or_failure_is_the_outcome_at_once():
    """The very same object; a protocol error under the name that clients know."""
    for outcome in (OK, text("no", isError=True), GONE):
        server = Server()
        outcomes = nowait(server, call_of(), {"a": 1})
        assert server.got == [{"name": "tool", "arguments": {"a": 1}}]
        assert server.completed is not None
        server.completed(outcome)
        assert outcomes == [outcome]
        assert outcomes[0] is outcome
    server = Server()
    outcomes = nowait(server, call_of())
    assert server.completed is not None
    server.completed(ProtocolFailure("tools/call", -5, "no", None))
    (failure,) = outcomes
    assert isinstance(failure, ProtocolFailure)
    assert "s__tool" in str(failure)


@pytest.mark.parametrize("deferred", [False, True])
async def test_what_is_no_result_yet_is_finished_by_the_continuation(deferred: bool):
    """Questions after the first answer, or a call that the connection had to send again."""
    server = Server(OK)
    outcomes = nowait(server, call_of())
    assert server.completed is not None

    async def again() -> Result:
        return ASKING

    server.completed(Deferred(again) if deferred else ASKING)
    (continuation,) = outcomes
    assert isinstance(continuation, Deferred)
    assert await continuation() is OK
    assert server.got[1] == {"name": "tool", "inputResponses": {"k": 1}, "requestState": "s1"}


async def test_a_continuation_names_the_tool_in_its_protocol_error():
    """Like a call that is made in a task."""
    server = Server()
    outcomes = nowait(server, call_of())

    async def again() -> Result:
        raise ProtocolFailure("tools/call", -5, "no", None)

    assert server.completed is not None
    server.completed(Deferred(again))
    with pytest.raises(ProtocolFailure, match="s__tool"):
        await cast("Deferred", outcomes[0])()


# --- rules for calls of another run --------------------------------------------------------------------------------


async def test_the_rules_of_a_tool_are_those_of_today():
    """Policy, schema and arguments from the configuration, as they would hold for a new call; None without the tool."""
    raw = {"name": "tool", "inputSchema": {"type": "object", "required": ["a"]}}
    preset = Preset(fixed={"key": 1})
    entry = ToolEntry("s__tool", "s", "tool", raw, raw, Policy(timeout_s=5), preset=preset)
    route = ToolRoute.of(entry, own_state("s"))

    async def find_tool(server: str, tool: str) -> ToolRoute | None:
        return route if (server, tool) == ("s", "tool") else None

    executor = executor_of(Server(), find_tool=find_tool)
    rules = await executor.rules_of("s", "tool")
    assert rules is not None
    assert (rules.policy.timeout_s, rules.schema, rules.preset) == (5, raw["inputSchema"], preset)
    assert rules.validator is route.validator
    assert await executor.rules_of("s", "other") is None
