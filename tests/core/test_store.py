"""Store of futures: it keeps scopes apart and loses nothing unread."""

import gc
import re
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncfc_mcp.core.futures import Event, Future, State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, CallerIdentity, Scope, future_key, id_of
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.errors import (
    AmbiguousName,
    ForeignName,
    InvalidName,
    NameInUse,
    TooManyFutures,
    UnknownFuture,
)

ALICE, BOB = Scope("alice"), Scope("bob")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FutureStore:
    return FutureStore(clock, max_pending=100, max_bytes=1000, keep_s=60)


def make(store: FutureStore, scope: Scope = LOCAL, name: str | None = None) -> Future:
    return store.create(scope, tool="tool", server="server", name=name)


def finish(store: FutureStore, future: Future, size: int = 10) -> Future:
    """Let a future complete with a result of `size` bytes."""
    if future.state is State.WAITING:
        future.apply(Event.START)
    future.apply(Event.COMPLETE)
    store.mark_ended(future)
    store.weigh(future, size)
    return future


# --- identity ------------------------------------------------------------------------------------------------------


def test_an_id_in_capitals_is_found_unless_it_is_a_name_or_stands_in_arguments(store: FutureStore):
    """Models write `F1`; in a tool's arguments that may be a cell of a spreadsheet."""
    first = make(store)
    assert store.get(LOCAL, "F1") is store.get(LOCAL, "$F1") is first
    assert store.find_referenced(LOCAL, "F1") is None
    named = make(store, name="F1")
    assert store.get(LOCAL, "F1") is store.find_referenced(LOCAL, "F1") is named
    assert "is forgotten" in str(store.fate(LOCAL, "F2"))


def test_a_key_finds_its_future_in_any_scope(store: FutureStore):
    """A key is unique across scopes, and contains the future's ID."""
    ours, theirs = make(store, ALICE), make(store, Scope("https://host/bob"))
    for future in (ours, theirs):
        assert future.key == future_key(future.scope, future.id)
        assert id_of(future.key) == future.id
        assert store.with_key(future.key) is future
    assert store.with_key("nobody/f1") is None
    assert store.with_key("alice/f2") is None


def test_ids_are_short_and_counted_per_scope(store: FutureStore):
    """`f1`, `f2`, … in every scope, so that IDs cost a model few tokens and tell nothing of other scopes."""
    assert [make(store, ALICE).id for _ in range(3)] == ["f1", "f2", "f3"]
    assert [make(store, BOB).id for _ in range(2)] == ["f1", "f2"]


def test_an_id_is_never_given_twice(store: FutureStore, clock: Clock):
    """Even after its future was dropped: an old ID in a conversation must not refer to another call."""
    store.mark_read(finish(store, make(store)))
    clock.now += 61
    assert make(store).id == "f2"
    assert store.find(LOCAL, "f1") is None
    assert make(store).id == "f3"


@pytest.mark.parametrize("written", ["f1", "$f1", " f1 ", " $f1"])
def test_a_dollar_and_spaces_around_an_id_are_tolerated(store: FutureStore, written: str):
    """Models write references where IDs are asked for."""
    future = make(store)
    assert store.get(LOCAL, written) is future


@pytest.mark.parametrize("written", ["search", "$search"])
def test_a_name_finds_its_future_like_an_id(store: FutureStore, written: str):
    """A name stands wherever an ID does."""
    future = make(store, name="search")
    assert store.get(LOCAL, written) is future
    assert future.id == "f1"


def test_a_name_in_use_is_refused_and_nothing_is_created(store: FutureStore):
    """A live name means one call; the error says which and what to do."""
    make(store, name="s")
    with pytest.raises(NameInUse, match=r"'s' belongs to f1, which is unfinished"):
        make(store, name="s")
    assert store.pending == 1
    assert [future.id for future in store.newest(LOCAL)] == ["f1"]


def test_the_name_of_an_ended_future_is_bound_anew(store: FutureStore):
    """Names are few and good ones are wanted again; the old future keeps its ID."""
    first = finish(store, make(store, name="s"))
    second = make(store, name="s")
    assert store.get(LOCAL, "s") is second
    assert store.get(LOCAL, "f1") is first


