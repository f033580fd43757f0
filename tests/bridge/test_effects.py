"""The bridge's side of effects: from settings and annotations to which calls of real tools wait for which."""

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.cli import inspect
from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.overrides import ArgumentOverride, ToolOverride
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.call import CallContext, Submission
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import ConfigError
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time

# --- failures --------------------------------------------------------------------------------------------------------


def files_by_annotation() -> tuple[Toy, dict[str, str]]:
    """A server whose tools say by annotation only that they write: state is the whole server."""
    toy, state = Toy(), dict[str, str]()

    async def edit(got: Got) -> dict[str, Any]:
        return text_result("no match", isError=True)

    async def write(got: Got) -> dict[str, Any]:
        state[got.arguments["path"]] = got.arguments["text"]
        return text_result("written")

    for tool in (edit, write):
        toy.add(tool.__name__, tool, annotations={"readOnlyHint": False, "destructiveHint": True})
    return toy, state


@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("policy", [{}, {"on_failure": "stop"}])
@on_virtual_time
async def test_a_failure_does_not_cancel_the_write_of_another_file(policy: dict[str, Any], queued: bool):
    """A host that makes the same calls directly runs both; it does not depend on whether the first had failed before
    the second was submitted, nor on a setting that is for declared state."""
    toy, state = files_by_annotation()
    async with bridge_over(toy, policy=policy) as bridge:
        edit = bridge.submitter.submit_nowait(bridge.directory.route("edit"), {"path": "a"}, CallContext(LOCAL))
        assert edit is not None
        if not queued:
            await wait_for([edit])
        write = bridge.submitter.submit_nowait(
            bridge.directory.route("write"), {"path": "b", "text": "B"}, CallContext(LOCAL)
        )
        assert write is not None
        await wait_for([edit, write])
        assert (edit.state, write.state) == (State.FAILED, State.COMPLETED)
    assert state == {"b": "B"}


@pytest.mark.parametrize(
    ("server", "top", "where"),
    [
        ({"on_failure": "stop"}, {}, ["mcpServers.s.asyncfc.on_failure"]),
        ({"tools": {"w": {"on_failure": "stop"}}}, {}, ["mcpServers.s.asyncfc.tools.w.on_failure"]),
        (
            {"tools": {"w": {"on_failure": "stop"}, "r": {"reads": ["a"]}}},
            {},
            ["mcpServers.s.asyncfc.tools.w.on_failure"],
        ),
        ({}, {"on_failure": "stop"}, ["asyncfc.on_failure"]),
        ({"on_failure": "stop", "tools": {"w": {"writes": ["a"]}}}, {}, []),
        ({"on_failure": "stop", "writes": ["a"]}, {}, []),
        ({"writes": ["a"], "tools": {"w": {"on_failure": "stop"}}}, {}, []),
        ({"tools": {"w": {"writes": ["a"]}}}, {"on_failure": "stop"}, []),
        ({"on_failure": "continue"}, {}, []),
    ],
)
def test_fail_stop_without_declared_state_is_warned_of(server: dict[str, Any], top: dict[str, Any], where: list[str]):
    """It has no effect there, and a setting that is silently ignored is worse than none."""
    text = json.dumps({"mcpServers": {"s": {"command": "x", "asyncfc": server}}, "asyncfc": top})
    warnings = parse_config(text, "mcp.json", {}).warnings
    assert [warning.split(": ")[1] for warning in warnings] == where
    assert all('no "reads" or "writes"' in warning for warning in warnings)


# --- common state ----------------------------------------------------------------------------------------------------


