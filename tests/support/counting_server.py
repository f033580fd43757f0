"""A stdio server that records every execution of a tool in a file before it answers, so that a test can count them.

    python tests/support/counting_server.py LOG [--modern] [--mark M]

LOG gets a JSON object a line, each appended with one `write`: `run` when a tool begins, `done` before it is answered,
`asked` when it asks, all with the tool, its argument `label`, and the process ID. The list that `append` changes lies
beside LOG and outlives the process. Standard library only; nothing of the bridge is imported.

Handshake era; with `--modern` the server speaks 2026-07-28, and asks with an `InputRequiredResult`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MODERN = "2026-07-28"
POLL_S = 0.005
FORM: Json = {"type": "object", "properties": {"name": {"type": "string"}}}
ODD = "NUL \x00, a lone surrogate \ud800, another one \udfff, a pair 🌍, U+2028 \u2028"
"""Text that is legal JSON, and that columns of databases and UTF-8 encoders refuse."""
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "until": {"type": "string", "description": "a file: the answer waits for it"},
        "n_bytes": {"type": "integer"},
        "text": {"type": "string"},
        "items": {"type": "array"},
    },
}
READ: Json = {"readOnlyHint": True}
TOOLS: dict[str, Json] = {
    "write": {},
    "read": READ,
    "idempotent": {"idempotentHint": True},
    "append": {"readOnlyHint": False},
    "items": READ,
    "big": READ,
    "odd": READ,
    "fail": {},
    "ask": {},
    "secret": {},
}


def big_text(n_bytes: int) -> str:
    """Text of exactly `n_bytes` in which a lost or doubled piece shows."""
    lines = (f"{n:015d}\n" for n in itertools.count())
    return "".join(itertools.islice(lines, n_bytes // 16 + 1))[:n_bytes]


class CountingServer:
    """One process of the server, in one thread: `select` with the gates that calls wait for.

    Args:
        log: where executions are recorded.
        modern: speak 2026-07-28.
    """

    def __init__(self, log: Path, *, modern: bool) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._items = log.with_suffix(".items")
        self._modern = modern
        self._held: list[tuple[Path, Callable[[], None]]] = []
        self._asked: dict[object, Callable[[Json], None]] = {}

    def run(self) -> None:
        """Serve until stdin ends. Calls that still wait for a gate are not answered."""
        buffer = b""
        while True:
            readable, _, _ = select.select([0], [], [], POLL_S if self._held else None)
            if readable:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._receive(json.loads(line))
            open_, self._held = [e for e in self._held if e[0].exists()], [e for e in self._held if not e[0].exists()]
            for _, go_on in open_:
                go_on()

    def _note(self, what: str, tool: str, label: str, **more: Any) -> None:
        line = json.dumps({"what": what, "tool": tool, "label": label, "pid": os.getpid(), **more})
        os.write(self._log, line.encode() + b"\n")

    @staticmethod
    def _write(message: Json) -> None:
        data = memoryview(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        while data:
            data = data[os.write(1, data) :]

    def _receive(self, message: Json) -> None:
        method, params = message.get("method"), message.get("params") or {}
        if method is None:
            if (answered := self._asked.pop(message["id"], None)) is not None:
                answered(message.get("result") or {"refused": message.get("error")})
            return
        if "id" not in message:
            return
        info = {"name": "counting", "version": "1"}
        result: Json | None = {}
        match method:
            case "server/discover" if self._modern:
                result = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "serverInfo": info}
            case "initialize" if not self._modern:
                version = params["protocolVersion"]
                result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            case "ping":
                pass
            case "tools/list":
                result = {"tools": [{"name": n, "inputSchema": SCHEMA, "annotations": a} for n, a in TOOLS.items()]}
            case "tools/call":
                self._call(message["id"], params)
                return
            case _:
                self._write({"id": message["id"], "error": {"code": -32601, "message": f"Method not found: {method}"}})
                return
        self._answer(message["id"], result)

    def _answer(self, request_id: object, result: Json) -> None:
        kind = {"resultType": "complete"} if self._modern else {}
        self._write({"id": request_id, "result": {**kind, **result}})

    def _call(self, request_id: object, params: Json) -> None:
        tool, arguments = params["name"], params.get("arguments") or {}
        label = str(arguments.get("label", ""))

        def finish(answer: Json | None = None) -> None:
            result = self._result(tool, label, arguments, answer)
            self._note("done", tool, label)
            self._answer(request_id, result)

        if tool == "ask" and params.get("inputResponses") is None:
            self._note("asked", tool, label, arguments=arguments)
            self._ask(request_id, label, finish)
            return
        self._note("run", tool, label, arguments=arguments)
        if tool == "ask":
            finish(params["inputResponses"]["q"])
        elif (gate := arguments.get("until")) is not None:
            self._held.append((Path(gate), finish))
        else:
            finish()

    def _ask(self, request_id: object, label: str, finish: Callable[[Json], None]) -> None:
        question = {"method": "elicitation/create", "params": {"message": label, "requestedSchema": FORM}}
        if self._modern:
            asked = {"inputRequests": {"q": question}, "requestState": f"state of {label}"}
            self._write({"id": request_id, "result": {"resultType": "input_required", **asked}})
            return

        def answered(answer: Json) -> None:
            self._note("run", "ask", label, answer=answer)
            finish(answer)

        self._asked[f"q-{request_id}"] = answered
        self._write({"id": f"q-{request_id}", **question})

    def _result(self, tool: str, label: str, arguments: Json, answer: Json | None) -> Json:
        text = arguments.get("text", label)
        match tool:
            case "append":
                with self._items.open("a") as file:
                    file.write(json.dumps(text) + "\n")
            case "items":
                lines = self._items.read_text().splitlines() if self._items.exists() else []
                text = json.dumps([json.loads(line) for line in lines])
            case "big":
                text = big_text(arguments["n_bytes"])
            case "odd":
                text = ODD
            case "fail":
                return {"content": [{"type": "text", "text": f"{label} failed"}], "isError": True}
            case "ask":
                text = json.dumps(answer)
            case "secret":
                text = f"answer to {text}"
            case _:
                pass
        structured = {"label": label, "arguments": arguments, "process": os.getpid()}
        return {"content": [{"type": "text", "text": text}], "structuredContent": structured}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--modern", action="store_true")
    parser.add_argument("--mark", help="by which a test finds the process")
    options = parser.parse_args()
    CountingServer(options.log, modern=options.modern).run()


if __name__ == "__main__":
    main()
