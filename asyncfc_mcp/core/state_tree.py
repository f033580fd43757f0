"""State tree: the order that conflicting calls keep.

Decides *which* calls may start; starts none. Pure and synchronous. Dependencies between futures, capacity and time
belong to `engine.scheduler`. Nothing is kept of a settled call.

The idea is the hierarchical locking of databases (Gray and others, 1976), with strictly first-come lanes in place of
locks. A call enters the nodes of its own paths as *whole* (R reads, W writes everything from here down) and each node
above them as a *part* (r reads, w writes something below). Two calls conflict exactly where they share a node in modes
that exclude each other:

        r   w   R   W         Parts never exclude parts: further down it is decided whether they share a node.
    r   .   .   .   x
    w   .   .   x   x
    R   .   x   .   x
    W   x   x   x   x

A node keeps its unsettled entries in one lane for each mode, in order of submission. An entry has its turn when no
lane that its mode excludes begins with an earlier call, so one comparison with the head of each such lane decides,
however many are queued. Turns are given in order, so the entries that have theirs are a prefix of each lane, and one
pointer (`next`) marks its end. A call may start when it has its turn everywhere. The cost is a constant number of steps
for each node on the call's paths, plus one for each turn that is given, which happens once for each entry.

Rejected: a graph of calls, with edges from the *last* reader or writer of a path only, and virtual barrier calls that
gather many leaves into one predecessor. It omits every edge that follows from others, so a call that is removed early
(cancelled, stopped) has to pass its predecessors on to its successors. That is too much order (`W(a) V(a,b) W(b)`: with
V cancelled nothing orders the other two, and two reads would wait for each other through a cancelled write) and, for
fail-stop, too little (`W(a) R(a) W(a)`: only a read, which is not stopped, connects the two writes). Here nothing is
derived: a removed call is unlinked, and exactly the conflicts among the others remain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Literal, TypeAlias

from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.state_paths import Path
from asyncfc_mcp.errors import InvalidTransition

Outcome: TypeAlias = Literal["completed", "failed", "void"]
"""Outcome of a call: its work was done; it was not done, or in part; it certainly never began."""

NEAREST: Final = 100
"""Calls that a call waits for and that are named or counted; if there are more, it is only known that there are."""
_LOOKS: Final = 4
"""Calls that `StateTree.nearest` looks at, for each one of its limit."""

_PART_READ, _PART_WRITE, _READ, _WRITE = range(4)

# Writes that fail-stop may cancel have separate lanes, so that a failure visits only its victims: in one lane with
# reads, each of many failures would walk over all the reads again that it does not stop.
_STOPPABLE: Final = 4

_EXCLUDED: Final = {
    _PART_READ: (_WRITE,),
    _PART_WRITE: (_READ, _WRITE),
    _READ: (_PART_WRITE, _WRITE),
    _WRITE: (_PART_READ, _PART_WRITE, _READ, _WRITE),
}
_WAITS_FOR: Final = tuple(
    tuple(lane for mode in _EXCLUDED[lane % _STOPPABLE] for lane in (mode, mode + _STOPPABLE)) for lane in range(8)
)
# Only writes of a failed call stop others.
_STOPS: Final = tuple(
    tuple(mode + _STOPPABLE for mode in _EXCLUDED[lane % _STOPPABLE])
    if lane % _STOPPABLE in (_PART_WRITE, _WRITE)
    else ()
    for lane in range(8)
)


def _needed(bits: int) -> tuple[int, ...]:
    """Return those modes of one call in one node (as bits) that its other modes do not imply."""
    if bits & 1 << _WRITE:
        return (_WRITE,)
    if bits & 1 << _READ:
        return (_READ, _PART_WRITE) if bits & 1 << _PART_WRITE else (_READ,)
    return (_PART_WRITE,) if bits & 1 << _PART_WRITE else (_PART_READ,)


_NEEDED: Final = tuple(_needed(bits) for bits in range(16))


@dataclass(slots=True, eq=False)
class _Call:
    key: str
    number: int  # order of submission
    stoppable: bool
    entries: list["_Entry"] = field(default_factory=list["_Entry"])
    turns_missing: int = 0
    started: bool = False


@dataclass(slots=True, eq=False)
class _Node:
    parent: "_Node | None"
    name: str
    children: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])
    lanes: dict[int, "_Lane"] = field(default_factory=dict[int, "_Lane"])

    def path(self) -> Path:
        return (*self.parent.path(), self.name) if self.parent is not None else ()

    def earliest_against(self, lane: int) -> int:
        """Return the number of the first call that excludes those in `lane`; an entry that is not behind it has its
        turn."""
        lanes, earliest = self.lanes, _NO_CALL
        for other in _WAITS_FOR[lane]:
            if other in lanes and (number := lanes[other].head.call.number) < earliest:
                earliest = number
        return earliest


_NO_CALL: Final = 1 << 62


@dataclass(slots=True, eq=False)
class _Entry:
    """Entry of one call in one lane of one node; a link of the lane's list."""

    call: _Call
    node: _Node
    lane: int
    before: "_Entry | None" = None
    after: "_Entry | None" = None
    has_turn: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """Entries of one mode in one node, in order of submission. Never empty: the node drops it with its last entry."""

    head: _Entry
    tail: _Entry
    next: _Entry | None  # the first without its turn

    def __iter__(self) -> Iterator[_Entry]:
        entry: _Entry | None = self.head
        while entry is not None:
            yield entry
            entry = entry.after


