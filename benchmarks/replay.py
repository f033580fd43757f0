"""Scripted agents over real processes: how near to the ideal schedule they come, and what each help is worth."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import anyio
import anyio.lowlevel

from benchmarks.harness import PATIENCE_S, Json, Options, Peer, Workshop, server_command, stdio, workshop
from benchmarks.report import Figure, Section, Spread, Table, at_least, at_most
from benchmarks.servers import FAST
from benchmarks.simulate import (
    ADDED,
    BARE,
    BRIDGE,
    LEFT_OUT,
    PARALLEL,
    SYNC,
    Agent,
    Planned,
    Schedule,
    Task,
    Way,
    bound,
    simulate,
)
from benchmarks.tasks import FAST_S, SHAPES, task

AGENT: Final = "asyncfc-scripted-agent"
TURNS_S: Final = (0.2, 0.4, 0.8)
TOOLS_S: Final = (0.005, 0.05, 0.2, 0.8)
ABLATED_TURN_S: Final = 0.4
"""The turn for which the ways without one of the helps are really run; for the others they are simulated."""
SPIN_S: Final = 0.002
"""Event loops wake up to a millisecond late: the end of a model's turn is waited for awake."""
EFFECTS: Final[Mapping[str, Json]] = {
    prefix + kind: effect
    for prefix in ("", FAST)
    for kind, effect in {
        "read": {"reads": ["cells/{ns}/{cell}"], "writes": []},
        "write": {"reads": [], "writes": ["cells/{ns}/{cell}"]},
        "compute": {"reads": [], "writes": []},
        "lookup": {"reads": [], "writes": []},
    }.items()
} | {"report": {"reads": [], "writes": []}}


@dataclass(frozen=True)
class Job:
    """One run of one agent."""

    shape: str
    turn_s: float
    tool_s: float
    way: Way

    @property
    def cell(self) -> tuple[str, float, float]:
        """What it shares with the same task done in another way."""
        return self.shape, self.turn_s, self.tool_s


@dataclass(frozen=True)
class Played:
    """How a run went, and how it would have gone without any overhead."""

    job: Job
    seconds: float
    turns: int
    ideal: Schedule
    outcome: Json
    """Every step's value and the final state: what must not depend on the way of calling."""

    @property
    def share(self) -> float:
        """Of the ideal schedule."""
        return self.ideal.seconds / self.seconds


