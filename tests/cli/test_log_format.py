"""The log as JSON: one object a line, with what is known of each message, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from asyncfc_mcp.cli.log_format import JsonLines, Redacted, formatter, notice
from tests.support.stage import Stage


def logged(message: str, *values: object, **options: Any) -> dict[str, Any]:
    """The line of one message."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    lines = JsonLines()
    lines.secrets = ("own-secret-value",)
    handler.setFormatter(lines)
    logger = logging.getLogger("tests.log_format")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning(message, *values, **options)
    finally:
        logger.removeHandler(handler)
    (line,) = sink.getvalue().splitlines()
    return json.loads(line)


def test_a_line_has_time_level_logger_and_message():
    """And nothing that is not known."""
    line = logged("hello\n%s", "wörld\x1b[31m")
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "tests.log_format", "message": "hello wörld"}


def test_server_and_call_are_fields_of_their_own():
    """Where the message names them."""
    line = logged("%d times: server %r failed at %s", 3, "we'b", "f12")
    assert line["server"] == "we'b"
    assert line["call"] == "f12"


def test_secrets_are_removed():
    """Of the bridge, and those in URLs, also in tracebacks."""
    try:
        raise ValueError("own-secret-value")
    except ValueError:
        line = logged("own-secret-value at https://user:hunter2@host.example/", exc_info=True)
    text = json.dumps(line)
    assert "own-secret-value" not in text
    assert "hunter2" not in text
    assert line["error"][-1].startswith("ValueError")


def test_a_line_within_a_traced_request_has_its_ids():
    """Those of the present span."""
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, False, TraceFlags(1)))
    with trace.use_span(span):
        line = logged("x")
    assert (line["trace_id"], line["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


@pytest.mark.parametrize(("environ", "kind"), [({}, Redacted), ({"ASYNCFC_LOG_FORMAT": "json"}, JsonLines)])
def test_the_environment_selects_the_format(environ: dict[str, str], kind: type):
    """Text unless it says otherwise."""
    assert type(formatter(environ, "%(message)s")) is kind


def test_a_notice_has_the_form_of_the_log():
    """Such as the address: a reader of JSON lines gets nothing else."""
    assert notice({}, "listening on http://127.0.0.1:1/mcp") == "asyncfc-mcp: listening on http://127.0.0.1:1/mcp"
    line = json.loads(notice({"ASYNCFC_LOG_FORMAT": "json"}, "listening on x"))
    assert (line["level"], line["message"]) == ("info", "listening on x")


@pytest.mark.parametrize("way", ["option", "variable"])
def test_every_line_of_a_bridge_is_json(stage: Stage, way: str):
    """With the option, or the variable where a host starts it."""
    if way == "variable":
        stage.env["ASYNCFC_LOG_FORMAT"] = "json"
    config = stage.config({"toy": stage.toy(), "gone": stage.entry("/nonexistent/program")})
    options = ["--log-format", "json"] if way == "option" else []
    bridge = stage.serve("--config", str(config), *options)
    bridge.wait_for_tools("toy__echo")
    bridge.close()
    lines = [json.loads(line) for line in bridge.stderr_path.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert [line["server"] for line in lines if "gone" in line["message"]] == ["gone"]
