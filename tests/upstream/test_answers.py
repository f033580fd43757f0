"""Answers: whichever half of one a host shows to the model, it tells the whole story, in few tokens."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from asyncfc_mcp.core.futures import Future, Question, Result, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.errors import (
    CallFailed,
    CallTimedOut,
    Cancelled,
    DependencyFailed,
    ProtocolFailure,
    ServerDied,
    ServerUnavailable,
)
from asyncfc_mcp.upstream import answers
from asyncfc_mcp.upstream.answers import META_KEY

WAITS = (("f1", "f2"), "same state files/a")


def text(words: str, **more: Any) -> Result:
    return {"content": [{"type": "text", "text": words}], **more}


def future(state: State = State.RUNNING, **more: Any) -> Future:
    return Future("f3", LOCAL, "github_search", "github", state=state, **more)


def completed(result: Result, **more: Any) -> Future:
    state = State.FAILED if result.get("isError") else State.COMPLETED
    return future(state, result=result, ended_at=1.0, **more)


def failed(**more: Any) -> Future:
    return future(State.FAILED, failure=ServerDied("github", "exited with code 3"), **more)


def words_of(answer: Result) -> str:
    return "\n".join(block["text"] for block in answer["content"] if block["type"] == "text")


RICH: list[dict[str, Any]] = [
    {"type": "image", "data": "aGk=", "mimeType": "image/png"},
    {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"},
    {"type": "resource", "resource": {"uri": "a://b", "text": "embedded"}},
    {"type": "resource_link", "uri": "a://b", "name": "b"},
    {"type": "hologram", "data": {"layers": [1]}},
]


# --- the handle ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "hits"])
@pytest.mark.parametrize("waiting", [((), ""), WAITS])
def test_a_handle_says_in_both_halves_which_future_and_how_it_stands(
    name: str | None, waiting: tuple[tuple[str, ...], str]
):
    """The ID, the state, the name, and what it waits for; the text says what to do next as well. The host shows which
    tool was called; the record in `_meta` has it, too."""
    it = future(State.WAITING if waiting[0] else State.RUNNING, name=name)
    answer = answers.handle(it, waiting)
    words = words_of(answer)
    structured = answer["structuredContent"]
    assert {**structured, "tool": "github_search"} == answer["_meta"][META_KEY][0]
    assert structured["future_id"] == "f3"
    assert structured["status"] == it.state.value
    assert words.startswith("f3 ")
    for said in (it.state.value, "await_future f3", *waiting[0]):
        assert said in words
    assert "github_search" not in str(structured) + words
    assert structured.get("name") == name
    assert (name is None) or f"({name})" in words
    assert structured.get("waiting_for", []) == list(waiting[0])
    assert "isError" not in answer


def test_a_handle_costs_few_tokens():
    """It is paid for on every call: less than 30 tokens, whichever half the host shows."""
    answer = answers.handle(future(State.WAITING, name="hits"), (("f1",), "same state files/a"))
    for shown in (words_of(answer), json.dumps(answer["structuredContent"], separators=(",", ":"))):
        assert len(shown) / 4 < 30
    plain = answers.handle(future())
    for shown in (words_of(plain), json.dumps(plain["structuredContent"], separators=(",", ":"))):
        assert len(shown) / 4 < 10


def test_a_handle_of_a_call_with_many_blockers_stays_short():
    """Three are named, the rest is counted."""
    answer = answers.handle(future(State.WAITING), (tuple(f"f{n}" for n in range(10, 60)), "needs the result"))
    assert "waits for f10, f11, f12 and 47 more (needs the result)" in words_of(answer)
    structured = answer["structuredContent"]
    assert (structured["waiting_for"], structured["waiting_for_more"]) == (["f10", "f11", "f12"], 47)
    assert len(answer["_meta"][META_KEY][0]["waiting_for"]) == 50, "the record has all that are known"
    uncounted = answers.handle(future(State.WAITING), (tuple(f"f{n}" for n in range(NEAREST + 1)), "needs the result"))
    assert "waits for f0, f1, f2 and over 97 more" in words_of(uncounted)


def test_a_handle_tells_of_progress_and_questions():
    """In both halves, so that the model need not ask what is going on."""
    asked = future(State.INPUT_REQUIRED, progress=(2, 5.0, "cloning"))
    asked.questions["q1"] = Question("q1", "elicitation/create", {"message": "Overwrite?"})
    answer = answers.handle(asked)
    assert 'asks: "Overwrite?"' in words_of(answer)
    assert '2/5 "cloning"' in words_of(answer)
    assert answer["structuredContent"]["question"] == "Overwrite?"
    assert answer["structuredContent"]["progress"] == {"progress": 2, "total": 5.0, "message": "cloning"}
    without_total = answers.handle(future(progress=(7, None, None)))
    assert without_total["structuredContent"]["progress"] == {"progress": 7}
    assert words_of(without_total).startswith("f3 running, 7. ")


def test_a_handle_names_few_of_many_values():
    """Three in the text; the record has all."""
    it = future(substituted={f"n{number}": f"f{number}" for number in range(10)})
    answer = answers.handle(it)
    assert "running (put in: n0 = f0, n1 = f1, n2 = f2 and 7 more). " in words_of(answer)
    assert len(answer["_meta"][META_KEY][0]["put_in"]) == 10


# --- results -------------------------------------------------------------------------------------------------------

Shape = Callable[[Future], tuple[Result, dict[str, Any]]]


def as_grace(it: Future) -> tuple[Result, dict[str, Any]]:
    answer = answers.with_result(it)
    return answer, answer.get("structuredContent", {})


def as_gather(it: Future) -> tuple[Result, dict[str, Any]]:
    answer = answers.several([(it, ((), ""))])
    return answer, answer.get("structuredContent", {"results": [{}]})["results"][0]


def as_delivery(it: Future) -> tuple[Result, dict[str, Any]]:
    answer = answers.append(answers.handle(future()), [it])
    return answer, answer.get("structuredContent", {"also": [{}]}).get("also", [{}])[0]


@pytest.mark.parametrize("shape", [as_grace, as_gather, as_delivery])
def test_each_half_of_an_answer_with_a_result_tells_all_of_it(shape: Shape):
    """Text under its handle line; structured content, or else the text, as `result`."""
    answer, entry = shape(completed(text("17 hits", structuredContent={"hits": 17}), name="hits"))
    assert "f3 (hits) github_search completed\n17 hits" in words_of(answer)
    assert entry["result"] == {"hits": 17}
    assert (entry["future_id"], entry["status"], entry["name"]) == ("f3", "completed", "hits")
    answer, entry = shape(completed({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}))
    assert words_of(answer).endswith("a\nb")
    assert entry["result"] == "a\nb"


@pytest.mark.parametrize("shape", [as_grace, as_gather, as_delivery])
def test_each_half_of_an_answer_without_a_result_says_why(shape: Shape):
    """Who failed, under which name the caller knows it, and the reason."""
    answer, entry = shape(failed(name="hits"))
    for said in ("f3", "(hits)", "github_search failed", "exited with code 3"):
        assert said in words_of(answer)
    assert entry["status"] == "failed"
    assert "exited with code 3" in entry["error"]
    assert "result" not in entry


@pytest.mark.parametrize("block", RICH, ids=lambda block: block["type"])
@pytest.mark.parametrize("shape", [as_grace, as_gather, as_delivery])
def test_an_answer_with_a_block_that_is_not_text_has_no_structured_content(shape: Shape, block: dict[str, Any]):
    """Hosts that show structured content only would hide the picture; unknown kinds of blocks count as well."""
    answer, _ = shape(completed({"content": [{"type": "text", "text": "see"}, block], "structuredContent": {"a": 1}}))
    assert "structuredContent" not in answer
    assert block in answer["content"]
    assert any(record["future_id"] == "f3" for record in answer["_meta"][META_KEY])


def test_a_result_that_came_with_its_handle_keeps_what_it_had():
    """`isError`, `_meta` and fields nobody knows go along; our records are put beside the server's `_meta`."""
    result = text("no such file", isError=True, _meta={"x/trace": 1}, **{"x-vendor": {"null": None}})
    answer = answers.with_result(completed(result))
    assert answer["isError"] is True
    assert answer["x-vendor"] == {"null": None}
    assert answer["_meta"]["x/trace"] == 1
    assert answer["_meta"][META_KEY] == [{"future_id": "f3", "status": "failed", "tool": "github_search"}]


