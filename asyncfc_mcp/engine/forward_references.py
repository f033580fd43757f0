"""Calls received but not yet submitted: they wait a moment for names, or for their place.

Owns the order in which calls of one client are submitted where that is not simply the order in which they are received:
a name may overtake the call that takes it, because hosts may send the calls of one turn at the same time. Decides only
when a call may be submitted; submitting is the bridge's job, and so is the refusal of a name that no call has taken.
"""

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager

import anyio

from asyncfc_mcp.core.effects import conflict
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import CallerIdentity, Scope, is_id
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import PendingCall
from asyncfc_mcp.errors import Cycle
from asyncfc_mcp.signals import Signal

LookUp = Callable[[Scope, Sequence[str], CallerIdentity | None], Awaitable[None]]


class ForwardReferences:
    """Calls of all clients that are not submitted yet.

    Args:
        wait_s: seconds for which a call waits for a name that does not exist, and may be text.
        name_wait_s: the same for a name that is certainly meant as one.
        look_up: brings the futures with these IDs and names into the store; None where it has all of them.
    """

    def __init__(
        self, store: FutureStore, wait_s: float, name_wait_s: float | None = None, look_up: LookUp | None = None
    ) -> None:
        self.store = store
        self._look_up = look_up
        self.configure(wait_s, wait_s if name_wait_s is None else name_wait_s)
        self._waiting: list[PendingCall] = []
        """In the order of receipt, which is the order in which conflicting calls are submitted."""
        self._announced: dict[_Name, list[int]] = {}
        """Names that received calls are going to take → positions of these calls in the order of receipt."""
        self._sought: list[tuple[Scope, Sequence[str]]] = []
        """What requests wait for that are no calls."""
        self._received = 0
        self._changed = Signal()

    def configure(self, wait_s: float, name_wait_s: float) -> None:
        """Use other times from now on."""
        self._wait_s, self._name_wait_s = wait_s, name_wait_s

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wanted(self) -> list[tuple[Scope, Sequence[str]]]:
        """Return the IDs and names that are waited for, with their scopes."""
        needs = [(each.scope, (*each.needs, *each.also_wait_for)) for each in self._waiting]
        return [each for each in (*needs, *self._sought) if each[1]]

    async def wait_for_turn(self, pending: PendingCall) -> None:
        """Return when the call may be submitted, which has to happen without another wait.

        Up to `forward_wait_ms` it waits for names that other calls of the same turn may be about to take: hosts may
        send those at the same time, so a reference can overtake the call that it means. An argument that is nothing but
        `$HOME` waits that long, too, and then goes out as it is. Text with a `${word}` of its own does not wait. A name
        of a call that is received is waited for until that is submitted or refused.

        Then it waits for earlier calls that touch the same state.

        Raises:
            Cycle: this call and others wait for each other.
        """
        self._refuse_cycles(pending)
        self._received += 1
        pending.number = self._received
        self._waiting.append(pending)
        with self._announcing(pending.scope, pending.name, pending.namer, pending.number):
            try:
                await self._wait_for_names(pending)
                if self._look_up is not None and (refs := (*pending.needs, *pending.also_wait_for)):
                    # While this call keeps its place: between here and its submission nothing may wait.
                    await self._look_up(pending.scope, refs, pending.namer)
                # Found or given up: no later call overtakes it now to define a name.
                pending.missing = pending.required = ()
                while not pending.cycle and self._is_behind(pending):
                    await self._changed.wait()
            finally:
                self._waiting.remove(pending)
        if pending.cycle:
            raise Cycle(pending.cycle)

    @contextmanager
    def announcing(self, scope: Scope, name: str | None, namer: CallerIdentity | None) -> Generator[None]:
        """Have names wait for a call that is received and cannot be submitted yet, while the block lasts."""
        self._received += 1
        with self._announcing(scope, name, namer, self._received):
            yield

    @contextmanager
    def _announcing(self, scope: Scope, name: str | None, namer: CallerIdentity | None, number: int) -> Generator[None]:
        key = scope.key, namer, name or ""
        if name is not None:
            self._announced.setdefault(key, []).append(number)
        self.notify_all()
        try:
            yield
        finally:
            if name is not None:
                self._announced[key].remove(number)
                if not self._announced[key]:
                    del self._announced[key]
            self.notify_all()

    async def _wait_for_names(self, pending: PendingCall) -> None:
        """Return when the names that a call needs exist, or were waited for."""
        began = anyio.current_time()
        while not pending.cycle and (until := self._waits_until(pending, began)) is not None:
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()

    def _waits_until(self, pending: PendingCall, began: float) -> float | None:
        """Return the end of the wait for the names that a call lacks at this moment: infinity where received calls are
        going to take them; None if the call lacks none, or none that it still waits for."""
        scope, namer, now = pending.scope, pending.namer, anyio.current_time()
        if not scope.listed:
            return None
        until = -math.inf
        for refs, wait_s in ((pending.missing, self._wait_s), (pending.required, self._name_wait_s)):
            for ref in refs:
                if self._is_announced_before(pending, ref):
                    return math.inf
                if self.store.find_own(scope, ref, namer) is None:
                    until = max(until, math.inf if self.is_announced(scope, ref, namer) else began + wait_s)
        for ref in pending.also_wait_for:
            if self.store.find_own(scope, ref, namer) is None and not self.is_announced(scope, ref, namer):
                until = max(until, began + self._wait_of(ref))
        return until if until > now else None

    def _wait_of(self, ref: str) -> float:
        """Return the seconds for which a future that does not exist is waited for: an ID is not taken, only guessed."""
        return self._wait_s if is_id(ref.strip().removeprefix("$")) else self._name_wait_s

    def _is_announced_before(self, pending: PendingCall, ref: str) -> bool:
        """Return whether a call received before this one is going to take this name, which may exist already."""
        numbers = self._announced.get(_name_of(pending.scope, ref, pending.namer))
        return numbers is not None and min(numbers) < pending.number

    def notify_all(self) -> None:
        """Have every call that waits for a name or a place look again. Positions decide, not the order of wake-ups."""
        self._changed.notify_all()

    def is_announced(self, scope: Scope, ref: str, namer: CallerIdentity | None) -> bool:
        """Return whether a call of this caller is received and is going to take this name."""
        return bool(self._announced) and _name_of(scope, ref, namer) in self._announced

    async def futures(
        self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None, timeout_s: float = math.inf
    ) -> list[Future]:
        """Return the futures with these IDs or names. A name that does not exist yet gets the time that `_after` gives
        it, and one that a received call is going to take up to `timeout_s` seconds.

        Raises:
            UnknownFuture: one of them is not visible in this scope.
            AmbiguousName: several callers gave one of the names.
        """
        began = anyio.current_time()

        def waits_until() -> float:
            until = -math.inf
            for ref in refs:
                if self.is_announced(scope, ref, namer):
                    return began + timeout_s
                if until < began + self._name_wait_s and self.store.find_own(scope, ref, namer) is None:
                    until = max(until, began + min(self._wait_of(ref), timeout_s))
            return until

        sought = scope, refs
        self._sought.append(sought)
        try:
            while scope.listed and (until := waits_until()) > anyio.current_time():
                with anyio.CancelScope(deadline=until):
                    await self._changed.wait()
        finally:
            self._sought.remove(sought)
        return [self.store.get(scope, ref, namer) for ref in refs]

    def _is_behind(self, pending: PendingCall) -> bool:
        """Return whether an earlier call must be submitted first; not one that waits for this call's name, or for its
        place behind such a call."""
        excepted: set[int] | None = None
        for other in self._waiting:
            if other is pending:
                return False
            if other.scope == pending.scope and _follows(pending, other):
                if excepted is None:
                    excepted = self._held_by(pending)
                if id(other) not in excepted:
                    return True
        return False

    def _held_by(self, pending: PendingCall) -> set[int]:
        """Return the earlier calls, by `id`, that cannot be submitted before this one: those that wait for its name,
        directly or through calls that they wait for, and those that have their place behind them."""
        if pending.name is None:
            return set()
        users: dict[str, list[PendingCall]] = {}
        for each in self._waiting:
            if _takes(each, pending.scope, pending.namer):
                for ref in each.needs:
                    users.setdefault(ref, []).append(each)
        names, held = [pending.name], set[int]()
        while names:
            for user in users.pop(names.pop(), ()):
                held.add(id(user))
                if user.name is not None:
                    names.append(user.name)
        if held:
            before: list[PendingCall] = []
            for each in self._waiting:
                if each is pending:
                    break
                if id(each) in held or (each.scope == pending.scope and any(_follows(each, other) for other in before)):
                    held.add(id(each))
                    before.append(each)
        return held

    def _refuse_cycles(self, new: PendingCall) -> None:
        """If `new` closes a cycle of calls that wait for each other's names, refuse it and all of them."""
        if new.name is None or not new.needs:
            return
        same = [each for each in self._waiting if _takes(each, new.scope, new.namer)]
        by_name = {each.name: each for each in same if each.name is not None}
        by_name[new.name] = new
        path = [new]
        trail = [iter(new.needs)]
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
                self.notify_all()
                raise Cycle(cycle)
            if ref in by_name and ref not in visited:
                visited.add(ref)
                path.append(by_name[ref])
                trail.append(iter(by_name[ref].needs))


_Name = tuple[str, CallerIdentity | None, str]
"""Key of a scope, caller, and name: a name as one caller uses it."""


def _name_of(scope: Scope, ref: str, namer: CallerIdentity | None) -> _Name:
    return scope.key, namer, ref.strip().removeprefix("$")


def _follows(pending: PendingCall, earlier: PendingCall) -> bool:
    """Return whether a call has its place behind an earlier one of its scope."""
    return pending.after_pending or conflict(earlier.effect, pending.effect) is not None


def _takes(pending: PendingCall, scope: Scope, namer: CallerIdentity | None) -> bool:
    """Return true if a call's name is among the names of this caller."""
    return pending.namer is namer and pending.scope == scope
