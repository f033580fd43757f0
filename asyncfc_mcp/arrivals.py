"""Calls that have come and are not submitted yet: they wait a moment for names, or for their place.

Owns the order in which calls of one client are submitted where that is not simply the order in which they come: a
reference may overtake the call that it means, because hosts may send the calls of one turn at the same time. Decides
only when a call may be submitted; submitting is the bridge's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from asyncfc_mcp.errors import Cycle
from asyncfc_mcp.futures import CallerIdentity, Future, FutureStore, Scope
from asyncfc_mcp.ordering import Effect, conflict


@dataclass(slots=True, eq=False)
class Arrival:
    """A call that came and is not submitted yet: for a moment it waits for names that do not exist, or for its place
    behind a call that does."""

    scope: Scope
    namer: CallerIdentity | None
    """The caller among whose names `name` and `missing` are."""
    name: str | None
    effect: Effect
    missing: tuple[str, ...]
    """Names that its arguments refer to."""
    along: tuple[str, ...]
    """IDs and names of futures that its client waits for beside it; that their calls have come is enough."""
    after_all: bool
    cycle: tuple[str, ...] = ()


class Arrivals:
    """The calls of all clients that are not submitted yet.

    Args:
        wait_s: how long a call waits for a name that nobody has taken.
    """

    def __init__(self, store: FutureStore, wait_s: float) -> None:
        self.store = store
        self._wait_s = wait_s
        self._waiting: list[Arrival] = []
        """In the order in which they came, which is the order in which conflicting calls are submitted."""
        self._stirred = anyio.Event()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def pass_through(self, arrival: Arrival) -> None:
        """Return when the call may be submitted, which has to happen without another wait.

        Up to `forward_wait_ms` it waits for names that other calls of the same turn may be about to take: hosts may
        send those at the same time, so a reference can overtake the call that it means. An argument that is nothing but
        `$HOME` waits that long, too, and then goes out as it is. Text with a `${word}` of its own does not wait.

        Then it waits for those that came before it and touch the same state.

        Raises:
            Cycle: this call and others wait for each other.
        """
        self._refuse_cycles(arrival)
        self._waiting.append(arrival)
        self.stir()
        try:
            if self._lacks(arrival):
                with anyio.move_on_after(self._wait_s):
                    while not arrival.cycle and self._lacks(arrival):
                        await self._stirred.wait()
            # Found or given up: nobody passes it any more to bring a name.
            arrival.missing = ()
            while not arrival.cycle and self._is_behind(arrival):
                await self._stirred.wait()
        finally:
            self._waiting.remove(arrival)
            self.stir()
        if arrival.cycle:
            raise Cycle(arrival.cycle)

    def stir(self) -> None:
        """Have everybody look again who waits for a name or a place. Positions decide, not who wakes first."""
        stirred, self._stirred = self._stirred, anyio.Event()
        stirred.set()

    def announced(self, scope: Scope, ref: str, namer: CallerIdentity | None) -> Arrival | None:
        """This caller's call that came and is going to take this name."""
        name = ref.strip().removeprefix("$")
        return next((each for each in self._waiting if _takes(each, scope, namer) and each.name == name), None)

    async def futures(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> list[Future]:
        """The futures with these IDs or names. One that is not there yet gets the time that a reference to it would.

        Raises:
            UnknownFuture: one of them cannot be seen from here.
            AmbiguousName: several callers gave one of the names.
        """
        with anyio.move_on_after(self._wait_s):
            while scope.listed and any(self.store.own(scope, ref, namer) is None for ref in refs):
                await self._stirred.wait()
        return [self.store.get(scope, ref, namer) for ref in refs]

    def _lacks(self, arrival: Arrival) -> bool:
        scope, namer = arrival.scope, arrival.namer
        own, announced = self.store.own, self.announced
        return scope.listed and (
            any(own(scope, ref, namer) is None for ref in arrival.missing)
            or any(own(scope, ref, namer) is None and announced(scope, ref, namer) is None for ref in arrival.along)
        )

    def _is_behind(self, arrival: Arrival) -> bool:
        """Whether a call that came before must be submitted before; not one that waits for this call's name."""
        for other in self._waiting:
            if other is arrival:
                return False
            if (
                other.scope == arrival.scope
                and (arrival.after_all or conflict(other.effect, arrival.effect) is not None)
                and not (_takes(other, arrival.scope, arrival.namer) and self._wants(other, arrival.name))
            ):
                return True
        return False

    def _wants(self, arrival: Arrival, name: str | None) -> bool:
        """Whether a call waits for a name, if only because one that it waits for does."""
        wanted = list(arrival.missing)
        seen: set[str] = set()
        while wanted:
            ref = wanted.pop()
            if ref == name:
                return True
            if ref not in seen:
                seen.add(ref)
                announced = self.announced(arrival.scope, ref, arrival.namer)
                wanted += announced.missing if announced is not None else ()
        return False

    def _refuse_cycles(self, new: Arrival) -> None:
        """If `new` closes a cycle of calls that wait for each other's names, refuse it and all of them."""
        if new.name is None or not new.missing:
            return
        same = [each for each in self._waiting if _takes(each, new.scope, new.namer)]
        by_name = {each.name: each for each in same if each.name is not None}
        by_name[new.name] = new
        path = [new]
        trail = [iter(new.missing)]
        visited = {new.name}
        while trail:
            ref = next(trail[-1], None)
            if ref is None:
                trail.pop()
                path.pop()
                continue
            if ref == new.name:
                names = tuple(each.name or "?" for each in path)
                cycle = (*names, new.name)
                for each in path:
                    each.cycle = cycle
                self.stir()
                raise Cycle(cycle)
            if ref in by_name and ref not in visited:
                visited.add(ref)
                path.append(by_name[ref])
                trail.append(iter(by_name[ref].missing))


def _takes(arrival: Arrival, scope: Scope, namer: CallerIdentity | None) -> bool:
    """Return true if a call's name is among the names of this caller."""
    return arrival.namer is namer and arrival.scope == scope
