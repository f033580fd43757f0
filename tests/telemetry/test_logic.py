"""The pure parts of telemetry: what the environment asks for, bounds on names, time saved, errors."""

from __future__ import annotations

import logging
import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.errors import CallTimedOut, ProtocolFailure
from asyncfc_mcp.telemetry import environment, providers
from asyncfc_mcp.telemetry.conventions import NAME_LENGTH
from asyncfc_mcp.telemetry.errors import error_type
from asyncfc_mcp.telemetry.later import Later
from asyncfc_mcp.telemetry.limits import Names, sendable
from asyncfc_mcp.telemetry.propagation import MOST_CHARS, carrier_of, context_of
from asyncfc_mcp.telemetry.saved import SavedTime

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
    """The task that does it is one of the bridge's."""
    later, done = Later(), []

    async def main() -> None:
        for work in (lambda: 1 / 0, lambda: done.append(1)):
            later.do(work)
        while not done:
            await anyio.lowlevel.checkpoint()
        later.do(lambda: 1 / 0)

    later.do(lambda: 1 / 0)
    anyio.run(later.around, main)
    assert caplog.text.count("ZeroDivisionError") == 3


def test_work_waits_for_the_step_and_is_done_at_the_end():
    """At once without its task; in order; nothing is left."""
    later, done = Later(), []
    later.do(lambda: done.append("at once"))
    assert done == ["at once"]

    async def main() -> None:
        later.do(lambda: done.append(1))
        assert done == ["at once"]
        while len(done) < 2:
            await anyio.lowlevel.checkpoint()
        later.do(lambda: done.append(2))

    anyio.run(later.around, main)
    assert done == ["at once", 1, 2]
