"""How a server's end is told: by types, and "not sent" only of what certainly did not reach it, and all of that."""

from __future__ import annotations

import re
import sys
from collections import Counter

from tests.support.client import Json, eventually, text_of
from tests.support.stage import REPO, Stage
from tests.support.stdio_client import Wire

SERVER = str(REPO / "tests" / "support" / "ending_server.py")


def bridge_over(stage: Stage, how: str, **settings: object) -> Wire:
    entry: Json = {"command": sys.executable, "args": [SERVER, how, str(stage.folder / "log")]}
    bridge = stage.bridge({"s": {**entry, "asyncfc": {"prefix": "", "ordering": "none", **settings}}})
    bridge.wait_for_tools("act", "look")
    return bridge


def done(stage: Stage) -> Counter[str]:
    """How often the server was asked for each."""
    return Counter((stage.folder / "log").read_text().split())


def test_a_server_that_exits_after_each_call_serves_them_all(stage: Stage) -> None:
    """One after another, without a pause between an answer and the next call; each is made once."""
    bridge = bridge_over(stage, "one-shot", mode="sync")
    texts = [text_of(bridge.call("act", {"n": n})) for n in range(6)]
    assert [text.partition(" in ")[0] for text in texts] == [f"did {n}" for n in range(6)]
    assert len({text.partition(" in ")[2] for text in texts}) == 6
    assert set(done(stage).values()) == {1}


def test_calls_that_a_process_left_unread_are_sent_to_the_next(stage: Stage) -> None:
    """At the same time, whatever the tool does: the server has read one line, and the rest lay in the pipe."""
    bridge = bridge_over(stage, "one-shot")
    futures = [bridge.submit("act", {"n": n}).id for n in range(8)]
    outcomes = [bridge.outcome(future) for future in futures]
    assert [text_of(each).partition(" in ")[0] for each in outcomes] == [f"did {n}" for n in range(8)]
    assert set(done(stage).values()) == {1}
    assert text_of(bridge.call("list_futures", {"status": "failed"})).startswith("No futures.")


def test_what_a_process_has_read_before_it_ended_is_never_sent_twice(stage: Stage) -> None:
    """It read four calls and answered one: three may have taken effect, and say so. Later calls have their own."""
    bridge = bridge_over(stage, "slurp")
    futures = [bridge.submit("act", {"n": n}).id for n in range(4)]
    texts = [text_of(bridge.outcome(future)) for future in futures]
    assert sum(text.startswith("did ") for text in texts) >= 1
    for text in texts:
        assert text.startswith("did ") or "may or may not have taken effect" in text
    later = [bridge.submit("act", {"n": n}).id for n in range(4, 8)]
    texts = [text_of(bridge.outcome(future)) for future in later]
    assert [text.partition(" in ")[0] for text in texts] == [f"did {n}" for n in range(4, 8)], "it has been learned"
    assert max(done(stage).values()) == 1


def test_reads_that_were_lost_are_made_again(stage: Stage) -> None:
    """A read-only tool's calls all have results, though the server had read some and answered none of these."""
    bridge = bridge_over(stage, "slurp")
    futures = [bridge.submit("look", {"n": n}).id for n in range(4)]
    texts = [text_of(bridge.outcome(future)) for future in futures]
    assert [text.partition(" in ")[0] for text in texts] == [f"did {n}" for n in range(4)]


def test_a_server_that_reads_no_more_is_started_again_when_it_has_answered(stage: Stage) -> None:
    """The answer to what it had read counts; what could not be written goes to the next process."""
    bridge = bridge_over(stage, "deaf", mode="sync")
    first = bridge.start_call("act", {"n": 1})
    while not (stage.folder / "log").exists():
        bridge.request("ping")
    second = bridge.start_call("act", {"n": 2})
    texts = [text_of(each.result()) for each in (first, second)]
    assert [text.partition(" in ")[0] for text in texts] == ["did 1", "did 2"]
    assert texts[0].partition(" in ")[2] != texts[1].partition(" in ")[2]
    assert done(stage) == {"1": 1, "2": 1}


def test_a_call_that_killed_its_server_is_not_made_again(stage: Stage) -> None:
    """Nor is one that may have; its failure says how the process ended, and the next call has a new one."""
    bridge = bridge_over(stage, "crash", mode="sync")
    assert text_of(bridge.call("act", {"n": 1})).startswith("did 1")
    text = text_of(bridge.call("act", {"n": 2}))
    assert re.search(r"exited with code 9 .*may or may not have taken effect", text)
    assert text_of(bridge.call("act", {"n": 3})).startswith("did 3")
    assert done(stage) == {"1": 1, "2": 1, "3": 1}


def test_a_call_to_a_server_that_does_not_start_was_not_sent(stage: Stage) -> None:
    """It says so, and how the process ended; and it starts the server again, which works by now."""
    log = stage.folder / "log"
    wrapper = stage.folder / "start"
    wrapper.write_text(f'exec {sys.executable} {SERVER} reader "{log}"')
    bridge = stage.bridge({"s": {"command": "/bin/sh", "args": [str(wrapper)], "asyncfc": {"prefix": ""}}}, mode="sync")
    bridge.wait_for_tools("act")
    bridge.close()
    wrapper.write_text("echo no licence >&2; exit 7")
    again = stage.bridge({"s": {"command": "/bin/sh", "args": [str(wrapper)], "asyncfc": {"prefix": ""}}}, mode="sync")
    text = text_of(again.call("act", {"n": 1}))
    assert re.search(r"(?s)exited with code 7.*no licence", text)
    assert "not sent" in text
    wrapper.write_text(f'exec {sys.executable} {SERVER} reader "{log}"')
    eventually(lambda: text_of(again.call("act", {"n": 2})).startswith("did 2"), "a later call starts it")
    assert done(stage) == {"2": 1}
