"""Telemetry of a real bridge, received by a real collector: OTLP over a socket."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client
from prometheus_client.parser import text_string_to_metric_families

from asyncfc_mcp.telemetry import conventions
from tests.support.client import HANDSHAKE, MODERN, Json, RpcError, eventually, text_of
from tests.support.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.support.postgres import PostgresServer
from tests.support.restarting import Restarting, kill, recorded, until_ended
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

META_SERVER = Path(__file__).resolve().parents[1] / "support" / "meta_server.py"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CARRIED = {
    "traceparent": f"00-{TRACE}-{PARENT}-01",
    "tracestate": "rojo=1",
    "baggage": "user=alice",
    "x.example/own": {"kept": None},
}


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    """Receives what the bridges of a test send."""
    with otlp_receiver() as receiver:
        yield receiver


def meta_entry(stage: Stage, **settings: object) -> Json:
    """A server that returns the `_meta` of its requests."""
    return {**stage.entry(sys.executable, str(META_SERVER)), "asyncfc": {"prefix": "", **settings}}


def arrived_meta(bridge: Wire, meta: Json | None = None) -> Json | None:
    """The `_meta` with which a call arrives at its server, but the token of this hop."""
    params: Json = {"name": "meta", "arguments": {}}
    result = bridge.request("tools/call", params if meta is None else {**params, "_meta": meta})
    arrived = json.loads(text_of(result))
    arrived.pop("progressToken")
    return arrived


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_call_is_traced_from_its_client_to_its_server(stage: Stage, collector: OtlpReceiver, era: str):
    """SERVER span of the request in the client's trace, CLIENT span of the execution in it, and its context at the
    server; the wait for the result is linked to what it brought."""
    stage.env |= collector.env
    bridge = stage.bridge({"meta": meta_entry(stage)}, era=era, grace_ms=0)
    bridge.wait_for_tools("meta")
    handle = bridge.request("tools/call", {"name": "meta", "arguments": {}, "_meta": CARRIED})
    future = handle["structuredContent"]["future_id"] if "structuredContent" in handle else "f1"
    arrived = json.loads(text_of(bridge.outcome(future)))

    server = collector.wait("tools/call meta", "SERVER")[0]
    client = collector.wait("tools/call meta", "CLIENT")[0]
    collected = collector.wait("tools/call await_future", "SERVER")[0]
    assert (server.trace, server.parent) == (TRACE, PARENT)
    assert (client.trace, client.parent) == (TRACE, server.id)
    assert client.linked("submission") == [server.id]
    assert collected.linked("result") == [client.id]
    assert arrived["traceparent"] == f"00-{TRACE}-{client.id}-01"
    assert arrived["tracestate"] == "rojo=1"
    assert arrived["baggage"] == "user=alice"
    assert arrived["x.example/own"] == {"kept": None}
    assert not [key for key in arrived if key.startswith("asyncfc/")]
    assert server.attributes == {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "meta",
        "gen_ai.operation.name": "execute_tool",
        "mcp.protocol.version": era,
        "jsonrpc.request.id": server.attributes["jsonrpc.request.id"],
        "network.transport": "pipe",
        "asyncfc.future.id": "f1",
        "asyncfc.server.name": "meta",
    }
    assert client.attributes["mcp.protocol.version"] == "2025-06-18"
    assert client.attributes["jsonrpc.request.id"].isdigit()
    assert not server.error


def test_without_telemetry_meta_passes_as_the_client_sent_it(stage: Stage):
    """Nothing is added to it, nothing is replaced."""
    bridge = stage.bridge({"meta": meta_entry(stage, mode="sync")})
    bridge.wait_for_tools("meta")
    assert arrived_meta(bridge, CARRIED) == CARRIED
    assert arrived_meta(bridge) == {}
    stage.settings = {"telemetry": "off"}
    stage.env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    bridge = stage.bridge({"meta": meta_entry(stage, mode="sync")})
    bridge.wait_for_tools("meta")
    assert arrived_meta(bridge, CARRIED) == CARRIED


def test_waits_and_their_reasons_are_on_the_spans(stage: Stage, collector: OtlpReceiver):
    """For a value, for capacity; and the metrics count them."""
    stage.env |= collector.env
    entry = {**stage.toy(), "asyncfc": {"prefix": "", "max_concurrency": 1}}
    bridge = stage.bridge({"toy": entry}, grace_ms=0)
    bridge.wait_for_tools("echo")
    first = bridge.submit("sleep", {"seconds": 0.2, "_as": "a"})
    queued = bridge.submit("sleep", {"seconds": 0})
    taking = bridge.submit("echo", {"text": "$a"})
    bridge.call("gather", {"future_ids": [first.id, queued.id, taking.id]})

    collector.wait("tools/call gather", "SERVER")
    collector.wait("tools/call sleep", "CLIENT", 2)
    echo = collector.wait("tools/call echo", "CLIENT")[0]
    waits = {
        event.attributes["asyncfc.wait.kind"]: event.attributes
        for span in [echo, *collector.named("tools/call sleep", "CLIENT")]
        for event in span.events
        if event.name == "asyncfc.waited"
    }
    assert waits["value"]["asyncfc.wait.on"] == first.id
    assert waits["value"]["asyncfc.wait.duration_s"] >= 0.1
    assert waits["capacity"]["asyncfc.wait.on"]
    slept = next(span for span in collector.named("tools/call sleep", "CLIENT") if span.id in echo.linked("value"))
    assert slept.attributes["asyncfc.future.id"] == first.id
    assert len(collector.named("tools/call gather")[0].linked("result")) == 3
    asked = collector.named("tools/call echo", "SERVER")[0]
    assert [event.name for event in asked.events] == ["asyncfc.waiting"]
    bridge.close()
    assert collector.total("asyncfc.futures.submitted") == 3
    assert collector.total("asyncfc.futures.ended", asyncfc_future_state="completed") == 3
    assert collector.total("asyncfc.references") == 1
    assert collector.total("asyncfc.wait.duration", asyncfc_wait_kind="value") == 1
    assert collector.total("asyncfc.wait.duration", asyncfc_wait_kind="capacity") >= 1


def test_failures_have_a_type_and_no_text_of_private_tools(stage: Stage, collector: OtlpReceiver):
    """JSON-RPC errors by their code, results that are errors as `tool_error`; unknown tools have no series."""
    stage.env |= collector.env
    entry = {
        **stage.toy(),
        "asyncfc": {"prefix": "", "mode": "sync", "tools": {"protocol_error": {"journal": False}}},
    }
    bridge = stage.bridge({"toy": entry})
    bridge.wait_for_tools("echo")
    with pytest.raises(RpcError):
        bridge.call("protocol_error")
    bridge.call("fail", {"message": "the secret word"})
    for number in range(3):
        with pytest.raises(RpcError):
            bridge.call(f"made-up-{number}")
    with pytest.raises(RpcError):
        bridge.request("made/up")
    refused = collector.wait("tools/call protocol_error", "CLIENT")[0]
    assert refused.attributes["error.type"] == refused.attributes["rpc.response.status_code"] == "-32055"
    assert refused.error
    assert refused.message == ""
    assert collector.wait("tools/call protocol_error", "SERVER")[0].message == ""
    failed = collector.wait("tools/call fail", "CLIENT")[0]
    assert failed.attributes["error.type"] == "tool_error"
    assert collector.wait("tools/call fail", "SERVER")[0].attributes["error.type"] == "tool_error"
    bridge.close()
    assert collector.named("tools/call made-up-1", "SERVER")
    tools = {point.attributes.get("gen_ai.tool.name") for point in collector.series("mcp.server.operation.duration")}
    assert tools == {None, "protocol_error", "fail", "_OTHER"}
    assert collector.total("mcp.server.operation.duration", mcp_method_name="_OTHER") == 1
    assert not [body for body in collector.bodies if b"secret word" in body]


@pytest.mark.parametrize("asked", [False, True])
def test_arguments_and_results_are_recorded_only_if_that_is_asked_for(
    stage: Stage, collector: OtlpReceiver, asked: bool
):
    """Never those of tools with `"journal": false`."""
    stage.env |= collector.env
    if asked:
        stage.env["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"
    entry = {**stage.toy(), "asyncfc": {"prefix": "", "mode": "sync", "tools": {"sleep": {"journal": False}}}}
    bridge = stage.bridge({"toy": entry})
    bridge.wait_for_tools("echo")
    bridge.call("echo", {"text": "visible-word"})
    bridge.call("sleep", {"seconds": 0, "tag": "hidden-word"})
    bridge.close()
    sent = b"".join(collector.bodies)
    assert (b"visible-word" in sent) is asked
    assert b"hidden-word" not in sent
    recorded = collector.named("tools/call echo", "CLIENT")[0].attributes
    assert ("gen_ai.tool.call.arguments" in recorded) is asked
    if asked:
        assert json.loads(recorded["gen_ai.tool.call.arguments"]) == {"text": "visible-word"}
        assert "visible-word" in recorded["gen_ai.tool.call.result"]


def test_other_requests_have_spans_on_both_sides(stage: Stage, collector: OtlpReceiver):
    """A prompt: its name is in the name of the span, and the server gets the context."""
    stage.env |= collector.env
    bridge = stage.bridge({"meta": meta_entry(stage)})
    bridge.wait_for_tools("meta")
    prompt = bridge.request("prompts/get", {"name": "meta", "_meta": CARRIED})
    arrived = json.loads(prompt["messages"][0]["content"]["text"])
    server = collector.wait("prompts/get meta", "SERVER")[0]
    client = collector.wait("prompts/get meta", "CLIENT")[0]
    assert server.attributes["gen_ai.prompt.name"] == "meta"
    assert "gen_ai.operation.name" not in server.attributes
    assert (client.trace, client.parent) == (TRACE, server.id)
    assert arrived["traceparent"] == f"00-{TRACE}-{client.id}-01"
    bridge.close()
    assert collector.total("mcp.server.session.duration") == 1
    assert collector.total("mcp.client.session.duration") == 1
    durations = collector.series("mcp.client.operation.duration")[0]
    assert (durations.unit, durations.bounds) == ("s", tuple(map(float, conventions.SECONDS)))


def test_a_collector_that_does_not_answer_delays_nothing(stage: Stage):
    """Neither calls nor the end; one line says so."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stage.env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": {"prefix": "", "mode": "sync"}}})
        bridge.wait_for_tools("echo")
        said = "telemetry cannot be sent"
        eventually(lambda: said in bridge.stderr_path.read_text(), "the failure is logged")
        assert text_of(bridge.call("echo", {"text": "x"}))
        began_at = time.monotonic()
        bridge.close()
        assert time.monotonic() - began_at < 20, "the end is bounded, by far less than this"
        assert bridge.stderr_path.read_text().count(said) == 1