IMAGE = RICH[0]
FOR_USERS = {"type": "text", "text": "a", "annotations": {"audience": ["user"]}}


@pytest.mark.parametrize(
    ("blocks", "first", "others"),
    [
        ([{"type": "text", "text": "no such file"}], "no such file", []),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb", []),
        ([{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}], "a\nb", [IMAGE]),
        ([FOR_USERS, {"type": "text", "text": "b"}], "b", [FOR_USERS]),
        ([IMAGE, {"type": "text", "text": "see"}, IMAGE], "see", [IMAGE, IMAGE]),
        ([{"type": "text"}, {"type": "text", "text": "late"}], "late", [{"type": "text"}]),
        ([IMAGE], None, [IMAGE]),
        ([], None, []),
    ],
)
@pytest.mark.parametrize("shape", [as_grace, as_gather, as_delivery])
def test_a_tools_own_failure_has_its_reason_in_the_first_block(
    shape: Shape, blocks: list[dict[str, Any]], first: str | None, others: list[dict[str, Any]]
):
    """FastMCP's client shows the first block of an error and no other; what is not plain text comes after it."""
    result = {"content": blocks, "isError": True}
    before = copy.deepcopy(result)
    answer, _ = shape(completed(result))
    head = "f3 github_search failed"
    expected = {"type": "text", "text": head if first is None else f"{head}\n{first}"}
    assert answer["content"][-len(others) - 1 :] == [expected, *others]
    assert result == before


