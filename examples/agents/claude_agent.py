"""An agent of the Claude Agent SDK whose tools come through the bridge. Offline, with a scripted model.

    pip install claude-agent-sdk
    python examples/agents/claude_agent.py     from the clone, with asyncfc-mcp on the PATH

The SDK runs Claude Code, which it contains. Offline, an HTTP server in this file answers in place of the model.
With a real model: remove `ScriptedApi`, `offline` and its use in `env`, and set ANTHROPIC_API_KEY in the environment.
"""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ResultMessage,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
    query,
)

FIRST_TURN: list[tuple[str, dict[str, Any]]] = [
    ("travel__search_flights", {"origin": "Berlin", "destination": "Lisbon", "_as": "flights"}),
    ("travel__search_hotels", {"city": "Lisbon", "_as": "hotels"}),
    ("travel__weather", {"city": "Lisbon", "_as": "sky"}),
    # The cheapest of the flights that the first call is still looking for, and a wait for everything.
    ("travel__hold_seat", {"flight_id": "$flights.flights | min_by(@, &price).id", "_as": "seat", "_wait": "all"}),
]
SCRIPT = [FIRST_TURN, [("list_futures", {})]]


class ScriptedApi(BaseHTTPRequestHandler):
    """Answers requests to the Messages API: the calls of SCRIPT, turn by turn, then a sentence."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        blocks: list[dict[str, Any]] = [
            {"type": "tool_use", "id": f"toolu_{turn}_{number}", "name": f"mcp__asyncfc__{name}", "input": arguments}
            for number, (name, arguments) in enumerate(SCRIPT[turn] if turn < len(SCRIPT) else [])
        ]
        if not asked.get("tools") or not blocks:  # a request without tools is one of Claude Code's own, for a title
            blocks = [{"type": "text", "text": "A seat on the cheapest flight is held."}]
        reason = "tool_use" if blocks[0]["type"] == "tool_use" else "end_turn"
        message = {"id": f"msg_{turn}", "type": "message", "role": "assistant", "model": asked["model"], "content": []}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        self.send_response(200)
        if not asked.get("stream"):
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({**message, "content": blocks, "stop_reason": reason}).encode())
            return
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.event("message_start", message=message)
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                empty = {**block, "input": {}}
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            self.event("content_block_start", index=index, content_block=empty)
            self.event("content_block_delta", index=index, delta=delta)
            self.event("content_block_stop", index=index)
        self.event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 1})
        self.event("message_stop")

    def event(self, kind: str, **fields: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def offline() -> Iterator[dict[str, str]]:
    """Variables that send Claude Code to ScriptedApi, and keep it off the user's own settings."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScriptedApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        yield {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "ANTHROPIC_API_KEY": "offline",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CONFIG_DIR": folder,
        }
    server.shutdown()


async def main() -> None:
    with offline() as env:
        options = ClaudeAgentOptions(
            mcp_servers={
                "asyncfc": {
                    "type": "stdio",
                    "command": "asyncfc-mcp",
                    "args": ["serve", "--config", "examples/config.json"],
                    "env": dict(os.environ),
                }
            },
            allowed_tools=["mcp__asyncfc"],
            setting_sources=[],
            env=env,
        )
        began = time.monotonic()
        async for message in query(prompt="Hold a seat on the cheapest flight to Lisbon.", options=options):
            at = f"{time.monotonic() - began:5.1f} s"
            blocks = message.content if isinstance(message, AssistantMessage | UserMessage) else []
            for block in blocks:
                if isinstance(block, ToolUseBlock):
                    print(f"{at}  → {block.name}", flush=True)
                elif isinstance(block, ToolResultBlock):
                    texts = block.content if isinstance(block.content, list) else [{"text": block.content}]
                    print(f"{at}  ← " + "\n".join(str(each.get("text", "")) for each in texts), flush=True)
            if isinstance(message, ResultMessage):
                print(message.result)


if __name__ == "__main__":
    asyncio.run(main())
