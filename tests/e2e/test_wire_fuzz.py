"""Bad input at the wire, over stdio and HTTP in both eras: the answer that the specification asks for, and no harm.

Hypothesis writes lines and bodies; an oracle that knows nothing of the bridge says what is due for each. Before the
first a future is submitted, after the last it is awaited: whatever came in between, its result is right.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import itertools
import json
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, RpcError, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

BUDGET_S = 2.5
"""How long one property may try; examples that come later pass unseen."""
EXAMPLES = 600
SLEEP_S = 0.5
"""How long the future of somebody else runs."""
BODY_LIMIT = 64 << 20
"""Largest body that the bridge takes."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
ENVELOPE: Json = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


# --- what is written -----------------------------------------------------------------------------------------------

NEW_ID = "<an ID that nobody has used>"


def request(method: str, **params: Any) -> Json:
    """A good request, from which bad ones are made."""
    return {"jsonrpc": "2.0", "id": NEW_ID, "method": method, "params": params}


HELLO: Json = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
REQUESTS = (
    request("ping"),
    request("initialize", **HELLO),
    request("tools/list"),
    request("tools/call", name="echo", arguments={"text": "hello", "_as": "name", "_wait": "this"}),
    request("tools/call", name="await_future", arguments={"future_id": "f999", "timeout_s": 0}),
    request("tools/call", name="gather", arguments={"future_ids": ["f998", "f999"], "return_when": "any"}),
    request("tools/call", name="list_futures", arguments={"status": "running"}),
    request("prompts/list", cursor="3"),
    request("prompts/get", name="greet", arguments={"name": "Ada"}),
    request("resources/list"),
    request("resources/templates/list"),
    request("resources/read", uri="toy://greeting"),
    request(
        "completion/complete", ref={"type": "ref/prompt", "name": "greet"}, argument={"name": "name", "value": "a"}
    ),
    request("logging/setLevel", level="info"),
    request("resources/subscribe", uri="toy://greeting"),
    request("resources/unsubscribe", uri="toy://greeting"),
    request("tasks/get", taskId="f999"),
    request("no/such/method", anything=[1, None]),
)
OTHERS: tuple[Json, ...] = (
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "none"}},
    {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 0.5}},
    {"jsonrpc": "2.0", "method": "notifications/no/such", "params": {"x": [1]}},
    {"jsonrpc": "2.0", "id": 77, "result": {"answer": "to nothing"}},
    {"jsonrpc": "2.0", "id": "none", "error": {"code": -1, "message": "to nothing"}},
)

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # with lone surrogates, which JSON can escape
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutants(draw: st.DrawFn, templates: tuple[Json, ...]) -> Json:
    """A good message with one or two members replaced, taken away or added, at any depth."""
    message = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.integers(0, 2))):
        node: Any = message
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            match draw(st.sampled_from(["replace", "delete", "add"])):
                case "replace":
                    node[key] = draw(VALUES)
                case "delete":
                    del node[key]
                case _ if isinstance(node, dict):
                    node[draw(TEXT)] = draw(VALUES)
                case _:
                    node.append(draw(VALUES))
            break
    return message


NUMBERS = itertools.count(1)


