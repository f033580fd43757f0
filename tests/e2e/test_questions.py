"""What servers ask while their calls run in the background, and how it reaches the user.

Every promise is kept in the four combinations of protocol eras: a client that is asked live (handshake) or in answers
(2026-07-28), over a server that asks live or answers with its questions (`tests/support/asking_server.py`).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, RpcError, eventually, records, text_of
from tests.support.stage import Stage
from tests.support.users import (
    ASKS_ANYTHING,
    COMBINATIONS,
    SERVER,
    Bench,
    Question,
    Refusal,
    User,
    answered,
    asking,
    heard,
    method_of,
    obliging,
    said,
)

_labels = itertools.count(1)


@pytest.fixture
def label() -> str:
    """By which a test finds its calls in the server's log."""
    return f"call {next(_labels)}"


@pytest.fixture(scope="module")
def benches(shared_stage: Stage) -> Mapping[tuple[str, str], Bench]:
    """For each combination a bridge that the tests of this module share."""
    return {combination: Bench(shared_stage, *combination) for combination in COMBINATIONS}


@pytest.fixture(params=COMBINATIONS, ids=[f"up-{up[:4]}-down-{down}" for up, down in COMBINATIONS])
def bench(request: pytest.FixtureRequest, benches: Mapping[tuple[str, str], Bench]) -> Iterator[Bench]:
    """A shared bridge, its client as it was, and nothing left open."""
    bench = benches[request.param]
    client = bench.client
    client.asked.clear()
    client.withdrawn.clear()
    yield bench
    client.__dict__.pop("reply", None)
    left = [
        entry["future_id"]
        for entry in client.call("list_futures")["structuredContent"]["futures"]
        if entry["status"] in ("waiting", "running", "input_required")
    ]
    for future in left:  # of a test that failed: the next one is to start afresh
        client.call("cancel_future", {"future_id": future})
    assert not left
    assert not client.open_requests


@pytest.fixture
def own(stage: Stage) -> Callable[..., Bench]:
    """A bridge of the test's own."""

    def make(up: str, down: str, **options: Any) -> Bench:
        return Bench(stage, up, down, **options)

    return make


combinations = pytest.mark.parametrize(("up", "down"), COMBINATIONS)


# --- asked and answered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["form", "url", "sampling", "roots"])
def test_a_question_reaches_whoever_awaits(bench: Bench, kind: str, label: str) -> None:
    """`list_futures` says that and what the server asks; `await_future` has it answered and returns the result."""
    client = bench.client
    asked: Question = (kind, f"Who is {label}?")
    future = client.ask([asked], label=label)
    if not (kind == "roots" and (bench.up, bench.down) == (HANDSHAKE, "handshake")):
        # Nobody has to be shown anything for roots: there they are asked for at once.
        entry = client.wait_for_question(future)
        assert entry["question"] == (asked[1] if kind in ("form", "url") else method_of(kind))
        assert f'asks: "{entry["question"]}"' in text_of(client.call("list_futures"))
        assert not client.asked
    result = client.dialog("await_future", {"future_id": future})
    assert said(result) == [answered(asked)]
    assert [method for method, _ in client.asked] == [method_of(kind)]
    assert client.listed(future)["status"] == "completed"


def test_the_handle_says_what_is_asked(bench: Bench, label: str) -> None:
    """A wait that ends before the user has answered brings the handle, and it names the question."""
    client = bench.client
    future = client.ask([("form", label)], label=label)
    client.wait_for_question(future)
    if bench.up == HANDSHAKE:
        client.reply = None
        handle = client.await_future(future, timeout_s=0.3)
        (record,) = records(handle)
        assert (record["status"], record["question"]) == ("input_required", label)
        assert f'asks: "{label}' in text_of(handle)
        assert handle["structuredContent"]["question"] == label
        client.answer_all()
    assert said(client.dialog("await_future", {"future_id": future})) == [answered(("form", label))]


def test_a_question_is_passed_on_as_the_server_put_it(bench: Bench, label: str) -> None:
    """Message, schema, URL and its ID arrive whole."""
    client = bench.client
    future = client.ask([("form", label)], [("url", label)], label=label)
    said(client.dialog("await_future", {"future_id": future}))
    form, url = (params for _, params in client.asked)
    assert form["message"] == label
    assert form["requestedSchema"]["properties"] == {"name": {"type": "string"}}
    assert (url["mode"], url["url"]) == ("url", f"https://example.com/{label}")
    if bench.down == "handshake":
        assert url["elicitationId"] == label
    elif bench.up == HANDSHAKE:
        assert url["elicitationId"]  # 2026-07-28 has none, and the other versions require it


