"""Lines of the log: what is said of a call, and that no text of a server or client reaches the terminal as it is."""

from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.command import log
from asyncfc_mcp.cli.calls.source import News, Seen
from asyncfc_mcp.cli.calls.table import Table
from asyncfc_mcp.cli.figures import duration, short_duration
from asyncfc_mcp.cli.page_client import PageClient, PageLost
from tests.support.entries import AT, entries, entry
from tests.support.stage import free_port


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"started_at": AT}, ""),
        (
            {
                "queued_at": AT + 1.2,
                "started_at": AT + 1.5,
                "waits": [{"kind": "value", "on": "f1"}, {"kind": "capacity", "on": "f2"}],
            },
            "1.2 s on f1 (result), 0.3 s for capacity",
        ),
        (
            {
                "queued_at": AT + 75,
                "started_at": AT + 75,
                "waits": [{"kind": "value", "on": "f1"}, {"kind": "after", "on": "f1"}, {"kind": "state", "on": "f2"}],
            },
            "1 min 15 s on f1 (result, _after), f2 (same state)",
        ),
        (
            {"state": "cancelled", "ended_at": AT + 3, "waits": [{"kind": "state", "on": "f2"}]},
            "3.0 s on f2 (same state)",
        ),
    ],
)
def test_waits_are_told_apart(call: dict[str, Any], said: str):
    """Time for other calls, with these and the reasons, then time for a place at the server."""
    assert words.waited(entry(**call), AT + 100) == said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"state": "completed", "size": 2048}, "completed, 2 KB"),
        ({"state": "failed", "failure": "no such page", "attempts": 3}, "failed: no such page (3 attempts)"),
        ({"state": "failed", "failure": "not made", "cause": "f1"}, "failed: not made (because of f1)"),
        ({"state": "waiting", "waiting_for": {"ids": ["f1"], "why": "its result"}}, "waits for f1 (its result)"),
        ({"state": "running", "progress": {"done": 1, "total": 3, "message": "reading"}}, "running 33 % reading"),
        ({"state": "input_required", "question": "Which one?"}, "question: Which one?"),
    ],
)  # fmt: skip
def test_an_end_is_told_in_words(call: dict[str, Any], said: str):
    """A call that has not ended says what it does."""
    assert words.outcome(entry(**call)) == said


@given(seconds=st.floats(0, 1e8))
def test_durations_grow_with_their_numbers(seconds: float):
    """Two units at most, and none that is full: 60 s is a minute."""
    shown = duration(seconds)
    factors = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400}
    parts = shown.split()
    value = sum(float(number) * factors[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert value == pytest.approx(seconds, rel=0.06, abs=0.051)
    assert not shown.startswith("60 ")
    assert len(short_duration(seconds)) <= 6


@given(calls=st.lists(entries(), max_size=4), width=st.integers(40, 200) | st.none(), more=st.booleans())
def test_no_entry_breaks_a_line(calls: list[dict[str, Any]], width: int | None, more: bool):
    """Whatever an entry contains, its lines fit the terminal, and have neither control nor invisible characters."""
    table = Table(width, with_date=True, more=more)
    table.measure(calls, AT)
    for line in [table.heading(), *(line for call in calls for line in table.lines(call, AT))]:
        assert line.plain.isprintable()
        assert width is None or line.cell_len <= width


def test_news_are_new_calls_and_changed_ones():
    """Of the state at a connection's begin, calls that are older than those shown are no news; later, each is."""
    news = News([entry("f5", state="running")])
    began = Seen([entry("f1"), entry("f5", state="running"), entry("f7")], changed=False)
    assert [each["id"] for each in news.of(began)] == ["f7"]
    ended = Seen([entry("f1", state="completed"), entry("f5", state="failed"), entry("f6")], changed=True)
    assert [each["id"] for each in news.of(ended)] == ["f1", "f5", "f6"]
    assert news.of(ended) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--state", "done"], "Invalid value for '--state': 'done' is none of waiting"),
        (["--since", "soon"], "Invalid value for '--since': 'soon' is no time"),
        (["--grep", "x" * 300], "Invalid value for '--grep': at most"),
    ],
)
def test_a_wrong_filter_names_its_option(options: list[str], said: str):
    """Before any bridge or journal is looked for."""
    result = CliRunner().invoke(log, options)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_bridge_that_does_not_run_is_told_in_words():
    """The operating system's, not those of the event loop."""

    async def ask() -> None:
        async with PageClient.connect(url=f"http://127.0.0.1:{free_port()}/mcp") as client:
            await client.get("overview")

    with pytest.raises(PageLost, match=r"cannot be reached \(connection refused\): it does not run"):
        anyio.run(ask)
