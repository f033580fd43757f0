"""The tasks that scripted agents play: shapes of dependency, with latencies drawn from a distribution."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from benchmarks.simulate import Step, Task

FAST_S: Final = 0.012
"""Tools up to this many seconds count as quick: within the bridge's grace with room to spare."""
SIGMA: Final = 0.35
"""Of the logarithm of a latency."""

Draw = Callable[[], float]


def latencies(tool_s: float, seed: str) -> Draw:
    """Log-normal around `tool_s`, the same every time; a quick tool stays quick and a slow one slow."""
    generator = random.Random(f"{seed} {tool_s}")

    def draw() -> float:
        seconds = tool_s * generator.lognormvariate(0, SIGMA)
        return min(seconds, FAST_S) if tool_s <= FAST_S else min(max(seconds, 0.6 * tool_s), 2 * tool_s)

    return draw


def judged_chain(draw: Draw) -> Task:
    """Every call depends on what the model makes of the last result: nothing can overlap."""
    requests = tuple(
        (
            Step(f"a{n}", "read", draw(), cell="a"),
            Step(f"b{n}", "compute", draw(), uses=(f"a{n}",), sees=(f"a{n}",)),
            Step(f"c{n}", "compute", draw(), uses=(f"b{n}",), sees=(f"b{n}",)),
            Step(f"d{n}", "write", draw(), uses=(f"c{n}",), sees=(f"c{n}",), cell="a"),
        )
        for n in range(2)
    )
    return Task("judged chain", requests)


def chain(draw: Draw) -> Task:
    """Every call passes the last one's result on, unseen."""
    requests = tuple(
        (
            Step(f"a{n}", "read", draw(), cell="a"),
            Step(f"b{n}", "compute", draw(), uses=(f"a{n}",)),
            Step(f"c{n}", "compute", draw(), uses=(f"b{n}",)),
            Step(f"d{n}", "write", draw(), uses=(f"c{n}",), cell="a"),
        )
        for n in range(2)
    )
    return Task("chain", requests)


def fan_out(draw: Draw) -> Task:
    """Five calls that have nothing to do with each other, and one that joins them."""
    requests: list[tuple[Step, ...]] = []
    for n in range(2):
        leaves = tuple(Step(f"{leaf}{n}", "read", draw(), cell=leaf) for leaf in "abcde")
        join = Step(f"join{n}", "compute", draw(), uses=tuple(leaf.name for leaf in leaves))
        requests.append((*leaves, join))
    return Task("fan-out", tuple(requests))


def mixed(draw: Draw) -> Task:
    """Reads and writes of shared cells, values passed on, one decision in the middle."""
    requests = tuple(
        (
            Step(f"a{n}", "read", draw(), cell="a"),
            Step(f"b{n}", "read", draw(), cell="b"),
            Step(f"c{n}", "compute", draw(), uses=(f"a{n}", f"b{n}")),
            Step(f"d{n}", "write", draw(), uses=(f"c{n}",), cell="a"),
            Step(f"e{n}", "write", draw(), uses=(f"b{n}",), cell="a"),
            Step(f"f{n}", "read", draw(), sees=(f"c{n}",), cell="a"),
            Step(f"g{n}", "compute", draw(), uses=(f"f{n}", f"c{n}")),
        )
        for n in range(2)
    )
    return Task("mixed DAG with writes", requests)


def speculative(draw: Draw) -> Task:
    """Lookups of which a later call takes one item: the agent guesses the first; one guess of four is wrong."""
    requests: list[tuple[Step, ...]] = []
    for n in range(2):
        steps: list[Step] = []
        for m in range(2):
            tag = f"{n}{m}"
            steps += (
                Step(f"look{tag}", "lookup", draw()),
                Step(f"take{tag}", "compute", draw(), picks=f"look{tag}", index=int(tag == "11")),
                Step(f"sum{tag}", "compute", draw(), uses=(f"take{tag}",)),
            )
        requests.append(tuple(steps))
    return Task("speculative references", tuple(requests))


def choice(draw: Draw) -> Task:
    """Lookups of which the cheapest item is taken, or the prices are added up; another call joins what came of it."""
    requests = tuple(
        (
            Step(f"look{n}", "lookup", draw()),
            Step(f"other{n}", "lookup", draw()),
            Step(f"book{n}", "compute", draw(), picks=f"look{n}", rule="cheapest"),
            Step(f"sum{n}", "compute", draw(), picks=f"other{n}", rule="total"),
            Step(f"report{n}", "write", draw(), uses=(f"book{n}", f"sum{n}"), cell="report"),
        )
        for n in range(2)
    )
    return Task("choice and sum", requests)


def sequence(draw: Draw) -> Task:
    """Calls that must follow others without taking their values, which no declared state tells."""
    requests = tuple(
        (
            Step(f"doors{n}", "write", draw(), cell="doors"),
            Step(f"fuel{n}", "write", draw(), cell="fuel"),
            Step(f"engine{n}", "write", draw(), after=(f"doors{n}", f"fuel{n}"), cell="engine"),
            Step(f"news{n}", "write", draw(), after=(f"engine{n}",), cell="news"),
        )
        for n in range(2)
    )
    return Task("order without values", requests)


SHAPES: Final = {
    "judged chain": judged_chain,
    "chain": chain,
    "fan-out": fan_out,
    "mixed DAG with writes": mixed,
    "speculative references": speculative,
    "choice and sum": choice,
    "order without values": sequence,
}


def task(shape: str, tool_s: float) -> Task:
    """The task of a shape whose tools take about `tool_s`."""
    return SHAPES[shape](latencies(tool_s, shape))
