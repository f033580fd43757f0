"""Observer: what an engine reports of its calls to those that show, count or trace them.

Pure interface; every observer gets every report, and an engine without observers makes none. The engine calls methods
on the event loop, in the middle of its own work: they return at once, change nothing of a call, and what they raise is
logged and ignored. Questions and progress are no reports of their own: they are changes of the future
(`core.futures.Future.watchers`).
"""

import logging
from collections.abc import Callable
from typing import Protocol

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Takes note of what happens to calls. Where several processes share an engine, each reports all calls; those that
    another one makes have `Call.elsewhere`."""

    def submitted(self, call: Call) -> None:
        """A call was accepted. Nothing has been decided about it yet."""
        ...

    def waiting(self, call: Call) -> None:
        """A call waits for other calls; `Future.waits` says for which, and why."""
        ...

    def queued(self, call: Call) -> None:
        """A call lacks nothing but a place at its server or its tool."""
        ...

    def starting(self, call: Call) -> None:
        """A call is about to be sent, or has started elsewhere."""
        ...

    def retrying(self, call: Call, failure: CallFailed, pause_s: float) -> None:
        """An attempt has failed, and the call is going to be sent again.

        Args:
            pause_s: seconds until then.
        """
        ...

    def ended(self, call: Call) -> None:
        """A call has ended; its future has the outcome."""
        ...

    def read(self, future: Future) -> None:
        """The result of a call that has ended was delivered to its caller, for the first time or again."""
        ...


class Observers:
    """The observers of one engine."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> Callable[[], None]:
        """Report to an observer from now on; return what ends that."""
        self._observers = (*self._observers, observer)

        def remove() -> None:
            self._observers = tuple(each for each in self._observers if each is not observer)

        return remove

    def submitted(self, call: Call) -> None:
        for each in self._observers:
            _report(each.submitted, call)

    def waiting(self, call: Call) -> None:
        for each in self._observers:
            _report(each.waiting, call)

    def queued(self, call: Call) -> None:
        for each in self._observers:
            _report(each.queued, call)

    def starting(self, call: Call) -> None:
        for each in self._observers:
            _report(each.starting, call)

    def retrying(self, call: Call, failure: CallFailed, pause_s: float) -> None:
        for each in self._observers:
            _report(each.retrying, call, failure, pause_s)

    def ended(self, call: Call) -> None:
        for each in self._observers:
            _report(each.ended, call)

    def read(self, future: Future) -> None:
        for each in self._observers:
            _report(each.read, future)


def _report(report: Callable[..., None], *what: object) -> None:
    try:
        report(*what)
    except Exception:  # one that shows calls must not affect them
        logger.exception("an observer of calls has failed")
