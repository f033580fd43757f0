"""IDs of futures: none is given twice in a scope, whatever ends, runs at the same time, or is broken on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Event
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, Scope
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine import future_ids
from asyncfc_mcp.engine.future_ids import FIRST_BLOCK, LARGEST_BLOCK, FutureIds
from asyncfc_mcp.errors import UnknownFuture

WRAPPED = "/somewhere/mcp.json"


def start(folder: Path | None, since: float | None = None) -> FutureIds:
    """A bridge's counts; `since` tells bridges of one process apart."""
    ids = FutureIds(folder, WRAPPED)
    if since is not None:
        ids._since = since
    return ids


def test_ids_begin_at_1_and_go_on_after_a_clean_stop_without_a_gap(tmp_path: Path):
    """What was not used is given back."""
    ids = start(tmp_path)
    assert [ids.count("local").take() for _ in range(3)] == [1, 2, 3]
    ids.close()
    ids = start(tmp_path)
    assert ids.count("local").take() == 4


def test_a_crash_leaves_a_gap_and_nothing_else(tmp_path: Path):
    """What was reserved and not used is never given."""
    start(tmp_path).count("local").take()
    assert start(tmp_path).count("local").take() == FIRST_BLOCK + 1


def test_bridges_that_run_at_once_share_no_id(tmp_path: Path):
    """Each takes blocks of its own, in turn, and whoever stops first gives back only what nobody stands behind."""
    one, two = start(tmp_path, 1.0), start(tmp_path, 2.0)
    taken = [ids.count("local").take() for _ in range(500) for ids in (one, two)]
    one.close()
    two.close()
    three = start(tmp_path)
    taken += [three.count("local").take() for _ in range(500)]
    assert len(set(taken)) == len(taken)


def test_scopes_and_configurations_count_for_themselves(tmp_path: Path):
    """A token's first ID is f1, whatever others have."""
    assert start(tmp_path).count("local").take() == 1
    assert start(tmp_path).count("token").take() == 1
    assert FutureIds(tmp_path, "another.json").count("local").take() == 1


def test_calls_cost_no_access_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One for each block, and blocks grow."""
    writes = 0
    write = future_ids.Count._write

    def counted(count: future_ids.Count, file: future_ids._File) -> None:
        nonlocal writes
        writes += 1
        write(count, file)

    monkeypatch.setattr(future_ids.Count, "_write", counted)
    count = start(tmp_path).count("local")
    numbers = [count.take() for _ in range(100_000)]
    assert numbers == list(range(1, 100_001))
    assert writes < 10 + 100_000 / LARGEST_BLOCK


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["take", "many", "close", "crash"])), max_size=40))
def test_no_history_of_starts_stops_and_crashes_gives_an_id_twice(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, str]]
):
    """Up to four bridges at a time."""
    folder = tmp_path_factory.mktemp("ids")
    bridges: dict[int, FutureIds] = {}
    taken: list[int] = []
    for step, (which, what) in enumerate(history):
        bridge = bridges.setdefault(which, start(folder, float(step)))
        match what:
            case "take" | "many":
                taken += [bridge.count("local").take() for _ in range(1 if what == "take" else 3 * FIRST_BLOCK)]
            case _:
                if what == "close":
                    bridge.close()
                del bridges[which]
    assert len(set(taken)) == len(taken)


TAKE = """
import sys
from pathlib import Path
from asyncfc_mcp.engine.future_ids import FutureIds
count = FutureIds(Path(sys.argv[1]), "x").count("local")
print(*[count.take() for _ in range(3000)])
"""


def test_processes_that_start_at_once_share_no_id(tmp_path: Path):
    """The lock holds between processes."""
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    taken = [number for process in processes for number in process.communicate()[0].split()]
    assert len(taken) == 6 * 3000
    assert len(set(taken)) == len(taken)


def broken(kind: str, folder: Path) -> Path:
    """A folder in which no count can be kept."""
    if kind == "a file":
        (folder / "ids").write_text("")
        return folder / "ids"
    start(folder).count("local").take()
    [path] = folder.glob("*.json")
    path.write_text({"cut": "[65,[[1,", "empty": "", "other": '{"next": "f1"}', "list": "[1]"}[kind])
    return folder


@pytest.mark.parametrize("kind", ["a file", "cut", "empty", "other", "list", "none"])
def test_without_a_count_ids_are_long_and_still_never_the_same(kind: str, tmp_path: Path):
    """They begin at the clock, which goes on; short ones could be another call's."""
    folder = None if kind == "none" else broken(kind, tmp_path)
    taken: list[int] = []
    for _ in range(2):
        count = start(folder).count("local")
        taken += [count.take() for _ in range(10 * FIRST_BLOCK)]
        future_ids.time.sleep(0.002)
    assert len(set(taken)) == len(taken)
    assert min(taken) > 1_000_000_000


