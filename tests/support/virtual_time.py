"""Run tests on trio's virtual clock, and wait for what happens in the test's own process.

Owns no assertions. The clock jumps as soon as all tasks wait: an hour costs nothing, and what happens at the same
second happens at the same second.
"""

import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import anyio
from trio.testing import MockClock

FOREVER_S = 1e7
"""No test waits that long, on whatever clock."""


def run_on_virtual_time(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run `function` in an event loop of its own whose clock jumps whenever all tasks wait.

    Raises:
        TimeoutError: nothing more can happen, and `function` has not returned.
    """

    async def bounded() -> Any:
        with anyio.fail_after(FOREVER_S):
            return await function(*args)

    try:
        return anyio.run(bounded, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    except BaseExceptionGroup as group:
        # One assertion failed inside of many task groups: it alone is worth reading.
        exc: BaseException = group
        while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]
        raise exc from None


def on_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an asynchronous test one that runs on the virtual clock."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_on_virtual_time(partial(test, *args, **kwargs))

    return run


async def settle() -> None:
    """Let everything happen that can happen now. Cheaper on asyncio than waiting until all tasks are blocked."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


async def until(what: Callable[[], object]) -> None:
    """Return when it is true, on the real clock; for what tells nobody."""
    with anyio.fail_after(5):
        while not what():  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(0.002)


@contextmanager
def uncollected(*types: type) -> Generator[Callable[[], list[Any]]]:
    """While it lasts the garbage collector rests; gives what lists the objects of these types that have come since."""
    gc.collect()
    before = [each for each in gc.get_objects() if isinstance(each, types)]
    known = {id(each) for each in before}
    gc.disable()
    try:
        yield lambda: [each for each in gc.get_objects() if isinstance(each, types) and id(each) not in known]
    finally:
        gc.enable()
