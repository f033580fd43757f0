"""The MCP server that clients see: every request's way in, every answer's way out.

Owns which method is whose, the handshake, the envelope of 2026-07-28, and the translation of errors to the wire, which
happens here and nowhere else. Refuses to know what carries a message. What a server downstream said goes up
as it came, neither validated nor sieved, which is why none of this is the SDK's low-level `Server`.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp import __version__, tasks
from asyncfc_mcp.asking import Asking
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.callers import CallerIdentities, conversation_key
from asyncfc_mcp.calls import ToolCalls
from asyncfc_mcp.errors import CallFailed, ProtocolFailure, RpcError
from asyncfc_mcp.futures import Result, Scope
from asyncfc_mcp.hosts import profile_for
from asyncfc_mcp.listening import Listeners
from asyncfc_mcp.metatools import instructions
from asyncfc_mcp.offered import Offered
from asyncfc_mcp.offers import TASKS_EXTENSION
from asyncfc_mcp.protocol import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CLIENT_METHODS,
    HANDSHAKE_VERSIONS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LATEST_HANDSHAKE_VERSION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    Channel,
    Later,
    Soon,
)
from asyncfc_mcp.quotation import block
from asyncfc_mcp.request_order import RequestOrder, RequestOrders
from asyncfc_mcp.requests import Handler, Params, Request, Session, awaited
from asyncfc_mcp.subscriptions import Subscriptions
from asyncfc_mcp.tasking import Tasks

if TYPE_CHECKING:
    from mcp.server.request_state import AESGCMRequestStateCodec

INFO: Final = {"name": "asyncfc-mcp", "title": "asyncfc-mcp", "version": __version__}
"""Who we are, to clients."""
CACHEABLE: Final = frozenset(
    {"server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}
)
"""Methods whose results carry cache hints on 2026-07-28."""

ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY)
"""What every request of 2026-07-28 says in its `_meta`."""
CLIENT_CAPABILITIES: Final = ("elicitation", "experimental", "extensions", "roots", "sampling", "tasks")
"""What a client may say that it can do, each an object."""
NOT_INITIALIZED: Final = "Not initialized: send initialize first, or the 2026-07-28 envelope"


class _Seal:
    """The SDK's codec for `requestState` under a key of this process, made when the first question travels."""

    @cached_property
    def _codec(self) -> "AESGCMRequestStateCodec":
        from mcp.server.request_state import AESGCMRequestStateCodec

        return AESGCMRequestStateCodec([secrets.token_bytes(32)])

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def open(self, token: str) -> bytes | None:
        from mcp.server.request_state import InvalidRequestState

        try:
            return self._codec.unseal(token)
        except InvalidRequestState:
            return None


