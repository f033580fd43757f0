"""Entries of calls, as the monitor makes them, and as a broken or hostile one would."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

AT = 1_764_300_000.0
"""Time at which the calls of these tests were submitted."""


def entry(future_id: str = "f9", **given: Any) -> dict[str, Any]:
    return {"id": future_id, "tool": "web__fetch", "server": "web", "state": "running", "submitted_at": AT, **given}


def entries() -> st.SearchStrategy[dict[str, Any]]:
    """Entries of any content: hostile texts, values of other types, times without order."""
    hostile = ["\x1b[2J\x1b]0;x\x07", "a\u202eb\u2066", "\r\n\t\0", "界" * 70, "e\u0301\u200d", "[red]x[/]", "\ud800"]
    texts = st.sampled_from(hostile) | st.text("aZ 界é🙂\u0301\x1b\x9b\u202e\n[]:_", max_size=30)
    times = (
        st.floats(AT - 1e5, AT + 1e5)
        | st.none()
        | st.just(float("nan"))
        | st.sampled_from(["soon", 1e300, 10**400, -(10**5000)])
    )
    wait = st.fixed_dictionaries({"kind": texts | st.just("capacity"), "on": texts}, optional={"path": texts})
    anything = st.none() | st.booleans() | texts | st.lists(texts, max_size=2)
    return st.fixed_dictionaries(
        {"id": texts, "tool": texts, "server": texts, "state": st.sampled_from(["running", "failed", "waiting", "?"])},
        optional={
            "name": texts | anything,
            "host": texts | anything,
            "failure": texts,
            "question": texts,
            "waits": st.lists(wait, max_size=6) | anything,
            "waiting_for": st.fixed_dictionaries({"ids": st.lists(texts, max_size=6), "why": texts}) | anything,
            "progress": st.fixed_dictionaries({"done": times, "total": times, "message": texts}) | anything,
            "size": st.integers() | anything,
            "attempts": st.integers() | anything,
            **dict.fromkeys(("submitted_at", "queued_at", "started_at", "ended_at"), times),
        },
    )
