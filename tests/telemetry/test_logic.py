"""The pure parts of telemetry: what the environment asks for, bounds on names, time saved, errors."""

from __future__ import annotations

import logging
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.errors import CallTimedOut, ProtocolFailure
from asyncfc_mcp.telemetry import environment, providers
from asyncfc_mcp.telemetry.conventions import NAME_LENGTH
from asyncfc_mcp.telemetry.errors import error_type
from asyncfc_mcp.telemetry.later import MOST, Later
from asyncfc_mcp.telemetry.limits import Names, sendable
from asyncfc_mcp.telemetry.propagation import MOST_CHARS, carrier_of, carrier_with, context_of
from asyncfc_mcp.telemetry.recorded_spans import RecordedSpan, RecordingProvider
from asyncfc_mcp.telemetry.saved import SavedTime
from tests.support.client import PATIENCE

OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, (), ()),
        ({f"{OTLP}ENDPOINT": "http://c"}, ("otlp",), ("otlp",)),
        ({f"{OTLP}ENDPOINT": " "}, (), ()),
        ({f"{OTLP}TRACES_ENDPOINT": "http://c"}, ("otlp",), ()),
        ({f"{OTLP}METRICS_ENDPOINT": "http://c"}, (), ("otlp",)),
        ({f"{OTLP}ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, ("otlp",), ()),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp"), ()),
        ({f"{OTLP}ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, (), ()),
        ({f"{OTLP}HEADERS": "key=value", "OTEL_SERVICE_NAME": "x"}, (), ()),
    ],
)
def test_the_environment_says_what_is_sent(environ: dict[str, str], traces: tuple[str, ...], metrics: tuple[str, ...]):
    """An exporter by name, or an address for the signal."""
    wanted = environment.wanted(environ)
    assert (wanted.traces, wanted.metrics) == (traces, metrics)
    assert bool(wanted) is bool(traces or metrics)


def test_keys_of_collectors_are_secrets():
    """Values of headers, as written and decoded."""
    environ = {f"{OTLP}HEADERS": "api-key=abc%20defgh,x=1", f"{OTLP}TRACES_HEADERS": "authorization=Bearer zzzzzz"}
    assert set(environment.secrets(environ)) == {"abc%20defgh", "abc defgh", "Bearer zzzzzz"}