def named(store: FutureStore, namer: CallerIdentity, name: str = "doc") -> Future:
    """An ended future to which a caller gave a name."""
    return finish(store, store.create(LOCAL, tool="tool", server="server", name=name, namer=namer))


def test_each_caller_has_names_of_its_own(store: FutureStore):
    """The same name at the same time, unfinished ones too; each caller finds its own."""
    one, two = CallerIdentity(), CallerIdentity()
    first = store.create(LOCAL, tool="t", server="s", name="doc", namer=one)
    second = store.create(LOCAL, tool="t", server="s", name="doc", namer=two)
    for look_up in (store.find_own, store.find, store.find_referenced, store.get):
        assert look_up(LOCAL, "doc", one) is first
        assert look_up(LOCAL, "$doc", two) is second
    with pytest.raises(NameInUse, match="f1"):
        store.check_name(LOCAL, "doc", one)


def test_a_name_of_one_other_caller_is_found_and_of_two_is_ambiguous(store: FutureStore):
    """Reading by name works after a reconnect; the error has all IDs."""
    first, reader = named(store, CallerIdentity()), CallerIdentity()
    assert store.find_own(LOCAL, "doc", reader) is None
    assert store.find(LOCAL, "doc", reader) is first
    named(store, CallerIdentity())
    with pytest.raises(AmbiguousName, match="f1 and f2"):
        store.get(LOCAL, "doc", reader)


def test_a_reference_takes_no_name_of_a_caller_that_goes_on(store: FutureStore):
    """Only one whose session has ended hands its names over."""
    holder, reader = CallerIdentity(), CallerIdentity()
    first = named(store, holder)
    with pytest.raises(ForeignName, match=r"f1.*\$f1.*\$\$doc"):
        store.find_referenced(LOCAL, "doc", reader)
    holder.ended = True
    assert store.find_referenced(LOCAL, "doc", reader) is first


def test_a_name_taken_twice_by_callers_that_cannot_be_told_apart_is_ambiguous(store: FutureStore, clock: Clock):
    """Until one of the two is forgotten; IDs are never ambiguous."""
    shared = CallerIdentity("host", shared=True)
    first = named(store, shared)
    assert store.find_own(LOCAL, "doc", shared) is first
    second = named(store, shared)
    for look_up in (store.find_own, store.find, store.find_referenced, store.get):
        with pytest.raises(AmbiguousName, match="f1 and f2"):
            look_up(LOCAL, "doc", shared)
        assert look_up(LOCAL, "f2", shared) is second
    store.mark_read(first)
    clock.now += 61
    make(store)
    assert store.find_own(LOCAL, "doc", shared) is second


def test_names_of_forgotten_futures_leave_nothing_behind(store: FutureStore, clock: Clock):
    """For all kinds of callers."""
    for namer in (None, CallerIdentity(), CallerIdentity(shared=True)):
        future = finish(store, store.create(LOCAL, tool="t", server="s", name="n", namer=namer))
        store.mark_read(future)
    clock.now += 61
    make(store)
    assert store.find(LOCAL, "n") is None
    assert store.check_name(LOCAL, "n") == "n"


def test_forgetting_an_old_holder_leaves_the_name_with_the_new_one(store: FutureStore, clock: Clock):
    """A rebound name survives the end of the retention of the future that had it before."""
    store.mark_read(finish(store, make(store, name="s")))
    second = make(store, name="s")
    clock.now += 61
    make(store)
    assert store.find(LOCAL, "f1") is None
    assert store.get(LOCAL, "s") is second


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "1st",
        "a b",
        "a.b",
        "a$",
        "$a",
        "ä",
        "a" * 65,
        "-a",
        "f1",
        "f0",
        "f99999",
        "f" + "0" * 32,
        7,
        True,
        ["a"],
    ],
)
def test_a_name_that_could_not_be_referred_to_is_refused(store: FutureStore, name: object):
    """Nothing that looks like an ID, breaks a reference's syntax, or is no text."""
    with pytest.raises(InvalidName):
        store.create(LOCAL, tool="tool", server="server", name=name)  # type: ignore[arg-type]
    assert store.pending == 0


@pytest.mark.parametrize("name", ["a", "_", "search_2", "the-page", "A" * 64, "f", "fx", "foo1", "F1", "f1a"])
def test_a_good_name_is_accepted(store: FutureStore, name: str):
    """A letter or an underscore, then letters, digits, `_` and `-`."""
    assert make(store, name=name).name == name


