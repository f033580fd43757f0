"""Lookups before submission: calls keep their order however long each lookup takes, and nothing is forgotten."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.bridge.look_ups import LookUps
from asyncfc_mcp.core import references
from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity, Scope
from asyncfc_mcp.errors import TooManyReferences
from asyncfc_mcp.upstream.grace import is_under_way
from tests.support.inprocess_client import records, stage

pytestmark = pytest.mark.anyio


class Slow:
    """In place of an engine: each lookup takes as many steps as its first name says."""

    def announcing(self, *_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    async def look_up(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> None:
        for _ in range(int(refs[0])):
            await anyio.lowlevel.checkpoint()
        if refs[0] == "13":
            raise ValueError(refs[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio starts tasks in any order
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(0, 13), st.booleans()), max_size=12))
async def test_calls_proceed_in_the_order_in_which_they_were_received(calls: list[tuple[int | None, bool]]):
    """Those that look nothing up too; one that fails or is cancelled holds up no other."""
    look_ups = LookUps(cast("Any", Slow()))
    order: list[int] = []

    async def call(number: int, steps: int | None, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await look_ups.bring(LOCAL, [] if steps is None else [str(steps)], None)
            except ValueError:
                return
            order.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            for number, (steps, leaves) in enumerate(calls):
                scope = anyio.CancelScope()
                tg.start_soon(call, number, steps, scope)
                if leaves:
                    await anyio.lowlevel.checkpoint()
                    scope.cancel()
    assert order == sorted(order)
    kept = {n for n, (steps, leaves) in enumerate(calls) if not leaves and steps != 13}
    assert kept <= set(order)


PIECES = st.sampled_from(
    ["$a", "${f:a}", "${f:b", "${f:x[\"${f:c}\"]}", "length($a.x)", "$a.x | [?y == `1`]", "$$b", "$${f:c.d}",
     "add($b.x, $c.y)", "$f3", "{f:a}", " ", "text", "$", "${f:length($c)}", "$c[?", "$HOME", "$5", "}", "\"]"]
)  # fmt: skip
VALUES = st.recursive(
    st.lists(PIECES, max_size=4).map("".join)
    | st.sampled_from([None, 1, {"$future": "a"}, {"$future": "b", "path": "x"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "$future"]), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(VALUES, st.sets(st.sampled_from(["a", "b", "c", "f3"])))
def test_every_name_that_binding_may_ask_about_is_looked_up(arguments: Any, known: set[str]):
    """Whichever of them exist."""
    asked: list[str] = []

    def find(name: str) -> str | None:
        asked.append(name)
        return f"local/{name}" if name in known else None

    try:
        references.find(arguments, find)
    except TooManyReferences:
        pass
    assert set(asked) <= set(references.mentioned(arguments))


def test_what_is_too_much_to_read_does_not_take_long():
    """The search for names ends where that for references would."""
    assert len(references.mentioned({"a": "${f:a}" * 20_000})) == 1
    assert references.mentioned({"a": "$" + "x" * 65}) == []


@pytest.mark.parametrize("nowait", [True, False])
def test_a_call_is_under_way_before_it_starts_where_starting_takes_a_while(nowait: bool):
    """Unless it waits for something; grace is not for those."""
    waits: dict[str, tuple[str, ...]] = {"f1": (), "f2": ("f1",), "f3": ("capacity",), "f4": ()}
    engine = SimpleNamespace(submits_nowait=nowait, waiting_for=lambda future, limit: (waits[future.id], ""))
    futures = [Future(future_id, LOCAL, "t", "s") for future_id in waits]
    futures[3].apply(Event.START)
    found = [is_under_way(cast("Any", SimpleNamespace(engine=engine)), future) for future in futures]
    assert found == [not nowait, False, False, True]


async def test_an_engine_in_memory_pays_for_none_of_this(monkeypatch: pytest.MonkeyPatch):
    """Neither for the order nor for the search for names."""
    monkeypatch.setattr("asyncfc_mcp.bridge.submitting.LookUps.bring", None)
    monkeypatch.setattr("asyncfc_mcp.bridge.submitting.mentioned", None)
    async with stage() as it:
        await it.host.call("echo", {"text": "$HOME", "_as": "a"})
        answer = await it.host.call("echo", {"text": "$a", "_after": "f1", "_wait": "a"})
        assert records(answer) == [("f1", "completed"), ("f2", "completed")]
        assert await it.bridge.engine.problem() is None
