"""The demo's drawing: from what an agent tells to two timelines and a verdict."""

import io
from typing import Any

import pytest
from rich.console import Console

from asyncfc_mcp.cli.demo import NoExamples, Timeline, draw, examples_folder, verdict

Events = list[dict[str, Any]]


def told(how: str, *events: dict[str, Any]) -> Timeline:
    timeline = Timeline(how)
    for event in events:
        timeline.add(event)
    return timeline


def run_of(how: str, seconds: float, results: dict[str, Any] | None) -> Timeline:
    events: Events = [
        {"event": "start", "t": 10.0},
        {"event": "think", "t": 10.0, "turn": 0},
        {"event": "thought", "t": 11.0, "turn": 0},
        {"event": "call", "t": 11.0, "name": "a"},
        {"event": "running", "t": 11.1, "name": "a", **({"future": "f1"} if how == "bridge" else {})},
        {"event": "done", "t": 10.0 + seconds, "name": "a"},
        {"event": "answer", "t": 10.0 + seconds},
    ]
    if results is not None:
        events.append({"event": "results", "t": 99.0, "results": results})
    return told(how, *events)


def lines_of(timeline: Timeline, width: int = 80, span_s: float = 10.0) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(draw(timeline, span_s, width))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_a_bar_stands_where_its_call_ran():
    """Times count from the start of the run, and one scale serves both timelines."""
    heading, model, call = lines_of(run_of("bridge", 5.0, {}))
    assert heading.strip() == "Through the bridge: 5.0 s"
    assert model.index("▒") < call.index("█")
    assert call.startswith("f1 a ")
    assert call.rstrip().endswith("4.0 s")
    assert call.count("█") == pytest.approx(4 * model.count("▒"), abs=3)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int):
    """However narrow it is."""
    timeline = run_of("direct", 5.0, {})
    timeline.bars["a_very_long_name_of_a_tool_indeed"] = timeline.bars.pop("a")
    assert all(len(line) <= width for line in lines_of(timeline, width))


def test_the_verdict_says_how_much_and_whether_the_results_were_the_same():
    """Faster or slower, and what differs if something does."""
    assert verdict(run_of("direct", 8.0, {"a": 1}), run_of("bridge", 4.0, {"a": 1})) == (
        "one by one 8.0 s · through the bridge 4.0 s · 2.0 × faster, same results",
        True,
    )
    assert "1.5 × slower" in verdict(run_of("direct", 4.0, {"a": 1}), run_of("bridge", 6.0, {"a": 1}))[0]
    text, same = verdict(run_of("direct", 8.0, {"a": 1, "b": 2}), run_of("bridge", 4.0, {"a": 1, "b": 3}))
    assert not same
    assert text.endswith("the results differ: b")


def test_the_examples_are_found_in_a_clone():
    """Or it is said where they were looked for."""
    assert (examples_folder() / "scripted_agent.py").is_file()
    assert "looked in" in str(NoExamples([examples_folder()]))
