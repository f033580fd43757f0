"""Clients that write all they want on standard input and close it: what was accepted is finished, within `drain_s`."""

import json
import os
import random
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, eventually, text_of
from tests.support.stage import Stage

NOTES = """
import json, os, sys, time
folder, start_s = sys.argv[2], float(sys.argv[3])
time.sleep(start_s)
TOOLS = [{"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False}}
         for name in ("note", "ask")]
seen = open(os.path.join(folder, "seen"), "a", buffering=1)
for line in sys.stdin:
    message = json.loads(line)
    method, params, result = message.get("method"), message.get("params") or {}, None
    if method == "notifications/cancelled":
        seen.write("cancelled\\n")
    if "id" not in message or method is None:
        continue
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "notes", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call" and params["name"] == "ask":
        question = {"message": "Go on?", "requestedSchema": {"type": "object", "properties": {}}}
        print(json.dumps({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": question}), flush=True)
        sys.stdin.readline()
        result = {"content": [{"type": "text", "text": "asked"}]}
    elif method == "tools/call":
        arguments = params.get("arguments") or {}
        seen.write("began\\n")
        if arguments.get("s", 0) > 100:
            continue
        time.sleep(arguments.get("s", 0))
        with open(os.path.join(folder, arguments["file"]), "a") as out:
            out.write(arguments["text"])
        result = {"content": [{"type": "text", "text": arguments["text"]}]}
    answer = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""
"""A server that appends to files, one call at a time; a call of more than 100 s is never answered."""


def hello(capabilities: Json | None = None) -> list[Json]:
    params = {
        "protocolVersion": HANDSHAKE,
        "capabilities": capabilities or {},
        "clientInfo": {"name": "one-shot", "version": "1"},
    }
    return [{"id": 0, "method": "initialize", "params": params}, {"method": "notifications/initialized"}]


def call(number: int, tool: str = "note", **arguments: Any) -> Json:
    return {"id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


def as_modern(message: Json) -> Json:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "one-shot", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {**message, "params": {**message.get("params", {}), "_meta": envelope}}


class OneShot:
    """A bridge over a server of notes, all of its input written before its end."""

    def __init__(self, stage: Stage, *, start_s: float = 0, mode: str = "future", **settings: Any) -> None:
        self._stage = stage
        entry = stage.entry(sys.executable, "-c", NOTES, stage.mark, str(stage.folder), str(start_s))
        entry["asyncfc"] = {"prefix": "", "mode": mode}
        self._config = stage.config({"notes": entry}, **settings)

    def start(self, messages: list[Json], *, end: str = "\n") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._stage.command("serve", "--config", str(self._config)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._stage.env,
            cwd=self._stage.folder,
        )
        self._stage.processes.append(process)
        assert process.stdin
        process.stdin.write(("\n".join(json.dumps({"jsonrpc": "2.0", **each}) for each in messages) + end).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, messages: list[Json], *, end: str = "\n") -> dict[Any, Json]:
        """Its answers by ID, after an end that was orderly."""
        process = self.start(messages, end=end)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        self._stage.assert_nothing_left()
        answers = [json.loads(line) for line in out.splitlines()]
        return {answer["id"]: answer.get("result", answer.get("error")) for answer in answers if "id" in answer}

    def text(self, name: str) -> str:
        path = self._stage.folder / name
        return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("mode", ["future", "sync"])
@pytest.mark.parametrize("start_s", [0, 1], ids=["quick start", "slow start"])
@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_write_that_was_accepted_happens(stage: Stage, era: str, start_s: float, mode: str) -> None:
    """Whether its answer is a handle or its result, and whether its server was up; the last line lacks its newline."""
    shot = OneShot(stage, start_s=start_s, mode=mode)
    request = call(1, s=0.3, file="a", text="done")
    messages = [*hello(), request] if era == HANDSHAKE else [as_modern(request)]
    answers = shot.run(messages, end="")
    assert shot.text("a") == "done"
    assert set(answers) == ({0, 1} if era == HANDSHAKE else {1})
    if mode == "sync":
        assert text_of(answers[1]) == "done"


def test_calls_that_wait_for_others_are_finished_too(stage: Stage) -> None:
    """For their turn, for a value, for a name that is not given yet; every answer is written."""
    shot = OneShot(stage)
    answers = shot.run(
        [
            *hello(),
            call(1, s=0.2, file="a", text="1"),
            call(2, s=0.2, file="a", text="2"),
            call(3, file="b", text="$later", _wait="this"),
            call(4, file="a", text="3", _as="later"),
            {"id": 5, "method": "tools/call", "params": {"name": "gather", "arguments": {"future_ids": ["f1", "f2"]}}},
            {"id": 6, "method": "tools/list"},
        ]
    )
    assert set(answers) == set(range(7))
    assert (shot.text("a"), shot.text("b")) == ("123", "3")
    assert "3" in text_of(answers[3])
    assert [each["result"] for each in answers[5]["structuredContent"]["results"]] == ["1", "2"]


def test_calls_that_come_before_their_tool_is_listed_keep_their_order(stage: Stage) -> None:
    """Also where they overtook each other on their way, as their IDs show."""
    shot = OneShot(stage, start_s=0.5)
    numbers = list(range(1, 16))
    random.Random(7).shuffle(numbers)
    shot.run([*hello(), *(call(number, file="a", text=f"{number:x}") for number in numbers)])
    assert shot.text("a") == "123456789abcdef"


def test_what_takes_too_long_is_cancelled_and_said(stage: Stage) -> None:
    """After `drain_s`: the server is told, the client that still reads is, and what waits behind never starts."""
    shot = OneShot(stage, drain_s=0.5)
    waiting = {"future_id": "f1"}
    answers = shot.run(
        [
            *hello(),
            call(1, s=1000, file="a", text="never"),
            call(2, file="a", text="never"),
            {"id": 3, "method": "tools/call", "params": {"name": "await_future", "arguments": waiting}},
        ]
    )
    assert shot.text("a") == ""
    assert "drain_s" in text_of(answers[3])
    assert shot.text("seen").splitlines() == ["began", "cancelled"]


def test_a_drain_of_no_time_ends_at_once(stage: Stage) -> None:
    shot = OneShot(stage, drain_s=0)
    shot.run([*hello(), call(1, s=1000, file="a", text="never")])
    assert shot.text("a") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_drain_at_once(stage: Stage, number: signal.Signals) -> None:
    shot = OneShot(stage, drain_s=3600)
    process = shot.start([*hello(), call(1, s=1000, file="a", text="never")])
    eventually(lambda: shot.text("seen"), "the call has begun")
    os.kill(process.pid, number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 128 + number, -number)
    stage.assert_nothing_left()


def test_a_question_that_nobody_can_answer_fails_its_call(stage: Stage) -> None:
    """The drain does not last as long as the question would be held."""
    shot = OneShot(stage, drain_s=3600)
    answers = shot.run([*hello({"elicitation": {}}), call(1, "ask", _wait="this"), call(2, file="a", text="next")])
    assert "Go on?" in text_of(answers[1])
    assert answers[1]["isError"]
    assert shot.text("a") == "next"


def test_a_stream_of_notifications_does_not_hold_the_end_up(stage: Stage) -> None:
    """`subscriptions/listen` lasts as long as its connection."""
    shot = OneShot(stage, drain_s=3600)
    listen = {"id": 1, "method": "subscriptions/listen", "params": {"notifications": {"toolsListChanged": True}}}
    answers = shot.run([as_modern(listen), as_modern(call(2, s=0.2, file="a", text="done"))])
    assert 2 in answers
    assert shot.text("a") == "done"


def test_calls_are_finished_where_nobody_reads_any_more(stage: Stage) -> None:
    """A host that is gone altogether leaves its writes to be done."""
    shot = OneShot(stage)
    process = shot.start([*hello(), *(call(n, s=0.1, file="a", text=str(n)) for n in range(1, 6))])
    assert process.stdout
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    assert shot.text("a") == "12345"
