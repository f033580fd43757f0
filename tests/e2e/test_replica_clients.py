"""Clients whose requests reach several replicas: sessions, names, unread results, questions, a replica that stops.

Real processes over one real PostgreSQL; futures and calls themselves are `test_replicas`'.
"""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.test_replicas import Replicas, both_eras, kill, url
from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, eventually, records, text_of
from tests.support.http_client import HttpWire
from tests.support.http_response import GrowingResponse
from tests.support.stage import HttpBridge, Stage

__all__ = ["url"]

KNOWN = "codex-mcp-client"
"""A host whose connection is one conversation."""


def moved(client: HttpWire, bridge: HttpBridge) -> HttpWire:
    """The same client, whose requests reach another replica: it does not shake hands again."""
    there = HttpWire(
        f"{bridge.base}/mcp", era=client.era, name=client.name, conversation=client.conversation,
        capabilities=client.capabilities,
    )  # fmt: skip
    there.session, there._next = client.session, client._next
    return there


def status_of(client: HttpWire, session: str) -> int:
    """HTTP status of a request in a session."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    return client.exchange("POST", body, {"Mcp-Session-Id": session, "Mcp-Protocol-Version": HANDSHAKE})[0]


def test_a_session_goes_on_at_another_replica_after_the_death_of_its_own(stage: Stage, url: str) -> None:
    """With its names and its unread results; a session that was ended does not come back."""
    house = Replicas(stage, url)
    client = house.bridges[0].client(name=KNOWN)
    client.wait_for_tools("write", "append")
    ended = house.bridges[0].client()
    ended.close()
    future = client.submit("write", {"label": "mine", "text": "the value", "_as": "mine"}).id
    eventually(lambda: house.events("done", "mine"), "the call has ended")
    kill(house.bridges[0])
    there = moved(client, house.bridges[1])
    there.wait_for_tools("write", "append")
    answer = there.call("write", {"label": "uses", "text": "$mine", "_wait": "all"})
    assert {each["future_id"] for each in records(answer)} == {future, "f2"}
    assert text_of(there.await_future("mine")) == "the value"
    assert there.session == client.session
    assert status_of(there, str(ended.session)) == 404
    assert status_of(there, "0" * 32) == 404
    assert house.runs() == {"mine": 1, "uses": 1}


@pytest.mark.parametrize("kind", ["session", "conversation", "host"])
def test_names_are_the_callers_at_every_replica(stage: Stage, url: str, kind: str) -> None:
    """Given at one and used at another, in either direction; a name in use is refused everywhere."""
    house = Replicas(stage, url)
    era = HANDSHAKE if kind == "session" else MODERN
    one = house.bridges[0].client(era=era, conversation="c1" if kind == "conversation" else None)
    one.wait_for_tools("write", "append")
    other = house.bridges[1].client(era=MODERN, conversation="c2", name="another host")
    other.wait_for_tools("write", "append")
    two = moved(one, house.bridges[1])
    gate = house.gate()
    first = one.submit("append", {"label": "first", "text": "1", "until": str(gate), "_as": "n"}).id
    refused = two.call("write", {"label": "refused", "_as": "n"})
    assert refused["isError"] is True
    assert first in text_of(refused)
    second = two.submit("write", {"label": "second", "text": "$n", "_as": "m"}).id
    third = one.submit("write", {"label": "third", "_after": "m"}).id
    theirs = other.submit("write", {"label": "theirs", "text": "theirs", "_as": "n"}).id
    gate.touch()
    assert text_of(two.outcome("n")) == "1"
    assert text_of(one.outcome("m")) == "1"
    assert text_of(other.outcome("n")) == "theirs"
    gathered = two.gather(["n", "m", third])["structuredContent"]["results"]
    assert [each["future_id"] for each in gathered] == [first, second, third]
    assert theirs not in (first, second, third)
    assert "refused" not in house.runs()


def test_unread_results_of_a_conversation_are_brought_by_any_replica(stage: Stage, url: str) -> None:
    """Those of others, running or ended, with `_wait: "all"`; and small ones with the next answer, once."""
    house = Replicas(stage, url)
    one = house.bridges[0].client(era=MODERN, conversation="c")
    one.wait_for_tools("write", "append")
    two = moved(one, house.bridges[1])
    two.wait_for_tools("write", "append")
    gate = house.gate()
    running = one.submit("append", {"label": "running", "until": str(gate)}).id
    house.ran("running")
    gate.touch()
    everything = two.call("write", {"label": "last", "_wait": "all"})
    assert {each["future_id"]: each["status"] for each in records(everything)} == {
        running: "completed", "f2": "completed",
    }  # fmt: skip
    small = two.submit("write", {"label": "small", "text": "a small result"}).id
    eventually(lambda: house.events("done", "small"), "the call has ended")

    def delivered() -> Json | None:
        answer = one.call("list_futures")
        return answer if "a small result" in text_of(answer) else None

    assert small in [each["future_id"] for each in records(eventually(delivered, "the result is delivered"))]
    for client in (one, two):
        assert "a small result" not in text_of(client.call("list_futures"))


@both_eras
def test_a_client_of_a_replica_that_stops_goes_on_at_another(stage: Stage, url: str, era: str) -> None:
    """Its wait is answered with the state of the call, whose result the other replica has."""
    house = Replicas(stage, url, drain_s=3)
    one = house.bridges[0].client(era=era)
    one.wait_for_tools("write", "append")
    two = moved(one, house.bridges[1])
    two.wait_for_tools("write", "append")
    gate = house.gate()
    waits = {"label": "waits", "until": str(gate), "_wait": "this"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: one.call("append", waits))
        house.ran("waits")
        house.bridges[0].process.send_signal(signal.SIGTERM)
        (record,) = records(answer.result(PATIENCE))
    assert house.bridges[0].process.wait(PATIENCE) == 0
    gate.touch()
    ended = eventually(lambda: _ended(two, record["future_id"]), "the call has ended")
    # The server runs at one replica: the call goes on where that is, and is cancelled with the one that stops.
    assert ended["status"] in ("completed", "failed")
    assert house.runs() == {"waits": 1}
    assert text_of(two.outcome(two.submit("write", {"label": "next", "text": "next"}).id)) == "next"


@pytest.mark.parametrize("answered_at", [0, 1])
def test_the_question_of_a_task_is_answered_at_any_replica(stage: Stage, url: str, answered_at: int) -> None:
    """As soon as another one has shown it."""
    asks: Json = {"elicitation": {"form": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
    house = Replicas(stage, url, tasks="task")
    clients = house.clients(MODERN, capabilities=asks)
    task = clients[answered_at].call("ask", {"label": "asks"})["taskId"]
    shown = clients[1 - answered_at]
    ((key, _),) = eventually(
        lambda: shown.request("tasks/get", {"taskId": task}).get("inputRequests", {}), "the task asks"
    ).items()
    update = {"taskId": task, "inputResponses": {key: {"action": "accept", "content": {"name": "Ada"}}}}
    clients[answered_at].request("tasks/update", update)
    done = eventually(
        lambda: (found := shown.request("tasks/get", {"taskId": task}))["status"] == "completed" and found, "it ends"
    )
    assert "Ada" in text_of(done["result"])
    assert house.runs() == {"asks": 1}


def test_a_live_question_reaches_the_client_wherever_the_call_runs(stage: Stage, url: str) -> None:
    """On the stream of the request that awaits its future, at a replica that need not be the call's."""
    house = Replicas(stage, url)
    one, two = house.clients(HANDSHAKE, capabilities={"elicitation": {"form": {}}})
    future = one.submit("ask", {"label": "asks"}).id
    house.events("asked")
    there = moved(one, house.bridges[1])
    waits = GrowingResponse(there, "tools/call", {"name": "await_future", "arguments": {"future_id": future}})
    question = waits.next(lambda message: message.get("method") == "elicitation/create")
    answer = {"action": "accept", "content": {"name": "Ada"}}
    headers = there._session_headers("", {})
    assert there.exchange("POST", {"jsonrpc": "2.0", "id": question["id"], "result": answer}, headers)[0] == 202
    result = waits.next(lambda message: message.get("id") == 900)["result"]
    waits.close()
    assert "Ada" in text_of(result)
    assert text_of(two.outcome(future)) == text_of(result)
    assert house.runs() == {"asks": 1}


