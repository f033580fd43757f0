"""Futures: every state against every event, and watchers that are called after each change."""

from itertools import product

import pytest

from asyncfc_mcp.core.futures import TRANSITIONS, Event, Future, Question, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.errors import InvalidTransition


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda value: value.value)
def test_every_state_and_event_does_what_the_table_says(state: State, event: Event):
    """Events with a row change the state; others are refused and change nothing."""
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
    """A reported end is final, and every other state has a row that ends it."""
    rows = {event: after for (before, event), after in TRANSITIONS.items() if before is state}
    done = Future("f1", LOCAL, "tool", "server", state=state).done
    assert done == (not rows)
    if not done:
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
    """All watchers are called after a change, even if one of them removes itself."""
    future = Future("f1", LOCAL, "tool", "server")
    heard: list[str] = []

    def once(_: Future) -> None:
        heard.append("once")
        future.watchers.remove(once)

    future.watchers += [once, lambda _: heard.append("always")]
    future.apply(Event.START)
    future.apply(Event.COMPLETE)
    assert heard == ["once", "always", "always"]
