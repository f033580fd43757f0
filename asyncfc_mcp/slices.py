"""Work in slices: long work is a generator that pauses often, so that other tasks can run.

Pure. Such a generator yields after at most a few hundred microseconds of work and returns the outcome. Functions that
return one have names in -ing. `turns` runs them on the event loop, `at_once` without pauses.
"""

from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work that pauses wherever it yields, and returns its outcome."""


def at_once(work: Slices[T]) -> T:
    """Run work to its end without pauses."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def each(items: Iterable[T], every: int = 256) -> Slices[list[T]]:
    """Collect the items of an iterable, with a pause after every `every` items."""
    collected: list[T] = []
    for number, item in enumerate(items, 1):
        collected.append(item)
        if number % every == 0:
            yield
    return collected
