"""What the tests of the core share: virtual time.

Owns no assertions. Where time matters a test runs on trio's virtual clock, which jumps as soon as everybody waits: an
hour costs nothing, and what happens at the same second happens at the same second.
"""

from collections.abc import Awaitable, Callable
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

    return anyio.run(bounded, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


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
