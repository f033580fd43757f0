"""An agent of pydantic-ai with a `FunctionModel`; prints what the model was shown as one JSON object.

Usage: python pydantic_ai_client.py (http URL | stdio COMMAND ARGS...)
Turn by turn: three calls at once; an `await_future` and a `gather` beside a tool that fails and one that breaks its own
schema; a chain of references sent in one turn; the answer.
Runs in a virtual environment of its own, which has pydantic-ai and nothing of ours.
"""

import json
import os
import re
import sys
from typing import Any

import anyio
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel


class Script:
    """Says what is written here, whatever it is asked; keeps what it is shown."""

    def __init__(self) -> None:
        self.turn = 0
        self.tools: list[str] = []
        self.taught: str | None = ""
        self.shown: list[list[str]] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.tools = [tool.name for tool in info.function_tools]
        self.taught = next((tool.description for tool in info.function_tools if tool.name == "await_future"), "")
        last = messages[-1]
        assert isinstance(last, ModelRequest)
        shown = [words_of(part.content) for part in last.parts if isinstance(part, ToolReturnPart | RetryPromptPart)]
        if shown:
            self.shown.append(shown)
        self.turn += 1
        return ModelResponse(parts=self.next(shown))

    def next(self, shown: list[str]) -> list[Any]:
        match self.turn:
            case 1:
                return [ToolCallPart("toy__sleep", {"seconds": 0.5, "tag": tag}) for tag in "abc"]
            case 2:
                futures = [re.findall(r"\bf\d+\b", words)[0] for words in shown]
                return [
                    ToolCallPart("await_future", {"future_id": futures[0]}),
                    ToolCallPart("gather", {"future_ids": futures}),
                    ToolCallPart("toy__bad_schema", {"_wait": "this"}),
                    ToolCallPart("toy__fail", {"message": "no luck", "_wait": "this"}),
                ]
            case 3:
                return [
                    ToolCallPart("toy__sleep", {"seconds": 0.1, "tag": "first", "_as": "first"}),
                    ToolCallPart("toy__echo", {"text": "${f:first} second", "_as": "second"}),
                    ToolCallPart("toy__echo", {"text": "$second.arguments.text", "_wait": "this"}),
                ]
            case _:
                return [TextPart("done")]


def words_of(content: Any) -> str:
    """What a tool's return looks like to the model."""
    return content if isinstance(content, str) else json.dumps(content, default=str)


async def main(kind: str, target: str, *args: str) -> None:
    """Run the agent once."""
    way: Any = target
    if kind == "stdio":
        way = StdioTransport(command=target, args=list(args), env=dict(os.environ))
    toolset = MCPToolset(way, cache_tools=False)
    script = Script()
    agent = Agent(FunctionModel(script), toolsets=[toolset])
    async with agent:
        with anyio.fail_after(15):
            while "toy__sleep" not in [tool.name for tool in await toolset.list_tools()]:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.05)
        result = await agent.run("go")
    print(json.dumps({"tools": script.tools, "taught": script.taught, "shown": script.shown, "said": result.output}))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
