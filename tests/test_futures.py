"""Futures: every state against every event, and a store that keeps scopes apart and loses nothing unread."""

import gc
import re
import weakref
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncfc_mcp.errors import (
    AmbiguousName,
    ForeignName,
    InvalidName,
    InvalidTransition,
    NameInUse,
    TooManyFutures,
    UnknownFuture,
)
from asyncfc_mcp.futures import (
    LOCAL,
    PUBLIC,
    TRANSITIONS,
    CallerIdentity,
    Event,
    Future,
    FutureStore,
    Question,
    Scope,
    State,
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
    store.ended(future)
    store.weigh(future, size)
    return future


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda value: value.value)
def test_every_state_and_event_does_what_the_table_says(state: State, event: Event):
    """What is in the table happens; what is not is refused and changes nothing."""
    future = Future("f1", LOCAL, "tool", "server", state=state)
    seen: list[State] = []
    future.watchers.append(lambda f: seen.append(f.state))
    after = TRANSITIONS.get((state, event))
    if after is not None:
        future.apply(event)
        assert future.state is after
        assert seen == [after]
        return
    with pytest.raises(InvalidTransition, match=rf"f1 is {state.value} and cannot {event.value}"):
        future.apply(event)
    assert future.state is state
    assert seen == []


@pytest.mark.parametrize("state", State, ids=lambda value: value.value)
def test_terminal_states_never_change_and_all_others_can_end(state: State):
    """Whoever is told that a call has ended can rely on it, and no future is stuck for want of a row."""
    rows = {event: after for (before, event), after in TRANSITIONS.items() if before is state}
    assert state.terminal == (not rows)
    assert state.terminal == Future("f1", LOCAL, "tool", "server", state=state).done
    if not state.terminal:
        assert {Event.FAIL, Event.CANCEL} <= rows.keys()


def test_a_result_comes_only_after_the_call_was_started():
    """A call that still waits can fail or be cancelled, never complete."""
    assert (State.WAITING, Event.COMPLETE) not in TRANSITIONS
    assert State.COMPLETED not in [after for (before, _), after in TRANSITIONS.items() if before is State.WAITING]


def test_what_a_future_asks_is_forgotten_at_its_end():
    """A future that has ended asks nothing."""
    future = Future("f1", LOCAL, "tool", "server", state=State.INPUT_REQUIRED)
    future.questions["q1"] = Question("q1", "elicitation/create", {"message": "Really?"})
    assert future.question == "Really?"
    future.apply(Event.CANCEL)
    assert future.question is None


def test_a_watcher_may_remove_itself_while_it_is_told():
    """All watchers hear of a change, though one of them leaves because of it."""
    future = Future("f1", LOCAL, "tool", "server")
    heard: list[str] = []

    def once(_: Future) -> None:
        heard.append("once")
        future.watchers.remove(once)

    future.watchers += [once, lambda _: heard.append("always")]
    future.apply(Event.START)
    future.apply(Event.COMPLETE)
    assert heard == ["once", "always", "always"]


# --- identity ------------------------------------------------------------------------------------------------------


def test_an_id_in_capitals_is_found_unless_it_is_a_name_or_stands_in_arguments(store: FutureStore):
    """Models write `F1`; in a tool's arguments that may be a cell of a spreadsheet."""
    first = make(store)
    assert store.get(LOCAL, "F1") is store.get(LOCAL, "$F1") is first
    assert store.referred(LOCAL, "F1") is None
    named = make(store, name="F1")
    assert store.get(LOCAL, "F1") is store.referred(LOCAL, "F1") is named
    assert "is forgotten" in str(store.fate(LOCAL, "F2"))


def test_ids_are_short_and_counted_per_scope(store: FutureStore):
    """`f1`, `f2`, … in every scope, so that IDs cost a model few tokens and tell nothing of other scopes."""
    assert [make(store, ALICE).id for _ in range(3)] == ["f1", "f2", "f3"]
    assert [make(store, BOB).id for _ in range(2)] == ["f1", "f2"]


def test_an_id_is_never_given_twice(store: FutureStore, clock: Clock):
    """Not even after its future was forgotten: an old ID in a conversation must not come to mean another call."""
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
    with pytest.raises(NameInUse, match=r"'s' belongs to f1, which has not ended yet"):
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
    for look_up in (store.own, store.find, store.referred, store.get):
        assert look_up(LOCAL, "doc", one) is first
        assert look_up(LOCAL, "$doc", two) is second
    with pytest.raises(NameInUse, match="f1"):
        store.check_name(LOCAL, "doc", one)


