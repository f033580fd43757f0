"""A configuration that is changed while a bridge of real processes runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.client import Json, RpcError, eventually, text_of
from tests.support.daemons import daemon
from tests.support.stage import HttpBridge, Stage
from tests.support.stdio_client import Wire

SERVER = Path(__file__).parents[1] / "support" / "counting_server.py"


class Edited:
    """A configuration file over servers that record each execution."""

    def __init__(self, stage: Stage, *names: str, **settings: Any) -> None:
        self.stage = stage
        self.path = stage.folder / "mcp.json"
        self.servers: dict[str, Json] = {}
        self.settings = stage.settings | settings
        for name in names:
            self.set(name)
        self.write()

    def set(self, name: str, version: str = "0", **settings: Any) -> None:
        """Have a server with this environment and these settings."""
        log = self.stage.folder / f"{name}.log"
        entry = self.stage.entry(
            sys.executable, str(SERVER), str(log), "--mark", self.stage.mark, env={"VERSION": version}
        )
        self.servers[name] = {**entry, "asyncfc": settings}

    def write(self) -> None:
        """Replace the file, as editors do."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"mcpServers": self.servers, "asyncfc": self.settings}))
        new.replace(self.path)

    def log(self, name: str) -> list[Json]:
        path = self.stage.folder / f"{name}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> Counter[str]:
        """Executions of each label."""
        lines = [line for name in ("kept", "changed", "comes") for line in self.log(name)]
        return Counter(line["label"] for line in lines if line["what"] == "run")

    def version(self, name: str) -> set[str]:
        """The environments with which a server runs."""
        found: set[str] = set()
        for pid in self.pids().get(name, ()):
            with contextlib.suppress(psutil.Error):
                found.add(psutil.Process(pid).environ()["VERSION"])
        return found

    def pids(self) -> dict[str, list[int]]:
        """The processes of each server that run."""
        found: dict[str, list[int]] = {name: [] for name in self.servers}
        for process in self.stage.downstreams():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                words = process.cmdline()
                for name in self.servers:
                    if any(word.endswith(f"/{name}.log") for word in words):
                        found[name].append(process.pid)
        return found


def hang_up(bridge: Wire | HttpBridge) -> None:
    """Have the file read now, which is followed once a second otherwise."""
    pid = bridge.pid if isinstance(bridge, Wire) else bridge.process.pid
    os.kill(pid, signal.SIGHUP)


def pid_of(bridge: Wire, tool: str, label: str) -> int:
    return bridge.outcome(bridge.submit(tool, {"label": label}).id)["structuredContent"]["process"]


def test_a_changed_file_counts_and_nothing_else_is_touched(stage: Stage) -> None:
    """The unchanged server keeps its process and its call; the changed one finishes its call and restarts; a new one is
    announced; a policy applies without a restart; a wrong file changes nothing, and is reported."""
    edited = Edited(stage, "kept", "changed")
    bridge = stage.serve("--config", str(edited.path))
    bridge.wait_for_tools("kept__write", "changed__write")
    kept, changed = pid_of(bridge, "kept__read", "1"), pid_of(bridge, "changed__read", "1")
    gates = {name: stage.folder / f"gate-{name}" for name in ("kept", "changed")}
    running = {name: bridge.submit(f"{name}__write", {"label": "r", "until": str(gates[name])}) for name in gates}
    eventually(lambda: any(line["label"] == "r" for line in edited.log("changed")), "the calls run")

    edited.set("changed", "1")
    edited.set("added", exclude=["big"])
    edited.write()
    tools = bridge.wait_for_tools("added__write", "kept__write", "changed__write")
    assert "added__big" not in tools
    bridge.notified("notifications/tools/list_changed")
    waiting = bridge.submit("changed__write", {"label": "w"})
    assert edited.pids()["changed"] == [changed], "it has a call"
    gates["changed"].touch()
    assert bridge.outcome(running["changed"].id)["structuredContent"]["process"] == changed
    assert (again := bridge.outcome(waiting.id)["structuredContent"]["process"]) != changed
    assert not psutil.pid_exists(changed)

    edited.set("changed", "1", mode="sync")
    edited.path.write_text(json.dumps({"mcpServers": edited.servers}))

    def answered_at_once() -> bool:
        return "process" in (bridge.call("changed__read", {"label": "s"}).get("structuredContent") or {})

    eventually(answered_at_once, "the new mode counts")
    assert bridge.call("changed__read", {"label": "t"})["structuredContent"]["process"] == again

    edited.path.write_text('{"mcpServers": {')
    eventually(lambda: "its file cannot be used" in text_of(bridge.call("list_futures")), "the fault is shown")
    assert pid_of(bridge, "kept__read", "2") == kept
    assert bridge.stderr().count("cannot be used") == 1
    edited.write()
    eventually(lambda: "Configuration" not in text_of(bridge.call("list_futures")), "the file is right again")

    gates["kept"].touch()
    assert bridge.outcome(running["kept"].id)["structuredContent"]["process"] == kept
    del edited.servers["added"]
    edited.write()
    eventually(lambda: "added__write" not in bridge.tools(), "it is gone")
    eventually(lambda: len(stage.downstreams()) == 2, "its process has ended")