def test_several_questions_at_once(bench: Bench, label: str) -> None:
    """All are asked, and each answer finds its question."""
    questions: list[Question] = [("form", f"{label} a"), ("sampling", f"{label} b"), ("form", f"{label} c")]
    future = bench.client.ask(questions, label=label)
    assert said(bench.client.dialog("await_future", {"future_id": future})) == [answered(*questions)]
    assert len(bench.client.asked) == 3


def test_several_rounds(bench: Bench, label: str) -> None:
    """A server may ask again after it was answered, in one wait."""
    rounds: list[list[Question]] = [[("form", f"{label} {i}")] for i in range(4)]
    future = bench.client.ask(*rounds, label=label)
    assert said(bench.client.dialog("await_future", {"future_id": future})) == [answered(*each) for each in rounds]
    assert len(bench.events("call", label)) == (1 if bench.down == "handshake" else 5)


def test_gather_has_the_questions_of_all_answered(bench: Bench, label: str) -> None:
    """Several futures that ask, waited for together."""
    client = bench.client
    labels = [f"{label} {i}" for i in range(3)]
    futures = [client.ask([("form", each)], label=each) for each in labels]
    result = client.dialog("gather", {"future_ids": futures})
    results = result["structuredContent"]["results"]
    assert [each["status"] for each in results] == ["completed"] * 3
    told = [json.loads(each["result"])["answers"] for each in results]
    assert told == [[answered(("form", each))] for each in labels]
    assert len(client.asked) == 3


def test_a_call_that_waits_has_its_own_question_answered(bench: Bench, label: str) -> None:
    """`_wait`: no turn of the model is spent on the question, and the call is made once."""
    asked: Question = ("form", label)
    result = bench.client.dialog("ask", {"rounds": [[asked], [asked]], "label": label, "_wait": "this"})
    assert said(result) == [answered(asked), answered(asked)]
    assert len(bench.events("call", label)) == (1 if bench.down == "handshake" else 3)
    assert len(bench.events("done", label)) == 1


def test_a_call_that_waits_for_others_has_theirs_answered_too(bench: Bench, label: str) -> None:
    """`_wait` with an ID, when it is the other call that asks."""
    client = bench.client
    future = client.ask([("form", label)], label=label)
    result = client.dialog("hold", {"label": f"{label} hold", "_wait": future})
    first, second = result["structuredContent"]["results"]
    assert first["future_id"] == future
    assert json.loads(first["result"])["answers"] == [answered(("form", label))]
    assert second["status"] == "completed"
    assert len(bench.events("call", f"{label} hold")) == 1


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_user_who_declines_is_taken_at_their_word(bench: Bench, action: str, label: str) -> None:
    """The server learns it and decides what then; that is no failure of the call."""
    client = bench.client
    client.reply = lambda method, params: {"action": action}
    future = client.ask([("form", label), ("url", label)], label=label)
    assert said(client.dialog("await_future", {"future_id": future})) == [[{"action": action}] * 2]


@pytest.mark.parametrize("down", ["modern", "handshake"])
def test_a_client_that_refuses_live_is_quoted(benches: Mapping[tuple[str, str], Bench], down: str, label: str) -> None:
    """A JSON-RPC error in place of an answer reaches the server, or fails the call, with its code and text."""
    bench = benches[HANDSHAKE, down]
    client = bench.client
    client.reply = lambda method, params: Refusal(-1, "User rejected sampling request")
    future = client.ask([("sampling", label)], label=label)
    result = client.dialog("await_future", {"future_id": future})
    del client.reply
    assert result["isError"] is True
    assert "User rejected sampling request" in text_of(result)
    assert "-1" in text_of(result)


# --- sync ------------------------------------------------------------------------------------------------------------


def test_a_sync_call_asks_while_it_lasts(bench: Bench, label: str) -> None:
    """As without a bridge: questions in rounds, several at once, then the result itself."""
    rounds: list[list[Question]] = [[("form", f"{label} a"), ("sampling", f"{label} b")], [("url", f"{label} c")]]
    result = bench.client.dialog("s__ask", {"rounds": rounds, "label": label})
    assert said(result) == [answered(*each) for each in rounds]
    assert "asyncfc/futures" not in (result.get("_meta") or {})
    assert len(bench.client.asked) == 3
    assert len(bench.events("done", label)) == 1