def test_an_unknown_future_is_answered_with_the_nearest(store: FutureStore):
    """A mistyped ID or name costs one turn, not a conversation."""
    make(store, name="search")
    for _ in range(9):
        make(store)
    with pytest.raises(UnknownFuture, match=r"Unknown future 'serch'\. Nearest: search"):
        store.get(LOCAL, "serch")
    with pytest.raises(UnknownFuture, match=r"Nearest: f10"):
        store.get(LOCAL, "f100")
    with pytest.raises(UnknownFuture, match=r"Nearest: f10, f9, f8\. list_futures"):
        store.get(LOCAL, "zzz")


@pytest.mark.parametrize("written", ["1", "$1", "f01", "f0", "F001"])
def test_a_text_that_was_never_an_id_is_unknown_not_forgotten(store: FutureStore, written: str):
    """Only an ID that was given can have been forgotten: `1` is none, though `f1` is."""
    make(store)
    assert store.fate(LOCAL, written) is None
    with pytest.raises(UnknownFuture, match="Unknown future"):
        store.get(LOCAL, written)


def test_an_unknown_future_says_so_where_there_are_none(store: FutureStore):
    """A first call that is an await gets an explanation."""
    with pytest.raises(UnknownFuture, match="There are no futures yet"):
        store.get(LOCAL, "f1")


# --- scopes --------------------------------------------------------------------------------------------------------


def test_nobody_sees_the_futures_of_another_scope(store: FutureStore):
    """By ID, by name, in a list, or in the hints of an error; and their names remain free in other scopes."""
    make(store, ALICE, name="secret-plan")
    assert store.find(BOB, "f1") is None
    assert store.find(BOB, "secret-plan") is None
    assert list(store.newest(BOB)) == []
    with pytest.raises(UnknownFuture) as caught:
        store.get(BOB, "secret-pla")
    assert "secret-plan" not in str(caught.value)
    assert make(store, BOB, name="secret-plan").id == "f1"


def test_an_unauthenticated_public_scope_is_neither_listed_nor_guessable(store: FutureStore):
    """Knowing an ID of 128 random bits is the only right to a future; no list, no hint and no name gives it away."""
    futures = [make(store, PUBLIC) for _ in range(20)]
    ids = {future.id for future in futures}
    assert len(ids) == 20
    assert all(re.fullmatch(r"f[0-9a-f]{32}", future_id) for future_id in ids)
    assert list(store.newest(PUBLIC)) == []
    assert store.get(PUBLIC, futures[7].id) is futures[7]
    with pytest.raises(UnknownFuture) as caught:
        store.get(PUBLIC, futures[0].id[:-1])
    assert not ids & set(re.findall(r"\w+", str(caught.value)))
    with pytest.raises(InvalidName):
        make(store, PUBLIC, name="guessable")


# --- bounds and retention ------------------------------------------------------------------------------------------


def test_one_call_too_many_is_refused_and_nothing_is_dropped(clock: Clock):
    """`max_pending` counts what has not ended, over all scopes; an end makes room."""
    store = FutureStore(clock, max_pending=2)
    first, second = make(store, ALICE), make(store, BOB)
    with pytest.raises(TooManyFutures, match=r"2 calls have not ended yet \(limit 2, setting max_pending\)"):
        make(store, ALICE)
    finish(store, first)
    assert make(store, BOB).id == "f2"
    assert store.get(ALICE, "f1") is first
    assert store.get(BOB, "f1") is second


def test_results_that_fill_the_memory_stop_new_calls_until_they_were_read(clock: Clock):
    """`max_result_bytes_total` refuses; reading makes room again, at once."""
    store = FutureStore(clock, max_bytes=100, keep_s=60)
    big = finish(store, make(store), size=101)
    with pytest.raises(TooManyFutures, match=r"101 bytes of unread results and .*max_result_bytes_total"):
        make(store)
    store.mark_read(big)
    assert make(store).id == "f2"
    assert store.bytes == 0


