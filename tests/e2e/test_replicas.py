"""Real replicas over one real PostgreSQL, with real clients of both eras: whatever one has taken, any other one knows.

The server behind them records every execution (`tests/support/counting_server.py`), so each test also proves that
nothing ran twice.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence

import psycopg
import pytest
from psycopg import sql

from tests.support.client import HANDSHAKE, MODERN, Json, RpcError, canonical, eventually, records, text_of
from tests.support.counting_server import ODD, big_text
from tests.support.http_client import HttpWire
from tests.support.postgres import PostgresServer
from tests.support.restarting import INTERRUPTED, Restarting, entries, until_ended, whole
from tests.support.stage import HttpBridge, Stage

SECRET = "a secret of all replicas in this test"
TIMEOUT_S = 3
both_eras = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])


class Replicas(Restarting):
    """Replicas over HTTP with one configuration."""

    def __init__(self, stage: Stage, url: str, *, size: int = 2, **settings: object) -> None:
        super().__init__(stage, engine=url, secret=SECRET, replica_timeout_s=TIMEOUT_S, grace_ms=0, **settings)
        self.bridges = [self.start_http() for _ in range(size)]

    def clients(self, era: str, **options: object) -> Sequence[HttpWire]:
        """One client for each replica, once its server has listed its tools."""
        found = [bridge.client(era=era, **options) for bridge in self.bridges]
        for client in found:
            client.wait_for_tools("write", "append")
        return found


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    return postgres.url(postgres.fresh_schema())


def kill(bridge: HttpBridge) -> None:
    """End a replica as a crash does."""
    bridge.process.send_signal(signal.SIGKILL)
    bridge.process.wait()


@both_eras
def test_what_one_replica_has_taken_is_awaited_at_another(stage: Stage, url: str, era: str) -> None:
    """By ID, `gather`, `future://` and in the list, byte for byte; errors of tools as well."""
    house = Replicas(stage, url)
    one, two = house.clients(era)
    odd = one.submit("odd", {"label": "odd"}).id
    failed = two.submit("fail", {"label": "failed"}).id
    read = one.submit("read", {"label": "read"}).id
    assert [odd, failed, read] == ["f1", "f2", "f3"]
    for future in (odd, failed, read):
        assert canonical(whole(one.outcome(future))) == canonical(whole(two.outcome(future)))
    assert ODD in text_of(two.outcome(odd))
    gathered = two.gather([odd, failed, read])["structuredContent"]["results"]
    assert [each["status"] for each in gathered] == ["completed", "failed", "completed"]
    assert sorted(entries(two)) == [odd, failed, read]
    (content, *_) = two.request("resources/read", {"uri": f"future://{odd}"})["contents"]
    assert json.loads(content["text"])["content"] == one.outcome(odd)["content"]
    assert house.runs() == {"odd": 1, "failed": 1, "read": 1}


@both_eras
def test_writes_of_two_replicas_run_in_the_order_in_which_they_were_submitted(stage: Stage, url: str, era: str) -> None:
    """Whichever replica took them, and whichever has the server."""
    house = Replicas(stage, url)
    clients = house.clients(era)
    gate = house.gate()
    futures = [clients[0].submit("append", {"label": "0", "items": [0], "until": str(gate)}).id]
    for number in range(1, 12):
        label = {"label": str(number), "items": [number]}
        futures.append(clients[number % 2].submit("append", label).id)
    house.ran("0")
    assert len(house.runs()) == 1
    gate.touch()
    for client in clients:
        client.gather(futures)
    assert [each["label"] for each in house.events("run")] == [str(number) for number in range(12)]


@both_eras
def test_values_pass_from_one_replica_to_another(stage: Stage, url: str, era: str) -> None:
    """A reference in the arguments of a call means the future of any replica, finished or not."""
    house = Replicas(stage, url)
    one, two = house.clients(era)
    gate = house.gate()
    first = one.submit("read", {"label": "first", "text": "the value", "until": str(gate)}).id
    second = two.submit("read", {"label": "second", "text": f"${first}"}).id
    third = two.submit("read", {"label": "third", "_after": f"{first},{second}"}).id
    house.ran("first")
    assert house.runs() == {"first": 1}
    gate.touch()
    one.gather([third])
    assert text_of(two.outcome(second)) == text_of(one.outcome(first)) == "the value"
    assert house.runs() == {"first": 1, "second": 1, "third": 1}


@both_eras
def test_a_call_is_cancelled_from_another_replica(stage: Stage, url: str, era: str) -> None:
    """A running one, and one that waits behind it, which is never sent."""
    house = Replicas(stage, url)
    one, two = house.clients(era)
    running = one.submit("append", {"label": "running", "until": str(house.gate())}).id
    house.ran("running")
    waiting = one.submit("append", {"label": "waiting"}).id
    for future in (waiting, running):
        two.call("cancel_future", {"future_id": future})
    ended = until_ended(one, running, waiting)
    assert {each["status"] for each in ended.values()} == {"cancelled"}
    assert house.runs() == {"running": 1}


@both_eras
def test_a_large_result_reaches_every_replica(stage: Stage, url: str, era: str) -> None:
    """5 MB, unchanged."""
    house = Replicas(stage, url)
    one, two = house.clients(era)
    future = one.submit("big", {"label": "big", "n_bytes": 5_000_000}).id
    for client in (two, one):
        assert text_of(client.outcome(future)) == big_text(5_000_000)
    assert house.runs() == {"big": 1}


@pytest.mark.parametrize("at", [0, 1])
def test_when_a_replica_is_killed_its_calls_go_on_at_another(stage: Stage, url: str, at: int) -> None:
    """What had ended is there, what ran is interrupted, what waited is made in its order, and nothing runs twice."""
    house = Replicas(stage, url)
    clients = house.clients(MODERN)
    done = clients[at].submit("write", {"label": "done"}).id
    result = canonical(whole(clients[at].outcome(done)))
    gate = house.gate()
    running = clients[at].submit("append", {"label": "running", "until": str(gate)}).id
    house.ran("running")
    waiting = [clients[at].submit("append", {"label": f"waiting {n}", "items": [n]}).id for n in range(3)]
    kill(house.bridges[at])
    survivor = clients[1 - at]
    assert canonical(whole(survivor.outcome(done))) == result
    gate.touch()
    ended = until_ended(survivor, running, *waiting)
    # The server may run at either replica: the call goes on where it runs, if that is not the one that was killed.
    interrupted = ended[running]["status"] == "failed"
    if interrupted:
        assert INTERRUPTED in text_of(survivor.await_future(running))
    assert [ended[each]["status"] for each in waiting] == ["completed"] * 3
    assert house.runs() == {"done": 1, "running": 1, "waiting 0": 1, "waiting 1": 1, "waiting 2": 1}
    order = [each["label"] for each in house.events("run") if each["label"].startswith("waiting")]
    assert order == ["waiting 0", "waiting 1", "waiting 2"]


def test_a_replica_that_is_asked_to_stop_hands_its_calls_over(stage: Stage, url: str) -> None:
    """At once, without waiting until it counts as dead."""
    house = Replicas(stage, url)
    one, two = house.clients(MODERN)
    gate = house.gate()
    first = one.submit("append", {"label": "first", "until": str(gate)}).id
    house.ran("first")
    waiting = one.submit("append", {"label": "waiting"}).id
    house.bridges[0].process.send_signal(signal.SIGTERM)
    gate.touch()
    ended = until_ended(two, first, waiting)
    assert ended[waiting]["status"] == "completed"
    assert house.runs() == {"first": 1, "waiting": 1}
    assert house.bridges[0].process.wait(20) == 0


def test_replicas_outlive_a_restart_of_the_database(stage: Stage, own_postgres: PostgresServer) -> None:
    """Calls are taken again once it is back, and what was submitted before is there."""
    house = Replicas(stage, own_postgres.url("restarted"))
    one, two = house.clients(MODERN)
    gate = house.gate()
    running = one.submit("append", {"label": "running", "until": str(gate)}).id
    house.ran("running")
    waiting = two.submit("append", {"label": "waiting"}).id
    own_postgres.restart(immediate=True)
    gate.touch()

    def submitted() -> str | None:
        try:
            return one.submit("write", {"label": "after"}).id
        except RpcError:
            return None

    after = eventually(submitted, "a call is taken again")
    ended = until_ended(two, running, waiting, after)
    assert {each["status"] for each in ended.values()} == {"completed"}
    assert house.runs() == {"running": 1, "waiting": 1, "after": 1}
    assert records(two.call("list_futures")) is not None


def test_readiness_depends_on_the_database(stage: Stage, own_postgres: PostgresServer) -> None:
    """`/readyz` says so while the database is gone, and `/healthz` does not."""
    house = Replicas(stage, own_postgres.url("ready"), size=1)
    [bridge] = house.bridges
    house.clients(MODERN)
    assert bridge.get("/readyz")[0] == 200
    own_postgres.stop(immediate=True)
    eventually(lambda: bridge.get("/readyz")[0] == 503, "/readyz answers 503")
    assert "database" in bridge.get("/readyz")[1]
    assert bridge.get("/healthz")[0] == 200
    own_postgres.start()
    eventually(lambda: bridge.get("/readyz")[0] == 200, "/readyz answers 200 again")


def test_a_question_is_answered_at_another_replica(stage: Stage, url: str) -> None:
    """In an answer of 2026-07-28: its sealed state is understood by every replica."""
    asks: Json = {"elicitation": {"form": {}}}
    house = Replicas(stage, url)
    one, two = house.clients(MODERN, capabilities=asks)
    future = one.submit("ask", {"label": "asks"}).id
    asked = eventually(
        lambda: (found := two.await_future(future)).get("resultType") == "input_required" and found,
        "the question is asked",
    )
    [(key, question)] = asked["inputRequests"].items()
    assert question["method"] == "elicitation/create"
    answer = {"inputResponses": {key: {"action": "accept", "content": {"name": "Ada"}}}}
    params = {"name": "await_future", "arguments": {"future_id": future}, "requestState": asked["requestState"]}
    result = one.request("tools/call", {**params, **answer})
    assert "Ada" in text_of(result)
    assert house.runs() == {"asks": 1}


def test_arguments_and_results_of_a_private_tool_are_nowhere_in_the_database(stage: Stage, url: str) -> None:
    """Neither as such, nor in state paths, errors and jobs; the call is made where it was submitted."""
    tools: Json = {"secret": {"journal": False, "writes": ["vault/{label}"]}, "write": {"writes": ["vault/{label}"]}}
    house = Replicas(stage, url, tools=tools, owner="any")
    one, two = house.clients(MODERN)
    private = two.submit("secret", {"label": "hunter2", "text": "hunter3"}).id
    assert text_of(two.outcome(private)) == "answer to hunter3"
    assert "was not written" in text_of(one.outcome(private))
    held = two.submit("secret", {"label": "hunter4", "until": str(house.gate())}).id
    house.ran("hunter4")
    behind = one.submit("write", {"label": "other"}).id
    assert entries(one)[behind]["status"] == "waiting"
    base, _, schema = url.partition("?schema=")
    with psycopg.connect(base, options=f"-c search_path={schema}") as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
        assert ("futures",) in names
        for (name,) in names:
            rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))).fetchall()
            assert "hunter" not in str(rows), name
    two.call("cancel_future", {"future_id": held})
    until_ended(one, behind)
    assert house.runs() == {"hunter2": 1, "hunter4": 1, "other": 1}


def test_a_private_tool_of_a_server_at_another_replica_is_refused(stage: Stage, url: str) -> None:
    """Its arguments can only be where it was submitted; the answer says what to set."""
    house = Replicas(stage, url)
    clients = house.clients(MODERN)
    outcomes = [text_of(client.outcome(client.submit("secret", {"label": "hunter2"}).id)) for client in clients]
    (refused,) = [each for each in outcomes if "hunter2" not in each]
    assert '"owner": "any"' in refused
    assert house.runs() == {"hunter2": 1}
