"""Scripted agents over real processes: their share of the ideal schedule, and the value of each feature."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import anyio
import psutil

from benchmarks.harness import (
    PATIENCE_S,
    Json,
    Options,
    Peer,
    Workshop,
    queued_seconds,
    server_command,
    stdio,
    workshop,
)
from benchmarks.report import Figure, Goal, Section, Spread, Table, at_least, at_most
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
    Step,
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
"""Turn time for which the ways without one feature are run; for the others they are simulated."""
REPETITIONS: Final = ((4.0, 5), (float("inf"), 3))
"""How often a cell is played, by the seconds that its synchronous agent needs at least: a disturbance of some
milliseconds weighs more in a short run."""
CALL_S: Final = 0.006
"""CPU time of a call after a pause, all processes together: twice what it takes back to back."""
ROOM: Final = 0.12
"""Share of one core that all agents playing at once may need, by that figure."""
LANES: Final = 6
STAGGER_S: Final = 0.037
"""Agents that would begin at once begin so far apart, or the turns of equal models would go on to end at once."""
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
Cell = tuple[str, float, float]
"""Shape, seconds of a turn, seconds of a tool."""


@dataclass(frozen=True)
class Job:
    """One run of one agent."""

    shape: str
    turn_s: float
    tool_s: float
    way: Way
    repetition: int = 0

    @property
    def cell(self) -> Cell:
        """What it shares with the same task done in another way."""
        return self.shape, self.turn_s, self.tool_s

    def by_the_script(self) -> Schedule:
        """The ideal schedule if every turn and every call takes exactly as long as it should."""
        return simulate(task(self.shape, self.tool_s), self.way, self.turn_s)


@dataclass(frozen=True)
class Played:
    """Outcome of a run, and its ideal without overhead."""

    job: Job
    seconds: float
    turns: int
    ideal: Schedule
    """From the durations that its turns and calls really had."""
    outcome: Json
    """Every step's value and the final state: what must not depend on the way of calling."""
    queued_s: float | None = None
    """Time for which the processes concerned were ready to run and had no core."""

    @property
    def share(self) -> float:
        """Of the ideal schedule."""
        return self.ideal.seconds / self.seconds

    @property
    def lost_s(self) -> float:
        """Time that is neither a turn nor a tool, in seconds."""
        return self.seconds - self.ideal.seconds

    @property
    def evened_s(self) -> float:
        """Its wall time had turns and calls taken as long as the script says: two runs compare by what was lost, not
        by how late timers happened to be."""
        return self.job.by_the_script().seconds + self.lost_s


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
        self._late_s = 0.0

    @property
    def late_s(self) -> float:
        """By how much a turn took longer than it should, on average: event loops wake up a millisecond late."""
        return self._late_s / self.agent.turns

    async def play(self) -> float:
        """Work through the task; its wall time in seconds."""
        began = time.perf_counter()
        while (move := self.agent.decide()) is not None:
            decode_s = move.decode_s(self.job.turn_s)
            turn_began = time.perf_counter()
            await anyio.sleep(decode_s)
            self._late_s += time.perf_counter() - turn_began - decode_s
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
            after = [self._name(name, self.agent.attempts[name]) for name in step.after if name not in planned.known]
            if after:
                arguments["_after"] = ",".join(after)
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
            taken = self._computed(step, planned) if step.rule else self._value(step.picks, planned, index)
            inputs.append(taken)
        match step.kind:
            case "read":
                arguments["cell"] = step.cell
            case "write":
                value = inputs[0] if len(inputs) == 1 else step.name
                if len(inputs) > 1:
                    # In text, as a model would write a report.
                    value = " ".join(f"${{f:{each[1:]}}}" if each.startswith("$") else each for each in inputs)
                arguments |= {"cell": step.cell, "value": value, "seen": self._cells(step.after)}
            case "compute":
                arguments["inputs"] = [step.name, *inputs]
            case "lookup":
                arguments["query"] = step.name
        return arguments

    def _cells(self, names: Sequence[str]) -> str:
        """The cells of some steps."""
        cells = {step.name: step.cell for step in self.task.steps}
        return " ".join(cells[name] for name in names)

    def _computed(self, step: Step, planned: Planned) -> Json | str | int:
        """What a step takes of a lookup by its rule: computed by the model, or by the reference."""
        if step.picks in planned.known:
            items = self.values[step.picks]["items"]
            if step.rule == "total":
                return sum(item["price"] for item in items)
            return min(items, key=lambda item: item["price"])["id"]
        items = f"${self._name(step.picks, self.agent.attempts[step.picks])}.items"
        return f"sum({items}[*].price)" if step.rule == "total" else f"{items} | min_by(@, &price).id"

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
    without_inline: Peer | None = None
    without_grace: Peer | None = None
    bare: Peer | None = None

    def peer(self, way: Way) -> Peer:
        """The one for a way of calling."""
        if not way.bridge:
            return self.direct
        if not way.inline and not way.grace:
            found = self.bare
        elif not way.inline:
            found = self.without_inline
        else:
            found = self.bridge if way.grace else self.without_grace
        assert found is not None, "a lane for smoke runs"
        return found