def _outcome(bridge: Wire, answer: Json) -> Json:
    """The result of a call, which its first answer may already be."""
    futures = (answer.get("_meta") or {}).get("asyncfc/futures")
    return answer if not futures else bridge.outcome(futures[0]["future_id"])


def under_load(stage: Stage, edits: int) -> None:
    """Edit a file again and again while calls are made; hold every answer against what the servers recorded."""
    edited = Edited(stage, "kept", "changed", "comes")
    bridge = stage.serve("--config", str(edited.path))
    bridge.wait_for_tools("kept__write", "changed__write", "comes__write")
    kept = pid_of(bridge, "kept__read", "first")
    dice = random.Random(edits)
    stop = threading.Event()
    made: dict[str, tuple[str, Json]] = {}

    def call() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for name in ("kept", "changed", "comes"):
                label = f"{name}-{number}"
                try:
                    made[label] = name, bridge.call(f"{name}__write", {"label": label})
                except RpcError as exc:
                    made[label] = name, {"isError": True, "content": [{"type": "text", "text": str(exc)}]}

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for number in range(edits):
            edited.set("changed", str(number))
            match dice.randrange(3):
                case 0:
                    edited.servers.pop("comes", None)
                case 1:
                    edited.set("comes")
                case _:
                    edited.set("kept", max_concurrency=dice.randrange(1, 5), timeout_s=60)
            edited.write()
            hang_up(bridge)
            before = len(made)
            eventually(lambda before=before: len(made) >= before + 3, "calls are answered meanwhile")
            eventually(lambda number=number: edited.version("changed") == {str(number)}, "the change counts")
    finally:
        stop.set()
        caller.join()
    outcomes = {label: (name, _outcome(bridge, answer)) for label, (name, answer) in made.items()}
    runs = edited.runs()
    assert max(runs.values()) == 1, "no call was made twice"
    for label, (name, outcome) in outcomes.items():
        if outcome.get("isError"):
            assert name == "comes", text_of(outcome)
            assert "removed from the configuration" in text_of(outcome) or "Unknown tool" in text_of(outcome)
            assert runs[label] == 0, text_of(outcome)
        else:
            assert outcome["structuredContent"]["label"] == label
            assert runs[label] == 1
    assert sum(name == "changed" for name, _ in outcomes.values()) >= edits
    assert pid_of(bridge, "kept__read", "last") == kept
    bridge.close()
    stage.assert_nothing_left()


def test_no_call_is_lost_or_made_twice_while_the_file_is_edited(stage: Stage) -> None:
    """Servers are restarted, removed and added under load; every answer is right."""
    under_load(stage, 10)


@pytest.mark.reloads_long
@pytest.mark.timeout(600)
def test_no_call_is_lost_or_made_twice_in_a_hundred_edits(stage: Stage) -> None:
    """The same, for longer."""
    under_load(stage, 100)


def test_access_that_is_taken_away_ends_for_open_sessions(stage: Stage) -> None:
    """A session over HTTP that is open sees, calls and is told no more than what is left."""
    edited = Edited(stage, "open", "closed", access={"*": {"allow": ["*"]}})
    bridge = stage.http_bridge({}, "--insecure-no-auth", config=edited.path)
    session = bridge.client()
    session.wait_for_tools("open__write", "closed__write")
    edited.settings["access"] = {"*": {"allow": ["open"]}}
    edited.write()
    hang_up(bridge)
    eventually(lambda: "closed__write" not in session.tools(), "it is not listed")
    assert "open__write" in session.tools()
    with pytest.raises(RpcError, match="Unknown tool"):
        session.call("closed__write", {"label": "x"})
    assert not edited.log("closed")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")
def test_a_daemon_reads_its_file_again(stage: Stage) -> None:
    """On `asyncfc-mcp reload`, which prints what has changed; a fault is in `daemon status`, and in the log of each
    session's host."""
    edited = Edited(stage, "kept", reload="off")
    with daemon(stage, {}, config=edited.path) as running:
        session = running.join("one")
        session.wait_for_tools("kept__write")
        pid = pid_of(session, "kept__read", "1")
        edited.set("added")
        edited.settings["max_wait_s"] = 7
        edited.write()
        folder = {"ASYNCFC_RUNTIME_DIR": str(running.folder)}
        done = stage.run("reload", "--config", str(edited.path), env=folder)
        assert done.code == 0, done.stderr
        assert "added: added; settings: max_wait_s" in done.stdout
        session.wait_for_tools("added__write")
        assert pid_of(session, "kept__read", "2") == pid
        assert "No daemon runs" in stage.run("reload", "--config", str(stage.folder / "other.json"), env=folder).stdout

        edited.path.write_text("{")
        done = stage.run("reload", env=folder)
        assert done.code == 1
        assert "mcp.json" in done.stderr
        assert "cannot be: " in stage.run("daemon", "status", env=folder).stdout
        notes = [note for line in session.control if (note := line.get("note"))]
        assert any("its file cannot be used" in note for note in notes)
