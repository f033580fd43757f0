"""The part of OpenTelemetry's environment variables that decides whether there is telemetry, and where it goes.

Pure: imports nothing of OpenTelemetry, so that a bridge without telemetry does not load it. Leaves the variables of
exporters, samplers and resources to the SDK, which reads them itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

DISABLED: Final = "OTEL_SDK_DISABLED"
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Variable with which OpenTelemetry's instrumentations of generative AI record arguments and results."""
_SIGNALS: Final = ("TRACES", "METRICS")
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_HEADERS", *(f"OTEL_EXPORTER_OTLP_{each}_HEADERS" for each in _SIGNALS))
_SHORTEST_SECRET: Final = 6
"""Shorter values of headers are words that may appear anywhere."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the environment asks for.

    Args:
        traces, metrics: names of exporters (`otlp`, `console`, …); empty for none.
        because: the variable that asks for it, for messages.
        content: record arguments and results of tools.
    """

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    because: str = ""
    content: bool = False

    def __bool__(self) -> bool:
        return bool(self.traces or self.metrics)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry is switched off as a whole."""
    return environ.get(DISABLED, "").strip().lower() == "true"


def wanted(environ: Mapping[str, str]) -> Wanted:
    """Return what the environment asks for. A signal has exporters if they are named, or if there is an address of a
    collector for it; nothing is sent to a collector on this machine because none is named."""
    if is_disabled(environ):
        return Wanted()
    exporters: dict[str, tuple[str, ...]] = {}
    because = ""
    for signal in _SIGNALS:
        variable, address = f"OTEL_{signal}_EXPORTER", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
        named = environ.get(variable, "").strip()
        if named:
            exporters[signal] = tuple(name for each in named.split(",") if (name := each.strip()) not in ("", "none"))
            source = variable
        else:
            source = next((each for each in (address, ENDPOINT) if environ.get(each, "").strip()), "")
            exporters[signal] = ("otlp",) if source else ()
        if exporters[signal]:
            because = because or source
    return Wanted(exporters["TRACES"], exporters["METRICS"], because, records_content(environ))


def records_content(environ: Mapping[str, str]) -> bool:
    """Return whether arguments and results of tools are to be recorded on spans."""
    return environ.get(CONTENT, "").strip().lower() in ("true", "span_only", "span_and_event")


def protocol(environ: Mapping[str, str], signal: str) -> str:
    """Return the OTLP protocol of a signal (`traces` or `metrics`): the named one, else `http/protobuf`, which the
    specification recommends and the extra installs."""
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip()
    return own or environ.get(PROTOCOL, "").strip() or "http/protobuf"


def secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the headers that exporters send, which are keys of collectors: no log shows them."""
    values: set[str] = set()
    for name in _HEADERS:
        for pair in environ.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            values |= {each for each in (value, unquote(value)) if len(each) >= _SHORTEST_SECRET}
    return tuple(values)