def test_metrics_are_served_for_prometheus_behind_the_token(stage: Stage):
    """Without any collector; the names are those of Prometheus."""
    entry = {**stage.toy(), "asyncfc": {"prefix": "", "mode": "sync"}}
    bridge = stage.http_bridge({"toy": entry}, "--auth-token-env", "TOKEN", env={"TOKEN": "s" * 32}, metrics=True)
    client = bridge.client(headers={"Authorization": f"Bearer {'s' * 32}"})
    client.wait_for_tools("echo")
    client.call("echo", {"text": "x"})
    assert bridge.get("/metrics")[0] == 401
    status, text = bridge.get("/metrics", {"Authorization": f"Bearer {'s' * 32}"})
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    operations = families["mcp_server_operation_duration_seconds"].samples
    counted = [
        sample.value
        for sample in operations
        if sample.name.endswith("_count") and sample.labels.get("gen_ai_tool_name") == "echo"
    ]
    assert counted == [1.0]
    assert {"asyncfc_futures_ended", "asyncfc_futures_open", "process_resident_memory_bytes"} <= set(families)
    assert families["asyncfc_futures_ended"].type == "counter"


def test_http_spans_name_their_transport_and_session(stage: Stage, collector: OtlpReceiver):
    """`tcp` and `http`, with the ID of the session; `/metrics` does not exist unless it is asked for."""
    stage.env |= collector.env
    bridge = stage.http_bridge({"meta": meta_entry(stage, mode="sync")})
    client = bridge.client()
    client.wait_for_tools("meta")
    client.call("meta")
    span = collector.wait("tools/call meta", "SERVER")[0]
    assert span.attributes["network.transport"] == "tcp"
    assert span.attributes["network.protocol.name"] == "http"
    assert span.attributes["mcp.session.id"]
    assert bridge.get("/metrics")[0] == 404


