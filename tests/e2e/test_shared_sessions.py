"""Sessions of hosts that share a daemon, over its ends of every kind. Real processes only."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, RpcError, eventually, records, text_of
from tests.support.fake_daemon import FakeDaemon
from tests.support.restarting import INTERRUPTED
from tests.support.shared_sessions import SharedSessions, shared_sessions, starts
from tests.support.stage import Stage


@pytest.fixture
def house(stage: Stage) -> Iterator[SharedSessions]:
    with shared_sessions(stage) as house:
        yield house


def test_sessions_share_servers_and_futures(house: SharedSessions):
    """And end without ending what they share."""
    first = house.session()
    first.wait_for_tools("write")
    second = house.session()
    future = first.submit("write", {"label": "a"}).id
    first.close()
    assert "a" in text_of(second.outcome(future))
    assert len(house.stage.downstreams()) == 1
    assert house.runs() == {"a": 1}


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.daemons_long)])
def test_sessions_that_start_at_the_same_instant_get_one_daemon(house: SharedSessions, rounds: int):
    """However often: no two daemons, and no session that runs a bridge of its own."""
    for _ in range(rounds):
        users = starts(house, 6 if rounds < 10 else 2)
        daemon = house.daemon()
        for user in users:
            assert user.stderr() == ""
            user.request("ping")
            user.close()
        assert house.daemon().pid == daemon.pid
        house.stage.wires.clear()
        assert house.run("stop").code == 0


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_session_goes_on_when_the_daemon_is_killed(house: SharedSessions, era: str):
    """While nothing is under way: the host sees the same tools, and results of before are there."""
    user = house.session(era=era)
    tools = user.wait_for_tools("write", "append")
    future = user.submit("write", {"label": "a"}).id
    result = user.outcome(future)
    house.kill()
    assert user.outcome(future) == result
    assert user.wait_for_tools("write", "append").keys() == tools.keys()
    user.outcome(user.submit("write", {"label": "b"}).id)
    assert house.runs() == {"a": 1, "b": 1}


def test_a_wait_goes_on_over_the_end_of_a_daemon(house: SharedSessions):
    """With what the journal has: here, that the call may or may not have taken effect."""
    user = house.session()
    user.wait_for_tools("append")
    future = house.hold(user)
    pending = user.start_call("await_future", {"future_id": future, "timeout_s": 20})
    user.request("ping")  # the daemon has received the wait
    house.kill()
    assert INTERRUPTED in text_of(pending.result())
    assert house.runs() == {"held": 1}


def test_a_daemon_that_is_stopped_answers_first(house: SharedSessions):
    """What it has received; the session then goes on with another one."""
    user = house.session()
    user.wait_for_tools("append")
    gate = house.gate()
    future = house.hold(user, until=gate)
    pending = user.start_call("await_future", {"future_id": future, "timeout_s": 20})
    before = house.daemon().pid
    stopping = threading.Thread(target=house.run, args=("stop",))
    stopping.start()
    gate.touch()
    assert "asyncfc/futures" not in (pending.result().get("_meta") or {})
    stopping.join(PATIENCE)
    user.request("ping")
    assert house.daemon().pid != before


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.daemons_long)])
def test_no_call_is_made_twice(house: SharedSessions, kills: int):
    """Under load, with the daemon killed again and again: each call runs once, or the client was told that it may not
    have."""
    users = [house.session() for _ in range(2)]
    for user in users:
        user.wait_for_tools("write")
    made: dict[str, str] = {}
    stop = threading.Event()

    def work(number: int) -> None:
        user = users[number]
        count = 0
        while not stop.is_set():
            label = f"{number}-{count}"
            count += 1
            try:
                answer = user.call("write", {"label": label}, timeout=2 * PATIENCE)
            except RpcError as exc:
                made[label] = str(exc)
                continue
            known = (answer.get("_meta") or {}).get("asyncfc/futures")
            made[label] = records(answer)[0]["future_id"] if known else text_of(answer)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    dice = random.Random(7)
    try:
        for _ in range(kills):
            known = len(made)
            eventually(lambda known=known: len(made) > known + 5 + dice.randrange(20), "calls are made", seconds=60)
            house.kill()
    finally:
        stop.set()
    for worker in workers:
        worker.join(2 * PATIENCE)
        assert not worker.is_alive()
    runs = house.runs()
    assert max(runs.values()) == 1
    assert set(runs) <= set(made)


def test_a_program_that_does_not_run_is_not_insisted_on(house: SharedSessions):
    """A daemon that is replaced names the program of the next one; the session has its own as well."""
    daemon = FakeDaemon(["--config", str(house.config.resolve())], house.stage.env, str(house.stage.folder))
    user = house.session(opened=False)
    session = daemon.accept()
    session.control(draining={"program": ["/nowhere/asyncfc-mcp"]})
    assert session.read() == {"asyncfc": {"held": True}}
    daemon.finish(half_open=True)
    user.open().wait_for_tools("write")
    assert house.daemon().is_running()


def test_other_options_are_read_by_the_full_parser(house: SharedSessions):
    """Which has the session join the same daemon."""
    first = house.session()
    first.request("ping")
    user = house.start(command=[*house.command(), "--auth-token-env", "UNUSED"], ready=False)
    user.request("ping")
    status = json.loads(house.run("status", "--json").stdout)
    assert [len(each["sessions"]) for each in status] == [2]


def test_a_session_leaves_no_zombie(house: SharedSessions):
    """The daemon is nobody's child that has to be waited for."""
    user = house.session()
    process = psutil.Process(user.pid)
    assert process.children() == []
    house.kill()
    user.request("ping")
    assert process.children() == []


