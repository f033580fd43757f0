"""Trace context in `_meta` of requests (SEP-414): `traceparent`, `tracestate` and `baggage`, unprefixed.

Owns which keys are read and written, those of the configured propagators, and bounds on what clients send. Leaves
spans to `requests` and `calls`.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Span

from asyncfc_mcp.telemetry.limits import sendable

logger = logging.getLogger(__name__)

MOST_CHARS: Final = 8192
"""Longest value that is read: the bound on `baggage`."""
_W3C: Final = frozenset({"traceparent", "tracestate", "baggage"})
REQUEST_KEY: Final = "asyncfc/request"
"""Key in `_meta` of a request, within this process only, that tells which of the open requests it is."""


@lru_cache(maxsize=8)
def _fields(propagator: TextMapPropagator) -> frozenset[str]:
    return frozenset(propagator.fields)


@lru_cache(maxsize=8)
def _is_w3c(propagator: TextMapPropagator) -> bool:
    """Return whether it is the usual one, for trace context and baggage."""
    return type(propagator) is CompositePropagator and _fields(propagator) == _W3C


def carrier_of(meta: object) -> dict[str, str]:
    """Return the trace context in `_meta`, whose values a client may have chosen freely."""
    if not meta or not isinstance(meta, dict):
        return {}
    found = cast("dict[str, Any]", meta)
    carrier: dict[str, str] = {}
    for key in _fields(propagate.get_global_textmap()):
        value = found.get(key)
        if isinstance(value, str) and value == sendable(value, MOST_CHARS):
            carrier[key] = value
    return carrier


def context_of(meta: object) -> Context | None:
    """Return the context in `_meta`; None if there is none."""
    carrier = carrier_of(meta)
    if not carrier:
        return None
    try:
        return propagate.extract(carrier, Context())
    except Exception:  # a propagator of any package: what it cannot read must not fail the request
        logger.debug("a trace context cannot be read", exc_info=True)
        return None


def carrier_with(span: Span, context: Context | None) -> dict[str, str]:
    """Return what a message carries whose sender is a span, with the baggage of its own context."""
    carrier: dict[str, str] = {}
    propagator, own = propagate.get_global_textmap(), span.get_span_context()
    if own.is_valid and _is_w3c(propagator) and not baggage.get_all(context):
        # What the propagators write; they take a multiple of the time, and each call needs it twice.
        carrier["traceparent"] = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
        if own.trace_state:
            carrier["tracestate"] = own.trace_state.to_header()
        return carrier
    propagate.inject(carrier, trace.set_span_in_context(span, context))
    return carrier


def with_context(meta: Mapping[str, Any], carrier: Mapping[str, str]) -> dict[str, Any]:
    """Return `_meta` with another trace context in place of its own."""
    fields = _fields(propagate.get_global_textmap())
    return {**{key: value for key, value in meta.items() if key not in fields}, **carrier}
