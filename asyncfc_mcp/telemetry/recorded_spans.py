"""Spans as plain values until they are sent: the tracer for exporters that the bridge has set up itself.

Owns what a call pays for its spans: their IDs, the decision of the sampler, and lists of what is recorded. What the SDK
makes of that, and its limits, are applied in the exporter's thread. Leaves batches, exporters, samplers, resources and
limits to the SDK, and spans of a provider that was installed before to that one.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AnyValue

Attributes = Mapping[str, AnyValue]
_NONE: Final[Attributes] = {}
_FLAGS: Final = tuple(TraceFlags(value) for value in range(4))
"""By number: sampled is 1, a random trace ID 2."""


class RecordedSpan(Span):
    """What has been recorded of one span. It may be changed in one thread at a time."""

    __slots__ = (
        "_dropped_events",
        "_dropped_links",
        "_tracer",
        "attributes",
        "context",
        "end_ns",
        "events",
        "kind",
        "links",
        "name",
        "parent",
        "start_ns",
        "status",
    )

    def __init__(
        self,
        tracer: "RecordingTracer",
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, AnyValue],
        links: Sequence[Link],
        start_ns: int,
    ) -> None:
        self._tracer, self.name, self.context, self.parent, self.kind = tracer, name, context, parent, kind
        self.attributes, self.links, self.start_ns = attributes, list(links), start_ns
        self.events: list[tuple[str, Attributes, int]] = []
        self.status: tuple[StatusCode, str | None] | None = None
        self.end_ns: int | None = None
        self._dropped_events = self._dropped_links = 0

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_ns is None

    def set_attribute(self, key: str, value: AnyValue) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes | None = None, timestamp: int | None = None) -> None:
        self.events.append((name, attributes or _NONE, timestamp or time_ns()))
        if self._tracer.most_events is not None and len(self.events) > self._tracer.most_events:
            del self.events[0]
            self._dropped_events += 1

    def add_link(self, context: SpanContext, attributes: Attributes | None = None) -> None:
        self.links.append(Link(context, attributes))
        if self._tracer.most_links is not None and len(self.links) > self._tracer.most_links:
            del self.links[0]
            self._dropped_links += 1

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if isinstance(status, Status):
            self.status = status.status_code, status.description
        else:
            self.status = status, description

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.add_event("exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_ns is None:
            self.end_ns = end_time or time_ns()
            self._tracer.ended(self)

    def readable(self) -> ReadableSpan:
        """Return what an exporter takes, within the SDK's limits."""
        tracer = self._tracer
        code, description = self.status or (StatusCode.UNSET, None)
        events = [Event(name, tracer.of_event(attributes), at_ns) for name, attributes, at_ns in self.events]
        links = [Link(each.context, tracer.of_link(cast("Attributes", each.attributes))) for each in self.links]
        return ReadableSpan(
            self.name,
            self.context,
            self.parent,
            tracer.resource,
            tracer.of_span(self.attributes),
            _within(events, self._dropped_events),
            _within(links, self._dropped_links),
            self.kind,
            status=Status(code, description),
            start_time=self.start_ns,
            end_time=self.end_ns,
            instrumentation_scope=tracer.scope,
        )


def _within(found: Sequence[Any], dropped: int) -> Sequence[Any]:
    if not dropped:
        return found
    kept = cast("Any", BoundedList)(len(found))
    kept.extend(found)
    kept.dropped = dropped
    return kept


class _Bounds:
    """The SDK's limits on attributes: their number, and the characters of a text."""

    def __init__(self, most: int | None, longest: int | None) -> None:
        self._most, self._longest = most, longest

    def __call__(self, attributes: Attributes | None) -> Attributes:
        found = attributes or _NONE
        if self._longest is None and (self._most is None or len(found) <= self._most):
            return found
        return BoundedAttributes(self._most, found, max_value_len=self._longest)


class RecordingTracer(trace.Tracer):
    """Starts the spans of one scope."""

    def __init__(self, provider: "RecordingProvider", scope: InstrumentationScope) -> None:
        sdk = provider.sdk
        self.scope, self.resource, self._processors = scope, sdk.resource, provider.processors
        self._ids, self._sampler = sdk.id_generator, sdk.sampler
        self._random = 2 if getattr(self._ids, "is_trace_id_random", bool)() else 0
        self._every = self._sampler is DEFAULT_ON  # each one whose parent is recorded, or that has none
        limits = SpanLimits()
        self.most_events, self.most_links = limits.max_events, limits.max_links
        self.of_span = _Bounds(limits.max_span_attributes, limits.max_span_attribute_length)
        self.of_event = _Bounds(limits.max_event_attributes, limits.max_attribute_length)
        self.of_link = _Bounds(limits.max_link_attributes, limits.max_attribute_length)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            trace_id, random = parent.trace_id, parent.trace_flags & 2
        else:
            trace_id, random, parent = self._ids.generate_trace_id(), self._random, None
        found = dict(attributes or _NONE)
        if self._every:
            sampled = parent is None or bool(parent.trace_flags & 1)
            state = None if parent is None else parent.trace_state
        else:
            decided = self._sampler.should_sample(context, trace_id, name, kind, found, links)
            sampled, state = decided.decision.is_sampled(), decided.trace_state
            found.update(cast("Any", decided).attributes or _NONE)
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, _FLAGS[random | sampled], state)
        if not sampled:
            return NonRecordingSpan(own)
        return RecordedSpan(self, name, own, parent, kind, found, links or (), start_time or time_ns())

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Generator[Span]:  # type: ignore[override]
        with trace.use_span(self.start_span(name, *args, **kwargs), end_on_exit=True) as span:
            yield span

    def ended(self, span: RecordedSpan) -> None:
        """Hand a span over to the exporters."""
        for each in self._processors:
            each.on_end(span)  # type: ignore[arg-type] - it only passes spans on to `_Readable`


class _Readable(SpanExporter):
    """Makes of recorded spans what an exporter takes, in the thread of a processor."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return self._exporter.export([each.readable() for each in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class RecordingProvider(trace.TracerProvider):
    """Gives tracers whose spans go to exporters.

    Args:
        sdk: has the resource, the sampler and the IDs.
    """

    def __init__(self, sdk: SdkTracerProvider, exporters: Sequence[SpanExporter]) -> None:
        self.sdk = sdk
        self.processors: tuple[SpanProcessor, ...] = tuple(BatchSpanProcessor(_Readable(each)) for each in exporters)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> RecordingTracer:
        scope = InstrumentationScope(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        return RecordingTracer(self, scope)

    def shutdown(self) -> None:
        """Send what is left."""
        for each in self.processors:
            each.shutdown()
