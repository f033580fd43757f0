"""A server and a client that mean harm, and the pulse of a bridge that is being attacked.

As a program: an MCP server over stdio that lists and answers what a file says and floods as it is asked to. Owns
nothing of the bridge's code.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

Json = dict[str, Any]

GOAL_S = 0.1
"""The longest that anything may make everybody else wait."""
ROOM_S = 0.9
"""Head room for a machine that is busy with other tests."""


class Pulse:
    """Round trips of `ping`, one after another: the longest is the longest stall of the bridge's event loop.

    Time for which the bridge or this process was ready to run and had no processor is no stall, and does not count:
    on a busy machine it is longer than any bound. Time in which the bridge computes, blocks or is stopped does.
    """

    def __init__(self) -> None:
        self.trips: list[float] = []

    @property
    def longest(self) -> float:
        return max(self.trips)


def run_delay_s(*tasks: Path) -> float:
    """Seconds for which these threads were ready to run and had no processor; 0 where the system does not count it.

    Args:
        tasks: their folders in `/proc`; that of a process stands for its main thread.
    """
    total = 0
    for task in tasks:
        with suppress(OSError):  # the thread has ended, or there is no such file on this system
            total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9


def now_s(bridge: Path | None) -> float:
    """A clock that rests while the bridge's main thread or a thread of this process waits for a processor."""
    own = Path("/proc/self/task")
    threads = list(own.iterdir()) if own.exists() else []
    return time.monotonic() - run_delay_s(*threads, *([] if bridge is None else [bridge]))


@contextmanager
def pulse(wire: Any) -> Iterator[Pulse]:
    """Measure a bridge for as long as the block takes."""
    measured = Pulse()
    over = threading.Event()
    process = getattr(wire, "process", None)
    bridge = None if process is None else Path(f"/proc/{process.pid}")

    def beat() -> None:
        while not over.is_set() or not measured.trips:
            started = now_s(bridge)
            wire.request("ping")
            measured.trips.append(now_s(bridge) - started)
            time.sleep(0.002)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield measured
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive(), "ping is not answered any more"


def baseline(wire: Any, seconds: float = 0.5) -> float:
    """The longest round trip while nothing happens."""
    with pulse(wire) as measured:
        time.sleep(seconds)
    return measured.longest


def assert_steady(measured: Pulse, quiet_s: float, room_s: float = ROOM_S) -> None:
    """Hold a pulse to the goal, with room for noise: of the machine at rest, and of other tests."""
    bound = GOAL_S + room_s + 3 * quiet_s
    assert measured.longest < bound, f"{measured.longest:.3f} s without an answer (bound {bound:.3f} s)"