@asynccontextmanager
async def lane(shop: Workshop, *, ablated: bool = True) -> AsyncIterator[Lane]:
    """Start the processes of one lane and use every tool once: grace needs to know which are quick.

    Args:
        ablated: also start the bridges without one of the features.
    """
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

        settings = [(25, "auto"), *(((25, "off"), (0, "auto"), (0, "off")) if ablated else ())]
        yield Lane(await peer(state), *[await peer(command(*each)) for each in settings])


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
    """One run, and its ideal from the durations that its turns and the server's calls really had."""
    peer = lane.peer(job.way)
    run = Run(job, peer, number)
    before = queued_seconds(peer.pid)
    with anyio.fail_after(PATIENCE_S):
        seconds = await run.play()
    after = queued_seconds(peer.pid)
    left = await report(peer, run.ns)
    ideal = simulate(run.task, job.way, job.turn_s, late_s=run.late_s, durations=left["durations"])
    outcome = {"values": dict(sorted(run.values.items())), "cells": left["cells"]}
    queued_s = None if before is None or after is None else after - before
    return Played(job, seconds, run.agent.turns, ideal, outcome, queued_s)


# --- all runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One repetition of a cell: all ways of doing the same, played one after another by the same lane."""

    jobs: tuple[Job, ...]
    seconds: float
    """That its synchronous agent needs at least."""
    need: float
    """Share of one core, in its busiest way."""


def blocks(options: Options) -> list[Block]:
    """Every run. All cells once, then those that are played again, so that the repetitions of a cell are minutes apart;
    the longest first, so that no lane is left with a long one at the end. Which way begins rotates."""
    turns = TURNS_S[: options.scaled(len(TURNS_S), 1)]
    tools = TOOLS_S[: options.scaled(len(TOOLS_S), 2)]
    found: list[tuple[int, Block]] = []
    for cell in ((shape, turn_s, tool_s) for shape in SHAPES for turn_s in turns for tool_s in tools):
        alone = {way: Job(*cell, way).by_the_script().seconds for way in (SYNC, PARALLEL, BRIDGE)}
        need = len(task(cell[0], cell[2]).steps) * CALL_S / min(alone.values())
        for repetition in range(repetitions(alone[SYNC], options)):
            first = repetition % len(alone)
            ways = [*alone, *alone][first : first + len(alone)]
            if cell[1] == ABLATED_TURN_S and repetition == 0:
                ways += [*LEFT_OUT, BARE]
            jobs = tuple(Job(*cell, way, repetition) for way in ways)
            found.append((repetition, Block(jobs, alone[SYNC], need)))
    return [block for _, block in sorted(found, key=lambda each: (each[0], -each[1].seconds))]


