"""The bridge's side of effects: from settings and annotations to which calls of real tools wait for which."""

import json
from typing import Any

import pytest
from lab import Got, Toy, bridge_over, on_virtual_time, text_result

from asyncfc_mcp.bridge import Origin
from asyncfc_mcp.config_reader import parse_config
from asyncfc_mcp.futures import LOCAL, State
from asyncfc_mcp.scheduler import wait_for

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
        edit = bridge.submit_now(bridge.wiring("edit"), {"path": "a"}, Origin(LOCAL))
        assert edit is not None
        if not queued:
            await wait_for([edit])
        write = bridge.submit_now(bridge.wiring("write"), {"path": "b", "text": "B"}, Origin(LOCAL))
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
