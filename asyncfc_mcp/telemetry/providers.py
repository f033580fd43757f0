"""Providers and exporters of OpenTelemetry, as the environment and the settings ask for them.

Owns when there is telemetry at all, the message if its packages are missing, and the bounded end. OpenTelemetry is
imported only where telemetry is on. Leaves what is recorded to `telemetry`.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from asyncfc_mcp import __version__
from asyncfc_mcp.telemetry import environment

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider

    from asyncfc_mcp.telemetry.telemetry import Telemetry

logger = logging.getLogger(__name__)

FLUSH_S: Final = 3.0
"""Longest time that the end of the process waits for what is still to be sent."""
INSTALL: Final = "pip install 'asyncfc-mcp[telemetry]'"
SERVICE_NAME: Final = "asyncfc-mcp"
"""`service.name`, where the environment gives none."""
_ENTRY_POINTS: Final = {"otlp": {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}}


def start(
    environ: Mapping[str, str], *, setting: str, metrics: bool, own_tools: tuple[str, ...] = ()
) -> "Telemetry | None":
    """Return the telemetry of this process; None if nothing asks for any, or its packages are missing, which is logged.

    Args:
        setting: the setting `telemetry`.
        metrics: metrics are to be served for Prometheus.
    """
    if environment.is_disabled(environ):
        return None
    wanted = environment.Wanted() if setting == "off" else environment.wanted(environ)
    tracers, meters = (None, None) if setting == "off" else _installed()
    if not (wanted or metrics or tracers or meters):
        return None
    try:
        return _start(environ, wanted, tracers, meters, metrics=metrics, own_tools=own_tools)
    except ImportError as exc:
        because = wanted.because or "the setting metrics"
        logger.warning(
            "there is no telemetry, though %s asks for it: a package is missing (%s). Install it: %s",
            because,
            exc.name or exc,
            INSTALL,
        )
    except Exception as exc:  # noqa: BLE001 - exporters are other programs, and what they refuse is in the environment
        logger.warning("there is no telemetry: %s: %s", type(exc).__name__, exc)
    return None


def _installed() -> "tuple[TracerProvider | None, MeterProvider | None]":
    """Return the providers that were installed before (`opentelemetry-instrument`), without loading OpenTelemetry."""
    if "opentelemetry.sdk" not in sys.modules:
        return None, None
    from opentelemetry import metrics, trace

    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    tracing = not isinstance(tracers, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    metering = type(meters).__name__ not in ("_ProxyMeterProvider", "NoOpMeterProvider")
    return (tracers if tracing else None), (meters if metering else None)


def _start(
    environ: Mapping[str, str],
    wanted: environment.Wanted,
    tracers: "TracerProvider | None",
    meters: "MeterProvider | None",
    *,
    metrics: bool,
    own_tools: tuple[str, ...],
) -> "Telemetry":
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.trace import NoOpTracerProvider

    from asyncfc_mcp.telemetry.telemetry import Telemetry

    ends: list[Callable[[], object]] = []
    exposition = None
    if tracers is None and wanted.traces:
        tracers = _tracer_provider(environ, wanted.traces, ends)
    if meters is None and (wanted.metrics or metrics):
        readers = [_reader(environ, each) for each in wanted.metrics]
        if metrics:
            reader, exposition = _prometheus()
            readers.append(reader)
        meters = _meter_provider(readers, ends)
    elif metrics:
        logger.warning("metrics are not served: the provider that is installed already has them (setting metrics)")
    _log_exporters_once()
    return Telemetry(
        tracers or NoOpTracerProvider(),
        meters or NoOpMeterProvider(),
        own_tools=own_tools,
        content=environment.records_content(environ),
        close=lambda: _end(ends),
        exposition=exposition,
    )


def _resource() -> "Resource":
    from opentelemetry.sdk.resources import Resource

    # Those of the environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) are merged over these.
    ours = Resource({"service.name": SERVICE_NAME, "service.version": __version__})
    given = Resource.create()
    if str(given.attributes.get("service.name", "")).startswith("unknown_service"):
        given = Resource({key: value for key, value in given.attributes.items() if key != "service.name"})
    return ours.merge(given)


def _tracer_provider(
    environ: Mapping[str, str], exporters: Sequence[str], ends: list[Callable[[], object]]
) -> "TracerProvider":
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    from asyncfc_mcp.telemetry.recorded_spans import RecordingProvider

    # Standard output is the wire.
    found = [
        ConsoleSpanExporter(out=sys.stderr) if name == "console" else _exporter(environ, "traces", name)
        for name in exporters
    ]
    provider = RecordingProvider(TracerProvider(resource=_resource(), shutdown_on_exit=False), found)
    ends.append(provider.shutdown)
    return provider


def _reader(environ: Mapping[str, str], name: str) -> "MetricReader":
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    exporter = ConsoleMetricExporter(out=sys.stderr) if name == "console" else _exporter(environ, "metrics", name)
    return PeriodicExportingMetricReader(exporter)


def _meter_provider(readers: "Sequence[MetricReader]", ends: list[Callable[[], object]]) -> "MeterProvider":
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider(readers, resource=_resource(), shutdown_on_exit=False)
    ends.append(lambda: provider.shutdown(FLUSH_S * 1000))
    return provider


def _exporter(environ: Mapping[str, str], signal: str, name: str) -> Any:
    """Return an exporter by the name that the environment has for it.

    Raises:
        ModuleNotFoundError: no package with it is installed.
    """
    from importlib.metadata import entry_points

    known = _ENTRY_POINTS.get(name, {}).get(environment.protocol(environ, signal), name)
    found = tuple(entry_points(group=f"opentelemetry_{signal}_exporter", name=known))
    if not found:
        raise ModuleNotFoundError(f"no exporter {known!r} for {signal}", name=f"exporter {known!r} for {signal}")
    return found[0].load()()


def _prometheus() -> "tuple[MetricReader, Callable[[], tuple[bytes, str]]]":
    """Return a reader of metrics for Prometheus, and what writes them."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry()
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return reader, lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)


def _end(ends: Sequence[Callable[[], object]]) -> None:
    """Send what is left, for at most `FLUSH_S`. Each provider in a thread of its own, which ends with the process: an
    exporter may be waiting for a collector that does not answer."""
    threads = [threading.Thread(target=each, name="telemetry end", daemon=True) for each in ends]
    for thread in threads:
        thread.start()
    timer = threading.Event()
    deadline = threading.Timer(FLUSH_S, timer.set)
    deadline.daemon = True
    deadline.start()
    for thread in threads:
        while thread.is_alive() and not timer.is_set():
            thread.join(0.05)
    deadline.cancel()


class _Once(logging.Handler):
    """Logs one line for all failures of exporters, and one for other complaints of each part of OpenTelemetry."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        part = "exporter" if "export" in record.name else record.name
        if part not in self._said:
            self._said.add(part)
            what = "telemetry cannot be sent" if part == "exporter" else "telemetry"
            logger.warning("%s: %s (further such failures are not logged)", what, record.getMessage())


def _log_exporters_once() -> None:
    library = logging.getLogger("opentelemetry")
    if not any(isinstance(each, _Once) for each in library.handlers):
        library.addHandler(_Once())
    library.propagate = False
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
