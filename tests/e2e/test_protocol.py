"""Everything of MCP that is no plain tool call, through the bridge, in both protocol eras on either side of it."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, RpcError, canonical, eventually, text_of
from tests.support.http_events import Events, modern_request
from tests.support.stage import HttpBridge, Stage
from tests.support.stdio_client import Wire

TOY = Path(__file__).resolve().parents[1] / "support" / "protocol_server.py"
EXTENSION = "io.modelcontextprotocol/tasks"
RELATED = "io.modelcontextprotocol/related-task"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
TASKS: Json = {"extensions": {EXTENSION: {}}}
UPDATED = "notifications/resources/updated"
ERAS = (HANDSHAKE, MODERN)


class Client(Wire):
    """A stdio client that declares capabilities, answers what it is asked, and listens."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.capabilities: Json = {}
        self.replies: dict[str, Json] = {}
        self.asked: list[Json] = []
        super().__init__(*args, **options)

    def send(self, message: Json) -> None:
        params = message.get("params") or {}
        if message.get("method") == "initialize":
            params["capabilities"] = self.capabilities
        elif CAPABILITIES in (params.get("_meta") or {}):
            params["_meta"][CAPABILITIES] = self.capabilities
        super().send(message)

    def _receive(self, message: Json) -> None:
        if "id" in message and message.get("method") in self.replies:
            self.asked.append(message)
            self.send({"id": message["id"], "result": self.replies[message["method"]]})
        else:
            super()._receive(message)

    def listen(self, **wanted: Any) -> Stream:
        """Open a stream of notifications (2026-07-28) and wait for its acknowledgement."""
        return Stream(self, wanted)

    def structured(self, tool: str, arguments: Json | None = None) -> Json:
        """The structured content of a call's own result."""
        return self.outcome(self.submit(tool, arguments).id)["structuredContent"]

    def heard(self, method: str, *, server: str = "") -> list[Json]:
        """What the toy was sent under this method."""
        return self.structured(f"{server}heard", {"method": method})["heard"]


class Stream:
    """A `subscriptions/listen` that lasts."""

    def __init__(self, client: Client, wanted: Json) -> None:
        self.client = client
        self.pending = client.start("subscriptions/listen", {"notifications": wanted})
        (self.opening,) = self.told("notifications/subscriptions/acknowledged")
        self.honored: Json = self.opening["notifications"]

    def everything(self) -> list[Json]:
        """Every notification of this stream so far."""
        return [
            each
            for each in list(self.client.notifications)
            if ((each.get("params") or {}).get("_meta") or {}).get(SUBSCRIPTION) == self.pending.id
        ]

    def told(self, method: str, *, count: int = 1) -> list[Json]:
        """The parameters of at least `count` notifications of this method, waited for."""

        def found() -> list[Json]:
            return [each["params"] for each in self.everything() if each["method"] == method]

        return eventually(lambda: found() if len(found()) >= count else [], f"{count} × {method} on the stream")

    def close(self) -> None:
        """End it as a client does."""
        self.client.notify("notifications/cancelled", {"requestId": self.pending.id})


def entry(stage: Stage, era: str, *options: str, **more: Any) -> Json:
    """An `mcpServers` entry for the protocol toy."""
    kind = "modern" if era == MODERN else "handshake"
    return stage.entry(sys.executable, str(TOY), kind, "--mark", stage.mark, *options, **more)


def start(
    stage: Stage,
    servers: dict[str, Json],
    *,
    era: str,
    capabilities: Json | None = None,
    replies: dict[str, Json] | None = None,
    ready: str | None = "heard",
    **settings: Any,
) -> Client:
    """A bridge over stdio and its client."""
    command = stage.command("serve", "--config", str(stage.config(servers, **{"grace_ms": 0, **settings})))
    log = stage.folder / f"{len(stage.wires):02d}-client.stderr"
    client = Client(command, env=stage.env, cwd=stage.folder, stderr=log, era=era)
    client.capabilities, client.replies = capabilities or {}, replies or {}
    stage.wires.append(client)
    client.open()
    if ready is not None:
        client.wait_for_tools(ready)
    return client


Open = Callable[..., Client]


@pytest.fixture(scope="module")
def between(shared_stage: Stage) -> Open:
    """A client of one era before a bridge before a toy of another, shared by the tests that want no other."""
    clients: dict[str, Client] = {}

    def connect(up: str, down: str, **options: Any) -> Client:
        key = canonical([up, down, options])
        if key not in clients:
            servers = {"toy": entry(shared_stage, down, asyncfc={"prefix": ""})}
            clients[key] = start(shared_stage, servers, era=up, **options)
        return clients[key]

    return connect


both_ways = pytest.mark.parametrize(
    ("up", "down"), [(up, down) for up in ERAS for down in ERAS], ids=lambda era: "new" if era == MODERN else "old"
)


def create(client: Client, tool: str, arguments: Json | None = None) -> Json:
    """Call a tool as a task, in the way of the client's era."""
    asks = {"_meta": {"asyncfc/tasks": "task"}} if client.era == MODERN else {"task": {"ttl": 60_000}}
    created = client.request("tools/call", {"name": tool, "arguments": arguments or {}, **asks})
    return created if client.era == MODERN else created["task"]


def settled(client: Client, task: str) -> Json:
    """A task, once it has ended."""

    def ended() -> Json | None:
        found = client.request("tasks/get", {"taskId": task})
        return found if found["status"] in ("completed", "failed", "cancelled") else None

    found = eventually(ended, f"task {task} ends")
    assert found
    return found


def refused(client: Client, method: str, params: Json) -> Json:
    """The error that a request is answered with."""
    with pytest.raises(RpcError) as caught:
        client.request(method, params)
    return caught.value.error


# --- the tasks extension, served -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasker(between: Open) -> Client:
    """A client that declares the tasks extension and can be asked."""
    return between(MODERN, MODERN, capabilities={**TASKS, "elicitation": {}}, tasks="handle")


def test_a_call_becomes_a_task_where_the_request_chooses_so(tasker: Client) -> None:
    """`asyncfc/tasks` in `_meta`: a flat task under the future's own ID, whose result is the tool's own."""
    created = create(tasker, "sleep", {"seconds": 0.3, "tag": "a"})
    assert created["resultType"] == "task"
    assert created["status"] == "working"
    assert created["ttlMs"] == 3_600_000
    assert created["pollIntervalMs"] > 0
    assert not {"result", "error", "inputRequests", "task"} & set(created)
    task = settled(tasker, created["taskId"])
    assert task["resultType"] == "complete"
    assert task["status"] == "completed"
    assert task["result"]["resultType"] == "complete"
    assert text_of(task["result"]) == "slept 0.3 a"
    assert text_of(tasker.outcome(created["taskId"])) == "slept 0.3 a"
    assert create(tasker, "echo")["taskId"] != created["taskId"]


