"""Exported traces follow the Trace Event Format: bars of a thread do not overlap, and arrows begin and end in bars."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.monitor.trace_events import TraceEvents
from asyncfc_mcp.slices import at_once

NOW = 1_800_000_000.0


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Entries as `Monitor.calls` returns them, newest first."""
    entries: list[dict[str, Any]] = []
    at = NOW - 1000
    for number in range(1, draw(st.integers(0, 12)) + 1):
        at += draw(st.sampled_from([0.0, 0.000001, 0.5, 3.0]))
        entry: dict[str, Any] = {"id": f"f{number}", "tool": "t", "server": draw(st.sampled_from("ab"))}
        entry |= {"submitted_at": at, "state": "waiting"}
        if draw(st.booleans()):
            entry |= {"started_at": at + draw(st.sampled_from([0.0, 1.0])), "state": "running"}
        if draw(st.booleans()):
            entry["ended_at"] = entry.get("started_at", at) + draw(st.sampled_from([-1.0, 0.0, 0.000001, 2.0]))
            entry["state"] = "completed"
        on = draw(st.lists(st.integers(-1, number - 1), max_size=2, unique=True))
        entry["waits"] = [{"kind": "value", "on": f"f{each}"} for each in on]
        if draw(st.booleans()):
            entry |= {"conversation": draw(st.sampled_from("xy")), "host": "host"}
        entries.insert(0, entry)
    return entries


def written(entries: list[dict[str, Any]], at_a_time: int) -> list[dict[str, Any]]:
    trace = TraceEvents(NOW)
    parts = [at_once(trace.writing(entries[at : at + at_a_time])) for at in range(0, len(entries), at_a_time)]
    document = json.loads(b"".join([*parts, trace.end()]))
    return document["traceEvents"]


@given(histories(), st.integers(1, 5))
def test_any_history_is_a_valid_trace(entries: list[dict[str, Any]], at_a_time: int):
    events = written(entries, at_a_time)
    bars: dict[tuple[int, int], list[tuple[int, int]]] = {}
    named = {(event["pid"], event["tid"]) for event in events if event["ph"] == "M"}
    for event in events:
        assert event["ph"] in "MXsf"
        assert isinstance(event["ts"], int)
        if event["ph"] == "X":
            assert event["dur"] > 0
            bars.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
            assert (event["pid"], 0) in named
            assert (event["pid"], event["tid"]) in named
    for lane in bars.values():
        lane.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(lane))
    tails = {event["id"]: event for event in events if event["ph"] == "s"}
    heads = {event["id"]: event for event in events if event["ph"] == "f"}
    known = {entry["id"] for entry in entries}
    assert tails.keys() == heads.keys()
    assert len(heads) == sum(wait["on"] in known for entry in entries for wait in entry["waits"])
    for number, tail in tails.items():
        assert tail["ts"] <= heads[number]["ts"]
        assert (tail["name"], tail["cat"]) == (heads[number]["name"], heads[number]["cat"])
        assert heads[number]["bp"] == "e"
    for event in heads.values():
        assert any(start <= event["ts"] < end for start, end in bars[event["pid"], event["tid"]])


def test_each_call_has_its_bars_and_what_it_waited_for():
    first = {"id": "f1", "tool": "t", "server": "s", "state": "completed", "submitted_at": 1.0, "started_at": 1.0}
    second = {**first, "id": "f2", "submitted_at": 2.0, "started_at": 5.0, "ended_at": 6.0}
    second["waits"] = [{"kind": "capacity", "on": "f1"}]
    events = written([second, {**first, "ended_at": 5.0}], 9)
    bars = [(event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"]
    assert bars == [
        ("f2 t waits", 2_000_000, 3_000_000),
        ("f2 t", 5_000_000, 1_000_000),
        ("f1 t", 1_000_000, 4_000_000),
    ]
    assert [(event["ph"], event["name"], event["ts"]) for event in events if event["ph"] in "sf"] == [
        ("s", "capacity", 4_999_999),
        ("f", "capacity", 5_000_000),
    ]
