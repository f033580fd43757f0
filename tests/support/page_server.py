"""A stand-in for the bridge's HTTP side of the page: static files, and an API over calls that a test has made up.

Owns as much of the API as the page uses, with the shapes of `monitor`. It serves what no real bridge would have at the
start of a test: ten thousand calls, or names that attack the page. What the real routes answer is tested elsewhere.

    python tests/support/page_server.py [N]    serves N made-up calls until Ctrl-C
"""

from __future__ import annotations

import contextlib
import json
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPO = Path(__file__).resolve().parents[2]
STATIC = REPO / "asyncfc_mcp" / "transports" / "http" / "page" / "static"
FIRST = 2_000
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Json = dict[str, Any]


class PageServer:
    """Calls, an overview, and whoever reads them. With a token, the API wants it.

    Args:
        token: what the API accepts; None: anything.
    """

    def __init__(self, calls: Sequence[Json] = (), *, token: str | None = None) -> None:
        self.calls: dict[str, Json] = {each["id"]: each for each in calls}
        self.values: dict[str, Json] = {}
        """ID → `arguments`, `result`, `hidden` of the call."""
        self.token, self.keys = token, {"one-time-key"}
        self.cancelled: list[str] = []
        self.asked: list[str] = []
        """Paths of the API that were asked for, with their queries."""
        self.servers: list[Json] = []
        self.down = False
        """Answer nothing, as a bridge that has ended."""
        self.started = time.time()
        self._readers: list[queue.Queue[tuple[str, Any] | None]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/"

    def put(self, *calls: Json) -> None:
        """Add or change calls, and report them to readers."""
        for each in calls:
            self.calls[each["id"]] = each
        self._send("calls", {"reset": False, "entries": list(calls)})
        self._send("overview", self.overview())

    def interrupt(self, *, down: bool) -> None:
        """End all streams; `down` refuses new ones."""
        self.down = down
        for each in self._readers:
            each.put(None)

    def overview(self) -> Json:
        """The overview at this moment."""
        states = [each["state"] for each in self.calls.values()]
        done = sum(state == "completed" for state in states)
        return {
            "version": "0.1.0",
            "pid": 4711,
            "since": self.started,
            "now": time.time(),
            "transport": "http",
            "configuration": "/home/user/.config/asyncfc/mcp.json",
            "problem": None,
            "servers": self.servers or [_server(name) for name in sorted({e["server"] for e in self.calls.values()})],
            "settings": [
                {"name": "max_concurrency", "value": 4, "default": None, "changed": True},
                {"name": "grace_ms", "value": 200, "default": 200, "changed": False},
            ],
            "saved": {
                "session": done * 3.4,
                "day": done * 9.1,
                "all": done * 30.0,
                "calls": {"session": done, "day": done * 3, "all": done * 9},
            },
            "counts": {name: states.count(name) for name in ("waiting", "running", "input_required")},
            "journal": {"path": "/home/user/.local/state/asyncfc/journal.sqlite", "bytes": 1_480_000},
        }

    def _send(self, event: str, data: Any) -> None:
        for each in self._readers:
            each.put((event, data))

    def _newest(self) -> list[Json]:
        return sorted(self.calls.values(), key=lambda each: -int(each["id"][1:]))

    def _query(self, words: dict[str, list[str]]) -> Json:
        found = self._newest()
        if before := words.get("before"):
            found = [each for each in found if int(each["id"][1:]) < int(before[0][1:])]
        for word in ("server", "tool", "state"):
            if wanted := words.get(word):
                found = [each for each in found if each[word] in wanted]
        if text := words.get("text", [""])[0].casefold():
            found = [each for each in found if text in json.dumps([each, self.values.get(each["id"])]).casefold()]
        limit = int(words.get("limit", ["100"])[0])
        return {"calls": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        page = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                name = parts.path.removeprefix("/page/") if parts.path != "/" else "index.html"
                if not name.startswith("api/"):
                    return self._static(name)
                operation = unquote(name.removeprefix("api/"))
                page.asked.append(f"{operation}?{parts.query}")
                if page.down:
                    return self._json(503, {"error": "the bridge is ending"})
                if not self._is_admitted():
                    return self._json(401, {"error": "this page needs a token"})
                words = parse_qs(parts.query)
                if operation == "events":
                    return self._events()
                if operation == "overview":
                    return self._json(200, page.overview())
                if operation == "calls":
                    return self._json(200, page._query(words))
                if operation == "export":
                    lines = "".join(
                        json.dumps(each) + "\n" for each in page._query(words | {"limit": ["9999"]})["calls"]
                    )
                    return self._respond(200, "application/jsonl", lines.encode())
                future_id = operation.removeprefix("calls/")
                if future_id not in page.calls:
                    return self._json(404, {"error": f"there is no call {future_id}"})
                self._json(200, page.calls[future_id] | page.values.get(future_id, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                operation = self.path.removeprefix("/page/api/")
                if operation == "enter":
                    if body.get("key") not in page.keys:
                        return self._json(401, {"error": "this key was used"})
                    page.keys.discard(body["key"])
                    return self._json(200, {"token": f"page-{page.token}"})
                if not self._is_admitted():
                    return self._json(401, {"error": "this token is not accepted"})
                if operation == "key":
                    page.keys.add("another-key")
                    return self._json(200, {"key": "another-key"})
                future_id = operation.removeprefix("calls/").removesuffix("/cancel")
                call = page.calls[future_id] | {"state": "cancelled", "ended_at": time.time(), "waiting_for": None}
                page.cancelled.append(future_id)
                page.put(call)
                self._json(200, call)

            def _is_admitted(self) -> bool:
                given = self.headers.get("authorization")
                return page.token is None or given in (f"Bearer {page.token}", f"Bearer page-{page.token}")

            def _static(self, name: str) -> None:
                file = STATIC / name
                if file.parent != STATIC or not file.is_file():
                    return self._json(404, {"error": name})
                self._respond(200, TYPES[file.suffix], file.read_bytes())

            def _events(self) -> None:
                mine: queue.Queue[tuple[str, Any] | None] = queue.Queue()
                page._readers.append(mine)
                newest = page._newest()
                mine.put(("calls", {"reset": True, "entries": newest[:FIRST], "older": len(newest) > FIRST}))
                mine.put(("overview", page.overview()))
                self.close_connection = True
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while (event := mine.get()) is not None:
                        self.wfile.write(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
                page._readers.remove(mine)

            def _json(self, status: int, body: Any) -> None:
                self._respond(status, "application/json", json.dumps(body).encode())

            def _respond(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-security-policy", POLICY)
                self.end_headers()
                self.wfile.write(body)

        return Handler


@contextlib.contextmanager
def page_server(calls: Sequence[Json] = (), **options: Any) -> Iterator[PageServer]:
    """Serve calls until the end of the block."""
    server = PageServer(calls, **options)
    thread = threading.Thread(target=server._http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.interrupt(down=True)
        server._http.shutdown()
        server._http.server_close()
        thread.join()


def _server(name: str) -> Json:
    return {"name": name, "status": "ready", "restarts": 0, "tools": 4, "sign_in": None, "stderr": [f"{name} is up"]}


TOOLS = {
    "web": ("search", "fetch", "screenshot"),
    "ci": ("run_tests", "lint", "build", "publish"),
    "files": ("read_file", "write_file", "list_directory"),
    "db": ("query", "migrate"),
}


def made_up_calls(n: int, *, now: float | None = None, seed: int = 1, alive: bool = True) -> list[Json]:
    """Calls of several conversations up to now, with all states and all kinds of waits.

    Args:
        alive: whether the newest ones have not ended.
    """
    rng = random.Random(seed)
    now = time.time() if now is None else now
    hosts = [("claude-code", "c-3f9a"), ("cursor", "c-71be"), ("codex", "c-aa02"), ("claude-code", "c-09d1")]
    calls: list[Json] = []
    pauses = [rng.expovariate(2) if number % 12 else rng.uniform(1, 6) for number in range(n)]
    at = now - sum(pauses) - 1
    for number, pause in enumerate(pauses, 1):
        at += pause
        host, conversation = hosts[min(3, number * 4 // (n + 1))]
        server = rng.choice(list(TOOLS))
        tool = rng.choice(TOOLS[server])
        call: Json = {
            "id": f"f{number}",
            "tool": f"{server}__{tool}",
            "server": server,
            "host": host,
            "conversation": conversation,
            "submitted_at": at,
            "scope": "local",
            "attempts": 1,
        }
        if rng.random() < 0.3:
            call["name"] = f"{tool}_{number}"
        start = at + 0.002
        if number > 3 and rng.random() < 0.35:
            other = calls[-rng.randint(1, 3)]
            kind = rng.choice(["value", "value", "after", "state", "capacity"])
            call["waits"] = [
                {"kind": kind, "on": other["id"], **({"path": "file:///data/notes"} if kind == "state" else {})}
            ]
            start = max(start, other.get("ended_at") or now + 9)
            if kind == "capacity":
                call["queued_at"] = at
        end = start + rng.lognormvariate(0.2, 0.9)
        state = rng.choices(["completed", "failed", "cancelled"], [90, 7, 3])[0]
        if alive and start > now:
            state = "waiting"
            call["waiting_for"] = {"ids": [call["waits"][0]["on"]], "why": "needs the result"}
        elif alive and end > now:
            state = rng.choice(["running", "running", "running", "input_required"])
            call["progress"] = {"done": 2, "total": 5, "message": "40 tests"} if state == "running" else None
            call["question"] = "Publish to production?" if state == "input_required" else None
        if state != "waiting":
            call["started_at"] = start
        if state in ("completed", "failed", "cancelled"):
            call["ended_at"] = end
        if state == "failed":
            call["failure"] = "exit status 1: 3 tests failed"
        calls.append(call | {"state": state})
    return calls


def main() -> None:
    with page_server(made_up_calls(int(sys.argv[1]) if len(sys.argv) > 1 else 300)) as server:
        print(server.url, flush=True)
        wait: Callable[[], bool] = threading.Event().wait
        with contextlib.suppress(KeyboardInterrupt):
            wait()


if __name__ == "__main__":
    main()