def test_a_crash_is_counted_with_the_restart(stage: Stage, collector: OtlpReceiver):
    """The span of the call has the reason, the session its end."""
    stage.env |= collector.env
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": {"prefix": "", "mode": "sync"}}})
    bridge.wait_for_tools("echo")
    assert bridge.call("crash")["isError"]
    bridge.call("echo", {"text": "up again"})
    bridge.close()
    crashed = collector.named("tools/call crash", "CLIENT")[0]
    assert crashed.attributes["error.type"] == "ServerDied"
    assert collector.total("asyncfc.server.restarts", asyncfc_server_name="toy") >= 1
    assert collector.total("mcp.client.session.duration", error_type="ServerDied") == 1


def test_sessions_of_a_daemon_are_traced_in_one_process(stage: Stage, collector: OtlpReceiver):
    """With the environment of the session that started it."""
    with tempfile.TemporaryDirectory(prefix="run-") as runtime:
        stage.env |= collector.env | {"ASYNCFC_RUNTIME_DIR": runtime}
        config = stage.config({"meta": meta_entry(stage, mode="sync")})
        sessions = [stage.serve("--shared", "--config", str(config)) for _ in range(2)]
        try:
            for session in sessions:
                session.wait_for_tools("meta")
                session.call("meta")
            spans = collector.wait("tools/call meta", "SERVER", 2)
            collector.wait("tools/call meta", "CLIENT", 2)
        finally:
            for session in sessions:
                session.close()
            stage.run("daemon", "stop")
        assert {span.attributes["network.transport"] for span in spans} == {"unix"}
        assert len({resource["service.instance.id"] for resource in collector.resources}) == 1


