"""The pure parts of the benchmarks: the scripted agent, the ideal schedule, what is played in which order, how runs
are compared, and what counts as a regression."""

from __future__ import annotations

import sys
import tarfile
from collections import Counter
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import reference_form, replay, report
from benchmarks.harness import Options
from benchmarks.replay import Block, Job, Played, Room
from benchmarks.report import Figure, Section, Spread, at_least, at_most
from benchmarks.simulate import (
    ADDED,
    BARE,
    BRIDGE,
    LEFT_OUT,
    PARALLEL,
    SYNC,
    Agent,
    Schedule,
    Step,
    Task,
    Way,
    bound,
    critical_path_s,
    simulate,
)
from benchmarks.svg import Line, line_chart
from benchmarks.tasks import SHAPES, task

WAYS = (SYNC, PARALLEL, BRIDGE, *LEFT_OUT, BARE, *ADDED)
CELLS = [(shape, turn_s, tool_s) for shape in SHAPES for turn_s in (0.1, 1.0, 4.0) for tool_s in (0.005, 0.2, 2.0)]


def one_request(*steps: Step) -> Task:
    """A task of one request."""
    return Task("test", (steps,))


def test_a_synchronous_agent_pays_for_every_turn_and_every_tool() -> None:
    """One turn for each call, one for the answer, and every tool's time."""
    plan = one_request(Step("a", "read", 0.5, cell="x"), Step("b", "compute", 0.25))
    schedule = simulate(plan, SYNC, 1.0)
    assert (schedule.seconds, schedule.turns) == (3.75, 3)


def test_independent_calls_overlap_in_one_turn() -> None:
    """Two calls in one turn: a fifth of a turn more to decode, the longer tool, then the answer."""
    plan = one_request(Step("a", "read", 0.5, cell="x"), Step("b", "compute", 0.25))
    schedule = simulate(plan, BRIDGE, 1.0)
    assert schedule.seconds == pytest.approx(1.2 + 0.5 + 1.0)
    assert schedule.turns == 2


def test_dependent_calls_go_out_in_one_turn_and_run_one_after_another() -> None:
    """A reference needs no turn of its own, and no time is won on the tools."""
    plan = one_request(Step("a", "compute", 0.5), Step("b", "compute", 0.25, uses=("a",)))
    assert simulate(plan, BRIDGE, 1.0).seconds == pytest.approx(1.2 + 0.75 + 1.0)


def test_conflicting_calls_keep_their_order() -> None:
    """A write waits for the write before it on the same cell, and for no other."""
    apart = one_request(Step("a", "write", 0.5, cell="x"), Step("b", "write", 0.5, cell="y"))
    same = one_request(Step("a", "write", 0.5, cell="x"), Step("b", "write", 0.5, cell="x"))
    assert simulate(same, BRIDGE, 1.0).seconds - simulate(apart, BRIDGE, 1.0).seconds == pytest.approx(0.5)


def test_a_host_that_calls_in_parallel_never_sends_conflicting_calls_together() -> None:
    """It keeps no order, so the agent spends a turn."""
    same = one_request(Step("a", "write", 0.5, cell="x"), Step("b", "write", 0.5, cell="x"))
    assert simulate(same, PARALLEL, 1.0).turns == 3
    assert simulate(same, BRIDGE, 1.0).turns == 2


def test_without_wait_the_results_cost_a_turn_of_their_own() -> None:
    """A `gather` is a model turn."""
    plan = one_request(Step("a", "read", 0.5, cell="x"))
    assert simulate(plan, BRIDGE, 1.0).turns == 2
    assert simulate(plan, BARE, 1.0).turns == 3


def way_without(feature: str) -> Way:
    return next(way for way in LEFT_OUT if way.name == f"bridge without {feature}")


def test_without_shapes_a_path_costs_a_turn_until_a_result_of_that_tool_was_read() -> None:
    """The second path into a result of the same tool is known."""
    one = (Step("a", "lookup", 0.5), Step("b", "compute", 0.5, uses=("a",)))
    two = (Step("c", "lookup", 0.5), Step("d", "compute", 0.5, uses=("c",)))
    plan = Task("paths", (one, two))
    assert simulate(plan, BRIDGE, 1.0).turns == 4
    assert simulate(plan, way_without("shapes"), 1.0).turns == 5