def test_what_an_error_says_of_itself_stays_with_its_text():
    """Annotations of the block are kept."""
    block = {"type": "text", "text": "no", "annotations": {"audience": ["user"]}}
    answer = answers.with_result(completed({"content": [block], "isError": True}))
    assert answer["content"] == [{**block, "text": "f3 github_search failed\nno"}]


def test_awaiting_gives_the_downstreams_own_result_untouched():
    """The very object that came off the wire."""
    result = text("x", isError=True, structuredContent=[1], _meta={}, **{"x-vendor": 1})
    assert answers.alone(completed(result)) is result


def test_awaiting_what_has_no_result_is_an_error_that_says_why():
    """`isError`, with the whole chain in one text."""
    it = future(State.FAILED, failure=DependencyFailed("f2", "f1", "disk full"))
    answer = answers.alone(it)
    assert answer["isError"] is True
    assert "it needs f2, which has no result (because of f1): disk full" in words_of(answer)
    assert answer["_meta"][META_KEY][0]["status"] == "failed"


def test_no_answer_changes_the_result_it_is_made_of():
    """A result is read any number of times, and in any shape."""
    result = text("x", structuredContent={"a": [1]}, _meta={"m": 1}, isError=False)
    it = completed(result)
    before = copy.deepcopy(result)
    for shape in (as_grace, as_gather, as_delivery):
        shape(it)
        answers.append(answers.alone(it), [it], "note")
    assert result == before


@pytest.mark.parametrize(
    "result",
    [{}, {"content": None}, {"content": "text"}, {"content": [None, 7, {"type": "text"}]}, {"structuredContent": None}],
)
def test_a_result_that_breaks_the_protocol_is_relayed_and_not_judged(result: Result):
    """No shape fails on it."""
    it = completed(result)
    for shape in (as_grace, as_gather, as_delivery):
        answer, _ = shape(it)
        assert "f3" in words_of({"content": [b for b in answer["content"] if isinstance(b, dict) and "text" in b]})


# --- several -------------------------------------------------------------------------------------------------------


def test_one_failure_hides_no_other_result():
    """A header for each, in the order asked, then its blocks; those that are not ready say so."""
    ready, bad, slow = completed(text("17")), failed(), future()
    ready.id, bad.id, slow.id = "f1", "f2", "f4"
    answer = answers.several([(slow, WAITS), (bad, ((), "")), (ready, ((), "")), (ready, ((), ""))])
    results = answer["structuredContent"]["results"]
    assert [entry["future_id"] for entry in results] == ["f4", "f2", "f1", "f1"]
    assert [entry["status"] for entry in results] == ["running", "failed", "completed", "completed"]
    assert "isError" not in answer
    lines = words_of(answer).splitlines()
    assert lines[0].startswith("f4 github_search running")
    assert lines[1].startswith("f2 github_search failed: server 'github' exited with code 3")
    assert lines[2:] == ["f1 github_search completed", "17"] * 2


def test_a_large_result_is_told_once():
    """A short question must not have an answer without end."""
    large = completed(text("x" * 10_000))
    large.id, large.size = "f1", 10_000
    answer = answers.several([(large, ((), ""))] * 100)
    assert len(words_of(answer)) < 20_000
    results = answer["structuredContent"]["results"]
    assert [("result" in entry, entry.get("repeated")) for entry in results] == [(True, None)] + [(False, True)] * 99


def test_results_that_ride_on_an_answer_stand_after_it():
    """The answer's own story comes first, and is not changed."""
    own = answers.handle(future())
    other = completed(text("17"))
    other.id = "f1"
    answer = answers.append(own, [other])
    assert answer["content"][0] == own["content"][0]
    assert words_of(answer).endswith("f1 github_search completed\n17")
    assert {key: value for key, value in answer["structuredContent"].items() if key != "also"} == (
        own["structuredContent"]
    )
    assert [record["future_id"] for record in answer["_meta"][META_KEY]] == ["f3", "f1"]
    assert "also" not in own["structuredContent"]