async def decode(seconds: float) -> None:
    """The model's turn."""
    end = time.perf_counter() + seconds
    await anyio.sleep(max(0.0, seconds - SPIN_S))
    while time.perf_counter() < end:
        await anyio.lowlevel.checkpoint()


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A scripted agent at work."""

    job: Job
    peer: Peer
    number: int
    values: dict[str, Json] = field(default_factory=dict[str, Json])
    """Structured content by step, of its last attempt."""

    def __post_init__(self) -> None:
        self.task: Task = task(self.job.shape, self.job.tool_s)
        self.agent = Agent(self.task, self.job.way)
        self.ns = f"run{self.number}"
        self._fast = FAST if self.job.tool_s <= FAST_S else ""

    async def play(self) -> float:
        """Work through the task; its wall time in seconds."""
        began = time.perf_counter()
        while (move := self.agent.decide()) is not None:
            await decode(move.decode_s(self.job.turn_s))
            if move.answer:
                continue
            read: set[str] = set()
            if move.gather:
                names = [self._name(step, self.agent.attempts[step]) for step in move.gather]
                answer = await self.peer.call("gather", {"future_ids": names})
                read |= self._read(answer.structured_content)
            else:
                async with anyio.create_task_group() as tg:
                    for planned in move.calls:
                        tg.start_soon(self._call, planned, read)
            self.agent.learn(read)
        return time.perf_counter() - began

    async def _call(self, planned: Planned, read: set[str]) -> None:
        step = planned.step
        arguments = self._arguments(planned)
        if self.job.way.bridge:
            arguments["_as"] = self._name(step.name, planned.attempt)
            if planned.wait is not None:
                others = [self._name(name, self.agent.attempts[name]) for name in planned.wait]
                arguments["_wait"] = ",".join(others) or "this"
        answer = await self.peer.call(self._fast + step.kind, arguments)
        if self.job.way.bridge:
            read |= self._read(answer.structured_content)
        else:
            self.values[step.name] = answer.structured_content or {}
            read.add(step.name)

    def _name(self, step: str, attempt: int) -> str:
        return f"{self.ns}_{step}_{attempt}"

    def _arguments(self, planned: Planned) -> Json:
        step = planned.step
        arguments: Json = {
            "ns": self.ns,
            "label": f"{step.name}.{planned.attempt}",
            "seconds": step.seconds,
        }
        inputs = [self._value(name, planned) for name in step.uses]
        if step.picks:
            # The right item once the result was read, the first as a guess.
            index = 0 if planned.guessed else step.index
            inputs.append(self._value(step.picks, planned, index))
        match step.kind:
            case "read":
                arguments["cell"] = step.cell
            case "write":
                arguments |= {"cell": step.cell, "value": inputs[0] if inputs else step.name}
            case "compute":
                arguments["inputs"] = [step.name, *inputs]
            case "lookup":
                arguments["query"] = step.name
        return arguments

    def _value(self, name: str, planned: Planned, index: int | None = None) -> str:
        if name in planned.known:
            result = self.values[name]
            return result["value"] if index is None else result["items"][index]["id"]
        path = "value" if index is None else f"items[{index}].id"
        return f"${self._name(name, self.agent.attempts[name])}.{path}"

    def _read(self, answer: Json | None) -> set[str]:
        """Take in whatever results an answer brings: its own, several, and those that rode on it."""
        assert answer is not None, "an answer without structured content"
        read: set[str] = set()
        for entry in (answer, *answer.get("results", ()), *answer.get("also", ())):
            if entry.get("status") in ("failed", "cancelled"):
                raise RuntimeError(f"{self.job}: {entry}")
            prefix, _, attempt = entry.get("name", "").rpartition("_")
            if "result" in entry and prefix.startswith(self.ns + "_"):
                step = prefix.removeprefix(self.ns + "_")
                if int(attempt) == self.agent.attempts[step]:
                    self.values[step] = entry["result"]
                    read.add(step)
        return read


@dataclass
class Lane:
    """Connections for one agent at a time: to the server itself, and through bridges with their settings."""

    direct: Peer
    bridge: Peer
    without_inline: Peer
    without_grace: Peer
    bare: Peer

    def peer(self, way: Way) -> Peer:
        """The one for a way of calling."""
        if not way.bridge:
            return self.direct
        if not way.inline and not way.grace:
            return self.bare
        if not way.inline:
            return self.without_inline
        return self.bridge if way.grace else self.without_grace


@asynccontextmanager
async def lane(shop: Workshop) -> AsyncIterator[Lane]:
    """Start the processes of one lane and use every tool once: grace needs to know which are quick."""
    state = server_command("state")

    def command(grace_ms: int, deliver: str) -> list[str]:
        entry = shop.entry(state, grace_ms=grace_ms, tools=EFFECTS)
        return shop.bridge({"state": entry}, deliver=deliver)

    async with AsyncExitStack() as stack:

        async def peer(command: Sequence[str]) -> Peer:
            opened = await stack.enter_async_context(stdio(command, shop.env(), name=AGENT))
            for prefix, seconds in (("", 0.05), (FAST, 0.005)):
                common = {"ns": "warm-up", "label": "x", "seconds": seconds}
                for kind in ("read", "write", "compute", "lookup"):
                    more = {"cell": "x", "value": "x", "inputs": ["x"], "query": "x"}
                    await opened.call(prefix + kind, common | more)
            await anyio.sleep(0.2)
            await opened.call("report", {"ns": "warm-up"})
            return opened

        yield Lane(
            await peer(state),
            await peer(command(25, "auto")),
            await peer(command(25, "off")),
            await peer(command(0, "auto")),
            await peer(command(0, "off")),
        )


async def report(peer: Peer, ns: str) -> Json:
    """The final state of a run, and how long each call took in the server."""
    arguments: Json = {"ns": ns}
    answer = await peer.call("report", arguments)
    found: Any = answer.structured_content or {}
    if "future_id" in found and "result" not in found:
        answer = await peer.call("await_future", {"future_id": found["future_id"]})
        found = answer.structured_content or {}
    return found.get("result", found)


async def play(job: Job, lane: Lane, number: int) -> Played:
    """One run, and its ideal from the durations that the server's calls really had."""
    peer = lane.peer(job.way)
    run = Run(job, peer, number)
    with anyio.fail_after(PATIENCE_S):
        seconds = await run.play()
    left = await report(peer, run.ns)
    ideal = simulate(run.task, job.way, job.turn_s, durations=left["durations"])
    outcome = {"values": dict(sorted(run.values.items())), "cells": left["cells"]}
    return Played(job, seconds, run.agent.turns, ideal, outcome)