def server_with(**asyncfc: Any) -> ServerConfig:
    text = json.dumps({"mcpServers": {"s": {"command": "x", "cwd": "/srv", "asyncfc": asyncfc}}})
    return parse_config(text, "mcp.json", {"DATA": "/data"}).servers[0]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("workspace", "workspace"),
        ("/workspace/", "workspace"),
        ("team//a/./b", "team/a/b"),
        ("files:/data/x/../y/", "files:/data/y"),
        ("files:sub", "files:/srv/sub"),
        ("files:.", "files:/srv"),
        ("files:${DATA}/x", "files:/data/x"),
        ("file:///data/a%20b", "files:/data/a b"),
        ("files:~/x", f"files:{Path.home()}/x"),
        ("files:${workspaceFolder}", f"files:{Path.cwd()}"),
    ],
)
def test_state_is_a_name_or_a_folder(written: str, read: str):
    """Variables, `~` and the server's working directory work as they do in its entry."""
    assert server_with(state=written).state == read


@pytest.mark.parametrize("wrong", ["", "/", "..", "a/../..", "files:", "{path}", 7, None, ["a"]])
def test_a_state_that_is_neither_is_refused(wrong: object):
    """In one line that names the place."""
    with pytest.raises(ConfigError, match=r"mcpServers\.s\.asyncfc\.state: found"):
        server_with(state=wrong)


def test_a_folder_that_is_written_as_a_name_is_warned_of(tmp_path: Path):
    """It is taken as a name, and files below it would not be ordered with it."""
    text = json.dumps({"mcpServers": {"s": {"command": "x", "asyncfc": {"state": str(tmp_path)}}}})
    (warning,) = parse_config(text, "mcp.json", {}).warnings
    assert f'"files:{tmp_path}"' in warning


@pytest.mark.parametrize(
    ("top", "server", "tool", "silent"),
    [
        ({}, {}, {}, "strict"),
        ({"ordering": "declared"}, {}, {}, "strict"),
        ({"ordering": "none"}, {}, {}, "none"),
        ({}, {"ordering": "declared"}, {}, "declared"),
        ({}, {"ordering": "none"}, {}, "none"),
        ({}, {}, {"ordering": "declared"}, "declared"),
    ],
)
def test_a_silent_tool_of_a_server_with_common_state_counts_as_a_write(
    top: dict[str, Any], server: dict[str, Any], tool: dict[str, Any], silent: str
):
    """The setting says that the server touches that state; `ordering`, said as near or nearer, wins."""
    own = {"state": "workspace", **server, "tools": {"t": tool}}
    text = json.dumps({"mcpServers": {"s": {"command": "x", "asyncfc": own}}, "asyncfc": top})
    assert parse_config(text, "mcp.json", {}).servers[0].policy("t").ordering == silent


@on_virtual_time
async def test_what_one_server_writes_is_read_by_another_behind_it():
    """Annotations keep their meaning; only the root is another."""
    writer, reader, state = Toy("writer"), Toy("reader"), [""]
    writer.listing.clear()
    reader.listing.clear()

    async def change(got: Got) -> dict[str, Any]:
        await anyio.sleep(5)
        state[0] = got.arguments["text"]
        return text_result("changed")

    async def look(got: Got) -> dict[str, Any]:
        return text_result(state[0])

    writer.add("change", change)  # says nothing
    reader.add("look", look, annotations={"readOnlyHint": True})
    for own, seen in (({}, ""), ({"state": "workspace", "base": Policy(ordering="strict")}, "new")):
        state[0] = ""
        async with bridge_over(writer, reader, server=own) as bridge:
            calls = [
                bridge.submitter.submit_nowait(bridge.directory.route(tool), {"text": "new"}, CallContext(LOCAL))
                for tool in ("change", "look")
            ]
            await wait_for([call for call in calls if call is not None])
            assert calls[1] is not None
            assert (calls[1].result or {})["content"][0]["text"] == seen