def written(value: Any) -> bytes:
    """The line for a drawn value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and value.get("id") == NEW_ID:
        value = {**value, "id": f"fuzz-{next(NUMBERS)}"}
    return json.dumps(value).encode()


def inputs(templates: tuple[Json, ...]) -> st.SearchStrategy[Any]:
    """Mostly messages that are nearly good, since those get furthest; also any JSON, batches, and any bytes."""
    garbage = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))
    message = mutants(templates)
    torn = st.tuples(message.map(written), st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(message, message, message, VALUES, st.lists(message, max_size=3), garbage, torn)


def enveloped(message: Json) -> Json:
    """The same message as 2026-07-28 has it."""
    if "id" not in message or "method" not in message:
        return message
    params = message.get("params", {})
    return {**message, "params": {**params, "_meta": {**ENVELOPE, **params.get("_meta", {})}}}


# --- what is due ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Due:
    """The answer that a line must get."""

    id: object
    codes: frozenset[int] | None = None
    """The errors that it may be; None: a result, or any error that does not say that it is the bridge's own fault."""

    def settles(self, answer: Json) -> bool:
        if "result" in answer:
            return self.codes is None and isinstance(answer["result"], dict)
        error = answer["error"]
        if type(error["code"]) is not int or not isinstance(error["message"], str) or not error["message"]:
            return False
        return error["code"] != INTERNAL_ERROR if self.codes is None else error["code"] in self.codes


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def due(line: bytes) -> Due | None:
    """What JSON-RPC 2.0 and MCP ask for; None: nothing, since a notification or an answer has no answer."""
    if not line.strip():
        return None
    try:
        message = json.loads(line.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return Due(None, frozenset({PARSE_ERROR}))
    if not isinstance(message, dict):
        return Due(None, frozenset({INVALID_REQUEST}))
    named = message.get("id") if type(message.get("id")) in (int, str) else None
    invalid = Due(named, frozenset({INVALID_REQUEST}))
    if "method" not in message and ("result" in message or "error" in message):
        return None
    if message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return invalid
    if not isinstance(message.get("params", {}), dict | None) or ("id" in message and named is None):
        return invalid
    return Due(named) if "id" in message else None


# --- stdio ---------------------------------------------------------------------------------------------------------


class Probe:
    """A stdio client that writes anything and keeps everything that comes back."""

    def __init__(self, stage: Stage, command: list[str], era: str) -> None:
        self.era = era
        with (stage.folder / f"probe-{era}.stderr").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=stage.env, cwd=stage.folder
            )
        stage.processes.append(self.process)
        self.answers: queue.Queue[Json] = queue.Queue()
        self.asked = itertools.count(1)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)
            if "method" not in message:
                self.answers.put(message)

    def close(self) -> None:
        """Hang up; a bridge that has seen all that still ends well."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stdout.close()
        assert code == 0

    def write(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def until(self, wanted: Callable[[Json], bool]) -> list[Json]:
        """Everything that came, up to the answer that was wanted."""
        seen: list[Json] = []
        deadline = time.monotonic() + PATIENCE
        while not seen or not wanted(seen[-1]):
            try:
                seen.append(self.answers.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"no answer; there came only {seen}") from None
        return seen

    def in_its_era(self, message: Json) -> Json:
        return enveloped(message) if self.era == MODERN else message

    def request(self, method: str, **params: Any) -> Json:
        """The result of a good request; nothing else may come meanwhile."""
        message = request(method, **params)
        message["id"] = f"own-{next(self.asked)}"
        self.write(json.dumps(self.in_its_era(message)).encode())
        *strays, answer = self.until(lambda each: each.get("id") == message["id"])
        assert not strays, f"nobody had asked for {strays}"
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def call(self, tool: str, **arguments: Any) -> Json:
        return self.request("tools/call", name=tool, arguments=arguments)

    def ask_after(self) -> None:
        """A good request that shows that the connection lives. It has no tool in it, so it is answered at once."""
        self.request("ping" if self.era == HANDSHAKE else "server/discover")

    def open(self) -> Probe:
        if self.era == HANDSHAKE:
            self.request("initialize", **HELLO)
            self.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        self.ask_after()
        return self

    def answer_to(self, line: bytes, wanted: Due) -> Json:
        """The answer to a line; nothing else may come meanwhile."""
        self.write(line)
        *strays, answer = self.until(lambda each: each.get("id") == wanted.id and type(each["id"]) is type(wanted.id))
        assert not strays, f"{line[:200]!r}: nobody had asked for {strays}"
        return answer


@pytest.fixture(scope="module", params=[HANDSHAKE, MODERN])
def probe(request: pytest.FixtureRequest, shared_stage: Stage) -> Iterator[Probe]:
    """A bridge over stdio, opened in one of the eras."""
    config = shared_stage.config({"toy": {**shared_stage.toy("modern"), "asyncfc": {"prefix": ""}}}, grace_ms=0)
    probe = Probe(shared_stage, shared_stage.command("serve", "--config", str(config)), request.param)
    try:
        probe.open()
        while "echo" not in [tool["name"] for tool in probe.request("tools/list")["tools"]]:
            time.sleep(0.05)
        yield probe
    finally:
        probe.close()


@contextlib.contextmanager
def somebody_elses_future(call: Callable[..., Json]) -> Iterator[None]:
    """A future that runs while the block does, and has the right result afterwards."""
    tag = f"tag-{next(NUMBERS)}"
    future = call("sleep", seconds=SLEEP_S, tag=tag)["structuredContent"]["future_id"]
    yield
    assert text_of(call("await_future", future_id=future)) == f"slept {SLEEP_S} {tag}"


def budgeted(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """`check`, until the budget is used up."""
    end = time.monotonic() + BUDGET_S

    def bounded(value: Any) -> None:
        if time.monotonic() < end:
            check(value)

    return bounded


# Shrinking would take as long again, and what fails is small already.
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_any_line_gets_what_is_due_and_harms_nobody(probe: Probe) -> None:
    """stdio: one answer to what asks for one, with its ID and the right code; none to all else; no line is fatal."""
    templates = (*REQUESTS, *OTHERS)
    if probe.era == MODERN:
        templates = (*map(enveloped, REQUESTS), request("ping"), request("tools/list", _meta={}), *OTHERS)

    def check(value: Any) -> None:
        line = written(value)
        wanted = due(line)
        if wanted is None:
            probe.write(line)
        else:
            answer = probe.answer_to(line, wanted)
            assert wanted.settles(answer), f"{line!r} was answered with {answer}"
        probe.ask_after()

    bounded = budgeted(check)

    @fuzz
    @given(inputs(templates))
    def attempt(value: Any) -> None:
        bounded(value)

    with somebody_elses_future(probe.call):
        attempt()


def test_nesting_of_any_depth_is_survived(probe: Probe) -> None:
    """stdio: what is too deep to be read, or has too many values, is refused; the connection goes on."""
    shapes = [(depth, pair) for depth in (100, 1_000, 20_000, 1_000_000) for pair in ((b"[", b"]"), (b'{"a":', b"}"))]
    with somebody_elses_future(probe.call):
        for depth, (opening, closing) in shapes:
            number = f"deep-{next(NUMBERS)}"
            good = request("tools/call", name="echo", arguments={"text": "x", "deep": "HERE"})
            good["id"] = number
            deep = opening * depth + b"0" + closing * depth
            probe.write(json.dumps(probe.in_its_era(good)).encode().replace(b'"HERE"', deep))
            (answer,) = probe.until(lambda each, number=number: each.get("id") in (None, number))
            refused = (PARSE_ERROR, INVALID_PARAMS) if depth < 1_000_000 else (PARSE_ERROR, INVALID_REQUEST)
            assert "result" in answer or answer["error"]["code"] in refused
            probe.ask_after()


def test_two_requests_with_one_id_are_both_answered(probe: Probe) -> None:
    """stdio: a client that uses an ID twice confuses nobody but itself."""
    with somebody_elses_future(probe.call):
        future = probe.call("sleep", seconds=0.3)["structuredContent"]["future_id"]
        wait = request("tools/call", name="await_future", arguments={"future_id": future})
        wait["id"] = "twice"
        line = json.dumps(probe.in_its_era(wait)).encode()
        for _ in range(2):
            probe.write(line)
        for _ in range(2):
            (answer,) = probe.until(lambda each: each.get("id") == "twice")
            assert text_of(answer["result"]) == "slept 0.3"
        probe.ask_after()


# --- HTTP ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage) -> HttpBridge:
    """A bridge over HTTP."""
    bridge = shared_stage.http_bridge(
        {"toy": {**shared_stage.toy("modern"), "asyncfc": {"prefix": ""}}}, "--sse", grace_ms=0
    )
    with contextlib.closing(bridge.client()) as client:
        client.wait_for_tools("echo")
    return bridge


def post(bridge: HttpBridge, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], list[Json]]:
    """POST any bytes; status, headers, and the JSON-RPC messages of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        common = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        connection.request("POST", "/mcp", body, {**common, **headers})
        response = connection.getresponse()
        sent = {name.lower(): value for name, value in response.getheaders()}
        data = response.read()
    if sent.get("content-type", "").startswith("text/event-stream"):
        return response.status, sent, HttpWire._messages(sent, data)
    return response.status, sent, [json.loads(data)] if data and data.startswith(b"{") else []


