"""Large results: other changes are committed while they are encoded, and nothing of them is lost or mixed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import Change
from asyncfc_mcp.engine.journal import preparation, writer
from asyncfc_mcp.slices import Slices
from tests.engine.journal.bench import committed, ended, key, opened, record, result_of, run, running

LARGE: dict[str, Any] = {
    "content": [{"type": "text", "text": "x" * 400_000}],
    "rows": [[n, str(n)] for n in range(9000)],
}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds the encoding of a large result back, slice by slice, until it is set."""
    event = threading.Event()
    encoding = preparation.encoding

    def slowly(*args: Any) -> Slices[list[bytes]]:
        while not event.wait(0.001):
            yield
        return (yield from encoding(*args))

    monkeypatch.setattr(writer, "encoding", slowly)
    return event


def test_a_claim_does_not_wait_for_a_large_result(tmp_path: Path, held: threading.Event):
    """Its own future does, new or not, and its later changes are not lost."""

    async def test() -> None:
        async with opened(tmp_path / "j") as journal:
            ends: list[int] = []
            journal.add(record(1))
            await committed(journal)
            journal.add(record(2))
            for number in (1, 2):
                journal.update(key(number), running())
                journal.update(key(number), ended(LARGE), lambda number=number: ends.append(number))
            for number in range(3, 20):
                claimed = anyio.Event()
                journal.add(record(number))
                journal.update(key(number), running(), claimed.set)
                await claimed.wait()
            assert ends == []
            assert journal.find("local", "f1") is journal.find("local", "f2") is None
            assert result_of(journal, 1) is None
            after = anyio.Event()
            journal.update(key(1), Change({"read_at": 5.0}), after.set)
            await committed(journal)
            assert not after.is_set()
            held.set()
            await after.wait()
            while len(ends) < 2:
                await committed(journal)
            assert sorted(ends) == [1, 2]
            assert result_of(journal, 1) == result_of(journal, 2) == LARGE
            first, second = journal.find("local", "f1"), journal.find("local", "f2")
            assert first is not None
            assert second is not None
            assert (first.state, first.read_at, second.state, second.read_at) == (
                State.COMPLETED,
                5.0,
                State.COMPLETED,
                None,
            )

    run(True, test)


def test_the_end_of_the_bridge_waits_for_large_results(tmp_path: Path, threaded: bool):
    """They are committed, and called back."""
    ends: list[int] = []

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            for number in range(1, 4):
                journal.add(record(number))
                journal.update(key(number), ended({**LARGE, "n": number}), lambda number=number: ends.append(number))

    async def after() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            assert journal.adopted() == []
            assert [result_of(journal, number) for number in range(1, 4)] == [{**LARGE, "n": n} for n in range(1, 4)]

    run(threaded, test)
    assert ends == [1, 2, 3]
    run(threaded, after)


def test_a_failure_meanwhile_calls_back_as_well(tmp_path: Path, held: threading.Event):
    """The call that waits for it goes on."""

    async def test() -> None:
        async with opened(tmp_path / "j") as journal:
            done = anyio.Event()
            journal.add(record(1))
            journal.update(key(1), ended(LARGE), done.set)
            await committed(journal)
            (tmp_path / "j").unlink()
            journal.add(record(2))
            await committed(journal)
            assert not journal.usable
            await done.wait()

    run(True, test)
