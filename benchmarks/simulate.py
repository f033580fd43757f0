"""A scripted agent, and the wall time of its task through a bridge that costs nothing.

Pure: no clock, no process. `Agent` decides, turn by turn, from what it has read so far, so the simulation and the real
run take the same decisions from the same code. `simulate` is the *ideal schedule*: it keeps data dependencies, the
order of conflicting calls and the moments at which the agent needs results, and nothing else takes time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

CALL_SHARE: Final = 0.2
"""What each further call in a turn adds to the turn, as a share of it: it has to be decoded, too."""


Rule = Literal["", "cheapest", "total"]
"""Item or number that a call takes of a lookup: the ID of the cheapest item, or the sum of all prices."""


@dataclass(frozen=True)
class Step:
    """One call that the task needs."""

    name: str
    kind: Literal["read", "write", "compute", "lookup"]
    seconds: float
    uses: tuple[str, ...] = ()
    """Steps whose values it passes on as arguments."""
    sees: tuple[str, ...] = ()
    """Steps whose results the model must have read before it can decide on this call."""
    picks: str = ""
    """A lookup of whose items it takes one. Which one only the result tells; the first is a good guess."""
    index: int = 0
    """Index of the correct item."""
    rule: Rule = ""
    """What it takes of the lookup instead, where that can be said without having seen it."""
    after: tuple[str, ...] = ()
    """Steps that it must follow although it takes nothing of them, and no declared state tells."""
    cell: str = ""
    """The state that it reads or writes."""

    @property
    def writes(self) -> bool:
        """Return whether the step writes its cell."""
        return self.kind == "write"

    @property
    def needs(self) -> tuple[str, ...]:
        """Every step that must have ended before it can run."""
        return (*self.passed, *self.sees, *self.after)

    @property
    def passed(self) -> tuple[str, ...]:
        """Steps of whose values it takes some."""
        return (*self.uses, *((self.picks,) if self.picks else ()))


def conflict(a: Step, b: Step) -> bool:
    """Return whether the order of two steps affects results or state."""
    return bool(a.cell) and a.cell == b.cell and (a.writes or b.writes)


@dataclass(frozen=True)
class Task:
    """A task as a list of user requests; the agent answers each request with all its results."""

    name: str
    requests: tuple[tuple[Step, ...], ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in the order of a synchronous agent."""
        return tuple(step for request in self.requests for step in request)


@dataclass(frozen=True)
class Way:
    """Way of calling, and the bridge's features that the agent uses."""

    name: str
    bridge: bool = False
    one_call: bool = False
    """One call in a turn."""
    wait: bool = False
    """`_wait`: results come with the last call's answer; without it they are gathered in a turn of their own."""
    inline: bool = False
    """Finished results ride on any answer."""
    grace: bool = False
    """A quick tool's handle carries its result."""
    shapes: bool = True
    """Tools say what they return; without it, the agent has to see a result of a tool before it writes a path into
    one."""
    expressions: bool = True
    """References pick and compute; without it, the agent has to read a result for that."""
    after: bool = True
    """`_after`; without it, the agent has to read the results of the calls that a call must follow."""


SYNC: Final = Way("synchronous", one_call=True)
PARALLEL: Final = Way("parallel by the host")
BRIDGE: Final = Way("bridge", bridge=True, wait=True, inline=True, grace=True)
LEFT_OUT: Final = (
    Way("bridge without `_wait`", bridge=True, inline=True, grace=True),
    Way("bridge without inline delivery", bridge=True, wait=True, grace=True),
    Way("bridge without grace", bridge=True, wait=True, inline=True),
    Way("bridge without one-turn DAGs", bridge=True, one_call=True, wait=True, inline=True, grace=True),
    replace(BRIDGE, name="bridge without shapes", shapes=False),
    replace(BRIDGE, name="bridge without expressions", expressions=False),
    replace(BRIDGE, name="bridge without `_after`", after=False),
)
BARE: Final = Way("futures alone", bridge=True, one_call=True)
ADDED: Final = (
    Way("futures and `_wait`", bridge=True, one_call=True, wait=True),
    Way("futures and inline delivery", bridge=True, one_call=True, inline=True),
    Way("futures and grace", bridge=True, one_call=True, grace=True),
    Way("futures and one-turn DAGs", bridge=True),
)


