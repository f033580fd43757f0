"""Every way in which a server, a client or the bridge itself can end: a clear outcome, and nothing left in `ps`.

Nothing here asserts that last part in so many words: the stage does, after each test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.client import Handle, Json, RpcError, canonical, eventually, records, text_of
from tests.support.process_servers import big_text
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

CLIENT_THAT_DIES = """
import json, os, subprocess, sys, time
command, messages, stdin, stdout = json.loads(sys.argv[1])
bridge = subprocess.Popen(command, stdin=subprocess.PIPE if stdin is None else stdin, stdout=stdout)
for message in messages if stdin is None else ():
    bridge.stdin.write((json.dumps(message) + "\\n").encode())
    bridge.stdin.flush()
time.sleep(3600)
"""


def children_of(wire: Wire) -> list[psutil.Process]:
    """The processes that the bridge has started itself."""
    return psutil.Process(wire.pid).children()


def difficult(stage: Stage) -> dict[str, Json]:
    """Downstreams that do not end by themselves."""
    return {
        "mild": stage.toy(),
        "parent": stage.toy("raw", "--spawn-child", "stubborn"),
        "stubborn": stage.toy("raw", "--ignore-stdin-eof", "--ignore-sigterm", "--spawn-child", "mild"),
        "modern": stage.toy("modern", "--spawn-child", "stubborn"),
    }


def busy_bridge(stage: Stage) -> Wire:
    """A bridge over difficult servers, with a call running on each."""
    servers = difficult(stage)
    bridge = stage.bridge(servers, drain_s=1)
    bridge.wait_for_tools(*[f"{name}__never" for name in servers])
    for name in servers:
        assert bridge.submit(f"{name}__never").status == "running"
    eventually(lambda: len(stage.downstreams()) == 4 + 3, "four servers and three grandchildren are up")
    return bridge


# --- downstreams that end ------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_fails_its_calls_and_is_restarted(stage: Stage) -> None:
    """kill -9 mid-call: every running future fails and says how it ended; the next call finds a new process."""
    bridge = stage.serve("--", *[stage.toy()["command"], *stage.toy()["args"]])
    bridge.wait_for_tools("counter")
    pid = bridge.outcome(bridge.submit("counter").id)["structuredContent"]["pid"]
    running = [bridge.submit("never").id, bridge.submit("sleep", {"seconds": 60}).id]
    waiting = bridge.start_call("gather", {"future_ids": running})
    os.kill(pid, signal.SIGKILL)
    for each in waiting.result()["structuredContent"]["results"]:
        assert each["status"] == "failed"
    for future in running:
        outcome = bridge.outcome(future)
        assert outcome["isError"] is True
        assert re.search(r"SIGKILL|signal 9|-9|137", text_of(outcome)), text_of(outcome)
    again = bridge.outcome(bridge.submit("counter").id)["structuredContent"]
    assert again["pid"] != pid
    assert again["count"] == 1
    eventually(
        lambda: not [each for each in children_of(bridge) if each.status() == psutil.STATUS_ZOMBIE],
        "no zombie hangs below the bridge",
    )


def test_a_server_that_crashes_leaves_its_exit_code_and_last_words(stage: Stage) -> None:
    """The failure names the exit code and quotes the end of stderr; the server's log file has it all."""
    bridge = stage.bridge({"toy": stage.toy("raw", "--stderr-spam", "500")})
    bridge.wait_for_tools("toy__crash")
    outcome = bridge.outcome(bridge.submit("toy__crash", {"code": 42}).id)
    assert outcome["isError"] is True
    assert "42" in text_of(outcome)
    assert "these are its last words" in text_of(outcome)
    assert "spam line 0:" not in text_of(outcome)
    logs = "".join(path.read_text() for path in (stage.folder / "logs").rglob("*") if path.is_file())
    assert "these are its last words" in logs
    assert "spam line 499:" in logs
    assert "these are its last words" not in bridge.stderr()
    (log,) = (stage.folder / "logs").rglob("toy.log")
    assert str(log) in text_of(outcome)
    assert f"starts {sys.executable}" in log.read_text()
    assert text_of(bridge.outcome(bridge.submit("toy__sleep", {"seconds": 0}).id)) == "slept 0"


def test_verbose_brings_the_servers_stderr_to_ours(stage: Stage) -> None:
    """`--verbose`: what a server says on stderr is on ours, and never on stdout."""
    toy = stage.toy("raw", "--stderr-spam", "3")
    bridge = stage.serve("--verbose", "--", toy["command"], *toy["args"])
    bridge.wait_for_tools("echo")
    eventually(lambda: "spam line 2:" in bridge.stderr(), "the server's stderr arrives")