@contextlib.contextmanager
def somebody_else(bridge: HttpBridge) -> Iterator[None]:
    """Another client, with a future that must come through."""
    with (
        contextlib.closing(bridge.client()) as client,
        somebody_elses_future(lambda tool, **arguments: client.call(tool, arguments)),
    ):
        yield


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_any_body_gets_what_is_due_and_harms_nobody(bridge: HttpBridge, era: str) -> None:
    """HTTP: 200 with the answer, 202 for what has none, 4xx with a JSON-RPC error for what is wrong; never 5xx."""
    templates = (*(REQUESTS if era == HANDSHAKE else map(enveloped, REQUESTS)), *OTHERS)
    attacker = bridge.client(era=era)
    session = {"Mcp-Session-Id": attacker.session} if attacker.session else {}

    def check(value: Any) -> None:
        body = written(value)
        wanted = due(body)
        headers = {**session, "Mcp-Protocol-Version": era}
        if era == MODERN and isinstance(value, dict):
            # Headers that fit, as far as anything can, so that the body gets further than to the comparison.
            params = value.get("params")
            name = (params.get("uri") or params.get("name")) if isinstance(params, dict) else None
            pairs = (("Mcp-Method", value.get("method")), ("Mcp-Name", name))
            headers |= {
                key: text for key, text in pairs if isinstance(text, str) and text.isascii() and text.isprintable()
            }
        status, _, messages = post(bridge, body, headers)
        answers = [each for each in messages if "method" not in each]
        assert status < 500, f"{body!r} got {status} {messages}"
        if status == 202:
            assert wanted is None, f"{body!r} was accepted"
            assert not answers
        elif status == 200:
            assert wanted is not None, f"{body!r} got {messages}"
            (answer,) = answers
            assert answer["id"] == wanted.id
            assert wanted.settles(answer), f"{body!r} was answered with {answer}"
        else:
            (answer,) = answers
            assert 400 <= status < 500
            assert answer["error"]["code"] != INTERNAL_ERROR, f"{body!r} was answered with {answer}"

    bounded = budgeted(check)

    @fuzz
    @given(inputs(templates))
    def attempt(value: Any) -> None:
        bounded(value)

    with (
        contextlib.closing(bridge.client()) as somebody,
        somebody_elses_future(lambda tool, **kw: somebody.call(tool, kw)),
    ):
        attempt()
        attacker.request("tools/list")
    attacker.close()


