"""Instruments of all metrics: the histograms of the conventions, and the counters of the bridge.

Owns units and descriptions. Leaves names to `conventions`, and recording to `requests`, `calls` and `sessions`.
"""

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.util.types import AttributeValue

from asyncfc_mcp.telemetry import conventions


class Tally:
    """A counter that is read when metrics are collected: a call costs an addition, not a measurement of the SDK."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._totals: dict[tuple[tuple[str, AttributeValue], ...], float] = {}
        meter.create_observable_counter(name, [self._observed], unit, description)

    def add(self, amount: float, attributes: Mapping[str, AttributeValue]) -> None:
        """Count. Keys of attributes have to come in one order."""
        series = tuple(attributes.items())
        self._totals[series] = self._totals.get(series, 0) + amount

    def _observed(self, options: CallbackOptions) -> Iterable[Observation]:
        # The list is made in one step of the interpreter: this is another thread.
        return [Observation(total, dict(series)) for series, total in list(self._totals.items())]


class Instruments:
    """The instruments of one meter.

    Args:
        open_futures: returns the number of unfinished futures by state.
    """

    def __init__(self, meter: Meter, open_futures: Callable[[], Mapping[str, int]]) -> None:
        def seconds(name: str, description: str) -> Histogram:
            return meter.create_histogram(
                name, "s", description, explicit_bucket_boundaries_advisory=conventions.SECONDS
            )

        def observed(options: CallbackOptions) -> Iterable[Observation]:
            for state, number in open_futures().items():
                yield Observation(number, {conventions.STATE: state})

        self.server_operation = seconds(
            conventions.SERVER_OPERATION,
            "MCP request duration as observed on the receiver from the time it was received until the result is sent.",
        )
        self.client_operation = seconds(
            conventions.CLIENT_OPERATION,
            "The duration of the MCP request as observed on the sender from the time it was sent until the response is "
            "received.",
        )
        self.server_session = seconds(
            conventions.SERVER_SESSION, "The duration of the MCP session as observed on the MCP server."
        )
        self.client_session = seconds(
            conventions.CLIENT_SESSION, "The duration of the MCP session as observed on the MCP client."
        )
        self.wait = seconds(conventions.WAIT, "Time that calls waited before they were sent, by reason.")
        self.submitted = Tally(meter, conventions.SUBMITTED, "{future}", "Futures that were made.")
        self.ended = Tally(meter, conventions.ENDED, "{future}", "Futures that have ended, by state.")
        self.retries = Tally(meter, conventions.RETRIES, "{retry}", "Calls that were sent again.")
        self.restarts = Tally(meter, conventions.RESTARTS, "{restart}", "Restarts of wrapped servers.")
        self.references = Tally(
            meter, conventions.REFERENCES, "{reference}", "Results that calls took as arguments, by reference."
        )
        self.time_saved = Tally(
            meter, conventions.TIME_SAVED, "s", "Sum of the run times of calls less the length of their union."
        )
        meter.create_observable_up_down_counter(
            conventions.OPEN, [observed], "{future}", "Futures that have not ended, by state."
        )
