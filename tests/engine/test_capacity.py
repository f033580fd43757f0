"""Places: limits of servers and tools, lines in order of submission, shares of callers that do not know each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.engine.capacity import SPARE, Capacity, Tool


@dataclass(eq=False)
class Call:
    """What stands in a line."""

    number: int
    party: object = None
    dropped: bool = False


NUMBERS: Iterator[int] = count(1)


def enter(capacity: Capacity[Call], tool: Tool[Call], party: object = None) -> tuple[Call, bool]:
    call = Call(next(NUMBERS), party)
    return call, capacity.enter(tool, party, call)


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2, 1), (4, 2), (200, 100), (None, 300)])
def test_one_caller_gets_its_share(limit: int | None, most: int):
    """A half, and one place at least; where there is no limit, there is nothing to share."""
    capacity = Capacity[Call]({"s": limit}, 0.5)
    tool = capacity.tool("s", "t")
    assert sum(enter(capacity, tool, "greedy")[1] for _ in range(300)) == most
    if limit != 1:
        assert capacity.enter(tool, "other", Call(next(NUMBERS))) is (limit is None)
        assert limit is None or capacity.next(tool) is not None


def test_where_callers_are_one_principal_one_may_have_all():
    """In order of submission."""
    capacity = Capacity[Call]({"s": 2}, 0.5)
    tool = capacity.tool("s", "t")
    assert [enter(capacity, tool)[1] for _ in range(4)] == [True, True, False, False]
    assert capacity.next(tool) is None
    capacity.leave(tool, None)
    first = capacity.next(tool)
    capacity.leave(tool, None)
    second = capacity.next(tool)
    assert first is not None
    assert second is not None
    assert first.number < second.number


def test_the_tools_limit_is_shared_as_well():
    """One caller's calls of a tool leave room for those of others, and other tools run."""
    capacity = Capacity[Call]({"s": None}, 0.5)
    tool, other = capacity.tool("s", "t", 4), capacity.tool("s", "u")
    assert [enter(capacity, tool, "a")[1] for _ in range(3)] == [True, True, False]
    late, came = enter(capacity, tool, "b")
    assert not came
    assert capacity.next(tool) is late
    assert enter(capacity, other, "a")[1] is False  # those that stand in line are looked at first
    assert capacity.next(other) is not None


def test_a_long_line_of_one_caller_is_not_before_the_others():
    """With one place, callers take turns."""
    capacity = Capacity[Call]({"s": 1}, 0.5)
    tool = capacity.tool("s", "t")
    for _ in range(50):
        enter(capacity, tool, "a")
    for party in ("b", "b", "c"):
        enter(capacity, tool, party)
    order: list[object] = []
    while True:
        capacity.leave(tool, order[-1] if order else "a")
        if (call := capacity.next(tool)) is None:
            break
        order.append(call.party)
    assert order[:5] == ["b", "c", "a", "b", "a"]
    assert len(order) == 52


def test_each_party_may_have_one_place_whatever_its_share():
    """Also with a share of nothing: a call that never starts would help nobody."""
    capacity = Capacity[Call]({"s": 3}, 0.0)
    tool = capacity.tool("s", "t")
    assert [enter(capacity, tool, party)[1] for party in "abca"] == [True, True, True, False]


def test_those_who_left_do_not_fill_a_line():
    """Calls that are cancelled while nothing moves."""
    capacity = Capacity[Call]({"s": 1}, 0.5)
    tool = capacity.tool("s", "t")
    enter(capacity, tool, "a")
    for _ in range(10_000):
        call, _ = enter(capacity, tool, "a")
        call.dropped = True
        capacity.lose(tool, "a")
    [queue] = tool.server.queues.values()
    assert len(queue.heap) <= 2 * SPARE + 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()), max_size=60))
def test_every_call_gets_a_place_in_time(calls: list[tuple[str, str, bool]]):
    """Whatever the tools, the callers and the calls that leave: no limit is passed, and nobody is left behind."""
    capacity = Capacity[Call]({"s": 3}, 0.5)
    tools = {name: capacity.tool("s", name, 2) for name in "ab"}
    running: list[tuple[Call, Tool[Call]]] = []
    waiting: dict[int, tuple[Call, Tool[Call]]] = {}
    for name, party, leaves in calls:
        call, came = enter(capacity, tools[name], party)
        if came:
            running.append((call, tools[name]))
        elif leaves:
            call.dropped = True
            capacity.lose(tools[name], party)
        else:
            waiting[call.number] = call, tools[name]
        while (found := capacity.next(tools[name])) is not None:
            running.append(waiting.pop(found.number))
        assert len(running) <= 3
        assert all(sum(tool is each for _, each in running) <= 2 for tool in tools.values())
    while running:
        call, tool = running.pop(0)
        capacity.leave(tool, call.party)
        while (found := capacity.next(tool)) is not None:
            running.append(waiting.pop(found.number))
    assert not waiting


def test_each_instance_of_a_server_has_its_limit():
    """The server's, and the tool's; nothing is left of an instance without calls."""
    capacity = Capacity[Call]({"s": 1}, 0.5)
    tools = {instance: capacity.tool("s", "t", instance=instance) for instance in (None, "a", "b")}
    assert [enter(capacity, tool)[1] for tool in tools.values()] == [True, True, True]
    assert [enter(capacity, tool)[1] for tool in tools.values()] == [False, False, False]
    assert capacity.tool("s", "t", instance="a") is tools["a"]
    capacity.leave(tools["a"], None)
    assert capacity.next(tools["a"]) is not None, "the call that waited for it"
    capacity.leave(tools["a"], None)
    assert capacity.next(tools["a"]) is None
    assert capacity.tool("s", "t", instance="a") is not tools["a"]
    assert capacity.tool("s", "t", instance="b") is tools["b"]
    capacity.configure({"s": 2}, lambda server, tool: None)
    assert capacity.next(tools["b"]) is not None
