"""A downstream MCP server for the tests of what is not a plain tool call, in either protocol era.

    python tests/support/protocol_server.py (handshake | modern) [options]

It subscribes, notifies, logs, completes, asks and makes tasks of calls, each in the way of its era, and remembers
every message that it was sent. Like the raw toy that it extends it uses no SDK.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import process_servers as toys
from tests.support.process_servers import Json, RawToy, RpcFailure, schema, text_result

MODERN = "2026-07-28"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
RELATED = "io.modelcontextprotocol/related-task"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
EXTENSION = "io.modelcontextprotocol/tasks"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
CACHEABLE = ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read")
STAMP = "2026-07-28T00:00:00Z"

OWN_TOOLS: list[Json] = [
    {"name": "heard", "description": "What it was sent.", "inputSchema": schema(["method"], method="string")},
    {"name": "meta", "description": "The _meta of this call.", "inputSchema": schema()},
    {"name": "log", "description": "Logs.", "inputSchema": schema(text="string", levels="array", count="integer")},
    {"name": "touch", "description": "A resource changes.", "inputSchema": schema(["uri"], uri="string")},
    {"name": "add", "description": "A list changes.", "inputSchema": schema(["kind", "name"], kind="string")},
    {
        "name": "job",
        "description": "Becomes a task.",
        "inputSchema": schema(seconds="number", say="string", ask="string", outcome="string"),
        "execution": {"taskSupport": "required"},
    },
]


class Job:
    """One task: what the arguments of its call say will happen."""

    def __init__(self, number: int, arguments: Json) -> None:
        self.id = f"job-{number}"
        self.arguments = arguments
        self.status = "working"
        self.answer: Json | None = None
        self.waiting: list[object] = []
        """Requests for the result (2025-11-25)."""

    def core(self, *, modern: bool) -> Json:
        """What both revisions say of a task."""
        core: Json = {"taskId": self.id, "status": self.status, "createdAt": STAMP, "lastUpdatedAt": STAMP}
        if "say" in self.arguments:
            core["statusMessage"] = self.arguments["say"]
        return core | ({"ttlMs": None, "pollIntervalMs": 50} if modern else {"ttl": None, "pollInterval": 50})

    @property
    def question(self) -> Json:
        """What it asks."""
        properties = {"word": {"type": "string"}}
        form = {"type": "object", "properties": properties, "required": ["word"]}
        return {"mode": "form", "message": self.arguments["ask"], "requestedSchema": form}

    @property
    def result(self) -> Json:
        """What came of it."""
        word = ((self.answer or {}).get("content") or {}).get("word", "nothing")
        failed = self.arguments.get("outcome") == "is_error"
        return text_result(f"{self.id} done, told {word}", isError=failed, _meta={"toy.example/job": self.id})

    @property
    def error(self) -> Json:
        """Why nothing came of it."""
        return {"code": -32055, "message": "the job broke", "data": {"job": self.id}}


class ProtocolToy(RawToy):
    """The raw toy, with everything that is not a plain tool call."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.modern: bool = self.options.era == "modern"
        self.tools += OWN_TOOLS
        self.tools += [
            {"name": f"extra_{n}", "description": "One of many.", "inputSchema": schema(text="string")}
            for n in range(self.options.extra_tools)
        ]
        self.prompts = list(toys.PROMPTS)
        self.resources = [
            *toys.resources_of(self.options.label),
            *({"uri": f"{self.options.label}://note/{n}", "name": f"note {n}"} for n in ("a", "ab")),
        ]
        self.heard: list[Json] = []
        self.metas: dict[object, Json] = {}
        self.subscribed: set[str] = set()
        self.streams: dict[object, Json] = {}
        """Open `subscriptions/listen` requests, with what each wants."""
        self.level = "info"
        self.jobs: dict[str, Job] = {}
        self.asked: dict[object, Job] = {}

    # -- in

    def receive(self, message: Json) -> None:
        self.heard.append(message)
        if "method" not in message and message.get("id") in self.asked:
            job = self.asked.pop(message["id"])
            self.go_on(job, message.get("result") or {"action": "cancel"})
        super().receive(message)

    def cancelled(self, params: Json) -> None:
        self.streams.pop(params.get("requestId"), None)
        super().cancelled(params)

    def handle(self, request_id: object, method: str, params: Json) -> Json | None:
        self.metas[request_id] = params.get("_meta") or {}
        result = self.respond(request_id, method, params)
        if result is None or not self.modern:
            return result
        hints = {"ttlMs": 5000, "cacheScope": "public"} if method in CACHEABLE else {}
        return {"resultType": "complete", **hints, **result}

    def respond(self, request_id: object, method: str, params: Json) -> Json | None:
        """The result of a request, without the envelope of its era."""
        if self.modern:
            match method:
                case "server/discover":
                    return {
                        "supportedVersions": [MODERN],
                        "capabilities": {**self.capabilities(), "extensions": {EXTENSION: {}}},
                        "instructions": "A toy.",
                    }
                case "initialize":
                    raise RpcFailure(-32022, "Unsupported protocol version", {"supported": [MODERN]})
                case "subscriptions/listen":
                    self.listen(request_id, params["notifications"])
                    return None
                case "tasks/update":
                    job = self.job_of(params)
                    if job.status == "input_required":
                        self.go_on(job, params["inputResponses"]["word"])
                    return {}
                case "tasks/get":
                    return self.detailed(self.job_of(params))
                case "tasks/cancel":
                    self.job_of(params).status = "cancelled"
                    return {}
                case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
                    raise RpcFailure(-32601, f"Method not found: {method}")
                case _:
                    pass
        else:
            match method:
                case "initialize":
                    opening = super().handle(request_id, method, params)
                    assert opening is not None
                    tasks = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
                    return {**opening, "capabilities": {**self.capabilities(), "tasks": tasks}}
                case "logging/setLevel":
                    self.level = params["level"]
                    return {}
                case "resources/subscribe":
                    if params["uri"].endswith("/forbidden"):
                        raise RpcFailure(-32055, "that one is not to be watched")
                    self.subscribed.add(params["uri"])
                    return {}
                case "resources/unsubscribe":
                    self.subscribed.discard(params["uri"])
                    return None if self.options.never_unsubscribe else {}
                case "tasks/get":
                    return self.job_of(params).core(modern=False)
                case "tasks/cancel":
                    job = self.job_of(params)
                    job.status = "cancelled"
                    return job.core(modern=False)
                case "tasks/result":
                    self.hand_out(self.job_of(params), request_id)
                    return None
                case _:
                    pass
        match method:
            case "prompts/list":
                return self.page("prompts", self.prompts, params)
            case "resources/list":
                return self.page("resources", self.resources, params)
            case "resources/read" if str(params.get("uri")).endswith("/never"):
                self.running[request_id] = toys.Call(request_id, "resources/read", {})
                return None
            case "completion/complete" if params.get("context"):
                known = ", ".join(f"{k}={v}" for k, v in params["context"]["arguments"].items())
                return {"completion": {"values": [f"{params['ref'].get('name')} knowing {known}"]}}
            case _:
                return super().handle(request_id, method, params)

    @staticmethod
    def capabilities() -> Json:
        """What both eras announce."""
        lists = {"listChanged": True}
        resources = {"subscribe": True, **lists}
        return {"tools": lists, "prompts": lists, "resources": resources, "completions": {}, "logging": {}}

    def call(self, request_id: object, params: Json) -> Json | None:
        arguments = params.get("arguments") or {}
        match params.get("name"):
            case "heard":
                found = [each.get("params") for each in self.heard if each.get("method") == arguments["method"]]
                return text_result(f"heard {len(found)}", structuredContent={"heard": found, "pid": os.getpid()})
            case "meta":
                return text_result("see there", structuredContent={"meta": params.get("_meta")})
            case "log":
                for number in range(arguments.get("count", 1)):
                    for level in arguments.get("levels", ["info"]):
                        self.log(request_id, level, f"{arguments.get('text', 'said')} {number}")
                return text_result("logged")
            case "touch":
                return text_result(f"told {self.touch(arguments['uri'])}")
            case "add":
                self.add(arguments["kind"], arguments["name"])
                return text_result("added")
            case "job":
                return self.create(params)
            case _:
                return super().call(request_id, params)

    # -- notifications

    def listen(self, request_id: object, wanted: Json) -> None:
        """Acknowledge a stream and keep it open."""
        self.streams[request_id] = wanted
        self.notify_stream(request_id, "notifications/subscriptions/acknowledged", {"notifications": wanted})

    def notify_stream(self, request_id: object, method: str, params: Json) -> None:
        """Tell one stream."""
        self.write({"method": method, "params": {**params, "_meta": {SUBSCRIPTION: request_id}}})

    def touch(self, uri: str) -> int:
        """Tell those who subscribed; how many they were."""
        whole = uri.partition("#")[0]
        if not self.modern:
            if whole not in self.subscribed:
                return 0
            self.write({"method": "notifications/resources/updated", "params": {"uri": uri}})
            return 1
        streams = [each for each, wanted in self.streams.items() if whole in wanted.get("resourceSubscriptions", ())]
        for stream in streams:
            self.notify_stream(stream, "notifications/resources/updated", {"uri": uri})
        return len(streams)

    def add(self, kind: str, name: str) -> None:
        """Lengthen a list, and say so."""
        match kind:
            case "tools":
                self.tools.append({"name": name, "inputSchema": schema(text="string")})
            case "prompts":
                self.prompts.append({"name": name})
            case _:
                self.resources.append({"uri": f"{self.options.label}://{name}", "name": name})
        method = f"notifications/{kind}/list_changed"
        if not self.modern:
            self.write({"method": method})
        for stream, wanted in self.streams.items():
            if wanted.get(f"{kind}ListChanged"):
                self.notify_stream(stream, method, {})

    def log(self, request_id: object, level: str, text: str) -> None:
        """Log where this era lets it."""
        least = self.metas[request_id].get(LOG_LEVEL) if self.modern else self.level
        if least is not None and LEVELS.index(level) >= LEVELS.index(least):
            body = {"level": level, "logger": "toy", "data": text}
            self.write({"method": "notifications/message", "params": body})

    # -- tasks

    def create(self, params: Json) -> Json:
        """A call that becomes a task."""
        if self.modern:
            capabilities: Any = (params.get("_meta") or {}).get("io.modelcontextprotocol/clientCapabilities") or {}
            if EXTENSION not in (capabilities.get("extensions") or {}):
                raise RpcFailure(-32021, "Missing required client capability")
        elif "task" not in params:
            raise RpcFailure(-32601, "job can only be called as a task")
        job = Job(len(self.jobs) + 1, params.get("arguments") or {})
        self.jobs[job.id] = job
        self.later(job.arguments.get("seconds", 0.1), lambda: self.step(job))
        core = job.core(modern=self.modern)
        return {"resultType": "task", **core} if self.modern else {"task": core}

    def job_of(self, params: Json) -> Job:
        """The task that a request is about."""
        job = self.jobs.get(str(params.get("taskId")))
        if job is None:
            raise RpcFailure(-32602, "Task not found")
        return job

    def detailed(self, job: Job) -> Json:
        """A task with what its status brings (2026-07-28)."""
        more: Json = {}
        match job.status:
            case "completed":
                more["result"] = {"resultType": "complete", **job.result}
            case "failed":
                more["error"] = job.error
            case "input_required":
                more["inputRequests"] = {"word": {"method": "elicitation/create", "params": job.question}}
            case _:
                pass
        return {**job.core(modern=True), **more}

    def step(self, job: Job) -> None:
        """It asks, or ends."""
        if job.status != "working":
            return
        if "ask" in job.arguments and job.answer is None:
            job.status = "input_required"
            self.put(job)
            return
        outcome = job.arguments.get("outcome", "completed")
        job.status = "completed" if outcome == "is_error" else outcome
        waiting, job.waiting = job.waiting, []
        for request_id in waiting:
            self.hand_out(job, request_id)

    def put(self, job: Job) -> None:
        """Ask while somebody waits for the result (2025-11-25)."""
        if not self.modern and job.waiting and job not in self.asked.values():
            question_id = f"ask-{job.id}"
            self.asked[question_id] = job
            params = {**job.question, "_meta": {RELATED: {"taskId": job.id}}}
            self.write({"id": question_id, "method": "elicitation/create", "params": params})

    def go_on(self, job: Job, answer: Json) -> None:
        """It was answered."""
        job.answer, job.status = answer, "working"
        self.later(0.05, lambda: self.step(job))

    def hand_out(self, job: Job, request_id: object) -> None:
        """Answer `tasks/result`, now or when there is one."""
        if job.status in ("working", "input_required"):
            job.waiting.append(request_id)
            self.put(job)
        elif job.status == "completed":
            meta = {**job.result["_meta"], RELATED: {"taskId": job.id}}
            self.write({"id": request_id, "result": {**job.result, "_meta": meta}})
        else:
            self.write({"id": request_id, "error": job.error})


def main(argv: list[str]) -> None:
    """Run the toy until its client goes away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("era", choices=["handshake", "modern"])
    parser.add_argument("--label", default="toy", help="names the server and the scheme of its resource URIs")
    parser.add_argument("--mark", help="ignored; lets a test find this process in the process table")
    parser.add_argument("--extra-tools", type=int, default=0, metavar="N", help="N more tools")
    parser.add_argument("--wait-for", metavar="FILE", help="do nothing until FILE exists")
    parser.add_argument("--never-unsubscribe", action="store_true", help="resources/unsubscribe is never answered")
    options = parser.parse_args(argv)
    for flag in ("stderr_spam", "ignore_stdin_eof", "never_list"):
        setattr(options, flag, False)
    while options.wait_for and not os.path.exists(options.wait_for):
        time.sleep(0.05)
    ProtocolToy(options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
