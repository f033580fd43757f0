"""The recorder: which results may leave memory. What it writes is `test_recovery.py`'s."""

from typing import Any, cast

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Event, Future, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.journal.api import OnCommitted
from asyncfc_mcp.engine.journal.no_journal import NoJournal
from asyncfc_mcp.engine.recorder import READ_BYTES, Recorder
from tests.support.parked_calls import text


class Held(NoJournal):
    """A journal that commits when the test says."""

    usable = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[OnCommitted] = []

    def update(self, key: Any, change: Any, on_committed: OnCommitted | None = None, **more: Any) -> None:
        if on_committed is not None:
            self.waiting.append(on_committed)


def test_a_result_stays_in_memory_until_it_is_committed():
    """Also one that was read before: a `sync` call is answered without waiting for the commit."""
    journal, unloaded = Held(), list[Future]()
    recorder = Recorder(cast("Any", journal), lambda: 0.0, "run", unloaded.append)
    result = text("x")
    future = Future("f1", LOCAL, "tool", "s", state=State.RUNNING, size=READ_BYTES + 1, read_at=1.0, answered=True)
    recorder.end(Call(future, "tool", None, Policy()), State.COMPLETED, result, None, None, None)
    future.result = result
    future.apply(Event.COMPLETE)
    recorder.keep(future)
    recorder.read(future)
    assert unloaded == []
    for committed in journal.waiting:
        committed()
    assert unloaded == [future]
