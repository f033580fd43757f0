"""The wrapped servers that all callers share: their connections by name, and a task for each.

Owns which of them there are at this moment, in the order of the configuration, which decides clashes of names. Every
part of the bridge looks into this one mapping. Leaves keeping a server connected to its `Downstream`, servers that one
replica at a time runs to `hosts`, and connections of single callers to `caller_connections`.
"""

from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView

import anyio
import anyio.abc

from asyncfc_mcp.config.settings import ServerConfig
from asyncfc_mcp.downstream.downstream import Downstream

Connect = Callable[[ServerConfig], Downstream]
"""Makes the connection to a server, which is not started."""


class Servers(Mapping[str, Downstream]):
    """Server → its connection. An iteration goes over the servers of its beginning, so that it may wait in between.

    Args:
        configs: the servers, in the order of the configuration.
        connect: makes a connection.
    """

    def __init__(self, configs: Iterable[ServerConfig], connect: Connect) -> None:
        self._connect = connect
        self._current = {config.name: connect(config) for config in configs}
        """Replaced as a whole, never changed."""

    async def run(
        self, hosted: Collection[str] = (), *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the servers connected until cancelled.

        Args:
            hosted: servers that are started and stopped by `hosts`.
        """
        async with anyio.create_task_group() as tg:
            for name, downstream in self._current.items():
                if name not in hosted:
                    tg.start_soon(downstream.run)
            task_status.started()
            await anyio.sleep_forever()

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
