"""The configuration's file, followed while the bridge runs: a change of it counts at once.

Owns when the file is read again, and what is wrong with it at this moment. A file that is not usable changes nothing,
and is reported once. Leaves reading to `config`, and using a configuration to `bridge`.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from asyncfc_mcp.config.changes import ConfigChanges
from asyncfc_mcp.config.model import BridgeConfig, Origin
from asyncfc_mcp.config.origin import digest
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.signals import WakeUp

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Interval between two looks at the file."""
SETTLE_S: Final = 0.2
"""Time for which a changed file must stay the same before it is used: editors write in several steps."""
GRACE_S: Final = 2.0
"""Time after a change for which an unusable file, or none, may still be being written."""

T = TypeVar("T")

_Mark = tuple[int, ...]
"""What tells one state of a file from another without reading it; nothing for a file that is not there."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The outcome of a reload.

    Attributes:
        changed: what has changed, one kind in each line (see `ConfigChanges.lines`).
        problem: why the file is not used; None if it is.
    """

    changed: Sequence[str] = ()
    problem: str | None = None


class ConfigFile:
    """Follows one file.

    Args:
        config: what was read from it at the start.
        origin: the file, and how it is read.
        use: uses a configuration from now on; raises `BridgeError` if it cannot.
        follows: returns false while the file is read only when that is asked for (setting `reload`).

    Attributes:
        problem: why the present file is not used; None if it is.
    """

    def __init__(
        self,
        config: BridgeConfig,
        origin: Origin,
        use: Callable[[BridgeConfig], Awaitable[ConfigChanges]],
        follows: Callable[[], bool],
    ) -> None:
        self._origin, self._use, self._follows = origin, use, follows
        self._used = origin.digest
        """Digest of the text that is used."""
        self._known = config
        """The last configuration from the file, whose warnings were logged."""
        self._seen: _Mark | None = None
        self._asked = WakeUp()
        self._reading = anyio.Lock()
        self._observers: list[Callable[[str], None]] = []
        self.while_reloading: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered while a file is read again because that was asked for, or because it has changed."""
        self.problem: str | None = None

    def observe(self, observer: Callable[[str], None]) -> None:
        """Have `observer` called with each line about the file that is logged as a warning."""
        self._observers.append(observer)

    async def run(self) -> None:
        """Follow the file until cancelled."""
        while True:
            with anyio.move_on_after(POLL_S) as pause:
                await self._asked.wait()
            if not pause.cancelled_caught:
                await self.reload()
            elif self._follows():
                await self._look()

    def reload_soon(self) -> None:
        """Read the file, whether or not it has changed."""
        self._asked.set()

    async def reload(self) -> Reloaded:
        """Read the file, whether or not it has changed: variables, files and the keyring may have other values."""
        async with self._reading:
            with self.while_reloading():
                return await self._reload()

    async def _reload(self) -> Reloaded:
        self._seen = await self._mark()
        try:
            return Reloaded(await self._take(await self._text()))
        except BridgeError as exc:
            return Reloaded(problem=self._report(exc))

    async def _look(self) -> None:
        """Use the file if it has changed, once it stays the same."""
        async with self._reading:
            mark = await self._mark()
            if mark == self._seen:
                return
            began = anyio.current_time()
            failure: BridgeError | None = None
            while True:
                try:
                    text = await self._text()
                    self._seen = mark
                    await anyio.sleep(SETTLE_S)
                    if (mark := await self._mark()) != self._seen:
                        continue
                    if digest(text) != self._used or self.problem is not None:
                        with self.while_reloading():
                            await self._take(text)
                    return
                except BridgeError as exc:
                    failure = exc
                if anyio.current_time() - began >= GRACE_S:
                    self._seen = mark
                    self._report(failure)
                    return
                await anyio.sleep(SETTLE_S)
                mark = await self._mark()

    async def _take(self, text: str) -> list[str]:
        """Use a text of the file; return what has changed.

        Raises:
            BridgeError: it cannot be used.
        """
        try:
            config = await _in_thread(lambda: self._origin.config(text))
            found = await self._use(config)
        except BridgeError:
            raise
        except Exception as exc:  # the last resort: it must not end the bridge
            logger.exception("the configuration could not be used")
            raise BridgeError(f"internal error in the bridge: {type(exc).__name__}: {exc}") from exc
        self._used = digest(text)
        lines = found.lines()
        if self.problem is not None:
            self.problem = None
            self._say(f"the configuration is right again: {'; '.join(lines) or 'nothing has changed'}")
        elif lines:
            logger.info("the configuration was reloaded: %s", "; ".join(lines))
        if found.needs_restart:
            self._say(f"the configuration was reloaded; {', '.join(found.needs_restart)} needs a restart")
        before, self._known = self._known, config
        for warning in config.warnings:
            if warning not in before.warnings:
                self._say(warning)
        for server in config.unusable:
            if server not in before.unusable:
                self._say(f"server {server.name!r} was left out: {server.reason}")
        return lines

    def _report(self, failure: BridgeError) -> str:
        """Take note that the present file is not used; log it unless it was logged."""
        problem = str(failure)
        if problem != self.problem:
            self.problem = problem
            self._say(f"the configuration has not changed, since its file cannot be used: {problem}")
        return problem

    def _say(self, line: str) -> None:
        logger.warning("%s", line)
        for observer in self._observers:
            observer(line)

    async def _text(self) -> str:
        return await _in_thread(self._origin.text)

    async def _mark(self) -> _Mark:
        path = self._origin.path

        def mark() -> _Mark:
            try:
                found = os.stat(path)  # of the target of links, so that one that leads elsewhere is a change
            except OSError as exc:
                return (exc.errno or 0,)
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

        return await _in_thread(mark)


async def _in_thread(function: Callable[[], T]) -> T:
    # A folder of a network that does not respond holds up this thread only, and not the end of the bridge.
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