@dataclass(frozen=True)
class Planned:
    """One call of a turn."""

    step: Step
    attempt: int
    guessed: bool
    """It takes the first item of a lookup that the model has not read."""
    known: frozenset[str]
    """Steps whose values the model has read and writes out; the others it passes on as references."""
    wait: tuple[str, ...] | None = None
    """Steps whose results this call's answer shall bring, besides its own; None: do not wait."""


@dataclass(frozen=True)
class Move:
    """One turn of the model: calls, or a `gather`, or the answer to the user's request."""

    calls: tuple[Planned, ...] = ()
    gather: tuple[str, ...] = ()
    answer: bool = False

    def decode_s(self, turn_s: float) -> float:
        """Seconds that the model needs for it."""
        return turn_s * (1 + CALL_SHARE * max(0, len(self.calls) - 1))


@dataclass
class Agent:
    """Works through a task in program order, as fast as its way of calling allows."""

    task: Task
    way: Way
    known: set[str] = field(default_factory=set[str])
    """Steps whose results the model has read."""
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    """Steps that were sent → how often."""
    turns: int = 0

    def __post_init__(self) -> None:
        self._request = 0
        self._sent: set[str] = set()
        self._guessed: dict[str, Step] = {}
        self._kinds = {step.name: step.kind for step in self.task.steps}
        self._seen_kinds: set[str] = set()
        """Tools of which the model has read a result."""

    def decide(self) -> Move | None:
        """The next turn; None when the task is done."""
        if self._request == len(self.task.requests):
            return None
        move = self._next(self.task.requests[self._request])
        self.turns += 1
        for planned in move.calls:
            self._sent.add(planned.step.name)
            self.attempts[planned.step.name] = planned.attempt
            if planned.guessed:
                self._guessed[planned.step.name] = planned.step
        if move.answer:
            self._request += 1
        return move

    def learn(self, names: Iterable[str]) -> None:
        """The model has read the results of these steps' last attempts. A guess that they show to be wrong is undone:
        the step, and all that used it, are open again."""
        self.known.update(names)
        self._seen_kinds.update(self._kinds[name] for name in self.known)
        wrong = {name for name, step in self._guessed.items() if step.picks in self.known and step.index != 0}
        self._guessed = {name: step for name, step in self._guessed.items() if step.picks not in self.known}
        for step in self.task.steps:
            if step.name in wrong or wrong.intersection(step.needs):
                wrong.add(step.name)
        self._sent -= wrong
        self.known -= wrong
        for name in wrong:
            self._guessed.pop(name, None)

    def _next(self, steps: Sequence[Step]) -> Move:
        rest = [step for step in steps if step.name not in self._sent]
        if rest:
            chosen = self._choose(rest)
            return Move(calls=self._plan(chosen, rest)) if chosen else Move(gather=self._unread(rest[0]))
        missing = tuple(step.name for step in steps if step.name not in self.known)
        return Move(gather=missing) if missing else Move(answer=True)

    def _choose(self, rest: Sequence[Step]) -> list[Step]:
        """The calls of this turn: whatever may be decided now, never past a call whose order matters."""
        chosen: list[Step] = []
        skipped: list[Step] = []
        for step in rest:
            unordered = () if self.way.bridge else chosen  # a host that runs calls in parallel keeps no order
            free = not any(conflict(step, other) for other in (*skipped, *unordered))
            (chosen if free and self._decidable(step, chosen) else skipped).append(step)
            if chosen and self.way.one_call:
                break
        return chosen

    def _decidable(self, step: Step, chosen: Sequence[Step]) -> bool:
        here = self._sent.union(other.name for other in chosen) if self.way.bridge else self.known
        # An unread result can be passed on through the bridge as a reference, and followed.
        return self.known.issuperset(self._must_read(step)) and here.issuperset((*step.passed, *step.after))

    def _must_read(self, step: Step) -> tuple[str, ...]:
        """Steps whose results the model has to read before it can decide on a step."""
        if not self.way.bridge:
            return step.needs
        needed = list(step.sees)
        if not self.way.after:
            needed += step.after
        if step.rule and not self.way.expressions:
            needed.append(step.picks)
        if not self.way.shapes:
            needed += (name for name in step.passed if self._kinds[name] not in self._seen_kinds)
        return tuple(dict.fromkeys(needed))

    def _unread(self, step: Step) -> tuple[str, ...]:
        """Those that it has not read."""
        return tuple(name for name in self._must_read(step) if name not in self.known)

    def _plan(self, chosen: Sequence[Step], rest: Sequence[Step]) -> tuple[Planned, ...]:
        known = frozenset(self.known)
        planned = [
            Planned(
                step,
                self.attempts.get(step.name, 0) + 1,
                guessed=bool(step.picks) and not step.rule and step.picks not in known,
                known=known,
                wait=None,
            )
            for step in chosen
        ]
        needed = self._soon(chosen, [step for step in rest if step not in chosen]) if self.way.wait else ()
        if needed:
            # On a call whose own result is needed, if there is one: the answer brings that in any case.
            own = [n for n, step in enumerate(chosen) if step.name in needed]
            carrier = own[-1] if own else len(chosen) - 1
            others = tuple(name for name in needed if name != chosen[carrier].name)
            planned[carrier] = replace(planned[carrier], wait=others)
        return tuple(planned)

    def _soon(self, chosen: Sequence[Step], after: Sequence[Step]) -> tuple[str, ...]:
        """The results that the next turn will need and that are on their way; none where it can go on without."""
        sent = self._sent.union(step.name for step in chosen)
        if not after:
            return tuple(s.name for s in self.task.requests[self._request] if s.name in sent - self.known)
        if any(self._decidable(step, chosen) for step in after):
            return ()
        return tuple(name for name in self._unread(after[0]) if name in sent)


