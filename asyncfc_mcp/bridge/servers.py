"""Wrapped servers, those that all callers share or those of one caller: their connections by name, a task for each.

Owns which of them there are at this moment, in the order of the configuration, which decides clashes of names, and
their change while the bridge runs: a server that is replaced or removed gets `drain_s` for the calls that it has, and
there are never two processes of one server. Every part of the bridge looks into this one mapping. Leaves keeping a
server connected to its `Downstream`, servers that one replica at a time runs to `hosts`, and whose connections they are
to `caller_connections`.
"""

import re
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.config.changes import is_another_server
from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, ServerChanged, ServerRemoved
from asyncfc_mcp.signals import Signal

DRAIN_POLL_S: Final = 0.05
"""Interval between two looks at the calls of a server that is to end."""

Connect = Callable[[ServerConfig], Downstream]
"""Makes the connection to a server, which is not started."""


@dataclass(slots=True)
class Reconfigured:
    """Names of the servers that a change of the configuration concerns; `restarted` have a new connection, `updated`
    new settings only."""

    added: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    restarted: list[str] = field(default_factory=list[str])
    updated: list[str] = field(default_factory=list[str])


class Servers(Mapping[str, Downstream]):
    """Server → its connection. An iteration goes over the servers of its beginning, so that it may wait in between.

    Args:
        configs: the servers, in the order of the configuration.
        connect: makes a connection.
        engine: has the calls.
        drain_s: returns the seconds that calls of a server have to finish before it ends.
        credentials: key of the only caller whose servers they are; None: all callers share them.
    """

    def __init__(
        self,
        configs: Iterable[ServerConfig],
        connect: Connect,
        engine: Engine,
        drain_s: Callable[[], float],
        credentials: str | None = None,
    ) -> None:
        self._connect, self._engine, self._drain_s = connect, engine, drain_s
        self._credentials = credentials
        self._current = {config.name: connect(config) for config in configs}
        """Replaced as a whole, never changed."""
        self._running: dict[str, Downstream] = {}
        """Server → the connection that its task runs, which may be one that is being replaced."""
        self._changed = Signal()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._hosted: Collection[str] = ()

    async def run(
        self, hosted: Collection[str] = (), *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the servers connected until cancelled.

        Args:
            hosted: servers that are started and stopped by `hosts`.
        """
        self._hosted = hosted
        async with anyio.create_task_group() as self._tasks:
            for downstream in self._current.values():
                self._start(downstream)
            task_status.started()
            await anyio.sleep_forever()

    # --- changing ------------------------------------------------------------------------------------------------

    def reconfigure(self, configs: Sequence[ServerConfig]) -> Reconfigured:
        """Have these servers from now on. Unchanged ones are left alone; a changed one is replaced, and calls wait for
        its new connection; one whose settings have changed gets them; a removed one ends, and calls that it has not
        got fail at once."""
        before = self._current
        names = {config.name for config in configs}
        done = Reconfigured(removed=[name for name in before if name not in names])
        current: dict[str, Downstream] = {}
        for config in configs:
            name = config.name
            downstream = before.get(name)
            if downstream is None:
                ending = self._running.get(name)  # one that was removed and comes back before its end
                downstream = self._connect(config) if ending is None else self._succeeding(ending, config)
                done.added.append(name)
            elif is_another_server(downstream.config, config):
                downstream = self._succeeding(downstream, config)
                done.restarted.append(name)
            elif downstream.config != config:
                downstream.configure(config)
                done.updated.append(name)
            current[name] = downstream
        self._current = current
        if done.removed:
            gone = frozenset(done.removed)
            self.fail_waiting(
                lambda call: call.future.server in gone and call.credentials == self._credentials,
                lambda call: ServerRemoved(call.future.server),
            )
        for name, old in before.items():
            if current.get(name) is not old and self._running.get(name) is not old:
                old.retire()  # it waited for the end of another one, and was never started
        for downstream in current.values():
            if downstream.name not in self._running:
                self._start(downstream)
        self._changed.notify_all()
        return done

    def fail_waiting(self, concerns: Callable[[Call], bool], failure: Callable[[Call], CallFailed]) -> None:
        """Fail calls that no server has got, the newest first, so that the end of none starts another."""
        for call in reversed(self._engine.unfinished):
            if not (call.sent or call.elsewhere or call.future.done) and concerns(call):
                self._engine.abort_nowait(call, failure(call))

    def _succeeding(self, before: Downstream, config: ServerConfig) -> Downstream:
        downstream = self._connect(config)
        downstream.succeed(before, same_program=_is_same_program(before.config, config))
        return downstream

    def _start(self, downstream: Downstream) -> None:
        if self._tasks is not None and downstream.name not in self._hosted:
            self._running[downstream.name] = downstream
            self._tasks.start_soon(self._keep, downstream)

    async def _keep(self, downstream: Downstream) -> None:
        """Run a server, and after its end the one that has taken its place."""
        name = downstream.name
        while True:
            async with anyio.create_task_group() as tg:
                tg.start_soon(downstream.run)
                while self._current.get(name) is downstream:
                    await self._changed.wait()
                await self._drain(downstream)
                tg.cancel_scope.cancel()
            following = self._current.get(name)
            if following is None:
                del self._running[name]
                return
            downstream = self._running[name] = following

    async def _drain(self, downstream: Downstream) -> None:
        """Return when a server has no call, at latest after `drain_s`; calls that are left then have failed, but those
        that can be made again by its successor."""
        name, drain_s = downstream.name, self._drain_s()
        if drain_s > 0:
            with anyio.move_on_after(drain_s):
                while downstream.in_flight or self._calls_of(name):  # noqa: ASYNC110 - no event has both
                    await anyio.sleep(DRAIN_POLL_S)
                return
        removed = name not in self._current
        for call in self._calls_of(name):
            if removed or not call.repeatable:
                self._engine.abort_nowait(call, ServerChanged(name, drain_s, removed=removed))

    def _calls_of(self, name: str) -> list[Call]:
        """Return the calls that the connection to end has: its successor has none before it is run."""
        return [
            call
            for call in self._engine.unfinished
            if call.sent
            and not call.elsewhere
            and call.future.server == name
            and call.future.state is not State.WAITING
            and call.credentials == self._credentials
        ]

    # --- the mapping ---------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Downstream:
        return self._current[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current)

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, name: object) -> bool:
        return name in self._current

    def keys(self) -> KeysView[str]:
        return self._current.keys()

    def values(self) -> ValuesView[Downstream]:
        return self._current.values()

    def items(self) -> ItemsView[str, Downstream]:
        return self._current.items()


def _is_same_program(old: ServerConfig, new: ServerConfig) -> bool:
    """Return whether two configurations start the same program, or lead to the same URL. Then its tools are listed, and
    calls of them wait, until it has listed them anew; the tools of another program are not known before that."""
    return type(old.spec) is type(new.spec) and _program(old.spec) == _program(new.spec)


def _program(spec: StdioSpec | HttpSpec) -> tuple[str, str]:
    """Return the command and what it runs, such as a package without its version; or the URL."""
    if isinstance(spec, HttpSpec):
        return spec.url, ""
    word = next((arg for arg in spec.args if not arg.startswith("-")), "")
    return spec.command, re.sub(r"(?<=.)@[^/]*$", "", word)
