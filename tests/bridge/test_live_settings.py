"""Settings that apply to new calls as soon as the configuration is reloaded."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import asyncfc_mcp
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.changes import AT_RESTART
from asyncfc_mcp.config.settings import AccessEntry, Settings
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.errors import TooManyFutures
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time

PACKAGE = Path(asyncfc_mcp.__file__).parent

IN_PARTS: dict[str, tuple[Any, Callable[[Bridge], object]]] = {
    "max_pending": (7, lambda bridge: bridge.engine._store._retention._max_pending),  # type: ignore[attr-defined]
    "max_result_bytes_total": (7, lambda bridge: bridge.engine._store._retention._max_bytes),  # type: ignore[attr-defined]
    "keep_s": (7.0, lambda bridge: bridge.engine._store._retention._keep_s),  # type: ignore[attr-defined]
    "unread_keep_s": (7.0, lambda bridge: bridge.engine._store._retention._unread_keep_s),  # type: ignore[attr-defined]
    "public_order_s": (7.0, lambda bridge: bridge.engine._scheduler._order_s),  # type: ignore[attr-defined]
    "forward_wait_ms": (7000.0, lambda bridge: bridge.engine._forward_references._name_wait_s * 1000),  # type: ignore[attr-defined]
    "question_timeout_s": (7.0, lambda bridge: bridge.engine._questions._timeout_s),  # type: ignore[attr-defined]
    "access": (
        {"*": AccessEntry(("none",))},
        lambda bridge: {"*": AccessEntry(("none",))} if not bridge.views.of(LOCAL_PRINCIPAL).touches("toy") else None,
    ),
}
"""Settings that parts of the bridge have copied: another value, and what returns the copy."""
READ_AT_USE = {
    "max_wait_s": "upstream/clients.py",
    "deliver": "upstream/handle_calls.py",
    "inline_bytes": "upstream/handle_calls.py",
    "max_result_bytes": "upstream/metatools.py",
    "tasks": "upstream/tools.py",
    "task_keep_s": "upstream/task_shapes.py",
    "drain_s": "transports/lifecycle.py",
    "max_sessions": "transports/http/sessions.py",
    "host_profiles": "upstream/clients.py",
    "reload": "bridge/bridge.py",
    "daemon_idle_s": "transports/local/daemon.py",
    "required_scopes": "transports/http/routes.py",
}
"""Settings that are looked up whenever they are needed, and where."""


def test_every_setting_has_a_place_here() -> None:
    """A new setting either needs a restart, or is proved to apply without one."""
    known = {each.name for each in fields(Settings)}
    assert known == AT_RESTART | IN_PARTS.keys() | READ_AT_USE.keys()


@pytest.mark.parametrize("name", IN_PARTS)
@on_virtual_time
async def test_a_part_that_has_a_copy_gets_the_new_value(name: str) -> None:
    """Without a restart."""
    value, copy = IN_PARTS[name]
    async with bridge_over(Toy()) as bridge:
        assert copy(bridge) != value
        await bridge.reload(replace(bridge.config, settings=replace(bridge.settings, **{name: value})))
        assert copy(bridge) == value


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("name", READ_AT_USE)
def test_a_setting_that_is_looked_up_is_not_copied(name: str) -> None:
    """No constructor reads it."""
    path = PACKAGE / READ_AT_USE[name]
    if not path.exists():
        pytest.skip("not on this branch")
    readers = [
        function.name
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == name
    ]
    assert readers
    if name != "reload":  # there it is read by a function that the constructor makes
        assert "__init__" not in readers


@on_virtual_time
async def test_bounds_apply_to_the_next_call() -> None:
    """One that was refused before the change is accepted after it."""
    toy = Toy()
    async with bridge_over(toy, max_pending=1) as bridge:
        route = bridge.directory.route("gate")
        first = await bridge.submitter.submit(route, {"name": "x"}, CallContext(LOCAL_PRINCIPAL.scope))
        with pytest.raises(TooManyFutures):
            await bridge.submitter.submit(route, {"name": "x"}, CallContext(LOCAL_PRINCIPAL.scope))
        await bridge.reload(replace(bridge.config, settings=replace(bridge.settings, max_pending=2)))
        second = await bridge.submitter.submit(route, {"name": "x"}, CallContext(LOCAL_PRINCIPAL.scope))
        toy.open("x")
        await bridge.engine.wait([first, second])