# --- the ideal schedule --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How a task went, or would go."""

    seconds: float
    turns: int
    model_s: float
    """Decoding, in all turns."""


def simulate(
    task: Task,
    way: Way,
    turn_s: float,
    *,
    late_s: float = 0.0,
    durations: Mapping[str, float] | None = None,
    grace_s: float = 0.025,
) -> Schedule:
    """The schedule through a bridge (or a host) without any overhead, with as much capacity as it takes.

    Args:
        turn_s: seconds to decode a turn with one call in it.
        late_s: seconds by which every turn took longer than that, where it is known.
        durations: seconds of each call, by `name.attempt`, where they are known better than from the script.
        grace_s: how long a handle may wait for the result of a quick tool.
    """
    agent = Agent(task, way)
    now = model_s = 0.0
    ends: dict[str, float] = {}
    ran: list[tuple[Step, float]] = []
    unread: dict[str, float] = {}
    while (move := agent.decide()) is not None:
        decode_s = move.decode_s(turn_s) + late_s
        now += decode_s
        model_s += decode_s
        read: set[str] = set()
        answered = now
        for planned in move.calls:
            step = planned.step
            start = max([now, *(ends[name] for name in step.needs), *(end for s, end in ran if conflict(s, step))])
            label = f"{step.name}.{planned.attempt}"
            end = start + (durations or {}).get(label, step.seconds)
            ends[step.name] = unread[step.name] = end
            ran.append((step, end))
            if not way.bridge:
                awaited = [step.name]
            elif planned.wait is not None:
                awaited = [step.name, *planned.wait]
            elif way.grace and start == now and end - now <= grace_s:
                awaited = [step.name]
            else:
                awaited = []
            read.update(awaited)
            answered = max([answered, *(ends[name] for name in awaited)])
        if move.gather:
            read.update(move.gather)
            answered = max([answered, *(ends[name] for name in move.gather)])
        now = answered
        if way.inline and not move.answer:
            read.update(name for name, end in unread.items() if end <= now)
        for name in read:
            unread.pop(name, None)
        agent.learn(read)
    return Schedule(now, agent.turns, model_s)


def critical_path_s(task: Task, durations: Mapping[str, float] | None = None) -> float:
    """The longest chain of calls that must follow each other, by data or by state; the moments at which the agent needs
    results are ignored, as the bound of the AsyncFC paper does."""
    ends: dict[str, float] = {}
    done: list[Step] = []
    for step in task.steps:
        before = [ends[name] for name in step.needs] + [ends[other.name] for other in done if conflict(other, step)]
        seconds = (durations or {}).get(f"{step.name}.1", step.seconds)
        ends[step.name] = max(before, default=0.0) + seconds
        done.append(step)
    return max(ends.values(), default=0.0)


def bound(task: Task, turn_s: float, model_s: float) -> float:
    """R = (T_model + T_tools) / max(T_model, T_critical_path): the most that calling asynchronously can gain.

    The numerator is the synchronous agent's wall time. `model_s` is the decoding time of the asynchronous one; in the
    paper both are the same, while one-turn DAGs make it shorter.
    """
    return simulate(task, SYNC, turn_s).seconds / max(model_s, critical_path_s(task))
