"""CLIENT spans: the execution of a call at its wrapped server; and the counters of futures.

Implements `engine.observer.Observer`, and `bridge.outgoing.Outgoing` for what is sent to servers. Owns the spans of
calls that run. Leaves requests of clients to `requests`.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic, perf_counter, time_ns
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.time_saved import conversation_of
from asyncfc_mcp.core.waits import Wait, WaitKind
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, ProtocolFailure
from asyncfc_mcp.protocol import RequestId
from asyncfc_mcp.telemetry import conventions
from asyncfc_mcp.telemetry.errors import ErrorTypes, error_type, shown
from asyncfc_mcp.telemetry.instruments import Instruments
from asyncfc_mcp.telemetry.later import Later
from asyncfc_mcp.telemetry.limits import Names, sendable
from asyncfc_mcp.telemetry.propagation import carrier_with, context_of
from asyncfc_mcp.telemetry.requests import OpenRequests
from asyncfc_mcp.telemetry.saved import SavedTime
from asyncfc_mcp.telemetry.servers import Servers
from asyncfc_mcp.values.large import is_large

MOST_CONTEXTS: Final = 10_000
"""Futures whose spans are known, so that a later request can be linked to them."""
MOST_WAITS: Final = 16
"""Events of one call about what it waits for."""
_CALL: Final[Mapping[str, AttributeValue]] = {
    conventions.METHOD: "tools/call",
    conventions.OPERATION: conventions.EXECUTE_TOOL,
}
_SUBMISSION: Final[Mapping[str, AttributeValue]] = {conventions.LINK: "submission"}
_FIRST_ATTEMPT: Final[Mapping[str, AttributeValue]] = {conventions.ATTEMPT: 1}
CONTENT_LENGTH: Final = 8192
"""Characters of recorded arguments and results."""


class _Running:
    """The span of a call that runs, and what it gets at its end."""

    __slots__ = ("began_at", "context", "links", "noted", "request_id", "span", "started_ns", "times", "waits")

    def __init__(self, span: Span, context: Context, links: Sequence[Link], future: Future) -> None:
        self.span, self.context, self.links, self.waits = span, context, links, future.waits
        self.times = future.submitted_at, future.queued_at, future.started_at
        self.request_id: RequestId | None = None
        self.noted = False
        """True once what it has waited for, and that it was attempted, is on the span."""
        self.started_ns, self.began_at = time_ns(), perf_counter()


class Calls:
    """Traces and counts the calls of one engine.

    Args:
        content: record arguments and results, except those of tools with `"journal": false`.
    """

    def __init__(
        self,
        tracer: Tracer,
        instruments: Instruments,
        open_requests: OpenRequests,
        names: Names,
        errors: ErrorTypes,
        servers: Servers,
        later: Later,
        *,
        content: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._tracer, self._instruments, self._requests = tracer, instruments, open_requests
        self._names, self._errors, self._servers, self._content = names, errors, servers, content
        self._clock, self._later = clock, later
        self._saved = SavedTime()
        self._running: dict[Call, _Running] = {}
        self._contexts: OrderedDict[str, SpanContext] = OrderedDict()
        """Future → its CLIENT span, or before that the SERVER span that submitted it."""

    # --- reports of the engine -----------------------------------------------------------------------------------

    def submitted(self, call: Call) -> None:
        if call.elsewhere:
            return
        future = call.future
        self._names.admitted(future.tool)
        self._instruments.submitted.add(1, self._of_server(call))
        if call.value_dependencies:
            self._instruments.references.add(len(call.value_dependencies), self._of_server(call))
        request = self._requests.of(call.meta)
        if request is not None:
            request.quotable = call.policy.journal
            request.made(future.id, future.server)
            self._remember(future, request.span.get_span_context())

    def waiting(self, call: Call) -> None:
        request = self._requests.of(call.meta)
        if request is not None:
            for wait in call.future.waits[:MOST_WAITS]:
                request.span.add_event(conventions.WAITING_EVENT, self._about(call, wait))

    def queued(self, call: Call) -> None:
        request = self._requests.of(call.meta)
        if request is not None:
            request.span.add_event(conventions.QUEUED_EVENT, {conventions.WAIT_KIND: WaitKind.CAPACITY.value})

    def starting(self, call: Call) -> None:
        if call.elsewhere and not call.claimed:
            return  # another replica makes it
        future, request = call.future, self._requests.of(call.meta)
        # The request that made it is still open, or its context is in what the call has of it.
        context = (context_of(call.meta) or Context()) if request is None else request.context
        span = self._tracer.start_span(f"tools/call {sendable(call.tool)}", context, SpanKind.CLIENT, _CALL)
        running = self._running[call] = _Running(span, context, self._links(call), future)
        self._remember(future, span.get_span_context())
        self._save(self._saved.started(_conversation(future), self._clock()))
        if running.waits or future.queued_at is not None:
            self._later.do(partial(self._note_start, call, running))

    def _note_start(self, call: Call, running: _Running) -> None:
        if running.noted:
            return
        running.noted = True
        submission = trace.get_current_span(running.context).get_span_context()
        if submission.is_valid:
            running.span.add_link(submission, _SUBMISSION)
        for link in running.links:
            running.span.add_link(link.context, link.attributes)
        self._note_waits(call, running)
        running.span.add_event(conventions.ATTEMPT_EVENT, _FIRST_ATTEMPT, running.started_ns)

    def retrying(self, call: Call, failure: CallFailed, pause_s: float) -> None:
        kind = type(failure).__name__
        self._instruments.retries.add(1, {**self._of_server(call), conventions.ERROR_TYPE: self._errors.admitted(kind)})
        if (running := self._running.get(call)) is not None:
            about = {
                conventions.ERROR_TYPE: kind,
                conventions.ATTEMPT: call.future.attempts,
                conventions.PAUSE_S: pause_s,
            }
            self._later.do(partial(self._note_retry, call, running, about, time_ns()))

    def _note_retry(self, call: Call, running: _Running, about: Mapping[str, AttributeValue], at_ns: int) -> None:
        self._note_start(call, running)
        running.span.add_event(conventions.RETRY_EVENT, about, at_ns)

    def ended(self, call: Call) -> None:
        running = self._running.pop(call, None)
        if running is None and not call.claimed and (call.elsewhere or call.future.started_at is not None):
            return  # the replica that has made it counts it
        if running is not None:
            self._save(self._saved.ended(_conversation(call.future), self._clock()))
        result = call.future.result if self._content and call.policy.journal and call.future.loaded else None
        self._later.do(partial(self._record_end, call, running, result, perf_counter(), time_ns()))

    def _record_end(
        self, call: Call, running: _Running | None, result: Result | None, ended_at: float, ended_ns: int
    ) -> None:
        future = call.future
        self._instruments.ended.add(1, {**self._of_server(call), conventions.STATE: future.state.value})
        if running is None:
            return
        self._note_start(call, running)
        span = running.span
        measured: dict[str, AttributeValue] = {**_CALL, **self._servers.attributes(future.server)}
        attributes = {**measured, conventions.FUTURE_ID: future.id, conventions.TOOL: sendable(call.tool)}
        if running.request_id is not None:
            attributes[conventions.REQUEST_ID] = str(running.request_id)
        measured[conventions.TOOL] = self._names.admitted(call.tool)
        if self._content and call.policy.journal and call.arguments is not None:
            attributes[conventions.TOOL_ARGUMENTS] = _content(call.arguments)
        error = error_type(future)
        if error is not None:
            text = None
            if isinstance(future.failure, ProtocolFailure):
                attributes[conventions.STATUS_CODE] = error
                measured[conventions.STATUS_CODE] = self._errors.admitted(error)
                text = shown(future.failure.message) if call.policy.journal else None
            attributes[conventions.ERROR_TYPE] = error
            span.set_status(StatusCode.ERROR, text)
            measured[conventions.ERROR_TYPE] = self._errors.admitted(error)
        elif result is not None:
            attributes[conventions.TOOL_RESULT] = _content(result)
        span.set_attributes(attributes)
        self._instruments.client_operation.record(
            ended_at - running.began_at, measured, trace.set_span_in_context(span, running.context)
        )
        span.end(ended_ns)

    def read(self, future: Future) -> None:
        request = self._requests.current()
        if request is not None:
            request.link(future.id, self._contexts.get(future.key))

    # --- what is sent to servers ---------------------------------------------------------------------------------

    def of_call(self, call: Call) -> Mapping[str, str]:
        """Return the trace context of a call that is about to be sent, for its `_meta`."""
        running = self._running.get(call)
        return {} if running is None else carrier_with(running.span, running.context)

    def on_request_id(self, call: Call) -> Callable[[RequestId], None]:
        """Return what takes the JSON-RPC ID under which a call is sent."""

        def sent_as(request_id: RequestId) -> None:
            if (running := self._running.get(call)) is not None:
                running.request_id = request_id

        return sent_as

    @contextmanager
    def request(self, server: str, method: str, params: Mapping[str, Any]) -> Generator[Mapping[str, str]]:
        """Trace a request that is no call, while the block lasts; gives the trace context for its `_meta`."""
        known = method if method in conventions.METHODS else conventions.OTHER
        measured: dict[str, AttributeValue] = {conventions.METHOD: known, **self._servers.attributes(server)}
        attributes: dict[str, AttributeValue] = {**measured, conventions.METHOD: sendable(method)}
        title = attributes[conventions.METHOD]
        if method in conventions.TARGETS and isinstance(name := params.get("name"), str):
            attributes[conventions.TARGETS[method]] = target = sendable(name)
            title = f"{title} {target}"
        elif method in conventions.WITH_URI and isinstance(uri := params.get("uri"), str):
            attributes[conventions.RESOURCE_URI] = shown(uri, conventions.URI_LENGTH)
        context = context_of(params.get("_meta")) or Context()
        span = self._tracer.start_span(str(title), context, SpanKind.CLIENT, attributes)
        began_at = perf_counter()
        error = None
        try:
            yield carrier_with(span, context)
        except ProtocolFailure as exc:
            error = str(exc.code)
            span.set_attribute(conventions.STATUS_CODE, error)
            span.set_status(StatusCode.ERROR, shown(exc.message))
            raise
        except BaseException as exc:
            error = "cancelled" if type(exc).__name__ == "CancelledError" else type(exc).__name__
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            if error is not None:
                span.set_attribute(conventions.ERROR_TYPE, error)
                measured[conventions.ERROR_TYPE] = self._errors.admitted(error)
            self._instruments.client_operation.record(
                perf_counter() - began_at, measured, trace.set_span_in_context(span, context)
            )
            span.end()

    # --- parts ---------------------------------------------------------------------------------------------------

    def _of_server(self, call: Call) -> dict[str, AttributeValue]:
        return {conventions.SERVER: call.future.server}

    def _remember(self, future: Future, context: SpanContext) -> None:
        self._contexts[future.key] = context
        self._contexts.move_to_end(future.key)
        if len(self._contexts) > MOST_CONTEXTS:
            self._contexts.popitem(last=False)

    def _links(self, call: Call) -> Sequence[Link]:
        """Return links to the calls whose results a call takes."""
        if not call.sources:
            return ()
        return [
            Link(found, {conventions.LINK: "value", conventions.FUTURE_ID: source.id})
            for key, source in list(call.sources.items())[:MOST_WAITS]
            if (found := self._contexts.get(key)) is not None
        ]

    def _note_waits(self, call: Call, running: _Running) -> None:
        """Record on the span of a call that starts what it has waited for, and for how long."""
        submitted_at, queued_at, started_at = running.times
        started_at = submitted_at if started_at is None else started_at
        ready_at = started_at if queued_at is None else queued_at
        seconds: dict[str, float] = {}
        for wait in running.waits:
            if wait.kind is not WaitKind.CAPACITY:
                seconds[wait.kind.value] = max(0.0, ready_at - submitted_at)
        if queued_at is not None:
            seconds[WaitKind.CAPACITY.value] = max(0.0, started_at - queued_at)
        for kind, waited_s in seconds.items():
            self._instruments.wait.record(waited_s, {**self._of_server(call), conventions.WAIT_KIND: kind})
        for wait in running.waits[:MOST_WAITS]:
            about = {**self._about(call, wait), conventions.WAITED_S: seconds.get(wait.kind.value, 0.0)}
            running.span.add_event(conventions.WAITED_EVENT, about, running.started_ns)

    def _about(self, call: Call, wait: Wait) -> dict[str, AttributeValue]:
        about: dict[str, AttributeValue] = {conventions.WAIT_KIND: wait.kind.value, conventions.WAIT_ON: wait.on}
        if wait.path and self._content and call.policy.journal:  # arguments give it
            about[conventions.WAIT_PATH] = shown(wait.path)
        return about

    def _save(self, seconds: float) -> None:
        if seconds > 0:
            self._instruments.time_saved.add(seconds, {})


def _conversation(future: Future) -> tuple[str, str]:
    return future.scope.key, conversation_of(future)


def _content(value: dict[str, Any]) -> str:
    """Return a value as JSON of bounded length."""
    if is_large(value):
        return "…"
    return sendable(json.dumps(cast("Any", value), ensure_ascii=False, default=str), CONTENT_LENGTH)
