"""The end of a bridge over HTTP: what a load balancer sees of it, and what becomes of requests and calls."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, RpcError, eventually, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage, free_port

GATED = """
import json, os, sys, threading, time
folder = sys.argv[2]
TOOLS = [{"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False}}
         for name in ("note", "ask")]
lock = threading.Lock()
answered = threading.Event()
def write(name, text):
    with lock, open(os.path.join(folder, name), "a") as out:
        out.write(text + "\\n")
def send(message):
    with lock:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def call(request_id, tool, arguments):
    write("began", arguments["gate"])
    if tool == "ask":
        question = {"message": "Go on?", "requestedSchema": {"type": "object", "properties": {}}}
        send({"id": "q", "method": "elicitation/create", "params": question})
        answered.wait()
    while not os.path.exists(os.path.join(folder, arguments["gate"])):
        time.sleep(0.01)
    write("done", arguments["gate"])
    send({"id": request_id, "result": {"content": [{"type": "text", "text": "through " + arguments["gate"]}]}})
while not os.path.exists(os.path.join(folder, "start")):
    time.sleep(0.01)
for line in sys.stdin:
    message = json.loads(line)
    method, params, result = message.get("method"), message.get("params") or {}, None
    if method == "notifications/cancelled":
        write("cancelled", str(params["requestId"]))
    if method is None and message.get("id") == "q":
        answered.set()
    if "id" not in message or method is None:
        continue
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "gated", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call":
        threading.Thread(target=call, args=(message["id"], params["name"], params["arguments"]), daemon=True).start()
        continue
    answer = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no"}}
    send({"id": message["id"], **answer})
"""
"""A server whose calls end when a file with the name of their gate exists. It starts once `start` exists."""


class Stopping:
    """A bridge over such a server."""

    def __init__(
        self,
        stage: Stage,
        *args: str,
        mode: str = "future",
        ordering: str = "none",
        **settings: Any,
    ) -> None:
        self.stage = stage
        entry = stage.entry(sys.executable, "-c", GATED, stage.mark, str(stage.folder))
        entry["asyncfc"] = {"prefix": "", "mode": mode, "ordering": ordering, "grace_ms": 0}
        self.open("start")
        self.config = stage.config({"gated": entry}, **settings)
        self.bridge: HttpBridge = stage.http_bridge({}, *args, config=self.config)
        eventually(lambda: self.bridge.get("/readyz")[0] == 200, "/readyz answers 200")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.bridge.process

    def open(self, gate: str) -> None:
        (self.stage.folder / gate).touch()

    def lines(self, name: str) -> list[str]:
        path: Path = self.stage.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def terminate(self) -> None:
        """Send SIGTERM, and see that no request is taken from now on."""
        self.process.send_signal(signal.SIGTERM)
        status, body = eventually(lambda: self._stopping(), "/readyz says so")
        assert (status, json.loads(body)) == (503, {"status": "not ready", "problem": "stopping"})
        assert self.bridge.get("/healthz")[0] == 200

    def _stopping(self) -> tuple[int, str] | None:
        status, body = self.bridge.get("/readyz")
        return (status, body) if status == 503 else None

    def ends(self) -> None:
        assert self.process.wait(PATIENCE) == 0
        assert "Traceback" not in self.bridge.stderr()


def in_background(action: Callable[[], Any]) -> Callable[[], Any]:
    """Start an action; return what returns its result."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(action)
    pool.shutdown(wait=False)
    return lambda: future.result(PATIENCE)


eras = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])


def test_a_bridge_is_ready_once_its_servers_are_up(stage: Stage) -> None:
    """Without a token, as a load balancer asks; until then the reason is in the response."""
    entry = stage.entry(sys.executable, "-c", GATED, stage.mark, str(stage.folder))
    bridge = stage.http_bridge({"gated": entry}, "--auth-token-env", "TOKEN", env={"TOKEN": "secret-of-the-test"})
    status, body = bridge.get("/readyz")
    assert status == 503
    assert json.loads(body)["problem"] == "starting: not every server has started or failed yet"
    assert bridge.get("/mcp")[0] == 401
    (stage.folder / "start").touch()
    eventually(lambda: bridge.get("/readyz") == (200, '{"status":"ready"}'), "the bridge is ready")


