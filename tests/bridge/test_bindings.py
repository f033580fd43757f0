"""Bindings: which futures the references in arguments mean, and when a reference is refused.

Over every engine. How references look in text is `core/test_references.py`'s.
"""

from typing import Any

import pytest

from asyncfc_mcp.bridge.bindings import NO_BINDINGS, Bindings, bind
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, CallerIdentity, Scope
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.errors import AmbiguousName, ForeignName, InvalidName, NameInUse, StaleReference, UnknownName
from tests.support.engines import ENGINES, Bench, bench_over
from tests.support.server_states import own_state
from tests.support.virtual_time import on_virtual_time

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine", sorted(ENGINES))]


def route(*, read_only: bool = False, **policy: Any) -> ToolRoute:
    raw = {"name": "t", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": read_only}}
    return ToolRoute.of(ToolEntry("s__t", "s", "t", raw, raw, Policy(**policy)), own_state("s"))


def bound(it: Bench, arguments: Any, *, tool: ToolRoute | None = None, waited: bool = False, **more: Any) -> Bindings:
    settings = Settings(forward_wait_ms=more.pop("forward_wait_ms", 50))
    context = CallContext(more.pop("scope", LOCAL), **more)
    return bind(it.engine, settings, tool or route(), arguments, context, waited=waited)


async def test_references_mean_the_futures_of_the_moment(engine: str):
    """By ID and by name; the values of escaped ones are not taken."""
    async with bench_over(ENGINES[engine]) as it:
        one, two = await it.submit(), await it.submit(name="n")
        found = bound(it, {"a": "$f1", "b": ["$n.x"], "c": "in ${f:n} text", "d": "$$f1", "e": "$HOME"})
        assert found.keys["f1"] == one.key
        assert found.keys["n"] == two.key
        assert found.value_dependencies == {"f1": one.key, "n": two.key}
        assert found.missing == ("HOME",)
        escaped = bound(it, {"d": "$$f1"})
        assert not escaped.value_dependencies
        assert bound(it, {"a": "text"}) is NO_BINDINGS
        assert bound(it, None) is bound(it, {}) is NO_BINDINGS


@pytest.mark.parametrize(
    ("references", "read_only", "refers"),
    [("all", False, True), ("read-only", True, True), ("read-only", False, False), ("off", True, False)],
)
async def test_a_tools_policy_says_whether_its_arguments_refer(
    engine: str, references: str, read_only: bool, refers: bool
):
    """Else the text is the server's, whatever it looks like."""
    async with bench_over(ENGINES[engine]) as it:
        await it.submit()
        tool = route(read_only=read_only, references=references)
        assert bool(bound(it, {"a": "$f1"}, tool=tool).keys) is refers


async def test_a_reference_that_is_written_wrongly_waits_for_no_value(engine: str):
    """The call fails whatever the futures give, so it fails at once."""
    async with bench_over(ENGINES[engine]) as it:
        await it.submit(name="n")
        found = bound(it, {"a": "$n.items[?a = 1]", "b": "$f1.x"})
        assert set(found.keys) == {"n", "f1"}
        assert not found.value_dependencies
        found = bound(it, {"a": "add($n.x, $f1.y)", "b": "${f:n | length(@)}"})
        assert set(found.value_dependencies) == {"n", "f1"}


async def test_names_are_waited_for_where_they_can_be_given(engine: str):
    """Not without names, without a time to wait, or without authentication."""
    async with bench_over(ENGINES[engine]) as it:
        later = {"a": "$LATER", "b": "and ${f:also}", "c": ["$third.x"]}
        found = bound(it, later)
        assert set(found.missing) == {"LATER", "also"}
        assert found.required == ("third",)
        assert bound(it, later, tool=route(names=False)) == Bindings({})
        for more in ({"forward_wait_ms": 0}, {"scope": PUBLIC}, {"waited": True}):
            with pytest.raises(UnknownName, match=r"\$third\.x"):
                bound(it, later, **more)
            text = {"a": "$LATER", "b": "and ${f:also}"}
            assert bound(it, text, **more) == Bindings({})


async def test_another_callers_name_is_first_waited_for_and_then_refused(engine: str):
    """The call that gives it here may be on its way. After that it is not this caller's, unless its session is over."""
    mine, other, third = CallerIdentity(), CallerIdentity(), CallerIdentity()
    async with bench_over(ENGINES[engine]) as it:
        theirs = await it.submit(name="n", namer=other)
        assert bound(it, {"a": "$n"}, namer=mine).required == ("n",)
        assert bound(it, None, namer=mine, after=("n",)).required == ("n",)
        with pytest.raises(ForeignName):
            bound(it, {"a": "$n"}, namer=mine, waited=True)
        with pytest.raises(ForeignName):
            bound(it, None, namer=mine, after=("n",), waited=True)
        assert not bound(it, {"a": "$$n"}, namer=mine, waited=True).value_dependencies
        other.ended = True
        assert bound(it, {"a": "$n"}, namer=mine, waited=True).keys == {"n": theirs.key}
        third.ended = True
        await it.submit(name="n", namer=third)
        with pytest.raises(AmbiguousName):
            bound(it, {"a": "$n"}, namer=mine, waited=True)


async def test_another_scope_has_no_futures_here(engine: str):
    """Its IDs and names are unknown."""
    async with bench_over(ENGINES[engine]) as it:
        await it.submit(name="n")
        for arguments in ({"a": "$f1"}, {"b": "$n"}):
            with pytest.raises(UnknownName):
                bound(it, arguments, scope=Scope("bob"), waited=True)
        for ref in ("f1", "n"):
            with pytest.raises(UnknownName):
                bound(it, None, scope=Scope("bob"), after=(ref,), waited=True)
        found = bound(it, {"a": "in ${f:f1}", "b": "in ${f:n}"}, scope=Scope("bob"), waited=True)
        assert not found.keys


@pytest.mark.parametrize("name", ["a b", "f1", "all"])
async def test_a_name_is_checked_before_anything_waits(engine: str, name: str):
    """It could not be referred to, or is in use."""
    async with bench_over(ENGINES[engine]) as it:
        await it.submit(name="n")
        with pytest.raises(InvalidName):
            bound(it, None, name=name)
        with pytest.raises(NameInUse):
            bound(it, {"a": "$later"}, name="n")


@on_virtual_time
async def test_the_literal_text_is_not_sent_in_place_of_a_result_that_is_gone(engine: str):
    """An ID that was given and is dropped refuses the call, with its fate; escaped it is text."""
    async with bench_over(ENGINES[engine], keep_s=0) as it:
        future = await it.submit()
        await it.end(future)
        it.engine.mark_read(future)
        await it.submit()
        if it.outlives_memory:
            assert bound(it, {"a": "$f1"}).value_dependencies == {"f1": future.key}
            return
        with pytest.raises(StaleReference, match="f1"):
            bound(it, {"a": "$f1"})
        assert not bound(it, {"a": "$$f1"}).value_dependencies
        with pytest.raises(UnknownName, match="f1, which _after names, was read long ago"):
            bound(it, None, after=("f1",))
        with pytest.raises(UnknownName, match="f99"):
            bound(it, {"a": "$f99"})
        assert bound(it, {"a": "$$f99"}).arguments == {"a": "$f99"}
