"""A future as a task, in the words of either revision that has tasks."""

import json
from datetime import datetime
from typing import Any

import pytest

from asyncfc_mcp.core.futures import Future, Question, Result, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.downstream.http.mirrored_headers import RequestHeaders
from asyncfc_mcp.errors import Cancelled, DependencyFailed, ProtocolFailure, ServerDied
from asyncfc_mcp.upstream import task_shapes

EPOCH = 1_790_000_000.0
EARLY = datetime.fromtimestamp(EPOCH).timestamp()
GOOD: Result = {"content": [{"type": "text", "text": "done"}], "_meta": {"k": 1}}
BAD: Result = {"content": [{"type": "text", "text": "no luck"}], "isError": True}


def future(state: State, **more: Any) -> Future:
    return Future("f3", LOCAL, "search", "web", state=state, submitted_at=10.0, **more)


def question(number: int, *, settled: bool = False) -> Question:
    asked = Question(f"q{number}", "elicitation/create", {"message": f"Question {number}?", "mode": "form"})
    if settled:
        asked.settle({"action": "accept"})
    return asked


CASES: list[tuple[Future, str]] = [
    (future(State.WAITING), "working"),
    (future(State.RUNNING), "working"),
    (future(State.INPUT_REQUIRED, questions={"q1": question(1)}), "input_required"),
    (future(State.COMPLETED, result=GOOD), "completed"),
    (future(State.FAILED, result=BAD), "completed"),
    (future(State.FAILED, failure=ServerDied("web", "exited with code 3")), "failed"),
    (future(State.CANCELLED, failure=Cancelled(sent=True)), "cancelled"),
]
each_state = pytest.mark.parametrize(
    ("it", "status"), CASES, ids=[f"{it.state.value}{'' if it.result is None else ', a result'}" for it, _ in CASES]
)


@each_state
def test_every_state_of_a_future_is_a_status_of_a_task(it: Future, status: str):
    """A tool's own `isError` is a result, so its task is completed; `failed` is what has no result."""
    assert task_shapes.status(it) == status
    assert {task_shapes.created(it, EPOCH)["status"], task_shapes.detailed(it, EPOCH)["status"]} == {status}
    assert task_shapes.experimental(it, EPOCH)["status"] == status


def test_every_state_is_tried():
    """The cases above leave none out."""
    assert {it.state for it, _ in CASES} == set(State)


@each_state
def test_a_task_brings_what_its_status_has_and_nothing_else(it: Future, status: str):
    """Of questions, result and error at most the one that the status is about, and in a task just created none."""
    brought = {"input_required": "inputRequests", "completed": "result", "failed": "error"}.get(status)
    parts = {"inputRequests", "result", "error"}
    assert parts & task_shapes.detailed(it, EPOCH).keys() == ({brought} if brought else set())
    assert not parts & task_shapes.created(it, EPOCH).keys()
    assert not parts & task_shapes.experimental(it, EPOCH).keys()
    json.dumps(task_shapes.detailed(it, EPOCH))


def test_a_created_task_is_flat_and_says_that_it_is_one():
    """`resultType` is what a client tells it by; how long it lives and when to ask are there."""
    created = task_shapes.created(future(State.RUNNING, ttl_s=60.0), EPOCH)
    assert created["resultType"] == "task"
    assert created["taskId"] == "f3"
    assert created["ttlMs"] == 60_000
    assert task_shapes.created(future(State.RUNNING), EPOCH)["ttlMs"] is None, "not created as a task"
    assert created["pollIntervalMs"] == task_shapes.POLL_MS
    assert "resultType" not in task_shapes.detailed(future(State.RUNNING), EPOCH), "that is the envelope's"


def test_the_older_revision_has_its_own_words():
    """`ttl` and `pollInterval`, in milliseconds as well."""
    task = task_shapes.experimental(future(State.RUNNING, ttl_s=2.5), EPOCH)
    assert (task["ttl"], task["pollInterval"]) == (2500, task_shapes.POLL_MS)
    assert not {"ttlMs", "pollIntervalMs", "resultType"} & task.keys()


