"""How clients say what they want to hear of: subscriptions, log levels, and the listen streams of 2026-07-28.

Owns those methods. What is told, and when, is `listening`'s.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import anyio
import anyio.abc

from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.callers import CallerIdentities
from asyncfc_mcp.errors import AmbiguousName, CallFailed, RpcError
from asyncfc_mcp.futures import Result, Scope
from asyncfc_mcp.listening import LEVELS, Listener, Listeners
from asyncfc_mcp.protocol import INVALID_PARAMS
from asyncfc_mcp.requests import Handler, Request, Session, ambiguity_refused, awaited, need_tasks, uri_of
from asyncfc_mcp.watching import SUBSCRIPTION_KEY


class Subscriptions:
    """Keeps who listens, for as long as `run` lasts."""

    def __init__(self, bridge: Bridge, scope: Scope, listeners: Listeners, identities: CallerIdentities) -> None:
        self.bridge = bridge
        self._scope, self._identities = scope, identities
        self._listeners = listeners
        self._sessions: dict[Session, Listener] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self.handshake_methods: Mapping[str, Handler] = {
            "resources/subscribe": awaited(self._subscribe),
            "resources/unsubscribe": awaited(self._unsubscribe),
            "logging/setLevel": awaited(self._set_level),
        }
        self.modern_methods: Mapping[str, Handler] = {"subscriptions/listen": awaited(self._listen)}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Tell listeners, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._listeners.run)
            task_status.started()
            await anyio.sleep_forever()

    def listener(self, session: Session) -> Listener:
        """A handshake connection as a listener, until it ends."""
        listener = self._sessions.get(session)
        if listener is None:
            assert self._tasks is not None
            lists = ("tools", "prompts", "resources")
            listener = Listener(session.notify, self._scope, lists=lists, connection=session)
            self._sessions[session] = listener
            self._listeners.add(listener)
            self._tasks.start_soon(listener.run)

            async def forget() -> None:
                del self._sessions[session]
                await self._listeners.discard(listener)

            session.at_end(forget)
        return listener

    def _listener_of(self, request: Request) -> Listener:
        assert request.session is not None, "a method of the handshake versions"
        return self.listener(request.session)

    async def _subscribe(self, request: Request) -> Result:
        with ambiguity_refused():
            await self._listeners.subscribe(
                self._listener_of(request), uri_of(request), self._identities.namer(request)
            )
        return {}

    async def _unsubscribe(self, request: Request) -> Result:
        await self._listeners.unsubscribe(self._listener_of(request), uri_of(request))
        return {}

    async def _set_level(self, request: Request) -> Result:
        level = request.params.get("level")
        if level not in LEVELS:
            raise RpcError(INVALID_PARAMS, f"logging/setLevel: level must be one of {', '.join(LEVELS)}")
        self._listener_of(request).level = str(level)
        await self.bridge.set_log_level(self._listeners.least_level() or str(level))
        return {}

    async def _listen(self, request: Request) -> Result:
        """One stream of the changes that a client asks for (2026-07-28), until it goes away."""
        wanted = request.params.get("notifications")
        request_id = request.channel.request_id
        if not isinstance(wanted, dict) or request_id is None:
            raise RpcError(INVALID_PARAMS, "subscriptions/listen: notifications must be an object")
        wanted = cast("dict[str, Any]", wanted)
        lists = [kind for kind in ("tools", "prompts", "resources") if wanted.get(f"{kind}ListChanged") is True]
        uris = _strings(wanted, "resourceSubscriptions")
        if task_ids := _strings(wanted, "taskIds"):
            need_tasks(request)
        caller, namer = self._identities.of(request), self._identities.namer(request)
        with ambiguity_refused():
            tasks = [self.bridge.store.find(self._scope, task, namer) for task in task_ids]
        followed = [future for future in tasks if future is not None]
        stamp = {SUBSCRIPTION_KEY: request_id}
        listener = Listener(request.channel.notify, self._scope, lists=lists, stamp=stamp)
        honored: dict[str, Any] = {f"{kind}ListChanged": True for kind in lists}
        self._listeners.add(listener)
        try:
            watched: list[str] = []
            for uri in uris:
                with suppress(CallFailed, AmbiguousName):
                    await self._listeners.subscribe(listener, uri, namer)
                    watched.append(uri)
            if uris:
                honored["resourceSubscriptions"] = watched
            if followed:
                honored["taskIds"] = [future.id for future in followed]
            # First of all, and then what has happened since.
            await request.channel.notify(
                "notifications/subscriptions/acknowledged", {"notifications": honored, "_meta": stamp}
            )
            for future in followed:
                self._listeners.follow(listener, future, asks=future.may_be_of(caller))
            await listener.run()
        finally:
            with anyio.CancelScope(shield=True):
                await self._listeners.discard(listener)
        return {"_meta": stamp}


def _strings(wanted: Mapping[str, Any], key: str) -> list[str]:
    """A list of a stream's filter.

    Raises:
        RpcError: it is no list of strings.
    """
    value: object = wanted.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[object]", value)):
        raise RpcError(INVALID_PARAMS, f"subscriptions/listen: {key} must be a list of strings")
    return cast("list[str]", value)