def test_without_a_choice_a_client_of_the_extension_gets_results_or_tasks(between: Open) -> None:
    """`tasks: "auto"`, the default: the result itself if it comes within the grace, else a task."""
    client = between(MODERN, MODERN, capabilities=TASKS, grace_ms=5000)
    answer = client.call("echo", {"text": "hi"})
    assert answer["resultType"] == "complete"
    assert answer["structuredContent"] == {"arguments": {"text": "hi"}}
    assert "asyncfc/futures" not in answer["_meta"]
    client = between(MODERN, MODERN, capabilities=TASKS)
    created = client.call("sleep", {"seconds": 0.2, "tag": "a"})
    assert (created["resultType"], created["status"]) == ("task", "working")
    assert text_of(settled(client, created["taskId"])["result"]) == "slept 0.2 a"


def test_the_config_chooses_tasks_for_clients_that_declare_the_extension(between: Open) -> None:
    """`tasks: "task"`: their calls become tasks, unless a request asks for a handle; others never see a task."""
    client = between(MODERN, HANDSHAKE, capabilities=TASKS, tasks="task")
    created = client.call("sleep", {"seconds": 0})
    assert created["resultType"] == "task"
    assert settled(client, created["taskId"])["status"] == "completed"
    chosen = client.request("tools/call", {"name": "echo", "_meta": {"asyncfc/tasks": "handle"}})
    assert chosen["_meta"]["asyncfc/futures"][0]["tool"] == "echo"
    meta_tool = client.call("list_futures")
    assert meta_tool["resultType"] == "complete"
    for bare in (between(MODERN, HANDSHAKE, tasks="task"), between(HANDSHAKE, HANDSHAKE, tasks="task")):
        assert bare.submit("echo").tool == "echo"


def test_the_extension_is_announced_to_those_who_can_use_it(between: Open) -> None:
    """`server/discover` declares the extension; 2025-11-25 gets the capability of its own; older versions neither."""
    assert between(MODERN, MODERN).opening["capabilities"]["extensions"][EXTENSION] == {}
    old = between(HANDSHAKE, HANDSHAKE).opening["capabilities"]
    assert old["tasks"] == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    assert EXTENSION not in old.get("extensions", {})


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel", "subscriptions/listen"])
def test_tasks_are_refused_to_a_client_without_the_extension(between: Open, method: str) -> None:
    """-32021 names the capability that is missing, for every method, and for a stream that wants to hear of tasks."""
    client = between(MODERN, MODERN)
    future = client.submit("sleep", {"seconds": 0}).id
    wanted = {"notifications": {"taskIds": [future]}} if method == "subscriptions/listen" else {"taskId": future}
    error = refused(client, method, {**wanted, "inputResponses": {}})
    assert error["code"] == -32021
    assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.parametrize("task", ["f999999", "", 7, None])
def test_a_task_that_is_none_is_an_error(tasker: Client, method: str, task: object) -> None:
    """-32602, whatever stands in place of a task ID."""
    assert refused(tasker, method, {"taskId": task, "inputResponses": {}})["code"] == -32602


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
def test_methods_of_the_older_tasks_are_unknown_to_the_extension(tasker: Client, method: str) -> None:
    """2026-07-28 has no `tasks/list` and no `tasks/result`."""
    task = create(tasker, "echo")["taskId"]
    assert refused(tasker, method, {"taskId": task})["code"] == -32601


def test_a_task_that_is_cancelled_is_cancelled_at_the_server(tasker: Client) -> None:
    """`tasks/cancel` is acknowledged with nothing, the tool is told, and once more changes nothing."""
    created = create(tasker, "never")
    before = len(tasker.structured("seen_cancellations")["seen"])
    for _ in range(2):
        answer = tasker.request("tasks/cancel", {"taskId": created["taskId"]})
        assert answer["resultType"] == "complete"
        assert not {"taskId", "status", "result"} & set(answer)
        assert settled(tasker, created["taskId"])["status"] == "cancelled"
    eventually(
        lambda: len(tasker.structured("seen_cancellations")["seen"]) == before + 1, "the tool is told of it once"
    )


@pytest.mark.parametrize(
    ("tool", "status", "message"),
    [("fail", "completed", "no luck"), ("protocol_error", "failed", "the toy refuses")],
)
def test_a_failed_tool_and_a_failed_request_are_told_apart(
    tasker: Client, tool: str, status: str, message: str
) -> None:
    """`isError` is a result of a completed task; a JSON-RPC error is kept whole as the error of a failed one."""
    task = settled(tasker, create(tasker, tool, {"message": "no luck"})["taskId"])
    assert task["status"] == status
    if status == "completed":
        assert task["result"]["isError"] is True
        assert text_of(task["result"]) == message
        assert "error" not in task
    else:
        error = {"code": -32055, "message": message, "data": {"why": ["because", None], "retry": False}}
        assert task["error"] == error
        assert message in task["statusMessage"]
        assert "result" not in task


def test_a_task_asks_and_is_answered_by_an_update(tasker: Client) -> None:
    """`input_required` carries the question as the server put it; unknown keys are ignored; the answer reaches it."""
    created = create(tasker, "job", {"ask": "Which word?", "seconds": 0})

    def question() -> Json:
        return tasker.request("tasks/get", {"taskId": created["taskId"]}).get("inputRequests", {})

    ((key, asked),) = eventually(question, "the task asks").items()
    assert asked["method"] == "elicitation/create"
    assert asked["params"]["message"] == "Which word?"
    assert asked["params"]["requestedSchema"]["required"] == ["word"]
    update: Json = {"taskId": created["taskId"], "inputResponses": {"nobody asked": {"action": "accept"}}}
    assert tasker.request("tasks/update", update)["resultType"] == "complete"
    assert list(question()) == [key]
    update["inputResponses"] = {key: {"action": "accept", "content": {"word": "plum"}}}
    tasker.request("tasks/update", update)
    assert text_of(settled(tasker, created["taskId"])["result"]).endswith("done, told plum")


def test_a_task_is_named_waits_for_others_and_can_be_referred_to(tasker: Client) -> None:
    """A task is a future: `_as` names it, and what refers to it waits for it and gets its value."""
    create(tasker, "sleep", {"seconds": 0.2, "tag": "x", "_as": "slept"})
    second = create(tasker, "echo", {"text": "after ${f:slept}", "_wait": "this"})
    assert second["resultType"] == "task"
    done = settled(tasker, second["taskId"])
    assert done["result"]["structuredContent"] == {"arguments": {"text": "after slept 0.2 x"}}
    failed = settled(tasker, create(tasker, "echo", {"text": "$slept.nothing.there"})["taskId"])
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == -32603