def test_times_are_on_the_wall_clock_in_utc():
    """A future's times are those of a monotonic clock; a client gets ISO 8601 with milliseconds."""
    submitted = task_shapes.detailed(future(State.WAITING), EPOCH)
    assert submitted["createdAt"] == submitted["lastUpdatedAt"]
    ended = task_shapes.detailed(future(State.COMPLETED, result=GOOD, started_at=10.25, ended_at=12.5), EPOCH)
    created, updated = (datetime.fromisoformat(ended[key]) for key in ("createdAt", "lastUpdatedAt"))
    assert ended["createdAt"].endswith(".000Z")
    assert created.timestamp() == EARLY + 10
    assert (updated - created).total_seconds() == 2.5
    running = task_shapes.detailed(future(State.RUNNING, started_at=10.25), EPOCH)
    assert datetime.fromisoformat(running["lastUpdatedAt"]).timestamp() == EARLY + 10.25


def test_the_result_is_the_tools_own():
    """Untouched but for the type that 2026-07-28 wants of every result; what the tool said of it stays."""
    task = task_shapes.detailed(future(State.COMPLETED, result=GOOD), EPOCH)
    assert task["result"] == {"resultType": "complete", **GOOD}
    typed = {**GOOD, "resultType": "complete", "x-own": 1}
    assert task_shapes.detailed(future(State.COMPLETED, result=typed), EPOCH)["result"] == typed


def test_only_open_questions_are_asked():
    """As the requests that they would have been, under IDs that an answer names."""
    asking = future(State.INPUT_REQUIRED, questions={f"q{n}": question(n, settled=n == 1) for n in (1, 2, 3)})
    asked = task_shapes.detailed(asking, EPOCH)["inputRequests"]
    assert list(asked) == ["q2", "q3"]
    assert asked["q2"] == {"method": "elicitation/create", "params": {"message": "Question 2?", "mode": "form"}}


@pytest.mark.parametrize("data", [None, {"why": ["because"]}, 0, ""])
def test_the_servers_error_is_kept_whole(data: object):
    """Code, message, and data where there is any."""
    error = task_shapes.error(future(State.FAILED, failure=ProtocolFailure("search", -32055, "the toy refuses", data)))
    assert error == {"code": -32055, "message": "the toy refuses"} | ({} if data is None else {"data": data})


def test_a_failure_of_ours_is_an_internal_error_that_says_everything():
    """There is no error of a server's to hand on."""
    failure = DependencyFailed("f1", "f1", "it failed")
    assert task_shapes.error(future(State.FAILED, failure=failure)) == {"code": -32603, "message": str(failure)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, None),
        ({"progress": (2.0, 5.0, "page two")}, "2 of 5: page two"),
        ({"progress": (0.5, None, None)}, "0.5"),
        ({"questions": {"q1": question(1)}, "progress": (1.0, None, "asking")}, "Question 1?"),
        ({"failure": ServerDied("web", "exited", ["last words"])}, "server 'web' exited while this call was running; "),
    ],
)
def test_the_status_message_is_the_most_urgent_that_there_is_to_say(more: dict[str, Any], said: str | None):
    """A failure before a question before progress; one line; the field is absent where there is nothing."""
    state = State.FAILED if "failure" in more else State.RUNNING
    task = task_shapes.detailed(future(state, **more), EPOCH)
    if said is None:
        assert "statusMessage" not in task
    else:
        assert task["statusMessage"].startswith(said)
        assert "\n" not in task["statusMessage"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_request_about_a_task_of_a_server_is_routed_by_its_id(method: str):
    """Over HTTP the task's ID travels in `Mcp-Name`, for load balancers before the server; only since 2026-07-28."""
    derived = RequestHeaders()
    assert "mcp-name" not in derived.headers("2025-11-25", method, {"taskId": "job-1"})
    headers = {key.lower(): value for key, value in derived.headers("2026-07-28", method, {"taskId": "job-1"}).items()}
    assert (headers["mcp-method"], headers["mcp-name"]) == (method, "job-1")


def test_a_task_says_which_values_went_into_its_call():
    """Where there is nothing more urgent to say: a failure, a question or progress."""
    it = future(State.RUNNING, substituted={"page": "f1"})
    for task in (task_shapes.created(it, EPOCH), task_shapes.detailed(it, EPOCH), task_shapes.experimental(it, EPOCH)):
        assert task["statusMessage"] == "put in: page = f1"
    it.progress = (1, None, "cloning")
    assert task_shapes.created(it, EPOCH)["statusMessage"] == "1: cloning"
