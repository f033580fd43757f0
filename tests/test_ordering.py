"""`ordering` against definitions written independently of it: every pair of calls compared, nothing indexed."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import product
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp import ordering
from asyncfc_mcp.errors import ConfigError, InvalidTransition
from asyncfc_mcp.ordering import (
    MAX_DEPTH,
    MAX_PATHS,
    NOTHING,
    Effect,
    Path,
    StateTree,
    conflict,
    declared_effect,
    own_state,
)

# --- effects -------------------------------------------------------------------------------------------------------

ROOT = ("s",)


def is_reference(value: object) -> bool:
    return (isinstance(value, str) and ("$f" in value or "${f:f" in value)) or (
        isinstance(value, dict) and "$future" in value
    )


def bound(path: str, arguments: dict[str, object]) -> list[Path]:
    """The paths that a tool of server `s`, which declares that it writes `path`, has for these arguments."""
    return list(declared_effect(own_state("s"), None, [path], "declared", None).bind(arguments, is_reference).writes)


@pytest.mark.parametrize(
    ("reads", "writes", "order", "annotations", "expected"),
    [
        (None, None, "declared", {"readOnlyHint": True}, Effect((ROOT,), (), "annotation")),
        (None, None, "declared", {"readOnlyHint": True, "destructiveHint": True}, Effect((ROOT,), (), "annotation")),
        (None, None, "declared", {"readOnlyHint": False}, Effect((), (ROOT,), "annotation")),
        (None, None, "declared", {"destructiveHint": True}, Effect((), (ROOT,), "annotation")),
        (None, None, "declared", {"destructiveHint": False, "title": "t"}, Effect((), (), "nothing said")),
        (None, None, "declared", {"readOnlyHint": None}, Effect((), (), "nothing said")),
        (None, None, "declared", None, NOTHING),
        (None, None, "strict", None, Effect((), (ROOT,), "strict")),
        (None, None, "strict", {"idempotentHint": True}, Effect((), (ROOT,), "strict")),
        (None, None, "strict", {"readOnlyHint": True}, Effect((ROOT,), (), "annotation")),
        (["a"], None, "strict", {"readOnlyHint": False}, Effect((("s", "a"),), (), "config")),
        (None, ["a"], "declared", {"readOnlyHint": True}, Effect((), (("s", "a"),), "config")),
        ([], [], "strict", {"destructiveHint": True}, Effect((), (), "config")),
        (["a"], ["b"], "none", {"readOnlyHint": False}, Effect((), (), "off")),
    ],
)
def test_effect_comes_from_config_then_annotations_then_ordering(reads, writes, order, annotations, expected):
    """The nearest source wins; only `ordering: none` wins over the config."""
    assert declared_effect(own_state("s"), reads, writes, order, annotations).bind({}, is_reference) == expected


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("", ROOT),
        (".", ROOT),
        ("fs", ("s", "fs")),
        ("fs/", ("s", "fs")),
        ("./fs//x", ("s", "fs", "x")),
        ("fs/../x", ("s", "x")),
        ("fs\\x", ("s", "fs", "x")),
        ("a{{b}}", ("s", "a{b}")),
        ("{{path}}", ("s", "{path}")),
        ("cafe\u0301", ("s", "caf\u00e9")),
    ],
)
def test_declared_paths_are_normalised_under_the_servers_root(declared, path):
    """Two spellings of one declared path are one path."""
    assert bound(declared, {"path": "never"}) == [path]


def test_a_leading_slash_means_state_shared_between_servers():
    """Tools of two servers that declare one absolute path conflict on it; relative paths of two servers never do."""
    one = declared_effect(own_state("git"), None, ["/repo/{path}"], "declared", None).bind({"path": "a"}, is_reference)
    two = declared_effect(own_state("files"), ["/repo"], None, "declared", None).bind({}, is_reference)
    assert conflict(one, two) == (("", "repo", "a"), ("", "repo"))
    apart = [
        declared_effect(own_state(name), None, ["repo"], "declared", None).bind({}, is_reference) for name in ("a", "b")
    ]
    assert conflict(*apart) is None


def test_shared_state_is_ordered_with_a_tool_of_its_own_server_that_only_says_it_writes():
    """ "Writes something" may be the shared state too, as far as one server is concerned."""
    shared = declared_effect(own_state("git"), None, ["/repo"], "declared", None).bind({}, is_reference)
    vague = declared_effect(own_state("git"), None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference)
    other = declared_effect(own_state("web"), None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference)
    assert conflict(shared, vague) is not None
    assert conflict(shared, other) is None


def test_a_lone_slash_covers_the_servers_root_and_all_shared_state():
    """Whichever of the two was meant, it is protected."""
    assert bound("/", {}) == [("",), ROOT]


@pytest.mark.parametrize("declared", ["a/{path", "a}/b", "{}", "{a{b}", "{a}}"])
def test_a_brace_without_its_partner_is_refused(declared):
    """A typing error in the config is an error at start, not another path."""
    with pytest.raises(ConfigError, match="writes"):
        bound(declared, {})


@pytest.mark.parametrize("declared", ["..", "a/../../b", "/..", "/../x"])
def test_a_declared_path_that_leaves_its_root_is_refused(declared):
    """A path outside the root would silently protect something else."""
    with pytest.raises(ConfigError, match="inside the root"):
        bound(declared, {})


@pytest.mark.parametrize(
    ("value", "tail"),
    [
        ("a/b", ("a", "b")),
        ("a//b", ("a", "b")),
        ("./a", ("a",)),
        ("a/./b/", ("a", "b")),
        ("x/../a", ("a",)),
        ("a/b/../../c", ("c",)),
        ("/a/b", ("a", "b")),
        ("a\\b", ("a", "b")),
        ("C:\\a\\..\\b", ("C:", "b")),
        ("cafe\u0301", ("caf\u00e9",)),
        ("A", ("A",)),
        (" a ", (" a ",)),
        ("...", ("...",)),
        ("{x}", ("{x}",)),
        (7, ("7",)),
        (7.0, ("7",)),
        (-1.5, ("-1.5",)),
        (True, ("true",)),
        ("", ()),
        (".", ()),
        ("/", ()),
        ("..", ()),
        ("../x", ()),
        ("a/../../x", ()),
        ("/../x", ()),
        (None, ()),
        ({}, ()),
        ({"path": "a"}, ()),
        ([], ()),
        ([["a"]], ()),
        (["a", None], ()),
        ("$f3", ()),
        ("dir/${f:f3.name}", ()),
        ({"$future": "f3"}, ()),
        (["a", "$f3"], ()),
        pytest.param(10**5000, (), id="an integer too long to print"),
    ],
)
def test_the_value_of_an_argument_becomes_a_normalised_path(value, tail):
    """One spelling for one path, and the parent path for whatever cannot be known."""
    assert bound("repo/{path}", {"path": value}) == [("s", "repo", *tail)]


def test_a_list_gives_a_path_for_each_element():
    """A tool that takes several files touches those and no others, each once."""
    assert bound("fs/{paths}", {"paths": ["a", "b/c", "./a"]}) == [("s", "fs", "a"), ("s", "fs", "b", "c")]


def test_lists_in_two_placeholders_give_every_combination():
    """Which element goes with which is not known."""
    paths = bound("{a}/x-{b}", {"a": ["1", "2"], "b": ["3", "4"]})
    assert sorted(paths) == [("s", a, f"x-{b}") for a, b in product("12", "34")]


def test_a_placeholder_reaches_into_nested_arguments():
    """`{a.b}` follows objects, and goes through lists element by element; an argument of that very name comes first."""
    assert bound("{a.b}", {"a": {"b": "x"}}) == [("s", "x")]
    assert bound("{files.path}", {"files": [{"path": "x"}, {"path": "y"}]}) == [("s", "x"), ("s", "y")]
    assert bound("{a.b}", {"a.b": "z", "a": {"b": "x"}}) == [("s", "z")]
    assert bound("{a.b}", {"a": "$f1"}) == [ROOT]
    assert bound("{a.b}", {"a": {"c": 1}}) == [ROOT]
    assert bound("{files.path}", {"files": [{"path": "x"}, "y"]}) == [ROOT]
    assert bound("{files.path}", {"files": [{"path": "x"}, {"path": "$f1"}]}) == [ROOT]


def test_an_unknown_value_gives_the_path_above_its_own_segment():
    """What is known above it still separates it from other state."""
    assert bound("repos/{owner}/{repo}/issues", {"owner": "o", "repo": "$f1"}) == [("s", "repos", "o")]
    assert bound("repos/{owner}/{repo}", {"repo": "r"}) == [("s", "repos")]
    assert bound("a/log-{day}/x", {}) == [("s", "a")]


def test_a_value_that_leads_out_of_its_place_gives_the_path_above_all_arguments():
    """`..` in a second placeholder may lead out of the first."""
    assert bound("repos/{owner}/{repo}", {"owner": "o", "repo": "../p"}) == [("s", "repos")]
    assert bound("repos/{owner}/r-{repo}", {"owner": "o", "repo": ".."}) == [("s", "repos")]


def test_text_around_a_placeholder_belongs_to_its_first_and_last_segment():
    """`log-{name}.txt` is one segment unless the value has several."""
    assert bound("log-{name}.txt", {"name": "a"}) == [("s", "log-a.txt")]
    assert bound("log-{name}.txt", {"name": "x/../a"}) == [("s", "log-a.txt")]
    assert bound("log-{name}.txt", {"name": "a/b"}) == [("s", "log-a", "b.txt")]
    assert bound("{schema}.{table}", {"schema": "p", "table": 1}) == [("s", "p.1")]


def test_paths_are_bounded_by_taking_what_contains_them():
    """Arguments cannot make one call cost without limit, and what is cut stays protected."""
    assert bound("fs/{paths}", {"paths": [str(i) for i in range(MAX_PATHS + 1)]}) == [("s", "fs")]
    assert bound("{a}/{b}", {"a": ["x", "y"], "b": [str(i) for i in range(MAX_PATHS)]}) == [("s", "x"), ("s", "y")]
    assert bound("{a}{b}", {"a": ["x", "y"], "b": [str(i) for i in range(MAX_PATHS)]}) == [ROOT]
    [deep] = bound("{path}", {"path": "a/" * 10_000})
    assert deep == ("s", *["a"] * (MAX_DEPTH - 1))


def test_a_template_describes_itself_and_names_its_arguments():
    """`inspect` shows the effect as it was declared, without duplicates of shared paths."""
    said = declared_effect(own_state("s"), ["./fs/{path}", ""], ["/db/{a.b}"], "declared", None)
    assert said.describe() == "reads s/fs/{path}, s; writes /db/{a.b}"
    assert said.placeholders == {"path", "a.b"}
    assert declared_effect(own_state("s"), None, None, "declared", {"readOnlyHint": True}).describe() == "reads s"
    assert declared_effect(own_state("s"), [], None, "declared", None).describe() == "touches nothing"
    assert declared_effect(own_state("s"), None, None, "declared", None).describe() == "nothing said, not ordered"
    assert declared_effect(own_state("s"), None, None, "none", None).describe() == "not ordered"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab./\\${}\u0301"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab$"), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.sampled_from(["a", "{a}", "{b}", "{a.b}", "x-{b}", "{a}{b}", "/", "/", ".", ".."]), max_size=6),
    st.dictionaries(st.sampled_from("ab"), json_values),
)
def test_a_path_never_leaves_its_base_whatever_the_arguments_are(pieces, arguments):
    """Arguments come from a model: they may be anything, and must not move a call out of its server's state."""
    try:
        paths = bound("".join(pieces), arguments)
    except ConfigError:
        return
    assert paths
    for path in paths:
        assert path[:1] in [ROOT, ("",)]
        assert not {"", ".", ".."} & set(path[2:])
        assert len(path) <= MAX_DEPTH