@pytest.mark.parametrize("down", ["modern", "handshake"])
def test_a_sync_call_that_is_cancelled_takes_its_question_along(
    benches: Mapping[tuple[str, str], Bench], down: str, label: str
) -> None:
    """The user is not left with a dialog that nobody waits for, and the server is told."""
    bench = benches[HANDSHAKE, down]
    client = bench.client
    client.reply = None
    call = client.start_dialog("s__ask", {"rounds": [[("form", label)]], "label": label})
    (request_id,) = eventually(lambda: list(client.open_requests), "the user is asked")
    client.notify("notifications/cancelled", {"requestId": call.id})
    eventually(lambda: request_id in client.withdrawn, "the question is withdrawn")
    del client.reply
    if down == "handshake":
        bench.noted("cancelled", label)
    assert not bench.events("done", label)


# --- who is asked ----------------------------------------------------------------------------------------------------


def test_two_waiters_are_asked_once(bench: Bench, label: str) -> None:
    """One of them gets the question, both get the result."""
    client = bench.client
    client.reply = None
    gate = bench.gate()
    future = client.ask([("form", label)], label=label, until=str(gate))
    waits = [client.start_dialog("await_future", {"future_id": future}) for _ in range(2)]
    gate.touch()
    if bench.up == HANDSHAKE:
        eventually(lambda: client.open_requests, "the user is asked")
        time.sleep(0.3)  # for a second question, which must not come
        client.answer_all()
    else:
        (asked,) = eventually(lambda: [w for w in waits if w.future.done()], "somebody is asked")
        time.sleep(0.3)
        assert sum(wait.future.done() for wait in waits) == 1
        waits.remove(asked)
        more = client.answers_to(asked.result())
        waits.append(client.start_dialog("await_future", {"future_id": future}, **more))
    assert [said(wait.result()) for wait in waits] == [[answered(("form", label))]] * 2
    assert len(client.asked) == 1


def test_a_user_may_take_longer_than_a_wait(bench: Bench, label: str) -> None:
    """The next wait does not ask again where the question is still open, and gets the answer."""
    client = bench.client
    future = client.ask([("form", label)], label=label)
    client.wait_for_question(future)
    if bench.up == HANDSHAKE:
        client.reply = None
        for _ in range(3):
            assert records(client.await_future(future, timeout_s=0.1))[0]["status"] == "input_required"
        wait = client.start_dialog("await_future", {"future_id": future})
        client.answer_all()
        result = wait.result()
    else:
        taken = client.start_dialog("await_future", {"future_id": future}).result()
        assert taken["resultType"] == "input_required"
        for _ in range(3):  # somebody else looks in while the user thinks
            assert records(client.await_future(future, timeout_s=0.1))[0]["status"] == "input_required"
        result = client.start_dialog("await_future", {"future_id": future}, **client.answers_to(taken)).result()
    assert said(result) == [answered(("form", label))]
    assert len(client.asked) == 1


def test_a_wait_that_is_cancelled_takes_no_question_along(bench: Bench, label: str) -> None:
    """A second wait has it answered."""
    client = bench.client
    client.reply = None
    gate = bench.gate()
    future = client.ask([("form", label)], label=label, until=str(gate))
    wait = client.start_dialog("await_future", {"future_id": future})
    if bench.up == HANDSHAKE:
        gate.touch()
        eventually(lambda: client.open_requests, "the user is asked")
    client.notify("notifications/cancelled", {"requestId": wait.id})
    client.call("list_futures")  # the bridge has read the cancellation when it answers what came after it
    gate.touch()
    client.wait_for_question(future)
    again = client.start_dialog("await_future", {"future_id": future})
    if bench.up == HANDSHAKE:
        client.answer_all()
        result = again.result()
    else:
        result = client.dialog("await_future", {"future_id": future}, **client.answers_to(again.result()))
    assert said(result) == [answered(("form", label))]
    assert len(client.asked) == 1
    assert not wait.future.done()


def test_a_poll_may_ask(bench: Bench, label: str) -> None:
    """A wait of no time at all still puts the question."""
    client = bench.client
    future = client.ask([("form", label)], label=label)
    client.wait_for_question(future)
    first = client.start_dialog("await_future", {"future_id": future, "timeout_s": 0}).result()
    if bench.up == HANDSHAKE:
        assert records(first)[0]["status"] == "input_required"
        assert said(client.outcome(future)) == [answered(("form", label))]
    else:
        more = client.answers_to(first)
        assert said(client.start_dialog("await_future", {"future_id": future}, **more).result())
    assert len(client.asked) == 1