def test_a_client_that_listens_is_told_of_every_change_of_a_task(tasker: Client) -> None:
    """`notifications/tasks`: the whole task, for the tasks that were named and no other, until the stream ends."""
    created = create(tasker, "job", {"ask": "Which word?", "seconds": 0.2})["taskId"]
    other = create(tasker, "sleep", {"seconds": 0})["taskId"]
    stream = tasker.listen(taskIds=[created, "f999999"])
    assert stream.honored["taskIds"] == [created]
    (asked,) = stream.told("notifications/tasks")
    (key,) = asked["inputRequests"]
    answer = {"taskId": created, "inputResponses": {key: {"action": "accept", "content": {"word": "fig"}}}}
    tasker.request("tasks/update", answer)
    told = stream.told("notifications/tasks", count=3)
    assert [each["status"] for each in told] == ["input_required", "working", "completed"]
    assert {each["taskId"] for each in told} == {created}
    assert told[-1]["result"]["content"][0]["text"].endswith("told fig")
    polled = tasker.request("tasks/get", {"taskId": created})
    envelope = ("resultType", "_meta")
    assert {k: v for k, v in told[-1].items() if k not in envelope} == {
        k: v for k, v in polled.items() if k not in envelope
    }
    stream.close()
    assert settled(tasker, other)["status"] == "completed"
    assert len([each for each in stream.everything() if each["method"] == "notifications/tasks"]) == 3


# --- the tasks of 2025-11-25, served -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experimenter(between: Open) -> Client:
    """A client of 2025-11-25."""
    return between(HANDSHAKE, MODERN, capabilities={"elicitation": {}})


def test_a_call_with_a_task_is_one_on_2025_11_25(experimenter: Client) -> None:
    """create → get → result: the result is the tool's own, and says which task it came from."""
    task = create(experimenter, "sleep", {"seconds": 0.2, "tag": "b"})
    assert task["status"] == "working"
    assert {"createdAt", "lastUpdatedAt", "ttl", "pollInterval"} <= set(task)
    got = experimenter.request("tasks/get", {"taskId": task["taskId"]})
    assert got["taskId"] == task["taskId"]
    assert "result" not in got
    result = experimenter.request("tasks/result", {"taskId": task["taskId"]})
    assert text_of(result) == "slept 0.2 b"
    assert result["_meta"][RELATED] == {"taskId": task["taskId"]}
    assert experimenter.request("tasks/get", {"taskId": task["taskId"]})["status"] == "completed"
    again = experimenter.request("tasks/result", {"taskId": task["taskId"]})
    assert canonical(again) == canonical(result)


def test_tools_say_on_2025_11_25_that_they_can_be_tasks_where_the_config_wants_it(between: Open) -> None:
    """Clients ask for tasks only where a tool says so, and some for nothing else; no other version has the field."""
    tools = between(HANDSHAKE, HANDSHAKE, tasks="task").tools()
    assert {tools[name]["execution"]["taskSupport"] for name in ("sleep", "job", "echo")} == {"optional"}
    assert "execution" not in tools["await_future"]
    for other in (between(MODERN, HANDSHAKE, tasks="task"), between(HANDSHAKE, HANDSHAKE)):
        assert not [each for each in other.tools().values() if "execution" in each]


def test_tasks_are_listed_and_cancelled_on_2025_11_25(experimenter: Client) -> None:
    """Every future is a task; cancelling answers with the task, and is refused once it has ended."""
    task = create(experimenter, "never")["taskId"]
    assert task in [each["taskId"] for each in experimenter.request("tasks/list")["tasks"]]
    cancelled = experimenter.request("tasks/cancel", {"taskId": task})
    assert cancelled["taskId"] == task
    assert cancelled["status"] == "cancelled"
    assert refused(experimenter, "tasks/cancel", {"taskId": task})["code"] == -32602
    assert "cancelled" in refused(experimenter, "tasks/result", {"taskId": task})["message"]


@pytest.mark.parametrize(
    ("tool", "code"), [("protocol_error", -32055), ("fail", None)], ids=["a JSON-RPC error", "an isError result"]
)
def test_the_result_of_a_task_that_failed_is_what_the_call_would_have_got(
    experimenter: Client, tool: str, code: int | None
) -> None:
    """`tasks/result` answers with the same error, or the same result, as the call would have."""
    task = create(experimenter, tool)["taskId"]
    if code is None:
        assert experimenter.request("tasks/result", {"taskId": task})["isError"] is True
    else:
        error = refused(experimenter, "tasks/result", {"taskId": task})
        assert error["code"] == code
        assert error["data"] == {"why": ["because", None], "retry": False}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
def test_a_task_that_is_none_is_an_error_on_2025_11_25(experimenter: Client, method: str) -> None:
    """-32602."""
    assert refused(experimenter, method, {"taskId": "f999999"})["code"] == -32602


def test_a_question_of_a_task_comes_while_its_result_is_waited_for(shared_stage: Stage, between: Open) -> None:
    """2025-11-25: `tasks/result` puts the server's question to the client as a request, and then has the result."""
    reply = {"elicitation/create": {"action": "accept", "content": {"word": "quince"}}}
    client = between(HANDSHAKE, HANDSHAKE, capabilities={"elicitation": {}}, replies=reply)
    task = create(client, "job", {"ask": "Which word?", "seconds": 0})["taskId"]
    eventually(
        lambda: client.request("tasks/get", {"taskId": task})["status"] == "input_required", "the task waits for input"
    )
    assert text_of(client.request("tasks/result", {"taskId": task})).endswith("told quince")
    assert [each["params"]["message"] for each in client.asked] == ["Which word?"]


@pytest.mark.parametrize("method", ["tools/call", "tasks/get", "tasks/list", "tasks/result", "tasks/cancel"])
def test_an_older_client_is_refused_tasks(between: Open, method: str) -> None:
    """2025-06-18 has no tasks: a call with one is an error, and the methods do not exist."""
    client = between("2025-06-18", HANDSHAKE)
    assert "tasks" not in client.opening["capabilities"]
    future = client.submit("echo").id
    params = {"name": "echo", "arguments": {}, "task": {}} if method == "tools/call" else {"taskId": future}
    assert refused(client, method, params)["code"] == (-32602 if method == "tools/call" else -32601)


# --- tasks of servers ----------------------------------------------------------------------------------------------