def test_a_name_of_one_other_caller_is_found_and_of_two_is_ambiguous(store: FutureStore):
    """Reading by name works after a reconnect; the error has all IDs."""
    first, reader = named(store, CallerIdentity()), CallerIdentity()
    assert store.own(LOCAL, "doc", reader) is None
    assert store.find(LOCAL, "doc", reader) is first
    named(store, CallerIdentity())
    with pytest.raises(AmbiguousName, match="f1 and f2"):
        store.get(LOCAL, "doc", reader)


def test_a_reference_takes_no_name_of_a_caller_that_goes_on(store: FutureStore):
    """Only one whose session has ended hands its names over."""
    holder, reader = CallerIdentity(), CallerIdentity()
    first = named(store, holder)
    with pytest.raises(ForeignName, match=r"f1.*\$f1.*\$\$doc"):
        store.referred(LOCAL, "doc", reader)
    holder.ended = True
    assert store.referred(LOCAL, "doc", reader) is first


def test_a_name_taken_twice_by_callers_that_cannot_be_told_apart_is_ambiguous(store: FutureStore, clock: Clock):
    """Until one of the two is forgotten; IDs are never ambiguous."""
    shared = CallerIdentity("host", shared=True)
    first = named(store, shared)
    assert store.own(LOCAL, "doc", shared) is first
    second = named(store, shared)
    for look_up in (store.own, store.find, store.referred, store.get):
        with pytest.raises(AmbiguousName, match="f1 and f2"):
            look_up(LOCAL, "doc", shared)
        assert look_up(LOCAL, "f2", shared) is second
    store.mark_read(first)
    clock.now += 61
    make(store)
    assert store.own(LOCAL, "doc", shared) is second


def test_names_of_forgotten_futures_leave_nothing_behind(store: FutureStore, clock: Clock):
    """Of whichever caller."""
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


def test_an_unknown_future_says_so_where_there_are_none(store: FutureStore):
    """A first call that is an await gets an explanation."""
    with pytest.raises(UnknownFuture, match="You have no futures yet"):
        store.get(LOCAL, "f1")


# --- scopes --------------------------------------------------------------------------------------------------------


def test_nobody_sees_the_futures_of_another_scope(store: FutureStore):
    """Neither by ID, by name, in a list, nor in the hints of an error; and their names are not in the way."""
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
    assert [future.id for future in store.everything()] == ["f1", "f2", "f4", "f5"]
    finish(store, make(store), size=30)
    make(store)
    assert store.find(LOCAL, "f1") is None
    assert store.get(LOCAL, unread.id) is unread


def test_arguments_count_until_the_call_has_ended(clock: Clock):
    """And its result, or failure, from then on."""
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
    """Neither with calls nor with results; where all are one principal, it can."""
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


def test_an_unread_result_is_never_forgotten(store: FutureStore, clock: Clock):
    """However long ago it came."""
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


def test_newest_comes_first_and_everything_oldest_first(store: FutureStore):
    """The two orders in which futures are shown and gone through."""
    for scope in (ALICE, BOB, ALICE):
        make(store, scope)
    assert [future.id for future in store.newest(ALICE)] == ["f2", "f1"]
    assert [future.key for future in store.everything()] == ["alice/f1", "alice/f2", "bob/f1"]


class StoreLife(RuleBasedStateMachine):
    """Any history of calls against a model that keeps a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = FutureStore(self.clock, max_pending=6, max_bytes=400, keep_s=60)
        self.all: list[Future] = []
        self.read: dict[str, float] = {}
        self.order: list[Future] = []
        """What was read and has ended, the one read longest ago first."""

    def pick(self, number: int, wanted: Callable[[Future], bool]) -> Future:
        candidates = [future for future in self.all if wanted(future)]
        return candidates[number % len(candidates)]

    def forget(self) -> None:
        for future in list(self.all):
            if future.done and self.read.get(future.key, 1e18) <= self.clock.now - 60:
                self.all.remove(future)

    def make_room(self) -> None:
        """What was read longest ago goes first."""
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
        if future.done and self.read.get(future.key) != self.clock.now:
            self.last_read(future)
        self.read[future.key] = self.clock.now

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        kept = list(self.store.everything())
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
    """Whatever a model writes where an ID belongs."""
    store = FutureStore(lambda: 0.0)
    future = make(store, name="known")
    if ref.strip().removeprefix("$") in ("f1", "known"):
        assert store.get(LOCAL, ref) is future
        return
    with pytest.raises(UnknownFuture, match="Unknown future") as caught:
        store.get(LOCAL, ref)
    assert repr(ref) in str(caught.value)


def test_in_public_a_result_that_was_dropped_is_not_held(clock: Clock):
    """What is counted as gone is gone, and not kept until its time as an unread one would be over."""

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
