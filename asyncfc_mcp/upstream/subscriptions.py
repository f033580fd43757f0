"""Methods by which clients choose notifications: subscriptions, log levels, and the listen streams of 2026-07-28.

Owns those methods, and the bounds on what one client may subscribe to. Leaves distribution to `notifications`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.errors import AmbiguousName, CallFailed, RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, SUBSCRIPTION_ID_META_KEY
from asyncfc_mcp.upstream.callers import CallerIdentities
from asyncfc_mcp.upstream.listeners import LEVELS, Listener
from asyncfc_mcp.upstream.notifications import NotificationHub
from asyncfc_mcp.upstream.request import (
    Handler,
    Request,
    Session,
    ambiguity_refused,
    awaited,
    require_tasks_extension,
    uri_of,
)

LISTS: Final = frozenset({"tools", "prompts", "resources"})
"""Kinds of lists whose changes are sent to every handshake connection."""
MOST_SUBSCRIPTIONS: Final = 1000
"""Bound on the resources of one listener: each update of a resource is compared with all subscriptions."""
URI_LENGTH: Final = 8192
"""Longest URI of a subscription, in characters. It is stored for as long as its listener."""


class Subscriptions:
    """Creates the listeners of connections and streams, for as long as `run` lasts."""

    def __init__(self, bridge: Bridge, hub: NotificationHub, identities: CallerIdentities) -> None:
        self.bridge = bridge
        self._identities = identities
        self._hub = hub
        self._sessions: dict[Session, Listener] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self.handshake_methods: Mapping[str, Handler] = {
            "resources/subscribe": awaited(self._subscribe),
            "resources/unsubscribe": awaited(self._unsubscribe),
            "logging/setLevel": awaited(self._set_level),
        }
        self.modern_methods: Mapping[str, Handler] = {"subscriptions/listen": awaited(self._listen)}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Distribute notifications, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._hub.run)
            task_status.started()
            await anyio.sleep_forever()

    def listener(self, session: Session) -> Listener:
        """Return the listener of a handshake connection; one is created at the first call, and discarded at its end."""
        listener = self._sessions.get(session)
        if listener is None:
            assert self._tasks is not None
            start = self._tasks.start_soon
            listener = Listener(
                session.notify,
                lambda: session.principal,
                lists=LISTS,
                connection=session,
                line=session.connection,
                start=start,
            )
            listener.level = session.log_level
            self._sessions[session] = listener
            self._hub.add(listener)

            async def forget() -> None:
                del self._sessions[session]
                await self._hub.discard(listener)

            session.at_end(forget)
        return listener

    async def resume(self, session: Session) -> None:
        """Continue the subscriptions of a session of another replica, as far as their servers allow that."""
        listener = self.listener(session)
        for kind in sorted(LISTS):
            listener.enqueue(f"notifications/{kind}/list_changed")  # it may have missed a change
        for uri in session.uris:
            with suppress(CallFailed, AmbiguousName):
                await self._hub.subscribe(listener, uri, session.identity)

    async def _changed(self, request: Request) -> None:
        """Have other replicas know what a session's client wants."""
        assert request.session is not None, "a method of the handshake versions"
        request.session.uris = self.listener(request.session).uris
        await request.session.save()

    def _listener_of(self, request: Request) -> Listener:
        assert request.session is not None, "a method of the handshake versions"
        return self.listener(request.session)

    async def _subscribe(self, request: Request) -> Result:
        listener, uri = self._listener_of(request), uri_of(request)
        if len(uri) > URI_LENGTH:
            raise RpcError(INVALID_PARAMS, f"resources/subscribe: the URI has more than {URI_LENGTH} characters")
        if len(listener.uris) >= MOST_SUBSCRIPTIONS and uri not in listener.uris:
            raise RpcError(
                INVALID_PARAMS,
                f"resources/subscribe: there are {MOST_SUBSCRIPTIONS} subscriptions; end one (resources/unsubscribe)",
            )
        with ambiguity_refused():
            await self._hub.subscribe(listener, uri, self._identities.namer(request))
        await self._changed(request)
        return {}

    async def _unsubscribe(self, request: Request) -> Result:
        await self._hub.unsubscribe(self._listener_of(request), uri_of(request))
        await self._changed(request)
        return {}

    async def _set_level(self, request: Request) -> Result:
        level = request.params.get("level")
        if level not in LEVELS:
            raise RpcError(INVALID_PARAMS, f"logging/setLevel: level must be one of {', '.join(LEVELS)}")
        listener = self._listener_of(request)
        assert request.session is not None, "a method of the handshake versions"
        listener.level = request.session.log_level = str(level)
        await self._changed(request)
        if (least := self._hub.least_level()) is not None:
            await self.bridge.set_log_level(least)
        return {}

    def least_level(self) -> str | None:
        """Return the least severe level that any client has set."""
        return self._hub.least_level()

    async def _listen(self, request: Request) -> Result:
        """Send the notifications that a client asks for on one stream (2026-07-28), until the client closes it."""
        wanted = request.params.get("notifications")
        request_id = request.channel.request_id
        if not isinstance(wanted, dict) or request_id is None:
            raise RpcError(INVALID_PARAMS, "subscriptions/listen: notifications must be an object")
        wanted = cast("dict[str, Any]", wanted)
        lists = [kind for kind in ("tools", "prompts", "resources") if wanted.get(f"{kind}ListChanged") is True]
        uris = _strings(wanted, "resourceSubscriptions")
        if task_ids := _strings(wanted, "taskIds"):
            require_tasks_extension(request)
        caller, namer = self._identities.of(request), self._identities.namer(request)
        with ambiguity_refused():
            tasks = [await self.bridge.engine.find(request.scope, task, namer) for task in task_ids]
        followed = [future for future in tasks if future is not None]
        stamp = {SUBSCRIPTION_ID_META_KEY: request_id}
        listener = Listener(request.channel.notify, lambda: request.principal, lists=lists, stamp=stamp)
        honored: dict[str, Any] = {f"{kind}ListChanged": True for kind in lists}
        self._hub.add(listener)
        try:
            watched: list[str] = []
            for uri in uris:
                with suppress(CallFailed, AmbiguousName):
                    await self._hub.subscribe(listener, uri, namer)
                    watched.append(uri)
            if uris:
                honored["resourceSubscriptions"] = watched
            if followed:
                honored["taskIds"] = [future.id for future in followed]
            # Before any notification; what has changed since follows.
            await request.channel.notify(
                "notifications/subscriptions/acknowledged", {"notifications": honored, "_meta": stamp}
            )
            for future in followed:
                self._hub.follow(listener, future, asks=future.may_be_of(caller))
            await listener.run()
        finally:
            with anyio.CancelScope(shield=True):
                await self._hub.discard(listener)
        return {"_meta": stamp}


def _strings(wanted: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of a stream's filter, without entries beyond the bounds: the acknowledgement names those that are
    left.

    Raises:
        RpcError: it is no list of strings.
    """
    value: object = wanted.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[object]", value)):
        raise RpcError(INVALID_PARAMS, f"subscriptions/listen: {key} must be a list of strings")
    return [each for each in cast("list[str]", value)[:MOST_SUBSCRIPTIONS] if len(each) <= URI_LENGTH]