@both_ways
def test_a_call_that_the_server_made_a_task_of_is_a_call_like_any_other(between: Open, up: str, down: str) -> None:
    """The future follows the task: what the server says of it is progress, and its result is the tool's own."""
    client = between(up, down)
    beats: list[Json] = []
    future = client.submit("job", {"seconds": 0.4, "say": "half way"}).id
    result = client.await_future(future, on_progress=beats.append)
    assert text_of(result).startswith("job-")
    assert result["_meta"]["toy.example/job"].startswith("job-")
    assert "half way" in {beat.get("message") for beat in beats}
    (sent,) = [each for each in client.heard("tools/call") if each["arguments"].get("say") == "half way"]
    assert ("task" in sent) == (down == HANDSHAKE)
    assert (EXTENSION in str(sent.get("_meta"))) == (down == MODERN)


@both_ways
@pytest.mark.parametrize("outcome", ["is_error", "failed", "cancelled"])
def test_a_task_that_ends_badly_ends_its_future_so(between: Open, up: str, down: str, outcome: str) -> None:
    """`isError` stays a result; the server's error, or that it gave up, is the reason of the failure."""
    client = between(up, down)
    result = client.outcome(client.submit("job", {"seconds": 0, "outcome": outcome}).id)
    assert result["isError"] is True
    expected = {"is_error": "done, told nothing", "failed": "the job broke", "cancelled": "the server cancelled"}
    assert expected[outcome] in text_of(result)


@both_ways
def test_cancelling_a_future_cancels_the_servers_task(between: Open, up: str, down: str) -> None:
    """`cancel_future` reaches the server as `tasks/cancel` of its own task ID, once."""
    client = between(up, down)
    before = [each["taskId"] for each in client.heard("tasks/cancel")]
    future = client.submit("job", {"seconds": 600, "say": "long"}).id
    eventually(lambda: "long" in text_of(client.await_future(future, timeout_s=0)), "the task is being followed")
    cancelled = client.call("cancel_future", {"future_id": future})
    assert cancelled["_meta"]["asyncfc/futures"][0]["status"] == "cancelled"
    eventually(lambda: len(client.heard("tasks/cancel")) > len(before), "the server hears of it")
    (task,) = [each["taskId"] for each in client.heard("tasks/cancel")][len(before) :]
    assert task.startswith("job-")
    assert task not in before


@both_ways
def test_a_question_of_the_servers_task_reaches_whoever_awaits(between: Open, up: str, down: str) -> None:
    """`input_required` downstream is a question of the future: a request before 2026-07-28, an answer since."""
    said = {"action": "accept", "content": {"word": "medlar"}}
    client = between(up, down, capabilities={"elicitation": {}}, replies={"elicitation/create": said})
    future = client.submit("job", {"seconds": 0, "ask": "Which fruit?"}).id
    result = client.await_future(future)
    if up == MODERN:
        assert result["resultType"] == "input_required"
        ((key, asked),) = result["inputRequests"].items()
        assert asked["params"]["message"] == "Which fruit?"
        retry = {"inputResponses": {key: said}, "requestState": result["requestState"]}
        result = client.request("tools/call", {"name": "await_future", "arguments": {"future_id": future}, **retry})
    assert text_of(result).endswith("told medlar")


def test_a_servers_task_that_asks_a_client_who_cannot_answer_is_not_left_behind(between: Open) -> None:
    """The future fails and says why, and the server's task is cancelled instead of waiting for ever."""
    client = between(HANDSHAKE, MODERN)
    before = len(client.heard("tasks/cancel"))
    result = client.outcome(client.submit("job", {"seconds": 0, "ask": "Anybody?"}).id)
    assert result["isError"] is True
    eventually(lambda: len(client.heard("tasks/cancel")) > before, "the server's task is cancelled")


def test_a_task_that_its_server_has_forgotten_fails(stage: Stage) -> None:
    """A server that was started anew does not know its task any more: the future fails, the call is not repeated."""
    client = start(stage, {"toy": entry(stage, MODERN, asyncfc={"prefix": ""})}, era=MODERN)
    future = client.submit("job", {"seconds": 600, "say": "long"}).id
    eventually(lambda: "long" in text_of(client.await_future(future, timeout_s=0)), "the task is being followed")
    kill_toys(stage)
    result = client.outcome(future)
    assert result["isError"] is True
    assert "Task not found" in text_of(result) or "may or may not have taken effect" in text_of(result)
    assert [each["name"] for each in client.heard("tools/call")] == ["heard"]


# --- futures as resources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", ERAS, ids=["old", "new"])
def test_a_future_is_read_as_a_resource(between: Open, up: str) -> None:
    """The untouched result as JSON, then its binary blocks as blobs; running, it reads as its record."""
    client = between(up, HANDSHAKE)
    future = client.submit("rich").id
    own = client.outcome(future)
    contents = client.request("resources/read", {"uri": f"future://{future}"})["contents"]
    body = json.loads(contents[0]["text"])
    assert contents[0]["mimeType"] == "application/json"
    for key in ("content", "structuredContent", "x-vendor"):
        assert canonical(body[key]) == canonical(own[key])
    blobs = [each for each in contents if "blob" in each]
    assert [each["mimeType"] for each in blobs] == ["image/png", "audio/wav"]
    binary = [block["data"] for block in own["content"] if "data" in block]
    assert [each["blob"] for each in blobs] == binary
    for each in blobs:
        (alone,) = client.request("resources/read", {"uri": each["uri"]})["contents"]
        assert alone["blob"] == each["blob"]
    running = client.submit("sleep", {"seconds": 1, "_as": f"r{len(up)}"}).id
    record = json.loads(client.request("resources/read", {"uri": f"future://{running}"})["contents"][0]["text"])
    assert (record["future_id"], record["status"]) == (running, "running")
    named = client.request("resources/read", {"uri": f"future://r{len(up)}"})["contents"][0]
    assert json.loads(named["text"])["future_id"] == running


def test_a_large_result_is_read_in_pages(between: Open) -> None:
    """Pages put together are the whole; each says how much is left."""
    client = between(MODERN, HANDSHAKE)
    future = client.submit("big", {"n_bytes": 250_000}).id
    client.outcome(future)
    (whole,) = client.request("resources/read", {"uri": f"future://{future}"})["contents"]
    offset, parts = 0, []
    while True:
        uri = f"future://{future}?offset={offset}&limit=100000"
        (page,) = client.request("resources/read", {"uri": uri})["contents"]
        parts.append(page["text"])
        assert page["_meta"]["asyncfc/total"] == len(whole["text"])
        if not page["_meta"]["asyncfc/rest"]:
            break
        offset += len(page["text"])
    assert len(parts) == 3
    assert "".join(parts) == whole["text"]
    (past,) = client.request("resources/read", {"uri": f"future://{future}?offset=9999999"})["contents"]
    assert (past["text"], past["_meta"]["asyncfc/rest"]) == ("", 0)


