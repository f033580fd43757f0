"""Futures over restarts of real bridges: what had ended is there, what was running is interrupted, what waited is made.

The server behind the bridge records every execution (`tests/support/counting_server.py`), so each test also proves that
nothing ran twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing

import pytest

from tests.support.client import HANDSHAKE, MODERN, Json, RpcError, canonical, eventually, records, text_of
from tests.support.counting_server import ODD, big_text
from tests.support.restarting import (
    ENDS,
    INTERRUPTED,
    NEVER_SENT,
    Restarting,
    assert_interrupted,
    assert_never_sent,
    entries,
    kill,
    leave,
    recorded,
    state_of,
    until_ended,
    whole,
)
from tests.support.stage import Stage
from tests.support.users import COMBINATIONS, User

LARGE = 5_000_000
TASKS: Json = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
ends = pytest.mark.parametrize("end", list(ENDS))
both_eras = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])


def resource(client: User, ref: str) -> Json:
    """The result that `future://` reads."""
    (content, *_) = client.request("resources/read", {"uri": f"future://{ref}"})["contents"]
    return json.loads(content["text"])


# --- results ---------------------------------------------------------------------------------------------------------


@ends
@both_eras
def test_results_are_awaited_as_before(stage: Stage, end: str, era: str) -> None:
    """By ID, name, `gather` and `future://`, byte for byte, whether or not they were read; errors of tools as well."""
    house = Restarting(stage, grace_ms=0)
    bridge = house.start(era)
    named = bridge.submit("write", {"label": "named", "_as": "first"}).id
    odd = bridge.submit("odd", {"label": "odd"}).id
    failed = bridge.submit("fail", {"label": "failed"}).id
    unread = bridge.submit("read", {"label": "unread"}).id
    before = {future: whole(bridge.outcome(future)) for future in (named, odd, failed)}
    until_ended(bridge, unread)
    recorded(bridge)
    ENDS[end](bridge)

    bridge = house.start(era)
    listed = entries(bridge)
    assert [listed[each]["unread"] for each in (named, odd, failed, unread)] == [False, False, False, True]
    for future, result in before.items():
        assert canonical(whole(bridge.outcome(future))) == canonical(result)
        assert canonical(resource(bridge, future)) == canonical(result)
    assert text_of(before[odd]) == ODD
    assert canonical(whole(bridge.outcome("first"))) == canonical(before[named])
    assert canonical(resource(bridge, "first")) == canonical(before[named])
    assert text_of(bridge.outcome(unread)) == "unread"
    gathered = bridge.gather([named, failed, unread])["structuredContent"]["results"]
    assert [each["status"] for each in gathered] == ["completed", "failed", "completed"]
    assert entries(bridge)[unread]["unread"] is False
    assert set(house.runs().values()) == {1}


def test_a_result_that_was_read_survives_many_restarts(stage: Stage) -> None:
    """The note that it was read does too."""
    house = Restarting(stage)
    bridge = house.start()
    future = bridge.submit("write", {"label": "kept"}).id
    before = whole(bridge.outcome(future))
    for _ in range(3):
        leave(bridge)
        bridge = house.start()
        assert entries(bridge)[future]["unread"] is False
        assert canonical(whole(bridge.outcome(future))) == canonical(before)
    assert house.runs() == {"kept": 1}


def test_a_large_result_lies_beside_the_journal(stage: Stage) -> None:
    """In a file of its own that only the user can read; it is awaited whole, and linked past `max_result_bytes`."""
    house = Restarting(stage)
    bridge = house.start()
    future = bridge.submit("big", {"label": "big", "n_bytes": LARGE}).id
    until_ended(bridge, future)
    kill(bridge)
    large = [path for path in house.state.rglob("*") if path.is_file() and path.stat().st_size >= LARGE]
    assert len(large) == 1
    bridge = house.start()
    assert text_of(bridge.outcome(future)) == big_text(LARGE)
    leave(bridge)
    for path in house.state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    limited = Restarting.__new__(Restarting)
    limited.__dict__ |= house.__dict__
    text = json.loads(house.config.read_text())
    text["asyncfc"]["max_result_bytes"] = 10_000
    house.config.write_text(json.dumps(text))
    bridge = limited.start()
    answer = bridge.await_future(future)
    assert f"future://{future}" in canonical(answer["content"])
    assert len(canonical(answer)) < 50_000
    assert text_of(resource(bridge, future)) == big_text(LARGE)


@both_eras
def test_a_later_call_takes_the_value_of_an_earlier_run(stage: Stage, era: str) -> None:
    """By ID and by name, as an argument, inside text, and in `_after`."""
    house = Restarting(stage)
    bridge = house.start(era)
    first = bridge.submit("write", {"label": "first", "text": "one", "_as": "word"}).id
    bridge.outcome(first)
    kill(bridge)
    bridge = house.start(era)
    for ref in (first, "word"):
        future = bridge.submit("read", {"label": f"of {ref}", "text": f"${ref}", "_after": first}).id
        assert text_of(bridge.outcome(future)) == "one"
        future = bridge.submit("read", {"label": f"in {ref}", "text": f"it is ${{f:{ref}}}"}).id
        assert text_of(bridge.outcome(future)) == "it is one"


def test_a_name_is_free_again_and_the_last_one_counts(stage: Stage) -> None:
    """A name of an ended run can be given again; then it means the new future."""
    house = Restarting(stage)
    bridge = house.start()
    bridge.outcome(bridge.submit("write", {"label": "old", "_as": "it"}).id)
    leave(bridge)
    bridge = house.start()
    assert text_of(bridge.outcome("it")) == "old"
    fresh = bridge.submit("write", {"label": "new", "_as": "it"}).id
    assert text_of(bridge.outcome("it")) == "new"
    bridge.outcome(fresh)
    kill(bridge)
    bridge = house.start()
    assert text_of(bridge.outcome("it")) == "new"
    assert house.runs() == {"old": 1, "new": 1}


def test_a_cancelled_future_stays_cancelled(stage: Stage) -> None:
    """Whether it waited or was running."""
    house = Restarting(stage)
    bridge = house.start()
    running = house.hold(bridge)
    waiting = bridge.submit("append", {"label": "waiting"}).id
    for future in (waiting, running):
        bridge.call("cancel_future", {"future_id": future})
    until_ended(bridge, running, waiting)
    kill(bridge)
    bridge = house.start()
    assert {state_of(bridge, future) for future in (running, waiting)} == {"cancelled"}
    assert house.runs() == {"held": 1}


# --- what was running ------------------------------------------------------------------------------------------------


@ends
def test_what_was_running_is_interrupted(stage: Stage, end: str) -> None:
    """Its reason says that its effect is unknown. It is not made again, whatever its annotations say."""
    house = Restarting(stage, drain_s=0)
    bridge = house.start()
    running = [house.hold(bridge, tool, label=tool) for tool in ("write", "read", "idempotent", "append")]
    recorded(bridge)
    ENDS[end](bridge)
    bridge = house.start()
    until_ended(bridge, *running)
    for future in running:
        assert_interrupted(bridge, future)
        assert INTERRUPTED in entries(bridge)[future]["error"]
    leave(bridge)
    bridge = house.start()
    assert_interrupted(bridge, running[0])
    assert set(house.runs().values()) == {1}


@ends
def test_interrupted_calls_are_made_again_where_that_is_configured_and_harmless(stage: Stage, end: str) -> None:
    """`rerun_interrupted: true` holds for tools that are read-only or idempotent, and for no other."""
    house = Restarting(stage, drain_s=0, rerun_interrupted=True)
    bridge = house.start()
    gate = house.gate()
    futures = {tool: house.hold(bridge, tool, label=tool, until=gate) for tool in ("write", "read", "idempotent")}
    recorded(bridge)
    ENDS[end](bridge)
    gate.touch()
    bridge = house.start()
    until_ended(bridge, *futures.values())
    assert_interrupted(bridge, futures["write"])
    for tool in ("read", "idempotent"):
        assert text_of(bridge.outcome(futures[tool])) == tool
    assert house.runs() == {"write": 1, "read": 2, "idempotent": 2}


# --- what was waiting ------------------------------------------------------------------------------------------------


@ends
def test_what_was_waiting_is_made_in_the_same_order(stage: Stage, end: str) -> None:
    """Behind an interrupted call, in the order of submission, and before whatever comes new."""
    house = Restarting(stage, drain_s=0)
    bridge = house.start()
    held = house.hold(bridge)
    waiting = [bridge.submit("append", {"label": f"n{n}"}).id for n in range(20)]
    assert {state_of(bridge, future) for future in waiting} == {"waiting"}
    recorded(bridge)
    ENDS[end](bridge)
    bridge = house.start(ready=False)
    new = bridge.start_call("append", {"label": "new"})
    shown = bridge.start_call("items", {"label": "items"})
    assert text_of(bridge.outcome(records(new.result())[0]["future_id"])) == "new"
    until_ended(bridge, *waiting)
    assert house.items == [*(f"n{n}" for n in range(20)), "new"]
    assert json.loads(text_of(bridge.outcome(records(shown.result())[0]["future_id"]))) == house.items
    for number, future in enumerate(waiting):
        assert text_of(bridge.outcome(future)) == f"n{number}"
    assert_interrupted(bridge, held)
    assert set(house.runs().values()) == {1}


def test_what_waited_for_a_place_is_made(stage: Stage) -> None:
    """`max_concurrency`: calls that were queued run after the restart, one at a time."""
    house = Restarting(stage, tools={"write": {"max_concurrency": 1}})
    bridge = house.start()
    house.hold(bridge, "write")
    waiting = [bridge.submit("write", {"label": f"n{n}"}).id for n in range(5)]
    found = entries(bridge)
    assert {found[future]["status"] for future in waiting} == {"waiting"}
    recorded(bridge)
    kill(bridge)
    bridge = house.start()
    until_ended(bridge, *waiting)
    runs = [event["label"] for event in house.events("run") if event["tool"] == "write"]
    assert runs == ["held", *(f"n{n}" for n in range(5))]


def test_what_waited_for_the_start_of_its_server_is_made(stage: Stage) -> None:
    """The server was starting when the bridge was killed: nothing was sent to it."""
    house = Restarting(stage, grace_ms=0)
    gate = house.gate()
    command = house.servers["c"]["command"]
    script = f'while [ ! -e "{gate}" ]; do sleep 0.02; done; exec "$0" "$@"'
    house.servers["c"] |= {"command": "/bin/sh", "args": ["-c", script, command, *house.servers["c"]["args"]]}
    house.config = stage.config(house.servers, grace_ms=0)
    gate.touch()
    leave(house.start())
    gate.unlink()
    bridge = house.start()
    futures = [bridge.submit("append", {"label": label}).id for label in ("early", "behind")]
    (journal,) = house.state.rglob("journal.db")
    with closing(sqlite3.connect(journal)) as database:
        eventually(lambda: database.execute("SELECT count(*) FROM futures").fetchone() == (2,), "both are recorded")
    kill(bridge)
    gate.touch()
    bridge = house.start()
    for each in futures:
        assert not bridge.outcome(each).get("isError")
    assert house.runs() == {"early": 1, "behind": 1}


@both_eras
def test_values_of_earlier_results_are_put_in(stage: Stage, era: str) -> None:
    """References and `_after` mean the same futures after a restart, though a name was given again since."""
    house = Restarting(stage)
    bridge = house.start(era)
    one = bridge.submit("write", {"label": "one", "text": "first", "_as": "it"}).id
    before = bridge.outcome(one)
    house.hold(bridge)
    by_name = bridge.submit("append", {"label": "by name", "text": "$it"}).id
    chained = bridge.submit("append", {"label": "chained", "text": f"after ${{f:{by_name}}}"}).id
    other = bridge.submit("write", {"label": "other", "text": "second", "_as": "it"}).id
    bridge.outcome(other)
    new_name = bridge.submit("append", {"label": "new name", "text": "$it", "_after": chained}).id
    nested = bridge.submit("append", {"label": "nested", "items": [{"$future": one}, "$$it"]}).id
    assert state_of(bridge, nested) == "waiting"
    recorded(bridge)
    kill(bridge)
    bridge = house.start(era)
    until_ended(bridge, by_name, chained, new_name, nested)
    assert house.items == ["first", "after first", "second", "nested"]
    assert house.ran("nested")["arguments"]["items"] == [before["structuredContent"], "$it"]
    assert set(house.runs().values()) == {1}


def test_what_needs_an_interrupted_call_fails_and_is_not_sent(stage: Stage) -> None:
    """Its value does not exist, and `_after` asks for its success."""
    house = Restarting(stage)
    bridge = house.start()
    held = house.hold(bridge, "write")
    value = bridge.submit("write", {"label": "value", "text": f"${held}"}).id
    after = bridge.submit("write", {"label": "after", "_after": held}).id
    chain = bridge.submit("write", {"label": "chain", "text": f"${value}"}).id
    assert state_of(bridge, chain) == "waiting"
    recorded(bridge)
    kill(bridge)
    bridge = house.start()
    until_ended(bridge, value, after, chain)
    for future in (value, after, chain):
        answer = bridge.await_future(future)
        assert answer["isError"] is True
        assert held in text_of(answer)
    assert house.runs() == {"held": 1}


def test_a_dependency_of_several_restarts(stage: Stage) -> None:
    """Calls that wait survive restarts in which they cannot run; then they run once."""
    house = Restarting(stage, modern=True)
    bridge = house.start(MODERN)
    asked = bridge.submit("ask", {"label": "who"}).id
    bridge.wait_for_question(asked)
    waiting = bridge.submit("append", {"label": "waiting", "text": f"${asked}"}).id
    recorded(bridge)
    for _ in range(3):
        kill(bridge)
        bridge = house.start(MODERN)
        bridge.wait_for_question(asked)
        assert state_of(bridge, waiting) == "waiting"
    bridge.dialog("await_future", {"future_id": asked})
    until_ended(bridge, waiting)
    assert house.runs() == {"who": 1, "waiting": 1}
    assert len(house.events("asked")) == 1


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("up", "down"), COMBINATIONS)
def test_an_open_question_is_asked_again_or_its_call_fails(stage: Stage, up: str, down: str) -> None:
    """The question of a server of 2026-07-28 lies with the client: it is put again, and the answer sent once. One that
    was asked over a connection is lost with that, and the call is interrupted."""
    house = Restarting(stage, modern=down == "modern")
    bridge = house.start(up)
    future = bridge.submit("ask", {"label": "who"}).id
    bridge.wait_for_question(future)
    recorded(bridge)
    kill(bridge)
    bridge = house.start(up)
    if down == "modern":
        bridge.wait_for_question(future)
        result = bridge.dialog("await_future", {"future_id": future})
        assert json.loads(text_of(result)) == {"action": "accept", "content": {"name": "re who"}}
        assert house.runs() == {"who": 1}
    else:
        until_ended(bridge, future)
        assert_interrupted(bridge, future)
        assert not house.runs()
    assert len(house.events("asked")) == 1


# --- IDs -------------------------------------------------------------------------------------------------------------


def test_an_id_that_is_not_in_the_journal_was_never_sent(stage: Stage) -> None:
    """After a crash the numbers of its block that stand for no call say so; later ones are unknown."""
    house = Restarting(stage)
    bridge = house.start()
    first = bridge.submit("write", {"label": "first"}).id
    bridge.outcome(first)
    kill(bridge)
    bridge = house.start()
    assert_never_sent(bridge, "f2")
    assert "Unknown future" in text_of(bridge.await_future("f100000"))
    answer = bridge.call("write", {"label": "x", "text": "$f2"})
    assert answer["isError"] is True
    assert NEVER_SENT in text_of(answer)
    with pytest.raises(RpcError, match=NEVER_SENT):
        bridge.request("resources/read", {"uri": "future://f2"})
    assert text_of(bridge.outcome(first)) == "first"
    assert house.runs() == {"first": 1}


def test_ids_go_on_after_a_restart(stage: Stage) -> None:
    """No ID is given twice, and `list_futures` shows those of both runs, newest first."""
    house = Restarting(stage)
    given: list[str] = []
    for end in (leave, kill, leave):
        bridge = house.start()
        for _ in range(3):
            given.append(bridge.submit("read", {"label": "x"}).id)
            bridge.outcome(given[-1])
        end(bridge)
    assert len(set(given)) == len(given)
    bridge = house.start()
    assert list(entries(bridge)) == given[::-1]


# --- what is not written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_without_a_journal_nothing_is_written(stage: Stage, end: str) -> None:
    """`journal: "off"`: as before, an old ID says that it is from before the restart."""
    house = Restarting(stage, journal="off")
    bridge = house.start()
    future = bridge.submit("write", {"label": "a-label-to-look-for", "text": "a-text-to-look-for"}).id
    bridge.outcome(future)
    ENDS[end](bridge)
    assert b"to-look-for" not in house.bytes_of_state()
    bridge = house.start()
    assert f"{future} is from before the restart at " in text_of(bridge.await_future(future))
    assert not entries(bridge)
    assert not [path for path in house.state.rglob("*") if path.suffix not in (".json", ".lock") and path.is_file()]


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_arguments_and_results_of_a_private_tool_are_nowhere_on_disk(stage: Stage, end: str) -> None:
    """`"journal": false` on a tool: while its call waits, runs, and when it has ended; others are written."""
    house = Restarting(stage, tools={"secret": {"max_concurrency": 1}})
    bridge = house.start()
    gate = house.gate()
    words = {"text": "argument-nobody-may-see", "items": ["deep-argument-nobody-may-see"]}
    held = bridge.submit("secret", {"label": "held", "until": str(gate), **words}).id
    waiting = bridge.submit("secret", {"label": "waiting", **words, "_as": "mine"}).id
    other = bridge.submit("write", {"label": "other", "text": "argument-that-is-written"}).id
    house.ran("held")
    assert b"nobody-may-see" not in house.bytes_of_state()
    gate.touch()
    until_ended(bridge, held, waiting, other)
    assert "answer to argument-nobody-may-see" in text_of(bridge.outcome(held))
    assert text_of(bridge.outcome("mine")) == "answer to argument-nobody-may-see"
    eventually(lambda: b"argument-that-is-written" in house.bytes_of_state(), "the other call is written")
    assert b"nobody-may-see" not in house.bytes_of_state()
    ENDS[end](bridge)
    assert b"nobody-may-see" not in house.bytes_of_state()
    bridge = house.start()
    assert b"nobody-may-see" not in house.bytes_of_state()
    assert text_of(bridge.outcome(other)) == "argument-that-is-written"
    for ref in (held, "mine"):
        answer = bridge.await_future(ref)
        assert answer["isError"] is True
        assert "nobody-may-see" not in text_of(answer)
        assert "journal" in text_of(answer)
    assert house.runs() == {"held": 1, "waiting": 1, "other": 1}


def test_an_unfinished_call_of_a_private_tool_is_never_made_again(stage: Stage) -> None:
    """One that waited was not sent, and says so; one that was running is interrupted."""
    house = Restarting(stage, tools={"secret": {"max_concurrency": 1}})
    bridge = house.start()
    held = house.hold(bridge, "secret")
    waiting = bridge.submit("secret", {"label": "waiting"}).id
    recorded(bridge)
    kill(bridge)
    bridge = house.start()
    until_ended(bridge, held, waiting)
    assert_interrupted(bridge, held)
    answer = bridge.await_future(waiting)
    assert answer["isError"] is True
    assert "not sent" in text_of(answer) or NEVER_SENT in text_of(answer)
    assert INTERRUPTED not in text_of(answer)
    assert house.runs() == {"held": 1}


# --- conversations, sessions, HTTP -----------------------------------------------------------------------------------


@both_eras
def test_unread_results_of_a_conversation_are_delivered(stage: Stage, era: str) -> None:
    """With the same key in `_meta`, a new session gets them by `_wait: "all"` and with its next answer, once."""
    house = Restarting(stage, grace_ms=0)
    bridge = house.start(era)

    def call(client: User, tool: str, conversation: str, **arguments: object) -> Json:
        meta = {"asyncfc/conversation": conversation}
        return client.request("tools/call", {"name": tool, "arguments": arguments, "_meta": meta})

    mine = records(call(bridge, "write", "mine", label="mine"))[0]["future_id"]
    theirs = records(call(bridge, "write", "theirs", label="theirs"))[0]["future_id"]
    until_ended(bridge, mine, theirs)
    kill(bridge)
    bridge = house.start(era)
    answer = call(bridge, "write", "mine", label="next", _wait="all")
    assert records(answer)[0]["future_id"] == mine
    assert theirs not in canonical(answer)
    assert "mine" in text_of(answer)
    answer = call(bridge, "list_futures", "third")
    assert [entry["unread"] for entry in answer["structuredContent"]["futures"]] == [False, True, False]
    answer = call(bridge, "write", "theirs", label="other")
    assert theirs in [record["future_id"] for record in records(answer)]
    assert theirs not in canonical(call(bridge, "write", "theirs", label="again", _wait="all"))
    assert mine not in canonical(call(bridge, "write", "mine", label="last", _wait="all"))
    assert set(house.runs().values()) == {1}


@both_eras
def test_clients_over_http_find_their_futures_after_a_restart(stage: Stage, era: str) -> None:
    """A new session of the same host, by ID, name, `list_futures`, conversation and, of 2026-07-28, as tasks."""
    house = Restarting(stage, grace_ms=0, tasks="handle", deliver="off")
    bridge = house.start_http()
    client = bridge.client(era=era, conversation="c", capabilities=TASKS)
    client.wait_for_tools("append")
    done = client.submit("write", {"label": "done", "_as": "it"}).id
    before = whole(client.outcome(done))
    unread = client.submit("write", {"label": "unread"}).id
    gate = house.gate()
    held = client.submit("append", {"label": "held", "until": str(gate)}).id
    waiting = client.submit("append", {"label": "waiting"}).id
    house.ran("held")
    until_ended(client, unread)
    recorded(client)
    bridge.process.kill()
    bridge.process.wait()

    bridge = house.start_http()
    client = bridge.client(era=era, conversation="c", capabilities=TASKS)
    until_ended(client, waiting)
    assert canonical(whole(client.outcome(done))) == canonical(before)
    assert canonical(whole(client.outcome("it"))) == canonical(before)
    assert_interrupted(client, held)
    listed = entries(client)
    assert [listed[each]["unread"] for each in (waiting, held, unread, done)] == [True, False, True, False]
    if era == MODERN:
        found = {future: client.request("tasks/get", {"taskId": future}) for future in (done, held)}
        assert found[done]["status"] == "completed"
        assert canonical(whole(found[done]["result"])) == canonical(before)
        assert found[held]["status"] == "failed"
        assert INTERRUPTED in canonical(found[held]["error"])
    answer = client.call("write", {"label": "next", "_wait": "all"})
    assert {unread, waiting} <= {record["future_id"] for record in records(answer)}
    assert set(house.runs().values()) == {1}
    assert house.items == ["waiting"]


def test_a_task_survives(stage: Stage) -> None:
    """A task that was created before the restart is fetched after it: ended, interrupted and resumed."""
    house = Restarting(stage, tasks="task")
    bridge = house.start_http()
    client = bridge.client(era=MODERN, capabilities=TASKS)
    client.wait_for_tools("append")
    ended, held, waiting = (
        client.request("tools/call", {"name": tool, "arguments": {"label": label, **more}})["taskId"]
        for tool, label, more in (
            ("write", "ended", {}),
            ("append", "held", {"until": str(house.gate())}),
            ("append", "waiting", {}),
        )
    )
    house.ran("held")

    def status(task: str) -> str:
        return client.request("tasks/get", {"taskId": task})["status"]

    eventually(lambda: status(ended) == "completed", "the first task ends")
    recorded(bridge.client())
    bridge.process.kill()
    bridge.process.wait()
    bridge = house.start_http()
    client = bridge.client(era=MODERN, capabilities=TASKS)
    eventually(lambda: status(waiting) == "completed", "the task that waited ends")
    assert status(ended) == "completed"
    assert status(held) == "failed"
    assert set(house.runs().values()) == {1}


# --- several bridges -------------------------------------------------------------------------------------------------


def test_two_bridges_over_one_configuration_leave_each_other_alone(stage: Stage) -> None:
    """A bridge that starts takes what dead ones have left, and nothing of one that runs."""
    house = Restarting(stage)
    one, two = house.start(), house.start()
    gate = house.gate()
    of_one = house.hold(one, "write", label="one", until=gate)
    of_two = house.hold(two, label="two")
    behind = two.submit("append", {"label": "behind"}).id
    ended = two.submit("write", {"label": "ended"}).id
    until_ended(two, ended)
    recorded(two)
    kill(two)

    three = house.start()
    until_ended(three, of_two, behind)
    assert_interrupted(three, of_two)
    assert text_of(three.outcome(behind)) == "behind"
    assert text_of(three.outcome(ended)) == "ended"
    assert text_of(one.outcome(ended)) == "ended"
    assert "another bridge" in text_of(three.await_future(of_one))
    gate.touch()
    assert text_of(one.outcome(of_one)) == "one"
    assert text_of(three.outcome(of_one)) == "one"
    assert house.runs() == {"one": 1, "two": 1, "behind": 1, "ended": 1}


def test_of_many_bridges_that_start_together_one_adopts(stage: Stage) -> None:
    """What a dead bridge has left is made once."""
    house = Restarting(stage)
    bridge = house.start()
    held = house.hold(bridge)
    waiting = [bridge.submit("append", {"label": f"n{n}"}).id for n in range(10)]
    recorded(bridge)
    kill(bridge)
    bridges = [house.start(ready=False) for _ in range(4)]
    eventually(lambda: len(house.items) >= 10, "what waited is made")
    for each in bridges:
        each.wait_for_tools("append")
    for future in waiting:
        eventually(lambda f=future: "another bridge" not in text_of(bridges[0].await_future(f)), "it has ended")
        assert len({canonical(whole(each.outcome(future))) for each in bridges}) == 1
    assert_interrupted(bridges[-1], held)
    assert set(house.runs().values()) == {1}
    assert house.items == [f"n{n}" for n in range(10)]


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_path_can_be_given(stage: Stage) -> None:
    """`journal: PATH`: everything lies there, readable by the user only; the folder of state does not matter."""
    path = stage.folder / "mine" / "futures.db"
    path.parent.mkdir()
    house = Restarting(stage, journal=str(path))
    bridge = house.start()
    future = bridge.submit("write", {"label": "here", "text": "text-of-this-call"}).id
    bridge.outcome(future)
    kill(bridge)
    assert b"text-of-this-call" in b"".join(each.read_bytes() for each in path.parent.iterdir() if each.is_file())
    assert b"text-of-this-call" not in house.bytes_of_state()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    bridge = house.start(env={"ASYNCFC_STATE_DIR": str(stage.folder / "elsewhere")})
    assert text_of(bridge.outcome(future)) == "text-of-this-call"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_the_user_can_read_the_files(stage: Stage, umask: int) -> None:
    """Files and folders, whatever the umask, while the bridge runs and after it was killed."""
    house = Restarting(stage)
    old = os.umask(umask)
    try:
        bridge = house.start()
    finally:
        os.umask(old)
    bridge.outcome(bridge.submit("big", {"label": "big", "n_bytes": 500_000}).id)
    bridge.outcome(bridge.submit("write", {"label": "small"}).id)

    def assert_private() -> None:
        found = list(house.state.rglob("*"))
        assert len(found) > 2
        for each in found:
            assert stat.S_IMODE(each.stat().st_mode) == (0o700 if each.is_dir() else 0o600), each

    assert_private()
    kill(bridge)
    assert_private()