def repetitions(seconds: float, options: Options) -> int:
    """Return the repetitions of a cell, by the duration of its synchronous agent."""
    full = next(count for limit, count in REPETITIONS if seconds < limit)
    return options.scaled(full * max(1, options.rounds // 9), 1)


class Room:
    """Lets as many agents play at once as disturb each other little: together they may need `ROOM` of one core."""

    def __init__(self) -> None:
        self._playing: list[float] = []
        self._changed = anyio.Event()

    @asynccontextmanager
    async def take(self, need: float) -> AsyncIterator[None]:
        """Wait until there is room; an agent that needs more plays alone."""
        while self._playing and sum(self._playing) + need > ROOM:
            await self._changed.wait()
        self._playing.append(need)
        try:
            yield
        finally:
            self._playing.remove(need)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Exclude live objects from garbage collection, which would stop all agents for 30 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def run(options: Options) -> Section:
    """The grid of turn time × tool time for every shape, in every way."""
    played: list[Played] = []
    numbers = iter(range(1_000_000))
    todo = iter(blocks(options))
    room = Room()
    with workshop() as shop:
        async with AsyncExitStack() as stack:
            options.say("starting the lanes")
            count = options.scaled(LANES, 3)
            lanes = [await stack.enter_async_context(lane(shop, ablated=not options.smoke)) for _ in range(count)]
            options.say("playing")

            async def work(number: int, lane: Lane) -> None:
                await anyio.sleep(number * STAGGER_S)
                for block in todo:
                    async with room.take(block.need):
                        played.extend([await play(job, lane, next(numbers)) for job in block.jobs])

            with quiet_collector():
                psutil.cpu_percent()
                async with anyio.create_task_group() as tg:
                    for number, each in enumerate(lanes):
                        tg.start_soon(work, number, each)
                busy = psutil.cpu_percent() / 100
    return summary(played, busy)


Runs = dict[Cell, list[Played]]


def by_cell(played: Sequence[Played], way: Way) -> Runs:
    """The runs of one way, in the order of their repetitions."""
    found: Runs = {}
    for each in sorted(played, key=lambda run: run.job.repetition):
        if each.job.way == way:
            found.setdefault(each.job.cell, []).append(each)
    return found


def shares(runs: Sequence[Played]) -> list[float]:
    """Of the ideal schedule, by repetition."""
    return [run.share for run in runs]


def gains(
    sync: Sequence[Played], runs: Sequence[Played], seconds: Callable[[Played], float] = lambda run: run.evened_s
) -> list[float]:
    """Speed-up over the synchronous agent of the same repetition."""
    base = {run.job.repetition: seconds(run) for run in sync}
    return [base[run.job.repetition] / seconds(run) for run in runs]


def lost_ms(runs: Sequence[Played]) -> float:
    """Milliseconds beyond the ideal, for each turn that makes calls."""
    requests = len(task(runs[0].job.shape, runs[0].job.tool_s).requests)
    return 1e3 * median(run.lost_s / (run.turns - requests) for run in runs)


def summary(played: Sequence[Played], busy: float) -> Section:
    """Summarise the runs: the figure of a cell is the median of its repetitions; the worst cell has the lowest.

    Args:
        busy: share of the machine's cores that was in use.
    """
    section = Section("replay", "Agent replays")
    sync, parallel, bridge = (by_cell(played, way) for way in (SYNC, PARALLEL, BRIDGE))
    share = {cell: Spread.of(shares(runs)) for cell, runs in bridge.items()}
    direct = [median(shares(runs)) for runs in sync.values()]
    gain = {cell: Spread.of(gains(sync[cell], runs)) for cell, runs in bridge.items()}
    clock = {cell: Spread.of(gains(sync[cell], runs, lambda run: run.seconds)) for cell, runs in bridge.items()}
    host = [median(gains(sync[cell], runs)) for cell, runs in parallel.items()]
    extra = [run.turns - sync[cell][0].turns for cell, runs in bridge.items() for run in runs]
    truth = {cell: canonical(runs[0]) for cell, runs in sync.items()}
    wrong = [each for each in played if canonical(each) != truth[each.job.cell]]
    section.figures = [
        Figure(
            "ideal",
            "share of the ideal schedule, all cells",
            Spread.of([each.median for each in share.values()]),
            at_least(0.98),
            f"{len(bridge)} cells; the same agent calling directly: {median(direct):.3f} of its own ideal, "
            f"worst cell {min(direct):.3f}",
            unit="",
            digits=3,
        ),
        worst_of("ideal_worst", "… worst cell", share, at_least(0.98), unit="", digits=3),
        Figure(
            "sync", "faster than the synchronous agent, all cells", Spread.of([each.median for each in gain.values()])
        ),
        worst_of("sync_worst", "… worst cell: never slower", gain, at_least(0.99)),
        worst_of("", "… worst cell by the clock alone", clock),
        Figure("", "… a host that calls in parallel", Spread.of(host)),
        *new_features(sync, parallel, bridge),
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
    section.notes += [
        "In a judged chain nothing can overlap, so there the bridge can only be as fast as the synchronous agent; "
        "one per cent of tolerance is for the cost of calls, which are not shorter here than in life, while turns are.",
        quietness([run for runs in bridge.values() for run in runs], busy),
    ]
    return section


PICKED: Final = "choice and sum"
FOLLOWED: Final = "order without values"


def new_features(sync: Runs, parallel: Runs, bridge: Runs) -> list[Figure]:
    """Tasks in which something is picked, computed or followed, against both kinds of hosts: time, and turns for each
    request of the user."""
    figures: list[Figure] = []
    for shape, what in ((PICKED, "where something is picked and computed"), (FOLLOWED, "where calls must follow")):
        cells = [cell for cell in bridge if cell[0] == shape]
        if not cells:
            continue
        gain = [median(gains(sync[cell], bridge[cell])) for cell in cells]
        beside = [median(gains(parallel[cell], bridge[cell])) for cell in cells]
        requests = len(task(shape, cells[0][2]).requests)
        fewer = [(parallel[cell][0].turns - bridge[cell][0].turns) / requests for cell in cells]
        key = "picked" if shape == PICKED else "followed"
        figures += [
            Figure(f"{key}_sync", f"{what}: faster than the synchronous agent", Spread.of(gain), at_least(1.3)),
            Figure(f"{key}_host", "… than a host that calls in parallel", Spread.of(beside), at_least(1.3)),
            Figure(
                f"{key}_turns",
                "… turns fewer for each request than that host, at least",
                one(min(fewer)),
                at_least(1),
                unit="",
                digits=0,
            ),
        ]
    return figures


def worst_of(
    key: str, what: str, cells: Mapping[Cell, Spread], goal: Goal | None = None, *, unit: str = "×", digits: int = 2
) -> Figure:
    """The cell with the lowest median, with its own quartiles."""
    worst = min(cells, key=lambda cell: cells[cell].median)
    text = f"{words(worst)}, of {cells[worst].rounds} runs"
    return Figure(key, what, cells[worst], goal, text, unit=unit, digits=digits)


def quietness(runs: Sequence[Played], busy: float) -> str:
    """Describe the load of the machine during the run."""
    text = f"While agents played, {busy:.0%} of the machine's cores was in use, by them and by whatever else ran."
    queued = [run.queued_s for run in runs if run.queued_s is not None]
    if not queued:
        return text
    part = sum(queued) / sum(run.lost_s for run in runs)
    return (
        f"{text} A run's bridge and server were ready and without a core for {1e3 * median(queued):.1f} ms (median; at "
        f"most {1e3 * max(queued):.0f} ms), {part:.0%} of all that was lost through the bridge."
    )


def one(value: float) -> Spread:
    """A single number."""
    return Spread(value, value, value, 1)


def words(cell: Cell) -> str:
    """A cell in words."""
    shape, turn_s, tool_s = cell
    return f"{shape}, turn {turn_s * 1e3:.0f} ms, tools {tool_s * 1e3:.0f} ms"


def canonical(run: Played) -> str:
    """Results and state, to compare."""
    return json.dumps(run.outcome, sort_keys=True)


def grid(sync: Runs, parallel: Runs, bridge: Runs) -> Table:
    """One row for each cell."""
    rows: list[list[str]] = []
    for cell in sorted(bridge, key=lambda cell: (list(SHAPES).index(cell[0]), cell[1], cell[2])):
        shape, turn_s, tool_s = cell
        runs = bridge[cell]
        ideal = Job(*cell, BRIDGE).by_the_script()
        base_s = Job(*cell, SYNC).by_the_script().seconds
        share = shares(runs)
        rows.append(
            [
                shape,
                f"{turn_s * 1e3:.0f} ms",
                f"{tool_s * 1e3:.0f} ms",
                f"{median(gains(sync[cell], parallel[cell])):.2f} ×",
                f"{median(gains(sync[cell], runs)):.2f} ×",
                f"{base_s / ideal.seconds:.2f} ×",
                f"{bound(task(shape, tool_s), turn_s, ideal.model_s):.2f} ×",
                f"{median(share):.3f}",
                f"{min(share):.3f}–{max(share):.3f} ({len(share)})",
                f"{lost_ms(sync[cell]):.1f} / {lost_ms(runs):.1f} ms",
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
        "least–most (runs)",
        "lost a turn: sync / bridge",
        "turns: sync / parallel / bridge",
    )
    return Table("Faster than the synchronous agent, by cell (medians of the repetitions)", head, rows)


def ablation(played: Sequence[Played]) -> Table | None:
    """Measured ablation: the bridge with all features, and without each of them."""
    sync = by_cell(played, SYNC)
    rows: list[list[str]] = []
    for way in (BRIDGE, *LEFT_OUT, BARE):
        runs = by_cell(played, way)
        row = [way.name]
        for tool_s in TOOLS_S:
            found = [cell for cell in runs if cell[1] == ABLATED_TURN_S and cell[2] == tool_s]
            if found:
                ideals = {cell: Job(*cell, BRIDGE).by_the_script().seconds for cell in found}
                share = median(ideals[cell] / median(run.evened_s for run in runs[cell]) for cell in found)
                gain = median(median(gains(sync[cell], runs[cell])) for cell in found)
                row.append(f"{share:.2f} of ideal, {gain:.2f} × sync")
        rows.append(row)
    if any(len(row) == 1 for row in rows):
        return None
    head = ("as run", *(f"tools {tool_s * 1e3:.0f} ms" for tool_s in TOOLS_S))
    title = f"Value of each feature, turns of {ABLATED_TURN_S * 1e3:.0f} ms (median of the shapes)"
    return Table(title, head, rows)


def simulated_ablation() -> Table:
    """Simulated ablation over the whole grid, and each feature alone added to bare futures."""
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