@pytest.mark.parametrize(("up", "code"), [(HANDSHAKE, -32002), (MODERN, -32602)], ids=["old", "new"])
@pytest.mark.parametrize("uri", ["future://f999999", "future://", "future://nobody"])
def test_a_future_that_is_none_is_no_resource(between: Open, up: str, code: int, uri: str) -> None:
    """The error that the client's version has for a resource that does not exist."""
    client = between(up, HANDSHAKE)
    error = refused(client, "resources/read", {"uri": uri})
    assert error["code"] in (code, -32002)
    assert error["data"] == {"uri": uri}


def test_futures_are_listed_among_the_resources(between: Open) -> None:
    """After those of the servers, newest first, with the template that reads them in pages."""
    client = between(HANDSHAKE, MODERN)
    futures = [client.submit("echo", {"_as": name}).id for name in ("first", "second")]
    resources = client.all_pages("resources/list", "resources")
    uris = [each["uri"] for each in resources]
    assert uris.index("toy://greeting") < uris.index(f"future://{futures[1]}") < uris.index(f"future://{futures[0]}")
    assert [each["name"] for each in resources if each["uri"] == f"future://{futures[0]}"] == ["first"]
    templates = [each["uriTemplate"] for each in client.all_pages("resources/templates/list", "resourceTemplates")]
    assert templates == ["toy://note/{name}", "future://{id}{?offset,limit}"]


def test_who_subscribes_to_a_future_is_told_when_it_settles(between: Open) -> None:
    """Before 2026-07-28 on the connection: once, for the future that was subscribed to, also under its name."""
    client = between(HANDSHAKE, HANDSHAKE)
    future = client.submit("sleep", {"seconds": 0.3, "_as": "nap"}).id
    unwatched = client.submit("sleep", {"seconds": 0.1}).id
    dropped = client.submit("sleep", {"seconds": 0.2}).id
    for each in (future, dropped, "nap"):
        assert client.request("resources/subscribe", {"uri": f"future://{each}"}) == {}
    client.request("resources/unsubscribe", {"uri": f"future://{dropped}"})
    client.outcome(future)
    uris = [f"future://{each}" for each in (unwatched, dropped, future, "nap")]

    def told() -> list[str]:
        updates = [each["params"]["uri"] for each in client.notifications if each["method"] == UPDATED]
        return [uri for uri in updates if uri in uris]

    eventually(lambda: len(told()) >= 2, "both subscriptions are told")
    assert sorted(told()) == sorted([f"future://{future}", "future://nap"])


def test_a_stream_is_told_of_a_future_that_settles(between: Open) -> None:
    """2026-07-28: on the stream that asked for it, and stamped with its ID; one that has settled already at once."""
    client = between(MODERN, HANDSHAKE)
    early = client.submit("echo").id
    client.outcome(early)
    future = client.submit("sleep", {"seconds": 0.3}).id
    uris = [f"future://{each}" for each in (early, future)]
    stream = client.listen(resourceSubscriptions=uris)
    assert stream.honored == {"resourceSubscriptions": uris}
    assert [each["uri"] for each in stream.told(UPDATED, count=2)] == uris
    stream.close()


def test_a_result_above_max_result_bytes_comes_in_parts(between: Open) -> None:
    """`await_future` hands out the first part, says how much there is, and links the resource that has the rest."""
    client = between(HANDSHAKE, MODERN, max_result_bytes=1000)
    future = client.submit("big", {"n_bytes": 50_000}).id
    note, part, link = client.await_future(future)["content"]
    assert "50000" in note["text"]
    assert part["text"].startswith("000000000000000\n000000000000001\n")
    assert len(part["text"].encode()) <= 1000
    assert (link["type"], link["uri"]) == ("resource_link", f"future://{future}")
    (whole,) = client.request("resources/read", {"uri": link["uri"]})["contents"]
    assert len(json.loads(whole["text"])["content"][0]["text"]) == 50_000
    small = client.submit("sleep", {"seconds": 0}).id
    assert text_of(client.await_future(small)) == "slept 0"


# --- logging -------------------------------------------------------------------------------------------------------


def logged(client: Client, text: str) -> list[tuple[str, str]]:
    """Level and text of the log messages that begin so, as far as they have come."""
    bodies = [each["params"] for each in client.notifications if each["method"] == "notifications/message"]
    return [(body["level"], body["data"]) for body in bodies if str(body["data"]).startswith(text)]


@pytest.mark.parametrize("down", ERAS, ids=["old", "new"])
def test_log_messages_reach_a_handshake_client_by_level(between: Open, down: str) -> None:
    """`logging/setLevel` goes for every server, whatever its era; messages come as the server wrote them."""
    client = between(HANDSHAKE, down)
    assert "logging" in client.opening["capabilities"]
    assert client.request("logging/setLevel", {"level": "warning"}) == {}
    client.outcome(client.submit("log", {"text": "first", "levels": ["info", "warning", "critical"]}).id)
    eventually(lambda: len(logged(client, "first")) >= 2, "the messages come")
    assert logged(client, "first") == [("warning", "first 0"), ("critical", "first 0")]
    client.request("logging/setLevel", {"level": "debug"})
    client.outcome(client.submit("log", {"text": "second", "levels": ["debug"]}).id)
    eventually(lambda: logged(client, "second") == [("debug", "second 0")], "the message comes")


def test_a_level_that_is_none_is_refused(between: Open) -> None:
    """-32602 for `logging/setLevel` with a level that does not exist; 2026-07-28 has no such method."""
    assert refused(between(HANDSHAKE, HANDSHAKE), "logging/setLevel", {"level": "loud"})["code"] == -32602
    assert refused(between(MODERN, HANDSHAKE), "logging/setLevel", {"level": "info"})["code"] == -32601


@pytest.mark.parametrize("down", ERAS, ids=["old", "new"])
def test_a_level_set_before_the_server_was_up_holds_and_outlives_it(stage: Stage, down: str) -> None:
    """The level is told to a server that starts later, and again to one that was started anew."""
    gate = stage.folder / "gate"
    toy = entry(stage, down, "--wait-for", str(gate), asyncfc={"prefix": ""})
    client = start(stage, {"toy": toy}, era=HANDSHAKE, ready=None)
    client.request("logging/setLevel", {"level": "debug"})
    gate.touch()
    client.wait_for_tools("log")
    for name in ("one", "two"):
        # Debug is what a toy that was told nothing keeps for itself. A call may still meet the one that was killed.
        arguments = {"text": name, "levels": ["debug"]}
        eventually(
            lambda arguments=arguments: text_of(client.outcome(client.submit("log", arguments).id)) == "logged",
            "the toy is up",
        )
        eventually(lambda name=name: logged(client, name), "the message comes")
        kill_toys(stage)


