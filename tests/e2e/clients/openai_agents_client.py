"""An agent of the OpenAI Agents SDK with a scripted model; prints what the model was shown as one JSON object.

Usage: python openai_agents_client.py (http URL | stdio COMMAND ARGS...)
Turn by turn: three calls at once; an `await_future` and a `gather` beside a tool that fails and one that breaks its own
schema; a tool slower than the five seconds that this SDK gives a call, awaited until it is there; the answer.
Runs in a virtual environment of its own, which has the SDK and nothing of ours.
"""

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

SLOW_S = 6.5


class Script(Model):
    """Says what is written here, whatever it is asked; keeps what it is shown."""

    def __init__(self) -> None:
        self.turn = 0
        self.calls = 0
        self.tools: list[str] = []
        self.taught = ""
        self.shown: list[list[str]] = []

    def call(self, name: str, **arguments: Any) -> ResponseFunctionToolCall:
        self.calls += 1
        return ResponseFunctionToolCall(
            type="function_call", name=name, arguments=json.dumps(arguments), call_id=f"c{self.calls}"
        )

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *_: Any, **__: Any
    ) -> ModelResponse:
        self.tools = [tool.name for tool in tools]
        self.taught = next((tool.description for tool in tools if tool.name == "await_future"), "")
        outputs = [item for item in input if isinstance(item, dict) and item.get("type") == "function_call_output"]
        shown = [words_of(item["output"]) for item in outputs][sum(map(len, self.shown)) :]
        if shown:
            self.shown.append(shown)
        self.turn += 1
        return ModelResponse(output=self.next(shown), usage=Usage(), response_id=None)

    def next(self, shown: list[str]) -> list[Any]:
        match self.turn:
            case 1:
                return [self.call("toy__sleep", seconds=0.5, tag=tag) for tag in "abc"]
            case 2:
                futures = [re.findall(r"\bf\d+\b", words)[0] for words in shown]
                return [
                    self.call("await_future", future_id=futures[0]),
                    self.call("gather", future_ids=futures),
                    self.call("toy__bad_schema", _wait="this"),
                    self.call("toy__fail", message="no luck", _wait="this"),
                ]
            case 3:
                return [self.call("toy__sleep", seconds=SLOW_S, tag="slow", _as="slow")]
            case _ if self.turn < 10 and not any(f"slept {SLOW_S} slow" in words for words in shown):
                return [self.call("await_future", future_id="slow")]
            case _:
                text = ResponseOutputText(type="output_text", text="done", annotations=[])
                return [
                    ResponseOutputMessage(id="m1", type="message", role="assistant", status="completed", content=[text])
                ]

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def words_of(output: Any) -> str:
    """What a tool's output looks like to the model."""
    return output if isinstance(output, str) else json.dumps(output)


async def main(kind: str, target: str, *args: str) -> None:
    """Run the agent once."""
    set_tracing_disabled(True)
    if kind == "stdio":
        server: Any = MCPServerStdio({"command": target, "args": list(args), "env": dict(os.environ)})
    else:
        server = MCPServerStreamableHttp({"url": target})
    async with server:
        with anyio.fail_after(15):
            while "toy__sleep" not in [tool.name for tool in await server.list_tools()]:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.05)
        script = Script()
        agent = Agent(name="scripted", model=script, mcp_servers=[server])
        result = await Runner.run(agent, "go", max_turns=12)
        print(
            json.dumps(
                {"tools": script.tools, "taught": script.taught, "shown": script.shown, "said": result.final_output}
            )
        )


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
