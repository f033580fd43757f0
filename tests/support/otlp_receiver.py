"""A collector of OpenTelemetry: OTLP over HTTP, parsed with OpenTelemetry's own messages.

Owns its socket and thread. As a program (`python -m tests.support.otlp_receiver`) it prints its address, and drops what
it receives.
"""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.client import PATIENCE, eventually

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


@dataclass(frozen=True)
class Event:
    """One event of a span."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """One span that was received."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: Mapping[str, Any]
    events: tuple[Event, ...]
    links: tuple[tuple[str, Mapping[str, Any]], ...]
    """Span ID and attributes of each."""
    error: bool
    message: str
    process: str
    """`service.instance.id`."""

    def linked(self, why: str) -> list[str]:
        """The spans to which it has links of this kind."""
        return [to for to, attributes in self.links if attributes.get("asyncfc.link") == why]


@dataclass(frozen=True)
class Point:
    """The last value of one series."""

    metric: str
    unit: str
    attributes: Mapping[str, Any]
    value: float
    """The sum, of a histogram."""
    count: int = 0
    bounds: tuple[float, ...] = ()


@dataclass
class OtlpReceiver:
    """What was received."""

    url: str = ""
    spans: list[Span] = field(default_factory=list[Span])
    points: list[Point] = field(default_factory=list[Point])
    resources: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    bodies: list[bytes] = field(default_factory=list[bytes])

    @property
    def env(self) -> dict[str, str]:
        """The environment of a program that sends here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }

    def named(self, name: str, kind: str | None = None) -> list[Span]:
        """The spans with this name."""
        return [span for span in list(self.spans) if span.name == name and kind in (None, span.kind)]

    def wait(self, name: str, kind: str | None = None, number: int = 1) -> list[Span]:
        """The spans with this name, once there are so many."""
        eventually(lambda: len(self.named(name, kind)) >= number, f"{number} spans {name!r}", seconds=PATIENCE)
        return self.named(name, kind)

    def series(self, metric: str, **attributes: Any) -> list[Point]:
        """The last points of a metric whose series have these attributes (with `_` for `.`)."""
        last: dict[tuple[Any, ...], Point] = {}
        for point in list(self.points):
            plain = {key.replace(".", "_"): value for key, value in point.attributes.items()}
            if point.metric == metric and attributes.items() <= plain.items():
                last[tuple(sorted(point.attributes.items()))] = point
        return list(last.values())

    def total(self, metric: str, **attributes: Any) -> float:
        """Sum of the counters, or number of the measurements, over these series."""
        return sum(point.count or point.value for point in self.series(metric, **attributes))

    # --- receiving

    def take_traces(self, body: bytes) -> bytes:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.resources.append(_attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Span(
                            span.name,
                            KINDS[span.kind],
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            _attributes(span.attributes),
                            tuple(Event(each.name, _attributes(each.attributes)) for each in span.events),
                            tuple((each.span_id.hex(), _attributes(each.attributes)) for each in span.links),
                            span.status.code == 2,
                            span.status.message,
                            str(self.resources[-1]["service.instance.id"]),
                        )
                    )
        return ExportTraceServiceResponse().SerializeToString()

    def take_metrics(self, body: bytes) -> bytes:
        request = ExportMetricsServiceRequest.FromString(body)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    for point in getattr(metric, kind).data_points:
                        attributes = _attributes(point.attributes)
                        if kind == "histogram":
                            bounds = tuple(point.explicit_bounds)
                            self.points.append(
                                Point(metric.name, metric.unit, attributes, point.sum, point.count, bounds)
                            )
                        else:
                            value = point.as_int if point.HasField("as_int") else point.as_double
                            self.points.append(Point(metric.name, metric.unit, attributes, value))
        return ExportMetricsServiceResponse().SerializeToString()


def _attributes(found: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in found}


@contextmanager
def otlp_receiver(*, keep: bool = True) -> Iterator[OtlpReceiver]:
    """Receive until the block ends.

    Args:
        keep: false: what is received is parsed by nobody.
    """
    received = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answer = b""
            if keep:
                assert self.headers["content-type"] == "application/x-protobuf"
                received.headers.append({key.lower(): value for key, value in self.headers.items()})
                received.bodies.append(body)
                take = received.take_traces if self.path == "/v1/traces" else received.take_metrics
                answer = take(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="otlp", kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with otlp_receiver(keep=False) as running:
        print(running.url, flush=True)
        sys.stdin.read()
