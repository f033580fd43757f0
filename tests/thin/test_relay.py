"""A session over the thin process, with a daemon that the test plays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncfc_mcp.thin.relay import MOST_SHORT_LIVES
from tests.support.client import MODERN, PATIENCE, Json, RpcError, eventually, text_of
from tests.support.fake_daemon import FakeDaemon, Session
from tests.support.stage import Stage
from tests.support.stdio_client import Pending, Wire

CONFIG = {"mcpServers": {"s": {"command": "true"}}}


class House:
    """A configuration, its daemon, and sessions that join it."""

    def __init__(self, stage: Stage, folder: str) -> None:
        self.stage = stage
        stage.env["ASYNCFC_RUNTIME_DIR"] = folder
        self.config = stage.folder / "mcp.json"
        self.config.write_text(json.dumps(CONFIG))
        self.daemon = FakeDaemon(["--config", str(self.config.resolve())], stage.env, str(stage.folder))

    def start(self, *, opened: bool = True, era: str = "2025-11-25") -> tuple[Wire, Session]:
        """A session, and the daemon's side of it."""
        wire = self.stage.serve("--shared", "--config", str(self.config), opened=False, era=era)
        session = self.daemon.accept()
        if opened:
            with ThreadPoolExecutor(1) as pool:
                opening = pool.submit(wire.open)
                session.open()
                opening.result(PATIENCE)
        return wire, session

    def rejoined(self) -> Session:
        """The next connection of a session that was open, once it is restored."""
        return self.daemon.accept().open()


@pytest.fixture
def house(stage: Stage) -> Iterator[House]:
    folder = tempfile.mkdtemp(prefix="fc", dir="/tmp")  # the path of a socket is short
    house = House(stage, folder)
    try:
        yield house
    finally:
        for wire in stage.wires:
            wire.hang_up()
        house.daemon.finish()
        shutil.rmtree(folder, ignore_errors=True)


def call(wire: Wire, tool: str = "write") -> Pending:
    return wire.start_call(tool, {"x": 1})


def unfinished(session: Session, wire: Wire, tool: str = "write") -> tuple[Pending, Json]:
    """A call that the daemon has received and not answered."""
    pending = call(wire, tool)
    return pending, session.expect("tools/call")


def test_messages_pass_unchanged(house: House):
    """Whatever their order of keys and their spelling are."""
    wire, session = house.start()
    line = b'{"params": {"a": "\\u00e9 \xc3\xa9"},  "id": 77, "jsonrpc":"2.0","method":"x/y"}'
    wire._pending[77] = pending = Pending(77)
    wire.send_line(line)
    assert session.line() == line + b"\n"
    session.answer({"id": 77}, {"é": ["é", "\n"]})
    assert pending.result() == {"é": ["é", "\n"]}


def test_a_session_says_who_it_is(house: House):
    """Its folder and environment are those of the host's process, and its conversation that of the host."""
    house.stage.env["CLAUDE_CODE_SESSION_ID"] = "abc"
    _, session = house.start()
    assert session.join["cwd"] == str(house.stage.folder)
    assert session.join["environ"]["CLAUDE_CODE_SESSION_ID"] == "abc"
    assert session.join["conversation"] == "claude-code:abc"
    assert session.join["resumed"] is False
    session.end()
    again = house.rejoined().join
    assert (again["resumed"], again["conversation"]) == (True, "claude-code:abc")


@pytest.mark.skipif(not Path("/proc").exists(), reason="memory of Linux")
def test_a_session_is_small(house: House):
    """Each session of each host has one."""
    wire, _ = house.start()
    assert memory(wire, "VmRSS") < 18_000


def memory(wire: Wire, key: str) -> int:
    """Kilobytes of a session."""
    lines = Path(f"/proc/{wire.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def test_large_messages_pass_in_both_directions(house: House):
    """Without being held: memory stays where it was."""
    wire, session = house.start()
    text = "x" * (64 << 20)
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(session.expect, "tools/call")
        pending = wire.start_call("big", {"text": text[: 16 << 20]})
        request = receiving.result(PATIENCE)
    assert len(request["params"]["arguments"]["text"]) == 16 << 20
    session.answer(request, {"content": [{"type": "text", "text": text}]})
    assert len(text_of(pending.result())) == 64 << 20
    if Path("/proc").exists():
        assert memory(wire, "VmHWM") < 40_000


def test_a_host_that_sends_many_lines_is_slowed_down(house: House):
    """By a daemon that does not read; all of them arrive, in order."""
    wire, session = house.start()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: [wire.notify("notifications/x", {"n": n, "t": "y" * 500}) for n in range(5000)])
        for n in range(5000):
            assert session.expect("notifications/x")["params"]["n"] == n
        sending.result(PATIENCE)