def test_a_server_that_logs_without_end_is_kept_short(between: Open) -> None:
    """More than a few dozen messages a second of one server are dropped; the call and the connection go on."""
    client = between(HANDSHAKE, HANDSHAKE)
    client.request("logging/setLevel", {"level": "debug"})
    assert text_of(client.outcome(client.submit("log", {"text": "flood", "count": 2000}).id)) == "logged"
    client.request("ping")
    assert 0 < len(logged(client, "flood")) < 300


def test_a_modern_client_hears_only_the_log_of_the_request_that_asked(between: Open) -> None:
    """2026-07-28: a level in `_meta` of a request that waits brings messages of that level; else there are none."""
    client = between(MODERN, MODERN)
    arguments = {"levels": ["info", "error"], "_wait": "this"}
    client.call("log", {**arguments, "text": "unheard"})
    meta = {"io.modelcontextprotocol/logLevel": "error"}
    client.request("tools/call", {"name": "log", "arguments": {**arguments, "text": "heard"}, "_meta": meta})
    assert logged(client, "heard") == [("error", "heard 0")]
    assert logged(client, "unheard") == []


# --- subscriptions -------------------------------------------------------------------------------------------------


def updates(client: Client, uri: str) -> int:
    """How often the client was told that a resource changed."""
    told = [each["params"]["uri"] for each in client.notifications if each["method"] == UPDATED]
    return told.count(uri)


class Watch:
    """A subscription in the way of the client's era."""

    def __init__(self, client: Client, uri: str) -> None:
        self.client, self.uri = client, uri
        self.stream: Stream | None = None
        if client.era == MODERN:
            self.stream = client.listen(resourceSubscriptions=[uri])
        else:
            assert client.request("resources/subscribe", {"uri": uri}) == {}

    def end(self) -> None:
        """Not interested any more."""
        if self.stream is not None:
            self.stream.close()
        else:
            self.client.request("resources/unsubscribe", {"uri": self.uri})


@both_ways
def test_a_change_of_a_resource_reaches_who_subscribed_and_nobody_after(between: Open, up: str, down: str) -> None:
    """Whatever the eras, each change is told once, and none after the end of the subscription."""
    client = between(up, down)
    uri, other = "toy://note/a", "toy://note/ab"
    watch = Watch(client, uri)
    for count in (1, 2):
        assert text_of(client.outcome(client.submit("touch", {"uri": uri}).id)) == "told 1"
        eventually(lambda count=count: updates(client, uri) == count, "the change is told")
    client.outcome(client.submit("touch", {"uri": other}).id)
    part = f"{uri}#part"
    client.outcome(client.submit("touch", {"uri": part}).id)
    eventually(lambda: updates(client, part) == 1, "a part of what was subscribed to is told")
    assert updates(client, other) == 0
    watch.end()
    eventually(
        lambda: text_of(client.outcome(client.submit("touch", {"uri": uri}).id)) == "told 0", "the server is told"
    )
    assert updates(client, uri) == 2


@both_ways
def test_subscriptions_outlive_the_server(stage: Stage, up: str, down: str) -> None:
    """A server that was killed and started again is subscribed to again; the client notices nothing."""
    client = start(stage, {"toy": entry(stage, down, asyncfc={"prefix": ""})}, era=up)
    uri = "toy://greeting"
    Watch(client, uri)
    kill_toys(stage)
    eventually(
        lambda: text_of(client.outcome(client.submit("touch", {"uri": uri}).id)) == "told 1",
        "it is subscribed to again",
    )
    eventually(lambda: updates(client, uri) == 1, "the change is told")


def test_a_refused_subscription_is_refused_each_time(between: Open) -> None:
    """The server's error comes back, for the second client request as for the first; no stream claims to honor it."""
    client = between(HANDSHAKE, HANDSHAKE)
    for _ in range(2):
        error = refused(client, "resources/subscribe", {"uri": "toy://note/forbidden"})
        assert (error["code"], error["message"]) == (-32055, "that one is not to be watched")
    stream = between(MODERN, HANDSHAKE).listen(resourceSubscriptions=["toy://note/forbidden", "toy://greeting"])
    assert stream.honored == {"resourceSubscriptions": ["toy://greeting"]}
    stream.close()


def test_a_server_that_never_answers_an_unsubscription_holds_up_nobody(stage: Stage) -> None:
    """The stream ends, and the bridge ends when its client leaves, all the same."""
    toy = entry(stage, HANDSHAKE, "--never-unsubscribe", asyncfc={"prefix": ""})
    client = start(stage, {"toy": toy}, era=MODERN)
    client.listen(resourceSubscriptions=["toy://greeting"])
    client.hang_up()
    assert client.wait() == 0


def test_two_listeners_share_one_subscription(between: Open) -> None:
    """The server is subscribed to once, both are told, and one that leaves does not end it for the other."""
    client = between(MODERN, HANDSHAKE)
    uri = "toy://blob"
    before = len(client.heard("resources/subscribe"))
    streams = [client.listen(resourceSubscriptions=[uri]) for _ in range(2)]
    assert len(client.heard("resources/subscribe")) == before + 1
    client.outcome(client.submit("touch", {"uri": uri}).id)
    for stream in streams:
        assert stream.told(UPDATED) == [{"uri": uri, "_meta": {SUBSCRIPTION: stream.pending.id}}]
    streams[0].close()
    client.request("tools/list")
    assert text_of(client.outcome(client.submit("touch", {"uri": uri}).id)) == "told 1"
    streams[1].told(UPDATED, count=2)
    streams[1].close()


@pytest.mark.parametrize("notifications", [None, [], "all", {"taskIds": "f1"}, {"resourceSubscriptions": 7}])
def test_a_stream_of_nonsense_is_refused(tasker: Client, notifications: object) -> None:
    """-32602 for a filter whose types are wrong; nothing of it ends the connection."""
    assert refused(tasker, "subscriptions/listen", {"notifications": notifications})["code"] == -32602