def test_a_remark_stands_in_both_halves():
    """A host that shows only one of them shows it."""
    answer = answers.append(answers.handle(future()), (), "name the futures")
    assert words_of(answer).endswith("\nname the futures")
    assert answer["structuredContent"]["note"] == "name the futures"


def test_a_remark_joins_an_answer_without_structured_content():
    """A picture stays a picture."""
    answer = answers.append(answers.with_result(completed({"content": [RICH[0]]})), (), "remark")
    assert "structuredContent" not in answer
    assert answer["content"][-1] == {"type": "text", "text": "remark"}


# --- lists and errors ----------------------------------------------------------------------------------------------


def test_a_list_tells_what_is_unread_what_waits_and_which_server_is_not_up():
    """One line each, in both halves, with times, and nothing about how to await each of them."""
    slow, done, bad = future(name="hits"), completed(text("17")), failed()
    slow.id, done.id, bad.id = "f1", "f2", "f4"
    done.read_at = 5.0
    answer = answers.listing(
        [(slow, WAITS, 1.25), (done, ((), ""), 0.5), (bad, ((), ""), 2.0)], 7, [("files", "failed: exited with code 1")]
    )
    assert words_of(answer).splitlines() == [
        "f1 (hits) github_search running, waits for f1, f2 (same state files/a), 1.2 s",
        "f2 github_search completed, 0.5 s",
        "f4 github_search failed, 2.0 s, unread: server 'github' exited with code 3 while this call was running; "
        "the call may or may not have taken effect",
        "… and 7 older ones; narrow with status.",
        "Server files: failed: exited with code 1",
    ]
    structured = answer["structuredContent"]
    assert [entry["future_id"] for entry in structured["futures"]] == ["f1", "f2", "f4"]
    assert [entry["unread"] for entry in structured["futures"]] == [False, False, True]
    assert structured["futures"][0]["waiting_for"] == ["f1", "f2"]
    assert "exited with code 3" in structured["futures"][2]["error"]
    assert structured["more"] == 7
    assert structured["servers"] == [{"server": "files", "condition": "failed: exited with code 1"}]


def test_an_empty_list_says_so():
    """Rather than nothing."""
    answer = answers.listing([], 0, [])
    assert words_of(answer) == "No futures."
    assert answer["structuredContent"] == {"futures": []}


def test_an_error_is_text():
    """The model reads what was wrong."""
    answer = answers.error("what, and what to do")
    assert answer["content"] == [{"type": "text", "text": "what, and what to do"}]
    assert answer["isError"] is True


@pytest.mark.parametrize(
    ("content", "text"),
    [("words", "words"), ({"type": "text", "text": "one"}, "one"), (["a", {"type": "text", "text": "b"}], "a\nb")],
)
def test_content_that_is_no_list_of_blocks_keeps_its_text(content: object, text: str) -> None:
    """A bare text or block where MCP has a list reaches the model, and the calls that take its value."""
    it = completed({"content": content})
    shown = answers.with_result(it)["content"]
    assert "\n".join(block["text"] for block in shown[1:]) == text
    assert answers.value_of({"content": content}) == text


@pytest.mark.parametrize(
    ("failure", "state", "said"),
    [
        (
            ProtocolFailure("rate", -32000, "limit reached"),
            State.FAILED,
            "f3 rate failed: limit reached (JSON-RPC error -32000)",
        ),
        (
            CallTimedOut("rate", 2),
            State.FAILED,
            "f3 rate failed: did not finish within 2 s (setting timeout_s) and was ",
        ),
        (Cancelled(sent=False), State.CANCELLED, "f3 rate cancelled: it was never sent"),
        (
            ServerUnavailable("s", "is it on?"),
            State.FAILED,
            "f3 rate failed: server 's' is not available: is it on? The ",
        ),
        (ServerUnavailable("s", "it is off"), State.FAILED, "f3 rate failed: server 's' is not available: it is off. "),
    ],
)
def test_a_failures_line_says_each_thing_once(failure: CallFailed, state: State, said: str):
    """The tool and the state are at its beginning, and not in the reason as well."""
    ended = Future("f3", LOCAL, "rate", "s", state=state, failure=failure)
    assert answers.failure_text(ended).startswith(said)
    shown = answers.listing([(ended, ((), ""), 1.0)], 0, [])["content"][0]["text"]
    assert said.partition(": ")[2] in shown
    assert shown.count("rate") == shown.count(state.value) == 1
