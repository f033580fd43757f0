"""Servers that meet the first request of a newer client badly: all come up, and the next start spares them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.client import Json, text_of
from tests.support.stage import REPO, Stage

SERVER = str(REPO / "tests" / "support" / "probe_server.py")
TWICE = ("exit", "exit 0", "log and exit", "signal", "close stdout", "error and exit", "spoiled")
"""Met with a probe they are of no use any more, and are started again."""
ONCE = ("null id", "silent", "odd error", "empty result", "other versions")


def server(how: str, log: Path, *more: str) -> Json:
    return {"command": sys.executable, "args": [SERVER, how, str(log), *more], "asyncfc": {"prefix": ""}}


def starts(log: Path) -> list[list[str]]:
    """The methods that each process received, in order."""
    return [part.split("\n")[1:-1] for part in log.read_text().split("start")[1:]]


@pytest.mark.parametrize("how", [*TWICE, *ONCE])
def test_a_server_that_meets_a_probe_badly_comes_up(stage: Stage, how: str) -> None:
    """If need be in a second process, which is greeted first; the next bridge greets it first at once."""
    log = stage.folder / "log"
    entry = server(how, log)
    bridge = stage.bridge({"old": entry}, mode="sync")
    bridge.wait_for_tools("ping")
    assert text_of(bridge.call("ping")) == "pong"
    bridge.close()
    seen = starts(log)
    assert len(seen) == (2 if how in TWICE else 1)
    assert seen[0][0] == "server/discover"
    assert seen[-1][0 if how in TWICE else 1] == "initialize"
    log.write_text("")
    again = stage.bridge({"old": entry}, mode="sync")
    again.wait_for_tools("ping")
    assert text_of(again.call("ping")) == "pong"
    again.close()
    assert [each[0] for each in starts(log)] == ["initialize"], "remembered"


def test_a_server_that_ends_whatever_is_sent_has_failed(stage: Stage) -> None:
    """One more start than needed, and then the pauses of any server that fails; its reason is the server's own."""
    bridge = stage.serve("--", "/bin/sh", "-c", f"echo start >> {stage.folder}/log; echo no licence >&2; exit 7")
    text = text_of(bridge.call("list_futures"))
    while "exited with code 7" not in text:
        text = text_of(bridge.call("list_futures"))
    assert "no licence" in text
    assert (stage.folder / "log").read_text().count("start") <= 4


def test_a_version_that_was_never_released_is_accepted(stage: Stage) -> None:
    """2024-10-07, as the TypeScript SDK accepts it."""
    bridge = stage.bridge({"old": server("odd error", stage.folder / "log", "2024-10-07")}, mode="sync")
    bridge.wait_for_tools("ping")
    assert text_of(bridge.call("ping")) == "pong"


@pytest.mark.parametrize("version", ["2031-01-01", "draft", ""])
def test_a_version_that_nobody_knows_is_refused(stage: Stage, version: str) -> None:
    """As the Python and TypeScript SDKs do, with the version in the reason."""
    bridge = stage.bridge({"new": server("odd error", stage.folder / "log", version)})
    text = ""
    while "protocol version" not in text:
        text = text_of(bridge.call("list_futures"))
    assert repr(version) in text


def test_nothing_of_a_server_that_was_started_again_is_left(stage: Stage) -> None:
    """The first process is ended before the second is started."""
    bridge = stage.bridge({"old": server("close stdout", stage.folder / "log")}, mode="sync")
    bridge.wait_for_tools("ping")
    assert text_of(bridge.call("ping")) == "pong"
    assert len([each for each in stage.alive() if SERVER in each.cmdline()]) == 1