def post(host: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Post a body, whatever it is: status and answer."""
    connection = http.client.HTTPConnection(host, timeout=60)
    with closing(connection):
        accepted = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        connection.request("POST", path, body, accepted | headers)
        response = connection.getresponse()
        return response.status, response.read()


# --- the server ------------------------------------------------------------------------------------------------------


def listing(folder: Path, tools: list[Json], name: str = "tools.json") -> str:
    """Write the tools that a server is to list; the argument for it."""
    path = folder / name
    path.write_text(json.dumps(tools))
    return str(path)


def script(folder: Path, name: str, *, tools: list[Json] | None = None, **more: Any) -> str:
    """Write how a server behaves; the argument for it. It records the requests that it receives (see `received`).

    Args:
        more: `introduction` (members of its answer to `initialize`), `answers` (method, or name of a tool → result, or
            `{"error": …}`, "never" or "dies"), `modern` (it speaks 2026-07-28), `before` (the same → messages that
            it sends first; `$token` is the progress token), `stderr` (text written at the start).
    """
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"tools": tools or [], "received": str(path.with_suffix(".log")), **more}))
    return str(path)


def received(path: str) -> list[Json]:
    """The requests that a server with this script has received: their methods and parameters."""
    log = Path(path).with_suffix(".log")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def tool(name: str, schema: Json | None = None, **more: Any) -> Json:
    """A tool that echoes its arguments."""
    return {"name": name, "inputSchema": schema or {"type": "object"}, **more}


def write(message: Json) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


FLOODS = {
    "x": b"x\n",
    "utf8": b"\xff\xfe\n",
    "half": b'{"jsonrpc": "2.0", "method"\n',
    "blank": b"\n",
    "log": b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n',
    "unknown": b'{"jsonrpc":"2.0","method":"notifications/strange"}\n',
    "progress": b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}\n',
    "answer": b'{"jsonrpc":"2.0","id":999999,"result":{}}\n',
    "error": b'{"jsonrpc":"2.0","id":"no","error":{"code":1,"message":"x"}}\n',
    "changed": b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n',
    "ask": b'{"jsonrpc":"2.0","id":7,"method":"strange/request"}\n',
}


def flood(kind: str, seconds: float) -> None:
    """Write one line as fast as it goes; `stderr` writes lines of text there."""
    line, sink = (b"x\n", sys.stderr.buffer) if kind == "stderr" else (FLOODS[kind], sys.stdout.buffer)
    chunk = line * (16_384 // len(line))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sink.write(chunk)
        sink.flush()


def raw(data: str, number: object) -> bytes:
    """Bytes as Latin-1, with an ID in place of `%ID%`."""
    return data.encode("latin-1").replace(b"%ID%", str(number).encode())


def write_raw(arguments: Json, number: object) -> None:
    """Write bytes: `data`, so many to fill it up, `tail`; then stop without a line end if asked to."""
    sys.stdout.buffer.write(raw(arguments["data"], number))
    piece = arguments.get("piece", "0").encode()
    piece *= 65536 // len(piece)
    for _ in range(arguments.get("fill", 0) // len(piece)):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.write(raw(arguments.get("tail", ""), number))
    if arguments.get("stop"):
        sys.stdout.buffer.flush()
        time.sleep(600)
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def deafen(arguments: Json, number: object) -> None:
    """Read nothing more; close the input or leave it open, answer the call before or not."""
    if arguments["answers"]:
        write({"id": number, "result": {"content": [], "structuredContent": {"heard": True}}})
    if arguments["closes"]:
        os.close(0)
    time.sleep(600)


def work(arguments: Json) -> None:
    """Read nothing for so long, as a server does whose loop a call blocks: `spin`, `talk` on stderr, or wait."""
    if arguments.get("closes"):
        os.close(0)
    until = time.monotonic() + arguments["seconds"]
    while time.monotonic() < until:
        if arguments["how"] == "talk":
            print("still at it", file=sys.stderr, flush=True)
        if arguments["how"] != "spin":
            time.sleep(0.05)


def main(path: str) -> None:
    """Serve the tools or the script in a file; `flood` floods, `raw` writes what it is given in place of an answer, and
    other tools give their arguments back unless the script says more."""
    loaded: Any = json.loads(Path(path).read_text())
    play: Json = loaded if isinstance(loaded, dict) else {}
    answers: Json = play.get("answers", {})
    sys.stderr.write(play.get("stderr", ""))
    sys.stderr.flush()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        params = message.get("params", {})
        if "received" in play:
            with Path(play["received"]).open("a") as log:
                log.write(json.dumps({"method": message["method"], "params": params}) + "\n")
        about = params.get("name") if message["method"] == "tools/call" else message["method"]
        for each in play.get("before", {}).get(about, []):
            token = json.dumps(params.get("_meta", {}).get("progressToken"))
            write(json.loads(json.dumps(each).replace('"$token"', token)))
        if about in answers:
            found = answers[about]
            if found == "never":
                continue
            if found == "dies":
                sys.exit(3)
            write({"id": message["id"], **(found if "error" in found else {"result": found})})
            continue
        match message["method"]:
            case "initialize":
                result: Json = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {"listChanged": True}, "logging": {}},
                    "serverInfo": {"name": "hostile", "version": "1"},
                    **play.get("introduction", {}),
                }
            case "tools/list":
                # Read anew: a listing may change while the server runs.
                result = {"tools": play["tools"] if "tools" in play else json.loads(Path(path).read_text())}
            case "tools/call":
                arguments = params.get("arguments", {})
                if params["name"] == "flood":
                    flood(arguments["kind"], arguments["seconds"])
                if params["name"] == "tell_of_changes":
                    write({"method": "notifications/tools/list_changed"})
                if params["name"] == "deaf":
                    deafen(arguments, message["id"])
                if params["name"] == "work":
                    work(arguments)
                if params["name"] == "raw":
                    write_raw(arguments, message["id"])
                    if not arguments.get("answer"):
                        continue
                if params["name"] == "many":
                    arguments = {"a": [[]] * arguments["count"]}
                result = {"content": [], "structuredContent": arguments}
            case "ping":
                result = {}
            case "server/discover" if play.get("modern"):
                result = {
                    "resultType": "complete",
                    "supportedVersions": ["2026-07-28"],
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": "hostile", "version": "1"},
                }
            case "subscriptions/listen" if play.get("modern"):
                meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
                told = {"notifications": params["notifications"], "_meta": meta}
                write({"method": "notifications/subscriptions/acknowledged", "params": told})
                continue
            case _:
                write({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
                continue
        write({"id": message["id"], "result": result})


if __name__ == "__main__":
    main(sys.argv[1])