def test_the_end_of_input_is_passed_on_and_answers_still_come(house: House):
    """As a bridge over standard streams drains."""
    wire, session = house.start()
    pending, request = unfinished(session, wire)
    wire.hang_up()
    assert session.line() == b""
    session.answer(request, {"content": []})
    session.end()
    assert pending.result() == {"content": []}
    assert wire.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_session_that_is_ended_ends_its_connection(house: House, number: signal.Signals):
    """Nothing of it is left."""
    wire, session = house.start()
    wire.process.send_signal(number)
    assert session.line() == b""
    assert wire.wait() == -number


def test_a_host_that_is_killed_ends_the_session(house: House):
    """Also where another process keeps our input and output open."""
    command = house.stage.command("serve", "--shared", "--config", str(house.config))
    program = f"import subprocess, sys; subprocess.run({command!r})"
    reading, writing = os.pipe()
    output = os.open(os.devnull, os.O_WRONLY)
    env, folder = house.stage.env, house.stage.folder
    host = subprocess.Popen([sys.executable, "-c", program], stdin=reading, stdout=output, env=env, cwd=folder)
    session = house.daemon.accept()
    host.kill()
    host.wait(PATIENCE)
    assert session.line() == b""
    for fd in (reading, writing, output):
        os.close(fd)


def test_a_host_that_reads_no_more_ends_the_session(house: House):
    """Also while it keeps our input open."""
    reading, writing = os.pipe()
    command = house.stage.command("serve", "--shared", "--config", str(house.config))
    env, folder = house.stage.env, house.stage.folder
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing, env=env, cwd=folder) as process:
        os.close(writing)
        session = house.daemon.accept()
        os.close(reading)
        assert session.line() == b""
        assert process.wait(PATIENCE) == 0


def test_a_call_under_way_at_a_loss_is_answered_and_not_made_again(house: House):
    """With what is known of it; other requests go on."""
    wire, session = house.start()
    pending, _ = unfinished(session, wire)
    listing = wire.start("tools/list")
    session.expect("tools/list")
    waiting, _ = unfinished(session, wire, "await_future")
    reading = wire.start("resources/read", {"uri": "a:b"})
    session.expect("resources/read")
    session.end()
    assert pending.result()["isError"] is True
    assert "may or may not have taken effect" in text_of(pending.result())
    with pytest.raises(RpcError, match="daemon ended"):
        reading.result()
    session = house.rejoined()
    session.answer(session.expect("tools/list"), {"tools": []})
    again = session.expect("tools/call")
    assert again["params"]["name"] == "await_future"
    session.answer(again, {"content": []})
    assert listing.result() == {"tools": []}
    assert waiting.result() == {"content": []}
    wire.notified("notifications/tools/list_changed")
    wire.notified("notifications/resources/list_changed")


def test_what_a_host_has_sent_before_its_end_is_answered_by_the_next_daemon(house: House):
    """Also where both happen while the session looks for it."""
    wire, session = house.start()
    session.end()
    house.daemon.wait_for_session()
    pending = call(wire)
    wire.hang_up()
    session = house.rejoined()
    session.answer(session.expect("tools/call"), {"content": []})
    assert pending.result() == {"content": []}
    session.finish()
    assert wire.process.wait(PATIENCE) == 0


def test_ends_that_were_announced_are_no_reason_to_give_up(house: House):
    """However many follow each other."""
    wire, session = house.start()
    for _ in range(MOST_SHORT_LIVES + 2):
        session.control(draining={"program": None})
        assert session.read() == {"asyncfc": {"held": True}}
        session.end()
        session = house.rejoined()
    pending = call(wire)
    session.answer(session.expect("tools/call"), {"content": []})
    assert pending.result() == {"content": []}