class Upstream:
    """One bridge as an MCP server, for any number of connections and transports at once.

    Args:
        bridge: what is served; opened by the caller, before and beyond any connection.
        scope: who all requests of this server's transports come from.
        pipe: whether there is one connection only, so that the connection can stand for a conversation (stdio).
    """

    def __init__(self, bridge: Bridge, scope: Scope, *, pipe: bool) -> None:
        self.bridge = bridge
        self._scope, self._pipe = scope, pipe
        self._orders = RequestOrders()
        self._asking = Asking()
        listeners = Listeners(bridge, scope, lambda future, asks: tasks.detailed(future, calls.epoch, asks=asks))
        identities = CallerIdentities(pipe=pipe)
        calls = ToolCalls(bridge, scope, listeners, self._asking, _Seal(), identities, pipe=pipe)
        self._subscriptions = Subscriptions(bridge, scope, listeners, identities)
        self._offered = Offered(bridge, scope, identities)
        of_tasks = Tasks(bridge, scope, calls)
        both: Mapping[str, Handler] = {**calls.methods, **self._offered.methods, **of_tasks.methods}
        subscriptions = self._subscriptions
        self._handshake: Mapping[str, Handler] = {
            **both, **subscriptions.handshake_methods, **of_tasks.handshake_methods
        }  # fmt: skip
        self._modern: Mapping[str, Handler] = {
            "server/discover": self._discover,
            **both,
            **subscriptions.modern_methods,
            **of_tasks.modern_methods,
        }
        self._envelopes = _Envelopes()
        self._extension: Handler = awaited(self._offered.extension)
        self.input_schema = calls.input_schema

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """What goes on beside requests, until cancelled: listeners are told, clients are asked."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._asking.run)
            await tg.start(self._subscriptions.run)
            task_status.started()

    # --- the two eras --------------------------------------------------------------------------------------------

    def handshake(self, session: Session, channel: Channel, method: str, params: Params | None) -> Result | Later:
        """Answer a request on a connection that shakes hands, or say what brings the answer.

        Raises:
            RpcError: the error to answer with; so does what brings the answer.
        """
        params = _checked(params)
        if method == "initialize":
            session.order.restart(channel.request_id)
            return self._initialize(session, params)
        session.order.see(channel.request_id)
        if method == "ping":
            return {}
        handler = self._handshake.get(method)
        if handler is None and method in CLIENT_METHODS:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        if not session.accepted:
            # Who asks for a method that nobody knows hears that first: clients that probe go by it.
            if method in CLIENT_METHODS:
                raise RpcError(INVALID_PARAMS, NOT_INITIALIZED)
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        request = Request(method, params, session.version, session.host, session.capabilities, channel, session)
        request.order = session.order
        # A method that MCP does not define may be that of a server's extension.
        return self._answer(handler or self._extension, request)

    def modern(self, channel: Channel, method: str, params: Params | None) -> Result | Later:
        """Answer a request that carries its own envelope (2026-07-28), or say what brings the answer.

        Raises:
            RpcError: the error to answer with; so does what brings the answer.
        """
        params = params or {}
        version, host, capabilities = self._envelopes.read(params)
        order = self._order_of(host, params)
        if order is not None:
            (order.restart if method == "server/discover" else order.see)(channel.request_id)
        handler = self._modern.get(method)
        if handler is None and method in CLIENT_METHODS:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        request = Request(method, params, version, host, capabilities, channel, order=order)
        return self._answer(handler or self._extension, request)

    def _order_of(self, host: str | None, params: Params) -> RequestOrder | None:
        """The numbering of a client that has no session: of the one connection, else of the conversation or of all
        clients of a name. None where nobody is authenticated, so that the same words may be another's."""
        if self._pipe:
            return self._orders.of(None)
        if not self._scope.listed:
            return None
        return self._orders.of((host, conversation_key(params)))

    def notified(self, session: Session, method: str) -> Callable[[], Awaitable[None]] | None:
        """Take in a notification of a client that shook hands; what is left to be done about it, if anything is.
        (On 2026-07-28 clients have nothing to tell.)"""
        if method == "notifications/initialized":
            session.accepted = True
            self._subscriptions.listener(session)
        elif method == "notifications/roots/list_changed" and session.accepted:
            return partial(self.bridge.tell_servers, method)
        return None

    def _answer(self, handler: Handler, request: Request) -> Result | Later:
        try:
            answer = handler(request)
        except CallFailed as exc:
            raise _wire_error(exc) from None
        if isinstance(answer, dict):
            return self.enveloped(request, cast("Result", answer))
        if isinstance(answer, Soon):
            return _Enveloped(self, request, answer)
        return partial(self.awaited, request, answer)

    async def awaited(self, request: Request, later: Later) -> Result:
        try:
            return self.enveloped(request, await later())
        except CallFailed as exc:
            raise _wire_error(exc) from None

    def enveloped(self, request: Request, result: Result) -> Result:
        """A result as the client's protocol era wants it; what a server downstream put there stays."""
        if not request.modern:
            if "resultType" in result:
                return {key: value for key, value in result.items() if key != "resultType"}
            return result
        meta = result.get("_meta")
        out = {"resultType": "complete", **result}
        if request.method in CACHEABLE:
            out.setdefault("ttlMs", 0)
            out.setdefault("cacheScope", "private")
        if meta is None or isinstance(meta, dict):
            out["_meta"] = {SERVER_INFO_META_KEY: INFO, **(meta or {})}
        return out

    # --- introductions -------------------------------------------------------------------------------------------

    def _initialize(self, session: Session, params: Params) -> Result:
        """Shake hands: say what all servers together can do, and teach the model the protocol."""
        requested, capabilities, info = (params.get(key) for key in ("protocolVersion", "capabilities", "clientInfo"))
        if not isinstance(requested, str):
            raise RpcError(INVALID_PARAMS, f"initialize: protocolVersion must be a string; found {requested!r:.80}")
        if not _are_capabilities(capabilities):
            raise RpcError(
                INVALID_PARAMS, f"initialize: capabilities must be an object of objects; found {capabilities!r:.80}"
            )
        name = _name(info)
        if name is None:
            raise RpcError(INVALID_PARAMS, f"initialize: clientInfo must be an object with a name; found {info!r:.80}")
        session.version = requested if requested in HANDSHAKE_VERSIONS else LATEST_HANDSHAKE_VERSION
        session.host, session.capabilities = name, cast("dict[str, Any]", capabilities)
        session.identity.host = name
        session.accepted = True
        offered = self._capabilities()
        if session.version == tasks.EXPERIMENTAL_VERSION:
            offered["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        return {
            "protocolVersion": session.version,
            "capabilities": offered,
            "serverInfo": INFO,
            "instructions": self._instructions(name),
        }

    def _discover(self, request: Request) -> Result:
        # Of servers that declare the same the first is asked, so what it says counts.
        declared = reversed(self.bridge.downstreams.values())
        extensions = {k: v for downstream in declared for k, v in downstream.offer.extensions.items()}
        return {
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": {**self._capabilities(), "extensions": {**extensions, TASKS_EXTENSION: {}}},
            "instructions": self._instructions(request.host),
        }

    def _capabilities(self) -> dict[str, Any]:
        capabilities: dict[str, Any] = {
            "tools": {"listChanged": True},
            # Futures are resources, whatever the servers have.
            "resources": {"listChanged": True, "subscribe": True},
        }
        for downstream in self.bridge.downstreams.values():
            # A server that was never seen may turn out to have them; to say too much does no harm.
            unseen: Mapping[str, Any] = {"prompts": {}, "completions": {}, "logging": {}}
            offers = downstream.offer.capabilities if downstream.known else unseen
            if offers.get("prompts") is not None:
                capabilities["prompts"] = {"listChanged": True}
            for kind in ("completions", "logging"):
                if offers.get(kind) is not None:
                    capabilities[kind] = {}
        return capabilities

    def _instructions(self, host: str | None) -> str:
        profile = profile_for(host, self.bridge.settings.host_profiles)
        parts = [instructions(conversation=profile.single_conversation)]
        for server, downstream in self.bridge.downstreams.items():
            if downstream.offer.instructions:
                parts.append(block(server, downstream.offer.instructions))
        return "\n\n".join(parts)