def test_of_several_calls_the_one_that_asks_can_be_awaited(bench: Bench, label: str) -> None:
    """A server of the handshake era does not say which call a question belongs to; whichever is awaited is asked."""
    client = bench.client
    gate = bench.gate()
    holds = [
        records(client.call("hold", {"label": f"{label} hold {i}", "until": str(gate)}))[0]["future_id"]
        for i in range(2)
    ]
    bench.noted("call", f"{label} hold 1")
    asks = [client.ask([("form", f"{label} {i}")], label=f"{label} {i}") for i in range(2)]
    for i in reversed(range(2)):
        wait = client.dialog("await_future", {"future_id": asks[i], "timeout_s": 10})
        assert said(wait) == [answered(("form", f"{label} {i}"))]
    assert len(client.asked) == 2
    gate.touch()
    for hold in holds:
        assert said(client.outcome(hold)) == []
        assert client.listed(hold)["status"] == "completed"


def test_a_future_that_is_cancelled_takes_its_question_along(bench: Bench, label: str) -> None:
    """The user is not left with a dialog, the waiter gets an answer, and the server is told."""
    client = bench.client
    client.reply = None
    future = client.ask([("form", label)], label=label)
    client.wait_for_question(future)
    wait = client.start_dialog("await_future", {"future_id": future})
    if bench.up == HANDSHAKE:
        (request_id,) = eventually(lambda: list(client.open_requests), "the user is asked")
    else:
        taken = wait.result()
    client.call("cancel_future", {"future_id": future})
    if bench.up == HANDSHAKE:
        eventually(lambda: request_id in client.withdrawn, "the question is withdrawn")
        assert "cancelled" in text_of(wait.result())
    else:  # an answer that comes too late is not an error: the wait tells what became of the call
        more = client.answers_to(taken)
        late = client.start_dialog("await_future", {"future_id": future}, **more).result()
        assert "cancelled" in text_of(late)
    if bench.down == "handshake":
        bench.noted("cancelled", label)
    assert client.listed(future)["status"] == "cancelled"
    assert not bench.events("done", label)


@pytest.mark.parametrize("down", ["modern", "handshake"])
def test_progress_says_what_is_asked(benches: Mapping[tuple[str, str], Bench], down: str, label: str) -> None:
    """A client that listens while it waits hears at once that the user is needed, and for what."""
    bench = benches[HANDSHAKE, down]
    client = bench.client
    client.reply = None
    gate = bench.gate()
    futures = [client.ask([("form", f"{label} {i}")], label=label, until=str(gate)) for i in range(2)]
    arguments: list[tuple[str, Json]] = [
        ("await_future", {"future_id": futures[0]}),
        ("gather", {"future_ids": futures}),
    ]
    heard: dict[str, list[Json]] = {tool: [] for tool, _ in arguments}
    waits = [
        client.start("tools/call", {"name": tool, "arguments": given}, on_progress=heard[tool].append)
        for tool, given in arguments
    ]
    gate.touch()
    # Of a server of the handshake era either future may ask either question; of the other each asks its own.
    for tool, number in (("await_future", 0), ("gather", 0), ("gather", 1)):
        wanted = f' input_required, asks: "{label} {number}"'
        eventually(
            lambda tool=tool, wanted=wanted: [m for m in heard[tool] if m["message"].endswith(wanted)],
            f"progress of {tool} names question {number}",
            seconds=4,
        )
    for messages in heard.values():
        assert [m["progress"] for m in messages] == sorted({m["progress"] for m in messages})
    client.answer_all()
    for wait in waits:
        wait.result()


# --- nobody there ----------------------------------------------------------------------------------------------------


