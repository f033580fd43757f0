"""SERVER spans: a request of a client, from its receipt to its answer.

Implements `upstream.request_tracing.RequestTracer`. Owns the spans that are open, by which `calls` finds the request
that made a call. Leaves the names to `conventions` and the calls themselves to `calls`.
"""

from collections.abc import Callable, Mapping
from contextvars import Token
from functools import partial
from secrets import token_hex
from time import perf_counter, time_ns
from typing import Any, Final, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import PROTOCOL_VERSION_META_KEY, RequestId
from asyncfc_mcp.telemetry import conventions
from asyncfc_mcp.telemetry.errors import ErrorTypes, shown
from asyncfc_mcp.telemetry.instruments import Instruments
from asyncfc_mcp.telemetry.later import Later
from asyncfc_mcp.telemetry.limits import Names, sendable
from asyncfc_mcp.telemetry.propagation import REQUEST_KEY, carrier_with, context_of, with_context

TRANSPORTS: Final[Mapping[str, Mapping[str, str]]] = {
    "stdio": {conventions.TRANSPORT: "pipe"},
    "local": {conventions.TRANSPORT: "unix"},
    "http": {conventions.TRANSPORT: "tcp", conventions.NETWORK_PROTOCOL: "http"},
}
"""Transport of clients → its attributes."""


_CURRENT: Final = contexts.create_key("asyncfc request")


class OpenRequests:
    """The requests that have no answer yet, by number."""

    def __init__(self) -> None:
        self._spans: dict[str, ServerSpan] = {}
        self._number = 0
        self._process = token_hex(8)
        """Calls of other processes, which had numbers of their own, may be made here: after a restart, for example."""

    def add(self, span: "ServerSpan") -> str:
        """Add a request; return its number."""
        self._number += 1
        key = f"{self._process}.{self._number}"
        self._spans[key] = span
        return key

    def remove(self, key: str) -> None:
        self._spans.pop(key, None)

    def of(self, meta: Mapping[str, Any] | None) -> "ServerSpan | None":
        """Return the open request from which a call has its `_meta`."""
        key = None if meta is None else meta.get(REQUEST_KEY)
        return self._spans.get(key) if isinstance(key, str) else None

    def current(self) -> "ServerSpan | None":
        """Return the request that this task answers, or was started for."""
        found = contexts.get_value(_CURRENT)
        return found if isinstance(found, ServerSpan) else None


class ServerSpan:
    """One request. While it is entered, its span is the current one."""

    __slots__ = (
        "_attributes",
        "_began_at",
        "_key",
        "_linked",
        "_measured",
        "_requests",
        "_target",
        "_token",
        "context",
        "params",
        "quotable",
        "span",
    )

    def __init__(
        self,
        requests: "Requests",
        span: Span,
        context: Context | None,
        params: Mapping[str, Any] | None,
        attributes: dict[str, AttributeValue],
        measured: dict[str, AttributeValue],
        target: str | None,
    ) -> None:
        self._requests = requests
        self._attributes = attributes
        """Attributes that the span gets at its end."""
        self.span = span
        self.context = contexts.set_value(_CURRENT, self, trace.set_span_in_context(span, context))
        self._began_at = perf_counter()
        self._measured = measured
        """Attributes of the metric, without the name of the tool."""
        self._target = target
        self._token: Token[Context] | None = None
        self._linked: set[str] = set()
        self.quotable = False
        """True if the text of an error may be recorded: it does not quote arguments that must not be."""
        self._key = requests.open.add(self)
        given: Any = (params or {}).get("_meta")
        self.params: Mapping[str, Any] | None = params
        if given is None or isinstance(given, dict):
            meta = cast("dict[str, Any]", given or {})
            if carrier := carrier_with(span, context):
                meta = with_context(meta, carrier)
            self.params = {**(params or {}), "_meta": {**meta, REQUEST_KEY: self._key}}

    def __enter__(self) -> None:
        self._token = contexts.attach(self.context)

    def __exit__(self, *exc: object) -> None:
        if self._token is not None:
            contexts.detach(self._token)
            self._token = None

    def link(self, future_id: str, to: SpanContext | None) -> None:
        """Link the request to a call whose result its answer brings."""
        if to is None or future_id in self._linked or not self.span.is_recording():
            return
        self._linked.add(future_id)
        self.span.add_link(to, {conventions.LINK: "result", conventions.FUTURE_ID: future_id})

    def made(self, future_id: str, server: str) -> None:
        """Take note of the call that the request has made."""
        self._attributes[conventions.FUTURE_ID] = future_id
        self._attributes[conventions.SERVER] = server

    def end(self, result: Result) -> None:
        """End with the answer."""
        error = None
        if result.get("isError") is True and conventions.TOOL in self._names:
            error = conventions.TOOL_ERROR
        version = result.get("protocolVersion")
        if isinstance(version, str) and version in conventions.VERSIONS:
            self._attributes[conventions.PROTOCOL_VERSION] = self._measured[conventions.PROTOCOL_VERSION] = version
        self._end(error)

    def fail(self, error: RpcError) -> None:
        """End with an error of JSON-RPC."""
        code = str(error.code)
        self._attributes[conventions.STATUS_CODE] = code
        self._measured[conventions.STATUS_CODE] = self._requests.errors.admitted(code)
        self._end(code, error.message if self.quotable else None)

    def crash(self, error: BaseException) -> None:
        """End without an answer: the request was cancelled, or a fault in this program has prevented it."""
        kind = type(error).__name__
        self._end("cancelled" if kind == "CancelledError" else kind)

    @property
    def _names(self) -> Mapping[str, AttributeValue]:
        method = self._measured[conventions.METHOD]
        name = conventions.TARGETS.get(str(method))
        return {} if name is None or self._target is None else {name: self._target}

    def _end(self, error: str | None, text: str | None = None) -> None:
        self._requests.open.remove(self._key)
        self._requests.later.do(partial(self._record, error, text, perf_counter() - self._began_at, time_ns()))

    def _record(self, error: str | None, text: str | None, took_s: float, ended_ns: int) -> None:
        requests, measured = self._requests, self._measured
        for attribute, name in self._names.items():
            measured[attribute] = requests.names.known(str(name))
        if error is not None:
            self._attributes[conventions.ERROR_TYPE] = error
            measured[conventions.ERROR_TYPE] = requests.errors.admitted(error)
            self.span.set_status(StatusCode.ERROR, None if text is None else shown(text))
        self.span.set_attributes(self._attributes)
        requests.instruments.server_operation.record(took_s, measured, self.context)
        self.span.end(ended_ns)