def test_room_is_made_with_what_was_read_longest_ago(clock: Clock):
    """As much of it as is needed, and nothing that the new call takes the value of."""
    store = FutureStore(clock, max_bytes=100)
    read = [finish(store, make(store), size=30) for _ in range(3)]
    for future in (read[1], read[0], read[2], read[1]):
        clock.now += 1
        store.mark_read(future)
    unread = finish(store, make(store), size=30)
    store.create(LOCAL, tool="t", server="s", keep=[read[0].key])
    assert [future.id for future in store.all()] == ["f1", "f2", "f4", "f5"]
    finish(store, make(store), size=30)
    make(store)
    assert store.find(LOCAL, "f1") is None
    assert store.get(LOCAL, unread.id) is unread


def test_a_result_that_is_read_again_and_again_takes_one_place(store: FutureStore, clock: Clock):
    """Polls of one result left an entry each, until `keep_s` after the last."""
    future = finish(store, make(store), size=10)
    for _ in range(1000):
        clock.now += 0.01
        store.mark_read(future)
    assert len(store._retention._read) == 1
    clock.now += 61
    make(store)
    assert store.find(LOCAL, future.id) is None
    assert not store._retention._read


def test_arguments_count_until_the_call_has_ended(clock: Clock):
    """From then on, its result or failure counts."""
    store = FutureStore(clock, max_bytes=100)
    future = make(store)
    store.charge(future, 101)
    with pytest.raises(TooManyFutures, match="arguments"):
        make(store)
    finish(store, future, size=7)
    assert store.bytes == 7


def test_in_public_an_unread_result_is_forgotten_in_time(clock: Clock):
    """Elsewhere it is kept for good; read there, it is kept as everywhere."""
    store = FutureStore(clock, keep_s=100, unread_keep_s=60)
    lost, found = (finish(store, make(store, PUBLIC), size=10) for _ in range(2))
    store.mark_read(found)
    ours = finish(store, make(store, LOCAL), size=10)
    clock.now += 61
    make(store, PUBLIC)
    assert store.find(PUBLIC, lost.id) is None
    assert store.get(PUBLIC, found.id) is found
    assert store.get(LOCAL, ours.id) is ours
    assert store.bytes == 20


def test_in_public_one_caller_cannot_fill_everything(clock: Clock):
    """With calls or with results; where all callers are one principal, it can."""
    store = FutureStore(clock, max_pending=10, max_bytes=1000, caller_share=0.5)
    greedy, other = CallerIdentity(), CallerIdentity()

    def call(scope: Scope, caller: CallerIdentity) -> Future:
        return store.create(scope, tool="t", server="s", caller=caller)

    held = [call(PUBLIC, greedy) for _ in range(5)]
    with pytest.raises(TooManyFutures, match="max_caller_share"):
        call(PUBLIC, greedy)
    assert call(PUBLIC, other)
    for future in held:
        finish(store, future, size=101)
    with pytest.raises(TooManyFutures, match=r"505 bytes of your results.*max_caller_share"):
        call(PUBLIC, greedy)
    assert call(PUBLIC, other)
    for _ in range(7):
        call(LOCAL, greedy)


def test_in_public_who_read_everything_is_not_refused_for_room(clock: Clock):
    """A caller over its share loses what it has read, not the right to call; others lose nothing."""
    store = FutureStore(clock, max_bytes=1000, caller_share=0.5)
    busy, other = CallerIdentity(), CallerIdentity()
    theirs = finish(store, store.create(PUBLIC, tool="t", server="s", caller=other), size=10)
    store.mark_read(theirs)
    for _ in range(100):
        future = finish(store, store.create(PUBLIC, tool="t", server="s", caller=busy), size=100)
        store.mark_read(future)
    assert store.get(PUBLIC, theirs.id) is theirs
    assert store.bytes <= 610


def test_in_public_many_callers_leave_room_for_one_more(clock: Clock):
    """Each fills as much as is left at most, so something always is."""
    store = FutureStore(clock, max_pending=1000, caller_share=0.5)
    for _ in range(6):
        greedy = CallerIdentity()
        with suppress(TooManyFutures):
            while True:
                store.create(PUBLIC, tool="t", server="s", caller=greedy)
    assert 1000 - store.pending >= 1000 // 2**6
    assert store.create(PUBLIC, tool="t", server="s", caller=CallerIdentity())