@eras
def test_requests_are_finished_and_no_new_ones_are_taken(stage: Stage, era: str) -> None:
    """The client of a sync call gets its result; another request gets 503, for which load balancers try elsewhere."""
    it = Stopping(stage, mode="sync", drain_s=60)
    client = it.bridge.client(era=era)
    result = in_background(lambda: client.call("note", {"gate": "a"}))
    eventually(lambda: it.lines("began"), "the call runs")
    it.terminate()
    message = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "note", "arguments": {}}}
    refused = client.exchange("POST", message, client._session_headers("tools/call", message["params"]))  # type: ignore[attr-defined]
    assert refused[0] == 503
    assert refused[1]["retry-after"] == "1"
    assert refused[1]["connection"] == "close"
    assert "The bridge is stopping" in json.loads(refused[2])["error"]["message"]
    with pytest.raises(AssertionError, match="HTTP 503"):
        it.bridge.client(era=era)
    it.open("a")
    assert text_of(result()) == "through a"
    it.ends()


@eras
def test_running_calls_are_finished_before_the_end(stage: Stage, era: str) -> None:
    """Those with a handle as well, though no request waits for them."""
    it = Stopping(stage, drain_s=60, journal="off")
    client = it.bridge.client(era=era)
    client.submit("note", {"gate": "a"})
    eventually(lambda: it.lines("began"), "the call runs")
    it.terminate()
    it.open("a")
    it.ends()
    assert it.lines("done") == ["a"]


@eras
def test_calls_that_wait_are_left_to_the_next_run(stage: Stage, era: str) -> None:
    """They are in the journal; the end of the call that they wait for does not start them."""
    it = Stopping(stage, ordering="strict", drain_s=60)
    client = it.bridge.client(era=era)
    client.submit("note", {"gate": "a"})
    eventually(lambda: it.lines("began"), "the call runs")
    second = client.submit("note", {"gate": "b"})
    assert second.status == "waiting"
    it.terminate()
    it.open("a")
    it.ends()
    assert it.lines("began") == ["a"]
    it.open("b")
    again = stage.http_bridge({}, config=it.config).client(era=era)
    assert text_of(again.outcome(second.id)) == "through b"
    assert it.lines("began") == ["a", "b"]


def test_what_waits_is_finished_where_no_other_run_can(stage: Stage) -> None:
    """Without a journal, as far as `drain_s` allows."""
    it = Stopping(stage, ordering="strict", drain_s=60, journal="off")
    client = it.bridge.client()
    client.submit("note", {"gate": "a"})
    client.submit("note", {"gate": "b"})
    eventually(lambda: it.lines("began"), "the first call runs")
    it.open("a")
    it.open("b")
    it.terminate()
    it.ends()
    assert it.lines("done") == ["a", "b"]


@eras
def test_waits_are_answered_with_the_state_of_their_calls(stage: Stage, era: str) -> None:
    """Shortly before `drain_s` ends; the call is cancelled then, and its server is told."""
    it = Stopping(stage, drain_s=2, journal="off")
    client = it.bridge.client(era=era)
    answer = in_background(lambda: client.call("note", {"gate": "never", "_wait": "this"}))
    eventually(lambda: it.lines("began"), "the call runs")
    it.terminate()
    assert answer()["structuredContent"]["status"] == "running"
    it.ends()
    assert len(it.lines("cancelled")) == 1
    assert not it.lines("done")


