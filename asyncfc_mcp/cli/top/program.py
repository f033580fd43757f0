"""`asyncfc-mcp top` while it runs: keys and events change the model, which is drawn anew.

Owns the tasks, the connection that is made again after it was lost, and the rate of drawing. Leaves the state to
`model`, the lines to `view`, the terminal's mode to `terminal`, and requests to the bridge to its `Feed`.
"""

import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final, Protocol

import anyio
import anyio.abc
from rich.console import Console, Group
from rich.live import Live

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.top import terminal
from asyncfc_mcp.cli.top.model import Action, Cancel, Load, Model, Quit
from asyncfc_mcp.cli.top.timeline import ASCII, UNICODE, Marks
from asyncfc_mcp.cli.top.view import screen

FRAME_S: Final = 0.1
"""Least seconds between two drawings, unless a key was pressed."""
TICK_S: Final = 1.0
"""Seconds after which the screen is drawn anew in any case, since its times go on."""
RUNNING_TICK_S: Final = 0.25
"""The same while calls run."""
RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Pauses before the connection is tried again; the last one is repeated."""


class Lost(Exception):
    """The bridge cannot be reached, or has refused a request; the text says why."""


class Feed(Protocol):
    """A bridge, as `top` sees it."""

    def events(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield its events; the first ones are its present state.

        Raises:
            Lost: the connection has failed.
        """
        ...

    async def call(self, future_id: str) -> Mapping[str, Any]:
        """Return a call with arguments and result.

        Raises:
            Lost: it cannot be read.
        """
        ...

    async def cancel(self, future_id: str) -> Mapping[str, Any]:
        """Cancel a call.

        Raises:
            Lost: it cannot be cancelled.
        """
        ...


Connect = Callable[[], AbstractAsyncContextManager[Feed]]
"""Finds the bridge and connects to it; raises `Lost`."""


class Program:
    """One run.

    Args:
        connect: makes each connection; the bridge may be another process the next time.
        wall: the wall clock of this machine.
    """

    def __init__(self, connect: Connect, wall: Callable[[], float] = time.time) -> None:
        self.model = Model()
        self._connect = connect
        self._wall = wall
        self._ahead_s = 0.0
        self._feed: Feed | None = None
        self._changed = anyio.Event()
        self._urgent = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def now(self) -> float:
        """Time of the bridge, which may be on another machine."""
        return self._wall() + self._ahead_s

    async def run(self) -> None:
        """Show calls until the user quits.

        Raises:
            NoTerminal: there is none.
        """
        terminal.check()
        console = _console()
        marks = UNICODE if terminal.is_unicode(console.encoding) else ASCII
        with terminal.keys_at_once():
            with Live(
                console=console, screen=True, auto_refresh=False, redirect_stderr=False, redirect_stdout=False
            ) as live:
                async with anyio.create_task_group() as self._tasks:
                    self._tasks.start_soon(self._signals)
                    self._tasks.start_soon(self._keys)
                    self._tasks.start_soon(self._events)
                    await self._draw(live, console, marks)

    def _stop(self) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # --- drawing -------------------------------------------------------------------------------------------------

    async def _draw(self, live: Live, console: Console, marks: Marks) -> None:
        while True:
            self._changed, self._urgent = anyio.Event(), anyio.Event()
            width, height = console.size
            live.update(Group(*screen(self.model, width, height, self.now, marks)), refresh=True)
            with anyio.move_on_after(FRAME_S):
                await self._urgent.wait()
            if not self._urgent.is_set():
                with anyio.move_on_after(self._tick_s() - FRAME_S):
                    await self._changed.wait()

    def _tick_s(self) -> float:
        rows = self.model.rows()
        return RUNNING_TICK_S if rows and not words.has_ended(rows[0]) else TICK_S

    def _redraw(self, *, urgent: bool = False) -> None:
        self._changed.set()
        if urgent:
            self._urgent.set()

    # --- keys and signals ----------------------------------------------------------------------------------------

    async def _signals(self) -> None:
        signals = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            return  # its event loop raises KeyboardInterrupt
        with anyio.open_signal_receiver(*signals, signal.SIGHUP, signal.SIGWINCH) as received:
            async for each in received:
                if each == signal.SIGWINCH:
                    self._redraw(urgent=True)
                else:
                    self._stop()

    async def _keys(self) -> None:
        async for key in terminal.pressed():
            for action in self.model.press(key, self.now):
                self._do(action)
            self._redraw(urgent=True)
        self._stop()

    def _do(self, action: Action) -> None:
        assert self._tasks is not None
        match action:
            case Quit():
                self._stop()
            case Load(future_id):
                self._tasks.start_soon(self._load, future_id)
            case Cancel(future_id):
                self._tasks.start_soon(self._cancel, future_id)

    async def _load(self, future_id: str) -> None:
        try:
            if self._feed is None:
                raise Lost("no connection")
            self.model.loaded(await self._feed.call(future_id))
        except Lost as exc:
            self.model.loaded({"id": future_id, "hidden": str(exc)})
        self._redraw(urgent=True)

    async def _cancel(self, future_id: str) -> None:
        try:
            if self._feed is None:
                raise Lost("no connection")
            entry = await self._feed.cancel(future_id)
            self.model.notice = f"{words.text({'id': future_id}, 'id')} is {words.name_of_state(entry)}"
        except Lost as exc:
            self.model.notice = f"not cancelled: {exc}"
        self._redraw(urgent=True)

    # --- events --------------------------------------------------------------------------------------------------

    async def _events(self) -> None:
        """Take in events, and connect again after a loss, for as long as the program runs."""
        failed = 0
        while True:
            try:
                async with self._connect() as feed:
                    self._feed = feed
                    async with aclosing(_generator(feed.events())) as events:
                        async for event in events:
                            if self.model.problem:
                                self.model.connected()
                                failed = 0
                            self._take(event)
                self.model.disconnected("the bridge has ended")
            except Lost as exc:
                self.model.disconnected(str(exc))
            finally:
                self._feed = None
            self._redraw()
            await anyio.sleep(RECONNECT_S[min(failed, len(RECONNECT_S) - 1)])
            failed += 1

    def _take(self, event: Mapping[str, Any]) -> None:
        for action in self.model.receive(event):
            self._do(action)
        sent = words.moment(words.part(event, "data"), "now") if event.get("event") == "overview" else None
        if sent is not None:
            self._ahead_s = sent - self._wall()
        self._redraw()


async def _generator(events: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[Mapping[str, Any]]:
    async for event in events:
        yield event


def _console() -> Console:
    # Variables that state a size would hide that the terminal has another one since.
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    # What the encoding of the terminal lacks is replaced.
    output = open(1, "w", errors="replace", closefd=False)
    return Console(file=output, highlight=False, markup=False, emoji=False, _environ=environ)
