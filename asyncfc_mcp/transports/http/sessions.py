"""HTTP requests of protocol versions with a handshake (before 2026-07-28): POST, GET and DELETE of a session.

Owns the HTTP semantics of these versions, and continuing sessions of other replicas. Leaves sessions to `session` and
`session_table`, methods to `Upstream`, and requests of 2026-07-28 to `stateless`.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Principal, party_of
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.protocol import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST, Deferred
from asyncfc_mcp.transports.http.admission import AdmissionPolicy, Admitted, parse_body
from asyncfc_mcp.transports.http.asgi import Headers, JsonRpcRefusal, Refusal, refuse, respond
from asyncfc_mcp.transports.http.exchange import EventStream
from asyncfc_mcp.transports.http.in_flight import InFlightRequests
from asyncfc_mcp.transports.http.session import SESSION_ID, HttpSession, SessionExchange
from asyncfc_mcp.transports.http.session_table import IDLE_S, SessionTable, TooManySessions, new_session
from asyncfc_mcp.upstream.request import Params, Session
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

logger = logging.getLogger(__name__)

SESSION_ID_FORM: Final = re.compile(r"[0-9a-f]{32}")
"""Other IDs are not looked up: they were never given."""
END_S: Final = 1.0
"""Time limit for writing the end of a stream, whose client may not be reading."""


class SessionEndpoint:
    """Endpoint for clients of all protocol versions with a handshake."""

    def __init__(self, upstream: Upstream, admission: AdmissionPolicy, in_flight: InFlightRequests) -> None:
        self._upstream, self._admission, self._in_flight = upstream, admission, in_flight
        self._archive = upstream.bridge.engine.sessions
        self._table = SessionTable(self._archive)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """End idle sessions until cancelled; then all."""
        await self._table.run(task_status=task_status)

    async def end_lapsed(self) -> None:
        """See `SessionTable.end_lapsed`."""
        await self._table.end_lapsed(self._admission.entrance.is_over)

    def close(self, error: RpcError) -> None:
        """Close all sessions and open no more; those that are open end with `run`."""
        self._table.close(error)

    async def serve(self, scope: "AsgiScope", headers: Headers, receive: "Receive", send: "Send") -> None:
        """Respond to one HTTP request."""
        method = scope["method"]
        try:
            admitted = await self._admission.admit(headers, post=method == "POST")
            with self._admission.traffic.request(admitted.principal):
                await self._serve(method, admitted, headers, receive, send)
        except Refusal as exc:
            await refuse(send, exc)

    async def _serve(self, method: str, admitted: Admitted, headers: Headers, receive: "Receive", send: "Send") -> None:
        principal = admitted.principal
        session_id = headers.get(SESSION_ID)
        session = None
        if session_id is not None:
            session = self._table.get(session_id, principal) or await self._continued(session_id, principal)
            if session is None:
                raise _unknown()
            session.session.principal, session.access = principal, admitted.access
        match method:
            case "POST":
                if not (admitted.json and admitted.stream):
                    raise _refusal(406, "Client must accept both application/json and text/event-stream")
                with session.busy() if session is not None else nullcontext():
                    await self._post(admitted, session, receive, send)
            case "GET":
                self._admission.permit(admitted, None)
                if not admitted.stream:
                    raise _refusal(406, "Client must accept text/event-stream")
                self._in_flight.admit()
                await self._listen(admitted, _required(session), receive, send)
            case "DELETE":
                if self._archive is not None:
                    await self._archive.drop(str(_required(session).session.id))
                await self._table.end(str(_required(session).session.id))
                await respond(send, 200, b"", *_required(session).headers)
            case _:
                raise _refusal(405, "Method Not Allowed", (b"allow", b"GET, POST, DELETE"))

    async def _continued(self, session_id: str, principal: Principal) -> HttpSession | None:
        """Return the session of another replica, which this one continues; None if this principal has none with this
        ID.

        Raises:
            Refusal: no further session can be opened.
        """
        if self._archive is None or not SESSION_ID_FORM.fullmatch(session_id):
            return None
        record = await self._archive.load(session_id, IDLE_S)
        if record is None or record.scope != principal.scope:
            return None
        await self._make_room(principal)
        if (session := self._table.get(session_id, principal)) is not None:
            return session  # another request was faster
        session = HttpSession(principal, session_id)
        session.session.resume(record)
        session.session.save = partial(self._save, session.session)
        self._table.add(session)
        with session.busy():
            await self._upstream.resume(session.session)
        return session

    async def _save(self, session: Session) -> None:
        if self._archive is not None:
            await self._archive.save(str(session.id), session.record)

    async def _listen(self, admitted: Admitted, session: HttpSession, receive: "Receive", send: "Send") -> None:
        """Serve a client's own stream until it disconnects or opens another, or the session ends."""
        stream = EventStream(send, session.headers)
        stream.access = admitted.access
        disconnected = False
        with session.busy():
            await stream.begin()
            async with anyio.create_task_group() as tg:

                async def watch() -> None:
                    nonlocal disconnected
                    try:
                        await self._in_flight.watch_disconnect(stream, receive)
                    except Exception:
                        logger.exception("watching a stream failed; it is closed")
                    disconnected = True
                    tg.cancel_scope.cancel()

                tg.start_soon(watch)
                await session.write_notifications(stream, tg.cancel_scope.cancel)
        if not disconnected:
            with anyio.move_on_after(END_S):
                await stream.end(None, 200)

    async def _post(self, admitted: Admitted, session: HttpSession | None, receive: "Receive", send: "Send") -> None:
        with self._admission.traffic.body(admitted.principal) as counted:
            with session.session.order.reading() if session is not None else nullcontext():
                body = await self._admission.read_body(receive, counted)
            if body is None:
                return
            if session is not None and session.closed:
                raise _unknown()  # it ended while the body was received
            message = await parse_body(body)
            del body
        method, params = message.get("method"), cast("Params | None", message.get("params"))
        self._admission.permit(admitted, method, message.get("id") if method else None)
        if method is not None and "id" in message:
            self._in_flight.admit()
        if method == "initialize" and "id" in message:
            return await self._initialize(admitted, session, message, receive, send)
        session = _required(session)
        if method is not None and "id" in message:
            exchange = SessionExchange(send, message["id"], params or {}, session, streams=method != "tools/call")
            exchange.access = admitted.access
            # Once more: another request, whose token has other grants, may have come while the body arrived.
            session.session.principal = admitted.principal
            handler = partial(self._upstream.handshake, session.session, exchange, method, params)
            return await self._in_flight.handle(receive, exchange, handler)
        if method is None and message.get("id") is None:
            raise _refusal(400, "Invalid answer: it needs the id of its request")
        await respond(send, 202, b"", *session.headers)
        if method is None:
            session.on_response(message)
        elif method == "notifications/cancelled":
            session.on_cancelled(params)
        elif (rest := self._upstream.notified(session.session, method)) is not None:
            await rest()

    async def _initialize(
        self, admitted: Admitted, session: HttpSession | None, message: Message, receive: "Receive", send: "Send"
    ) -> None:
        """Handle `initialize`, which opens a session if it succeeds; an open session may shake hands again."""
        if session is None:
            await self._make_room(admitted.principal)
            session = new_session(admitted.principal)
            session.access = admitted.access
        opened = session
        params = cast("Params", message.get("params") or {})
        exchange = SessionExchange(send, message["id"], params, opened, streams=False)
        exchange.headers, exchange.access = (), admitted.access

        def handler() -> Result | Deferred:
            result = self._upstream.handshake(opened.session, exchange, "initialize", params)
            self._table.add(opened)
            exchange.headers = opened.headers
            if self._archive is None or isinstance(result, Deferred):
                return result
            opened.session.save = partial(self._save, opened.session)
            return Deferred(partial(_after, opened.session.save, result))

        await self._in_flight.handle(receive, exchange, handler)

    async def _make_room(self, principal: Principal) -> None:
        """Ensure that this principal can open one more session.

        Raises:
            Refusal: all are in use, or the bridge is stopping.
        """
        if self._table.closed:
            raise _refusal(503, "The bridge is stopping", code=CONNECTION_CLOSED)
        try:
            settings, party = self._upstream.bridge.settings, party_of(principal.scope, None)
            await self._table.make_room(settings.max_sessions, party, settings.max_caller_share)
        except TooManySessions as exc:
            raise _refusal(503, str(exc), code=INTERNAL_ERROR) from None


async def _after(save: Callable[[], Awaitable[None]], result: Result) -> Result:
    """Return a result once it is saved: the client's next request may reach another replica."""
    await save()
    return result


def _refusal(status: int, problem: str, *headers: tuple[bytes, bytes], code: int = INVALID_REQUEST) -> Refusal:
    return JsonRpcRefusal(status, RpcError(code, problem), *headers)


def _unknown() -> Refusal:
    return _refusal(404, "Session not found")


def _required(session: HttpSession | None) -> HttpSession:
    if session is None:
        raise _refusal(400, "Bad Request: Missing session ID")
    return session
