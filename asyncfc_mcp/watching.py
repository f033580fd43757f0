"""What one server is asked to tell of: changes of lists and resources, and log messages; again after every restart.

Owns how that is asked for in either protocol era: once for each before 2026-07-28, on `subscriptions/listen` streams
since. Refuses to know what becomes of what the server tells.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import anyio

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, METHOD_NOT_FOUND

SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
ANSWER_S: Final = 5.0
"""How long a server's acknowledgement of a stream is waited for; one that sends none is believed to listen."""
PAUSE_S: Final = (0.5, 60.0)
"""First and longest pause before a stream that ended is opened again."""
LISTS: Final[Mapping[str, Any]] = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}


class Line(Protocol):
    """A live connection to the server, as far as it matters here."""

    closed: anyio.Event

    @property
    def modern(self) -> bool: ...

    async def send(
        self, method: str, params: Mapping[str, Any], *, request_id: str | None = None
    ) -> dict[str, Any]: ...


class _Stream:
    """One `subscriptions/listen`, opened again when it breaks."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.wanted = wanted
        self.honored: frozenset[str] = frozenset()
        self.refused = False
        self.settled = anyio.Event()
        """It was acknowledged or refused."""
        self.scope = anyio.CancelScope()


class Watching:
    """The wishes of all clients of one server; `run` has each new connection fulfil them."""

    def __init__(self) -> None:
        self.level: str | None = None
        """The least severe log messages that are wanted, where the protocol has that per connection."""
        self._uris: dict[str, None] = {}
        self._dirty = anyio.Event()
        self._changed = anyio.Event()
        self._current: _Stream | None = None
        """The stream of resources; it is replaced when they are others."""
        self._streams: dict[str, _Stream] = {}
        self._count = 0

    async def subscribe(self, line: Line, uri: str) -> None:
        """Return when the server will tell of a resource's changes.

        Raises:
            RpcError: it refuses.
        """
        self._uris[uri] = None
        try:
            if not line.modern:
                await line.send("resources/subscribe", {"uri": uri})
                return
            self._dirty.set()
            with anyio.move_on_after(ANSWER_S):
                while (stream := self._serving(uri)) is None:
                    await self._changed.wait()
                if stream.refused or uri not in stream.honored:
                    raise RpcError(INVALID_PARAMS, "the server does not tell of changes of this resource", {"uri": uri})
        except BaseException:  # a refusal, or its request was cancelled
            self._uris.pop(uri, None)
            raise

    async def unsubscribe(self, line: Line | None, uri: str) -> None:
        """Raises: RpcError: the server refuses."""
        self._uris.pop(uri, None)
        self._dirty.set()
        if line is not None and not line.modern:
            await line.send("resources/unsubscribe", {"uri": uri})

    def acknowledged(self, params: Mapping[str, Any]) -> None:
        """The server has said what a stream will tell of."""
        meta = params.get("_meta")
        number = cast("dict[str, Any]", meta).get(SUBSCRIPTION_KEY) if isinstance(meta, dict) else None
        stream = self._streams.get(str(number))
        if stream is None:
            return
        notifications = params.get("notifications")
        honored = cast("dict[str, Any]", notifications) if isinstance(notifications, dict) else {}
        uris = honored.get("resourceSubscriptions")
        found = cast("list[Any]", uris) if isinstance(uris, list) else []
        stream.honored = frozenset(uri for uri in found if isinstance(uri, str))
        self._settle(stream)

    async def run(self, line: Line, ready: anyio.Event, *, logs: bool) -> None:
        """Ask a new connection for everything that is wanted; on streams, for as long as it lasts.

        Args:
            ready: set when the server has been asked for what was wanted before.
            logs: whether the server has log messages.
        """
        if line.modern:
            await self._keep_listening(line, ready)
            return
        async with anyio.create_task_group() as tg:
            if logs and self.level is not None:
                tg.start_soon(_ask, line, "logging/setLevel", {"level": self.level})
            for uri in self._uris:
                tg.start_soon(_ask, line, "resources/subscribe", {"uri": uri})
        ready.set()

    # --- streams -------------------------------------------------------------------------------------------------

    async def _keep_listening(self, line: Line, ready: anyio.Event) -> None:
        self._streams.clear()
        self._current = None
        async with anyio.create_task_group() as tg:
            # Lists have a stream of their own, which no subscription interrupts.
            tg.start_soon(self._keep, line, _Stream(LISTS))
            while not line.closed.is_set():
                self._dirty = anyio.Event()
                before, self._current = self._current, None
                if self._uris:
                    stream = self._current = _Stream({"resourceSubscriptions": list(self._uris)})
                    tg.start_soon(self._keep, line, stream)
                    with anyio.move_on_after(ANSWER_S):
                        await stream.settled.wait()
                if before is not None:
                    # Only now, so that no change falls between the two.
                    before.scope.cancel()
                ready.set()
                await self._dirty.wait()

    async def _keep(self, line: Line, stream: _Stream) -> None:
        pause = PAUSE_S[0]
        with stream.scope:
            while not line.closed.is_set():
                self._count += 1
                request_id = f"listen-{self._count}"
                self._streams[request_id] = stream
                opened = anyio.current_time()
                try:
                    await line.send("subscriptions/listen", {"notifications": stream.wanted}, request_id=request_id)
                except RpcError as exc:
                    stream.refused = exc.code == METHOD_NOT_FOUND
                    self._settle(stream)
                    if stream.refused:
                        return
                finally:
                    del self._streams[request_id]
                if anyio.current_time() - opened > PAUSE_S[1]:
                    pause = PAUSE_S[0]  # it served well; what ended it is no reason to stay away for long
                await anyio.sleep(pause)
                pause = min(pause * 2, PAUSE_S[1])

    def _serving(self, uri: str) -> _Stream | None:
        """The stream that was opened for a resource and has been answered."""
        stream = self._current
        if stream is None or not stream.settled.is_set() or uri not in stream.wanted["resourceSubscriptions"]:
            return None
        return stream

    def _settle(self, stream: _Stream) -> None:
        stream.settled.set()
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


async def _ask(line: Line, method: str, params: Mapping[str, Any]) -> None:
    with suppress(RpcError):  # it did not refuse before; if it does now, there is nobody to tell
        await line.send(method, params)