# --- all runs ------------------------------------------------------------------------------------------------------


def jobs(options: Options) -> Iterator[Job]:
    """Every run, longest first, so that no lane is left with a long one at the end."""
    turns = TURNS_S[: options.scaled(len(TURNS_S), 1)]
    tools = TOOLS_S[: options.scaled(len(TOOLS_S), 2)]
    found: list[Job] = []
    for shape in SHAPES:
        for turn_s in turns:
            for tool_s in tools:
                ways = [SYNC, PARALLEL, BRIDGE]
                if turn_s == ABLATED_TURN_S:
                    ways += [*LEFT_OUT, BARE]
                found += [Job(shape, turn_s, tool_s, way) for way in ways]

    def length(job: Job) -> float:
        return simulate(task(job.shape, job.tool_s), job.way, job.turn_s).seconds

    return iter(sorted(found, key=length, reverse=True))


async def run(options: Options) -> Section:
    """The grid of turn time × tool time for every shape, in every way."""
    played: list[Played] = []
    numbers = iter(range(1_000_000))
    for _ in range(max(1, options.rounds // 9)):
        todo = jobs(options)
        with workshop() as shop:
            async with AsyncExitStack() as stack:
                options.say("starting the lanes")
                lanes = [await stack.enter_async_context(lane(shop)) for _ in range(options.scaled(6, 3))]
                options.say("playing")

                async def work(lane: Lane, todo: Iterator[Job] = todo) -> None:
                    for job in todo:
                        done = await play(job, lane, next(numbers))
                        played.append(done)

                async with anyio.create_task_group() as tg:
                    for each in lanes:
                        tg.start_soon(work, each)
    return summary(played)


def by_cell(played: Sequence[Played], way: Way) -> dict[tuple[str, float, float], list[Played]]:
    """The runs of one way."""
    found: dict[tuple[str, float, float], list[Played]] = {}
    for each in played:
        if each.job.way == way:
            found.setdefault(each.job.cell, []).append(each)
    return found


def seconds_of(runs: Sequence[Played]) -> float:
    """Wall time of a cell."""
    return median(run.seconds for run in runs)


def summary(played: Sequence[Played]) -> Section:
    """What the runs say."""
    section = Section("replay", "Agent replays")
    sync, parallel, bridge = (by_cell(played, way) for way in (SYNC, PARALLEL, BRIDGE))
    shares = [median(run.share for run in runs) for runs in bridge.values()]
    direct_shares = [median(run.share for run in runs) for runs in sync.values()]
    gains = {cell: seconds_of(sync[cell]) / seconds_of(runs) for cell, runs in bridge.items()}
    host_gains = {cell: seconds_of(sync[cell]) / seconds_of(runs) for cell, runs in parallel.items()}
    extra = [run.turns - sync[cell][0].turns for cell, runs in bridge.items() for run in runs]
    truth = {cell: canonical(runs[0]) for cell, runs in sync.items()}
    wrong = [each for each in played if canonical(each) != truth[each.job.cell]]
    cells = f"{len(bridge)} cells"
    worst = min(bridge, key=lambda cell: median(run.share for run in bridge[cell]))
    slowest = min(gains, key=lambda cell: gains[cell])
    section.figures = [
        Figure(
            "ideal",
            "share of the ideal schedule, all cells",
            Spread.of(shares),
            at_least(0.98),
            f"{cells}; the same agent calling directly: {median(direct_shares):.3f} of its own ideal",
            unit="",
            digits=3,
        ),
        Figure("ideal_worst", "… worst cell", one(min(shares)), at_least(0.98), words(worst), unit="", digits=3),
        Figure("sync", "faster than the synchronous agent, all cells", Spread.of(list(gains.values()))),
        Figure("sync_worst", "… worst cell: never slower", one(min(gains.values())), at_least(0.99), words(slowest)),
        Figure("", "… a host that calls in parallel", Spread.of(list(host_gains.values()))),
        Figure(
            "turns",
            "model turns more than the synchronous agent, at most",
            one(max(extra)),
            at_most(0),
            unit="",
            digits=0,
        ),
        Figure(
            "wrong",
            "runs with other results or another final state",
            one(len(wrong)),
            at_most(0),
            f"{len(played)} runs",
            unit="",
            digits=0,
        ),
    ]
    section.tables = [grid(sync, parallel, bridge), simulated_ablation()]
    if measured := ablation(played):
        section.tables.insert(1, measured)
    section.notes.append(
        "In a judged chain nothing can overlap, so there the bridge can only be as fast as the synchronous agent; "
        "one per cent of tolerance is for the noise of a single run and for turns that are shorter here than in life."
    )
    return section


def one(value: float) -> Spread:
    """A single number."""
    return Spread(value, value, value, 1)


def words(cell: tuple[str, float, float]) -> str:
    """A cell in words."""
    shape, turn_s, tool_s = cell
    return f"{shape}, turn {turn_s * 1e3:.0f} ms, tools {tool_s * 1e3:.0f} ms"


def canonical(run: Played) -> str:
    """Results and state, to compare."""
    return json.dumps(run.outcome, sort_keys=True)


Cells = Mapping[tuple[str, float, float], Sequence[Played]]


def grid(sync: Cells, parallel: Cells, bridge: Cells) -> Table:
    """One row for each cell."""
    rows: list[list[str]] = []
    for cell in sorted(bridge, key=lambda cell: (list(SHAPES).index(cell[0]), cell[1], cell[2])):
        shape, turn_s, tool_s = cell
        runs = bridge[cell]
        plan = task(shape, tool_s)
        base = seconds_of(sync[cell])
        limit = bound(plan, turn_s, simulate(plan, BRIDGE, turn_s).model_s)
        rows.append(
            [
                shape,
                f"{turn_s * 1e3:.0f} ms",
                f"{tool_s * 1e3:.0f} ms",
                f"{base / seconds_of(parallel[cell]):.2f} ×",
                f"{base / seconds_of(runs):.2f} ×",
                f"{base / median(run.ideal.seconds for run in runs):.2f} ×",
                f"{limit:.2f} ×",
                f"{median(run.share for run in runs):.3f}",
                f"{sync[cell][0].turns} / {parallel[cell][0].turns} / {runs[0].turns}",
            ]
        )
    head = (
        "shape",
        "turn",
        "tools",
        "host in parallel",
        "bridge",
        "ideal",
        "bound R",
        "share of ideal",
        "turns: sync / parallel / bridge",
    )
    return Table("Faster than the synchronous agent, by cell", head, rows)


def ablation(played: Sequence[Played]) -> Table | None:
    """The bridge with all of its helps, and without one of each, as run."""
    bridge = by_cell(played, BRIDGE)
    rows: list[list[str]] = []
    for way in (BRIDGE, *LEFT_OUT, BARE):
        runs = by_cell(played, way)
        sync = by_cell(played, SYNC)
        row = [way.name]
        for tool_s in TOOLS_S:
            found = [cell for cell in runs if cell[1] == ABLATED_TURN_S and cell[2] == tool_s]
            if found:
                share = median(bridge[c][0].ideal.seconds / seconds_of(runs[c]) for c in found)
                gain = median(seconds_of(sync[c]) / seconds_of(runs[c]) for c in found)
                row.append(f"{share:.2f} of ideal, {gain:.2f} × sync")
        rows.append(row)
    if any(len(row) == 1 for row in rows):
        return None
    head = ("as run", *(f"tools {tool_s * 1e3:.0f} ms" for tool_s in TOOLS_S))
    title = f"What each help is worth, turns of {ABLATED_TURN_S * 1e3:.0f} ms (median of the shapes)"
    return Table(title, head, rows)


def simulated_ablation() -> Table:
    """The same without overhead for the whole grid, and each help alone added to bare futures."""
    rows: list[list[str]] = []
    measure: Callable[[str, float, float, Way], float] = lambda shape, turn_s, tool_s, way: (  # noqa: E731
        simulate(task(shape, tool_s), SYNC, turn_s).seconds / simulate(task(shape, tool_s), way, turn_s).seconds
    )
    for way in (PARALLEL, BRIDGE, *LEFT_OUT, BARE, *ADDED):
        row = [way.name]
        for turn_s in TURNS_S:
            values = [[measure(shape, turn_s, tool_s, way) for shape in SHAPES] for tool_s in TOOLS_S]
            row.append("  ".join(f"{median(each):.2f}" for each in values))
        rows.append(row)
    tools = ", ".join(f"{tool_s * 1e3:.0f}" for tool_s in TOOLS_S)
    head = ("simulated without overhead", *(f"turn {turn_s * 1e3:.0f} ms" for turn_s in TURNS_S))
    return Table(f"Times faster than synchronous, for tools of {tools} ms (median of the shapes)", head, rows)
