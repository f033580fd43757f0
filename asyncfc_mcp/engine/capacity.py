"""Capacity: `max_concurrency` of servers and tools, and the queues of calls that wait for it.

Owns which call gets the next place: limits of the server and of the tool hold together, and where several
parties use the bridge, one of them cannot have all places. Pure and synchronous. Starting and ending calls is the
scheduler's.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

from asyncfc_mcp.core.identity import Party
from asyncfc_mcp.core.retention import allowance

SPARE: Final = 64
"""Dropped calls that a queue may hold before it is compacted."""


class Waiter(Protocol):
    """A call in a queue.

    Attributes:
        number: its position in the order of submission.
        dropped: it has ended, and gets no place.
    """

    number: int
    dropped: bool


W = TypeVar("W", bound=Waiter)


class Places:
    """Places of a server or a tool; unlimited without a limit.

    Args:
        share: the most that one party gets, at least one place (see `retention.allowance`).
    """

    __slots__ = ("limit", "of", "running", "share")

    def __init__(self, limit: int | None, share: float) -> None:
        self.limit, self.share = limit, share
        self.running = 0
        self.of: Counter[Party] = Counter()
        """Running calls by party, where parties are told apart."""

    def admits(self, party: Party) -> bool:
        """Return whether one more call of this party may run."""
        if self.limit is None:
            return True
        free = self.limit - self.running
        if party is None or free <= 0:
            return free > 0
        return (own := self.of[party]) == 0 or own < allowance(self.share, free)

    def take(self, party: Party) -> None:
        self.running += 1
        if party is not None:
            self.of[party] += 1

    def leave(self, party: Party) -> None:
        self.running -= 1
        if party is not None:
            self.of[party] -= 1
            if not self.of[party]:
                del self.of[party]


class _Queue(Generic[W]):
    """Calls of one tool and one party that lack nothing but a place."""

    __slots__ = ("heap", "left")

    def __init__(self) -> None:
        self.heap: list[tuple[int, W]] = []
        """Ordered by number."""
        self.left = 0
        """Dropped calls among them."""

    def first(self) -> W | None:
        while self.heap and self.heap[0][1].dropped:
            heappop(self.heap)
            self.left -= 1
        return self.heap[0][1] if self.heap else None

    def lose(self) -> None:
        self.left += 1
        if self.left > SPARE and self.left > len(self.heap) // 2:
            self.heap = [each for each in self.heap if not each[1].dropped]
            heapify(self.heap)
            self.left = 0


class Server(Places, Generic[W]):
    """Places of a server, and the queues of its tools.

    There is one queue for each tool and party, and none for the server: a call that moved from queue to queue would
    keep a place of the first while it is dropped from the second, and calls behind it in the first would never start.
    """

    __slots__ = ("count", "instance", "queues", "served")

    def __init__(self, limit: int | None, share: float) -> None:
        super().__init__(limit, share)
        self.instance: str | None = None
        """Key of its places, if they are those of one instance of the server."""
        self.queues: dict[tuple[Tool[W], Party], _Queue[W]] = {}
        self.served: dict[Party, int] = {}
        """Party → the count of all starts when it last got a place."""
        self.count = 0

    def next(self) -> "tuple[Tool[W], Party, W] | None":
        """Return the next call that may run, in order of submission within the limits. Of several parties, the one with
        the fewest running calls is first, then the one that was served longest ago."""
        best: tuple[tuple[int, int, int], Tool[W], Party, W] | None = None
        for (tool, party), queue in tuple(self.queues.items()):
            call = queue.first()
            if call is None:
                del self.queues[tool, party]
            elif tool.admits(party) and self.admits(party):
                rank = (self.of[party], self.served.get(party, 0), call.number)
                if best is None or rank < best[0]:
                    best = rank, tool, party, call
        if best is None:
            return None
        return best[1:]


class Tool(Places, Generic[W]):
    """Places of a tool, within those of its server."""

    __slots__ = ("server",)

    def __init__(self, limit: int | None, share: float, server: Server[W]) -> None:
        super().__init__(limit, share)
        self.server = server


class Capacity(Generic[W]):
    """Capacity of all servers.

    Args:
        limits: of each server; absent or None means no limit.
        share: see `Places`.
    """

    def __init__(self, limits: Mapping[str, int | None], share: float) -> None:
        self._share = share
        self._servers: dict[str, Server[W]] = {name: Server(limit, share) for name, limit in limits.items()}
        self._tools: dict[tuple[str, str], Tool[W]] = {}

    def configure(
        self, limits: Mapping[str, int | None], tool_limit: Callable[[str, str], int | None]
    ) -> list[Tool[W]]:
        """Use other limits from now on, for calls that are queued, too; return a tool of each server that is known.

        Args:
            tool_limit: returns the limit of a server's tool.
        """
        for name, limit in limits.items():
            if name not in self._servers:
                self._servers[name] = Server(limit, self._share)
        for place, server in self._servers.items():
            server.limit = limits.get(_server_of(place))
        for (place, name), tool in self._tools.items():
            tool.limit = tool_limit(_server_of(place), name)
        return list({id(tool.server): tool for tool in self._tools.values()}.values())

    def tool(self, server: str, name: str, limit: int | None = None, *, instance: str | None = None) -> Tool[W]:
        """Return a tool, with the limit that it had at its first call.

        Args:
            instance: identifies the instance of the server, where there are several: each has the server's limit.
        """
        place = server if instance is None else f"{server}\0{instance}"
        tool = self._tools.get((place, name))
        if tool is None:
            of = self._servers.get(place)
            if of is None:
                same = self._servers.get(server)
                of = self._servers[place] = Server(same.limit if same is not None else None, self._share)
                of.instance = place if instance is not None else None
            tool = self._tools[place, name] = Tool(limit, self._share, of)
        return tool

    def running(self, server: str, name: str) -> int:
        """Return how many calls of a tool have a place."""
        tool = self._tools.get((server, name))
        return 0 if tool is None else tool.running

    def enter(self, tool: Tool[W], party: Party, call: W) -> bool:
        """Give a call a place and return true, or queue it and return false."""
        server = tool.server
        if not server.queues and server.admits(party) and tool.admits(party):
            self._take(tool, party)
            return True
        queue = server.queues.get((tool, party))
        if queue is None:
            queue = server.queues[tool, party] = _Queue()
        heappush(queue.heap, (call.number, call))
        return False

    def next(self, tool: Tool[W]) -> W | None:
        """Give the next queued call at a tool's server a place, and return it; None if none may run."""
        found = tool.server.next()
        if found is None:
            self._forget_idle(tool.server)
            return None
        tool, party, call = found
        heappop(tool.server.queues[tool, party].heap)
        self._take(tool, party)
        return call

    def leave(self, tool: Tool[W], party: Party) -> None:
        """Take back the place of a call that has ended."""
        server = tool.server
        tool.leave(party)
        server.leave(party)
        self._forget_idle(server)

    def _forget_idle(self, server: Server[W]) -> None:
        """Forget an instance without calls: its session may have ended. The next call makes its places anew."""
        if server.instance is not None and not server.running and not server.queues:
            self._servers.pop(server.instance, None)
            for key in [key for key, each in self._tools.items() if each.server is server]:
                del self._tools[key]

    def lose(self, tool: Tool[W], party: Party) -> None:
        """Record that a call was dropped that may be queued."""
        if (queue := tool.server.queues.get((tool, party))) is not None:
            queue.lose()

    def _take(self, tool: Tool[W], party: Party) -> None:
        server = tool.server
        tool.take(party)
        server.take(party)
        if party is not None:
            server.count += 1
            server.served[party] = server.count
            if len(server.served) > 2 * len(server.queues) + SPARE:
                waiting = {each for _, each in server.queues}
                server.served = {each: at for each, at in server.served.items() if each in waiting}


def _server_of(place: str) -> str:
    return place.partition("\0")[0]
