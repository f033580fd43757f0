"""The subscriptions and the log level of one server, renewed after every reconnect.

Owns requesting them in both protocol eras: with one request each before 2026-07-28, on `subscriptions/listen` streams
since. The notifications themselves are left to others.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import anyio

from asyncfc_mcp.core.backoff import Backoff
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, METHOD_NOT_FOUND, SUBSCRIPTION_ID_META_KEY, CallOptions
from asyncfc_mcp.signals import Signal, WakeUp

ACKNOWLEDGE_TIMEOUT_S: Final = 5.0
"""Time for a server to acknowledge a stream; without an acknowledgement the stream is assumed to work."""
REOPEN_S: Final = (0.5, 60.0)
"""First and longest pause before a stream that has ended is opened again."""
LIST_CHANGES: Final[Mapping[str, Any]] = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}


class SubscriptionConnection(Protocol):
    """The part of `Connection` that subscriptions need."""

    closed: anyio.Event

    @property
    def modern(self) -> bool: ...

    async def request(
        self, method: str, params: Mapping[str, Any], options: CallOptions | None = None
    ) -> dict[str, Any]: ...


class _Stream:
    """One `subscriptions/listen` request, sent again whenever it ends."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.wanted = wanted
        self.honored: frozenset[str] = frozenset()
        """URIs of resources in the acknowledgement."""
        self.refused = False
        self.settled = anyio.Event()
        """Set when the stream is acknowledged or refused."""
        self.scope = anyio.CancelScope()


class ServerSubscriptions:
    """The subscriptions of all clients at one server; `run` requests them on each new connection."""

    def __init__(self) -> None:
        self.log_level: str | None = None
        """The lowest severity of log messages, for protocol versions that have it per connection."""
        self._uris: dict[str, None] = {}
        self._uris_changed = WakeUp()
        self._stream_settled = Signal()
        self._resource_stream: _Stream | None = None
        """Replaced when `_uris` changes."""
        self._streams: dict[str, _Stream] = {}
        """ID of an open request → its stream."""
        self._last_id = 0

    async def subscribe(self, connection: SubscriptionConnection, uri: str) -> None:
        """Subscribe to a resource; returns when the server sends its changes.

        Raises:
            RpcError: the server refused.
        """
        self._uris[uri] = None
        try:
            if not connection.modern:
                await connection.request("resources/subscribe", {"uri": uri})
                return
            self._uris_changed.set()
            with anyio.move_on_after(ACKNOWLEDGE_TIMEOUT_S):
                while (stream := self._settled_stream_of(uri)) is None:
                    await self._stream_settled.wait()
                if stream.refused or uri not in stream.honored:
                    message = "the server does not support subscriptions to this resource"
                    raise RpcError(INVALID_PARAMS, message, {"uri": uri})
        except BaseException:  # refused, or the request for it was cancelled
            self._uris.pop(uri, None)
            raise

    async def unsubscribe(self, connection: SubscriptionConnection | None, uri: str) -> None:
        """End the subscription to a resource.

        Raises:
            RpcError: the server refused.
        """
        self._uris.pop(uri, None)
        self._uris_changed.set()
        if connection is not None and not connection.modern:
            await connection.request("resources/unsubscribe", {"uri": uri})

    @property
    def has_resources(self) -> bool:
        """True if there is a subscription to a resource."""
        return bool(self._uris)

    def succeed(self, before: "ServerSubscriptions") -> None:
        """Take over what another connection to the same server was asked for."""
        self.log_level = before.log_level
        self._uris = dict(before._uris)

    def clear(self) -> None:
        """Forget all subscriptions, after the end of the connection."""
        self._uris.clear()

    def on_acknowledged(self, params: Mapping[str, Any]) -> None:
        """Handle the acknowledgement of a stream, which lists the subscriptions that the server honors."""
        meta = params.get("_meta")
        request_id = cast("dict[str, Any]", meta).get(SUBSCRIPTION_ID_META_KEY) if isinstance(meta, dict) else None
        stream = self._streams.get(str(request_id))
        if stream is None:
            return
        notifications = params.get("notifications")
        honored = cast("dict[str, Any]", notifications) if isinstance(notifications, dict) else {}
        uris = honored.get("resourceSubscriptions")
        found = cast("list[Any]", uris) if isinstance(uris, list) else []
        stream.honored = frozenset(uri for uri in found if isinstance(uri, str))
        self._settle(stream)

    async def run(self, connection: SubscriptionConnection, renewed: anyio.Event, *, logs: bool) -> None:
        """Request all subscriptions and the log level on a new connection; with streams, until it ends.

        Args:
            renewed: set when the earlier subscriptions have been requested.
            logs: the server has declared that it sends log messages.
        """
        if connection.modern:
            await self._run_streams(connection, renewed)
            return
        async with anyio.create_task_group() as tg:
            if logs and self.log_level is not None:
                tg.start_soon(_request_again, connection, "logging/setLevel", {"level": self.log_level})
            for uri in self._uris:
                tg.start_soon(_request_again, connection, "resources/subscribe", {"uri": uri})
        renewed.set()

    # --- streams -------------------------------------------------------------------------------------------------

    async def _run_streams(self, connection: SubscriptionConnection, renewed: anyio.Event) -> None:
        self._streams.clear()
        self._resource_stream = None
        self._uris_changed = WakeUp()
        async with anyio.create_task_group() as tg:
            # List changes have a stream of their own, which changed subscriptions do not interrupt.
            tg.start_soon(self._keep_open, connection, _Stream(LIST_CHANGES))
            while not connection.closed.is_set():
                previous, self._resource_stream = self._resource_stream, None
                if self._uris:
                    stream = self._resource_stream = _Stream({"resourceSubscriptions": list(self._uris)})
                    tg.start_soon(self._keep_open, connection, stream)
                    with anyio.move_on_after(ACKNOWLEDGE_TIMEOUT_S):
                        await stream.settled.wait()
                if previous is not None:
                    # Closed after the new stream is acknowledged, so that no change is lost in between.
                    previous.scope.cancel()
                renewed.set()
                await self._uris_changed.wait()

    async def _keep_open(self, connection: SubscriptionConnection, stream: _Stream) -> None:
        backoff = Backoff(*REOPEN_S)
        with stream.scope:
            while not connection.closed.is_set():
                self._last_id += 1
                request_id = f"listen-{self._last_id}"
                self._streams[request_id] = stream
                opened = anyio.current_time()
                options: CallOptions = {"request_id": request_id, "lasting": True}
                try:
                    await connection.request("subscriptions/listen", {"notifications": stream.wanted}, options)
                except RpcError as exc:
                    stream.refused = exc.code == METHOD_NOT_FOUND
                    self._settle(stream)
                    if stream.refused:
                        return
                finally:
                    del self._streams[request_id]
                if anyio.current_time() - opened > REOPEN_S[1]:
                    backoff.reset()  # a stream that was open for long is no failure
                await anyio.sleep(backoff.next())

    def _settled_stream_of(self, uri: str) -> _Stream | None:
        """Return the stream with the subscription to a resource, if the server has acknowledged or refused it."""
        stream = self._resource_stream
        if stream is None or not stream.settled.is_set() or uri not in stream.wanted["resourceSubscriptions"]:
            return None
        return stream

    def _settle(self, stream: _Stream) -> None:
        stream.settled.set()
        self._stream_settled.notify_all()


async def _request_again(connection: SubscriptionConnection, method: str, params: Mapping[str, Any]) -> None:
    with suppress(RpcError):  # it was accepted before a reconnect; no client waits for it now
        await connection.request(method, params)