def test_a_crash_fails_what_runs_on_that_server_and_nothing_else(stage: Stage) -> None:
    """Servers do not die of each other."""
    bridge = stage.bridge({"a": stage.toy(), "b": stage.toy()})
    bridge.wait_for_tools("a__crash", "b__sleep")
    survivor = bridge.submit("b__sleep", {"seconds": 1, "tag": "alive"})
    victim = bridge.submit("a__never")
    bridge.submit("a__crash")
    assert bridge.outcome(victim.id)["isError"] is True
    assert text_of(bridge.outcome(survivor.id)) == "slept 1 alive"


def test_a_grandchild_that_holds_the_pipe_does_not_hide_the_death_of_its_parent(stage: Stage) -> None:
    """A server behind a launcher (npx, uvx) dies, its own child keeps stdout open: the call fails all the same."""
    toy = stage.toy("raw", "--spawn-child", "stubborn")
    bridge = stage.serve("--", toy["command"], *toy["args"])
    bridge.wait_for_tools("crash")
    outcome = bridge.outcome(bridge.submit("crash", {"code": 57}).id)
    assert outcome["isError"] is True
    assert "57" in text_of(outcome)


# --- downstreams that misbehave ------------------------------------------------------------------------------------


def test_garbage_on_a_servers_stdout_is_survived(stage: Stage) -> None:
    """Banners, half messages and bytes that are no text: the call's own answer still counts, and so do the others'."""
    bridge = stage.bridge({"toy": stage.toy()})
    bridge.wait_for_tools("toy__garbage")
    beside = bridge.submit("toy__sleep", {"seconds": 0.5})
    outcomes = [bridge.outcome(bridge.submit("toy__garbage").id) for _ in range(2)]
    assert [text_of(outcome) for outcome in outcomes] == ["answered after garbage"] * 2
    assert text_of(bridge.outcome(beside.id)) == "slept 0.5"
    assert bridge.outcome(bridge.submit("toy__counter").id)["structuredContent"]["count"] == 1


def test_a_result_of_20_mb_arrives_whole(stage: Stage) -> None:
    """Big results cross unchanged, and do not hold up what runs beside them."""
    size = 20_000_000
    toy = stage.toy()
    bridge = stage.serve("--", toy["command"], *toy["args"])
    bridge.wait_for_tools("big")
    big = bridge.submit("big", {"n_bytes": size})
    beside = bridge.submit("sleep", {"seconds": 0.1})
    assert text_of(bridge.outcome(beside.id)) == "slept 0.1"
    result = bridge.outcome(big.id)
    assert canonical(result) == canonical({"content": [{"type": "text", "text": big_text(size)}]})


def test_a_tool_that_never_returns_times_out_and_is_cancelled_downstream(stage: Stage) -> None:
    """`timeout_s` on a tool: the future fails and says so, the downstream is told."""
    settings = {"prefix": "", "tools": {"never": {"timeout_s": 0.5}}}
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": settings}})
    bridge.wait_for_tools("never")
    outcome = bridge.outcome(bridge.submit("never").id)
    assert outcome["isError"] is True
    assert "0.5 s" in text_of(outcome)
    seen = bridge.outcome(bridge.submit("seen_cancellations").id)["structuredContent"]["seen"]
    assert [each["tool"] for each in seen] == ["never"]


def test_a_tool_that_never_returns_can_be_left_and_cancelled(stage: Stage) -> None:
    """Without a time-out a wait comes back with the status, other calls go on, and the future can be cancelled."""
    toy = stage.toy()
    bridge = stage.serve("--", toy["command"], *toy["args"])
    bridge.wait_for_tools("never")
    never = bridge.submit("never")
    assert Handle.of(bridge.await_future(never.id, timeout_s=0.2)).status == "running"
    assert text_of(bridge.outcome(bridge.submit("sleep", {"seconds": 0}).id)) == "slept 0"
    assert records(bridge.call("cancel_future", {"future_id": never.id}))[0]["status"] == "cancelled"


# --- downstreams that do not start ---------------------------------------------------------------------------------


