"""An agent of the OpenAI Agents SDK whose tools come through the bridge. Offline, with a scripted model.

    pip install openai-agents
    python examples/agents/openai_agents_sdk.py     from the clone, with asyncfc-mcp on the PATH

With a real model: `model="gpt-5"` in place of `model=ScriptedModel()`, and OPENAI_API_KEY in the environment. The class
`ScriptedModel` and `set_tracing_disabled` then go.
"""

import asyncio
import json
import os
import time
from typing import Any

from agents import Agent, Model, ModelResponse, RunHooks, Runner, Usage, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

FIRST_TURN: list[tuple[str, dict[str, Any]]] = [
    ("travel__search_flights", {"origin": "Berlin", "destination": "Lisbon", "_as": "flights"}),
    ("travel__search_hotels", {"city": "Lisbon", "_as": "hotels"}),
    ("travel__weather", {"city": "Lisbon", "_as": "sky"}),
    # The cheapest of the flights that the first call is still looking for, and a wait for everything.
    (
        "travel__hold_seat",
        {
            "flight_id": "$flights.flights | min_by(@, &price).id",
            "_as": "seat",
            "_wait": "flights, hotels, sky, seat",
        },
    ),
]


class ScriptedModel(Model):
    """Makes the calls of one turn, looks at how long they ran, and answers."""

    def __init__(self) -> None:
        self.turns = [FIRST_TURN, [("list_futures", {})]]

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        if not self.turns:
            text = ResponseOutputText(type="output_text", text="A seat on the cheapest flight is held.", annotations=[])
            message = ResponseOutputMessage(
                id="m", type="message", role="assistant", status="completed", content=[text]
            )
            return ModelResponse(output=[message], usage=Usage(), response_id=None)
        calls = [
            ResponseFunctionToolCall(type="function_call", name=name, arguments=json.dumps(arguments), call_id=name)
            for name, arguments in self.turns.pop(0)
        ]
        return ModelResponse(output=[*calls], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class TimeLine(RunHooks):
    """Prints what happens, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def tell(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:5.1f} s  {what}", flush=True)

    async def on_llm_start(self, *_: Any) -> None:
        self.tell("model")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.tell(f"→ {tool.name}")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        texts = [block["text"] for block in (result if isinstance(result, list) else [result])]
        self.tell(f"← {tool.name}\n" + "\n".join(f"           {line}" for line in "\n".join(texts).splitlines()))


async def main() -> None:
    set_tracing_disabled(True)
    bridge = MCPServerStdio(
        params={
            "command": "asyncfc-mcp",
            "args": ["serve", "--config", "examples/config.json"],
            "env": dict(os.environ),
        },
        client_session_timeout_seconds=60,  # the default of 5 s ends a call before a slow tool has answered
        cache_tools_list=True,
    )
    async with bridge:
        agent = Agent(name="travel agent", model=ScriptedModel(), mcp_servers=[bridge])
        result = await Runner.run(agent, "Hold a seat on the cheapest flight to Lisbon.", hooks=TimeLine())
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
