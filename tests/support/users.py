"""Clients with a user behind them, for what servers ask: in answers (2026-07-28) or live (handshake).

Owns answering questions on the wire in both ways, and starting `tests/support/asking_server.py` behind a bridge.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.support.client import HANDSHAKE, MODERN, Json, eventually, records, text_of
from tests.support.stage import REPO, Stage
from tests.support.stdio_client import Pending, Wire

SERVER = REPO / "tests" / "support" / "asking_server.py"
ASKS_ANYTHING: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
ENVELOPE = "io.modelcontextprotocol/clientCapabilities"
COMBINATIONS = list(itertools.product((MODERN, HANDSHAKE), ("modern", "handshake")))
"""The client's era and the server's."""
Reply = Callable[[str, Json], "Json | Refusal"]
"""Answers a question, given its method and parameters."""
Question = tuple[str, str]
"""Kind and text."""
_numbers = itertools.count(1)


class Refusal(Exception):
    """The JSON-RPC error with which a client answers a question."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.error: Json = {"code": code, "message": message}


def method_of(kind: str) -> str:
    """The method of a question."""
    return {"sampling": "sampling/createMessage", "roots": "roots/list"}.get(kind, "elicitation/create")


def heard(params: Json | None) -> Json:
    """What a user hears of a question: of several servers, the bridge says before it which one asks."""
    params = dict(params or {})
    if isinstance(params.get("message"), str):
        params["message"] = re.sub(r"^\[server [as] asks:\] ", "", params["message"], count=1)
    return params


def obliging(method: str, params: Json) -> Json:
    """The answer of a user who answers everything, such that one can see to what."""
    match method:
        case "elicitation/create" if params.get("mode") == "url":
            return {"action": "accept"}
        case "elicitation/create":
            return {"action": "accept", "content": {"name": f"re {params['message']}"}}
        case "sampling/createMessage":
            text = params["messages"][0]["content"]["text"]
            return {"role": "assistant", "content": {"type": "text", "text": f"re {text}"}, "model": "m"}
        case _:
            return {"roots": [{"uri": "file:///project"}]}


def answered(*questions: Question) -> list[Json]:
    """What the server is told by `obliging`, question by question."""
    params: dict[str, Callable[[str], Json]] = {
        "form": lambda text: {"message": text},
        "url": lambda text: {"mode": "url"},
        "sampling": lambda text: {"messages": [{"content": {"text": text}}]},
        "roots": lambda text: {},
    }
    return [obliging(method_of(kind), params[kind](text)) for kind, text in questions]


