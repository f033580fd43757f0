"""A server whose answers are odd, behind the real program: each costs its own call at most, ordered or not."""

from __future__ import annotations

import sys

import pytest

from tests.support.client import text_of
from tests.support.stage import Stage

SERVER = r"""
import json, sys
OK = b'{"content":[{"type":"text","text":"ok"}]}'
HEAD = b'{"jsonrpc":"2.0","id":%d,'
CASES = {
    "plain": HEAD + b'"result":' + OK + b"}",
    "bom": b"\xef\xbb\xbf" + HEAD + b'"result":' + OK + b"}",
    "float": b'{"jsonrpc":"2.0","id":%d.0,"result":' + OK + b"}",
    "crlf": HEAD + b'"result":' + OK + b"}\r",
    "batch": b"[" + HEAD + b'"result":' + OK + b"}]",
    "pretty": b'{\n  "jsonrpc": "2.0",\n  "id": %d,\n  "result": ' + OK + b"\n}",
    "latin": HEAD + b'"result":{"content":[{"type":"text","text":"ok \xe9"}]}}',
    "deep": HEAD + b'"result":{"content":[{"type":"text","text":"ok"}],"_meta":{"x":'
    + b"[" * 250 + b"]" * 250 + b"}}}",
    "half": HEAD + b'"result":{"content":[{"type":"text","text":"ok \\ud83d"}]}}',
    "text": HEAD + b'"result":{"content":"ok"}}',
    "both": HEAD + b'"result":{},"error":{"code":-5.0,"message":"both"}}',
    "limit": HEAD + b'"error":{"code":-32000,"message":"rate limit reached"}}',
    "word": HEAD + b'"error":"went wrong"}',
    "comma": HEAD + b'"result":{"a":1,}}',
    "cut": HEAD + b'"result":{"content":[{"type":"text","text":"cut',
    "bottomless": HEAD + b'"result":{"x":' + b"[" * 3000 + b"]" * 3000 + b"}}",
}
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    number, method = message["id"], message["method"]
    if method == "tools/call":
        out = CASES[message["params"]["arguments"]["case"]] % number
    elif method == "initialize":
        info = {"name": "odd", "version": "1"}
        result = {"protocolVersion": "2025-03-26", "capabilities": {"tools": {}}, "serverInfo": info}
        out = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
    elif method == "tools/list":
        result = {"tools": [{"name": "answer", "inputSchema": {"type": "object"}}]}
        out = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
    else:
        out = b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":"no"}}' % number
    sys.stdout.buffer.write(out + b"\n")
    sys.stdout.buffer.flush()
"""
FAIL = {
    "both": "both",
    "limit": "rate limit reached (JSON-RPC error -32000)",
    "word": "went wrong",
    "comma": "Invalid answer",
    "cut": "Invalid answer",
    "bottomless": "nested too deeply",
}
PASS = ("plain", "bom", "float", "crlf", "batch", "pretty", "latin", "deep", "half")


@pytest.mark.parametrize("ordering", ["none", "strict"])
def test_an_odd_answer_costs_its_own_call_at_most(stage: Stage, ordering: str) -> None:
    """All at once, good ones between the bad: each has its own end, and none is waited for without end."""
    entry = {"command": sys.executable, "args": ["-c", SERVER], "asyncfc": {"prefix": "", "ordering": ordering}}
    bridge = stage.bridge({"odd": entry})
    bridge.wait_for_tools("answer")
    cases = [case for bad, good in zip([*FAIL, "text"] * 2, PASS * 2, strict=False) for case in (bad, good)]
    futures = [(case, bridge.submit("answer", {"case": case}).id) for case in cases]
    for case, future in futures:
        outcome = bridge.outcome(future)
        if case == "text":
            assert outcome == {"content": "ok"}, "passed on as it came"
        elif case in FAIL:
            assert FAIL[case] in text_of(outcome)
            assert "may or may not" not in text_of(outcome)
        else:
            assert text_of(outcome).startswith("ok")
    ids = [future for case, future in futures if case == "text"]
    assert bridge.gather(ids)["structuredContent"]["results"]
    assert text_of(bridge.outcome(bridge.submit("answer", {"case": "plain", "x": "a\ud83dz"}).id)) == "ok"
    assert bridge.call("answer", {"case": "plain", "x": f"${ids[0]}", "_wait": "all"}).get("isError") is not True