@combinations
def test_a_question_that_nobody_answers_fails_the_call(own: Callable[..., Bench], up: str, down: str) -> None:
    """After `question_timeout_s`, whether anybody awaited or not: the reason names the question and the way out, the
    server is told, and a live question is withdrawn."""
    bench = own(up, down, question_timeout_s=1.0)
    client = bench.client
    client.reply = None
    future = client.ask([("form", "Anybody there?")], label="nobody")
    reason = eventually(lambda: client.listed(future).get("error"), "the call fails")
    assert "was not answered within 1 s (setting question_timeout_s): Anybody there?" in reason
    assert client.listed(future)["status"] == "failed"
    result = client.outcome(future)
    assert result["isError"] is True
    assert "Await such a future" in text_of(result)
    if down == "handshake":
        eventually(lambda: bench.events("cancelled") or bench.events("refused"), "the server is told")

    calls: list[tuple[str, Json]] = [("ask", {"_wait": "this"}), ("s__ask", {})]
    if (up, down) == (MODERN, "modern"):
        calls.pop()  # that question goes up as the server put it: it is not ours to wait for
    for tool, more in calls:
        arguments: Json = {"rounds": [[("form", tool)]], "label": tool, **more}
        result = client.start_dialog(tool, arguments).result()
        if up == MODERN:
            assert result["resultType"] == "input_required"
            time.sleep(1.2)
            result = client.start_dialog(tool, arguments, **client.answers_to(result)).result()
        assert result["isError"] is True
        assert f"was not answered within 1 s (setting question_timeout_s): {tool}" in text_of(result)
        eventually(lambda: not client.open_requests, "a live question is withdrawn")
    assert not bench.events("done")
    # Nothing is left behind that would hurt the next one.
    client.reply = obliging
    assert said(client.dialog("ask", {"rounds": [[("form", "And now?")]], "_wait": "this"}))


class Mute(User):
    """A client that cannot be asked anything."""

    capabilities: ClassVar[Json] = {}


class FormsOnly(User):
    """A client of before 2025-11-25: an empty object meant forms."""

    capabilities: ClassVar[Json] = {"elicitation": {}}


@combinations
def test_a_client_that_cannot_be_asked_is_not(own: Callable[..., Bench], up: str, down: str) -> None:
    """The server is refused at once, and the call does not hang; nobody is asked in vain."""
    bench = own(up, down, user=Mute)
    client = bench.client
    calls: list[tuple[str, Json]] = [("ask", {"_wait": "this"}), ("s__ask", {})]
    if (up, down) == (MODERN, "modern"):
        calls.pop()  # as without a bridge: a server that asks although it was told that it cannot
    for kind, (tool, more) in itertools.product(("form", "url", "sampling", "roots"), calls):
        label = f"{tool} {kind}"
        result = client.call(tool, {"rounds": [[(kind, label)]], "label": label, **more})
        assert result["isError"] is True
        assert method_of(kind) in text_of(result)
        assert "has not declared" in text_of(result)
        if down == "handshake":
            assert bench.noted("refused", label)["code"] == -32601
        assert not bench.noted("call", label)["offered"].keys() & ASKS_ANYTHING.keys()
    assert not client.asked


@pytest.mark.parametrize(("up", "down"), [(MODERN, "handshake"), (HANDSHAKE, "modern")])
def test_a_client_of_forms_gets_no_urls(own: Callable[..., Bench], up: str, down: str) -> None:
    """`elicitation: {}` promises forms and nothing else."""
    bench = own(up, down, user=FormsOnly)
    client = bench.client
    assert said(client.dialog("ask", {"rounds": [[("form", "x")]], "label": "x", "_wait": "this"}))
    result = client.call("ask", {"rounds": [[("url", "y")]], "label": "y", "_wait": "this"})
    assert result["isError"] is True
    assert len(client.asked) == 1


@combinations
def test_a_server_that_dies_takes_its_question_along(own: Callable[..., Bench], up: str, down: str) -> None:
    """The wait ends with what happened; the user is not left with a dialog."""
    bench = own(up, down)
    client = bench.client
    client.reply = None
    future = client.ask([("form", "x")], label="x")
    client.wait_for_question(future)
    wait = client.start_dialog("await_future", {"future_id": future})
    if up == HANDSHAKE:
        (request_id,) = eventually(lambda: list(client.open_requests), "the user is asked")
    for server in bench.stage.downstreams():
        os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: client.stderr().count("was killed by SIGKILL") == 2, "the bridge knows")
    if down == "modern":  # between two rounds nothing is under way: the server is started again and goes on
        client.answer_all()
    elif up == HANDSHAKE:
        eventually(lambda: request_id in client.withdrawn, "the question is withdrawn")
    result = wait.result()
    if up == MODERN:
        result = client.dialog("await_future", {"future_id": future}, **client.answers_to(result))
    if down == "modern":
        assert said(result) == [answered(("form", "x"))]
        return
    assert result["isError"] is True
    assert "was killed by SIGKILL while this call was running" in text_of(result)


