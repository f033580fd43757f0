"""The daemon over its socket: sessions are apart from each other, and its life ends only when and as it should."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from asyncfc_mcp.transports.local.sessions import MAX_SESSIONS
from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, eventually, records, text_of
from tests.support.daemons import RunningDaemon, daemon, joining, read_line, runtime_folder, start
from tests.support.stage import REPO, Stage

ASKING = str(REPO / "tests" / "support" / "asking_server.py")
UNPREFIXED = {"prefix": ""}
ERAS = [HANDSHAKE, MODERN]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")


def toy(stage: Stage) -> Json:
    return stage.toy("raw", asyncfc=UNPREFIXED)


@pytest.fixture(scope="module")
def shared(shared_stage: Stage) -> Iterator[RunningDaemon]:
    """A daemon that the tests of sessions share."""
    asking = shared_stage.entry(sys.executable, ASKING, asyncfc=UNPREFIXED)
    servers = {"toy": toy(shared_stage), "asking": asking}
    with daemon(shared_stage, servers) as running:
        first = running.join("first")
        first.wait_for_tools("echo", "ask")
        first.kill()
        yield running


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_nothing_of_a_session_is_delivered_to_another(shared: RunningDaemon, era: str):
    """Answers to equal IDs, progress, names and unread results."""
    ours, theirs = (shared.join(f"{label} {era}", era=era) for label in ("ours", "theirs"))
    mine = ours.submit("sleep", {"seconds": 0.05, "_as": "work"})
    other = theirs.submit("sleep", {"seconds": 0.05, "_as": "work"})
    assert mine.id != other.id
    pending = ours.start_call("progress", {"steps": 2, "_wait": "this"}, on_progress=lambda _: None)
    assert "theirs" in text_of(theirs.outcome(theirs.submit("echo", {"text": "theirs"}).id))
    assert pending.result()
    assert len(pending.progress) >= 2
    assert not [note for note in theirs.notifications if note["method"] == "notifications/progress"]
    gathered = ours.call("echo", {"text": "last", "_wait": "all"})
    assert {record["future_id"] for record in records(gathered)}.isdisjoint({other.id})
    assert ours.outcome("work") == ours.outcome(mine.id)
    assert ours.garbage == theirs.garbage == []


def test_a_question_is_put_to_the_session_that_made_the_call(shared: RunningDaemon):
    """Also while the other one waits for a call of its own at the same server."""
    ours, theirs = shared.join("asker"), shared.join("bystander")
    asked = {"rounds": [[["form", "Who?"]]], "label": "q"}
    assert "asker" in text_of(ours.call("ask", {**asked, "_wait": "this"}))
    assert len(ours.questions) == 1
    assert theirs.questions == []
    assert "bystander" in text_of(theirs.call("ask", {**asked, "_wait": "this"}))
    assert len(ours.questions) == 1


@pytest.mark.parametrize("era", ERAS)
def test_calls_of_a_session_that_was_killed_go_on(shared: RunningDaemon, era: str):
    """Any other session can await them, and is not disturbed."""
    killed, other = shared.join(f"killed {era}", era=era), shared.join(f"other {era}", era=era)
    future = killed.submit("sleep", {"seconds": 0.3})
    killed.start_call("await_future", {"future_id": future.id})
    waiting = other.start_call("await_future", {"future_id": future.id})
    killed.kill()
    assert "0.3" in text_of(waiting.result()) or "slept" in text_of(waiting.result())
    assert future.id in text_of(other.call("list_futures"))


def test_a_session_that_sends_nothing_more_has_its_last_answers(shared: RunningDaemon):
    """Its host has closed standard input, and still reads."""
    leaving = shared.join("leaving")
    last = leaving.start_call("sleep", {"seconds": 0.2, "_wait": "this"})
    leaving.hang_up()
    assert last.result()
    eventually(lambda: not leaving._reader.is_alive(), "the connection ends")


def test_a_session_that_is_continued_is_the_same_conversation(shared: RunningDaemon):
    """Its names and its unread results are there again; a host of another name is somebody else."""
    before = shared.join("continued")
    future = before.submit("sleep", {"seconds": 0.3, "_as": "kept_name"})
    before.kill()
    again, stranger = shared.join("continued"), shared.join("continued", client="codex-mcp-client")
    assert future.id in [record["future_id"] for record in records(again.call("echo", {"_wait": "all", "text": "x"}))]
    assert again.outcome("kept_name")
    found = stranger.call("echo", {"_wait": "all", "text": "x"})
    assert future.id not in [record["future_id"] for record in records(found)]


HOSTILE: dict[str, bytes] = {
    "not JSON": b"hello\n",
    "a message of MCP": b'{"jsonrpc":"2.0","id":1,"method":"initialize"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "another protocol": b'{"asyncfc":{"protocol":99,"join":{}}}\n',
    "no object": b'{"asyncfc":7}\n',
    "nothing in it": b'{"asyncfc":{"protocol":1}}\n',
    "unknown command": b'{"asyncfc":{"protocol":1,"command":"explode"}}\n',
    "malformed join": json.dumps({"asyncfc": {"protocol": 1, "join": {**joining("x"), "cwd": "relative"}}}).encode()
    + b"\n",
    "zero in a variable": json.dumps(
        {"asyncfc": {"protocol": 1, "join": {**joining("x"), "environ": {"A": "\0"}}}}
    ).encode()
    + b"\n",
    "long": b"x" * (5 << 20),
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_first_line_is_refused_with_a_reason(shared: RunningDaemon, line: bytes):
    """In one line, after which the connection ends; nobody else notices."""
    with shared.connect() as sock:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            sock.sendall(line)
        answer: Json = {}
        with contextlib.suppress(ConnectionError):
            answer = read_line(sock)
        if line != HOSTILE["long"]:
            assert answer["error"]
            assert sock.recv(1) == b""
    assert shared.command("status")["pid"] == shared.process.pid


def test_connections_that_say_nothing_keep_nobody_out(shared: RunningDaemon):
    """Many are open at once, and many more are opened and dropped; no descriptor is left of them."""
    descriptors = psutil.Process(shared.process.pid).num_fds()
    silent = [shared.connect() for _ in range(150)]
    assert shared.join("beside").request("ping") == {}
    for sock in silent:
        sock.close()
    for number in range(500):
        sock = shared.connect()
        if number % 2:
            sock.sendall(b'{"asyncfc":{"proto')
        sock.close()
    eventually(lambda: psutil.Process(shared.process.pid).num_fds() <= descriptors + 4, "descriptors are closed")


def test_a_session_too_many_is_told_so(shared: RunningDaemon):
    """At once, so that it runs a bridge of its own; commands are still answered."""
    connections: list[tuple[socket.socket, Json]] = []
    while not connections or "joined" in connections[-1][1]:
        connections.append(shared.greet(join=joining(str(len(connections)))))
        assert len(connections) <= MAX_SESSIONS + 1
    assert "sessions" in connections[-1][1]["error"]
    assert shared.command("status")["sessions"]
    for sock, _ in connections:
        sock.close()
    eventually(lambda: len(shared.command("status")["sessions"]) < MAX_SESSIONS // 2, "sessions have ended")


def test_a_session_that_does_not_read_holds_up_no_other(shared: RunningDaemon):
    """Its answers wait in memory up to a bound."""
    sock, _ = shared.greet(join=joining("deaf"))
    hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "deaf", "version": "1"}}
    lines: list[Json] = [{"id": 1, "method": "initialize", "params": hello}]
    lines += [{"id": number, "method": "tools/list"} for number in range(2, 400)]
    sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for line in lines:
            sock.sendall(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n")
    other = shared.join("hearing")
    assert "through" in text_of(other.call("echo", {"text": "through", "_wait": "this"}))
    sock.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user is needed")
def test_another_user_is_refused_even_where_files_let_them_in(shared: RunningDaemon):
    """The other end of each connection is asked for, whatever the modes are."""
    modes = [(path, path.stat().st_mode) for path in (shared.folder, shared.socket_path)]
    for path, _ in modes:
        path.chmod(0o777)
    program = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        'try:\n sock.sendall(b\'{"asyncfc":{"protocol":1,"command":"status"}}\\n\'); print(sock.recv(100))\n'
        "except ConnectionError: print(b'')\n"
    )
    try:
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, str(shared.socket_path)],
            user=65534, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd="/",
        )  # fmt: skip
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert done.stdout.strip() == "b''", done.stderr


def test_files_are_the_users_alone(shared: RunningDaemon):
    """Folder and files have no mode for others."""
    assert shared.folder.stat().st_mode & 0o777 == 0o700
    for path in shared.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


# --- its life --------------------------------------------------------------------------------------------------------


def test_a_second_daemon_ends_quietly(stage: Stage):
    """The first one keeps lock and socket."""
    with daemon(stage, {"toy": toy(stage)}) as first:
        second = start(stage, first.folder, first.source)
        assert (second.said, second.wait()) == ("", 0)
        assert first.command("status")["pid"] == first.process.pid


def test_after_a_crash_the_next_daemon_takes_over(stage: Stage):
    """It replaces the dead socket; names and unread results of a conversation are in the journal."""
    with daemon(stage, {"toy": toy(stage)}) as first:
        before = first.join("lasting")
        before.wait_for_tools("echo")
        future = before.submit("echo", {"text": "survives", "_as": "named"})
        eventually(lambda: "completed" in text_of(before.call("list_futures")), "the call ends")
        first.process.kill()
        first.wait()
        assert first.socket_path.exists()
        second = start(stage, first.folder, first.source)
        try:
            assert second.said == "ok", second.log.read_text()
            again = second.join("lasting")
            again.wait_for_tools("echo")
            unread = again.call("echo", {"text": "x", "_wait": "all"})
            assert future.id in [record["future_id"] for record in records(unread)]
            assert "survives" in text_of(again.outcome("named"))
        finally:
            second.close()


def test_a_daemon_ends_when_nobody_has_used_it_for_long_enough(stage: Stage):
    """Not while a session is there or a call is running; it leaves no socket."""
    with daemon(stage, {"toy": toy(stage)}, daemon_idle_s=0.1) as running:
        session = running.join("only")
        session.wait_for_tools("sleep")
        session.submit("sleep", {"seconds": 1.0})
        session.kill()
        eventually(lambda: running.command("status")["sessions"] == [], "the session has left")
        assert running.command("status")["unfinished_calls"] == 1
        assert running.wait() == 0
        assert [path.suffix for path in running.folder.iterdir()] == [".lock"]


def test_a_stop_finishes_running_calls(stage: Stage):
    """The session is told to hold back, has its answer, and is let go."""
    with daemon(stage, {"toy": toy(stage)}) as running:
        session = running.join("working")
        session.wait_for_tools("sleep")
        answer = session.start_call("sleep", {"seconds": 0.5, "_wait": "this"})
        eventually(lambda: running.command("status")["unfinished_calls"], "the call runs")
        stopped = stage.run("daemon", "stop", env={"ASYNCFC_RUNTIME_DIR": str(running.folder)})
        assert stopped.code == 0, stopped.stderr
        assert "has ended; the open session starts it again." in stopped.stdout
        assert answer.result()
        assert {"draining": {"program": None}} in session.control
        eventually(lambda: not session._reader.is_alive(), "the connection has ended")
        assert running.wait() == 0


def test_a_restart_keeps_source_and_environment(stage: Stage):
    """`daemon status` shows it before and after."""
    with daemon(stage, {"toy": toy(stage)}) as running:
        env = {"ASYNCFC_RUNTIME_DIR": str(running.folder)}
        running.join("one", cwd="/tmp")
        (before,) = json.loads(stage.run("daemon", "status", "--json", env=env).stdout)
        assert [(each["client"], each["cwd"]) for each in before["sessions"]] == [("claude-code", "/tmp")]
        assert [each["name"] for each in before["servers"]] == ["toy"]
        restarted = stage.run("daemon", "restart", env=env)
        assert restarted.code == 0, restarted.stderr
        (after,) = json.loads(stage.run("daemon", "status", "--json", env=env).stdout)
        assert after["run"] != before["run"]
        assert after["configuration"] == before["configuration"]
        assert "words" not in after, "they have the credentials of a URL"
        text = stage.run("daemon", "status", env=env).stdout
        assert "sessions: none" in text
        assert re.search(r"servers:\n    toy: (starting|ready|sleeping: starts at its first call)\n", text)
        assert running.join("two").request("ping") == {}


def test_a_newer_version_takes_over_at_a_quiet_moment(stage: Stage):
    """A program that only says it is newer does not."""
    newer, liar = stage.folder / "newer", stage.folder / "liar"
    newer.write_text("#!/bin/sh\necho 'asyncfc-mcp, version 99.0'\n")
    liar.write_text("#!/bin/sh\nexit 1\n")
    for path in (newer, liar):
        path.chmod(0o700)
    with daemon(stage, {"toy": toy(stage)}) as running:
        session = running.join("old")
        session.wait_for_tools("sleep")
        running.join("lying", version="99.0", program=[str(liar)])
        eventually(lambda: "liar" in running.log.read_text(), "the program is tried")
        answer = session.start_call("sleep", {"seconds": 0.7, "_wait": "this"})
        eventually(lambda: running.command("status")["unfinished_calls"], "the call runs")
        new = running.join("new", version="99.0", program=[str(newer)])
        assert answer.result()
        assert running.wait() == 0
        for each in (session, new):
            assert {"draining": {"program": [str(newer)]}} in each.control


def test_files_that_were_removed_are_made_again(stage: Stage):
    """Temporary folders are cleaned up by some systems. There is no second daemon after that."""
    with daemon(stage, {"toy": toy(stage)}) as running:
        before = running.join("before")
        for path in running.folder.iterdir():
            path.unlink()
        eventually(running.socket_path.exists, "the socket is there again", seconds=60)
        assert start(stage, running.folder, running.source).wait() == 0
        assert running.join("after").request("ping") == before.request("ping") == {}


def test_a_daemon_that_cannot_run_says_why(stage: Stage):
    """In one line for the session: a folder of another user, a full disk, a wrong configuration."""
    config = ["--config", str(stage.config({"toy": toy(stage)}))]
    with runtime_folder() as folder:
        full = start(stage, folder, config, before=["/bin/sh", "-c", 'ulimit -f 0; exec "$0" "$@"'])
        assert full.wait() != 0
        assert full.said.startswith("error ")
        wrong = start(stage, folder, ["--config", "/nonexistent/file.json"])
        assert wrong.wait() == 2
        assert wrong.said.startswith("config ")
        assert "/nonexistent/file.json" in wrong.said
        (folder / "file").write_text("")
        strange = start(stage, folder / "file", config)
        assert strange.wait() != 0
        assert "is not a folder" in strange.said
        if os.geteuid() == 0:
            other = folder / "other"
            other.mkdir(mode=0o700)
            os.chown(other, 65534, 65534)
            theirs = start(stage, other, config)
            assert theirs.wait() != 0
            assert "belongs to another user" in theirs.said


def test_a_signal_ends_it_and_its_servers(stage: Stage):
    """SIGHUP ends nothing; SIGTERM hands over, SIGINT is immediate."""
    with daemon(stage, {"toy": toy(stage)}) as running:
        session = running.join("one")
        session.wait_for_tools("sleep")
        running.process.send_signal(signal.SIGHUP)
        assert session.request("ping") == {}
        session.submit("sleep", {"seconds": 60})
        running.process.send_signal(signal.SIGINT)
        assert running.wait() is not None
        stage.assert_nothing_left()
