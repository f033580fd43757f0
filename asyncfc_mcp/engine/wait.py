"""Waiting for futures of this process.

Owns no future. Cancelling a wait cancels nothing else.
"""

from collections.abc import Iterable

import anyio

from asyncfc_mcp.core.futures import Future, watching


async def wait_for(futures: Iterable[Future], *, any_: bool = False, timeout_s: float | None = None) -> bool:
    """Wait until all (or any) of the futures are terminal, and return whether they are.

    Args:
        timeout_s: seconds after which to give up; None waits without a limit.
    """
    wanted = list(futures)
    pending = {id(future): future for future in wanted if not future.done}
    if not pending or (any_ and any(future.done for future in wanted)):
        return True
    enough = anyio.Event()

    def watch(future: Future) -> None:
        if future.done:
            future.watchers.remove(watch)
            pending.pop(id(future), None)
            if any_ or not pending:
                enough.set()

    with watching(pending.values(), watch), anyio.move_on_after(timeout_s):
        await enough.wait()
    return enough.is_set()


async def until_done_or_asking(future: Future) -> None:
    """Return when a future is terminal, or has a question."""
    changed = anyio.Event()

    def watch(future: Future) -> None:
        if future.done or future.questions:
            changed.set()

    with watching([future], watch):
        watch(future)
        await changed.wait()