# --- what clients bring back (2026-07-28) ----------------------------------------------------------------------------


def bent(state: str) -> Iterator[str]:
    """What an attacker may make of a state."""
    middle = len(state) // 2
    yield state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
    yield state[:-4]
    yield ""
    yield "null"
    yield json.dumps({"scope": "local", "questions": {}, "futures": []})


@pytest.mark.parametrize("down", ["modern", "handshake"])
def test_a_state_that_was_tampered_with_is_refused(
    benches: Mapping[tuple[str, str], Bench], down: str, label: str
) -> None:
    """With -32602; the call is not made again, its question stays open, and the right state still works."""
    bench = benches[MODERN, down]
    client = bench.client
    for tool in ("ask", "await_future", "s__ask"):
        mine = f"{label} {tool}"
        arguments: Json = {"rounds": [[("form", mine)]], "label": mine}
        if tool == "ask":
            arguments["_wait"] = "this"
        if tool == "await_future":
            arguments = {"future_id": client.ask([("form", mine)], label=mine)}
        first = client.start_dialog(tool, arguments).result()
        more = client.answers_to(first)
        if tool == "s__ask" and down == "modern":
            client.start_dialog(tool, arguments, **more).result()
            continue  # that state is the server's own
        calls = len(bench.events("call", mine))
        for state in bent(more["requestState"]):
            with pytest.raises(RpcError) as caught:
                client.start_dialog(tool, arguments, **{**more, "requestState": state}).result()
            assert caught.value.error["code"] == -32602
        for responses in ([], "x", 5):
            with pytest.raises(RpcError) as caught:
                client.start_dialog(tool, arguments, **{**more, "inputResponses": responses}).result()
            assert caught.value.error["code"] == -32602
        assert len(bench.events("call", mine)) == calls
        assert said(client.start_dialog(tool, arguments, **more).result()) == [answered(("form", mine))]
        # And what was used once does no harm when it comes again.
        assert said(client.start_dialog(tool, arguments, **more).result()) == [answered(("form", mine))]
        assert len(bench.events("done", mine)) == 1


@pytest.mark.parametrize("down", ["modern", "handshake"])
def test_an_answer_that_is_missing_is_asked_for_again(
    benches: Mapping[tuple[str, str], Bench], down: str, label: str
) -> None:
    """A client that brings back only some answers, or nonsense, is asked for the others."""
    bench = benches[MODERN, down]
    client = bench.client
    future = client.ask([("form", f"{label} a"), ("form", f"{label} b")], label=label)
    arguments = {"future_id": future}
    client.wait_for_question(future)
    first = client.start_dialog("await_future", arguments).result()
    if len(first["inputRequests"]) == 2:
        more = client.answers_to(first)
        kept = next(iter(more["inputResponses"]))
        more["inputResponses"] = {kept: more["inputResponses"][kept], "unheard of": {}, "other": 5}
        second = client.start_dialog("await_future", arguments, **more).result()
        assert second["resultType"] == "input_required"
        assert set(second["inputRequests"]) == set(first["inputRequests"]) - {kept}
        result = client.start_dialog("await_future", arguments, **client.answers_to(second)).result()
    else:
        result = client.dialog("await_future", arguments)
    assert said(result) == [answered(("form", f"{label} a"), ("form", f"{label} b"))]


# --- clients and servers as they are ---------------------------------------------------------------------------------


class Person:
    """The callbacks of an SDK client, and what they were asked.

    Args:
        host: the name of the client, if it is not the person's.
    """

    def __init__(self, name: str, *, host: str | None = None) -> None:
        self.name = name
        self.host = host or name
        self.asked: list[str] = []
        self.may_answer = anyio.Event()
        self.may_answer.set()

    async def elicit(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        message = heard({"message": params.message})["message"]
        self.asked.append(message)
        await self.may_answer.wait()
        content = None if params.mode == "url" else {"name": f"{self.name} re {message}"}
        return types.ElicitResult(action="accept", content=content)

    async def sample(self, context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        (message,) = params.messages
        assert isinstance(message.content, types.TextContent)
        self.asked.append(message.content.text)
        text = types.TextContent(type="text", text=f"{self.name} re {message.content.text}")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def roots(self, context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=f"file:///{self.name}")])  # pyright: ignore

    def client(self, server: Any, mode: str) -> Client:
        """A client of this person's; `mode` is the SDK's."""
        return Client(
            server,
            mode=mode,
            client_info=types.Implementation(name=self.host, version="1"),
            elicitation_callback=self.elicit,
            sampling_callback=self.sample,
            list_roots_callback=self.roots,
        )