@on_virtual_time
async def test_calls_without_a_file_ask_no_file_system(monkeypatch: pytest.MonkeyPatch):
    """The fast path: effects that no argument decides are made once, other paths are text."""
    asked: list[str] = []
    monkeypatch.setattr(os, "readlink", lambda path: asked.append(path) or "")
    toy = Toy()
    async with bridge_over(toy, server={"tools": {"echo": {"writes": ("x/{path}",)}}}) as bridge:
        for tool in ("echo", "fail"):
            call = bridge.submitter.submit_nowait(bridge.directory.route(tool), {"path": "/etc/x"}, CallContext(LOCAL))
            assert call is not None
            await wait_for([call])
        assert bridge.directory.route("fail").fixed_effect is not None
    assert not asked


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "settings", "seen"),
    [
        ("browser_wait_for", {}, {}, "after"),
        ("settle", {"description": "Waits for the page."}, {}, "after"),
        ("browser_wait_for", {}, {"state": "workspace"}, "after"),
        ("get_wait_times", {}, {}, "before"),
        ("browser_wait_for", {}, {"tools": {"browser_wait_for": {"reads": ("page",)}}}, "before"),
        ("browser_wait_for", {}, {"base": Policy(ordering="none")}, "before"),
    ],
)
@on_virtual_time
async def test_a_read_behind_a_wait_sees_what_was_waited_for(
    name: str, more: dict[str, Any], settings: dict[str, Any], seen: str
):
    """A tool that waits is read-only by its annotation; the configuration has the last word."""
    toy, page = Toy(), ["before"]
    toy.listing.clear()

    async def wait(got: Got) -> dict[str, Any]:
        await anyio.sleep(5)
        page[0] = "after"
        return text_result("here")

    async def snapshot(got: Got) -> dict[str, Any]:
        return text_result(page[0])

    toy.add(name, wait, annotations={"readOnlyHint": True}, **more)
    toy.add("snapshot", snapshot, annotations={"readOnlyHint": True})
    async with bridge_over(toy, server=settings) as bridge:
        calls = [
            bridge.submitter.submit_nowait(bridge.directory.route(tool), {}, CallContext(LOCAL))
            for tool in (name, "snapshot")
        ]
        await wait_for([call for call in calls if call is not None])
        assert calls[1] is not None
        assert (calls[1].result or {})["content"][0]["text"] == seen
        if seen == "after":
            (tool,) = (each for each in inspect.report(bridge)["tools"] if each["name"] == name)
            root = "/workspace" if settings else "toy"
            assert tool["effect"] == f"takes turns with all of {root}"
            assert tool["effect_from"].endswith("says that it waits")


# --- records ---------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-0123456789"


@pytest.mark.parametrize(
    ("paths", "recorded"),
    [
        (("account/{token}/{id}",), (("toy", "account"),)),
        (("account/{id}/{token}",), (("toy", "account", "7"),)),
        (("account/{id}", "of/{token?}"), (("toy", "account", "7"), ("toy", "of"))),
        (("{region}/{id}",), (("toy",),)),
        (("account/{id}",), (("toy", "account", "7"),)),
    ],
)
@on_virtual_time
async def test_records_have_no_path_with_a_value_of_the_configuration(paths: tuple[str, ...], recorded: object):
    """Some of them are secrets: the path above stands for it, so that the order of a record is never less."""
    toy = Toy()
    properties = {key: {"type": "string"} for key in ("id", "token", "region")}
    toy.add("use", toy._echo, schema={"type": "object", "properties": properties})
    hidden = ArgumentOverride(SECRET, hidden=True, secret=True)
    override = ToolOverride(arguments={"token": hidden, "region": ArgumentOverride("eu")})
    server = {"overrides": {"use": override}, "tools": {"use": {"writes": paths}}}
    async with bridge_over(toy, server=server) as bridge:
        submitted: list[Submission] = []
        submit = bridge.engine.submit_nowait

        def note(submission: Submission) -> Future | None:
            submitted.append(submission)
            return submit(submission)

        with patch.object(bridge.engine, "submit_nowait", note):
            bridge.submitter.submit_nowait(
                bridge.directory.route("use"), {"id": "7", "token": "mine"}, CallContext(LOCAL)
            )
    (submission,) = submitted
    assert submission.recorded_effect is not None
    assert submission.recorded_effect.writes == recorded
    assert submission.recorded_effect.source == submission.effect.source
    assert SECRET not in str((submission.recorded_effect, submission.arguments))
    for path in submission.effect.writes:
        assert any(path[: len(above)] == above for above in submission.recorded_effect.writes), path