def test_retries_are_events_of_the_call_and_are_counted(stage: Stage, collector: OtlpReceiver):
    """In their order, with the reason."""
    stage.env |= collector.env
    settings = {"prefix": "", "mode": "sync", "tools": {"crash": {"annotations": {"readOnlyHint": True}, "retries": 1}}}
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": settings}})
    bridge.wait_for_tools("crash")
    assert bridge.call("crash")["isError"]
    bridge.close()
    (crashed,) = collector.named("tools/call crash", "CLIENT")
    assert [event.name for event in crashed.events] == ["asyncfc.attempt", "asyncfc.retry"]
    retry = crashed.events[1].attributes
    assert (retry["error.type"], retry["asyncfc.attempt"]) == ("ServerDied", 2)
    assert retry["asyncfc.retry.pause_s"] >= 0
    assert collector.total("asyncfc.retries", asyncfc_server_name="toy", error_type="ServerDied") == 1


def test_the_context_of_a_call_survives_a_restart(stage: Stage, collector: OtlpReceiver):
    """The process that makes it has its span, under the request that the one before has answered."""
    stage.env |= collector.env
    house = Restarting(stage, tools={"write": {"max_concurrency": 1}}, grace_ms=0)
    bridge = house.start()
    house.hold(bridge, "write")
    params: Json = {"name": "write", "arguments": {"label": "waiting"}, "_meta": CARRIED}
    waiting = bridge.request("tools/call", params)["structuredContent"]["future_id"]
    recorded(bridge)
    eventually(lambda: [each for each in collector.spans if each.trace == TRACE], "the request is traced")
    (server,) = (each for each in collector.spans if each.trace == TRACE)
    kill(bridge)
    bridge = house.start()
    until_ended(bridge, waiting)
    bridge.close()
    (made,) = (each for each in collector.spans if each.trace == TRACE and each.kind == "CLIENT")
    assert (server.kind, server.parent) == ("SERVER", PARENT)
    assert (made.parent, made.linked("submission")) == (server.id, [server.id])
    assert made.process != server.process
    assert made.attributes["asyncfc.future.id"] == waiting


async def call_over_sse(url: str) -> None:
    """One call by the SDK's client."""
    async with sse_client(url) as streams, ClientSession(*streams) as session:
        await session.initialize()
        while "meta" not in [tool.name for tool in (await session.list_tools()).tools]:  # noqa: ASYNC110
            await anyio.sleep(0.02)
        await session.call_tool("meta", {})


def test_requests_over_sse_are_traced(stage: Stage, collector: OtlpReceiver):
    """Like those over Streamable HTTP."""
    stage.env |= collector.env
    bridge = stage.http_bridge({"meta": meta_entry(stage, mode="sync")}, transport="sse")
    anyio.run(call_over_sse, f"{bridge.base}/sse")
    span = collector.wait("tools/call meta", "SERVER")[0]
    assert (span.attributes["network.transport"], span.attributes["network.protocol.name"]) == ("tcp", "http")


def test_the_replica_that_makes_a_call_has_its_span(stage: Stage, postgres: PostgresServer, collector: OtlpReceiver):
    """In the trace of the request that another replica has answered, whose context is recorded with the call."""
    stage.env |= collector.env
    settings: Json = {
        "engine": postgres.url(postgres.fresh_schema()),
        "secret": "a secret of all replicas in this test",
        "grace_ms": 0,
    }
    entry = meta_entry(stage, owner="b")
    one, two = (stage.http_bridge({"meta": entry}, replica=name, **settings) for name in ("a", "b"))
    two.client().wait_for_tools("meta")
    client = one.client()
    client.wait_for_tools("meta")
    params: Json = {"name": "meta", "arguments": {}, "_meta": CARRIED}
    answer = client.request("tools/call", params)
    arrived = json.loads(text_of(client.outcome(answer["structuredContent"]["future_id"])))
    server = collector.wait("tools/call meta", "SERVER")[0]
    execution = collector.wait("tools/call meta", "CLIENT")[0]
    assert execution.process != server.process
    assert (execution.trace, execution.parent) == (TRACE, server.id)
    assert server.parent == PARENT
    assert arrived["traceparent"] == f"00-{TRACE}-{execution.id}-01"
    assert arrived["baggage"] == "user=alice"
    assert len(collector.named("tools/call meta", "CLIENT")) == 1