@given(st.text(alphabet="ab./\\", max_size=12))
def test_spellings_of_one_value_give_one_path(value):
    """Repeated, leading and trailing separators, `.` segments and steps into a directory and back change nothing."""
    expected = bound("p/{v}", {"v": value})
    for spelled in ("./" + value, value.replace("/", "//"), value + "/.", "/" + value, value.replace("/", "/q/../")):
        assert bound("p/{v}", {"v": spelled}) == expected


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
            expected = [c.key for c in self.naive.before(call)]
            told = self.tree.blockers(call.key, 2)
            assert [key for key, _ in told] == expected[:2]
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


@given(effects, effects)
def test_conflict_names_two_paths_that_overlap_and_of_which_one_is_written(a, b):
    """What `--explain` shows is a reason, and it agrees with what the tree does."""
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
    """However its own paths overlap."""
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
    """What a cancelled call stood between stays in order, and only that."""
    tree = tree_of("w:a", "w:a w:b", "w:a", "w:b")
    assert tree.settle("2", outcome="void").ready == ["4"]
    assert tree.blockers("3") == [("1", ("s", "a"))]


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
    assert tree.blockers("4") == [("1", ("s", "a"))]


def test_blockers_are_the_first_calls_waited_for_and_where_they_meet():
    """Bounded, in order of submission, each once."""
    tree = tree_of("w:a/x", "r:a w:a/y", "r:b", "w:a/z", "w:")
    assert tree.blockers("5") == [("1", ROOT), ("2", ROOT), ("3", ROOT)]
    assert tree.blockers("5", 1) == [("1", ROOT)]
    assert tree.blockers("2") == [("1", ("s", "a"))]
    assert tree.blockers("4", 9) == [("2", ("s", "a"))]
    assert tree.blockers("1") == []


def test_events_that_cannot_be_are_refused():
    """A wrong event is a bug of the caller and changes nothing."""
    tree = tree_of("w:a", "w:a")
    for wrong in (
        lambda: tree.start("2"),
        lambda: tree.settle("1", outcome="completed"),
        lambda: tree.submit("1", NOTHING),
        lambda: tree.settle("9", outcome="void"),
        lambda: tree.ready("9"),
        lambda: tree.blockers("9"),
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
    """How many lines of `ordering` are executed: a count of steps that no machine's load can change."""
    count = 0

    def line(frame: FrameType, event: str, _: object):
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, _: object):
        return line if frame.f_code.co_filename == ordering.__file__ else None

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
                tree.blockers(key)
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