def test_without_expressions_a_choice_costs_a_turn() -> None:
    """The agent has to read what it picks from; a guess would not do."""
    plan = one_request(Step("a", "lookup", 0.5), Step("b", "compute", 0.5, picks="a", rule="cheapest"))
    assert simulate(plan, BRIDGE, 1.0).turns == 2
    assert simulate(plan, way_without("expressions"), 1.0).turns == 3
    assert simulate(plan, PARALLEL, 1.0).turns == 3


def test_without_after_a_call_that_must_follow_costs_a_turn() -> None:
    """With it, the order is kept in one turn, and takes the time of both."""
    plan = one_request(Step("a", "write", 0.5, cell="x"), Step("b", "write", 0.5, cell="y", after=("a",)))
    schedule = simulate(plan, BRIDGE, 1.0)
    assert schedule.turns == 2
    assert schedule.seconds == pytest.approx(1.2 + 1.0 + 1.0)
    assert simulate(plan, way_without("`_after`"), 1.0).turns == 3
    assert simulate(plan, PARALLEL, 1.0).turns == 3


def test_grace_brings_the_result_of_a_quick_tool_only() -> None:
    """A tool within the grace costs no turn; a slower one does."""
    grace = next(way for way in ADDED if way.grace)
    assert simulate(one_request(Step("a", "read", 0.02, cell="x")), grace, 1.0).turns == 2
    assert simulate(one_request(Step("a", "read", 0.03, cell="x")), grace, 1.0).turns == 3


def test_a_wrong_guess_is_made_good_with_everything_that_used_it() -> None:
    """The first item was taken unseen, the second was right: the call and its dependent run again."""
    plan = one_request(
        Step("look", "lookup", 0.1),
        Step("take", "compute", 0.1, picks="look", index=1),
        Step("sum", "compute", 0.1, uses=("take",)),
        Step("apart", "compute", 0.1),
    )
    agent = Agent(plan, BRIDGE)
    first = agent.decide()
    assert first is not None
    assert [planned.step.name for planned in first.calls] == ["look", "take", "sum", "apart"]
    agent.learn(["look", "take", "sum", "apart"])
    second = agent.decide()
    assert second is not None
    assert [(planned.step.name, planned.attempt, planned.guessed) for planned in second.calls] == [
        ("take", 2, False),
        ("sum", 2, False),
    ]