def test_servers_that_cannot_start_delay_nobody_and_say_why(stage: Stage) -> None:
    """Missing, crashing, mute and listless servers: the others' tools are there at once, the reasons are to be read."""
    late = 20
    bridge = stage.bridge(
        {
            "good": stage.toy(),
            "missing": stage.entry("/nowhere/no-such-program"),
            "crashing": stage.toy("raw", "--crash-on-start"),
            "mute": stage.toy("raw", "--delay-start", "3600"),
            "listless": stage.toy("raw", "--never-list"),
            "slow": stage.toy("raw", "--delay-start", str(late)),
        },
        opened=False,
    )
    began = time.monotonic()
    bridge.open()
    tools = bridge.wait_for_tools("good__echo")
    assert not [name for name in tools if name.startswith(("missing", "crashing", "mute", "listless", "slow"))]
    assert text_of(bridge.outcome(bridge.submit("good__sleep", {"seconds": 0}).id)) == "slept 0"
    assert time.monotonic() - began < late, "somebody waited for the slow server"

    def reasons() -> str | None:
        said = text_of(bridge.call("list_futures"))
        return said if "missing" in said and "no such luck" in said else None

    said = eventually(reasons, "list_futures says why servers are absent")
    assert "/nowhere/no-such-program" in said or "No such file" in said or "not found" in said
    eventually(lambda: "crashing" in bridge.stderr() and "missing" in bridge.stderr(), "stderr says so too")
    with pytest.raises(RpcError, match=r"Unknown tool: missing__echo.*server missing are unknown.*no-such-program"):
        bridge.call("missing__echo")


def test_a_slow_server_appears_with_list_changed(stage: Stage) -> None:
    """A server that takes its time is announced when it is there."""
    gate = stage.folder / "gate"
    bridge = stage.bridge({"good": stage.toy(), "slow": stage.toy("raw", "--wait-for", str(gate))})
    assert "slow__echo" not in bridge.wait_for_tools("good__echo")
    before = len([each for each in bridge.notifications if each["method"] == "notifications/tools/list_changed"])
    gate.touch()
    bridge.notified("notifications/tools/list_changed", count=before + 1)
    bridge.wait_for_tools("slow__echo")
    assert text_of(bridge.outcome(bridge.submit("slow__sleep", {"seconds": 0}).id)) == "slept 0"


def test_a_server_that_failed_at_start_is_tried_again(stage: Stage) -> None:
    """Retried with back-off: once what it missed is there, its tools appear."""
    missing = stage.folder / "what-it-needs"
    bridge = stage.bridge({"good": stage.toy(), "shaky": stage.toy("raw", "--crash-unless", str(missing))})
    bridge.wait_for_tools("good__echo")
    eventually(lambda: "no such luck" in text_of(bridge.call("list_futures")), "its failure is reported")
    missing.touch()
    bridge.wait_for_tools("shaky__echo")
    assert bridge.notified("notifications/tools/list_changed")
    assert "no such luck" not in text_of(bridge.call("list_futures"))


def test_the_second_start_lists_tools_before_the_server_is_up(stage: Stage) -> None:
    """Fast start: known tools are listed from the cache; a call to one waits in its future until the server is up."""
    gate = stage.folder / "gate"
    gate.touch()
    servers = {"toy": stage.toy("raw", "--wait-for", str(gate))}
    first = stage.bridge(servers)
    listed = first.wait_for_tools("toy__echo")
    first.close()
    gate.unlink()
    second = stage.bridge(servers)
    assert canonical(second.tools()) == canonical(listed)
    handle = second.submit("toy__echo", {"text": "patience"})
    assert handle.status in ("waiting", "running")
    assert Handle.of(second.await_future(handle.id, timeout_s=0.2)).status in ("waiting", "running")
    gate.touch()
    assert "patience" in text_of(second.outcome(handle.id))


def test_tools_list_does_not_hang_on_a_server_that_never_answers(stage: Stage) -> None:
    """With nothing but a server that never lists, a client still gets our own tools, and soon."""
    bridges = [
        stage.serve("--", *[toy["command"], *toy["args"]], opened=False)
        for toy in (stage.toy("raw", "--never-list"), stage.toy("raw", "--delay-start", "3600"))
    ]
    for bridge in bridges:
        bridge.open()
        assert "await_future" in bridge.tools()


# --- the end of the bridge -----------------------------------------------------------------------------------------


def test_stdin_that_closes_mid_call_ends_everything(stage: Stage) -> None:
    """The client leaves in the middle of calls: the bridge ends well, and so does all that it started."""
    bridge = busy_bridge(stage)
    bridge.start_call("await_future", {"future_id": "f1"})
    bridge.hang_up()
    assert bridge.wait() == 0
    stage.assert_nothing_left()
    assert "Traceback" not in bridge.stderr()


def test_a_signal_ends_a_bridge_whose_output_is_a_file(stage: Stage) -> None:
    """stdout redirected to a file, stdin an open terminal or pipe: SIGTERM ends the bridge all the same."""
    command = stage.command("serve", "--config", str(stage.config({"toy": stage.toy()})))
    with (stage.folder / "stdout").open("wb") as sink:
        bridge = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sink, env=stage.env, cwd=stage.folder)
    stage.processes.append(bridge)
    with bridge:
        eventually(stage.downstreams, "the server is up")
        bridge.terminate()
        assert bridge.wait(15) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_mid_call_ends_everything(stage: Stage, number: signal.Signals) -> None:
    """SIGTERM or Ctrl-C in the middle of calls: an orderly end without a traceback."""
    bridge = busy_bridge(stage)
    os.kill(bridge.pid, number)
    assert bridge.wait() in (0, 128 + number, -number)
    stage.assert_nothing_left()
    assert "Traceback" not in bridge.stderr()


