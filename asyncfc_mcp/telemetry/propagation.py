"""Trace context in `_meta` of requests (SEP-414): `traceparent`, `tracestate` and `baggage`, unprefixed.

Owns which keys are read and written, those of the configured propagators, and bounds on what clients send. Leaves
spans to `requests` and `calls`.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from asyncfc_mcp.telemetry.limits import sendable

logger = logging.getLogger(__name__)

MOST_CHARS: Final = 8192
"""Longest value that is read: the bound on `baggage`."""
REQUEST_KEY: Final = "asyncfc/request"
"""Key in `_meta` of a request, within this process only, that tells which of the open requests it is."""


def carrier_of(meta: object) -> dict[str, str]:
    """Return the trace context in `_meta`, whose values a client may have chosen freely."""
    if not meta or not isinstance(meta, dict):
        return {}
    found = cast("dict[str, Any]", meta)
    carrier: dict[str, str] = {}
    for key in propagate.get_global_textmap().fields:
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
    propagate.inject(carrier, trace.set_span_in_context(span, context))
    return carrier


def with_context(meta: Mapping[str, Any], carrier: Mapping[str, str]) -> dict[str, Any]:
    """Return `_meta` with another trace context in place of its own."""
    fields = propagate.get_global_textmap().fields
    return {**{key: value for key, value in meta.items() if key not in fields}, **carrier}