# --- changes of lists ----------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("kind", ["tools", "prompts", "resources"])
def test_a_change_of_a_list_is_announced(between: Open, up: str, down: str, kind: str) -> None:
    """The client hears of it, on the stream that asked for it where the era has streams, and then finds the change."""
    client = between(up, down)
    method = f"notifications/{kind}/list_changed"
    name = f"new_{kind}_{up[:4]}_{down[:4]}"
    others = {f"{each}ListChanged": True for each in ("tools", "prompts", "resources") if each != kind}
    if up == MODERN:
        stream, other = client.listen(**{f"{kind}ListChanged": True}), client.listen(**others)
        client.outcome(client.submit("add", {"kind": kind, "name": name}).id)
        stream.told(method)
        assert [each["method"] for each in other.everything()] == ["notifications/subscriptions/acknowledged"]
        stream.close()
        other.close()
    else:
        before = sum(each["method"] == method for each in client.notifications)
        client.outcome(client.submit("add", {"kind": kind, "name": name}).id)
        client.notified(method, count=before + 1)
    names = {each["name"] for each in client.all_pages(f"{kind}/list", kind)}
    assert name in names


# --- lists, prompts, completion, ping, _meta -----------------------------------------------------------------------


@pytest.mark.parametrize("up", ERAS, ids=["old", "new"])
def test_a_thousand_tools_come_in_pages(stage: Stage, up: str) -> None:
    """Every tool once, over as many pages as it takes, though the servers have pages of their own."""
    servers = {name: entry(stage, HANDSHAKE, "--extra-tools", "600", "--label", name) for name in ("one", "two")}
    client = start(stage, servers, era=up, ready=None)
    first = eventually(lambda: (page := client.request("tools/list")).get("nextCursor") and page, "there are two pages")
    assert len(first["tools"]) == 1000
    tools = [each["name"] for each in client.all_pages("tools/list", "tools")]
    assert len(tools) == len(set(tools))
    assert {f"{server}__extra_{n}" for server in servers for n in range(600)} < set(tools)
    for cursor in ("tools:0", "tools:999999", "prompts:1000", "nonsense", "", "tools:-1", 7):
        assert refused(client, "tools/list", {"cursor": cursor})["code"] == -32602
    assert text_of(client.outcome(client.submit("two__extra_599", {"text": "x"}).id)) == '{"text": "x"}'


@both_ways
def test_prompts_and_completion_pass_through(between: Open, up: str, down: str) -> None:
    """Prompts by their listed names, completion of prompts and templates with its context, and the server's errors."""
    client = between(up, down)
    prompts = {each["name"] for each in client.all_pages("prompts/list", "prompts")}
    assert {"greet", "part", "third", "fourth"} <= prompts
    prompt = client.request("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}})
    assert prompt["messages"][0]["content"]["text"] == "Greet Ada"
    assert refused(client, "prompts/get", {"name": "nobody"})["code"] == -32602
    typed = {"argument": {"name": "name", "value": "ap"}}
    for ref in ({"type": "ref/prompt", "name": "greet"}, {"type": "ref/resource", "uri": "toy://note/{name}"}):
        found = client.request("completion/complete", {"ref": ref, **typed})["completion"]
        assert found["values"] == ["apple", "apricot"]
    context = {"ref": {"type": "ref/prompt", "name": "greet"}, **typed, "context": {"arguments": {"tone": "warm"}}}
    assert client.request("completion/complete", context)["completion"]["values"] == ["greet knowing tone=warm"]
    for ref in ({"type": "ref/prompt", "name": "nobody"}, {"type": "ref/resource", "uri": "no://where"}, "greet"):
        assert refused(client, "completion/complete", {"ref": ref, **typed})["code"] == -32602


@both_ways
def test_meta_is_passed_on_but_for_what_belongs_to_one_hop(between: Open, up: str, down: str) -> None:
    """Trace context and a vendor's keys reach the server; our own keys, tokens and envelopes do not."""
    client = between(up, down)
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "baggage": "user=ada",
        "toy.example/nested": {"kept": [None, 1.5]},
    }
    meta = {**trace, "asyncfc/conversation": "c1", "progressToken": "mine"}
    result = client.request("tools/call", {"name": "meta", "arguments": {}, "_meta": meta})
    seen = client.outcome(result["_meta"]["asyncfc/futures"][0]["future_id"])["structuredContent"]["meta"]
    assert {key: seen[key] for key in trace} == trace
    rest = set(seen) - set(trace) - {"progressToken"}
    assert seen.get("progressToken") != "mine"
    own = {f"io.modelcontextprotocol/{key}" for key in ("protocolVersion", "clientInfo", "clientCapabilities")}
    assert rest - {"io.modelcontextprotocol/logLevel"} == (own if down == MODERN else set())
    client.request("prompts/get", {"name": "greet", "_meta": meta})
    client.request("resources/read", {"uri": "toy://greeting", "_meta": meta})
    for method in ("prompts/get", "resources/read"):
        assert client.heard(method)[-1]["_meta"]["traceparent"] == trace["traceparent"]


def test_cache_hints_of_servers_and_of_the_bridge(between: Open) -> None:
    """2026-07-28: what a server says of its resource is passed on; what the bridge lists is not cached."""
    client = between(MODERN, MODERN)
    read = client.request("resources/read", {"uri": "toy://greeting"})
    assert (read["ttlMs"], read["cacheScope"]) == (5000, "public")
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        listed = client.request(method)
        assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")
    plain = between(HANDSHAKE, MODERN).request("resources/read", {"uri": "toy://greeting"})
    assert "resultType" not in plain


def test_ping_is_answered_in_the_era_that_has_it(between: Open) -> None:
    """An empty result before 2026-07-28; since then there is no such method."""
    assert between(HANDSHAKE, HANDSHAKE).request("ping") == {}
    assert refused(between(MODERN, HANDSHAKE), "ping", {})["code"] == -32601


# --- over HTTP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def over_http(shared_stage: Stage) -> HttpBridge:
    """A bridge over Streamable HTTP before a toy of each era."""
    servers = {name: entry(shared_stage, era, "--label", name) for name, era in (("old", HANDSHAKE), ("new", MODERN))}
    return shared_stage.http_bridge(servers, grace_ms=0)


def modern_post(bridge: HttpBridge, method: str, params: Json, **options: Any) -> Json:
    """The answer to one 2026-07-28 request over HTTP."""
    headers, body = modern_request(method, params, **options)
    client = bridge.client(era=MODERN)
    _, got, data = client.exchange("POST", body, headers)
    return next(each for each in client._messages(got, data) if each.get("id") == 1)


