"""`asyncfc-mcp log` and `asyncfc-mcp top` beside a daemon that makes calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.client import PATIENCE, Json, eventually
from tests.support.daemons import RunningDaemon, Session, daemon
from tests.support.stage import Stage
from tests.support.terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")
UNPREFIXED = {"prefix": ""}


@pytest.fixture(scope="module", params=["auto", "off"], ids=["journal", "memory"])
def running(request: pytest.FixtureRequest, shared_stage: Stage) -> Iterator[RunningDaemon]:
    servers = {"toy": shared_stage.toy("raw", asyncfc=UNPREFIXED)}
    with daemon(shared_stage, servers, journal=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def session(running: RunningDaemon) -> Session:
    """A session whose first calls have ended: a chain, and a failure."""
    found = running.join("seen")
    found.wait_for_tools("echo", "sleep", "fail")
    found.submit("sleep", {"seconds": 0.2, "tag": "\x1b]0;title\x07", "_as": "nap"})
    found.outcome(found.submit("echo", {"text": "$nap"}).id)
    found.call("fail", {"message": "no such \x1b[31mpage\u202e"})
    return found


def command(running: RunningDaemon, *args: str) -> list[str]:
    return running.stage.command(*args)


def environment(running: RunningDaemon) -> dict[str, str]:
    return running.stage.env | {"ASYNCFC_RUNTIME_DIR": str(running.folder)}


def log(running: RunningDaemon, *options: str, named: bool = True) -> subprocess.CompletedProcess[str]:
    config = ["--config", running.source[1]] if named else []
    return subprocess.run(
        command(running, "log", *config, *options),
        env=environment(running),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def entries(running: RunningDaemon, *options: str) -> list[Json]:
    done = log(running, "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_calls_are_shown_as_lines_and_as_json(running: RunningDaemon, session: Session):
    """Oldest first, with waits and ends; hostile texts of servers cannot reach the terminal."""
    shown = eventually(
        lambda: found if len(found := entries(running)) >= 3 and found[2]["state"] == "failed" else None,
        "three calls are recorded",
    )
    assert [entry["tool"] for entry in shown[:3]] == ["sleep", "echo", "fail"]
    done = log(running)
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["WHEN", "WHO", "CALL", "TOOL", "WAITED", "RAN", "END"]
    assert "claude-code" in lines[0]
    assert f"on {shown[0]['id']} (result)" in lines[1]
    assert "failed" in lines[2]
    assert done.stdout.replace("\n", "").isprintable()
    unnamed = log(running, named=False)
    assert unnamed.stdout == done.stdout
    assert "calls " in unnamed.stderr


def test_calls_are_chosen_by_words(running: RunningDaemon, session: Session):
    """State, tool, server, text and time; a wrong word is an error that says which are right."""
    assert [entry["tool"] for entry in entries(running, "--failed")] == ["fail"]
    assert {entry["tool"] for entry in entries(running, "--tool", "echo", "--since", "1h")} == {"echo"}
    assert entries(running, "--server", "other") == []
    assert {entry["tool"] for entry in entries(running, "--grep", "NAP", "--since", "today")} >= {"sleep"}
    assert len(entries(running, "--limit", "1")) == 1
    wrong = log(running, "--since", "soon")
    assert wrong.returncode == 2
    assert "since" in wrong.stderr
    assert "15m" in wrong.stderr


def test_a_closed_pipe_ends_the_log_quietly(running: RunningDaemon, session: Session):
    """`log | head -1`."""
    words = command(running, "log", "--config", running.source[1], "--json")
    with subprocess.Popen(words, env=environment(running), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert b"Error" not in process.stderr.read()


def test_calls_are_followed_until_ctrl_c(running: RunningDaemon, session: Session):
    """Each call is a line when it begins, and another one when it ends."""
    words = command(running, "log", "--config", running.source[1], "--json", "--follow", "--limit", "1")
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(words, env=environment(running), stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        parked = session.submit("sleep", {"seconds": 600})
        states: list[str] = []
        for line in process.stdout:
            entry = json.loads(line)
            if entry["id"] == parked.id:
                if entry["state"] == "running" and "running" not in states:
                    session.call("cancel_future", {"future": parked.id})
                states.append(entry["state"])
                if entry["state"] == "cancelled":
                    break
        process.send_signal(2)
        assert process.wait(PATIENCE) == 0
    assert states[-2:] == ["running", "cancelled"]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing")
def test_top_shows_calls_and_cancels_one(running: RunningDaemon, session: Session, tmp_path: Path):
    """In a real terminal: live calls, details, cancellation, another size, and a terminal as it was."""
    parked = session.submit("sleep", {"seconds": 600, "_as": "long"})
    with Terminal(80, 24, environment(running)) as terminal:
        terminal.run([*command(running, "top", "--config", running.source[1]), ";", "stty -a; echo ended $?"])
        terminal.wait_for(f"{parked.id} long")
        screen = terminal.wait_for("1 running")
        assert "time saved" in screen
        assert "fail" in screen
        terminal.press("f", "l", "o", "n", "g", "Enter")
        terminal.wait_for("filter: long (1 of")
        terminal.press("Enter")
        terminal.wait_for('"seconds": 600')
        terminal.resize(100, 15)
        terminal.press("Escape", "c")
        terminal.wait_for(f"Cancel {parked.id} long sleep?")
        terminal.press("y")
        terminal.wait_for(f"{parked.id} is cancelled")
        terminal.press("s")
        terminal.wait_for("stderr of toy")
        terminal.press("q")
        after = terminal.wait_for("ended 0")
        assert " echo" in after.replace("-echo ", "")
        assert "time saved" not in after


def test_top_and_log_say_what_to_do_without_a_bridge(stage: Stage):
    """Neither journal nor daemon, and no terminal: one line, and what to do."""
    for words, said in ((["log"], "--config FILE"), (["top"], "top needs a terminal")):
        done = subprocess.run(
            stage.command(*words), env=stage.env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
