"""State tree against definitions written independently of it: every pair of calls compared, nothing indexed."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import product
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core import state_tree as state_tree_module
from asyncfc_mcp.core.effects import NOTHING, Effect, conflict
from asyncfc_mcp.core.state_paths import Path
from asyncfc_mcp.core.state_tree import StateTree
from asyncfc_mcp.errors import InvalidTransition

ROOT = ("s",)

# --- the oracle ----------------------------------------------------------------------------------------------------


def contains(outer: Path, inner: Path) -> bool:
    return inner[: len(outer)] == outer


def clash(a: Path, b: Path) -> bool:
    return contains(a, b) or contains(b, a)


def conflicting(a: Effect, b: Effect) -> bool:
    return any(clash(p, q) for p in a.writes for q in (*b.reads, *b.writes)) or any(
        clash(p, q) for p in a.reads for q in b.writes
    )


@dataclass
class Call:
    key: str
    effect: Effect
    on_failure: str
    state: str = "new"  # new, waiting, running, completed, failed, void, stopped


@dataclass
class Naive:
    """The definition: every pair of calls is compared, every time."""

    calls: list[Call] = field(default_factory=list)

    def before(self, call: Call) -> list[Call]:
        """Unsettled calls that this one has to wait for."""
        earlier = self.calls[: self.calls.index(call)]
        return [c for c in earlier if c.state in ("waiting", "running") and conflicting(c.effect, call.effect)]

    def all_before(self, call: Call) -> set[str]:
        """Keys of the calls that this one waits for, directly or through others."""
        return {key for c in self.before(call) for key in (c.key, *self.all_before(c))}

    def ready(self) -> list[str]:
        return [c.key for c in self.calls if c.state == "waiting" and not self.before(c)]

    def stop_behind(self, failed: Call) -> dict[str, set[str]]:
        """Stopped calls, each with all the failed or stopped calls that it conflicts with by what those write."""
        behind: dict[str, set[str]] = {}
        culprits = [failed]
        for call in self.calls[self.calls.index(failed) + 1 :]:
            if call.state != "waiting" or not call.effect.writes or call.on_failure != "stop":
                continue
            touched = (*call.effect.reads, *call.effect.writes)
            causes = {c.key for c in culprits if any(clash(p, q) for p in c.effect.writes for q in touched)}
            if causes:
                behind[call.key] = causes
                culprits.append(call)
        for call in culprits[1:]:
            call.state = "stopped"
        return behind


names = st.sampled_from("ab")
paths = st.lists(names, max_size=3).map(lambda below: ("s", *below))
path_tuples = st.lists(paths, max_size=2).map(tuple)
effects = st.builds(Effect, path_tuples, path_tuples, st.just("config"))

# The cells of the model: one for each node that a path can name, so that a call on a path touches all cells below it.
CELLS = [("s", *below) for depth in range(4) for below in product("ab", repeat=depth)]


@dataclass
class World:
    """Cells hold the history of what was written to them. A call reads when it starts and writes when it ends; between
    the two its cells are torn, so whoever looks at them then has another result than in sequence."""

    cells: dict[Path, tuple[object, ...]] = field(default_factory=lambda: dict.fromkeys(CELLS, ()))
    results: dict[str, object] = field(default_factory=dict)

    def begin(self, call: Call) -> None:
        seen = [(cell, self.cells[cell]) for path in call.effect.reads for cell in CELLS if contains(path, cell)]
        self.results[call.key] = hash(tuple(seen))
        for cell in self.written(call):
            self.cells[cell] += ("torn by " + call.key,)

    def end(self, call: Call, *, failed: bool) -> None:
        # A failed call wrote, too: its effect is unknown, so order must hold for it as well.
        for cell in self.written(call):
            assert self.cells[cell][-1] == "torn by " + call.key
            self.cells[cell] = (*self.cells[cell][:-1], (call.key, failed, self.results[call.key]))

    @staticmethod
    def written(call: Call) -> set[Path]:
        return {cell for path in call.effect.writes for cell in CELLS if contains(path, cell)}


@dataclass
class Run:
    """A tree, the definition and a world, driven together and compared after each step."""

    tree: StateTree = field(default_factory=StateTree)
    naive: Naive = field(default_factory=Naive)
    world: World = field(default_factory=World)

    def in_state(self, state: str) -> list[Call]:
        return [call for call in self.naive.calls if call.state == state]

    def submit(self, effect: Effect, on_failure: str) -> None:
        call = Call(f"f{len(self.naive.calls) + 1}", effect, on_failure, "waiting")
        self.naive.calls.append(call)
        self.tree.submit(call.key, effect, on_failure=on_failure)
        self.check()

    def start(self, call: Call) -> None:
        self.tree.start(call.key)
        call.state = "running"
        self.world.begin(call)
        self.check()

    def settle(self, call: Call, outcome: str) -> None:
        was_ready = set(self.naive.ready())
        if call.state == "running":
            self.world.end(call, failed=outcome == "failed")
        settled = self.tree.settle(call.key, outcome=outcome)
        causes = self.naive.stop_behind(call) if outcome == "failed" else {}
        call.state = outcome
        assert [key for key, _ in settled.stopped] == list(causes), "in order of submission"
        assert all(before in causes[key] for key, before in settled.stopped)
        assert settled.ready == [key for key in self.naive.ready() if key not in was_ready]
        self.check()

    def check(self) -> None:
        waiting, ready = self.in_state("waiting"), set(self.naive.ready())
        assert len(self.tree) == len(waiting) + len(self.in_state("running"))
        assert {call.key for call in waiting if self.tree.ready(call.key)} == ready
        for call in waiting:
            before = self.naive.before(call)
            implied = {key for other in before for key in self.naive.all_before(other)}
            expected = [c.key for c in before if c.key not in implied]
            assert [key for key, _ in self.tree.nearest(call.key, 2)] == expected[-3:]
            told = self.tree.nearest(call.key)
            assert [key for key, _ in told] == expected
            for key, path in told:
                other = next(c for c in self.naive.calls if c.key == key)
                met = Effect((path,), (path,), "")
                assert conflicting(met, call.effect)
                assert conflicting(met, other.effect)

    def in_sequence(self) -> World:
        """The world after the calls that ran, one after another in the order in which they were submitted."""
        world = World()
        for call in self.naive.calls:
            if call.key in self.world.results:
                world.begin(call)
                world.end(call, failed=call.state == "failed")
        return world


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(effects, st.sampled_from(["stop", "stop", "continue"])), max_size=9), st.data())
def test_any_interleaving_gives_the_results_and_the_state_of_the_calls_in_sequence(planned, data):
    """The promise: the order in which calls may run changes when things happen, never what they do. Failures before and
    after the start, cancellations of waiting calls and late submissions come at any time; nothing gets stuck, stops
    more than fail-stop says, or leaves anything behind."""
    run, todo = Run(), list(planned)
    while True:
        waiting, running = run.in_state("waiting"), run.in_state("running")
        ready = [call for call in waiting if run.tree.ready(call.key)]
        assert ready or running or not waiting, "deadlock"
        steps = [
            *(["submit"] if todo else []),
            *(["start", "start"] if ready else []),
            *(["complete", "complete", "fail"] if running else []),
            *(["drop"] if waiting else []),
        ]
        if not steps:
            break
        match data.draw(st.sampled_from(steps)):
            case "submit":
                run.submit(*todo.pop(0))
            case "start":
                run.start(data.draw(st.sampled_from(ready)))
            case "complete":
                run.settle(data.draw(st.sampled_from(running)), "completed")
            case "fail":
                run.settle(data.draw(st.sampled_from(running)), "failed")
            case _:
                run.settle(data.draw(st.sampled_from(waiting)), data.draw(st.sampled_from(["void", "failed"])))
    assert all(call.state in ("completed", "failed", "void", "stopped") for call in run.naive.calls)
    assert len(run.tree) == 0
    assert run.tree.size == 0
    sequential = run.in_sequence()
    assert run.world.results == sequential.results
    assert run.world.cells == sequential.cells


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(effects, st.integers(1, 9), st.booleans()), max_size=12))
def test_each_call_starts_the_moment_the_last_conflicting_call_before_it_ends(planned):
    """No needless serialisation: with unlimited capacity each call ends when the critical path to it says, on a virtual
    clock; calls that were cancelled while they waited make nobody wait for longer."""
    tree, ends, expected = StateTree(), {}, {}
    for i, (effect, _, _) in enumerate(planned):
        tree.submit(str(i), effect)
    for i, (_, _, cancelled) in enumerate(planned):
        if cancelled:
            tree.settle(str(i), outcome="void")
    clock: list[tuple[int, int]] = []

    def start(i: int, now: int) -> None:
        tree.start(str(i))
        heappush(clock, (now + planned[i][1], i))

    for i, (effect, lasts, cancelled) in enumerate(planned):
        if not cancelled:
            earlier = [end for j, end in expected.items() if conflicting(planned[j][0], effect)]
            expected[i] = max(earlier, default=0) + lasts
            if tree.ready(str(i)):
                start(i, 0)
    while clock:
        now, i = heappop(clock)
        ends[i] = now
        for key in tree.settle(str(i), outcome="completed").ready:
            start(int(key), now)
    assert ends == expected


@settings(deadline=None)
@given(effects, effects)
def test_conflict_names_two_paths_that_overlap_and_of_which_one_is_written(a, b):
    """The reason in `--explain` is valid, and agrees with the tree."""
    tree = StateTree()
    tree.submit("a", a)
    tree.submit("b", b)
    found = conflict(a, b)
    assert (found is not None) == conflicting(a, b) == (not tree.ready("b"))
    if found is not None:
        mine, theirs = found
        assert clash(mine, theirs)
        assert mine in (*a.reads, *a.writes)
        assert theirs in (*b.reads, *b.writes)
        assert mine in a.writes or theirs in b.writes


# --- examples ------------------------------------------------------------------------------------------------------


def effect(text: str) -> Effect:
    """`"r:a/b w:c"` → reads `("s", "a", "b")`, writes `("s", "c")`; `"w:"` writes the root."""
    kinds: dict[str, list[Path]] = {"r": [], "w": []}
    for word in text.split():
        kind, path = word.split(":")
        kinds[kind].append(("s", *filter(None, path.split("/"))))
    return Effect(tuple(kinds["r"]), tuple(kinds["w"]), "config")


def tree_of(*texts: str, on_failure: str = "stop") -> StateTree:
    """Calls "1", "2", … with these effects, none of them started."""
    tree = StateTree()
    for number, text in enumerate(texts, 1):
        tree.submit(str(number), effect(text), on_failure=on_failure)
    return tree


def ready(tree: StateTree, count: int) -> str:
    return "".join(str(number) for number in range(1, count + 1) if str(number) in tree and tree.ready(str(number)))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("r:a", "r:a", True),
        ("r:", "r:a", True),
        ("w:a", "w:b", True),
        ("w:a/b", "r:a/c", True),
        ("w:a", "w:ab", True),
        ("", "w:", True),
        ("w:a", "r:a", False),
        ("r:a", "w:a", False),
        ("w:a", "r:a/b", False),
        ("r:a/b", "w:a", False),
        ("w:a/b", "r:", False),
        ("r:", "w:a/b", False),
        ("w:a/b", "w:a", False),
        ("r:a w:b", "r:b", False),
    ],
)
def test_two_calls_run_together_unless_one_writes_what_the_other_touches(first, second, together):
    """Equal paths and paths above and below conflict; two reads never do."""
    assert tree_of(first, second).ready("2") is together


@pytest.mark.parametrize("text", ["r:a w:a", "r:a w:a/b", "r:a/b w:a", "r: w:a w: r:a/b w:a/b", "w:a w:a"])
def test_a_call_never_waits_for_itself(text):
    """Overlaps of its own paths have no effect."""
    tree = tree_of(text)
    assert tree.ready("1")
    tree.start("1")
    tree.settle("1", outcome="completed")
    assert tree.size == 0


def test_reads_behind_a_cancelled_write_do_not_wait_for_the_reads_before_it():
    """A cancelled write leaves no barrier."""
    tree = tree_of("r:a", "w:a", "r:a")
    assert ready(tree, 3) == "1"
    assert tree.settle("2", outcome="void").ready == ["3"]


def test_order_holds_across_a_cancelled_call():
    """Exactly the calls on both sides of a cancelled call that conflict remain ordered."""
    tree = tree_of("w:a", "w:a w:b", "w:a", "w:b")
    assert tree.settle("2", outcome="void").ready == ["4"]
    assert tree.nearest("3") == [("1", ("s", "a"))]


def test_fail_stop_passes_a_cancelled_call():
    """The cancelled write between two writes does not save the second."""
    tree = tree_of("w:a", "w:a", "w:a")
    tree.settle("2", outcome="void")
    tree.start("1")
    assert tree.settle("1", outcome="failed").stopped == [("3", "1")]


@pytest.mark.parametrize(
    ("texts", "released", "stopped"),
    [
        (["w:a", "w:a"], [], [("2", "1")]),
        (["w:a", "w:b"], [], []),
        (["w:a", "r:a", "w:a"], ["2"], [("3", "1")]),
        (["w:a/x", "r:", "w:a"], ["2"], [("3", "1")]),
        (["w:a", "r:a w:b", "w:b", "r:b"], ["4"], [("2", "1"), ("3", "2")]),
        (["w:a", "w:a w:b", "w:b w:c", "w:c"], [], [("2", "1"), ("3", "2"), ("4", "3")]),
        (["w:a", "r:", "w:b"], ["2"], []),
        (["r:a", "w:a"], ["2"], []),
        (["w:b r:a", "w:a"], ["2"], []),
    ],
)
def test_a_failed_write_stops_the_writes_behind_it_and_lets_reads_go_on(texts, released, stopped):
    """Fail-stop follows what was to be written, from one stopped write to the next, and no further; what is released
    comes at once or when what it still waits for ends."""
    tree = tree_of(*texts)
    tree.start("1")
    settled = tree.settle("1", outcome="failed")
    assert (settled.ready, settled.stopped) == (released, stopped)
    assert all(key not in tree for key, _ in stopped)


def test_by_default_a_failure_stops_nothing():
    """The calls behind a failed write are made, as they are by a host that makes the same calls directly."""
    tree = StateTree()
    for key in "12":
        tree.submit(key, effect("w:a"))
    tree.start("1")
    settled = tree.settle("1", outcome="failed")
    assert (settled.ready, settled.stopped) == (["2"], [])


def test_what_is_submitted_after_a_failure_goes_on():
    """The model has seen the failure, or could have."""
    tree = tree_of("w:a", "w:a")
    tree.settle("1", outcome="failed")
    tree.submit("3", effect("w:a"), on_failure="stop")
    assert tree.ready("3")


def test_on_failure_continue_is_of_the_call_that_would_be_stopped():
    """A call that goes on in any case neither stops nor saves the others."""
    tree = tree_of("w:a")
    tree.submit("2", effect("w:a w:b"), on_failure="continue")
    tree.submit("3", effect("w:b"), on_failure="stop")
    tree.submit("4", effect("w:a"), on_failure="stop")
    settled = tree.settle("1", outcome="failed")
    assert settled.stopped == [("4", "1")]
    assert settled.ready == ["2"]
    assert not tree.ready("3")


def test_a_call_that_fails_before_it_starts_stops_what_is_behind_it_and_nothing_before_it():
    """A failed dependency is a failure, too; the order with calls before it stays."""
    tree = tree_of("w:a", "w:a", "w:a", "r:a")
    settled = tree.settle("2", outcome="failed")
    assert (settled.ready, settled.stopped) == ([], [("3", "2")])
    assert tree.nearest("4") == [("1", ("s", "a"))]


def test_the_nearest_calls_are_those_that_no_other_of_them_waits_for():
    """In order of submission, with the place where they meet; bounded to the latest ones."""
    tree = tree_of("w:a/x", "r:a w:a/y", "r:b", "w:a/z", "w:")
    assert tree.nearest("5") == [("3", ROOT), ("4", ROOT)]
    assert tree.nearest("2") == [("1", ("s", "a"))]
    assert tree.nearest("4") == [("2", ("s", "a"))]
    assert tree.nearest("1") == []
    reads = tree_of("w:a", *["r:a"] * 9, "w:a")
    assert [key for key, _ in reads.nearest("11")] == [str(number) for number in range(2, 11)]
    assert [key for key, _ in reads.nearest("11", 3)] == ["7", "8", "9", "10"], "one more: there are others"
    assert reads.nearest("5") == [("1", ("s", "a"))]


def test_a_call_that_another_place_implies_is_not_named():
    """`4` waits for `3`, that for `2`, and that for `1`, although `4` meets `1` itself and not `2`."""
    tree = tree_of("r:a/x", "w:a/x r:b", "w:b", "w:a/y w:b r:a/x")
    assert tree.nearest("4") == [("3", ("s", "b"))]


def test_events_that_cannot_be_are_refused():
    """A wrong event is a bug of the caller and changes nothing."""
    tree = tree_of("w:a", "w:a")
    for wrong in (
        lambda: tree.start("2"),
        lambda: tree.settle("1", outcome="completed"),
        lambda: tree.submit("1", NOTHING),
        lambda: tree.settle("9", outcome="void"),
        lambda: tree.ready("9"),
        lambda: tree.nearest("9"),
    ):
        with pytest.raises(InvalidTransition):
            wrong()
    tree.start("1")
    with pytest.raises(InvalidTransition):
        tree.start("1")
    with pytest.raises(ValueError, match="server"):
        tree.submit("3", Effect((), ((),), "config"))
    tree.settle("1", outcome="completed")
    tree.settle("2", outcome="void")
    assert (len(tree), tree.size) == (0, 0)


# --- what it costs -------------------------------------------------------------------------------------------------


def lines_run(work: Callable[[], object]) -> int:
    """Return the number of lines of `state_tree` that are executed: a count of steps that does not depend on load."""
    count = 0

    def line(frame: FrameType, event: str, _: object):
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, _: object):
        return line if frame.f_code.co_filename == state_tree_module.__file__ else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def drain(tree: StateTree, keys: list[str], outcome: str) -> None:
    """Run everything, the latest that is ready first, which is the least regular order."""
    ready = [key for key in keys if tree.ready(key)]
    while ready:
        key = ready.pop()
        tree.start(key)
        ready += tree.settle(key, outcome=outcome).ready
    assert tree.size == 0


def sparse(i: int) -> str:
    return f"w:fs/{i % 7}/shared" if i % 10 == 0 else f"w:fs/{i % 7}/{i}"


def leaves_then_roots(count: int) -> Callable[[int], str]:
    return lambda i: f"w:fs/{i}" if i < count * 3 // 4 else ("r:", f"w:fs/{i}", "r:fs", "w:")[i % 4]


def one_path(i: int) -> str:
    return "r:a" if i % 3 else "w:a"


@pytest.mark.parametrize("outcome", ["completed", "failed"])
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
@pytest.mark.parametrize("pattern", ["10 % conflicts", "leaves, then roots", "one path"])
def test_a_call_costs_the_same_however_many_are_pending(pattern, on_failure, outcome):
    """Steps for each call, submitted, shown with what it waits for, run and settled, do not grow with the number of
    calls that are queued, whatever they are queued for."""

    def steps_for_each(count: int) -> float:
        text = {"10 % conflicts": sparse, "leaves, then roots": leaves_then_roots(count), "one path": one_path}[pattern]
        effects = [effect(text(i)) for i in range(count)]
        keys = [str(i) for i in range(count)]
        tree = StateTree()

        def work() -> None:
            for key, touched in zip(keys, effects, strict=True):
                tree.submit(key, touched, on_failure=on_failure)
                tree.nearest(key, 3)
            drain(tree, keys, outcome)

        return lines_run(work) / count

    few, many = steps_for_each(500), steps_for_each(4_000)
    assert many < few * 1.1
    assert many < 600


def test_ten_thousand_pending_calls_cost_as_much_each_as_a_few():
    """10,000 submissions, a tenth of which conflict."""
    tree = StateTree()
    effects = [effect(sparse(i)) for i in range(10_000)]

    def work() -> None:
        for i, touched in enumerate(effects):
            tree.submit(str(i), touched)

    assert lines_run(work) < 150 * len(effects)
    assert tree.size < 10 * len(effects)
    assert lines_run(lambda: drain(tree, [str(i) for i in range(len(effects))], "completed")) < 150 * len(effects)


def test_cancelled_calls_leave_nothing_while_others_still_wait():
    """Memory belongs to calls that are there: a slow call at the head keeps no trace of those that came and went."""
    tree = tree_of("w:a", "w:a")
    size = tree.size
    for i in range(3, 1_000):
        tree.submit(str(i), effect("w:a/b r:c"))
        tree.settle(str(i), outcome="void")
    assert tree.size == size