def test_a_result_whose_value_was_used_goes_before_a_call_is_refused(clock: Clock):
    """Intermediate results are dropped after read ones; an unused, unread result is never dropped."""
    store = FutureStore(clock, max_bytes=100)
    unread, used, read = (finish(store, make(store), size=30) for _ in range(3))
    store.mark_used(used)
    store.mark_used(read)
    store.mark_read(read)
    finish(store, make(store), size=30)
    make(store)
    assert store.find(LOCAL, read.id) is None
    assert store.get(LOCAL, used.id) is used
    finish(store, make(store), size=30)
    make(store)
    assert store.find(LOCAL, used.id) is None
    assert store.get(LOCAL, unread.id) is unread


def test_an_unread_result_is_never_forgotten(store: FutureStore, clock: Clock):
    """Regardless of its age."""
    future = finish(store, make(store))
    clock.now += 1e9
    make(store)
    assert store.get(LOCAL, "f1") is future
    assert future.unread


def test_a_result_is_kept_for_a_while_after_it_was_last_read(store: FutureStore, clock: Clock):
    """Awaiting again starts the time anew; after it the result, its name and its bytes are gone."""
    future = finish(store, make(store, name="n"), size=500)
    store.mark_read(future)
    clock.now += 50
    store.mark_read(future)
    clock.now += 50
    make(store)
    assert store.get(LOCAL, "n") is future
    clock.now += 11
    make(store)
    assert store.find(LOCAL, "f1") is None
    assert store.find(LOCAL, "n") is None
    assert store.bytes == 0


def test_a_result_read_by_who_held_it_when_it_was_forgotten_is_counted_once(store: FutureStore, clock: Clock):
    """A `gather` may hold a future for longer than the store keeps it."""
    future = finish(store, make(store), size=500)
    for _ in range(2):
        store.mark_read(future)
        clock.now += 61
        make(store)
        assert store.bytes == 0


def test_a_call_that_runs_longer_than_the_retention_is_not_forgotten_under_way(store: FutureStore, clock: Clock):
    """A call whose client waits for it counts as read from its start; its end must find it, and its bytes be given
    back."""
    future = make(store)
    store.mark_read(future)
    clock.now += 1000
    make(store)
    assert store.get(LOCAL, "f1") is future
    finish(store, future, size=500)
    clock.now += 1000
    make(store)
    assert store.find(LOCAL, "f1") is None
    assert store.bytes == 0


@pytest.mark.parametrize("scope", [LOCAL, PUBLIC])
@pytest.mark.parametrize("reads", [0, 3])
def test_a_task_is_kept_for_its_time_and_then_forgotten(store: FutureStore, clock: Clock, scope: Scope, reads: int):
    """However often it was read, whatever holds for other results, and without another call; longer after long runs."""
    for run_s, kept_s in ((0, 500), (250, 500), (400, 650)):
        task = store.create(scope, tool="tool", server="server", ttl_s=500)
        clock.now += run_s
        finish(store, task)
        assert task.kept_s(clock.now) == kept_s
        for _ in range(reads):
            clock.now += 10
            store.mark_read(task)
        clock.now = task.submitted_at + kept_s - 1
        make(store, scope)
        assert store.find(scope, task.id) is task
        clock.now += 1
        assert store.find(scope, task.id) is None


def test_a_task_that_was_read_goes_early_only_for_room(clock: Clock):
    """With everything that is kept of it; an unread one does not."""
    store = FutureStore(clock, max_bytes=100, keep_s=60)
    unread, read = (store.create(LOCAL, tool="tool", server="server", ttl_s=500) for _ in range(2))
    finish(store, unread, 60)
    finish(store, read, 60)
    store.mark_read(read)
    kept = {"a result"}
    read.result = {"structuredContent": kept}
    gone, read_id = weakref.ref(kept), read.id
    del kept, read
    make(store)
    gc.collect()
    assert store.find(LOCAL, read_id) is None
    assert gone() is None, "something still refers to the future"
    assert store.find(LOCAL, unread.id) is unread
    clock.now += 500
    assert store.find(LOCAL, unread.id) is None
    assert store.bytes == 0