@eras
def test_a_second_signal_ends_at_once(stage: Stage, era: str) -> None:
    """As does one that is not SIGTERM."""
    it = Stopping(stage, mode="sync", drain_s=3600)
    client = it.bridge.client(era=era)
    call = in_background(lambda: client.call("note", {"gate": "never"}))
    eventually(lambda: it.lines("began"), "the call runs")
    it.terminate()
    it.process.send_signal(signal.SIGTERM)
    with pytest.raises((RpcError, AssertionError, http.client.HTTPException, OSError)):
        call()
    it.ends()


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM, signal.SIGHUP]])
def test_another_signal_ends_at_once(stage: Stage, numbers: list[signal.Signals]) -> None:
    """Ctrl-C, or a terminal that is closed while the bridge is ending."""
    it = Stopping(stage, drain_s=3600)
    it.bridge.client().submit("note", {"gate": "never"})
    eventually(lambda: it.lines("began"), "the call runs")
    for number in numbers:
        it.process.send_signal(number)
        time.sleep(0.2)  # one after the other: the kernel delivers pending signals in the order of their numbers
    it.ends()


def test_a_drain_of_no_time_ends_at_once(stage: Stage) -> None:
    it = Stopping(stage, drain_s=0)
    it.bridge.client().submit("note", {"gate": "never"})
    eventually(lambda: it.lines("began"), "the call runs")
    it.process.send_signal(signal.SIGTERM)
    it.ends()


def test_open_streams_do_not_hold_up_the_end(stage: Stage) -> None:
    """A session's own stream, one of 2026-07-28, and one of HTTP+SSE last as long as their connections."""
    it = Stopping(stage, "--sse", drain_s=3600)
    session, modern = it.bridge.client(), it.bridge.client(era=MODERN)
    listen = {"notifications": {"toolsListChanged": True}}
    headers = {"Mcp-Session-Id": str(session.session), "Mcp-Protocol-Version": HANDSHAKE}
    sse = HttpWire(f"{it.bridge.base}/sse")
    ends = [
        in_background(lambda: session.exchange("GET", None, headers)),
        in_background(lambda: modern.request("subscriptions/listen", listen)),
        in_background(lambda: sse.exchange("GET")),
    ]
    process = psutil.Process(it.process.pid)
    eventually(lambda: len([c for c in process.net_connections("tcp") if c.raddr]) >= 3, "three streams are open")
    it.process.send_signal(signal.SIGTERM)
    it.ends()
    for end in ends:
        try:
            end()
        except (RpcError, AssertionError, http.client.HTTPException, OSError):
            pass  # each has ended, one way or another


def test_a_question_can_be_answered_while_the_bridge_stops(stage: Stage) -> None:
    """The response is no new request, and the call needs it."""
    it = Stopping(stage, mode="sync", drain_s=60)
    it.open("a")
    client = it.bridge.client(capabilities={"elicitation": {}})
    params = {"name": "ask", "arguments": {"gate": "a"}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    sent = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        **client._session_headers("tools/call", params),  # type: ignore[attr-defined]
    }
    connection = http.client.HTTPConnection("127.0.0.1", it.bridge.port, timeout=PATIENCE)
    connection.request("POST", "/mcp", json.dumps(message).encode(), sent)
    response = connection.getresponse()

    def received(line: bytes) -> Json | None:
        return json.loads(line[5:]) if line.startswith(b"data:") and line[5:].strip() else None

    messages = filter(None, map(received, iter(response.readline, b"")))
    question = next(each for each in messages if each.get("method") == "elicitation/create")
    it.terminate()
    answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {}}}
    assert client.exchange("POST", answer, client._session_headers("", {}))[0] == 202  # type: ignore[attr-defined]
    result = next(each for each in messages if each.get("id") == 7)
    assert text_of(result["result"]) == "through a"
    connection.close()
    it.ends()


def test_sigterm_before_anything_is_served_ends_the_bridge(stage: Stage) -> None:
    """There is nothing to finish yet."""
    entry = stage.entry(sys.executable, "-c", GATED, stage.mark, str(stage.folder))
    config = stage.config({"gated": entry}, drain_s=3600)
    log = stage.folder / "early.stderr"
    command = stage.command("serve", "--config", str(config), "--transport", "http", "--port", str(free_port()))
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=sink, env=stage.env, cwd=stage.folder)
    stage.processes.append(process)
    eventually(lambda: stage.downstreams(), "the server is being started")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
