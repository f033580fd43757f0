"""`_after` and names with real processes: the calls of a turn arrive in any order, over each transport and era."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.e2e.test_bursts import Bursting
from tests.support.client import HANDSHAKE, MODERN, Json, eventually, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import Stage
from tests.support.stdio_client import Pending, Wire

ROUNDS = 4
LOCKED = "all doors must be locked"
CONVERSATION = "asyncfc-scripted-agent"
"""A host whose connection is one conversation."""


def turn(number: int, wait: str) -> list[tuple[str, Json]]:
    """The calls of one turn, as they are written: on two servers, in the order of names, with a failure."""
    a, b, c, d, e, last = (f"{letter}{number}" for letter in "abcdel")
    return [
        ("one__sleep", {"seconds": 0.05, "tag": str(number), "_as": a}),
        ("two__sleep", {"seconds": 0.05, "tag": f"b{number}", "_as": b, "_after": a}),
        ("one__fail", {"message": LOCKED, "_as": c, "_after": [b]}),
        ("two__counter", {"_as": d, "_after": c}),
        ("one__echo", {"text": f"${b}", "_as": e, "_after": f"{a}, {b}"}),
        ("two__counter", {"_as": last, "_after": e, "_wait": wait}),
    ]


def check(answer: Json, number: int) -> None:
    """The last call's answer brings all results of the turn, as in the written order."""
    results: dict[str, Json] = {each["name"]: each for each in answer["structuredContent"]["results"]}
    found = {name[0]: each["status"] for name, each in results.items()}
    assert found == {
        "a": "completed",
        "b": "completed",
        "c": "failed",
        "d": "failed",
        "e": "completed",
        "l": "completed",
    }
    assert results[f"d{number}"]["error"].startswith(f"not sent: c{number} (f")
    assert results[f"d{number}"]["error"].endswith(f") failed: {LOCKED}")
    assert results[f"e{number}"]["result"]["arguments"] == {"text": f"slept 0.05 b{number}"}
    assert results[f"l{number}"]["result"]["count"] == number + 1, "a call went out after a failure"
    assert "calls are still open" not in text_of(answer)


def names(number: int) -> str:
    return ", ".join(f"{letter}{number}" for letter in "abcde")


def shuffled_lines(wire: Wire, calls: list[tuple[str, Json]], rng: random.Random) -> list[Json]:
    """Send calls that are numbered as they are written, in another order; return their answers as they are written."""
    held: list[Json] = []
    send = wire.send
    wire.send = held.append
    try:
        pending: list[Pending] = [wire.start_call(tool, arguments) for tool, arguments in calls]
    finally:
        wire.send = send
    for message in rng.sample(held, len(held)):
        wire.send(message)
    return [each.result() for each in pending]


def toys(stage: Stage) -> dict[str, Json]:
    return {"one": stage.toy("raw"), "two": stage.toy("raw")}


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_lines_in_any_order(stage: Stage, era: str) -> None:
    """Over one pipe, as a client with several threads writes them."""
    wire = stage.bridge(toys(stage), era=era, grace_ms=0)
    wire.wait_for_tools("one__echo", "two__counter")
    rng = random.Random(11)
    for number in range(ROUNDS):
        check(shuffled_lines(wire, turn(number, names(number)), rng)[-1], number)


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_parallel_posts_in_any_order(stage: Stage, era: str) -> None:
    """Streamable HTTP, a connection for each call."""
    bridge = stage.http_bridge(toys(stage), grace_ms=0)
    client = Bursting(f"{bridge.base}/mcp", era=era)
    client.open()
    client.wait_for_tools("one__echo", "two__counter")
    rng = random.Random(12)
    for number in range(ROUNDS):
        check(client.burst(turn(number, names(number)), rng)[-1], number)


def test_all_brings_the_calls_made_before_it_in_any_order(stage: Stage) -> None:
    """`_wait: "all"` on the call that is written last, wherever it arrives among them."""
    wire = stage.serve("--config", str(stage.config(toys(stage), grace_ms=0)), opened=False)
    wire.open(CONVERSATION)
    wire.wait_for_tools("one__echo", "two__counter")
    rng = random.Random(13)
    for number in range(ROUNDS):
        answer = shuffled_lines(wire, turn(number, "all"), rng)[-1]
        check(answer, number)
        assert answer["structuredContent"]["open"] == 0


def test_a_call_of_a_server_that_is_starting_is_waited_for(stage: Stage) -> None:
    """Its name is known as soon as it arrives, longer than a name that no call takes is waited for."""
    servers = {"one": stage.toy("raw", "--delay-start", "1.5"), "two": stage.toy("raw")}
    wire = stage.bridge(servers, grace_ms=0)
    wire.wait_for_tools("two__counter")
    first = wire.start_call("one__echo", {"text": "up", "_as": "a"})
    answer = wire.start_call("two__echo", {"text": "$a", "_after": "a", "_wait": "this"}).result()
    assert "up" in text_of(answer)
    first.result()


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_name_that_no_call_takes_is_refused_with_words(stage: Stage, era: str) -> None:
    """In `_after`, in `_wait`, and as an argument; text that is none goes out as it is."""
    bridge = stage.http_bridge(toys(stage), grace_ms=0)
    client = bridge.client(era=era)
    client.wait_for_tools("one__echo")
    more: Any
    for more in ({"_after": "nothing"}, {"_wait": "nothing"}, {"text": "$nothing.id"}, {"text": "$nothing"}):
        answer = client.call("one__echo", {"text": "x", **more})
        assert answer["isError"] is True
        assert "nothing was sent" in text_of(answer).lower()
    for text, sent in (("$HOME", "$HOME"), ("$5", "$5"), ("$(date)", "$(date)"), ("$$nothing.id", "$nothing.id")):
        answer = client.call("one__echo", {"text": text, "_wait": "this"})
        assert answer["structuredContent"]["result"]["arguments"] == {"text": sent}


def test_tasks_follow(stage: Stage) -> None:
    """Of the extension: one that must not be sent is a failed task with the reason."""
    bridge = stage.http_bridge(toys(stage), grace_ms=0, tasks="task")
    client = bridge.client(era=MODERN, capabilities={"extensions": {"io.modelcontextprotocol/tasks": {}}})
    client.wait_for_tools("one__fail", "two__counter")
    first = client.call("one__fail", {"message": LOCKED, "_as": "a"})
    second = client.call("two__counter", {"_after": "a"})
    assert first["resultType"] == second["resultType"] == "task"

    listed = eventually(lambda: listed_end(client, second["taskId"]), "the end of the task")
    assert listed["error"] == f"not sent: a (f1) failed: {LOCKED}"


def listed_end(client: HttpWire, future: str) -> Json | None:
    """Return the entry of a future that has ended."""
    listed = client.call("list_futures")["structuredContent"]["futures"]
    return next((each for each in listed if each["future_id"] == future and each["status"] == "failed"), None)
