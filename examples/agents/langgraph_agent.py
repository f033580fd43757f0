"""A LangGraph agent whose tools come through the bridge. Offline, with a scripted model.

    pip install langchain langgraph langchain-mcp-adapters
    python examples/agents/langgraph_agent.py     from the clone, with asyncfc-mcp on the PATH

With a real model: `create_agent("openai:gpt-5", tools)`, with `pip install langchain-openai` and OPENAI_API_KEY in the
environment. The class `ScriptedModel` and `SCRIPT` then go.
"""

import asyncio
import os
import time
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": name, "name": name, "args": arguments}


FIRST_TURN = [
    call("travel__search_flights", origin="Berlin", destination="Lisbon", _as="flights"),
    call("travel__search_hotels", city="Lisbon", _as="hotels"),
    call("travel__weather", city="Lisbon", _as="sky"),
    # The cheapest of the flights that the first call is still looking for, and a wait for everything.
    call(
        "travel__hold_seat",
        flight_id="$flights.flights | min_by(@, &price).id",
        _as="seat",
        _wait="flights, hotels, sky, seat",
    ),
]
SCRIPT = [
    AIMessage("", tool_calls=FIRST_TURN),
    AIMessage("", tool_calls=[call("list_futures")]),  # how long each of them ran
    AIMessage("A seat on the cheapest flight is held."),
]


class ScriptedModel(FakeMessagesListChatModel):
    """Says what SCRIPT says."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


async def main() -> None:
    bridge = MultiServerMCPClient(
        {
            "asyncfc": {
                "transport": "stdio",
                "command": "asyncfc-mcp",
                "args": ["serve", "--config", "examples/config.json"],
                "env": dict(os.environ),
            }
        }
    )
    # One session for all calls: `get_tools()` would start a bridge, with futures of its own, for each call.
    async with bridge.session("asyncfc") as session:
        agent = create_agent(ScriptedModel(responses=SCRIPT), await load_mcp_tools(session))
        question = {"messages": [("user", "Hold a seat on the cheapest flight to Lisbon.")]}
        began = time.monotonic()
        async for update in agent.astream(question, stream_mode="updates"):
            at = f"{time.monotonic() - began:5.1f} s"
            for step in update.values():
                for message in step["messages"]:
                    for made in getattr(message, "tool_calls", []):
                        print(f"{at}  → {made['name']}", flush=True)
                    if message.type == "tool":
                        print(f"{at}  ← {message.name}\n{message.text}", flush=True)
                    elif message.text:
                        print(message.text)


if __name__ == "__main__":
    asyncio.run(main())