def test_newest_comes_first_and_everything_oldest_first(store: FutureStore):
    """The two orders in which futures are shown and gone through."""
    for scope in (ALICE, BOB, ALICE):
        make(store, scope)
    assert [future.id for future in store.newest(ALICE)] == ["f2", "f1"]
    assert [future.key for future in store.all()] == ["alice/f1", "alice/f2", "bob/f1"]


class StoreLife(RuleBasedStateMachine):
    """Any history of calls against a model that keeps a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = FutureStore(self.clock, max_pending=6, max_bytes=400, keep_s=60)
        self.all: list[Future] = []
        self.read: dict[str, float] = {}
        self.order: list[Future] = []
        """Ended futures that were read, the least recently read first."""

    def pick(self, number: int, wanted: Callable[[Future], bool]) -> Future:
        candidates = [future for future in self.all if wanted(future)]
        return candidates[number % len(candidates)]

    def forget(self) -> None:
        for future in list(self.all):
            if future.done and self.read.get(future.key, 1e18) <= self.clock.now - 60:
                self.all.remove(future)

    def make_room(self) -> None:
        """The least recently read future is dropped first."""
        while sum(future.size for future in self.all) > 400 and self.order:
            future = self.order.pop(0)
            if future in self.all:
                self.all.remove(future)

    def last_read(self, future: Future) -> None:
        if future in self.order:
            self.order.remove(future)
        self.order.append(future)

    @rule(scope=st.sampled_from([ALICE, BOB]), name=st.sampled_from([None, "a", "b"]))
    def create(self, scope: Scope, name: str | None) -> None:
        self.forget()
        live = [future for future in self.all if not future.done]
        full = len(live) >= 6
        if not full:
            self.make_room()
            full = sum(future.size for future in self.all) > 400
        taken = any(future.scope == scope and future.name == name for future in live) and name is not None
        if full or taken:
            with pytest.raises(TooManyFutures if full else NameInUse):
                make(self.store, scope, name)
            return
        self.all.append(make(self.store, scope, name))

    @precondition(lambda self: any(not future.done for future in self.all))
    @rule(number=st.integers(0, 9), size=st.integers(0, 200))
    def end(self, number: int, size: int) -> None:
        future = finish(self.store, self.pick(number, lambda future: not future.done), size)
        if future.key in self.read:  # by a caller who waited for it, so from now on
            self.read[future.key] = self.clock.now
            self.last_read(future)

    @precondition(lambda self: bool(self.all))
    @rule(number=st.integers(0, 9))
    def receive(self, number: int) -> None:
        future = self.pick(number, lambda future: True)
        self.store.mark_read(future)
        if future.done:
            self.last_read(future)
        self.read[future.key] = self.clock.now

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        kept = list(self.store.all())
        assert {id(future) for future in self.all} >= {id(future) for future in kept if not self.stale(future)}
        for future in self.all:
            if not self.stale(future):
                assert self.store.get(future.scope, future.id) is future
        assert self.store.pending == sum(not future.done for future in self.all)
        assert self.store.bytes == sum(future.size for future in kept)

    def stale(self, future: Future) -> bool:
        # Forgetting is lazy: it happens at the next call, so until then either answer is right.
        return future.done and self.read.get(future.key, 1e18) <= self.clock.now - 60


TestStoreLife = StoreLife.TestCase
TestStoreLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.text(max_size=70))
@settings(deadline=None)
def test_no_text_makes_a_look_up_raise_anything_but_unknown_future(ref: str):
    """Models write arbitrary text in place of an ID."""
    store = FutureStore(lambda: 0.0)
    future = make(store, name="known")
    if ref.strip().removeprefix("$") in ("f1", "known"):
        assert store.get(LOCAL, ref) is future
        return
    with pytest.raises(UnknownFuture, match="Unknown future") as caught:
        store.get(LOCAL, ref)
    assert repr(ref) in str(caught.value)


def test_in_public_a_result_that_was_dropped_is_not_held(clock: Clock):
    """A dropped result is released at once, not when it would have expired as an unread one."""

    class Held(dict[str, object]):
        pass

    store = FutureStore(clock, max_bytes=100, unread_keep_s=3600)
    future = finish(store, make(store, PUBLIC), size=200)
    future.result = result = Held()
    gone = weakref.ref(result)
    store.mark_read(future)
    del future, result
    make(store, PUBLIC)
    gc.collect()
    assert gone() is None