# --- no daemon ----------------------------------------------------------------------------------------------------


def unusable_folder(house: SharedSessions) -> None:
    shutil.rmtree(house.folder)
    house.folder.write_text("")


def long_folder(house: SharedSessions) -> None:
    house.stage.env["ASYNCFC_RUNTIME_DIR"] = str(house.folder / ("x" * 100))


def forbidden_folder(house: SharedSessions) -> None:
    house.stage.env["ASYNCFC_RUNTIME_DIR"] = "/proc/asyncfc"


def blocked_log(house: SharedSessions) -> None:
    logs = house.stage.folder / "other-logs"
    logs.write_text("")
    house.stage.env["ASYNCFC_LOG_DIR"] = str(logs)


@pytest.mark.parametrize("harm", [unusable_folder, long_folder, forbidden_folder, blocked_log])
def test_a_session_that_cannot_share_a_daemon_runs_a_bridge_of_its_own(house: SharedSessions, harm: object):
    """And says so in one line."""
    assert callable(harm)
    harm(house)
    user = house.session()
    user.wait_for_tools("write")
    user.outcome(user.submit("write", {"label": "a"}).id)
    lines = [line for line in user.stderr().splitlines() if "a bridge of its own" in line]
    assert len(lines) == 1
    user.close()
    if house.folder.is_file():
        house.folder.unlink()


@pytest.mark.parametrize("line", [b"", b"what?\n", b'{"asyncfc":{"protocol":2,"joined":{}}}\n'])
def test_a_daemon_of_another_kind_is_not_used(house: SharedSessions, line: bytes):
    """One that ends the connection is tried again; one that says something else is not."""
    daemon = FakeDaemon(["--config", str(house.config.resolve())], house.stage.env, str(house.stage.folder))
    user = house.session(opened=False)
    daemon.refuse(line)
    if line:
        assert user.open().wait_for_tools("write")
        assert "a bridge of its own" in user.stderr()
    else:
        session = daemon.accept()
        user.hang_up()
        assert session.line() == b""
    daemon.finish()


def test_a_wrong_configuration_is_reported_as_without_a_daemon(stage: Stage):
    """The same text, and the same exit code."""
    config = stage.folder / "wrong.json"
    config.write_text("{")
    folder = tempfile.mkdtemp(prefix="fc", dir="/tmp")
    shared = stage.run("serve", "--shared", "--config", str(config), env={"ASYNCFC_RUNTIME_DIR": folder})
    shutil.rmtree(folder)
    assert shared == stage.run("serve", "--config", str(config))
    assert shared.code == 2
    assert shared.stderr


def test_shared_is_for_standard_streams(stage: Stage):
    """An endpoint over HTTP is shared already."""
    ran = stage.run("serve", "--shared", "--transport", "http", "--config", "x.json")
    assert ran.code == 2
    assert "--shared needs stdio" in ran.stderr


# --- a real client ---------------------------------------------------------------------------------------------------

CLIENT = """
import anyio, json, os, signal, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    command, folder, label = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        for attempt in range(2):
            while "write" not in {tool.name for tool in (await session.list_tools()).tools}:
                await anyio.sleep(0.05)
            result = await session.call_tool("write", {"label": f"{label}{attempt}"})
            future = result.meta["asyncfc/futures"][0]["future_id"]
            print((await session.call_tool("await_future", {"future_id": future})).content[0].text)
            if not attempt:
                (file,) = [name for name in os.listdir(folder) if name.endswith(".json")]
                os.kill(json.load(open(os.path.join(folder, file)))["pid"], signal.SIGKILL)

anyio.run(main)
"""


def test_the_sdk_s_client_does_not_see_the_end_of_a_daemon(house: SharedSessions):
    """It initializes, lists, calls, and goes on after the daemon was killed in between."""
    words = [sys.executable, "-c", CLIENT, json.dumps(house.command()), str(house.folder), "sdk"]
    ran = house.stage.run_command(words, timeout=2 * PATIENCE)
    assert ran.code == 0, ran.stderr
    assert house.runs() == {"sdk0": 1, "sdk1": 1}


def test_doctor_shows_the_daemon(house: SharedSessions):
    """With its sessions, beside the folder of its socket."""
    user = house.session()
    user.wait_for_tools("write")
    home = Path(house.stage.folder / "home")
    home.mkdir()
    env = {"HOME": str(home)}
    ran = house.stage.run("doctor", "--config", str(house.config), "--json", env=env)
    findings = [each for section in json.loads(ran.stdout)["sections"] for each in section["findings"]]
    (found,) = [each for each in findings if each["subject"].startswith("daemon of ")]
    assert found["level"] == "ok"
    assert f"process {house.daemon().pid}" in found["text"]
    assert "1 session" in found["text"]
