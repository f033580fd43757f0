"""Telemetry of a real bridge whose client means harm."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.client import Json, RpcError, eventually
from tests.support.otlp_receiver import otlp_receiver
from tests.support.stage import Stage

TRACE = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


@pytest.mark.parametrize("hostile", ["\ud800", "\0\n\u202e", "x" * 100_000], ids=["surrogate", "control", "long"])
def test_no_text_of_a_client_keeps_other_spans_from_the_collector(stage: Stage, hostile: str):
    """Nor fails a call, nor is sent as it is; the exporter says nothing of a failure, and `/metrics` is whole."""
    with otlp_receiver() as collector:
        stage.env |= collector.env | {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
        # All spans are sent together.
        stage.env |= {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
        entry = {**stage.toy(), "asyncfc": {"prefix": "", "mode": "sync"}}
        bridge = stage.http_bridge({"toy": entry}, metrics=True)
        client = bridge.client()
        client.wait_for_tools("echo")
        requests: list[tuple[str, Json]] = [
            ("tools/call", {"name": hostile, "arguments": {}}),
            ("resources/read", {"uri": f"file:///{hostile}"}),
            ("prompts/get", {"name": hostile}),
            (f"made/up{hostile}", {}),
        ]
        for method, params in requests:
            with contextlib.suppress(RpcError):
                client.request(method, params)
        for field in ("traceparent", "tracestate", "baggage"):
            meta = {**TRACE, field: f"a={hostile}"}
            result = client.request("tools/call", {"name": "echo", "arguments": {"text": "x"}, "_meta": meta})
            assert not result.get("isError"), field
        client.call("sleep", {"seconds": 0, "tag": hostile})
        assert bridge.get("/metrics")[0] == 200
        bridge.process.terminate()
        eventually(lambda: collector.named("tools/call echo", "CLIENT"), "the spans are sent at the end")
        assert len(collector.named("tools/call echo", "CLIENT")) == 3
        assert all(len(span.name) < 300 for span in collector.spans)
        assert "cannot be sent" not in bridge.stderr()
        assert "Traceback" not in bridge.stderr()