def test_tasks_and_their_notifications_over_http(over_http: HttpBridge) -> None:
    """A task is created, routed by its `Mcp-Name`, pushed on a stream of its own, and its result is read by anybody."""
    call = {"name": "new__sleep", "arguments": {"seconds": 0.4}, "_meta": {"asyncfc/tasks": "task"}}
    created = modern_post(over_http, "tools/call", call, name="new__sleep")["result"]
    assert created["resultType"] == "task"
    task = created["taskId"]
    headers, body = modern_request("subscriptions/listen", {"notifications": {"taskIds": [task]}})
    events = Events(over_http, "POST", headers, body)
    assert events.told("notifications/subscriptions/acknowledged")["notifications"] == {"taskIds": [task]}
    assert events.told("notifications/tasks")["result"]["content"][0]["text"] == "slept 0.4"
    got = modern_post(over_http, "tasks/get", {"taskId": task}, name=task)["result"]
    assert got["status"] == "completed"
    error = modern_post(over_http, "tasks/get", {"taskId": task}, name=task, capabilities={})["error"]
    assert error["code"] == -32021
    events.close()


def test_a_session_is_told_on_its_own_stream(over_http: HttpBridge) -> None:
    """Before 2026-07-28: list changes, log messages and updated resources come on the session's GET stream."""
    client = over_http.client()
    assert client.session
    headers = {"Mcp-Session-Id": client.session, "Mcp-Protocol-Version": HANDSHAKE}
    events = Events(over_http, "GET", headers)
    client.wait_for_tools("old__touch", "new__touch")
    client.request("logging/setLevel", {"level": "info"})
    for label in ("old", "new"):
        client.request("resources/subscribe", {"uri": f"{label}://greeting"})
    future = client.submit("new__sleep", {"seconds": 0.2}).id
    client.request("resources/subscribe", {"uri": f"future://{future}"})
    for label in ("old", "new"):
        client.outcome(client.submit(f"{label}__touch", {"uri": f"{label}://greeting"}).id)
    client.outcome(client.submit("old__log", {"text": "over HTTP"}).id)
    client.outcome(client.submit("new__add", {"kind": "prompts", "name": "late"}).id)
    assert events.told("notifications/message")["data"] == "over HTTP 0"
    events.told("notifications/prompts/list_changed")

    def updated() -> set[str]:
        return {each["params"]["uri"] for each in list(events.messages) if each.get("method") == UPDATED}

    eventually(
        lambda: updated() == {"old://greeting", "new://greeting", f"future://{future}"}, "all three changes are told"
    )
    events.close()
    client.close()


def test_a_stream_that_is_hung_up_is_forgotten_at_the_server(over_http: HttpBridge) -> None:
    """When the last client that cared has gone, the servers behind are told so."""
    uri = "old://blob"
    headers, body = modern_request("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})
    events = Events(over_http, "POST", headers, body)
    events.told("notifications/subscriptions/acknowledged")
    client = over_http.client()
    assert text_of(client.outcome(client.submit("old__touch", {"uri": uri}).id)) == "told 1"
    assert events.told(UPDATED)["uri"] == uri
    events.close()
    eventually(
        lambda: text_of(client.outcome(client.submit("old__touch", {"uri": uri}).id)) == "told 0",
        "the server is unsubscribed from",
    )
    client.close()


def test_a_listener_that_does_not_read_holds_up_nobody(over_http: HttpBridge) -> None:
    """Its stream fills up; calls of others, and what they are told, go on, and so does it once it has hung up."""
    deaf, client = over_http.client(), over_http.client()
    assert deaf.session
    assert client.session
    unread = http.client.HTTPConnection("127.0.0.1", over_http.port, timeout=PATIENCE)
    accept = {"Accept": "text/event-stream", "Mcp-Protocol-Version": HANDSHAKE}
    unread.request("GET", "/mcp", headers={**accept, "Mcp-Session-Id": deaf.session})
    response = unread.getresponse()
    assert response.status == 200
    lively = Events(over_http, "GET", {"Mcp-Session-Id": client.session, "Mcp-Protocol-Version": HANDSHAKE})
    for each in (deaf, client):
        each.request("logging/setLevel", {"level": "info"})
    # 12 MB are more than any two sockets buffer.
    arguments = {"text": "flood " + "x" * 300_000, "count": 40}
    assert text_of(client.outcome(client.submit("old__log", arguments).id)) == "logged"

    def floods() -> int:
        bodies = [each["params"] for each in list(lively.messages) if each.get("method") == "notifications/message"]
        return sum(str(body["data"]).startswith("flood") for body in bodies)

    eventually(lambda: floods() == 40, "who reads is told everything")
    assert text_of(client.outcome(client.submit("new__sleep", {"seconds": 0, "tag": "on"}).id)) == "slept 0 on"
    response.close()
    unread.close()
    assert text_of(deaf.outcome(deaf.submit("new__sleep", {"seconds": 0, "tag": "back"}).id)) == "slept 0 back"
    lively.close()
    deaf.close()
    client.close()


def test_a_bridge_behind_a_bridge(stage: Stage) -> None:
    """Over HTTP one bridge gives another tasks; results, progress, cancellation and subscriptions pass both."""
    inner = stage.http_bridge({"toy": entry(stage, MODERN, asyncfc={"prefix": ""})}, grace_ms=0, tasks="task")
    outer_entry = {"url": f"{inner.base}/mcp", "asyncfc": {"prefix": "in_"}}
    client = start(stage, {"inner": outer_entry}, era=HANDSHAKE, ready="in_heard")
    assert text_of(client.outcome(client.submit("in_sleep", {"seconds": 0.1}).id)) == "slept 0.1"
    future = client.submit("in_job", {"seconds": 600, "say": "long"}).id
    eventually(lambda: "long" in text_of(client.await_future(future, timeout_s=0)), "the task is being followed")
    client.call("cancel_future", {"future_id": future})
    heard = {"method": "tasks/cancel"}
    eventually(lambda: client.structured("in_heard", heard)["heard"], "the server behind both is told to cancel")
    for uri in ("toy://greeting", "toy://blob", "toy://note/a"):
        client.request("resources/subscribe", {"uri": uri})
        # At once: the subscription holds when its answer is there, also over several connections.
        assert text_of(client.outcome(client.submit("in_touch", {"uri": uri}).id)) == "told 1"
        eventually(lambda uri=uri: updates(client, uri), "the change is told")


# --- processes -----------------------------------------------------------------------------------------------------


def kill_toys(stage: Stage) -> None:
    """Kill the toys of a stage, and wait until they are gone."""
    toys = [each for each in stage.downstreams() if str(TOY) in each.cmdline()]
    assert toys
    for each in toys:
        each.kill()
    psutil.wait_procs(toys, timeout=PATIENCE)