def test_a_hang_up_ends_a_bridge_without_a_file(stage: Stage) -> None:
    """A terminal that is closed ends it; with a file, that is read again."""
    bridge = stage.serve("--", *[stage.toy()["command"], *stage.toy()["args"]])
    bridge.wait_for_tools("never")
    bridge.submit("never")
    os.kill(bridge.pid, signal.SIGHUP)
    assert bridge.wait() in (0, 128 + signal.SIGHUP, -signal.SIGHUP)
    stage.assert_nothing_left()


def test_a_second_signal_does_not_leave_anything_either(stage: Stage) -> None:
    """An impatient user presses Ctrl-C twice."""
    bridge = busy_bridge(stage)
    os.kill(bridge.pid, signal.SIGINT)
    time.sleep(0.3)
    with contextlib.suppress(ProcessLookupError):
        os.kill(bridge.pid, signal.SIGINT)
    bridge.wait()
    stage.assert_nothing_left()


@pytest.mark.parametrize("stdin_stays_open", [False, True])
def test_a_client_that_is_killed_takes_everything_with_it(stage: Stage, stdin_stays_open: bool) -> None:
    """kill -9 of the client: the bridge notices, even where its stdin is held open and EOF never comes."""
    servers = difficult(stage)
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "doomed", "version": "1"}}
    messages: list[Json] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "mild__never", "arguments": {}}},
    ]
    command = stage.command("serve", "--config", str(stage.config(servers, drain_s=1)))
    its_stdin, our_end = os.pipe()
    answers, its_stdout = os.pipe()
    spec = [command, messages, its_stdin if stdin_stays_open else None, its_stdout]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT_THAT_DIES, json.dumps(spec)],
        stderr=subprocess.DEVNULL,
        env=stage.env,
        cwd=stage.folder,
        pass_fds=[its_stdin, its_stdout],
    )
    os.close(its_stdin)
    os.close(its_stdout)
    with client, os.fdopen(answers, "rb") as lines, os.fdopen(our_end, "wb", buffering=0) as stdin:
        for message in messages if stdin_stays_open else ():
            stdin.write((json.dumps(message) + "\n").encode())
        eventually(lambda: len(stage.downstreams()) == 4 + 3, "four servers and three grandchildren are up")
        assert any(json.loads(line).get("id") == 2 for line in lines), "the call is answered with its handle"
        client.kill()
        client.wait()
        stage.assert_nothing_left()


def test_a_bridge_that_is_killed_leaves_nothing(stage: Stage) -> None:
    """kill -9 of the bridge leaves it no chance to clean up, and even so nothing stays, however stubborn."""
    bridge = busy_bridge(stage)
    bridge.process.kill()
    bridge.wait()
    stage.assert_nothing_left()


def test_a_client_that_leaves_before_the_servers_are_up_leaves_nothing(stage: Stage) -> None:
    """The shortest connection of all: open and close, while servers are still starting."""
    servers = difficult(stage) | {"slow": stage.toy("raw", "--delay-start", "30"), "bad": stage.entry("/nowhere/no")}
    bridges = [stage.bridge(servers, opened=opened) for opened in (True, False)]
    for bridge in bridges:
        bridge.hang_up()
    assert [bridge.wait() for bridge in bridges] == [0, 0]


@pytest.mark.parametrize("terminate", [False, True])
def test_a_client_that_stops_reading_keeps_the_bridge_from_nothing(terminate: bool) -> None:
    """Answers stand half written in a full pipe; the bridge ends all the same, by its input's end or by a signal."""
    toy = [sys.executable, os.path.join(os.path.dirname(__file__), "..", "support", "process_servers.py"), "raw"]
    with subprocess.Popen(
        [sys.executable, "-m", "asyncfc_mcp", "serve", "--", *toy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bridge:
        assert bridge.stdin is not None
        client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        messages: list[Json] = [
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            # Together their answers are larger than any pipe.
            *({"jsonrpc": "2.0", "id": number, "method": "tools/list", "params": {}} for number in range(2, 402)),
        ]
        try:
            for message in messages:
                bridge.stdin.write(json.dumps(message).encode() + b"\n")
            bridge.stdin.flush()
            time.sleep(2)
            if terminate:
                bridge.send_signal(signal.SIGTERM)
            else:
                bridge.stdin.close()
            bridge.wait(30)
        finally:
            bridge.kill()