class Requests:
    """Traces the requests of one transport.

    Args:
        transport: a key of `TRANSPORTS`.
        names: tools and prompts that have series of their own in metrics.
    """

    def __init__(
        self,
        tracer: Tracer,
        instruments: Instruments,
        open_requests: OpenRequests,
        names: Names,
        errors: ErrorTypes,
        later: Later,
        transport: str,
    ) -> None:
        self.later = later
        self._tracer, self.instruments = tracer, instruments
        self.open, self.names, self.errors = open_requests, names, errors
        self._transport = TRANSPORTS[transport]

    def begin(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        request_id: RequestId | None,
        version: str | None = None,
        session: str | None = None,
    ) -> ServerSpan:
        """Begin the span of a request.

        Args:
            version: the protocol version of its session; None: it names its own, or will be negotiated.
            session: the ID of its session, if that has one.
        """
        given = params or {}
        meta: Any = given.get("_meta")
        if version is None and isinstance(meta, dict):
            version = cast("dict[str, Any]", meta).get(PROTOCOL_VERSION_META_KEY)
        known = method if method in conventions.METHODS else conventions.OTHER
        measured: dict[str, AttributeValue] = {conventions.METHOD: known, **self._transport}
        attributes: dict[str, AttributeValue] = {**measured, conventions.METHOD: sendable(method)}
        if isinstance(version, str) and version in conventions.VERSIONS:
            attributes[conventions.PROTOCOL_VERSION] = measured[conventions.PROTOCOL_VERSION] = version
        if request_id is not None:
            attributes[conventions.REQUEST_ID] = sendable(str(request_id))
        if session is not None:
            attributes[conventions.SESSION_ID] = session
        title, target = attributes[conventions.METHOD], None
        if (kind := conventions.TARGETS.get(method)) is not None and isinstance(name := given.get("name"), str):
            target = sendable(name)
            attributes[kind] = target
            title = f"{title} {target}"
        if method == "tools/call":
            attributes[conventions.OPERATION] = measured[conventions.OPERATION] = conventions.EXECUTE_TOOL
        elif method in conventions.WITH_URI and isinstance(uri := given.get("uri"), str):
            attributes[conventions.RESOURCE_URI] = shown(uri, conventions.URI_LENGTH)
        context, links = context_of(cast("object", meta)), None
        ambient = trace.get_current_span().get_span_context()
        if context is not None and ambient.is_valid:
            links = [Link(ambient, {conventions.LINK: "ambient"})]
        first = {conventions.METHOD: attributes.pop(conventions.METHOD)}  # for samplers
        span = self._tracer.start_span(str(title), context, SpanKind.SERVER, first, links)
        begun = ServerSpan(self, span, context, params, attributes, measured, target)
        begun.quotable = method != "tools/call"
        return begun

    def session(self, version: str) -> Callable[[], None]:
        """Begin a session; return what ends it."""
        began_at = perf_counter()
        attributes = {**self._transport, conventions.PROTOCOL_VERSION: version}
        return lambda: self.instruments.server_session.record(perf_counter() - began_at, attributes)
