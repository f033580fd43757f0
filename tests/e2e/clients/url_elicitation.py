"""A client on the Python SDK that opens the pages it is asked to open; prints what it was asked and what it got.

Usage: python url_elicitation.py (auto | legacy) TOOL COMMAND ARGS...
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from anyio import to_thread
from mcp import Client, StdioServerParameters

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.browser import Browser

CALLS = 3


async def main(mode: str, tool: str, command: str, *args: str) -> None:
    """Make a few calls at once, which need one sign-in."""
    asked: list[dict[str, Any]] = []

    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.model_dump(mode="json", by_alias=True, exclude_none=True))
        if params.mode != "url":
            return types.ElicitResult(action="cancel")
        status, page = await to_thread.run_sync(Browser().finish, params.url)
        assert status == 200, page
        return types.ElicitResult(action="accept")

    server = StdioServerParameters(command=command, args=[*args], env=dict(os.environ))
    async with Client(server, mode=mode, cache=None, elicitation_callback=answer) as client:
        texts = [""] * CALLS

        async def call(n: int) -> None:
            result = await client.call_tool(tool, {"text": f"hi {n}", "_wait": "this"})
            record = (result.meta or {}).get("asyncfc/futures")
            while record and record[0]["status"] not in ("completed", "failed", "cancelled"):
                result = await client.call_tool("await_future", {"future_id": record[0]["future_id"]})
                record = (result.meta or {}).get("asyncfc/futures")
            texts[n] = "\n".join(block.text for block in result.content if block.type == "text")

        with anyio.fail_after(30):
            names: set[str] = set()
            while tool not in names:
                names = {each.name for each in (await client.list_tools()).tools}
                await anyio.sleep(0.05)
        with anyio.fail_after(45):
            async with anyio.create_task_group() as tg:
                for n in range(CALLS):
                    tg.start_soon(call, n)
    print(json.dumps({"asked": asked, "texts": texts}))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