@pytest.mark.skipif(os.name != "posix", reason="the lock is tried in another way there")
def test_a_lock_that_somebody_keeps_does_not_stop_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stopped process may hold it; then IDs are long, too."""
    monkeypatch.setattr(future_ids, "LOCK_PAUSE_S", 0.0)
    count = start(tmp_path).count("local")
    with future_ids._locked(tmp_path / "x.json"):
        pass
    assert count._path is not None
    with future_ids._locked(count._path):
        assert count.take() > 1_000_000_000


# --- what is said of an ID that has no future ------------------------------------------------------------------------


def said(store: FutureStore, ref: str, scope: Scope = LOCAL) -> str:
    with pytest.raises(UnknownFuture) as unknown:
        store.get(scope, ref)
    return str(unknown.value)


def store_of(ids: FutureIds) -> FutureStore:
    return FutureStore(lambda: 0.0, numbers=ids.count)


def test_an_id_from_before_the_restart_says_so(tmp_path: Path):
    """With the time, and what to do; one that was never given is unknown as before."""
    before = start(tmp_path)
    for _ in range(3):
        store_of(before).create(LOCAL, tool="t", server="s")
    before.close()
    store = store_of(start(tmp_path, 1_790_000_000.0))
    when = future_ids._clock_time(1_790_000_000.0)
    expected = f"f2 is from before the restart at {when}; its result is not available here: call the tool again."
    assert said(store, "f2").startswith(expected)
    assert said(store, "$f2").startswith(f"$f2 is from before the restart at {when}")
    store.create(LOCAL, tool="t", server="s")
    assert said(store, "f2").startswith(expected)
    for never in ("f9", "f0", "name", "f" + "9" * 30, "f" + "a" * 32):
        assert said(store, never).startswith(f"Unknown future '{never}'")


def test_an_id_of_another_bridge_that_runs_is_not_said_to_be_old(tmp_path: Path):
    """It is named, with its process."""
    store_of(start(tmp_path, 1.0)).create(LOCAL, tool="t", server="s")
    store = store_of(start(tmp_path, 2.0))
    store.create(LOCAL, tool="t", server="s")
    assert "f1 is from another bridge with this configuration, which runs since 1970-01-01" in said(store, "f1")
    assert f"(process {os.getpid()})" in said(store, "f1")


def test_an_id_without_a_count_is_said_to_be_of_another_run():
    """More is not known."""
    store = store_of(start(None))
    store.create(LOCAL, tool="t", server="s")
    assert "f1 is not from this run of the bridge, which began at " in said(store, "f1")


def test_a_future_that_was_read_long_ago_is_said_to_be_forgotten():
    """Not to be unknown."""
    now = 0.0
    store = FutureStore(lambda: now, keep_s=10)
    future = store.create(LOCAL, tool="t", server="s")
    future.apply(Event.CANCEL)
    store.mark_ended(future)
    store.mark_read(future)
    now = 100.0
    store.create(LOCAL, tool="t", server="s")
    assert said(store, "f1").startswith("f1 was read long ago and is forgotten")
    assert said(store, "f3").startswith("Unknown future 'f3'")


def test_a_scope_that_is_not_listed_says_nothing_of_its_ids(tmp_path: Path):
    """They are random, and whoever has one may not learn about others."""
    ids = start(tmp_path)
    store = store_of(ids)
    assert len(store.create(PUBLIC, tool="t", server="s").id) == 33
    assert said(store, "f1", PUBLIC).startswith("Unknown future 'f1'")
    assert not list(tmp_path.iterdir())