@both_eras
def test_the_end_of_a_future_is_announced_at_every_replica(stage: Stage, url: str, era: str) -> None:
    """To subscribers of `future://…`; on 2026-07-28 to those that follow the task as well."""
    house = Replicas(stage, url, tasks="task")
    one, two = house.clients(era, capabilities={"extensions": {"io.modelcontextprotocol/tasks": {}}})
    gate = house.gate()
    made = one.call("write", {"label": "slow", "until": str(gate)})
    future = made["taskId"] if era == MODERN else records(made)[0]["future_id"]
    uri = f"future://{future}"
    if era == MODERN:
        wanted = {"resourceSubscriptions": [uri], "taskIds": [future]}
        stream = GrowingResponse(two, "subscriptions/listen", {"notifications": wanted})
        stream.next(lambda message: message.get("method") == "notifications/subscriptions/acknowledged")
    else:
        two.request("resources/subscribe", {"uri": uri})
        stream = GrowingResponse(two, None)
        assert stream.status == 200
    house.ran("slow")
    gate.touch()
    updated = stream.next(lambda message: message.get("method") == "notifications/resources/updated")
    assert updated["params"]["uri"] == uri
    if era == MODERN:
        told = [each for each in stream.seen if each.get("method") == "notifications/tasks"]
        if not told or told[-1]["params"]["status"] != "completed":
            stream.next(lambda each: each.get("params", {}).get("status") == "completed")
    stream.close()
    assert text_of(two.outcome(future)) == "slow"


def _ended(client: HttpWire, future: str) -> Json | None:
    entries = client.call("list_futures")["structuredContent"]["futures"]
    found = next((each for each in entries if each["future_id"] == future), None)
    return found if found is not None and found["status"] not in ("waiting", "running") else None
