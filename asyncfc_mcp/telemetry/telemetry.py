"""Telemetry of one bridge: what traces and counts its requests, calls and servers.

Owns the parts and what they share. Leaves providers and exporters to `providers`, wiring to `app`.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from asyncfc_mcp import __version__
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.telemetry.calls import Calls
from asyncfc_mcp.telemetry.errors import ErrorTypes
from asyncfc_mcp.telemetry.instruments import Instruments
from asyncfc_mcp.telemetry.later import Later
from asyncfc_mcp.telemetry.limits import MOST_NAMES, Names
from asyncfc_mcp.telemetry.requests import OpenRequests, Requests
from asyncfc_mcp.telemetry.servers import Servers

SCOPE = "asyncfc_mcp"
"""Name of the instrumentation scope."""


def _nothing() -> None: ...


class Telemetry:
    """Traces and counts what one bridge does.

    Args:
        own_tools: names of the bridge's own tools.
        content: record arguments and results.
        close: sends what is left, within a bound.
        exposition: returns all metrics in the text format of Prometheus, and its media type.
    """

    def __init__(
        self,
        tracers: TracerProvider,
        meters: MeterProvider,
        *,
        own_tools: tuple[str, ...] = (),
        content: bool = False,
        close: Callable[[], None] = _nothing,
        exposition: Callable[[], tuple[bytes, str]] | None = None,
    ) -> None:
        self._tracer = tracers.get_tracer(SCOPE, __version__)
        self._open_calls: Callable[[], Mapping[str, int]] = dict[str, int]
        self.instruments = Instruments(meters.get_meter(SCOPE, __version__), lambda: self._open_calls())
        self._requests, self._errors = OpenRequests(), ErrorTypes()
        self._names = Names(MOST_NAMES, own_tools)
        self.servers = Servers(self.instruments)
        self.later = Later()
        self.calls = Calls(
            self._tracer,
            self.instruments,
            self._requests,
            self._names,
            self._errors,
            self.servers,
            self.later,
            content=content,
        )
        self.close = close
        self.exposition = None if exposition is None else lambda: self._exposed(exposition)

    def _exposed(self, exposition: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
        self.later.finish()
        return exposition()

    def requests(self, transport: str) -> Requests:
        """Return what traces the requests of a transport: `stdio`, `http`, or `local` for a daemon's socket."""
        return Requests(
            self._tracer, self.instruments, self._requests, self._names, self._errors, self.later, transport
        )

    def watch(self, unfinished: Callable[[], "list[Call] | tuple[Call, ...]"]) -> None:
        """Count the unfinished calls of an engine when metrics are read, which happens in another thread."""

        def counted() -> Mapping[str, int]:
            try:
                states = Counter(call.future.state.value for call in tuple(unfinished()))
            except (AttributeError, RuntimeError):  # the engine is not open yet; or a call has ended meanwhile
                return {}
            return {"waiting": 0, "running": 0, "input_required": 0} | states

        self._open_calls = counted