def test_a_wait_stands_on_the_call_whose_result_is_needed() -> None:
    """Waiting on the last call would also wait for that one's own result, which nobody needs yet."""
    plan = one_request(
        Step("needed", "compute", 0.1), Step("long", "compute", 9.0), Step("next", "compute", 0.1, sees=("needed",))
    )
    move = Agent(plan, BRIDGE).decide()
    assert move is not None
    assert [(planned.step.name, planned.wait) for planned in move.calls] == [("needed", ()), ("long", None)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_agent_comes_to_an_end_with_all_results_read(shape: str, way: object) -> None:
    """Whatever is left out, every request is answered with all of its results."""
    plan = task(shape, 0.2)
    agent = Agent(plan, way)  # type: ignore[arg-type]
    for _ in range(200):
        move = agent.decide()
        if move is None:
            break
        if move.answer:
            continue
        agent.learn([*(planned.step.name for planned in move.calls), *move.gather])
    assert agent.decide() is None
    assert agent.known == {step.name for step in plan.steps}


@pytest.mark.parametrize(("shape", "turn_s", "tool_s"), CELLS)
def test_the_bridge_is_never_slower_and_takes_no_more_turns(shape: str, turn_s: float, tool_s: float) -> None:
    """With all of its helps, at any ratio of turn to tool time."""
    plan = task(shape, tool_s)
    sync, bridge = simulate(plan, SYNC, turn_s), simulate(plan, BRIDGE, turn_s)
    assert bridge.seconds <= sync.seconds + 1e-9
    assert bridge.turns <= sync.turns


@pytest.mark.parametrize(("shape", "turn_s", "tool_s"), CELLS)
def test_no_schedule_beats_the_bound(shape: str, turn_s: float, tool_s: float) -> None:
    """R is looser than the ideal schedule, never tighter."""
    plan = task(shape, tool_s)
    for way in WAYS:
        ideal = simulate(plan, way, turn_s)
        gain = simulate(plan, SYNC, turn_s).seconds / ideal.seconds
        assert gain <= bound(plan, turn_s, ideal.model_s) + 1e-9


def test_the_critical_path_follows_data_and_state() -> None:
    """A chain through a value, then through a cell; what runs beside it does not count."""
    plan = one_request(
        Step("a", "compute", 1.0),
        Step("b", "write", 2.0, uses=("a",), cell="x"),
        Step("c", "read", 4.0, cell="x"),
        Step("d", "compute", 6.0),
    )
    assert critical_path_s(plan) == 7.0


def test_durations_that_were_measured_take_the_place_of_the_script() -> None:
    """The ideal of a run is made from what its calls really took."""
    plan = one_request(Step("a", "read", 0.5, cell="x"))
    assert simulate(plan, SYNC, 1.0, durations={"a.1": 0.75}).seconds == 2.75


def test_turns_that_ended_late_count_in_the_ideal() -> None:
    """What an event loop adds to a turn is no one's overhead."""
    plan = one_request(Step("a", "read", 0.5, cell="x"))
    schedule = simulate(plan, SYNC, 1.0, late_s=0.25)
    assert (schedule.seconds, schedule.model_s) == (3.0, 2.5)


# --- replays ---------------------------------------------------------------------------------------------------------


def played(way: Way, lost_s: float, *, repetition: int = 0, late_s: float = 0.0, shape: str = "judged chain") -> Played:
    """A run of the cell with turns and tools of 200 ms that lost so much."""
    job = Job(shape, 0.2, 0.2, way, repetition)
    script = job.by_the_script()
    ideal = Schedule(script.seconds + late_s, script.turns, script.model_s)
    return Played(job, ideal.seconds + lost_s, script.turns, ideal, {"values": {}, "cells": {}}, 0.0)


def full() -> list[Block]:
    """What a full run plays."""
    return replay.blocks(Options(rounds=9))


def test_the_ways_of_a_cell_are_played_next_to_each_other_and_begin_in_turn() -> None:
    """Whatever changes on the machine meets all of them, and none always follows the same one."""
    for block in full():
        assert len({(job.cell, job.repetition) for job in block.jobs}) == 1
        assert {SYNC, PARALLEL, BRIDGE} <= {job.way for job in block.jobs}
    first = Counter(block.jobs[0].way.name for block in full())
    assert min(first.values()) > len(full()) / 4


def test_the_whole_grid_is_played_and_short_cells_more_often() -> None:
    """A fixed number of times, by the length of the synchronous run alone."""
    times = Counter(block.jobs[0].cell for block in full())
    assert len(times) == 84
    for block in full():
        assert times[block.jobs[0].cell] == (5 if block.seconds < 4 else 3)
    ablated = {job.cell for block in full() for job in block.jobs if job.way == BARE}
    assert ablated == {cell for cell in times if cell[1] == replay.ABLATED_TURN_S}


def test_repetitions_of_a_cell_are_far_apart() -> None:
    """Every cell has been played once before any is played again."""
    order = [block.jobs[0].repetition for block in full()]
    assert order == sorted(order)


def test_a_smoke_run_plays_few_cells_once() -> None:
    """Turns of 200 ms, quick tools."""
    found = replay.blocks(Options(rounds=3, smoke=True))
    assert sum(len(block.jobs) for block in found) == 42


@pytest.mark.anyio
async def test_agents_play_at_once_only_as_far_as_there_is_room() -> None:
    """Together they never need more than `ROOM`, unless one alone does."""
    room, now, seen = Room(), [0.0], []

    async def play(need: float) -> None:
        async with room.take(need):
            now.append(need)
            seen.append(tuple(now[1:]))
            await anyio.lowlevel.checkpoint()
            now.remove(need)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            for need in (0.3, 0.5, 0.4, 2.0, 0.1):
                tg.start_soon(play, need * replay.ROOM)
    assert len(seen) == 5
    assert max(len(each) for each in seen) > 1
    assert all(len(each) == 1 or sum(each) <= replay.ROOM for each in seen)


def test_runs_compare_by_what_was_lost() -> None:
    """Timers that happened to be late in one of two runs make neither slower."""
    sync = [played(SYNC, 0.02, late_s=0.5)]
    assert replay.gains(sync, [played(BRIDGE, 0.02)]) == pytest.approx([1.0])
    (clock,) = replay.gains(sync, [played(BRIDGE, 0.02)], lambda run: run.seconds)
    assert clock > 1.1


def test_runs_compare_within_their_repetition() -> None:
    """A slow minute hits both."""
    sync = [played(SYNC, lost, repetition=n) for n, lost in enumerate((0.02, 1.0, 0.02))]
    bridge = [played(BRIDGE, lost, repetition=n) for n, lost in enumerate((0.02, 1.0, 0.02))]
    assert replay.gains(sync, bridge) == pytest.approx([1.0, 1.0, 1.0])
    assert replay.gains(sync, [bridge[1]]) == pytest.approx([1.0])


def test_the_worst_cell_is_worst_by_its_median() -> None:
    """One disturbed repetition of three moves no figure; it shows in the spread."""
    runs = [played(way, 0.02, repetition=n) for n in range(3) for way in (SYNC, PARALLEL)]
    runs += [played(BRIDGE, lost, repetition=n) for n, lost in enumerate((0.03, 0.9, 0.04))]
    section = replay.summary(runs, 0.1)
    figures = {figure.key: figure for figure in section.figures if figure.key}
    script = Job("judged chain", 0.2, 0.2, BRIDGE).by_the_script().seconds
    assert figures["ideal_worst"].spread.median == pytest.approx(script / (script + 0.04))
    assert figures["ideal_worst"].spread.low < 0.95
    assert figures["wrong"].spread.median == 0
    assert figures["turns"].spread.median == 0
    (row,) = section.tables[0].rows
    assert f"{script / (script + 0.9):.3f}–{script / (script + 0.03):.3f} (3)" in row


def test_other_results_are_counted() -> None:
    """A run that ends in another state than the synchronous one is wrong, however fast."""
    runs = [played(way, 0.02) for way in (SYNC, PARALLEL, BRIDGE)]
    runs[2].outcome["cells"] = {"a": "something else"}
    figures = {figure.key: figure for figure in replay.summary(runs, 0.1).figures}
    assert figures["wrong"].spread.median == 1


# --- reports ---------------------------------------------------------------------------------------------------------


def figure(value: float, goal: report.Goal | None) -> Figure:
    """A figure with one round."""
    return Figure("key", "what", Spread.of([value]), goal)


def test_worse_counts_in_the_direction_of_the_goal() -> None:
    """More is worse for a cost and better for a throughput."""
    assert figure(3.0, at_most(1.0)).worse_than(2.0) == 1.5
    assert figure(0.5, at_least(0.7)).worse_than(1.0) == 2.0
    assert figure(2.0, at_least(0.7)).worse_than(1.0) == 0.5


def test_only_gross_regressions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure fails a smoke run when it is more than 1.5 times worse than the committed one."""
    monkeypatch.setattr(report, "committed", lambda: {"s.key": 1.0})
    assert report.regressions(Section("s", "S", [figure(1.5, at_most(1.0))])) == {}
    assert len(report.regressions(Section("s", "S", [figure(1.6, at_most(1.0))]))) == 1


def test_a_section_takes_its_place_in_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Written again it replaces itself and leaves the other alone."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "RESULTS.md")
    report.write_results(Section("one", "One", [figure(1.0, None)]), "machine A")
    report.write_results(Section("two", "Two", [figure(2.0, None)]), "machine A")
    report.write_results(Section("one", "One", [figure(3.0, None)]), "machine B")
    text = report.RESULTS.read_text()
    assert text.count("## One") == 1
    assert "3.00 ×" in text
    assert "1.00 ×" not in text
    assert "2.00 ×" in text


def test_a_chart_is_well_formed() -> None:
    """It parses as XML, whatever its labels hold."""
    from xml.etree import ElementTree

    chart = line_chart("a < b & c", "x", "y", [Line("one", [(1, 1.0), (10, 2.0), (100, 0.5)])], goal=1.2)
    root = ElementTree.fromstring(chart)
    assert root.tag.endswith("svg")
    assert "a < b & c" in "".join(root.itertext())


# --- the form of references ------------------------------------------------------------------------------------------


def test_the_form_of_a_reference_is_found_in_files_and_archives(tmp_path: Path) -> None:
    """Binary files are left out; each file counts for the package in whose folder it is."""
    package = tmp_path / "node_modules" / "@scope" / "one"
    package.mkdir(parents=True)
    (package / "a.sh").write_text("${version} ${f:0:3} ${f:-x} ${f:x:1} ${f:page.items[0]['a b']}")
    (package / "b.bin").write_bytes(b"\0${f:page}")
    (tmp_path / "node_modules" / "two").mkdir()
    (tmp_path / "node_modules" / "two" / "c.js").write_text("`${a.b}${c}`")
    with tarfile.open(tmp_path / "three.tgz", "w:gz") as archive:
        archive.add(package / "a.sh", "package/a.sh")
    counts = reference_form.Counts()
    reference_form.scan(tmp_path, counts)
    assert counts.packages == {"@scope/one", "two", "three.tgz"}
    assert counts.files == 3
    assert dict(counts.hits) == {"${f:name.path}": 2, "${name.path}": 4}
    assert len(counts.examples) == 2