def exchange(bridge: HttpBridge, method: str, path: str, headers: Json, body: bytes | Iterator[bytes] = b"") -> int:
    """The status of any HTTP exchange."""
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        common = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        # A server that says no early hangs up on the rest of the body, and its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, {**common, **headers}, encode_chunked=True)
        return connection.getresponse().status


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_with_413(bridge: HttpBridge, era: str, chunked: bool) -> None:
    """Whether its length is announced or not; at once if it is."""
    headers = {"Mcp-Protocol-Version": era, "Mcp-Method": "ping"}
    with somebody_else(bridge):
        if chunked:
            piece = b" " * (1 << 20)
            pieces = itertools.repeat(piece, BODY_LIMIT // len(piece) + 1)
            assert exchange(bridge, "POST", "/mcp", {**headers, "Transfer-Encoding": "chunked"}, pieces) == 413
        else:
            assert exchange(bridge, "POST", "/mcp", {**headers, "Content-Length": str(BODY_LIMIT + 1)}) == 413


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", {}, {405}),
        ("GET", {}, {400, 405, 406}),
        ("GET", {"Mcp-Session-Id": "no such session"}, {404}),
        ("DELETE", {"Mcp-Session-Id": "no such session"}, {404}),
        ("POST", {"Mcp-Session-Id": "no such session"}, {404}),
        ("POST", {"Mcp-Session-Id": "no such session", "Mcp-Protocol-Version": HANDSHAKE}, {404}),
        ("POST", {}, {400}),
        ("POST", {"Accept": "text/html"}, {406}),
        ("POST", {"Content-Type": "text/plain"}, {400, 415}),
        ("POST", {"Mcp-Protocol-Version": "1999-12-31"}, {400}),
        ("POST", {"Mcp-Protocol-Version": MODERN}, {400}),
        ("POST", {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "ping"}, {400}),
        ("POST", {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}, {400}),
    ],
)
def test_an_exchange_that_is_none_gets_the_status_of_its_fault(
    bridge: HttpBridge, method: str, headers: Json, status: set[int]
) -> None:
    """Wrong methods, sessions, types and versions; the body is a good request without the envelope of its era."""
    body = json.dumps({**request("tools/list"), "id": 1}).encode() if method == "POST" else b""
    assert exchange(bridge, method, "/mcp", headers, body) in status


def test_a_body_that_stops_half_way_is_survived(bridge: HttpBridge) -> None:
    """A client that announces more than it sends, and goes."""
    with somebody_else(bridge):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", bridge.port), timeout=PATIENCE) as connection:
                connection.sendall(
                    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n{"
                )
    assert "Traceback" not in bridge.stderr()


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_two_bodies_with_one_id_are_told_apart(bridge: HttpBridge, era: str) -> None:
    """HTTP: posted at the same time, in one session, each gets its own answer."""
    with contextlib.closing(bridge.client(era=era)) as client, somebody_else(bridge):
        tags = ("a", "b")
        futures = [client.call("sleep", {"seconds": 0.4, "tag": tag})["structuredContent"]["future_id"] for tag in tags]

        def wait(future: str) -> tuple[int, list[Json]]:
            message = request("tools/call", name="await_future", arguments={"future_id": future})
            message["id"] = 4711
            headers = {"Mcp-Protocol-Version": era}
            if client.session:
                headers["Mcp-Session-Id"] = client.session
            if era == MODERN:
                message = enveloped(message)
                headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "await_future"}
            status, _, messages = post(bridge, json.dumps(message).encode(), headers)
            return status, messages

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(wait, futures))
        for tag, (status, (answer,)) in zip(tags, answers, strict=True):
            assert (status, answer["id"]) == (200, 4711)
            assert text_of(answer["result"]) == f"slept 0.4 {tag}"