def blocks(result: Any) -> str:
    """The text of an SDK client's result."""
    return "\n".join(block.text for block in result.content if block.type == "text")


async def submitted(client: Client, tool: str, **arguments: Any) -> str:
    """The ID of the future of a call."""
    result = await client.call_tool(tool, arguments)
    assert result.meta is not None
    return result.meta["asyncfc/futures"][0]["future_id"]


async def until(check: Callable[[], Any]) -> None:
    """Wait for what other processes do."""
    with anyio.fail_after(PATIENCE):
        while not check():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def until_it_asks(client: Client, future: str) -> None:
    """Until the future says that input is required."""
    with anyio.fail_after(PATIENCE):
        while f"{future} ask input_required" not in blocks(await client.call_tool("list_futures", {})):  # noqa: ASYNC110
            await anyio.sleep(0.02)


@pytest.mark.parametrize("down", ["modern", "handshake"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_sdks_client_is_asked(stage: Stage, mode: str, down: str) -> None:
    """Not only our own: every kind of question through its callbacks, awaited, in the call, and in sync mode."""
    entry = asking(stage, stage.folder / "server.log", down)
    config = stage.config(
        {"a": {**entry, "asyncfc": {"prefix": ""}}, "s": {**entry, "asyncfc": {"prefix": "s__", "mode": "sync"}}}
    )
    command, *arguments = stage.command("serve", "--config", str(config))
    bridge = StdioServerParameters(command=command, args=arguments, env=stage.env, cwd=stage.folder)
    rounds = [[("form", "one"), ("sampling", "two")], [("url", "three"), ("roots", "four")]]

    async def run() -> list[str]:
        person = Person("sdk")
        async with person.client(bridge, mode) as client:
            await client.list_tools()
            future = await submitted(client, "ask", rounds=rounds)
            results = [await client.call_tool("await_future", {"future_id": future})]
            results.append(await client.call_tool("ask", {"rounds": rounds, "_wait": "this"}))
            results.append(await client.call_tool("s__ask", {"rounds": rounds}))
        assert sorted(person.asked) == sorted(["one", "two", "three"] * 3)
        return [blocks(result).splitlines()[-1] for result in results]

    for text in anyio.run(run):
        (form, sampled), (url, roots) = json.loads(text)["answers"]
        assert form == {"action": "accept", "content": {"name": "sdk re one"}}
        assert sampled["content"]["text"] == "sdk re two"
        assert url == {"action": "accept"}
        assert roots["roots"][0]["uri"].startswith("file:///sdk")


@pytest.mark.parametrize("down", ["modern", "handshake"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_question_never_reaches_a_client_whose_call_did_not_raise_it(stage: Stage, mode: str, down: str) -> None:
    """Two clients of one bridge over HTTP. While the server leaves open whose question it is, nobody is asked."""
    entry = asking(stage, stage.folder / "server.log", down)
    bridge = stage.http_bridge({"a": {**entry, "asyncfc": {"prefix": ""}}})
    url = f"{bridge.base}/mcp"
    gate = stage.folder / "gate"

    async def run() -> None:
        alice, bob = Person("alice"), Person("bob")
        async with alice.client(url, mode) as of_alice, bob.client(url, mode) as of_bob:
            await of_alice.list_tools()
            await of_bob.list_tools()
            # Alice's question is open while Bob calls and waits for his own.
            first = await submitted(of_alice, "ask", rounds=[[("form", "for alice")]], label="1")
            await until_it_asks(of_alice, first)
            text = blocks(await of_bob.call_tool("hold", {"label": "2", "_wait": "this"}))
            assert json.loads(text.splitlines()[-1])["label"] == "2"
            answer = json.loads(blocks(await of_alice.call_tool("await_future", {"future_id": first})))
            assert answer["answers"][0][0]["content"] == {"name": "alice re for alice"}
            assert (alice.asked, bob.asked) == (["for alice"], [])

            # Bob's call is running already when Alice's asks, and both wait.
            held = await submitted(of_bob, "hold", until=str(gate), label="3")
            asks = await submitted(of_alice, "ask", rounds=[[("form", "again")]], label="4")
            async with anyio.create_task_group() as tg:
                tg.start_soon(of_bob.call_tool, "await_future", {"future_id": held})
                tg.start_soon(of_alice.call_tool, "await_future", {"future_id": asks})
                await anyio.sleep(0.5)
                assert alice.asked[1:] == (["again"] if down == "modern" else [])
                gate.touch()
            assert (alice.asked, bob.asked) == (["for alice", "again"], [])
            text = blocks(await of_alice.call_tool("await_future", {"future_id": asks}))
            assert "alice re again" in text

            # Both ask at once, and each awaits its own.
            async def own(person: Person, client: Client) -> None:
                arguments = {"rounds": [[("form", person.name)]], "label": person.name, "_wait": "this"}
                assert f"{person.name} re {person.name}" in blocks(await client.call_tool("ask", arguments))

            alice.asked.clear()
            async with anyio.create_task_group() as tg:
                tg.start_soon(own, alice, of_alice)
                await until(lambda: alice.asked)
                tg.start_soon(own, bob, of_bob)
            assert alice.asked == ["alice"]
            assert bob.asked == ["bob"]

    anyio.run(run)


@pytest.mark.parametrize("down", ["modern", "handshake"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_session_that_ended_leaves_its_question_to_the_next(stage: Stage, mode: str, down: str) -> None:
    """Some frameworks open a session for every call: a client of the same name that awaits the future is asked."""
    entry = asking(stage, stage.folder / "server.log", down)
    bridge = stage.http_bridge({"a": {**entry, "asyncfc": {"prefix": ""}}})
    url = f"{bridge.base}/mcp"

    async def run() -> None:
        before, after = (Person(name, host="framework") for name in ("before", "after"))
        async with before.client(url, mode) as client:
            await client.list_tools()
            future = await submitted(client, "ask", rounds=[[("form", "who?")]])
            await until_it_asks(client, future)
            if mode == "legacy":
                # This one is asked, and leaves without an answer.
                before.may_answer = anyio.Event()
                await client.call_tool("await_future", {"future_id": future, "timeout_s": 0.2})
                await until(lambda: before.asked)
        async with after.client(url, mode) as client:
            text = blocks(await client.call_tool("await_future", {"future_id": future, "timeout_s": 20}))
        assert "after re who?" in text
        assert after.asked == ["who?"]

    anyio.run(run)


@combinations
def test_servers_over_http_ask_too(stage: Stage, up: str, down: str) -> None:
    """Their questions come on the stream of the call."""
    log = stage.folder / "http.stderr"
    with log.open("wb") as sink:
        options = ["--handshake-only"] if down == "handshake" else []
        command = [sys.executable, str(SERVER), "--http", "--mark", stage.mark, *options]
        stage.processes.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=stage.env)
        )
    port = eventually(lambda: log.read_text().partition("listening on ")[2].split(), "the server listens")[0]
    servers = {"a": {"url": f"http://127.0.0.1:{port}/mcp", "asyncfc": {"prefix": ""}}}
    command = stage.command("serve", "--config", str(stage.config(servers)))
    client = User(command, env=stage.env, cwd=stage.folder, stderr=stage.folder / "bridge.stderr", era=up)
    stage.wires.append(client)
    client.open()
    client.wait_for_tools("ask")
    rounds: list[list[Question]] = [[("form", "a"), ("sampling", "b")], [("url", "c"), ("roots", "d")]]
    future = client.ask(*rounds)
    client.wait_for_question(future)
    assert said(client.dialog("await_future", {"future_id": future})) == [answered(*each) for each in rounds]


def test_a_client_that_takes_its_time_is_still_introduced(stage: Stage) -> None:
    """A server that shakes hands learns what the client can be asked from its first request, discovery included."""
    log = stage.folder / "server.log"
    log.touch()
    config = stage.config({"a": {**asking(stage, log, "handshake"), "asyncfc": {"prefix": ""}}})
    command = stage.command("serve", "--config", str(config))
    client = User(command, env=stage.env, cwd=stage.folder, stderr=stage.folder / "bridge.stderr", era=MODERN)
    stage.wires.append(client)
    client.open()
    time.sleep(1.5)
    client.wait_for_tools("ask")
    assert said(client.dialog("ask", {"rounds": [[("form", "x")]], "label": "x", "_wait": "this"}))
    assert json.loads(log.read_text().splitlines()[0])["offered"].keys() >= {"elicitation", "sampling", "roots"}