def test_missing_packages_are_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """It says what asks for them, and the command to run."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    environ = {"OTEL_TRACES_EXPORTER": "otlp"}
    with caplog.at_level(logging.WARNING):
        assert providers.start(environ, setting="auto", metrics=False) is None
    (record,) = caplog.records
    assert "OTEL_TRACES_EXPORTER" in record.getMessage()
    assert providers.INSTALL in record.getMessage()


def test_an_exporter_that_is_not_installed_is_named(caplog: pytest.LogCaptureFixture):
    """So that the user knows which package to add."""
    with caplog.at_level(logging.WARNING):
        assert providers.start({"OTEL_TRACES_EXPORTER": "made-up"}, setting="auto", metrics=False) is None
    assert "made-up" in caplog.text


@given(st.text(st.characters(), max_size=300))
def test_every_text_can_be_sent(text: str):
    """One that cannot be encoded would take all spans with it that are sent together."""
    sent = sendable(text)
    assert sent.encode().decode() == sent
    assert len(sent) <= NAME_LENGTH


@given(st.lists(st.text(max_size=3), max_size=60), st.integers(1, 20))
def test_names_are_bounded(names: list[str], most: int):
    """However many there are; a name that has a place keeps it."""
    bounded = Names(most)
    given_out = [bounded.admitted(name) for name in names]
    assert len({each for each in given_out if each != "_OTHER"}) <= most
    assert all(out in (name, "_OTHER") for name, out in zip(names, given_out, strict=True))
    assert [bounded.known(name) for name in names if bounded.known(name) != "_OTHER"] == [
        name for name in names if bounded.known(name) == name != "_OTHER"
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1000), st.integers(1, 300)).map(
            lambda t: (t[0], t[1], t[1] + t[2])
        ),
        max_size=12,
    )
)
def test_time_saved_is_the_sum_less_the_union(runs: list[tuple[int, int, int]]):
    """For each conversation, added up, whatever the order of starts and ends."""
    saved = SavedTime()
    events = sorted([(start, 1, who) for who, start, _ in runs] + [(end, 0, who) for who, _, end in runs])
    counted = sum(saved.started(who, at) if begins else saved.ended(who, at) for at, begins, who in events)
    expected = 0
    for conversation in {who for who, _, _ in runs}:
        own = [(start, end) for who, start, end in runs if who == conversation]
        covered = {second for start, end in own for second in range(start, end)}
        expected += sum(end - start for start, end in own) - len(covered)
    assert counted == expected


@pytest.mark.parametrize(
    "meta",
    [
        None,
        "text",
        {"traceparent": 5},
        {"traceparent": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]},
        {"baggage": "x" * (MOST_CHARS + 1)},
        {"baggage": "a=\ud800", "tracestate": "\udfff=1", "traceparent": "\ud800"},
    ],
)
def test_context_of_wrong_types_is_none(meta: object):
    """Clients choose what is in `_meta`."""
    assert carrier_of(meta) == {}
    assert context_of(meta) is None


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate", "baggage"]), st.text(st.characters())))
def test_no_text_of_a_client_is_an_error(meta: dict[str, str]):
    """Whatever it is, a context comes of it or none."""
    context_of(meta)


@pytest.mark.parametrize(
    ("event", "failure", "result", "expected"),
    [
        (Event.COMPLETE, None, {}, None),
        (Event.FAIL, None, {"isError": True}, "tool_error"),
        (Event.FAIL, ProtocolFailure("t", -32602, "no"), None, "-32602"),
        (Event.FAIL, CallTimedOut("t", 1.0), None, "timeout"),
        (Event.CANCEL, None, None, "cancelled"),
    ],
)
def test_each_end_has_its_type(event: Event, failure: Exception | None, result: dict[str, object], expected: str):
    """As the conventions say."""
    future = Future("f1", LOCAL, "t", "s")
    future.failure, future.result = failure, result
    future.apply(Event.START)
    future.apply(event)
    assert error_type(future) == expected


def test_work_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture):
    """Neither the thread that does it nor the bridge."""
    later, done = Later(), threading.Event()

    async def main() -> None:
        for work in (lambda: 1 / 0, done.set):
            later.do(work)
        await anyio.to_thread.run_sync(done.wait, PATIENCE)
        later.do(lambda: 1 / 0)

    later.do(lambda: 1 / 0)
    anyio.run(later.around, main)
    assert caplog.text.count("ZeroDivisionError") == 3


def test_work_is_done_in_order_by_another_thread_and_nothing_is_left():
    """At once without that; what is left at the end is done then, however much it is."""
    later = Later()
    done: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> None:
        done.append(number)
        threads.add(threading.get_ident())

    later.do(lambda: work(0))
    assert done == [0]
    threads.clear()
    awaited = threading.Event()

    async def main() -> None:
        later.do(lambda: work(1))
        later.do(awaited.set)
        await anyio.to_thread.run_sync(awaited.wait, PATIENCE)
        assert threads
        assert threading.get_ident() not in threads
        for number in range(2, 3 * MOST):
            later.do(partial(work, number))

    anyio.run(later.around, main)
    assert done == list(range(3 * MOST))


VALUES = st.one_of(st.booleans(), st.integers(0, 99), st.floats(0, 1), st.text(max_size=5))
ATTRIBUTES = st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attributes"), ATTRIBUTES),
        st.tuples(st.just("event"), ATTRIBUTES),
        st.tuples(st.just("link"), ATTRIBUTES),
        st.tuples(st.just("error"), st.text(max_size=5)),
    ),
    max_size=12,
)


@given(ATTRIBUTES, STEPS, st.sampled_from([None, *(f"00-{'4b' * 16}-{'f0' * 8}-0{flags}" for flags in range(4))]))
def test_a_recorded_span_is_sent_like_one_of_the_sdk(
    attributes: dict[str, Any], steps: list[tuple[str, Any]], parent: str | None
):
    """Byte by byte, within the limits of the environment, under the same parent."""
    limits = {"OTEL_SPAN_EVENT_COUNT_LIMIT": "3", "OTEL_SPAN_LINK_COUNT_LIMIT": "2", "OTEL_ATTRIBUTE_COUNT_LIMIT": "4"}
    limits |= {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1"}
    context = context_of({"traceparent": parent}) or Context()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setenv(name, value)
        sdk = TracerProvider(shutdown_on_exit=False, id_generator=Numbers())
        sent = InMemorySpanExporter()
        sdk.add_span_processor(SimpleSpanProcessor(sent))
        provider = RecordingProvider(TracerProvider(shutdown_on_exit=False, id_generator=Numbers()), [])
        collected: list[RecordedSpan] = []
        provider.processors = (cast("Any", SimpleNamespace(on_end=collected.append)),)
        contexts: list[SpanContext] = []
        for each in (sdk, provider):
            span = each.get_tracer("scope", "1").start_span(
                "name", context, SpanKind.CLIENT, attributes, None, start_time=1
            )
            contexts.append(span.get_span_context())
            for at, (kind, value) in enumerate(steps, 1):
                if kind == "attributes":
                    span.set_attributes({f"{key} {at}": given for key, given in value.items()})
                elif kind == "event":
                    span.add_event("event", value, at)
                elif kind == "link":
                    span.add_link(SpanContext(at, at, False), value)
                else:
                    span.set_status(StatusCode.ERROR, value)
            span.end(99)
        theirs, ours = sent.get_finished_spans(), [each.readable() for each in collected]
        assert encode_spans(ours) == encode_spans(theirs)
        assert carrier_with(NonRecordingSpan(contexts[0]), context) == injected(contexts[0])
    assert contexts[0] == contexts[1]
    assert len(ours) == (parent is None or parent[-1] in "13")


def injected(context: SpanContext) -> dict[str, str]:
    """What the propagators write."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(NonRecordingSpan(context), Context()))
    return carrier


class Numbers(IdGenerator):
    """IDs that are the same for all."""

    def generate_span_id(self) -> int:
        return 7

    def generate_trace_id(self) -> int:
        return 8