@dataclass(frozen=True, slots=True)
class Settled:
    """Effects of the end of one call on others."""

    ready: list[str]
    """Calls that may start now, in order of submission."""

    stopped: list[tuple[str, str]]
    """Fail-stop: pairs of a call that will never start, and the failed or stopped call directly before it. In order of
    submission, so that the second is the settled call or appears earlier in this list. All were removed from the tree.
    """


class StateTree:
    """Unsettled calls and their effects. Conflicting calls become ready in order of submission, others at once.

    A call must be submitted after those whose results it needs: one that waits for the result of a later, conflicting
    call would wait forever, since that call waits for its turn behind it.

    Raises:
        InvalidTransition: from all methods, where a key is not in the tree or not in the required state.
    """

    def __init__(self) -> None:
        self._root = _Node(None, "")
        self._calls: dict[str, _Call] = {}
        self._submitted = 0

    def __len__(self) -> int:
        """Return the number of unsettled calls."""
        return len(self._calls)

    def __contains__(self, key: object) -> bool:
        return key in self._calls

    @property
    def size(self) -> int:
        """Number of nodes and of entries in their lanes; 0 without unsettled calls. Walks the tree."""
        size, nodes = 0, list(self._root.children.values())
        while nodes:
            node = nodes.pop()
            size += 1 + sum(1 for lane in node.lanes.values() for _ in lane)
            nodes += node.children.values()
        return size

    def submit(self, key: str, effect: Effect, *, on_failure: str = "continue") -> None:
        """Add a call behind all others. With `on_failure` "stop", a call that writes is stopped by a failed write
        before it."""
        if key in self._calls:
            raise InvalidTransition(key, "submitted already", "be submitted again")
        if () in effect.reads or () in effect.writes:
            raise ValueError("a state path is empty; it has to begin with the name of a server")
        self._submitted += 1
        call = _Call(key, self._submitted, stoppable=bool(effect.writes) and on_failure == "stop")
        modes: dict[_Node, int] = {}
        for path in effect.reads:
            self._mark(path, modes, 1 << _PART_READ, 1 << _READ)
        for path in effect.writes:
            self._mark(path, modes, 1 << _PART_WRITE, 1 << _WRITE)
        for node, bits in modes.items():
            for mode in _NEEDED[bits]:
                self._join(_Entry(call, node, mode + _STOPPABLE if call.stoppable else mode))
        self._calls[key] = call

    def ready(self, key: str) -> bool:
        """Return true where the call may start: no unsettled call before it conflicts with it."""
        return not self._known(key, "be asked about").turns_missing

    def is_started(self, key: str) -> bool:
        """Return true where the call began to run."""
        return self._known(key, "be asked about").started

    def start(self, key: str) -> None:
        """Record that the call began to run. Only a started call can complete."""
        call = self._known(key, "start")
        if call.started or call.turns_missing:
            raise InvalidTransition(key, "running" if call.started else "waiting for its turn", "start")
        call.started = True

    def settle(self, key: str, *, outcome: Outcome) -> Settled:
        """Remove a call that ended, before or after it started. A failure stops the writes queued behind its own
        writes, and those behind theirs."""
        call = self._known(key, "settle")
        if outcome == "completed" and not call.started:
            raise InvalidTransition(key, "not started", "complete")
        changed: dict[_Node, None] = {}
        self._leave(call, changed)
        stopped = self._stop_behind(call, changed) if outcome == "failed" else []
        ready = [released for node in changed for released in self._give_turns(node)]
        ready.sort(key=_number)
        # An entry and its call refer to each other; this frees them now instead of at a garbage collection.
        for removed in (call, *(victim for victim, _ in stopped)):
            removed.entries.clear()
        return Settled([released.key for released in ready], [(victim.key, before.key) for victim, before in stopped])

    def nearest(self, key: str, limit: int = NEAREST) -> list[tuple[str, Path]]:
        """Return the unsettled calls directly before this one, each with a path of the conflict, in order of
        submission: those that it waits for, without those that others of them wait for.

        If there are more than `limit`, the latest `limit` and one more are returned. The cost is bounded by `limit`;
        at the bound, calls may be among them that others of them wait for.
        """
        call = self._known(key, "be asked about")
        own = {(entry.node, lane) for entry in call.entries if not entry.has_turn for lane in _WAITS_FOR[entry.lane]}
        # Latest first: what a call waits for is then known to be implied before it is looked at.
        queue: list[tuple[int, int, _Entry]] = []
        queued: set[tuple[_Node, int]] = set()
        implied: set[tuple[_Node, int]] = set()
        found: dict[int, tuple[str, Path]] = {}
        latest = _NO_CALL
        _queue_lanes(queue, queued, own, call.number, limit)
        for _ in range(_LOOKS * limit):
            if not queue or len(found) > limit or own <= implied:
                break
            number, _, entry = heappop(queue)
            if entry.before is not None:
                heappush(queue, (-entry.before.call.number, id(entry.before), entry.before))
            if -number == latest:  # found in another lane
                continue
            latest, other = -number, entry.call
            places = [(each.node, each.lane) for each in other.entries]
            if implied.isdisjoint(places):
                conflicts = [node for node, lane in places if (node, lane) in own]
                if conflicts:
                    found[latest] = (other.key, conflicts[0].path())
            waits = {(e.node, lane) for e in other.entries if not e.has_turn for lane in _WAITS_FOR[e.lane]}
            _queue_lanes(queue, queued, waits, latest, limit)
            implied |= waits
        return [found[number] for number in sorted(found)]

    def _known(self, key: str, event: str) -> _Call:
        call = self._calls.get(key)
        if call is None:
            raise InvalidTransition(key, "not in the state tree", event)
        return call

    def _mark(self, path: Path, modes: dict[_Node, int], part: int, whole: int) -> None:
        node = self._root
        for name in path:
            if node.parent is not None:
                modes[node] = modes.get(node, 0) | part
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = _Node(node, name)
            node = child
        modes[node] = modes.get(node, 0) | whole

    def _join(self, entry: _Entry) -> None:
        call, node = entry.call, entry.node
        entry.has_turn = node.earliest_against(entry.lane) >= call.number
        if not entry.has_turn:
            call.turns_missing += 1
        call.entries.append(entry)
        lane = node.lanes.get(entry.lane)
        if lane is None:
            lane = node.lanes[entry.lane] = _Lane(entry, entry, None)
        else:
            entry.before, lane.tail.after, lane.tail = lane.tail, entry, entry
        if lane.next is None and not entry.has_turn:
            lane.next = entry

    def _leave(self, call: _Call, changed: dict[_Node, None]) -> None:
        """Unlink a call everywhere; add the nodes where others may have their turn now to `changed`. `call.entries`
        stay, since fail-stop starts from them."""
        del self._calls[call.key]
        for entry in call.entries:
            node, before, after = entry.node, entry.before, entry.after
            lane = node.lanes[entry.lane]
            if lane.next is entry:
                lane.next = after
            if after is not None:
                after.before = before
            elif before is not None:
                lane.tail = before
            if before is not None:
                before.after = after
                continue
            # It was the head, the only entry that others are compared with.
            changed[node] = None
            if after is not None:
                lane.head = after
                continue
            del node.lanes[entry.lane]
            # Each entry below has one here, so a node without lanes is a leaf.
            if not node.lanes and node.parent is not None:
                del node.parent.children[node.name]

    def _give_turns(self, node: _Node) -> Iterator[_Call]:
        """Give the turns that are due in a node; yield calls that lacked no other."""
        for number, lane in node.lanes.items():
            if lane.next is None:
                continue
            earliest = node.earliest_against(number)
            while lane.next is not None and lane.next.call.number <= earliest:
                entry, lane.next = lane.next, lane.next.after
                entry.has_turn = True
                entry.call.turns_missing -= 1
                if not entry.call.turns_missing:
                    yield entry.call

    def _stop_behind(self, failed: _Call, changed: dict[_Node, None]) -> list[tuple[_Call, _Call]]:
        """Remove all writes queued behind those of `failed`, and behind theirs. Return each with the one before it.

        No turn is given until this is done, so each call behind a failed write is still in a lane without its turn.
        Each is unlinked when found, hence found once, through the call nearest to the first failure.
        """
        stopped: list[tuple[_Call, _Call]] = []
        culprits = [failed]
        for culprit in culprits:  # grows
            for entry in culprit.entries:
                for number in _STOPS[entry.lane]:
                    while (lane := entry.node.lanes.get(number)) and lane.tail.call.number > culprit.number:
                        victim = lane.tail.call
                        self._leave(victim, changed)
                        stopped.append((victim, culprit))
                        culprits.append(victim)
        stopped.sort(key=lambda pair: pair[0].number)
        return stopped


def _number(call: _Call) -> int:
    return call.number


def _queue_lanes(
    queue: list[tuple[int, int, _Entry]],
    queued: set[tuple[_Node, int]],
    lanes: set[tuple[_Node, int]],
    number: int,
    steps: int,
) -> None:
    """Queue the last entry before a call in each of these lanes that is not queued yet."""
    for place in lanes - queued:
        lane = place[0].lanes.get(place[1])
        entry = _last_before(lane, number, steps) if lane is not None else None
        if entry is not None:
            queued.add(place)
            heappush(queue, (-entry.call.number, id(entry), entry))


def _last_before(lane: _Lane, number: int, steps: int) -> _Entry | None:
    """Return the last entry of a lane that is before a call. Searched for from both ends, at most `steps` entries from
    each: a lane that is long on both sides yields an earlier one."""
    front, back = lane.head, lane.tail
    if front.call.number >= number:
        return None
    for _ in range(steps):
        if back.call.number < number:
            return back
        if front.after is None or front.after.call.number >= number:
            return front
        front = front.after
        assert back.before is not None  # the head is before the call
        back = back.before
    return front
