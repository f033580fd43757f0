"""Instances of servers for the sessions of a daemon, with real server processes."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncfc_mcp.bridge.connected import Connected
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from tests.support.client import eventually, text_of
from tests.support.daemons import RunningDaemon
from tests.support.daemons import daemon as daemon_of
from tests.support.host_sessions import Daemon, Session, daemon
from tests.support.peers import npm_bin
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

pytestmark = pytest.mark.anyio
SERVER = str(Path(__file__).resolve().parents[1] / "support" / "session_server.py")
SYNC = Policy(mode="sync")
Json = dict[str, Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def server(*args: str, share: Any = "session", policy: Policy = SYNC, **spec: Any) -> ServerConfig:
    tools = {tool: {"mode": "future"} for tool in ("slow", "late")}
    command = StdioSpec(sys.executable, (SERVER, *args), **spec)
    return ServerConfig("s", command, prefix="", base=policy, tools=tools, share=share)


def config(*servers: ServerConfig, **settings: Any) -> BridgeConfig:
    return BridgeConfig(servers, Settings(**settings), source="test")


def environ(**more: str) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **more}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(check: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not check():  # noqa: ASYNC110 - processes are looked at
            await anyio.sleep(0.01)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    found = tmp_path / "one", tmp_path / "two"
    for folder in found:
        folder.mkdir()
    return found


def connected(made: Daemon) -> list[Connected]:
    callers = made.bridge._callers
    assert callers is not None
    return list(callers._callers.values())


async def both(a: Session, b: Session, tool: str, **arguments: Any) -> list[Any]:
    """Return what a tool returns to two sessions that call at the same time."""
    results: dict[str, Any] = {}

    async def call(session: Session) -> None:
        results[session.name] = await session.call(tool, **arguments)

    async with anyio.create_task_group() as tg:
        tg.start_soon(call, a)
        tg.start_soon(call, b)
    return [results[a.name], results[b.name]]


async def test_each_session_has_its_own_state_folder_environment_and_client(folders: tuple[Path, Path]):
    """And no value of one gets to the other: neither of its environment nor an answer of its user."""
    one, two = folders
    async with (
        daemon(config(server(env={"OWN": "1"}))) as made,
        made.session("a", one, environ(MARK="marker-a")) as a,
        made.session("b", two, environ(MARK="marker-b"), capabilities={}) as b,
    ):
        assert [await a.call("count"), await a.call("count"), await b.call("count")] == [1, 2, 1]
        of_a, of_b = await both(a, b, "where", names=["MARK", "OWN", "HOME"])
        assert of_a["cwd"] == str(one)
        assert of_b["cwd"] == str(two)
        assert of_a["env"] == {"MARK": "marker-a", "OWN": "1", "HOME": environ()["HOME"]}
        assert of_b["env"]["MARK"] == "marker-b"
        assert of_a["pid"] != of_b["pid"]
        # Roots are asked for without a call, and only where the session's own client has them.
        assert await a.call("asked") == [{"roots": [{"uri": one.as_uri(), "name": "a"}]}]
        assert await b.call("asked") == []
        assert b.questions == []
        await a.peer.notify("notifications/roots/list_changed", None)
        with anyio.fail_after(10):
            while len(await a.call("asked")) < 2:
                pass
        assert await b.call("asked") == []


async def test_a_question_goes_to_the_session_of_the_call(folders: tuple[Path, Path]):
    """Also where both call at the same time."""
    one, two = folders
    async with (
        daemon(config(server())) as made,
        made.session("a", one, environ()) as a,
        made.session("b", two, environ()) as b,
    ):
        answers = await both(a, b, "ask")
    assert [answer["content"]["name"] for answer in answers] == ["a", "b"]


async def test_instances_end_with_their_session_once_its_calls_have_ended(folders: tuple[Path, Path]):
    """Those of other sessions stay, with their state."""
    one, two = folders
    until_file = one / "go"
    calls = config(server())
    async with daemon(calls) as made, made.session("b", two, environ()) as b:
        async with made.session("a", one, environ()) as a:
            pid = (await a.call("where"))["pid"]
            await a.call("slow", until=str(until_file))
            assert await b.call("count") == 1
        assert is_running(pid)
        assert [each.session and each.session.ended for each in connected(made)] == [True, False]
        until_file.touch()
        await until(lambda: not is_running(pid))
        assert await b.call("count") == 2
        assert len(connected(made)) == 1


async def test_calls_of_two_sessions_are_not_in_order_but_their_files_are(folders: tuple[Path, Path]):
    """What a process keeps is apart; a file is the same for all."""
    one, two = folders
    write = server(policy=Policy(mode="sync", ordering="strict"))
    async with (
        daemon(config(write)) as made,
        made.session("a", one, environ()) as a,
        made.session("b", two, environ()) as b,
        anyio.create_task_group() as tg,
    ):
        go = one / "go"
        tg.start_soon(partial(a.call, "slow", until=str(go)))
        await until(lambda: len(made.bridge.engine.unfinished) == 1)
        assert await b.call("count") == 1, "it does not wait for the other session's call"
        go.touch()


async def test_a_server_turns_out_to_need_instances_at_its_first_start(folders: tuple[Path, Path], tmp_path: Path):
    """By what it lists, where nothing is known of it; from then on, and in the next run at once."""
    one, two = folders
    thinking = server("sequential-thinking-server", share="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "asyncfc_mcp.core.effect_profiles.EffectProfile.fits",
            lambda profile, definitions: int(profile.name == "sequential-thinking"),
        )
        async with daemon(config(thinking), cache=tmp_path / "cache") as made:
            async with made.session("a", one, environ()) as a, made.session("b", two, environ()) as b:
                assert [await a.call("count"), await a.call("count"), await b.call("count")] == [1, 2, 1]
                assert made.bridge.sessions is not None
                assert made.bridge.sessions.sharing["s"].per_session
                assert "s" not in made.bridge.downstreams
                assert "count" in await a.tools()
        async with daemon(config(thinking), cache=tmp_path / "cache") as made:
            assert made.bridge.sessions is not None
            assert made.bridge.sessions.is_per_session("s")
            async with made.session("a", one, environ()) as a:
                assert "count" in await a.tools()
                assert await a.call("count") == 1


async def test_a_shared_server_is_one_for_all_sessions(folders: tuple[Path, Path]):
    """And a session without servers of its own has no directory of its own."""
    one, two = folders
    async with (
        daemon(config(server(share="user"))) as made,
        made.session("a", one, environ()) as a,
        made.session("b", two, environ()) as b,
    ):
        assert [await a.call("count"), await b.call("count")] == [1, 2]
        assert made.bridge.sessions is not None
        assert not made.bridge.sessions.may_have_instances


async def test_logs_of_instances_have_names_that_are_used_again(folders: tuple[Path, Path], tmp_path: Path):
    """So that there are not more files than sessions at a time."""
    one, two = folders
    async with daemon(config(server()), logs=tmp_path / "logs") as made:
        for _ in range(2):
            async with made.session("a", one, environ()) as a, made.session("b", two, environ()) as b:
                await a.call("count")
                await b.call("count")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["s.session1.log", "s.session2.log"]


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_waiting_call_is_made_by_the_instance_of_the_session_that_comes_back(
    folders: tuple[Path, Path], tmp_path: Path, comes_back: bool, monkeypatch: pytest.MonkeyPatch
):
    """After a restart of the daemon; never by the instance of another session."""
    one, two = folders
    calls, files = config(server()), {"cache": tmp_path / "cache", "journal": tmp_path / "journal"}
    async with daemon(calls, **files) as made, made.session("a", one, environ()) as a:
        await a.call("slow", until=str(one / "go"), _as="first")
        await a.call("late", _after=["first"])
        first, second = (call.future for call in made.bridge.engine.unfinished)
        made.bridge.engine.hold_nowait()
        (one / "go").touch()
        await until(lambda: first.done)
        assert not second.done
    monkeypatch.setattr("asyncfc_mcp.bridge.caller_connections.RETURN_S", 60.0 if comes_back else 0.5)
    async with daemon(calls, **files) as made, made.session("b", two, environ()):
        (late,) = (call.future for call in made.bridge.engine.unfinished)
        if comes_back:
            async with made.session("a", one, environ()):
                await until(lambda: late.done)
                assert late.result is not None
                assert late.result["structuredContent"]["value"]["cwd"] == str(one)
        else:
            await until(lambda: late.done)
            assert late.failure is not None
            assert "has an instance for each session" in str(late.failure)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")
def test_two_sessions_think_apart(stage: Stage, npm_profiles: Path):
    """The real sequential thinking server over a real daemon: each session has its own history, and its process."""
    entry = stage.entry(npm_bin(npm_profiles, "mcp-server-sequential-thinking"), asyncfc={"prefix": "", "mode": "sync"})
    with daemon_of(stage, {"thinking": entry}) as running:
        a, b = (running.join(label, environ=dict(os.environ), cwd=str(stage.folder)) for label in "ab")
        for session in (a, b):
            session.wait_for_tools("sequentialthinking")
        lengths = [
            thought(session, number)["thoughtHistoryLength"] for session, number in ((a, 1), (a, 2), (b, 1), (a, 3))
        ]
        assert lengths == [1, 2, 1, 3]
        (server,) = running.command("status")["servers_of_sessions"]
        assert server == {
            "name": "thinking",
            "reason": "the history of thoughts (profile sequential-thinking)",
            "instances": {"ready": 2},
        }
        own = [{"name": "thinking", "status": "ready", "condition": "ready"}]
        assert [each["servers"] for each in running.command("status")["sessions"]] == [own, own]
        shown = stage.run("daemon", "status", env={"ASYNCFC_RUNTIME_DIR": str(running.folder)}).stdout
        assert shown.count("      thinking: ready") == 2
        b.kill()
        eventually(
            lambda: running.command("status")["servers_of_sessions"][0]["instances"] == {"ready": 1},
            "its instance ends",
        )
        assert thought(a, 4)["thoughtHistoryLength"] == 4


def instances(running: RunningDaemon) -> list[Json]:
    return [each["instances"] for each in running.command("status")["servers_of_sessions"]]


def thought(session: Wire, number: int) -> Json:
    arguments = {"thought": "t", "nextThoughtNeeded": True, "thoughtNumber": number, "totalThoughts": 9}
    return json.loads(text_of(session.call("sequentialthinking", arguments)))