class User(Wire):
    """A stdio client with a user behind it, who answers what is asked in the way of the era."""

    capabilities: ClassVar[Json] = ASKS_ANYTHING
    reply: Reply | None = staticmethod(obliging)
    """None: the user does not answer, until `answer_all`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.asked: list[tuple[str, Json]] = []
        self.open_requests: dict[object, tuple[str, Json]] = {}
        self.withdrawn: list[object] = []
        super().__init__(*args, **options)

    def send(self, message: Json) -> None:
        params = message.get("params") or {}
        if message.get("method") == "initialize":
            params["capabilities"] = self.capabilities
        elif ENVELOPE in params.get("_meta", {}):
            params["_meta"][ENVELOPE] = self.capabilities
        super().send(message)

    def _receive(self, message: Json) -> None:
        method = message.get("method")
        if "id" not in message or method is None or method == "ping":
            if method == "notifications/cancelled":
                self.withdrawn.append(message["params"]["requestId"])
                self.open_requests.pop(message["params"]["requestId"], None)
            super()._receive(message)
            return
        self.asked.append((method, heard(message.get("params"))))
        self.open_requests[message["id"]] = self.asked[-1]
        if self.reply is not None:
            self.answer_all()

    def answer_all(self) -> None:
        """Answer what is open; the user is willing now."""
        for request_id, (method, params) in list(self.open_requests.items()):
            del self.open_requests[request_id]
            answer = (self.reply or obliging)(method, params)
            body = {"error": answer.error} if isinstance(answer, Refusal) else {"result": answer}
            self.send({"id": request_id, **body})

    # -- 2026-07-28: questions are answers, answers are calls

    def answers_to(self, result: Json) -> Json:
        """The parameters that answer an `InputRequiredResult`; the user is willing now."""
        given: Json = {}
        for key, question in result["inputRequests"].items():
            self.asked.append((question["method"], heard(question.get("params"))))
            given[key] = (self.reply or obliging)(*self.asked[-1])
        return {"inputResponses": given, "requestState": result["requestState"]}

    def start_dialog(self, tool: str, arguments: Json | None = None, **more: Any) -> Pending:
        """`start_call` with further parameters."""
        return self.start("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    def dialog(self, tool: str, arguments: Json | None = None, **more: Any) -> Json:
        """One call to its end, all questions on the way answered."""
        while True:
            result = self.start_dialog(tool, arguments, **more).result()
            if result.get("resultType") != "input_required":
                return result
            more = self.answers_to(result)

    # -- the tools

    def ask(self, *rounds: list[Question], **arguments: Any) -> str:
        """Have the server ask these questions, in the background; the ID of the future."""
        return records(self.call("ask", {"rounds": rounds, **arguments}))[0]["future_id"]

    def listed(self, future: str) -> Json:
        """What `list_futures` says of it."""
        (entry,) = [e for e in self.call("list_futures")["structuredContent"]["futures"] if e["future_id"] == future]
        return entry

    def wait_for_question(self, future: str) -> Json:
        """What `list_futures` says of it, once it says that input is required."""

        def asks() -> Json | None:
            entry = self.listed(future)
            return entry if entry["status"] == "input_required" else None

        return eventually(asks, f"{future} asks")


def said(result: Json) -> list[list[Json]]:
    """The answers that reached the server, by round."""
    assert not result.get("isError"), text_of(result)
    return json.loads(text_of(result).splitlines()[-1])["answers"]


class Bench:
    """An asking server behind a bridge, twice: `ask` in the background, `s__ask` in the way of `mode: "sync"`."""

    def __init__(self, stage: Stage, up: str, down: str, *, user: type[User] = User, **settings: Any) -> None:
        self.stage, self.up, self.down = stage, up, down
        self.log = stage.folder / f"{up}-{down}-{len(stage.wires)}.log"
        self.log.touch()
        servers = {
            "a": {**self.entry(), "asyncfc": {"prefix": ""}},
            "s": {**self.entry(), "asyncfc": {"prefix": "s__", "mode": "sync"}},
        }
        command = stage.command("serve", "--config", str(stage.config(servers, **settings)))
        stderr = stage.folder / f"{self.log.stem}.stderr"
        self.client = user(command, env=stage.env, cwd=stage.folder, stderr=stderr, era=up)
        stage.wires.append(self.client)
        self.client.open()
        self.client.wait_for_tools("ask", "s__ask")

    def entry(self) -> Json:
        """The server's entry in a configuration."""
        return asking(self.stage, self.log, self.down)

    def gate(self) -> Path:
        """A file that does not exist yet; calls with `until` wait for it."""
        return self.log.with_suffix(f".gate{next(_numbers)}")

    def events(self, what: str, label: str | None = None) -> list[Json]:
        """What the servers noted."""
        noted = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [e for e in noted if e["what"] == what and label in (None, e["label"])]

    def noted(self, what: str, label: str) -> Json:
        """The event, once it has happened."""
        return eventually(lambda: self.events(what, label), f"the server notes {what} of {label}")[0]


def asking(stage: Stage, log: Path, era: str) -> Json:
    """The configuration entry of an asking server."""
    options = ["--handshake-only"] if era == "handshake" else []
    return stage.entry(sys.executable, str(SERVER), "--mark", stage.mark, "--log", str(log), *options)
