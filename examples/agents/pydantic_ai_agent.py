"""An agent of pydantic-ai whose tools come through the bridge. Offline, with a scripted model.

    pip install 'pydantic-ai-slim[mcp]'
    python examples/agents/pydantic_ai_agent.py     from the clone, with asyncfc-mcp on the PATH

With a real model: `Agent("openai:gpt-5", …)` in place of `Agent(FunctionModel(script), …)`, and its key in the
environment. `script` and `FIRST_TURN` then go.
"""

import asyncio
import os
import time

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent, FunctionToolCallEvent, FunctionToolResultEvent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

FIRST_TURN = [
    ToolCallPart("travel__search_flights", {"origin": "Berlin", "destination": "Lisbon", "_as": "flights"}),
    ToolCallPart("travel__search_hotels", {"city": "Lisbon", "_as": "hotels"}),
    ToolCallPart("travel__weather", {"city": "Lisbon", "_as": "sky"}),
    # The cheapest of the flights that the first call is still looking for, and a wait for everything.
    ToolCallPart(
        "travel__hold_seat",
        {
            "flight_id": "$flights.flights | min_by(@, &price).id",
            "_as": "seat",
            "_wait": "flights, hotels, sky, seat",
        },
    ),
]


def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Makes the calls of one turn, looks at how long they ran, and answers."""
    match sum(isinstance(message, ModelResponse) for message in messages):
        case 0:
            return ModelResponse(parts=[*FIRST_TURN])
        case 1:
            return ModelResponse(parts=[ToolCallPart("list_futures", {})])
        case _:
            return ModelResponse(parts=[TextPart("A seat on the cheapest flight is held.")])


async def main() -> None:
    bridge = MCPToolset(
        StdioTransport(
            "asyncfc-mcp",
            ["serve", "--config", "examples/config.json"],
            env=dict(os.environ),
        )
    )
    agent = Agent(FunctionModel(script), toolsets=[bridge])
    async with agent, agent.iter("Hold a seat on the cheapest flight to Lisbon.") as run:
        began = time.monotonic()
        async for node in run:
            if not Agent.is_call_tools_node(node):
                continue
            async with node.stream(run.ctx) as events:
                async for event in events:
                    at = f"{time.monotonic() - began:5.1f} s"
                    if isinstance(event, FunctionToolCallEvent):
                        print(f"{at}  → {event.part.tool_name}", flush=True)
                    elif isinstance(event, FunctionToolResultEvent):
                        print(f"{at}  ← {event.part.tool_name}\n           {event.part.content}", flush=True)
    assert run.result is not None
    print(run.result.output)


if __name__ == "__main__":
    asyncio.run(main())