class _Enveloped(Soon):
    """A result that comes by itself, and then as the client's protocol era wants it."""

    __slots__ = ("_request", "_soon", "_upstream")

    def __init__(self, upstream: Upstream, request: Request, soon: Soon) -> None:
        self._upstream, self._request, self._soon = upstream, request, soon

    def watch(self, come: Callable[[], None]) -> None:
        self._soon.watch(come)

    def call_off(self) -> None:
        self._soon.call_off()

    def take(self) -> Result | None:
        try:
            result = self._soon.take()
        except CallFailed as exc:
            raise _wire_error(exc) from None
        return None if result is None else self._upstream.enveloped(self._request, result)

    def __call__(self) -> Awaitable[Result]:
        return self._upstream.awaited(self._request, self._soon)


def has_envelope(params: object) -> bool:
    """Whether a request says for itself what a handshake says for a connection (2026-07-28)."""
    meta = cast("dict[str, Any]", params).get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta


def envelope_of(params: Params) -> Mapping[str, Any]:
    """What a request of 2026-07-28 says of itself, as it says it.

    Raises:
        RpcError: what it must say is missing.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        raise RpcError(
            INVALID_PARAMS, f"params._meta must be an object with the keys {' and '.join(ENVELOPE)} (2026-07-28)"
        )
    meta = cast("dict[str, Any]", meta)
    if missing := [key for key in ENVELOPE if key not in meta]:
        raise RpcError(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    return meta


def read_envelope(params: Params) -> tuple[str, str | None, Mapping[str, Any]]:
    """The protocol version, the client's name if it said one, and its capabilities, of a request of 2026-07-28.

    Raises:
        RpcError: something is missing or malformed, or the version is not spoken here.
    """
    meta = envelope_of(params)
    version, capabilities = (meta[key] for key in ENVELOPE)
    info = meta.get(CLIENT_INFO_META_KEY)
    if not isinstance(version, str):
        raise RpcError(INVALID_PARAMS, f"params._meta: {PROTOCOL_VERSION_META_KEY} must be a string")
    if version not in MODERN_VERSIONS:
        raise unsupported(version)
    if not _are_capabilities(capabilities):
        raise RpcError(
            INVALID_PARAMS,
            f"params._meta: {CLIENT_CAPABILITIES_META_KEY} must be an object; found {capabilities!r:.80}",
        )
    name = _name(info)
    if name is None and info is not None:
        raise RpcError(
            INVALID_PARAMS, f"params._meta: {CLIENT_INFO_META_KEY} must be an object with a name; found {info!r:.80}"
        )
    return version, name, cast("dict[str, Any]", capabilities)


class _Envelopes:
    """Reads envelopes. One that says what the last one said, as all of one client do, is compared and no more."""

    def __init__(self) -> None:
        self._said: tuple[Any, ...] = ()
        self._read: tuple[str, str | None, Mapping[str, Any]] = ("", None, {})

    def read(self, params: Params) -> tuple[str, str | None, Mapping[str, Any]]:
        """See `read_envelope`."""
        meta: Any = params.get("_meta")
        if meta.__class__ is not dict:
            return read_envelope(params)
        said = (
            meta.get(PROTOCOL_VERSION_META_KEY),
            meta.get(CLIENT_CAPABILITIES_META_KEY),
            meta.get(CLIENT_INFO_META_KEY),
        )
        if said != self._said:
            self._read = read_envelope(params)
            self._said = said
        return self._read


def unsupported(version: object) -> RpcError:
    """The error for a protocol version that is not spoken here."""
    data = {"supported": list(MODERN_VERSIONS), "requested": version}
    return RpcError(UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", data)


def wrong_era(*, modern: bool, params: Params | None = None) -> RpcError:
    """The error for a request of the other protocol era than the connection was opened with."""
    if modern:
        return RpcError(
            UNSUPPORTED_PROTOCOL_VERSION,
            "this connection was opened with the 2026-07-28 protocol; the initialize handshake is not accepted",
            {"supported": list(MODERN_VERSIONS), "requested": (params or {}).get("protocolVersion")},
        )
    return RpcError(
        INVALID_REQUEST,
        "this connection was opened with the initialize handshake; "
        "requests with the 2026-07-28 envelope are not accepted on it",
    )


def _checked(params: Params | None) -> Params:
    meta = (params or {}).get("_meta")
    if meta is not None and not isinstance(meta, dict):
        raise RpcError(INVALID_PARAMS, "_meta must be an object")
    return params or {}


def _are_capabilities(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(cast("dict[str, Any]", value).get(key), dict | None) for key in CLIENT_CAPABILITIES
    )


def _name(info: object) -> str | None:
    name = cast("dict[str, Any]", info).get("name") if isinstance(info, dict) else None
    return name if isinstance(name, str) else None


def _wire_error(exc: CallFailed) -> RpcError:
    if isinstance(exc, ProtocolFailure):
        return RpcError(exc.code, exc.message, exc.data)
    return RpcError(INTERNAL_ERROR, str(exc))