def test_what_a_connection_has_is_given_to_the_next_daemon(house: House):
    """Its log level and its subscriptions, whose answers are not the host's."""
    wire, session = house.start()
    for method, params in (
        ("logging/setLevel", {"level": "debug"}),
        ("logging/setLevel", {"level": "info"}),
        ("resources/subscribe", {"uri": "a:1"}),
        ("resources/subscribe", {"uri": "a:2"}),
        ("resources/unsubscribe", {"uri": "a:1"}),
    ):
        pending = wire.start(method, params)
        session.answer(session.expect(method), {})
        pending.result()
    session.end()
    session = house.rejoined()
    level, resource = session.expect("logging/setLevel"), session.expect("resources/subscribe")
    assert (level["params"], resource["params"]) == ({"level": "info"}, {"uri": "a:2"})
    session.answer(level, {})
    session.answer(resource, {})
    pending, request = unfinished(session, wire)
    session.answer(request, {"content": []})
    assert pending.result() == {"content": []}


def test_a_question_of_a_daemon_that_has_ended_is_withdrawn(house: House):
    """A late answer to it does not reach the next daemon."""
    wire, session = house.start()
    asked: list[Json] = []
    receive = wire._receive
    wire._receive = lambda message: asked.append(message) if message.keys() >= {"id", "method"} else receive(message)
    session.send({"id": 6, "method": "elicitation/create", "params": {}})
    eventually(lambda: asked, "the question arrives")
    session.end()
    session = house.rejoined()
    (withdrawn,) = wire.notified("notifications/cancelled")
    assert withdrawn["params"]["requestId"] == 6
    wire.send({"id": 6, "result": {"action": "accept"}})
    pending, request = unfinished(session, wire)
    session.answer(request, {"content": []})
    assert pending.result() == {"content": []}


def test_a_daemon_that_drains_gets_no_further_requests(house: House):
    """They are made by the next one; answers to what it has received still come."""
    wire, session = house.start()
    pending, request = unfinished(session, wire)
    session.control(draining={"program": None})
    assert session.read() == {"asyncfc": {"held": True}}
    session.send({"id": "q", "method": "ping"})
    assert session.read()["id"] == "q"
    later = wire.start_call("write", {"x": 2})
    session.send({"id": "r", "method": "ping"})
    assert session.read()["id"] == "r"
    session.answer(request, {"content": []})
    session.end()
    assert pending.result() == {"content": []}
    session = house.rejoined()
    request = session.expect("tools/call")
    assert request["params"]["arguments"] == {"x": 2}
    session.answer(request, {"content": []})
    assert later.result() == {"content": []}


def test_a_line_that_a_daemon_has_not_finished_does_not_damage_the_next(house: House):
    """The host gets the beginning, and a proper answer to the same request."""
    wire, session = house.start()
    pending, request = unfinished(session, wire)
    beginning = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % request["id"]
    session.sock.sendall(beginning + b"x" * (1 << 20))
    eventually(lambda: wire.process.poll() is None, "the session goes on")
    session.end()
    assert pending.result()["isError"] is True
    house.rejoined()
    wire.garbage.clear()


def test_a_change_of_lists_is_announced_once_until_they_are_read(house: House):
    """The next daemon announces what its servers list, which the host is to read again anyhow."""
    wire, session = house.start()
    session.end()
    session = house.rejoined()
    changed = "notifications/tools/list_changed"
    session.send({"method": changed})
    session.send({"method": "notifications/prompts/list_changed"})
    wire.notified("notifications/prompts/list_changed")
    assert len(wire.notified(changed)) == 1
    listing = wire.start("tools/list")
    session.answer(session.expect("tools/list"), {"tools": []})
    assert listing.result() == {"tools": []}
    session.send({"method": changed})
    eventually(lambda: len(wire.notified(changed)) == 2, "a later change is announced")


def test_a_session_of_2026_07_28_goes_on(house: House):
    """Without a handshake: its stream of notifications is opened again, and says that lists may have changed."""
    wire, session = house.start(opened=False, era=MODERN)
    wire.start("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    first = session.expect("subscriptions/listen")
    pending, _ = unfinished(session, wire)
    session.end()
    assert pending.result()["resultType"] == "complete"
    session = house.daemon.accept()
    assert session.expect("subscriptions/listen") == first
    (changed,) = wire.notified("notifications/tools/list_changed")
    assert changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == first["id"]
    session.send({"method": changed["method"], "params": changed["params"]})
    pending, request = unfinished(session, wire)
    session.answer(request, {"content": []})
    assert pending.result() == {"content": []}
    assert wire.notified("notifications/tools/list_changed") == [changed]


def test_lines_of_the_daemon_for_the_log_are_written_there(house: House):
    """And not to the host's input."""
    wire, session = house.start()
    session.control(note="remember\nthis")
    eventually(lambda: "asyncfc-mcp: remember this\n" in wire.stderr(), "the line is logged")
